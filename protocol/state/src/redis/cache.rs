//! [`Cache`]: a string for each value, its end in front of it.

use super::command::Command;
use super::connection::Connection;
use super::life;
use crate::port::{Cache, Result};
use async_trait::async_trait;
use bytes::Bytes;

pub(super) struct RedisCache(Connection);

impl RedisCache {
    pub(super) fn new(connection: Connection) -> Self {
        Self(connection)
    }
}

#[async_trait]
impl Cache for RedisCache {
    async fn get(&self, key: &str, now_ms: u64) -> Result<Option<Bytes>> {
        let value: Option<Vec<u8>> = self.0.run("reading a cached value", Command::new("GET", &self.0.keys().cache(key))).await?;
        Ok(value.and_then(read).filter(|(_, until_ms)| now_ms < *until_ms).map(|(value, _)| value))
    }

    async fn put(&self, key: &str, value: Bytes, now_ms: u64, until_ms: u64) -> Result<()> {
        let stored = [format!("{until_ms}%").as_bytes(), &value].concat();
        let command = Command::new("SET", &self.0.keys().cache(key)).arg(stored).arg("PX").arg(life(now_ms, until_ms));
        self.0.run("caching a value", command).await
    }

    async fn remove(&self, key: &str) -> Result<()> {
        self.0.run("forgetting a cached value", Command::new("DEL", &self.0.keys().cache(key))).await
    }
}

fn read(stored: Vec<u8>) -> Option<(Bytes, u64)> {
    let end = stored.iter().position(|byte| *byte == b'%')?;
    let until_ms = std::str::from_utf8(&stored[..end]).ok()?.parse().ok()?;
    Some((Bytes::from(stored).slice(end + 1..), until_ms))
}
