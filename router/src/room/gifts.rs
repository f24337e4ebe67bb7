//! Gifts in a room: handed to the ledger in the order they came, answered when they are paid, and told to the room from the ledger's outbox.
//!
//! - Paid means committed. Who gave hears so first; then the room hears of it, in the order of the gifts, through its log like everything.
//! - What is to be told stands in the ledger until the room's log has it. A router that dies between leaves it to the next owner of the room,
//!   who tells it by the same id: the log knows what it has. Of taps that were told together it has other ids than the next owner would give
//!   them, so he looks there first.
//! - The room does not wait for the ledger: what is on its way is bounded, and answered while other calls go on.

use super::{BACKEND, Room, outbox::Waiting};
use crate::{
    Refusal,
    bug::{self, Bug},
    core::Core,
    failpoint,
    link::Gateway,
    services::{
        Asker,
        gift::{
            self, GiftRequest,
            combos::{self, Combos},
        },
        ports::{
            RecordError,
            money::{GiftOutcome, NewGift, PaidGift},
        },
    },
};
use billfish_link::message::{Accepted, Push, UserPush, envelope::Kind, reply};
use billfish_state::{MessageClaim, RoomId, StateError, port::ROOM_LOG_ENTRIES_MAX};
use billfish_wire::{BizCode, Class, Reason};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};
use tokio::sync::oneshot;

/// Gifts to be told that are remembered here, and read in one go; beyond it they are read from the ledger again.
const TELLING_MAX: usize = 1_000;
/// After the ledger or the log did not answer.
const AGAIN_MS: u64 = 500;

/// Who gives, and who is to hear what became of it.
pub(crate) enum Giver {
    /// A session, by its gateway.
    Session { gateway: Arc<Gateway>, id: u64, asker: Asker, received: Instant },
    /// A user, by the HTTP API.
    Api { asker: Asker, answer: oneshot::Sender<Result<GiftPaid, Refusal>> },
}

/// A gift that is paid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GiftPaid {
    pub(crate) gift_seq: i64,
    /// What the sender has left; none where it was paid before.
    pub(crate) balance: Option<i64>,
}

impl Giver {
    pub(super) const fn asker(&self) -> Asker {
        match self {
            Self::Session { asker, .. } | Self::Api { asker, .. } => *asker,
        }
    }
}

/// A gift that is with the ledger.
struct Paying {
    giver: Giver,
    uuid: String,
    outcome: oneshot::Receiver<Result<GiftOutcome, RecordError>>,
}

/// The gifts of one life of a room.
#[derive(Default)]
pub(super) struct Gifts {
    /// With the ledger, in the order they came.
    paying: VecDeque<Paying>,
    /// Paid and not told, in order.
    telling: VecDeque<PaidGift>,
    combos: Combos,
    /// On their way through the room's log.
    put: Vec<Vec<PaidGift>>,
    /// The log has not taken them, or not said so: they go again as they were, for the log may have them under that name.
    again: Vec<Vec<PaidGift>>,
    told: Arc<Told>,
    /// Places up to this one have been told, or are in one of the above.
    known_seq: i64,
    /// Place of the last gift that was paid, as far as this life has heard: the next one is behind it, or others are in between.
    paid_seq: i64,
    /// The ledger may have some to tell that stand nowhere here.
    has_more: bool,
    /// Places that former owners have told, by the room's log, and not taken out of the ledger's outbox: these are told again as they were.
    /// `None` until that was looked at.
    told_before: Option<BTreeSet<i64>>,
    again_ms: Option<u64>,
}

/// Places of gifts that the room's log has.
#[derive(Debug, Default)]
pub(super) struct Told(Mutex<Vec<i64>>);

impl Told {
    pub(super) fn add(&self, gift_seq: i64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(gift_seq);
    }

    fn take(&self) -> Vec<i64> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Gifts {
    /// The former owner may have left some.
    pub(super) fn begin() -> Self {
        Self { has_more: true, ..Self::default() }
    }

    /// The ledger has some that this room has not told.
    pub(super) fn look(&mut self) {
        self.has_more = true;
    }

    pub(super) fn is_paying(&self) -> bool {
        !self.paying.is_empty()
    }

    fn is_with_the_ledger(&self, asker: Asker, uuid: &str) -> bool {
        let is_his = |giver: &Giver| giver.asker().app == asker.app && giver.asker().user == asker.user;
        self.paying.iter().any(|paying| paying.uuid == uuid && is_his(&paying.giver))
    }

    /// Whether nothing is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.paying.is_empty() && self.telling.is_empty() && self.again.is_empty() && self.combos.is_empty()
    }

    /// When something is to be done.
    pub(super) fn next_ms(&self) -> Option<u64> {
        let has_work = self.has_more || !self.telling.is_empty() || !self.again.is_empty();
        let due_ms = [has_work.then_some(0), self.combos.next_ms()].into_iter().flatten().min();
        // Whatever is due waits for that.
        due_ms.map(|due_ms| due_ms.max(self.again_ms.unwrap_or(0)))
    }

    /// Waits for the ledger's next answers, all that are there. Cancel-safe: nothing is taken while it waits.
    pub(super) async fn next(&mut self) -> Vec<Answered> {
        let Some(first) = self.paying.front_mut() else { return Vec::new() };
        let outcome = (&mut first.outcome).await.ok();
        let mut answers = Vec::from_iter(self.answered(outcome));
        answers.extend(self.ready());
        answers
    }

    /// What the ledger said of the first gift that is with it.
    fn answered(&mut self, outcome: Option<Result<GiftOutcome, RecordError>>) -> Option<Answered> {
        let Paying { giver, uuid, .. } = self.paying.pop_front()?;
        // The ledger has stopped; it may have been paid.
        let stopped = || Err(RecordError::Away { what: "paying a gift", cause: "the ledger has stopped".into() });
        Some(Answered { giver, uuid, outcome: outcome.unwrap_or_else(stopped) })
    }

    /// The answers that are there.
    pub(super) fn ready(&mut self) -> Vec<Answered> {
        let mut answers = Vec::new();
        while let Some(first) = self.paying.front_mut() {
            let outcome = match first.outcome.try_recv() {
                Ok(outcome) => Some(outcome),
                Err(oneshot::error::TryRecvError::Empty) => break,
                Err(oneshot::error::TryRecvError::Closed) => None,
            };
            answers.extend(self.answered(outcome));
        }
        answers
    }
}

/// An answer of the ledger, for [`Room::on_settled`].
pub(super) struct Answered {
    giver: Giver,
    uuid: String,
    outcome: Result<GiftOutcome, RecordError>,
}

impl Room {
    /// Somebody gives.
    pub(super) async fn on_gift(&mut self, giver: Giver, request: GiftRequest) {
        let uuid = request.uuid.clone();
        if bug::hits(Bug::AckUnpaid, &uuid) {
            return self.accept_gift(giver, GiftPaid { gift_seq: 0, balance: None }, "accepted").await;
        }
        match self.hand_in(giver.asker(), request.clone()).await {
            Ok(outcome) => self.gifts.paying.push_back(Paying { giver, uuid, outcome }),
            // The first try is with the ledger: nobody knows yet.
            Err(_) if self.gifts.is_with_the_ledger(giver.asker(), &uuid) => self.refuse_gift(giver, &uuid, Refusal::unavailable()).await,
            Err(refusal) => refuse_unless_paid(&self.core, giver, self.record.room, request, refusal).await,
        }
    }

    async fn hand_in(
        &mut self,
        asker: Asker,
        request: GiftRequest,
    ) -> Result<oneshot::Receiver<Result<GiftOutcome, RecordError>>, Refusal> {
        let now_ms = self.core.state.clock.now_ms();
        let config = &self.core.config.gift;
        let rate = gift::Rate { gifts_max: config.user_gifts_max, window_ms: crate::clock::millis(config.user_window) };
        gift::within_rate(&*self.core.state.rate_windows, rate, asker.app, asker.user, now_ms).await?;
        self.check_member(asker).await?;
        self.rules.may_enter(asker.user, now_ms)?;
        if self.gifts.paying.len() >= self.core.config.gift.room_gifts_max {
            return Err(
                Refusal::because(Reason::Unavailable, "too many gifts are waiting in this room; wait retryAfterMs").retry_after(AGAIN_MS)
            );
        }
        let catalogue = self.core.catalogue.gifts().await?;
        let price = gift::price(catalogue.get(&request.gift), &request)?;
        let pk = gift::side(&self.record, self.pk.bar.as_ref(), asker.user, &request)?;
        let gift = NewGift {
            app: asker.app,
            sender: asker.user,
            uuid: request.uuid,
            room: self.record.room,
            epoch: self.claim.epoch,
            receiver: request.receiver,
            gift: request.gift,
            num: request.num,
            price,
            pk,
            combo: request.combo,
        };
        Ok(self.core.till.submit(gift)?)
    }

    /// The ledger has answered.
    pub(super) async fn on_settled(&mut self, Answered { giver, uuid, outcome }: Answered) {
        let refusal = match outcome {
            Ok(GiftOutcome::Paid { gift, balance }) => {
                if bug::hits(Bug::TellAStranger, &uuid) {
                    self.tell_a_stranger(&giver, &gift).await;
                }
                self.accept_gift(giver, GiftPaid { gift_seq: gift.gift_seq, balance: Some(balance) }, "accepted").await;
                let now_ms = self.core.state.clock.now_ms();
                // A gift whose answer was lost may have been paid at any time since. It has a place before this one.
                let is_next = gift.gift_seq == self.gifts.paid_seq + 1;
                self.gifts.paid_seq = self.gifts.paid_seq.max(gift.gift_seq);
                if !is_next {
                    self.gifts.has_more = true;
                    self.pk.fall_behind(now_ms);
                }
                self.move_bar(&gift, now_ms).await;
                return self.gifts.remember(gift);
            }
            Ok(GiftOutcome::Repeated(gift)) => {
                let paid = GiftPaid { gift_seq: gift.gift_seq, balance: None };
                // The first try may have been one that nobody heard the answer of, and its push be in the outbox alone.
                if gift.what.room == self.record.room && gift.gift_seq > self.gifts.paid_seq {
                    self.gifts.has_more = true;
                    self.pk.fall_behind(self.core.state.clock.now_ms());
                }
                return self.accept_gift(giver, paid, "repeated").await;
            }
            Ok(GiftOutcome::Conflict) => Refusal::new(Reason::UuidReused),
            Ok(GiftOutcome::NotCovered { balance }) => {
                Refusal::because(Reason::NotCovered, format!("not enough coins: there are {balance}"))
            }
            Ok(GiftOutcome::NoRoom) => Refusal::new(Reason::RoomNotFound),
            Ok(GiftOutcome::Fenced) => {
                self.lose().await;
                self.core.ownership.elsewhere(self.record.room)
            }
            Err(error) => {
                // It may have been paid all the same: then it is in the outbox, and those behind it come after it.
                self.gifts.has_more = true;
                self.pk.fall_behind(self.core.state.clock.now_ms());
                error.into()
            }
        };
        self.refuse_gift(giver, &uuid, refusal).await;
    }

    /// Waits until the ledger has answered everything that was handed to it. Each call of the ledger has a time of its own.
    pub(super) async fn settle_gifts(&mut self) {
        while self.gifts.is_paying() {
            for settled in self.gifts.next().await {
                self.on_settled(settled).await;
            }
        }
    }

    async fn accept_gift(&self, giver: Giver, paid: GiftPaid, result: &'static str) {
        failpoint::at("ack_begin");
        giver.accept(&self.core, paid, result).await;
        failpoint::at("ack_sent");
    }

    /// Only as [`Bug::TellAStranger`].
    async fn tell_a_stranger(&self, giver: &Giver, gift: &PaidGift) {
        let Giver::Session { gateway, asker, .. } = giver else { return };
        let Some(push) = gift::paid(std::slice::from_ref(gift), "", None, self.record.anchor) else { return };
        let push = Push {
            biz_code: BizCode::ROOM_NOTICE.0,
            data: push.data,
            room_id: self.record.room.0,
            class: push.class.number(),
            ..Push::default()
        };
        // In a run of several rooms the next user is in the next room.
        let push = UserPush { app_id: asker.app.0, user_ids: vec![asker.user.0 + 1], push: Some(push), session: 0 };
        gateway.send(Kind::UserPush(push), Class::Event).await;
    }

    async fn refuse_gift(&self, giver: Giver, uuid: &str, refusal: Refusal) {
        if refusal.moved_to().is_none() {
            self.core.metrics.decided("gift", refusal.reason.label());
        }
        giver.refuse(self.record.room.0, uuid, refusal).await;
    }

    /// Tells the room what has been paid, as far as it is due.
    pub(super) async fn tell_gifts(&mut self, now_ms: u64) {
        let every_ms = crate::clock::millis(self.core.config.gift.combo_every);
        if self.gifts.again_ms.is_some_and(|again_ms| now_ms < again_ms) {
            return;
        }
        if self.gifts.next_ms().is_some() && self.claim.is_unproven() {
            // The log is away, and trying would hold the room's chat up.
            self.gifts.again_ms = Some(now_ms + AGAIN_MS);
            return;
        }
        self.gifts.again_ms = None;
        for gifts in std::mem::take(&mut self.gifts.again) {
            self.put_alike(&gifts, now_ms).await;
        }
        if self.gifts.has_more && self.gifts.telling.is_empty() {
            self.read_untold(now_ms).await;
        }
        for held in self.gifts.combos.due(every_ms, now_ms) {
            self.put_gifts(held, now_ms).await;
        }
        while let Some(gift) = self.gifts.telling.pop_front() {
            if let Some(shown) = self.gifts.combos.take(gift, every_ms, now_ms) {
                self.put_gifts(shown, now_ms).await;
            }
        }
    }

    async fn read_untold(&mut self, now_ms: u64) {
        failpoint::at("outbox_begin");
        let read = self.core.money.untold(self.record.room, TELLING_MAX).await;
        failpoint::at("outbox_read");
        match read {
            Ok(gifts) => {
                let Some(gifts) = self.not_told_before(gifts, now_ms).await else {
                    self.gifts.again_ms = Some(now_ms + AGAIN_MS);
                    return;
                };
                let known_seq = self.gifts.known_seq;
                if gifts.last().map_or(self.gifts.has_more, |last| last.gift_seq <= known_seq) {
                    // All of them are told, and leave the outbox in a moment.
                    self.gifts.again_ms = Some(now_ms + AGAIN_MS);
                }
                for gift in gifts.into_iter().filter(|gift| gift.gift_seq > known_seq) {
                    self.gifts.known_seq = self.gifts.known_seq.max(gift.gift_seq);
                    self.gifts.telling.push_back(gift);
                }
            }
            Err(error) => {
                tracing::debug!(room = %self.record.room, error = &error as &dyn std::error::Error, "the outbox cannot be read");
                self.gifts.again_ms = Some(now_ms + AGAIN_MS);
            }
        }
    }

    /// Tells what a former owner has told, or tried to, and did not live to say so, once more as he did: the log has it under that name, and
    /// whoever was not shown it is. Gives the others. `None`: the log does not say.
    async fn not_told_before(&mut self, gifts: Vec<PaidGift>, now_ms: u64) -> Option<Vec<PaidGift>> {
        if self.gifts.told_before.is_none() && !gifts.is_empty() {
            let groups = match told_by(&self.core, self.record.room, now_ms).await {
                Ok(groups) => groups,
                Err(error) => {
                    self.core.metrics.store_failed("room_log", &error);
                    return None;
                }
            };
            let by_seq: BTreeMap<i64, &PaidGift> = gifts.iter().map(|gift| (gift.gift_seq, gift)).collect();
            let mut told = BTreeSet::new();
            for group in groups {
                // One that has left the outbox in part was shown, or some of it is to be told in the next page: that is told anew.
                let whole: Option<Vec<PaidGift>> = group.iter().map(|seq| by_seq.get(seq).map(|gift| (*gift).clone())).collect();
                if let Some(whole) = whole {
                    told.extend(group);
                    self.put_alike(&whole, now_ms).await;
                }
            }
            self.gifts.told_before = Some(told);
        }
        self.gifts.has_more = gifts.len() == TELLING_MAX;
        // They are read again until they have left the outbox. Not the first so many: of two combos the later one may have been told first.
        let told = self.gifts.told_before.get_or_insert_default();
        Some(gifts.into_iter().filter(|gift| !told.contains(&gift.gift_seq)).collect())
    }

    async fn put_gifts(&mut self, gifts: Vec<PaidGift>, now_ms: u64) {
        for alike in gifts.chunk_by(combos::is_alike) {
            self.put_alike(alike, now_ms).await;
        }
    }

    async fn put_alike(&mut self, gifts: &[PaidGift], now_ms: u64) {
        let (Some(first), Some(last)) = (gifts.first(), gifts.last()) else { return };
        failpoint::at("publish_begin");
        if bug::hits(Bug::TellNobody, &first.what.uuid) {
            return self.core.till.told(&places(gifts));
        }
        let url = self.core.catalogue.url(first.what.gift).await;
        let Some(push) = gift::paid(gifts, &url, self.pk.bar.as_ref(), self.record.anchor) else { return };
        let until_ms = now_ms + crate::clock::millis(self.core.config.dedup_life);
        // Of all the gifts it stands for: the log that has one of them by itself has not the others.
        let msg_id = format!("gift-{}-{}-{}", first.gift_seq, last.gift_seq, gifts.len());
        let claim = MessageClaim { app: self.record.app, user: BACKEND, msg_id, until_ms };
        let waiting = Waiting::Ledger { gift_seq: first.gift_seq, told: Arc::clone(&self.gifts.told) };
        if bug::hits(Bug::TellTwice, &first.what.uuid) {
            let claim = MessageClaim { msg_id: format!("again-{}", claim.msg_id), ..claim.clone() };
            self.put(push.clone(), Some(claim), None, now_ms);
        }
        self.put(push, Some(claim), Some(waiting), now_ms);
        self.gifts.put.push(gifts.to_vec());
    }

    /// What the log has is told; what it could not take is tried again, before anything newer.
    pub(super) fn after_telling(&mut self, now_ms: u64) {
        if self.gifts.put.is_empty() {
            return;
        }
        let told = self.gifts.told.take();
        let (mut done, mut failed) = (Vec::new(), Vec::new());
        for gifts in std::mem::take(&mut self.gifts.put) {
            let is_told = gifts.first().is_some_and(|first| told.contains(&first.gift_seq));
            if is_told {
                done.extend(gifts);
            } else {
                failed.push(gifts);
            }
        }
        if !done.is_empty() {
            failpoint::at("told_begin");
            self.core.till.told(&places(&done));
            failpoint::at("told_handed_in");
        }
        if !failed.is_empty() {
            self.gifts.again_ms = Some(now_ms + AGAIN_MS);
            self.gifts.again = failed;
        }
    }

    /// The life of the room ends: whoever gave hears what became of it. What is not told is left to the next.
    pub(super) async fn end_gifts(&mut self) {
        self.settle_gifts().await;
        let now_ms = self.core.state.clock.now_ms();
        self.after_telling(now_ms);
    }

    /// Tells all that can be told now: the room is about to close, or is given to another.
    pub(super) async fn tell_all_gifts(&mut self) {
        self.settle_gifts().await;
        let now_ms = self.core.state.clock.now_ms();
        self.tell_gifts(now_ms).await;
        for held in self.gifts.combos.all() {
            self.put_gifts(held, now_ms).await;
        }
        self.flush().await;
        self.after_telling(now_ms);
    }
}

/// As the outbox knows them.
fn places(gifts: &[PaidGift]) -> Vec<(RoomId, i64)> {
    gifts.iter().map(|gift| (gift.what.room, gift.gift_seq)).collect()
}

impl Gifts {
    /// Keeps a gift to be told.
    fn remember(&mut self, gift: PaidGift) {
        // The ledger has some before it, which are told first; or there are too many to keep here.
        if self.has_more || self.telling.len() >= TELLING_MAX {
            self.has_more = true;
            return;
        }
        if gift.gift_seq > self.known_seq {
            self.known_seq = gift.gift_seq;
            self.telling.push_back(gift);
        }
    }
}

/// Places of the gifts that a room's log shows, those of one push together.
async fn told_by(core: &Core, room: RoomId, now_ms: u64) -> Result<Vec<Vec<i64>>, StateError> {
    let entries = core.state.room_log.last(room, ROOM_LOG_ENTRIES_MAX, now_ms).await?;
    let mut groups: Vec<Vec<i64>> = Vec::new();
    // What was in doubt stands there twice.
    for places in entries.iter().map(|entry| gift::places(&entry.body)).filter(|places| !places.is_empty()) {
        if !groups.contains(&places) {
            groups.push(places);
        }
    }
    Ok(groups)
}

/// Refuses by a rule what was not paid. A gift whose answer was lost is asked for again when the rules may say otherwise by then: its PK has ended,
/// the room has closed, the sender has left. What was paid stays so, and is told so.
///
/// The room does not wait for it: a stranger may ask, and the ledger may hang.
pub(super) async fn refuse_unless_paid(core: &Core, giver: Giver, room: RoomId, request: GiftRequest, refusal: Refusal) {
    let is_final = gift::failed(&request.uuid, &refusal).is_some();
    let (Some(core), Ok(place)) = (core.me(), Arc::clone(&core.gift_lookups).try_acquire_owned()) else {
        return giver.refuse(room.0, &request.uuid, Refusal::unavailable()).await;
    };
    let looking = Arc::clone(&core);
    core.tasks.spawn(async move {
        look_and_refuse(&looking, giver, room, &request, refusal, is_final).await;
        drop(place);
    });
}

async fn look_and_refuse(core: &Core, giver: Giver, room: RoomId, request: &GiftRequest, refusal: Refusal, is_final: bool) {
    let asker = giver.asker();
    let paid = if is_final { core.money.paid(asker.app, asker.user, &request.uuid).await } else { Ok(None) };
    let refusal = match paid {
        Ok(Some(gift)) if gift::is_of(&gift, room, request) => {
            return giver.accept(core, GiftPaid { gift_seq: gift.gift_seq, balance: None }, "repeated").await;
        }
        Ok(Some(_)) => Refusal::new(Reason::UuidReused),
        Ok(None) => refusal,
        // Nobody knows: a refusal that is final would say that nothing was paid.
        Err(error) => error.into(),
    };
    if refusal.moved_to().is_none() {
        core.metrics.decided("gift", refusal.reason.label());
    }
    giver.refuse(room.0, &request.uuid, refusal).await;
}

impl Giver {
    async fn accept(self, core: &Core, paid: GiftPaid, result: &'static str) {
        core.metrics.decided("gift", result);
        match self {
            Self::Session { gateway, id, received, .. } => {
                let ts = core.state.clock.now_ms().cast_signed();
                gateway.reply(id, reply::Result::Accepted(Accepted { ts, seq: 0 })).await;
                core.metrics.delivered_in(received.elapsed());
            }
            // Where the receiver is gone the caller has given up; asked again, he hears the same.
            Self::Api { answer, .. } => drop(answer.send(Ok(paid))),
        }
    }

    /// Tells who gives that nothing was paid, or that nobody knows.
    pub(crate) async fn refuse(self, room: i64, uuid: &str, refusal: Refusal) {
        match self {
            Self::Session { gateway, id, asker, .. } => {
                // A client of the first version waits for this; the others for the answer to their frame.
                if let Some(data) = gift::failed(uuid, &refusal) {
                    let push =
                        Push { biz_code: BizCode::GIFT_FAIL.0, data, room_id: room, class: Class::Control.number(), ..Push::default() };
                    let push = UserPush { app_id: asker.app.0, user_ids: vec![asker.user.0], push: Some(push), session: asker.session };
                    gateway.send(Kind::UserPush(push), Class::Control).await;
                }
                gateway.refuse(id, &refusal).await;
            }
            Self::Api { answer, .. } => drop(answer.send(Err(refusal))),
        }
    }
}
