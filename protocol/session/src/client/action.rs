//! What passes between the client's end of a session and its shell.

use billfish_wire::{Body, Code, Reason, snapshot::RoomSnapshot};

/// What the shell must do, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum ClientAction {
    /// Write a frame, in [`super::ClientSession::encoding`].
    Send {
        /// Its code.
        code: Code,
        /// Its body.
        body: Box<Body>,
    },
    /// Tell the app.
    Tell(ClientEvent),
    /// Write what is queued as far as the socket takes it, then close the transport. Nothing follows until the next connection.
    Close,
    /// Write a frame on the next connection: see [`super::ClientSession::on_next_connected`].
    SendNext {
        /// Its code.
        code: Code,
        /// Its body.
        body: Box<Body>,
    },
    /// The next connection is the current one from here on, and the current one the former, which is listened to until it is closed.
    Switch,
    /// Close the next connection: the session stays where it is.
    CloseNext {
        /// Why it does not move.
        reason: Reason,
        /// Not to be tried again before so long.
        retry_after_ms: Option<u64>,
    },
    /// Close the former connection.
    CloseFormer,
}

/// What the app hears of.
#[derive(Clone, Debug, PartialEq)]
pub enum ClientEvent {
    /// The session is open; rooms and messages sent before come back by themselves.
    LoggedIn {
        /// Of the session, for logs.
        session_id: String,
        /// Name of the gateway, for logs.
        node: String,
        /// The server's clock, Unix ms; 0 when it did not say.
        server_time_ms: i64,
    },
    /// In the room, for the first time or again. What was missed follows as [`Self::Push`], oldest first, before anything new.
    Joined {
        /// Which.
        room_id: i64,
        /// Everything up to it is shown once the missed messages are.
        seq: i64,
        /// States and audience, to be drawn over the old ones. Its `messages` are empty here: they follow as pushes.
        snapshot: Box<RoomSnapshot>,
        /// Messages are missing that the server no longer has: reload.
        gap: bool,
    },
    /// Out of the room: asked for, closed or banned.
    Left {
        /// Which.
        room_id: i64,
    },
    /// A message that was not shown before; of a room in the order of `seq`, or of its class where the connection keeps no other.
    Push(Box<Body>),
    /// One page of a room's log that [`super::ClientSession::sync_room`] asked for; older than what is shown, so nothing is left out.
    History {
        /// Which.
        room_id: i64,
        /// Oldest first.
        messages: Vec<Body>,
        /// The log no longer reaches back to where the app asked from.
        gap: bool,
        /// Another page follows by itself.
        more: bool,
    },
    /// The inbox is read to its end.
    InboxRead {
        /// Messages are missing that the server no longer has.
        gap: bool,
    },
    /// A message reached its service.
    Accepted {
        /// The id it was sent with.
        msg_id: String,
        /// When, Unix ms.
        ts_ms: i64,
        /// Its place in the room, where it got one.
        seq: Option<i64>,
    },
    /// The server said no. The session lives.
    Refused {
        /// The message that is meant, where it is one.
        msg_id: Option<String>,
        /// The room that is meant, where a join, leave or sync is.
        room_id: Option<i64>,
        /// Why.
        reason: Reason,
        /// The server's sentence beside it.
        msg: String,
        /// When to try again.
        retry_after_ms: Option<u64>,
    },
    /// The server ends the session; [`Self::Closed`] follows.
    Kicked {
        /// Why.
        reason: Reason,
        /// The server's sentence beside it.
        msg: String,
    },
    /// The node is draining: connect to one of these after so long.
    MoveTo {
        /// `host:port` each; empty: anywhere.
        addresses: Vec<String>,
        /// Chosen by the server, so that not all come at once.
        after_ms: u64,
    },
    /// The server lives.
    HeartbeatEcho {
        /// Members of the first room joined.
        audience: Option<i64>,
    },
    /// A frame that could not be read was passed over: for the log.
    Unreadable {
        /// Its code.
        code: i32,
    },
    /// The connection is over. Told once per connection.
    Closed {
        /// Why.
        reason: Reason,
        /// Come back by yourself.
        reconnect: bool,
        /// Not before so long.
        retry_after_ms: Option<u64>,
    },
}

/// A call that cannot be made now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// In as many rooms as one session may be.
    #[error("too many rooms")]
    TooManyRooms,
    /// Too many messages or pages wait for their answer.
    #[error("too many calls wait for their answer")]
    TooManyCalls,
    /// A message with this id waits for its answer.
    #[error("a message with this id is under way")]
    IdInUse,
    /// An id that the server would refuse.
    #[error("{field} is out of range")]
    OutOfRange {
        /// Name on the wire.
        field: &'static str,
    },
    /// The room was not joined, or its snapshot has not come yet.
    #[error("not in this room")]
    NotInRoom,
    /// Only a message with an id is kept for the next connection.
    #[error("not logged in")]
    NotLive,
}

/// What the app sends: see [`super::ClientSession::biz`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// `None`: about no room.
    pub room_id: Option<i64>,
    /// Which service.
    pub biz_code: i32,
    /// Its JSON.
    pub data: String,
    /// New for every message; the same when one is tried again. `None`: sent once, and nobody hears whether it arrived.
    pub msg_id: Option<String>,
}
