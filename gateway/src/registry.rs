//! This gateway's entry among the nodes: where it is, how full, and whether it takes anyone new.
//!
//! - Under a lease: an entry that is not renewed vanishes, so a gateway that was killed is not sent clients for long.
//! - A store that may have forgotten it is told again at once.
//! - Tells also which other gateways there are, for sending clients there.

use crate::{
    health::Health,
    metrics::{Metrics, Port},
    store::Store,
};
use billfish_state::{NodeInfo, NodeKind};
use billfish_wire::limits::ADDRESSES_MAX;
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// This node, towards the registry.
#[derive(Debug)]
pub(crate) struct Registration {
    pub(crate) store: Arc<Store>,
    pub(crate) health: Arc<Health>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) node: String,
    pub(crate) incarnation: u64,
    pub(crate) address: String,
    pub(crate) connections_max: u32,
}

impl Registration {
    /// Renews the entry until `stop`, then withdraws it.
    pub(crate) async fn run(&self, stop: &CancellationToken) {
        let watch = &self.store.state.watch;
        loop {
            let known = watch.generation();
            self.renew().await;
            let due = async {
                let at = tokio::time::Instant::now() + RENEW_EVERY;
                while tokio::time::Instant::now() < at && watch.generation() == known {
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
        let node = NodeInfo {
            kind: NodeKind::Gateway,
            id: self.node.clone(),
            incarnation: self.incarnation,
            addresses: vec![("tcp".to_owned(), self.address.clone())],
            capacity: u64::from(self.connections_max),
            load: self.metrics.connections(),
            draining: self.health.is_draining(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            labels: Default::default(),
        };
        let now = self.store.now_ms();
        drop(self.store.call(Port::Registry, self.store.state.registry.register(&node, now, now + LEASE_MS)).await);
    }

    /// Addresses of other gateways that take clients; none when the registry does not say.
    pub(crate) async fn others(&self) -> Vec<String> {
        let nodes = self.store.call(Port::Registry, self.store.state.registry.nodes(NodeKind::Gateway, self.store.now_ms())).await;
        let others = nodes.unwrap_or_default().into_iter().filter(|node| node.id != self.node && !node.draining);
        let tcp = others.flat_map(|node| node.addresses).filter(|(transport, _)| transport == "tcp");
        tcp.map(|(_, address)| address).take(ADDRESSES_MAX).collect()
    }
}

/// A third of the lease, so that two renewals may fail.
const RENEW_EVERY: Duration = Duration::from_secs(2);
const LEASE_MS: u64 = 6_000;
/// How soon a store that may have forgotten the entry is noticed.
const LOOK_EVERY: Duration = Duration::from_millis(100);
