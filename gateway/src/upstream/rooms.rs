//! Rooms with members here: who their owner is, what it knows of us, and what we have seen of them.
//!
//! - Interest has no answer. An owner that says nothing of the room is told again after a while, until it does: it may not have been the
//!   owner yet when it was told first.
//! - Where routers name another owner than the ring does, both are told: the one that is named is going to give the room up, says so to
//!   nobody who does not ask, and the next one has to know by then who listens. What both send goes by once.
//! - Besides the owner nobody is told of a room of which nothing was seen: he would begin from then on, and not from the first snapshot.
//! - An owner asks who is in its room when it begins, and gets the members of one moment, each shard's from the shard itself. They go over
//!   the link that the question came over: what a member does later, his leaving first of all, follows behind.
//! - What went by once does not go by again: pushes of a room rise in `seq`, and what an owner replays is passed over up to the largest
//!   that was seen. A member's snapshot counts as seen only where there is no other member, who may still need what came before it.

use super::{Heard, LinkId, Table, link_origin};
use crate::shard::message::{Origin, RollCall};
use billfish_link::message::{Interest, Seats, envelope::Kind};
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
    told: SmallVec<[Told; 2]>,
}

/// A router that was told of our interest in a room.
#[derive(Clone, Copy, Debug)]
struct Told {
    link: LinkId,
    telling: Telling,
    /// It has not spoken of the room since.
    unconfirmed: Option<Unconfirmed>,
}

/// Which interest it is, of those that a link was told: a later one begins anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Telling(u64);

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

    /// An owner that asks has begun, though it may have nothing to push: what an earlier one still answers is not the last word.
    pub(super) fn roll_call(&mut self, from: LinkId, room_id: i64, epoch: u64, number: u32) -> Option<(RollCall, SmallVec<[u16; 8]>)> {
        let mut shards = SmallVec::new();
        if let Some(room) = self.rooms.get_mut(&room_id) {
            if epoch < room.epoch {
                return None;
            }
            room.epoch = epoch;
            room.confirm(from);
            shards = room.shards();
        }
        let parts = u32::try_from(shards.len()).unwrap_or(u32::MAX);
        let call = RollCall { room_id, epoch, number, parts, link: from };
        if shards.is_empty() {
            self.tell_seats(call, &[]);
        }
        Some((call, shards))
    }

    pub(super) fn tell_seats(&mut self, call: RollCall, members: &[Origin]) {
        let RollCall { room_id, epoch, number, parts, link } = call;
        let count = members.len().div_ceil(SEATS_MAX).max(1);
        for part in 0..count {
            let members = members.iter().skip(part * SEATS_MAX).take(SEATS_MAX).map(|origin| link_origin(*origin)).collect();
            self.post(link, Kind::Seats(Seats { room_id, epoch, number, members, parts, last: part + 1 == count }));
        }
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
        for told in self.rooms.remove(&room_id).into_iter().flat_map(|room| room.told) {
            self.post(told.link, Kind::Interest(Interest { room_id, interested: false, members: 0, last_seq: 0 }));
        }
    }

    /// Tells a room's owner that it is, where it was not told yet, and those that are none any more that they are not.
    pub(super) fn tell_owner(&mut self, room_id: i64) {
        let owner = self.owner(room_id);
        let by_ring = self.owner_by_ring(room_id);
        let Some(room) = self.rooms.get_mut(&room_id) else { return };
        let mut owners: SmallVec<[LinkId; 2]> = owner.into_iter().collect();
        owners.extend(by_ring.filter(|by_ring| room.last_seq > 0 && owner != Some(*by_ring)));
        let former: SmallVec<[LinkId; 2]> = room.told.iter().map(|told| told.link).filter(|link| !owners.contains(link)).collect();
        room.told.retain(|told| owners.contains(&told.link));
        owners.retain(|link| !room.is_told(*link));
        for link in &owners {
            self.last_telling += 1;
            room.told.push(Told { link: *link, telling: Telling(self.last_telling), unconfirmed: Some(Unconfirmed::default()) });
        }
        for link in former {
            self.post(link, Kind::Interest(Interest { room_id, interested: false, members: 0, last_seq: 0 }));
        }
        for link in owners {
            self.tell(link, room_id);
        }
    }

    fn tell(&mut self, link: LinkId, room_id: i64) {
        let Some(room) = self.rooms.get(&room_id) else { return };
        let (members, last_seq) = (room.members(), room.last_seq);
        self.post(link, Kind::Interest(Interest { room_id, interested: true, members, last_seq }));
    }

    /// The routers that were told of our interest in a room.
    pub(super) fn told_links(&self, room_id: i64) -> impl Iterator<Item = LinkId> {
        self.rooms.get(&room_id).into_iter().flat_map(|room| room.told.iter().map(|told| told.link))
    }

    /// Of which interest of ours a router knows that is sent something now.
    pub(super) fn telling(&self, link: LinkId, room_id: i64) -> Option<Telling> {
        let told = &self.rooms.get(&room_id)?.told;
        told.iter().find(|told| told.link == link).map(|told| told.telling)
    }

    /// Tells owners again who have not spoken of their rooms.
    pub(super) fn tell_again(&mut self, now_ms: u64) {
        let mut due = Vec::new();
        for (room_id, room) in &mut self.rooms {
            for told in &mut room.told {
                let Some(unconfirmed) = &mut told.unconfirmed else { continue };
                if unconfirmed.again_ms > now_ms || due.len() == AGAIN_MAX {
                    continue;
                }
                if unconfirmed.again_ms > 0 {
                    due.push((*room_id, told.link));
                }
                unconfirmed.waited_ms = (unconfirmed.waited_ms * 2).clamp(AGAIN_AFTER_MS, AGAIN_AFTER_MAX_MS);
                unconfirmed.again_ms = now_ms + unconfirmed.waited_ms;
            }
        }
        self.counters.interest_repeats.add(due.len() as u64);
        due.sort_unstable();
        for (room_id, link) in due {
            self.tell(link, room_id);
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
        if let Some(told) = self.told.iter_mut().find(|told| told.link == from) {
            told.unconfirmed = None;
        }
    }

    /// A router has said that it does not own the room.
    pub(super) fn doubt(&mut self, from: LinkId) {
        if let Some(told) = self.told.iter_mut().find(|told| told.link == from) {
            told.unconfirmed.get_or_insert_default();
        }
    }

    fn is_told(&self, link: LinkId) -> bool {
        self.told.iter().any(|told| told.link == link)
    }

    /// A link is gone, and who was at its end knows nothing any more.
    pub(super) fn forget_link(&mut self, link: LinkId) {
        self.told.retain(|told| told.link != link);
    }

    pub(super) fn shards(&self) -> SmallVec<[u16; 8]> {
        (0..).zip(&self.members).filter(|(_, count)| **count > 0).map(|(shard, _)| shard).collect()
    }
}

/// Members in one message to an owner: 16 KB, one step of its work.
pub(super) const SEATS_MAX: usize = 512;
/// An owner that has not spoken of a room is told again after this, then after twice as long, and so on.
const AGAIN_AFTER_MS: u64 = 1_000;
/// A room in which nothing is ever said costs one message in so long.
const AGAIN_AFTER_MAX_MS: u64 = 30_000;
/// Rooms told again at a time; the others have their turn later.
const AGAIN_MAX: usize = 4_096;
