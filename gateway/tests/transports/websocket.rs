//! WebSocket: who may open one, what may be said in it, and how it ends.

use crate::{
    client::{Heard, KEY, Kind, Open, Peer, Wire},
    house::{APP, until},
};
use billfish_gateway::GatewayConfig;
use billfish_link::message::up::Call;
use billfish_websocket::{
    Opcode, frame_into,
    handshake::{self, ResponseError},
};
use billfish_wire::{Body, Code, Encoding, Reason, frame};
use std::{
    io::{Read, Write},
    time::Duration,
};

const ROOM: i64 = 30_001;
const MASK: [u8; 4] = [9, 8, 7, 6];

/// What the gateway answers to an HTTP request: everything up to the end, or up to an upgrade.
fn asked(open: &Open, request: &[u8]) -> String {
    let mut socket = open.socket(Kind::WsText);
    socket.write_all(request).unwrap();
    let mut heard = Vec::new();
    let mut buffer = [0; 1024];
    while !heard.starts_with(b"HTTP/1.1 101") {
        match socket.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => heard.extend_from_slice(&buffer[..read]),
            // Closed with some of the request unread.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(error) => panic!("{error}"),
        }
    }
    String::from_utf8(heard).unwrap()
}

fn request(path: &str, origin: Option<&str>) -> Vec<u8> {
    let mut request = Vec::new();
    handshake::request_into(&mut request, "localhost", path, origin, &KEY).unwrap();
    request
}

fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    frame_into(&mut out, Opcode::Binary, payload, Some(MASK));
    out[0] = first;
    out
}

#[test]
fn only_pages_of_the_origins_that_are_named_may_connect() {
    let open = Open::with(|config| config.websocket.origins = vec!["https://live.example".to_owned()]);
    for (origin, status) in [
        (Some("https://live.example"), "101"),
        (Some("HTTPS://LIVE.example"), "101"),
        (None, "101"),
        (Some("https://evil.example"), "403"),
        (Some("http://live.example"), "403"),
        (Some("https://live.example.evil"), "403"),
        (Some("null"), "403"),
    ] {
        let answer = asked(&open, &request("/ws", origin));
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{origin:?}: {answer}");
    }
    let any = Open::new();
    assert!(asked(&any, &request("/ws", Some("https://evil.example"))).starts_with("HTTP/1.1 101 "));
}

/// Admission does not wait for the request; the answer to it is there all the same, with when to come back.
#[test]
fn one_connection_more_than_there_may_be_is_told_so_by_http_and_behind_tls_just_ends() {
    type Change = fn(&mut GatewayConfig);
    let no_places: Change = |config| config.admission.connections_max = 1;
    let no_places_of_its_own: Change = |config| {
        config.admission.exempt = Vec::new();
        config.admission.half_open_max = 1;
    };
    for (reason, status, change) in [("connections", 503, no_places), ("half_open", 429, no_places_of_its_own)] {
        let open = Open::with(change);
        let _silent = open.socket(Kind::Tcp);
        until("it is in", || open.house.running().account().connections == 1);
        let answer = asked(&open, &request("/ws", None));
        let refused = ResponseError::Refused { status, retry_after: Some(Duration::from_secs(5)) };
        assert_eq!(handshake::parse_response(answer.as_bytes(), &KEY), Err(refused), "{answer}");
        let mut heard = Vec::new();
        drop(open.socket(Kind::Tls).read_to_end(&mut heard));
        assert!(heard.is_empty(), "{heard:?}");
        assert_eq!(open.house.metric("gateway_admission_refused_total", &[&format!(r#"reason="{reason}""#)]), 2.0);
    }
}

#[test]
fn what_is_no_request_for_a_websocket_is_told_so_by_its_number() {
    let open = Open::new();
    let head = |first: &str, more: &str| format!("{first}\r\nHost: localhost\r\n{more}\r\n").into_bytes();
    let upgrade =
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n";
    let long = format!("{upgrade}Cookie: {}\r\n", "x".repeat(8 * 1024));
    let old = upgrade.replace("13", "8");
    for (what, bytes, status) in [
        ("another path", request("/nope", None), 404),
        ("a path with too little", request("/token/20001/1001", None), 404),
        ("a path with too much", request("/token/20001/1001/1/2", None), 404),
        ("a user that is no number", request("/token/me/1001/1", None), 404),
        ("a room that is no number", request("/token/20001/1001/x", None), 404),
        ("a token that is no text", request("/%FF/20001/0/0", None), 404),
        ("no upgrade", head("GET /ws HTTP/1.1", ""), 426),
        ("another version of WebSocket", head("GET /ws HTTP/1.1", &old), 426),
        ("POST", head("POST /ws HTTP/1.1", upgrade), 405),
        ("another version of HTTP", head("GET /ws HTTP/1.0", upgrade), 505),
        ("a head too long", head("GET /ws HTTP/1.1", &long), 431),
        ("no HTTP", b"\x16\x03\x01 hello\r\n".to_vec(), 400),
        ("a frame", frame::encode(Encoding::Json, Code::Login, &Body::default()).to_vec(), 400),
    ] {
        let answer = asked(&open, &bytes);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{what}: {answer:?}");
    }
    until("all are gone", || open.house.running().account().connections == 0);
}

#[test]
fn a_request_byte_by_byte_and_one_with_everything_behind_it_are_the_same() {
    let open = Open::new();
    for (user, (kind, piece_bytes)) in
        (20_001..).zip([Kind::WsText, Kind::WsBinary, Kind::Wss].into_iter().flat_map(|kind| [(kind, 1), (kind, 700), (kind, usize::MAX)]))
    {
        let mut peer = Peer::bare(kind, open.wire(kind, open.socket(kind)));
        let mut bytes = request("/ws?from=test", None);
        bytes.extend(peer.bytes(Code::Login, &open.login_frame(user)));
        bytes.extend(peer.bytes(Code::Heartbeat, &Body::default()));
        for piece in bytes.chunks(piece_bytes.min(bytes.len())) {
            peer.write(piece);
        }
        peer.expect_upgrade();
        peer.expect(Code::Login);
        peer.expect(Code::Heartbeat);
    }
}

#[test]
fn the_path_of_the_first_clients_is_a_login_and_enters_a_room() {
    let open = Open::new();
    let token = open.house.token(20_001, None, 300_000).replace('%', "%25");
    for kind in [Kind::WsPath, Kind::Wss] {
        let mut peer = Peer::bare(kind, open.wire(kind, open.socket(kind)));
        peer.write(&request(&format!("/{token}/20001/1001/{ROOM}"), None));
        peer.expect_upgrade();
        let shake = peer.expect(Code::WsShake);
        assert_eq!(shake.data.as_deref(), Some("true"));
        assert_eq!(peer.expect(Code::Join).room_id, Some(ROOM));
        peer.beat();
    }
    let joins = open.router.calls().iter().filter(|up| matches!(up.call, Some(Call::Join(_)))).count();
    assert_eq!(joins, 2);
}

/// Each rule of the framing by its close code. A session hears an ERROR before it.
#[test]
fn a_broken_rule_ends_it_with_the_code_of_the_rule() {
    let open = Open::with(|config| {
        config.session.bytes_burst = 10_000_000;
        config.session.frames_burst = 10_000;
    });
    let text = |bytes: &[u8]| masked(0x81, bytes);
    let mut unmasked = Vec::new();
    frame_into(&mut unmasked, Opcode::Text, b"{}", None);
    let two = frame::encode(Encoding::Json, Code::Heartbeat, &Body::default()).repeat(2);
    let protobuf = br#"{"magic":18674,"code":1004,"len":0,"body":""}"#;
    let mut flood = masked(0x01, b"{");
    flood.extend(masked(0x00, b"").repeat(128));
    let cases = [
        ("an unmasked frame", unmasked, 1002),
        ("bits that mean nothing", masked(0xC1, b"{}"), 1002),
        ("an opcode that means nothing", masked(0x83, b""), 1002),
        ("a fragment of nothing", masked(0x80, b""), 1002),
        ("a ping in fragments", masked(0x09, b""), 1002),
        ("text that is no UTF-8", text(b"\xC3("), 1007),
        ("a code that may not be sent", masked(0x88, &1005_u16.to_be_bytes()), 1002),
        ("a message above the limit", [&[0x82, 0xFF][..], &(1_u64 << 26).to_be_bytes(), &MASK].concat(), 1009),
        ("more fragments than there may be", flood, 1009),
        ("text that is no envelope", text(b"hello"), 4000),
        ("an envelope of protobuf", text(protobuf), 4000),
        ("an envelope of another magic", text(br#"{"magic":1,"code":1004,"len":0,"body":""}"#), 4000),
        ("two frames in a message", masked(0x82, &two), 4000),
        ("half a frame in a message", masked(0x82, &two[..9]), 4000),
        ("nothing in a message", masked(0x82, b""), 4000),
    ];
    for (user, (what, bytes, code)) in (20_001..).zip(cases) {
        for (shift, kind) in [(0, Kind::WsText), (100, Kind::WsBinary), (200, Kind::Wss)] {
            let mut peer = open.login(kind, user + shift);
            peer.write(&bytes);
            let reason = if code == 1009 { Reason::TooLarge } else { Reason::Malformed };
            match peer.hear() {
                Heard::Frame(Code::Error, body) => assert_eq!(body.code, reason.number(), "{what}"),
                other => panic!("{what}: {other:?}"),
            }
            peer.expect_end(code);
        }
        // A stranger hears the code alone.
        let mut stranger = open.connect(Kind::WsText);
        stranger.write(&bytes);
        stranger.expect_end(code);
    }
    assert!(open.house.metric("gateway_frame_errors_total", &[]) >= 15.0 * 4.0);
}

#[test]
fn a_head_and_a_message_are_as_long_as_is_set_and_not_longer() {
    let open = Open::with(|config| {
        config.websocket.head_bytes_max = 1_024;
        config.websocket.fragments_max = 3;
    });
    let padded = |bytes: usize| {
        let mut head = request("/ws", None);
        head.truncate(head.len() - b"\r\n".len());
        let filler = bytes - head.len() - b"X: \r\n\r\n".len();
        head.extend(format!("X: {}\r\n\r\n", "x".repeat(filler)).into_bytes());
        head
    };
    let (within, beyond) = (asked(&open, &padded(1_024)), asked(&open, &padded(1_025)));
    assert!(within.starts_with("HTTP/1.1 101 "), "{within}");
    assert!(beyond.starts_with("HTTP/1.1 431 ") && beyond.contains("more than 1024 bytes"), "{beyond}");
    let mut sealed = Peer::bare(Kind::Wss, open.wire(Kind::Wss, open.socket(Kind::Wss)));
    sealed.write(&padded(1_024));
    sealed.expect_upgrade();

    let beat = frame::encode(Encoding::Json, Code::Heartbeat, &Body::default());
    let mut peer = open.login(Kind::WsBinary, 20_001);
    peer.write(&[masked(0x02, &beat[..3]), masked(0x00, &beat[3..5]), masked(0x80, &beat[5..])].concat());
    peer.expect(Code::Heartbeat);
    peer.write(&[masked(0x02, &beat[..3]), masked(0x00, &beat[3..5]), masked(0x00, &beat[5..7]), masked(0x80, &beat[7..])].concat());
    assert_eq!(peer.expect(Code::Error).code, Reason::TooLarge.number());
    peer.expect_end(1009);
    assert_eq!(open.closes("too_large"), 1.0);
}

/// A message of 64 KiB within its envelope is read, and the header of a larger one refuses it before it has come.
#[test]
fn before_login_a_message_is_as_small_as_a_login() {
    let open = Open::new();
    let mut stranger = open.connect(Kind::WsText);
    stranger.write(&[&[0x81, 0xFE][..], &60_000_u16.to_be_bytes(), &MASK].concat());
    stranger.expect_end(1009);
    assert_eq!(open.closes("too_large"), 1.0);
}

#[test]
fn pings_are_answered_once_a_read_and_count_as_frames() {
    let open = Open::with(|config| {
        config.session.frames_per_s = 1;
        config.session.frames_burst = 20;
        config.session.refused_in_a_row_max = 5;
    });
    let mut peer = open.login(Kind::WsText, 20_001);
    peer.control(Opcode::Ping, b"one");
    assert_eq!(peer.hear(), Heard::Pong(b"one".to_vec()));
    let mut three = Vec::new();
    for payload in [&b"two"[..], b"three", b"four"] {
        frame_into(&mut three, Opcode::Ping, payload, Some(MASK));
    }
    peer.write(&three);
    // Read in one piece nearly always, and then the last one is answered for all.
    let pongs: Vec<Heard> = std::iter::from_fn(|| {
        let heard = peer.hear();
        let is_last = heard == Heard::Pong(b"four".to_vec());
        (!is_last).then_some(heard)
    })
    .collect();
    assert!(pongs.len() <= 2, "{pongs:?}");
    // A pong that nobody asked for is a frame as well.
    peer.control(Opcode::Pong, b"");
    peer.beat();
    let mut flood = Vec::new();
    for _ in 0..40 {
        frame_into(&mut flood, Opcode::Ping, b"", Some(MASK));
    }
    peer.write(&flood);
    let heard = peer.hear_all();
    assert!(heard.iter().any(|one| matches!(one, Heard::Close(Some(4007), _))), "{heard:?}");
    assert_eq!(open.closes("rate_limited"), 1.0);
}

#[test]
fn a_close_is_answered_by_the_same_code_and_without_one_by_none() {
    let open = Open::new();
    for kind in [Kind::WsText, Kind::WsBinary, Kind::WsPath, Kind::Wss] {
        for code in [1000, 1001, 1011, 3000, 4999] {
            let mut peer = open.login(kind, 20_001);
            peer.close(code);
            assert_eq!(peer.hear_all(), [Heard::Close(Some(code), String::new()), Heard::End], "{kind:?} {code}");
        }
        let mut peer = open.login(kind, 20_001);
        peer.control(Opcode::Close, b"");
        assert_eq!(peer.hear_all(), [Heard::Close(None, String::new()), Heard::End], "{kind:?}");
        let mut stranger = open.connect(kind);
        stranger.close(1000);
        assert_eq!(stranger.hear_all(), [Heard::Close(Some(1000), String::new()), Heard::End], "{kind:?}");
    }
    until("all are gone", || open.house.running().account().connections == 0);
    assert_eq!(open.closes("peer_closed"), open.house.metric("gateway_closes_total", &[]));
}

/// RFC 6455, section 5.5.1: no frame may follow a Close. What came before it is answered before it.
#[test]
fn what_came_before_a_close_is_answered_before_it() {
    let open = Open::new();
    for (user, kind) in [(20_001, Kind::WsText), (20_002, Kind::WsBinary), (20_003, Kind::Wss)] {
        let mut peer = open.login(kind, user);
        let mut bytes = peer.bytes(Code::Heartbeat, &Body::default());
        frame_into(&mut bytes, Opcode::Ping, b"p", Some(MASK));
        frame_into(&mut bytes, Opcode::Close, &1000_u16.to_be_bytes(), Some(MASK));
        // Behind it nothing is read.
        bytes.extend(peer.bytes(Code::Heartbeat, &Body::default()));
        peer.write(&bytes);
        let heard = peer.hear_all();
        assert_eq!(heard.len(), 4, "{kind:?}: {heard:?}");
        assert!(heard.contains(&Heard::Pong(b"p".to_vec())), "{kind:?}");
        assert!(heard.iter().any(|one| matches!(one, Heard::Frame(Code::Heartbeat, _))), "{kind:?}");
        assert_eq!(heard[2..], [Heard::Close(Some(1000), String::new()), Heard::End], "{kind:?}");
    }
}

/// What the first message is, the answers are, whatever comes later.
#[test]
fn a_text_session_stays_text_and_a_binary_one_binary() {
    let open = Open::new();
    let bare = frame::encode(Encoding::Json, Code::Heartbeat, &Body::default());
    for (user, kind, other) in
        [(20_001, Kind::WsText, Kind::WsBinary), (20_002, Kind::WsBinary, Kind::WsText), (20_003, Kind::WsPath, Kind::WsBinary)]
    {
        let mut peer = open.login(kind, user);
        let foreign = Peer::bare(other, Wire::Plain(open.socket(Kind::Tcp))).message(&bare);
        peer.write(&foreign);
        // The client panics at a message of the other kind.
        peer.expect(Code::Heartbeat);
    }
}

#[test]
fn protobuf_in_messages_is_answered_in_protobuf() {
    let open = Open::new();
    let mut peer = open.connect(Kind::WsBinary);
    let login = Body { app_id: Some(APP), ..open.login_frame(20_001) };
    let message = peer.message(&frame::encode(Encoding::Protobuf, Code::Login, &login));
    peer.write(&message);
    assert_eq!(peer.expect(Code::Login).data.as_deref(), Some("true"));
    open.router.push_users(&[20_001], crate::house::push("hello"));
    assert_eq!(peer.expect(Code::Biz).data.as_deref(), Some("hello"));
}

/// A message in fragments with controls between them, in reads of any size.
#[test]
fn fragments_with_controls_between_them_are_one_message() {
    let open = Open::new();
    let mut peer = open.login(Kind::WsBinary, 20_001);
    let bare = frame::encode(Encoding::Json, Code::Heartbeat, &Body::default());
    let mut bytes = masked(0x02, &bare[..4]);
    frame_into(&mut bytes, Opcode::Ping, b"between", Some(MASK));
    bytes.extend(masked(0x00, &bare[4..6]));
    bytes.extend(masked(0x80, &bare[6..]));
    for piece_bytes in [bytes.len(), 1, 5] {
        for piece in bytes.chunks(piece_bytes) {
            peer.write(piece);
        }
        assert_eq!(peer.hear(), Heard::Pong(b"between".to_vec()));
        peer.expect(Code::Heartbeat);
    }
}
