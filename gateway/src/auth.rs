//! Who is let in: LOGINs are decided in batches, several batches at a time.
//!
//! - A user and device always use the same lane, and a lane does one batch after the other: of two logins the later one keeps the seat, in
//!   the directory and in the routes alike.
//! - Unknown, expired, revoked and other people's tokens get the same answer. Tokens are random and looked up whole by the store, not
//!   compared byte by byte here, so there is no timing to learn one from.
//! - A token of a session at the HTTP API is good for as long as that is: see [`crate::logouts`].
//! - The store away means "try again", never "come in".
//! - A token is forgotten here once it is checked, but for what LOGOUT needs to revoke it. No log line holds one.

use crate::{
    admission::Gate,
    batch::{Batch, Write},
    clock::Uptime,
    commands::{Commands, Shards},
    directory::Directory,
    logouts::{Found, Logouts},
    metrics::{ControlCounters, LoginResult, Port},
    presence::Presence,
    shard::message::{ConnKey, LoginDenied, LoginGranted, Origin, ShardCommand},
    store::{Away, Store},
};
use billfish_session::server::{LoginAccepted, LoginRequest};
use billfish_state::{DeviceKind, SESSIONS_PER_MS, SessionOwner, TokenOwner, WindowHit, WindowVerdict};
use billfish_wire::Reason;
use std::{
    hash::BuildHasher,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::debug;

/// One LOGIN that waits for its verdict.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) key: ConnKey,
    pub(crate) peer: IpAddr,
    pub(crate) request: Box<LoginRequest>,
    /// Of the HTTP API, to which its token was issued: known once the token is.
    pub(crate) session: Option<Found>,
}

impl Attempt {
    fn device(&self) -> DeviceKind {
        DeviceKind::from_platform(self.request.platform.as_deref())
    }
}

/// What deciding needs to know.
#[derive(Debug)]
pub(crate) struct Auth {
    pub(crate) gate: Arc<Gate>,
    pub(crate) store: Arc<Store>,
    pub(crate) directory: Arc<Directory>,
    pub(crate) presence: Arc<Presence>,
    pub(crate) shards: Shards,
    pub(crate) counters: Arc<ControlCounters>,
    pub(crate) revoked: Revoked,
    pub(crate) logouts: Arc<Logouts>,
    pub(crate) node: String,
    pub(crate) incarnation: u64,
    pub(crate) user_logins_per_minute: u32,
    pub(crate) last_session: AtomicU64,
    pub(crate) uptime: Uptime,
}

/// The way to the lanes.
#[derive(Clone, Debug)]
pub(crate) struct Lanes {
    lanes: Arc<[mpsc::Sender<Attempt>]>,
    hasher: foldhash::fast::RandomState,
}

impl Lanes {
    /// The lanes, and the end of each that [`Auth::run_lane`] takes from.
    pub(crate) fn new() -> (Self, Vec<mpsc::Receiver<Attempt>>) {
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..LANES).map(|_| mpsc::channel(LANE_ATTEMPTS_MAX)).unzip();
        (Self { lanes: senders.into(), hasher: foldhash::fast::RandomState::default() }, receivers)
    }

    /// Queues a LOGIN, without waiting.
    ///
    /// # Errors
    /// Too many wait already; the answer that it gets instead.
    pub(crate) fn submit(&self, attempt: Attempt) -> Result<(), LoginDenied> {
        let who = (attempt.request.app_id, attempt.request.user_id, attempt.device());
        let lane = self.hasher.hash_one(who) as usize % self.lanes.len();
        self.lanes[lane].try_send(attempt).map_err(|_| unavailable())
    }
}

/// Tokens that are to be revoked. They let nobody in from the moment that they stand here.
#[derive(Debug)]
pub(crate) struct Revoked {
    tokens: Batch<String, ()>,
    store: Arc<Store>,
}

impl Revoked {
    pub(crate) fn new(store: Arc<Store>, counters: &Arc<ControlCounters>) -> Self {
        Self { tokens: Batch::new(Port::Tokens, REVOKED_MAX, Duration::ZERO, Arc::clone(counters)), store }
    }

    /// Its owner has logged out.
    pub(crate) fn put(&self, token: String) {
        if !token.is_empty() {
            self.tokens.put(token, ());
        }
    }

    /// Writes until `stop`, then what is left.
    pub(crate) async fn run(&self, stop: &CancellationToken) {
        self.tokens.run(stop, self).await;
    }
}

impl Write<String, ()> for Revoked {
    async fn write(&self, tokens: &[(String, ())]) -> Result<(), Away> {
        let tokens: Vec<String> = tokens.iter().map(|(token, ())| token.clone()).collect();
        self.store.call(Port::Tokens, self.store.state.tokens.revoke(&tokens)).await
    }
}

impl Auth {
    /// Decides what comes in on one lane, until all [`Lanes`] are dropped.
    pub(crate) async fn run_lane(&self, mut lane: mpsc::Receiver<Attempt>) {
        let mut attempts = Vec::new();
        let mut commands = self.shards.gather();
        while lane.recv_many(&mut attempts, BATCH_MAX).await > 0 {
            self.decide(std::mem::take(&mut attempts), &mut commands).await;
            self.shards.give(&mut commands).await;
        }
    }

    async fn decide(&self, attempts: Vec<Attempt>, commands: &mut Commands) {
        let attempts = self.within_memory(attempts, commands);
        let attempts = self.within_address_limits(attempts, commands);
        let attempts = self.with_good_tokens(attempts, commands).await;
        let attempts = self.within_user_limits(attempts, commands).await;
        self.seat(attempts, commands).await;
    }

    fn within_memory(&self, mut attempts: Vec<Attempt>, commands: &mut Commands) -> Vec<Attempt> {
        attempts.retain(|attempt| {
            let has_memory = self.gate.has_memory();
            if !has_memory {
                self.deny(attempt, unavailable(), commands);
            }
            has_memory
        });
        attempts
    }

    fn within_address_limits(&self, attempts: Vec<Attempt>, commands: &mut Commands) -> Vec<Attempt> {
        let mut kept = Vec::with_capacity(attempts.len());
        for attempt in attempts {
            match self.gate.login(attempt.peer) {
                Ok(()) => kept.push(attempt),
                Err(retry_after_ms) => self.deny(&attempt, rate_limited(retry_after_ms), commands),
            }
        }
        kept
    }

    async fn with_good_tokens(&self, attempts: Vec<Attempt>, commands: &mut Commands) -> Vec<Attempt> {
        if attempts.is_empty() {
            return attempts;
        }
        let tokens: Vec<String> = attempts.iter().map(|attempt| attempt.request.token.clone()).collect();
        let resolved = self.store.call(Port::Tokens, self.store.state.tokens.resolve(&tokens, self.store.now_ms())).await;
        let Ok(mut owners) = resolved else { return self.deny_all(&attempts, commands) };
        let Ok(sessions) = self.without_those_logged_out(&mut owners).await else { return self.deny_all(&attempts, commands) };
        let mut kept = Vec::with_capacity(attempts.len());
        for ((attempt, owner), session) in attempts.into_iter().zip(owners).zip(sessions) {
            // Asked after the store was: a token revoked there is no longer waiting here.
            let owner = owner.filter(|owner| lets_in(*owner, &attempt) && !self.revoked.tokens.contains(&attempt.request.token));
            if owner.is_some() {
                kept.push(Attempt { session, ..attempt });
            } else {
                self.gate.bad_token(attempt.peer);
                self.deny(&attempt, LoginDenied { reason: Reason::BadToken, retry_after_ms: None }, commands);
            }
        }
        kept
    }

    /// Takes out the owners whose sessions at the HTTP API have ended, and gives the sessions of the others, in their order. Most have none,
    /// and nobody is asked.
    async fn without_those_logged_out(&self, owners: &mut [Option<TokenOwner>]) -> Result<Vec<Option<Found>>, Away> {
        let mut sessions = vec![None; owners.len()];
        let of_session = |owner: &TokenOwner| Some((SessionOwner { app: owner.app, user: owner.user }, owner.session?));
        let asked: Vec<_> = owners.iter().flatten().filter_map(of_session).collect();
        if asked.is_empty() {
            return Ok(sessions);
        }
        let mut found = self.logouts.find(&asked).await?.into_iter();
        for (owner, session) in owners.iter_mut().zip(&mut sessions) {
            if owner.is_some_and(|owner| owner.session.is_some()) {
                *session = found.next().flatten();
                *owner = owner.filter(|_| session.is_some());
            }
        }
        Ok(sessions)
    }

    /// Counted only for users who proved who they are: nobody can use up another's logins.
    async fn within_user_limits(&self, attempts: Vec<Attempt>, commands: &mut Commands) -> Vec<Attempt> {
        if attempts.is_empty() {
            return attempts;
        }
        let hit = |attempt: &Attempt| WindowHit {
            key: format!("login:{}:{}", attempt.request.app_id, attempt.request.user_id),
            limit: self.user_logins_per_minute,
            window_ms: MINUTE_MS,
        };
        let hits: Vec<WindowHit> = attempts.iter().map(hit).collect();
        let asked = self.store.call(Port::RateWindows, self.store.state.rate_windows.hit(&hits, self.store.now_ms())).await;
        let Ok(verdicts) = asked else { return self.deny_all(&attempts, commands) };
        let mut kept = Vec::with_capacity(attempts.len());
        for (attempt, verdict) in attempts.into_iter().zip(verdicts) {
            match verdict {
                WindowVerdict::Allowed => kept.push(attempt),
                WindowVerdict::Refused { retry_after_ms } => self.deny(&attempt, rate_limited(retry_after_ms), commands),
            }
        }
        kept
    }

    async fn seat(&self, attempts: Vec<Attempt>, commands: &mut Commands) {
        if attempts.is_empty() {
            return;
        }
        let origins: Vec<Origin> = attempts.iter().map(|attempt| self.origin(attempt)).collect();
        let Ok(mark) = self.presence.welcome(&origins).await else {
            self.deny_all(&attempts, commands);
            return;
        };
        let server_time_ms = i64::try_from(self.store.now_ms()).unwrap_or(i64::MAX);
        for (attempt, origin) in attempts.into_iter().zip(origins) {
            if let Some(older) = self.directory.insert(origin, attempt.key, &attempt.request.token, mark) {
                debug!(user = origin.user_id, session = older.session, "logged in elsewhere");
                commands.send(older.key, ShardCommand::Kick { key: older.key, reason: Reason::DuplicateLogin, msg: None });
            }
            if let Some(session) = attempt.session {
                self.logouts.watch(origin, session);
            }
            let session_id = format!("{}.{:x}.{:x}", self.node, self.incarnation, origin.session);
            let accepted = LoginAccepted { session_id, node: self.node.clone(), server_time_ms };
            debug!(user = origin.user_id, app = origin.app_id, device = origin.device.label(), session = origin.session, "logged in");
            self.counters.login(LoginResult::Accepted);
            let verdict = Ok(LoginGranted { accepted, origin });
            commands.send(attempt.key, ShardCommand::LoginVerdict { key: attempt.key, verdict });
            // Another gateway bound the route before this session had its seat.
            if let Some(reason) = self.directory.take_kick(origin, self.uptime.now_ms()) {
                debug!(user = origin.user_id, session = origin.session, "logged in elsewhere meanwhile");
                commands.send(attempt.key, ShardCommand::Kick { key: attempt.key, reason, msg: None });
            }
        }
    }

    fn origin(&self, attempt: &Attempt) -> Origin {
        Origin { app_id: attempt.request.app_id, user_id: attempt.request.user_id, device: attempt.device(), session: self.next_session() }
    }

    /// Numbers of sessions rise with the time that all gateways share: of two sessions that claim one route, the larger one is the newer.
    fn next_session(&self) -> u64 {
        let now = self.store.now_ms().saturating_mul(SESSIONS_PER_MS);
        let after = |last: u64| now.max(last + 1);
        let last = self.last_session.fetch_update(Relaxed, Relaxed, |last| Some(after(last)));
        after(last.unwrap_or_else(|last| last))
    }

    fn deny_all(&self, attempts: &[Attempt], commands: &mut Commands) -> Vec<Attempt> {
        for attempt in attempts {
            self.deny(attempt, unavailable(), commands);
        }
        Vec::new()
    }

    fn deny(&self, attempt: &Attempt, denied: LoginDenied, commands: &mut Commands) {
        debug!(user = attempt.request.user_id, peer = %attempt.peer, reason = denied.reason.label(), "login refused");
        self.counters.login(LoginResult::of(denied.reason));
        commands.send(attempt.key, ShardCommand::LoginVerdict { key: attempt.key, verdict: Err(denied) });
    }
}

fn lets_in(owner: TokenOwner, attempt: &Attempt) -> bool {
    owner.app.0 == attempt.request.app_id
        && owner.user.0 == attempt.request.user_id
        && owner.device.is_none_or(|device| device == attempt.device())
}

const fn rate_limited(retry_after_ms: u64) -> LoginDenied {
    LoginDenied { reason: Reason::RateLimited, retry_after_ms: Some(retry_after_ms) }
}

/// Spread over two seconds, so that those who were refused together do not come back together.
pub(crate) fn unavailable() -> LoginDenied {
    LoginDenied { reason: Reason::Unavailable, retry_after_ms: Some(fastrand::u64(1_000..3_000)) }
}

/// Batches decided at the same time: with 1 ms per call to the store and four calls, 8 lanes of 256 let in 500,000 a second.
const LANES: usize = 8;
/// LOGINs that wait in a lane. All lanes together hold more than a gateway's connections without login.
const LANE_ATTEMPTS_MAX: usize = 4_096;
/// Most LOGINs of one batch.
const BATCH_MAX: usize = 256;
/// Logouts that may wait while the store is away.
const REVOKED_MAX: usize = 65_536;
const MINUTE_MS: u64 = 60_000;
