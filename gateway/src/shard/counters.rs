//! What one shard counts. Written by its own thread, once per batch; read by whoever scrapes.
//!
//! - Relaxed everywhere: each figure is true on its own, and they agree with each other at rest.
//! - Never reset, never subtracted from, but for the gauges, which are stored whole.

use billfish_session::backlog;
use billfish_wire::{Class, Code, Reason};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Why a copy was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum DropReason {
    /// The reader is slow and the frame was the least worth keeping.
    SoftMark,
    /// A newer state push of the same room and key took its place.
    Replaced,
    /// The connection ended with it in the backlog.
    Closed,
    /// The room speaks faster than people read; this viewer's share.
    Sampled,
    /// The room's own queue on the shard is full.
    RoomQueue,
    /// The process is short of memory.
    Memory,
}

impl From<backlog::DropReason> for DropReason {
    fn from(reason: backlog::DropReason) -> Self {
        match reason {
            backlog::DropReason::SoftMark => Self::SoftMark,
            backlog::DropReason::Replaced => Self::Replaced,
            backlog::DropReason::Closed => Self::Closed,
        }
    }
}

impl DropReason {
    /// Every reason, for tables and metrics.
    pub const ALL: [Self; 6] = [Self::SoftMark, Self::Replaced, Self::Closed, Self::Sampled, Self::RoomQueue, Self::Memory];

    /// Lower-case name, as metrics label it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::SoftMark => "soft_mark",
            Self::Replaced => "replaced",
            Self::Closed => "closed",
            Self::Sampled => "sampled",
            Self::RoomQueue => "room_queue",
            Self::Memory => "memory",
        }
    }
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds.
    pub fn add(&self, more: u64) {
        if more > 0 {
            // One writer: a load and a store, without the bus lock of fetch_add.
            self.0.store(self.0.load(Relaxed).wrapping_add(more), Relaxed);
        }
    }

    /// How many so far.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Says what it is now.
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    /// So much more than before, where several share it.
    pub(crate) fn raise(&self, by: u64) {
        self.0.fetch_add(by, Relaxed);
    }

    /// So much less than before, of what was raised.
    pub(crate) fn lower(&self, by: u64) {
        self.0.fetch_sub(by, Relaxed);
    }

    /// What it was last said to be.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Microseconds by powers of two: bucket `n` counts what took less than `2^n` µs and not less than half of it; the last one the rest.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [Counter; Histogram::BUCKETS],
    sum_us: Counter,
}

impl Histogram {
    /// Up to `2^24` µs, 16 s.
    pub const BUCKETS: usize = 25;

    /// Counts one that took `us`.
    pub fn record(&self, us: u64) {
        let bucket = (u64::BITS - us.leading_zeros()) as usize;
        self.buckets[bucket.min(Self::BUCKETS - 1)].add(1);
        self.sum_us.add(us);
    }

    /// How many fell into each bucket; the upper bound of bucket `n` is `2^n` µs.
    #[must_use]
    pub fn buckets(&self) -> [u64; Self::BUCKETS] {
        std::array::from_fn(|bucket| self.buckets[bucket].value())
    }

    /// All of them together, in µs.
    #[must_use]
    pub fn sum_us(&self) -> u64 {
        self.sum_us.value()
    }
}

/// Frame codes, and one place more for numbers that no [`Code`] has.
pub const CODES: usize = Code::ALL.len() + 1;

/// The row of a frame code in [`ShardCounters::frames_in`].
#[must_use]
pub const fn code_row(code: i32) -> usize {
    match Code::from_number(code) {
        Some(code) => (code.number() - Code::WsShake.number()) as usize,
        None => CODES - 1,
    }
}

/// Everything one shard counts.
#[derive(Debug, Default)]
pub struct ShardCounters {
    /// Connections now.
    pub connections: Gauge,
    /// Of these, logged in.
    pub sessions: Gauge,
    /// Accepted so far.
    pub accepted: Counter,
    /// Turned away by admission, before anything was allocated.
    pub accept_refused: Counter,
    /// `accept` failed for want of files or memory; each costs a pause of the listener.
    pub accept_exhausted: Counter,
    /// `accept` failed otherwise, nearly always because the peer was gone again.
    pub accept_failed: Counter,
    /// TLS handshakes that came to their end, in full.
    pub tls_full: Counter,
    /// The same, shortened by a ticket.
    pub tls_resumed: Counter,
    /// Connections that broke the rules of TLS, most of them during the handshake.
    pub tls_failed: Counter,
    /// Pauses of a TLS door because as many handshakes had begun as a second may have.
    pub tls_delayed: Counter,
    /// Connections ended, by the place of their [`Reason`] in [`Reason::ALL`].
    pub closed: [Counter; Reason::ALL.len()],
    /// ERROR frames told to clients, by the place of their [`Reason`] in [`Reason::ALL`]; what admission says at accept is not among them.
    pub errors: [Counter; Reason::ALL.len()],
    /// Frames read, by [`code_row`].
    pub frames_in: [Counter; CODES],
    /// Frames written that are not copies of a push, by [`code_row`].
    pub frames_out: [Counter; CODES],
    /// Bytes read.
    pub bytes_in: Counter,
    /// Bytes taken by transports.
    pub bytes_out: Counter,
    /// Headers that no legal peer sends.
    pub frame_errors: Counter,
    /// Copies that pushes asked for: `copies = delivered + dropped + pending`.
    pub copies: Counter,
    /// Copies handed whole to a transport, by [`Class`].
    pub delivered: [Counter; Class::ALL.len()],
    /// Copies given up, by class and [`DropReason`].
    pub dropped: [[Counter; DropReason::ALL.len()]; Class::ALL.len()],
    /// ACKs from clients.
    pub acked: Counter,
    /// Copies that wait in backlogs.
    pub pending: Gauge,
    /// Bytes that wait in backlogs.
    pub backlog_bytes: Gauge,
    /// Connections that have a backlog.
    pub backlogs: Gauge,
    /// Socket writes on the fan-out path.
    pub fanout_sends: Counter,
    /// Fan-out jobs: one walk over a room's members.
    pub fanout_jobs: Counter,
    /// Frames that these walks carried; divided by the jobs: how many were joined.
    pub fanout_frames: Counter,
    /// From a room push's arrival on the shard to its last member.
    pub fanout_latency: Histogram,
    /// One turn of the reactor, its sleep left out.
    pub turn_latency: Histogram,
    /// Time spent awake, µs.
    pub busy_us: Counter,
    /// Turns that waited for the flush tick because the shard was busy.
    pub tick_turns: Counter,
    /// Turns on which sockets were not read because the mailbox toward control was full.
    pub held_turns: Counter,
    /// Records toward control (signs of life, ACK records) given up because control did not keep up. Logins, calls and endings never are.
    pub events_dropped: Counter,
    /// Bytes waiting in room queues.
    pub room_queue_bytes: Gauge,
    /// Rooms with members here.
    pub rooms: Gauge,
    /// Timers filed.
    pub timers: Gauge,
    /// Commands and room pushes that named a connection or room no longer here.
    pub stale_commands: Counter,
}

/// The row of a reason in [`ShardCounters::closed`] and [`ShardCounters::errors`].
#[must_use]
pub fn reason_row(reason: Reason) -> usize {
    Reason::ALL.iter().position(|one| *one == reason).unwrap_or_default()
}
