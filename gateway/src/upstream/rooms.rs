//! Rooms with members here: who their owner is, what it knows of us, and what we have seen of them.
//!
//! - Interest has no answer. An owner that says nothing of the room is told again after a while, until it does: it may not have been the
//!   owner yet when it was told first.
//! - What went by once does not go by again: pushes of a room rise in `seq`, and what an owner replays is passed over up to the largest
//!   that was seen. A member's snapshot counts as seen only where there is no other member, who may still need what came before it.

use super::{Heard, LinkId, Table};
use billfish_link::message::{Interest, envelope::Kind};
use smallvec::SmallVec;

#[derive(Debug, Default)]
pub(super) struct Room {
    /// JOINs under way.
    pub(super) joins: u32,
    /// Sessions in it, or told to enter it, by shard.
    members: SmallVec<[u32; 4]>,
    /// The largest seen.
    pub(super) epoch: u64,
    /// The largest seen; 0: none.
    last_seq: i64,
    /// Who was told of our interest.
    pub(super) owner: Option<LinkId>,
    /// The owner was told, and has not spoken of the room since.
    unconfirmed: Option<Unconfirmed>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Unconfirmed {
    /// When to tell it again; 0: not decided yet.
    again_ms: u64,
    waited_ms: u64,
}

impl Table {
    /// For whom a push is.
    pub(super) fn heard(&mut self, from: LinkId, room_id: i64, epoch: u64, seq: i64) -> Heard {
        let Some(room) = self.rooms.get_mut(&room_id) else { return Heard::For(SmallVec::new()) };
        if epoch < room.epoch {
            return Heard::Former;
        }
        room.epoch = epoch;
        room.confirm(from);
        if seq > 0 {
            if seq <= room.last_seq {
                return Heard::Replayed;
            }
            room.last_seq = seq;
        }
        Heard::For(room.shards())
    }

    pub(super) fn room(&mut self, room_id: i64) -> &mut Room {
        self.rooms.entry(room_id).or_default()
    }

    pub(super) fn leave(&mut self, room_id: i64, shard: u16) {
        if let Some(room) = self.rooms.get_mut(&room_id) {
            room.exit(shard);
            self.interest_shrank(room_id);
        }
    }

    /// A JOIN is under way.
    pub(super) fn interest_grew(&mut self, room_id: i64) {
        self.room(room_id).joins += 1;
        self.tell_owner(room_id);
    }

    /// A member or a JOIN is gone; with the last of them goes the interest.
    pub(super) fn interest_shrank(&mut self, room_id: i64) {
        let Some(room) = self.rooms.get(&room_id) else { return };
        if room.joins > 0 || room.members() > 0 {
            return;
        }
        let owner = room.owner;
        self.rooms.remove(&room_id);
        if let Some(link) = owner {
            self.post(link, Kind::Interest(Interest { room_id, interested: false, members: 0, last_seq: 0 }));
        }
    }

    /// Tells a room's owner that it is, where it is a new one, and the former one that it is not.
    pub(super) fn tell_owner(&mut self, room_id: i64) {
        let owner = self.owner(room_id);
        let Some(room) = self.rooms.get_mut(&room_id) else { return };
        if room.owner == owner {
            return;
        }
        let former = std::mem::replace(&mut room.owner, owner);
        if let Some(former) = former {
            self.post(former, Kind::Interest(Interest { room_id, interested: false, members: 0, last_seq: 0 }));
        }
        if let Some(room) = self.rooms.get_mut(&room_id) {
            room.unconfirmed = Some(Unconfirmed::default());
            self.tell(room_id);
        }
    }

    pub(super) fn tell(&mut self, room_id: i64) {
        let Some(room) = self.rooms.get(&room_id) else { return };
        let Some(owner) = room.owner else { return };
        let (members, last_seq) = (room.members(), room.last_seq);
        self.post(owner, Kind::Interest(Interest { room_id, interested: true, members, last_seq }));
    }

    /// Tells owners again who have not spoken of their rooms.
    pub(super) fn tell_again(&mut self, now_ms: u64) {
        let mut due = Vec::new();
        for (room_id, room) in &mut self.rooms {
            let Some(unconfirmed) = &mut room.unconfirmed else { continue };
            if unconfirmed.again_ms > now_ms || due.len() == AGAIN_MAX {
                continue;
            }
            if unconfirmed.again_ms > 0 {
                due.push(*room_id);
            }
            unconfirmed.waited_ms = (unconfirmed.waited_ms * 2).clamp(AGAIN_AFTER_MS, AGAIN_AFTER_MAX_MS);
            unconfirmed.again_ms = now_ms + unconfirmed.waited_ms;
        }
        self.counters.interest_repeats.add(due.len() as u64);
        due.sort_unstable();
        for room_id in due {
            self.tell(room_id);
        }
    }
}

impl Room {
    pub(super) fn members(&self) -> u32 {
        self.members.iter().sum()
    }

    /// A session has joined, and its snapshot goes up to `seq`.
    pub(super) fn enter(&mut self, shard: u16, seq: i64) {
        if self.members() == 0 {
            self.last_seq = self.last_seq.max(seq);
        }
        let shard = usize::from(shard);
        if self.members.len() <= shard {
            self.members.resize(shard + 1, 0);
        }
        self.members[shard] += 1;
    }

    fn exit(&mut self, shard: u16) {
        if let Some(count) = self.members.get_mut(usize::from(shard)) {
            *count = count.saturating_sub(1);
        }
    }

    pub(super) fn confirm(&mut self, from: LinkId) {
        if self.owner == Some(from) {
            self.unconfirmed = None;
        }
    }

    pub(super) fn shards(&self) -> SmallVec<[u16; 8]> {
        (0..).zip(&self.members).filter(|(_, count)| **count > 0).map(|(shard, _)| shard).collect()
    }
}

/// An owner that has not spoken of a room is told again after this, then after twice as long, and so on.
const AGAIN_AFTER_MS: u64 = 1_000;
/// A room in which nothing is ever said costs one message in so long.
const AGAIN_AFTER_MAX_MS: u64 = 30_000;
/// Rooms told again at a time; the others have their turn later.
const AGAIN_MAX: usize = 4_096;
