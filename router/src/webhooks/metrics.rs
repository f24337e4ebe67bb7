//! Every metric of webhooks. Their list for operators is `docs/metrics.md`.

use crate::ledger::webhooks::{Hooks, WebhookId};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// What webhooks count; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct WebhookMetrics {
    /// `router_webhooks_held`
    pub(super) held: Gauge,
    waiting: Gauge,
    oldest: Gauge,
    away: Gauge,
    tries: Family<ResultLabels, Counter>,
    /// `router_webhook_given_up_total`
    pub(super) given_up: Counter,
    users_dropped: Family<ReasonLabels, Counter>,
    call: Histogram,
    fares: Arc<Mutex<BTreeMap<WebhookId, Fares>>>,
}

/// How a hook that this router holds fares.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fares {
    pub(super) waiting: u64,
    pub(super) oldest_s: u64,
    pub(super) is_away: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabels {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

/// What becomes of a try.
pub(super) const ACCEPTED: &str = "accepted";
pub(super) const REFUSED: &str = "refused";
pub(super) const NO_ANSWER: &str = "no_answer";
/// Why it is not told that a user came or went.
pub(super) const QUEUE_FULL: &str = "queue_full";
pub(super) const STATE_AWAY: &str = "state_away";
pub(super) const RECORDS_AWAY: &str = "records_away";

/// From a receiver in the same room to the longest time-out.
const CALL_SECONDS: [f64; 10] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 1.0, 5.0, 15.0, 60.0];

impl WebhookMetrics {
    pub(crate) fn register(registry: &mut Registry, hooks: &Hooks) -> Self {
        let metrics = Self {
            held: Gauge::default(),
            waiting: Gauge::default(),
            oldest: Gauge::default(),
            away: Gauge::default(),
            tries: Family::default(),
            given_up: Counter::default(),
            users_dropped: Family::default(),
            call: Histogram::new(CALL_SECONDS),
            fares: Arc::default(),
        };
        for result in [ACCEPTED, REFUSED, NO_ANSWER] {
            drop(metrics.tries.get_or_create(&ResultLabels { result }));
        }
        for reason in [QUEUE_FULL, STATE_AWAY, RECORDS_AWAY] {
            drop(metrics.users_dropped.get_or_create(&ReasonLabels { reason }));
        }
        registry.register("router_webhooks_held", "Webhooks whose events this router sends", metrics.held.clone());
        registry.register("router_webhooks_away", "Webhooks held here whose receiver accepts nothing", metrics.away.clone());
        registry.register("router_webhook_waiting", "Events that wait for the webhooks held here", metrics.waiting.clone());
        let help = "Age of the event that waits for longest for a webhook held here";
        registry.register_with_unit("router_webhook_oldest", help, Unit::Seconds, metrics.oldest.clone());
        registry.register("router_webhook_events", "Events written, once for each webhook", hooks.written_total.clone());
        let help = "Events that were not kept, for as many waited for their webhook as may";
        registry.register("router_webhook_dropped", help, hooks.dropped_total.clone());
        registry.register("router_webhook_tries", "Calls of receivers by what became of them", metrics.tries.clone());
        registry.register("router_webhook_given_up", "Events that were given up", metrics.given_up.clone());
        let help = "Users who came or went, and no webhook is told";
        registry.register("router_webhook_users_dropped", help, metrics.users_dropped.clone());
        registry.register_with_unit("router_webhook_call", "One call of a receiver", Unit::Seconds, metrics.call.clone());
        metrics
    }

    pub(super) fn tried(&self, result: &'static str, took: Duration) {
        self.tries.get_or_create(&ResultLabels { result }).inc();
        self.call.observe(took.as_secs_f64());
    }

    pub(super) fn users_dropped(&self, reason: &'static str, users: usize) {
        self.users_dropped.get_or_create(&ReasonLabels { reason }).inc_by(users as u64);
    }

    /// How a hook fares; none: another router holds it, or it is gone.
    pub(super) fn fares(&self, hook: WebhookId, fares: Option<Fares>) {
        let mut all = self.fares.lock().unwrap_or_else(PoisonError::into_inner);
        match fares {
            Some(fares) => drop(all.insert(hook, fares)),
            None => drop(all.remove(&hook)),
        }
        let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        self.waiting.set(signed(all.values().map(|fares| fares.waiting).sum()));
        self.oldest.set(signed(all.values().map(|fares| fares.oldest_s).max().unwrap_or(0)));
        self.away.set(signed(all.values().filter(|fares| fares.is_away).count() as u64));
    }

    #[cfg(test)]
    pub(super) fn tries(&self, result: &'static str) -> u64 {
        self.tries.get_or_create(&ResultLabels { result }).get()
    }

    #[cfg(test)]
    pub(super) fn dropped(&self, reason: &'static str) -> u64 {
        self.users_dropped.get_or_create(&ReasonLabels { reason }).get()
    }
}
