//! The gateway: holds the connections, and knows nothing of gifts or rooms' affairs.
//!
//! - [`shard`] is the data plane: sockets, sessions, fan-out. It runs on threads of its own and never waits.
//! - Everything else is the control side, on tokio: QUIC's packets, logins, links to routers, the shared state, the operator's pages.
//! - The two meet in mailboxes and nowhere else. What a shard says is sorted by `events`, what a router says by `fanout`.
//! - [`start`] builds it, [`Running`] owns every thread and task of it, [`Running::drain`] ends it. Nothing is detached.
#![forbid(unsafe_code)]

mod acks;
pub mod admin;
pub mod admission;
mod auth;
mod batch;
mod bug;
mod certificates;
mod clock;
mod commands;
pub mod config;
mod directory;
mod drain;
mod error;
mod events;
mod fanout;
mod handshakes;
mod health;
mod link;
mod logouts;
mod memory;
pub mod metrics;
mod presence;
mod quic;
mod registry;
mod routers;
mod running;
pub mod shard;
#[cfg(feature = "simulation")]
pub mod simulation;
mod store;
mod transport;
mod upstream;
mod watermarks;

pub use certificates::CertificateError;
pub use config::{ConfigError, GatewayConfig};
pub use error::StartError;
pub use memory::resident_bytes;
pub use metrics::Account;
pub use running::{GatewayParts, Links, Running, check_certificates, start};

/// What the fuzz target `quic_streams` runs: see `quic::trial`.
///
/// # Panics
/// When something does not hold that must.
#[cfg(feature = "fuzzing")]
pub fn fuzz_quic_streams(input: &[u8]) {
    quic::trial::stream_adapter(input);
}
