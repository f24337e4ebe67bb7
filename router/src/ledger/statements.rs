//! Texts of statements about many rows. Whatever a caller sent stands in parameters, never in a text.

use sqlx::AssertSqlSafe;

/// Behind the table of a `SELECT` that locks: rows are then looked up by key also where a table is so small that MySQL would read it whole,
/// and wait for rows that others have locked. SQLite takes it for a comment.
pub(super) const BY_KEY: &str = "/*! FORCE INDEX (PRIMARY) */";
/// Ends a `SELECT` whose rows stay as they are until the transaction ends. SQLite, where everything does, takes it for a comment.
pub(super) const LOCKED: &str = "/*! FOR UPDATE */";

/// Keys to look up, made up to one of a few lengths by repeating the last one: a text of its own for every length would hardly ever be among
/// those that the connection keeps, and reading 256 question marks takes a tenth of the transaction they are for. For statements that find the
/// same row once or twice alike.
pub(super) fn padded<T: Clone>(mut keys: Vec<T>) -> Vec<T> {
    let length = if keys.len() <= PAD { keys.len().next_power_of_two() } else { keys.len().next_multiple_of(PAD) };
    if let Some(last) = keys.last().cloned() {
        keys.resize(length, last);
    }
    keys
}

/// Longer ones are a multiple of this, shorter ones a power of two. A divisor of what a statement takes at most.
const PAD: usize = 32;

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

#[cfg(test)]
mod tests {
    use super::padded;
    use std::collections::BTreeSet;

    #[test]
    fn keys_come_in_few_lengths_and_none_is_added_that_was_not_there() {
        assert!(padded(Vec::<u8>::new()).is_empty());
        assert_eq!(padded(vec![7]), [7]);
        assert_eq!(padded(vec![1, 2, 3]), [1, 2, 3, 3]);
        let lengths: BTreeSet<usize> = (1..=256).map(|count| padded(vec![0; count]).len()).collect();
        assert_eq!(Vec::from_iter(lengths), [1, 2, 4, 8, 16, 32, 64, 96, 128, 160, 192, 224, 256]);
        assert!((1..=256).all(|count| padded(vec![0; count]).len() >= count));
    }
}
