//! Decides who receives what, and owns the live-room services.
//!
//! - A message comes up a link, is decided on its room's (or user's) own queue, and leaves as pushes: at most one link message per gateway.
//! - A room has one owner, under a lease with an epoch; losing the lease stops the room at once.
//! - The gateway is a peer on a link: nothing here knows a socket of a client.
#![forbid(unsafe_code)]

mod core;
mod error;
pub mod handle;
pub mod http;
pub mod ledger;
pub mod services;

pub use error::Refusal;
pub use handle::Handle;
pub use http::{HttpConfig, HttpError, HttpParts, HttpServer};
