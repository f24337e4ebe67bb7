//! [`Leases`]: hashes name → `epoch%until%holder`, a few for all rooms. See `lua/lease_acquire.lua`.
//!
//! - Names of rooms are spread over [`LEASE_SHARDS`] shards: however many of a shard are renewed at once, it is one hash read and written. Leases of
//!   other things, which are few and some of which never end, have a shard each.
//! - An epoch never falls, not even when Redis has forgotten it: a name that is not known begins at the hours since 2025, and a name is
//!   known for at least six days after its lease has run out. So as long as a name changes hands less than once an hour on average, the next
//!   epoch is above all before. Hours, because `epoch * 2^32` is to stay below 2^53, above which numbers in browsers are not exact.
//! - No name is known for ever: a shard is two hashes, and when all in the second have been known for long enough, the first takes its
//!   place.

use super::command::{Command, Script};
use super::connection::Connection;
use super::life;
use crate::port::{Leases, Result};
use crate::types::{Lease, LeaseAsk};
use async_trait::async_trait;
use std::collections::BTreeMap;

#[cfg(doc)]
use crate::port::LEASE_SHARDS;

static ACQUIRE: Script = Script::new(include_str!("lua/lease_acquire.lua"));
static RELEASE: Script = Script::new(include_str!("lua/lease_release.lua"));

/// 2025-01-01, Unix ms.
const FIRST_HOUR_MS: u64 = 1_735_689_600_000;
const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;
/// How long a name is known after its lease, at least.
const KNOWN_MS: u64 = 6 * DAY_MS;
/// How much longer Redis keeps it, so that a shard's life is said anew but once a day.
const KNOWN_MORE_MS: u64 = DAY_MS;
/// Leases in one script: beyond, it would keep others waiting (some µs each), and Lua hands on no more than some thousand arguments.
const LEASES_PER_COMMAND: usize = 600;

pub(super) struct RedisLeases(Connection);

/// What the script says stands.
type Told = (String, u64, u64);

impl RedisLeases {
    pub(super) fn new(connection: Connection) -> Self {
        Self(connection)
    }

    /// Carried out twice it renews what it has just taken.
    fn ask(&self, keys: &[String; 2], asks: &[&LeaseAsk], now_ms: u64, until_ms: u64) -> Command {
        let command = Command::script(&ACQUIRE, &[&keys[0], &keys[1]])
            .arg(now_ms)
            .arg(until_ms)
            .arg(until_ms.saturating_sub(now_ms))
            .arg(least_epoch(now_ms))
            .arg(KNOWN_MS)
            .arg(life(now_ms, until_ms) + KNOWN_MS + KNOWN_MORE_MS)
            .arg(KNOWN_MORE_MS);
        asks.iter().fold(command, |command, ask| command.arg(&ask.name).arg(&ask.holder))
    }
}

#[async_trait]
impl Leases for RedisLeases {
    async fn acquire(&self, name: &str, holder: &str, now_ms: u64, until_ms: u64) -> Result<Lease> {
        let ask = LeaseAsk { name: name.to_owned(), holder: holder.to_owned() };
        let command = self.ask(&self.0.keys().leases(name), &[&ask], now_ms, until_ms);
        let [told]: [Told; 1] = self.0.run("acquiring a lease", command).await?;
        Ok(lease(told))
    }

    async fn acquire_many(&self, asks: &[LeaseAsk], now_ms: u64, until_ms: u64) -> Result<Vec<Option<Lease>>> {
        let mut shards: BTreeMap<[String; 2], Vec<usize>> = BTreeMap::new();
        for (index, ask) in asks.iter().enumerate() {
            shards.entry(self.0.keys().leases(&ask.name)).or_default().push(index);
        }
        // One name is of one shard, whose commands keep their order: the first who asks for it is the first.
        let pieces = || shards.iter().flat_map(|(keys, indices)| indices.chunks(LEASES_PER_COMMAND).map(move |indices| (keys, indices)));
        let commands = pieces().map(|(keys, indices)| {
            let asks: Vec<&LeaseAsk> = indices.iter().map(|index| &asks[*index]).collect();
            self.ask(keys, &asks, now_ms, until_ms)
        });
        let told: Vec<Option<Vec<Told>>> = self.0.run_apart("acquiring leases", commands.collect()).await?;
        let mut leases = vec![None; asks.len()];
        for ((_, indices), told) in pieces().zip(told) {
            for (index, told) in indices.iter().zip(told.into_iter().flatten()) {
                leases[*index] = Some(lease(told));
            }
        }
        Ok(leases)
    }

    async fn release(&self, name: &str, holder: &str, epoch: u64) -> Result<()> {
        let keys = self.0.keys().leases(name);
        let command = Command::script(&RELEASE, &[&keys[0], &keys[1]]).arg(name).arg(holder).arg(epoch);
        self.0.run("releasing a lease", command).await
    }
}

fn lease((holder, epoch, until_ms): Told) -> Lease {
    Lease { holder, epoch, until_ms }
}

/// Where the epochs of a name that is not known begin.
fn least_epoch(now_ms: u64) -> u64 {
    now_ms.saturating_sub(FIRST_HOUR_MS) / HOUR_MS + 1
}
