//! Relays: who they say is there, is.

use crate::{
    client::{Kind, Open, Peer, Wire, patient},
    house::until,
};
use billfish_gateway::GatewayConfig;
use billfish_wire::{Body, Code, Reason};
use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    time::Duration,
};

/// The one address that is trusted.
const RELAY: &str = "127.0.0.2";

fn trusting(change: impl FnOnce(&mut GatewayConfig)) -> Open {
    Open::with(|config| {
        config.proxy.trusted = vec![format!("{RELAY}/32").parse().unwrap()];
        change(config);
    })
}

/// A socket that comes from an address of this machine.
fn socket_from(open: &Open, kind: Kind, address: &str) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(address.parse().unwrap(), 0).into()).unwrap();
    socket.connect(&open.address(kind).into()).unwrap();
    patient(socket.into())
}

fn header(client: &str) -> Vec<u8> {
    let mut out = b"\r\n\r\n\0\r\nQUIT\n\x21".to_vec();
    match client.parse().unwrap() {
        IpAddr::V4(client) => {
            out.extend([0x11, 0, 12]);
            out.extend(client.octets());
            out.extend([10, 0, 0, 1]);
        }
        IpAddr::V6(client) => {
            out.extend([0x21, 0, 36]);
            out.extend(client.octets());
            out.extend([0xfd; 16]);
        }
    }
    out.extend([0x30, 0x39, 0x1f, 0x95]);
    out
}

const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

fn introduced(open: &Open, kind: Kind, client: &str) -> TcpStream {
    let mut socket = socket_from(open, kind, RELAY);
    socket.write_all(&header(client)).unwrap();
    socket
}

fn refused(open: &Open, reason: &str) -> f64 {
    open.house.metric("gateway_admission_refused_total", &[&format!(r#"reason="{reason}""#)])
}

#[test]
fn through_a_relay_every_transport_is_as_without() {
    let open = trusting(|_| {});
    for (user, kind) in (20_001..).zip(Kind::ALL) {
        open.login_over(kind, introduced(&open, kind, "192.0.2.1"), user).beat();
        open.login_over(kind, introduced(&open, kind, "2001:db8::1"), user).beat();
        // Byte by byte.
        let mut socket = socket_from(&open, kind, RELAY);
        for byte in header("192.0.2.1") {
            socket.write_all(&[byte]).unwrap();
        }
        open.login_over(kind, socket, user).beat();
        // Nobody is behind it: a check of the relay's own.
        let mut socket = socket_from(&open, kind, RELAY);
        socket.write_all(LOCAL).unwrap();
        open.login_over(kind, socket, user).beat();
    }
    // Header, LOGIN and what follows in one segment.
    let mut peer = Peer::bare(Kind::Tcp, Wire::Plain(socket_from(&open, Kind::Tcp, RELAY)));
    let mut bytes = header("192.0.2.1");
    bytes.extend(peer.bytes(Code::Login, &open.login_frame(20_100)));
    bytes.extend(peer.bytes(Code::Heartbeat, &Body::default()));
    peer.write(&bytes);
    peer.expect(Code::Login);
    peer.expect(Code::Heartbeat);
}

/// The address in the header is the one that is limited and banned; others behind the same relay do not notice.
#[test]
fn bans_and_limits_are_the_clients_own() {
    let open = trusting(|config| {
        config.admission.bad_tokens_max = 2;
        config.admission.half_open_max = 3;
    });
    for _ in 0..2 {
        let mut peer = open.knock_over(Kind::Tcp, introduced(&open, Kind::Tcp, "192.0.2.66"), 20_001, "guess", Body::default());
        assert_eq!(peer.expect(Code::Error).code, Reason::BadToken.number());
    }
    for kind in Kind::ALL {
        let mut socket = introduced(&open, kind, "192.0.2.66");
        let mut heard = Vec::new();
        drop(socket.read_to_end(&mut heard));
        match kind.door() {
            "tcp" => assert!(!heard.is_empty(), "an ERROR"),
            "ws" => assert!(heard.starts_with(b"HTTP/1.1 429 Too Many Requests\r\n"), "{kind:?}: {heard:?}"),
            _ => assert!(heard.is_empty(), "{kind:?}: no handshake is made for it"),
        }
    }
    let error = Peer::bare(Kind::Tcp, Wire::Plain(introduced(&open, Kind::Tcp, "192.0.2.66"))).expect(Code::Error);
    assert_eq!(error.code, Reason::RateLimited.number());
    assert!(error.retry_after_ms.is_some_and(|ms| (500_000..=600_000).contains(&ms)), "what is left of the ban: {error:?}");
    assert_eq!(refused(&open, "banned"), (Kind::ALL.len() + 1) as f64);
    open.login_over(Kind::Wss, introduced(&open, Kind::Wss, "192.0.2.67"), 20_002).beat();

    // Three that say nothing, and one more is one too many. The relay itself may have any number.
    let silent: Vec<TcpStream> = (0..3).map(|_| introduced(&open, Kind::Tcp, "192.0.2.68")).collect();
    let unnamed: Vec<TcpStream> = (0..20).map(|_| socket_from(&open, Kind::Tcp, RELAY)).collect();
    until("they are in", || open.house.running().account().connections >= 23);
    let mut fourth = Peer::bare(Kind::Tcp, Wire::Plain(introduced(&open, Kind::Tcp, "192.0.2.68")));
    let error = fourth.expect(Code::Error);
    assert_eq!((error.code, error.retry_after_ms), (Reason::RateLimited.number(), Some(5_000)));
    assert_eq!(refused(&open, "half_open"), 1.0);
    drop((silent, unnamed, fourth));
    until("all are gone", || open.house.running().account().connections == 0);
    let again: Vec<TcpStream> = (0..3).map(|_| introduced(&open, Kind::Tcp, "192.0.2.68")).collect();
    until("there is room again", || open.house.running().account().connections == 3);
    drop(again);
}

#[test]
fn a_relay_that_says_nothing_of_its_client_is_not_believed() {
    let open = trusting(|_| {});
    for (what, bytes) in [
        ("a frame", Peer::bare(Kind::Tcp, Wire::Plain(open.socket(Kind::Tcp))).bytes(Code::Login, &open.login_frame(20_001))),
        ("version 1", b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n".to_vec()),
        ("HTTP", b"GET /ws HTTP/1.1\r\n\r\n".to_vec()),
        ("unspecified", b"\r\n\r\n\0\r\nQUIT\n\x21\0\0\0".to_vec()),
        ("a header of 60 KiB", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xF0\0".to_vec()),
    ] {
        for kind in [Kind::Tcp, Kind::WsText, Kind::Tls] {
            let mut socket = socket_from(&open, kind, RELAY);
            socket.write_all(&bytes).unwrap();
            let mut heard = Vec::new();
            drop(socket.read_to_end(&mut heard));
            assert!(heard.is_empty(), "{what} {kind:?}: {heard:?}");
        }
    }
    assert_eq!(open.closes("malformed"), 15.0);
    until("no listener counts them any more", || open.house.metric("gateway_listener_connections", &[]) == 0.0);
}

#[test]
fn a_header_is_as_long_as_is_set_and_not_longer() {
    let open = trusting(|config| config.proxy.header_bytes_max = 100);
    let long = |bytes: usize| {
        let mut header = header("192.0.2.1");
        header.resize(bytes, 0);
        header[14..16].copy_from_slice(&u16::try_from(bytes - 16).unwrap().to_be_bytes());
        header
    };
    for (user, kind) in (20_001..).zip(Kind::ALL) {
        let mut socket = socket_from(&open, kind, RELAY);
        socket.write_all(&long(100)).unwrap();
        open.login_over(kind, socket, user).beat();
        let mut socket = socket_from(&open, kind, RELAY);
        socket.write_all(&long(101)).unwrap();
        let mut heard = Vec::new();
        drop(socket.read_to_end(&mut heard));
        assert!(heard.is_empty(), "{kind:?}: {heard:?}");
    }
    assert_eq!(open.closes("malformed"), Kind::ALL.len() as f64);
}

#[test]
fn a_header_from_anybody_else_is_garbage() {
    let open = trusting(|_| {});
    for kind in [Kind::Tcp, Kind::WsText, Kind::Tls] {
        let mut socket = socket_from(&open, kind, "127.0.0.3");
        socket.write_all(&header("192.0.2.1")).unwrap();
        let mut heard = Vec::new();
        drop(socket.read_to_end(&mut heard));
        assert!(!heard.starts_with(b"\x48\xF1"), "{kind:?}");
    }
    until("all are gone", || open.house.running().account().connections == 0);
}

#[test]
fn a_header_that_does_not_end_has_the_deadline_of_a_login() {
    let open = trusting(|config| config.session.login_timeout = Duration::from_millis(300));
    for kind in [Kind::Tcp, Kind::WsText, Kind::Tls] {
        let mut socket = socket_from(&open, kind, RELAY);
        socket.write_all(&header("192.0.2.1")[..27]).unwrap();
        let mut heard = Vec::new();
        drop(socket.read_to_end(&mut heard));
    }
    assert_eq!(open.closes("login_timeout"), 3.0);
}
