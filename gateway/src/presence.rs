//! Who is here, as the shared state knows it: signs of life and routes, written in batches, never one per heartbeat.
//!
//! - Signs of life are gathered for seconds: one write then serves thousands. Each carries its own time, so gathering makes nobody look younger. Who
//!   logs in is seen at once.
//! - A route stands for half a day and is not renewed by heartbeats. It is looked after when half its life is over, and, once for each
//!   time that the store may have forgotten something or no router was linked, at the session's next sign of life; at a pace that leaves
//!   the store alone. One that was lost is bound anew, and what its user was sent meanwhile is asked for.
//! - Of two sessions that claim one route the one that bound it last has it, wherever they are: the other is ended, here or through the
//!   routers, also when it has no seat yet. Where that goes astray, the newer one has it when the routes are looked after.
//! - A session that ended gives its own route back. Its user is gone when there is no other session, neither here nor, as the user's routes
//!   tell, elsewhere; and what is taken back is this gateway's own word alone: a sign of life that came later from elsewhere stands.
//! - A lost write is made good by a later sign of life, half a heartbeat gap on.

mod kicks;

use self::kicks::{Again, KicksAgain};
use crate::{
    batch::{Batch, Write},
    clock::Uptime,
    commands::Shards,
    directory::{Directory, RouteMark, Seat},
    metrics::{ControlCounters, Forgotten, Port, RouteCheck},
    shard::message::{Origin, ShardCommand},
    store::{Away, Store},
    upstream::Upstream,
};
use billfish_link::message::Kick;
use billfish_state::{AppId, DeviceKind, Route, UserId};
use billfish_wire::Reason;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex as StdMutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{sync::Mutex, time::Instant};
use tokio_util::sync::CancellationToken;

/// This gateway's part of presence and routes.
#[derive(Debug)]
pub(crate) struct Presence {
    alive: Batch<(AppId, UserId), Alive>,
    endings: Batch<Claim, Ended>,
    checks: Batch<Claim, Check>,
    pace: Pace,
    kicks: KicksAgain,
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
    /// Whose milliseconds routers' calls count.
    pub(crate) uptime: Uptime,
}

/// Whose sign of life it was, and when.
type Sign = (AppId, UserId, u64);

/// The user showed a sign of life, at a moment that the store's clock names.
#[derive(Clone, Copy, Debug)]
struct Alive {
    at_ms: u64,
}

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
            checks: Batch::new(Port::Routes, WAITING_MAX, GATHER, Arc::clone(counters)).in_writes_of(CHECKS_MAX),
            pace: Pace::default(),
            kicks: KicksAgain::new(counters),
            word: Mutex::new(()),
            told: Told::default(),
            parts,
        }
    }

    /// A user showed a sign of life.
    pub(crate) fn alive(&self, app_id: i32, user_id: i64) {
        let (app, user) = (AppId(app_id), UserId(user_id));
        self.alive.put((app, user), Alive { at_ms: self.parts.store.now_ms() });
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
        // Where no router was linked, a kick may have gone astray.
        let generation = state.watch.generation().wrapping_add(self.parts.upstream.returns());
        RouteMark::new(generation, state.clock.now_ms())
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
        let at_ms = self.parts.store.now_ms();
        let signs: Vec<Sign> = claims.iter().map(|claim| (claim.app, claim.user, at_ms)).collect();
        if self.touch(&signs).await.is_err() {
            // A route is enough to be let in; being seen follows with the next batch.
            signs.into_iter().for_each(|(app, user, at_ms)| self.alive.put((app, user), Alive { at_ms }));
        }
        self.parts.upstream.tell_users(origins.iter().map(|origin| (origin.app_id, origin.user_id)), true);
        Ok(mark)
    }

    async fn bind(&self, claims: &[Claim]) -> Result<(), Away> {
        let routes: Vec<Route> = claims.iter().map(|claim| self.route(*claim)).collect();
        let (store, now) = (&self.parts.store, self.parts.store.now_ms());
        let displaced = store.call(Port::Routes, store.state.routes.bind(&routes, now, now + ROUTE_MS)).await?;
        for (claim, displaced) in claims.iter().zip(displaced) {
            displaced.into_iter().for_each(|former| self.displace(*claim, former));
        }
        Ok(())
    }

    /// Ends a session that had the route before, if it is on another gateway. On this one its seat tells; what an earlier life of this one
    /// had is gone. It may have been ended already: the store tells of whom earlier binds displaced too, for their answers may be lost.
    fn displace(&self, newer: Claim, former: Route) {
        if former.node == self.parts.node {
            return;
        }
        self.parts.counters.kicks_relayed.add(1);
        self.relay(&former);
        self.kicks.put(newer, former);
    }

    fn relay(&self, former: &Route) {
        let Route { app, user, device, node, epoch, session } = former;
        let code = Reason::DuplicateLogin.number().unwrap_or_default();
        let kick = Kick { app_id: app.0, user_id: user.0, device: *device as u32, code, msg: String::new(), session: *session };
        self.parts.upstream.relay(node.clone(), *epoch, kick);
    }

    /// Says kicks again, and looks whether those that they were for have their routes still: where one is replaced, others often are.
    async fn run_kicks(&self, stop: &CancellationToken) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(KICKS_TICK) => {}
                () = stop.cancelled() => return,
            }
            while let Some(Again { newer, former, .. }) = self.kicks.take_due(Instant::now()) {
                self.relay(&former);
                self.checks.put(newer, Check);
            }
        }
    }

    /// Writes until `stop`, then what is left.
    pub(crate) async fn run(&self, stop: &CancellationToken) {
        tokio::join!(self.alive.run(stop, self), self.endings.run(stop, self), self.checks.run(stop, self), self.run_kicks(stop));
    }

    async fn check(&self, claims: &[Claim]) -> Result<(), Away> {
        let Some(held) = self.held(claims) else { return Ok(()) };
        self.pace.wait().await;
        let (mark, now) = (self.mark(), self.parts.store.now_ms());
        let standing = self.standing(&held, now).await?;
        let (mut kept, mut old, mut displaced, mut lost) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for claim in held {
            let found = match standing.get(&(claim.app, claim.user, claim.device)) {
                Some(route) if *route == self.route(claim) && self.parts.directory.is_old(claim.origin(), mark) => &mut old,
                Some(route) if *route == self.route(claim) => &mut kept,
                Some(route) if route.session > claim.session => &mut displaced,
                Some(_) | None => &mut lost,
            };
            found.push(claim);
        }
        let Self { parts: PresenceParts { directory, counters, .. }, .. } = self;
        kept.iter().for_each(|claim| directory.mark_seen(claim.origin(), mark));
        counters.route_checked(RouteCheck::Kept, kept.len());
        displaced.iter().for_each(|claim| self.end(*claim));
        counters.route_checked(RouteCheck::Displaced, displaced.len());
        if !old.is_empty() {
            self.renew(&old, mark, now).await?;
        }
        if !lost.is_empty() {
            self.bind_anew(&lost, mark).await?;
        }
        Ok(())
    }

    async fn renew(&self, claims: &[Claim], mark: RouteMark, now: u64) -> Result<(), Away> {
        let PresenceParts { store, directory, counters, .. } = &self.parts;
        let routes: Vec<Route> = claims.iter().map(|claim| self.route(*claim)).collect();
        self.pace.spend(RENEW_COMMANDS * claims.len());
        let stand = store.call(Port::Routes, store.state.routes.renew(&routes, now, now + ROUTE_MS)).await?;
        // One that has changed since it was looked at is due still, and looked at again.
        let renewed: Vec<&Claim> = claims.iter().zip(stand).filter(|(_, stands)| *stands).map(|(claim, _)| claim).collect();
        renewed.iter().for_each(|claim| directory.mark(claim.origin(), mark));
        counters.route_checked(RouteCheck::Kept, renewed.len());
        Ok(())
    }

    /// Binds routes that were lost. What their users were sent meanwhile found no way here, and is in their inboxes.
    async fn bind_anew(&self, claims: &[Claim], mark: RouteMark) -> Result<(), Away> {
        let PresenceParts { directory, counters, upstream, uptime, .. } = &self.parts;
        self.pace.spend((BIND_COMMANDS + REDELIVER_COMMANDS) * claims.len());
        self.bind(claims).await?;
        for claim in claims {
            let origin = claim.origin();
            if directory.seat_of(origin).is_none() {
                // Who ended meanwhile has given back what was not there yet.
                self.endings.put(*claim, Ended);
                continue;
            }
            directory.mark(origin, mark);
            if !upstream.redeliver(origin, uptime.now_ms()) {
                counters.forget(Forgotten::Redeliveries);
            }
        }
        counters.route_checked(RouteCheck::Bound, claims.len());
        Ok(())
    }

    /// Those whose sessions are still here; `None`: none is.
    fn held(&self, claims: &[Claim]) -> Option<Vec<Claim>> {
        let held: Vec<Claim> = claims.iter().copied().filter(|claim| self.parts.directory.seat_of(claim.origin()).is_some()).collect();
        (!held.is_empty()).then_some(held)
    }

    /// The routes that stand now, of the users who are looked at: one command for each of them.
    async fn standing(&self, claims: &[Claim], now: u64) -> Result<HashMap<(AppId, UserId, DeviceKind), Route>, Away> {
        let mut by_app: BTreeMap<AppId, BTreeSet<UserId>> = BTreeMap::new();
        for claim in claims {
            by_app.entry(claim.app).or_default().insert(claim.user);
        }
        let (store, mut standing) = (&self.parts.store, HashMap::new());
        for (app, users) in by_app {
            let users: Vec<UserId> = users.into_iter().collect();
            self.pace.spend(users.len());
            let routes = store.call(Port::Routes, store.state.routes.lookup(app, &users, now)).await?;
            standing.extend(routes.into_iter().flatten().map(|route| ((app, route.user, route.device), route)));
        }
        Ok(standing)
    }

    /// Ends a session here: its user has a newer one elsewhere. Where its shard is behind, the next sign of life leads here again.
    fn end(&self, claim: Claim) {
        if let Some(Seat { key, .. }) = self.parts.directory.seat_of(claim.origin()) {
            self.parts.shards.try_give(key.shard, ShardCommand::Kick { key, reason: Reason::DuplicateLogin, msg: None });
        }
    }

    async fn write_alive(&self, users: &[((AppId, UserId), Alive)]) -> Result<(), Away> {
        let _word = self.word.lock().await;
        // Who has gone meanwhile is not brought back.
        let is_here = |(app, user, _): &Sign| !self.parts.directory.lookup(app.0, user.0).is_empty();
        let signs: Vec<Sign> = users.iter().map(|((app, user), Alive { at_ms })| (*app, *user, *at_ms)).filter(is_here).collect();
        if signs.is_empty() {
            return Ok(());
        }
        self.touch(&signs).await
    }

    async fn touch(&self, signs: &[Sign]) -> Result<(), Away> {
        let store = &self.parts.store;
        // First, for a call that fails may have been carried out.
        let forgotten = self.told.note(signs, store.now_ms().saturating_sub(CLOCKS_DIFFER_MS));
        (0..forgotten).for_each(|_| self.parts.counters.forget(Forgotten::SignsOfLife));
        store.call(Port::Presence, store.state.presence.touch_each(signs)).await
    }

    /// Gives the routes back, and takes back what was told of users who have no other: by this gateway, and by others of sessions that ended
    /// before.
    async fn write_ended(&self, claims: &[(Claim, Ended)]) -> Result<(), Away> {
        let _word = self.word.lock().await;
        let is_gone = |claim: &Claim| self.parts.directory.lookup(claim.app.0, claim.user.0).is_empty();
        // A sign from before the routes are looked at is of a session whose route would be found; one that is younger than clocks may differ by
        // may be of a session that comes in between.
        let before_ms = self.parts.store.now_ms().saturating_sub(CLOCKS_DIFFER_MS);
        let told = |claim: Claim| is_gone(&claim).then(|| self.told.last(claim.app, claim.user, before_ms));
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
            self.parts.upstream.tell_users(gone.iter().map(|(app, user, _)| (app.0, user.0)), false);
        }
        parted.into_iter().for_each(|(user, _)| self.told.forget(user));
        Ok(())
    }
}

/// When this gateway last said of a user that he is here, as long as that is younger than [`CLOCKS_DIFFER_MS`]. With the last session of a user
/// everything older is taken back, whoever told it, so an idle session leaves nothing in here.
#[derive(Debug, Default)]
struct Told(StdMutex<Young>);

#[derive(Debug, Default)]
struct Young {
    at_ms: HashMap<(AppId, UserId), u64, foldhash::fast::RandomState>,
    /// What was as old as this has been forgotten.
    forgotten_ms: u64,
}

/// So many are not looked through for what has grown old.
const YOUNG_KEPT: usize = 1_024;

impl Told {
    /// How many found no room. What was gathered for a while may be told after what came later: the store keeps the later one.
    fn note(&self, signs: &[Sign], before_ms: u64) -> usize {
        let mut young = self.young();
        young.forget_old(before_ms);
        let mut forgotten = 0;
        for (app, user, at_ms) in signs.iter().filter(|(_, _, at_ms)| *at_ms > before_ms) {
            if young.at_ms.len() < WAITING_MAX || young.at_ms.contains_key(&(*app, *user)) {
                let last_ms = young.at_ms.entry((*app, *user)).or_default();
                *last_ms = (*last_ms).max(*at_ms);
            } else {
                forgotten += 1;
            }
        }
        forgotten
    }

    /// Up to when everything that was told is to be taken back.
    fn last(&self, app: AppId, user: UserId, before_ms: u64) -> u64 {
        self.young().at_ms.get(&(app, user)).map_or(before_ms, |told_ms| before_ms.max(*told_ms))
    }

    /// Unless something later was told.
    fn forget(&self, (app, user, at_ms): (AppId, UserId, u64)) {
        let mut young = self.young();
        if young.at_ms.get(&(app, user)).is_some_and(|told_ms| *told_ms <= at_ms) {
            young.at_ms.remove(&(app, user));
        }
    }

    fn young(&self) -> MutexGuard<'_, Young> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Young {
    fn forget_old(&mut self, before_ms: u64) {
        // Each is looked at a few times at most, also in a storm.
        if self.at_ms.len() > YOUNG_KEPT && before_ms >= self.forgotten_ms + CLOCKS_DIFFER_MS {
            self.at_ms.retain(|_, told_ms| *told_ms > before_ms);
            self.at_ms.shrink_to(YOUNG_KEPT);
            self.forgotten_ms = before_ms;
        }
    }
}

/// The commands of route checks, spread over time: whoever spends has to wait before the next look.
#[derive(Debug, Default)]
struct Pace(StdMutex<Option<Instant>>);

impl Pace {
    fn spend(&self, commands: usize) {
        let mut paid = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let from = paid.filter(|paid| *paid > Instant::now()).unwrap_or_else(Instant::now);
        *paid = Some(from + Duration::from_secs(1).mul_f64(commands as f64 / CHECK_COMMANDS_PER_S));
    }

    /// Until what was spent is paid. Cancel-safe.
    async fn wait(&self) {
        let paid = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(paid) = paid {
            tokio::time::sleep_until(paid).await;
        }
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
/// Signs of life within a third of a heartbeat gap, and at most this, are one write: one command per bucket of users then serves all of them.
/// Who shows one each gap has it in the store before the two gaps are over after which a user counts as offline, with two thirds of a gap to spare.
const ALIVE_GATHER_MAX: Duration = Duration::from_secs(10);
const GATHERS_PER_GAP: u32 = 3;
/// So many are not gathered any longer: about half a megabyte of commands.
const ALIVE_WRITE_MAX: usize = 16_384;
/// How long a route stands. It counts only while its gateway lives, so this only collects what was left behind.
const ROUTE_MS: u64 = 12 * 3600 * 1000;
/// What the clocks of nodes that keep time together differ by at most.
const CLOCKS_DIFFER_MS: u64 = 500;
/// Routes looked after in one write: all of them lost, it is a thousand commands at a time.
const CHECKS_MAX: usize = 128;
/// Commands that one gateway spends on looking after routes, by Redis' own count: six gateways together stay below 5,000 a second. To look
/// at a route is one, so 18,000 sessions take 23 s; where all are lost it is six each, and 4,000 sessions take 30 s. That is what it costs in
/// a cluster; a single server is asked for many at once, and has less to do.
const CHECK_COMMANDS_PER_S: f64 = 800.0;
/// What a call costs for each route; `protocol/state/tests/redis_cost.rs` counts them.
const RENEW_COMMANDS: usize = 3;
const BIND_COMMANDS: usize = 2;
/// To read an inbox, which is empty but for few.
const REDELIVER_COMMANDS: usize = 3;
/// How often it is looked which kicks are to be said again.
const KICKS_TICK: Duration = Duration::from_secs(1);

#[cfg(test)]
mod logins;
#[cfg(test)]
mod tests;
