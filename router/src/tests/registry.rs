//! What a router knows of the others by the registry, and what they know of it.

use super::{World, knows, until};
use crate::{StartError, services::ports::Absent};
use async_trait::async_trait;
use billfish_link::message::{Kick, Relay, envelope::Kind};
use billfish_state::{NodeInfo, NodeKind, NotJoined, Registry, RoomId, State, StateError, UserId, labels, port::Result};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};
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
    // Whoever lives has the time to come back in which every breaker has closed.
    sleep(Duration::from_secs(9)).await;
    assert!(knows(&first, "r2"));
    until("who does not come back is forgotten", || !knows(&first, "r2")).await;
    assert!(start.elapsed() <= Duration::from_secs(13), "{:?}", start.elapsed());
    assert!((1..1_000).all(|room| first.running.core.ownership.is_mine(RoomId(room))));
}

/// A registry that can be read, and may refuse what is written: Redis without memory, or one that has become a replica.
struct Refusing {
    inner: Arc<dyn Registry>,
    refuses: AtomicBool,
}

#[async_trait]
impl Registry for Refusing {
    async fn register(&self, node: &NodeInfo, now_ms: u64, until_ms: u64) -> Result<bool> {
        if self.refuses.load(Relaxed) {
            return Err(StateError::Away { what: "registering a node", cause: "READONLY".into() });
        }
        self.inner.register(node, now_ms, until_ms).await
    }

    async fn deregister(&self, kind: NodeKind, id: &str, incarnation: u64) -> Result<()> {
        self.inner.deregister(kind, id, incarnation).await
    }

    async fn nodes(&self, kind: NodeKind, now_ms: u64) -> Result<Vec<NodeInfo>> {
        self.inner.nodes(kind, now_ms).await
    }
}

#[tokio::test(start_paused = true)]
async fn entries_that_run_out_while_registering_is_refused_move_nothing() {
    let inner = State::in_memory();
    let refusing = Arc::new(Refusing { inner: Arc::clone(&inner.registry), refuses: AtomicBool::new(false) });
    let world = World { state: State { registry: refusing.clone(), ..inner.clone() }, ..World::new() };
    let router = world.router("r1").await;
    let now_ms = inner.clock.now_ms();
    inner.registry.register(&gateway("g1"), now_ms, now_ms + 3_600_000).await.unwrap();
    let other = NodeInfo { kind: NodeKind::Router, ..gateway("r2") };
    inner.registry.register(&other, now_ms, now_ms + 3_600_000).await.unwrap();
    until("the other is known", || knows(&router, "r2")).await;
    refusing.refuses.store(true, Relaxed);
    sleep(Duration::from_secs(3)).await;
    // They live, and cannot say so; this router neither.
    for (kind, id) in [(NodeKind::Router, "r2"), (NodeKind::Gateway, "g1")] {
        inner.registry.deregister(kind, id, 1).await.unwrap();
    }
    sleep(Duration::from_secs(30)).await;
    let fleet = &router.running.core.fleet;
    assert!(knows(&router, "r2") && fleet.is_listed("g1"));
    // Writing works again; this router is the first that finds it out.
    refusing.refuses.store(false, Relaxed);
    sleep(Duration::from_secs(8)).await;
    assert!(knows(&router, "r2") && fleet.is_listed("g1"));
    until("who does not come back is forgotten", || !knows(&router, "r2") && !fleet.is_listed("g1")).await;
}

async fn entry(world: &World, id: &str) -> NodeInfo {
    let nodes = world.state.registry.nodes(NodeKind::Router, world.state.clock.now_ms()).await.unwrap();
    nodes.into_iter().find(|node| node.id == id).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_router_among_gateways_takes_no_rooms_until_one_has_linked() {
    let world = World::new();
    let now_ms = world.state.clock.now_ms();
    world.state.registry.register(&gateway("g1"), now_ms, now_ms + 3_600_000).await.unwrap();
    let first = world.router("r1").await;
    let router = world.router_with("r2", super::with_link_port).await;
    assert!(entry(&world, "r2").await.draining, "gateways see it, and no room is its");
    until("the first is known", || knows(&router, "r1")).await;
    sleep(Duration::from_secs(4)).await;
    assert!(!knows(&first, "r2") && !knows(&router, "r2"));
    assert!(router.running.readiness().is_ok(), "it may yet come");
    sleep(Duration::from_secs(10)).await;
    let why = router.running.readiness().unwrap_err();
    assert!(why.contains("none of 1 registered gateways has a link to this router"), "{why}");
    assert_eq!(router.metric("router_unreached"), 1.0);
    let _linked = router.gateway("g1");
    until("it takes rooms", || knows(&first, "r2") && knows(&router, "r2")).await;
    assert_eq!((router.running.readiness(), router.metric("router_unreached")), (Ok(()), 0.0));
    assert!(!entry(&world, "r2").await.draining);
}

#[tokio::test(start_paused = true)]
async fn a_router_that_no_gateway_reaches_any_more_gives_its_rooms_to_the_others() {
    let world = World::new();
    let first = world.router("r1").await;
    let router = world.router_with("r2", super::with_link_port).await;
    until("it takes rooms", || knows(&first, "r2")).await;
    let linked = router.gateway("g1");
    let now_ms = world.state.clock.now_ms();
    world.state.registry.register(&gateway("g1"), now_ms, now_ms + 3_600_000).await.unwrap();
    sleep(Duration::from_secs(20)).await;
    assert!(knows(&first, "r2"));
    drop(linked);
    sleep(Duration::from_secs(8)).await;
    assert!(knows(&first, "r2"), "links are made again within seconds");
    until("its rooms move", || !knows(&first, "r2") && !knows(&router, "r2")).await;
    let _linked = router.gateway("g1");
    until("and come back with a link", || knows(&first, "r2") && knows(&router, "r2")).await;
}

#[tokio::test(start_paused = true)]
async fn a_name_that_is_in_use_elsewhere_is_refused_at_start_and_its_owner_is_left_alone() {
    let world = World::new();
    let router = world.router_with("r1", super::with_link_port).await;
    let mut config = crate::RouterConfig { node: "r1".to_owned(), ..crate::RouterConfig::default() };
    super::with_link_port(&mut config);
    let mut registry = prometheus_client::registry::Registry::default();
    let parts = crate::RouterParts {
        config,
        state: world.state.clone(),
        records: world.records.clone(),
        money: Arc::new(Absent),
        till: Arc::new(Absent),
        people: Arc::new(Absent),
        registry: &mut registry,
    };
    let refused = crate::start(parts).await.unwrap_err();
    assert!(refused.to_string().contains("`router.node` = \"r1\""), "{refused}");
    let StartError::Join { cause: NotJoined::NameTaken { addresses, .. }, .. } = &refused else { panic!("{refused:?}") };
    assert_eq!(*addresses, format!("link={}", router.running.link_address().unwrap()));
    sleep(Duration::from_secs(10)).await;
    assert_eq!(entry(&world, "r1").await.incarnation, router.running.incarnation());
    assert_eq!(router.running.displacement().by(), None);
}

#[tokio::test(start_paused = true)]
async fn a_router_whose_name_a_later_process_bears_says_so_and_is_not_ready() {
    let world = World::new();
    let router = world.router("r1").await;
    until("it is ready", || router.running.readiness().is_ok()).await;
    let later = NodeInfo { kind: NodeKind::Router, incarnation: router.running.incarnation() + 1, ..gateway("r1") };
    let now_ms = world.state.clock.now_ms();
    world.state.registry.register(&later, now_ms, now_ms + 3_600_000).await.unwrap();
    let displaced = router.running.displacement().happens().await;
    assert_eq!((displaced.key, displaced.at.as_str()), ("router.node", "tcp=r1:9000"));
    assert_eq!(router.running.readiness(), Err(displaced.to_string()));
}

#[tokio::test(start_paused = true)]
async fn the_longest_silence_of_any_gateway_decides_who_is_gone() {
    let world = World::new();
    let router = world.router("r1").await;
    let ours = router.running.core.silence_ms();
    let mut slow = gateway("g1");
    slow.labels.insert(labels::HEARTBEAT_MS.to_owned(), (ours * 2).to_string());
    let now_ms = world.state.clock.now_ms();
    world.state.registry.register(&slow, now_ms, now_ms + 3_600_000).await.unwrap();
    until("the longer one counts", || router.running.core.silence_ms() == ours * 4).await;
    slow.labels.insert(labels::SILENCE_MS.to_owned(), (ours * 6).to_string());
    world.state.registry.register(&slow, now_ms, now_ms + 3_600_000).await.unwrap();
    until("as many gaps as the gateway waits", || router.running.core.silence_ms() == ours * 6).await;
    world.state.registry.deregister(NodeKind::Gateway, "g1", 1).await.unwrap();
    until("and no longer than it is there", || router.running.core.silence_ms() == ours).await;
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_is_not_taken_is_told_why() {
    let world = World::new();
    let router = world.router("r1").await;
    let link = |incarnation| {
        let (ours, theirs) = billfish_link::pipe::pair(("g1", incarnation), ("r1", 1));
        router.running.attach(theirs);
        super::Gateway { link: ours }
    };
    let mut older = link(1);
    until("it is linked", || router.metric("router_link_up") == 1.0).await;
    let _newer = link(2);
    let bye = async |gateway: &mut super::Gateway| {
        let Kind::Bye(bye) = gateway.next().await else { panic!("a last word") };
        assert!(gateway.link.receiver.recv().await.is_none());
        bye.reason
    };
    assert!(bye(&mut older).await.contains("under the same name"));
    assert!(bye(&mut link(1)).await.contains("gateway.node"));
    assert_eq!(router.metric("router_link_refused_total{reason=\"later_life\"}"), 1.0);
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

#[tokio::test(start_paused = true)]
async fn a_router_starts_also_while_its_records_do_not_answer_and_is_ready_when_they_do() {
    let world = World::new();
    // A ledger waits for the shared state: both may be starting at the same time as this.
    world.records.fail(true);
    let router = world.router("r1").await;
    assert_eq!(router.running.readiness(), Err("the records are away".to_owned()));
    sleep(Duration::from_secs(60)).await;
    assert_eq!(router.running.readiness(), Err("the records are away".to_owned()));
    world.records.fail(false);
    until("it is ready", || router.running.readiness().is_ok()).await;
}
