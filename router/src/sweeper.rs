//! Forgets what nobody will ask for again, users who went silent, and sends again what was not acknowledged. One router at a time, under a
//! lease.
//!
//! - Nothing waits for a sweep: who is online, and what is to be sent again, is told by times and by inboxes. A sweep keeps the store small.
//! - A turn is bounded, in entries and in time: it is over before the lease is, so no two routers sweep at once for long. What is left over
//!   is for the next one. While the store is away nothing is swept, and nothing is owed.
//! - The records of ACKs that a router owes the store are its own: every router gives them in turn, whoever sweeps.

use crate::{
    clock::millis,
    core::Core,
    delivery::record_late,
    housekeeping::{every, tick},
    resend::{OVERDUE_MS, resend},
    right::Right,
};
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, timeout_at};

/// Who sweeps.
const LEASE: &str = "sweeper";
/// Between two turns.
const TURN_EVERY: Duration = Duration::from_secs(2);
/// How long the right to sweep lasts: three turns, so that one slow one does not move it.
const LEASE_LIFE: Duration = Duration::from_secs(6);
/// It is renewed at every turn, also at one that comes a little early.
const RENEW_AFTER: Duration = Duration::from_secs(1);
/// How long a turn may last; the rest of the lease is for its renewal.
const TURN_MAX: Duration = Duration::from_secs(4);
/// Calls of one turn, for each of the two tables, where the first finds as much as one may: at most 2,000 users a second, as many as a
/// gateway of 20,000 leaves behind when it dies, in ten.
const CALLS_PER_TURN: usize = 4;
/// Entries one call may forget.
const ENTRIES_PER_CALL: usize = 1_000;
/// Turns between two at which users are swept who went silent: nothing but the size of the store depends on it. A store may look at a part of
/// its buckets per call: of 8 a call, the 16 of an app are gone round in a minute. Faster would cost the store commands for nothing.
const PRESENCE_EVERY_TURNS: u64 = 15;
/// Sweeps whenever it is this router's turn, until the router drains.
pub(crate) async fn keep_swept(core: Arc<Core>) {
    let holder = format!("{}%{}", core.config.node, core.incarnation);
    let mut ticks = every(TURN_EVERY);
    let mut right = Right::new(LEASE, millis(LEASE_LIFE), millis(RENEW_AFTER));
    let mut silent = Silent::default();
    while tick(&core, &mut ticks).await {
        record_late(&core).await;
        let (now_ms, until) = (core.state.clock.now_ms(), Instant::now() + TURN_MAX);
        let turn = match right.ask(&core.state, &holder, now_ms).await {
            Ok(lease) => lease.map(|lease| Turn { lease_until_ms: lease.until_ms }),
            Err(error) => {
                core.metrics.store_failed("sweeper_lease", &error);
                None
            }
        };
        core.metrics.sweeper.set(i64::from(turn.is_some()));
        if let Some(turn) = turn {
            // What is left in the middle is found again: records are put off, not taken out. It waits for a full link at most so long.
            if timeout_at(until, sweep(&core, &turn, now_ms, &mut silent)).await.is_err() {
                tracing::debug!(after = ?TURN_MAX, "a sweep was not done in its time; the next goes on");
            }
        }
    }
    record_late(&core).await;
    core.metrics.sweeper.set(0);
    right.give_back(&core.state, &holder).await;
}

/// Which turns sweep users who went silent.
#[derive(Debug, Default)]
struct Silent {
    /// Turns until the next does.
    rest: u64,
}

/// The right to sweep, as it was given at the beginning of a turn.
#[derive(Debug)]
pub(crate) struct Turn {
    lease_until_ms: u64,
}

impl Turn {
    /// Whether another router may sweep by now, as this one may have been stopped meanwhile; or whether this one is to go.
    pub(crate) fn is_over(&self, core: &Core) -> bool {
        core.is_draining() || core.state.clock.now_ms() >= self.lease_until_ms
    }
}

async fn sweep(core: &Core, turn: &Turn, now_ms: u64, silent: &mut Silent) {
    if silent.rest > 0 {
        silent.rest -= 1;
    } else if !sweep_silent(core, turn, now_ms).await {
        silent.rest = PRESENCE_EVERY_TURNS - 1;
    }
    sweep_acks(core, turn).await;
}

/// Whether there are more.
async fn sweep_silent(core: &Core, turn: &Turn, now_ms: u64) -> bool {
    let silent_ms = now_ms.saturating_sub(core.silence_ms());
    for _ in 0..CALLS_PER_TURN {
        if turn.is_over(core) {
            return true;
        }
        let found = match core.state.presence.sweep(silent_ms, ENTRIES_PER_CALL).await {
            Ok(gone) => {
                gone.iter().for_each(|(app, user)| core.users_said(*app, [*user], false));
                gone.len()
            }
            Err(error) => {
                core.metrics.store_failed("presence_sweep", &error);
                return false;
            }
        };
        core.metrics.presence_swept.inc_by(found as u64);
        if found < ENTRIES_PER_CALL {
            // Where some were found the gateway of others may have died with it.
            return found > 0;
        }
    }
    true
}

async fn sweep_acks(core: &Core, turn: &Turn) {
    for _ in 0..CALLS_PER_TURN {
        if turn.is_over(core) {
            return;
        }
        let now_ms = core.state.clock.now_ms();
        match core.state.acks.postpone(now_ms.saturating_sub(OVERDUE_MS), now_ms, ENTRIES_PER_CALL).await {
            Ok(overdue) => {
                let found = overdue.len();
                core.metrics.acks_expired.inc_by(found as u64);
                resend(core, turn, overdue).await;
                if found < ENTRIES_PER_CALL {
                    return;
                }
            }
            Err(error) => {
                core.metrics.store_failed("ack_expiry", &error);
                return;
            }
        };
    }
}
