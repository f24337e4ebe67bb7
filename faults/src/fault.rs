//! The faults: what each does to a cluster, and how it is undone.

use crate::stage::Stage;
use anyhow::{Context as _, Result, bail, ensure};
use billfish_testing::{Chaos, ClusterOptions, Node, RedisClusterOptions, RedisKind, eventually_within};
use std::{fmt, path::Path, process::Command, str::FromStr, thread::sleep, time::Duration};

/// From SIGTERM to the end of a process: the drain's own bound and some.
const DRAIN_MAX: Duration = Duration::from_secs(70);
/// A ring that stands for so long has been used.
const RING_STANDS: Duration = Duration::from_secs(10);
/// What a wall clock jumps by.
const JUMP_S: i64 = 3_600;
/// Primaries of a Redis Cluster, each with one replica.
const PRIMARIES: usize = 3;

/// Something that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: the same load with nothing wrong, to know the checker's zero.
    Nothing,
    /// `kill -9` of a gateway.
    GatewayKill,
    /// `kill -9` of the router that owns a busy room.
    RouterKill,
    /// `kill -9` of Redis, and a start on its append-only file.
    RedisKill,
    /// SIGSTOP of a gateway for so many seconds.
    GatewayStop(u64),
    /// SIGSTOP of the router that owns a busy room.
    RouterStop(u64),
    /// SIGSTOP of Redis.
    RedisStop(u64),
    /// `kill -9` of a primary of a Redis Cluster.
    RedisClusterKill,
    /// A primary of a Redis Cluster parted from the other nodes, and not from its clients.
    RedisClusterPartition,
    /// The wall clock of a gateway jumps an hour ahead or back, and later home.
    GatewayClock,
    /// The same for a router.
    RouterClock,
    /// The same for the machine of Redis.
    RedisClock,
    /// A link between a gateway and a router that neither carries anything nor ends.
    HalfOpenLink,
    /// A router joins, ten seconds later it leaves.
    RingChange,
    /// SIGTERM and a new start of every node, one after the other.
    RollingRestart,
}

/// Names and faults, in the order in which they are run.
const ALL: [(&str, Fault); 21] = [
    ("nothing", Fault::Nothing),
    ("gateway-kill", Fault::GatewayKill),
    ("router-kill", Fault::RouterKill),
    ("redis-kill", Fault::RedisKill),
    ("gateway-stop-1s", Fault::GatewayStop(1)),
    ("gateway-stop-10s", Fault::GatewayStop(10)),
    ("gateway-stop-60s", Fault::GatewayStop(60)),
    ("router-stop-1s", Fault::RouterStop(1)),
    ("router-stop-10s", Fault::RouterStop(10)),
    ("router-stop-60s", Fault::RouterStop(60)),
    ("redis-stop-1s", Fault::RedisStop(1)),
    ("redis-stop-10s", Fault::RedisStop(10)),
    ("redis-stop-60s", Fault::RedisStop(60)),
    ("redis-cluster-kill", Fault::RedisClusterKill),
    ("redis-cluster-partition", Fault::RedisClusterPartition),
    ("gateway-clock", Fault::GatewayClock),
    ("router-clock", Fault::RouterClock),
    ("redis-clock", Fault::RedisClock),
    ("half-open-link", Fault::HalfOpenLink),
    ("ring-change", Fault::RingChange),
    ("rolling-restart", Fault::RollingRestart),
];

/// A name that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no fault is called so; `billfish-faults list` names them")]
pub struct UnknownFault;

impl FromStr for Fault {
    type Err = UnknownFault;

    fn from_str(name: &str) -> Result<Self, UnknownFault> {
        ALL.iter().find(|(known, _)| *known == name).map(|(_, fault)| *fault).ok_or(UnknownFault)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.pad(ALL.iter().find(|(_, fault)| fault == self).map_or("?", |(name, _)| name))
    }
}

impl Fault {
    /// All of them, in the order in which they are run.
    pub fn all() -> impl Iterator<Item = Self> {
        ALL.iter().map(|(_, fault)| *fault)
    }

    /// The cluster that this can be done to.
    #[must_use]
    pub fn cluster(self, binary: &Path) -> ClusterOptions {
        let mut options = ClusterOptions::new(binary);
        let put = |name: &str, value: &str| (format!("BILLFISH__{name}"), value.to_owned());
        options.gateway_environment = vec![
            // Clients that are silent or unheard are noticed within 10 s, so that a run of many faults stays short.
            put("GATEWAY__SESSION__HEARTBEAT_GAP", "5s"),
            // Each fault makes users log in again; whoever is looked at here is no attacker.
            put("GATEWAY__ADMISSION__USER_LOGINS_PER_MINUTE", "600"),
            put("GATEWAY__DRAIN__SPREAD_MAX", "2s"),
        ];
        options.router_environment = vec![
            put("GATEWAY__SESSION__HEARTBEAT_GAP", "5s"),
            put("ROUTER__CHAT__USER_MESSAGES_MAX", "1000"),
            put("ROUTER__CHAT__OFFLINE_MESSAGES_MAX", "1000000"),
        ];
        match self {
            Self::RedisClusterKill => {
                options.redis =
                    RedisKind::Cluster(RedisClusterOptions { primaries: PRIMARIES, replicas_per_primary: 1, own_addresses: false });
            }
            Self::RedisClusterPartition => {
                options.redis =
                    RedisKind::Cluster(RedisClusterOptions { primaries: PRIMARIES, replicas_per_primary: 1, own_addresses: true });
            }
            Self::GatewayClock | Self::RouterClock | Self::RedisClock => options.fake_time = true,
            Self::HalfOpenLink => options.link_proxies = true,
            Self::Nothing
            | Self::GatewayKill
            | Self::RouterKill
            | Self::RedisKill
            | Self::GatewayStop(_)
            | Self::RouterStop(_)
            | Self::RedisStop(_)
            | Self::RingChange
            | Self::RollingRestart => {}
        }
        options
    }

    /// Does it once and undoes it.
    ///
    /// # Errors
    /// When it cannot be done, or a node does not come back.
    pub fn inject(self, stage: &mut Stage) -> Result<()> {
        match self {
            Self::Nothing => {
                stage.begin("nothing", false);
                sleep(Duration::from_secs(2));
            }
            Self::GatewayKill => {
                let victim = stage.any(stage.cluster.gateways.len());
                kill_and_start(stage, "gateway", victim, |stage, victim| &mut stage.cluster.gateways[victim])?;
            }
            Self::RouterKill => {
                let victim = stage.owner();
                kill_and_start(stage, "router", victim, |stage, victim| &mut stage.cluster.routers[victim])?;
            }
            Self::RedisKill => {
                stage.begin("kill -9 redis", true);
                stage.cluster.redis_mut().kill();
                stage.run_for(Duration::ZERO, Duration::from_secs(2));
                stage.cluster.redis_mut().start_again();
            }
            Self::GatewayStop(seconds) => {
                let victim = stage.any(stage.cluster.gateways.len());
                stage.begin(&format!("SIGSTOP gateway-{} {seconds} s", victim + 1), false);
                stop_for(&stage.cluster.gateways[victim], seconds);
            }
            Self::RouterStop(seconds) => {
                let victim = stage.owner();
                stage.begin(&format!("SIGSTOP router-{} {seconds} s", victim + 1), false);
                stop_for(&stage.cluster.routers[victim], seconds);
            }
            Self::RedisStop(seconds) => {
                stage.begin(&format!("SIGSTOP redis {seconds} s"), true);
                stage.cluster.redis().stop();
                sleep(Duration::from_secs(seconds));
                stage.cluster.redis().cont();
            }
            Self::RedisClusterKill => redis_cluster_kill(stage)?,
            Self::RedisClusterPartition => redis_cluster_partition(stage)?,
            Self::GatewayClock => clock(stage, |stage, at| {
                let victim = at % stage.cluster.gateways.len();
                (format!("gateway-{}", victim + 1), Clocked::Gateway(victim))
            }),
            Self::RouterClock => clock(stage, |stage, at| {
                let victim = at % stage.cluster.routers.len();
                (format!("router-{}", victim + 1), Clocked::Router(victim))
            }),
            Self::RedisClock => clock(stage, |_, _| ("redis".to_owned(), Clocked::Redis)),
            Self::HalfOpenLink => half_open(stage),
            Self::RingChange => ring_change(stage)?,
            Self::RollingRestart => rolling_restart(stage)?,
        }
        stage.end();
        Ok(())
    }
}

fn kill_and_start(stage: &mut Stage, kind: &str, victim: usize, node: impl Fn(&mut Stage, usize) -> &mut Node) -> Result<()> {
    stage.begin(&format!("kill -9 {kind}-{}", victim + 1), false);
    node(stage, victim).kill();
    // From at once, when it is back before anyone has noticed, to long after its leases have run out.
    stage.run_for(Duration::ZERO, Duration::from_secs(9));
    start(node(stage, victim))
}

fn start(node: &mut Node) -> Result<()> {
    node.try_start().map_err(anyhow::Error::msg).with_context(|| format!("{} does not start again", node.name()))
}

fn stop_for(node: &Node, seconds: u64) {
    node.stop();
    sleep(Duration::from_secs(seconds));
    node.cont();
}

fn redis_cluster_kill(stage: &mut Stage) -> Result<()> {
    let victim = busy_primary(stage)?;
    stage.begin(&format!("kill -9 primary {victim} of the Redis Cluster"), true);
    stage.cluster.redis_cluster_mut().kill(victim);
    stage.run_for(Duration::from_secs(3), Duration::from_secs(8));
    let redis = stage.cluster.redis_cluster_mut();
    redis.start_again(victim);
    ensure!(eventually_within(Duration::from_secs(60), || redis.is_whole(true)), "the Redis Cluster does not become whole again");
    Ok(())
}

/// The primary that holds a busy room.
fn busy_primary(stage: &mut Stage) -> Result<usize> {
    let any = stage.any(stage.load.rooms().len());
    let room = stage.load.rooms()[any];
    stage.cluster.redis_cluster_mut().primary_of(&format!("{{{room}}}")).context("no primary owns the room's slot")
}

/// Drops what passes between one node and the others, both ways; clients reach them all.
fn redis_cluster_partition(stage: &mut Stage) -> Result<()> {
    let victim = busy_primary(stage)?;
    let addresses = stage.cluster.redis_cluster_mut().addresses();
    let alone = addresses[victim].ip();
    let others: Vec<String> = addresses.iter().map(|address| address.ip().to_string()).filter(|ip| *ip != alone.to_string()).collect();
    let others = others.join(", ");
    stage.begin(&format!("primary {victim} of the Redis Cluster parted from the others"), true);
    nft(&format!(
        "table ip billfish_faults {{ chain input {{ type filter hook input priority 0; \
         ip saddr {alone} ip daddr {{ {others} }} drop; ip saddr {{ {others} }} ip daddr {alone} drop; }}; }}"
    ))?;
    // Until the others have chosen a new primary, and some.
    stage.run_for(Duration::from_secs(4), Duration::from_secs(10));
    nft("delete table ip billfish_faults")?;
    let redis = stage.cluster.redis_cluster_mut();
    ensure!(eventually_within(Duration::from_secs(60), || redis.is_whole(true)), "the Redis Cluster does not become whole again");
    Ok(())
}

fn nft(rules: &str) -> Result<()> {
    let output = Command::new("nft").arg(rules).output().context("nft cannot be started (apt-get install nftables)")?;
    ensure!(output.status.success(), "nft {rules}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

enum Clocked {
    Gateway(usize),
    Router(usize),
    Redis,
}

fn clock(stage: &mut Stage, victim: impl Fn(&Stage, usize) -> (String, Clocked)) {
    let at = stage.any(usize::MAX);
    let (name, victim) = victim(stage, at);
    let jump = if stage.random.bool() { JUMP_S } else { -JUMP_S };
    stage.begin(&format!("wall clock of {name} {jump:+} s"), false);
    let set = |stage: &Stage, seconds| match victim {
        Clocked::Gateway(index) => stage.cluster.gateways[index].set_clock(seconds),
        Clocked::Router(index) => stage.cluster.routers[index].set_clock(seconds),
        Clocked::Redis => stage.cluster.redis().set_clock(seconds),
    };
    set(stage, jump);
    stage.run_for(Duration::from_secs(4), Duration::from_secs(10));
    set(stage, 0);
}

fn half_open(stage: &mut Stage) {
    let (gateway, router) = (stage.any(stage.cluster.link_proxies.len()), stage.any(stage.cluster.routers.len()));
    let is_path_gone = stage.random.bool();
    let detail = if is_path_gone { "and nothing new passes for a while" } else { "and new ones pass" };
    stage.begin(&format!("link gateway-{} to router-{} half open, {detail}", gateway + 1, router + 1), false);
    if is_path_gone {
        stage.cluster.link_proxies[gateway][router].set(Chaos::BlackHole);
        stage.run_for(Duration::from_secs(1), Duration::from_secs(15));
        stage.cluster.link_proxies[gateway][router].set(Chaos::Forward);
    } else {
        stage.cluster.link_proxies[gateway][router].freeze();
        stage.run_for(Duration::from_secs(5), Duration::from_secs(15));
    }
}

fn ring_change(stage: &mut Stage) -> Result<()> {
    // The third router is the one that comes and goes.
    let guest = 2;
    if stage.cluster.routers.len() <= guest {
        stage.begin("router-3 joins", false);
        stage.cluster.add_router();
    } else {
        stage.begin("router-3 joins again", false);
        start(&mut stage.cluster.routers[guest])?;
    }
    stage.announce_routers();
    sleep(RING_STANDS);
    let is_killed = stage.random.bool();
    let node = &mut stage.cluster.routers[guest];
    if is_killed {
        node.kill();
    } else {
        node.terminate();
        if node.wait(DRAIN_MAX).is_none() {
            bail!("router-3 does not stop\n{}", node.log());
        }
    }
    stage.announce_routers();
    sleep(RING_STANDS);
    Ok(())
}

fn rolling_restart(stage: &mut Stage) -> Result<()> {
    stage.begin("SIGTERM and start of each node in turn", false);
    for index in 0..stage.cluster.routers.len() {
        restart(&mut stage.cluster.routers[index])?;
        wait_ready(&stage.cluster.routers[index])?;
    }
    for index in 0..stage.cluster.gateways.len() {
        restart(&mut stage.cluster.gateways[index])?;
        wait_ready(&stage.cluster.gateways[index])?;
    }
    Ok(())
}

fn restart(node: &mut Node) -> Result<()> {
    node.terminate();
    let Some(status) = node.wait(DRAIN_MAX) else { bail!("{} does not stop\n{}", node.name(), node.log()) };
    ensure!(status.success(), "{} stopped with {status}\n{}", node.name(), node.log());
    start(node)
}

fn wait_ready(node: &Node) -> Result<()> {
    let is_ready = eventually_within(Duration::from_secs(60), || node.ready());
    ensure!(is_ready, "{} is not ready: {:?}\n{}", node.name(), node.admin("/readyz"), node.log());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Fault;

    #[test]
    fn every_fault_has_a_name_that_names_it() {
        for fault in Fault::all() {
            assert_eq!(fault.to_string().parse(), Ok(fault));
        }
        assert!("no-such-fault".parse::<Fault>().is_err());
    }
}
