//! Gifts on their way: given until they are paid or refused, under one id.
//!
//! ```text
//!              +------- connection lost: the session sends it again ------+
//!              v                                                          |
//!   give --> sent ---- ACK ---> paid                                      |
//!              |  \--- ERROR, final ---> refused --- its GIFT_FAIL: swallowed
//!              |  \--- GIFT_FAIL, and no answer within 10 s ---> refused
//!              v
//!       5001, 4007: waits retryAfterMs and a little, is sent again, at most for 30 s
//! ```
//!
//! - Sent again is the same message, with the same id: the server pays it once, whatever became of the answers.
//! - The answer to the frame is the one that counts. GIFT_FAIL is for clients that know no other, and comes beside it.
//! - Pure but for chance: `now` comes in, and the session is the caller's.

use super::Failure;
use crate::event::Event;
use billfish_session::{
    Time,
    client::{CallError, ClientSession, Message},
};
use billfish_wire::Reason;
use std::collections::{BTreeMap, VecDeque};

/// Gifts on their way: as many as messages may be.
const GIFTS_MAX: usize = 16;
/// Since the server first asked to come again. A ledger that fails over is back by then; a giver who has waited longer is to decide
/// himself.
const AGAIN_FOR_MS: u64 = 30_000;
/// Where the server names no time.
const AGAIN_AFTER_MS: u64 = 500;
/// Beside the time that the server names: up to this long, doubled by every try, so that a room full of givers does not come as one.
const SPREAD_MIN_MS: u64 = 250;
const SPREAD_MAX_MS: u64 = 4_000;
/// After a GIFT_FAIL the answer to the frame is due: it was sent in the same breath. As long as a session waits for any answer.
const ALONE_AFTER_MS: u64 = 10_000;
/// Ids of gifts that were refused, of whom a second word may still come: it comes within seconds.
const REFUSED_MAX: usize = 128;

/// The gifts of one user.
#[derive(Debug)]
pub(crate) struct Giving {
    /// By id.
    gifts: BTreeMap<String, Underway>,
    /// Their refusal was told, or will be, by the answer to their frame.
    by_frame: Recent,
    /// Their refusal was told by GIFT_FAIL.
    by_push: Recent,
    random: fastrand::Rng,
}

#[derive(Debug)]
struct Underway {
    message: Message,
    tries: u32,
    /// When the server first asked to come again.
    put_off_at: Option<Time>,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// With the session.
    Sent {
        failed: Option<(Time, Failure)>,
    },
    Waiting {
        until: Time,
    },
}

/// What is to be done with a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The app is told.
    Told,
    /// The app is not told: it knows, or the gift is given again.
    Kept,
}

impl Giving {
    pub(crate) fn new(jitter_seed: Option<u64>) -> Self {
        let random = jitter_seed.map_or_else(fastrand::Rng::new, fastrand::Rng::with_seed);
        Self { gifts: BTreeMap::new(), by_frame: Recent::default(), by_push: Recent::default(), random }
    }

    /// Gives.
    pub(crate) fn give(&mut self, session: &mut ClientSession, message: Message) -> Result<(), CallError> {
        let uuid = message.msg_id.clone().unwrap_or_default();
        if self.gifts.contains_key(&uuid) {
            return Err(CallError::IdInUse);
        }
        if self.gifts.len() >= GIFTS_MAX {
            return Err(CallError::TooManyCalls);
        }
        session.biz(message.clone())?;
        self.by_frame.remove(&uuid);
        self.by_push.remove(&uuid);
        self.gifts.insert(uuid, Underway { message, tries: 0, put_off_at: None, stage: Stage::Sent { failed: None } });
        Ok(())
    }

    /// A gift that the app has written itself, and looks after: it hears the answer to its frame.
    pub(crate) fn on_own(&mut self, uuid: String) {
        self.by_frame.add(uuid);
    }

    /// The server has accepted a message.
    pub(crate) fn on_accepted(&mut self, msg_id: &str) {
        self.gifts.remove(msg_id);
    }

    /// The server has refused a message.
    pub(crate) fn on_refused(&mut self, now: Time, msg_id: &str, reason: Reason, retry_after_ms: Option<u64>) -> Refused {
        let Some(gift) = self.gifts.get_mut(msg_id) else {
            return if self.by_push.remove(msg_id) { Refused::Kept } else { Refused::Told };
        };
        if matches!(reason, Reason::Unavailable | Reason::RateLimited) {
            let put_off_at = *gift.put_off_at.get_or_insert(now);
            let spread_ms = (SPREAD_MIN_MS << gift.tries.min(10)).min(SPREAD_MAX_MS);
            let until = now + retry_after_ms.unwrap_or(AGAIN_AFTER_MS).saturating_add(self.random.u64(0..=spread_ms));
            if until <= put_off_at + AGAIN_FOR_MS {
                gift.tries += 1;
                gift.stage = Stage::Waiting { until };
                return Refused::Kept;
            }
        }
        self.gifts.remove(msg_id);
        self.by_frame.add(msg_id.to_owned());
        Refused::Told
    }

    /// A GIFT_FAIL has come; gives what the app hears of it now.
    pub(crate) fn on_failure(&mut self, now: Time, failure: Failure) -> Option<Event> {
        let Some(uuid) = &failure.uuid else { return Some(refused(failure)) };
        match self.gifts.get_mut(uuid).map(|gift| &mut gift.stage) {
            Some(Stage::Sent { failed }) => {
                failed.get_or_insert((now + ALONE_AFTER_MS, failure));
                None
            }
            // Of a try before: this one is answered by itself.
            Some(Stage::Waiting { .. }) => None,
            None => (!self.by_frame.contains(uuid)).then(|| refused(failure)),
        }
    }

    /// A connection is over, or has taken another's place: what was not answered there is sent again, and answered here.
    pub(crate) fn on_connection_over(&mut self) {
        for gift in self.gifts.values_mut() {
            if let Stage::Sent { failed } = &mut gift.stage {
                *failed = None;
            }
        }
    }

    /// Time has passed: what waited long enough is sent again. Gives what the app hears now.
    pub(crate) fn on_tick(&mut self, now: Time, session: &mut ClientSession) -> Vec<Event> {
        let mut alone = Vec::new();
        for (uuid, gift) in &mut self.gifts {
            match &gift.stage {
                Stage::Waiting { until } if now >= *until => {
                    // Where other messages have taken all places there is one a moment later.
                    gift.stage = match session.biz(gift.message.clone()) {
                        Ok(()) => Stage::Sent { failed: None },
                        Err(_) => Stage::Waiting { until: now + AGAIN_AFTER_MS },
                    };
                }
                Stage::Sent { failed: Some((until, _)) } if now >= *until => alone.push(uuid.clone()),
                Stage::Waiting { .. } | Stage::Sent { .. } => {}
            }
        }
        alone.into_iter().filter_map(|uuid| self.end_alone(uuid, session)).collect()
    }

    /// Refused by a GIFT_FAIL that nothing came beside: it must not be sent again by itself.
    fn end_alone(&mut self, uuid: String, session: &mut ClientSession) -> Option<Event> {
        session.withdraw(&uuid);
        let Stage::Sent { failed: Some((_, failure)) } = self.gifts.remove(&uuid)?.stage else { return None };
        self.by_push.add(uuid);
        Some(refused(failure))
    }

    /// When [`Self::on_tick`] has something to do.
    pub(crate) fn next_deadline(&self) -> Time {
        let deadline = |gift: &Underway| match &gift.stage {
            Stage::Waiting { until } => Some(*until),
            Stage::Sent { failed } => failed.as_ref().map(|(until, _)| *until),
        };
        self.gifts.values().filter_map(deadline).min().unwrap_or(Time::NEVER)
    }
}

fn refused(Failure { uuid, reason, msg }: Failure) -> Event {
    Event::Refused { msg_id: uuid, room_id: None, reason, msg, retry_after: None }
}

/// The ids seen last.
#[derive(Debug, Default)]
struct Recent(VecDeque<String>);

impl Recent {
    fn add(&mut self, uuid: String) {
        if self.0.len() >= REFUSED_MAX {
            self.0.pop_front();
        }
        self.0.push_back(uuid);
    }

    fn contains(&self, uuid: &str) -> bool {
        self.0.iter().any(|seen| seen == uuid)
    }

    /// Whether it was among them.
    fn remove(&mut self, uuid: &str) -> bool {
        let at = self.0.iter().position(|seen| seen == uuid);
        at.and_then(|at| self.0.remove(at)).is_some()
    }
}

#[cfg(test)]
mod tests;
