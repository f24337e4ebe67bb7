//! From one gateway to another: what is said meanwhile is shown once, and nobody notices.

use crate::gateway::{Gateway, Heard, ROOM, chat, connect, join_answer, login_answer};
use crate::transports::{binary, blocking, config_of, number_of, push_number};
use billfish_client::{Client, ClientConfig, Event, Roots, TransportKind};
use billfish_testing::{Api, Certificates, Cluster, ClusterOptions, PATIENCE, eventually};
use billfish_wire::{Body, Code, Reason};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// In the room, which stands at 3, on a gateway of its own.
async fn settled() -> (Gateway, Client, Heard, crate::gateway::Connection) {
    let gateway = Gateway::open().await;
    let (client, mut events) = connect(gateway.config());
    client.join(ROOM).await.expect("taken");
    let (mut first, _) = gateway.accept_login().await;
    first.expect(Code::Join).await;
    first.send(Code::Join, &join_answer(0, 3)).await;
    for seq in 1..=3 {
        assert_eq!(events.chat().await, format!("line {seq}"));
    }
    (gateway, client, events, first)
}

fn reconnect(addresses: &[&str]) -> Body {
    Body { addresses: addresses.iter().map(|address| (*address).to_owned()).collect(), after_ms: Some(0), ..Body::default() }
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

#[tokio::test]
async fn the_old_connection_is_heard_until_the_new_one_stands_and_then_closed() {
    let (_gateway, client, mut events, mut first) = settled().await;
    let other = Gateway::open().await;
    first.send(Code::Reconnect, &reconnect(&[&other.address()])).await;
    let (mut second, login) = other.accept_unanswered().await;
    assert_eq!(login.resume.and_then(|resume| resume.rooms.get(&ROOM).copied()), Some(3));
    first.send(Code::Biz, &chat(4)).await;
    assert_eq!(line_without_a_break(&mut events).await, "line 4");
    second.send(Code::Login, &login_answer()).await;
    first.send(Code::Biz, &chat(5)).await;
    assert_eq!(line_without_a_break(&mut events).await, "line 5");
    // Both say the same from here on, and the new one begins before where the old one is.
    second.send(Code::Join, &join_answer(3, 4)).await;
    for seq in [5, 6] {
        second.send(Code::Biz, &chat(seq)).await;
    }
    assert_eq!(line_without_a_break(&mut events).await, "line 6");
    assert_eq!(first.receive().await, None, "closed, without a LOGOUT");
    client.chat(ROOM, "here").await.expect("taken");
    second.expect(Code::Biz).await;
}

#[tokio::test]
async fn the_kick_for_our_own_login_is_not_told() {
    for is_early in [true, false] {
        let (_gateway, _client, mut events, mut first) = settled().await;
        let other = Gateway::open().await;
        first.send(Code::Reconnect, &reconnect(&[&other.address()])).await;
        let (mut second, _) = other.accept_unanswered().await;
        let kick = Body::refusal(Reason::DuplicateLogin);
        if is_early {
            first.send(Code::Kick, &kick).await;
            assert_eq!(first.receive().await, None);
            second.send(Code::Login, &login_answer()).await;
        } else {
            second.send(Code::Login, &login_answer()).await;
            first.send(Code::Kick, &kick).await;
            assert_eq!(first.receive().await, None);
        }
        second.send(Code::Join, &join_answer(3, 4)).await;
        assert_eq!(line_without_a_break(&mut events).await, "line 4");
    }
}

#[tokio::test]
async fn a_move_that_fails_leaves_the_session_where_it_is_and_goes_elsewhere() {
    let (_gateway, _client, mut events, mut first) = settled().await;
    let (full, other) = (Gateway::open().await, Gateway::open().await);
    let dead = Gateway::open().await.address();
    first.send(Code::Reconnect, &reconnect(&[&dead, &full.address(), &other.address()])).await;
    let (mut refusing, _) = full.accept_unanswered().await;
    first.send(Code::Biz, &chat(4)).await;
    assert_eq!(line_without_a_break(&mut events).await, "line 4");
    refusing.send(Code::Error, &Body::refusal(Reason::Unavailable)).await;
    let (mut second, login) = other.accept_login().await;
    assert_eq!(login.resume.and_then(|resume| resume.rooms.get(&ROOM).copied()), Some(4));
    second.send(Code::Join, &join_answer(4, 5)).await;
    assert_eq!(line_without_a_break(&mut events).await, "line 5");
}

#[tokio::test]
async fn a_gateway_that_goes_before_the_new_one_has_answered_hastens_it() {
    let (_gateway, _client, mut events, mut first) = settled().await;
    let other = Gateway::open().await;
    first.send(Code::Reconnect, &reconnect(&[&other.address()])).await;
    let (mut second, _) = other.accept_unanswered().await;
    drop(first);
    second.send(Code::Login, &login_answer()).await;
    second.send(Code::Join, &join_answer(3, 4)).await;
    assert_eq!(line_without_a_break(&mut events).await, "line 4");
}

#[tokio::test]
async fn on_a_new_network_the_session_moves_at_once() {
    let (gateway, client, mut events, mut first) = settled().await;
    client.network_changed().await.expect("taken");
    let (mut second, login) = gateway.accept_login().await;
    assert_eq!(login.resume.and_then(|resume| resume.rooms.get(&ROOM).copied()), Some(3));
    second.send(Code::Join, &join_answer(3, 4)).await;
    assert_eq!(line_without_a_break(&mut events).await, "line 4");
    assert_eq!(first.receive().await, None);
}

#[tokio::test]
async fn on_a_new_network_a_pause_is_over() {
    let dead = Gateway::open().await.address();
    let config = crate::gateway::config_for(vec![dead.clone()]);
    let hours = Duration::from_secs(100_000);
    let (client, mut events) = connect(ClientConfig { backoff_min: hours, backoff_max: hours, ..config });
    loop {
        if let Some(Event::Disconnected { .. }) = events.any().await {
            break;
        }
    }
    client.network_changed().await.expect("taken");
    assert_eq!(events.any().await, Some(Event::Connecting { address: dead }));
}

/// Two real gateways: everything that is said while one of them goes down is shown once, in order, and no break is heard of.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_said_during_a_drain_are_all_shown_once() {
    const USERS: i64 = 6;
    let options = ClusterOptions { gateways: 2, routers: 1, ..ClusterOptions::new(binary()) };
    let Some(cluster) = tokio::task::spawn_blocking(|| Cluster::start(options)).await.expect("it starts") else { return };
    let api = cluster.api(0);
    let room = tokio::task::spawn_blocking({
        let api = api.clone();
        move || api.open_room(20_001)
    })
    .await
    .expect("a room");
    both_known(&api, "tcp").await;
    let mut apps = Vec::new();
    for user in 0..USERS {
        // Half of them over WebSocket: RECONNECT names what they can use.
        let kind = if user % 2 == 0 { TransportKind::Tcp } else { TransportKind::Ws };
        let address = format!("{kind}://{}", cluster.gateways[0].address(kind.listed_as()));
        let (client, mut events) = connect(config_of(&api, 30_001 + user, vec![address]));
        client.join(room).await.expect("taken");
        while !matches!(events.any().await, Some(Event::Joined { .. })) {}
        apps.push((client, events));
    }
    let is_over = Arc::new(AtomicBool::new(false));
    let pushing = tokio::task::spawn_blocking({
        let (api, is_over) = (api.clone(), Arc::clone(&is_over));
        move || {
            let mut sent = 0;
            let began = Instant::now();
            let mut over_at = None;
            // Until three seconds after the first has moved, and longer than all of them take.
            while over_at.is_none_or(|over_at: Instant| over_at.elapsed() < Duration::from_secs(3)) && began.elapsed() < PATIENCE {
                sent += 1;
                push_number(&api, room, sent);
                if over_at.is_none() && is_over.load(Ordering::Relaxed) {
                    over_at = Some(Instant::now());
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            // How many there were.
            push_number(&api, room, -sent);
            sent
        }
    });
    // Some before, some during, some after.
    tokio::time::sleep(Duration::from_millis(300)).await;
    cluster.gateways[0].terminate();
    let mut hearing = Vec::new();
    for (client, mut events) in apps {
        let is_over = Arc::clone(&is_over);
        hearing.push(tokio::spawn(async move {
            let (mut numbers, mut node) = (Vec::new(), String::new());
            loop {
                match events.any().await {
                    Some(Event::Connected { node: other, .. }) => node = other,
                    Some(Event::Push(push)) => match number_of(&push) {
                        Some(number) if number > 0 => numbers.push(number),
                        Some(_) => break,
                        None => {}
                    },
                    Some(Event::Joined { .. } | Event::Audience { .. } | Event::InboxRead { .. }) => {}
                    other => panic!("a move is not heard of: {other:?}"),
                }
                is_over.fetch_or(!node.is_empty(), Ordering::Relaxed);
            }
            drop(client);
            (numbers, node)
        }));
    }
    let sent = pushing.await.expect("pushed");
    for heard in hearing {
        let (numbers, node) = heard.await.expect("all of it");
        assert_eq!(numbers, (1..=sent).collect::<Vec<_>>(), "each once, in order");
        assert_eq!(node, cluster.gateways[1].name());
    }
}

/// Two real gateways with a certificate: who came by `wss` goes on by `wss`, and hears of no break. What is said on the way is shown once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_over_wss_moves_to_another_gateway_over_wss() {
    const DURING: i64 = 50;
    let certificates = Certificates::new();
    let files = format!("[{{certificate = {:?}, key = {:?}}}]", certificates.certificate(), certificates.key());
    let gateway_environment = vec![
        ("BILLFISH__GATEWAY__LISTEN__TLS".to_owned(), "127.0.0.1:0".to_owned()),
        ("BILLFISH__GATEWAY__TLS__CERTIFICATES".to_owned(), files),
    ];
    let options = ClusterOptions { gateways: 2, routers: 1, gateway_environment, ..ClusterOptions::new(binary()) };
    let Some(cluster) = tokio::task::spawn_blocking(|| Cluster::start(options)).await.expect("it starts") else { return };
    let api = cluster.api(0);
    let room = blocking({
        let api = api.clone();
        move || api.open_room(20_001)
    })
    .await;
    both_known(&api, "tls").await;
    let roots = Roots { platform: false, more_pem: std::fs::read_to_string(certificates.authority()).expect("it is there") };
    let address = format!("wss://{}", cluster.gateways[0].address("tls"));
    let (client, mut events) = connect(ClientConfig { roots, ..config_of(&api, 30_001, vec![address]) });
    client.join(room).await.expect("taken");
    while !matches!(events.any().await, Some(Event::Joined { .. })) {}

    cluster.gateways[0].terminate();
    let pushing = tokio::task::spawn_blocking({
        let api = api.clone();
        move || (1..=DURING).for_each(|number| push_number(&api, room, number))
    });
    let (mut numbers, mut moved) = (Vec::new(), None);
    while numbers.len() < DURING as usize || moved.is_none() {
        match events.any().await {
            Some(Event::Connected { node, transport, .. }) => moved = Some((node, transport)),
            Some(Event::Push(push)) => numbers.extend(number_of(&push)),
            Some(Event::Joined { .. } | Event::Audience { .. } | Event::InboxRead { .. }) => {}
            other => panic!("a move is not heard of: {other:?}"),
        }
    }
    pushing.await.expect("pushed");
    assert_eq!(numbers, (1..=DURING).collect::<Vec<_>>(), "each once, in order");
    assert_eq!(moved, Some((cluster.gateways[1].name().to_owned(), TransportKind::Wss)));
    // The new one carries: what is said now comes by it alone.
    blocking(move || push_number(&api, room, DURING + 1)).await;
    loop {
        match events.any().await {
            Some(Event::Push(push)) => break assert_eq!(number_of(&push), Some(DURING + 1)),
            Some(Event::Joined { .. } | Event::Audience { .. } | Event::InboxRead { .. }) => {}
            other => panic!("a move is not heard of: {other:?}"),
        }
    }
}

/// Waits until both gateways are known. One is sent nobody before it is linked, and one that goes names only those that are sent somebody.
async fn both_known(api: &Api, kind: &'static str) {
    let api = api.clone();
    let is_known = move || {
        let answer = api.call("POST", "/v1/im/tokens", &serde_json::json!({ "userId": 30_001 }));
        answer.is_ok_and(|(_, answer)| answer["gateways"][kind].as_array().is_some_and(|known| known.len() == 2))
    };
    blocking(move || eventually("both gateways to be known", is_known)).await;
}
