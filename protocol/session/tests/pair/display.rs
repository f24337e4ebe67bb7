//! What the app shows: the trace on which order and "at most once" are judged.

use billfish_session::client::{ClientEvent, Order};
use std::collections::{BTreeMap, BTreeSet};

/// From one entering of a room to leaving it, over any number of connections.
#[derive(Default)]
struct Stay {
    /// Promises up to here are not ours: history, or behind a gap that was told.
    promised_after: i64,
    last: Option<i64>,
    last_of_class: BTreeMap<i32, i64>,
    /// Since something was shown in the order of its class alone: until the room is entered on a connection that has one order.
    is_mixed: bool,
    shown: BTreeSet<i64>,
}

#[derive(Default)]
pub(crate) struct Display {
    stays: BTreeMap<i64, Stay>,
    pub(crate) from_inbox: BTreeSet<String>,
}

impl Display {
    /// The app leaves: from here on nothing of the room may be shown.
    pub(crate) fn leaves(&mut self, room_id: i64) {
        self.stays.remove(&room_id);
    }

    pub(crate) fn rooms(&self) -> Vec<i64> {
        self.stays.keys().copied().collect()
    }

    /// `order`: of what can be heard now.
    pub(crate) fn show(&mut self, event: &ClientEvent, order: Order) {
        match event {
            ClientEvent::Joined { room_id, seq, gap, .. } => {
                let stay = self.stays.entry(*room_id).or_insert_with(|| Stay { promised_after: *seq, ..Stay::default() });
                if *gap {
                    stay.promised_after = *seq;
                }
                if order == Order::Total && std::mem::take(&mut stay.is_mixed) {
                    stay.last = None;
                }
            }
            ClientEvent::Left { room_id } => {
                self.stays.remove(room_id);
            }
            ClientEvent::Push(body) => match (body.room_id, body.seq) {
                (Some(room_id), Some(seq)) => {
                    let stay = self.stays.get_mut(&room_id).unwrap_or_else(|| panic!("{seq} shown outside room {room_id}"));
                    stay.is_mixed |= order == Order::PerClass;
                    assert!(stay.is_mixed || stay.last < Some(seq), "room {room_id}: {seq} shown after {:?}", stay.last);
                    stay.last = Some(seq);
                    let last = stay.last_of_class.insert(body.class.unwrap_or(2), seq);
                    assert!(last < Some(seq), "room {room_id}: {seq} shown after {last:?} of its class");
                    assert!(stay.shown.insert(seq), "room {room_id}: {seq} shown twice");
                }
                _ => {
                    let msg_id = body.msg_id.clone().expect("messages to the user have an id");
                    assert!(self.from_inbox.insert(msg_id), "{:?} shown twice", body.msg_id);
                }
            },
            ClientEvent::LoggedIn { .. }
            | ClientEvent::History { .. }
            | ClientEvent::InboxRead { .. }
            | ClientEvent::Accepted { .. }
            | ClientEvent::Refused { .. }
            | ClientEvent::Kicked { .. }
            | ClientEvent::MoveTo { .. }
            | ClientEvent::HeartbeatEcho { .. }
            | ClientEvent::Unreadable { .. }
            | ClientEvent::Closed { .. } => {}
        }
    }

    /// In rooms the user is still in, everything promised since it came was shown.
    pub(crate) fn assert_promises(&self, room_id: i64, promised: &BTreeSet<i64>) {
        if let Some(stay) = self.stays.get(&room_id) {
            let missing: Vec<_> = promised.range(stay.promised_after + 1..).filter(|seq| !stay.shown.contains(seq)).collect();
            assert!(missing.is_empty(), "room {room_id}: promised and not shown: {missing:?}, shown {:?}", stay.shown);
        }
    }
}
