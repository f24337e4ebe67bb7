//! [`LoginCodes`]: a string `code%until%again%sends%window_ends%tries` for each phone, without the code once it was used.

use super::command::{Command, Script};
use super::connection::Connection;
use super::life;
use crate::port::{LoginCodes, Result};
use crate::types::{AppId, CodeAsk, CodeKept, CodeVerdict};
use async_trait::async_trait;

static KEEP: Script = Script::new(include_str!("lua/code_keep.lua"));
static CHECK: Script = Script::new(include_str!("lua/code_check.lua"));

/// What `code_check.lua` answers, but for the time to wait when all tries are spent.
const RIGHT: i64 = -2;
const WRONG: i64 = -1;

pub(super) struct RedisLoginCodes(Connection);

impl RedisLoginCodes {
    pub(super) fn new(connection: Connection) -> Self {
        Self(connection)
    }
}

#[async_trait]
impl LoginCodes for RedisLoginCodes {
    async fn keep(&self, ask: &CodeAsk, now_ms: u64) -> Result<CodeKept> {
        let key = self.0.keys().login_code(ask.app, &ask.phone);
        let command = Command::script(&KEEP, &[&key])
            .arg(now_ms)
            .arg(&ask.code)
            .arg(ask.until_ms)
            .arg(now_ms.saturating_add(ask.gap_ms))
            .arg(ask.sends_max)
            .arg(now_ms.saturating_add(ask.window_ms))
            .arg(life(now_ms, now_ms));
        let wait: u64 = self.0.run("keeping a login code", command).await?;
        Ok(if wait == 0 { CodeKept::Kept } else { CodeKept::TooSoon { retry_after_ms: wait } })
    }

    async fn check(&self, app: AppId, phone: &str, code: &str, tries_max: u32, now_ms: u64) -> Result<CodeVerdict> {
        let key = self.0.keys().login_code(app, phone);
        let command = Command::script(&CHECK, &[&key]).arg(now_ms).arg(code).arg(tries_max).once();
        let verdict: i64 = self.0.run("checking a login code", command).await?;
        Ok(match verdict {
            RIGHT => CodeVerdict::Right,
            WRONG => CodeVerdict::Wrong,
            wait => CodeVerdict::Spent { retry_after_ms: u64::try_from(wait).unwrap_or(0) },
        })
    }
}
