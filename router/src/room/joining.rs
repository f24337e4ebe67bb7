//! Who joins. JOINs that wait one behind the other are decided together: each question is put to the store for all of them at once.
//!
//! - Decided with nothing queued, so the answers stand before every push that follows them.
//! - In the order in which they came, as far as one can tell: who was refused is told before those who were let in.
//! - Where the store does not let the members in, none of them is in.

use super::{Room, door, outbox, snapshot};
use crate::{Refusal, link::Gateway, ownership::Hold, services::Asker};
use billfish_link::message::{Joined, reply};
use billfish_state::{DeviceKind, Member, UserId};
use billfish_wire::Reason;
use bytes::Bytes;
use futures_util::future::join_all;
use std::{collections::BTreeSet, sync::Arc};

/// Told to who finds a room full.
const FULL_RETRY_MS: u64 = 10_000;

/// A JOIN that waits for its answer.
pub(super) struct Joining {
    pub(super) gateway: Arc<Gateway>,
    pub(super) id: u64,
    pub(super) asker: Asker,
    pub(super) resume_seq: Option<i64>,
}

/// What the store says before one is let in.
struct Looked {
    may_try: Result<(), Refusal>,
    /// The oldest push of this room that the user's gateway had no ACK of when it died.
    unacknowledged: Option<i64>,
}

impl Joining {
    /// `None` for any other call.
    pub(super) fn of(call: super::RoomCall) -> Option<Self> {
        if let super::RoomCall::Join { gateway, id, asker, resume_seq } = call {
            return Some(Self { gateway, id, asker, resume_seq });
        }
        None
    }
}

impl Room {
    /// JOINs that came one behind the other.
    pub(super) async fn on_joins(&mut self, mut joins: Vec<Joining>) {
        self.flush().await;
        // One whose link is down will not hear the answer: it asks anew over its next link, or says there that nobody wants it any more, and
        // has perhaps said so already.
        joins.retain(|join| !join.gateway.is_down());
        let now_ms = self.core.state.clock.now_ms();
        let looked = join_all(joins.iter().map(|join| self.look(join, now_ms))).await;
        let mut admitted = Vec::with_capacity(joins.len());
        let mut newly_seated = BTreeSet::new();
        for (join, looked) in joins.into_iter().zip(looked) {
            match self.admit(&join, looked.may_try, &newly_seated, now_ms).await {
                Ok(()) => {
                    if !self.membership.has_seat(join.asker.user, join.asker.device) {
                        newly_seated.insert((join.asker.user, join.asker.device));
                    }
                    admitted.push((join, looked.unacknowledged));
                }
                Err(refusal) => self.refuse_join(&join, &refusal).await,
            }
        }
        if admitted.is_empty() {
            return;
        }
        let held = match self.hold().await {
            Hold::Owned => Ok(()),
            Hold::Degraded => Err(Refusal::unavailable()),
            Hold::Lost => {
                self.lose().await;
                Err(self.core.ownership.elsewhere(self.record.room))
            }
        };
        let seated = match held {
            Ok(()) => self.seat(admitted, now_ms).await,
            Err(refusal) => Err((admitted.into_iter().map(|(join, _)| join).collect(), refusal)),
        };
        match seated {
            Ok(answers) => {
                for (join, joined) in answers {
                    self.core.metrics.joined("accepted");
                    join.gateway.reply(join.id, reply::Result::Joined(joined)).await;
                }
            }
            Err((joins, refusal)) => {
                for join in &joins {
                    self.refuse_join(join, &refusal).await;
                }
            }
        }
    }

    async fn refuse_join(&self, join: &Joining, refusal: &Refusal) {
        self.core.metrics.joined(refusal.reason.label());
        join.gateway.refuse(join.id, refusal).await;
    }

    async fn look(&self, join: &Joining, now_ms: u64) -> Looked {
        let guard = door::join_guard(&self.core);
        let (may_try, unacknowledged) = tokio::join!(guard.check(join.asker, now_ms), self.unacknowledged(join));
        Looked { may_try, unacknowledged }
    }

    /// Whether one may come in. `newly_seated`: those of the same batch who will have a seat by then.
    async fn admit(
        &self,
        join: &Joining,
        may_try: Result<(), Refusal>,
        newly_seated: &BTreeSet<(UserId, DeviceKind)>,
        now_ms: u64,
    ) -> Result<(), Refusal> {
        may_try?;
        let (guard, asker) = (door::join_guard(&self.core), join.asker);
        if asker.app != self.record.app {
            return Err(guard.failed(asker, Refusal::new(Reason::RoomNotFound), now_ms).await);
        }
        if let Err(refusal) = self.rules.may_enter(asker.user, now_ms) {
            return Err(guard.failed(asker, refusal, now_ms).await);
        }
        let is_in =
            self.membership.contains(asker.user) || DeviceKind::ALL.iter().any(|device| newly_seated.contains(&(asker.user, *device)));
        if self.membership.seats() + newly_seated.len() >= self.core.config.room.members_max && !is_in {
            return Err(Refusal::because(Reason::RateLimited, "the room is full; wait retryAfterMs").retry_after(FULL_RETRY_MS));
        }
        Ok(())
    }

    /// Lets in. Where that fails, those who were to be let in are given back.
    async fn seat(&mut self, joins: Vec<(Joining, Option<i64>)>, now_ms: u64) -> Result<Vec<(Joining, Joined)>, (Vec<Joining>, Refusal)> {
        let resumed = join_all(joins.iter().map(|(join, _)| self.resumed(join, now_ms))).await;
        let (mut answers, mut kept) = (Vec::with_capacity(joins.len()), Vec::with_capacity(joins.len()));
        for ((join, unacknowledged), resumed) in joins.into_iter().zip(resumed) {
            match resumed {
                Ok(resumed) => kept.push((join, unacknowledged, resumed)),
                Err(refusal) => self.refuse_join(&join, &refusal).await,
            }
        }
        if kept.is_empty() {
            return Ok(answers);
        }
        let members: Vec<Member> =
            kept.iter().map(|(Joining { asker, .. }, ..)| Member { user: asker.user, device: asker.device }).collect();
        match self.core.state.members.join(self.record.app, self.record.room, &members, now_ms).await {
            Ok(audience) => self.audience = audience,
            Err(error) => return Err((kept.into_iter().map(|(join, ..)| join).collect(), error.into())),
        }
        for (Joining { gateway, asker, .. }, ..) in &kept {
            self.membership.take_seat(gateway, asker.user, asker.device, asker.session);
        }
        for (join, unacknowledged, resumed) in kept {
            let resumes = resumed.is_some();
            let (messages, gap) = match resumed {
                Some(resumed) => resumed,
                None => (self.newcomers(unacknowledged, now_ms).await, false),
            };
            let data = snapshot::snapshot(self.audience, &self.states, &messages, gap, resumes);
            let joined = Joined { room_id: self.record.room.0, seq: self.seq(), data, audience: self.audience.cast_signed() };
            answers.push((join, joined));
        }
        Ok(answers)
    }

    async fn resumed(&self, join: &Joining, now_ms: u64) -> Result<Option<(Vec<Bytes>, bool)>, Refusal> {
        match join.resume_seq {
            Some(after_seq) => self.missed(after_seq, now_ms).await.map(Some),
            None => Ok(None),
        }
    }

    /// The oldest push of this room that the user's gateway had no ACK of when it died. One who resumes says himself what he knows.
    async fn unacknowledged(&self, join: &Joining) -> Option<i64> {
        if join.resume_seq.is_some() {
            return None;
        }
        match self.core.state.acks.pending(join.asker.app, join.asker.user).await {
            Ok(pending) => {
                let here = pending.iter().filter(|pending| pending.room == Some(self.record.room));
                here.filter_map(|pending| outbox::seq_of(self.record.room, &pending.msg_id)).min()
            }
            Err(error) => {
                self.core.metrics.store_failed("acks", &error);
                None
            }
        }
    }

    /// The messages in the snapshot of one who does not resume: the last few, and before them what he has not acknowledged.
    async fn newcomers(&self, unacknowledged: Option<i64>, now_ms: u64) -> Vec<Bytes> {
        let recent = || self.recent.iter().cloned().collect();
        let Some(oldest_seq) = unacknowledged else { return recent() };
        match self.missed(oldest_seq - 1, now_ms).await {
            // Who has missed less than a newcomer is shown is no worse off than one.
            Ok((missed, _)) if missed.len() > self.recent.len() => missed,
            Ok(_) => recent(),
            Err(refusal) => {
                tracing::debug!(room = %self.record.room, reason = refusal.reason.label(), "what was not acknowledged was not looked for");
                recent()
            }
        }
    }
}
