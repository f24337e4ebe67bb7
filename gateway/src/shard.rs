//! A shard: one thread, one reactor, and the connections that it alone touches.
//!
//! - Nothing in here awaits, locks for longer than a swap, or calls a store. What takes time happens elsewhere and comes back as a command.
//! - A connection stays on the shard that accepted it until it ends.
//! - Everything that grows has a bound, and when the control plane does not keep up the shard stops reading: it never throws a login,
//!   a call or an ending away.
//!
//! ```text
//!  socket ── reactor ── connection ── session machine ── events ──► control
//!  QUIC task ────┤            ▲
//!   commands ────┴─► room ── fan-out job (one write per member)
//! ```

mod commands;
mod connection;
pub mod counters;
mod desk;
mod door;
mod drive;
mod fanout_job;
pub mod mailbox;
pub mod message;
mod reactor;
mod room;
mod rounds;
mod slab;
mod wheel;

pub use self::door::Doorway;
use self::{
    commands::Draining,
    connection::{Doom, Tenant},
    counters::ShardCounters,
    desk::Desk,
    door::Door,
    drive::{Hints, Staged},
    mailbox::{Mailbox, Signal},
    message::{Admission, LeftCause, ShardCommand, ShardEvent},
    reactor::Load,
    room::Rooms,
    rounds::{AllJob, Lap},
    slab::{Slab, SlabKey},
    wheel::{Fired, Wheel},
};
pub use crate::{
    handshakes::Handshakes,
    transport::{Entrance, WebSocketRules},
};
use crate::{
    quic::Ready,
    transport::{HEADER_BYTES_MAX, Scratch},
};
use billfish_session::{
    Time,
    backlog::BacklogLimits,
    server::{ServerActions, ServerConfig},
};
use mio::{Poll, Token, Waker};
use std::{
    collections::VecDeque,
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
    /// From this share of either on, in percent, chat and likes make way.
    pub backlog_soft_percent: usize,
    /// Nothing could be written for so long, though something waits: the connection ends.
    pub write_stall: Duration,
    /// Above 70 % of its core, a shard collects pushes for this long before it writes them; zero: never.
    pub busy_tick: Duration,
    /// Members served of one room before sockets and other rooms have their turn.
    pub chunk_members: usize,
    /// Size of a socket's send buffer, as asked of the kernel; a stalled reader pins about five times as much.
    pub send_buffer_bytes: usize,
    /// Longest header of a relay.
    pub proxy_header_bytes_max: usize,
}

impl Default for ShardConfig {
    fn default() -> Self {
        Self {
            inbox_bytes_max: 16 * 1024 * 1024,
            events_bytes_max: 8 * 1024 * 1024,
            backlog_frames_max: 256,
            backlog_bytes_max: 256 * 1024,
            backlog_soft_percent: 50,
            write_stall: Duration::from_secs(15),
            busy_tick: Duration::from_millis(5),
            chunk_members: 512,
            send_buffer_bytes: 16 * 1024,
            proxy_header_bytes_max: HEADER_BYTES_MAX,
        }
    }
}

/// What a shard is made of.
pub struct ShardParts {
    /// Its number: part of every key it gives out.
    pub index: u16,
    /// Where connections come in.
    pub doors: Vec<Doorway>,
    /// What is asked of a WebSocket.
    pub websocket: WebSocketRules,
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
    /// Where its QUIC connections say that they have something.
    pub(crate) ready: Arc<Ready>,
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

/// What a shard's thread owns.
#[derive(Debug)]
pub struct Shard {
    config: ShardConfig,
    desk: Desk,
    slab: Slab<Tenant>,
    admission: AdmissionRef,
    doors: Vec<Door>,
    websocket: WebSocketRules,
    inbox: Arc<Mailbox<ShardCommand>>,
    events: Arc<Mailbox<ShardEvent>>,
    ready: Arc<Ready>,
    /// What was on that list and has not been looked at.
    heard: Vec<Token>,
    /// The mailbox was left alone because the rooms' queues are full.
    has_left_inbox: bool,
    /// Scratch for what was taken from the mailbox.
    commands: Vec<ShardCommand>,
    /// The one read buffer.
    buffer: Box<[u8]>,
    staged: Staged,
    /// Connections whose sockets have more than was read.
    again: VecDeque<SlabKey>,
    /// Connections that cannot go on, to be ended as soon as nobody is in the middle of something.
    doomed: Vec<(SlabKey, Doom)>,
    /// Slots of rooms that are about to be left; see `feed_session`.
    hints: Hints,
    /// What a `LeaveRoom` means that comes up now.
    left_cause: LeftCause,
    /// Those saying goodbye, and until when; the ones that are done by then among them.
    leaving: VecDeque<(Time, SlabKey)>,
    leaving_count: usize,
    fired: Vec<Fired>,
    all_jobs: VecDeque<AllJob>,
    draining: Option<Draining>,
    sessions: usize,
    /// Memory is short.
    sheds: bool,
    epoch: Instant,
    /// When this turn began, in µs since `epoch`.
    now_us: u64,
    load: Load,
    /// A busy shard: when rooms have their turns again, and how many turns are left of the last time.
    next_round: Instant,
    turns_due: usize,
    lap: Lap,
    is_stopping: bool,
}

/// So that a shard can be printed; an implementation of [`Admission`] need not.
struct AdmissionRef(Arc<dyn Admission>);

impl std::fmt::Debug for AdmissionRef {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Admission")
    }
}

/// The read buffer of a shard. A connection's turn is one of these, so it is also the fairness between floods and others.
const READ_BYTES: usize = 64 * 1024;
impl Shard {
    /// Starts a shard's thread.
    ///
    /// # Errors
    /// The kernel gives no poll, no waker or no thread.
    pub fn spawn(parts: ShardParts) -> io::Result<ShardHandle> {
        let index = parts.index;
        let (shard, poll) = Self::build(parts)?;
        let (commands, events) = (Arc::clone(&shard.inbox), Arc::clone(&shard.events));
        let (counters, ready) = (Arc::clone(&shard.desk.counters), Arc::clone(&shard.ready));
        let mailboxes = Mailboxes(Arc::clone(&commands), Arc::clone(&events));
        let thread = std::thread::Builder::new().name(format!("shard-{index}")).spawn(move || {
            let mailboxes = mailboxes;
            shard.run(poll);
            drop(mailboxes);
        })?;
        Ok(ShardHandle { index, commands, events, counters, ready, thread })
    }

    fn build(parts: ShardParts) -> io::Result<(Self, Poll)> {
        let ShardParts { index, doors, websocket, config, session, admission, epoch } = parts;
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), reactor::WAKER)?);
        let inbox = Arc::new(Mailbox::new(config.inbox_bytes_max, wake(&waker), Signal::task()));
        let events = Arc::new(Mailbox::new(config.events_bytes_max, Signal::task(), wake(&waker)));
        let counters = Arc::new(ShardCounters::default());
        let ready_waker = Arc::clone(&waker);
        // An eventfd that cannot be written to is full, and then the reactor is awake.
        let ready = Arc::new(Ready::new(move || drop(ready_waker.wake())));

        let open = |(at, doorway)| {
            let token = Token(reactor::DOORS + at);
            Door::open(doorway, token, poll.registry(), config.send_buffer_bytes)
        };
        let doors = doors.into_iter().enumerate().map(open).collect::<io::Result<Vec<Door>>>()?;

        let now = Time(u64::try_from(epoch.elapsed().as_millis()).unwrap_or(u64::MAX));
        let desk = Desk {
            shard: index,
            now,
            session,
            limits: BacklogLimits {
                frames_max: config.backlog_frames_max,
                bytes_max: config.backlog_bytes_max,
                soft_percent: config.backlog_soft_percent,
            },
            write_stall: config.write_stall,
            registry: poll.registry().try_clone()?,
            rooms: Rooms::default(),
            wheel: Wheel::new(now),
            actions: ServerActions::default(),
            scratch: Scratch::default(),
            events: desk::Events::new(Arc::clone(&events), Arc::clone(&counters)),
            counters,
            backlogs: 0,
            backlog_bytes: 0,
            pending: 0,
        };
        let shard = Self {
            config,
            desk,
            slab: Slab::new(),
            admission: AdmissionRef(admission),
            doors,
            websocket,
            inbox,
            events,
            ready,
            heard: Vec::new(),
            has_left_inbox: false,
            commands: Vec::new(),
            buffer: vec![0; READ_BYTES].into_boxed_slice(),
            staged: Staged::default(),
            again: VecDeque::new(),
            doomed: Vec::new(),
            hints: Hints::new(),
            left_cause: LeftCause::Left,
            leaving: VecDeque::new(),
            leaving_count: 0,
            fired: Vec::new(),
            all_jobs: VecDeque::new(),
            draining: None,
            sessions: 0,
            sheds: false,
            epoch,
            now_us: 0,
            load: Load::new(Instant::now()),
            next_round: epoch,
            turns_due: 0,
            lap: Lap::begin(epoch),
            is_stopping: false,
        };
        Ok((shard, poll))
    }
}

fn wake(waker: &Arc<Waker>) -> Signal {
    let waker = Arc::clone(waker);
    // An eventfd that cannot be written to is full, and then the reactor is awake.
    Signal::Wake(Box::new(move || drop(waker.wake())))
}

/// Closes a shard's mailboxes when its thread ends, by a panic too: nobody is to wait for it.
struct Mailboxes(Arc<Mailbox<ShardCommand>>, Arc<Mailbox<ShardEvent>>);

impl Drop for Mailboxes {
    fn drop(&mut self) {
        self.0.close();
        self.1.close();
    }
}

/// `count` listeners on one address, by `SO_REUSEPORT`: the kernel spreads connections over them. With port 0 the first takes a free
/// port and the others share it.
///
/// # Errors
/// The address cannot be had: also when another gateway listens there, whose clients the kernel would hand to us by turns.
pub fn listeners(address: SocketAddr, count: usize) -> io::Result<Vec<TcpListener>> {
    if address.port() != 0 {
        // Without `SO_REUSEPORT` the kernel refuses an address that anybody listens on.
        listening_socket(address)?.bind(&address.into())?;
    }
    let mut listeners = Vec::with_capacity(count);
    let mut address = address;
    for _ in 0..count {
        let socket = listening_socket(address)?;
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

fn listening_socket(address: SocketAddr) -> io::Result<socket2::Socket> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    Ok(socket)
}

/// Connections the kernel completes ahead of `accept`. A stampede of 18,000 in two seconds leaves 4,096 room for 450 ms of inattention;
/// the kernel caps it at `net.core.somaxconn`.
const LISTEN_BACKLOG: i32 = 4096;
