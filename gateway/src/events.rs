//! What shards tell: one task per shard takes its events, in order, and brings each where it belongs.
//!
//! - Never waits for the store or a router: what takes time is put into a batch, a lane or an outbox, all of them bounded.
//! - Waits only to hand refusals back to a shard, which goes on taking commands while it is not read from.

use crate::{
    acks::Acks,
    auth::{Attempt, Lanes, Revoked, unavailable},
    clock::Uptime,
    commands::{Commands, Shards},
    directory::Directory,
    metrics::{ControlCounters, LoginResult},
    presence::Presence,
    shard::{
        mailbox::Mailbox,
        message::{ConnKey, LoginDenied, Origin, ShardCommand, ShardEvent, UpReply},
    },
    upstream::{Caller, Upstream},
};
use billfish_wire::Reason;
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;
use tracing::debug;

/// Where events go.
#[derive(Debug)]
pub(crate) struct Desk {
    pub(crate) lanes: Lanes,
    pub(crate) auth: Arc<crate::auth::Auth>,
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) directory: Arc<Directory>,
    pub(crate) presence: Arc<Presence>,
    pub(crate) acks: Arc<Acks>,
    pub(crate) shards: Shards,
    pub(crate) counters: Arc<ControlCounters>,
    pub(crate) uptime: Uptime,
}

impl Desk {
    /// Takes from one shard until its mailbox is closed and empty.
    pub(crate) async fn run(&self, shard: u16, events: &Mailbox<ShardEvent>) {
        let mut batch = Vec::new();
        let mut commands = self.shards.gather();
        while events.drain(&mut batch).await {
            for event in batch.drain(..) {
                self.take(shard, event, &mut commands);
            }
            self.shards.give(&mut commands).await;
        }
    }

    fn take(&self, shard: u16, event: ShardEvent, commands: &mut Commands) {
        match event {
            ShardEvent::Login { key, peer, request } => {
                if let Err(denied) = self.lanes.submit(Attempt { key, peer, request, session: None }) {
                    self.counters.login(LoginResult::Unavailable);
                    deny(key, denied, commands);
                }
            }
            ShardEvent::Up { key, origin, request, call } => {
                if !self.upstream.call(key, origin, request, *call, self.uptime.now_ms()) {
                    refuse(key, request, commands);
                }
            }
            ShardEvent::Gone { key: _, origin, rooms, reason, logged_out } => {
                debug!(user = origin.user_id, session = origin.session, reason = reason.label(), "session over");
                self.upstream.gone(shard, origin, &rooms, logged_out);
                self.vacate(origin, logged_out);
            }
            ShardEvent::LeftRoom { origin, room_id, cause } => self.upstream.left(shard, origin, room_id, cause),
            ShardEvent::Seats { call, members } => self.upstream.seats(call, &members),
            ShardEvent::Alive { app_id, user_id } => self.presence.alive(app_id, user_id),
            ShardEvent::RecordAck { origin, push, times_sent, due_in_ms } => self.acks.record(origin, &push, times_sent, due_in_ms),
            ShardEvent::Acked { origin, msg_id, room_id, recorded } => self.acks.acked(origin, msg_id, room_id, recorded),
            ShardEvent::HandOver { origin, push, recorded, missed } => self.acks.handed_over(origin, &push, recorded, missed),
        }
    }

    fn vacate(&self, origin: Origin, logged_out: bool) {
        // A successor's seat is left alone. The token is void all the same, also when the successor came in with it: a LOGIN that
        // overtakes the end of the session that logged out is no way to keep its token.
        let token = self.directory.take(origin);
        if let (true, Some(token)) = (logged_out, token) {
            self.revoked().put(token);
        }
        self.presence.ended(origin);
    }

    fn revoked(&self) -> &Revoked {
        &self.auth.revoked
    }
}

/// Sends calls that waited for an owner, and refuses those that have waited too long, until `stop`.
pub(crate) async fn run_patience(upstream: &Upstream, shards: &Shards, uptime: Uptime, stop: &CancellationToken) {
    let mut commands = shards.gather();
    for tick in 1_u64.. {
        tokio::select! {
            () = tokio::time::sleep(RETRY_TICK) => {}
            () = stop.cancelled() => return,
        }
        upstream.retry(uptime.now_ms());
        if tick.is_multiple_of(PATIENCE_TICKS) {
            for Caller { key, request, .. } in upstream.expire(uptime.now_ms()) {
                refuse(key, request, &mut commands);
            }
            shards.give(&mut commands).await;
        }
    }
}

fn deny(key: ConnKey, denied: LoginDenied, commands: &mut Commands) {
    commands.send(key, ShardCommand::LoginVerdict { key, verdict: Err(denied) });
}

fn refuse(key: ConnKey, request: u32, commands: &mut Commands) {
    let reply = UpReply::Refused { reason: Reason::Unavailable, msg: None, retry_after_ms: unavailable().retry_after_ms };
    commands.send(key, ShardCommand::Reply { key, request, reply });
}

/// How often waits for an owner are looked at: half the shortest of them.
const RETRY_TICK: Duration = Duration::from_millis(50);
/// Patience is looked at once a second, ten times finer than it is long.
const PATIENCE_TICKS: u64 = 20;
