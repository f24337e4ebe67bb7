//! What an app hears.

use crate::{
    endpoint::TransportKind,
    gift::{GiftEvent, PkBar},
};
use billfish_session::client::ClientEvent;
use billfish_wire::{BizCode, Body, Reason};
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    fmt::{self, Display, Formatter},
    time::Duration,
};

/// Something happened. Within a room events come in the room's order, over QUIC in that of their class, and each message comes once.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// A connect begins.
    Connecting {
        /// The first that is tried; of other transports others may follow in a moment.
        address: String,
    },
    /// Logged in. Rooms and messages from before come back by themselves. Without an [`Event::Disconnected`] before it, the session has
    /// moved to another connection, and nothing was missed.
    Connected {
        /// What carries the connection; see [`crate::ClientConfig::transport_first`].
        transport: TransportKind,
        /// Of the session, for logs.
        session_id: String,
        /// Name of the gateway, for logs.
        node: String,
        /// The server's clock, Unix ms; 0 when it did not say.
        server_time_ms: i64,
    },
    /// In a room, for the first time or again; what was missed follows before anything new.
    Joined {
        /// Which.
        room_id: i64,
        /// Members now.
        audience: i64,
        /// The newest state push of every key. A bar of a PK that is behind the one told last is left out; what is to be drawn comes as
        /// [`Event::PkBar`].
        states: BTreeMap<String, Body>,
        /// Messages are missing that the server no longer has: reload.
        gap: bool,
    },
    /// Out of a room: asked for, closed or banned.
    Left {
        /// Which.
        room_id: i64,
    },
    /// Someone said something.
    Chat(Chat),
    /// Members of a room have changed.
    Audience {
        /// Which room.
        room_id: i64,
        /// Members now.
        audience: i64,
    },
    /// Somebody has given something. Each gift comes once, whatever was sent again or grouped anew on the way.
    Gift(GiftEvent),
    /// The bar of a room's PK has moved, begun or, without a challenger, ended. Comes once for each change, whatever told of it - a gift, a
    /// state or a snapshot - and never behind one that was told before.
    PkBar {
        /// Which room.
        room_id: i64,
        /// Where it stands.
        bar: PkBar,
    },
    /// Somebody challenges the anchor.
    PkOnline {
        /// Which room.
        room_id: i64,
        /// Who.
        challenger_id: i64,
        /// Their picture; may be empty.
        avatar: String,
    },
    /// Any other push: `biz_code` and `data` say what it is.
    Push(Box<Body>),
    /// A page of a room's log that [`crate::Client::sync`] asked for.
    History {
        /// Which room.
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
    /// A message reached its service; of a gift: it is paid.
    Accepted {
        /// What the call gave.
        msg_id: String,
        /// When, Unix ms.
        ts_ms: i64,
        /// Its place in the room, where it got one.
        seq: Option<i64>,
    },
    /// The server said no. The session lives. Of a gift that is refused for [`Reason::Unavailable`], [`Reason::Internal`] or
    /// [`Reason::RateLimited`] it is open whether one of its tries was paid: see [`crate::Client::send_gift_as`]. All others are final.
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
        retry_after: Option<Duration>,
    },
    /// The connection is gone, or could not be made. It is tried again by itself.
    Disconnected {
        /// Why.
        cause: Cause,
        /// After this pause.
        retry_in: Duration,
    },
    /// The session is over; nothing follows.
    Closed {
        /// Why.
        reason: Reason,
    },
}

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// It ended.
    Ended(Reason),
    /// It could not be made.
    Unreachable {
        /// Of the first that was tried.
        address: String,
        /// What was wrong.
        problem: String,
    },
    /// Whoever answers cannot prove to be the gateway.
    Untrusted {
        /// Where.
        address: String,
        /// What is wrong with the certificate.
        problem: String,
    },
    /// There was no token to log in with.
    NoToken(String),
    /// There is no address to connect to.
    NoAddress,
}

impl Display for Cause {
    fn fmt(&self, to: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended(reason) => to.write_str(reason.message()),
            Self::Unreachable { address, problem } => write!(to, "{address} cannot be reached: {problem}"),
            Self::Untrusted { address, problem } => write!(to, "{address} is not trusted: {problem}"),
            Self::NoToken(problem) => to.write_str(problem),
            Self::NoAddress => to.write_str("neither the configuration nor the ticket names a gateway"),
        }
    }
}

/// A line of chat.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chat {
    /// The room; `None`: to this user alone.
    pub room_id: Option<i64>,
    /// Its place in the room.
    pub seq: Option<i64>,
    /// When the server accepted it, Unix ms.
    pub ts_ms: i64,
    /// Who, as the server knows it.
    pub sender_id: i64,
    /// Their name, as the server knows it.
    pub sender_name: String,
    /// Their picture.
    pub sender_avatar: String,
    /// What they said.
    pub content: String,
}

impl Chat {
    /// The chat in a push; `None` when it is something else.
    #[must_use]
    pub fn from_push(body: &Body) -> Option<Self> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Data {
            content: String,
            #[serde(default)]
            sender_id: i64,
            #[serde(default)]
            sender_name: Option<String>,
            #[serde(default)]
            sender_avatar: Option<String>,
        }
        if body.biz_code != Some(BizCode::ROOM_CHAT.0) {
            return None;
        }
        let data: Data = serde_json::from_str(body.data.as_deref()?).ok()?;
        Some(Self {
            room_id: body.room_id.filter(|&room_id| room_id != 0),
            seq: body.seq,
            ts_ms: body.ts.unwrap_or(0),
            sender_id: data.sender_id,
            sender_name: data.sender_name.unwrap_or_default(),
            sender_avatar: data.sender_avatar.unwrap_or_default(),
            content: data.content,
        })
    }
}

/// The event behind a push.
pub(crate) fn of_push(body: Box<Body>) -> Event {
    if let Some(chat) = Chat::from_push(&body) {
        return Event::Chat(chat);
    }
    if let Some((room_id, audience)) = audience_of(&body) {
        return Event::Audience { room_id, audience };
    }
    Event::Push(body)
}

/// The event behind what the session machine tells; `None` where the driver deals with it.
pub(crate) fn of_session(event: ClientEvent, transport: TransportKind) -> Option<Event> {
    Some(match event {
        ClientEvent::LoggedIn { session_id, node, server_time_ms } => Event::Connected { transport, session_id, node, server_time_ms },
        ClientEvent::Joined { room_id, snapshot, gap, .. } => {
            Event::Joined { room_id, audience: snapshot.audience, states: snapshot.states, gap }
        }
        ClientEvent::Left { room_id } => Event::Left { room_id },
        // Gifts have a memory: `gift::stage::Stage` tells them.
        ClientEvent::Push(body) => of_push(body),
        ClientEvent::History { room_id, messages, gap, more } => Event::History { room_id, messages, gap, more },
        ClientEvent::InboxRead { gap } => Event::InboxRead { gap },
        ClientEvent::Accepted { msg_id, ts_ms, seq } => Event::Accepted { msg_id, ts_ms, seq },
        ClientEvent::Refused { msg_id, room_id, reason, msg, retry_after_ms } => {
            Event::Refused { msg_id, room_id, reason, msg, retry_after: retry_after_ms.map(Duration::from_millis) }
        }
        ClientEvent::Kicked { .. }
        | ClientEvent::MoveTo { .. }
        | ClientEvent::HeartbeatEcho { .. }
        | ClientEvent::Unreadable { .. }
        | ClientEvent::Closed { .. } => return None,
    })
}

fn audience_of(body: &Body) -> Option<(i64, i64)> {
    #[derive(Deserialize)]
    struct Notice {
        r#type: String,
        audience: i64,
    }
    if body.biz_code != Some(BizCode::ROOM_NOTICE.0) {
        return None;
    }
    let notice: Notice = serde_json::from_str(body.data.as_deref()?).ok()?;
    (notice.r#type == "audience").then_some((body.room_id?, notice.audience))
}

#[cfg(test)]
mod tests {
    use super::{Chat, Event, of_push};
    use billfish_wire::Body;

    fn push(biz_code: i32, room_id: Option<i64>, data: &str) -> Box<Body> {
        Box::new(Body { biz_code: Some(biz_code), room_id, data: Some(data.to_owned()), ..Body::default() })
    }

    #[test]
    fn chat_and_audience_are_typed_and_the_rest_comes_whole() {
        let chat = r#"{"roomId":7,"content":"hi","senderId":10001,"senderName":"Ann","senderAvatar":null}"#;
        let Event::Chat(Chat { room_id, sender_id, sender_name, content, .. }) = of_push(push(5555, Some(7), chat)) else {
            panic!("it is chat")
        };
        assert_eq!((room_id, sender_id, sender_name.as_str(), content.as_str()), (Some(7), 10_001, "Ann", "hi"));
        let audience = of_push(push(5568, Some(7), r#"{"type":"audience","audience":3}"#));
        assert_eq!(audience, Event::Audience { room_id: 7, audience: 3 });
        for other in [push(5568, Some(7), r#"{"type":"muted"}"#), push(5556, Some(7), "{}"), push(5555, None, "not json")] {
            assert_eq!(of_push(other.clone()), Event::Push(other));
        }
    }

    #[test]
    fn one_to_one_chat_has_no_room() {
        let Event::Chat(chat) = of_push(push(5555, None, r#"{"content":"psst","senderId":10002}"#)) else { panic!("it is chat") };
        assert_eq!(chat.room_id, None);
    }
}
