//! Many nodes: three gateways, two routers and a Redis, each a process of its own; and what dies among them.

use crate::house::{PATIENCE, Peer, login_body};
use billfish_testing::{Api, Cluster, ClusterOptions, LedgerKind, RedisClusterOptions, RedisKind, eventually};
use billfish_wire::{Body, Code};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

const BINARY: &str = env!("CARGO_BIN_EXE_billfish");

/// `None`, said loudly, where Redis is not installed.
fn cluster() -> Option<Cluster> {
    Cluster::start(ClusterOptions::new(BINARY))
}

fn gateway(cluster: &Cluster, index: usize) -> SocketAddr {
    cluster.gateways[index].address("tcp")
}

/// A connection that is logged in.
fn login(api: &Api, gateway: SocketAddr, user: i64) -> Peer {
    let mut peer = Peer::connect(gateway);
    peer.send(Code::Login, &login_body(user, api.token(user)));
    assert_eq!(peer.expect(Code::Login).data.as_deref(), Some("true"));
    peer
}

/// Asks until it is let in: a room that changes its owner says "try again" for a while.
fn join(peer: &mut Peer, room: i64) -> Body {
    let deadline = Instant::now() + PATIENCE;
    loop {
        peer.send(Code::Join, &Body { room_id: Some(room), ..Body::default() });
        loop {
            match peer.next_within(PATIENCE).expect("an answer to JOIN").expect("the connection stays") {
                (Code::Join, body) => return body,
                (Code::Error, body) => {
                    assert!(body.code == Some(5001) && Instant::now() < deadline, "{body:?}");
                    break;
                }
                _ => {}
            }
        }
    }
}

/// A room that the router of this index owns. One that was just started owns rooms as soon as a gateway has found it.
fn room_owned_by(cluster: &Cluster, api: &Api, router: usize, anchor: &mut i64) -> i64 {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        *anchor += 1;
        let room = api.open_room(*anchor);
        api.push(&json!({"appId": 10001, "target": {"roomId": room}, "bizCode": 5568, "data": "{}"}));
        if cluster.owner_of(room) == Some(router) {
            return room;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("no room is of {}", cluster.routers[router].name());
}

/// The texts of the chat that comes, until so many are there; each with its seq.
fn hear(peer: &mut Peer, count: usize) -> Vec<(String, i64)> {
    let deadline = Instant::now() + PATIENCE;
    let mut heard = Vec::new();
    while heard.len() < count {
        let left = deadline.saturating_duration_since(Instant::now());
        let Some(Some((code, body))) = peer.next_within(left) else { panic!("{} of {count} heard: {heard:?}", heard.len()) };
        if let Some(said) = chat_of(code, &body) {
            heard.push(said);
        }
    }
    heard
}

fn chat_of(code: Code, body: &Body) -> Option<(String, i64)> {
    let data: Value = serde_json::from_str(body.data.as_deref()?).ok()?;
    let is_chat = code == Code::Biz && body.biz_code == Some(5555);
    is_chat.then(|| (data["content"].as_str().unwrap_or_default().to_owned(), body.seq.unwrap_or(0)))
}

/// Sends until it is acknowledged, as a client does, under one id.
fn say(peer: &mut Peer, room: i64, text: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        peer.chat(room, text, text);
        loop {
            match peer.next_within(PATIENCE).expect("an answer").expect("the connection stays") {
                (Code::Ack, body) if body.msg_id.as_deref() == Some(text) => return,
                (Code::Error, body) if body.msg_id.as_deref() == Some(text) => {
                    assert!(Instant::now() < deadline, "refused to the end: {body:?}");
                    let wait = body.retry_after_ms.and_then(|ms| u64::try_from(ms).ok()).unwrap_or(100);
                    std::thread::sleep(Duration::from_millis(wait.min(1_000)));
                    break;
                }
                _ => {}
            }
        }
    }
}

/// A rule of strictly rising places, and each text once.
fn assert_once_and_in_order(heard: &[(String, i64)]) {
    assert!(heard.windows(2).all(|pair| pair[0].1 < pair[1].1), "out of order: {heard:?}");
    let mut texts: Vec<&String> = heard.iter().map(|(text, _)| text).collect();
    texts.sort();
    texts.dedup();
    assert_eq!(texts.len(), heard.len(), "something came twice: {heard:?}");
}

/// Everyone on another gateway than the next one, rooms with both routers: each message reaches each other member once.
fn chat_crosses_every_node(cluster: &Cluster) {
    let mut anchor = 30_000;
    let rooms: Vec<i64> = (0..2).map(|router| room_owned_by(cluster, &cluster.api(router), router, &mut anchor)).collect();
    for (place, room) in rooms.into_iter().enumerate() {
        let api = cluster.api(place);
        let first = 20_001 + 100 * i64::try_from(place).unwrap();
        let mut members: Vec<Peer> = (0..6).map(|member| login(&api, gateway(cluster, member % 3), first + member as i64)).collect();
        for member in &mut members {
            join(member, room);
        }
        for (index, member) in members.iter_mut().enumerate() {
            for number in 0..3 {
                member.chat(room, &format!("{index}-{number}"), &format!("{index}-{number}"));
            }
        }
        let mut places = BTreeMap::new();
        for (index, member) in members.iter_mut().enumerate() {
            let heard = hear(member, 15);
            assert_once_and_in_order(&heard);
            assert!(heard.iter().all(|(text, _)| !text.starts_with(&format!("{index}-"))), "one's own: {heard:?}");
            for (text, seq) in heard {
                assert_eq!(*places.entry(text).or_insert(seq), seq, "one message has one place");
            }
        }
        // And nothing more.
        for member in &mut members {
            member.send(Code::Heartbeat, &Body::default());
            loop {
                let (code, body) = member.next().expect("the connection stays");
                assert!(chat_of(code, &body).is_none(), "{body:?}");
                if code == Code::Heartbeat {
                    break;
                }
            }
        }
        // One to one, over the other gateways and whatever router.
        let data = json!({"objectId": first + 1, "content": "psst"}).to_string();
        members[0].send(Code::Biz, &Body { biz_code: Some(5555), data: Some(data), msg_id: Some("w".to_owned()), ..Body::default() });
        assert_eq!(members[0].expect(Code::Ack).msg_id.as_deref(), Some("w"));
        assert_eq!(hear(&mut members[1], 1)[0].0, "psst");
    }
}

#[test]
fn chat_and_whispers_cross_three_gateways_and_two_routers() {
    let Some(cluster) = cluster() else { return };
    chat_crosses_every_node(&cluster);
}

#[test]
fn chat_and_whispers_cross_nodes_on_a_redis_cluster_and_a_database() {
    let options = ClusterOptions {
        redis: RedisKind::Cluster(RedisClusterOptions { primaries: 3, replicas_per_primary: 0, own_addresses: false }),
        ledger: LedgerKind::Maria,
        ..ClusterOptions::new(BINARY)
    };
    let Some(cluster) = Cluster::start(options) else { return };
    chat_crosses_every_node(&cluster);
}

#[test]
fn a_call_about_a_room_reaches_its_owner_through_any_router() {
    let Some(cluster) = cluster() else { return };
    let mut anchor = 30_000;
    for owner in 0..2 {
        let (own, other) = (cluster.api(owner), cluster.api(1 - owner));
        let room = room_owned_by(&cluster, &own, owner, &mut anchor);
        let mut member = login(&other, gateway(&cluster, owner), 20_001 + owner as i64);
        join(&mut member, room);
        let push = json!({"appId": 10001, "target": {"roomId": room}, "bizCode": 5568, "data": "{\"through\":\"the other\"}"});
        let answer = other.push(&push);
        assert!(answer["seq"].as_i64().is_some_and(|seq| seq > 0), "{answer}");
        loop {
            let (_, body) = member.next().expect("the connection stays");
            if body.data.as_deref().is_some_and(|data| data.contains("the other")) {
                assert_eq!(body.seq, answer["seq"].as_i64());
                break;
            }
        }
        // The same key through both routers is one push.
        let once = |api: &Api| api.call_once("POST", "/v1/im/push", &push, Some("same")).expect("an answer");
        let (first, second) = (once(&own), once(&other));
        assert_eq!((first.0, &first.1), (second.0, &second.1));
        let muted = other
            .call("PUT", &format!("/v1/rooms/{room}/mutes/{}", 20_001 + owner as i64), &json!({"operatorId": anchor}))
            .expect("an answer");
        assert!((200..300).contains(&muted.0), "{muted:?}");
        member.chat(room, "hello", "m1");
        assert_eq!(member.expect(Code::Error).code, Some(4005));
        let closed = other.call("POST", &format!("/v1/rooms/{room}/close"), &json!({"anchorId": anchor})).expect("an answer");
        assert!((200..300).contains(&closed.0), "{closed:?}");
        assert_eq!(own.call("GET", &format!("/v1/rooms/{room}"), &Value::Null).expect("an answer").0, 404);
    }
}

#[test]
fn the_same_user_and_device_on_another_gateway_ends_the_first_session() {
    let Some(cluster) = cluster() else { return };
    let api = cluster.api(0);
    let mut first = login(&api, gateway(&cluster, 0), 20_001);
    let mut second = login(&api, gateway(&cluster, 1), 20_001);
    assert_eq!(first.expect(Code::Kick).code, Some(4010));
    first.until_closed();
    second.send(Code::Heartbeat, &Body::default());
    second.expect(Code::Heartbeat);
    // Pushes go to the new one: the farewell of the old did not take its route away.
    api.push(&json!({"appId": 10001, "target": {"users": [20001]}, "bizCode": 5568, "data": "{}", "qos": 1}));
    assert_eq!(second.expect(Code::Biz).biz_code, Some(5568));
}

#[test]
fn what_was_not_acknowledged_comes_again_on_another_gateway_when_the_first_is_killed() {
    let Some(mut cluster) = cluster() else { return };
    let api = cluster.api(0);
    let push = |text: &str| api.push(&json!({"appId": 10001, "target": {"users": [20001]}, "bizCode": 5568, "data": text, "qos": 1}));
    let mut peer = login(&api, gateway(&cluster, 0), 20_001);
    push("\"seen, not acknowledged\"");
    let seen = peer.expect(Code::Biz);
    cluster.gateways[0].kill();
    push("\"never seen\"");
    // As a client of the seeds' documents does it: LOGIN without resume.
    let mut peer = login(&api, gateway(&cluster, 1), 20_001);
    let again = [peer.expect(Code::Biz), peer.expect(Code::Biz)];
    assert_eq!(again[0].msg_id, seen.msg_id);
    assert_eq!(again[1].data.as_deref(), Some("\"never seen\""));
    for push in &again {
        peer.send(Code::Ack, &Body { msg_id: push.msg_id.clone(), ..Body::default() });
    }
    let id = |text: &str| cluster.redis().command(text.split(' ').collect::<Vec<_>>().as_slice()).expect("Redis answers");
    eventually("both are ticked off", || {
        let inboxes = id("KEYS im:inbox:*");
        inboxes.lines().filter(|key| !key.is_empty()).all(|key| id(&format!("TYPE {key}")) != "stream" || id(&format!("XLEN {key}")) == "0")
    });
    let mut peer = login(&api, gateway(&cluster, 2), 20_001);
    peer.send(Code::Heartbeat, &Body::default());
    loop {
        match peer.next().expect("the connection stays") {
            (Code::Heartbeat, _) => break,
            (code, body) => assert!(code != Code::Biz, "acknowledged and sent again: {body:?}"),
        }
    }
}

#[test]
fn a_room_goes_on_when_its_owner_is_killed_or_hangs_and_nothing_said_is_lost_or_doubled() {
    let Some(mut cluster) = cluster() else { return };
    let mut anchor = 30_000;
    for hangs in [false, true] {
        let room = room_owned_by(&cluster, &cluster.api(0), 0, &mut anchor);
        let base = 20_001 + if hangs { 100 } else { 0 };
        let api = cluster.api(1);
        let mut speaker = login(&api, gateway(&cluster, 0), base);
        let mut listeners: Vec<Peer> = (1..3).map(|index| login(&api, gateway(&cluster, index), base + index as i64)).collect();
        join(&mut speaker, room);
        listeners.iter_mut().for_each(|peer| drop(join(peer, room)));
        say(&mut speaker, room, "before");
        if hangs {
            cluster.routers[0].stop();
        } else {
            cluster.routers[0].kill();
        }
        say(&mut speaker, room, "meanwhile");
        eventually("the other router owns it", || cluster.owner_of(room) == Some(1));
        if hangs {
            cluster.routers[0].cont();
        } else {
            cluster.routers[0].start_again();
        }
        say(&mut speaker, room, "after");
        // The room may move back; it stays one room.
        cluster.wait_ready();
        say(&mut speaker, room, "later");
        for listener in &mut listeners {
            let heard = hear(listener, 4);
            assert_once_and_in_order(&heard);
            assert_eq!(heard.iter().map(|(text, _)| text.as_str()).collect::<Vec<_>>(), ["before", "meanwhile", "after", "later"]);
        }
    }
}

/// One to one, until it is acknowledged.
fn whisper(peer: &mut Peer, to: i64, text: &str) {
    let data = json!({"objectId": to, "content": text}).to_string();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let body = Body { biz_code: Some(5555), data: Some(data.clone()), msg_id: Some(text.to_owned()), ..Body::default() };
        peer.send(Code::Biz, &body);
        loop {
            match peer.next_within(PATIENCE).expect("an answer").expect("the connection stays") {
                (Code::Ack, body) if body.msg_id.as_deref() == Some(text) => return,
                (Code::Error, body) if body.msg_id.as_deref() == Some(text) => {
                    assert!(Instant::now() < deadline, "refused to the end: {body:?}");
                    let wait = body.retry_after_ms.and_then(|ms| u64::try_from(ms).ok()).unwrap_or(100);
                    std::thread::sleep(Duration::from_millis(wait.min(1_000)));
                    break;
                }
                _ => {}
            }
        }
    }
}

/// Reads, and acknowledges, until each of these was shown. Heartbeats as a client does, but never a LOGIN.
fn hear_each(peer: &mut Peer, wanted: &BTreeSet<String>) {
    let deadline = Instant::now() + PATIENCE;
    let mut heard = BTreeSet::new();
    while !wanted.is_subset(&heard) {
        assert!(Instant::now() < deadline, "never shown: {:?}", wanted.difference(&heard).collect::<Vec<_>>());
        match peer.next_within(Duration::from_secs(2)) {
            Some(Some((code, body))) => {
                if let Some((text, _)) = chat_of(code, &body) {
                    peer.send(Code::Ack, &Body { msg_id: body.msg_id, ..Body::default() });
                    heard.insert(text);
                }
            }
            Some(None) => panic!("the connection ends"),
            None => peer.send(Code::Heartbeat, &Body::default()),
        }
    }
}

#[test]
fn what_routers_that_have_just_started_take_for_a_connected_user_is_shown_without_a_login() {
    let Some(mut cluster) = cluster() else { return };
    let api = cluster.api(0);
    let mut speaker = login(&api, gateway(&cluster, 0), 20_001);
    let mut listener = login(&api, gateway(&cluster, 1), 20_002);
    let (is_over, taken) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let speaking = scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                whisper(&mut speaker, 20_002, &format!("w{}", taken.load(Ordering::Relaxed)));
                taken.fetch_add(1, Ordering::Relaxed);
                // A pace that needs no refusals.
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        eventually("some are taken before", || taken.load(Ordering::Relaxed) > 2);
        for router in &mut cluster.routers {
            router.kill();
        }
        // The listener's gateway comes back to them later than the speaker's.
        cluster.gateways[1].stop();
        for router in &mut cluster.routers {
            router.start_again();
        }
        // One more may have been taken by the first routers.
        let before = taken.load(Ordering::Relaxed) + 1;
        let is_taken = || taken.load(Ordering::Relaxed) > before + 2;
        eventually("some are taken while no link leads to the listener", is_taken);
        cluster.gateways[1].cont();
        cluster.wait_ready();
        is_over.store(true, Ordering::Relaxed);
        speaking.join().expect("every message is acknowledged in the end");
    });
    let said = (0..taken.load(Ordering::Relaxed)).map(|number| format!("w{number}")).collect();
    hear_each(&mut listener, &said);
}

#[test]
fn what_is_sent_to_a_connected_user_while_redis_has_lost_all_is_shown_without_a_login() {
    // A session's signs of life reach the store twice a gap; the route is looked after with the next one.
    let gap = ("BILLFISH__GATEWAY__SESSION__HEARTBEAT_GAP".to_owned(), "4s".to_owned());
    let Some(cluster) = Cluster::start(ClusterOptions { gateway_environment: vec![gap], ..ClusterOptions::new(BINARY) }) else { return };
    let api = cluster.api(0);
    let mut speaker = login(&api, gateway(&cluster, 0), 20_001);
    let mut listener = login(&api, gateway(&cluster, 1), 20_002);
    whisper(&mut speaker, 20_002, "before");
    hear_each(&mut listener, &BTreeSet::from(["before".to_owned()]));
    cluster.redis().command(&["FLUSHALL"]).expect("Redis answers");
    let said: BTreeSet<String> = (0..3).map(|number| format!("w{number}")).collect();
    for text in &said {
        whisper(&mut speaker, 20_002, text);
    }
    hear_each(&mut listener, &said);
}

/// Members of a room whose owner has been told to stop and started again: each on a gateway of its own, and the first has spoken. The owner
/// knows all of them again.
fn members_of_a_restarted_owner(cluster: &mut Cluster) -> (i64, Vec<Peer>) {
    let mut anchor = 30_000;
    let room = room_owned_by(cluster, &cluster.api(0), 0, &mut anchor);
    let api = cluster.api(1);
    let mut members: Vec<Peer> = (0..3).map(|index| login(&api, gateway(cluster, index), 20_001 + index as i64)).collect();
    members.iter_mut().for_each(|member| drop(join(member, room)));
    say(&mut members[0], room, "before");
    cluster.routers[0].terminate();
    let status = cluster.routers[0].wait(PATIENCE).expect("it stops");
    assert!(status.success(), "{status}");
    cluster.routers[0].start_again();
    cluster.wait_ready();
    eventually("it owns the room again", || cluster.owner_of(room) == Some(0));
    let seated = || cluster.routers[0].metric("router_seats_told_total", &[r#"result="seated""#]);
    eventually("the gateways have named its members", || seated().is_some_and(|seated| seated >= 3.0));
    (room, members)
}

/// Sends until it is acknowledged, and is never told that this is no room of his. Gives what was shown to him meanwhile.
fn say_as_a_member(peer: &mut Peer, room: i64, text: &str) -> BTreeSet<String> {
    let deadline = Instant::now() + PATIENCE;
    let mut shown = BTreeSet::new();
    loop {
        peer.chat(room, text, text);
        loop {
            match peer.next_within(PATIENCE).expect("an answer").expect("the connection stays") {
                (Code::Ack, body) if body.msg_id.as_deref() == Some(text) => return shown,
                (Code::Error, body) if body.msg_id.as_deref() == Some(text) => {
                    assert!(body.code != Some(4004) && Instant::now() < deadline, "refused: {body:?}");
                    std::thread::sleep(Duration::from_millis(100));
                    break;
                }
                (code, body) => shown.extend(chat_of(code, &body).map(|(text, _)| text)),
            }
        }
    }
}

#[test]
fn members_of_an_owner_that_was_restarted_chat_and_are_counted_when_redis_has_lost_all() {
    let gap = ("BILLFISH__GATEWAY__SESSION__HEARTBEAT_GAP".to_owned(), "4s".to_owned());
    let Some(mut cluster) = Cluster::start(ClusterOptions { gateway_environment: vec![gap], ..ClusterOptions::new(BINARY) }) else {
        return;
    };
    let (room, mut members) = members_of_a_restarted_owner(&mut cluster);
    cluster.redis().command(&["FLUSHALL"]).expect("Redis answers");
    let say = |(index, member): (usize, &mut Peer)| say_as_a_member(member, room, &format!("after {index}"));
    let shown: Vec<BTreeSet<String>> = members.iter_mut().enumerate().map(say).collect();
    for (index, member) in members.iter_mut().enumerate() {
        let others = (0..3).filter(|other| *other != index).map(|other| format!("after {other}"));
        hear_each(member, &others.filter(|text| !shown[index].contains(text)).collect());
    }
    let api = cluster.api(1);
    eventually("the audience is right again", || {
        let page = |path: &str| api.call("GET", path, &Value::Null).ok().map(|(_, page)| page);
        let audience = page(&format!("/v1/rooms/{room}")).and_then(|room| room["audience"].as_u64());
        let listed = page(&format!("/v1/rooms/{room}/members")).and_then(|page| page["userIds"].as_array().map(Vec::len));
        (audience, listed) == (Some(3), Some(3))
    });
    eventually("heartbeats say so", || {
        // A pace that needs no refusals.
        std::thread::sleep(Duration::from_millis(200));
        members[1].send(Code::Heartbeat, &Body::default());
        members[1].expect(Code::Heartbeat).audience == Some(3)
    });
}

#[test]
fn a_member_who_had_not_spoken_to_a_restarted_owner_chats_while_redis_hangs() {
    let Some(mut cluster) = cluster() else { return };
    let (room, mut members) = members_of_a_restarted_owner(&mut cluster);
    cluster.redis_mut().stop();
    drop(say_as_a_member(&mut members[2], room, "without Redis"));
    assert!(hear(&mut members[1], 2).iter().any(|(text, _)| text == "without Redis"));
    cluster.redis_mut().cont();
    drop(say_as_a_member(&mut members[1], room, "with it"));
}

#[test]
fn without_redis_sessions_stay_chat_goes_on_and_logins_wait() {
    let Some(mut cluster) = cluster() else { return };
    let api = cluster.api(0);
    let room = api.open_room(30_001);
    let mut speaker = login(&api, gateway(&cluster, 0), 20_001);
    let mut listener = login(&api, gateway(&cluster, 1), 20_002);
    let waiting = api.token(20_003);
    join(&mut speaker, room);
    join(&mut listener, room);
    cluster.redis_mut().kill();
    eventually("every node says that it is not ready, and why", || {
        let page =
            |node: &billfish_testing::Node| node.admin("/readyz").is_some_and(|(status, why)| status == 503 && why.contains("state"));
        cluster.gateways.iter().chain(&cluster.routers).all(page)
    });
    for number in 0..3 {
        say(&mut speaker, room, &format!("without {number}"));
    }
    assert_once_and_in_order(&hear(&mut listener, 3));
    let mut newcomer = Peer::connect(gateway(&cluster, 2));
    newcomer.send(Code::Login, &login_body(20_003, waiting.clone()));
    let refused = newcomer.expect(Code::Error);
    assert!(refused.code == Some(5001) && refused.retry_after_ms.is_some_and(|ms| ms > 0), "{refused:?}");
    cluster.redis_mut().start_again();
    cluster.wait_ready();
    let mut newcomer = Peer::connect(gateway(&cluster, 2));
    newcomer.send(Code::Login, &login_body(20_003, waiting));
    newcomer.expect(Code::Login);
    join(&mut newcomer, room);
    say(&mut speaker, room, "again");
    assert_eq!(hear(&mut listener, 1)[0].0, "again");
    assert_eq!(hear(&mut newcomer, 1)[0].0, "again");
}

#[test]
fn a_gateway_that_is_told_to_stop_sends_its_clients_to_the_others() {
    let Some(mut cluster) = cluster() else { return };
    let api = cluster.api(0);
    let mut peer = login(&api, gateway(&cluster, 0), 20_001);
    let handed_out = || {
        let (_, token) = api.call("POST", "/v1/im/tokens", &json!({"appId": 10001, "userId": 20002})).expect("an answer");
        token["gateways"]["tcp"].as_array().map_or(0, Vec::len)
    };
    // A gateway is given to clients once it has a link, which is a moment after it is up.
    eventually("the registry has all of them", || handed_out() == 3);
    cluster.gateways[0].terminate();
    let told = peer.expect(Code::Reconnect);
    let mut others: Vec<String> = (1..3).map(|index| gateway(&cluster, index).to_string()).collect();
    let mut named = told.addresses.clone();
    others.sort();
    named.sort();
    assert_eq!(named, others);
    drop(peer);
    let status = cluster.gateways[0].wait(Duration::from_secs(60)).expect("it stops");
    assert!(status.success(), "{status}");
    // New tokens name the others alone.
    eventually("the registry has forgotten it", || handed_out() == 2);
}

/// A call whose header never ends.
fn half_a_call(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n").unwrap();
    stream
}

#[test]
fn a_router_that_drains_says_so_to_the_end_and_a_call_that_never_ends_does_not_keep_it() {
    let options = ClusterOptions {
        gateways: 1,
        routers: 1,
        // Longer than the test looks: the drain waits for the call until the test gives it up.
        router_environment: ["GRACE", "HEADER_TIMEOUT"].map(|key| (format!("BILLFISH__HTTP__{key}"), "60s".to_owned())).to_vec(),
        ..ClusterOptions::new(BINARY)
    };
    let Some(mut cluster) = Cluster::start(options) else { return };
    let api = cluster.api(0);
    let room = room_owned_by(&cluster, &api, 0, &mut 30_000);
    // Everything that Redis is told from here on.
    let mut monitor = TcpStream::connect(cluster.redis().address()).unwrap();
    monitor.set_read_timeout(Some(PATIENCE)).unwrap();
    monitor.write_all(b"MONITOR\r\n").unwrap();
    let mut told = BufReader::new(monitor).lines().map(|line| line.expect("Redis says more"));
    assert_eq!(told.next().as_deref(), Some("+OK"));
    let (call, _at_the_admin_port) = (half_a_call(cluster.routers[0].address("http")), half_a_call(cluster.routers[0].address("admin")));
    cluster.routers[0].terminate();
    eventually("it is not ready, and says why", || {
        cluster.routers[0].admin("/readyz") == Some((503, "the router is draining\n".to_owned()))
    });
    let draining = concat!("\\n1\\n", env!("CARGO_PKG_VERSION"), "\\n");
    // In the registry it drains, and is taken out once its rooms are given back.
    for what in [&["\"router-1\"", draining][..], &["HDEL", "\"router-1\""]] {
        assert!(told.any(|line| what.iter().all(|word| line.contains(word))), "{what:?}");
    }
    assert_eq!(cluster.owner_of(room), None);
    let routers = &mut cluster.routers;
    assert_eq!(routers[0].admin("/readyz").map(|(status, _)| status), Some(503));
    assert_eq!(routers[0].admin("/livez").map(|(status, _)| status), Some(200), "a drain is no reason to be killed");
    assert_eq!(routers[0].metric("router_rooms", &[]), Some(0.0));
    assert!(routers[0].has_ended().is_none());
    drop(call);
    let status = routers[0].wait(PATIENCE).expect("it stops");
    assert!(status.success(), "{status}\n{}", routers[0].log());
}

/// Logged out at one router by a session of the other's, once by the user and once by the backend.
#[test]
fn a_logout_everywhere_ends_connections_at_every_gateway() {
    let provider = ("BILLFISH__ROUTER__SMS__PROVIDER".to_owned(), "development".to_owned());
    let options = ClusterOptions { gateways: 2, router_environment: vec![provider], ..ClusterOptions::new(BINARY) };
    let Some(cluster) = Cluster::start(options) else { return };
    let [first, second] = [0, 1].map(|router| cluster.api(router));
    // By then gateways are known.
    first.token(20_001);
    for (phone, by_backend) in [("+8613800138000", false), ("+8613800138001", true)] {
        assert_eq!(first.call("POST", "/v1/login/code", &json!({ "phone": phone })).unwrap().0, 200);
        let (status, logged_in) = first.call("POST", "/v1/login", &json!({ "phone": phone, "code": "1000" })).unwrap();
        assert_eq!(status, 200, "{logged_in}");
        let (user, bearer) = (logged_in["userId"].as_i64().unwrap(), logged_in["token"].as_str().unwrap());
        let session = Api::new(cluster.routers[1].address("http"), bearer);
        let mut peers = [(0, "ios"), (1, "web")].map(|(index, platform)| {
            let (status, answer) = session.call("GET", "/v1/im/config", &Value::Null).unwrap();
            assert_eq!(status, 200, "{answer}");
            let token = answer["token"].as_str().unwrap().to_owned();
            let mut peer = Peer::connect(gateway(&cluster, index));
            peer.send(Code::Login, &Body { platform: Some(platform.to_owned()), ..login_body(user, token) });
            peer.expect(Code::Login);
            peer
        });
        let ended = if by_backend {
            second.call("DELETE", &format!("/v1/users/{user}/sessions"), &Value::Null)
        } else {
            session.call("POST", "/v1/logout", &json!({ "everywhere": true }))
        };
        assert_eq!(ended.unwrap().0, 204);
        for peer in &mut peers {
            assert_eq!(peer.expect(Code::Kick).code, Some(4002));
        }
    }
}

#[test]
fn a_gateway_that_is_set_otherwise_than_the_routers_is_told_of_with_the_keys() {
    let Some(mut cluster) = Cluster::start(ClusterOptions { gateways: 1, routers: 1, ..ClusterOptions::new(BINARY) }) else { return };
    let stranger = cluster.add_gateway_with(&[("BILLFISH__GATEWAY__LINK__SECRET", "not what the others have")]);
    let says_both = |text: &str| text.contains("gateway.link.secret") && text.contains("router.link.secret");
    eventually("its /readyz says what to do", || {
        cluster.gateways[stranger].admin("/readyz").is_some_and(|(status, why)| status == 503 && says_both(&why))
    });
    assert!(says_both(&cluster.gateways[stranger].log()));
    eventually("the router's log does too", || says_both(&cluster.routers[0].log()));
    assert!(cluster.routers[0].ready() && cluster.gateways[0].ready(), "the others go on");

    let slow = cluster.add_gateway_with(&[("BILLFISH__GATEWAY__SESSION__HEARTBEAT_GAP", "45s")]);
    eventually("the router's log names the gateway and both keys", || {
        let log = cluster.routers[0].log();
        log.lines().any(|line| {
            line.contains("WARN") && ["gateway.session.heartbeat_gap", "router.heartbeat", "45"].iter().all(|word| line.contains(word))
        })
    });
    eventually("it serves all the same", || cluster.gateways[slow].ready());
}
