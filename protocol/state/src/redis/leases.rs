//! [`Leases`]: a hash `holder`, `epoch`, `until` for each name.
//!
//! An epoch never falls, not even when Redis has forgotten it: a name that is not known begins at the hours since 2025, and a name is
//! known for a week after its lease has run out. So as long as a name changes hands less than once an hour on average, the next epoch is
//! above all before. Hours, because `epoch * 2^32` is to stay below 2^53, above which numbers in browsers are not exact.

use super::command::{Command, Script};
use super::connection::Connection;
use super::life;
use crate::port::{Leases, Result};
use crate::types::Lease;
use async_trait::async_trait;

static ACQUIRE: Script = Script::new(include_str!("lua/lease_acquire.lua"));
static RELEASE: Script = Script::new(include_str!("lua/lease_release.lua"));

/// 2025-01-01, Unix ms.
const FIRST_HOUR_MS: u64 = 1_735_689_600_000;
const HOUR_MS: u64 = 3_600_000;
/// How long a name is known after its lease.
const KNOWN_MS: u64 = 7 * 24 * HOUR_MS;

pub(super) struct RedisLeases(Connection);

impl RedisLeases {
    pub(super) fn new(connection: Connection) -> Self {
        Self(connection)
    }
}

#[async_trait]
impl Leases for RedisLeases {
    async fn acquire(&self, name: &str, holder: &str, now_ms: u64, until_ms: u64) -> Result<Lease> {
        // Carried out twice it renews what it has just taken.
        let command = Command::script(&ACQUIRE, &[&self.0.keys().lease(name)])
            .arg(holder)
            .arg(now_ms)
            .arg(until_ms)
            .arg(until_ms.saturating_sub(now_ms))
            .arg(least_epoch(now_ms))
            .arg(life(now_ms, until_ms) + KNOWN_MS);
        let (holder, epoch, until_ms) = self.0.run("acquiring a lease", command).await?;
        Ok(Lease { holder, epoch, until_ms })
    }

    async fn release(&self, name: &str, holder: &str, epoch: u64) -> Result<()> {
        let command = Command::script(&RELEASE, &[&self.0.keys().lease(name)]).arg(holder).arg(epoch);
        self.0.run("releasing a lease", command).await
    }
}

/// Where the epochs of a name that is not known begin.
fn least_epoch(now_ms: u64) -> u64 {
    now_ms.saturating_sub(FIRST_HOUR_MS) / HOUR_MS + 1
}
