//! The PK of a room: who challenges the anchor, and where the bar stands.
//!
//! - The ledger knows whether a PK is on and which gifts moved it, so the bar can be made again from there; the shared state has it for
//!   those who ask elsewhere. It is moved there in one step per gift, and put there again where it was lost.
//! - A PK begins behind every gift that has been handed to the ledger, so no gift is of two.
//! - The room hears of the bar at once, and at most every so often; who comes has the newest in the snapshot.

use super::Room;
use crate::{
    Refusal,
    core::Core,
    failpoint,
    ownership::Hold,
    services::{
        gift,
        ports::{BeginPk, PkRecord, RoomKind, money::PaidGift},
    },
};
use billfish_state::{PkBar, PkStep, PkStepped, RoomId, UserId};
use billfish_wire::Reason;

/// Gifts read in one go where a bar is made again.
const GIFTS_PER_PAGE: usize = 500;
/// After the shared state did not take a bar.
const STORE_AGAIN_MS: u64 = 1_000;

/// What the room knows of its PK.
#[derive(Debug, Default)]
pub(super) struct Pk {
    pub(super) bar: Option<PkBar>,
    /// The shared state is to be given the bar, not before.
    store_ms: Option<u64>,
    /// The bar has moved since the room heard of it.
    is_changed: bool,
    told_ms: u64,
    /// The challenger has no seat: until when he may come back.
    back_until_ms: Option<u64>,
    /// The ledger may have gifts that the bar has not: it is made up from there, not before.
    behind_ms: Option<u64>,
    /// A PK that has ended, and the room still shows: whoever ended it died before he could say so.
    pub(super) shown_ms: Option<u64>,
}

impl Pk {
    /// When something is to be done.
    pub(super) fn next_ms(&self, every_ms: u64) -> Option<u64> {
        let tell_ms = self.is_changed.then_some(self.told_ms.saturating_add(every_ms));
        [tell_ms, self.store_ms, self.back_until_ms, self.behind_ms, self.shown_ms].into_iter().flatten().min()
    }

    /// The challenger has left of his own will: he is not waited for, if he is not here in another way.
    pub(super) fn leave(&mut self, user: UserId, now_ms: u64) {
        if self.bar.is_some_and(|bar| bar.challenger == user) {
            self.back_until_ms = Some(now_ms);
        }
    }

    /// A gift may have been paid that nobody here heard of.
    pub(super) fn fall_behind(&mut self, now_ms: u64) {
        if self.bar.is_some() {
            self.behind_ms = Some(now_ms);
        }
    }
}

/// The PK of a room as ledger and shared state have it, for an owner that begins and for those who ask.
pub(crate) async fn read(core: &Core, room: RoomId, now_ms: u64) -> Result<Option<PkBar>, Refusal> {
    let Some(PkRecord { challenger, since_seq }) = core.records.pk(room).await? else { return Ok(None) };
    let begun = PkBar::begin(challenger, since_seq);
    let kept = match core.state.pk_bars.bar(room, now_ms).await {
        Ok(kept) => kept.filter(|kept| kept.challenger == challenger && kept.since_seq == since_seq),
        Err(error) => {
            core.metrics.store_failed("pk_bars", &error);
            None
        }
    };
    let mut bar = kept.unwrap_or(begun);
    loop {
        let gifts = core.money.pk_gifts(room, bar.seq, GIFTS_PER_PAGE).await?;
        bar = gifts.iter().fold(bar, |bar, gift| moved(bar, gift).unwrap_or(bar));
        if gifts.len() < GIFTS_PER_PAGE {
            return Ok(Some(bar));
        }
    }
}

fn moved(bar: PkBar, gift: &PaidGift) -> Option<PkBar> {
    Some(bar.after(gift.gift_seq, gift::step(gift)?))
}

impl Room {
    /// What a life of the room begins with.
    pub(super) async fn open_pk(core: &Core, room: RoomId, kind: RoomKind, now_ms: u64) -> Result<Pk, Refusal> {
        if kind != RoomKind::Pk {
            return Ok(Pk::default());
        }
        let bar = read(core, room, now_ms).await?;
        let shown_ms = bar.is_none().then_some(now_ms);
        Ok(Pk { shown_ms, bar, store_ms: bar.map(|_| now_ms), is_changed: bar.is_some(), ..Pk::default() })
    }

    /// A gift was paid: it moves the bar, if it is of this PK. One that comes behind others that are not known yet is read with them.
    pub(super) async fn move_bar(&mut self, gift: &PaidGift, now_ms: u64) {
        if self.pk.behind_ms.is_none() {
            self.apply_gift(gift, now_ms).await;
        }
    }

    async fn catch_up(&mut self, now_ms: u64) {
        while let (Some(bar), Some(_)) = (self.pk.bar, self.pk.behind_ms) {
            match self.core.money.pk_gifts(self.record.room, bar.seq, GIFTS_PER_PAGE).await {
                Ok(gifts) => {
                    for gift in &gifts {
                        self.apply_gift(gift, now_ms).await;
                    }
                    if gifts.len() < GIFTS_PER_PAGE {
                        self.pk.behind_ms = None;
                    }
                }
                Err(error) => {
                    self.core.metrics.store_failed("pk_gifts", &error);
                    self.pk.behind_ms = Some(now_ms + STORE_AGAIN_MS);
                    return;
                }
            }
        }
    }

    async fn apply_gift(&mut self, gift: &PaidGift, now_ms: u64) {
        let Some(bar) = self.pk.bar.filter(|bar| gift.gift_seq > bar.seq) else { return };
        let (Some(by), Some(after)) = (gift::step(gift), moved(bar, gift)) else { return };
        self.pk.bar = Some(after);
        self.pk.is_changed = true;
        if self.pk.store_ms.is_some() {
            return;
        }
        let step = PkStep { since_seq: bar.since_seq, after_seq: bar.seq, seq: gift.gift_seq, by };
        failpoint::at("bar_begin");
        let stepped = self.core.state.pk_bars.step(self.record.room, step, now_ms).await;
        failpoint::at("bar_stepped");
        match stepped {
            Ok(PkStepped::Applied(stands)) if stands == after => {}
            // Lost there, or an earlier step was carried out and not answered.
            Ok(PkStepped::Applied(_) | PkStepped::Before(_) | PkStepped::Missing) => self.pk.store_ms = Some(now_ms),
            Err(error) => {
                self.core.metrics.store_failed("pk_bars", &error);
                self.pk.store_ms = Some(now_ms + STORE_AGAIN_MS);
            }
        }
    }

    /// What is due: the shared state is given the bar, the room hears of it, a challenger who is gone is gone.
    pub(super) async fn on_pk_tick(&mut self, now_ms: u64) {
        if self.pk.shown_ms.take().is_some()
            && self.pk.bar.is_none()
            && let Some(bar) = self.states.get(gift::PK_KEY).and_then(|body| gift::shown_bar(body))
        {
            self.put(gift::bar_state(&bar, self.record.anchor, true), None, None, now_ms);
        }
        // One that was stopped for long enough does not know that others have come and gone.
        let Some(bar) = self.pk.bar.filter(|_| self.end.is_none()) else { return };
        let is_here = self.membership.contains(bar.challenger);
        self.pk.back_until_ms = match self.pk.back_until_ms {
            _ if is_here => None,
            None => Some(now_ms + crate::clock::millis(self.core.config.pk.grace)),
            until_ms => until_ms,
        };
        if self.pk.back_until_ms.is_some_and(|until_ms| now_ms >= until_ms) {
            let ended = match self.hold().await {
                Hold::Owned => self.end_pk(bar.challenger, now_ms).await,
                Hold::Degraded => Err(Refusal::unavailable()),
                Hold::Lost => return self.lose().await,
            };
            if let Err(refusal) = ended {
                tracing::debug!(room = %self.record.room, %refusal, "the PK of a challenger who is gone cannot be ended yet");
                self.pk.back_until_ms = Some(now_ms + STORE_AGAIN_MS);
            }
            return;
        }
        if self.pk.behind_ms.is_some_and(|behind_ms| now_ms >= behind_ms) {
            self.catch_up(now_ms).await;
        }
        let bar = self.pk.bar.unwrap_or(bar);
        if self.pk.store_ms.is_some_and(|store_ms| now_ms >= store_ms) {
            self.store_bar(bar, now_ms).await;
        }
        self.tell_bar(now_ms);
    }

    fn tell_bar(&mut self, now_ms: u64) {
        let every_ms = crate::clock::millis(self.core.config.pk.bar_every);
        if let Some(bar) = self.pk.bar.filter(|_| self.pk.is_changed && now_ms >= self.pk.told_ms.saturating_add(every_ms)) {
            self.put(gift::bar_state(&bar, self.record.anchor, false), None, None, now_ms);
            (self.pk.is_changed, self.pk.told_ms) = (false, now_ms);
        }
    }

    async fn store_bar(&mut self, bar: PkBar, now_ms: u64) {
        let (bars, room) = (&self.core.state.pk_bars, self.record.room);
        let stored = async {
            let stands = bars.put(room, bar, now_ms).await?;
            if stands == bar {
                return Ok(true);
            }
            // Of a PK that is over, by the ledger, which knows: its end did not reach the shared state.
            bars.clear(room, stands.challenger, stands.since_seq).await?;
            Ok::<_, billfish_state::StateError>(bars.put(room, bar, now_ms).await? == bar)
        };
        self.pk.store_ms = match stored.await {
            Ok(true) => None,
            Ok(false) => Some(now_ms + STORE_AGAIN_MS),
            Err(error) => {
                self.core.metrics.store_failed("pk_bars", &error);
                Some(now_ms + STORE_AGAIN_MS)
            }
        };
    }

    /// A challenger takes the seat. His own seat again is no error: an answer may have been lost.
    pub(super) async fn begin_pk(&mut self, challenger: UserId, now_ms: u64) -> Result<(), Refusal> {
        let refused = |detail: &str| Err(Refusal::because(Reason::NotAReceiver, detail));
        if self.record.kind != RoomKind::Pk {
            return refused("this room is not one for PKs (type 2)");
        }
        if challenger == self.record.anchor {
            return refused("the anchor does not challenge himself");
        }
        self.rules.check_room_for(challenger)?;
        self.rules.may_enter(challenger, now_ms)?;
        if !self.membership.contains(challenger) {
            return Err(Refusal::because(Reason::RoomNotFound, "join the room first"));
        }
        // What is on its way to the ledger is of what was before.
        self.settle_gifts().await;
        match self.core.records.begin_pk(self.record.room, self.claim.epoch, challenger, now_ms).await? {
            BeginPk::Begun(pk) => {
                self.pk = Pk { bar: Some(PkBar::begin(pk.challenger, pk.since_seq)), store_ms: Some(now_ms), ..Pk::default() };
                let profile = self.core.profiles.shown(self.record.app, challenger, now_ms).await;
                self.put(gift::online(challenger, &profile.avatar), None, None, now_ms);
                self.pk.is_changed = true;
                self.tell_bar(now_ms);
                Ok(())
            }
            BeginPk::Taken(pk) => {
                // Begun by a call whose answer was lost.
                if self.pk.bar.is_none_or(|bar| (bar.challenger, bar.since_seq) != (pk.challenger, pk.since_seq)) {
                    let bar = read(&self.core, self.record.room, now_ms).await?;
                    self.pk = Pk { bar, store_ms: bar.map(|_| now_ms), is_changed: bar.is_some(), ..Pk::default() };
                    self.tell_bar(now_ms);
                }
                if pk.challenger == challenger { Ok(()) } else { Err(Refusal::new(Reason::PkTaken)) }
            }
            BeginPk::NoRoom => Err(Refusal::new(Reason::RoomNotFound)),
            BeginPk::Fenced => {
                self.lose().await;
                Err(self.core.ownership.elsewhere(self.record.room))
            }
        }
    }

    /// The challenger goes, and with him bar, sequence and winner. Another one's is left alone; none is no error.
    pub(super) async fn end_pk(&mut self, challenger: UserId, now_ms: u64) -> Result<(), Refusal> {
        if self.pk.bar.is_some_and(|bar| bar.challenger != challenger) {
            return Err(Refusal::because(Reason::NotYourUser, "only the challenger himself leaves the PK"));
        }
        self.settle_gifts().await;
        self.core.records.end_pk(self.record.room, self.claim.epoch, challenger, now_ms).await?;
        let Some(bar) = std::mem::take(&mut self.pk).bar else { return Ok(()) };
        if let Err(error) = self.core.state.pk_bars.clear(self.record.room, challenger, bar.since_seq).await {
            // Nobody goes by it: the ledger says that no PK is on, and the next one takes its place.
            self.core.metrics.store_failed("pk_bars", &error);
        }
        self.put(gift::bar_state(&bar, self.record.anchor, true), None, None, now_ms);
        Ok(())
    }
}
