//! Every transport against a real server: what an app does works the same over all of them.

use crate::gateway::{Heard, connect};
use billfish_client::{Body, Cause, Client, ClientConfig, ConfigError, Event, Roots, Ticket, TokenError, TokenProvider, TransportKind};
use billfish_testing::{Api, Chaos, ChaosProxy, Standalone, UdpRelay};
use serde_json::json;
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::net::{TcpListener, TcpStream};

/// The server, of the same build as this test.
pub(crate) fn binary() -> PathBuf {
    let test = std::env::current_exe().expect("this test has a path");
    test.parent().and_then(Path::parent).expect("it stands in target/debug/deps").join("billfish")
}

pub(crate) fn server() -> Standalone {
    Standalone::beside(&binary(), Path::new(env!("CARGO")))
}

/// Of a user, with tokens from the server and these addresses alone.
pub(crate) fn config_of(api: &Api, user: i64, addresses: Vec<String>) -> ClientConfig {
    let api = api.clone();
    let tokens = TokenProvider::new(move || {
        let (api, addresses) = (api.clone(), addresses.clone());
        async move {
            let token = tokio::task::spawn_blocking(move || api.token(user)).await.map_err(|error| TokenError::Away(error.to_string()))?;
            Ok(Ticket { token, addresses })
        }
    });
    ClientConfig {
        backoff_min: Duration::from_millis(50),
        backoff_max: Duration::from_millis(200),
        jitter_seed: Some(1),
        ..ClientConfig::new(user, tokens)
    }
}

/// A notice with a number, to a room.
pub(crate) fn push_number(api: &Api, room: i64, number: i64) {
    let data = json!({ "number": number }).to_string();
    api.push(&json!({ "appId": 10001, "target": { "roomId": room }, "bizCode": 5568, "data": data, "class": 1 }));
}

/// The number in such a notice.
pub(crate) fn number_of(push: &Body) -> Option<i64> {
    serde_json::from_str::<serde_json::Value>(push.data.as_deref()?).ok()?["number"].as_i64()
}

pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("no panic")
}

async fn next_number(events: &mut Heard) -> i64 {
    loop {
        match events.next().await {
            Some(Event::Push(push)) => {
                if let Some(number) = number_of(&push) {
                    return number;
                }
            }
            // What one has said oneself is in the room's log as well.
            Some(Event::Joined { .. } | Event::Audience { .. } | Event::InboxRead { .. } | Event::Chat(_)) => {}
            other => panic!("a number was expected: {other:?}"),
        }
    }
}

pub(crate) async fn joined(client: &Client, events: &mut Heard, room: i64) -> TransportKind {
    client.join(room).await.expect("taken");
    let mut kind = None;
    loop {
        match events.any().await {
            Some(Event::Connected { transport, .. }) => kind = Some(transport),
            Some(Event::Joined { .. }) => return kind.expect("connected before"),
            Some(Event::Connecting { .. } | Event::InboxRead { .. } | Event::Audience { .. }) => {}
            other => panic!("unexpected: {other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_works_over_every_transport_and_comes_back_over_it() {
    let server = blocking(server).await;
    let api = server.api();
    let roots = Roots { platform: false, more_pem: std::fs::read_to_string(server.certificate()).expect("it made one") };
    // What is cut here is TCP; QUIC has tests of its own.
    for (nth, kind) in (0..).zip(TransportKind::ALL.into_iter().filter(|kind| *kind != TransportKind::Quic)) {
        let user = 40_001 + nth;
        let room = blocking({
            let api = api.clone();
            move || api.open_room(50_001 + nth)
        })
        .await;
        let proxy = ChaosProxy::start(server.address(kind.listed_as()));
        let address = format!("{kind}://{}", proxy.address());
        let (client, mut events) = connect(ClientConfig { roots: roots.clone(), ..config_of(&api, user, vec![address]) });
        assert_eq!(joined(&client, &mut events, room).await, kind);

        // Down and up.
        let say = |number| {
            let api = api.clone();
            blocking(move || push_number(&api, room, number))
        };
        say(1).await;
        assert_eq!(next_number(&mut events).await, 1, "{kind}");
        let long = "x".repeat(490);
        let id = client.chat(room, &long).await.expect("taken");
        loop {
            match events.next().await {
                Some(Event::Accepted { msg_id, .. }) => break assert_eq!(msg_id, id.0, "{kind}"),
                Some(Event::Audience { .. }) => {}
                other => panic!("{kind}: unexpected: {other:?}"),
            }
        }
        // To the user, acknowledged.
        let to_user = json!({"appId": 10001, "target": {"users": [user]}, "bizCode": 5568, "data": r#"{"number":7}"#, "qos": 1});
        blocking({
            let (api, to_user) = (api.clone(), to_user.clone());
            move || api.push(&to_user)
        })
        .await;
        assert_eq!(next_number(&mut events).await, 7, "{kind}");

        // Cut; what is said meanwhile comes when the client is back.
        proxy.set(Chaos::Reset);
        loop {
            match events.any().await {
                Some(Event::Disconnected { .. }) => break,
                Some(Event::Audience { .. }) => {}
                other => panic!("{kind}: unexpected: {other:?}"),
            }
        }
        say(2).await;
        say(3).await;
        proxy.set(Chaos::Forward);
        assert_eq!((next_number(&mut events).await, next_number(&mut events).await), (2, 3), "{kind}");
        // In pieces.
        proxy.set(Chaos::Split(3));
        say(4).await;
        assert_eq!(next_number(&mut events).await, 4, "{kind}");
        proxy.set(Chaos::Forward);
        client.close().await;
        while let Some(event) = events.next().await {
            let is_number = matches!(&event, Event::Push(push) if number_of(push).is_some());
            assert!(!is_number, "{kind}: shown twice: {event:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_is_not_trusted_or_not_for_the_host_is_refused_by_name() {
    let server = blocking(server).await;
    let api = server.api();
    let pem = std::fs::read_to_string(server.certificate()).expect("it made one");
    let elsewhere = other_address_of(server.address("tls")).await;
    let relay =
        UdpRelay::start_on("127.0.0.2:0".parse().expect("an address"), server.address("quic")).expect("loopback is a whole network");
    let (here, elsewhere) = ((server.address("tls"), server.address("quic")), (elsewhere, relay.address()));
    let cases = [
        (here, Roots { platform: false, ..Roots::default() }, "signed by nobody whom we trust"),
        (elsewhere, Roots { platform: false, more_pem: pem }, "not for 127.0.0.2"),
    ];
    for ((tls, quic), roots, sentence) in cases {
        for (kind, address) in [(TransportKind::Tls, tls), (TransportKind::Wss, tls), (TransportKind::Quic, quic)] {
            // Nor is anything said in the clear instead.
            let addresses = vec![format!("{kind}://{address}"), server.address("tcp").to_string()];
            let (_client, mut events) = connect(ClientConfig { roots: roots.clone(), ..config_of(&api, 40_100, addresses) });
            loop {
                match events.any().await {
                    Some(Event::Disconnected { cause, .. }) => {
                        assert!(matches!(&cause, Cause::Untrusted { .. }) && cause.to_string().contains(sentence), "{cause}");
                        break;
                    }
                    Some(Event::Connecting { .. }) => {}
                    other => panic!("unexpected: {other:?}"),
                }
            }
        }
    }
}

#[tokio::test]
async fn roots_that_cannot_be_read_are_refused_at_once() {
    for pem in ["not PEM", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        let roots = Roots { platform: false, more_pem: pem.to_owned() };
        let config = ClientConfig { roots, ..crate::gateway::config_for(Vec::new()) };
        assert!(matches!(Client::connect(config), Err(ConfigError::Field { field: "roots", .. })), "{pem}");
    }
}

/// The same listener under an address that its certificate does not name.
async fn other_address_of(upstream: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.2:0").await.expect("loopback is a whole network");
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                if let Ok(mut server) = TcpStream::connect(upstream).await {
                    tokio::io::copy_bidirectional(&mut client, &mut server).await.ok();
                }
            });
        }
    });
    address
}
