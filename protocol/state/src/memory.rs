//! The in-process adapter: the embedded default, and the executable model that the Redis adapter is compared with.
//!
//! - Every table is bounded; its limit stands beside it with what happens there: [`StateError::Full`](crate::StateError::Full), or
//!   the entry that would end soonest gives way.
//! - What has run out is not seen, and is dropped by the calls that write, a few entries each: no task, no full scan.
//! - Nothing here awaits: a lock is held for one entry or one small batch, never across a call out.
//!
//! No clock is read: the adapter knows only the times that callers pass in.

mod acks;
#[cfg(test)]
mod bounds;
mod cache;
mod dedup;
mod expiring;
mod inbox;
mod leases;
mod login_codes;
mod members;
mod pk_bars;
mod presence;
mod rate_windows;
mod registry;
mod room_log;
mod routes;
mod sessions;
mod tokens;

use crate::clock::Clock;
use crate::port::State;
use crate::types::{AppId, UserId};
use crate::watch::Watch;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

impl State {
    /// Every port in this process's memory. Gone when the process ends.
    #[must_use]
    pub fn in_memory() -> Self {
        let watch = Watch::default();
        Self {
            clock: Clock::start(),
            watch: watch.clone(),
            layout: Arc::default(),
            tokens: Arc::new(tokens::TokenTable::new()),
            presence: Arc::new(presence::PresenceTable::new()),
            routes: Arc::new(routes::RouteTable::new()),
            acks: Arc::new(acks::AckTable::new()),
            inbox: Arc::new(inbox::InboxTable::new(watch)),
            room_log: Arc::new(room_log::RoomLogTable::new()),
            members: Arc::new(members::MemberTable::new()),
            registry: Arc::new(registry::RegistryTable::new()),
            leases: Arc::new(leases::LeaseTable::new()),
            rate_windows: Arc::new(rate_windows::RateWindowTable::new()),
            dedup: Arc::new(dedup::DedupTable::new()),
            cache: Arc::new(cache::CacheTable::new()),
            pk_bars: Arc::new(pk_bars::PkBarTable::new()),
            login_codes: Arc::new(login_codes::LoginCodeTable::new()),
            sessions: Arc::new(sessions::SessionTable::new()),
        }
    }
}

/// Locks a table. A panic elsewhere while it was held is no reason to lose the rest: no method leaves a table half changed
/// between two statements that can panic.
fn lock<T>(table: &Mutex<T>) -> MutexGuard<'_, T> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Slices of a table that every login and heartbeat touches. More than the cores of a large machine, few enough to cost nothing.
const SHARDS: usize = 16;

/// A table cut into shards by user, each under its own lock. At most one lock is held at a time.
#[derive(Debug)]
struct Sharded<T>([Mutex<T>; SHARDS]);

impl<T> Sharded<T> {
    fn new(mut make: impl FnMut() -> T) -> Self {
        Self(std::array::from_fn(|_| Mutex::new(make())))
    }

    fn of(&self, app: AppId, user: UserId) -> MutexGuard<'_, T> {
        // Neighbouring ids spread evenly (Fibonacci hashing); which shard it is can be known to anyone.
        let mixed = (user.0.cast_unsigned() ^ u64::from(app.0.cast_unsigned()) << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let index = usize::try_from(mixed >> 60).expect("four bits");
        lock(&self.0[index])
    }

    fn each(&self) -> impl Iterator<Item = MutexGuard<'_, T>> {
        self.0.iter().map(lock)
    }
}
