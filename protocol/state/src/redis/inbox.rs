//! [`Inbox`]: a stream for each user, and its claims in two hashes.
//!
//! An inbox that is empty is its notes alone, and they go after a few minutes.

use super::command::{Command, Script};
use super::connection::Connection;
use super::gather::{Batch, Gather, Gathering, share};
use super::stream::{self, Bounds, Wanted, stream_script};
use super::{life, short_life};
use crate::port::{INBOX_AGE_MAX_MS, INBOX_BYTES_MAX, INBOX_EMPTY_KEPT_MS, INBOX_ENTRIES_MAX, INBOX_KEPT_MS, Inbox, Result};
use crate::types::{AppId, AppendedOnce, InboxAppend, InboxEntry, InboxId, MessageClaim, Page, StateError, UserId};
use crate::watch::Watch;
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::join_all;
use std::collections::{BTreeMap, BTreeSet};

static APPEND: Script = stream_script!("lua/inbox_append.lua");
static APPEND_EACH: Script = Script::new(concat!(
    "local function append(KEYS, ARGV)\n",
    include_str!("lua/notes.lua"),
    include_str!("lua/inbox_append.lua"),
    "end\n",
    include_str!("lua/inbox_append_each.lua"),
));
static ACK_EACH: Script = Script::new(concat!(
    "local function ack(KEYS, ARGV)\n",
    include_str!("lua/inbox_ack.lua"),
    "end\n",
    include_str!("lua/inbox_ack_each.lua")
));

const BOUNDS: Bounds = Bounds { entries: INBOX_ENTRIES_MAX, bytes: INBOX_BYTES_MAX, age_ms: INBOX_AGE_MAX_MS };

/// Inboxes that one round trip appends to: each is sent a copy of the body, and 256 of the largest are 16 MiB.
const INBOXES_AT_ONCE: usize = 256;
/// Messages, or inboxes, in one script: a third of a millisecond of a server's time, and what a call costs by itself is spread over them.
const OF_ONE_SCRIPT: usize = 16;

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

    fn append_one(&self, app: AppId, user: UserId, asked: InboxId, body: &[u8], now_ms: u64) -> Command {
        let keys = self.connection.keys();
        let until_ms = now_ms.saturating_add(INBOX_KEPT_MS);
        stream::call(&APPEND, &[&keys.inbox(app, user), &keys.inbox_notes(app, user)], BOUNDS, now_ms)
            .arg(asked.to_string())
            .arg(body)
            .arg(until_ms)
            .arg(life(now_ms, until_ms))
    }

    fn append_some<'a>(&self, appends: impl Iterator<Item = &'a InboxAppend>, now_ms: u64) -> Command {
        let keys = self.connection.keys();
        let appends: Vec<&InboxAppend> = appends.collect();
        let names = |InboxAppend { app, user, .. }: &&InboxAppend| {
            let [claims, before] = keys.inbox_claims(*app, *user);
            [keys.inbox(*app, *user), keys.inbox_notes(*app, *user), claims, before]
        };
        let names: Vec<String> = appends.iter().flat_map(names).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let until_ms = now_ms.saturating_add(INBOX_KEPT_MS);
        let command = Command::script_on_one_server(&APPEND_EACH, &names);
        let command =
            command.arg(now_ms).arg(BOUNDS.entries).arg(BOUNDS.bytes).arg(BOUNDS.age_ms).arg(until_ms).arg(life(now_ms, until_ms));
        let argue = |command: Command, InboxAppend { id, body, claim, .. }: &InboxAppend| {
            let (name, until_ms) = claim.as_ref().map_or_else(Default::default, |claim| (stream::name_of(claim), claim.until_ms));
            command.arg(id).arg(&body[..]).arg(name).arg(until_ms).arg(life(now_ms, until_ms))
        };
        // A second time it would find its own claims.
        appends.into_iter().fold(command, argue).once()
    }

    fn ack_some(&self, inboxes: &[((AppId, UserId), Vec<String>)]) -> Command {
        let keys = self.connection.keys();
        let names = |((app, user), _): &(_, _)| [keys.inbox(*app, *user), keys.inbox_notes(*app, *user)];
        let names: Vec<String> = inboxes.iter().flat_map(names).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let command = Command::script_on_one_server(&ACK_EACH, &names);
        let command = command.arg(short_life(0, INBOX_EMPTY_KEPT_MS)).arg(INBOX_KEPT_MS).arg(INBOX_EMPTY_KEPT_MS);
        inboxes.iter().fold(command, |command, (_, ids)| command.arg(ids.len()).arg(ids))
    }

    /// Appends what stands at these places, in one script.
    async fn append_together(&self, appends: &[InboxAppend], places: &[usize], now_ms: u64) -> Vec<Result<AppendedOnce>> {
        const WHAT: &str = "appending to inboxes";
        let some = |places: &[usize]| self.append_some(places.iter().map(|place| &appends[*place]), now_ms);
        let given: Result<Vec<(String, bool, u64)>> = self.connection.run(WHAT, some(places)).await;
        let told = |given: Vec<(String, bool, u64)>| {
            self.watch.gave_way(given.iter().map(|(_, _, given_way)| given_way).sum());
            given.into_iter().map(|(id, is_first, _)| Ok(AppendedOnce { id, is_first })).collect::<Vec<_>>()
        };
        match given {
            Ok(given) => told(given),
            // A key that is spoilt is somebody's alone.
            Err(StateError::Spoilt { .. }) if places.len() > 1 => {
                let mut outcomes = Vec::with_capacity(places.len());
                for place in places {
                    match self.connection.run(WHAT, some(&[*place])).await {
                        Ok(given) => outcomes.extend(told(given)),
                        Err(error) => outcomes.push(Err(error)),
                    }
                }
                outcomes
            }
            Err(error) => {
                let share = share(error);
                places.iter().map(|_| Err(share())).collect()
            }
        }
    }
}

#[async_trait]
impl Inbox for RedisInbox {
    async fn append(&self, app: AppId, users: &[UserId], id: &str, body: Bytes, now_ms: u64) -> Result<Vec<String>> {
        let asked = InboxId::parse_new(id)?;
        let mut ids = Vec::with_capacity(users.len());
        for users in users.chunks(INBOXES_AT_ONCE) {
            let commands = users.iter().map(|user| self.append_one(app, *user, asked, &body, now_ms)).collect();
            let given: Vec<(String, bool, u64)> = self.connection.run_many("appending to inboxes", commands).await?;
            self.watch.gave_way(given.iter().map(|(_, _, given_way)| given_way).sum());
            ids.extend(given.into_iter().map(|(id, ..)| id));
        }
        Ok(ids)
    }

    async fn append_each(&self, appends: &[InboxAppend], now_ms: u64) -> Vec<Result<AppendedOnce>> {
        let mut outcomes: Vec<Option<Result<AppendedOnce>>> = Vec::with_capacity(appends.len());
        outcomes.extend(appends.iter().map(|append| InboxId::parse_new(&append.id).err().map(Err)));
        let sound = (0..appends.len()).filter(|place| outcomes[*place].is_none());
        // In a cluster only what goes to the same inbox lies in one slot.
        let together: Vec<Vec<usize>> = if self.connection.is_one_server() {
            sound.collect::<Vec<_>>().chunks(OF_ONE_SCRIPT).map(<[usize]>::to_vec).collect()
        } else {
            let mut by_inbox: BTreeMap<(AppId, UserId), Vec<usize>> = BTreeMap::new();
            sound.for_each(|place| by_inbox.entry((appends[place].app, appends[place].user)).or_default().push(place));
            by_inbox.into_values().collect()
        };
        let appended = join_all(together.iter().map(|places| self.append_together(appends, places, now_ms))).await;
        for (places, appended) in together.iter().zip(appended) {
            places.iter().zip(appended).for_each(|(place, outcome)| outcomes[*place] = Some(outcome));
        }
        outcomes.into_iter().map(|outcome| outcome.expect("each is malformed or was asked for")).collect()
    }

    async fn taken(&self, app: AppId, user: UserId, claim: &MessageClaim, now_ms: u64) -> Result<Option<String>> {
        let name = stream::name_of(claim);
        // In this order: what is moved meanwhile was seen before.
        let commands = self.connection.keys().inbox_claims(app, user).iter().map(|key| Command::new("HGET", key).arg(&name)).collect();
        let claims: Vec<Option<String>> = self.connection.run_many("looking for a message", commands).await?;
        let standing = |claim: String| {
            let (until_ms, id) = claim.split_once('%')?;
            (now_ms < until_ms.parse().ok()?).then(|| id.to_owned())
        };
        Ok(claims.into_iter().flatten().filter_map(standing).next_back())
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
        let inboxes: Vec<_> =
            by_inbox.into_iter().map(|(owner, ids)| (owner, ids.into_iter().map(|id| id.to_string()).collect())).collect();
        let at_once = if self.connection.is_one_server() { OF_ONE_SCRIPT } else { 1 };
        const WHAT: &str = "acknowledging inbox entries";
        let commands = |at_once: usize| inboxes.chunks(at_once).map(|some| self.ack_some(some)).collect();
        match self.connection.run_many::<i64>(WHAT, commands(at_once)).await {
            // A key that is spoilt must not keep the others of its script from being acknowledged.
            Err(StateError::Spoilt { .. }) if at_once > 1 => self.connection.run_many::<i64>(WHAT, commands(1)).await.map(drop),
            acked => acked.map(drop),
        }
    }
}
