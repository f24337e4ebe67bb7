//! The Redis adapter: a single server, or a Redis Cluster.
//!
//! - Against the same suite as the in-process adapter, which is its model. What ends is judged by the times that callers pass in: the end
//!   stands in the value, and Redis' own expiry only collects what nobody will ask for again.
//! - Every port speaks through one [`Connection`]: time-outs, breaker, bounds, retries and clusters are its matter alone.
//! - What must be one step is one Lua script on keys of one slot.
//! - Redis may forget, even what it has acknowledged: [`Watch`] tells when it may have.
//!
//! The user that Redis is told needs: `+@read +@write +@scripting +ping +time +select +cluster|info +cluster|slots +asking` on the keys of the prefix.

mod acks;
mod breaker;
mod cache;
mod command;
mod config;
mod connection;
mod dedup;
mod dial;
mod first_look;
mod gather;
mod inbox;
mod keeper;
mod keys;
mod leases;
mod login_codes;
mod members;
mod metrics;
mod pk_bars;
mod presence;
mod pulse;
mod rate_windows;
mod refusal;
mod registry;
mod room_log;
mod routes;
mod server;
mod sessions;
mod slots;
mod stream;
mod tokens;
mod trouble;

pub use config::{ConfigError, RedisConfig};

use crate::clock::Clock;
use crate::port::State;
use crate::watch::Watch;
use breaker::BreakerLimits;
use config::Address;
use connection::{Connection, Limits};
use dial::Dialer;
use gather::Gathering;
use keeper::Keeper;
use keys::Keys;
use metrics::Metrics;
use prometheus_client::registry::Registry;
use server::Change;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// A shared store in Redis. To be kept and then [stopped](Self::stop): dropped, it looks after clock, watch and the servers of a
/// cluster no more, and the connections end with the last of the ports.
pub struct Redis {
    state: State,
    connection: Connection,
    keeper: JoinSet<()>,
}

/// Why the adapter cannot be used as configured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A setting: it cannot be used, or Redis has contradicted it.
    #[error("configuration key `state.redis.{}`: {}", .0.key, .0.problem)]
    Config(ConfigError),
    /// The certificates that servers are to be checked against.
    #[error("cannot use the certificates in {path}")]
    CaFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Redis {
    /// Starts the adapter. Waits for Redis as long as one connection may take, so that the clock is right from the beginning; if it
    /// does not answer, starts all the same and goes on trying. [`Watch::away`] says what is amiss.
    ///
    /// # Errors
    ///
    /// A setting that cannot be used, or that the answer of a server contradicts: another kind of server, TLS on one side alone, a
    /// password that is not taken.
    pub async fn start(config: RedisConfig, registry: &mut Registry) -> Result<Self, StartError> {
        Self::start_as(&pulse::token(), config, registry).await
    }

    /// Starts the adapter of a node by a name that no other has, and that it has in its next life, too: then the time of all is not waited for
    /// longer than needed where its former life ended early in a jump of Redis' clock.
    ///
    /// # Errors
    ///
    /// As [`Self::start`].
    pub async fn start_as(node: &str, config: RedisConfig, registry: &mut Registry) -> Result<Self, StartError> {
        config.validate().map_err(StartError::Config)?;
        let addresses: Vec<_> = config.nodes.iter().filter_map(|node| Address::parse(node)).collect();
        let dialer = Arc::new(Dialer::new(&config)?);
        first_look::look(&dialer, config.cluster, &addresses).await.map_err(StartError::Config)?;
        let watch = Watch::default();
        watch.set_away(Some("Redis has not answered yet".to_owned()));
        let told = watch.clone();
        let connection = Connection::new(
            Keys::new(&config.prefix, config.presence_buckets),
            Metrics::register(registry),
            Limits {
                command_timeout: config.command_timeout,
                in_flight_max: config.in_flight_max,
                breaker: BreakerLimits {
                    failures: config.breaker_failures,
                    open_min: config.breaker_open_min,
                    open_max: config.breaker_open_max,
                },
            },
            dialer,
            move |change| {
                if let Change::Again { may_have_forgotten: true, .. } = change {
                    told.may_have_forgotten();
                }
            },
        );
        let clock = Clock::start();
        let is_ready = watch::Sender::new(false);
        let mut ready = is_ready.subscribe();
        let seeds = if config.cluster { addresses.clone() } else { Vec::new() };
        if !config.cluster {
            connection.use_one(&addresses[0]);
        }
        let mut keeper = JoinSet::new();
        keeper.spawn(
            Keeper {
                node: node.to_owned(),
                connection: connection.clone(),
                seeds,
                clock: clock.clone(),
                watch: watch.clone(),
                cluster_trouble: None,
                write_trouble: None,
                is_ready,
            }
            .run(),
        );
        let server = connection.clone();
        let gathering = Gathering::new(move || server.is_one_server());
        let state = State {
            clock,
            tokens: Arc::new(tokens::RedisTokens::new(connection.clone(), &gathering)),
            presence: Arc::new(presence::RedisPresence::new(connection.clone(), watch.clone())),
            routes: Arc::new(routes::RedisRoutes::new(connection.clone(), &gathering)),
            acks: Arc::new(acks::RedisAcks::new(connection.clone(), watch.clone(), &gathering)),
            inbox: Arc::new(inbox::RedisInbox::new(connection.clone(), watch.clone(), &gathering)),
            room_log: Arc::new(room_log::RedisRoomLog::new(connection.clone())),
            members: Arc::new(members::RedisMembers::new(connection.clone())),
            registry: Arc::new(registry::RedisRegistry::new(connection.clone())),
            leases: Arc::new(leases::RedisLeases::new(connection.clone())),
            rate_windows: Arc::new(rate_windows::RedisRateWindows::new(connection.clone(), &gathering)),
            dedup: Arc::new(dedup::RedisDedup::new(connection.clone())),
            cache: Arc::new(cache::RedisCache::new(connection.clone(), &gathering)),
            pk_bars: Arc::new(pk_bars::RedisPkBars::new(connection.clone())),
            login_codes: Arc::new(login_codes::RedisLoginCodes::new(connection.clone())),
            sessions: Arc::new(sessions::RedisSessions::new(connection.clone(), &gathering)),
            watch,
            layout: Arc::new([("state.redis.presence_buckets".to_owned(), config.presence_buckets.to_string())].into()),
        };
        // Whether it is ready by then is told by the watch.
        drop(timeout(config.connect_timeout, ready.wait_for(|is_ready| *is_ready)).await);
        Ok(Self { state, connection, keeper })
    }

    /// The ports. They fail once the adapter has stopped.
    #[must_use]
    pub fn state(&self) -> State {
        self.state.clone()
    }

    /// Ends all tasks and connections.
    pub async fn stop(mut self) {
        self.keeper.shutdown().await;
        self.connection.stop().await;
        self.state.watch.set_away(Some("stopped".to_owned()));
    }
}

impl std::fmt::Debug for Redis {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Redis")
    }
}

/// How long Redis keeps what ends at `until_ms`, in ms: long past the end, which is judged by the caller's clock, so that what
/// somebody may still ask for is there although Redis' own clock jumped ahead. Never so long that Redis would not take it.
fn life(now_ms: u64, until_ms: u64) -> u64 {
    short_life(now_ms, until_ms) + JUMP_MARGIN_MS
}

/// The same for what is written so often that Redis could not hold it for hours, and is missed by nobody.
fn short_life(now_ms: u64, until_ms: u64) -> u64 {
    until_ms.saturating_sub(now_ms).min(LIFE_MAX_MS) + LIFE_MARGIN_MS
}

/// For clocks that differ, and times that were taken a while ago.
const LIFE_MARGIN_MS: u64 = 60_000;
/// For a clock of Redis that jumps: a summer time that was taken for the time, both ways.
const JUMP_MARGIN_MS: u64 = 2 * 3600 * 1000;
/// "For ever" is ten years.
const LIFE_MAX_MS: u64 = 10 * 365 * 24 * 3600 * 1000;
