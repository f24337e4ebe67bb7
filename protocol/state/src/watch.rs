//! How a store is: whether it answers, and whether it may have forgotten.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{
        AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
    },
};

/// Read by nodes, written by the adapter; clones are one watch. The in-process store is always there and forgets nothing.
#[derive(Clone, Debug, Default)]
pub struct Watch(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    generation: AtomicU64,
    /// Of these, the last that has been looked into.
    looked_into: AtomicU64,
    losses: AtomicU64,
    given_way: AtomicU64,
    away: Mutex<Option<String>>,
}

impl Watch {
    /// Rises whenever the store may have lost what it had acknowledged: a restart, a new primary, a connection that broke. What a node
    /// keeps there (routes, its registration) it then checks again.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.0.generation.load(Relaxed)
    }

    /// Rises when the store is known to have lost all it held: what is missed there since may never have been taken away. Counts for what
    /// was asked while [`Self::is_certain`].
    #[must_use]
    pub fn losses(&self) -> u64 {
        self.0.losses.load(Relaxed)
    }

    /// Whether it is known of every [generation](Self::generation) if all was lost.
    #[must_use]
    pub fn is_certain(&self) -> bool {
        // Whoever sees that it was looked into sees what was found.
        self.0.looked_into.load(Acquire) == self.generation()
    }

    /// Messages that nobody had acknowledged and that an inbox let go when this process appended to it: it keeps its newest.
    #[must_use]
    pub fn inbox_given_way(&self) -> u64 {
        self.0.given_way.load(Relaxed)
    }

    /// Entries of an inbox gave way.
    pub fn gave_way(&self, entries: u64) {
        self.0.given_way.fetch_add(entries, Relaxed);
    }

    /// Why the store cannot be used now, for a person; `None` while it can.
    #[must_use]
    pub fn away(&self) -> Option<String> {
        self.0.away.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The store may have forgotten something.
    pub fn may_have_forgotten(&self) {
        self.0.generation.fetch_add(1, Relaxed);
    }

    /// The store was asked after this generation had begun, and has lost all that it held or not.
    pub fn looked_into(&self, generation: u64, is_lost: bool) {
        self.0.losses.fetch_add(u64::from(is_lost), Relaxed);
        self.0.looked_into.store(generation, Release);
    }

    /// Says why the store cannot be used, or that it can.
    pub fn set_away(&self, why: Option<String>) {
        *self.0.away.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }
}
