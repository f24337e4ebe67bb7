//! Opening the SQLite file: the locks, the pragmas, the pools, the migrations.
//!
//! WAL with a full sync: a commit is on the disk. One connection of a process writes; writers of several processes wait for each other, at most
//! for the busy time-out.

use super::{
    LedgerConfig, LedgerError, Sharing,
    database::{Database, KEPT_STATEMENTS},
};
use sqlx::{
    ConnectOptions, Connection, SqlitePool,
    migrate::Migrator,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use std::{
    fs::{DirBuilder, File, OpenOptions, TryLockError},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::time::{Instant, sleep};

/// Ending of the file that is locked by those who have the records open. Not the records themselves: SQLite has locks of its own on those.
const LOCK_ENDING: &str = "lock";
/// Ending of the file that is locked while a process opens the records: two that made the tables at once would both fail.
const START_ENDING: &str = "start.lock";
/// How long one waits for the other's start.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two looks at it.
const START_LOOK: Duration = Duration::from_millis(10);
/// Connections that read. A read is tens of microseconds; more would only queue for the same two cores.
const READERS: u32 = 4;
/// How long a statement waits for another process that writes (a router, a backup, a person with `sqlite3`). Reliability asks for an answer
/// in 2 s.
const BUSY_TIMEOUT: Duration = Duration::from_millis(1_500);

/// Pages that the log holds before they are carried over into the file: 32 MiB. A transaction of 256 gifts touches some 400, many of them those of
/// the one before: carried over each thousand, as SQLite does by itself, they are written twice as often.
const WAL_PAGES: &str = "8000";
/// Bytes of it that stay on the disk once it was carried over: twice that.
const WAL_BYTES_KEPT: &str = "67108864";
/// Memory for pages of the connection that writes, in KiB and negative, as SQLite has it: 32 MiB. The 2 MiB of its own are less than a transaction
/// of 256 gifts changes in a large file, which is then written to the log in part and read back before it is committed.
const WRITER_CACHE: &str = "-32768";
/// Where a statement of many rows keeps what it has changed, to undo it if one of the rows fails: in memory, for it is at most what it writes.
/// In a file of its own it was a quarter of the writer's time.
const TEMP_STORE: &str = "MEMORY";
/// Rows that the connection which writes reads ahead of who asked, a thread of its own: a transaction of 256 gifts reads as many accounts.
const ROWS_AHEAD: usize = 512;

static MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");

pub(super) async fn open(path: &Path, sharing: Sharing, config: &LedgerConfig) -> Result<(Database, File), LedgerError> {
    let lock = lock(path, sharing)?;
    // SQLite opens a file that it may not write for reading, without a word. Better told now than by the first room.
    drop(writable(path)?);
    let unusable = |cause: Box<dyn std::error::Error + Send + Sync>| LedgerError::Unusable { path: path.to_owned(), cause };
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(BUSY_TIMEOUT)
        .statement_cache_capacity(KEPT_STATEMENTS)
        .pragma("wal_autocheckpoint", WAL_PAGES)
        // A long look over everything keeps it from being carried over; what it grew to is given back.
        .pragma("journal_size_limit", WAL_BYTES_KEPT)
        .disable_statement_logging();
    let starting = start(path).await?;
    // Not by a connection of the pools: those are waited for about as long as SQLite itself waits for a lock, and who is faster would decide
    // whether the error says what is amiss or that a pool timed out.
    let mut first = options.connect().await.map_err(|cause| unusable(Box::new(cause)))?;
    MIGRATIONS.run_direct(None, &mut first, false).await.map_err(|cause| unusable(Box::new(cause)))?;
    let writes = options.clone().pragma("cache_size", WRITER_CACHE).pragma("temp_store", TEMP_STORE).row_buffer_size(ROWS_AHEAD);
    let (writer, readers) = (pool(1, &writes, config), pool(READERS, &options, config));
    first.close().await.map_err(|cause| unusable(Box::new(cause)))?;
    drop(starting);
    Ok((Database::Sqlite { writer, readers }, lock))
}

/// Makes the directory of the records if it is not there, and locks it.
pub(super) fn lock(records: &Path, sharing: Sharing) -> Result<File, LedgerError> {
    let directory = match records.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    // Stream keys stand in the records: a directory of ours is its owner's alone. One that was there keeps the rights it was given.
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|cause| LedgerError::NotWritable { path: directory.to_owned(), cause })?;
    let path = records.with_extension(LOCK_ENDING);
    let file = writable(&path)?;
    let locked = match sharing {
        Sharing::Exclusive => file.try_lock(),
        Sharing::Shared => file.try_lock_shared(),
    };
    match locked {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(LedgerError::InUse { path: directory.to_owned() }),
        Err(TryLockError::Error(cause)) => Err(LedgerError::NotWritable { path, cause }),
    }
}

/// Waits for its turn to open the records. The turn ends with the file.
async fn start(records: &Path) -> Result<File, LedgerError> {
    let path = records.with_extension(START_ENDING);
    let file = writable(&path)?;
    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => sleep(START_LOOK).await,
            Err(TryLockError::WouldBlock) => {
                let cause = "another billfish has been opening them for ten seconds".into();
                return Err(LedgerError::Unusable { path: records.to_owned(), cause });
            }
            Err(TryLockError::Error(cause)) => return Err(LedgerError::NotWritable { path, cause }),
        }
    }
}

fn writable(path: &Path) -> Result<File, LedgerError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(|cause| LedgerError::NotWritable { path: PathBuf::from(path), cause })
}

fn pool(connections: u32, options: &SqliteConnectOptions, config: &LedgerConfig) -> SqlitePool {
    SqlitePoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(config.call_timeout)
        // A local file: a connection neither ages nor breaks while nobody looks.
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
        .connect_lazy_with(options.clone())
}

#[cfg(test)]
mod tests {
    use super::{Database, LedgerConfig, LedgerError, Sharing};
    use crate::ledger::Ledger;
    use sqlx::{ConnectOptions, Connection, Executor, Row, sqlite::SqliteConnectOptions};
    use std::{error::Error, path::Path, time::Duration};

    const FILE: &str = crate::ledger::config::FILE;

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
    async fn routers_share_a_file_and_a_process_that_wants_it_alone_is_refused_beside_them_and_the_reverse() {
        let directory = tempfile::tempdir().unwrap();
        let open_as = async |sharing| Ledger::open(&LedgerConfig::default(), directory.path(), sharing).await;
        let routers = (open_as(Sharing::Shared).await.unwrap(), open_as(Sharing::Shared).await.unwrap());
        assert!(matches!(open_as(Sharing::Exclusive).await.unwrap_err(), LedgerError::InUse { .. }));
        drop(routers.0);
        assert!(matches!(open_as(Sharing::Exclusive).await.unwrap_err(), LedgerError::InUse { .. }));
        drop(routers.1);
        let alone = open_as(Sharing::Exclusive).await.unwrap();
        assert!(matches!(open_as(Sharing::Shared).await.unwrap_err(), LedgerError::InUse { .. }));
        drop(alone);
        open_as(Sharing::Shared).await.unwrap();
    }

    #[tokio::test]
    async fn a_file_is_the_same_whether_it_is_named_by_url_or_by_its_directory() {
        let directory = tempfile::tempdir().unwrap();
        let alone = open(directory.path()).await.unwrap();
        let url = format!("sqlite:{}", directory.path().join(FILE).display());
        let elsewhere = tempfile::tempdir().unwrap();
        let by_url = LedgerConfig { url, ..LedgerConfig::default() };
        assert!(matches!(Ledger::open(&by_url, elsewhere.path(), Sharing::Shared).await.unwrap_err(), LedgerError::InUse { .. }));
        drop(alone);
        Ledger::open(&by_url, elsewhere.path(), Sharing::Shared).await.unwrap();
        assert_eq!(std::fs::read_dir(elsewhere.path()).unwrap().count(), 0, "the data directory has no part in it");
    }

    #[tokio::test]
    async fn a_start_waits_for_the_start_of_another() {
        let directory = tempfile::tempdir().unwrap();
        let records = directory.path().join(FILE);
        let other = super::start(&records).await.unwrap();
        let opening = tokio::spawn({
            let directory = directory.path().to_owned();
            async move { open(directory).await }
        });
        // It has come as far as its own lock, and no further: there are no records.
        while !directory.path().join("billfish.lock").exists() {
            tokio::task::yield_now().await;
        }
        assert!(std::fs::read(&records).unwrap_or_default().is_empty());
        drop(other);
        opening.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_file_held_by_another_program_is_named() {
        let directory = tempfile::tempdir().unwrap();
        // Callers that wait far shorter than SQLite does: what is said depends on neither wait.
        let config = LedgerConfig { call_timeout: Duration::from_millis(100), ..LedgerConfig::default() };
        let open = async |directory: &Path| Ledger::open(&config, directory, Sharing::Exclusive).await;
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
        let Database::Sqlite { writer, .. } = &ledger.database else { panic!("no file") };
        let said =
            [("PRAGMA synchronous", "2"), ("PRAGMA busy_timeout", "1500"), ("PRAGMA temp_store", "2"), ("PRAGMA cache_size", "-32768")];
        for (pragma, value) in said {
            let row = writer.fetch_one(pragma).await.unwrap();
            assert_eq!(row.get::<i64, _>(0).to_string(), value, "{pragma}");
        }
        let row = writer.fetch_one("PRAGMA journal_mode").await.unwrap();
        assert_eq!(row.get::<String, _>(0), "wal");
    }

    #[tokio::test]
    async fn migrations_run_once_and_a_later_version_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let ledger = open(directory.path()).await.unwrap();
        let Database::Sqlite { writer, .. } = &ledger.database else { panic!("no file") };
        writer
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
