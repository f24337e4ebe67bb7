//! The server's ledger, read and never written: its gifts, room by room, and the sums over all money.
//!
//! - Both databases read the same SQL, as the router's own. All of it is read in one transaction, so that a server that is still at work changes
//!   nothing between two looks.
//! - Rows come a page at a time.

use super::room::Row;
use crate::gifts::bar::Side;
use anyhow::{Context, Result, bail};
use sqlx::{
    ConnectOptions, Connection, Executor, MySqlConnection, Row as _, SqliteConnection, mysql::MySqlConnectOptions,
    sqlite::SqliteConnectOptions,
};
use std::{path::PathBuf, str::FromStr, time::Duration};
use tokio::{runtime, time::timeout};

/// Gifts read at once.
const PAGE: i64 = 5_000;
/// A sum over millions of entries takes seconds; a server that does not answer takes for ever.
const CALL_TIMEOUT: Duration = Duration::from_secs(120);
/// For a lock of a server that writes.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Where the ledger is.
#[derive(Clone, Debug)]
pub(crate) enum LedgerUrl {
    Sqlite(PathBuf),
    MySql(Box<MySqlConnectOptions>),
}

impl FromStr for LedgerUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("sqlite:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.is_empty() { Err("sqlite: must be followed by a path".to_owned()) } else { Ok(Self::Sqlite(path.into())) };
        }
        if text.starts_with("mysql://") || text.starts_with("mariadb://") {
            // The text has a password in it: it is in no error.
            return text.parse().map(Box::new).map(Self::MySql).map_err(|_| "not the URL of a database".to_owned());
        }
        Err("it must be sqlite:PATH or mysql://USER:PASSWORD@HOST/DATABASE".to_owned())
    }
}

/// Sums over the whole ledger. All but `gifts`, `accounts` and `total` count faults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sums {
    /// Gifts.
    pub(super) gifts: u64,
    /// Ids that a sender has more than one gift of.
    pub(super) repeated: u64,
    /// Gifts that are not debited with their price from their sender.
    pub(super) undebited: u64,
    /// The same of the credit.
    pub(super) uncredited: u64,
    /// Debits of no gift.
    pub(super) unrecorded: u64,
    /// Accounts.
    pub(super) accounts: u64,
    /// All balances together.
    pub(super) total: i64,
    /// Users below 0.
    pub(super) negative: u64,
    /// Balances that are not the sum of their entries.
    pub(super) off: u64,
    /// Entries of no account.
    pub(super) unknown: u64,
    /// Transactions that are not one debit and one credit of the same amount.
    pub(super) lopsided: u64,
}

const GIFTS: &str = "SELECT COUNT(*) FROM t_gift_record";
const REPEATED: &str =
    "SELECT COUNT(*) FROM (SELECT COUNT(*) AS times FROM t_gift_record GROUP BY app_id, sender_id, uuid HAVING COUNT(*) > 1) r";
const UNDEBITED: &str = "SELECT COUNT(*) FROM t_gift_record g LEFT JOIN t_account_trade t ON t.kind = 1 AND t.ref_a = g.room_id \
     AND t.ref_b = g.gift_seq AND t.side = 0 AND t.app_id = g.app_id AND t.account_kind = 1 AND t.user_id = g.sender_id \
     AND t.amount = -(g.price * g.num) WHERE t.amount IS NULL";
const UNCREDITED: &str = "SELECT COUNT(*) FROM t_gift_record g LEFT JOIN t_account_trade t ON t.kind = 1 AND t.ref_a = g.room_id \
     AND t.ref_b = g.gift_seq AND t.side = 1 AND t.app_id = g.app_id AND t.account_kind = 2 AND t.user_id = g.receiver_id \
     AND t.amount = g.price * g.num WHERE t.amount IS NULL";
const UNRECORDED: &str = "SELECT COUNT(*) FROM t_account_trade t LEFT JOIN t_gift_record g ON g.room_id = t.ref_a AND g.gift_seq = t.ref_b \
     WHERE t.kind = 1 AND t.side = 0 AND g.gift_seq IS NULL";
const ACCOUNTS: &str = "SELECT COUNT(*) FROM t_account";
const TOTAL: &str = "SELECT CAST(COALESCE(SUM(balance), 0) AS SIGNED) FROM t_account";
const NEGATIVE: &str = "SELECT COUNT(*) FROM t_account WHERE balance < 0 AND kind IN (1, 2)";
const OFF: &str = "SELECT COUNT(*) FROM t_account a LEFT JOIN (SELECT app_id, account_kind, user_id, SUM(amount) AS total \
     FROM t_account_trade GROUP BY app_id, account_kind, user_id) t ON t.app_id = a.app_id AND t.account_kind = a.kind \
     AND t.user_id = a.user_id WHERE a.balance <> COALESCE(t.total, 0)";
const UNKNOWN: &str = "SELECT COUNT(*) FROM (SELECT DISTINCT app_id, account_kind, user_id FROM t_account_trade) t LEFT JOIN t_account a \
     ON a.app_id = t.app_id AND a.kind = t.account_kind AND a.user_id = t.user_id WHERE a.balance IS NULL";
const LOPSIDED: &str = "SELECT COUNT(*) FROM (SELECT COUNT(*) AS entries FROM t_account_trade GROUP BY kind, ref_a, ref_b \
     HAVING COUNT(*) <> 2 OR SUM(amount) <> 0) l";
const PAGE_OF_ROOM: &str = "SELECT gift_seq, sender_id, receiver_id, gift_id, num, price, pk, uuid, combo FROM t_gift_record \
     WHERE room_id = ? AND gift_seq > ? ORDER BY gift_seq LIMIT ?";

/// A connection to the ledger, and the transaction that everything is read in.
pub(crate) struct Ledger {
    runtime: runtime::Runtime,
    connection: Link,
}

enum Link {
    Sqlite(SqliteConnection),
    MySql(Box<MySqlConnection>),
}

impl Ledger {
    /// Opens it.
    ///
    /// # Errors
    /// When it is not there, lets nobody in, or has no gifts: its server is older, or it is no ledger.
    pub(crate) fn open(url: &LedgerUrl) -> Result<Self> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
        let connection = runtime.block_on(in_time(connect(url)))?;
        let mut ledger = Self { runtime, connection };
        ledger.number(GIFTS).context("it has no table of gifts")?;
        Ok(ledger)
    }

    /// Sums over all of it.
    pub(super) fn sums(&mut self) -> Result<Sums> {
        Ok(Sums {
            gifts: self.count(GIFTS)?,
            repeated: self.count(REPEATED)?,
            undebited: self.count(UNDEBITED)?,
            uncredited: self.count(UNCREDITED)?,
            unrecorded: self.count(UNRECORDED)?,
            accounts: self.count(ACCOUNTS)?,
            total: self.number(TOTAL)?,
            negative: self.count(NEGATIVE)?,
            off: self.count(OFF)?,
            unknown: self.count(UNKNOWN)?,
            lopsided: self.count(LOPSIDED)?,
        })
    }

    fn count(&mut self, sql: &'static str) -> Result<u64> {
        Ok(self.number(sql)?.unsigned_abs())
    }

    fn number(&mut self, sql: &'static str) -> Result<i64> {
        let Self { runtime, connection } = self;
        let number = runtime.block_on(in_time(async {
            Ok(match connection {
                Link::Sqlite(link) => link.fetch_one(sql).await?.try_get_unchecked::<i64, _>(0)?,
                Link::MySql(link) => link.fetch_one(sql).await?.try_get_unchecked::<i64, _>(0)?,
            })
        }));
        number.with_context(|| format!("the ledger was asked: {sql}"))
    }

    /// Gifts of a room, in the order of their places.
    pub(super) fn gifts_of(&mut self, room_id: i64, each: &mut dyn FnMut(&Row)) -> Result<()> {
        let mut after = i64::MIN;
        loop {
            let page = self.page(room_id, after).with_context(|| format!("the gifts of room {room_id}"))?;
            let Some(last) = page.last() else { return Ok(()) };
            after = last.gift_seq;
            page.iter().for_each(&mut *each);
        }
    }

    fn page(&mut self, room_id: i64, after: i64) -> Result<Vec<Row>> {
        /// The same for the rows of either driver.
        macro_rules! rows {
            ($link:expr) => {{
                let rows = sqlx::query(PAGE_OF_ROOM).bind(room_id).bind(after).bind(PAGE).fetch_all($link).await?;
                let mut page = Vec::with_capacity(rows.len());
                for row in rows {
                    let mut numbers = [0; 7];
                    for (place, number) in numbers.iter_mut().enumerate() {
                        *number = row.try_get_unchecked::<i64, _>(place)?;
                    }
                    // What people choose is kept as text here, as bytes there.
                    let texts = [row.try_get_unchecked::<Vec<u8>, _>(7)?, row.try_get_unchecked::<Vec<u8>, _>(8)?];
                    page.push(row_of(numbers, texts)?);
                }
                page
            }};
        }
        let Self { runtime, connection } = self;
        runtime.block_on(in_time(async {
            Ok(match connection {
                Link::Sqlite(link) => rows!(&mut *link),
                Link::MySql(link) => rows!(&mut **link),
            })
        }))
    }
}

fn row_of(numbers: [i64; 7], texts: [Vec<u8>; 2]) -> Result<Row> {
    let [gift_seq, sender_id, receiver_id, gift_id, num, price, pk] = numbers;
    let [uuid, combo] = texts.map(|text| String::from_utf8_lossy(&text).into_owned());
    let side = match pk {
        0 => None,
        1 => Some(Side::Anchor),
        2 => Some(Side::Challenger),
        other => bail!("gift {gift_seq} is for side {other} of a PK"),
    };
    Ok(Row { gift_seq, sender_id, receiver_id, gift_id, num, price, side, uuid, combo })
}

async fn in_time<T>(call: impl Future<Output = Result<T>>) -> Result<T> {
    timeout(CALL_TIMEOUT, call).await.with_context(|| format!("no answer within {CALL_TIMEOUT:?}"))?
}

async fn connect(url: &LedgerUrl) -> Result<Link> {
    match url {
        LedgerUrl::Sqlite(path) => {
            let options = SqliteConnectOptions::new().filename(path).read_only(true).busy_timeout(BUSY_TIMEOUT).disable_statement_logging();
            let mut link = SqliteConnection::connect_with(&options).await?;
            link.execute("BEGIN").await?;
            Ok(Link::Sqlite(link))
        }
        LedgerUrl::MySql(options) => {
            let options = options.clone().disable_statement_logging();
            let mut link = MySqlConnection::connect_with(&options).await?;
            link.execute("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ").await?;
            link.execute("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY").await?;
            Ok(Link::MySql(Box::new(link)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::LedgerUrl;
    use std::path::Path;

    #[test]
    fn a_ledger_is_a_file_or_a_server_and_nothing_else() {
        for (text, expected) in [("sqlite:data/b.db", "data/b.db"), ("sqlite:///x/b.db", "/x/b.db"), ("sqlite:/x/b.db", "/x/b.db")] {
            let LedgerUrl::Sqlite(path) = text.parse().expect(text) else { panic!("{text} is a file") };
            assert_eq!(path, Path::new(expected));
        }
        assert!(matches!("mysql://root@127.0.0.1:3306/billfish".parse(), Ok(LedgerUrl::MySql(_))));
        for odd in ["", "sqlite:", "data/b.db", "postgres://x/y", "redis://x"] {
            odd.parse::<LedgerUrl>().expect_err(odd);
        }
        let error = "mysql://root:secret@:x/".parse::<LedgerUrl>().expect_err("no host and no port");
        assert!(!error.contains("secret"), "{error}");
    }
}
