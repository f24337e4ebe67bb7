//! Accounting of every copy: who saw which message, how often, and in which order.
//!
//! - A copy is (member, message number). Numbers are the sender's, 0, 1, 2 … per room; order is the server's `seq`.
//! - Exact, not sampled: a member remembers every number it has seen, as ranges, so a member that saw everything remembers two numbers.
//! - No socket and no clock in here: the crowd says what arrived and when.

use billfish_wire::Class;
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

    /// Whether `number` was seen.
    pub(crate) fn has(&self, number: u32) -> bool {
        if number >= self.from {
            return number < self.until;
        }
        let older = self.older.as_deref().map_or(&[][..], Vec::as_slice);
        older.get(older.partition_point(|&(_, until)| until <= number)).is_some_and(|&(from, _)| from <= number)
    }

    /// What was seen, as ascending ranges that exclude their ends; the last may be empty.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = (u32, u32)> {
        self.older.iter().flat_map(|older| older.iter().copied()).chain([(self.from, self.until)])
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
    /// The same where each class has an order of its own.
    newest_by_class: Option<Box<[i64; Class::ALL.len()]>>,
}

impl MemberTally {
    /// Books a copy of message `number` that stands at `order` in its room. `class`: that of the stream it came on, where each class has one.
    /// Then it is compared with what came before it on that stream: nothing orders the streams among each other.
    pub(crate) fn on_copy(&mut self, number: u32, order: i64, class: Option<Class>) -> Copy {
        if !self.seen.insert(number) {
            return Copy::Again;
        }
        let newest_order = match class {
            None => &mut self.newest_order,
            Some(class) => &mut self.newest_by_class.get_or_insert_default()[class as usize],
        };
        if order <= *newest_order {
            return Copy::Overtaken;
        }
        *newest_order = order;
        Copy::InOrder
    }

    /// Whether it has message `number`.
    pub(crate) fn has(&self, number: u32) -> bool {
        self.seen.has(number)
    }

    /// How many messages it has.
    pub(crate) fn received(&self) -> u64 {
        self.seen.ranges().map(|(from, until)| u64::from(until - from)).sum()
    }

    /// Which of the messages 0 to `until` it has not, as ranges that exclude their ends; at most `ranges_max` of them.
    pub(crate) fn holes(&self, until: u32, ranges_max: usize) -> Vec<(u32, u32)> {
        let mut next = 0;
        let mut holes = Vec::new();
        for (from, end) in self.seen.ranges().filter(|(from, end)| from < end).chain([(until, until)]) {
            if next < from && holes.len() < ranges_max {
                holes.push((next, from));
            }
            next = next.max(end);
        }
        holes
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
    /// Copies that their receiver had already.
    pub(crate) twice: u32,
    /// First copies that came behind something later.
    pub(crate) overtaken: u32,
}

impl MessageTally {
    /// Adds another worker's view of the same message.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.received += other.received;
        self.intended_ns = self.intended_ns.max(other.intended_ns);
        self.last_ns = self.last_ns.max(other.last_ns);
        self.twice += other.twice;
        self.overtaken += other.overtaken;
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

/// The account of a room load during which the gateway may end the connections of those who are too slow.
///
/// How many messages such a connection was due nobody outside the gateway knows. But the gateway counts the copies it makes, those it writes and
/// those it drops, and no other push to a room has the load's class, so what is not due to the others was due to those it ended:
///
/// ```text
///   due to the ended = delivered + dropped, of the class, by the gateway - messages x members that stayed
///   expected         = messages x members that stayed + due to the ended
///   missing          = expected - received - dropped - destroyed by a reset
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LagAccount {
    /// Messages times members that stayed to the end.
    pub(crate) stayed_copies: u64,
    /// Messages times members that the gateway ended: more they cannot have been due.
    pub(crate) ended_copies: u64,
    /// First copies that those had received.
    pub(crate) ended_received: u64,
    /// How many of the ended connections ended in a reset, behind which the kernel forgets what it has not sent.
    pub(crate) resets: u64,
    /// Copies of the load's class that the gateway wrote,
    pub(crate) class_delivered: u64,
    /// and that it dropped.
    pub(crate) class_dropped: u64,
    /// First copies, all together.
    pub(crate) received: u64,
    /// Bytes of one.
    pub(crate) frame_bytes: u64,
}

/// What a reset can destroy at most: a send buffer of 16 KiB, of which the kernel makes twice that and into which, as long as it is not full, it
/// takes one write more. The gateway's largest is that of a job of pushes, 16 KiB
const RESET_BYTES_MAX: u64 = 48 * 1024;
/// and a last push; and of a push that was written in part the other part goes too.
const RESET_FRAMES_MORE: u64 = 2;

/// What a [`LagAccount`] comes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LagBalance {
    /// Copies that should have arrived.
    pub(crate) expected: u64,
    /// Written by the gateway and destroyed by a reset.
    pub(crate) destroyed: u64,
    /// Neither received, nor dropped by a counter, nor destroyed.
    pub(crate) missing: u64,
    /// Dropped by a counter and yet received.
    pub(crate) overdropped: u64,
}

impl LagAccount {
    /// Whether the gateway has counted all that must have happened: what arrived as written, and what was due to those who stayed as made.
    pub(crate) fn is_booked(&self) -> bool {
        self.class_delivered >= self.received && self.class_delivered + self.class_dropped >= self.stayed_copies
    }

    /// Settles it.
    pub(crate) fn settle(&self) -> LagBalance {
        let made = self.class_delivered + self.class_dropped;
        let ended_due = made.saturating_sub(self.stayed_copies).min(self.ended_copies).max(self.ended_received);
        let expected = self.stayed_copies + ended_due;
        let lost = expected.saturating_sub(self.received);
        let unexplained = lost.saturating_sub(self.class_dropped);
        let frame_bytes = self.frame_bytes.max(1);
        let destroyed = unexplained.min(self.resets * (RESET_BYTES_MAX / frame_bytes + RESET_FRAMES_MORE));
        // A message that never reached the gateway must not hide behind drops of another. What arrived was made, whatever the counters say.
        let never_made = self.stayed_copies.saturating_sub(made).min(lost);
        LagBalance {
            expected,
            destroyed,
            missing: (unexplained - destroyed).max(never_made),
            overdropped: self.class_dropped.saturating_sub(lost),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Balance, Copy, LagAccount, LagBalance, MemberTally, RESET_BYTES_MAX, RESET_FRAMES_MORE, Seen, Totals};
    use billfish_wire::Class;
    use std::collections::{BTreeMap, BTreeSet};

    /// Feeds one member with (number, seq) pairs.
    fn fed(copies: &[(u32, i64)]) -> Totals {
        let (mut member, mut totals) = (MemberTally::default(), Totals::default());
        for &(number, order) in copies {
            totals.book(member.on_copy(number, order, None));
        }
        totals
    }

    #[test]
    fn what_was_seen_is_known_among_gaps() {
        let mut seen = Seen::default();
        assert!(!seen.has(0));
        for number in [3, 4, 8, 0, 20, 9] {
            seen.insert(number);
        }
        let has: Vec<_> = (0..30).filter(|&number| seen.has(number)).collect();
        assert_eq!(has, [0, 3, 4, 8, 9, 20]);
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
        assert_eq!(member.on_copy(5, 50, None), Copy::InOrder);
        assert_eq!(member.on_copy(5, 50, None), Copy::Again);
        assert_eq!(member.on_copy(4, 40, None), Copy::Overtaken);
    }

    #[test]
    fn where_each_class_has_a_stream_order_is_broken_within_a_class_alone() {
        let mut member = MemberTally::default();
        assert_eq!(member.on_copy(2, 30, Some(Class::Event)), Copy::InOrder);
        assert_eq!(member.on_copy(0, 10, Some(Class::Chat)), Copy::InOrder, "a gift may come before the chat that was said earlier");
        assert_eq!(member.on_copy(3, 40, Some(Class::Chat)), Copy::InOrder);
        assert_eq!(member.on_copy(1, 20, Some(Class::Chat)), Copy::Overtaken);
        assert_eq!(member.on_copy(2, 30, Some(Class::Chat)), Copy::Again, "however it came");
    }

    #[test]
    fn a_member_knows_how_many_it_has_and_which_it_lacks() {
        let mut member = MemberTally::default();
        assert_eq!((member.received(), member.holes(3, 9)), (0, vec![(0, 3)]));
        for number in [1, 2, 5, 8] {
            member.on_copy(number, i64::from(number) + 1, None);
        }
        assert_eq!(member.received(), 4);
        assert_eq!(member.holes(10, 9), [(0, 1), (3, 5), (6, 8), (9, 10)]);
        assert_eq!(member.holes(9, 2), [(0, 1), (3, 5)], "bounded");
    }

    /// Ten stayed and got 100 messages each, of which 40 copies were dropped; two were ended, which had got 30 and 50 and lost 25 and 20.
    const LAG: LagAccount = LagAccount {
        stayed_copies: 1_000,
        ended_copies: 200,
        ended_received: 80,
        resets: 0,
        class_delivered: 960 + 80,
        class_dropped: 40 + 45,
        received: 960 + 80,
        frame_bytes: 100,
    };

    #[test]
    fn what_was_due_to_those_the_gateway_ended_follows_from_its_counters() {
        assert_eq!(LAG.settle(), LagBalance { expected: 1_125, ..LagBalance::default() });
    }

    #[test]
    fn a_copy_lost_with_slow_readers_around_is_missing_and_an_invented_drop_is_seen() {
        let lost = LagAccount { received: LAG.received - 1, ..LAG };
        assert_eq!(lost.settle().missing, 1);
        let uncounted = LagAccount { class_dropped: LAG.class_dropped - 1, class_delivered: LAG.class_delivered + 1, ..LAG };
        assert_eq!(uncounted.settle().missing, 1);
        let never_made = LagAccount { class_delivered: 0, class_dropped: 990, received: 10, ended_received: 0, ..LAG };
        assert_eq!(never_made.settle().missing, 10, "drops do not explain copies that were never made");
        let invented = LagAccount { class_dropped: LAG.class_dropped + 7, class_delivered: LAG.class_delivered - 7, ..LAG };
        assert_eq!(invented.settle().overdropped, 7);
    }

    #[test]
    fn counters_that_lag_behind_the_copies_invent_no_loss() {
        let all_arrived =
            LagAccount { stayed_copies: 20_000, class_delivered: 20_000, received: 20_000, frame_bytes: 100, ..LagAccount::default() };
        assert!(all_arrived.is_booked());
        // The last lap of a fan-out is written and not yet counted.
        let early = LagAccount { class_delivered: 19_994, ..all_arrived };
        assert!(!early.is_booked());
        assert_eq!(early.settle(), LagBalance { expected: 20_000, ..LagBalance::default() });
        let one_lost = LagAccount { received: 19_999, ..early };
        assert_eq!(one_lost.settle().missing, 1, "never more than did not arrive");
        assert!(!LagAccount { class_delivered: 19_993, class_dropped: 6, received: 19_990, ..early }.is_booked(), "one was never made");
    }

    #[test]
    fn a_reset_explains_what_a_send_buffer_holds_and_no_more() {
        let bound = RESET_BYTES_MAX / LAG.frame_bytes + RESET_FRAMES_MORE;
        let ended = LagAccount { resets: 1, ended_copies: 2_000, ..LAG };
        let reset = |lost| LagAccount { class_delivered: ended.class_delivered + lost, ..ended }.settle();
        assert_eq!((reset(bound).destroyed, reset(bound).missing), (bound, 0));
        assert_eq!((reset(bound + 1).destroyed, reset(bound + 1).missing), (bound, 1));
    }
}
