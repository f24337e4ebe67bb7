//! [`Cache`]: a string for each value, its end in front of it.

use super::command::Command;
use super::connection::{Connection, Likely};
use super::gather::{Batch, Gather, Gathering};
use super::life;
use crate::port::{Cache, Result};
use async_trait::async_trait;
use bytes::Bytes;

pub(super) struct RedisCache {
    connection: Connection,
    reading: Gather<Reads>,
}

/// Reads values, by key. Those asked for most often are who must wait before a JOIN: hardly anybody.
struct Reads(Connection);

#[async_trait]
impl Batch for Reads {
    type Ask = String;
    type Answer = Option<Vec<u8>>;

    async fn run(&self, keys: Vec<String>) -> Result<Vec<Option<Vec<u8>>>> {
        self.0.values("reading a cached value", keys, Likely::Missing).await
    }

    fn alone(ask: &String) -> Option<String> {
        Some(ask.clone())
    }
}

impl RedisCache {
    pub(super) fn new(connection: Connection, gathering: &Gathering) -> Self {
        Self { reading: gathering.gather(Reads(connection.clone())), connection }
    }
}

#[async_trait]
impl Cache for RedisCache {
    async fn get(&self, key: &str, now_ms: u64) -> Result<Option<Bytes>> {
        let value = self.reading.ask_one(self.connection.keys().cache(key)).await?;
        Ok(value.and_then(read).filter(|(_, until_ms)| now_ms < *until_ms).map(|(value, _)| value))
    }

    async fn put(&self, key: &str, value: Bytes, now_ms: u64, until_ms: u64) -> Result<()> {
        let stored = [format!("{until_ms}%").as_bytes(), &value].concat();
        let command = Command::new("SET", &self.connection.keys().cache(key)).arg(stored).arg("PX").arg(life(now_ms, until_ms));
        self.connection.run("caching a value", command).await
    }

    async fn remove(&self, key: &str) -> Result<()> {
        self.connection.run("forgetting a cached value", Command::new("DEL", &self.connection.keys().cache(key))).await
    }
}

fn read(stored: Vec<u8>) -> Option<(Bytes, u64)> {
    let end = stored.iter().position(|byte| *byte == b'%')?;
    let until_ms = std::str::from_utf8(&stored[..end]).ok()?.parse().ok()?;
    Some((Bytes::from(stored).slice(end + 1..), until_ms))
}
