//! The client protocol: what one frame, one body and one number mean.
//!
//! - [`frame`] cuts a byte stream into frames and puts frames into bytes.
//! - [`code`] and [`biz`] name what a frame is for.
//! - [`body`] is the one body type, for both encodings.
//! - [`envelope`] is a frame as text, for a transport that carries text.
//! - [`limits`] and [`reason`] say what is refused, and with which number.
//! - [`snapshot`] is the JSON that JOIN and SYNC replies carry in `data`.
//!
//! No socket, no clock, no runtime: bytes in, values out. The public form of these rules is `docs/protocol.md`.
#![forbid(unsafe_code)]

pub mod biz;
pub mod body;
pub mod code;
pub mod envelope;
pub mod frame;
pub mod limits;
pub mod reason;
pub mod snapshot;

pub use biz::BizCode;
pub use body::{Body, BodyError, Class, Resume};
pub use code::Code;
pub use frame::{Encoding, Frame, FrameError, HEADER_BYTES, Reassembler};
pub use reason::Reason;
