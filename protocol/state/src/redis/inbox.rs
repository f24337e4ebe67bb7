//! [`Inbox`]: a stream for each user, and its claims in two hashes.
//!
//! An inbox that is empty is its notes alone, and they go after a few minutes.

use super::command::{Command, Script};
use super::connection::Connection;
use super::gather::{Batch, Gather, Gathering};
use super::stream::{self, Bounds, Wanted, stream_script};
use super::{life, short_life};
use crate::port::{INBOX_AGE_MAX_MS, INBOX_BYTES_MAX, INBOX_EMPTY_KEPT_MS, INBOX_ENTRIES_MAX, INBOX_KEPT_MS, Inbox, Result};
use crate::types::{AppId, AppendedOnce, InboxEntry, InboxId, MessageClaim, Page, StateError, UserId};
use crate::watch::Watch;
use async_trait::async_trait;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

static APPEND: Script = stream_script!("lua/inbox_append.lua");
static ACK: Script = Script::new(include_str!("lua/inbox_ack.lua"));

const BOUNDS: Bounds = Bounds { entries: INBOX_ENTRIES_MAX, bytes: INBOX_BYTES_MAX, age_ms: INBOX_AGE_MAX_MS };

/// Inboxes that one round trip appends to: each is sent a copy of the body, and 256 of the largest are 16 MiB.
const INBOXES_AT_ONCE: usize = 256;

pub(super) struct RedisInbox {
    connection: Connection,
    watch: Watch,
    looking: Gather<Looks>,
}

/// Whether there are notes, and so may be entries; by their key.
struct Looks(Connection);

#[async_trait]
impl Batch for Looks {
    type Ask = String;
    type Answer = bool;

    async fn run(&self, notes: Vec<String>) -> Result<Vec<bool>> {
        self.0.exist("looking for an inbox", notes).await
    }

    fn alone(ask: &String) -> Option<String> {
        Some(ask.clone())
    }
}

impl RedisInbox {
    pub(super) fn new(connection: Connection, watch: Watch, gathering: &Gathering) -> Self {
        Self { looking: gathering.gather(Looks(connection.clone())), connection, watch }
    }

    fn append_one(&self, app: AppId, user: UserId, asked: InboxId, body: &[u8], claim: Option<&MessageClaim>, now_ms: u64) -> Command {
        let keys = self.connection.keys();
        let mut names = vec![keys.inbox(app, user), keys.inbox_notes(app, user)];
        names.extend(claim.map(|_| keys.inbox_claims(app, user)).into_iter().flatten());
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let until_ms = now_ms.saturating_add(INBOX_KEPT_MS);
        let command =
            stream::call(&APPEND, &names, BOUNDS, now_ms).arg(asked.to_string()).arg(body).arg(until_ms).arg(life(now_ms, until_ms));
        match claim {
            // A second time it would find its own claim.
            Some(claim) => command.arg(stream::name_of(claim)).arg(claim.until_ms).arg(life(now_ms, claim.until_ms)).once(),
            None => command,
        }
    }
}

#[async_trait]
impl Inbox for RedisInbox {
    async fn append(&self, app: AppId, users: &[UserId], id: &str, body: Bytes, now_ms: u64) -> Result<Vec<String>> {
        let asked = InboxId::parse_new(id)?;
        let mut ids = Vec::with_capacity(users.len());
        for users in users.chunks(INBOXES_AT_ONCE) {
            let commands = users.iter().map(|user| self.append_one(app, *user, asked, &body, None, now_ms)).collect();
            let given: Vec<(String, bool, u64)> = self.connection.run_many("appending to inboxes", commands).await?;
            self.watch.gave_way(given.iter().map(|(_, _, given_way)| given_way).sum());
            ids.extend(given.into_iter().map(|(id, ..)| id));
        }
        Ok(ids)
    }

    async fn append_once(
        &self,
        app: AppId,
        user: UserId,
        id: &str,
        body: Bytes,
        claim: &MessageClaim,
        now_ms: u64,
    ) -> Result<AppendedOnce> {
        let asked = InboxId::parse_new(id)?;
        let command = self.append_one(app, user, asked, &body, Some(claim), now_ms);
        let (id, is_first, given_way) = self.connection.run("appending to an inbox", command).await?;
        self.watch.gave_way(given_way);
        Ok(AppendedOnce { id, is_first })
    }

    async fn read(&self, app: AppId, user: UserId, after: Option<&str>, limit: usize, now_ms: u64) -> Result<Page<InboxEntry>> {
        let after = after.map(|id| InboxId::parse(id).ok_or(StateError::Malformed { what: "inbox id" })).transpose()?;
        let from = match after {
            None => "-".to_owned(),
            Some(after) => match after.next() {
                Some(next) => next.to_string(),
                // Nothing comes after the largest of all.
                None => return Ok(Page::default()),
            },
        };
        let keys = [&*self.connection.keys().inbox(app, user), &*self.connection.keys().inbox_notes(app, user)];
        // Most who log in have none: one plain command tells.
        if after.is_none() && !self.looking.ask_one(keys[1].to_owned()).await? {
            return Ok(Page::default());
        }
        let wanted = Wanted { from, gap_after: after.map(|after| after.to_string()), limit };
        let (entries, more, gap) = stream::read(&self.connection, "reading an inbox", keys, BOUNDS, wanted, now_ms).await?;
        Ok(Page { entries: entries.into_iter().map(|raw| InboxEntry { id: raw.id, body: raw.body }).collect(), more, gap })
    }

    async fn ack(&self, acked: &[(AppId, UserId, String)]) -> Result<()> {
        let mut by_inbox: BTreeMap<(AppId, UserId), BTreeSet<InboxId>> = BTreeMap::new();
        for (app, user, id) in acked {
            if let Some(id) = InboxId::parse(id) {
                by_inbox.entry((*app, *user)).or_default().insert(id);
            }
        }
        let keys = self.connection.keys();
        let mut commands = Vec::with_capacity(by_inbox.len());
        for ((app, user), ids) in &by_inbox {
            let ids: Vec<String> = ids.iter().map(InboxId::to_string).collect();
            for ids in ids.chunks(INBOX_ENTRIES_MAX) {
                let command = Command::script(&ACK, &[&keys.inbox(*app, *user), &keys.inbox_notes(*app, *user)])
                    .arg(short_life(0, INBOX_EMPTY_KEPT_MS))
                    .arg(INBOX_KEPT_MS)
                    .arg(INBOX_EMPTY_KEPT_MS)
                    .arg(ids);
                commands.push(command);
            }
        }
        self.connection.run_many::<i64>("acknowledging inbox entries", commands).await.map(drop)
    }
}
