//! Slow readers: they lose the least first, keep what was promised or are told to go, and cost the others nothing.

use crate::house::{House, eventually};
use billfish_wire::{Body, Code, Reason};
use serde_json::json;

fn push(house: &House, room: i64, class: i32, bytes: usize) {
    let data = json!({"pad": "x".repeat(bytes)}).to_string();
    let body = json!({"appId": 10001, "target": {"roomId": room}, "bizCode": 5568, "data": data, "class": class});
    let (status, answer) = house.api("POST", "/v1/im/push", body);
    assert_eq!(status, 200, "{answer}");
}

#[test]
fn a_stalled_reader_loses_ambient_and_chat_first_and_the_rest_adds_up() {
    let house = House::start();
    let room = house.open_room(30_001);
    let mut stalled = house.login(20_001);
    let mut healthy = house.login(20_002);
    stalled.join(room);
    healthy.join(room);
    let drops = |class: &str| house.metric("gateway_frames_dropped_total", &[&format!("class=\"{class}\"")]);
    // The healthy one reads all the time and tells how many it has heard, up to the one event.
    let listening = std::thread::spawn(move || {
        let mut heard = 0;
        loop {
            let body = healthy.expect(Code::Biz);
            match body.class {
                Some(1) => return heard,
                Some(3) if body.key.is_none() => heard += 1,
                _ => {}
            }
        }
    });
    // The stalled one reads nothing; its socket and its backlog fill with what may be dropped.
    let mut sent = 0;
    while drops("ambient") < 50.0 {
        push(&house, room, 3, 30_000);
        sent += 1;
        assert!(sent < 2_000, "nothing was ever dropped");
    }
    assert!(house.metric("gateway_backlog_bytes", &[]) <= 256.0 * 1024.0 + 64.0 * 1024.0);
    push(&house, room, 1, 10);
    assert_eq!(listening.join().unwrap(), sent, "a stalled neighbour cost the healthy reader something");
    let mut kept = 0;
    loop {
        let body = stalled.expect(Code::Biz);
        match body.class {
            Some(1) => break,
            Some(3) if body.key.is_none() => kept += 1,
            _ => {}
        }
    }
    assert!(kept < sent, "the stalled reader was spared nothing");
    let (copies, delivered, dropped) = (
        house.metric("gateway_copies_total", &[]),
        house.metric("gateway_deliveries_total", &[]),
        house.metric("gateway_frames_dropped_total", &[]),
    );
    assert!((copies - delivered - dropped).abs() < 0.5, "{copies} = {delivered} + {dropped}");
    let (status, account) = house.admin(&format!("/rooms/{room}"));
    assert_eq!(status, 200, "{account}");
}

#[test]
fn what_may_not_be_dropped_ends_the_session_with_4012() {
    let house = House::start();
    let room = house.open_room(30_001);
    let mut stalled = house.login(20_001);
    stalled.join(room);
    let closed = || house.metric("gateway_closes_total", &["reason=\"too_slow\""]) >= 1.0;
    let mut sent = 0;
    while !closed() {
        push(&house, room, 1, 30_000);
        sent += 1;
        assert!(sent < 2_000, "never closed");
    }
    // What it reads now is what its socket still held; then it comes back, and SYNC gives the rest.
    let heard = stalled.until_closed();
    let last = heard.iter().filter_map(|(_, body)| body.seq).max().unwrap();
    if let Some((code, body)) = heard.last()
        && *code == Code::Kick
    {
        assert_eq!(body.code, Reason::TooSlow.number());
    }
    let mut back = house.login(20_001);
    back.send(
        Code::Join,
        &Body { room_id: Some(room), resume: Some(billfish_wire::Resume { seq: Some(last), ..Default::default() }), ..Body::default() },
    );
    let snapshot: serde_json::Value = serde_json::from_str(&back.expect(Code::Join).data.unwrap()).unwrap();
    let missed = snapshot["messages"].as_array().unwrap().len();
    assert!(missed > 0 || snapshot["gap"] == true, "{snapshot}");
    eventually("the drops are counted", || house.metric("gateway_frames_dropped_total", &["class=\"event\"", "reason=\"closed\""]) >= 1.0);
}
