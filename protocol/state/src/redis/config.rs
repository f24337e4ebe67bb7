//! What a person says about Redis.

use serde::{Deserialize, Serialize};
use std::{fmt, path::PathBuf, time::Duration};

/// Buckets of one app's signs of life; more would make each batch of a gateway more commands than the budget has.
const PRESENCE_BUCKETS_MAX: u16 = 10_000;
/// Commands in flight: what a bound far above any use is, at a kibibyte each a gibibyte.
const IN_FLIGHT_MOST: usize = 1 << 20;
/// A wait beyond this is a mistyped unit.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// `[state.redis]`.
#[derive(Clone, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct RedisConfig {
    /// Where it listens, `host:port`; for a cluster any of its nodes, the more the better.
    pub nodes: Vec<String>,
    /// A Redis Cluster rather than a single server.
    pub cluster: bool,
    /// TLS to every node.
    pub tls: bool,
    /// Certificates that nodes are checked against, PEM; those of the system where not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// ACL user; Redis' own `default` where not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// Its password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// Database of a single server.
    pub database: u16,
    /// Begins every key.
    pub prefix: String,
    /// From the call to its answer.
    #[serde(with = "humantime_serde")]
    pub command_timeout: Duration,
    /// From dialling to the answer to the first command.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// Commands sent and not answered; a call beyond is refused.
    pub in_flight_max: usize,
    /// Sorted sets that each app's signs of life are spread over. The same on every node.
    pub presence_buckets: u16,
    /// Failures in a row after which a server is left alone.
    pub breaker_failures: u32,
    /// For how long, at first.
    #[serde(with = "humantime_serde")]
    pub breaker_open_min: Duration,
    /// For how long, after many trials.
    #[serde(with = "humantime_serde")]
    pub breaker_open_max: Duration,
}

impl Default for RedisConfig {
    fn default() -> Self {
        Self {
            nodes: vec!["127.0.0.1:6379".to_owned()],
            cluster: false,
            tls: false,
            ca_file: None,
            username: None,
            password: None,
            database: 0,
            prefix: "im:".to_owned(),
            command_timeout: Duration::from_millis(300),
            connect_timeout: Duration::from_secs(1),
            in_flight_max: 4096,
            presence_buckets: 16,
            breaker_failures: 5,
            breaker_open_min: Duration::from_millis(500),
            breaker_open_max: Duration::from_secs(5),
        }
    }
}

impl fmt::Debug for RedisConfig {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            nodes,
            cluster,
            tls,
            ca_file,
            username,
            password,
            database,
            prefix,
            command_timeout,
            connect_timeout,
            in_flight_max,
            presence_buckets,
            breaker_failures,
            breaker_open_min,
            breaker_open_max,
        } = self;
        formatter
            .debug_struct("RedisConfig")
            .field("nodes", nodes)
            .field("cluster", cluster)
            .field("tls", tls)
            .field("ca_file", ca_file)
            .field("username", username)
            .field("password", &password.as_ref().map(|_| "***"))
            .field("database", database)
            .field("prefix", prefix)
            .field("command_timeout", command_timeout)
            .field("connect_timeout", connect_timeout)
            .field("in_flight_max", in_flight_max)
            .field("presence_buckets", presence_buckets)
            .field("breaker_failures", breaker_failures)
            .field("breaker_open_min", breaker_open_min)
            .field("breaker_open_max", breaker_open_max)
            .finish()
    }
}

/// A setting that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {problem}")]
pub struct ConfigError {
    /// Which, as in the file.
    pub key: &'static str,
    /// What is wrong with it.
    pub problem: String,
}

fn wrong<T>(key: &'static str, problem: impl Into<String>) -> Result<T, ConfigError> {
    Err(ConfigError { key, problem: problem.into() })
}

impl RedisConfig {
    /// Checks what can be checked without looking around.
    ///
    /// # Errors
    ///
    /// The first setting that cannot be used.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.nodes.is_empty() {
            return wrong("nodes", "is empty");
        }
        if !self.cluster && self.nodes.len() > 1 {
            return wrong("nodes", "names several servers, but `cluster` is false");
        }
        for node in &self.nodes {
            if Address::parse(node).is_none() {
                return wrong("nodes", format!("{node:?} is not host:port"));
            }
        }
        if self.cluster && self.database != 0 {
            return wrong("database", "a cluster has one database only");
        }
        if self.ca_file.is_some() && !self.tls {
            return wrong("ca_file", "is given, but `tls` is false");
        }
        if self.username.is_some() && self.password.is_none() {
            return wrong("password", "is missing beside `username`");
        }
        if self.prefix.contains(['{', '}']) {
            return wrong("prefix", "braces would put all keys into one slot of a cluster");
        }
        if !(1..=IN_FLIGHT_MOST).contains(&self.in_flight_max) {
            return wrong("in_flight_max", format!("not within 1 and {IN_FLIGHT_MOST}"));
        }
        if !(1..=PRESENCE_BUCKETS_MAX).contains(&self.presence_buckets) {
            return wrong("presence_buckets", format!("not within 1 and {PRESENCE_BUCKETS_MAX}"));
        }
        if self.breaker_failures == 0 {
            return wrong("breaker_failures", "0 failures would open it at once");
        }
        for (key, wait) in [
            ("command_timeout", self.command_timeout),
            ("connect_timeout", self.connect_timeout),
            ("breaker_open_min", self.breaker_open_min),
            ("breaker_open_max", self.breaker_open_max),
        ] {
            if !(Duration::from_millis(1)..=WAIT_MAX).contains(&wait) {
                return wrong(key, "not within 1ms and 1min");
            }
        }
        if self.breaker_open_max < self.breaker_open_min {
            return wrong("breaker_open_max", "is less than breaker_open_min");
        }
        Ok(())
    }
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Address {
    pub(super) host: String,
    pub(super) port: u16,
}

impl Address {
    /// Reads `host:port` or `[v6]:port`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let port = port.parse().ok().filter(|port| *port != 0)?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        (!host.is_empty() && !host.contains(['/', '@'])).then(|| Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(formatter, "[{}]:{}", self.host, self.port)
        } else {
            write!(formatter, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Address, RedisConfig};
    use std::time::Duration;

    fn key_of_the_problem(change: impl FnOnce(&mut RedisConfig)) -> Option<&'static str> {
        let mut config = RedisConfig::default();
        change(&mut config);
        config.validate().err().map(|error| error.key)
    }

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(RedisConfig::default().validate(), Ok(()));
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        assert_eq!(key_of_the_problem(|config| config.nodes.clear()), Some("nodes"));
        assert_eq!(key_of_the_problem(|config| config.nodes = vec!["a:1".to_owned(), "b:1".to_owned()]), Some("nodes"));
        assert_eq!(key_of_the_problem(|config| config.nodes = vec!["redis://a:1".to_owned()]), Some("nodes"));
        assert_eq!(key_of_the_problem(|config| (config.cluster, config.database) = (true, 1)), Some("database"));
        assert_eq!(key_of_the_problem(|config| config.ca_file = Some("ca.pem".into())), Some("ca_file"));
        assert_eq!(key_of_the_problem(|config| config.username = Some("im".to_owned())), Some("password"));
        assert_eq!(key_of_the_problem(|config| config.prefix = "{im}:".to_owned()), Some("prefix"));
        assert_eq!(key_of_the_problem(|config| config.in_flight_max = 0), Some("in_flight_max"));
        assert_eq!(key_of_the_problem(|config| config.presence_buckets = 0), Some("presence_buckets"));
        assert_eq!(key_of_the_problem(|config| config.breaker_failures = 0), Some("breaker_failures"));
        assert_eq!(key_of_the_problem(|config| config.command_timeout = Duration::ZERO), Some("command_timeout"));
        assert_eq!(key_of_the_problem(|config| config.connect_timeout = Duration::from_secs(300)), Some("connect_timeout"));
        assert_eq!(key_of_the_problem(|config| config.breaker_open_max = Duration::from_millis(1)), Some("breaker_open_max"));
    }

    #[test]
    fn a_cluster_may_be_named_by_several_nodes() {
        let several = vec!["a:1".to_owned(), "[::1]:2".to_owned()];
        assert_eq!(key_of_the_problem(|config| (config.cluster, config.nodes) = (true, several)), None);
    }

    #[test]
    fn the_password_is_not_shown() {
        let config = RedisConfig { password: Some("hunter2".to_owned()), ..RedisConfig::default() };
        let shown = format!("{config:?}");
        assert!(!shown.contains("hunter2") && shown.contains("***"), "{shown}");
    }

    #[test]
    fn an_address_is_shown_as_it_is_read() {
        for text in ["127.0.0.1:6379", "redis.internal:7000", "[::1]:6379"] {
            assert_eq!(Address::parse(text).unwrap().to_string(), text);
        }
        for text in ["", "host", ":1", "host:", "host:0", "host:70000", "user@host:1"] {
            assert_eq!(Address::parse(text), None, "{text}");
        }
    }
}
