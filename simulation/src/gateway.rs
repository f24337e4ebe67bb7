//! One life of a gateway: the real control tables and session machines, with a shell that is a loop instead of threads and sockets.
//!
//! - The shell does what a shard, a link's driver and the timers do, and decides nothing of what they do not decide. Its calls to the
//!   store (logins, routes, signs of life, ACKs) are modelled after the gateway's own, at one moment each.
//! - What it wants of the world it leaves in `wants`; the world carries it out, with delays.

use crate::{
    bug::Bug,
    router::UNIX_MS,
    store::{Weather, at_once},
    trace::{Trace, note},
};
use billfish_gateway::{
    shard::message::{ConnKey, LeftCause, Origin, ShardCommand, UpReply},
    simulation::{Control, LinkNumber},
};
use billfish_link::message::{Kick, envelope::Kind};
use billfish_session::{
    Form, Push, Time,
    server::{LoginAccepted, LoginRequest, ServerAction, ServerActions, ServerConfig, ServerSession},
};
use billfish_state::{AppId, DeviceKind, NodeKind, Route, State, UserId};
use billfish_wire::{Body, Code, Reason, frame};
use bytes::Bytes;
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

/// The gap between heartbeats, here and for the routers: short, so that the dead are found within a run.
pub(crate) const HEARTBEAT_MS: u64 = 5_000;
/// Routes live for hours.
const ROUTE_LIFE_MS: u64 = 12 * 3_600 * 1_000;
/// Signs of life and ACKs are written this often.
const FLUSH_MS: u64 = 100;
/// The registry is read this often.
const REGISTRY_MS: u64 = 2_000;
/// Calls that wait are looked at this often.
const TICK_MS: u64 = 100;

/// What a gateway wants of the world.
pub(crate) enum Want {
    /// A frame to the client at the other end of a connection.
    Write { conn: usize, bytes: Bytes },
    /// The connection is closed, behind what was written.
    Hangup { conn: usize },
}

struct Seat {
    conn: usize,
    machine: ServerSession,
    device: DeviceKind,
    origin: Option<Origin>,
}

struct Login {
    due_ms: u64,
    index: u32,
    request: Box<LoginRequest>,
}

/// A gateway that is alive.
pub(crate) struct Gateway {
    pub(crate) name: String,
    pub(crate) incarnation: u64,
    control: Control,
    config: ServerConfig,
    truth: State,
    pub(crate) weather: Weather,
    rng: fastrand::Rng,
    seats: BTreeMap<u32, Seat>,
    /// Seats by connection.
    by_conn: BTreeMap<usize, u32>,
    last_index: u32,
    last_session: u64,
    logins: VecDeque<Login>,
    alive: Vec<u32>,
    ended: Vec<Route>,
    acked: Vec<(AppId, UserId, String)>,
    flush_at: u64,
    tick_at: u64,
    registry_at: u64,
    out: ServerActions,
    pub(crate) wants: Vec<Want>,
    bug: Option<Bug>,
    trace: Trace,
}

impl Gateway {
    pub(crate) fn start(name: &str, truth: State, seed: u64, now: u64, bug: Option<Bug>, trace: Trace) -> Self {
        let control = Control::new(1);
        control.place(None);
        Self {
            name: name.to_owned(),
            incarnation: UNIX_MS + now,
            control,
            config: ServerConfig { heartbeat_gap_ms: HEARTBEAT_MS, ..ServerConfig::default() },
            truth,
            weather: Weather::default(),
            rng: fastrand::Rng::with_seed(seed),
            seats: BTreeMap::new(),
            by_conn: BTreeMap::new(),
            last_index: 0,
            last_session: 0,
            logins: VecDeque::new(),
            alive: Vec::new(),
            ended: Vec::new(),
            acked: Vec::new(),
            flush_at: now,
            tick_at: now,
            registry_at: now,
            out: ServerActions::default(),
            wants: Vec::new(),
            bug,
            trace,
        }
    }

    // ---- links ----

    pub(crate) fn link_up(&self, peer: &str) -> LinkNumber {
        self.control.link_up(peer)
    }

    pub(crate) fn link_down(&self, link: LinkNumber) {
        self.control.link_down(link);
    }

    /// What is to be sent over a link; `None`: close it.
    pub(crate) fn take_outbox(&self, link: LinkNumber) -> Option<Vec<Kind>> {
        let mut outbox = self.control.take_outbox(link)?;
        // Rooms are told in the order of a hash table: a run must not depend on it.
        for run in outbox.chunk_by_mut(|a, b| matches!((a, b), (Kind::Interest(_), Kind::Interest(_)))) {
            run.sort_by_key(|kind| if let Kind::Interest(interest) = kind { interest.room_id } else { 0 });
        }
        if self.bug == Some(Bug::NoReplay) {
            for kind in &mut outbox {
                if let Kind::Interest(interest) = kind {
                    interest.last_seq = 0;
                }
            }
        }
        Some(outbox)
    }

    /// A router said something.
    pub(crate) fn hear(&mut self, link: LinkNumber, kind: Kind, now: u64) {
        let again = (self.bug == Some(Bug::PushedTwice)).then(|| kind.clone());
        for (_, command) in self.control.sort(link, kind, UNIX_MS + now) {
            self.command(command, now);
        }
        if let Some(Kind::RoomPush(mut push)) = again {
            if let Some(push) = &mut push.push {
                push.seq += 1 << 31;
            }
            for (_, command) in self.control.sort(link, Kind::RoomPush(push), UNIX_MS + now) {
                self.command(command, now);
            }
        }
    }

    // ---- connections ----

    pub(crate) fn accept(&mut self, conn: usize, now: u64) {
        self.last_index += 1;
        let machine = ServerSession::new(Time(now), &self.config);
        self.seats.insert(self.last_index, Seat { conn, machine, device: DeviceKind::Other, origin: None });
        self.by_conn.insert(conn, self.last_index);
    }

    /// Whether a frame of this connection may be fed now: behind a LOGIN they wait for its verdict.
    pub(crate) fn takes_frames(&self, conn: usize) -> bool {
        self.by_conn.get(&conn).and_then(|index| self.seats.get(index)).is_some_and(|seat| !seat.machine.is_authenticating())
    }

    pub(crate) fn frame(&mut self, conn: usize, bytes: &[u8], now: u64) {
        let Some(&index) = self.by_conn.get(&conn) else { return };
        let Some(seat) = self.seats.get_mut(&index) else { return };
        let limit = seat.machine.body_bytes_max(&self.config);
        match frame::decode(bytes, limit) {
            Ok(Some((frame, _))) => seat.machine.on_frame(Time(now), &self.config, frame, &mut self.out),
            Ok(None) => {}
            Err(error) => seat.machine.on_frame_error(error, &mut self.out),
        }
        self.carry_out(index, now);
    }

    /// The transport is gone.
    pub(crate) fn lost(&mut self, conn: usize, now: u64) {
        if let Some(&index) = self.by_conn.get(&conn) {
            self.end(index, now);
        }
    }

    /// The operator, or a full backlog, ends the session of a connection.
    pub(crate) fn kick(&mut self, conn: usize, reason: Reason, now: u64) {
        let Some(&index) = self.by_conn.get(&conn) else { return };
        if let Some(seat) = self.seats.get_mut(&index) {
            seat.machine.on_kick(reason, None, &mut self.out);
            self.carry_out(index, now);
        }
    }

    // ---- time ----

    pub(crate) fn run(&mut self, now: u64) {
        let due: Vec<u32> =
            self.seats.iter().filter(|(_, seat)| seat.machine.next_deadline(&self.config).0 <= now).map(|(index, _)| *index).collect();
        for index in due {
            if let Some(seat) = self.seats.get_mut(&index) {
                seat.machine.on_tick(Time(now), &self.config, &mut self.out);
                self.carry_out(index, now);
            }
        }
        while self.logins.front().is_some_and(|login| login.due_ms <= now) {
            if let Some(login) = self.logins.pop_front() {
                self.decide(login, now);
            }
        }
        if now >= self.tick_at {
            self.tick_at = now + TICK_MS;
            for (key, request) in self.control.tick(UNIX_MS + now) {
                let retry_after_ms = Some(self.rng.u64(1_000..3_000));
                let reply = UpReply::Refused { reason: Reason::Unavailable, msg: None, retry_after_ms };
                self.command(ShardCommand::Reply { key, request, reply }, now);
            }
        }
        if now >= self.registry_at && !self.weather.away {
            self.registry_at = now + REGISTRY_MS;
            if let Ok(nodes) = at_once(self.truth.registry.nodes(NodeKind::Router, UNIX_MS + now)) {
                let routers: Vec<(String, bool)> = nodes.into_iter().map(|node| (node.id, node.draining)).collect();
                self.control.place(Some(&routers));
            }
        }
        if now >= self.flush_at && !self.weather.away {
            self.flush_at = now + FLUSH_MS;
            self.flush(now);
        }
    }

    /// When [`Self::run`] has something to do.
    pub(crate) fn next_at(&self) -> u64 {
        let seats = self.seats.values().map(|seat| seat.machine.next_deadline(&self.config).0).min().unwrap_or(u64::MAX);
        seats.min(self.logins.front().map_or(u64::MAX, |login| login.due_ms)).min(self.tick_at)
    }

    // ---- what the tests ask ----

    /// The rooms of the live session of a connection.
    pub(crate) fn rooms(&self, conn: usize) -> Option<Vec<i64>> {
        let seat = self.seats.get(self.by_conn.get(&conn)?)?;
        let mut rooms: Vec<i64> = seat.machine.rooms().collect();
        rooms.sort_unstable();
        seat.machine.is_live().then_some(rooms)
    }

    /// Live sessions by user and device.
    pub(crate) fn sessions(&self) -> Vec<(i64, DeviceKind, usize)> {
        let live = self.seats.values().filter(|seat| seat.machine.is_live());
        live.map(|seat| (seat.machine.user_id(), seat.device, seat.conn)).collect()
    }

    pub(crate) fn in_flight(&self) -> u64 {
        self.control.in_flight()
    }

    // ---- logins ----

    fn decide(&mut self, login: Login, now: u64) {
        let Login { index, request, .. } = login;
        let device = DeviceKind::from_platform(request.platform.as_deref());
        let lost = self.rng.u16(0..1_000) < self.weather.lost_permille;
        // Numbers compare across gateways: the newer session has the larger one.
        self.last_session = (self.last_session + 1).max((UNIX_MS + now) * 1_024);
        let origin = Origin { app_id: request.app_id, user_id: request.user_id, device, session: self.last_session };
        if self.weather.away {
            return self.deny(index, now);
        }
        let until_ms = UNIX_MS + now + ROUTE_LIFE_MS;
        let bound = at_once(self.truth.routes.bind(&[self.route(origin)], UNIX_MS + now, until_ms));
        let user = (AppId(origin.app_id), UserId(origin.user_id));
        let touched = at_once(self.truth.presence.touch(&[user], UNIX_MS + now));
        if lost || touched.is_err() {
            return self.deny(index, now);
        }
        let Ok(former) = bound else { return self.deny(index, now) };
        note!(self.trace, "{} lets in {} as session {}, before {:?}", self.name, origin.user_id, origin.session, former.first());
        for former in former.into_iter().flatten().filter(|former| former.node != self.name) {
            let kick = Kick {
                app_id: former.app.0,
                user_id: former.user.0,
                device: former.device as u32,
                code: Reason::DuplicateLogin.number().unwrap_or_default(),
                msg: String::new(),
                session: former.session,
            };
            self.control.relay(&former.node, former.epoch, kick);
        }
        let key = key_of(index);
        if let Some(older) = self.control.seat(origin, key) {
            self.command(ShardCommand::Kick { key: older, reason: Reason::DuplicateLogin, msg: None }, now);
        }
        let Some(seat) = self.seats.get_mut(&index).filter(|seat| seat.machine.is_authenticating()) else {
            // The connection is over by now: its seat is given up again.
            self.control.gone(0, origin, &[]);
            self.ended.push(self.route(origin));
            return;
        };
        seat.origin = Some(origin);
        seat.device = device;
        let accepted = LoginAccepted {
            session_id: format!("{}.{:x}.{:x}", self.name, self.incarnation, origin.session),
            node: self.name.clone(),
            server_time_ms: (UNIX_MS + now).cast_signed(),
        };
        seat.machine.on_login_accepted(Time(now), &self.config, accepted, &mut self.out);
        self.carry_out(index, now);
        if self.control.is_replaced(origin, now) {
            self.command(ShardCommand::Kick { key, reason: Reason::DuplicateLogin, msg: None }, now);
        }
    }

    fn deny(&mut self, index: u32, now: u64) {
        let retry_after_ms = Some(self.rng.u64(1_000..3_000));
        if let Some(seat) = self.seats.get_mut(&index) {
            seat.machine.on_login_refused(Reason::Unavailable, retry_after_ms, &mut self.out);
            self.carry_out(index, now);
        }
    }

    fn route(&self, origin: Origin) -> Route {
        Route {
            app: AppId(origin.app_id),
            user: UserId(origin.user_id),
            device: origin.device,
            node: self.name.clone(),
            epoch: self.incarnation,
            session: origin.session,
        }
    }

    /// Signs of life, endings and ACKs. A route that another session has by now ends this one; one that is forgotten is bound again.
    fn flush(&mut self, now: u64) {
        let unix_ms = UNIX_MS + now;
        let until_ms = unix_ms + ROUTE_LIFE_MS;
        drop(at_once(self.truth.routes.unbind(&std::mem::take(&mut self.ended))));
        drop(at_once(self.truth.inbox.ack(&std::mem::take(&mut self.acked))));
        for index in std::mem::take(&mut self.alive) {
            let Some(origin) = self.seats.get(&index).and_then(|seat| seat.origin) else { continue };
            let route = self.route(origin);
            let user = (route.app, route.user);
            drop(at_once(self.truth.presence.touch(&[user], unix_ms)));
            let stands = at_once(self.truth.routes.renew(std::slice::from_ref(&route), unix_ms, until_ms));
            if stands.is_ok_and(|stands| stands == [true]) {
                continue;
            }
            let standing = at_once(self.truth.routes.lookup(route.app, &[route.user], unix_ms)).unwrap_or_default();
            if standing.iter().flatten().any(|other| other.device == route.device) {
                note!(self.trace, "{} session {} of {} has been replaced", self.name, origin.session, origin.user_id);
                self.command(ShardCommand::Kick { key: key_of(index), reason: Reason::DuplicateLogin, msg: None }, now);
            } else {
                drop(at_once(self.truth.routes.bind(&[route], unix_ms, until_ms)));
            }
        }
    }

    // ---- the shard ----

    fn command(&mut self, command: ShardCommand, now: u64) {
        match command {
            ShardCommand::Reply { key, request, reply } => self.reply(key, request, reply, now),
            ShardCommand::RoomPush { room_id, push, except_user_id, .. } => {
                for index in self.members(room_id) {
                    if self.seats.get(&index).is_some_and(|seat| seat.machine.user_id() != except_user_id) {
                        self.push(index, &push, now);
                    }
                }
            }
            ShardCommand::UserPush { key, push } if self.bug == Some(Bug::PushesReachStrangers) => {
                for index in self.seats.keys().copied().filter(|index| *index != key.index).collect::<Vec<_>>() {
                    self.push(index, &push, now);
                }
            }
            ShardCommand::UserPush { key, push } => self.push(key.index, &push, now),
            ShardCommand::AllPush { push, .. } => {
                for index in self.seats.keys().copied().collect::<Vec<_>>() {
                    self.push(index, &push, now);
                }
            }
            ShardCommand::Kick { key, reason, msg } => {
                if let Some(seat) = self.seats.get_mut(&key.index) {
                    note!(self.trace, "{} kicks {}: {reason:?}", self.name, seat.machine.user_id());
                    seat.machine.on_kick(reason, msg.as_deref(), &mut self.out);
                    self.carry_out(key.index, now);
                }
            }
            ShardCommand::Evict { room_id, user_id } => {
                for index in self.members(room_id) {
                    let Some(seat) = self.seats.get_mut(&index) else { continue };
                    if user_id == 0 || seat.machine.user_id() == user_id {
                        let origin = seat.origin;
                        seat.machine.on_evicted(room_id, &mut self.out);
                        self.carry_out_left(index, now, LeftCause::Evicted);
                        note!(self.trace, "{} {origin:?} evicted from {room_id}", self.name);
                    }
                }
            }
            ShardCommand::RollCall(call) => {
                let members = self.members(call.room_id).into_iter().filter_map(|index| self.seats.get(&index)?.origin);
                self.control.seats(call, &members.collect::<Vec<_>>());
            }
            ShardCommand::Audience { .. }
            | ShardCommand::LoginVerdict { .. }
            | ShardCommand::RoomAccount { .. }
            | ShardCommand::Drain { .. }
            | ShardCommand::Shed { .. }
            | ShardCommand::Enter(_)
            | ShardCommand::Stop => {}
        }
    }

    fn members(&self, room_id: i64) -> Vec<u32> {
        let members = self.seats.iter().filter(|(_, seat)| seat.machine.is_live() && seat.machine.room_slot(room_id).is_some());
        members.map(|(index, _)| *index).collect()
    }

    fn push(&mut self, index: u32, push: &Arc<Push>, now: u64) {
        let Some(seat) = self.seats.get_mut(&index).filter(|seat| seat.machine.is_live()) else { return };
        let bytes = push.frame(Form::bare(seat.machine.encoding()));
        self.wants.push(Want::Write { conn: seat.conn, bytes });
        seat.machine.on_push_sent(Time(now), &self.config, push, &mut self.out);
        self.carry_out(index, now);
    }

    fn reply(&mut self, key: ConnKey, request: u32, reply: UpReply, now: u64) {
        let index = key.index;
        let Some(seat) = self.seats.get_mut(&index) else {
            if let UpReply::Joined { origin, room_id, .. } = reply {
                self.control.left(0, origin, room_id, LeftCause::NotEntered);
            }
            return;
        };
        match reply {
            UpReply::Accepted { ts_ms, seq } => seat.machine.on_accepted(request, ts_ms, seq, &mut self.out),
            UpReply::Refused { reason, msg, retry_after_ms } => {
                seat.machine.on_refused(request, reason, msg.as_deref(), retry_after_ms, &mut self.out);
            }
            UpReply::Synced { room_id, data } => seat.machine.on_synced(request, room_id, data, &mut self.out),
            UpReply::Joined { origin, room_id, seq, data, audience } => {
                let was_in = seat.machine.room_slot(room_id).is_some();
                seat.machine.on_joined(request, room_id, seq, data, audience, &mut self.out);
                self.carry_out(index, now);
                let is_in = self.seats.get(&index).map(|seat| seat.machine.room_slot(room_id).is_some());
                let cause = match (was_in, is_in) {
                    (false, Some(true)) => return,
                    (true, Some(true)) => LeftCause::AlreadyIn,
                    (_, Some(false)) => LeftCause::Left,
                    (_, None) => LeftCause::NotEntered,
                };
                return self.control.left(0, origin, room_id, cause);
            }
        }
        self.carry_out(index, now);
    }

    fn carry_out(&mut self, index: u32, now: u64) {
        self.carry_out_left(index, now, LeftCause::Left);
    }

    /// Carries out what the session at `index` wants. `cause`: why it leaves rooms, if it does.
    fn carry_out_left(&mut self, index: u32, now: u64, cause: LeftCause) {
        let mut closed = false;
        while let Some(action) = self.out.next_action() {
            let Some(seat) = self.seats.get_mut(&index) else { continue };
            let conn = seat.conn;
            let encoding = seat.machine.encoding();
            match action {
                ServerAction::Send { code, body } => {
                    self.wants.push(Want::Write { conn, bytes: frame::encode(encoding, code, &body) });
                }
                ServerAction::SendHeartbeat { .. } => {
                    self.wants.push(Want::Write { conn, bytes: frame::encode(encoding, Code::Heartbeat, &Body::yes()) });
                }
                ServerAction::Authenticate(request) => {
                    let back = self.logins.back().map_or(0, |login| login.due_ms);
                    let due_ms = (now + self.rng.u64(1..=2 + 2 * self.weather.delay_ms)).max(back);
                    self.logins.push_back(Login { due_ms, index, request });
                }
                ServerAction::Upstream { request, call } => {
                    let Some(origin) = seat.origin else { continue };
                    if !self.control.call(key_of(index), origin, request, *call, UNIX_MS + now) {
                        seat.machine.on_refused(request, Reason::Unavailable, None, Some(1_000), &mut self.out);
                    }
                }
                ServerAction::EnterRoom { room_id } => seat.machine.set_room_slot(room_id, index),
                ServerAction::LeaveRoom { room_id } => {
                    if let Some(origin) = seat.origin {
                        self.control.left(0, origin, room_id, cause);
                    }
                }
                ServerAction::Alive => self.alive.push(index),
                ServerAction::AckedInTime => {}
                ServerAction::Acked { msg_id, room_id, .. } => {
                    if let (Some(origin), None, false) = (seat.origin, room_id, msg_id.starts_with('r')) {
                        self.acked.push((AppId(origin.app_id), UserId(origin.user_id), msg_id));
                    }
                }
                ServerAction::Resend(push) => self.wants.push(Want::Write { conn, bytes: push.frame(Form::bare(encoding)) }),
                ServerAction::RecordAck { .. } | ServerAction::HandOver { .. } => {}
                ServerAction::Close(reason) => {
                    note!(self.trace, "{} closes {}: {reason:?}", self.name, seat.machine.user_id());
                    closed = true;
                }
            }
        }
        if closed {
            self.end(index, now);
        }
    }

    /// The one end of every connection.
    fn end(&mut self, index: u32, _now: u64) {
        let Some(mut seat) = self.seats.remove(&index) else { return };
        self.by_conn.remove(&seat.conn);
        let mut rest = ServerActions::default();
        seat.machine.on_disconnected(&mut rest);
        while rest.next_action().is_some() {}
        self.wants.push(Want::Hangup { conn: seat.conn });
        if let Some(origin) = seat.origin {
            let rooms: Vec<i64> = seat.machine.rooms().collect();
            self.control.gone(0, origin, &rooms);
            self.ended.push(self.route(origin));
        }
    }
}

/// Indices are not used again, so there is one generation.
const fn key_of(index: u32) -> ConnKey {
    ConnKey { shard: 0, index, generation: 0 }
}
