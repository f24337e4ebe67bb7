//! How many Redis commands a heartbeat costs: one gateway's users, for a minute, on a private server or cluster; counted by the servers.
//!
//! `cargo run -p billfish-state --example redis_commands [-- cluster]`
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a tool for a person at a terminal")]

use billfish_state::redis::{Redis, RedisConfig};
use billfish_state::{AppId, UserId};
use billfish_testing::{RedisCluster, RedisServer};
use prometheus_client::registry::Registry;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::{Instant, interval};

/// A full gateway.
const USERS: i64 = 16_000;
/// Each shows a sign of life this often.
const GAP: Duration = Duration::from_secs(30);
/// The gateway gathers them for so long.
const BATCH: Duration = Duration::from_secs(10);
const RUN: Duration = Duration::from_secs(60);
const APP: AppId = AppId(10001);
/// Signs of life are to cost no more than this.
const BUDGET: f64 = 0.02;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let (cluster, server) = if std::env::args().any(|argument| argument == "cluster") {
        (Some(RedisCluster::start(3, 0).unwrap()), None)
    } else {
        (None, Some(RedisServer::start().unwrap()))
    };
    let servers: Vec<&RedisServer> = match &cluster {
        Some(cluster) => (0..cluster.len()).map(|index| cluster.node(index)).collect(),
        None => server.iter().collect(),
    };
    let config = RedisConfig {
        nodes: servers.iter().map(|server| server.address().to_string()).collect(),
        cluster: cluster.is_some(),
        ..RedisConfig::default()
    };
    let redis = Redis::start(config, &mut Registry::default()).await.unwrap();
    let state = redis.state();
    let before = commands(&servers);

    let batches = GAP.as_secs() / BATCH.as_secs();
    let mut heartbeats = 0;
    let mut slowest = Duration::ZERO;
    let mut tick = interval(BATCH);
    for number in 0..RUN.as_secs() / BATCH.as_secs() {
        tick.tick().await;
        // Users next to each other, so that every batch meets every bucket.
        let part = USERS / i64::try_from(batches).unwrap();
        let first = i64::try_from(number % batches).unwrap() * part;
        let some: Vec<_> = (first..first + part).map(|user| (APP, UserId(user))).collect();
        let sent = Instant::now();
        state.presence.touch(&some, state.clock.now_ms()).await.unwrap();
        slowest = slowest.max(sent.elapsed());
        heartbeats += some.len();
    }
    tick.tick().await;

    let mut total = 0;
    for (name, calls) in commands(&servers) {
        let calls = calls - before.get(&name).copied().unwrap_or(0);
        if calls > 0 {
            println!("{name:<16} {calls:>6}");
            total += calls;
        }
    }
    let each = f64::from(total) / f64::from(u32::try_from(heartbeats).unwrap());
    println!("{total} commands for {heartbeats} heartbeats: {each:.4} each (budget {BUDGET}); slowest batch {slowest:?}");
    redis.stop().await;
    std::process::exit(i32::from(each > BUDGET));
}

/// Calls by command, but for those of this measurement.
fn commands(servers: &[&RedisServer]) -> BTreeMap<String, u32> {
    let mut all = BTreeMap::new();
    for server in servers {
        for line in server.command(&["INFO", "commandstats"]).unwrap().lines() {
            // `cmdstat_zadd:calls=12,usec=…`; what the nodes of a cluster tell each other is none.
            let Some((name, rest)) = line.trim().strip_prefix("cmdstat_").and_then(|line| line.split_once(':')) else { continue };
            let calls = rest.strip_prefix("calls=").and_then(|rest| rest.split(',').next()).unwrap();
            if name != "info" {
                *all.entry(name.to_owned()).or_insert(0) += calls.parse::<u32>().unwrap();
            }
        }
    }
    all
}
