//! Kicks whose sessions have no seat here: they may be on their way to one.
//!
//! - A LOGIN binds its route first and takes its seat afterwards. Another gateway that binds the same route in between has this session
//!   ended before it is there; so that is remembered for longer than any LOGIN takes.
//! - Whoever seats a session looks here afterwards, and whoever kicks one notes it here before looking for its seat: one of them sees
//!   the other.
//! - Most that stand here are of sessions that have ended by themselves, for a kick comes over every router. Session numbers are not used
//!   twice, so those do no harm.
//! - Bounded in number and time: the oldest give way.

use crate::shard::message::Origin;
use billfish_wire::Reason;
use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// The table. See the module's words.
#[derive(Debug, Default)]
pub(super) struct EarlyKicks(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    /// Why, and until when it is remembered.
    kicks: HashMap<Origin, (Reason, u64), foldhash::fast::RandomState>,
    /// In the order in which they came and go. Holds those too that were taken out meanwhile.
    order: VecDeque<(u64, Origin)>,
    gave_way: u64,
}

impl EarlyKicks {
    /// Remembers a kick. One that stands already stays as it is: it is one and the same, over another router.
    pub(super) fn note(&self, origin: Origin, reason: Reason, now_ms: u64) {
        let mut table = self.table();
        table.forget(now_ms);
        if table.kicks.contains_key(&origin) {
            return;
        }
        if table.order.len() >= KICKS_MAX && table.forget_oldest() {
            table.gave_way += 1;
        }
        let until_ms = now_ms + KICK_KEPT_MS;
        table.kicks.insert(origin, (reason, until_ms));
        table.order.push_back((until_ms, origin));
    }

    /// Takes out what was noted of a session.
    pub(super) fn take(&self, origin: Origin, now_ms: u64) -> Option<Reason> {
        let mut table = self.table();
        table.forget(now_ms);
        table.kicks.remove(&origin).map(|(reason, _)| reason)
    }

    /// How many stand here, and how many had to give way so far.
    pub(super) fn figures(&self) -> (usize, u64) {
        let table = self.table();
        (table.kicks.len(), table.gave_way)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn forget(&mut self, now_ms: u64) {
        while self.order.front().is_some_and(|(until_ms, _)| *until_ms <= now_ms) {
            self.forget_oldest();
        }
    }

    /// `false`: it was taken out before, and the same session may have been noted again since.
    fn forget_oldest(&mut self) -> bool {
        let Some((until_ms, origin)) = self.order.pop_front() else { return false };
        let stands = self.kicks.get(&origin).is_some_and(|(_, kept_ms)| *kept_ms == until_ms);
        if stands {
            self.kicks.remove(&origin);
        }
        stands
    }
}

/// Kicks remembered: a thousand for each second that one is remembered, far more than users come in elsewhere.
const KICKS_MAX: usize = 32_768;
/// From a route that is bound to a seat that is taken it is two calls to the store, of at most 2 s each.
const KICK_KEPT_MS: u64 = 30_000;

#[cfg(test)]
mod tests {
    use super::{EarlyKicks, KICK_KEPT_MS, KICKS_MAX};
    use crate::shard::message::Origin;
    use billfish_state::DeviceKind;
    use billfish_wire::Reason;

    fn session(session: u64) -> Origin {
        Origin { app_id: 10_001, user_id: 20_001, device: DeviceKind::Web, session }
    }

    #[test]
    fn a_kick_is_remembered_for_its_own_session_and_taken_once() {
        let kicks = EarlyKicks::default();
        for _ in 0..2 {
            kicks.note(session(1), Reason::DuplicateLogin, 0);
        }
        assert_eq!((kicks.take(session(2), 1), kicks.figures()), (None, (1, 0)));
        assert_eq!(kicks.take(session(1), KICK_KEPT_MS - 1), Some(Reason::DuplicateLogin));
        assert_eq!((kicks.take(session(1), KICK_KEPT_MS - 1), kicks.figures()), (None, (0, 0)));
    }

    #[test]
    fn a_kick_is_forgotten_when_its_time_is_over_and_one_noted_again_has_its_own() {
        let kicks = EarlyKicks::default();
        kicks.note(session(1), Reason::DuplicateLogin, 0);
        kicks.note(session(2), Reason::DuplicateLogin, 0);
        kicks.take(session(1), 0);
        kicks.note(session(1), Reason::DuplicateLogin, 10);
        assert_eq!(kicks.take(session(2), KICK_KEPT_MS + 9), None);
        assert_eq!(kicks.take(session(1), KICK_KEPT_MS + 9), Some(Reason::DuplicateLogin));
    }

    #[test]
    fn the_oldest_give_way_and_are_counted() {
        let kicks = EarlyKicks::default();
        for number in 0..=KICKS_MAX as u64 {
            kicks.note(session(number), Reason::DuplicateLogin, 0);
        }
        assert_eq!(kicks.figures(), (KICKS_MAX, 1));
        assert_eq!((kicks.take(session(0), 0), kicks.take(session(1), 0)), (None, Some(Reason::DuplicateLogin)));
    }
}
