//! Several routers on one state, each behind ports that a test can cut, and a registry that shows what it is told to.

use super::*;
use async_trait::async_trait;
use billfish_state::{
    Appended, Leases, LogAppend, LogEntry, Member, MemberPage, Members, NodeInfo, NodeKind, Page, Registry as Nodes, RoomLog, StateError,
};
use std::sync::{
    Mutex,
    atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
};

/// The ports of one router that decide about its rooms, between it and the state.
pub(super) struct Between {
    pub(super) state: State,
    /// Nothing comes through: the store is away for this router, or the router is dead.
    pub(super) is_cut: AtomicBool,
    /// So many appends are carried out, and their answers are lost.
    pub(super) answers_lost: AtomicU32,
    /// So many appends are not carried out.
    pub(super) appends_lost: AtomicU32,
    /// So many reads of the log are not carried out.
    pub(super) reads_lost: AtomicU32,
    /// The next append is carried out, and its answer takes so long.
    pub(super) answer_ms: AtomicU64,
    /// Which routers the registry shows.
    pub(super) routers: Arc<Mutex<Vec<String>>>,
}

impl Between {
    fn pass(&self) -> Result<(), StateError> {
        if self.is_cut.load(Relaxed) { Err(away()) } else { Ok(()) }
    }

    fn take(count: &AtomicU32) -> bool {
        count.fetch_update(Relaxed, Relaxed, |count| count.checked_sub(1)).is_ok()
    }
}

fn away() -> StateError {
    StateError::Away { what: "test", cause: "told to be".into() }
}

#[async_trait]
impl RoomLog for Between {
    async fn append(&self, room: RoomId, entries: &[LogAppend], now_ms: u64) -> Result<Vec<Appended>, StateError> {
        self.pass()?;
        if Self::take(&self.appends_lost) {
            return Err(away());
        }
        let appended = self.state.room_log.append(room, entries, now_ms).await?;
        tokio::time::sleep(Duration::from_millis(self.answer_ms.swap(0, Relaxed))).await;
        if Self::take(&self.answers_lost) { Err(away()) } else { Ok(appended) }
    }

    async fn fence(&self, room: RoomId, seq: i64, now_ms: u64) -> Result<i64, StateError> {
        self.pass()?;
        self.state.room_log.fence(room, seq, now_ms).await
    }

    async fn read(&self, room: RoomId, after_seq: i64, limit: usize, now_ms: u64) -> Result<Page<LogEntry>, StateError> {
        self.pass()?;
        if Self::take(&self.reads_lost) {
            return Err(away());
        }
        self.state.room_log.read(room, after_seq, limit, now_ms).await
    }

    async fn last(&self, room: RoomId, limit: usize, now_ms: u64) -> Result<Vec<LogEntry>, StateError> {
        self.pass()?;
        self.state.room_log.last(room, limit, now_ms).await
    }

    async fn remove(&self, room: RoomId) -> Result<(), StateError> {
        self.pass()?;
        self.state.room_log.remove(room).await
    }
}

#[async_trait]
impl Leases for Between {
    async fn acquire(&self, name: &str, holder: &str, now_ms: u64, until_ms: u64) -> Result<Lease, StateError> {
        self.pass()?;
        self.state.leases.acquire(name, holder, now_ms, until_ms).await
    }

    async fn release(&self, name: &str, holder: &str, epoch: u64) -> Result<(), StateError> {
        self.pass()?;
        self.state.leases.release(name, holder, epoch).await
    }
}

#[async_trait]
impl Members for Between {
    async fn join(&self, app: AppId, room: RoomId, members: &[Member], now_ms: u64) -> Result<u64, StateError> {
        self.pass()?;
        self.state.members.join(app, room, members, now_ms).await
    }

    async fn leave(&self, app: AppId, room: RoomId, members: &[Member], now_ms: u64) -> Result<u64, StateError> {
        self.pass()?;
        self.state.members.leave(app, room, members, now_ms).await
    }

    async fn count(&self, app: AppId, room: RoomId) -> Result<u64, StateError> {
        self.pass()?;
        self.state.members.count(app, room).await
    }

    async fn page(&self, app: AppId, room: RoomId, cursor: u64, limit: usize) -> Result<MemberPage, StateError> {
        self.pass()?;
        self.state.members.page(app, room, cursor, limit).await
    }

    async fn contains(&self, app: AppId, room: RoomId, users: &[UserId]) -> Result<Vec<bool>, StateError> {
        self.pass()?;
        self.state.members.contains(app, room, users).await
    }

    async fn remove(&self, app: AppId, room: RoomId) -> Result<(), StateError> {
        self.pass()?;
        self.state.members.remove(app, room).await
    }
}

#[async_trait]
impl Nodes for Between {
    async fn register(&self, _: &NodeInfo, _: u64, _: u64) -> Result<bool, StateError> {
        self.pass().map(|()| true)
    }

    async fn deregister(&self, _: NodeKind, _: &str, _: u64) -> Result<(), StateError> {
        self.pass()
    }

    async fn nodes(&self, kind: NodeKind, _: u64) -> Result<Vec<NodeInfo>, StateError> {
        self.pass()?;
        let node = |id: &String| NodeInfo {
            kind,
            id: id.clone(),
            incarnation: 1,
            addresses: Vec::new(),
            capacity: 1,
            load: 0,
            draining: false,
            version: String::new(),
            labels: Default::default(),
        };
        Ok(self.routers.lock().unwrap().iter().map(node).collect())
    }
}

/// Several routers, of which the registry shows those it is told to.
pub(super) struct Town {
    pub(super) state: State,
    pub(super) records: Arc<TestRecords>,
    pub(super) routers: Arc<Mutex<Vec<String>>>,
}

/// One of them.
pub(super) struct Router {
    pub(super) house: House,
    pub(super) between: Arc<Between>,
}

impl Town {
    pub(super) fn new() -> Self {
        Self { state: State::in_memory(), records: Arc::new(TestRecords::default()), routers: Arc::default() }
    }

    /// The registry shows these and no other from now on; routers learn of it within two seconds.
    pub(super) fn shows(&self, routers: &[&str]) {
        *self.routers.lock().unwrap() = routers.iter().map(|&name| name.to_owned()).collect();
    }

    pub(super) async fn router(&self, name: &str) -> Router {
        let between = Arc::new(Between {
            state: self.state.clone(),
            is_cut: AtomicBool::new(false),
            answers_lost: AtomicU32::new(0),
            appends_lost: AtomicU32::new(0),
            reads_lost: AtomicU32::new(0),
            answer_ms: AtomicU64::new(0),
            routers: Arc::clone(&self.routers),
        });
        let mut state = self.state.clone();
        state.room_log = between.clone();
        state.leases = between.clone();
        state.registry = between.clone();
        state.members = between.clone();
        let house = House::with(|config| config.node = name.to_owned(), Arc::clone(&self.records), state).await;
        Router { house, between }
    }
}

impl Router {
    pub(super) fn cut(&self, is_cut: bool) {
        self.between.is_cut.store(is_cut, Relaxed);
    }
}

/// Longer than it takes until every router has seen what the registry shows.
pub(super) const SEEN: Duration = Duration::from_millis(2_500);
/// Longer than a lease.
pub(super) const LEASE: Duration = Duration::from_millis(6_500);

pub(super) async fn interest(gateway: &Gateway, room: RoomId, last_seq: i64) {
    gateway.send(Kind::Interest(Interest { room_id: room.0, interested: true, members: 1, last_seq })).await;
}
