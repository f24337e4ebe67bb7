//! The rooms a user wants to be in, over all connections.
//!
//! Each remembers what was shown of it: it is what LOGIN and JOIN resume from, and what keeps a message from being shown twice. One that a
//! server was in doubt about may come again under a larger number, with the id it had: the ids shown last are remembered too.

use super::{
    held::{Held, class_of},
    seen::Seen,
    shown::{Order, Shown},
};
use crate::time::Time;
use billfish_wire::Body;
use std::collections::{BTreeMap, BTreeSet};

/// Rooms that may be asked for at once. A snapshot is up to 56 KiB of JSON; two of them, a page of the inbox and a page of a log fit into the
/// server's backlog of 256 KiB also when all come before the first byte is read. A client that resumed eight rooms in one breath could be
/// cut for reading slowly, come back, ask for the same, and so for ever.
pub(super) const ASKED_MAX: usize = 2;
/// LEAVEs that may await their echo. More are answered to the app at once; what still comes of such a room is not shown.
const LEAVING_MAX: usize = 64;
/// Ids remembered of a room: a copy comes within seconds, and not when more has been said since than the room's log holds, which is 500.
const IDS_MAX: usize = 512;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Wanted; JOIN was not sent on this connection.
    Wanted,
    /// JOIN was sent, or LOGIN's resume names the room.
    Asked,
    /// Refused for a while.
    Retrying { at: Time },
    /// The snapshot has come.
    In,
}

#[derive(Debug)]
pub(super) struct Room {
    pub(super) standing: Standing,
    shown: Shown,
    /// Came ahead of the snapshot that is awaited.
    pub(super) held: Held,
    /// From where its answer, when one is awaited, was asked for.
    pub(super) asked_seq: Option<i64>,
    shown_ids: Seen,
}

impl Room {
    /// Whether a message may be shown: it is the newest so far, of all or of its class, and was not shown under another number. One without
    /// a number and an id always may.
    pub(super) fn pass(&mut self, message: &Body, order: Order) -> bool {
        let is_new = message.seq.is_none_or(|seq| self.shown.pass(seq, class_of(message), order));
        is_new && message.msg_id.as_deref().is_none_or(|msg_id| self.shown_ids.insert(msg_id, IDS_MAX))
    }

    /// The snapshot goes up to `seq`.
    pub(super) fn enter(&mut self, seq: i64) {
        self.standing = Standing::In;
        self.shown.cover(seq);
    }

    /// From where to ask for what was not shown; `None`: nothing was.
    pub(super) fn resume_seq(&self) -> Option<i64> {
        self.shown.through()
    }

    /// Whether anything was shown that is newer than `seq`.
    pub(super) fn is_past(&self, seq: i64) -> bool {
        self.shown.is_past(seq)
    }

    /// Whether a state, or a newer one of its class, was shown.
    pub(super) fn was_shown(&self, state: &Body) -> bool {
        state.seq.is_none_or(|seq| self.shown.stands_behind(seq, class_of(state)))
    }

    /// The room's numbers began anew, and with them the ids that are made of them.
    pub(super) fn begin_anew(&mut self) {
        self.shown = Shown::default();
        self.shown_ids = Seen::default();
    }

    fn begin_connection(&mut self) {
        self.shown.begin_connection();
        self.held = Held::default();
    }
}

#[derive(Debug, Default)]
pub(super) struct Rooms {
    wanted: BTreeMap<i64, Room>,
    /// LEAVE was sent and its echo has not come; whether the app waits for that.
    leaving: BTreeMap<i64, bool>,
}

impl Rooms {
    pub(super) fn ids(&self) -> impl Iterator<Item = i64> {
        self.wanted.keys().copied()
    }

    pub(super) fn len(&self) -> usize {
        self.wanted.len()
    }

    pub(super) fn get(&self, room_id: i64) -> Option<&Room> {
        self.wanted.get(&room_id)
    }

    pub(super) fn get_mut(&mut self, room_id: i64) -> Option<&mut Room> {
        self.wanted.get_mut(&room_id)
    }

    pub(super) fn want(&mut self, room_id: i64) {
        self.wanted.entry(room_id).or_insert_with(|| Room {
            standing: Standing::Wanted,
            shown: Shown::default(),
            held: Held::default(),
            asked_seq: None,
            shown_ids: Seen::default(),
        });
    }

    /// `false` when it was not wanted.
    pub(super) fn remove(&mut self, room_id: i64) -> bool {
        self.wanted.remove(&room_id).is_some()
    }

    pub(super) fn clear(&mut self) {
        self.wanted.clear();
    }

    /// `false` when LEAVE is under way already, or too many are.
    pub(super) fn begin_leave(&mut self, room_id: i64, told: bool) -> bool {
        if let Some(waits) = self.leaving.get_mut(&room_id) {
            *waits |= told;
            return told;
        }
        if self.leaving.len() >= LEAVING_MAX {
            return false;
        }
        self.leaving.insert(room_id, told);
        true
    }

    pub(super) fn is_leaving(&self, room_id: i64) -> bool {
        self.leaving.contains_key(&room_id)
    }

    /// Whether the app waits for the end of it; `None` when no echo was awaited.
    pub(super) fn end_leave(&mut self, room_id: i64) -> Option<bool> {
        self.leaving.remove(&room_id)
    }

    /// What a new LOGIN may resume, by room. The others, and those of which nothing was seen yet, are asked for after it.
    pub(super) fn to_resume(&self) -> BTreeMap<i64, i64> {
        self.wanted.iter().filter_map(|(room_id, room)| Some((*room_id, room.resume_seq()?))).take(ASKED_MAX).collect()
    }

    /// LOGIN has asked for these, and for nothing else.
    pub(super) fn resume(&mut self, resumed: &BTreeMap<i64, i64>) {
        for (room_id, room) in &mut self.wanted {
            room.begin_connection();
            room.asked_seq = resumed.get(room_id).copied();
            room.standing = if room.asked_seq.is_some() { Standing::Asked } else { Standing::Wanted };
        }
    }

    /// Something came on the connection.
    pub(super) fn heard(&mut self, now: Time) {
        for room in self.wanted.values_mut().filter(|room| room.standing == Standing::In) {
            room.shown.heard(now);
        }
    }

    /// Those the user is in.
    pub(super) fn entered(&self) -> BTreeSet<i64> {
        self.wanted.iter().filter(|(_, room)| room.standing == Standing::In).map(|(room_id, _)| *room_id).collect()
    }

    /// Whether the user is to be in it and is not.
    pub(super) fn is_to_be_entered(&self, room_id: i64) -> bool {
        self.wanted.get(&room_id).is_some_and(|room| room.standing != Standing::In)
    }

    /// The next room to ask for, while few enough are.
    pub(super) fn next_wanted(&self) -> Option<i64> {
        let asked = self.wanted.values().filter(|room| room.standing == Standing::Asked).count();
        if asked >= ASKED_MAX {
            return None;
        }
        self.wanted.iter().find(|(_, room)| room.standing == Standing::Wanted).map(|(room_id, _)| *room_id)
    }

    /// Whether a message to the room is kept back: the room is wanted, and on this connection the user is not known to be in it.
    pub(super) fn holds(&self, room_id: Option<i64>) -> bool {
        room_id.and_then(|room_id| self.wanted.get(&room_id)).is_some_and(|room| room.standing != Standing::In)
    }

    /// The room waits for its turn to be asked for.
    pub(super) fn is_waiting(&self, room_id: i64) -> bool {
        self.wanted.get(&room_id).is_some_and(|room| room.standing == Standing::Wanted)
    }

    /// The connection is over: the rooms whose LEAVE got no echo are left all the same.
    pub(super) fn end_connection(&mut self) -> Vec<i64> {
        for room in self.wanted.values_mut() {
            room.begin_connection();
            room.standing = Standing::Wanted;
        }
        std::mem::take(&mut self.leaving).into_iter().filter(|(_, told)| *told).map(|(room_id, _)| room_id).collect()
    }

    pub(super) fn retry_deadline(&self) -> Time {
        self.wanted.values().filter_map(Room::retry_at).min().unwrap_or(Time::NEVER)
    }

    pub(super) fn next_retry(&self, now: Time) -> Option<i64> {
        self.wanted.iter().find(|(_, room)| room.retry_at().is_some_and(|at| now >= at)).map(|(room_id, _)| *room_id)
    }
}

impl Room {
    fn retry_at(&self) -> Option<Time> {
        match self.standing {
            Standing::Retrying { at } => Some(at),
            Standing::Wanted | Standing::Asked | Standing::In => None,
        }
    }
}
