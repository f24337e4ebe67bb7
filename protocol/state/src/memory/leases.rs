//! Claims with fencing. An epoch never falls: a name that is forgotten raises the floor from which new names begin.

use super::expiring::Expiring;
use super::lock;
use crate::port::{Leases, Result};
use crate::types::{Lease, StateError};
use async_trait::async_trait;
use std::sync::{Arc, Mutex};

/// Names in all: every room of a day. 174 bytes each (measured).
const LEASES_MAX: usize = 1_000_000;
/// How long a name that nobody holds is remembered by itself; then the floor stands for it.
const FREE_KEPT_MS: u64 = 24 * 3600 * 1000;

#[derive(Debug)]
struct Claim {
    /// `None` once given up.
    holder: Option<String>,
    epoch: u64,
    until_ms: u64,
}

#[derive(Debug)]
struct Table {
    claims: Expiring<Arc<str>, Claim>,
    epoch_floor: u64,
}

#[derive(Debug)]
pub(super) struct LeaseTable {
    table: Mutex<Table>,
    max: usize,
}

impl LeaseTable {
    pub(super) fn new() -> Self {
        Self::with_max(LEASES_MAX)
    }

    pub(super) fn with_max(max: usize) -> Self {
        Self { table: Mutex::new(Table { claims: Expiring::new(), epoch_floor: 0 }), max }
    }
}

#[async_trait]
impl Leases for LeaseTable {
    async fn acquire(&self, name: &str, holder: &str, now_ms: u64, until_ms: u64) -> Result<Lease> {
        let mut table = lock(&self.table);
        let Table { claims, epoch_floor } = &mut *table;
        claims.sweep(now_ms, 1, |_, claim| *epoch_floor = (*epoch_floor).max(claim.epoch));
        let asked_ms = until_ms.saturating_sub(now_ms);
        let stands =
            |claim: &Claim| (now_ms..now_ms.saturating_add(asked_ms.saturating_mul(10))).contains(&claim.until_ms.saturating_sub(1));
        let epoch = match claims.stored(name) {
            Some((claim, _)) => match &claim.holder {
                Some(other) if other != holder && stands(claim) => {
                    return Ok(Lease { holder: other.clone(), epoch: claim.epoch, until_ms: claim.until_ms });
                }
                Some(same) if same == holder && stands(claim) => claim.epoch,
                Some(_) | None => claim.epoch + 1,
            },
            None if claims.len() >= self.max => return Err(StateError::Full { what: "leases", limit: self.max }),
            None => *epoch_floor + 1,
        };
        let claim = Claim { holder: Some(holder.to_owned()), epoch, until_ms };
        claims.insert(Arc::from(name), claim, until_ms.saturating_add(FREE_KEPT_MS));
        Ok(Lease { holder: holder.to_owned(), epoch, until_ms })
    }

    async fn release(&self, name: &str, holder: &str, epoch: u64) -> Result<()> {
        let mut table = lock(&self.table);
        if let Some(claim) = table.claims.stored_mut(name)
            && claim.epoch == epoch
            && claim.holder.as_deref() == Some(holder)
        {
            claim.holder = None;
        }
        Ok(())
    }
}
