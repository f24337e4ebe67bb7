//! [`Tokens`]: a string `until%app%user%device` for each, and behind it `%print` where it was issued to a session at the HTTP API.

use super::command::Command;
use super::connection::{Connection, Likely};
use super::gather::{Batch, Gather, Gathering};
use super::life;
use crate::port::{Result, Tokens};
use crate::types::{AppId, DeviceKind, SessionPrint, TokenOwner, UserId};
use async_trait::async_trait;

pub(super) struct RedisTokens {
    connection: Connection,
    looking: Gather<Looks>,
}

/// Looks at tokens, by key.
pub(super) struct Looks(Connection);

impl Looks {
    pub(super) fn new(connection: Connection) -> Self {
        Self(connection)
    }
}

#[async_trait]
impl Batch for Looks {
    type Ask = String;
    type Answer = Option<String>;

    async fn run(&self, keys: Vec<String>) -> Result<Vec<Option<String>>> {
        self.0.values("looking tokens up", keys, Likely::There).await
    }

    fn alone(ask: &String) -> Option<String> {
        Some(ask.clone())
    }
}

impl RedisTokens {
    pub(super) fn new(connection: Connection, gathering: &Gathering) -> Self {
        Self { looking: gathering.gather(Looks::new(connection.clone())), connection }
    }
}

#[async_trait]
impl Tokens for RedisTokens {
    async fn issue(&self, token: &str, owner: TokenOwner, now_ms: u64, until_ms: u64) -> Result<()> {
        let device = owner.device.map_or(ANY_DEVICE, |device| device as u32);
        let mut value = format!("{until_ms}%{}%{}%{device}", owner.app, owner.user);
        if let Some(session) = owner.session {
            value += &format!("%{session}");
        }
        let command = Command::new("SET", &self.connection.keys().token(token)).arg(value).arg("PX").arg(life(now_ms, until_ms));
        self.connection.run("issuing a token", command).await
    }

    async fn resolve(&self, tokens: &[String], now_ms: u64) -> Result<Vec<Option<TokenOwner>>> {
        let values = self.looking.ask(tokens.iter().map(|token| self.connection.keys().token(token)).collect()).await?;
        Ok(values.into_iter().map(|value| value.as_deref().and_then(read).filter(|(_, until_ms)| now_ms < *until_ms)).map(first).collect())
    }

    async fn revoke(&self, tokens: &[String]) -> Result<()> {
        let commands = tokens.iter().map(|token| Command::new("DEL", &self.connection.keys().token(token))).collect();
        self.connection.run_many::<()>("revoking tokens", commands).await.map(drop)
    }
}

const ANY_DEVICE: u32 = 0;

fn first(found: Option<(TokenOwner, u64)>) -> Option<TokenOwner> {
    found.map(|(owner, _)| owner)
}

/// A value that is none of ours lets nobody in.
fn read(value: &str) -> Option<(TokenOwner, u64)> {
    let mut parts = value.split('%');
    let until_ms = parts.next()?.parse().ok()?;
    let app = AppId(parts.next()?.parse().ok()?);
    let user = UserId(parts.next()?.parse().ok()?);
    let device = match parts.next()?.parse().ok()? {
        ANY_DEVICE => None,
        number => Some(DeviceKind::from_number(number)?),
    };
    let session = match parts.next() {
        None => None,
        Some(print) => Some(SessionPrint::parse(print)?),
    };
    Some((TokenOwner { app, user, device, session }, until_ms))
}
