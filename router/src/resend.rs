//! Deliveries whose ACK is overdue: what a dead link or gateway took with it, and what was on no link, is pushed once more, until it is
//! acknowledged.
//!
//! - A gateway that has a push sends it again by itself and takes the record out when it gives up, or when the ACK has come. A record that is
//!   still there long after is of a push that never reached a session: the link was down, or went down with it.
//! - The store puts a record off when it tells of it. So what is not come to here, because the turn is over or the router dies, is found
//!   again; what is not to be sent again is taken out here.
//! - The inbox is what counts: what is not in it was acknowledged. Who has no route gets it with his next LOGIN; nothing waits here for him.
//!   Who has one is where this router has no link to, perhaps: that is tried again soon.
//! - For a batch there is one look at the routes, and one read of each user's inbox; who gets the same push from the same gateway stands in
//!   one message.
//! - Room pushes are not sent again from here: the room's log is, when the gateway or the session is back.

use crate::{
    core::Core,
    delivery::{self, missed, stored_push, worth},
    dispatch::INBOX_PAGE,
    link::Gateway,
    route::Worth,
    sweeper::Turn,
};
use billfish_link::message::Push;
use billfish_state::{
    AppId, InboxEntry, InboxId, Page, PendingAck, StateError, UserId,
    port::{ACK_TIMES_MAX, Inbox},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use tokio::task::JoinSet;

/// An ACK that was due so long ago will not come: a gateway tries for 12 s after its first push, and its record says when it is due next.
pub(crate) const OVERDUE_MS: u64 = 10_000;
/// Inboxes read at the same time: they share a round trip or a few, and hold 3 MiB of usual pages.
const INBOXES_AT_ONCE: usize = 32;

/// What is overdue of one user, by the id it has in his inbox.
type Overdue = BTreeMap<UserId, BTreeMap<InboxId, PendingAck>>;

/// Pushes again what is still in an inbox whose user is connected. The records were put off; what comes to nothing here stays so.
pub(crate) async fn resend(core: &Core, turn: &Turn, overdue: Vec<PendingAck>) {
    let mut by_app: BTreeMap<AppId, Overdue> = BTreeMap::new();
    for pending in overdue.into_iter().filter(|pending| pending.room.is_none()) {
        if pending.times_sent >= ACK_TIMES_MAX {
            // The store has it no longer. The inbox has, for the next LOGIN.
            core.metrics.acks_given_up("attempts", 1);
        } else if let Some(id) = InboxId::parse(&pending.msg_id) {
            by_app.entry(pending.app).or_default().entry(pending.user).or_default().insert(id, pending);
        }
    }
    for (app, overdue) in by_app {
        if let Err(error) = again(core, turn, app, overdue).await {
            return core.metrics.store_failed("resend", &error);
        }
    }
}

/// The overdue pushes of one business line.
async fn again(core: &Core, turn: &Turn, app: AppId, overdue: Overdue) -> Result<(), StateError> {
    let users: Vec<UserId> = overdue.keys().copied().collect();
    let routes = core.state.routes.lookup(app, &users, core.state.clock.now_ms()).await?;
    let gateways = core.links.all();
    let worth = worth(&gateways);
    let (mut reachable, mut settled, mut unreached) = (Vec::new(), Vec::new(), Vec::new());
    for ((user, pending), routes) in overdue.into_iter().zip(routes) {
        if routes.iter().all(|route| worth(route) == Worth::Over) {
            settled.extend(pending.into_values().map(|pending| (app, user, pending.msg_id)));
            continue;
        }
        let nodes: BTreeSet<String> = routes.into_iter().filter(|route| worth(route) == Worth::Linked).map(|route| route.node).collect();
        if nodes.is_empty() {
            let now_ms = core.state.clock.now_ms();
            unreached.extend(pending.into_values().map(|one| missed(app, user, one.msg_id, one.times_sent + 1, now_ms)));
        } else {
            reachable.push((user, pending, nodes));
        }
    }
    delivery::await_acks(core, unreached).await;
    let mut reachable = reachable.into_iter();
    loop {
        let batch: Vec<_> = reachable.by_ref().take(INBOXES_AT_ONCE).collect();
        if batch.is_empty() || turn.is_over(core) {
            break;
        }
        settled.extend(send_batch(core, &gateways, app, batch).await?);
    }
    if settled.is_empty() { Ok(()) } else { core.state.acks.remove(&settled).await }
}

/// A push, how often it was sent, and to whom it goes.
type Grouped = (Push, u32, BTreeSet<UserId>);
/// Who, what is overdue of his, and which gateways he is on.
type Reachable = (UserId, BTreeMap<InboxId, PendingAck>, BTreeSet<String>);

/// Gives what was acknowledged, and is not awaited any more.
async fn send_batch(
    core: &Core,
    gateways: &[Arc<Gateway>],
    app: AppId,
    batch: Vec<Reachable>,
) -> Result<Vec<(AppId, UserId, String)>, StateError> {
    let now_ms = core.state.clock.now_ms();
    let mut reads = JoinSet::new();
    for (index, (user, pending, _)) in batch.iter().enumerate() {
        let (inbox, user, first, count) = (Arc::clone(&core.state.inbox), *user, pending.keys().next().copied(), pending.len());
        reads.spawn(async move { (index, read(&*inbox, app, user, first, count, now_ms).await) });
    }
    let mut pages = BTreeMap::new();
    while let Some(read) = reads.join_next().await {
        // One that panicked has none, and is found again.
        let Ok((index, page)) = read else { continue };
        pages.insert(index, page?);
    }
    let mut settled = Vec::new();
    // By gateway and id: the same push to many users has the same id in most of their inboxes.
    let mut pushes: BTreeMap<(String, InboxId), Vec<Grouped>> = BTreeMap::new();
    for (index, (user, pending, nodes)) in batch.into_iter().enumerate() {
        let Some(page) = pages.remove(&index) else { continue };
        let found: BTreeMap<InboxId, InboxEntry> =
            page.entries.into_iter().filter_map(|entry| Some((InboxId::parse(&entry.id)?, entry))).collect();
        let looked_to = found.keys().next_back().copied();
        for (id, pending) in pending {
            let Some(push) = found.get(&id).and_then(|entry| stored_push(&entry.body)) else {
                // What is beyond this page is found again.
                if !page.more || looked_to.is_some_and(|last| id <= last) {
                    settled.push((app, user, pending.msg_id));
                }
                continue;
            };
            core.metrics.resent.inc();
            let push = Push { msg_id: pending.msg_id, ..push };
            for node in &nodes {
                let same = pushes.entry((node.clone(), id)).or_default();
                match same.iter_mut().find(|(other, times, _)| *other == push && *times == pending.times_sent) {
                    Some((_, _, users)) => drop(users.insert(user)),
                    None => same.push((push.clone(), pending.times_sent, BTreeSet::from([user]))),
                }
            }
        }
    }
    for ((node, _), pushes) in pushes {
        for (push, times_sent, users) in pushes {
            delivery::put(core, gateways, app, &node, users, push, times_sent + 1, now_ms).await;
        }
    }
    Ok(settled)
}

/// A part of an inbox, from this entry on: one look, however many of it are overdue.
async fn read(
    inbox: &dyn Inbox,
    app: AppId,
    user: UserId,
    first: Option<InboxId>,
    count: usize,
    now_ms: u64,
) -> Result<Page<InboxEntry>, StateError> {
    let after = first.and_then(|first| delivery::before(&first.to_string()));
    let limit = if count == 1 { 1 } else { INBOX_PAGE };
    inbox.read(app, user, after.as_deref(), limit, now_ms).await
}
