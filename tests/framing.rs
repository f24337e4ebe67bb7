//! Broken frames: refused with a clear answer where a session exists, counted, closed in time, and nobody else notices.

use crate::house::{House, Peer, eventually, login_body};
use billfish_wire::{Body, Code, Encoding, Reason, frame, limits};
use std::{
    io::{Read, Write},
    net::Shutdown,
    time::{Duration, Instant},
};

fn header(magic: u16, code: i32, len: i32) -> Vec<u8> {
    [&magic.to_be_bytes()[..], &code.to_be_bytes(), &len.to_be_bytes()].concat()
}

fn number(reason: Reason) -> Option<i32> {
    reason.number()
}

/// A peer whose session works as ever: what the abuse of others must not disturb.
fn assert_alive(bystander: &mut Peer) {
    bystander.send(Code::Heartbeat, &Body::default());
    assert_eq!(bystander.expect(Code::Heartbeat).data.as_deref(), Some("true"));
}

#[test]
fn half_and_glued_frames_are_understood_however_tcp_cuts_them() {
    let house = House::start();
    let room = house.open_room(30_001);
    let token = house.token(20_001);
    let mut bytes = frame::encode(Encoding::Json, Code::Login, &login_body(20_001, token)).to_vec();
    bytes.extend(frame::encode(Encoding::Json, Code::Join, &Body { room_id: Some(room), ..Body::default() }));
    bytes.extend(frame::encode(Encoding::Protobuf, Code::Heartbeat, &Body::default()));

    // All at once: what stands behind LOGIN waits for its verdict. Then one byte per segment.
    for piece_bytes in [bytes.len(), 1] {
        let mut peer = house.connect();
        for piece in bytes.chunks(piece_bytes) {
            peer.send_raw(piece);
        }
        // LOGIN is answered first; a heartbeat may overtake a JOIN, whose answer comes from the router.
        assert_eq!(peer.next().unwrap().0, Code::Login);
        let mut missing = vec![Code::Join, Code::Heartbeat];
        while !missing.is_empty() {
            let (code, body) = peer.next().unwrap();
            assert_ne!(code, Code::Error, "{body:?}");
            missing.retain(|one| *one != code);
        }
    }
}

#[test]
fn a_header_that_cannot_be_right_ends_the_connection_at_once() {
    let house = House::start();
    let mut bystander = house.login(20_001);
    let strangers: Vec<(&str, Vec<u8>)> = vec![
        ("first byte of the magic", vec![0x47]),
        ("second byte of the magic", vec![0x48, 0x00]),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ("TLS", vec![0x16, 0x03, 0x01, 0x02, 0x00, 0x01]),
        ("PROXY", b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n".to_vec()),
        ("negative length", header(18673, 1001, -1)),
        ("most negative length", header(18673, 1001, i32::MIN)),
        ("largest length", header(18673, 1001, i32::MAX)),
        ("one above the limit before login", header(18673, 1001, i32::try_from(limits::LOGIN_BODY_BYTES_MAX).unwrap() + 1)),
    ];
    for (what, bytes) in strangers {
        let started = Instant::now();
        let mut peer = house.connect();
        peer.send_raw(&bytes);
        let heard = peer.until_closed();
        assert!(heard.is_empty(), "{what}: no session, no answer, but heard {heard:?}");
        assert!(started.elapsed() < Duration::from_secs(5), "{what}: closed only after {:?}", started.elapsed());
    }
    assert_alive(&mut bystander);
    eventually("the closes are counted", || {
        house.metric("gateway_closes_total", &["reason=\"malformed\""]) >= 7.0
            && house.metric("gateway_closes_total", &["reason=\"too_large\""]) >= 2.0
    });
}

#[test]
fn a_session_is_told_why_before_it_ends() {
    let house = House::start();
    let cases = [
        (header(18675, 1004, 0), Reason::Malformed),
        (header(18673, 1004, -1), Reason::Malformed),
        (header(18673, 1003, i32::try_from(limits::BODY_BYTES_MAX).unwrap() + 1), Reason::TooLarge),
        (header(18673, 1003, i32::MAX), Reason::TooLarge),
    ];
    for (bytes, reason) in cases {
        let mut peer = house.login(20_001);
        peer.send_raw(&bytes);
        let heard = peer.until_closed();
        let last = heard.last().unwrap_or_else(|| panic!("{reason:?}: closed without a word"));
        assert_eq!((last.0, last.1.code), (Code::Error, number(reason)));
        assert!(last.1.msg.is_some());
    }
}

#[test]
fn an_unknown_code_is_answered_and_the_session_lives() {
    let house = House::start();
    let mut peer = house.login(20_001);
    for code in [0, -1, 999, 1012, i32::MAX, Code::Kick.number(), Code::WsShake.number()] {
        peer.send_raw(&frame::encode_raw(18673, code, b"{}"));
        assert_eq!(peer.expect(Code::Error).code, number(Reason::UnknownCode), "{code}");
    }
    assert_alive(&mut peer);
}

#[test]
fn before_login_anything_but_login_closes() {
    let house = House::start();
    for code in [1002, 1003, 1004, 1005, 1007, 7, i32::MIN] {
        let mut peer = house.connect();
        peer.send_raw(&frame::encode_raw(18673, code, b"{}"));
        let heard = peer.until_closed();
        assert!(heard.iter().all(|(code, body)| *code == Code::Error && body.code == number(Reason::NotLoggedIn)), "{code}: {heard:?}");
    }
    // Malformed logins say what is wrong: the developer of a client reads this.
    for body in [&b"{}"[..], b"[]", b"{\"appId\":10001,\"userId\":1,\"token\":\"x\"}", b"nonsense"] {
        let mut peer = house.connect();
        peer.send_raw(&frame::encode_raw(18673, 1001, body));
        let heard = peer.until_closed();
        assert!(heard.iter().all(|(code, body)| *code == Code::Error && body.code == number(Reason::Malformed)), "{heard:?}");
        assert_eq!(heard.len(), 1);
    }
}

#[test]
fn the_longest_legal_body_is_taken_and_one_byte_more_is_not() {
    let house = House::start();
    let room = house.open_room(30_001);
    let mut peer = house.login(20_001);
    peer.join(room);
    // Unknown fields are ignored, so padding makes a legal body of any length.
    let body = |bytes: usize| {
        let frame = "{\"pad\":\"\"}";
        format!("{{\"pad\":\"{}\"}}", "x".repeat(bytes - frame.len())).into_bytes()
    };
    peer.send_raw(&frame::encode_raw(18673, Code::Heartbeat.number(), &body(limits::BODY_BYTES_MAX)));
    assert_eq!(peer.expect(Code::Heartbeat).data.as_deref(), Some("true"));
    peer.send_raw(&header(18673, Code::Heartbeat.number(), i32::try_from(limits::BODY_BYTES_MAX).unwrap() + 1));
    assert_eq!(peer.expect(Code::Error).code, number(Reason::TooLarge));
}

#[test]
fn a_million_tiny_frames_starve_nobody_and_are_cut_off() {
    let house = House::start();
    let mut bystander = house.login(20_001);
    let mut flooder = house.login(20_002);
    let tiny = frame::encode_raw(18673, Code::Heartbeat.number(), b"");
    let block = tiny.repeat(10_000);
    let mut writer = flooder.stream.try_clone().unwrap();
    let flood = std::thread::spawn(move || {
        for _ in 0..100 {
            if writer.write_all(&block).is_err() {
                break;
            }
        }
        drop(writer.shutdown(Shutdown::Write));
    });
    for _ in 0..50 {
        assert_alive(&mut bystander);
    }
    // Whatever it heard, it ends: too many frames refused in a row close the connection.
    let mut rest = Vec::new();
    drop(flooder.stream.set_read_timeout(Some(crate::house::PATIENCE)));
    drop(flooder.stream.read_to_end(&mut rest));
    flood.join().unwrap();
    eventually("the flood is counted", || house.metric("gateway_closes_total", &["reason=\"rate_limited\""]) >= 1.0);
    assert_alive(&mut bystander);
}
