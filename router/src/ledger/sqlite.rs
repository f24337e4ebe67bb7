//! Opening the SQLite file: the lock, the pragmas, the pools, the migrations.

use super::{Ledger, LedgerError, Sharing};
use sqlx::{
    ConnectOptions, SqlitePool,
    migrate::Migrator,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use std::{
    fs::{DirBuilder, File, OpenOptions, TryLockError},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// Ending of the file that is locked by those who have the records open. Not the records themselves: SQLite has locks of its own on those.
const LOCK_ENDING: &str = "lock";
/// Connections that read. A read is tens of microseconds; more would only queue for the same two cores.
const READERS: u32 = 4;
/// How long a statement waits for another program that holds the file (a backup, a person with `sqlite3`). Reliability asks for an answer in 2 s.
const BUSY_TIMEOUT: Duration = Duration::from_millis(1_500);
/// How long a call waits for its connection before it is told that the records are away.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);

static MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");

pub(super) async fn open(path: &Path, sharing: Sharing) -> Result<Ledger, LedgerError> {
    let path = path.to_owned();
    let data_dir = path.parent().unwrap_or(Path::new(""));
    // Stream keys stand in the records: a directory of ours is its owner's alone. One that was there keeps the rights it was given.
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(data_dir)
        .map_err(|cause| LedgerError::NotWritable { path: data_dir.to_owned(), cause })?;
    let lock = lock(&path, sharing)?;
    // SQLite opens a file that it may not write for reading, without a word. Better told now than by the first room.
    drop(writable(&path)?);
    let unusable = |cause: Box<dyn std::error::Error + Send + Sync>| LedgerError::Unusable { path: path.clone(), cause };
    let options = SqliteConnectOptions::new()
        .filename(&path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(BUSY_TIMEOUT)
        .disable_statement_logging();
    let writer = pool(1, &options).await.map_err(|cause| unusable(Box::new(cause)))?;
    MIGRATIONS.run(&writer).await.map_err(|cause| unusable(Box::new(cause)))?;
    let readers = pool(READERS, &options).await.map_err(|cause| unusable(Box::new(cause)))?;
    Ok(Ledger { writer, readers, _lock: Arc::new(lock) })
}

fn lock(records: &Path, sharing: Sharing) -> Result<File, LedgerError> {
    let path = records.with_extension(LOCK_ENDING);
    let file = writable(&path)?;
    let locked = match sharing {
        Sharing::Exclusive => file.try_lock(),
        Sharing::Shared => file.try_lock_shared(),
    };
    match locked {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(LedgerError::InUse { path: records.parent().unwrap_or(records).to_owned() }),
        Err(TryLockError::Error(cause)) => Err(LedgerError::NotWritable { path, cause }),
    }
}

fn writable(path: &PathBuf) -> Result<File, LedgerError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(|cause| LedgerError::NotWritable { path: path.clone(), cause })
}

async fn pool(connections: u32, options: &SqliteConnectOptions) -> Result<SqlitePool, sqlx::Error> {
    SqlitePoolOptions::new()
        .min_connections(1)
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        // A local file: a connection neither ages nor breaks while nobody looks.
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
        .connect_with(options.clone())
        .await
}

#[cfg(test)]
mod tests {
    use super::super::{Ledger, LedgerConfig, LedgerError, Sharing};
    use sqlx::{ConnectOptions, Connection, Executor, Row, sqlite::SqliteConnectOptions};
    use std::error::Error;
    use std::path::Path;

    const FILE: &str = "billfish.db";

    async fn open(data_dir: impl AsRef<Path>) -> Result<Ledger, LedgerError> {
        Ledger::open(&LedgerConfig::default(), data_dir.as_ref(), Sharing::Exclusive).await
    }

    #[tokio::test]
    async fn the_data_directory_is_made() {
        let directory = tempfile::tempdir().unwrap();
        let deep = directory.path().join("a/b/data");
        open(&deep).await.unwrap().close().await;
        assert!(deep.join(FILE).is_file());
        open(&deep).await.unwrap();
    }

    #[tokio::test]
    async fn a_second_process_is_refused_and_told_where() {
        let directory = tempfile::tempdir().unwrap();
        let first = open(directory.path()).await.unwrap();
        let refused = open(directory.path()).await.unwrap_err();
        assert!(matches!(refused, LedgerError::InUse { .. }));
        assert!(refused.to_string().contains(directory.path().to_str().unwrap()), "{refused}");
        drop(first);
        open(directory.path()).await.unwrap();
    }

    #[tokio::test]
    async fn a_file_held_by_another_program_is_named() {
        let directory = tempfile::tempdir().unwrap();
        open(directory.path()).await.unwrap().close().await;
        let path = directory.path().join(FILE);
        let mut other = SqliteConnectOptions::new().filename(&path).connect().await.unwrap();
        other.execute("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE; DELETE FROM t_user; COMMIT;").await.unwrap();
        let refused = open(directory.path()).await.unwrap_err();
        assert!(refused.to_string().contains(path.to_str().unwrap()), "{refused}");
        assert!(refused.source().unwrap().to_string().contains("locked"), "{refused:?}");
        other.close().await.unwrap();
        open(directory.path()).await.unwrap();
    }

    #[tokio::test]
    async fn a_file_that_is_no_database_is_named_and_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        std::fs::write(&path, "these are a person's own notes, in a file of the wrong name. ".repeat(20)).unwrap();
        let before = std::fs::read(&path).unwrap();
        let refused = open(directory.path()).await.unwrap_err();
        assert!(matches!(refused, LedgerError::Unusable { .. }) && refused.to_string().contains(path.to_str().unwrap()), "{refused}");
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }

    #[tokio::test]
    async fn a_path_that_cannot_be_written_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let in_the_way = directory.path().join("data");
        std::fs::write(&in_the_way, "a file where the directory should be").unwrap();
        let refused = open(&in_the_way).await.unwrap_err();
        assert!(
            matches!(refused, LedgerError::NotWritable { .. }) && refused.to_string().contains(in_the_way.to_str().unwrap()),
            "{refused}"
        );

        let other = directory.path().join("other");
        std::fs::create_dir_all(other.join(FILE)).unwrap();
        let refused = open(&other).await.unwrap_err();
        assert!(matches!(refused, LedgerError::NotWritable { .. }) && refused.to_string().contains(FILE), "{refused}");
    }

    #[tokio::test]
    async fn writes_are_synced_in_full_and_logged_ahead() {
        let directory = tempfile::tempdir().unwrap();
        let ledger = open(directory.path()).await.unwrap();
        for (pragma, value) in [("PRAGMA synchronous", "2"), ("PRAGMA busy_timeout", "1500")] {
            let row = ledger.writer.fetch_one(pragma).await.unwrap();
            assert_eq!(row.get::<i64, _>(0).to_string(), value, "{pragma}");
        }
        let row = ledger.writer.fetch_one("PRAGMA journal_mode").await.unwrap();
        assert_eq!(row.get::<String, _>(0), "wal");
    }

    #[tokio::test]
    async fn migrations_run_once_and_a_later_version_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let ledger = open(directory.path()).await.unwrap();
        ledger
            .writer
            .execute(
                "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (9999, 'from the future', 1, x'00', 0)",
            )
            .await
            .unwrap();
        ledger.close().await;
        drop(ledger);
        let refused = open(directory.path()).await.unwrap_err();
        assert!(refused.source().unwrap().to_string().contains("9999"), "{refused:?}");
    }
}
