//! How connections end, from either side.

use super::client::{QuicHouse, within};
use crate::house::until;
use billfish_wire::{Body, Code};
use std::time::Duration;

const ROOM: i64 = 30_001;

fn closes(house: &QuicHouse, reason: &str) -> f64 {
    house.house.metric("gateway_closes_total", &[&format!(r#"reason="{reason}""#)])
}

#[test]
fn a_kick_is_said_and_is_the_connections_last_word() {
    let house = QuicHouse::new();
    let mut first = house.log_in(20_001);
    let mut second = house.log_in(20_001);
    assert_eq!(first.expect(Code::Kick).code, Some(4010));
    assert_eq!(first.next(), None, "the stream ends behind it");
    assert_eq!(first.end(), (4010, "duplicate_login".to_owned()));
    second.beat();
}

#[test]
fn a_logout_is_echoed_and_ends_with_zero() {
    let house = QuicHouse::new();
    let mut client = house.log_in(20_001);
    client.send(Code::Logout, &Body::default());
    client.expect(Code::Logout);
    assert_eq!(client.end(), (0, "logged_out".to_owned()));
    assert_eq!(closes(&house, "logged_out"), 1.0);
}

#[test]
fn a_client_may_just_go() {
    let house = QuicHouse::new();
    let mut client = house.join(20_001, ROOM);
    client.connection.close(0_u32.into(), b"bye");
    until("it is gone", || closes(&house, "peer_closed") == 1.0);
    // Its stream alone may end, too.
    client = house.join(20_001, ROOM);
    client.up.finish().unwrap();
    assert_eq!(client.end(), (0, "peer_closed".to_owned()));
    assert_eq!(closes(&house, "peer_closed"), 2.0);
    // Or break.
    client = house.join(20_001, ROOM);
    client.up.reset(1_u32.into()).unwrap();
    assert_eq!(client.end(), (0, "transport_failed".to_owned()));
    assert_eq!(closes(&house, "transport_failed"), 1.0);
    // Or it does not want to hear of a class.
    client = house.join(20_001, ROOM);
    house.router.push_room(ROOM, "once");
    client.push(2);
    client.stop(2);
    // The server has heard that before it answers.
    client.beat();
    house.router.push_room(ROOM, "again");
    assert_eq!(client.end().0, 4000);
    // By whom the streams are, who says so before the shard knows.
    until("it is counted", || closes(&house, "transport_failed") == 2.0);
}

#[test]
fn two_silent_gaps_end_a_session() {
    let house = QuicHouse::with(|config| {
        config.session.heartbeat_gap = Duration::from_secs(1);
        config.session.silent_gaps = 1;
    });
    let mut client = house.log_in(20_001);
    assert_eq!(client.end(), (0, "heartbeat_lost".to_owned()));
}

/// A client that has vanished leaves nothing behind, whatever its own idle time-out is.
#[test]
fn a_client_that_vanished_is_found_out() {
    let house = QuicHouse::with(|config| {
        config.session.heartbeat_gap = Duration::from_secs(1);
        config.session.silent_gaps = 1;
    });
    let mut client = house.connect_by(house.address(), within(Duration::from_millis(500)));
    house.log_in_on(&mut client, 20_001, "ios");
    let runtime = &house.house.runtime;
    let ended = runtime.block_on(super::client::patiently(client.connection.closed()));
    assert!(matches!(ended, quinn::ConnectionError::TimedOut), "{ended:?}");
    until("it is gone", || house.house.metric("gateway_connections", &[]) == 0.0);
}

#[test]
fn a_drain_sends_everybody_elsewhere() {
    let mut house = QuicHouse::with(|config| {
        config.drain.spread_max = Duration::from_millis(200);
        config.drain.addresses = vec!["gateway-2.example:8087".to_owned()];
    });
    let address = house.address();
    let mut clients: Vec<_> = (0..5).map(|user| house.join(20_001 + user, ROOM)).collect();
    let running = house.house.running.take().unwrap();
    let drained = house.house.runtime.spawn(running.drain(Duration::from_secs(60)));
    for client in &mut clients {
        let hint = client.expect(Code::Reconnect);
        assert_eq!(hint.addresses, ["gateway-2.example:8087"]);
    }
    // Nobody is let in meanwhile.
    let config = house.client_config(&[super::client::ALPN], quinn::TransportConfig::default());
    let refused = house.reach(config, address);
    assert!(refused.is_err(), "{refused:?}");
    for client in &mut clients {
        assert_eq!(client.end(), (0, "drained".to_owned()));
    }
    house.house.runtime.block_on(drained).unwrap();
    assert_eq!(closes(&house, "drained"), 5.0);
    until("the port is given back", || std::net::UdpSocket::bind(address).is_ok());
}
