//! What the Redis adapter does when Redis is away, hangs, forgets or moves: with a private server, or cluster, for each test.
#![expect(clippy::unwrap_used, reason = "a test that fails here says so")]

use billfish_state::port::lease_shard;
use billfish_state::redis::{Redis, RedisConfig, StartError};
use billfish_state::{AppId, DeviceKind, Lease, LeaseAsk, PendingAck, Route, State, StateError, TokenOwner, UserId};
use billfish_testing::{Certificates, PATIENCE, RedisCluster, RedisOptions, RedisServer, slot_of};
use prometheus_client::registry::Registry;
use std::error::Error;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

const APP: AppId = AppId(10001);

#[tokio::test]
async fn a_server_that_is_away_at_the_start_is_found_when_it_comes() {
    let Some(mut server) = RedisServer::start() else { return };
    server.kill();
    let node = Node::start(single(&server)).await;
    assert!(node.state.watch.away().unwrap().contains(&server.address().to_string()), "it says who is away");
    assert!(matches!(node.token().await, Err(StateError::Away { .. })));
    server.start_again();
    eventually("it answers", async || node.token().await.is_ok()).await;
    eventually("it is not away", async || node.state.watch.away().is_none()).await;
    assert_eq!(node.state.watch.generation(), 0, "who never had it forgot nothing");
}

#[tokio::test]
async fn a_server_that_is_killed_and_started_again_goes_on_where_it_was() {
    let Some(mut server) = RedisServer::start() else { return };
    let node = Node::start(single(&server)).await;
    node.issue("t").await.unwrap();
    let lease = node.lease("a").await.unwrap();
    server.kill();
    eventually("calls fail", async || node.token().await.is_err()).await;
    eventually("the watch says so", async || node.state.watch.away().is_some()).await;
    server.start_again();
    eventually("calls succeed", async || node.token().await.is_ok_and(|owner| owner.is_some())).await;
    eventually("the watch says so", async || node.state.watch.away().is_none()).await;
    assert!(node.state.watch.generation() > 0, "it may have forgotten something");
    eventually("it is looked into", async || node.state.watch.is_certain()).await;
    assert_eq!(node.state.watch.losses(), 0, "it had not");
    assert!(node.value("state_redis_reconnects_total") >= 1.0);
    // It has lost all scripts, and kept what it had answered to.
    assert_eq!(node.lease("b").await.unwrap(), lease);
}

#[tokio::test]
async fn scripts_that_the_server_has_lost_are_loaded_again_also_in_the_middle_of_a_batch() {
    let Some(server) = RedisServer::start() else { return };
    let node = Node::start(single(&server)).await;
    let routes: Vec<_> = (0..1200).map(|user| route(user % 600, u64::try_from(user).unwrap())).collect();
    for _ in 0..2 {
        server.command(&["SCRIPT", "FLUSH"]).unwrap();
        let before = node.state.routes.bind(&routes, node.now(), node.now() + 60_000).await.unwrap();
        let newest: Vec<_> = before[600..].iter().map(|displaced| displaced.first().cloned()).collect();
        assert_eq!(newest, routes[..600].iter().cloned().map(Some).collect::<Vec<_>>(), "carried out once, and in order");
    }
}

#[tokio::test]
async fn an_ack_that_is_recorded_after_the_server_forgot_is_found_and_does_not_live_for_ever() {
    let Some(server) = RedisServer::start() else { return };
    let node = Node::start(single(&server)).await;
    let ack = |msg_id: &str| PendingAck { app: APP, user: UserId(1), msg_id: msg_id.to_owned(), room: None, times_sent: 1, due_ms: 1 };
    node.state.acks.record(&[ack("a")]).await.unwrap();
    server.command(&["FLUSHALL"]).unwrap();
    node.state.watch.may_have_forgotten();
    node.state.acks.record(&[ack("b")]).await.unwrap();
    for table in ["imAckMap", "imAckDue", "imAckName"] {
        let keys = server.command(&["KEYS", &format!("*{table}:*")]).unwrap();
        let life: u64 = server.command(&["PTTL", keys.trim()]).unwrap().trim().parse().unwrap();
        assert!(life > 7 * 24 * 3_600_000, "{keys} lives {life} ms, and is kept as long as an inbox");
    }
    let mut found = Vec::new();
    // It goes round ten shards a call.
    for _ in 0..10 {
        found.extend(node.state.acks.postpone(2, 1_000, 10).await.unwrap());
    }
    assert_eq!(found, [ack("b")]);
}

#[tokio::test]
async fn a_server_that_hangs_is_given_up_and_taken_up_again() {
    let Some(server) = RedisServer::start() else { return };
    let node = Node::start(single(&server)).await;
    node.issue("t").await.unwrap();
    server.stop();
    eventually("the breaker opens", async || {
        let call = timeout(PATIENCE, node.token()).await.expect("a call gives up");
        call.is_err() && node.value("state_redis_breaker_open") == 1.0
    })
    .await;
    assert!(node.value("state_redis_failures_total{kind=\"timed_out\"}") >= 1.0);
    assert!(cause(&node.token().await.unwrap_err()).contains("left alone"));
    eventually("the watch says so", async || node.state.watch.away().is_some()).await;
    assert_eq!(node.value("state_redis_in_flight"), 0.0);
    server.cont();
    eventually("it answers", async || node.token().await.is_ok_and(|owner| owner.is_some())).await;
    eventually("the breaker closes", async || node.value("state_redis_breaker_open") == 0.0).await;
    assert!(node.state.watch.generation() > 0);
}

#[tokio::test]
async fn no_more_is_in_flight_than_may_be() {
    let Some(server) = RedisServer::start() else { return };
    // The breaker stays out of this.
    let node = Node::start(RedisConfig { in_flight_max: 8, breaker_failures: 1_000_000, ..single(&server) }).await;
    let many: Vec<String> = (0..100).map(|number| format!("t{number}")).collect();
    node.state.tokens.revoke(&many).await.expect("a large batch goes in pieces");
    server.stop();
    let calls: Vec<_> = (0..50)
        .map(|_| {
            let state = node.state.clone();
            tokio::spawn(async move { state.tokens.revoke(&["t".to_owned()]).await.unwrap_err() })
        })
        .collect();
    let mut refused = 0;
    for call in calls {
        refused += usize::from(cause(&call.await.unwrap()).contains("in flight"));
    }
    assert!(refused >= 50 - 8, "{refused} refused");
    server.cont();
    eventually("it answers", async || node.token().await.is_ok()).await;
}

#[tokio::test]
async fn a_user_needs_no_more_than_is_written_and_is_told_what_is_missing() {
    let Some(server) = RedisServer::start() else { return };
    let user = |name: &str, rights: &[&str]| {
        server.command(&[&["ACL", "SETUSER", name, "on", ">secret", "~im:*"], rights].concat()).unwrap();
        RedisConfig { username: Some(name.to_owned()), password: Some("secret".to_owned()), ..single(&server) }
    };
    let enough =
        user("enough", &["+@read", "+@write", "+@scripting", "+ping", "+time", "+select", "+cluster|info", "+cluster|slots", "+asking"]);
    let node = Node::start(enough).await;
    node.issue("t").await.unwrap();
    node.lease("a").await.unwrap();
    node.state.presence.touch(&[(APP, UserId(1))], node.now()).await.unwrap();
    let reader = Node::start(user("reader", &["+@read", "+ping", "+time"])).await;
    assert!(reader.token().await.unwrap().is_some());
    assert!(cause(&reader.issue("u").await.unwrap_err()).contains("NOPERM"));
    assert!(reader.token().await.is_ok(), "and what may be done is done");
}

#[tokio::test]
async fn with_tls_the_server_is_checked() {
    let certificates = Certificates::new();
    let tls = Some(certificates.clone());
    let Some(server) = RedisServer::start_with(RedisOptions { tls, ..RedisOptions::default() }) else { return };
    let with = |authority| RedisConfig {
        nodes: vec![server.tls_address().unwrap().to_string()],
        tls: true,
        ca_file: Some(authority),
        ..RedisConfig::default()
    };
    let node = Node::start(with(certificates.authority())).await;
    node.issue("t").await.unwrap();
    node.lease("a").await.unwrap();
    let stranger = Node::start(with(Certificates::new().authority())).await;
    assert!(stranger.token().await.is_err());
    let why = stranger.state.watch.away().unwrap();
    assert!(why.to_lowercase().contains("certificate"), "{why}");
    for odd in [certificates.key(), server.directory().join("none.pem")] {
        let refused = Redis::start(with(odd.clone()), &mut Registry::default()).await.unwrap_err();
        assert!(matches!(refused, StartError::CaFile { path, .. } if path == odd));
    }
}

#[tokio::test]
async fn a_setting_that_cannot_be_used_is_refused() {
    let refused = Redis::start(RedisConfig { nodes: Vec::new(), ..RedisConfig::default() }, &mut Registry::default()).await;
    assert!(matches!(refused, Err(StartError::Config(error)) if error.key == "nodes"));
}

#[tokio::test]
async fn a_clock_that_is_wrong_alone_is_set_by_those_of_the_others() {
    let Some(server) = RedisServer::start() else { return };
    let (node, b, c) = (Node::start(single(&server)).await, Node::start(single(&server)).await, Node::start(single(&server)).await);
    const HOUR_MS: u64 = 3_600_000;
    for (wrong_ms, steps) in [(node.now() + HOUR_MS, 2.0), (node.now() - HOUR_MS, 3.0)] {
        node.state.clock.set(wrong_ms);
        eventually("it is right again", async || node.now().abs_diff(b.now()) < 1_000).await;
        assert_eq!(node.value("state_redis_clock_steps_total"), steps);
    }
    let others = [&b, &c].map(|node| node.value("state_redis_clock_steps_total"));
    assert_eq!(others, [1.0, 1.0], "each at its start");
}

#[tokio::test]
async fn what_has_stopped_answers_no_more() {
    let Some(server) = RedisServer::start() else { return };
    let Node { redis, state, .. } = Node::start(single(&server)).await;
    redis.stop().await;
    assert!(state.tokens.resolve(&["t".to_owned()], 0).await.is_err());
    assert_eq!(state.watch.away().as_deref(), Some("stopped"));
    eventually("its connections are gone", async || server.command(&["CLIENT", "LIST"]).unwrap().lines().count() == 1).await;
}

#[tokio::test]
async fn a_primary_of_a_cluster_that_dies_is_followed_by_its_replica() {
    let Some(mut cluster) = RedisCluster::start(3, 1) else { return };
    let node = Node::start(clustered(&cluster)).await;
    let users: Vec<_> = (0..300).collect();
    let routes: Vec<_> = users.iter().map(|user| route(*user, 7)).collect();
    let bind = async || node.state.routes.bind(&routes, node.now(), node.now() + 60_000).await;
    bind().await.unwrap();
    cluster.kill(cluster.primary_of("im:bindIp:10001:1").unwrap());
    eventually("calls fail", async || bind().await.is_err()).await;
    eventually("calls succeed", async || bind().await.is_ok()).await;
    let ids: Vec<_> = users.iter().map(|user| UserId(*user)).collect();
    let found = node.state.routes.lookup(APP, &ids, node.now()).await.unwrap();
    assert_eq!(found.into_iter().flatten().collect::<Vec<_>>(), routes);
    assert!(node.state.watch.generation() > 0, "the replica may not have had everything");
    eventually("nothing is away", async || node.state.watch.away().is_none()).await;
}

#[tokio::test]
async fn leases_on_the_other_servers_of_a_cluster_are_renewed_while_one_is_dead() {
    let Some(mut cluster) = RedisCluster::start(3, 0) else { return };
    let node = Node::start(clustered(&cluster)).await;
    // Else the others refuse everything as soon as they notice.
    for index in 0..cluster.len() {
        cluster.node(index).command(&["CONFIG", "SET", "cluster-require-full-coverage", "no"]).unwrap();
    }
    let asks: Vec<_> = (0..300).map(|room| LeaseAsk { name: format!("room:{room}:owner"), holder: "r".to_owned() }).collect();
    let ask = async || node.state.leases.acquire_many(&asks, node.now(), node.now() + 60_000).await;
    assert!(ask().await.unwrap().iter().all(Option::is_some));
    let primary_of = |name: &str| cluster.primary_of(&format!("im:leases:{{{}}}", lease_shard(name))).unwrap();
    let dead = primary_of(&asks[1].name);
    let is_theirs: Vec<bool> = asks.iter().map(|ask| primary_of(&ask.name) != dead).collect();
    assert!(is_theirs.contains(&true), "the shards are on several servers");
    cluster.kill(dead);
    let others = async || ask().await.is_ok_and(|told| told.iter().map(Option::is_some).eq(is_theirs.iter().copied()));
    eventually("the others answer for theirs", others).await;
    for index in 0..cluster.len() {
        cluster.kill(index);
    }
    eventually("nobody answers", async || ask().await.is_err()).await;
}

#[tokio::test]
async fn a_primary_of_a_cluster_that_hangs_is_left_for_its_replica_and_not_believed_afterwards() {
    let Some(cluster) = RedisCluster::start(3, 1) else { return };
    let node = Node::start(clustered(&cluster)).await;
    let routes: Vec<_> = (0..300).map(|user| route(user, 7)).collect();
    let bind = async || node.state.routes.bind(&routes, node.now(), node.now() + 60_000).await;
    bind().await.unwrap();
    let old = cluster.primary_of("im:bindIp:10001:1").unwrap();
    cluster.node(old).stop();
    eventually("calls fail", async || bind().await.is_err()).await;
    eventually("calls succeed", async || bind().await.is_ok()).await;
    assert!(node.state.watch.generation() > 0);
    cluster.node(old).cont();
    eventually("the old one follows", async || cluster.is_whole(true)).await;
    bind().await.unwrap();
    eventually("nothing is away", async || node.state.watch.away().is_none()).await;
}

#[tokio::test]
async fn a_slot_that_moves_is_followed_at_every_step() {
    let Some(cluster) = RedisCluster::start(3, 0) else { return };
    let node = Node::start(clustered(&cluster)).await;
    let key = "im:bindIp:10001:1";
    let slot = slot_of(key).to_string();
    let from = cluster.primary_of(key).unwrap();
    let to = (from + 1) % cluster.len();
    let id = |index: usize| cluster.node(index).command(&["CLUSTER", "MYID"]).unwrap();
    let (from_id, to_id) = (id(from), id(to));
    let bind = async |session| {
        let before = node.state.routes.bind(&[route(1, session), route(2, session)], node.now(), node.now() + 60_000).await.unwrap();
        before[0].first().map(|route| route.session)
    };
    assert_eq!(bind(1).await, None);
    cluster.node(to).command(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from_id]).unwrap();
    cluster.node(from).command(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to_id]).unwrap();
    assert_eq!(bind(2).await, Some(1), "the key is still there");
    let target = cluster.node(to).address();
    let port = target.port().to_string();
    cluster.node(from).command(&["MIGRATE", &target.ip().to_string(), &port, key, "0", "5000"]).unwrap();
    assert_eq!(bind(3).await, Some(2), "the key is on its new server, the slot is not");
    cluster.node(to).command(&["CLUSTER", "SETSLOT", &slot, "NODE", &to_id]).unwrap();
    cluster.node(from).command(&["CLUSTER", "SETSLOT", &slot, "NODE", &to_id]).unwrap();
    assert_eq!(bind(4).await, Some(3), "the slot is too");
    eventually("the map is new", async || node.state.watch.generation() > 0).await;
    assert_eq!(bind(5).await, Some(4));
}

#[tokio::test]
async fn a_cluster_that_is_away_at_the_start_is_found_when_it_comes() {
    let Some(mut cluster) = RedisCluster::start(3, 0) else { return };
    for index in 0..cluster.len() {
        cluster.kill(index);
    }
    let node = Node::start(clustered(&cluster)).await;
    assert!(node.token().await.is_err());
    assert!(node.state.watch.away().is_some());
    for index in 0..cluster.len() {
        cluster.start_again(index);
    }
    eventually("it answers", async || node.issue("t").await.is_ok()).await;
    eventually("nothing is away", async || node.state.watch.away().is_none()).await;
}

/// The adapter, with one token `t` in it or not.
struct Node {
    redis: Redis,
    state: State,
    metrics: Registry,
}

impl Node {
    async fn start(config: RedisConfig) -> Self {
        let mut metrics = Registry::default();
        let redis = Redis::start(config, &mut metrics).await.unwrap();
        Self { state: redis.state(), redis, metrics }
    }

    fn now(&self) -> u64 {
        self.state.clock.now_ms()
    }

    async fn issue(&self, token: &str) -> Result<(), StateError> {
        let owner = TokenOwner { app: APP, user: UserId(1), device: None, session: None };
        self.state.tokens.issue(token, owner, self.now(), self.now() + 3_600_000).await
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

fn route(user: i64, session: u64) -> Route {
    Route { app: APP, user: UserId(user), device: DeviceKind::Ios, node: "g1".to_owned(), epoch: 1, session }
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
