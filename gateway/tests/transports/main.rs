//! Everything that carries frames, against a whole gateway: the same table of behaviour for each, then what each has of its own.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "a test may fail")]

mod against;
mod authority;
#[path = "../../../protocol/websocket/tests/stream/autobahn.rs"]
mod autobahn;
mod client;
mod corpora;
#[allow(dead_code, reason = "the house has more rooms than are used here")]
#[path = "../control/house.rs"]
mod house;
#[allow(dead_code, reason = "other tests of the same peer use the rest of it")]
#[path = "../../../protocol/websocket/tests/stream/peer.rs"]
mod peer;
mod relay;
mod table;
mod tls;
mod watermarks;
mod websocket;
