//! The values that pass through the ports.

use bytes::Bytes;
use std::{collections::BTreeMap, fmt};

/// A business line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AppId(pub i32);

/// A user; unique within an app.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserId(pub i64);

/// A live room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RoomId(pub i64);

impl fmt::Display for AppId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}
impl fmt::Display for UserId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}
impl fmt::Display for RoomId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// Kind of device. A user has at most one session per kind: a second one kicks the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum DeviceKind {
    /// `platform` "android".
    Android = 1,
    /// `platform` "ios".
    Ios = 2,
    /// `platform` "web".
    Web = 3,
    /// `platform` "desktop".
    Desktop = 4,
    /// No `platform`, or one not listed here.
    #[default]
    Other = 5,
}

impl DeviceKind {
    /// Every kind; with one session each, also the most devices a user can have.
    pub const ALL: [Self; 5] = [Self::Android, Self::Ios, Self::Web, Self::Desktop, Self::Other];

    /// The kind that a LOGIN's `platform` names.
    #[must_use]
    pub fn from_platform(platform: Option<&str>) -> Self {
        match platform {
            Some("android") => Self::Android,
            Some("ios") => Self::Ios,
            Some("web") => Self::Web,
            Some("desktop") => Self::Desktop,
            _ => Self::Other,
        }
    }

    /// The kind of a number on a link; `None` for 0 (any) and what is not known.
    #[must_use]
    pub const fn from_number(number: u32) -> Option<Self> {
        match number {
            1 => Some(Self::Android),
            2 => Some(Self::Ios),
            3 => Some(Self::Web),
            4 => Some(Self::Desktop),
            5 => Some(Self::Other),
            _ => None,
        }
    }

    /// The word for it, as in `platform`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Android => "android",
            Self::Ios => "ios",
            Self::Web => "web",
            Self::Desktop => "desktop",
            Self::Other => "other",
        }
    }
}

/// Whom a token lets in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenOwner {
    /// Business line.
    pub app: AppId,
    /// The user.
    pub user: UserId,
    /// Where set, the token is good for this kind of device alone.
    pub device: Option<DeviceKind>,
}

/// Where to push to one device of a user: key `bindIp:{appId}:{userId}`, field device, value `node%session%epoch`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Business line.
    pub app: AppId,
    /// The user.
    pub user: UserId,
    /// Kind of device.
    pub device: DeviceKind,
    /// Name of the gateway.
    pub node: String,
    /// The gateway's incarnation.
    pub epoch: u64,
    /// The session on that gateway; the Unix ms of its login, times [`SESSIONS_PER_MS`], and what it takes to be unique.
    pub session: u64,
}

/// Session numbers in a millisecond. So of two sessions anywhere the larger is the newer, as far as clocks agree; today's have 51 bits,
/// which JSON can carry.
pub const SESSIONS_PER_MS: u64 = 1024;

/// One unacknowledged delivery: field `userId:msgId` of `imAckMap:{appId}:{userId % 20}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingAck {
    /// Business line.
    pub app: AppId,
    /// Whose ACK is awaited.
    pub user: UserId,
    /// Of which message.
    pub msg_id: String,
    /// The room, for a room push; `None` for one to the user.
    pub room: Option<RoomId>,
    /// How often it was sent.
    pub times_sent: u32,
    /// When it is next due, Unix ms.
    pub due_ms: u64,
}

/// A QoS-1 message to one user, kept until acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboxEntry {
    /// Its `msgId`; also the cursor for pulling. See [`crate::Inbox::append`].
    pub id: String,
    /// The push's body as JSON text, complete but for `msgId`, which is `id`.
    pub body: Bytes,
}

/// A message on its way into an inbox, with the sender's id of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboxAppend {
    /// Business line of the receiver.
    pub app: AppId,
    /// Whose inbox.
    pub user: UserId,
    /// The id it is to get. See [`crate::Inbox::append`].
    pub id: String,
    /// What is to be kept.
    pub body: Bytes,
    /// Its sender and his id of it, where it has one.
    pub claim: Option<MessageClaim>,
}

/// An inbox id, `ms-n`: compared as two numbers, never as text (`9-0` comes before `10-0`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InboxId {
    /// Unix ms, when it was made.
    pub ms: u64,
    /// Counts up within the millisecond.
    pub n: u64,
}

impl InboxId {
    /// Reads `ms-n`; `None` for anything else, also for signs, blanks and leading zeros: an id has one spelling.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (ms, n) = text.split_once('-')?;
        let number = |digits: &str| {
            let spelled = digits.bytes().all(|byte| byte.is_ascii_digit()) && (digits.len() == 1 || !digits.starts_with('0'));
            digits.parse().ok().filter(|_| spelled)
        };
        Some(Self { ms: number(ms)?, n: number(n)? })
    }

    /// Reads an id that a message is to get. Its numbers are below 2^53, above which not every store can count.
    pub(crate) fn parse_new(text: &str) -> Result<Self, StateError> {
        let id = Self::parse(text).filter(|id| id.ms.max(id.n) < 1 << 53);
        id.ok_or(StateError::Malformed { what: "inbox id" })
    }

    /// The smallest id after this one; `None` after the largest of all.
    #[must_use]
    pub fn next(self) -> Option<Self> {
        match self.n.checked_add(1) {
            Some(n) => Some(Self { ms: self.ms, n }),
            None => Some(Self { ms: self.ms.checked_add(1)?, n: 0 }),
        }
    }
}

impl fmt::Display for InboxId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}-{}", self.ms, self.n)
    }
}

/// A message of a room's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Its place in the room.
    pub seq: i64,
    /// The push's body as JSON text.
    pub body: Bytes,
    /// The user it was not pushed to: the one who said it.
    pub except: Option<UserId>,
}

/// A message on its way into a room's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogAppend {
    /// What is to be kept.
    pub entry: LogEntry,
    /// The sender's id of it, where it has one.
    pub claim: Option<MessageClaim>,
}

impl From<LogEntry> for LogAppend {
    fn from(entry: LogEntry) -> Self {
        Self { entry, claim: None }
    }
}

/// A message that must be taken once: `(sender, msgId)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageClaim {
    /// Business line of the sender.
    pub app: AppId,
    /// Who sent it.
    pub user: UserId,
    /// The sender's own id of it.
    pub msg_id: String,
    /// How long a repeat is recognised, Unix ms.
    pub until_ms: u64,
}

/// What became of a [`LogAppend`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// It is in the log.
    Stored,
    /// It was taken before, with this `seq`.
    Repeated {
        /// Of the first.
        seq: i64,
    },
    /// A `seq` as large or larger is there already: the caller is a former owner.
    Stale,
}

/// What became of a message to one user that must be taken once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppendedOnce {
    /// Its id in the inbox: the one given the first time.
    pub id: String,
    /// It was taken by this call, not by an earlier one.
    pub is_first: bool,
}

/// What a log or an inbox gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// Oldest first.
    pub entries: Vec<T>,
    /// There are more behind the last of `entries`.
    pub more: bool,
    /// Something between where the reader was and the first of `entries` has already been trimmed away.
    pub gap: bool,
}

impl<T> Default for Page<T> {
    /// Nothing there, nothing missed.
    fn default() -> Self {
        Self { entries: Vec::new(), more: false, gap: false }
    }
}

/// Someone in a room.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Member {
    /// The user.
    pub user: UserId,
    /// The device; a user counts once however many devices are in the room.
    pub device: DeviceKind,
}

/// A part of a member list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberPage {
    /// In no particular order. A member who stays throughout a scan appears at least once.
    pub users: Vec<UserId>,
    /// Pass it to get the next page; 0 when there is none.
    pub cursor: u64,
}

/// What a node says of itself: `node:{kind}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeInfo {
    /// Gateway or router.
    pub kind: NodeKind,
    /// Its name, unique among its kind.
    pub id: String,
    /// Rises with every start.
    pub incarnation: u64,
    /// Addresses by transport (`tcp`, `ws`, `quic`, `tls`, `link`, `http`).
    pub addresses: Vec<(String, String)>,
    /// How much it can carry, in connections or rooms.
    pub capacity: u64,
    /// How much it carries.
    pub load: u64,
    /// Takes nothing new.
    pub draining: bool,
    /// Version of the program.
    pub version: String,
    /// What else the others have to know of it: short words without spaces or `=`, by name.
    pub labels: BTreeMap<String, String>,
}

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NodeKind {
    /// Holds connections.
    Gateway,
    /// Owns rooms.
    Router,
}

/// A claim on something that only one node may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Who has it.
    pub holder: String,
    /// Rises with every change of holder: the fencing token.
    pub epoch: u64,
    /// Good until then, Unix ms.
    pub until_ms: u64,
}

/// A lease that someone asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseAsk {
    /// Of what.
    pub name: String,
    /// For whom.
    pub holder: String,
}

/// One use of something that is limited: `limit:{op}:{userId}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WindowHit {
    /// What is limited, and for whom.
    pub key: String,
    /// Uses allowed in a window.
    pub limit: u32,
    /// Length of the window.
    pub window_ms: u64,
}

/// The answer to a [`WindowHit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowVerdict {
    /// Within the limit; counted.
    Allowed,
    /// Over it; not counted.
    Refused {
        /// When the window makes room again.
        retry_after_ms: u64,
    },
}

/// A store that cannot answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// Not reachable, too slow, or refusing; the call may or may not have been carried out.
    #[error("the state store is away: {what}")]
    Away {
        /// What was being done.
        what: &'static str,
        /// Why.
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A bound of the store was reached; nothing was stored.
    #[error("the state store is full: {what} holds {limit}")]
    Full {
        /// Which table.
        what: &'static str,
        /// Its bound.
        limit: usize,
    },
    /// A key holds something of another type than it must: the store is there, and the key has to be deleted by somebody. What the call
    /// did with other keys may have been done.
    #[error("the state store cannot do this: {what}: {key} holds something of another type; delete it")]
    Spoilt {
        /// What was being done.
        what: &'static str,
        /// Which key, or which several that it may be.
        key: String,
    },
    /// An argument has not the form it must have; nothing was done. Asking again will not help.
    #[error("malformed {what}")]
    Malformed {
        /// Which argument.
        what: &'static str,
    },
}
