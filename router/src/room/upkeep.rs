//! What a room does by its timers: keeps its lease, says its audience, finds members whose gateway has died, goes to sleep.

use super::{End, Out, Room};
use crate::{membership::Hole, ownership::Renewal, services::room::Notice};
use billfish_link::message::{Audience, Kick, envelope::Kind};
use billfish_state::{DeviceKind, Member, UserId};
use billfish_wire::{Class, Reason};

/// Members looked at in one step of a sweep.
const SWEEP_USERS: usize = 500;
/// Between two steps of a sweep.
const SWEEP_STEP_MS: u64 = 100;
/// Between two announcements of the audience.
const AUDIENCE_MS: u64 = 1_000;
/// After a renewal whose answer did not come.
const RENEW_AGAIN_MS: u64 = 500;
/// A life that has said this much ends, and the next begins with a larger epoch: far from the end of the counter, which at 1,000 a
/// second is reached after 49 days.
const COUNTER_TOP: u32 = u32::MAX / 2;

/// Since when signs of life have reached the store without a break, as far as is known here. Who shows none from a time in which it was
/// away, or that it has forgotten, may live.
#[derive(Clone, Copy, Debug)]
pub(super) struct Signs {
    pub(super) generation: u64,
    pub(super) since_ms: u64,
}

impl Signs {
    /// Whether the store may have forgotten some since it was last asked.
    pub(super) const fn look(&mut self, generation: u64, now_ms: u64) -> bool {
        let may_have_forgotten = generation != self.generation;
        if may_have_forgotten {
            *self = Self { generation, since_ms: now_ms };
        }
        may_have_forgotten
    }

    /// When to ask again, where too little is known yet.
    fn lacking_until(self, now_ms: u64, silence_ms: u64) -> Option<u64> {
        let known_ms = self.since_ms.saturating_add(silence_ms);
        (now_ms < known_ms).then_some(known_ms)
    }
}

impl Room {
    pub(super) async fn on_tick(&mut self, now_ms: u64) {
        if now_ms >= self.timers.renew_ms {
            self.heal().await;
            self.look_for_loss(now_ms).await;
            self.renew(now_ms).await;
            if self.end.is_some() {
                // The members are another owner's by now.
                return;
            }
            let gone = self.membership.on_tick(now_ms, self.core.silence_ms());
            self.lose_sight_of(gone, now_ms).await;
            self.rules.on_tick(now_ms);
            if let Ok(words) = self.core.house_words() {
                self.rules.set_house_words(words);
            }
        }
        if self.timers.write_ms.is_some_and(|due_ms| now_ms >= due_ms) {
            self.write_members(now_ms).await;
        }
        if now_ms >= self.timers.sweep_ms {
            self.sweep(now_ms).await;
        }
        if self.timers.audience_ms.is_some_and(|due_ms| now_ms >= due_ms) {
            self.announce(now_ms);
        }
        let is_idle = self.timers.idle_ms.is_some_and(|due_ms| now_ms >= due_ms);
        if (is_idle || self.counter > COUNTER_TOP) && self.end.is_none() {
            self.end = Some(End::Idle);
        }
    }

    /// A gateway that had stalled takes messages again: whoever missed what may not be dropped is sent away with 4012, comes back and
    /// resumes from the room's log. A hole is never left for the viewer to guess: `seq` is not dense.
    pub(super) async fn heal(&mut self) {
        for Hole { gateway, after_seq, sessions } in self.membership.take_holes() {
            self.core.metrics.holed_sessions.inc_by(sessions.len() as u64);
            for (user, device, session) in sessions {
                let kick = Kick {
                    app_id: self.record.app.0,
                    user_id: user.0,
                    device: device as u32,
                    code: Reason::TooSlow.number().unwrap_or_default(),
                    msg: Reason::TooSlow.message().to_owned(),
                    session,
                };
                if !gateway.send(Kind::Kick(kick), Class::Control).await {
                    self.membership.mark_hole(&gateway, after_seq);
                    break;
                }
            }
        }
    }

    async fn renew(&mut self, now_ms: u64) {
        match self.core.ownership.renew(&mut self.claim, self.record.room, now_ms).await {
            Renewal::Kept => {
                self.timers.renew_ms = self.core.ownership.renew_next_ms(self.record.room, now_ms);
                self.replay_late().await;
            }
            Renewal::Unknown => {
                self.timers.renew_ms = now_ms + RENEW_AGAIN_MS;
                self.signs.since_ms = now_ms;
            }
            Renewal::Lost => {
                self.timers.renew_ms = u64::MAX;
                self.lose().await;
            }
        }
    }

    /// One step through the members that the store knows and nobody here vouches for: whoever shows no sign of life goes.
    async fn sweep(&mut self, now_ms: u64) {
        let silence_ms = self.core.silence_ms();
        self.look_for_loss(now_ms).await;
        if self.sweep_cursor == 0 {
            self.look_for_gap(now_ms).await;
        }
        if let Some(again_ms) = self.signs.lacking_until(now_ms, silence_ms) {
            self.timers.sweep_ms = again_ms;
            return;
        }
        let (app, room) = (self.record.app, self.record.room);
        let step = async {
            let page = self.core.state.members.page(app, room, self.sweep_cursor, SWEEP_USERS).await?;
            let strangers: Vec<UserId> = page.users.into_iter().filter(|user| !self.membership.vouches_for(*user)).collect();
            if strangers.is_empty() {
                return Ok((page.cursor, Vec::new()));
            }
            let online = self.core.state.presence.online(app, &strangers, now_ms.saturating_sub(silence_ms)).await?;
            let gone = strangers.into_iter().zip(online).filter(|(_, online)| !online).map(|(user, _)| user).collect();
            Ok::<_, billfish_state::StateError>((page.cursor, gone))
        };
        let (cursor, gone) = match step.await {
            Ok(step) => step,
            Err(error) => {
                self.core.metrics.store_failed("sweep", &error);
                self.signs.since_ms = now_ms;
                (0, Vec::new())
            }
        };
        self.core.metrics.stale_members.inc_by(gone.len() as u64);
        gone.iter().for_each(|user| self.membership.remove_user(*user));
        let members: Vec<Member> = gone.into_iter().flat_map(|user| DeviceKind::ALL.map(|device| Member { user, device })).collect();
        self.take_out(&members).await;
        self.sweep_cursor = cursor;
        let has_strangers = self.audience > self.membership.seats() as u64;
        self.timers.sweep_ms = match cursor {
            0 if has_strangers => now_ms + silence_ms / 6,
            0 => now_ms + silence_ms,
            _ => now_ms + SWEEP_STEP_MS,
        };
    }

    /// Says how many are here, in the room and for the heartbeats.
    fn announce(&mut self, now_ms: u64) {
        self.timers.audience_ms = None;
        self.announced = Some(self.audience);
        self.announced_ms = now_ms;
        self.put(Notice::Audience { members: self.audience }.push(), None, None, now_ms);
        let members = self.audience.cast_signed();
        let message = Kind::Audience(Audience { room_id: self.record.room.0, members });
        self.outbox.push(Out::Tell { message, class: Class::Ambient });
    }

    /// Sets the deadlines that follow from who is here.
    pub(super) fn watch_idle(&mut self, now_ms: u64) {
        if self.announced != Some(self.audience) && self.timers.audience_ms.is_none() {
            self.timers.audience_ms = Some(now_ms.max(self.announced_ms + AUDIENCE_MS));
        }
        if !self.membership.is_idle() || !self.gifts.is_idle() {
            self.timers.idle_ms = None;
        } else if self.timers.idle_ms.is_none() {
            self.timers.idle_ms = Some(now_ms + crate::clock::millis(self.core.config.room.idle_after));
        }
    }
}
