//! QUIC: streams that overtake each other, a device that changes its address, and everything else as over any transport.

use crate::gateway::{Gateway, Heard, ROOM, chat, connect, join_answer, login_answer};
use crate::quic_gateway::{QuicConnection, QuicGateway};
use crate::transports::{blocking, config_of, joined, number_of, server};
use billfish_client::{Body, Cause, Client, ClientConfig, Event, Reason, Roots, TransportKind};
use billfish_testing::{Api, Certificates, UdpRelay};
use billfish_wire::Code;
use serde_json::json;
use std::collections::BTreeMap;
use tokio::net::UdpSocket;

fn notice(seq: i64) -> Body {
    Body { class: Some(1), ..chat(seq) }
}

/// In the room, which stands at 3, on a gateway of its own.
async fn settled() -> (QuicGateway, Client, Heard, QuicConnection) {
    let gateway = QuicGateway::open();
    let (client, mut events) = connect(gateway.config());
    client.join(ROOM).await.expect("taken");
    let (mut first, _) = gateway.accept_login().await;
    first.expect(Code::Join).await;
    first.answer(Code::Join, &join_answer(0, 3)).await;
    for seq in 1..=3 {
        assert_eq!(events.chat().await, format!("line {seq}"));
    }
    (gateway, client, events, first)
}

/// The next line; fails when the app hears that a connection was lost.
async fn line_without_a_break(events: &mut Heard) -> String {
    loop {
        match events.any().await {
            Some(Event::Chat(chat)) => return chat.content,
            Some(Event::Connected { .. } | Event::Joined { .. }) => {}
            other => panic!("a move is not heard of: {other:?}"),
        }
    }
}

fn resumed(login: &Body) -> Option<i64> {
    login.resume.as_ref().and_then(|resume| resume.rooms.get(&ROOM).copied())
}

#[tokio::test]
async fn pushes_ahead_of_the_snapshot_wait_for_it_and_a_class_waits_for_no_other() {
    let gateway = QuicGateway::open();
    let (client, mut events) = connect(gateway.config());
    client.join(ROOM).await.expect("taken");
    let (mut connection, _) = gateway.accept_login().await;
    connection.expect(Code::Join).await;
    connection.push(&chat(5)).await;
    connection.push(&notice(4)).await;
    // To the user himself: he is told at once, and it has overtaken nothing of the room's.
    connection.push(&Body { class: Some(0), msg_id: Some("1-0".to_owned()), room_id: None, seq: None, ..chat(0) }).await;
    assert_eq!(events.chat().await, "line 0");
    connection.answer(Code::Join, &join_answer(0, 3)).await;
    for seq in 1..=5 {
        assert_eq!(events.chat().await, format!("line {seq}"));
    }
    connection.push(&chat(8)).await;
    assert_eq!(events.chat().await, "line 8");
    connection.push(&notice(7)).await;
    assert_eq!(events.chat().await, "line 7");
}

#[tokio::test]
async fn what_a_broken_connection_kept_back_comes_with_the_resume() {
    let (gateway, _client, mut events, mut first) = settled().await;
    first.push(&chat(5)).await;
    assert_eq!(events.chat().await, "line 5");
    first.close(4012, "too_slow");
    match events.any().await {
        Some(Event::Disconnected { cause, .. }) => assert_eq!(cause, Cause::Ended(Reason::TooSlow)),
        other => panic!("unexpected: {other:?}"),
    }
    let (mut second, login) = gateway.accept_login().await;
    assert_eq!(resumed(&login), Some(3), "4 may be on its way");
    let mut answer = join_answer(3, 6);
    answer.data = Some(answer.data.expect("a snapshot").replacen(r#""seq":4"#, r#""class":1,"seq":4"#, 1));
    second.answer(Code::Join, &answer).await;
    assert_eq!((events.chat().await, events.chat().await), ("line 4".to_owned(), "line 6".to_owned()));
}

#[tokio::test]
async fn a_close_that_is_final_ends_the_session() {
    let (_gateway, _client, mut events, first) = settled().await;
    first.close(4006, "");
    assert_eq!(events.next().await, Some(Event::Closed { reason: Reason::Banned }));
}

#[tokio::test]
async fn the_last_words_count_whatever_the_close_says() {
    let (_gateway, _client, mut events, mut first) = settled().await;
    first.answer(Code::Kick, &Body::refusal(Reason::DuplicateLogin)).await;
    assert_eq!(first.receive().await, None, "heard, and closed");
    first.close(0, "");
    assert_eq!(events.next().await, Some(Event::Closed { reason: Reason::DuplicateLogin }));
}

#[tokio::test]
async fn a_stream_that_is_none_of_a_class_ends_the_connection() {
    let (gateway, _client, mut events, mut first) = settled().await;
    first.push_raw(b"\x07").await;
    let (_second, login) = gateway.accept_login().await;
    assert_eq!(resumed(&login), Some(3));
    assert!(matches!(events.any().await, Some(Event::Disconnected { cause: Cause::Ended(Reason::Malformed), .. })));
}

#[tokio::test]
async fn a_draining_gateway_is_left_over_quic_before_it_goes() {
    let (gateway, client, mut events, mut first) = settled().await;
    let other = QuicGateway::open_with(gateway.certificates(), b"billfish/1");
    let reconnect = Body { addresses: vec![other.address().to_string()], after_ms: Some(0), ..Body::default() };
    first.answer(Code::Reconnect, &reconnect).await;
    let (mut second, login) = other.accept_unanswered().await;
    assert_eq!(resumed(&login), Some(3));
    // Both speak, and on the new one pushes overtake the answers.
    first.push(&notice(4)).await;
    assert_eq!(line_without_a_break(&mut events).await, "line 4");
    second.push(&notice(6)).await;
    second.answer(Code::Login, &login_answer()).await;
    first.push(&chat(5)).await;
    assert_eq!(line_without_a_break(&mut events).await, "line 5");
    second.answer(Code::Join, &join_answer(3, 5)).await;
    assert_eq!(line_without_a_break(&mut events).await, "line 6");
    assert_eq!(first.receive().await, None, "closed, without a LOGOUT");
    client.chat(ROOM, "here").await.expect("taken");
    second.expect(Code::Biz).await;
}

#[tokio::test]
async fn a_device_with_another_address_goes_on_in_the_same_session() {
    let (gateway, client, mut events, mut first) = settled().await;
    for seq in 4..=8 {
        let before = first.connection.remote_address();
        client.network_changed().await.expect("taken");
        first.echo().await;
        assert_ne!(first.connection.remote_address(), before, "the port is another");
        first.push(&chat(seq)).await;
        assert_eq!(line_without_a_break(&mut events).await, format!("line {seq}"));
    }
    client.chat(ROOM, "still here").await.expect("taken");
    first.expect(Code::Biz).await;
    drop(gateway);
}

#[tokio::test]
async fn where_the_new_network_takes_no_udp_the_session_moves_to_another_connection() {
    let quic = QuicGateway::open();
    let relay = UdpRelay::start(quic.address()).expect("a path");
    let plain = Gateway::open().await;
    let config = ClientConfig {
        roots: quic.roots(),
        transport_first: Some(TransportKind::Quic),
        ..crate::gateway::config_for(vec![format!("quic://{}", relay.address()), plain.address()])
    };
    let (client, mut events) = connect(config);
    client.join(ROOM).await.expect("taken");
    let (mut first, _) = quic.accept_login().await;
    first.expect(Code::Join).await;
    first.answer(Code::Join, &join_answer(0, 3)).await;
    for seq in 1..=3 {
        assert_eq!(events.chat().await, format!("line {seq}"));
    }
    relay.lose_permille(1_000);
    client.network_changed().await.expect("taken");
    let (mut second, login) = plain.accept_login().await;
    assert_eq!(resumed(&login), Some(3));
    second.send(Code::Join, &join_answer(3, 4)).await;
    assert_eq!(line_without_a_break(&mut events).await, "line 4");
}

/// A port that takes datagrams and says nothing.
async fn black_hole() -> (UdpSocket, String) {
    let hole = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
    let address = format!("quic://{}", hole.local_addr().expect("it is bound"));
    (hole, address)
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
async fn where_udp_is_blocked_the_next_kind_wins_and_is_remembered() {
    let (_hole, preferred) = black_hole().await;
    let plain = Gateway::open().await;
    let (_client, mut events) = connect(crate::gateway::config_for(vec![plain.address(), preferred.clone()]));
    assert_eq!(events.any().await, Some(Event::Connecting { address: preferred }));
    let (first, _) = plain.accept_login().await;
    assert_eq!(transport_of(&mut events).await, TransportKind::Tcp);
    drop(first);
    let _second = plain.accept_login().await;
    loop {
        if let Some(Event::Connecting { address }) = events.any().await {
            break assert_eq!(address, plain.address(), "this network lets nothing else through");
        }
    }
}

#[tokio::test]
async fn where_udp_passes_quic_wins_over_what_is_dead_and_is_remembered() {
    let quic = QuicGateway::open();
    let dead = Gateway::open().await.address();
    let address = format!("quic://{}", quic.address());
    let config = crate::gateway::config_for(vec![dead.clone(), address.clone()]);
    let (_client, mut events) = connect(ClientConfig { roots: quic.roots(), transport_first: Some(TransportKind::Tcp), ..config });
    assert_eq!(events.any().await, Some(Event::Connecting { address: dead }));
    let (first, _) = quic.accept_login().await;
    assert_eq!(transport_of(&mut events).await, TransportKind::Quic);
    first.close(5001, "unavailable");
    let _second = quic.accept_login().await;
    loop {
        if let Some(Event::Connecting { address: again }) = events.any().await {
            break assert_eq!(again, address);
        }
    }
}

#[tokio::test]
async fn who_is_not_believed_is_told_and_nothing_is_said_in_the_clear_instead() {
    let (gateway, plain) = (QuicGateway::open(), Gateway::open().await);
    let cases = [
        (Roots { platform: false, ..Roots::default() }, "signed by nobody whom we trust"),
        // An authority of the same name, which has another key.
        (QuicGateway::open().roots(), "its certificate is not valid"),
    ];
    for (roots, sentence) in cases {
        let addresses = vec![format!("quic://{}", gateway.address()), plain.address()];
        let (_client, mut events) = connect(ClientConfig { roots, ..crate::gateway::config_for(addresses) });
        let (cause, ()) = tokio::join!(cause_of_disconnect(&mut events), gateway.accept_handshake());
        assert!(matches!(&cause, Cause::Untrusted { .. }) && cause.to_string().contains(sentence), "{cause}");
        assert!(!plain.has_caller().await);
    }
}

async fn cause_of_disconnect(events: &mut Heard) -> Cause {
    loop {
        if let Some(Event::Disconnected { cause, .. }) = events.any().await {
            return cause;
        }
    }
}

#[tokio::test]
async fn what_speaks_another_protocol_is_not_talked_to() {
    let other = QuicGateway::open_with(Certificates::new(), b"h3");
    let (_client, mut events) = connect(other.config());
    let accepting = other.accept_handshake();
    let (cause, ()) = tokio::join!(cause_of_disconnect(&mut events), accepting);
    assert!(matches!(cause, Cause::Unreachable { .. }), "{cause}");
}

/// A real server behind a path that loses a packet in twenty each way: each push is shown once, in the order of its class, and what the app says
/// is taken once. Then the device changes its address, again and again, while pushes come.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_a_lossy_path_and_from_other_addresses_each_push_is_shown_once() {
    const ROUNDS: i64 = 10;
    const PUSHES: i64 = 40;
    let server = blocking(server).await;
    let api = server.api();
    let roots = Roots { platform: false, more_pem: std::fs::read_to_string(server.certificate()).expect("it made one") };
    let room = blocking({
        let api = api.clone();
        move || api.open_room(50_101)
    })
    .await;
    let relay = UdpRelay::start(server.address("quic")).expect("a path");
    let addresses = vec![format!("quic://{}", relay.address())];
    let (client, mut events) = connect(ClientConfig { roots, ..config_of(&api, 40_101, addresses) });
    assert_eq!(joined(&client, &mut events, room).await, TransportKind::Quic);
    relay.lose_permille(50);
    let mut last = BTreeMap::new();
    let mut shown = 0;
    for round in 0..ROUNDS {
        let first = round * PUSHES + 1;
        let pushing = blocking({
            let api = api.clone();
            move || (first..first + PUSHES).for_each(|number| push_of_class(&api, room, number, number % 4))
        });
        // As often as one may.
        let said = if round % 3 == 0 { Some(client.chat(room, "through it").await.expect("taken").0) } else { None };
        if round >= ROUNDS / 2 {
            client.network_changed().await.expect("taken");
        }
        pushing.await;
        let mut is_accepted = said.is_none();
        while shown < (round + 1) * PUSHES || !is_accepted {
            match events.any().await {
                Some(Event::Push(push)) => {
                    let number = number_of(&push).expect("one of ours");
                    let last = last.insert(push.class, number);
                    assert!(last < Some(number), "{number} after {last:?} of class {:?}", push.class);
                    shown += 1;
                }
                Some(Event::Accepted { msg_id, .. }) => {
                    assert_eq!(Some(msg_id), said);
                    is_accepted = true;
                }
                // Where the path loses too much at a change of address, the session moves.
                Some(Event::Connected { .. } | Event::Joined { .. } | Event::Audience { .. } | Event::InboxRead { .. }) => {}
                other => panic!("a move is not heard of: {other:?}"),
            }
        }
    }
    assert!(relay.lost() > 0, "the path was lossy");
    client.close().await;
    assert_eq!(events.next().await, Some(Event::Closed { reason: Reason::LoggedOut }));
}

fn push_of_class(api: &Api, room: i64, number: i64, class: i64) {
    let data = json!({ "number": number }).to_string();
    api.push(&json!({ "appId": 10001, "target": { "roomId": room }, "bizCode": 5568, "data": data, "class": class }));
}

/// A real server, what is said while nobody listens, and two ways to it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_quic_to_tls_and_back_each_push_is_shown_once() {
    let server = blocking(server).await;
    let api = server.api();
    let roots = Roots { platform: false, more_pem: std::fs::read_to_string(server.certificate()).expect("it made one") };
    let room = blocking({
        let api = api.clone();
        move || api.open_room(50_102)
    })
    .await;
    let relay = UdpRelay::start(server.address("quic")).expect("a path");
    let addresses = vec![format!("quic://{}", relay.address()), format!("tls://{}", server.address("tls"))];
    let config = ClientConfig { transport_first: Some(TransportKind::Quic), roots, ..config_of(&api, 40_102, addresses) };
    let (client, mut events) = connect(config);
    assert_eq!(joined(&client, &mut events, room).await, TransportKind::Quic);
    let mut number = 0;
    for (lose_permille, kind) in [(1_000, TransportKind::Tls), (0, TransportKind::Quic)] {
        relay.lose_permille(lose_permille);
        client.network_changed().await.expect("taken");
        blocking({
            let api = api.clone();
            move || (1..=20).for_each(|n| push_of_class(&api, room, number + n, n % 4))
        })
        .await;
        let (mut numbers, mut transport) = (Vec::new(), None);
        while numbers.len() < 20 || transport.is_none() {
            match events.any().await {
                Some(Event::Push(push)) => numbers.push(number_of(&push).expect("one of ours")),
                Some(Event::Connected { transport: other, .. }) => transport = Some(other),
                Some(Event::Joined { .. } | Event::Audience { .. } | Event::InboxRead { .. }) => {}
                other => panic!("a move is not heard of: {other:?}"),
            }
        }
        numbers.sort_unstable();
        assert_eq!(numbers, (number + 1..=number + 20).collect::<Vec<_>>(), "each once");
        assert_eq!(transport, Some(kind));
        number += 20;
    }
    // Nothing is left that could be shown again.
    client.close().await;
    while let Some(event) = events.next().await {
        assert!(!matches!(&event, Event::Push(_)), "shown twice: {event:?}");
    }
}
