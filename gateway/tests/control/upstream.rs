//! Upstream: what is kept for the router, and what the router knows of us.

use crate::house::{House, Router, until, yes};
use billfish_link::{
    message::{Reply, up::Call},
    tcp::{Acceptor, Identity, Timing},
};
use billfish_wire::{Body, Code};
use std::sync::atomic::Ordering::SeqCst;

const ROOM: i64 = 30_001;

#[test]
fn a_message_is_kept_and_sent_again_when_the_link_comes_back() {
    let house = House::alone(|_| {});
    let first = house.link("router-1", true);
    let mut client = house.join(20_001, ROOM);
    first.answers.store(false, SeqCst);
    client.say(ROOM, "one", "m1");
    until("the router has it", || first.heard_of(ROOM).contains(&"biz"));
    first.die(&house.runtime);
    until("the link is down", || house.running().ready() == Err("no link to a router is up".to_owned()));
    client.say(ROOM, "two", "m2");

    let second = house.link("router-1", true);
    for msg_id in ["m1", "m2"] {
        let ack = client.expect(Code::Ack);
        assert_eq!((ack.msg_id.as_deref(), ack.ts), (Some(msg_id), Some(1_700_000_000_000)));
    }
    assert_eq!(second.heard_of(ROOM), ["interest", "biz", "biz"]);
    let texts: Vec<String> =
        second.calls().into_iter().filter_map(|up| if let Some(Call::Biz(biz)) = up.call { Some(biz.data) } else { None }).collect();
    assert_eq!(texts, ["one", "two"]);
    assert_eq!(house.metric("gateway_upstream_retries_total", &[]), 1.0);
    assert_eq!(house.metric("gateway_upstream_in_flight", &[]), 0.0);
}

#[test]
fn pushes_reach_the_members_over_the_new_link() {
    let house = House::alone(|_| {});
    let first = house.link("router-1", true);
    let mut client = house.join(20_001, ROOM);
    first.die(&house.runtime);
    let second = house.link("router-1", true);
    until("it knows the room", || second.heard_of(ROOM) == ["interest"]);
    second.push_room(ROOM, "hello");
    assert_eq!(client.expect(Code::Biz).data.as_deref(), Some("hello"));
}

#[test]
fn a_router_that_was_away_is_dialled_until_it_is_back() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let house = House::dialling(|config| {
        config.link.routers = vec![address];
        config.link.secret = "between us".to_owned();
    });
    let identity = Identity {
        node: "router-1".to_owned(),
        kind: billfish_link::PeerKind::Router,
        incarnation: 1,
        secret: "between us".to_owned(),
        in_flight: Default::default(),
    };
    let mut acceptor = {
        let _inside = house.runtime.enter();
        Acceptor::new(tokio::net::TcpListener::from_std(listener).unwrap(), identity, Timing::default())
    };
    let mut accept = || Router::new(&house.runtime, house.runtime.block_on(acceptor.accept()).unwrap(), true);
    let first = accept();
    let mut client = house.join(20_001, ROOM);
    first.die(&house.runtime);
    client.say(ROOM, "hello", "m1");
    let second = accept();
    assert_eq!(client.expect(Code::Ack).msg_id.as_deref(), Some("m1"));
    assert_eq!(second.heard_of(ROOM), ["interest", "biz"]);
}

#[test]
fn a_second_answer_is_ignored() {
    let (house, router) = House::new();
    let mut client = house.join(20_001, ROOM);
    client.say(ROOM, "one", "m1");
    client.expect(Code::Ack);
    for up in router.calls() {
        router.tell(yes(&up, 1 << 32));
    }
    router.tell(billfish_link::message::envelope::Kind::Reply(Reply { id: 77, result: None }));
    until("two are counted as stale", || house.metric("gateway_replies_stale_total", &[]) == 2.0);
    until("and one as odd", || house.metric("gateway_envelopes_odd_total", &[]) == 1.0);
    client.beat();
}

#[test]
fn the_router_hears_of_a_room_while_it_has_members_here() {
    let (house, router) = House::new();
    let mut first = house.join(20_001, ROOM);
    let second = house.join(20_002, ROOM);
    assert_eq!(router.heard_of(ROOM), ["interest", "join", "join"]);
    first.send(Code::Leave, &Body { room_id: Some(ROOM), ..Body::default() });
    first.expect(Code::Leave);
    until("it hears of the leave", || router.heard_of(ROOM).last() == Some(&"leave"));
    drop(second);
    until("it hears of the end", || router.heard_of(ROOM) == ["interest", "join", "join", "leave", "gone", "no interest"]);
    first.send(Code::Join, &Body { room_id: Some(ROOM), ..Body::default() });
    first.expect(Code::Join);
    assert_eq!(router.heard_of(ROOM)[6..], ["interest", "join"]);
}

#[test]
fn a_refused_join_leaves_no_interest_behind() {
    use billfish_link::message::{Refused, envelope::Kind, reply};
    let (house, router) = House::new();
    router.answers.store(false, SeqCst);
    let mut client = house.login(20_001);
    client.send(Code::Join, &Body { room_id: Some(ROOM), ..Body::default() });
    until("the router has it", || router.heard_of(ROOM) == ["interest", "join"]);
    let refused = Refused { code: 4004, msg: "no such room".to_owned(), retry_after_ms: 0 };
    router.tell(Kind::Reply(Reply { id: router.calls()[0].id, result: Some(reply::Result::Refused(refused)) }));
    let error = client.expect(Code::Error);
    assert_eq!((error.code, error.msg.as_deref(), error.retry_after_ms), (Some(4004), Some("no such room"), None));
    until("it hears that nobody came", || router.heard_of(ROOM) == ["interest", "join", "no interest"]);
}

#[test]
fn a_join_answered_after_its_session_ended_is_undone() {
    let (house, router) = House::new();
    router.answers.store(false, SeqCst);
    let mut client = house.login(20_001);
    client.send(Code::Join, &Body { room_id: Some(ROOM), ..Body::default() });
    until("the router has it", || router.heard_of(ROOM) == ["interest", "join"]);
    drop(client);
    until("the session is over", || house.running().account().sessions == 0);
    router.tell(yes(&router.calls()[0], 1 << 32));
    // The answer finds nobody in the table of calls, or, where it overtakes the end of the session there, nobody on the shard.
    until("the router hears of it", || {
        let heard = router.heard_of(ROOM);
        heard == ["interest", "join", "leave", "no interest"] || heard == ["interest", "join", "gone", "no interest"]
    });
}

#[test]
fn calls_carry_the_session_that_they_came_from() {
    let (house, router) = House::new();
    let mut client = house.login_on(20_001, "ios");
    client.send(Code::Sync, &Body { from_id: Some(String::new()), ..Body::default() });
    client.expect(Code::Sync);
    let calls = router.calls();
    let origin = calls[0].origin.unwrap();
    assert_eq!((origin.app_id, origin.user_id, origin.device), (10_001, 20_001, 2));
    assert!(origin.session > 0);
}
