//! Whatever the bytes look like and however they are cut: answered or ended, counted, and nobody else notices.

use crate::house::{House, bytes, header, login, until};
use billfish_wire::{Body, Code, Encoding, Reason};

/// LOGIN, HEARTBEAT and BIZ, cut once at every place; the shard has seen the first part before the second is sent.
#[test]
fn a_cut_anywhere_changes_nothing() {
    let house = House::new();
    let biz = Body { biz_code: Some(5555), data: Some("{}".to_owned()), msg_id: Some("m1".to_owned()), ..Body::default() };
    let mut stream = bytes(Code::Login, &login(10_000));
    stream.extend(bytes(Code::Heartbeat, &Body::default()));
    stream.extend(bytes(Code::Biz, &biz));
    for cut in 1..stream.len() {
        let before = house.counters.bytes_in.value();
        let mut client = house.connect();
        client.write(&stream[..cut]);
        until("the first part to be read", || house.counters.bytes_in.value() == before + cut as u64);
        client.write(&stream[cut..]);
        client.expect(Code::Login);
        client.expect(Code::Heartbeat);
        assert_eq!(client.expect(Code::Ack).msg_id.as_deref(), Some("m1"), "cut at {cut}");
        drop(client);
        until("the connection to be gone", || house.counters.connections.value() == 0);
    }
    assert_eq!(house.counters.frame_errors.value(), 0);
}

#[test]
fn one_byte_at_a_time_is_enough() {
    let house = House::new();
    let mut client = house.connect();
    let before = house.counters.bytes_in.value();
    let stream = bytes(Code::Login, &login(10_000));
    for (nth, byte) in stream.iter().enumerate() {
        client.write(&[*byte]);
        until("the byte to be read", || house.counters.bytes_in.value() == before + nth as u64 + 1);
    }
    client.expect(Code::Login);
}

/// What is glued behind a LOGIN waits for the verdict, in the order in which it was sent; a stranger holds no more than a LOGIN's worth.
#[test]
fn what_is_glued_behind_a_login_waits_for_its_verdict() {
    let house = House::new();
    house.control.withholds_verdicts.store(true, std::sync::atomic::Ordering::SeqCst);
    let mut client = house.connect();
    let mut stream = bytes(Code::Login, &login(10_000));
    let login_bytes = stream.len() as u64;
    for _ in 0..50 {
        stream.extend(bytes(Code::Heartbeat, &Body::default()));
    }
    // More than may be held: the rest stays in the kernel.
    let biz = Body { biz_code: Some(5555), data: Some("x".repeat(30_000)), msg_id: Some("last".to_owned()), ..Body::default() };
    stream.extend(bytes(Code::Biz, &biz));
    client.write(&stream);
    until("the LOGIN to be asked about", || house.control.withheld.lock().unwrap().len() == 1);
    let mut bystander = house.connect();
    bystander.write(&bytes(Code::Login, &login(10_001)));
    until("the other LOGIN too", || house.control.withheld.lock().unwrap().len() == 2);
    assert!(house.counters.bytes_in.value() <= 2 * (4 * 1024 + 10) + login_bytes, "{} bytes read", house.counters.bytes_in.value());

    let (key, user_id, app_id) = house.control.withheld.lock().unwrap()[0];
    house.control.grant(&house.commands, key, user_id, app_id);
    client.expect(Code::Login);
    for _ in 0..50 {
        client.expect(Code::Heartbeat);
    }
    assert_eq!(client.expect(Code::Ack).msg_id.as_deref(), Some("last"));
}

/// Each of these ends the connection; where there is a session it is told why, and a bystander never misses a beat.
#[test]
fn every_framing_abuse_ends_with_its_reason() {
    let json = Encoding::Json.magic();
    let proto = Encoding::Protobuf.magic();
    let beat = Code::Heartbeat.number();
    let abuses: Vec<(&str, Vec<u8>, Reason)> = vec![
        ("length -1", header(json, beat, -1), Reason::Malformed),
        ("length i32::MIN", header(json, beat, i32::MIN), Reason::Malformed),
        ("length i32::MAX", header(json, beat, i32::MAX), Reason::TooLarge),
        ("length above the limit", header(proto, beat, 64 * 1024 + 1), Reason::TooLarge),
        ("magic wrong in its first byte", header(json ^ 0x0100, beat, 0), Reason::Malformed),
        ("magic wrong in its second byte", header(json ^ 0x0080, beat, 0), Reason::Malformed),
        ("TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), Reason::Malformed),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), Reason::Malformed),
        ("PROXY header", b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\n".to_vec(), Reason::Malformed),
        ("garbage behind a good frame", [bytes(Code::Heartbeat, &Body::default()), b"garbage".to_vec()].concat(), Reason::Malformed),
        ("much garbage", vec![0; 60_000], Reason::Malformed),
    ];
    let house = House::new();
    let mut bystander = house.log_in(10_000);
    for (name, abuse, reason) in abuses {
        let (errors, closed) = (house.counters.frame_errors.value(), house.closed(reason));
        let mut stranger = house.connect();
        stranger.write(&abuse);
        bystander.beat();
        if name == "garbage behind a good frame" {
            // Before a LOGIN the good frame is not that good.
            assert_eq!(stranger.expect(Code::Error).code, Reason::NotLoggedIn.number(), "{name}");
            stranger.expect_end();
        } else {
            until("the stranger to be closed", || house.closed(reason) == closed + 1);
            assert_eq!(house.counters.frame_errors.value(), errors + 1, "{name}");
        }

        let closed = house.closed(reason);
        let mut member = house.log_in(10_002);
        member.write(&abuse);
        bystander.beat();
        if name == "garbage behind a good frame" {
            member.expect(Code::Heartbeat);
        }
        assert_eq!(member.expect(Code::Error).code, reason.number(), "{name}");
        member.expect_end();
        assert_eq!(house.closed(reason), closed + 1, "{name}");
    }
    bystander.beat();
}

/// The limits are exact: at the limit a frame passes, one above it does not.
#[test]
fn a_body_at_the_limit_passes() {
    let house = House::new();
    let mut client = house.log_in(10_000);
    let empty = Body { biz_code: Some(5555), data: Some(String::new()), msg_id: Some("m".to_owned()), ..Body::default() };
    let room = 64 * 1024 - empty.to_vec(Encoding::Json).len();
    client.send(Code::Biz, &Body { data: Some("x".repeat(room)), ..empty });
    assert_eq!(client.expect(Code::Ack).msg_id.as_deref(), Some("m"));
}

#[test]
fn an_unknown_code_ends_a_stranger_and_not_a_session() {
    let house = House::new();
    let mut stranger = house.connect();
    stranger.write(&header(Encoding::Json.magic(), 4242, 0));
    assert_eq!(stranger.expect(Code::Error).code, Reason::NotLoggedIn.number());
    stranger.expect_end();
    let mut member = house.log_in(10_000);
    member.write(&header(Encoding::Json.magic(), 4242, 0));
    assert_eq!(member.expect(Code::Error).code, Reason::UnknownCode.number());
    member.beat();
}

/// A million frames of ten bytes: the flood is refused and ended by its own session, and another one is served all the while.
#[test]
fn a_flood_of_tiny_frames_ends_itself_and_delays_nobody() {
    let house = House::new();
    let mut bystander = house.log_in(10_000);
    let mut flood = house.log_in(10_001);
    let frames = header(Encoding::Json.magic(), Code::Heartbeat.number(), 0).repeat(1_000_000);
    let mut stream = flood.stream.try_clone().unwrap();
    let writing = std::thread::spawn(move || {
        // Cut off in the middle: that is the point.
        drop(std::io::Write::write_all(&mut stream, &frames));
    });
    let mut beats = 0;
    until("the flood to be ended", || {
        // Within its own allowance, however long the flood takes.
        if beats < 50 {
            bystander.beat();
            beats += 1;
        }
        house.closed(Reason::RateLimited) == 1
    });
    bystander.beat();
    writing.join().unwrap();
    let mut refusals = 0;
    while let Ok(Some((code, body))) = flood.try_next() {
        if code == Code::Error {
            assert_eq!(body.code, Reason::RateLimited.number());
            refusals += 1;
        }
    }
    assert!(refusals > 0);
}

/// The last frame survives although the peer has sent much that nobody reads: a plain close would answer with a reset.
#[test]
fn an_error_frame_is_not_lost_to_unread_input() {
    let house = House::new();
    for _ in 0..50 {
        let mut member = house.log_in(10_000);
        let mut abuse = header(0x1234, 0, 0);
        abuse.resize(200_000, 0);
        member.write(&abuse[..100]);
        // Whether the server has closed by now or not: the peer goes on talking.
        drop(std::io::Write::write_all(&mut member.stream, &abuse[100..60_000]));
        assert_eq!(member.expect(Code::Error).code, Reason::Malformed.number());
    }
}
