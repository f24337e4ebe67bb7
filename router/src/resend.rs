//! Deliveries whose ACK is overdue: what a dead link or gateway took with it is pushed once more, until it is acknowledged.
//!
//! - A gateway that has a push sends it again by itself and takes the record out when it gives up, or when the ACK has come. A record that is
//!   still there long after is of a push that never reached a session: the link was down, or went down with it.
//! - The inbox is what counts: what is not in it was acknowledged. Who is not connected, or whose gateway is gone, gets it with his next LOGIN;
//!   nothing waits here for him.
//! - Room pushes are not sent again from here: the room's log is, when the gateway or the session is back.

use crate::{
    core::Core,
    delivery::{self, stored_push},
};
use billfish_state::{AppId, PendingAck, UserId};
use std::collections::BTreeMap;

/// An ACK that was due so long ago will not come: a gateway tries for 12 s after its first push, and its record says when it is due next.
pub(crate) const OVERDUE_MS: u64 = 10_000;
/// First wait of a push that was sent once more; doubled each time.
const AGAIN_MS: u64 = 4_000;
/// Longest wait: half an hour after the first push it is sent every 5 minutes, for as long as the inbox keeps it.
const AGAIN_MAX_MS: u64 = 5 * 60 * 1_000;

/// Pushes again what is still in an inbox whose user is connected. The records were taken out; those that are pushed are made anew.
pub(crate) async fn resend(core: &Core, overdue: Vec<PendingAck>) {
    let mut by_app: BTreeMap<AppId, Vec<PendingAck>> = BTreeMap::new();
    for pending in overdue.into_iter().filter(|pending| pending.room.is_none()) {
        by_app.entry(pending.app).or_default().push(pending);
    }
    for (app, overdue) in by_app {
        let users: Vec<UserId> = overdue.iter().map(|pending| pending.user).collect();
        let routes = match core.state.routes.lookup(app, &users, core.state.clock.now_ms()).await {
            Ok(routes) => routes,
            // With the next sign of the store they would be found again, had they not been taken out: their next LOGIN gets them.
            Err(error) => return core.metrics.store_failed("resend", &error),
        };
        for (pending, routes) in overdue.into_iter().zip(routes) {
            if routes.iter().any(|route| core.fleet.is_up(&route.node, route.epoch)) {
                again(core, pending).await;
            }
        }
    }
}

async fn again(core: &Core, pending: PendingAck) {
    let PendingAck { app, user, msg_id, times_sent, .. } = pending;
    let now_ms = core.state.clock.now_ms();
    let page = match core.state.inbox.read(app, user, delivery::before(&msg_id).as_deref(), 1, now_ms).await {
        Ok(page) => page,
        Err(error) => return core.metrics.store_failed("resend", &error),
    };
    let Some(push) = page.entries.first().filter(|entry| entry.id == msg_id).and_then(|entry| stored_push(&entry.body)) else { return };
    let wait_ms = (AGAIN_MS << times_sent.min(16)).min(AGAIN_MAX_MS);
    let awaited = delivery::Awaited { times_sent: times_sent.saturating_add(1), due_ms: now_ms + wait_ms };
    match delivery::send(core, app, &[user], &push, &[msg_id], awaited, now_ms).await {
        Ok(_) => drop(core.metrics.resent.inc()),
        Err(refusal) => tracing::debug!(%user, reason = refusal.reason.label(), "a push was not sent again"),
    };
}
