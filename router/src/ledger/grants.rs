//! Coins that the operator gives: recharges that were bought elsewhere, each an order that is made and paid in one transaction.
//!
//! The order's `payment` is the grant's own name, which no other order has; ids below 0 are these, so that they stand apart from orders that
//! users have made.

use super::{
    Ledger,
    accounts::{Account, Books, Trade, TradeKind},
    database::{self, Call, Param},
    signed,
    statements::{marks, rows_of},
};
use crate::services::ports::{
    RecordError, Result,
    money::{Grant, GrantOutcome},
};
use sqlx::AssertSqlSafe;
use std::collections::{BTreeMap, BTreeSet};

/// How often a transaction begins that others overtake.
const TRIES_MAX: u32 = 5;
/// Orders in one statement.
const ORDERS_PER_STATEMENT: usize = 200;
/// The product of no shop.
const NO_PRODUCT: i64 = 0;
/// What they cost, coin by coin.
const CURRENCY: &str = "COINS";

impl Ledger {
    pub(super) async fn give(&self, grants: &[Grant], now_ms: u64) -> Result<Vec<GrantOutcome>> {
        if let Some(Grant { user, coins, .. }) = grants.iter().find(|grant| grant.coins < 1) {
            return Err(RecordError::Unreadable { what: format!("a grant of {coins} coins to {user}") });
        }
        let mut call = self.transaction("giving coins").await?;
        let mut tries = 1;
        let outcomes = loop {
            match give(&mut call, grants, now_ms).await {
                Ok(outcomes) => break outcomes,
                Err(error) if tries < TRIES_MAX && database::is_contention(&error) => {
                    tries += 1;
                    call.begin_again().await?;
                }
                Err(error) => return Err(error),
            }
        };
        call.commit().await?;
        Ok(outcomes)
    }
}

/// The name of a grant among the payments.
fn payment(grant: &Grant) -> String {
    format!("grant {} {} {}", grant.app, grant.user, grant.uuid)
}

async fn give(call: &mut Call, grants: &[Grant], now_ms: u64) -> Result<Vec<GrantOutcome>> {
    let payments: Vec<String> = grants.iter().map(payment).collect();
    let mut known = known(call, &payments).await?;
    let mut new = Vec::new();
    let mut conflicts = BTreeSet::new();
    for (grant, payment) in grants.iter().zip(&payments) {
        match known.get(payment.as_str()) {
            Some(coins) if *coins == grant.coins => {}
            Some(_) => drop(conflicts.insert(payment.as_str())),
            None => {
                known.insert(payment.clone(), grant.coins);
                new.push((grant, payment));
            }
        }
    }
    let accounts = grants.iter().flat_map(|grant| [Account::source(grant.app), Account::coins(grant.app, grant.user)]);
    // One that cannot be keeps the others from being given: the caller is to look at all of them.
    if conflicts.is_empty() && !new.is_empty() {
        let last = add_orders(call, &new, now_ms).await?;
        let mut books = Books::open(call, accounts.collect()).await?;
        for (id, (grant, _)) in (last..).zip(&new) {
            let (from, to) = (Account::source(grant.app), Account::coins(grant.app, grant.user));
            if !books.trade(Trade { kind: TradeKind::Recharge, reference: (id, 0), from, to, amount: grant.coins }) {
                return Err(RecordError::Unreadable {
                    what: format!("the coins of {} with this grant are more than there can be", grant.user),
                });
            }
        }
        books.write_balances(call).await?;
        books.write_entries(call, now_ms).await?;
        return Ok(grants.iter().map(|grant| given(&books, grant)).collect());
    }
    let books = Books::open(call, accounts.collect()).await?;
    let outcome = |(grant, payment): (&Grant, &String)| {
        if conflicts.contains(payment.as_str()) { GrantOutcome::Conflict } else { given(&books, grant) }
    };
    Ok(grants.iter().zip(&payments).map(outcome).collect())
}

fn given(books: &Books, grant: &Grant) -> GrantOutcome {
    GrantOutcome::Given { balance: books.balance(Account::coins(grant.app, grant.user)) }
}

/// Coins of those that were given before, by their names.
async fn known(call: &mut Call, payments: &[String]) -> Result<BTreeMap<String, i64>> {
    let mut known = BTreeMap::new();
    for chunk in payments.chunks(ORDERS_PER_STATEMENT) {
        let read =
            AssertSqlSafe(format!("SELECT CAST(payment AS CHAR), coins FROM t_recharge_order WHERE payment IN ({})", marks(chunk.len())));
        let params: Vec<Param<'_>> = chunk.iter().map(Param::from).collect();
        let rows: Vec<(String, i64)> = call.rows(read, &params).await?;
        known.extend(rows);
    }
    Ok(known)
}

/// Keeps orders that are paid already; the id of the first, from which they rise. Whoever takes the same ids meanwhile, or gives the same,
/// makes this one begin again.
async fn add_orders(call: &mut Call, grants: &[(&Grant, &String)], now_ms: u64) -> Result<i64> {
    const LEAST: &str = "SELECT COALESCE(MIN(id), 0) FROM t_recharge_order WHERE id < 0";
    let least: Option<(i64,)> = call.row(LEAST, &[]).await?;
    let count = i64::try_from(grants.len()).unwrap_or(i64::MAX);
    let first = least.map_or(0, |(least,)| least).saturating_sub(count);
    let mut id = first;
    for chunk in grants.chunks(ORDERS_PER_STATEMENT) {
        let put = rows_of(
            "INSERT INTO t_recharge_order \
             (id, app_id, user_id, product_id, coins, price_minor, currency, status, made_time, paid_time, payment) VALUES",
            "(?, ?, ?, ?, ?, ?, ?, 1, ?, ?, ?)",
            chunk.len(),
        );
        let mut params: Vec<Param<'_>> = Vec::with_capacity(10 * chunk.len());
        for (grant, payment) in chunk {
            let now = signed(now_ms);
            params.extend([id, i64::from(grant.app.0), grant.user.0, NO_PRODUCT, grant.coins, grant.coins].map(Param::from));
            params.extend([Param::from(CURRENCY), now.into(), now.into(), Param::from(*payment)]);
            id += 1;
        }
        call.claim(put, &params).await?;
    }
    Ok(first)
}
