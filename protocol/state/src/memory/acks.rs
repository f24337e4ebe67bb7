//! Deliveries that wait for an ACK. A user who never acknowledges loses the entries due soonest; the messages themselves are
//! in the inbox or the room log.

use super::lock;
use crate::port::{ACK_TIMES_MAX, ACKS_PER_USER_MAX, Acks, ROOM_LOG_AGE_MAX_MS, Result, ack_again_ms};
use crate::types::{AppId, PendingAck, RoomId, StateError, UserId};
use async_trait::async_trait;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

/// Entries in all: only late ACKs are recorded, so this is far above what a process carries. About 250 bytes each.
const ACKS_MAX: usize = 1_000_000;

type Owner = (AppId, UserId);

#[derive(Debug)]
struct Waiting {
    msg_id: Arc<str>,
    room: Option<RoomId>,
    times_sent: u32,
    due_ms: u64,
}

#[derive(Debug, Default)]
struct Table {
    /// In no order: most users have one or two, and none more than [`ACKS_PER_USER_MAX`].
    by_user: HashMap<Owner, Vec<Waiting>>,
    by_due: BTreeSet<(u64, Owner, Arc<str>)>,
}

impl Table {
    fn contains(&self, owner: Owner, msg_id: &str) -> bool {
        self.by_user.get(&owner).is_some_and(|waiting| waiting.iter().any(|waiting| *waiting.msg_id == *msg_id))
    }

    fn insert(&mut self, pending: &PendingAck) {
        let owner = (pending.app, pending.user);
        self.take(owner, &pending.msg_id);
        let of_user = self.by_user.get(&owner).filter(|waiting| waiting.len() >= ACKS_PER_USER_MAX);
        let soonest = of_user
            .into_iter()
            .flatten()
            .min_by_key(|waiting| (waiting.due_ms, &waiting.msg_id))
            .map(|waiting| Arc::clone(&waiting.msg_id));
        if let Some(msg_id) = soonest {
            self.take(owner, &msg_id);
        }
        let msg_id: Arc<str> = Arc::from(pending.msg_id.as_str());
        self.by_due.insert((pending.due_ms, owner, Arc::clone(&msg_id)));
        let waiting = Waiting { msg_id, room: pending.room, times_sent: pending.times_sent, due_ms: pending.due_ms };
        self.by_user.entry(owner).or_insert_with(|| Vec::with_capacity(1)).push(waiting);
    }

    fn take(&mut self, owner: Owner, msg_id: &str) -> Option<PendingAck> {
        let of_user = self.by_user.get_mut(&owner)?;
        let place = of_user.iter().position(|waiting| *waiting.msg_id == *msg_id)?;
        let waiting = of_user.swap_remove(place);
        if of_user.is_empty() {
            self.by_user.remove(&owner);
        }
        let pending = pending_ack(owner, &waiting);
        self.by_due.remove(&(waiting.due_ms, owner, waiting.msg_id));
        Some(pending)
    }
}

fn pending_ack((app, user): Owner, waiting: &Waiting) -> PendingAck {
    PendingAck { app, user, msg_id: waiting.msg_id.to_string(), room: waiting.room, times_sent: waiting.times_sent, due_ms: waiting.due_ms }
}

#[derive(Debug)]
pub(super) struct AckTable {
    table: Mutex<Table>,
    max: usize,
}

impl AckTable {
    pub(super) fn new() -> Self {
        Self::with_max(ACKS_MAX)
    }

    pub(super) fn with_max(max: usize) -> Self {
        Self { table: Mutex::new(Table::default()), max }
    }
}

#[async_trait]
impl Acks for AckTable {
    async fn record(&self, pending: &[PendingAck]) -> Result<()> {
        let mut table = lock(&self.table);
        if table.by_due.len() + pending.len() > self.max {
            let new = pending.iter().filter(|ack| !table.contains((ack.app, ack.user), &ack.msg_id)).count();
            if table.by_due.len() + new > self.max {
                return Err(StateError::Full { what: "acks", limit: self.max });
            }
        }
        for ack in pending {
            table.insert(ack);
        }
        Ok(())
    }

    async fn remove(&self, acked: &[(AppId, UserId, String)]) -> Result<()> {
        let mut table = lock(&self.table);
        for (app, user, msg_id) in acked {
            table.take((*app, *user), msg_id);
        }
        Ok(())
    }

    async fn pending(&self, app: AppId, user: UserId) -> Result<Vec<PendingAck>> {
        let table = lock(&self.table);
        let of_user = table.by_user.get(&(app, user)).into_iter().flatten();
        let mut pending: Vec<_> = of_user.map(|waiting| pending_ack((app, user), waiting)).collect();
        pending.sort_by(|a, b| a.due_ms.cmp(&b.due_ms).then_with(|| a.msg_id.cmp(&b.msg_id)));
        Ok(pending)
    }

    async fn postpone(&self, before_ms: u64, now_ms: u64, limit: usize) -> Result<Vec<PendingAck>> {
        let mut table = lock(&self.table);
        let mut overdue = Vec::new();
        while overdue.len() < limit {
            let Some((due, owner, msg_id)) = table.by_due.first().cloned() else { break };
            if due >= before_ms {
                break;
            }
            overdue.push(table.take(owner, &msg_id).expect("both indexes hold the same entries"));
        }
        // Behind the loop: what is put off to a time before `before_ms` is not met twice.
        for pending in overdue.iter().filter(|pending| pending.times_sent < ACK_TIMES_MAX) {
            let (times_sent, wait_ms) = match pending.room {
                None => (pending.times_sent + 1, ack_again_ms(pending.times_sent)),
                Some(_) => (ACK_TIMES_MAX, ROOM_LOG_AGE_MAX_MS),
            };
            table.insert(&PendingAck { times_sent, due_ms: now_ms + wait_ms, ..pending.clone() });
        }
        Ok(overdue)
    }
}
