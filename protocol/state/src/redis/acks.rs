//! [`Acks`] in Redis.

use super::connection::Connection;
use crate::port::{Acks, Result};
use crate::types::*;
use async_trait::async_trait;

#[derive(Debug)]
pub(super) struct RedisAcks(Connection);

impl RedisAcks {
    pub(super) fn new(connection: Connection) -> Self {
        Self(connection)
    }
}

#[async_trait]
impl Acks for RedisAcks {
    async fn record(&self, _pending: &[PendingAck]) -> Result<()> {
        Err(StateError::Malformed { what: "call" })
    }
    async fn remove(&self, _acked: &[(AppId, UserId, String)]) -> Result<()> {
        Err(StateError::Malformed { what: "call" })
    }
    async fn pending(&self, _app: AppId, _user: UserId) -> Result<Vec<PendingAck>> {
        Err(StateError::Malformed { what: "call" })
    }
    async fn expire(&self, _before_ms: u64, _limit: usize) -> Result<Vec<PendingAck>> {
        Err(StateError::Malformed { what: "call" })
    }
}
