//! This gateway's entry among the nodes: where it is, how full, and whether it takes anyone new.
//!
//! - Under a lease: an entry that is not renewed vanishes, so a gateway that was killed is not sent clients for long.
//! - A store that may have forgotten it is told again at once.
//! - Without a link to a router it takes nobody: its clients could do nothing here. With the first link it says so at once.
//! - Tells also which other gateways there are, for sending clients there.

use crate::{
    health::Health,
    metrics::{Metrics, Port},
    store::Store,
};
use billfish_state::{NodeInfo, NodeKind, NotJoined, State, labels};
use billfish_wire::limits::ADDRESSES_MAX;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// This node, towards the registry.
#[derive(Debug)]
pub(crate) struct Registration {
    pub(crate) store: Arc<Store>,
    pub(crate) health: Arc<Health>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) node: String,
    pub(crate) incarnation: u64,
    /// By transport.
    pub(crate) addresses: Vec<(String, String)>,
    pub(crate) connections_max: u32,
    pub(crate) heartbeat_gap: Duration,
    /// After which a session is over; routers go by it too.
    pub(crate) silence: Duration,
}

impl Registration {
    /// Renews the entry until `stop`, then withdraws it.
    pub(crate) async fn run(&self, stop: &CancellationToken) {
        let watch = &self.store.state.watch;
        loop {
            let known = watch.generation();
            let had_no_link = self.health.has_no_link();
            self.renew().await;
            let due = async {
                let at = tokio::time::Instant::now() + RENEW_EVERY;
                let is_linked = || had_no_link && !self.health.has_no_link();
                while tokio::time::Instant::now() < at && watch.generation() == known && !is_linked() {
                    tokio::time::sleep(LOOK_EVERY).await;
                }
            };
            tokio::select! {
                () = due => {}
                () = stop.cancelled() => break,
            }
        }
        let registry = &self.store.state.registry;
        drop(self.store.call(Port::Registry, registry.deregister(NodeKind::Gateway, &self.node, self.incarnation)).await);
    }

    /// Writes the entry as things stand now. A failure is counted, and made good by the next.
    pub(crate) async fn renew(&self) {
        let now = self.store.now_ms();
        let draining = self.health.is_draining() || self.health.has_no_link();
        let node = NodeInfo {
            capacity: u64::from(self.connections_max),
            load: self.metrics.connections(),
            draining,
            labels: self.labels(now),
            ..entry(&self.node, self.incarnation, &self.addresses)
        };
        let state = &self.store.state;
        drop(self.store.call(Port::Registry, self.health.displacement.register(state, &node, now, now + LEASE_MS)).await);
    }

    fn labels(&self, now_ms: u64) -> BTreeMap<String, String> {
        let mut labels = (*self.store.state.layout).clone();
        labels.insert(labels::RENEWED_MS.to_owned(), now_ms.to_string());
        labels.insert(labels::HEARTBEAT_MS.to_owned(), self.heartbeat_gap.as_millis().to_string());
        labels.insert(labels::SILENCE_MS.to_owned(), self.silence.as_millis().to_string());
        labels
    }

    /// Addresses of other gateways that take clients, by transport; none when the registry does not say.
    pub(crate) async fn others(&self) -> BTreeMap<String, Vec<String>> {
        let nodes = self.store.call(Port::Registry, self.store.state.registry.nodes(NodeKind::Gateway, self.store.now_ms())).await;
        let others = nodes.unwrap_or_default().into_iter().filter(|node| node.id != self.node && !node.draining);
        let mut by_transport: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (transport, address) in others.flat_map(|node| node.addresses) {
            let addresses = by_transport.entry(transport).or_default();
            if addresses.len() < ADDRESSES_MAX {
                addresses.push(address);
            }
        }
        by_transport
    }
}

/// Makes sure that a gateway may register; gives the number of its life.
///
/// # Errors
/// Its name is another's, or it is set otherwise than the others.
pub(crate) async fn join(state: &State, node: &str, addresses: &[(String, String)]) -> Result<u64, NotJoined> {
    let me = entry(node, state.clock.now_ms(), addresses);
    billfish_state::join(state, &me, Duration::from_millis(LEASE_MS)).await
}

fn entry(node: &str, incarnation: u64, addresses: &[(String, String)]) -> NodeInfo {
    NodeInfo {
        kind: NodeKind::Gateway,
        id: node.to_owned(),
        incarnation,
        addresses: addresses.to_vec(),
        capacity: 0,
        load: 0,
        draining: true,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        labels: BTreeMap::new(),
    }
}

/// A third of the lease, so that two renewals may fail.
const RENEW_EVERY: Duration = Duration::from_secs(2);
const LEASE_MS: u64 = 6_000;
/// How soon a store that may have forgotten the entry is noticed.
const LOOK_EVERY: Duration = Duration::from_millis(100);
