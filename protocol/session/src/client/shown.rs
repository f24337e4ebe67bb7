//! What of a room was shown, and from where the room is resumed.
//!
//! ```text
//!            floor            through                   newest
//!   ───────────┼─────────────────┼────── ■ ── ■ ■ ──────── ■
//!    snapshot  │  every class    │  ahead: seen, with holes before it
//! ```
//!
//! - A message is shown when it is above the floor and newer than all that was shown of its class. Where a connection keeps one order, each
//!   message raises the floor; where it keeps one for each class, only a snapshot does.
//! - A resume asks from `through`, up to which nothing can come any more. Chat that overtook a gift must not lose it.
//! - A hole is no proof of a loss: numbers skip, and slow readers lose chat. It counts as closed when every class has passed it, or when the
//!   connection has been heard over two periods of [`PERIOD_MS`] since: what a living connection lost, it has sent again by then.

use crate::time::Time;
use billfish_wire::Class;
use std::collections::BTreeSet;

/// Numbers remembered ahead of `through`. A room's log on the server holds 500: who is further behind is told of a gap, and nothing is lost
/// unsaid.
const AHEAD_MAX: usize = 512;
/// Some round trips of a bad network, with a loss in each.
const PERIOD_MS: u64 = 2_000;

/// The order that a connection keeps between pushes to a room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// One stream: they come by `seq`, and an answer stands where it belongs among them.
    #[default]
    Total,
    /// A stream for each class, as on QUIC: by `seq` within a class. Pushes and answers may overtake each other.
    PerClass,
}

#[derive(Debug, Default)]
pub(super) struct Shown {
    floor: Option<i64>,
    by_class: [Option<i64>; Class::ALL.len()],
    through: Option<i64>,
    ahead: BTreeSet<i64>,
    doubt: Option<Doubt>,
}

/// Holes that are being waited for.
#[derive(Debug)]
struct Doubt {
    since: Time,
    /// The newest number then.
    newest: Option<i64>,
    /// The newest number a period before, or longer.
    older: Option<i64>,
}

impl Shown {
    /// From where to ask for what is missing; `None`: nothing was shown.
    pub(super) fn through(&self) -> Option<i64> {
        self.through
    }

    /// Whether anything newer was shown.
    pub(super) fn is_past(&self, seq: i64) -> bool {
        self.newest() > Some(seq)
    }

    /// Whether a message may be shown; notes that it was.
    pub(super) fn pass(&mut self, seq: i64, class: Class, order: Order) -> bool {
        if self.stands_behind(seq, class) {
            return false;
        }
        self.by_class[class as usize] = Some(seq);
        match order {
            Order::Total => {
                self.floor = Some(seq);
                self.raise(seq);
            }
            Order::PerClass => {
                if self.ahead.len() < AHEAD_MAX {
                    self.ahead.insert(seq);
                }
                let passed_by_all = self.by_class.iter().min().copied().flatten();
                self.raise(passed_by_all.or(self.through).unwrap_or(seq));
            }
        }
        true
    }

    /// Whether it, or something newer of its class, was shown already.
    pub(super) fn stands_behind(&self, seq: i64, class: Class) -> bool {
        Some(seq) <= self.floor.max(self.by_class[class as usize])
    }

    /// A snapshot stands for everything up to `seq`.
    pub(super) fn cover(&mut self, seq: i64) {
        self.floor = self.floor.max(Some(seq));
        self.raise(seq);
    }

    /// Something came on the connection that the room is entered on.
    pub(super) fn heard(&mut self, now: Time) {
        if self.ahead.is_empty() {
            self.doubt = None;
            return;
        }
        let newest = self.newest();
        match &mut self.doubt {
            None => self.doubt = Some(Doubt { since: now, newest, older: None }),
            Some(doubt) if now >= doubt.since + PERIOD_MS => {
                let closed = doubt.older;
                *doubt = Doubt { since: now, newest, older: doubt.newest };
                if let Some(closed) = closed {
                    self.raise(closed);
                }
            }
            Some(_) => {}
        }
    }

    /// Another connection: what is heard there says nothing of what the last one lost.
    pub(super) fn begin_connection(&mut self) {
        self.doubt = None;
    }

    fn newest(&self) -> Option<i64> {
        self.by_class.iter().max().copied().flatten().max(self.floor)
    }

    /// Nothing up to `seq` is waited for, nor what follows without a hole.
    fn raise(&mut self, seq: i64) {
        let mut through = self.through.max(Some(seq)).unwrap_or(seq);
        if !self.ahead.is_empty() {
            self.ahead = self.ahead.split_off(&through.saturating_add(1));
            while self.ahead.remove(&through.saturating_add(1)) {
                through = through.saturating_add(1);
            }
        }
        self.through = Some(through);
    }
}

#[cfg(test)]
mod tests {
    use super::{AHEAD_MAX, Order, PERIOD_MS, Shown};
    use crate::time::Time;
    use billfish_wire::Class::{self, Ambient, Chat, Control, Event};

    fn after(seq: i64) -> Shown {
        let mut shown = Shown::default();
        shown.cover(seq);
        shown
    }

    fn pass(shown: &mut Shown, seq: i64, class: Class) -> bool {
        shown.pass(seq, class, Order::PerClass)
    }

    #[test]
    fn one_order_shows_what_is_newer_than_all() {
        let mut shown = after(9);
        assert!(!shown.pass(9, Event, Order::Total));
        assert!(shown.pass(12, Chat, Order::Total));
        assert!(!shown.pass(11, Event, Order::Total));
        assert_eq!(shown.through(), Some(12));
    }

    #[test]
    fn an_order_per_class_shows_what_is_newer_than_its_class() {
        let mut shown = after(9);
        assert!(pass(&mut shown, 12, Chat));
        assert!(pass(&mut shown, 11, Event));
        assert!(!pass(&mut shown, 11, Chat) && !pass(&mut shown, 11, Event) && !pass(&mut shown, 9, Control));
        assert!(shown.is_past(11) && !shown.is_past(12));
    }

    #[test]
    fn a_resume_asks_from_before_the_first_hole() {
        let mut shown = after(9);
        pass(&mut shown, 10, Chat);
        pass(&mut shown, 12, Chat);
        pass(&mut shown, 13, Chat);
        assert_eq!(shown.through(), Some(10));
        pass(&mut shown, 11, Event);
        assert_eq!(shown.through(), Some(13));
        pass(&mut shown, 20, Chat);
        shown.cover(15);
        assert_eq!(shown.through(), Some(15));
    }

    #[test]
    fn a_hole_is_closed_when_every_class_has_passed_it() {
        let mut shown = after(9);
        for (seq, class) in [(20, Control), (21, Event), (22, Ambient)] {
            pass(&mut shown, seq, class);
            assert_eq!(shown.through(), Some(9));
        }
        pass(&mut shown, 30, Chat);
        assert_eq!(shown.through(), Some(22), "of 20 to 22 nothing is missing");
    }

    #[test]
    fn a_hole_is_closed_when_the_connection_was_heard_long_enough_and_a_late_message_is_still_shown() {
        let mut shown = after(9);
        pass(&mut shown, 12, Chat);
        shown.heard(Time(0));
        pass(&mut shown, 15, Chat);
        // Silence proves nothing: what comes behind it may be the first of all that is sent again.
        for at in [PERIOD_MS - 1, 100 * PERIOD_MS, 101 * PERIOD_MS - 1] {
            shown.heard(Time(at));
            assert_eq!(shown.through(), Some(9));
        }
        shown.heard(Time(101 * PERIOD_MS));
        assert_eq!(shown.through(), Some(12), "as far as it was waited for");
        assert!(pass(&mut shown, 10, Event));
        shown.heard(Time(102 * PERIOD_MS));
        assert_eq!(shown.through(), Some(15));
    }

    #[test]
    fn another_connection_is_waited_for_anew() {
        let mut shown = after(9);
        pass(&mut shown, 12, Chat);
        for at in [0, PERIOD_MS] {
            shown.heard(Time(at));
        }
        shown.begin_connection();
        for at in [2 * PERIOD_MS, 3 * PERIOD_MS] {
            shown.heard(Time(at));
            assert_eq!(shown.through(), Some(9));
        }
    }

    #[test]
    fn no_more_is_remembered_than_the_bound_and_nothing_is_given_up_for_it() {
        let mut shown = after(9);
        for seq in 0..2_000 {
            assert!(pass(&mut shown, 20 + seq, Chat));
        }
        assert_eq!((shown.ahead.len(), shown.through()), (AHEAD_MAX, Some(9)));
    }
}
