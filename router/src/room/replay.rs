//! Gateways that begin to listen: what they missed of the room's log comes first, then they hear what is said.
//!
//! - A gateway says the largest `seq` it has seen. What the log has after it was decided, and perhaps pushed by nobody: its owner died, or
//!   lost the room, or the link broke. It is pushed with its own numbers under this owner's epoch, and the states that are newer too.
//! - A gateway that listens on this link already has missed nothing: all that was said since stands on the link, though what it has said it
//!   has seen may be older.
//! - Interest has no answer, so a gateway with viewers is told the audience: it need not say it again.
//! - Where the log is away, or the gateway takes nothing from its link, it hears nothing of the room until it can be told: what is newer
//!   would let it pass what it missed, and no later owner would tell it either. What is said meanwhile comes with the rest.
//! - Where something between has been trimmed away, the gateway's sessions are sent to resume (4012) before they see anything newer: they
//!   are told what is lost, a viewer who only listens would never know.

use super::{Room, parting::Fate};
use crate::{delivery::stored_push, link::Gateway, metrics::Audience};
use billfish_link::message::{self, Kick, RoomPush, envelope::Kind};
use billfish_state::{LogEntry, StateError, UserId};
use billfish_wire::{Class, Reason};
use std::{collections::HashSet, sync::Arc};

/// Members looked at in one step, for sessions that are to resume.
const RESUME_USERS: usize = 500;
/// Steps of one search: a room of 20,000 that another router owned when they joined. Who is beyond finds the gap at his next resume.
const RESUME_STEPS: usize = 40;

/// What became of a replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    All,
    /// The gateway takes nothing more from its link, and has been told up to this `seq`.
    UpTo(i64),
    /// The store did not answer, and the gateway knows what it knew.
    Nothing(i64),
}

/// After a replay whose store did not answer, which costs the room a time-out.
const REPLAY_AGAIN_MS: u64 = 1_000;

impl Room {
    /// A gateway wants the room's pushes from after this `seq` on; 0: from now on.
    pub(super) async fn on_interest(&mut self, gateway: &Arc<Gateway>, after_seq: i64) -> Told {
        // What was decided before goes to those who were interested before.
        self.flush().await;
        if after_seq > 0 {
            // It may have members of an earlier owner's. Who has seen nothing has none.
            self.call_roll(gateway).await;
        }
        let told = match self.told_before(gateway, after_seq) {
            Some(after_seq) => self.replay(gateway, after_seq).await,
            None => Told::All,
        };
        self.unreplayed.retain(|(other, _)| other.node != gateway.node);
        let gone = self.membership.interest(gateway, told == Told::All);
        self.part(&gone, Fate::Over).await;
        match told {
            Told::All => {}
            Told::UpTo(after_seq) => self.unreplayed.push((Arc::clone(gateway), after_seq)),
            Told::Nothing(after_seq) => {
                self.unreplayed.push((Arc::clone(gateway), after_seq));
                let again_ms = self.core.state.clock.now_ms() + REPLAY_AGAIN_MS;
                self.timers.renew_ms = self.timers.renew_ms.min(again_ms);
            }
        }
        if told == Told::All && after_seq > 0 {
            // It has viewers, and says so until it hears of the room: interest has no answer.
            let members = self.audience.cast_signed();
            gateway.send(Kind::Audience(message::Audience { room_id: self.record.room.0, members }), Class::Ambient).await;
        }
        told
    }

    /// The store answers: it has this life's fence, and gateways that could not be told what they missed are told now.
    pub(super) async fn replay_late(&mut self) {
        self.fence_again().await;
        let mut waiting = std::mem::take(&mut self.unreplayed).into_iter();
        while self.end.is_none()
            && let Some((gateway, after_seq)) = waiting.next()
        {
            if gateway.is_down() {
                continue;
            }
            if !gateway.takes_again() {
                self.unreplayed.push((gateway, after_seq));
                continue;
            }
            if let Told::Nothing(_) = self.on_interest(&gateway, after_seq).await {
                // The others would wait for the same time-out.
                self.unreplayed.extend(waiting);
                return;
            }
        }
    }

    /// From where on a gateway is to be told what it missed; `None`: it has missed nothing.
    fn told_before(&self, gateway: &Arc<Gateway>, after_seq: i64) -> Option<i64> {
        if after_seq == 0 || self.membership.is_interested(gateway) {
            return None;
        }
        // What stands on this link already it need not have seen yet.
        let part = self.unreplayed.iter().find(|(other, _)| Arc::ptr_eq(other, gateway));
        Some(part.map_or(after_seq, |(_, told_seq)| after_seq.max(*told_seq)))
    }

    async fn replay(&mut self, gateway: &Arc<Gateway>, after_seq: i64) -> Told {
        match self.try_replay(gateway, after_seq).await {
            Ok(told) => told,
            Err(error) => {
                self.core.metrics.store_failed("replay", &error);
                Told::Nothing(after_seq)
            }
        }
    }

    async fn try_replay(&mut self, gateway: &Arc<Gateway>, after_seq: i64) -> Result<Told, StateError> {
        let now_ms = self.core.state.clock.now_ms();
        let page = self.core.state.room_log.read(self.record.room, after_seq, billfish_state::port::ROOM_LOG_ENTRIES_MAX, now_ms).await?;
        if page.gap || page.more {
            // Its sessions are sent away before they see anything newer.
            if !gateway.takes_again() || !self.send_to_resume(gateway, after_seq).await? {
                return Ok(Told::UpTo(after_seq));
            }
        } else {
            // All that an earlier link of it did not take is in here.
            self.membership.fill_hole(gateway);
        }
        // What is in doubt is said under another number, once it is known to be in the log: it is, and this would say it twice.
        let known = page.entries.iter().filter(|entry| !self.outbox.is_in_doubt(entry.seq));
        let mut pushes: Vec<RoomPush> = known.filter_map(|entry| self.as_push(entry)).collect();
        let states = self.states.values().filter_map(|body| {
            let entry = LogEntry { seq: 0, body: body.clone().into_bytes().into(), except: None };
            self.as_push(&entry).filter(|push| push.push.as_ref().is_some_and(|push| push.seq > after_seq))
        });
        pushes.extend(states);
        // Others have heard it already, and the log is yet to.
        pushes.extend(self.outbox.behind().filter(|entry| entry.seq > after_seq).filter_map(|entry| self.as_push(entry)));
        // In one order: viewers show rising numbers only.
        let seq_of = |push: &mut RoomPush| push.push.as_ref().map(|push| push.seq);
        pushes.sort_by_key(|push| push.push.as_ref().map(|push| push.seq));
        pushes.dedup_by_key(seq_of);
        // What the log has a second time, under a new number, is for those who have passed the first.
        let mut ids = HashSet::new();
        let is_first = |push: &RoomPush| push.push.as_ref().is_none_or(|push| push.msg_id.is_empty() || ids.insert(push.msg_id.clone()));
        pushes.retain(is_first);
        let mut sent_seq = after_seq;
        for push in pushes {
            let (class, seq) = push.push.as_ref().map_or((Class::Control, 0), |push| (Class::from_number(push.class), push.seq));
            if gateway.send(Kind::RoomPush(push), class).await {
                self.core.metrics.pushed(Audience::Room, class);
            } else if !class.may_drop() {
                return Ok(Told::UpTo(sent_seq));
            }
            sent_seq = seq;
        }
        Ok(Told::All)
    }

    /// An entry of the log as it is pushed.
    fn as_push(&self, entry: &LogEntry) -> Option<RoomPush> {
        let push = stored_push(&entry.body)?;
        let except_user_id = entry.except.map_or(0, |user| user.0);
        Some(RoomPush { push: Some(push), epoch: self.claim.epoch, except_user_id, keep_permille: crate::services::KEEP_ALL })
    }

    /// The members behind a gateway have a hole in what they saw. Those who joined here are known; those who joined an earlier owner are
    /// looked up.
    /// `false`: the gateway has not taken all of it.
    async fn send_to_resume(&mut self, gateway: &Arc<Gateway>, after_seq: i64) -> Result<bool, StateError> {
        self.membership.mark_hole(gateway, after_seq);
        self.heal().await;
        if self.membership.has_hole(gateway) {
            return Ok(false);
        }
        let (app, state) = (self.record.app, &self.core.state);
        let mut cursor = 0;
        for _ in 0..RESUME_STEPS {
            let page = state.members.page(app, self.record.room, cursor, RESUME_USERS).await?;
            let users: Vec<UserId> = page.users.into_iter().collect();
            let routes = state.routes.lookup(app, &users, state.clock.now_ms()).await?;
            let is_behind = |node: &str, epoch| *gateway.node == *node && gateway.incarnation == epoch;
            for route in routes.into_iter().flatten().filter(|route| is_behind(&route.node, route.epoch)) {
                if self.membership.is_seated(gateway, route.user, route.device) {
                    continue;
                }
                let kick = Kick {
                    app_id: app.0,
                    user_id: route.user.0,
                    device: route.device as u32,
                    code: Reason::TooSlow.number().unwrap_or_default(),
                    msg: Reason::TooSlow.message().to_owned(),
                    session: route.session,
                };
                if !gateway.send(Kind::Kick(kick), Class::Control).await {
                    return Ok(false);
                }
                self.core.metrics.holed_sessions.inc();
            }
            cursor = page.cursor;
            if cursor == 0 {
                break;
            }
        }
        Ok(true)
    }
}
