//! Signs of life. The time a user "ends" here is the last sign, so that the sweep goes by it.
//!
//! 60 bytes per user (measured): the map's entry of 24 and its spare room, and the filing of 16.

use super::Sharded;
use super::expiring::Expiring;
use crate::port::{PRESENCE_KEPT_MS, Presence, Result};
use crate::types::{AppId, StateError, UserId};
use async_trait::async_trait;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Users with a sign of life: ten gateways' worth of connections. 60 MB.
const USERS_MAX: usize = 1_000_000;

#[derive(Debug)]
pub(super) struct PresenceTable {
    shards: Sharded<Expiring<(AppId, UserId), ()>>,
    users: AtomicUsize,
    max: usize,
}

impl PresenceTable {
    pub(super) fn new() -> Self {
        Self::with_max(USERS_MAX)
    }

    pub(super) fn with_max(max: usize) -> Self {
        Self { shards: Sharded::new(Expiring::new), users: AtomicUsize::new(0), max }
    }
}

#[async_trait]
impl Presence for PresenceTable {
    async fn touch_each(&self, signs: &[(AppId, UserId, u64)]) -> Result<()> {
        if self.users.load(Ordering::Relaxed) + signs.len() > self.max {
            let known = signs.iter().filter(|(app, user, _)| self.shards.of(*app, *user).stored(&(*app, *user)).is_some()).count();
            if self.users.load(Ordering::Relaxed) + signs.len() - known > self.max {
                return Err(StateError::Full { what: "presence", limit: self.max });
            }
        }
        for &(app, user, now_ms) in signs {
            let mut shard = self.shards.of(app, user);
            let before = shard.len();
            match shard.stored(&(app, user)) {
                Some(((), last)) if now_ms <= last => {}
                _ => shard.insert((app, user), (), now_ms),
            }
            let mut after = shard.len();
            self.users.fetch_add(after - before, Ordering::Relaxed);
            shard.sweep_for(now_ms.saturating_sub(PRESENCE_KEPT_MS), 1);
            after -= shard.len();
            self.users.fetch_sub(after, Ordering::Relaxed);
        }
        Ok(())
    }

    async fn remove(&self, users: &[(AppId, UserId, u64)]) -> Result<()> {
        for &(app, user, not_after_ms) in users {
            let mut shard = self.shards.of(app, user);
            if shard.stored(&(app, user)).is_some_and(|((), last)| last <= not_after_ms) {
                shard.remove(&(app, user));
                self.users.fetch_sub(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    async fn online(&self, app: AppId, users: &[UserId], since_ms: u64) -> Result<Vec<bool>> {
        Ok(users.iter().map(|&user| self.shards.of(app, user).stored(&(app, user)).is_some_and(|((), last)| last >= since_ms)).collect())
    }

    async fn sweep(&self, before_ms: u64, limit: usize) -> Result<Vec<(AppId, UserId)>> {
        let mut swept = Vec::new();
        for mut shard in self.shards.each() {
            shard.expire_before(before_ms, limit - swept.len(), |user, ()| swept.push(user));
        }
        self.users.fetch_sub(swept.len(), Ordering::Relaxed);
        Ok(swept)
    }
}
