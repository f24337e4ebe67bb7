//! Calls that reached a router which does not own their room: to the one that it names, or to the ring's again after a moment.
//!
//! - It is the room that turns, not the call: those behind it on the same link would hear the same, and new ones must not overtake. So all
//!   of them go to the new owner together, in order, or wait together.
//! - Each router is asked once in a round; between two rounds lies a wait that grows. A call gives up when its caller's patience is over.

use super::{
    LinkId, Table,
    calls::{Call, Copy},
};
use smallvec::SmallVec;

/// Where a room's calls go that the ring does not know. A call without a room turns with its user.
#[derive(Debug, Default)]
pub(super) struct Turn {
    /// Named by a router.
    pub(super) owner: Option<LinkId>,
    /// Asked in this round, and not the owner.
    tried: SmallVec<[LinkId; 2]>,
    /// The room's calls wait until then.
    until_ms: Option<u64>,
    /// How long the last wait was; 0: there was none.
    waited_ms: u64,
}

impl Turn {
    pub(super) const fn is_waiting(&self) -> bool {
        self.until_ms.is_some()
    }

    pub(super) fn forget_owner(&mut self) {
        self.owner = None;
        self.tried.clear();
    }
}

impl Table {
    pub(super) fn moved(&mut self, from: LinkId, copy: Copy, owner: &str, now_ms: u64) {
        let Some(call) = self.calls.get(&copy.id) else { return self.counters.replies_stale.add(1) };
        if call.link != Some(from) || call.is_superseded_copy(copy) {
            // It has been sent elsewhere meanwhile.
            return;
        }
        let place = call.place();
        let is_behind = |call: &Call| call.link == Some(from) && call.place() == place;
        let behind: Vec<u64> = self.calls.range(copy.id..).filter(|(_, call)| is_behind(call)).map(|(id, _)| *id).collect();
        for id in &behind {
            if let Some(call) = self.calls.get_mut(id) {
                call.link = None;
            }
        }
        if let Some(room) = self.rooms.get_mut(&place) {
            room.doubt(from);
        }
        self.turn(from, place, &behind, owner, now_ms);
    }

    /// A router is not, or no longer, who calls go to that it had: they go to the next, or wait.
    pub(super) fn turn(&mut self, from: LinkId, place: i64, behind: &[u64], owner: &str, now_ms: u64) {
        // The room may have turned since this call was sent.
        let next = self.owner(place).filter(|link| *link != from).or_else(|| self.named(owner));
        let turn = self.turns.entry(place).or_default();
        if turn.is_waiting() {
            return;
        }
        if !turn.tried.contains(&from) {
            turn.tried.push(from);
        }
        if let Some(next) = next.filter(|next| !turn.tried.contains(next)) {
            turn.owner = Some(next);
            self.counters.moved_to_owner.add(behind.len() as u64);
            self.tell_owner(place);
            for id in behind {
                self.send(*id);
            }
            return;
        }
        turn.forget_owner();
        turn.waited_ms = (turn.waited_ms * 2).clamp(WAIT_MIN_MS, WAIT_MAX_MS);
        // Half of it at random: rooms that moved together do not come back together.
        turn.until_ms = Some(now_ms + turn.waited_ms / 2 + fastrand::u64(0..=turn.waited_ms / 2));
        self.counters.moved_to_wait.add(behind.len() as u64);
    }

    /// The link to a router that was named as an owner. One that the registry has dropped may have its lease still, and hang: it is left
    /// until its lease is another's, or it is registered again.
    fn named(&self, owner: &str) -> Option<LinkId> {
        if self.is_dropped(owner) { None } else { self.link_to(owner) }
    }

    /// The room's owner has answered: the next round begins anew.
    pub(super) fn turned(&mut self, place: i64) {
        if let Some(turn) = self.turns.get_mut(&place) {
            turn.tried.clear();
            turn.waited_ms = 0;
        }
    }

    /// Sends what has waited long enough.
    pub(super) fn retry(&mut self, now_ms: u64) {
        let mut due: Vec<i64> = Vec::new();
        for (place, turn) in &mut self.turns {
            if turn.until_ms.is_some_and(|until_ms| until_ms <= now_ms) {
                turn.until_ms = None;
                due.push(*place);
            }
        }
        if due.is_empty() {
            return;
        }
        due.sort_unstable();
        for place in &due {
            self.tell_owner(*place);
        }
        let is_due = |place: i64| due.binary_search(&place).is_ok();
        let waiting: Vec<u64> =
            self.calls.iter().filter(|(_, call)| call.link.is_none() && is_due(call.place())).map(|(id, _)| *id).collect();
        for id in waiting {
            self.send(id);
        }
    }

    /// Forgets the turns of rooms that nobody here is in and nobody calls.
    pub(super) fn forget_turns(&mut self) {
        if self.turns.is_empty() {
            return;
        }
        let mut called: Vec<i64> = self.calls.values().map(|call| call.place()).collect();
        called.sort_unstable();
        let rooms = &self.rooms;
        self.turns.retain(|place, _| rooms.contains_key(place) || called.binary_search(place).is_ok());
    }
}

/// First wait for an owner: about what a lease's handing over takes.
const WAIT_MIN_MS: u64 = 100;
/// Longest wait: an owner that is there is found within this.
const WAIT_MAX_MS: u64 = 1_000;
