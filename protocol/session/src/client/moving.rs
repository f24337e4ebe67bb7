//! A move: a second connection logs in while the first goes on, and nothing is missed between the two.
//!
//! ```text
//!  current ───────────────── LOGIN answered on next ──> former ── its rooms are entered, or its time is over ──> closed
//!  next    ──LOGIN─────────> current ──JOINs──────────────────────────────────────────────────────────────────>
//! ```
//!
//! - Until LOGIN is answered on the next connection the current one is the session. Does the next one fail, nothing has happened.
//! - Ends the current one meanwhile, the next takes its place, and the login under way is an ordinary one.
//! - The former connection only tells: pushes of rooms that the current one has not entered yet, and what was accepted. A room's messages
//!   come from both, each in order and without a hole, so that the largest `seq` shown joins them, of all or of each class.
//! - What overtakes LOGIN's answer on the next connection, as pushes may on QUIC, waits for it.
//! - The server ends the former one for a login elsewhere. That login is our own.

use super::{ClientAction, ClientSession, Order, State, held::Held, reason_of};
use crate::time::Time;
use billfish_wire::{Body, Code, Frame, Reason};
use std::collections::{BTreeMap, BTreeSet};

/// What a session has beside its current connection.
#[derive(Debug, Default)]
pub(super) struct Moving {
    next: Option<Next>,
    former: Option<Former>,
    /// The server may have taken a LOGIN of which we have seen no answer: until then a kick for a login elsewhere is for that one.
    own_login_until: Time,
    /// Accepted on the former connection after they had been sent on the current one, too: what is said of that copy is no answer. No more
    /// than were in flight at once.
    answered: BTreeSet<String>,
}

/// LOGIN was sent on a second connection.
#[derive(Debug)]
struct Next {
    until: Time,
    order: Order,
    /// Rooms that LOGIN asks for, and from where.
    resumed: BTreeMap<i64, i64>,
    /// Came ahead of LOGIN's answer.
    held: Held,
}

/// The connection that was current before.
#[derive(Debug)]
struct Former {
    until: Time,
    order: Order,
    /// In which the user was there, and is not yet here.
    rooms: BTreeSet<i64>,
}

impl Moving {
    pub(super) fn deadline(&self) -> Time {
        let next = self.next.as_ref().map_or(Time::NEVER, |next| next.until);
        next.min(self.former.as_ref().map_or(Time::NEVER, |former| former.until))
    }
}

impl ClientSession {
    /// LOGIN was sent on the next connection and is not answered.
    #[must_use]
    pub fn is_moving(&self) -> bool {
        self.moving.next.is_some()
    }

    /// A transport stands beside the current connection, which keeps this order: logs in there. `false` where there is nothing to move: the session is not live, or
    /// moves already.
    pub fn on_next_connected(&mut self, now: Time, token: &str, order: Order) -> bool {
        if !self.is_live() || self.is_moving() {
            return false;
        }
        let resumed = self.rooms.to_resume();
        let body = Box::new(self.login(token, resumed.clone()));
        self.moving.next = Some(Next { until: now + self.config.answer_timeout_ms, order, resumed, held: Held::default() });
        self.actions.push_back(ClientAction::SendNext { code: Code::Login, body });
        true
    }

    /// A whole frame arrived on the next connection.
    pub fn on_next_frame(&mut self, now: Time, frame: Frame<'_>) {
        let (true, Some(code)) = (self.is_moving(), Code::from_number(frame.code)) else { return };
        let Ok(body) = Body::decode(frame.encoding, frame.body) else { return };
        match code {
            Code::Login | Code::WsShake => self.on_next_login_answer(now, body),
            Code::Error | Code::Kick => {
                let retry_after_ms = body.retry_after_ms.and_then(|ms| u64::try_from(ms).ok());
                self.fail_next(now, reason_of(&body), retry_after_ms);
            }
            Code::Biz => self.on_next_push(now, body),
            Code::Logout | Code::Heartbeat | Code::Ack | Code::Join | Code::Leave | Code::Sync | Code::Reconnect => {}
        }
    }

    fn on_next_push(&mut self, now: Time, body: Body) {
        let Some(next) = &mut self.moving.next else { return };
        next.held.hold(body);
        if next.held.is_short() {
            // Here everything goes on; there it could not.
            self.fail_next(now, Reason::TooSlow, None);
        }
    }

    /// The next connection is gone, or cannot be followed.
    pub fn on_next_disconnected(&mut self, now: Time, reason: Reason) {
        self.fail_next(now, reason, None);
    }

    /// A whole frame arrived on the former connection.
    pub fn on_former_frame(&mut self, frame: Frame<'_>) {
        let (true, Some(code)) = (self.moving.former.is_some(), Code::from_number(frame.code)) else { return };
        let Ok(body) = Body::decode(frame.encoding, frame.body) else { return };
        match code {
            Code::Biz => self.on_former_push(body),
            Code::Ack => self.on_former_accepted(body),
            Code::Kick => {
                let reason = reason_of(&body);
                self.close_former();
                // It is about the user, and not about that connection.
                if !reason.worth_reconnecting() && reason != Reason::DuplicateLogin {
                    self.close(reason, None);
                }
            }
            Code::Logout => self.close_former(),
            // A refusal, too: what was not accepted there was sent again here, and this answer is the one that counts.
            Code::Login | Code::WsShake | Code::Heartbeat | Code::Join | Code::Leave | Code::Sync | Code::Error | Code::Reconnect => {}
        }
    }

    fn on_former_accepted(&mut self, body: Body) {
        let is_sent_again =
            |msg_id: &&String| self.in_flight.iter().any(|waiting| waiting.sent && waiting.message.msg_id.as_ref() == Some(*msg_id));
        let sent_again = body.msg_id.as_ref().filter(is_sent_again).cloned();
        self.moving.answered.extend(sent_again);
        self.on_accepted(body);
    }

    /// Whether a refusal is of a copy of what was accepted on the former connection.
    pub(super) fn is_of_copy(&mut self, msg_id: Option<&str>) -> bool {
        msg_id.is_some_and(|msg_id| self.moving.answered.remove(msg_id))
    }

    /// The former connection is gone.
    pub fn on_former_disconnected(&mut self) {
        self.close_former();
    }

    fn on_next_login_answer(&mut self, now: Time, body: Body) {
        let Some(next) = self.moving.next.take() else { return };
        self.close_former();
        let until = now + self.config.answer_timeout_ms;
        self.moving.former = Some(Former { until, order: self.order, rooms: self.rooms.entered() });
        let mut held = self.switch(next);
        self.heard_at = now;
        self.on_login_answer(now, body);
        held.take().messages.into_iter().for_each(|body| self.on_push(body));
        self.settle_former();
    }

    /// The current connection ends while a login is under way on the next one: that one takes its place. `false` where there is none, or
    /// the end is the session's.
    pub(super) fn follow_next(&mut self, reason: Reason) -> bool {
        if !reason.worth_reconnecting() && reason != Reason::DuplicateLogin {
            return false;
        }
        let Some(next) = self.moving.next.take() else { return false };
        self.close_former();
        let mut held = self.switch(next);
        self.actions.push_back(ClientAction::CloseFormer);
        self.inbox_ask = None;
        held.take().messages.into_iter().for_each(|body| self.on_push(body));
        true
    }

    /// Everything that belongs to one connection belongs to the next one from here on. Gives what came on it.
    fn switch(&mut self, next: Next) -> Held {
        self.actions.push_back(ClientAction::Switch);
        self.moving.answered.clear();
        self.end_calls();
        self.order = next.order;
        self.heartbeats_out = 0;
        self.rooms.resume(&next.resumed);
        self.state = State::LoggingIn { until: next.until };
        next.held
    }

    fn on_former_push(&mut self, body: Body) {
        let Some(room_id) = body.room_id.filter(|room_id| *room_id != 0) else {
            self.acknowledge(&body);
            return self.show_once(body);
        };
        let order = self.moving.former.as_ref().filter(|former| former.rooms.contains(&room_id)).map(|former| former.order);
        if let Some(order) = order {
            self.show_in_room(room_id, body, order);
        }
    }

    /// Whether a kick for a login elsewhere is for a login of ours whose answer was lost.
    pub(super) fn is_own_login(&self, now: Time, reason: Reason) -> bool {
        reason == Reason::DuplicateLogin && now < self.moving.own_login_until
    }

    /// The former connection is of no more use once the user is in all its rooms, or out of them.
    pub(super) fn settle_former(&mut self) {
        let Some(former) = &mut self.moving.former else { return };
        let rooms = &self.rooms;
        former.rooms.retain(|room_id| rooms.is_to_be_entered(*room_id));
        if former.rooms.is_empty() {
            self.close_former();
        }
    }

    pub(super) fn tick_moving(&mut self, now: Time) {
        if self.moving.next.as_ref().is_some_and(|next| now >= next.until) {
            self.fail_next(now, Reason::LoginTimeout, None);
        }
        if self.moving.former.as_ref().is_some_and(|former| now >= former.until) {
            self.close_former();
        }
    }

    /// The session ends, and every connection of it.
    pub(super) fn end_move(&mut self) {
        self.moving.answered.clear();
        if self.moving.next.take().is_some() {
            self.actions.push_back(ClientAction::CloseNext { reason: Reason::LoggedOut, retry_after_ms: None });
        }
        self.close_former();
    }

    fn fail_next(&mut self, now: Time, reason: Reason, retry_after_ms: Option<u64>) {
        if self.moving.next.take().is_some() {
            self.moving.own_login_until = now + self.config.answer_timeout_ms;
            self.actions.push_back(ClientAction::CloseNext { reason, retry_after_ms });
        }
    }

    fn close_former(&mut self) {
        if self.moving.former.take().is_some() {
            self.actions.push_back(ClientAction::CloseFormer);
        }
    }
}
