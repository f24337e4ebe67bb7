//! The ports. Each is one need of the data path; together they are [`State`].

use crate::clock::Clock;
use crate::types::{
    AppId, Appended, AppendedOnce, CodeAsk, CodeKept, CodeVerdict, InboxAppend, InboxEntry, Lease, LeaseAsk, LogAppend, LogEntry, Member,
    MemberPage, MessageClaim, NodeInfo, NodeKind, Page, PendingAck, PkBar, PkStep, PkStepped, RoomId, Route, SessionOwner, StateError,
    TokenOwner, UserId, WindowHit, WindowVerdict,
};
use crate::watch::Watch;
use async_trait::async_trait;
use bytes::Bytes;
use std::{collections::BTreeMap, sync::Arc};

#[cfg(doc)]
use crate::types::PK_SEQ_MAX;

/// A user is forgotten this long after the last sign of life, where nobody sweeps: a lost gateway's users do not stay for ever.
pub const PRESENCE_KEPT_MS: u64 = 5 * 60 * 1000;
/// Pending ACKs of one user; a session's own window is smaller.
pub const ACKS_PER_USER_MAX: usize = 512;
/// How often a delivery whose ACK is overdue is told of, before it is given up: for more than an hour.
pub const ACK_TIMES_MAX: u32 = 20;
/// How long a delivery that was sent once is put off; twice as long for each time more.
pub const ACK_AGAIN_MS: u64 = 4_000;
/// Longest that a delivery is put off: who can be reached again is told within five minutes.
pub const ACK_AGAIN_MAX_MS: u64 = 5 * 60 * 1000;
/// Entries of one inbox: what a phone pulls in one go after a long night.
pub const INBOX_ENTRIES_MAX: usize = 500;
/// Bytes of one inbox, or 16 largest bodies; usual ones are some hundred bytes each.
pub const INBOX_BYTES_MAX: usize = 1024 * 1024;
/// Age of an inbox entry: a week away from the phone.
pub const INBOX_AGE_MAX_MS: u64 = 7 * 24 * 3600 * 1000;
/// How long after its last message an inbox knows its last id and what it has trimmed: who comes back in the second week is told.
pub const INBOX_KEPT_MS: u64 = 2 * INBOX_AGE_MAX_MS;
/// The same, once all is acknowledged. Ids come from clocks, and no two of them differ by this much.
pub const INBOX_EMPTY_KEPT_MS: u64 = 10 * 60 * 1000;
/// Entries of one room's log: what a returning viewer could want to scroll through.
pub const ROOM_LOG_ENTRIES_MAX: usize = 500;
/// Bytes of one room's log, or 16 largest bodies.
pub const ROOM_LOG_BYTES_MAX: usize = 1024 * 1024;
/// Age of a log entry: nobody reads an hour-old line of a live room.
pub const ROOM_LOG_AGE_MAX_MS: u64 = 3600 * 1000;
/// How long after its last entry a log knows its last `seq` and what it has trimmed. As long as the member list.
pub const ROOM_LOG_KEPT_MS: u64 = 12 * 3600 * 1000;
/// A member list that nobody joins or leaves for so long is of a room that was never closed properly.
pub const MEMBERS_KEPT_MS: u64 = 12 * 3600 * 1000;

/// A bar that no gift has moved for so long is of a room that was never closed properly.
pub const PK_BAR_KEPT_MS: u64 = 12 * 3600 * 1000;

/// How long a bind tells whom earlier ones displaced: whoever was let in with an answer that got lost, or was turned away for it and comes
/// again, is back by then.
pub const DISPLACED_KEPT_MS: u64 = 5 * 60 * 1000;
/// Sessions that one bind tells of, the newest: as many as a device has one after the other while answers are lost.
pub const DISPLACED_MAX: usize = 4;

/// Sessions of one user at the HTTP API: two of each kind of device.
pub const SESSIONS_PER_USER_MAX: usize = 10;

/// Result of every call.
pub type Result<T> = std::result::Result<T, StateError>;

/// How long a delivery that was sent so often is put off.
#[must_use]
pub fn ack_again_ms(times_sent: u32) -> u64 {
    (ACK_AGAIN_MS << times_sent.min(16)).min(ACK_AGAIN_MAX_MS)
}

/// Login tokens: `imLoginToken:{token}`.
#[async_trait]
pub trait Tokens: Send + Sync {
    /// Stores a token until `until_ms`.
    async fn issue(&self, token: &str, owner: TokenOwner, now_ms: u64, until_ms: u64) -> Result<()>;
    /// Whom each token lets in; `None` for one that is unknown, expired or revoked. Answers in the order asked.
    async fn resolve(&self, tokens: &[String], now_ms: u64) -> Result<Vec<Option<TokenOwner>>>;
    /// Makes tokens void; unknown ones are no error.
    async fn revoke(&self, tokens: &[String]) -> Result<()>;
}

/// Signs of life: `imOnlineZset:{appId}:{userId % 10000}`.
#[async_trait]
pub trait Presence: Send + Sync {
    /// Each user was alive at the moment given. A later sign is never replaced by an earlier one. Kept for [`PRESENCE_KEPT_MS`].
    async fn touch_each(&self, signs: &[(AppId, UserId, u64)]) -> Result<()>;
    /// As [`Self::touch_each`], all of them at `now_ms`.
    async fn touch(&self, users: &[(AppId, UserId)], now_ms: u64) -> Result<()> {
        let signs: Vec<_> = users.iter().map(|(app, user)| (*app, *user, now_ms)).collect();
        self.touch_each(&signs).await
    }
    /// Each user has gone who showed no sign of life after the given moment: it is the last sign that the caller knows of. One that
    /// came later is of a session elsewhere, and stands. Of a user given several times the latest moment counts.
    async fn remove(&self, users: &[(AppId, UserId, u64)]) -> Result<()>;
    /// Which of them showed a sign of life at or after `since_ms`. Answers in the order asked.
    async fn online(&self, app: AppId, users: &[UserId], since_ms: u64) -> Result<Vec<bool>>;
    /// Forgets at most `limit` users whose last sign is before `before_ms`, and names them. A call may look at a part of the table
    /// only, so fewer than `limit`, even none, does not mean that none is left; the calls go round, and a node calls on every tick.
    async fn sweep(&self, before_ms: u64, limit: usize) -> Result<Vec<(AppId, UserId)>>;
}

/// Where to push: `bindIp:{appId}:{userId}`.
#[async_trait]
pub trait Routes: Send + Sync {
    /// Binds each device to its session until `until_ms` and gives whom it displaced, the newest first: what stood before, and whom the
    /// binds of this device in the last [`DISPLACED_KEPT_MS`] displaced, at most [`DISPLACED_MAX`], never the route itself. So a repeat
    /// gives the same again, and who comes after a bind whose answer was lost is told of those that its caller was to end. What had run
    /// out when it was replaced is not told of. A device given twice in one call is bound in the order given.
    async fn bind(&self, routes: &[Route], now_ms: u64, until_ms: u64) -> Result<Vec<Vec<Route>>>;
    /// Renews the routes that still stand as given; the others are left alone and told by `false`.
    async fn renew(&self, routes: &[Route], now_ms: u64, until_ms: u64) -> Result<Vec<bool>>;
    /// Deletes each route if it still stands as given (compare and delete): a session never removes its successor's. Says of each
    /// whether its user had another route afterwards, to be asked before anybody says that the user has gone. One that has run out
    /// may count as one. A repeat gives the same answer, as long as no other call has changed it.
    async fn unbind(&self, routes: &[Route]) -> Result<Vec<bool>>;
    /// Every live route of each user. Answers in the order asked.
    async fn lookup(&self, app: AppId, users: &[UserId], now_ms: u64) -> Result<Vec<Vec<Route>>>;
}

/// Deliveries that wait for an ACK: `imAckMap:{appId}:{userId % 20}`.
#[async_trait]
pub trait Acks: Send + Sync {
    /// Stores or replaces, by user and message, in the order given. Beyond [`ACKS_PER_USER_MAX`], a user's entry due soonest gives way, of
    /// several the first by name. Where nobody calls [`Acks::postpone`], a store may forget what no record was added to for longer than
    /// [`INBOX_AGE_MAX_MS`].
    async fn record(&self, pending: &[PendingAck]) -> Result<()>;
    /// Removes; what is not there is no error.
    async fn remove(&self, acked: &[(AppId, UserId, String)]) -> Result<()>;
    /// What a user has not acknowledged, what is due soonest first.
    async fn pending(&self, app: AppId, user: UserId) -> Result<Vec<PendingAck>>;
    /// Gives at most `limit` entries due before `before_ms`, each as it stood, and puts them off: what its asker does not come to, because
    /// it dies or the answer is lost, is found again. Each is counted as sent once more and is due [`ack_again_ms`] after `now_ms`; one of a
    /// room has [`ACK_TIMES_MAX`] at once and is due [`ROOM_LOG_AGE_MAX_MS`] after `now_ms`, when its message has left the room's log. One
    /// that had been sent [`ACK_TIMES_MAX`] times is taken out instead: no field lives for ever. Like [`Presence::sweep`], a call may look
    /// at a part only.
    async fn postpone(&self, before_ms: u64, now_ms: u64, limit: usize) -> Result<Vec<PendingAck>>;
}

/// QoS-1 messages to users: `inbox:{appId}:{userId}`.
#[async_trait]
pub trait Inbox: Send + Sync {
    /// Appends one message to the inbox of each user and gives the id it got there: `id`, or, where the inbox already holds a
    /// later one or the same with another body, the next after its newest, so that ids of one inbox rise strictly in the order of
    /// appending. `id` has the form `ms-n`, `ms` from the caller's clock, both below 2^53; `0-0` is the beginning, and given to none.
    /// Repeating a call gives the ids of the first and adds nothing, as long as the entries are there.
    ///
    /// An inbox keeps the newest entries, up to [`INBOX_ENTRIES_MAX`], [`INBOX_BYTES_MAX`] and [`INBOX_AGE_MAX_MS`]. It is forgotten
    /// [`INBOX_KEPT_MS`] after its last message, or [`INBOX_EMPTY_KEPT_MS`] once all is acknowledged.
    async fn append(&self, app: AppId, users: &[UserId], id: &str, body: Bytes, now_ms: u64) -> Result<Vec<String>>;
    /// Appends one message to one inbox and claims the sender's message id, in one atomic step: either both are done or neither, so
    /// that whoever sends it again, to whichever router, learns what became of it. While the claim stands, the answer is that of the
    /// first call and nothing is added.
    async fn append_once(
        &self,
        app: AppId,
        user: UserId,
        id: &str,
        body: Bytes,
        claim: &MessageClaim,
        now_ms: u64,
    ) -> Result<AppendedOnce> {
        let append = InboxAppend { app, user, id: id.to_owned(), body, claim: Some(claim.clone()) };
        self.append_each(&[append], now_ms).await.pop().expect("one answer for one message")
    }
    /// As [`Self::append_once`], for messages to any inboxes, those of one inbox in the order given. Answers in the order asked, and what
    /// fails fails for itself. What has no claim is taken as by [`Self::append`]. One that was carried out in a call that failed for another may be told as a repeat.
    async fn append_each(&self, appends: &[InboxAppend], now_ms: u64) -> Vec<Result<AppendedOnce>>;
    /// The id that a message got, while its claim stands; nothing is claimed.
    async fn taken(&self, app: AppId, user: UserId, claim: &MessageClaim, now_ms: u64) -> Result<Option<String>>;
    /// At most `limit` entries after `after` (`None`: from the oldest, and then there is no gap). `gap` when something after it was
    /// trimmed; what was acknowledged is no gap.
    async fn read(&self, app: AppId, user: UserId, after: Option<&str>, limit: usize, now_ms: u64) -> Result<Page<InboxEntry>>;
    /// Removes acknowledged entries; unknown ids are no error.
    async fn ack(&self, acked: &[(AppId, UserId, String)]) -> Result<()>;
}

/// The last messages of a room: `room:{roomId}:log`.
#[async_trait]
pub trait RoomLog: Send + Sync {
    /// Appends the entries, in the order given, and says what became of each. One whose claim stands is passed over as `Repeated`; one
    /// whose `seq` is not above every one appended or fenced before, or is below 1, is passed over as `Stale`: there is a later owner,
    /// and whoever hears this is none any more. Claims are made with the entries, in one atomic step: the log has an entry if and only if
    /// its claim stands (for as long as a claim stands).
    ///
    /// A log keeps the newest entries, up to [`ROOM_LOG_ENTRIES_MAX`], [`ROOM_LOG_BYTES_MAX`] and [`ROOM_LOG_AGE_MAX_MS`]. It is
    /// forgotten [`ROOM_LOG_KEPT_MS`] after the last append or fence.
    async fn append(&self, room: RoomId, entries: &[LogAppend], now_ms: u64) -> Result<Vec<Appended>>;
    /// From now on an entry with this `seq` or one below it is `Stale`: what a former owner still has on its way is not taken. Adds
    /// nothing, and is never a gap to a reader. Gives the largest `seq` that was ever appended or fenced, this one included (0: none);
    /// one larger than this is a later owner's, and then nothing has changed.
    ///
    /// An owner fences before it looks at the log: what it does not find there will never be there.
    async fn fence(&self, room: RoomId, seq: i64, now_ms: u64) -> Result<i64>;
    /// At most `limit` entries after `after_seq`, oldest first; `gap` when something after it was trimmed.
    async fn read(&self, room: RoomId, after_seq: i64, limit: usize, now_ms: u64) -> Result<Page<LogEntry>>;
    /// The newest `limit` entries, oldest first.
    async fn last(&self, room: RoomId, limit: usize, now_ms: u64) -> Result<Vec<LogEntry>>;
    /// Forgets the log of a closed room.
    async fn remove(&self, room: RoomId) -> Result<()>;
}

/// Who is in a room: `living_room_user_set:{appId}:{roomId}`.
#[async_trait]
pub trait Members: Send + Sync {
    /// Puts members in; already there renews. Gives the count of distinct users after it. A list that nobody joins or leaves for
    /// [`MEMBERS_KEPT_MS`] is forgotten.
    async fn join(&self, app: AppId, room: RoomId, members: &[Member], now_ms: u64) -> Result<u64>;
    /// Takes members out. Gives the count of distinct users after it.
    async fn leave(&self, app: AppId, room: RoomId, members: &[Member], now_ms: u64) -> Result<u64>;
    /// Distinct users.
    async fn count(&self, app: AppId, room: RoomId) -> Result<u64>;
    /// One page of distinct users, by a scan: never the whole set in one read. `cursor` 0 begins, and 0 in the answer ends: pages
    /// before that may be empty. `limit` is a wish: a store that keeps small sets in one piece gives somewhat more. Who stays is met
    /// at least once, whoever else comes and goes meanwhile, and nobody who was never there.
    async fn page(&self, app: AppId, room: RoomId, cursor: u64, limit: usize) -> Result<MemberPage>;
    /// Whether each user is in the room. Answers in the order asked.
    async fn contains(&self, app: AppId, room: RoomId, users: &[UserId]) -> Result<Vec<bool>>;
    /// Empties a closed room.
    async fn remove(&self, app: AppId, room: RoomId) -> Result<()>;
}

/// The nodes that are up: `node:{kind}`.
#[async_trait]
pub trait Registry: Send + Sync {
    /// Registers a node, or renews and updates it, until `until_ms`. An earlier life of a node never replaces a later one that is live:
    /// then nothing is changed, and the answer is `false`.
    async fn register(&self, node: &NodeInfo, now_ms: u64, until_ms: u64) -> Result<bool>;
    /// This life of the node goes; a later one with the same id stays.
    async fn deregister(&self, kind: NodeKind, id: &str, incarnation: u64) -> Result<()>;
    /// The live nodes of a kind, by id.
    async fn nodes(&self, kind: NodeKind, now_ms: u64) -> Result<Vec<NodeInfo>>;
}

/// Parts that the leases of rooms are in. More than one, so that not all of them are on one server of a cluster, and not all are renewed in
/// one moment; and as few as that, for the price of renewals is that of the parts.
pub const LEASE_SHARDS: u64 = 2;

/// The part that a lease is in, by its name: the same on every node. To renew many leases of one part at once may cost no more than to renew
/// one.
#[must_use]
pub fn lease_shard(name: &str) -> u64 {
    // FNV-1a; and by Fibonacci hashing the upper bits are those that spread.
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    hash.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - LEASE_SHARDS.ilog2())
}

const _: () = assert!(LEASE_SHARDS.is_power_of_two() && LEASE_SHARDS > 1, "the upper bits of a hash");

/// Claims with fencing: `room:{roomId}:owner` and others.
#[async_trait]
pub trait Leases: Send + Sync {
    /// Takes the lease if it is free or expired, renews it if `holder` has it, and gives what stands then. The epoch rises whenever
    /// the lease is taken anew, also by the same holder after it ran out.
    ///
    /// A lease that would stand more than ten times as long from now as is asked for here was taken by a clock that has been set back
    /// since: it counts as run out.
    async fn acquire(&self, name: &str, holder: &str, now_ms: u64, until_ms: u64) -> Result<Lease>;
    /// Asks for many leases at once, for each as by `acquire`. Answers in the order asked; `None` for one whose server did not answer,
    /// an error where none did. What an asker does not hear of may have been carried out.
    async fn acquire_many(&self, asks: &[LeaseAsk], now_ms: u64, until_ms: u64) -> Result<Vec<Option<Lease>>> {
        let mut leases = Vec::with_capacity(asks.len());
        let mut failed = None;
        for ask in asks {
            let lease = self.acquire(&ask.name, &ask.holder, now_ms, until_ms).await;
            leases.push(lease.map_err(|error| failed = Some(error)).ok());
        }
        match failed {
            Some(error) if leases.iter().all(Option::is_none) => Err(error),
            Some(_) | None => Ok(leases),
        }
    }
    /// Gives it up, if it is still this holder's with this epoch. The epoch is remembered.
    async fn release(&self, name: &str, holder: &str, epoch: u64) -> Result<()>;
}

/// Rate windows: `limit:{op}:{userId}`.
#[async_trait]
pub trait RateWindows: Send + Sync {
    /// Counts each use, or refuses it. The first use opens a window of `window_ms`. One atomic step per key. Answers in the order
    /// asked. A call that failed may have counted; asking again counts again.
    async fn hit(&self, hits: &[WindowHit], now_ms: u64) -> Result<Vec<WindowVerdict>>;
    /// As [`Self::hit`], for who has gathered what he asks himself: a store that gathers does not let him wait for others.
    async fn hit_at_once(&self, hits: &[WindowHit], now_ms: u64) -> Result<Vec<WindowVerdict>> {
        self.hit(hits, now_ms).await
    }
}

/// Messages already taken from a user, for five minutes: de-duplication by `(user, msgId)`.
#[async_trait]
pub trait Dedup: Send + Sync {
    /// Claims each message until `until_ms`; `true` the first time. Answers in the order asked. A claim that has run out is free.
    ///
    /// A call that failed may have claimed: give the messages back with `release` before asking again.
    async fn claim(&self, app: AppId, user: UserId, msg_ids: &[String], now_ms: u64, until_ms: u64) -> Result<Vec<bool>>;
    /// Gives a claim back, because the message was refused: the client may send it again.
    async fn release(&self, app: AppId, user: UserId, msg_ids: &[String]) -> Result<()>;
}

/// The bars of PKs: `living_online_pk:{roomId}`, `living_pk_key:{roomId}`, `living_pk_send_seq:{roomId}`, `living_pk_is_over:{roomId}`.
///
/// A bar here is a projection of the ledger: what is lost is put back from there. It is known by the gifts that it is made of: the
/// [`PkBar::since_seq`] of a PK rises from one PK of a room to the next, and [`PkBar::seq`] from one gift to the next. Kept for
/// [`PK_BAR_KEPT_MS`] after the last change. Places below 0 or beyond [`PK_SEQ_MAX`], and a bar whose winner is not that of its value, are
/// [`StateError::Malformed`].
#[async_trait]
pub trait PkBars: Send + Sync {
    /// Moves a bar by one gift, in one atomic step: value, sequence, winner and whether it is over change together, or nothing does. A gift
    /// is applied once: one whose `seq` the bar has passed is told as [`PkStepped::Before`], however often it comes. The range is clamped; at
    /// its ends the winner is set, and from then on only `seq` moves.
    async fn step(&self, room: RoomId, step: PkStep, now_ms: u64) -> Result<PkStepped>;
    /// Puts a bar, unless the one there is newer: of a later PK, or with a later gift. Gives what stands then.
    async fn put(&self, room: RoomId, bar: PkBar, now_ms: u64) -> Result<PkBar>;
    /// The bar of a room, if there is one.
    async fn bar(&self, room: RoomId, now_ms: u64) -> Result<Option<PkBar>>;
    /// Ends the PK of this challenger that began after `since_seq`: challenger, value, sequence and winner go together. Another one's is left
    /// alone. Whether there was one to end; one that has run out may count.
    async fn clear(&self, room: RoomId, challenger: UserId, since_seq: i64) -> Result<bool>;
}

/// Small cached values: `living_room_obj:{roomId}` and others.
#[async_trait]
pub trait Cache: Send + Sync {
    /// The value, if it is there and not expired.
    async fn get(&self, key: &str, now_ms: u64) -> Result<Option<Bytes>>;
    /// Stores a value until `until_ms`.
    async fn put(&self, key: &str, value: Bytes, now_ms: u64, until_ms: u64) -> Result<()>;
    /// Forgets a value.
    async fn remove(&self, key: &str) -> Result<()>;
}

/// Codes sent to phones: `loginCode:{appId}:{phone}`. A phone is whatever text stands for it, without its number to be seen.
#[async_trait]
pub trait LoginCodes: Send + Sync {
    /// Keeps a code of digits that is about to be sent, in the place of the one before, unless one was kept less than `gap_ms` ago, or as many
    /// as may be in the window that the first of them opened. Where the clock was set back, nobody waits for longer than the gap or the window.
    /// A repeat of a call (the same code, at the same time) gives the same answer.
    async fn keep(&self, ask: &CodeAsk, now_ms: u64) -> Result<CodeKept>;
    /// Compares a code with the one that is kept, counts the try if it is another, and uses the kept one up if it is the one: one atomic step.
    /// After `tries_max` wrong ones also the right one is refused. What is not there, has run out or was used is answered as a wrong one is.
    ///
    /// A call that failed may have counted the try, or used the code up.
    async fn check(&self, app: AppId, phone: &str, code: &str, tries_max: u32, now_ms: u64) -> Result<CodeVerdict>;
}

/// Users' sessions at the HTTP API: `session:{print}`. A print stands for the token that a user shows, and cannot be turned back into it; none
/// is given twice.
#[async_trait]
pub trait Sessions: Send + Sync {
    /// Opens a session until `until_ms`. Beyond [`SESSIONS_PER_USER_MAX`], that of its user's others which ends soonest has ended by then, of
    /// several the first by print.
    async fn open(&self, print: &str, owner: SessionOwner, now_ms: u64, until_ms: u64) -> Result<()>;
    /// Whose each session is; `None` for one that is unknown, has run out or was closed. Answers in the order asked.
    async fn resolve(&self, prints: &[String], now_ms: u64) -> Result<Vec<Option<SessionOwner>>>;
    /// Closes a session of its owner; one that is not there is no error.
    async fn close(&self, print: &str, owner: SessionOwner) -> Result<()>;
    /// Closes every session that a user has had when this was called.
    async fn close_all(&self, owner: SessionOwner) -> Result<()>;
}

/// Every port, as the nodes carry them: cheap to clone.
#[derive(Clone)]
#[expect(missing_docs, reason = "each is named for its port")]
pub struct State {
    /// The time that all nodes on this store agree on: the one to pass as `now_ms`.
    pub clock: Clock,
    /// How the store is.
    pub watch: Watch,
    /// What every node on this store must have set alike, by key of the configuration; each says it of itself in its labels.
    pub layout: Arc<BTreeMap<String, String>>,
    pub tokens: Arc<dyn Tokens>,
    pub presence: Arc<dyn Presence>,
    pub routes: Arc<dyn Routes>,
    pub acks: Arc<dyn Acks>,
    pub inbox: Arc<dyn Inbox>,
    pub room_log: Arc<dyn RoomLog>,
    pub members: Arc<dyn Members>,
    pub registry: Arc<dyn Registry>,
    pub leases: Arc<dyn Leases>,
    pub rate_windows: Arc<dyn RateWindows>,
    pub dedup: Arc<dyn Dedup>,
    pub cache: Arc<dyn Cache>,
    pub pk_bars: Arc<dyn PkBars>,
    pub login_codes: Arc<dyn LoginCodes>,
    pub sessions: Arc<dyn Sessions>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("State")
    }
}
