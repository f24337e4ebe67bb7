//! A shard: one thread, one reactor, and the connections that it alone touches.
//!
//! - Nothing in here awaits, locks for longer than a swap, or calls a store. What takes time happens elsewhere and comes back as a command.
//! - A connection stays on the shard that accepted it until it ends.
//! - Everything that grows has a bound, and when the control plane does not keep up the shard stops reading: it never throws a login,
//!   a call or an ending away.
//!
//! ```text
//!  socket ── reactor ── connection ── session machine ── events ──► control
//!                │            ▲
//!   commands ────┴─► room ── fan-out job (one write per member)
//! ```

pub mod counters;
pub mod mailbox;
pub mod message;

use billfish_session::server::ServerConfig;
use counters::ShardCounters;
use mailbox::Mailbox;
use message::{Admission, ShardCommand, ShardEvent};
use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// What may be tuned about a shard.
#[derive(Clone, Copy, Debug)]
pub struct ShardConfig {
    /// Weight of the mailbox toward the shard, in bytes; beyond it the router's credit stops. Also the bound of all room queues together.
    pub inbox_bytes_max: usize,
    /// Weight of the mailbox toward control, in bytes; beyond it sockets are not read.
    pub events_bytes_max: usize,
    /// Frames that may wait for one connection.
    pub backlog_frames_max: usize,
    /// Bytes that may wait for one connection.
    pub backlog_bytes_max: usize,
    /// Nothing could be written for so long, though something waits: the connection ends.
    pub write_stall: Duration,
    /// Above 70 % of its core, a shard collects pushes for this long before it writes them; zero: never.
    pub busy_tick: Duration,
    /// Members served of one room before sockets and other rooms have their turn.
    pub chunk_members: usize,
    /// Size of a socket's send buffer, as asked of the kernel; a stalled reader pins about five times as much.
    pub send_buffer_bytes: usize,
}

impl Default for ShardConfig {
    fn default() -> Self {
        Self {
            inbox_bytes_max: 16 * 1024 * 1024,
            events_bytes_max: 8 * 1024 * 1024,
            backlog_frames_max: 256,
            backlog_bytes_max: 256 * 1024,
            write_stall: Duration::from_secs(15),
            busy_tick: Duration::from_millis(5),
            chunk_members: 512,
            send_buffer_bytes: 16 * 1024,
        }
    }
}

/// What a shard is made of.
pub struct ShardParts {
    /// Its number: part of every key it gives out.
    pub index: u16,
    /// Bound, listening, its own; see [`listeners`].
    pub listener: TcpListener,
    /// Bounds of the shard.
    pub config: ShardConfig,
    /// Bounds of its sessions.
    pub session: Arc<ServerConfig>,
    /// Who may connect.
    pub admission: Arc<dyn Admission>,
    /// Where the sessions' time begins; the same for all shards.
    pub epoch: Instant,
}

/// A shard that runs. Dropping this does not end it: send [`ShardCommand::Stop`], then [`ShardHandle::join`].
#[derive(Debug)]
pub struct ShardHandle {
    /// Its number.
    pub index: u16,
    /// Toward the shard.
    pub commands: Arc<Mailbox<ShardCommand>>,
    /// From the shard; one task takes from it.
    pub events: Arc<Mailbox<ShardEvent>>,
    /// What it counts.
    pub counters: Arc<ShardCounters>,
    thread: JoinHandle<()>,
}

impl ShardHandle {
    /// Waits for the thread's end.
    ///
    /// # Errors
    /// The thread panicked; what it panicked with.
    pub fn join(self) -> std::thread::Result<()> {
        self.thread.join()
    }
}

/// The shard's name for its type's one function.
#[derive(Debug)]
pub struct Shard;

impl Shard {
    /// Starts a shard's thread.
    ///
    /// # Errors
    /// The kernel gives no poll, no waker or no thread.
    pub fn spawn(parts: ShardParts) -> io::Result<ShardHandle> {
        let _ = parts;
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// `count` listeners on one address, by `SO_REUSEPORT`: the kernel spreads connections over them. With port 0 the first takes a free
/// port and the others share it.
///
/// # Errors
/// The address cannot be had.
pub fn listeners(address: SocketAddr, count: usize) -> io::Result<Vec<TcpListener>> {
    let mut listeners = Vec::with_capacity(count);
    let mut address = address;
    for _ in 0..count {
        let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(LISTEN_BACKLOG)?;
        let listener = TcpListener::from(socket);
        address = listener.local_addr()?;
        listeners.push(listener);
    }
    Ok(listeners)
}

/// Connections the kernel completes ahead of `accept`. A stampede of 18,000 in two seconds leaves 4,096 room for 450 ms of inattention;
/// the kernel caps it at `net.core.somaxconn`.
const LISTEN_BACKLOG: i32 = 4096;
