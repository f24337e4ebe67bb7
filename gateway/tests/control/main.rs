//! A whole gateway: real sockets on one side, a scripted router and a state in memory on the other.
#![expect(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "a test may fail")]

mod away;
mod cluster;
mod drain;
mod house;
mod kicks;
mod limits;
mod login;
mod pages;
mod pushes;
mod quic;
mod state;
mod upstream;
