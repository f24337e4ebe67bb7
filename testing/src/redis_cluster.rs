//! A private Redis Cluster.

use crate::{
    patience::{PATIENCE, eventually_within},
    program,
    redis::{RedisOptions, RedisServer},
};
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::Command,
};

/// `redis-cli --cluster create` loses against another test's load now and then.
const START_TRIES_MAX: usize = 5;

/// Shape of a cluster.
#[derive(Clone, Copy, Debug)]
pub struct RedisClusterOptions {
    /// Nodes that own slots; at least 3.
    pub primaries: usize,
    /// Followers of each.
    pub replicas_per_primary: usize,
    /// Each node on a loopback address of its own (127.77.0.1, 127.77.0.2, …), so that packet filters can part them.
    pub own_addresses: bool,
}

/// Several redis-servers that share the slots.
#[derive(Debug)]
pub struct RedisCluster {
    nodes: Vec<RedisServer>,
}

impl RedisCluster {
    /// Starts one on 127.0.0.1 and waits until every node says that it is whole. `None` where there is no Redis.
    pub fn start(primaries: usize, replicas_per_primary: usize) -> Option<Self> {
        Self::start_with(RedisClusterOptions { primaries, replicas_per_primary, own_addresses: false })
    }

    /// Starts one as told.
    pub fn start_with(options: RedisClusterOptions) -> Option<Self> {
        program::find("redis-cli", "redis-server")?;
        for _ in 0..START_TRIES_MAX {
            let count = options.primaries * (1 + options.replicas_per_primary);
            let nodes: Option<Vec<RedisServer>> = (0..count)
                .map(|index| {
                    let last = u8::try_from(index + 1).expect("few nodes");
                    let host = if options.own_addresses { Ipv4Addr::new(127, 77, 0, last) } else { Ipv4Addr::LOCALHOST };
                    RedisServer::start_with(RedisOptions { host: IpAddr::V4(host), cluster: true, ..RedisOptions::default() })
                })
                .collect();
            let cluster = Self { nodes: nodes? };
            if cluster.join(options.replicas_per_primary) {
                return Some(cluster);
            }
        }
        panic!("no Redis Cluster after {START_TRIES_MAX} tries");
    }

    fn join(&self, replicas: usize) -> bool {
        let addresses = self.nodes.iter().map(|node| node.address().to_string());
        let output = Command::new("redis-cli")
            .args(["--cluster", "create"])
            .args(addresses)
            .args(["--cluster-replicas", &replicas.to_string(), "--cluster-yes"])
            .output()
            .expect("redis-cli can be started");
        if !output.status.success() {
            eprintln!("{}", String::from_utf8_lossy(&output.stdout));
            return false;
        }
        let is_whole = eventually_within(PATIENCE, || self.is_whole(replicas > 0));
        if !is_whole {
            for node in &self.nodes {
                eprintln!("--- {}\n{}", node.address(), node.log());
            }
        }
        is_whole
    }

    /// Every running node says `cluster_state:ok`, and where there are replicas each running one follows its primary.
    pub fn is_whole(&self, with_replicas: bool) -> bool {
        let mut running = self.nodes.iter().filter(|node| node.is_running());
        running.all(|node| {
            let is_ok = node.command(&["CLUSTER", "INFO"]).is_ok_and(|info| info.contains("cluster_state:ok"));
            let role = node.command(&["INFO", "replication"]).unwrap_or_default();
            let follows = role.contains("role:master") || role.contains("master_link_status:up");
            is_ok && (!with_replicas || follows)
        })
    }

    /// Addresses of all nodes, in the order of their index.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(RedisServer::address).collect()
    }

    /// A node by index.
    pub fn node(&self, index: usize) -> &RedisServer {
        &self.nodes[index]
    }

    /// A node by index, to kill it or start it again.
    pub fn node_mut(&mut self, index: usize) -> &mut RedisServer {
        &mut self.nodes[index]
    }

    /// How many nodes there are, running or not.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Never.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Ends a node as a power cut would.
    pub fn kill(&mut self, index: usize) {
        self.nodes[index].kill();
    }

    /// Starts a killed node again.
    pub fn start_again(&mut self, index: usize) {
        self.nodes[index].start_again();
    }

    /// Running nodes that say they are primaries.
    pub fn primaries(&self) -> impl Iterator<Item = &RedisServer> {
        let is_primary = |node: &&RedisServer| node.command(&["INFO", "replication"]).is_ok_and(|role| role.contains("role:master"));
        self.nodes.iter().filter(|node| node.is_running()).filter(is_primary)
    }

    /// Index of the node that owns the slot of this key, as node `witness` sees it; `None` where that one knows nobody.
    pub fn primary_seen_by(&self, witness: usize, key: &str) -> Option<usize> {
        let slot = slot_of(key);
        let view = self.nodes.get(witness)?.command(&["CLUSTER", "NODES"]).ok()?;
        let owner = view.lines().find(|line| !line.contains("fail") && owns(line, slot))?;
        self.position(owner)
    }

    /// Index of the running node that owns the slot of this key, as any running node sees it; `None` while nobody does.
    pub fn primary_of(&self, key: &str) -> Option<usize> {
        let running = (0..self.nodes.len()).filter(|&index| self.nodes[index].is_running());
        running.filter_map(|witness| self.primary_seen_by(witness, key)).find(|&owner| self.nodes[owner].is_running())
    }

    /// Which node a line of `CLUSTER NODES` is about: `<id> <ip:port@bus> <flags> …`.
    fn position(&self, line: &str) -> Option<usize> {
        let address: SocketAddr = line.split(' ').nth(1)?.split('@').next()?.parse().ok()?;
        self.nodes.iter().position(|candidate| candidate.address() == address)
    }
}

fn owns(line: &str, slot: u16) -> bool {
    line.split(' ').skip(8).any(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        matches!((first.parse::<u16>(), last.parse::<u16>()), (Ok(first), Ok(last)) if (first..=last).contains(&slot))
    })
}

/// The hash slot of a key: CRC-16 (XMODEM) of what stands between its first braces, or of all of it.
pub fn slot_of(key: &str) -> u16 {
    let tag = key.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map(|(tag, _)| tag).filter(|tag| !tag.is_empty());
    let crc = tag.unwrap_or(key).bytes().fold(0_u16, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(byte) << 8), |crc, _| if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 })
    });
    crc % 16_384
}

#[cfg(test)]
mod tests {
    use super::{RedisCluster, slot_of};
    use crate::patience::eventually;

    #[test]
    fn slots_are_those_of_redis() {
        assert_eq!(slot_of("123456789"), 0x31C3);
        assert_eq!(slot_of("{user1000}.following"), slot_of("user1000"));
        assert_eq!(slot_of("foo"), 12_182);
    }

    #[test]
    fn a_killed_primary_is_followed_by_its_replica() {
        let Some(mut cluster) = RedisCluster::start(3, 1) else { return };
        let old = cluster.primary_of("key").expect("someone owns it");
        assert_eq!(cluster.node(old).command(&["SET", "key", "value"]).unwrap(), "OK");
        // The replica may not have it yet, and nothing that is not replicated survives.
        assert_eq!(cluster.node(old).command(&["WAIT", "1", "900"]).unwrap(), "1");
        cluster.kill(old);
        eventually("another owns the slot", || {
            cluster
                .primary_of("key")
                .is_some_and(|now| now != old && cluster.node(now).command(&["GET", "key"]).is_ok_and(|value| value == "value"))
        });
        cluster.start_again(old);
        eventually("it is whole again", || cluster.is_whole(true));
    }
}
