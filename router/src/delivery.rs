//! Pushes that do not belong to a room: to users, and to everyone.
//!
//! - QoS 1 to users is in their inboxes before it is on a link: whoever is offline, or behind a stalled link, pulls it later.
//! - Pushes to one user run in his lane, so the ids of his inbox and the order on his links agree.
//! - For each of them either his push is on a link to where he is, or a record of its ACK makes the sweeper look again ([`crate::resend`]),
//!   before the sender is answered: who is connected does not look into his inbox. Whether a route's gateway lives is not asked for that;
//!   a router that has just started knows of none. Who has no route at all gets it with his next LOGIN.
//! - Everyone: one message per gateway, one gateway after another.

use crate::{
    Refusal,
    core::Core,
    dispatch::INBOX_PAGE,
    link::Gateway,
    metrics::Audience,
    resend::OVERDUE_MS,
    route::{self, Worth},
    services::{Asker, Outgoing},
};
use billfish_link::message::{AllPush, Push, UserPush, envelope::Kind};
use billfish_state::{
    AppId, AppendedOnce, InboxEntry, InboxId, MessageClaim, PendingAck, Route, UserId,
    port::{ACK_AGAIN_MAX_MS, INBOX_ENTRIES_MAX},
};
use billfish_wire::{Body, Class, Encoding};
use bytes::Bytes;
use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// When an ACK is late: gateways send a push again after as long.
const ACK_WAIT_MS: u64 = 4_000;
/// When a push that is on no link is tried again, doubled each time: a link that broke is made again within two seconds.
const MISSED_WAIT_MS: u64 = 1_500;
/// Records that wait for the store to take them: what one router sends in some seconds. About 200 bytes each.
const UNRECORDED_MAX: usize = 10_000;
/// Records in one write.
const RECORDS_AT_ONCE: usize = 1_000;
/// Pages of an inbox that are sent again: all that it can hold.
const AGAIN_PAGES: usize = INBOX_ENTRIES_MAX.div_ceil(INBOX_PAGE);

/// What became of a push to users.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Delivered {
    /// The inbox id of the first user.
    pub(crate) msg_id: Option<String>,
    /// Users whose inbox or gateway has it.
    pub(crate) users: u64,
}

/// Pushes to users. They all belong to one lane, and the caller is that lane.
pub(crate) async fn to_users(core: &Core, app: AppId, users: &[UserId], push: &Outgoing, now_ms: u64) -> Result<Delivered, Refusal> {
    let mut msg_ids = Vec::new();
    if push.acknowledged {
        let body = Bytes::from(body(push, now_ms).to_vec(Encoding::Json));
        msg_ids = core.state.inbox.append(app, users, &core.next_inbox_id(now_ms), body, now_ms).await?;
    }
    let online = send(core, app, users, &message(push, String::new(), now_ms), &msg_ids, now_ms).await?;
    let reached = if push.acknowledged { users.len() } else { online };
    Ok(Delivered { msg_id: msg_ids.into_iter().next(), users: reached as u64 })
}

/// Pushes a message to one user unless its sender has sent it before. What is sent again is pushed again, as it was the first time and
/// under the id that it got then, until it is acknowledged: the one who took it may have died before he pushed it.
pub(crate) async fn to_user_once(
    core: &Core,
    app: AppId,
    user: UserId,
    push: &Outgoing,
    claim: &MessageClaim,
    now_ms: u64,
) -> Result<(), Refusal> {
    let inbox = &core.state.inbox;
    let text = Bytes::from(body(push, now_ms).to_vec(Encoding::Json));
    let AppendedOnce { id, is_first } = inbox.append_once(app, user, &core.next_inbox_id(now_ms), text, claim, now_ms).await?;
    let mut push = message(push, String::new(), now_ms);
    if !is_first {
        let page = inbox.read(app, user, before(&id).as_deref(), 1, now_ms).await?;
        match page.entries.first().filter(|entry| entry.id == id).and_then(|entry| stored_push(&entry.body)) {
            Some(first) => push = first,
            None => return Ok(()),
        }
    }
    send(core, app, &[user], &push, &[id], now_ms).await.map(drop)
}

/// The largest id before this one; none before the first of all.
pub(crate) fn before(id: &str) -> Option<String> {
    let id = InboxId::parse(id)?;
    let before = match id {
        InboxId { ms: 0, n: 0 } => return None,
        InboxId { ms, n: 0 } => InboxId { ms: ms - 1, n: u64::MAX },
        InboxId { ms, n } => InboxId { ms, n: n - 1 },
    };
    Some(before.to_string())
}

/// Puts a push to users on the links of their gateways. Gives how many of them have one.
async fn send(core: &Core, app: AppId, users: &[UserId], push: &Push, msg_ids: &[String], now_ms: u64) -> Result<usize, Refusal> {
    let (class, is_kept) = (Class::from_number(push.class), !msg_ids.is_empty());
    let found = core.state.routes.lookup(app, users, now_ms).await;
    let gateways = core.links.all();
    let divided = match found {
        Ok(routes) => route::by_gateway(routes, msg_ids, worth(&gateways)),
        // Nobody says where they are, and who is connected does not look into the inbox: each gateway passes it to those it has.
        Err(error) if is_kept => {
            core.metrics.store_failed("routes", &error);
            route::to_each(gateways.iter().map(|gateway| &*gateway.node), users, msg_ids)
        }
        Err(error) => return Err(error.into()),
    };
    for _ in 0..divided.unlinked {
        core.metrics.link_dropped(class, "no_link");
    }
    if is_kept {
        // Before they are made: the gateway takes a record out once the ACK has come, and must find it there.
        let with_route: BTreeSet<usize> = divided.reached.union(&divided.missed).copied().collect();
        let due_ms = |index| if divided.missed.contains(&index) { missed_due_ms(1, now_ms) } else { now_ms + ACK_WAIT_MS };
        let pending = |index: usize| {
            let (user, msg_id) = (*users.get(index)?, msg_ids.get(index)?.clone());
            Some(PendingAck { app, user, msg_id, room: None, times_sent: 1, due_ms: due_ms(index) })
        };
        await_acks(core, with_route.into_iter().filter_map(pending).collect()).await;
    }
    for ((node, msg_id), users) in divided.groups {
        let push = if msg_id.is_empty() { push.clone() } else { Push { msg_id, ..push.clone() } };
        put(core, &gateways, app, &node, users, push, 1, now_ms).await;
    }
    Ok(divided.reached.len())
}

/// What routes are worth on these links.
pub(crate) fn worth(gateways: &[Arc<Gateway>]) -> impl Fn(&Route) -> Worth {
    let lives: HashMap<&str, u64> = gateways.iter().map(|gateway| (&*gateway.node, gateway.incarnation)).collect();
    move |route| match lives.get(route.node.as_str()) {
        Some(life) if *life == route.epoch => Worth::Linked,
        Some(life) if *life > route.epoch => Worth::Over,
        Some(_) | None => Worth::Unknown,
    }
}

/// Puts one push on the link of one gateway. What did not get there is due soon.
#[expect(clippy::too_many_arguments, reason = "two callers, each with all of it at hand")]
pub(crate) async fn put(
    core: &Core,
    gateways: &[Arc<Gateway>],
    app: AppId,
    node: &str,
    users: BTreeSet<UserId>,
    push: Push,
    times_sent: u32,
    now_ms: u64,
) {
    let Some(gateway) = gateways.iter().find(|gateway| *gateway.node == *node) else { return };
    let (class, msg_id) = (Class::from_number(push.class), push.msg_id.clone());
    let user_ids = users.iter().map(|user| user.0).collect();
    if gateway.send(Kind::UserPush(UserPush { app_id: app.0, user_ids, push: Some(push), session: 0 }), class).await {
        core.metrics.pushed(Audience::Users, class);
    } else if !msg_id.is_empty() {
        await_acks(core, users.into_iter().map(|user| missed(app, user, msg_id.clone(), times_sent, now_ms)).collect()).await;
    }
}

/// The record of a push that is on no link.
pub(crate) fn missed(app: AppId, user: UserId, msg_id: String, times_sent: u32, now_ms: u64) -> PendingAck {
    PendingAck { app, user, msg_id, room: None, times_sent, due_ms: missed_due_ms(times_sent, now_ms) }
}

/// The sweeper takes what is overdue: what is to be tried again soon has been due for as long already.
fn missed_due_ms(times_sent: u32, now_ms: u64) -> u64 {
    let wait_ms = (MISSED_WAIT_MS << times_sent.saturating_sub(1).min(16)).min(ACK_AGAIN_MAX_MS);
    (now_ms + wait_ms).saturating_sub(OVERDUE_MS)
}

/// Records deliveries. What the store does not take now it is given later: the inbox has the message, but who is connected does not look
/// there.
pub(crate) async fn await_acks(core: &Core, pending: Vec<PendingAck>) {
    if pending.is_empty() {
        return;
    }
    if let Err(error) = core.state.acks.record(&pending).await {
        core.metrics.store_failed("acks", &error);
        core.metrics.acks_given_up("store", core.unrecorded.put(pending));
    }
}

/// Records of ACKs that the store has not taken: it did not answer.
#[derive(Debug, Default)]
pub(crate) struct Unrecorded(Mutex<VecDeque<PendingAck>>);

impl Unrecorded {
    /// Keeps them for later; gives how many there was no place for.
    fn put(&self, pending: Vec<PendingAck>) -> usize {
        let mut kept = self.lock();
        let fitting = pending.len().min(UNRECORDED_MAX - kept.len());
        let left = pending.len() - fitting;
        kept.extend(pending.into_iter().take(fitting));
        left
    }

    /// The oldest, as many as are one write.
    fn take(&self) -> Vec<PendingAck> {
        let mut kept = self.lock();
        let count = kept.len().min(RECORDS_AT_ONCE);
        kept.drain(..count).collect()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<PendingAck>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives the store the records that it did not take before. One whose ACK has come meanwhile costs one look at the inbox.
pub(crate) async fn record_late(core: &Core) {
    loop {
        let pending = core.unrecorded.take();
        if pending.is_empty() {
            return;
        }
        if let Err(error) = core.state.acks.record(&pending).await {
            core.metrics.store_failed("acks", &error);
            // Their places are free still, or given to others who are as late.
            core.metrics.acks_given_up("store", core.unrecorded.put(pending));
            return;
        }
    }
}

/// Sends a session what its user has not acknowledged, oldest first: a LOGIN that says nothing of what it knows gets it all, and so does a
/// session whose route was lost for a while. What its gateway awaits the ACK of already comes a second time under the same id.
pub(crate) async fn again(core: &Core, gateway: &Gateway, asker: Asker) -> Result<(), Refusal> {
    let mut after: Option<String> = None;
    for _ in 0..AGAIN_PAGES {
        let now_ms = core.state.clock.now_ms();
        let page = core.state.inbox.read(asker.app, asker.user, after.as_deref(), INBOX_PAGE, now_ms).await?;
        let due_ms = now_ms + ACK_WAIT_MS;
        let pending = |entry: &InboxEntry| PendingAck {
            app: asker.app,
            user: asker.user,
            msg_id: entry.id.clone(),
            room: None,
            times_sent: 1,
            due_ms,
        };
        await_acks(core, page.entries.iter().map(pending).collect()).await;
        for entry in &page.entries {
            let Some(push) = stored_push(&entry.body) else { continue };
            let class = Class::from_number(push.class);
            let push = Some(Push { msg_id: entry.id.clone(), ..push });
            let message = UserPush { app_id: asker.app.0, user_ids: vec![asker.user.0], push, session: asker.session };
            if !gateway.send(Kind::UserPush(message), class).await {
                // The rest would only overtake it. It stays in the inbox.
                return Err(Refusal::unavailable());
            }
            core.metrics.pushed(Audience::Users, class);
        }
        after = page.entries.last().map(|entry| entry.id.clone());
        if !page.more || after.is_none() {
            break;
        }
    }
    Ok(())
}

/// A body that was stored, as it is pushed. Bodies are written by this process or a sister of it: what is none is no push.
pub(crate) fn stored_push(body: &[u8]) -> Option<Push> {
    let body: Body = serde_json::from_slice(body).ok()?;
    Some(Push {
        biz_code: body.biz_code?,
        data: body.data.unwrap_or_default(),
        msg_id: body.msg_id.unwrap_or_default(),
        room_id: body.room_id.unwrap_or_default(),
        seq: body.seq.unwrap_or_default(),
        ts: body.ts.unwrap_or_default(),
        qos: body.qos.unwrap_or_default(),
        class: body.class.unwrap_or(Class::Chat.number()),
        key: body.key.unwrap_or_default(),
    })
}

/// Pushes to everyone who is connected. Gives the number of gateways that took it.
pub(crate) async fn to_everyone(core: &Core, app: AppId, push: &Outgoing, now_ms: u64) -> u64 {
    let mut taken = 0;
    for (index, gateway) in core.links.all().into_iter().enumerate() {
        if index > 0 {
            tokio::time::sleep(core.config.push.everyone_pace).await;
        }
        let message = Kind::AllPush(AllPush { app_id: app.0, push: Some(message(push, String::new(), now_ms)) });
        if gateway.send(message, push.class).await {
            core.metrics.pushed(Audience::All, push.class);
            taken += 1;
        }
    }
    taken
}

fn message(push: &Outgoing, msg_id: String, now_ms: u64) -> Push {
    Push {
        biz_code: push.biz_code.0,
        data: push.data.clone(),
        msg_id,
        room_id: 0,
        seq: 0,
        ts: now_ms.cast_signed(),
        qos: i32::from(push.acknowledged),
        class: push.class.number(),
        key: String::new(),
    }
}

/// The push as an inbox keeps it: complete but for its `msgId`.
fn body(push: &Outgoing, now_ms: u64) -> Body {
    Body {
        biz_code: Some(push.biz_code.0),
        data: Some(push.data.clone()),
        ts: Some(now_ms.cast_signed()),
        qos: Some(1),
        class: Some(push.class.number()),
        ..Body::default()
    }
}
