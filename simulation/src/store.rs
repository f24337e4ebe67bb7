//! The shared state: one truth for all nodes, and each node's own way to it, which may be slow, lossy or cut.
//!
//! - The truth is the in-process adapter, the executable model of the ports.
//! - An answer that is lost was carried out all the same; and a call whose caller has given up may be carried out later, as a server does
//!   with what already stands in its socket.
//! - A node's calls wait in the node's own time: when the node is stopped, its calls stand still with it.

use crate::{
    bug::Bug,
    trace::{Trace, note},
};
use async_trait::async_trait;
use billfish_state::{
    Acks, AppId, Appended, AppendedOnce, Cache, Clock, Dedup, Inbox, InboxAppend, InboxEntry, Lease, LeaseAsk, Leases, LogAppend, LogEntry,
    Member, MemberPage, Members, MessageClaim, NodeInfo, NodeKind, Page, PendingAck, PkBar, PkBars, PkStep, PkStepped, Presence,
    RateWindows, Registry, RoomId, RoomLog, Route, Routes, State, StateError, TokenOwner, Tokens, UserId, Watch, WindowHit, WindowVerdict,
    port::Result,
};
use bytes::Bytes;
use std::{
    collections::BTreeMap,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

/// A caller gives up after this: the adapters' own time-out.
const TIMEOUT_MS: u64 = 300;

/// What a node's way to a store is like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Weather {
    /// Nothing gets through.
    pub(crate) away: bool,
    /// Longest time of one direction.
    pub(crate) delay_ms: u64,
    /// So many calls in a thousand never arrive, and as many answers.
    pub(crate) lost_permille: u16,
    /// So many calls in a thousand are carried out when nobody waits any more.
    pub(crate) late_permille: u16,
}

impl Weather {
    /// Every call gets its answer in time.
    pub(crate) const fn answers(&self) -> bool {
        !self.away && self.lost_permille == 0 && self.late_permille == 0
    }
}

/// One node's way to one store.
#[derive(Debug)]
pub(crate) struct Line {
    node: String,
    seed: u64,
    trace: Trace,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    weather: Weather,
    /// How often each call was made for each room or user: what becomes of the next one depends on that and on the seed alone, not on
    /// which other calls were made in the same millisecond before it.
    calls: BTreeMap<(&'static str, u64), u64>,
}

/// What becomes of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Done { before_ms: u64, after_ms: u64 },
    NeverArrives,
    AnswerLost { before_ms: u64 },
    Late { after_ms: u64 },
}

impl Line {
    pub(crate) fn new(node: &str, seed: u64, trace: Trace) -> Arc<Self> {
        Arc::new(Self { node: node.to_owned(), seed, trace, inner: Mutex::default() })
    }

    pub(crate) fn set(&self, weather: Weather) {
        self.inner().weather = weather;
    }

    fn fate(&self, what: &'static str, key: u64, may_be_late: bool) -> Fate {
        let mut inner = self.inner();
        let Inner { calls, weather } = &mut *inner;
        if weather.away {
            return Fate::NeverArrives;
        }
        let count = calls.entry((what, key)).or_default();
        *count += 1;
        let mut rng = fastrand::Rng::with_seed(hash(self.seed ^ key, what, *count));
        let (before_ms, after_ms) = (rng.u64(0..=weather.delay_ms), rng.u64(0..=weather.delay_ms));
        let chance = rng.u16(0..1_000);
        if chance < weather.lost_permille {
            Fate::NeverArrives
        } else if chance < 2 * weather.lost_permille {
            Fate::AnswerLost { before_ms }
        } else if may_be_late && chance < 2 * weather.lost_permille + weather.late_permille {
            Fate::Late { after_ms: TIMEOUT_MS + rng.u64(1..4_000) }
        } else {
            Fate::Done { before_ms, after_ms }
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call to the database.
    pub(crate) async fn record_call<T>(
        &self,
        what: &'static str,
        work: impl FnOnce() -> T,
    ) -> std::result::Result<T, Box<dyn std::error::Error + Send + Sync>> {
        match self.fate(what, 0, false) {
            Fate::Done { before_ms, after_ms } => {
                pause(before_ms).await;
                let answer = work();
                pause(after_ms).await;
                Ok(answer)
            }
            Fate::AnswerLost { before_ms } => {
                pause(before_ms).await;
                drop(work());
                self.gives_up(what).await
            }
            Fate::NeverArrives | Fate::Late { .. } => self.gives_up(what).await,
        }
    }

    async fn gives_up<T>(&self, what: &'static str) -> std::result::Result<T, Box<dyn std::error::Error + Send + Sync>> {
        note!(self.trace, "{} no answer to {what}", self.node);
        pause(TIMEOUT_MS).await;
        Err("no answer".into())
    }
}

fn hash(seed: u64, what: &str, count: u64) -> u64 {
    let mut hash = seed ^ count.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for byte in what.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash
}

async fn pause(ms: u64) {
    if ms > 0 {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }
}

/// What the truth gives at once: the in-process adapter never waits.
pub(crate) fn at_once<T>(work: impl Future<Output = T>) -> T {
    match pin!(work).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => answer,
        Poll::Pending => panic!("the in-process store waits for nothing"),
    }
}

/// Something that is carried out when nobody waits for it any more: after so many milliseconds.
pub(crate) type Late = (u64, Box<dyn FnOnce(&State) + Send>);

/// Calls under way whose callers have given up. The world carries them out.
#[derive(Clone, Default)]
pub(crate) struct Stragglers(Arc<Mutex<Vec<Late>>>);

impl Stragglers {
    fn put(&self, after_ms: u64, work: impl FnOnce(&State) + Send + 'static) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((after_ms, Box::new(work)));
    }

    pub(crate) fn take(&self) -> Vec<Late> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The truth as one node reaches it.
pub(crate) struct Reached {
    pub(crate) truth: State,
    pub(crate) line: Arc<Line>,
    pub(crate) stragglers: Stragglers,
    pub(crate) bug: Option<Bug>,
}

impl Reached {
    /// Every port over this way.
    pub(crate) fn state(self, clock: Clock, watch: Watch) -> State {
        let reached = Arc::new(self);
        State {
            clock,
            watch,
            layout: Arc::default(),
            tokens: reached.clone(),
            presence: reached.clone(),
            routes: reached.clone(),
            acks: reached.clone(),
            inbox: reached.clone(),
            room_log: reached.clone(),
            members: reached.clone(),
            registry: reached.clone(),
            leases: reached.clone(),
            rate_windows: reached.clone(),
            dedup: reached.clone(),
            // Nobody logs in by phone here.
            login_codes: Arc::clone(&reached.truth.login_codes),
            sessions: Arc::clone(&reached.truth.sessions),
            cache: reached.clone(),
            pk_bars: reached,
        }
    }

    async fn call<T>(&self, what: &'static str, key: u64, work: impl Future<Output = Result<T>> + Send) -> Result<T> {
        self.call_or_late(what, key, work, None::<fn(&State)>).await
    }

    /// `late` does the same as `work`, with what it needs in its own hands.
    async fn call_or_late<T>(
        &self,
        what: &'static str,
        key: u64,
        work: impl Future<Output = Result<T>> + Send,
        late: Option<impl FnOnce(&State) + Send + 'static>,
    ) -> Result<T> {
        let away = |cause| StateError::Away { what, cause };
        if what == "members.leave" {
            note!(self.line.trace, "{} takes out of a room: ids sum up to {key}", self.line.node);
        }
        match self.line.fate(what, key, late.is_some()) {
            Fate::Done { before_ms, after_ms } => {
                pause(before_ms).await;
                let answer = work.await;
                pause(after_ms).await;
                answer
            }
            Fate::AnswerLost { before_ms } => {
                pause(before_ms).await;
                drop(work.await);
                self.line.gives_up(what).await.map_err(away)
            }
            Fate::NeverArrives => self.line.gives_up(what).await.map_err(away),
            Fate::Late { after_ms } => {
                if let Some(late) = late {
                    note!(self.line.trace, "{} {what} is carried out in {after_ms} ms, too late", self.line.node);
                    self.stragglers.put(after_ms, late);
                }
                self.line.gives_up(what).await.map_err(away)
            }
        }
    }
}

#[async_trait]
impl RoomLog for Reached {
    async fn append(&self, room: RoomId, entries: &[LogAppend], now_ms: u64) -> Result<Vec<Appended>> {
        let mut entries = entries.to_vec();
        if self.bug == Some(Bug::LogForgetsClaims) {
            entries.iter_mut().for_each(|entry| entry.claim = None);
        }
        let owned = entries.clone();
        let late = move |truth: &State| drop(at_once(truth.room_log.append(room, &owned, now_ms)));
        let appended =
            self.call_or_late("room_log.append", room.key(), self.truth.room_log.append(room, &entries, now_ms), Some(late)).await;
        if let Ok(appended) = &appended {
            let (first, last) = (entries.first().map_or(0, |entry| entry.entry.seq), entries.last().map_or(0, |entry| entry.entry.seq));
            note!(self.line.trace, "{} log {room}: {first:x}..{last:x} {appended:?}", self.line.node);
        }
        match appended {
            Ok(appended) if self.bug == Some(Bug::NobodyFences) => {
                Ok(appended.into_iter().map(|what| if what == Appended::Stale { Appended::Stored } else { what }).collect())
            }
            appended => appended,
        }
    }

    async fn fence(&self, room: RoomId, seq: i64, now_ms: u64) -> Result<i64> {
        if self.bug == Some(Bug::NobodyFences) {
            return Ok(seq);
        }
        let late = move |truth: &State| drop(at_once(truth.room_log.fence(room, seq, now_ms)));
        let last = self.call_or_late("room_log.fence", room.key(), self.truth.room_log.fence(room, seq, now_ms), Some(late)).await;
        if let Ok(last) = &last {
            note!(self.line.trace, "{} log {room}: fenced at {seq:x}, was used up to {last:x}", self.line.node);
        }
        last
    }

    async fn read(&self, room: RoomId, after_seq: i64, limit: usize, now_ms: u64) -> Result<Page<LogEntry>> {
        self.call("room_log.read", room.key(), self.truth.room_log.read(room, after_seq, limit, now_ms)).await
    }

    async fn last(&self, room: RoomId, limit: usize, now_ms: u64) -> Result<Vec<LogEntry>> {
        self.call("room_log.last", room.key(), self.truth.room_log.last(room, limit, now_ms)).await
    }

    async fn remove(&self, room: RoomId) -> Result<()> {
        self.call("room_log.remove", room.key(), self.truth.room_log.remove(room)).await
    }
}

#[async_trait]
impl Leases for Reached {
    async fn acquire(&self, name: &str, holder: &str, now_ms: u64, until_ms: u64) -> Result<Lease> {
        if self.bug == Some(Bug::NobodyFences) {
            return Ok(Lease { holder: holder.to_owned(), epoch: 1, until_ms });
        }
        let (name_late, holder_late) = (name.to_owned(), holder.to_owned());
        let late = move |truth: &State| drop(at_once(truth.leases.acquire(&name_late, &holder_late, now_ms, until_ms)));
        let lease =
            self.call_or_late("leases.acquire", name.key(), self.truth.leases.acquire(name, holder, now_ms, until_ms), Some(late)).await;
        note!(self.line.trace, "{} lease {name} for {holder}: {lease:?}", self.line.node);
        lease
    }

    async fn acquire_many(&self, asks: &[LeaseAsk], now_ms: u64, until_ms: u64) -> Result<Vec<Option<Lease>>> {
        if self.bug == Some(Bug::NobodyFences) {
            return Ok(asks.iter().map(|ask| Some(Lease { holder: ask.holder.clone(), epoch: 1, until_ms })).collect());
        }
        let key = asks.iter().map(|ask| ask.name.as_str().key()).fold(0, u64::wrapping_add);
        let asks_late = asks.to_owned();
        let late = move |truth: &State| drop(at_once(truth.leases.acquire_many(&asks_late, now_ms, until_ms)));
        let work = self.truth.leases.acquire_many(asks, now_ms, until_ms);
        let leases = self.call_or_late("leases.acquire_many", key, work, Some(late)).await;
        note!(self.line.trace, "{} leases {asks:?}: {leases:?}", self.line.node);
        leases
    }

    async fn release(&self, name: &str, holder: &str, epoch: u64) -> Result<()> {
        let (name_late, holder_late) = (name.to_owned(), holder.to_owned());
        let late = move |truth: &State| drop(at_once(truth.leases.release(&name_late, &holder_late, epoch)));
        note!(self.line.trace, "{} gives {name} back for {holder}", self.line.node);
        self.call_or_late("leases.release", name.key(), self.truth.leases.release(name, holder, epoch), Some(late)).await
    }
}

#[async_trait]
impl Inbox for Reached {
    async fn append(&self, app: AppId, users: &[UserId], id: &str, body: Bytes, now_ms: u64) -> Result<Vec<String>> {
        self.call("inbox.append", users.key(), self.truth.inbox.append(app, users, id, body, now_ms)).await
    }

    async fn append_each(&self, appends: &[InboxAppend], now_ms: u64) -> Vec<Result<AppendedOnce>> {
        let mut appends = appends.to_vec();
        if self.bug == Some(Bug::InboxForgetsClaims) {
            for InboxAppend { id, claim, .. } in &mut appends {
                claim.iter_mut().for_each(|claim| claim.msg_id = format!("{}-{id}", claim.msg_id));
            }
        }
        let key = appends.iter().map(|append| append.user.key()).fold(0, u64::wrapping_add);
        let appends_late = appends.clone();
        let late = move |truth: &State| drop(at_once(truth.inbox.append_each(&appends_late, now_ms)));
        let work = async { Ok(self.truth.inbox.append_each(&appends, now_ms).await) };
        match self.call_or_late("inbox.append_each", key, work, Some(late)).await {
            Ok(appended) => appended,
            Err(error) => {
                let why = error.to_string();
                appends.iter().map(|_| Err(StateError::Away { what: "inbox.append_each", cause: why.clone().into() })).collect()
            }
        }
    }

    async fn taken(&self, app: AppId, user: UserId, claim: &MessageClaim, now_ms: u64) -> Result<Option<String>> {
        self.call("inbox.taken", user.key(), self.truth.inbox.taken(app, user, claim, now_ms)).await
    }

    async fn read(&self, app: AppId, user: UserId, after: Option<&str>, limit: usize, now_ms: u64) -> Result<Page<InboxEntry>> {
        self.call("inbox.read", user.key(), self.truth.inbox.read(app, user, after, limit, now_ms)).await
    }

    async fn ack(&self, acked: &[(AppId, UserId, String)]) -> Result<()> {
        self.call("inbox.ack", 0, self.truth.inbox.ack(acked)).await
    }
}

#[async_trait]
impl PkBars for Reached {
    async fn step(&self, room: RoomId, step: PkStep, now_ms: u64) -> Result<PkStepped> {
        let late = move |truth: &State| drop(at_once(truth.pk_bars.step(room, step, now_ms)));
        self.call_or_late("pk_bars.step", room.key(), self.truth.pk_bars.step(room, step, now_ms), Some(late)).await
    }

    async fn put(&self, room: RoomId, bar: PkBar, now_ms: u64) -> Result<PkBar> {
        let late = move |truth: &State| drop(at_once(truth.pk_bars.put(room, bar, now_ms)));
        self.call_or_late("pk_bars.put", room.key(), self.truth.pk_bars.put(room, bar, now_ms), Some(late)).await
    }

    async fn bar(&self, room: RoomId, now_ms: u64) -> Result<Option<PkBar>> {
        self.call("pk_bars.bar", room.key(), self.truth.pk_bars.bar(room, now_ms)).await
    }

    async fn clear(&self, room: RoomId, challenger: UserId, since_seq: i64) -> Result<bool> {
        let late = move |truth: &State| drop(at_once(truth.pk_bars.clear(room, challenger, since_seq)));
        self.call_or_late("pk_bars.clear", room.key(), self.truth.pk_bars.clear(room, challenger, since_seq), Some(late)).await
    }
}

/// Whom or what an argument of a call is about; 0 where it says nothing of that.
trait Key {
    fn key(&self) -> u64 {
        0
    }
}

impl Key for RoomId {
    fn key(&self) -> u64 {
        self.0.cast_unsigned()
    }
}
impl Key for UserId {
    fn key(&self) -> u64 {
        self.0.cast_unsigned()
    }
}
impl Key for str {
    fn key(&self) -> u64 {
        hash(0, self, 0)
    }
}
impl Key for [UserId] {
    fn key(&self) -> u64 {
        self.iter().map(Key::key).fold(0, u64::wrapping_add)
    }
}
impl Key for [WindowHit] {
    fn key(&self) -> u64 {
        self.iter().map(|hit| hit.key.key()).fold(0, u64::wrapping_add)
    }
}
impl Key for AppId {}
impl Key for u64 {}
impl Key for usize {}
impl Key for NodeKind {}
impl Key for NodeInfo {}
impl Key for TokenOwner {}
impl Key for Bytes {}
impl Key for [Member] {
    fn key(&self) -> u64 {
        self.iter().map(|member| member.user.key()).fold(0, u64::wrapping_add)
    }
}
impl Key for [Route] {}
impl Key for [PendingAck] {}
impl Key for [String] {}
impl Key for [(AppId, UserId, String)] {}
impl Key for [(AppId, UserId, u64)] {
    fn key(&self) -> u64 {
        self.iter().map(|(_, user, _)| user.key()).fold(0, u64::wrapping_add)
    }
}

/// A port whose calls are only passed on.
macro_rules! passed_on {
    ($port:ident as $field:ident { $( fn $name:ident($( $arg:ident : $type:ty ),*) -> $answer:ty; )* }) => {
        #[async_trait]
        impl $port for Reached {
            $(
                async fn $name(&self, $( $arg: $type ),*) -> Result<$answer> {
                    let key = [$( $arg.key() ),*].into_iter().fold(0_u64, u64::wrapping_add);
                    self.call(concat!(stringify!($field), ".", stringify!($name)), key, self.truth.$field.$name($( $arg ),*)).await
                }
            )*
        }
    };
}

passed_on!(Tokens as tokens {
    fn issue(token: &str, owner: TokenOwner, now_ms: u64, until_ms: u64) -> ();
    fn resolve(tokens: &[String], now_ms: u64) -> Vec<Option<TokenOwner>>;
    fn revoke(tokens: &[String]) -> ();
});
passed_on!(Presence as presence {
    fn touch_each(signs: &[(AppId, UserId, u64)]) -> ();
    fn remove(users: &[(AppId, UserId, u64)]) -> ();
    fn online(app: AppId, users: &[UserId], since_ms: u64) -> Vec<bool>;
    fn sweep(before_ms: u64, limit: usize) -> Vec<(AppId, UserId)>;
});
passed_on!(Routes as routes {
    fn bind(routes: &[Route], now_ms: u64, until_ms: u64) -> Vec<Vec<Route>>;
    fn renew(routes: &[Route], now_ms: u64, until_ms: u64) -> Vec<bool>;
    fn unbind(routes: &[Route]) -> Vec<bool>;
    fn lookup(app: AppId, users: &[UserId], now_ms: u64) -> Vec<Vec<Route>>;
});
passed_on!(Acks as acks {
    fn record(pending: &[PendingAck]) -> ();
    fn remove(acked: &[(AppId, UserId, String)]) -> ();
    fn pending(app: AppId, user: UserId) -> Vec<PendingAck>;
    fn postpone(before_ms: u64, now_ms: u64, limit: usize) -> Vec<PendingAck>;
});
passed_on!(Members as members {
    fn join(app: AppId, room: RoomId, members: &[Member], now_ms: u64) -> u64;
    fn leave(app: AppId, room: RoomId, members: &[Member], now_ms: u64) -> u64;
    fn count(app: AppId, room: RoomId) -> u64;
    fn page(app: AppId, room: RoomId, cursor: u64, limit: usize) -> MemberPage;
    fn contains(app: AppId, room: RoomId, users: &[UserId]) -> Vec<bool>;
    fn remove(app: AppId, room: RoomId) -> ();
});
passed_on!(Registry as registry {
    fn register(node: &NodeInfo, now_ms: u64, until_ms: u64) -> bool;
    fn deregister(kind: NodeKind, id: &str, incarnation: u64) -> ();
    fn nodes(kind: NodeKind, now_ms: u64) -> Vec<NodeInfo>;
});
passed_on!(RateWindows as rate_windows {
    fn hit(hits: &[WindowHit], now_ms: u64) -> Vec<WindowVerdict>;
});
passed_on!(Dedup as dedup {
    fn claim(app: AppId, user: UserId, msg_ids: &[String], now_ms: u64, until_ms: u64) -> Vec<bool>;
    fn release(app: AppId, user: UserId, msg_ids: &[String]) -> ();
});
passed_on!(Cache as cache {
    fn get(key: &str, now_ms: u64) -> Option<Bytes>;
    fn put(key: &str, value: Bytes, now_ms: u64, until_ms: u64) -> ();
    fn remove(key: &str) -> ();
});
