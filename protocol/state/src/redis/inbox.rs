//! [`Inbox`] in Redis.

use super::connection::Connection;
use crate::port::{Inbox, Result};
use crate::types::*;
use async_trait::async_trait;
use bytes::Bytes;

#[derive(Debug)]
pub(super) struct RedisInbox(Connection);

impl RedisInbox {
    pub(super) fn new(connection: Connection) -> Self {
        Self(connection)
    }
}

#[async_trait]
impl Inbox for RedisInbox {
    async fn append(&self, _app: AppId, _users: &[UserId], _id: &str, _body: Bytes, _now_ms: u64) -> Result<Vec<String>> {
        Err(StateError::Malformed { what: "call" })
    }
    async fn append_once(
        &self,
        _app: AppId,
        _user: UserId,
        _id: &str,
        _body: Bytes,
        _claim: &MessageClaim,
        _now_ms: u64,
    ) -> Result<AppendedOnce> {
        Err(StateError::Malformed { what: "call" })
    }
    async fn read(&self, _app: AppId, _user: UserId, _after: Option<&str>, _limit: usize, _now_ms: u64) -> Result<Page<InboxEntry>> {
        Err(StateError::Malformed { what: "call" })
    }
    async fn ack(&self, _acked: &[(AppId, UserId, String)]) -> Result<()> {
        Err(StateError::Malformed { what: "call" })
    }
}
