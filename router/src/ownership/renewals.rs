//! Renewals of the leases of many rooms, in one call of the store.
//!
//! - Whoever comes first waits a moment for others, then asks for all, and tells them. So round trips do not grow with rooms.
//! - Rooms come together because their moments lie on a grid. The place of a room in it is that of its lease in the store: what is renewed
//!   together costs the store as little as one, and not all come at once.
//! - No task of its own: where whoever asks is dropped meanwhile, the others hear that there was no answer.

use billfish_state::{
    Lease, LeaseAsk, Leases, StateError,
    port::{LEASE_SHARDS, lease_shard},
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::{sync::oneshot, time::Duration};

/// How long the first waits: rooms whose timers run out in one millisecond come within it, and a room that waits is not seen to.
const GATHER: Duration = Duration::from_millis(2);
/// What became of one renewal. The error is that of the whole call.
pub(super) type Answer = Result<Lease, Arc<StateError>>;

/// Gathers renewals. Bounded by the rooms that are active: each has at most one.
pub(super) struct Renewals {
    leases: Arc<dyn Leases>,
    waiting: Mutex<Vec<Waiting>>,
}

struct Waiting {
    ask: LeaseAsk,
    now_ms: u64,
    answer: oneshot::Sender<Answer>,
}

impl Renewals {
    pub(super) fn new(leases: Arc<dyn Leases>) -> Self {
        Self { leases, waiting: Mutex::default() }
    }

    /// Renews a lease, with those that others renew in the same moment.
    pub(super) async fn renew(&self, ask: LeaseAsk, now_ms: u64, lease_ms: u64) -> Answer {
        let (answer, mut answered) = oneshot::channel();
        let is_first = {
            let mut waiting = self.lock();
            waiting.push(Waiting { ask, now_ms, answer });
            waiting.len() == 1
        };
        if is_first {
            let unasked = Unasked(self);
            tokio::time::sleep(GATHER).await;
            let together = std::mem::take(&mut *self.lock());
            std::mem::forget(unasked);
            self.ask(together, lease_ms).await;
            return answered.try_recv().unwrap_or_else(|_| Err(no_answer()));
        }
        answered.await.unwrap_or_else(|_| Err(no_answer()))
    }

    async fn ask(&self, together: Vec<Waiting>, lease_ms: u64) {
        // The earliest: no lease is thought to stand for longer than it does.
        let now_ms = together.iter().map(|waiting| waiting.now_ms).min().unwrap_or(0);
        let asks: Vec<LeaseAsk> = together.iter().map(|waiting| waiting.ask.clone()).collect();
        let (leases, error) = match self.leases.acquire_many(&asks, now_ms, now_ms + lease_ms).await {
            Ok(leases) => (leases, None),
            Err(error) => (Vec::new(), Some(Arc::new(error))),
        };
        let mut leases = leases.into_iter();
        for waiting in together {
            let lease = leases.next().flatten();
            let answer = lease.ok_or_else(|| error.as_ref().map_or_else(no_answer, Arc::clone));
            // Where the receiver is gone its room has ended.
            drop(waiting.answer.send(answer));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Those who wait for one who is dropped before he has asked hear that nobody does.
struct Unasked<'a>(&'a Renewals);

impl Drop for Unasked<'_> {
    fn drop(&mut self) {
        self.0.lock().clear();
    }
}

fn no_answer() -> Arc<StateError> {
    Arc::new(StateError::Away { what: "renewing leases", cause: "there was no answer for this one".into() })
}

/// When the lease of this name is renewed next: once in `every_ms`, at its place in the grid. Routers are apart by `offset_ms`.
pub(super) fn next_ms(name: &str, now_ms: u64, every_ms: u64, offset_ms: u64) -> u64 {
    let every_ms = every_ms.max(1);
    let place_ms = (every_ms * lease_shard(name) / LEASE_SHARDS + offset_ms) % every_ms;
    let since_ms = (now_ms + every_ms - place_ms) % every_ms;
    now_ms + every_ms - since_ms
}

#[cfg(test)]
mod tests {
    use super::{Renewals, next_ms};
    use async_trait::async_trait;
    use billfish_state::{
        Lease, LeaseAsk, Leases, State, StateError,
        port::{LEASE_SHARDS, lease_shard},
    };
    use std::{
        collections::BTreeMap,
        sync::{
            Arc,
            atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
        },
    };
    use tokio::task::JoinSet;

    /// Counts calls, and can leave out the leases of odd rooms, or all.
    struct Counted {
        leases: Arc<dyn Leases>,
        calls: AtomicU32,
        is_half: AtomicBool,
        is_cut: AtomicBool,
    }

    #[async_trait]
    impl Leases for Counted {
        async fn acquire(&self, name: &str, holder: &str, now_ms: u64, until_ms: u64) -> Result<Lease, StateError> {
            self.leases.acquire(name, holder, now_ms, until_ms).await
        }

        async fn acquire_many(&self, asks: &[LeaseAsk], now_ms: u64, until_ms: u64) -> Result<Vec<Option<Lease>>, StateError> {
            self.calls.fetch_add(1, Relaxed);
            if self.is_cut.load(Relaxed) {
                return Err(StateError::Away { what: "test", cause: "told to be".into() });
            }
            let mut leases = self.leases.acquire_many(asks, now_ms, until_ms).await?;
            if self.is_half.load(Relaxed) {
                let is_odd = |ask: &LeaseAsk| ask.name.ends_with(['1', '3', '5', '7', '9']);
                leases.iter_mut().zip(asks).filter(|(_, ask)| is_odd(ask)).for_each(|(lease, _)| *lease = None);
            }
            Ok(leases)
        }

        async fn release(&self, name: &str, holder: &str, epoch: u64) -> Result<(), StateError> {
            self.leases.release(name, holder, epoch).await
        }
    }

    fn house() -> (Arc<Renewals>, Arc<Counted>) {
        let leases = State::in_memory().leases;
        let counted = Counted { leases, calls: AtomicU32::new(0), is_half: AtomicBool::new(false), is_cut: AtomicBool::new(false) };
        let counted = Arc::new(counted);
        (Arc::new(Renewals::new(counted.clone())), counted)
    }

    fn ask(room: u64) -> LeaseAsk {
        LeaseAsk { name: format!("room {room}"), holder: "r1".to_owned() }
    }

    async fn renew_all(renewals: &Arc<Renewals>, rooms: u64) -> BTreeMap<u64, Option<Lease>> {
        let mut tasks = JoinSet::new();
        for room in 0..rooms {
            let renewals = Arc::clone(renewals);
            tasks.spawn(async move { (room, renewals.renew(ask(room), 1_000 + room % 2, 6_000).await.ok()) });
        }
        let mut told = BTreeMap::new();
        while let Some(joined) = tasks.join_next().await {
            let (room, lease) = joined.unwrap();
            told.insert(room, lease);
        }
        told
    }

    #[tokio::test(start_paused = true)]
    async fn a_thousand_rooms_renew_in_one_call_and_each_hears_of_its_own() {
        let (renewals, store) = house();
        let told = renew_all(&renewals, 1_000).await;
        assert_eq!(store.calls.load(Relaxed), 1);
        assert!(told.values().all(|lease| lease.as_ref().is_some_and(|lease| lease.holder == "r1" && lease.until_ms == 7_000)));
        store.is_half.store(true, Relaxed);
        let told = renew_all(&renewals, 10).await;
        assert!(told.iter().all(|(room, lease)| lease.is_some() == (room % 2 == 0)), "{told:?}");
        store.is_cut.store(true, Relaxed);
        assert!(renew_all(&renewals, 10).await.values().all(Option::is_none));
        assert_eq!(store.calls.load(Relaxed), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn where_the_first_is_dropped_the_others_hear_that_nobody_answered_and_the_next_ask_anew() {
        let (renewals, store) = house();
        let first = tokio::spawn({
            let renewals = Arc::clone(&renewals);
            async move { renewals.renew(ask(1), 0, 6_000).await.is_ok() }
        });
        tokio::task::yield_now().await;
        let second = tokio::spawn({
            let renewals = Arc::clone(&renewals);
            async move { renewals.renew(ask(2), 0, 6_000).await.is_ok() }
        });
        tokio::task::yield_now().await;
        first.abort();
        assert!(!second.await.unwrap());
        assert_eq!(store.calls.load(Relaxed), 0);
        assert!(renewals.renew(ask(3), 0, 6_000).await.is_ok());
    }

    #[test]
    fn rooms_renew_once_in_their_time_and_with_those_whose_leases_are_in_the_same_place() {
        let mut at: BTreeMap<u64, BTreeMap<u64, u32>> = BTreeMap::new();
        for room in 1..1_001 {
            let name = format!("room:{room}:owner");
            let first = next_ms(&name, 10_003, 2_000, 17);
            assert!((10_004..=12_003).contains(&first), "{first}");
            // A timer is a little late; its next moment is not.
            assert_eq!(next_ms(&name, first, 2_000, 17), first + 2_000);
            assert_eq!(next_ms(&name, first + 9, 2_000, 17), first + 2_000);
            *at.entry(first).or_default().entry(lease_shard(&name)).or_default() += 1;
        }
        assert_eq!(at.len() as u64, LEASE_SHARDS);
        assert!(at.values().all(|shards| shards.len() == 1 && shards.values().all(|rooms| (400..600).contains(rooms))), "{at:?}");
        assert_eq!(next_ms("room:1:owner", 5, 0, 3), 6, "a lease without length is none");
    }
}
