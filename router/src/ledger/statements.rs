//! Texts of statements about many rows. Whatever a caller sent stands in parameters, never in a text.

use sqlx::AssertSqlSafe;

/// Behind the table of a `SELECT` that locks: rows are then looked up by key also where a table is so small that MySQL would read it whole,
/// and wait for rows that others have locked. SQLite takes it for a comment.
pub(super) const BY_KEY: &str = "/*! FORCE INDEX (PRIMARY) */";
/// Ends a `SELECT` whose rows stay as they are until the transaction ends. SQLite, where everything does, takes it for a comment.
pub(super) const LOCKED: &str = "/*! FOR UPDATE */";

/// A question mark for each of so many parameters.
pub(super) fn marks(count: usize) -> String {
    vec!["?"; count].join(", ")
}

/// A statement that writes several rows.
pub(super) fn rows_of(statement: &'static str, row: &'static str, rows: usize) -> AssertSqlSafe<String> {
    AssertSqlSafe(format!("{statement} {}", vec![row; rows].join(", ")))
}

/// Finds the rows that have one of `count` keys, each by the index on the key's columns. The parameters are the keys, one after the other.
///
/// This and [`delete`] are said to each database in its own way: SQLite plans every `OR` by itself, which takes ten times as long as the rows
/// do, and the other way round MySQL does not look up rows by a table of parameters.
pub(super) fn select(columns: &str, table: &str, key: &[&str], count: usize, is_on_server: bool) -> AssertSqlSafe<String> {
    AssertSqlSafe(if is_on_server {
        format!("SELECT {columns} FROM {table} WHERE {}", either(key, count))
    } else {
        format!("{} SELECT {columns} FROM sought CROSS JOIN {table} ON {}", sought(key, count), is_sought(key))
    })
}

/// Deletes the rows that have one of `count` primary keys. MySQL reads a table whole that has fewer rows than there are keys, in the order of
/// the primary key, and waits for rows that others have locked there.
pub(super) fn delete(table: &str, key: &[&str], count: usize, is_on_server: bool) -> AssertSqlSafe<String> {
    AssertSqlSafe(if is_on_server {
        format!("DELETE FROM {table} WHERE {}", either(key, count))
    } else {
        let columns = key.join(", ");
        format!(
            "{} DELETE FROM {table} WHERE ({columns}) IN (SELECT {columns} FROM sought CROSS JOIN {table} ON {})",
            sought(key, count),
            is_sought(key)
        )
    })
}

fn either(key: &[&str], count: usize) -> String {
    let one = key.iter().map(|column| format!("{column} = ?")).collect::<Vec<_>>().join(" AND ");
    vec![format!("({one})"); count].join(" OR ")
}

fn sought(key: &[&str], count: usize) -> String {
    let columns = key.iter().map(|column| format!("sought_{column}")).collect::<Vec<_>>().join(", ");
    format!("WITH sought ({columns}) AS (VALUES {})", vec![format!("({})", marks(key.len())); count].join(", "))
}

fn is_sought(key: &[&str]) -> String {
    key.iter().map(|column| format!("{column} = sought_{column}")).collect::<Vec<_>>().join(" AND ")
}
