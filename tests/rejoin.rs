//! JOIN once more. Of a room one is in already: a fresh snapshot, in its place among the live pushes. After a connection that was lost: from
//! what was not acknowledged on.

use crate::house::{House, eventually};
use billfish_wire::{Body, Code};
use serde_json::{Value, json};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

#[test]
fn the_answer_of_a_second_join_overtakes_nothing() {
    let house = Arc::new(House::with("[gateway.session]\nframes_per_s = 1000\nframes_burst = 1000\n"));
    let room = house.open_room(30_001);
    let mut member = house.login(20_001);
    let mut last = member.join(room).seq.unwrap();
    let is_over = Arc::new(AtomicBool::new(false));
    let pushers: Vec<_> = (0..2)
        .map(|_| {
            let (house, is_over) = (Arc::clone(&house), Arc::clone(&is_over));
            std::thread::spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    let push = json!({"appId": 10001, "target": {"roomId": room}, "bizCode": 5568, "data": "{}", "class": 1});
                    assert_eq!(house.api("POST", "/v1/im/push", push).0, 200);
                }
            })
        })
        .collect();
    let mut answers = 0;
    member.send(Code::Join, &Body { room_id: Some(room), ..Body::default() });
    while answers < 200 {
        let (code, body) = member.next().unwrap();
        let seq = body.seq.expect("pushes and JOIN answers have a place");
        if code == Code::Join {
            assert!(seq >= last, "JOIN answered {seq} after {last}");
            answers += 1;
            member.send(Code::Join, &Body { room_id: Some(room), ..Body::default() });
        } else {
            assert!(seq > last, "a live {seq} after {last}");
        }
        last = seq;
    }
    is_over.store(true, Ordering::Relaxed);
    pushers.into_iter().for_each(|pusher| pusher.join().unwrap());
}

/// What the snapshot of a JOIN without `resume` shows.
fn shown(snapshot: &Body) -> Vec<Value> {
    let data: Value = serde_json::from_str(snapshot.data.as_deref().unwrap()).unwrap();
    data["messages"].as_array().unwrap().iter().map(|message| message["data"].clone()).collect()
}

#[test]
fn who_lost_the_connection_is_shown_by_a_plain_join_what_was_not_acknowledged() {
    let house = House::start();
    let room = house.open_room(30_001);
    let push = |data: &str, qos: i32| {
        let push = json!({"appId": 10001, "target": {"roomId": room}, "bizCode": 5568, "data": data, "qos": qos});
        assert_eq!(house.api("POST", "/v1/im/push", push).0, 200);
    };
    let (mut member, mut other) = (house.login(20_001), house.login(20_002));
    for peer in [&mut member, &mut other] {
        peer.join(room);
    }
    push("a gift", 1);
    for peer in [&mut member, &mut other] {
        while peer.expect(Code::Biz).data.as_deref() != Some("a gift") {}
    }
    drop(member);
    // More than a newcomer is shown.
    for number in 0..40 {
        push(&number.to_string(), 0);
    }
    let mut member = house.login(20_001);
    eventually("what was not acknowledged is shown", || {
        let shown = shown(&member.join(room));
        shown.iter().filter(|data| *data == "a gift").count() == 1
    });
    // With the ACK it is over.
    let gift = |snapshot: &Body| {
        let data: Value = serde_json::from_str(snapshot.data.as_deref().unwrap()).unwrap();
        data["messages"].as_array().unwrap().iter().find(|message| message["data"] == "a gift").map(|gift| gift["msgId"].clone())
    };
    let id = gift(&member.join(room)).unwrap();
    member.send(Code::Ack, &Body { msg_id: Some(id.as_str().unwrap().to_owned()), ..Body::default() });
    eventually("what was acknowledged is shown no more", || gift(&member.join(room)).is_none());
}
