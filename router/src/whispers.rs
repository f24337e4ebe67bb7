//! Messages from users to users: those that wait in a lane together are decided together, in a turn.
//!
//! - A turn asks the stores three times, however many are in it: whether the senders may and where the receivers are; then it puts the messages
//!   into the inboxes, and looks where the receivers are by then. What a call costs is shared by those who wait, and nobody waits for others to come.
//! - The inbox tells a repeat, in one step with taking it. The guards come before, and charge a repeat like any message; but what they would
//!   refuse is looked for first: whoever sends a message again, because its answer was lost with a link or a router, hears what the first
//!   time decided. A claim is in one inbox: an id is good for one receiver.
//! - Messages to one user keep their order. One that is in a turn already is not repeated in it ([`is_repeat`]).
//! - The guards fail open, like every guard of chat: a store that is away tells itself to the append that follows.

use crate::{
    Refusal,
    core::Core,
    delivery::{self, Once},
    link::Gateway,
    services::{
        Asker,
        chat::{self, CHAT_RATE},
        ports::Profile,
        room::Rules,
    },
};
use billfish_link::message::{Accepted, reply};
use billfish_state::{AppId, MessageClaim, Route, UserId, WindowHit, WindowVerdict};
use billfish_wire::Reason;
use futures_util::future::join_all;
use std::{sync::Arc, time::Instant};

/// A message to one user, and who waits for its answer.
pub(crate) struct Whisper {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) id: u64,
    pub(crate) asker: Asker,
    pub(crate) receiver: UserId,
    pub(crate) content: String,
    pub(crate) msg_id: String,
    pub(crate) received: Instant,
}

/// Whether both are the same message, sent twice.
pub(crate) fn is_repeat(one: &Whisper, other: &Whisper) -> bool {
    let key = |whisper: &Whisper| (whisper.receiver, whisper.asker.user, whisper.asker.app);
    key(one) == key(other) && one.msg_id == other.msg_id && !one.msg_id.is_empty()
}

/// A message of this turn, what is known of its receiver, and what has become of it.
struct Decided {
    whisper: Whisper,
    routes: Option<Vec<Route>>,
    verdict: Result<(), Refusal>,
}

impl Decided {
    fn claim(&self, until_ms: u64) -> Option<MessageClaim> {
        let Whisper { asker: Asker { app, user, .. }, msg_id, .. } = &self.whisper;
        (!msg_id.is_empty()).then(|| MessageClaim { app: *app, user: *user, msg_id: msg_id.clone(), until_ms })
    }
}

/// Decides the messages of a turn, delivers those that may be said, and answers them all.
pub(crate) async fn run(core: &Core, whispers: Vec<Whisper>) {
    if whispers.is_empty() {
        return;
    }
    let now_ms = core.state.clock.now_ms();
    let mut turn: Vec<Decided> =
        whispers.into_iter().map(|whisper| Decided { verdict: may_be_said(core, &whisper), routes: None, whisper }).collect();
    guard(core, &mut turn, now_ms).await;
    deliver(core, &mut turn, now_ms).await;
    for Decided { whisper: Whisper { gateway, id, received, .. }, verdict, .. } in turn {
        match verdict {
            Ok(()) => {
                core.metrics.decided("chat", "accepted");
                gateway.reply(id, reply::Result::Accepted(Accepted { ts: now_ms.cast_signed(), seq: 0 })).await;
                core.metrics.delivered_in(received.elapsed());
            }
            Err(refusal) => {
                core.metrics.decided("chat", refusal.reason.label());
                gateway.refuse(id, &refusal).await;
            }
        }
    }
}

/// What can be said without a store.
fn may_be_said(core: &Core, Whisper { asker, receiver, content, .. }: &Whisper) -> Result<(), Refusal> {
    chat::may_whisper(&Rules::of_the_house(core.house_words()?), *asker, *receiver, content)
}

/// Charges the senders, finds the receivers, and refuses what is too much.
async fn guard(core: &Core, turn: &mut [Decided], now_ms: u64) {
    let asked: Vec<usize> = (0..turn.len()).filter(|place| turn[*place].verdict.is_ok()).collect();
    let limits = core.chat_ports().limits;
    let rates = asked.iter().map(|place| chat::use_of_rate(limits, turn[*place].whisper.asker)).collect();
    let receivers: Vec<(AppId, UserId)> =
        asked.iter().map(|place| (turn[*place].whisper.asker.app, turn[*place].whisper.receiver)).collect();
    let (rates, routes) = tokio::join!(charge(core, CHAT_RATE, rates, now_ms), delivery::routes_of(core, &receivers, now_ms));
    let (mut too_much, mut to_absent) = (Vec::new(), Vec::new());
    for ((place, refusal), routes) in asked.into_iter().zip(rates).zip(routes) {
        let is_there = |routes: &Vec<Route>| routes.iter().any(|route| core.links.of(route).is_some());
        match refusal {
            Some(wait_ms) => too_much.push((place, Refusal::new(Reason::RateLimited).retry_after(wait_ms))),
            None if routes.as_ref().is_some_and(|routes| !is_there(routes)) => to_absent.push(place),
            None => {}
        }
        turn[place].routes = routes;
    }
    too_much.extend(too_much_for_absent(core, turn, to_absent, now_ms).await);
    let looked_for = too_much.iter().map(async |(place, _)| {
        let claim = turn[*place].claim(now_ms)?;
        let Whisper { asker, receiver, .. } = &turn[*place].whisper;
        core.state.inbox.taken(asker.app, *receiver, &claim, now_ms).await.ok()?
    });
    let taken = join_all(looked_for).await;
    for ((place, refusal), taken) in too_much.into_iter().zip(taken) {
        if taken.is_none() {
            turn[place].verdict = Err(refusal);
        }
    }
}

/// A message to someone who is not connected stays in an inbox for days, and inboxes together have a bound: one sender may leave so many
/// in a while, so that nobody fills what everybody needs.
async fn too_much_for_absent(core: &Core, turn: &[Decided], to_absent: Vec<usize>, now_ms: u64) -> Vec<(usize, Refusal)> {
    if to_absent.is_empty() {
        return Vec::new();
    }
    let chat = &core.config.chat;
    let hit = |place: &usize| {
        let Asker { app, user, .. } = turn[*place].whisper.asker;
        let window_ms = crate::clock::millis(chat.offline_window);
        WindowHit { key: format!("offline:{app}:{user}"), limit: chat.offline_messages_max, window_ms }
    };
    let refused = charge(core, "offline_rate", to_absent.iter().map(hit).collect(), now_ms).await;
    let detail = "too many messages to users who are not connected; wait retryAfterMs";
    let refusal = |wait_ms| Refusal::because(Reason::RateLimited, detail).retry_after(wait_ms);
    to_absent.into_iter().zip(refused).filter_map(|(place, wait_ms)| Some((place, refusal(wait_ms?)))).collect()
}

/// Counts uses, and says of each how long there is no room for it, if there is none.
async fn charge(core: &Core, what: &'static str, hits: Vec<WindowHit>, now_ms: u64) -> Vec<Option<u64>> {
    if hits.is_empty() {
        return Vec::new();
    }
    match core.state.rate_windows.hit_at_once(&hits, now_ms).await {
        Ok(verdicts) => {
            let wait_ms = |verdict| match verdict {
                WindowVerdict::Refused { retry_after_ms } => Some(retry_after_ms),
                WindowVerdict::Allowed => None,
            };
            verdicts.into_iter().map(wait_ms).collect()
        }
        Err(error) => {
            core.metrics.store_failed(what, &error);
            vec![None; hits.len()]
        }
    }
}

/// Delivers what was not refused.
async fn deliver(core: &Core, turn: &mut [Decided], now_ms: u64) {
    let until_ms = now_ms + crate::clock::millis(core.config.dedup_life);
    let places: Vec<usize> = (0..turn.len()).filter(|place| turn[*place].verdict.is_ok()).collect();
    let senders: Vec<(AppId, UserId)> =
        places.iter().map(|place| (turn[*place].whisper.asker.app, turn[*place].whisper.asker.user)).collect();
    let profiles = core.profiles.shown_each(&senders, now_ms).await;
    let say = |(place, profile): (&usize, Arc<Profile>)| {
        let decided = &mut turn[*place];
        let (claim, routes) = (decided.claim(until_ms), decided.routes.take());
        let Whisper { asker, receiver, content, .. } = &decided.whisper;
        Once { app: asker.app, user: *receiver, push: chat::whisper(&profile, *receiver, content), claim, routes }
    };
    let said = places.iter().zip(profiles).map(say).collect();
    for (place, outcome) in places.into_iter().zip(delivery::to_each_once(core, said, now_ms).await) {
        turn[place].verdict = outcome;
    }
}
