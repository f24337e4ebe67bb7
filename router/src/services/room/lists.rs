//! The lists of live rooms by kind: newest first, at most 1,000, a second old.
//!
//! - One router at a time reads them from the records, under a lease, and puts them into the cache; the others take them from there.
//! - A list is swapped in whole: a reader sees an old one or a new one, never a mixture.
//! - Pages are exact: `has_next` is true exactly when the next page has a room.

use super::catalog::Cached;
use crate::{
    Refusal,
    metrics::Metrics,
    right::Right,
    services::ports::{RoomKind, RoomRecord, RoomRecords},
};
use arc_swap::ArcSwapOption;
use billfish_state::{AppId, State};
use billfish_wire::Reason;
use bytes::Bytes;
use std::{collections::HashMap, sync::Arc};
use tokio::sync::Mutex;

/// Rooms in one list.
pub(crate) const LIST_MAX: usize = 1_000;
/// Rooms on one page.
pub(crate) const PAGE_SIZE_MAX: u32 = 100;
/// Between two refreshes.
pub(crate) const REFRESH_MS: u64 = 1_000;
/// How long the right to refresh lasts.
const LEASE_MS: u64 = 6 * REFRESH_MS;
/// How often it is renewed, so that one slow answer does not move it.
const RENEW_EVERY_MS: u64 = 2 * REFRESH_MS;
/// How long others may use a list whose refresher is gone, until one of them takes over.
const CACHED_MS: u64 = 60_000;
/// A list that is as it was is put there again after so long.
const PUT_AGAIN_MS: u64 = CACHED_MS / 3;
const LEASE: &str = "living_room_list";

type Lists = HashMap<(AppId, RoomKind), Vec<RoomRecord>>;

#[derive(Default)]
pub(crate) struct RoomLists {
    lists: ArcSwapOption<Lists>,
    turn: Mutex<Turn>,
}

/// What was last put there, and the right to: most refreshes would say the same again.
struct Turn {
    right: Right,
    /// What the store may have forgotten of what was put.
    generation: u64,
    put: HashMap<RoomKind, (Bytes, u64)>,
}

impl Default for Turn {
    fn default() -> Self {
        Self { right: Right::new(LEASE, LEASE_MS, RENEW_EVERY_MS), generation: 0, put: HashMap::new() }
    }
}

impl Turn {
    fn is_put(&self, kind: RoomKind, value: &Bytes, now_ms: u64) -> bool {
        self.put.get(&kind).is_some_and(|(put, at_ms)| put == value && now_ms >= *at_ms && now_ms < at_ms + PUT_AGAIN_MS)
    }
}

impl RoomLists {
    /// Brings the lists up to date. On failure the old ones stay.
    pub(crate) async fn refresh(&self, records: &dyn RoomRecords, state: &State, metrics: &Metrics, holder: &str, now_ms: u64) {
        let turn = &mut *self.turn.lock().await;
        let generation = state.watch.generation();
        let refresher = match turn.right.ask(state, holder, now_ms).await {
            Ok(lease) => lease.is_some(),
            Err(error) => {
                metrics.store_failed("list_lease", &error);
                return;
            }
        };
        if generation != turn.generation || !refresher {
            // It may be gone there, or another's is.
            turn.put.clear();
            turn.generation = generation;
        }
        let mut lists = Lists::new();
        for kind in RoomKind::ALL {
            let rooms = if refresher {
                load(records, state, metrics, turn, kind, now_ms).await
            } else {
                cached(state, metrics, kind, now_ms).await
            };
            let Some(rooms) = rooms else { return };
            for room in rooms {
                lists.entry((room.app, kind)).or_default().push(room);
            }
        }
        self.lists.store(Some(Arc::new(lists)));
    }

    /// A page, from 1, and whether there is one behind it.
    pub(crate) fn page(&self, app: AppId, kind: RoomKind, page: u32, page_size: u32) -> Result<(Vec<RoomRecord>, bool), Refusal> {
        if page == 0 || page_size == 0 || page_size > PAGE_SIZE_MAX {
            return Err(Refusal::because(Reason::Malformed, "page is 1 or above, pageSize 1 to 100"));
        }
        let lists = self.lists.load();
        let lists = lists.as_ref().ok_or_else(Refusal::unavailable)?;
        let list = lists.get(&(app, kind)).map_or(&[][..], Vec::as_slice);
        let page_size = page_size as usize;
        let begin = (page as usize - 1).saturating_mul(page_size).min(list.len());
        let end = begin.saturating_add(page_size).min(list.len());
        Ok((list[begin..end].to_vec(), end < list.len()))
    }

    /// Whether there have ever been lists.
    pub(crate) fn is_ready(&self) -> bool {
        self.lists.load().is_some()
    }
}

async fn load(
    records: &dyn RoomRecords,
    state: &State,
    metrics: &Metrics,
    turn: &mut Turn,
    kind: RoomKind,
    now_ms: u64,
) -> Option<Vec<RoomRecord>> {
    let rooms = match records.live_rooms(kind, LIST_MAX).await {
        Ok(rooms) => rooms,
        Err(error) => {
            metrics.store_failed("list", &error);
            return None;
        }
    };
    let cached: Vec<Cached> = rooms.iter().map(Cached::from).collect();
    let value: Bytes = serde_json::to_vec(&cached).expect("structs of texts and numbers are JSON").into();
    if !turn.is_put(kind, &value, now_ms) {
        match state.cache.put(&key(kind), value.clone(), now_ms, now_ms + CACHED_MS).await {
            Ok(()) => drop(turn.put.insert(kind, (value, now_ms))),
            Err(error) => metrics.store_failed("list_cache", &error),
        }
    }
    Some(rooms)
}

async fn cached(state: &State, metrics: &Metrics, kind: RoomKind, now_ms: u64) -> Option<Vec<RoomRecord>> {
    match state.cache.get(&key(kind), now_ms).await {
        Ok(value) => {
            let rooms: Vec<Cached> = serde_json::from_slice(&value?).ok()?;
            Some(rooms.into_iter().filter_map(Cached::into_record).collect())
        }
        Err(error) => {
            metrics.store_failed("list_cache", &error);
            None
        }
    }
}

fn key(kind: RoomKind) -> String {
    format!("living_room_list:{}", kind.number())
}

#[cfg(test)]
mod tests {
    use super::{LEASE_MS, RoomLists};
    use crate::{
        metrics::Metrics,
        services::ports::{NewRoom, RoomKind, RoomRecords},
        testing::TestRecords,
    };
    use billfish_state::{AppId, State, UserId};
    use billfish_wire::Reason;
    use prometheus_client::registry::Registry;
    use proptest::prelude::*;

    const APP: AppId = AppId(10_001);

    async fn records(rooms: i64) -> TestRecords {
        let records = TestRecords::default();
        for anchor in 0..rooms {
            let room =
                NewRoom { app: APP, anchor: UserId(30_000 + anchor), kind: RoomKind::Normal, name: String::new(), cover: String::new() };
            records.open_room(&room, anchor.unsigned_abs()).await.unwrap();
        }
        records
    }

    async fn lists(records: &TestRecords) -> RoomLists {
        let lists = RoomLists::default();
        let metrics = Metrics::register(&mut Registry::default());
        lists.refresh(records, &State::in_memory(), &metrics, "r1", 0).await;
        lists
    }

    #[tokio::test]
    async fn a_list_is_newest_first_and_has_1000_rooms_at_most() {
        let lists = lists(&records(1_005).await).await;
        let (page, has_next) = lists.page(APP, RoomKind::Normal, 1, 3).unwrap();
        assert_eq!(page.iter().map(|room| room.started_ms).collect::<Vec<_>>(), [1_004, 1_003, 1_002]);
        assert!(has_next);
        let (page, has_next) = lists.page(APP, RoomKind::Normal, 10, 100).unwrap();
        assert_eq!((page.len(), page[99].started_ms, has_next), (100, 5, false));
        assert_eq!(lists.page(APP, RoomKind::Normal, 11, 100).unwrap(), (vec![], false));
        assert_eq!(lists.page(APP, RoomKind::Pk, 1, 100).unwrap(), (vec![], false));
        assert_eq!(lists.page(AppId(10_002), RoomKind::Normal, 1, 100).unwrap(), (vec![], false));
    }

    #[tokio::test]
    async fn pages_begin_at_1_and_have_1_to_100_rooms() {
        let lists = lists(&records(3).await).await;
        for (page, page_size) in [(0, 10), (1, 0), (1, 101)] {
            assert_eq!(lists.page(APP, RoomKind::Normal, page, page_size).unwrap_err().reason, Reason::Malformed);
        }
        assert_eq!(lists.page(APP, RoomKind::Normal, u32::MAX, 100).unwrap(), (vec![], false));
        let none = RoomLists::default();
        assert_eq!(none.page(APP, RoomKind::Normal, 1, 1).unwrap_err().reason, Reason::Unavailable);
    }

    #[tokio::test]
    async fn exactly_one_router_refreshes_and_another_takes_over_when_it_is_gone() {
        let (records, state) = (records(1).await, State::in_memory());
        let metrics = Metrics::register(&mut Registry::default());
        let (first, second) = (RoomLists::default(), RoomLists::default());
        for now_ms in [0, 1_000, 2_000] {
            first.refresh(&records, &state, &metrics, "r1", now_ms).await;
            second.refresh(&records, &state, &metrics, "r2", now_ms).await;
        }
        assert_eq!(records.calls("live_rooms"), 3 * RoomKind::ALL.len());
        assert_eq!(second.page(APP, RoomKind::Normal, 1, 1).unwrap().0.len(), 1);
        second.refresh(&records, &state, &metrics, "r2", 2_000 + LEASE_MS).await;
        assert_eq!(records.calls("live_rooms"), 4 * RoomKind::ALL.len());
    }

    #[tokio::test]
    async fn a_list_that_is_as_it_was_is_put_again_after_a_while_and_a_changed_one_at_once() {
        let (records, state) = (records(1).await, State::in_memory());
        let metrics = Metrics::register(&mut Registry::default());
        let lists = RoomLists::default();
        let key = super::key(RoomKind::Normal);
        let refresh = async |now_ms| {
            lists.refresh(&records, &state, &metrics, "r1", now_ms).await;
            let put = state.cache.get(&key, now_ms).await.unwrap().is_some();
            state.cache.remove(&key).await.unwrap();
            put
        };
        assert!(refresh(0).await);
        assert!(!refresh(1_000).await);
        assert!(refresh(super::PUT_AGAIN_MS).await);
        let room = NewRoom { app: APP, anchor: UserId(1), kind: RoomKind::Normal, name: String::new(), cover: String::new() };
        records.open_room(&room, 1).await.unwrap();
        assert!(refresh(super::PUT_AGAIN_MS + 1_000).await);
    }

    #[tokio::test]
    async fn a_failed_refresh_leaves_the_old_list() {
        let (records, state) = (records(2).await, State::in_memory());
        let metrics = Metrics::register(&mut Registry::default());
        let lists = RoomLists::default();
        lists.refresh(&records, &state, &metrics, "r1", 0).await;
        records.fail(true);
        lists.refresh(&records, &state, &metrics, "r1", 1_000).await;
        assert_eq!(lists.page(APP, RoomKind::Normal, 1, 10).unwrap().0.len(), 2);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Turning pages gives every room once, in order, and says there is a next page exactly when there is.
        #[test]
        fn has_next_is_exact(rooms in 0i64..40, page_size in 1u32..12) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let lists = runtime.block_on(async { lists(&records(rooms).await).await });
            let mut seen = Vec::new();
            let mut page = 1;
            loop {
                let (rooms, has_next) = lists.page(APP, RoomKind::Normal, page, page_size).unwrap();
                prop_assert_eq!(has_next, !lists.page(APP, RoomKind::Normal, page + 1, page_size).unwrap().0.is_empty());
                seen.extend(rooms.into_iter().map(|room| room.started_ms));
                if !has_next {
                    break;
                }
                page += 1;
            }
            let expected: Vec<u64> = (0..rooms.unsigned_abs()).rev().collect();
            prop_assert_eq!(seen, expected);
        }
    }
}
