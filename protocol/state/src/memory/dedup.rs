//! Messages already taken. Each is kept as a keyed 128-bit fingerprint, not as text: 65 bytes (measured) whatever the client sent.
//!
//! The key is drawn at the start, so nobody can look for two ids with one fingerprint; by chance it will not happen either.

use super::expiring::Expiring;
use super::lock;
use crate::port::{Dedup, Result};
use crate::types::{AppId, MessageClaim, UserId};
use async_trait::async_trait;
use std::hash::{BuildHasher, Hash, RandomState};
use std::marker::PhantomData;
use std::sync::Mutex;

/// Claims in all; the one that ends soonest gives way. At five minutes' life this is 6,600 messages each second.
const CLAIMS_MAX: usize = 2_000_000;

type Fingerprint = (u64, u64);

/// Claims, each for a place (a room, a receiver, or nowhere), with what its first call was answered.
#[derive(Debug)]
pub(super) struct Claims<P, V> {
    keys: [RandomState; 2],
    claims: Expiring<Fingerprint, V>,
    max: usize,
    place: PhantomData<P>,
}

impl<P: Copy + Hash, V: Copy> Claims<P, V> {
    pub(super) fn new() -> Self {
        Self::with_max(CLAIMS_MAX)
    }

    fn with_max(max: usize) -> Self {
        Self { keys: [RandomState::new(), RandomState::new()], claims: Expiring::new(), max, place: PhantomData }
    }

    /// The answer to the first call, while its claim stands.
    pub(super) fn standing(&self, place: P, app: AppId, user: UserId, msg_id: &str, now_ms: u64) -> Option<V> {
        self.claims.live(&self.fingerprint(place, app, user, msg_id), now_ms).copied()
    }

    /// Makes a claim.
    pub(super) fn make(&mut self, place: P, claim: &MessageClaim, answer: V, now_ms: u64) {
        self.claims.sweep_for(now_ms, 1);
        self.claims.insert(self.fingerprint(place, claim.app, claim.user, &claim.msg_id), answer, claim.until_ms);
        if self.claims.len() > self.max {
            self.claims.evict_soonest();
        }
    }

    fn fingerprint(&self, place: P, app: AppId, user: UserId, msg_id: &str) -> Fingerprint {
        let [first, second] = self.keys.each_ref().map(|key| key.hash_one((place, app, user, msg_id)));
        (first, second)
    }
}

#[derive(Debug)]
pub(super) struct DedupTable {
    claims: Mutex<Claims<(), ()>>,
}

impl DedupTable {
    pub(super) fn new() -> Self {
        Self::with_max(CLAIMS_MAX)
    }

    pub(super) fn with_max(max: usize) -> Self {
        Self { claims: Mutex::new(Claims::with_max(max)) }
    }
}

#[async_trait]
impl Dedup for DedupTable {
    async fn claim(&self, app: AppId, user: UserId, msg_ids: &[String], now_ms: u64, until_ms: u64) -> Result<Vec<bool>> {
        let mut claims = lock(&self.claims);
        let claim = |msg_id: &String| {
            if claims.standing((), app, user, msg_id, now_ms).is_some() {
                return false;
            }
            claims.make((), &MessageClaim { app, user, msg_id: msg_id.clone(), until_ms }, (), now_ms);
            true
        };
        Ok(msg_ids.iter().map(claim).collect())
    }

    async fn release(&self, app: AppId, user: UserId, msg_ids: &[String]) -> Result<()> {
        let mut claims = lock(&self.claims);
        for msg_id in msg_ids {
            let fingerprint = claims.fingerprint((), app, user, msg_id);
            claims.claims.remove(&fingerprint);
        }
        Ok(())
    }
}
