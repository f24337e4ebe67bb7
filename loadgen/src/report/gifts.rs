//! A run with gifts, as its report tells it.
//!
//! Only what the run itself can know is judged here: that what was acknowledged is in the ledger is for `check` to say.

use super::{Tail, line, ratio};
use crate::{
    crowd::{
        gifting::{GiftTally, RoomGifts},
        viewers::{BarPush, GiftFaults, chain_breaks},
    },
    report::number,
};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    fmt::{self, Display, Formatter},
};

/// Gifts: paid, acknowledged, shown.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct GiftReport {
    /// Gifts that senders began.
    pub(crate) intended: u64,
    /// Acknowledged: the server says that they are paid.
    pub(crate) acked: u64,
    pub(crate) acked_per_s: Option<f64>,
    pub(crate) acked_per_server_cpu_s: Option<f64>,
    /// From when a gift was due to its ACK.
    pub(crate) ack_ms: Option<Tail>,
    /// Refused for good, by code.
    pub(crate) refused: BTreeMap<i32, u64>,
    /// Without a final answer: paid or not, the ledger knows.
    pub(crate) unanswered: u64,
    /// Sent again because it had to be, by why.
    pub(crate) retries: BTreeMap<String, u64>,
    /// Sent once more on purpose, at once or behind the ACK.
    pub(crate) repeats: u64,
    /// Of the latter, acknowledged once more.
    pub(crate) repeats_acked: u64,
    /// Of the latter, refused although the gift is paid.
    pub(crate) repeats_refused: u64,
    /// ACKs of gifts that were acknowledged before, beyond those.
    pub(crate) acked_again: u64,
    /// ACKs that contradict an earlier answer to the same gift.
    pub(crate) contradictory_answers: u64,
    /// Turns of senders that were not connected.
    pub(crate) skipped: u64,
    /// Gifts that rooms were told of, each once, and in how many pushes.
    pub(crate) told: u64,
    pub(crate) pushes: u64,
    /// Viewers that stayed, or came back without a gap: what they were shown is the account.
    pub(crate) viewers: u64,
    /// What was wrong with the pushes.
    #[serde(flatten)]
    pub(crate) faults: GiftFaults,
    /// Viewers that saw all there was, in another order or with another content than others.
    pub(crate) chain_breaks: u64,
    /// In PKs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bars: Option<BarReport>,
    /// Refusals are what the run was after.
    #[serde(skip)]
    pub(crate) may_refuse: bool,
}

/// The bars of PKs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct BarReport {
    /// PKs.
    pub(crate) rooms: u64,
    /// Bars that ended at 0 or 100.
    pub(crate) over: u64,
    /// Viewers that end with another bar than most of their room.
    pub(crate) apart: u64,
    /// Rooms of which most viewers end with another bar than the server's own.
    pub(crate) other_than_servers: u64,
    /// Rooms whose PK the server has ended: its challenger was lost for too long.
    pub(crate) ended_early: u64,
}

/// What a room lacks: members that stayed times gifts, less what they were shown.
pub(crate) fn expected_and_received(room: &RoomGifts) -> (u64, u64) {
    let gifts = gifts_of(room);
    room.viewers.iter().fold((0, 0), |(expected, received), (state, members)| {
        (expected + gifts * u64::from(*members), received + state.gifts.min(gifts) * u64::from(*members))
    })
}

/// Gifts of a room: those that were acknowledged, and those that were pushed before their ACK was lost.
pub(crate) fn gifts_of(room: &RoomGifts) -> u64 {
    room.acks.gifts.max(room.told)
}

impl GiftReport {
    /// Of a tally. `server_bars`: what the server says of each room's bar at the end; `None`: there is no PK, or it was not asked.
    pub(crate) fn of(
        tally: &GiftTally,
        seconds: f64,
        server_cpu_s: Option<f64>,
        is_pk: bool,
        server_bars: Option<&[Option<BarPush>]>,
    ) -> Self {
        let sends = &tally.sends;
        let mut faults = GiftFaults::default();
        tally.rooms.iter().for_each(|room| faults.merge(&room.faults));
        Self {
            intended: sends.intents,
            acked: sends.acked,
            acked_per_s: ratio(number(sends.acked), seconds),
            acked_per_server_cpu_s: server_cpu_s.and_then(|cpu_s| ratio(number(sends.acked), cpu_s)),
            ack_ms: Tail::of(&sends.ack_latency),
            refused: sends.refused.clone(),
            unanswered: sends.unanswered,
            retries: sends.retries.clone(),
            repeats: sends.repeats,
            repeats_acked: sends.repeats_acked,
            repeats_refused: sends.repeats_refused,
            acked_again: sends.acked_again,
            contradictory_answers: sends.contradictions,
            skipped: sends.skipped,
            told: tally.rooms.iter().map(|room| room.told).sum(),
            pushes: tally.rooms.iter().map(|room| room.pushes.len() as u64).sum(),
            viewers: tally.rooms.iter().flat_map(|room| &room.viewers).map(|(_, members)| u64::from(*members)).sum(),
            faults,
            chain_breaks: tally.rooms.iter().map(|room| chain_breaks(&room.by_state())).sum(),
            bars: is_pk.then(|| BarReport::of(&tally.rooms, server_bars)),
            may_refuse: false,
        }
    }

    pub(super) fn problems(&self) -> Vec<String> {
        let bars = self.bars.clone().unwrap_or_default();
        let refused = if self.may_refuse { 0 } else { self.refused.values().sum() };
        let unseen = if self.viewers == 0 { self.acked } else { 0 };
        let counts = [
            (unseen, "gifts were acknowledged, and no viewer is left who could have seen them all"),
            (self.unanswered, "gifts were never answered"),
            (refused, "gifts were refused"),
            (self.repeats_refused, "gifts that are paid were refused when they were sent again"),
            (self.contradictory_answers, "answers contradict an earlier one to the same gift"),
            (self.faults.contradictions, "pushes came with another content under the same id"),
            (self.faults.odd, "pushes about gifts could not be read"),
            (self.chain_breaks, "viewers saw another order or content than the others"),
            (self.faults.bar_conflicts, "values of a bar contradict another of the same number"),
            (bars.apart, "viewers end with another bar than the others"),
            (bars.other_than_servers, "rooms end with another bar than the server's"),
            (bars.ended_early, "PKs were over before the run: their challengers were lost"),
        ];
        counts.into_iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect()
    }
}

impl BarReport {
    fn of(rooms: &[RoomGifts], server_bars: Option<&[Option<BarPush>]>) -> Self {
        let mut report = Self { rooms: rooms.len() as u64, ..Self::default() };
        for (place, room) in rooms.iter().enumerate() {
            let mut by_bar: BTreeMap<Option<BarPush>, u64> = BTreeMap::new();
            for (state, members) in &room.viewers {
                *by_bar.entry(state.bar).or_default() += u64::from(*members);
            }
            let Some((&most, &members)) = by_bar.iter().max_by_key(|(_, members)| **members) else { continue };
            report.apart += by_bar.values().sum::<u64>() - members;
            report.over += u64::from(most.is_some_and(|bar| bar.value == 0 || bar.value == 100));
            match server_bars.and_then(|bars| bars.get(place)) {
                None => {}
                Some(None) => report.ended_early += 1,
                Some(Some(servers)) => report.other_than_servers += u64::from(most.is_some_and(|bar| bar.value != servers.value)),
            }
        }
        report
    }
}

impl Display for GiftReport {
    fn fmt(&self, to: &mut Formatter<'_>) -> fmt::Result {
        writeln!(to, "  gifts            {} of {} acknowledged, in {} pushes", self.acked, self.intended, self.pushes)?;
        line(to, "gifts/s", self.acked_per_s, "acknowledged per second")?;
        line(to, "gifts/CPU-s", self.acked_per_server_cpu_s, "per second of server CPU")?;
        if let Some(Tail { p50, p99, p999, max }) = self.ack_ms {
            writeln!(to, "  acknowledged     p50 {p50:.2} ms, p99 {p99:.2} ms, p99.9 {p999:.2} ms, max {max:.2} ms")?;
        }
        for (code, count) in &self.refused {
            writeln!(to, "  refused          {count}: {code}")?;
        }
        for (cause, count) in &self.retries {
            writeln!(to, "  sent again       {count}: {cause}")?;
        }
        writeln!(
            to,
            "  on purpose       {} sent once more, {} of them acknowledged behind the first ACK",
            self.repeats, self.repeats_acked
        )?;
        if let Some(BarReport { rooms, over, apart, .. }) = self.bars {
            writeln!(to, "  bars             {rooms}, {over} of them at an end, {apart} viewers apart from the others")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{BarReport, GiftReport, expected_and_received};
    use crate::crowd::{
        gifting::{GiftTally, RoomGifts},
        senders::{RoomAcks, SendTally},
        viewers::{BarPush, GiftFaults, PushLine, ViewerState},
    };
    use std::collections::BTreeMap;

    fn bar(value: i64) -> Option<BarPush> {
        Some(BarPush { gift_seq: 3, value })
    }

    /// A room of three gifts in two pushes, and so many viewers of each state.
    fn room(viewers: Vec<(ViewerState, u32)>) -> RoomGifts {
        let line = |first, last, taps| PushLine { first, last, taps, received: 2, ..PushLine::default() };
        RoomGifts {
            acks: RoomAcks { gifts: 3, ..RoomAcks::default() },
            told: 3,
            pushes: BTreeMap::from([("g7-2".to_owned(), line(1, 2, 2)), ("g7-3".to_owned(), line(3, 3, 1))]),
            viewers,
            ..RoomGifts::default()
        }
    }

    fn seen(gifts: u64, value: i64) -> ViewerState {
        ViewerState { gifts, pushes: 2, chain: 5, bar: bar(value) }
    }

    #[test]
    fn what_viewers_lack_is_expected_and_not_received() {
        assert_eq!(expected_and_received(&room(vec![(seen(3, 50), 9), (seen(1, 50), 1)])), (30, 28));
        let unacknowledged = RoomGifts { acks: RoomAcks::default(), ..room(vec![(seen(3, 50), 2)]) };
        assert_eq!(expected_and_received(&unacknowledged), (6, 6), "a gift that was pushed is one, also when its ACK was lost");
    }

    #[test]
    fn bars_that_differ_are_told_by_viewer_and_by_room() {
        let rooms = [room(vec![(seen(3, 50), 9), (seen(3, 60), 1)]), room(vec![(seen(3, 100), 4)])];
        let report = BarReport::of(&rooms, Some(&[bar(50), bar(99)]));
        assert_eq!(report, BarReport { rooms: 2, over: 1, apart: 1, other_than_servers: 1, ended_early: 0 });
        assert_eq!(BarReport::of(&rooms, Some(&[None, bar(100)])), BarReport { other_than_servers: 0, ended_early: 1, ..report });
    }

    #[test]
    fn a_clean_run_has_no_problem_and_each_fault_is_one() {
        let sends = SendTally { intents: 3, acked: 3, ..SendTally::default() };
        let tally = GiftTally { sends, rooms: vec![room(vec![(seen(3, 50), 2)])], ..GiftTally::default() };
        let clean = GiftReport::of(&tally, 2.0, Some(0.5), true, None);
        assert_eq!((clean.problems(), clean.acked_per_s, clean.acked_per_server_cpu_s, clean.told), (vec![], Some(1.5), Some(6.0), 3));
        let refused = GiftReport { refused: BTreeMap::from([(10_012, 1)]), ..clean.clone() };
        assert_eq!(GiftReport { may_refuse: true, ..refused.clone() }.problems(), [""; 0]);
        let faults = [
            refused,
            GiftReport { unanswered: 1, ..clean.clone() },
            GiftReport { viewers: 0, ..clean.clone() },
            GiftReport { repeats_refused: 1, ..clean.clone() },
            GiftReport { contradictory_answers: 1, ..clean.clone() },
            GiftReport { chain_breaks: 1, ..clean.clone() },
            GiftReport { faults: GiftFaults { contradictions: 1, ..GiftFaults::default() }, ..clean.clone() },
            GiftReport { faults: GiftFaults { bar_conflicts: 1, ..GiftFaults::default() }, ..clean.clone() },
            GiftReport { faults: GiftFaults { odd: 1, ..GiftFaults::default() }, ..clean.clone() },
            GiftReport { bars: Some(BarReport { apart: 1, ..BarReport::default() }), ..clean.clone() },
            GiftReport { bars: Some(BarReport { ended_early: 1, ..BarReport::default() }), ..clean.clone() },
            GiftReport { bars: Some(BarReport { other_than_servers: 1, ..BarReport::default() }), ..clean.clone() },
        ];
        for fault in faults {
            assert_eq!(fault.problems().len(), 1, "{fault:?}");
        }
        let harmless = GiftFaults { gaps: 1, foreign: 1, bars_late: 1, told_again: 1, ..GiftFaults::default() };
        assert_eq!(GiftReport { faults: harmless, ..clean }.problems(), [""; 0]);
    }
}
