//! Properties of the layers over real sockets: neither the cuts of a stream nor what a socket takes at a time can be seen above them.

use super::{Bounds, End, Entrance, Scratch, Transport, WebSocketRules};
use billfish_session::Form;
use billfish_websocket::{Decoder, Event, Opcode, Role, frame_into, handshake};
use billfish_wire::{Body, Code, Encoding, envelope, frame};
use proptest::prelude::*;
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer},
};
use std::{
    io::{self, IoSlice, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, LazyLock},
};

/// One certificate for all cases.
static TLS: LazyLock<(Arc<ServerConfig>, Arc<ClientConfig>)> = LazyLock::new(|| {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let certificate: CertificateDer<'static> = made.cert.der().clone();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let server = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate.clone()], key).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let client = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    (Arc::new(server), Arc::new(client))
});

/// A gateway's transport and its client, in one thread over a loopback connection.
struct Pair {
    transport: Transport,
    scratch: Scratch,
    /// Frames that came up so far.
    frames: Vec<u8>,
    client: TcpStream,
    session: Option<ClientConnection>,
}

impl Pair {
    fn new(is_sealed: bool, entrance: &Entrance, buffer_bytes: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(buffer_bytes).unwrap();
        socket.connect(&listener.local_addr().unwrap().into()).unwrap();
        let client = TcpStream::from(socket);
        let (server, _) = listener.accept().unwrap();
        socket2::SockRef::from(&server).set_send_buffer_size(buffer_bytes).unwrap();
        for socket in [&client, &server] {
            socket.set_nonblocking(true).unwrap();
            socket.set_nodelay(true).unwrap();
        }
        let transport = Transport::enter(mio::net::TcpStream::from_std(server), entrance).unwrap();
        let session = is_sealed.then(|| ClientConnection::new(Arc::clone(&TLS.1), "localhost".try_into().unwrap()).unwrap());
        Self { transport, scratch: Scratch::default(), frames: Vec::new(), client, session }
    }

    /// The gateway reads what has arrived, `cut` bytes at a time, and answers what the layers want answered.
    fn read(&mut self, cut: usize) {
        let rules = WebSocketRules::default();
        let bounds = Bounds { login_body_bytes_max: 65_536, body_bytes_max: 65_536, websocket: &rules };
        let mut buffer = vec![0; cut];
        loop {
            match self.transport.read(&mut buffer) {
                Ok(0) => panic!("the client does not close"),
                Ok(read) => {
                    let found = self.transport.open(&mut buffer[..read], bounds, &mut self.scratch).unwrap();
                    assert_eq!(found.end, None);
                    self.frames.extend_from_slice(self.scratch.frames());
                    let reply = std::mem::take(self.scratch.reply_mut());
                    if !reply.is_empty() {
                        let written = self.transport.write(&reply, &mut self.scratch).unwrap();
                        assert_eq!(written, reply.len(), "an empty socket takes a handshake");
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// The client writes all of `bytes`, a piece at a time, while the gateway reads.
    fn say(&mut self, bytes: &[u8], piece: usize, cut: usize) {
        for piece in bytes.chunks(piece) {
            match &mut self.session {
                None => self.send(piece, cut),
                Some(session) => {
                    session.writer().write_all(piece).unwrap();
                    self.send_records(cut);
                }
            }
        }
    }

    fn send(&mut self, mut bytes: &[u8], cut: usize) {
        while !bytes.is_empty() {
            match self.client.write(bytes) {
                Ok(sent) => bytes = &bytes[sent..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => panic!("{error}"),
            }
            self.read(cut);
        }
    }

    fn send_records(&mut self, cut: usize) {
        let mut records = Vec::new();
        let session = self.session.as_mut().unwrap();
        while session.wants_write() {
            session.write_tls(&mut records).unwrap();
        }
        self.send(&records, cut);
    }

    /// What the client can read now, at most so many bytes off the wire.
    fn hear(&mut self, bytes_max: usize) -> Vec<u8> {
        let mut wire = vec![0; bytes_max];
        let read = match self.client.read(&mut wire) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => panic!("{error}"),
        };
        wire.truncate(read);
        let Some(session) = &mut self.session else { return wire };
        let mut plain = Vec::new();
        let mut left = &wire[..];
        while !left.is_empty() {
            session.read_tls(&mut left).unwrap();
            session.process_new_packets().unwrap();
            match session.reader().read_to_end(&mut plain) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => drop(read.unwrap()),
            }
        }
        plain
    }

    fn shake_hands(&mut self, cut: usize) {
        while self.session.as_ref().is_some_and(|session| session.is_handshaking()) {
            self.send_records(cut);
            let plain = self.hear(1 << 16);
            assert!(plain.is_empty());
        }
        if self.session.is_some() {
            self.send_records(cut);
            // The client's last flight may still be on its way through the loopback.
            while !self.transport.takes_words() {
                self.read(cut);
            }
        }
    }

    /// Asks for a WebSocket; gives what came behind the answer.
    fn upgrade(&mut self, piece: usize, cut: usize) -> Vec<u8> {
        let mut request = Vec::new();
        let key = b"0123456789abcdef";
        handshake::request_into(&mut request, "localhost", "/ws", None, key).unwrap();
        self.say(&request, piece, cut);
        let mut heard = Vec::new();
        loop {
            self.read(cut);
            heard.extend(self.hear(1 << 16));
            if let Some(taken) = handshake::parse_response(&heard, key).unwrap() {
                return heard.split_off(taken);
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Door {
    Ws,
    Tls,
    Wss,
}

impl Door {
    fn entrance(self) -> Entrance {
        match self {
            Self::Ws => Entrance::WebSocket,
            Self::Tls | Self::Wss => Entrance::Tls(Arc::clone(&TLS.0)),
        }
    }

    fn is_websocket(self) -> bool {
        self != Self::Tls
    }
}

fn any_door() -> impl Strategy<Value = Door> {
    prop_oneof![Just(Door::Ws), Just(Door::Tls), Just(Door::Wss)]
}

fn any_bodies() -> impl Strategy<Value = Vec<Body>> {
    let body = ("[a-zé☃ ]{0,40}", 0_usize..3_000).prop_map(|(text, more)| Body { data: Some(text + &"x".repeat(more)), ..Body::default() });
    proptest::collection::vec(body, 1..12)
}

/// Nobody waits for a ticket, so it is no write of its own.
#[test]
fn a_ticket_goes_with_the_first_words() {
    let mut pair = Pair::new(true, &Door::Tls.entrance(), 64 * 1024);
    pair.shake_hands(4_096);
    assert!(pair.transport.unsent_bytes() > 0, "it waits");
    assert!(pair.hear(1 << 16).is_empty());
    assert_eq!(pair.session.as_ref().unwrap().tls13_tickets_received(), 0, "in the gateway");
    let words = frame::encode(Encoding::Json, Code::Heartbeat, &Body::default());
    assert_eq!(pair.transport.write(&words, &mut pair.scratch).unwrap(), words.len());
    assert_eq!(pair.transport.unsent_bytes(), 0);
    assert_eq!(pair.hear(1 << 16), words);
    assert!(pair.session.as_ref().unwrap().tls13_tickets_received() > 0);
}

#[test]
fn a_ticket_goes_with_the_end_where_nothing_is_said() {
    let mut pair = Pair::new(true, &Door::Tls.entrance(), 64 * 1024);
    pair.shake_hands(4_096);
    assert!(pair.transport.flush().unwrap(), "nobody waits for it");
    assert!(pair.hear(1 << 16).is_empty());
    assert_eq!(pair.session.as_ref().unwrap().tls13_tickets_received(), 0);
    pair.transport.finish().unwrap();
    assert_eq!(pair.transport.unsent_bytes(), 0);
    assert!(pair.hear(1 << 16).is_empty());
    assert!(pair.session.as_ref().unwrap().tls13_tickets_received() > 0);
}

/// Half of a handshake message is held up to the bound, and not a byte beyond it.
#[test]
fn one_byte_more_of_a_handshake_than_is_held_ends_it() {
    let mut pair = Pair::new(false, &Door::Tls.entrance(), 64 * 1024);
    // A message of 60,000 bytes, of which a record comes and most of another.
    let mut begun = [&[0x16, 3, 1, 0x40, 0, 1, 0, 0xEA, 0x60][..], &[0; 16 * 1024 - 4], &[0x16, 3, 1, 0x40, 0]].concat();
    begun.resize(20 * 1024, 0);
    let rules = WebSocketRules::default();
    let bounds = Bounds { login_body_bytes_max: 65_536, body_bytes_max: 65_536, websocket: &rules };
    let mut open = |bytes: &mut [u8]| pair.transport.open(bytes, bounds, &mut pair.scratch).unwrap().end;
    assert_eq!(open(&mut begun), None);
    assert_eq!(open(&mut [0]), Some(End::Failed));
}

/// A piece of any size, small ones more often.
fn any_piece() -> impl Strategy<Value = usize> {
    prop_oneof![1_usize..8, 1_usize..200, 1_usize..20_000]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever the client writes at a time and the gateway reads at a time, the same frames come up.
    #[test]
    fn cuts_do_not_change_what_comes_up(
        door in any_door(),
        bodies in any_bodies(),
        is_text in any::<bool>(),
        piece in any_piece(),
        cut in 3_usize..5_000,
    ) {
        let mut pair = Pair::new(door != Door::Ws, &door.entrance(), 64 * 1024);
        pair.shake_hands(cut);
        let (mut said, mut expected) = (Vec::new(), Vec::new());
        for body in &bodies {
            let bare = frame::encode(Encoding::Json, Code::Biz, body);
            expected.extend_from_slice(&bare);
            if !door.is_websocket() {
                said.extend_from_slice(&bare);
            } else if is_text {
                let mut text = Vec::new();
                envelope::encode_into(&mut text, Code::Biz, body);
                frame_into(&mut said, Opcode::Text, &text, Some([1, 2, 3, 4]));
            } else {
                frame_into(&mut said, Opcode::Binary, &bare, Some([5, 6, 7, 8]));
            }
        }
        if door.is_websocket() {
            prop_assert!(pair.upgrade(piece, cut).is_empty());
        }
        pair.say(&said, piece, cut);
        while pair.frames.len() < expected.len() {
            pair.read(cut);
        }
        prop_assert_eq!(&pair.frames, &expected);
        // Nothing is kept of what is over, but for what TLS is.
        prop_assert!(!pair.transport.is_partial());
        prop_assert_eq!(!pair.transport.has_layers(), door == Door::Ws);
    }

    /// A socket that takes little at a time, and is written to from any number of slices: everything arrives once and in order.
    #[test]
    fn what_a_socket_takes_does_not_change_what_arrives(
        door in any_door(),
        bodies in proptest::collection::vec(("[a-z]{0,9}", 0_usize..40_000), 1..12),
        slices in 1_usize..6,
        read_bytes in 500_usize..30_000,
    ) {
        let mut pair = Pair::new(door != Door::Ws, &door.entrance(), 4 * 1024);
        pair.shake_hands(4_096);
        let mut heard = match door.is_websocket() {
            true => pair.upgrade(4_096, 4_096),
            false => {
                // The first byte says what it is.
                pair.say(&frame::encode(Encoding::Json, Code::Heartbeat, &Body::default()), 4_096, 4_096);
                while pair.frames.is_empty() {
                    pair.read(4_096);
                }
                Vec::new()
            }
        };
        let form = pair.transport.form(Encoding::Json);
        prop_assert_eq!(form, if door.is_websocket() { Form::Text } else { Form::Json });
        let mut out = Vec::new();
        for (text, more) in &bodies {
            form.encode_into(&mut out, Code::Biz, &Body { data: Some(text.clone() + &"y".repeat(*more)), ..Body::default() });
        }
        let mut taken = 0;
        let mut is_flushed = false;
        let mut turns = 0;
        while heard.len() < out.len() {
            turns += 1;
            prop_assert!(turns < 1_000_000, "{} of {} heard, {taken} taken", heard.len(), out.len());
            if taken < out.len() {
                let left = &out[taken..];
                let pieces: Vec<IoSlice<'_>> = left.chunks(left.len().div_ceil(slices)).map(IoSlice::new).collect();
                taken += pair.transport.write_vectored(&pieces, &mut pair.scratch).unwrap();
            } else if !is_flushed {
                is_flushed = pair.transport.flush().unwrap();
            }
            let more = pair.hear(read_bytes);
            heard.extend(more);
        }
        prop_assert!(heard == out);
        prop_assert_eq!(pair.transport.unsent_bytes(), 0);
        if door.is_websocket() {
            let mut decoder = Decoder::default();
            let mut messages = decoder.feed(Role::Client, &mut heard);
            let mut count = 0;
            while let Some(event) = messages.next(1 << 20).unwrap() {
                prop_assert!(matches!(event, Event::Text(_)));
                count += 1;
            }
            prop_assert_eq!(count, bodies.len());
        }
    }
}
