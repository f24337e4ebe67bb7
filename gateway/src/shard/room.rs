//! The rooms of one shard: who is in them here, and what waits to be told them.
//!
//! ```text
//!   members:  0          cursor          end            len
//!             | served    | to be served  | came later   |
//! ```
//!
//! - A room's queue keeps pushes, entries and evictions in the order in which they came: none overtakes another.
//! - At most one fan-out job walks a room's members at a time. It serves everyone who was a member when it began and is one when its turn
//!   comes, once. Who enters meanwhile stands behind `end` and is not served; who leaves makes room by one move across each boundary
//!   behind it, so leaving costs the same in any room.
//! - What was told once is not told again: pushes rise in `seq`, and one that does not is part of a log that a new owner replays. Whoever came
//!   with a snapshot that is ahead of what the others have seen is passed over until they are as far: see [`Seen`].
//! - The slot of a member is kept in its session. Whoever is moved has to be told: see [`RoomMembers::remove`].
//! - A room is forgotten, its account with it, once it has no members, nothing in its queue and no copy in anybody's backlog.

use super::{
    fanout_job::{Job, JobFrame},
    message::{Origin, RollCall, RoomAccount},
    slab::SlabKey,
};
use billfish_wire::Class;
use foldhash::fast::RandomState;
use std::collections::{HashMap, VecDeque, hash_map::Entry};

/// Droppable pushes are given up when this much waits in one room's queue: at 300 bytes each, ten thousand messages that nobody could
/// read any more.
const ROOM_QUEUE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Something that waits for its turn in a room.
#[derive(Debug)]
pub(super) enum RoomItem {
    /// To be told to the members.
    Push(JobFrame),
    /// A session enters.
    Join(Box<Joining>),
    /// A user leaves; 0: everyone does.
    Evict { user_id: i64 },
    /// The owner is told who is in.
    RollCall(RollCall),
}

/// A session that enters.
#[derive(Debug)]
pub(super) struct Joining {
    pub(super) key: SlabKey,
    pub(super) origin: Origin,
    pub(super) request: u32,
    pub(super) seq: i64,
    pub(super) data: String,
    pub(super) audience: i64,
}

/// What an item occupies beside its text.
const ITEM_BYTES: usize = 128;

impl RoomItem {
    fn bytes(&self) -> usize {
        ITEM_BYTES
            + match self {
                Self::Push(frame) => frame.push.body().data.as_ref().map_or(0, String::len),
                Self::Join(joining) => joining.data.len(),
                Self::Evict { .. } | Self::RollCall(_) => 0,
            }
    }
}

/// One room on one shard.
#[derive(Debug, Default)]
pub(super) struct Room {
    pub(super) members: RoomMembers,
    pub(super) job: Option<Box<Job>>,
    /// `members` is not filled in; see [`RoomAccount`].
    pub(super) account: RoomAccount,
    /// Members on all gateways, as last heard.
    pub(super) audience: i64,
    pub(super) seen: Seen,
    queue: VecDeque<RoomItem>,
    queued_bytes: usize,
    /// It stands in [`Rooms::active`].
    is_active: bool,
}

impl Room {
    /// Puts an item behind what waits already. `false`: it was a push that may be dropped, and was.
    fn queue(&mut self, item: RoomItem) -> bool {
        let bytes = item.bytes();
        if let RoomItem::Push(frame) = &item
            && frame.push.class().may_drop()
            && self.queued_bytes + bytes > ROOM_QUEUE_BYTES_MAX
        {
            return false;
        }
        self.queued_bytes += bytes;
        self.queue.push_back(item);
        true
    }

    /// What is next, without taking it.
    pub(super) fn peek(&self) -> Option<&RoomItem> {
        self.queue.front()
    }

    fn is_idle(&self) -> bool {
        self.job.is_none() && self.queue.is_empty()
    }

    fn is_forgettable(&self) -> bool {
        self.is_idle() && self.members.is_empty() && self.account.pending == 0
    }
}

/// What became of a push to a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RoomPushed {
    /// It waits for its turn.
    Queued,
    /// There are no members here.
    NoRoom,
    /// The push is of a class that may be dropped, and was: so many copies of it are not made.
    Dropped { class: Class, copies: u64 },
}

/// The rooms of one shard, and whose turn it is.
#[derive(Debug, Default)]
pub(super) struct Rooms {
    by_id: HashMap<i64, Room, RandomState>,
    /// Rooms with something to do, the next first: each has one turn, then the others.
    active: VecDeque<i64>,
    queued_bytes: usize,
}

impl Rooms {
    pub(super) fn get_mut(&mut self, room_id: i64) -> Option<&mut Room> {
        self.by_id.get_mut(&room_id)
    }

    /// The room, made when it is not there.
    pub(super) fn enter(&mut self, room_id: i64) -> &mut Room {
        self.by_id.entry(room_id).or_default()
    }

    /// Hands a push to the room's queue.
    pub(super) fn push(&mut self, room_id: i64, frame: JobFrame) -> RoomPushed {
        if !self.by_id.contains_key(&room_id) {
            return RoomPushed::NoRoom;
        }
        let class = frame.push.class();
        if self.queue(room_id, RoomItem::Push(frame)) {
            return RoomPushed::Queued;
        }
        self.give_up(room_id, class)
    }

    /// Books a push of which no copy is made.
    pub(super) fn give_up(&mut self, room_id: i64, class: Class) -> RoomPushed {
        let Some(room) = self.by_id.get_mut(&room_id) else { return RoomPushed::NoRoom };
        let copies = room.members.len() as u64;
        room.account.copies += copies;
        room.account.dropped[class as usize] += copies;
        RoomPushed::Dropped { class, copies }
    }

    /// Puts an item into a room's queue and gives the room a turn. `false`: it was dropped.
    pub(super) fn queue(&mut self, room_id: i64, item: RoomItem) -> bool {
        let room = self.by_id.entry(room_id).or_default();
        let bytes = item.bytes();
        if !room.queue(item) {
            return false;
        }
        self.queued_bytes += bytes;
        if !room.is_active {
            room.is_active = true;
            self.active.push_back(room_id);
        }
        true
    }

    /// Takes what is next in a room.
    pub(super) fn pop(&mut self, room_id: i64) -> Option<RoomItem> {
        let room = self.by_id.get_mut(&room_id)?;
        let item = room.queue.pop_front()?;
        room.queued_bytes -= item.bytes();
        self.queued_bytes -= item.bytes();
        if room.queue.is_empty() {
            // A burst's capacity is not kept by every room that ever had one.
            room.queue = VecDeque::new();
        }
        Some(item)
    }

    /// The room whose turn it is.
    pub(super) fn next_active(&mut self) -> Option<i64> {
        self.active.pop_front()
    }

    /// A turn is over: the room goes to the end of the line, or out of it, or is forgotten. Whether its job is still under way.
    pub(super) fn end_turn(&mut self, room_id: i64) -> bool {
        let Entry::Occupied(mut entry) = self.by_id.entry(room_id) else { return false };
        let room = entry.get_mut();
        let is_under_way = room.job.is_some();
        if room.is_idle() {
            room.is_active = false;
            if room.is_forgettable() {
                entry.remove();
            }
        } else {
            self.active.push_back(room_id);
        }
        is_under_way
    }

    /// The last member may have left outside a turn.
    pub(super) fn forget_if_empty(&mut self, room_id: i64) {
        if let Entry::Occupied(entry) = self.by_id.entry(room_id)
            && !entry.get().is_active
            && entry.get().is_forgettable()
        {
            entry.remove();
        }
    }

    /// A copy of the room's has left a backlog; `book` writes down how.
    pub(super) fn settle(&mut self, room_id: i64, book: impl FnOnce(&mut RoomAccount)) {
        let Some(room) = self.by_id.get_mut(&room_id) else { return };
        debug_assert!(room.account.pending > 0, "a room is not forgotten while copies wait");
        room.account.pending = room.account.pending.saturating_sub(1);
        book(&mut room.account);
        self.forget_if_empty(room_id);
    }

    /// How many rooms have something to do.
    pub(super) fn active(&self) -> usize {
        self.active.len()
    }

    /// Whether any room has something to do.
    pub(super) fn has_active(&self) -> bool {
        !self.active.is_empty()
    }

    /// What waits in all queues together.
    pub(super) const fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// How many rooms there are.
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }
}

/// What the members of a room have seen of it, by the room's own numbers.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// All of them, but for those who are ahead, have everything up to this; 0: nothing yet.
    seq: i64,
    /// Those whose snapshots go further. Hardly ever anyone: the owner sends what comes before a snapshot ahead of it.
    ahead: Vec<(SlabKey, i64)>,
}

impl Seen {
    /// Whether a push is new to anyone. One without a number always is.
    pub(super) fn pass(&mut self, seq: i64) -> bool {
        let is_new = seq <= 0 || seq > self.seq;
        self.seq = self.seq.max(seq);
        is_new
    }

    /// A session has entered with a snapshot up to `seq`; `alone`: nobody else is in the room.
    pub(super) fn enter(&mut self, key: SlabKey, seq: i64, alone: bool) {
        if alone {
            self.seq = self.seq.max(seq);
            self.ahead.clear();
        } else if seq > self.seq {
            self.ahead.retain(|(known, _)| *known != key);
            self.ahead.push((key, seq));
        }
    }

    /// A session has left.
    pub(super) fn leave(&mut self, index: u32) {
        self.ahead.retain(|(known, _)| known.index != index);
    }

    /// Who is ahead of a job whose first push has this number, in the order of keys. Who was ahead of pushes that went by only is not any
    /// more.
    pub(super) fn ahead_of(&mut self, first_seq: i64) -> Vec<(SlabKey, i64)> {
        let mut ahead: Vec<(SlabKey, i64)> = self.ahead.iter().copied().filter(|(_, seq)| *seq >= first_seq).collect();
        ahead.sort_unstable();
        let passed = self.seq;
        self.ahead.retain(|(_, seq)| *seq > passed);
        ahead
    }
}

/// The members of one room on one shard.
#[derive(Debug, Default)]
pub(super) struct RoomMembers {
    indices: Vec<u32>,
    /// Served by the running job. 0 when none runs.
    cursor: usize,
    /// Where those end whom the running job serves. 0 when none runs.
    end: usize,
}

impl RoomMembers {
    pub(super) fn len(&self) -> usize {
        self.indices.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.indices.is_empty()
    }

    /// Members, in no particular order.
    pub(super) fn indices(&self) -> &[u32] {
        &self.indices
    }

    /// Takes a member in, behind everyone whom a running job serves. Gives its slot.
    pub(super) fn insert(&mut self, index: u32) -> u32 {
        self.indices.push(index);
        slot(self.indices.len() - 1)
    }

    /// Lets a member go. `hint` is its slot where it is known; without a hint it is searched for. `moved` is told of everyone who changes
    /// place: index and new slot. `false` when it is no member.
    pub(super) fn remove(&mut self, index: u32, hint: Option<u32>, mut moved: impl FnMut(u32, u32)) -> bool {
        let at = hint.map(|hint| hint as usize).filter(|hint| self.indices.get(*hint) == Some(&index));
        let Some(at) = at.or_else(|| self.indices.iter().position(|one| *one == index)) else { return false };
        // The hole travels to the end of the vector, over the last member of each part that it is in or before.
        let mut hole = at;
        if at < self.cursor {
            self.cursor -= 1;
            hole = self.fill(hole, self.cursor, &mut moved);
        }
        if at < self.end {
            self.end -= 1;
            hole = self.fill(hole, self.end, &mut moved);
        }
        self.fill(hole, self.indices.len() - 1, &mut moved);
        self.indices.pop();
        true
    }

    /// Moves the member at `from` into the hole; `from` is the hole then.
    fn fill(&mut self, hole: usize, from: usize, moved: &mut impl FnMut(u32, u32)) -> usize {
        if hole != from {
            let index = self.indices[from];
            self.indices[hole] = index;
            moved(index, slot(hole));
        }
        from
    }

    /// A job begins: everyone who is here now is to be served.
    pub(super) fn begin(&mut self) {
        debug_assert!(!self.is_walked(), "one job at a time");
        self.cursor = 0;
        self.end = self.indices.len();
    }

    /// The next member to be served; `None` ends the job.
    pub(super) fn next(&mut self) -> Option<u32> {
        if self.cursor == self.end {
            self.finish();
            return None;
        }
        self.cursor += 1;
        Some(self.indices[self.cursor - 1])
    }

    /// Whether a job has members left to serve.
    pub(super) fn is_walked(&self) -> bool {
        self.cursor < self.end
    }

    /// A job that has served its last member is over, without being asked for one more.
    pub(super) fn finish(&mut self) {
        debug_assert!(!self.is_walked(), "members are left to serve");
        self.cursor = 0;
        self.end = 0;
    }
}

fn slot(at: usize) -> u32 {
    u32::try_from(at).expect("a shard has far fewer than 2^32 members")
}

#[cfg(test)]
mod tests {
    use super::RoomMembers;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    #[derive(Clone, Debug)]
    enum Step {
        Enter,
        Leave(prop::sample::Index, bool),
        Begin,
        Serve(usize),
    }

    fn any_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => Just(Step::Enter),
            4 => (any::<prop::sample::Index>(), any::<bool>()).prop_map(|(who, hinted)| Step::Leave(who, hinted)),
            1 => Just(Step::Begin),
            3 => (1usize..6).prop_map(Step::Serve),
        ]
    }

    proptest! {
        /// The model of a job is a set: who was there when it began, less those who left. Each is served once, nobody else is; and the
        /// slots that members were told are true at every moment.
        #[test]
        fn a_job_serves_each_member_once_whoever_comes_and_goes(steps in prop::collection::vec(any_step(), 0..300)) {
            let mut members = RoomMembers::default();
            let mut slots: BTreeMap<u32, u32> = BTreeMap::new();
            let mut to_serve: Option<BTreeSet<u32>> = None;
            let mut newest = 0u32;
            for step in steps {
                match step {
                    Step::Enter => {
                        newest += 1;
                        slots.insert(newest, members.insert(newest));
                    }
                    Step::Leave(who, hinted) => {
                        if slots.is_empty() {
                            continue;
                        }
                        let (index, slot) = *who.get(&slots.iter().map(|(index, slot)| (*index, *slot)).collect::<Vec<_>>());
                        slots.remove(&index);
                        let left = members.remove(index, hinted.then_some(slot), |moved, to| {
                            assert!(slots.insert(moved, to).is_some(), "who left was moved");
                        });
                        prop_assert!(left);
                        if let Some(to_serve) = &mut to_serve {
                            to_serve.remove(&index);
                        }
                    }
                    Step::Begin => {
                        if to_serve.is_none() {
                            members.begin();
                            to_serve = Some(slots.keys().copied().collect());
                        }
                    }
                    Step::Serve(count) => {
                        let Some(left) = &mut to_serve else { continue };
                        for _ in 0..count {
                            match members.next() {
                                Some(index) => prop_assert!(left.remove(&index), "{index} was served twice, or should not be"),
                                None => {
                                    prop_assert!(left.is_empty(), "{left:?} were missed");
                                    to_serve = None;
                                    break;
                                }
                            }
                        }
                    }
                }
                prop_assert_eq!(members.len(), slots.len());
                for (index, slot) in &slots {
                    prop_assert_eq!(members.indices()[*slot as usize], *index);
                }
            }
        }
    }

    #[test]
    fn a_wrong_hint_harms_nobody() {
        let mut members = RoomMembers::default();
        for index in [10, 11, 12] {
            members.insert(index);
        }
        assert!(members.remove(11, Some(0), |_, _| {}));
        assert!(!members.remove(11, Some(1), |_, _| {}));
        assert_eq!(members.indices(), [10, 12]);
    }
}
