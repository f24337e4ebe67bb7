//! What a router does by the clock: registers itself, learns who the other routers are, refreshes the lists of rooms and the
//! block-list of the house.
//!
//! Each is a loop that ends with the router. A failure is counted and tried again at the next turn; nothing here stops the data path.

use crate::{clock::millis, core::Core, services::room::folded, services::room::lists::REFRESH_MS};
use billfish_state::{NodeInfo, NodeKind};
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, MissedTickBehavior};

/// How long a registration stands.
const REGISTERED: Duration = Duration::from_secs(15);
/// Between two registrations.
const REGISTER_EVERY: Duration = Duration::from_secs(5);
/// Between two looks at the block-list of the house.
const WORDS_EVERY: Duration = Duration::from_secs(10);

/// Keeps the node in the registry, and the ring in step with it.
pub(crate) async fn keep_registered(core: Arc<Core>) {
    let mut ticks = every(REGISTER_EVERY);
    while tick(&core, &mut ticks).await {
        core.register().await;
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

/// Keeps the block-list of the house.
pub(crate) async fn keep_words(core: Arc<Core>) {
    let mut ticks = every(WORDS_EVERY);
    while tick(&core, &mut ticks).await {
        match core.records.block_words().await {
            Ok(words) => core.house_words.store(Arc::new(folded(&words))),
            Err(error) => core.metrics.store_failed("block_words", &error),
        }
    }
}

impl Core {
    /// Registers this router, and takes the ring from the registry.
    pub(crate) async fn register(&self) {
        let now_ms = self.state.clock.now_ms();
        let registered = async {
            self.state.registry.register(&self.node_info(), now_ms, now_ms + millis(REGISTERED)).await?;
            self.state.registry.nodes(NodeKind::Router, now_ms).await
        };
        match registered.await {
            Ok(routers) => self.ownership.set_routers(&routers),
            Err(error) => self.metrics.store_failed("registry", &error),
        }
    }

    /// Takes this router out of the registry, so that the others own its rooms.
    pub(crate) async fn deregister(&self) {
        if let Err(error) = self.state.registry.deregister(NodeKind::Router, &self.config.node, self.incarnation).await {
            self.metrics.store_failed("registry", &error);
        }
    }

    fn node_info(&self) -> NodeInfo {
        NodeInfo {
            kind: NodeKind::Router,
            id: self.config.node.clone(),
            incarnation: self.incarnation,
            addresses: self.config.link.listen.iter().map(|address| ("link".to_owned(), address.to_string())).collect(),
            capacity: self.config.room.rooms_max as u64,
            load: self.metrics.rooms.get().unsigned_abs(),
            draining: self.is_draining(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

fn every(period: Duration) -> tokio::time::Interval {
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// `false` when the router stops. Cancel-safe: a tick that was not taken comes again.
async fn tick(core: &Core, ticks: &mut tokio::time::Interval) -> bool {
    tokio::select! {
        _ = ticks.tick() => !core.is_draining(),
        () = core.stop.cancelled() => false,
    }
}
