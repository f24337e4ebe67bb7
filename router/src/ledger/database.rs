//! The two databases behind one face: connections, time-outs, and what a failed call leaves behind.
//!
//! - A [`Call`] has one connection and one deadline, the wait for the connection included. What has no answer by then is told to be away.
//! - A call that is not finished (it failed, was late, or its caller went) closes its connection: the database rolls back what was begun, and
//!   no later call finds the rest of it. So one broken connection costs one call.
//! - A server that does not let anybody in is asked by one call at a time for a while; the others hear at once that it is away.
//!
//! No statement of a service here.

use super::away;
use crate::services::ports::{RecordError, Result};
use sqlx::{
    AssertSqlSafe, Database as Driver, Executor, FromRow, MySql, MySqlPool, Pool, SqlSafeStr, Sqlite, SqlitePool,
    mysql::{MySqlDatabaseError, MySqlRow},
    pool::PoolConnection,
    sqlite::SqliteRow,
};
use std::{
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::{Instant, timeout, timeout_at};

/// How long a server that let nobody in is not asked again. Long enough to spare the callers, short against the time a restart takes.
const SHUT_FOR: Duration = Duration::from_millis(500);
/// How long a connection has for going back to its pool: a round trip. Later it is given up, for the pool would wait for it for ever.
const RETURN_TIMEOUT: Duration = Duration::from_secs(2);
/// InnoDB chose this transaction to end a deadlock, and has undone it.
const DEADLOCK: u16 = 1213;
/// InnoDB has waited long enough for another transaction's lock.
const LOCK_TIMEOUT: u16 = 1205;
/// A statement with more parameters is not kept prepared: it is about many rows, the next one like it about another number of them, and
/// prepared it takes up to 300 KiB. One with fewer is: the entries of a gift have 18.
const KEPT_PARAMS_MAX: usize = 18;
/// Prepared statements that a connection keeps: all there are, with each number of rows that fits. Should it forget one, a server would be
/// told, and the next statement wait for the server's delayed acknowledgement of that, 40 ms: the driver leaves Nagle's algorithm on.
pub(super) const KEPT_STATEMENTS: usize = 256;

/// Connections to the records.
#[derive(Clone, Debug)]
pub(super) enum Database {
    /// A file. Writers wait for the one connection, and only those of other processes for a lock.
    Sqlite { writer: SqlitePool, readers: SqlitePool },
    /// A server.
    MySql { pool: MySqlPool, door: Arc<Door> },
}

/// One use of the records.
pub(super) struct Call {
    what: &'static str,
    deadline: Instant,
    /// `None` once the call is finished.
    connection: Option<Connection>,
}

enum Connection {
    Sqlite(PoolConnection<Sqlite>),
    MySql(PoolConnection<MySql>),
}

/// What stands for a `?`.
pub(super) enum Param<'a> {
    Number(i64),
    Text(&'a str),
}

/// What a statement did.
pub(super) struct Done {
    /// Rows that were found to be changed, or made.
    pub(super) rows: u64,
    /// Id of the row that was made.
    pub(super) id: i64,
}

/// The columns of a row, from either database.
pub(super) trait Columns: for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, MySqlRow> + Send + Unpin {}

impl<T> Columns for T where T: for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, MySqlRow> + Send + Unpin {}

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("no answer in time")]
    Late,
    #[error("no connection in time")]
    NoConnection,
    #[error("it let nobody in a moment ago")]
    Shut,
    #[error("another transaction was faster, at every try")]
    Overtaken,
    #[error(transparent)]
    Refused(#[from] sqlx::Error),
}

impl From<i64> for Param<'_> {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<i32> for Param<'_> {
    fn from(number: i32) -> Self {
        Self::Number(number.into())
    }
}

impl<'a> From<&'a str> for Param<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text)
    }
}

impl<'a> From<&'a String> for Param<'a> {
    fn from(text: &'a String) -> Self {
        Self::Text(text)
    }
}

/// The parameters of a statement.
macro_rules! params {
    ($($value:expr),* $(,)?) => { &[$($crate::ledger::database::Param::from($value)),*] };
}
pub(super) use params;

/// A statement with its parameters, for either driver.
macro_rules! bound {
    ($query:expr, $params:expr) => {
        $params.iter().fold($query, |query, param| match param {
            Param::Number(number) => query.bind(*number),
            Param::Text(text) => query.bind(*text),
        })
    };
}

impl Database {
    /// A call that only reads.
    pub(super) async fn read(&self, what: &'static str, limit: Duration) -> Result<Call> {
        self.call(what, limit, false).await
    }

    /// A call of one statement that writes: it is its own transaction.
    pub(super) async fn write(&self, what: &'static str, limit: Duration) -> Result<Call> {
        self.call(what, limit, true).await
    }

    /// A transaction that writes.
    pub(super) async fn transaction(&self, what: &'static str, limit: Duration) -> Result<Call> {
        let mut call = self.call(what, limit, true).await?;
        call.begin().await?;
        Ok(call)
    }

    /// A transaction that reads, and sees the records as they were at its beginning. Nobody waits for it.
    pub(super) async fn snapshot(&self, what: &'static str, limit: Duration) -> Result<Call> {
        let mut call = self.call(what, limit, false).await?;
        if call.is_on_server() {
            call.plain("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ").await?;
            call.plain("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY").await?;
        } else {
            // As they were at its first statement.
            call.plain("BEGIN").await?;
        }
        Ok(call)
    }

    async fn call(&self, what: &'static str, limit: Duration, writes: bool) -> Result<Call> {
        let deadline = Instant::now() + limit;
        let connection = match self {
            Self::Sqlite { writer, readers } => acquire(if writes { writer } else { readers }, deadline).await.map(Connection::Sqlite),
            Self::MySql { pool, door } => door.pass(limit, acquire(pool, deadline)).await.map(Connection::MySql),
        };
        Ok(Call { what, deadline, connection: Some(connection.map_err(away(what))?) })
    }

    /// Ends every connection when its call has ended. Calls after it fail.
    pub(super) async fn close(&self) {
        match self {
            Self::Sqlite { writer, readers } => {
                readers.close().await;
                // Last, so that the closing of the last connection folds the write-ahead log into the file.
                writer.close().await;
            }
            Self::MySql { pool, .. } => pool.close().await,
        }
    }
}

async fn acquire<D: Driver>(pool: &Pool<D>, deadline: Instant) -> std::result::Result<PoolConnection<D>, Failure> {
    match timeout_at(deadline, pool.acquire()).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(sqlx::Error::PoolTimedOut)) | Err(_) => Err(Failure::NoConnection),
        Ok(Err(error)) => Err(Failure::Refused(error)),
    }
}

impl Call {
    /// Whether the records are on a server, whose transactions lock rows, rather than in a file, where one transaction writes at a time.
    pub(super) const fn is_on_server(&self) -> bool {
        matches!(self.connection, Some(Connection::MySql(_)))
    }

    async fn begin(&mut self) -> Result<()> {
        // SQLite gives the write lock now, so that no statement finds the file changed since the first. MySQL locks row by row.
        let begin = if self.is_on_server() { "START TRANSACTION" } else { "BEGIN IMMEDIATE" };
        self.plain(begin).await
    }

    /// Begins a transaction anew: what it has done is undone.
    pub(super) async fn begin_again(&mut self) -> Result<()> {
        self.plain("ROLLBACK").await?;
        self.begin().await
    }

    /// Gives it so much time from now on, whatever it had.
    pub(super) fn extend(&mut self, limit: Duration) {
        self.deadline = Instant::now() + limit;
    }

    /// The rows that a statement finds.
    pub(super) async fn rows<T: Columns>(&mut self, sql: impl SqlSafeStr, params: &[Param<'_>]) -> Result<Vec<T>> {
        let what = self.what;
        let (sql, is_kept) = (sql.into_sql_str(), params.len() <= KEPT_PARAMS_MAX);
        self.in_time(async |connection| match connection {
            Connection::Sqlite(connection) => {
                bound!(sqlx::query_as::<Sqlite, T>(sql).persistent(is_kept), params).fetch_all(&mut **connection).await
            }
            Connection::MySql(connection) if is_kept => bound!(sqlx::query_as::<MySql, T>(sql), params).fetch_all(&mut **connection).await,
            Connection::MySql(connection) => {
                let rows = sqlx::raw_sql(written_out(sql.as_str(), params)).fetch_all(&mut **connection).await?;
                rows.iter().map(<T as FromRow<'_, MySqlRow>>::from_row).collect()
            }
        })
        .await
        .map_err(away(what))
    }

    /// The one row that a statement finds, or none.
    pub(super) async fn row<T: Columns>(&mut self, sql: impl SqlSafeStr, params: &[Param<'_>]) -> Result<Option<T>> {
        Ok(self.rows(sql, params).await?.into_iter().next())
    }

    /// Changes rows.
    pub(super) async fn execute(&mut self, sql: impl SqlSafeStr, params: &[Param<'_>]) -> Result<Done> {
        let what = self.what;
        self.try_execute(sql, params).await.map_err(away(what))
    }

    /// Makes a row unless there is one with its key; the id. Not within a transaction.
    ///
    /// `None` also where two of them and a deletion stood in each other's way: there is a row then, or there will be at the next try.
    pub(super) async fn insert(&mut self, sql: impl SqlSafeStr, params: &[Param<'_>]) -> Result<Option<i64>> {
        let what = self.what;
        match self.try_execute(sql, params).await {
            Ok(done) => Ok(Some(done.id)),
            Err(Failure::Refused(sqlx::Error::Database(error))) if is_clash(&*error) => Ok(None),
            Err(failure) => Err(away(what)(failure)),
        }
    }

    /// Changes rows within a transaction, unless another one was faster with their key: then the whole transaction is to be carried out again,
    /// see [`is_contention`].
    pub(super) async fn claim(&mut self, sql: impl SqlSafeStr, params: &[Param<'_>]) -> Result<Done> {
        let what = self.what;
        match self.try_execute(sql, params).await {
            Err(Failure::Refused(sqlx::Error::Database(error))) if is_clash(&*error) => Err(away(what)(Failure::Overtaken)),
            done => done.map_err(away(what)),
        }
    }

    /// Runs a statement that cannot be prepared.
    pub(super) async fn plain(&mut self, sql: &'static str) -> Result<()> {
        let what = self.what;
        self.in_time(async |connection| match connection {
            Connection::Sqlite(connection) => (&mut **connection).execute(sql).await.map(drop),
            Connection::MySql(connection) => (&mut **connection).execute(sql).await.map(drop),
        })
        .await
        .map_err(away(what))
    }

    /// Ends a transaction: from here on it is on the disk.
    pub(super) async fn commit(mut self) -> Result<()> {
        self.plain("COMMIT").await?;
        self.finish();
        Ok(())
    }

    /// Gives the connection back. Not within a transaction.
    pub(super) fn finish(mut self) {
        match self.connection.take() {
            Some(Connection::Sqlite(connection)) => give_back(connection),
            Some(Connection::MySql(connection)) => give_back(connection),
            None => {}
        }
    }

    async fn try_execute(&mut self, sql: impl SqlSafeStr, params: &[Param<'_>]) -> std::result::Result<Done, Failure> {
        let (sql, is_kept) = (sql.into_sql_str(), params.len() <= KEPT_PARAMS_MAX);
        self.in_time(async |connection| match connection {
            Connection::Sqlite(connection) => {
                let done = bound!(sqlx::query::<Sqlite>(sql).persistent(is_kept), params).execute(&mut **connection).await?;
                Ok(Done { rows: done.rows_affected(), id: done.last_insert_rowid() })
            }
            Connection::MySql(connection) => {
                let done = if is_kept {
                    bound!(sqlx::query::<MySql>(sql), params).execute(&mut **connection).await?
                } else {
                    sqlx::raw_sql(written_out(sql.as_str(), params)).execute(&mut **connection).await?
                };
                Ok(Done { rows: done.rows_affected(), id: i64::try_from(done.last_insert_id()).unwrap_or(i64::MAX) })
            }
        })
        .await
    }

    async fn in_time<T>(
        &mut self,
        statement: impl AsyncFnOnce(&mut Connection) -> std::result::Result<T, sqlx::Error>,
    ) -> std::result::Result<T, Failure> {
        #[cfg(test)]
        STATEMENTS.with(|statements| statements.set(statements.get() + 1));
        let connection = self.connection.as_mut().expect("a call is consumed when it is finished");
        match timeout_at(self.deadline, statement(connection)).await {
            Ok(answer) => answer.map_err(Failure::Refused),
            Err(_) => Err(Failure::Late),
        }
    }
}

#[cfg(test)]
thread_local! {
    static STATEMENTS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// Statements that tasks of this thread have had carried out: what a change costs is told by them, and not by a clock.
#[cfg(test)]
pub(super) fn statements_of_thread() -> u64 {
    STATEMENTS.with(std::cell::Cell::get)
}

/// Not finished: nobody knows what the connection is in the middle of.
impl Drop for Call {
    fn drop(&mut self) {
        match self.connection.take() {
            Some(Connection::Sqlite(connection)) => drop(connection.detach()),
            Some(Connection::MySql(connection)) => drop(connection.detach()),
            None => {}
        }
    }
}

/// The pool makes sure that the connection lives, and would wait for the answer for as long as a dead host does not give one.
fn give_back<D: Driver>(mut connection: PoolConnection<D>) {
    tokio::spawn(async move {
        // Given up, it is closed and its place is free.
        timeout(RETURN_TIMEOUT, connection.return_to_pool()).await.ok();
    });
}

/// A statement for MySQL with its parameters in it: one round trip, and nothing that the server has to forget again. Numbers are digits, and
/// texts are their bytes in hexadecimal: whatever they say, they cannot end.
fn written_out(sql: &str, params: &[Param<'_>]) -> AssertSqlSafe<String> {
    let mut text = String::with_capacity(sql.len() + 24 * params.len());
    let mut pieces = sql.split('?');
    text += pieces.next().unwrap_or_default();
    let mut params = params.iter();
    for piece in pieces {
        match params.next() {
            Some(Param::Number(number)) => text += &number.to_string(),
            Some(Param::Text("")) => text += "''",
            Some(Param::Text(bytes)) => {
                text += "_utf8mb4 x'";
                for byte in bytes.bytes() {
                    for half in [byte >> 4, byte & 15] {
                        text.push(char::from(b"0123456789abcdef"[usize::from(half)]));
                    }
                }
                text.push('\'');
            }
            // The server says that it cannot read it.
            None => text.push('?'),
        }
        text += piece;
    }
    AssertSqlSafe(text)
}

fn is_clash(error: &dyn sqlx::error::DatabaseError) -> bool {
    error.is_unique_violation() || number(error) == Some(DEADLOCK)
}

/// Whether a transaction failed by what another did at the same time: carried out once more, it may succeed.
pub(super) fn is_contention(error: &RecordError) -> bool {
    let RecordError::Away { cause, .. } = error else { return false };
    match cause.downcast_ref() {
        Some(Failure::Overtaken) => true,
        Some(Failure::Refused(sqlx::Error::Database(error))) => matches!(number(&**error), Some(DEADLOCK | LOCK_TIMEOUT)),
        Some(Failure::Late | Failure::NoConnection | Failure::Shut | Failure::Refused(_)) | None => false,
    }
}

/// MySQL's number of an error.
fn number(error: &dyn sqlx::error::DatabaseError) -> Option<u16> {
    error.try_downcast_ref::<MySqlDatabaseError>().map(MySqlDatabaseError::number)
}

/// Lets callers through to a server, or tells them at once that it is away.
#[derive(Debug, Default)]
pub(super) struct Door {
    /// Until when nobody but the one who set it asks.
    shut_until: Mutex<Option<Instant>>,
}

impl Door {
    async fn pass<T>(
        &self,
        limit: Duration,
        connecting: impl Future<Output = std::result::Result<T, Failure>>,
    ) -> std::result::Result<T, Failure> {
        {
            let mut shut_until = self.lock();
            let now = Instant::now();
            match *shut_until {
                Some(until) if now < until => return Err(Failure::Shut),
                // This caller tries for all, so the others stay out until it has an answer. One that is cancelled opens nothing: time does.
                Some(_) => *shut_until = Some(now + limit + SHUT_FOR),
                None => {}
            }
        }
        let connected = connecting.await;
        *self.lock() = connected.is_err().then(|| Instant::now() + SHUT_FOR);
        connected
    }

    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        self.shut_until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::{Door, Failure, Param, SHUT_FOR, written_out};
    use std::{
        future::{pending, ready},
        time::Duration,
    };
    use tokio::time::{advance, timeout};

    const LIMIT: Duration = Duration::from_millis(1_800);

    #[test]
    fn whatever_a_text_says_it_stays_a_text() {
        let params = [Param::Number(-5), Param::Text("'; -- ?\\"), Param::Text(""), Param::Number(i64::MIN)];
        let text = written_out("INSERT INTO t VALUES (?, ?), (?, ?)", &params).0;
        assert_eq!(text, "INSERT INTO t VALUES (-5, _utf8mb4 x'273b202d2d203f5c'), ('', -9223372036854775808)");
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_to_a_server_that_let_nobody_in_is_told_at_once_until_one_of_them_gets_in() {
        let door = Door::default();
        let refused = async || door.pass(LIMIT, ready(Err::<(), _>(Failure::NoConnection))).await;
        assert!(matches!(refused().await, Err(Failure::NoConnection)));
        // Does not wait for what never comes.
        assert!(matches!(door.pass(LIMIT, pending::<Result<(), _>>()).await, Err(Failure::Shut)));
        advance(SHUT_FOR).await;
        assert!(matches!(refused().await, Err(Failure::NoConnection)), "one tries again");
        assert!(matches!(refused().await, Err(Failure::Shut)));
        advance(SHUT_FOR).await;
        door.pass(LIMIT, ready(Ok(()))).await.unwrap();
        door.pass(LIMIT, ready(Ok(()))).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn while_one_tries_the_others_are_told_at_once_and_one_that_is_given_up_shuts_nobody_out_for_long() {
        let door = Door::default();
        door.pass(LIMIT, ready(Err::<(), _>(Failure::NoConnection))).await.unwrap_err();
        advance(SHUT_FOR).await;
        let trying = door.pass(LIMIT, pending::<Result<(), _>>());
        assert!(timeout(Duration::from_millis(1), trying).await.is_err());
        assert!(matches!(door.pass(LIMIT, ready(Ok(()))).await, Err(Failure::Shut)));
        advance(LIMIT + SHUT_FOR).await;
        door.pass(LIMIT, ready(Ok(()))).await.unwrap();
    }
}
