//! A move on its way: when it begins, what it waits for, and when it is tried again.
//!
//! The session machine decides what a move means; here is only how one comes to another connection.

use crate::{
    config::{ClientConfig, Ticket, TokenError},
    endpoint::Endpoint,
    reconnect::Backoff,
    transport::{ConnectError, Transport, Trust, race::race},
};
use std::{future::Future, pin::Pin, sync::Arc, time::Duration};
use tokio::time::{Instant, error::Elapsed, sleep_until, timeout};

type Waiting<T> = Pin<Box<dyn Future<Output = T> + Send>>;
type Fetched = Result<Result<Ticket, TokenError>, Elapsed>;
type Raced = Result<Transport, Vec<(Endpoint, ConnectError)>>;

/// After the network changed: when the old connection still stands after so many tries, the network is the old one.
const TRIES_MAX: u32 = 5;
/// How long a connection that goes on from another address may be silent there: some round trips, with a loss in each.
const MIGRATE_WAIT: Duration = Duration::from_secs(2);

/// Why the session moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// The gateway is going down.
    Drain,
    /// The device has another network.
    Network,
}

/// How far a move has come.
pub(super) enum Moving {
    No,
    Yes(Move),
}

pub(super) struct Move {
    pub(super) why: Why,
    backoff: Backoff,
    tries: u32,
    stage: Stage,
}

enum Stage {
    Due(Instant),
    /// The connection goes on from another address, unless nothing is heard there by then: so many echoes are awaited.
    Migrating {
        until: Instant,
        echoes: u32,
    },
    Fetching(Waiting<Fetched>),
    Racing {
        token: String,
        race: Waiting<Raced>,
    },
    /// The session logs in on the next connection.
    LoggingIn,
}

/// What a move has waited for.
pub(super) enum Step {
    Begin,
    Fetched(Fetched),
    Raced(Raced),
}

impl Moving {
    pub(super) fn begin(why: Why, at: Instant, config: &ClientConfig) -> Self {
        Self::Yes(Move { why, backoff: Backoff::new(config), tries: 0, stage: Stage::Due(at) })
    }

    /// The connection itself moves, and is asked for so many echoes.
    pub(super) fn migrating(echoes: u32, config: &ClientConfig) -> Self {
        let stage = Stage::Migrating { until: Instant::now() + MIGRATE_WAIT, echoes };
        Self::Yes(Move { why: Why::Network, backoff: Backoff::new(config), tries: 0, stage })
    }

    /// A heartbeat was echoed; whether it is the one that ends a migration.
    pub(super) fn on_echo(&mut self) -> bool {
        let Self::Yes(Move { stage: Stage::Migrating { echoes, .. }, .. }) = self else { return false };
        *echoes = echoes.saturating_sub(1);
        let has_migrated = *echoes == 0;
        if has_migrated {
            *self = Self::No;
        }
        has_migrated
    }

    pub(super) fn is_for_drain(&self) -> bool {
        matches!(self, Self::Yes(Move { why: Why::Drain, .. }))
    }

    /// Waits for what is next. Cancel-safe: what is waited for stays.
    pub(super) async fn step(&mut self) -> Step {
        let Self::Yes(going) = self else { return std::future::pending().await };
        match &mut going.stage {
            Stage::Due(at) | Stage::Migrating { until: at, .. } => {
                sleep_until(*at).await;
                Step::Begin
            }
            Stage::Fetching(fetch) => Step::Fetched(fetch.await),
            Stage::Racing { race, .. } => Step::Raced(race.await),
            Stage::LoggingIn => std::future::pending().await,
        }
    }

    pub(super) fn fetch(&mut self, config: &ClientConfig) {
        if let Self::Yes(going) = self {
            going.tries += 1;
            going.stage = Stage::Fetching(Box::pin(timeout(config.token_timeout, config.tokens.fetch())));
        }
    }

    pub(super) fn race(&mut self, token: String, endpoints: Vec<Endpoint>, trust: Arc<Trust>, config: &ClientConfig) {
        if let Self::Yes(going) = self {
            going.stage = Stage::Racing { token, race: Box::pin(race(endpoints, trust, config.connect_timeout)) };
        }
    }

    /// A connection stands; the token to log in with.
    pub(super) fn log_in(&mut self) -> Option<String> {
        let Self::Yes(going) = self else { return None };
        match std::mem::replace(&mut going.stage, Stage::LoggingIn) {
            Stage::Racing { token, .. } => Some(token),
            Stage::Due(_) | Stage::Migrating { .. } | Stage::Fetching(_) | Stage::LoggingIn => None,
        }
    }

    /// A try has failed: the next one comes at once where another address is named, and else after a pause.
    pub(super) fn try_again(&mut self, has_named: bool, at_least: Duration) {
        let Self::Yes(going) = self else { return };
        if going.why == Why::Network && going.tries >= TRIES_MAX {
            *self = Self::No;
            return;
        }
        let delay = if has_named { at_least } else { going.backoff.next_delay(at_least) };
        going.stage = Stage::Due(Instant::now() + delay);
    }
}
