//! Calls of one kind that come at the same time, gathered into one: under load a single server is asked for many at once.
//!
//! - Only under load: a call that comes alone, or among few, goes at once, as does one that is many already, and every one in a cluster, where
//!   nothing is saved.
//! - What is gathered waits [`GATHER`], or until [`ASKS_ENOUGH`] are together. Batches in flight do not wait for each other.
//! - Bounded: who finds [`WAITING_MAX`] waiting goes at once, and is refused by the connection where that is full.
//! - An asker that gives up leaves what it asked for in its batch: it may be carried out, as with any call that is given up.
//! - What fails, fails for each asker of its batch; but a spoilt key fails for who asked for it alone.

use crate::port::Result;
use crate::types::StateError;
use async_trait::async_trait;
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

/// How long the first of a batch waits for others. A LOGIN waits for three such batches, and still less than a person notices.
const GATHER: Duration = Duration::from_millis(25);
/// Load is so many in a slice of time, this one or the one before: 100 a second, of which two or three are gathered.
const LOAD_ASKS: u32 = 10;
const SLICE: Duration = Duration::from_millis(100);
/// So many, of one call or of several, have little to gain from more: a thirty-second part of what a call costs is left to save, and in a storm waiting
/// would hold up everyone's LOGIN.
const ASKS_ENOUGH: usize = 32;
/// Calls that wait to be gathered.
const WAITING_MAX: usize = 4096;

/// What is done with many at once.
#[async_trait]
pub(super) trait Batch: Send + Sync + 'static {
    /// What is asked for.
    type Ask: Send + 'static;
    /// What comes of it.
    type Answer: Send + 'static;

    /// Answers in the order asked.
    async fn run(&self, asks: Vec<Self::Ask>) -> Result<Vec<Self::Answer>>;

    /// The same again, where it may be asked for a second time.
    fn alone(_ask: &Self::Ask) -> Option<Self::Ask> {
        None
    }
}

/// Whether anything is saved by asking for many at once.
type Saves = Arc<dyn Fn() -> bool + Send + Sync>;

/// Makes those that gather for one connection.
pub(super) struct Gathering {
    saves: Saves,
}

/// Asks for one kind of thing.
pub(super) struct Gather<B: Batch> {
    saves: Saves,
    batch: Arc<B>,
    load: Mutex<Load>,
    waiting: mpsc::Sender<Asked<B>>,
    /// Ends with this, as the connections do with the last of the ports: whoever can ask is answered.
    _task: JoinSet<()>,
}

/// One call, and who waits for it.
struct Asked<B: Batch> {
    asks: Vec<B::Ask>,
    answer: oneshot::Sender<Result<Vec<B::Answer>>>,
}

/// What was asked for in this slice of time, and in the one before.
#[derive(Debug)]
struct Load {
    since: Instant,
    now: u32,
    before: u32,
}

impl Gathering {
    pub(super) fn new(saves: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self { saves: Arc::new(saves) }
    }

    pub(super) fn gather<B: Batch>(&self, batch: B) -> Gather<B> {
        let (waiting, asked) = mpsc::channel(WAITING_MAX);
        let batch = Arc::new(batch);
        let mut task = JoinSet::new();
        task.spawn(run(Arc::clone(&batch), asked));
        Gather { saves: Arc::clone(&self.saves), batch, load: Mutex::new(Load::begin(Instant::now())), waiting, _task: task }
    }
}

impl<B: Batch> Gather<B> {
    /// Asks, at once or together with others. Answers in the order asked.
    pub(super) async fn ask(&self, asks: Vec<B::Ask>) -> Result<Vec<B::Answer>> {
        if !self.is_under_load(asks.len()) || asks.is_empty() || asks.len() >= ASKS_ENOUGH || !(self.saves)() {
            return self.batch.run(asks).await;
        }
        let (answer, answered) = oneshot::channel();
        match self.waiting.try_send(Asked { asks, answer }) {
            Ok(()) => answered.await.unwrap_or_else(|_| Err(StateError::Away { what: "asking with others", cause: Stopped.into() })),
            // More wait than can be served, or the runtime is going down.
            Err(mpsc::error::TrySendError::Closed(asked) | mpsc::error::TrySendError::Full(asked)) => self.batch.run(asked.asks).await,
        }
    }

    /// Asks at once, whatever others ask.
    pub(super) async fn ask_at_once(&self, asks: Vec<B::Ask>) -> Result<Vec<B::Answer>> {
        self.batch.run(asks).await
    }

    pub(super) async fn ask_one(&self, ask: B::Ask) -> Result<B::Answer> {
        let mut answers = self.ask(vec![ask]).await?;
        Ok(answers.pop().expect("one answer for one ask"))
    }

    fn is_under_load(&self, asks: usize) -> bool {
        self.load.lock().unwrap_or_else(PoisonError::into_inner).count(asks, Instant::now())
    }
}

impl Load {
    const fn begin(now: Instant) -> Self {
        Self { since: now, now: 0, before: 0 }
    }

    /// Counts what is asked for, and says whether it is under load.
    fn count(&mut self, asks: usize, now: Instant) -> bool {
        let slices = now.duration_since(self.since).as_millis() / SLICE.as_millis();
        if slices > 0 {
            *self = Self { since: now, now: 0, before: if slices == 1 { self.now } else { 0 } };
        }
        self.now = self.now.saturating_add(u32::try_from(asks).unwrap_or(u32::MAX));
        self.now.max(self.before) >= LOAD_ASKS
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the runtime is going down")]
struct Stopped;

/// Gathers until everybody who could ask is gone.
async fn run<B: Batch>(batch: Arc<B>, mut waiting: mpsc::Receiver<Asked<B>>) {
    let mut in_flight = JoinSet::new();
    while let Some(first) = waiting.recv().await {
        let until = Instant::now() + GATHER;
        let mut count = first.asks.len();
        let mut together = vec![first];
        // Cancel-safe: `recv` takes nothing unless it returns.
        while count < ASKS_ENOUGH
            && let Ok(Some(asked)) = timeout_at(until, waiting.recv()).await
        {
            count += asked.asks.len();
            together.push(asked);
        }
        while in_flight.try_join_next().is_some() {}
        in_flight.spawn(ask_together(Arc::clone(&batch), together));
    }
    while in_flight.join_next().await.is_some() {}
}

async fn ask_together<B: Batch>(batch: Arc<B>, together: Vec<Asked<B>>) {
    let (mut asks, mut askers, mut again) = (Vec::new(), Vec::new(), Vec::new());
    for asked in together {
        again.push(asked.asks.iter().map(B::alone).collect::<Option<Vec<_>>>());
        askers.push((asked.asks.len(), asked.answer));
        asks.extend(asked.asks);
    }
    match batch.run(asks).await {
        Ok(answers) => {
            let mut answers = answers.into_iter();
            for (count, asker) in askers {
                // Where the receiver is gone the caller has given up.
                drop(asker.send(Ok(answers.by_ref().take(count).collect())));
            }
        }
        Err(error) => {
            let is_one_key = matches!(error, StateError::Spoilt { .. }) && askers.len() > 1;
            let share = share(error);
            for ((_, asker), again) in askers.into_iter().zip(again) {
                let outcome = match again {
                    Some(asks) if is_one_key => batch.run(asks).await,
                    Some(_) | None => Err(share()),
                };
                drop(asker.send(outcome));
            }
        }
    }
}

/// One failure, for each who asked.
pub(super) fn share(error: StateError) -> impl Fn() -> StateError {
    let cause: Arc<dyn Error + Send + Sync>;
    let (what, kind) = match error {
        StateError::Away { what, cause: why } => {
            cause = Arc::from(why);
            (what, Kind::Away(cause))
        }
        StateError::Full { what, limit } => (what, Kind::Full(limit)),
        StateError::Spoilt { what, key } => (what, Kind::Spoilt(key)),
        StateError::Malformed { what } => (what, Kind::Malformed),
    };
    move || match &kind {
        Kind::Away(cause) => StateError::Away { what, cause: Box::new(Arc::clone(cause)) },
        Kind::Full(limit) => StateError::Full { what, limit: *limit },
        Kind::Spoilt(key) => StateError::Spoilt { what, key: key.clone() },
        Kind::Malformed => StateError::Malformed { what },
    }
}

enum Kind {
    Away(Arc<dyn Error + Send + Sync>),
    Full(usize),
    Spoilt(String),
    Malformed,
}

#[cfg(test)]
mod tests {
    use super::{ASKS_ENOUGH, Batch, GATHER, Gather, Gathering, LOAD_ASKS, Load, SLICE};
    use crate::port::Result;
    use crate::types::StateError;
    use async_trait::async_trait;
    use std::sync::{Arc, Mutex};
    use tokio::task::JoinSet;
    use tokio::time::Instant;

    /// Doubles what it is asked; remembers how much it was asked at once.
    #[derive(Clone, Default)]
    struct Doubler {
        asked: Arc<Mutex<Vec<usize>>>,
        failing: bool,
    }

    /// Fails with whatever it is asked among.
    const SPOILT: u64 = 666;

    #[async_trait]
    impl Batch for Doubler {
        type Ask = u64;
        type Answer = u64;

        async fn run(&self, asks: Vec<u64>) -> Result<Vec<u64>> {
            self.asked.lock().unwrap().push(asks.len());
            if self.failing {
                return Err(StateError::Away { what: "doubling", cause: "no".into() });
            }
            if asks.contains(&SPOILT) {
                return Err(StateError::Spoilt { what: "doubling", key: "k".to_owned() });
            }
            Ok(asks.into_iter().map(|ask| 2 * ask).collect())
        }

        fn alone(ask: &u64) -> Option<u64> {
            Some(*ask)
        }
    }

    fn gather(doubler: &Doubler, saves: bool) -> Arc<Gather<Doubler>> {
        Arc::new(Gathering::new(move || saves).gather(doubler.clone()))
    }

    /// Asks for each of them at the same time, each alone.
    async fn ask_each(gather: &Arc<Gather<Doubler>>, asks: impl IntoIterator<Item = u64>) -> Vec<(u64, Result<u64>)> {
        let mut asking = JoinSet::new();
        for ask in asks {
            let gather = Arc::clone(gather);
            asking.spawn(async move { (ask, gather.ask_one(ask).await) });
        }
        asking.join_all().await
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_among_few_waits_for_nobody() {
        let doubler = Doubler::default();
        let gather = gather(&doubler, true);
        for ask in 0..50 {
            let before = Instant::now();
            assert_eq!(gather.ask_one(ask).await.unwrap(), 2 * ask);
            assert_eq!(before.elapsed(), std::time::Duration::ZERO);
            tokio::time::sleep(SLICE / 4).await;
        }
        assert_eq!(*doubler.asked.lock().unwrap(), vec![1; 50]);
    }

    #[tokio::test(start_paused = true)]
    async fn under_load_many_are_asked_for_at_once_and_each_hears_its_own_answer() {
        let doubler = Doubler::default();
        let gather = gather(&doubler, true);
        let before = Instant::now();
        for (ask, answer) in ask_each(&gather, 0..300).await {
            assert_eq!(answer.unwrap(), 2 * ask);
        }
        assert!(before.elapsed() <= 2 * GATHER, "{:?}", before.elapsed());
        let asked = doubler.asked.lock().unwrap().clone();
        assert_eq!(asked.iter().sum::<usize>(), 300);
        // Those before it was load go alone, and of the others none waits longer than until enough are together.
        assert!(asked.len() <= LOAD_ASKS as usize + 300_usize.div_ceil(ASKS_ENOUGH), "{asked:?}");
        assert!(asked.iter().all(|asks| *asks <= ASKS_ENOUGH), "{asked:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn enough_together_do_not_wait() {
        let doubler = Doubler::default();
        let gather = gather(&doubler, true);
        let before = Instant::now();
        let asks = u64::from(LOAD_ASKS) - 1 + 3 * ASKS_ENOUGH as u64;
        ask_each(&gather, 0..asks).await;
        assert_eq!(before.elapsed(), std::time::Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_of_many_goes_at_once_and_so_does_every_call_where_nothing_is_saved() {
        for (saves, asks) in [(true, ASKS_ENOUGH as u64), (false, 20)] {
            let doubler = Doubler::default();
            let gather = gather(&doubler, saves);
            let before = Instant::now();
            for _ in 0..3 {
                let asks: Vec<u64> = (0..asks).collect();
                assert_eq!(gather.ask(asks.clone()).await.unwrap().len(), asks.len());
            }
            assert_eq!((before.elapsed(), doubler.asked.lock().unwrap().len()), (std::time::Duration::ZERO, 3));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_told_to_everybody_and_a_spoilt_key_to_who_asked_for_it() {
        let doubler = Doubler { failing: true, ..Doubler::default() };
        let gather_failing = gather(&doubler, true);
        for (_, answer) in ask_each(&gather_failing, 0..40).await {
            assert!(matches!(answer, Err(StateError::Away { what: "doubling", .. })));
        }
        let gather = gather(&Doubler::default(), true);
        for (ask, answer) in ask_each(&gather, (0..40).chain([SPOILT])).await {
            match answer {
                Ok(answer) => assert_eq!(answer, 2 * ask),
                Err(error) => assert!(ask == SPOILT && matches!(error, StateError::Spoilt { .. }), "{ask}: {error}"),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn load_is_over_two_slices_after_the_last_rush() {
        let start = Instant::now();
        let mut load = Load::begin(start);
        assert!(!load.count(LOAD_ASKS as usize - 1, start));
        assert!(load.count(1, start));
        assert!(load.count(1, start + SLICE), "the slice before");
        assert!(!load.count(1, start + 2 * SLICE));
        assert!(load.count(LOAD_ASKS as usize, start + 2 * SLICE));
        assert!(!load.count(1, start + 5 * SLICE), "a slice without any");
    }
}
