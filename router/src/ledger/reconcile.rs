//! A look over all the money: whether every sum adds up.
//!
//! - All of it is read as it was at one moment, in a snapshot, so gifts that are paid meanwhile neither wait nor look like errors. It is
//!   read in chunks, each with a time-out of its own.
//! - Memory is bounded: entries are summed by the database, for so many accounts a pass.
//! - It changes nothing. What does not add up is told, never put right.

use super::{
    Ledger,
    accounts::{AccountKind, TradeKind},
    database::{Call, Columns, Param, params},
    signed,
};
use crate::services::ports::{
    RecordError, Result,
    money::{Finding, Reconciliation},
};
use sqlx::AssertSqlSafe;
use std::{collections::BTreeMap, time::Duration};
use tokio::time::Instant;

/// What can be found, as labels.
pub(super) const KINDS: [&str; 7] = [NOT_ZERO, BALANCE, NO_ACCOUNT, GIFT_ENTRIES, GIFT_HOLE, ORDER_ENTRIES, UNTOLD];
/// The accounts of an app do not add up to 0.
const NOT_ZERO: &str = "not_zero";
/// The entries of an account do not add up to its balance, or that is below 0.
const BALANCE: &str = "balance";
/// Entries of accounts that are not there.
const NO_ACCOUNT: &str = "no_account";
/// A gift without its two entries, or entries without their gift.
const GIFT_ENTRIES: &str = "gift_entries";
/// A room's gifts do not count 1, 2, 3 ...
const GIFT_HOLE: &str = "gift_hole";
/// An order whose entries are not what its state says, or entries without their order.
const ORDER_ENTRIES: &str = "order_entries";
/// A room that has not been told of its gifts.
const UNTOLD: &str = "untold";

/// Findings in one look: by then somebody reads the tables.
const FINDINGS_MAX: usize = 100;
/// Rows in one statement: tens of milliseconds. Tests have few rows, and are to cross every border.
const CHUNK_ROWS: i64 = if cfg!(test) { 7 } else { 20_000 };
/// Accounts whose entries are summed in one pass over the entries: some megabytes.
const PASS_ACCOUNTS: usize = if cfg!(test) { 3 } else { 50_000 };
/// For one chunk, also on a server that has much else to do.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(10);
/// For the whole: a snapshot that stands for longer keeps too much of the past on the disk.
const LOOK_TIMEOUT: Duration = Duration::from_secs(600);

pub(super) async fn look(ledger: &Ledger, before_ms: u64) -> Result<Reconciliation> {
    let what = "reconciling";
    let call = ledger.guarded(what)?.snapshot(what, ledger.call_timeout).await?;
    let mut look = Look { call, ends_at: Instant::now() + LOOK_TIMEOUT, found: Reconciliation::default() };
    let gift_entries = look.ranges(&GIFT_TRADES).await?;
    let recharge_entries = look.ranges(&RECHARGE_TRADES).await?;
    look.accounts(&[(TradeKind::Gift, gift_entries), (TradeKind::Recharge, recharge_entries)]).await?;
    look.gifts().await?;
    look.orders().await?;
    look.outbox(before_ms).await?;
    // It has changed nothing.
    look.call.commit().await?;
    Ok(look.found)
}

struct Look {
    call: Call,
    ends_at: Instant,
    found: Reconciliation,
}

/// What is read in chunks: rows by a key of two numbers.
struct Rows {
    table: &'static str,
    /// A further condition.
    which: &'static str,
    major: &'static str,
    minor: &'static str,
}

const GIFT_TRADES: Rows = Rows { table: "t_account_trade", which: "kind = 1", major: "ref_a", minor: "ref_b" };
const RECHARGE_TRADES: Rows = Rows { table: "t_account_trade", which: "kind = 2", major: "ref_a", minor: "ref_b" };
const GIFTS: Rows = Rows { table: "t_gift_record", which: "1 = 1", major: "room_id", minor: "gift_seq" };
const ORDERS: Rows = Rows { table: "t_recharge_order", which: "1 = 1", major: "id", minor: "id" };

/// Some of those rows. The ranges of a table lie side by side and cover every key there can be.
#[derive(Clone, Copy, Debug)]
enum Range {
    /// All rows whose first number is above `after`, up to `to`.
    Majors { after: i64, to: i64 },
    /// Rows with one first number, whose second is above `after`, up to `to`.
    Minors { major: i64, after: i64, to: i64 },
}

impl Range {
    /// The condition for two columns, and its parameters.
    fn within(&self, major: &str, minor: &str) -> (String, Vec<Param<'static>>) {
        match *self {
            Self::Majors { after, to } => (format!("{major} > ? AND {major} <= ?"), vec![after.into(), to.into()]),
            Self::Minors { major: one, after, to } => {
                (format!("{major} = ? AND {minor} > ? AND {minor} <= ?"), vec![one.into(), after.into(), to.into()])
            }
        }
    }

    /// What lies before its first row, where rows are counted from 1.
    const fn counted_before(&self) -> i64 {
        match *self {
            Self::Majors { .. } => 0,
            Self::Minors { after, .. } => {
                if after > 0 {
                    after
                } else {
                    0
                }
            }
        }
    }
}

impl Look {
    fn find(&mut self, kind: &'static str, what: String) {
        if self.found.findings.len() < FINDINGS_MAX {
            self.found.findings.push(Finding { kind, what });
        }
    }

    fn looked_at(&mut self, rows: i64) {
        self.found.rows = self.found.rows.saturating_add(rows.unsigned_abs());
    }

    async fn rows<T: Columns>(&mut self, sql: String, params: &[Param<'_>]) -> Result<Vec<T>> {
        if Instant::now() >= self.ends_at {
            return Err(RecordError::Away { what: "reconciling", cause: "there is more than can be read in ten minutes".into() });
        }
        self.call.extend(CHUNK_TIMEOUT);
        self.call.rows(AssertSqlSafe(sql), params).await
    }

    async fn number(&mut self, sql: String, params: &[Param<'_>]) -> Result<Option<i64>> {
        let rows: Vec<(Option<i64>,)> = self.rows(sql, params).await?;
        Ok(rows.into_iter().next().and_then(|(number,)| number))
    }

    /// Cuts a table into ranges of about [`CHUNK_ROWS`] rows. Whole rooms or orders where they are small, for most are.
    async fn ranges(&mut self, rows: &Rows) -> Result<Vec<Range>> {
        let Rows { table, which, major, minor } = rows;
        let mut ranges = Vec::new();
        let mut after = i64::MIN;
        loop {
            let further = format!("SELECT {major} FROM {table} WHERE {which} AND {major} > ? ORDER BY {major} LIMIT 1 OFFSET ?");
            let Some(further) = self.number(further, &[after.into(), CHUNK_ROWS.into()]).await? else {
                ranges.push(Range::Majors { after, to: i64::MAX });
                return Ok(ranges);
            };
            let first = format!("SELECT MIN({major}) FROM {table} WHERE {which} AND {major} > ?");
            let first = self.number(first, &[after.into()]).await?.unwrap_or(further);
            if first < further {
                ranges.push(Range::Majors { after, to: further - 1 });
                after = further - 1;
                continue;
            }
            // One that is larger than a chunk. What lies before it holds no row.
            let last = format!("SELECT MAX({minor}) FROM {table} WHERE {which} AND {major} = ?");
            let last = self.number(last, &[first.into()]).await?.unwrap_or(0);
            let (mut from, mut to) = (i64::MIN, CHUNK_ROWS);
            while to < last {
                ranges.push(Range::Minors { major: first, after: from, to });
                (from, to) = (to, to.saturating_add(CHUNK_ROWS));
            }
            ranges.push(Range::Minors { major: first, after: from, to: i64::MAX });
            after = first;
        }
    }

    /// Every balance is the sum of its entries, and all of an app are 0 together.
    async fn accounts(&mut self, entries: &[(TradeKind, Vec<Range>)]) -> Result<()> {
        let mut of_accounts = 0;
        let mut app = None;
        while let Some(next) = self.next_app(app).await? {
            app = Some(next);
            let mut sum: i128 = 0;
            for kind in AccountKind::ALL {
                let mut after = i64::MIN;
                loop {
                    let balances = self.balances(next, kind, after).await?;
                    let Some(last) = balances.keys().next_back().copied() else { break };
                    sum += balances.values().map(|balance| i128::from(*balance)).sum::<i128>();
                    of_accounts += self.compare(next, kind, (after, last), balances, entries).await?;
                    after = last;
                }
            }
            if sum != 0 {
                self.find(NOT_ZERO, format!("the accounts of app {next} add up to {sum}"));
            }
        }
        let mut all = 0;
        for (kind, ranges) in entries {
            for range in ranges {
                let (within, params) = range.within("ref_a", "ref_b");
                let count = format!("SELECT COUNT(*) FROM t_account_trade WHERE kind = {} AND {within}", kind.number());
                all += self.number(count, &params).await?.unwrap_or(0);
            }
        }
        if all != of_accounts {
            self.find(NO_ACCOUNT, format!("{} of {all} entries are of accounts that are not there", all - of_accounts));
        }
        Ok(())
    }

    async fn next_app(&mut self, after: Option<i64>) -> Result<Option<i64>> {
        // INTEGER in MySQL, and a BIGINT by this.
        let next = "SELECT CAST(MIN(app_id) AS SIGNED INTEGER) FROM t_account WHERE app_id > ?".to_owned();
        self.number(next, &[after.unwrap_or(i64::MIN).into()]).await
    }

    /// The next accounts of one kind, by user, as many as one pass takes.
    async fn balances(&mut self, app: i64, kind: AccountKind, after: i64) -> Result<BTreeMap<i64, i64>> {
        let mut balances = BTreeMap::new();
        let mut after = after;
        while balances.len() < PASS_ACCOUNTS {
            let next =
                "SELECT user_id, balance FROM t_account WHERE app_id = ? AND kind = ? AND user_id > ? ORDER BY user_id LIMIT ?".to_owned();
            let rows: Vec<(i64, i64)> = self.rows(next, params![app, kind.number(), after, CHUNK_ROWS]).await?;
            let Some((last, _)) = rows.last() else { break };
            after = *last;
            balances.extend(rows);
        }
        Ok(balances)
    }

    /// Sums the entries of accounts; how many entries that were.
    async fn compare(
        &mut self,
        app: i64,
        kind: AccountKind,
        (after, last): (i64, i64),
        mut balances: BTreeMap<i64, i64>,
        entries: &[(TradeKind, Vec<Range>)],
    ) -> Result<i64> {
        self.looked_at(i64::try_from(balances.len()).unwrap_or(i64::MAX));
        if kind != AccountKind::Source {
            for (user, balance) in balances.iter().filter(|(_, balance)| **balance < 0) {
                self.find(BALANCE, format!("user {user} of app {app} has {balance} ({kind:?})"));
            }
        }
        let mut count = 0;
        for (trade, ranges) in entries {
            for range in ranges {
                let (within, mut params) = range.within("ref_a", "ref_b");
                let sums = format!(
                    "SELECT user_id, CAST(SUM(amount) AS SIGNED INTEGER), COUNT(*) FROM t_account_trade WHERE kind = {} AND {within} \
                     AND app_id = ? AND account_kind = ? AND user_id > ? AND user_id <= ? GROUP BY user_id",
                    trade.number()
                );
                params.extend([app, kind.number(), after, last].map(Param::from));
                let rows: Vec<(i64, i64, i64)> = self.rows(sums, &params).await?;
                for (user, sum, entries) in rows {
                    // One that has no account is not counted, and missed at the end.
                    if let Some(left) = balances.get_mut(&user) {
                        *left = left.wrapping_sub(sum);
                        count += entries;
                    }
                }
            }
        }
        for (user, left) in balances.into_iter().filter(|(_, left)| *left != 0) {
            self.find(BALANCE, format!("user {user} of app {app} has {left} more than the entries say ({kind:?})"));
        }
        Ok(count)
    }

    /// Every gift has its two entries, every room counts its gifts without a hole.
    async fn gifts(&mut self) -> Result<()> {
        for range in self.ranges(&GIFTS).await? {
            let (within, params) = range.within("g.room_id", "g.gift_seq");
            let without = format!(
                "SELECT g.room_id, g.gift_seq FROM t_gift_record g \
                 LEFT JOIN t_account_trade d ON d.kind = 1 AND d.ref_a = g.room_id AND d.ref_b = g.gift_seq AND d.side = 0 \
                 AND d.app_id = g.app_id AND d.account_kind = 1 AND d.user_id = g.sender_id AND d.amount = -(g.price * g.num) \
                 LEFT JOIN t_account_trade c ON c.kind = 1 AND c.ref_a = g.room_id AND c.ref_b = g.gift_seq AND c.side = 1 \
                 AND c.app_id = g.app_id AND c.account_kind = 2 AND c.user_id = g.receiver_id AND c.amount = g.price * g.num \
                 WHERE {within} AND (d.kind IS NULL OR c.kind IS NULL) LIMIT {FINDINGS_MAX}"
            );
            let rows: Vec<(i64, i64)> = self.rows(without, &params).await?;
            for (room, seq) in rows {
                self.find(GIFT_ENTRIES, format!("gift {seq} of room {room} has not its two entries"));
            }
            let (within, params) = range.within("room_id", "gift_seq");
            let gifts = self.number(format!("SELECT COUNT(*) FROM t_gift_record WHERE {within}"), &params).await?.unwrap_or(0);
            self.looked_at(gifts);
            let holes = format!(
                "SELECT room_id, MIN(gift_seq), MAX(gift_seq), COUNT(*) FROM t_gift_record WHERE {within} GROUP BY room_id \
                 HAVING MIN(gift_seq) <> {before} + 1 OR MAX(gift_seq) - {before} <> COUNT(*) LIMIT {FINDINGS_MAX}",
                before = range.counted_before()
            );
            let rows: Vec<(i64, i64, i64, i64)> = self.rows(holes, &params).await?;
            for (room, first, last, count) in rows {
                self.find(GIFT_HOLE, format!("room {room} has {count} gifts from {first} to {last}, behind {}", range.counted_before()));
            }
            let (within, params) = range.within("ref_a", "ref_b");
            let entries = format!("SELECT COUNT(*) FROM t_account_trade WHERE kind = 1 AND {within}");
            let entries = self.number(entries, &params).await?.unwrap_or(0);
            if entries != 2 * gifts {
                self.find(GIFT_ENTRIES, format!("{gifts} gifts have {entries} entries, {range:?}"));
            }
        }
        Ok(())
    }

    /// Every order that is paid has its two entries, and no other has any.
    async fn orders(&mut self) -> Result<()> {
        for range in self.ranges(&ORDERS).await? {
            let (within, params) = range.within("o.id", "o.id");
            let without = format!(
                "SELECT o.id FROM t_recharge_order o \
                 LEFT JOIN t_account_trade d ON d.kind = 2 AND d.ref_a = o.id AND d.ref_b = 0 AND d.side = 0 \
                 AND d.app_id = o.app_id AND d.account_kind = 4 AND d.user_id = 0 AND d.amount = -o.coins \
                 LEFT JOIN t_account_trade c ON c.kind = 2 AND c.ref_a = o.id AND c.ref_b = 0 AND c.side = 1 \
                 AND c.app_id = o.app_id AND c.account_kind = 1 AND c.user_id = o.user_id AND c.amount = o.coins \
                 WHERE {within} AND o.status = 1 AND (d.kind IS NULL OR c.kind IS NULL) LIMIT {FINDINGS_MAX}"
            );
            let rows: Vec<(i64,)> = self.rows(without, &params).await?;
            for (order,) in rows {
                self.find(ORDER_ENTRIES, format!("order {order} is paid and has not its two entries"));
            }
            let (within, params) = range.within("id", "id");
            let orders = self.number(format!("SELECT COUNT(*) FROM t_recharge_order WHERE {within}"), &params).await?.unwrap_or(0);
            self.looked_at(orders);
            let paid = format!("SELECT COUNT(*) FROM t_recharge_order WHERE {within} AND status = 1");
            let paid = self.number(paid, &params).await?.unwrap_or(0);
            let (within, params) = range.within("ref_a", "ref_b");
            let entries = format!("SELECT COUNT(*) FROM t_account_trade WHERE kind = 2 AND {within}");
            let entries = self.number(entries, &params).await?.unwrap_or(0);
            if entries != 2 * paid {
                self.find(ORDER_ENTRIES, format!("{paid} paid orders have {entries} entries, {range:?}"));
            }
        }
        Ok(())
    }

    async fn outbox(&mut self, before_ms: u64) -> Result<()> {
        let waiting = format!(
            "SELECT room_id, MIN(since_time), COUNT(*) FROM t_outbox WHERE since_time < ? GROUP BY room_id ORDER BY MIN(since_time), room_id \
             LIMIT {FINDINGS_MAX}"
        );
        let rows: Vec<(i64, i64, i64)> = self.rows(waiting, params![signed(before_ms)]).await?;
        for (room, since, count) in rows {
            self.find(UNTOLD, format!("room {room} has not been told of {count} gifts, the first since {since}"));
        }
        Ok(())
    }
}
