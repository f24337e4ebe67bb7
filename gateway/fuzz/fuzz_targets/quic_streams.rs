//! The hand-over between a QUIC connection's streams and its shard, under any order of what the network, the task and the shard do: frames come
//! out of the client's stream as if it had come in one piece, each class's stream has its class and its frames whole and in order, what waits is
//! bounded, and nobody waits for ever. `gateway/src/quic/trial.rs` has the form of the input.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| billfish_gateway::fuzz_quic_streams(input));
