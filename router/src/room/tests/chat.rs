//! Chat through rooms and lanes.

use super::*;
use async_trait::async_trait;
use billfish_state::{AppendedOnce, InboxAppend, InboxEntry, MessageClaim, Page, StateError, port::Inbox};
use bytes::Bytes;

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

/// A store that forgets, or a clock that steps, must not have it said twice by the owner that said it.
#[tokio::test(start_paused = true)]
async fn an_owner_knows_what_it_has_said_though_the_log_has_forgotten_and_the_clock_has_stepped() {
    let house = House::start().await;
    let room = house.open(ANCHOR).await;
    let mut gateway = house.gateway("g1");
    gateway.join(room, ALICE).await;
    let first = accepted(gateway.ask(ALICE, chat(room, "once", "m1")).await);
    let once = || house.handle.push_once(room_push(room, "once too"), "k1".to_owned());
    let second = once().await.unwrap().seq;
    house.state.room_log.remove(room).await.unwrap();
    house.state.clock.set(house.state.clock.now_ms() + 3_600_000);
    assert_eq!(accepted(gateway.ask(ALICE, chat(room, "once", "m1")).await), first);
    assert_eq!(once().await.unwrap().seq, second);
    assert_eq!(data(&gateway.push().await)["content"], "once");
    assert_eq!(body(&gateway.push().await).data, "once too");
    let rest = gateway.rest(Duration::from_secs(2)).await;
    assert!(!rest.iter().any(|kind| matches!(kind, Kind::RoomPush(push) if body(push).key.is_empty())), "{rest:?}");
}

#[tokio::test(start_paused = true)]
async fn unknown_business_codes_are_refused() {
    let house = House::start().await;
    let room = house.open(ANCHOR).await;
    let mut gateway = house.gateway("g1");
    gateway.join(room, ALICE).await;
    for biz_code in [0, 1, 5_562, i32::MAX] {
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

fn sync_inbox(from: &str, resume: bool) -> Call {
    Call::Sync(Sync { room_id: 0, from_seq: 0, from_id: from.to_owned(), resume })
}

fn ids(result: &reply::Result) -> (Vec<String>, bool) {
    let reply::Result::Synced(page) = result else { panic!("not synced: {result:?}") };
    let page: SyncPage = serde_json::from_str(&page.data).unwrap();
    (page.messages.into_iter().filter_map(|message| message.msg_id).collect(), page.gap)
}

fn route_of(user: i64, node: &str, epoch: u64) -> Route {
    Route { app: APP, user: UserId(user), device: WEB, node: node.to_owned(), epoch, session: user.unsigned_abs() }
}

#[tokio::test(start_paused = true)]
async fn a_message_to_one_user_is_kept_once_on_whatever_routers_it_is_sent_again() {
    let (records, state) = (Arc::new(TestRecords::default()), State::in_memory());
    let mut gateways = Vec::new();
    let houses = [House::with(|_| {}, records.clone(), state.clone()).await, House::with(|_| {}, records, state.clone()).await];
    for house in &houses {
        let gateway = house.gateway("g1");
        settle().await;
        gateways.push(gateway);
    }
    state.routes.bind(&[route_of(BOB, "g1", 1)], 0, u64::MAX).await.unwrap();
    let mut ids = Vec::new();
    for gateway in &mut gateways {
        // The text is the first one's: it went through the guards.
        let content = format!("text {}", ids.len());
        assert!(is_accepted(&gateway.ask(ALICE, whisper(BOB, &content, "m1")).await));
        let push = gateway.user_push().await.push.unwrap();
        assert!(push.data.contains("text 0"), "{}", push.data);
        ids.push(push.msg_id);
    }
    assert_eq!(ids[0], ids[1]);
    let now_ms = state.clock.now_ms();
    assert_eq!(state.inbox.read(APP, UserId(BOB), None, 10, now_ms).await.unwrap().entries.len(), 1);
    // Once he has acknowledged it there is nothing to push.
    state.inbox.ack(&[(APP, UserId(BOB), ids[0].clone())]).await.unwrap();
    assert!(is_accepted(&gateways[0].ask(ALICE, whisper(BOB, "text", "m1")).await));
    assert_eq!(gateways[0].rest(PATIENCE).await, []);
    // The same id to another is another message.
    assert!(is_accepted(&gateways[0].ask(ALICE, whisper(CAROL, "text", "m1")).await));
    assert_eq!(state.inbox.read(APP, UserId(CAROL), None, 10, now_ms).await.unwrap().entries.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_repeat_is_confirmed_when_its_sender_has_used_up_his_rate_and_a_new_message_is_refused() {
    let house = House::with(|config| config.chat.user_messages_max = 2, Arc::new(TestRecords::default()), State::in_memory()).await;
    let room = house.open(ANCHOR).await;
    let mut gateway = house.gateway("g1");
    gateway.join(room, ALICE).await;
    assert!(is_accepted(&gateway.ask(ALICE, whisper(BOB, "one", "w1")).await));
    assert!(is_accepted(&gateway.ask(ALICE, chat(room, "two", "m2")).await));
    for _ in 0..3 {
        assert!(is_accepted(&gateway.ask(ALICE, whisper(BOB, "one", "w1")).await));
        assert!(is_accepted(&gateway.ask(ALICE, chat(room, "two", "m2")).await));
    }
    assert_eq!(gateway.refusal(ALICE, whisper(BOB, "three", "w3")).await, Reason::RateLimited);
    assert_eq!(gateway.refusal(ALICE, chat(room, "three", "m3")).await, Reason::RateLimited);
    assert_eq!(gateway.refusal(ALICE, whisper(CAROL, "free?", "w1")).await, Reason::RateLimited, "good for one receiver");
}

#[tokio::test(start_paused = true)]
async fn messages_that_wait_together_are_decided_each_for_itself_and_keep_their_order() {
    let house = House::with(|config| config.chat.user_messages_max = 80, Arc::new(TestRecords::default()), State::in_memory()).await;
    let mut gateway = house.gateway("g1");
    settle().await;
    house.state.routes.bind(&[route_of(BOB, "g1", 1)], 0, u64::MAX).await.unwrap();
    // Forty of Alice's, each of them twice, which counts; one to herself, one without an id, one to somebody who is not there, one too many.
    let mut asked = Vec::new();
    for number in 0..40 {
        for _ in 0..2 {
            asked.push((true, gateway.call_from(ALICE, WEB, 1, whisper(BOB, &number.to_string(), &number.to_string())).await));
        }
    }
    asked.push((false, gateway.call_from(ALICE, WEB, 1, whisper(ALICE, "me", "me")).await));
    asked.push((true, gateway.call_from(CAROL, WEB, 1, whisper(BOB, "40", "")).await));
    asked.push((true, gateway.call_from(BOB, WEB, 1, whisper(CAROL, "later", "1")).await));
    asked.push((false, gateway.call_from(ALICE, WEB, 1, whisper(BOB, "too many", "41")).await));
    let (mut answers, mut pushed) = (std::collections::BTreeMap::new(), Vec::new());
    while answers.len() < asked.len() {
        let kind = gateway.next().await;
        if let Kind::Reply(reply) = kind {
            answers.insert(reply.id, is_accepted(&reply.result.unwrap()));
        } else if let Kind::UserPush(push) = kind {
            pushed.extend(push.push);
        }
    }
    assert!(asked.into_iter().all(|(is_taken, id)| answers[&id] == is_taken));
    let mut contents = Vec::new();
    let mut ids = std::collections::BTreeSet::new();
    for push in pushed {
        let content = serde_json::from_str::<Value>(&push.data).unwrap()["content"].as_str().unwrap().to_owned();
        if ids.insert(push.msg_id) {
            contents.push(content);
        }
    }
    assert_eq!(contents, (0..=40).map(|number| number.to_string()).collect::<Vec<_>>());
    let now_ms = house.state.clock.now_ms();
    let kept = house.state.inbox.read(APP, UserId(BOB), None, 100, now_ms).await.unwrap();
    let awaited = house.state.acks.pending(APP, UserId(BOB)).await.unwrap();
    let awaited: std::collections::BTreeSet<_> = awaited.into_iter().map(|pending| pending.msg_id).collect();
    assert_eq!(kept.entries.iter().map(|entry| entry.id.clone()).collect::<std::collections::BTreeSet<_>>(), ids);
    assert_eq!(awaited, ids, "each is awaited under the id that it got, and nothing else is");
    assert_eq!(house.state.acks.pending(APP, UserId(CAROL)).await.unwrap(), []);
}

/// An inbox into which something is put while its user logs in on one device more.
struct LateLogin(Arc<dyn Inbox>, State);

#[async_trait]
impl Inbox for LateLogin {
    async fn append(&self, app: AppId, users: &[UserId], id: &str, body: Bytes, now_ms: u64) -> Result<Vec<String>, StateError> {
        self.0.append(app, users, id, body, now_ms).await
    }

    async fn append_each(&self, appends: &[InboxAppend], now_ms: u64) -> Vec<Result<AppendedOnce, StateError>> {
        self.1.routes.bind(&[Route { device: DeviceKind::Ios, ..route_of(BOB, "g2", 1) }], 0, u64::MAX).await.unwrap();
        self.0.append_each(appends, now_ms).await
    }

    async fn taken(&self, app: AppId, user: UserId, claim: &MessageClaim, now_ms: u64) -> Result<Option<String>, StateError> {
        self.0.taken(app, user, claim, now_ms).await
    }

    async fn read(&self, app: AppId, user: UserId, after: Option<&str>, limit: usize, now_ms: u64) -> Result<Page<InboxEntry>, StateError> {
        self.0.read(app, user, after, limit, now_ms).await
    }

    async fn ack(&self, acked: &[(AppId, UserId, String)]) -> Result<(), StateError> {
        self.0.ack(acked).await
    }
}

/// Its LOGIN read the inbox before the message was there, and its route came after the router had looked.
#[tokio::test(start_paused = true)]
async fn a_device_that_logs_in_while_a_message_is_taken_is_pushed_to_as_well() {
    let state = State::in_memory();
    let late = State { inbox: Arc::new(LateLogin(Arc::clone(&state.inbox), state.clone())), ..state.clone() };
    let house = House::with(|_| {}, Arc::new(TestRecords::default()), late).await;
    let (mut first, mut second) = (house.gateway("g1"), house.gateway("g2"));
    settle().await;
    state.routes.bind(&[route_of(BOB, "g1", 1)], 0, u64::MAX).await.unwrap();
    assert!(is_accepted(&first.ask(ALICE, whisper(BOB, "both of you", "m1")).await));
    let ids = [first.user_push().await.push.unwrap().msg_id, second.user_push().await.push.unwrap().msg_id];
    assert_eq!(ids[0], ids[1]);
}

#[tokio::test(start_paused = true)]
async fn a_delivery_to_a_user_is_recorded_where_it_is_made_and_nowhere_else() {
    let house = House::start().await;
    let mut gateway = house.gateway_life("g1", 2);
    settle().await;
    // Bob's route is of an earlier life of the gateway, Carol has none.
    house.state.routes.bind(&[route_of(ALICE, "g1", 2), route_of(BOB, "g1", 1)], 0, u64::MAX).await.unwrap();
    let pushed = house.handle.push(user_push(&[ALICE, BOB, CAROL], 1)).await.unwrap();
    assert_eq!(pushed.accepted, 3, "all have it in their inbox");
    let push = gateway.user_push().await;
    assert_eq!(push.user_ids, [ALICE]);
    let pending = house.state.acks.pending(APP, UserId(ALICE)).await.unwrap();
    assert_eq!((pending.len(), pending[0].msg_id.as_str(), pending[0].times_sent), (1, push.push.unwrap().msg_id.as_str(), 1));
    for user in [BOB, CAROL] {
        assert_eq!(house.state.acks.pending(APP, UserId(user)).await.unwrap(), []);
    }
    assert_eq!(house.metric(r#"router_link_dropped_total{class="event",reason="no_link"} "#), 1.0);
    assert_eq!(house.handle.push(user_push(&[ALICE, BOB, CAROL], 0)).await.unwrap().accepted, 1, "QoS 0 reaches who is there");
    let kick = |user| crate::handle::KickRequest { app: APP, user: UserId(user), device: None, message: String::new() };
    assert_eq!(house.handle.kick(kick(ALICE)).await.unwrap(), 1);
    assert_eq!(house.handle.kick(kick(BOB)).await.unwrap(), 0, "that session is gone");
}

#[tokio::test(start_paused = true)]
async fn who_resumes_gets_all_that_he_has_not_acknowledged_and_hears_of_a_gap_after_what_he_knows() {
    let house = House::start().await;
    let mut gateway = house.gateway("g1");
    let mut sent = Vec::new();
    for _ in 0..4 {
        sent.push(house.handle.push(user_push(&[BOB], 1)).await.unwrap().msg_id.unwrap());
        settle().await;
    }
    house.state.inbox.ack(&[(APP, UserId(BOB), sent[1].clone())]).await.unwrap();
    let resumed = ids(&gateway.ask(BOB, sync_inbox(&sent[2], true)).await);
    assert_eq!(resumed, (vec![sent[0].clone(), sent[2].clone(), sent[3].clone()], false));
    assert_eq!(ids(&gateway.ask(BOB, sync_inbox(&sent[2], false)).await), (vec![sent[3].clone()], false));
    assert_eq!(gateway.refusal(BOB, sync_inbox("nonsense", true)).await, Reason::Malformed);
    // More than an inbox holds.
    for _ in 0..600 {
        house.handle.push(user_push(&[BOB], 1)).await.unwrap();
    }
    assert!(ids(&gateway.ask(BOB, sync_inbox(&sent[2], true)).await).1, "some after that are lost");
}

#[tokio::test(start_paused = true)]
async fn who_says_nothing_of_what_he_knows_gets_his_inbox_pushed_before_he_is_answered() {
    let house = House::start().await;
    let mut gateway = house.gateway("g1");
    for index in 0..230 {
        assert!(is_accepted(&gateway.ask(20_100 + index, whisper(BOB, &index.to_string(), "")).await));
    }
    let session = 77;
    let id = gateway.call_from(BOB, WEB, session, Call::Redeliver(billfish_link::message::Redeliver {})).await;
    assert!(is_accepted(&gateway.answer(id).await));
    let mut contents = Vec::new();
    for kind in gateway.heard.drain(..) {
        let Kind::UserPush(push) = kind else { panic!("{kind:?}") };
        let message = push.push.unwrap();
        assert_eq!((push.user_ids.as_slice(), push.session, message.qos, message.class), (&[BOB][..], session, 1, 1));
        let data: Value = serde_json::from_str(&message.data).unwrap();
        contents.push((data["content"].as_str().unwrap().to_owned(), message.msg_id));
    }
    assert_eq!(
        contents.iter().map(|(content, _)| content.clone()).collect::<Vec<_>>(),
        (0..230).map(|n| n.to_string()).collect::<Vec<_>>()
    );
    let page = house.state.inbox.read(APP, UserId(BOB), None, 500, house.state.clock.now_ms()).await.unwrap();
    assert!(page.entries.iter().map(|entry| &entry.id).eq(contents.iter().map(|(_, id)| id)));
    assert_eq!(house.state.acks.pending(APP, UserId(BOB)).await.unwrap().len(), 230);
}
