//! A router that goes while others stay.

use super::{World, until};
use billfish_link::message::{Join, Moved, Origin, Reply, Up, envelope::Kind, reply, up::Call};
use billfish_state::{DeviceKind, NodeKind};

#[tokio::test(start_paused = true)]
async fn the_rooms_of_a_router_that_drains_are_another_s_within_the_patience_of_a_call() {
    let world = World::new();
    let (first, second) = world.pair().await;
    let room = world.room_of(&second).await;
    let before = first.push(room, "before").await.unwrap();
    let draining = tokio::spawn(async move { second.running.drain().await });
    tokio::task::yield_now().await;
    let after = first.push(room, "after").await.unwrap();
    assert!(after >> 32 > before >> 32, "the next owner has a larger epoch: {after} and {before}");
    draining.await.unwrap();
    let now_ms = world.state.clock.now_ms();
    let routers = world.state.registry.nodes(NodeKind::Router, now_ms).await.unwrap();
    assert_eq!(routers.iter().map(|router| router.id.as_str()).collect::<Vec<_>>(), ["r1"]);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_reaches_a_router_which_drains_is_told_where_to_go() {
    let world = World::new();
    let (first, second) = world.pair().await;
    let room = world.room_of(&second).await;
    let mut gateway = second.gateway("g1");
    gateway.wants(room).await;
    second.push(room, "it is awake").await.unwrap();
    gateway.push().await;
    // The registry is asked first: the drain waits there while the call comes.
    let core = second.running.core.clone();
    core.begin_drain();
    core.register_draining().await;
    let origin = Origin { app_id: super::APP.0, user_id: 20_001, device: DeviceKind::Web as u32, session: 1 };
    let join = Call::Join(Join { room_id: room.0, resume_seq: None });
    gateway.link.sender.send(Kind::Up(Up { id: 1, origin: Some(origin), call: Some(join) })).await.unwrap();
    let answer = loop {
        if let Kind::Reply(Reply { id: 1, result: Some(result) }) = gateway.next().await {
            break result;
        }
    };
    assert_eq!(answer, reply::Result::Moved(Moved { owner: "r1".to_owned() }));
    assert_eq!(second.running.readiness(), Err("the router is draining".to_owned()));
    until("the other knows", || !super::knows(&first, "r2")).await;
    second.running.drain().await;
}
