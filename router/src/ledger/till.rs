//! The till: gifts of many rooms at once, paid in few transactions.
//!
//! ```text
//! room 1 ─┐                ┌ writer 0 ─ one transaction for all that waits, at most 256
//! room 2 ─┼─ by room id ─ queues
//! room 3 ─┘                └ writer 1 ─ ...
//! ```
//!
//! - Gifts of a room are paid in the order in which they were handed in: a room has one writer, and a writer one transaction at a time.
//! - An answer is one that is on the disk. A gift whose transaction failed is answered as away; it may be asked for again with its `uuid`,
//!   also where it was paid.
//! - No caller waits for longer than `ledger.call_timeout`, the queue included, and a full queue takes nothing: what is refused was not paid.
//! - What was told to a room is taken out of the outbox `ledger.told_after` later, with the gifts of then or by themselves: told is in the room's log
//!   and on its way, and where the log dies with the process, what was in the sockets does too. What is lost of it is told again.

use super::{
    Ledger,
    database::Database,
    gifts::{self, BATCH_GIFTS_MAX},
    metrics::TillMetrics,
};
use crate::{
    failpoint,
    services::ports::{
        RecordError, Result,
        money::{self, GiftOutcome, NewGift},
    },
};
use billfish_state::{Clock, RoomId};
use prometheus_client::registry::Registry;
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{
        Notify,
        mpsc::{self, error::TrySendError},
        oneshot,
    },
    time::{Instant, sleep_until, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long a busy writer waits for more gifts: less than its commit takes.
const GATHER: Duration = Duration::from_millis(2);
/// Told gifts of one transaction.
const TOLD_PER_BATCH: usize = 1_024;
/// Told gifts that wait at one writer: of some seconds of its most.
const TOLD_MAX: usize = 65_536;

/// The queue took no more.
pub(super) const FULL: &str = "full";
/// The records did not answer.
pub(super) const AWAY: &str = "away";
/// No gift that can be paid.
pub(super) const UNREADABLE: &str = "unreadable";

const WHAT: &str = "paying a gift";

/// Takes gifts to be paid. Cheap to clone; every clone has the same queues.
#[derive(Clone, Debug)]
pub struct Till(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    desks: Vec<Desk>,
    metrics: TillMetrics,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// The near side of a writer.
#[derive(Debug)]
struct Desk {
    gifts: mpsc::Sender<Waiting>,
    told: Arc<Told>,
}

/// A gift in a queue.
#[derive(Debug)]
struct Waiting {
    gift: NewGift,
    since: Instant,
    answer: oneshot::Sender<Result<GiftOutcome>>,
}

impl Till {
    /// Starts the writers: one for a file, `ledger.till_writers` for a server.
    pub fn start(ledger: &Ledger, clock: &Clock, registry: &mut Registry) -> Self {
        Self::start_with(ledger, clock, TillMetrics::register(registry))
    }

    pub(super) fn start_with(ledger: &Ledger, clock: &Clock, metrics: TillMetrics) -> Self {
        let writers = match ledger.database {
            Database::Sqlite { .. } => 1,
            Database::MySql { .. } => ledger.till_writers,
        };
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let desks = (0..writers)
            .map(|_| {
                let (sender, receiver) = mpsc::channel(ledger.till_queue_max);
                let told = Arc::new(Told { stays: ledger.told_after, ..Told::default() });
                let writer = Writer {
                    ledger: ledger.clone(),
                    clock: clock.clone(),
                    metrics: metrics.clone(),
                    told: Arc::clone(&told),
                    gifts: receiver,
                };
                tasks.spawn(writer.run(stop.clone()));
                Desk { gifts: sender, told }
            })
            .collect();
        Self(Arc::new(Inner { desks, metrics, stop, tasks }))
    }

    /// Hands a gift in, behind all that were handed in for its room before; its outcome comes when it is on the disk.
    ///
    /// # Errors
    /// The queue is full or the till closed, and nothing is paid: [`RecordError::Away`]. Or it is no gift: [`RecordError::Unreadable`].
    pub fn submit(&self, gift: NewGift) -> Result<oneshot::Receiver<Result<GiftOutcome>>> {
        let Inner { metrics, .. } = &*self.0;
        gifts::check(&gift).inspect_err(|_| metrics.became(UNREADABLE))?;
        let (answer, outcome) = oneshot::channel();
        let desk = self.desk(gift.room);
        // First, for the writer may be faster than what follows.
        metrics.queue_depth.inc();
        let refused = match desk.gifts.try_send(Waiting { gift, since: Instant::now(), answer }) {
            Ok(()) => return Ok(outcome),
            Err(TrySendError::Full(_)) => (FULL, "as many gifts as may wait are waiting"),
            Err(TrySendError::Closed(_)) => (AWAY, "the till has closed"),
        };
        metrics.queue_depth.dec();
        metrics.became(refused.0);
        Err(RecordError::Away { what: WHAT, cause: refused.1.into() })
    }

    /// Pays a gift.
    ///
    /// # Errors
    /// As [`Till::submit`], and [`RecordError::Away`] where its transaction failed: it may have been paid.
    pub async fn pay(&self, gift: NewGift) -> Result<GiftOutcome> {
        match self.submit(gift)?.await {
            Ok(outcome) => outcome,
            Err(_) => Err(RecordError::Away { what: WHAT, cause: "the till has closed".into() }),
        }
    }

    /// These gifts have been told to their rooms. They leave the outbox with the next gifts, or soon.
    pub fn told(&self, gifts: &[(RoomId, i64)]) {
        for (room, seq) in gifts {
            let dropped = self.desk(*room).told.add([(*room, *seq)]);
            self.0.metrics.told_dropped.inc_by(dropped);
        }
    }

    /// Pays what has been handed in, takes nothing more, and waits until it is done.
    pub async fn close(&self) {
        self.0.stop.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    fn desk(&self, room: RoomId) -> &Desk {
        let desks = &self.0.desks;
        &desks[usize::try_from(room.0.unsigned_abs() % desks.len() as u64).unwrap_or(0)]
    }
}

impl money::Till for Till {
    fn submit(&self, gift: NewGift) -> Result<oneshot::Receiver<Result<GiftOutcome>>> {
        Self::submit(self, gift)
    }

    fn told(&self, gifts: &[(RoomId, i64)]) {
        Self::told(self, gifts);
    }
}

/// Told gifts of a writer's rooms that still stand in the outbox.
#[derive(Debug, Default)]
struct Told {
    /// In the order of their times.
    rows: Mutex<VecDeque<(Instant, (RoomId, i64))>>,
    came: Notify,
    /// `ledger.told_after`
    stays: Duration,
}

impl Told {
    /// Adds as many as there is room for; how many were dropped.
    fn add(&self, told: impl IntoIterator<Item = (RoomId, i64)>) -> u64 {
        let mut dropped = 0;
        let mut rows = self.lock();
        let now = Instant::now();
        for row in told {
            if rows.len() < TOLD_MAX {
                rows.push_back((now, row));
            } else {
                dropped += 1;
            }
        }
        drop(rows);
        self.came.notify_one();
        dropped
    }

    /// Those that have been here for long enough, or all, the oldest first.
    fn take(&self, all: bool) -> Vec<(RoomId, i64)> {
        let now = Instant::now();
        let mut rows = self.lock();
        let count = rows.iter().take(TOLD_PER_BATCH).take_while(|(since, _)| all || *since + self.stays <= now).count();
        rows.drain(..count).map(|(_, row)| row).collect()
    }

    /// Waits until some have been here for long enough. Cancel-safe: a notice that is lost is asked for in the list.
    async fn are_due(&self) {
        loop {
            let oldest = self.lock().front().map(|(since, _)| *since);
            match oldest {
                Some(since) => return sleep_until(since + self.stays).await,
                None => self.came.notified().await,
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(Instant, (RoomId, i64))>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The far side of a queue.
struct Writer {
    ledger: Ledger,
    clock: Clock,
    metrics: TillMetrics,
    told: Arc<Told>,
    gifts: mpsc::Receiver<Waiting>,
}

impl Writer {
    async fn run(mut self, stop: CancellationToken) {
        let mut batch = Vec::with_capacity(BATCH_GIFTS_MAX);
        let mut is_busy = false;
        let mut is_open = true;
        loop {
            // Each arm is cancel-safe: what was not taken is still there.
            let is_over = tokio::select! {
                count = self.gifts.recv_many(&mut batch, BATCH_GIFTS_MAX) => count == 0,
                () = self.told.are_due() => false,
                () = stop.cancelled(), if is_open => {
                    is_open = false;
                    // What is in the queue is still paid.
                    self.gifts.close();
                    continue;
                }
            };
            if is_over {
                break;
            }
            if is_busy {
                self.gather(&mut batch).await;
            }
            is_busy = batch.len() > 1;
            self.settle(&mut batch).await;
        }
        // Nobody dies here: what was told has been sent. Whatever stays is told again by the next owner.
        loop {
            let told = self.told.take(true);
            if told.is_empty() || self.ledger.pay(&[], &told, self.clock.now_ms(), self.ledger.call_timeout).await.is_err() {
                break;
            }
        }
    }

    /// Waits a little for more.
    async fn gather(&mut self, batch: &mut Vec<Waiting>) {
        let until = Instant::now() + GATHER;
        while !batch.is_empty() && batch.len() < BATCH_GIFTS_MAX {
            let more = BATCH_GIFTS_MAX - batch.len();
            match timeout_at(until, self.gifts.recv_many(batch, more)).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
    }

    /// Pays a batch, and answers all of it.
    async fn settle(&mut self, batch: &mut Vec<Waiting>) {
        self.left_the_queue(batch.len());
        let call_timeout = self.ledger.call_timeout;
        let (mut gifts, mut answers, mut longest) = (Vec::with_capacity(batch.len()), Vec::with_capacity(batch.len()), Duration::ZERO);
        for Waiting { gift, since, answer } in batch.drain(..) {
            let waited = since.elapsed();
            // What is left of its time would hardly do, and it is the time of all.
            if waited > call_timeout * 3 / 4 {
                self.answer(answer, Err(RecordError::Away { what: WHAT, cause: "it has waited in the queue for too long".into() }));
                continue;
            }
            longest = longest.max(waited);
            gifts.push(gift);
            answers.push(answer);
        }
        let told = self.told.take(false);
        if gifts.is_empty() && told.is_empty() {
            return;
        }
        failpoint::at("pay_taken");
        let started = Instant::now();
        let paid = self.ledger.pay(&gifts, &told, self.clock.now_ms(), call_timeout - longest).await;
        if !gifts.is_empty() {
            self.metrics.batch_of(gifts.len(), started.elapsed());
        }
        failpoint::at("pay_answer");
        match paid {
            Ok(outcomes) => {
                for (answer, outcome) in answers.into_iter().zip(outcomes) {
                    self.answer(answer, Ok(outcome));
                }
            }
            Err(error) => {
                self.metrics.told_dropped.inc_by(self.told.add(told));
                match error {
                    RecordError::Unreadable { .. } => self.one_by_one(gifts, answers).await,
                    RecordError::Away { .. } => self.all_away(answers, error),
                }
            }
        }
    }

    /// Something that one of the gifts needs cannot be read: the others do not suffer for it.
    async fn one_by_one(&mut self, gifts: Vec<NewGift>, answers: Vec<oneshot::Sender<Result<GiftOutcome>>>) {
        let mut asked = gifts.into_iter().zip(answers);
        while let Some((gift, answer)) = asked.next() {
            let paid = self.ledger.pay(&[gift], &[], self.clock.now_ms(), self.ledger.call_timeout).await;
            match paid {
                Err(error @ RecordError::Away { .. }) => {
                    let rest = asked.map(|(_, answer)| answer);
                    self.all_away(std::iter::once(answer).chain(rest).collect(), error);
                    return;
                }
                Err(error) => self.answer(answer, Err(error)),
                Ok(outcomes) => {
                    for (answer, outcome) in std::iter::once(answer).zip(outcomes) {
                        self.answer(answer, Ok(outcome));
                    }
                }
            }
        }
    }

    /// Nobody waits for a database that is away: those in the queue have waited for this try.
    fn all_away(&mut self, answers: Vec<oneshot::Sender<Result<GiftOutcome>>>, error: RecordError) {
        let error = Arc::new(error);
        let mut waiting = Vec::new();
        while let Ok(Waiting { answer, .. }) = self.gifts.try_recv() {
            waiting.push(answer);
        }
        self.left_the_queue(waiting.len());
        for answer in answers.into_iter().chain(waiting) {
            self.answer(answer, Err(RecordError::Away { what: WHAT, cause: Box::new(Arc::clone(&error)) }));
        }
    }

    fn answer(&self, answer: oneshot::Sender<Result<GiftOutcome>>, outcome: Result<GiftOutcome>) {
        match &outcome {
            Ok(outcome) => self.metrics.decided(outcome),
            Err(RecordError::Away { .. }) => self.metrics.became(AWAY),
            Err(RecordError::Unreadable { .. }) => self.metrics.became(UNREADABLE),
        }
        // Who does not listen any more asks again.
        answer.send(outcome).ok();
    }

    fn left_the_queue(&self, gifts: usize) {
        self.metrics.queue_depth.dec_by(i64::try_from(gifts).unwrap_or(i64::MAX));
    }
}
