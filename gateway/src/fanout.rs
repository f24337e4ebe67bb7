//! From link messages to commands for shards: each push is made once and goes to each shard at most once.
//!
//! - A room push goes to shards that have members, a user push to the shards of the user's seats. Members are the shards' affair.
//! - What a former owner of a room sends is refused and counted.
//! - Bodies are opaque: nothing here looks into `data`.
//!
//! Never waits and never sends: [`crate::link`] hands over what is sorted here.

use crate::{
    clock::Uptime,
    commands::{Commands, Shards},
    directory::Directory,
    metrics::ControlCounters,
    shard::message::{Origin, ShardCommand, UpReply},
    upstream::{Heard, LinkId, Said, Upstream},
};
use billfish_link::message::{
    AllPush, Audience, Evict, Kick, Push as LinkPush, Reply, RollCall, RoomPush, UserPush, envelope::Kind, reply::Result as Answer,
};
use billfish_session::Push;
use billfish_state::DeviceKind;
use billfish_wire::{Body, Reason};
use std::sync::Arc;

/// What sorting needs to know.
#[derive(Debug)]
pub(crate) struct Fanout {
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) directory: Arc<Directory>,
    pub(crate) shards: Shards,
    pub(crate) counters: Arc<ControlCounters>,
    /// Whose milliseconds are passed in.
    pub(crate) uptime: Uptime,
}

impl Fanout {
    /// Turns one message of a router into commands.
    pub(crate) fn sort(&self, from: LinkId, kind: Kind, now_ms: u64, commands: &mut Commands) {
        match kind {
            Kind::Reply(reply) => self.reply(from, reply, now_ms, commands),
            Kind::RoomPush(push) => self.room_push(from, push, commands),
            Kind::UserPush(push) => self.user_push(push, commands),
            Kind::AllPush(push) => self.all_push(push, commands),
            Kind::Kick(kick) => self.kick(kick, now_ms, commands),
            Kind::Evict(evict) => self.evict(evict, commands),
            Kind::Audience(audience) => self.audience(from, audience, commands),
            Kind::RollCall(call) => self.roll_call(from, call, commands),
            // The link's own, or only ever sent the other way.
            Kind::Hello(_)
            | Kind::Welcome(_)
            | Kind::Credit(_)
            | Kind::Ping(_)
            | Kind::Up(_)
            | Kind::Interest(_)
            | Kind::Gone(_)
            | Kind::Relay(_)
            | Kind::Seats(_)
            | Kind::Users(_)
            | Kind::Bye(_) => {
                self.odd();
            }
        }
    }

    fn reply(&self, from: LinkId, reply: Reply, now_ms: u64, commands: &mut Commands) {
        let Some(answer) = reply.result else { return self.odd() };
        let said = match &answer {
            Answer::Moved(moved) => return self.upstream.moved(from, reply.id, &moved.owner, now_ms),
            Answer::Joined(joined) => Said::Joined { seq: joined.seq },
            Answer::Accepted(_) | Answer::Refused(_) | Answer::Left(_) | Answer::Synced(_) | Answer::Ordered(_) => Said::Other,
        };
        let Some(caller) = self.upstream.answered(from, reply.id, said, now_ms) else { return };
        let reply = match answer {
            Answer::Accepted(accepted) => UpReply::Accepted { ts_ms: accepted.ts, seq: accepted.seq },
            Answer::Left(_) => UpReply::Accepted { ts_ms: 0, seq: 0 },
            Answer::Refused(refused) => UpReply::Refused {
                reason: Reason::from_number(refused.code).unwrap_or(Reason::Internal),
                msg: Some(refused.msg).filter(|msg| !msg.is_empty()),
                retry_after_ms: u64::try_from(refused.retry_after_ms).ok().filter(|ms| *ms > 0),
            },
            Answer::Joined(joined) => match caller.joining {
                // The room that was asked for, whatever the answer says: it is the one that was counted.
                Some(room_id) => {
                    UpReply::Joined { origin: caller.origin, room_id, seq: joined.seq, data: joined.data, audience: joined.audience }
                }
                None => {
                    self.odd();
                    UpReply::Refused { reason: Reason::Internal, msg: None, retry_after_ms: None }
                }
            },
            Answer::Synced(synced) => UpReply::Synced { room_id: synced.room_id, data: synced.data },
            Answer::Moved(_) | Answer::Ordered(_) => {
                self.odd();
                UpReply::Refused { reason: Reason::Unavailable, msg: None, retry_after_ms: None }
            }
        };
        commands.send(caller.key, ShardCommand::Reply { key: caller.key, request: caller.request, reply });
    }

    fn room_push(&self, from: LinkId, message: RoomPush, commands: &mut Commands) {
        let Some(push) = message.push else { return self.odd() };
        let room_id = push.room_id;
        let shards = match self.upstream.heard(from, room_id, message.epoch, push.seq) {
            Heard::For(shards) => shards,
            Heard::Former => return self.stale(room_id, message.epoch),
            Heard::Replayed => return self.counters.replayed_duplicates.add(1),
        };
        if shards.is_empty() {
            return;
        }
        let push = Arc::new(Push::new(body_of(push, None)));
        let keep_permille = u16::try_from(message.keep_permille).unwrap_or(0);
        for shard in shards {
            let push = Arc::clone(&push);
            commands.add(shard, ShardCommand::RoomPush { room_id, push, except_user_id: message.except_user_id, keep_permille });
        }
    }

    fn user_push(&self, message: UserPush, commands: &mut Commands) {
        let Some(push) = message.push else { return self.odd() };
        // Several recipients share the same bytes, so those name none of them.
        let recipient = if let [user_id] = message.user_ids[..] { Some(user_id) } else { None };
        let push = Arc::new(Push::new(body_of(push, recipient)));
        for user_id in message.user_ids {
            let seats = self.directory.lookup(message.app_id, user_id);
            for seat in seats.into_iter().filter(|seat| message.session == 0 || message.session == seat.session) {
                commands.send(seat.key, ShardCommand::UserPush { key: seat.key, push: Arc::clone(&push) });
            }
        }
    }

    fn all_push(&self, message: AllPush, commands: &mut Commands) {
        let Some(push) = message.push else { return self.odd() };
        let push = Arc::new(Push::new(body_of(push, None)));
        for shard in self.shards.numbers() {
            commands.add(shard, ShardCommand::AllPush { app_id: message.app_id, push: Arc::clone(&push) });
        }
    }

    fn kick(&self, kick: Kick, now_ms: u64, commands: &mut Commands) {
        let reason = Reason::from_number(kick.code).unwrap_or(Reason::Internal);
        let seats = match DeviceKind::from_number(kick.device).filter(|_| kick.session != 0) {
            // Of one session, which may not have its seat yet.
            Some(device) => {
                let origin = Origin { app_id: kick.app_id, user_id: kick.user_id, device, session: kick.session };
                self.directory.kick(origin, reason, now_ms).into_iter().collect()
            }
            None => self.directory.lookup(kick.app_id, kick.user_id),
        };
        for seat in seats {
            let meant = (kick.device == 0 || kick.device == seat.device as u32) && (kick.session == 0 || kick.session == seat.session);
            if meant {
                let msg = Some(kick.msg.clone()).filter(|msg| !msg.is_empty());
                commands.send(seat.key, ShardCommand::Kick { key: seat.key, reason, msg });
            }
        }
    }

    fn evict(&self, evict: Evict, commands: &mut Commands) {
        let Evict { room_id, user_id, epoch, .. } = evict;
        let Some(shards) = self.upstream.shards_to_evict(room_id, epoch) else { return self.stale(room_id, epoch) };
        for shard in shards {
            commands.add(shard, ShardCommand::Evict { room_id, user_id });
        }
    }

    fn audience(&self, from: LinkId, audience: Audience, commands: &mut Commands) {
        self.upstream.confirmed(from, audience.room_id);
        for shard in self.upstream.members_of(audience.room_id) {
            commands.add(shard, ShardCommand::Audience { room_id: audience.room_id, members: audience.members });
        }
    }

    fn roll_call(&self, from: LinkId, RollCall { room_id, epoch, number }: RollCall, commands: &mut Commands) {
        let Some((call, shards)) = self.upstream.roll_call(from, room_id, epoch, number) else { return self.stale(room_id, epoch) };
        for shard in shards {
            commands.add(shard, ShardCommand::RollCall(call));
        }
    }

    fn stale(&self, room_id: i64, epoch: u64) {
        self.counters.epochs_stale.add(1);
        tracing::debug!(room = room_id, epoch, "refused a former owner of the room");
    }

    fn odd(&self) {
        self.counters.envelopes_odd.add(1);
    }
}

/// The body that clients receive. Fields that say nothing are left out.
fn body_of(push: LinkPush, user_id: Option<i64>) -> Body {
    Body {
        user_id,
        biz_code: Some(push.biz_code),
        data: Some(push.data),
        msg_id: Some(push.msg_id).filter(|id| !id.is_empty()),
        room_id: Some(push.room_id).filter(|room| *room != 0),
        seq: Some(push.seq).filter(|seq| *seq != 0),
        ts: Some(push.ts).filter(|ts| *ts != 0),
        qos: Some(push.qos).filter(|qos| *qos != 0),
        class: Some(push.class),
        key: Some(push.key).filter(|key| !key.is_empty()),
        ..Body::default()
    }
}
