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
    AppId, AppendedOnce, InboxAppend, InboxEntry, InboxId, MessageClaim, PendingAck, Route, StateError, UserId,
    port::{ACK_AGAIN_MAX_MS, INBOX_ENTRIES_MAX},
};
use billfish_wire::{Body, Class, Encoding};
use bytes::Bytes;
use futures_util::future::join_all;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
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
    let online = send(core, app, users, &message(push, now_ms), &msg_ids, now_ms).await?;
    let reached = if push.acknowledged { users.len() } else { online };
    Ok(Delivered { msg_id: msg_ids.into_iter().next(), users: reached as u64 })
}

/// A message to one user that is to be taken once, and where he was a moment ago, if that is known.
pub(crate) struct Once {
    pub(crate) app: AppId,
    pub(crate) user: UserId,
    pub(crate) push: Outgoing,
    pub(crate) claim: Option<MessageClaim>,
    pub(crate) routes: Option<Vec<Route>>,
}

/// Pushes messages to one user each, unless their senders have sent them before. They belong to one lane, and the caller is that lane.
///
/// - What is sent again is pushed again, as it was the first time and under the id that it got then, until it is acknowledged: the one who
///   took it may have died before he pushed it.
/// - The ACK of a message is recorded while it is appended, under the id that it asks for. A record of what is in no inbox is taken out, here
///   or by the sweeper; a message that got another id is recorded under that one, before it is pushed.
/// - Where the receivers are is asked again once the messages are in their inboxes: whoever binds a route later finds his there, and whoever
///   bound it meanwhile, on this device or on another one, is pushed to.
pub(crate) async fn to_each_once(core: &Core, messages: Vec<Once>, now_ms: u64) -> Vec<Result<(), Refusal>> {
    let gateways = core.links.all();
    let worth = worth(&gateways);
    let append = |Once { app, user, push, claim, .. }: &Once| {
        let body = Bytes::from(body(push, now_ms).to_vec(Encoding::Json));
        InboxAppend { app: *app, user: *user, id: core.next_inbox_id(now_ms), body, claim: claim.clone() }
    };
    let appends: Vec<InboxAppend> = messages.iter().map(append).collect();
    let mut aims: Vec<Aim> = messages.iter().map(|message| Aim::at(message.routes.as_deref().unwrap_or_default(), &worth)).collect();
    let expected = appends.iter().zip(&aims).filter_map(|(append, aim)| aim.pending(append, &append.id, now_ms)).collect();
    let (appended, ()) = tokio::join!(core.state.inbox.append_each(&appends, now_ms), await_acks(core, expected));

    let kept: Vec<usize> = (0..appends.len()).filter(|place| appended[*place].is_ok()).collect();
    let (mut late, mut void) = (Vec::new(), Vec::new());
    let users: Vec<(AppId, UserId)> = kept.iter().map(|place| (appends[*place].app, appends[*place].user)).collect();
    for (place, routes) in kept.into_iter().zip(routes_of(core, &users, now_ms).await) {
        let aim = &mut aims[place];
        let was_awaited = aim.is_awaited();
        match routes {
            Some(routes) => aim.widen(Aim::at(&routes, &worth)),
            None if was_awaited => {}
            // Nobody says where he is, and who is connected does not look into the inbox: each gateway passes it to him if it has him.
            None => *aim = Aim::at_all(&gateways),
        }
        let id = appended[place].as_ref().map_or("", |AppendedOnce { id, .. }| id);
        late.extend(aim.pending(&appends[place], id, now_ms).filter(|_| !was_awaited && id == appends[place].id));
    }
    let mut outcomes = Vec::with_capacity(appends.len());
    let mut pushes = Vec::with_capacity(appends.len());
    for (((appended, append), aim), message) in appended.into_iter().zip(&appends).zip(aims).zip(messages) {
        let (push, id) = match appended {
            Ok(AppendedOnce { id, is_first: true }) => (Some(message_of(message.push, now_ms)), id),
            Ok(AppendedOnce { id, is_first: false }) => match stored(core, append, &id, now_ms).await {
                Ok(push) => (push, id),
                Err(error) => {
                    outcomes.push(Err(error.into()));
                    continue;
                }
            },
            Err(error) => {
                outcomes.push(Err(error.into()));
                (None, String::new())
            }
        };
        if id != append.id && aim.is_awaited() {
            void.push((append.app, append.user, append.id.clone()));
            late.extend(aim.pending(append, &id, now_ms).filter(|_| push.is_some()));
        }
        if !id.is_empty() {
            outcomes.push(Ok(()));
        }
        pushes.extend(push.map(|push| (append, aim, Push { msg_id: id, ..push })));
    }
    await_acks(core, late).await;
    for (append, aim, push) in pushes {
        for _ in 0..aim.unlinked {
            core.metrics.link_dropped(Class::from_number(push.class), "no_link");
        }
        for node in &aim.nodes {
            put(core, &gateways, append.app, node, BTreeSet::from([append.user]), push.clone(), 1, now_ms).await;
        }
    }
    if !void.is_empty()
        && let Err(error) = core.state.acks.remove(&void).await
    {
        core.metrics.store_failed("acks", &error);
    }
    outcomes
}

/// What was pushed the first time, if it is not acknowledged yet.
async fn stored(core: &Core, InboxAppend { app, user, .. }: &InboxAppend, id: &str, now_ms: u64) -> Result<Option<Push>, StateError> {
    core.metrics.dedup_hits.inc();
    let page = core.state.inbox.read(*app, *user, before(id).as_deref(), 1, now_ms).await?;
    Ok(page.entries.first().filter(|entry| entry.id == id).and_then(|entry| stored_push(&entry.body)))
}

/// Where a push to one user goes.
#[derive(Debug, Default)]
struct Aim {
    nodes: Vec<String>,
    /// His session is elsewhere, perhaps, where this router cannot tell it now.
    is_missed: bool,
    /// Routes that do not count.
    unlinked: usize,
}

impl Aim {
    fn at(routes: &[Route], worth: impl Fn(&Route) -> Worth) -> Self {
        let mut aim = Self::default();
        for route in routes {
            match worth(route) {
                Worth::Linked if aim.nodes.contains(&route.node) => {}
                Worth::Linked => aim.nodes.push(route.node.clone()),
                worth @ (Worth::Over | Worth::Unknown) => {
                    aim.unlinked += 1;
                    aim.is_missed |= worth == Worth::Unknown;
                }
            }
        }
        aim
    }

    fn at_all(gateways: &[Arc<Gateway>]) -> Self {
        Self { nodes: gateways.iter().map(|gateway| gateway.node.to_string()).collect(), is_missed: true, unlinked: 0 }
    }

    /// What was found out later goes there too; the routes that do not count are those of now.
    fn widen(&mut self, later: Self) {
        self.is_missed |= later.is_missed;
        self.unlinked = later.unlinked;
        for node in later.nodes {
            if !self.nodes.contains(&node) {
                self.nodes.push(node);
            }
        }
    }

    /// Whether there is an ACK to wait for.
    fn is_awaited(&self) -> bool {
        self.is_missed || !self.nodes.is_empty()
    }

    fn pending(&self, append: &InboxAppend, id: &str, now_ms: u64) -> Option<PendingAck> {
        let due_ms = if self.is_missed { missed_due_ms(1, now_ms) } else { now_ms + ACK_WAIT_MS };
        let pending = || PendingAck { app: append.app, user: append.user, msg_id: id.to_owned(), room: None, times_sent: 1, due_ms };
        self.is_awaited().then(pending)
    }
}

/// Where each of the users is; nothing where the store does not say.
pub(crate) async fn routes_of(core: &Core, users: &[(AppId, UserId)], now_ms: u64) -> Vec<Option<Vec<Route>>> {
    let mut by_app: BTreeMap<AppId, Vec<usize>> = BTreeMap::new();
    for (place, (app, _)) in users.iter().enumerate() {
        by_app.entry(*app).or_default().push(place);
    }
    let asked = by_app.into_iter().map(async |(app, places)| {
        let users: Vec<UserId> = places.iter().map(|place| users[*place].1).collect();
        let found = core.state.routes.lookup(app, &users, now_ms).await;
        (places, found)
    });
    let mut routes: Vec<Option<Vec<Route>>> = users.iter().map(|_| None).collect();
    for (places, found) in join_all(asked).await {
        match found {
            Ok(found) => places.into_iter().zip(found).for_each(|(place, of_one)| routes[place] = Some(of_one)),
            Err(error) => core.metrics.store_failed("routes", &error),
        }
    }
    routes
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
        let message = Kind::AllPush(AllPush { app_id: app.0, push: Some(message(push, now_ms)) });
        if gateway.send(message, push.class).await {
            core.metrics.pushed(Audience::All, push.class);
            taken += 1;
        }
    }
    taken
}

fn message(push: &Outgoing, now_ms: u64) -> Push {
    message_of(push.clone(), now_ms)
}

fn message_of(push: Outgoing, now_ms: u64) -> Push {
    Push {
        biz_code: push.biz_code.0,
        data: push.data,
        msg_id: String::new(),
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
