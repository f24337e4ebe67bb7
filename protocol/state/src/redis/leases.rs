//! [`Leases`]: a hash `holder`, `epoch`, `until`, `kept` for each name. `kept` is until when the key lives: a renewal writes `until` alone,
//! and says anew how long the key is to live but once a day.
//!
//! An epoch never falls, not even when Redis has forgotten it: a name that is not known begins at the hours since 2025, and a name is
//! known for at least six days after its lease has run out. So as long as a name changes hands less than once an hour on average, the next epoch is
//! above all before. Hours, because `epoch * 2^32` is to stay below 2^53, above which numbers in browsers are not exact.

use super::command::{Command, Script};
use super::connection::Connection;
use super::life;
use crate::port::{Leases, Result};
use crate::types::{Lease, LeaseAsk};
use async_trait::async_trait;

static ACQUIRE: Script = Script::new(include_str!("lua/lease_acquire.lua"));
static RELEASE: Script = Script::new(include_str!("lua/lease_release.lua"));

/// 2025-01-01, Unix ms.
const FIRST_HOUR_MS: u64 = 1_735_689_600_000;
const HOUR_MS: u64 = 3_600_000;
/// How long a name is known after its lease.
const KNOWN_MS: u64 = 7 * 24 * HOUR_MS;
/// Or for so much less, which spares a renewal a command.
const KNOWN_LESS_MS: u64 = 24 * HOUR_MS;

pub(super) struct RedisLeases(Connection);

impl RedisLeases {
    pub(super) fn new(connection: Connection) -> Self {
        Self(connection)
    }

    /// Carried out twice it renews what it has just taken.
    fn ask(&self, name: &str, holder: &str, now_ms: u64, until_ms: u64) -> Command {
        Command::script(&ACQUIRE, &[&self.0.keys().lease(name)])
            .arg(holder)
            .arg(now_ms)
            .arg(until_ms)
            .arg(until_ms.saturating_sub(now_ms))
            .arg(least_epoch(now_ms))
            .arg(life(now_ms, until_ms) + KNOWN_MS)
            .arg(KNOWN_LESS_MS)
    }
}

/// What the script says stands.
type Told = (String, u64, u64);

fn lease((holder, epoch, until_ms): Told) -> Lease {
    Lease { holder, epoch, until_ms }
}

#[async_trait]
impl Leases for RedisLeases {
    async fn acquire(&self, name: &str, holder: &str, now_ms: u64, until_ms: u64) -> Result<Lease> {
        self.0.run("acquiring a lease", self.ask(name, holder, now_ms, until_ms)).await.map(lease)
    }

    async fn acquire_many(&self, asks: &[LeaseAsk], now_ms: u64, until_ms: u64) -> Result<Vec<Option<Lease>>> {
        let commands = asks.iter().map(|ask| self.ask(&ask.name, &ask.holder, now_ms, until_ms)).collect();
        let told: Vec<Option<Told>> = self.0.run_apart("acquiring leases", commands).await?;
        Ok(told.into_iter().map(|told| told.map(lease)).collect())
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
