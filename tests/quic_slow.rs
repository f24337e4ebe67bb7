//! QUIC clients that give no credit: each costs what is set and no more, is told why it ends, and nobody else notices.

use crate::{
    house::{House, PATIENCE, Peer, eventually, login_body},
    quic::{believing, resident_bytes},
};
use billfish_wire::{Body, Code, Encoding, Reason, Reassembler, frame, limits::BODY_BYTES_MAX};
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint, RecvStream, SendStream, TransportConfig, VarInt};
use serde_json::json;
use std::sync::Arc;

const STALLED: i64 = 40;
const PROMPT: i64 = 5;
/// Of each push's data.
const PAD_BYTES: usize = 1_000;
/// What a stalled one may cost: its backlog, what is handed over, what is in flight, and the connection itself. See docs/security.md.
const STALLED_BYTES_MAX: u64 = (256 + 64 + 64 + 48) * 1024;
/// The room's log, whose bound is 1 MiB, and what a debug build has beside it.
const HOUSE_BYTES: u64 = 8 * 1024 * 1024;

/// A member of the room by QUIC.
struct Member {
    connection: Connection,
    _up: SendStream,
    answers: Stream,
}

/// Frames of one stream.
struct Stream {
    stream: RecvStream,
    reassembler: Reassembler,
    frames: Vec<(Code, Body)>,
}

impl Stream {
    fn new(stream: RecvStream) -> Self {
        Self { stream, reassembler: Reassembler::default(), frames: Vec::new() }
    }

    /// The next frame; `None` at the end of the stream or of the connection.
    async fn next(&mut self) -> Option<(Code, Body)> {
        while self.frames.is_empty() {
            let chunk = patiently(self.stream.read_chunk(64 * 1024, true)).await.ok()??;
            let mut frames = self.reassembler.feed(&chunk.bytes);
            while let Some(frame) = frames.next(16 * BODY_BYTES_MAX).unwrap() {
                self.frames.push((Code::from_number(frame.code).unwrap(), Body::decode(frame.encoding, frame.body).unwrap()));
            }
        }
        Some(self.frames.remove(0))
    }
}

async fn patiently<F: IntoFuture>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("patience has an end")
}

/// Logged in and in the room.
async fn enter(endpoint: &Endpoint, config: ClientConfig, house: &House, login: Body) -> Member {
    let connection = patiently(endpoint.connect_with(config, house.ports.quic, "localhost").unwrap()).await.unwrap();
    let (mut up, answers) = connection.open_bi().await.unwrap();
    up.write_all(&frame::encode(Encoding::Json, Code::Login, &login)).await.unwrap();
    let mut answers = Stream::new(answers);
    while answers.next().await.expect("an answer").0 != Code::Join {}
    Member { connection, _up: up, answers }
}

/// The number in a push; 0 behind the last.
fn number_of(body: &Body) -> Option<i64> {
    let data: serde_json::Value = serde_json::from_str(body.data.as_deref()?).unwrap();
    data["number"].as_i64()
}

/// The numbers of the pushes that come to a member by QUIC.
async fn read_all(connection: Connection) -> Vec<i64> {
    // What the room says by itself comes in streams of other classes, which are left as they are: who stops one has not read the protocol.
    let mut others = Vec::new();
    let stream = loop {
        let mut stream = patiently(connection.accept_uni()).await.unwrap();
        let mut class = [0];
        stream.read_exact(&mut class).await.unwrap();
        if class == [1] {
            break stream;
        }
        others.push(stream);
    };
    let (mut stream, mut numbers) = (Stream::new(stream), Vec::new());
    loop {
        match number_of(&stream.next().await.expect("the connection stays").1) {
            Some(0) => return numbers,
            number => numbers.extend(number),
        }
    }
}

/// The same by TCP.
fn read_all_by_tcp(mut peer: Peer) -> Vec<i64> {
    let mut numbers = Vec::new();
    loop {
        match number_of(&peer.expect(Code::Biz)) {
            Some(0) => return numbers,
            number => numbers.extend(number),
        }
    }
}

#[test]
fn readers_that_give_no_credit_cost_their_bound_get_4012_and_harm_nobody() {
    // Nobody is to end for another reason, however slow this machine is.
    let house = House::with("[gateway.session]\nheartbeat_gap = \"600s\"\n[gateway.backlog]\nwrite_stall = \"600s\"\n");
    let room = house.open_room(30_001);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let endpoint = runtime.block_on(async { Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap() });
    // Nor for silence that a client would hold against the server: a stalled one is sent nothing.
    let patient = || {
        let mut transport = TransportConfig::default();
        transport.max_idle_timeout(None);
        transport
    };
    let mut prompt_config = believing(&house);
    prompt_config.transport_config(Arc::new(patient()));
    let mut stalled_config = prompt_config.clone();
    let mut transport = patient();
    // As little as lets it hear LOGIN's and JOIN's answers. What is not read is not allowed anew.
    transport.stream_receive_window(VarInt::from_u32(2 * 1024));
    stalled_config.transport_config(Arc::new(transport));
    let login = |user| Body { room_id: Some(room), ..login_body(user, house.token(user)) };
    let enter_all = |users: std::ops::Range<i64>, config: &ClientConfig| -> Vec<Member> {
        let logins: Vec<Body> = users.map(login).collect();
        logins.into_iter().map(|login| runtime.block_on(enter(&endpoint, config.clone(), &house, login))).collect()
    };
    let prompt = enter_all(40_001..40_001 + PROMPT, &prompt_config);
    let stalled = enter_all(20_001..20_001 + STALLED, &stalled_config);
    let mut reading: Vec<_> = prompt.iter().map(|member| runtime.spawn(read_all(member.connection.clone()))).collect();
    for user in 50_001..50_001 + PROMPT {
        let mut peer = house.login(user);
        peer.join(room);
        reading.push(runtime.spawn_blocking(move || read_all_by_tcp(peer)));
    }

    let before = resident_bytes(house.pid());
    let too_slow = || house.metric("gateway_closes_total", &["reason=\"too_slow\""]);
    let (mut sent, mut most_backlog, mut most_resident) = (0, 0.0_f64, before);
    let push = |number: i64| {
        let data = json!({"number": number, "pad": "x".repeat(PAD_BYTES)}).to_string();
        let push = json!({"appId": 10001, "target": {"roomId": room}, "bizCode": 5568, "data": data, "class": 1});
        assert_eq!(house.api("POST", "/v1/im/push", push).0, 200);
    };
    while too_slow() < STALLED as f64 {
        sent += 1;
        push(sent);
        most_backlog = most_backlog.max(house.metric("gateway_backlog_bytes", &[]));
        most_resident = most_resident.max(resident_bytes(house.pid()));
        assert!(sent < 2_000, "they are never ended");
    }
    // Beyond what may wait there is one frame at most.
    let backlog_max = STALLED as f64 * (256.0 * 1024.0 + 2.0 * PAD_BYTES as f64);
    assert!(most_backlog > 0.0 && most_backlog <= backlog_max, "{most_backlog} bytes in backlogs");
    let grown = most_resident - before;
    eprintln!("{STALLED} stalled readers: {} KiB in backlogs, {} KiB more memory at the most", most_backlog as u64 / 1024, grown / 1024);
    assert!(grown <= STALLED.unsigned_abs() * STALLED_BYTES_MAX + HOUSE_BYTES, "{grown} bytes for {STALLED} readers");

    // All of it, in order, whatever became of the others.
    let everything: Vec<i64> = (1..=sent).collect();
    push(0);
    for reading in reading {
        assert_eq!(runtime.block_on(reading).unwrap(), everything);
    }
    for Member { connection, mut answers, .. } in stalled {
        let (kick, ended) = runtime.block_on(async {
            let mut kick = None;
            while let Some((code, body)) = answers.next().await {
                kick = (code == Code::Kick).then_some(body).or(kick);
            }
            (kick, patiently(connection.closed()).await)
        });
        assert_eq!(kick.and_then(|kick| kick.code), Reason::TooSlow.number());
        assert!(matches!(&ended, ConnectionError::ApplicationClosed(close) if close.error_code.into_inner() == 4012), "{ended:?}");
    }
    eventually("nothing is kept for them", || house.metric("gateway_backlogs", &[]) < 0.5);
    eventually("every copy is accounted for", || {
        let [copies, delivered, dropped] =
            ["copies", "deliveries", "frames_dropped"].map(|what| house.metric(&format!("gateway_{what}_total"), &[]));
        (copies - delivered - dropped).abs() < 0.5
    });
    drop(prompt);
}
