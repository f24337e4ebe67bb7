//! One router at a time forgets for all what nobody will ask for again.

use super::{APP, Gateway, World, until};
use crate::{
    dispatch::Lanes,
    handle::{PushRequest, Target},
};
use async_trait::async_trait;
use billfish_link::message::{UserPush, envelope::Kind};
use billfish_state::{Acks, AppId, DeviceKind, PendingAck, Route, StateError, UserId};
use billfish_wire::Class;
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::time::{sleep, timeout};

const ALICE: UserId = UserId(20_001);
const BOB: UserId = UserId(20_002);

#[tokio::test(start_paused = true)]
async fn who_is_silent_for_two_gaps_is_forgotten_and_so_is_a_delivery_whose_message_is_gone() {
    let world = World::new();
    let router = world.router("r1").await;
    let now_ms = world.state.clock.now_ms();
    world.state.presence.touch(&[(APP, ALICE), (APP, BOB)], now_ms).await.unwrap();
    let pending = |msg_id: &str, due_ms| PendingAck { app: APP, user: ALICE, msg_id: msg_id.to_owned(), room: None, times_sent: 1, due_ms };
    let later = now_ms + 3_600_000;
    world.state.acks.record(&[pending("1-0", now_ms), pending("2-0", later)]).await.unwrap();
    sleep(Duration::from_secs(45)).await;
    world.state.presence.touch(&[(APP, BOB)], world.state.clock.now_ms()).await.unwrap();
    assert_eq!(router.metric("router_presence_swept_total"), 0.0);
    // A turn in fifteen looks for them.
    sleep(Duration::from_secs(30)).await;
    until("one has been silent for two gaps", || router.metric("router_presence_swept_total") == 1.0).await;
    assert_eq!(world.state.presence.online(APP, &[ALICE, BOB], 0).await.unwrap(), [false, true]);
    assert_eq!(world.state.acks.pending(APP, ALICE).await.unwrap(), [pending("2-0", later)]);
    assert_eq!(router.metric("router_acks_expired_total"), 1.0);
}

#[tokio::test(start_paused = true)]
async fn one_router_sweeps_and_the_next_goes_on_when_it_drains() {
    let world = World::new();
    let first = world.router("r1").await;
    until("the first sweeps", || first.metric("router_sweeper") == 1.0).await;
    let second = world.router("r2").await;
    sleep(Duration::from_secs(10)).await;
    assert_eq!((first.metric("router_sweeper"), second.metric("router_sweeper")), (1.0, 0.0));
    first.running.drain().await;
    until("the second sweeps", || second.metric("router_sweeper") == 1.0).await;
}

#[tokio::test(start_paused = true)]
async fn what_a_router_takes_before_it_knows_any_gateway_is_pushed_soon_and_again_until_it_is_acknowledged() {
    let world = World::new();
    let router = world.router("r1").await;
    seat(&world, ALICE).await;
    // Her gateway is not linked yet, nor in what this router has read of the registry.
    let msg_id = router.handle.push(push(&[ALICE])).await.unwrap().msg_id.unwrap();
    let mut gateway = router.gateway("g1");
    for times in 1..=3 {
        // The first within what two turns of the sweeper take; later ones are of a gateway that had it.
        let patience = Duration::from_secs(if times == 1 { 6 } else { 60 });
        let heard = timeout(patience, user_push(&mut gateway)).await.expect("it is sent again");
        let push = heard.push.unwrap();
        assert_eq!((heard.user_ids, push.msg_id.as_str(), push.qos), (vec![ALICE.0], msg_id.as_str(), 1));
        assert_eq!(router.metric("router_resent_total"), f64::from(times));
        let pending = world.state.acks.pending(APP, ALICE).await.unwrap();
        assert_eq!(pending.iter().map(|pending| pending.times_sent).collect::<Vec<_>>(), [times + 1]);
    }
    // Acknowledged, though the record stayed behind: it is not pushed again, and nothing stays.
    world.state.inbox.ack(&[(APP, ALICE, msg_id)]).await.unwrap();
    sleep(Duration::from_secs(600)).await;
    assert_eq!(world.state.acks.pending(APP, ALICE).await.unwrap(), []);
    assert_eq!(router.metric("router_resent_total"), 3.0);
}

#[tokio::test(start_paused = true)]
async fn what_a_sweeper_had_in_hand_when_it_died_is_sent_by_the_next() {
    let world = World::new();
    let first = world.router("r1").await;
    seat(&world, ALICE).await;
    let msg_id = first.handle.push(push(&[ALICE])).await.unwrap().msg_id.unwrap();
    let now_ms = world.state.clock.now_ms();
    let in_hand = world.state.acks.postpone(u64::MAX, now_ms, 10).await.unwrap();
    assert_eq!(in_hand.len(), 1);
    let mut gateway = first.gateway("g1");
    let heard = timeout(Duration::from_secs(60), user_push(&mut gateway)).await.expect("it is found again");
    assert_eq!(heard.push.unwrap().msg_id, msg_id);
}

#[tokio::test(start_paused = true)]
async fn who_is_never_reached_is_given_up_in_the_end_and_his_inbox_keeps_it() {
    let world = World::new();
    let router = world.router("r1").await;
    seat(&world, ALICE).await;
    router.handle.push(push(&[ALICE])).await.unwrap();
    sleep(Duration::from_secs(3 * 3_600)).await;
    assert_eq!(world.state.acks.pending(APP, ALICE).await.unwrap(), []);
    assert_eq!(router.metric("router_acks_given_up_total{reason=\"attempts\"}"), 1.0);
    let inbox = world.state.inbox.read(APP, ALICE, None, 10, world.state.clock.now_ms()).await.unwrap();
    assert_eq!(inbox.entries.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_overdue_of_one_push_to_many_is_one_message_for_a_gateway() {
    let world = World::new();
    let router = world.router("r1").await;
    // Users of one lane get a push under one id.
    let users: Vec<UserId> = (20_001..).map(UserId).filter(|user| Lanes::of(*user) == Lanes::of(ALICE)).take(64).collect();
    for user in &users {
        seat(&world, *user).await;
    }
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(router.handle.push(push(&users)).await.unwrap().msg_id.unwrap());
    }
    let mut gateway = router.gateway("g1");
    let (mut messages, mut copies) = (0, BTreeMap::<(i64, String), u32>::new());
    while copies.len() < users.len() * ids.len() {
        let heard = timeout(Duration::from_secs(60), user_push(&mut gateway)).await.expect("it is sent again");
        messages += 1;
        let msg_id = heard.push.unwrap().msg_id;
        for user in heard.user_ids {
            *copies.entry((user, msg_id.clone())).or_default() += 1;
        }
    }
    assert!(copies.values().all(|count| *count == 1), "{copies:?}");
    assert!(messages < copies.len() / 5, "{messages} messages for {} copies", copies.len());
}

/// Acks whose store does not answer while it is told so.
struct TroubledAcks {
    acks: Arc<dyn Acks>,
    is_away: AtomicBool,
}

#[async_trait]
impl Acks for TroubledAcks {
    async fn record(&self, pending: &[PendingAck]) -> Result<(), StateError> {
        if self.is_away.load(Relaxed) {
            return Err(StateError::Away { what: "test", cause: "told to be".into() });
        }
        self.acks.record(pending).await
    }

    async fn remove(&self, acked: &[(AppId, UserId, String)]) -> Result<(), StateError> {
        self.acks.remove(acked).await
    }

    async fn pending(&self, app: AppId, user: UserId) -> Result<Vec<PendingAck>, StateError> {
        self.acks.pending(app, user).await
    }

    async fn postpone(&self, before_ms: u64, now_ms: u64, limit: usize) -> Result<Vec<PendingAck>, StateError> {
        self.acks.postpone(before_ms, now_ms, limit).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_record_that_the_store_did_not_take_is_given_to_it_later() {
    let mut world = World::new();
    let acks = Arc::new(TroubledAcks { acks: Arc::clone(&world.state.acks), is_away: AtomicBool::new(true) });
    world.state.acks = acks.clone();
    let router = world.router("r1").await;
    seat(&world, ALICE).await;
    router.handle.push(push(&[ALICE])).await.unwrap();
    sleep(Duration::from_secs(60)).await;
    assert_eq!(world.state.acks.pending(APP, ALICE).await.unwrap(), []);
    acks.is_away.store(false, Relaxed);
    let mut gateway = router.gateway("g1");
    timeout(Duration::from_secs(6), user_push(&mut gateway)).await.expect("it is sent again");
}

/// She has a session on `g1`.
async fn seat(world: &World, user: UserId) {
    let now_ms = world.state.clock.now_ms();
    let route = Route { app: APP, user, device: DeviceKind::Web, node: "g1".to_owned(), epoch: 1, session: 7 };
    world.state.routes.bind(&[route], now_ms, now_ms + 12 * 3_600_000).await.unwrap();
}

fn push(users: &[UserId]) -> PushRequest {
    PushRequest {
        app: APP,
        target: Target::Users(users.to_vec()),
        biz_code: 5_568,
        data: "{}".to_owned(),
        qos: 1,
        class: Class::Event,
        key: None,
    }
}

async fn user_push(gateway: &mut Gateway) -> UserPush {
    loop {
        if let Kind::UserPush(push) = gateway.link.receiver.recv().await.expect("the link is up") {
            return push;
        }
    }
}
