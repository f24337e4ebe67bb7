//! Every metric of the till and of the look over the money. Their list for operators is `docs/metrics.md`.

use super::{reconcile, till};
use crate::services::ports::money::{GiftOutcome, Reconciliation};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};
use std::time::Duration;

/// What the till counts; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct TillMetrics {
    /// `router_till_queue_depth`
    pub(super) queue_depth: Gauge,
    outcomes: Family<OutcomeLabels, Counter>,
    /// `router_till_told_dropped_total`
    pub(super) told_dropped: Counter,
    batch_gifts: Histogram,
    batch: Histogram,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

/// What becomes of a gift, as labels.
const OUTCOMES: [&str; 9] = ["paid", "repeated", "conflict", "not_covered", "no_room", "fenced", till::FULL, till::AWAY, till::UNREADABLE];
/// From one gift to the most that a transaction takes.
const GIFTS: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];
/// From a commit on a fast disk to the longest time-out of a call.
const BATCH_SECONDS: [f64; 10] = [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.1, 0.5, 2.0, 5.0];

impl TillMetrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            queue_depth: Gauge::default(),
            outcomes: Family::default(),
            told_dropped: Counter::default(),
            batch_gifts: Histogram::new(GIFTS),
            batch: Histogram::new(BATCH_SECONDS),
        };
        for outcome in OUTCOMES {
            drop(metrics.outcomes.get_or_create(&OutcomeLabels { outcome }));
        }
        registry.register("router_till_queue_depth", "Gifts waiting to be paid", metrics.queue_depth.clone());
        registry.register("router_till_gifts", "Gifts by what became of them", metrics.outcomes.clone());
        let help = "Gifts that were told and stay in the outbox, for too many waited to be taken out: they are told again";
        registry.register("router_till_told_dropped", help, metrics.told_dropped.clone());
        registry.register("router_till_batch_gifts", "Gifts paid by one transaction", metrics.batch_gifts.clone());
        registry.register_with_unit("router_till_batch", "One transaction that pays gifts", Unit::Seconds, metrics.batch.clone());
        metrics
    }

    pub(super) fn became(&self, outcome: &'static str) {
        self.outcomes.get_or_create(&OutcomeLabels { outcome }).inc();
    }

    pub(super) fn decided(&self, outcome: &GiftOutcome) {
        self.became(match outcome {
            GiftOutcome::Paid { .. } => "paid",
            GiftOutcome::Repeated(_) => "repeated",
            GiftOutcome::Conflict => "conflict",
            GiftOutcome::NotCovered { .. } => "not_covered",
            GiftOutcome::NoRoom => "no_room",
            GiftOutcome::Fenced => "fenced",
        });
    }

    pub(super) fn batch_of(&self, gifts: usize, took: Duration) {
        self.batch_gifts.observe(u32::try_from(gifts).map_or(f64::MAX, f64::from));
        self.batch.observe(took.as_secs_f64());
    }
}

/// What the look over the money counts; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct AuditMetrics {
    findings: Family<KindLabels, Gauge>,
    runs: Family<ResultLabels, Counter>,
    look: Histogram,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabels {
    result: &'static str,
}

const CLEAN: &str = "clean";
const FINDINGS: &str = "findings";
const FAILED: &str = "failed";
/// From an empty ledger to the longest a look may take.
const LOOK_SECONDS: [f64; 9] = [0.01, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 600.0];

impl AuditMetrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self { findings: Family::default(), runs: Family::default(), look: Histogram::new(LOOK_SECONDS) };
        for kind in reconcile::KINDS {
            drop(metrics.findings.get_or_create(&KindLabels { kind }));
        }
        for result in [CLEAN, FINDINGS, FAILED] {
            drop(metrics.runs.get_or_create(&ResultLabels { result }));
        }
        let help = "What did not add up at the last look of this router over the money, by kind; at most 100 together";
        registry.register("router_money_findings", help, metrics.findings.clone());
        registry.register("router_money_looks", "Looks of this router over the money, by result", metrics.runs.clone());
        registry.register_with_unit("router_money_look", "One look over the money", Unit::Seconds, metrics.look.clone());
        metrics
    }

    pub(super) fn looked(&self, found: &Reconciliation, took: Duration) {
        for kind in reconcile::KINDS {
            let count = found.findings.iter().filter(|finding| finding.kind == kind).count();
            self.findings.get_or_create(&KindLabels { kind }).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        let result = if found.findings.is_empty() { CLEAN } else { FINDINGS };
        self.runs.get_or_create(&ResultLabels { result }).inc();
        self.look.observe(took.as_secs_f64());
    }

    /// What was found before stands: nobody knows better.
    pub(super) fn failed(&self) {
        self.runs.get_or_create(&ResultLabels { result: FAILED }).inc();
    }

    /// Another router looks now: what this one found is told by it, or is no more.
    pub(super) fn forget(&self) {
        for kind in reconcile::KINDS {
            self.findings.get_or_create(&KindLabels { kind }).set(0);
        }
    }

    #[cfg(test)]
    pub(super) fn found(&self, kind: &'static str) -> i64 {
        self.findings.get_or_create(&KindLabels { kind }).get()
    }

    #[cfg(test)]
    pub(super) fn looks(&self) -> u64 {
        [CLEAN, FINDINGS].iter().map(|result| self.runs.get_or_create(&ResultLabels { result }).get()).sum()
    }
}
