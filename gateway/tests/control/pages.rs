//! What an operator sees.

use crate::house::{House, now_ms, push, until};
use billfish_link::message::Push;
use billfish_state::{NodeKind, labels};
use billfish_wire::Code;
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

const ROOM: i64 = 30_001;

/// Serves the pages, with one more thing that has to be ready.
pub(crate) fn serve(house: &House, more: Result<(), String>) -> SocketAddr {
    let pages = house.running().admin_router(Arc::clone(&house.registry), vec![Box::new(move || more.clone())]);
    let listener = house.runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    house.runtime.spawn(async move { axum::serve(listener, pages).await });
    address
}

pub(crate) fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

#[test]
fn probes_say_what_is_missing() {
    let house = House::alone(|_| {});
    let address = serve(&house, Ok(()));
    assert_eq!(get(address, "/livez"), (200, "ok\n".to_owned()));
    assert_eq!(get(address, "/readyz"), (503, "no link to a router is up\n".to_owned()));
    let _router = house.link("router-1", true);
    until("the link is up", || house.running().ready().is_ok());
    assert_eq!(get(address, "/readyz"), (200, "ok\n".to_owned()));
    let beside = serve(&house, Err("the records are away".to_owned()));
    assert_eq!(get(beside, "/readyz"), (503, "the records are away\n".to_owned()));
    assert_eq!(get(address, "/nothing").0, 404);
}

#[test]
fn its_entry_says_how_long_it_waits_for_a_client_that_is_silent() {
    let house = House::alone(|config| {
        config.session.heartbeat_gap = Duration::from_secs(20);
        config.session.silent_gaps = 6;
    });
    let nodes = house.runtime.block_on(house.state.registry.nodes(NodeKind::Gateway, now_ms())).unwrap();
    let said = |label| nodes[0].labels.get(label).cloned();
    assert_eq!((said(labels::HEARTBEAT_MS).as_deref(), said(labels::SILENCE_MS).as_deref()), (Some("20000"), Some("120000")));
}

#[test]
fn every_copy_is_accounted_for_in_total_and_per_room() {
    let (house, router) = House::new();
    let address = serve(&house, Ok(()));
    let mut members: Vec<_> = (0..10).map(|user| house.join(20_001 + user, ROOM)).collect();
    for count in 0..20 {
        router.push_room_as(1, 20_001, Push { room_id: ROOM, ..push(&count.to_string()) });
    }
    for member in members.iter_mut().skip(1) {
        for _ in 0..20 {
            member.expect(Code::Biz);
        }
    }
    // The books are exact at the end of a turn; the members may read sooner.
    until("the books are closed", || house.running().account().copies == 180);
    let account = house.running().account();
    assert_eq!((account.copies, account.delivered, account.dropped, account.pending), (180, 180, 0, 0));
    assert_eq!((house.metric("gateway_copies_total", &[]), house.metric("gateway_deliveries_total", &[])), (180.0, 180.0));
    let (status, text) = get(address, &format!("/rooms/{ROOM}"));
    let room: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(status, 200);
    assert_eq!(
        (&room["members"], &room["copies"], &room["delivered"], &room["pending"]),
        (&10.into(), &180.into(), &180.into(), &0.into())
    );
    assert_eq!(room["dropped"]["chat"], 0, "{room}");
    assert_eq!(get(address, "/rooms/1").0, 404);
    assert_eq!(get(address, "/rooms/x").0, 400);
}

#[test]
fn the_page_counts_what_happened() {
    let (house, router) = House::new();
    let address = serve(&house, Ok(()));
    let mut client = house.join(20_001, ROOM);
    client.say(ROOM, "hello", "m1");
    client.expect(Code::Ack);
    router.push_users(&[20_001], push("hello"));
    client.expect(Code::Biz);
    let (status, text) = get(address, "/metrics");
    assert_eq!(status, 200);
    for line in [
        "gateway_connections 1",
        "gateway_sessions 1",
        "gateway_link_up 1",
        r#"gateway_frames_total{code="login",direction="in"} 1"#,
        r#"gateway_frames_total{code="ack",direction="out"} 1"#,
        r#"gateway_frames_total{code="biz",direction="out"} 1"#,
        r#"gateway_deliveries_total{class="chat"} 1"#,
    ] {
        assert!(text.lines().any(|shown| shown == line), "{line} is not in\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
}
