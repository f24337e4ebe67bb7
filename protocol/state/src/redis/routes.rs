//! [`Routes`]: a hash for each user, device → `node%session%epoch%until`; and beside it, under a number of its own, whom the last binds of
//! the device displaced: such values, each with the time until which it is told of, the oldest first, in lines.
//!
//! The end stands in the value, for Redis 7.0 knows no life of a field; the key lives as long as the longest of them.

use super::command::{Command, Script};
use super::connection::Connection;
use super::life;
use crate::port::{DISPLACED_KEPT_MS, DISPLACED_MAX, Result, Routes};
use crate::types::{AppId, DeviceKind, Route, UserId};
use async_trait::async_trait;
use redis::FromRedisValue;

/// The field of whom a device displaced is the device's and this: no device, for a node that does not know of it either.
const DISPLACED_FIELDS: u8 = 100;

static BIND: Script = Script::new(include_str!("lua/route_bind.lua"));
static RENEW: Script = Script::new(include_str!("lua/route_renew.lua"));
static UNBIND: Script = Script::new(include_str!("lua/route_unbind.lua"));

pub(super) struct RedisRoutes(Connection);

impl RedisRoutes {
    pub(super) fn new(connection: Connection) -> Self {
        Self(connection)
    }

    /// One call of a script for each route: those of one user lie in one key, and keep their order.
    async fn each<T: FromRedisValue>(
        &self,
        what: &'static str,
        script: &'static Script,
        routes: &[Route],
        more: impl Fn(Command) -> Command,
    ) -> Result<Vec<T>> {
        let command = |route: &Route| {
            let key = self.0.keys().route(route.app, route.user);
            more(Command::script(script, &[&key]).arg(route.device as u8).arg(standing(route)))
        };
        self.0.run_many(what, routes.iter().map(command).collect()).await
    }
}

#[async_trait]
impl Routes for RedisRoutes {
    async fn bind(&self, routes: &[Route], now_ms: u64, until_ms: u64) -> Result<Vec<Vec<Route>>> {
        let life = life(now_ms, until_ms);
        let told_until_ms = now_ms + DISPLACED_KEPT_MS;
        let command = |route: &Route| {
            let key = self.0.keys().route(route.app, route.user);
            let bind = Command::script(&BIND, &[&key]).arg(route.device as u8).arg(standing(route)).arg(now_ms).arg(until_ms).arg(life);
            bind.arg(route.device as u8 + DISPLACED_FIELDS).arg(told_until_ms).arg(DISPLACED_MAX)
        };
        let displaced: Vec<Vec<String>> = self.0.run_many("binding routes", routes.iter().map(command).collect()).await?;
        let read = |(values, route): (Vec<String>, &Route)| {
            values.iter().rev().filter_map(|value| Some(read(route.app, route.user, route.device, value)?.0)).collect()
        };
        Ok(displaced.into_iter().zip(routes).map(read).collect())
    }

    async fn renew(&self, routes: &[Route], now_ms: u64, until_ms: u64) -> Result<Vec<bool>> {
        let life = life(now_ms, until_ms);
        self.each("renewing routes", &RENEW, routes, |command| command.arg(now_ms).arg(until_ms).arg(life)).await
    }

    async fn unbind(&self, routes: &[Route]) -> Result<Vec<bool>> {
        self.each("removing routes", &UNBIND, routes, |command| command.arg(DISPLACED_FIELDS)).await
    }

    async fn lookup(&self, app: AppId, users: &[UserId], now_ms: u64) -> Result<Vec<Vec<Route>>> {
        let commands = users.iter().map(|user| Command::new("HGETALL", &self.0.keys().route(app, *user))).collect();
        let found: Vec<Vec<(u32, String)>> = self.0.run_many("looking routes up", commands).await?;
        let live = |(devices, user): (Vec<(u32, String)>, &UserId)| {
            let routes = devices.iter().filter_map(|(device, value)| read(app, *user, DeviceKind::from_number(*device)?, value));
            let mut live: Vec<_> = routes.filter(|(_, until_ms)| now_ms < *until_ms).map(|(route, _)| route).collect();
            live.sort_unstable_by_key(|route| route.device);
            live
        };
        Ok(found.into_iter().zip(users).map(live).collect())
    }
}

/// The value without its end, and with the `%` before that.
fn standing(route: &Route) -> String {
    format!("{}%{}%{}%", route.node, route.session, route.epoch)
}

/// From the right: a node's name is the one part that could have a `%` in it.
fn read(app: AppId, user: UserId, device: DeviceKind, value: &str) -> Option<(Route, u64)> {
    let mut parts = value.rsplitn(4, '%');
    let until_ms = parts.next()?.parse().ok()?;
    let epoch = parts.next()?.parse().ok()?;
    let session = parts.next()?.parse().ok()?;
    let node = parts.next()?.to_owned();
    Some((Route { app, user, device, node, epoch, session }, until_ms))
}
