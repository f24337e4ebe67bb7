//! [`Presence`]: a sorted set for each app and bucket of users, user → last sign of life.
//!
//! - A batch is one command for each bucket it touches. The life of a bucket is renewed at most every ten minutes by each process, for that
//!   would be a second command each time; it outlives the last sign by [`PRESENCE_KEPT_MS`] all the same.
//! - A sweep looks at a few buckets a call and goes round: a plain command for each, and a script only where somebody is to go.

use super::JUMP_MARGIN_MS;
use super::command::{Command, Script};
use super::connection::Connection;
use crate::port::{PRESENCE_KEPT_MS, Presence, Result};
use crate::types::{AppId, UserId};
use crate::watch::Watch;
use async_trait::async_trait;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

static REMOVE: Script = Script::new(include_str!("lua/presence_remove.lua"));
static SWEEP: Script = Script::new(include_str!("lua/presence_sweep.lua"));

/// How often a process renews the life of a bucket.
const RENEW_EVERY: Duration = Duration::from_secs(600);
/// The life it gets: so long that one written right before the next renewal would be due is kept, also by a clock that jumps. Those in
/// it who are gone go by the sweep, which judges by the time of all.
const BUCKET_LIFE_MS: u64 = PRESENCE_KEPT_MS + 2 * 600_000 + JUMP_MARGIN_MS;
/// Buckets that a process remembers having renewed: those of 256 apps. Beyond it forgets, and renews more often.
const RENEWED_MAX: usize = 4096;
/// Buckets that one call of a sweep looks at.
const SWEPT_AT_ONCE: usize = 8;
/// Users in one command: beyond, it would keep others waiting.
const USERS_PER_COMMAND: usize = 1000;

type Bucket = (AppId, u16);

pub(super) struct RedisPresence {
    connection: Connection,
    watch: Watch,
    renewed: Mutex<Renewed>,
    /// What the sweep has still to look at before it goes round again, the next last.
    to_sweep: Mutex<Vec<Bucket>>,
}

/// When this process renewed which bucket.
#[derive(Debug, Default)]
struct Renewed {
    at: BTreeMap<Bucket, Instant>,
    /// A store that may have forgotten is told everything again.
    generation: u64,
}

impl RedisPresence {
    pub(super) fn new(connection: Connection, watch: Watch) -> Self {
        Self { connection, watch, renewed: Mutex::default(), to_sweep: Mutex::default() }
    }

    fn renewed(&self) -> MutexGuard<'_, Renewed> {
        self.renewed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn to_sweep(&self) -> MutexGuard<'_, Vec<Bucket>> {
        self.to_sweep.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_to_sweep(&self) -> Vec<Bucket> {
        self.to_sweep().iter().rev().take(SWEPT_AT_ONCE).copied().collect()
    }

    fn swept(&self, bucket: Bucket) {
        self.to_sweep().pop_if(|next| *next == bucket);
    }

    /// Signs as `ZADD` takes them: when, and whose.
    fn buckets(&self, signs: &[(AppId, UserId, u64)]) -> BTreeMap<Bucket, Vec<(u64, i64)>> {
        let mut buckets: BTreeMap<Bucket, Vec<(u64, i64)>> = BTreeMap::new();
        for (app, user, at_ms) in signs {
            buckets.entry((*app, self.connection.keys().presence_bucket(*user))).or_default().push((*at_ms, user.0));
        }
        buckets
    }

    /// Which of the buckets are to be renewed now.
    fn due<'a>(&self, buckets: impl Iterator<Item = &'a Bucket>) -> Vec<Bucket> {
        let generation = self.watch.generation();
        let now = Instant::now();
        let mut renewed = self.renewed();
        if renewed.generation != generation {
            *renewed = Renewed { at: BTreeMap::new(), generation };
        }
        let is_due = |bucket: &&Bucket| renewed.at.get(*bucket).is_none_or(|at| now.duration_since(*at) >= RENEW_EVERY);
        buckets.filter(is_due).copied().collect()
    }

    fn note(&self, renewed_now: &[Bucket]) {
        let now = Instant::now();
        let mut renewed = self.renewed();
        if renewed.at.len() + renewed_now.len() > RENEWED_MAX {
            renewed.at.clear();
        }
        renewed.at.extend(renewed_now.iter().map(|bucket| (*bucket, now)));
    }
}

#[async_trait]
impl Presence for RedisPresence {
    async fn touch_each(&self, signs: &[(AppId, UserId, u64)]) -> Result<()> {
        let keys = self.connection.keys();
        let buckets = self.buckets(signs);
        let due = self.due(buckets.keys());
        let mut commands = Vec::with_capacity(buckets.len() + 2 * due.len());
        for ((app, bucket), signs) in &buckets {
            for signs in signs.chunks(USERS_PER_COMMAND) {
                commands.push(Command::new("ZADD", &keys.presence(*app, *bucket)).arg("GT").arg(signs));
            }
        }
        for (app, bucket) in &due {
            commands.push(Command::new("PEXPIRE", &keys.presence(*app, *bucket)).arg(BUCKET_LIFE_MS));
        }
        let apps: BTreeSet<_> = due.iter().map(|(app, _)| app.0).collect();
        if !apps.is_empty() {
            commands.push(Command::new("SADD", &keys.presence_apps()).arg(apps.into_iter().collect::<Vec<_>>()));
        }
        self.connection.run_many::<i64>("noting signs of life", commands).await?;
        self.note(&due);
        Ok(())
    }

    async fn remove(&self, users: &[(AppId, UserId, u64)]) -> Result<()> {
        let keys = self.connection.keys();
        let mut buckets: BTreeMap<Bucket, Vec<(i64, u64)>> = BTreeMap::new();
        for (app, user, not_after_ms) in users {
            buckets.entry((*app, keys.presence_bucket(*user))).or_default().push((user.0, *not_after_ms));
        }
        let mut commands = Vec::new();
        for ((app, bucket), users) in buckets {
            let removal = |users: &[(i64, u64)]| Command::script(&REMOVE, &[&keys.presence(app, bucket)]).arg(users);
            commands.extend(users.chunks(USERS_PER_COMMAND).map(removal));
        }
        self.connection.run_many::<()>("removing signs of life", commands).await.map(drop)
    }

    async fn online(&self, app: AppId, users: &[UserId], since_ms: u64) -> Result<Vec<bool>> {
        let keys = self.connection.keys();
        let mut buckets: BTreeMap<u16, Vec<usize>> = BTreeMap::new();
        for (index, user) in users.iter().enumerate() {
            buckets.entry(keys.presence_bucket(*user)).or_default().push(index);
        }
        let chunks: Vec<(u16, &[usize])> =
            buckets.iter().flat_map(|(bucket, indices)| indices.chunks(USERS_PER_COMMAND).map(|indices| (*bucket, indices))).collect();
        let command = |(bucket, indices): &(u16, &[usize])| {
            let ids: Vec<_> = indices.iter().map(|index| users[*index].0).collect();
            Command::new("ZMSCORE", &keys.presence(app, *bucket)).arg(ids)
        };
        let signs: Vec<Vec<Option<f64>>> = self.connection.run_many("asking who is online", chunks.iter().map(command).collect()).await?;
        let mut online = vec![false; users.len()];
        for ((_, indices), signs) in chunks.iter().zip(signs) {
            for (index, sign) in indices.iter().zip(signs) {
                // A double is exact up to 2^53 ms.
                online[*index] = sign.is_some_and(|sign| sign >= since_ms as f64);
            }
        }
        Ok(online)
    }

    async fn sweep(&self, before_ms: u64, limit: usize) -> Result<Vec<(AppId, UserId)>> {
        let keys = self.connection.keys();
        let mut buckets = self.next_to_sweep();
        if buckets.is_empty() {
            let apps: Vec<i32> = self.connection.run("listing apps", Command::new("SMEMBERS", &keys.presence_apps())).await?;
            *self.to_sweep() = apps.iter().flat_map(|app| (0..keys.presence_buckets()).map(|bucket| (AppId(*app), bucket))).collect();
            buckets = self.next_to_sweep();
        }
        let before = format!("({before_ms}");
        let look = |(app, bucket): &Bucket| {
            Command::new("ZRANGEBYSCORE", &keys.presence(*app, *bucket)).arg("-inf").arg(&before).arg("LIMIT").arg(0).arg(1)
        };
        let looks = buckets.iter().map(look).collect();
        let found: Vec<Vec<i64>> = match self.connection.run_many("sweeping signs of life", looks).await {
            Ok(found) => found,
            Err(error) => {
                // One that was spoilt must not keep the others from being swept.
                buckets.into_iter().for_each(|bucket| self.swept(bucket));
                return Err(error);
            }
        };
        let mut swept = Vec::new();
        for ((app, bucket), found) in buckets.into_iter().zip(found) {
            if !found.is_empty() {
                let left = limit - swept.len();
                if left == 0 {
                    break;
                }
                let wanted = left.min(USERS_PER_COMMAND);
                let command = Command::script(&SWEEP, &[&keys.presence(app, bucket)]).arg(before_ms).arg(wanted).once();
                let users: Vec<i64> = self.connection.run("sweeping signs of life", command).await?;
                let is_done = users.len() < wanted;
                swept.extend(users.into_iter().map(|user| (app, UserId(user))));
                if !is_done {
                    break;
                }
            }
            self.swept((app, bucket));
        }
        Ok(swept)
    }
}
