//! Recharges: an order waits for its payment, and is credited once.
//!
//! The order's row is locked first, the accounts behind it; one payment pays one order by the key of the table.

use super::{
    Ledger,
    accounts::{Account, Books, Trade, TradeKind},
    database::{self, Call, params},
    signed,
    statements::LOCKED,
    unsigned,
};
use crate::services::ports::{
    RecordError, Result,
    money::{OrderState, PayOutcome, ProductId, RechargeOrder},
};
use billfish_state::{AppId, UserId};
use sqlx::AssertSqlSafe;

/// How often a transaction begins that others overtake.
const TRIES_MAX: u32 = 5;
/// Bytes of a provider's id.
const PAYMENT_BYTES_MAX: usize = 255;

/// The columns of an [`OrderRow`].
const COLUMNS: &str =
    "id, app_id, user_id, product_id, coins, price_minor, currency, status, made_time, COALESCE(CAST(payment AS CHAR), '')";

type OrderRow = (i64, i32, i64, i64, i64, i64, String, i64, i64, String);

impl Ledger {
    pub(super) async fn put_order(&self, order: &RechargeOrder) -> Result<()> {
        const PUT: &str = "INSERT INTO t_recharge_order (id, app_id, user_id, product_id, coins, price_minor, currency, status, made_time, paid_time) \
                           VALUES (?, ?, ?, ?, ?, ?, ?, 0, ?, 0)";
        let RechargeOrder { order: id, app, user, product, coins, price_minor, currency, made_ms, .. } = order;
        if *coins < 1 || *price_minor < 1 {
            return Err(RecordError::Unreadable {
                what: format!("order {id} of {coins} coins for {price_minor}: nothing can be bought so"),
            });
        }
        let mut call = self.write("storing an order").await?;
        let params = params![*id, app.0, user.0, product.0, *coins, *price_minor, currency, signed(*made_ms)];
        let made = call.insert(PUT, params).await?;
        call.finish();
        if made.is_some() {
            return Ok(());
        }
        // It is there: by this call, which failed before, or its id was given twice.
        match self.order_of(*id).await? {
            Some(there) if is_same(&there, order) => Ok(()),
            _ => Err(RecordError::Unreadable { what: format!("the id of order {id} was given twice") }),
        }
    }

    pub(super) async fn order_of(&self, order: i64) -> Result<Option<RechargeOrder>> {
        let read = AssertSqlSafe(format!("SELECT {COLUMNS} FROM t_recharge_order WHERE id = ?"));
        let row: Option<OrderRow> = self.row("reading an order", read, params![order]).await?;
        row.map(record).transpose()
    }

    pub(super) async fn credit_order(
        &self,
        order: i64,
        payment: &str,
        price_minor: i64,
        currency: &str,
        now_ms: u64,
    ) -> Result<PayOutcome> {
        let asked = Payment { order, payment, price_minor, currency };
        let mut call = self.transaction("crediting an order").await?;
        let mut tries = 1;
        let outcome = loop {
            match asked.credit(&mut call, now_ms).await {
                Ok(outcome) => break outcome,
                Err(error) if tries < TRIES_MAX && database::is_contention(&error) => {
                    tries += 1;
                    call.begin_again().await?;
                }
                Err(error) => return Err(error),
            }
        };
        call.commit().await?;
        Ok(outcome)
    }
}

/// A payment that was told.
struct Payment<'a> {
    order: i64,
    payment: &'a str,
    price_minor: i64,
    currency: &'a str,
}

impl Payment<'_> {
    async fn credit(&self, call: &mut Call, now_ms: u64) -> Result<PayOutcome> {
        const ORDER_OF_PAYMENT: &str = "SELECT id FROM t_recharge_order WHERE payment = ?";
        const PAY: &str = "UPDATE t_recharge_order SET status = 1, paid_time = ?, payment = ? WHERE id = ? AND status = 0";
        let read = AssertSqlSafe(format!("SELECT {COLUMNS} FROM t_recharge_order WHERE id = ? {LOCKED}"));
        let row: Option<OrderRow> = call.row(read, params![self.order]).await?;
        let Some(mut order) = row.map(record).transpose()? else { return Ok(PayOutcome::NoOrder) };
        let is_as_ordered = order.price_minor == self.price_minor && order.currency == self.currency;
        if !is_as_ordered || self.payment.is_empty() || self.payment.len() > PAYMENT_BYTES_MAX {
            return Ok(PayOutcome::Conflict);
        }
        if order.state == OrderState::Paid {
            return Ok(if order.payment == self.payment { PayOutcome::Repeated(order) } else { PayOutcome::Conflict });
        }
        let other: Option<(i64,)> = call.row(ORDER_OF_PAYMENT, params![self.payment]).await?;
        if other.is_some() {
            return Ok(PayOutcome::Conflict);
        }
        // Two orders by one payment at once: the later one begins again, and finds the earlier one.
        call.claim(PAY, params![signed(now_ms), self.payment, order.order]).await?;
        let (from, to) = (Account::source(order.app), Account::coins(order.app, order.user));
        let mut books = Books::open(call, [from, to].into()).await?;
        if !books.trade(Trade { kind: TradeKind::Recharge, reference: (order.order, 0), from, to, amount: order.coins }) {
            return Err(RecordError::Unreadable { what: format!("order {} gives more coins than an account can hold", order.order) });
        }
        books.write_balances(call).await?;
        books.write_entries(call, now_ms).await?;
        order.state = OrderState::Paid;
        self.payment.clone_into(&mut order.payment);
        Ok(PayOutcome::Credited(order))
    }
}

/// Whether an order is another call's of the same one. It may have been paid since.
fn is_same(there: &RechargeOrder, asked: &RechargeOrder) -> bool {
    let there = RechargeOrder { state: asked.state, payment: asked.payment.clone(), made_ms: asked.made_ms, ..there.clone() };
    there == *asked
}

fn record(row: OrderRow) -> Result<RechargeOrder> {
    let (order, app, user, product, coins, price_minor, currency, status, made, payment) = row;
    let state = match status {
        0 => OrderState::Waiting,
        1 => OrderState::Paid,
        _ => return Err(RecordError::Unreadable { what: format!("status of order {order} is {status}") }),
    };
    Ok(RechargeOrder {
        order,
        app: AppId(app),
        user: UserId(user),
        product: ProductId(product),
        coins,
        price_minor,
        currency,
        state,
        made_ms: unsigned(made, "made_time")?,
        payment,
    })
}
