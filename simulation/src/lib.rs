//! Many nodes in one thread: whole routers, the gateways' control tables and session machines, clients, a network and a store, with
//! everything that goes wrong drawn from a seed.
//!
//! ```text
//!  client machine ── transport ── gateway (tables + session machines) ── wire ── router (real, own runtime)
//!                      cuts, deaf        crash, no store                cuts,      crash, pause, drain, skewed clock
//!                                                                       holds              │ line: slow, lossy, late, cut
//!                                                                                     store, database
//! ```
//!
//! - A run has three parts: trouble, calm, and probes. What was promised in trouble must have come true by the end of the calm, and the
//!   probes must find a house in order.
//! - Virtual time: a run of a minute and a half takes a fraction of a second. No socket, no thread, no wall clock.
//! - Nothing of the checker believes a number that the house gives: messages are known by their texts.
//!
//! What is modelled and not real: the gateway's calls to the store (routes, presence, ACKs, registry), its shards and its links' pumps.
//! The parts that decide (upstream table, fan-out, directory, sessions, the whole router) are the shipped ones.
#![forbid(unsafe_code)]

mod bug;
mod chaos;
mod check;
mod client;
mod gateway;
mod journal;
mod records;
mod router;
mod store;
mod trace;
mod wire;
mod world;

pub use bug::Bug;
pub use chaos::Scope;
pub use journal::Counts;

/// What became of a run.
#[derive(Clone, Debug)]
pub struct Report {
    /// Of the run.
    pub seed: u64,
    /// Promises that were broken; empty: none.
    pub violations: Vec<String>,
    /// What happened, as far as it was kept.
    pub trace: Vec<String>,
    /// Equal for two runs in which the same happened.
    pub fingerprint: u64,
    /// How much happened.
    pub counts: Counts,
}

/// Runs one seed, with a house that is broken on purpose, or as it is.
#[must_use]
pub fn run(seed: u64, scope: Scope, bug: Option<Bug>) -> Report {
    // What draws a pause for itself (back-off, jitter) draws from the thread's generator.
    fastrand::seed(seed);
    let mut world = world::World::new(seed, scope, bug);
    world.run();
    world.report()
}
