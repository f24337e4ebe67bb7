//! Calls under way: each stays in the table until a router answered it or its time is over.
//!
//! - JOIN and LEAVE leave something behind at the router. They are followed up beyond their caller's patience, until it is certain which
//!   of them was the last word.
//! - A JOIN for which nobody waits any more is not sent again: by then its user may be in the room with another session. Where it may have
//!   been granted, a LEAVE goes to the owner in its stead. Not so where its session was in the room before it asked: there it stays.
//! - What else a session asked for ends with it: a message of one who is gone would be refused as a stranger's, and counted against its user.
//! - A call may be out several times: at a router that hangs, and at the next owner. Any of the answers to a message counts, for routers
//!   tell that they have had it. Of a JOIN only that to its last copy does, and only if its router has been told of our interest all the
//!   time since: what came after any other snapshot may have been sent to nobody here.
//! - A newer JOIN or LEAVE of the same session and room is the last word. An older LEAVE is then never sent again: it would take out who
//!   has just been let in.

use super::{Caller, LinkId, Said, Table, link_origin, origin_of, placement::OUTBOX_CALLS_MAX, rooms::Telling};
use crate::shard::message::{ConnKey, Origin};
use billfish_link::message::{
    Biz, Gone, Join, Leave, Redeliver, Sync, Up,
    envelope::Kind,
    up::{self, Call as UpKind},
};
use billfish_session::server::UpCall;

#[derive(Debug)]
pub(super) struct Call {
    /// `None`: the gateway's own; nobody waits for the answer.
    caller: Option<Caller>,
    up: Up,
    /// Where it was sent; `None`: nowhere yet, or not the owner, or that link is gone.
    pub(super) link: Option<LinkId>,
    sent_before: bool,
    /// How often it was sent again.
    copies: u16,
    /// The interest that the link had been told of when it was sent.
    telling: Option<Telling>,
    since_ms: u64,
    /// A newer JOIN or LEAVE of the same session and room says where the session belongs: what this one left behind is not undone.
    superseded: bool,
    /// A JOIN that took the place of one whose undoing was due, or of a LEAVE, or of a copy of itself that may have been granted: refused,
    /// it is undone itself.
    owes_undo: bool,
    /// Its session has ended.
    session_gone: bool,
    /// A JOIN of a session that is in the room already.
    was_in: bool,
}

/// Which copy of a call, as it is told by the number that it bears on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Copy {
    pub(super) id: u64,
    copy: u16,
}

impl Copy {
    pub(super) const fn of(number: u64) -> Self {
        Self { id: number & ((1 << COPY_SHIFT) - 1), copy: (number >> COPY_SHIFT) as u16 }
    }

    pub(super) const fn number(self) -> u64 {
        self.id | (self.copy as u64) << COPY_SHIFT
    }
}

impl Table {
    pub(super) fn call(&mut self, key: ConnKey, origin: Origin, request: u32, call: UpCall, now_ms: u64) -> bool {
        let was_in = matches!(call, UpCall::Join { was_in: true, .. });
        let kind = match call {
            UpCall::Biz { room_id, biz_code, data, msg_id } => UpKind::Biz(Biz { room_id, biz_code, data, msg_id }),
            UpCall::Join { room_id, resume_seq, was_in: _ } => UpKind::Join(Join { room_id, resume_seq }),
            UpCall::Leave { room_id } => UpKind::Leave(Leave { room_id }),
            UpCall::Sync { room_id, from_seq, from_id, resume } => UpKind::Sync(Sync { room_id, from_seq, from_id, resume }),
            UpCall::Redeliver => UpKind::Redeliver(Redeliver {}),
        };
        // A LEAVE is let in when nothing else is: refused, it would leave a member behind that is none.
        let leave = matches!(kind, UpKind::Leave(_));
        if !leave && !self.has_room(&kind, origin) {
            self.counters.upstream_given_up.add(1);
            return false;
        }
        let joining = if let UpKind::Join(join) = &kind { Some(join.room_id) } else { None };
        if let Some(room_id) = joining {
            self.interest_grew(room_id);
        }
        let caller = Caller { key, origin, request, joining };
        let id = self.last_id + 1;
        self.keep(Some(caller), origin, kind, now_ms);
        if was_in {
            self.is_in(id);
        }
        true
    }

    /// A JOIN's session is in the room, whatever becomes of the JOIN: there is nothing to undo.
    fn is_in(&mut self, id: u64) {
        if let Some(call) = self.calls.get_mut(&id).filter(|call| call.is_join()) {
            (call.was_in, call.owes_undo) = (true, false);
        }
    }

    /// A session is not in a room: a JOIN of it that nobody waits for any more is undone.
    pub(super) fn is_out(&mut self, session: u64, room_id: i64) {
        if let Some(call) = self.newest.get(&(session, room_id)).and_then(|id| self.calls.get_mut(id)) {
            call.was_in = false;
        }
    }

    /// Asks in the name of a session for what its user has not acknowledged. Nobody waits for the answer.
    pub(super) fn redeliver(&mut self, origin: Origin, now_ms: u64) -> bool {
        let kind = UpKind::Redeliver(Redeliver {});
        let has_room = self.has_room(&kind, origin);
        if has_room {
            self.keep(None, origin, kind, now_ms);
        }
        has_room
    }

    fn has_room(&self, kind: &UpKind, origin: Origin) -> bool {
        let link = self.owner(place_of(kind, origin.user_id));
        let outbox = link.and_then(|link| self.links.get(&link)).map_or(0, |state| state.outbox.len());
        self.calls.len() < CALLS_MAX && self.bytes + bytes_of(kind) <= CALL_BYTES_MAX && outbox < OUTBOX_CALLS_MAX
    }

    fn keep(&mut self, caller: Option<Caller>, origin: Origin, kind: UpKind, now_ms: u64) {
        self.last_id += 1;
        let id = self.last_id;
        self.bytes += bytes_of(&kind);
        let up = Up { id, origin: Some(link_origin(origin)), call: Some(kind) };
        let membership = membership_of(&up);
        let owes_undo = membership.is_some_and(|place| self.supersede(place, id));
        self.of_sessions.insert((origin.session, id));
        self.calls.insert(
            id,
            Call {
                caller,
                up,
                link: None,
                sent_before: false,
                copies: 0,
                telling: None,
                since_ms: now_ms,
                superseded: false,
                owes_undo,
                session_gone: false,
                was_in: false,
            },
        );
        self.counters.upstream_in_flight.set(self.calls.len() as u64);
        self.send(id);
    }

    /// A newer JOIN or LEAVE decides where a session belongs. An older JOIN that nobody waits for any more is forgotten, or its undoing
    /// would take out who has just been let in. `true`: what it left behind is to be undone should the newer one be refused.
    fn supersede(&mut self, place: (u64, i64), id: u64) -> bool {
        let Some(older_id) = self.newest.insert(place, id) else { return false };
        let Some(older) = self.calls.get_mut(&older_id) else { return false };
        older.superseded = true;
        if older.is_leave() {
            return true;
        }
        if older.caller.is_some() {
            return false;
        }
        let was_in = older.was_in;
        self.forget_call(older_id);
        self.join_is_over(place.1);
        !was_in
    }

    /// Posts a call to its owner's link, if there is one and its room is not waiting for one.
    pub(super) fn send(&mut self, id: u64) {
        let Some(call) = self.calls.get(&id) else { return };
        if call.is_join() && call.caller.is_none() {
            return self.undo_join(id);
        }
        if call.session_gone && !call.is_leave() {
            return drop(self.forget_call(id));
        }
        let place = call.place();
        if (call.superseded && call.is_leave()) || self.turns.get(&place).is_some_and(|turn| turn.is_waiting()) {
            return;
        }
        let Some(link) = self.owner(place) else { return };
        let telling = self.telling(link, place);
        let Some(call) = self.calls.get_mut(&id) else { return };
        if call.sent_before {
            call.copies = call.copies.wrapping_add(1);
            self.counters.upstream_retries.add(1);
        }
        (call.link, call.telling, call.sent_before) = (Some(link), telling, true);
        let up = Up { id: call.last_copy(id).number(), ..call.up.clone() };
        self.post(link, Kind::Up(up));
    }

    /// Leaves where a JOIN may have led that nobody waits for any more.
    fn undo_join(&mut self, id: u64) {
        let Some(call) = self.forget_call(id) else { return };
        let Some(UpKind::Join(Join { room_id, .. })) = call.up.call else { return };
        let may_be_in = (call.sent_before || call.owes_undo) && call.is_undone();
        if let (true, Some(origin)) = (may_be_in, call.up.origin.as_ref().and_then(origin_of)) {
            self.keep(None, origin, UpKind::Leave(Leave { room_id }), call.since_ms);
        }
        self.join_is_over(room_id);
    }

    /// A session has ended: nobody waits for its calls any more. A JOIN that a router has is undone when it is answered, any other now; a
    /// LEAVE goes its way; what else a router has is not sent again, and nothing is begun.
    pub(super) fn abandon_calls(&mut self, session: u64) {
        let ids: Vec<u64> = self.of_sessions.range((session, 0)..=(session, u64::MAX)).map(|(_, id)| *id).collect();
        for id in ids {
            self.of_sessions.remove(&(session, id));
            let Some(call) = self.calls.get_mut(&id).filter(|call| !call.is_leave()) else { continue };
            call.caller = None;
            (call.session_gone, call.was_in) = (true, false);
            let is_out = call.link.is_some();
            match (call.is_join(), is_out) {
                (true, false) => self.undo_join(id),
                (false, false) => drop(self.forget_call(id)),
                (_, true) => {}
            }
        }
    }

    pub(super) fn answered(&mut self, from: LinkId, copy: Copy, said: Said, now_ms: u64) -> Option<Caller> {
        let id = copy.id;
        if self.calls.get(&id).is_some_and(|call| call.is_join() && (call.link != Some(from) || call.is_superseded_copy(copy))) {
            self.counters.replies_stale.add(1);
            return None;
        }
        if self.is_former_owners(from, id, said, now_ms) {
            return None;
        }
        let Some(call) = self.forget_call(id) else {
            self.counters.replies_stale.add(1);
            return None;
        };
        self.turned(call.place());
        let Some(UpKind::Join(Join { room_id, .. })) = call.up.call else { return call.caller };
        let room = self.room(room_id);
        room.joins = room.joins.saturating_sub(1);
        match (said, call.caller) {
            (Said::Joined { seq }, Some(caller)) => {
                room.epoch = room.epoch.max(epoch_of(seq));
                room.enter(caller.key.shard, seq);
                room.confirm(from);
                // Whoever else is to know was not told of a room of which nothing had been seen.
                self.tell_owner(room_id);
                // Should it have asked again meanwhile, it did so as a member.
                if let Some(newer) = self.newest.get(&(caller.origin.session, room_id)) {
                    self.is_in(*newer);
                }
            }
            (Said::Joined { .. }, None) => {
                // The client was refused long ago. Where it is not in the room its owner has to know.
                if let (false, Some(origin)) = (call.was_in, call.up.origin.as_ref().and_then(origin_of)) {
                    self.keep(None, origin, UpKind::Leave(Leave { room_id }), call.since_ms);
                }
                self.interest_shrank(room_id);
            }
            (Said::Other, _) => {
                // What the call before this one left behind is still to be undone.
                if let (true, false, Some(origin)) = (call.owes_undo, call.superseded, call.up.origin.as_ref().and_then(origin_of)) {
                    self.keep(None, origin, UpKind::Leave(Leave { room_id }), call.since_ms);
                }
                self.interest_shrank(room_id);
            }
        }
        call.caller
    }

    /// A room has been spoken for by a later owner than the one that let this session in: the later one does not know of it, and what it
    /// sent is not in this snapshot. Or the one that let it in was told meanwhile that nobody here listens, and has perhaps sent us
    /// nothing since. The JOIN goes to the owner.
    fn is_former_owners(&mut self, from: LinkId, id: u64, said: Said, now_ms: u64) -> bool {
        let Said::Joined { seq } = said else { return false };
        let Some(Call { up: Up { call: Some(UpKind::Join(join)), .. }, telling, .. }) = self.calls.get(&id) else { return false };
        let room_id = join.room_id;
        let is_stale = self.rooms.get(&room_id).is_some_and(|room| room.epoch > epoch_of(seq));
        if !is_stale && self.telling(from, room_id) == *telling {
            return false;
        }
        self.counters.epochs_stale.add(u64::from(is_stale));
        if let Some(call) = self.calls.get_mut(&id) {
            call.take_back();
        }
        self.turn(from, room_id, &[id], "", now_ms);
        true
    }

    pub(super) fn expire(&mut self, now_ms: u64) -> Vec<Caller> {
        let late = |call: &Call, wait_ms: u64| now_ms.saturating_sub(call.since_ms) >= wait_ms;
        let mut refused = Vec::new();
        let mut over = Vec::new();
        let mut given_up = 0;
        for (id, call) in &mut self.calls {
            let is_leave = call.is_leave();
            let is_join = call.is_join();
            if late(call, ANSWER_WAIT_MS)
                && let Some(caller) = call.caller.take()
            {
                // The echo of a LEAVE is with the client already: its session hears of it in silence, and has room for another call.
                given_up += u64::from(!is_leave);
                refused.push(caller);
            }
            // A JOIN or LEAVE leaves something behind at the router, so it is followed up beyond its caller's patience.
            // Not so one behind which there came another call: that one says where the session belongs.
            let is_followed = (is_leave || is_join) && !call.superseded;
            let patience_ms = if is_followed { MEMBERSHIP_WAIT_MS } else { ANSWER_WAIT_MS };
            if call.caller.is_none() && late(call, patience_ms) {
                over.push(*id);
            }
        }
        for id in over {
            let Some(call) = self.forget_call(id) else { continue };
            let (Some(kind), Some(origin)) = (&call.up.call, &call.up.origin) else { continue };
            match kind {
                UpKind::Join(Join { room_id, .. }) => {
                    self.join_is_over(*room_id);
                    if call.is_undone() {
                        self.word(Kind::Gone(Gone { origin: Some(*origin), room_ids: vec![*room_id], logged_out: false }));
                    }
                }
                UpKind::Leave(Leave { room_id }) if !call.superseded => {
                    self.word(Kind::Gone(Gone { origin: Some(*origin), room_ids: vec![*room_id], logged_out: true }));
                }
                UpKind::Leave(_) | UpKind::Biz(_) | UpKind::Sync(_) | UpKind::Redeliver(_) | UpKind::Order(_) => {}
            }
        }
        self.counters.upstream_given_up.add(given_up);
        refused
    }

    fn join_is_over(&mut self, room_id: i64) {
        let room = self.room(room_id);
        room.joins = room.joins.saturating_sub(1);
        self.interest_shrank(room_id);
    }

    fn forget_call(&mut self, id: u64) -> Option<Call> {
        let call = self.calls.remove(&id)?;
        self.bytes -= call.up.call.as_ref().map_or(0, bytes_of);
        if let Some(origin) = &call.up.origin {
            self.of_sessions.remove(&(origin.session, id));
        }
        if let Some(place) = membership_of(&call.up)
            && self.newest.get(&place) == Some(&id)
        {
            self.newest.remove(&place);
        }
        self.counters.upstream_in_flight.set(self.calls.len() as u64);
        Some(call)
    }
}

impl Call {
    const fn is_join(&self) -> bool {
        matches!(self.up.call, Some(UpKind::Join(_)))
    }

    /// It goes elsewhere, without an answer: where it was it may have been carried out.
    pub(super) const fn take_back(&mut self) {
        self.link = None;
        self.owes_undo |= self.is_join() && !self.was_in;
    }

    /// The copy that was sent last.
    pub(super) const fn last_copy(&self, id: u64) -> Copy {
        Copy { id, copy: self.copies }
    }

    /// Whether it is a JOIN, and has been sent again since.
    pub(super) const fn is_superseded_copy(&self, copy: Copy) -> bool {
        self.is_join() && copy.copy != self.copies
    }

    /// Whether what a JOIN may have led to is undone when nobody waits for it any more.
    const fn is_undone(&self) -> bool {
        !self.superseded && !self.was_in
    }

    const fn is_leave(&self) -> bool {
        matches!(self.up.call, Some(UpKind::Leave(_)))
    }

    /// Whether routers tell that they have had it before, so that two of them may have it at a time. A message without an id is sent on only
    /// when its link is dead.
    pub(super) fn is_recognised(&self) -> bool {
        !matches!(&self.up.call, Some(UpKind::Biz(biz)) if biz.msg_id.is_empty())
    }

    /// What decides where it goes: the room, or without one the user.
    pub(super) fn place(&self) -> i64 {
        let user_id = self.up.origin.as_ref().map_or(0, |origin| origin.user_id);
        self.up.call.as_ref().map_or(user_id, |kind| place_of(kind, user_id))
    }
}

fn place_of(kind: &up::Call, user_id: i64) -> i64 {
    let room_id = match kind {
        UpKind::Biz(biz) => biz.room_id,
        UpKind::Join(join) => join.room_id,
        UpKind::Leave(leave) => leave.room_id,
        UpKind::Sync(sync) => sync.room_id,
        UpKind::Redeliver(_) => 0,
        UpKind::Order(order) => order.room_id,
    };
    if room_id == 0 { user_id } else { room_id }
}

/// The session and the room, where a call says that one enters or leaves the other.
fn membership_of(up: &Up) -> Option<(u64, i64)> {
    let room_id = match up.call.as_ref()? {
        UpKind::Join(join) => join.room_id,
        UpKind::Leave(leave) => leave.room_id,
        UpKind::Biz(_) | UpKind::Sync(_) | UpKind::Redeliver(_) | UpKind::Order(_) => return None,
    };
    up.origin.as_ref().map(|origin| (origin.session, room_id))
}

fn bytes_of(kind: &up::Call) -> usize {
    match kind {
        UpKind::Biz(biz) => biz.data.len(),
        UpKind::Join(_) | UpKind::Leave(_) | UpKind::Sync(_) | UpKind::Redeliver(_) => 0,
        UpKind::Order(order) => order.text.len(),
    }
}

/// A sequence number begins with its owner's epoch.
fn epoch_of(seq: i64) -> u64 {
    u64::try_from(seq).unwrap_or(0) >> 32
}

/// Numbers of calls are below this, which is enough for a century; above is which copy it is.
const COPY_SHIFT: u32 = 48;
/// Calls under way; with the 32 that one session may have, 2,000 sessions that all wait.
pub(super) const CALLS_MAX: usize = 65_536;
/// Bytes of their texts.
const CALL_BYTES_MAX: usize = 64 * 1024 * 1024;
/// A client hears 5001 after this: it asks again, and by then there may be a router.
pub(super) const ANSWER_WAIT_MS: u64 = 10_000;
/// A JOIN or LEAVE is followed up for so long.
pub(super) const MEMBERSHIP_WAIT_MS: u64 = 60_000;
