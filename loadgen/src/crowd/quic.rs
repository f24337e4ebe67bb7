//! QUIC: the crowd's connections over a few sockets, each client's streams, and what is due by their timers.
//!
//! ```text
//!   socket ─ datagrams ─► endpoint ─► a client's link ─► streams ─► frames
//!   a link that something happened to is driven once, before the event loop waits and behind each batch of datagrams
//! ```
//!
//! - A link costs some 23 kB, nearly all of it quinn-proto's and its keys; the windows are small, and what came is read at once.
//! - A socket serves [`CLIENTS_PER_SOCKET`] clients. What its kernel buffer does not take is kept up to a bound, and beyond it lost, as on any way.
//! - Each timer stands once in a set by its time, and is looked at again rather than moved when it was put off.
//! - Nobody tells a client of QUIC that its gateway is dead: an echo that does not come within [`ECHO_WAIT_NS`] does.

use crate::{
    clock,
    crowd::{
        Crowd,
        client::{Cause, Client, Stage},
        connecting::source_of,
        connection::UNSENT_BYTES_MAX,
        shared::Shared,
    },
    transport::{self, TlsPlan},
};
use anyhow::{Context, Result};
use billfish_wire::{Class, Code, Reassembler, limits::BODY_BYTES_MAX};
use bytes::{Bytes, BytesMut};
use mio::{Interest, Token, net::UdpSocket};
use quinn_proto::{
    ClientConfig, Connection, ConnectionError, ConnectionHandle, DatagramEvent, Dir, EcnCodepoint, Endpoint, EndpointConfig, EndpointEvent,
    Event, ReadError, StreamEvent, StreamId, TokenStore, TransportConfig, VarInt, WriteError, crypto::rustls::QuicClientConfig,
};
use quinn_udp::{RecvMeta, UdpSocketState};
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    array,
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    io::{self, IoSliceMut},
    mem,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// Clients of one socket: a message to all of them is some 50 KB in the kernel, a quarter of what a socket may hold there by default.
const CLIENTS_PER_SOCKET: usize = 64;
/// What a socket asks the kernel for; it gives `net.core.rmem_max` at most.
const SOCKET_BYTES: usize = 4 * 1024 * 1024;
/// Datagrams kept for a socket that takes no more.
const UNSENT_DATAGRAMS_MAX: usize = 1_024;
/// Taken from a socket at once: so many buffers, each of which may hold several datagrams that the kernel has joined.
const BATCH: usize = 8;
const BATCH_BYTES: usize = 64 * 1024;
/// What the gateway may have in flight towards a client on a stream, and in all.
const STREAM_WINDOW_BYTES: u32 = 64 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 128 * 1024;
/// What a client may have in flight.
const SEND_WINDOW_BYTES: u64 = 16 * 1024;
/// What every path carries; looking for more would cost packets that no load asked for.
const MTU_BYTES: u16 = 1200;
/// The gateway answers or disconnects within 5 s; as long again for a machine that is busy.
pub(super) const ECHO_WAIT_NS: u64 = 10_000_000_000;
/// No client has this handle.
const NOBODY: usize = usize::MAX;

/// The sockets, and what all links have in common.
pub(super) struct Quic {
    endpoint: Endpoint,
    config: ClientConfig,
    /// Certificates looked at: each is a full handshake.
    looked_at: Arc<AtomicU64>,
    sockets: Vec<Port>,
    /// Which socket is bound to an address, by groups of its clients.
    socket_of: BTreeMap<(IpAddr, usize), usize>,
    /// Clients by their connection's handle.
    client_of: Vec<usize>,
    /// When each link with a timer is looked at next.
    timers: BTreeSet<(Instant, usize)>,
    /// Clients to whose links something happened.
    stirred: Vec<usize>,
    /// Heartbeats whose echo is due, by the time they were sent: one a client and gap.
    awaited: VecDeque<(u64, usize)>,
    datagrams: Box<[u8]>,
    packet: Vec<u8>,
}

impl fmt::Debug for Quic {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Quic").field("sockets", &self.sockets.len()).finish_non_exhaustive()
    }
}

/// A socket of some clients.
struct Port {
    socket: UdpSocket,
    state: UdpSocketState,
    unsent: VecDeque<Datagram>,
}

struct Datagram {
    to: SocketAddr,
    ecn: Option<EcnCodepoint>,
    bytes: Box<[u8]>,
}

/// One client's connection and its streams.
pub(super) struct Link {
    handle: ConnectionHandle,
    connection: Connection,
    port: usize,
    /// Its own, and those that the gateway has opened: one for each class that something was pushed in.
    streams: Vec<Stream>,
    /// Where it stands among the timers.
    looked_at_at: Option<Instant>,
    is_stirred: bool,
    /// The gateway has shown its certificate.
    is_full: bool,
    is_drained: bool,
}

impl fmt::Debug for Link {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Link").field("handle", &self.handle).finish_non_exhaustive()
    }
}

struct Stream {
    id: StreamId,
    kind: Kind,
    reassembler: Reassembler,
}

#[derive(Clone, Copy)]
enum Kind {
    /// The client's: answers come on it.
    Own,
    /// Opened by the gateway, which has not said for what.
    New,
    Pushes(Class),
}

impl Quic {
    pub(super) fn new(plan: &TlsPlan) -> Result<Self> {
        let (tls, looked_at) = transport::quic(plan)?;
        let mut transport = TransportConfig::default();
        transport
            .max_concurrent_bidi_streams(VarInt::from_u32(0))
            .max_concurrent_uni_streams(VarInt::from_u32(Class::ALL.len() as u32))
            .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
            .receive_window(VarInt::from_u32(CONNECTION_WINDOW_BYTES))
            .send_window(SEND_WINDOW_BYTES)
            // The gateway's holds: it is behind the end of a session.
            .max_idle_timeout(None)
            .keep_alive_interval(None)
            .datagram_receive_buffer_size(None)
            .datagram_send_buffer_size(0)
            .enable_segmentation_offload(false)
            .initial_mtu(MTU_BYTES)
            .mtu_discovery_config(None);
        let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).context("no AES-128 for QUIC")?));
        config.transport_config(Arc::new(transport)).token_store(Arc::new(Strangers));
        Ok(Self {
            endpoint: Endpoint::new(Arc::new(EndpointConfig::default()), None, false, None),
            config,
            looked_at,
            sockets: Vec::new(),
            socket_of: BTreeMap::new(),
            client_of: Vec::new(),
            timers: BTreeSet::new(),
            stirred: Vec::new(),
            awaited: VecDeque::new(),
            datagrams: vec![0; BATCH * BATCH_BYTES].into_boxed_slice(),
            packet: Vec::new(),
        })
    }

    /// Links that the endpoint knows, as far as their timers are gone with them.
    #[cfg(test)]
    pub(super) fn links(&self) -> usize {
        self.endpoint.open_connections().max(self.timers.len())
    }

    fn stir(&mut self, index: usize, link: &mut Link) {
        if !mem::replace(&mut link.is_stirred, true) {
            self.stirred.push(index);
        }
    }

    /// Sends what a link has to send now.
    fn transmit(&mut self, link: &mut Link, now: Instant) {
        loop {
            self.packet.clear();
            let Some(transmit) = link.connection.poll_transmit(now, 1, &mut self.packet) else { return };
            self.sockets[link.port].send(transmit.destination, transmit.ecn, &self.packet);
        }
    }

    /// What a link has to tell the endpoint.
    fn settle_with_endpoint(&mut self, link: &mut Link) {
        while let Some(event) = link.connection.poll_endpoint_events() {
            link.is_drained |= event.is_drained();
            if let Some(event) = self.endpoint.handle_event(link.handle, event) {
                link.connection.handle_event(event);
            }
        }
    }

    /// Puts a link among the timers, unless it is looked at before its next one is due.
    fn schedule(&mut self, index: usize, link: &mut Link) {
        let Some(due) = link.connection.poll_timeout() else { return };
        if link.looked_at_at.is_some_and(|at| at <= due) {
            return;
        }
        if let Some(at) = link.looked_at_at.replace(due) {
            self.timers.remove(&(at, index));
        }
        self.timers.insert((due, index));
    }
}

/// Every client is new to the gateway: none bears a token that another was given.
struct Strangers;

impl TokenStore for Strangers {
    fn insert(&self, _: &str, _: Bytes) {}

    fn take(&self, _: &str) -> Option<Bytes> {
        None
    }
}

impl Port {
    fn bind(address: IpAddr) -> io::Result<Self> {
        let address = SocketAddr::new(address, 0);
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))?;
        // What they do not take is lost and comes again, so less is no failure.
        drop(socket.set_recv_buffer_size(SOCKET_BYTES));
        drop(socket.set_send_buffer_size(SOCKET_BYTES));
        socket.bind(&address.into())?;
        let state = UdpSocketState::new((&socket).into())?;
        Ok(Self { socket: UdpSocket::from_std(socket.into()), state, unsent: VecDeque::new() })
    }

    fn send(&mut self, to: SocketAddr, ecn: Option<EcnCodepoint>, bytes: &[u8]) {
        // In order behind those that wait.
        if self.unsent.is_empty() && self.try_send(to, ecn, bytes) {
            return;
        }
        if self.unsent.len() < UNSENT_DATAGRAMS_MAX {
            self.unsent.push_back(Datagram { to, ecn, bytes: bytes.into() });
        }
    }

    /// `false`: the socket takes no more. What it refuses otherwise is lost, and sent again by whoever misses its acknowledgement.
    fn try_send(&self, destination: SocketAddr, ecn: Option<EcnCodepoint>, contents: &[u8]) -> bool {
        let ecn = ecn.and_then(|codepoint| quinn_udp::EcnCodepoint::from_bits(codepoint as u8));
        let transmit = quinn_udp::Transmit { destination, ecn, contents, segment_size: None, src_ip: None };
        !matches!(self.state.try_send((&self.socket).into(), &transmit), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    fn send_unsent(&mut self) {
        while let Some(Datagram { to, ecn, bytes }) = self.unsent.front() {
            if !self.try_send(*to, *ecn, bytes) {
                return;
            }
            self.unsent.pop_front();
        }
    }
}

impl Crowd<'_> {
    /// A client connects.
    pub(super) fn begin_quic(&mut self, index: usize, gateway: SocketAddr) {
        if let Err(cause) = self.try_begin_quic(index, gateway) {
            self.fail(index, cause);
        }
    }

    fn try_begin_quic(&mut self, index: usize, gateway: SocketAddr) -> Result<(), Cause> {
        let port = self.port_of(index, gateway).map_err(|error| format!("connect: {}", error.kind()))?;
        let Some(quic) = &mut self.quic else { return Ok(()) };
        let name = gateway.ip().to_string();
        let connected = quic.endpoint.connect(Instant::now(), quic.config.clone(), gateway, &name);
        let (handle, connection) = connected.map_err(|error| format!("connect: {error}"))?;
        if quic.client_of.len() <= handle.0 {
            quic.client_of.resize(handle.0 + 1, NOBODY);
        }
        quic.client_of[handle.0] = index;
        let mut link = Box::new(Link {
            handle,
            connection,
            port,
            streams: Vec::new(),
            looked_at_at: None,
            is_stirred: false,
            is_full: false,
            is_drained: false,
        });
        quic.stir(index, &mut link);
        self.connections[index].quic = Some(link);
        Ok(())
    }

    /// The socket that a client shares with some others.
    fn port_of(&mut self, index: usize, gateway: SocketAddr) -> io::Result<usize> {
        let plan = self.shared.plan;
        let address = match source_of(plan, index, gateway) {
            Some(source) => source.into(),
            None if gateway.is_ipv4() => IpAddr::from(Ipv4Addr::UNSPECIFIED),
            None => Ipv6Addr::UNSPECIFIED.into(),
        };
        let Some(quic) = &mut self.quic else { return Err(io::ErrorKind::Unsupported.into()) };
        let place = (address, index / plan.sources.max(1) / CLIENTS_PER_SOCKET);
        if let Some(&port) = quic.socket_of.get(&place) {
            return Ok(port);
        }
        let mut port = Port::bind(address)?;
        let at = quic.sockets.len();
        self.poll.registry().register(&mut port.socket, Token(at), Interest::READABLE | Interest::WRITABLE)?;
        quic.sockets.push(port);
        quic.socket_of.insert(place, at);
        Ok(at)
    }

    /// Before the event loop waits: drives whom something happened to, and says how long there is until the next timer.
    pub(super) fn turn_quic(&mut self, wait: Duration) -> Duration {
        if self.quic.is_none() {
            return wait;
        }
        self.give_up_silent();
        let now = Instant::now();
        while let Some(quic) = &mut self.quic
            && let Some(&(at, index)) = quic.timers.first()
            && at <= now
        {
            quic.timers.pop_first();
            let Some(link) = &mut self.connections[index].quic else { continue };
            link.looked_at_at = None;
            link.connection.handle_timeout(now);
            quic.stir(index, link);
        }
        self.drive_stirred();
        match self.quic.as_ref().and_then(|quic| quic.timers.first()) {
            Some((at, _)) => wait.min(at.saturating_duration_since(Instant::now())),
            None => wait,
        }
    }

    /// A heartbeat was sent.
    pub(super) fn await_beat(&mut self, index: usize) {
        let sent_ns = self.shared.now_ns;
        if let Some(quic) = &mut self.quic
            && self.connections[index].client.awaits_beat_of(sent_ns)
        {
            quic.awaited.push_back((sent_ns, index));
        }
    }

    pub(super) fn give_up_silent(&mut self) {
        while let Some(quic) = &mut self.quic
            && let Some(&(sent_ns, index)) = quic.awaited.front()
            && sent_ns + ECHO_WAIT_NS <= self.shared.now_ns
        {
            quic.awaited.pop_front();
            let client = &self.connections[index].client;
            if client.stage == Stage::Settled && client.awaits_beat_of(sent_ns) {
                self.fail(index, "a heartbeat was not answered".to_owned());
            }
        }
    }

    /// A socket has datagrams, or room.
    pub(super) fn on_socket(&mut self, at: usize) {
        if let Some(port) = self.quic.as_mut().and_then(|quic| quic.sockets.get_mut(at)) {
            port.send_unsent();
        }
        while self.receive(at) {
            self.drive_stirred();
        }
        self.drive_stirred();
    }

    /// Takes a batch of datagrams to the links that they are for; `false` when there are no more.
    fn receive(&mut self, at: usize) -> bool {
        let Some(quic) = &mut self.quic else { return false };
        let Quic { endpoint, sockets, client_of, datagrams, packet, stirred, .. } = quic;
        let Some(port) = sockets.get(at) else { return false };
        let mut metas = [RecvMeta::default(); BATCH];
        let mut buffers = datagrams.chunks_mut(BATCH_BYTES);
        let mut slices: [IoSliceMut<'_>; BATCH] = array::from_fn(|_| IoSliceMut::new(buffers.next().unwrap_or_default()));
        let received = match port.state.recv((&port.socket).into(), &mut slices, &mut metas) {
            Ok(received) => received,
            // The kernel's word about a datagram that arrived nowhere: there may be more behind it.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return true,
            Err(_) => return false,
        };
        let now = Instant::now();
        for (meta, buffer) in metas.iter().zip(datagrams.chunks(BATCH_BYTES)).take(received) {
            let ecn = meta.ecn.and_then(|codepoint| EcnCodepoint::from_bits(codepoint as u8));
            for datagram in buffer[..meta.len].chunks(meta.stride.max(1)) {
                packet.clear();
                let event = endpoint.handle(now, meta.addr, meta.dst_ip, ecn, BytesMut::from(datagram), packet);
                // Whoever speaks to a client that is gone is not answered.
                let Some(DatagramEvent::ConnectionEvent(handle, event)) = event else { continue };
                let index = client_of.get(handle.0).copied().unwrap_or(NOBODY);
                let Some(link) = self.connections.get_mut(index).and_then(|connection| connection.quic.as_mut()) else { continue };
                let before = quic.looked_at.load(Relaxed);
                link.connection.handle_event(event);
                link.is_full |= quic.looked_at.load(Relaxed) != before;
                if !mem::replace(&mut link.is_stirred, true) {
                    stirred.push(index);
                }
            }
        }
        true
    }

    /// Drives every link that something happened to.
    fn drive_stirred(&mut self) {
        while let Some(index) = self.quic.as_mut().and_then(|quic| quic.stirred.pop()) {
            self.drive(index);
        }
    }

    /// Hears what has come, and sends what there is to send.
    fn drive(&mut self, index: usize) {
        self.shared.now_ns = clock::now_ns();
        loop {
            let (Some(quic), Some(link)) = (&mut self.quic, &mut self.connections[index].quic) else { return };
            quic.settle_with_endpoint(link);
            let Some(event) = link.connection.poll() else { break };
            if !self.on_event(index, event) {
                return;
            }
        }
        let (Some(quic), Some(link)) = (&mut self.quic, &mut self.connections[index].quic) else { return };
        link.is_stirred = false;
        quic.transmit(link, Instant::now());
        quic.schedule(index, link);
    }

    /// `false`: it was the end.
    fn on_event(&mut self, index: usize, event: Event) -> bool {
        match event {
            Event::Connected => self.on_link(index),
            Event::Stream(StreamEvent::Opened { .. }) => {
                let mut opened = Vec::new();
                if let Some(link) = &mut self.connections[index].quic {
                    while let Some(id) = link.connection.streams().accept(Dir::Uni) {
                        link.streams.push(Stream { id, kind: Kind::New, reassembler: Reassembler::default() });
                        opened.push(id);
                    }
                }
                opened.into_iter().all(|id| self.hear(index, id))
            }
            Event::Stream(StreamEvent::Readable { id }) => self.hear(index, id),
            Event::Stream(StreamEvent::Writable { .. }) => {
                self.flush(index);
                self.connections[index].quic.is_some()
            }
            Event::ConnectionLost { reason } => {
                self.fail(index, cause_of(&reason));
                false
            }
            Event::HandshakeDataReady
            | Event::Stream(StreamEvent::Finished { .. } | StreamEvent::Stopped { .. } | StreamEvent::Available { .. })
            | Event::DatagramReceived
            | Event::DatagramsUnblocked => true,
        }
    }

    /// The handshake is over: says LOGIN.
    fn on_link(&mut self, index: usize) -> bool {
        let connection = &mut self.connections[index];
        let Some(link) = &mut connection.quic else { return false };
        let Some(id) = link.connection.streams().open(Dir::Bi) else {
            self.fail(index, "the gateway allows no stream".to_owned());
            return false;
        };
        link.streams.push(Stream { id, kind: Kind::Own, reassembler: Reassembler::default() });
        let stats = &mut self.shared.stats;
        *if link.is_full { &mut stats.tls_full } else { &mut stats.tls_resumed } += 1;
        connection.client.on_connected(index, &mut self.shared);
        self.flush(index);
        self.connections[index].quic.is_some()
    }

    /// Reads a stream and lets the client hear it; `false`: it was the end.
    fn hear(&mut self, index: usize, id: StreamId) -> bool {
        let connection = &mut self.connections[index];
        let Some(link) = &mut connection.quic else { return false };
        let outcome = read(link, id, &mut connection.client, index, &mut self.shared);
        self.shared.stream_class = None;
        self.have_heard(index, outcome)
    }

    /// Writes what the shared buffer holds for this client, behind what it did not get rid of before.
    pub(super) fn flush_quic(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        let (Some(quic), Some(link)) = (&mut self.quic, &mut connection.quic) else { return self.shared.out.clear() };
        if let Some(unsent) = &mut connection.unsent {
            if unsent.len() + self.shared.out.len() > UNSENT_BYTES_MAX {
                self.shared.out.clear();
                return self.fail(index, "write stalled: the gateway reads no more".to_owned());
            }
            unsent.append(&mut self.shared.out);
            mem::swap(&mut **unsent, &mut self.shared.out);
            connection.unsent = None;
        }
        if self.shared.out.is_empty() {
            return;
        }
        let Some(own) = link.streams.iter().find(|stream| matches!(stream.kind, Kind::Own)) else { return self.shared.out.clear() };
        let mut written = 0;
        let outcome = loop {
            match link.connection.send_stream(own.id).write(&self.shared.out[written..]) {
                Ok(more) => written += more,
                Err(WriteError::Blocked) => break Ok(()),
                Err(error) => break Err(format!("write: {error}")),
            }
            if written == self.shared.out.len() {
                break Ok(());
            }
        };
        if written < self.shared.out.len() {
            connection.unsent = Some(Box::new(self.shared.out[written..].to_vec()));
        }
        self.shared.out.clear();
        quic.stir(index, link);
        // What ends a stream ends its connection, whose own cause says more.
        if let Err(cause) = outcome
            && !link.connection.is_closed()
        {
            self.fail(index, cause);
        }
    }

    /// The end of a link: the gateway is told, unless it knows.
    pub(super) fn part(&mut self, index: usize, mut link: Box<Link>) {
        let Some(quic) = &mut self.quic else { return };
        let now = Instant::now();
        if !link.connection.is_closed() {
            link.connection.close(now, VarInt::from_u32(0), Bytes::new());
            quic.transmit(&mut link, now);
        }
        quic.settle_with_endpoint(&mut link);
        if !link.is_drained {
            quic.endpoint.handle_event(link.handle, EndpointEvent::drained());
        }
        if let Some(at) = link.looked_at_at {
            quic.timers.remove(&(at, index));
        }
        quic.client_of[link.handle.0] = NOBODY;
        self.shared.stats.quic_lost += link.lost();
    }

    /// Everyone goes. The process may live on, and its gateway should not wait for the silence of each.
    pub(crate) fn leave(&mut self) {
        for index in 0..self.connections.len() {
            if let Some(link) = self.connections[index].quic.take() {
                self.part(index, link);
            }
        }
    }
}

impl Link {
    /// Datagrams of this side that were taken for lost, and what they carried sent again.
    pub(super) fn lost(&self) -> u64 {
        self.connection.stats().path.lost_packets
    }
}

/// Reads a stream as far as it goes.
fn read(link: &mut Link, id: StreamId, client: &mut Client, index: usize, shared: &mut Shared<'_>) -> Result<(), Cause> {
    let Some(stream) = link.streams.iter_mut().find(|stream| stream.id == id) else { return Ok(()) };
    let mut reader = link.connection.recv_stream(id);
    let Ok(mut chunks) = reader.read(true) else { return Ok(()) };
    loop {
        match chunks.next(usize::MAX) {
            Ok(Some(chunk)) => stream.feed(&chunk.bytes, client, index, shared)?,
            // The gateway ends its streams before it closes the connection, and says there why.
            Ok(None) | Err(ReadError::Blocked) => return Ok(()),
            Err(ReadError::Reset(code)) => return Err(format!("a stream was reset: {code}")),
        }
    }
}

impl Stream {
    /// Hands every whole frame to the client.
    fn feed(&mut self, mut input: &[u8], client: &mut Client, index: usize, shared: &mut Shared<'_>) -> Result<(), Cause> {
        if let Kind::New = self.kind
            && let Some((&first, rest)) = input.split_first()
        {
            let class = Class::ALL.get(usize::from(first)).ok_or_else(|| format!("a stream of class {first}"))?;
            self.kind = Kind::Pushes(*class);
            input = rest;
        }
        shared.stream_class = match self.kind {
            Kind::Own | Kind::New => None,
            Kind::Pushes(class) => Some(class),
        };
        let mut frames = self.reassembler.feed(input);
        while let Some(frame) = frames.next(BODY_BYTES_MAX).map_err(|error| error.to_string())? {
            if (Code::from_number(frame.code) == Some(Code::Biz)) != shared.stream_class.is_some() {
                return Err(format!("code {} on the wrong stream", frame.code));
            }
            client.on_frame(index, frame, shared)?;
        }
        Ok(())
    }
}

fn cause_of(reason: &ConnectionError) -> Cause {
    match reason {
        ConnectionError::ApplicationClosed(close) if close.reason.is_empty() => "closed by the gateway".to_owned(),
        ConnectionError::ApplicationClosed(close) => format!("closed: {}", String::from_utf8_lossy(&close.reason)),
        ConnectionError::ConnectionClosed(_)
        | ConnectionError::TransportError(_)
        | ConnectionError::VersionMismatch
        | ConnectionError::Reset
        | ConnectionError::TimedOut
        | ConnectionError::LocallyClosed
        | ConnectionError::CidsExhausted => format!("quic: {reason}"),
    }
}
