//! QUIC: one endpoint for all shards, and what stands between a datagram and a session.
//!
//! ```text
//!  datagram ─► limits ─► handshake ─► admission ─► the client's stream ─► ShardCommand::Enter
//!                 │ too many whose address is not proven: Retry · too many in all: refused
//! ```
//!
//! - A QUIC connection lives in a shard like any other: the session machine, rooms, backlogs, drain and books are those of TCP. Here are only its
//!   handshake, its streams (`task`), and the hand-over between the two (`lane`).
//! - Admission counts by address, and an address is proven by a token or by the end of the handshake. So it is asked at the first packet that
//!   bears a token, and else behind the handshake: whoever forges addresses cannot use up another's allowance. How many may get that far unproven
//!   is bounded for all of them together.
//! - Nothing is kept for a peer that was sent a Retry.
//! - LOGIN is never taken from 0-RTT: such data can be sent again by whoever has seen it, and early data is refused altogether.
//!
//! Windows are small because there are many connections, of which few have anything to say: what may be in flight is memory of ours.

mod lane;
mod pending;
mod task;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod trial;

pub(crate) use self::lane::{Offer, Ready, ShardEnd, Way};

use self::{
    lane::lane,
    task::{Carrier, close},
};
use crate::{
    certificates::Certificates,
    config::GatewayConfig,
    handshakes::Handshakes,
    metrics::{ControlCounters, Incomer, QuicHandshake},
    shard::{
        ShardHandle,
        mailbox::Mailbox,
        message::{Admission, Admitted, Entrant, ShardCommand},
    },
};
use billfish_wire::Reason;
use quinn::{
    Connecting, Endpoint, EndpointConfig, IdleTimeout, Incoming, ServerConfig, TokioRuntime, TransportConfig, VarInt,
    crypto::rustls::QuicServerConfig,
};
use std::{
    fmt, io,
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::error;

/// The path is silent for so long beyond a session's own silence: by then the session has ended it.
const IDLE_MARGIN: Duration = Duration::from_secs(5);
/// What a client may have in flight towards us on its stream, and in all.
const STREAM_WINDOW_BYTES: u32 = 16 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 64 * 1024;
/// What we may have in flight towards a client: 64 KiB in a round trip of 100 ms are 5 Mbit/s.
const SEND_WINDOW_BYTES: u64 = 64 * 1024;
/// What every path carries; looking for more costs packets and memory at each of them.
const MTU_BYTES: u16 = 1200;
/// First packets that wait for their turn while the allowance of handshakes is spent: a quarter of a second of it, 1,200 bytes each.
const INCOMING_MAX: usize = 1_024;
/// Bytes kept for each of them, and for all.
const INCOMING_BYTES: u64 = 8 * 1024;
const INCOMING_TOTAL_BYTES: u64 = 4 * 1024 * 1024;
/// Of the one socket: a stampede's first packets, some 3,000. The kernel caps it at `net.core.rmem_max`.
const SOCKET_BYTES: usize = 4 * 1024 * 1024;
/// Connections that are kept for their last words at a time, as at sockets.
const PARTING_MAX: u32 = 1_024;
/// At the end: how long connections may take for their last words, and the endpoint for its own.
const END_WAIT: Duration = Duration::from_secs(2);
const ENDPOINT_WAIT: Duration = Duration::from_millis(500);

/// The socket of the door.
///
/// # Errors
/// The address cannot be had.
pub(crate) fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::DGRAM, Some(socket2::Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    // Smaller buffers lose packets in a stampede, which come again.
    drop(socket.set_recv_buffer_size(SOCKET_BYTES));
    drop(socket.set_send_buffer_size(SOCKET_BYTES));
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// The door for QUIC. Dropping it ends its connections at once.
#[derive(Debug)]
pub(crate) struct QuicDoor {
    hall: Arc<Hall>,
    endpoint: Endpoint,
    greeter: JoinSet<()>,
    stop: CancellationToken,
}

impl QuicDoor {
    /// Opens the door on a socket.
    ///
    /// # Errors
    /// The runtime does not take the socket.
    pub(crate) fn open(
        socket: UdpSocket,
        config: &GatewayConfig,
        certificates: &Arc<Certificates>,
        shards: &[ShardHandle],
        admission: Arc<dyn Admission>,
        handshakes: Arc<Handshakes>,
        counters: Arc<ControlCounters>,
    ) -> io::Result<Self> {
        let server = server_config(config, certificates);
        let endpoint = Endpoint::new(EndpointConfig::default(), Some(server), socket, Arc::new(TokioRuntime))?;
        let hall = Arc::new(Hall {
            shards: shards.iter().map(|shard| (Arc::clone(&shard.commands), Arc::clone(&shard.ready))).collect(),
            next_shard: AtomicUsize::new(0),
            admission,
            counters,
            login_timeout: config.session.login_timeout,
            handshakes_max: config.quic.handshakes_max,
            unproven_max: config.quic.retry_above,
            handshakes: AtomicU32::new(0),
            unproven: AtomicU32::new(0),
            parting: AtomicU32::new(0),
            is_closed: AtomicBool::new(false),
        });
        let stop = CancellationToken::new();
        let mut greeter = JoinSet::new();
        let greets = Greeter { hall: Arc::clone(&hall), endpoint: endpoint.clone(), stop: stop.clone(), handshakes };
        greeter.spawn(greets.run());
        Ok(Self { hall, endpoint, greeter, stop })
    }

    /// Lets nobody in any more: who comes is refused, and goes elsewhere.
    pub(crate) fn stop_listening(&self) {
        self.hall.is_closed.store(true, Relaxed);
    }

    /// Ends it, when the shards have ended their connections.
    pub(crate) async fn close(mut self) {
        self.stop_listening();
        self.stop.cancel();
        while let Some(ended) = self.greeter.join_next().await {
            if let Err(panic) = ended {
                error!(%panic, "the QUIC door panicked");
            }
        }
        self.endpoint.close(VarInt::from_u32(0), Reason::Drained.label().as_bytes());
        // Whose last packet was lost hears nothing more, which says as much.
        drop(tokio::time::timeout(ENDPOINT_WAIT, self.endpoint.wait_idle()).await);
    }
}

fn server_config(config: &GatewayConfig, certificates: &Arc<Certificates>) -> ServerConfig {
    let crypto = QuicServerConfig::try_from(certificates.quic_config()).expect("the provider has AES-128");
    let mut transport = TransportConfig::default();
    let idle = IdleTimeout::try_from(config.session.silence() + IDLE_MARGIN).expect("validate() bounds the silence");
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW_BYTES))
        .send_window(SEND_WINDOW_BYTES)
        .max_idle_timeout(Some(idle))
        .keep_alive_interval(None)
        .datagram_receive_buffer_size(None)
        .datagram_send_buffer_size(0)
        .initial_mtu(MTU_BYTES)
        .mtu_discovery_config(None);
    let mut server = ServerConfig::with_crypto(Arc::new(crypto));
    server
        .transport_config(Arc::new(transport))
        .migration(true)
        .max_incoming(INCOMING_MAX)
        .incoming_buffer_size(INCOMING_BYTES)
        .incoming_buffer_size_total(INCOMING_TOTAL_BYTES);
    server
}

/// What all connections on their way in have in common.
struct Hall {
    shards: Vec<(Arc<Mailbox<ShardCommand>>, Arc<Ready>)>,
    next_shard: AtomicUsize,
    admission: Arc<dyn Admission>,
    counters: Arc<ControlCounters>,
    /// From the first packet to a valid LOGIN.
    login_timeout: Duration,
    handshakes_max: u32,
    unproven_max: u32,
    /// On their way in.
    handshakes: AtomicU32,
    /// Of these, from addresses that are not proven.
    unproven: AtomicU32,
    /// On their way out.
    parting: AtomicU32,
    /// Nobody is let in any more.
    is_closed: AtomicBool,
}

impl fmt::Debug for Hall {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Hall").field("handshakes", &self.handshakes).finish_non_exhaustive()
    }
}

/// One on its way in.
struct HalfOpen {
    hall: Arc<Hall>,
    is_proven: bool,
}

impl HalfOpen {
    fn begin(hall: &Arc<Hall>, is_proven: bool) -> Self {
        hall.handshakes.fetch_add(1, Relaxed);
        hall.counters.quic_handshaking.raise(1);
        if !is_proven {
            hall.unproven.fetch_add(1, Relaxed);
        }
        Self { hall: Arc::clone(hall), is_proven }
    }

    fn prove(&mut self) {
        if !std::mem::replace(&mut self.is_proven, true) {
            self.hall.unproven.fetch_sub(1, Relaxed);
        }
    }
}

impl Drop for HalfOpen {
    fn drop(&mut self) {
        self.prove();
        self.hall.handshakes.fetch_sub(1, Relaxed);
        self.hall.counters.quic_handshaking.lower(1);
    }
}

/// Counts in `count` while it lives.
struct Parting<'a>(&'a AtomicU32);

impl Drop for Parting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// The task at the door.
struct Greeter {
    hall: Arc<Hall>,
    endpoint: Endpoint,
    stop: CancellationToken,
    handshakes: Arc<Handshakes>,
}

impl Greeter {
    async fn run(self) {
        let mut connections = JoinSet::new();
        loop {
            // Each arm is cancel-safe: an incoming one stays in the endpoint until it is taken, and an ended one in the set.
            tokio::select! {
                () = self.stop.cancelled() => break,
                incoming = self.endpoint.accept() => match incoming {
                    Some(incoming) => self.greet(incoming, &mut connections).await,
                    None => break,
                },
                Some(ended) = connections.join_next() => note(ended),
            }
        }
        let ended = async {
            while let Some(ended) = connections.join_next().await {
                note(ended);
            }
        };
        drop(tokio::time::timeout(END_WAIT, ended).await);
    }

    /// Decides about a first packet.
    async fn greet(&self, incoming: Incoming, connections: &mut JoinSet<()>) {
        let since = Instant::now();
        let hall = &self.hall;
        let is_proven = incoming.remote_address_validated();
        if hall.is_closed.load(Relaxed) || hall.handshakes.load(Relaxed) >= hall.handshakes_max {
            hall.counters.quic_incoming(Incomer::Refused);
            return incoming.refuse();
        }
        if !is_proven && hall.unproven.load(Relaxed) >= hall.unproven_max && incoming.may_retry() {
            hall.counters.quic_incoming(Incomer::Retried);
            // It cannot fail: a packet that may be answered so is.
            return drop(incoming.retry());
        }
        let mut admitted = None;
        if is_proven {
            match Admitted::ask(&hall.admission, incoming.remote_address().ip()) {
                Ok(guest) => admitted = Some(guest),
                Err(_) => {
                    hall.counters.quic_incoming(Incomer::Refused);
                    return incoming.refuse();
                }
            }
        }
        self.wait_for_allowance().await;
        let hall = &self.hall;
        match incoming.accept() {
            Ok(connecting) => {
                hall.counters.quic_incoming(Incomer::Accepted);
                let half_open = HalfOpen::begin(hall, is_proven);
                connections.spawn(Arc::clone(hall).serve(connecting, half_open, admitted, since));
            }
            // What came was no handshake.
            Err(_) => hall.counters.quic_handshake(QuicHandshake::Failed),
        }
    }

    /// Handshakes come out of the same allowance as at the doors for TLS; who comes beyond it waits in the endpoint.
    async fn wait_for_allowance(&self) {
        while let Err(wait_ms) = self.handshakes.begin() {
            self.hall.counters.quic_incoming(Incomer::Delayed);
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(wait_ms)) => {}
                () = self.stop.cancelled() => return,
            }
        }
    }
}

fn note(ended: Result<(), tokio::task::JoinError>) {
    if let Err(panic) = ended {
        error!(%panic, "the task of a QUIC connection panicked");
    }
}

impl Hall {
    /// A connection from its handshake to its end.
    async fn serve(self: Arc<Self>, connecting: Connecting, half_open: HalfOpen, admitted: Option<Admitted>, since: Instant) {
        // In a box of its own, which an idle connection does not keep.
        let welcome = Box::pin(self.welcome(connecting, half_open, admitted, since));
        let Some(mut carrier) = welcome.await else { return };
        let parting = &self.parting;
        let mut guard = None;
        let may_part = || {
            let is_one_too_many = parting.fetch_add(1, Relaxed) >= PARTING_MAX;
            guard = Some(Parting(parting));
            !is_one_too_many
        };
        carrier.carry(may_part).await;
        drop(guard);
    }

    /// The way in: the handshake, admission and the client's stream, within the time that LOGIN has in all.
    async fn welcome(
        &self,
        connecting: Connecting,
        mut half_open: HalfOpen,
        admitted: Option<Admitted>,
        since: Instant,
    ) -> Option<Carrier> {
        let deadline = tokio::time::Instant::from_std(since + self.login_timeout);
        let connection = match tokio::time::timeout_at(deadline, connecting).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(_)) => return self.lost(QuicHandshake::Failed),
            Err(_) => return self.lost(QuicHandshake::TimedOut),
        };
        half_open.prove();
        self.counters.quic_handshake(QuicHandshake::Established);
        let admitted = match admitted.map_or_else(|| Admitted::ask(&self.admission, connection.remote_address().ip()), Ok) {
            Ok(admitted) => admitted,
            Err(refusal) => {
                close(&connection, refusal.reason);
                return None;
            }
        };
        let (answers, up) = match tokio::time::timeout_at(deadline, connection.accept_bi()).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(_)) => return None,
            Err(_) => {
                close(&connection, Reason::LoginTimeout);
                return None;
            }
        };
        let shard = self.next_shard.fetch_add(1, Relaxed) % self.shards.len();
        let (shard_end, task_end) = lane(Arc::clone(&self.shards[shard].1));
        let entrant = Box::new(Entrant::new(shard_end, since, admitted));
        // Waits while the shard is behind, as a socket would in the kernel's queue. A shard that has ended drops it, and so ends it.
        self.shards[shard].0.send(&mut vec![ShardCommand::Enter(entrant)]).await;
        Some(Carrier::new(connection, answers, up, task_end))
    }

    fn lost(&self, how: QuicHandshake) -> Option<Carrier> {
        self.counters.quic_handshake(how);
        None
    }
}
