//! The ledger: what must be there after a crash. Rooms, moderation, profiles and stream keys, in one SQLite file.
//!
//! - A call that has answered is on the disk: WAL with a full sync, so a kill or a power cut takes nothing that was confirmed.
//! - Every call is one transaction. There is one writing connection, so writers wait for each other and never for a lock.
//! - The data directory belongs to one process at a time; a second one is refused by name.
//! - SQL stands in constants beside its one user, and keeps to what MySQL reads too (`REPLACE`, no `RETURNING`, no `ON CONFLICT`).
//!
//! No rule of a service here, but those that need a transaction: one live room per anchor, a sanction only for a live room.

mod config;
mod rooms;
mod sqlite;
mod streams;

pub use config::{LedgerConfig, LedgerConfigError};
pub use streams::StreamRecord;

use config::Place;

use crate::services::ports::{RecordError, Result};
use sqlx::SqlitePool;
use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

/// The records of one data directory. Cheap to clone; every clone speaks to the same file.
#[derive(Clone, Debug)]
pub struct Ledger {
    writer: SqlitePool,
    readers: SqlitePool,
    /// Held for its lock alone, until the last clone is gone.
    _lock: Arc<File>,
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
    /// Another process has the data directory.
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
}

impl From<LedgerConfigError> for LedgerError {
    fn from(error: LedgerConfigError) -> Self {
        Self::Config(error)
    }
}

impl Ledger {
    /// Opens the records and brings their tables up to date. The directory of a file is made if it is not there.
    ///
    /// # Errors
    /// Each names the key, the path or the server.
    pub async fn open(config: &LedgerConfig, data_dir: &Path, sharing: Sharing) -> std::result::Result<Self, LedgerError> {
        config.validate()?;
        match config.place(data_dir)? {
            Place::File(path) => sqlite::open(&path, sharing).await,
            Place::Server(_) => Err(LedgerError::Config(LedgerConfigError { key: "url", problem: "not yet".to_owned() })),
        }
    }

    /// Closes the file when every call under way has ended. Calls after it fail.
    pub async fn close(&self) {
        self.readers.close().await;
        // Last, so that the closing of the last connection folds the write-ahead log into the file.
        self.writer.close().await;
    }
}

/// A call that the file did not answer.
fn away(what: &'static str) -> impl FnOnce(sqlx::Error) -> RecordError {
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
