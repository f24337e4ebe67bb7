//! When a server that fails is left alone, and when it is tried again.
//!
//! ```text
//!            failures in a row                    its time has come
//!   closed ---------------------> open(until) ---------------------> trial
//!     ^                             ^                                  |  |
//!     |                             '--------- failed: for longer -----'  |
//!     '------------------------------- succeeded ------------------------'
//! ```
//!
//! A server that answers, and says that it cannot serve, opens it at once and is tried again after the shortest time each time: asking it
//! costs little, and everybody knows at once when it can.
//!
//! Pure: time comes in. While it is open or on trial no call passes; the trial is the connection's own.

use std::time::Duration;
use tokio::time::Instant;

/// One for each server.
#[derive(Debug)]
pub(super) struct Breaker {
    state: State,
    limits: BreakerLimits,
}

/// See [`super::RedisConfig`].
#[derive(Clone, Copy, Debug)]
pub(super) struct BreakerLimits {
    pub(super) failures: u32,
    pub(super) open_min: Duration,
    pub(super) open_max: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed { failures: u32 },
    Open { until: Instant, wait: Duration },
    Trial { wait: Duration },
}

impl Breaker {
    pub(super) fn new(limits: BreakerLimits) -> Self {
        Self { state: State::Closed { failures: 0 }, limits }
    }

    /// Whether calls may pass.
    pub(super) fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed { .. })
    }

    /// A call was answered. Answers to calls from before it opened close nothing.
    pub(super) fn on_answer(&mut self) {
        if let State::Closed { failures } = &mut self.state {
            *failures = 0;
        }
    }

    /// A call was not answered, or a connection could not be made. `true` when that opened it.
    pub(super) fn on_failure(&mut self, now: Instant) -> bool {
        match self.state {
            State::Closed { failures } if failures + 1 < self.limits.failures => {
                self.state = State::Closed { failures: failures + 1 };
                false
            }
            State::Closed { .. } => {
                self.open(now, self.limits.open_min);
                true
            }
            State::Trial { wait } => {
                self.open(now, (wait * 2).min(self.limits.open_max));
                true
            }
            State::Open { .. } => false,
        }
    }

    /// The server said that it cannot serve. `true` when that opened it.
    pub(super) fn on_refusal(&mut self, now: Instant) -> bool {
        let opens = self.trial_at().is_none();
        if opens {
            self.open(now, self.limits.open_min);
        }
        opens
    }

    fn open(&mut self, now: Instant, wait: Duration) {
        self.state = State::Open { until: now + wait, wait };
    }

    /// When a trial may begin; `None` when it need not wait.
    pub(super) fn trial_at(&self) -> Option<Instant> {
        match self.state {
            State::Open { until, .. } => Some(until),
            State::Closed { .. } | State::Trial { .. } => None,
        }
    }

    /// A trial begins, if its time has come.
    pub(super) fn begin_trial(&mut self, now: Instant) {
        if let State::Open { until, wait } = self.state
            && now >= until
        {
            self.state = State::Trial { wait };
        }
    }

    /// The trial succeeded, or a connection was made.
    pub(super) fn close(&mut self) {
        self.state = State::Closed { failures: 0 };
    }
}

#[cfg(test)]
mod tests {
    use super::{Breaker, BreakerLimits};
    use proptest::prelude::*;
    use std::time::Duration;
    use tokio::time::Instant;

    const LIMITS: BreakerLimits =
        BreakerLimits { failures: 3, open_min: Duration::from_millis(500), open_max: Duration::from_millis(1500) };

    fn opened(now: Instant) -> Breaker {
        let mut breaker = Breaker::new(LIMITS);
        for _ in 0..LIMITS.failures {
            breaker.on_failure(now);
        }
        breaker
    }

    #[test]
    fn failures_in_a_row_open_it_and_an_answer_between_them_does_not_let_them() {
        let now = Instant::now();
        let mut breaker = Breaker::new(LIMITS);
        assert_eq!([breaker.on_failure(now), breaker.on_failure(now)], [false, false]);
        breaker.on_answer();
        assert_eq!([breaker.on_failure(now), breaker.on_failure(now)], [false, false]);
        assert!(breaker.is_closed());
        assert!(breaker.on_failure(now), "the third in a row");
        assert!(!breaker.is_closed());
        assert!(!breaker.on_failure(now), "it opens once");
    }

    #[test]
    fn a_trial_waits_for_its_time_and_each_that_fails_makes_the_next_wait_longer() {
        let now = Instant::now();
        let mut breaker = opened(now);
        assert_eq!(breaker.trial_at(), Some(now + LIMITS.open_min));
        breaker.begin_trial(now);
        assert_eq!(breaker.trial_at(), Some(now + LIMITS.open_min), "too early");
        let mut now = now;
        for wait in [500, 1000, 1500, 1500] {
            let until = now + Duration::from_millis(wait);
            assert_eq!(breaker.trial_at(), Some(until));
            now = until;
            breaker.begin_trial(now);
            assert_eq!((breaker.trial_at(), breaker.is_closed()), (None, false), "on trial");
            assert!(breaker.on_failure(now));
        }
    }

    #[test]
    fn a_trial_that_succeeds_closes_it_and_forgets_the_waits() {
        let now = Instant::now();
        let mut breaker = opened(now);
        breaker.begin_trial(now + LIMITS.open_min);
        breaker.on_failure(now);
        breaker.begin_trial(now + 2 * LIMITS.open_min);
        breaker.close();
        assert!(breaker.is_closed());
        for _ in 0..LIMITS.failures {
            breaker.on_failure(now);
        }
        assert_eq!(breaker.trial_at(), Some(now + LIMITS.open_min));
    }

    #[test]
    fn a_refusal_opens_it_at_once_and_never_for_longer_than_the_shortest_time() {
        let mut now = Instant::now();
        let mut breaker = Breaker::new(LIMITS);
        for _ in 0..3 {
            assert!(breaker.on_refusal(now));
            assert!(!breaker.on_refusal(now), "it opens once");
            assert_eq!(breaker.trial_at(), Some(now + LIMITS.open_min));
            now += LIMITS.open_min;
            breaker.begin_trial(now);
            assert!(!breaker.is_closed());
        }
    }

    #[test]
    fn a_late_answer_does_not_close_it() {
        let mut breaker = opened(Instant::now());
        breaker.on_answer();
        assert!(!breaker.is_closed());
    }

    proptest! {
        /// Whatever happens: it is open only after enough failures or a refusal, and a trial is never further away than the longest wait.
        #[test]
        fn it_never_shuts_for_longer_than_it_may(events in proptest::collection::vec((0u8..5, 0u64..2000), 1..100)) {
            let mut now = Instant::now();
            let mut breaker = Breaker::new(LIMITS);
            let mut in_a_row = 0;
            for (event, passed) in events {
                now += Duration::from_millis(passed);
                match event {
                    0 => { breaker.on_answer(); if breaker.is_closed() { in_a_row = 0; } }
                    1 => { breaker.on_failure(now); in_a_row += 1; }
                    2 => breaker.begin_trial(now),
                    3 => { breaker.on_refusal(now); in_a_row = LIMITS.failures; }
                    _ => if breaker.trial_at().is_none() { breaker.close(); in_a_row = 0; }
                }
                prop_assert!(breaker.is_closed() || in_a_row >= LIMITS.failures);
                if let Some(at) = breaker.trial_at() {
                    prop_assert!(at <= now + LIMITS.open_max);
                }
            }
        }
    }
}
