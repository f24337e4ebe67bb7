//! One room: the gifts that the ledger has of it, against what its senders and viewers heard.
//!
//! Rows come in the order of their places and are kept until the room is judged, some tens of bytes each.

use crate::{
    crowd::{
        senders::SenderLine,
        viewers::{BarPush, PushLine},
    },
    gifts::{
        COMBO_TAPS, GiftPlan,
        bar::{Bar, Side},
        combo_id, place_digest,
    },
    journal::RoomEvidence,
    tally::Seen,
};
use std::collections::{BTreeMap, BTreeSet};

/// A gift in the ledger.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) gift_seq: i64,
    pub(super) sender_id: i64,
    pub(super) receiver_id: i64,
    pub(super) gift_id: i64,
    pub(super) num: i64,
    pub(super) price: i64,
    pub(super) side: Option<Side>,
    pub(super) uuid: String,
    pub(super) combo: String,
}

/// What was found of rooms; counts that add up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct RoomFinding {
    /// Gifts of this run that are in the ledger, each once.
    pub(super) paid: u64,
    /// Acknowledged gifts,
    pub(super) acked: u64,
    /// those of them that are not in the ledger,
    pub(super) unpaid: u64,
    /// and rooms where the places that ACKs named are not the ledger's.
    pub(super) misplaced: u64,
    /// In the ledger as something else than was sent.
    pub(super) other_content: u64,
    /// Refused for good, and in the ledger.
    pub(super) refused_paid: u64,
    /// Shown, and not in the ledger.
    pub(super) shown_unpaid: u64,
    /// Places that are missing between the first and the last, or are there twice.
    pub(super) holes: u64,
    /// Values of the bar that were seen, and those that are not what the gifts make.
    pub(super) bars: u64,
    pub(super) bars_off: u64,
    /// Viewers that end with another one.
    pub(super) bars_ended_off: u64,
    /// Viewers that stayed.
    pub(super) viewers: u64,
    /// Viewers times gifts that they were not shown.
    pub(super) missing: u64,
    /// Gifts in no push.
    pub(super) untold: u64,
    /// Gifts in two pushes.
    pub(super) told_twice: u64,
    /// Viewers times gifts that they were shown beyond those there are.
    pub(super) surplus: u64,
}

impl RoomFinding {
    pub(super) fn add(&mut self, more: &Self) {
        let sums = [
            (&mut self.paid, more.paid),
            (&mut self.acked, more.acked),
            (&mut self.unpaid, more.unpaid),
            (&mut self.misplaced, more.misplaced),
            (&mut self.other_content, more.other_content),
            (&mut self.refused_paid, more.refused_paid),
            (&mut self.shown_unpaid, more.shown_unpaid),
            (&mut self.holes, more.holes),
            (&mut self.bars, more.bars),
            (&mut self.bars_off, more.bars_off),
            (&mut self.bars_ended_off, more.bars_ended_off),
            (&mut self.viewers, more.viewers),
            (&mut self.missing, more.missing),
            (&mut self.untold, more.untold),
            (&mut self.told_twice, more.told_twice),
            (&mut self.surplus, more.surplus),
        ];
        for (sum, more) in sums {
            *sum += more;
        }
    }
}

/// Judges one room.
pub(super) struct RoomJudge<'a> {
    plan: &'a GiftPlan,
    evidence: &'a RoomEvidence,
    /// Its senders, by client.
    senders: BTreeMap<usize, &'a SenderLine>,
    /// By client: gifts that are in the ledger.
    paid: BTreeMap<usize, Seen>,
    /// By place, what the pushes are compared with.
    told: BTreeMap<i64, Told>,
    places: u64,
    last_seq: i64,
    bar: Bar,
    last_pk_seq: i64,
    /// Values of the bar that were seen, from the smallest number on; those up to here are judged.
    bars: Vec<BarPush>,
    bars_judged: usize,
    finding: RoomFinding,
}

/// A gift of this run in the ledger.
#[derive(Clone, Copy, Debug)]
struct Told {
    client: usize,
    /// The combo that it is a tap of.
    combo: Option<u32>,
    /// Its sender has another gift of the same id.
    is_again: bool,
    /// Pushes that it stands in.
    pushes: u32,
}

impl<'a> RoomJudge<'a> {
    /// Of the room at a place in the run.
    pub(super) fn new(plan: &'a GiftPlan, place: usize, evidence: &'a RoomEvidence, senders: &'a [SenderLine]) -> Self {
        let own = senders.iter().filter(|sender| plan.room_of(sender.client) == place);
        let mut bars = evidence.bars.clone();
        bars.sort_unstable();
        Self {
            plan,
            evidence,
            senders: own.map(|sender| (sender.client, sender)).collect(),
            paid: BTreeMap::new(),
            told: BTreeMap::new(),
            places: 0,
            last_seq: 0,
            bar: Bar::default(),
            last_pk_seq: 0,
            bars,
            bars_judged: 0,
            finding: RoomFinding::default(),
        }
    }

    /// The next gift of the room.
    pub(super) fn on_row(&mut self, row: &Row) {
        self.judge_bars_before(row.gift_seq);
        self.finding.holes += u64::from(row.gift_seq != self.last_seq + 1);
        self.last_seq = row.gift_seq;
        if let Some(side) = row.side {
            self.bar.on_gift(side, row.price, row.num);
            self.last_pk_seq = row.gift_seq;
        }
        // Gifts of people, or of a run before, are no concern of this one but for the bar.
        let Some(key) = self.plan.key_of(&row.uuid) else { return };
        let (client, n) = (key.client as usize, key.n);
        let intent = self.plan.intent(client, n);
        let is_again = !self.paid.entry(client).or_default().insert(n);
        self.told.insert(row.gift_seq, Told { client, combo: intent.combo, is_again, pushes: 0 });
        if is_again {
            // Told of by the sums over the whole ledger.
            return;
        }
        self.finding.paid += 1;
        let user_id = self.plan.first_user_id + i64::try_from(client).unwrap_or(i64::MAX);
        let combo = intent.combo.map(combo_id).unwrap_or_default();
        let is_meant = (row.sender_id, row.receiver_id, row.num) == (user_id, intent.receiver_id, intent.num)
            && (row.gift_id, row.price) == (intent.gift.gift_id, intent.gift.price)
            && (row.side, row.combo.as_str()) == (intent.side, combo.as_str())
            && self.senders.contains_key(&client);
        self.finding.other_content += u64::from(!is_meant);
        if self.senders.get(&client).is_some_and(|sender| has(&sender.acked, n)) {
            self.places = self.places.wrapping_add(place_digest((key.client, n), row.gift_seq));
        }
    }

    fn judge_bars_before(&mut self, gift_seq: i64) {
        while let Some(bar) = self.bars.get(self.bars_judged).filter(|bar| bar.gift_seq < gift_seq) {
            self.finding.bars_off += u64::from(bar.value != self.bar.value());
            self.bars_judged += 1;
        }
    }

    /// All gifts of the room have been.
    pub(super) fn finish(mut self) -> RoomFinding {
        self.judge_bars_before(self.last_seq + 1);
        // What is left has a number that no gift has.
        self.finding.bars_off += (self.bars.len() - self.bars_judged) as u64;
        self.finding.bars = self.bars.len() as u64;
        self.judge_senders();
        self.judge_pushes();
        self.judge_viewers();
        self.finding
    }

    fn judge_senders(&mut self) {
        let nothing = Seen::default();
        for (client, sender) in &self.senders {
            let paid = self.paid.get(client).unwrap_or(&nothing);
            for &(from, until) in &sender.acked {
                self.finding.acked += u64::from(until.saturating_sub(from));
                self.finding.unpaid += (from..until).filter(|&n| !paid.has(n)).count() as u64;
            }
            for &(from, until) in &sender.refused {
                self.finding.refused_paid += (from..until).filter(|&n| paid.has(n)).count() as u64;
            }
        }
        // Places can be compared where every ACK named one, and every acknowledged gift has one.
        let is_comparable = self.evidence.line.placeless == 0 && self.finding.unpaid == 0;
        self.finding.misplaced += u64::from(is_comparable && self.places != self.evidence.line.places);
    }

    fn judge_pushes(&mut self) {
        for push in self.evidence.pushes.iter().filter(|push| push.received > 0) {
            let covered = self.covered_by(push);
            self.finding.shown_unpaid += u64::from(push.taps).saturating_sub(covered.len() as u64);
            for gift_seq in covered {
                if let Some(told) = self.told.get_mut(&gift_seq) {
                    told.pushes += 1;
                }
            }
        }
        self.finding.untold += self.told.values().filter(|told| told.pushes == 0 && !told.is_again).count() as u64;
        self.finding.told_twice += self.told.values().filter(|told| told.pushes > 1).count() as u64;
    }

    /// Gifts that a push stands for: one, or taps of the combo that its first is of.
    fn covered_by(&self, push: &PushLine) -> BTreeSet<i64> {
        let Some(first) = self.told.get(&push.first) else { return BTreeSet::new() };
        let taps = push.taps.min(COMBO_TAPS) as usize;
        if push.first >= push.last {
            return BTreeSet::from([push.first]);
        }
        let is_same = |told: &Told| told.client == first.client && told.combo.is_some() && told.combo == first.combo;
        let combo = self.told.range(push.first..=push.last).filter(|(_, told)| is_same(told));
        combo.map(|(&gift_seq, _)| gift_seq).take(taps).collect()
    }

    fn judge_viewers(&mut self) {
        let paid = self.finding.paid;
        for (state, members) in &self.evidence.viewers {
            let members = u64::from(*members);
            self.finding.viewers += members;
            self.finding.missing += paid.saturating_sub(state.gifts) * members;
            // What was shown and not paid is told of by itself.
            self.finding.surplus += state.gifts.saturating_sub(paid + self.finding.shown_unpaid) * members;
            if self.last_pk_seq > 0 {
                let is_right = state.bar.is_some_and(|bar| bar.value == self.bar.value());
                self.finding.bars_ended_off += if is_right { 0 } else { members };
            }
        }
    }
}

/// Whether a number is in ascending ranges.
fn has(ranges: &[(u32, u32)], number: u32) -> bool {
    let place = ranges.partition_point(|&(_, until)| until <= number);
    ranges.get(place).is_some_and(|&(from, _)| from <= number)
}
