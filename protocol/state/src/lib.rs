//! The live state that gateways and routers share: one port (trait) per need, and the in-process adapter.
//!
//! - Every port takes batches, may wait, and may fail: a remote store must be able to stand behind it with one round trip per call.
//! - A call that failed may have been carried out. Every call is therefore safe to repeat. Three calls say what a repeat costs: [`Dedup::claim`], [`RateWindows::hit`] and
//!   [`LoginCodes::check`].
//! - Times are Unix milliseconds and are passed in, so that tests and simulations own the clock.
//! - Nothing that was paid for depends on anything here: see `docs/adr/`.
#![forbid(unsafe_code)]

mod clock;
mod joining;
pub mod memory;
pub mod port;
mod quiet;
pub mod redis;
pub mod types;
mod watch;

pub use clock::Clock;
pub use joining::{Displaced, Displacement, NotJoined, join, labels};
pub use port::{
    Acks, Cache, Dedup, Inbox, Leases, LoginCodes, Members, PkBars, Presence, RateWindows, Registry, RoomLog, Routes, Sessions, State,
    Tokens,
};
pub use quiet::Quiet;
pub use types::*;
pub use watch::Watch;
