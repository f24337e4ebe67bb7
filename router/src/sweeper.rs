//! Forgets what nobody will ask for again, users who went silent, and sends again what was not acknowledged. One router at a time, under a
//! lease.
//!
//! - Nothing waits for a sweep: who is online, and what is to be sent again, is told by times and by inboxes. A sweep keeps the store small.
//! - A turn is bounded; what is left over is for the next one. While the store is away nothing is swept, and nothing is owed.

use crate::{
    clock::millis,
    core::Core,
    housekeeping::{every, tick},
    resend::{OVERDUE_MS, resend},
};
use std::{sync::Arc, time::Duration};

/// Who sweeps.
const LEASE: &str = "sweeper";
/// Between two turns.
const TURN_EVERY: Duration = Duration::from_secs(2);
/// How long the right to sweep lasts: three turns, so that one slow one does not move it.
const LEASE_LIFE: Duration = Duration::from_secs(6);
/// Calls of one turn, for each of the two tables. A store may look at a part of its buckets per call: of 8 a call,
/// 32 of them are gone round in one turn; of 10 a call, the 100 shards of ACKs of one app in three.
const CALLS_PER_TURN: usize = 4;
/// Entries one call may forget: at most 2,000 users a second, as many as a gateway of 20,000 leaves behind when it dies, in ten.
const ENTRIES_PER_CALL: usize = 1_000;

/// Sweeps whenever it is this router's turn, until the router drains.
pub(crate) async fn keep_swept(core: Arc<Core>) {
    let holder = format!("{}%{}", core.config.node, core.incarnation);
    let mut ticks = every(TURN_EVERY);
    let mut held = None;
    while tick(&core, &mut ticks).await {
        let now_ms = core.state.clock.now_ms();
        held = match core.state.leases.acquire(LEASE, &holder, now_ms, now_ms + millis(LEASE_LIFE)).await {
            Ok(lease) => (lease.holder == holder).then_some(lease.epoch),
            Err(error) => {
                core.metrics.store_failed("sweeper_lease", &error);
                None
            }
        };
        core.metrics.sweeper.set(i64::from(held.is_some()));
        if held.is_some() {
            sweep(&core, now_ms).await;
        }
    }
    core.metrics.sweeper.set(0);
    // Another router goes on at once.
    if let Some(epoch) = held
        && let Err(error) = core.state.leases.release(LEASE, &holder, epoch).await
    {
        tracing::debug!(error = &error as &dyn std::error::Error, "the right to sweep was not given back; it runs out");
    }
}

async fn sweep(core: &Core, now_ms: u64) {
    let silent_ms = now_ms.saturating_sub(core.silence_ms());
    for _ in 0..CALLS_PER_TURN {
        match core.state.presence.sweep(silent_ms, ENTRIES_PER_CALL).await {
            Ok(gone) => core.metrics.presence_swept.inc_by(gone.len() as u64),
            Err(error) => {
                core.metrics.store_failed("presence_sweep", &error);
                return;
            }
        };
    }
    for _ in 0..CALLS_PER_TURN {
        match core.state.acks.expire(now_ms.saturating_sub(OVERDUE_MS), ENTRIES_PER_CALL).await {
            Ok(overdue) => {
                core.metrics.acks_expired.inc_by(overdue.len() as u64);
                resend(core, overdue).await;
            }
            Err(error) => {
                core.metrics.store_failed("ack_expiry", &error);
                return;
            }
        };
    }
}
