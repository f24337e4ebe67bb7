//! Several ways to the same gateways: the best that stands is taken, and what took it last time is taken first.

use crate::gateway::{Gateway, Heard, config_for, connect};
use billfish_client::{Cause, ClientConfig, Event, Roots, TransportKind};
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

/// Takes connections and says nothing on them.
struct BlackHole(TcpListener);

impl BlackHole {
    async fn open() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.expect("a free port"))
    }

    fn address(&self) -> String {
        self.0.local_addr().expect("it is bound").to_string()
    }
}

async fn transport_of(events: &mut Heard) -> TransportKind {
    loop {
        match events.any().await {
            Some(Event::Connected { transport, .. }) => return transport,
            Some(Event::Connecting { .. } | Event::Disconnected { .. }) => {}
            other => panic!("unexpected: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_preferred_way_that_is_dead_or_black_costs_a_moment_and_the_winner_is_remembered() {
    for is_dead in [true, false] {
        let (gateway, hole) = (Gateway::open().await, BlackHole::open().await);
        let preferred = if is_dead { Gateway::open().await.address() } else { hole.address() };
        let (_client, mut events) = connect(config_for(vec![format!("tls://{preferred}"), gateway.address()]));
        assert_eq!(events.any().await, Some(Event::Connecting { address: format!("tls://{preferred}") }));
        let (first, _) = gateway.accept_login().await;
        assert_eq!(transport_of(&mut events).await, TransportKind::Tcp);
        drop(first);
        let _second = gateway.accept_login().await;
        loop {
            if let Some(Event::Connecting { address }) = events.any().await {
                assert_eq!(address, gateway.address(), "this network lets nothing else through");
                break;
            }
        }
    }
}

#[tokio::test]
async fn what_the_app_has_kept_is_tried_first() {
    let (gateway, hole) = (Gateway::open().await, BlackHole::open().await);
    let config = config_for(vec![format!("tls://{}", hole.address()), gateway.address()]);
    let (_client, mut events) = connect(ClientConfig { transport_first: Some(TransportKind::Tcp), ..config });
    assert_eq!(events.any().await, Some(Event::Connecting { address: gateway.address() }));
    gateway.accept_login().await;
}

#[tokio::test]
async fn a_refusal_in_http_says_when_to_come_back() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = format!("ws://{}", listener.local_addr().expect("it is bound"));
    let answering = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("the client connects");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.expect("a request"));
        }
        let head = String::from_utf8(head).expect("ASCII");
        assert!(head.starts_with("GET /ws HTTP/1.1\r\n"), "{head}");
        stream.write_all(b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n").await.expect("written");
    });
    let (_client, mut events) = connect(config_for(vec![address.clone()]));
    loop {
        match events.any().await {
            Some(Event::Disconnected { cause, retry_in }) => {
                assert!(cause.to_string().contains("503") && cause.to_string().contains(&address), "{cause}");
                assert!(retry_in >= Duration::from_secs(7), "{retry_in:?}");
                break;
            }
            Some(Event::Connecting { .. }) => {}
            other => panic!("unexpected: {other:?}"),
        }
    }
    answering.await.expect("asked as it should be");
}

#[tokio::test]
async fn what_does_not_speak_tls_is_told_so() {
    let gateway = Gateway::open().await;
    let config =
        ClientConfig { roots: Roots { platform: false, ..Roots::default() }, ..config_for(vec![format!("tls://{}", gateway.address())]) };
    let (_client, mut events) = connect(config);
    let mut stream = gateway.accept_raw().await;
    stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.expect("written");
    loop {
        if let Some(Event::Disconnected { cause, .. }) = events.any().await {
            assert!(matches!(&cause, Cause::Unreachable { .. }) && cause.to_string().contains("does not speak TLS"), "{cause}");
            break;
        }
    }
}
