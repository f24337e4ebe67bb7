//! Acting for others: identity comes from the session, and nobody hears what is not theirs.

use crate::house::{House, eventually};
use billfish_wire::{Body, Code, Reason};
use serde_json::{Value, json};
use std::time::Duration;

#[test]
fn a_body_that_names_another_user_is_refused_for_biz_and_ignored_for_heartbeats() {
    let house = House::start();
    let room = house.open_room(30_001);
    let mut peer = house.login(20_001);
    peer.join(room);
    let data = json!({"roomId": room, "content": "I am 20002"}).to_string();
    peer.send(
        Code::Biz,
        &Body {
            user_id: Some(20_002),
            room_id: Some(room),
            biz_code: Some(5555),
            data: Some(data),
            msg_id: Some("m1".to_owned()),
            ..Body::default()
        },
    );
    let error = peer.expect(Code::Error);
    assert_eq!((error.code, error.msg_id.as_deref()), (Reason::NotYourUser.number(), Some("m1")));
    peer.send(Code::Heartbeat, &Body { user_id: Some(20_002), ..Body::default() });
    assert_eq!(peer.expect(Code::Heartbeat).data.as_deref(), Some("true"));
}

#[test]
fn the_name_of_a_sender_comes_from_the_server() {
    let house = House::start();
    let room = house.open_room(30_001);
    let (status, answer) =
        house.api("POST", "/v1/im/tokens", json!({"appId": 10001, "userId": 20001, "nickName": "Alice", "avatar": "a.png"}));
    assert_eq!(status, 200, "{answer}");
    let mut alice = house.login(20_001);
    let mut bob = house.login(20_002);
    alice.join(room);
    bob.join(room);
    let data =
        json!({"roomId": room, "content": "hello", "senderId": 1, "senderName": "The King", "senderAvatar": "crown.png"}).to_string();
    alice.send(Code::Biz, &Body { room_id: Some(room), biz_code: Some(5555), data: Some(data), ..Body::default() });
    let heard = chat(&mut bob);
    assert_eq!(heard["senderId"], 20_001);
    assert_eq!(heard["senderName"], "Alice");
    assert_eq!(heard["senderAvatar"], "a.png");
    assert_eq!(heard["content"], "hello");
}

fn chat(peer: &mut crate::house::Peer) -> Value {
    loop {
        let body = peer.expect(Code::Biz);
        if body.biz_code == Some(5555) {
            return serde_json::from_str(&body.data.unwrap()).unwrap();
        }
    }
}

#[test]
fn chat_reaches_the_room_alone_and_never_its_sender() {
    let house = House::start();
    let (room, elsewhere) = (house.open_room(30_001), house.open_room(30_002));
    let mut alice = house.login(20_001);
    let mut bob = house.login(20_002);
    let mut carol = house.login(20_003);
    let mut dave = house.login(20_004);
    alice.join(room);
    bob.join(room);
    carol.join(elsewhere);
    alice.chat(room, "for this room", "m1");
    assert_eq!(alice.expect(Code::Ack).msg_id.as_deref(), Some("m1"));
    assert_eq!(chat(&mut bob)["content"], "for this room");
    // Once Bob has it, whatever the others were to hear by mistake is on its way too.
    for (name, peer) in [("alice", &mut alice), ("carol", &mut carol), ("dave", &mut dave)] {
        peer.send(Code::Heartbeat, &Body::default());
        loop {
            let (code, body) = peer.next().unwrap();
            assert!(body.biz_code != Some(5555), "{name} heard {body:?}");
            if code == Code::Heartbeat {
                break;
            }
        }
    }
}

#[test]
fn a_room_not_joined_takes_no_chat_and_another_users_ack_changes_nothing() {
    let house = House::start();
    let room = house.open_room(30_001);
    let mut alice = house.login(20_001);
    alice.chat(room, "from outside", "m1");
    let error = alice.expect(Code::Error);
    assert_eq!(error.msg_id.as_deref(), Some("m1"));

    // A message waits in Bob's inbox; Alice acknowledges it in his place.
    let (status, pushed) = house.api(
        "POST",
        "/v1/im/push",
        json!({"appId": 10001, "target": {"users": [20_002]}, "bizCode": 5568, "data": "{\"type\":\"test\"}", "qos": 1}),
    );
    assert_eq!(status, 200, "{pushed}");
    let msg_id = pushed["msgId"].as_str().unwrap().to_owned();
    alice.send(Code::Ack, &Body { user_id: Some(20_002), msg_id: Some(msg_id.clone()), ..Body::default() });
    alice.send(Code::Heartbeat, &Body::default());
    alice.expect(Code::Heartbeat);
    let mut bob = house.login(20_002);
    bob.send(Code::Sync, &Body { from_id: Some(String::new()), ..Body::default() });
    let page: Value = serde_json::from_str(&bob.expect(Code::Sync).data.unwrap()).unwrap();
    assert_eq!(page["messages"][0]["msgId"], msg_id.as_str(), "{page}");
    // Bob's own ACK removes it.
    bob.send(Code::Ack, &Body { msg_id: Some(msg_id), ..Body::default() });
    eventually("the inbox is empty", || {
        bob.send(Code::Sync, &Body { from_id: Some(String::new()), ..Body::default() });
        let page: Value = serde_json::from_str(&bob.expect(Code::Sync).data.unwrap()).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        page["messages"].as_array().is_some_and(Vec::is_empty)
    });
}

#[test]
fn guessing_room_ids_cools_down_and_tells_nothing() {
    let house = House::with("[gateway.session]\nframes_per_s = 1000\nframes_burst = 1000\n");
    let closed = house.open_room(30_001);
    let (status, _) = house.api("POST", &format!("/v1/rooms/{closed}/close"), json!({"anchorId": 30_001}));
    assert!(status < 300);
    let mut peer = house.login(20_001);
    let mut answers = Vec::new();
    for attempt in 0..21 {
        let room = if attempt % 2 == 0 { 9_000_000 + attempt } else { closed };
        peer.send(Code::Join, &Body { room_id: Some(room), ..Body::default() });
        let error = peer.expect(Code::Error);
        answers.push((error.code, error.msg, error.retry_after_ms.is_some()));
    }
    let first = answers[0].clone();
    assert_eq!(first.0, Reason::RoomNotFound.number());
    assert!(answers[..20].iter().all(|answer| *answer == first), "a closed room and none at all look the same: {answers:?}");
    assert_eq!((answers[20].0, answers[20].2), (Reason::RateLimited.number(), true));
}

#[test]
fn chat_and_sync_tell_as_little_about_rooms_as_a_join() {
    let house = House::with("[gateway.session]\nframes_per_s = 1000\nframes_burst = 1000\n");
    let (live, closed) = (house.open_room(30_001), house.open_room(30_002));
    let (status, _) = house.api("POST", &format!("/v1/rooms/{closed}/close"), json!({"anchorId": 30_002}));
    assert!(status < 300);
    let mut peer = house.login(20_001);
    for by_chat in [true, false] {
        let mut answers = Vec::new();
        for room in [9_000_000, closed, live] {
            if by_chat {
                peer.chat(room, "is anybody in?", "m1");
            } else {
                peer.send(Code::Sync, &Body { room_id: Some(room), from_seq: Some(0), ..Body::default() });
            }
            let error = peer.expect(Code::Error);
            answers.push((error.code, error.msg, error.retry_after_ms, error.data));
        }
        let call = if by_chat { "BIZ" } else { "SYNC" };
        assert_eq!(answers[0].0, Reason::RoomNotFound.number(), "{call}: {answers:?}");
        assert!(answers.iter().all(|answer| *answer == answers[0]), "{call}: absent, closed and live differ: {answers:?}");
    }
}
