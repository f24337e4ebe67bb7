//! The time that all nodes on one store agree on: Unix milliseconds.
//!
//! - The wall clock is read once, at the start; from there the monotonic clock counts. A wall clock that jumps therefore ends no lease,
//!   revives no token and reorders no inbox.
//! - A shared store corrects it by the time of all its nodes ([`Clock::shift`]), so that leases and signs of life of different machines
//!   compare. What it drifts is given back a few milliseconds at a time; it steps only where the store finds that this process alone was
//!   wrong. Between two corrections it never runs backwards.
//! - Tests that pause tokio's time hold this clock too.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::time::Instant;

/// Given to whoever needs the time; clones are one clock.
#[derive(Clone, Debug)]
pub struct Clock(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    started: Instant,
    /// Unix milliseconds at `started`.
    started_ms: AtomicU64,
}

impl Clock {
    /// Reads the wall clock.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the clock that the others are given")]
    pub fn start() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(Arc::new(Inner { started: Instant::now(), started_ms: AtomicU64::new(millis(since_epoch)) }))
    }

    /// Unix milliseconds.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.0.started_ms.load(Relaxed) + millis(self.0.started.elapsed())
    }

    /// The moment of a Unix millisecond; one that has passed is now or earlier.
    #[must_use]
    pub fn instant(&self, at_ms: u64) -> Instant {
        self.0.started + Duration::from_millis(at_ms.saturating_sub(self.0.started_ms.load(Relaxed)))
    }

    /// It is so much later, or earlier, than this clock believed.
    pub fn shift(&self, by_ms: i64) {
        // One writer, or none: whoever corrects the clock is alone.
        self.0.started_ms.store(self.0.started_ms.load(Relaxed).saturating_add_signed(by_ms), Relaxed);
    }

    /// It is `now_ms` now, whatever this clock believed.
    pub fn set(&self, now_ms: u64) {
        self.0.started_ms.store(now_ms.saturating_sub(millis(self.0.started.elapsed())), Relaxed);
    }
}

/// A duration in whole milliseconds; one beyond 500 million years is that.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::Clock;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn a_corrected_clock_goes_on_from_there_and_its_clones_with_it() {
        let clock = Clock::start();
        let other = clock.clone();
        clock.set(1_000_000);
        tokio::time::advance(Duration::from_millis(250)).await;
        assert_eq!((clock.now_ms(), other.now_ms()), (1_000_250, 1_000_250));
        assert_eq!(clock.instant(1_000_750), tokio::time::Instant::now() + Duration::from_millis(500));
        clock.shift(-250);
        assert_eq!((clock.now_ms(), other.now_ms()), (1_000_000, 1_000_000));
        clock.shift(50);
        assert_eq!(clock.now_ms(), 1_000_050);
    }
}
