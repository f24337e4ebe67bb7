//! Both ends of one session as state machines without I/O.
//!
//! - [`server::ServerSession`] is the gateway's end, [`client::ClientSession`] the SDK's and the load generator's.
//! - Frames, verdicts and `now` come in; actions come out, in the order in which they must be carried out.
//! - [`push::Push`] is what is delivered, in a [`Form`] that connections share; [`backlog::Backlog`] is where it waits for a slow reader.
//!
//! No socket, no clock, no runtime. The shell around a machine reads, writes and keeps time, and takes no protocol decision.
#![forbid(unsafe_code)]

pub mod backlog;
pub mod client;
mod form;
pub mod push;
pub mod rate;
pub mod server;
pub mod time;

pub use form::Form;
pub use push::Push;
pub use time::Time;
