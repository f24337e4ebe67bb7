//! Limits reached, stores away, the end of the router.

use super::*;
use crate::services::ports::RoomRecords;
use async_trait::async_trait;
use billfish_link::tcp;
use billfish_state::{Appended, LogAppend, LogEntry, Page, RoomLog, StateError};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A room log that takes its time, or nothing.
struct TroubledLog {
    log: Arc<dyn RoomLog>,
    wait_ms: AtomicU64,
    refuses: AtomicBool,
    is_away: AtomicBool,
}

impl TroubledLog {
    fn of(state: &mut State) -> Arc<Self> {
        let (refuses, is_away) = (AtomicBool::new(false), AtomicBool::new(false));
        let log = Arc::new(Self { log: Arc::clone(&state.room_log), wait_ms: AtomicU64::new(0), refuses, is_away });
        state.room_log = log.clone();
        log
    }
}

#[async_trait]
impl RoomLog for TroubledLog {
    async fn append(&self, room: RoomId, entries: &[LogAppend], now_ms: u64) -> Result<Vec<Appended>, StateError> {
        tokio::time::sleep(Duration::from_millis(self.wait_ms.swap(0, Ordering::Relaxed))).await;
        if self.is_away.load(Ordering::Relaxed) {
            return Err(StateError::Away { what: "test", cause: "told to be".into() });
        }
        if self.refuses.load(Ordering::Relaxed) {
            return Err(StateError::Full { what: "test", limit: 0 });
        }
        self.log.append(room, entries, now_ms).await
    }

    async fn fence(&self, room: RoomId, seq: i64, now_ms: u64) -> Result<i64, StateError> {
        self.log.fence(room, seq, now_ms).await
    }

    async fn read(&self, room: RoomId, after_seq: i64, limit: usize, now_ms: u64) -> Result<Page<LogEntry>, StateError> {
        self.log.read(room, after_seq, limit, now_ms).await
    }

    async fn last(&self, room: RoomId, limit: usize, now_ms: u64) -> Result<Vec<LogEntry>, StateError> {
        self.log.last(room, limit, now_ms).await
    }

    async fn remove(&self, room: RoomId) -> Result<(), StateError> {
        self.log.remove(room).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_written_by_an_owner_that_lost_the_room_is_pushed_by_the_next_and_only_once() {
    let mut state = State::in_memory();
    let log = TroubledLog::of(&mut state);
    let house = House::with(|_| {}, Arc::new(TestRecords::default()), state).await;
    let room = house.open(ANCHOR).await;
    let mut gateway = house.gateway("g1");
    gateway.join(room, ALICE).await;
    log.wait_ms.store(20_000, Ordering::Relaxed);
    let id = gateway.call(ALICE, chat(room, "once", "m1")).await;
    tokio::time::sleep(Duration::from_secs(19)).await;
    let stolen = steal_lease(&house.state, room).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let answer = gateway.answer(id).await;
    assert!(matches!(answer, reply::Result::Moved(_)), "{answer:?}");
    assert_eq!(pushes(&gateway.rest(PATIENCE).await), [], "written, and not pushed");
    house.state.leases.release(&owner_of(room), &stolen.holder, stolen.epoch).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    // The gateway asks again, as it does until its patience is over; another message comes behind it.
    let first = accepted(gateway.ask(ALICE, chat(room, "once", "m1")).await);
    let second = accepted(gateway.ask(ALICE, chat(room, "twice", "m2")).await);
    assert!(first < second);
    let pushed = pushes(&gateway.rest(PATIENCE).await);
    assert_eq!(pushed, [(first, "once".to_owned()), (second, "twice".to_owned())]);
    assert_eq!(house.metric("router_dedup_hits_total "), 1.0);
}

#[tokio::test(start_paused = true)]
async fn a_push_that_the_log_did_not_take_is_shown_to_nobody() {
    let mut state = State::in_memory();
    let log = TroubledLog::of(&mut state);
    let house = House::with(|_| {}, Arc::new(TestRecords::default()), state).await;
    let room = house.open(ANCHOR).await;
    let mut gateway = house.gateway("g1");
    gateway.join(room, ALICE).await;
    for index in 0..20 {
        house.say(room, &index.to_string()).await;
    }
    log.refuses.store(true, Ordering::Relaxed);
    let push = PushRequest { qos: 1, ..room_push(room, "refused") };
    assert_eq!(reason(house.handle.push(push.clone()).await), Reason::Unavailable);
    let shown = |joined: &Joined| snapshot(joined).messages.into_iter().filter_map(|message| message.data).collect::<Vec<_>>();
    let newcomer = gateway.join(room, BOB).await;
    let expected: Vec<_> = (0..20).map(|index| index.to_string()).collect();
    assert_eq!(shown(&newcomer), expected);
    log.refuses.store(false, Ordering::Relaxed);
    house.handle.push(push).await.unwrap();
    let newcomer = gateway.join(room, CAROL).await;
    assert_eq!(shown(&newcomer).last().map(String::as_str), Some("refused"));
}

#[tokio::test(start_paused = true)]
async fn a_stuck_gateway_stalls_no_room() {
    let house = House::start().await;
    let room = house.open(ANCHOR).await;
    let (mut stuck, mut well) = (house.gateway("g1"), house.gateway("g2"));
    stuck.join(room, ALICE).await;
    well.join(room, BOB).await;
    let start = tokio::time::Instant::now();
    for index in 0..17_000 {
        house.say(room, &index.to_string()).await;
        while well.link.receiver.try_recv().is_ok() {}
    }
    assert!(start.elapsed() < Duration::from_secs(2), "one wait for the whole stall: {:?}", start.elapsed());
    assert!(house.metric(r#"router_link_dropped_total{class="event",reason="link_stalled"} "#) > 0.0);

    // It takes messages again: whoever missed an event is sent back to resume, on that gateway alone.
    let is_kick = |kind: &Kind| matches!(kind, Kind::Kick(kick) if kick.user_id == ALICE && kick.code == 4012 && kick.session != 0);
    let mut kicks = 0;
    for _ in 0..10 {
        while let Ok(kind) = stuck.link.receiver.try_recv() {
            kicks += usize::from(is_kick(&kind));
        }
        house.say(room, "more").await;
    }
    assert_eq!(kicks, 1, "once for one hole");
    while let Ok(kind) = well.link.receiver.try_recv() {
        assert!(!matches!(kind, Kind::Kick(_)), "{kind:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_refuses_and_says_when_to_come_back() {
    let house = House::with(|config| config.room.queue_calls_max = 4, Arc::new(TestRecords::default()), State::in_memory()).await;
    let room = house.open(ANCHOR).await;
    let mut gateway = house.gateway("g1");
    // The room cannot begin: its calls pile up.
    let gate = house.records.hold("raise_epoch");
    let mut ids = Vec::new();
    for user in 0..10 {
        ids.push(gateway.call(20_000 + user, join(room, None)).await);
    }
    gate.wait_for_callers(1).await;
    settle().await;
    gate.open();
    let mut refused = 0;
    for id in ids {
        // Refusals come first: the rest waits for the gate.
        let answer = gateway.heard.iter().position(|kind| matches!(kind, Kind::Reply(reply) if reply.id == id));
        let result = match answer {
            Some(index) => {
                let Kind::Reply(reply) = gateway.heard.remove(index) else { unreachable!() };
                reply.result.unwrap()
            }
            None => gateway.answer(id).await,
        };
        if let reply::Result::Refused(Refused { code, retry_after_ms, .. }) = result {
            assert_eq!(code, 5001);
            assert!(retry_after_ms > 0);
            refused += 1;
        }
    }
    assert_eq!(refused, 6);
}

#[tokio::test(start_paused = true)]
async fn one_active_room_more_than_there_may_be_is_refused_and_the_others_go_on() {
    let house = House::with(|config| config.room.rooms_max = 2, Arc::new(TestRecords::default()), State::in_memory()).await;
    let mut gateway = house.gateway("g1");
    let mut rooms = Vec::new();
    for anchor in 30_001..30_004 {
        rooms.push(house.open(UserId(anchor)).await);
    }
    for room in &rooms[..2] {
        gateway.join(*room, ALICE).await;
    }
    assert_eq!(gateway.refusal(ALICE, join(rooms[2], None)).await, Reason::Unavailable);
    gateway.join(rooms[0], BOB).await;
}

#[tokio::test(start_paused = true)]
async fn records_that_are_away_refuse_and_chat_goes_on() {
    let house = House::start().await;
    let room = house.open(ANCHOR).await;
    let mut gateway = house.gateway("g1");
    gateway.join(room, ALICE).await;
    house.records.fail(true);
    assert_eq!(reason(house.handle.open_room(open_room(UserId(30_002))).await), Reason::Unavailable);
    assert_eq!(reason(house.handle.close_room(room, ANCHOR).await), Reason::Unavailable);
    assert!(is_accepted(&gateway.chat(room, ALICE, "still here").await));
    house.records.fail(false);
    house.handle.close_room(room, ANCHOR).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_drain_answers_what_was_taken_and_refuses_the_rest() {
    let house = House::start().await;
    let room = house.open(ANCHOR).await;
    let mut gateway = house.gateway("g1");
    gateway.join(room, ALICE).await;
    let said = gateway.call(ALICE, chat(room, "last words", "m1")).await;
    settle().await;
    let handle = house.handle.clone();
    let registry = house.registry;
    house.running.drain().await;
    for name in ["router_rooms ", "router_room_queue_depth ", "router_lane_queue_depth ", "router_link_up "] {
        assert_eq!(metric(&registry, name), 0.0, "{name}");
    }
    assert!(is_accepted(&gateway.answer(said).await));
    assert_eq!(reason(handle.push(room_push(room, "{}")).await), Reason::Unavailable);
    // The lease is free: another router takes the room over at once.
    let lease = house.state.leases.acquire(&format!("room:{room}:owner"), "next", 0, 1).await.unwrap();
    assert_eq!(lease.holder, "next");
    gateway.heard.clear();
    while gateway.link.receiver.recv().await.is_some() {}
}

#[tokio::test]
async fn a_gateway_of_another_process_dials_in_with_the_secret() {
    let secret = "between the two of us";
    let listening = |config: &mut RouterConfig| {
        config.link.listen = Some(([127, 0, 0, 1], 0).into());
        config.link.secret = secret.to_owned();
    };
    let house = House::with(listening, Arc::new(TestRecords::default()), State::in_memory()).await;
    let address = house.running.link_address().unwrap();
    let identity = |secret: &str| tcp::Identity {
        node: "g1".to_owned(),
        kind: billfish_link::PeerKind::Gateway,
        incarnation: 1,
        secret: secret.to_owned(),
        in_flight: Default::default(),
    };
    tcp::dial(&address.to_string(), &identity("a guess"), tcp::Timing::default()).await.unwrap_err();
    let link = tcp::dial(&address.to_string(), &identity(secret), tcp::Timing::default()).await.unwrap();
    assert_eq!(link.peer, "router-1");
    let mut gateway = Gateway { link, next_id: 0, heard: Vec::new() };
    let room = house.open(ANCHOR).await;
    gateway.join(room, ALICE).await;
    assert_eq!(house.audience(room).await, 1);
    // The address is taken: a second router says so instead of running deaf.
    let config = RouterConfig {
        link: crate::LinkConfig { listen: Some(address), secret: secret.to_owned(), ..Default::default() },
        ..Default::default()
    };
    let parts = RouterParts {
        config,
        state: State::in_memory(),
        records: house.records.clone(),
        money: Arc::new(Absent),
        till: Arc::new(Absent),
        people: Arc::new(Absent),
        registry: &mut Registry::default(),
    };
    assert!(matches!(crate::start(parts).await, Err(crate::StartError::Listen { address: taken, .. }) if taken == address));
    house.running.drain().await;
    while gateway.link.receiver.recv().await.is_some() {}
}

#[tokio::test]
async fn a_configuration_that_cannot_work_starts_nothing() {
    let config = RouterConfig { node: String::new(), ..RouterConfig::default() };
    let parts = RouterParts {
        config,
        state: State::in_memory(),
        records: Arc::new(TestRecords::default()),
        money: Arc::new(Absent),
        till: Arc::new(Absent),
        people: Arc::new(Absent),
        registry: &mut Registry::default(),
    };
    assert!(matches!(crate::start(parts).await, Err(crate::StartError::Config(error)) if error.key == "node"));
}

/// Viewers resume from the last they have seen: who sees something newer than what he missed never asks for it.
#[tokio::test(start_paused = true)]
async fn a_gateway_with_a_hole_hears_nothing_newer_before_its_sessions_are_sent_away() {
    let house = House::start().await;
    let room = house.open(ANCHOR).await;
    let mut stuck = house.gateway("g1");
    stuck.join(room, ALICE).await;
    let dropped = r#"router_link_dropped_total{class="event",reason="link_stalled"} "#;
    let mut said = 0;
    while house.metric(dropped) == 0.0 {
        house.say(room, &said.to_string()).await;
        said += 1;
    }
    // A place here and there: enough for a message, not for its being sent away.
    let mut heard = std::mem::take(&mut stuck.heard);
    for newer in 0..10 {
        heard.extend(stuck.link.receiver.try_recv());
        tokio::time::sleep(Duration::from_secs(1)).await;
        house.say(room, &format!("newer {newer}")).await;
    }
    let is_kick = |kind: &Kind| matches!(kind, Kind::Kick(kick) if kick.user_id == ALICE && kick.code == 4012);
    while !heard.iter().any(is_kick) {
        while let Ok(kind) = stuck.link.receiver.try_recv() {
            heard.push(kind);
        }
        house.say(room, "after").await;
    }
    let before: Vec<String> =
        pushes_of(&heard[..heard.iter().position(is_kick).unwrap()]).into_iter().map(|push| body(push).data.clone()).collect();
    let whole: Vec<String> = (0..before.len()).map(|index| index.to_string()).collect();
    assert_eq!(before, whole, "up to the hole, and nothing after it");
    assert!(house.metric(r#"router_link_dropped_total{class="event",reason="hole"} "#) >= 10.0);
    // From there on it hears again.
    house.say(room, "whole").await;
    let rest = stuck.rest(Duration::from_secs(1)).await;
    assert!(pushes_of(&rest).iter().any(|push| body(push).data == "whole"), "{rest:?}");
}

fn pushes_of(heard: &[Kind]) -> Vec<&RoomPush> {
    heard
        .iter()
        .filter_map(|kind| if let Kind::RoomPush(push) = kind { Some(push) } else { None })
        .filter(|push| body(push).key.is_empty())
        .collect()
}

#[tokio::test(start_paused = true)]
async fn what_a_full_list_lets_go_is_counted() {
    let mut state = State::in_memory();
    let log = TroubledLog::of(&mut state);
    let house = House::with(|_| {}, Arc::new(TestRecords::default()), state).await;
    let room = house.open(ANCHOR).await;
    log.refuses.store(true, Ordering::Relaxed);
    for index in 0..billfish_state::port::ROOM_LOG_ENTRIES_MAX {
        house.say(room, &index.to_string()).await;
    }
    let given_up = |what: &str| house.metric(&format!("router_messages_given_up_total{{what=\"{what}\"}} "));
    assert_eq!(given_up("behind"), 0.0);
    house.say(room, "one more").await;
    assert_eq!(given_up("behind"), 1.0);
    log.is_away.store(true, Ordering::Relaxed);
    let push = PushRequest { qos: 1, ..room_push(room, "in doubt") };
    for _ in 0..64 {
        assert_eq!(reason(house.handle.push(push.clone()).await), Reason::Unavailable);
    }
    assert_eq!(given_up("doubt"), 0.0);
    assert_eq!(reason(house.handle.push(push.clone()).await), Reason::Unavailable);
    assert_eq!(given_up("doubt"), 1.0);
}

#[tokio::test(start_paused = true)]
async fn nobody_is_heard_before_the_words_of_the_house_are_known() {
    let records = Arc::new(TestRecords::default());
    records.set_block_words(&["spam".to_owned()]).await.unwrap();
    records.fail_after("block_words", 0);
    let house = House::with(|_| {}, records.clone(), State::in_memory()).await;
    let room = house.open(ANCHOR).await;
    let mut gateway = house.gateway("g1");
    gateway.interest(room, true).await;
    for call in [join(room, None), whisper(BOB, "spam", "m2")] {
        assert_eq!(gateway.refusal(ALICE, call).await, Reason::Unavailable);
    }
    assert_eq!(house.handle.push(room_push(room, "{}")).await.unwrap_err().reason, Reason::Unavailable, "nobody opens the room");
    records.fail_after("block_words", usize::MAX);
    until_ready(&house).await;
    gateway.join(room, ALICE).await;
    for call in [chat(room, "spam", "m1"), whisper(BOB, "spam", "m2")] {
        assert_eq!(gateway.refusal(ALICE, call).await, Reason::Malformed);
    }
    for call in [chat(room, "news", "m3"), whisper(BOB, "news", "m4")] {
        assert!(is_accepted(&gateway.ask(ALICE, call).await));
    }
}

async fn until_ready(house: &House) {
    let give_up = tokio::time::Instant::now() + Duration::from_secs(20);
    while let Err(why) = house.running.readiness() {
        assert!(tokio::time::Instant::now() < give_up, "{why}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
