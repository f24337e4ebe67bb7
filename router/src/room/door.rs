//! Who is let in to a room's queue before the room is opened, and what those hear who are not.
//!
//! - One who has not joined hears the same of a room that is awake, asleep, closed, of another app or never was: the room's id is the
//!   key to it. His tries count as failed joins, whatever he tried.
//! - For him nothing is opened: no lease is taken, no record read, no epoch raised.

use super::RoomCall;
use crate::{
    Refusal,
    core::Core,
    services::{Asker, room::JoinGuard},
};
use billfish_link::message::{Evict, Left, envelope::Kind, reply};
use billfish_state::RoomId;
use billfish_wire::{Class, Reason};
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
        came |= !matches!(call, RoomCall::Interest { .. } | RoomCall::Leave { .. });
        call.refuse(refusal.clone()).await;
    }
    if came || is_wanted(core, room) { After::Again } else { After::Nobody }
}

/// The first call that a room must be open for; the calls before it are answered. `None` when no call is left.
pub(super) async fn first(core: &Core, room: RoomId, receiver: &mut mpsc::Receiver<RoomCall>) -> Option<RoomCall> {
    // Whoever began the queue may not have put his call in yet.
    let mut next = receiver.recv().await;
    while let Some(call) = next {
        let asker = match &call {
            RoomCall::Say { asker, .. } | RoomCall::Sync { asker, .. } => *asker,
            RoomCall::Interest { .. }
            | RoomCall::Join { .. }
            | RoomCall::Leave { .. }
            | RoomCall::Push { .. }
            | RoomCall::Order { .. }
            | RoomCall::Stop => return Some(call),
        };
        let Err(refusal) = check_member(core, room, asker).await else { return Some(call) };
        core.metrics.room_queue_depth.dec();
        refuse_counted(core, call, refusal).await;
        next = receiver.try_recv().ok();
    }
    None
}

/// Refuses who has not joined the room, and counts it.
pub(super) async fn check_member(core: &Core, room: RoomId, asker: Asker) -> Result<(), Refusal> {
    let known = core.state.members.contains(asker.app, room, &[asker.user]).await?;
    if known.first().copied().unwrap_or(false) { Ok(()) } else { Err(stranger(core, asker).await) }
}

/// What one hears who has guessed, or whose room has closed.
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
        RoomCall::Join { gateway, id, asker, .. } => {
            let refusal = stranger(core, asker).await;
            core.metrics.joined(refusal.reason.label());
            gateway.refuse(id, &refusal).await;
        }
        RoomCall::Sync { asker, .. } | RoomCall::Say { asker, .. } => {
            let refusal = stranger(core, asker).await;
            refuse_counted(core, call, refusal).await;
        }
        // It closed while this gateway was away: its members must hear of it. The largest epoch is never behind.
        RoomCall::Interest { gateway, after_seq: Some(_) } => {
            let evict = Evict { app_id: 0, room_id: id.0, user_id: 0, epoch: crate::ownership::EPOCH_MAX };
            gateway.send(Kind::Evict(evict), Class::Control).await;
        }
        RoomCall::Leave { gateway, id: Some(call), .. } => gateway.reply(call, reply::Result::Left(Left { room_id: id.0 })).await,
        RoomCall::Interest { after_seq: None, .. }
        | RoomCall::Leave { id: None, .. }
        | RoomCall::Push { .. }
        | RoomCall::Order { .. }
        | RoomCall::Stop => call.refuse(Refusal::new(Reason::RoomNotFound)).await,
    }
}

async fn refuse_counted(core: &Core, call: RoomCall, refusal: Refusal) {
    if matches!(call, RoomCall::Say { .. }) {
        core.metrics.decided("chat", refusal.reason.label());
    }
    call.refuse(refusal).await;
}

pub(super) fn join_guard(core: &Core) -> JoinGuard<'_> {
    JoinGuard { state: &core.state, metrics: &core.metrics, failures_per_minute: core.config.room.failed_joins_per_minute }
}
