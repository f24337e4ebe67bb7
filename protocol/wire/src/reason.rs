//! Why a frame was refused or a connection ended: one enum for ERROR frames, KICK frames, closes and metric labels.

/// A cause with, where the peer is told, its number on the wire.
///
/// The range tells a client what to do: 4000–4999 is about what it did, and sending the same again will not help (4007 and 4012 carry
/// their own cure); 5000–5999 is about the server, and the client comes back with back-off; 10000 and above is a service's answer: the call
/// was understood, and nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// 4000: the header or the body cannot be read.
    Malformed,
    /// 4001: the frame needs a session and there is none.
    NotLoggedIn,
    /// 4002: the token is unknown, expired, or another user's.
    BadToken,
    /// 4003: the body names a user who is not the session's.
    NotYourUser,
    /// 4004: there is no such room, or it has closed.
    RoomNotFound,
    /// 4005: the sender is muted in the room.
    Muted,
    /// 4006: the user is banned.
    Banned,
    /// 4007: too many; `retryAfterMs` says when to try again.
    RateLimited,
    /// 4008: the body is longer than the limit.
    TooLarge,
    /// 4009: the frame code or business code is not known here.
    UnknownCode,
    /// 4010: the same user logged in on the same kind of device elsewhere.
    DuplicateLogin,
    /// 4011: no valid LOGIN within the time allowed.
    LoginTimeout,
    /// 4012: the reader is too slow for pushes that may not be dropped; reconnect and resume.
    TooSlow,
    /// 5000: a fault of the server; nothing internal is told.
    Internal,
    /// 5001: the service behind is away; `retryAfterMs` says when to try again.
    Unavailable,
    /// 10007: the seat of the challenger in this PK room is taken.
    PkTaken,
    /// 10012: the sender has not enough coins.
    NotCovered,
    /// 10013: the catalogue has no such gift.
    UnknownGift,
    /// 10014: the sender has used this `uuid` for another gift.
    UuidReused,
    /// 10015: the receiver cannot be given this here: himself, nobody of the room, or for a PK gift not one of its two sides.
    NotAReceiver,
    /// 10016: the gift costs something else than the sender was shown.
    PriceChanged,
    /// The peer closed its end.
    PeerClosed,
    /// The transport failed: reset, unreachable.
    TransportFailed,
    /// Nothing was heard for two heartbeat gaps.
    HeartbeatLost,
    /// A frame was begun and not finished in time.
    FrameTimeout,
    /// Nothing could be written for too long.
    WriteStalled,
    /// The client logged out.
    LoggedOut,
    /// The node is going down and has sent the client elsewhere.
    Drained,
}

impl Reason {
    /// Every reason, for tables, metrics and tests.
    pub const ALL: [Self; 28] = [
        Self::Malformed,
        Self::NotLoggedIn,
        Self::BadToken,
        Self::NotYourUser,
        Self::RoomNotFound,
        Self::Muted,
        Self::Banned,
        Self::RateLimited,
        Self::TooLarge,
        Self::UnknownCode,
        Self::DuplicateLogin,
        Self::LoginTimeout,
        Self::TooSlow,
        Self::Internal,
        Self::Unavailable,
        Self::PkTaken,
        Self::NotCovered,
        Self::UnknownGift,
        Self::UuidReused,
        Self::NotAReceiver,
        Self::PriceChanged,
        Self::PeerClosed,
        Self::TransportFailed,
        Self::HeartbeatLost,
        Self::FrameTimeout,
        Self::WriteStalled,
        Self::LoggedOut,
        Self::Drained,
    ];

    /// The number in an ERROR or KICK body; `None` for a cause the peer is not told.
    #[must_use]
    pub const fn number(self) -> Option<i32> {
        Some(match self {
            Self::Malformed => 4000,
            Self::NotLoggedIn => 4001,
            Self::BadToken => 4002,
            Self::NotYourUser => 4003,
            Self::RoomNotFound => 4004,
            Self::Muted => 4005,
            Self::Banned => 4006,
            Self::RateLimited => 4007,
            Self::TooLarge => 4008,
            Self::UnknownCode => 4009,
            Self::DuplicateLogin => 4010,
            Self::LoginTimeout => 4011,
            Self::TooSlow => 4012,
            Self::Internal => 5000,
            Self::Unavailable => 5001,
            Self::PkTaken => 10_007,
            Self::NotCovered => 10_012,
            Self::UnknownGift => 10_013,
            Self::UuidReused => 10_014,
            Self::NotAReceiver => 10_015,
            Self::PriceChanged => 10_016,
            Self::PeerClosed
            | Self::TransportFailed
            | Self::HeartbeatLost
            | Self::FrameTimeout
            | Self::WriteStalled
            | Self::LoggedOut
            | Self::Drained => return None,
        })
    }

    /// The reason behind a number from the wire.
    #[must_use]
    pub fn from_number(number: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.number() == Some(number))
    }

    /// Lower-case name, as metrics label it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::NotLoggedIn => "not_logged_in",
            Self::BadToken => "bad_token",
            Self::NotYourUser => "not_your_user",
            Self::RoomNotFound => "room_not_found",
            Self::Muted => "muted",
            Self::Banned => "banned",
            Self::RateLimited => "rate_limited",
            Self::TooLarge => "too_large",
            Self::UnknownCode => "unknown_code",
            Self::DuplicateLogin => "duplicate_login",
            Self::LoginTimeout => "login_timeout",
            Self::TooSlow => "too_slow",
            Self::Internal => "internal",
            Self::Unavailable => "unavailable",
            Self::PkTaken => "pk_taken",
            Self::NotCovered => "not_covered",
            Self::UnknownGift => "unknown_gift",
            Self::UuidReused => "uuid_reused",
            Self::NotAReceiver => "not_a_receiver",
            Self::PriceChanged => "price_changed",
            Self::PeerClosed => "peer_closed",
            Self::TransportFailed => "transport_failed",
            Self::HeartbeatLost => "heartbeat_lost",
            Self::FrameTimeout => "frame_timeout",
            Self::WriteStalled => "write_stalled",
            Self::LoggedOut => "logged_out",
            Self::Drained => "drained",
        }
    }

    /// The sentence that stands beside the number: for the person who reads a client's log.
    #[must_use]
    pub const fn message(self) -> &'static str {
        match self {
            Self::Malformed => "the frame or its body cannot be read",
            Self::NotLoggedIn => "log in first",
            Self::BadToken => "the token is unknown, expired or of another user; fetch a new one",
            Self::NotYourUser => "userId is not the session's",
            Self::RoomNotFound => "the room does not exist or has closed",
            Self::Muted => "you are muted in this room",
            Self::Banned => "you are banned",
            Self::RateLimited => "too many, too fast; wait retryAfterMs",
            Self::TooLarge => "the body is longer than the limit",
            Self::UnknownCode => "unknown code or bizCode",
            Self::DuplicateLogin => "logged in on another device of this kind",
            Self::LoginTimeout => "no valid LOGIN in time",
            Self::TooSlow => "reading too slowly; reconnect and resume",
            Self::Internal => "internal error",
            Self::Unavailable => "the service is away; try again after retryAfterMs",
            Self::PkTaken => "somebody else challenges the anchor now; try again later",
            Self::NotCovered => "not enough coins",
            Self::UnknownGift => "there is no such gift",
            Self::UuidReused => "this uuid was used for another gift; choose a new one",
            Self::NotAReceiver => "this user cannot be given that here",
            Self::PriceChanged => "the price of this gift has changed; load the list of gifts again",
            Self::PeerClosed => "the peer closed the connection",
            Self::TransportFailed => "the connection failed",
            Self::HeartbeatLost => "no sign of life for two heartbeat gaps",
            Self::FrameTimeout => "a frame was begun and not finished in time",
            Self::WriteStalled => "nothing could be written for too long",
            Self::LoggedOut => "logged out",
            Self::Drained => "the node is going down",
        }
    }

    /// Whether a client that was closed for this reason should come back by itself.
    ///
    /// `false` where coming back would only repeat the fault or start a fight between two devices.
    #[must_use]
    pub const fn worth_reconnecting(self) -> bool {
        !matches!(self, Self::BadToken | Self::Banned | Self::DuplicateLogin | Self::LoggedOut)
    }
}

#[cfg(test)]
mod tests {
    use super::Reason;

    #[test]
    fn numbers_are_distinct_and_round_trip() {
        for reason in Reason::ALL {
            if let Some(number) = reason.number() {
                assert_eq!(Reason::from_number(number), Some(reason));
            }
        }
        assert_eq!(Reason::from_number(4013), None);
    }
}
