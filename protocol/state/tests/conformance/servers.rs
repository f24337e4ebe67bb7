//! Stores in a private redis-server, and in a private cluster of three. Each store has a prefix of its own.
//!
//! Tests of one process that run at the same time share a server; it goes with the last of them.

use crate::suite::Store;
use billfish_state::State;
use billfish_state::redis::{Redis, RedisConfig};
use billfish_testing::{RedisCluster, RedisOptions, RedisServer};
use prometheus_client::registry::Registry;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

/// These tests are about answers, not about how soon they come: a machine that compiles beside them must not fail them.
const PATIENCE: Duration = Duration::from_secs(20);
/// Primaries of the cluster.
const PRIMARIES: usize = 3;

pub(crate) struct Single;

static SINGLE: Mutex<Weak<RedisServer>> = Mutex::new(Weak::new());

impl Store for Single {
    type Server = Arc<RedisServer>;
    const HISTORIES: u32 = 32;

    fn server() -> Option<Self::Server> {
        // Nothing is killed here: syncing files would only take time.
        shared(&SINGLE, || RedisServer::start_with(RedisOptions { appendonly: false, ..RedisOptions::default() }))
    }

    async fn fresh() -> State {
        let server = Self::server().expect("the test holds it");
        start(RedisConfig { nodes: vec![server.address().to_string()], ..RedisConfig::default() }).await
    }
}

pub(crate) struct Cluster;

static CLUSTER: Mutex<Weak<RedisCluster>> = Mutex::new(Weak::new());

impl Store for Cluster {
    type Server = Arc<RedisCluster>;
    const HISTORIES: u32 = 8;

    fn server() -> Option<Self::Server> {
        shared(&CLUSTER, || {
            let cluster = RedisCluster::start(PRIMARIES, 0)?;
            for index in 0..cluster.len() {
                // Nobody is to be given up because the machine is busy, and nothing is to survive.
                for setting in [["cluster-node-timeout", "60000"], ["appendonly", "no"]] {
                    cluster.node(index).command(&["CONFIG", "SET", setting[0], setting[1]]).unwrap();
                }
            }
            Some(cluster)
        })
    }

    async fn fresh() -> State {
        let cluster = Self::server().expect("the test holds it");
        let nodes = cluster.addresses().iter().map(ToString::to_string).collect();
        start(RedisConfig { nodes, cluster: true, ..RedisConfig::default() }).await
    }
}

/// The one that another test holds, or one of our own.
fn shared<T>(current: &Mutex<Weak<T>>, start: impl FnOnce() -> Option<T>) -> Option<Arc<T>> {
    let mut current = current.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(server) = current.upgrade() {
        return Some(server);
    }
    let server = Arc::new(start()?);
    *current = Arc::downgrade(&server);
    Some(server)
}

async fn start(config: RedisConfig) -> State {
    static STORES: AtomicU64 = AtomicU64::new(0);
    let number = STORES.fetch_add(1, Ordering::Relaxed);
    let config = RedisConfig { prefix: format!("store{number}:"), command_timeout: PATIENCE, connect_timeout: PATIENCE, ..config };
    let redis = Redis::start(config, &mut Registry::default()).await.unwrap();
    let state = redis.state();
    assert_eq!(state.watch.away(), None);
    state
}
