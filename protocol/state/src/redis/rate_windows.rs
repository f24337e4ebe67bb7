//! [`RateWindows`]: a string `used%end` for each open window. A single server is sent one script for many windows.

use super::command::{Command, Script};
use super::connection::Connection;
use super::gather::{Batch, Gather, Gathering};
use super::short_life;
use crate::port::{RateWindows, Result};
use crate::types::{WindowHit, WindowVerdict};
use async_trait::async_trait;

static HIT: Script = Script::new(include_str!("lua/rate_windows_hit.lua"));

/// What the script says of a use that was counted; anything else is the wait.
const ALLOWED: i64 = -1;

pub(super) struct RedisRateWindows(Gather<Hits>);

struct Hits(Connection);

/// A use, and when.
type Use = (WindowHit, u64);

#[async_trait]
impl Batch for Hits {
    type Ask = Use;
    type Answer = WindowVerdict;

    async fn run(&self, uses: Vec<Use>) -> Result<Vec<WindowVerdict>> {
        let key = |(hit, _): &Use| self.0.keys().rate_window(&hit.key);
        let argue = |command: Command, (hit, now_ms): &Use| {
            let until_ms = now_ms.saturating_add(hit.window_ms);
            command.arg(hit.limit).arg(*now_ms).arg(until_ms).arg(short_life(*now_ms, until_ms)).once()
        };
        let verdicts: Vec<i64> = self.0.run_by_key("counting uses", &HIT, &uses, key, argue).await?;
        let read = |(verdict, (hit, _)): (i64, &Use)| match verdict {
            ALLOWED => WindowVerdict::Allowed,
            wait_ms => WindowVerdict::Refused { retry_after_ms: u64::try_from(wait_ms).unwrap_or(hit.window_ms) },
        };
        Ok(verdicts.into_iter().zip(&uses).map(read).collect())
    }
}

impl RedisRateWindows {
    pub(super) fn new(connection: Connection, gathering: &Gathering) -> Self {
        Self(gathering.gather(Hits(connection)))
    }
}

#[async_trait]
impl RateWindows for RedisRateWindows {
    async fn hit(&self, hits: &[WindowHit], now_ms: u64) -> Result<Vec<WindowVerdict>> {
        self.0.ask(hits.iter().map(|hit| (hit.clone(), now_ms)).collect()).await
    }

    async fn hit_at_once(&self, hits: &[WindowHit], now_ms: u64) -> Result<Vec<WindowVerdict>> {
        self.0.ask_at_once(hits.iter().map(|hit| (hit.clone(), now_ms)).collect()).await
    }
}
