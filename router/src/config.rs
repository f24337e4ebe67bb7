//! The router's configuration: one struct per concern, validated before anything starts.

use serde::{Deserialize, Serialize};
use std::{fmt, net::SocketAddr, time::Duration};

/// A value that cannot work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("router.{key}: {problem}")]
pub struct ConfigError {
    /// The key as it stands in the file, below `router`.
    pub key: &'static str,
    /// What is wrong with it.
    pub problem: String,
}

/// Everything a router can be told.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RouterConfig {
    /// Name of this node, unique among routers. Letters, digits, `-`, `.` and `_`.
    pub node: String,
    /// Links from gateways, and between routers.
    pub link: LinkConfig,
    /// Rooms and their ownership.
    pub room: RoomConfig,
    /// The guards of chat.
    pub chat: ChatConfig,
    /// Pushes from the business backend.
    pub push: PushConfig,
    /// Between two heartbeats of a client; must be the gateways' value. How many of them a client may be silent is theirs to say, too
    /// (`gateway.session.silent_gaps`): the longest silence that any of them waits counts.
    #[serde(with = "humantime_serde")]
    pub heartbeat: Duration,
    /// Life of a login token.
    #[serde(with = "humantime_serde")]
    pub token_life: Duration,
    /// How long a taken message is remembered for de-duplication.
    #[serde(with = "humantime_serde")]
    pub dedup_life: Duration,
    /// How long a drain waits for what is in flight.
    #[serde(with = "humantime_serde")]
    pub grace: Duration,
}

/// Links from gateways, and between routers.
#[derive(Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct LinkConfig {
    /// Where gateways of other processes and other routers dial in; none: only links within this process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<SocketAddr>,
    /// Where others dial in, as `host:port`; none: the address that was bound. Required where `listen` names no host (0.0.0.0).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advertise: Option<String>,
    /// What both ends must know. Required with `listen`.
    pub secret: String,
    /// How long a push of class 0 or 1 waits for a link without credit, before it is dropped and counted. One room waits this long
    /// once per stall of a gateway, not once per push.
    #[serde(with = "humantime_serde")]
    pub stall_wait: Duration,
}

/// Rooms and their ownership.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RoomConfig {
    /// Calls waiting in one room's queue; beyond it the caller hears 5001. 1,024 at 10 µs each is 10 ms of delay.
    pub queue_calls_max: usize,
    /// Rooms active at once on this router. An idle one costs about 2 KiB.
    pub rooms_max: usize,
    /// Members of one room, all devices together. A seat costs about 64 bytes.
    pub members_max: usize,
    /// A room without members is put aside after this.
    #[serde(with = "humantime_serde")]
    pub idle_after: Duration,
    /// Life of an ownership lease; renewed after a third of it, and no call to the shared state may take longer than the rest.
    #[serde(with = "humantime_serde")]
    pub lease: Duration,
    /// Joins of rooms that are not there, per user and minute; beyond it every join is refused until the minute is over.
    pub failed_joins_per_minute: u32,
}

/// The guards of chat.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ChatConfig {
    /// Messages of one user within `user_window`.
    pub user_messages_max: u32,
    /// The window of `user_messages_max`.
    #[serde(with = "humantime_serde")]
    pub user_window: Duration,
    /// One-to-one messages of one user to receivers who are not connected, within `offline_window`: each stays in an inbox for days.
    pub offline_messages_max: u32,
    /// The window of `offline_messages_max`.
    #[serde(with = "humantime_serde")]
    pub offline_window: Duration,
    /// Messages per second that every viewer of a room gets; above it each viewer gets a sample of about this rate.
    pub room_messages_per_s: u32,
}

/// Pushes from the business backend.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct PushConfig {
    /// Between two gateways of a push to everyone: spreads the work of the shards behind them.
    #[serde(with = "humantime_serde")]
    pub everyone_pace: Duration,
}

impl Default for RouterConfig {
    fn default() -> Self {
        Self {
            node: "router-1".to_owned(),
            link: LinkConfig::default(),
            room: RoomConfig::default(),
            chat: ChatConfig::default(),
            push: PushConfig::default(),
            heartbeat: Duration::from_secs(30),
            token_life: Duration::from_secs(5 * 60),
            dedup_life: Duration::from_secs(5 * 60),
            grace: Duration::from_secs(10),
        }
    }
}

impl Default for LinkConfig {
    fn default() -> Self {
        Self { listen: None, advertise: None, secret: String::new(), stall_wait: Duration::from_millis(200) }
    }
}

impl LinkConfig {
    /// The address that others are told; none without a link port. Once the port is bound, `listen` has its number.
    pub(crate) fn advertised(&self) -> Option<String> {
        self.listen.map(|bound| self.advertise.clone().unwrap_or_else(|| bound.to_string()))
    }
}

/// The secret is never shown.
impl fmt::Debug for LinkConfig {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("LinkConfig")
            .field("listen", &self.listen)
            .field("advertise", &self.advertise)
            .field("stall_wait", &self.stall_wait)
            .finish_non_exhaustive()
    }
}

impl Default for RoomConfig {
    fn default() -> Self {
        Self {
            queue_calls_max: 1_024,
            rooms_max: 100_000,
            members_max: 500_000,
            idle_after: Duration::from_secs(5 * 60),
            lease: Duration::from_secs(6),
            failed_joins_per_minute: 20,
        }
    }
}

impl RoomConfig {
    /// Longest call to the shared state that still renews a lease before it has run out.
    #[must_use]
    pub fn renewal_max(&self) -> Duration {
        self.lease - self.lease / RENEWALS_PER_LEASE
    }
}

impl Default for ChatConfig {
    fn default() -> Self {
        Self {
            user_messages_max: 5,
            user_window: Duration::from_secs(3),
            offline_messages_max: 60,
            offline_window: Duration::from_secs(3_600),
            room_messages_per_s: 100,
        }
    }
}

impl Default for PushConfig {
    fn default() -> Self {
        Self { everyone_pace: Duration::from_millis(5) }
    }
}

/// So that one renewal may fail.
pub(crate) const RENEWALS_PER_LEASE: u32 = 3;
/// Longest node name: it stands in every route and lease.
const NODE_BYTES_MAX: usize = 64;

impl RouterConfig {
    /// Checks what serde cannot.
    ///
    /// # Errors
    /// The first key that cannot work.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let wrong = |key, problem: &str| Err(ConfigError { key, problem: problem.to_owned() });
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        if self.node.is_empty() || self.node.len() > NODE_BYTES_MAX || !self.node.bytes().all(legal) {
            return wrong("node", "1 to 64 letters, digits, '-', '.' or '_'");
        }
        if self.link.listen.is_some() && self.link.secret.is_empty() {
            return wrong("link.secret", "required with link.listen");
        }
        if self.link.listen.is_some() && self.link.secret.len() < SECRET_BYTES_MIN && !is_mask(&self.link.secret) {
            return wrong("link.secret", "at least 16 characters: whoever knows it may speak for every user");
        }
        match &self.link.advertise {
            Some(_) if self.link.listen.is_none() => return wrong("link.advertise", "needs link.listen"),
            Some(address) if !has_host_and_port(address) => return wrong("link.advertise", "must be host:port, of at most 255 characters"),
            None if self.link.listen.is_some_and(|listen| listen.ip().is_unspecified()) => {
                return wrong("link.advertise", "required where link.listen is 0.0.0.0 or [::]: others cannot dial that");
            }
            Some(_) | None => {}
        }
        let counts = [
            ("room.queue_calls_max", self.room.queue_calls_max),
            ("room.rooms_max", self.room.rooms_max),
            ("room.members_max", self.room.members_max),
            ("room.failed_joins_per_minute", self.room.failed_joins_per_minute as usize),
            ("chat.user_messages_max", self.chat.user_messages_max as usize),
            ("chat.offline_messages_max", self.chat.offline_messages_max as usize),
            ("chat.room_messages_per_s", self.chat.room_messages_per_s as usize),
        ];
        if let Some((key, _)) = counts.into_iter().find(|(_, count)| *count == 0) {
            return wrong(key, "must be at least 1");
        }
        if self.room.queue_calls_max > QUEUE_CALLS_TOP {
            return wrong("room.queue_calls_max", "at most 65536");
        }
        let (second, hour) = (Duration::from_secs(1), Duration::from_secs(3600));
        let durations = [
            ("heartbeat", self.heartbeat, second, hour),
            ("token_life", self.token_life, second, hour * 24),
            ("dedup_life", self.dedup_life, second, hour * 24),
            ("grace", self.grace, Duration::ZERO, hour),
            ("link.stall_wait", self.link.stall_wait, Duration::ZERO, second * 10),
            ("room.idle_after", self.room.idle_after, second, hour * 24),
            ("room.lease", self.room.lease, second, hour),
            ("chat.user_window", self.chat.user_window, Duration::from_millis(1), hour),
            ("chat.offline_window", self.chat.offline_window, second, hour * 24 * 7),
            ("push.everyone_pace", self.push.everyone_pace, Duration::ZERO, second),
        ];
        for (key, value, least, most) in durations {
            if value < least || value > most {
                return wrong(key, &format!("must be between {least:?} and {most:?}"));
            }
        }
        Ok(())
    }

    /// Two heartbeat gaps: the least silence after which somebody is gone, whatever the gateways say.
    pub(crate) fn silence_ms(&self) -> u64 {
        crate::clock::millis(self.heartbeat * 2)
    }
}

/// A longer queue would only hide that the room cannot keep up.
const QUEUE_CALLS_TOP: usize = 65_536;

/// Shortest secret of links: 16 characters of hex are 64 bits.
const SECRET_BYTES_MIN: usize = 16;

/// What a printed configuration shows in place of a secret. Legal to check, so that what is printed is a configuration; never to start with.
#[must_use]
pub fn is_mask(secret: &str) -> bool {
    !secret.is_empty() && secret.bytes().all(|byte| byte == b'*')
}

/// Longest address that others are told: a host name has 253 characters.
const ADDRESS_BYTES_MAX: usize = 255;

fn has_host_and_port(address: &str) -> bool {
    let parts = address.rsplit_once(':').filter(|_| address.len() <= ADDRESS_BYTES_MAX);
    parts.is_some_and(|(host, port)| {
        let is_text = !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_graphic());
        is_text && port.parse::<u16>().is_ok_and(|port| port != 0)
    })
}

#[cfg(test)]
mod tests {
    use super::RouterConfig;
    use std::time::Duration;

    #[test]
    fn the_defaults_are_valid_and_an_empty_file_means_them() {
        let config = RouterConfig::default();
        assert_eq!(config.validate(), Ok(()));
        let read: RouterConfig = serde_json::from_str("{}").unwrap();
        assert_eq!(read, config);
    }

    #[test]
    fn a_wrong_value_is_named_by_its_key() {
        type Case = (&'static str, fn(&mut RouterConfig));
        const SECRET: &str = "0123456789abcdef";
        let cases: [Case; 9] = [
            ("node", |config| config.node = "a b".to_owned()),
            ("link.secret", |config| config.link.listen = Some(([127, 0, 0, 1], 0).into())),
            ("link.secret", |config| {
                config.link.listen = Some(([127, 0, 0, 1], 0).into());
                config.link.secret = SECRET[1..].to_owned();
            }),
            ("link.advertise", |config| config.link.advertise = Some("router-1.internal:7001".to_owned())),
            ("link.advertise", |config| {
                config.link.listen = Some(([127, 0, 0, 1], 0).into());
                config.link.secret = SECRET.to_owned();
                config.link.advertise = Some("router-1.internal".to_owned());
            }),
            ("link.advertise", |config| {
                config.link.listen = Some(([0, 0, 0, 0], 7_001).into());
                config.link.secret = SECRET.to_owned();
            }),
            ("room.queue_calls_max", |config| config.room.queue_calls_max = 0),
            ("chat.room_messages_per_s", |config| config.chat.room_messages_per_s = 0),
            ("room.lease", |config| config.room.lease = Duration::from_millis(1)),
        ];
        for (key, spoil) in cases {
            let mut config = RouterConfig::default();
            spoil(&mut config);
            assert_eq!(config.validate().unwrap_err().key, key);
        }
    }

    #[test]
    fn an_unknown_key_is_refused() {
        assert!(serde_json::from_str::<RouterConfig>(r#"{"rooom": {}}"#).is_err());
        assert!(serde_json::from_str::<RouterConfig>(r#"{"room": {"lese": "3s"}}"#).is_err());
    }
}
