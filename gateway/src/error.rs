//! Why a gateway does not start.

use crate::{certificates::CertificateError, config::ConfigError};
use billfish_state::NotJoined;
use std::{io, net::SocketAddr};

/// A start that failed; nothing of it is left running.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A key cannot be run with.
    #[error("the configuration cannot be run with: `gateway.{}` {}", .0.key, .0.problem)]
    Config(ConfigError),
    /// A certificate cannot be served with.
    #[error("cannot serve TLS: `gateway.tls.certificates`")]
    Certificates(#[source] CertificateError),
    /// The address is taken, not ours, or not allowed.
    #[error("cannot listen on {address} (`gateway.listen.{transport}`)")]
    Listen {
        /// For which transport: the key below `gateway.listen`.
        transport: &'static str,
        /// Which address.
        address: SocketAddr,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// It may not register under its name, or as it is set.
    #[error("cannot join the others as `gateway.node` = {node:?}")]
    Join {
        /// Its name.
        node: String,
        /// Why not.
        #[source]
        cause: NotJoined,
    },
    /// The kernel gives no poll, no waker or no thread.
    #[error("cannot start shard {shard}")]
    Shard {
        /// Which shard.
        shard: usize,
        /// Why.
        #[source]
        cause: io::Error,
    },
}
