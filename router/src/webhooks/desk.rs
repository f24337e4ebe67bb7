//! What is to be done next with the events of one hook: which lanes may be begun, and what follows from a receiver's answer.
//!
//! ```text
//!             ┌─ accepted ──▶ delivered, the next of the lane
//! try ── answer ─ not, too old ─▶ given up, the next of the lane
//!             ├─ not ───────▶ again later; the lane waits for it
//!             └─ 410 ───────▶ the hook is disabled
//! ```
//!
//! - Of one lane one event is under way, and the next one only when it was accepted or given up.
//! - A receiver that answers nobody is asked by one lane at a time, after pauses that grow, until it accepts something.
//!
//! Sans-io: no clock is read, nothing is sent and nothing is stored here.

use crate::ledger::webhooks::{HookEvent, Settled};
use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use super::event::Lane;

/// Pause after the first failure of an event.
const RETRY_FIRST_MS: u64 = 1_000;
/// Failures in a row, of whatever lanes, after which a receiver counts as away.
const AWAY_AFTER: u32 = 5;
/// Longest pause before a receiver that is away is asked again: so late it is found to be back.
const AWAY_PAUSE_MAX_MS: u64 = 60_000;

/// How patient one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Policy {
    pub(super) lanes_max: usize,
    pub(super) retry_max_ms: u64,
    pub(super) give_up_after_ms: u64,
}

/// What a receiver said to an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// 2xx.
    Accepted,
    /// Anything else, or nothing.
    Failed {
        problem: String,
        /// When it wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// 410: never again.
    Gone,
}

/// What follows for the lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// The next event of the lane.
    Next,
    /// The lane waits.
    Wait,
    /// The hook is over.
    Disable,
}

/// What is under way for one hook.
#[derive(Debug)]
pub(super) struct Desk {
    policy: Policy,
    at_work: BTreeSet<Lane>,
    /// Failures since anything was accepted.
    failures: u32,
    /// Nothing is begun before.
    paused_until_ms: u64,
}

impl Desk {
    pub(super) fn new(policy: Policy) -> Self {
        Self { policy, at_work: BTreeSet::new(), failures: 0, paused_until_ms: 0 }
    }

    /// How many lanes may be begun now.
    pub(super) fn places(&self, now_ms: u64) -> usize {
        if now_ms < self.paused_until_ms {
            return 0;
        }
        let max = if self.is_away() { 1 } else { self.policy.lanes_max };
        max.saturating_sub(self.at_work.len())
    }

    /// When there are places again, where there are none for a pause.
    pub(super) fn paused_until_ms(&self) -> u64 {
        self.paused_until_ms
    }

    /// Begins a lane; `false`: it is under way.
    pub(super) fn begin(&mut self, lane: Lane) -> bool {
        self.at_work.insert(lane)
    }

    /// What a lane has settled is in the records: it may be begun again.
    pub(super) fn end(&mut self, lane: Lane) {
        self.at_work.remove(&lane);
    }

    pub(super) fn at_work(&self) -> impl Iterator<Item = Lane> {
        self.at_work.iter().copied()
    }

    /// Whether the receiver answers nobody.
    pub(super) fn is_away(&self) -> bool {
        self.failures >= AWAY_AFTER
    }

    /// A receiver has answered to a try of the first event of a visit. `luck` is from 0 to 1, to spread what failed at once.
    pub(super) fn on_answer(&mut self, visit: &mut Visit, said: Said, now_ms: u64, luck: f64) -> Then {
        let Some(event) = visit.waiting.pop_front() else { return Then::Wait };
        let (row, tries) = (event.row, event.tries.saturating_add(1));
        match said {
            Said::Accepted => {
                (self.failures, self.paused_until_ms) = (0, 0);
                visit.settled.push(Settled::Delivered { row });
                Then::Next
            }
            Said::Gone => {
                visit.settled.push(Settled::GivenUp { row, tries, problem: "the receiver answered 410".to_owned() });
                Then::Disable
            }
            Said::Failed { problem, retry_after } => {
                self.failures = self.failures.saturating_add(1);
                if self.is_away() {
                    let pause_ms = doubled(RETRY_FIRST_MS, self.failures - AWAY_AFTER, AWAY_PAUSE_MAX_MS);
                    self.paused_until_ms = now_ms.saturating_add(spread(pause_ms, luck));
                }
                if now_ms.saturating_sub(event.made_ms) >= self.policy.give_up_after_ms {
                    visit.settled.push(Settled::GivenUp { row, tries, problem });
                    return Then::Next;
                }
                let retry_max_ms = self.policy.retry_max_ms;
                let own_ms = spread(doubled(RETRY_FIRST_MS, tries - 1, retry_max_ms), luck);
                let asked_ms = retry_after.map_or(0, |after| crate::clock::millis(after).min(retry_max_ms));
                let due_ms = now_ms.saturating_add(own_ms.max(asked_ms));
                visit.settled.push(Settled::Again { row, tries, due_ms, problem });
                Then::Wait
            }
        }
    }
}

/// Some events of a lane, worked off one after the other.
#[derive(Debug)]
pub(super) struct Visit {
    waiting: VecDeque<HookEvent>,
    /// What has become of those that were tried, and does not stand in the records yet.
    settled: Vec<Settled>,
}

impl Visit {
    pub(super) fn new(events: Vec<HookEvent>) -> Self {
        Self { waiting: events.into(), settled: Vec::new() }
    }

    /// The event to be tried.
    pub(super) fn current(&self) -> Option<&HookEvent> {
        self.waiting.front()
    }

    /// What is to be stored.
    pub(super) fn take_settled(&mut self) -> Vec<Settled> {
        std::mem::take(&mut self.settled)
    }
}

/// `first` doubled so many times, at most `max`.
fn doubled(first: u64, times: u32, max: u64) -> u64 {
    first.saturating_mul(1 << times.min(40)).min(max)
}

/// Between half of it and all.
fn spread(ms: u64, luck: f64) -> u64 {
    let half = ms / 2;
    // Below 2^53, and so exact.
    half + ((ms - half) as f64 * luck.clamp(0.0, 1.0)) as u64
}

#[cfg(test)]
mod tests {
    use super::{AWAY_AFTER, AWAY_PAUSE_MAX_MS, Desk, Lane, Policy, RETRY_FIRST_MS, Said, Then, Visit, doubled, spread};
    use crate::{
        ledger::webhooks::{HookEvent, Settled},
        webhooks::event::EventKind,
    };
    use proptest::prelude::*;
    use std::{
        collections::{BTreeMap, BTreeSet},
        time::Duration,
    };

    const POLICY: Policy = Policy { lanes_max: 3, retry_max_ms: 60_000, give_up_after_ms: 600_000 };

    fn event(row: i64, lane: i64, made_ms: u64, tries: u32) -> HookEvent {
        let (lane, kind) = (Lane(lane), Some(EventKind::GiftPaid));
        HookEvent { row, lane, id: row.to_string(), kind, body: String::new(), made_ms, tries }
    }

    fn failed(retry_after: Option<u64>) -> Said {
        Said::Failed { problem: "500".to_owned(), retry_after: retry_after.map(Duration::from_secs) }
    }

    /// What becomes of an event that fails now.
    fn after_failure(tries: u32, made_ms: u64, now_ms: u64, retry_after: Option<u64>) -> (Settled, Then) {
        let (mut desk, mut visit) = (Desk::new(POLICY), Visit::new(vec![event(1, 7, made_ms, tries)]));
        let then = desk.on_answer(&mut visit, failed(retry_after), now_ms, 1.0);
        (visit.take_settled().remove(0), then)
    }

    #[test]
    fn pauses_double_up_to_the_longest_and_a_receiver_may_ask_for_more_but_not_for_longer() {
        for (tries, retry_after, due_ms) in [
            (0, None, 1_000),
            (1, None, 2_000),
            (5, None, 32_000),
            (6, None, 60_000),
            (u32::MAX - 1, None, 60_000),
            (0, Some(30), 30_000),
            (0, Some(3_600), 60_000),
            (6, Some(1), 60_000),
        ] {
            let (settled, then) = after_failure(tries, 0, 0, retry_after);
            let expected = Settled::Again { row: 1, tries: tries + 1, due_ms, problem: "500".to_owned() };
            assert_eq!((settled, then), (expected, Then::Wait));
        }
        assert_eq!((spread(1_000, 0.0), spread(1_000, 0.5), spread(1, 0.0)), (500, 750, 0));
        assert_eq!(doubled(RETRY_FIRST_MS, 100, u64::MAX), RETRY_FIRST_MS << 40);
    }

    #[test]
    fn what_is_too_old_is_given_up_when_it_fails_and_not_before() {
        let now_ms = POLICY.give_up_after_ms;
        assert!(matches!(after_failure(3, 1, now_ms, None), (Settled::Again { .. }, Then::Wait)));
        let (settled, then) = after_failure(3, 0, now_ms, None);
        assert_eq!((settled, then), (Settled::GivenUp { row: 1, tries: 4, problem: "500".to_owned() }, Then::Next));
        let (mut desk, mut visit) = (Desk::new(POLICY), Visit::new(vec![event(1, 7, 0, 3)]));
        assert_eq!(desk.on_answer(&mut visit, Said::Accepted, u64::MAX, 0.0), Then::Next);
        assert_eq!(visit.take_settled(), [Settled::Delivered { row: 1 }]);
    }

    #[test]
    fn a_receiver_that_is_gone_is_asked_no_more() {
        let (mut desk, mut visit) = (Desk::new(POLICY), Visit::new(vec![event(1, 7, 0, 0), event(2, 7, 0, 0)]));
        assert_eq!(desk.on_answer(&mut visit, Said::Gone, 0, 0.0), Then::Disable);
        assert!(matches!(visit.take_settled()[..], [Settled::GivenUp { row: 1, .. }]));
    }

    #[test]
    fn a_receiver_that_is_away_is_asked_by_one_lane_after_pauses_that_grow_until_it_accepts() {
        let mut desk = Desk::new(POLICY);
        let fail = |desk: &mut Desk, now_ms| {
            let mut visit = Visit::new(vec![event(1, 7, 0, 0)]);
            desk.on_answer(&mut visit, failed(None), now_ms, 1.0);
        };
        for _ in 1..AWAY_AFTER {
            fail(&mut desk, 0);
            assert_eq!(desk.places(0), POLICY.lanes_max);
        }
        let mut now_ms = 0;
        for pause_ms in [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, AWAY_PAUSE_MAX_MS, AWAY_PAUSE_MAX_MS] {
            fail(&mut desk, now_ms);
            assert_eq!((desk.paused_until_ms(), desk.places(now_ms + pause_ms - 1)), (now_ms + pause_ms, 0));
            now_ms += pause_ms;
            assert_eq!(desk.places(now_ms), 1);
            assert!(desk.begin(Lane(7)) && !desk.begin(Lane(7)));
            assert_eq!(desk.places(now_ms), 0, "one at a time");
            desk.end(Lane(7));
        }
        let mut visit = Visit::new(vec![event(1, 7, 0, 0)]);
        desk.on_answer(&mut visit, Said::Accepted, now_ms, 0.0);
        assert_eq!(desk.places(now_ms), POLICY.lanes_max);
    }

    /// What a receiver does with the next call.
    #[derive(Clone, Copy, Debug)]
    enum Does {
        Accepts,
        Fails,
        /// It accepts, and the sender dies before it has stored that.
        AcceptsAndCrash,
    }

    fn any_does() -> impl Strategy<Value = Does> {
        prop_oneof![4 => Just(Does::Accepts), 3 => Just(Does::Fails), 1 => Just(Does::AcceptsAndCrash)]
    }

    /// The records, and who is called: as simple as can be.
    #[derive(Default)]
    struct Model {
        waiting: BTreeMap<i64, HookEvent>,
        due: BTreeMap<i64, u64>,
        accepted: Vec<HookEvent>,
        given_up: BTreeSet<i64>,
    }

    impl Model {
        fn heads(&self, now_ms: u64) -> Vec<Lane> {
            let mut heads = BTreeMap::new();
            for event in self.waiting.values() {
                heads.entry(event.lane).or_insert(event.row);
            }
            let mut due: Vec<(i64, Lane)> = heads.into_iter().map(|(lane, row)| (row, lane)).collect();
            due.retain(|(row, _)| self.due.get(row).is_none_or(|due_ms| *due_ms <= now_ms));
            due.sort_unstable();
            due.into_iter().map(|(_, lane)| lane).collect()
        }

        fn store(&mut self, settled: Vec<Settled>) {
            for settled in settled {
                match settled {
                    Settled::Delivered { row } => drop(self.waiting.remove(&row)),
                    Settled::GivenUp { row, .. } => {
                        self.waiting.remove(&row);
                        self.given_up.insert(row);
                    }
                    Settled::Again { row, tries, due_ms, .. } => {
                        self.waiting.get_mut(&row).expect("it waits").tries = tries;
                        self.due.insert(row, due_ms);
                    }
                }
            }
        }
    }

    proptest! {
        /// Whatever a receiver does and whenever the sender dies: each event is accepted at least once or given up, and the first acceptances
        /// of a lane come in the order of its events.
        #[test]
        fn every_event_is_accepted_or_given_up_and_lanes_keep_their_order(
            lanes in proptest::collection::vec(1i64..5, 1..40),
            receiver in proptest::collection::vec(any_does(), 1..60),
            page in 1usize..5,
            lucks in proptest::collection::vec(0.0f64..1.0, 1..8),
        ) {
            let mut model = Model::default();
            for (row, lane) in (1..).zip(&lanes) {
                model.waiting.insert(row, event(row, *lane, 0, 0));
            }
            let mut desk = Desk::new(POLICY);
            let (mut receiver, mut lucks) = (receiver.into_iter(), lucks.into_iter().cycle());
            let mut now_ms = 0;
            // Beyond what was thought up, the receiver accepts.
            while !model.waiting.is_empty() {
                prop_assert!(now_ms < 10 * POLICY.give_up_after_ms, "it comes to an end");
                let mut begun = Vec::new();
                for lane in model.heads(now_ms) {
                    if desk.places(now_ms) > 0 && desk.begin(lane) {
                        let events = model.waiting.values().filter(|event| event.lane == lane).take(page).cloned().collect();
                        begun.push((lane, Visit::new(events)));
                    }
                }
                if begun.is_empty() {
                    now_ms += 500;
                    continue;
                }
                let mut has_crashed = false;
                // Side by side: a call of each, again and again.
                while !begun.is_empty() && !has_crashed {
                    let mut still = Vec::new();
                    for (lane, mut visit) in begun {
                        let Some(event) = visit.current().cloned() else {
                            model.store(visit.take_settled());
                            desk.end(lane);
                            continue;
                        };
                        let said = match receiver.next().unwrap_or(Does::Accepts) {
                            Does::Fails => failed(None),
                            Does::Accepts => Said::Accepted,
                            Does::AcceptsAndCrash => {
                                has_crashed = true;
                                Said::Accepted
                            }
                        };
                        if said == Said::Accepted {
                            model.accepted.push(event);
                        }
                        if has_crashed {
                            break;
                        }
                        match desk.on_answer(&mut visit, said, now_ms, lucks.next().unwrap_or(0.5)) {
                            Then::Next => still.push((lane, visit)),
                            Then::Wait => {
                                model.store(visit.take_settled());
                                desk.end(lane);
                            }
                            Then::Disable => unreachable!("no receiver here is gone"),
                        }
                    }
                    begun = still;
                }
                if has_crashed {
                    desk = Desk::new(POLICY);
                }
            }
            let accepted: BTreeSet<i64> = model.accepted.iter().map(|event| event.row).collect();
            let all: BTreeSet<i64> = (1..=i64::try_from(lanes.len()).unwrap()).collect();
            prop_assert_eq!(accepted.union(&model.given_up).copied().collect::<BTreeSet<_>>(), all);
            let mut last_new: BTreeMap<Lane, i64> = BTreeMap::new();
            let mut seen = BTreeSet::new();
            for event in &model.accepted {
                if seen.insert(event.row) {
                    let before = last_new.insert(event.lane, event.row).unwrap_or(0);
                    prop_assert!(before < event.row, "{} after {before} in {:?}", event.row, event.lane);
                }
            }
        }
    }
}
