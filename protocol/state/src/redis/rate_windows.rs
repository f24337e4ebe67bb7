//! [`RateWindows`]: a string `used%end` for each open window.

use super::command::{Command, Script};
use super::connection::Connection;
use super::short_life;
use crate::port::{RateWindows, Result};
use crate::types::{WindowHit, WindowVerdict};
use async_trait::async_trait;

static HIT: Script = Script::new(include_str!("lua/rate_window_hit.lua"));

/// What the script says of a use that was counted; anything else is the wait.
const ALLOWED: i64 = -1;

pub(super) struct RedisRateWindows(Connection);

impl RedisRateWindows {
    pub(super) fn new(connection: Connection) -> Self {
        Self(connection)
    }
}

#[async_trait]
impl RateWindows for RedisRateWindows {
    async fn hit(&self, hits: &[WindowHit], now_ms: u64) -> Result<Vec<WindowVerdict>> {
        let command = |hit: &WindowHit| {
            let until_ms = now_ms.saturating_add(hit.window_ms);
            Command::script(&HIT, &[&self.0.keys().rate_window(&hit.key)])
                .arg(hit.limit)
                .arg(now_ms)
                .arg(until_ms)
                .arg(short_life(now_ms, until_ms))
                .once()
        };
        let verdicts: Vec<i64> = self.0.run_many("counting uses", hits.iter().map(command).collect()).await?;
        let read = |(verdict, hit): (i64, &WindowHit)| match verdict {
            ALLOWED => WindowVerdict::Allowed,
            wait_ms => WindowVerdict::Refused { retry_after_ms: u64::try_from(wait_ms).unwrap_or(hit.window_ms) },
        };
        Ok(verdicts.into_iter().zip(hits).map(read).collect())
    }
}
