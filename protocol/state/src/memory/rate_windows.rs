//! Rate windows: a count and an end for each key. The first use opens a window.

use super::expiring::Expiring;
use super::lock;
use crate::port::{RateWindows, Result};
use crate::types::{WindowHit, WindowVerdict};
use async_trait::async_trait;
use std::sync::{Arc, Mutex};

/// Open windows in all; the one that ends soonest gives way, and its user gets a new one. 111 bytes each (measured).
const WINDOWS_MAX: usize = 1_000_000;

#[derive(Debug)]
pub(super) struct RateWindowTable {
    windows: Mutex<Expiring<Arc<str>, u32>>,
    max: usize,
}

impl RateWindowTable {
    pub(super) fn new() -> Self {
        Self::with_max(WINDOWS_MAX)
    }

    pub(super) fn with_max(max: usize) -> Self {
        Self { windows: Mutex::new(Expiring::new()), max }
    }
}

fn hit(table: &mut Expiring<Arc<str>, u32>, hit: &WindowHit, now_ms: u64) -> WindowVerdict {
    if hit.limit == 0 {
        return WindowVerdict::Refused { retry_after_ms: hit.window_ms };
    }
    let until_max_ms = now_ms.saturating_add(hit.window_ms);
    match table.stored(hit.key.as_str()) {
        // Where the clock was set back, a window must not stay shut for longer than it is.
        Some((used, until_ms)) if now_ms < until_ms && until_ms <= until_max_ms => {
            if *used >= hit.limit {
                return WindowVerdict::Refused { retry_after_ms: until_ms - now_ms };
            }
            *table.stored_mut(hit.key.as_str()).expect("seen a line ago") += 1;
        }
        Some(_) | None => {
            table.insert(Arc::from(hit.key.as_str()), 1, until_max_ms);
        }
    }
    WindowVerdict::Allowed
}

#[async_trait]
impl RateWindows for RateWindowTable {
    async fn hit(&self, hits: &[WindowHit], now_ms: u64) -> Result<Vec<WindowVerdict>> {
        let mut table = lock(&self.windows);
        table.sweep_for(now_ms, hits.len());
        let count = |one| {
            let verdict = hit(&mut table, one, now_ms);
            if table.len() > self.max {
                table.evict_soonest();
            }
            verdict
        };
        Ok(hits.iter().map(count).collect())
    }
}
