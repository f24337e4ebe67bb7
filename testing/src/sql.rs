//! Somebody else at the records: who reads what the routers have written, or holds a lock on it.
//!
//! One connection to an SQLite file or a MySQL server, used from tests without a runtime of their own.

use sqlx::{
    ConnectOptions as _, Connection as _, Executor as _, FromRow, MySqlConnection, SqliteConnection,
    mysql::{MySqlConnectOptions, MySqlRow},
    sqlite::{SqliteConnectOptions, SqliteRow},
};
use std::{path::Path, str::FromStr as _};
use tokio::runtime::{Builder, Runtime};

/// One connection.
#[derive(Debug)]
pub struct Sql {
    runtime: Runtime,
    connection: Connection,
}

#[derive(Debug)]
enum Connection {
    Sqlite(SqliteConnection),
    MySql(MySqlConnection),
}

/// The columns of a row, from either database: any tuple of what both can read.
pub trait Columns: for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, MySqlRow> + Send + Unpin {}

impl<T> Columns for T where T: for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, MySqlRow> + Send + Unpin {}

impl Sql {
    /// Opens a file that is there.
    pub fn file(path: &Path) -> Self {
        let runtime = runtime();
        let options = SqliteConnectOptions::new().filename(path);
        let connection = runtime.block_on(options.connect()).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self { runtime, connection: Connection::Sqlite(connection) }
    }

    /// Connects to a server, by the URL that its database has in `ledger.url`.
    pub fn server(url: &str) -> Self {
        let runtime = runtime();
        let options = MySqlConnectOptions::from_str(url).expect("the URL of a database");
        let connection = runtime.block_on(options.connect()).unwrap_or_else(|error| panic!("{url}: {error}"));
        Self { runtime, connection: Connection::MySql(connection) }
    }

    /// Carries a statement out.
    ///
    /// # Errors
    /// What the database says.
    pub fn try_execute(&mut self, sql: &'static str) -> Result<(), sqlx::Error> {
        self.runtime.block_on(async {
            match &mut self.connection {
                Connection::Sqlite(connection) => connection.execute(sql).await.map(drop),
                Connection::MySql(connection) => connection.execute(sql).await.map(drop),
            }
        })
    }

    /// The same, and fails loudly.
    #[track_caller]
    pub fn execute(&mut self, sql: &'static str) {
        if let Err(error) = self.try_execute(sql) {
            panic!("{sql}: {error}");
        }
    }

    /// The rows that a statement finds.
    #[track_caller]
    pub fn rows<T: Columns>(&mut self, sql: &'static str) -> Vec<T> {
        let rows = self.runtime.block_on(async {
            match &mut self.connection {
                Connection::Sqlite(connection) => sqlx::query_as(sql).fetch_all(connection).await,
                Connection::MySql(connection) => sqlx::query_as(sql).fetch_all(connection).await,
            }
        });
        rows.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// The one number that a statement finds.
    #[track_caller]
    pub fn number(&mut self, sql: &'static str) -> i64 {
        self.rows::<(i64,)>(sql).first().unwrap_or_else(|| panic!("{sql}: no row")).0
    }

    /// Ends the connection; the database undoes what was not committed.
    pub fn close(self) {
        let Self { runtime, connection } = self;
        // It is gone either way.
        runtime.block_on(async {
            match connection {
                Connection::Sqlite(connection) => connection.close().await.ok(),
                Connection::MySql(connection) => connection.close().await.ok(),
            }
        });
    }
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}
