//! QUIC: streams by class, ways in and out, and what a path may do to a connection.

mod client;
mod corpora;
mod path;
mod slow;
mod streams;
mod way_in;
mod way_out;
