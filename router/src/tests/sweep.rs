//! One router at a time forgets for all what nobody will ask for again.

use super::{APP, World, until};
use crate::handle::{PushRequest, Target};
use billfish_link::message::{UserPush, envelope::Kind};
use billfish_state::{DeviceKind, NodeInfo, NodeKind, PendingAck, Route, UserId};
use billfish_wire::Class;
use std::time::Duration;
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
async fn what_a_dead_link_took_with_it_is_pushed_again_until_it_is_acknowledged() {
    let world = World::new();
    let router = world.router("r1").await;
    let now_ms = world.state.clock.now_ms();
    let route = Route { app: APP, user: ALICE, device: DeviceKind::Web, node: "g1".to_owned(), epoch: 1, session: 7 };
    world.state.routes.bind(&[route], now_ms, now_ms + 3_600_000).await.unwrap();
    let push = PushRequest {
        app: APP,
        target: Target::Users(vec![ALICE]),
        biz_code: 5_568,
        data: "{}".to_owned(),
        qos: 1,
        class: Class::Event,
        key: None,
    };
    let gateway = NodeInfo {
        kind: NodeKind::Gateway,
        id: "g1".to_owned(),
        incarnation: 1,
        addresses: Vec::new(),
        capacity: 1,
        load: 1,
        draining: false,
        version: String::new(),
        labels: Default::default(),
    };
    world.state.registry.register(&gateway, now_ms, now_ms + 3_600_000).await.unwrap();
    until("the gateway is known", || router.running.core.fleet.is_up("g1", 1)).await;
    // Her gateway's link is down at that moment.
    let msg_id = router.handle.push(push).await.unwrap().msg_id.unwrap();
    let mut gateway = router.gateway("g1");
    for times in 1..=3 {
        let heard = timeout(Duration::from_secs(60), gateway.link.receiver.recv()).await.expect("it is sent again");
        let Some(Kind::UserPush(UserPush { user_ids, push: Some(push), .. })) = heard else { panic!("a push to a user") };
        assert_eq!((user_ids, push.msg_id.as_str(), push.qos), (vec![ALICE.0], msg_id.as_str(), 1));
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
