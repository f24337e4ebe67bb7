//! Whether a room is live, and what stands in its record: asked by every join, answered from the cache.
//!
//! - A live room is cached for 30 min less a random part (expiries do not come together), a missing one for 1 min (ids that do not
//!   exist cost the records nothing).
//! - Misses at the same time load once.
//! - Opening and closing write the cache through, and the cache is every router's: what one of them opened or closed, all know at once.
//! - A load looks at the records again after it has stored: so one that overlaps an opening or a closing, here or on another router, corrects
//!   what it stored, or is corrected by the other. A router that dies between its closing and its write leaves a closed room cached as live;
//!   the first to enter it finds out, for it has no epoch.

use crate::{
    Refusal,
    metrics::Metrics,
    services::{
        is_room,
        ports::{RoomKind, RoomRecord, RoomRecords},
    },
};
use billfish_state::{AppId, Cache, RoomId, UserId};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::OnceCell;

/// How long a live room is cached; up to a tenth less.
const LIVE_MS: u64 = 30 * 60 * 1_000;
/// How long a missing one is.
const MISSING_MS: u64 = 60 * 1_000;
/// How often a load looks whether what it stored still holds.
const LOOKS_MAX: usize = 3;

type Loading = HashMap<RoomId, Arc<OnceCell<Option<RoomRecord>>>>;

pub(crate) struct Catalog {
    records: Arc<dyn RoomRecords>,
    cache: Arc<dyn Cache>,
    metrics: Metrics,
    loading: Mutex<Loading>,
}

impl Catalog {
    pub(crate) fn new(records: Arc<dyn RoomRecords>, cache: Arc<dyn Cache>, metrics: Metrics) -> Self {
        Self { records, cache, metrics, loading: Mutex::new(HashMap::new()) }
    }

    /// The record of a live room; `None` when there is none.
    pub(crate) async fn room(&self, room: RoomId, now_ms: u64) -> Result<Option<RoomRecord>, Refusal> {
        if !is_room(room) {
            return Ok(None);
        }
        if let Some(known) = self.cached(room, now_ms).await {
            return Ok(known);
        }
        let cell = Arc::clone(self.lock().entry(room).or_default());
        // Whoever waits here gets the result of the one who loads; where that one fails or is cancelled, the next one loads.
        let loaded = cell.get_or_try_init(|| self.load(room, now_ms)).await.cloned();
        let mut loading = self.lock();
        if loading.get(&room).is_some_and(|current| Arc::ptr_eq(current, &cell)) {
            loading.remove(&room);
        }
        loaded
    }

    /// A room was opened.
    pub(crate) async fn opened(&self, record: &RoomRecord, now_ms: u64) {
        self.store(record.room, Some(record), now_ms).await;
    }

    /// A room was closed.
    pub(crate) async fn closed(&self, room: RoomId, now_ms: u64) {
        self.store(room, None, now_ms).await;
    }

    async fn load(&self, room: RoomId, now_ms: u64) -> Result<Option<RoomRecord>, Refusal> {
        // Another may have loaded it between this caller's look into the cache and its turn.
        if let Some(known) = self.cached(room, now_ms).await {
            return Ok(known);
        }
        let mut record = self.records.live_room(room).await?;
        // An id is opened once and closed once, so the second look sees the last change at the latest; the third is for a reader of a replica.
        for _ in 0..LOOKS_MAX {
            self.store(room, record.as_ref(), now_ms).await;
            // What changes after this look is written to the cache after what was stored before it.
            match self.records.live_room(room).await {
                Ok(now) if now == record => return Ok(record),
                Ok(now) => record = now,
                // The first look holds for this caller, and for nobody else.
                Err(error) => {
                    self.metrics.store_failed("room_cache", &error);
                    break;
                }
            }
        }
        self.forget(room).await;
        Ok(record)
    }

    async fn forget(&self, room: RoomId) {
        if let Err(error) = self.cache.remove(&key(room)).await {
            self.metrics.store_failed("room_cache", &error);
        }
    }

    async fn cached(&self, room: RoomId, now_ms: u64) -> Option<Option<RoomRecord>> {
        match self.cache.get(&key(room), now_ms).await {
            Ok(None) => None,
            Ok(Some(bytes)) if bytes.is_empty() => Some(None),
            // What cannot be read was written by another version: ask the records.
            Ok(Some(bytes)) => read(&bytes).map(Some),
            Err(error) => {
                self.metrics.store_failed("room_cache", &error);
                None
            }
        }
    }

    async fn store(&self, room: RoomId, record: Option<&RoomRecord>, now_ms: u64) {
        let (value, life_ms) = match record {
            Some(record) => (write(record), LIVE_MS - fastrand::u64(0..LIVE_MS / 10)),
            None => (Bytes::new(), MISSING_MS),
        };
        if let Err(error) = self.cache.put(&key(room), value, now_ms, now_ms + life_ms).await {
            self.metrics.store_failed("room_cache", &error);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Loading> {
        self.loading.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(room: RoomId) -> String {
    format!("living_room_obj:{room}")
}

/// A record as it stands in a cache.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Cached {
    room: i64,
    app: i32,
    anchor: i64,
    kind: i64,
    name: String,
    cover: String,
    started_ms: u64,
}

impl From<&RoomRecord> for Cached {
    fn from(record: &RoomRecord) -> Self {
        Self {
            room: record.room.0,
            app: record.app.0,
            anchor: record.anchor.0,
            kind: record.kind.number(),
            name: record.name.clone(),
            cover: record.cover.clone(),
            started_ms: record.started_ms,
        }
    }
}

impl Cached {
    /// `None` for a kind this version does not know.
    pub(super) fn into_record(self) -> Option<RoomRecord> {
        Some(RoomRecord {
            room: RoomId(self.room),
            app: AppId(self.app),
            anchor: UserId(self.anchor),
            kind: RoomKind::from_number(self.kind)?,
            name: self.name,
            cover: self.cover,
            started_ms: self.started_ms,
        })
    }
}

fn read(bytes: &[u8]) -> Option<RoomRecord> {
    serde_json::from_slice::<Cached>(bytes).ok()?.into_record()
}

fn write(record: &RoomRecord) -> Bytes {
    serde_json::to_vec(&Cached::from(record)).expect("a struct of texts and numbers is JSON").into()
}

#[cfg(test)]
mod tests {
    use super::{Catalog, LIVE_MS, MISSING_MS};
    use crate::{
        metrics::Metrics,
        services::ports::{NewRoom, OpenOutcome, RoomKind, RoomRecord, RoomRecords},
        testing::TestRecords,
    };
    use billfish_state::{AppId, RoomId, State, UserId};
    use billfish_wire::Reason;
    use prometheus_client::registry::Registry;
    use std::sync::Arc;

    /// Calls of one load: a look before it stores, and one after.
    const A_LOAD: usize = 2;

    fn catalog() -> (Arc<TestRecords>, Arc<Catalog>) {
        let records = Arc::new(TestRecords::default());
        let cache = State::in_memory().cache;
        (records.clone(), Arc::new(Catalog::new(records, cache, Metrics::register(&mut Registry::default()))))
    }

    /// Two with one cache and one ledger.
    fn routers() -> (Arc<TestRecords>, [Arc<Catalog>; 2]) {
        let records = Arc::new(TestRecords::default());
        let cache = State::in_memory().cache;
        let catalog = || Arc::new(Catalog::new(records.clone(), cache.clone(), Metrics::register(&mut Registry::default())));
        let routers = [catalog(), catalog()];
        (records, routers)
    }

    async fn open(records: &TestRecords, anchor: i64) -> RoomRecord {
        let room = NewRoom { app: AppId(10_001), anchor: UserId(anchor), kind: RoomKind::Pk, name: "n".to_owned(), cover: "c".to_owned() };
        match records.open_room(&room, 5).await.unwrap() {
            OpenOutcome::Opened(record) => record,
            OpenOutcome::AlreadyLive(room) => panic!("{room} is live"),
        }
    }

    #[tokio::test]
    async fn a_live_room_is_cached_for_about_30_minutes() {
        let (records, catalog) = catalog();
        let record = open(&records, 30_001).await;
        for now_ms in [0, 1, LIVE_MS - LIVE_MS / 10 - 1] {
            assert_eq!(catalog.room(record.room, now_ms).await.unwrap().as_ref(), Some(&record));
        }
        assert_eq!(records.calls("live_room"), A_LOAD);
        catalog.room(record.room, LIVE_MS).await.unwrap();
        assert_eq!(records.calls("live_room"), 2 * A_LOAD);
    }

    #[tokio::test]
    async fn a_missing_room_is_cached_for_a_minute_and_opening_it_removes_the_empty_entry() {
        let (records, catalog) = catalog();
        for now_ms in [0, 1, MISSING_MS - 1] {
            assert_eq!(catalog.room(RoomId(1), now_ms).await.unwrap(), None);
        }
        assert_eq!(records.calls("live_room"), A_LOAD);
        let record = open(&records, 30_001).await;
        assert_eq!(record.room, RoomId(1));
        catalog.opened(&record, 2).await;
        assert_eq!(catalog.room(RoomId(1), 3).await.unwrap(), Some(record));
        assert_eq!(records.calls("live_room"), A_LOAD);
        catalog.closed(RoomId(1), 4).await;
        assert_eq!(catalog.room(RoomId(1), 5).await.unwrap(), None);
    }

    #[tokio::test]
    async fn ids_that_cannot_be_rooms_cost_nothing() {
        let (records, catalog) = catalog();
        for room in [0, -1, i64::MIN, 1 << 53] {
            assert_eq!(catalog.room(RoomId(room), 0).await.unwrap(), None);
        }
        assert_eq!(records.calls("live_room"), 0);
    }

    #[tokio::test]
    async fn a_hundred_misses_at_the_same_time_load_once() {
        let (records, catalog) = catalog();
        let record = open(&records, 30_001).await;
        let gate = records.hold("live_room");
        let callers: Vec<_> = (0..100)
            .map(|_| {
                let catalog = catalog.clone();
                tokio::spawn(async move { catalog.room(RoomId(1), 0).await })
            })
            .collect();
        gate.wait_for_callers(1).await;
        gate.open();
        for caller in callers {
            assert_eq!(caller.await.unwrap().unwrap().as_ref(), Some(&record));
        }
        assert_eq!(records.calls("live_room"), A_LOAD);
    }

    #[tokio::test]
    async fn what_one_router_opens_or_closes_the_other_knows_at_once() {
        let (records, [one, other]) = routers();
        let record = open(&records, 30_001).await;
        one.opened(&record, 0).await;
        assert_eq!(other.room(record.room, 0).await.unwrap().as_ref(), Some(&record));
        records.close_room(record.room, 1).await.unwrap();
        one.closed(record.room, 1).await;
        assert_eq!(other.room(record.room, 1).await.unwrap(), None);
        assert_eq!(records.calls("live_room"), 0, "the cache is one");
    }

    #[tokio::test]
    async fn a_load_that_overlaps_a_closing_on_either_router_leaves_it_closed() {
        for closer in 0..2 {
            let (records, routers) = routers();
            let record = open(&records, 30_001).await;
            let gate = records.hold("live_room");
            let slow = tokio::spawn({
                let loader = routers[0].clone();
                async move { loader.room(RoomId(1), 0).await }
            });
            gate.wait_for_callers(1).await;
            records.close_room(RoomId(1), 0).await.unwrap();
            routers[closer].closed(RoomId(1), 0).await;
            gate.open();
            slow.await.unwrap().unwrap();
            for router in &routers {
                assert_eq!(router.room(record.room, 1).await.unwrap(), None);
            }
        }
    }

    #[tokio::test]
    async fn a_load_that_overlaps_an_opening_on_another_router_leaves_it_open() {
        let (records, [one, other]) = routers();
        let gate = records.hold("live_room");
        let slow = tokio::spawn(async move { one.room(RoomId(1), 0).await });
        gate.wait_for_callers(1).await;
        let record = open(&records, 30_001).await;
        other.opened(&record, 0).await;
        gate.open();
        slow.await.unwrap().unwrap();
        assert_eq!(other.room(record.room, 1).await.unwrap(), Some(record));
    }

    #[tokio::test]
    async fn a_load_that_could_not_look_again_leaves_nothing_in_the_cache() {
        let (records, [one, other]) = routers();
        let record = open(&records, 30_001).await;
        records.fail_after("live_room", 1);
        assert_eq!(one.room(RoomId(1), 0).await.unwrap(), Some(record));
        records.fail_after("live_room", usize::MAX);
        records.close_room(RoomId(1), 0).await.unwrap();
        assert_eq!(other.room(RoomId(1), 1).await.unwrap(), None);
    }

    #[tokio::test]
    async fn records_that_are_away_are_a_refusal_and_not_a_missing_room() {
        let (records, catalog) = catalog();
        let record = open(&records, 30_001).await;
        records.fail(true);
        assert_eq!(catalog.room(record.room, 0).await.unwrap_err().reason, Reason::Unavailable);
        records.fail(false);
        assert_eq!(catalog.room(record.room, 0).await.unwrap(), Some(record));
    }
}
