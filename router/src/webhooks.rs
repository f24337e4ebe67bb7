//! Webhooks: a business backend's server is told what happens here. Rooms open and close, users come and go, gifts are paid, PKs end.
//!
//! - What is told stands in the records, by the transaction of what it tells, until a receiver has accepted it (2xx) or it was given up: at
//!   least once, each event under one id, those of one room in their order.
//! - A receiver that is slow, away or wrong costs nobody anything but itself: what it does not take waits up to a bound, and is dropped beyond it.
//! - Receivers are chosen by the holder of the API key. What they could reach through this machine and nobody else is not called: see
//!   [`WebhooksConfig::allow_private`].
//!
//! Users who come and go are told from a queue, and may be lost with this process; see `users`.

mod config;
mod desk;
pub(crate) mod event;
pub(crate) mod metrics;
#[cfg(test)]
pub(crate) mod receiver;
mod sender;
mod users;

pub use config::{WebhooksConfig, WebhooksConfigError};
pub use users::UserWords;

use crate::{
    callout::Endpoint,
    ledger::{
        Ledger,
        webhooks::{GivenUp, Hook, NewHook, WebhookId},
    },
    services::ports::Result,
};
use billfish_state::{Clock, State};
use metrics::WebhookMetrics;
use prometheus_client::registry::Registry;
use sender::Shared;
use std::{
    fmt,
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};
use tokio::{
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Visits whose outcome waits to be stored.
const SETTLING_MAX: usize = 1_024;
/// Bytes of the address of a hook.
pub(crate) const URL_BYTES_MAX: usize = 1_024;
/// Longer than a call takes, the end of a process does not wait for calls under way: what they were about is sent again.
const CLOSE_MAX: Duration = Duration::from_secs(5);

/// Webhooks at work. Cheap to clone; every clone is the same.
#[derive(Clone)]
pub struct Webhooks(Arc<Inner>);

struct Inner {
    ledger: Ledger,
    clock: Clock,
    config: WebhooksConfig,
    words: UserWords,
    stop: CancellationToken,
    cut: CancellationToken,
    tasks: TaskTracker,
    #[cfg(test)]
    metrics: WebhookMetrics,
}

impl fmt::Debug for Webhooks {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Webhooks").field("config", &self.0.config).finish_non_exhaustive()
    }
}

impl Webhooks {
    /// Starts to send, beside whoever shares the records: `node` is this router's name, `life` rises with each of its starts.
    pub fn start(ledger: &Ledger, state: &State, (node, life): (&str, u64), config: &WebhooksConfig, registry: &mut Registry) -> Self {
        let metrics = WebhookMetrics::register(registry, ledger.hooks());
        ledger.hooks().bound(config.events_max);
        let (stop, cut, tasks) = (CancellationToken::new(), CancellationToken::new(), TaskTracker::new());
        let (settling, settlings) = mpsc::channel(SETTLING_MAX);
        let (words, teller) = UserWords::new(ledger, state, &metrics);
        let shared = Arc::new(Shared {
            ledger: ledger.clone(),
            clock: state.clock.clone(),
            config: config.clone(),
            holder: node.to_owned(),
            life,
            metrics: metrics.clone(),
            calls: Arc::new(Semaphore::new(config.calls_max)),
            busy: AtomicUsize::new(0),
            settling,
            stop: stop.clone(),
            cut: cut.clone(),
        });
        tasks.spawn(teller.run(stop.clone()));
        let (ledger, clock) = (ledger.clone(), state.clock.clone());
        tasks.spawn(sender::Settler { ledger: ledger.clone(), clock: clock.clone(), settlings, cut: cut.clone() }.run());
        tasks.spawn(sender::keep(shared));
        Self(Arc::new(Inner {
            ledger,
            clock,
            config: config.clone(),
            words,
            stop,
            cut,
            tasks,
            #[cfg(test)]
            metrics,
        }))
    }

    /// Where it is told that users come and go.
    #[must_use]
    pub fn users(&self) -> UserWords {
        self.0.words.clone()
    }

    /// Begins nothing more, waits some seconds for the calls under way, and gives its hooks back to others.
    pub async fn close(&self) {
        let Inner { stop, cut, tasks, config, .. } = &*self.0;
        stop.cancel();
        tasks.close();
        if timeout(config.timeout.min(CLOSE_MAX), tasks.wait()).await.is_err() {
            cut.cancel();
            // They end with what the records answer.
            timeout(CLOSE_MAX, tasks.wait()).await.ok();
        }
    }

    /// What is wrong with the address of a hook, if something is.
    pub(crate) fn check_url(&self, url: &str) -> std::result::Result<(), String> {
        let config = &self.0.config;
        if url.len() > URL_BYTES_MAX {
            return Err(format!("has at most {URL_BYTES_MAX} bytes"));
        }
        Endpoint::check(url)?;
        if !url.to_ascii_lowercase().starts_with("https://") && config.allow_http != Some(true) {
            return Err("must begin with https://, for this installation does not call by http (`webhooks.allow_http`)".to_owned());
        }
        if Endpoint::names_private_address(url) && config.allow_private != Some(true) {
            return Err("names an address that is not public, which this installation does not call (`webhooks.allow_private`)".to_owned());
        }
        Ok(())
    }

    /// How many hooks an app may have.
    pub(crate) fn hooks_max(&self) -> usize {
        self.0.config.hooks_max
    }

    /// Registers a hook; `None`: there are as many as there may be.
    pub(crate) async fn register(&self, new: &NewHook) -> Result<Option<Hook>> {
        self.0.ledger.add_hook(new, self.0.config.hooks_max, self.0.clock.now_ms()).await
    }

    /// The hooks, as the records have them now.
    pub(crate) async fn hooks(&self) -> Result<Vec<Hook>> {
        self.0.ledger.refresh_hooks().await
    }

    pub(crate) async fn remove(&self, hook: WebhookId) -> Result<()> {
        self.0.ledger.remove_hook(hook).await
    }

    /// For tests that look at what is counted.
    #[cfg(test)]
    pub(crate) fn tries(&self) -> [u64; 3] {
        [metrics::ACCEPTED, metrics::REFUSED, metrics::NO_ANSWER].map(|result| self.0.metrics.tries(result))
    }

    /// How many hooks it sends for.
    #[cfg(test)]
    pub(crate) fn held(&self) -> i64 {
        self.0.metrics.held.get()
    }

    pub(crate) async fn given_up(&self, hook: WebhookId, before: i64, limit: usize) -> Result<Vec<GivenUp>> {
        self.0.ledger.given_up_events(hook, before, limit).await
    }
}
