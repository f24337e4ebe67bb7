//! The last messages of each room, for those who come back after a short break.

use super::dedup::Claims;
use super::expiring::Expiring;
use super::lock;
use crate::port::{ROOM_LOG_AGE_MAX_MS, ROOM_LOG_BYTES_MAX, ROOM_LOG_ENTRIES_MAX, ROOM_LOG_KEPT_MS, Result, RoomLog};
use crate::types::{Appended, LogAppend, LogEntry, Page, RoomId};
use async_trait::async_trait;
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::Mutex;

/// Logs in all; the quietest gives way.
const LOGS_MAX: usize = 100_000;
/// Bytes of all logs; the quietest give way.
const BYTES_MAX: usize = 256 * 1024 * 1024;

#[derive(Debug)]
struct Log {
    entries: VecDeque<(u64, LogEntry)>,
    /// The largest there ever was, in an entry or of a fence.
    last_seq: i64,
    trimmed_to: Option<i64>,
    bytes: usize,
}

impl Log {
    fn trim(&mut self, now_ms: u64) {
        while let Some((at_ms, oldest)) = self.entries.front() {
            let fits = self.entries.len() <= ROOM_LOG_ENTRIES_MAX && self.bytes <= ROOM_LOG_BYTES_MAX;
            if fits && now_ms.saturating_sub(*at_ms) < ROOM_LOG_AGE_MAX_MS {
                return;
            }
            self.bytes -= oldest.body.len();
            self.trimmed_to = Some(oldest.seq);
            self.entries.pop_front();
        }
    }
}

#[derive(Debug)]
struct Table {
    logs: Expiring<RoomId, Log>,
    claims: Claims<RoomId, i64>,
    bytes: usize,
    /// The largest seq in any log that had to give way: below it, a log that is not there may have been one of them.
    evicted_to: Option<i64>,
}

impl Table {
    /// The log as it stands at `now_ms`, aged entries gone.
    fn log(&mut self, room: RoomId, now_ms: u64) -> Option<&Log> {
        self.logs.live(&room, now_ms)?;
        let log = self.logs.stored_mut(&room)?;
        let before = log.bytes;
        log.trim(now_ms);
        self.bytes -= before - log.bytes;
        Some(log)
    }

    /// The log to write to: one that has ended begins anew. It is kept from `now_ms` on.
    fn writable(&mut self, room: RoomId, now_ms: u64) -> &mut Log {
        let until_ms = now_ms.saturating_add(ROOM_LOG_KEPT_MS);
        if self.logs.live(&room, now_ms).is_none() {
            self.bytes -= self.logs.remove(&room).map_or(0, |ended| ended.bytes);
            self.logs.insert(room, Log { entries: VecDeque::new(), last_seq: 0, trimmed_to: None, bytes: 0 }, until_ms);
        } else {
            self.logs.set_until(room, until_ms);
        }
        self.logs.stored_mut(&room).expect("put in a line ago")
    }

    fn sweep(&mut self, now_ms: u64) {
        let bytes = &mut self.bytes;
        self.logs.sweep(now_ms, 1, |_, log| *bytes -= log.bytes);
    }

    fn make_room(&mut self, logs_max: usize, bytes_max: usize) {
        // The last log stays: it is bounded by itself.
        while self.logs.len() > 1 && (self.logs.len() > logs_max || self.bytes > bytes_max) {
            let Some((_, log)) = self.logs.evict_soonest() else { return };
            self.bytes -= log.bytes;
            // Of a fence nobody misses anything.
            let newest = log.entries.back().map(|(_, entry)| entry.seq).or(log.trimmed_to);
            self.evicted_to = self.evicted_to.max(newest);
        }
    }
}

#[derive(Debug)]
pub(super) struct RoomLogTable {
    table: Mutex<Table>,
    logs_max: usize,
    bytes_max: usize,
}

impl RoomLogTable {
    pub(super) fn new() -> Self {
        Self::with_max(LOGS_MAX, BYTES_MAX)
    }

    pub(super) fn with_max(logs_max: usize, bytes_max: usize) -> Self {
        Self { table: Mutex::new(Table { logs: Expiring::new(), claims: Claims::new(), bytes: 0, evicted_to: None }), logs_max, bytes_max }
    }
}

#[async_trait]
impl RoomLog for RoomLogTable {
    async fn append(&self, room: RoomId, entries: &[LogAppend], now_ms: u64) -> Result<Vec<Appended>> {
        let mut table = lock(&self.table);
        table.sweep(now_ms);
        if entries.is_empty() {
            return Ok(Vec::new());
        }
        table.writable(room, now_ms);
        let Table { logs, bytes, claims, .. } = &mut *table;
        let log = logs.stored_mut(&room).expect("put in a line ago");
        let before = log.bytes;
        let mut append = |LogAppend { entry, claim }: &LogAppend| {
            let standing = claim.as_ref().and_then(|claim| claims.standing(room, claim.app, claim.user, &claim.msg_id, now_ms));
            if let Some(seq) = standing {
                return Appended::Repeated { seq };
            }
            if entry.seq <= log.last_seq {
                return Appended::Stale;
            }
            log.last_seq = entry.seq;
            log.bytes += entry.body.len();
            let body = Bytes::copy_from_slice(&entry.body);
            log.entries.push_back((now_ms, LogEntry { body, ..entry.clone() }));
            if let Some(claim) = claim {
                claims.make(room, claim, entry.seq, now_ms);
            }
            Appended::Stored
        };
        let appended = entries.iter().map(&mut append).collect();
        log.trim(now_ms);
        *bytes = *bytes - before + log.bytes;
        table.make_room(self.logs_max, self.bytes_max);
        Ok(appended)
    }

    async fn fence(&self, room: RoomId, seq: i64, now_ms: u64) -> Result<i64> {
        let mut table = lock(&self.table);
        table.sweep(now_ms);
        let log = table.writable(room, now_ms);
        log.last_seq = log.last_seq.max(seq);
        let last_seq = log.last_seq;
        table.make_room(self.logs_max, self.bytes_max);
        Ok(last_seq)
    }

    async fn read(&self, room: RoomId, after_seq: i64, limit: usize, now_ms: u64) -> Result<Page<LogEntry>> {
        let mut table = lock(&self.table);
        let evicted_to = table.evicted_to;
        let Some(log) = table.log(room, now_ms) else {
            return Ok(Page { gap: evicted_to.is_some_and(|evicted| evicted > after_seq), ..Page::default() });
        };
        let start = log.entries.partition_point(|(_, entry)| entry.seq <= after_seq);
        let entries: Vec<_> = log.entries.iter().skip(start).take(limit).map(|(_, entry)| entry.clone()).collect();
        Ok(Page {
            more: start + entries.len() < log.entries.len(),
            gap: log.trimmed_to.is_some_and(|trimmed| trimmed > after_seq),
            entries,
        })
    }

    async fn last(&self, room: RoomId, limit: usize, now_ms: u64) -> Result<Vec<LogEntry>> {
        let mut table = lock(&self.table);
        let Some(log) = table.log(room, now_ms) else { return Ok(Vec::new()) };
        Ok(log.entries.iter().skip(log.entries.len().saturating_sub(limit)).map(|(_, entry)| entry.clone()).collect())
    }

    async fn remove(&self, room: RoomId) -> Result<()> {
        let mut table = lock(&self.table);
        if let Some(log) = table.logs.remove(&room) {
            table.bytes -= log.bytes;
        }
        Ok(())
    }
}
