//! Why a link did not come up, or went down. `peer` is an address: the name may not be known yet.

use std::io;
use std::time::Duration;

/// See the module. Secrets and bodies never stand in it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// Retrying the same router will not help.
    #[error("{peer} speaks link version {theirs}, this node speaks {ours}")]
    VersionMismatch {
        /// The other end.
        peer: String,
        /// Its version.
        theirs: u32,
        /// The version here.
        ours: u32,
    },
    /// The two nodes are configured with different secrets, or one with none.
    #[error("{peer} has another link secret than this node; `gateway.link.secret` and `router.link.secret` must be the same on all nodes")]
    BadSecret {
        /// The other end.
        peer: String,
    },
    /// The router does not want this gateway.
    #[error("{peer} refused the link: {reason:?}")]
    Refused {
        /// The other end.
        peer: String,
        /// In its words.
        reason: String,
    },
    /// Nothing listens there, or nothing answers to the name.
    #[error("cannot reach {peer}")]
    Unreachable {
        /// The address dialled.
        peer: String,
        /// What the system says.
        #[source]
        cause: io::Error,
    },
    /// The other end did not say its hello in time.
    #[error("{peer} did not complete the hello within {within:?}")]
    HelloTimeout {
        /// The other end.
        peer: String,
        /// How long it had.
        within: Duration,
    },
    /// It speaks, but not this protocol or not in this order.
    #[error("{peer} sent {what} where it may not")]
    OutOfTurn {
        /// The other end.
        peer: String,
        /// What it sent.
        what: &'static str,
    },
    /// Envelopes in flight are sent again after reconnecting.
    #[error("the link to {peer} broke")]
    Broken {
        /// The other end.
        peer: String,
        /// What the system says.
        #[source]
        cause: io::Error,
    },
    /// Not a byte from the other end for too long, or it takes none.
    #[error("{peer} was silent for {after:?}")]
    Silent {
        /// The other end.
        peer: String,
        /// How long.
        after: Duration,
    },
    /// The announced length is above the bound; nothing of it was read.
    #[error("{peer} announced an envelope of {bytes} bytes, at most {max} are taken")]
    TooLarge {
        /// The other end.
        peer: String,
        /// The length announced.
        bytes: usize,
        /// The bound.
        max: usize,
    },
    /// Bytes that are no envelope.
    #[error("{peer} sent what is no envelope")]
    Garbage {
        /// The other end.
        peer: String,
        /// Where it went wrong.
        #[source]
        cause: prost::DecodeError,
    },
    /// It sent without credit, or returned credit that it was never asked for.
    #[error("{peer} does not keep to its credit")]
    Overrun {
        /// The other end.
        peer: String,
    },
}
