//! [`RoomLog`] in Redis.

use super::connection::Connection;
use crate::port::{Result, RoomLog};
use crate::types::*;
use async_trait::async_trait;
use bytes::Bytes;

#[derive(Debug)]
pub(super) struct RedisRoomLog(Connection);

impl RedisRoomLog {
    pub(super) fn new(connection: Connection) -> Self {
        Self(connection)
    }
}

#[async_trait]
impl RoomLog for RedisRoomLog {
    async fn append(&self, _room: RoomId, _entries: &[LogAppend], _now_ms: u64) -> Result<Vec<Appended>> {
        Err(StateError::Malformed { what: "call" })
    }
    async fn read(&self, _room: RoomId, _after_seq: i64, _limit: usize, _now_ms: u64) -> Result<Page<LogEntry>> {
        Err(StateError::Malformed { what: "call" })
    }
    async fn last(&self, _room: RoomId, _limit: usize, _now_ms: u64) -> Result<Vec<LogEntry>> {
        Err(StateError::Malformed { what: "call" })
    }
    async fn remove(&self, _room: RoomId) -> Result<()> {
        Err(StateError::Malformed { what: "call" })
    }
}
