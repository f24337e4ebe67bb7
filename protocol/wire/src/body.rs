//! The body of every frame: one set of fields, two encodings.
//!
//! - A frame uses the few fields its code names and leaves the rest out; unknown fields are ignored.
//! - The same struct is read and written as JSON and as protobuf (`proto/billfish/v1/body.proto`), so the two cannot drift apart.
//! - [`Body::decode`] is the only way in from a peer: it bounds depth, keys and ids before a value is believed.
//! - `Debug` shows neither `token` nor `data`: a body in a log line must not tell what was said, or let its reader log in.

use crate::{
    frame::Encoding,
    limits::{ADDRESSES_MAX, APP_ID_MIN, ID_BYTES_MAX, ID_MAX, JSON_DEPTH_MAX, JSON_KEYS_MAX, TOKEN_BYTES_MAX, USER_ID_MIN},
};
use prost::Message;
use serde::{Deserialize, Deserializer, Serialize, de};
use std::{fmt, str::Utf8Error};

mod ack;
mod resume;
mod shape;

pub use ack::plain_ack;
pub use resume::Resume;
pub use shape::check_json;

/// What stands in a frame. Field by field in `docs/protocol.md`.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[prost(skip_debug)]
#[serde(rename_all = "camelCase", default)]
pub struct Body {
    /// Business line.
    #[prost(int32, optional, tag = "1")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_id: Option<i32>,
    /// Who logs in; in a push to one user, its recipient.
    #[prost(int64, optional, tag = "2")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_id: Option<i64>,
    /// LOGIN only.
    #[prost(string, optional, tag = "3")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// The service of a BIZ.
    #[prost(int32, optional, tag = "4")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub biz_code: Option<i32>,
    /// JSON text that the service owns.
    #[prost(string, optional, tag = "5")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// Id of a message: for ACK and de-duplication.
    #[prost(string, optional, tag = "6")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub msg_id: Option<String>,
    /// The room it is about.
    #[prost(int64, optional, tag = "7")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub room_id: Option<i64>,
    /// Order of a push within its room.
    #[prost(int64, optional, tag = "8")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seq: Option<i64>,
    /// When the server accepted it, Unix ms.
    #[prost(int64, optional, tag = "9")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ts: Option<i64>,
    /// 1 when an ACK is wanted.
    #[prost(int32, optional, tag = "10")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qos: Option<i32>,
    /// Delivery class, see [`Class`].
    #[prost(int32, optional, tag = "11")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<i32>,
    /// Marks a state push: only the newest per (room, key) matters.
    #[prost(string, optional, tag = "12")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The device's own id, for the operator's logs.
    #[prost(string, optional, tag = "13")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_id: Option<String>,
    /// Kind of device: `android`, `ios`, `web`, `desktop`; anything else counts as one more kind.
    #[prost(string, optional, tag = "14")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// Version of the app.
    #[prost(string, optional, tag = "15")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// What the client has seen.
    #[prost(message, optional, tag = "16")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resume: Option<Resume>,
    /// Id of the session that LOGIN opened.
    #[prost(string, optional, tag = "17")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// Gap between heartbeats that the server expects.
    #[prost(int32, optional, tag = "18")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heartbeat_secs: Option<i32>,
    /// The server's clock, Unix ms.
    #[prost(int64, optional, tag = "19")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_time: Option<i64>,
    /// Name of the gateway.
    #[prost(string, optional, tag = "20")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Members of the joined room.
    #[prost(int64, optional, tag = "21")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audience: Option<i64>,
    /// Number of a [`crate::Reason`].
    #[prost(int32, optional, tag = "22")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<i32>,
    /// The sentence beside the number.
    #[prost(string, optional, tag = "23")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub msg: Option<String>,
    /// SYNC of a room: everything after this sequence number.
    #[prost(int64, optional, tag = "24")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from_seq: Option<i64>,
    /// SYNC of the inbox: everything after this message id.
    #[prost(string, optional, tag = "25")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from_id: Option<String>,
    /// Where to go on RECONNECT, `host:port` each.
    #[prost(string, repeated, tag = "26")]
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "few_addresses")]
    pub addresses: Vec<String>,
    /// How long to wait before moving.
    #[prost(int64, optional, tag = "27")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after_ms: Option<i64>,
    /// How long to wait before trying again.
    #[prost(int64, optional, tag = "28")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<i64>,
}

/// What a push is worth when its reader is slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Class {
    /// Control, money, PK results: never dropped silently.
    Control = 0,
    /// Gifts, PK events, notices: never dropped silently.
    Event = 1,
    /// Chat: dropped after ambient, oldest first.
    Chat = 2,
    /// Likes, counts: dropped first.
    Ambient = 3,
}

impl Class {
    /// Every class, the most valuable first.
    pub const ALL: [Self; 4] = [Self::Control, Self::Event, Self::Chat, Self::Ambient];

    /// The class of a number; what is not known is worth as much as chat.
    #[must_use]
    pub const fn from_number(number: i32) -> Self {
        match number {
            0 => Self::Control,
            1 => Self::Event,
            3 => Self::Ambient,
            _ => Self::Chat,
        }
    }

    /// The number on the wire.
    #[must_use]
    pub const fn number(self) -> i32 {
        self as i32
    }

    /// Whether a slow reader may lose it, counted.
    #[must_use]
    pub const fn may_drop(self) -> bool {
        matches!(self, Self::Chat | Self::Ambient)
    }

    /// Lower-case name, as metrics label it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Event => "event",
            Self::Chat => "chat",
            Self::Ambient => "ambient",
        }
    }
}

/// A body that is not believed. Told to the peer as [`crate::Reason::Malformed`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BodyError {
    /// Nested deeper than [`JSON_DEPTH_MAX`].
    #[error("JSON nested deeper than {JSON_DEPTH_MAX}")]
    TooDeep,
    /// More keys, or protobuf fields, than [`JSON_KEYS_MAX`].
    #[error("more than {JSON_KEYS_MAX} keys")]
    TooManyKeys,
    /// A JSON body is UTF-8 throughout, also in fields nobody reads.
    #[error("not UTF-8")]
    Utf8(#[source] Utf8Error),
    /// JSON, but not an object.
    #[error("not a JSON object")]
    NotAnObject,
    /// Not JSON, a known field twice, or a field of another type.
    #[error("not a JSON body")]
    Json(#[source] serde_json::Error),
    /// Not protobuf, or a field of another type.
    #[error("not a protobuf body")]
    Protobuf(#[source] prost::DecodeError),
    /// A field outside its range; names the field as it stands on the wire.
    #[error("{field} is out of range")]
    OutOfRange {
        /// Name on the wire.
        field: &'static str,
    },
}

impl Body {
    /// Reads a body. An empty one, legal in both encodings, has no field set.
    ///
    /// # Errors
    /// See [`BodyError`]. A body that is too deep or too wide is refused after at most two passes over its bytes, before any value
    /// of it is built.
    pub fn decode(encoding: Encoding, bytes: &[u8]) -> Result<Self, BodyError> {
        let body = match encoding {
            Encoding::Json if bytes.is_empty() => Self::default(),
            Encoding::Json => {
                check_json(bytes)?;
                let text = std::str::from_utf8(bytes).map_err(BodyError::Utf8)?;
                serde_json::from_str(text).map_err(BodyError::Json)?
            }
            Encoding::Protobuf => {
                shape::check_protobuf(bytes)?;
                <Self as Message>::decode(bytes).map_err(BodyError::Protobuf)?
            }
        };
        body.check_ranges()?;
        Ok(body)
    }

    /// Appends the body to `out`.
    pub fn encode_into(&self, out: &mut Vec<u8>, encoding: Encoding) {
        match encoding {
            Encoding::Json => serde_json::to_writer(out, self).expect("a body has only string keys and a Vec takes all bytes"),
            Encoding::Protobuf => Message::encode(self, out).expect("a Vec takes all bytes"),
        }
    }

    /// The body as bytes.
    #[must_use]
    pub fn to_vec(&self, encoding: Encoding) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode_into(&mut out, encoding);
        out
    }

    /// `{"data":"true"}`: the plain yes of LOGIN, LOGOUT and HEARTBEAT.
    #[must_use]
    pub fn yes() -> Self {
        Self { data: Some("true".to_owned()), ..Self::default() }
    }

    /// The body of an ERROR or KICK frame.
    #[must_use]
    pub fn refusal(reason: crate::Reason) -> Self {
        Self { code: reason.number(), msg: Some(reason.message().to_owned()), ..Self::default() }
    }

    fn check_ranges(&self) -> Result<(), BodyError> {
        let ids = [
            ("roomId", self.room_id),
            ("seq", self.seq),
            ("ts", self.ts),
            ("fromSeq", self.from_seq),
            ("serverTime", self.server_time),
            ("audience", self.audience),
            ("afterMs", self.after_ms),
            ("retryAfterMs", self.retry_after_ms),
        ];
        for (field, id) in ids {
            if id.is_some_and(|id| !(0..=ID_MAX).contains(&id)) {
                return Err(BodyError::OutOfRange { field });
            }
        }
        if self.user_id.is_some_and(|id| !(USER_ID_MIN..=ID_MAX).contains(&id)) {
            return Err(BodyError::OutOfRange { field: "userId" });
        }
        if self.app_id.is_some_and(|id| id < APP_ID_MIN) {
            return Err(BodyError::OutOfRange { field: "appId" });
        }
        let texts = [
            ("msgId", &self.msg_id),
            ("fromId", &self.from_id),
            ("key", &self.key),
            ("deviceId", &self.device_id),
            ("platform", &self.platform),
            ("version", &self.version),
            ("sessionId", &self.session_id),
        ];
        for (field, text) in texts {
            if text.as_deref().is_some_and(|text| !is_legal_id(text)) {
                return Err(BodyError::OutOfRange { field });
            }
        }
        if self.token.as_ref().is_some_and(|token| token.len() > TOKEN_BYTES_MAX || has_control(token)) {
            return Err(BodyError::OutOfRange { field: "token" });
        }
        if self.addresses.len() > ADDRESSES_MAX {
            return Err(BodyError::OutOfRange { field: "addresses" });
        }
        if self.resume.as_ref().is_some_and(|resume| !resume.is_legal()) {
            return Err(BodyError::OutOfRange { field: "resume" });
        }
        Ok(())
    }
}

/// Ids end up in state keys and log fields: short, and no control characters that could end a line there.
fn is_legal_id(text: &str) -> bool {
    text.len() <= ID_BYTES_MAX && !has_control(text)
}

fn has_control(text: &str) -> bool {
    text.bytes().any(|byte| byte.is_ascii_control())
}

/// Stops at the first address too many: a list of empty strings would cost eight times its bytes before its length could be checked.
fn few_addresses<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    struct Few;
    impl<'de> de::Visitor<'de> for Few {
        type Value = Vec<String>;
        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(formatter, "at most {ADDRESSES_MAX} addresses")
        }
        fn visit_unit<E: de::Error>(self) -> Result<Vec<String>, E> {
            Ok(Vec::new())
        }
        fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<Vec<String>, A::Error> {
            let mut addresses = Vec::new();
            while let Some(address) = list.next_element()? {
                if addresses.len() == ADDRESSES_MAX {
                    return Err(de::Error::invalid_length(ADDRESSES_MAX + 1, &self));
                }
                addresses.push(address);
            }
            Ok(addresses)
        }
    }
    deserializer.deserialize_any(Few)
}

/// Only the fields that are set; of `token` and `data` only the length.
impl fmt::Debug for Body {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = self.clone();
        for secret in [&mut shown.token, &mut shown.data].into_iter().flatten() {
            *secret = format!("<{} bytes>", secret.len());
        }
        write!(formatter, "Body{}", serde_json::to_string(&shown).map_err(|_| fmt::Error)?)
    }
}

#[cfg(test)]
mod tests {
    use super::Body;

    #[test]
    fn debug_tells_neither_token_nor_data() {
        let body = Body { token: Some("3b1f%10001".to_owned()), data: Some("hello".to_owned()), user_id: Some(10_086), ..Body::default() };
        assert_eq!(format!("{body:?}"), r#"Body{"userId":10086,"token":"<10 bytes>","data":"<5 bytes>"}"#);
    }
}
