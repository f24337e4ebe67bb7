//! What holds however a client comes.

use crate::{
    client::{Heard, Kind, Open, Peer, Wire},
    house::{login_body, push, until},
};
use billfish_link::message::{Push, up::Call};
use billfish_wire::{Body, Code, Encoding, Reason, Resume, frame};
use rustls::ClientConnection;
use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::Arc,
    time::{Duration, Instant},
};

const ROOM: i64 = 30_001;

fn number(reason: Reason) -> u16 {
    u16::try_from(reason.number().unwrap()).unwrap()
}

#[test]
fn a_client_logs_in_joins_is_pushed_to_acknowledges_and_leaves() {
    let open = Open::new();
    for (user, kind) in (20_001..).zip(Kind::ALL) {
        let mut peer = open.join(kind, user, ROOM);
        peer.beat();

        peer.send(
            Code::Biz,
            &Body { room_id: Some(ROOM), biz_code: Some(5555), data: Some("hi".into()), msg_id: Some("m".into()), ..Body::default() },
        );
        assert_eq!(peer.expect(Code::Ack).msg_id.as_deref(), Some("m"), "{kind:?}");

        let seq = open.router.push_room(ROOM, "to all");
        let body = peer.expect(Code::Biz);
        assert_eq!((body.seq, body.data.as_deref()), (Some(seq), Some("to all")), "{kind:?}");

        let msg_id = format!("p-{user}");
        open.router.push_users(&[user], Push { msg_id: msg_id.clone(), qos: 1, class: 1, ..push("to you") });
        let body = peer.expect(Code::Biz);
        assert_eq!((body.msg_id.as_deref(), body.data.as_deref()), (Some(&*msg_id), Some("to you")), "{kind:?}");
        peer.send(Code::Ack, &Body { msg_id: Some(msg_id), ..Body::default() });
        peer.beat();

        peer.send(Code::Leave, &Body { room_id: Some(ROOM), ..Body::default() });
        peer.expect(Code::Leave);
        peer.send(Code::Logout, &Body::default());
        peer.expect(Code::Logout);
        peer.expect_end(1000);
    }
    assert_eq!(open.closes("logged_out"), Kind::ALL.len() as f64);
    open.assert_the_books_balance();
}

#[test]
fn a_login_that_resumes_asks_for_what_was_missed() {
    let open = Open::new();
    for (user, kind) in (20_001..).zip(Kind::ALL) {
        if kind == Kind::WsPath {
            // The path has no place for it.
            continue;
        }
        let token = open.house.token(user, None, 300_000);
        let resume = Resume { rooms: [(ROOM, 4_294_967_300)].into(), ..Resume::default() };
        let mut peer = open.knock(kind, user, &token, Body { resume: Some(resume), ..Body::default() });
        peer.expect_login();
        let is_resumed =
            |call: &Option<Call>| matches!(call, Some(Call::Join(join)) if (join.room_id, join.resume_seq) == (ROOM, Some(4_294_967_300)));
        until("the room is joined where it was left", || {
            open.router.calls().iter().any(|up| up.origin.as_ref().is_some_and(|origin| origin.user_id == user) && is_resumed(&up.call))
        });
        assert_eq!(peer.expect(Code::Join).room_id, Some(ROOM), "{kind:?}");
    }
}

#[test]
fn a_drain_names_addresses_of_the_clients_own_kind_and_ends_in_order() {
    let mut open = Open::with(|config| config.drain.spread_max = Duration::from_millis(100));
    // Another gateway, as the registry shows it.
    let state = open.house.state.clone();
    let other = open.house.runtime.block_on(async {
        let now = crate::house::now_ms();
        let entry = state.registry.nodes(billfish_state::NodeKind::Gateway, now).await.unwrap().remove(0);
        let addresses = ["tcp", "ws", "tls"].map(|kind| (kind.to_owned(), format!("{kind}.example:1")));
        billfish_state::NodeInfo { id: "gateway-2".to_owned(), addresses: addresses.into(), incarnation: 7, draining: false, ..entry }
    });
    let now = crate::house::now_ms();
    assert!(open.house.runtime.block_on(state.registry.register(&other, now, now + 60_000)).unwrap());

    let mut peers: Vec<_> = (20_001..).zip(Kind::ALL).map(|(user, kind)| open.join(kind, user, ROOM)).collect();
    let running = open.house.running.take().unwrap();
    let drained = open.house.runtime.spawn(running.drain(Duration::from_secs(60)));
    for peer in &mut peers {
        let hint = peer.expect(Code::Reconnect);
        assert_eq!(hint.addresses, [format!("{}.example:1", peer.kind.door())], "{:?}", peer.kind);
        assert!(hint.after_ms.is_some());
        peer.expect_end(1001);
    }
    open.house.runtime.block_on(drained).unwrap();
}

#[test]
fn one_byte_more_than_a_stranger_may_say_ends_it_and_so_does_one_more_than_a_session_may() {
    let open = Open::with(|config| config.session.login_body_bytes_max = 600);
    for (user, kind) in (20_001..).zip(Kind::ALL) {
        // A field that nobody knows makes it as long as is wanted.
        let sized = |body: &Body, bytes: usize| {
            let text = serde_json::to_string(body).unwrap();
            let filler = "v".repeat(bytes - text.len() - r#","x":"""#.len());
            frame::encode_raw(
                Encoding::Json.magic(),
                Code::Login.number(),
                format!(r#"{},"x":"{filler}"}}"#, &text[..text.len() - 1]).as_bytes(),
            )
        };
        if kind != Kind::WsPath {
            let login = open.login_frame(user);
            let mut peer = open.connect(kind);
            let message = peer.message(&sized(&login, 600));
            peer.write(&message);
            peer.expect_login();
            let mut peer = open.connect(kind);
            let login = open.login_frame(user + 100);
            let message = peer.message(&sized(&login, 601));
            peer.write(&message);
            if kind.is_websocket() {
                peer.expect_end(1009);
            } else {
                // The byte too many is still in the kernel, so the end may be a reset.
                assert!(matches!(peer.hear(), Heard::End | Heard::Broken));
            }
        }

        let mut peer = open.login(kind, user + 200);
        let biz = |bytes: usize| {
            let (data, msg_id) = (Some("x".repeat(bytes)), Some("m".to_owned()));
            Body { biz_code: Some(5555), data, msg_id, ..Body::default() }
        };
        let around = frame::encode(Encoding::Json, Code::Biz, &biz(0)).len() - 10;
        let limit = 65_536;
        peer.send(Code::Biz, &biz(limit - around));
        assert_eq!(peer.expect(Code::Ack).code, None, "{kind:?}");
        let mut peer = open.login(kind, user + 300);
        peer.send(Code::Biz, &biz(limit - around + 1));
        assert_eq!(peer.expect(Code::Error).code, Reason::TooLarge.number(), "{kind:?}");
        peer.expect_end(1009);
    }
}

#[test]
fn one_frame_more_than_the_burst_is_refused_and_whoever_goes_on_is_closed() {
    let open = Open::with(|config| {
        config.session.frames_per_s = 1;
        config.session.frames_burst = 10;
        config.session.refused_in_a_row_max = 5;
    });
    let mut told = 0;
    for (user, kind) in (20_001..).zip(Kind::ALL) {
        let mut peer = open.login(kind, user);
        let beat = peer.bytes(Code::Heartbeat, &Body::default());
        // All at once: a second would bring one more.
        peer.write(&beat.repeat(16));
        let heard = peer.hear_all();
        let beats = heard.iter().filter(|one| matches!(one, Heard::Frame(Code::Heartbeat, _))).count();
        let refused =
            heard.iter().filter(|one| matches!(one, Heard::Frame(Code::Error, body) if body.code == Reason::RateLimited.number())).count();
        told += refused;
        // LOGIN was one of the ten.
        assert!((9..=10).contains(&beats) && refused >= 4, "{kind:?}: {beats} answered, {refused} refused");
        if kind.is_websocket() {
            assert!(heard.iter().any(|one| matches!(one, Heard::Close(Some(4007), _))), "{kind:?}: {heard:?}");
        }
    }
    assert_eq!(open.closes("rate_limited"), Kind::ALL.len() as f64);
    let counted = open.house.metric("gateway_errors_total", &[r#"reason="rate_limited""#]);
    assert!(counted >= told as f64 && counted < 7.0 * Kind::ALL.len() as f64, "{counted} counted, {told} heard");
}

/// It is told as at every other limit, and by another listener there is room. `gateway/tests/control/quic/way_in.rs` has QUIC's.
#[test]
fn one_connection_more_than_a_listener_may_have_is_sent_elsewhere_by_it_alone() {
    let open = Open::with(|config| {
        let max = &mut config.admission.listener_max;
        (max.tcp, max.ws, max.tls) = (2, 2, 2);
    });
    let by = |name: &str, listener: &str| open.house.metric(name, &[&format!(r#"listener="{listener}""#)]);
    let mut refused = 0.0;
    for (user, kind) in (20_001..).step_by(10).zip([Kind::Tcp, Kind::WsBinary, Kind::Tls, Kind::Wss]) {
        let listener = kind.door();
        let before = by("gateway_listener_refused_total", listener);
        let mut held = [open.login(kind, user), open.login(kind, user + 1)];
        assert_eq!(by("gateway_listener_connections", listener), 2.0, "{kind:?}");
        let mut heard = Vec::new();
        let mut third = open.socket(kind);
        if listener == "tcp" {
            let error = Peer::bare(kind, Wire::Plain(third)).expect(Code::Error);
            assert_eq!((error.code, error.retry_after_ms), (Reason::Unavailable.number(), Some(5_000)));
        } else {
            drop(third.read_to_end(&mut heard));
            let is_told = if listener == "ws" { heard.starts_with(b"HTTP/1.1 503 ") } else { heard.is_empty() };
            assert!(is_told, "{kind:?}: {heard:?}");
        }
        refused += 1.0;
        assert_eq!(by("gateway_listener_refused_total", listener), before + 1.0, "{kind:?}");
        assert_eq!(open.house.metric("gateway_admission_refused_total", &[r#"reason="listener""#]), refused, "{kind:?}");
        let elsewhere = if kind == Kind::Tcp { Kind::WsText } else { Kind::Tcp };
        open.login(elsewhere, user + 2).beat();
        held[0].beat();
        let [first, second] = held;
        drop(first);
        until("there is a place again", || by("gateway_listener_connections", listener) == 1.0);
        open.login(kind, user + 3).beat();
        drop(second);
        until("all are gone", || open.house.running().account().connections == 0);
        assert_eq!(by("gateway_listener_connections", listener), 0.0, "{kind:?}");
    }
}

#[test]
fn who_does_not_log_in_is_closed_however_far_it_came() {
    let timeout = Duration::from_millis(600);
    let open = Open::with(|config| config.session.login_timeout = timeout);
    for kind in Kind::ALL {
        // Nothing said at all.
        let mut silent = open.socket(kind);
        // A beginning, then a byte each moment: the deadline is one for all of it.
        let mut slow = open.socket(kind);
        let bytes = match kind {
            Kind::Tcp => vec![0x48, 0xF1, 0, 0, 3, 0xE9, 0, 0, 0, 100],
            Kind::Tls | Kind::Wss => {
                let mut hello = Vec::new();
                let mut session = ClientConnection::new(Arc::clone(&open.tls), "localhost".try_into().unwrap()).unwrap();
                session.write_tls(&mut hello).unwrap();
                hello.truncate(hello.len() - 1);
                hello
            }
            Kind::WsText | Kind::WsBinary | Kind::WsPath => b"GET /ws HTTP/1.1\r\nHost: localhost\r\nX: ".to_vec(),
        };
        let began = Instant::now();
        let mut left = bytes.into_iter().chain(std::iter::repeat(b'x'));
        slow.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        loop {
            // Written until nobody takes it, or the end is read.
            if slow.write_all(&[if kind.door() == "tls" { 0x16 } else { left.next().unwrap() }]).is_err() {
                break;
            }
            match slow.read(&mut [0; 256]) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
                Err(_) => break,
            }
            assert!(began.elapsed() < timeout * 10, "{kind:?}: a byte each moment keeps it open");
        }
        let mut rest = Vec::new();
        drop(silent.read_to_end(&mut rest));
        assert!(began.elapsed() < timeout * 10, "{kind:?}");

        // As far as frames, and no further. Who has said nothing hears text.
        if kind == Kind::WsBinary {
            continue;
        }
        let mut peer = open.connect(kind);
        if kind == Kind::Tls {
            // It may be about to ask for a WebSocket.
            peer.expect_end(4011);
            continue;
        }
        assert_eq!(peer.expect(Code::Error).code, Reason::LoginTimeout.number(), "{kind:?}");
        peer.expect_end(4011);
    }
    until("all are gone", || open.house.running().account().connections == 0);
}

/// What the kernel holds for the gateway's end of a connection is bounded, however little is read: with the kernel's own bounds it would be 4 MB.
#[test]
fn a_reader_that_has_stopped_costs_at_most_100_kb_of_kernel_memory() {
    for kind in Kind::ALL {
        let open = Open::new();
        let stalled = open.join(kind, 20_001, ROOM);
        let text = "x".repeat(1_000);
        let mut pushed = 0;
        while open.house.metric("gateway_backlogs", &[]) == 0.0 {
            open.router.push_room_as(1, 0, Push { room_id: ROOM, class: 1, ..push(&text) });
            pushed += 1;
            until("it is handed out", || open.house.running().account().copies == pushed);
        }
        let bytes = kernel_bytes(stalled.wire.socket());
        assert!((1..=100_000).contains(&bytes), "{kind:?}: {bytes} bytes");
    }
}

/// Bytes that the kernel holds for the other end of a connection: read, queued to be sent, and allocated ahead. By `ss`, for reading SO_MEMINFO
/// is a system call that no safe crate has.
fn kernel_bytes(socket: &TcpStream) -> u64 {
    let (server, client) = (socket.peer_addr().unwrap(), socket.local_addr().unwrap());
    let said = std::process::Command::new("ss").args(["-tmnH", "src", &server.to_string(), "dst", &client.to_string()]).output().unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    // skmem:(r<in the receive queue>,rb…,t<sent and not acknowledged>,tb…,f<allocated ahead>,w<queued to be sent>,…)
    let (_, fields) = said.split_once("skmem:(").unwrap_or_else(|| panic!("ss tells nothing of it: {said:?}"));
    let field = |name: &str| {
        let number = fields.split(',').find_map(|field| field.strip_prefix(name)?.parse::<u64>().ok());
        number.unwrap_or_else(|| panic!("no {name} in {fields}"))
    };
    field("r") + field("f") + field("w")
}

/// Chat gives way, events do not: then the session ends with 4012. What arrives is whole and in order, and every copy is accounted for.
#[test]
fn a_slow_reader_is_sent_away_and_the_books_balance() {
    for kind in Kind::ALL {
        let open = Open::new();
        let mut slow = open.join_over(kind, open.narrow_socket(kind), 20_001, ROOM);
        let text = "x".repeat(3_000);
        let mut pushed = 0;
        while open.closes("too_slow") == 0.0 {
            for class in [3, 2, 1] {
                open.router.push_room_as(1, 0, Push { room_id: ROOM, class, ..push(&text) });
                pushed += 1;
            }
            until("they are handed out", || open.house.running().account().copies == pushed || open.closes("too_slow") > 0.0);
        }
        let mut last_seq = 0;
        let mut frames = 0;
        loop {
            match slow.hear() {
                Heard::Frame(Code::Biz, body) => {
                    assert_eq!(body.data.as_deref(), Some(&*text), "{kind:?}: whole");
                    assert!(body.seq.unwrap() > last_seq, "{kind:?}: in order, none twice");
                    last_seq = body.seq.unwrap();
                    frames += 1;
                }
                Heard::Frame(Code::Kick, body) => {
                    assert_eq!(body.code, Reason::TooSlow.number(), "{kind:?}");
                    break;
                }
                other => panic!("{kind:?}: {other:?}"),
            }
        }
        slow.expect_end(number(Reason::TooSlow));
        open.assert_the_books_balance();
        let account = open.house.running().account();
        assert_eq!(account.pending, 0, "{kind:?}");
        assert_eq!(account.delivered, frames, "{kind:?}: what is booked as delivered has arrived");
        assert!(open.house.metric("gateway_frames_dropped_total", &[r#"class="ambient""#, "soft_mark"]) > 0.0, "{kind:?}");
        assert_eq!(open.house.metric("gateway_frames_dropped_total", &[r#"class="event""#, "soft_mark"]), 0.0, "{kind:?}");
    }
}

#[test]
fn whoever_logs_in_again_hears_why_the_first_connection_ends() {
    let open = Open::new();
    for (user, kind) in (20_001..).zip(Kind::ALL) {
        let mut first = open.login(kind, user);
        let mut second = open.login(kind, user);
        assert_eq!(first.expect(Code::Kick).code, Reason::DuplicateLogin.number(), "{kind:?}");
        first.expect_end(4010);
        second.beat();
    }
}

#[test]
fn a_bad_token_is_refused_by_its_number() {
    let open = Open::new();
    for kind in Kind::ALL {
        let mut peer = open.knock(kind, 20_001, "guess", Body::default());
        assert_eq!(peer.expect(Code::Error).code, Reason::BadToken.number(), "{kind:?}");
        peer.expect_end(4002);
    }
}

/// LOGIN and everything behind it in one write, and the same byte by byte.
#[test]
fn frames_behind_login_are_understood_however_they_are_cut() {
    let open = Open::new();
    for (user, kind) in (20_001..).zip(Kind::ALL) {
        for piece_bytes in [usize::MAX, 1] {
            let token = open.house.token(user, None, 300_000);
            let mut peer = if kind == Kind::WsPath { open.knock(kind, user, &token, Body::default()) } else { open.connect(kind) };
            let mut bytes = Vec::new();
            if kind != Kind::WsPath {
                bytes.extend(peer.bytes(Code::Login, &login_body(user, &token)));
            }
            bytes.extend(peer.bytes(Code::Heartbeat, &Body::default()));
            bytes.extend(peer.bytes(Code::Join, &Body { room_id: Some(ROOM), ..Body::default() }));
            for piece in bytes.chunks(piece_bytes.min(bytes.len())) {
                peer.write(piece);
            }
            peer.expect_login();
            let mut missing = vec![Code::Join, Code::Heartbeat];
            while !missing.is_empty() {
                match peer.hear() {
                    Heard::Frame(code, body) => {
                        assert!(missing.contains(&code), "{kind:?}: {code:?} {body:?}");
                        missing.retain(|one| *one != code);
                    }
                    other => panic!("{kind:?}: {other:?}"),
                }
            }
        }
    }
}
