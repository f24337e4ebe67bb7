//! [`Members`] in Redis.

use super::connection::Connection;
use crate::port::{Members, Result};
use crate::types::*;
use async_trait::async_trait;

#[derive(Debug)]
pub(super) struct RedisMembers(Connection);

impl RedisMembers {
    pub(super) fn new(connection: Connection) -> Self {
        Self(connection)
    }
}

#[async_trait]
impl Members for RedisMembers {
    async fn join(&self, _app: AppId, _room: RoomId, _members: &[Member], _now_ms: u64) -> Result<u64> {
        Err(StateError::Malformed { what: "call" })
    }
    async fn leave(&self, _app: AppId, _room: RoomId, _members: &[Member], _now_ms: u64) -> Result<u64> {
        Err(StateError::Malformed { what: "call" })
    }
    async fn count(&self, _app: AppId, _room: RoomId) -> Result<u64> {
        Err(StateError::Malformed { what: "call" })
    }
    async fn page(&self, _app: AppId, _room: RoomId, _cursor: u64, _limit: usize) -> Result<MemberPage> {
        Err(StateError::Malformed { what: "call" })
    }
    async fn contains(&self, _app: AppId, _room: RoomId, _users: &[UserId]) -> Result<Vec<bool>> {
        Err(StateError::Malformed { what: "call" })
    }
    async fn remove(&self, _app: AppId, _room: RoomId) -> Result<()> {
        Err(StateError::Malformed { what: "call" })
    }
}
