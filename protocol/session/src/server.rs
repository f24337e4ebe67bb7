//! The gateway's end of a session.
//!
//! ```text
//!  AwaitingLogin --LOGIN--> Authenticating --accepted--> Live --LOGOUT, kick, silence, drain--> Closed
//!        |                       |                         |
//!        +---- login timeout, bad frame, refused ----------+-------------------------------> Closed
//! ```
//!
//! - A machine belongs to one connection. What it says about the user comes from LOGIN's verdict alone, never from a later body.
//! - Pushes of QoS 0 do not pass through here: the shard writes them straight to the members.
//! - After a [`ServerAction::Close`] every input is ignored. What still waits for its ACK is handed over before the close.
//! - What an idle session does not need is boxed: ten thousand of them pay for every byte that stands here.

mod action;
mod calls;
mod config;
mod pending;
mod rooms;
#[cfg(test)]
mod tests;

pub use self::action::{LoginAccepted, LoginRequest, ServerAction, ServerActions, UpCall};
pub use self::config::ServerConfig;

use self::{
    calls::{Call, Calls},
    pending::{Acknowledged, Pending},
    rooms::Rooms,
};
use crate::{push::Push, rate::TokenBucket, time::Time};
use billfish_wire::{Body, Code, Encoding, Frame, FrameError, HEADER_BYTES, Reason, body::plain_ack};
use std::sync::Arc;

/// Told to a client that has [`ServerConfig::upstream_max`] calls under way, and to one whose LOGIN the stores did not answer:
/// a router answers in milliseconds or, after a failover, in a few seconds.
const RETRY_AFTER_MS: u64 = 1_000;
/// A refused frame's body is read for its ids up to this size; a flood of larger ones is not worth the parsing.
const PEEK_BYTES_MAX: usize = 1_024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum State {
    AwaitingLogin,
    Authenticating,
    Live,
    Closed,
}

/// One session as the gateway sees it.
#[derive(Debug)]
pub struct ServerSession {
    user_id: i64,
    /// Before LOGIN's verdict, when the connection was opened; then the last sign of life.
    seen_at: Time,
    rooms: Rooms,
    rare: Option<Box<Rare>>,
    app_id: i32,
    frames: TokenBucket,
    bytes: TokenBucket,
    next_request: u32,
    /// From the last [`ServerAction::Alive`] to `seen_at`.
    alive_ms_ago: u32,
    refused_in_a_row: u16,
    state: State,
    encoding: Encoding,
}

/// What only a busy session has.
#[derive(Debug)]
struct Rare {
    calls: Calls,
    pending: Pending,
    /// LOGIN's wishes, until its verdict.
    wishes: Option<Box<Wishes>>,
    /// When the frame began that is not complete.
    partial_since: Time,
}

/// What a LOGIN wants besides the session.
#[derive(Debug)]
struct Wishes {
    rooms: Vec<(i64, Option<i64>)>,
    inbox: Option<String>,
}

impl Default for Rare {
    fn default() -> Self {
        Self { calls: Calls::default(), pending: Pending::default(), wishes: None, partial_since: Time::NEVER }
    }
}

impl Rare {
    fn is_spent(&self) -> bool {
        self.calls.is_empty() && self.pending.is_empty() && self.wishes.is_none() && self.partial_since == Time::NEVER
    }
}

impl ServerSession {
    /// A connection was accepted.
    #[must_use]
    pub fn new(now: Time, config: &ServerConfig) -> Self {
        Self {
            user_id: 0,
            seen_at: now,
            rooms: Rooms::default(),
            rare: None,
            app_id: 0,
            frames: TokenBucket::full(now, config.frames_burst),
            bytes: TokenBucket::full(now, config.bytes_burst),
            next_request: 1,
            alive_ms_ago: 0,
            refused_in_a_row: 0,
            state: State::AwaitingLogin,
            encoding: Encoding::default(),
        }
    }

    /// Longest body this session may send now.
    #[must_use]
    pub fn body_bytes_max(&self, config: &ServerConfig) -> usize {
        if self.is_live() { config.body_bytes_max } else { config.login_body_bytes_max }
    }

    /// A LOGIN is being checked: hold further bytes back until the verdict.
    #[must_use]
    pub fn is_authenticating(&self) -> bool {
        self.state == State::Authenticating
    }

    /// LOGIN was accepted and nothing has ended the session.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.state == State::Live
    }

    /// Every input is ignored from here on.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    /// The encoding of everything that is sent: that of the LOGIN frame.
    #[must_use]
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// Whose session it is; 0 before LOGIN's verdict.
    #[must_use]
    pub fn user_id(&self) -> i64 {
        if matches!(self.state, State::AwaitingLogin | State::Authenticating) { 0 } else { self.user_id }
    }

    /// The user's business line; 0 before LOGIN's verdict.
    #[must_use]
    pub fn app_id(&self) -> i32 {
        if matches!(self.state, State::AwaitingLogin | State::Authenticating) { 0 } else { self.app_id }
    }

    /// The rooms entered, in that order. They stay readable after the close, so that the shell can take the connection out of them.
    pub fn rooms(&self) -> impl Iterator<Item = i64> {
        self.rooms.ids()
    }

    /// The shell's slot in an entered room; 0 until it is set.
    #[must_use]
    pub fn room_slot(&self, room_id: i64) -> Option<u32> {
        self.rooms.slot(room_id)
    }

    /// Remembers the shell's slot in an entered room; without effect for any other.
    pub fn set_room_slot(&mut self, room_id: i64, slot: u32) {
        self.rooms.set_slot(room_id, slot);
    }

    /// A whole frame arrived.
    pub fn on_frame(&mut self, now: Time, config: &ServerConfig, frame: Frame<'_>, out: &mut ServerActions) {
        // A frame ended, so whatever is partial from here on began just now.
        self.end_partial();
        match self.state {
            State::AwaitingLogin => self.on_first_frame(now, config, frame, out),
            // The shell holds frames back; one that slips through is refused, not lost in silence.
            State::Authenticating => out.send(Code::Error, Body::refusal(Reason::NotLoggedIn)),
            State::Live => {
                self.on_live_frame(now, config, frame, out);
                // Behind the frame: it acknowledges one of them, perhaps.
                if let Some(rare) = &mut self.rare {
                    rare.pending.on_life(out);
                }
            }
            State::Closed => {}
        }
        self.trim();
    }

    /// The stream cannot be followed any further.
    pub fn on_frame_error(&mut self, error: FrameError, out: &mut ServerActions) {
        self.on_broken(error.reason(), out);
    }

    /// A layer below the frames cannot be followed any further.
    pub fn on_broken(&mut self, reason: Reason, out: &mut ServerActions) {
        if self.is_live() {
            out.send(Code::Error, Body::refusal(reason));
        }
        self.close(reason, out);
    }

    /// The transport's own frames arrived, a WebSocket's pings for example: signs of life that cost what frames cost.
    pub fn on_controls(&mut self, now: Time, config: &ServerConfig, count: u32, out: &mut ServerActions) {
        if self.is_live() {
            self.on_life(now, config, out);
        }
        for _ in 0..count {
            if self.is_closed() {
                return;
            }
            if self.frames.take(now, 1, config.frames_per_s, config.frames_burst).is_err() {
                self.count_refusal(config, out);
            }
        }
    }

    /// Says after each read whether a frame has begun and not ended. The time allowed runs from the first call that says so and
    /// starts anew with every frame that is completed, so tell frames first.
    pub fn on_partial(&mut self, now: Time, _config: &ServerConfig, partial: bool) {
        if self.is_closed() {
            return;
        }
        if !partial {
            self.end_partial();
            self.trim();
        } else if self.rare.as_ref().is_none_or(|rare| rare.partial_since == Time::NEVER) {
            self.rare_mut().partial_since = now;
        }
    }

    /// The token is good: answers LOGIN, then asks for what LOGIN wanted to resume.
    pub fn on_login_accepted(&mut self, now: Time, config: &ServerConfig, accepted: LoginAccepted, out: &mut ServerActions) {
        if self.state != State::Authenticating {
            return;
        }
        self.state = State::Live;
        self.seen_at = now;
        self.alive_ms_ago = 0;
        let LoginAccepted { session_id, node, server_time_ms } = accepted;
        let answer = Body {
            session_id: Some(session_id),
            heartbeat_secs: Some(heartbeat_secs(config)),
            server_time: Some(server_time_ms),
            node: Some(node),
            ..Body::yes()
        };
        out.send(Code::Login, answer);
        out.push(ServerAction::Alive);
        let wishes = self.rare.as_mut().and_then(|rare| rare.wishes.take());
        let (rooms, inbox) = wishes.map_or_else(Default::default, |wishes| (wishes.rooms, wishes.inbox));
        for (room_id, resume_seq) in rooms {
            self.join(config, room_id, resume_seq, out);
        }
        match inbox {
            Some(from_id) => {
                let pull = UpCall::Sync { room_id: 0, from_seq: 0, from_id, resume: true };
                self.call_upstream(config, Call::Sync { room_id: 0 }, pull, out);
            }
            None => {
                self.call_upstream(config, Call::Redeliver, UpCall::Redeliver, out);
            }
        }
        self.trim();
    }

    /// The token is not good, or could not be checked: says so and closes.
    pub fn on_login_refused(&mut self, reason: Reason, retry_after_ms: Option<u64>, out: &mut ServerActions) {
        if self.state != State::Authenticating {
            return;
        }
        out.send(Code::Error, Body { retry_after_ms: retry_after_ms.map(wire_ms), ..refusal(reason, None) });
        self.close(reason, out);
    }

    /// A BIZ or LEAVE reached its router. `seq` is the room's number of a message that was given one, else 0.
    pub fn on_accepted(&mut self, request: u32, ts_ms: i64, seq: i64, out: &mut ServerActions) {
        if let Some(Call::Biz { msg_id: Some(msg_id) }) = self.take_call(request) {
            let seq = (seq > 0).then_some(seq);
            out.send(Code::Ack, Body { msg_id: Some(msg_id.into()), ts: Some(ts_ms), seq, ..Body::default() });
        }
    }

    /// A call was refused. The session lives.
    pub fn on_refused(&mut self, request: u32, reason: Reason, msg: Option<&str>, retry_after_ms: Option<u64>, out: &mut ServerActions) {
        let Some(call) = self.take_call(request) else { return };
        let (msg_id, room_id) = match call {
            Call::Biz { msg_id } => (msg_id.map(String::from), None),
            Call::Join { room_id, left: false } | Call::Sync { room_id } => (None, Some(room_id).filter(|room_id| *room_id != 0)),
            // The client has had its LEAVE echo and waits for nothing.
            Call::Join { left: true, .. } | Call::Leave => return,
            // The client asked for nothing; its inbox keeps what it has.
            Call::Redeliver => return,
        };
        out.send(Code::Error, Body { msg_id, room_id, retry_after_ms: retry_after_ms.map(wire_ms), ..refusal(reason, msg) });
    }

    /// The room took the session in. Call it in the room's queue order: pushes that come later have a larger `seq` than this one.
    pub fn on_joined(&mut self, request: u32, room_id: i64, seq: i64, data: String, audience: i64, out: &mut ServerActions) {
        let Some(Call::Join { left: false, .. }) = self.take_call(request) else { return };
        let answer = Body { room_id: Some(room_id), seq: Some(seq), data: Some(data), audience: Some(audience), ..Body::default() };
        out.send(Code::Join, answer);
        if self.rooms.enter(room_id) {
            out.push(ServerAction::EnterRoom { room_id });
        }
    }

    /// A page of a room's log, or of the inbox when `room_id` is 0.
    pub fn on_synced(&mut self, request: u32, room_id: i64, data: String, out: &mut ServerActions) {
        let Some(Call::Sync { .. }) = self.take_call(request) else { return };
        let room_id = (room_id != 0).then_some(room_id);
        out.send(Code::Sync, Body { room_id, data: Some(data), ..Body::default() });
    }

    /// A QoS-1 push was written or queued for this session: watches for its ACK. Pushes of QoS 0 never come here.
    pub fn on_push_sent(&mut self, now: Time, config: &ServerConfig, push: &Arc<Push>, out: &mut ServerActions) {
        if self.is_live() && push.wants_ack() {
            self.rare_mut().pending.add(now, config, push, out);
        }
    }

    /// The room has closed, or the user is banned from it.
    pub fn on_evicted(&mut self, room_id: i64, out: &mut ServerActions) {
        if self.is_live() && self.rooms.leave(room_id) {
            out.push(ServerAction::LeaveRoom { room_id });
            out.send(Code::Leave, Body { room_id: Some(room_id), ..Body::default() });
        }
    }

    /// Ends the session and tells the client why.
    pub fn on_kick(&mut self, reason: Reason, msg: Option<&str>, out: &mut ServerActions) {
        if self.is_live() {
            out.send(Code::Kick, refusal(reason, msg));
        }
        self.close(reason, out);
    }

    /// The node is going down: sends a live session elsewhere and closes nothing yet.
    pub fn on_drain(&mut self, addresses: Vec<String>, after_ms: u64, out: &mut ServerActions) {
        if self.is_live() {
            out.send(Code::Reconnect, Body { addresses, after_ms: Some(wire_ms(after_ms)), ..Body::default() });
        }
    }

    /// The client has not moved in time.
    pub fn on_drain_deadline(&mut self, out: &mut ServerActions) {
        self.close(Reason::Drained, out);
    }

    /// The backlog is full of what may not be dropped.
    pub fn on_backlog_overflow(&mut self, out: &mut ServerActions) {
        self.on_kick(Reason::TooSlow, None, out);
    }

    /// The transport is gone: hands over what waits for an ACK. There is no [`ServerAction::Close`], as there is nothing to close.
    pub fn on_disconnected(&mut self, out: &mut ServerActions) {
        self.state = State::Closed;
        if let Some(rare) = self.rare.take() {
            rare.pending.hand_over_all(out);
        }
    }

    /// Time has passed. Late calls do no harm, early ones neither.
    pub fn on_tick(&mut self, now: Time, config: &ServerConfig, out: &mut ServerActions) {
        if self.is_closed() {
            return;
        }
        if now >= self.life_deadline(config) {
            return self.on_life_deadline(out);
        }
        if now >= self.frame_deadline(config) {
            return self.close(Reason::FrameTimeout, out);
        }
        if let Some(rare) = &mut self.rare {
            rare.pending.on_tick(now, config, out);
        }
        self.trim();
    }

    /// When [`Self::on_tick`] has something to do next. Moves with every frame; a shell may look at it again only when the old one has come.
    #[must_use]
    pub fn next_deadline(&self, config: &ServerConfig) -> Time {
        if self.is_closed() {
            return Time::NEVER;
        }
        let pending = self.rare.as_ref().map_or(Time::NEVER, |rare| rare.pending.due());
        self.life_deadline(config).min(self.frame_deadline(config)).min(pending)
    }

    fn on_first_frame(&mut self, now: Time, config: &ServerConfig, frame: Frame<'_>, out: &mut ServerActions) {
        // There is no session to answer in, but the frame was whole: its encoding is one its sender can read.
        self.encoding = frame.encoding;
        if !self.charge(now, config, frame, out) {
            return self.close(Reason::RateLimited, out);
        }
        if Code::from_number(frame.code) != Some(Code::Login) {
            out.send(Code::Error, Body::refusal(Reason::NotLoggedIn));
            return self.close(Reason::NotLoggedIn, out);
        }
        let Some((request, wishes)) = Body::decode(frame.encoding, frame.body).ok().and_then(read_login) else {
            out.send(Code::Error, Body::refusal(Reason::Malformed));
            return self.close(Reason::Malformed, out);
        };
        self.state = State::Authenticating;
        self.app_id = request.app_id;
        self.user_id = request.user_id;
        if !wishes.rooms.is_empty() || wishes.inbox.is_some() {
            self.rare_mut().wishes = Some(Box::new(wishes));
        }
        out.push(ServerAction::Authenticate(Box::new(request)));
    }

    fn on_live_frame(&mut self, now: Time, config: &ServerConfig, frame: Frame<'_>, out: &mut ServerActions) {
        self.on_life(now, config, out);
        if !self.charge(now, config, frame, out) {
            return self.count_refusal(config, out);
        }
        let Some(code) = Code::from_number(frame.code) else {
            return out.send(Code::Error, Body::refusal(Reason::UnknownCode));
        };
        // ACKs are free of the frame allowance, so they say nothing about whether it is respected.
        if code != Code::Ack {
            self.refused_in_a_row = 0;
        }
        if code == Code::Ack
            && let Some(msg_id) = plain_ack(frame.encoding, frame.body).filter(|msg_id| !msg_id.is_empty())
        {
            return self.acknowledge(msg_id, out);
        }
        let Ok(body) = Body::decode(frame.encoding, frame.body) else {
            if code == Code::Ack {
                return self.refuse_ack(now, config, out);
            }
            return out.send(Code::Error, Body::refusal(Reason::Malformed));
        };
        match code {
            Code::Login => self.on_second_login(config, &body, out),
            Code::Logout => {
                out.send(Code::Logout, Body::yes());
                self.close(Reason::LoggedOut, out);
            }
            Code::Heartbeat => out.push(ServerAction::SendHeartbeat { room_id: self.rooms.first() }),
            Code::Ack => self.on_ack(now, config, body, out),
            Code::Biz | Code::Join | Code::Leave | Code::Sync if self.is_foreign(&body) => refuse(Reason::NotYourUser, code, body, out),
            Code::Biz => self.on_biz(config, body, out),
            Code::Join => match room_of(&body) {
                Some(room_id) => {
                    let seq = body.resume.and_then(|resume| resume.seq.or_else(|| resume.rooms.get(&room_id).copied()));
                    self.join(config, room_id, seq, out);
                }
                None => refuse(Reason::Malformed, code, body, out),
            },
            Code::Leave => match room_of(&body) {
                Some(room_id) => self.leave(config, room_id, out),
                None => refuse(Reason::Malformed, code, body, out),
            },
            Code::Sync => {
                let room_id = room_of(&body).unwrap_or(0);
                let (from_seq, from_id) = (body.from_seq.unwrap_or(0), body.from_id.unwrap_or_default());
                self.call_upstream(config, Call::Sync { room_id }, UpCall::Sync { room_id, from_seq, from_id, resume: false }, out);
            }
            // Only a server says these.
            Code::WsShake | Code::Kick | Code::Error | Code::Reconnect => refuse(Reason::UnknownCode, code, body, out),
        }
    }

    /// The same user again is told yes again: a client that lost the answer may ask. Another user needs another connection.
    /// The second answer has `heartbeatSecs` alone: `sessionId`, `node` and `serverTime` are not kept, every idle session would pay for them.
    fn on_second_login(&self, config: &ServerConfig, body: &Body, out: &mut ServerActions) {
        let (Some(app_id), Some(user_id), Some(_)) = (body.app_id, body.user_id, &body.token) else {
            return out.send(Code::Error, Body::refusal(Reason::Malformed));
        };
        if (app_id, user_id) == (self.app_id, self.user_id) {
            out.send(Code::Login, Body { heartbeat_secs: Some(heartbeat_secs(config)), ..Body::yes() });
        } else {
            out.send(Code::Error, Body::refusal(Reason::NotYourUser));
        }
    }

    fn on_ack(&mut self, now: Time, config: &ServerConfig, body: Body, out: &mut ServerActions) {
        let Some(msg_id) = body.msg_id.filter(|msg_id| !msg_id.is_empty()) else {
            return self.refuse_ack(now, config, out);
        };
        self.acknowledge(&msg_id, out);
    }

    fn acknowledge(&mut self, msg_id: &str, out: &mut ServerActions) {
        let known = self.rare.as_mut().and_then(|rare| rare.pending.acknowledge(msg_id));
        let (room_id, recorded) = match known {
            Some(Acknowledged { room_id: Some(_), recorded: false }) => return out.push(ServerAction::AckedInTime),
            Some(known) => (known.room_id, known.recorded),
            // Sent before a reconnect, or read from a SYNC page. A user push is then in the inbox alone; a room push may still have its
            // record among the late ACKs.
            None => (None, msg_id.starts_with('r')),
        };
        out.push(ServerAction::Acked { msg_id: msg_id.to_owned(), room_id, recorded });
    }

    /// An ACK that names nothing is answered with an ERROR, so it costs what any other frame does.
    fn refuse_ack(&mut self, now: Time, config: &ServerConfig, out: &mut ServerActions) {
        match self.frames.take(now, 1, config.frames_per_s, config.frames_burst) {
            Ok(()) => out.send(Code::Error, Body::refusal(Reason::Malformed)),
            Err(wait_ms) => {
                let retry_after_ms = (wait_ms != u64::MAX).then_some(wire_ms(wait_ms));
                out.send(Code::Error, Body { retry_after_ms, ..Body::refusal(Reason::RateLimited) });
                self.count_refusal(config, out);
            }
        }
    }

    fn on_biz(&mut self, config: &ServerConfig, mut body: Body, out: &mut ServerActions) {
        let (Some(biz_code), Some(data)) = (body.biz_code, body.data.take()) else {
            return refuse(Reason::Malformed, Code::Biz, body, out);
        };
        let msg_id = body.msg_id.filter(|msg_id| !msg_id.is_empty());
        // The answer to the first copy answers this one too.
        if msg_id.as_deref().is_some_and(|msg_id| self.rare.as_ref().is_some_and(|rare| rare.calls.holds_msg_id(msg_id))) {
            return;
        }
        let call = Call::Biz { msg_id: msg_id.as_deref().map(Box::from) };
        let up_call = UpCall::Biz { room_id: body.room_id.unwrap_or(0), biz_code, data, msg_id: msg_id.unwrap_or_default() };
        self.call_upstream(config, call, up_call, out);
    }

    /// Asks for a room, also for one it is in: the answer is a fresh snapshot.
    fn join(&mut self, config: &ServerConfig, room_id: i64, resume_seq: Option<i64>, out: &mut ServerActions) {
        if !self.has_place_for(config, room_id) {
            return out.send(Code::Error, Body { room_id: Some(room_id), ..Body::refusal(Reason::RateLimited) });
        }
        let was_in = self.rooms.ids().any(|id| id == room_id);
        self.call_upstream(config, Call::Join { room_id, left: false }, UpCall::Join { room_id, resume_seq, was_in }, out);
    }

    fn has_place_for(&self, config: &ServerConfig, room_id: i64) -> bool {
        let mut rooms: Vec<i64> = self.rooms.ids().collect();
        rooms.extend(self.rare.iter().flat_map(|rare| rare.calls.joining()));
        rooms.sort_unstable();
        rooms.dedup();
        rooms.contains(&room_id) || rooms.len() < config.rooms_max
    }

    /// The echo does not wait for the router: nothing it could say would keep the client in.
    fn leave(&mut self, config: &ServerConfig, room_id: i64, out: &mut ServerActions) {
        let was_in = self.rooms.contains(room_id);
        let was_joining = self.rare.as_ref().is_some_and(|rare| rare.calls.joining().any(|joining| joining == room_id));
        if was_in || was_joining {
            if !self.call_upstream(config, Call::Leave, UpCall::Leave { room_id }, out) {
                return;
            }
            self.rare_mut().calls.leave(room_id);
        }
        if self.rooms.leave(room_id) {
            out.push(ServerAction::LeaveRoom { room_id });
        }
        out.send(Code::Leave, Body { room_id: Some(room_id), ..Body::default() });
    }

    /// Sends a call on its way, or refuses it when too many are under way: then `false`.
    fn call_upstream(&mut self, config: &ServerConfig, call: Call, up_call: UpCall, out: &mut ServerActions) -> bool {
        let request = self.next_request;
        let rare = self.rare_mut();
        if rare.calls.len() >= config.upstream_max {
            let (msg_id, room_id) = match up_call {
                UpCall::Biz { msg_id, .. } => (Some(msg_id).filter(|msg_id| !msg_id.is_empty()), None),
                UpCall::Join { room_id, .. } | UpCall::Leave { room_id } | UpCall::Sync { room_id, .. } => (None, Some(room_id)),
                UpCall::Redeliver => return false,
            };
            let room_id = room_id.filter(|room_id| *room_id != 0);
            let retry_after_ms = Some(wire_ms(RETRY_AFTER_MS));
            out.send(Code::Error, Body { msg_id, room_id, retry_after_ms, ..Body::refusal(Reason::RateLimited) });
            return false;
        }
        rare.calls.add(request, call);
        self.next_request = request.wrapping_add(1);
        out.push(ServerAction::Upstream { request, call: Box::new(up_call) });
        true
    }

    fn take_call(&mut self, request: u32) -> Option<Call> {
        if !self.is_live() {
            return None;
        }
        let call = self.rare.as_mut()?.calls.take(request);
        self.trim();
        call
    }

    /// Every frame is a sign of life; presence hears of one per half a gap.
    fn on_life(&mut self, now: Time, config: &ServerConfig, out: &mut ServerActions) {
        let passed_ms = u32::try_from(now.since(self.seen_at)).unwrap_or(u32::MAX);
        self.alive_ms_ago = self.alive_ms_ago.saturating_add(passed_ms);
        self.seen_at = self.seen_at.max(now);
        if u64::from(self.alive_ms_ago) >= config.heartbeat_gap_ms / 2 {
            self.alive_ms_ago = 0;
            out.push(ServerAction::Alive);
        }
    }

    fn count_refusal(&mut self, config: &ServerConfig, out: &mut ServerActions) {
        self.refused_in_a_row = self.refused_in_a_row.saturating_add(1);
        if u32::from(self.refused_in_a_row) > config.refused_in_a_row_max {
            self.close(Reason::RateLimited, out);
        }
    }

    /// Pays for a frame out of both allowances; `false`, and the client is told, when one of them is used up.
    fn charge(&mut self, now: Time, config: &ServerConfig, frame: Frame<'_>, out: &mut ServerActions) -> bool {
        let free_of_frames = frame.code == Code::Ack.number();
        let wait = if free_of_frames { Ok(()) } else { self.frames.take(now, 1, config.frames_per_s, config.frames_burst) };
        let frame_bytes = u32::try_from(HEADER_BYTES + frame.body.len()).unwrap_or(u32::MAX);
        let wait = wait.and_then(|()| {
            self.bytes.take(now, frame_bytes, config.bytes_per_s, config.bytes_burst).inspect_err(|_| {
                if !free_of_frames {
                    self.frames.give_back(1, config.frames_burst);
                }
            })
        });
        let Err(wait_ms) = wait else { return true };
        let peeked = if frame.body.len() <= PEEK_BYTES_MAX { Body::decode(frame.encoding, frame.body).ok() } else { None };
        let (msg_id, room_id) = ids_of(frame.code, peeked.unwrap_or_default());
        // A frame above the burst never passes; there is then no time to name.
        let retry_after_ms = (wait_ms != u64::MAX).then_some(wire_ms(wait_ms));
        out.send(Code::Error, Body { msg_id, room_id, retry_after_ms, ..Body::refusal(Reason::RateLimited) });
        false
    }

    fn is_foreign(&self, body: &Body) -> bool {
        body.user_id.is_some_and(|user_id| user_id != self.user_id) || body.app_id.is_some_and(|app_id| app_id != self.app_id)
    }

    /// Until LOGIN's verdict the time allowed for it, then the silence that is too long.
    fn life_deadline(&self, config: &ServerConfig) -> Time {
        if self.is_live() {
            self.seen_at + config.heartbeat_gap_ms.saturating_mul(u64::from(config.silent_gaps))
        } else {
            self.seen_at + config.login_timeout_ms
        }
    }

    fn on_life_deadline(&mut self, out: &mut ServerActions) {
        match self.state {
            State::AwaitingLogin => {
                // There is no encoding yet: JSON is the one that every client and every person can read.
                out.send(Code::Error, Body::refusal(Reason::LoginTimeout));
                self.close(Reason::LoginTimeout, out);
            }
            State::Authenticating => {
                // The client did its part; the store behind the tokens did not.
                let retry_after_ms = Some(wire_ms(RETRY_AFTER_MS));
                out.send(Code::Error, Body { retry_after_ms, ..Body::refusal(Reason::Unavailable) });
                self.close(Reason::Unavailable, out);
            }
            State::Live | State::Closed => self.close(Reason::HeartbeatLost, out),
        }
    }

    fn frame_deadline(&self, config: &ServerConfig) -> Time {
        self.rare.as_ref().map_or(Time::NEVER, |rare| rare.partial_since + config.frame_timeout_ms)
    }

    fn end_partial(&mut self) {
        if let Some(rare) = &mut self.rare {
            rare.partial_since = Time::NEVER;
        }
    }

    fn close(&mut self, reason: Reason, out: &mut ServerActions) {
        if !self.is_closed() {
            self.on_disconnected(out);
            out.push(ServerAction::Close(reason));
        }
    }

    fn rare_mut(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// Gives the memory of a busy moment back.
    fn trim(&mut self) {
        if self.rare.as_ref().is_some_and(|rare| rare.is_spent()) {
            self.rare = None;
        }
    }
}

/// `None` where one of the three fields without which there is no LOGIN is missing.
fn read_login(body: Body) -> Option<(LoginRequest, Wishes)> {
    let room_id = room_of(&body);
    let Body { app_id, user_id, token, platform, device_id, resume, .. } = body;
    let request = LoginRequest { app_id: app_id?, user_id: user_id?, token: token?, platform, device_id };
    let resume = resume.unwrap_or_default();
    let mut rooms = Vec::new();
    if let Some(room_id) = room_id {
        rooms.push((room_id, resume.rooms.get(&room_id).copied()));
    }
    let others = resume.rooms.iter().filter(|(id, _)| **id != 0 && Some(**id) != room_id);
    rooms.extend(others.map(|(room_id, seq)| (*room_id, Some(*seq))));
    Some((request, Wishes { rooms, inbox: resume.inbox }))
}

/// The room a body is about; 0 means none, like no field.
fn room_of(body: &Body) -> Option<i64> {
    body.room_id.filter(|room_id| *room_id != 0)
}

/// An ERROR with what lets the client tell which of its frames is meant.
fn refuse(reason: Reason, code: Code, about: Body, out: &mut ServerActions) {
    let (msg_id, room_id) = ids_of(code.number(), about);
    out.send(Code::Error, Body { msg_id, room_id, ..Body::refusal(reason) });
}

/// A `roomId` in an ERROR says that a JOIN, LEAVE or SYNC is meant; a BIZ and an ACK are named by their `msgId` alone.
fn ids_of(code: i32, body: Body) -> (Option<String>, Option<i64>) {
    match Code::from_number(code) {
        Some(Code::Biz | Code::Ack) => (body.msg_id, None),
        Some(Code::Join | Code::Leave | Code::Sync) => (None, room_of(&body)),
        _ => (None, None),
    }
}

/// An ERROR or KICK body. A cause that peers are not told about becomes 5000: they must see some number.
fn refusal(reason: Reason, msg: Option<&str>) -> Body {
    let told = if reason.number().is_some() { reason } else { Reason::Internal };
    let mut body = Body::refusal(told);
    if let Some(msg) = msg {
        body.msg = Some(msg.to_owned());
    }
    body
}

fn heartbeat_secs(config: &ServerConfig) -> i32 {
    i32::try_from(config.heartbeat_gap_ms / 1_000).unwrap_or(i32::MAX).max(1)
}

fn wire_ms(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX).min(billfish_wire::limits::ID_MAX)
}
