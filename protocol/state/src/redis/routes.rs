//! [`Routes`]: a string for each user, a line `device%node%session%epoch%until` for each device, and such lines for whom the last binds of a
//! device displaced, under a number that is no device's, each with the time until which it is told of.
//!
//! - The end stands in the line; the key lives as long as the longest of them.
//! - A string rather than a hash: what was bound before comes back from the command that binds, and one `MGET` reads many users.
//! - A single server is sent one script for many users, a cluster one for each, for no two of them share a slot.

use super::command::{Command, Script};
use super::connection::{Connection, Likely};
use super::gather::{Batch, Gather, Gathering};
use super::life;
use crate::port::{DISPLACED_KEPT_MS, DISPLACED_MAX, Result, Routes};
use crate::types::{AppId, DeviceKind, Route, StateError, UserId};
use async_trait::async_trait;
use redis::FromRedisValue;

/// A script on the routes of users.
macro_rules! routes_script {
    ($file:literal) => {
        Script::new(concat!(include_str!("lua/routes.lua"), include_str!($file)))
    };
}

static BIND: Script = routes_script!("lua/route_bind.lua");
static RENEW: Script = routes_script!("lua/route_renew.lua");
static UNBIND: Script = routes_script!("lua/route_unbind.lua");

/// Between the routes of two devices.
const BETWEEN_ROUTES: char = '\n';

pub(super) struct RedisRoutes {
    connection: Connection,
    binding: Gather<Bindings>,
}

/// A route that is to stand from one moment until another.
struct Claim {
    route: Route,
    now_ms: u64,
    until_ms: u64,
}

struct Bindings(Connection);

#[async_trait]
impl Batch for Bindings {
    type Ask = Claim;
    type Answer = Vec<Route>;

    async fn run(&self, claims: Vec<Claim>) -> Result<Vec<Vec<Route>>> {
        let displaced: Vec<Vec<String>> = each(&self.0, "binding routes", &BIND, &claims).await?;
        let read = |(values, Claim { route, .. }): (Vec<String>, &Claim)| {
            let values = values.iter().rev();
            values.filter_map(|standing| Some(read(route.app, route.user, &format!("{}%{standing}", route.device as u8))?.0)).collect()
        };
        Ok(displaced.into_iter().zip(&claims).map(read).collect())
    }
}

impl RedisRoutes {
    pub(super) fn new(connection: Connection, gathering: &Gathering) -> Self {
        Self { binding: gathering.gather(Bindings(connection.clone())), connection }
    }
}

fn claims(routes: &[Route], now_ms: u64, until_ms: u64) -> Vec<Claim> {
    routes.iter().map(|route| Claim { route: route.clone(), now_ms, until_ms }).collect()
}

/// Calls a script on each of the claims, in the order given: those of one user lie in one key.
async fn each<T: FromRedisValue>(connection: &Connection, what: &'static str, script: &'static Script, claims: &[Claim]) -> Result<Vec<T>> {
    if claims.iter().any(|claim| claim.route.node.contains(BETWEEN_ROUTES)) {
        return Err(StateError::Malformed { what: "name of a node" });
    }
    let key = |claim: &Claim| connection.keys().route(claim.route.app, claim.route.user);
    let argue = |command: Command, Claim { route, now_ms, until_ms }: &Claim| {
        let command = command.arg(route.device as u8).arg(standing(route));
        let command = command.arg(*now_ms).arg(*until_ms).arg(life(*now_ms, *until_ms));
        command.arg(DISPLACED_KEPT_MS).arg(DISPLACED_MAX)
    };
    connection.run_by_key(what, script, claims, key, argue).await
}

#[async_trait]
impl Routes for RedisRoutes {
    async fn bind(&self, routes: &[Route], now_ms: u64, until_ms: u64) -> Result<Vec<Vec<Route>>> {
        self.binding.ask(claims(routes, now_ms, until_ms)).await
    }

    async fn renew(&self, routes: &[Route], now_ms: u64, until_ms: u64) -> Result<Vec<bool>> {
        each(&self.connection, "renewing routes", &RENEW, &claims(routes, now_ms, until_ms)).await
    }

    async fn unbind(&self, routes: &[Route]) -> Result<Vec<bool>> {
        each(&self.connection, "removing routes", &UNBIND, &claims(routes, 0, 0)).await
    }

    async fn lookup(&self, app: AppId, users: &[UserId], now_ms: u64) -> Result<Vec<Vec<Route>>> {
        let keys = users.iter().map(|user| self.connection.keys().route(app, *user)).collect();
        let found: Vec<Option<String>> = self.connection.values("looking routes up", keys, Likely::There).await?;
        let live = |(lines, user): (Option<String>, &UserId)| {
            let lines = lines.unwrap_or_default();
            let routes = lines.split(BETWEEN_ROUTES).filter_map(|line| read(app, *user, line));
            let mut live: Vec<_> = routes.filter(|(_, until_ms)| now_ms < *until_ms).map(|(route, _)| route).collect();
            live.sort_unstable_by_key(|route| route.device);
            live
        };
        Ok(found.into_iter().zip(users).map(live).collect())
    }
}

/// The line without its device and its end, and with the `%` before that.
fn standing(route: &Route) -> String {
    format!("{}%{}%{}%", route.node, route.session, route.epoch)
}

/// From the right: a node's name is the one part that could have a `%` in it.
fn read(app: AppId, user: UserId, line: &str) -> Option<(Route, u64)> {
    let (device, standing) = line.split_once('%')?;
    let device = DeviceKind::from_number(device.parse().ok()?)?;
    let mut parts = standing.rsplitn(4, '%');
    let until_ms = parts.next()?.parse().ok()?;
    let epoch = parts.next()?.parse().ok()?;
    let session = parts.next()?.parse().ok()?;
    let node = parts.next()?.to_owned();
    Some((Route { app, user, device, node, epoch, session }, until_ms))
}
