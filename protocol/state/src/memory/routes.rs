//! Where to push. One entry per user and device; the gateway's name and incarnation are kept once and shared.

use super::Sharded;
use super::expiring::Expiring;
use crate::port::{DISPLACED_KEPT_MS, DISPLACED_MAX, Result, Routes};
use crate::types::{AppId, DeviceKind, Route, StateError, UserId};
use async_trait::async_trait;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Devices bound: ten gateways' worth of connections. 75 bytes each (measured): 75 MB.
const ROUTES_MAX: usize = 1_000_000;
/// Devices of a shard of which is remembered whom they displaced: 500 a second that log in anew. Beyond it a bind tells of what stood alone;
/// in one process no answer is lost.
const DISPLACED_DEVICES_MAX: usize = 10_000;
/// Gateway lives a shard remembers the name of before it forgets those that no route mentions any more.
const HOMES_KEPT: usize = 64;

/// One life of a gateway.
#[derive(Debug, PartialEq, Eq)]
struct Home {
    node: String,
    epoch: u64,
}

/// Where one device is: 16 bytes.
#[derive(Clone, Debug)]
struct Bound {
    home: Arc<Home>,
    session: u64,
}

impl Bound {
    fn is(&self, route: &Route) -> bool {
        self.session == route.session && self.home.epoch == route.epoch && self.home.node == route.node
    }

    fn route(&self, key: Key) -> Route {
        Route {
            app: key.app,
            user: key.user,
            device: key.device,
            node: self.home.node.clone(),
            epoch: self.home.epoch,
            session: self.session,
        }
    }
}

/// A struct rather than a tuple of the same, so that it takes 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    user: UserId,
    app: AppId,
    device: DeviceKind,
}

impl Key {
    fn of(route: &Route) -> Self {
        Self { user: route.user, app: route.app, device: route.device }
    }
}

#[derive(Debug)]
struct Shard {
    bound: Expiring<Key, Bound>,
    /// Whom the last binds of a device displaced, the oldest first, and until when they are told of.
    displaced: Expiring<Key, Vec<(Bound, u64)>>,
    homes: Vec<Arc<Home>>,
}

impl Shard {
    fn new() -> Self {
        Self { bound: Expiring::new(), displaced: Expiring::new(), homes: Vec::new() }
    }

    /// Whom a bind displaces that is about to be done, and those before it, the newest first.
    fn displace(&mut self, key: Key, route: &Route, now_ms: u64) -> Vec<Route> {
        let before = self.bound.live(&key, now_ms).filter(|bound| !bound.is(route)).cloned();
        let is_told = |(bound, until_ms): &(Bound, u64)| {
            now_ms < *until_ms && !bound.is(route) && before.as_ref().is_none_or(|before| !bound.is(&before.route(key)))
        };
        let known = self.displaced.stored(&key).map(|(displaced, _)| displaced.iter()).into_iter().flatten();
        let mut told: Vec<(Bound, u64)> = known.filter(|known| is_told(known)).cloned().collect();
        if let Some(before) = before {
            let until_ms = now_ms + DISPLACED_KEPT_MS;
            told.push((before, until_ms));
            if told.len() > DISPLACED_MAX {
                told.remove(0);
            }
            self.displaced.sweep_for(now_ms, 1);
            if self.displaced.len() < DISPLACED_DEVICES_MAX || self.displaced.stored(&key).is_some() {
                self.displaced.insert(key, told.clone(), until_ms);
            }
        }
        told.iter().rev().map(|(bound, _)| bound.route(key)).collect()
    }

    fn home(&mut self, route: &Route) -> Arc<Home> {
        if let Some(home) = self.homes.iter().find(|home| home.epoch == route.epoch && home.node == route.node) {
            return Arc::clone(home);
        }
        if self.homes.len() >= HOMES_KEPT {
            self.homes.retain(|home| Arc::strong_count(home) > 1);
        }
        let home = Arc::new(Home { node: route.node.clone(), epoch: route.epoch });
        if self.homes.len() < HOMES_KEPT {
            self.homes.push(Arc::clone(&home));
        }
        home
    }
}

#[derive(Debug)]
pub(super) struct RouteTable {
    shards: Sharded<Shard>,
    bound: AtomicUsize,
    max: usize,
}

impl RouteTable {
    pub(super) fn new() -> Self {
        Self::with_max(ROUTES_MAX)
    }

    pub(super) fn with_max(max: usize) -> Self {
        Self { shards: Sharded::new(Shard::new), bound: AtomicUsize::new(0), max }
    }
}

#[async_trait]
impl Routes for RouteTable {
    async fn bind(&self, routes: &[Route], now_ms: u64, until_ms: u64) -> Result<Vec<Vec<Route>>> {
        if self.bound.load(Ordering::Relaxed) + routes.len() > self.max {
            let known = routes.iter().filter(|route| self.shards.of(route.app, route.user).bound.stored(&Key::of(route)).is_some()).count();
            if self.bound.load(Ordering::Relaxed) + routes.len() - known > self.max {
                return Err(StateError::Full { what: "routes", limit: self.max });
            }
        }
        let mut displaced = Vec::with_capacity(routes.len());
        for route in routes {
            let key = Key::of(route);
            let mut shard = self.shards.of(route.app, route.user);
            let len = shard.bound.len();
            displaced.push(shard.displace(key, route, now_ms));
            let home = shard.home(route);
            shard.bound.insert(key, Bound { home, session: route.session }, until_ms);
            self.bound.fetch_add(shard.bound.len() - len, Ordering::Relaxed);
            let len = shard.bound.len();
            shard.bound.sweep_for(now_ms, 1);
            self.bound.fetch_sub(len - shard.bound.len(), Ordering::Relaxed);
        }
        Ok(displaced)
    }

    async fn renew(&self, routes: &[Route], now_ms: u64, until_ms: u64) -> Result<Vec<bool>> {
        Ok(routes
            .iter()
            .map(|route| {
                let key = Key::of(route);
                let mut shard = self.shards.of(route.app, route.user);
                let stands = shard.bound.live(&key, now_ms).is_some_and(|bound| bound.is(route));
                if stands {
                    shard.bound.set_until(key, until_ms);
                }
                stands
            })
            .collect())
    }

    async fn unbind(&self, routes: &[Route]) -> Result<Vec<bool>> {
        let mut others = Vec::with_capacity(routes.len());
        for route in routes {
            let key = Key::of(route);
            let mut shard = self.shards.of(route.app, route.user);
            if shard.bound.stored(&key).is_some_and(|(bound, _)| bound.is(route)) {
                shard.bound.remove(&key);
                self.bound.fetch_sub(1, Ordering::Relaxed);
            }
            others.push(DeviceKind::ALL.into_iter().any(|device| shard.bound.stored(&Key { device, ..key }).is_some()));
        }
        Ok(others)
    }

    async fn lookup(&self, app: AppId, users: &[UserId], now_ms: u64) -> Result<Vec<Vec<Route>>> {
        Ok(users
            .iter()
            .map(|&user| {
                let shard = self.shards.of(app, user);
                let live = DeviceKind::ALL.into_iter().filter_map(|device| {
                    let key = Key { user, app, device };
                    shard.bound.live(&key, now_ms).map(|bound| bound.route(key))
                });
                live.collect()
            })
            .collect())
    }
}
