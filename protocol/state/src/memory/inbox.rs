//! QoS-1 messages to users. An inbox keeps its newest entries; a full process refuses, so that nobody is told of a message
//! that was not kept.

use super::dedup::Claims;
use super::expiring::Expiring;
use super::lock;
use crate::port::{INBOX_AGE_MAX_MS, INBOX_BYTES_MAX, INBOX_EMPTY_KEPT_MS, INBOX_ENTRIES_MAX, INBOX_KEPT_MS, Inbox, Result};
use crate::types::{AppId, AppendedOnce, InboxAppend, InboxEntry, InboxId, MessageClaim, Page, StateError, UserId};
use crate::watch::Watch;
use async_trait::async_trait;
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::Mutex;

/// Inboxes in all. 300 bytes each with one entry, and 76 for each further one, bodies apart (measured).
const INBOXES_MAX: usize = 1_000_000;
/// Bytes in all: what an embedded process can spare.
const BYTES_MAX: usize = 512 * 1024 * 1024;

/// The smallest id that a message gets: `0-0` stands for the beginning.
const FIRST_ID: InboxId = InboxId { ms: 0, n: 1 };

#[derive(Debug)]
struct Stored {
    id: InboxId,
    /// The id asked for; more than `id` never, less where a later one was there already. It tells a repeated call.
    asked: InboxId,
    at_ms: u64,
    body: Bytes,
}

#[derive(Debug)]
struct UserInbox {
    entries: VecDeque<Stored>,
    last: InboxId,
    appended_ms: u64,
    /// The newest entry that was trimmed, not acknowledged.
    trimmed_to: Option<InboxId>,
    bytes: usize,
}

impl UserInbox {
    /// The id under which an earlier, repeated call left the message. Ids given are never smaller than those asked for, so
    /// only entries from there on are looked at: most often none.
    fn repeated(&self, asked: InboxId, body: &Bytes) -> Option<InboxId> {
        let from_newest = self.entries.iter().rev().take_while(|stored| stored.id >= asked);
        from_newest.filter(|stored| stored.asked == asked && stored.body == *body).map(|stored| stored.id).next()
    }

    /// Gives how many gave way.
    fn trim(&mut self, now_ms: u64) -> u64 {
        let mut given_way = 0;
        while let Some(oldest) = self.entries.front() {
            let fits = self.entries.len() <= INBOX_ENTRIES_MAX && self.bytes <= INBOX_BYTES_MAX;
            if fits && now_ms.saturating_sub(oldest.at_ms) < INBOX_AGE_MAX_MS {
                break;
            }
            given_way += 1;
            self.bytes -= oldest.body.len();
            self.trimmed_to = Some(oldest.id);
            self.entries.pop_front();
        }
        given_way
    }
}

#[derive(Debug)]
struct Table {
    inboxes: Expiring<(AppId, UserId), UserInbox>,
    claims: Claims<(AppId, UserId), InboxId>,
    bytes: usize,
    watch: Watch,
}

impl Table {
    fn sweep(&mut self, now_ms: u64, adding: usize) {
        let bytes = &mut self.bytes;
        self.inboxes.sweep(now_ms, adding, |_, inbox| *bytes -= inbox.bytes);
    }

    /// An inbox whose time is over is not there, whether the sweep has come by or not.
    fn forget_ended(&mut self, owner: (AppId, UserId), now_ms: u64) {
        if self.inboxes.live(&owner, now_ms).is_none()
            && let Some(inbox) = self.inboxes.remove(&owner)
        {
            self.bytes -= inbox.bytes;
        }
    }

    fn append(&mut self, owner: (AppId, UserId), asked: InboxId, body: &Bytes, now_ms: u64) -> Result<InboxId> {
        self.forget_ended(owner, now_ms);
        if let Some(inbox) = self.inboxes.stored_mut(&owner) {
            if let Some(id) = inbox.repeated(asked, body) {
                return Ok(id);
            }
            let id = if asked > inbox.last { asked } else { inbox.last.next().ok_or(StateError::Malformed { what: "inbox id" })? };
            let before = inbox.bytes;
            inbox.bytes += body.len();
            inbox.entries.push_back(Stored { id, asked, at_ms: now_ms, body: body.clone() });
            inbox.last = id;
            inbox.appended_ms = inbox.appended_ms.max(now_ms);
            self.watch.gave_way(inbox.trim(now_ms));
            self.bytes = self.bytes - before + inbox.bytes;
            let until_ms = inbox.appended_ms.saturating_add(INBOX_KEPT_MS);
            self.inboxes.set_until(owner, until_ms);
            return Ok(id);
        }
        let id = asked.max(FIRST_ID);
        let entries = VecDeque::from([Stored { id, asked, at_ms: now_ms, body: body.clone() }]);
        let mut inbox = UserInbox { entries, last: id, appended_ms: now_ms, trimmed_to: None, bytes: body.len() };
        self.watch.gave_way(inbox.trim(now_ms));
        self.bytes += inbox.bytes;
        self.inboxes.insert(owner, inbox, now_ms.saturating_add(INBOX_KEPT_MS));
        Ok(id)
    }
}

#[derive(Debug)]
pub(super) struct InboxTable {
    table: Mutex<Table>,
    inboxes_max: usize,
    bytes_max: usize,
}

impl InboxTable {
    pub(super) fn new(watch: Watch) -> Self {
        Self::with_max(INBOXES_MAX, BYTES_MAX, watch)
    }

    pub(super) fn with_max(inboxes_max: usize, bytes_max: usize, watch: Watch) -> Self {
        Self { table: Mutex::new(Table { inboxes: Expiring::new(), claims: Claims::new(), bytes: 0, watch }), inboxes_max, bytes_max }
    }

    fn append_claimed(&self, InboxAppend { app, user, id, body, claim }: &InboxAppend, now_ms: u64) -> Result<AppendedOnce> {
        let asked = InboxId::parse_new(id)?;
        let (app, user, body) = (*app, *user, Bytes::copy_from_slice(body));
        let mut table = lock(&self.table);
        let standing = |claim: &MessageClaim| table.claims.standing((app, user), claim.app, claim.user, &claim.msg_id, now_ms);
        if let Some(first) = claim.as_ref().and_then(standing) {
            return Ok(AppendedOnce { id: first.to_string(), is_first: false });
        }
        table.sweep(now_ms, 1);
        if table.inboxes.len() >= self.inboxes_max && table.inboxes.stored(&(app, user)).is_none() {
            return Err(StateError::Full { what: "inboxes", limit: self.inboxes_max });
        }
        if table.bytes + body.len() > self.bytes_max {
            return Err(StateError::Full { what: "inbox bytes", limit: self.bytes_max });
        }
        let id = table.append((app, user), asked, &body, now_ms)?;
        if let Some(claim) = claim {
            table.claims.make((app, user), claim, id, now_ms);
        }
        Ok(AppendedOnce { id: id.to_string(), is_first: true })
    }
}

#[async_trait]
impl Inbox for InboxTable {
    async fn append(&self, app: AppId, users: &[UserId], id: &str, body: Bytes, now_ms: u64) -> Result<Vec<String>> {
        let asked = InboxId::parse_new(id)?;
        // A copy of its own: the body may be a slice of a read buffer a hundred times its size.
        let body = Bytes::copy_from_slice(&body);
        let mut table = lock(&self.table);
        table.sweep(now_ms, users.len());
        if table.inboxes.len() + users.len() > self.inboxes_max {
            let new = users.iter().filter(|user| table.inboxes.stored(&(app, **user)).is_none()).count();
            if table.inboxes.len() + new > self.inboxes_max {
                return Err(StateError::Full { what: "inboxes", limit: self.inboxes_max });
            }
        }
        if table.bytes + users.len() * body.len() > self.bytes_max {
            return Err(StateError::Full { what: "inbox bytes", limit: self.bytes_max });
        }
        users.iter().map(|user| Ok(table.append((app, *user), asked, &body, now_ms)?.to_string())).collect()
    }

    async fn append_each(&self, appends: &[InboxAppend], now_ms: u64) -> Vec<Result<AppendedOnce>> {
        appends.iter().map(|append| self.append_claimed(append, now_ms)).collect()
    }

    async fn taken(&self, app: AppId, user: UserId, claim: &MessageClaim, now_ms: u64) -> Result<Option<String>> {
        let standing = lock(&self.table).claims.standing((app, user), claim.app, claim.user, &claim.msg_id, now_ms);
        Ok(standing.map(|id| id.to_string()))
    }

    async fn read(&self, app: AppId, user: UserId, after: Option<&str>, limit: usize, now_ms: u64) -> Result<Page<InboxEntry>> {
        let after = after.map(|id| InboxId::parse(id).ok_or(StateError::Malformed { what: "inbox id" })).transpose()?;
        let mut table = lock(&self.table);
        table.forget_ended((app, user), now_ms);
        let Some(inbox) = table.inboxes.stored_mut(&(app, user)) else { return Ok(Page::default()) };
        let before = inbox.bytes;
        inbox.trim(now_ms);
        let freed = before - inbox.bytes;
        let start = after.map_or(0, |after| inbox.entries.partition_point(|stored| stored.id <= after));
        let entries: Vec<_> =
            inbox.entries.iter().skip(start).take(limit).map(|s| InboxEntry { id: s.id.to_string(), body: s.body.clone() }).collect();
        let page = Page {
            more: start + entries.len() < inbox.entries.len(),
            gap: after.is_some_and(|after| inbox.trimmed_to.is_some_and(|trimmed| trimmed > after)),
            entries,
        };
        table.bytes -= freed;
        Ok(page)
    }

    async fn ack(&self, acked: &[(AppId, UserId, String)]) -> Result<()> {
        let mut table = lock(&self.table);
        for (app, user, id) in acked {
            let owner = (*app, *user);
            let (Some(id), Some(inbox)) = (InboxId::parse(id), table.inboxes.stored_mut(&owner)) else { continue };
            let Ok(place) = inbox.entries.binary_search_by(|stored| stored.id.cmp(&id)) else { continue };
            let stored = inbox.entries.remove(place).expect("found a line ago");
            inbox.bytes -= stored.body.len();
            let empty_until_ms = inbox.entries.is_empty().then(|| inbox.appended_ms.saturating_add(INBOX_EMPTY_KEPT_MS));
            table.bytes -= stored.body.len();
            if let Some(until_ms) = empty_until_ms {
                table.inboxes.set_until(owner, until_ms);
            }
        }
        Ok(())
    }
}
