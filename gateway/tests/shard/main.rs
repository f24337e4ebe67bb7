//! A shard with real sockets on one side and a stand-in for the control plane on the other.
#![expect(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "a test may fail")]

mod accept;
mod framing;
mod house;
mod life;
mod rooms;
mod slow;
