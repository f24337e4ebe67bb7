//! Sends events to receivers: the hooks that this router holds, each by a task of its own.
//!
//! ```text
//! keep ── a turn a second: reads the hooks, claims what nobody holds, renews, counts, deletes
//!  └─ hold ── a hook: looks for lanes that are due, begins as many as there are places
//!      └─ visit ── some events of one lane, one call after the other; what became of them is stored, then the lane may be begun again
//! settle ── stores what many visits have settled, by one transaction
//! ```
//!
//! - A call is begun only where its claim outlasts it, so no two routers call for one hook at the same time. A process that is stopped in the
//!   middle of a call and goes on later may end it beside the next holder's: an event may come twice, and so it may after any crash.
//! - The records see one settling transaction at a time, of [`ROWS_PER_SETTLING`] rows at most, and then have four times as long to themselves,
//!   however fast receivers are. In an SQLite file a gift that comes meanwhile waits for that one, some milliseconds; nothing else here is waited
//!   for by anybody who pays.
//! - Hooks that have something to send share the calls of this router evenly, so those whose receivers are slow leave the others theirs.

use super::{
    WebhooksConfig,
    desk::{Desk, Policy, Said, Then, Visit},
    event::Lane,
    metrics::{ACCEPTED, Fares, NO_ANSWER, REFUSED, WebhookMetrics},
};
use crate::{
    callout::{CallError, Endpoint, Reach},
    clock::millis,
    ledger::{
        Ledger,
        webhooks::{Claim, Hook, HookEvent, HookStatus, Settled, WebhookId},
    },
    services::ports::RecordError,
    signature::{HEADER, SigningKey},
};
use billfish_state::{Clock, Quiet};
use std::{
    collections::{BTreeMap, VecDeque},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{
    sync::{AcquireError, OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::{info, warn};

/// Between two turns of the keeper, and between two counts of a hook's events.
const TURN_EVERY: Duration = Duration::from_secs(1);
/// Turns between two looks at what is to be deleted.
const PURGE_TURNS: u64 = 30;
/// Transactions that delete, of one such look, and how long it takes at most: claims are to be renewed meanwhile.
const PURGES_PER_LOOK: usize = 20;
const PURGE_FOR: Duration = Duration::from_secs(2);
/// How much longer than two calls a claim lasts: its holder may be late, or the records away for a moment.
const CLAIM_SPARE: Duration = Duration::from_secs(15);
/// What a claim must outlast a call by, for what clocks differ.
const CALL_SPARE: Duration = Duration::from_secs(2);
/// Between two looks for events that other routers have written.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Between two looks at the fastest.
const LOOK_GAP: Duration = Duration::from_millis(20);
/// After the records did not answer.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Lanes found by one look.
const LANES_PER_LOOK: usize = 256;
/// Events of one visit: what may be delivered twice after a crash, for each lane under way.
const EVENTS_PER_VISIT: usize = 32;
/// How long what a visit has settled stays out of the records, and no longer than the call under way.
const SETTLE_WITHIN: Duration = Duration::from_millis(500);
/// Between two transactions that settle or delete, at least; and so many times as long as the last one took, up to a bound.
const SETTLE_GAP: Duration = Duration::from_millis(20);
const GAP_TIMES: u32 = 4;
const GAP_MAX: Duration = Duration::from_millis(500);
/// Rows settled by one of them: some milliseconds.
const ROWS_PER_SETTLING: usize = 512;

/// The headers of a call, beside the signature's.
const EVENT: &str = "x-billfish-event";
const EVENT_ID: &str = "x-billfish-event-id";
const TRY: &str = "x-billfish-try";
const AGENT: &str = concat!("billfish/", env!("CARGO_PKG_VERSION"));

/// What a hook that was disabled says.
const GONE: &str = "the receiver answered 410: it is gone";

/// Lines about records that do not answer.
static AWAY: Quiet = Quiet::new();

/// What the tasks share.
pub(super) struct Shared {
    pub(super) ledger: Ledger,
    pub(super) clock: Clock,
    pub(super) config: WebhooksConfig,
    /// Who claims.
    pub(super) holder: String,
    pub(super) life: u64,
    pub(super) metrics: WebhookMetrics,
    pub(super) calls: Arc<Semaphore>,
    /// Hooks that have something to send.
    pub(super) busy: AtomicUsize,
    pub(super) settling: mpsc::Sender<Settling>,
    /// Begins nothing from then on.
    pub(super) stop: CancellationToken,
    /// Breaks off what is under way.
    pub(super) cut: CancellationToken,
}

/// What a visit has settled, and who waits until it is stored.
pub(super) struct Settling {
    settled: Vec<Settled>,
    stored: oneshot::Sender<()>,
}

/// How long a claim lasts: while its holder lives it is renewed when a third of it is over.
pub(super) fn claim_life(config: &WebhooksConfig) -> Duration {
    config.timeout * 2 + CLAIM_SPARE
}

/// A hook that this router holds.
struct Held {
    /// Until when, Unix ms.
    until_ms: Arc<AtomicU64>,
    stop: CancellationToken,
    task: AbortOnDropHandle<()>,
}

/// Keeps the hooks, until it is told to stop; then waits for what is under way and gives them back.
pub(super) async fn keep(shared: Arc<Shared>) {
    let mut held: BTreeMap<WebhookId, Held> = BTreeMap::new();
    let mut ticks = crate::housekeeping::every(TURN_EVERY);
    let mut registered = shared.ledger.hooks().changed();
    let mut is_free = !shared.ledger.is_alone();
    for turn in 0_u64.. {
        // Cancel-safe: a tick that was not taken comes again, and what has changed is read at any turn.
        tokio::select! {
            _ = ticks.tick() => {}
            changed = registered.changed() => if changed.is_err() { break },
            () = shared.stop.cancelled() => break,
        }
        if !is_free {
            match shared.ledger.free_hooks().await {
                Ok(()) => is_free = true,
                Err(error) => away("freeing webhooks", &error),
            }
        }
        take_turn(&shared, &mut held).await;
        if turn.is_multiple_of(PURGE_TURNS) {
            shared.purge().await;
        }
    }
    for held in std::mem::take(&mut held).into_values() {
        held.stop.cancel();
        held.task.await.ok();
    }
    let told = async {
        shared.ledger.report_dropped().await?;
        shared.ledger.release_hooks(&shared.holder, shared.life).await
    };
    if let Err(error) = told.await {
        away("giving webhooks back", &error);
    }
}

async fn take_turn(shared: &Arc<Shared>, held: &mut BTreeMap<WebhookId, Held>) {
    let hooks = match shared.ledger.refresh_hooks().await {
        Ok(hooks) => hooks,
        // Those that are held go on until their claims are over.
        Err(error) => return away("reading the webhooks", &error),
    };
    held.retain(|id, held| {
        if !hooks.iter().any(|hook| hook.id == *id && hook.is_active) {
            held.stop.cancel();
        }
        // One that has ended holds nothing: its hook is claimed like any other.
        !held.task.is_finished()
    });
    for hook in hooks.into_iter().filter(|hook| hook.is_active) {
        if let Err(error) = claim(shared, held, hook).await {
            away("claiming a webhook", &error);
        }
    }
    let count = held.values().filter(|held| !held.stop.is_cancelled()).count();
    shared.metrics.held.set(i64::try_from(count).unwrap_or(i64::MAX));
    if let Err(error) = shared.ledger.report_dropped().await {
        away("counting dropped events", &error);
    }
}

/// Renews the claim of a hook that is held, and takes one that nobody holds.
async fn claim(shared: &Arc<Shared>, held: &mut BTreeMap<WebhookId, Held>, hook: Hook) -> Result<(), RecordError> {
    if held.get(&hook.id).is_some_and(|held| held.stop.is_cancelled()) {
        // Its last calls end.
        return Ok(());
    }
    let (now_ms, life_ms) = (shared.clock.now_ms(), millis(claim_life(&shared.config)));
    let until_ms = held.get(&hook.id).map_or(0, |held| held.until_ms.load(Relaxed));
    let is_to_renew = until_ms < now_ms + life_ms * 2 / 3;
    let Claim { holder, life, until_ms: theirs_ms } = &hook.claim;
    let is_free = *theirs_ms <= now_ms || (*holder == shared.holder && *life <= shared.life);
    if !is_to_renew || (until_ms == 0 && !is_free) {
        return Ok(());
    }
    let claim = shared.claim(now_ms + life_ms);
    let id = hook.id;
    if !shared.ledger.claim_hook(id, &claim, now_ms).await? {
        // Another router, or a later life of this one, was faster.
        if let Some(held) = held.get(&id) {
            held.stop.cancel();
        }
        return Ok(());
    }
    match held.get(&id) {
        Some(held) => held.until_ms.store(claim.until_ms, Relaxed),
        None => {
            let (until_ms, stop) = (Arc::new(AtomicU64::new(claim.until_ms)), CancellationToken::new());
            let holder = Holder::new(shared, hook, Arc::clone(&until_ms), stop.clone());
            held.insert(id, Held { until_ms, stop, task: AbortOnDropHandle::new(tokio::spawn(holder.run())) });
        }
    }
    Ok(())
}

impl Shared {
    fn claim(&self, until_ms: u64) -> Claim {
        Claim { holder: self.holder.clone(), life: self.life, until_ms }
    }

    /// Deletes what nobody needs, and gives up what waits for receivers that are gone.
    async fn purge(&self) {
        let until = Instant::now() + PURGE_FOR;
        let purged = async {
            let now_ms = self.clock.now_ms();
            // Those that have no holder any more, who would do it himself.
            let is_left = |hook: &Hook| hook.is_gone && hook.claim.until_ms <= now_ms;
            for hook in self.ledger.hooks().all().into_iter().filter(is_left) {
                self.give_up(hook.id, PURGES_PER_LOOK, Some(until)).await?;
            }
            let before_ms = now_ms.saturating_sub(millis(self.config.keep_given_up));
            for _ in 0..PURGES_PER_LOOK {
                let started = Instant::now();
                if !self.ledger.purge_hooks(before_ms).await? || self.stop.is_cancelled() || Instant::now() >= until {
                    break;
                }
                rest(started).await;
            }
            Ok::<_, RecordError>(())
        };
        if let Err(error) = purged.await {
            away("deleting what is left of webhooks", &error);
        }
    }

    /// Gives up what waits for a receiver that is gone, by so many transactions at most. Of more than are kept, the oldest are deleted.
    async fn give_up(&self, hook: WebhookId, turns_max: usize, until: Option<Instant>) -> Result<(), RecordError> {
        let mut beyond = self.ledger.last_beyond_kept(hook).await?;
        for _ in 0..turns_max {
            let started = Instant::now();
            if self.stop.is_cancelled() || until.is_some_and(|until| started >= until) {
                break;
            }
            let count = match beyond {
                Some(last) => self.ledger.delete_waiting(hook, last).await?,
                None => self.ledger.expire_events(hook, u64::MAX, &[], self.clock.now_ms()).await?,
            };
            self.metrics.given_up.inc_by(count as u64);
            match (count, beyond) {
                (0, None) => break,
                (0, Some(_)) => beyond = None,
                (_, _) => rest(started).await,
            }
        }
        Ok(())
    }
}

/// Leaves the records to others after a transaction that was begun then.
async fn rest(started: Instant) {
    sleep((started.elapsed() * GAP_TIMES).clamp(SETTLE_GAP, GAP_MAX)).await;
}

/// Stores what visits have settled.
pub(super) struct Settler {
    pub(super) ledger: Ledger,
    pub(super) clock: Clock,
    pub(super) settlings: mpsc::Receiver<Settling>,
    pub(super) cut: CancellationToken,
}

impl Settler {
    /// In the order they say so, until nobody can say anything any more.
    pub(super) async fn run(mut self) {
        while let Some(Settling { mut settled, stored }) = self.settlings.recv().await {
            let mut waiting = vec![stored];
            while settled.len() + EVENTS_PER_VISIT <= ROWS_PER_SETTLING {
                let Ok(next) = self.settlings.try_recv() else { break };
                settled.extend(next.settled);
                waiting.push(next.stored);
            }
            let mut started = Instant::now();
            while let Err(error) = self.ledger.settle_events(&settled, self.clock.now_ms()).await {
                away("settling events", &error);
                // What is not stored is delivered again by whoever holds the hook then.
                tokio::select! {
                    () = sleep(LOOK_AGAIN) => {}
                    () = self.cut.cancelled() => return,
                }
                started = Instant::now();
            }
            for stored in waiting {
                stored.send(()).ok();
            }
            rest(started).await;
        }
    }
}

/// Who sends the events of one hook.
struct Holder {
    line: Arc<Line>,
    ready: VecDeque<Lane>,
    visits: JoinSet<()>,
    /// Whether it is counted among those that have something to send.
    is_busy: bool,
    /// Waits for a place among those of all hooks, where none was free; who has waited for longest comes first.
    turn: Option<Turn>,
    /// One that it has waited for.
    place: Option<OwnedSemaphorePermit>,
    looked: Instant,
    look_at: Instant,
    status: HookStatus,
}

type Turn = Pin<Box<dyn Future<Output = Result<OwnedSemaphorePermit, AcquireError>> + Send>>;

/// What the visits of one hook share.
struct Line {
    shared: Arc<Shared>,
    hook: Hook,
    until_ms: Arc<AtomicU64>,
    stop: CancellationToken,
    /// None: it cannot be called as it is registered, and every try says why.
    endpoint: Result<Endpoint, String>,
    key: SigningKey,
    desk: Mutex<Desk>,
    status: Mutex<HookStatus>,
}

impl Holder {
    fn new(shared: &Arc<Shared>, hook: Hook, until_ms: Arc<AtomicU64>, stop: CancellationToken) -> Self {
        let config = &shared.config;
        let policy = Policy {
            lanes_max: config.calls_per_hook_max,
            retry_max_ms: millis(config.retry_max),
            give_up_after_ms: millis(config.give_up_after),
        };
        let endpoint = endpoint(&hook.url, config);
        let (key, status) = (SigningKey::new(hook.secret.as_bytes()), hook.status.clone());
        let line = Line {
            shared: Arc::clone(shared),
            until_ms,
            stop,
            endpoint,
            key,
            desk: Mutex::new(Desk::new(policy)),
            status: Mutex::new(status.clone()),
            hook,
        };
        let now = Instant::now();
        let (ready, visits) = (VecDeque::new(), JoinSet::new());
        Self { line: Arc::new(line), ready, visits, is_busy: false, turn: None, place: None, looked: now, look_at: now, status }
    }

    async fn run(mut self) {
        let (shared, id) = (Arc::clone(&self.line.shared), self.line.hook.id);
        info!(webhook = %id, "sends the events of a webhook");
        let mut written = shared.ledger.hooks().written();
        let mut counts = crate::housekeeping::every(TURN_EVERY);
        while self.line.may_begin() {
            self.begin().await;
            let wake = self.wake_at();
            // Cancel-safe, each: a visit that has ended is there until it is taken, the others say no more than "look".
            tokio::select! {
                Some(_) = self.visits.join_next(), if !self.visits.is_empty() => self.look_soon(),
                changed = written.changed() => match changed {
                    Ok(()) => self.look_soon(),
                    Err(_) => break,
                },
                place = async { self.turn.as_mut()?.await.ok() }, if self.turn.is_some() => (self.turn, self.place) = (None, place),
                _ = counts.tick() => self.count().await,
                () = sleep_until(wake) => {}
                () = self.line.stop.cancelled() => break,
                () = shared.stop.cancelled() => break,
            }
        }
        (self.turn, self.place) = (None, None);
        // They end with the call under way.
        while self.visits.join_next().await.is_some() {}
        self.set_busy(false);
        self.count().await;
        shared.metrics.fares(id, None);
        info!(webhook = %id, "no longer sends the events of a webhook");
    }

    /// Begins as many lanes as there are places for.
    async fn begin(&mut self) {
        let now_ms = self.line.shared.clock.now_ms();
        let places = self.line.desk().places(now_ms);
        if places > 0 && self.ready.is_empty() && Instant::now() >= self.look_at {
            self.look(now_ms).await;
        }
        let at_work = self.line.desk().at_work().count();
        self.set_busy(at_work > 0 || (places > 0 && !self.ready.is_empty()));
        for _ in 0..places.min(self.share().saturating_sub(at_work)) {
            let Some(lane) = self.ready.pop_front() else { break };
            let Some(place) = self.take_place() else {
                self.ready.push_front(lane);
                return;
            };
            if self.line.desk().begin(lane) {
                let line = Arc::clone(&self.line);
                self.visits.spawn(async move {
                    line.visit(lane).await;
                    drop(place);
                });
            }
        }
        // It has all it may have: the next place is another's.
        (self.turn, self.place) = (None, None);
    }

    /// How many of the calls of all hooks are this one's.
    fn share(&self) -> usize {
        let shared = &self.line.shared;
        (shared.config.calls_max / shared.busy.load(Relaxed).max(1)).max(1)
    }

    /// A place among those of all hooks; else it waits for one.
    fn take_place(&mut self) -> Option<OwnedSemaphorePermit> {
        let calls = &self.line.shared.calls;
        if let Some(place) = self.place.take() {
            return Some(place);
        }
        // Gives none that somebody waits for.
        match Arc::clone(calls).try_acquire_owned() {
            Ok(place) => Some(place),
            Err(_) => {
                self.turn.get_or_insert_with(|| Box::pin(Arc::clone(calls).acquire_owned()));
                None
            }
        }
    }

    fn set_busy(&mut self, is_busy: bool) {
        let busy = &self.line.shared.busy;
        if is_busy && !self.is_busy {
            busy.fetch_add(1, Relaxed);
        } else if self.is_busy && !is_busy {
            busy.fetch_sub(1, Relaxed);
        }
        self.is_busy = is_busy;
    }

    async fn look(&mut self, now_ms: u64) {
        self.looked = Instant::now();
        let (shared, id) = (&self.line.shared, self.line.hook.id);
        // Before it is looked: what a lane at work stores meanwhile, it may not have seen.
        let at_work: Vec<Lane> = self.line.desk().at_work().collect();
        match shared.ledger.due_lanes(id, now_ms, LANES_PER_LOOK).await {
            Ok(lanes) => {
                let is_full = lanes.len() == LANES_PER_LOOK;
                self.look_at = self.looked + if is_full { LOOK_GAP } else { LOOK_EVERY };
                self.ready = lanes.into_iter().filter(|lane| !at_work.contains(lane)).collect();
            }
            Err(error) => {
                away("looking for events to send", &error);
                self.look_at = self.looked + LOOK_AGAIN;
            }
        }
    }

    fn look_soon(&mut self) {
        self.look_at = self.look_at.min(self.looked + LOOK_GAP);
    }

    /// When there is something to be done, if nothing happens before.
    fn wake_at(&self) -> Instant {
        let desk = self.line.desk();
        let now_ms = self.line.shared.clock.now_ms();
        if desk.places(now_ms) == 0 {
            let pause = self.line.shared.clock.instant(desk.paused_until_ms());
            // A place comes free with a visit that ends.
            return pause.max(Instant::now() + LOOK_EVERY);
        }
        // Places that other hooks have come free without a word.
        if self.ready.is_empty() { self.look_at } else { Instant::now() + LOOK_GAP }
    }

    /// Counts what waits, and tells how the hook fares. Of a receiver that accepts nothing, what is too old is given up without a try; else
    /// every event has one, also behind another that nobody took.
    async fn count(&mut self) {
        let (shared, id) = (&self.line.shared, self.line.hook.id);
        let counted = async {
            let (waiting, oldest_ms) = shared.ledger.count_events(id, shared.config.events_max + 1).await?;
            let now_ms = shared.clock.now_ms();
            let before_ms = now_ms.saturating_sub(millis(shared.config.give_up_after));
            let is_away = self.line.desk().is_away();
            if is_away && waiting > 0 && oldest_ms < before_ms {
                let at_work: Vec<Lane> = self.line.desk().at_work().collect();
                let count = shared.ledger.expire_events(id, before_ms, &at_work, now_ms).await?;
                shared.metrics.given_up.inc_by(count as u64);
            }
            let status = HookStatus { waiting, oldest_ms, ..self.line.status().clone() };
            if status != self.status {
                shared.ledger.report_hook(id, &shared.claim(0), &status).await?;
            }
            let oldest_s = if waiting == 0 { 0 } else { now_ms.saturating_sub(oldest_ms) / 1_000 };
            shared.metrics.fares(id, Some(Fares { waiting, oldest_s, is_away }));
            Ok::<_, RecordError>(status)
        };
        match counted.await {
            Ok(status) => self.status = status,
            Err(error) => away("counting events", &error),
        }
    }
}

fn away(what: &'static str, error: &RecordError) {
    if let Some(more_before) = AWAY.may_say(what) {
        warn!(error = error as &dyn std::error::Error, what, more_before, "the records do not answer to webhooks; tried again");
    }
}

/// The server of a hook, or why it is not called.
fn endpoint(url: &str, config: &WebhooksConfig) -> Result<Endpoint, String> {
    let endpoint = Endpoint::parse(url).map_err(|error| told(&error))?;
    if !endpoint.is_encrypted() && config.allow_http != Some(true) {
        return Err("it is called by http, and `webhooks.allow_http` is not set".to_owned());
    }
    Ok(endpoint)
}

impl Line {
    /// Whether another call may be begun: it will have ended before another router may call.
    fn may_begin(&self) -> bool {
        let shared = &self.shared;
        let ends_ms = shared.clock.now_ms() + millis(shared.config.timeout + CALL_SPARE);
        let is_over = self.stop.is_cancelled() || shared.stop.is_cancelled() || ends_ms > self.until_ms.load(Relaxed);
        !is_over && shared.ledger.hooks().is_active(self.hook.id)
    }

    /// Sends some events of a lane, one after the other.
    async fn visit(&self, lane: Lane) {
        match self.shared.ledger.events_of(self.hook.id, lane, EVENTS_PER_VISIT).await {
            Ok(events) => self.work_off(Visit::new(events)).await,
            Err(error) => {
                away("reading events to send", &error);
                // The lane is found again at once.
                sleep(LOOK_AGAIN).await;
            }
        }
        self.desk().end(lane);
    }

    async fn work_off(&self, mut visit: Visit) {
        let mut is_gone = false;
        let since = Instant::now();
        while let Some(event) = visit.current().filter(|_| self.may_begin()) {
            // Cancel-safe: a call that is broken off is begun again by the next holder.
            let said = tokio::select! {
                said = self.call(event) => said,
                () = self.shared.cut.cancelled() => break,
            };
            let now_ms = self.shared.clock.now_ms();
            self.note(&said, now_ms);
            let then = self.desk().on_answer(&mut visit, said, now_ms, fastrand::f64());
            match then {
                Then::Next if since.elapsed() < SETTLE_WITHIN => {}
                // Its place may be another hook's turn.
                Then::Next | Then::Wait => break,
                Then::Disable => {
                    is_gone = true;
                    break;
                }
            }
        }
        self.store(visit.take_settled()).await;
        if is_gone {
            self.disable().await;
        }
    }

    async fn disable(&self) {
        let id = self.hook.id;
        warn!(webhook = %id, "the receiver of a webhook says that it is gone (410); it is called no more");
        self.stop.cancel();
        if let Err(error) = self.shared.ledger.disable_hook(id, GONE).await {
            // Whoever claims it next hears the same.
            return away("disabling a webhook", &error);
        }
        // Nobody waits for these any more. What is left, the keeper gives up.
        if let Err(error) = self.shared.give_up(id, usize::MAX, None).await {
            away("giving up events", &error);
        }
    }

    /// Returns when it is in the records, or will not be by this process.
    async fn store(&self, settled: Vec<Settled>) {
        if settled.is_empty() {
            return;
        }
        let given_up = settled.iter().filter(|settled| matches!(settled, Settled::GivenUp { .. })).count();
        let (stored, is_stored) = oneshot::channel();
        if self.shared.settling.send(Settling { settled, stored }).await.is_ok() && is_stored.await.is_ok() {
            self.shared.metrics.given_up.inc_by(given_up as u64);
        }
    }

    /// One call.
    async fn call(&self, event: &HookEvent) -> Said {
        let started = Instant::now();
        let (said, result) = match &self.endpoint {
            Ok(endpoint) => self.post(endpoint, event).await,
            Err(problem) => (Said::Failed { problem: problem.clone(), retry_after: None }, NO_ANSWER),
        };
        self.shared.metrics.tried(result, started.elapsed());
        said
    }

    async fn post(&self, endpoint: &Endpoint, event: &HookEvent) -> (Said, &'static str) {
        let config = &self.shared.config;
        let body = event.body.clone().into_bytes();
        let signature = self.key.sign(&body, second_of_wall());
        let tries = event.tries.saturating_add(1).to_string();
        let headers = [(HEADER, &*signature), (EVENT, &*event.name()), (EVENT_ID, &*event.id), (TRY, &*tries), ("user-agent", AGENT)];
        let reach = if config.allow_private == Some(true) { Reach::Anywhere } else { Reach::Public };
        match endpoint.call(body, &headers, reach, config.timeout).await {
            Ok(answer) if (200..300).contains(&answer.status) => (Said::Accepted, ACCEPTED),
            Ok(answer) if answer.status == 410 => (Said::Gone, REFUSED),
            Ok(answer) => {
                let problem = format!("the receiver answered {}", answer.status);
                (Said::Failed { problem, retry_after: answer.retry_after }, REFUSED)
            }
            Err(
                error @ (CallError::TooSlow(_)
                | CallError::Connect(_)
                | CallError::Broken(_)
                | CallError::NotPublic
                | CallError::Unwritable(_)),
            ) => (Said::Failed { problem: told(&error), retry_after: None }, NO_ANSWER),
        }
    }

    fn note(&self, said: &Said, now_ms: u64) {
        let mut status = self.status();
        match said {
            Said::Accepted => status.delivered_ms = now_ms,
            Said::Gone => (status.failed_ms, status.problem) = (now_ms, GONE.to_owned()),
            Said::Failed { problem, .. } => (status.failed_ms, status.problem) = (now_ms, problem.clone()),
        }
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn status(&self) -> MutexGuard<'_, HookStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What receivers compare with their own clock. The node's goes on evenly from where it began, also where the machine's was put right since.
fn second_of_wall() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// An error with what has caused it, in one line.
fn told(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
