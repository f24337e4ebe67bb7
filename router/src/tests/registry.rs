//! What a router knows of the others by the registry, and what they know of it.

use super::{World, knows, until};
use billfish_link::message::{Kick, Relay, envelope::Kind};
use billfish_state::{NodeInfo, NodeKind, RoomId, UserId};
use std::time::Duration;
use tokio::time::{Instant, sleep};

fn gateway(id: &str) -> NodeInfo {
    NodeInfo {
        kind: NodeKind::Gateway,
        id: id.to_owned(),
        incarnation: 1,
        addresses: vec![("tcp".to_owned(), format!("{id}:9000"))],
        capacity: 1,
        load: 0,
        draining: false,
        version: String::new(),
        labels: Default::default(),
    }
}

#[tokio::test(start_paused = true)]
async fn a_router_says_of_itself_where_it_is_what_it_carries_and_its_version() {
    let world = World::new();
    let listen = |config: &mut crate::RouterConfig| {
        super::with_link_port(config);
        config.link.advertise = Some("router-1.internal:7001".to_owned());
    };
    let router = world.router_with("r1", listen).await;
    router.handle.set_http_address("http://127.0.0.1:8080".to_owned());
    sleep(Duration::from_secs(3)).await;
    let nodes = world.state.registry.nodes(NodeKind::Router, world.state.clock.now_ms()).await.unwrap();
    let [node] = nodes.as_slice() else { panic!("{nodes:?}") };
    let address = |transport: &str| node.addresses.iter().find(|(name, _)| name == transport).map(|(_, address)| address.as_str());
    assert_eq!((address("link"), address("http")), (Some("router-1.internal:7001"), Some("http://127.0.0.1:8080")));
    assert_eq!((node.version.as_str(), node.incarnation), (env!("CARGO_PKG_VERSION"), router.running.incarnation()));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_may_have_forgotten_is_told_again_at_once_and_nobody_s_rooms_move_by_it() {
    let world = World::new();
    let (first, second) = world.pair().await;
    let incarnations = [("r1", first.running.incarnation()), ("r2", second.running.incarnation())];
    // The second does not come back to the registry; the first does.
    second.running.core.begin_drain();
    for (id, incarnation) in incarnations {
        world.state.registry.deregister(NodeKind::Router, id, incarnation).await.unwrap();
    }
    world.state.watch.may_have_forgotten();
    let start = Instant::now();
    let registered = async || world.state.registry.nodes(NodeKind::Router, world.state.clock.now_ms()).await.unwrap().len();
    while registered().await == 0 {
        sleep(Duration::from_millis(10)).await;
    }
    assert!(start.elapsed() <= Duration::from_millis(250), "{:?}", start.elapsed());
    // Whoever lives has the length of a registration to come back.
    sleep(Duration::from_secs(5)).await;
    assert!(knows(&first, "r2"));
    until("who does not come back is forgotten", || !knows(&first, "r2")).await;
    assert!(start.elapsed() <= Duration::from_secs(9), "{:?}", start.elapsed());
    assert!((1..1_000).all(|room| first.running.core.ownership.is_mine(RoomId(room))));
}

#[tokio::test(start_paused = true)]
async fn a_token_names_gateways_that_are_up_and_one_that_has_just_come_is_found() {
    let world = World::new();
    let router = world.router("r1").await;
    let token = async || router.handle.issue_token(super::APP, UserId(20_001), None).await;
    let refusal = token().await.unwrap_err();
    assert!(refusal.retry_after_ms.is_some() && refusal.detail.contains("gateway"), "{refusal}");
    let register = async |node: &NodeInfo| {
        let now_ms = world.state.clock.now_ms();
        world.state.registry.register(node, now_ms, now_ms + 1_000_000).await.unwrap();
    };
    register(&gateway("g1")).await;
    assert_eq!(token().await.unwrap().gateways["tcp"], ["g1:9000"]);
    // Known already, it is not looked for again until the next turn; then the second one is named too.
    register(&gateway("g2")).await;
    assert_eq!(token().await.unwrap().gateways["tcp"], ["g1:9000"]);
    sleep(Duration::from_secs(3)).await;
    assert_eq!(token().await.unwrap().gateways["tcp"].len(), 2);
    register(&NodeInfo { draining: true, ..gateway("g1") }).await;
    sleep(Duration::from_secs(3)).await;
    assert_eq!(token().await.unwrap().gateways["tcp"], ["g2:9000"]);
}

#[tokio::test(start_paused = true)]
async fn a_kick_is_passed_on_to_the_gateway_in_that_life_and_to_no_other() {
    let world = World::new();
    let router = world.router("r1").await;
    let (replacing, mut replaced) = (router.gateway("g1"), router.gateway("g2"));
    until("both are linked", || router.metric("router_link_up") == 2.0).await;
    let kick = |session| Kick { app_id: super::APP.0, user_id: 20_001, device: 3, code: 4_010, msg: String::new(), session };
    for (node, incarnation, session) in [("g2", 2, 1), ("g3", 1, 2), ("g2", 1, 3)] {
        let relay = Relay { node: node.to_owned(), incarnation, kick: Some(kick(session)) };
        replacing.link.sender.send(Kind::Relay(relay)).await.unwrap();
    }
    assert_eq!(replaced.next().await, Kind::Kick(kick(3)));
    for result in ["passed", "other_life", "no_link"] {
        assert_eq!(router.metric(&format!("router_relays_total{{result=\"{result}\"}}")), 1.0, "{result}");
    }
}

#[tokio::test(start_paused = true)]
async fn readiness_says_why_not() {
    let world = World::new();
    let router = world.router("r1").await;
    until("it is ready", || router.running.readiness().is_ok()).await;
    world.state.watch.set_away(Some("connection refused".to_owned()));
    assert_eq!(router.running.readiness(), Err("the shared state is away: connection refused".to_owned()));
    world.state.watch.set_away(None);
    world.records.fail(true);
    until("it notices", || router.running.readiness() == Err("the records are away".to_owned())).await;
    world.records.fail(false);
    until("it recovers", || router.running.readiness().is_ok()).await;
}
