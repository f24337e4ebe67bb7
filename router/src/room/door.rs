//! Who is let in to a room's queue before the room is opened, and what those hear who are not.
//!
//! - One who has not joined hears the same of a room that is awake, asleep, closed, of another app or never was: the room's id is the
//!   key to it. His tries to join count, up to a bound.
//! - For him nothing is opened: no lease is taken, no epoch raised. A room opens for who may join it, for its members and its operators,
//!   and for a gateway that has heard of it before.

use super::RoomCall;
use crate::{
    Refusal,
    core::Core,
    services::{
        Asker,
        room::{JoinGuard, Rules},
    },
};
use billfish_link::message::{Evict, Left, envelope::Kind, reply};
use billfish_state::RoomId;
use billfish_wire::{Class, Reason};
use std::sync::Arc;
use tokio::sync::mpsc;

/// What is to be done with a room once the wait is over.
pub(super) enum After {
    Again,
    /// Nobody asked, and nobody listens.
    Nobody,
    /// The router goes.
    Stopped,
}

/// Whether a linked gateway listens to the room.
pub(super) fn is_wanted(core: &Core, room: RoomId) -> bool {
    core.links.all().iter().any(|gateway| gateway.wants(room).is_some())
}

/// Refuses who comes until the room may be claimed again. Without this every call that is repeated would ask the store.
pub(super) async fn turn_away(
    core: &Core,
    room: RoomId,
    receiver: &mut mpsc::Receiver<RoomCall>,
    refusal: &Refusal,
    again_ms: u64,
) -> After {
    let (until, mut came) = (core.state.clock.instant(again_ms), false);
    // Cancel-safe: `recv` takes nothing unless it returns.
    while let Ok(call) = tokio::time::timeout_at(until, receiver.recv()).await {
        let Some(call) = call else { return After::Stopped };
        core.metrics.room_queue_depth.dec();
        if matches!(call, RoomCall::Stop) {
            return After::Stopped;
        }
        came |= !matches!(call, RoomCall::Interest { .. } | RoomCall::Seats { .. } | RoomCall::Leave { .. } | RoomCall::Tell);
        call.refuse(refusal.clone()).await;
    }
    if came || is_wanted(core, room) { After::Again } else { After::Nobody }
}

/// The first call that a room must be open for; the calls before it are answered. `None` when no call is left.
pub(super) async fn first(core: &Core, room: RoomId, receiver: &mut mpsc::Receiver<RoomCall>) -> Option<RoomCall> {
    // Whoever began the queue may not have put his call in yet.
    let mut next = receiver.recv().await;
    while let Some(call) = next {
        let checked = match &call {
            RoomCall::Say { asker, .. } | RoomCall::Sync { asker, .. } => check_member(core, room, *asker).await,
            RoomCall::Join { asker, .. } => may_join(core, room, *asker).await,
            // Who has not joined leaves nothing. Where the store does not say, the room does.
            RoomCall::Leave { asker, .. } => match is_member(core, room, *asker).await {
                Ok(false) => Err(Refusal::new(Reason::RoomNotFound)),
                Ok(true) | Err(_) => Ok(()),
            },
            // An answer to a life that is over.
            RoomCall::Interest { after_seq: None, .. } | RoomCall::Seats { .. } => {
                core.metrics.room_queue_depth.dec();
                next = receiver.try_recv().ok();
                continue;
            }
            // Its link remembers that it wants to hear: a life asks there when it begins. One that has heard of the room before may have
            // missed what the last owner left behind.
            RoomCall::Interest { after_seq: Some(0), .. } => {
                core.metrics.room_queue_depth.dec();
                if matches!(core.catalog.room(room, core.state.clock.now_ms()).await, Ok(None)) {
                    after_the_end(core, room, call).await;
                }
                next = receiver.try_recv().ok();
                continue;
            }
            RoomCall::Gift { giver, .. } => check_member(core, room, giver.asker()).await,
            RoomCall::Interest { .. } | RoomCall::Push { .. } | RoomCall::Order { .. } | RoomCall::Tell | RoomCall::Stop => Ok(()),
        };
        let Err(refusal) = checked else { return Some(call) };
        core.metrics.room_queue_depth.dec();
        if matches!(call, RoomCall::Leave { .. }) || (matches!(call, RoomCall::Gift { .. }) && refusal.reason == Reason::RoomNotFound) {
            after_the_end(core, room, call).await;
        } else {
            refuse_counted(core, call, refusal).await;
        }
        next = receiver.try_recv().ok();
    }
    None
}

/// Whether a JOIN is worth opening the room for. What is refused here would be refused inside.
async fn may_join(core: &Core, room: RoomId, asker: Asker) -> Result<(), Refusal> {
    let now_ms = core.state.clock.now_ms();
    let guard = join_guard(core);
    guard.check(asker, now_ms).await?;
    let record = core.catalog.room(room, now_ms).await?.filter(|record| record.app == asker.app);
    if record.is_none() {
        return Err(guard.failed(asker, Refusal::new(Reason::RoomNotFound), now_ms).await);
    }
    let moderation = core.records.moderation(room, now_ms).await?;
    // Words are for who speaks.
    match Rules::new(moderation, Arc::default()).may_enter(asker.user, now_ms) {
        Ok(()) => Ok(()),
        Err(refusal) => Err(guard.failed(asker, refusal, now_ms).await),
    }
}

/// Refuses who has not joined the room. That is no failed join: it tells a guess nothing, and a message may come late, when its session has
/// left.
pub(super) async fn check_member(core: &Core, room: RoomId, asker: Asker) -> Result<(), Refusal> {
    if is_member(core, room, asker).await? { Ok(()) } else { Err(Refusal::new(Reason::RoomNotFound)) }
}

async fn is_member(core: &Core, room: RoomId, asker: Asker) -> Result<bool, Refusal> {
    let known = core.state.members.contains(asker.app, room, &[asker.user]).await?;
    Ok(known.first().copied().unwrap_or(false))
}

/// What one hears who wants to join what is not there.
async fn stranger(core: &Core, asker: Asker) -> Refusal {
    let now_ms = core.state.clock.now_ms();
    let guard = join_guard(core);
    match guard.check(asker, now_ms).await {
        Ok(()) => guard.failed(asker, Refusal::new(Reason::RoomNotFound), now_ms).await,
        Err(refusal) => refusal,
    }
}

/// Answers a call to a room that is not live.
pub(super) async fn after_the_end(core: &Core, id: RoomId, call: RoomCall) {
    match call {
        RoomCall::Join { asker, .. } => {
            let refusal = stranger(core, asker).await;
            refuse_counted(core, call, refusal).await;
        }
        RoomCall::Gift { giver, request } => {
            super::gifts::refuse_unless_paid(core, giver, id, request, Refusal::new(Reason::RoomNotFound)).await;
        }
        RoomCall::Sync { .. } | RoomCall::Say { .. } => refuse_counted(core, call, Refusal::new(Reason::RoomNotFound)).await,
        // It closed while this gateway was away: its members must hear of it. The largest epoch is never behind.
        RoomCall::Interest { gateway, after_seq: Some(_) } => {
            let evict = Evict { app_id: 0, room_id: id.0, user_id: 0, epoch: crate::ownership::EPOCH_MAX };
            gateway.send(Kind::Evict(evict), Class::Control).await;
        }
        RoomCall::Leave { gateway, id: Some(call), .. } => gateway.reply(call, reply::Result::Left(Left { room_id: id.0 })).await,
        RoomCall::Interest { after_seq: None, .. }
        | RoomCall::Seats { .. }
        | RoomCall::Leave { id: None, .. }
        | RoomCall::Push { .. }
        | RoomCall::Order { .. }
        | RoomCall::Tell
        | RoomCall::Stop => call.refuse(Refusal::new(Reason::RoomNotFound)).await,
    }
}

async fn refuse_counted(core: &Core, call: RoomCall, refusal: Refusal) {
    match &call {
        RoomCall::Say { .. } => core.metrics.decided("chat", refusal.reason.label()),
        RoomCall::Join { .. } => core.metrics.joined(refusal.reason.label()),
        RoomCall::Interest { .. }
        | RoomCall::Seats { .. }
        | RoomCall::Leave { .. }
        | RoomCall::Sync { .. }
        | RoomCall::Push { .. }
        | RoomCall::Order { .. }
        | RoomCall::Gift { .. }
        | RoomCall::Tell
        | RoomCall::Stop => {}
    }
    call.refuse(refusal).await;
}

pub(super) fn join_guard(core: &Core) -> JoinGuard<'_> {
    JoinGuard { state: &core.state, metrics: &core.metrics, failures_per_minute: core.config.room.failed_joins_per_minute }
}
