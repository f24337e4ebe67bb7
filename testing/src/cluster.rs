//! A whole cluster on this machine: gateways, routers, Redis, and the records they share.

use crate::{
    api::Api,
    fake_time,
    maria::MariaDb,
    node::{Node, NodeKind},
    patience::{PATIENCE, eventually_within},
    ports::free_port,
    proxy::ChaosProxy,
    redis::{RedisOptions, RedisServer},
    redis_cluster::{RedisCluster, RedisClusterOptions},
};
use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
};
use tempfile::TempDir;

/// Another process may take a port between the look and the bind.
const START_TRIES_MAX: usize = 5;
/// See docs/redis.md.
const LEASE_SHARDS: u32 = 2;
/// Of every node of a test cluster; secret to nobody.
const API_KEY: &str = "test-cluster-api-key-0123456789";
const LINK_SECRET: &str = "test-cluster-link-secret";

/// Which Redis holds the live state.
#[derive(Clone, Copy, Debug)]
pub enum RedisKind {
    /// One server with an append-only file.
    Single,
    /// Several.
    Cluster(RedisClusterOptions),
}

/// Where the records are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LedgerKind {
    /// One SQLite file that all routers open.
    SharedSqlite,
    /// A private MariaDB.
    Maria,
}

/// What to start.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// The `billfish` program.
    pub binary: PathBuf,
    /// How many gateways.
    pub gateways: usize,
    /// How many routers.
    pub routers: usize,
    /// Which Redis.
    pub redis: RedisKind,
    /// Which records.
    pub ledger: LedgerKind,
    /// A [`ChaosProxy`] between each gateway and each router. The gateways then know the routers by a list, not by the registry.
    pub link_proxies: bool,
    /// A [`ChaosProxy`] in front of each gateway's clients, beside its own port. Who is to go through it must dial it.
    pub client_proxies: bool,
    /// A [`ChaosProxy`] between each router and the single Redis.
    pub redis_proxies: bool,
    /// Nodes and the single Redis run under libfaketime, so that their `set_clock` works.
    pub fake_time: bool,
    /// More of every gateway's environment, as `BILLFISH__GATEWAY__DRAIN__GRACE`.
    pub gateway_environment: Vec<(String, String)>,
    /// More of every router's environment.
    pub router_environment: Vec<(String, String)>,
}

impl ClusterOptions {
    /// 3 gateways, 2 routers, one Redis, one SQLite file.
    pub fn new(binary: impl Into<PathBuf>) -> Self {
        Self {
            binary: binary.into(),
            gateways: 3,
            routers: 2,
            redis: RedisKind::Single,
            ledger: LedgerKind::SharedSqlite,
            link_proxies: false,
            client_proxies: false,
            redis_proxies: false,
            fake_time: false,
            gateway_environment: Vec::new(),
            router_environment: Vec::new(),
        }
    }
}

/// The Redis of a cluster.
#[derive(Debug)]
pub enum Shared {
    /// One server.
    Single(Box<RedisServer>),
    /// Several.
    Cluster(RedisCluster),
}

/// Running nodes and what they share.
#[derive(Debug)]
pub struct Cluster {
    options: ClusterOptions,
    /// Gateways by index.
    pub gateways: Vec<Node>,
    /// Routers by index; some may have been added later.
    pub routers: Vec<Node>,
    /// Their Redis.
    pub redis: Shared,
    /// Their database, where it is one.
    pub maria: Option<MariaDb>,
    /// `link_proxies[gateway][router]`, where there are any.
    pub link_proxies: Vec<Vec<ChaosProxy>>,
    /// By gateway, where there are any.
    pub client_proxies: Vec<ChaosProxy>,
    /// By router, where there are any.
    pub redis_proxies: Vec<ChaosProxy>,
    directory: TempDir,
}

impl Cluster {
    /// Starts everything and waits until all nodes are ready. `None` where a server's program is missing.
    pub fn start(options: ClusterOptions) -> Option<Self> {
        assert!(options.binary.is_file(), "{} is not there; build it first", options.binary.display());
        if options.fake_time {
            fake_time::library()?;
        }
        let redis = match options.redis {
            RedisKind::Single => {
                Shared::Single(Box::new(RedisServer::start_with(RedisOptions { fake_time: options.fake_time, ..RedisOptions::default() })?))
            }
            RedisKind::Cluster(shape) => Shared::Cluster(RedisCluster::start_with(shape)?),
        };
        let maria = match options.ledger {
            LedgerKind::SharedSqlite => None,
            LedgerKind::Maria => Some(MariaDb::start()?),
        };
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (gateways, routers) = (options.gateways, options.routers);
        let mut cluster = Self {
            options,
            gateways: Vec::new(),
            routers: Vec::new(),
            redis,
            maria,
            link_proxies: Vec::new(),
            client_proxies: Vec::new(),
            redis_proxies: Vec::new(),
            directory,
        };
        for _ in 0..routers {
            cluster.add_router();
        }
        for _ in 0..gateways {
            cluster.add_gateway();
        }
        cluster.wait_ready();
        Some(cluster)
    }

    /// Starts one more router and gives its index.
    pub fn add_router(&mut self) -> usize {
        let name = format!("router-{}", self.routers.len() + 1);
        if self.options.redis_proxies {
            self.redis_proxies.push(ChaosProxy::start(self.redis().address()));
        }
        let node = self.started(NodeKind::Router, &name, &[], &[]);
        self.routers.push(node);
        self.routers.len() - 1
    }

    /// Starts one more gateway and gives its index.
    pub fn add_gateway(&mut self) -> usize {
        self.add_gateway_with(&[])
    }

    /// The same, with more in its environment, which wins over everything else.
    pub fn add_gateway_with(&mut self, environment: &[(&str, &str)]) -> usize {
        let name = format!("gateway-{}", self.gateways.len() + 1);
        let mut proxies = Vec::new();
        if self.options.link_proxies {
            proxies.extend(self.routers.iter().map(|router| ChaosProxy::start(router.address("link"))));
        }
        let through: Vec<SocketAddr> = proxies.iter().map(ChaosProxy::address).collect();
        let node = self.started(NodeKind::Gateway, &name, &through, environment);
        self.link_proxies.push(proxies);
        if self.options.client_proxies {
            self.client_proxies.push(ChaosProxy::start(node.address("tcp")));
        }
        self.gateways.push(node);
        self.gateways.len() - 1
    }

    fn started(&self, kind: NodeKind, name: &str, routers: &[SocketAddr], more: &[(&str, &str)]) -> Node {
        let mut problem = String::new();
        for _ in 0..START_TRIES_MAX {
            let of_its_kind = match kind {
                NodeKind::Gateway => &self.options.gateway_environment,
                NodeKind::Router => &self.options.router_environment,
            };
            let more = more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            let environment: Vec<_> = of_its_kind.iter().cloned().chain(more).collect();
            let config = self.config(kind, name, routers);
            let mut node = Node::new(kind, name, &self.options.binary, &config, &environment, self.options.fake_time);
            match node.try_start() {
                Ok(()) => return node,
                Err(why) => problem = why,
            }
            // Anything but a taken port will not get better.
            if !problem.contains("in use") {
                break;
            }
        }
        panic!("{problem}");
    }

    fn config(&self, kind: NodeKind, name: &str, routers: &[SocketAddr]) -> String {
        let port = || SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), free_port(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        let quoted = |addresses: &[SocketAddr]| addresses.iter().map(|address| format!("\"{address}\"")).collect::<Vec<_>>().join(", ");
        let mut text = String::new();
        let mut line = |words: std::fmt::Arguments<'_>| writeln!(text, "{words}").expect("a string takes everything");
        // One SQLite file of all routers of this machine; a gateway keeps nothing there.
        line(format_args!("data_dir = \"{}\"", self.data_dir().display()));
        line(format_args!("[state]\nkind = \"redis\""));
        line(format_args!("[state.redis]\nnodes = [{}]", quoted(&self.redis_addresses_of(kind))));
        if matches!(self.redis, Shared::Cluster(_)) {
            line(format_args!("cluster = true"));
        }
        line(format_args!("[admin]\nlisten = \"{}\"", port()));
        match kind {
            NodeKind::Gateway => {
                line(format_args!("[gateway]\nnode = \"{name}\""));
                line(format_args!("[gateway.listen]\ntcp = \"{}\"\nws = \"{}\"\ntls = \"off\"\nquic = \"off\"", port(), port()));
                line(format_args!("[gateway.link]\nsecret = \"{LINK_SECRET}\"\nrouters = [{}]", quoted(routers)));
            }
            NodeKind::Router => {
                line(format_args!("[router]\nnode = \"{name}\""));
                line(format_args!("[router.link]\nlisten = \"{}\"\nsecret = \"{LINK_SECRET}\"", port()));
                line(format_args!("[http]\nlisten = \"{}\"\napi_key = \"{API_KEY}\"", port()));
                if let Some(maria) = &self.maria {
                    line(format_args!("[ledger]\nurl = \"{}\"", maria.url()));
                }
            }
        }
        text
    }

    /// Where the records are, if they are a file.
    pub fn data_dir(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// As the node that is started next is to know it.
    fn redis_addresses_of(&self, kind: NodeKind) -> Vec<SocketAddr> {
        match (kind, self.redis_proxies.last()) {
            (NodeKind::Router, Some(proxy)) => vec![proxy.address()],
            (NodeKind::Router | NodeKind::Gateway, _) => self.redis_addresses(),
        }
    }

    fn redis_addresses(&self) -> Vec<SocketAddr> {
        match &self.redis {
            Shared::Single(server) => vec![server.address()],
            Shared::Cluster(cluster) => cluster.addresses(),
        }
    }

    /// Waits until every running node is ready; panics with the reasons where one is not.
    pub fn wait_ready(&self) {
        let running = || self.routers.iter().chain(&self.gateways).filter(|node| node.is_running());
        if !eventually_within(PATIENCE, || running().all(Node::ready)) {
            for node in running().filter(|node| !node.ready()) {
                eprintln!("--- {}: /readyz {:?}\n{}", node.name(), node.admin("/readyz"), node.log());
            }
            panic!("the cluster is not ready");
        }
    }

    /// The API of a router.
    pub fn api(&self, router: usize) -> Api {
        Api::new(self.routers[router].address("http"), API_KEY)
    }

    /// Both kinds of nodes, running or not.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.gateways.iter().chain(&self.routers)
    }

    /// Words that no log may hold.
    pub fn secrets(&self) -> [&'static str; 2] {
        [API_KEY, LINK_SECRET]
    }

    /// The key of the API of every router.
    pub fn api_key(&self) -> &'static str {
        API_KEY
    }

    /// Client addresses of all gateways.
    pub fn client_addresses(&self) -> Vec<String> {
        self.gateways.iter().map(|gateway| gateway.address("tcp").to_string()).collect()
    }

    /// The single Redis.
    pub fn redis(&self) -> &RedisServer {
        match &self.redis {
            Shared::Single(server) => server,
            Shared::Cluster(_) => panic!("this cluster has a Redis Cluster"),
        }
    }

    /// The single Redis, to kill it or start it again.
    pub fn redis_mut(&mut self) -> &mut RedisServer {
        match &mut self.redis {
            Shared::Single(server) => server,
            Shared::Cluster(_) => panic!("this cluster has a Redis Cluster"),
        }
    }

    /// The Redis Cluster.
    pub fn redis_cluster_mut(&mut self) -> &mut RedisCluster {
        match &mut self.redis {
            Shared::Cluster(cluster) => cluster,
            Shared::Single(_) => panic!("this cluster has a single Redis"),
        }
    }

    /// One command at whatever node of Redis holds `key`.
    ///
    /// # Errors
    /// When Redis is away or refuses.
    pub fn redis_command(&self, key: &str, words: &[&str]) -> std::io::Result<String> {
        match &self.redis {
            Shared::Single(server) => server.command(words),
            Shared::Cluster(cluster) => {
                let owner = cluster.primary_of(key).ok_or_else(|| std::io::Error::other("nobody owns the slot"))?;
                cluster.node(owner).command(words)
            }
        }
    }

    /// One command at each server that takes writes; their answers.
    ///
    /// # Errors
    /// When one of them is away or refuses.
    pub fn redis_command_everywhere(&self, words: &[&str]) -> std::io::Result<Vec<String>> {
        match &self.redis {
            Shared::Single(server) => Ok(vec![server.command(words)?]),
            Shared::Cluster(cluster) => cluster.primaries().map(|server| server.command(words)).collect(),
        }
    }

    /// Index of the running router that owns the room by its lease; `None` while nobody does.
    pub fn owner_of(&self, room: i64) -> Option<usize> {
        let name = format!("room:{room}:owner");
        // In one of the shards, as `epoch%until%holder`; and the holder is one life of a room on one life of a router: `name%incarnation%life`.
        let lease = (0..LEASE_SHARDS).find_map(|shard| {
            let key = format!("im:leases:{{{shard}}}");
            self.redis_command(&key, &["HGET", &key, &name]).ok().filter(|lease| !lease.is_empty())
        })?;
        let holder = lease.split('%').nth(2)?;
        self.routers.iter().position(|router| router.is_running() && router.name() == holder)
    }
}
