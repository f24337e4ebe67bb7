//! One user, the gateways it connects to one after the other or moves between, and the router behind them, in virtual time.
//!
//! Everything that happens is drawn from one seed. First comes trouble (cuts, stalls, refusals, kicks, drains), then calm, in which every
//! promise must come true.

use crate::{
    display::Display,
    gate::{Gate, Wish},
    link::{Arrival, Pipe},
    router::{Reply, Router},
};
use billfish_session::{
    Push, Time,
    client::{ClientAction, ClientConfig, ClientEvent, ClientSession, Message, Order},
    server::{LoginAccepted, ServerConfig, UpCall},
};
use billfish_wire::{Body, Encoding, Reason, Reassembler, frame};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

const USER: i64 = 10_007;
const ROOMS: i64 = 3;
/// How long trouble lasts, and calm after it: long enough for back-off, silence, and every resend.
const TROUBLE_MS: u64 = 120_000;
const CALM_MS: u64 = 240_000;
/// More steps than any run takes: two machines that keep each other busy for nothing are a fault.
const STEPS_MAX: u32 = 400_000;

/// How long one stream of several stands still while the others go on.
const WAY_STALL_MS: u64 = 2_000;

const TRACE_MAX: usize = 60;

/// What travels between gateways and router: in order, each with its own delay.
enum Up {
    Call { gate: usize, request: u32, call: Box<UpCall> },
    Acked(String),
}

enum Down {
    Verdict { gate: usize, refused: Option<Reason> },
    Reply { gate: usize, request: u32, reply: Reply },
    Room { room_id: i64, push: Arc<Push>, from: Option<usize> },
    User(Arc<Push>),
    Again { gate: usize, push: Arc<Push> },
    Evict(i64),
}

pub(crate) struct World {
    rng: fastrand::Rng,
    now: u64,
    config: ServerConfig,
    client: ClientSession,
    /// The gate at the other end of the client's transport.
    connected_to: Option<usize>,
    /// The same of the connection that the client moves to, and of the one that it came from.
    next: Option<usize>,
    former: Option<usize>,
    /// By gate and way down.
    client_bytes: BTreeMap<(usize, usize), Reassembler>,
    /// A drain has told the client to move.
    move_at: Option<u64>,
    /// The client said it is over: nothing may follow until the next connection.
    client_over: bool,
    connect_at: Option<u64>,
    gates: Vec<Gate>,
    pub(crate) router: Router,
    up: VecDeque<(u64, Up)>,
    down: VecDeque<(u64, Down)>,
    next_incident: u64,
    next_msg_id: u32,
    pub(crate) asked: BTreeSet<String>,
    pub(crate) accepted: BTreeSet<String>,
    pub(crate) refused: BTreeSet<String>,
    pub(crate) display: Display,
    /// The last things that passed between machine and app, and machine and wire: printed when a run fails.
    pub(crate) trace: VecDeque<String>,
    /// What happened, for the tests that make sure that something does.
    pub(crate) cuts: u32,
    pub(crate) kicks: u32,
    pub(crate) gaps: u32,
    pub(crate) moves: u32,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let encoding = if rng.bool() { Encoding::Json } else { Encoding::Protobuf };
        // In half of the runs the room logs are so short that resuming leaves gaps.
        let log_max = if rng.bool() { usize::MAX } else { 40 };
        Self {
            now: 1_000,
            config: ServerConfig::default(),
            client: ClientSession::new(ClientConfig { encoding, ..ClientConfig::new(10_001, USER) }),
            connected_to: None,
            next: None,
            former: None,
            client_bytes: BTreeMap::new(),
            move_at: None,
            client_over: true,
            connect_at: Some(1_000),
            gates: Vec::new(),
            router: Router::new(log_max),
            up: VecDeque::new(),
            down: VecDeque::new(),
            next_incident: 1_000,
            next_msg_id: 0,
            asked: BTreeSet::new(),
            accepted: BTreeSet::new(),
            refused: BTreeSet::new(),
            display: Display::default(),
            trace: VecDeque::new(),
            cuts: 0,
            kicks: 0,
            gaps: 0,
            moves: 0,
            rng,
        }
    }

    pub(crate) fn run(&mut self) {
        for _ in 0..STEPS_MAX {
            let Some(next) = self.next_at() else { break };
            assert!(next >= self.now, "time runs backwards");
            self.now = next;
            if self.now > 1_000 + TROUBLE_MS + CALM_MS {
                return;
            }
            self.step();
        }
        panic!("no end of it after {STEPS_MAX} steps, at {} ms", self.now);
    }

    fn is_calm(&self) -> bool {
        self.now >= 1_000 + TROUBLE_MS
    }

    fn next_at(&self) -> Option<u64> {
        let client_arrival =
            self.lines().into_iter().filter_map(|gate| self.gates[gate].downs.iter().filter_map(Pipe::next_at).min()).min();
        let times = [
            Some(self.client.next_deadline().0),
            client_arrival,
            self.connect_at,
            self.move_at,
            self.up.front().map(|(at, _)| *at),
            self.down.front().map(|(at, _)| *at),
            Some(self.next_incident).filter(|_| !self.is_calm()),
        ];
        let gates = self.gates.iter().filter_map(|gate| gate.next_at(&self.config));
        times.into_iter().flatten().chain(gates).min().map(|at| at.max(self.now))
    }

    fn step(&mut self) {
        if self.now >= self.next_incident && !self.is_calm() {
            self.next_incident = self.now + self.rng.u64(1..400);
            self.incident();
        }
        if self.connect_at.is_some_and(|at| self.now >= at) {
            self.connect();
        }
        if self.move_at.is_some_and(|at| self.now >= at) {
            self.begin_move();
        }
        self.step_client();
        for gate in 0..self.gates.len() {
            self.step_gate(gate);
        }
        while self.up.front().is_some_and(|(at, _)| self.now >= *at) {
            let (_, up) = self.up.pop_front().expect("the front was seen");
            self.step_router(up);
        }
        while self.down.front().is_some_and(|(at, _)| self.now >= *at) {
            let (_, down) = self.down.pop_front().expect("the front was seen");
            self.arrive(down);
        }
        self.collect_wishes();
        self.carry_out();
    }

    // The client and its transport.

    fn connect(&mut self) {
        self.connect_at = None;
        let order = self.order();
        self.gates.push(Gate::new(self.now, &self.config, order));
        self.connected_to = Some(self.gates.len() - 1);
        self.move_at = None;
        self.client_over = false;
        self.client.on_connected(Time(self.now), "token", order);
        self.carry_out();
    }

    /// A second connection beside the one there is.
    fn begin_move(&mut self) {
        self.move_at = None;
        let order = self.order();
        if self.next.is_none() && self.client.on_next_connected(Time(self.now), "token", order) {
            self.gates.push(Gate::new(self.now, &self.config, order));
            self.next = Some(self.gates.len() - 1);
            self.carry_out();
        }
    }

    /// The gates that the client has a transport to.
    fn lines(&self) -> Vec<usize> {
        [self.connected_to, self.next, self.former].into_iter().flatten().collect()
    }

    fn step_client(&mut self) {
        if self.now >= self.client.next_deadline().0 {
            self.client.on_tick(Time(self.now));
            assert!(self.client.next_deadline().0 > self.now, "the client's deadline does not advance");
            self.carry_out();
        }
        for gate in self.lines() {
            self.hear_from(gate);
        }
    }

    fn hear_from(&mut self, gate: usize) {
        let ways = self.gates[gate].downs.len();
        let first = self.rng.usize(0..ways);
        for way in (first..ways).chain(0..first) {
            self.hear_way(gate, way);
        }
    }

    fn hear_way(&mut self, gate: usize, way: usize) {
        let piece = self.piece();
        match self.gates[gate].downs[way].read(self.now, piece) {
            Some(Arrival::Bytes(bytes)) => {
                let mut reassembler = self.client_bytes.remove(&(gate, way)).unwrap_or_default();
                let mut frames = reassembler.feed(&bytes);
                while let Some(frame) = frames.next(usize::MAX).expect("the gateway's stream is in step") {
                    // Which connection it is may be another after each frame.
                    if self.connected_to == Some(gate) {
                        self.client.on_frame(Time(self.now), frame);
                    } else if self.next == Some(gate) {
                        self.client.on_next_frame(Time(self.now), frame);
                    } else if self.former == Some(gate) {
                        self.client.on_former_frame(frame);
                    }
                    self.carry_out();
                }
                self.client_bytes.insert((gate, way), reassembler);
                // The window has opened.
                let delay = self.delay();
                self.gates[gate].flush(self.now, delay);
            }
            // What came on any of them before the end counts.
            Some(Arrival::End) if self.gates[gate].downs.iter().any(|down| !down.end_was_read) => {}
            Some(Arrival::End) => {
                if self.connected_to == Some(gate) {
                    self.client.on_disconnected(Reason::PeerClosed);
                    self.connected_to = None;
                } else if self.next == Some(gate) {
                    self.client.on_next_disconnected(Time(self.now), Reason::PeerClosed);
                    self.next = None;
                } else if self.former == Some(gate) {
                    self.client.on_former_disconnected();
                    self.former = None;
                }
                self.hang_up(Some(gate));
                self.carry_out();
            }
            None => {}
        }
    }

    /// The client's socket is closed: what it wrote still arrives, what was on its way down is lost.
    fn hang_up(&mut self, gate: Option<usize>) {
        if let Some(gate) = gate {
            self.gates[gate].up.finish(self.now);
            self.gates[gate].downs.iter_mut().for_each(|down| down.cut(0, None));
        }
    }

    fn carry_out(&mut self) {
        while let Some(action) = self.client.next_action() {
            // The transport may have been replaced by the time an action is carried out; the machine must not care.
            match action {
                ClientAction::Send { code, body } => {
                    self.note(&format!("-> {code:?} {:?} {:?}", body.room_id, body.msg_id));
                    assert!(!self.client_over, "after the end: {code:?}");
                    let delay = self.delay();
                    if let Some(gate) = self.connected_to {
                        let bytes = frame::encode(self.client.encoding(), code, &body);
                        self.gates[gate].up.write(self.now, delay, &bytes);
                    }
                }
                ClientAction::Tell(event) => self.hear(event),
                ClientAction::Close => {
                    let gate = self.connected_to.take();
                    self.hang_up(gate);
                }
                ClientAction::SendNext { code, body } => {
                    let delay = self.delay();
                    if let Some(gate) = self.next {
                        let bytes = frame::encode(self.client.encoding(), code, &body);
                        self.gates[gate].up.write(self.now, delay, &bytes);
                    }
                }
                ClientAction::Switch => {
                    self.note("moved");
                    self.moves += 1;
                    self.former = self.connected_to.take();
                    self.connected_to = self.next.take();
                }
                ClientAction::CloseNext { .. } => {
                    let gate = self.next.take();
                    self.hang_up(gate);
                }
                ClientAction::CloseFormer => {
                    let gate = self.former.take();
                    self.hang_up(gate);
                }
            }
        }
    }

    fn hear(&mut self, event: ClientEvent) {
        assert!(!self.client_over || matches!(event, ClientEvent::Left { .. }), "after the end: {event:?}");
        self.note(&format!("<- {event:?}"));
        let is_total = |gate: Option<usize>| gate.is_none_or(|gate| self.gates[gate].order == Order::Total);
        let order = if is_total(self.connected_to) && is_total(self.former) { Order::Total } else { Order::PerClass };
        self.display.show(&event, order);
        match event {
            ClientEvent::Accepted { msg_id, .. } => {
                assert_eq!(self.router.applied.get(&msg_id), Some(&1), "{msg_id} was accepted");
                assert!(self.accepted.insert(msg_id), "accepted twice");
            }
            ClientEvent::Refused { msg_id: Some(msg_id), .. } => assert!(self.refused.insert(msg_id), "refused twice"),
            ClientEvent::Joined { gap, .. } => self.gaps += u32::from(gap),
            ClientEvent::Kicked { .. } => self.kicks += 1,
            ClientEvent::Closed { retry_after_ms, .. } => {
                self.client_over = true;
                let back_off = self.rng.u64(10..3_000);
                self.connect_at = Some(self.now + retry_after_ms.unwrap_or(0) + back_off);
            }
            ClientEvent::MoveTo { after_ms, .. } => self.move_at = Some(self.now + after_ms),
            ClientEvent::Unreadable { code } => panic!("frame {code} cannot be read"),
            ClientEvent::LoggedIn { .. }
            | ClientEvent::Left { .. }
            | ClientEvent::Push(_)
            | ClientEvent::History { .. }
            | ClientEvent::InboxRead { .. }
            | ClientEvent::Refused { msg_id: None, .. }
            | ClientEvent::HeartbeatEcho { .. } => {}
        }
    }

    fn note(&mut self, what: &str) {
        if self.trace.len() == TRACE_MAX {
            self.trace.pop_front();
        }
        let shortened: String = what.chars().take(120).collect();
        self.trace.push_back(format!("{:>7} {shortened}", self.now));
    }

    // Gateways.

    fn step_gate(&mut self, gate: usize) {
        let (delay, piece) = (self.delay(), self.piece());
        let (now, config) = (self.now, &self.config);
        let gate = &mut self.gates[gate];
        gate.read(now, piece, delay, config);
        if !gate.is_over() && now >= gate.session.next_deadline(config).0 {
            gate.with(now, delay, |session, out| session.on_tick(Time(now), config, out));
            assert!(gate.session.next_deadline(config).0 > now, "the gateway's deadline does not advance");
        }
        gate.assert_accounted();
    }

    fn collect_wishes(&mut self) {
        for index in 0..self.gates.len() {
            for wish in std::mem::take(&mut self.gates[index].wishes) {
                match wish {
                    Wish::Authenticate(request) => {
                        assert_eq!((request.user_id, request.token.as_str()), (USER, "token"));
                        let refused = (!self.is_calm() && self.rng.u8(..) < 20).then_some(Reason::Unavailable);
                        self.send_down(Down::Verdict { gate: index, refused });
                    }
                    Wish::Call { request, call } => {
                        // A link that broke before the answer came sends its calls again: JOIN and LEAVE only to a router that lost
                        // the session too, so here it is BIZ that comes twice.
                        if matches!(*call, UpCall::Biz { .. }) && self.rng.u8(..) < 30 {
                            self.send_up(Up::Call { gate: index, request, call: call.clone() });
                        }
                        self.send_up(Up::Call { gate: index, request, call });
                    }
                    Wish::Acked(msg_id) => self.send_up(Up::Acked(msg_id)),
                }
            }
        }
    }

    fn arrive(&mut self, down: Down) {
        let delay = self.delay();
        let (now, config) = (self.now, self.config.clone());
        match down {
            Down::Verdict { gate, refused } => {
                if self.gates[gate].session.is_authenticating() && refused.is_none() {
                    // One session per device: the older ones go, also those whose transport is dead.
                    for older in (0..gate).filter(|older| !self.gates[*older].is_over()).collect::<Vec<_>>() {
                        self.gates[older].with(now, delay, |session, out| session.on_kick(Reason::DuplicateLogin, None, out));
                    }
                }
                let accepted = LoginAccepted { session_id: gate.to_string(), node: "n".to_owned(), server_time_ms: now.cast_signed() };
                self.gates[gate].with(now, delay, |session, out| match refused {
                    Some(reason) => session.on_login_refused(reason, Some(500), out),
                    None => session.on_login_accepted(Time(now), &config, accepted, out),
                });
                self.gates[gate].feed_held(now, delay, &config);
            }
            Down::Reply { gate, request, reply } => {
                self.gates[gate].with(now, delay, |session, out| match reply {
                    Reply::Accepted { ts_ms, seq } => session.on_accepted(request, ts_ms, seq, out),
                    Reply::Refused { reason, retry_after_ms } => session.on_refused(request, reason, None, retry_after_ms, out),
                    Reply::Joined { room_id, seq, data } => session.on_joined(request, room_id, seq, data, 1, out),
                    Reply::Synced { room_id, data } => session.on_synced(request, room_id, data, out),
                });
            }
            Down::Room { room_id, push, from } => {
                for (index, gate) in self.gates.iter_mut().enumerate() {
                    if gate.session.is_live() && gate.session.room_slot(room_id).is_some() && from != Some(index) {
                        gate.push(now, delay, &config, &push);
                    }
                }
            }
            Down::Again { gate, push } => self.gates[gate].push(now, delay, &config, &push),
            Down::User(push) => {
                for gate in &mut self.gates {
                    gate.push(now, delay, &config, &push);
                }
            }
            Down::Evict(room_id) => {
                for gate in &mut self.gates {
                    gate.with(now, delay, |session, out| session.on_evicted(room_id, out));
                }
            }
        }
    }

    // The router and the way to it.

    fn step_router(&mut self, up: Up) {
        match up {
            Up::Call { gate, request, call } => {
                let away = !self.is_calm() && self.rng.u8(..) < 15;
                let (reply, push) = if away {
                    let retry_after_ms = self.rng.bool().then_some(200);
                    (Reply::Refused { reason: Reason::Unavailable, retry_after_ms }, None)
                } else {
                    self.router.call(self.now, &call)
                };
                if !away && matches!(*call, UpCall::Redeliver) {
                    for push in self.router.redelivered() {
                        self.send_down(Down::Again { gate, push });
                    }
                }
                if let Some((room_id, push)) = push {
                    self.send_down(Down::Room { room_id, push, from: Some(gate) });
                }
                self.send_down(Down::Reply { gate, request, reply });
            }
            Up::Acked(msg_id) => self.router.acknowledged(&msg_id),
        }
    }

    fn send_up(&mut self, up: Up) {
        let at = self.now + self.rng.u64(1..20);
        let last = self.up.back().map_or(0, |(at, _)| *at);
        self.up.push_back((at.max(last), up));
    }

    fn send_down(&mut self, down: Down) {
        let at = self.now + self.rng.u64(1..20);
        let last = self.down.back().map_or(0, |(at, _)| *at);
        self.down.push_back((at.max(last), down));
    }

    // Chance.

    /// One thing that a user, the house or the network does.
    fn incident(&mut self) {
        let room_id = self.rng.i64(1..=ROOMS);
        match self.rng.u8(0..100) {
            0..6 => {
                self.client.join(room_id).expect("fewer rooms than allowed");
            }
            6..9 => {
                self.display.leaves(room_id);
                self.client.leave(room_id).expect("a legal room");
            }
            9..25 => self.say(room_id),
            25..60 => {
                let body = match self.rng.u8(0..5) {
                    4 => Body { class: Some(self.rng.i32(0..=1)), ..Body::default() },
                    0 => Body { qos: Some(1), class: Some(1), ..Body::default() },
                    1 => Body { key: Some("likes".to_owned()), class: Some(3), ..Body::default() },
                    _ => Body { class: Some(2), ..Body::default() },
                };
                let data = Some("x".repeat(self.rng.usize(2..400)));
                let push = self.router.publish(room_id, Body { data, ..body });
                self.send_down(Down::Room { room_id, push, from: None });
            }
            60..74 => {
                let push = self.router.send_to_user();
                self.send_down(Down::User(push));
            }
            74..78 => self.cut(),
            78..86 => self.stall(),
            86..88 => self.kick(),
            88..90 => self.send_down(Down::Evict(room_id)),
            90..93 => drop(self.client.sync_room(room_id, 0)),
            93..95 => drop(self.client.sync_inbox(Time(self.now))),
            95..97 => self.burst(room_id),
            _ => {
                let (now, delay) = (self.now, self.delay());
                if let Some(gate) = self.connected_to {
                    self.gates[gate].with(now, delay, |session, out| session.on_drain(vec!["b:1".to_owned()], 100, out));
                }
            }
        }
        self.carry_out();
    }

    fn say(&mut self, room_id: i64) {
        self.next_msg_id += 1;
        let msg_id = format!("m{}", self.next_msg_id);
        let message = Message { room_id: Some(room_id), biz_code: 5555, data: "{}".to_owned(), msg_id: Some(msg_id.clone()) };
        if self.client.biz(message).is_ok() {
            self.asked.insert(msg_id);
        }
    }

    /// More at once than a stalled reader's backlog holds: of what may be dropped, or of what may not.
    fn burst(&mut self, room_id: i64) {
        let qos = i32::from(self.rng.bool());
        for _ in 0..100 {
            let body = Body { qos: Some(qos), class: Some(2 - qos), data: Some("x".repeat(200)), ..Body::default() };
            let push = self.router.publish(room_id, body);
            self.send_down(Down::Room { room_id, push, from: None });
        }
    }

    fn cut(&mut self) {
        let lines = self.lines();
        let Some(gate) = self.rng.choice(lines) else { return };
        self.cuts += 1;
        let (client_hears_at, server_hears_at) = (self.notice(), self.notice());
        let cut = |pipe: &mut Pipe, rng: &mut fastrand::Rng, at| {
            let keep = rng.usize(0..=pipe.under_way());
            pipe.cut(keep, at);
        };
        cut(&mut self.gates[gate].up, &mut self.rng, server_hears_at);
        for down in &mut self.gates[gate].downs {
            cut(down, &mut self.rng, client_hears_at);
        }
    }

    /// When an end notices the cut: soon, or not before the silence is too long.
    fn notice(&mut self) -> Option<u64> {
        (self.rng.u8(0..4) > 0).then(|| self.now + self.rng.u64(0..500))
    }

    fn stall(&mut self) {
        let lines = self.lines();
        let Some(gate) = self.rng.choice(lines) else { return };
        let until = self.now + self.rng.u64(100..9_000);
        let (is_down, is_one) = (self.rng.bool(), self.rng.bool());
        let way = self.rng.usize(0..self.gates[gate].downs.len());
        let alone_until = self.now + self.rng.u64(100..WAY_STALL_MS);
        let gate = &mut self.gates[gate];
        if !is_down {
            gate.up.stall(until);
        } else if gate.order == Order::Total || !is_one {
            gate.downs.iter_mut().for_each(|down| down.stall(until));
        } else if self.now >= gate.way_stalls_after {
            // What was lost on a living connection is sent again before long.
            gate.way_stalls_after = alone_until + WAY_STALL_MS;
            gate.downs[way].stall(alone_until);
        }
    }

    fn kick(&mut self) {
        let (now, delay) = (self.now, self.delay());
        let Some(gate) = self.connected_to else { return };
        let drained = self.rng.bool();
        self.gates[gate].with(now, delay, |session, out| {
            if drained { session.on_drain_deadline(out) } else { session.on_kick(Reason::TooSlow, None, out) }
        });
    }

    /// Of a new connection: what a race between two transports ends with.
    fn order(&mut self) -> Order {
        if self.rng.bool() { Order::PerClass } else { Order::Total }
    }

    fn delay(&mut self) -> u64 {
        self.rng.u64(1..60)
    }

    /// How many bytes one read takes: now and then a single one.
    fn piece(&mut self) -> usize {
        if self.rng.u8(0..8) == 0 { 1 } else { self.rng.usize(1..2_000) }
    }

    // What must hold when calm has lasted.

    pub(crate) fn assert_settled(&self) {
        assert!(self.client.is_live(), "the client came back");
        assert_eq!(self.client.in_flight(), 0, "every message has its answer");
        let live: Vec<usize> = (0..self.gates.len()).filter(|gate| self.gates[*gate].session.is_live()).collect();
        assert_eq!(live, self.connected_to.into_iter().collect::<Vec<_>>(), "one session, and it is this one's");
        let gate = &self.gates[live[0]];
        let sorted = |rooms: Vec<i64>| rooms.into_iter().collect::<BTreeSet<_>>();
        assert_eq!(sorted(gate.session.rooms().collect()), sorted(self.client.rooms().collect()), "both ends are in the same rooms");
        assert_eq!(sorted(self.display.rooms()), sorted(self.client.rooms().collect()), "and the app sees them");

        for (msg_id, times) in &self.router.applied {
            assert_eq!(*times, 1, "{msg_id} took effect once");
        }
        for msg_id in &self.asked {
            assert_ne!(self.accepted.contains(msg_id), self.refused.contains(msg_id), "{msg_id} has one answer");
        }
        let unseen: Vec<_> = self.router.inbox_all.difference(&self.display.from_inbox).collect();
        assert!(unseen.is_empty(), "every message to the user was shown, but for {unseen:?}");
        assert!(self.router.inbox.is_empty(), "and left the inbox, but for {:?}", self.router.inbox.keys());
        for gate in &self.gates {
            assert!(gate.recorded.is_empty(), "no record stays behind: {:?}", gate.recorded);
        }
        for (room_id, room) in &self.router.rooms {
            self.display.assert_promises(*room_id, &room.promised);
        }
    }
}
