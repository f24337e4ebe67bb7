//! The way to a gateway.
//!
//! Plain TCP today; TLS and QUIC join here with the same four methods. Nothing in here knows a frame.

mod tcp;

pub(crate) use tcp::Tcp as Transport;
