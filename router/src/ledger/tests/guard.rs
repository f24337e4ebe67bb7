//! Whose records they are.

use super::{Home, NOW, new_room, open};
use crate::{
    ledger::{ForeignLedger, Guard, Ledger},
    services::ports::{OpenOutcome, RecordError, RoomRecords},
};
use async_trait::async_trait;
use billfish_state::{Lease, Leases, State, StateError};
use billfish_testing::PATIENCE;
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::time::{Instant, sleep, timeout};

pub(super) async fn records_keep_the_name_they_were_made_with_and_others_have_another(home: Home) {
    let ledger = home.open().await;
    let id = ledger.id().await.unwrap();
    assert_eq!(id.len(), 32, "{id}");
    ledger.close().await;
    drop(ledger);
    assert_eq!(home.open().await.id().await.unwrap(), id);
    let elsewhere = Home::file();
    assert_ne!(elsewhere.open().await.id().await.unwrap(), id);
}

pub(super) async fn a_state_belongs_to_the_first_records_and_every_router_with_others_is_refused(home: Home) {
    let state = State::in_memory();
    let (first, second) = (home.open().await, home.open().await);
    let _guards = (Guard::start(&first, &state).await.unwrap(), Guard::start(&second, &state).await.unwrap());
    open(&second, 30_001, NOW).await;
    let elsewhere = Home::file();
    let other = elsewhere.open().await;
    let refused = Guard::start(&other, &state).await.unwrap_err();
    let (own, theirs) = (other.id().await.unwrap(), first.id().await.unwrap());
    let place = elsewhere.directory.path().join("billfish.db").display().to_string();
    assert_eq!(refused, ForeignLedger { place: place.clone(), own: own.clone(), theirs: theirs.clone() });
    let told = refused.to_string();
    assert!(["ledger.url", &place, &own, &theirs].iter().all(|part| told.contains(part)), "{told}");
    answers_nothing(&other).await;
    open(&first, 30_002, NOW).await;
}

#[tokio::test]
async fn records_wait_for_a_state_that_is_away_and_answer_when_it_has_spoken() {
    let (home, store) = (Home::file(), Store::of(None));
    let ledger = home.open().await;
    let guard = Guard::start(&ledger, &store.state()).await.unwrap();
    let why = guard.readiness()().unwrap_err();
    assert!(why.contains("not known yet") && why.contains("test"), "{why}");
    answers_nothing(&ledger).await;
    store.put(Some(State::in_memory().leases));
    until("they are known to be the right ones", || guard.readiness()().is_ok()).await;
    open(&ledger, 30_001, NOW).await;
}

#[tokio::test]
async fn a_state_that_has_lost_everything_is_told_the_name_again() {
    let (home, store) = (Home::file(), Store::of(Some(State::in_memory().leases)));
    let state = store.state();
    let ledger = home.open().await;
    let _guard = Guard::start(&ledger, &state).await.unwrap();
    let empty = State::in_memory();
    store.put(Some(Arc::clone(&empty.leases)));
    state.watch.may_have_forgotten();
    let id = ledger.id().await.unwrap();
    until("it was asked again", || store.asked() > 0).await;
    // One that asks for as long as the name is kept is told whose it is.
    let asked = empty.leases.acquire("ledger", "a stranger", NOW, NOW + 1_000_000_000_000).await.unwrap();
    assert_eq!(asked.holder, id);
}

#[tokio::test]
async fn a_state_that_is_away_later_holds_nobody_up() {
    let (home, store) = (Home::file(), Store::of(Some(State::in_memory().leases)));
    let state = store.state();
    let ledger = home.open().await;
    let guard = Guard::start(&ledger, &state).await.unwrap();
    store.put(None);
    state.watch.may_have_forgotten();
    until("it was asked again", || store.asked() > 0).await;
    guard.readiness()().unwrap();
    open(&ledger, 30_001, NOW).await;
}

#[tokio::test]
async fn records_that_the_state_contradicts_later_answer_no_more_and_it_is_told() {
    let (home, store) = (Home::file(), Store::of(Some(State::in_memory().leases)));
    let state = store.state();
    let ledger = home.open().await;
    let guard = Guard::start(&ledger, &state).await.unwrap();
    assert!(timeout(Duration::ZERO, guard.foreign()).await.is_err());
    // It comes back empty, and another's router is faster.
    let taken = State::in_memory();
    let elsewhere = Home::file();
    let others = elsewhere.open().await;
    let _others = Guard::start(&others, &taken).await.unwrap();
    store.put(Some(taken.leases));
    state.watch.may_have_forgotten();
    let foreign = timeout(PATIENCE, guard.foreign()).await.expect("it is told");
    assert_eq!(foreign.theirs, others.id().await.unwrap());
    assert!(guard.readiness()().unwrap_err().contains("ledger.url"));
    answers_nothing(&ledger).await;
}

async fn answers_nothing(ledger: &Ledger) {
    let outcomes = [
        ledger.open_room(&new_room(50_001), NOW).await.map(|outcome| assert!(matches!(outcome, OpenOutcome::Opened(_)))),
        ledger.block_words().await.map(drop),
        ledger.raise_epoch(billfish_state::RoomId(1)).await.map(drop),
        ledger.set_publisher(super::APP, super::UserId(1), "p").await,
    ];
    for outcome in outcomes {
        assert!(matches!(outcome, Err(RecordError::Away { .. })), "{outcome:?}");
    }
}

/// Leases of one store after another, or of none.
#[derive(Default)]
struct Store {
    leases: Mutex<Option<Arc<dyn Leases>>>,
    /// Calls answered, or refused, since the last change.
    asked: AtomicU64,
}

impl Store {
    fn of(leases: Option<Arc<dyn Leases>>) -> Arc<Self> {
        Arc::new(Self { leases: Mutex::new(leases), asked: AtomicU64::new(0) })
    }

    fn state(self: &Arc<Self>) -> State {
        State { leases: Arc::clone(self) as Arc<dyn Leases>, ..State::in_memory() }
    }

    fn put(&self, leases: Option<Arc<dyn Leases>>) {
        *self.leases.lock().unwrap() = leases;
        self.asked.store(0, Relaxed);
    }

    fn asked(&self) -> u64 {
        self.asked.load(Relaxed)
    }

    fn leases(&self) -> Result<Arc<dyn Leases>, StateError> {
        let leases = self.leases.lock().unwrap().clone();
        leases.ok_or_else(|| StateError::Away { what: "a lease", cause: "away by the test".into() })
    }
}

#[async_trait]
impl Leases for Store {
    async fn acquire(&self, name: &str, holder: &str, now_ms: u64, until_ms: u64) -> Result<Lease, StateError> {
        let answer = match self.leases() {
            Ok(leases) => leases.acquire(name, holder, now_ms, until_ms).await,
            Err(error) => Err(error),
        };
        self.asked.fetch_add(1, Relaxed);
        answer
    }

    async fn release(&self, name: &str, holder: &str, epoch: u64) -> Result<(), StateError> {
        self.leases()?.release(name, holder, epoch).await
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "never happened: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}
