//! TLS: what it is made of, whose certificate it shows, and what a peer may do with its records.

use crate::{
    client::{Heard, Kind, Open, Peer, Wire, patient},
    house::{push, until},
};
use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use billfish_link::message::Push;
use billfish_wire::{Body, Code, Encoding, frame};
use rustls::{
    ClientConfig, ClientConnection, ConnectionTrafficSecrets,
    crypto::aws_lc_rs::{cipher_suite, default_provider},
    pki_types::{CertificateDer, ServerName},
    version::{TLS12, TLS13},
};
use serde_json::json;
use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::Arc,
    time::{Duration, Instant},
};

const ROOM: i64 = 30_001;

fn handshakes(open: &Open, result: &str) -> f64 {
    open.house.metric("gateway_tls_handshakes_total", &[&format!(r#"result="{result}""#)])
}

fn reloads(open: &Open, result: &str) -> f64 {
    open.house.metric("gateway_certificate_reloads_total", &[&format!(r#"result="{result}""#)])
}

/// The certificate that is shown to who asks for a name.
fn shown_to(open: &Open, config: ClientConfig, name: &'static str) -> Result<CertificateDer<'static>, std::io::Error> {
    let mut socket = open.socket(Kind::Tls);
    let mut session = ClientConnection::new(Arc::new(config), ServerName::try_from(name).unwrap()).unwrap();
    while session.is_handshaking() {
        session.complete_io(&mut socket)?;
    }
    Ok(session.peer_certificates().unwrap()[0].clone().into_owned())
}

#[test]
fn both_versions_are_spoken_and_a_second_handshake_is_shortened() {
    let open = Open::new();
    for (round, version) in [&TLS13, &TLS12].into_iter().enumerate() {
        let config = Arc::new(open.authority.client(&[version]));
        for (nth, kind) in [rustls::HandshakeKind::Full, rustls::HandshakeKind::Resumed].into_iter().enumerate() {
            let mut wire = Wire::sealed(open.socket(Kind::Tls), &config, "localhost");
            assert_eq!(wire.session().protocol_version(), Some(version.version));
            assert_eq!(wire.session().handshake_kind(), Some(kind));
            let mut peer = Peer::bare(Kind::Tls, wire);
            peer.send(Code::Login, &open.login_frame(20_001 + (2 * round + nth) as i64));
            // The ticket comes before it.
            peer.expect(Code::Login);
        }
    }
    assert_eq!((handshakes(&open, "full"), handshakes(&open, "resumed"), handshakes(&open, "failed")), (2.0, 2.0, 0.0));
}

/// What comes before the handshake has ended could be sent again by anybody who saw it; a LOGIN must not be.
#[test]
fn early_data_is_not_taken() {
    let open = Open::new();
    let mut config = open.authority.client(&[&TLS13]);
    config.enable_early_data = true;
    let config = Arc::new(config);
    let mut peer = Peer::bare(Kind::Tls, Wire::sealed(open.socket(Kind::Tls), &config, "localhost"));
    peer.send(Code::Login, &open.login_frame(20_001));
    peer.expect(Code::Login);
    let mut second = ClientConnection::new(config, ServerName::try_from("localhost").unwrap()).unwrap();
    assert!(second.early_data().is_none(), "the ticket allows none");
}

#[test]
fn the_certificate_is_the_one_of_the_name_that_is_asked_for() {
    let authority = crate::authority::Authority::new();
    let first = authority.write("a", &["localhost", "127.0.0.1"]);
    let second = authority.write("b", &["live.example", "*.rooms.example"]);
    let file =
        |name: &str| serde_json::from_value(json!({"certificate": authority.certificate(name), "key": authority.key(name)})).unwrap();
    let open = Open::with(|config| config.tls.certificates = vec![file("a"), file("b")]);
    let ask = |name| shown_to(&open, authority.client(rustls::ALL_VERSIONS), name);
    for (name, expected) in [
        ("localhost", &first),
        ("live.example", &second),
        ("LIVE.example", &second),
        ("pk.rooms.example", &second),
        // Names nobody.
        ("127.0.0.1", &first),
    ] {
        assert_eq!(&ask(name).unwrap(), expected, "{name}");
    }
    // A wildcard is one label; who asks for a stranger is shown the first, and does not believe it.
    for name in ["rooms.example", "a.pk.rooms.example", "other.example"] {
        let error = ask(name).unwrap_err();
        assert!(error.to_string().contains("not valid for"), "{name}: {error}");
    }
}

#[test]
fn a_certificate_that_is_written_anew_is_shown_to_newcomers_and_a_broken_one_to_nobody() {
    let open = Open::new();
    let mut early = open.login(Kind::Tls, 20_001);
    let ask = || shown_to(&open, open.authority.client(&[&TLS13]), "localhost").unwrap();
    let before = ask();
    let after = open.authority.write("first", &["localhost"]);
    until("it is read", || reloads(&open, "ok") >= 1.0 && ask() == after);
    assert_ne!(before, after);
    early.beat();

    let failed = reloads(&open, "failed");
    std::fs::write(open.authority.certificate("first"), "no certificate").unwrap();
    until("it is found to be broken", || reloads(&open, "failed") > failed);
    assert_eq!(ask(), after);
    early.beat();

    let last = open.authority.write("first", &["localhost"]);
    until("it is mended", || ask() == last);
}

/// Pushes of several records each, to a reader whose socket takes a part of one now and then.
#[test]
fn nothing_is_lost_or_doubled_when_the_socket_takes_a_part_of_a_record() {
    let open = Open::new();
    let mut peer = open.join_over(Kind::Tls, open.narrow_socket(Kind::Tls), 20_001, ROOM);
    let text = |at: usize| format!("{at}-{}", "x".repeat(39_000 + at * 997));
    let pending = || open.house.running().account().pending;
    for round in 0..5 {
        for at in 0..5 {
            open.router.push_room_as(1, 0, Push { room_id: ROOM, class: 1, ..push(&text(at)) });
        }
        until("some of it waits", || pending() > 0);
        for at in 0..5 {
            assert_eq!(peer.expect(Code::Biz).data, Some(text(at)), "round {round}");
        }
        until("nothing waits", || pending() == 0);
    }
    peer.beat();
    open.assert_the_books_balance();
    assert_eq!(open.house.running().account().delivered, 25);
}

#[test]
fn a_client_may_change_its_keys_at_any_time() {
    let open = Open::new();
    let mut peer = open.join(Kind::Tls, 20_001, ROOM);
    for round in 0..20 {
        peer.wire.session().refresh_traffic_keys().unwrap();
        peer.beat();
        open.router.push_room(ROOM, &format!("round {round}"));
        assert_eq!(peer.expect(Code::Biz).data, Some(format!("round {round}")));
    }
}

/// The beginning of a handshake message is in when a push goes out: what has begun must be there while records are made.
#[test]
fn a_push_goes_out_while_half_a_key_update_is_in() {
    let open = Open::new();
    let mut provider = default_provider();
    provider.cipher_suites = vec![cipher_suite::TLS13_AES_128_GCM_SHA256];
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_root_certificates(open.authority.roots())
        .with_no_client_auth();
    config.enable_secret_extraction = true;
    let mut socket = open.socket(Kind::Tls);
    let mut session = ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").unwrap()).unwrap();
    while session.is_handshaking() {
        session.complete_io(&mut socket).unwrap();
    }
    let (first, secrets) = session.dangerous_extract_secrets().unwrap().tx;
    let ConnectionTrafficSecrets::Aes128Gcm { key, iv } = secrets else { panic!("another suite") };
    let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, key.as_ref()).unwrap());
    let mut number = first;
    let mut record = |kind: u8, content: &[u8]| {
        let mut nonce: [u8; 12] = iv.as_ref().try_into().unwrap();
        for (byte, count) in nonce[4..].iter_mut().zip(u64::to_be_bytes(number)) {
            *byte ^= count;
        }
        number += 1;
        let length = u16::try_from(content.len() + 1 + 16).unwrap().to_be_bytes();
        let header = [0x17, 3, 3, length[0], length[1]];
        let mut sealed = [content, &[kind]].concat();
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(header), &mut sealed).unwrap();
        [&header[..], &sealed].concat()
    };
    const HANDSHAKE: u8 = 22;
    const APPLICATION_DATA: u8 = 23;
    let login = frame::encode(Encoding::Json, Code::Login, &open.login_frame(20_001));
    socket.write_all(&record(APPLICATION_DATA, &login)).unwrap();
    until("it is in", || open.house.running().account().sessions == 1);
    let read_in = open.house.metric("gateway_bytes_total", &[r#"direction="in""#]);
    socket.write_all(&record(HANDSHAKE, &[24, 0, 0])).unwrap();
    until("half of it is read", || open.house.metric("gateway_bytes_total", &[r#"direction="in""#]) > read_in);
    let delivered = || open.house.running().account().delivered;
    for _ in 0..3 {
        let before = delivered();
        open.router.push_users(&[20_001], push("hello"));
        until("it is written", || delivered() > before);
    }
    // The other half, and the keys change: what goes out then is made with new ones, which is not this test's to read.
    socket.write_all(&record(HANDSHAKE, &[1, 1])).unwrap();
    let before = delivered();
    open.router.push_users(&[20_001], push("hello"));
    until("it is written", || delivered() > before);
    open.login(Kind::Tls, 20_002).beat();
    assert_eq!(handshakes(&open, "failed"), 0.0);
}

#[test]
fn whoever_says_that_it_ends_hears_the_same() {
    let open = Open::new();
    for version in [&TLS12, &TLS13] {
        let config = Arc::new(open.authority.client(&[version]));
        let mut peer = Peer::bare(Kind::Tls, Wire::sealed(open.socket(Kind::Tls), &config, "localhost"));
        peer.send(Code::Login, &open.login_frame(20_001));
        peer.expect(Code::Login);
        peer.wire.session().send_close_notify();
        peer.wire.flush().unwrap();
        assert_eq!(peer.hear(), Heard::End);
    }
    until("both are gone", || open.house.running().account().connections == 0);
    assert_eq!(open.closes("peer_closed"), 2.0);
}

#[test]
fn what_is_no_tls_ends_and_nobody_else_notices() {
    let open = Open::new();
    let mut bystander = open.login(Kind::Tls, 20_001);
    // A handshake message of 60,000 bytes, of which two records come.
    let endless = [&[0x16, 3, 1, 0x40, 0, 1, 0, 0xEA, 0x60][..], &[0; 16 * 1024 - 4], &[0x16, 3, 1, 0x40, 0], &[0; 16 * 1024]].concat();
    let cases = [
        ("a hello that goes on and on", endless),
        ("a plain frame", frame::encode(Encoding::Json, Code::Login, &open.login_frame(20_002)).to_vec()),
        ("HTTP", b"GET /ws HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec()),
        ("zeros", vec![0; 4_096]),
        ("a record of a type that there is not", vec![0x63, 3, 3, 0, 1, 0]),
        ("a record too long", [&[0x16, 3, 3, 0xFF, 0xFF][..], &[0; 64]].concat()),
        ("an alert first", vec![0x15, 3, 3, 0, 2, 2, 40]),
        ("application data first", vec![0x17, 3, 3, 0, 1, 0]),
        ("a hello of nothing", vec![0x16, 3, 1, 0, 4, 1, 0, 0, 0]),
    ];
    let count = cases.len() as f64;
    for (what, bytes) in cases {
        let mut socket = open.socket(Kind::Tls);
        // It may be ended before all of it is said.
        drop(socket.write_all(&bytes));
        let mut heard = Vec::new();
        // An alert, if anything; a reset is as good.
        drop(socket.read_to_end(&mut heard));
        assert!(heard.is_empty() || heard[0] == 0x15, "{what}: {heard:?}");
    }
    until("all are counted", || handshakes(&open, "failed") == count);
    until("the listener counts the bystander alone", || open.house.metric("gateway_listener_connections", &[r#"listener="tls""#]) == 1.0);
    bystander.beat();
}

/// A record that was changed on the way ends the connection: nothing of it is believed.
#[test]
fn a_record_that_was_tampered_with_ends_the_connection() {
    let open = Open::new();
    let mut peer = open.login(Kind::Tls, 20_001);
    let socket: &TcpStream = peer.wire.socket();
    let mut socket = socket.try_clone().unwrap();
    socket.write_all(&[&[0x17, 3, 3, 0, 32][..], &[7; 32]].concat()).unwrap();
    let heard = peer.hear_all();
    assert!(matches!(heard.as_slice(), [Heard::Broken | Heard::End]) || heard.len() <= 2, "{heard:?}");
    until("it is gone", || open.house.running().account().connections == 0);
    assert_eq!(handshakes(&open, "failed"), 1.0);
}

/// Else a port that is full would keep those from their handshakes who come by QUIC.
#[test]
fn who_is_turned_away_from_a_full_port_takes_no_handshake_from_others() {
    let open = Open::with(|config| {
        config.tls.handshakes_per_s = 2;
        config.admission.listener_max.tls = 1;
    });
    let mut first = open.login(Kind::Tls, 20_001);
    for _ in 0..20 {
        // An end or a reset, and not a word.
        assert!(matches!(open.socket(Kind::Tls).read(&mut [0]), Ok(0) | Err(_)));
    }
    assert_eq!(open.house.metric("gateway_listener_refused_total", &[r#"listener="tls""#]), 20.0);
    assert_eq!(open.house.metric("gateway_tls_pauses_total", &[]), 0.0);
    first.beat();
}

/// A second has two: the third waits, and is not refused.
#[test]
fn one_handshake_more_than_a_second_has_waits_and_is_not_refused() {
    let open = Open::with(|config| {
        // Two shards listen, and share it.
        config.shards = 2;
        config.tls.handshakes_per_s = 2;
    });
    let began = Instant::now();
    let sockets: Vec<TcpStream> = (0..3).map(|_| open.socket(Kind::Tls)).collect();
    until("the first two are in, and the third waits", || {
        open.house.running().account().connections >= 2 && open.house.metric("gateway_tls_pauses_total", &[]) >= 1.0
    });
    for (user, socket) in (20_001..).zip(sockets) {
        let mut peer = open.login_over(Kind::Tls, patient(socket), user);
        peer.beat();
    }
    assert!(began.elapsed() >= Duration::from_millis(400), "the third came after half a second: {:?}", began.elapsed());
    assert_eq!(open.house.metric("gateway_admission_refused_total", &[]), 0.0);
    assert_eq!(handshakes(&open, "full") + handshakes(&open, "resumed"), 3.0);
    // Plain connections do not wait for them.
    open.login(Kind::Tcp, 20_009).send(Code::Heartbeat, &Body::default());
}
