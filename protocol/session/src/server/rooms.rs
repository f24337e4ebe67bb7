//! The rooms one session is in: one costs no allocation, as nearly every viewer is in exactly one.
//!
//! - In the order in which they were entered; the first is the one a heartbeat's audience is about.
//! - Beside each stands the shell's slot, so that leaving a room costs the same in a room of ten and of ten thousand.

/// No room has this id: on the wire 0 means none.
const NONE: i64 = 0;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Room {
    id: i64,
    slot: u32,
}

#[derive(Debug, Default)]
pub(super) struct Rooms {
    first_id: i64,
    first_slot: u32,
    /// The second and further ones. Boxed twice over so that a session in one room pays a pointer.
    #[expect(clippy::box_collection, reason = "one word in an idle connection's slab entry")]
    more: Option<Box<Vec<Room>>>,
}

impl Rooms {
    pub(super) fn first(&self) -> Option<i64> {
        (self.first_id != NONE).then_some(self.first_id)
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = i64> {
        self.first().into_iter().chain(self.more.iter().flat_map(|more| more.iter().map(|room| room.id)))
    }

    pub(super) fn contains(&self, id: i64) -> bool {
        id != NONE && self.ids().any(|entered| entered == id)
    }

    /// Enters a room; `false` when it was in there already.
    pub(super) fn enter(&mut self, id: i64) -> bool {
        if id == NONE || self.contains(id) {
            return false;
        }
        if self.first_id == NONE {
            self.first_id = id;
            self.first_slot = 0;
        } else {
            self.more.get_or_insert_default().push(Room { id, slot: 0 });
        }
        true
    }

    /// Leaves a room; `false` when it was not in there.
    pub(super) fn leave(&mut self, id: i64) -> bool {
        if id == NONE || !self.contains(id) {
            return false;
        }
        let Some(more) = self.more.as_deref_mut() else {
            self.first_id = NONE;
            return true;
        };
        if self.first_id == id {
            let next = more.remove(0);
            (self.first_id, self.first_slot) = (next.id, next.slot);
        } else {
            more.retain(|room| room.id != id);
        }
        if more.is_empty() {
            self.more = None;
        }
        true
    }

    pub(super) fn slot(&self, id: i64) -> Option<u32> {
        if id == NONE {
            return None;
        }
        if self.first_id == id {
            return Some(self.first_slot);
        }
        self.more.as_ref()?.iter().find(|room| room.id == id).map(|room| room.slot)
    }

    pub(super) fn set_slot(&mut self, id: i64, slot: u32) {
        if id == NONE {
            return;
        }
        if self.first_id == id {
            self.first_slot = slot;
        } else if let Some(room) = self.more.iter_mut().flat_map(|more| more.iter_mut()).find(|room| room.id == id) {
            room.slot = slot;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Rooms;
    use proptest::prelude::*;

    proptest! {
        /// Against the plain list that it saves: same rooms, same order, same slots.
        #[test]
        fn it_behaves_like_a_list(steps in prop::collection::vec((0u8..3, 1i64..6, any::<u32>()), 0..60)) {
            let mut rooms = Rooms::default();
            let mut list: Vec<(i64, u32)> = Vec::new();
            for (kind, id, slot) in steps {
                let at = list.iter().position(|room| room.0 == id);
                match kind {
                    0 => {
                        prop_assert_eq!(rooms.enter(id), at.is_none());
                        if at.is_none() {
                            list.push((id, 0));
                        }
                    }
                    1 => {
                        prop_assert_eq!(rooms.leave(id), at.is_some());
                        if let Some(at) = at {
                            list.remove(at);
                        }
                    }
                    _ => {
                        rooms.set_slot(id, slot);
                        if let Some(at) = at {
                            list[at].1 = slot;
                        }
                    }
                }
                prop_assert_eq!(rooms.ids().collect::<Vec<_>>(), list.iter().map(|room| room.0).collect::<Vec<_>>());
                for id in 0..6 {
                    prop_assert_eq!(rooms.slot(id), list.iter().find(|room| room.0 == id).map(|room| room.1));
                }
            }
        }
    }
}
