//! Private servers and processes for tests and fault runs: Redis, Redis Cluster, MariaDB, whole clusters of Billfish nodes, and a browser.
//!
//! - Everything binds loopback, keeps its files in a temporary directory, and dies with the process that started it, however that ends.
//! - Readiness is polled, never slept for. A node that is killed starts again on the same ports and files.
//! - Ports are fixed ones below the ephemeral range: a dead node's port must not become some client's local port before it is back.
//! - Where a server's program is missing, `start` says so loudly and gives `None`; with `REQUIRE_SERVERS=1` it panics instead.
//!
//! For tests alone: what goes wrong here is a panic with the log of the process that did.
#![forbid(unsafe_code)]

mod api;
mod browser;
mod certificates;
mod cluster;
mod fake_time;
mod maria;
mod node;
mod patience;
mod ports;
mod process;
mod program;
mod proxy;
mod redis;
mod redis_cluster;
mod resp;
mod seeds;
mod sql;
mod standalone;
mod udp_relay;

pub use api::Api;
pub use browser::{Browser, Screen};
pub use certificates::Certificates;
pub use cluster::{Cluster, ClusterOptions, LedgerKind, RedisKind, Shared};
pub use maria::MariaDb;
pub use node::{Node, NodeKind};
pub use patience::{PATIENCE, eventually, eventually_within};
pub use ports::LANE as PORT_LANE;
pub use process::Process;
pub use proxy::{Chaos, ChaosProxy};
pub use redis::{RedisOptions, RedisServer};
pub use redis_cluster::{RedisCluster, RedisClusterOptions, slot_of};
pub use seeds::fuzz_seeds;
pub use sql::{Columns, Sql};
pub use standalone::Standalone;
pub use udp_relay::UdpRelay;
