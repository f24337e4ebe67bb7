//! Places where a test makes the process crash: named steps of what must survive it.
//!
//! `BILLFISH_FAILPOINT=NAME` aborts the process the first time it comes by that place, `NAME:3` the third time: as a kill does, nothing is
//! said to anybody and nothing is put in order. Only in tests of this crate and in builds with the feature `failpoints`; in any other a
//! place is nothing at all.

/// Every place, in the order that a gift passes them.
#[cfg(any(test, feature = "failpoints"))]
pub(crate) const PLACES: [&str; 14] = [
    "pay_taken",
    "pay_begin",
    "pay_begun",
    "pay_told_begin",
    "pay_told_deleted",
    "pay_read",
    "pay_decided",
    "pay_balances_written",
    "pay_records_written",
    "pay_entries_written",
    "pay_outbox_written",
    "pay_commit",
    "pay_committed",
    "pay_answer",
];

/// The process has come to a place.
#[cfg(any(test, feature = "failpoints"))]
pub(crate) fn at(place: &'static str) {
    use std::sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    };
    static CHOSEN: LazyLock<Option<(String, u64)>> = LazyLock::new(|| {
        let chosen = std::env::var("BILLFISH_FAILPOINT").ok()?;
        let (name, turn) = chosen.split_once(':').unwrap_or((&chosen, "1"));
        // Wrong, it would be a test that tests nothing.
        assert!(PLACES.contains(&name), "BILLFISH_FAILPOINT: there is no {name}");
        Some((name.to_owned(), turn.parse().expect("BILLFISH_FAILPOINT is NAME or NAME:TURN")))
    });
    static TURN: AtomicU64 = AtomicU64::new(0);
    debug_assert!(PLACES.contains(&place), "{place} is not listed");
    if let Some((name, turn)) = &*CHOSEN
        && name == place
        && TURN.fetch_add(1, Relaxed) + 1 == *turn
    {
        eprintln!("crashes at {place}, turn {turn}");
        std::process::abort();
    }
}

/// The process has come to a place.
#[cfg(not(any(test, feature = "failpoints")))]
pub(crate) const fn at(_place: &'static str) {}
