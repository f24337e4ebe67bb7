//! WebSocket, RFC 6455, for both ends: what one frame, one message and one opening handshake mean.
//!
//! - [`Decoder`] cuts a byte stream into messages: it unmasks, joins fragments and checks every rule of the framing.
//! - [`frame`] puts messages into bytes; [`close`] names the numbers a connection ends with.
//! - [`handshake`] is the HTTP that comes before: read and written from both sides.
//!
//! No extensions, so no compression, and no subprotocols: what is inside a message is `billfish-wire`'s.
//! No socket, no clock, no runtime, no randomness: bytes in, values out; a client brings its own masks and key.
#![forbid(unsafe_code)]

pub mod close;
pub mod decoder;
pub mod frame;
pub mod handshake;
mod violation;

pub use decoder::{Decoder, Event, FRAGMENTS_MAX, Messages, Role};
pub use frame::{Opcode, apply_mask, close_into, frame_into, header_into};
pub use violation::Violation;
