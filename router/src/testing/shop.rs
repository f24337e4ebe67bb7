//! Money in memory: balances, products and orders. Gifts are not given here.

use crate::services::ports::{
    Absent, RecordError, Result,
    money::{
        Balance, Gift, GiftId, GiftOutcome, Grant, GrantOutcome, Money, NewGift, OrderState, PaidGift, PayOutcome, Product, ProductId,
        RechargeOrder, Reconciliation,
    },
};
use async_trait::async_trait;
use billfish_state::{AppId, RoomId, UserId};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Money without a database.
#[derive(Default)]
pub(crate) struct TestMoney(Mutex<Tables>);

#[derive(Default)]
struct Tables {
    balances: HashMap<(AppId, UserId), Balance>,
    products: BTreeMap<ProductId, Product>,
    orders: BTreeMap<i64, RechargeOrder>,
    failing: bool,
}

impl TestMoney {
    /// One product is for sale: 60 coins for 6.00 CNY.
    pub(crate) fn with_a_product() -> Self {
        let product =
            Product { product: ProductId(1), name: "60 coins".to_owned(), price_minor: 600, currency: "CNY".to_owned(), coins: 60 };
        Self(Mutex::new(Tables { products: [(product.product, product)].into(), ..Tables::default() }))
    }

    /// From now on every call fails, or none.
    pub(crate) fn fail(&self, failing: bool) {
        self.lock().failing = failing;
    }

    fn lock(&self) -> MutexGuard<'_, Tables> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, what: &'static str) -> Result<MutexGuard<'_, Tables>> {
        let tables = self.lock();
        if tables.failing { Err(RecordError::Away { what, cause: "told to fail".into() }) } else { Ok(tables) }
    }
}

#[async_trait]
impl Money for TestMoney {
    async fn pay_gifts(&self, gifts: &[NewGift], now_ms: u64) -> Result<Vec<GiftOutcome>> {
        Absent.pay_gifts(gifts, now_ms).await
    }

    async fn paid(&self, app: AppId, sender: UserId, uuid: &str) -> Result<Option<PaidGift>> {
        Absent.paid(app, sender, uuid).await
    }

    async fn untold(&self, room: RoomId, limit: usize) -> Result<Vec<PaidGift>> {
        Absent.untold(room, limit).await
    }

    async fn rooms_to_tell(&self, before_ms: u64, limit: usize) -> Result<Vec<RoomId>> {
        Absent.rooms_to_tell(before_ms, limit).await
    }

    async fn told(&self, gifts: &[(RoomId, i64)]) -> Result<()> {
        Absent.told(gifts).await
    }

    async fn pk_gifts(&self, room: RoomId, after_seq: i64, limit: usize) -> Result<Vec<PaidGift>> {
        Absent.pk_gifts(room, after_seq, limit).await
    }

    async fn last_gift(&self, room: RoomId) -> Result<i64> {
        Absent.last_gift(room).await
    }

    async fn gifts(&self) -> Result<Vec<Gift>> {
        Absent.gifts().await
    }

    async fn put_gift(&self, gift: &Gift) -> Result<()> {
        Absent.put_gift(gift).await
    }

    async fn remove_gift(&self, gift: GiftId) -> Result<()> {
        Absent.remove_gift(gift).await
    }

    async fn balance(&self, app: AppId, user: UserId) -> Result<Balance> {
        Ok(self.enter("balance")?.balances.get(&(app, user)).copied().unwrap_or_default())
    }

    async fn grant(&self, grants: &[Grant], now_ms: u64) -> Result<Vec<GrantOutcome>> {
        Absent.grant(grants, now_ms).await
    }

    async fn products(&self) -> Result<Vec<Product>> {
        Ok(self.enter("products")?.products.values().cloned().collect())
    }

    async fn put_product(&self, product: &Product) -> Result<()> {
        self.enter("put_product")?.products.insert(product.product, product.clone());
        Ok(())
    }

    async fn add_order(&self, order: &RechargeOrder) -> Result<()> {
        self.enter("add_order")?.orders.insert(order.order, order.clone());
        Ok(())
    }

    async fn order(&self, order: i64) -> Result<Option<RechargeOrder>> {
        Ok(self.enter("order")?.orders.get(&order).cloned())
    }

    async fn pay_order(&self, order: i64, payment: &str, price_minor: i64, currency: &str, _now_ms: u64) -> Result<PayOutcome> {
        let mut tables = self.enter("pay_order")?;
        let Some(found) = tables.orders.get(&order).cloned() else { return Ok(PayOutcome::NoOrder) };
        let elsewhere = tables.orders.values().any(|other| other.order != order && other.payment == payment);
        if elsewhere || found.price_minor != price_minor || found.currency != currency {
            return Ok(PayOutcome::Conflict);
        }
        match found.state {
            OrderState::Paid if found.payment == payment => Ok(PayOutcome::Repeated(found)),
            OrderState::Paid => Ok(PayOutcome::Conflict),
            OrderState::Waiting => {
                let paid = RechargeOrder { state: OrderState::Paid, payment: payment.to_owned(), ..found };
                tables.balances.entry((paid.app, paid.user)).or_default().coins += paid.coins;
                tables.orders.insert(order, paid.clone());
                Ok(PayOutcome::Credited(paid))
            }
        }
    }

    async fn reconcile(&self, before_ms: u64) -> Result<Reconciliation> {
        Absent.reconcile(before_ms).await
    }
}
