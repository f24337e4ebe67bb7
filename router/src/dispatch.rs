//! What comes up a link, or from the HTTP API, onto the queue that decides it: a room's, or a lane of users.
//!
//! - About a room: its actor, begun when there is none. Calls beyond the queue's bound are refused (5001); what a gateway says about
//!   its members (interest, leaving) is never refused, it waits, and with it the link.
//! - About users: one of [`LANES`] lanes, by the user who receives; so everything one user gets keeps its order.
//! - Unknown business codes are refused here, before anything is queued.
//!
//! No service is called here; nothing waits for a store.

use crate::{
    Refusal,
    core::Core,
    delivery::{self, Delivered},
    link::Gateway,
    room::{self, Giver, RoomCall, snapshot},
    services::{
        Asker, Outgoing,
        chat::{self, Destination},
        gift, is_room, is_user,
    },
    whispers::{self, Whisper, is_repeat},
};
use billfish_link::message::{Accepted, Biz, Gone, Interest, Origin, Relay, Synced, Up, Users, envelope::Kind, reply, up::Call};
use billfish_state::{AppId, DeviceKind, RoomId, UserId};
use billfish_wire::{BizCode, Class, Reason};
use bytes::Bytes;
use futures_util::future::join_all;
use std::{
    collections::{HashMap, VecDeque},
    future::Future,
    pin::Pin,
    slice,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};
use tokio::sync::{mpsc, oneshot};

/// Lanes for what belongs to no room. The fewer there are, the more calls wait together in one, and share what the stores cost; with a second
/// one the processor has something to do while the first waits for them.
pub(crate) const LANES: usize = 1 << LANES_BITS;
const LANES_BITS: u32 = 1;
/// Calls waiting in one lane; beyond it the caller hears 5001. At 20 µs each 160 ms of delay.
const LANE_CALLS_MAX: usize = 8_192;
/// Calls that are worked off at the same time: some milliseconds of a store's time.
const TURN_CALLS_MAX: usize = 128;
/// Places in a room's queue beyond its bound, for what is never refused.
const SPARE_PLACES: usize = 1_024;
/// Told to who finds a queue full: it is empty again in a few milliseconds, unless something is badly wrong.
const BUSY_RETRY_MS: u64 = 200;
/// Messages in one page of an inbox.
pub(crate) const INBOX_PAGE: usize = 100;

/// One message of a link.
pub(crate) async fn on_message(core: &Arc<Core>, gateway: &Arc<Gateway>, kind: Kind) {
    match kind {
        Kind::Up(up) => on_up(core, gateway, up).await,
        Kind::Interest(Interest { room_id, interested, members: _, last_seq }) => {
            let room = RoomId(room_id);
            let after_seq = interested.then_some(last_seq.max(0));
            gateway.set_wanted(room, after_seq);
            to_room(core, room, RoomCall::Interest { gateway: Arc::clone(gateway), after_seq }).await;
        }
        Kind::Gone(Gone { origin, room_ids, logged_out }) => {
            let Some(asker) = origin.and_then(asker) else { return };
            for room in room_ids {
                to_room(core, RoomId(room), RoomCall::Leave { gateway: Arc::clone(gateway), id: None, asker, of_will: logged_out }).await;
            }
        }
        Kind::Seats(seats) => {
            let room = RoomId(seats.room_id);
            // The life that asked is over, or it has a queue.
            if core.rooms.has(room) {
                to_room(core, room, RoomCall::Seats { gateway: Arc::clone(gateway), seats }).await;
            }
        }
        Kind::Relay(relay) => on_relay(core, relay).await,
        Kind::Users(Users { app_id, user_ids, online }) => {
            core.users_said(AppId(app_id), user_ids.into_iter().map(UserId).filter(|user| is_user(*user)), online);
        }
        // The link's own business.
        Kind::Hello(_) | Kind::Welcome(_) | Kind::Credit(_) | Kind::Ping(_) => {}
        Kind::Reply(_)
        | Kind::RoomPush(_)
        | Kind::UserPush(_)
        | Kind::AllPush(_)
        | Kind::Kick(_)
        | Kind::Evict(_)
        | Kind::Audience(_)
        | Kind::RollCall(_)
        | Kind::Bye(_) => {
            tracing::debug!(gateway = %gateway.node, "a gateway sent what only routers send");
        }
    }
}

/// A session there has been replaced by one here: its gateway is told, if it is linked and in that life. Another life of it has not that
/// session, and one that is not linked finds out when it looks at its routes.
async fn on_relay(core: &Core, Relay { node, incarnation, kick }: Relay) {
    let Some(kick) = kick else { return };
    let result = match core.links.get(&node) {
        Some(gateway) if gateway.incarnation == incarnation => {
            if gateway.send(Kind::Kick(kick), Class::Control).await {
                "passed"
            } else {
                "dropped"
            }
        }
        Some(_) => "other_life",
        None => "no_link",
    };
    core.metrics.relayed(result);
}

async fn on_up(core: &Arc<Core>, gateway: &Arc<Gateway>, up: Up) {
    let id = up.id;
    let Some(asker) = up.origin.and_then(asker) else {
        return gateway.refuse(id, &Refusal::new(Reason::NotLoggedIn)).await;
    };
    if core.is_draining() {
        let owner = up.call.as_ref().and_then(room_of).map(|room| core.owner_or_none(room));
        return gateway.refuse(id, &Refusal::moved(&owner.unwrap_or_default())).await;
    }
    let gateway = Arc::clone(gateway);
    match up.call {
        Some(Call::Biz(biz)) => on_biz(core, gateway, id, asker, biz).await,
        Some(Call::Join(join)) => {
            to_room(core, RoomId(join.room_id), RoomCall::Join { gateway, id, asker, resume_seq: join.resume_seq }).await;
        }
        Some(Call::Leave(leave)) => {
            to_room(core, RoomId(leave.room_id), RoomCall::Leave { gateway, id: Some(id), asker, of_will: true }).await
        }
        Some(Call::Sync(sync)) if sync.room_id != 0 => {
            to_room(core, RoomId(sync.room_id), RoomCall::Sync { gateway, id, asker, from_seq: sync.from_seq }).await;
        }
        Some(Call::Sync(sync)) => {
            to_lane(core, asker.user, LaneCall::SyncInbox { gateway, id, asker, from_id: sync.from_id, resume: sync.resume }).await;
        }
        Some(Call::Redeliver(_)) => to_lane(core, asker.user, LaneCall::Redeliver { gateway, id, asker }).await,
        Some(Call::Order(_)) | None => gateway.refuse(id, &Refusal::new(Reason::UnknownCode)).await,
    }
}

async fn on_biz(core: &Arc<Core>, gateway: Arc<Gateway>, id: u64, asker: Asker, biz: Biz) {
    let received = Instant::now();
    match BizCode(biz.biz_code) {
        BizCode::ROOM_CHAT => on_chat(core, gateway, id, asker, biz, received).await,
        BizCode::GIFT_SEND => on_gift(core, gateway, id, asker, biz, received).await,
        _ => {
            core.metrics.decided("unknown", Reason::UnknownCode.label());
            gateway.refuse(id, &Refusal::new(Reason::UnknownCode)).await;
        }
    }
}

async fn on_gift(core: &Arc<Core>, gateway: Arc<Gateway>, id: u64, asker: Asker, biz: Biz, received: Instant) {
    match gift::parse(&biz.data, biz.room_id) {
        Ok((room, request)) => {
            let giver = Giver::Session { gateway, id, asker, received };
            to_room(core, room, RoomCall::Gift { giver, request }).await;
        }
        Err(refusal) => {
            core.metrics.decided("gift", refusal.reason.label());
            gateway.refuse(id, &refusal).await;
        }
    }
}

async fn on_chat(core: &Arc<Core>, gateway: Arc<Gateway>, id: u64, asker: Asker, biz: Biz, received: Instant) {
    let message = match chat::parse(&biz.data, biz.room_id) {
        Ok(message) => message,
        Err(refusal) => {
            core.metrics.decided("chat", refusal.reason.label());
            return gateway.refuse(id, &refusal).await;
        }
    };
    let (content, msg_id) = (message.content, biz.msg_id);
    match message.to {
        Destination::Room(room) => to_room(core, room, RoomCall::Say { gateway, id, asker, content, msg_id, received }).await,
        Destination::User(receiver) => {
            to_lane(core, receiver, LaneCall::Whisper(Whisper { gateway, id, asker, receiver, content, msg_id, received })).await;
        }
    }
}

/// Which room a call is about.
fn room_of(call: &Call) -> Option<RoomId> {
    let room = match call {
        Call::Biz(biz) => biz.room_id,
        Call::Join(join) => join.room_id,
        Call::Leave(leave) => leave.room_id,
        Call::Sync(sync) => sync.room_id,
        Call::Order(order) => order.room_id,
        Call::Redeliver(_) => 0,
    };
    (room != 0).then_some(RoomId(room))
}

/// Who a link says it is; `None` for what no session can be.
pub(crate) fn asker(origin: Origin) -> Option<Asker> {
    let asker = Asker {
        app: AppId(origin.app_id),
        user: UserId(origin.user_id),
        device: DeviceKind::from_number(origin.device).unwrap_or_default(),
        session: origin.session,
    };
    is_user(asker.user).then_some(asker)
}

/// The rooms that are active on this router.
#[derive(Debug, Default)]
pub(crate) struct Rooms {
    queues: Mutex<Queues>,
}

type Queues = HashMap<RoomId, mpsc::Sender<RoomCall>>;

impl Rooms {
    /// Whether a room is active.
    pub(crate) fn any(&self) -> bool {
        !self.lock().is_empty()
    }

    /// Whether a room is active here.
    pub(crate) fn has(&self, room: RoomId) -> bool {
        self.lock().contains_key(&room)
    }

    /// The queue of every active room, in the order of their ids.
    pub(crate) fn queues(&self) -> Vec<mpsc::Sender<RoomCall>> {
        let mut queues: Vec<_> = self.lock().iter().map(|(room, queue)| (*room, queue.clone())).collect();
        queues.sort_by_key(|(room, _)| *room);
        queues.into_iter().map(|(_, queue)| queue).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens the rooms that have come to this router and that a gateway listens to. It may not know that they were another's for a moment, and
/// what that one has left behind would be heard by nobody until somebody speaks.
pub(crate) async fn wake_wanted(core: &Arc<Core>) {
    for gateway in core.links.all() {
        for (room, after_seq) in gateway.all_wanted() {
            if core.ownership.is_mine(room) && !core.rooms.has(room) {
                to_room(core, room, RoomCall::Interest { gateway: Arc::clone(&gateway), after_seq: Some(after_seq) }).await;
            }
        }
    }
}

/// Puts a call onto the queue of its room, or refuses it.
pub(crate) fn to_room<'a>(core: &'a Arc<Core>, room: RoomId, call: RoomCall) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
    // Boxed: a room that ends hands what is left to the next life through here.
    Box::pin(async move {
        if !is_room(room) {
            return call.refuse(Refusal::new(Reason::RoomNotFound)).await;
        }
        let never_refused = matches!(call, RoomCall::Interest { .. } | RoomCall::Seats { .. } | RoomCall::Leave { .. } | RoomCall::Stop);
        let mut call = call;
        loop {
            let Some(queue) = queue_of(core, room) else {
                let refusal = if core.is_draining() { Refusal::moved(&core.owner_or_none(room)) } else { Refusal::unavailable() };
                return call.refuse(refusal).await;
            };
            if !never_refused && queue.capacity() <= SPARE_PLACES {
                return call.refuse(busy()).await;
            }
            core.metrics.room_queue_depth.inc();
            match queue.send(call).await {
                Ok(()) => return,
                Err(unsent) => {
                    // That life of the room ended in between.
                    core.metrics.room_queue_depth.dec();
                    call = unsent.0;
                    tokio::task::yield_now().await;
                }
            }
        }
    })
}

/// The queue of a room, begun if need be; `None` when there are too many.
fn queue_of(core: &Arc<Core>, room: RoomId) -> Option<mpsc::Sender<RoomCall>> {
    let mut queues = core.rooms.lock();
    if let Some(queue) = queues.get(&room) {
        return Some(queue.clone());
    }
    begin(core, room, &mut queues)
}

fn begin(core: &Arc<Core>, room: RoomId, queues: &mut Queues) -> Option<mpsc::Sender<RoomCall>> {
    if queues.len() >= core.config.room.rooms_max || core.tasks.is_closed() {
        return None;
    }
    let (sender, receiver) = mpsc::channel(core.config.room.queue_calls_max + SPARE_PLACES);
    queues.insert(room, sender.clone());
    core.tasks.spawn(room::run(Arc::clone(core), room, receiver));
    Some(sender)
}

/// A life of a room has ended; what is still in its queue comes back. With `again` the next life begins with it instead: under the
/// table's lock, so nobody's later call comes before.
pub(crate) fn end_room(core: &Arc<Core>, room: RoomId, receiver: &mut mpsc::Receiver<RoomCall>, again: bool) -> Vec<RoomCall> {
    let mut queues = core.rooms.lock();
    receiver.close();
    queues.remove(&room);
    let mut left: Vec<RoomCall> = std::iter::from_fn(|| receiver.try_recv().ok()).collect();
    if again
        && !left.is_empty()
        && let Some(next) = begin(core, room, &mut queues)
    {
        // The new queue has as many places as the old one.
        left = left.into_iter().filter_map(|call| next.try_send(call).err()).map(mpsc::error::TrySendError::into_inner).collect();
    }
    left
}

fn busy() -> Refusal {
    Refusal::because(Reason::Unavailable, "too much is waiting here; wait retryAfterMs").retry_after(BUSY_RETRY_MS)
}

/// What users' lanes do.
pub(crate) enum LaneCall {
    Whisper(Whisper),
    SyncInbox {
        gateway: Arc<Gateway>,
        id: u64,
        asker: Asker,
        from_id: String,
        /// From one who has just come back.
        resume: bool,
    },
    /// To one who has just come, and did not say what he knows.
    Redeliver {
        gateway: Arc<Gateway>,
        id: u64,
        asker: Asker,
    },
    /// From the business backend; all users are of this lane.
    Push {
        app: AppId,
        users: Vec<UserId>,
        push: Arc<Outgoing>,
        answer: oneshot::Sender<Result<Delivered, Refusal>>,
    },
}

/// The queues of the lanes.
#[derive(Debug)]
pub(crate) struct Lanes {
    queues: Vec<mpsc::Sender<LaneCall>>,
}

impl Lanes {
    /// The lanes, and what their tasks take from.
    pub(crate) fn new() -> (Self, Vec<mpsc::Receiver<LaneCall>>) {
        let (queues, receivers) = (0..LANES).map(|_| mpsc::channel(LANE_CALLS_MAX)).unzip();
        (Self { queues }, receivers)
    }

    /// Which lane is a user's.
    pub(crate) fn of(user: UserId) -> usize {
        // Fibonacci hashing: neighbouring ids spread, and the upper bits are the lane.
        let mixed = user.0.cast_unsigned().wrapping_mul(0x9e37_79b9_7f4a_7c15);
        usize::try_from(mixed >> (u64::BITS - LANES_BITS)).expect("a few bits")
    }
}

/// Puts a call onto the lane of a user, or refuses it.
pub(crate) async fn to_lane(core: &Core, user: UserId, call: LaneCall) {
    core.metrics.lane_queue_depth.inc();
    if let Err(unsent) = core.lanes.queues[Lanes::of(user)].try_send(call) {
        core.metrics.lane_queue_depth.dec();
        let refusal = if matches!(unsent, mpsc::error::TrySendError::Full(_)) { busy() } else { Refusal::unavailable() };
        match unsent.into_inner() {
            LaneCall::Whisper(Whisper { gateway, id, .. })
            | LaneCall::SyncInbox { gateway, id, .. }
            | LaneCall::Redeliver { gateway, id, .. } => {
                gateway.refuse(id, &refusal).await;
            }
            LaneCall::Push { answer, .. } => drop(answer.send(Err(refusal))),
        }
    }
}

/// Works one lane off until the router stops; what is queued then is still done.
pub(crate) async fn run_lane(core: Arc<Core>, mut receiver: mpsc::Receiver<LaneCall>) {
    let (mut calls, mut waiting) = (Vec::new(), VecDeque::new());
    loop {
        if waiting.is_empty() {
            // Cancel-safe: `recv_many` takes nothing unless it returns.
            tokio::select! {
                biased;
                _ = receiver.recv_many(&mut calls, TURN_CALLS_MAX) => {}
                () = core.stop_lanes.cancelled() => {
                    receiver.close();
                    receiver.recv_many(&mut calls, TURN_CALLS_MAX).await;
                }
            }
            if calls.is_empty() {
                return;
            }
        }
        while waiting.len() + calls.len() < TURN_CALLS_MAX
            && let Ok(call) = receiver.try_recv()
        {
            calls.push(call);
        }
        core.metrics.lane_queue_depth.dec_by(i64::try_from(calls.len()).unwrap_or(i64::MAX));
        waiting.extend(calls.drain(..));
        let Turn { whispers, others } = Turn::take(&mut waiting);
        tokio::join!(
            Box::pin(whispers::run(&core, whispers)),
            join_all(others.into_iter().map(|call| Box::pin(on_lane_call(&core, call))))
        );
    }
}

/// Calls of a lane that are worked off at the same time: no two of them are about one user, but messages to him, which keep their order.
#[derive(Default)]
struct Turn {
    whispers: Vec<Whisper>,
    others: Vec<LaneCall>,
}

impl Turn {
    /// From the front, until one comes that has to wait for those before it.
    fn take(waiting: &mut VecDeque<LaneCall>) -> Self {
        let mut turn = Self::default();
        while let Some(call) = waiting.pop_front_if(|call| !turn.is_before(call)) {
            match call {
                LaneCall::Whisper(whisper) => turn.whispers.push(whisper),
                call @ (LaneCall::SyncInbox { .. } | LaneCall::Redeliver { .. } | LaneCall::Push { .. }) => turn.others.push(call),
            }
        }
        turn
    }

    /// Whether something in here has to be done before this call.
    fn is_before(&self, call: &LaneCall) -> bool {
        let users = call.users();
        self.others.iter().any(|other| other.users().iter().any(|user| users.contains(user)))
            || match call {
                LaneCall::Whisper(whisper) => self.whispers.iter().any(|other| is_repeat(other, whisper)),
                LaneCall::SyncInbox { .. } | LaneCall::Redeliver { .. } | LaneCall::Push { .. } => {
                    self.whispers.iter().any(|whisper| users.contains(&whisper.receiver))
                }
            }
    }
}

impl LaneCall {
    /// Whom it is about.
    fn users(&self) -> &[UserId] {
        match self {
            Self::Whisper(Whisper { receiver, .. }) => slice::from_ref(receiver),
            Self::SyncInbox { asker, .. } | Self::Redeliver { asker, .. } => slice::from_ref(&asker.user),
            Self::Push { users, .. } => users,
        }
    }
}

async fn on_lane_call(core: &Core, call: LaneCall) {
    match call {
        LaneCall::Whisper(whisper) => whispers::run(core, vec![whisper]).await,
        LaneCall::SyncInbox { gateway, id, asker, from_id, resume } => match inbox_page(core, asker, &from_id, resume).await {
            Ok(data) => gateway.reply(id, reply::Result::Synced(Synced { room_id: 0, data })).await,
            Err(refusal) => gateway.refuse(id, &refusal).await,
        },
        LaneCall::Redeliver { gateway, id, asker } => match delivery::again(core, &gateway, asker).await {
            Ok(()) => {
                let ts = core.state.clock.now_ms().cast_signed();
                gateway.reply(id, reply::Result::Accepted(Accepted { ts, seq: 0 })).await;
            }
            Err(refusal) => gateway.refuse(id, &refusal).await,
        },
        LaneCall::Push { app, users, push, answer } => {
            let delivered = delivery::to_users(core, app, &users, &push, core.state.clock.now_ms()).await;
            drop(answer.send(delivered));
        }
    }
}

/// One who resumes gets everything he has not acknowledged, also what is before the last he knows: two routers write into an inbox, and
/// ids of different clocks may come in another order than the messages.
async fn inbox_page(core: &Core, asker: Asker, from_id: &str, resume: bool) -> Result<String, Refusal> {
    let from = (!from_id.is_empty()).then_some(from_id);
    if from.is_some_and(|from| billfish_state::InboxId::parse(from).is_none()) {
        return Err(Refusal::because(Reason::Malformed, "fromId is the msgId of a message to you"));
    }
    let (inbox, now_ms) = (&core.state.inbox, core.state.clock.now_ms());
    let mut page = inbox.read(asker.app, asker.user, from.filter(|_| !resume), INBOX_PAGE, now_ms).await?;
    if resume && from.is_some() {
        page.gap = inbox.read(asker.app, asker.user, from, 1, now_ms).await?.gap;
    }
    let messages: Vec<Bytes> = page.entries.iter().map(|entry| snapshot::with_msg_id(&entry.body, &entry.id)).collect();
    Ok(snapshot::page(&messages, page.more, page.gap))
}

#[cfg(test)]
mod tests {
    use super::{LANES, LaneCall, Lanes, Turn};
    use crate::{link::Links, metrics::Metrics, services::Asker, whispers::Whisper};
    use billfish_state::{AppId, Clock, DeviceKind, UserId};
    use prometheus_client::registry::Registry;
    use std::{
        collections::VecDeque,
        time::{Duration, Instant},
    };
    use tokio::sync::{mpsc, oneshot};

    #[test]
    fn neighbouring_users_spread_over_the_lanes() {
        let mut users_of = [0; LANES];
        for user in (20_000..).take(LANES * 100) {
            users_of[Lanes::of(UserId(user))] += 1;
        }
        assert!(users_of.iter().all(|users| (50..200).contains(users)), "{users_of:?}");
    }

    /// How many calls of each kind the next turns have, of calls that are written short: `w1a` is a message to 1 with the id `a` (or none), `s1`
    /// a call of 1 about his inbox, `p12` a push to 1 and 2.
    fn turns(calls: &[&str]) -> Vec<(usize, usize)> {
        let links = Links::new(Duration::ZERO, Clock::start(), Metrics::register(&mut Registry::default()));
        let gateway = links.enter("g", 1, mpsc::channel(1).0).unwrap();
        let user = |digit: &str| UserId(digit.parse().unwrap());
        let asker = |user| Asker { app: AppId(10_001), user, device: DeviceKind::Web, session: 1 };
        let call = |text: &&str| match text.split_at(1) {
            ("w", rest) => LaneCall::Whisper(Whisper {
                gateway: gateway.clone(),
                id: 1,
                asker: asker(UserId(9)),
                receiver: user(&rest[..1]),
                content: String::new(),
                msg_id: rest[1..].to_owned(),
                received: Instant::now(),
            }),
            ("s", rest) => LaneCall::Redeliver { gateway: gateway.clone(), id: 1, asker: asker(user(rest)) },
            (_, rest) => {
                let push = crate::services::Outgoing::new(billfish_wire::BizCode(1), billfish_wire::Class::Chat, String::new());
                let users = rest.split("").filter(|digit| !digit.is_empty()).map(user).collect();
                LaneCall::Push { app: AppId(10_001), users, push: push.into(), answer: oneshot::channel().0 }
            }
        };
        let mut waiting: VecDeque<LaneCall> = calls.iter().map(call).collect();
        let next = || {
            let turn = Turn::take(&mut waiting);
            let counts = (turn.whispers.len(), turn.others.len());
            (counts != (0, 0)).then_some(counts)
        };
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn what_is_about_different_users_is_done_at_once_and_about_one_user_in_order() {
        assert_eq!(turns(&["w1a", "s2", "w3a", "p45", "s6"]), [(2, 3)]);
        assert_eq!(turns(&["w1a", "w1b", "w1", "w1", "w2a"]), [(5, 0)], "messages keep their order by themselves");
        assert_eq!(turns(&["w1a", "w2a", "w1a", "w3a"]), [(2, 0), (2, 0)], "a repeat is decided when its first is");
        assert_eq!(turns(&["w1a", "s1", "w1b"]), [(1, 0), (0, 1), (1, 0)]);
        assert_eq!(turns(&["s1", "p31", "p3", "w2a"]), [(0, 1), (0, 1), (1, 1)]);
    }
}
