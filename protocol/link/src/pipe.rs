//! A link within one process: two bounded queues, no bytes, no task.

use crate::{CREDIT_ENVELOPES, Link, PeerKind, Pump};
use tokio::sync::mpsc;

/// Both ends of a new link, the gateway's and the router's: of two nodes, by name and life. Each end knows the life of the other one.
#[must_use]
pub fn pair((gateway, gateway_life): (&str, u64), (router, router_life): (&str, u64)) -> (Link, Link) {
    let (up_sender, up_receiver) = mpsc::channel(CREDIT_ENVELOPES);
    let (down_sender, down_receiver) = mpsc::channel(CREDIT_ENVELOPES);
    let end = |peer: &str, kind, incarnation, sender, receiver| Link {
        peer: peer.to_owned(),
        kind,
        incarnation,
        sender,
        receiver,
        pump: Pump::default(),
    };
    (
        end(router, PeerKind::Router, router_life, up_sender, down_receiver),
        end(gateway, PeerKind::Gateway, gateway_life, down_sender, up_receiver),
    )
}
