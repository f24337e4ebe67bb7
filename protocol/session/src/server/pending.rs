//! QoS-1 pushes that wait for their ACK.
//!
//! ```text
//!   sent --late_ack_ms--> recorded --4 s--> sent again --8 s--> sent again --8 s--> handed over
//!     |  (a push to the user is recorded at once)                  |
//!     +------------------------ ACK: forgotten --------------------+
//! ```
//!
//! - A push to a room is handed over when the client is heard of once more: one that is alive has it, and acknowledges nothing. Where the
//!   connection ends first it is missed, as what still waits then: the client was gone already when it was sent, perhaps.
//!
//! - In the order of first sending; bounded by `pending_max`, beyond which the oldest is handed over.
//! - `due` never lies later than the earliest entry, so a shell that sleeps until then misses nothing; it may lie before.

use super::{ServerAction, ServerActions, ServerConfig};
use crate::{push::Push, time::Time};
use std::{collections::VecDeque, sync::Arc};

/// How long the last copy may wait when the configuration names no resend at all: the first gap of the default.
const ACK_WAIT_MS: u64 = 4_000;

#[derive(Debug)]
struct Waiting {
    push: Arc<Push>,
    sent_at: Time,
    times_sent: u32,
    recorded: bool,
    /// Sent for the last time, and to be handed over at the next sign of life.
    given_up: bool,
}

#[derive(Debug)]
pub(super) struct Pending {
    waiting: VecDeque<Waiting>,
    due: Time,
}

/// What is known about an acknowledged push.
pub(super) struct Acknowledged {
    pub(super) room_id: Option<i64>,
    pub(super) recorded: bool,
}

impl Default for Pending {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), due: Time::NEVER }
    }
}

impl Pending {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn due(&self) -> Time {
        self.due
    }

    /// Watches a push that was just sent. One that waits already keeps its place and its times.
    pub(super) fn add(&mut self, now: Time, config: &ServerConfig, push: &Arc<Push>, out: &mut ServerActions) {
        if self.holds(push) {
            return;
        }
        let mut waiting = Waiting { push: Arc::clone(push), sent_at: now, times_sent: 1, recorded: false, given_up: false };
        // A push to the user must survive this node from the start; a room's log survives it anyway, so only a late ACK is worth a record.
        if push.body().room_id.is_none() {
            waiting.record(config, now, out);
        }
        self.due = self.due.min(waiting.due(config));
        self.waiting.push_back(waiting);
        while self.waiting.len() > config.pending_max.max(1) {
            if let Some(oldest) = self.waiting.pop_front() {
                oldest.hand_over(false, out);
            }
        }
    }

    pub(super) fn acknowledge(&mut self, msg_id: &str) -> Option<Acknowledged> {
        let waiting = self.waiting.remove(self.position(msg_id)?)?;
        if self.waiting.is_empty() {
            // Else it is left too early: to look for the earliest after every ACK costs more than one look too many.
            self.due = Time::NEVER;
        }
        Some(Acknowledged { room_id: waiting.push.body().room_id, recorded: waiting.recorded })
    }

    pub(super) fn on_tick(&mut self, now: Time, config: &ServerConfig, out: &mut ServerActions) {
        if now < self.due {
            return;
        }
        let mut index = 0;
        while let Some(waiting) = self.waiting.get_mut(index) {
            if now < waiting.due(config) {
                index += 1;
            } else if !waiting.recorded && now < waiting.resend_at(config) {
                waiting.record(config, now, out);
                index += 1;
            } else if waiting.resends_left(config) {
                out.push(ServerAction::Resend(Arc::clone(&waiting.push)));
                waiting.times_sent += 1;
                waiting.sent_at = now;
                waiting.record(config, now, out);
                index += 1;
            } else if waiting.push.body().room_id.is_some() {
                waiting.given_up = true;
                index += 1;
            } else if let Some(given_up) = self.waiting.remove(index) {
                given_up.hand_over(false, out);
            }
        }
        self.due = self.earliest(config);
    }

    /// The client is alive: what it was sent often enough it has seen.
    pub(super) fn on_life(&mut self, out: &mut ServerActions) {
        // In the order of first sending, and so of giving up.
        while let Some(seen) = self.waiting.pop_front_if(|waiting| waiting.given_up) {
            seen.hand_over(false, out);
        }
    }

    /// The connection ends: everything goes back to the inbox and the room logs.
    pub(super) fn hand_over_all(self, out: &mut ServerActions) {
        for waiting in self.waiting {
            waiting.hand_over(true, out);
        }
    }

    fn holds(&self, push: &Push) -> bool {
        let (body, last) = (push.body(), self.waiting.back().map(|waiting| waiting.push.body()));
        // A room's pushes come in the order of their numbers: nearly always this one is new, and nobody need be looked through.
        let is_next = last.is_some_and(|last| body.room_id.is_some() && last.room_id == body.room_id && last.seq < body.seq);
        !is_next && self.position(body.msg_id.as_deref().unwrap_or_default()).is_some()
    }

    fn position(&self, msg_id: &str) -> Option<usize> {
        // ACKs come in the order of sending: the front is nearly always the one.
        self.waiting.iter().position(|waiting| waiting.push.body().msg_id.as_deref() == Some(msg_id))
    }

    fn earliest(&self, config: &ServerConfig) -> Time {
        self.waiting.iter().map(|waiting| waiting.due(config)).min().unwrap_or(Time::NEVER)
    }
}

impl Waiting {
    fn due(&self, config: &ServerConfig) -> Time {
        if self.given_up {
            return Time::NEVER;
        }
        let resend_at = self.resend_at(config);
        if self.recorded { resend_at } else { resend_at.min(self.sent_at + config.late_ack_ms) }
    }

    /// When this copy has waited long enough. After the last resend the last gap is waited once more.
    fn resend_at(&self, config: &ServerConfig) -> Time {
        let gaps = &config.resend_after_ms;
        let nth = self.times_sent as usize - 1;
        // At least 1 ms, or a configuration of zeros would never let time pass between two copies.
        self.sent_at + gaps.get(nth).or(gaps.last()).copied().unwrap_or(ACK_WAIT_MS).max(1)
    }

    fn resends_left(&self, config: &ServerConfig) -> bool {
        (self.times_sent as usize) <= config.resend_after_ms.len()
    }

    fn record(&mut self, config: &ServerConfig, now: Time, out: &mut ServerActions) {
        self.recorded = true;
        let due_in_ms = self.resend_at(config).since(now);
        out.push(ServerAction::RecordAck { push: Arc::clone(&self.push), times_sent: self.times_sent, due_in_ms });
    }

    fn hand_over(self, missed: bool, out: &mut ServerActions) {
        out.push(ServerAction::HandOver { push: self.push, recorded: self.recorded, missed });
    }
}
