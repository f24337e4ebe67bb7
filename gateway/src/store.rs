//! The way to the shared state: every call counted, none waited for without end.
//!
//! - A call that takes too long counts as failed. It may have been carried out all the same; the ports are made for that.
//! - Remembers whether the store is away, for readiness, and when the registry last failed, for how far it is to be believed.

use crate::metrics::{ControlCounters, Port};
use billfish_state::{Quiet, State, StateError};
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::time::Instant;
use tracing::{info, warn};

/// The state did not do what it was asked; counted and logged already.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Away;

/// The ports and their watch.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) state: State,
    counters: Arc<ControlCounters>,
    away: AtomicBool,
    registry_failed: Mutex<Option<Instant>>,
    quiet: Quiet,
}

impl Store {
    pub(crate) fn new(state: State, counters: Arc<ControlCounters>) -> Self {
        Self { state, counters, away: AtomicBool::new(false), registry_failed: Mutex::default(), quiet: Quiet::new() }
    }

    /// Why the store cannot be used, for a person; `None` while it can: as it says itself, or because the last call failed.
    pub(crate) fn away(&self) -> Option<String> {
        match self.state.watch.away() {
            Some(why) => Some(format!("the state store is away: {why}")),
            None => self.away.load(Relaxed).then(|| "the state store is away".to_owned()),
        }
    }

    /// Whether the registry has refused or failed something within this time, or the store is away: whoever is missing in it may live.
    pub(crate) fn registry_failed_within(&self, time: Duration) -> bool {
        let failed = *self.registry_failed.lock().unwrap_or_else(PoisonError::into_inner);
        self.state.watch.away().is_some() || failed.is_some_and(|at| at.elapsed() < time)
    }

    /// The time that all nodes agree on.
    pub(crate) fn now_ms(&self) -> u64 {
        self.state.clock.now_ms()
    }

    /// Waits for one call to a port, but not for long.
    ///
    /// Cancel-safe as far as the call is: all ports may be called again.
    pub(crate) async fn call<T>(&self, port: Port, call: impl Future<Output = Result<T, StateError>>) -> Result<T, Away> {
        let failed = match tokio::time::timeout(CALL_WAIT, call).await {
            Ok(Ok(value)) => {
                if self.away.swap(false, Relaxed)
                    && let Some(more_before) = self.quiet.may_say("back")
                {
                    info!(more_before, "the shared state is back");
                }
                return Ok(value);
            }
            Ok(Err(error)) => Some(error),
            Err(_) => None,
        };
        self.counters.state_error(port);
        if port == Port::Registry {
            *self.registry_failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
        // A full table or a spoilt key is an answer: the store itself is there.
        let away = !matches!(failed, Some(StateError::Full { .. } | StateError::Spoilt { .. }));
        let is_news = self.away.swap(away, Relaxed) != away || !away;
        if is_news && let Some(more_before) = self.quiet.may_say(Port::ALL[port as usize].1) {
            match failed {
                Some(error) => warn!(?port, error = &error as &dyn std::error::Error, more_before, "the shared state fails"),
                None => warn!(?port, wait = ?CALL_WAIT, more_before, "the shared state does not answer"),
            }
        }
        Err(Away)
    }
}

/// Longest wait for one call. An adapter gives up earlier; this holds where it does not.
const CALL_WAIT: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::{Away, CALL_WAIT, Store};
    use crate::metrics::{ControlCounters, Port};
    use billfish_state::{State, StateError};
    use std::sync::Arc;

    fn store() -> (Store, Arc<ControlCounters>) {
        let counters = Arc::new(ControlCounters::default());
        (Store::new(State::in_memory(), Arc::clone(&counters)), counters)
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_never_answers_is_given_up_on_and_known_to_be_away() {
        let (store, counters) = store();
        let before = tokio::time::Instant::now();
        let answer: Result<(), Away> = store.call(Port::Tokens, std::future::pending()).await;
        assert_eq!((answer, before.elapsed()), (Err(Away), CALL_WAIT));
        assert!(store.away().is_some());
        assert_eq!(counters.state_errors[Port::Tokens as usize].value(), 1);
        assert_eq!(store.call(Port::Tokens, async { Ok(7) }).await, Ok(7));
        assert_eq!(store.away(), None);
    }

    #[tokio::test]
    async fn a_full_table_fails_the_call_but_the_store_is_there() {
        let (store, counters) = store();
        let full = async { Err::<(), _>(StateError::Full { what: "tokens", limit: 1 }) };
        assert_eq!(store.call(Port::Tokens, full).await, Err(Away));
        assert_eq!(store.away(), None);
        assert_eq!(counters.state_errors[Port::Tokens as usize].value(), 1);
    }

    #[tokio::test]
    async fn a_spoilt_key_fails_the_call_but_the_store_is_there() {
        let (store, counters) = store();
        let spoilt = async { Err::<(), _>(StateError::Spoilt { what: "reading", key: "im:bindIp:1:1".to_owned() }) };
        assert_eq!(store.call(Port::Routes, spoilt).await, Err(Away));
        assert_eq!(store.away(), None);
        assert_eq!(counters.state_errors[Port::Routes as usize].value(), 1);
    }

    #[test]
    fn a_store_that_says_why_it_is_away_is_quoted() {
        let (store, _) = store();
        store.state.watch.set_away(Some("connection refused".to_owned()));
        assert_eq!(store.away().as_deref(), Some("the state store is away: connection refused"));
        store.state.watch.set_away(None);
        assert_eq!(store.away(), None);
    }
}
