//! The gateway: holds the connections, and knows nothing of gifts or rooms' affairs.
//!
//! - [`shard`] is the data plane: sockets, sessions, fan-out.
#![forbid(unsafe_code)]

pub mod shard;
mod transport;
