//! What a router does by the clock: registers itself, learns which routers and gateways there are, refreshes the lists of rooms and the
//! block-list of the house.
//!
//! - Each is a loop that ends when the router drains. A failure is counted and tried again at the next turn; nothing here stops the data path.
//! - Who was registered stays where the registry cannot be read, and, where it may have forgotten or has refused this router, until
//!   everyone who lives must have registered again: that an entry ran out says nothing then of the node.
//! - A router that no gateway reaches registers as draining: see [`crate::reach`].

use crate::{RouterConfig, StartError, clock::millis, core::Core, dispatch, room::RoomCall, services::room::lists::REFRESH_MS};
use billfish_state::{NodeInfo, NodeKind, RoomId, State, labels};
use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::time::{Instant, MissedTickBehavior};

/// How long a registration stands.
pub(crate) const REGISTERED: Duration = Duration::from_secs(6);
/// Within this after a trouble of the store every node that lives has registered again: the longest pause of its breaker (5 s), two seconds
/// to its next registration, and some.
const SETTLED: Duration = Duration::from_secs(10);
/// Between two registrations.
const REGISTER_EVERY: Duration = Duration::from_secs(2);
/// Between two looks at whether the registry is to be read before its time: two atomic reads.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Between two looks at the block-list of the house.
const WORDS_EVERY: Duration = Duration::from_secs(10);
/// The same, while the records are away: how soon a router is ready again.
const WORDS_AGAIN: Duration = Duration::from_secs(1);

/// Between two looks at the outbox.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// A room that lives has told its gifts by then, and the ledger has heard so.
const UNTOLD_FOR: Duration = Duration::from_secs(5);
/// Rooms woken in one turn, and gifts forgotten.
const ROOMS_TO_TELL: usize = 500;

/// What the registry said last.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// [`billfish_state::Watch::generation`] when it was read.
    generation: u64,
    /// Until when a node that is missing is taken to be there.
    forgiving_until: Option<Instant>,
    routers: Vec<NodeInfo>,
    gateways: Vec<NodeInfo>,
}

impl Known {
    /// Whoever is missing now may be there all the same.
    fn doubt(&mut self) {
        self.forgiving_until = Some(Instant::now() + SETTLED);
    }

    /// Whether who is missing is to be taken to be there. To be asked behind an answer: it may be the first of a store that has forgotten.
    fn is_forgiving(&mut self, generation: u64) -> bool {
        if generation != self.generation {
            self.generation = generation;
            self.doubt();
        }
        self.forgiving_until.is_some_and(|until| Instant::now() < until)
    }
}

/// Keeps the node in the registry, and the rings in step with it.
pub(crate) async fn keep_registered(core: Arc<Core>) {
    let mut ticks = every(LOOK_EVERY);
    let mut due = Instant::now() + REGISTER_EVERY;
    let mut generation = core.state.watch.generation();
    while tick(&core, &mut ticks).await {
        let now = core.state.watch.generation();
        if core.look_soon.swap(false, Ordering::Relaxed) || now != generation || Instant::now() >= due {
            generation = now;
            due = Instant::now() + REGISTER_EVERY;
            core.register().await;
        }
    }
}

/// Keeps the lists of rooms a second old at most.
pub(crate) async fn keep_lists(core: Arc<Core>) {
    let holder = format!("{}%{}", core.config.node, core.incarnation);
    let mut ticks = every(Duration::from_millis(REFRESH_MS));
    while tick(&core, &mut ticks).await {
        let start = Instant::now();
        core.lists.refresh(&*core.records, &core.state, &core.metrics, &holder, core.state.clock.now_ms()).await;
        core.metrics.list_refreshed_in(start.elapsed());
    }
}

/// Keeps the block-list of the house, and knows by it whether the records answer.
pub(crate) async fn keep_words(core: Arc<Core>) {
    loop {
        let wait = match core.records.block_words().await {
            Ok(words) => {
                core.set_house_words(&words);
                core.set_records_away(false);
                WORDS_EVERY
            }
            Err(error) => {
                core.metrics.store_failed("block_words", &error);
                core.set_records_away(true);
                WORDS_AGAIN
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = core.drains.cancelled() => return,
        }
    }
}

/// Wakes rooms that have gifts to tell and do not: their owner has died, and nobody has asked for them since.
pub(crate) async fn keep_told(core: Arc<Core>) {
    let mut ticks = every(TELL_EVERY);
    while tick(&core, &mut ticks).await {
        let now_ms = core.state.clock.now_ms();
        match core.money.rooms_to_tell(now_ms.saturating_sub(millis(UNTOLD_FOR)), ROOMS_TO_TELL).await {
            Ok(rooms) => {
                for room in rooms.into_iter().filter(|room| core.ownership.is_mine(*room)) {
                    core.tell_room(room, now_ms).await;
                }
            }
            Err(error) => core.metrics.store_failed("outbox", &error),
        }
    }
}

impl Core {
    async fn tell_room(self: &Arc<Self>, room: RoomId, now_ms: u64) {
        match self.catalog.room(room, now_ms).await {
            Ok(Some(_)) => dispatch::to_room(self, room, RoomCall::Tell).await,
            // It has closed: nobody is there to be told.
            Ok(None) => {
                if let Err(error) = self.forget_untold(room).await {
                    self.metrics.store_failed("outbox", &error);
                }
            }
            // The next turn asks again.
            Err(_) => {}
        }
    }

    async fn forget_untold(&self, room: RoomId) -> crate::services::ports::Result<()> {
        let gifts = self.money.untold(room, ROOMS_TO_TELL).await?;
        let places: Vec<(RoomId, i64)> = gifts.into_iter().map(|gift| (room, gift.gift_seq)).collect();
        self.money.told(&places).await
    }

    /// Registers this router, and takes the rings from the registry.
    pub(crate) async fn register(&self) {
        // One at a time: what is said last is what is true last, also when the router drains meanwhile.
        let mut known = self.known.lock().await;
        let now_ms = self.state.clock.now_ms();
        // First: whether there are gateways decides about what this router says of itself.
        self.read_gateways(&mut known, now_ms).await;
        let registered = async {
            let me = self.node_info();
            self.displacement.register(&self.state, &me, now_ms, now_ms + millis(REGISTERED)).await?;
            self.state.registry.nodes(NodeKind::Router, now_ms).await
        };
        match registered.await {
            Ok(routers) => {
                let is_forgiving = known.is_forgiving(self.state.watch.generation());
                known.routers = remembered(&known.routers, routers, is_forgiving);
                let is_changed = self.ownership.set_routers(&known.routers);
                if let Some(core) = self.me() {
                    self.dials.set_routers(&core, &known.routers);
                    if is_changed {
                        dispatch::wake_wanted(&core).await;
                    }
                }
            }
            Err(error) => {
                // The others are refused as well, it may be, and their entries run out though they live.
                known.doubt();
                self.metrics.store_failed("registry", &error);
            }
        }
    }

    /// Reads the list of gateways again: nobody could be sent anywhere.
    pub(crate) async fn look_for_gateways(&self) {
        let looks = self.looks.load(Ordering::Acquire);
        let mut known = self.known.lock().await;
        // Whoever had the turn meanwhile has looked for all who waited.
        if self.looks.load(Ordering::Acquire) == looks {
            let now_ms = self.state.clock.now_ms();
            self.read_gateways(&mut known, now_ms).await;
        }
    }

    async fn read_gateways(&self, known: &mut Known, now_ms: u64) {
        match self.state.registry.nodes(NodeKind::Gateway, now_ms).await {
            Ok(gateways) => {
                let is_forgiving = known.is_forgiving(self.state.watch.generation());
                known.gateways = remembered(&known.gateways, gateways, is_forgiving);
                self.fleet.set(&known.gateways);
                self.fleet.compare_heartbeats(&known.gateways, self.config.heartbeat);
            }
            Err(error) => {
                known.doubt();
                self.metrics.store_failed("registry", &error);
            }
        }
        self.look_who_reaches(known.gateways.len());
        self.looks.fetch_add(1, Ordering::Release);
    }

    /// A router without a link port has its gateways in its own process.
    fn look_who_reaches(&self, registered: usize) {
        if self.config.link.listen.is_some() && self.reach.look(self.links.count(), registered, Instant::now()) {
            if self.reach.takes_rooms() {
                tracing::info!("gateways reach this router; it takes rooms");
            } else {
                tracing::warn!(registered, "no gateway has a link to this router; it takes no rooms until one has");
            }
        }
        self.metrics.unreached.set(i64::from(!self.reach.takes_rooms()));
    }

    /// Tells the others that this router drains, so that they own its rooms and send it nothing new.
    pub(crate) async fn register_draining(&self) {
        let known = self.known.lock().await;
        let now_ms = self.state.clock.now_ms();
        let info = self.node_info();
        // Beyond a crash in the middle of the drain it stands no longer than any registration.
        if let Err(error) = self.state.registry.register(&info, now_ms, now_ms + millis(REGISTERED.max(self.config.grace))).await {
            self.metrics.store_failed("registry", &error);
        }
        let routers: Vec<NodeInfo> = known.routers.iter().filter(|router| router.id != info.id).cloned().collect();
        self.ownership.set_routers(&routers);
    }

    /// Takes this router out of the registry.
    pub(crate) async fn deregister(&self) {
        let _known = self.known.lock().await;
        if let Err(error) = self.state.registry.deregister(NodeKind::Router, &self.config.node, self.incarnation).await {
            self.metrics.store_failed("registry", &error);
        }
    }

    fn node_info(&self) -> NodeInfo {
        let link = self.config.link.advertised().map(|address| ("link".to_owned(), address));
        let http = self.http_address.get().map(|address| ("http".to_owned(), address.clone()));
        let mut labels = (*self.state.layout).clone();
        labels.insert(labels::RENEWED_MS.to_owned(), self.state.clock.now_ms().to_string());
        labels.insert(labels::HEARTBEAT_MS.to_owned(), millis(self.config.heartbeat).to_string());
        NodeInfo {
            kind: NodeKind::Router,
            id: self.config.node.clone(),
            incarnation: self.incarnation,
            addresses: link.into_iter().chain(http).collect(),
            capacity: self.config.room.rooms_max as u64,
            load: self.metrics.rooms.get().unsigned_abs(),
            draining: self.is_draining() || !self.reach.takes_rooms(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            labels,
        }
    }
}

/// Makes sure that a router may register; gives the number of its life.
///
/// # Errors
/// Its name is another's, or it is set otherwise than the others.
pub(crate) async fn join(state: &State, config: &RouterConfig) -> Result<u64, StartError> {
    let link = config.link.advertised().map(|address| ("link".to_owned(), address));
    let me = NodeInfo {
        kind: NodeKind::Router,
        id: config.node.clone(),
        incarnation: state.clock.now_ms(),
        addresses: link.into_iter().collect(),
        capacity: 0,
        load: 0,
        draining: true,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        labels: BTreeMap::new(),
    };
    billfish_state::join(state, &me, REGISTERED).await.map_err(|cause| StartError::Join { node: me.id, cause })
}

/// The nodes that count: those that were read, and, after the store may have forgotten, those that were there before.
fn remembered(before: &[NodeInfo], read: Vec<NodeInfo>, is_forgiving: bool) -> Vec<NodeInfo> {
    let mut nodes = read;
    if is_forgiving {
        let missing: Vec<NodeInfo> = before.iter().filter(|node| nodes.iter().all(|other| other.id != node.id)).cloned().collect();
        nodes.extend(missing);
    }
    nodes
}

pub(crate) fn every(period: Duration) -> tokio::time::Interval {
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// `false` when the router drains. Cancel-safe: a tick that was not taken comes again.
pub(crate) async fn tick(core: &Core, ticks: &mut tokio::time::Interval) -> bool {
    tokio::select! {
        _ = ticks.tick() => !core.is_draining(),
        () = core.drains.cancelled() => false,
    }
}
