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
    /// The session at the HTTP API that it was issued to, if it was to one: the token is good for as long as that is.
    pub session: Option<SessionPrint>,
}

/// What stands for a session at the HTTP API: the SHA-256 of the token that its user shows there.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionPrint(pub [u8; 32]);

impl SessionPrint {
    /// Reads what [`fmt::Display`] writes; `None`: it is something else.
    #[must_use]
    pub fn parse(hex: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        if hex.len() != 2 * bytes.len() || !hex.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')) {
            return None;
        }
        for (byte, at) in bytes.iter_mut().zip((0..).step_by(2)) {
            *byte = u8::from_str_radix(hex.get(at..at + 2)?, 16).ok()?;
        }
        Some(Self(bytes))
    }
}

/// 64 digits, as [`crate::port::Sessions`] takes it.
impl fmt::Display for SessionPrint {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(to, "{byte:02x}"))
    }
}

/// It lets nobody in, and is nobody's business all the same.
impl fmt::Debug for SessionPrint {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("SessionPrint")
    }
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

/// A login code that is about to be sent to a phone.
#[derive(Clone, PartialEq, Eq)]
pub struct CodeAsk {
    /// Business line.
    pub app: AppId,
    /// What stands for the phone.
    pub phone: String,
    /// The code: digits.
    pub code: String,
    /// Until when it is good.
    pub until_ms: u64,
    /// Between two codes.
    pub gap_ms: u64,
    /// Codes in a window.
    pub sends_max: u32,
    /// Length of a window.
    pub window_ms: u64,
}

/// Shows no code.
impl fmt::Debug for CodeAsk {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("CodeAsk").field("app", &self.app).field("until_ms", &self.until_ms).finish_non_exhaustive()
    }
}

/// What became of a [`CodeAsk`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodeKept {
    /// It is good from now on, and no other.
    Kept,
    /// The phone has had one a moment ago, or too many; nothing was changed.
    TooSoon {
        /// When there may be another.
        retry_after_ms: u64,
    },
}

/// What a code is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodeVerdict {
    /// It was the one, and is none any more.
    Right,
    /// It is not the one, or there is none.
    Wrong,
    /// There were as many wrong ones as may be: only another code helps.
    Spent {
        /// When there may be another.
        retry_after_ms: u64,
    },
}

/// Whose a session at the HTTP API is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionOwner {
    /// Business line.
    pub app: AppId,
    /// The user.
    pub user: UserId,
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

/// The last place of a gift among those of its room that a bar can have: above it, not every store can count.
pub const PK_SEQ_MAX: i64 = (1 << 53) - 1;

/// The bar of a PK in a room: 0 is the challenger's end, 100 the anchor's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PkBar {
    /// Who challenges the anchor.
    pub challenger: UserId,
    /// The PK is about gifts after this one: the place of the room's last gift before it began; 0: there was none.
    pub since_seq: i64,
    /// The place, among the room's gifts, of the last PK gift that has been applied; at first `since_seq`.
    pub seq: i64,
    /// 0..=100.
    pub value: i32,
    /// Set once, when an end is reached.
    pub winner: Option<PkWinner>,
}

/// Who has won a PK.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PkWinner {
    /// At 100.
    Anchor,
    /// At 0.
    Challenger,
}

/// One gift that moves a bar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PkStep {
    /// Of which PK.
    pub since_seq: i64,
    /// The last gift that was applied before, as the caller knows it.
    pub after_seq: i64,
    /// The gift's place, above `after_seq`.
    pub seq: i64,
    /// How far: up for the anchor, down for the challenger; -1,000,000,000..=1,000,000,000.
    pub by: i64,
}

/// What became of a [`PkStep`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PkStepped {
    /// Applied now: this stands.
    Applied(PkBar),
    /// Applied before, or the PK is over for this caller: a later PK, or a later gift of this one, stands. Nothing was changed.
    Before(PkBar),
    /// There is no such bar, or it has not seen `after_seq`: it was lost, and is to be [put](crate::PkBars::put).
    Missing,
}

impl PkBar {
    /// Where a bar begins.
    pub const START: i32 = 50;
    /// The anchor's end; the challenger's is 0.
    pub const TOP: i32 = 100;

    /// The bar of a PK that begins.
    #[must_use]
    pub const fn begin(challenger: UserId, since_seq: i64) -> Self {
        Self { challenger, since_seq, seq: since_seq, value: Self::START, winner: None }
    }

    /// The bar after one more gift. One that it has passed changes nothing; once it is over only `seq` moves.
    #[must_use]
    pub fn after(self, seq: i64, by: i64) -> Self {
        if seq <= self.seq {
            return self;
        }
        if self.winner.is_some() {
            return Self { seq, ..self };
        }
        let moved = i64::from(self.value).saturating_add(by).clamp(0, i64::from(Self::TOP));
        let value = i32::try_from(moved).expect("0..=100");
        Self { seq, value, winner: Self::winner_at(value), ..self }
    }

    /// A bar has a winner at its ends, and nowhere else.
    const fn winner_at(value: i32) -> Option<PkWinner> {
        match value {
            Self::TOP => Some(PkWinner::Anchor),
            0 => Some(PkWinner::Challenger),
            _ => None,
        }
    }

    /// Refuses what does not fit together, or what not every store can count.
    pub(crate) fn check(&self) -> Result<(), StateError> {
        let is_ordered = 0 <= self.since_seq && self.since_seq <= self.seq && self.seq <= PK_SEQ_MAX;
        let is_whole = (0..=Self::TOP).contains(&self.value) && self.winner == Self::winner_at(self.value);
        if is_ordered && is_whole { Ok(()) } else { Err(StateError::Malformed { what: "bar of a PK" }) }
    }
}

impl PkStep {
    /// Refuses what not every store can count.
    pub(crate) fn check(&self) -> Result<(), StateError> {
        let is_countable = [self.since_seq, self.after_seq, self.seq].iter().all(|seq| (0..=PK_SEQ_MAX).contains(seq));
        if is_countable { Ok(()) } else { Err(StateError::Malformed { what: "step of a PK" }) }
    }
}

#[cfg(test)]
mod tests {
    use super::{PkBar, PkWinner, UserId};
    use proptest::prelude::*;

    const SINCE: i64 = 10;

    fn begin() -> PkBar {
        PkBar::begin(UserId(7), SINCE)
    }

    fn after_all(bar: PkBar, gifts: &[(i64, i64)]) -> PkBar {
        gifts.iter().fold(bar, |bar, (seq, by)| bar.after(*seq, *by))
    }

    #[test]
    fn a_gift_of_200_coins_moves_a_bar_by_20() {
        let (coins, bar) = (200, begin());
        assert_eq!((bar.value, bar.seq, bar.winner), (50, SINCE, None));
        assert_eq!(bar.after(11, coins / 10), PkBar { value: 70, seq: 11, ..bar });
        assert_eq!(bar.after(11, -coins / 10), PkBar { value: 30, seq: 11, ..bar });
    }

    #[test]
    fn at_an_end_the_winner_is_set_and_then_only_the_place_moves() {
        for (by, end, winner) in [(50, 100, PkWinner::Anchor), (-50, 0, PkWinner::Challenger), (i64::MAX, 100, PkWinner::Anchor)] {
            let over = begin().after(12, by);
            assert_eq!(over, PkBar { value: end, seq: 12, winner: Some(winner), ..begin() });
            for back in [-by, by, i64::MIN, i64::MAX, 0] {
                assert_eq!(over.after(13, back), PkBar { seq: 13, ..over }, "{winner:?} has won");
            }
        }
        assert_eq!(begin().after(11, 49).winner, None);
        assert_eq!(begin().after(11, -49).winner, None);
    }

    /// Gifts by their place, each some places after the one before.
    fn any_gifts() -> impl Strategy<Value = Vec<(i64, i64)>> {
        let by = prop_oneof![6 => -30i64..=30, 1 => -1_000_000_000i64..=1_000_000_000, 1 => prop_oneof![Just(i64::MIN), Just(i64::MAX)]];
        proptest::collection::vec((1i64..4, by), 0..30).prop_map(|gifts| {
            let place = |seq: &mut i64, (ahead, by): (i64, i64)| {
                *seq += ahead;
                Some((*seq, by))
            };
            gifts.into_iter().scan(SINCE, place).collect()
        })
    }

    proptest! {
        /// Whoever puts a bar back from the ledger may have read a part of the gifts before, and others may have come in between.
        #[test]
        fn a_list_of_gifts_gives_the_same_in_pieces_and_twice(gifts in any_gifts(), cut in 0usize..30, again in 0usize..30) {
            let whole = after_all(begin(), &gifts);
            let (first, second) = gifts.split_at(cut.min(gifts.len()));
            prop_assert_eq!(after_all(after_all(begin(), first), second), whole);
            prop_assert_eq!(after_all(whole, &gifts), whole, "all of it twice");
            let overlapping = &gifts[again.min(first.len())..];
            prop_assert_eq!(after_all(after_all(begin(), first), overlapping), whole, "a part of it twice");
        }

        /// By a walk of another kind: the value up to the first end that is reached, and the place of the last gift.
        #[test]
        fn a_bar_stays_in_its_range_and_is_over_once(gifts in any_gifts()) {
            let mut value = 50i128;
            let mut winner = None;
            let mut bar = begin();
            for (seq, by) in gifts {
                if winner.is_none() {
                    value += i128::from(by);
                    winner = if value >= 100 { Some(PkWinner::Anchor) } else if value <= 0 { Some(PkWinner::Challenger) } else { None };
                }
                bar = bar.after(seq, by);
                prop_assert!((0..=100).contains(&bar.value));
                prop_assert_eq!((i128::from(bar.value), bar.winner, bar.seq), (value.clamp(0, 100), winner, seq));
                prop_assert_eq!((bar.challenger, bar.since_seq), (UserId(7), SINCE));
            }
        }
    }
}
