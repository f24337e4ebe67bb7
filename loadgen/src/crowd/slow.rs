//! Clients that read slowly, or not at all for a while, as a phone with one bar or an app that hangs does.
//!
//! - Who is slow follows from the user id, and so from the seed alone: the same in every run, however many workers there are.
//! - A slow client is given a few bytes at each step of a clock and is otherwise healthy: it sends its heartbeats. A stopped one neither reads
//!   nor speaks. That it is mute matters for the account: what it would say to a connection that the gateway has ended already would be
//!   answered with a reset, and the reset would destroy copies that lie in the gateway's send buffer and count as delivered.
//! - When the load is over everyone reads all there is, so that whatever the kernel still held is counted.

use crate::latency::Latencies;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Between two helpings of a slow client.
const STEP_NS: u64 = 250_000_000;
const STEPS_PER_S: u32 = 4;

/// Who is slow, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Slow {
    /// Of 1,000 clients, how many read slowly.
    pub(crate) slow_permille: u16,
    /// What each of these reads in a second, in bytes.
    pub(crate) bytes_per_s: u32,
    /// Of 1,000 clients, how many stop.
    pub(crate) stopped_permille: u16,
    /// For how long.
    pub(crate) stop: Duration,
    /// After the load began everyone reads at once for so long.
    pub(crate) calm: Duration,
    /// Receive buffer these clients ask the kernel for, in bytes.
    pub(crate) receive_buffer_bytes: u32,
}

/// How a client reads once the calm is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Pace {
    /// Whatever is there.
    #[default]
    Prompt,
    /// So many bytes a second.
    Slow,
    /// Nothing for a while.
    Stopped,
}

impl Slow {
    /// How a user reads.
    pub(crate) fn pace_of(&self, user_id: i64) -> Pace {
        // Neighbours among ids come out unrelated: were it every tenth client, ten rooms would have all of them in one.
        let place = fastrand::Rng::with_seed(user_id.unsigned_abs()).u16(0..1_000);
        if place < self.slow_permille {
            Pace::Slow
        } else if place - self.slow_permille < self.stopped_permille {
            Pace::Stopped
        } else {
            Pace::Prompt
        }
    }
}

/// Latencies of a crowd with slow readers, apart.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct PaceLatencies {
    /// Of those who read at once all the time, messages that were due before anyone was slow,
    pub(crate) calm: Latencies,
    /// and messages after that.
    pub(crate) prompt: Latencies,
    /// Of those who read slowly, messages since then.
    pub(crate) slow: Latencies,
    /// Of those who had stopped, messages since then.
    pub(crate) stopped: Latencies,
}

impl PaceLatencies {
    /// Adds another worker's.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.calm.merge(&other.calm);
        self.prompt.merge(&other.prompt);
        self.slow.merge(&other.slow);
        self.stopped.merge(&other.stopped);
    }

    /// Where a copy belongs; `lag_from_ns`: since when some are slow. What a slow one was sent before that belongs nowhere: some of it is
    /// read late already.
    pub(crate) fn of(&mut self, pace: Pace, intended_ns: u64, lag_from_ns: u64) -> Option<&mut Latencies> {
        match (pace, intended_ns < lag_from_ns) {
            (Pace::Prompt, true) => Some(&mut self.calm),
            (Pace::Prompt, false) => Some(&mut self.prompt),
            (Pace::Slow, false) => Some(&mut self.slow),
            (Pace::Stopped, false) => Some(&mut self.stopped),
            (Pace::Slow | Pace::Stopped, true) => None,
        }
    }
}

/// The clients of one worker that are not served by the event loop while they lag.
#[derive(Debug)]
pub(crate) struct Laggards {
    slow: Slow,
    /// Since when, and until when the stopped ones; `u64::MAX` before the load.
    pub(crate) from_ns: u64,
    stopped_until_ns: u64,
    next_step_ns: u64,
    slow_clients: Vec<usize>,
    stopped_clients: Vec<usize>,
    is_over: bool,
}

/// What is due.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Helping {
    /// These read at most so many bytes.
    Some { clients: Vec<usize>, bytes: usize },
    /// These read all there is: they lag no more.
    All { clients: Vec<usize> },
}

impl Laggards {
    /// `paces` says how each client of the worker reads.
    pub(crate) fn new(slow: Slow, paces: impl Iterator<Item = Pace>) -> Self {
        let (mut slow_clients, mut stopped_clients) = (Vec::new(), Vec::new());
        for (index, pace) in paces.enumerate() {
            match pace {
                Pace::Prompt => {}
                Pace::Slow => slow_clients.push(index),
                Pace::Stopped => stopped_clients.push(index),
            }
        }
        Self { slow, from_ns: u64::MAX, stopped_until_ns: u64::MAX, next_step_ns: u64::MAX, slow_clients, stopped_clients, is_over: false }
    }

    /// The load begins.
    pub(crate) fn begin(&mut self, now_ns: u64) {
        self.from_ns = now_ns.saturating_add(super::nanoseconds(self.slow.calm));
        self.stopped_until_ns = self.from_ns.saturating_add(super::nanoseconds(self.slow.stop));
        self.next_step_ns = self.from_ns;
    }

    /// Whether a client of this pace is not to be read now.
    pub(crate) fn holds(&self, pace: Pace, now_ns: u64) -> bool {
        let lags_until_ns = match pace {
            Pace::Prompt => return false,
            Pace::Slow => u64::MAX,
            Pace::Stopped => self.stopped_until_ns,
        };
        !self.is_over && (self.from_ns..lags_until_ns).contains(&now_ns)
    }

    /// Who may read now that the event loop leaves alone.
    pub(crate) fn next_helping(&mut self, now_ns: u64) -> Option<Helping> {
        if now_ns >= self.stopped_until_ns && !self.stopped_clients.is_empty() {
            return Some(Helping::All { clients: std::mem::take(&mut self.stopped_clients) });
        }
        if now_ns < self.next_step_ns || self.is_over {
            return None;
        }
        // After a pause of the whole process a client gets one helping, not one for each step missed.
        self.next_step_ns = now_ns + STEP_NS;
        let bytes = usize::try_from(self.slow.bytes_per_s.div_ceil(STEPS_PER_S)).expect("a small number");
        Some(Helping::Some { clients: self.slow_clients.clone(), bytes })
    }

    /// The load is over: nobody lags any more, and these must be read.
    pub(crate) fn end(&mut self) -> Vec<usize> {
        self.is_over = true;
        let mut left = std::mem::take(&mut self.slow_clients);
        left.append(&mut self.stopped_clients);
        left
    }
}

#[cfg(test)]
mod tests {
    use super::{Helping, Laggards, Pace, PaceLatencies, STEP_NS, Slow};
    use std::time::Duration;

    const SLOW: Slow = Slow {
        slow_permille: 100,
        bytes_per_s: 100,
        stopped_permille: 20,
        stop: Duration::from_nanos(1_000),
        calm: Duration::from_nanos(500),
        receive_buffer_bytes: 4_096,
    };

    #[test]
    fn about_the_asked_share_is_slow_and_the_same_users_each_time() {
        let paces = || (20_000..40_000).map(|user_id| SLOW.pace_of(user_id)).collect::<Vec<_>>();
        let first = paces();
        assert_eq!(first, paces());
        let count = |wanted| first.iter().filter(|&&pace| pace == wanted).count();
        assert!((1_800..2_200).contains(&count(Pace::Slow)), "{}", count(Pace::Slow));
        assert!((300..500).contains(&count(Pace::Stopped)), "{}", count(Pace::Stopped));
        let other: Vec<_> = (1_020_000..1_040_000).map(|user_id| SLOW.pace_of(user_id)).collect();
        assert_ne!(first, other, "another seed has other users");
    }

    #[test]
    fn the_whole_crowd_and_nobody_can_be_slow() {
        let all = Slow { slow_permille: 1_000, stopped_permille: 0, ..SLOW };
        let none = Slow { slow_permille: 0, stopped_permille: 0, ..SLOW };
        assert!((20_000..21_000).all(|user_id| all.pace_of(user_id) == Pace::Slow && none.pace_of(user_id) == Pace::Prompt));
    }

    #[test]
    fn slow_ones_are_helped_at_each_step_and_stopped_ones_when_their_time_is_over() {
        let mut laggards = Laggards::new(SLOW, [Pace::Prompt, Pace::Slow, Pace::Stopped].into_iter());
        assert!(!laggards.holds(Pace::Stopped, 1) && laggards.next_helping(1).is_none(), "nothing has begun");
        laggards.begin(1_000);
        assert!(!laggards.holds(Pace::Slow, 1_499), "it is calm");
        assert!(laggards.holds(Pace::Slow, 1_500) && laggards.holds(Pace::Stopped, 1_500) && !laggards.holds(Pace::Prompt, 1_500));
        assert_eq!(laggards.next_helping(1_500), Some(Helping::Some { clients: vec![1], bytes: 25 }));
        assert_eq!(laggards.next_helping(1_501), None);
        assert!(!laggards.holds(Pace::Stopped, 2_500));
        assert_eq!(laggards.next_helping(2_500), Some(Helping::All { clients: vec![2] }));
        assert_eq!(laggards.next_helping(1_500 + STEP_NS), Some(Helping::Some { clients: vec![1], bytes: 25 }));
        assert_eq!(laggards.end(), [1]);
        assert!(!laggards.holds(Pace::Slow, 1_501 + STEP_NS) && laggards.next_helping(u64::MAX).is_none());
    }

    #[test]
    fn a_copy_counts_where_its_reader_and_its_time_belong() {
        let mut latencies = PaceLatencies::default();
        let copies = [(Pace::Slow, 9), (Pace::Prompt, 9), (Pace::Slow, 10), (Pace::Prompt, 10), (Pace::Stopped, 11), (Pace::Prompt, 12)];
        for (pace, intended_ns) in copies {
            if let Some(place) = latencies.of(pace, intended_ns, 10) {
                place.record(intended_ns, intended_ns + 5_000);
            }
        }
        let counts = [&latencies.calm, &latencies.prompt, &latencies.slow, &latencies.stopped].map(|one| one.count());
        assert_eq!(counts, [1, 2, 1, 1]);
    }
}
