//! All nodes, the network between them, and the loop that moves time.
//!
//! - Time moves in steps of some milliseconds; within a step everybody acts once, routers in an order that is drawn.
//! - What one node says to another takes at least a step.

use crate::{
    bug::Bug,
    chaos::{Plan, Scope},
    client::{Client, Conn, comes_back_at_once},
    gateway::{Gateway, Want},
    journal::{Journal, Logged, To, content, escaped_content},
    records::Database,
    router::{Router, Shared, UNIX_MS},
    store::{Late, Stragglers, at_once},
    trace::{Trace, note},
    wire::Wire,
};
use billfish_gateway::simulation::LinkNumber;
use billfish_link::message::{RoomPush, envelope::Kind};
use billfish_session::{
    Time,
    client::{ClientAction, ClientEvent, Message, Order},
};
use billfish_state::{AppId, LogEntry, RoomId, State};
use billfish_wire::{BizCode, Code, Encoding, Reason, frame};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tokio::sync::mpsc;

pub(crate) const APP: i32 = 10_001;
/// Trouble, then calm, then probes.
pub(crate) const TROUBLE_MS: u64 = 40_000;
/// Long enough for every lease, registration, silence and patience to run out once.
pub(crate) const CALM_MS: u64 = 35_000;
pub(crate) const PROBE_MS: u64 = 10_000;
/// At the end everyone logs in once more: what nobody could push lies in the inboxes.
const LAST_LOGIN_MS: u64 = 6_000;
/// Answers that the backend has not taken; it takes them in every step.
const BACKEND_ANSWERS_MAX: usize = 64;
/// Shortest and longest step.
const STEP_MS: (u64, u64) = (3, 30);

/// A place for a router: it has one life after the other.
pub(crate) struct RouterPlace {
    pub(crate) router: Option<Router>,
    pub(crate) lives: u64,
    pub(crate) start_at: Option<u64>,
    /// How far its clock is ahead.
    pub(crate) skew_ms: u64,
}

/// A place for a gateway.
pub(crate) struct GatewayPlace {
    pub(crate) gateway: Option<Gateway>,
    pub(crate) lives: u64,
    pub(crate) start_at: Option<u64>,
}

pub(crate) struct World {
    pub(crate) seed: u64,
    /// Faults are drawn from here; people, nodes, wires and connections have their own, so that one more frame somewhere does not
    /// change all that follows everywhere.
    pub(crate) rng: fastrand::Rng,
    pub(crate) people: fastrand::Rng,
    order: fastrand::Rng,
    pub(crate) now: u64,
    pub(crate) plan: Plan,
    pub(crate) shared: Shared,
    pub(crate) trace: Trace,
    pub(crate) journal: Journal,
    pub(crate) routers: Vec<RouterPlace>,
    pub(crate) gateways: Vec<GatewayPlace>,
    pub(crate) wires: Vec<Wire<LinkNumber>>,
    /// When a gateway dials a router next, by both.
    dial_at: BTreeMap<(usize, usize), u64>,
    /// Gateway and router do not reach each other until then.
    pub(crate) parted_until: BTreeMap<(usize, usize), u64>,
    pub(crate) conns: Vec<Conn>,
    open: BTreeSet<usize>,
    pub(crate) clients: Vec<Client>,
    pub(crate) rooms: Vec<i64>,
    late_answers: Vec<(u64, Late)>,
    /// Who spoke in each room since the probes began.
    pub(crate) probe_speakers: BTreeMap<i64, BTreeSet<(String, u64)>>,
    pub(crate) probes: Vec<String>,
    /// What the backend has pushed, and what it hears of it.
    pub(crate) pushed: u32,
    pub(crate) backend: mpsc::Sender<(String, bool)>,
    backend_hears: mpsc::Receiver<(String, bool)>,
}

impl World {
    pub(crate) fn new(seed: u64, scope: Scope, bug: Option<Bug>) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let plan = Plan::draw(&mut rng, scope);
        let trace = Trace::default();
        let database = Arc::new(Database::default());
        let rooms: Vec<i64> = (0..plan.rooms).map(|room| 7 + 31 * room).collect();
        for room in &rooms {
            database.open(*room, AppId(APP), UNIX_MS);
        }
        let shared = Shared {
            truth: State::in_memory(),
            database,
            stragglers: Stragglers::default(),
            trace: trace.clone(),
            bug,
            room_lease: Duration::from_millis(plan.room_lease_ms),
        };
        let routers = (0..plan.routers)
            .map(|index| {
                // One of them may come later.
                let start_at = if index > 0 && rng.u8(0..4) == 0 { rng.u64(0..TROUBLE_MS) } else { 0 };
                RouterPlace { router: None, lives: 0, start_at: Some(start_at), skew_ms: rng.u64(0..=plan.skew_ms) }
            })
            .collect();
        let gateways = (0..plan.gateways).map(|_| GatewayPlace { gateway: None, lives: 0, start_at: Some(0) }).collect();
        let (backend, backend_hears) = mpsc::channel(BACKEND_ANSWERS_MAX);
        let mut journal = Journal::default();
        let mut clients = Vec::new();
        for index in 0..plan.clients {
            // The first two are two devices of one user.
            let user = 20_001 + index.max(1);
            let encoding = if rng.bool() { Encoding::Json } else { Encoding::Protobuf };
            let platform = if index == 0 { "web" } else { "ios" };
            let mut client = Client::new(APP, user, platform, encoding, rng.u64(..));
            client.connect_at = Some(rng.u64(200..3_000));
            for room in &rooms {
                if rng.u8(0..3) > 0 {
                    client.ever_wanted.insert(*room);
                    client.machine.join(*room).expect("fewer rooms than allowed");
                }
            }
            journal.add_client(user);
            clients.push(client);
        }
        Self {
            seed,
            people: rng.fork(),
            order: rng.fork(),
            rng,
            now: 0,
            plan,
            shared,
            trace,
            journal,
            routers,
            gateways,
            wires: Vec::new(),
            dial_at: BTreeMap::new(),
            parted_until: BTreeMap::new(),
            conns: Vec::new(),
            open: BTreeSet::new(),
            clients,
            rooms,
            late_answers: Vec::new(),
            probe_speakers: BTreeMap::new(),
            probes: Vec::new(),
            pushed: 0,
            backend,
            backend_hears,
        }
    }

    pub(crate) fn run(&mut self) {
        note!(self.trace, "seed {}: {:?}", self.seed, self.plan);
        let mut is_calm = false;
        let mut is_probed = false;
        let mut is_last = false;
        while self.now < TROUBLE_MS + CALM_MS + PROBE_MS + LAST_LOGIN_MS {
            self.trace.set_now(self.now);
            if self.now < TROUBLE_MS {
                self.stir();
            } else if !is_calm {
                is_calm = true;
                self.heal();
            } else if self.now >= TROUBLE_MS + CALM_MS && !is_probed {
                is_probed = true;
                self.probe();
            } else if self.now >= TROUBLE_MS + CALM_MS + PROBE_MS && !is_last {
                is_last = true;
                self.check_house();
                self.log_in_again();
            }
            self.step();
            self.now = self.next();
        }
        self.check_promises();
    }

    pub(crate) fn report(self) -> crate::Report {
        crate::Report {
            seed: self.seed,
            violations: self.journal.violations,
            fingerprint: self.trace.fingerprint(),
            trace: self.trace.take(),
            counts: self.journal.counts,
        }
    }

    fn log_in_again(&mut self) {
        note!(self.trace, "LAST LOGINS");
        for client in 0..self.clients.len() {
            self.hang_up(client);
            self.clients[client].lost();
            self.carry_out(client);
        }
    }

    pub(crate) fn is_probing(&self) -> bool {
        self.now >= TROUBLE_MS + CALM_MS
    }

    /// The next moment at which something happens, as far as that can be seen from outside the routers.
    fn next(&self) -> u64 {
        let conns = self.open.iter().map(|conn| self.conns[*conn].next_at()).min().unwrap_or(u64::MAX);
        let clients = self.clients.iter().map(Client::next_at).min().unwrap_or(u64::MAX);
        let gateways = self.gateways.iter().filter_map(|place| place.gateway.as_ref()).map(Gateway::next_at).min().unwrap_or(u64::MAX);
        let at = if self.wires.iter().any(Wire::is_busy) { 0 } else { conns.min(clients).min(gateways) };
        at.clamp(self.now + STEP_MS.0, self.now + STEP_MS.1)
    }

    fn step(&mut self) {
        self.carry_out_late();
        self.begin_lives();
        self.dial();
        self.serve_connections();
        self.serve_gateways();
        self.run_routers();
        self.serve_clients();
        while let Ok((text, is_taken)) = self.backend_hears.try_recv() {
            note!(self.trace, "the backend hears of {text}: {is_taken}");
            self.journal.backend_hears(&text, is_taken);
        }
        self.wires.retain(|wire| !wire.is_over());
    }

    fn carry_out_late(&mut self) {
        for late in self.shared.stragglers.take() {
            self.late_answers.push((self.now + late.0, late));
        }
        let (due, waiting) = std::mem::take(&mut self.late_answers).into_iter().partition(|(at, _)| *at <= self.now);
        self.late_answers = waiting;
        for (_, (_, work)) in due {
            work(&self.shared.truth);
        }
    }

    fn begin_lives(&mut self) {
        for index in 0..self.gateways.len() {
            if self.gateways[index].start_at.is_some_and(|at| at <= self.now) {
                let place = &mut self.gateways[index];
                place.start_at = None;
                place.lives += 1;
                let seed = mix(self.seed, &[1, index as u64, place.lives]);
                let name = format!("g{index}");
                let (truth, trace) = (self.shared.truth.clone(), self.trace.clone());
                let mut gateway = Gateway::start(&name, truth, seed, self.now, self.shared.bug, trace);
                gateway.weather = self.plan.weather;
                place.gateway = Some(gateway);
                note!(self.trace, "{name} is up, life {}", place.lives);
            }
        }
        for index in 0..self.routers.len() {
            if self.routers[index].start_at.is_some_and(|at| at <= self.now) {
                let weather = self.plan.weather;
                let place = &mut self.routers[index];
                place.start_at = None;
                place.lives += 1;
                let seed = mix(self.seed, &[2, index as u64, place.lives]);
                let router = Router::start(&format!("r{index}"), &self.shared, seed, place.skew_ms, self.now);
                router.set_weather(weather, weather);
                place.router = Some(router);
                note!(self.trace, "r{index} starts, life {}", place.lives);
            }
        }
    }

    /// Every gateway to every router that takes links.
    fn dial(&mut self) {
        for gateway in 0..self.gateways.len() {
            for router in 0..self.routers.len() {
                let pair = (gateway, router);
                let is_linked = self.wires.iter().any(|wire| wire.gateway == gateway && wire.router == router && wire.id.is_some());
                let due = self.dial_at.get(&pair).copied().unwrap_or(0);
                if is_linked || due > self.now {
                    continue;
                }
                let seed = mix(self.seed, &[3, gateway as u64, router as u64, self.now]);
                self.dial_at.insert(pair, self.now + 50 + seed % 950);
                let (Some(lower), Some(upper)) = (&self.gateways[gateway].gateway, &self.routers[router].router) else { continue };
                if !upper.is_up() || upper.is_paused(self.now) || self.parted_until.get(&pair).is_some_and(|until| *until > self.now) {
                    continue;
                }
                let life = self.routers[router].lives;
                let (mut wire, link) = Wire::new(gateway, (router, life), &lower.name, lower.incarnation, seed, self.plan.wire_delay_ms);
                upper.attach(link);
                wire.id = Some(lower.link_up(&upper.name));
                note!(self.trace, "g{gateway} is linked to r{router}");
                self.wires.push(wire);
            }
        }
    }

    /// Frames of clients reach their gateways.
    fn serve_connections(&mut self) {
        let mut over = Vec::new();
        for &index in &self.open {
            let conn = &mut self.conns[index];
            let place = &mut self.gateways[conn.gateway];
            let life = place.lives;
            let Some(gateway) = place.gateway.as_mut().filter(|_| life == conn.life) else {
                conn.gateway_knows = true;
                if conn.client_knows {
                    over.push(index);
                }
                continue;
            };
            while !conn.gateway_knows && gateway.takes_frames(index) {
                let Some(bytes) = conn.next_up(self.now) else { break };
                gateway.frame(index, &bytes, self.now);
            }
            if conn.gateway_hears_end(self.now) {
                conn.gateway_knows = true;
                gateway.lost(index, self.now);
            }
            if conn.gateway_knows && conn.client_knows {
                over.push(index);
            }
        }
        for index in over {
            self.open.remove(&index);
        }
    }

    fn serve_gateways(&mut self) {
        let now = self.now;
        for wire in &mut self.wires {
            let Some(gateway) = self.gateways[wire.gateway].gateway.as_mut() else { continue };
            let Some(id) = wire.id else { continue };
            while let Some(kind) = wire.next_down(now) {
                if let Kind::RoomPush(push) = &kind
                    && let Some(body) = &push.push
                {
                    let router = format!("r{} life {}", wire.router, wire.life);
                    self.journal.spoke(body.room_id, push.epoch, &router);
                    if now >= TROUBLE_MS + CALM_MS {
                        self.probe_speakers.entry(body.room_id).or_default().insert((router, push.epoch));
                    }
                }
                note_kind(&self.trace, "down", wire.gateway, wire.router, &kind);
                gateway.hear(id, kind, now);
            }
            if wire.gateway_hears(now) {
                note!(self.trace, "g{} hears of the end of its link to r{}", wire.gateway, wire.router);
                gateway.link_down(id);
                wire.close_lower(now);
            }
        }
        for place in &mut self.gateways {
            if let Some(gateway) = &mut place.gateway {
                gateway.run(now);
            }
        }
        self.carry_out_wants();
        for wire in &mut self.wires {
            let Some(gateway) = self.gateways[wire.gateway].gateway.as_mut() else { continue };
            let Some(id) = wire.id else { continue };
            match gateway.take_outbox(id) {
                Some(outbox) => {
                    for kind in outbox {
                        note_kind(&self.trace, "up", wire.gateway, wire.router, &kind);
                        wire.send_up(now, kind);
                    }
                }
                None => wire.close_lower(now + 1),
            }
        }
    }

    fn carry_out_wants(&mut self) {
        for index in 0..self.gateways.len() {
            let wants = self.gateways[index].gateway.as_mut().map(|gateway| std::mem::take(&mut gateway.wants)).unwrap_or_default();
            for want in wants {
                match want {
                    Want::Write { conn, bytes } => {
                        self.conns[conn].send_down(self.now, bytes);
                    }
                    Want::Hangup { conn } => self.conns[conn].gateway_closes(self.now),
                }
            }
        }
    }

    fn run_routers(&mut self) {
        let now = self.now;
        for wire in &mut self.wires {
            wire.arrive_up(now);
        }
        let mut order: Vec<usize> = (0..self.routers.len()).collect();
        self.order.shuffle(&mut order);
        for index in order {
            let Some(router) = &mut self.routers[index].router else { continue };
            router.run_to(now, &self.trace);
            if !router.is_alive() {
                // It has drained, or could not start.
                self.routers[index].router = None;
                let at = now + 200 + mix(self.seed, &[4, index as u64, now]) % 4_800;
                self.routers[index].start_at.get_or_insert(at);
            }
        }
        for wire in &mut self.wires {
            wire.collect_down(now, |kind| {
                let Kind::RoomPush(RoomPush { push: Some(push), .. }) = kind else { return };
                let Some(text) = content(&push.data) else { return };
                let logged = find_in_log(&self.shared.truth, push.room_id, push.seq, &text, now);
                self.journal.is_found_in_log(&text, logged, now);
            });
        }
    }

    // ---- clients ----

    fn serve_clients(&mut self) {
        for index in 0..self.clients.len() {
            while let Some(conn) = self.clients[index].conn {
                let Some(bytes) = self.conns[conn].next_down(self.now) else { break };
                self.check_frame(index, &bytes);
                self.clients[index].frame(&bytes, self.now);
                self.carry_out(index);
            }
            if let Some(conn) = self.clients[index].conn
                && self.conns[conn].client_hears_end(self.now)
            {
                self.conns[conn].client_knows = true;
                self.clients[index].conn = None;
                self.clients[index].lost();
                self.carry_out(index);
            }
            if self.clients[index].machine.next_deadline().0 <= self.now {
                self.clients[index].machine.on_tick(Time(self.now));
                self.carry_out(index);
            }
            if self.clients[index].connect_at.is_some_and(|at| at <= self.now) {
                self.connect(index);
            }
            self.say_again(index);
        }
    }

    fn connect(&mut self, client: usize) {
        let app = &mut self.clients[client];
        let gateway = app.rng.usize(0..self.gateways.len());
        let seed = app.rng.u64(..);
        let place = &mut self.gateways[gateway];
        let Some(node) = &mut place.gateway else {
            app.connect_at = Some(self.now + app.rng.u64(100..1_000));
            return;
        };
        let conn = self.conns.len();
        self.conns.push(Conn::new(gateway, place.lives, seed, self.plan.client_delay_ms));
        self.open.insert(conn);
        node.accept(conn, self.now);
        let app = &mut self.clients[client];
        app.connect_at = None;
        app.conn = Some(conn);
        note!(self.trace, "{}/{client} connects to g{gateway}", app.user);
        app.machine.on_connected(Time(self.now), "token", Order::Total);
        self.carry_out(client);
    }

    pub(crate) fn carry_out(&mut self, client: usize) {
        while let Some(action) = self.clients[client].next_action() {
            match action {
                ClientAction::Send { code, body } => {
                    let app = &self.clients[client];
                    let Some(conn) = app.conn else { continue };
                    if code == Code::Ack && self.now < app.deaf_until {
                        continue;
                    }
                    let bytes = frame::encode(app.machine.encoding(), code, &body);
                    self.conns[conn].send_up(self.now, bytes);
                }
                ClientAction::Tell(event) => self.hear(client, event),
                ClientAction::Close => self.hang_up(client),
                ClientAction::SendNext { .. } | ClientAction::Switch | ClientAction::CloseNext { .. } | ClientAction::CloseFormer => {
                    unreachable!("nobody here has a second connection")
                }
            }
        }
    }

    pub(crate) fn hang_up(&mut self, client: usize) {
        if let Some(conn) = self.clients[client].conn.take() {
            self.conns[conn].client_closes(self.now);
        }
    }

    fn hear(&mut self, client: usize, event: ClientEvent) {
        let user = self.clients[client].user;
        match &event {
            ClientEvent::Push(body) => {
                let data = body.data.as_deref().unwrap_or_default();
                note!(self.trace, "{user}/{client} shows {:?} {:x} {data:.60}", body.room_id, body.seq.unwrap_or(0));
            }
            ClientEvent::Joined { room_id, seq, gap, .. } => {
                note!(self.trace, "{user}/{client} is in {room_id} at {seq:x}, gap {gap}");
            }
            ClientEvent::HeartbeatEcho { .. } => {}
            ClientEvent::LoggedIn { .. }
            | ClientEvent::Left { .. }
            | ClientEvent::History { .. }
            | ClientEvent::InboxRead { .. }
            | ClientEvent::Accepted { .. }
            | ClientEvent::Refused { .. }
            | ClientEvent::Kicked { .. }
            | ClientEvent::MoveTo { .. }
            | ClientEvent::Unreadable { .. }
            | ClientEvent::Closed { .. } => note!(self.trace, "{user}/{client} hears {event:?}"),
        }
        if let ClientEvent::Accepted { msg_id, seq: Some(seq), .. } = &event
            && let Some((_, To::Room(room))) = self.journal.said_by(msg_id)
        {
            let logged = find_in_log(&self.shared.truth, room, *seq, msg_id, self.now);
            self.journal.is_found_in_log(msg_id, logged, self.now);
        }
        self.journal.hears(client, &event, self.now);
        if let ClientEvent::Refused { msg_id: Some(text), reason: Reason::Unavailable | Reason::RateLimited, retry_after_ms, .. } = &event {
            let app = &mut self.clients[client];
            app.again.insert(text.clone(), self.now + retry_after_ms.unwrap_or(500) + app.rng.u64(1..500));
        }
        if let ClientEvent::Closed { retry_after_ms, .. } = &event {
            // One who was sent away comes back when the user touches the screen.
            let rng = &mut self.clients[client].rng;
            let back_off = if comes_back_at_once(&event) { rng.u64(50..2_000) } else { rng.u64(1_000..4_000) };
            self.hang_up(client);
            self.clients[client].connect_at = Some(self.now + retry_after_ms.unwrap_or(0) + back_off);
        }
    }

    /// What was refused for a while, or is repeated on purpose, is sent once more with the same id.
    fn say_again(&mut self, client: usize) {
        let due: Vec<String> = self.clients[client].again.iter().filter(|(_, at)| **at <= self.now).map(|(text, _)| text.clone()).collect();
        for text in due {
            self.clients[client].again.remove(&text);
            self.send(client, &text);
        }
    }

    /// Gives a text that the journal knows to the client machine.
    pub(crate) fn send(&mut self, client: usize, text: &str) {
        let Some((_, to)) = self.journal.said_by(text) else { return };
        let message = message(to, text);
        if self.clients[client].machine.biz(message).is_err() {
            // Too much is under way, or this is: once more, later.
            let app = &mut self.clients[client];
            app.again.insert(text.to_owned(), self.now + app.rng.u64(500..2_000));
        }
        self.carry_out(client);
    }
}

/// A seed for something that has these numbers.
fn mix(seed: u64, numbers: &[u64]) -> u64 {
    numbers.iter().fold(seed ^ 0x5851_f42d_4c95_7f2d, |mixed, number| {
        let mixed = (mixed ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed ^ (mixed >> 29)
    })
}

/// Where the log of a room has a message that goes about with a number.
fn find_in_log(truth: &State, room: i64, seq: i64, text: &str, now: u64) -> Logged {
    let read = |after: i64, limit| at_once(truth.room_log.read(RoomId(room), after, limit, UNIX_MS + now)).unwrap_or_default().entries;
    if read(seq - 1, 1).first().is_some_and(|entry| entry.seq == seq) {
        return Logged::ThereItIs;
    }
    let has_text = |entry: &LogEntry| std::str::from_utf8(&entry.body).ok().and_then(escaped_content).as_deref() == Some(text);
    if read(0, usize::MAX).iter().any(has_text) { Logged::UnderAnotherNumber } else { Logged::Nowhere }
}

fn message(to: To, text: &str) -> Message {
    let (room_id, data) = match to {
        To::Room(room) => (Some(room), format!(r#"{{"roomId":{room},"content":"{text}"}}"#)),
        To::User(user) => (None, format!(r#"{{"objectId":{user},"content":"{text}"}}"#)),
    };
    Message { room_id, biz_code: BizCode::ROOM_CHAT.0, data, msg_id: Some(text.to_owned()) }
}

/// One line for what passes between gateway and router.
fn note_kind(trace: &Trace, way: &str, gateway: usize, router: usize, kind: &Kind) {
    match kind {
        Kind::RoomPush(push) => {
            let body = push.push.clone().unwrap_or_default();
            note!(trace, "{way} g{gateway} r{router} push {} {:x} epoch {} {:.70}", body.room_id, body.seq, push.epoch, body.data);
        }
        Kind::Audience(_) => {}
        Kind::Hello(_)
        | Kind::Welcome(_)
        | Kind::Credit(_)
        | Kind::Ping(_)
        | Kind::Up(_)
        | Kind::Interest(_)
        | Kind::Gone(_)
        | Kind::Relay(_)
        | Kind::Seats(_)
        | Kind::Users(_)
        | Kind::RollCall(_)
        | Kind::Reply(_)
        | Kind::UserPush(_)
        | Kind::AllPush(_)
        | Kind::Kick(_)
        | Kind::Evict(_)
        | Kind::Bye(_) => {
            let mut line = format!("{kind:?}");
            line.truncate(line.char_indices().nth(300).map_or(line.len(), |(at, _)| at));
            note!(trace, "{way} g{gateway} r{router} {line}");
        }
    }
}
