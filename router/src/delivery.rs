//! Pushes that do not belong to a room: to users, and to everyone.
//!
//! - QoS 1 to users is in their inboxes before it is on a link: whoever is offline, or behind a stalled link, pulls it later.
//! - Pushes to one user run in his lane, so the ids of his inbox and the order on his links agree.
//! - Everyone: one message per gateway, one gateway after another.

use crate::{
    Refusal,
    core::Core,
    dispatch::INBOX_PAGE,
    link::Gateway,
    metrics::Audience,
    route,
    services::{Asker, Outgoing},
};
use billfish_link::message::{AllPush, Push, UserPush, envelope::Kind};
use billfish_state::{AppId, AppendedOnce, InboxId, MessageClaim, PendingAck, Route, UserId, port::INBOX_ENTRIES_MAX};
use billfish_wire::{Body, Class, Encoding};
use bytes::Bytes;
use std::{collections::HashMap, sync::Arc};

/// When an ACK is late: gateways send a push again after as long.
const ACK_WAIT_MS: u64 = 4_000;
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
    let online = send(core, app, users, &message(push, String::new(), now_ms), &msg_ids, Awaited::first(now_ms), now_ms).await?;
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
    send(core, app, &[user], &push, &[id], Awaited::first(now_ms), now_ms).await.map(drop)
}

/// How often a push has been sent now, and when its ACK is due.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Awaited {
    pub(crate) times_sent: u32,
    pub(crate) due_ms: u64,
}

impl Awaited {
    fn first(now_ms: u64) -> Self {
        Self { times_sent: 1, due_ms: now_ms + ACK_WAIT_MS }
    }
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
///
/// An ACK is awaited of everyone whose gateway is up, linked or not: what is in no gateway's hands is then overdue, and sent again.
pub(crate) async fn send(
    core: &Core,
    app: AppId,
    users: &[UserId],
    push: &Push,
    msg_ids: &[String],
    awaited: Awaited,
    now_ms: u64,
) -> Result<usize, Refusal> {
    let (class, is_kept) = (Class::from_number(push.class), !msg_ids.is_empty());
    let found = core.state.routes.lookup(app, users, now_ms).await;
    let gateways = core.links.all();
    let divided = match found {
        Ok(routes) => {
            let linked: HashMap<(&str, u64), &Arc<Gateway>> =
                gateways.iter().map(|gateway| ((&*gateway.node, gateway.incarnation), gateway)).collect();
            let is_linked = |route: &Route| linked.contains_key(&(route.node.as_str(), route.epoch));
            route::by_gateway(routes, msg_ids, is_linked, |route| core.fleet.is_up(&route.node, route.epoch))
        }
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
    let of_whom = divided.awaited.iter().filter_map(|&index| Some((*users.get(index)?, msg_ids.get(index)?.clone())));
    await_acks(core, app, of_whom, awaited).await;
    for ((node, msg_id), users) in divided.groups {
        let Some(gateway) = gateways.iter().find(|gateway| *gateway.node == *node) else { continue };
        let push = if msg_id.is_empty() { push.clone() } else { Push { msg_id, ..push.clone() } };
        let user_ids = users.into_iter().map(|user| user.0).collect();
        if gateway.send(Kind::UserPush(UserPush { app_id: app.0, user_ids, push: Some(push), session: 0 }), class).await {
            core.metrics.pushed(Audience::Users, class);
        }
    }
    Ok(divided.reached.len())
}

/// Records deliveries before they are made: the gateway takes a record out once the ACK has come, and must find it there.
async fn await_acks(core: &Core, app: AppId, of_whom: impl Iterator<Item = (UserId, String)>, awaited: Awaited) {
    let Awaited { times_sent, due_ms } = awaited;
    let pending: Vec<PendingAck> = of_whom.map(|(user, msg_id)| PendingAck { app, user, msg_id, room: None, times_sent, due_ms }).collect();
    if pending.is_empty() {
        return;
    }
    if let Err(error) = core.state.acks.record(&pending).await {
        // The message is in the inbox, which is what counts.
        core.metrics.store_failed("acks", &error);
    }
}

/// Sends a session what its user has not acknowledged, oldest first: a LOGIN that says nothing of what it knows gets it all.
pub(crate) async fn again(core: &Core, gateway: &Gateway, asker: Asker) -> Result<(), Refusal> {
    let mut after: Option<String> = None;
    for _ in 0..AGAIN_PAGES {
        let now_ms = core.state.clock.now_ms();
        let page = core.state.inbox.read(asker.app, asker.user, after.as_deref(), INBOX_PAGE, now_ms).await?;
        let awaited = page.entries.iter().map(|entry| (asker.user, entry.id.clone()));
        await_acks(core, asker.app, awaited, Awaited::first(now_ms)).await;
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
