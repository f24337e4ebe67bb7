//! The dialling side: keeps a link to every other router that is registered, and gives answers to those who wait for them.

use super::Peers;
use crate::core::Core;
use billfish_link::{
    Link, PeerKind,
    message::{Reply, envelope::Kind},
    tcp::{Identity, Timing, dial},
};
use billfish_state::NodeInfo;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// First longest wait before a router is dialled again.
const REDIAL_MIN: Duration = Duration::from_millis(100);
/// Longest wait: a router that is back has its links again within this.
const REDIAL_MAX: Duration = Duration::from_secs(5);
/// A link that lived for so long was wanted at both ends.
const LIVED: Duration = Duration::from_secs(5);
/// Routers dialled at once: as many as a registry could sensibly hold.
const DIALS_MAX: usize = 256;

/// Which routers are being dialled, by name and address.
#[derive(Debug, Default)]
pub(crate) struct Dials {
    under_way: Mutex<BTreeMap<(String, String), CancellationToken>>,
}

impl Dials {
    /// The routers that are registered. New ones are dialled, those gone no longer.
    pub(crate) fn set_routers(&self, core: &Arc<Core>, routers: &[NodeInfo]) {
        // A router without a link port has no part in a cluster.
        if core.config.link.listen.is_none() {
            return;
        }
        let address_of = |router: &NodeInfo| {
            let link = router.addresses.iter().find(|(transport, _)| transport == "link");
            link.map(|(_, address)| (router.id.clone(), address.clone()))
        };
        let others = routers.iter().filter(|router| router.id != core.config.node);
        let mut wanted: Vec<(String, String)> = others.filter_map(address_of).collect();
        let left_out = i64::try_from(wanted.len().saturating_sub(DIALS_MAX)).unwrap_or(i64::MAX);
        if core.metrics.peers_not_dialled.set(left_out) != left_out && left_out > 0 {
            tracing::warn!(left_out, limit = DIALS_MAX, "too many routers; what the HTTP API wants of the rooms of some is refused");
        }
        wanted.truncate(DIALS_MAX);
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        under_way.retain(|known, stop| {
            let stays = wanted.contains(known);
            if !stays {
                stop.cancel();
            }
            stays
        });
        for (node, address) in wanted {
            under_way.entry((node.clone(), address.clone())).or_insert_with(|| {
                let stop = core.stop.child_token();
                core.tasks.spawn(keep_linked(Arc::clone(core), node, address, stop.clone()));
                stop
            });
        }
    }
}

/// Keeps a link to one router up until `stop`.
async fn keep_linked(core: Arc<Core>, node: String, address: String, stop: CancellationToken) {
    let identity = core.identity();
    let mut wait = REDIAL_MIN;
    let mut told = None;
    loop {
        let start = Instant::now();
        let dialled = tokio::select! {
            dialled = dial(&address, &identity, Timing::default()) => dialled,
            () = stop.cancelled() => return,
        };
        let failure = match dialled {
            Ok(link) if link.peer == node => {
                carry(&core, link, &stop).await;
                // One that ends soon was not wanted: it is not dialled again at once.
                if start.elapsed() >= LIVED {
                    (wait, told) = (REDIAL_MIN, None);
                }
                None
            }
            Ok(link) => Some(format!("{} answers at this address", link.peer)),
            Err(error) => Some(chain(&error)),
        };
        if failure.is_some() && failure != told {
            tracing::warn!(router = node, %address, failure, "no link to another router; told once, and tried again and again");
            told = failure;
        }
        // Full jitter: after a router's restart the others do not all come at once.
        let jittered = wait.mul_f64(fastrand::f64());
        tokio::select! {
            () = tokio::time::sleep(jittered) => {}
            () = stop.cancelled() => return,
        }
        wait = (wait * 2).min(REDIAL_MAX);
    }
}

/// An error with its causes, for a person.
fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(error.source(), |cause| cause.source()).fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// Asks at the other end of a link for as long as it lives, or until `stop`.
pub(crate) async fn carry(core: &Core, link: Link, stop: &CancellationToken) {
    let Link { peer, incarnation, sender, mut receiver, .. } = link;
    let peers: &Peers = &core.peers;
    let peer = peers.enter(peer, incarnation, sender);
    core.metrics.peer_links(peers.count());
    tracing::info!(router = peer.node, incarnation, "linked to another router");
    loop {
        // Cancel-safe: `recv` takes nothing unless it returns.
        let kind = tokio::select! {
            kind = receiver.recv() => kind,
            () = stop.cancelled() => None,
        };
        match kind {
            Some(Kind::Reply(Reply { id, result: Some(result) })) => peer.answered(id, result),
            Some(_) => tracing::debug!(router = peer.node, "a router sent something other than an answer"),
            None => break,
        }
    }
    peers.leave(&peer);
    // It may be going, and its rooms with it.
    core.look_soon.store(true, Ordering::Relaxed);
    core.metrics.peer_links(peers.count());
    tracing::info!(router = peer.node, "the link to another router ended");
}

impl Core {
    /// Who this router is to those it dials and those who dial it.
    pub(crate) fn identity(&self) -> Identity {
        Identity {
            node: self.config.node.clone(),
            kind: PeerKind::Router,
            incarnation: self.incarnation,
            secret: self.config.link.secret.clone(),
            in_flight: self.metrics.link_in_flight.clone(),
        }
    }
}
