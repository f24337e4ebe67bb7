//! Going down.

use crate::{
    house::{House, now_ms, until},
    pages::{get, serve},
};
use billfish_link::message::envelope::Kind;
use billfish_state::NodeKind;
use billfish_wire::{Code, Reason};
use std::{net::TcpStream, time::Duration};

const ROOM: i64 = 30_001;

fn nodes(house: &House) -> Vec<billfish_state::NodeInfo> {
    house.runtime.block_on(house.state.registry.nodes(NodeKind::Gateway, now_ms())).unwrap()
}

#[test]
fn a_drain_sends_everybody_elsewhere_and_tells_the_routers() {
    let (mut house, router) = House::with(|config| {
        config.drain.spread_max = Duration::from_millis(200);
        config.drain.addresses = vec!["gateway-2.example:8085".to_owned()];
    });
    let address = house.running().tcp_addr();
    let entry = nodes(&house);
    assert_eq!((entry[0].id.as_str(), entry[0].addresses[0].1.as_str()), ("gateway-1", address.to_string().as_str()));
    let mut clients: Vec<_> = (0..10).map(|user| house.join(20_001 + user, ROOM)).collect();

    let running = house.running.take().unwrap();
    let drained = house.runtime.spawn(running.drain(Duration::from_secs(60)));
    for client in &mut clients {
        let hint = client.expect(Code::Reconnect);
        assert_eq!(hint.addresses, ["gateway-2.example:8085"]);
        assert!(hint.after_ms.is_some_and(|ms| ms <= 30_000), "{hint:?}");
        client.expect_end();
    }
    house.runtime.block_on(drained).unwrap();
    assert!(TcpStream::connect(address).is_err());
    assert!(nodes(&house).is_empty(), "it has left the registry");
    until("the router has heard of every end", || {
        let seen = router.seen.lock().unwrap();
        seen.iter().filter(|kind| matches!(kind, Kind::Gone(_))).count() == 10
    });
    assert_eq!(router.heard_of(ROOM).last(), Some(&"no interest"));
    assert_eq!(house.metric("gateway_closes_total", &[r#"reason="drained""#]), 10.0);
    let users: Vec<_> = (0..10).map(|user| billfish_state::UserId(20_001 + user)).collect();
    let app = billfish_state::AppId(crate::house::APP);
    let routes = house.runtime.block_on(house.state.routes.lookup(app, &users, now_ms())).unwrap();
    assert!(routes.iter().all(Vec::is_empty), "every route is given back before it ends: {routes:?}");
}

#[test]
fn while_it_drains_it_is_not_ready_and_lets_nobody_in() {
    let (mut house, _router) = House::with(|config| {
        config.drain.spread_max = Duration::from_secs(3600);
        config.drain.grace = Duration::from_secs(3600);
        config.drain.close_per_s = 1;
    });
    until("the link is up", || house.running().ready().is_ok());
    let address = house.running().tcp_addr();
    let pages = serve(&house, Ok(()));
    assert_eq!(get(pages, "/readyz").0, 200);
    let mut clients: Vec<_> = (0..100).map(|user| house.login(20_001 + user)).collect();
    let running = house.running.take().unwrap();
    let drained = house.runtime.spawn(running.drain(Duration::from_secs(2)));
    until("it says so", || get(pages, "/readyz") == (503, "the gateway is draining\n".to_owned()));
    until("its entry says so", || nodes(&house).first().is_some_and(|node| node.draining));
    until("nobody is let in", || TcpStream::connect(address).is_err());
    // At one a second, most of them outlive the grace of two seconds and are closed then.
    house.runtime.block_on(drained).unwrap();
    for client in &mut clients {
        while let Some((code, body)) = client.next() {
            assert!(code == Code::Reconnect || body.code == Reason::Unavailable.number(), "{code:?} {body:?}");
        }
    }
    assert_eq!(house.metric("gateway_connections", &[]), 0.0);
}

#[test]
fn an_idle_gateway_drains_at_once() {
    let (mut house, _router) = House::new();
    let running = house.running.take().unwrap();
    house
        .runtime
        .block_on(async { tokio::time::timeout(Duration::from_secs(10), running.drain(Duration::from_secs(3600))).await })
        .unwrap();
}

#[test]
fn a_gateway_that_is_dropped_closes_what_it_had() {
    let (mut house, _router) = House::new();
    let mut client = house.login(20_001);
    let address = house.running().tcp_addr();
    house.running = None;
    while client.next().is_some() {}
    until("it does not listen any more", || TcpStream::connect(address).is_err());
}
