//! [`RoomLog`]: a stream for each room, whose ids are `seq-0`, and its claims in two hashes.
//!
//! A batch is one call of one script, so that entries and claims are made together.

use super::command::Script;
use super::connection::Connection;
use super::life;
use super::stream::{self, Bounds, Raw, RawEntry, Wanted, stream_script};
use crate::port::{ROOM_LOG_AGE_MAX_MS, ROOM_LOG_BYTES_MAX, ROOM_LOG_ENTRIES_MAX, ROOM_LOG_KEPT_MS, Result, RoomLog};
use crate::types::{Appended, LogAppend, LogEntry, Page, RoomId, StateError, UserId};
use async_trait::async_trait;

static APPEND: Script = stream_script!("lua/log_append.lua");
static FENCE: Script = stream_script!("lua/log_fence.lua");
static LAST: Script = stream_script!("lua/stream_last.lua");

const BOUNDS: Bounds = Bounds { entries: ROOM_LOG_ENTRIES_MAX, bytes: ROOM_LOG_BYTES_MAX, age_ms: ROOM_LOG_AGE_MAX_MS };
/// Entries in one call of the script: beyond, it would keep others waiting, and Lua hands on no more than some thousand arguments.
const ENTRIES_PER_CALL: usize = 1000;

pub(super) struct RedisRoomLog(Connection);

impl RedisRoomLog {
    pub(super) fn new(connection: Connection) -> Self {
        Self(connection)
    }

    async fn append_some(&self, room: RoomId, entries: &[LogAppend], now_ms: u64) -> Result<Vec<Appended>> {
        let keys = self.0.keys();
        let mut names = vec![keys.room_log(room), keys.room_log_notes(room)];
        if entries.iter().any(|append| append.claim.is_some()) {
            names.extend(keys.room_log_claims(room));
        }
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let until_ms = now_ms.saturating_add(ROOM_LOG_KEPT_MS);
        let mut command = stream::call(&APPEND, &names, BOUNDS, now_ms).arg(until_ms).arg(life(now_ms, until_ms));
        for LogAppend { entry, claim } in entries {
            let except = entry.except.map(|user| user.to_string()).unwrap_or_default();
            command = command.arg(id_of(entry.seq)).arg(except).arg(&entry.body[..]);
            command = match claim {
                Some(claim) => command.arg(stream::name_of(claim)).arg(claim.until_ms).arg(life(now_ms, claim.until_ms)),
                None => command.arg("").arg("").arg(""),
            };
        }
        // A second time it would find its own claims, and be passed over.
        let verdicts: Vec<String> = self.0.run("appending to a room's log", command.once()).await?;
        verdicts.iter().map(|verdict| read_verdict(verdict)).collect()
    }
}

#[async_trait]
impl RoomLog for RedisRoomLog {
    async fn append(&self, room: RoomId, entries: &[LogAppend], now_ms: u64) -> Result<Vec<Appended>> {
        let mut appended = Vec::with_capacity(entries.len());
        for some in entries.chunks(ENTRIES_PER_CALL) {
            appended.extend(self.append_some(room, some, now_ms).await?);
        }
        Ok(appended)
    }

    async fn fence(&self, room: RoomId, seq: i64, now_ms: u64) -> Result<i64> {
        let keys = [&*self.0.keys().room_log(room), &*self.0.keys().room_log_notes(room)];
        let until_ms = now_ms.saturating_add(ROOM_LOG_KEPT_MS);
        let command = stream::call(&FENCE, &keys, BOUNDS, now_ms).arg(until_ms).arg(life(now_ms, until_ms)).arg(id_of(seq));
        let last: String = self.0.run("fencing a room's log", command).await?;
        seq_of(&last).ok_or(StateError::Malformed { what: "notes in the store" })
    }

    async fn read(&self, room: RoomId, after_seq: i64, limit: usize, now_ms: u64) -> Result<Page<LogEntry>> {
        let keys = [&*self.0.keys().room_log(room), &*self.0.keys().room_log_notes(room)];
        // No seq is below 1.
        let after = after_seq.max(0).cast_unsigned();
        let wanted = Wanted { from: format!("{}-0", after + 1), gap_after: Some(format!("{after}-0")), limit };
        let (entries, more, gap) = stream::read(&self.0, "reading a room's log", keys, BOUNDS, wanted, now_ms).await?;
        Ok(Page { entries: entries.into_iter().filter_map(read_entry).collect(), more, gap })
    }

    async fn last(&self, room: RoomId, limit: usize, now_ms: u64) -> Result<Vec<LogEntry>> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let keys = [&*self.0.keys().room_log(room), &*self.0.keys().room_log_notes(room)];
        let command = stream::call(&LAST, &keys, BOUNDS, now_ms).arg(limit.min(ROOM_LOG_ENTRIES_MAX));
        let entries: Vec<RawEntry> = self.0.run("reading the end of a room's log", command).await?;
        Ok(entries.into_iter().rev().filter_map(|entry| read_entry(Raw::read(entry)?)).collect())
    }

    async fn remove(&self, room: RoomId) -> Result<()> {
        let keys = self.0.keys();
        let command = super::command::Command::new("DEL", &keys.room_log(room)).arg(keys.room_log_notes(room));
        self.0.run("forgetting a room's log", command).await
    }
}

/// The id of an entry; of a `seq` below 1, which no log has, one that is never above another.
fn id_of(seq: i64) -> String {
    format!("{}-0", seq.max(0))
}

fn seq_of(id: &str) -> Option<i64> {
    id.split_once('-')?.0.parse().ok()
}

fn read_verdict(verdict: &str) -> Result<Appended> {
    match verdict {
        "stored" => Ok(Appended::Stored),
        "stale" => Ok(Appended::Stale),
        id => seq_of(id).map(|seq| Appended::Repeated { seq }).ok_or(StateError::Malformed { what: "claim in the store" }),
    }
}

fn read_entry(raw: Raw) -> Option<LogEntry> {
    let except = match &raw.own[..] {
        b"" => None,
        user => Some(UserId(std::str::from_utf8(user).ok()?.parse().ok()?)),
    };
    Some(LogEntry { seq: seq_of(&raw.id)?, body: raw.body, except })
}
