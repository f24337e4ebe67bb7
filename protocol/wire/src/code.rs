//! What a frame is for: the `code` of its header.

/// The kind of a frame. A number that is not listed here is [`Code::from_number`]'s `None`: it gets an ERROR frame on a
/// logged-in session and ends one that is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(i32)]
pub enum Code {
    /// First frame on a WebSocket after the handshake; the body of a LOGIN reply.
    WsShake = 1000,
    /// Who the client is; the answer opens the session.
    Login = 1001,
    /// The client goes for good; echoed, then the connection closes.
    Logout = 1002,
    /// A business message, up or down; `bizCode` names the service.
    Biz = 1003,
    /// A sign of life; echoed.
    Heartbeat = 1004,
    /// Up: a push arrived. Down: the server accepted a BIZ.
    Ack = 1005,
    /// The server ends the session and says why.
    Kick = 1006,
    /// Enter a room; the answer is its snapshot.
    Join = 1007,
    /// Leave a room.
    Leave = 1008,
    /// Fetch what was missed in a room or in the inbox.
    Sync = 1009,
    /// Something was refused; the session lives unless the reason says otherwise.
    Error = 1010,
    /// The node is draining: move to one of `addresses` after `afterMs`.
    Reconnect = 1011,
}

impl Code {
    /// Every code, in the order of its number: for tables, metrics and tests.
    pub const ALL: [Self; 12] = [
        Self::WsShake,
        Self::Login,
        Self::Logout,
        Self::Biz,
        Self::Heartbeat,
        Self::Ack,
        Self::Kick,
        Self::Join,
        Self::Leave,
        Self::Sync,
        Self::Error,
        Self::Reconnect,
    ];

    /// The number on the wire.
    #[must_use]
    pub const fn number(self) -> i32 {
        self as i32
    }

    /// The code of a number from the wire, or `None` for one this version does not know.
    #[must_use]
    pub const fn from_number(number: i32) -> Option<Self> {
        match number {
            1000 => Some(Self::WsShake),
            1001 => Some(Self::Login),
            1002 => Some(Self::Logout),
            1003 => Some(Self::Biz),
            1004 => Some(Self::Heartbeat),
            1005 => Some(Self::Ack),
            1006 => Some(Self::Kick),
            1007 => Some(Self::Join),
            1008 => Some(Self::Leave),
            1009 => Some(Self::Sync),
            1010 => Some(Self::Error),
            1011 => Some(Self::Reconnect),
            _ => None,
        }
    }

    /// Lower-case name, as metrics label it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::WsShake => "ws_shake",
            Self::Login => "login",
            Self::Logout => "logout",
            Self::Biz => "biz",
            Self::Heartbeat => "heartbeat",
            Self::Ack => "ack",
            Self::Kick => "kick",
            Self::Join => "join",
            Self::Leave => "leave",
            Self::Sync => "sync",
            Self::Error => "error",
            Self::Reconnect => "reconnect",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Code;

    #[test]
    fn numbers_round_trip_and_neighbours_are_unknown() {
        for code in Code::ALL {
            assert_eq!(Code::from_number(code.number()), Some(code));
        }
        for unknown in [i32::MIN, -1, 0, 999, 1012, i32::MAX] {
            assert_eq!(Code::from_number(unknown), None);
        }
    }
}
