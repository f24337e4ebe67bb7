//! The money of records in memory: a model of what the ledger promises, as short as it can be.

use super::TestRecords;
use crate::services::ports::{
    RecordError, Result,
    money::{
        Balance, Gift, GiftId, GiftOutcome, Grant, GrantOutcome, Money, NewGift, PaidGift, PayOutcome, Product, RechargeOrder,
        Reconciliation, Till,
    },
};
use async_trait::async_trait;
use billfish_state::{AppId, Clock, RoomId, UserId};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use tokio::sync::{mpsc, oneshot};

#[derive(Default)]
pub(super) struct Wallets {
    catalogue: BTreeMap<GiftId, Gift>,
    coins: BTreeMap<(AppId, UserId), i64>,
    paid: BTreeMap<(RoomId, i64), PaidGift>,
    untold: BTreeSet<(RoomId, i64)>,
    /// So many batches are paid, and their answers are lost.
    answers_lost: u32,
    /// The next batch is not answered, and paid when the next one is.
    is_late: bool,
    late: Vec<NewGift>,
}

impl TestRecords {
    /// Puts a gift up for sale.
    pub(crate) fn sell(&self, gift: i64, price: i64) {
        let url = format!("gift-{gift}.svga");
        let gift = Gift { gift: GiftId(gift), name: "gift".to_owned(), price, cover: String::new(), url };
        self.lock().wallets.catalogue.insert(gift.gift, gift);
    }

    /// Gives a user coins.
    pub(crate) fn give(&self, app: AppId, user: UserId, coins: i64) {
        *self.lock().wallets.coins.entry((app, user)).or_default() += coins;
    }

    /// What a user has.
    pub(crate) fn coins(&self, app: AppId, user: UserId) -> i64 {
        self.lock().wallets.coins.get(&(app, user)).copied().unwrap_or_default()
    }

    /// Places of the gifts that wait to be told.
    pub(crate) fn untold_seqs(&self, room: RoomId) -> Vec<i64> {
        self.lock().wallets.untold.iter().filter(|(of, _)| *of == room).map(|(_, seq)| *seq).collect()
    }

    /// The answers of so many batches are lost from now on.
    pub(crate) fn lose_answers(&self, batches: u32) {
        self.lock().wallets.answers_lost = batches;
    }

    /// The next batch is not answered and not paid either, until another one comes: a database that had stopped still has it.
    pub(crate) fn pay_late(&self) {
        self.lock().wallets.is_late = true;
    }

    /// The gifts of a room, in order.
    pub(crate) fn gifts_of(&self, room: RoomId) -> Vec<PaidGift> {
        self.lock().wallets.paid.range((room, 0)..=(room, i64::MAX)).map(|(_, gift)| gift.clone()).collect()
    }
}

impl Wallets {
    pub(super) fn last(&self, room: RoomId) -> i64 {
        self.paid.range((room, 0)..=(room, i64::MAX)).next_back().map_or(0, |((_, seq), _)| *seq)
    }

    fn pay(&mut self, gift: &NewGift, epoch: Option<u64>, now_ms: u64) -> GiftOutcome {
        let is_same = |one: &NewGift, other: &NewGift| {
            let of = |gift: &NewGift| (gift.room, gift.receiver, gift.gift, gift.num, gift.pk.is_some());
            of(one) == of(other)
        };
        if let Some(first) = self.paid.values().find(|paid| paid.what.sender == gift.sender && paid.what.uuid == gift.uuid) {
            return if is_same(&first.what, gift) { GiftOutcome::Repeated(first.clone()) } else { GiftOutcome::Conflict };
        }
        let Some(epoch) = epoch else { return GiftOutcome::NoRoom };
        if epoch != gift.epoch {
            return GiftOutcome::Fenced;
        }
        let gift_seq = self.last(gift.room) + 1;
        let coins = self.coins.entry((gift.app, gift.sender)).or_default();
        let Some(left) = gift.total().and_then(|total| coins.checked_sub(total)).filter(|left| *left >= 0) else {
            return GiftOutcome::NotCovered { balance: *coins };
        };
        *coins = left;
        let gift = PaidGift { what: gift.clone(), gift_seq, paid_ms: now_ms };
        self.paid.insert((gift.what.room, gift_seq), gift.clone());
        self.untold.insert((gift.what.room, gift_seq));
        GiftOutcome::Paid { gift, balance: left }
    }
}

/// A till in front of records in memory: whatever waits is one batch.
pub(crate) struct TestTill {
    gifts: mpsc::UnboundedSender<(NewGift, oneshot::Sender<Result<GiftOutcome>>)>,
    told: mpsc::UnboundedSender<(RoomId, i64)>,
}

impl TestTill {
    pub(crate) fn start(records: &Arc<TestRecords>, clock: &Clock) -> Arc<Self> {
        let (gifts, mut waiting) = mpsc::unbounded_channel::<(NewGift, oneshot::Sender<_>)>();
        let (told, mut done) = mpsc::unbounded_channel();
        let (records, clock) = (Arc::clone(records), clock.clone());
        tokio::spawn(async move {
            let (mut batch, mut rows) = (Vec::new(), Vec::new());
            loop {
                let count = tokio::select! {
                    count = waiting.recv_many(&mut batch, 256) => count,
                    count = done.recv_many(&mut rows, 256) => count,
                };
                if count == 0 {
                    return;
                }
                let (gifts, answers): (Vec<_>, Vec<_>) = batch.drain(..).unzip();
                if !gifts.is_empty() {
                    let mut outcomes = records.pay_gifts(&gifts, clock.now_ms()).await.map(Vec::into_iter);
                    for answer in answers {
                        let outcome = match &mut outcomes {
                            Ok(outcomes) => Ok(outcomes.next().unwrap()),
                            Err(error) => Err(RecordError::Away { what: "pay_gifts", cause: error.to_string().into() }),
                        };
                        drop(answer.send(outcome));
                    }
                }
                // What is lost of this is told again.
                drop(records.told(&std::mem::take(&mut rows)).await);
            }
        });
        Arc::new(Self { gifts, told })
    }
}

impl Till for TestTill {
    fn submit(&self, gift: NewGift) -> Result<oneshot::Receiver<Result<GiftOutcome>>> {
        let (answer, answered) = oneshot::channel();
        self.gifts.send((gift, answer)).map_err(|_| RecordError::Away { what: "pay_gifts", cause: "stopped".into() })?;
        Ok(answered)
    }

    fn told(&self, gifts: &[(RoomId, i64)]) {
        for gift in gifts {
            self.told.send(*gift).ok();
        }
    }
}

#[async_trait]
impl Money for TestRecords {
    async fn pay_gifts(&self, gifts: &[NewGift], now_ms: u64) -> Result<Vec<GiftOutcome>> {
        self.enter("pay_gifts").await?;
        let mut tables = self.lock();
        if std::mem::take(&mut tables.wallets.is_late) {
            tables.wallets.late = gifts.to_vec();
            return Err(RecordError::Away { what: "pay_gifts", cause: "told to be late".into() });
        }
        for gift in std::mem::take(&mut tables.wallets.late) {
            let epoch = tables.live.get(&gift.room).map(|(_, epoch, _)| *epoch);
            tables.wallets.pay(&gift, epoch, now_ms);
        }
        let mut outcomes = Vec::new();
        for gift in gifts {
            let epoch = tables.live.get(&gift.room).map(|(_, epoch, _)| *epoch);
            outcomes.push(tables.wallets.pay(gift, epoch, now_ms));
        }
        if tables.wallets.answers_lost > 0 {
            tables.wallets.answers_lost -= 1;
            return Err(RecordError::Away { what: "pay_gifts", cause: "told to be lost".into() });
        }
        Ok(outcomes)
    }

    async fn paid(&self, _: AppId, sender: UserId, uuid: &str) -> Result<Option<PaidGift>> {
        self.enter("paid").await?;
        let tables = self.lock();
        Ok(tables.wallets.paid.values().find(|paid| paid.what.sender == sender && paid.what.uuid == uuid).cloned())
    }

    async fn untold(&self, room: RoomId, limit: usize) -> Result<Vec<PaidGift>> {
        self.enter("untold").await?;
        let tables = self.lock();
        let untold = tables.wallets.untold.range((room, 0)..=(room, i64::MAX)).take(limit);
        Ok(untold.map(|place| tables.wallets.paid[place].clone()).collect())
    }

    async fn rooms_to_tell(&self, before_ms: u64, limit: usize) -> Result<Vec<RoomId>> {
        self.enter("rooms_to_tell").await?;
        let tables = self.lock();
        let old = tables.wallets.untold.iter().filter(|place| tables.wallets.paid[place].paid_ms < before_ms);
        let rooms: BTreeSet<RoomId> = old.map(|(room, _)| *room).collect();
        Ok(rooms.into_iter().take(limit).collect())
    }

    async fn told(&self, gifts: &[(RoomId, i64)]) -> Result<()> {
        self.enter("told").await?;
        let mut tables = self.lock();
        for place in gifts {
            tables.wallets.untold.remove(place);
        }
        Ok(())
    }

    async fn pk_gifts(&self, room: RoomId, after_seq: i64, limit: usize) -> Result<Vec<PaidGift>> {
        self.enter("pk_gifts").await?;
        Ok(self.gifts_of(room).into_iter().filter(|gift| gift.gift_seq > after_seq && gift.what.pk.is_some()).take(limit).collect())
    }

    async fn last_gift(&self, room: RoomId) -> Result<i64> {
        self.enter("last_gift").await?;
        Ok(self.lock().wallets.last(room))
    }

    async fn gifts(&self) -> Result<Vec<Gift>> {
        self.enter("gifts").await?;
        Ok(self.lock().wallets.catalogue.values().cloned().collect())
    }

    async fn put_gift(&self, gift: &Gift) -> Result<()> {
        self.enter("put_gift").await?;
        self.lock().wallets.catalogue.insert(gift.gift, gift.clone());
        Ok(())
    }

    async fn remove_gift(&self, gift: GiftId) -> Result<()> {
        self.enter("remove_gift").await?;
        self.lock().wallets.catalogue.remove(&gift);
        Ok(())
    }

    async fn balance(&self, app: AppId, user: UserId) -> Result<Balance> {
        self.enter("balance").await?;
        let tables = self.lock();
        let given = tables.wallets.paid.values().filter(|gift| gift.what.app == app && gift.what.receiver == user);
        let beans = given.filter_map(|gift| gift.what.total()).sum();
        Ok(Balance { coins: tables.wallets.coins.get(&(app, user)).copied().unwrap_or_default(), beans })
    }

    async fn grant(&self, grants: &[Grant], _: u64) -> Result<Vec<GrantOutcome>> {
        self.enter("grant").await?;
        let give = |grant: &Grant| {
            self.give(grant.app, grant.user, grant.coins);
            GrantOutcome::Given { balance: self.coins(grant.app, grant.user) }
        };
        Ok(grants.iter().map(give).collect())
    }

    async fn products(&self) -> Result<Vec<Product>> {
        not_here("products")
    }

    async fn put_product(&self, _: &Product) -> Result<()> {
        not_here("put_product")
    }

    async fn add_order(&self, _: &RechargeOrder) -> Result<()> {
        not_here("add_order")
    }

    async fn order(&self, _: i64) -> Result<Option<RechargeOrder>> {
        not_here("order")
    }

    async fn pay_order(&self, _: i64, _: &str, _: i64, _: &str, _: u64) -> Result<PayOutcome> {
        not_here("pay_order")
    }

    async fn reconcile(&self, _: u64) -> Result<Reconciliation> {
        not_here("reconcile")
    }
}

/// Nothing is bought in these tests.
fn not_here<T>(what: &'static str) -> Result<T> {
    Err(RecordError::Away { what, cause: "not part of these records".into() })
}
