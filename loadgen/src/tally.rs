//! Accounting of every copy: who saw which message, how often, and in which order.
//!
//! - A copy is (member, message number). Numbers are the sender's, 0, 1, 2 … per room; order is the server's `seq`.
//! - Exact, not sampled: a member remembers every number it has seen, as ranges, so a member that saw everything remembers two numbers.
//! - No socket and no clock in here: the crowd says what arrived and when.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The numbers one member has seen.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// The newest range, `from..until`; empty when both are equal.
    from: u32,
    until: u32,
    /// The ranges before it, ascending, with a gap behind each. Boxed: nearly no member has one.
    #[expect(clippy::box_collection, reason = "8 bytes per member instead of 24")]
    older: Option<Box<Vec<(u32, u32)>>>,
}

impl Seen {
    /// Marks `number` as seen; `false` when it was already.
    pub(crate) fn insert(&mut self, number: u32) -> bool {
        if self.from == self.until {
            (self.from, self.until) = (number, number + 1);
            return true;
        }
        if number == self.until {
            self.until += 1;
            return true;
        }
        if number > self.until {
            self.older.get_or_insert_default().push((self.from, self.until));
            (self.from, self.until) = (number, number + 1);
            return true;
        }
        number < self.from && self.insert_before(number)
    }

    fn insert_before(&mut self, number: u32) -> bool {
        let older = self.older.get_or_insert_default();
        let at = older.partition_point(|&(_, until)| until <= number);
        if older.get(at).is_some_and(|&(from, _)| from <= number) {
            return false;
        }
        let joins_left = at > 0 && older.get(at - 1).is_some_and(|&(_, until)| until == number);
        let right_starts = older.get(at).map_or(self.from, |&(from, _)| from);
        match (joins_left, right_starts == number + 1) {
            (false, false) => older.insert(at, (number, number + 1)),
            (true, false) => older[at - 1].1 = number + 1,
            (joined, true) => {
                let start = if joined { older.remove(at - 1).0 } else { number };
                let right = if joined { at - 1 } else { at };
                match older.get_mut(right) {
                    Some(range) => range.0 = start,
                    None => self.from = start,
                }
            }
        }
        if older.is_empty() {
            self.older = None;
        }
        true
    }
}

/// What one more copy turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Copy {
    /// The first copy of its message, later in the room's order than everything before it.
    InOrder,
    /// The first copy of its message, but something later had arrived already.
    Overtaken,
    /// A copy the member had already.
    Again,
}

/// One member's account.
#[derive(Debug, Default)]
pub(crate) struct MemberTally {
    seen: Seen,
    newest_order: i64,
}

impl MemberTally {
    /// Books a copy of message `number` that stands at `order` in its room.
    pub(crate) fn on_copy(&mut self, number: u32, order: i64) -> Copy {
        if !self.seen.insert(number) {
            return Copy::Again;
        }
        if order <= self.newest_order {
            return Copy::Overtaken;
        }
        self.newest_order = order;
        Copy::InOrder
    }
}

/// Sums over members; summed again over workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Totals {
    /// First copies.
    pub(crate) received: u64,
    /// Copies a member had already.
    pub(crate) duplicates: u64,
    /// First copies that something later had overtaken.
    pub(crate) order_breaks: u64,
    /// Frames of a room or user that were not the receiver's: none may ever be.
    pub(crate) strays: u64,
}

impl Totals {
    /// Books what a copy turned out to be; `true` when it is the member's first of this message.
    pub(crate) fn book(&mut self, copy: Copy) -> bool {
        match copy {
            Copy::InOrder => self.received += 1,
            Copy::Overtaken => {
                self.received += 1;
                self.order_breaks += 1;
            }
            Copy::Again => {
                self.duplicates += 1;
                return false;
            }
        }
        true
    }

    /// Adds another worker's sums.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.received += other.received;
        self.duplicates += other.duplicates;
        self.order_breaks += other.order_breaks;
        self.strays += other.strays;
    }
}

/// One message in one worker: how many of the worker's members have it, and since when the last of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MessageTally {
    /// First copies.
    pub(crate) received: u32,
    /// When it should have been sent.
    pub(crate) intended_ns: u64,
    /// When the last of these copies arrived.
    pub(crate) last_ns: u64,
}

impl MessageTally {
    /// Adds another worker's view of the same message.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.received += other.received;
        self.intended_ns = self.intended_ns.max(other.intended_ns);
        self.last_ns = self.last_ns.max(other.last_ns);
    }
}

/// The balance of a run: what should have arrived against what did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Balance {
    /// Copies that should have arrived: members at the time of sending times messages accepted.
    pub(crate) expected: u64,
    /// Copies that did, each counted once.
    pub(crate) received: u64,
    /// Copies the gateway says it dropped, by class.
    pub(crate) dropped: BTreeMap<String, u64>,
    /// Copies that neither arrived nor stand in a drop counter.
    pub(crate) missing: u64,
}

impl Balance {
    /// Settles the account. Drops beyond what is lost (another user's traffic on the same gateway) explain nothing here.
    pub(crate) fn settle(expected: u64, received: u64, dropped: BTreeMap<String, u64>) -> Self {
        let lost = expected.saturating_sub(received);
        let missing = lost.saturating_sub(dropped.values().sum());
        Self { expected, received, dropped, missing }
    }
}

#[cfg(test)]
mod tests {
    use super::{Balance, Copy, MemberTally, Seen, Totals};
    use std::collections::{BTreeMap, BTreeSet};

    /// Feeds one member with (number, seq) pairs.
    fn fed(copies: &[(u32, i64)]) -> Totals {
        let (mut member, mut totals) = (MemberTally::default(), Totals::default());
        for &(number, order) in copies {
            totals.book(member.on_copy(number, order));
        }
        totals
    }

    #[test]
    fn a_clean_stream_has_nothing_to_report() {
        let totals = fed(&[(0, 1), (1, 2), (2, 3), (3, 4)]);
        assert_eq!(totals, Totals { received: 4, ..Totals::default() });
        assert_eq!(Balance::settle(4, totals.received, BTreeMap::new()).missing, 0);
    }

    #[test]
    fn a_lost_copy_is_missing() {
        let totals = fed(&[(0, 1), (2, 3), (3, 4)]);
        assert_eq!((totals.duplicates, totals.order_breaks), (0, 0));
        assert_eq!(Balance::settle(4, totals.received, BTreeMap::new()).missing, 1);
    }

    #[test]
    fn a_lost_copy_that_stands_in_a_drop_counter_is_not_missing() {
        let totals = fed(&[(0, 1), (2, 3), (3, 4)]);
        let dropped = BTreeMap::from([("chat".to_owned(), 1)]);
        assert_eq!(Balance::settle(4, totals.received, dropped).missing, 0);
    }

    #[test]
    fn a_doubled_copy_is_a_duplicate_and_hides_no_loss() {
        let totals = fed(&[(0, 1), (1, 2), (1, 2), (3, 4)]);
        assert_eq!(totals, Totals { received: 3, duplicates: 1, ..Totals::default() });
        assert_eq!(Balance::settle(4, totals.received, BTreeMap::new()).missing, 1, "three distinct copies of four");
    }

    #[test]
    fn swapped_copies_break_the_order_once_and_are_not_missing() {
        let totals = fed(&[(0, 1), (2, 3), (1, 2), (3, 4)]);
        assert_eq!(totals, Totals { received: 4, order_breaks: 1, ..Totals::default() });
    }

    #[test]
    fn order_is_the_rooms_and_not_the_senders() {
        // Two sender threads: the server took number 1 before number 0.
        let totals = fed(&[(1, 10), (0, 11)]);
        assert_eq!(totals, Totals { received: 2, ..Totals::default() });
    }

    #[test]
    fn every_number_is_new_exactly_once_in_any_order() {
        let mut random = fastrand::Rng::with_seed(7);
        for round in 0..200 {
            let (mut seen, mut model) = (Seen::default(), BTreeSet::new());
            for _ in 0..60 {
                let number = random.u32(0..24);
                assert_eq!(seen.insert(number), model.insert(number), "number {number} in round {round}: {seen:?}");
            }
        }
    }

    #[test]
    fn a_member_that_saw_everything_owns_no_list() {
        let mut seen = Seen::default();
        for number in [0, 1, 4, 3, 2, 5] {
            assert!(seen.insert(number));
        }
        assert!(seen.older.is_none(), "the gap closed again: {seen:?}");
    }

    #[test]
    fn the_first_copy_after_a_loss_is_in_order() {
        let mut member = MemberTally::default();
        assert_eq!(member.on_copy(5, 50), Copy::InOrder);
        assert_eq!(member.on_copy(5, 50), Copy::Again);
        assert_eq!(member.on_copy(4, 40), Copy::Overtaken);
    }
}
