//! One server: its connection, kept up by a task of its own, and its breaker.
//!
//! ```text
//!   dialling ----> up ----> dialling      the connection broke: it is made anew at once
//!      |            |
//!      |            '-----> down          calls were not answered, and the breaker opened
//!      '-----> down ----> up              tried again, at first soon, then when the breaker lets it
//! ```
//!
//! - While it is down a call fails at once; while it is dialled a call waits, as long as it may.
//! - A connection whose server stopped answering is given up: the server's host may be gone, and then no answer will ever say so.
//! - What is sent again after a break is what may be sent twice.

use super::breaker::{Breaker, BreakerLimits};
use super::command::Command;
use super::config::Address;
use super::dial::Dialer;
use super::metrics::Metrics;
use super::trouble::Trouble;
use redis::{Pipeline, ServerErrorKind, Value, aio::MultiplexedConnection};
use std::error::Error;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

/// Between the first trials of a server that does not take connections: one that is started anew takes some tens of milliseconds.
const FIRST_TRIALS_APART: Duration = Duration::from_millis(25);

#[derive(Debug)]
pub(super) struct Server {
    address: Address,
    breaker: Mutex<Breaker>,
    link: watch::Sender<Link>,
}

#[derive(Clone, Debug)]
enum Link {
    Dialling,
    Up {
        /// Counts the connections to this server.
        number: u64,
        connection: MultiplexedConnection,
    },
    Down(Arc<str>),
}

/// What a server's task tells: something about the server has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// The first connection was made.
    First,
    /// A connection was made again: meanwhile the server may have forgotten something.
    Again,
    Gone,
}

impl Server {
    pub(super) fn new(address: Address, limits: BreakerLimits) -> Self {
        Self { address, breaker: Mutex::new(Breaker::new(limits)), link: watch::Sender::new(Link::Dialling) }
    }

    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    pub(super) fn is_breaker_open(&self) -> bool {
        !self.breaker().is_closed()
    }

    pub(super) fn is_up(&self) -> bool {
        matches!(*self.link.borrow(), Link::Up { .. })
    }

    /// Why it cannot be used; `None` while it can.
    pub(super) fn why_down(&self) -> Option<Arc<str>> {
        match &*self.link.borrow() {
            Link::Up { .. } => None,
            Link::Down(why) => Some(Arc::clone(why)),
            Link::Dialling => Some(format!("{}: connecting", self.address).into()),
        }
    }

    /// Keeps the connection, for as long as it runs.
    pub(super) async fn keep(self: Arc<Self>, dialer: Arc<Dialer>, changed: impl Fn(Change) + Send) {
        let mut link = self.link.subscribe();
        let mut number = 0;
        loop {
            let trial_at = self.breaker().trial_at();
            if let Some(at) = trial_at {
                // Spread, so that a server that comes back does not meet all its clients at once.
                sleep_until(at + at.saturating_duration_since(Instant::now()).mul_f64(fastrand::f64() / 5.0)).await;
                self.breaker().begin_trial(Instant::now());
            }
            match dialer.dial(&self.address).await {
                Ok(connection) => {
                    number += 1;
                    self.breaker().close();
                    self.link.send_replace(Link::Up { number, connection });
                    tracing::info!(server = %self.address, "connected to Redis");
                    changed(if number == 1 { Change::First } else { Change::Again });
                    // The sender is in `self`: this cannot fail.
                    if link.wait_for(|link| !matches!(link, Link::Up { .. })).await.is_err() {
                        return;
                    }
                    let why = if let Link::Down(why) = &*self.link.borrow() { Arc::clone(why) } else { "the connection broke".into() };
                    tracing::warn!(server = %self.address, why = &*why, "lost Redis");
                    changed(Change::Gone);
                }
                Err(error) => {
                    let was_closed = self.breaker().is_closed();
                    let opened = self.breaker().on_failure(Instant::now());
                    let why = format!("{}: {}", self.address, with_causes(&error));
                    if opened && was_closed {
                        tracing::warn!(server = %self.address, why, "Redis is away");
                    }
                    self.link.send_replace(Link::Down(why.into()));
                    changed(Change::Gone);
                    if !opened {
                        sleep(FIRST_TRIALS_APART).await;
                    }
                }
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
            let (number, mut connection) = self.connection(deadline).await?;
            let sent = Instant::now();
            metrics.commands.inc_by(u64::try_from(pipeline.len()).unwrap_or(u64::MAX));
            match timeout_at(deadline, connection.send_packed_commands(pipeline, 0, pipeline.len())).await {
                Ok(Ok(answers)) if answers.len() == pipeline.len() => {
                    metrics.latency.observe(sent.elapsed().as_secs_f64());
                    self.look_at(&answers, number);
                    return Ok(answers);
                }
                Ok(Ok(_)) => {
                    self.give_up(number, Link::Dialling);
                    return Err(Trouble::Down(format!("{}: lost count of the answers", self.address).into()));
                }
                Ok(Err(error)) => {
                    if left == 0 {
                        self.on_failure(number);
                    }
                    self.give_up(number, Link::Dialling);
                    if left == 0 {
                        return Err(Trouble::Broken(self.address.clone(), error));
                    }
                }
                Err(_elapsed) => {
                    self.on_failure(number);
                    return Err(Trouble::TimedOut(self.address.clone()));
                }
            }
        }
    }

    /// The connection, waited for while it is being made.
    async fn connection(&self, deadline: Instant) -> Result<(u64, MultiplexedConnection), Trouble> {
        let mut link = self.link.subscribe();
        match timeout_at(deadline, link.wait_for(|link| !matches!(link, Link::Dialling))).await {
            Ok(Ok(link)) => match &*link {
                Link::Up { number, connection } => Ok((*number, connection.clone())),
                Link::Down(why) => Err(Trouble::Down(Arc::clone(why))),
                Link::Dialling => unreachable!("waited for the others"),
            },
            Ok(Err(_)) | Err(_) => Err(Trouble::Down(format!("{}: not connected yet", self.address).into())),
        }
    }

    /// The server lives, unless it says that it cannot serve.
    fn look_at(&self, answers: &[Value], number: u64) {
        let mut errors = answers.iter().filter_map(|answer| if let Value::ServerError(error) = answer { Some(error) } else { None });
        let cannot = errors.find(|error| is_unfit(error));
        match cannot {
            None => self.breaker().on_answer(),
            Some(error) => {
                self.on_failure(number);
                // Another server may stand behind the same name by now.
                if error.kind() == Some(ServerErrorKind::ReadOnly) {
                    self.give_up(number, Link::Dialling);
                }
            }
        }
    }

    fn on_failure(&self, number: u64) {
        // What was sent over a connection that has been given up since says nothing about the present one.
        let is_current = matches!(*self.link.borrow(), Link::Up { number: current, .. } if current == number);
        if is_current && self.breaker().on_failure(Instant::now()) {
            self.give_up(number, Link::Down(format!("{}: left alone after too many failures in a row", self.address).into()));
        }
    }

    /// Lets go of a connection, unless that has been done already.
    fn give_up(&self, number: u64, next: Link) {
        self.link.send_if_modified(|link| match link {
            Link::Up { number: current, .. } if *current == number => {
                *link = next;
                true
            }
            Link::Up { .. } | Link::Dialling | Link::Down(_) => false,
        });
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether an error is about the server rather than about what it was asked. `CLUSTERDOWN` is about the others.
fn is_unfit(error: &redis::ServerError) -> bool {
    matches!(error.kind(), Some(ServerErrorKind::BusyLoading | ServerErrorKind::MasterDown | ServerErrorKind::ReadOnly))
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
