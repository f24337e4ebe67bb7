//! The crowd: many clients in one event loop.
//!
//! - One thread, one `Poll`, one read buffer and one write buffer for all of them.
//! - Connecting is paced: at most `login_window` clients are between `connect` and the end of their login.
//! - Nothing here sleeps past a tick of the heartbeat wheel, so orders and deadlines are seen in time.

pub(crate) mod client;
pub(crate) mod herd;
pub(crate) mod room;
pub(crate) mod slow;

use crate::{
    clock,
    latency::Recording,
    series::Interval,
    tally::Totals,
    worker::{Activity, ENDS_MAX, End, Odd, Plan, Settled, Talk, WorkerReport},
};
use anyhow::{Context, Result};
use billfish_wire::{Body, Code, Encoding, Reassembler, frame, limits::BODY_BYTES_MAX};
use client::{Cause, Client, Stage};
use herd::Herd;
use mio::{Events, Interest, Poll, Token, net::TcpStream};
use room::Room;
use slow::{Helping, Laggards, Pace, PaceLatencies};
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, VecDeque},
    io::{self, Read, Write},
    mem,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

/// Read at once, for whichever client is ready: about what a joined burst of 512 short frames takes.
const READ_BYTES: usize = 64 * 1024;
/// Events taken per turn.
const EVENTS_MAX: usize = 1024;
/// Bytes kept for one client whose socket takes no more; the client is given up beyond it: the gateway has stopped reading.
const UNSENT_BYTES_MAX: usize = 64 * 1024;
/// Step of the heartbeat wheel, and the longest a turn waits.
const TICK_NS: u64 = 50_000_000;
/// Heartbeat gap until a LOGIN answer names one.
const HEARTBEAT_GAP_NS: u64 = 30_000_000_000;
/// Clients begun or paced in one turn, so that reading is never put off for long.
const BEGIN_PER_TURN: usize = 64;
const PACED_PER_TURN: usize = 1024;
/// Who is told to come back later comes up to this much later than that: those refused together do not come together.
const RETRY_JITTER_NS: u64 = 1_000_000_000;
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
    /// Clients whose login was refused with a time to come back, and when they do.
    told_to_wait: BinaryHeap<Reverse<(u64, usize)>>,
    /// Those who read slowly.
    laggards: Option<Laggards>,
    /// First copies that should arrive in rooms, once the parent has said so.
    accepted_copies: u64,
}

/// A client and its socket.
#[derive(Debug, Default)]
struct Connection {
    stream: Option<TcpStream>,
    reassembler: Reassembler,
    #[expect(clippy::box_collection, reason = "8 bytes per client instead of 24; nearly no client has one")]
    unsent: Option<Box<Vec<u8>>>,
    client: Client,
}

/// What all clients share while one of them is served.
#[derive(Debug)]
pub(crate) struct Shared<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) rooms: Vec<Room>,
    pub(crate) stats: Stats,
    /// Frames to be written to the client that is being served.
    pub(crate) out: Vec<u8>,
    /// Read once per readable socket, not once per copy.
    pub(crate) now_ns: u64,
    pub(crate) heartbeat_gap_ns: u64,
    pub(crate) is_active: bool,
    /// Everyone of a herd has been in: who is cut from now on comes back.
    pub(crate) is_herd_in: bool,
    /// How long the client that is being refused shall wait, when the refusal said so.
    pub(crate) told_to_wait_ms: Option<u64>,
    /// Clients of a closed loop that were told to wait, and until when.
    pub(crate) paused: VecDeque<(u64, usize)>,
    activity_began_ns: u64,
    /// Since when some read slowly.
    pub(crate) lag_from_ns: u64,
    /// Seeded by the plan: the same seed draws the same waits.
    pub(crate) random: fastrand::Rng,
    /// Makes message ids of this run differ from those of the last one.
    pub(crate) run: u64,
    encoding: Encoding,
}

/// Counters of the worker.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    pub(crate) settled: usize,
    /// Times someone settled, also again.
    pub(crate) entered: u64,
    /// Settled since the event loop last looked: each gives back its place in the login window.
    pub(crate) newly_settled: usize,
    /// Settled again after they had been cut.
    pub(crate) newly_back: Vec<usize>,
    failures: BTreeMap<Cause, u64>,
    retries: BTreeMap<Cause, u64>,
    lost: BTreeMap<Cause, u64>,
    given_up: BTreeMap<Cause, u64>,
    resets: u64,
    ends: Vec<End>,
    ends_omitted: u64,
    failed: Vec<End>,
    failed_omitted: u64,
    refused: BTreeMap<Cause, u64>,
    /// One-to-one messages that were not as they should be, by client.
    pub(crate) odd_of: BTreeMap<usize, Odd>,
    /// Due while their client was not connected.
    unsent: u64,
    /// Where some read slowly.
    pub(crate) by_pace: Option<Box<PaceLatencies>>,
    pub(crate) login: Recording,
    pub(crate) latency: Recording,
    pub(crate) totals: Totals,
    pub(crate) done: Vec<(usize, u32)>,
    pub(crate) last_copy_ns: u64,
    pub(crate) frame_bytes: usize,
    pub(crate) sent: u64,
    /// Sent and neither answered nor given up.
    pub(crate) open: u64,
    pub(crate) beats_sent: u64,
    pub(crate) beats_echoed: u64,
    pub(crate) beat_latency: Recording,
    /// What the counters stood at when the last interval was closed.
    told: Told,
}

/// Counters at one instant.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    received: u64,
    sent: u64,
    beats_echoed: u64,
    beats_sent: u64,
    entered: u64,
}

impl Stats {
    /// Tells of an ending or a failure, as long as there is room to tell each.
    fn tell(list: &mut Vec<End>, omitted: &mut u64, end: End) {
        if list.len() < ENDS_MAX {
            list.push(end);
        } else {
            *omitted += 1;
        }
    }

    pub(crate) fn refuse(&mut self, cause: &str) {
        match self.refused.get_mut(cause) {
            Some(count) => *count += 1,
            None => {
                self.refused.insert(cause.to_owned(), 1);
            }
        }
    }

    /// What was counted since the last call, as that second of the run.
    fn close_interval(&mut self, second: u64) -> Interval {
        let now = Told {
            received: self.totals.received,
            sent: self.sent,
            beats_echoed: self.beats_echoed,
            beats_sent: self.beats_sent,
            entered: self.entered,
        };
        let before = mem::replace(&mut self.told, now);
        Interval {
            second,
            received: now.received - before.received,
            // What was refused, or open when its connection was cut, is taken back from the count, perhaps in a later interval.
            sent: now.sent.saturating_sub(before.sent),
            beats_echoed: now.beats_echoed - before.beats_echoed,
            beats_sent: now.beats_sent.saturating_sub(before.beats_sent),
            entered: now.entered - before.entered,
            latency: self.latency.close_interval(),
            beat_latency: self.beat_latency.close_interval(),
            login: self.login.close_interval(),
        }
    }
}

impl Shared<'_> {
    /// The user of a client.
    pub(crate) fn user_id(&self, index: usize) -> i64 {
        self.plan.user_id(index)
    }

    /// The room of a client, as its place in the plan.
    pub(crate) fn room_of(&self, index: usize) -> Option<usize> {
        (self.plan.first + index).checked_rem(self.rooms.len())
    }

    /// Whom a client chats with: its neighbour.
    pub(crate) fn partner_of(&self, index: usize) -> Option<i64> {
        let partner = index ^ 1;
        (partner < self.plan.clients).then(|| self.user_id(partner))
    }

    /// Adds a frame to what the client being served will be sent.
    pub(crate) fn say(&mut self, code: Code, body: &Body) {
        frame::encode_into(&mut self.out, self.encoding, code, body);
    }

    /// When the load message `nth` of a client was due: the pacer goes round the clients.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a run has far fewer than 2^52 messages and nanoseconds"
    )]
    pub(crate) fn intended_ns(&self, per_s: f64, index: usize, nth: u32) -> u64 {
        let place = u64::from(nth) * self.plan.clients as u64 + index as u64;
        self.activity_began_ns + (place as f64 * 1e9 / per_s) as u64
    }

    /// Whether each client sends its next as soon as it has the answer.
    pub(crate) fn is_closed_loop(&self) -> bool {
        matches!(self.plan.activity, Activity::Echo { per_s } if per_s <= 0.0)
    }
}

impl<'a> Crowd<'a> {
    /// A crowd of one client per token, none of them connected.
    pub(crate) fn new(plan: &'a Plan, tokens: Vec<Box<str>>) -> Result<Self> {
        let now_ns = clock::now_ns();
        let mut random = fastrand::Rng::with_seed(plan.user_id(0).unsigned_abs());
        let herd = plan.return_spread.map(|spread| Herd::new(tokens.len(), nanoseconds(spread), random.fork()));
        let connection = |(index, token)| Connection { client: Client::new(token, plan.pace_of(index)), ..Connection::default() };
        let connections = tokens.into_iter().enumerate().map(connection).collect();
        let stats = Stats { by_pace: plan.slow.map(|_| Box::default()), ..Stats::default() };
        Ok(Self {
            herd,
            told_to_wait: BinaryHeap::new(),
            laggards: plan.slow.map(|slow| Laggards::new(slow, (0..plan.clients).map(|index| plan.pace_of(index)))),
            poll: Poll::new().context("no epoll")?,
            events: Events::with_capacity(EVENTS_MAX),
            connections,
            shared: Shared {
                plan,
                rooms: plan.rooms.iter().map(|&id| Room::new(id)).collect(),
                stats,
                out: Vec::new(),
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
            on_the_way: VecDeque::new(),
            in_window: 0,
            next_client: 0,
            connect_began_ns: now_ns,
            wheel_tick: now_ns / TICK_NS,
            paced: 0,
            accepted_copies: 0,
        })
    }

    /// The connecting begins now.
    pub(crate) fn begin_connecting(&mut self) {
        self.connect_began_ns = clock::now_ns();
    }

    /// One turn of connecting; `true` when everyone is in or has failed.
    pub(crate) fn connect_turn(&mut self) -> Result<bool> {
        let now_ns = clock::now_ns();
        let deadline_ns = self.connect_began_ns + nanoseconds(self.shared.plan.connect_max);
        if now_ns > deadline_ns {
            while self.next_client < self.connections.len() {
                self.fail(self.next_client, "not begun in time".to_owned());
                self.next_client += 1;
            }
        }
        for _ in 0..BEGIN_PER_TURN {
            let Some(due_ns) = self.next_connect_due_ns().filter(|&due_ns| due_ns <= now_ns) else { break };
            // Without a rate the window is the schedule, and a login is due when its place is free.
            self.begin(self.next_client, if self.shared.plan.connect_rate > 0.0 { due_ns } else { now_ns });
            self.next_client += 1;
        }
        while self.in_window < self.shared.plan.login_window
            && let Some(Reverse((due_ns, index))) = self.told_to_wait.peek().copied().filter(|Reverse((due_ns, _))| *due_ns <= now_ns)
        {
            self.told_to_wait.pop();
            // Its login is as late as the refusals made it: `begun_ns` stays.
            let begun_ns = self.connections[index].client.begun_ns;
            self.begin(index, due_ns);
            self.connections[index].client.begun_ns = begun_ns;
        }
        self.time_out_logins(now_ns);
        self.turn()?;
        let is_over = self.next_client == self.connections.len() && self.in_window == 0 && self.told_to_wait.is_empty();
        self.shared.is_herd_in = is_over && self.herd.is_some();
        Ok(is_over)
    }

    fn time_out_logins(&mut self, now_ns: u64) {
        let timeout_ns = nanoseconds(self.shared.plan.login_timeout);
        while let Some(&index) = self.on_the_way.front() {
            let client = &self.connections[index].client;
            if client.stage.is_on_the_way() {
                if now_ns < client.tried_ns + timeout_ns {
                    break;
                }
                self.fail(index, "login timed out".to_owned());
            }
            self.on_the_way.pop_front();
        }
    }

    /// Those who are out and whose wait is over begin again.
    fn let_return(&mut self) {
        let now_ns = self.shared.now_ns;
        for _ in 0..BEGIN_PER_TURN {
            let Some(index) = self.herd.as_mut().and_then(|herd| herd.next_due(now_ns)) else { break };
            self.begin(index, now_ns);
        }
        self.time_out_logins(now_ns);
    }

    /// When the next client should connect; `None` when none is left or the window is full. Without a rate that is now.
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a crowd is far below 2^52")]
    fn next_connect_due_ns(&self) -> Option<u64> {
        let plan = self.shared.plan;
        if self.next_client == self.connections.len() {
            return None;
        }
        if plan.connect_rate > 0.0 {
            // A schedule: a window that is full delays the connect but not its intended time.
            let due_ns = self.connect_began_ns + (self.next_client as f64 * 1e9 / plan.connect_rate) as u64;
            return (self.in_window < plan.login_window).then_some(due_ns);
        }
        (self.in_window < plan.login_window).then_some(self.connect_began_ns)
    }

    fn begin(&mut self, index: usize, intended_ns: u64) {
        let connection = &mut self.connections[index];
        connection.client.begun_ns = intended_ns;
        // Not when it was due: who had to wait for a place has had no time to log in yet.
        connection.client.tried_ns = clock::now_ns();
        connection.client.stage = Stage::Connecting;
        self.in_window += 1;
        self.on_the_way.push_back(index);
        let plan = self.shared.plan;
        let client = plan.first + index;
        let gateway = match &self.herd {
            Some(herd) => plan.gateways[herd.gateway_of(index, client, plan.gateways.len())],
            None => plan.gateways[client % plan.gateways.len()],
        };
        let receive_buffer = plan.slow.filter(|_| connection.client.pace != Pace::Prompt).map(|slow| slow.receive_buffer_bytes);
        let opened = connect(gateway, source_of(plan, index, gateway), receive_buffer).and_then(|mut stream| {
            self.poll.registry().register(&mut stream, Token(index), Interest::READABLE | Interest::WRITABLE)?;
            Ok(stream)
        });
        match opened {
            Ok(stream) => connection.stream = Some(stream),
            Err(error) => self.fail(index, format!("connect: {}", error.kind())),
        }
    }

    /// The activity begins.
    pub(crate) fn begin_activity(&mut self) {
        self.shared.now_ns = clock::now_ns();
        self.shared.activity_began_ns = self.shared.now_ns;
        self.shared.is_active = true;
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
        self.shared.heartbeat_gap_ns = u64::MAX;
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
        };
        stats.open > 0 || stats.totals.received < copies_due
    }

    /// When something last arrived that was waited for.
    pub(crate) fn last_arrival_ns(&self) -> u64 {
        self.shared.stats.last_copy_ns
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
                    }
                }
            }
        }
    }

    /// Heartbeats: client `i` has its turn in slot `i` modulo the slots of a gap, so that the load is even.
    fn turn_wheel(&mut self) {
        let tick = self.shared.now_ns / TICK_NS;
        let is_load = self.shared.is_active && matches!(self.shared.plan.activity, Activity::Echo { .. });
        if self.shared.heartbeat_gap_ns == u64::MAX || is_load {
            self.wheel_tick = tick;
            return;
        }
        let slots = (self.shared.heartbeat_gap_ns / TICK_NS).max(1);
        // After a pause longer than a gap each client still gets one heartbeat, not one per gap.
        self.wheel_tick = self.wheel_tick.max(tick.saturating_sub(slots));
        let step = usize::try_from(slots).expect("a gap has few ticks");
        while self.wheel_tick < tick {
            self.wheel_tick += 1;
            let first = usize::try_from(self.wheel_tick % slots).expect("less than the slots");
            for index in (first..self.connections.len()).step_by(step) {
                let is_mute = self.connections[index].client.pace == Pace::Stopped && self.lags(index);
                if self.connections[index].client.stage == Stage::Settled && !is_mute {
                    self.connections[index].client.keep_alive(&mut self.shared);
                    self.flush(index);
                }
            }
        }
    }

    /// Sends the load that is due and says how long to wait for events at most.
    fn pace(&mut self) -> Duration {
        let tick = Duration::from_nanos(TICK_NS);
        if self.herd.as_ref().is_some_and(Herd::is_anyone_out) {
            return Duration::from_millis(1);
        }
        if !self.shared.is_active {
            let is_busy = self.next_connect_due_ns().is_some() || !self.told_to_wait.is_empty();
            return if is_busy { Duration::from_millis(1) } else { tick };
        }
        let now_ns = self.shared.now_ns;
        while let Some(&(due_ns, index)) = self.shared.paused.front() {
            if due_ns > now_ns {
                break;
            }
            self.shared.paused.pop_front();
            self.send_load(index, now_ns);
        }
        let per_s = match self.shared.plan.activity {
            Activity::Echo { per_s } | Activity::Chat { per_s, .. } if per_s > 0.0 && !self.connections.is_empty() => per_s,
            Activity::Listen | Activity::Echo { .. } | Activity::Chat { .. } => {
                return if self.shared.paused.is_empty() { tick } else { Duration::from_millis(5) };
            }
        };
        let clients = self.connections.len() as u64;
        for _ in 0..PACED_PER_TURN {
            let index = usize::try_from(self.paced % clients).expect("an index");
            let round = u32::try_from(self.paced / clients).unwrap_or(u32::MAX);
            let due_ns = self.shared.intended_ns(per_s, index, round);
            if due_ns > now_ns {
                let wait = Duration::from_nanos(due_ns - now_ns).min(tick);
                return if wait < Duration::from_millis(1) { Duration::ZERO } else { wait };
            }
            self.paced += 1;
            self.send_load(index, due_ns);
        }
        Duration::ZERO
    }

    fn send_load(&mut self, index: usize, intended_ns: u64) {
        if self.connections[index].client.stage == Stage::Settled {
            self.connections[index].client.send_load(index, intended_ns, &mut self.shared);
            self.flush(index);
        } else {
            self.shared.stats.unsent += 1;
        }
    }

    fn on_writable(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        let Some(stream) = connection.stream.as_mut() else { return };
        if connection.client.stage == Stage::Connecting {
            match stream.take_error().map(|error| error.map_or_else(|| stream.peer_addr().map(drop), Err)) {
                Ok(Ok(())) => {
                    connection.client.on_connected(index, &mut self.shared);
                    self.flush(index);
                }
                // Not yet: the next event tells.
                Ok(Err(error)) if error.kind() == io::ErrorKind::NotConnected => {}
                Ok(Err(error)) | Err(error) => self.fail(index, format!("connect: {}", error.kind())),
            }
            return;
        }
        let Some(unsent) = connection.unsent.take() else { return };
        match write_some(stream, &unsent) {
            Ok(written) if written == unsent.len() => {}
            Ok(written) => connection.unsent = Some(Box::new(unsent[written..].to_vec())),
            Err(error) => self.fail_write(index, format!("write: {}", error.kind())),
        }
    }

    /// Reads until the socket is empty. A short read says so, unless the end of the stream may stand behind it.
    fn on_readable(&mut self, index: usize, may_have_ended: bool) {
        while let Some(read) = self.read(index, READ_BYTES) {
            if read < READ_BYTES && !may_have_ended {
                return;
            }
        }
    }

    /// Reads once, at most `bytes_max`, and lets the client hear it; `None` when there is nothing more to read.
    fn read(&mut self, index: usize, bytes_max: usize) -> Option<usize> {
        let connection = &mut self.connections[index];
        let stream = connection.stream.as_mut()?;
        let read = loop {
            match stream.read(&mut self.read_buffer[..bytes_max]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        let read = match read {
            Ok(0) => {
                self.fail(index, "closed by the gateway".to_owned());
                return None;
            }
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
            // The event of a refused connect arrives here as well; its cause reads better from there.
            Err(error) if connection.client.stage == Stage::Connecting => {
                self.fail(index, format!("connect: {}", error.kind()));
                return None;
            }
            Err(error) => {
                self.shared.stats.resets += u64::from(connection.client.pace != Pace::Prompt);
                self.fail(index, format!("read: {}", error.kind()));
                return None;
            }
        };
        self.shared.now_ns = clock::now_ns();
        let outcome = feed(connection, index, &self.read_buffer[..read], &mut self.shared);
        self.in_window -= mem::take(&mut self.shared.stats.newly_settled);
        for back in mem::take(&mut self.shared.stats.newly_back) {
            if let Some(herd) = &mut self.herd {
                herd.on_back(back, self.shared.now_ns);
            }
        }
        self.flush(index);
        if let Err(cause) = outcome {
            self.fail(index, cause);
            return None;
        }
        Some(read)
    }

    /// Writes what the shared buffer holds for this client.
    fn flush(&mut self, index: usize) {
        if self.shared.out.is_empty() {
            return;
        }
        let connection = &mut self.connections[index];
        let outcome = match (connection.stream.as_mut(), connection.unsent.as_mut()) {
            (None, _) => Ok(0),
            (Some(_), Some(unsent)) if unsent.len() + self.shared.out.len() > UNSENT_BYTES_MAX => {
                Err("write stalled: the gateway reads no more".to_owned())
            }
            (Some(_), Some(unsent)) => {
                unsent.extend_from_slice(&self.shared.out);
                Ok(self.shared.out.len())
            }
            (Some(stream), None) => write_some(stream, &self.shared.out).map_err(|error| format!("write: {}", error.kind())),
        };
        match outcome {
            Ok(written) if written < self.shared.out.len() && connection.stream.is_some() => {
                connection.unsent = Some(Box::new(self.shared.out[written..].to_vec()));
            }
            Ok(_) => {}
            Err(cause) => {
                self.shared.out.clear();
                self.fail_write(index, cause);
            }
        }
        self.shared.out.clear();
    }

    /// The connection takes nothing any more. What a slow client has not read yet is there all the same, and counts as delivered.
    fn fail_write(&mut self, index: usize, cause: Cause) {
        let client = &self.connections[index].client;
        if client.pace != Pace::Prompt && client.stage == Stage::Settled {
            let resets = self.shared.stats.resets;
            self.on_readable(index, true);
            self.shared.stats.resets = resets + 1;
        }
        self.fail(index, cause);
    }

    /// The connection is over.
    fn fail(&mut self, index: usize, cause: Cause) {
        let stage = self.connections[index].client.stage;
        if stage == Stage::Closed {
            self.shared.told_to_wait_ms = None;
            return;
        }
        let comes_back = self.book_end(index, cause);
        let connection = &mut self.connections[index];
        if stage.is_on_the_way() {
            self.in_window -= 1;
        }
        if stage == Stage::Settled {
            self.shared.stats.settled -= 1;
            if comes_back {
                connection.client.forget_beat(&mut self.shared);
            }
            if let Some(room) = self.shared.room_of(index) {
                let room = &mut self.shared.rooms[room];
                if comes_back {
                    room.members -= 1;
                } else {
                    room.ends.members += 1;
                    room.ends.received += connection.client.received();
                }
            }
        }
        connection.client.stage = if comes_back { Stage::Waiting } else { Stage::Closed };
        connection.client.forget_open(&mut self.shared);
        // Closing the descriptor takes it out of epoll as well.
        connection.stream = None;
        connection.unsent = None;
        connection.reassembler = Reassembler::default();
    }

    /// Writes down why a connection is over, and whether its client comes back.
    fn book_end(&mut self, index: usize, cause: Cause) -> bool {
        let told_to_wait_ms = self.shared.told_to_wait_ms.take();
        let client = &self.connections[index].client;
        let at_ns = clock::now_ns();
        let stats = &mut self.shared.stats;
        let end =
            || End { client: self.shared.plan.first + index, cause: cause.clone(), at_ns, received: client.received(), pace: client.pace };
        let returning = self.herd.as_mut().filter(|_| self.shared.is_herd_in);
        if client.stage == Stage::Settled {
            Stats::tell(&mut stats.ends, &mut stats.ends_omitted, end());
            if let Some(herd) = returning {
                herd.on_cut(index, at_ns);
                return true;
            }
            let by_cause = if client.pace == Pace::Prompt { &mut stats.lost } else { &mut stats.given_up };
            *by_cause.entry(cause).or_default() += 1;
            return false;
        }
        if let Some(herd) = returning {
            herd.on_failed(index, cause, at_ns);
            return true;
        }
        let again_ns = told_to_wait_ms.map(|ms| at_ns + ms.saturating_mul(1_000_000) + self.shared.random.u64(0..RETRY_JITTER_NS));
        let too_late_ns = self.connect_began_ns + nanoseconds(self.shared.plan.connect_max);
        let Some(again_ns) = again_ns.filter(|&again_ns| again_ns < too_late_ns) else {
            Stats::tell(&mut stats.failed, &mut stats.failed_omitted, end());
            *stats.failures.entry(cause).or_default() += 1;
            return false;
        };
        *stats.retries.entry(cause).or_default() += 1;
        self.told_to_wait.push(Reverse((again_ns, index)));
        true
    }

    /// Clients that are in.
    pub(crate) fn settled_now(&self) -> usize {
        self.shared.stats.settled
    }

    /// For the progress bar.
    pub(crate) fn received_now(&self) -> u64 {
        self.shared.stats.totals.received + self.shared.stats.beats_echoed
    }

    /// What happened since the last call, booked on that second of `CLOCK_MONOTONIC`.
    pub(crate) fn close_interval(&mut self, second: u64) -> Interval {
        self.shared.stats.close_interval(second)
    }

    /// Messages completed since the last call.
    pub(crate) fn take_done(&mut self) -> Vec<(usize, u32)> {
        mem::take(&mut self.shared.stats.done)
    }

    /// How the crowd got in.
    pub(crate) fn settled(&self) -> Settled {
        Settled {
            settled: self.shared.stats.settled,
            failures: self.shared.stats.failures.clone(),
            retries: self.shared.stats.retries.clone(),
            members: self.shared.rooms.iter().map(|room| room.members).collect(),
            login: self.shared.stats.login.total(),
        }
    }

    /// What the crowd saw. Taken once, at the end.
    pub(crate) fn report(&mut self) -> WorkerReport {
        let stats = mem::take(&mut self.shared.stats);
        let talks = match self.shared.plan.activity {
            Activity::Chat { .. } => self.talks(&stats.odd_of),
            Activity::Listen | Activity::Echo { .. } => Vec::new(),
        };
        let count = |pace| self.connections.iter().filter(|connection| connection.client.pace == pace).count() as u64;
        let is_listening = matches!(self.shared.plan.activity, Activity::Listen);
        WorkerReport {
            sent: if is_listening { stats.beats_sent } else { stats.sent },
            refused: stats.refused,
            unsent: stats.unsent,
            lost: stats.lost,
            given_up: stats.given_up,
            resets: stats.resets,
            ends: stats.ends,
            ends_omitted: stats.ends_omitted,
            failed: stats.failed,
            failed_omitted: stats.failed_omitted,
            room_ends: self.shared.rooms.iter().map(|room| room.ends).collect(),
            talks,
            slow_clients: count(Pace::Slow),
            stopped_clients: count(Pace::Stopped),
            by_pace: stats.by_pace.map(|by_pace| *by_pace),
            totals: stats.totals,
            latency: stats.latency.total(),
            beats_echoed: stats.beats_echoed,
            beat_latency: stats.beat_latency.total(),
            messages: self.shared.rooms.iter_mut().map(|room| mem::take(&mut room.messages)).collect(),
            last_copy_ns: stats.last_copy_ns,
            herd: self.herd.as_mut().map(|herd| mem::take(&mut herd.tally)),
            frame_bytes: self.shared.rooms.iter().map(|room| room.frame_bytes).max().unwrap_or(0).max(stats.frame_bytes),
        }
    }
}

/// Ranges of missing messages that a client tells of.
const HOLES_MAX: usize = 8;

impl Crowd<'_> {
    /// What every client sent its neighbour and got from it.
    fn talks(&self, odd_of: &BTreeMap<usize, Odd>) -> Vec<Talk> {
        let sent_by = |index: usize| self.connections.get(index).map_or(0, |connection| connection.client.sent());
        let talk = |(index, connection): (usize, &Connection)| Talk {
            client: self.shared.plan.first + index,
            sent: connection.client.sent(),
            odd: odd_of.get(&index).copied().unwrap_or_default(),
            received: connection.client.received(),
            holes: connection.client.holes(sent_by(index ^ 1), HOLES_MAX),
        };
        self.connections.iter().enumerate().map(talk).collect()
    }
}

/// Hands every whole frame of `input` to the client.
fn feed(connection: &mut Connection, index: usize, input: &[u8], shared: &mut Shared<'_>) -> Result<(), Cause> {
    let mut frames = connection.reassembler.feed(input);
    while let Some(frame) = frames.next(BODY_BYTES_MAX).map_err(|error| error.to_string())? {
        connection.client.on_frame(index, frame, shared)?;
    }
    Ok(())
}

/// Writes as much as the socket takes.
fn write_some(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<usize> {
    let mut written = 0;
    while written < bytes.len() {
        match stream.write(&bytes[written..]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(more) => written += more,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(written)
}

/// Begins a connect that does not block, from `source` where there is one, with a receive buffer of so many bytes where they are named.
fn connect(gateway: SocketAddr, source: Option<Ipv4Addr>, receive_buffer: Option<u32>) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(gateway), Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    if let Some(bytes) = receive_buffer {
        // Before the handshake, in which the window is agreed.
        socket.set_recv_buffer_size(bytes as usize)?;
    }
    if let Some(source) = source {
        // Every source address has its own 28,000 ports.
        socket.bind(&SocketAddr::from((source, 0)).into())?;
    }
    match socket.connect(&gateway.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {}
        Err(error) => return Err(error),
    }
    Ok(TcpStream::from_std(socket.into()))
}

/// Source address of a client: 127.0.0.2 and up, where the gateway is on the loopback too.
fn source_of(plan: &Plan, index: usize, gateway: SocketAddr) -> Option<Ipv4Addr> {
    let IpAddr::V4(address) = gateway.ip() else { return None };
    if !address.is_loopback() || plan.sources <= 1 {
        return None;
    }
    let place = u32::try_from((plan.first + index) % plan.sources).expect("few sources");
    // 250 hosts in each third octet: no .0, .1 or .255.
    let [third, fourth] = [place / 250, 2 + place % 250].map(|octet| u8::try_from(octet).unwrap_or(254));
    Some(Ipv4Addr::new(127, 0, third, fourth))
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
