//! Waiting for a condition with a deadline; the only way anything here waits.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

/// Longest wait for anything that is not itself the measured thing; far above what a loaded machine needs.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Between two looks.
const POLL: Duration = Duration::from_millis(5);

/// Polls until it holds.
#[track_caller]
pub fn eventually(what: &str, holds: impl FnMut() -> bool) {
    assert!(eventually_within(PATIENCE, holds), "never happened: {what}");
}

/// Polls until it holds, and says whether it did in time.
#[must_use]
pub fn eventually_within(patience: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        if holds() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        sleep(POLL);
    }
}
