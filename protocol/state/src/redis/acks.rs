//! [`Acks`]: a hash for each app and shard of users, `user:message` → `times%due%room`; and beside it the same fields by the time they
//! are due, for [`Acks::postpone`], and by name, where those of one user stand together.
//!
//! - A batch is one script for each shard that it touches.
//! - What nobody removes is found by `postpone`, which looks at a few shards a call and goes round: a plain command for each, and a script
//!   only where something is due. The apps that have any are noted; a
//!   process notes each at most once a minute, and at once where the store may have forgotten. A shard that is not found all the same
//!   ends [`SHARD_LIFE_MS`] after its last record.

use super::command::{Command, Script};
use super::connection::Connection;
use super::gather::{Batch, Gather, Gathering};
use super::keys::{ACK_SHARDS, Keys};
use crate::port::{ACK_AGAIN_MAX_MS, ACK_AGAIN_MS, ACK_TIMES_MAX, ACKS_PER_USER_MAX, Acks, INBOX_AGE_MAX_MS, ROOM_LOG_AGE_MAX_MS, Result};
use crate::types::{AppId, PendingAck, RoomId, UserId};
use crate::watch::Watch;
use async_trait::async_trait;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

static RECORD: Script = Script::new(include_str!("lua/acks_record.lua"));
static REMOVE: Script = Script::new(include_str!("lua/acks_remove.lua"));
static PENDING: Script = Script::new(include_str!("lua/acks_pending.lua"));
static POSTPONE: Script = Script::new(include_str!("lua/acks_postpone.lua"));

/// ACKs in one script: beyond, it would keep others waiting, and Lua hands on no more than some thousand arguments.
const ACKS_PER_COMMAND: usize = 1000;
/// Shards that one call of `postpone` looks at: called every 2 s, it has gone round those of one app in 10 s.
const SHARDS_AT_ONCE: usize = 4;
/// How long a shard is kept after its last record: longer than any inbox keeps a message.
const SHARD_LIFE_MS: u64 = INBOX_AGE_MAX_MS + 24 * 3600 * 1000;
/// How often a process notes that an app has pending ACKs.
const NOTE_EVERY: Duration = Duration::from_secs(60);
/// Apps that a process remembers having noted; beyond, it notes more often.
const NOTED_MAX: usize = 1024;

type Shard = (AppId, u64);

pub(super) struct RedisAcks {
    connection: Connection,
    watch: Watch,
    looking: Gather<Looks>,
    noted: Mutex<Noted>,
    /// What `postpone` has still to look at before it goes round again, the next last.
    to_look_at: Mutex<Vec<Shard>>,
}

/// Whether a user has any.
struct Looks(Connection);

#[async_trait]
impl Batch for Looks {
    type Ask = (AppId, UserId);
    type Answer = bool;

    async fn run(&self, users: Vec<(AppId, UserId)>) -> Result<Vec<bool>> {
        const WHAT: &str = "looking for pending ACKs";
        let keys: Vec<String> = users.iter().map(|(app, user)| self.0.keys().acks_by_name(*app, Keys::ack_shard(*user))).collect();
        // Where the shards of all of them are empty, one command tells.
        if users.len() > 1 && self.0.is_one_server() {
            let shards: Vec<String> = keys.iter().collect::<BTreeSet<_>>().into_iter().cloned().collect();
            if self.0.count(WHAT, &shards).await? == 0 {
                return Ok(vec![false; users.len()]);
            }
        }
        let look = |(key, (_, user)): (&String, &(AppId, UserId))| {
            Command::new("ZRANGEBYLEX", key).arg(format!("[{user}:")).arg(format!("({user};")).arg("LIMIT").arg(0).arg(1)
        };
        let found: Vec<Vec<String>> = self.0.run_many(WHAT, keys.iter().zip(&users).map(look).collect()).await?;
        Ok(found.into_iter().map(|found| !found.is_empty()).collect())
    }

    fn alone(ask: &(AppId, UserId)) -> Option<(AppId, UserId)> {
        Some(*ask)
    }
}

/// When this process noted which app.
#[derive(Debug, Default)]
struct Noted {
    at: BTreeMap<AppId, Instant>,
    /// A store that may have forgotten is told everything again.
    generation: u64,
}

impl RedisAcks {
    pub(super) fn new(connection: Connection, watch: Watch, gathering: &Gathering) -> Self {
        let looking = gathering.gather(Looks(connection.clone()));
        Self { connection, watch, looking, noted: Mutex::default(), to_look_at: Mutex::default() }
    }

    fn script(&self, script: &'static Script, (app, shard): Shard) -> Command {
        let keys = self.connection.keys();
        Command::script(script, &[&keys.acks(app, shard), &keys.acks_due(app, shard), &keys.acks_by_name(app, shard)])
    }

    fn to_look_at(&self) -> MutexGuard<'_, Vec<Shard>> {
        self.to_look_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_to_look_at(&self) -> Vec<Shard> {
        self.to_look_at().iter().rev().take(SHARDS_AT_ONCE).copied().collect()
    }

    fn looked_at(&self, shard: Shard) {
        self.to_look_at().pop_if(|next| *next == shard);
    }

    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which apps are to be noted now.
    fn to_note(&self, pending: &[PendingAck]) -> Vec<AppId> {
        let generation = self.watch.generation();
        let now = Instant::now();
        let mut noted = self.noted();
        if noted.generation != generation {
            *noted = Noted { at: BTreeMap::new(), generation };
        }
        let mut apps: Vec<AppId> = pending.iter().map(|ack| ack.app).collect();
        apps.sort_unstable();
        apps.dedup();
        apps.retain(|app| noted.at.get(app).is_none_or(|at| now.duration_since(*at) >= NOTE_EVERY));
        apps
    }

    fn note(&self, apps: Vec<AppId>) {
        let now = Instant::now();
        let mut noted = self.noted();
        if noted.at.len() + apps.len() > NOTED_MAX {
            noted.at.clear();
        }
        noted.at.extend(apps.into_iter().map(|app| (app, now)));
    }
}

#[async_trait]
impl Acks for RedisAcks {
    async fn record(&self, pending: &[PendingAck]) -> Result<()> {
        let apps = self.to_note(pending);
        let mut commands = Vec::new();
        if !apps.is_empty() {
            let ids: Vec<i32> = apps.iter().map(|app| app.0).collect();
            commands.push(Command::new("SADD", &self.connection.keys().ack_apps()).arg(ids));
        }
        let mut shards: BTreeMap<Shard, Vec<&PendingAck>> = BTreeMap::new();
        for ack in pending {
            shards.entry((ack.app, Keys::ack_shard(ack.user))).or_default().push(ack);
        }
        for (shard, acks) in shards {
            for acks in acks.chunks(ACKS_PER_COMMAND) {
                let command = self.script(&RECORD, shard).arg(ACKS_PER_USER_MAX).arg(SHARD_LIFE_MS);
                let add = |command: Command, ack: &&PendingAck| command.arg(ack.user.0).arg(&ack.msg_id).arg(value_of(ack)).arg(ack.due_ms);
                commands.push(acks.iter().fold(command, add));
            }
        }
        self.connection.run_many::<()>("recording pending ACKs", commands).await?;
        self.note(apps);
        Ok(())
    }

    async fn remove(&self, acked: &[(AppId, UserId, String)]) -> Result<()> {
        let mut shards: BTreeMap<Shard, Vec<String>> = BTreeMap::new();
        for (app, user, msg_id) in acked {
            shards.entry((*app, Keys::ack_shard(*user))).or_default().push(format!("{user}:{msg_id}"));
        }
        let mut commands = Vec::with_capacity(shards.len());
        for (shard, fields) in shards {
            commands.extend(fields.chunks(ACKS_PER_COMMAND).map(|fields| self.script(&REMOVE, shard).arg(fields)));
        }
        self.connection.run_many::<()>("removing pending ACKs", commands).await.map(drop)
    }

    async fn pending(&self, app: AppId, user: UserId) -> Result<Vec<PendingAck>> {
        let shard = Keys::ack_shard(user);
        // Most have none: one plain command tells.
        if !self.looking.ask_one((app, user)).await? {
            return Ok(Vec::new());
        }
        let command = self.script(&PENDING, (app, shard)).arg(user.0);
        let fields: Vec<(String, String)> = self.connection.run("listing pending ACKs", command).await?;
        let mut pending: Vec<_> = fields.iter().filter_map(|(field, value)| read(app, field, value)).collect();
        pending.sort_by(|a, b| a.due_ms.cmp(&b.due_ms).then_with(|| a.msg_id.cmp(&b.msg_id)));
        Ok(pending)
    }

    async fn postpone(&self, before_ms: u64, now_ms: u64, limit: usize) -> Result<Vec<PendingAck>> {
        let keys = self.connection.keys();
        let mut shards = self.next_to_look_at();
        if shards.is_empty() {
            let apps: Vec<i32> = self.connection.run("listing apps", Command::new("SMEMBERS", &keys.ack_apps())).await?;
            *self.to_look_at() = apps.iter().flat_map(|app| (0..ACK_SHARDS).map(|shard| (AppId(*app), shard))).collect();
            shards = self.next_to_look_at();
        }
        let before = format!("({before_ms}");
        let look = |(app, shard): &Shard| {
            Command::new("ZRANGEBYSCORE", &keys.acks_due(*app, *shard)).arg("-inf").arg(&before).arg("LIMIT").arg(0).arg(1)
        };
        let looks = shards.iter().map(look).collect();
        let found: Vec<Vec<String>> = match self.connection.run_many("looking for pending ACKs", looks).await {
            Ok(found) => found,
            Err(error) => {
                // One that was spoilt must not keep the others from being looked at.
                shards.into_iter().for_each(|shard| self.looked_at(shard));
                return Err(error);
            }
        };
        let mut overdue = Vec::new();
        for (shard, found) in shards.into_iter().zip(found) {
            if !found.is_empty() {
                let wanted = (limit - overdue.len()).min(ACKS_PER_COMMAND);
                if wanted == 0 {
                    break;
                }
                let command = self.script(&POSTPONE, shard).arg(before_ms).arg(wanted).arg(now_ms).arg(ACK_TIMES_MAX);
                // Carried out twice, what the first had put off would be told to nobody for as long.
                let command = command.arg(ACK_AGAIN_MS).arg(ACK_AGAIN_MAX_MS).arg(ROOM_LOG_AGE_MAX_MS).once();
                let fields: Vec<(String, String)> = self.connection.run("putting off pending ACKs", command).await?;
                overdue.extend(fields.iter().filter_map(|(field, value)| read(shard.0, field, value)));
                if fields.len() >= wanted {
                    break;
                }
            }
            self.looked_at(shard);
        }
        Ok(overdue)
    }
}

fn value_of(ack: &PendingAck) -> String {
    let room = ack.room.map(|room| room.to_string()).unwrap_or_default();
    format!("{}%{}%{room}", ack.times_sent, ack.due_ms)
}

/// A field that is none of ours is passed over.
fn read(app: AppId, field: &str, value: &str) -> Option<PendingAck> {
    let (user, msg_id) = field.split_once(':')?;
    let mut parts = value.split('%');
    let (times_sent, due_ms) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let room = match parts.next()? {
        "" => None,
        room => Some(RoomId(room.parse().ok()?)),
    };
    Some(PendingAck { app, user: UserId(user.parse().ok()?), msg_id: msg_id.to_owned(), room, times_sent, due_ms })
}
