//! A link within one process: two bounded queues, no bytes.

use crate::{CREDIT_ENVELOPES, Link};
use tokio::sync::mpsc;

/// Both ends of a new link: the gateway's, then the router's.
#[must_use]
pub fn pair(gateway_node: &str, router_node: &str, incarnation: u64) -> (Link, Link) {
    let (up_sender, up_receiver) = mpsc::channel(CREDIT_ENVELOPES);
    let (down_sender, down_receiver) = mpsc::channel(CREDIT_ENVELOPES);
    let gateway = Link { peer: router_node.to_owned(), incarnation, sender: up_sender, receiver: down_receiver };
    let router = Link { peer: gateway_node.to_owned(), incarnation, sender: down_sender, receiver: up_receiver };
    (gateway, router)
}
