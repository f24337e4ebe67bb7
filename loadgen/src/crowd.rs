//! The crowd: many clients in one event loop.
//!
//! - One thread, one `Poll`, one read buffer and one write buffer for all of them.
//! - Connecting is paced: at most `login_window` clients are between `connect` and the end of their login.
//! - Nothing here sleeps past a tick of the heartbeat wheel, so orders and deadlines are seen in time.

pub(crate) mod client;
mod connecting;
mod connection;
pub(crate) mod gifting;
pub(crate) mod herd;
mod layers;
mod pacer;
mod quic;
pub(crate) mod room;
pub(crate) mod senders;
mod shared;
pub(crate) mod slow;
mod stats;
pub(crate) mod viewers;

use crate::{
    clock,
    transport::Tls,
    worker::{Activity, Plan},
};
use anyhow::{Context, Result};
use billfish_wire::Encoding;
use client::Client;
use connection::Connection;
use gifting::Gifting;
use herd::{Herd, Homes};
use mio::{Events, Poll};
use quic::Quic;
use room::Room;
use shared::Shared;
use slow::{Helping, Laggards, Pace};
use stats::Stats;
use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    io, mem,
    sync::Arc,
    time::Duration,
};

/// Read at once, for whichever client is ready: about what a joined burst of 512 short frames takes.
const READ_BYTES: usize = 64 * 1024;
/// Events taken per turn.
const EVENTS_MAX: usize = 1024;
/// Step of the heartbeat wheel, and the longest a turn waits.
const TICK_NS: u64 = 50_000_000;
/// Heartbeat gap until a LOGIN answer names one.
const HEARTBEAT_GAP_NS: u64 = 30_000_000_000;
/// Below this `epoll`'s milliseconds are too coarse and the pacer naps instead.
const NAP: Duration = Duration::from_micros(50);

/// A worker's clients.
#[derive(Debug)]
pub(crate) struct Crowd<'a> {
    poll: Poll,
    events: Events,
    connections: Vec<Connection>,
    shared: Shared<'a>,
    read_buffer: Box<[u8]>,
    /// Taken out of a client's layers.
    opened: Vec<u8>,
    /// What its layers have to write.
    sealed: Vec<u8>,
    tls: Option<Tls>,
    /// Sockets and timers, where QUIC is spoken.
    quic: Option<Quic>,
    /// Clients on their way in, by the time they began.
    on_the_way: VecDeque<usize>,
    in_window: usize,
    next_client: usize,
    connect_began_ns: u64,
    wheel_tick: u64,
    /// Load messages sent by the pacer.
    paced: u64,
    /// Where clients come back.
    herd: Option<Herd>,
    /// Clients that came back with a token that the gateway did not know.
    refused_tokens: Vec<usize>,
    /// Clients whose login was refused with a time to come back, and when they do.
    told_to_wait: BinaryHeap<Reverse<(u64, usize)>>,
    /// Those who read slowly.
    laggards: Option<Laggards>,
    /// First copies that should arrive in rooms, once the parent has said so.
    accepted_copies: u64,
}

impl<'a> Crowd<'a> {
    /// A crowd of one client per token, none of them connected.
    pub(crate) fn new(plan: &'a Plan, tokens: Vec<Box<str>>) -> Result<Self> {
        let now_ns = clock::now_ns();
        let mut random = fastrand::Rng::with_seed(plan.user_id(0).unsigned_abs());
        let homes = if plan.gifts.is_some() { Homes::All } else { Homes::First };
        let herd = plan.return_spread.map(|spread| Herd::new(tokens.len(), homes, nanoseconds(spread), random.fork()));
        let gift_plan = plan.gifts.as_ref().map(|work| Arc::new(work.plan.clone()));
        let connection = |(index, token)| Connection { client: Client::new(token, plan.pace_of(index)), ..Connection::default() };
        let connections = tokens.into_iter().enumerate().map(connection).collect();
        let stats = Stats { by_pace: plan.slow.map(|_| Box::default()), ..Stats::default() };
        Ok(Self {
            herd,
            refused_tokens: Vec::new(),
            told_to_wait: BinaryHeap::new(),
            laggards: plan.slow.map(|slow| Laggards::new(slow, (0..plan.clients).map(|index| plan.pace_of(index)))),
            poll: Poll::new().context("no epoll")?,
            events: Events::with_capacity(EVENTS_MAX),
            connections,
            shared: Shared {
                plan,
                rooms: plan.rooms.iter().map(|&id| Room::new(id).with_gifts(gift_plan.clone())).collect(),
                stats,
                gifts: plan.gifts.as_ref().map(|work| Box::new(Gifting::new(work, plan.first, plan.clients))),
                out: Vec::new(),
                stream_class: None,
                now_ns,
                heartbeat_gap_ns: HEARTBEAT_GAP_NS,
                is_active: false,
                is_herd_in: false,
                told_to_wait_ms: None,
                paused: VecDeque::new(),
                activity_began_ns: now_ns,
                lag_from_ns: u64::MAX,
                random,
                run: now_ns,
                encoding: if plan.protobuf { Encoding::Protobuf } else { Encoding::Json },
            },
            read_buffer: vec![0; READ_BYTES].into_boxed_slice(),
            opened: Vec::new(),
            sealed: Vec::new(),
            tls: plan.transport.is_tls().then(|| Tls::new(&plan.tls, plan.transport)).transpose()?,
            quic: plan.transport.is_quic().then(|| Quic::new(&plan.tls)).transpose()?,
            on_the_way: VecDeque::new(),
            in_window: 0,
            next_client: 0,
            connect_began_ns: now_ns,
            wheel_tick: now_ns / TICK_NS,
            paced: 0,
            accepted_copies: 0,
        })
    }

    /// The activity begins.
    pub(crate) fn begin_activity(&mut self) {
        self.shared.now_ns = clock::now_ns();
        self.shared.activity_began_ns = self.shared.now_ns;
        self.shared.is_active = true;
        if let Some(gifts) = &mut self.shared.gifts {
            gifts.senders.begin(self.shared.now_ns);
        }
        if let Some(laggards) = &mut self.laggards {
            laggards.begin(self.shared.now_ns);
            self.shared.lag_from_ns = laggards.from_ns;
        }
        if self.shared.is_closed_loop() {
            for index in 0..self.connections.len() {
                self.send_load(index, self.shared.now_ns);
            }
        }
    }

    /// Nothing more is sent; `accepted` says how many messages of each room should arrive.
    pub(crate) fn end_activity(&mut self, accepted: &[u32]) {
        self.shared.is_active = false;
        self.shared.paused.clear();
        if let Some(gifts) = &mut self.shared.gifts {
            gifts.senders.end(clock::now_ns());
        } else {
            self.shared.heartbeat_gap_ns = u64::MAX;
        }
        for index in self.laggards.as_mut().map(Laggards::end).unwrap_or_default() {
            self.on_readable(index, true);
        }
        self.accepted_copies =
            accepted.iter().zip(&self.shared.rooms).map(|(&messages, room)| u64::from(messages) * u64::from(room.members)).sum();
    }

    /// Whether something sent has not arrived or not been answered.
    pub(crate) fn awaits_more(&self) -> bool {
        let stats = &self.shared.stats;
        let copies_due = match self.shared.plan.activity {
            Activity::Listen => self.accepted_copies,
            Activity::Chat { .. } => stats.sent,
            Activity::Echo { .. } => 0,
            Activity::Gifts => return self.awaits_gifts(),
        };
        stats.open > 0 || stats.totals.received < copies_due
    }

    /// When something last arrived that was waited for.
    pub(crate) fn last_arrival_ns(&self) -> u64 {
        self.shared.stats.last_copy_ns
    }

    /// Who came back with a token that the gateway does not know, since the last call.
    pub(crate) fn take_refused_tokens(&mut self) -> Vec<usize> {
        mem::take(&mut self.refused_tokens)
    }

    /// From now on a client logs in with this token.
    pub(crate) fn renew_token(&mut self, index: usize, token: Box<str>) {
        self.connections[index].client.renew(token);
    }

    /// One turn: heartbeats and load that are due, then whatever the sockets have.
    pub(crate) fn turn(&mut self) -> Result<()> {
        self.shared.now_ns = clock::now_ns();
        self.turn_wheel();
        if self.shared.is_herd_in {
            self.let_return();
        }
        self.help_laggards();
        let wait = self.pace();
        let wait = self.turn_quic(wait);
        match self.poll.poll(&mut self.events, Some(wait)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(error).context("epoll failed"),
        }
        if self.events.is_empty() && wait.is_zero() {
            std::thread::sleep(NAP);
        }
        let events = mem::replace(&mut self.events, Events::with_capacity(1));
        for event in &events {
            let index = event.token().0;
            if self.quic.is_some() {
                self.on_socket(index);
                continue;
            }
            if event.is_writable() {
                self.on_writable(index);
            }
            if (event.is_readable() || event.is_read_closed() || event.is_error()) && !self.lags(index) {
                self.on_readable(index, event.is_read_closed() || event.is_error());
            }
        }
        self.events = events;
        Ok(())
    }

    /// Whether a client's socket is not to be read now.
    fn lags(&self, index: usize) -> bool {
        let pace = self.connections[index].client.pace;
        pace != Pace::Prompt && self.laggards.as_ref().is_some_and(|laggards| laggards.holds(pace, self.shared.now_ns))
    }

    /// Reads for those whom the event loop leaves alone. Their sockets announce nothing: an edge that was passed over does not come again.
    fn help_laggards(&mut self) {
        let now_ns = self.shared.now_ns;
        while let Some(helping) = self.laggards.as_mut().and_then(|laggards| laggards.next_helping(now_ns)) {
            match helping {
                Helping::Some { clients, bytes } => {
                    for index in clients {
                        self.read(index, bytes);
                    }
                }
                Helping::All { clients } => {
                    for index in clients {
                        self.on_readable(index, true);
                        // Its turn may have passed while it was mute, and with the next one two gaps would be over: it has stopped for ten
                        // seconds, and is not to be ended for the silence of sixty.
                        self.keep_alive(index);
                    }
                }
            }
        }
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
