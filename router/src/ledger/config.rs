//! Where the records are: the section `ledger` of the configuration.
//!
//! The URL may hold a password. It is shown by nothing here: not by `Debug`, not by an error, not by [`LedgerConfig::masked`].

use serde::{Deserialize, Serialize};
use sqlx::mysql::MySqlConnectOptions;
use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

/// The records' file in the data directory, where no URL says otherwise.
pub(super) const FILE: &str = "billfish.db";
/// Fewer would let one slow call hold up every other.
const CONNECTIONS_MIN: u32 = 2;
/// MySQL takes 151 connections by default, for all routers and people together.
const CONNECTIONS_MAX: u32 = 64;
/// Less would be missed by a healthy database now and then: a commit waits for its disk.
const CALL_TIMEOUT_MIN: Duration = Duration::from_millis(100);
/// Callers wait ten seconds at most for an answer, and two for "try again later".
const CALL_TIMEOUT_MAX: Duration = Duration::from_secs(5);
/// More would only wait for each other's rows, and for the server's one log.
const TILL_WRITERS_MAX: usize = 16;
/// Less than two transactions' worth refuses gifts that could be paid at once.
const TILL_QUEUE_MIN: usize = 16;
/// More could not be paid within a call's time.
const TILL_QUEUE_MAX: usize = 65_536;
/// Gifts that stand in the outbox for longer than five seconds are taken for untold.
const TOLD_AFTER_MAX: Duration = Duration::from_secs(3);
/// A look reads all there is.
const AUDIT_EVERY_MIN: Duration = Duration::from_secs(10);
/// Whoever looks less often wants to look by hand.
const AUDIT_EVERY_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// What stands where a password was.
const MASK: &str = "********";

/// Where the records are.
#[derive(Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct LedgerConfig {
    /// Empty: the SQLite file `billfish.db` in the data directory. `sqlite:PATH`: that SQLite file. `mysql://user:password@host:port/db`: a
    /// MySQL or MariaDB server, whose database must be there; its tables are made.
    pub url: String,
    /// Connections to a MySQL server, at most. An SQLite file has one that writes and four that read.
    pub connections_max: u32,
    /// How long a call waits for its answer, a connection included, before its caller hears that the records are away.
    #[serde(with = "humantime_serde")]
    pub call_timeout: Duration,
    /// Connections to a MySQL server that pay gifts, each those of its share of the rooms: some of `connections_max`, and always one fewer at
    /// least. An SQLite file has one.
    pub till_writers: usize,
    /// Gifts that wait to be paid at each of them; beyond it the caller hears 5001 at once.
    pub till_queue_max: usize,
    /// How long gifts that were told to their room stay in the outbox: longer than their pushes need to the viewers. A router that dies sooner, and
    /// with it the room's log where that is in memory, tells them again.
    #[serde(with = "humantime_serde")]
    pub told_after: Duration,
    /// Between two looks over all the money, whether it adds up; 0: none. One of the routers looks for all.
    #[serde(with = "humantime_serde")]
    pub audit_every: Duration,
}

/// A value that cannot work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("ledger.{key}: {problem}")]
pub struct LedgerConfigError {
    /// The key as it stands in the file, below `ledger`.
    pub key: &'static str,
    /// What is wrong with it.
    pub problem: String,
}

/// What the URL names.
pub(super) enum Place {
    /// An SQLite file.
    File(PathBuf),
    /// A database of a server.
    Server(Box<MySqlConnectOptions>),
}

impl Default for LedgerConfig {
    fn default() -> Self {
        // 1.8 s: with the way back to the caller, "try again later" is there within two seconds.
        Self {
            url: String::new(),
            connections_max: 8,
            call_timeout: Duration::from_millis(1_800),
            till_writers: 2,
            // A fifth of a second at 10,000 gifts a second.
            till_queue_max: 2_048,
            told_after: Duration::from_secs(1),
            audit_every: Duration::from_secs(3600),
        }
    }
}

/// The password is never shown.
impl fmt::Debug for LedgerConfig {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("LedgerConfig")
            .field("url", &without_password(&self.url))
            .field("connections_max", &self.connections_max)
            .field("call_timeout", &self.call_timeout)
            .field("till_writers", &self.till_writers)
            .field("till_queue_max", &self.till_queue_max)
            .field("told_after", &self.told_after)
            .field("audit_every", &self.audit_every)
            .finish()
    }
}

impl LedgerConfig {
    /// Checks every value.
    ///
    /// # Errors
    /// Names the key.
    pub fn validate(&self) -> Result<(), LedgerConfigError> {
        self.place(Path::new("")).map(drop)?;
        if !(CONNECTIONS_MIN..=CONNECTIONS_MAX).contains(&self.connections_max) {
            return wrong("connections_max", format!("must be from {CONNECTIONS_MIN} to {CONNECTIONS_MAX}"));
        }
        if !(CALL_TIMEOUT_MIN..=CALL_TIMEOUT_MAX).contains(&self.call_timeout) {
            return wrong("call_timeout", "must be from 100ms to 5s");
        }
        if !(1..=TILL_WRITERS_MAX).contains(&self.till_writers) {
            return wrong("till_writers", format!("must be from 1 to {TILL_WRITERS_MAX}"));
        }
        if !(TILL_QUEUE_MIN..=TILL_QUEUE_MAX).contains(&self.till_queue_max) {
            return wrong("till_queue_max", format!("must be from {TILL_QUEUE_MIN} to {TILL_QUEUE_MAX}"));
        }
        if self.told_after > TOLD_AFTER_MAX {
            return wrong("told_after", "must be at most 3s");
        }
        if !self.audit_every.is_zero() && !(AUDIT_EVERY_MIN..=AUDIT_EVERY_MAX).contains(&self.audit_every) {
            return wrong("audit_every", "must be 0s, or from 10s to 7days");
        }
        Ok(())
    }

    /// The same without the password, to be shown.
    #[must_use]
    pub fn masked(&self) -> Self {
        Self { url: without_password(&self.url), ..self.clone() }
    }

    /// What the URL names.
    pub(super) fn place(&self, data_dir: &Path) -> Result<Place, LedgerConfigError> {
        let url = self.url.as_str();
        if url.is_empty() {
            return Ok(Place::File(data_dir.join(FILE)));
        }
        if let Some(path) = url.strip_prefix("sqlite:") {
            return file(path.strip_prefix("//").unwrap_or(path)).map(Place::File);
        }
        if url.starts_with("mysql://") || url.starts_with("mariadb://") {
            return server(url).map(|options| Place::Server(Box::new(options)));
        }
        // Not repeated here: what is no URL may still hold a password.
        wrong("url", "must be empty, sqlite:PATH or mysql://user:password@host:port/database")
    }
}

fn file(path: &str) -> Result<PathBuf, LedgerConfigError> {
    let path = Path::new(path);
    if path.file_name().is_none() || path.as_os_str() == ":memory:" {
        return wrong("url", "sqlite: must be followed by the path of a file");
    }
    // The lock's file stands beside the records and has this ending.
    if path.extension().is_some_and(|ending| ending == "lock") {
        return wrong("url", "the records' file must not end in .lock");
    }
    if path.to_str().is_some_and(|path| path.contains('?')) {
        return wrong("url", "sqlite: takes a path alone, without parameters");
    }
    Ok(path.to_owned())
}

fn server(url: &str) -> Result<MySqlConnectOptions, LedgerConfigError> {
    // Its error repeats nothing of the URL.
    let options = MySqlConnectOptions::from_str(url).map_err(|error| LedgerConfigError {
        key: "url",
        problem: format!("cannot be read ({error}); a password's special characters are written as %XX"),
    })?;
    if options.get_database().is_none_or(|database| database.is_empty() || database.contains('/')) {
        return wrong("url", "names no database: mysql://user:password@host:port/database");
    }
    Ok(options)
}

/// The URL with its password masked. Where it cannot be told apart, everything up to the host is.
fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    // The last one: an unescaped `@` in a password must not show the rest of it.
    let Some((login, host)) = rest.rsplit_once('@') else { return url.to_owned() };
    match login.split_once(':') {
        Some((user, password)) if !password.is_empty() => format!("{scheme}://{user}:{MASK}@{host}"),
        _ => url.to_owned(),
    }
}

fn wrong<T>(key: &'static str, problem: impl Into<String>) -> Result<T, LedgerConfigError> {
    Err(LedgerConfigError { key, problem: problem.into() })
}

#[cfg(test)]
mod tests {
    use super::{LedgerConfig, Place};
    use std::{path::Path, time::Duration};

    fn at(url: &str) -> LedgerConfig {
        LedgerConfig { url: url.to_owned(), ..LedgerConfig::default() }
    }

    #[test]
    fn the_records_are_a_file_of_the_data_directory_unless_told_otherwise() {
        for (url, expected) in [
            ("", "data/billfish.db"),
            ("sqlite:records.db", "records.db"),
            ("sqlite:/srv/records.db", "/srv/records.db"),
            ("sqlite:///srv/records.db", "/srv/records.db"),
        ] {
            at(url).validate().unwrap();
            assert!(matches!(at(url).place(Path::new("data")).unwrap(), Place::File(path) if path == Path::new(expected)), "{url}");
        }
    }

    #[test]
    fn a_server_is_named_by_url_and_a_password_may_be_written_in_percent() {
        for url in ["mysql://ann@db/records", "mariadb://ann:p%40ss%2F@[::1]:3307/records"] {
            at(url).validate().unwrap();
            let Place::Server(options) = at(url).place(Path::new("")).unwrap() else { panic!("{url}") };
            assert_eq!((options.get_username(), options.get_database()), ("ann", Some("records")));
        }
    }

    #[test]
    fn what_cannot_work_is_refused_by_its_key_and_without_the_password() {
        for url in [
            "records.db",
            "postgres://ann:hunter2@db/records",
            "mysql:ann:hunter2@db",
            "sqlite:",
            "sqlite::memory:",
            "sqlite:/",
            "sqlite:a.lock",
            "sqlite:a.db?mode=ro",
            "mysql://ann:hunter2@db",
            "mysql://ann:hunter2@db/",
            "mysql://ann:hunter2@db/a/b",
            "mysql://ann:hunter2@db:99999/records",
        ] {
            let error = at(url).validate().unwrap_err();
            assert_eq!(error.key, "url", "{url}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
        for connections_max in [0, 1, 65] {
            assert_eq!(LedgerConfig { connections_max, ..at("") }.validate().unwrap_err().key, "connections_max");
        }
        for ms in [0, 99, 5_001] {
            let config = LedgerConfig { call_timeout: Duration::from_millis(ms), ..at("") };
            assert_eq!(config.validate().unwrap_err().key, "call_timeout");
        }
        for till_writers in [0, 17] {
            assert_eq!(LedgerConfig { till_writers, ..at("") }.validate().unwrap_err().key, "till_writers");
        }
        for till_queue_max in [0, 15, 65_537] {
            assert_eq!(LedgerConfig { till_queue_max, ..at("") }.validate().unwrap_err().key, "till_queue_max");
        }
        LedgerConfig { told_after: super::TOLD_AFTER_MAX, ..at("") }.validate().unwrap();
        let config = LedgerConfig { told_after: super::TOLD_AFTER_MAX + Duration::from_millis(1), ..at("") };
        assert_eq!(config.validate().unwrap_err().key, "told_after");
        LedgerConfig { audit_every: Duration::ZERO, ..at("") }.validate().unwrap();
        for seconds in [1, 9, 8 * 24 * 3600] {
            let config = LedgerConfig { audit_every: Duration::from_secs(seconds), ..at("") };
            assert_eq!(config.validate().unwrap_err().key, "audit_every");
        }
    }

    #[test]
    fn a_password_is_shown_nowhere() {
        for (url, shown) in [
            ("mysql://ann:hunter2@db:3306/records", "mysql://ann:********@db:3306/records"),
            ("mysql://ann:hun@ter2@db/records", "mysql://ann:********@db/records"),
            ("mysql://ann@db/records", "mysql://ann@db/records"),
            ("sqlite:/srv/a.db", "sqlite:/srv/a.db"),
            ("", ""),
        ] {
            assert_eq!(at(url).masked().url, shown);
            assert!(format!("{:?}", at(url)).contains(shown) && !format!("{:?}", at(url)).contains("ter2"), "{:?}", at(url));
        }
    }
}
