//! Webhooks in the records: who is told of what, the events that wait, and what was given up.
//!
//! - An event is written by the transaction of what it tells, one row for each hook that wants it; where none does, nothing is. Which hooks
//!   there are each router remembers and reads again every second, so a new one hears of what happens elsewhere from then on.
//! - At most so many wait for one hook. Beyond it an event is not kept, and counted: what it tells is never held up by who is to hear it.
//! - Of one lane the ids rise as the transactions end: whoever writes about a room has its row locked.
//! - One router holds a hook, by a claim that runs out. Whoever held it before changes nothing that matters: an event that it delivered is
//!   delivered, and one that it tried is tried again.
//!
//! Nothing is sent here, and a secret leaves by [`Hook`] alone, whose `Debug` does not show it.

use super::{
    Ledger,
    database::{self, Call, Param, params},
    signed,
    statements::{self, BY_KEY, LOCKED, marks, rows_of},
    unsigned,
};
use crate::{
    services::ports::{RecordError, Result},
    webhooks::event::{self, EventKind, EventKinds, Lane, NewEvent},
};
use arc_swap::ArcSwapOption;
use billfish_state::{AppId, Quiet};
use prometheus_client::metrics::counter::Counter;
use sqlx::AssertSqlSafe;
use std::{
    borrow::Cow,
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
};
use tokio::sync::watch;
use tracing::warn;

/// Lines about rows that cannot be read.
static UNREADABLE: Quiet = Quiet::new();

/// Id of a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct WebhookId(pub(crate) i64);

impl fmt::Display for WebhookId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// Hooks of all apps together: every router remembers them, and reads them every second.
pub(crate) const HOOKS_MAX: usize = 256;
/// Events that wait for one hook, unless its sender says otherwise.
pub(crate) const EVENTS_MAX: u64 = 100_000;
/// Events that were given up, of one hook, that are kept: the newest.
pub(crate) const GIVEN_UP_MAX: i64 = 10_000;
/// Rows deleted by one transaction: some milliseconds.
pub(crate) const ROWS_PER_TURN: usize = 500;
/// Rows given up by one: the same, for their bodies are written anew.
pub(crate) const ROWS_PER_MOVE: usize = 100;
/// Characters of a problem.
const PROBLEM_CHARS_MAX: usize = 200;
/// Rows in one statement.
const ROWS_PER_STATEMENT: usize = 500;
/// How often a transaction begins that others overtake.
const TRIES_MAX: u32 = 5;

/// `state` of a hook.
const ACTIVE: i64 = 1;
const DISABLED: i64 = 2;

/// A hook: a row of `t_webhook`.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Hook {
    pub(crate) id: WebhookId,
    pub(crate) app: AppId,
    pub(crate) url: String,
    pub(crate) events: EventKinds,
    pub(crate) secret: String,
    /// Whether anything is written for it and sent.
    pub(crate) is_active: bool,
    /// Whether its receiver has said that it is gone. One that is neither is in a state of a later version, which sends.
    pub(crate) is_gone: bool,
    pub(crate) made_ms: u64,
    /// Who sends, until when.
    pub(crate) claim: Claim,
    pub(crate) status: HookStatus,
}

/// A router's right to send the events of a hook.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Claim {
    /// Its name; empty: nobody's.
    pub(crate) holder: String,
    /// Which life of it.
    pub(crate) life: u64,
    pub(crate) until_ms: u64,
}

/// How a hook fares, as its holder has said last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HookStatus {
    pub(crate) waiting: u64,
    /// When the event was made that waits for longest; 0: none waits.
    pub(crate) oldest_ms: u64,
    pub(crate) dropped: u64,
    pub(crate) delivered_ms: u64,
    pub(crate) failed_ms: u64,
    pub(crate) problem: String,
}

/// Shows no secret.
impl fmt::Debug for Hook {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Hook").field("id", &self.id).field("app", &self.app).field("status", &self.status).finish_non_exhaustive()
    }
}

/// A hook to be registered.
#[derive(Clone)]
pub(crate) struct NewHook {
    pub(crate) app: AppId,
    pub(crate) url: String,
    pub(crate) events: EventKinds,
    pub(crate) secret: String,
}

/// An event that waits: a row of `t_webhook_event`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HookEvent {
    pub(crate) row: i64,
    pub(crate) lane: Lane,
    pub(crate) id: String,
    /// None: a later version has written it.
    pub(crate) kind: Option<EventKind>,
    pub(crate) body: String,
    pub(crate) made_ms: u64,
    /// Tries that have failed.
    pub(crate) tries: u32,
}

impl HookEvent {
    /// The name of its kind; of one that is not known here, as its body has it.
    pub(crate) fn name(&self) -> Cow<'static, str> {
        self.kind.map_or_else(|| event::name_in(&self.body).unwrap_or_default().into(), |kind| kind.name().into())
    }
}

/// What has become of an event that was tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Settled {
    /// Accepted: it waits no longer.
    Delivered { row: i64 },
    /// To be tried again, not before `due_ms`.
    Again { row: i64, tries: u32, due_ms: u64, problem: String },
    /// Not tried again.
    GivenUp { row: i64, tries: u32, problem: String },
}

/// An event that was given up: a row of `t_webhook_given_up`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GivenUp {
    pub(crate) row: i64,
    pub(crate) id: String,
    pub(crate) kind: EventKind,
    pub(crate) body: String,
    pub(crate) made_ms: u64,
    pub(crate) end_ms: u64,
    pub(crate) tries: u32,
    pub(crate) problem: String,
}

/// What a router remembers of the hooks; clones of a ledger share it.
#[derive(Debug)]
pub(crate) struct Hooks {
    /// None until they have been read.
    known: ArcSwapOption<Vec<Known>>,
    /// Readings that were begun: the number of the last one.
    readings: AtomicU64,
    /// Which of them is known.
    stored: Mutex<u64>,
    /// Events that may wait for one hook.
    events_max: AtomicU64,
    /// Rises when events may have been written.
    written: watch::Sender<u64>,
    /// Rises when hooks were registered or removed here.
    changed: watch::Sender<u64>,
    /// Events that were not kept, by hook, and stand nowhere yet.
    dropped: Mutex<BTreeMap<WebhookId, u64>>,
    /// `router_webhook_events_total`
    pub(crate) written_total: Counter,
    /// `router_webhook_dropped_total{reason="full"}`
    pub(crate) dropped_total: Counter,
}

#[derive(Debug)]
struct Known {
    hook: Hook,
    /// Events that may still be written, until somebody counts again.
    room: Arc<AtomicI64>,
}

/// What a transaction has written for hooks, or not, so far.
#[derive(Debug, Default)]
pub(super) struct Told(BTreeMap<WebhookId, ToldOne>);

#[derive(Debug, Default)]
struct ToldOne {
    written: i64,
    dropped: u64,
}

impl Default for Hooks {
    fn default() -> Self {
        Self {
            known: ArcSwapOption::empty(),
            readings: AtomicU64::new(0),
            stored: Mutex::new(0),
            events_max: AtomicU64::new(EVENTS_MAX),
            written: watch::Sender::new(0),
            changed: watch::Sender::new(0),
            dropped: Mutex::default(),
            written_total: Counter::default(),
            dropped_total: Counter::default(),
        }
    }
}

impl Hooks {
    /// Whether a hook of the app wants such events. Those that have not been read want nothing: see [`Hooks::load`].
    pub(crate) fn wants(&self, app: AppId, kind: EventKind) -> bool {
        self.known.load().as_ref().is_some_and(|known| known.iter().any(|known| known.wants(app, kind)))
    }

    /// Whether a hook of any app does.
    pub(super) fn want(&self, kind: EventKind) -> bool {
        self.known.load().as_ref().is_some_and(|known| known.iter().any(|known| known.hook.is_active && known.hook.events.has(kind)))
    }

    /// Reads them, where nobody has yet.
    pub(super) async fn load(&self, call: &mut Call) -> Result<()> {
        if self.known.load().is_none() {
            let hooks = read_hooks(call).await?;
            // The transaction may see what was before it began: whatever else was read is newer.
            self.set(0, &hooks);
        }
        Ok(())
    }

    /// Writes events, in their order, for each hook that wants them: by the transaction of what they tell. What that comes to counts once the
    /// transaction has ended well: see [`Hooks::committed`].
    pub(super) async fn write(&self, call: &mut Call, told: &mut Told, events: impl IntoIterator<Item = NewEvent>) -> Result<()> {
        let known = self.known.load_full();
        let Some(known) = known.filter(|known| !known.is_empty()) else { return Ok(()) };
        let mut rows = Vec::new();
        let events: Vec<NewEvent> = events.into_iter().collect();
        for event in &events {
            for known in known.iter().filter(|known| known.wants(event.app, event.kind)) {
                let of = told.0.entry(known.hook.id).or_default();
                if known.room.load(Relaxed) > of.written {
                    of.written += 1;
                    rows.push((known.hook.id, event));
                } else {
                    of.dropped += 1;
                }
            }
        }
        for chunk in rows.chunks(ROWS_PER_STATEMENT) {
            let put = rows_of(
                "INSERT INTO t_webhook_event (hook_id, lane, event_id, kind, body, made_time, tries, due_time, problem) VALUES",
                "(?, ?, ?, ?, ?, ?, 0, 0, '')",
                chunk.len(),
            );
            let mut params: Vec<Param<'_>> = Vec::with_capacity(6 * chunk.len());
            for (hook, event) in chunk {
                params.extend([hook.0.into(), event.lane.0.into(), (&event.id).into(), event.kind.bit().into(), (&event.body).into()]);
                params.push(signed(event.at_ms).into());
            }
            call.execute(put, &params).await?;
        }
        Ok(())
    }

    /// A transaction has ended well: what it has written counts, and whoever sends looks for it.
    pub(super) fn committed(&self, told: &Told) {
        if told.0.is_empty() {
            return;
        }
        let known = self.known.load();
        for (hook, of) in &told.0 {
            if let Some(known) = known.iter().flat_map(|known| known.iter()).find(|known| known.hook.id == *hook) {
                known.room.fetch_sub(of.written, Relaxed);
            }
            self.written_total.inc_by(of.written.unsigned_abs());
            if of.dropped > 0 {
                *self.dropped().entry(*hook).or_default() += of.dropped;
                self.dropped_total.inc_by(of.dropped);
            }
        }
        self.written.send_modify(|times| *times = times.wrapping_add(1));
    }

    /// Changes when events may have been written here.
    pub(crate) fn written(&self) -> watch::Receiver<u64> {
        self.written.subscribe()
    }

    /// Changes when hooks were registered or removed here.
    pub(crate) fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// The hooks, as they were read last.
    pub(crate) fn all(&self) -> Vec<Hook> {
        self.known.load().as_ref().map_or_else(Vec::new, |known| known.iter().map(|known| known.hook.clone()).collect())
    }

    /// Whether a hook is there and active, as far as this router knows.
    pub(crate) fn is_active(&self, hook: WebhookId) -> bool {
        self.known.load().as_ref().is_some_and(|known| known.iter().any(|known| known.hook.id == hook && known.hook.is_active))
    }

    /// From now on so many events wait for one webhook at most, of those that have been read already too.
    pub(crate) fn bound(&self, events_max: u64) {
        let _nobody_sets = self.stored.lock().unwrap_or_else(PoisonError::into_inner);
        let more = signed(events_max) - signed(self.events_max.swap(events_max, Relaxed));
        for known in self.known.load().iter().flat_map(|known| known.iter()) {
            known.room.fetch_add(more, Relaxed);
        }
    }

    /// Whoever reads says so first. What he finds has everything that was committed until then.
    pub(super) fn begin_reading(&self) -> u64 {
        self.readings.fetch_add(1, Relaxed) + 1
    }

    /// Remembers what a reading has found, unless a later one was faster.
    pub(super) fn set(&self, reading: u64, hooks: &[Hook]) {
        let mut stored = self.stored.lock().unwrap_or_else(PoisonError::into_inner);
        if reading < *stored {
            return;
        }
        *stored = reading;
        let max = signed(self.events_max.load(Relaxed));
        let former = self.known.load_full();
        let known = hooks.iter().map(|hook| {
            let former = former.iter().flat_map(|known| known.iter()).find(|former| former.counts_as(hook));
            // Of whom nobody has counted anew, what was written since then still counts.
            let room =
                former.map_or_else(|| Arc::new(AtomicI64::new(max - signed(hook.status.waiting))), |former| Arc::clone(&former.room));
            Known { hook: hook.clone(), room }
        });
        self.known.store(Some(Arc::new(known.collect())));
    }

    fn dropped(&self) -> MutexGuard<'_, BTreeMap<WebhookId, u64>> {
        self.dropped.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Whether nothing has changed since its events were counted.
    fn counts_as(&self, hook: &Hook) -> bool {
        let of = |status: &HookStatus| (status.waiting, status.oldest_ms, status.delivered_ms, status.failed_ms);
        self.hook.id == hook.id && of(&self.hook.status) == of(&hook.status)
    }

    fn wants(&self, app: AppId, kind: EventKind) -> bool {
        self.hook.is_active && self.hook.app == app && self.hook.events.has(kind)
    }
}

type HookRow = (i64, i32, String, i64, String, i64, i64, String, i64, i64, i64, i64, i64, i64, i64, String);

async fn read_hooks(call: &mut Call) -> Result<Vec<Hook>> {
    const READ: &str = "SELECT id, app_id, url, events, secret, state, made_time, holder, holder_life, holder_until, waiting, oldest_time, \
                        dropped, delivered_time, failed_time, problem FROM t_webhook ORDER BY id LIMIT ?";
    let rows: Vec<HookRow> = call.rows(READ, params![signed(HOOKS_MAX as u64)]).await?;
    // What a gift waits for must not fail with it: a row that cannot be read is left out, and nothing is written for it.
    Ok(rows.into_iter().filter_map(|row| hook(row).inspect_err(unreadable).ok()).collect())
}

fn unreadable(error: &RecordError) {
    if let Some(more_before) = UNREADABLE.may_say("a webhook") {
        warn!(error = error as &dyn std::error::Error, more_before, "a webhook cannot be read; nothing is told to it");
    }
}

fn hook(row: HookRow) -> Result<Hook> {
    let (id, app, url, events, secret, state, made, holder, life, until, waiting, oldest, dropped, delivered, failed, problem) = row;
    if ![ACTIVE, DISABLED].contains(&state) {
        unreadable(&RecordError::Unreadable { what: format!("state of webhook {id} is {state}") });
    }
    Ok(Hook {
        id: WebhookId(id),
        app: AppId(app),
        url,
        events: EventKinds::from_bits(events),
        secret,
        is_active: state == ACTIVE,
        is_gone: state == DISABLED,
        made_ms: unsigned(made, "made_time")?,
        claim: Claim { holder, life: unsigned(life, "holder_life")?, until_ms: unsigned(until, "holder_until")? },
        status: HookStatus {
            waiting: unsigned(waiting, "waiting")?,
            oldest_ms: unsigned(oldest, "oldest_time")?,
            dropped: unsigned(dropped, "dropped")?,
            delivered_ms: unsigned(delivered, "delivered_time")?,
            failed_ms: unsigned(failed, "failed_time")?,
            problem,
        },
    })
}

impl Ledger {
    /// What this router remembers of the hooks.
    pub(crate) fn hooks(&self) -> &Arc<Hooks> {
        &self.hooks
    }

    /// Reads the hooks anew.
    pub(crate) async fn refresh_hooks(&self) -> Result<Vec<Hook>> {
        let what = "reading the webhooks";
        let reading = self.hooks.begin_reading();
        let mut call = self.guarded(what)?.read(what, self.call_timeout).await?;
        let hooks = read_hooks(&mut call).await?;
        call.finish();
        self.hooks.set(reading, &hooks);
        Ok(hooks)
    }

    /// Registers a hook, unless its app has `of_app_max`, or all together [`HOOKS_MAX`].
    pub(crate) async fn add_hook(&self, new: &NewHook, of_app_max: usize, now_ms: u64) -> Result<Option<Hook>> {
        const COUNT: &str = "SELECT COUNT(*), COUNT(CASE WHEN app_id = ? THEN 1 END) FROM t_webhook";
        const INSERT: &str = "INSERT INTO t_webhook (app_id, url, events, secret, state, made_time, holder, holder_life, holder_until, waiting, \
                              oldest_time, dropped, delivered_time, failed_time, problem) \
                              VALUES (?, ?, ?, ?, 1, ?, '', 0, 0, 0, 0, 0, 0, 0, '')";
        let NewHook { app, url, events, secret } = new.clone();
        let mut call = self.transaction("registering a webhook").await?;
        // One at a time, so that none is counted by nobody.
        let one = AssertSqlSafe(format!("SELECT id FROM t_ledger WHERE one = 1 {LOCKED}"));
        let _turn: Option<(String,)> = call.row(one, &[]).await?;
        let (all, of_app) = count_hooks(&mut call, COUNT, app).await?;
        if all >= HOOKS_MAX || of_app >= of_app_max {
            call.commit().await?;
            return Ok(None);
        }
        let id = call.execute(INSERT, params![app.0, &url, events.bits(), &secret, signed(now_ms)]).await?.id;
        call.commit().await?;
        self.refresh_changed().await;
        let (claim, status) = (Claim::default(), HookStatus::default());
        Ok(Some(Hook { id: WebhookId(id), app, url, events, secret, is_active: true, is_gone: false, made_ms: now_ms, claim, status }))
    }

    /// Forgets a hook; one that is not there is no error. What waits for it goes later: see [`Ledger::purge_hooks`].
    pub(crate) async fn remove_hook(&self, hook: WebhookId) -> Result<()> {
        const REMOVE: &str = "DELETE FROM t_webhook WHERE id = ?";
        self.execute("removing a webhook", REMOVE, params![hook.0]).await?;
        self.refresh_changed().await;
        Ok(())
    }

    /// After hooks were registered or removed here. Should the records not answer, that is done all the same, and known a second later.
    async fn refresh_changed(&self) {
        self.refresh_hooks().await.ok();
        self.hooks.changed.send_modify(|times| *times = times.wrapping_add(1));
    }

    /// Takes or keeps the right to send a hook's events: where nobody has it, it has run out, or an earlier life of this router had it.
    pub(crate) async fn claim_hook(&self, hook: WebhookId, claim: &Claim, now_ms: u64) -> Result<bool> {
        const CLAIM: &str = "UPDATE t_webhook SET holder = ?, holder_life = ?, holder_until = ? \
                             WHERE id = ? AND state = 1 AND (holder_until <= ? OR (holder = ? AND holder_life <= ?))";
        let Claim { holder, life, until_ms } = claim;
        let (life, until, now) = (signed(*life), signed(*until_ms), signed(now_ms));
        let params = params![holder, life, until, hook.0, now, holder, life];
        Ok(self.execute("claiming a webhook", CLAIM, params).await? > 0)
    }

    /// Gives back what this life of a router holds.
    pub(crate) async fn release_hooks(&self, holder: &str, life: u64) -> Result<()> {
        const RELEASE: &str = "UPDATE t_webhook SET holder = '', holder_life = 0, holder_until = 0 WHERE holder = ? AND holder_life = ?";
        self.execute("giving webhooks back", RELEASE, params![holder, signed(life)]).await.map(drop)
    }

    /// Takes every hook from whoever holds it. For a process that has the records to itself: whoever it was is gone, however late its claim is
    /// by a clock that was put back since.
    pub(crate) async fn free_hooks(&self) -> Result<()> {
        const FREE: &str = "UPDATE t_webhook SET holder = '', holder_life = 0, holder_until = 0 WHERE holder <> ''";
        self.execute("freeing webhooks", FREE, &[]).await.map(drop)
    }

    /// Says how a hook fares; only its holder does. `dropped` is counted apart.
    pub(crate) async fn report_hook(&self, hook: WebhookId, claim: &Claim, status: &HookStatus) -> Result<()> {
        const REPORT: &str = "UPDATE t_webhook SET waiting = ?, oldest_time = ?, delivered_time = ?, failed_time = ?, problem = ? \
                              WHERE id = ? AND holder = ? AND holder_life = ?";
        let HookStatus { waiting, oldest_ms, delivered_ms, failed_ms, problem, .. } = status;
        let problem = shortened(problem);
        let [waiting, oldest, delivered, failed] = [*waiting, *oldest_ms, *delivered_ms, *failed_ms].map(signed);
        let params = params![waiting, oldest, delivered, failed, &*problem, hook.0, &claim.holder, signed(claim.life)];
        self.execute("telling how a webhook fares", REPORT, params).await.map(drop)
    }

    /// Adds what was dropped here since the last time to what stands in the records.
    pub(crate) async fn report_dropped(&self) -> Result<()> {
        const ADD: &str = "UPDATE t_webhook SET dropped = dropped + ? WHERE id = ?";
        let dropped = std::mem::take(&mut *self.hooks.dropped());
        for (hook, count) in dropped {
            if let Err(error) = self.execute("counting events that were dropped", ADD, params![signed(count), hook.0]).await {
                *self.hooks.dropped().entry(hook).or_default() += count;
                return Err(error);
            }
        }
        Ok(())
    }

    /// A receiver has said that it is gone: nothing is written for it or sent to it any more.
    pub(crate) async fn disable_hook(&self, hook: WebhookId, problem: &str) -> Result<()> {
        const DISABLE: &str = "UPDATE t_webhook SET state = 2, problem = ? WHERE id = ?";
        let problem = shortened(problem);
        self.execute("disabling a webhook", DISABLE, params![&*problem, hook.0]).await?;
        self.refresh_hooks().await.map(drop)
    }

    /// Keeps everybody from writing until what it gives is gone.
    #[cfg(test)]
    pub(crate) async fn hold_for_test(&self) -> Box<dyn std::any::Any + Send> {
        let mut call = self.database.transaction("a test", std::time::Duration::from_secs(60)).await.expect("nobody else writes");
        call.execute("UPDATE t_ledger SET one = 1", &[]).await.expect("it can be written");
        Box::new(call)
    }

    /// Writes events that no transaction of the records tells: users who come and go.
    pub(crate) async fn write_events(&self, events: Vec<NewEvent>) -> Result<()> {
        let mut call = self.transaction("storing events").await?;
        self.hooks.load(&mut call).await?;
        let mut told = Told::default();
        self.hooks.write(&mut call, &mut told, events).await?;
        call.commit().await?;
        self.hooks.committed(&told);
        Ok(())
    }

    /// Lanes of a hook whose first event is due, the one that waits for longest first.
    pub(crate) async fn due_lanes(&self, hook: WebhookId, now_ms: u64, limit: usize) -> Result<Vec<Lane>> {
        // A server skips from lane to lane by itself; SQLite would read every event that waits.
        const OF_SERVER: &str = "SELECT e.lane FROM (SELECT MIN(id) AS id FROM t_webhook_event WHERE hook_id = ? GROUP BY lane) AS first_of \
                                 JOIN t_webhook_event e ON e.id = first_of.id WHERE e.due_time <= ? ORDER BY e.id LIMIT ?";
        const OF_FILE: &str = "WITH RECURSIVE lanes (lane) AS (SELECT MIN(lane) FROM t_webhook_event WHERE hook_id = ?1 UNION ALL \
                               SELECT (SELECT MIN(n.lane) FROM t_webhook_event n WHERE n.hook_id = ?1 AND n.lane > lanes.lane) \
                               FROM lanes WHERE lanes.lane IS NOT NULL) \
                               SELECT e.lane FROM lanes CROSS JOIN t_webhook_event e \
                               ON e.id = (SELECT MIN(f.id) FROM t_webhook_event f WHERE f.hook_id = ?1 AND f.lane = lanes.lane) \
                               WHERE e.due_time <= ?2 ORDER BY e.id LIMIT ?3";
        let what = "looking for events to send";
        let mut call = self.guarded(what)?.read(what, self.call_timeout).await?;
        let due = if call.is_on_server() { OF_SERVER } else { OF_FILE };
        let rows: Vec<(i64,)> = call.rows(due, params![hook.0, signed(now_ms), signed(limit as u64)]).await?;
        call.finish();
        Ok(rows.into_iter().map(|(lane,)| Lane(lane)).collect())
    }

    /// The first events of a lane, in their order.
    pub(crate) async fn events_of(&self, hook: WebhookId, lane: Lane, limit: usize) -> Result<Vec<HookEvent>> {
        const READ: &str = "SELECT id, event_id, kind, body, made_time, tries FROM t_webhook_event WHERE hook_id = ? AND lane = ? \
                            ORDER BY id LIMIT ?";
        let params = params![hook.0, lane.0, signed(limit as u64)];
        let rows: Vec<(i64, String, i64, String, i64, i64)> = self.rows("reading events to send", READ, params).await?;
        let event = |(row, id, kind, body, made, tries)| {
            let (made_ms, tries) = (unsigned(made, "made_time")?, tries_of(tries));
            Ok(HookEvent { row, lane, id, kind: EventKind::from_bit(kind), body, made_ms, tries })
        };
        rows.into_iter().map(event).collect()
    }

    /// Says what has become of events, all in one transaction.
    pub(crate) async fn settle_events(&self, settled: &[Settled], now_ms: u64) -> Result<()> {
        self.change("settling events", Change::Settle(settled), now_ms).await
    }

    async fn change(&self, what: &'static str, change: Change<'_>, now_ms: u64) -> Result<()> {
        let mut call = self.transaction(what).await?;
        let mut tries = 1;
        loop {
            let changed = match change {
                Change::Settle(settled) => settle(&mut call, settled, now_ms).await,
                Change::Expire(rows) => expire(&mut call, rows, now_ms).await,
            };
            match changed {
                Ok(()) => return call.commit().await,
                Err(error) if tries < TRIES_MAX && database::is_contention(&error) => {
                    tries += 1;
                    call.begin_again().await?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// How many events wait for a hook, `limit` at most, and since when the first of them does (0: none waits).
    pub(crate) async fn count_events(&self, hook: WebhookId, limit: u64) -> Result<(u64, u64)> {
        const COUNT: &str = "SELECT COUNT(*), MIN(id) FROM (SELECT id FROM t_webhook_event WHERE hook_id = ? LIMIT ?) AS some_of";
        const MADE: &str = "SELECT made_time FROM t_webhook_event WHERE id = ?";
        let what = "counting events";
        let row: Option<(i64, Option<i64>)> = self.row(what, COUNT, params![hook.0, signed(limit)]).await?;
        let Some((count, Some(first))) = row else { return Ok((0, 0)) };
        let made: Option<(i64,)> = self.row(what, MADE, params![first]).await?;
        Ok((unsigned(count, "count")?, made.map_or(Ok(0), |(made,)| unsigned(made, "made_time"))?))
    }

    /// Gives up events of a hook that were made before `before_ms`, but none of these lanes; how many, [`ROWS_PER_MOVE`] at most. Those of a
    /// lane in their order.
    pub(crate) async fn expire_events(&self, hook: WebhookId, before_ms: u64, except: &[Lane], now_ms: u64) -> Result<usize> {
        let but = if except.is_empty() { String::new() } else { format!("AND lane NOT IN ({})", marks(except.len())) };
        // In the order of the index, for sorting what waits would be done again by every turn.
        let find = format!("SELECT id FROM t_webhook_event WHERE hook_id = ? AND made_time < ? {but} LIMIT ?");
        let mut params: Vec<Param<'_>> = vec![hook.0.into(), signed(before_ms).into()];
        params.extend(except.iter().map(|lane| Param::from(lane.0)));
        params.push(signed(ROWS_PER_MOVE as u64).into());
        let rows: Vec<(i64,)> = self.rows("looking for events that are too old", AssertSqlSafe(find), &params).await?;
        let rows: Vec<i64> = rows.into_iter().map(|(row,)| row).collect();
        if !rows.is_empty() {
            self.change("giving up events", Change::Expire(&rows), now_ms).await?;
        }
        Ok(rows.len())
    }

    /// Where more wait for a hook than are kept when they are given up: the newest of those that are too many.
    pub(crate) async fn last_beyond_kept(&self, hook: WebhookId) -> Result<Option<i64>> {
        const LAST: &str = "SELECT id FROM t_webhook_event WHERE hook_id = ? ORDER BY id DESC LIMIT 1 OFFSET ?";
        let row: Option<(i64,)> = self.row("looking for what is too much", LAST, params![hook.0, GIVEN_UP_MAX]).await?;
        Ok(row.map(|(last,)| last))
    }

    /// Deletes what waits for a hook up to a row, to be told to nobody and kept for nobody; how many, [`ROWS_PER_TURN`] at most.
    pub(crate) async fn delete_waiting(&self, hook: WebhookId, last: i64) -> Result<usize> {
        let rows = self.rows_of_hook(WAITING, hook.0, "AND id <= ?", Some(last)).await?;
        self.delete_rows(WAITING, &rows).await?;
        Ok(rows.len())
    }

    /// Events of a hook that were given up, the newest first, those before `before`; none of a kind that is not known here.
    pub(crate) async fn given_up_events(&self, hook: WebhookId, before: i64, limit: usize) -> Result<Vec<GivenUp>> {
        let kinds = EventKind::ALL.map(|kind| kind.bit().to_string()).join(", ");
        let read = format!(
            "SELECT id, event_id, kind, body, made_time, end_time, tries, problem FROM t_webhook_given_up \
             WHERE hook_id = ? AND id < ? AND kind IN ({kinds}) ORDER BY id DESC LIMIT ?"
        );
        type Row = (i64, String, i64, String, i64, i64, i64, String);
        let params = params![hook.0, before, signed(limit as u64)];
        let rows: Vec<Row> = self.rows("reading events that were given up", AssertSqlSafe(read), params).await?;
        let given_up = |(row, id, kind, body, made, end, tries, problem): Row| {
            let (made_ms, end_ms) = (unsigned(made, "made_time")?, unsigned(end, "end_time")?);
            Ok(GivenUp { row, id, kind: kind_of(kind)?, body, made_ms, end_ms, tries: tries_of(tries), problem })
        };
        rows.into_iter().map(given_up).collect()
    }

    /// Deletes what belongs to hooks that are gone, and what was given up before `before_ms` or is too much; some of it at a time. Whether
    /// there may be more.
    pub(crate) async fn purge_hooks(&self, before_ms: u64) -> Result<bool> {
        const THERE: &str = "SELECT id FROM t_webhook WHERE id = ?";
        let mut more = false;
        for table in [WAITING, GIVEN_UP] {
            let mut after = i64::MIN;
            while let Some(owner) = self.next_owner(table, after).await? {
                after = owner;
                // Asked for each, and after its rows were seen: it was registered before they were written.
                let there: Option<(i64,)> = self.row("looking for webhooks that are gone", THERE, params![owner]).await?;
                if there.is_none() {
                    let rows = self.rows_of_hook(table, owner, "", None).await?;
                    more |= rows.len() == ROWS_PER_TURN;
                    self.delete_rows(table, &rows).await?;
                }
            }
        }
        for hook in self.refresh_hooks().await?.into_iter().map(|hook| hook.id) {
            const LAST_KEPT: &str = "SELECT id FROM t_webhook_given_up WHERE hook_id = ? ORDER BY id DESC LIMIT 1 OFFSET ?";
            let old = self.rows_of_hook(GIVEN_UP, hook.0, "AND end_time < ?", Some(signed(before_ms))).await?;
            let beyond: Option<(i64,)> = self.row("looking for what is too much", LAST_KEPT, params![hook.0, GIVEN_UP_MAX]).await?;
            let too_many = match beyond {
                Some((last,)) => self.rows_of_hook(GIVEN_UP, hook.0, "AND id <= ?", Some(last)).await?,
                None => Vec::new(),
            };
            for rows in [old, too_many] {
                more |= rows.len() == ROWS_PER_TURN;
                self.delete_rows(GIVEN_UP, &rows).await?;
            }
        }
        Ok(more)
    }

    /// The next hook, by its id, that a table has rows of, whether it is there or not.
    async fn next_owner(&self, table: &'static str, after: i64) -> Result<Option<i64>> {
        let next = AssertSqlSafe(format!("SELECT MIN(hook_id) FROM {table} WHERE hook_id > ?"));
        let row: Option<(Option<i64>,)> = self.row("looking for rows of webhooks that are gone", next, params![after]).await?;
        Ok(row.and_then(|(owner,)| owner))
    }

    async fn rows_of_hook(&self, table: &'static str, hook: i64, which: &'static str, than: Option<i64>) -> Result<Vec<i64>> {
        let read = AssertSqlSafe(format!("SELECT id FROM {table} WHERE hook_id = ? {which} LIMIT ?"));
        let params: Vec<Param<'_>> =
            [Some(hook), than, Some(signed(ROWS_PER_TURN as u64))].into_iter().flatten().map(Param::from).collect();
        let rows: Vec<(i64,)> = self.rows("looking for rows to delete", read, &params).await?;
        Ok(rows.into_iter().map(|(row,)| row).collect())
    }

    async fn delete_rows(&self, table: &'static str, rows: &[i64]) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let mut call = self.transaction("deleting rows of webhooks").await?;
        delete(&mut call, table, rows).await?;
        call.commit().await
    }
}

const WAITING: &str = "t_webhook_event";
const GIVEN_UP: &str = "t_webhook_given_up";

async fn count_hooks(call: &mut Call, count: &'static str, app: AppId) -> Result<(usize, usize)> {
    let row: Option<(i64, i64)> = call.row(count, params![app.0]).await?;
    let (all, of_app) = row.unwrap_or_default();
    Ok((usize::try_from(all).unwrap_or(usize::MAX), usize::try_from(of_app).unwrap_or(usize::MAX)))
}

/// What one transaction does to events that wait.
#[derive(Clone, Copy)]
enum Change<'a> {
    Settle(&'a [Settled]),
    /// Gives these rows up, without a try.
    Expire(&'a [i64]),
}

async fn expire(call: &mut Call, rows: &[i64], now_ms: u64) -> Result<()> {
    let keep = format!(
        "INSERT INTO t_webhook_given_up (id, hook_id, event_id, kind, body, made_time, end_time, tries, problem) \
         SELECT id, hook_id, event_id, kind, body, made_time, ?, tries, problem FROM t_webhook_event {BY_KEY} WHERE id IN ({})",
        marks(rows.len())
    );
    let mut params: Vec<Param<'_>> = vec![signed(now_ms).into()];
    params.extend(rows.iter().map(|row| Param::from(*row)));
    // Whoever gives up the same at the same time has been faster, or will find it gone.
    call.claim(AssertSqlSafe(keep), &params).await?;
    delete(call, WAITING, rows).await
}

async fn settle(call: &mut Call, settled: &[Settled], now_ms: u64) -> Result<()> {
    const AGAIN: &str = "UPDATE t_webhook_event SET tries = ?, due_time = ?, problem = ? WHERE id = ?";
    const KEEP: &str = "INSERT INTO t_webhook_given_up (id, hook_id, event_id, kind, body, made_time, end_time, tries, problem) \
                        SELECT id, hook_id, event_id, kind, body, made_time, ?, ?, ? FROM t_webhook_event WHERE id = ?";
    let mut over = Vec::new();
    for settled in settled {
        match settled {
            Settled::Delivered { row } => over.push(*row),
            Settled::Again { row, tries, due_ms, problem } => {
                call.execute(AGAIN, params![i64::from(*tries), signed(*due_ms), &*shortened(problem), *row]).await?;
            }
            Settled::GivenUp { row, tries, problem } => {
                // Whoever gives up the same at the same time has been faster, or will find it gone.
                call.claim(KEEP, params![signed(now_ms), i64::from(*tries), &*shortened(problem), *row]).await?;
                over.push(*row);
            }
        }
    }
    delete(call, WAITING, &over).await
}

async fn delete(call: &mut Call, table: &'static str, rows: &[i64]) -> Result<()> {
    for chunk in rows.chunks(ROWS_PER_STATEMENT) {
        let delete = statements::delete(table, &["id"], chunk.len(), call.is_on_server());
        let params: Vec<Param<'_>> = chunk.iter().map(|row| Param::from(*row)).collect();
        call.execute(delete, &params).await?;
    }
    Ok(())
}

fn kind_of(bit: i64) -> Result<EventKind> {
    EventKind::from_bit(bit).ok_or_else(|| RecordError::Unreadable { what: format!("kind of an event is {bit}") })
}

fn tries_of(tries: i64) -> u32 {
    u32::try_from(tries).unwrap_or(u32::MAX)
}

fn shortened(problem: &str) -> String {
    problem.chars().take(PROBLEM_CHARS_MAX).collect()
}
