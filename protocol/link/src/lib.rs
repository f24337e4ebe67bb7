//! Gateway ↔ router: messages, hello, flow control, and the two ends of a link.
//!
//! - [`message`] is generated from `proto/link.proto`.
//! - [`Link`] is one end: a bounded sender and a bounded receiver of envelopes, whether an in-memory pipe ([`pipe`]) or TCP
//!   ([`tcp`]) lies between. Order holds in each direction; whoever sends faster than the other end consumes, waits.
//! - What was sent and not yet consumed is lost with the link: what must arrive is kept by the sender until it is answered.
//!
//! Bodies are opaque text here: the link knows no service.
#![forbid(unsafe_code)]

/// The messages of `proto/link.proto`, as prost generates them.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
pub mod message {
    include!(concat!(env!("OUT_DIR"), "/billfish.link.v1.rs"));
}

mod error;
pub mod pipe;
pub mod tcp;

pub use error::LinkError;

use message::{Envelope, envelope::Kind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// The newest version of the link that this node speaks. Both ends speak the smaller of their newest, where neither is below the other's
/// oldest.
///
/// New fields and new envelopes need no new version: who does not know them passes them over, and what they bring is missing until the
/// other end is updated too. A release whose meaning the last one would get wrong raises this by one and leaves [`VERSION_MIN`] at the last
/// one's, so that nodes can be updated one after the other, in any order, by one release at a time.
pub const VERSION: u32 = 1;
/// The oldest version that this node still speaks.
pub const VERSION_MIN: u32 = 1;
const _: () = assert!(VERSION_MIN <= VERSION && VERSION <= VERSION_MIN + 1, "this release and the one before, and no more to be tested");
/// Envelopes in flight on one link and direction, before the sender waits: at 300 bytes each about 5 MB.
pub const CREDIT_ENVELOPES: usize = 16 * 1024;

/// Bytes of envelopes in flight on one TCP link and direction, before the sender waits: the peer holds them until its application takes them.
/// A pipe holds what both ends share, and counts envelopes alone.
pub const IN_FLIGHT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What the links of a node have sent and the other ends have not consumed, all together. Clones are one.
#[derive(Clone, Debug, Default)]
pub struct InFlight(Arc<AtomicUsize>);

impl InFlight {
    /// Bytes of envelopes as they are on the wire. Pipes have none, and a link that has ended has none left.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a node at the end of a link is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PeerKind {
    /// Holds connections of clients.
    #[default]
    Gateway,
    /// Owns rooms.
    Router,
}

impl PeerKind {
    const fn number(self) -> u32 {
        match self {
            Self::Gateway => 0,
            Self::Router => 1,
        }
    }

    const fn of(number: u32) -> Self {
        if number == 1 { Self::Router } else { Self::Gateway }
    }
}

/// One end of a link that is up.
///
/// Dropping it closes the link: what it has been given to send is still written out, within bounds, then the peer's receiver ends.
/// The two halves may be taken apart; dropping the receiver, or the last sender, closes the link just the same. Whoever sees the
/// receiver end or a send fail drops the rest.
#[derive(Debug)]
pub struct Link {
    /// Name of the node at the other end.
    pub peer: String,
    /// What it is.
    pub kind: PeerKind,
    /// The peer's incarnation: rises with every start of that node.
    pub incarnation: u64,
    /// To the peer. Waits when the credit is used up.
    pub sender: mpsc::Sender<Kind>,
    /// From the peer; ends when the link is gone. What is taken from it gives the peer its credit back.
    pub receiver: mpsc::Receiver<Kind>,
    /// The task between the halves and the socket.
    pub pump: Pump,
}

impl Link {
    /// Closes this end and waits until what it was given to send is written out; tells what ended the link if that was not this.
    pub async fn close(self) -> Result<(), LinkError> {
        let Self { sender, receiver, pump, .. } = self;
        drop((sender, receiver));
        pump.ended().await
    }
}

/// The task that moves envelopes between a [`Link`]'s halves and its socket; a pipe has none. It holds nothing but the socket
/// and ends with either half, so dropping this leaves nothing behind; keep it to learn why a link ended.
#[derive(Debug, Default)]
pub struct Pump(Option<JoinHandle<Result<(), LinkError>>>);

impl Pump {
    /// Waits for the end: `Ok` when one of the ends closed the link.
    pub async fn ended(self) -> Result<(), LinkError> {
        match self.0 {
            Some(task) => task.await.unwrap_or_else(|ended| {
                // Cancelled: the runtime is going down. Anything else is our bug, and goes on being one.
                if let Ok(panic) = ended.try_into_panic() {
                    std::panic::resume_unwind(panic);
                }
                Ok(())
            }),
            None => Ok(()),
        }
    }
}

impl From<Kind> for Envelope {
    fn from(kind: Kind) -> Self {
        Self { kind: Some(kind) }
    }
}
