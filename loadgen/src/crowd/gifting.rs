//! Gifts in the event loop: what senders are due to send goes out, what clients hear about gifts goes to senders and viewers.
//!
//! No rule of either is here: see [`senders`](super::senders) and [`viewers`](super::viewers).

use crate::{
    crowd::{
        Crowd, TICK_NS,
        client::Stage,
        herd::Herd,
        room::Refusal,
        senders::{Outgoing, RoomAcks, SendTally, SenderLine, Senders},
        shared::Shared,
        viewers::{BarPush, GiftFaults, PushLine, Told, Viewer, ViewerState},
    },
    gifts::GiftPlan,
    http::Id,
};
use billfish_wire::{BizCode, Body, Code, Reason, Resume, snapshot::RoomSnapshot};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, time::Duration};

/// Gifts sent in one turn, so that reading is never put off for long.
const SENT_PER_TURN: usize = 1024;
/// After the last answer or push, another worker's gift may still be on its way.
const QUIET_NS: u64 = 2_000_000_000;

/// What a worker does in a run with gifts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct GiftWork {
    pub(crate) plan: GiftPlan,
    /// Gifts a second, of this worker.
    pub(crate) per_s: f64,
    /// Gifts of this worker that may be open.
    pub(crate) window: usize,
}

/// Senders and viewers of a worker.
#[derive(Debug)]
pub(crate) struct Gifting<'a> {
    pub(crate) plan: &'a GiftPlan,
    pub(crate) senders: Senders<'a>,
    /// By client.
    pub(crate) viewers: Vec<Viewer>,
}

impl<'a> Gifting<'a> {
    pub(crate) fn new(work: &'a GiftWork, first: usize, clients: usize) -> Self {
        let viewers = (0..clients).map(|_| Viewer::default()).collect();
        Self { plan: &work.plan, senders: Senders::new(&work.plan, first, clients, work.per_s, work.window), viewers }
    }
}

/// What a worker saw of gifts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct GiftTally {
    pub(crate) sends: SendTally,
    /// By sender, in the order of clients.
    pub(crate) senders: Vec<SenderLine>,
    /// By room of the plan.
    pub(crate) rooms: Vec<RoomGifts>,
}

/// What a worker saw of the gifts of a room.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct RoomGifts {
    pub(crate) acks: RoomAcks,
    pub(crate) faults: GiftFaults,
    /// Gifts that it was told of, each once.
    pub(crate) told: u64,
    /// By `msgId`.
    pub(crate) pushes: BTreeMap<String, PushLine>,
    /// By `sendGiftSeqNum`.
    pub(crate) bars: BTreeMap<i64, i64>,
    /// Viewers that stayed, or came back without a gap, as (what they came to, how many).
    pub(crate) viewers: Vec<(ViewerState, u32)>,
}

impl GiftTally {
    /// Adds another worker's.
    pub(crate) fn merge(&mut self, other: Self) {
        self.sends.merge(other.sends);
        self.senders.extend(other.senders);
        self.senders.sort_by_key(|line| line.client);
        self.rooms.resize_with(self.rooms.len().max(other.rooms.len()), RoomGifts::default);
        for (room, more) in self.rooms.iter_mut().zip(other.rooms) {
            room.merge(more);
        }
    }
}

impl RoomGifts {
    fn merge(&mut self, other: Self) {
        self.acks.merge(other.acks);
        self.faults.merge(&other.faults);
        // Both have heard all of it, where both have viewers that lack nothing.
        self.told = self.told.max(other.told);
        for (id, line) in other.pushes {
            match self.pushes.get_mut(&id) {
                None => {
                    self.pushes.insert(id, line);
                }
                Some(own) => {
                    let is_same = (own.first, own.last, own.taps) == (line.first, line.last, line.taps);
                    self.faults.contradictions += u64::from(!is_same);
                    own.received += line.received;
                    own.twice += line.twice;
                    own.overtaken += line.overtaken;
                }
            }
        }
        for (gift_seq, value) in other.bars {
            let known = *self.bars.entry(gift_seq).or_insert(value);
            self.faults.bar_conflicts += u64::from(known != value);
        }
        for (state, members) in other.viewers {
            match self.viewers.iter_mut().find(|(own, _)| *own == state) {
                Some((_, own)) => *own += members,
                None => self.viewers.push((state, members)),
            }
        }
    }

    /// What its viewers came to, in order.
    pub(crate) fn by_state(&self) -> BTreeMap<ViewerState, u32> {
        self.viewers.iter().copied().collect()
    }
}

impl Crowd<'_> {
    /// Sends the gifts that are due, and says how long to wait for events at most.
    pub(super) fn pace_gifts(&mut self) -> Duration {
        let tick = Duration::from_nanos(TICK_NS);
        for _ in 0..SENT_PER_TURN {
            let (now_ns, connections) = (self.shared.now_ns, &self.connections);
            let Some(gifts) = &mut self.shared.gifts else { return tick };
            let outgoing = gifts.senders.next(now_ns, |index| connections[index].client.stage == Stage::Settled);
            let Some(outgoing) = outgoing else {
                let Some(due_ns) = gifts.senders.next_due_ns() else { return tick };
                let wait = Duration::from_nanos(due_ns.saturating_sub(now_ns)).min(tick);
                // Who is out and whose gift is due is no reason to turn without rest.
                return if wait.is_zero() {
                    Duration::from_millis(1)
                } else if wait < Duration::from_millis(1) {
                    Duration::ZERO
                } else {
                    wait
                };
            };
            self.send_gift(outgoing);
        }
        Duration::ZERO
    }

    fn send_gift(&mut self, Outgoing { index, key, is_doubled }: Outgoing) {
        let room = self.shared.room_of(index).map(|room| self.shared.rooms[room].id);
        let Some(plan) = self.shared.gifts.as_ref().map(|gifts| gifts.plan) else { return };
        let body = Body {
            biz_code: Some(BizCode::GIFT_SEND.0),
            room_id: room,
            msg_id: Some(plan.uuid(key)),
            data: Some(plan.data(key)),
            ..Body::default()
        };
        for _ in 0..=usize::from(is_doubled) {
            self.shared.say(Code::Biz, &body);
        }
        self.flush(index);
    }

    /// Whether a gift is open, a viewer is out or lacks a gift that is known of, or the last word is not long ago.
    pub(super) fn awaits_gifts(&self) -> bool {
        let Some(gifts) = &self.shared.gifts else { return false };
        if self.has_business() {
            return true;
        }
        let is_quiet = self.shared.now_ns.saturating_sub(self.shared.stats.last_copy_ns) > QUIET_NS;
        if !is_quiet {
            return true;
        }
        let lacks = |(index, viewer): (usize, &Viewer)| {
            let is_in = self.connections[index].client.stage == Stage::Settled && !viewer.has_gap;
            is_in && self.shared.room_of(index).is_some_and(|room| viewer.state().gifts < self.shared.rooms[room].gifts.told())
        };
        gifts.viewers.iter().enumerate().any(lacks)
    }

    /// Whether a gift is open or a viewer is out: either may be long in coming.
    pub(crate) fn has_business(&self) -> bool {
        let Some(gifts) = &self.shared.gifts else { return false };
        gifts.senders.open() > 0 || self.herd.as_ref().is_some_and(Herd::is_anyone_out)
    }

    /// What became of the gifts. Taken once, at the end.
    pub(super) fn take_gifts(&mut self) -> Option<Box<GiftTally>> {
        let mut gifts = self.shared.gifts.take()?;
        let mut viewers = vec![BTreeMap::<ViewerState, u32>::new(); self.shared.rooms.len()];
        for (index, viewer) in gifts.viewers.iter().enumerate() {
            let Some(room) = self.shared.room_of(index) else { continue };
            if viewer.has_gap {
                self.shared.rooms[room].gifts.faults.gaps += 1;
            } else if self.connections[index].client.stage == Stage::Settled {
                *viewers[room].entry(viewer.state()).or_default() += 1;
            }
        }
        let acks = std::mem::take(&mut gifts.senders.acks);
        let rooms = self.shared.rooms.iter_mut().zip(viewers).zip(acks).map(|((room, viewers), acks)| {
            let (pushes, bars) = room.gifts.take_lines();
            RoomGifts {
                acks,
                faults: room.gifts.faults,
                told: room.gifts.told(),
                pushes: pushes.into_iter().collect(),
                bars: bars.into_iter().map(|BarPush { gift_seq, value }| (gift_seq, value)).collect(),
                viewers: viewers.into_iter().collect(),
            }
        });
        let rooms = rooms.collect();
        let (sends, senders) = gifts.senders.take_report();
        Some(Box::new(GiftTally { sends, senders, rooms }))
    }
}

impl Shared<'_> {
    /// An ACK of a gift.
    pub(crate) fn hear_gift_ack(&mut self, index: usize, body: &Body) {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Paid {
            gift_seq: Option<Id>,
        }
        let Some(gifts) = &mut self.gifts else { return };
        let Some(key) = body.msg_id.as_deref().and_then(|id| gifts.plan.key_of(id)) else {
            self.stats.totals.strays += 1;
            return;
        };
        let paid = body.data.as_deref().and_then(|data| serde_json::from_str::<Paid>(data).ok());
        let gift_seq = paid.and_then(|paid| paid.gift_seq?.number().ok());
        let acked = gifts.senders.tally.acked;
        gifts.senders.on_ack(index, key, gift_seq, self.now_ns);
        self.stats.sent += gifts.senders.tally.acked - acked;
        self.stats.last_copy_ns = self.now_ns;
    }

    /// An ERROR; `true` when it answers a gift.
    pub(crate) fn hear_gift_error(&mut self, index: usize, body: &Body) -> bool {
        let Some(gifts) = &mut self.gifts else { return false };
        let Some(key) = body.msg_id.as_deref().and_then(|id| gifts.plan.key_of(id)) else { return false };
        let code = body.code.unwrap_or(0);
        match Reason::from_number(code) {
            // What a fault of the server has left nobody knows: by the same id it cannot be paid again.
            Some(reason) if matches!(reason, Reason::Unavailable | Reason::RateLimited | Reason::Internal) => {
                let wait_ms = body.retry_after_ms.and_then(|ms| u64::try_from(ms).ok());
                gifts.senders.on_retry(index, key, wait_ms, reason.label(), self.now_ns);
            }
            Some(_) | None => gifts.senders.on_refused(index, key, code),
        }
        self.stats.last_copy_ns = self.now_ns;
        true
    }

    /// A gift was refused by the rules.
    pub(crate) fn hear_gift_refusal(&mut self, index: usize, refusal: &Refusal) {
        let Some(gifts) = &mut self.gifts else { return };
        match gifts.plan.key_of(&refusal.uuid) {
            Some(key) => gifts.senders.on_refused(index, key, refusal.code),
            None => self.stats.totals.strays += 1,
        }
        self.stats.last_copy_ns = self.now_ns;
    }

    /// A push of its room has come to a client that is in a run with gifts.
    pub(crate) fn hear_gifts(&mut self, index: usize, room: usize, told: Told, seq: i64, is_missed: bool) {
        let Some(gifts) = &mut self.gifts else { return };
        let (book, viewer) = (&mut self.rooms[room].gifts, &mut gifts.viewers[index]);
        let is_ordered = !self.plan.transport.is_quic();
        if is_ordered {
            viewer.newest_seq = viewer.newest_seq.max(seq);
        }
        if let Some(push) = told.gifts {
            let copy = book.on_copy(viewer, push, seq, is_missed && !is_ordered);
            // A push counts once where it is one too many, and by its gifts where they are shown.
            if self.stats.totals.book(copy) {
                self.stats.totals.received += u64::from(push.taps) - 1;
                self.stats.latency.record(push.intended_ns, self.now_ns);
                self.stats.last_copy_ns = self.now_ns;
            }
        }
        if let Some(bar) = told.bar {
            book.on_bar(viewer, bar);
        }
    }

    /// Whence a client that comes back wants to be told what it has missed.
    pub(crate) fn resume_of(&self, index: usize) -> Option<Resume> {
        let viewer = self.gifts.as_ref()?.viewers.get(index).filter(|viewer| viewer.was_in)?;
        Some(Resume { seq: Some(viewer.newest_seq), ..Resume::default() })
    }

    /// A client is in its room, with the answer of its JOIN.
    pub(crate) fn enter_with_gifts(&mut self, index: usize, room: usize, answer: &Body) {
        let Some(gifts) = &mut self.gifts else { return };
        let was_in = std::mem::replace(&mut gifts.viewers[index].was_in, true);
        let snapshot: RoomSnapshot = answer.data.as_deref().and_then(|data| serde_json::from_str(data).ok()).unwrap_or_default();
        if was_in {
            gifts.viewers[index].has_gap |= snapshot.gap;
            gifts.senders.on_back(index, self.now_ns);
        }
        // Who is new is told what was before; gifts before its time are not for it.
        let missed = if was_in { snapshot.messages } else { Vec::new() };
        let states = snapshot.states.into_iter().map(|(key, push)| Body { key: Some(key), ..push });
        for push in missed.into_iter().chain(states) {
            if push.room_id.is_some_and(|id| id != self.rooms[room].id) {
                self.stats.totals.strays += 1;
                continue;
            }
            let told = self.rooms[room].learn_told(&push);
            self.hear_gifts(index, room, told, push.seq.unwrap_or(0), true);
        }
        if let Some(gifts) = &mut self.gifts {
            let viewer = &mut gifts.viewers[index];
            viewer.newest_seq = viewer.newest_seq.max(answer.seq.unwrap_or(0));
        }
    }
}
