//! One server: its connection, kept up by a task of its own, and its breaker.
//!
//! ```text
//!   dialling ----> up ----> dialling      the connection broke: it is made anew at once
//!      |            |
//!      |            '-----> down          calls were not answered, and the breaker opened
//!      |            |
//!      |            '-----> refusing      it answered that it cannot serve: READONLY, OOM, CLUSTERDOWN, ...
//!      |                     |  '-> up    a write succeeded
//!      '-----> down ----> up              tried again, at first soon, then when the breaker lets it
//! ```
//!
//! - It is up only after it has taken a write. One that reads and does not write is away, for reads too: nothing here does without
//!   writes, and half an answer misleads (a registry that can be read and not written empties).
//! - While it is down, or refuses, a call fails at once; while it is dialled a call waits, as long as it may.
//! - A server that refuses keeps its connection, and is asked over it. Only where another may stand behind its name it is dialled anew,
//!   now and then.
//! - A connection whose server stopped answering is given up: the server's host may be gone, and then no answer will ever say so.
//! - What is sent again after a break is what may be sent twice.

use super::breaker::{Breaker, BreakerLimits};
use super::command::Command;
use super::config::Address;
use super::dial::Dialer;
use super::first_look::advise;
use super::metrics::Metrics;
use super::refusal::Refusal;
use super::trouble::Trouble;
use redis::{Pipeline, Value, aio::MultiplexedConnection};
use std::error::Error;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

/// Between the first trials of a server that does not take connections: one that is started anew takes some tens of milliseconds.
const FIRST_TRIALS_APART: Duration = Duration::from_millis(25);
/// Between two connections to a server that refuses, and behind whose name another may stand: its name is looked up each time, and one
/// that is in trouble is not to be flooded.
const REFUSING_DIALLED_EVERY: Duration = Duration::from_secs(5);
/// How often a server that is up is asked for a write of no use, so that one which nobody calls is known to refuse. The one that the pulses
/// are written to needs none.
const PROBE_EVERY: Duration = Duration::from_secs(5);
/// What a probe writes ends by itself.
const PROBE_LIFE_MS: u64 = 60_000;

#[derive(Debug)]
pub(super) struct Server {
    address: Address,
    breaker: Mutex<Breaker>,
    link: watch::Sender<Link>,
    /// A key of its own slots, to try writes on.
    probe_key: Mutex<Option<Arc<str>>>,
    /// When it was last known to have taken a write; not of every write.
    written: Mutex<Option<Instant>>,
}

#[derive(Clone, Debug)]
enum Link {
    Dialling,
    Up {
        /// Counts the connections to this server.
        number: u64,
        connection: MultiplexedConnection,
    },
    /// It answers that it cannot serve.
    Refusing {
        number: u64,
        connection: MultiplexedConnection,
        refusal: Refusal,
        why: Arc<str>,
    },
    Down(Arc<str>),
}

/// What a server's task tells: something about the server has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// The first connection was made.
    First,
    /// It serves again.
    Again {
        /// Over another connection.
        is_reconnect: bool,
        /// Meanwhile it may have lost what it had acknowledged.
        may_have_forgotten: bool,
    },
    Gone,
}

/// Why a server is not up after a trial.
enum Failure {
    /// It did not answer, or not over a connection that can be used.
    Silent(String),
    Refuses(Refusal, MultiplexedConnection),
}

impl Server {
    pub(super) fn new(address: Address, limits: BreakerLimits) -> Self {
        Self {
            address,
            breaker: Mutex::new(Breaker::new(limits)),
            link: watch::Sender::new(Link::Dialling),
            probe_key: Mutex::default(),
            written: Mutex::default(),
        }
    }

    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    /// The key that writes are tried on.
    pub(super) fn probe_key(&self) -> Option<Arc<str>> {
        self.probe_key.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Writes are tried on this key from now on: one of the slots that it has.
    pub(super) fn probe_with(&self, key: &str) {
        *self.probe_key.lock().unwrap_or_else(PoisonError::into_inner) = Some(key.into());
    }

    /// It has just taken a write: none of no use is needed for a while.
    pub(super) fn note_written(&self) {
        *self.written.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn has_written_lately(&self) -> bool {
        self.written.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|at| at.elapsed() < PROBE_EVERY)
    }

    pub(super) fn is_breaker_open(&self) -> bool {
        !self.breaker().is_closed()
    }

    /// Whether it answers, if only that it cannot serve.
    pub(super) fn is_up(&self) -> bool {
        matches!(*self.link.borrow(), Link::Up { .. } | Link::Refusing { .. })
    }

    /// Why it cannot be used; `None` while it can.
    pub(super) fn why_down(&self) -> Option<Arc<str>> {
        match &*self.link.borrow() {
            Link::Up { .. } => None,
            Link::Refusing { why, .. } | Link::Down(why) => Some(Arc::clone(why)),
            Link::Dialling => Some(format!("{}: connecting", self.address).into()),
        }
    }

    /// Keeps the connection, for as long as it runs.
    pub(super) async fn keep(self: Arc<Self>, dialer: Arc<Dialer>, metrics: Metrics, changed: impl Fn(Change) + Send) {
        let mut number = 0;
        let mut dialled_at = None;
        let mut was_up = false;
        // Since it was last up: whether the connection is another, and what was refused.
        let mut is_reconnect = false;
        let mut refused: Option<Refusal> = None;
        loop {
            let trial_at = self.breaker().trial_at();
            if let Some(at) = trial_at {
                // Spread, so that a server that comes back does not meet all its clients at once.
                sleep_until(at + at.saturating_duration_since(Instant::now()).mul_f64(fastrand::f64() / 5.0)).await;
                self.breaker().begin_trial(Instant::now());
            }
            let connection = match self.held(dialled_at) {
                Some(connection) => Ok(connection),
                None => {
                    (number, dialled_at, is_reconnect) = (number + 1, Some(Instant::now()), true);
                    dialer.dial(&self.address).await.map_err(|error| Failure::Silent(error.told()))
                }
            };
            let tried = match connection {
                Ok(connection) => self.try_write(connection, dialer.patience(), &metrics).await,
                Err(failure) => Err(failure),
            };
            match tried {
                Ok(connection) => {
                    self.breaker().close();
                    self.link.send_replace(Link::Up { number, connection: connection.clone() });
                    if was_up {
                        tracing::info!(server = %self.address, is_reconnect, "Redis serves again");
                        let may_have_forgotten = is_reconnect || refused.is_some_and(Refusal::may_have_forgotten);
                        changed(Change::Again { is_reconnect, may_have_forgotten });
                    } else {
                        tracing::info!(server = %self.address, "connected to Redis");
                        changed(Change::First);
                        advise(&dialer, &self.address, connection).await;
                    }
                    (was_up, is_reconnect, refused) = (true, false, None);
                    self.stays_up(dialer.patience(), &metrics).await;
                    match &*self.link.borrow() {
                        Link::Refusing { why, refusal, .. } => {
                            refused = Some(*refusal);
                            tracing::warn!(server = %self.address, why = &**why, "Redis is away");
                        }
                        Link::Down(why) => tracing::warn!(server = %self.address, why = &**why, "lost Redis"),
                        Link::Dialling | Link::Up { .. } => {
                            tracing::warn!(server = %self.address, why = "the connection broke", "lost Redis")
                        }
                    }
                }
                Err(Failure::Refuses(refusal, connection)) => {
                    self.breaker().on_refusal(Instant::now());
                    let why = self.why_it_refuses(refusal);
                    if refused.replace(refusal).is_none() {
                        tracing::warn!(server = %self.address, why = &*why, "Redis is away");
                    }
                    self.link.send_replace(Link::Refusing { number, connection, refusal, why });
                }
                Err(Failure::Silent(why)) => {
                    let was_closed = self.breaker().is_closed();
                    let opened = self.breaker().on_failure(Instant::now());
                    let why = format!("{}: {why}", self.address);
                    if opened && was_closed {
                        tracing::warn!(server = %self.address, why, "Redis is away");
                    }
                    self.link.send_replace(Link::Down(why.into()));
                    if !opened {
                        changed(Change::Gone);
                        sleep(FIRST_TRIALS_APART).await;
                        continue;
                    }
                }
            }
            changed(Change::Gone);
        }
    }

    /// The connection of a server that refuses, unless another server is to be looked for behind its name.
    fn held(&self, dialled_at: Option<Instant>) -> Option<MultiplexedConnection> {
        match &*self.link.borrow() {
            Link::Refusing { connection, refusal, .. } => {
                let is_old = dialled_at.is_none_or(|at| at.elapsed() >= REFUSING_DIALLED_EVERY);
                (!refusal.may_be_elsewhere() || !is_old).then(|| connection.clone())
            }
            Link::Dialling | Link::Up { .. } | Link::Down(_) => None,
        }
    }

    /// Whether a write succeeds over this connection, or at least is not refused for what the server is.
    async fn try_write(
        &self,
        mut connection: MultiplexedConnection,
        patience: Duration,
        metrics: &Metrics,
    ) -> Result<MultiplexedConnection, Failure> {
        let Some(probe) = self.probe() else { return Ok(connection) };
        metrics.commands.inc();
        match timeout(patience, connection.send_packed_commands(&probe, 0, probe.len())).await {
            Ok(Ok(answers)) => match refusal_in(&answers) {
                None => Ok(connection),
                Some(refusal) => Err(Failure::Refuses(refusal, connection)),
            },
            Ok(Err(error)) => Err(Failure::Silent(with_causes(&error))),
            Err(_elapsed) => Err(Failure::Silent(format!("no answer within {patience:?}"))),
        }
    }

    /// A write of no use; `None` while no key is known that this server has.
    fn probe(&self) -> Option<Pipeline> {
        let key = self.probe_key()?;
        let mut pipeline = Pipeline::new();
        pipeline.cmd("SET").arg(&*key).arg(1).arg("PX").arg(PROBE_LIFE_MS);
        Some(pipeline)
    }

    /// Returns when it is up no more. It is probed meanwhile.
    async fn stays_up(&self, patience: Duration, metrics: &Metrics) {
        let mut link = self.link.subscribe();
        // The sender is in `self`: waiting fails by the time alone.
        while timeout(PROBE_EVERY, link.wait_for(|link| !matches!(link, Link::Up { .. }))).await.is_err() {
            if !self.has_written_lately()
                && let Some(probe) = self.probe()
            {
                // What it answers is looked at as every answer is.
                drop(self.exchange(&probe, true, Instant::now() + patience, metrics).await);
            }
        }
    }

    /// Sends a pipeline and waits for all answers; one that is an error stands among them as such.
    pub(super) async fn exchange(
        &self,
        pipeline: &Pipeline,
        is_repeatable: bool,
        deadline: Instant,
        metrics: &Metrics,
    ) -> Result<Vec<Value>, Trouble> {
        let mut left = if is_repeatable { 2 } else { 1 };
        loop {
            left -= 1;
            let (number, connection) = self.connection(deadline).await?;
            let sent = self.send(pipeline, number, connection, deadline, metrics).await;
            if let Err(Trouble::Broken(..)) = sent {
                if left == 0 {
                    self.on_failure(number);
                }
                self.give_up(number, Link::Dialling);
                if left > 0 {
                    continue;
                }
            }
            return sent;
        }
    }

    /// The same once, also to a server that refuses others: it may have something to say about its cluster.
    pub(super) async fn exchange_anyway(&self, pipeline: &Pipeline, deadline: Instant, metrics: &Metrics) -> Result<Vec<Value>, Trouble> {
        let refusing = match &*self.link.borrow() {
            Link::Refusing { number, connection, .. } => Some((*number, connection.clone())),
            Link::Dialling | Link::Up { .. } | Link::Down(_) => None,
        };
        match refusing {
            Some((number, connection)) => self.send(pipeline, number, connection, deadline, metrics).await,
            None => self.exchange(pipeline, true, deadline, metrics).await,
        }
    }

    async fn send(
        &self,
        pipeline: &Pipeline,
        number: u64,
        mut connection: MultiplexedConnection,
        deadline: Instant,
        metrics: &Metrics,
    ) -> Result<Vec<Value>, Trouble> {
        let sent = Instant::now();
        metrics.commands.inc_by(u64::try_from(pipeline.len()).unwrap_or(u64::MAX));
        match timeout_at(deadline, connection.send_packed_commands(pipeline, 0, pipeline.len())).await {
            Ok(Ok(answers)) if answers.len() == pipeline.len() => {
                metrics.latency.observe(sent.elapsed().as_secs_f64());
                self.look_at(&answers, number);
                Ok(answers)
            }
            Ok(Ok(_)) => {
                self.give_up(number, Link::Dialling);
                Err(Trouble::Down(format!("{}: lost count of the answers", self.address).into()))
            }
            Ok(Err(error)) => Err(Trouble::Broken(self.address.clone(), error)),
            Err(_elapsed) => {
                self.on_failure(number);
                Err(Trouble::TimedOut(self.address.clone()))
            }
        }
    }

    /// The connection, waited for while it is being made.
    async fn connection(&self, deadline: Instant) -> Result<(u64, MultiplexedConnection), Trouble> {
        let mut link = self.link.subscribe();
        match timeout_at(deadline, link.wait_for(|link| !matches!(link, Link::Dialling))).await {
            Ok(Ok(link)) => match &*link {
                Link::Up { number, connection } => Ok((*number, connection.clone())),
                Link::Refusing { why, .. } | Link::Down(why) => Err(Trouble::Down(Arc::clone(why))),
                Link::Dialling => unreachable!("waited for the others"),
            },
            Ok(Err(_)) | Err(_) => Err(Trouble::Down(format!("{}: not connected yet", self.address).into())),
        }
    }

    /// The server lives, unless it says that it cannot serve.
    fn look_at(&self, answers: &[Value], number: u64) {
        match refusal_in(answers) {
            None => self.breaker().on_answer(),
            Some(refusal) => self.on_refusal(number, refusal),
        }
    }

    /// Everybody else is told at once, until a write succeeds. The connection is kept.
    fn on_refusal(&self, number: u64, refusal: Refusal) {
        if !self.is_current(number) {
            return;
        }
        self.breaker().on_refusal(Instant::now());
        let why = self.why_it_refuses(refusal);
        self.link.send_if_modified(|link| match link {
            Link::Up { number: current, connection } if *current == number => {
                *link = Link::Refusing { number, connection: connection.clone(), refusal, why };
                true
            }
            Link::Up { .. } | Link::Refusing { .. } | Link::Dialling | Link::Down(_) => false,
        });
    }

    fn why_it_refuses(&self, refusal: Refusal) -> Arc<str> {
        format!("{} {}", self.address, refusal.why()).into()
    }

    fn on_failure(&self, number: u64) {
        if self.is_current(number) && self.breaker().on_failure(Instant::now()) {
            self.give_up(number, Link::Down(format!("{}: left alone after too many failures in a row", self.address).into()));
        }
    }

    /// What was sent over a connection that has been given up since says nothing about the present one.
    fn is_current(&self, number: u64) -> bool {
        matches!(*self.link.borrow(), Link::Up { number: current, .. } if current == number)
    }

    /// Lets go of a connection, unless that has been done already.
    fn give_up(&self, number: u64, next: Link) {
        self.link.send_if_modified(|link| match link {
            Link::Up { number: current, .. } if *current == number => {
                *link = next;
                true
            }
            Link::Up { .. } | Link::Refusing { .. } | Link::Dialling | Link::Down(_) => false,
        });
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether one of the answers is that the server cannot serve.
fn refusal_in(answers: &[Value]) -> Option<Refusal> {
    answers.iter().find_map(|answer| if let Value::ServerError(error) = answer { Refusal::of(error) } else { None })
}

/// A pipeline of commands.
pub(super) fn pipeline<'a>(commands: impl Iterator<Item = &'a Command>) -> Pipeline {
    let mut pipeline = Pipeline::new();
    for command in commands {
        pipeline.add_command(command.cmd.clone());
    }
    pipeline
}

/// An error and what caused it, in a line.
pub(super) fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
