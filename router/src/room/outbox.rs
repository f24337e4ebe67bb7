//! What a room has decided, on its way out: first into the room's log, then onto the links, in one order.
//!
//! The log decides what was said. An entry is written together with its sender's claim, in one step, so:
//!
//! | answer for an entry | what becomes of it |
//! |---|---|
//! | `Stored` | pushed, and the caller hears its `seq` |
//! | `Repeated` | not pushed; the caller hears the `seq` of the first |
//! | `Stale` | another owner has written: this life is over, nothing of the batch is pushed, callers hear that it moved |
//! | none | see below |
//!
//! A log that does not answer may have written, now or when it wakes. What was pushed must then count as said, and what was not pushed
//! must not come up later as if it had been:
//! - QoS 0 is pushed all the same: it may be lost, never held up. Its entries stay *behind* and are written, with the numbers they have,
//!   before anything newer, as soon as the log answers; so the claims stand for the next owner too. Whether an earlier try had worked
//!   makes no difference: claimed, it is `Repeated` with its own `seq`; unclaimed, it is `Stale` while the newest entry is ours.
//! - QoS 1 is tried for about a second with nothing newer on its way. Then the caller is refused and what is newer goes on; the message is
//!   *in doubt*. Viewers show rising numbers only, so it can no longer be pushed under its own. Once the log has taken a newer entry it
//!   cannot take this one any more, and says whether it has it: if so it is said under a new number, for its sender, asking again, will hear
//!   that it was taken; if not, it was never said. A sender who asks again before that is clear waits for it.
//! - An entry that is in the log and was not pushed, because the process died or the lease was lost in between, is pushed by the next
//!   life: gateways say the last `seq` they have seen (see `replay`).
//! - A life fences the log before it looks at it and before it says anything. Nothing of a former owner lands in it later, so what was
//!   `behind` for that one is lost: it was QoS 0, and has been pushed to the gateways that did not know of a later owner yet.
//! - What was in doubt for a former owner may be in the log below numbers that gateways have passed. The repeat of its sender, who was
//!   refused or sent on, finds it there and is pushed under a new number. The id is that of the first: viewers show an id once.
//! - What is said under a new number is written under it too, unclaimed: a gateway that begins to listen a moment later, and a viewer who is
//!   on his way back, have passed the first number as all others have, and only the log tells them.

use super::{End, NEWCOMER_MESSAGES, Room, gifts::Told, snapshot::States, states_key, taken::Key};
use crate::{
    Refusal,
    core::Core,
    failpoint,
    link::Gateway,
    metrics::Audience,
    ownership::Hold,
    services::{Outgoing, room::AUDIENCE_KEY},
};
use billfish_link::message::{Accepted, Push, RoomPush, envelope::Kind, reply};
use billfish_state::{Appended, LogAppend, LogEntry, MessageClaim, RoomId, StateError, UserId};
use billfish_wire::{Body, Class, Encoding};
use bytes::Bytes;
use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// How long states are kept for the next life of the room.
const STATES_KEPT_MS: u64 = 12 * 3_600 * 1_000;
/// Entries that wait for a log that is away: as many as a log keeps. Beyond it the oldest is given up, and its claim with it.
const BEHIND_MAX: usize = billfish_state::port::ROOM_LOG_ENTRIES_MAX;
/// Tries to write what must arrive. Each ends with the store's time-out of 0.3 s at the latest: a second in all, which is also how long
/// nothing newer of the room is sent.
const TRIES: u32 = 3;
/// Messages in doubt. Beyond it the oldest is left to those who resume: as many writes as can fail before a store counts as away, and more.
const DOUBTS_MAX: usize = 64;
/// Between two of them.
const TRY_AGAIN: Duration = Duration::from_millis(50);
/// Between two tries to write what may be lost: at first soon, for what is in no log is lost with this process, then, each time twice as
/// long, as seldom as a store that hangs may cost the chat of a room its time-out.
const LOG_AGAIN_MS: u64 = 50;
const LOG_AGAIN_MAX_MS: u64 = 500;

/// What became of a push to the room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RoomPushed {
    pub(crate) seq: i64,
    pub(crate) gateways: u64,
}

/// Decided, and not yet on a link.
pub(super) enum Out {
    /// A push with its number.
    Said(Said),
    /// To every interested gateway.
    Tell { message: Kind, class: Class },
    /// A message that was taken before has come again.
    Again { key: Key, waiting: Waiting },
}

pub(super) struct Said {
    push: RoomPush,
    class: Class,
    /// Where it stands in the batch for the log; none: a state, which no log keeps.
    logged: Option<usize>,
    key: Option<Key>,
    waiting: Option<Waiting>,
    /// The number that the log took it under, where it is said again under another.
    logged_seq: Option<i64>,
}

impl Said {
    fn must_arrive(&self) -> bool {
        self.logged.is_some() && self.push.push.as_ref().is_some_and(|push| push.qos > 0)
    }

    fn seq(&self) -> i64 {
        self.push.push.as_ref().map_or(0, |push| push.seq)
    }
}

/// What a round leaves behind it.
#[derive(Default)]
struct Left {
    /// Numbers that the log is not to be asked for again.
    refused: Vec<i64>,
    /// To be said under other numbers.
    anew: Vec<Said>,
}

/// Who is told what became of a message.
pub(super) enum Waiting {
    /// A session, by its gateway.
    Sayer { gateway: Arc<Gateway>, id: u64, received: Instant, ts_ms: u64 },
    /// The business backend.
    Backend { answer: oneshot::Sender<Result<RoomPushed, Refusal>> },
    /// The ledger, whose outbox has it until then.
    Ledger { gift_seq: i64, told: Arc<Told> },
}

impl Waiting {
    pub(super) async fn refuse(self, core: &Core, refusal: Refusal) {
        match self {
            Self::Sayer { gateway, id, .. } => {
                // One that is another router's to decide is counted there.
                if refusal.moved_to().is_none() {
                    core.metrics.decided("chat", refusal.reason.label());
                }
                gateway.refuse(id, &refusal).await;
            }
            // Where the receiver is gone the caller has given up.
            Self::Backend { answer } => drop(answer.send(Err(refusal))),
            // It stays there, and is tried again.
            Self::Ledger { .. } => {}
        }
    }
}

/// The way to the log.
#[derive(Default)]
pub(super) struct Outbox {
    out: Vec<Out>,
    batch: Vec<LogAppend>,
    /// The first so many of the batch have been tried, and pushed.
    behind: usize,
    /// Not before, unless something must arrive.
    again_ms: u64,
    /// How long that was.
    waited_ms: u64,
    /// The largest number on a link.
    sent_seq: i64,
    /// Refused, and perhaps written all the same.
    doubts: VecDeque<Said>,
}

impl Outbox {
    pub(super) fn new(sent_seq: i64) -> Self {
        Self { sent_seq, ..Self::default() }
    }

    pub(super) fn push(&mut self, out: Out) {
        self.out.push(out);
    }

    pub(super) fn sent_seq(&self) -> i64 {
        self.sent_seq
    }

    /// Whether a message was refused because nobody knows whether the log has it.
    pub(super) fn is_in_doubt(&self, seq: i64) -> bool {
        self.doubts.iter().any(|doubt| doubt.seq() == seq)
    }

    /// Forgets a doubt about what the log has under this number: somebody else sees to it. Whether there was one.
    fn settle_doubt(&mut self, seq: i64) -> bool {
        let before = self.doubts.len();
        self.doubts.retain(|doubt| doubt.seq() != seq && doubt.logged_seq != Some(seq));
        self.doubts.len() < before
    }

    /// Pushed, and not in the log as far as is known.
    pub(super) fn behind(&self) -> impl Iterator<Item = &LogEntry> {
        self.batch.iter().take(self.behind).map(|append| &append.entry)
    }

    /// When the log is to be asked again, Unix ms.
    pub(super) fn due_ms(&self) -> Option<u64> {
        (self.behind > 0).then_some(self.again_ms)
    }
}

/// By which viewers tell that they have a message already.
fn msg_id_of(room: RoomId, seq: i64) -> String {
    format!("r{room}-{seq}")
}

/// Which push of this room has that id, if it is one's.
pub(super) fn seq_of(room: RoomId, msg_id: &str) -> Option<i64> {
    let seq = msg_id.strip_prefix('r')?.strip_prefix(&room.to_string())?.strip_prefix('-')?;
    seq.parse().ok()
}

/// A push as the log and the snapshots have it.
fn json_of(push: &Push, key: Option<String>) -> Vec<u8> {
    let is_acknowledged = push.qos > 0;
    let body = Body {
        biz_code: Some(push.biz_code),
        data: Some(push.data.clone()),
        msg_id: is_acknowledged.then(|| push.msg_id.clone()),
        room_id: Some(push.room_id),
        seq: Some(push.seq),
        ts: Some(push.ts),
        qos: is_acknowledged.then_some(1),
        class: Some(push.class),
        key,
        ..Body::default()
    };
    body.to_vec(Encoding::Json)
}

/// What the log said.
enum Written {
    Yes(Vec<Appended>),
    No {
        /// Perhaps after all.
        in_doubt: bool,
    },
    /// Another owner has written.
    Stale,
}

impl Room {
    /// Gives a push its number and queues it.
    pub(super) fn put(&mut self, push: Outgoing, claim: Option<MessageClaim>, waiting: Option<Waiting>, now_ms: u64) {
        self.counter = self.counter.checked_add(1).expect("the room begins a new epoch at half of this");
        let (room, seq) = (self.record.room.0, self.seq());
        let message = Push {
            biz_code: push.biz_code.0,
            data: push.data,
            msg_id: if push.acknowledged { msg_id_of(self.record.room, seq) } else { String::new() },
            room_id: room,
            seq,
            ts: now_ms.cast_signed(),
            qos: i32::from(push.acknowledged),
            class: push.class.number(),
            key: push.key.clone().unwrap_or_default(),
        };
        let json = json_of(&message, push.key.clone());
        let (mut logged, mut taken) = (None, None);
        match push.key {
            Some(key) => {
                self.states_changed |= key != AUDIENCE_KEY;
                self.states.insert(key, String::from_utf8(json).expect("JSON is UTF-8"));
            }
            None => {
                logged = Some(self.outbox.batch.len());
                if let Some(claim) = &claim {
                    let key = self.taken.key(claim.user, &claim.msg_id);
                    self.taken.put(key, seq);
                    taken = Some(key);
                }
                self.outbox.batch.push(LogAppend { entry: LogEntry { seq, body: json.into(), except: push.except }, claim });
            }
        }
        let message = RoomPush {
            push: Some(message),
            epoch: self.claim.epoch,
            except_user_id: push.except.map_or(0, |user| user.0),
            keep_permille: push.keep_permille,
        };
        self.outbox.push(Out::Said(Said { push: message, class: push.class, logged, key: taken, waiting, logged_seq: None }));
    }

    /// Sends what was decided: log first, then links, in order.
    pub(super) async fn flush(&mut self) {
        // Once more where a message had to take another number.
        while self.round().await {}
    }

    async fn round(&mut self) -> bool {
        let now_ms = self.core.state.clock.now_ms();
        let is_due = self.outbox.due_ms().is_some_and(|due_ms| now_ms >= due_ms);
        if self.outbox.out.is_empty() && !is_due {
            return false;
        }
        if self.hold().await == Hold::Lost {
            self.lose().await;
            return false;
        }
        let written = self.write_log().await;
        self.write_states().await;
        // The stores may have taken their time, or this process may have been stopped.
        if matches!(written, Written::Stale) || self.hold().await == Hold::Lost {
            self.lose().await;
            return false;
        }
        self.heal().await;
        let left = self.send(&written).await;
        self.settle(&written, left);
        self.resolve(&written).await;
        !self.outbox.out.is_empty()
    }

    /// Finds out what the log has of what is in doubt.
    async fn resolve(&mut self, written: &Written) {
        let (Some(oldest), Written::Yes(appended)) = (self.outbox.doubts.front(), written) else { return };
        if appended.is_empty() {
            return;
        }
        let (room, now_ms) = (self.record.room, self.core.state.clock.now_ms());
        let page = match self.core.state.room_log.read(room, oldest.seq() - 1, billfish_state::port::ROOM_LOG_ENTRIES_MAX, now_ms).await {
            Ok(page) => page,
            Err(error) => return self.core.metrics.store_failed("room_log", &error),
        };
        let newest_seq = page.entries.last().map_or(0, |newest| newest.seq);
        for doubt in std::mem::take(&mut self.outbox.doubts) {
            if doubt.logged_seq.is_some() || page.entries.iter().any(|entry| entry.seq == doubt.seq()) {
                self.put_aside(doubt);
            } else if doubt.seq() > newest_seq {
                self.outbox.doubts.push_back(doubt);
            }
        }
    }

    /// Queues a message that the log has, under a number that viewers have not passed. Its id stays.
    fn put_aside(&mut self, said: Said) {
        self.counter = self.counter.checked_add(1).expect("the room begins a new epoch at half of this");
        let logged_seq = Some(said.logged_seq.unwrap_or(said.seq()));
        let seq = self.seq();
        let mut said = Said { logged: Some(self.outbox.batch.len()), logged_seq, ..said };
        let Some(push) = &mut said.push.push else { return };
        push.seq = seq;
        let except = (said.push.except_user_id != 0).then_some(UserId(said.push.except_user_id));
        // Its claim stands.
        let entry = LogEntry { seq, body: json_of(push, None).into(), except };
        self.outbox.batch.push(LogAppend { entry, claim: None });
        self.outbox.push(Out::Said(said));
    }

    async fn send(&mut self, written: &Written) -> Left {
        let mut left = Left::default();
        let gateways: Vec<Arc<Gateway>> = self.membership.interested().cloned().collect();
        for out in std::mem::take(&mut self.outbox.out) {
            match out {
                Out::Tell { message, class } => {
                    self.deliver(&gateways, &message, class).await;
                    if class == Class::Control {
                        // It has no number that could hide another.
                        let unreplayed: Vec<_> = self.unreplayed.iter().map(|(gateway, _)| Arc::clone(gateway)).collect();
                        self.deliver(&unreplayed, &message, class).await;
                    }
                }
                Out::Again { key, waiting } => {
                    // Not there: what it repeats stood in this batch, and was refused.
                    match self.taken.seq(key) {
                        Some(seq) => self.answer(waiting, seq, 0).await,
                        None => waiting.refuse(&self.core, Refusal::unavailable()).await,
                    }
                }
                Out::Said(said) => self.say(said, written, &gateways, &mut left).await,
            }
        }
        left
    }

    async fn say(&mut self, mut said: Said, written: &Written, gateways: &[Arc<Gateway>], left: &mut Left) {
        let waiting = said.waiting.take();
        let appended = match (said.logged, written) {
            (Some(index), Written::Yes(appended)) => appended.get(index).copied(),
            (Some(_), Written::No { .. } | Written::Stale) => None,
            (None, _) => Some(Appended::Stored),
        };
        match appended {
            Some(Appended::Repeated { seq }) if seq != said.seq() => {
                self.core.metrics.dedup_hits.inc();
                if let Some(key) = said.key {
                    self.taken.put(key, seq);
                }
                // In doubt it has been pushed to nobody, and whoever asks again hears of it once it has.
                if said.must_arrive() && (self.outbox.settle_doubt(seq) || seq < self.first_seq()) {
                    if let Some(push) = &mut said.push.push {
                        push.msg_id = msg_id_of(self.record.room, seq);
                    }
                    left.anew.push(Said { waiting, logged_seq: Some(seq), ..said });
                } else if let Some(waiting) = waiting {
                    self.answer(waiting, seq, 0).await;
                }
                return;
            }
            None if said.must_arrive() => {
                if let Some(key) = said.key {
                    self.taken.remove(key);
                }
                left.refused.push(said.seq());
                if let Some(waiting) = waiting {
                    waiting.refuse(&self.core, Refusal::unavailable()).await;
                }
                // What the log has under another number stays to be said, whether it has this one or not.
                if said.logged_seq.is_some() || matches!(written, Written::No { in_doubt: true }) {
                    if self.outbox.doubts.len() == DOUBTS_MAX {
                        self.outbox.doubts.pop_front();
                        self.core.metrics.given_up("doubt", 1);
                    }
                    self.outbox.doubts.push_back(said);
                }
                return;
            }
            // Repeated under its own number, or behind itself: an earlier try had worked.
            Some(Appended::Stored | Appended::Repeated { .. } | Appended::Stale) | None => {}
        }
        let seq = said.seq();
        if let Some(index) = said.logged {
            if self.recent.len() == NEWCOMER_MESSAGES {
                self.recent.pop_front();
            }
            self.recent.push_back(self.outbox.batch[index].entry.body.clone());
        }
        let is_of_the_ledger = matches!(waiting, Some(Waiting::Ledger { .. }));
        if is_of_the_ledger {
            failpoint::at("publish_logged");
        }
        self.deliver(gateways, &Kind::RoomPush(said.push), said.class).await;
        if is_of_the_ledger {
            failpoint::at("publish_sent");
        }
        self.outbox.sent_seq = seq;
        if let Some(waiting) = waiting {
            self.answer(waiting, said.logged_seq.unwrap_or(seq), gateways.len() as u64).await;
        }
    }

    async fn deliver(&mut self, gateways: &[Arc<Gateway>], message: &Kind, class: Class) {
        for gateway in gateways {
            if class != Class::Control && self.membership.has_hole(gateway) {
                self.core.metrics.link_dropped(class, "hole");
                continue;
            }
            if !gateway.send(message.clone(), class).await {
                if !class.may_drop() {
                    self.membership.mark_hole(gateway, self.outbox.sent_seq);
                }
            } else if matches!(message, Kind::RoomPush(_)) {
                self.core.metrics.pushed(Audience::Room, class);
            }
        }
    }

    async fn answer(&self, waiting: Waiting, seq: i64, gateways: u64) {
        match waiting {
            Waiting::Sayer { gateway, id, received, ts_ms } => {
                self.core.metrics.decided("chat", "accepted");
                gateway.reply(id, reply::Result::Accepted(Accepted { ts: ts_ms.cast_signed(), seq })).await;
                self.core.metrics.delivered_in(received.elapsed());
            }
            Waiting::Backend { answer } => drop(answer.send(Ok(RoomPushed { seq, gateways }))),
            Waiting::Ledger { gift_seq, told } => told.add(gift_seq),
        }
    }

    /// Keeps of the batch what the log is still to hear of, and queues what is to be said under another number.
    fn settle(&mut self, written: &Written, left: Left) {
        let outbox = &mut self.outbox;
        match written {
            Written::Yes(_) | Written::Stale => {
                outbox.batch.clear();
                (outbox.again_ms, outbox.waited_ms) = (0, 0);
            }
            Written::No { .. } => {
                outbox.batch.retain(|append| !left.refused.contains(&append.entry.seq));
                let over = outbox.batch.len().saturating_sub(BEHIND_MAX);
                outbox.batch.drain(..over);
                self.core.metrics.given_up("behind", over as u64);
            }
        }
        outbox.behind = outbox.batch.len();
        for said in left.anew {
            self.put_aside(said);
        }
    }

    /// The lease is lost: what was decided here is not said by this life.
    pub(super) async fn lose(&mut self) {
        self.end = Some(End::Lost);
        self.outbox.batch.clear();
        let moved = self.core.ownership.elsewhere(self.record.room);
        for out in std::mem::take(&mut self.outbox.out) {
            match out {
                Out::Tell { .. } | Out::Said(Said { waiting: None, .. }) => {}
                Out::Said(Said { waiting: Some(waiting), .. }) | Out::Again { waiting, .. } => {
                    waiting.refuse(&self.core, moved.clone()).await
                }
            }
        }
    }

    async fn write_log(&mut self) -> Written {
        if self.outbox.batch.is_empty() {
            return Written::Yes(Vec::new());
        }
        let must_arrive = self.outbox.out.iter().any(|out| matches!(out, Out::Said(said) if said.must_arrive()));
        if !must_arrive && self.core.state.clock.now_ms() < self.outbox.again_ms {
            return Written::No { in_doubt: false };
        }
        let room = self.record.room;
        let mut in_doubt = false;
        let mut tried = self.outbox.behind;
        for attempt in 0..if must_arrive { TRIES } else { 1 } {
            if attempt > 0 {
                tokio::time::sleep(TRY_AGAIN).await;
            }
            let now_ms = self.core.state.clock.now_ms();
            match self.core.state.room_log.append(room, &self.outbox.batch, now_ms).await {
                Ok(appended) => match self.is_stale(&appended, tried).await {
                    Ok(true) => return Written::Stale,
                    Ok(false) => {
                        self.log_is_empty = false;
                        return Written::Yes(appended);
                    }
                    Err(error) => {
                        self.core.metrics.store_failed("room_log", &error);
                        in_doubt = true;
                    }
                },
                Err(error) => {
                    self.core.metrics.store_failed("room_log", &error);
                    if !matches!(error, StateError::Away { .. }) {
                        break;
                    }
                    in_doubt = true;
                }
            }
            tried = self.outbox.batch.len();
        }
        self.outbox.waited_ms = (self.outbox.waited_ms * 2).clamp(LOG_AGAIN_MS, LOG_AGAIN_MAX_MS);
        self.outbox.again_ms = self.core.state.clock.now_ms() + self.outbox.waited_ms;
        Written::No { in_doubt }
    }

    /// Whether another owner has written. The first `tried` entries may stand in the way of themselves.
    async fn is_stale(&self, appended: &[Appended], tried: usize) -> Result<bool, StateError> {
        let is_stale = |appended: &Appended| matches!(appended, Appended::Stale);
        if appended.iter().skip(tried).any(is_stale) {
            return Ok(true);
        }
        if !appended.iter().any(is_stale) {
            return Ok(false);
        }
        self.is_overtaken().await
    }

    /// Whether the log has a later owner. It is fenced by this.
    async fn is_overtaken(&self) -> Result<bool, StateError> {
        let now_ms = self.core.state.clock.now_ms();
        Ok(self.core.state.room_log.fence(self.record.room, self.first_seq(), now_ms).await?.cast_unsigned() >> 32 > self.claim.epoch)
    }

    /// A store that may have forgotten the fence is given it again.
    pub(super) async fn fence_again(&mut self) {
        let generation = self.core.state.watch.generation();
        if generation == self.fenced_generation {
            return;
        }
        match self.is_overtaken().await {
            Ok(true) => self.lose().await,
            Ok(false) => self.fenced_generation = generation,
            Err(error) => self.core.metrics.store_failed("room_log", &error),
        }
    }

    async fn write_states(&mut self) {
        if !std::mem::take(&mut self.states_changed) {
            return;
        }
        let now_ms = self.core.state.clock.now_ms();
        let kept: States =
            self.states.iter().filter(|(key, _)| *key != AUDIENCE_KEY).map(|(key, body)| (key.clone(), body.clone())).collect();
        let value: Bytes = serde_json::to_vec(&kept).expect("a map of texts is JSON").into();
        let key = states_key(self.record.room);
        if let Err(error) = self.core.state.cache.put(&key, value, now_ms, now_ms + STATES_KEPT_MS).await {
            self.core.metrics.store_failed("room_states", &error);
        }
    }

    /// What became of a message that is refused by a rule now: it may have been taken before, in another life of the room, and whoever
    /// only asks again must not be told otherwise. The log is asked by an entry that cannot be written: claims come first, and this
    /// `seq` is below every other.
    pub(super) async fn taken_before(&mut self, claim: &MessageClaim, now_ms: u64) -> Option<i64> {
        if self.log_is_empty || now_ms >= self.opened_ms.saturating_add(crate::clock::millis(self.core.config.dedup_life)) {
            return None;
        }
        let entry = LogEntry { seq: 0, body: Bytes::new(), except: None };
        let append = LogAppend { entry, claim: Some(claim.clone()) };
        match self.core.state.room_log.append(self.record.room, &[append], now_ms).await.as_deref() {
            Ok([Appended::Repeated { seq }]) => Some(*seq),
            Ok(_) => None,
            Err(error) => {
                self.core.metrics.store_failed("room_log", error);
                None
            }
        }
    }
}
