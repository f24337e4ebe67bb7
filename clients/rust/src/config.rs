//! Who connects, where to, and how patiently.

use crate::{
    endpoint::{Endpoint, TransportKind},
    error::ConfigError,
};
use billfish_wire::{
    Encoding,
    limits::{APP_ID_DEFAULT, APP_ID_MIN, ID_MAX, USER_ID_MIN},
};
use std::{
    fmt::{self, Debug, Formatter},
    future::Future,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

/// Everything a [`crate::Client`] is told once.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// Business line.
    pub app_id: i32,
    /// Who.
    pub user_id: i64,
    /// Asked for a token before every connect.
    pub tokens: TokenProvider,
    /// Gateways, `[scheme://]host:port`, for when a ticket names none. See [`TransportKind`] for the schemes; without one it is plain TCP.
    /// Of several kinds the one that is liked best is tried first, and the others a moment later: whoever can block TLS brings an app
    /// that also names plain addresses to speak plainly.
    pub addresses: Vec<String>,
    /// Whose certificates are believed.
    pub roots: Roots,
    /// Tried first for the first minutes, as the kind of the last connection is afterwards. An app may keep what [`crate::Event::Connected`] says, and
    /// so spare its user the wait for what this network does not let through.
    pub transport_first: Option<TransportKind>,
    /// How bodies are written.
    pub encoding: Encoding,
    /// Kind of device: a login on the same kind elsewhere ends this one.
    pub platform: Option<String>,
    /// The device's own id, for the operator's logs.
    pub device_id: Option<String>,
    /// Version of the app.
    pub version: Option<String>,
    /// Read the inbox at every login.
    pub inbox: bool,
    /// The first pause after a lost connection is chosen between nothing and this, every further one between nothing and twice as much.
    pub backoff_min: Duration,
    /// No pause is longer, however long the server is away.
    pub backoff_max: Duration,
    /// From the first packet of a connect to its end.
    pub connect_timeout: Duration,
    /// For the token, before it counts as refused.
    pub token_timeout: Duration,
    /// Events kept for an app that is busy. When they are full the socket is no longer read: the gateway then drops by class what this
    /// reader is too slow for, and counts it. Nothing is dropped here.
    pub events_max: usize,
    /// Makes pauses and the choice of addresses repeatable, for tests. `None`: different in every process, as a thousand clients that come
    /// back must be.
    pub jitter_seed: Option<u64>,
}

impl ClientConfig {
    /// The defaults for a user of the default app.
    #[must_use]
    pub fn new(user_id: i64, tokens: TokenProvider) -> Self {
        Self {
            app_id: APP_ID_DEFAULT,
            user_id,
            tokens,
            addresses: Vec::new(),
            roots: Roots::default(),
            transport_first: None,
            encoding: Encoding::Json,
            platform: None,
            device_id: None,
            version: None,
            inbox: true,
            backoff_min: Duration::from_secs(1),
            backoff_max: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(5),
            token_timeout: Duration::from_secs(10),
            events_max: 256,
            jitter_seed: None,
        }
    }

    /// Refuses what cannot work, by name.
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        let checks = [
            (self.app_id >= APP_ID_MIN, "app_id", "must be at least 10000"),
            ((USER_ID_MIN..=ID_MAX).contains(&self.user_id), "user_id", "must be at least 10000 and below 2^53"),
            (self.events_max > 0, "events_max", "must be at least 1"),
            (!self.backoff_min.is_zero(), "backoff_min", "must be above zero, or a server that is away is asked without a pause"),
            (self.backoff_max >= self.backoff_min, "backoff_max", "must not be below backoff_min"),
            (!self.connect_timeout.is_zero(), "connect_timeout", "must be above zero"),
            (!self.token_timeout.is_zero(), "token_timeout", "must be above zero"),
        ];
        for address in &self.addresses {
            Endpoint::read(address, TransportKind::Tcp).map_err(|problem| ConfigError::Field { field: "addresses", problem })?;
        }
        match checks.into_iter().find(|(holds, ..)| !holds) {
            Some((_, field, problem)) => Err(ConfigError::Field { field, problem }),
            None => Ok(()),
        }
    }
}

/// Whose certificates are believed.
#[derive(Clone, PartialEq, Eq)]
pub struct Roots {
    /// Those of the platform.
    pub platform: bool,
    /// And these, in PEM, one behind the other: a private authority, or the development certificate of a server.
    pub more_pem: String,
}

impl Default for Roots {
    fn default() -> Self {
        Self { platform: true, more_pem: String::new() }
    }
}

/// Kilobytes of PEM are of no use in a log.
impl Debug for Roots {
    fn fmt(&self, to: &mut Formatter<'_>) -> fmt::Result {
        to.debug_struct("Roots").field("platform", &self.platform).finish_non_exhaustive()
    }
}

/// What it takes to connect once.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Ticket {
    /// For LOGIN.
    pub token: String,
    /// Gateways, `[scheme://]host:port`; empty: those of [`ClientConfig::addresses`].
    pub addresses: Vec<String>,
}

/// The token stays out of logs.
impl Debug for Ticket {
    fn fmt(&self, to: &mut Formatter<'_>) -> fmt::Result {
        to.debug_struct("Ticket").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

/// Why there is no token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The service is away: asked again with back-off.
    #[error("no token: {0}")]
    Away(String),
    /// This user gets none: the session is over.
    #[error("token refused: {0}")]
    Refused(String),
}

type TokenFuture = Pin<Box<dyn Future<Output = Result<Ticket, TokenError>> + Send>>;

/// The app's way to a token: an async closure.
#[derive(Clone)]
pub struct TokenProvider(Arc<dyn Fn() -> TokenFuture + Send + Sync>);

impl TokenProvider {
    /// `fetch` is called before every connect, never twice at a time.
    pub fn new<F>(fetch: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<Ticket, TokenError>> + Send + 'static,
    {
        Self(Arc::new(move || Box::pin(fetch())))
    }

    pub(crate) fn fetch(&self) -> TokenFuture {
        (self.0)()
    }
}

impl Debug for TokenProvider {
    fn fmt(&self, to: &mut Formatter<'_>) -> fmt::Result {
        to.write_str("TokenProvider")
    }
}

#[cfg(test)]
mod tests {
    use super::{ClientConfig, Ticket, TokenProvider};
    use crate::error::ConfigError;
    use std::time::Duration;

    fn config() -> ClientConfig {
        ClientConfig::new(10_086, TokenProvider::new(|| async { Ok(Ticket::default()) }))
    }

    #[test]
    fn the_defaults_are_valid_and_each_bad_field_is_named() {
        assert_eq!(config().validate(), Ok(()));
        let bad = [
            (ClientConfig { app_id: 9_999, ..config() }, "app_id"),
            (ClientConfig { user_id: 9_999, ..config() }, "user_id"),
            (ClientConfig { user_id: 1 << 53, ..config() }, "user_id"),
            (ClientConfig { events_max: 0, ..config() }, "events_max"),
            (ClientConfig { backoff_min: Duration::ZERO, ..config() }, "backoff_min"),
            (ClientConfig { backoff_max: Duration::from_millis(1), ..config() }, "backoff_max"),
            (ClientConfig { addresses: vec!["http://gw:80".to_owned()], ..config() }, "addresses"),
        ];
        for (config, name) in bad {
            let Err(ConfigError::Field { field, .. }) = config.validate() else { panic!("{name} was believed") };
            assert_eq!(field, name);
        }
    }

    #[test]
    fn a_ticket_in_a_log_line_hides_its_token() {
        let ticket = Ticket { token: "secret".to_owned(), addresses: vec!["a:1".to_owned()] };
        let text = format!("{ticket:?}");
        assert!(text.contains("a:1") && !text.contains("secret"), "{text}");
    }
}
