//! The look over the money, now and then: by one router for all, under a lease of the shared state.
//!
//! What does not add up is a WARN line and a gauge. It is never put right here: money that is not where it should be is for a person.

use super::{Ledger, metrics::AuditMetrics};
use crate::services::ports::money::Money;
use billfish_state::State;
use prometheus_client::registry::Registry;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

/// Name of the lease.
const LEASE: &str = "ledger_audit";
/// The first look after a start, unless looks are more frequent: a fault that a crash has laid bare is not to wait an hour.
const FIRST_AFTER: Duration = Duration::from_secs(60);
/// How long the lease of whoever looks outlives his next turn: what may delay it.
const LEASE_SPARE: Duration = Duration::from_secs(60);
/// A gift is told within seconds. One that has waited so long was forgotten, or nobody owns its room.
const TOLD_WITHIN: Duration = Duration::from_secs(5 * 60);

/// Looks over the money until it is dropped.
#[derive(Debug)]
pub struct Audit {
    _task: Option<AbortOnDropHandle<()>>,
}

impl Audit {
    /// Looks each `ledger.audit_every`, in turn with whoever shares the state: `node` is the name of this one. Never where that is 0.
    pub fn start(ledger: &Ledger, state: &State, node: &str, registry: &mut Registry) -> Self {
        Self::start_with(ledger, state, node, AuditMetrics::register(registry))
    }

    pub(super) fn start_with(ledger: &Ledger, state: &State, node: &str, metrics: AuditMetrics) -> Self {
        let every = ledger.audit_every;
        if every.is_zero() {
            return Self { _task: None };
        }
        let auditor = Auditor { ledger: ledger.clone(), state: state.clone(), holder: node.to_owned(), every, metrics };
        Self { _task: Some(AbortOnDropHandle::new(tokio::spawn(auditor.run()))) }
    }
}

struct Auditor {
    ledger: Ledger,
    state: State,
    holder: String,
    every: Duration,
    metrics: AuditMetrics,
}

impl Auditor {
    async fn run(self) {
        let mut ticks = interval_at(Instant::now() + self.every.min(FIRST_AFTER), self.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if self.is_its_turn().await {
                self.look().await;
            } else {
                self.metrics.forget();
            }
        }
    }

    /// Whoever has looked last looks again; another takes over when it has not for a while.
    async fn is_its_turn(&self) -> bool {
        let now_ms = self.state.clock.now_ms();
        let until_ms = now_ms.saturating_add(millis(self.every + LEASE_SPARE));
        match self.state.leases.acquire(LEASE, &self.holder, now_ms, until_ms).await {
            Ok(lease) => lease.holder == self.holder,
            Err(error) => {
                // Not knowing, it looks: twice does no harm.
                info!(error = &error as &dyn std::error::Error, "the state does not say whose turn it is to look over the money");
                true
            }
        }
    }

    async fn look(&self) {
        let started = Instant::now();
        match self.ledger.reconcile(self.state.clock.now_ms().saturating_sub(millis(TOLD_WITHIN))).await {
            Ok(found) => {
                self.metrics.looked(&found, started.elapsed());
                for finding in &found.findings {
                    warn!(kind = finding.kind, what = %finding.what, "the money does not add up");
                }
                if found.findings.is_empty() {
                    info!(rows = found.rows, took = ?started.elapsed(), "the money adds up");
                }
            }
            Err(error) => {
                self.metrics.failed();
                warn!(error = &error as &dyn std::error::Error, "the money could not be looked over; again at the next turn");
            }
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
