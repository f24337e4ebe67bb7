//! Ids for new users and orders: given out from a segment in memory, which the ledger has given to this router for ever.
//!
//! - Ids of one router rise, and no id is given twice, by whichever router. What a router has not used when it ends is lost.
//! - The next segment is fetched in the background when a quarter of the last one is left, so that nobody waits for the ledger.
//! - Who finds none waits for the fetch that is under way, with all others who wait, and hears 5001 when it fails or takes too long: nobody
//!   waits in line for a ledger that hangs.
//! - Segments are taken by an optimistic lock: who was too slow tries again, three times in all.

use crate::{
    Refusal,
    metrics::Metrics,
    services::ports::people::{People, Segment},
};
use billfish_state::Quiet;
use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{sync::watch, time::timeout};
use tokio_util::task::TaskTracker;

/// Longest wait for an id. A ledger that is away says so before that; one that answers later fills the stock for those who come then.
const WAIT_MAX: Duration = Duration::from_secs(2);
/// Tries at a segment while other routers take theirs.
const TRIES_MAX: u32 = 3;
/// Longest wait between two tries: some times as long as taking one takes.
const AGAIN_MAX_MS: u64 = 20;
/// The next segment is fetched when this part of the last one is left.
const LEFT_PARTS: i64 = 4;

/// Lines about segments that could not be had.
static NOT_FETCHED: Quiet = Quiet::new();

/// The ids of one sequence. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Ids {
    sequence: &'static str,
    people: Arc<dyn People>,
    stock: Arc<Stock>,
    tasks: TaskTracker,
    metrics: Metrics,
}

#[derive(Default)]
struct Stock {
    /// What is left of segments, the one to use first in front.
    segments: Mutex<VecDeque<Left>>,
    /// Held while a segment is fetched: so they come in order, and one at a time.
    fetching: tokio::sync::Mutex<()>,
    /// Why the last fetch failed, if it did; told when one has ended, and nobody is fetching then.
    ended: watch::Sender<Option<Refusal>>,
}

struct Left {
    next: i64,
    last: i64,
    /// With so many ids left, another segment is fetched.
    low: i64,
}

impl From<Segment> for Left {
    fn from(Segment { from, to }: Segment) -> Self {
        Self { next: from, last: to, low: (to - from + 1) / LEFT_PARTS }
    }
}

/// Whether another segment is to be fetched.
fn is_low(segments: &VecDeque<Left>) -> bool {
    match segments.front() {
        None => true,
        Some(front) => segments.len() == 1 && front.last - front.next < front.low,
    }
}

impl fmt::Debug for Ids {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Ids").field("sequence", &self.sequence).finish_non_exhaustive()
    }
}

impl Ids {
    /// The ids of a sequence. What is fetched in the background is a task of `tasks`.
    pub(crate) fn new(sequence: &'static str, people: Arc<dyn People>, tasks: TaskTracker, metrics: Metrics) -> Self {
        Self { sequence, people, stock: Arc::default(), tasks, metrics }
    }

    /// An id that nobody has had.
    pub(crate) async fn next(&self) -> Result<i64, Refusal> {
        if let Some(id) = self.take() {
            return Ok(id);
        }
        match timeout(WAIT_MAX, self.wait()).await {
            Ok(outcome) => outcome,
            // The fetch goes on without this caller.
            Err(_) => Err(Refusal::unavailable()),
        }
    }

    /// Waits for a fetch, and for another one where those who were faster took all of it.
    async fn wait(&self) -> Result<i64, Refusal> {
        // Before the fetch: its end is not to be missed.
        let mut ended = self.stock.ended.subscribe();
        loop {
            self.fetch_ahead();
            // The sender lives in the stock.
            ended.changed().await.map_err(|_| Refusal::unavailable())?;
            let failed = ended.borrow_and_update().clone();
            if let Some(id) = self.take() {
                return Ok(id);
            }
            if let Some(refusal) = failed {
                return Err(refusal);
            }
        }
    }

    /// The next id in memory.
    fn take(&self) -> Option<i64> {
        let mut segments = self.lock();
        let left = segments.front_mut()?;
        let id = left.next;
        left.next += 1;
        if id == left.last {
            segments.pop_front();
        }
        if is_low(&segments) {
            self.fetch_ahead();
        }
        Some(id)
    }

    /// Fetches a segment unless somebody does, or there is enough.
    fn fetch_ahead(&self) {
        let ids = self.clone();
        self.tasks.spawn(async move {
            let Ok(turn) = ids.stock.fetching.try_lock() else { return };
            let is_needed = is_low(&ids.lock());
            let failed = if is_needed { ids.fetch().await.err() } else { None };
            // First: who comes between the two fetches himself.
            drop(turn);
            ids.stock.ended.send_replace(failed);
        });
    }

    /// One segment more. Only with the turn.
    async fn fetch(&self) -> Result<(), Refusal> {
        for try_number in 1..=TRIES_MAX {
            match self.people.take_segment(self.sequence).await {
                Ok(Some(segment)) => {
                    self.lock().push_back(segment.into());
                    return Ok(());
                }
                Ok(None) if try_number < TRIES_MAX => tokio::time::sleep(Duration::from_millis(fastrand::u64(1..=AGAIN_MAX_MS))).await,
                Ok(None) => {}
                Err(error) => {
                    self.metrics.store_failed("ids", &error);
                    return Err(error.into());
                }
            }
        }
        if let Some(more_before) = NOT_FETCHED.may_say(self.sequence) {
            tracing::warn!(sequence = self.sequence, more_before, "no segment of ids could be had: other routers were faster each time");
        }
        Err(Refusal::unavailable())
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Left>> {
        self.stock.segments.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::{Ids, TRIES_MAX};
    use crate::{metrics::Metrics, testing::TestPeople};
    use billfish_wire::Reason;
    use prometheus_client::registry::Registry;
    use proptest::prelude::*;
    use std::{collections::BTreeSet, sync::Arc};
    use tokio_util::task::TaskTracker;

    fn ids(people: &Arc<TestPeople>) -> Ids {
        Ids::new("user", people.clone(), TaskTracker::new(), Metrics::register(&mut Registry::default()))
    }

    /// Everything that runs in the background has run.
    async fn settle(ids: &Ids) {
        while !ids.tasks.is_empty() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn ids_are_given_out_of_memory_and_the_next_segment_is_there_before_the_last_one_ends() {
        let people = Arc::new(TestPeople::with_step(100));
        let ids = ids(&people);
        for expected in 1..=74 {
            assert_eq!(ids.next().await.unwrap(), expected);
        }
        settle(&ids).await;
        assert_eq!(people.segments_taken(), 1);
        assert_eq!(ids.next().await.unwrap(), 75);
        settle(&ids).await;
        assert_eq!(people.segments_taken(), 2, "a quarter is left");
        // Nobody waits for a ledger that is away.
        people.fail(true);
        for expected in 76..=200 {
            assert_eq!(ids.next().await.unwrap(), expected);
        }
        assert_eq!(ids.next().await.unwrap_err().reason, Reason::Unavailable);
        people.fail(false);
        assert_eq!(ids.next().await.unwrap(), 201, "and goes on when it is back");
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_race_is_run_three_times_and_then_refused() {
        let people = Arc::new(TestPeople::with_step(100));
        let ids = ids(&people);
        people.lose(TRIES_MAX - 1);
        assert_eq!(ids.next().await.unwrap(), 1);
        let other = Ids { stock: Arc::default(), ..ids.clone() };
        people.lose(TRIES_MAX);
        let refused = other.next().await.unwrap_err();
        assert_eq!(refused.reason, Reason::Unavailable);
        assert!(refused.retry_after_ms.is_some());
        assert_eq!(other.next().await.unwrap(), 101, "a later call tries anew");
    }

    #[tokio::test(start_paused = true)]
    async fn many_who_find_none_fetch_once() {
        let people = Arc::new(TestPeople::with_step(1_000));
        let ids = ids(&people);
        let callers: Vec<_> = (0..200)
            .map(|_| {
                let ids = ids.clone();
                tokio::spawn(async move { ids.next().await.unwrap() })
            })
            .collect();
        let mut given = BTreeSet::new();
        for caller in callers {
            given.insert(caller.await.unwrap());
        }
        assert_eq!((given.len(), people.segments_taken()), (200, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_in_line_for_a_ledger_that_hangs() {
        let people = Arc::new(TestPeople::with_step(10));
        let ids = ids(&people);
        let gate = people.hold_segments();
        let ask = |count: usize| -> Vec<_> {
            let one = || {
                let ids = ids.clone();
                tokio::spawn(async move { ids.next().await })
            };
            (0..count).map(|_| one()).collect()
        };
        let began = tokio::time::Instant::now();
        for caller in ask(100) {
            assert_eq!(caller.await.unwrap().unwrap_err().reason, Reason::Unavailable);
        }
        // The clock of the test: as long as one waits, not as long as a hundred do.
        assert_eq!(began.elapsed().as_secs(), super::WAIT_MAX.as_secs());
        // The fetch that nobody waits for any more is of use to those who come.
        gate.open();
        for caller in ask(10) {
            caller.await.unwrap().unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn all_who_wait_hear_of_a_fetch_that_fails() {
        let people = Arc::new(TestPeople::with_step(10));
        let ids = ids(&people);
        let gate = people.hold_segments();
        let callers: Vec<_> = (0..50)
            .map(|_| {
                let ids = ids.clone();
                tokio::spawn(async move { ids.next().await })
            })
            .collect();
        gate.wait_for_callers(1).await;
        people.fail(true);
        gate.open();
        for caller in callers {
            assert_eq!(caller.await.unwrap().unwrap_err().reason, Reason::Unavailable);
        }
        assert_eq!(people.segments_taken(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn segments_of_one_id_are_enough_to_go_on() {
        let people = Arc::new(TestPeople::with_step(1));
        let ids = ids(&people);
        for expected in 1..=20 {
            assert_eq!(ids.next().await.unwrap(), expected);
        }
    }

    proptest! {
        /// Several nodes on one ledger that loses races and answers: whatever they do, no id comes twice, and those of a node rise.
        #[test]
        fn no_id_is_given_twice_and_those_of_a_node_rise(
            step in 1i64..40,
            calls in proptest::collection::vec((0usize..3, 1usize..30, 0u32..6, any::<bool>()), 1..40),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
            runtime.block_on(async {
                let people = Arc::new(TestPeople::with_step(step));
                let nodes: Vec<Ids> = (0..3).map(|_| ids(&people)).collect();
                let mut given = BTreeSet::new();
                let mut last = [0; 3];
                for (node, count, lost, fails) in calls {
                    people.lose(lost);
                    people.fail(fails);
                    for _ in 0..count {
                        // What is refused may be asked for again: a ledger that fails comes back.
                        match nodes[node].next().await {
                            Ok(id) => {
                                prop_assert!(given.insert(id), "{} came twice", id);
                                prop_assert!(id > last[node], "{} after {}", id, last[node]);
                                last[node] = id;
                            }
                            Err(refused) => prop_assert_eq!(refused.reason, Reason::Unavailable),
                        }
                    }
                    people.fail(false);
                }
                people.lose(0);
                for node in &nodes {
                    prop_assert!(node.next().await.is_ok());
                }
                Ok(())
            })?;
        }
    }
}
