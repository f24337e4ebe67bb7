//! [`Sessions`]: a string `until%app%user` for each, and a hash of those of each user, print → until.
//!
//! A session is stored before it stands in its user's list, and has ended before it leaves it: one that nobody finds by its user was never
//! handed out.

use super::command::{Command, Script};
use super::connection::Connection;
use super::gather::{Gather, Gathering};
use super::life;
use super::tokens::Looks;
use crate::port::{Result, SESSIONS_PER_USER_MAX, Sessions};
use crate::types::{AppId, SessionOwner, UserId};
use async_trait::async_trait;

static ADD: Script = Script::new(include_str!("lua/session_add.lua"));

pub(super) struct RedisSessions {
    connection: Connection,
    looking: Gather<Looks>,
}

impl RedisSessions {
    pub(super) fn new(connection: Connection, gathering: &Gathering) -> Self {
        Self { looking: gathering.gather(Looks::new(connection.clone())), connection }
    }

    async fn end(&self, owner: SessionOwner, prints: &[String]) -> Result<()> {
        if prints.is_empty() {
            return Ok(());
        }
        let what = "ending sessions";
        let keys = self.connection.keys();
        let ends = prints.iter().map(|print| Command::new("DEL", &keys.session(print))).collect();
        self.connection.run_many::<()>(what, ends).await?;
        self.connection.run(what, Command::new("HDEL", &keys.sessions(owner.app, owner.user)).arg(prints)).await
    }
}

#[async_trait]
impl Sessions for RedisSessions {
    async fn open(&self, print: &str, owner: SessionOwner, now_ms: u64, until_ms: u64) -> Result<()> {
        let what = "opening a session";
        let keys = self.connection.keys();
        let value = format!("{until_ms}%{}%{}", owner.app, owner.user);
        let store = Command::new("SET", &keys.session(print)).arg(value).arg("PX").arg(life(now_ms, until_ms));
        self.connection.run::<()>(what, store).await?;
        let add = Command::script(&ADD, &[&keys.sessions(owner.app, owner.user)])
            .arg(now_ms)
            .arg(print)
            .arg(until_ms)
            .arg(SESSIONS_PER_USER_MAX)
            .arg(life(now_ms, now_ms));
        let over: Vec<String> = self.connection.run(what, add).await?;
        self.end(owner, &over).await
    }

    async fn resolve(&self, prints: &[String], now_ms: u64) -> Result<Vec<Option<SessionOwner>>> {
        let values = self.looking.ask(prints.iter().map(|print| self.connection.keys().session(print)).collect()).await?;
        let live = |value: Option<String>| value.as_deref().and_then(read).filter(|(_, until_ms)| now_ms < *until_ms);
        Ok(values.into_iter().map(live).map(|found| found.map(|(owner, _)| owner)).collect())
    }

    async fn close(&self, print: &str, owner: SessionOwner) -> Result<()> {
        self.end(owner, &[print.to_owned()]).await
    }

    async fn close_all(&self, owner: SessionOwner) -> Result<()> {
        let list = Command::new("HKEYS", &self.connection.keys().sessions(owner.app, owner.user));
        let prints: Vec<String> = self.connection.run("reading the sessions of a user", list).await?;
        self.end(owner, &prints).await
    }
}

/// A value that is none of ours lets nobody in.
fn read(value: &str) -> Option<(SessionOwner, u64)> {
    let mut parts = value.split('%');
    let until_ms = parts.next()?.parse().ok()?;
    let owner = SessionOwner { app: AppId(parts.next()?.parse().ok()?), user: UserId(parts.next()?.parse().ok()?) };
    parts.next().is_none().then_some((owner, until_ms))
}
