//! The ledger: what must be there after a crash. Rooms, moderation, people, stream keys, money, and what webhooks are yet to be told; in an SQLite
//! file or a MySQL database.
//!
//! - A call that has answered is on the disk: a kill or a power cut takes nothing that was confirmed. (A MySQL server must be set to it, as it
//!   is by default: `innodb_flush_log_at_trx_commit = 1`.)
//! - Every call is one transaction, also beside those of other routers, and has its answer or an error within `call_timeout`.
//! - A file belongs to one process that keeps its live state in its memory, or to any number of routers that share theirs.
//! - SQL stands beside its one user, and is read by both databases (`REPLACE`, no `RETURNING`, no `ON CONFLICT`). Only rows of many keys are
//!   looked up in the way of each: see `statements`.
//!
//! No rule of a service here, but those that need a transaction: one live room per anchor, a sanction only for a live room. Nothing is cached
//! here: what was confirmed to one router is read by the next call of any other.

mod accounts;
mod audit;
mod config;
mod database;
mod gifts;
mod grants;
mod guard;
pub(crate) mod metrics;
mod money;
mod mysql;
mod people;
mod pk;
mod recharge;
mod reconcile;
mod rooms;
mod sqlite;
mod statements;
mod streams;
#[cfg(test)]
mod tests;
mod till;
pub(crate) mod webhooks;

pub use audit::Audit;
pub use config::{LedgerConfig, LedgerConfigError};
pub use guard::{ForeignLedger, Guard};
pub use streams::StreamRecord;
pub use till::Till;

use crate::services::ports::{RecordError, Result};
use config::Place;
use database::{Call, Columns, Database, Param};
use guard::Standing;
use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{sync::watch, time::timeout};

/// The records. Cheap to clone; every clone speaks to the same database.
#[derive(Clone, Debug)]
pub struct Ledger {
    database: Database,
    call_timeout: Duration,
    /// See [`LedgerConfig`].
    till_writers: usize,
    till_queue_max: usize,
    told_after: Duration,
    audit_every: Duration,
    /// Where they are, for people: a file, or host, port and database.
    place: Arc<str>,
    /// Whether calls are let through: see [`Guard`].
    standing: watch::Sender<Standing>,
    /// Whether nobody else has them open.
    is_alone: bool,
    /// Who is told of what is written here.
    hooks: Arc<webhooks::Hooks>,
    /// Held for its lock alone, until the last clone is gone.
    _lock: Option<Arc<File>>,
}

/// Who else may have the records open at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// Nobody: this process keeps its live state in its own memory, so nobody else could own a room.
    Exclusive,
    /// Others that open them as shared too.
    Shared,
}

/// Why the ledger could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LedgerError {
    /// A value of the configuration cannot work.
    #[error("configuration key `ledger.{}`: {}", .0.key, .0.problem)]
    Config(LedgerConfigError),
    /// The data directory, or a file in it, cannot be made or written.
    #[error("cannot write {}; is the disk read-only, or does the path belong to someone else?", path.display())]
    NotWritable {
        /// What.
        path: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// Another process has the directory, and one of the two wants it alone.
    #[error("another billfish uses the data directory {}; stop it, or choose another with --data-dir", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The file is there and cannot be used: locked by another program, damaged, or written by a later version.
    #[error("cannot use the records in {}; is another program holding the file, or was it made by a later version?", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The server is not there, lets nobody in, or has the tables of a later version.
    #[error("cannot use the records on {server}; is the server up, are user, password and database right, was it used by a later version?")]
    Unreachable {
        /// Host, port and database.
        server: String,
        /// Why.
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl From<LedgerConfigError> for LedgerError {
    fn from(error: LedgerConfigError) -> Self {
        Self::Config(error)
    }
}

impl Ledger {
    /// Opens the records and brings their tables up to date. A file and its directory are made if they are not there; the database of a
    /// server must be.
    ///
    /// # Errors
    /// Each names the key, the path or the server.
    pub async fn open(config: &LedgerConfig, data_dir: &Path, sharing: Sharing) -> std::result::Result<Self, LedgerError> {
        config.validate()?;
        let (place, database, lock) = match config.place(data_dir)? {
            Place::File(path) => {
                let (database, lock) = sqlite::open(&path, sharing, config).await?;
                (path.display().to_string(), database, Some(lock))
            }
            Place::Server(options) => {
                let place = mysql::place(&options);
                // The directory has more than records: it is one process' alone also where they are elsewhere.
                let lock = match sharing {
                    Sharing::Exclusive => Some(sqlite::lock(&data_dir.join(config::FILE), sharing)?),
                    Sharing::Shared => None,
                };
                (place, mysql::open(*options, config).await?, lock)
            }
        };
        let standing = watch::Sender::new(Standing::Own);
        let LedgerConfig { call_timeout, till_writers, till_queue_max, told_after, audit_every, connections_max, .. } = *config;
        // Whatever gifts there are, somebody who only reads finds a connection.
        let others = usize::try_from(connections_max).unwrap_or(usize::MAX).saturating_sub(1).max(1);
        Ok(Self {
            database,
            call_timeout,
            till_writers: till_writers.min(others),
            till_queue_max,
            told_after,
            audit_every,
            place: place.into(),
            standing,
            is_alone: sharing == Sharing::Exclusive,
            hooks: Arc::default(),
            _lock: lock.map(Arc::new),
        })
    }

    /// Ends the connections when every call under way has ended, or has had its time. Calls after it fail.
    pub async fn close(&self) {
        timeout(self.call_timeout, self.database.close()).await.ok();
    }

    /// Whether this process was given the records to itself.
    pub(crate) fn is_alone(&self) -> bool {
        self.is_alone
    }

    /// What a statement finds.
    async fn rows<T: Columns>(&self, what: &'static str, sql: impl sqlx::SqlSafeStr, params: &[Param<'_>]) -> Result<Vec<T>> {
        let mut call = self.guarded(what)?.read(what, self.call_timeout).await?;
        let rows = call.rows(sql, params).await?;
        call.finish();
        Ok(rows)
    }

    /// The one row that a statement finds, or none.
    async fn row<T: Columns>(&self, what: &'static str, sql: impl sqlx::SqlSafeStr, params: &[Param<'_>]) -> Result<Option<T>> {
        Ok(self.rows(what, sql, params).await?.into_iter().next())
    }

    /// Changes rows by one statement; how many.
    async fn execute(&self, what: &'static str, sql: impl sqlx::SqlSafeStr, params: &[Param<'_>]) -> Result<u64> {
        let mut call = self.write(what).await?;
        let done = call.execute(sql, params).await?;
        call.finish();
        Ok(done.rows)
    }

    /// One statement that changes rows, with what it must know first.
    async fn write(&self, what: &'static str) -> Result<Call> {
        self.guarded(what)?.write(what, self.call_timeout).await
    }

    /// Changes rows by several statements, all or none.
    async fn transaction(&self, what: &'static str) -> Result<Call> {
        self.guarded(what)?.transaction(what, self.call_timeout).await
    }

    /// The database, once it is known to be the right one.
    fn guarded(&self, what: &'static str) -> Result<&Database> {
        self.standing.borrow().check(what)?;
        Ok(&self.database)
    }
}

/// A call that was not answered.
fn away<E: std::error::Error + Send + Sync + 'static>(what: &'static str) -> impl FnOnce(E) -> RecordError {
    move |cause| RecordError::Away { what, cause: Box::new(cause) }
}

/// A number of a row that is never negative when one of us wrote it.
fn unsigned(number: i64, column: &str) -> Result<u64> {
    u64::try_from(number).map_err(|_| RecordError::Unreadable { what: format!("{column} is {number}") })
}

/// A time as SQL keeps it. What is beyond the year 292,000,000 is kept as that.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
