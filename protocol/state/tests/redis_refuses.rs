//! What the Redis adapter does when Redis answers, and the answer is no: it takes no writes, a key is spoilt, or it is not the Redis that
//! was configured. With a private server, or cluster, for each test.
#![expect(clippy::unwrap_used, reason = "a test that fails here says so")]

use billfish_state::redis::{Redis, RedisConfig, StartError};
use billfish_state::{
    AppId, DeviceKind, InboxAppend, Lease, MessageClaim, NodeInfo, NodeKind, Route, State, StateError, TokenOwner, UserId, WindowHit,
    WindowVerdict,
};
use billfish_testing::{Certificates, PATIENCE, RedisCluster, RedisOptions, RedisServer, slot_of};
use prometheus_client::registry::Registry;
use std::error::Error;
use std::time::Duration;
use tokio::time::{Instant, sleep};

const APP: AppId = AppId(10001);

#[tokio::test]
async fn a_server_that_became_a_replica_is_away_for_reads_too_until_it_takes_writes_again() {
    let Some(server) = RedisServer::start() else { return };
    let node = Node::start(single(&server)).await;
    node.issue("t").await.unwrap();
    let before = connections(&server);
    become_replica(&server);
    assert!(node.issue("u").await.is_err());
    let reading = node.token().await.unwrap_err();
    assert!(cause(&reading).contains("READONLY"), "a read fails, and says why: {}", cause(&reading));
    eventually("the watch says so", async || node.state.watch.away().is_some_and(|why| why.contains("READONLY"))).await;
    assert_eq!(node.value("state_redis_breaker_open"), 1.0);
    let until = Instant::now() + Duration::from_secs(2);
    while Instant::now() < until {
        assert!(node.issue("u").await.is_err() && node.token().await.is_err(), "it does not flap");
        assert!(node.state.watch.away().is_some(), "nor does the watch");
        sleep(Duration::from_millis(1)).await;
    }
    assert!(node.value("state_redis_failures_total{kind=\"refused\"}") <= 2.0, "by a call, and by a pulse that was on its way");
    let made = connections(&server) - before;
    assert!(made <= 4, "{made} connections were made, two of them by this test, however many calls were refused");
    server.command(&["REPLICAOF", "NO", "ONE"]).unwrap();
    eventually("it takes writes", async || node.issue("u").await.is_ok()).await;
    eventually("the watch says so", async || node.state.watch.away().is_none()).await;
    assert!(node.state.watch.generation() > 0, "it may hold another's data now");
    assert_eq!(node.token().await.unwrap(), Some(owner()));
}

#[tokio::test]
async fn a_server_that_has_no_memory_left_is_away_and_has_forgotten_nothing_afterwards() {
    let Some(server) = RedisServer::start() else { return };
    let node = Node::start(single(&server)).await;
    node.issue("t").await.unwrap();
    server.command(&["CONFIG", "SET", "maxmemory", "1"]).unwrap();
    assert!(node.lease("a").await.is_err(), "a script that writes");
    assert!(cause(&node.token().await.unwrap_err()).contains("OOM"));
    eventually("the watch says so", async || node.state.watch.away().is_some_and(|why| why.contains("OOM"))).await;
    server.command(&["CONFIG", "SET", "maxmemory", "0"]).unwrap();
    eventually("it takes writes", async || node.lease("a").await.is_ok()).await;
    eventually("the watch says so", async || node.state.watch.away().is_none()).await;
    assert_eq!(node.value("state_redis_breaker_open"), 0.0);
    assert_eq!((node.value("state_redis_reconnects_total"), node.state.watch.generation()), (0.0, 0));
}

#[tokio::test]
async fn a_server_that_takes_no_writes_from_the_beginning_is_away_though_nobody_calls_it() {
    let Some(server) = RedisServer::start() else { return };
    become_replica(&server);
    let node = Node::start(single(&server)).await;
    eventually("the watch says so", async || node.state.watch.away().is_some_and(|why| why.contains("READONLY"))).await;
    server.command(&["REPLICAOF", "NO", "ONE"]).unwrap();
    eventually("the watch says so", async || node.state.watch.away().is_none()).await;
    assert_eq!(node.state.watch.generation(), 0, "who never had it forgot nothing");
}

#[tokio::test]
async fn one_server_of_a_cluster_that_takes_no_writes_is_told_though_nobody_calls_it_and_the_others_serve() {
    let Some(cluster) = RedisCluster::start(3, 0) else { return };
    let node = Node::start(clustered(&cluster)).await;
    // Not the one that the clock is kept on: that one is written to all the time.
    let pulse = cluster.primary_of("im:pulse").unwrap();
    let refusing = (pulse + 1) % cluster.len();
    let tokens: Vec<String> = (0..200).map(|number| format!("t{number}")).collect();
    let theirs = |token: &&String| cluster.primary_of(&format!("im:imLoginToken:{token}")).unwrap() == refusing;
    let (bad, good) = (tokens.iter().find(theirs).unwrap(), tokens.iter().find(|token| !theirs(token)).unwrap());
    cluster.node(refusing).command(&["CONFIG", "SET", "min-replicas-to-write", "1"]).unwrap();
    let address = cluster.node(refusing).address().to_string();
    let told = async || node.state.watch.away().is_some_and(|why| why.contains("NOREPLICAS") && why.contains(&address));
    eventually("the watch names it", told).await;
    assert!(node.issue(bad).await.is_err());
    node.issue(good).await.unwrap();
    cluster.node(refusing).command(&["CONFIG", "SET", "min-replicas-to-write", "0"]).unwrap();
    eventually("it takes writes", async || node.issue(bad).await.is_ok()).await;
    eventually("nothing is away", async || node.state.watch.away().is_none()).await;
}

#[tokio::test]
async fn a_key_of_another_type_is_named_and_the_store_is_not_away_for_it() {
    let Some(server) = RedisServer::start() else { return };
    let node = Node::start(single(&server)).await;
    server.command(&["LPUSH", "im:imLoginToken:t", "x"]).unwrap();
    server.command(&["LPUSH", "im:bindIp:10001:1", "x"]).unwrap();
    let token = node.token().await.unwrap_err();
    assert!(matches!(&token, StateError::Spoilt { key, .. } if key == "im:imLoginToken:..."), "the token is a secret: {token:?}");
    let route = node.state.routes.lookup(APP, &[UserId(2), UserId(1)], node.now()).await.unwrap_err();
    assert!(matches!(&route, StateError::Spoilt { key, .. } if key == "im:bindIp:10001:1"), "{route:?}");
    assert!(route.to_string().contains("im:bindIp:10001:1") && !route.to_string().contains("away"), "{route}");
    assert_eq!(node.value("state_redis_failures_total{kind=\"spoilt\"}"), 2.0);
    server.command(&["DEL", "im:bindIp:10001:1"]).unwrap();
    assert!(node.state.routes.lookup(APP, &[UserId(1)], node.now()).await.is_ok());
    let pair = ["t".to_owned(), "u".to_owned()];
    let resolved = node.state.tokens.resolve(&pair, node.now()).await.unwrap_err();
    assert!(matches!(&resolved, StateError::Spoilt { .. }), "also among others: {resolved:?}");
    assert_eq!((node.state.watch.away(), node.value("state_redis_breaker_open")), (None, 0.0));
}

#[tokio::test]
async fn an_inbox_that_is_spoilt_keeps_no_other_from_being_written() {
    let Some(server) = RedisServer::start() else { return };
    let node = Node::start(single(&server)).await;
    let (inbox, now) = (&node.state.inbox, node.now());
    server.command(&["LPUSH", "im:inbox:{10001:2}:notes", "x"]).unwrap();
    let append = |user: i64| {
        let claim = Some(MessageClaim { app: APP, user: UserId(9), msg_id: "m".to_owned(), until_ms: now + 60_000 });
        InboxAppend { app: APP, user: UserId(user), id: format!("{now}-0"), body: "{}".into(), claim }
    };
    let appended = inbox.append_each(&[append(1), append(2), append(3)], now).await;
    assert!(matches!(&appended[1], Err(StateError::Spoilt { key, .. }) if key.contains("10001:2")), "{appended:?}");
    let acked: Vec<_> = (1..=3).map(|user| (APP, UserId(user), format!("{now}-0"))).collect();
    for user in [1, 3] {
        assert_eq!(inbox.read(APP, UserId(user), None, 9, now).await.unwrap().entries.len(), 1, "of {user}");
    }
    assert!(matches!(inbox.ack(&acked).await, Err(StateError::Spoilt { .. })));
    for user in [1, 3] {
        assert!(inbox.read(APP, UserId(user), None, 9, now).await.unwrap().entries.is_empty(), "of {user}");
    }
}

#[tokio::test]
async fn spoilt_routes_and_windows_are_written_anew() {
    let Some(server) = RedisServer::start() else { return };
    let node = Node::start(single(&server)).await;
    // One alone, and two among others.
    let route = |user: i64| Route { app: APP, user: UserId(user), device: DeviceKind::Ios, node: "g".to_owned(), epoch: 1, session: 1 };
    let hit = |user: i64| WindowHit { key: user.to_string(), limit: 1, window_ms: 60_000 };
    for users in [vec![1], vec![2, 3, 4]] {
        for user in &users {
            server.command(&["LPUSH", &format!("im:bindIp:10001:{user}"), "x"]).unwrap();
            server.command(&["LPUSH", &format!("im:limit:{user}"), "x"]).unwrap();
        }
        let routes: Vec<Route> = users.iter().map(|user| route(*user)).collect();
        let hits: Vec<WindowHit> = users.iter().map(|user| hit(*user)).collect();
        assert_eq!(node.state.routes.bind(&routes, node.now(), node.now() + 60_000).await.unwrap(), vec![Vec::<Route>::new(); users.len()]);
        let ids: Vec<UserId> = users.iter().map(|user| UserId(*user)).collect();
        let found = node.state.routes.lookup(APP, &ids, node.now()).await.unwrap();
        assert_eq!(found.into_iter().flatten().collect::<Vec<_>>(), routes);
        assert_eq!(node.state.rate_windows.hit(&hits, node.now()).await.unwrap(), vec![WindowVerdict::Allowed; users.len()]);
        assert!(node.state.rate_windows.hit(&hits, node.now()).await.unwrap().iter().all(|verdict| *verdict != WindowVerdict::Allowed));
    }
}

#[tokio::test]
async fn spoilt_keys_of_the_registry_and_of_leases_are_written_anew() {
    let Some(server) = RedisServer::start() else { return };
    let node = Node::start(single(&server)).await;
    let info = |id: &str| NodeInfo {
        kind: NodeKind::Gateway,
        id: id.to_owned(),
        incarnation: 1,
        addresses: vec![],
        capacity: 1,
        load: 0,
        draining: false,
        version: String::new(),
        labels: [].into(),
    };
    let register = async |id| node.state.registry.register(&info(id), node.now(), node.now() + 60_000).await;
    let listed = async || node.state.registry.nodes(NodeKind::Gateway, node.now()).await.map(|nodes| nodes.len());
    assert!(register("g1").await.unwrap() && register("g2").await.unwrap());
    server.command(&["HSET", "im:node:gateway", "g1", "x"]).unwrap();
    assert_eq!(listed().await.unwrap(), 1, "the others are listed");
    assert!(register("g1").await.unwrap());
    assert_eq!(listed().await.unwrap(), 2);
    server.command(&["SET", "im:node:gateway", "x"]).unwrap();
    assert!(matches!(listed().await, Err(StateError::Spoilt { key, .. }) if key == "im:node:gateway"));
    assert!(register("g1").await.unwrap() && register("g2").await.unwrap());
    assert_eq!(listed().await.unwrap(), 2);
    server.command(&["SET", "im:lease:{lease}", "x"]).unwrap();
    assert_eq!(node.lease("a").await.unwrap().holder, "a");
}

#[tokio::test]
async fn a_single_server_is_no_cluster_and_a_node_of_a_cluster_no_single_server() {
    let Some(server) = RedisServer::start() else { return };
    let Some(cluster) = RedisCluster::start(3, 0) else { return };
    assert_eq!(contradicted(RedisConfig { cluster: true, ..single(&server) }).await, "cluster");
    let nodes = vec![cluster.node(0).address().to_string()];
    assert_eq!(contradicted(RedisConfig { nodes, ..RedisConfig::default() }).await, "cluster");
}

#[tokio::test]
async fn tls_that_only_one_side_speaks_is_told_from_a_server_that_is_away() {
    let certificates = Certificates::new();
    let options = RedisOptions { tls: Some(certificates.clone()), ..RedisOptions::default() };
    let Some(mut server) = RedisServer::start_with(options) else { return };
    let (plain, encrypted) = (server.address().to_string(), server.tls_address().unwrap().to_string());
    let tls = |node: &str| RedisConfig {
        nodes: vec![node.to_owned()],
        tls: true,
        ca_file: Some(certificates.authority()),
        ..RedisConfig::default()
    };
    assert_eq!(contradicted(tls(&plain)).await, "tls");
    assert_eq!(contradicted(RedisConfig { nodes: vec![encrypted.clone()], ..RedisConfig::default() }).await, "tls");
    server.kill();
    for config in [tls(&plain), RedisConfig { nodes: vec![encrypted], ..RedisConfig::default() }] {
        assert!(Node::start(config).await.state.watch.away().is_some(), "nobody answers: it may come");
    }
}

#[tokio::test]
async fn credentials_and_a_database_that_the_server_does_not_take_are_refused_at_the_start() {
    let credentials = Some(("im".to_owned(), "secret".to_owned()));
    let Some(guarded) = RedisServer::start_with(RedisOptions { credentials, ..RedisOptions::default() }) else { return };
    let Some(open) = RedisServer::start() else { return };
    let with = |server: &RedisServer, username: Option<&str>, password: &str| RedisConfig {
        username: username.map(str::to_owned),
        password: Some(password.to_owned()),
        ..single(server)
    };
    assert_eq!(contradicted(with(&guarded, Some("im"), "wrong-one")).await, "password");
    assert_eq!(contradicted(single(&guarded)).await, "password");
    assert_eq!(contradicted(with(&open, None, "superfluous")).await, "password");
    assert_eq!(contradicted(RedisConfig { database: 9999, ..single(&open) }).await, "database");
    Node::start(with(&guarded, Some("im"), "secret")).await.issue("t").await.unwrap();
}

#[tokio::test]
async fn a_password_that_is_changed_while_the_node_runs_is_told_by_its_key() {
    let options = || RedisOptions { credentials: Some(("im".to_owned(), "secret".to_owned())), ..RedisOptions::default() };
    let Some(server) = RedisServer::start_with(options()) else { return };
    let config = RedisConfig { username: Some("im".to_owned()), password: Some("secret".to_owned()), ..single(&server) };
    let node = Node::start(config).await;
    node.issue("t").await.unwrap();
    server.command(&["ACL", "SETUSER", "other", "on", ">other", "~*", "+@all"]).unwrap();
    // Its own connection goes with the user, and so does that of the node.
    drop(server.command(&["ACL", "SETUSER", "im", "resetpass", ">changed"]));
    drop(server.command(&["CLIENT", "KILL", "TYPE", "normal"]));
    let port = server.address();
    let cut = std::process::Command::new("redis-cli")
        .args(["-h", &port.ip().to_string(), "-p", &port.port().to_string(), "--user", "other", "--pass", "other", "--no-auth-warning"])
        .args(["CLIENT", "KILL", "USER", "im"])
        .status();
    assert!(cut.unwrap().success());
    let told = async || node.state.watch.away().is_some_and(|why| why.contains("state.redis.password"));
    eventually("it is told", told).await;
    assert!(!node.state.watch.away().unwrap().contains("secret"), "the password is not");
}

#[tokio::test]
async fn a_cluster_may_speak_tls_and_go_by_addresses_or_by_names() {
    let certificates = Certificates::new();
    for (name, preferred) in [("127.0.0.1", "ip"), ("localhost", "hostname")] {
        let arguments = [
            "--tls-cluster yes --tls-replication yes --cluster-announce-ip 127.0.0.1 --cluster-announce-hostname localhost",
            &format!("--cluster-preferred-endpoint-type {preferred}"),
        ];
        let options = RedisOptions {
            tls: Some(certificates.clone()),
            cluster: true,
            arguments: arguments.iter().flat_map(|line| line.split(' ')).map(str::to_owned).collect(),
            ..RedisOptions::default()
        };
        let Some(server) = RedisServer::start_with(options) else { return };
        server.command(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]).unwrap();
        eventually("it is whole", async || server.command(&["CLUSTER", "INFO"]).unwrap().contains("cluster_state:ok")).await;
        let config = RedisConfig {
            nodes: vec![format!("{name}:{}", server.tls_address().unwrap().port())],
            cluster: true,
            tls: true,
            ca_file: Some(certificates.authority()),
            ..RedisConfig::default()
        };
        let node = Node::start(config).await;
        node.issue("t").await.unwrap();
        assert_eq!(node.token().await.unwrap(), Some(owner()));
        let slots = server.command(&["CLUSTER", "SLOTS"]).unwrap();
        assert!(slots.contains(name), "it goes by {name}: {slots}");
    }
    assert_ne!(slot_of("im:imLoginToken:t"), slot_of("im:probe:0"), "two keys, so that the map was used");
}

/// A replica of nobody: it reads, and takes no writes.
fn become_replica(server: &RedisServer) {
    server.command(&["REPLICAOF", "127.0.0.1", "1"]).unwrap();
}

/// Connections that were ever made to it.
fn connections(server: &RedisServer) -> u64 {
    let stats = server.command(&["INFO", "stats"]).unwrap();
    stats.lines().find_map(|line| line.strip_prefix("total_connections_received:")).unwrap().trim().parse().unwrap()
}

/// The setting that Redis contradicts at the start.
async fn contradicted(config: RedisConfig) -> &'static str {
    let refused = Redis::start(config, &mut Registry::default()).await;
    let Err(error) = refused else { panic!("it started") };
    let StartError::Config(wrong) = &error else { panic!("{error:?}") };
    assert!(error.to_string().contains(&format!("`state.redis.{}`", wrong.key)), "{error}");
    wrong.key
}

fn owner() -> TokenOwner {
    TokenOwner { app: APP, user: UserId(1), device: None, session: None }
}

/// The adapter, with one token `t` in it or not.
struct Node {
    /// Kept: the adapter ends with it.
    _redis: Redis,
    state: State,
    metrics: Registry,
}

impl Node {
    async fn start(config: RedisConfig) -> Self {
        let mut metrics = Registry::default();
        let redis = Redis::start(config, &mut metrics).await.unwrap();
        Self { state: redis.state(), _redis: redis, metrics }
    }

    fn now(&self) -> u64 {
        self.state.clock.now_ms()
    }

    async fn issue(&self, token: &str) -> Result<(), StateError> {
        self.state.tokens.issue(token, owner(), self.now(), self.now() + 3_600_000).await
    }

    async fn token(&self) -> Result<Option<TokenOwner>, StateError> {
        Ok(self.state.tokens.resolve(&["t".to_owned()], self.now()).await?[0])
    }

    async fn lease(&self, holder: &str) -> Result<Lease, StateError> {
        self.state.leases.acquire("lease", holder, self.now(), self.now() + 3_600_000).await
    }

    /// A metric's value; 0 where it has none yet.
    fn value(&self, name: &str) -> f64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.metrics).unwrap();
        let line = text.lines().find(|line| line.rsplit_once(' ').is_some_and(|(named, _)| named == name));
        line.map_or(0.0, |line| line.rsplit_once(' ').unwrap().1.parse().unwrap())
    }
}

fn single(server: &RedisServer) -> RedisConfig {
    RedisConfig { nodes: vec![server.address().to_string()], ..RedisConfig::default() }
}

fn clustered(cluster: &RedisCluster) -> RedisConfig {
    let nodes = cluster.addresses().iter().map(ToString::to_string).collect();
    RedisConfig { nodes, cluster: true, ..RedisConfig::default() }
}

/// What caused it.
fn cause(error: &StateError) -> String {
    error.source().unwrap().to_string()
}

/// Polls until it holds.
async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "never happened: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}
