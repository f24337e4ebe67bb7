//! Clients that come back when their gateway is gone, as an app's would: to another gateway, after a wait drawn at random.
//!
//! - Where the first gateway is to die, everyone begins there; else everywhere. Who is cut goes to the others in turn.
//! - The first wait is drawn from the whole spread that the app's authors chose; after a failure the waits grow, drawn anew each time.

use crate::latency::Latencies;
use serde::{Deserialize, Serialize};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
};

/// First longest wait after a failed return; doubled up to the largest.
const BACK_OFF_NS: u64 = 1_000_000_000;
const BACK_OFF_MAX_NS: u64 = 60_000_000_000;

/// What became of those who were cut.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct HerdTally {
    /// Connections cut.
    pub(crate) cut: u64,
    /// Of those, cut once more after they had come back.
    pub(crate) cut_again: u64,
    /// Times someone was in again.
    pub(crate) returned: u64,
    /// Returns that failed and were tried again, by cause.
    pub(crate) retries: BTreeMap<String, u64>,
    /// From the cut to being in again.
    pub(crate) back: Latencies,
    /// The first cut and the last return; 0: none.
    pub(crate) first_cut_ns: u64,
    pub(crate) last_back_ns: u64,
}

impl HerdTally {
    /// Adds another worker's.
    pub(crate) fn merge(&mut self, other: Self) {
        self.cut += other.cut;
        self.cut_again += other.cut_again;
        self.returned += other.returned;
        for (cause, count) in other.retries {
            *self.retries.entry(cause).or_default() += count;
        }
        self.back.merge(&other.back);
        self.first_cut_ns = match (self.first_cut_ns, other.first_cut_ns) {
            (0, first) | (first, 0) => first,
            (one, two) => one.min(two),
        };
        self.last_back_ns = self.last_back_ns.max(other.last_back_ns);
    }
}

/// Where clients begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Homes {
    /// At the first gateway, which will die.
    First,
    /// At each of them, in turn.
    All,
}

/// Those who are out, and when each tries again.
#[derive(Debug)]
pub(crate) struct Herd {
    spread_ns: u64,
    homes: Homes,
    due: BinaryHeap<Reverse<(u64, usize)>>,
    /// By client: since when it is out, 0 while it is in; whether it was cut before; how often it has tried.
    out: Vec<Out>,
    random: fastrand::Rng,
    pub(crate) tally: HerdTally,
}

#[derive(Clone, Copy, Debug, Default)]
struct Out {
    since_ns: u64,
    was_cut: bool,
    tries: u8,
}

impl Herd {
    /// What a client costs here, with its place in the queue.
    #[cfg(test)]
    pub(crate) const BYTES_PER_CLIENT: usize = size_of::<Out>() + size_of::<Reverse<(u64, usize)>>();

    /// `random` draws the waits.
    pub(crate) fn new(clients: usize, homes: Homes, spread_ns: u64, random: fastrand::Rng) -> Self {
        Self { spread_ns, homes, due: BinaryHeap::new(), out: vec![Out::default(); clients], random, tally: HerdTally::default() }
    }

    /// A client that was in has lost its connection.
    pub(crate) fn on_cut(&mut self, index: usize, now_ns: u64) {
        let out = &mut self.out[index];
        self.tally.cut += 1;
        self.tally.cut_again += u64::from(out.was_cut);
        *out = Out { since_ns: now_ns, was_cut: true, tries: 0 };
        if self.tally.first_cut_ns == 0 {
            self.tally.first_cut_ns = now_ns;
        }
        self.due.push(Reverse((now_ns + self.random.u64(0..=self.spread_ns), index)));
    }

    /// A return did not succeed.
    pub(crate) fn on_failed(&mut self, index: usize, cause: String, now_ns: u64) {
        let out = &mut self.out[index];
        *self.tally.retries.entry(cause).or_default() += 1;
        let longest_ns = (BACK_OFF_NS << out.tries.min(6)).min(BACK_OFF_MAX_NS);
        out.tries = out.tries.saturating_add(1);
        self.due.push(Reverse((now_ns + self.random.u64(0..=longest_ns), index)));
    }

    /// A client is in again.
    pub(crate) fn on_back(&mut self, index: usize, now_ns: u64) {
        let out = &mut self.out[index];
        self.tally.returned += 1;
        self.tally.back.record(out.since_ns, now_ns);
        self.tally.last_back_ns = now_ns;
        out.since_ns = 0;
    }

    /// The next client whose wait is over.
    pub(crate) fn next_due(&mut self, now_ns: u64) -> Option<usize> {
        let Reverse((due_ns, _)) = self.due.peek()?;
        if *due_ns > now_ns {
            return None;
        }
        self.due.pop().map(|Reverse((_, index))| index)
    }

    /// Whether anyone is out.
    pub(crate) fn is_anyone_out(&self) -> bool {
        self.tally.returned < self.tally.cut
    }

    /// Which of `gateways` a client goes to: its home as long as it was never cut, then the others in turn.
    pub(crate) fn gateway_of(&self, index: usize, client: usize, gateways: usize) -> usize {
        let out = self.out[index];
        if self.homes == Homes::All {
            // Where it was cut it may be welcome again: that was perhaps its connection alone.
            return (client + usize::from(out.was_cut) + usize::from(out.tries)) % gateways;
        }
        if !out.was_cut || gateways == 1 { 0 } else { 1 + (client + usize::from(out.tries)) % (gateways - 1) }
    }
}

#[cfg(test)]
mod tests {
    use super::{Herd, HerdTally, Homes};

    #[test]
    fn who_is_cut_comes_back_within_the_spread_to_another_gateway() {
        let mut herd = Herd::new(2, Homes::First, 1_000, fastrand::Rng::with_seed(1));
        assert_eq!(herd.gateway_of(1, 1, 3), 0);
        herd.on_cut(1, 50);
        assert!(herd.is_anyone_out());
        assert_eq!(herd.next_due(1_050), Some(1));
        assert_eq!(herd.next_due(1_050), None);
        assert_eq!(herd.gateway_of(1, 1, 3), 2);
        herd.on_failed(1, "refused".to_owned(), 1_050);
        assert_eq!(herd.gateway_of(1, 1, 3), 1, "the next one");
        assert_eq!(herd.next_due(u64::MAX), Some(1));
        herd.on_back(1, 2_000);
        assert!(!herd.is_anyone_out());
        assert_eq!((herd.tally.cut, herd.tally.returned, herd.tally.cut_again), (1, 1, 0));
        herd.on_cut(1, 3_000);
        assert_eq!(herd.tally.cut_again, 1, "a second wave is told");
    }

    #[test]
    fn where_no_gateway_is_to_die_all_are_homes() {
        let mut herd = Herd::new(2, Homes::All, 0, fastrand::Rng::with_seed(1));
        assert_eq!((herd.gateway_of(0, 0, 3), herd.gateway_of(1, 1, 3)), (0, 1));
        herd.on_cut(1, 50);
        assert_eq!(herd.gateway_of(1, 1, 3), 2);
        herd.on_failed(1, "refused".to_owned(), 60);
        assert_eq!(herd.gateway_of(1, 1, 3), 0, "the next one, and the first is no exception");
    }

    #[test]
    fn tallies_of_two_workers_span_both() {
        let mut sum = HerdTally::default();
        sum.merge(HerdTally { cut: 1, first_cut_ns: 7, last_back_ns: 8, ..HerdTally::default() });
        sum.merge(HerdTally { cut: 2, first_cut_ns: 5, last_back_ns: 6, ..HerdTally::default() });
        assert_eq!((sum.cut, sum.first_cut_ns, sum.last_back_ns), (3, 5, 8));
    }
}
