//! One active room: a task with a bounded queue that does everything about the room in order.
//!
//! - What it decides is queued, and leaves at the end of a batch of calls by the `outbox`: first into the room log, then onto the links.
//!   A JOIN is decided with nothing queued, so its answer stands before every push that follows it.
//! - Nothing leaves once the lease is lost: pushes are forgotten, callers are told that the room has moved.
//! - Its memory is a cache: members, log, states and moderation stand in the stores, and the next life of the room begins from there.
//!
//! Rules are the services'; here is only order.

mod door;
mod gifts;
mod joining;
mod orders;
mod outbox;
mod parting;
mod pk;
mod replay;
mod roll;
pub(crate) mod snapshot;
mod taken;
mod upkeep;

pub(crate) use gifts::{GiftPaid, Giver};
pub(crate) use orders::Order;
pub(crate) use outbox::RoomPushed;
pub(crate) use pk::read as read_pk;

use crate::{
    Refusal,
    core::Core,
    dispatch,
    link::Gateway,
    membership::Membership,
    ownership::{Claim, Hold, NotClaimed},
    services::{
        Asker, Effects, Outgoing,
        chat::{self, Guard},
        gift::{GiftRequest, PK_KEY},
        ports::{RoomKind, RoomRecord},
        room::{AUDIENCE_KEY, Rules},
    },
    timers::RoomTimers,
};
use billfish_link::message::{Evict, Seats, Synced, envelope::Kind, reply};
use billfish_state::{AppId, DeviceKind, LogEntry, Member, MessageClaim, Quiet, RoomId, UserId};
use billfish_wire::{Class, Reason};
use bytes::Bytes;
use gifts::Gifts;
use joining::Joining;
use outbox::{Out, Outbox, Waiting};
use parting::Fate;
use pk::Pk;
use roll::Rolls;
use snapshot::States;
use std::{collections::VecDeque, sync::Arc, time::Instant};
use taken::Taken;
use tokio::sync::{mpsc, oneshot};
use upkeep::Signs;

/// Calls worked off before their outcome is sent: joins the room log's writes of a busy room, and adds less than a millisecond.
const BATCH: usize = 64;
/// JOINs decided together. One more saves hardly a command; each that resumes holds a log's worth of messages meanwhile, at most 1 MiB.
const JOINS_AT_ONCE: usize = 16;
/// Messages in the snapshot of a newcomer.
const NEWCOMER_MESSAGES: usize = 20;
/// Messages in the snapshot of one who resumes, and in a SYNC page.
const RESUME_MESSAGES: usize = 200;

/// Whose messages the business backend's are: a user that cannot exist.
const BACKEND: UserId = UserId(0);

/// What a room can be asked.
pub(crate) enum RoomCall {
    /// A gateway wants its pushes from after this `seq` on (0: from now on), or no longer.
    Interest {
        gateway: Arc<Gateway>,
        after_seq: Option<i64>,
    },
    /// A gateway names members it was asked for.
    Seats {
        gateway: Arc<Gateway>,
        seats: Seats,
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
        /// He has left or logged out, and is not merely lost.
        of_will: bool,
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
    /// From the business backend. With `once`, a repeat is not said again: it hears what became of the first.
    Push {
        app: AppId,
        push: Outgoing,
        once: Option<String>,
        answer: oneshot::Sender<Result<RoomPushed, Refusal>>,
    },
    Order {
        order: Order,
        answer: oneshot::Sender<Result<(), Refusal>>,
    },
    /// Somebody gives.
    Gift {
        giver: Giver,
        request: GiftRequest,
    },
    /// The ledger has gifts that the room has not heard of.
    Tell,
    /// The router goes.
    Stop,
}

impl RoomCall {
    /// Over which link a session calls.
    const fn caller(&self) -> Option<&Arc<Gateway>> {
        match self {
            Self::Join { gateway, .. }
            | Self::Leave { gateway, .. }
            | Self::Sync { gateway, .. }
            | Self::Say { gateway, .. }
            | Self::Gift { giver: Giver::Session { gateway, .. }, .. } => Some(gateway),
            Self::Interest { .. }
            | Self::Seats { .. }
            | Self::Push { .. }
            | Self::Order { .. }
            | Self::Gift { giver: Giver::Api { .. }, .. }
            | Self::Tell
            | Self::Stop => None,
        }
    }

    /// Tells whoever waits that it will not be done.
    pub(crate) async fn refuse(self, refusal: Refusal) {
        match self {
            Self::Interest { .. } | Self::Seats { .. } | Self::Leave { id: None, .. } | Self::Tell | Self::Stop => {}
            Self::Gift { giver, request } => giver.refuse(0, &request.uuid, refusal).await,
            Self::Join { gateway, id, .. } | Self::Sync { gateway, id, .. } | Self::Say { gateway, id, .. } => {
                gateway.refuse(id, &refusal).await
            }
            Self::Leave { gateway, id: Some(id), .. } => gateway.refuse(id, &refusal).await,
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

/// Runs one life of a room, or several where it was lost and nobody else has it.
pub(crate) async fn run(core: Arc<Core>, id: RoomId, mut receiver: mpsc::Receiver<RoomCall>) {
    if !core.ownership.is_mine(id) {
        let elsewhere = core.ownership.elsewhere(id);
        return hand_on(&core, id, receiver, VecDeque::new(), Some(elsewhere)).await;
    }
    let Some(first) = door::first(&core, id, &mut receiver).await else {
        // Only strangers came: nothing was opened. What is coming just now may be worth it.
        return hand_on(&core, id, receiver, VecDeque::new(), None).await;
    };
    let (mut first, mut unserved) = (Some(first), VecDeque::new());
    let ended = loop {
        match Room::open(Arc::clone(&core), id).await {
            Ok(room) => match live(&core, room, first.take(), &mut receiver).await {
                End::Closed => break Some(Refusal::new(Reason::RoomNotFound)),
                End::Stopped => break Some(core.ownership.elsewhere(id)),
                // While the router goes it takes nothing again: it has been told to stop, and is told so once.
                End::Lost if core.is_draining() || !core.ownership.is_mine(id) => break Some(core.ownership.elsewhere(id)),
                // Somebody listens, who will not say so again.
                End::Lost if door::is_wanted(&core, id) => {}
                // What came meanwhile is for the next life.
                End::Idle | End::Lost => break None,
            },
            // The ring has given the room to this router, and the one before it may have died with it: whoever listens on is to hear of
            // what it leaves behind, also when nobody says anything.
            Err(NotClaimed { refusal, again_ms: Some(again_ms) }) => {
                if let Some(first) = first.take() {
                    core.metrics.room_queue_depth.dec();
                    first.refuse(refusal.clone()).await;
                }
                match door::turn_away(&core, id, &mut receiver, &refusal, again_ms).await {
                    door::After::Again if core.is_draining() => break Some(refusal),
                    door::After::Again => {}
                    door::After::Nobody => break None,
                    door::After::Stopped => break Some(refusal),
                }
            }
            Err(NotClaimed { refusal, again_ms: None }) => {
                unserved.extend(first.take());
                break Some(refusal);
            }
        }
    };
    hand_on(&core, id, receiver, unserved, ended).await;
}

async fn live(core: &Core, mut room: Room, first: Option<RoomCall>, receiver: &mut mpsc::Receiver<RoomCall>) -> End {
    core.metrics.rooms.inc();
    let end = room.serve(first, receiver).await;
    room.end_gifts().await;
    room.refuse_held(end).await;
    room.heal().await;
    room.show_degraded(false);
    core.metrics.rooms.dec();
    if end == End::Lost {
        if let Some(more_before) = LOST.may_say("lost") {
            tracing::warn!(room = %room.record.room, epoch = room.claim.epoch, more_before, "the lease of a room was lost; it stops here");
        }
        core.metrics.rooms_lost.inc();
    }
    // What is in the log beyond this is pushed by the next life.
    for gateway in room.membership.interested() {
        gateway.was_sent(room.record.room, room.membership.hole(gateway).unwrap_or_else(|| room.outbox.sent_seq()));
    }
    for (gateway, after_seq) in &room.unreplayed {
        gateway.was_sent(room.record.room, *after_seq);
    }
    core.ownership.release(&room.claim).await;
    end
}

/// Answers a call that a life had taken from the queue when it ended.
async fn turn_away(core: &Core, room: RoomId, end: End, call: RoomCall) {
    match end {
        End::Closed => door::after_the_end(core, room, call).await,
        End::Idle | End::Lost | End::Stopped => call.refuse(core.ownership.elsewhere(room)).await,
    }
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
    /// Who has logged in since and is in the room has a seat.
    seated_since_ms: u64,
    signs: Signs,
    timers: RoomTimers,
    outbox: Outbox,
    /// What was said here, by its sender's id.
    taken: Taken,
    /// As far as is known the log has never had an entry.
    log_is_empty: bool,
    /// Up to when the store is known to have this life's fence in the log.
    fenced_generation: u64,
    /// Gateways that could not be told yet what they missed after this `seq`, and hear nothing newer.
    unreplayed: Vec<(Arc<Gateway>, i64)>,
    rolls: Rolls,
    gifts: Gifts,
    pk: Pk,
    is_degraded: bool,
    opened_ms: u64,
    end: Option<End>,
}

impl Room {
    async fn open(core: Arc<Core>, id: RoomId) -> Result<Self, NotClaimed> {
        let now_ms = core.state.clock.now_ms();
        let house_words = core.house_words()?;
        let record = core.catalog.room(id, now_ms).await?.ok_or_else(|| Refusal::new(Reason::RoomNotFound))?;
        let claim = match core.ownership.claim(id, now_ms).await {
            Ok(claim) => claim,
            Err(not_claimed) => {
                if not_claimed.refusal.reason == Reason::RoomNotFound {
                    core.catalog.closed(id, now_ms).await;
                }
                return Err(not_claimed);
            }
        };
        let first_seq = (claim.epoch << 32).cast_signed();
        let fenced_generation = core.state.watch.generation();
        let read = async {
            // Before the log is looked at: what is not there now, of a former owner, will never be.
            let newest_seq = core.state.room_log.fence(id, first_seq, now_ms).await?;
            let moderation = core.records.moderation(id, now_ms).await?;
            let audience = core.state.members.count(record.app, id).await?;
            let recent = core.state.room_log.last(id, NEWCOMER_MESSAGES, now_ms).await?;
            let states = core.state.cache.get(&states_key(id), now_ms).await?;
            let pk = Self::open_pk(&core, id, record.kind, now_ms).await?;
            Ok::<_, Refusal>((newest_seq, moderation, audience, recent, states, pk))
        };
        let (moderation, audience, recent, states, pk) = match read.await {
            Ok((newest_seq, ..)) if newest_seq > first_seq => {
                core.ownership.release(&claim).await;
                return Err(NotClaimed::overtaken(now_ms));
            }
            Ok((_, moderation, audience, recent, states, pk)) => (moderation, audience, recent, states, pk),
            Err(refusal) => {
                core.ownership.release(&claim).await;
                return Err(refusal.into());
            }
        };
        let timers = RoomTimers {
            renew_ms: core.ownership.renew_next_ms(id, now_ms),
            sweep_ms: now_ms + core.silence_ms(),
            audience_ms: None,
            idle_ms: None,
            release_ms: None,
            write_ms: None,
        };
        let rules = Rules::new(moderation, house_words);
        Ok(Self {
            claim,
            counter: 0,
            membership: Membership::default(),
            audience,
            announced: None,
            announced_ms: 0,
            states: states.and_then(|states| serde_json::from_slice(&states).ok()).unwrap_or_default(),
            states_changed: false,
            rules,
            guard: Guard::default(),
            log_begins_here: recent.is_empty(),
            log_is_empty: recent.is_empty(),
            recent: recent.into_iter().map(|entry| entry.body).collect(),
            sweep_cursor: 0,
            seated_since_ms: now_ms,
            signs: Signs { generation: core.state.watch.generation(), since_ms: now_ms },
            timers,
            outbox: Outbox::new(first_seq),
            taken: Taken::new(core.config.dedup_life),
            fenced_generation,
            unreplayed: Vec::new(),
            rolls: Rolls::default(),
            gifts: Gifts::begin(),
            pk,
            is_degraded: false,
            opened_ms: now_ms,
            end: None,
            record,
            core,
        })
    }

    async fn serve(&mut self, first: Option<RoomCall>, receiver: &mut mpsc::Receiver<RoomCall>) -> End {
        let mut batch = Vec::with_capacity(BATCH);
        // An earlier life here knew them; they will not say it again.
        let wanting = |gateway: Arc<Gateway>| Some((gateway.wants(self.record.room)?, gateway));
        let wanting: Vec<(i64, Arc<Gateway>)> = self.core.links.all().into_iter().filter_map(wanting).collect();
        // All of them are asked before one is told anything, which takes a look into the log each.
        for (_, gateway) in wanting.iter().filter(|(after_seq, _)| *after_seq > 0) {
            self.call_roll(gateway).await;
        }
        for (after_seq, gateway) in wanting {
            self.on_interest(&gateway, after_seq).await;
        }
        if let Some(first) = first {
            self.core.metrics.room_queue_depth.dec();
            self.take(first).await;
        }
        loop {
            self.release_held().await;
            for answered in self.gifts.ready() {
                self.on_settled(answered).await;
            }
            let now_ms = self.core.state.clock.now_ms();
            self.watch_idle(now_ms);
            if now_ms >= self.timers.next_ms() {
                self.on_tick(now_ms).await;
            }
            // First the bar, so that a gift is told with where it stands behind it.
            self.on_pk_tick(now_ms).await;
            self.tell_gifts(now_ms).await;
            self.flush().await;
            self.after_telling(now_ms);
            self.show_degraded(self.claim.is_unproven());
            if let Some(end) = self.end {
                return end;
            }
            let pk_ms = self.pk.next_ms(crate::clock::millis(self.core.config.pk.bar_every));
            let due = [self.outbox.due_ms(), self.gifts.next_ms(), pk_ms].into_iter().flatten();
            let wake = self.core.state.clock.instant(due.fold(self.timers.next_ms(), u64::min));
            // Cancel-safe: `recv_many` takes nothing unless it returns.
            // Calls come first: that starves nothing, for the timers are looked at before each turn, and a replayed history stays the same.
            tokio::select! {
                biased;
                received = receiver.recv_many(&mut batch, BATCH) => {
                    if received == 0 {
                        return End::Stopped;
                    }
                }
                answers = self.gifts.next(), if self.gifts.is_paying() => {
                    for answered in answers {
                        self.on_settled(answered).await;
                    }
                }
                () = tokio::time::sleep_until(wake) => {}
            }
            let mut calls = batch.drain(..).peekable();
            while let Some(call) = calls.next() {
                self.core.metrics.room_queue_depth.dec();
                if let Some(end) = self.end {
                    turn_away(&self.core, self.record.room, end, call).await;
                    continue;
                }
                let Some(call) = self.rolls.hold(call) else { continue };
                if !matches!(call, RoomCall::Join { .. }) {
                    self.on_call(call).await;
                    continue;
                }
                let mut joins: Vec<Joining> = Joining::of(call).into_iter().collect();
                while joins.len() < JOINS_AT_ONCE
                    && let Some(next) = calls.next_if(|next| matches!(next, RoomCall::Join { .. }))
                {
                    self.core.metrics.room_queue_depth.dec();
                    joins.extend(self.rolls.hold(next).and_then(Joining::of));
                }
                self.on_joins(joins).await;
            }
        }
    }

    async fn take(&mut self, call: RoomCall) {
        if let Some(call) = self.rolls.hold(call) {
            self.on_call(call).await;
        }
    }

    async fn on_call(&mut self, call: RoomCall) {
        match call {
            // The rest of what a link brought that has ended. A newer link of this gateway may have said its own word already.
            RoomCall::Interest { gateway, .. } if gateway.is_down() => {}
            RoomCall::Interest { gateway, after_seq: Some(after_seq) } => {
                self.on_interest(&gateway, after_seq).await;
            }
            // It wants to hear again, and says so further back in the queue. A life that has just begun has asked its link, and has sent it
            // everything since: were it left out in between, it would miss what is said there.
            RoomCall::Interest { gateway, after_seq: None } if gateway.wants(self.record.room).is_some() => {}
            RoomCall::Interest { gateway, after_seq: None } => {
                // What was decided before goes to those who were interested before.
                self.flush().await;
                self.unreplayed.retain(|(other, _)| other.node != gateway.node);
                self.rolls.forget(&gateway);
                let gone = self.membership.interest(&gateway, false);
                self.part(&gone, Fate::Over).await;
            }
            RoomCall::Seats { gateway, seats } => self.on_seats(&gateway, seats).await,
            RoomCall::Join { gateway, id, asker, resume_seq } => self.on_joins(vec![Joining { gateway, id, asker, resume_seq }]).await,
            RoomCall::Leave { gateway, id, asker, of_will } => self.on_leave(&gateway, id, asker, of_will).await,
            RoomCall::Sync { gateway, id, asker, from_seq } => self.on_sync(&gateway, id, asker, from_seq).await,
            RoomCall::Say { gateway, id, asker, content, msg_id, received } => {
                let ts_ms = self.core.state.clock.now_ms();
                let waiting = Waiting::Sayer { gateway, id, received, ts_ms };
                self.on_say(asker, &content, msg_id, waiting, ts_ms).await;
            }
            RoomCall::Push { app, push, once, answer } => self.on_push(app, push, once, Waiting::Backend { answer }).await,
            RoomCall::Order { order, answer } => {
                let done = self.on_order(order).await;
                self.flush().await;
                drop(answer.send(done));
            }
            RoomCall::Gift { giver, request } => self.on_gift(giver, request).await,
            RoomCall::Tell => {
                self.gifts.look();
                self.pk.fall_behind(self.core.state.clock.now_ms());
            }
            RoomCall::Stop => {
                self.tell_all_gifts().await;
                self.end.get_or_insert(End::Stopped);
            }
        }
    }

    /// The messages in the snapshot of one who knows all up to here, and whether some before them are lost.
    async fn missed(&self, after_seq: i64, now_ms: u64) -> Result<(Vec<Bytes>, bool), Refusal> {
        let room = self.record.room;
        let page = self.core.state.room_log.read(room, after_seq, RESUME_MESSAGES, now_ms).await?;
        let gap = page.gap || page.more || self.is_before_the_log(after_seq);
        let entries = if page.more { self.core.state.room_log.last(room, RESUME_MESSAGES, now_ms).await? } else { page.entries };
        let entries = self.with_behind(entries, after_seq);
        Ok((entries.into_iter().map(|entry| entry.body).collect(), gap))
    }

    /// The log's entries and those that others have heard already, which the log is yet to: it has been away.
    fn with_behind(&self, mut entries: Vec<LogEntry>, after_seq: i64) -> Vec<LogEntry> {
        entries.extend(self.outbox.behind().filter(|entry| entry.seq > after_seq).cloned());
        entries.sort_by_key(|entry| entry.seq);
        entries.dedup_by_key(|entry| entry.seq);
        entries
    }

    /// Who has seen nothing (0) misses nothing.
    fn is_before_the_log(&self, seq: i64) -> bool {
        self.log_begins_here && seq > 0 && seq.cast_unsigned() >> 32 < self.claim.epoch
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
                let entries = if page.more { page.entries } else { self.with_behind(page.entries, from_seq) };
                let messages: Vec<Bytes> = entries.into_iter().map(|entry| entry.body).collect();
                let data = snapshot::page(&messages, page.more, gap);
                gateway.reply(id, reply::Result::Synced(Synced { room_id: self.record.room.0, data })).await;
            }
            Err(refusal) => gateway.refuse(id, &refusal).await,
        }
    }

    async fn on_say(&mut self, asker: Asker, content: &str, msg_id: String, waiting: Waiting, now_ms: u64) {
        if let Err(refusal) = self.check_member(asker).await {
            return waiting.refuse(&self.core, refusal).await;
        }
        let until_ms = now_ms + crate::clock::millis(self.core.config.dedup_life);
        let claim = (!msg_id.is_empty()).then_some(MessageClaim { app: asker.app, user: asker.user, msg_id, until_ms });
        if let Some(claim) = &claim {
            let key = self.taken.key(claim.user, &claim.msg_id);
            if self.taken.seq(key).is_some() {
                self.core.metrics.dedup_hits.inc();
                return self.outbox.push(Out::Again { key, waiting });
            }
        }
        let ports = self.core.chat_ports();
        let said = chat::say(&ports, &self.record, &self.rules, &mut self.guard, asker, content, now_ms).await;
        match (said, claim) {
            (Ok(push), claim) => self.put(push, claim, Some(waiting), now_ms),
            (Err(refusal), Some(claim)) => match self.taken_before(&claim, now_ms).await {
                Some(seq) => {
                    self.core.metrics.dedup_hits.inc();
                    let key = self.taken.key(claim.user, &claim.msg_id);
                    self.taken.put(key, seq);
                    self.outbox.push(Out::Again { key, waiting });
                }
                None => waiting.refuse(&self.core, refusal).await,
            },
            (Err(refusal), None) => waiting.refuse(&self.core, refusal).await,
        }
    }

    async fn on_push(&mut self, app: AppId, push: Outgoing, once: Option<String>, waiting: Waiting) {
        if let Err(refusal) = self.may_push(app, &push).await {
            return waiting.refuse(&self.core, refusal).await;
        }
        let now_ms = self.core.state.clock.now_ms();
        let until_ms = now_ms + crate::clock::millis(self.core.config.dedup_life);
        // A state has no place in the log, and the newest of its key is what counts.
        let once = once.filter(|_| push.key.is_none());
        let claim = once.map(|msg_id| MessageClaim { app, user: BACKEND, msg_id, until_ms });
        if let Some(claim) = &claim {
            let key = self.taken.key(claim.user, &claim.msg_id);
            if self.taken.seq(key).is_some() {
                self.core.metrics.dedup_hits.inc();
                return self.outbox.push(Out::Again { key, waiting });
            }
        }
        self.put(push, claim, Some(waiting), now_ms);
    }

    async fn may_push(&mut self, app: AppId, push: &Outgoing) -> Result<(), Refusal> {
        if app != self.record.app {
            return Err(Refusal::new(Reason::RoomNotFound));
        }
        if let Some(key) = &push.key {
            self.check_state(key, push)?;
        }
        match self.hold().await {
            Hold::Degraded if push.acknowledged => Err(Refusal::unavailable()),
            Hold::Owned | Hold::Degraded => Ok(()),
            Hold::Lost => {
                self.lose().await;
                Err(self.core.ownership.elsewhere(self.record.room))
            }
        }
    }

    /// What may be done now.
    async fn hold(&mut self) -> Hold {
        if self.end == Some(End::Lost) {
            return Hold::Lost;
        }
        let now_ms = self.core.state.clock.now_ms();
        self.core.ownership.hold(&mut self.claim, self.record.room, now_ms).await
    }

    fn show_degraded(&mut self, is_degraded: bool) {
        match (std::mem::replace(&mut self.is_degraded, is_degraded), is_degraded) {
            (false, true) => drop(self.core.metrics.rooms_degraded.inc()),
            (true, false) => drop(self.core.metrics.rooms_degraded.dec()),
            (false, false) | (true, true) => {}
        }
    }

    fn check_state(&self, key: &str, push: &Outgoing) -> Result<(), Refusal> {
        if key == AUDIENCE_KEY || (key == PK_KEY && self.record.kind == RoomKind::Pk) {
            return Err(Refusal::because(Reason::Malformed, format!("the key {key} is the room's own")));
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

    /// Puts effects into the room's order.
    async fn apply(&mut self, effects: Effects, now_ms: u64) {
        for push in effects.pushes {
            self.put(push, None, None, now_ms);
        }
        if let Some(user) = effects.evict {
            self.membership.remove_user(user);
            let evict = Evict { app_id: self.record.app.0, room_id: self.record.room.0, user_id: user.0, epoch: self.claim.epoch };
            self.outbox.push(Out::Tell { message: Kind::Evict(evict), class: Class::Control });
            let devices = DeviceKind::ALL.map(|device| Member { user, device });
            self.take_out(&devices).await;
            // A list that is under way may have been made before he was sent out.
            self.call_roll_again(false).await;
        }
    }

    /// Takes members out of the store's set, which is all owners': one that was stopped and goes on does not know who has come to the
    /// next owner meanwhile. What it leaves undone, the sweep finds.
    async fn take_out(&mut self, members: &[Member]) {
        if members.is_empty() || self.hold().await != Hold::Owned {
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

    /// Below every number of this life, and above all of those before.
    fn first_seq(&self) -> i64 {
        (self.claim.epoch << 32).cast_signed()
    }

    /// The last sequence number used.
    fn seq(&self) -> i64 {
        (self.claim.epoch << 32 | u64::from(self.counter)).cast_signed()
    }
}

/// The other fields of a state's body, escaped.
const STATE_FIELDS_BYTES: usize = 256;
/// Lines about rooms that were lost: a router that was stopped loses all of them at once.
static LOST: Quiet = Quiet::new();

fn states_key(room: RoomId) -> String {
    format!("living_room_states:{room}")
}

#[cfg(test)]
mod tests;
