//! One active room: a task with a bounded queue that does everything about the room in order.
//!
//! - What it decides is queued as *out*, and leaves at the end of a batch of calls: first into the room log, then onto the links. A
//!   JOIN is decided with nothing queued, so its answer stands before every push that follows it.
//! - Nothing leaves once the lease may have ended: pushes are forgotten, callers are refused.
//! - Its memory is a cache: members, log, states and moderation stand in the stores, and the next life of the room begins from there.
//!
//! Rules are the services'; here is only order.

mod door;
mod orders;
pub(crate) mod snapshot;
mod upkeep;

pub(crate) use orders::Order;

use crate::{
    Refusal,
    core::Core,
    dispatch,
    link::Gateway,
    membership::Membership,
    metrics::Audience,
    ownership::Claim,
    services::{
        Asker, Effects, Outgoing,
        chat::{self, Guard},
        ports::RoomRecord,
        room::{AUDIENCE_KEY, Rules},
    },
    timers::RoomTimers,
};
use billfish_link::message::{Accepted, Evict, Joined, Left, Push, RoomPush, Synced, envelope::Kind, reply};
use billfish_state::{AppId, DeviceKind, LogAppend, LogEntry, Member, RoomId};
use billfish_wire::{Body, Class, Encoding, Reason};
use bytes::Bytes;
use snapshot::States;
use std::{collections::VecDeque, sync::Arc, time::Instant};
use tokio::sync::{mpsc, oneshot};

/// Calls worked off before their outcome is sent: joins the room log's writes of a busy room, and adds less than a millisecond.
const BATCH: usize = 64;
/// Messages in the snapshot of a newcomer.
const NEWCOMER_MESSAGES: usize = 20;
/// Messages in the snapshot of one who resumes, and in a SYNC page.
const RESUME_MESSAGES: usize = 200;
/// How long states are kept for the next life of the room.
const STATES_KEPT_MS: u64 = 12 * 3_600 * 1_000;

/// What a room can be asked.
pub(crate) enum RoomCall {
    /// A gateway wants its pushes, or no longer.
    Interest {
        gateway: Arc<Gateway>,
        interested: bool,
    },
    Join {
        gateway: Arc<Gateway>,
        id: u64,
        asker: Asker,
        resume_seq: Option<i64>,
    },
    /// `id` is none where the session has ended: nobody waits for an answer.
    Leave {
        gateway: Arc<Gateway>,
        id: Option<u64>,
        asker: Asker,
    },
    Sync {
        gateway: Arc<Gateway>,
        id: u64,
        asker: Asker,
        from_seq: i64,
    },
    Say {
        gateway: Arc<Gateway>,
        id: u64,
        asker: Asker,
        content: String,
        msg_id: String,
        received: Instant,
    },
    /// From the business backend.
    Push {
        app: AppId,
        push: Outgoing,
        answer: oneshot::Sender<Result<RoomPushed, Refusal>>,
    },
    Order {
        order: Order,
        answer: oneshot::Sender<Result<(), Refusal>>,
    },
    /// The router goes.
    Stop,
}

/// What became of a push to the room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RoomPushed {
    pub(crate) seq: i64,
    pub(crate) gateways: u64,
}

impl RoomCall {
    /// Tells whoever waits that it will not be done.
    pub(crate) async fn refuse(self, refusal: Refusal) {
        match self {
            Self::Interest { .. } | Self::Leave { id: None, .. } | Self::Stop => {}
            Self::Join { gateway, id, .. } | Self::Sync { gateway, id, .. } | Self::Say { gateway, id, .. } => {
                gateway.refuse(id, &refusal).await
            }
            Self::Leave { gateway, id: Some(id), asker: _ } => gateway.refuse(id, &refusal).await,
            // Where the receiver is gone the caller has given up.
            Self::Push { answer, .. } => drop(answer.send(Err(refusal))),
            Self::Order { answer, .. } => drop(answer.send(Err(refusal))),
        }
    }
}

/// Why a life of a room ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Nobody was here for a while, or the counter is used up.
    Idle,
    /// The anchor closed it.
    Closed,
    /// Another owner may have it.
    Lost,
    /// The router goes.
    Stopped,
}

/// Runs one life of a room.
pub(crate) async fn run(core: Arc<Core>, id: RoomId, mut receiver: mpsc::Receiver<RoomCall>) {
    let Some(first) = door::first(&core, id, &mut receiver).await else {
        // Only strangers came: nothing was opened. What is coming just now may be worth it.
        return hand_on(&core, id, receiver, VecDeque::new(), None).await;
    };
    let mut unserved = VecDeque::new();
    let ended = match Room::open(Arc::clone(&core), id).await {
        Ok(mut room) => {
            core.metrics.rooms.inc();
            let end = room.serve(first, &mut receiver).await;
            core.metrics.rooms.dec();
            if end == End::Lost {
                tracing::warn!(room = %id, epoch = room.claim.epoch, "the lease of a room was lost; it stops here");
                core.metrics.rooms_lost.inc();
            }
            core.ownership.release(&room.claim).await;
            match end {
                End::Closed => Some(Refusal::new(Reason::RoomNotFound)),
                End::Stopped => Some(Refusal::unavailable()),
                // What came meanwhile is for the next life.
                End::Idle | End::Lost => None,
            }
        }
        Err(refusal) => {
            unserved.push_back(first);
            Some(refusal)
        }
    };
    hand_on(&core, id, receiver, unserved, ended).await;
}

/// Ends the queue. What is in it is refused with `ended`, or is for the next life.
async fn hand_on(
    core: &Arc<Core>,
    id: RoomId,
    mut receiver: mpsc::Receiver<RoomCall>,
    mut left: VecDeque<RoomCall>,
    ended: Option<Refusal>,
) {
    left.extend(dispatch::end_room(core, id, &mut receiver, ended.is_none()));
    loop {
        // Behind what was queued comes who was just putting something in.
        let Some(call) = (match left.pop_front() {
            Some(call) => Some(call),
            None => receiver.recv().await,
        }) else {
            return;
        };
        core.metrics.room_queue_depth.dec();
        match &ended {
            None => dispatch::to_room(core, id, call).await,
            Some(refusal) if refusal.reason == Reason::RoomNotFound => door::after_the_end(core, id, call).await,
            Some(refusal) => call.refuse(refusal.clone()).await,
        }
    }
}

/// One life of a room.
struct Room {
    core: Arc<Core>,
    record: RoomRecord,
    claim: Claim,
    counter: u32,
    membership: Membership,
    audience: u64,
    announced: Option<u64>,
    announced_ms: u64,
    states: States,
    states_changed: bool,
    rules: Rules,
    guard: Guard,
    /// The newest of the log, for newcomers.
    recent: VecDeque<Bytes>,
    /// The log was empty when this life began: what is older than its epoch is not there.
    log_begins_here: bool,
    sweep_cursor: u64,
    timers: RoomTimers,
    log_batch: Vec<LogAppend>,
    out: Vec<Out>,
    end: Option<End>,
}

/// Decided, and not yet on a link.
enum Out {
    /// To every interested gateway.
    Room { message: Kind, class: Class },
    /// The answer to one message. `claimed`: it was taken by this call, not found taken.
    Reply { gateway: Arc<Gateway>, id: u64, result: reply::Result, received: Instant, claimed: Option<(Asker, String)> },
}

impl Room {
    async fn open(core: Arc<Core>, id: RoomId) -> Result<Self, Refusal> {
        let now_ms = core.state.clock.now_ms();
        let record = core.catalog.room(id, now_ms).await?.ok_or_else(|| Refusal::new(Reason::RoomNotFound))?;
        let claim = match core.ownership.claim(id, now_ms).await {
            Ok(claim) => claim,
            Err(refusal) => {
                if refusal.reason == Reason::RoomNotFound {
                    core.catalog.closed(id, now_ms).await;
                }
                return Err(refusal);
            }
        };
        let read = async {
            let moderation = core.records.moderation(id, now_ms).await?;
            let audience = core.state.members.count(record.app, id).await?;
            let recent = core.state.room_log.last(id, NEWCOMER_MESSAGES, now_ms).await?;
            let states = core.state.cache.get(&states_key(id), now_ms).await?;
            Ok::<_, Refusal>((moderation, audience, recent, states))
        };
        let (moderation, audience, recent, states) = match read.await {
            Ok(read) => read,
            Err(refusal) => {
                core.ownership.release(&claim).await;
                return Err(refusal);
            }
        };
        let mut membership = Membership::default();
        // An earlier life here knew them; they will not say it again.
        for gateway in core.links.all().iter().filter(|gateway| gateway.wants(id)) {
            membership.interest(gateway, true);
        }
        let timers = RoomTimers {
            renew_ms: now_ms + core.ownership.renew_every_ms(),
            sweep_ms: now_ms + core.config.silence_ms(),
            audience_ms: None,
            idle_ms: None,
        };
        let rules = Rules::new(moderation, core.house_words.load_full());
        Ok(Self {
            claim,
            counter: 0,
            membership,
            audience,
            announced: None,
            announced_ms: 0,
            states: states.and_then(|states| serde_json::from_slice(&states).ok()).unwrap_or_default(),
            states_changed: false,
            rules,
            guard: Guard::default(),
            log_begins_here: recent.is_empty(),
            recent: recent.into_iter().map(|entry| entry.body).collect(),
            sweep_cursor: 0,
            timers,
            log_batch: Vec::new(),
            out: Vec::new(),
            end: None,
            record,
            core,
        })
    }

    async fn serve(&mut self, first: RoomCall, receiver: &mut mpsc::Receiver<RoomCall>) -> End {
        let mut batch = Vec::with_capacity(BATCH);
        self.core.metrics.room_queue_depth.dec();
        self.on_call(first).await;
        loop {
            let now_ms = self.core.state.clock.now_ms();
            self.watch_idle(now_ms);
            if now_ms >= self.timers.next_ms() {
                self.on_tick(now_ms).await;
            }
            self.flush().await;
            if let Some(end) = self.end {
                return end;
            }
            let wake = self.core.state.clock.instant(self.timers.next_ms());
            // Cancel-safe: `recv_many` takes nothing unless it returns.
            tokio::select! {
                received = receiver.recv_many(&mut batch, BATCH) => {
                    if received == 0 {
                        return End::Stopped;
                    }
                }
                () = tokio::time::sleep_until(wake) => {}
            }
            for call in batch.drain(..) {
                self.core.metrics.room_queue_depth.dec();
                match self.end {
                    None => self.on_call(call).await,
                    Some(End::Closed) => door::after_the_end(&self.core, self.record.room, call).await,
                    Some(End::Idle | End::Lost | End::Stopped) => call.refuse(Refusal::unavailable()).await,
                }
            }
        }
    }

    async fn on_call(&mut self, call: RoomCall) {
        match call {
            RoomCall::Interest { gateway, interested } => {
                // What was decided before goes to those who were interested before.
                self.flush().await;
                let gone = self.membership.interest(&gateway, interested);
                self.take_out(&gone).await;
            }
            RoomCall::Join { gateway, id, asker, resume_seq } => self.on_join(gateway, id, asker, resume_seq).await,
            RoomCall::Leave { gateway, id, asker } => self.on_leave(&gateway, id, asker).await,
            RoomCall::Sync { gateway, id, asker, from_seq } => self.on_sync(&gateway, id, asker, from_seq).await,
            RoomCall::Say { gateway, id, asker, content, msg_id, received } => match self.on_say(asker, &content, &msg_id).await {
                Ok((ts_ms, seq)) => {
                    self.core.metrics.decided("chat", "accepted");
                    let result = reply::Result::Accepted(Accepted { ts: ts_ms.cast_signed(), seq: seq.unwrap_or(0) });
                    let claimed = seq.map(|_| (asker, msg_id));
                    self.out.push(Out::Reply { gateway, id, result, received, claimed });
                }
                Err(refusal) => {
                    self.core.metrics.decided("chat", refusal.reason.label());
                    gateway.refuse(id, &refusal).await;
                }
            },
            RoomCall::Push { app, push, answer } => {
                let pushed = self.on_push(app, push).await;
                drop(answer.send(pushed));
            }
            RoomCall::Order { order, answer } => {
                let done = self.on_order(order).await;
                self.flush().await;
                drop(answer.send(done));
            }
            RoomCall::Stop => self.end = Some(End::Stopped),
        }
    }

    async fn on_join(&mut self, gateway: Arc<Gateway>, id: u64, asker: Asker, resume_seq: Option<i64>) {
        self.flush().await;
        let result = self.join(&gateway, asker, resume_seq).await;
        let Ok(joined) = result else {
            let refusal = result.expect_err("the other case was taken");
            self.core.metrics.joined(refusal.reason.label());
            gateway.refuse(id, &refusal).await;
            return;
        };
        self.core.metrics.joined("accepted");
        gateway.reply(id, reply::Result::Joined(joined)).await;
    }

    async fn join(&mut self, gateway: &Arc<Gateway>, asker: Asker, resume_seq: Option<i64>) -> Result<Joined, Refusal> {
        let now_ms = self.core.state.clock.now_ms();
        let guard = door::join_guard(&self.core);
        guard.check(asker, now_ms).await?;
        if asker.app != self.record.app {
            return Err(guard.failed(asker, Refusal::new(Reason::RoomNotFound), now_ms).await);
        }
        if let Err(refusal) = self.rules.may_enter(asker.user, now_ms) {
            return Err(guard.failed(asker, refusal, now_ms).await);
        }
        if self.membership.seats() >= self.core.config.room.members_max && !self.membership.contains(asker.user) {
            return Err(Refusal::because(Reason::RateLimited, "the room is full; wait retryAfterMs").retry_after(FULL_RETRY_MS));
        }
        if now_ms >= self.claim.until_ms {
            self.end = Some(End::Lost);
            return Err(Refusal::unavailable());
        }
        let messages = self.missed(resume_seq, now_ms).await?;
        let member = Member { user: asker.user, device: asker.device };
        self.audience = self.core.state.members.join(asker.app, self.record.room, &[member], now_ms).await?;
        self.membership.take_seat(gateway, asker.user, asker.device, asker.session);
        let (messages, gap) = messages;
        let data = snapshot::snapshot(self.audience, &self.states, &messages, gap, resume_seq.is_some());
        Ok(Joined { room_id: self.record.room.0, seq: self.seq(), data, audience: self.audience.cast_signed() })
    }

    /// The messages of a snapshot, and whether some before them are lost.
    async fn missed(&self, resume_seq: Option<i64>, now_ms: u64) -> Result<(Vec<Bytes>, bool), Refusal> {
        let Some(after_seq) = resume_seq else { return Ok((self.recent.iter().cloned().collect(), false)) };
        let room = self.record.room;
        let page = self.core.state.room_log.read(room, after_seq, RESUME_MESSAGES, now_ms).await?;
        let gap = page.gap || page.more || self.is_before_the_log(after_seq);
        let entries = if page.more { self.core.state.room_log.last(room, RESUME_MESSAGES, now_ms).await? } else { page.entries };
        Ok((entries.into_iter().map(|entry| entry.body).collect(), gap))
    }

    /// Who has seen nothing (0) misses nothing.
    fn is_before_the_log(&self, seq: i64) -> bool {
        self.log_begins_here && seq > 0 && seq.cast_unsigned() >> 32 < self.claim.epoch
    }

    async fn on_leave(&mut self, gateway: &Gateway, id: Option<u64>, asker: Asker) {
        if self.membership.leave_seat(gateway, asker.user, asker.device, asker.session) {
            self.take_out(&[Member { user: asker.user, device: asker.device }]).await;
        }
        if let Some(id) = id {
            gateway.reply(id, reply::Result::Left(Left { room_id: self.record.room.0 })).await;
        }
    }

    async fn on_sync(&mut self, gateway: &Gateway, id: u64, asker: Asker, from_seq: i64) {
        self.flush().await;
        let now_ms = self.core.state.clock.now_ms();
        let read = async {
            self.check_member(asker).await?;
            Ok(self.core.state.room_log.read(self.record.room, from_seq, RESUME_MESSAGES, now_ms).await?)
        };
        match read.await {
            Ok(page) => {
                let gap = page.gap || self.is_before_the_log(from_seq);
                let messages: Vec<Bytes> = page.entries.into_iter().map(|entry| entry.body).collect();
                let data = snapshot::page(&messages, page.more, gap);
                gateway.reply(id, reply::Result::Synced(Synced { room_id: self.record.room.0, data })).await;
            }
            Err(refusal) => gateway.refuse(id, &refusal).await,
        }
    }

    /// When it was taken, and its place; none for one that was taken before.
    async fn on_say(&mut self, asker: Asker, content: &str, msg_id: &str) -> Result<(u64, Option<i64>), Refusal> {
        let now_ms = self.core.state.clock.now_ms();
        self.check_member(asker).await?;
        if !self.core.claim_message(asker, msg_id, now_ms).await {
            return Ok((now_ms, None));
        }
        let ports = self.core.chat_ports();
        let said = chat::say(&ports, &self.record, &self.rules, &mut self.guard, asker, content, now_ms).await;
        match said {
            Ok(effects) => Ok((now_ms, Some(self.apply(effects, now_ms).await))),
            Err(refusal) => {
                self.core.release_message(asker, msg_id).await;
                Err(refusal)
            }
        }
    }

    async fn on_push(&mut self, app: AppId, push: Outgoing) -> Result<RoomPushed, Refusal> {
        if app != self.record.app {
            return Err(Refusal::new(Reason::RoomNotFound));
        }
        if let Some(key) = &push.key {
            self.check_state(key, &push)?;
        }
        self.flush().await;
        let now_ms = self.core.state.clock.now_ms();
        if self.end.is_some() || now_ms >= self.claim.until_ms {
            return Err(Refusal::unavailable());
        }
        let before = push.acknowledged.then(|| self.recent.clone());
        let seq = self.apply(push.clone().into(), now_ms).await;
        // What must arrive is in the log before anyone hears of it, newcomers among them.
        if let Some(before) = before
            && !self.write_log(now_ms).await
        {
            self.out.clear();
            self.recent = before;
            return Err(Refusal::unavailable());
        }
        let gateways = self.membership.interested().count() as u64;
        self.flush().await;
        if self.end == Some(End::Lost) { Err(Refusal::unavailable()) } else { Ok(RoomPushed { seq, gateways }) }
    }

    fn check_state(&self, key: &str, push: &Outgoing) -> Result<(), Refusal> {
        if key == AUDIENCE_KEY {
            return Err(Refusal::because(Reason::Malformed, "the key audience is the room's own"));
        }
        let others = self.states.iter().filter(|(known, _)| *known != key && *known != AUDIENCE_KEY);
        let (count, bytes) =
            others.fold((0, 0), |(count, bytes), (known, body)| (count + 1, bytes + snapshot::escaped_bytes(body) + known.len()));
        let own = snapshot::twice_escaped_bytes(&push.data) + key.len() + STATE_FIELDS_BYTES;
        if count >= snapshot::STATES_MAX || bytes + own > snapshot::STATES_BYTES_MAX {
            return Err(Refusal::because(Reason::Malformed, "the states of a room are at most 32 keys and 24 KiB together"));
        }
        Ok(())
    }

    /// Puts effects into the room's order. Gives the last sequence number used.
    async fn apply(&mut self, effects: Effects, now_ms: u64) -> i64 {
        for push in effects.pushes {
            self.put(push, now_ms);
        }
        if let Some(user) = effects.evict {
            self.membership.remove_user(user);
            let evict = Evict { app_id: self.record.app.0, room_id: self.record.room.0, user_id: user.0, epoch: self.claim.epoch };
            self.out.push(Out::Room { message: Kind::Evict(evict), class: Class::Control });
            let devices = DeviceKind::ALL.map(|device| Member { user, device });
            self.take_out(&devices).await;
        }
        self.seq()
    }

    /// Gives a push its place, remembers it for those who come later, and queues it.
    fn put(&mut self, push: Outgoing, now_ms: u64) {
        self.counter = self.counter.checked_add(1).expect("the room begins a new epoch at half of this");
        let (room, seq) = (self.record.room.0, self.seq());
        let msg_id = if push.acknowledged { format!("r{room}-{seq}") } else { String::new() };
        let body = Body {
            biz_code: Some(push.biz_code.0),
            data: Some(push.data),
            msg_id: push.acknowledged.then(|| msg_id.clone()),
            room_id: Some(room),
            seq: Some(seq),
            ts: Some(now_ms.cast_signed()),
            qos: push.acknowledged.then_some(1),
            class: Some(push.class.number()),
            key: push.key,
            ..Body::default()
        };
        let json = body.to_vec(Encoding::Json);
        match &body.key {
            Some(key) => {
                self.states_changed |= key != AUDIENCE_KEY;
                self.states.insert(key.clone(), String::from_utf8(json).expect("JSON is UTF-8"));
            }
            None => {
                let json = Bytes::from(json);
                self.log_batch.push(LogEntry { seq, body: json.clone(), except: push.except }.into());
                if self.recent.len() == NEWCOMER_MESSAGES {
                    self.recent.pop_front();
                }
                self.recent.push_back(json);
            }
        }
        let message = RoomPush {
            push: Some(Push {
                biz_code: push.biz_code.0,
                data: body.data.unwrap_or_default(),
                msg_id,
                room_id: room,
                seq,
                ts: now_ms.cast_signed(),
                qos: i32::from(push.acknowledged),
                class: push.class.number(),
                key: body.key.unwrap_or_default(),
            }),
            epoch: self.claim.epoch,
            except_user_id: push.except.map_or(0, |user| user.0),
            keep_permille: push.keep_permille,
        };
        self.out.push(Out::Room { message: Kind::RoomPush(message), class: push.class });
    }

    /// Sends what was decided: log first, then links, in order.
    async fn flush(&mut self) {
        if self.out.is_empty() && self.log_batch.is_empty() {
            return;
        }
        let now_ms = self.core.state.clock.now_ms();
        if now_ms >= self.claim.until_ms {
            return self.lose().await;
        }
        self.write_log(now_ms).await;
        self.write_states(now_ms).await;
        // The stores may have taken their time.
        if self.core.state.clock.now_ms() >= self.claim.until_ms {
            return self.lose().await;
        }
        self.heal().await;
        let gateways: Vec<Arc<Gateway>> = self.membership.interested().cloned().collect();
        for out in self.out.drain(..) {
            match out {
                Out::Room { message, class } => {
                    for gateway in &gateways {
                        let counted = matches!(message, Kind::RoomPush(_));
                        if !gateway.send(message.clone(), class).await {
                            if !class.may_drop() {
                                self.membership.mark_hole(gateway);
                            }
                        } else if counted {
                            self.core.metrics.pushed(Audience::Room, class);
                        }
                    }
                }
                Out::Reply { gateway, id, result, received, claimed: _ } => {
                    gateway.reply(id, result).await;
                    self.core.metrics.delivered_in(received.elapsed());
                }
            }
        }
    }

    /// The lease may have ended: what was decided never was.
    async fn lose(&mut self) {
        self.end = Some(End::Lost);
        self.log_batch.clear();
        for out in std::mem::take(&mut self.out) {
            match out {
                Out::Room { .. } => {}
                Out::Reply { gateway, id, claimed, .. } => {
                    // Before the refusal: it may be sent again at once, and must then be said.
                    if let Some((asker, msg_id)) = claimed {
                        self.core.release_message(asker, &msg_id).await;
                    }
                    gateway.refuse(id, &Refusal::unavailable()).await;
                }
            }
        }
    }

    /// `false` when the log did not take it. Pushes of QoS 0 are sent all the same.
    async fn write_log(&mut self, now_ms: u64) -> bool {
        if self.log_batch.is_empty() {
            return true;
        }
        let written = self.core.state.room_log.append(self.record.room, &self.log_batch, now_ms).await;
        self.log_batch.clear();
        match written {
            Ok(_) => true,
            Err(error) => {
                self.core.metrics.store_failed("room_log", &error);
                false
            }
        }
    }

    async fn write_states(&mut self, now_ms: u64) {
        if !std::mem::take(&mut self.states_changed) {
            return;
        }
        let kept: States =
            self.states.iter().filter(|(key, _)| *key != AUDIENCE_KEY).map(|(key, body)| (key.clone(), body.clone())).collect();
        let value = serde_json::to_vec(&kept).expect("a map of texts is JSON").into();
        let key = states_key(self.record.room);
        if let Err(error) = self.core.state.cache.put(&key, value, now_ms, now_ms + STATES_KEPT_MS).await {
            self.core.metrics.store_failed("room_states", &error);
        }
    }

    /// Takes members out of the store's set.
    async fn take_out(&mut self, members: &[Member]) {
        if members.is_empty() {
            return;
        }
        let now_ms = self.core.state.clock.now_ms();
        match self.core.state.members.leave(self.record.app, self.record.room, members, now_ms).await {
            Ok(audience) => self.audience = audience,
            // The sweep finds them.
            Err(error) => self.core.metrics.store_failed("members", &error),
        }
    }

    /// One without a seat here is asked for at the door, as he is where the room sleeps or is not.
    async fn check_member(&self, asker: Asker) -> Result<(), Refusal> {
        if asker.app == self.record.app && self.membership.contains(asker.user) {
            return Ok(());
        }
        door::check_member(&self.core, self.record.room, asker).await
    }

    /// The last sequence number used.
    fn seq(&self) -> i64 {
        (self.claim.epoch << 32 | u64::from(self.counter)).cast_signed()
    }
}

/// Told to who finds a room full.
const FULL_RETRY_MS: u64 = 10_000;
/// The other fields of a state's body, escaped.
const STATE_FIELDS_BYTES: usize = 256;

fn states_key(room: RoomId) -> String {
    format!("living_room_states:{room}")
}

#[cfg(test)]
mod tests;
