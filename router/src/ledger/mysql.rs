//! Opening the records on a MySQL or MariaDB server: the session, the pool, the migrations.
//!
//! - READ COMMITTED: no statement locks what it does not change, so calls about different rooms never wait for each other. Every transaction
//!   about a room locks the room's row first, and rows of one table in the order of their keys: none can wait in a circle.
//! - A node that halts in the middle of a transaction holds its locks until the server ends its connection; others get their answer before.

use super::{
    LedgerConfig, LedgerError,
    database::{Database, Door, KEPT_STATEMENTS},
};
use sqlx::{
    ConnectOptions, Connection, Executor, MySqlConnection,
    migrate::{MigrateError, Migrator},
    mysql::{MySqlConnectOptions, MySqlPoolOptions},
};
use std::{sync::Arc, time::Duration};
use tokio::time::timeout;

/// Strict, so that a text that is too long is an error and not a shorter text. A lock is waited for shorter than any caller waits. The server
/// ends a connection that nobody uses, later than the pool does, and one that holds locks and does nothing sooner: only MariaDB can.
const SESSION: [&str; 2] = [
    "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
    "SET SESSION autocommit = 1, sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION', innodb_lock_wait_timeout = 1, wait_timeout = 60 \
     /*M!100301 , idle_transaction_timeout = 5 */",
];
/// A connection that nobody used for so long is closed: below the server's `wait_timeout`, and below what firewalls forget.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a start may take: connecting, the wait for another router's migrations, the own ones.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);

/// Written so that each may run again after it broke off half-way: MySQL cannot undo the making of a table.
static MIGRATIONS: Migrator = {
    let mut migrator = sqlx::migrate!("migrations/mysql");
    // The lock of our own has a time-out, and MariaDB refuses the endless one that it would take.
    migrator.locking = false;
    migrator
};

/// The server and its database, for people.
pub(super) fn place(options: &MySqlConnectOptions) -> String {
    format!("{}:{}/{}", options.get_host(), options.get_port(), options.get_database().unwrap_or_default())
}

pub(super) async fn open(options: MySqlConnectOptions, config: &LedgerConfig) -> Result<Database, LedgerError> {
    let server = place(&options);
    let unusable = |cause: Box<dyn std::error::Error + Send + Sync>| LedgerError::Unreachable { server: server.clone(), cause };
    // Texts are compared byte by byte, as SQLite does.
    let options = options.charset("utf8mb4").collation("utf8mb4_bin").statement_cache_capacity(KEPT_STATEMENTS).disable_statement_logging();
    let migrated = async {
        let mut connection = options.connect().await?;
        migrate(&mut connection).await?;
        connection.close().await.map_err(MigrateError::from)
    };
    match timeout(OPEN_TIMEOUT, migrated).await {
        Ok(Ok(())) => {}
        Ok(Err(cause)) => return Err(unusable(Box::new(cause))),
        Err(late) => return Err(unusable(Box::new(late))),
    }
    let pool = MySqlPoolOptions::new()
        .max_connections(config.connections_max)
        .acquire_timeout(config.call_timeout)
        .idle_timeout(IDLE_TIMEOUT)
        // A round trip per call, so that no call fails for a connection that broke while nobody used it.
        .test_before_acquire(true)
        .after_connect(|connection, _| {
            Box::pin(async move {
                for statement in SESSION {
                    connection.execute(statement).await?;
                }
                Ok(())
            })
        })
        .connect_lazy_with(options);
    Ok(Database::MySql { pool, door: Arc::new(Door::default()) })
}

/// Brings the tables up to date. Several routers may start at once.
async fn migrate(connection: &mut MySqlConnection) -> Result<(), MigrateError> {
    // In seconds, and less than the start may take. Ends with the connection, whatever becomes of this process.
    const LOCK: &str = "SELECT GET_LOCK(CONCAT('billfish:', MD5(DATABASE())), 20)";
    const HAS_RUN_BEFORE: &str =
        "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = '_sqlx_migrations'";
    const FORGET_BROKEN: &str = "DELETE FROM _sqlx_migrations WHERE success = FALSE";
    let (locked,): (Option<i64>,) = sqlx::query_as(LOCK).fetch_one(&mut *connection).await?;
    if locked != Some(1) {
        return Err(MigrateError::Execute(sqlx::Error::Protocol("another router holds the lock on the tables for too long".to_owned())));
    }
    let (has_run_before,): (i64,) = sqlx::query_as(HAS_RUN_BEFORE).fetch_one(&mut *connection).await?;
    if has_run_before > 0 {
        // Whoever began one and did not end it is gone, for the lock is ours. It runs again.
        connection.execute(FORGET_BROKEN).await?;
    }
    MIGRATIONS.run_direct(None, connection, false).await
}
