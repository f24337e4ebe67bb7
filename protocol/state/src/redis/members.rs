//! [`Members`]: a hash for each room, user → devices (a bit each), and in the field `until` when the list is forgotten, until when the key
//! lives, and how many users there are: what a JOIN has to know stands in what it reads anyway.

use super::command::{Command, Script};
use super::connection::Connection;
use super::life;
use crate::port::{MEMBERS_KEPT_MS, Members, Result};
use crate::types::{AppId, DeviceKind, Member, MemberPage, RoomId, UserId};
use async_trait::async_trait;
use std::collections::BTreeMap;

static JOIN: Script = Script::new(include_str!("lua/members_join.lua"));
static LEAVE: Script = Script::new(include_str!("lua/members_leave.lua"));

/// Users in one command: beyond, it would keep others waiting, and Lua hands on no more than some thousand arguments.
const USERS_PER_COMMAND: usize = 1000;
/// The key lives so much longer than it has to, so that its life is renewed but once an hour.
const KEPT_MORE_MS: u64 = 3_600_000;
/// Beside the users.
const UNTIL_FIELD: &str = "until";

pub(super) struct RedisMembers(Connection);

impl RedisMembers {
    pub(super) fn new(connection: Connection) -> Self {
        Self(connection)
    }

    /// Runs a script on some members. Gives the count of users after it.
    async fn change(
        &self,
        what: &'static str,
        script: &'static Script,
        (app, room): (AppId, RoomId),
        members: &[Member],
        now_ms: u64,
    ) -> Result<u64> {
        let mut devices: BTreeMap<i64, u8> = BTreeMap::new();
        for member in members {
            *devices.entry(member.user.0).or_default() |= bit(member.device);
        }
        let users: Vec<(i64, u8)> = devices.into_iter().collect();
        let key = self.0.keys().members(app, room);
        let until_ms = now_ms.saturating_add(MEMBERS_KEPT_MS);
        let life = life(now_ms, until_ms) + KEPT_MORE_MS;
        let command =
            |users: &[(i64, u8)]| Command::script(script, &[&key]).arg(now_ms).arg(until_ms).arg(life).arg(KEPT_MORE_MS).arg(users);
        let commands = if users.is_empty() { vec![command(&[])] } else { users.chunks(USERS_PER_COMMAND).map(command).collect() };
        let counts: Vec<u64> = self.0.run_many(what, commands).await?;
        Ok(counts.last().copied().unwrap_or(0))
    }
}

fn bit(device: DeviceKind) -> u8 {
    1 << device as u8
}

#[async_trait]
impl Members for RedisMembers {
    async fn join(&self, app: AppId, room: RoomId, members: &[Member], now_ms: u64) -> Result<u64> {
        self.change("joining a room", &JOIN, (app, room), members, now_ms).await
    }

    async fn leave(&self, app: AppId, room: RoomId, members: &[Member], now_ms: u64) -> Result<u64> {
        self.change("leaving a room", &LEAVE, (app, room), members, now_ms).await
    }

    async fn count(&self, app: AppId, room: RoomId) -> Result<u64> {
        let fields: u64 = self.0.run("counting members", Command::new("HLEN", &self.0.keys().members(app, room))).await?;
        Ok(fields.saturating_sub(1))
    }

    async fn page(&self, app: AppId, room: RoomId, cursor: u64, limit: usize) -> Result<MemberPage> {
        let count = limit.clamp(1, USERS_PER_COMMAND);
        let command = Command::new("HSCAN", &self.0.keys().members(app, room)).arg(cursor).arg("COUNT").arg(count);
        let (cursor, fields): (u64, Vec<(String, String)>) = self.0.run("listing members", command).await?;
        let users = fields.iter().filter(|(field, _)| field != UNTIL_FIELD).filter_map(|(user, _)| Some(UserId(user.parse().ok()?)));
        Ok(MemberPage { users: users.collect(), cursor })
    }

    async fn contains(&self, app: AppId, room: RoomId, users: &[UserId]) -> Result<Vec<bool>> {
        let key = self.0.keys().members(app, room);
        let command = |users: &[UserId]| Command::new("HMGET", &key).arg(users.iter().map(|user| user.0).collect::<Vec<_>>());
        let commands = users.chunks(USERS_PER_COMMAND).map(command).collect();
        let found: Vec<Vec<Option<String>>> = self.0.run_many("looking for members", commands).await?;
        Ok(found.into_iter().flatten().map(|devices| devices.is_some()).collect())
    }

    async fn remove(&self, app: AppId, room: RoomId) -> Result<()> {
        self.0.run("emptying a room", Command::new("DEL", &self.0.keys().members(app, room))).await
    }
}
