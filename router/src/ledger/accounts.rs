//! Accounts, and what moves between them: locked and read, changed in memory, written at once.
//!
//! - Whatever moves is taken from one account and given to another: two entries under one key, so nothing comes from nowhere.
//! - No account goes below 0 but those that stand for the world outside; no sum wraps.
//! - On a server accounts are locked in the order of their keys, behind all else that a transaction locks: none can wait in a circle.
//!
//! What is not written by [`Books::write_balances`] and [`Books::write_entries`] in the same transaction has not happened.

use super::{
    database::{Call, Param},
    signed,
    statements::{BY_KEY, LOCKED, marks, padded, rows_of},
};
use crate::{
    bug::{self, Bug},
    services::ports::Result,
};
use billfish_state::{AppId, UserId};
use sqlx::AssertSqlSafe;
use std::collections::{BTreeMap, BTreeSet};

/// What an account holds: `kind` of `t_account`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum AccountKind {
    /// What a user can spend.
    Coins = 1,
    /// What a user was given.
    Beans = 2,
    /// Where coins come from: below zero by all that was recharged.
    Source = 4,
}

impl AccountKind {
    /// Every kind.
    pub(super) const ALL: [Self; 3] = [Self::Coins, Self::Beans, Self::Source];

    pub(super) const fn number(self) -> i64 {
        self as i64
    }
}

/// An account, in the order of the table's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Account {
    pub(super) app: AppId,
    pub(super) kind: AccountKind,
    pub(super) user: UserId,
}

impl Account {
    pub(super) const fn coins(app: AppId, user: UserId) -> Self {
        Self { app, kind: AccountKind::Coins, user }
    }

    pub(super) const fn beans(app: AppId, user: UserId) -> Self {
        Self { app, kind: AccountKind::Beans, user }
    }

    pub(super) const fn source(app: AppId) -> Self {
        Self { app, kind: AccountKind::Source, user: UserId(0) }
    }
}

/// What moves money: `kind` of `t_account_trade`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum TradeKind {
    /// Of a room and its `gift_seq`.
    Gift = 1,
    /// Of an order and 0.
    Recharge = 2,
}

impl TradeKind {
    pub(super) const fn number(self) -> i64 {
        self as i64
    }
}

/// Money that moves, once for ever by its kind and reference.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trade {
    pub(super) kind: TradeKind,
    pub(super) reference: (i64, i64),
    pub(super) from: Account,
    pub(super) to: Account,
    /// At least 1.
    pub(super) amount: i64,
}

/// Accounts of one transaction.
#[derive(Debug, Default)]
pub(super) struct Books {
    accounts: BTreeMap<Account, Page>,
    trades: Vec<Trade>,
}

#[derive(Debug, Default)]
struct Page {
    balance: i64,
    has_row: bool,
    is_changed: bool,
}

/// Accounts in one statement.
const ACCOUNTS_PER_STATEMENT: usize = 256;
/// Moves in one statement: two rows of nine parameters each, of which SQLite takes 32,766.
const TRADES_PER_STATEMENT: usize = 256;

impl Books {
    /// Reads accounts, which nobody else changes until the transaction ends. One that is not there has nothing.
    pub(super) async fn open(call: &mut Call, accounts: BTreeSet<Account>) -> Result<Self> {
        let mut books = Self::default();
        let mut wanted: BTreeMap<(AppId, AccountKind), Vec<UserId>> = BTreeMap::new();
        for Account { app, kind, user } in accounts {
            wanted.entry((app, kind)).or_default().push(user);
        }
        for ((app, kind), users) in wanted {
            for users in users.chunks(ACCOUNTS_PER_STATEMENT) {
                let users = padded(users.to_vec());
                let read = AssertSqlSafe(format!(
                    "SELECT user_id, balance FROM t_account {BY_KEY} WHERE app_id = ? AND kind = ? AND user_id IN ({}) ORDER BY user_id {LOCKED}",
                    marks(users.len())
                ));
                let mut params = vec![Param::from(app.0), kind.number().into()];
                params.extend(users.iter().map(|user| Param::from(user.0)));
                let rows: Vec<(i64, i64)> = call.rows(read, &params).await?;
                books.accounts.extend(users.iter().map(|user| (Account { app, kind, user: *user }, Page::default())));
                for (user, balance) in rows {
                    let page = Page { balance, has_row: true, is_changed: false };
                    books.accounts.insert(Account { app, kind, user: UserId(user) }, page);
                }
            }
        }
        Ok(books)
    }

    /// What an account has now, the moves of this transaction included.
    pub(super) fn balance(&self, account: Account) -> i64 {
        self.accounts.get(&account).map_or(0, |page| page.balance)
    }

    /// Moves money between two of the accounts; `false`, and nothing moved, where it is not covered, or would be more than an account holds.
    pub(super) fn trade(&mut self, trade: Trade) -> bool {
        let Trade { from, to, amount, .. } = trade;
        let left = self.balance(from).checked_sub(amount).filter(|left| *left >= 0 || from.kind == AccountKind::Source);
        let (Some(left), Some(sum)) = (left, self.balance(to).checked_add(amount)) else { return false };
        if amount < 1 || from == to {
            return false;
        }
        for (account, balance) in [(from, left), (to, sum)] {
            let page = self.accounts.entry(account).or_default();
            page.balance = balance;
            page.is_changed = true;
        }
        self.trades.push(trade);
        true
    }

    /// Whether there is anything to write.
    pub(super) fn has_traded(&self) -> bool {
        !self.trades.is_empty()
    }

    /// Writes every account that has changed, once. Rows that are there are locked, so what is written is what was read and what has moved.
    /// Those that are new belong to whoever makes them first.
    pub(super) async fn write_balances(&self, call: &mut Call) -> Result<()> {
        const ROW: &str = "(?, ?, ?, ?)";
        let changed = |has_row: bool| -> Vec<(&Account, i64)> {
            let pages = self.accounts.iter().filter(|(_, page)| page.is_changed && page.has_row == has_row);
            pages.map(|(account, page)| (account, page.balance + made(account))).collect()
        };
        for chunk in changed(true).chunks(ACCOUNTS_PER_STATEMENT) {
            let chunk = padded(chunk.to_vec());
            let put = rows_of("REPLACE INTO t_account (app_id, kind, user_id, balance) VALUES", ROW, chunk.len());
            call.execute(put, &balance_params(&chunk)).await?;
        }
        for chunk in changed(false).chunks(ACCOUNTS_PER_STATEMENT) {
            let put = rows_of("INSERT INTO t_account (app_id, kind, user_id, balance) VALUES", ROW, chunk.len());
            call.claim(put, &balance_params(chunk)).await?;
        }
        Ok(())
    }

    /// Writes two entries for each move. A move that is there already fails, and with it the transaction.
    pub(super) async fn write_entries(&self, call: &mut Call, now_ms: u64) -> Result<()> {
        const PUT: &str =
            "INSERT INTO t_account_trade (kind, ref_a, ref_b, side, app_id, account_kind, user_id, amount, trade_time) VALUES";
        const TAKEN: i64 = 0;
        const GIVEN: i64 = 1;
        for chunk in self.trades.chunks(TRADES_PER_STATEMENT) {
            let put = rows_of(PUT, "(?, ?, ?, ?, ?, ?, ?, ?, ?)", 2 * chunk.len());
            let mut params: Vec<Param<'_>> = Vec::with_capacity(18 * chunk.len());
            for Trade { kind, reference, from, to, amount } in chunk {
                for (side, account, amount) in [(TAKEN, from, -amount), (GIVEN, to, *amount)] {
                    let Account { app, kind: account_kind, user } = account;
                    let key = [kind.number(), reference.0, reference.1, side].map(Param::from);
                    params.extend(key);
                    let rest = [i64::from(app.0), account_kind.number(), user.0, amount, signed(now_ms)].map(Param::from);
                    params.extend(rest);
                }
            }
            call.execute(put, &params).await?;
        }
        Ok(())
    }
}

/// Nothing, but for [`Bug::MakeMoney`].
fn made(account: &Account) -> i64 {
    i64::from(bug::is_on(Bug::MakeMoney) && account.kind == AccountKind::Beans)
}

fn balance_params<'a>(accounts: &[(&Account, i64)]) -> Vec<Param<'a>> {
    let row =
        |(account, balance): &(&Account, i64)| [i64::from(account.app.0), account.kind.number(), account.user.0, *balance].map(Param::from);
    accounts.iter().flat_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::{Account, Books, Page, Trade, TradeKind};
    use billfish_state::{AppId, UserId};

    const APP: AppId = AppId(10_001);
    const ANN: Account = Account::coins(APP, UserId(1));
    const BEN: Account = Account::beans(APP, UserId(2));

    fn trade(from: Account, to: Account, amount: i64) -> Trade {
        Trade { kind: TradeKind::Gift, reference: (1, 1), from, to, amount }
    }

    fn books(of: &[(Account, i64)]) -> Books {
        let page = |balance| Page { balance, has_row: true, is_changed: false };
        Books { accounts: of.iter().map(|(account, balance)| (*account, page(*balance))).collect(), trades: Vec::new() }
    }

    #[test]
    fn what_is_not_covered_or_no_amount_does_not_move() {
        let mut books = books(&[(ANN, 10)]);
        for amount in [11, 0, -1, i64::MIN, i64::MAX] {
            assert!(!books.trade(trade(ANN, BEN, amount)), "{amount}");
        }
        assert!(!books.trade(trade(ANN, ANN, 1)), "to itself");
        assert!(!books.has_traded() && books.balance(ANN) == 10 && books.balance(BEN) == 0);
        assert!(books.trade(trade(ANN, BEN, 10)));
        assert_eq!((books.balance(ANN), books.balance(BEN)), (0, 10));
    }

    #[test]
    fn a_sum_does_not_wrap() {
        let mut books = books(&[(ANN, i64::MAX), (BEN, 1), (Account::source(APP), i64::MIN + 1)]);
        assert!(!books.trade(trade(ANN, BEN, i64::MAX)));
        assert!(books.trade(trade(ANN, BEN, i64::MAX - 1)));
        assert!(books.trade(trade(Account::source(APP), ANN, 1)), "the world outside may owe");
        assert!(!books.trade(trade(Account::source(APP), ANN, 1)), "but not more than can be counted");
        assert_eq!(books.balance(BEN), i64::MAX);
    }
}
