//! The client's end of a session: one machine for all connections of one user, one after the other.
//!
//! ```text
//!  Offline --connected--> LoggingIn --LOGIN answer--> Live --logout--> LoggingOut
//!     ^                       |                        |                   |
//!     +------- refused, timed out, kicked, silent, disconnected, echo -----+
//! ```
//!
//! - What was sent with an id is kept until the server accepted or refused it, and goes out again with the same id after a reconnect.
//! - A message to a room that is wanted waits until the room has let the user in on this connection. A JOIN may be refused for a while, and
//!   is then undone: what was sent behind it would be a stranger's.
//! - Rooms wanted are entered again by themselves; a room shows each `seq` and each id once and in order, across connections. Where a
//!   connection keeps an order for each class only, as QUIC does, the order is that of the class, and what comes ahead of a room's snapshot
//!   waits for it.
//! - QoS-1 messages are acknowledged when they are handed to the app, and again when they come again.
//! - A session moves to another connection without a gap: it logs in there while the one it has goes on. Both together are one connection
//!   to whoever listens.
//! - [`ClientEvent::Closed`] is told once per connection, as the last thing. Back-off, addresses and tokens are the shell's.

mod action;
mod config;
mod held;
mod moving;
mod rooms;
mod seen;
mod shown;
#[cfg(test)]
mod tests;
mod unproven;

pub use self::action::{CallError, ClientAction, ClientEvent, Message};
pub use self::config::ClientConfig;
pub use self::shown::Order;

use self::{
    held::Taken,
    moving::Moving,
    rooms::{Rooms, Standing},
    seen::Seen,
    unproven::Unproven,
};
use crate::time::Time;
use billfish_wire::{
    Body, Code, Encoding, Frame, FrameError, Reason, Resume,
    limits::{ID_BYTES_MAX, ID_MAX},
    snapshot::{RoomSnapshot, SyncPage},
};
use std::collections::{BTreeMap, VecDeque};

/// The gap where LOGIN's answer names none.
const HEARTBEAT_GAP_MS: u64 = 30_000;
/// Room logs fetched at once: see [`rooms::ASKED_MAX`].
const HISTORIES_MAX: usize = 1;
/// How often the inbox is asked for within one connection when no answer comes: a server that does not know SYNC is left in peace.
const INBOX_ASKS_MAX: u32 = 3;
/// A room that was refused for a while, and without a time, is asked for again after this long.
const RETRY_AFTER_MS: u64 = 1_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Offline,
    LoggingIn { until: Time },
    Live { heartbeat_at: Time },
    LoggingOut { until: Time },
}

/// A message that waits to be accepted or refused.
#[derive(Debug)]
struct InFlight {
    message: Message,
    /// On this connection. A second copy could be accepted after the first was refused.
    sent: bool,
}

/// The inbox page that is awaited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct InboxAsk {
    again_at: Time,
    asks: u32,
    /// Something is missing, by a page of this reading.
    gap: bool,
    /// LOGIN asked: its page begins with the oldest that is left, also before where the inbox was read to, and may end just there.
    is_resume: bool,
}

/// One user's session.
#[derive(Debug)]
pub struct ClientSession {
    config: ClientConfig,
    state: State,
    /// Of the connection.
    order: Order,
    heartbeat_gap_ms: u64,
    /// Sent on this connection, and not echoed.
    heartbeats_out: u32,
    heard_at: Time,
    rooms: Rooms,
    /// Oldest first: that is the order in which they go out again.
    in_flight: VecDeque<InFlight>,
    /// Pages of room logs that are awaited, by room: from where, or `None` where nobody waits any more. What is refused for a room is
    /// its page first, as it was asked for before any JOIN that is under way.
    histories: BTreeMap<i64, Option<i64>>,
    /// Last id of the last inbox page. Messages pushed live do not move it: they leave the inbox by their ACK, and two of them may have
    /// overtaken each other on their way here.
    inbox_id: String,
    inbox_ask: Option<InboxAsk>,
    seen: Seen,
    unproven: Unproven,
    moving: Moving,
    actions: VecDeque<ClientAction>,
}

impl ClientSession {
    /// A user who is not connected yet.
    #[must_use]
    pub fn new(config: ClientConfig) -> Self {
        Self {
            config,
            state: State::Offline,
            order: Order::default(),
            heartbeat_gap_ms: HEARTBEAT_GAP_MS,
            heartbeats_out: 0,
            heard_at: Time::default(),
            rooms: Rooms::default(),
            in_flight: VecDeque::new(),
            histories: BTreeMap::new(),
            inbox_id: String::new(),
            inbox_ask: None,
            seen: Seen::default(),
            unproven: Unproven::default(),
            moving: Moving::default(),
            actions: VecDeque::new(),
        }
    }

    /// Takes the next action; `None` means nothing to do until the next input.
    pub fn next_action(&mut self) -> Option<ClientAction> {
        self.actions.pop_front()
    }

    /// The encoding of everything that is sent.
    #[must_use]
    pub fn encoding(&self) -> Encoding {
        self.config.encoding
    }

    /// LOGIN was accepted and the connection stands.
    #[must_use]
    pub fn is_live(&self) -> bool {
        matches!(self.state, State::Live { .. })
    }

    /// There is no connection, or it is to be closed.
    #[must_use]
    pub fn is_offline(&self) -> bool {
        self.state == State::Offline
    }

    /// Rooms the user wants to be in.
    pub fn rooms(&self) -> impl Iterator<Item = i64> {
        self.rooms.ids()
    }

    /// Messages that wait to be accepted or refused.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// A transport stands, which keeps this order: logs in, and resumes what was seen before.
    pub fn on_connected(&mut self, now: Time, token: &str, order: Order) {
        if self.state != State::Offline {
            self.on_disconnected(Reason::TransportFailed);
        }
        self.order = order;
        self.heartbeats_out = 0;
        self.state = State::LoggingIn { until: now + self.config.answer_timeout_ms };
        self.heard_at = now;
        let resumed = self.rooms.to_resume();
        self.rooms.resume(&resumed);
        let login = self.login(token, resumed);
        self.send(Code::Login, login);
    }

    fn login(&self, token: &str, rooms: BTreeMap<i64, i64>) -> Body {
        let inbox = self.config.inbox.then(|| self.inbox_id.clone());
        let resume = (inbox.is_some() || !rooms.is_empty()).then_some(Resume { inbox, rooms, seq: None });
        Body {
            app_id: Some(self.config.app_id),
            user_id: Some(self.config.user_id),
            token: Some(token.to_owned()),
            platform: self.config.platform.clone(),
            device_id: self.config.device_id.clone(),
            version: self.config.version.clone(),
            resume,
            ..Body::default()
        }
    }

    /// A whole frame arrived.
    pub fn on_frame(&mut self, now: Time, frame: Frame<'_>) {
        if self.state == State::Offline {
            return;
        }
        self.heard_at = self.heard_at.max(now);
        self.rooms.heard(self.heard_at);
        // A code of a later version is none of ours.
        let Some(code) = Code::from_number(frame.code) else { return };
        let Ok(body) = Body::decode(frame.encoding, frame.body) else {
            return self.tell(ClientEvent::Unreadable { code: frame.code });
        };
        match code {
            Code::Login | Code::WsShake => self.on_login_answer(now, body),
            Code::Logout => self.close(Reason::LoggedOut, None),
            Code::Biz => self.on_push(body),
            Code::Heartbeat => {
                self.unproven.heartbeat_echoed();
                self.heartbeats_out = self.heartbeats_out.saturating_sub(1);
                self.tell(ClientEvent::HeartbeatEcho { audience: body.audience });
            }
            Code::Ack => self.on_accepted(body),
            Code::Kick => {
                let reason = reason_of(&body);
                if self.is_own_login(now, reason) {
                    return self.close(Reason::PeerClosed, None);
                }
                if !(reason == Reason::DuplicateLogin && self.is_moving()) {
                    self.tell(ClientEvent::Kicked { reason, msg: body.msg.unwrap_or_default() });
                }
                self.close(reason, None);
            }
            Code::Join => self.on_joined(body),
            Code::Leave => self.on_left(body),
            Code::Sync => self.on_page(now, body),
            Code::Error => self.on_error(now, body),
            Code::Reconnect => {
                let after_ms = body.after_ms.and_then(|ms| u64::try_from(ms).ok()).unwrap_or(0);
                self.tell(ClientEvent::MoveTo { addresses: body.addresses, after_ms });
            }
        }
        self.settle_former();
    }

    /// The stream cannot be followed any further: on the next connection it begins anew.
    pub fn on_frame_error(&mut self, error: FrameError) {
        self.close(error.reason(), None);
    }

    /// The transport is gone.
    pub fn on_disconnected(&mut self, reason: Reason) {
        let reason = if matches!(self.state, State::LoggingOut { .. }) { Reason::LoggedOut } else { reason };
        if !self.follow_next(reason) {
            self.end(reason, None);
        }
    }

    /// Time has passed. Late calls do no harm, early ones neither.
    pub fn on_tick(&mut self, now: Time) {
        self.tick_moving(now);
        match self.state {
            State::Offline => {}
            State::LoggingIn { until } => {
                if now >= until {
                    self.close(Reason::LoginTimeout, None);
                }
            }
            State::LoggingOut { until } => {
                if now >= until {
                    self.close(Reason::LoggedOut, None);
                }
            }
            State::Live { .. } if now >= self.silence_deadline() => self.close(Reason::HeartbeatLost, None),
            State::Live { heartbeat_at } => {
                if now >= heartbeat_at {
                    self.send_heartbeat(now);
                }
                while let Some(room_id) = self.rooms.next_retry(now) {
                    self.send_join(room_id);
                }
                if let Some(ask) = self.inbox_ask
                    && now >= ask.again_at
                {
                    self.ask_inbox(now, ask.asks, ask.gap);
                }
            }
        }
    }

    /// Asks whether the connection still stands, before its heartbeat is due: the answer is that many [`ClientEvent::HeartbeatEcho`]s from
    /// here on. 0: there is none to ask on.
    pub fn probe(&mut self, now: Time) -> u32 {
        if self.is_live() {
            self.send_heartbeat(now);
            self.heartbeats_out
        } else {
            0
        }
    }

    fn send_heartbeat(&mut self, now: Time) {
        self.state = State::Live { heartbeat_at: now + self.heartbeat_gap_ms };
        self.heartbeats_out += 1;
        self.unproven.heartbeat_sent();
        self.send(Code::Heartbeat, Body::default());
    }

    /// When [`Self::on_tick`] has something to do next.
    #[must_use]
    pub fn next_deadline(&self) -> Time {
        match self.state {
            State::Offline => Time::NEVER,
            State::LoggingIn { until } | State::LoggingOut { until } => until,
            State::Live { heartbeat_at } => {
                let inbox = self.inbox_ask.map_or(Time::NEVER, |ask| ask.again_at);
                heartbeat_at.min(self.silence_deadline()).min(self.rooms.retry_deadline()).min(inbox).min(self.moving.deadline())
            }
        }
    }

    /// Enters a room and stays in it over reconnects. In a room already: fetches a fresh snapshot.
    ///
    /// # Errors
    /// [`CallError::TooManyRooms`], [`CallError::OutOfRange`].
    pub fn join(&mut self, room_id: i64) -> Result<(), CallError> {
        check_room(room_id)?;
        if self.rooms.get(room_id).is_none() && self.rooms.len() >= self.config.rooms_max {
            return Err(CallError::TooManyRooms);
        }
        self.rooms.want(room_id);
        if self.is_live() {
            if self.rooms.is_waiting(room_id) {
                self.send_joins();
            } else {
                self.send_join(room_id);
            }
        }
        Ok(())
    }

    /// Leaves a room: nothing of it is shown any more from here on. [`ClientEvent::Left`] follows.
    ///
    /// # Errors
    /// [`CallError::OutOfRange`].
    pub fn leave(&mut self, room_id: i64) -> Result<(), CallError> {
        check_room(room_id)?;
        if let Some(from_seq) = self.histories.get_mut(&room_id) {
            *from_seq = None;
        }
        let was_waiting = self.rooms.is_waiting(room_id);
        let was_wanted = self.forget_room(room_id);
        if was_wanted && !was_waiting && self.is_live() && self.rooms.begin_leave(room_id, true) {
            self.send_leave(room_id);
        } else {
            self.tell(ClientEvent::Left { room_id });
        }
        if self.is_live() {
            self.send_joins();
        }
        self.settle_former();
        Ok(())
    }

    /// Sends a message, now or at the next login, and to a room that is wanted once it has let the user in: a room knows its member before
    /// the member speaks. One without an id waits for nothing. [`ClientEvent::Accepted`] or [`ClientEvent::Refused`] follows.
    ///
    /// # Errors
    /// [`CallError::TooManyCalls`] or [`CallError::IdInUse`]; [`CallError::NotLive`] for a message without an id;
    /// [`CallError::OutOfRange`].
    pub fn biz(&mut self, message: Message) -> Result<(), CallError> {
        message.room_id.map_or(Ok(()), check_room)?;
        let Some(msg_id) = &message.msg_id else {
            if !self.is_live() {
                return Err(CallError::NotLive);
            }
            self.send_biz(&message);
            return Ok(());
        };
        if msg_id.is_empty() || msg_id.len() > ID_BYTES_MAX {
            return Err(CallError::OutOfRange { field: "msgId" });
        }
        if self.in_flight.iter().any(|waiting| waiting.message.msg_id == message.msg_id) {
            return Err(CallError::IdInUse);
        }
        if self.in_flight.len() >= self.config.in_flight_max {
            return Err(CallError::TooManyCalls);
        }
        self.in_flight.push_back(InFlight { message, sent: false });
        if self.is_live() {
            self.send_waiting();
        }
        Ok(())
    }

    /// Gives a message up: it is not sent again, and an answer that comes all the same is nobody's. `false`: it does not wait for one.
    pub fn withdraw(&mut self, msg_id: &str) -> bool {
        self.take_in_flight(Some(msg_id)).is_some()
    }

    /// Asks for the log after `from_seq` of a room the user is in, page by page: [`ClientEvent::History`] until its `more` is false. Ends
    /// with the connection.
    ///
    /// # Errors
    /// [`CallError::NotLive`], [`CallError::NotInRoom`]; [`CallError::TooManyCalls`] while another log is being fetched;
    /// [`CallError::OutOfRange`].
    pub fn sync_room(&mut self, room_id: i64, from_seq: i64) -> Result<(), CallError> {
        check_room(room_id)?;
        if !(0..=ID_MAX).contains(&from_seq) {
            return Err(CallError::OutOfRange { field: "fromSeq" });
        }
        if !self.is_live() {
            return Err(CallError::NotLive);
        }
        if self.rooms.get(room_id).is_none_or(|room| room.standing != Standing::In) {
            return Err(CallError::NotInRoom);
        }
        if self.histories.contains_key(&room_id) || self.histories.len() >= HISTORIES_MAX {
            return Err(CallError::TooManyCalls);
        }
        self.histories.insert(room_id, Some(from_seq));
        self.send(Code::Sync, Body { room_id: Some(room_id), from_seq: Some(from_seq), ..Body::default() });
        Ok(())
    }

    /// Reads the inbox from where it was read to. Every login does so by itself.
    ///
    /// # Errors
    /// [`CallError::NotLive`]; [`CallError::TooManyCalls`] while it is being read.
    pub fn sync_inbox(&mut self, now: Time) -> Result<(), CallError> {
        if !self.is_live() {
            return Err(CallError::NotLive);
        }
        if self.inbox_ask.is_some() {
            return Err(CallError::TooManyCalls);
        }
        self.ask_inbox(now, 0, false);
        Ok(())
    }

    /// Acknowledges a message once more. Everything handed to the app was acknowledged already.
    ///
    /// # Errors
    /// [`CallError::NotLive`]; [`CallError::OutOfRange`].
    pub fn ack(&mut self, msg_id: &str) -> Result<(), CallError> {
        if msg_id.is_empty() || msg_id.len() > ID_BYTES_MAX {
            return Err(CallError::OutOfRange { field: "msgId" });
        }
        if !self.is_live() {
            return Err(CallError::NotLive);
        }
        self.send_ack(msg_id);
        Ok(())
    }

    /// Goes for good: rooms and unsent messages are forgotten, the token ends. [`ClientEvent::Closed`] follows.
    pub fn logout(&mut self, now: Time) {
        self.end_move();
        self.in_flight.clear();
        self.histories.clear();
        self.rooms.clear();
        self.unproven.clear();
        match self.state {
            State::Live { .. } => {
                self.state = State::LoggingOut { until: now + self.config.answer_timeout_ms };
                self.send(Code::Logout, Body::default());
            }
            State::LoggingIn { .. } => self.close(Reason::LoggedOut, None),
            State::Offline | State::LoggingOut { .. } => {}
        }
    }

    fn on_login_answer(&mut self, now: Time, body: Body) {
        // A second answer, or one that logout has overtaken, changes nothing.
        if !matches!(self.state, State::LoggingIn { .. }) {
            return;
        }
        let gap_secs = body.heartbeat_secs.and_then(|secs| u64::try_from(secs).ok()).filter(|secs| *secs > 0);
        self.heartbeat_gap_ms = gap_secs.map_or(HEARTBEAT_GAP_MS, |secs| secs * 1_000);
        self.state = State::Live { heartbeat_at: now + self.heartbeat_gap_ms };
        self.tell(ClientEvent::LoggedIn {
            session_id: body.session_id.unwrap_or_default(),
            node: body.node.unwrap_or_default(),
            server_time_ms: body.server_time.unwrap_or(0),
        });
        // LOGIN asked for the inbox; should the answer not come, it is asked for by itself.
        self.inbox_ask =
            self.config.inbox.then_some(InboxAsk { again_at: now + self.config.answer_timeout_ms, asks: 1, gap: false, is_resume: true });
        for msg_id in self.unproven.again() {
            self.send_ack(&msg_id);
        }
        self.send_waiting();
        self.send_joins();
    }

    fn on_push(&mut self, body: Body) {
        let Some(room_id) = body.room_id.filter(|room_id| *room_id != 0) else {
            self.acknowledge(&body);
            return self.show_once(body);
        };
        let Some(room) = self.rooms.get_mut(room_id) else {
            self.acknowledge(&body);
            return self.leave_unwanted(room_id);
        };
        match (room.standing, self.order) {
            (Standing::In, order) => self.show_in_room(room_id, body, order),
            // The snapshot that it comes ahead of may not have it.
            (Standing::Asked, Order::PerClass) => room.held.hold(body),
            // Still of a stay that ended, or ahead of the snapshot that will bring it: not shown, and not acknowledged as if it were.
            (Standing::Asked, Order::Total) | (Standing::Wanted | Standing::Retrying { .. }, _) => {}
        }
    }

    /// A room's: what is newer than all that was shown, of all or of its class, and was not shown under another number.
    fn show_in_room(&mut self, room_id: i64, body: Body, order: Order) {
        let is_new = self.rooms.get_mut(room_id).is_some_and(|room| room.pass(&body, order));
        self.acknowledge(&body);
        if is_new {
            self.tell(ClientEvent::Push(Box::new(body)));
        }
    }

    /// The server takes the user for a member of a room that the app has left: its LEAVE was refused, or overtaken by a resume.
    fn leave_unwanted(&mut self, room_id: i64) {
        if self.is_live() && self.rooms.begin_leave(room_id, false) {
            self.send_leave(room_id);
        }
    }

    /// Everything outside rooms: once by id; without an id there is nothing to tell a copy by.
    fn show_once(&mut self, body: Body) {
        if body.msg_id.as_deref().is_none_or(|msg_id| self.seen.insert(msg_id, self.config.seen_max)) {
            self.tell(ClientEvent::Push(Box::new(body)));
        }
    }

    fn on_joined(&mut self, body: Body) {
        let Some(room_id) = body.room_id else { return };
        // Ahead of the echo of a LEAVE it answers a JOIN of the stay that the LEAVE ended.
        if self.rooms.is_leaving(room_id) {
            return;
        }
        let snapshot = body.data.as_deref().map(serde_json::from_str::<RoomSnapshot>);
        let (mut snapshot, mut gap) = match snapshot {
            Some(Ok(snapshot)) => (snapshot, false),
            // The room is entered all the same; what was missed is not known.
            Some(Err(_)) | None => (RoomSnapshot::default(), true),
        };
        gap |= snapshot.gap;
        let Some(room) = self.rooms.get_mut(room_id) else {
            return self.leave_unwanted(room_id);
        };
        let seq = body.seq.unwrap_or(0);
        if room.asked_seq.is_some_and(|asked_seq| asked_seq > seq) {
            // The room's numbers began anew: what was shown before says nothing about what is to be shown now.
            room.begin_anew();
            gap = true;
        } else if room.is_past(seq) {
            // The connection that the session moves away from was ahead, or pushes overtook the answer: what they showed is newer than these.
            snapshot.states.retain(|_, state| !room.was_shown(state));
        }
        let messages = std::mem::take(&mut snapshot.messages);
        let pass = |mut message: Body| {
            message.room_id.get_or_insert(room_id);
            // Newer in its class, that is: on the connection before, one class may have been ahead of another.
            (room.pass(&message, Order::PerClass), message)
        };
        let messages: Vec<(bool, Body)> = messages.into_iter().map(pass).collect();
        room.enter(seq);
        let Taken { messages: mut held, is_short } = room.held.take();
        self.tell(ClientEvent::Joined { room_id, seq, snapshot: Box::new(snapshot), gap });
        for (is_new, message) in messages {
            self.acknowledge(&message);
            if is_new {
                self.tell(ClientEvent::Push(Box::new(message)));
            }
        }
        // Each class came in order; so it is kept, and the classes are put in order as well.
        held.make_contiguous().sort_by_key(|message| message.seq);
        for message in held {
            self.show_in_room(room_id, message, self.order);
        }
        if is_short && let Some(room) = self.rooms.get_mut(room_id) {
            // Behind the snapshot came more than could be kept: nothing newer is shown before another one has brought it.
            room.standing = Standing::Asked;
            self.send_join(room_id);
        }
        self.send_waiting();
        self.send_joins();
    }

    /// The echo of a LEAVE, or the server's word that the room is over for this user.
    fn on_left(&mut self, body: Body) {
        let Some(room_id) = body.room_id else { return };
        let told = match self.rooms.end_leave(room_id) {
            Some(told) => told,
            // Not an echo: the room has closed, or the user was banned from it.
            None => self.rooms.get(room_id).is_some_and(|room| room.standing == Standing::In) && self.forget_room(room_id),
        };
        if told {
            self.tell(ClientEvent::Left { room_id });
        }
    }

    fn on_page(&mut self, now: Time, body: Body) {
        let page = body.data.as_deref().and_then(|data| serde_json::from_str::<SyncPage>(data).ok());
        // What cannot be read is missing.
        let page = page.unwrap_or(SyncPage { gap: true, ..SyncPage::default() });
        match body.room_id.filter(|room_id| *room_id != 0) {
            Some(room_id) => self.on_history(room_id, page),
            None => self.on_inbox_page(now, page),
        }
    }

    fn on_history(&mut self, room_id: i64, page: SyncPage) {
        let Some(Some(from_seq)) = self.histories.remove(&room_id) else { return };
        let last_seq = page.messages.iter().filter_map(|message| message.seq).max();
        // A page that leads nowhere would be asked for for ever.
        let next_seq = last_seq.filter(|last_seq| page.more && *last_seq > from_seq);
        self.tell(ClientEvent::History { room_id, messages: page.messages, gap: page.gap, more: next_seq.is_some() });
        if let Some(next_seq) = next_seq {
            self.histories.insert(room_id, Some(next_seq));
            self.send(Code::Sync, Body { room_id: Some(room_id), from_seq: Some(next_seq), ..Body::default() });
        }
    }

    fn on_inbox_page(&mut self, now: Time, page: SyncPage) {
        let last_id = page.messages.last().and_then(|message| message.msg_id.clone());
        // A page that leads nowhere would be asked for for ever.
        let is_resume = self.inbox_ask.is_some_and(|ask| ask.is_resume);
        let leads_on = last_id.as_ref().is_some_and(|last_id| is_resume || *last_id != self.inbox_id);
        self.inbox_id = last_id.unwrap_or(std::mem::take(&mut self.inbox_id));
        for message in page.messages {
            self.acknowledge(&message);
            self.show_once(message);
        }
        let gap = page.gap || self.inbox_ask.is_some_and(|ask| ask.gap);
        if page.more && leads_on {
            self.ask_inbox(now, 0, gap);
        } else {
            self.inbox_ask = None;
            self.tell(ClientEvent::InboxRead { gap });
        }
    }

    fn on_accepted(&mut self, body: Body) {
        let Some(message) = self.take_in_flight(body.msg_id.as_deref()) else { return };
        let msg_id = message.msg_id.unwrap_or_default();
        self.tell(ClientEvent::Accepted { msg_id, ts_ms: body.ts.unwrap_or(0), seq: body.seq });
    }

    fn on_error(&mut self, now: Time, body: Body) {
        let reason = reason_of(&body);
        let retry_after_ms = body.retry_after_ms.and_then(|ms| u64::try_from(ms).ok());
        if matches!(self.state, State::LoggingIn { .. }) {
            return self.close(reason, retry_after_ms);
        }
        if self.take_in_flight(body.msg_id.as_deref()).is_none() && self.is_of_copy(body.msg_id.as_deref()) {
            return;
        }
        if let Some(room_id) = body.room_id
            && self.on_room_refused(now, room_id, reason, retry_after_ms)
        {
            return;
        }
        let (msg_id, room_id, msg) = (body.msg_id, body.room_id, body.msg.unwrap_or_default());
        self.tell(ClientEvent::Refused { msg_id, room_id, reason, msg, retry_after_ms });
    }

    /// A LEAVE, SYNC or JOIN was refused; `true` when the app need not hear of it.
    fn on_room_refused(&mut self, now: Time, room_id: i64, reason: Reason, retry_after_ms: Option<u64>) -> bool {
        if let Some(told) = self.rooms.end_leave(room_id) {
            // Here the room is left; should the server go on sending, it is told again.
            if told {
                self.tell(ClientEvent::Left { room_id });
            }
            return true;
        }
        if let Some(from_seq) = self.histories.remove(&room_id) {
            return from_seq.is_none();
        }
        let Some(room) = self.rooms.get_mut(room_id).filter(|room| room.standing == Standing::Asked) else { return false };
        let was_in = room.resume_seq().is_some();
        let passes_by = matches!(reason, Reason::Unavailable | Reason::Internal) || retry_after_ms.is_some();
        if was_in && passes_by {
            // As far as the app knows the user is in this room: coming back to it is not the app's business.
            room.standing = Standing::Retrying { at: now + retry_after_ms.unwrap_or(RETRY_AFTER_MS).max(1) };
            self.send_joins();
            return true;
        }
        self.forget_room(room_id);
        self.send_joins();
        if was_in {
            self.tell(ClientEvent::Left { room_id });
        }
        false
    }

    /// A room is not wanted any more: its messages wait for nothing. `false`: it was not wanted.
    fn forget_room(&mut self, room_id: i64) -> bool {
        let was_wanted = self.rooms.remove(room_id);
        if was_wanted && self.is_live() {
            self.send_waiting();
        }
        was_wanted
    }

    fn take_in_flight(&mut self, msg_id: Option<&str>) -> Option<Message> {
        let msg_id = msg_id?;
        let at = self.in_flight.iter().position(|waiting| waiting.message.msg_id.as_deref() == Some(msg_id))?;
        self.in_flight.remove(at).map(|waiting| waiting.message)
    }

    fn acknowledge(&mut self, body: &Body) {
        if body.qos == Some(1)
            && let Some(msg_id) = &body.msg_id
        {
            if body.room_id.is_none_or(|room_id| room_id == 0) {
                self.unproven.sent(msg_id);
            }
            self.send_ack(msg_id);
        }
    }

    fn ask_inbox(&mut self, now: Time, asks: u32, gap: bool) {
        if asks >= INBOX_ASKS_MAX {
            self.inbox_ask = None;
            return;
        }
        self.inbox_ask = Some(InboxAsk { again_at: now + self.config.answer_timeout_ms, asks: asks + 1, gap, is_resume: false });
        let from_id = Some(self.inbox_id.clone()).filter(|id| !id.is_empty());
        self.send(Code::Sync, Body { from_id, ..Body::default() });
    }

    /// Asks for the rooms whose turn it is.
    fn send_joins(&mut self) {
        while let Some(room_id) = self.rooms.next_wanted() {
            self.send_join(room_id);
        }
    }

    /// Sends what has not gone out on this connection and waits for no room, oldest first.
    fn send_waiting(&mut self) {
        let mut in_flight = std::mem::take(&mut self.in_flight);
        for waiting in &mut in_flight {
            if !waiting.sent && !self.rooms.holds(waiting.message.room_id) {
                waiting.sent = true;
                self.send_biz(&waiting.message);
            }
        }
        self.in_flight = in_flight;
    }

    fn send_join(&mut self, room_id: i64) {
        let Some(room) = self.rooms.get_mut(room_id) else { return };
        if room.standing != Standing::In {
            room.standing = Standing::Asked;
        }
        room.asked_seq = room.resume_seq();
        let resume = room.asked_seq.map(|seq| Resume { seq: Some(seq), ..Resume::default() });
        self.send(Code::Join, Body { room_id: Some(room_id), resume, ..Body::default() });
    }

    fn send_leave(&mut self, room_id: i64) {
        self.send(Code::Leave, Body { room_id: Some(room_id), ..Body::default() });
    }

    fn send_biz(&mut self, message: &Message) {
        let Message { room_id, biz_code, data, msg_id } = message.clone();
        self.send(Code::Biz, Body { room_id, biz_code: Some(biz_code), data: Some(data), msg_id, ..Body::default() });
    }

    fn send_ack(&mut self, msg_id: &str) {
        self.send(Code::Ack, Body { msg_id: Some(msg_id.to_owned()), ..Body::default() });
    }

    fn silence_deadline(&self) -> Time {
        self.heard_at + self.heartbeat_gap_ms.saturating_mul(u64::from(self.config.silent_gaps))
    }

    fn close(&mut self, reason: Reason, retry_after_ms: Option<u64>) {
        if self.state != State::Offline && !self.follow_next(reason) {
            self.end(reason, retry_after_ms);
            self.actions.push_back(ClientAction::Close);
        }
    }

    /// What was asked in this connection gets no answer any more.
    fn end(&mut self, reason: Reason, retry_after_ms: Option<u64>) {
        if self.state == State::Offline {
            return;
        }
        self.state = State::Offline;
        self.inbox_ask = None;
        self.end_move();
        self.end_calls();
        self.tell(ClientEvent::Closed { reason, reconnect: reason.worth_reconnecting(), retry_after_ms });
    }

    /// What was asked on a connection is not answered on another.
    fn end_calls(&mut self) {
        self.histories.clear();
        for waiting in &mut self.in_flight {
            waiting.sent = false;
        }
        for room_id in self.rooms.end_connection() {
            self.tell(ClientEvent::Left { room_id });
        }
    }

    fn tell(&mut self, event: ClientEvent) {
        self.actions.push_back(ClientAction::Tell(event));
    }

    fn send(&mut self, code: Code, body: Body) {
        self.actions.push_back(ClientAction::Send { code, body: Box::new(body) });
    }
}

/// What a server of a later version may say is taken for a fault of its own: the client comes back with back-off.
fn reason_of(body: &Body) -> Reason {
    body.code.and_then(Reason::from_number).unwrap_or(Reason::Internal)
}

fn check_room(room_id: i64) -> Result<(), CallError> {
    if (1..=ID_MAX).contains(&room_id) { Ok(()) } else { Err(CallError::OutOfRange { field: "roomId" }) }
}
