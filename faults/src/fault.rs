//! The faults: what each does to a cluster, and how it is undone.

use crate::{
    journal::What,
    load::LoadOptions,
    stage::{NOTICED_MAX, Stage, as_ms},
};
use anyhow::{Context as _, Result, bail, ensure};
use billfish_testing::{Chaos, ClusterOptions, LedgerKind, MariaDb, Node, RedisClusterOptions, RedisKind, eventually_within};
use std::{
    fmt,
    path::Path,
    process::Command,
    str::FromStr,
    thread::sleep,
    time::{Duration, Instant},
};

/// From SIGTERM to the end of a process: the drain's own bound and some.
const DRAIN_MAX: Duration = Duration::from_secs(70);
/// A ring that stands for so long has been used.
const RING_STANDS: Duration = Duration::from_secs(10);
/// Users of each fault who are looked at until they are offline.
const VISITORS: usize = 3;
/// Until the other nodes of a Redis Cluster have chosen a new primary: their time-out is 1 s.
const ELECTION_MAX: Duration = Duration::from_secs(30);
/// What a wall clock jumps by.
const JUMP_S: i64 = 3_600;
/// How often a starved node gets its turn.
const STARVED_TURN_MS: u64 = 100;
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
    /// `kill -9` of Redis, a gateway and the router that owns a busy room, within a second.
    JointKill,
    /// SIGSTOP of a gateway for so many seconds.
    GatewayStop(u64),
    /// SIGSTOP of the router that owns a busy room.
    RouterStop(u64),
    /// SIGSTOP of Redis.
    RedisStop(u64),
    /// A gateway that gets a fraction of the processor.
    GatewayStarved,
    /// The same for the router that owns a busy room.
    RouterStarved,
    /// `kill -9` of a primary of a Redis Cluster.
    RedisClusterKill,
    /// A primary of a Redis Cluster parted from the other nodes, and not from its clients.
    RedisClusterPartition,
    /// The wall clock of a gateway jumps an hour ahead or back, and later home.
    GatewayClock,
    /// The same for a router.
    RouterClock,
    /// The wall clock of Redis' machine jumps an hour ahead or back and stays there until the next repeat, when it jumps home; meanwhile a
    /// gateway and an owner are killed.
    RedisClock,
    /// A link between a gateway and a router that neither carries anything nor ends.
    HalfOpenLink,
    /// A connection between clients and a gateway that swallows everything and does not end.
    HalfOpenClient,
    /// `kill -9` of the database server, and a start on its files.
    DatabaseKill,
    /// SIGSTOP of the database server for so many seconds.
    DatabaseStop(u64),
    /// A router joins, ten seconds later it leaves.
    RingChange,
    /// SIGTERM and a new start of every node, one after the other.
    RollingRestart,
}

/// Names and faults, in the order in which they are run.
const ALL: [(&str, Fault); 27] = [
    ("nothing", Fault::Nothing),
    ("gateway-kill", Fault::GatewayKill),
    ("router-kill", Fault::RouterKill),
    ("redis-kill", Fault::RedisKill),
    ("joint-kill", Fault::JointKill),
    ("gateway-stop-1s", Fault::GatewayStop(1)),
    ("gateway-stop-10s", Fault::GatewayStop(10)),
    ("gateway-stop-60s", Fault::GatewayStop(60)),
    ("router-stop-1s", Fault::RouterStop(1)),
    ("router-stop-10s", Fault::RouterStop(10)),
    ("router-stop-60s", Fault::RouterStop(60)),
    ("redis-stop-1s", Fault::RedisStop(1)),
    ("redis-stop-10s", Fault::RedisStop(10)),
    ("redis-stop-60s", Fault::RedisStop(60)),
    ("gateway-starved", Fault::GatewayStarved),
    ("router-starved", Fault::RouterStarved),
    ("redis-cluster-kill", Fault::RedisClusterKill),
    ("redis-cluster-partition", Fault::RedisClusterPartition),
    ("gateway-clock", Fault::GatewayClock),
    ("router-clock", Fault::RouterClock),
    ("redis-clock", Fault::RedisClock),
    ("half-open-link", Fault::HalfOpenLink),
    ("half-open-client", Fault::HalfOpenClient),
    ("database-kill", Fault::DatabaseKill),
    ("database-stop-10s", Fault::DatabaseStop(10)),
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
            Self::HalfOpenClient => options.client_proxies = true,
            Self::DatabaseKill | Self::DatabaseStop(_) => options.ledger = LedgerKind::Maria,
            Self::Nothing
            | Self::GatewayKill
            | Self::RouterKill
            | Self::RedisKill
            | Self::JointKill
            | Self::GatewayStop(_)
            | Self::RouterStop(_)
            | Self::RedisStop(_)
            | Self::GatewayStarved
            | Self::RouterStarved
            | Self::RingChange
            | Self::RollingRestart => {}
        }
        options
    }

    /// The load that it is done under.
    #[must_use]
    pub fn load(self, options: LoadOptions) -> LoadOptions {
        // With fewer rooms the share that moves is a matter of chance.
        if self == Self::RingChange { LoadOptions { spare_rooms: 200, ..options } } else { options }
    }

    /// About how long one repeat takes, to begin with what takes longest.
    #[must_use]
    pub fn length(self) -> Duration {
        let seconds = match self {
            Self::GatewayStop(seconds) | Self::RouterStop(seconds) | Self::RedisStop(seconds) | Self::DatabaseStop(seconds) => seconds + 4,
            Self::RedisClock => 64,
            Self::RingChange => 28,
            Self::RollingRestart | Self::HalfOpenClient | Self::GatewayStarved | Self::RouterStarved => 16,
            Self::RedisClusterPartition | Self::RedisClusterKill | Self::GatewayClock | Self::RouterClock | Self::HalfOpenLink => 12,
            Self::JointKill => 14,
            Self::GatewayKill | Self::RouterKill | Self::RedisKill | Self::DatabaseKill | Self::Nothing => 8,
        };
        Duration::from_secs(seconds)
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
                let address = stage.cluster.gateways[victim].address("tcp").to_string();
                let visit = stage.load.visit(&address, VISITORS)?;
                kill(stage, "gateway", victim, |stage| &mut stage.cluster.gateways[victim]);
                stage.expect_offline(visit.vanish());
                start_again(stage, |stage| &mut stage.cluster.gateways[victim])?;
            }
            Self::RouterKill => {
                let victim = stage.owner();
                kill(stage, "router", victim, |stage| &mut stage.cluster.routers[victim]);
                start_again(stage, |stage| &mut stage.cluster.routers[victim])?;
            }
            Self::RedisKill => {
                stage.begin("kill -9 redis", true);
                stage.cluster.redis_mut().kill();
                stage.run_for(Duration::ZERO, Duration::from_secs(2));
                stage.cluster.redis_mut().start_again();
            }
            Self::JointKill => joint_kill(stage)?,
            Self::GatewayStop(seconds) => {
                let victim = stage.any(stage.cluster.gateways.len());
                let name = format!("gateway-{}", victim + 1);
                stage.begin_at(Some(name.clone()), &format!("SIGSTOP {name} {seconds} s"), false);
                stop_for(&stage.cluster.gateways[victim], seconds);
            }
            Self::RouterStop(seconds) => {
                let victim = stage.owner();
                let name = format!("router-{}", victim + 1);
                stage.begin_at(Some(name.clone()), &format!("SIGSTOP {name} {seconds} s"), false);
                stop_for(&stage.cluster.routers[victim], seconds);
            }
            Self::RedisStop(seconds) => {
                stage.begin(&format!("SIGSTOP redis {seconds} s"), true);
                stage.cluster.redis().stop();
                sleep(Duration::from_secs(seconds));
                stage.cluster.redis().cont();
            }
            Self::GatewayStarved => {
                let victim = stage.any(stage.cluster.gateways.len());
                starve(stage, &format!("gateway-{}", victim + 1), |stage| &stage.cluster.gateways[victim]);
            }
            Self::RouterStarved => {
                let victim = stage.owner();
                starve(stage, &format!("router-{}", victim + 1), |stage| &stage.cluster.routers[victim]);
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
            Self::RedisClock => redis_clock(stage)?,
            Self::HalfOpenLink => half_open(stage),
            Self::HalfOpenClient => half_open_client(stage)?,
            Self::DatabaseKill => {
                stage.begin("kill -9 the database", false);
                database(stage)?.kill();
                stage.run_for(Duration::ZERO, Duration::from_secs(3));
                database(stage)?.start_again();
            }
            Self::DatabaseStop(seconds) => {
                stage.begin(&format!("SIGSTOP the database {seconds} s"), false);
                database(stage)?.stop();
                sleep(Duration::from_secs(seconds));
                database(stage)?.cont();
            }
            Self::RingChange => ring_change(stage)?,
            Self::RollingRestart => rolling_restart(stage)?,
        }
        stage.end();
        Ok(())
    }
}

fn kill(stage: &mut Stage, kind: &str, victim: usize, node: impl Fn(&mut Stage) -> &mut Node) {
    let name = format!("{kind}-{}", victim + 1);
    stage.begin_at(Some(name.clone()), &format!("kill -9 {name}"), false);
    node(stage).kill();
}

fn database(stage: &mut Stage) -> Result<&mut MariaDb> {
    stage.cluster.maria.as_mut().context("the records are in a file")
}

fn start_again(stage: &mut Stage, node: impl Fn(&mut Stage) -> &mut Node) -> Result<()> {
    // From at once, when it is back before anyone has noticed, to long after its leases have run out.
    stage.run_for(Duration::ZERO, Duration::from_secs(9));
    start(node(stage))
}

fn start(node: &mut Node) -> Result<()> {
    node.try_start().map_err(anyhow::Error::msg).with_context(|| format!("{} does not start again", node.name()))
}

fn stop_for(node: &Node, seconds: u64) {
    node.stop();
    sleep(Duration::from_secs(seconds));
    node.cont();
}

/// The node runs for a fraction of each tenth of a second: harsher than a quota of the scheduler, which leaves alone whoever takes less.
fn starve(stage: &mut Stage, name: &str, node: impl Fn(&Stage) -> &Node) {
    let runs_ms = [20, 5][stage.any(2)];
    let period = stage.between(Duration::from_secs(5), Duration::from_secs(12));
    stage.begin_at(Some(name.to_owned()), &format!("{name} runs {runs_ms} of {STARVED_TURN_MS} ms for {period:.1?}"), false);
    let until = Instant::now() + period;
    while Instant::now() < until {
        node(stage).stop();
        sleep(Duration::from_millis(STARVED_TURN_MS - runs_ms));
        node(stage).cont();
        sleep(Duration::from_millis(runs_ms));
    }
}

/// As when the power of a rack fails: no node is left to tell those that start what was.
fn joint_kill(stage: &mut Stage) -> Result<()> {
    let (gateway, router) = (stage.any(stage.cluster.gateways.len()), stage.owner());
    stage.begin(&format!("kill -9 redis, gateway-{} and router-{}", gateway + 1, router + 1), true);
    let mut order = [0, 1, 2];
    stage.random.shuffle(&mut order);
    for victim in order {
        match victim {
            0 => stage.cluster.redis_mut().kill(),
            1 => stage.cluster.gateways[gateway].kill(),
            _ => stage.cluster.routers[router].kill(),
        }
        stage.run_for(Duration::ZERO, Duration::from_millis(400));
    }
    stage.random.shuffle(&mut order);
    for victim in order {
        match victim {
            0 => stage.cluster.redis_mut().start_again(),
            1 => stage.cluster.gateways[gateway].launch().map_err(anyhow::Error::msg)?,
            _ => stage.cluster.routers[router].launch().map_err(anyhow::Error::msg)?,
        }
        stage.run_for(Duration::ZERO, Duration::from_millis(800));
    }
    stage.cluster.gateways[gateway].await_up().map_err(anyhow::Error::msg)?;
    stage.cluster.routers[router].await_up().map_err(anyhow::Error::msg)
}

fn redis_cluster_kill(stage: &mut Stage) -> Result<()> {
    let (victim, _) = busy_primary(stage)?;
    stage.begin(&format!("kill -9 primary {victim} of the Redis Cluster"), true);
    stage.cluster.redis_cluster_mut().kill(victim);
    stage.run_for(Duration::from_secs(3), Duration::from_secs(8));
    let redis = stage.cluster.redis_cluster_mut();
    redis.start_again(victim);
    ensure!(eventually_within(Duration::from_secs(60), || redis.is_whole(true)), "the Redis Cluster does not become whole again");
    Ok(())
}

/// The primary that holds a busy room, and a key of that room.
fn busy_primary(stage: &mut Stage) -> Result<(usize, String)> {
    let any = stage.any(stage.load.rooms().len());
    let room = format!("{{{}}}", stage.load.rooms()[any]);
    let primary = stage.cluster.redis_cluster_mut().primary_of(&room).context("no primary owns the room's slot")?;
    Ok((primary, room))
}

/// Drops what passes between one node and the others, both ways; clients reach them all.
fn redis_cluster_partition(stage: &mut Stage) -> Result<()> {
    let (victim, room) = busy_primary(stage)?;
    let addresses = stage.cluster.redis_cluster_mut().addresses();
    let alone = addresses[victim].ip();
    let others: Vec<String> = addresses.iter().map(|address| address.ip().to_string()).filter(|ip| *ip != alone.to_string()).collect();
    let others = others.join(", ");
    stage.begin(&format!("primary {victim} of the Redis Cluster parted from the others"), true);
    nft(&format!(
        "table ip billfish_faults {{ chain input {{ type filter hook input priority 0; \
         ip saddr {alone} ip daddr {{ {others} }} drop; ip saddr {{ {others} }} ip daddr {alone} drop; }}; }}"
    ))?;
    let is_real = is_parted(stage, &room, victim);
    // Until the others have chosen a new primary, and some.
    stage.run_for(Duration::from_secs(1), Duration::from_secs(7));
    nft("delete table ip billfish_faults")?;
    is_real?;
    let redis = stage.cluster.redis_cluster_mut();
    ensure!(eventually_within(Duration::from_secs(60), || redis.is_whole(true)), "the Redis Cluster does not become whole again");
    Ok(())
}

/// A partition that the others do not notice, or that clients notice, is none of those that are meant here.
fn is_parted(stage: &mut Stage, room: &str, victim: usize) -> Result<()> {
    let redis = stage.cluster.redis_cluster_mut();
    ensure!(redis.node(victim).command(&["PING"]).is_ok(), "clients do not reach the parted primary {victim} either");
    let witness = (0..redis.len()).find(|&index| index != victim).context("a cluster of one")?;
    let is_elected = || redis.primary_seen_by(witness, room).is_some_and(|owner| owner != victim);
    ensure!(
        eventually_within(ELECTION_MAX, is_elected),
        "the others do not choose a new primary: primary {victim} is not parted from them"
    );
    let own_view = redis.primary_seen_by(victim, room);
    ensure!(own_view.is_none_or(|owner| owner == victim), "primary {victim} heard of its successor: it is not parted from the others");
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
}

fn clock(stage: &mut Stage, victim: impl Fn(&Stage, usize) -> (String, Clocked)) {
    let at = stage.any(usize::MAX);
    let (name, victim) = victim(stage, at);
    let jump = if stage.random.bool() { JUMP_S } else { -JUMP_S };
    stage.begin(&format!("wall clock of {name} {jump:+} s"), false);
    let set = |stage: &Stage, seconds| match victim {
        Clocked::Gateway(index) => stage.cluster.gateways[index].set_clock(seconds),
        Clocked::Router(index) => stage.cluster.routers[index].set_clock(seconds),
    };
    set(stage, jump);
    stage.run_for(Duration::from_secs(4), Duration::from_secs(10));
    set(stage, 0);
}

/// What had less than an hour to live is gone from Redis at once, or stays an hour longer; then those die whom only leases are left of.
fn redis_clock(stage: &mut Stage) -> Result<()> {
    // Every second repeat goes home: there and back are different jumps.
    let is_away = stage.repeat() % 2 == 1;
    let offset = match (is_away, stage.random.bool()) {
        (true, _) => 0,
        (false, true) => JUMP_S,
        (false, false) => -JUMP_S,
    };
    let (gateway, router) = (stage.any(stage.cluster.gateways.len()), stage.owner());
    let detail = format!("wall clock of redis at {offset:+} s, kill -9 gateway-{} and router-{}", gateway + 1, router + 1);
    stage.begin(&detail, false);
    stage.cluster.redis().set_clock(offset);
    // From before anyone has noticed to when all lives that ended or were lengthened would have been.
    stage.run_for(Duration::ZERO, Duration::from_secs(9));
    stage.cluster.gateways[gateway].kill();
    stage.run_for(Duration::ZERO, Duration::from_secs(3));
    stage.cluster.routers[router].kill();
    stage.run_for(Duration::ZERO, Duration::from_secs(9));
    start(&mut stage.cluster.gateways[gateway])?;
    start(&mut stage.cluster.routers[router])
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

fn half_open_client(stage: &mut Stage) -> Result<()> {
    let victim = stage.any(stage.cluster.client_proxies.len());
    let visit = stage.load.visit(&stage.cluster.client_proxies[victim].address().to_string(), VISITORS)?;
    let name = format!("gateway-{}", victim + 1);
    stage.begin_at(Some(name.clone()), &format!("connections of clients to {name} half open"), false);
    let proxy = &stage.cluster.client_proxies[victim];
    proxy.swallow();
    let began = Instant::now();
    stage.expect_offline(visit.vanish());
    let proxy = &stage.cluster.client_proxies[victim];
    let is_over = eventually_within(NOTICED_MAX, || proxy.swallowed() == 0);
    stage.journal.put(What::GivenUp { repeat: stage.repeat(), after_ms: is_over.then(|| as_ms(began.elapsed())) });
    Ok(())
}

fn ring_change(stage: &mut Stage) -> Result<()> {
    // The third router is the one that comes and goes.
    let guest = 2;
    let of_two = stage.placements();
    if stage.cluster.routers.len() <= guest {
        stage.begin("router-3 joins", false);
        stage.cluster.add_router();
    } else {
        stage.begin("router-3 joins again", false);
        start(&mut stage.cluster.routers[guest])?;
    }
    stage.announce_routers();
    sleep(RING_STANDS);
    let of_three = stage.placements();
    stage.compare(&of_two, &of_three, guest);
    if stage.random.bool() {
        stage.cluster.routers[guest].kill();
    } else {
        stop(stage, |stage| &mut stage.cluster.routers[guest])?;
    }
    stage.announce_routers();
    sleep(RING_STANDS);
    stage.compare(&of_three, &stage.placements(), guest);
    Ok(())
}

fn rolling_restart(stage: &mut Stage) -> Result<()> {
    stage.begin("SIGTERM and start of each node in turn", false);
    for index in 0..stage.cluster.routers.len() {
        stop(stage, |stage| &mut stage.cluster.routers[index])?;
        start(&mut stage.cluster.routers[index])?;
        wait_ready(&stage.cluster.routers[index])?;
    }
    for index in 0..stage.cluster.gateways.len() {
        stop(stage, |stage| &mut stage.cluster.gateways[index])?;
        start(&mut stage.cluster.gateways[index])?;
        wait_ready(&stage.cluster.gateways[index])?;
    }
    Ok(())
}

/// Asks a node to stop, and writes down how long that took.
fn stop(stage: &mut Stage, node: impl Fn(&mut Stage) -> &mut Node) -> Result<()> {
    let began = Instant::now();
    let node = node(stage);
    node.terminate();
    let Some(status) = node.wait(DRAIN_MAX) else { bail!("{} does not stop\n{}", node.name(), node.log()) };
    ensure!(status.success(), "{} stopped with {status}\n{}", node.name(), node.log());
    let name = node.name().to_owned();
    stage.journal.put(What::Exited { node: name, after_ms: as_ms(began.elapsed()) });
    Ok(())
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
