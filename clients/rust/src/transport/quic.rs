//! QUIC: one stream up, the answers on its way back, and one stream down for each class of push.
//!
//! - Streams are put together side by side: a packet lost on one holds up no frame of another. What order that leaves, the session knows.
//! - What the app does not take is not read, and the windows are small: the gateway then drops by class, as for every slow reader.
//! - The socket is this connection's own, so that it can be changed for another while the connection goes on.
//! - No keep-alive and no idle time-out of our own: heartbeats are frames, and silence is the session's to judge.

use super::{Arrived, ConnectError, Lost, READ_BYTES, Trust, UNSENT_BYTES_MAX, cut, reason_of_label};
use crate::endpoint::Endpoint;
use billfish_wire::{Body, Class, Code, Encoding, Reason, Reassembler, frame};
use quinn::{ClientConfig, Connection, ConnectionError, ReadError, RecvStream, SendStream, TransportConfig, VarInt, WriteError};
use std::{
    fmt::{self, Debug, Formatter},
    future::{Future, poll_fn},
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker},
};
use tokio::net::lookup_host;
use tracing::debug;

/// Streams of pushes.
const CLASSES: u32 = 4;
const _: () = assert!(CLASSES as usize == Class::ALL.len(), "each class has a stream");
/// In flight towards us on one stream: a snapshot of a room comes in one round trip.
const STREAM_WINDOW_BYTES: u32 = 64 * 1024;
/// And on all: what waits on one keeps none of the others waiting.
const CONNECTION_WINDOW_BYTES: u32 = (1 + CLASSES) * STREAM_WINDOW_BYTES;
/// In flight towards the gateway, which takes no more than a quarter of it at a time.
const SEND_WINDOW_BYTES: u64 = 64 * 1024;
/// What every path carries; looking for more costs packets, and most of ours are small.
const MTU_BYTES: u16 = 1200;

type Accepting = Pin<Box<dyn Future<Output = Result<RecvStream, ConnectionError>> + Send>>;

/// One connection.
pub(super) struct Quic {
    socket: quinn::Endpoint,
    connection: Connection,
    up: SendStream,
    /// The answers first, then by class. Bounded by what the other end may open.
    inbound: Vec<Inbound>,
    accepting: Accepting,
    /// Not taken by the connection.
    unsent: Vec<u8>,
    /// Put together, and not received.
    arrived: Vec<Arrived>,
    lost: Option<Lost>,
}

/// One stream towards us.
struct Inbound {
    stream: RecvStream,
    kind: Kind,
    reassembler: Reassembler,
}

/// What comes on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Answers,
    Pushes(Class),
    /// Its first byte, which is the class, has not come.
    Unnamed,
}

/// What one read of a stream gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Read {
    Something,
    Nothing,
    End,
}

impl Debug for Quic {
    fn fmt(&self, to: &mut Formatter<'_>) -> fmt::Result {
        to.debug_struct("Quic").field("connection", &self.connection.stable_id()).finish_non_exhaustive()
    }
}

impl Quic {
    /// Connects; of several addresses behind a name the first that answers.
    pub(super) async fn open(endpoint: &Endpoint, trust: &Trust) -> Result<Self, ConnectError> {
        let mut crypto = ClientConfig::new(trust.quic().await?);
        crypto.transport_config(Arc::new(transport_config()));
        let mut failed = ConnectError::Io(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
        for address in lookup_host(&*endpoint.authority).await? {
            match Self::dial(address, endpoint.host(), crypto.clone()).await {
                Ok(quic) => return Ok(quic),
                Err(ConnectError::Quic(error)) => failed = trust.refusal().map_or(ConnectError::Quic(error), ConnectError::Tls),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    async fn dial(address: SocketAddr, host: &str, config: ClientConfig) -> Result<Self, ConnectError> {
        let socket = quinn::Endpoint::client(any_address_like(address))?;
        let connecting = socket.connect_with(config, address, host).map_err(|error| {
            let is_no_name = matches!(error, quinn::ConnectError::InvalidServerName(_));
            if is_no_name { ConnectError::NoHostName } else { ConnectError::Io(io::Error::other(error)) }
        })?;
        let connection = connecting.await?;
        let (up, answers) = connection.open_bi().await?;
        let accepting = accept(&connection);
        let inbound = vec![Inbound { stream: answers, kind: Kind::Answers, reassembler: Reassembler::default() }];
        Ok(Self { socket, connection, up, inbound, accepting, unsent: Vec::new(), arrived: Vec::new(), lost: None })
    }

    pub(super) fn send(&mut self, encoding: Encoding, code: Code, body: &Body) {
        frame::encode_into(&mut self.unsent, encoding, code, body);
    }

    /// Gives the connection what it takes now. That it is lost is found by reading, which says why.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        // Whoever waits for room is woken by `ready`, which asks again.
        self.poll_write(&mut Context::from_waker(Waker::noop()));
        if self.unsent.is_empty() && self.unsent.capacity() > READ_BYTES {
            self.unsent = Vec::new();
        }
        if self.unsent.len() > UNSENT_BYTES_MAX { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
    }

    /// Waits until frames have come, or something of what is unsent was taken. Cancel-safe: what was read is kept.
    pub(super) async fn ready(&mut self, wants_read: bool) -> io::Result<()> {
        poll_fn(|context| {
            let has_written = self.poll_write(context);
            if wants_read && self.arrived.is_empty() && self.lost.is_none() {
                self.poll_read(context);
            }
            let has_news = wants_read && (!self.arrived.is_empty() || self.lost.is_some());
            if has_news || has_written { Poll::Ready(Ok(())) } else { Poll::Pending }
        })
        .await
    }

    pub(super) fn receive(&mut self, frames: &mut Vec<Arrived>) -> Result<(), Lost> {
        frames.append(&mut self.arrived);
        self.lost.map_or(Ok(()), Err)
    }

    /// Another socket: from its first packet on the gateway knows the connection by its new address.
    pub(super) fn migrate(&self) -> io::Result<()> {
        let socket = UdpSocket::bind(any_address_like(self.connection.remote_address()))?;
        self.socket.rebind(socket)
    }

    pub(super) fn part(mut self) {
        self.flush().ok();
        self.connection.close(VarInt::from_u32(0), b"");
    }

    /// Whether something was taken.
    fn poll_write(&mut self, context: &mut Context<'_>) -> bool {
        let mut has_written = false;
        while !self.unsent.is_empty() {
            let outcome = pin!(self.up.write(&self.unsent)).poll(context);
            match outcome {
                Poll::Pending => break,
                Poll::Ready(Ok(written)) => {
                    self.unsent.drain(..written);
                    has_written = true;
                }
                Poll::Ready(Err(error)) => {
                    debug!(%error, "nothing more can be said");
                    self.unsent.clear();
                    if !matches!(error, WriteError::ConnectionLost(_)) {
                        self.lost.get_or_insert(Lost(Reason::TransportFailed));
                    }
                }
            }
        }
        has_written
    }

    /// One read of every stream, the most important first.
    fn poll_read(&mut self, context: &mut Context<'_>) {
        let mut end = None;
        while end.is_none()
            && let Poll::Ready(accepted) = self.accepting.as_mut().poll(context)
        {
            self.accepting = accept(&self.connection);
            match accepted {
                Ok(stream) => self.inbound.push(Inbound { stream, kind: Kind::Unnamed, reassembler: Reassembler::default() }),
                Err(error) => end = Some(Lost(reason_of(&error))),
            }
        }
        let mut has_read = false;
        let (arrived, lost) = (&mut self.arrived, &mut self.lost);
        self.inbound.retain_mut(|inbound| match inbound.poll_read(context, arrived) {
            Ok(Read::Nothing) => true,
            Ok(Read::Something) => {
                has_read = true;
                true
            }
            Ok(Read::End) => false,
            Err(why) => {
                lost.get_or_insert(why);
                false
            }
        });
        self.inbound.sort_by_key(|inbound| inbound.kind);
        // What had come before the end is read to its end, too.
        if let (Some(end), false) = (end, has_read) {
            self.lost.get_or_insert(end);
        }
    }
}

impl Inbound {
    fn poll_read(&mut self, context: &mut Context<'_>, arrived: &mut Vec<Arrived>) -> Result<Read, Lost> {
        let chunk = match pin!(self.stream.read_chunk(READ_BYTES, true)).poll(context) {
            Poll::Pending => return Ok(Read::Nothing),
            Poll::Ready(Ok(Some(chunk))) => chunk,
            // Why, the connection says.
            Poll::Ready(Ok(None) | Err(ReadError::ConnectionLost(_))) => return Ok(Read::End),
            Poll::Ready(Err(error)) => {
                debug!(%error, "a stream broke");
                return Err(Lost(Reason::TransportFailed));
            }
        };
        let mut bytes = &*chunk.bytes;
        if self.kind == Kind::Unnamed
            && let Some((first, rest)) = bytes.split_first()
        {
            let class = Class::ALL.into_iter().find(|class| *class as u8 == *first).ok_or(Lost(Reason::Malformed))?;
            (self.kind, bytes) = (Kind::Pushes(class), rest);
        }
        cut(&mut self.reassembler, bytes, arrived)?;
        // There may be more, of which nobody would be told.
        context.waker().wake_by_ref();
        Ok(Read::Something)
    }
}

fn accept(connection: &Connection) -> Accepting {
    let connection = connection.clone();
    Box::pin(async move { connection.accept_uni().await })
}

fn transport_config() -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(CLASSES))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW_BYTES))
        .send_window(SEND_WINDOW_BYTES)
        .max_idle_timeout(None)
        .keep_alive_interval(None)
        .datagram_receive_buffer_size(None)
        .datagram_send_buffer_size(0)
        .initial_mtu(MTU_BYTES)
        .mtu_discovery_config(None);
    transport
}

/// Any port of this device from which such an address is reached.
fn any_address_like(peer: SocketAddr) -> SocketAddr {
    match peer {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

/// The gateway closes with the reason's label, and the number that an ERROR or KICK would have.
fn reason_of(error: &ConnectionError) -> Reason {
    debug!(%error, "the connection is over");
    let ConnectionError::ApplicationClosed(close) = error else { return Reason::TransportFailed };
    let number = i32::try_from(close.error_code.into_inner()).ok();
    let label = str::from_utf8(&close.reason).unwrap_or_default();
    reason_of_label(label).or_else(|| Reason::from_number(number?)).unwrap_or(Reason::PeerClosed)
}

#[cfg(test)]
mod tests {
    use super::reason_of;
    use billfish_wire::Reason;
    use quinn::{ApplicationClose, ConnectionError, VarInt};

    #[test]
    fn a_close_is_told_as_its_reason() {
        let closed = |number: u32, label: &'static str| {
            let close = ApplicationClose { error_code: VarInt::from_u32(number), reason: label.as_bytes().into() };
            reason_of(&ConnectionError::ApplicationClosed(close))
        };
        assert_eq!(closed(4012, "too_slow"), Reason::TooSlow);
        assert_eq!(closed(0, "drained"), Reason::Drained);
        assert_eq!(closed(4002, ""), Reason::BadToken);
        assert_eq!(closed(0, ""), Reason::PeerClosed);
        assert_eq!(closed(77, "of a later version"), Reason::PeerClosed);
        assert_eq!(reason_of(&ConnectionError::Reset), Reason::TransportFailed);
        assert_eq!(reason_of(&ConnectionError::TimedOut), Reason::TransportFailed);
    }
}
