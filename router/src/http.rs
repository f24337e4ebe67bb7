//! The HTTP API: tokens, online, push, kick, rooms, moderation, profiles, webhooks and stream hooks, for the business backend; logins, sessions and
//! wallets for users; callbacks for who is paid.
//!
//! - A thin skin: reads what was sent, asks the [`Handle`], writes what it answered. No rule of a service stands here.
//! - Every business route wants the API key, every route of a user his session; the rest is signed, or limited. Every error is a problem
//!   document (RFC 9457) with a stable `code`.
//! - Everything is bounded: connections, header time, call time, body, and what is remembered of repeated calls.
//! - What is documented is what is routed: `openapi.json` is made from the handlers, and a test walks it.
//!
//! No body, token, key or query string is logged here.

mod api;
mod auth;
mod caller;
mod docs_page;
mod idempotency;
mod input;
mod metrics;
mod openapi;
mod problem;
mod server;

pub use caller::Network;
pub use server::{Bounds, HttpServer};

use crate::{Handle, config::is_mask, ledger::Ledger, webhooks::Webhooks};
use billfish_state::State;
use prometheus_client::registry::Registry;
use serde::{Deserialize, Serialize};
use std::{io, net::SocketAddr, time::Duration};

/// The HTTP API's configuration.
#[derive(Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpConfig {
    /// Where it listens: on loopback until an operator opens it, for nothing is encrypted here.
    pub listen: SocketAddr,
    /// What `Authorization: Bearer …` must carry. Empty: the command makes one.
    pub api_key: String,
    /// The address callers know this API by, as `https://api.example.com`; stands before the `type` of problems. May be empty.
    pub public_url: String,
    /// Longest body. The longest legal one is a push whose data fills a frame.
    pub body_bytes_max: usize,
    /// Connections at once. Beyond it the one that has had no call for longest ends for the next one; where each has a call under way, the next
    /// ones wait in the kernel's queue.
    pub connections_max: usize,
    /// From a connection's start, or the end of its last call, to the last byte of the next header: cuts slow and silent ones.
    #[serde(with = "humantime_serde")]
    pub header_timeout: Duration,
    /// From the header to the answer. Longer than any store is given.
    #[serde(with = "humantime_serde")]
    pub call_timeout: Duration,
    /// How long the answer to a repeated POST is kept.
    #[serde(with = "humantime_serde")]
    pub repeat_life: Duration,
    /// How long a stop waits for calls under way.
    #[serde(with = "humantime_serde")]
    pub grace: Duration,
    /// Who stands between callers and this API and says in `X-Forwarded-For` who calls: addresses, or networks as `10.0.0.0/8`. From others
    /// that header is not believed.
    pub proxies: Vec<Network>,
    /// Recharges.
    pub recharge: RechargeConfig,
    /// Addresses of video.
    pub streams: StreamsConfig,
}

/// Recharges.
#[derive(Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RechargeConfig {
    /// Who is paid. None: whoever signs with `secret`. Everything in one process takes `development` where neither is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<RechargeProvider>,
    /// What callbacks are signed with. Empty: none is taken, and nobody can order anything.
    pub secret: String,
}

/// Who is paid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RechargeProvider {
    /// Somebody outside, who calls back.
    External,
    /// Nobody: an order counts as paid at once. For development alone.
    Development,
}

/// Shows no secret.
impl std::fmt::Debug for RechargeConfig {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("RechargeConfig").field("provider", &self.provider).finish_non_exhaustive()
    }
}

impl RechargeConfig {
    fn validate(&self) -> Result<(), HttpConfigError> {
        let wrong = |key, problem: &str| Err(HttpConfigError { key, problem: problem.to_owned() });
        if !self.secret.is_empty() && self.secret.len() < API_KEY_BYTES_MIN && !is_mask(&self.secret) {
            return wrong("recharge.secret", "must have at least 16 characters: whoever knows it can fill any wallet");
        }
        if self.provider == Some(RechargeProvider::External) && self.secret.is_empty() {
            return wrong("recharge.secret", "is empty; with an external provider it is what callbacks are signed with");
        }
        Ok(())
    }
}

/// Addresses of video at the media server. `{stream}` stands for the name of an anchor's stream, `{key}` for its secret.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct StreamsConfig {
    /// RTMP, for the anchor's encoder. Empty: none is told.
    pub push: String,
    /// HTTP-FLV, for viewers. Empty: none is told.
    pub flv: String,
    /// HLS, for viewers. Empty: none is told.
    pub hls: String,
}

/// Shows no key.
impl std::fmt::Debug for HttpConfig {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("HttpConfig").field("listen", &self.listen).field("public_url", &self.public_url).finish_non_exhaustive()
    }
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            api_key: String::new(),
            public_url: String::new(),
            body_bytes_max: 64 * 1024,
            connections_max: 1_024,
            header_timeout: Duration::from_secs(15),
            call_timeout: Duration::from_secs(10),
            repeat_life: Duration::from_secs(24 * 60 * 60),
            grace: Duration::from_secs(5),
            proxies: Vec::new(),
            recharge: RechargeConfig::default(),
            streams: StreamsConfig::default(),
        }
    }
}

impl Default for StreamsConfig {
    /// The addresses of an nginx with nginx-http-flv-module beside this process; see `docs/api.md`.
    fn default() -> Self {
        Self {
            push: "rtmp://127.0.0.1:1935/live/{stream}?key={key}".to_owned(),
            flv: "http://127.0.0.1:8088/flv?app=live&stream={stream}".to_owned(),
            hls: "http://127.0.0.1:8088/hls/{stream}.m3u8".to_owned(),
        }
    }
}

/// A value that cannot work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("http.{key}: {problem}")]
pub struct HttpConfigError {
    /// The key as it stands in the file, below `http`.
    pub key: &'static str,
    /// What is wrong with it.
    pub problem: String,
}

/// Shortest API key: 16 characters of hex are 64 bits, which nobody guesses over a network.
const API_KEY_BYTES_MIN: usize = 16;
/// Longest API key: a header is bounded too.
const API_KEY_BYTES_MAX: usize = 256;
/// Networks that are looked through for each login.
const PROXIES_MAX: usize = 64;
/// Largest `body_bytes_max`: a body is held in memory whole.
const BODY_BYTES_TOP: usize = 16 * 1024 * 1024;

impl HttpConfig {
    /// Checks what serde cannot.
    ///
    /// # Errors
    /// The first key that cannot work.
    pub fn validate(&self) -> Result<(), HttpConfigError> {
        let wrong = |key, problem: String| Err(HttpConfigError { key, problem });
        let key = &self.api_key;
        if !key.is_empty() && !is_mask(key) {
            if !(API_KEY_BYTES_MIN..=API_KEY_BYTES_MAX).contains(&key.len()) {
                return wrong(
                    "api_key",
                    format!("must have {API_KEY_BYTES_MIN} to {API_KEY_BYTES_MAX} characters, or be empty to have one made"),
                );
            }
            if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
                return wrong("api_key", "must be letters, digits and signs without spaces: it stands in a header".to_owned());
            }
        }
        let public = &self.public_url;
        if !public.is_empty() && (!(public.starts_with("http://") || public.starts_with("https://")) || public.ends_with('/')) {
            return wrong("public_url", "must begin with http:// or https:// and not end with a slash".to_owned());
        }
        if !(1_024..=BODY_BYTES_TOP).contains(&self.body_bytes_max) {
            return wrong("body_bytes_max", format!("must be between 1024 and {BODY_BYTES_TOP}"));
        }
        if !(1..=65_536).contains(&self.connections_max) {
            return wrong("connections_max", "must be between 1 and 65536".to_owned());
        }
        let (second, hour) = (Duration::from_secs(1), Duration::from_secs(3_600));
        for (key, value, least, most) in [
            ("header_timeout", self.header_timeout, Duration::from_millis(100), hour),
            ("call_timeout", self.call_timeout, Duration::from_millis(100), hour),
            ("repeat_life", self.repeat_life, second, hour * 24 * 7),
            ("grace", self.grace, Duration::ZERO, hour),
        ] {
            if value < least || value > most {
                return wrong(key, format!("must be between {least:?} and {most:?}"));
            }
        }
        if self.proxies.len() > PROXIES_MAX {
            return wrong("proxies", format!("must be at most {PROXIES_MAX}"));
        }
        self.recharge.validate()?;
        let streams = &self.streams;
        let has_both = streams.push.contains("{stream}") && streams.push.contains("{key}");
        if !streams.push.is_empty() && !has_both {
            return wrong("streams.push", "must contain {stream} and {key}".to_owned());
        }
        for (key, template) in [("streams.flv", &streams.flv), ("streams.hls", &streams.hls)] {
            if !template.is_empty() && (!template.contains("{stream}") || template.contains("{key}")) {
                return wrong(key, "must contain {stream}, and not {key}: every viewer sees it".to_owned());
            }
        }
        Ok(())
    }
}

/// What the API speaks for.
#[derive(Clone, Debug)]
pub struct HttpParts {
    /// The router.
    pub handle: Handle,
    /// Where answers to repeated calls are kept.
    pub state: State,
    /// Where stream keys are kept.
    pub ledger: Ledger,
    /// Whom others are told by.
    pub webhooks: Webhooks,
}

/// Why the API did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpError {
    /// A value of the configuration cannot work.
    #[error(transparent)]
    Config(#[from] HttpConfigError),
    /// There is no API key, so nobody could call, or anybody.
    #[error("http.api_key is empty")]
    NoApiKey,
    /// The key is what `check-config` prints in place of one: a key that everybody knows.
    #[error("http.api_key is the mask that check-config prints; put the key there, or nothing")]
    MaskedApiKey,
    /// The same of what recharges are signed with.
    #[error("http.recharge.secret is the mask that check-config prints; put the secret there, or nothing")]
    MaskedSecret,
    /// The system gives no random numbers to make a secret of.
    #[error("no random numbers from the system")]
    NoRandom(#[source] getrandom::Error),
    /// The address is taken, or not ours.
    #[error("cannot listen on {address} for the HTTP API")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        cause: io::Error,
    },
}

/// Starts the API: bound when this returns, served until [`HttpServer::stop`].
///
/// # Errors
/// When the configuration cannot work or the address cannot be bound.
pub async fn start(parts: HttpParts, config: &HttpConfig, registry: &mut Registry) -> Result<HttpServer, HttpError> {
    let handle = parts.handle.clone();
    let service = service(parts, config, registry)?;
    let server = server::start(service, config).await?;
    let public = Some(config.public_url.clone()).filter(|public| !public.is_empty());
    handle.set_http_address(public.unwrap_or_else(|| format!("http://{}", server.address())));
    Ok(server)
}

/// The API as a service, with the calls that outlive their caller.
pub(crate) struct Service {
    pub(crate) router: axum::Router,
    pub(crate) running: tokio_util::task::TaskTracker,
}

/// Puts the layers around the routes; the outermost stands last.
pub(crate) fn service(parts: HttpParts, config: &HttpConfig, registry: &mut Registry) -> Result<Service, HttpError> {
    config.validate()?;
    if config.api_key.is_empty() {
        return Err(HttpError::NoApiKey);
    }
    if is_mask(&config.api_key) {
        return Err(HttpError::MaskedApiKey);
    }
    if is_mask(&config.recharge.secret) {
        return Err(HttpError::MaskedSecret);
    }
    let running = tokio_util::task::TaskTracker::new();
    let repeats = idempotency::Repeats::new(&parts.state, config.repeat_life, config.call_timeout, running.clone());
    let handle = parts.handle.clone();
    let key = auth::ApiKey::new(&config.api_key);
    let openapi::Routes { business, users, both, open, document } = openapi::routes(api::Api::new(parts, config)?);
    let both = both
        .layer(axum::middleware::from_fn_with_state(repeats.clone(), idempotency::answer_repeats))
        .layer(axum::middleware::from_fn_with_state((key.clone(), handle.clone()), auth::require_key_or_session));
    let users = users
        .layer(axum::middleware::from_fn_with_state(repeats.clone(), idempotency::answer_repeats))
        .layer(axum::middleware::from_fn_with_state(handle, auth::require_session));
    let business = business
        .layer(axum::middleware::from_fn_with_state(repeats, idempotency::answer_repeats))
        .layer(axum::middleware::from_fn_with_state(key, auth::require_api_key));
    let router = axum::Router::new()
        .merge(business)
        .merge(users)
        .merge(both)
        .merge(open)
        .merge(docs_page::routes(&document))
        .fallback(problem::no_such_route)
        .method_not_allowed_fallback(problem::no_such_method)
        .layer(axum::extract::DefaultBodyLimit::max(config.body_bytes_max))
        .layer(tower_http::catch_panic::CatchPanicLayer::custom(problem::panicked))
        .layer(axum::middleware::from_fn_with_state(config.call_timeout, server::end_in_time))
        .layer(axum::middleware::from_fn_with_state(problem::TypeBase::new(&config.public_url), problem::finish))
        .layer(axum::middleware::from_fn_with_state(metrics::HttpMetrics::register(registry), metrics::count));
    Ok(Service { router, running })
}

#[cfg(test)]
mod tests;
