//! Messages already taken. Each is kept as a keyed 128-bit fingerprint, not as text: 65 bytes (measured) whatever the client sent.
//!
//! The key is drawn at the start, so nobody can look for two ids with one fingerprint; by chance it will not happen either.

use super::expiring::Expiring;
use super::lock;
use crate::port::{Dedup, Result};
use crate::types::{AppId, UserId};
use async_trait::async_trait;
use std::hash::{BuildHasher, RandomState};
use std::sync::Mutex;

/// Claims in all; the one that ends soonest gives way. At five minutes' life this is 6,600 messages each second.
const CLAIMS_MAX: usize = 2_000_000;

type Fingerprint = (u64, u64);

#[derive(Debug)]
pub(super) struct DedupTable {
    keys: [RandomState; 2],
    claims: Mutex<Expiring<Fingerprint, ()>>,
    max: usize,
}

impl DedupTable {
    pub(super) fn new() -> Self {
        Self::with_max(CLAIMS_MAX)
    }

    pub(super) fn with_max(max: usize) -> Self {
        Self { keys: [RandomState::new(), RandomState::new()], claims: Mutex::new(Expiring::new()), max }
    }

    fn fingerprint(&self, app: AppId, user: UserId, msg_id: &str) -> Fingerprint {
        let [first, second] = self.keys.each_ref().map(|key| key.hash_one((app, user, msg_id)));
        (first, second)
    }
}

#[async_trait]
impl Dedup for DedupTable {
    async fn claim(&self, app: AppId, user: UserId, msg_ids: &[String], now_ms: u64, until_ms: u64) -> Result<Vec<bool>> {
        let mut claims = lock(&self.claims);
        claims.sweep_for(now_ms, msg_ids.len());
        let claim = |msg_id: &String| {
            let fingerprint = self.fingerprint(app, user, msg_id);
            if claims.live(&fingerprint, now_ms).is_some() {
                return false;
            }
            claims.insert(fingerprint, (), until_ms);
            if claims.len() > self.max {
                claims.evict_soonest();
            }
            true
        };
        Ok(msg_ids.iter().map(claim).collect())
    }

    async fn release(&self, app: AppId, user: UserId, msg_ids: &[String]) -> Result<()> {
        let mut claims = lock(&self.claims);
        for msg_id in msg_ids {
            claims.remove(&self.fingerprint(app, user, msg_id));
        }
        Ok(())
    }
}
