//! kill -9: rooms, records, mutes and profiles are there afterwards, and sequence numbers go on rising.

use crate::house::{House, eventually};
use billfish_wire::{Body, Code, Reason};
use serde_json::json;

#[test]
fn rooms_and_records_survive_a_kill() {
    let mut house = House::start();
    let room = house.open_room(30_001);
    let other = house.open_room(30_002);
    assert!(house.api("POST", &format!("/v1/rooms/{other}/close"), json!({"anchorId": 30_002})).0 < 300);
    assert!(house.api("PUT", &format!("/v1/rooms/{room}/mutes/20001"), json!({"seconds": 600})).0 < 300);
    assert!(house.api("PUT", &format!("/v1/rooms/{room}/bans/20002"), json!({"seconds": 600})).0 < 300);
    assert!(house.api("PUT", "/v1/users/20003", json!({"nickName": "Carol"})).0 < 300);
    let mut carol = house.login(20_003);
    let seq_before = carol.join(room).seq.unwrap();

    house.kill();
    assert!(carol.until_closed().iter().all(|(code, _)| *code != Code::Error));
    house.start_again();

    let (status, view) = house.api("GET", &format!("/v1/rooms/{room}"), json!(null));
    assert_eq!((status, view["anchorId"].as_i64()), (200, Some(30_001)), "{view}");
    assert_eq!(house.api("GET", &format!("/v1/rooms/{other}"), json!(null)).0, 404);
    // The anchor still has her one live room; a closed room's id is not given out again.
    let (status, refused) = house.api("POST", "/v1/rooms", json!({"anchorId": 30_001, "type": 1}));
    assert_eq!(status, 409, "{refused}");
    assert!(house.open_room(30_003) > other);

    let mut muted = house.login(20_001);
    muted.join(room);
    muted.chat(room, "can you hear me", "m1");
    assert_eq!(muted.expect(Code::Error).code, Reason::Muted.number());
    let mut banned = house.login(20_002);
    banned.send(Code::Join, &Body { room_id: Some(room), ..Body::default() });
    assert_eq!(banned.expect(Code::Error).code, Reason::Banned.number());
    let mut carol = house.login(20_003);
    let seq_after = carol.join(room).seq.unwrap();
    assert!(seq_after >= seq_before, "{seq_after} after {seq_before}");
    carol.chat(room, "I am back", "m2");
    assert_eq!(carol.expect(Code::Ack).msg_id.as_deref(), Some("m2"));
    assert_eq!(house.api("GET", "/v1/users?ids=20003", json!(null)).1["users"][0]["nickName"], "Carol");
}

#[test]
fn a_second_process_on_the_same_data_is_refused() {
    let house = House::start();
    let any = "127.0.0.1:0";
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_billfish"))
        .arg("--data-dir")
        .arg(house.data_dir())
        .envs(
            [
                "GATEWAY__LISTEN__TCP",
                "GATEWAY__LISTEN__WS",
                "GATEWAY__LISTEN__TLS",
                "GATEWAY__LISTEN__QUIC",
                "HTTP__LISTEN",
                "ADMIN__LISTEN",
            ]
            .map(|key| (format!("BILLFISH__{key}"), any)),
        )
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("another billfish") && said.contains("data"), "{said}");
}

#[test]
fn killed_again_and_again_it_forgets_no_room() {
    let mut house = House::start();
    let mut rooms = Vec::new();
    for round in 0..5 {
        rooms.push((house.open_room(40_000 + round), 40_000 + round));
        house.kill();
        house.start_again();
        for (room, anchor) in &rooms {
            let (status, view) = house.api("GET", &format!("/v1/rooms/{room}"), json!(null));
            assert_eq!((status, view["anchorId"].as_i64()), (200, Some(*anchor)));
        }
    }
    eventually("the list has them all", || {
        house.api("GET", "/v1/rooms?type=1&page=1&pageSize=100", json!(null)).1["rooms"]
            .as_array()
            .is_some_and(|list| list.len() == rooms.len())
    });
}

#[test]
fn the_data_directory_belongs_to_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let house = House::start();
    let mode = std::fs::metadata(house.data_dir()).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0, "{mode:o}");
}
