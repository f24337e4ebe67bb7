//! Kicks that are said once more, some seconds later: the routers that had the first may have hung, or had no link to that gateway.
//!
//! Bounded: the oldest give way, having been said once.

use super::Claim;
use crate::metrics::{ControlCounters, Forgotten};
use billfish_state::Route;
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// What is to be said again.
#[derive(Debug)]
pub(super) struct KicksAgain {
    queue: Mutex<VecDeque<Again>>,
    counters: Arc<ControlCounters>,
}

/// A session here, and the one on another gateway that it replaced.
#[derive(Debug)]
pub(super) struct Again {
    due: Instant,
    pub(super) newer: Claim,
    pub(super) former: Route,
}

impl KicksAgain {
    pub(super) fn new(counters: &Arc<ControlCounters>) -> Self {
        Self { queue: Mutex::default(), counters: Arc::clone(counters) }
    }

    pub(super) fn put(&self, newer: Claim, former: Route) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.len() >= KICKS_MAX {
            queue.pop_front();
            self.counters.forget(Forgotten::KicksAgain);
        }
        queue.push_back(Again { due: Instant::now() + AGAIN_AFTER, newer, former });
    }

    pub(super) fn take_due(&self, now: Instant) -> Option<Again> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.pop_front_if(|again| again.due <= now)
    }
}

/// A link that hangs is dead after 6 s, and its gateway has another by then.
const AGAIN_AFTER: Duration = Duration::from_secs(10);
/// As many as there are logins in ten seconds of a stampede.
const KICKS_MAX: usize = 16_384;
