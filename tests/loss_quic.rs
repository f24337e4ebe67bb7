//! The network of `loss` under TLS and QUIC, and what a gift has to do with the chat that is lost beside it.

use crate::loss::{Remote, can_bridge};
use billfish_client::{Client, ClientConfig, Event, Roots, Ticket, TokenError, TokenProvider, TransportKind};
use billfish_testing::{Api, ChaosProxy, UdpRelay};
use serde_json::{Value, json};
use std::{
    fs,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Who is silent for 16 s is cut, as in `loss`, which says why it cannot be much less, and why a LOGIN has more time than elsewhere.
const CONFIG: &str = "[gateway.session]\nheartbeat_gap = \"8s\"\nlogin_timeout = \"30s\"\n[gateway.admission]\nnew_per_s = 10000\n";

fn nothing_is_lost_over(transport: &str) {
    if !can_bridge() {
        return;
    }
    let remote = Remote::start(&["--seed", "5", "--duplicate", "1"], CONFIG);
    let load = ["room-burst", "--connections", "60", "--rooms", "2", "--rate", "4", "--seconds", "12", "--class", "1"];
    let report = remote.load_over(transport, &load);
    assert_eq!(report["received"], report["expected"], "{report}");
    assert!(report["received"].as_u64().unwrap() >= 60 * 4 * 10, "{report}");
    for nothing in ["missing", "duplicates", "order_breaks", "logins_failed"] {
        assert_eq!(report[nothing], 0, "{nothing}: {report}");
    }
    assert_eq!(report["detail"]["lost"], json!({}), "somebody was cut: {report}");
    if transport == "quic" {
        assert!(report["detail"]["quic_lost"].as_u64().unwrap() > 0, "nothing was sent again: {report}");
    }
    let (passed, lost) = remote.end();
    assert!(lost * 100 > passed * 3 && lost * 100 < passed * 8, "{lost} of {passed} lost is not what was asked for");
}

#[test]
fn over_quic_loss_and_delays_cut_nobody_and_show_everything_once_and_in_order() {
    nothing_is_lost_over("quic");
}

#[test]
fn over_tls_loss_and_delays_cut_nobody_and_show_everything_once_and_in_order() {
    nothing_is_lost_over("tls");
}

/// How long a figure is taken, and how many watch.
const MEASURED: Duration = Duration::from_secs(30);
const VIEWERS: i64 = 10;
/// Callers side by side: through this network each call takes its round trips.
const CALLERS: i64 = 24;
/// Of so many pushes one is a gift's, the others are chat of a line each.
const GIFT_EVERY: i64 = 20;

/// Where the gifts and the chat stand that the viewers have been shown.
#[derive(Default)]
struct Shown {
    gift_ms: Vec<u64>,
    chats: u64,
    gifts: Vec<(i64, i64)>,
}

/// Shows by figures what streams of their own are for: gifts among chat that is lost, over TLS, where each waits for what was lost before it, and
/// over QUIC. From the gateway's acceptance to the app, both on one clock. Not a test of how fast this machine is: it asserts that each gift
/// comes once, and prints.
///
/// `cargo test --release --test e2e gifts_among_lost_chat -- --ignored --nocapture`
#[test]
#[ignore = "a measurement of two minutes"]
fn gifts_among_lost_chat() {
    if !can_bridge() {
        return;
    }
    for (kind, with_chat) in
        [(TransportKind::Tls, false), (TransportKind::Tls, true), (TransportKind::Quic, false), (TransportKind::Quic, true)]
    {
        let Shown { mut gift_ms, chats, .. } = gifts_over(kind, with_chat);
        gift_ms.sort_unstable();
        let at = |permille: usize| gift_ms[(gift_ms.len() - 1) * permille / 1_000];
        eprintln!(
            "{kind}, {chats} lines of chat: {} gifts, p50 {} ms, p90 {} ms, p99 {} ms, longest {} ms",
            gift_ms.len(),
            at(500),
            at(900),
            at(990),
            at(1_000)
        );
    }
}

fn gifts_over(kind: TransportKind, with_chat: bool) -> Shown {
    let remote = Remote::start(&["--seed", "5"], CONFIG);
    let key = fs::read_to_string(remote.path("data/api-key")).unwrap();
    let api = Api::new(remote.port("http").parse().unwrap(), key.trim());
    let room = api.open_room(30_001);
    // The development certificate is for the loopback, so the app dials that; the way from there on is the bad one.
    let server = remote.port(kind.listed_as()).parse().unwrap();
    let (relay, proxy) = (UdpRelay::start(server).unwrap(), ChaosProxy::start(server));
    let port = if kind == TransportKind::Quic { relay.address().port() } else { proxy.address().port() };
    let address = format!("{kind}://127.0.0.1:{port}");
    let more_pem = fs::read_to_string(remote.path("data/development-cert.pem")).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let shown = Arc::<Mutex<Shown>>::default();
    let mut apps = Vec::new();
    for user in 40_001..40_001 + VIEWERS {
        let (tokens_of, address) = (api.clone(), address.clone());
        let tokens = TokenProvider::new(move || {
            let (api, address) = (tokens_of.clone(), address.clone());
            async move {
                let token =
                    tokio::task::spawn_blocking(move || api.token(user)).await.map_err(|error| TokenError::Away(error.to_string()))?;
                Ok(Ticket { token, addresses: vec![address] })
            }
        });
        let roots = Roots { platform: false, more_pem: more_pem.clone() };
        let (client, mut events) = {
            let _in_runtime = runtime.enter();
            Client::connect(ClientConfig { roots, ..ClientConfig::new(user, tokens) }).unwrap()
        };
        runtime.block_on(async {
            client.join(room).await.unwrap();
            loop {
                match events.next().await {
                    Some(Event::Joined { .. }) => break,
                    Some(Event::Disconnected { cause, .. }) => eprintln!("{cause}"),
                    Some(_) => {}
                    None => panic!("it does not get in"),
                }
            }
        });
        let shown = Arc::clone(&shown);
        let listening = runtime.spawn(async move {
            while let Some(event) = events.next().await {
                let Event::Push(push) = event else { continue };
                let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
                let number = serde_json::from_str::<Value>(push.data.as_deref().unwrap_or_default()).unwrap()["number"].as_i64();
                let mut shown = shown.lock().unwrap();
                if push.class == Some(1) {
                    shown.gift_ms.push(u64::try_from(now_ms).unwrap().saturating_sub(u64::try_from(push.ts.unwrap()).unwrap()));
                    shown.gifts.push((user, number.unwrap()));
                } else {
                    shown.chats += 1;
                }
            }
        });
        apps.push((client, listening));
    }
    let (sent, gifts) = (AtomicI64::new(0), AtomicI64::new(0));
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..CALLERS {
            scope.spawn(|| {
                while began.elapsed() < MEASURED {
                    let number = sent.fetch_add(1, Ordering::Relaxed);
                    let is_gift = number % GIFT_EVERY == 0;
                    if !is_gift && !with_chat {
                        std::thread::sleep(Duration::from_millis(160));
                        continue;
                    }
                    let data = json!({ "number": number, "pad": "x".repeat(40) }).to_string();
                    let class = if is_gift { 1 } else { 2 };
                    api.push(&json!({"appId": 10001, "target": {"roomId": room}, "bizCode": 5568, "data": data, "class": class}));
                    gifts.fetch_add(i64::from(is_gift), Ordering::Relaxed);
                }
            });
        }
    });
    let wanted = usize::try_from(gifts.into_inner() * VIEWERS).unwrap();
    billfish_testing::eventually("each gift to be shown to each viewer", || shown.lock().unwrap().gifts.len() >= wanted);
    for (client, listening) in apps {
        runtime.block_on(async {
            client.close().await;
            listening.await.unwrap();
        });
    }
    let mut shown = std::mem::take(&mut *shown.lock().unwrap());
    shown.gifts.sort_unstable();
    shown.gifts.dedup();
    assert_eq!((shown.gift_ms.len(), shown.gifts.len()), (wanted, wanted), "each once");
    shown
}
