//! Which routers there are: read from the registry again and again, for placing rooms and for dialling.
//!
//! - The registry decides who owns rooms, the links decide who can be asked: see [`crate::upstream`].
//! - Where routers are found by the registry, each gets a dialler of its own. It goes when the router has been missing for a while and its
//!   link is dead: a registry that lost an entry ends no link that works.
//! - A registry that cannot be read changes nothing. Where it may have forgotten, or refuses what is written to it, a router that is missing
//!   counts as there until everyone who lives must have registered again: that an entry ran out says nothing then of the router.
//! - A registry that shows no router at all is not believed by who is linked to one.

use crate::{fanout::Fanout, link, metrics::Port, store::Store, upstream::RouterSeen};
use billfish_link::tcp::Identity;
use billfish_state::{NodeInfo, NodeKind};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// The routers, as far as this gateway has to do with them.
#[derive(Debug)]
pub(crate) struct Routers {
    pub(crate) store: Arc<Store>,
    pub(crate) fanout: Arc<Fanout>,
    pub(crate) identity: Identity,
    /// Whom the configuration names; they are dialled for as long as the gateway runs.
    pub(crate) named: Vec<String>,
    /// Whether those of the registry are dialled.
    pub(crate) discovers: bool,
}

/// What the registry said last.
#[derive(Debug, Default)]
struct Known {
    /// [`billfish_state::Watch::generation`] when it was read.
    generation: u64,
    /// Until when a router that is missing is taken to be there.
    forgiving_until: Option<Instant>,
    routers: Vec<NodeInfo>,
}

/// One router that is dialled because the registry showed it.
#[derive(Debug)]
struct Dialled {
    address: String,
    stop: CancellationToken,
    /// Not in the registry since then.
    missing_since: Option<Instant>,
}

impl Routers {
    /// Watches the registry and keeps the routers dialled until `stop`; then their links have said their last words.
    pub(crate) async fn run(&self, stop: &CancellationToken) {
        let mut diallers = JoinSet::new();
        for address in &self.named {
            self.dial(address.clone(), stop.child_token(), &mut diallers);
        }
        let mut dialled: BTreeMap<String, Dialled> = BTreeMap::new();
        let watch = &self.store.state.watch;
        let mut known = Known { generation: watch.generation(), ..Known::default() };
        while !stop.is_cancelled() {
            let generation = watch.generation();
            if let Some(routers) = self.look(&mut known).await
                && self.discovers
            {
                self.follow(routers, &mut dialled, stop, &mut diallers);
            }
            while diallers.try_join_next().is_some() {}
            // One that drains may be one that has just come: it takes rooms as soon as it has links.
            let is_changing = known.routers.iter().any(|router| router.draining);
            let next = async {
                let at = Instant::now() + if is_changing { LOOK_WHILE_CHANGING } else { LOOK_EVERY };
                while Instant::now() < at && watch.generation() == generation {
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
            };
            tokio::select! {
                () = next => {}
                () = stop.cancelled() => {}
            }
        }
        while diallers.join_next().await.is_some() {}
    }

    /// Reads the registry and places rooms by it; `None`: it cannot be read.
    async fn look<'a>(&self, known: &'a mut Known) -> Option<&'a [NodeInfo]> {
        let registry = &self.store.state.registry;
        let read = self.store.call(Port::Registry, registry.nodes(NodeKind::Router, self.store.now_ms())).await.ok()?;
        // Looked at behind the answer: it may be the first of a store that has forgotten.
        let is_doubtful = self.store.registry_failed_within(SETTLED) || self.shows_nobody_who_speaks(&read);
        let routers = known.learn(read, self.store.state.watch.generation(), is_doubtful, Instant::now());
        self.fanout.counters.routers_seen.set(routers.len() as u64);
        let seen = |router: &NodeInfo| RouterSeen { node: router.id.clone(), draining: router.draining };
        self.fanout.upstream.place(routers.iter().map(seen).collect());
        Some(routers)
    }

    fn shows_nobody_who_speaks(&self, read: &[NodeInfo]) -> bool {
        read.is_empty() && self.fanout.upstream.links() > 0
    }

    fn follow(&self, routers: &[NodeInfo], dialled: &mut BTreeMap<String, Dialled>, stop: &CancellationToken, diallers: &mut JoinSet<()>) {
        let now = Instant::now();
        let mut shown = BTreeSet::new();
        let mut left_out = 0;
        for router in routers {
            let link = router.addresses.iter().find(|(transport, _)| transport == "link");
            let Some((_, address)) = link else { continue };
            shown.insert(router.id.as_str());
            if let Some(known) = dialled.get_mut(&router.id) {
                known.missing_since = None;
                if known.address == *address {
                    continue;
                }
                known.stop.cancel();
            } else if dialled.len() >= ROUTERS_MAX {
                left_out += 1;
                continue;
            }
            info!(router = %router.id, address, "a router of the registry is dialled");
            let token = stop.child_token();
            self.dial(address.clone(), token.clone(), diallers);
            dialled.insert(router.id.clone(), Dialled { address: address.clone(), stop: token, missing_since: None });
        }
        let before = self.fanout.counters.routers_not_dialled.value();
        if left_out != before && left_out > 0 {
            warn!(left_out, limit = ROUTERS_MAX, "too many routers; some are not dialled, and their rooms are out of reach from here");
        }
        self.fanout.counters.routers_not_dialled.set(left_out);
        dialled.retain(|node, known| {
            if shown.contains(node.as_str()) {
                return true;
            }
            let since = *known.missing_since.get_or_insert(now);
            let is_gone = now.duration_since(since) > MISSING_MAX && !self.fanout.upstream.is_linked(node);
            if is_gone {
                info!(router = %node, "a router that left the registry is not dialled any more");
                known.stop.cancel();
            }
            !is_gone
        });
    }

    fn dial(&self, address: String, stop: CancellationToken, diallers: &mut JoinSet<()>) {
        diallers.spawn(link::keep_dialled(address, self.identity.clone(), Arc::clone(&self.fanout), stop));
    }
}

impl Known {
    /// Takes what was read; gives the routers that count.
    fn learn(&mut self, read: Vec<NodeInfo>, generation: u64, is_doubtful: bool, now: Instant) -> &[NodeInfo] {
        if generation != self.generation {
            self.generation = generation;
            self.forgiving_until = Some(now + SETTLED);
        }
        let before = std::mem::replace(&mut self.routers, read);
        if is_doubtful || self.forgiving_until.is_some_and(|until| now < until) {
            let missing = |node: &NodeInfo| self.routers.iter().all(|other| other.id != node.id);
            let missing: Vec<NodeInfo> = before.into_iter().filter(missing).collect();
            self.routers.extend(missing);
        }
        &self.routers
    }
}

/// Within this after a trouble of the store every router that lives has registered again: the longest pause of its breaker (5 s), two
/// seconds to its next registration, and some. Waiting costs nothing where the router is dead: its link ends sooner.
const SETTLED: Duration = Duration::from_secs(10);
/// A router that comes or goes is noticed within this.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// The same, while some router drains.
const LOOK_WHILE_CHANGING: Duration = Duration::from_millis(500);
/// How soon a store that may have forgotten its entries is read again.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// A router that is missing for so long, and has no link, does not come back under this address.
const MISSING_MAX: Duration = Duration::from_secs(30);
/// Routers dialled at a time; each is a task and a socket.
const ROUTERS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::{Dialled, Known, MISSING_MAX, ROUTERS_MAX, Routers, SETTLED};
    use crate::{
        clock::Uptime,
        commands::Shards,
        fanout::Fanout,
        metrics::{ControlCounters, Port},
        store::Store,
        upstream::Upstream,
    };
    use async_trait::async_trait;
    use billfish_link::{PeerKind, tcp::Identity};
    use billfish_state::{NodeInfo, NodeKind, Registry, State, StateError, port::Result};
    use std::{collections::BTreeMap, sync::Arc, time::Duration};
    use tokio::{task::JoinSet, time::Instant};
    use tokio_util::sync::CancellationToken;

    struct House {
        routers: Routers,
        dialled: BTreeMap<String, Dialled>,
        diallers: JoinSet<()>,
        stop: CancellationToken,
    }

    impl House {
        fn new() -> Self {
            Self::on(State::in_memory())
        }

        fn on(state: State) -> Self {
            let counters = Arc::new(ControlCounters::default());
            let fanout = Fanout {
                upstream: Arc::new(Upstream::new(Arc::clone(&counters))),
                directory: Arc::default(),
                shards: Shards::new(Vec::new()),
                counters: Arc::clone(&counters),
                uptime: Uptime::start(),
            };
            let routers = Routers {
                store: Arc::new(Store::new(state, counters)),
                fanout: Arc::new(fanout),
                identity: Identity {
                    node: "g1".to_owned(),
                    kind: PeerKind::Gateway,
                    incarnation: 1,
                    secret: String::new(),
                    in_flight: Default::default(),
                },
                named: Vec::new(),
                discovers: true,
            };
            Self { routers, dialled: BTreeMap::new(), diallers: JoinSet::new(), stop: CancellationToken::new() }
        }

        /// The registry shows these; gives who is dialled, and where.
        fn follow(&mut self, shown: &[(&str, &str)]) -> Vec<(String, String)> {
            let shown: Vec<NodeInfo> = shown.iter().map(|(id, address)| router(id, address)).collect();
            self.routers.follow(&shown, &mut self.dialled, &self.stop, &mut self.diallers);
            self.dialled.iter().map(|(node, dialled)| (node.clone(), dialled.address.clone())).collect()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_registry_that_may_have_forgotten_is_forgiven_what_is_missing_until_all_have_registered_again() {
        let mut known = Known::default();
        let mut learn = |read: &[&str], generation| {
            let read = read.iter().map(|id| router(id, "127.0.0.1:1")).collect();
            known.learn(read, generation, false, Instant::now()).iter().map(|router| router.id.clone()).collect::<Vec<_>>()
        };
        assert_eq!(learn(&["r1", "r2"], 0), ["r1", "r2"]);
        assert_eq!(learn(&["r2"], 0), ["r2"], "r1 died");
        assert_eq!(learn(&[], 1), ["r2"], "the store was started again");
        tokio::time::advance(SETTLED - Duration::from_millis(1)).await;
        assert_eq!(learn(&["r3"], 1), ["r3", "r2"]);
        assert_eq!(learn(&["r2"], 1), ["r2", "r3"], "one that is back counts once");
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(learn(&["r2"], 1), ["r2"], "and one that does not come back is gone");
        assert_eq!(learn(&[], 1), [""; 0]);
    }

    /// A registry that can be read and refuses what is written, as Redis does without memory, or as a replica.
    struct Refusing(Arc<dyn Registry>);

    #[async_trait]
    impl Registry for Refusing {
        async fn register(&self, _: &NodeInfo, _: u64, _: u64) -> Result<bool> {
            Err(StateError::Away { what: "registering a node", cause: "READONLY".into() })
        }
        async fn deregister(&self, kind: NodeKind, id: &str, incarnation: u64) -> Result<()> {
            self.0.deregister(kind, id, incarnation).await
        }
        async fn nodes(&self, kind: NodeKind, now_ms: u64) -> Result<Vec<NodeInfo>> {
            self.0.nodes(kind, now_ms).await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn entries_that_run_out_while_registering_is_refused_move_nothing() {
        let inner = State::in_memory();
        let registry = Arc::new(Refusing(Arc::clone(&inner.registry)));
        let house = House::on(State { registry, ..inner.clone() });
        let state = &house.routers.store.state;
        let now_ms = inner.clock.now_ms();
        for id in ["r1", "r2"] {
            inner.registry.register(&router(id, "127.0.0.1:1"), now_ms, now_ms + 3_600_000).await.unwrap();
        }
        let mut known = Known::default();
        let mut shown = async || house.routers.look(&mut known).await.unwrap().iter().map(|router| router.id.clone()).collect::<Vec<_>>();
        assert_eq!(shown().await, ["r1", "r2"]);
        let node = router("g1", "");
        let refused = state.registry.register(&node, now_ms, now_ms + 6_000);
        assert!(house.routers.store.call(Port::Registry, refused).await.is_err());
        // They live, and cannot say so.
        for id in ["r1", "r2"] {
            inner.registry.deregister(NodeKind::Router, id, 1).await.unwrap();
        }
        assert_eq!(shown().await, ["r1", "r2"]);
        tokio::time::advance(SETTLED).await;
        let _linked = house.routers.fanout.upstream.link_up("r1");
        assert_eq!(shown().await, ["r1", "r2"], "who speaks to a router does not believe that there is none");
        inner.registry.register(&router("r2", "127.0.0.1:1"), now_ms, now_ms + 3_600_000).await.unwrap();
        assert_eq!(shown().await, ["r2"], "all is well, and one did not come back");
    }

    fn router(id: &str, address: &str) -> NodeInfo {
        NodeInfo {
            kind: NodeKind::Router,
            id: id.to_owned(),
            incarnation: 1,
            addresses: vec![("http".to_owned(), "h:1".to_owned()), ("link".to_owned(), address.to_owned())],
            capacity: 1,
            load: 0,
            draining: false,
            version: String::new(),
            labels: Default::default(),
        }
    }

    fn pair(node: &str, address: &str) -> (String, String) {
        (node.to_owned(), address.to_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn a_router_that_left_the_registry_is_dialled_until_it_has_been_missing_for_long_and_has_no_link() {
        let mut house = House::new();
        let _linked = house.routers.fanout.upstream.link_up("r2");
        let both = [("r1", "127.0.0.1:1"), ("r2", "127.0.0.1:2")];
        assert_eq!(house.follow(&both).len(), 2);
        let token = house.dialled["r1"].stop.clone();
        house.follow(&[]);
        tokio::time::advance(MISSING_MAX).await;
        assert_eq!(house.follow(&[]).len(), 2);
        // Seen once more, its time begins anew.
        house.follow(&both[..1]);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(house.follow(&[]).len(), 2);
        tokio::time::advance(MISSING_MAX + Duration::from_millis(1)).await;
        assert_eq!(house.follow(&[]), [pair("r2", "127.0.0.1:2")], "a link that works is left alone");
        assert!(token.is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn a_router_that_has_moved_is_dialled_where_it_is_now() {
        let mut house = House::new();
        house.follow(&[("r1", "127.0.0.1:1")]);
        let token = house.dialled["r1"].stop.clone();
        assert_eq!(house.follow(&[("r1", "127.0.0.1:2")]), [pair("r1", "127.0.0.1:2")]);
        assert!(token.is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn one_router_too_many_is_not_dialled() {
        let mut house = House::new();
        let names: Vec<String> = (0..=ROUTERS_MAX).map(|number| format!("r{number:03}")).collect();
        let shown: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "127.0.0.1:1")).collect();
        assert_eq!(house.follow(&shown).len(), ROUTERS_MAX);
        assert_eq!(house.routers.fanout.counters.routers_not_dialled.value(), 1);
    }
}
