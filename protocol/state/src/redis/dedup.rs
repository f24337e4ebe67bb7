//! [`Dedup`]: a string for each claim, its end as the value.

use super::command::{Command, Script};
use super::connection::Connection;
use super::life;
use crate::port::{Dedup, Result};
use crate::types::{AppId, UserId};
use async_trait::async_trait;

/// `SET NX` alone would leave a claim that has run out by the caller's clock, and not yet by Redis'.
static CLAIM: Script = Script::new(include_str!("lua/dedup_claim.lua"));

pub(super) struct RedisDedup(Connection);

impl RedisDedup {
    pub(super) fn new(connection: Connection) -> Self {
        Self(connection)
    }
}

#[async_trait]
impl Dedup for RedisDedup {
    async fn claim(&self, app: AppId, user: UserId, msg_ids: &[String], now_ms: u64, until_ms: u64) -> Result<Vec<bool>> {
        let life = life(now_ms, until_ms);
        let claim = |msg_id: &String| {
            let key = self.0.keys().dedup(app, user, msg_id);
            Command::script(&CLAIM, &[&key]).arg(now_ms).arg(until_ms).arg(life).once()
        };
        self.0.run_many("claiming messages", msg_ids.iter().map(claim).collect()).await
    }

    async fn release(&self, app: AppId, user: UserId, msg_ids: &[String]) -> Result<()> {
        let commands = msg_ids.iter().map(|msg_id| Command::new("DEL", &self.0.keys().dedup(app, user, msg_id))).collect();
        self.0.run_many::<()>("giving messages back", commands).await.map(drop)
    }
}
