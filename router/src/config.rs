//! The router's configuration: one struct per concern, validated before anything starts.

use crate::callout::Endpoint;
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
    /// Gifts.
    pub gift: GiftConfig,
    /// The bar of a PK.
    pub pk: PkConfig,
    /// Logins by phone.
    pub login: LoginConfig,
    /// Who brings login codes to phones.
    pub sms: SmsConfig,
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
    /// Only users with the tag VIP may open rooms.
    pub vip_only: bool,
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

/// Gifts.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct GiftConfig {
    /// Gifts of one user within `user_window`, repeats among them.
    pub user_gifts_max: u32,
    /// The window of `user_gifts_max`.
    #[serde(with = "humantime_serde")]
    pub user_window: Duration,
    /// Gifts of one room that wait for the ledger; beyond it the sender hears 5001 and nothing is paid.
    pub room_gifts_max: usize,
    /// Between two pushes of one combo: taps within it are shown as one.
    #[serde(with = "humantime_serde")]
    pub combo_every: Duration,
}

/// The bar of a PK.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct PkConfig {
    /// How long a challenger whose connection is lost may take to come back.
    #[serde(with = "humantime_serde")]
    pub grace: Duration,
    /// Between two pushes of the bar as a state.
    #[serde(with = "humantime_serde")]
    pub bar_every: Duration,
}

impl Default for GiftConfig {
    fn default() -> Self {
        Self { user_gifts_max: 30, user_window: Duration::from_secs(3), room_gifts_max: 1_024, combo_every: Duration::from_millis(300) }
    }
}

impl Default for PkConfig {
    fn default() -> Self {
        Self { grace: Duration::from_secs(10), bar_every: Duration::from_millis(200) }
    }
}

/// Logins by phone.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoginConfig {
    /// How long a code is good.
    #[serde(with = "humantime_serde")]
    pub code_life: Duration,
    /// Between two codes to a phone.
    #[serde(with = "humantime_serde")]
    pub code_gap: Duration,
    /// Codes to a phone within a day. With `code_tries_max` it bounds what can be guessed: 50 of 10,000 a day.
    pub codes_per_day_max: u32,
    /// Wrong codes after which the right one does not help either.
    pub code_tries_max: u32,
    /// Tries to log in with a phone, right or wrong, within a minute.
    pub logins_per_minute_max: u32,
    /// Codes asked for and tries to log in from an address (of IPv6: a /64), within a minute.
    pub address_per_minute_max: u32,
    /// How long a session lasts from its login on.
    #[serde(with = "humantime_serde")]
    pub session_life: Duration,
}

/// Who brings login codes to phones.
#[derive(Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct SmsConfig {
    /// `development` (nothing is sent, the code is 1000) or `http`; none: nobody logs in by phone. Everything in one process takes
    /// `development` where none is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<SmsProvider>,
    /// Where `http` POSTs `{phone, code}`.
    pub url: String,
    /// What `http` signs with, as the receiver knows it.
    pub secret: String,
    /// How long the receiver has for its answer.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// Messages being sent at once; who comes then is told to come again.
    pub calls_max: usize,
}

/// A way to phones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SmsProvider {
    /// Nothing is sent, everybody's code is 1000. For development alone.
    Development,
    /// A server of the operator's, which is called for each.
    Http,
}

impl Default for RouterConfig {
    fn default() -> Self {
        Self {
            node: "router-1".to_owned(),
            link: LinkConfig::default(),
            room: RoomConfig::default(),
            chat: ChatConfig::default(),
            push: PushConfig::default(),
            gift: GiftConfig::default(),
            pk: PkConfig::default(),
            login: LoginConfig::default(),
            sms: SmsConfig::default(),
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
            vip_only: false,
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

impl Default for LoginConfig {
    fn default() -> Self {
        Self {
            code_life: Duration::from_secs(5 * 60),
            code_gap: Duration::from_secs(60),
            codes_per_day_max: 10,
            code_tries_max: 5,
            logins_per_minute_max: 5,
            address_per_minute_max: 60,
            session_life: Duration::from_secs(30 * 24 * 60 * 60),
        }
    }
}

impl Default for SmsConfig {
    fn default() -> Self {
        Self { provider: None, url: String::new(), secret: String::new(), timeout: Duration::from_secs(3), calls_max: 64 }
    }
}

/// The secret is never shown.
impl fmt::Debug for SmsConfig {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("SmsConfig").field("provider", &self.provider).field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

impl SmsConfig {
    /// The key that cannot work, and why.
    fn validate(&self) -> Result<(), (&'static str, String)> {
        if self.provider != Some(SmsProvider::Http) {
            return Ok(());
        }
        Endpoint::check(&self.url).map_err(|problem| ("sms.url", problem.to_owned()))?;
        if self.secret.len() < SECRET_BYTES_MIN && !is_mask(&self.secret) {
            return Err(("sms.secret", "at least 16 characters: whoever knows it can send messages to any phone".to_owned()));
        }
        Ok(())
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
            ("gift.user_gifts_max", self.gift.user_gifts_max as usize),
            ("gift.room_gifts_max", self.gift.room_gifts_max),
            ("login.codes_per_day_max", self.login.codes_per_day_max as usize),
            ("login.code_tries_max", self.login.code_tries_max as usize),
            ("login.logins_per_minute_max", self.login.logins_per_minute_max as usize),
            ("login.address_per_minute_max", self.login.address_per_minute_max as usize),
            ("sms.calls_max", self.sms.calls_max),
        ];
        if let Some((key, _)) = counts.into_iter().find(|(_, count)| *count == 0) {
            return wrong(key, "must be at least 1");
        }
        if self.login.code_tries_max > CODE_TRIES_TOP {
            return wrong("login.code_tries_max", "at most 20: a code has four digits");
        }
        if self.sms.calls_max > SMS_CALLS_TOP {
            return wrong("sms.calls_max", "at most 10000: each is a connection");
        }
        if let Err((key, problem)) = self.sms.validate() {
            return wrong(key, &problem);
        }
        if self.room.queue_calls_max > QUEUE_CALLS_TOP {
            return wrong("room.queue_calls_max", "at most 65536");
        }
        if self.gift.room_gifts_max > QUEUE_CALLS_TOP {
            return wrong("gift.room_gifts_max", "at most 65536");
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
            ("gift.user_window", self.gift.user_window, Duration::from_millis(1), hour),
            ("gift.combo_every", self.gift.combo_every, Duration::ZERO, second * 10),
            ("pk.grace", self.pk.grace, Duration::ZERO, hour),
            ("pk.bar_every", self.pk.bar_every, Duration::ZERO, second * 10),
            ("login.code_life", self.login.code_life, second, hour),
            ("login.code_gap", self.login.code_gap, second, hour),
            ("login.session_life", self.login.session_life, second, hour * 24 * 366),
            ("sms.timeout", self.sms.timeout, Duration::from_millis(1), second * 30),
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

/// With more tries guessing is worth it.
const CODE_TRIES_TOP: u32 = 20;
/// More connections than that no provider takes.
const SMS_CALLS_TOP: usize = 10_000;

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
    use super::{RouterConfig, SmsProvider};
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
        let cases: [Case; 15] = [
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
            ("login.code_tries_max", |config| config.login.code_tries_max = 21),
            ("login.codes_per_day_max", |config| config.login.codes_per_day_max = 0),
            ("login.session_life", |config| config.login.session_life = Duration::ZERO),
            ("sms.url", |config| {
                config.sms.provider = Some(SmsProvider::Http);
                config.sms.secret = SECRET.to_owned();
            }),
            ("sms.secret", |config| {
                config.sms.provider = Some(SmsProvider::Http);
                config.sms.url = "https://sms.example.com/send".to_owned();
            }),
            ("sms.calls_max", |config| config.sms.calls_max = 0),
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
