//! What the HTTP API of one router wants of a room that is another router's.

use super::{APP, Gateway, Node, World, peer_link, until};
use crate::{
    handle::{MuteRequest, Operator, PushRequest},
    peers::{RoomAnswer, RoomOrder},
    room::RoomPushed,
};
use billfish_link::{
    Link,
    message::{Moved, Order, Ordered, Refused, Reply, Up, envelope::Kind, reply, up::Call},
};
use billfish_state::{RoomId, UserId};
use billfish_wire::Reason;
use std::time::Duration;
use tokio::time::{Instant, timeout};

#[tokio::test(start_paused = true)]
async fn an_order_is_carried_out_by_the_owner_of_the_room_whichever_router_is_asked() {
    let world = World::new();
    let (first, second) = world.pair().await;
    for (owner, asked) in [(&first, &second), (&second, &first)] {
        let room = world.room_of(owner).await;
        let mut gateway = owner.gateway("g1");
        gateway.wants(room).await;
        let there = owner.push(room, "at its owner").await.unwrap();
        let here = asked.push(room, "elsewhere").await.unwrap();
        assert!(here > there, "one order of messages");
        assert_eq!((gateway.push().await.as_str(), gateway.push().await.as_str()), ("at its owner", "elsewhere"));

        let mute = MuteRequest { room, user: UserId(20_001), by: Operator::Admin, duration: None };
        asked.handle.mute(mute).await.unwrap();
        assert!(gateway.push().await.contains("20001"), "the room is told");
        let by_another = MuteRequest { by: Operator::User(UserId(20_002)), ..mute };
        assert_eq!(asked.handle.ban(by_another).await.unwrap_err().reason, Reason::NotYourUser);
        asked.handle.set_slow_mode(room, Operator::Admin, Duration::from_secs(3)).await.unwrap();
        asked.handle.set_room_block_words(room, Operator::Admin, vec!["word".to_owned()]).await.unwrap();
        let anchor = asked.handle.room(room).await.unwrap().anchor;
        asked.handle.close_room(room, anchor).await.unwrap();
        assert_eq!(asked.push(room, "too late").await.unwrap_err().reason, Reason::RoomNotFound);
    }
    assert_eq!(first.metric("router_asks_total{result=\"answered\"}"), second.metric("router_orders_total{result=\"done\"}"));
}

#[tokio::test(start_paused = true)]
async fn a_room_whose_router_is_not_linked_is_refused_soon_with_a_time_to_come_back() {
    let world = World::new();
    let (first, second) = (world.router("r1").await, world.router("r2").await);
    until("the ring has both", || super::knows(&first, "r2")).await;
    let room = world.room_of(&second).await;
    let start = Instant::now();
    let refusal = first.push(room, "x").await.unwrap_err();
    assert_eq!(refusal.reason, Reason::Unavailable);
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert!(refusal.retry_after_ms.is_some());
}

#[tokio::test(start_paused = true)]
async fn an_order_that_comes_twice_is_carried_out_once_and_answered_alike() {
    let world = World::new();
    let owner = world.router("r1").await;
    let room = world.room_of(&owner).await;
    let mut gateway = owner.gateway("g1");
    gateway.wants(room).await;
    let mut asking = Asking::of(&owner, 1);
    let answers = [asking.ask(room, &text("0a", "once")).await, asking.ask(room, &text("0a", "once")).await];
    assert_eq!(answers[0], answers[1]);
    assert!(matches!(answers[0], reply::Result::Ordered(_)), "{answers:?}");
    // Also over the next link of who asked.
    let mut again = Asking::of(&owner, 1);
    assert_eq!(again.ask(room, &text("0a", "once")).await, answers[0]);
    assert!(matches!(again.ask(room, &text("0b", "another")).await, reply::Result::Ordered(_)));
    assert_eq!((gateway.push().await.as_str(), gateway.push().await.as_str()), ("once", "another"));
    assert_eq!(owner.metric("router_orders_repeated_total"), 2.0);
}

#[tokio::test(start_paused = true)]
async fn what_came_from_another_router_is_never_passed_on() {
    let world = World::new();
    let (first, second) = world.pair().await;
    let room = world.room_of(&second).await;
    let answer = Asking::of(&first, 1).ask(room, &text("0a", "x")).await;
    assert_eq!(answer, reply::Result::Moved(Moved { owner: "r2".to_owned() }));
    assert_eq!(first.metric("router_asks_total{result=\"answered\"}"), 0.0);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_understood_is_refused_and_the_link_lives_on() {
    let world = World::new();
    let owner = world.router("r1").await;
    let room = world.room_of(&owner).await;
    let mut asking = Asking::of(&owner, 1);
    for nonsense in ["", "{}", r#"{"id":"0a","order":{"rename":{}}}"#] {
        let answer = asking.ask(room, nonsense).await;
        assert!(matches!(&answer, reply::Result::Refused(Refused { code: 4009, .. })), "{answer:?}");
    }
    assert!(matches!(asking.ask(RoomId(-1), &text("0a", "x")).await, reply::Result::Refused(Refused { code: 4004, .. })));
    assert!(matches!(asking.ask(room, &text("0b", "x")).await, reply::Result::Ordered(_)));
}

/// The answer of the first try is lost with the link; the order itself had arrived.
#[tokio::test(start_paused = true)]
async fn an_order_whose_answer_was_lost_is_asked_for_again_and_is_done_once() {
    let world = World::new();
    let (first, second) = (world.router("r1").await, world.router("r2").await);
    until("the ring has both", || super::knows(&first, "r2")).await;
    let room = world.room_of(&second).await;
    let mut gateway = second.gateway("g1");
    gateway.wants(room).await;
    let (dialled, mut between) = peer_link("r1", "r2", 1);
    first.running.attach_peer(dialled);
    linked(&first, 1.0).await;
    let pushing = tokio::spawn({
        let handle = first.handle.clone();
        async move { handle.push(super::room_push(room, "once")).await }
    });
    let Some(Kind::Up(Up { call: Some(Call::Order(order)), .. })) = between.receiver.recv().await else { panic!("no order came") };
    let reply::Result::Ordered(Ordered { text }) = Asking::of(&second, 1).ask(room, &order.text).await else { panic!("not done") };
    drop(between);
    linked(&first, 0.0).await;
    first.asks(&second);
    let seq = pushing.await.unwrap().unwrap().seq.unwrap();
    assert!(text.contains(&seq.to_string()), "{text} and {seq}");
    second.push(room, "the next").await.unwrap();
    assert_eq!((gateway.push().await.as_str(), gateway.push().await.as_str()), ("once", "the next"));
}

/// A push, a state, a mute: the link ends before the answer comes, and the next link is to a later life of the router.
#[tokio::test(start_paused = true)]
async fn of_another_life_is_asked_what_is_the_same_twice_and_nothing_else() {
    for (what, is_asked_again) in [("push", true), ("state", false), ("mute", true)] {
        let world = World::new();
        let (first, second) = (world.router("r1").await, world.router("r2").await);
        until("the ring has both", || super::knows(&first, "r2")).await;
        let room = world.room_of(&second).await;
        let (dialled, mut between) = peer_link("r1", "r2", 1);
        first.running.attach_peer(dialled);
        linked(&first, 1.0).await;
        let asking = tokio::spawn({
            let handle = first.handle.clone();
            let mute = MuteRequest { room, user: UserId(20_001), by: Operator::Admin, duration: None };
            async move {
                match what {
                    "push" => handle.push(super::room_push(room, "x")).await.map(drop),
                    "state" => handle.push(PushRequest { key: Some("bar".to_owned()), ..super::room_push(room, "x") }).await.map(drop),
                    _ => handle.mute(mute).await,
                }
            }
        });
        between.receiver.recv().await.unwrap();
        drop(between);
        linked(&first, 0.0).await;
        let (dialled, accepted) = peer_link("r1", "r2", 2);
        first.running.attach_peer(dialled);
        second.running.attach(accepted);
        match asking.await.unwrap() {
            Ok(()) => assert!(is_asked_again, "{what}"),
            Err(refusal) => {
                assert!(!is_asked_again, "{what}: {refusal}");
                assert_eq!(refusal.reason, Reason::Unavailable);
                assert!(refusal.detail.contains("may or may not"), "{refusal}");
            }
        }
        assert_eq!(second.metric("router_orders_total{result=\"done\"}"), f64::from(u8::from(is_asked_again)), "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_push_that_two_owners_of_its_room_are_asked_for_is_said_once() {
    let world = World::new();
    let (first, second) = world.pair().await;
    let room = world.room_of(&second).await;
    let mut gateway = first.gateway("g1");
    gateway.wants(room).await;
    let once = |id: &str| text(id, "once").replace("null}", "null,\"once\":\"0c\"}");
    let said = Asking::of(&second, 1).ask(room, &once("0a")).await;
    let reply::Result::Ordered(Ordered { text: said }) = said else { panic!("not said: {said:?}") };
    second.running.drain().await;
    until("the ring has one router", || !super::knows(&first, "r2")).await;
    gateway.wants(room).await;
    let again = Asking::of(&first, 1).ask(room, &once("0b")).await;
    let reply::Result::Ordered(Ordered { text: again }) = again else { panic!("not known: {again:?}") };
    let seq = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap()["pushed"]["seq"].as_i64().unwrap();
    assert_eq!(seq(&again), seq(&said));
    first.push(room, "the next").await.unwrap();
    assert_eq!(gateway.push().await, "the next", "the first was said before this gateway listened");
}

#[tokio::test(start_paused = true)]
async fn a_router_that_does_not_answer_is_given_up_and_holds_no_place() {
    let world = World::new();
    let (first, second) = (world.router("r1").await, world.router("r2").await);
    until("the ring has both", || super::knows(&first, "r2")).await;
    let room = world.room_of(&second).await;
    let (dialled, mut silent) = peer_link("r1", "r2", 1);
    first.running.attach_peer(dialled);
    linked(&first, 1.0).await;
    // As many as may wait; one more is told so at once.
    let asks: Vec<_> = (0..1_024)
        .map(|_| {
            let core = first.running.core.clone();
            tokio::spawn(async move { core.ask_room(room, push("x")).await })
        })
        .collect();
    for _ in 0..1_024 {
        silent.receiver.recv().await.unwrap();
    }
    let start = Instant::now();
    let refusal = first.push(room, "one too many").await.unwrap_err();
    assert!(refusal.detail.contains("too much"), "{refusal}");
    assert_eq!(start.elapsed(), Duration::ZERO);
    for ask in asks {
        let refusal = ask.await.unwrap().unwrap_err();
        assert!(refusal.detail.contains("may or may not"), "{refusal}");
    }
    // Their places are free.
    let late = tokio::spawn({
        let core = first.running.core.clone();
        async move { core.ask_room(room, push("x")).await }
    });
    let Some(Kind::Up(Up { id, .. })) = silent.receiver.recv().await else { panic!("no order came") };
    let ordered = Ordered { text: r#"{"pushed":{"seq":7,"gateways":1}}"#.to_owned() };
    // An answer that nobody waits for any more harms nobody.
    for id in [0, id] {
        let reply = Reply { id, result: Some(reply::Result::Ordered(ordered.clone())) };
        silent.sender.send(Kind::Reply(reply)).await.unwrap();
    }
    assert_eq!(late.await.unwrap(), Ok(RoomAnswer::Pushed(RoomPushed { seq: 7, gateways: 1 })));
}

/// Real sockets: the registry says where the others are.
#[tokio::test]
async fn routers_find_each_other_by_the_registry_and_link_themselves() {
    let world = World::new();
    let (first, second) = (world.router_with("r1", super::with_link_port).await, world.router_with("r2", super::with_link_port).await);
    linked(&first, 1.0).await;
    linked(&second, 1.0).await;
    let room = world.room_of(&second).await;
    let mut gateway: Gateway = second.gateway("g1");
    gateway.wants(room).await;
    first.push(room, "over TCP").await.unwrap();
    assert_eq!(gateway.push().await, "over TCP");
    // One that goes is dialled no longer, and its rooms are the other's.
    drop(gateway);
    second.running.drain().await;
    linked(&first, 0.0).await;
    until("the ring has one router", || !super::knows(&first, "r2")).await;
    first.push(room, "by the next owner").await.unwrap();
    first.running.drain().await;
}

/// The end of a link where a test asks as another router does.
struct Asking {
    link: Link,
    next_id: u64,
}

impl Asking {
    fn of(node: &Node, incarnation: u64) -> Self {
        let (link, accepted) = peer_link("scripted", &node.running.core.config.node, incarnation);
        node.running.attach(accepted);
        Self { link, next_id: 0 }
    }

    async fn ask(&mut self, room: RoomId, text: &str) -> reply::Result {
        self.next_id += 1;
        let order = Call::Order(Order { room_id: room.0, text: text.to_owned() });
        self.link.sender.send(Kind::Up(Up { id: self.next_id, origin: None, call: Some(order) })).await.unwrap();
        let answer = timeout(super::PATIENCE, self.link.receiver.recv()).await.expect("an answer comes");
        let Some(Kind::Reply(Reply { id, result: Some(result) })) = answer else { panic!("not an answer: {answer:?}") };
        assert_eq!(id, self.next_id);
        result
    }
}

fn text(id: &str, data: &str) -> String {
    let push = serde_json::json!({"app": APP.0, "biz_code": 5_568, "data": data, "acknowledged": false, "class": 1, "key": null});
    serde_json::json!({"id": id, "order": {"push": push}}).to_string()
}

fn push(data: &str) -> RoomOrder {
    let push = crate::services::Outgoing::new(billfish_wire::BizCode(5_568), billfish_wire::Class::Event, data.to_owned());
    RoomOrder::Push { app: APP, push, once: None }
}

async fn linked(node: &Node, count: f64) {
    until("the links are as many as they should be", || node.metric("router_peer_link_up") == count).await;
}
