//! Who is here, as the shared state knows it: signs of life and routes, written in batches, never one per heartbeat.
//!
//! - Signs of life are gathered for seconds: one write then serves thousands. Who logs in is seen at once.
//! - A route stands for half a day and is not renewed by heartbeats. It is looked after when half its life is over, and, once for each
//!   time that the store may have forgotten something, at the session's next sign of life; at a pace that leaves the store alone.
//! - Of two sessions that claim one route the newer one has it, wherever they are: the other is ended, here or through a router.
//! - A session that ended gives its own route back. Its user is gone when there is no other session, neither here nor, as the user's routes
//!   tell, elsewhere; and what is taken back is this gateway's own word alone: a sign of life that came later from elsewhere stands.
//! - A lost write is made good by a later sign of life, half a heartbeat gap on.

use crate::{
    batch::{Batch, Write},
    commands::Shards,
    directory::{Directory, RouteMark, Seat},
    metrics::{ControlCounters, Port, RouteCheck},
    shard::message::{Origin, ShardCommand},
    store::{Away, Store},
    upstream::Upstream,
};
use billfish_link::message::Kick;
use billfish_state::{AppId, DeviceKind, Route, UserId};
use billfish_wire::Reason;
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex as StdMutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

/// This gateway's part of presence and routes.
#[derive(Debug)]
pub(crate) struct Presence {
    alive: Batch<(AppId, UserId), Alive>,
    endings: Batch<Claim, Ended>,
    checks: Batch<Claim, Check>,
    /// Held while users are said to be here or gone, so that the later word is written later.
    word: Mutex<()>,
    told: Told,
    parts: PresenceParts,
}

/// What presence needs to know.
#[derive(Debug)]
pub(crate) struct PresenceParts {
    pub(crate) store: Arc<Store>,
    pub(crate) directory: Arc<Directory>,
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) shards: Shards,
    pub(crate) counters: Arc<ControlCounters>,
    pub(crate) node: String,
    pub(crate) incarnation: u64,
    /// Between two heartbeats of a session.
    pub(crate) heartbeat_gap: Duration,
}

/// The user showed a sign of life.
#[derive(Clone, Copy, Debug)]
struct Alive;

/// The session has ended, and its route is to go.
#[derive(Clone, Copy, Debug)]
struct Ended;

/// The session's route is to be looked after.
#[derive(Clone, Copy, Debug)]
struct Check;

/// A session's claim to its route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Claim {
    app: AppId,
    user: UserId,
    device: DeviceKind,
    session: u64,
}

impl Presence {
    pub(crate) fn new(parts: PresenceParts) -> Self {
        let counters = &parts.counters;
        let alive_gather = ALIVE_GATHER_MAX.min(parts.heartbeat_gap / GATHERS_PER_GAP);
        Self {
            alive: Batch::new(Port::Presence, WAITING_MAX, alive_gather, Arc::clone(counters)).in_writes_of(ALIVE_WRITE_MAX),
            endings: Batch::new(Port::Routes, WAITING_MAX, GATHER, Arc::clone(counters)),
            checks: Batch::new(Port::Routes, WAITING_MAX, GATHER, Arc::clone(counters)).in_writes_of(CHECKS_MAX).pausing(CHECKS_PAUSE),
            word: Mutex::new(()),
            told: Told::default(),
            parts,
        }
    }

    /// A user showed a sign of life.
    pub(crate) fn alive(&self, app_id: i32, user_id: i64) {
        let (app, user) = (AppId(app_id), UserId(user_id));
        self.alive.put((app, user), Alive);
        for Seat { device, session, .. } in self.parts.directory.due(app_id, user_id, self.mark()) {
            self.checks.put(Claim { app, user, device, session }, Check);
        }
    }

    /// A session has ended, and its seat is given back already.
    pub(crate) fn ended(&self, origin: Origin) {
        let claim = Claim::of(origin);
        self.endings.put(claim, Ended);
        if self.parts.directory.lookup(origin.app_id, origin.user_id).is_empty() {
            self.alive.forget(&(claim.app, claim.user));
        }
    }

    fn mark(&self) -> RouteMark {
        let state = &self.parts.store.state;
        RouteMark::new(state.watch.generation(), state.clock.now_ms())
    }

    fn route(&self, claim: Claim) -> Route {
        let Claim { app, user, device, session } = claim;
        Route { app, user, device, node: self.parts.node.clone(), epoch: self.parts.incarnation, session }
    }

    /// Binds routes of new sessions and says that their users are here, before the sessions know that they are let in. Whoever had a
    /// route before, on another gateway, is ended there.
    pub(crate) async fn welcome(&self, origins: &[Origin]) -> Result<RouteMark, Away> {
        let mark = self.mark();
        let claims: Vec<Claim> = origins.iter().copied().map(Claim::of).collect();
        if self.bind(&claims).await.is_err() {
            // It may have been carried out, and nobody will come to give these back.
            claims.iter().for_each(|claim| self.endings.put(*claim, Ended));
            return Err(Away);
        }
        let users: Vec<(AppId, UserId)> = claims.iter().map(|claim| (claim.app, claim.user)).collect();
        if self.touch(&users).await.is_err() {
            // A route is enough to be let in; being seen follows with the next batch.
            users.into_iter().for_each(|user| self.alive.put(user, Alive));
        }
        Ok(mark)
    }

    async fn bind(&self, claims: &[Claim]) -> Result<(), Away> {
        let routes: Vec<Route> = claims.iter().map(|claim| self.route(*claim)).collect();
        let (store, now) = (&self.parts.store, self.parts.store.now_ms());
        let former = store.call(Port::Routes, store.state.routes.bind(&routes, now, now + ROUTE_MS)).await?;
        former.into_iter().flatten().for_each(|former| self.displace(former));
        Ok(())
    }

    /// Ends the session that had a route before, if it is on another gateway. On this one its seat tells; what an earlier life of this one
    /// had is gone.
    fn displace(&self, former: Route) {
        if former.node == self.parts.node {
            return;
        }
        let Route { app, user, device, node, epoch, session } = former;
        let code = Reason::DuplicateLogin.number().unwrap_or_default();
        let kick = Kick { app_id: app.0, user_id: user.0, device: device as u32, code, msg: String::new(), session };
        self.parts.counters.kicks_relayed.add(1);
        self.parts.upstream.relay(node, epoch, kick);
    }

    /// Writes until `stop`, then what is left.
    pub(crate) async fn run(&self, stop: &CancellationToken) {
        tokio::join!(self.alive.run(stop, self), self.endings.run(stop, self), self.checks.run(stop, self));
    }

    async fn check(&self, claims: &[Claim]) -> Result<(), Away> {
        let Some(held) = self.held(claims) else { return Ok(()) };
        let (store, mark, now) = (&self.parts.store, self.mark(), self.parts.store.now_ms());
        let routes: Vec<Route> = held.iter().map(|claim| self.route(*claim)).collect();
        let stand = store.call(Port::Routes, store.state.routes.renew(&routes, now, now + ROUTE_MS)).await?;
        let (kept, lost): (Vec<_>, Vec<_>) = held.into_iter().zip(stand).partition(|(_, stands)| *stands);
        self.looked_after(kept.into_iter().map(|(claim, _)| claim), mark, RouteCheck::Kept);
        let lost: Vec<Claim> = lost.into_iter().map(|(claim, _)| claim).collect();
        if lost.is_empty() {
            return Ok(());
        }
        let standing = self.standing(&lost, now).await?;
        let is_newer = |claim: &Claim| standing.get(&(claim.app, claim.user, claim.device)).is_some_and(|session| *session > claim.session);
        let (displaced, free): (Vec<Claim>, Vec<Claim>) = lost.into_iter().partition(is_newer);
        displaced.iter().for_each(|claim| self.end(*claim));
        self.looked_after(displaced.into_iter(), mark, RouteCheck::Displaced);
        if !free.is_empty() {
            self.bind(&free).await?;
            // Who ended meanwhile has given back what was not there yet.
            let directory = &self.parts.directory;
            let left = free.iter().filter(|claim| directory.seat_of(claim.origin()).is_none());
            left.for_each(|claim| self.endings.put(*claim, Ended));
            self.looked_after(free.into_iter(), mark, RouteCheck::Bound);
        }
        Ok(())
    }

    /// Those whose sessions are still here; `None`: none is.
    fn held(&self, claims: &[Claim]) -> Option<Vec<Claim>> {
        let held: Vec<Claim> = claims.iter().copied().filter(|claim| self.parts.directory.seat_of(claim.origin()).is_some()).collect();
        (!held.is_empty()).then_some(held)
    }

    /// Which sessions have the routes now.
    async fn standing(&self, claims: &[Claim], now: u64) -> Result<HashMap<(AppId, UserId, DeviceKind), u64>, Away> {
        let mut by_app: BTreeMap<AppId, Vec<UserId>> = BTreeMap::new();
        for claim in claims {
            by_app.entry(claim.app).or_default().push(claim.user);
        }
        let (store, mut standing) = (&self.parts.store, HashMap::new());
        for (app, users) in by_app {
            let routes = store.call(Port::Routes, store.state.routes.lookup(app, &users, now)).await?;
            standing.extend(routes.into_iter().flatten().map(|route| ((app, route.user, route.device), route.session)));
        }
        Ok(standing)
    }

    /// Ends a session here: its user has a newer one elsewhere. Where its shard is behind, the next sign of life leads here again.
    fn end(&self, claim: Claim) {
        if let Some(Seat { key, .. }) = self.parts.directory.seat_of(claim.origin()) {
            self.parts.shards.try_give(key.shard, ShardCommand::Kick { key, reason: Reason::DuplicateLogin, msg: None });
        }
    }

    fn looked_after(&self, claims: impl Iterator<Item = Claim>, mark: RouteMark, found: RouteCheck) {
        let mut count = 0;
        for claim in claims {
            count += 1;
            if found != RouteCheck::Displaced {
                self.parts.directory.mark(claim.origin(), mark);
            }
        }
        self.parts.counters.route_checked(found, count);
    }

    async fn write_alive(&self, users: &[((AppId, UserId), Alive)]) -> Result<(), Away> {
        let _word = self.word.lock().await;
        // Who has gone meanwhile is not brought back.
        let is_here = |(app, user): &(AppId, UserId)| !self.parts.directory.lookup(app.0, user.0).is_empty();
        let users: Vec<(AppId, UserId)> = users.iter().map(|(user, Alive)| *user).filter(is_here).collect();
        if users.is_empty() {
            return Ok(());
        }
        self.touch(&users).await
    }

    async fn touch(&self, users: &[(AppId, UserId)]) -> Result<(), Away> {
        let (store, now_ms) = (&self.parts.store, self.parts.store.now_ms());
        // First, for a call that fails may have been carried out.
        self.told.note(users, now_ms);
        store.call(Port::Presence, store.state.presence.touch(users, now_ms)).await
    }

    /// Gives the routes back, and takes back what this gateway told of users who have no other.
    async fn write_ended(&self, claims: &[(Claim, Ended)]) -> Result<(), Away> {
        let _word = self.word.lock().await;
        let is_gone = |claim: &Claim| self.parts.directory.lookup(claim.app.0, claim.user.0).is_empty();
        let told = |claim: Claim| is_gone(&claim).then(|| self.told.at(claim.app, claim.user)).flatten();
        // Before the routes are looked at: what is told afterwards, by a LOGIN here meanwhile, is not taken back.
        let last: Vec<Option<u64>> = claims.iter().map(|(claim, Ended)| told(*claim)).collect();
        let routes: Vec<Route> = claims.iter().map(|(claim, Ended)| self.route(*claim)).collect();
        let store = &self.parts.store;
        let has_others = store.call(Port::Routes, store.state.routes.unbind(&routes)).await?;
        let parted = claims.iter().zip(last).zip(has_others).filter_map(|(((claim, Ended), last), has_others)| {
            let last = last?;
            Some(((claim.app, claim.user, last), has_others))
        });
        let parted: Vec<_> = parted.collect();
        let gone: Vec<(AppId, UserId, u64)> = parted.iter().filter(|(_, has_others)| !has_others).map(|(user, _)| *user).collect();
        if !gone.is_empty() {
            store.call(Port::Presence, store.state.presence.remove(&gone)).await?;
        }
        parted.into_iter().for_each(|(user, _)| self.told.forget(user));
        Ok(())
    }
}

/// When this gateway last said of a user that he is here: only that is taken back with his last session. Of the users with sessions here.
#[derive(Debug, Default)]
struct Told(StdMutex<HashMap<(AppId, UserId), u64, foldhash::fast::RandomState>>);

impl Told {
    fn note(&self, users: &[(AppId, UserId)], now_ms: u64) {
        let mut told = self.told();
        for user in users {
            if told.len() < WAITING_MAX || told.contains_key(user) {
                told.insert(*user, now_ms);
            }
        }
    }

    fn at(&self, app: AppId, user: UserId) -> Option<u64> {
        self.told().get(&(app, user)).copied()
    }

    /// Unless something later was told.
    fn forget(&self, (app, user, at_ms): (AppId, UserId, u64)) {
        let mut told = self.told();
        if told.get(&(app, user)).is_some_and(|told_ms| *told_ms <= at_ms) {
            told.remove(&(app, user));
        }
    }

    fn told(&self) -> MutexGuard<'_, HashMap<(AppId, UserId), u64, foldhash::fast::RandomState>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claim {
    const fn of(origin: Origin) -> Self {
        Self { app: AppId(origin.app_id), user: UserId(origin.user_id), device: origin.device, session: origin.session }
    }

    const fn origin(self) -> Origin {
        Origin { app_id: self.app.0, user_id: self.user.0, device: self.device, session: self.session }
    }
}

impl Write<(AppId, UserId), Alive> for Presence {
    async fn write(&self, users: &[((AppId, UserId), Alive)]) -> Result<(), Away> {
        self.write_alive(users).await
    }
}

impl Write<Claim, Ended> for Presence {
    async fn write(&self, claims: &[(Claim, Ended)]) -> Result<(), Away> {
        self.write_ended(claims).await
    }
}

impl Write<Claim, Check> for Presence {
    async fn write(&self, claims: &[(Claim, Check)]) -> Result<(), Away> {
        let claims: Vec<Claim> = claims.iter().map(|(claim, Check)| *claim).collect();
        self.check(&claims).await
    }
}

/// Users, or endings, that may wait while the state is away: as many as a gateway has sessions. One that finds no place goes offline two
/// silent gaps later.
const WAITING_MAX: usize = 131_072;
/// What comes within this is one write.
const GATHER: Duration = Duration::from_millis(100);
/// Signs of life within a sixth of a heartbeat gap, and at most this, are one write: one command per bucket of users then serves all of them.
/// Twelve such writes fit into the two gaps after which a user counts as offline.
const ALIVE_GATHER_MAX: Duration = Duration::from_secs(5);
const GATHERS_PER_GAP: u32 = 6;
/// So many are not gathered any longer: about half a megabyte of commands.
const ALIVE_WRITE_MAX: usize = 16_384;
/// How long a route stands. It counts only while its gateway lives, so this only collects what was left behind.
const ROUTE_MS: u64 = 12 * 3600 * 1000;
/// Routes looked after in one write.
const CHECKS_MAX: usize = 300;
/// From one such write to the next: 600 routes a second, so that 18,000 sessions take one heartbeat gap. To renew one is five commands
/// by Redis' own count, 3,000 a second for each gateway while it lasts; one that is lost is looked up and bound as well, eleven in all.
const CHECKS_PAUSE: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests;
