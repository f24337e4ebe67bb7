//! Two routers over a real Redis, linked by TCP: what they do for each other while it is there, and what they say while it is not.

use super::{APP, Node, World, room_push, until};
use crate::testing::TestRecords;
use billfish_state::{
    NodeInfo, NodeKind, UserId,
    redis::{Redis, RedisConfig},
};
use billfish_testing::RedisServer;
use billfish_wire::Reason;
use prometheus_client::registry::Registry;
use std::sync::Arc;

/// A router with a connection of its own, as one in another process has it.
async fn router(node: &str, server: &RedisServer, records: &Arc<TestRecords>) -> (Node, World, Redis) {
    let config = RedisConfig { nodes: vec![server.address().to_string()], ..RedisConfig::default() };
    let redis = Redis::start(config, &mut Registry::default()).await.unwrap();
    let world = World { state: redis.state(), records: Arc::clone(records) };
    let node = world.router_with(node, super::with_link_port).await;
    (node, world, redis)
}

#[tokio::test]
async fn while_redis_is_away_a_router_says_so_and_when_it_is_back_all_goes_on_by_itself() {
    let Some(mut server) = RedisServer::start() else { return };
    let records = Arc::new(TestRecords::default());
    let (first, world, _redis) = router("r1", &server, &records).await;
    let (second, _, _other_redis) = router("r2", &server, &records).await;
    let gateway = NodeInfo {
        kind: NodeKind::Gateway,
        id: "g1".to_owned(),
        incarnation: 1,
        addresses: vec![("tcp".to_owned(), "127.0.0.1:9000".to_owned())],
        capacity: 1,
        load: 0,
        draining: false,
        version: String::new(),
        labels: Default::default(),
    };
    let now_ms = world.state.clock.now_ms();
    world.state.registry.register(&gateway, now_ms, now_ms + 3_600_000).await.unwrap();
    for (node, other) in [(&first, "r2"), (&second, "r1")] {
        until("the ring has both", || super::knows(node, other)).await;
        until("they are linked", || node.metric("router_peer_link_up") == 1.0).await;
        until("it is ready", || node.running.readiness().is_ok()).await;
    }
    let room = world.room_of(&second).await;
    let before = first.push(room, "x").await.unwrap();
    first.handle.issue_token(APP, UserId(20_001), None).await.unwrap();

    server.kill();
    until("it says why it is not ready", || first.running.readiness().is_err_and(|why| why.contains("the shared state is away"))).await;
    let refusal = first.handle.issue_token(APP, UserId(20_001), None).await.unwrap_err();
    assert_eq!((refusal.reason, refusal.retry_after_ms.is_some()), (Reason::Unavailable, true));
    assert!(super::knows(&first, "r2"), "the ring stays as it was last seen");

    server.start_again();
    for node in [&first, &second] {
        until("it is ready again", || node.running.readiness().is_ok()).await;
    }
    let mut said = first.handle.push(room_push(room, "x")).await;
    let give_up = tokio::time::Instant::now() + super::PATIENCE;
    while said.is_err() && tokio::time::Instant::now() < give_up {
        tokio::time::sleep(super::LOOK).await;
        said = first.handle.push(room_push(room, "x")).await;
    }
    assert!(said.unwrap().seq.unwrap() > before);
    first.handle.issue_token(APP, UserId(20_001), None).await.unwrap();

    // One goes, and the other has its rooms.
    second.running.drain().await;
    until("the ring has one router", || !super::knows(&first, "r2")).await;
    first.push(room, "by the next owner").await.unwrap();
    first.running.drain().await;
}
