//! What the services need of the ledger: records of rooms, moderation and profiles.
//!
//! - The live state (members, logs, inboxes) has its own ports in `billfish_state`; this is what must outlive a restart.
//! - Every call is one transaction, and safe to repeat: a call that failed may have been carried out.
//! - Times are Unix milliseconds and are passed in.
//!
//! The records themselves are never old. What routers remember of them is, for as long as this:
//!
//! | what changed, through another router | this one goes by it |
//! |---|---|
//! | a room was opened or closed | at once: the cache is shared and written through |
//! | sanctions, slow mode, words of a room | at once: they are the owner's to change, and a new owner reads them |
//! | the lists of live rooms | within 2 s: one router reads them each second, the others take them from the cache each second |
//! | words refused everywhere | within 10 s |
//! | a profile | within 60 s |
//! | tags | at once: they are not remembered |
//! | a session that was ended | at once: it is in the shared state, and looked up by each call |
//!
//! No SQL here, and no rule: a rule that needs atomicity (one live room per anchor) says so in its method and is held by the adapter.

mod absent;
pub mod money;
pub mod people;

pub use absent::Absent;

use async_trait::async_trait;
use billfish_state::{AppId, RoomId, UserId};

/// Result of every call.
pub type Result<T> = std::result::Result<T, RecordError>;

/// A ledger that cannot answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// Not reachable, locked for too long, disk full. The call may or may not have been carried out.
    #[error("the records are away: {what}")]
    Away {
        /// What was being done.
        what: &'static str,
        /// Why.
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A row that none of our writers makes.
    #[error("a record cannot be read: {what}")]
    Unreadable {
        /// Which column of which row.
        what: String,
    },
}

/// Type of a live room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum RoomKind {
    /// An anchor and the audience.
    #[default]
    Normal = 1,
    /// With a seat for one challenger.
    Pk = 2,
}

impl RoomKind {
    /// Every kind.
    pub const ALL: [Self; 2] = [Self::Normal, Self::Pk];

    /// The kind of a number in the API or a row.
    #[must_use]
    pub const fn from_number(number: i64) -> Option<Self> {
        match number {
            1 => Some(Self::Normal),
            2 => Some(Self::Pk),
            _ => None,
        }
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> i64 {
        self as i64
    }
}

/// A room to be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRoom {
    /// Business line.
    pub app: AppId,
    /// Who opens it.
    pub anchor: UserId,
    /// Normal or PK.
    pub kind: RoomKind,
    /// Shown in lists; may be empty.
    pub name: String,
    /// URL of a picture; may be empty.
    pub cover: String,
}

/// A live room: a row of `t_living_room`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomRecord {
    /// Its id: never used again for another room.
    pub room: RoomId,
    /// Business line.
    pub app: AppId,
    /// Who opened it.
    pub anchor: UserId,
    /// Normal or PK.
    pub kind: RoomKind,
    /// Shown in lists; may be empty.
    pub name: String,
    /// URL of a picture; may be empty.
    pub cover: String,
    /// When it was opened, Unix ms.
    pub started_ms: u64,
}

/// What became of [`RoomRecords::open_room`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenOutcome {
    /// A new room.
    Opened(RoomRecord),
    /// The anchor is live already, in this room; nothing was stored.
    AlreadyLive(RoomId),
}

/// Who may not do what in a room, and the room's own settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Moderation {
    /// Muted users, each until (Unix ms).
    pub mutes: Vec<(UserId, u64)>,
    /// Banned users, each until (Unix ms).
    pub bans: Vec<(UserId, u64)>,
    /// Least time between two messages of one user; 0: no slow mode.
    pub slow_mode_ms: u64,
    /// Words refused in this room, besides the global ones.
    pub block_words: Vec<String>,
}

/// Mute or ban: the two rows a user can have against him in a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sanction {
    /// May watch, may not speak.
    Mute,
    /// May not be in the room.
    Ban,
}

/// A PK that is on in a room: a row of `t_room_pk`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PkRecord {
    /// Who challenges the anchor.
    pub challenger: UserId,
    /// It is about the gifts of the room behind this one; 0: about all.
    pub since_seq: i64,
}

/// What became of [`RoomRecords::begin_pk`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BeginPk {
    /// It is on.
    Begun(PkRecord),
    /// One is on already, perhaps his own; nothing was stored.
    Taken(PkRecord),
    /// The room is not live.
    NoRoom,
    /// A later owner has the room; nothing was stored.
    Fenced,
}

/// How a user is shown to others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// The user.
    pub user: UserId,
    /// Nickname.
    pub name: String,
    /// URL of a picture; may be empty.
    pub avatar: String,
}

/// The records behind the services *room* and *chat*.
#[async_trait]
pub trait RoomRecords: Send + Sync {
    /// Opens a room, unless its anchor has a live one in the app: atomic, also for two calls at once on two routers.
    async fn open_room(&self, room: &NewRoom, now_ms: u64) -> Result<OpenOutcome>;
    /// Moves a live room to `t_living_room_record` with its end time, and drops its moderation, in one transaction. Gives the room as
    /// it was; `None` when it is not live.
    async fn close_room(&self, room: RoomId, now_ms: u64) -> Result<Option<RoomRecord>>;
    /// The live room of an id.
    async fn live_room(&self, room: RoomId) -> Result<Option<RoomRecord>>;
    /// The newest `limit` live rooms of a kind, newest first (by start, then by id).
    async fn live_rooms(&self, kind: RoomKind, limit: usize) -> Result<Vec<RoomRecord>>;
    /// Raises the epoch of a live room by one (the first is 1) and gives it; `None` when it is not live. Called once per new owner: an
    /// epoch that is stored beside the room rises also when the state store began anew, so no sequence number comes twice.
    async fn raise_epoch(&self, room: RoomId) -> Result<Option<u64>>;

    /// What stands for a room at `now_ms`: sanctions that have run out are left out.
    async fn moderation(&self, room: RoomId, now_ms: u64) -> Result<Moderation>;
    /// Puts a sanction on a user until `until_ms`, or replaces the one there is.
    async fn put_sanction(&self, room: RoomId, user: UserId, sanction: Sanction, until_ms: u64) -> Result<()>;
    /// Lifts a sanction; one that is not there is no error.
    async fn lift_sanction(&self, room: RoomId, user: UserId, sanction: Sanction) -> Result<()>;
    /// Sets slow mode; 0 ends it.
    async fn set_slow_mode(&self, room: RoomId, slow_mode_ms: u64) -> Result<()>;
    /// Replaces the words refused in one room.
    async fn set_room_block_words(&self, room: RoomId, words: &[String]) -> Result<()>;
    /// The words refused everywhere.
    async fn block_words(&self) -> Result<Vec<String>>;
    /// Replaces the words refused everywhere.
    async fn set_block_words(&self, words: &[String]) -> Result<()>;

    /// The PK that is on in a room.
    async fn pk(&self, room: RoomId) -> Result<Option<PkRecord>>;
    /// Begins a PK with this challenger, unless one is on: atomic. Asked by the room's owner of this epoch, behind every gift that it has had
    /// answered: they are of what was before.
    async fn begin_pk(&self, room: RoomId, epoch: u64, challenger: UserId, now_ms: u64) -> Result<BeginPk>;
    /// Ends the PK of this challenger, asked by the room's owner of this epoch; whether it was on. Where a later owner has the room nothing is
    /// changed.
    async fn end_pk(&self, room: RoomId, epoch: u64, challenger: UserId, now_ms: u64) -> Result<bool>;

    /// The profiles of those users who have one, in no particular order.
    async fn profiles(&self, app: AppId, users: &[UserId]) -> Result<Vec<Profile>>;
    /// Stores or replaces profiles.
    async fn put_profiles(&self, app: AppId, profiles: &[Profile]) -> Result<()>;
}
