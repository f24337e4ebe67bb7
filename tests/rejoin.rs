//! JOIN of a room one is in already: a fresh snapshot, in its place among the live pushes.

use crate::house::House;
use billfish_wire::{Body, Code};
use serde_json::json;
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
