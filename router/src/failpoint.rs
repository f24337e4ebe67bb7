//! Places where a test makes the process crash: named steps of what must survive it.
//!
//! `BILLFISH_FAILPOINT=NAME` aborts the process the first time it comes by that place, `NAME:3` the third time: as a kill does, nothing is
//! said to anybody and nothing is put in order. Only in tests of this crate and in debug builds with the feature `failpoints`; in any other,
//! and so in whatever is released, a place is nothing at all.

/// The steps of a transaction that pays gifts, in the order that a gift passes them; with the next gifts told ones leave the outbox.
#[cfg(any(test, all(feature = "failpoints", debug_assertions)))]
pub(crate) const PAYING: [&str; 14] = [
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

/// The steps behind it, in the room.
#[cfg(any(test, all(feature = "failpoints", debug_assertions)))]
pub(crate) const TELLING: [&str; 11] = [
    "ack_begin",
    "ack_sent",
    "bar_begin",
    "bar_stepped",
    "outbox_begin",
    "outbox_read",
    "publish_begin",
    "publish_logged",
    "publish_sent",
    "told_begin",
    "told_handed_in",
];

/// The process has come to a place.
#[cfg(any(test, all(feature = "failpoints", debug_assertions)))]
pub(crate) fn at(place: &'static str) {
    use std::sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    };
    static OF_ENVIRONMENT: LazyLock<Option<(String, u64)>> =
        LazyLock::new(|| std::env::var("BILLFISH_FAILPOINT").ok().map(|text| chosen(&text)));
    static TURN: AtomicU64 = AtomicU64::new(0);
    debug_assert!(PAYING.contains(&place) || TELLING.contains(&place), "{place} is not listed");
    #[cfg(test)]
    let chosen = ARMED.get().or(OF_ENVIRONMENT.as_ref());
    #[cfg(not(test))]
    let chosen = OF_ENVIRONMENT.as_ref();
    if let Some((name, turn)) = chosen
        && name == place
        && TURN.fetch_add(1, Relaxed) + 1 == *turn
    {
        eprintln!("crashes at {place}, turn {turn}");
        std::process::abort();
    }
}

#[cfg(any(test, all(feature = "failpoints", debug_assertions)))]
fn chosen(text: &str) -> (String, u64) {
    let (name, turn) = text.split_once(':').unwrap_or((text, "1"));
    // Wrong, it would be a test that tests nothing.
    assert!(PAYING.contains(&name) || TELLING.contains(&name), "a place to crash: there is no {name}");
    (name.to_owned(), turn.parse().expect("a place to crash is NAME or NAME:TURN"))
}

#[cfg(test)]
static ARMED: std::sync::OnceLock<(String, u64)> = std::sync::OnceLock::new();

/// From now on, and once: for what has something to do before.
#[cfg(test)]
pub(crate) fn arm(place: &str) {
    ARMED.set(chosen(place)).expect("armed once");
}

/// The process has come to a place.
#[cfg(not(any(test, all(feature = "failpoints", debug_assertions))))]
pub(crate) const fn at(_place: &'static str) {}
