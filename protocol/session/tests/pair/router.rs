//! A model router: room logs, one user's inbox, de-duplication. It decides in order and forgets nothing it promised.

use billfish_session::{Push, server::UpCall};
use billfish_wire::{
    Body, Reason,
    snapshot::{RoomSnapshot, SyncPage},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Messages in one page of a log or the inbox.
const PAGE_MAX: usize = 5;
/// Messages in one snapshot. Without a bound a resume may be larger than a backlog: the client is cut for reading slowly, comes back, asks for
/// the same, and so for ever.
const SNAPSHOT_MAX: usize = 60;
/// Messages that a newcomer sees.
const HISTORY_MAX: usize = 10;

pub(crate) enum Reply {
    Accepted { ts_ms: i64, seq: i64 },
    Refused { reason: Reason, retry_after_ms: Option<u64> },
    Joined { room_id: i64, seq: i64, data: String },
    Synced { room_id: i64, data: String },
}

#[derive(Default)]
pub(crate) struct Room {
    pub(crate) log: Vec<Body>,
    pub(crate) states: BTreeMap<String, Body>,
    pub(crate) counter: i64,
    /// What is never dropped silently, and is no state: every member that stays must see it.
    pub(crate) promised: BTreeSet<i64>,
    trimmed_to: i64,
}

pub(crate) struct Router {
    pub(crate) rooms: BTreeMap<i64, Room>,
    pub(crate) inbox: BTreeMap<i64, Body>,
    pub(crate) inbox_all: BTreeSet<String>,
    inbox_counter: i64,
    answered: BTreeMap<String, (i64, i64)>,
    /// How often a message took effect.
    pub(crate) applied: BTreeMap<String, u32>,
    pub(crate) log_max: usize,
}

impl Router {
    pub(crate) fn new(log_max: usize) -> Self {
        Self {
            rooms: BTreeMap::new(),
            inbox: BTreeMap::new(),
            inbox_all: BTreeSet::new(),
            inbox_counter: 0,
            answered: BTreeMap::new(),
            applied: BTreeMap::new(),
            log_max,
        }
    }

    /// Decides a call. The push is what a BIZ sends to the other members of its room.
    pub(crate) fn call(&mut self, now: u64, call: &UpCall) -> (Reply, Option<(i64, Arc<Push>)>) {
        match call {
            UpCall::Biz { room_id, data, msg_id, .. } => {
                if let Some(&(ts_ms, seq)) = self.answered.get(msg_id) {
                    return (Reply::Accepted { ts_ms, seq }, None);
                }
                *self.applied.entry(msg_id.clone()).or_default() += 1;
                let push = self.publish(*room_id, Body { data: Some(data.clone()), class: Some(2), ..Body::default() });
                let (ts_ms, seq) = (now.cast_signed(), push.body().seq.expect("the room numbers its messages"));
                self.answered.insert(msg_id.clone(), (ts_ms, seq));
                (Reply::Accepted { ts_ms, seq }, Some((*room_id, push)))
            }
            UpCall::Join { room_id, resume_seq, was_in: _ } => {
                let room = self.rooms.entry(*room_id).or_default();
                let newer = |after: i64| room.log.iter().filter(move |body| body.seq > Some(after)).cloned().collect::<Vec<_>>();
                let (mut messages, mut gap) = match resume_seq {
                    Some(after) => (newer(*after), room.trimmed_to > *after),
                    None => (newer(room.log.iter().rev().nth(HISTORY_MAX).and_then(|body| body.seq).unwrap_or(0)), false),
                };
                if messages.len() > SNAPSHOT_MAX {
                    messages.drain(..messages.len() - SNAPSHOT_MAX);
                    gap = true;
                }
                let snapshot = RoomSnapshot { audience: 1, states: room.states.clone(), messages, gap };
                let data = serde_json::to_string(&snapshot).expect("a snapshot is JSON");
                (Reply::Joined { room_id: *room_id, seq: room.counter, data }, None)
            }
            UpCall::Leave { .. } => (Reply::Accepted { ts_ms: now.cast_signed(), seq: 0 }, None),
            // What it holds is pushed to the session before this answer: see [`Self::redelivered`].
            UpCall::Redeliver => (Reply::Accepted { ts_ms: now.cast_signed(), seq: 0 }, None),
            UpCall::Sync { room_id: 0, from_id, resume, .. } => {
                let from = from_id.strip_suffix("-0").and_then(|id| id.parse().ok()).unwrap_or(0);
                let after = if *resume { 0 } else { from };
                let waiting: Vec<Body> = self.inbox.range(after + 1..).map(|(_, body)| body.clone()).collect();
                (Reply::Synced { room_id: 0, data: page(waiting) }, None)
            }
            UpCall::Sync { room_id, from_seq, .. } => {
                let room = self.rooms.entry(*room_id).or_default();
                let newer = room.log.iter().filter(|body| body.seq > Some(*from_seq)).cloned().collect();
                (Reply::Synced { room_id: *room_id, data: page(newer) }, None)
            }
        }
    }

    /// A message to a room gets its number and its place in the log, or among the states.
    pub(crate) fn publish(&mut self, room_id: i64, body: Body) -> Arc<Push> {
        let room = self.rooms.entry(room_id).or_default();
        room.counter += 1;
        let seq = room.counter;
        let msg_id = (body.qos == Some(1)).then(|| format!("r{room_id}-{seq}"));
        let body = Body { room_id: Some(room_id), seq: Some(seq), msg_id, biz_code: Some(5555), ..body };
        if let Some(key) = &body.key {
            room.states.insert(key.clone(), body.clone());
        } else {
            room.log.push(body.clone());
            if room.log.len() > self.log_max {
                let trimmed = room.log.remove(0);
                room.trimmed_to = trimmed.seq.unwrap_or(0);
            }
        }
        if body.key.is_none() && body.class.is_some_and(|class| class <= 1) {
            room.promised.insert(seq);
        }
        Arc::new(Push::new(body))
    }

    /// A message to the user: in the inbox until it is acknowledged.
    pub(crate) fn send_to_user(&mut self) -> Arc<Push> {
        self.inbox_counter += 1;
        let msg_id = format!("{}-0", self.inbox_counter);
        let body = Body { msg_id: Some(msg_id.clone()), qos: Some(1), class: Some(1), data: Some("{}".to_owned()), ..Body::default() };
        self.inbox.insert(self.inbox_counter, body.clone());
        self.inbox_all.insert(msg_id);
        Arc::new(Push::new(body))
    }

    /// What a session is sent again that did not say where it had been.
    pub(crate) fn redelivered(&self) -> Vec<Arc<Push>> {
        self.inbox.values().cloned().map(|body| Arc::new(Push::new(body))).collect()
    }

    pub(crate) fn acknowledged(&mut self, msg_id: &str) {
        if let Some(id) = msg_id.strip_suffix("-0").and_then(|id| id.parse().ok()) {
            self.inbox.remove(&id);
        }
    }
}

fn page(mut messages: Vec<Body>) -> String {
    let more = messages.len() > PAGE_MAX;
    messages.truncate(PAGE_MAX);
    serde_json::to_string(&SyncPage { messages, more, gap: false }).expect("a page is JSON")
}
