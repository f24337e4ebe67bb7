//! Around the session machines: feeds them, carries out what they want, and ends connections.
//!
//! - No protocol decision is taken here. Bytes, verdicts and time go in; what comes out is carried out in order.
//! - What one input made a session say is written at once, together, behind the last action.
//! - A connection ends in one function, [`Shard::close`], whatever the cause.

use super::{
    Shard,
    connection::{Connection, Doom, Leaving, Tenant},
    counters::{code_row, reason_row},
    desk::Desk,
    message::{ConnKey, LeftCause, ShardEvent},
    slab::SlabKey,
};
use crate::transport::{Bounds, End, Found, Handshake, NotProxy, Source};
use billfish_session::server::{ServerAction, ServerActions};
use billfish_state::DeviceKind;
use billfish_wire::{Body, Code, HEADER_BYTES, Reason};
use smallvec::SmallVec;
use std::{io, ops::Range};

/// How long a connection that was told why it ends is kept to see the words arrive: several round trips of a phone.
pub(super) const LEAVE_MS: u64 = 1_000;
/// Connections kept for that at a time. Above it they are closed at once: a flood of bad clients must not hold the files of good ones.
const LEAVING_MAX: usize = 1_024;
/// Frames of one connection's own that are collected before they are written: a read of ACKs and small calls.
const STAGED_BYTES_MAX: usize = 64 * 1024;

/// Room for the filings of one tick that is kept for the next; after a stampede it would be most of a megabyte.
const FIRED_KEPT_MAX: usize = 4_096;

/// What a session says between two writes.
#[derive(Debug, Default)]
pub(super) struct Staged {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

/// Slots that sessions are about to forget, by room.
pub(super) type Hints = SmallVec<[(i64, u32); 4]>;

impl Shard {
    /// The connection behind a key, unless it is over.
    pub(super) fn open_mut(&mut self, key: SlabKey) -> Option<&mut Connection> {
        match self.slab.get_mut(key)? {
            Tenant::Open(conn) => Some(conn),
            Tenant::Leaving(_) => None,
        }
    }

    /// The socket has something to read. One buffer's worth is taken.
    pub(super) fn read(&mut self, key: SlabKey) {
        let Self { slab, desk, buffer, .. } = self;
        let Some(Tenant::Open(conn)) = slab.get_mut(key) else { return };
        if conn.session.is_authenticating() {
            // What the client sends meanwhile stays in the kernel; the verdict reads on.
            conn.is_left_unread = true;
            return;
        }
        // A stranger's bytes are taken in portions of what a stranger may say, so that what is held behind a LOGIN stays as small.
        let portion = match conn.session.is_live() {
            true => buffer.len(),
            false => buffer.len().min(HEADER_BYTES + conn.session.body_bytes_max(&desk.session)),
        };
        match conn.transport.read(&mut buffer[..portion]) {
            Ok(0) => self.close(key, Reason::PeerClosed),
            Ok(read) => {
                desk.counters.bytes_in.add(read as u64);
                // The edge is used up: when there may be more, be it the end, nobody else will say so.
                let has_more = read == portion || conn.is_at_end;
                if conn.transport.is_bare() {
                    self.feed(key, 0..read);
                } else if conn.transport.awaits_header() {
                    self.take_header(key, read);
                } else {
                    self.open_layers(key, 0..read);
                }
                if has_more {
                    self.read_again(key);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => self.close(key, Reason::TransportFailed),
        }
    }

    /// Puts a connection on the list of those whose sockets are read without being announced.
    pub(super) fn read_again(&mut self, key: SlabKey) {
        let Some(conn) = self.open_mut(key) else { return };
        if !conn.is_to_be_read {
            conn.is_to_be_read = true;
            self.again.push_back(key);
        }
    }

    /// Reads on in the header of a relay. With its end it is known who is there, and whether they may come in.
    fn take_header(&mut self, key: SlabKey, read: usize) {
        let Self { slab, desk, buffer, admission, config, .. } = self;
        let Some(Tenant::Open(conn)) = slab.get_mut(key) else { return };
        let (source, used) = match conn.transport.take_header(&buffer[..read], config.proxy_header_bytes_max) {
            Ok(None) => return,
            Ok(Some(taken)) => taken,
            Err(NotProxy) => {
                desk.counters.frame_errors.add(1);
                return self.close(key, Reason::Malformed);
            }
        };
        if let Source::Client(client) = source {
            if let Err(refusal) = admission.0.introduce(client) {
                desk.counters.accept_refused.add(1);
                conn.transport.refusal_into(&mut self.staged.bytes, refusal);
                return self.close(key, refusal.reason);
            }
            conn.set_peer(client);
        }
        if used == read {
            return;
        }
        if conn.transport.is_bare() {
            self.feed(key, used..read);
        } else {
            self.open_layers(key, used..read);
        }
    }

    /// Feeds a session a part of the shard's buffer.
    fn feed(&mut self, key: SlabKey, part: Range<usize>) {
        let Self { slab, desk, buffer, hints, .. } = self;
        let Some(Tenant::Open(conn)) = slab.get_mut(key) else { return };
        feed_session(conn, &buffer[part], desk, hints);
        self.carry_out(key);
    }

    /// Takes a part of the shard's buffer through the layers of a connection, and feeds its session what is in it.
    fn open_layers(&mut self, key: SlabKey, part: Range<usize>) {
        let Self { slab, desk, buffer, hints, websocket, .. } = self;
        let Some(Tenant::Open(conn)) = slab.get_mut(key) else { return };
        let mut scratch = std::mem::take(&mut desk.scratch);
        let bounds =
            Bounds { login_body_bytes_max: desk.session.login_body_bytes_max, body_bytes_max: desk.session.body_bytes_max, websocket };
        let found = conn.transport.open(&mut buffer[part], bounds, &mut scratch);
        let Found { established, controls, end } = found.unwrap_or(Found { end: Some(End::Failed), ..Found::default() });
        match established {
            Some(Handshake::Full) => desk.counters.tls_full.add(1),
            Some(Handshake::Resumed) => desk.counters.tls_resumed.add(1),
            None => {}
        }
        let mut replied = Ok(());
        if !scratch.reply().is_empty() && end != Some(End::Refused) {
            let reply = std::mem::take(scratch.reply_mut());
            replied = conn.send_own(key, &reply, &[reply.len()], desk);
            *scratch.reply_mut() = reply;
        }
        if controls > 0 {
            conn.session.on_controls(desk.now, &desk.session, controls, &mut desk.actions);
        }
        if !conn.session.is_closed() {
            feed_session(conn, scratch.frames(), desk, hints);
        }
        if let Some(End::Broken(reason)) = end {
            desk.counters.frame_errors.add(1);
            conn.session.on_broken(reason, &mut desk.actions);
        }
        if end == Some(End::Refused) {
            self.staged.bytes.extend_from_slice(scratch.reply());
        }
        self.desk.scratch = scratch;
        self.judge(key, replied);
        match end {
            None | Some(End::Broken(_)) => self.carry_out(key),
            Some(End::Closed) => {
                self.carry_out(key);
                self.close(key, Reason::PeerClosed);
            }
            // The words that were staged are the layer's.
            Some(End::Refused) => self.close(key, Reason::Malformed),
            Some(End::Failed) => {
                self.desk.counters.tls_failed.add(1);
                self.close(key, Reason::TransportFailed);
            }
        }
    }

    /// Feeds a session what was held back while its LOGIN was checked, and reads on.
    pub(super) fn feed_held(&mut self, key: SlabKey) {
        let Self { slab, desk, hints, .. } = self;
        let Some(Tenant::Open(conn)) = slab.get_mut(key) else { return };
        let held = conn.reassembler.take_held();
        feed_session(conn, &held, desk, hints);
        // Most clients wait for the verdict too: then there is nothing, and the reactor tells when there is.
        let is_left_unread = std::mem::take(&mut conn.is_left_unread);
        self.carry_out(key);
        if is_left_unread {
            self.read_again(key);
        }
    }

    /// Carries out what the session behind `key` wants, writes what it says, and files its next deadline.
    pub(super) fn carry_out(&mut self, key: SlabKey) {
        while let Some(action) = self.desk.actions.next_action() {
            match action {
                ServerAction::Send { code, body } => self.stage(key, code, &body),
                ServerAction::SendHeartbeat { room_id } => {
                    let room = room_id.and_then(|room_id| self.desk.rooms.get_mut(room_id));
                    let audience = room.map(|room| room.audience);
                    self.stage(key, Code::Heartbeat, &Body { audience, ..Body::yes() });
                }
                ServerAction::Authenticate(request) => {
                    let full = self.full_key(key);
                    let Some(conn) = self.open_mut(key) else { continue };
                    conn.device = DeviceKind::from_platform(request.platform.as_deref());
                    let peer = conn.peer();
                    self.desk.events.push(ShardEvent::Login { key: full, peer, request });
                }
                ServerAction::Upstream { request, call } => {
                    let full = self.full_key(key);
                    let Some(conn) = self.open_mut(key) else { continue };
                    let origin = conn.origin();
                    self.desk.events.push(ShardEvent::Up { key: full, origin, request, call });
                }
                ServerAction::EnterRoom { room_id } => self.enter_room(key, room_id),
                ServerAction::LeaveRoom { room_id } => self.leave_room(key, room_id),
                ServerAction::Alive => {
                    let Some(conn) = self.open_mut(key) else { continue };
                    let (app_id, user_id) = (conn.session.app_id(), conn.session.user_id());
                    self.desk.events.push(ShardEvent::Alive { app_id, user_id });
                }
                ServerAction::AckedInTime => self.desk.counters.acked.add(1),
                ServerAction::Acked { msg_id, room_id, recorded } => {
                    self.desk.counters.acked.add(1);
                    let Some(conn) = self.open_mut(key) else { continue };
                    let origin = conn.origin();
                    self.desk.events.push(ShardEvent::Acked { origin, msg_id, room_id, recorded });
                }
                ServerAction::Resend(push) => {
                    self.write_staged(key);
                    let Self { slab, desk, .. } = self;
                    let Some(Tenant::Open(conn)) = slab.get_mut(key) else { continue };
                    let sent = conn.send_copy(key, &push, push.body().room_id.unwrap_or(0), desk);
                    self.judge(key, sent);
                }
                action @ (ServerAction::RecordAck { .. } | ServerAction::HandOver { .. }) => {
                    let Some(conn) = self.open_mut(key) else { continue };
                    let origin = conn.origin();
                    self.desk.record(origin, action);
                }
                ServerAction::Close(reason) => return self.close(key, reason),
            }
        }
        self.hints.clear();
        self.write_staged(key);
        let Self { slab, desk, .. } = self;
        if let Some(Tenant::Open(conn)) = slab.get_mut(key) {
            desk.want(key, conn);
        }
    }

    fn stage(&mut self, key: SlabKey, code: Code, body: &Body) {
        let Self { slab, desk, staged, .. } = self;
        let Some(Tenant::Open(conn)) = slab.get_mut(key) else { return };
        if !conn.transport.speaks_frames() {
            return;
        }
        let code = conn.transport.code(code);
        conn.form().encode_into(&mut staged.bytes, code, body);
        staged.ends.push(staged.bytes.len());
        desk.counters.frames_out[code_row(code.number())].add(1);
        if code == Code::Error
            && let Some(reason) = body.code.and_then(Reason::from_number)
        {
            desk.counters.errors[reason_row(reason)].add(1);
        }
        if self.staged.bytes.len() >= STAGED_BYTES_MAX {
            self.write_staged(key);
        }
    }

    fn write_staged(&mut self, key: SlabKey) {
        if self.staged.bytes.is_empty() {
            return;
        }
        let Self { slab, desk, staged, .. } = self;
        let sent = match slab.get_mut(key) {
            Some(Tenant::Open(conn)) => conn.send_own(key, &staged.bytes, &staged.ends, desk),
            Some(Tenant::Leaving(_)) | None => Ok(()),
        };
        staged.ends.clear();
        staged.bytes.clear();
        // A snapshot may be large; the shard's scratch is not to keep its size.
        staged.bytes.shrink_to(STAGED_BYTES_MAX);
        self.judge(key, sent);
    }

    /// Ends a connection for which a write came to nothing. Not while its session's actions are being carried out half-way: an ending
    /// that comes up there is written on the list and carried out behind them.
    pub(super) fn judge(&mut self, key: SlabKey, sent: Result<(), Doom>) {
        if let Err(doom) = sent {
            self.doomed.push((key, doom));
        }
    }

    /// Ends the connections that were found to be unable to go on.
    pub(super) fn end_doomed(&mut self) {
        while let Some((key, doom)) = self.doomed.pop() {
            match doom {
                Doom::Failed => self.close(key, Reason::TransportFailed),
                Doom::Overflow => {
                    let Self { slab, desk, .. } = self;
                    let Some(Tenant::Open(conn)) = slab.get_mut(key) else { continue };
                    conn.session.on_backlog_overflow(&mut desk.actions);
                    self.carry_out(key);
                }
            }
        }
    }

    /// From now on the connection receives the room's pushes.
    fn enter_room(&mut self, key: SlabKey, room_id: i64) {
        let Self { slab, desk, .. } = self;
        let Some(Tenant::Open(conn)) = slab.get_mut(key) else { return };
        let slot = desk.rooms.enter(room_id).members.insert(key.index);
        conn.session.set_room_slot(room_id, slot);
    }

    /// From now on it does not.
    fn leave_room(&mut self, key: SlabKey, room_id: i64) {
        let cause = self.left_cause;
        let hint = self.hints.iter().find(|(hinted, _)| *hinted == room_id).map(|(_, slot)| *slot);
        self.remove_member(key.index, room_id, hint);
        let Some(conn) = self.open_mut(key) else { return };
        let origin = conn.origin();
        self.desk.events.push(ShardEvent::LeftRoom { origin, room_id, cause });
    }

    fn remove_member(&mut self, index: u32, room_id: i64, hint: Option<u32>) {
        let Self { slab, desk, .. } = self;
        let Some(room) = desk.rooms.get_mut(room_id) else { return };
        let was_in = room.members.remove(index, hint, |moved, slot| {
            if let Some((_, Tenant::Open(conn))) = slab.at_mut(moved) {
                conn.session.set_room_slot(room_id, slot);
            }
        });
        debug_assert!(was_in, "a session's rooms are those whose member it is");
        room.seen.leave(index);
        desk.rooms.forget_if_empty(room_id);
    }

    /// Takes a session out of a room for the router.
    pub(super) fn evict(&mut self, key: SlabKey, room_id: i64) {
        let Self { slab, desk, hints, .. } = self;
        let Some(Tenant::Open(conn)) = slab.get_mut(key) else { return };
        hints.extend(conn.session.room_slot(room_id).map(|slot| (room_id, slot)));
        conn.session.on_evicted(room_id, &mut desk.actions);
        self.left_cause = LeftCause::Evicted;
        self.carry_out(key);
        self.left_cause = LeftCause::Left;
    }

    /// The one end of every connection: out of its rooms, its backlog accounted for, control and admission told, the place free again.
    /// What the session had still to say is written, and the socket lingers for it.
    pub(super) fn close(&mut self, key: SlabKey, reason: Reason) {
        // Whatever the session wanted behind its end is void.
        while self.desk.actions.next_action().is_some() {}
        self.hints.clear();
        self.staged.ends.clear();
        let mut last_words = std::mem::take(&mut self.staged.bytes);
        if self.open_mut(key).is_none() {
            return;
        }
        let Some(Tenant::Open(mut conn)) = self.slab.remove(key) else { return };

        let mut actions = ServerActions::default();
        conn.session.on_disconnected(&mut actions);
        while let Some(action) = actions.next_action() {
            self.desk.record(conn.origin(), action);
        }
        let rooms: SmallVec<[i64; 1]> = conn.session.rooms().collect();
        for room_id in &rooms {
            self.remove_member(key.index, *room_id, conn.session.room_slot(*room_id));
        }
        if conn.is_let_in() {
            self.sessions -= 1;
            let logged_out = reason == Reason::LoggedOut;
            self.desk.events.push(ShardEvent::Gone { key: self.full_key(key), origin: conn.origin(), rooms, reason, logged_out });
        }
        self.admission.0.closed(conn.transport.listener(), conn.peer(), conn.is_let_in());
        self.desk.counters.closed[reason_row(reason)].add(1);

        let is_writable =
            !matches!(reason, Reason::PeerClosed | Reason::TransportFailed | Reason::WriteStalled) || conn.transport.awaits_close();
        conn.transport.part_into(&mut last_words, reason);
        if let Some(quic) = conn.transport.quic() {
            // Its task waits for the words to arrive; nothing of it stays here.
            quic.leave(last_words, reason, is_writable);
            conn.drop_outbox(&mut self.desk);
        } else if is_writable && conn.transport.takes_words() && !last_words.is_empty() && self.leaving_count < LEAVING_MAX {
            self.linger(conn, last_words);
        } else {
            conn.drop_outbox(&mut self.desk);
            if !matches!(reason, Reason::TransportFailed | Reason::WriteStalled) {
                conn.transport.say_end();
            }
        }
    }

    /// Keeps a socket until its last words are out. It has a key of its own: what was meant for the connection misses from here on.
    fn linger(&mut self, conn: Connection, last_words: Vec<u8>) {
        let Connection { transport, outbox, .. } = conn;
        let Self { slab, desk, .. } = self;
        let mut leaving = Box::new(Leaving::new(transport, outbox, last_words, desk));
        if leaving.go_on(&mut self.buffer, desk) {
            return leaving.end(desk);
        }
        let mut is_registered = Ok(());
        let key = slab.insert_with(|key| {
            is_registered = leaving.register(key, desk);
            Tenant::Leaving(leaving)
        });
        self.leaving.push_back((desk.now + LEAVE_MS, key));
        self.leaving_count += 1;
        if is_registered.is_err() {
            self.end_leaving(key);
        }
    }

    /// The last words may go on, or the peer has closed.
    pub(super) fn go_on_leaving(&mut self, key: SlabKey) {
        let Self { slab, desk, buffer, .. } = self;
        let Some(Tenant::Leaving(leaving)) = slab.get_mut(key) else { return };
        if leaving.go_on(buffer, desk) {
            self.end_leaving(key);
        }
    }

    fn end_leaving(&mut self, key: SlabKey) {
        if matches!(self.slab.get_mut(key), Some(Tenant::Leaving(_)))
            && let Some(Tenant::Leaving(leaving)) = self.slab.remove(key)
        {
            self.leaving_count -= 1;
            leaving.end(&mut self.desk);
        }
    }

    /// Ends those whose time for last words is over.
    pub(super) fn end_overdue(&mut self) {
        while let Some((until, key)) = self.leaving.front().copied()
            && until <= self.desk.now
        {
            self.leaving.pop_front();
            self.end_leaving(key);
        }
    }

    /// Ends those who are saying goodbye, now.
    pub(super) fn end_all_leaving(&mut self) {
        while let Some((_, key)) = self.leaving.pop_front() {
            self.end_leaving(key);
        }
    }

    /// Looks at the connections whose filings have fired.
    pub(super) fn tick(&mut self) {
        let mut fired = std::mem::take(&mut self.fired);
        fired.shrink_to(FIRED_KEPT_MAX);
        self.desk.wheel.fire_into(self.desk.now, &mut fired);
        for one in fired.drain(..) {
            let Self { slab, desk, .. } = self;
            let Some(Tenant::Open(conn)) = slab.get_mut(one.key) else { continue };
            // Filed first: everything below may file it again, or end it.
            let deadline = conn.deadline(desk);
            desk.wheel.refile(one, deadline.max(desk.now + 1), &mut conn.filed);
            if conn.is_stalled(desk) {
                self.close(one.key, Reason::WriteStalled);
            } else if deadline <= desk.now {
                conn.session.on_tick(desk.now, &desk.session, &mut desk.actions);
                self.carry_out(one.key);
            }
        }
        self.fired = fired;
    }

    /// A key as control knows it.
    pub(super) const fn full_key(&self, key: SlabKey) -> ConnKey {
        ConnKey { shard: self.desk.shard, index: key.index, generation: key.generation }
    }
}

/// Feeds a session bytes until it is over, has to wait for a verdict, or has had them all.
fn feed_session(conn: &mut Connection, input: &[u8], desk: &mut Desk, hints: &mut Hints) {
    let mut frames = conn.reassembler.feed(input);
    loop {
        match frames.next(conn.session.body_bytes_max(&desk.session)) {
            Ok(Some(frame)) => {
                desk.counters.frames_in[code_row(frame.code)].add(1);
                if frame.code == Code::Leave.number() {
                    // The session forgets its slots as it leaves; with them leaving costs the same in any room.
                    let session = &conn.session;
                    hints.extend(session.rooms().filter_map(|room_id| session.room_slot(room_id).map(|slot| (room_id, slot))));
                }
                conn.session.on_frame(desk.now, &desk.session, frame, &mut desk.actions);
                if conn.session.is_authenticating() {
                    return frames.hold();
                }
                if conn.session.is_closed() {
                    return;
                }
            }
            Ok(None) => break,
            Err(error) => {
                desk.counters.frame_errors.add(1);
                return conn.session.on_frame_error(error, &mut desk.actions);
            }
        }
    }
    let is_partial = conn.reassembler.is_partial() || conn.transport.is_partial();
    conn.session.on_partial(desk.now, &desk.session, is_partial);
}
