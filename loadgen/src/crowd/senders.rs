//! Who sends gifts, when, and what became of each: a gift is open from its intent to its final answer.
//!
//! ```text
//!   due ──► sent ──► ACK: acknowledged     (some are then sent once more on purpose, and must be acknowledged alike)
//!            ▲ │
//!            │ ├──► GIFT_FAIL, ERROR: refused
//!            │ └──► ERROR 5001, 4007; silence; connection lost ──┐
//!            └───────────────────────────────────────────────────┘  the same id again
//! ```
//!
//! - Nothing here reads a clock or owns a socket: what is due comes out, answers go in.
//! - At most `window` gifts are open. When that many are, later ones are late, and their latency counts from when they were due.
//! - A gift that was acknowledged is remembered in its sender's ranges for good, so the account of a long run is as small as a short one's.

use crate::{
    gifts::{COMBO_TAPS, GiftKey, GiftPlan, Repeat, TAP_GAP_NS, place_digest},
    latency::Latencies,
    tally::Seen,
};
use serde::{Deserialize, Serialize};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
};

/// What is not answered for so long is sent again: the gateway itself gives up after 10 s, and says so.
const ANSWER_MAX_NS: u64 = 15_000_000_000;
/// Between two looks for such.
const SWEEP_NS: u64 = 1_000_000_000;
/// A turn of the crowd, about, with all clients to be read.
const TURN_NS_MAX: u64 = 20_000_000;
/// How long to wait after a refusal that names no time.
const RETRY_NS: u64 = 100_000_000;
/// Longer than this no refusal holds a gift back.
const RETRY_NS_MAX: u64 = 10_000_000_000;
/// Who comes back sends what is open one by one: the gateway takes 10 gifts a second of a session.
const RETURN_GAP_NS: u64 = 100_000_000;

/// The sending side of a worker's crowd.
#[derive(Debug)]
pub(crate) struct Senders<'a> {
    plan: &'a GiftPlan,
    /// The worker's first client.
    first: usize,
    /// Gifts a second, of this worker.
    per_s: f64,
    /// Gifts that may be open.
    window: usize,
    /// Clients of this worker that send, by place among them.
    senders: Vec<Sender>,
    /// By (client of this worker, its gift).
    open: BTreeMap<(usize, u32), Open>,
    /// Gifts that wait, and until when.
    due: BinaryHeap<Reverse<(u64, usize, u32)>>,
    /// Turns taken.
    turns: u64,
    /// Gifts that those were for: the next turn is due when these should have gone.
    slots: u64,
    began_ns: u64,
    is_active: bool,
    next_sweep_ns: u64,
    pub(crate) tally: SendTally,
    /// By room.
    pub(crate) acks: Vec<RoomAcks>,
}

/// A client that sends.
#[derive(Debug, Default)]
struct Sender {
    client: usize,
    /// Its next gift.
    next: u32,
    acked: Seen,
    refused: Seen,
}

/// A gift without a final answer; or one that was acknowledged, and is sent once more.
#[derive(Clone, Copy, Debug)]
struct Open {
    intended_ns: u64,
    sent_ns: u64,
    /// Neither sent nor answered: it waits for its time, or for its sender to come back.
    waits: bool,
    tries: u32,
    /// Its place in its room, as the first ACK said; `Some` for a repeat. 0: the ACK did not say.
    paid: Option<i64>,
}

/// A frame to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outgoing {
    /// Client of this worker.
    pub(crate) index: usize,
    pub(crate) key: GiftKey,
    /// Twice, one behind the other.
    pub(crate) is_doubled: bool,
}

/// What a worker's senders have seen.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct SendTally {
    /// Gifts begun.
    pub(crate) intents: u64,
    /// Frames sent for them.
    pub(crate) frames: u64,
    /// Gifts acknowledged.
    pub(crate) acked: u64,
    /// ACKs of gifts that were acknowledged before.
    pub(crate) acked_again: u64,
    /// Gifts refused for good, by code.
    pub(crate) refused: BTreeMap<i32, u64>,
    /// Sent again, by why.
    pub(crate) retries: BTreeMap<String, u64>,
    /// Sent once more on purpose, at once or after the ACK.
    pub(crate) repeats: u64,
    /// Of the latter, acknowledged once more,
    pub(crate) repeats_acked: u64,
    /// and refused, although the gift is paid.
    pub(crate) repeats_refused: u64,
    /// ACKs that name another place than an earlier one of the same gift.
    pub(crate) contradictions: u64,
    /// ACKs that name no place.
    pub(crate) placeless: u64,
    /// Answers to gifts of somebody else, or that were never sent.
    pub(crate) strays: u64,
    /// Turns of senders that were not connected: nobody taps a screen that says so.
    pub(crate) skipped: u64,
    /// Gifts that were due and found no room in the window before time was up.
    pub(crate) unsent: u64,
    /// Gifts without a final answer at the end. They may be paid or not.
    pub(crate) unanswered: u64,
    /// From when a gift was due to its first ACK.
    pub(crate) ack_latency: Latencies,
}

/// ACKs of a room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RoomAcks {
    /// Gifts acknowledged.
    pub(crate) gifts: u64,
    /// Sum of [`place_digest`] over them.
    pub(crate) places: u64,
    /// Of these, without a place.
    pub(crate) placeless: u64,
}

impl RoomAcks {
    pub(crate) fn merge(&mut self, other: Self) {
        self.gifts += other.gifts;
        self.places = self.places.wrapping_add(other.places);
        self.placeless += other.placeless;
    }
}

/// What became of the gifts of one client. What is in neither list had no final answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SenderLine {
    /// Over the whole run.
    pub(crate) client: usize,
    /// Its gifts are 0 to this.
    pub(crate) sent: u32,
    /// Acknowledged, as ranges that exclude their ends.
    pub(crate) acked: Vec<(u32, u32)>,
    /// Refused for good.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub(crate) refused: Vec<(u32, u32)>,
}

impl SendTally {
    /// Adds another worker's.
    pub(crate) fn merge(&mut self, other: Self) {
        let Self { refused, retries, ack_latency, .. } = other;
        for (code, count) in refused {
            *self.refused.entry(code).or_default() += count;
        }
        for (cause, count) in retries {
            *self.retries.entry(cause).or_default() += count;
        }
        self.ack_latency.merge(&ack_latency);
        let sums = [
            (&mut self.intents, other.intents),
            (&mut self.frames, other.frames),
            (&mut self.acked, other.acked),
            (&mut self.acked_again, other.acked_again),
            (&mut self.repeats, other.repeats),
            (&mut self.repeats_acked, other.repeats_acked),
            (&mut self.repeats_refused, other.repeats_refused),
            (&mut self.contradictions, other.contradictions),
            (&mut self.placeless, other.placeless),
            (&mut self.strays, other.strays),
            (&mut self.skipped, other.skipped),
            (&mut self.unsent, other.unsent),
            (&mut self.unanswered, other.unanswered),
        ];
        for (sum, more) in sums {
            *sum += more;
        }
    }

    fn retry(&mut self, cause: &str) {
        match self.retries.get_mut(cause) {
            Some(count) => *count += 1,
            None => {
                self.retries.insert(cause.to_owned(), 1);
            }
        }
    }
}

impl<'a> Senders<'a> {
    /// The senders among `clients` clients from `first` on.
    pub(crate) fn new(plan: &'a GiftPlan, first: usize, clients: usize, per_s: f64, window: usize) -> Self {
        let senders = (first..first + clients).filter(|&client| plan.sends(client));
        Self {
            plan,
            first,
            per_s,
            window,
            senders: senders.map(|client| Sender { client, ..Sender::default() }).collect(),
            open: BTreeMap::new(),
            due: BinaryHeap::new(),
            turns: 0,
            slots: 0,
            began_ns: 0,
            is_active: false,
            next_sweep_ns: 0,
            tally: SendTally::default(),
            acks: vec![RoomAcks::default(); plan.anchors.len()],
        }
    }

    /// Turns begin.
    pub(crate) fn begin(&mut self, now_ns: u64) {
        self.began_ns = now_ns;
        self.is_active = true;
    }

    /// No turn is taken any more; what is open goes on.
    pub(crate) fn end(&mut self, now_ns: u64) {
        if self.is_active {
            self.is_active = false;
            // What has come due since the last turn of the crowd could not be sent yet, whatever the server did.
            self.tally.unsent += self.slots_due(now_ns.saturating_sub(TURN_NS_MAX)).saturating_sub(self.slots);
        }
    }

    /// Gifts without a final answer, and repeats.
    pub(crate) fn open(&self) -> usize {
        self.open.len()
    }

    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a run is far below 2^52 gifts"
    )]
    fn turn_ns(&self) -> u64 {
        self.began_ns + (self.slots as f64 * 1e9 / self.per_s) as u64
    }

    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a run is far below 2^52 gifts"
    )]
    fn slots_due(&self, now_ns: u64) -> u64 {
        if self.senders.is_empty() {
            return 0;
        }
        (now_ns.saturating_sub(self.began_ns) as f64 / 1e9 * self.per_s) as u64
    }

    /// When something will be due that is not yet; `None`: nothing by itself.
    pub(crate) fn next_due_ns(&self) -> Option<u64> {
        let has_room = self.is_active && !self.senders.is_empty() && self.has_room();
        let turn = has_room.then(|| self.turn_ns());
        let waiting = self.due.peek().map(|Reverse((due_ns, ..))| *due_ns);
        turn.into_iter().chain(waiting).min()
    }

    fn has_room(&self) -> bool {
        self.open.len() + COMBO_TAPS as usize <= self.window.max(COMBO_TAPS as usize)
    }

    /// The next frame that is due. `is_in`: whether a client is connected and in its room.
    pub(crate) fn next(&mut self, now_ns: u64, is_in: impl Fn(usize) -> bool) -> Option<Outgoing> {
        self.sweep(now_ns);
        while let Some(&Reverse((due_ns, index, n))) = self.due.peek()
            && due_ns <= now_ns
        {
            self.due.pop();
            if is_in(index)
                && let Some(outgoing) = self.take(index, n, now_ns)
            {
                return Some(outgoing);
            }
        }
        while self.is_active && !self.senders.is_empty() && self.has_room() && self.turn_ns() <= now_ns {
            let intended_ns = self.turn_ns();
            let place = usize::try_from(self.turns % self.senders.len() as u64).expect("less than the senders");
            self.turns += 1;
            if !is_in(self.senders[place].client - self.first) {
                self.tally.skipped += 1;
                self.slots += 1;
                continue;
            }
            let (index, n) = self.begin_gifts(place, intended_ns);
            return self.take(index, n, now_ns);
        }
        None
    }

    /// A sender's turn: one gift, or the taps of a combo, of which the later ones wait.
    fn begin_gifts(&mut self, place: usize, intended_ns: u64) -> (usize, u32) {
        let sender = &mut self.senders[place];
        let (index, first) = (sender.client - self.first, sender.next);
        let is_combo = self.plan.is_combo(sender.client, first);
        let taps = if is_combo { COMBO_TAPS - first % COMBO_TAPS } else { 1 };
        sender.next += taps;
        for tap in 0..taps {
            let intended_ns = intended_ns + u64::from(tap) * TAP_GAP_NS;
            self.open.insert((index, first + tap), Open { intended_ns, sent_ns: 0, waits: true, tries: 0, paid: None });
            if tap > 0 {
                self.due.push(Reverse((intended_ns, index, first + tap)));
            }
        }
        self.tally.intents += u64::from(taps);
        self.slots += u64::from(taps);
        (index, first)
    }

    /// Takes a gift that waits, to be sent now.
    fn take(&mut self, index: usize, n: u32, now_ns: u64) -> Option<Outgoing> {
        let client = self.first + index;
        let open = self.open.get_mut(&(index, n)).filter(|open| open.waits)?;
        open.waits = false;
        open.sent_ns = now_ns;
        open.tries += 1;
        let is_doubled = open.tries == 1 && open.paid.is_none() && self.plan.repeat(client, n) == Some(Repeat::AtOnce);
        self.tally.frames += 1 + u64::from(is_doubled);
        self.tally.repeats += u64::from(is_doubled);
        let client = u32::try_from(client).expect("a crowd has at most a million clients");
        Some(Outgoing { index, key: GiftKey { client, n, intended_ns: open.intended_ns }, is_doubled })
    }

    /// An ACK of a gift. `gift_seq`: its place in its room, where the ACK says so.
    pub(crate) fn on_ack(&mut self, index: usize, key: GiftKey, gift_seq: Option<i64>, now_ns: u64) {
        let Some(place) = self.place_of(index, key) else { return };
        let n = key.n;
        match self.open.remove(&(index, n)) {
            None if self.senders[place].acked.has(n) => self.tally.acked_again += 1,
            // Refused for good, and paid after all: the ledger has the last word, and `check` asks it.
            None => self.tally.contradictions += 1,
            Some(Open { paid: Some(paid), .. }) => {
                self.tally.repeats_acked += 1;
                self.tally.contradictions += u64::from(gift_seq.is_some_and(|gift_seq| paid != 0 && paid != gift_seq));
            }
            Some(Open { paid: None, intended_ns, .. }) => {
                let client = self.senders[place].client;
                self.senders[place].acked.insert(n);
                self.tally.acked += 1;
                self.tally.ack_latency.record(intended_ns, now_ns);
                self.tally.placeless += u64::from(gift_seq.is_none());
                let acks = &mut self.acks[self.plan.room_of(client)];
                acks.gifts += 1;
                match gift_seq {
                    Some(gift_seq) => acks.places = acks.places.wrapping_add(place_digest((key.client, n), gift_seq)),
                    None => acks.placeless += 1,
                }
                if let Some(Repeat::Later { after_ns }) = self.plan.repeat(client, n) {
                    self.tally.repeats += 1;
                    let paid = Some(gift_seq.unwrap_or(0));
                    self.open.insert((index, n), Open { intended_ns, sent_ns: 0, waits: true, tries: 0, paid });
                    self.due.push(Reverse((now_ns + after_ns, index, n)));
                }
            }
        }
    }

    /// Try again later: nothing was debited, or nobody knows.
    pub(crate) fn on_retry(&mut self, index: usize, key: GiftKey, wait_ms: Option<u64>, cause: &str, now_ns: u64) {
        if self.place_of(index, key).is_none() {
            return;
        }
        if let Some(open) = self.open.get_mut(&(index, key.n)).filter(|open| !open.waits) {
            open.waits = true;
            let wait_ns = wait_ms.map_or(RETRY_NS, |ms| ms.saturating_mul(1_000_000)).clamp(1_000_000, RETRY_NS_MAX);
            self.due.push(Reverse((now_ns + wait_ns, index, key.n)));
            self.tally.retry(cause);
        }
    }

    /// Refused for good.
    pub(crate) fn on_refused(&mut self, index: usize, key: GiftKey, code: i32) {
        let Some(place) = self.place_of(index, key) else { return };
        match self.open.remove(&(index, key.n)) {
            None if self.senders[place].acked.has(key.n) => self.tally.repeats_refused += 1,
            // The second answer to one that was sent twice.
            None => {}
            Some(Open { paid: Some(_), .. }) => self.tally.repeats_refused += 1,
            Some(Open { paid: None, .. }) => {
                self.senders[place].refused.insert(key.n);
                *self.tally.refused.entry(code).or_default() += 1;
            }
        }
    }

    /// The sender a key belongs to, if that is who heard the answer and the gift was begun.
    fn place_of(&mut self, index: usize, key: GiftKey) -> Option<usize> {
        let client = self.first + index;
        let place = self.senders.binary_search_by_key(&client, |sender| sender.client).ok();
        let place = place.filter(|&place| key.client as usize == client && key.n < self.senders[place].next);
        self.tally.strays += u64::from(place.is_none());
        place
    }

    /// A connection is lost: what was sent over it and not answered waits for the sender to come back.
    pub(crate) fn on_cut(&mut self, index: usize) {
        for open in self.open.range_mut((index, 0)..=(index, u32::MAX)).map(|(_, open)| open).filter(|open| !open.waits) {
            open.waits = true;
            self.tally.retry("connection lost");
        }
    }

    /// It is back, and in its room.
    pub(crate) fn on_back(&mut self, index: usize, now_ns: u64) {
        for (place, (&(_, n), _)) in self.open.range((index, 0)..=(index, u32::MAX)).enumerate() {
            self.due.push(Reverse((now_ns + place as u64 * RETURN_GAP_NS, index, n)));
        }
    }

    /// What was not answered for long is sent again.
    fn sweep(&mut self, now_ns: u64) {
        if now_ns < self.next_sweep_ns {
            return;
        }
        self.next_sweep_ns = now_ns + SWEEP_NS;
        for (&(index, n), open) in &mut self.open {
            if !open.waits && now_ns.saturating_sub(open.sent_ns) > ANSWER_MAX_NS {
                open.waits = true;
                self.due.push(Reverse((now_ns, index, n)));
                self.tally.retry("not answered");
            }
        }
    }

    /// What became of everything. Taken once, at the end.
    pub(crate) fn take_report(&mut self) -> (SendTally, Vec<SenderLine>) {
        let mut tally = std::mem::take(&mut self.tally);
        tally.unanswered = self.open.values().filter(|open| open.paid.is_none()).count() as u64;
        let ranges = |seen: &Seen| seen.ranges().filter(|(from, until)| from < until).collect();
        let line = |sender: &Sender| SenderLine {
            client: sender.client,
            sent: sender.next,
            acked: ranges(&sender.acked),
            refused: ranges(&sender.refused),
        };
        (tally, self.senders.iter().map(line).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::{ANSWER_MAX_NS, Outgoing, Senders, TURN_NS_MAX};
    use crate::gifts::{COMBO_TAPS, GiftKey, GiftPlan, Priced, Repeat};

    const SECOND_NS: u64 = 1_000_000_000;

    fn plan(combo_permille: u16, retry_permille: u16) -> GiftPlan {
        GiftPlan {
            run: 5,
            catalogue: vec![Priced { gift_id: 1, price: 10 }],
            anchors: vec![91],
            sender_every: 1,
            combo_permille,
            retry_permille,
            ..GiftPlan::default()
        }
    }

    /// Two senders, clients 1 and 2, at ten gifts a second together.
    fn senders(plan: &GiftPlan, window: usize) -> Senders<'_> {
        let mut senders = Senders::new(plan, 0, 3, 10.0, window);
        senders.begin(0);
        senders
    }

    fn all(senders: &mut Senders<'_>, now_ns: u64) -> Vec<Outgoing> {
        std::iter::from_fn(|| senders.next(now_ns, |_| true)).collect()
    }

    #[test]
    fn gifts_are_sent_when_they_are_due_and_senders_take_turns() {
        let plan = plan(0, 0);
        let mut senders = senders(&plan, 100);
        let sent = all(&mut senders, SECOND_NS / 2);
        let places: Vec<_> = sent.iter().map(|gift| (gift.index, gift.key.n)).collect();
        assert_eq!(places, [(1, 0), (2, 0), (1, 1), (2, 1), (1, 2), (2, 2)]);
        assert_eq!(sent[5].key.intended_ns, SECOND_NS / 2);
        assert_eq!(senders.next_due_ns(), Some(SECOND_NS * 6 / 10));
    }

    #[test]
    fn a_full_window_holds_gifts_back_and_their_time_stands() {
        let plan = plan(0, 0);
        let mut senders = senders(&plan, COMBO_TAPS as usize);
        let first = all(&mut senders, SECOND_NS);
        assert_eq!((first.len(), senders.open(), senders.next_due_ns()), (1, 1, None));
        senders.on_ack(1, first[0].key, Some(1), SECOND_NS);
        let second = all(&mut senders, SECOND_NS);
        assert_eq!((second.len(), second[0].key.intended_ns), (1, SECOND_NS / 10), "it is late, and counts from when it was due");
        senders.end(SECOND_NS + TURN_NS_MAX);
        assert_eq!(senders.tally.unsent, 8, "ten were due, and two were sent");
    }

    #[test]
    fn what_came_due_since_the_last_turn_is_not_late() {
        let plan = plan(0, 0);
        for (end_ns, unsent) in [(SECOND_NS * 7 / 10 + TURN_NS_MAX / 2, 0), (SECOND_NS * 7 / 10 + TURN_NS_MAX, 1)] {
            let mut senders = senders(&plan, 100);
            assert_eq!(all(&mut senders, SECOND_NS / 2).len(), 6);
            senders.end(end_ns);
            assert_eq!(senders.tally.unsent, unsent);
        }
    }

    #[test]
    fn an_acknowledged_gift_is_counted_once_however_often_it_is_acknowledged() {
        let plan = plan(0, 0);
        let mut senders = senders(&plan, 100);
        let gift = all(&mut senders, 0)[0];
        senders.on_ack(1, gift.key, Some(1), 3_000_000);
        senders.on_ack(1, gift.key, Some(1), 3_000_000);
        assert_eq!((senders.tally.acked, senders.tally.acked_again, senders.open()), (1, 1, 0));
        assert_eq!((senders.acks[0].gifts, senders.tally.ack_latency.count()), (1, 1));
        let (tally, lines) = senders.take_report();
        assert_eq!((tally.intents, tally.frames), (1, 1));
        assert_eq!((lines[0].client, lines[0].sent, &lines[0].acked), (1, 1, &vec![(0, 1)]));
        assert_eq!((lines[1].client, lines[1].sent, lines[1].acked.len()), (2, 0, 0));
    }

    #[test]
    fn try_again_later_sends_the_same_gift_after_that_time_and_a_refusal_ends_it() {
        let plan = plan(0, 0);
        let mut senders = senders(&plan, 100);
        let gift = all(&mut senders, 0)[0];
        senders.end(0);
        senders.on_retry(1, gift.key, Some(50), "unavailable", 0);
        senders.on_retry(1, gift.key, Some(50), "unavailable", 0);
        assert_eq!(all(&mut senders, 49_000_000), []);
        assert_eq!(all(&mut senders, 50_000_000), [gift], "the same id, once");
        senders.on_refused(1, gift.key, 10_012);
        assert_eq!((senders.open(), senders.tally.refused.get(&10_012), senders.tally.retries.get("unavailable")), (0, Some(&1), Some(&1)));
        let (_, lines) = senders.take_report();
        assert_eq!((&lines[0].acked, &lines[0].refused), (&vec![], &vec![(0, 1)]));
    }

    #[test]
    fn what_a_lost_connection_leaves_open_is_sent_again_by_who_comes_back_and_by_nobody_else() {
        let plan = plan(0, 0);
        let mut senders = senders(&plan, 100);
        let sent = all(&mut senders, SECOND_NS / 5);
        assert_eq!(sent.len(), 3);
        senders.end(SECOND_NS / 5);
        senders.on_cut(1);
        assert_eq!(all(&mut senders, 2 * SECOND_NS), []);
        senders.on_back(1, 3 * SECOND_NS);
        assert_eq!(all(&mut senders, 4 * SECOND_NS), [sent[0], sent[2]]);
        assert_eq!(senders.tally.retries.get("connection lost"), Some(&2));
    }

    #[test]
    fn a_sender_that_is_out_takes_no_turn() {
        let plan = plan(0, 0);
        let mut senders = senders(&plan, 100);
        let sent: Vec<_> = std::iter::from_fn(|| senders.next(SECOND_NS / 5, |index| index != 1)).map(|gift| gift.index).collect();
        assert_eq!((sent, senders.tally.skipped, senders.tally.intents), (vec![2], 2, 1));
    }

    #[test]
    fn silence_is_followed_by_another_try() {
        let plan = plan(0, 0);
        let mut senders = senders(&plan, 100);
        let gift = all(&mut senders, 0)[0];
        senders.end(0);
        assert_eq!(all(&mut senders, ANSWER_MAX_NS), []);
        assert_eq!(all(&mut senders, ANSWER_MAX_NS + 2 * SECOND_NS), [gift]);
        let (tally, _) = senders.take_report();
        assert_eq!((tally.unanswered, tally.frames), (1, 2));
    }

    #[test]
    fn answers_to_the_gifts_of_others_are_strays() {
        let plan = plan(0, 0);
        let mut senders = senders(&plan, 100);
        let gift = all(&mut senders, 0)[0];
        senders.on_ack(2, gift.key, Some(1), 0);
        senders.on_ack(1, GiftKey { n: 9, ..gift.key }, Some(1), 0);
        senders.on_refused(0, gift.key, 1);
        assert_eq!((senders.tally.strays, senders.tally.acked, senders.open()), (3, 0, 1));
    }

    #[test]
    fn deliberate_repeats_go_at_once_or_behind_the_ack_and_must_be_answered_alike() {
        let plan = plan(0, 1_000);
        let mut senders = senders(&plan, 1_000);
        let sent = all(&mut senders, 10 * SECOND_NS);
        senders.end(10 * SECOND_NS);
        let doubled = sent.iter().filter(|gift| gift.is_doubled).count();
        assert!(doubled > 20 && doubled < sent.len(), "{doubled} of {}", sent.len());
        for (place, gift) in sent.iter().enumerate() {
            let is_at_once = plan.repeat(gift.index, gift.key.n) == Some(Repeat::AtOnce);
            assert_eq!(is_at_once, gift.is_doubled);
            senders.on_ack(gift.index, gift.key, Some(place as i64 + 1), 10 * SECOND_NS);
        }
        assert_eq!(senders.open(), sent.len() - doubled);
        let again = all(&mut senders, 13 * SECOND_NS);
        assert_eq!(again.len(), sent.len() - doubled);
        // One is said to stand elsewhere now, one is refused although it is paid.
        senders.on_ack(again[0].index, again[0].key, Some(77_777), 13 * SECOND_NS);
        senders.on_refused(again[1].index, again[1].key, 10_014);
        for gift in &again[2..] {
            senders.on_ack(gift.index, gift.key, None, 13 * SECOND_NS);
        }
        let tally = &senders.tally;
        assert_eq!((tally.contradictions, tally.repeats_refused, tally.repeats_acked), (1, 1, again.len() as u64 - 1));
        assert_eq!((senders.open(), tally.repeats), (0, sent.len() as u64));
    }

    #[test]
    fn a_combo_is_one_turn_of_taps_close_together() {
        let plan = plan(1_000, 0);
        let mut senders = senders(&plan, 1_000);
        assert_eq!(all(&mut senders, 0).len(), 1);
        let taps: Vec<_> = all(&mut senders, 200_000_000).iter().map(|gift| (gift.index, gift.key.n)).collect();
        assert_eq!(taps, [(1, 1), (1, 2), (1, 3), (1, 4)]);
        assert_eq!(all(&mut senders, SECOND_NS / 2)[0].index, 2, "five gifts are half a second's");
    }
}
