//! Joining and leaving, order, and who counts as being here.

use super::*;
use proptest::prelude::{ProptestConfig, Strategy, prop, prop_oneof, proptest};
use std::collections::{BTreeMap, BTreeSet};

#[tokio::test(start_paused = true)]
async fn a_join_is_answered_before_every_push_that_follows_it() {
    let house = House::start().await;
    let room = house.open(ANCHOR).await;
    let mut gateway = house.gateway("g1");
    let before = house.say(room, "1").await;
    let joined = gateway.join(room, ALICE).await;
    assert!(gateway.heard.is_empty(), "{:?}", gateway.heard);
    assert_eq!((joined.room_id, joined.audience), (room.0, 1));
    assert!(joined.seq >= before);
    assert_eq!(snapshot(&joined).messages[0].data.as_deref(), Some("1"));
    let after = house.say(room, "2").await;
    let push = gateway.push().await;
    assert_eq!((body(&push).seq, body(&push).data.as_str()), (after, "2"));
    assert!(after > joined.seq);
}

#[tokio::test(start_paused = true)]
async fn chat_reaches_every_interested_gateway_once_and_leaves_its_sender_out() {
    let house = House::start().await;
    let room = house.open(ANCHOR).await;
    let (mut one, mut two, mut other) = (house.gateway("g1"), house.gateway("g2"), house.gateway("g3"));
    one.join(room, ALICE).await;
    one.join(room, CAROL).await;
    two.join(room, BOB).await;
    assert!(is_accepted(&one.chat(room, ALICE, " hello ").await));
    for gateway in [&mut one, &mut two] {
        let push = gateway.push().await;
        assert_eq!(data(&push)["content"], "hello");
        assert_eq!((push.except_user_id, body(&push).class, body(&push).qos), (ALICE, Class::Chat.number(), 0));
        let rest = gateway.rest(Duration::from_secs(2)).await;
        assert!(!rest.iter().any(|kind| matches!(kind, Kind::RoomPush(push) if body(push).biz_code == 5_555)), "{rest:?}");
    }
    assert_eq!(other.rest(Duration::from_secs(2)).await, []);
}

#[tokio::test(start_paused = true)]
async fn pushes_of_a_room_are_in_order_whoever_sends_them_at_the_same_time() {
    let house = House::start().await;
    let room = house.open(ANCHOR).await;
    let (mut one, mut two) = (house.gateway("g1"), house.gateway("g2"));
    one.join(room, ALICE).await;
    two.join(room, BOB).await;
    let pushers: Vec<_> = (0..8)
        .map(|pusher| {
            let handle = house.handle.clone();
            tokio::spawn(async move {
                for index in 0..50 {
                    handle.push(room_push(room, &format!("{pusher}.{index}"))).await.unwrap();
                }
            })
        })
        .collect();
    for index in 0..100 {
        one.call(ALICE, chat(room, &format!("a{index}"), "")).await;
        two.call(BOB, chat(room, &format!("b{index}"), "")).await;
    }
    for pusher in pushers {
        pusher.await.unwrap();
    }
    let mut traces = Vec::new();
    for gateway in [&mut one, &mut two] {
        let mut trace = Vec::new();
        while trace.len() < 600 {
            let push = gateway.push().await;
            trace.push((body(&push).seq, body(&push).data.clone()));
        }
        assert!(trace.windows(2).all(|pair| pair[0].0 < pair[1].0), "strictly increasing");
        traces.push(trace);
    }
    assert_eq!(traces[0], traces[1], "the same at every gateway");
}

#[tokio::test(start_paused = true)]
async fn joins_that_wait_one_behind_the_other_are_decided_together_and_each_hears_its_own_answer() {
    let house = House::with(|config| config.room.members_max = 40, Arc::new(TestRecords::default()), State::in_memory()).await;
    let room = house.open(ANCHOR).await;
    let mut gateway = house.gateway("g1");
    gateway.join(room, ALICE).await;
    let said = house.say(room, "1").await;
    house.handle.ban(MuteRequest { room, user: UserId(BOB), by: Operator::Admin, duration: None }).await.unwrap();
    let mut ids = Vec::new();
    for user in (20_010..20_030).chain([BOB]).chain(20_030..20_060) {
        ids.push((user, gateway.call(user, join(room, None)).await));
    }
    // Of those decided together, who is refused hears first.
    let mut answers = BTreeMap::new();
    while answers.len() < ids.len() {
        if let Kind::Reply(Reply { id, result: Some(result) }) = gateway.next().await {
            assert!(answers.insert(id, result).is_none(), "{id} is answered once");
        }
    }
    let (mut audiences, mut refused) = (Vec::new(), Vec::new());
    for (user, id) in ids {
        let answer = answers.remove(&id).unwrap();
        if let reply::Result::Joined(joined) = answer {
            assert_eq!(snapshot(&joined).messages[0].data.as_deref(), Some("1"), "{user}");
            assert!(joined.seq >= said);
            audiences.push(joined.audience);
        } else if let reply::Result::Refused(Refused { code, .. }) = answer {
            refused.push((user, Reason::from_number(code).unwrap()));
        } else {
            panic!("{answer:?}");
        }
    }
    assert_eq!((audiences.len(), audiences.last()), (39, Some(&40)), "as many as the room holds");
    assert_eq!(refused[0], (BOB, Reason::Banned));
    assert_eq!(refused[1..], (20_049..20_060).map(|user| (user, Reason::RateLimited)).collect::<Vec<_>>());
    audiences.dedup();
    assert!(audiences.len() <= 6, "in {} calls of the store: {audiences:?}", audiences.len());
    assert_eq!(house.audience(room).await, 40);
}

#[tokio::test(start_paused = true)]
async fn who_joins_and_leaves_in_one_breath_is_out() {
    let house = House::start().await;
    let room = house.open(ANCHOR).await;
    let mut gateway = house.gateway("g1");
    gateway.join(room, ALICE).await;
    let mut ids = Vec::new();
    for call in [join(room, None), leave(room), join(room, None), join(room, None), leave(room)] {
        ids.push(gateway.call(BOB, call).await);
        ids.push(gateway.call(CAROL, join(room, None)).await);
    }
    let mut ins = Vec::new();
    for id in ids {
        ins.push(matches!(gateway.answer(id).await, reply::Result::Joined(_)));
    }
    let of_bob: Vec<bool> = ins.into_iter().step_by(2).collect();
    assert_eq!(of_bob, [true, false, true, true, false]);
    assert_eq!(house.audience(room).await, 2);
}

#[tokio::test(start_paused = true)]
async fn a_user_with_two_devices_counts_once_and_leaves_with_the_last() {
    let house = House::start().await;
    let room = house.open(ANCHOR).await;
    let mut gateway = house.gateway("g1");
    gateway.interest(room, true).await;
    for (device, session) in [(DeviceKind::Web, 1), (DeviceKind::Ios, 2)] {
        let id = gateway.call_from(ALICE, device, session, join(room, None)).await;
        joined(gateway.answer(id).await);
    }
    assert_eq!(house.audience(room).await, 1);
    let id = gateway.call_from(ALICE, DeviceKind::Web, 1, leave(room)).await;
    assert!(matches!(gateway.answer(id).await, reply::Result::Left(_)));
    assert_eq!(house.audience(room).await, 1);
    let origin = Origin { app_id: APP.0, user_id: ALICE, device: DeviceKind::Ios as u32, session: 2 };
    gateway.send(Kind::Gone(Gone { origin: Some(origin), room_ids: vec![room.0], logged_out: false })).await;
    settle().await;
    assert_eq!(house.audience(room).await, 0);
}

#[tokio::test(start_paused = true)]
async fn the_audience_is_told_when_it_changes_and_at_most_once_a_second() {
    let house = House::start().await;
    let room = house.open(ANCHOR).await;
    let mut gateway = house.gateway("g1");
    for user in 0..50 {
        gateway.join(room, 20_000 + user).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let rest = gateway.rest(Duration::from_secs(3)).await;
    let told: Vec<i64> =
        rest.iter().filter_map(|kind| if let Kind::Audience(audience) = kind { Some(audience.members) } else { None }).collect();
    assert!(told.len() <= 7, "five seconds: {told:?}");
    assert_eq!(told.last(), Some(&50));
    let states: Vec<&Push> = rest.iter().filter_map(|kind| if let Kind::RoomPush(push) = kind { Some(body(push)) } else { None }).collect();
    assert_eq!(states.len(), told.len());
    let last = states.last().unwrap();
    assert_eq!(
        (last.biz_code, last.class, last.key.as_str(), last.data.as_str()),
        (5_568, 3, "audience", r#"{"type":"audience","audience":50}"#)
    );
    assert_eq!(gateway.rest(Duration::from_secs(60)).await, [], "nothing changes, nothing is said");
    // A newcomer finds it among the states.
    let newcomer = gateway.join(room, ALICE).await;
    assert!(snapshot(&newcomer).states.contains_key("audience"));
}

#[tokio::test(start_paused = true)]
async fn only_a_member_speaks_in_a_room_or_reads_its_log() {
    let house = House::start().await;
    let room = house.open(ANCHOR).await;
    let mut gateway = house.gateway("g1");
    gateway.join(room, BOB).await;
    assert_eq!(gateway.refusal(ALICE, chat(room, "from outside", "m1")).await, Reason::RoomNotFound);
    let sync = Call::Sync(Sync { room_id: room.0, from_seq: 0, from_id: String::new(), resume: false });
    assert_eq!(gateway.refusal(ALICE, sync.clone()).await, Reason::RoomNotFound);
    gateway.join(room, ALICE).await;
    assert!(is_accepted(&gateway.ask(ALICE, chat(room, "from inside", "m1")).await), "a refused msgId may be used again");
    let reply::Result::Synced(page) = gateway.ask(ALICE, sync).await else { panic!("not synced") };
    let page: SyncPage = serde_json::from_str(&page.data).unwrap();
    assert_eq!((page.messages.len(), page.more, page.gap), (1, false, false));
}

#[tokio::test(start_paused = true)]
async fn a_guess_hears_the_same_of_every_room_and_wakes_none() {
    let house = House::start().await;
    let mut gateway = house.gateway("g1");
    let asleep = house.open(ANCHOR).await;
    let awake = house.open(UserId(30_002)).await;
    gateway.join(awake, BOB).await;
    let of_another_app = OpenRoom { app: AppId(10_002), ..open_room(ANCHOR) };
    let Opened::New(other) = house.handle.open_room(of_another_app).await.unwrap() else { panic!("live already") };
    let closed = house.open(UserId(30_003)).await;
    house.handle.close_room(closed, UserId(30_003)).await.unwrap();
    let (epochs, looks) = (house.records.calls("raise_epoch"), house.records.calls("live_room"));
    let mut heard = Vec::new();
    for room in [asleep, awake, other.room, closed, RoomId(999)] {
        let sync = Call::Sync(Sync { room_id: room.0, from_seq: 0, from_id: String::new(), resume: false });
        heard.push(gateway.ask(ALICE, chat(room, "anyone?", "m1")).await);
        heard.push(gateway.ask(ALICE, sync).await);
    }
    heard.push(gateway.ask(ALICE, join(RoomId(999), None)).await);
    assert!(matches!(&heard[0], reply::Result::Refused(Refused { code: 4004, .. })), "{:?}", heard[0]);
    assert!(heard.iter().all(|answer| *answer == heard[0]), "{heard:?}");
    assert_eq!(house.metric("router_rooms "), 1.0, "the one that was awake");
    assert_eq!(
        (house.records.calls("raise_epoch"), house.records.calls("live_room")),
        (epochs, looks + 2),
        "the join alone asked, before and after it stored the answer"
    );
}

/// A gateway keeps what it could not send, and the session may have left meanwhile.
#[tokio::test(start_paused = true)]
async fn chat_and_sync_of_one_who_is_not_in_the_room_are_no_failed_joins() {
    let house = House::start().await;
    let mut gateway = house.gateway("g1");
    let room = house.open(ANCHOR).await;
    gateway.join(room, ALICE).await;
    assert!(matches!(gateway.ask(ALICE, Call::Leave(Leave { room_id: room.0 })).await, reply::Result::Left(_)));
    gateway.join(room, BOB).await;
    for late in 0..30 {
        let room = if late % 2 == 0 { room } else { RoomId(1_000 + late) };
        let sync = Call::Sync(Sync { room_id: room.0, from_seq: 0, from_id: String::new(), resume: false });
        assert_eq!(gateway.refusal(ALICE, sync).await, Reason::RoomNotFound);
        assert_eq!(gateway.refusal(ALICE, chat(room, "late", "")).await, Reason::RoomNotFound);
    }
    gateway.join(room, ALICE).await;
    assert!(is_accepted(&gateway.chat(room, ALICE, "in again").await));
}

#[tokio::test(start_paused = true)]
async fn a_room_that_sleeps_wakes_for_who_may_enter_alone() {
    let house = House::start().await;
    let mut gateway = house.gateway("g1");
    let asleep = house.open(ANCHOR).await;
    house.handle.ban(MuteRequest { room: asleep, user: UserId(BOB), by: Operator::Admin, duration: None }).await.unwrap();
    let first = gateway.join(asleep, CAROL).await.seq;
    assert!(matches!(gateway.ask(CAROL, Call::Leave(Leave { room_id: asleep.0 })).await, reply::Result::Left(_)));
    gateway.interest(asleep, false).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(house.metric("router_rooms "), 0.0, "it sleeps");
    let of_another_app = OpenRoom { app: AppId(10_002), ..open_room(ANCHOR) };
    let Opened::New(other) = house.handle.open_room(of_another_app).await.unwrap() else { panic!("live already") };
    let (epochs, claims) = (house.records.calls("raise_epoch"), first >> 32);
    for _ in 0..5 {
        // What a gateway says for each guess of a session.
        gateway.interest(asleep, true).await;
        gateway.interest(asleep, false).await;
        assert!(matches!(gateway.ask(ALICE, Call::Leave(Leave { room_id: asleep.0 })).await, reply::Result::Left(_)));
        let origin = Some(Origin { app_id: APP.0, user_id: ALICE, device: WEB as u32, session: 1 });
        gateway.send(Kind::Gone(Gone { origin, room_ids: vec![asleep.0, other.room.0], logged_out: false })).await;
        gateway.interest(other.room, true).await;
        assert_eq!(gateway.refusal(ALICE, join(other.room, None)).await, Reason::RoomNotFound);
        gateway.interest(asleep, true).await;
        assert_eq!(gateway.refusal(BOB, join(asleep, None)).await, Reason::Banned);
    }
    assert_eq!((house.metric("router_rooms "), house.records.calls("raise_epoch")), (0.0, epochs));
    // The refused have used their budget up, as they would inside.
    for _ in 0..15 {
        assert_eq!(gateway.refusal(BOB, join(asleep, None)).await, Reason::Banned);
    }
    assert_eq!(gateway.refusal(BOB, join(asleep, None)).await, Reason::RateLimited);
    // It wakes for who may enter, and knows that the gateway listens though that did not wake it.
    assert_eq!(joined(gateway.ask(ALICE, join(asleep, None)).await).seq >> 32, claims + 1);
    house.say(asleep, "awake").await;
    assert_eq!(body(&gateway.push().await).data, "awake");
    assert_eq!(house.metric("router_rooms "), 1.0);
}

#[tokio::test(start_paused = true)]
async fn a_room_that_is_not_there_is_not_found_and_guessing_is_slowed_down() {
    let house = House::start().await;
    let mut gateway = house.gateway("g1");
    let room = house.open(ANCHOR).await;
    for guess in 0..20 {
        assert_eq!(gateway.refusal(ALICE, join(RoomId(1_000 + guess), None)).await, Reason::RoomNotFound);
    }
    assert_eq!(gateway.refusal(ALICE, join(RoomId(2_000), None)).await, Reason::RateLimited);
    assert_eq!(gateway.refusal(ALICE, join(room, None)).await, Reason::RateLimited, "also the right one");
    gateway.join(room, BOB).await;
    tokio::time::sleep(Duration::from_secs(61)).await;
    gateway.join(room, ALICE).await;
    assert_eq!(house.metric("router_rooms "), 1.0, "guesses leave nothing behind");
}

#[tokio::test(start_paused = true)]
async fn a_room_of_another_app_is_not_found() {
    let house = House::start().await;
    let room = house.open(ANCHOR).await;
    let mut gateway = house.gateway("g1");
    let origin = Origin { app_id: 10_002, user_id: ALICE, device: 3, session: 1 };
    gateway.send(Kind::Up(Up { id: 77, origin: Some(origin), call: Some(join(room, None)) })).await;
    let reply::Result::Refused(refused) = gateway.answer(77).await else { panic!("not refused") };
    assert_eq!(refused.code, 4004);
    let push = PushRequest { app: AppId(10_002), ..room_push(room, "{}") };
    assert_eq!(reason(house.handle.push(push).await), Reason::RoomNotFound);
}

#[derive(Clone, Debug)]
enum Step {
    Join { gateway: usize, user: i64, device: usize },
    Leave { gateway: usize, user: i64, device: usize },
    Gone { gateway: usize, user: i64, device: usize },
    Ban { user: i64 },
}

fn any_step() -> impl Strategy<Value = Step> {
    let who = (0..3usize, 20_001..20_006i64, 0..5usize);
    prop_oneof![
        4 => who.clone().prop_map(|(gateway, user, device)| Step::Join { gateway, user, device }),
        2 => who.clone().prop_map(|(gateway, user, device)| Step::Leave { gateway, user, device }),
        2 => who.prop_map(|(gateway, user, device)| Step::Gone { gateway, user, device }),
        1 => (20_001..20_006i64).prop_map(|user| Step::Ban { user }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whoever comes and goes however, the audience is the number of distinct users whose last session has not left.
    #[test]
    fn the_audience_agrees_with_who_is_here(steps in prop::collection::vec(any_step(), 0..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async move {
            let house = House::start().await;
            let room = house.open(ANCHOR).await;
            let mut gateways = [house.gateway("g0"), house.gateway("g1"), house.gateway("g2")];
            for gateway in &gateways {
                gateway.interest(room, true).await;
            }
            // Each gateway has a session of every user and device; whichever of them joined is here until it leaves.
            let mut here: BTreeSet<(i64, usize, usize)> = BTreeSet::new();
            for step in steps {
                match step {
                    Step::Join { gateway, user, device } => {
                        let id = gateways[gateway].call_from(user, DeviceKind::ALL[device], gateway as u64, join(room, None)).await;
                        joined(gateways[gateway].answer(id).await);
                        here.insert((user, device, gateway));
                    }
                    Step::Leave { gateway, user, device } => {
                        let id = gateways[gateway].call_from(user, DeviceKind::ALL[device], gateway as u64, leave(room)).await;
                        gateways[gateway].answer(id).await;
                        here.remove(&(user, device, gateway));
                    }
                    Step::Gone { gateway, user, device } => {
                        let device_number = DeviceKind::ALL[device] as u32;
                        let origin = Origin { app_id: APP.0, user_id: user, device: device_number, session: gateway as u64 };
                        gateways[gateway].send(Kind::Gone(Gone { origin: Some(origin), room_ids: vec![room.0], logged_out: false })).await;
                        settle().await;
                        here.remove(&(user, device, gateway));
                    }
                    Step::Ban { user } => {
                        house.handle.ban(MuteRequest { room, user: UserId(user), by: Operator::Admin, duration: None }).await.unwrap();
                        house.handle.unban(room, UserId(user), Operator::Admin).await.unwrap();
                        here.retain(|(member, ..)| *member != user);
                    }
                }
                let users: BTreeSet<i64> = here.iter().map(|(user, ..)| *user).collect();
                assert_eq!(house.audience(room).await, users.len() as u64, "{here:?}");
            }
        });
    }
}
