//! Who is let in, and who is not.

use super::client::{ALPN, QuicHouse, patiently, timed};
use crate::house::{login_body, until};
use billfish_testing::Certificates;
use billfish_wire::{Body, Code, Encoding, HEADER_BYTES, frame};
use quinn::{ConnectionError, TransportConfig};
use std::{
    net::{TcpStream, UdpSocket},
    time::Duration,
};

/// How every frame begins.
const MAGIC: u16 = 18673;

/// First packets of so many clients, each another one.
fn first_packets(house: &QuicHouse, count: usize) -> Vec<Vec<u8>> {
    let sink = UdpSocket::bind("127.0.0.1:0").unwrap();
    sink.set_read_timeout(Some(crate::house::PATIENCE)).unwrap();
    let mut packets: Vec<Vec<u8>> = Vec::new();
    let endpoint = house.endpoint(house.client_config(&[ALPN], TransportConfig::default()));
    let mut buffer = [0; 2048];
    // Kept to the end: who gives up says so.
    let mut connecting = Vec::new();
    while packets.len() < count {
        {
            let _in_runtime = house.house.runtime.enter();
            connecting.push(endpoint.connect(sink.local_addr().unwrap(), "localhost").unwrap());
        }
        let (read, _) = sink.recv_from(&mut buffer).unwrap();
        let packet = buffer[..read].to_vec();
        // The connection id, so that none is a repetition.
        if !packets.iter().any(|known| known[6..14] == packet[6..14]) {
            packets.push(packet);
        }
    }
    packets
}

fn incoming(house: &QuicHouse, then: &str) -> f64 {
    house.house.metric("gateway_quic_incoming_total", &[&format!(r#"then="{then}""#)])
}

#[test]
fn addresses_are_proven_when_many_are_on_their_way_and_the_silent_ones_are_cut() {
    let house = QuicHouse::with(|config| {
        config.quic.retry_above = 8;
        config.session.login_timeout = Duration::from_millis(1_500);
    });
    let packets = first_packets(&house, 40);
    let flood = UdpSocket::bind("127.0.0.1:0").unwrap();
    for packet in &packets {
        flood.send_to(packet, house.address()).unwrap();
    }
    until("all have been looked at", || incoming(&house, "accepted") + incoming(&house, "retried") == 40.0);
    assert_eq!((incoming(&house, "accepted"), incoming(&house, "retried")), (8.0, 32.0));
    // Who is there comes in meanwhile, one round trip later.
    house.log_in(20_001).beat();
    assert!(incoming(&house, "retried") >= 33.0 || house.house.metric("gateway_quic_handshaking", &[]) < 8.0);
    until("they are cut", || house.house.metric("gateway_quic_handshakes_total", &[r#"result="timed_out""#]) == 8.0);
    until("nothing is left of them", || house.house.metric("gateway_quic_handshaking", &[]) == 0.0);
}

#[test]
fn everyone_proves_his_address_where_that_is_wanted() {
    let house = QuicHouse::with(|config| config.quic.retry_above = 0);
    house.log_in(20_001).beat();
    assert_eq!((incoming(&house, "retried"), incoming(&house, "accepted")), (1.0, 1.0));
}

#[test]
fn too_many_on_their_way_are_refused() {
    let house = QuicHouse::with(|config| (config.quic.retry_above, config.quic.handshakes_max) = (4, 4));
    let flood = UdpSocket::bind("127.0.0.1:0").unwrap();
    for packet in first_packets(&house, 4) {
        flood.send_to(&packet, house.address()).unwrap();
    }
    until("they are on their way", || incoming(&house, "accepted") == 4.0);
    let refused = house.reach(house.client_config(&[ALPN], TransportConfig::default()), house.address());
    assert!(matches!(refused.map(|_| ()), Err(ConnectionError::ConnectionClosed(_))));
    assert_eq!(incoming(&house, "refused"), 1.0);
}

#[test]
fn handshakes_beyond_the_allowance_wait() {
    let house = QuicHouse::with(|config| config.tls.handshakes_per_s = 5);
    let ((), took) = timed(|| (0..8).for_each(|user| drop(house.log_in(20_001 + user))));
    assert!(took >= Duration::from_millis(500), "{took:?}");
    assert!(incoming(&house, "delayed") > 0.0);
}

/// The one handshake of this second is TLS'. By an allowance of its own the one that comes by QUIC would never wait.
#[test]
fn tls_and_quic_have_one_allowance() {
    let has_waited = |_| {
        let house = QuicHouse::with(|config| {
            config.listen.tls = Some("127.0.0.1:0".parse().unwrap());
            config.tls.handshakes_per_s = 1;
        });
        let _begun = TcpStream::connect(house.house.running().bound()["tls"]).unwrap();
        until("it is in", || house.house.running().account().connections == 1);
        house.log_in(20_001).beat();
        incoming(&house, "delayed") > 0.0
    };
    // On a machine that is very busy the second may be over before the client has come.
    assert!((0..10).any(has_waited));
}

#[test]
fn the_protocol_must_be_named() {
    let house = QuicHouse::new();
    for protocols in [vec![], vec![&b"h3"[..]]] {
        let refused = house.reach(house.client_config(&protocols, TransportConfig::default()), house.address());
        // Alert 120, no_application_protocol.
        assert!(matches!(&refused, Err(ConnectionError::ConnectionClosed(close)) if u64::from(close.error_code) == 0x178), "{refused:?}");
    }
    until("both are counted", || house.house.metric("gateway_quic_handshakes_total", &[r#"result="failed""#]) == 2.0);
    house.log_in(20_001);
}

/// Whoever believes one of the two does not believe the other.
#[test]
fn a_certificate_that_is_written_anew_is_shown_to_newcomers() {
    let house = QuicHouse::new();
    let mut early = house.log_in(20_001);
    let new = Certificates::new();
    let believes_new = || {
        let config = QuicHouse::client_config_for(&new, &[ALPN], TransportConfig::default());
        house.reach(config, house.address()).map(|_| ())
    };
    assert!(matches!(believes_new(), Err(ConnectionError::TransportError(_))));
    for (from, to) in [(new.key(), house.certificates.key()), (new.certificate(), house.certificates.certificate())] {
        std::fs::copy(from, to).unwrap();
    }
    until("the new one is shown", || believes_new().is_ok());
    let believes_old = house.reach(house.client_config(&[ALPN], TransportConfig::default()), house.address());
    assert!(matches!(believes_old.map(|_| ()), Err(ConnectionError::TransportError(_))));
    early.beat();
}

/// A client that comes back may shorten its handshake, and can put nothing before its end: a LOGIN there could be repeated by others.
#[test]
fn a_ticket_allows_no_early_data() {
    let house = QuicHouse::new();
    let endpoint = house.endpoint(house.client_config(&[ALPN], TransportConfig::default()));
    house.house.runtime.block_on(async {
        let connect = || endpoint.connect(house.address(), "localhost").unwrap();
        let connection = patiently(connect()).await.unwrap();
        let (mut up, mut down) = connection.open_bi().await.unwrap();
        up.write_all(&frame::encode(Encoding::Json, Code::Heartbeat, &Body::default())).await.unwrap();
        // The ticket comes before the answer.
        patiently(down.read_to_end(4_096)).await.unwrap();
        let Err(connecting) = connect().into_0rtt() else { panic!("early data would be taken") };
        patiently(connecting).await.unwrap();
    });
}

/// By a token's proof at the first packet, or behind the handshake: each address has what it may have, and no more.
#[test]
fn admission_counts_connections_that_have_not_logged_in() {
    for retry_above in [0, 100] {
        let house = QuicHouse::with(|config| {
            config.quic.retry_above = retry_above;
            config.admission.exempt = Vec::new();
            config.admission.half_open_max = 2;
        });
        let waiting: Vec<_> = (0..2)
            .map(|_| {
                let mut client = house.connect();
                client.send_bytes(&MAGIC.to_be_bytes());
                client
            })
            .collect();
        until("both are in", || house.house.metric("gateway_connections", &[]) == 2.0);
        let third = house.reach(house.client_config(&[ALPN], TransportConfig::default()), house.address());
        if retry_above == 0 {
            assert!(matches!(third, Err(ConnectionError::ConnectionClosed(_))), "refused before anything is kept: {third:?}");
        } else {
            let (_endpoint, connection) = third.unwrap();
            let ended = house.house.runtime.block_on(patiently(connection.closed()));
            assert!(matches!(&ended, ConnectionError::ApplicationClosed(close) if close.error_code.into_inner() == 4007), "{ended:?}");
        }
        assert_eq!(house.house.metric("gateway_admission_refused_total", &[r#"reason="half_open""#]), 1.0);
        drop(waiting);
        until("they are gone", || house.house.metric("gateway_connections", &[]) == 0.0);
        house.log_in(20_001);
    }
}

/// Refused before anything is kept where the address is proven, and else told behind the handshake. By another listener there is room.
#[test]
fn one_connection_more_than_the_listener_may_have_is_sent_elsewhere() {
    for retry_above in [0, 100] {
        let house = QuicHouse::with(|config| {
            config.quic.retry_above = retry_above;
            config.admission.listener_max.quic = 2;
        });
        let by_quic = |name: &str| house.house.metric(name, &[r#"listener="quic""#]);
        let mut held = [house.log_in(20_001), house.log_in(20_002)];
        assert_eq!(by_quic("gateway_listener_connections"), 2.0);
        let third = house.reach(house.client_config(&[ALPN], TransportConfig::default()), house.address());
        if retry_above == 0 {
            assert!(matches!(third, Err(ConnectionError::ConnectionClosed(_))), "{third:?}");
        } else {
            let (_endpoint, connection) = third.unwrap();
            let ended = house.house.runtime.block_on(patiently(connection.closed()));
            assert!(matches!(&ended, ConnectionError::ApplicationClosed(close) if close.error_code.into_inner() == 5001), "{ended:?}");
        }
        assert_eq!((by_quic("gateway_listener_refused_total"), by_quic("gateway_listener_connections")), (1.0, 2.0));
        assert_eq!(house.house.metric("gateway_admission_refused_total", &[r#"reason="listener""#]), 1.0);
        house.house.login(20_003).beat();
        held[0].beat();
        drop(held);
        until("there is a place again", || by_quic("gateway_listener_connections") == 0.0);
        house.log_in(20_004).beat();
    }
}

#[test]
fn who_says_nothing_is_told_so_and_cut() {
    let house = QuicHouse::with(|config| config.session.login_timeout = Duration::from_millis(500));
    let (_endpoint, connection) = house.reach(house.client_config(&[ALPN], TransportConfig::default()), house.address()).unwrap();
    let ended = house.house.runtime.block_on(patiently(connection.closed()));
    assert!(matches!(&ended, ConnectionError::ApplicationClosed(close) if close.error_code.into_inner() == 4011), "{ended:?}");
    let open = || house.house.metric("gateway_listener_connections", &[r#"listener="quic""#]);
    until("he is counted no more, and no shard ever had him", || open() == 0.0);
    assert_eq!(house.house.metric("gateway_closes_total", &[]), 0.0);

    let mut client = house.connect();
    client.send_bytes(&MAGIC.to_be_bytes());
    assert_eq!(client.expect(Code::Error).code, Some(4011));
    assert_eq!(client.end(), (4011, "login_timeout".to_owned()));
}

#[test]
fn a_bad_token_and_a_long_frame_end_the_connection_with_their_numbers() {
    let house = QuicHouse::new();
    let mut client = house.connect();
    client.send(Code::Login, &login_body(20_001, "nobody's"));
    assert_eq!(client.expect(Code::Error).code, Some(4002));
    assert_eq!(client.end(), (4002, "bad_token".to_owned()));

    let mut client = house.log_in(20_001);
    let mut header = Vec::with_capacity(HEADER_BYTES);
    header.extend_from_slice(&MAGIC.to_be_bytes());
    header.extend_from_slice(&Code::Biz.number().to_be_bytes());
    header.extend_from_slice(&(1_i32 << 20).to_be_bytes());
    client.send_bytes(&header);
    assert_eq!(client.expect(Code::Error).code, Some(4008));
    assert_eq!(client.end(), (4008, "too_large".to_owned()));
    let mut client = house.connect();
    client.send(Code::Biz, &Body::default());
    assert_eq!(client.expect(Code::Error).code, Some(4001));
    assert_eq!(client.end().0, 4001);
}
