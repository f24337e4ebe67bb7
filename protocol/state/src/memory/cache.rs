//! Small cached values. What ends soonest gives way.

use super::expiring::Expiring;
use super::lock;
use crate::port::{Cache, Result};
use async_trait::async_trait;
use bytes::Bytes;
use std::sync::{Arc, Mutex};

/// Values in all.
const VALUES_MAX: usize = 100_000;
/// Bytes of all keys and values: a cache must not be what fills a small machine.
const BYTES_MAX: usize = 64 * 1024 * 1024;

#[derive(Debug)]
struct Table {
    values: Expiring<Arc<str>, Bytes>,
    bytes: usize,
}

#[derive(Debug)]
pub(super) struct CacheTable {
    table: Mutex<Table>,
    values_max: usize,
    bytes_max: usize,
}

impl CacheTable {
    pub(super) fn new() -> Self {
        Self::with_max(VALUES_MAX, BYTES_MAX)
    }

    pub(super) fn with_max(values_max: usize, bytes_max: usize) -> Self {
        Self { table: Mutex::new(Table { values: Expiring::new(), bytes: 0 }), values_max, bytes_max }
    }
}

impl Table {
    fn remove(&mut self, key: &str) {
        if let Some(value) = self.values.remove(key) {
            self.bytes -= key.len() + value.len();
        }
    }
}

#[async_trait]
impl Cache for CacheTable {
    async fn get(&self, key: &str, now_ms: u64) -> Result<Option<Bytes>> {
        Ok(lock(&self.table).values.live(key, now_ms).cloned())
    }

    async fn put(&self, key: &str, value: Bytes, now_ms: u64, until_ms: u64) -> Result<()> {
        let value = Bytes::copy_from_slice(&value);
        let mut table = lock(&self.table);
        table.remove(key);
        let Table { values, bytes } = &mut *table;
        values.sweep(now_ms, 1, |key, value| *bytes -= key.len() + value.len());
        *bytes += key.len() + value.len();
        values.insert(Arc::from(key), value, until_ms);
        while values.len() > self.values_max || *bytes > self.bytes_max {
            let Some((key, value)) = values.evict_soonest() else { break };
            *bytes -= key.len() + value.len();
        }
        Ok(())
    }

    async fn remove(&self, key: &str) -> Result<()> {
        lock(&self.table).remove(key);
        Ok(())
    }
}
