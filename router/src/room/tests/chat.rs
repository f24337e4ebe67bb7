//! Chat through rooms and lanes.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_message_sent_again_is_accepted_and_said_once() {
    let house = House::start().await;
    let room = house.open(ANCHOR).await;
    let mut gateway = house.gateway("g1");
    gateway.join(room, ALICE).await;
    for _ in 0..3 {
        assert!(is_accepted(&gateway.ask(ALICE, chat(room, "once", "m1")).await));
    }
    gateway.join(room, BOB).await;
    assert!(is_accepted(&gateway.ask(BOB, chat(room, "another's", "m1")).await), "ids are the user's own");
    assert_eq!(data(&gateway.push().await)["content"], "once");
    assert_eq!(data(&gateway.push().await)["content"], "another's");
    assert_eq!(house.metric("router_dedup_hits_total "), 2.0);
}

#[tokio::test(start_paused = true)]
async fn unknown_business_codes_are_refused() {
    let house = House::start().await;
    let room = house.open(ANCHOR).await;
    let mut gateway = house.gateway("g1");
    gateway.join(room, ALICE).await;
    for biz_code in [0, 1, 5_561, i32::MAX] {
        let biz = Call::Biz(Biz { room_id: room.0, biz_code, data: "{}".to_owned(), msg_id: "m".to_owned() });
        assert_eq!(gateway.refusal(ALICE, biz).await, Reason::UnknownCode);
    }
}

#[tokio::test(start_paused = true)]
async fn chat_above_the_ceiling_carries_the_share_that_viewers_get() {
    let house = House::with(|config| config.chat.room_messages_per_s = 10, Arc::new(TestRecords::default()), State::in_memory()).await;
    let room = house.open(ANCHOR).await;
    let mut gateway = house.gateway("g1");
    gateway.join(room, ALICE).await;
    let mut shares = Vec::new();
    for index in 0..40 {
        assert!(is_accepted(&gateway.chat(room, ALICE, &index.to_string()).await));
        shares.push(gateway.push().await.keep_permille);
    }
    assert!(shares.contains(&1_000) && shares.iter().any(|&share| share <= 500), "{shares:?}");
    // Paid events pass untouched.
    house.say(room, "{}").await;
    assert_eq!(gateway.push().await.keep_permille, 1_000);
}

#[tokio::test(start_paused = true)]
async fn a_message_to_one_user_is_in_his_inbox_and_on_his_gateway_alone() {
    let house = House::start().await;
    let (mut one, mut two) = (house.gateway("g1"), house.gateway("g2"));
    settle().await;
    let routes = [(DeviceKind::Web, "g2"), (DeviceKind::Ios, "g2")].map(|(device, node)| Route {
        app: APP,
        user: UserId(BOB),
        device,
        node: node.to_owned(),
        epoch: 1,
        session: 1,
    });
    house.state.routes.bind(&routes, 0, u64::MAX).await.unwrap();
    house.handle.put_users(APP, vec![Profile { user: UserId(ALICE), name: "Alice".to_owned(), avatar: "a".to_owned() }]).await.unwrap();
    assert!(is_accepted(&one.ask(ALICE, whisper(BOB, "psst", "m1")).await));
    assert!(is_accepted(&one.ask(ALICE, whisper(BOB, "psst", "m1")).await), "again");
    let push = two.user_push().await;
    let message = push.push.unwrap();
    assert_eq!((push.user_ids, message.qos, message.class), (vec![BOB], 1, 1));
    assert_eq!(serde_json::from_str::<Value>(&message.data).unwrap()["senderName"], "Alice");
    let again = two.user_push().await.push.unwrap();
    assert_eq!(again, message, "as the first time: a client shows an id once");
    assert_eq!((one.rest(PATIENCE).await, two.rest(PATIENCE).await), (vec![], vec![]), "and to nobody else");
    let sync = |from: &str| Call::Sync(Sync { room_id: 0, from_seq: 0, from_id: from.to_owned(), resume: false });
    let reply::Result::Synced(page) = two.ask(BOB, sync("")).await else { panic!("not synced") };
    let page: SyncPage = serde_json::from_str(&page.data).unwrap();
    assert_eq!(page.messages.len(), 1);
    assert_eq!((page.messages[0].msg_id.as_deref(), page.messages[0].qos), (Some(message.msg_id.as_str()), Some(1)));
    let reply::Result::Synced(page) = two.ask(BOB, sync(&message.msg_id)).await else { panic!("not synced") };
    assert_eq!(serde_json::from_str::<SyncPage>(&page.data).unwrap().messages, []);
    assert_eq!(two.refusal(BOB, sync("nonsense")).await, Reason::Malformed);
}

#[tokio::test(start_paused = true)]
async fn two_equal_messages_in_one_millisecond_are_two_messages() {
    let house = House::start().await;
    let mut gateway = house.gateway("g1");
    for _ in 0..2 {
        assert!(is_accepted(&gateway.ask(ALICE, whisper(BOB, "hi", "")).await));
    }
    let page = house.state.inbox.read(APP, UserId(BOB), None, 10, 0).await.unwrap();
    assert_eq!(page.entries.len(), 2);
}
