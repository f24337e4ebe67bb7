//! The stream's side of the crate: what peers say, right and wrong, and how the transport cuts it.

mod against;
mod autobahn;
mod cuts;
mod peer;
mod rules;
mod written;
