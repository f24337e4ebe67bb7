//! A blocking client for each transport, and a house with all doors open.

use crate::{
    authority::Authority,
    house::{APP, House, PATIENCE, Router, login_body},
};
use billfish_gateway::GatewayConfig;
use billfish_websocket::{Decoder, Event, Opcode, Role, close_into, frame_into, handshake};
use billfish_wire::{Body, Code, Encoding, envelope, frame};
use rustls::{ClientConfig, ClientConnection, StreamOwned, pki_types::ServerName};
use serde_json::json;
use std::{
    collections::VecDeque,
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
};

/// Everything by which a client may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Tcp,
    WsText,
    WsBinary,
    /// The path is the LOGIN.
    WsPath,
    Tls,
    Wss,
}

impl Kind {
    pub(crate) const ALL: [Self; 6] = [Self::Tcp, Self::WsText, Self::WsBinary, Self::WsPath, Self::Tls, Self::Wss];

    /// The door it comes in by.
    pub(crate) const fn door(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::WsText | Self::WsBinary | Self::WsPath => "ws",
            Self::Tls | Self::Wss => "tls",
        }
    }

    pub(crate) const fn is_websocket(self) -> bool {
        !matches!(self, Self::Tcp | Self::Tls)
    }

    pub(crate) const fn is_text(self) -> bool {
        matches!(self, Self::WsText | Self::WsPath | Self::Wss)
    }
}

/// A gateway with every door, its router, and who vouches for it.
pub(crate) struct Open {
    pub(crate) house: House,
    pub(crate) router: Router,
    pub(crate) authority: Authority,
    pub(crate) tls: Arc<ClientConfig>,
}

impl Open {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut GatewayConfig)) -> Self {
        let authority = Authority::new();
        authority.write("first", &["localhost"]);
        let files = json!({"certificate": authority.certificate("first"), "key": authority.key("first")});
        let (house, router) = House::with(|config| {
            config.tls.certificates = vec![serde_json::from_value(files).unwrap()];
            change(config);
        });
        let tls = Arc::new(authority.client(rustls::ALL_VERSIONS));
        Self { house, router, authority, tls }
    }

    pub(crate) fn address(&self, kind: Kind) -> SocketAddr {
        self.house.running().bound()[kind.door()]
    }

    pub(crate) fn socket(&self, kind: Kind) -> TcpStream {
        patient(TcpStream::connect(self.address(kind)).unwrap())
    }

    /// One whose kernel buffer holds little.
    pub(crate) fn narrow_socket(&self, kind: Kind) -> TcpStream {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(4 * 1024).unwrap();
        socket.connect(&self.address(kind).into()).unwrap();
        patient(socket.into())
    }

    /// A connection over which frames may be sent, with nothing sent. [`Kind::WsPath`] has no such moment, and is as [`Kind::WsText`].
    pub(crate) fn connect(&self, kind: Kind) -> Peer {
        self.connect_over(kind, self.socket(kind))
    }

    pub(crate) fn connect_over(&self, kind: Kind, socket: TcpStream) -> Peer {
        Peer::over(kind, self.wire(kind, socket), "/ws")
    }

    pub(crate) fn wire(&self, kind: Kind, socket: TcpStream) -> Wire {
        match kind.door() {
            "tls" => Wire::sealed(socket, &self.tls, "localhost"),
            _ => Wire::Plain(socket),
        }
    }

    /// A connection that has said LOGIN, however it does that.
    pub(crate) fn knock(&self, kind: Kind, user_id: i64, token: &str, more: Body) -> Peer {
        self.knock_over(kind, self.socket(kind), user_id, token, more)
    }

    pub(crate) fn knock_over(&self, kind: Kind, socket: TcpStream, user_id: i64, token: &str, more: Body) -> Peer {
        if kind == Kind::WsPath {
            let token = token.replace('%', "%25");
            return Peer::over(kind, self.wire(kind, socket), &format!("/{token}/{user_id}/0/0"));
        }
        let mut peer = self.connect_over(kind, socket);
        peer.send(Code::Login, &Body { app_id: Some(APP), user_id: Some(user_id), token: Some(token.to_owned()), ..more });
        peer
    }

    pub(crate) fn login(&self, kind: Kind, user_id: i64) -> Peer {
        self.login_over(kind, self.socket(kind), user_id)
    }

    pub(crate) fn login_over(&self, kind: Kind, socket: TcpStream, user_id: i64) -> Peer {
        let token = self.house.token(user_id, None, 300_000);
        let mut peer = self.knock_over(kind, socket, user_id, &token, Body::default());
        peer.expect_login();
        peer
    }

    pub(crate) fn join(&self, kind: Kind, user_id: i64, room_id: i64) -> Peer {
        self.join_over(kind, self.socket(kind), user_id, room_id)
    }

    pub(crate) fn join_over(&self, kind: Kind, socket: TcpStream, user_id: i64, room_id: i64) -> Peer {
        let mut peer = self.login_over(kind, socket, user_id);
        peer.send(Code::Join, &Body { room_id: Some(room_id), ..Body::default() });
        peer.expect(Code::Join);
        peer
    }

    pub(crate) fn login_frame(&self, user_id: i64) -> Body {
        login_body(user_id, &self.house.token(user_id, None, 300_000))
    }

    pub(crate) fn closes(&self, reason: &str) -> f64 {
        self.house.metric("gateway_closes_total", &[&format!(r#"reason="{reason}""#)])
    }

    /// `copies = delivered + dropped + pending`.
    pub(crate) fn assert_the_books_balance(&self) {
        crate::house::until("the books to balance", || {
            let account = self.house.running().account();
            account.copies == account.delivered + account.dropped + account.pending
        });
    }
}

pub(crate) fn patient(stream: TcpStream) -> TcpStream {
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// The stream, with TLS or without.
pub(crate) enum Wire {
    Plain(TcpStream),
    Sealed(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Wire {
    /// A handshake that has come to its end.
    pub(crate) fn sealed(mut socket: TcpStream, config: &Arc<ClientConfig>, name: &'static str) -> Self {
        let name = ServerName::try_from(name).unwrap();
        let mut session = ClientConnection::new(Arc::clone(config), name).unwrap();
        while session.is_handshaking() {
            session.complete_io(&mut socket).unwrap();
        }
        Self::Sealed(Box::new(StreamOwned::new(session, socket)))
    }

    pub(crate) fn session(&mut self) -> &mut ClientConnection {
        match self {
            Self::Plain(_) => panic!("there is no TLS"),
            Self::Sealed(stream) => &mut stream.conn,
        }
    }

    pub(crate) fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Sealed(stream) => &stream.sock,
        }
    }
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer),
            Self::Sealed(stream) => stream.read(buffer),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(bytes),
            Self::Sealed(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.flush(),
            Self::Sealed(stream) => stream.flush(),
        }
    }
}

/// What a server says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Heard {
    Frame(Code, Box<Body>),
    /// A WebSocket's last word.
    Close(Option<u16>, String),
    Pong(Vec<u8>),
    /// The stream has ended in order.
    End,
    /// It was reset, or TLS did not say that it ends.
    Broken,
}

/// A client of any kind.
pub(crate) struct Peer {
    pub(crate) kind: Kind,
    pub(crate) wire: Wire,
    decoder: Decoder,
    received: Vec<u8>,
    waiting: VecDeque<Heard>,
}

/// Any will do: what it is for is to differ from others on the way, and here nothing is on the way.
pub(crate) const KEY: [u8; 16] = *b"0123456789abcdef";
const MASK: [u8; 4] = [0x12, 0x34, 0x56, 0x78];

impl Peer {
    /// Without a handshake of WebSocket's.
    pub(crate) fn bare(kind: Kind, wire: Wire) -> Self {
        Self { kind, wire, decoder: Decoder::default(), received: Vec::new(), waiting: VecDeque::new() }
    }

    fn over(kind: Kind, wire: Wire, path: &str) -> Self {
        let mut peer = Self::bare(kind, wire);
        if kind.is_websocket() {
            let mut request = Vec::new();
            handshake::request_into(&mut request, "localhost", path, None, &KEY).unwrap();
            peer.write(&request);
            peer.expect_upgrade();
        }
        peer
    }

    pub(crate) fn expect_upgrade(&mut self) {
        loop {
            if let Some(taken) = handshake::parse_response(&self.received, &KEY).unwrap() {
                let mut behind = self.received.split_off(taken);
                self.received.clear();
                self.decode(&mut behind);
                return;
            }
            let more = self.read_some();
            assert!(!more.is_empty(), "the connection ended before the upgrade");
            self.received.extend(more);
        }
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.wire.write_all(bytes).unwrap();
        self.wire.flush().unwrap();
    }

    pub(crate) fn send(&mut self, code: Code, body: &Body) {
        let bytes = self.bytes(code, body);
        self.write(&bytes);
    }

    /// A frame as this kind of client sends it.
    pub(crate) fn bytes(&self, code: Code, body: &Body) -> Vec<u8> {
        let bare = frame::encode(Encoding::Json, code, body).to_vec();
        if self.kind.is_websocket() { self.message(&bare) } else { bare }
    }

    /// A frame of any bytes, as this kind of client sends it.
    pub(crate) fn message(&self, bare: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        match self.kind {
            Kind::Tcp | Kind::Tls => out.extend_from_slice(bare),
            Kind::WsBinary => frame_into(&mut out, Opcode::Binary, bare, Some(MASK)),
            Kind::WsText | Kind::WsPath | Kind::Wss => {
                let code = i32::from_be_bytes(bare[2..6].try_into().unwrap());
                let mut text = Vec::new();
                envelope::encode_raw_into(&mut text, code, std::str::from_utf8(&bare[10..]).unwrap());
                frame_into(&mut out, Opcode::Text, &text, Some(MASK));
            }
        }
        out
    }

    pub(crate) fn control(&mut self, opcode: Opcode, payload: &[u8]) {
        let mut out = Vec::new();
        frame_into(&mut out, opcode, payload, Some(MASK));
        self.write(&out);
    }

    pub(crate) fn close(&mut self, code: u16) {
        let mut out = Vec::new();
        close_into(&mut out, code, "", Some(MASK));
        self.write(&out);
    }

    /// A read's worth; nothing at the end of the stream.
    fn read_some(&mut self) -> Vec<u8> {
        let mut buffer = vec![0; 16 * 1024];
        match self.wire.read(&mut buffer) {
            Ok(read) => {
                buffer.truncate(read);
                buffer
            }
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof | ErrorKind::InvalidData) => {
                self.waiting.push_back(Heard::Broken);
                Vec::new()
            }
            Err(error) => panic!("{:?}: {error}", self.kind),
        }
    }

    pub(crate) fn hear(&mut self) -> Heard {
        loop {
            if let Some(heard) = self.waiting.pop_front() {
                return heard;
            }
            let mut more = self.read_some();
            if more.is_empty() {
                self.waiting.push_back(Heard::End);
                continue;
            }
            self.decode(&mut more);
        }
    }

    fn decode(&mut self, more: &mut [u8]) {
        if !self.kind.is_websocket() {
            self.received.extend_from_slice(more);
            while let Some((frame, taken)) = frame::decode(&self.received, 1 << 20).expect("the server's frames are right") {
                self.waiting.push_back(heard(frame.code, frame.encoding, frame.body));
                self.received.drain(..taken);
            }
            return;
        }
        let mut messages = self.decoder.feed(Role::Client, more);
        while let Some(event) = messages.next(1 << 20).expect("the server's messages are right") {
            self.waiting.push_back(match event {
                Event::Text(text) => {
                    assert!(self.kind.is_text(), "a binary session stays binary: {text}");
                    let envelope = envelope::decode(text, 1 << 20).expect("the server's envelopes are right");
                    heard(envelope.code, Encoding::Json, envelope.body.as_bytes())
                }
                Event::Binary(message) => {
                    assert!(!self.kind.is_text(), "a text session stays text");
                    let (frame, taken) = frame::decode(message, 1 << 20).unwrap().expect("a message is a frame");
                    assert_eq!(taken, message.len(), "and exactly one");
                    heard(frame.code, frame.encoding, frame.body)
                }
                Event::Pong(payload) => Heard::Pong(payload.to_vec()),
                Event::Ping(_) => panic!("the server sends no pings"),
                Event::Close { code, reason } => Heard::Close(code, reason.to_owned()),
            });
        }
    }

    /// The next frame, which must be of this kind.
    pub(crate) fn expect(&mut self, code: Code) -> Body {
        match self.hear() {
            Heard::Frame(got, body) if got == code => *body,
            other => panic!("{:?}: {other:?} instead of a {code:?}", self.kind),
        }
    }

    /// The answer to LOGIN, by whatever name.
    pub(crate) fn expect_login(&mut self) -> Body {
        self.expect(if self.kind == Kind::WsPath { Code::WsShake } else { Code::Login })
    }

    pub(crate) fn beat(&mut self) {
        self.send(Code::Heartbeat, &Body::default());
        self.expect(Code::Heartbeat);
    }

    /// Nothing more comes but the end, and a WebSocket says before it why.
    pub(crate) fn expect_end(&mut self, close_code: u16) {
        if self.kind.is_websocket() {
            let heard = self.hear();
            assert!(matches!(heard, Heard::Close(Some(code), _) if code == close_code), "{:?}: {heard:?}", self.kind);
        }
        assert_eq!(self.hear(), Heard::End, "{:?}", self.kind);
    }

    /// Everything up to the end.
    pub(crate) fn hear_all(&mut self) -> Vec<Heard> {
        let mut all = Vec::new();
        loop {
            let heard = self.hear();
            let is_end = matches!(heard, Heard::End | Heard::Broken);
            all.push(heard);
            if is_end {
                return all;
            }
        }
    }
}

fn heard(code: i32, encoding: Encoding, body: &[u8]) -> Heard {
    let code = Code::from_number(code).expect("the server's codes are known");
    Heard::Frame(code, Box::new(Body::decode(encoding, body).expect("the server's bodies are right")))
}
