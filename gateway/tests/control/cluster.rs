//! Several gateways and several routers: whose room is whose, what a new owner is told, and who has to go where.

use crate::house::{APP, Client, House, Router, login_body, now_ms, push, until, yes};
use billfish_link::{
    PeerKind,
    message::{Interest, Kick, Moved, Push, Relay, Reply, RoomPush, UserPush, envelope::Kind, reply, up::Call},
    tcp::{Acceptor, Identity, Timing},
};
use billfish_state::{AppId, NodeInfo, NodeKind, State, UserId};
use billfish_wire::{Body, Code, Reason, Resume};
use std::sync::atomic::Ordering::SeqCst;

/// Two routers of a gateway, and a room of the first.
fn two_routers(house: &House) -> (Router, Router, i64) {
    let (first, second) = (house.link("router-1", true), house.link("router-2", true));
    until("both links are up", || house.metric("gateway_link_up", &[]) == 2.0);
    let mut client = house.login(19_999);
    for room in 1.. {
        client.send(Code::Join, &Body { room_id: Some(room), ..Body::default() });
        client.expect(Code::Join);
        if first.heard_of(room).contains(&"join") {
            client.send(Code::Leave, &Body { room_id: Some(room), ..Body::default() });
            client.expect(Code::Leave);
            until("its owner knows", || first.heard_of(room).last() == Some(&"no interest"));
            first.seen.lock().unwrap().clear();
            return (first, second, room);
        }
    }
    unreachable!("the ring gives each router some rooms")
}

fn moved(router: &Router, id: u64, owner: &str) {
    router.tell(Kind::Reply(Reply { id, result: Some(reply::Result::Moved(Moved { owner: owner.to_owned() })) }));
}

fn router_entry(id: &str, address: &str, draining: bool) -> NodeInfo {
    NodeInfo {
        kind: NodeKind::Router,
        id: id.to_owned(),
        incarnation: 1,
        addresses: vec![("link".to_owned(), address.to_owned())],
        capacity: 1,
        load: 0,
        draining,
        version: String::new(),
        labels: Default::default(),
    }
}

fn register(house: &House, node: &NodeInfo) {
    let now = house.state.clock.now_ms();
    house.runtime.block_on(house.state.registry.register(node, now, now + 3_600_000)).unwrap();
}

fn interests(router: &Router, room: i64) -> Vec<i64> {
    let seen = router.seen.lock().unwrap();
    let last_seq = |kind: &Kind| match kind {
        Kind::Interest(Interest { room_id, interested: true, last_seq, .. }) if *room_id == room => Some(*last_seq),
        _ => None,
    };
    seen.iter().filter_map(last_seq).collect()
}

#[test]
fn a_message_that_reached_the_wrong_router_goes_to_the_one_it_names() {
    let house = House::alone(|_| {});
    let (first, second, room) = two_routers(&house);
    let mut client = house.join(20_001, room);
    first.answers.store(false, SeqCst);
    client.say(room, "one", "m1");
    until("the first has it", || first.heard_of(room).contains(&"biz"));
    let id = first.calls().last().unwrap().id;
    moved(&first, id, "router-2");
    assert_eq!(client.expect(Code::Ack).msg_id.as_deref(), Some("m1"));
    client.say(room, "two", "m2");
    assert_eq!(client.expect(Code::Ack).msg_id.as_deref(), Some("m2"));
    assert_eq!(second.heard_of(room), ["interest", "biz", "biz"]);
    assert!(!first.heard_of(room).contains(&"no interest"), "the ring's owner goes on to know who listens");
    assert_eq!(house.metric("gateway_upstream_moved_total", &[r#"then="owner""#]), 1.0);
}

#[test]
fn a_message_to_a_room_without_an_owner_waits_for_one() {
    let house = House::alone(|_| {});
    let (first, second, room) = two_routers(&house);
    let mut client = house.join(20_001, room);
    first.answers.store(false, SeqCst);
    client.say(room, "one", "m1");
    until("the first has it", || first.heard_of(room).ends_with(&["biz"]));
    moved(&first, first.calls().last().unwrap().id, "");
    client.say(room, "two", "m2");
    until("both come again, in order", || first.heard_of(room).ends_with(&["biz", "biz", "biz"]));
    let calls = first.calls();
    let texts = calls.iter().filter_map(|up| if let Some(Call::Biz(biz)) = &up.call { Some(biz.data.as_str()) } else { None });
    assert_eq!(texts.collect::<Vec<_>>(), ["one", "one", "two"]);
    for up in &calls[calls.len() - 2..] {
        first.tell(yes(up, 1 << 32));
    }
    for msg_id in ["m1", "m2"] {
        assert_eq!(client.expect(Code::Ack).msg_id.as_deref(), Some(msg_id));
    }
    assert_eq!(second.heard_of(room), [""; 0]);
    assert_eq!(house.metric("gateway_upstream_moved_total", &[r#"then="wait""#]), 1.0);
}

#[test]
fn what_a_new_owner_replays_reaches_each_member_once() {
    let house = House::alone(|_| {});
    let (first, second, room) = two_routers(&house);
    let mut client = house.join(20_001, room);
    let seqs: Vec<i64> = (0..3).map(|count| first.push_room(room, &count.to_string())).collect();
    for seq in &seqs {
        assert_eq!(client.expect(Code::Biz).seq, Some(*seq));
    }
    let last = *seqs.last().unwrap();
    first.die(&house.runtime);
    until("the second is told", || interests(&second, room) == [last]);
    let replay = |seq: i64| RoomPush { push: Some(Push { room_id: room, seq, ..push("again") }), epoch: 2, ..RoomPush::default() };
    for seq in [seqs[1], last, last + 1, last + 1, (2 << 32) + 1] {
        second.tell(Kind::RoomPush(replay(seq)));
    }
    for seq in [last + 1, (2 << 32) + 1] {
        assert_eq!(client.expect(Code::Biz).seq, Some(seq));
    }
    client.beat();
    assert_eq!(house.metric("gateway_replayed_duplicates_total", &[]), 3.0);
}

/// The owner replays what the others have missed; it is in the newcomer's snapshot.
#[test]
fn who_came_with_a_snapshot_is_not_told_again_what_is_in_it() {
    let (house, router) = House::with(|config| config.shards = 1);
    let room = 30_001;
    let mut member = house.join(20_001, room);
    router.answers.store(false, SeqCst);
    let mut newcomer = house.login(20_002);
    newcomer.send(Code::Join, &Body { room_id: Some(room), ..Body::default() });
    until("the router has it", || router.heard_of(room) == ["interest", "join", "join"]);
    let base = 1 << 32;
    router.tell(yes(router.calls().last().unwrap(), base + 5));
    assert_eq!(newcomer.expect(Code::Join).seq, Some(base + 5));
    for next in [4, 5, 6] {
        router.tell(Kind::RoomPush(RoomPush {
            push: Some(Push { room_id: room, seq: base + next, ..push("hello") }),
            epoch: 1,
            ..RoomPush::default()
        }));
    }
    let heard = |client: &mut Client, count: usize| (0..count).map(|_| client.expect(Code::Biz).seq.unwrap() - base).collect::<Vec<_>>();
    assert_eq!(heard(&mut member, 3), [4, 5, 6]);
    assert_eq!(heard(&mut newcomer, 1), [6]);
    newcomer.beat();
}

#[test]
fn rooms_of_a_router_that_drains_move_at_once() {
    let house = House::alone(|_| {});
    let (first, second, room) = two_routers(&house);
    for (id, draining) in [("router-1", false), ("router-2", false)] {
        register(&house, &router_entry(id, "127.0.0.1:1", draining));
    }
    until("the registry is read", || house.metric("gateway_routers_seen", &[]) == 2.0);
    let mut client = house.join(20_001, room);
    assert_eq!(first.heard_of(room), ["interest", "join"]);
    register(&house, &router_entry("router-1", "127.0.0.1:1", true));
    until("the room has moved", || second.heard_of(room) == ["interest"]);
    until("and is no longer the first's", || first.heard_of(room) == ["interest", "join", "no interest"]);
    client.say(room, "hello", "m1");
    client.expect(Code::Ack);
    assert_eq!(second.heard_of(room), ["interest", "biz"]);
}

/// A router that hangs: its link is up and silent, and its registration runs out.
#[test]
fn what_waits_for_a_router_that_left_the_registry_goes_to_the_next_owner() {
    let house = House::alone(|_| {});
    let (first, second, room) = two_routers(&house);
    for id in ["router-1", "router-2"] {
        register(&house, &router_entry(id, "127.0.0.1:1", false));
    }
    until("the registry is read", || house.metric("gateway_routers_seen", &[]) == 2.0);
    let mut client = house.join(20_001, room);
    let seq = first.push_room(room, "hello");
    assert_eq!(client.expect(Code::Biz).seq, Some(seq));
    first.answers.store(false, SeqCst);
    client.say(room, "one", "m1");
    client.say(room, "two", "m2");
    until("the first has both", || first.heard_of(room).ends_with(&["biz", "biz"]));
    house.runtime.block_on(house.state.registry.deregister(NodeKind::Router, "router-1", 1)).unwrap();
    for msg_id in ["m1", "m2"] {
        assert_eq!(client.expect(Code::Ack).msg_id.as_deref(), Some(msg_id));
    }
    assert_eq!(second.heard_of(room), ["interest", "biz", "biz"]);
    assert_eq!(interests(&second, room), [seq]);
    assert_eq!(house.metric("gateway_link_up", &[]), 2.0);
}

#[test]
fn routers_are_found_in_the_registry_and_dialled() {
    let house = House::dialling(|config| config.link.secret = "between us".to_owned());
    let acceptor = |name: &str| {
        let _inside = house.runtime.enter();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let identity = Identity {
            node: name.to_owned(),
            kind: PeerKind::Router,
            incarnation: 1,
            secret: "between us".to_owned(),
            in_flight: Default::default(),
        };
        (Acceptor::new(tokio::net::TcpListener::from_std(listener).unwrap(), identity, Timing::default()), address)
    };
    let (mut first, first_address) = acceptor("router-1");
    let (mut second, second_address) = acceptor("router-2");
    register(&house, &router_entry("router-1", &first_address, false));
    let first = Router::new(&house.runtime, house.runtime.block_on(first.accept()).unwrap(), true);
    let _member = house.join(20_001, 30_001);
    assert_eq!(first.heard_of(30_001), ["interest", "join"]);
    register(&house, &router_entry("router-2", &second_address, false));
    let _second = Router::new(&house.runtime, house.runtime.block_on(second.accept()).unwrap(), true);
    until("both links are up", || house.metric("gateway_link_up", &[]) == 2.0);
}

#[test]
fn a_login_on_another_gateway_ends_the_older_session_through_a_router() {
    let state = State::in_memory();
    let (first, second) = (House::on(state.clone(), |_| {}), House::on(state, |config| config.node = "gateway-2".to_owned()));
    let (to_first, to_second) = (first.link("router-1", true), second.link("router-1", true));
    let mut older = first.login_on(20_001, "web");
    let mut phone = first.login_on(20_001, "ios");
    let token = second.token(20_001, None, 60_000).replace("00000000%", "ffffffff%");
    second.issue(&token, billfish_state::TokenOwner { app: AppId(APP), user: UserId(20_001), device: None, session: None }, 60_000);
    let mut newer = second.knock(&Body { platform: Some("web".to_owned()), ..login_body(20_001, &token) });
    newer.expect(Code::Login);
    let relayed = || {
        let seen = to_second.seen.lock().unwrap();
        seen.iter().find_map(|kind| if let Kind::Relay(relay) = kind { Some(relay.clone()) } else { None })
    };
    until("the router is asked", || relayed().is_some());
    let Some(Relay { node, incarnation, kick: Some(kick) }) = relayed() else { panic!("a kick is relayed") };
    let route =
        |house: &House| house.runtime.block_on(house.state.routes.lookup(AppId(APP), &[UserId(20_001)], now_ms())).unwrap().remove(0);
    assert_eq!((node.as_str(), kick.code), ("gateway-1", Reason::DuplicateLogin.number().unwrap()));
    assert_eq!(Some(incarnation), route(&first).iter().find(|route| route.node == "gateway-1").map(|route| route.epoch));
    to_first.tell(Kind::Kick(Kick { ..kick }));
    assert_eq!(older.expect(Code::Kick).code, Reason::DuplicateLogin.number());
    older.expect_end();
    phone.beat();
    newer.beat();
    until("the older one has given its seat back", || first.metric("gateway_directory_seats", &[]) == 1.0);
    assert!(route(&first).iter().any(|route| route.node == "gateway-2"), "and left the newer one's route alone");
}

#[test]
fn a_login_has_the_inbox_sent_again_and_one_that_resumes_is_given_a_page() {
    let (house, router) = House::new();
    let asks = || {
        let seen = router.seen.lock().unwrap();
        let ask = |kind: &Kind| match kind {
            Kind::Up(up) => match up.call.as_ref().unwrap() {
                Call::Redeliver(_) => Some(("redeliver".to_owned(), up.origin.unwrap().session)),
                Call::Sync(sync) => Some((format!("page after {} resume {}", sync.from_id, sync.resume), up.origin.unwrap().session)),
                _ => None,
            },
            _ => None,
        };
        seen.iter().filter_map(ask).collect::<Vec<_>>()
    };
    let mut plain = house.login_on(20_001, "web");
    let mut phone = house.login_on(20_001, "ios");
    until("both are asked for", || asks().len() == 2);
    assert!(asks().iter().all(|(what, _)| what == "redeliver"));
    let session = asks()[0].1;
    router.tell(Kind::UserPush(UserPush { app_id: APP, user_ids: vec![20_001], push: Some(push("again")), session }));
    router.push_users(&[20_001], push("to both"));
    assert_eq!(plain.expect(Code::Biz).data.as_deref(), Some("again"));
    for client in [&mut plain, &mut phone] {
        assert_eq!(client.expect(Code::Biz).data.as_deref(), Some("to both"));
    }
    let token = house.token(20_002, None, 60_000);
    let resume = Some(Resume { inbox: Some("5-0".to_owned()), ..Resume::default() });
    let mut back = house.knock(&Body { resume, ..login_body(20_002, &token) });
    back.expect(Code::Login);
    back.expect(Code::Sync);
    assert_eq!(asks()[2].0, "page after 5-0 resume true");
    assert_eq!(asks().len(), 3);
}

#[test]
fn the_entry_is_short_lived_says_which_version_it_is_and_is_written_again_when_it_was_forgotten() {
    let (house, _router) = House::new();
    let nodes = |now| house.runtime.block_on(house.state.registry.nodes(NodeKind::Gateway, now)).unwrap();
    let now = house.state.clock.now_ms();
    let entry = nodes(now).remove(0);
    assert_eq!(entry.version, env!("CARGO_PKG_VERSION"));
    assert!(nodes(now + 60_000).is_empty());
    house.runtime.block_on(house.state.registry.deregister(NodeKind::Gateway, "gateway-1", entry.incarnation)).unwrap();
    house.state.watch.may_have_forgotten();
    until("it is there again", || !nodes(house.state.clock.now_ms()).is_empty());
}

#[test]
fn who_is_sent_away_is_told_of_gateways_that_live_and_stay() {
    let (mut house, _router) = House::new();
    for (id, draining) in [("gateway-2", false), ("gateway-3", true), ("gateway-4", false)] {
        let addresses = vec![("tcp".to_owned(), format!("{id}.example:8085"))];
        register(&house, &NodeInfo { kind: NodeKind::Gateway, addresses, ..router_entry(id, "", draining) });
    }
    let mut clients: Vec<Client> = (0..8).map(|user| house.login(20_001 + user)).collect();
    let running = house.running.take().unwrap();
    let drained = house.runtime.spawn(running.drain(crate::house::PATIENCE));
    let mut firsts = std::collections::BTreeSet::new();
    for client in &mut clients {
        let mut addresses = client.expect(Code::Reconnect).addresses;
        firsts.insert(addresses[0].clone());
        addresses.sort();
        assert_eq!(addresses, ["gateway-2.example:8085", "gateway-4.example:8085"]);
    }
    assert_eq!(firsts.len(), 2, "they do not all go to the same one");
    drop(clients);
    house.runtime.block_on(drained).unwrap();
}
