//! A gateway that says exactly what a test tells it to.

use billfish_client::{Client, ClientConfig, Event, Events, Ticket, TokenProvider};
use billfish_wire::{Body, Code, Encoding, Reassembler, frame, limits::BODY_BYTES_MAX, snapshot::RoomSnapshot};
use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

/// The room of all tests.
pub(crate) const ROOM: i64 = 77;
/// The user of all tests.
pub(crate) const USER: i64 = 10_086;
/// Nothing here takes this long unless it never comes.
const PATIENCE: Duration = Duration::from_secs(20);

/// Listens; every connection is scripted by the test.
pub(crate) struct Gateway {
    listener: TcpListener,
}

impl Gateway {
    pub(crate) async fn open() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").await.expect("a free port") }
    }

    pub(crate) fn address(&self) -> String {
        self.listener.local_addr().expect("it is bound").to_string()
    }

    /// A client of this gateway whose tokens are `token-1`, `token-2`, …
    pub(crate) fn config(&self) -> ClientConfig {
        config_for(vec![self.address()])
    }

    pub(crate) async fn accept_raw(&self) -> TcpStream {
        timeout(PATIENCE, self.listener.accept()).await.expect("the client connects").expect("accepted").0
    }

    pub(crate) async fn accept(&self) -> Connection {
        let stream = self.accept_raw().await;
        stream.set_nodelay(true).expect("a fresh socket");
        Connection { stream, reassembler: Reassembler::default(), frames: VecDeque::new() }
    }

    /// Accepts, and answers the LOGIN; gives it as well.
    pub(crate) async fn accept_login(&self) -> (Connection, Body) {
        let mut connection = self.accept().await;
        let login = connection.expect(Code::Login).await;
        connection.send(Code::Login, &login_answer()).await;
        (connection, login)
    }

    /// The LOGIN of whoever comes next, not answered.
    pub(crate) async fn accept_unanswered(&self) -> (Connection, Body) {
        let mut connection = self.accept().await;
        let login = connection.expect(Code::Login).await;
        (connection, login)
    }

    /// Whether someone waits to be accepted.
    pub(crate) async fn has_caller(&self) -> bool {
        timeout(Duration::ZERO, self.listener.accept()).await.is_ok()
    }
}

/// Pauses are short: what is tested is not how long they are.
pub(crate) fn config_for(addresses: Vec<String>) -> ClientConfig {
    let issued = Arc::new(AtomicU32::new(0));
    let tokens = TokenProvider::new(move || {
        let token = format!("token-{}", issued.fetch_add(1, Ordering::Relaxed) + 1);
        let addresses = addresses.clone();
        async move { Ok(Ticket { token, addresses }) }
    });
    ClientConfig {
        inbox: false,
        backoff_min: Duration::from_millis(1),
        backoff_max: Duration::from_millis(2),
        jitter_seed: Some(1),
        ..ClientConfig::new(USER, tokens)
    }
}

pub(crate) fn connect(config: ClientConfig) -> (Client, Heard) {
    let (client, events) = Client::connect(config).expect("a valid configuration");
    (client, Heard(events))
}

/// Events with patience, and without the two that come with every connection.
pub(crate) struct Heard(pub(crate) Events);

impl Heard {
    pub(crate) async fn any(&mut self) -> Option<Event> {
        timeout(PATIENCE, self.0.next()).await.expect("an event comes")
    }

    /// The next event that is about more than connecting.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        loop {
            match self.any().await {
                Some(Event::Connecting { .. } | Event::Connected { .. } | Event::Disconnected { .. }) => {}
                other => return other,
            }
        }
    }

    /// The next line of chat.
    pub(crate) async fn chat(&mut self) -> String {
        loop {
            match self.next().await {
                Some(Event::Chat(chat)) => return chat.content,
                Some(Event::Joined { .. }) => {}
                other => panic!("chat was expected: {other:?}"),
            }
        }
    }
}

/// One connection of the client.
pub(crate) struct Connection {
    stream: TcpStream,
    reassembler: Reassembler,
    frames: VecDeque<(Code, Body)>,
}

impl Connection {
    /// The next frame; `None` when the client has closed.
    pub(crate) async fn receive(&mut self) -> Option<(Code, Body)> {
        while self.frames.is_empty() {
            let mut buffer = [0; 4096];
            let read = timeout(PATIENCE, self.stream.read(&mut buffer)).await.expect("the client speaks").unwrap_or(0);
            if read == 0 {
                return None;
            }
            let mut frames = self.reassembler.feed(&buffer[..read]);
            while let Some(frame) = frames.next(BODY_BYTES_MAX).expect("the client sends frames") {
                let body = Body::decode(frame.encoding, frame.body).expect("the client sends bodies");
                self.frames.push_back((Code::from_number(frame.code).expect("a known code"), body));
            }
        }
        self.frames.pop_front()
    }

    /// The first frame, with the encoding it came in.
    pub(crate) async fn first_encoding(&mut self) -> (Encoding, Body) {
        let mut magic = [0; 2];
        let peeked = timeout(PATIENCE, self.stream.peek(&mut magic)).await.expect("the client speaks").expect("readable");
        assert_eq!(peeked, 2, "a frame is written whole");
        let encoding = if magic == Encoding::Protobuf.magic().to_be_bytes() { Encoding::Protobuf } else { Encoding::Json };
        (encoding, self.expect(Code::Login).await)
    }

    /// The body of the next frame, which must have this code.
    pub(crate) async fn expect(&mut self, code: Code) -> Body {
        match self.receive().await {
            Some((received, body)) if received == code => body,
            other => panic!("{code:?} was expected: {other:?}"),
        }
    }

    pub(crate) async fn send(&mut self, code: Code, body: &Body) {
        self.send_raw(&frame::encode(Encoding::Json, code, body)).await;
    }

    /// A client that has gone needs nothing more.
    pub(crate) async fn send_raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.ok();
    }
}

pub(crate) fn login_answer() -> Body {
    Body { session_id: Some("s-1".to_owned()), node: Some("g-1".to_owned()), heartbeat_secs: Some(30), ..Body::yes() }
}

pub(crate) fn chat(seq: i64) -> Body {
    Body {
        room_id: Some(ROOM),
        seq: Some(seq),
        ts: Some(1_700_000_000_000),
        biz_code: Some(5555),
        data: Some(format!(r#"{{"roomId":{ROOM},"content":"line {seq}","senderId":10001,"senderName":"Ann"}}"#)),
        ..Body::default()
    }
}

/// JOIN's answer of a room that stands at `seq`, with what a client that saw `seen` has missed.
pub(crate) fn join_answer(seen: i64, seq: i64) -> Body {
    let snapshot = RoomSnapshot { audience: 2, messages: (seen + 1..=seq).map(chat).collect(), ..RoomSnapshot::default() };
    let data = serde_json::to_string(&snapshot).expect("plain data");
    Body { room_id: Some(ROOM), seq: Some(seq), data: Some(data), ..Body::default() }
}
