//! What goes wrong, and what people do meanwhile: all of it drawn from the seed.

use crate::{
    journal::{FROM_BACKEND, To},
    router::Router,
    store::Weather,
    trace::note,
    world::{TROUBLE_MS, World},
};
use billfish_state::RoomId;
use billfish_wire::Reason;

/// How much may go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Nodes die, stop, drain and come back, links and connections break, clocks differ; the store answers, if slowly, and nothing is gone for longer
    /// than a silence that counts as death.
    Nodes,
    /// All that, for longer, and a store that is lossy, late or away, for all or for one.
    All,
}

/// The world's shape, and which kinds of trouble it has.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) routers: usize,
    pub(crate) gateways: usize,
    pub(crate) rooms: i64,
    pub(crate) clients: i64,
    pub(crate) room_lease_ms: u64,
    pub(crate) skew_ms: u64,
    pub(crate) wire_delay_ms: u64,
    pub(crate) client_delay_ms: u64,
    /// Of every way to the store in quiet times.
    pub(crate) weather: Weather,
    /// Longest time between two troubles.
    fault_every_ms: u64,
    kinds: Vec<Fault>,
    pub(crate) scope: Scope,
    next_fault_at: u64,
    next_act_at: u64,
    /// When the store's weather is as usual again: everybody's, or one router's.
    fair_at: Option<u64>,
    fair_routers: Vec<(u64, usize)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    CrashRouter,
    CrashGateway,
    PauseRouter,
    DrainRouter,
    CutLink,
    HoldLink,
    PartLink,
    StoreAway,
    StoreAwayForOne,
    StoreSlow,
    StoreLossy,
    CutClient,
    Kick,
    Deaf,
}

const FAULTS: [Fault; 14] = [
    Fault::CrashRouter,
    Fault::CrashGateway,
    Fault::PauseRouter,
    Fault::DrainRouter,
    Fault::CutLink,
    Fault::HoldLink,
    Fault::PartLink,
    Fault::StoreAway,
    Fault::StoreAwayForOne,
    Fault::StoreSlow,
    Fault::StoreLossy,
    Fault::CutClient,
    Fault::Kick,
    Fault::Deaf,
];

impl Plan {
    pub(crate) fn draw(rng: &mut fastrand::Rng, scope: Scope) -> Self {
        let is_of_store = |fault: &Fault| matches!(fault, Fault::StoreAway | Fault::StoreAwayForOne | Fault::StoreLossy);
        let mut kinds: Vec<Fault> = FAULTS.into_iter().filter(|fault| rng.bool() && (scope == Scope::All || !is_of_store(fault))).collect();
        if kinds.is_empty() {
            kinds.push(Fault::CrashRouter);
        }
        Self {
            routers: rng.usize(2..=3),
            gateways: rng.usize(2..=3),
            rooms: rng.i64(2..=3),
            clients: rng.i64(4..=6),
            room_lease_ms: [2_000, 6_000][rng.usize(0..2)],
            skew_ms: [0, 0, 400][rng.usize(0..3)],
            wire_delay_ms: [1, 5, 40][rng.usize(0..3)],
            client_delay_ms: [1, 30][rng.usize(0..2)],
            weather: Weather { delay_ms: [0, 1, 8][rng.usize(0..3)], ..Weather::default() },
            fault_every_ms: [1_000, 3_000, 8_000][rng.usize(0..3)],
            kinds,
            scope,
            next_fault_at: 4_000,
            next_act_at: 3_000,
            fair_at: None,
            fair_routers: Vec::new(),
        }
    }
}

impl World {
    /// Trouble and talk that are due.
    pub(crate) fn stir(&mut self) {
        self.clear_up();
        if self.now >= self.plan.next_fault_at {
            self.plan.next_fault_at = self.now + self.rng.u64(100..=self.plan.fault_every_ms);
            let fault = self.plan.kinds[self.rng.usize(0..self.plan.kinds.len())];
            self.inflict(fault);
        }
        if self.now >= self.plan.next_act_at {
            self.plan.next_act_at = self.now + self.people.u64(20..400);
            self.act();
        }
    }

    fn inflict(&mut self, fault: Fault) {
        let router = self.rng.usize(0..self.routers.len());
        let gateway = self.rng.usize(0..self.gateways.len());
        let client = self.rng.usize(0..self.clients.len());
        match fault {
            Fault::CrashRouter => {
                let back_ms = self.rng.u64(200..12_000);
                self.crash_router(router, back_ms);
            }
            Fault::CrashGateway => {
                let back_ms = self.rng.u64(200..6_000);
                self.crash_gateway(gateway, back_ms);
            }
            Fault::PauseRouter => self.pause_router(router),
            Fault::DrainRouter => {
                if let Some(node) = self.routers[router].router.as_mut().filter(|node| node.is_up() && !node.is_paused(self.now)) {
                    note!(self.trace, "FAULT r{router} drains");
                    node.drain();
                    self.journal.counts.drains += 1;
                }
            }
            Fault::CutLink => self.cut_link(gateway, router),
            Fault::HoldLink => {
                let until = self.now + self.rng.u64(50..3_000);
                note!(self.trace, "FAULT link g{gateway} r{router} holds until {until}");
                for wire in self.wires.iter_mut().filter(|wire| wire.gateway == gateway && wire.router == router) {
                    wire.hold(until);
                }
            }
            Fault::PartLink => {
                let until = self.now + self.rng.u64(500..if self.plan.scope == Scope::All { 10_000 } else { 6_000 });
                note!(self.trace, "FAULT g{gateway} and r{router} do not reach each other until {until}");
                self.parted_until.insert((gateway, router), until);
                self.cut_link(gateway, router);
            }
            Fault::StoreAway => {
                let until = self.now + self.rng.u64(200..12_000);
                note!(self.trace, "FAULT the store is away until {until}");
                self.plan.fair_at = Some(until);
                self.journal.counts.stores_away += 1;
                self.everywhere(Weather { away: true, ..self.plan.weather });
            }
            Fault::StoreAwayForOne => {
                let until = self.now + self.rng.u64(200..12_000);
                note!(self.trace, "FAULT the store is away for r{router} until {until}");
                self.plan.fair_routers.push((until, router));
                self.journal.counts.stores_away += 1;
                self.journal.store_changes(self.now, true);
                if let Some(node) = &self.routers[router].router {
                    let records = if self.rng.bool() { self.plan.weather } else { Weather { away: true, ..self.plan.weather } };
                    node.set_weather(Weather { away: true, ..self.plan.weather }, records);
                }
            }
            Fault::StoreSlow => {
                // So that a node is stopped between its look at its lease and what it writes.
                let until = self.now + self.rng.u64(1_000..10_000);
                let delay_ms = self.rng.u64(20..140);
                note!(self.trace, "FAULT the store takes up to {delay_ms} ms each way until {until}");
                self.plan.fair_at = Some(until);
                self.everywhere(Weather { delay_ms, ..Weather::default() });
            }
            Fault::StoreLossy => {
                let until = self.now + self.rng.u64(1_000..10_000);
                let (lost_permille, late_permille) = (self.rng.u16(10..200), self.rng.u16(10..200));
                note!(self.trace, "FAULT the store loses {lost_permille} and delays {late_permille} until {until}");
                self.plan.fair_at = Some(until);
                let delay_ms = self.rng.u64(0..100);
                self.everywhere(Weather { lost_permille, late_permille, delay_ms, away: false });
            }
            Fault::CutClient => self.cut_client(client),
            Fault::Kick => {
                if let Some(conn) = self.clients[client].conn {
                    let reason = [Reason::TooSlow, Reason::Banned][self.rng.usize(0..2)];
                    let place = &mut self.gateways[self.conns[conn].gateway];
                    if let Some(node) = place.gateway.as_mut().filter(|_| place.lives == self.conns[conn].life) {
                        note!(self.trace, "FAULT client {client} is kicked");
                        node.kick(conn, reason, self.now);
                    }
                }
            }
            Fault::Deaf => self.clients[client].deaf_until = self.now + self.rng.u64(1_000..15_000),
        }
    }

    /// Everyone's way to the store.
    fn everywhere(&mut self, weather: Weather) {
        self.journal.store_changes(self.now, !weather.answers() || !self.plan.fair_routers.is_empty());
        for node in self.routers.iter().filter_map(|place| place.router.as_ref()) {
            node.set_weather(weather, Weather { away: false, ..weather });
            if !weather.away {
                node.state_is_back();
            }
        }
        for node in self.gateways.iter_mut().filter_map(|place| place.gateway.as_mut()) {
            node.weather = weather;
        }
    }

    /// Weather that has lasted long enough.
    fn clear_up(&mut self) {
        if self.plan.fair_at.is_some_and(|at| at <= self.now) {
            self.plan.fair_at = None;
            note!(self.trace, "the store is as usual");
            self.everywhere(self.plan.weather);
        }
        let (now, weather) = (self.now, self.plan.weather);
        let (due, waiting) = std::mem::take(&mut self.plan.fair_routers).into_iter().partition(|(at, _)| *at <= now);
        self.plan.fair_routers = waiting;
        let due: Vec<(u64, usize)> = due;
        if !due.is_empty() && self.plan.fair_at.is_none() && self.plan.fair_routers.is_empty() {
            self.journal.store_changes(now, false);
        }
        for (_, router) in due {
            if let Some(node) = &self.routers[router].router {
                note!(self.trace, "the store is as usual for r{router}");
                node.set_weather(weather, weather);
                node.state_is_back();
            }
        }
    }

    fn crash_router(&mut self, router: usize, back_ms: u64) {
        let Some(mut node) = self.routers[router].router.take() else { return };
        note!(self.trace, "FAULT r{router} is killed, back in {back_ms} ms");
        node.crash();
        self.journal.counts.crashes += 1;
        self.routers[router].start_at = Some(self.now + back_ms);
        let hears_at = self.hears_at();
        for wire in self.wires.iter_mut().filter(|wire| wire.router == router) {
            wire.close_upper(hears_at);
        }
    }

    fn crash_gateway(&mut self, gateway: usize, back_ms: u64) {
        if self.gateways[gateway].gateway.take().is_none() {
            return;
        }
        note!(self.trace, "FAULT g{gateway} is killed, back in {back_ms} ms");
        self.journal.counts.crashes += 1;
        self.gateways[gateway].start_at = Some(self.now + back_ms);
        let hears_at = self.hears_at();
        for wire in self.wires.iter_mut().filter(|wire| wire.gateway == gateway) {
            wire.close_lower(hears_at);
        }
        for client in 0..self.clients.len() {
            if let Some(conn) = self.clients[client].conn.filter(|conn| self.conns[*conn].gateway == gateway) {
                let client_hears_at = if self.rng.u8(0..4) > 0 { self.now + self.rng.u64(0..500) } else { u64::MAX };
                self.conns[conn].cut(self.now, client_hears_at);
            }
        }
    }

    fn pause_router(&mut self, router: usize) {
        let until = self.now + self.rng.u64(200..if self.plan.scope == Scope::All { 20_000 } else { 8_000 });
        let Some(node) = self.routers[router].router.as_mut().filter(|node| !node.is_paused(self.now)) else { return };
        note!(self.trace, "FAULT r{router} is stopped until {until}");
        node.pause(until);
        self.journal.counts.pauses += 1;
        if until > self.now + LINK_DEAD_MS {
            // Its gateways find that it does not answer any more.
            for wire in self.wires.iter_mut().filter(|wire| wire.router == router) {
                wire.dies_at(self.now + LINK_DEAD_MS);
            }
        }
    }

    fn cut_link(&mut self, gateway: usize, router: usize) {
        let (lower, upper) = (self.hears_at(), self.hears_at());
        for wire in self.wires.iter_mut().filter(|wire| wire.gateway == gateway && wire.router == router && wire.id.is_some()) {
            note!(self.trace, "FAULT link g{gateway} r{router} is cut, heard of at {lower} and {upper}");
            self.journal.counts.links_cut += 1;
            wire.cut(lower, upper);
        }
    }

    fn cut_client(&mut self, client: usize) {
        let Some(conn) = self.clients[client].conn else { return };
        let mut hears = || if self.rng.u8(0..4) > 0 { self.now + self.rng.u64(0..500) } else { u64::MAX };
        let (lower, upper) = (hears(), hears());
        note!(self.trace, "FAULT the connection of client {client} is cut");
        self.journal.counts.connections_cut += 1;
        self.conns[conn].cut(upper, lower);
    }

    /// When an end of a link hears that it is cut: at once, or when nobody answers any more.
    fn hears_at(&mut self) -> u64 {
        self.now + if self.rng.u8(0..4) > 0 { self.rng.u64(0..100) } else { self.rng.u64(100..=LINK_DEAD_MS) }
    }

    // ---- people ----

    fn act(&mut self) {
        let client = self.people.usize(0..self.clients.len());
        let room = self.rooms[self.people.usize(0..self.rooms.len())];
        match self.people.u8(0..100) {
            0..8 => drop(self.push_from_backend(room)),
            8..62 => {
                let rooms = self.journal.rooms(client);
                if !rooms.is_empty() {
                    let room = rooms[self.people.usize(0..rooms.len())];
                    self.say(client, To::Room(room));
                }
            }
            62..78 => {
                let user = self.clients[self.people.usize(0..self.clients.len())].user;
                if user != self.clients[client].user {
                    self.say(client, To::User(user));
                }
            }
            78..86 => self.repeat(client),
            86..92 => {
                if self.plan.scope == Scope::All || !self.journal.rooms(client).contains(&room) {
                    self.clients[client].ever_wanted.insert(room);
                    self.clients[client].machine.join(room).expect("fewer rooms than allowed");
                }
            }
            92..95 => {
                if self.journal.rooms(client).contains(&room) {
                    self.journal.leaves(client, room);
                    self.clients[client].machine.leave(room).expect("a legal room");
                }
            }
            _ => {
                // Another network, another gateway; the old connection is closed in order, or just left behind.
                if self.people.bool() {
                    self.cut_client(client);
                }
                if self.clients[client].conn.is_some() {
                    self.hang_up(client);
                    self.clients[client].lost();
                }
            }
        }
        self.carry_out(client);
    }

    /// Says something new.
    pub(crate) fn say(&mut self, client: usize, to: To) -> String {
        let app = &mut self.clients[client];
        app.said += 1;
        let text = format!("{}.{client}-{}", app.user, app.said);
        let user = app.user;
        note!(self.trace, "{user}/{client} says {text} to {to:?}");
        self.journal.says(&text, user, to);
        self.send(client, &text);
        text
    }

    /// The backend pushes to a room, by the router that spoke in it last.
    pub(crate) fn push_from_backend(&mut self, room: i64) -> Option<String> {
        let name = self.journal.speaker(room)?.1.split(' ').next()?.to_owned();
        let router = self.routers.iter().filter_map(|place| place.router.as_ref()).find(|router| router.name == name && router.is_up())?;
        self.pushed += 1;
        let text = format!("{FROM_BACKEND}{}", self.pushed);
        note!(self.trace, "the backend pushes {text} to {room} at {name}");
        self.journal.says(&text, 0, To::Room(room));
        router.push(RoomId(room), &text, self.backend.clone());
        Some(text)
    }

    /// Says again, with the same id, what was accepted before.
    fn repeat(&mut self, client: usize) {
        let mine = format!("{}.{client}-", self.clients[client].user);
        let said: Vec<String> = self.journal.accepted_texts().filter(|text| text.starts_with(&mine)).cloned().collect();
        if !said.is_empty() {
            let text = said[self.people.usize(0..said.len())].clone();
            let at = self.now;
            note!(self.trace, "client {client} repeats {text}");
            self.clients[client].again.insert(text, at);
        }
    }

    // ---- calm ----

    /// Everything that is broken is mended; who is dead comes back.
    pub(crate) fn heal(&mut self) {
        note!(self.trace, "CALM");
        self.plan.fair_at = None;
        self.plan.fair_routers.clear();
        self.parted_until.clear();
        self.plan.weather.delay_ms = 1;
        self.everywhere(self.plan.weather);
        // Who is stopped finds its calls without an answer when it goes on.
        let last = self.routers.iter().filter_map(|place| place.router.as_ref()).map(Router::goes_on_at).max().unwrap_or(0);
        self.journal.store_changes(last.max(self.now), false);
        let soon = TROUBLE_MS + 1_000;
        for place in &mut self.routers {
            place.start_at = place.start_at.map(|at| at.min(soon));
        }
        for place in &mut self.gateways {
            place.start_at = place.start_at.map(|at| at.min(soon));
        }
        for client in &mut self.clients {
            client.deaf_until = 0;
        }
    }
}

/// A link whose other end says nothing for so long is dead.
const LINK_DEAD_MS: u64 = 6_000;
