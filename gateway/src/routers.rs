//! Which routers there are: read from the registry again and again, for placing rooms and for dialling.
//!
//! - The registry decides who owns rooms, the links decide who can be asked: see [`crate::upstream`].
//! - Where routers are found by the registry, each gets a dialler of its own. It goes when the router has been missing for a while and its
//!   link is dead: a registry that lost an entry ends no link that works.
//! - A registry that cannot be read changes nothing.

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
        while !stop.is_cancelled() {
            let known = watch.generation();
            if let Some(routers) = self.look().await
                && self.discovers
            {
                self.follow(&routers, &mut dialled, stop, &mut diallers);
            }
            while diallers.try_join_next().is_some() {}
            let next = async {
                let at = Instant::now() + LOOK_EVERY;
                while Instant::now() < at && watch.generation() == known {
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
    async fn look(&self) -> Option<Vec<NodeInfo>> {
        let registry = &self.store.state.registry;
        let routers = self.store.call(Port::Registry, registry.nodes(NodeKind::Router, self.store.now_ms())).await.ok()?;
        self.fanout.counters.routers_seen.set(routers.len() as u64);
        let seen = |router: &NodeInfo| RouterSeen { node: router.id.clone(), draining: router.draining };
        self.fanout.upstream.place(routers.iter().map(seen).collect());
        Some(routers)
    }

    fn follow(&self, routers: &[NodeInfo], dialled: &mut BTreeMap<String, Dialled>, stop: &CancellationToken, diallers: &mut JoinSet<()>) {
        let now = Instant::now();
        let mut shown = BTreeSet::new();
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
                warn!(router = %router.id, limit = ROUTERS_MAX, "too many routers; this one is not dialled");
                continue;
            }
            info!(router = %router.id, address, "a router of the registry is dialled");
            let token = stop.child_token();
            self.dial(address.clone(), token.clone(), diallers);
            dialled.insert(router.id.clone(), Dialled { address: address.clone(), stop: token, missing_since: None });
        }
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

/// A router that comes or goes is noticed within this.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How soon a store that may have forgotten its entries is read again.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// A router that is missing for so long, and has no link, does not come back under this address.
const MISSING_MAX: Duration = Duration::from_secs(30);
/// Routers dialled at a time; each is a task and a socket.
const ROUTERS_MAX: usize = 64;
