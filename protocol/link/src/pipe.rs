//! A link within one process: two bounded queues, no bytes, no task.

use crate::{CREDIT_ENVELOPES, Link, PeerKind, Pump};
use tokio::sync::mpsc;

/// Both ends of a new link: the gateway's, then the router's.
#[must_use]
pub fn pair(gateway_node: &str, router_node: &str, incarnation: u64) -> (Link, Link) {
    let (up_sender, up_receiver) = mpsc::channel(CREDIT_ENVELOPES);
    let (down_sender, down_receiver) = mpsc::channel(CREDIT_ENVELOPES);
    let end =
        |peer: &str, kind, sender, receiver| Link { peer: peer.to_owned(), kind, incarnation, sender, receiver, pump: Pump::default() };
    (end(router_node, PeerKind::Router, up_sender, down_receiver), end(gateway_node, PeerKind::Gateway, down_sender, up_receiver))
}
