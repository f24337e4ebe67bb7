//! A shell around the gateway's end: one connection, its backlog and its link, doing what the machine says.

use crate::link::{Arrival, Pipe};
use billfish_session::{
    Form, Push, Time,
    backlog::{Backlog, BacklogLimits, Queued},
    client::Order,
    server::{LoginRequest, ServerAction, ServerActions, ServerConfig, ServerSession, UpCall},
};
use billfish_wire::{Body, Class, Code, Reassembler, frame};
use std::{collections::BTreeSet, sync::Arc};

/// What a connection wants from the rest of the house.
pub(crate) enum Wish {
    Authenticate(Box<LoginRequest>),
    Call { request: u32, call: Box<UpCall> },
    Acked(String),
}

pub(crate) struct Gate {
    pub(crate) session: ServerSession,
    pub(crate) order: Order,
    pub(crate) up: Pipe,
    /// One; or where the order is each class's, one for the answers and one for each class.
    pub(crate) downs: Vec<Pipe>,
    /// No stream of several stands still alone before.
    pub(crate) way_stalls_after: u64,
    pub(crate) wishes: Vec<Wish>,
    reassembler: Reassembler,
    /// By way down.
    backlog: Backlog<usize>,
    limits: BacklogLimits,
    out: ServerActions,
    /// The machine said Close.
    closed: bool,
    /// That was carried out, or the transport was lost.
    over: bool,
    /// Records that stand in the shared state.
    pub(crate) recorded: BTreeSet<String>,
    pub(crate) queued: u64,
    pub(crate) delivered: u64,
    pub(crate) dropped: u64,
}

impl Gate {
    pub(crate) fn new(now: u64, config: &ServerConfig, order: Order) -> Self {
        let ways = if order == Order::Total { 1 } else { 1 + Class::ALL.len() };
        Self {
            session: ServerSession::new(Time(now), config),
            order,
            up: Pipe::default(),
            downs: (0..ways).map(|_| Pipe::default()).collect(),
            way_stalls_after: 0,
            wishes: Vec::new(),
            reassembler: Reassembler::default(),
            backlog: Backlog::default(),
            limits: BacklogLimits { frames_max: 64, bytes_max: 64 * 1024, soft_percent: 50 },
            out: ServerActions::default(),
            closed: false,
            over: false,
            recorded: BTreeSet::new(),
            queued: 0,
            delivered: 0,
            dropped: 0,
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over
    }

    /// Every copy that came in has left or waits.
    pub(crate) fn assert_accounted(&self) {
        assert_eq!(self.queued, self.delivered + self.dropped + self.backlog.frames() as u64, "copies of one connection");
    }

    /// Hands one input to the machine and carries out what it says.
    pub(crate) fn with(&mut self, now: u64, delay_ms: u64, input: impl FnOnce(&mut ServerSession, &mut ServerActions)) {
        input(&mut self.session, &mut self.out);
        while let Some(action) = self.out.next_action() {
            assert!(!self.closed, "after the close: {action:?}");
            self.closed = matches!(action, ServerAction::Close(_));
            self.carry_out(now, delay_ms, action);
        }
        self.flush(now, delay_ms);
    }

    pub(crate) fn read(&mut self, now: u64, bytes_max: usize, delay_ms: u64, config: &ServerConfig) {
        // Bytes behind a LOGIN wait for its verdict.
        if self.over || self.session.is_authenticating() {
            return;
        }
        match self.up.read(now, bytes_max) {
            Some(Arrival::Bytes(bytes)) => self.feed(now, &bytes, delay_ms, config),
            Some(Arrival::End) => self.lose(now, delay_ms),
            None => {}
        }
    }

    pub(crate) fn feed_held(&mut self, now: u64, delay_ms: u64, config: &ServerConfig) {
        let held = self.reassembler.take_held();
        self.feed(now, &held, delay_ms, config);
    }

    fn feed(&mut self, now: u64, bytes: &[u8], delay_ms: u64, config: &ServerConfig) {
        let mut reassembler = std::mem::take(&mut self.reassembler);
        let mut frames = reassembler.feed(bytes);
        loop {
            if self.session.is_authenticating() {
                frames.hold();
                break;
            }
            match frames.next(self.session.body_bytes_max(config)) {
                Ok(Some(frame)) => self.with(now, delay_ms, |session, out| session.on_frame(Time(now), config, frame, out)),
                Ok(None) => break,
                Err(error) => panic!("the client's stream is in step: {error}"),
            }
        }
        self.session.on_partial(Time(now), config, reassembler.is_partial());
        self.reassembler = reassembler;
    }

    /// The transport is gone.
    pub(crate) fn lose(&mut self, now: u64, delay_ms: u64) {
        if !self.over {
            self.with(now, delay_ms, |session, out| session.on_disconnected(out));
            self.end(now);
        }
    }

    pub(crate) fn push(&mut self, now: u64, delay_ms: u64, config: &ServerConfig, push: &Arc<Push>) {
        if self.session.is_live() {
            self.write_push(now, delay_ms, push);
            self.with(now, delay_ms, |session, out| {
                if push.wants_ack() {
                    session.on_push_sent(Time(now), config, push, out);
                }
            });
        }
    }

    pub(crate) fn next_at(&self, config: &ServerConfig) -> Option<u64> {
        if self.over {
            return None;
        }
        let deadline = self.session.next_deadline(config).0;
        let arrival = if self.session.is_authenticating() { None } else { self.up.next_at() };
        Some(arrival.map_or(deadline, |at| at.min(deadline)))
    }

    /// Writes what the windows take.
    pub(crate) fn flush(&mut self, now: u64, delay_ms: u64) {
        match self.order {
            Order::Total => self.flush_one(now, delay_ms),
            Order::PerClass => self.flush_each(now, delay_ms),
        }
    }

    /// Whole frames, each on its way, up to one beyond the window; what waits on a way holds up what is behind it there.
    fn flush_each(&mut self, now: u64, delay_ms: u64) {
        let mut is_full = [false; 1 + Class::ALL.len()];
        let Self { backlog, downs, delivered, .. } = self;
        backlog.offer_each(|queued| {
            let way = queued.tag;
            is_full[way] |= downs[way].window() == 0;
            if !is_full[way] {
                downs[way].write(now, delay_ms, &queued.frame);
                *delivered += 1;
            }
            !is_full[way]
        });
    }

    fn flush_one(&mut self, now: u64, delay_ms: u64) {
        let down = &mut self.downs[0];
        let mut taken = Vec::new();
        for slice in self.backlog.slices() {
            let room = down.window().saturating_sub(taken.len());
            taken.extend_from_slice(&slice[..slice.len().min(room)]);
        }
        down.write(now, delay_ms, &taken);
        self.backlog.advance(taken.len(), |_| self.delivered += 1);
    }

    fn carry_out(&mut self, now: u64, delay_ms: u64, action: ServerAction) {
        match action {
            ServerAction::Send { code, body } => self.write_reply(now, delay_ms, code, &body),
            ServerAction::SendHeartbeat { room_id } => {
                let body = Body { audience: room_id.map(|_| 1), ..Body::yes() };
                self.write_reply(now, delay_ms, Code::Heartbeat, &body);
            }
            ServerAction::Authenticate(request) => self.wishes.push(Wish::Authenticate(request)),
            ServerAction::Upstream { request, call } => self.wishes.push(Wish::Call { request, call }),
            ServerAction::AckedInTime => {}
            ServerAction::Acked { msg_id, room_id, recorded } => {
                let was_recorded = self.recorded.remove(&msg_id);
                assert!(recorded || !was_recorded, "a record of {msg_id} of room {room_id:?} would stay behind");
                self.wishes.push(Wish::Acked(msg_id));
            }
            ServerAction::RecordAck { push, .. } => {
                self.recorded.insert(push.body().msg_id.clone().expect("only what wants an ACK is recorded"));
            }
            ServerAction::Resend(push) => self.write_push(now, delay_ms, &push),
            ServerAction::HandOver { push, recorded, .. } => {
                let msg_id = push.body().msg_id.as_deref().expect("only what wants an ACK is handed over");
                assert_eq!(self.recorded.remove(msg_id), recorded, "the record of {msg_id}");
            }
            ServerAction::Close(_) => self.end(now),
            // The session itself tells which rooms it is in, and presence is not modelled.
            ServerAction::EnterRoom { .. } | ServerAction::LeaveRoom { .. } | ServerAction::Alive => {}
        }
    }

    fn write_reply(&mut self, now: u64, delay_ms: u64, code: Code, body: &Body) {
        let frame = frame::encode(self.session.encoding(), code, body);
        let queued = Queued { frame, class: Class::Control, state: None, tag: 0 };
        // Last words go ahead of everything that was not begun.
        if self.session.is_closed() && code == Code::Kick {
            self.queued += 1;
            self.backlog.close_with(queued, |_, _| self.dropped += 1);
            self.flush(now, delay_ms);
        } else {
            self.enqueue(now, delay_ms, queued);
        }
    }

    fn write_push(&mut self, now: u64, delay_ms: u64, push: &Push) {
        let frame = push.frame(Form::bare(self.session.encoding()));
        let way = if self.order == Order::Total { 0 } else { 1 + push.class() as usize };
        self.enqueue(now, delay_ms, Queued { frame, class: push.class(), state: push.state().cloned(), tag: way });
    }

    fn enqueue(&mut self, now: u64, delay_ms: u64, queued: Queued<usize>) {
        self.queued += 1;
        let fits = self.backlog.push(&self.limits, queued, |_, _| self.dropped += 1);
        self.flush(now, delay_ms);
        if fits.is_err() && !self.session.is_closed() {
            self.session.on_backlog_overflow(&mut self.out);
        }
    }

    fn end(&mut self, now: u64) {
        self.over = true;
        self.backlog.close(|_, _| self.dropped += 1);
        self.downs.iter_mut().for_each(|down| down.finish(now));
    }
}
