//! Recharges: a user orders a product, pays for it elsewhere, and the provider tells that it was paid.
//!
//! - An order keeps what was offered: a product that changes later changes no order.
//! - Whether a payment fits its order, and that it is credited once, is decided by the ledger, in the transaction that credits it.

use crate::{
    Refusal,
    metrics::Metrics,
    services::{
        ids::Ids,
        ports::money::{Balance, Money, OrderState, PayOutcome, Product, ProductId, RechargeOrder},
    },
};
use billfish_state::{AppId, UserId};
use billfish_wire::Reason;
use std::sync::Arc;

/// Longest id of a payment.
pub(crate) const PAYMENT_BYTES_MAX: usize = 64;

/// A payment, as its provider tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payment {
    /// Of which order.
    pub order: i64,
    /// The provider's own id of it.
    pub payment: String,
    /// What was paid, in the smallest unit of the currency.
    pub price_minor: i64,
    /// ISO 4217.
    pub currency: String,
}

/// Wallets, and what fills them.
pub(crate) struct Recharges {
    money: Arc<dyn Money>,
    orders: Ids,
    metrics: Metrics,
}

impl Recharges {
    pub(crate) fn new(money: Arc<dyn Money>, orders: Ids, metrics: Metrics) -> Self {
        Self { money, orders, metrics }
    }

    pub(crate) async fn balance(&self, app: AppId, user: UserId) -> Result<Balance, Refusal> {
        Ok(self.money.balance(app, user).await?)
    }

    pub(crate) async fn products(&self) -> Result<Vec<Product>, Refusal> {
        Ok(self.money.products().await?)
    }

    /// An order that waits for its payment; `None` where there is no such product.
    pub(crate) async fn order(&self, app: AppId, user: UserId, product: ProductId, now_ms: u64) -> Result<Option<RechargeOrder>, Refusal> {
        let products = self.money.products().await?;
        let Some(product) = products.into_iter().find(|other| other.product == product) else { return Ok(None) };
        let order = RechargeOrder {
            order: self.orders.next().await?,
            app,
            user,
            product: product.product,
            coins: product.coins,
            price_minor: product.price_minor,
            currency: product.currency,
            state: OrderState::Waiting,
            made_ms: now_ms,
            payment: String::new(),
        };
        self.money.add_order(&order).await?;
        self.metrics.recharged("ordered");
        Ok(Some(order))
    }

    /// Credits an order, once, however often its payment is told.
    pub(crate) async fn pay(&self, payment: &Payment, now_ms: u64) -> Result<PayOutcome, Refusal> {
        let Payment { order, payment, price_minor, currency } = payment;
        let legal = |text: &str| !text.is_empty() && text.len() <= PAYMENT_BYTES_MAX && text.bytes().all(|byte| byte.is_ascii_graphic());
        if !legal(payment) {
            return Err(Refusal::because(Reason::Malformed, "the id of a payment is 1 to 64 visible ASCII characters"));
        }
        let outcome = self.money.pay_order(*order, payment, *price_minor, currency, now_ms).await?;
        match &outcome {
            PayOutcome::Credited(order) => {
                self.metrics.recharged("credited");
                tracing::info!(order = order.order, "a recharge was credited");
            }
            PayOutcome::Repeated(_) => self.metrics.recharged("repeated"),
            // Money came, or somebody says so, that fits no order: somebody has to look.
            PayOutcome::Conflict => {
                self.metrics.recharged("conflict");
                tracing::warn!(order, "a payment does not fit its order, which was left as it is");
            }
            PayOutcome::NoOrder => self.metrics.recharged("no_order"),
        }
        Ok(outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::{Payment, Recharges};
    use crate::{
        metrics::Metrics,
        services::{
            ids::Ids,
            ports::money::{Balance, Money, OrderState, PayOutcome, Product, ProductId, RechargeOrder},
        },
        testing::{TestMoney, TestPeople},
    };
    use billfish_state::{AppId, UserId};
    use billfish_wire::Reason;
    use prometheus_client::registry::Registry;
    use std::sync::Arc;
    use tokio_util::task::TaskTracker;

    const APP: AppId = AppId(10_001);
    const ALICE: UserId = UserId(20_001);

    fn house() -> (Arc<TestMoney>, Recharges) {
        let (money, metrics) = (Arc::new(TestMoney::with_a_product()), Metrics::register(&mut Registry::default()));
        let orders = Ids::new("order", Arc::new(TestPeople::with_step(10)), TaskTracker::new(), metrics.clone());
        (money.clone(), Recharges::new(money, orders, metrics))
    }

    fn payment(order: &RechargeOrder) -> Payment {
        Payment { order: order.order, payment: "p-1".to_owned(), price_minor: order.price_minor, currency: order.currency.clone() }
    }

    #[tokio::test]
    async fn an_order_keeps_what_was_offered() {
        let (money, recharges) = house();
        let order = recharges.order(APP, ALICE, ProductId(1), 7).await.unwrap().unwrap();
        assert_eq!((order.coins, order.price_minor, order.currency.as_str(), order.state), (60, 600, "CNY", OrderState::Waiting));
        let dearer = Product { product: ProductId(1), name: String::new(), price_minor: 1_200, currency: "CNY".to_owned(), coins: 1 };
        money.put_product(&dearer).await.unwrap();
        assert!(matches!(recharges.pay(&payment(&order), 8).await.unwrap(), PayOutcome::Credited(paid) if paid.coins == 60));
        assert_eq!(recharges.balance(APP, ALICE).await.unwrap(), Balance { coins: 60, beans: 0 });
        assert_eq!(recharges.order(APP, ALICE, ProductId(2), 9).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_payment_is_told_as_often_as_its_provider_likes() {
        let (_, recharges) = house();
        let order = recharges.order(APP, ALICE, ProductId(1), 7).await.unwrap().unwrap();
        for told in 0..3 {
            let outcome = recharges.pay(&payment(&order), 8 + told).await.unwrap();
            assert_eq!(matches!(outcome, PayOutcome::Credited(_)), told == 0, "{outcome:?}");
        }
        assert_eq!(recharges.balance(APP, ALICE).await.unwrap().coins, 60);
        let nothing = Payment { payment: String::new(), ..payment(&order) };
        assert_eq!(recharges.pay(&nothing, 9).await.unwrap_err().reason, Reason::Malformed);
    }

    #[tokio::test]
    async fn money_that_is_away_is_told() {
        let (money, recharges) = house();
        money.fail(true);
        assert_eq!(recharges.order(APP, ALICE, ProductId(1), 7).await.unwrap_err().reason, Reason::Unavailable);
        assert_eq!(recharges.balance(APP, ALICE).await.unwrap_err().reason, Reason::Unavailable);
    }
}
