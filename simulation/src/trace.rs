//! What happened, line by line, for whoever has to find out why a seed failed.
//!
//! Bounded: the newest lines are kept. The fingerprint covers all of them, so that two runs of a seed can be compared.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Lines that are kept: about the last ten seconds of a busy world, and every fault of it stands in the plan anyway.
const LINES_MAX: usize = 6_000;

/// Shared by the world and its stores; clones are one trace.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trace(Arc<Mutex<Lines>>);

#[derive(Debug)]
struct Lines {
    now_ms: u64,
    kept: VecDeque<String>,
    /// FNV-1a over everything that was ever noted.
    fingerprint: u64,
}

impl Default for Lines {
    fn default() -> Self {
        Self { now_ms: 0, kept: VecDeque::new(), fingerprint: 0xcbf2_9ce4_8422_2325 }
    }
}

impl Trace {
    /// What comes next happens at this time.
    pub(crate) fn set_now(&self, now_ms: u64) {
        self.lines().now_ms = now_ms;
    }

    pub(crate) fn note(&self, what: fmt::Arguments<'_>) {
        let mut lines = self.lines();
        let line = format!("{:>7} {what}", lines.now_ms);
        for byte in line.bytes() {
            lines.fingerprint = (lines.fingerprint ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if lines.kept.len() == LINES_MAX {
            lines.kept.pop_front();
        }
        lines.kept.push_back(line);
    }

    pub(crate) fn fingerprint(&self) -> u64 {
        self.lines().fingerprint
    }

    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.lines().kept).into()
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Notes a line; the arguments are those of `format!`.
macro_rules! note {
    ($trace:expr, $($format:tt)*) => { $trace.note(format_args!($($format)*)) };
}
pub(crate) use note;
