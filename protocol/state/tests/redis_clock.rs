//! What becomes of the shared state when the clock of Redis jumps and stays where it is, when Redis is emptied behind connections that
//! stay, and when it takes no writes: with a private server for each test.
#![expect(clippy::unwrap_used, reason = "a test that fails here says so")]

use billfish_state::redis::{Redis, RedisConfig};
use billfish_state::{AppId, Appended, DeviceKind, LogEntry, NodeInfo, NodeKind, RoomId, Route, State, TokenOwner, UserId};
use billfish_testing::{PATIENCE, RedisOptions, RedisServer};
use bytes::Bytes;
use prometheus_client::registry::Registry;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::{Instant, sleep};

const APP: AppId = AppId(10001);
const ROOM: RoomId = RoomId(1);
const USER: UserId = UserId(7);
const HOUR_S: i64 = 3_600;
/// Lives of leases and registrations.
const LIFE_MS: u64 = 6_000;
/// From its start until a node has a vote.
const UNTIL_VOTE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn an_hour_ahead_nothing_ends_and_nothing_is_taken_over() {
    everything_goes_on(HOUR_S).await;
}

#[tokio::test]
async fn an_hour_back_nothing_lives_on_and_nothing_is_taken_over() {
    everything_goes_on(-HOUR_S).await;
}

/// Two nodes keep their leases and registrations up, as they do in life, while the clock of Redis jumps and stays where it is.
async fn everything_goes_on(jump_s: i64) {
    let options = RedisOptions { fake_time: true, ..RedisOptions::default() };
    let Some(server) = RedisServer::start_with(options) else { return };
    let (a, b) = (Node::start(&server, "a").await, Node::start(&server, "b").await);
    let began = (a.now(), Instant::now());
    let is_continuous = |node: &Node| node.now().abs_diff(began.0 + millis(began.1.elapsed())) < 1_000;

    let owner = TokenOwner { app: APP, user: USER, device: None, session: None };
    a.state.tokens.issue("kept", owner, a.now(), a.now() + 600_000).await.unwrap();
    let route = Route { app: APP, user: USER, device: DeviceKind::Ios, node: "a".to_owned(), epoch: 1, session: 1 };
    a.state.routes.bind(std::slice::from_ref(&route), a.now(), a.now() + 600_000).await.unwrap();
    let said = LogEntry { seq: 1, body: Bytes::from_static(b"{}"), except: None };
    assert_eq!(a.state.room_log.append(ROOM, &[said.into()], a.now()).await.unwrap(), [Appended::Stored]);
    let epoch = a.keep_up().await;

    // The nodes must know the clock before it jumps.
    let deadline = Instant::now() + UNTIL_VOTE;
    while votes_noted(&server) < 2 {
        assert!(Instant::now() < deadline, "both have a vote soon");
        assert_eq!(a.keep_up().await, epoch);
        b.keep_up().await;
        // The pace of nodes that keep theirs up; what is waited for is the vote.
        sleep(Duration::from_millis(200)).await;
    }
    let (generation, steps) = (a.state.watch.generation(), [a.steps(), b.steps()]);
    server.set_clock(jump_s);
    let jumped = Instant::now();
    let dead = "dead".to_owned();
    a.register_as(&dead).await;
    let died = Instant::now();
    // For longer than any of the lives that a jump could end or lengthen.
    while jumped.elapsed() < Duration::from_millis(2 * LIFE_MS) || a.state.watch.generation() == generation {
        assert!(jumped.elapsed() < PATIENCE, "the jump was noticed");
        assert_eq!(a.keep_up().await, epoch, "its lease is renewed under its epoch");
        b.keep_up().await;
        for node in [&a, &b] {
            assert!(is_continuous(node), "its time goes on");
            assert!(node.state.watch.away().is_none());
            let lease = node.state.leases.acquire("owner of a", "b", node.now(), node.now() + LIFE_MS).await.unwrap();
            assert_eq!((lease.holder.as_str(), lease.epoch), ("a", epoch), "nobody else gets it");
            let nodes = node.nodes().await;
            assert!(["a", "b"].iter().all(|name| nodes.iter().any(|node| node == name)), "all are registered: {nodes:?}");
            if died.elapsed() > Duration::from_millis(LIFE_MS + 1_000) {
                assert!(!nodes.contains(&dead), "who has died is gone: {nodes:?}");
            }
            assert_eq!(node.state.presence.online(APP, &[USER], node.now() - LIFE_MS).await.unwrap(), [true]);
        }
        sleep(Duration::from_millis(200)).await;
    }
    assert_eq!([a.steps(), b.steps()], steps, "no clock was set");
    let offset_s = a.value("state_redis_clock_offset_seconds");
    assert!((offset_s + jump_s as f64).abs() < 2.0, "{offset_s} s make up for a jump of {jump_s} s");
    assert_eq!(b.state.tokens.resolve(&["kept".to_owned()], b.now()).await.unwrap(), [Some(owner)]);
    assert_eq!(b.state.routes.lookup(APP, &[USER], b.now()).await.unwrap(), [vec![route]]);
    // Who starts now takes the time of all.
    let c = Node::start(&server, "c").await;
    assert!(is_continuous(&c));
    assert_eq!(c.state.room_log.last(ROOM, 10, c.now()).await.unwrap().len(), 1, "the room's log is whole");
}

#[tokio::test]
async fn a_server_that_is_emptied_behind_its_connections_is_noticed() {
    let Some(server) = RedisServer::start() else { return };
    let (a, b) = (Node::start(&server, "a").await, Node::start(&server, "b").await);
    // Each has seen what the data was born as.
    assert_eq!([a.state.watch.generation(), b.state.watch.generation()], [0, 0]);
    server.command(&["FLUSHALL"]).unwrap();
    for node in [&a, &b] {
        eventually("it is noticed", async || node.state.watch.generation() > 0).await;
        assert_eq!(node.value("state_redis_reconnects_total"), 0.0, "by no broken connection");
        eventually("it is known for certain", async || node.state.watch.is_certain()).await;
        assert_eq!(node.state.watch.losses(), 1);
    }
}

#[tokio::test]
async fn a_server_that_takes_no_writes_is_away_until_it_does() {
    let Some(server) = RedisServer::start() else { return };
    let node = Node::start(&server, "a").await;
    let troubles: [(&str, &[&str], &[&str]); 2] = [
        ("READONLY", &["REPLICAOF", "127.0.0.1", "1"], &["REPLICAOF", "NO", "ONE"]),
        ("OOM", &["CONFIG", "SET", "maxmemory", "1"], &["CONFIG", "SET", "maxmemory", "0"]),
    ];
    for (name, harm, heal) in troubles {
        server.command(harm).unwrap();
        eventually("it is away", async || node.state.watch.away().is_some_and(|why| why.contains(name))).await;
        // Reading goes well, and makes nothing better: nothing may happen here, so there is nothing to wait for.
        for _ in 0..30 {
            drop(node.state.tokens.resolve(&["t".to_owned()], node.now()).await);
            assert!(node.state.watch.away().is_some(), "{name}");
            sleep(Duration::from_millis(50)).await;
        }
        server.command(heal).unwrap();
        eventually("it is not away", async || node.state.watch.away().is_none()).await;
    }
}

/// The adapter of one node, which keeps a lease and a registration up.
struct Node {
    name: String,
    /// Kept: the adapter ends with it.
    _redis: Redis,
    state: State,
    metrics: Registry,
}

impl Node {
    async fn start(server: &RedisServer, name: &str) -> Self {
        let mut metrics = Registry::default();
        // A machine that is busy with other tests must not count as one that is away.
        let command_timeout = Duration::from_secs(3);
        let config = RedisConfig { nodes: vec![server.address().to_string()], command_timeout, ..RedisConfig::default() };
        let redis = Redis::start(config, &mut metrics).await.unwrap();
        Self { name: name.to_owned(), state: redis.state(), _redis: redis, metrics }
    }

    fn now(&self) -> u64 {
        self.state.clock.now_ms()
    }

    /// Renews all. Gives the epoch of its lease.
    async fn keep_up(&self) -> u64 {
        self.register_as(&self.name).await;
        self.state.presence.touch(&[(APP, USER)], self.now()).await.unwrap();
        let name = format!("owner of {}", self.name);
        let lease = self.state.leases.acquire(&name, &self.name, self.now(), self.now() + LIFE_MS).await.unwrap();
        assert_eq!(lease.holder, self.name);
        lease.epoch
    }

    async fn register_as(&self, id: &str) {
        let info = NodeInfo {
            kind: NodeKind::Router,
            id: id.to_owned(),
            incarnation: 1,
            addresses: Vec::new(),
            capacity: 1,
            load: 0,
            draining: false,
            version: String::new(),
            labels: BTreeMap::new(),
        };
        self.state.registry.register(&info, self.now(), self.now() + LIFE_MS).await.unwrap();
    }

    async fn nodes(&self) -> Vec<String> {
        let nodes = self.state.registry.nodes(NodeKind::Router, self.now()).await.unwrap();
        nodes.into_iter().map(|node| node.id).collect()
    }

    fn value(&self, name: &str) -> f64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.metrics).unwrap();
        let line = text.lines().find(|line| line.rsplit_once(' ').is_some_and(|(named, _)| named == name));
        line.map_or(0.0, |line| line.rsplit_once(' ').unwrap().1.parse().unwrap())
    }

    fn steps(&self) -> f64 {
        self.value("state_redis_clock_steps_total")
    }
}

/// How many processes have a vote by now.
fn votes_noted(server: &RedisServer) -> usize {
    let noted = server.command(&["HVALS", "im:pulse"]).unwrap();
    let has_vote = |value: &&str| value.split('%').nth(1).is_some_and(|ahead| ahead.parse::<i64>().is_ok());
    noted.lines().filter(has_vote).count()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap()
}

/// Polls until it holds.
async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "never happened: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}
