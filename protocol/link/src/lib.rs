//! Gateway ↔ router: messages, hello, flow control, and the two ends of a link.
//!
//! - [`message`] is generated from `proto/link.proto`.
//! - [`Link`] is one end: a bounded sender and a bounded receiver of envelopes, whether an in-memory pipe or TCP lies between.
//!
//! Bodies are opaque text here: the link knows no service.
#![forbid(unsafe_code)]

/// The messages of `proto/link.proto`, as prost generates them.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
pub mod message {
    include!(concat!(env!("OUT_DIR"), "/billfish.link.v1.rs"));
}

pub mod pipe;
pub mod tcp;

use message::{Envelope, envelope::Kind};
use tokio::sync::mpsc;

/// The link's version; both ends must speak the same.
pub const VERSION: u32 = 1;
/// Envelopes in flight on one link and direction, before the sender waits: at 300 bytes each about 5 MB.
pub const CREDIT_ENVELOPES: usize = 16 * 1024;

/// One end of a link that is up. Dropping it closes the link; the peer's receiver then ends.
#[derive(Debug)]
pub struct Link {
    /// Name of the node at the other end.
    pub peer: String,
    /// The peer's incarnation: rises with every start of that node.
    pub incarnation: u64,
    /// To the peer. Waits when the credit is used up.
    pub sender: mpsc::Sender<Kind>,
    /// From the peer; ends when the link is gone. What is taken from it gives the peer its credit back.
    pub receiver: mpsc::Receiver<Kind>,
}

impl From<Kind> for Envelope {
    fn from(kind: Kind) -> Self {
        Self { kind: Some(kind) }
    }
}
