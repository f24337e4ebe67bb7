//! Which service a BIZ frame belongs to: the `bizCode` of its body.
//!
//! A code is a number and not an enum here on purpose: the gateway forwards codes it has never heard of, and only the router's
//! services know the full list.

/// A business code. The constants are the ones of `docs/protocol.md`; any other number is legal on the wire and answered by the
/// router with [`crate::Reason::UnknownCode`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BizCode(pub i32);

impl BizCode {
    /// Room or one-to-one chat, up and down.
    pub const ROOM_CHAT: Self = Self(5555);
    /// A gift was paid: to the room.
    pub const GIFT_OK: Self = Self(5556);
    /// A gift was refused: to its sender.
    pub const GIFT_FAIL: Self = Self(5557);
    /// A gift moved the PK bar: to the room.
    pub const PK_GIFT: Self = Self(5558);
    /// A challenger took the PK seat: to the room.
    pub const PK_ONLINE: Self = Self(5559);
    /// A red-packet rain begins: to the room.
    pub const RED_PACKET_START: Self = Self(5560);
    /// Send a gift: the socket form of the HTTP call.
    pub const GIFT_SEND: Self = Self(5561);
    /// The state of a running PK: to both rooms.
    pub const PK_STATE: Self = Self(5562);
    /// The system invites an anchor to a PK.
    pub const PK_INVITE: Self = Self(5563);
    /// Matching has begun.
    pub const PK_MATCHING: Self = Self(5564);
    /// Start, accept, refuse or stop matching.
    pub const PK_COMMAND: Self = Self(5565);
    /// A media token for a room.
    pub const RTM_TOKEN: Self = Self(5566);
    /// Likes, up one by one, down as one total per second and room.
    pub const LIKE: Self = Self(5567);
    /// Audience count, mute and ban notices, room closing.
    pub const ROOM_NOTICE: Self = Self(5568);
    /// Flash-sale stock and order changes.
    pub const STOCK: Self = Self(5569);
    /// Leaderboard changes.
    pub const RANK: Self = Self(5570);
}
