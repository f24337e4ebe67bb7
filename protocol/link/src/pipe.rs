//! A link within one process: two bounded queues, no bytes, no task.

use crate::{CREDIT_ENVELOPES, Link, Pump};
use tokio::sync::mpsc;

/// Both ends of a new link: the gateway's, then the router's.
#[must_use]
pub fn pair(gateway_node: &str, router_node: &str, incarnation: u64) -> (Link, Link) {
    let (up_sender, up_receiver) = mpsc::channel(CREDIT_ENVELOPES);
    let (down_sender, down_receiver) = mpsc::channel(CREDIT_ENVELOPES);
    let end = |peer: &str, sender, receiver| Link { peer: peer.to_owned(), incarnation, sender, receiver, pump: Pump::default() };
    (end(router_node, up_sender, down_receiver), end(gateway_node, down_sender, up_receiver))
}
