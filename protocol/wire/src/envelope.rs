//! The envelope: a frame as text, for a transport that carries text messages.
//!
//! `{"magic":18673,"code":1004,"len":15,"body":"{\"data\":\"true\"}"}`: the fields of the binary header by name, and the JSON body as a
//! string. There is none for protobuf.
//!
//! - `len` must stand there and is not believed: clients in JavaScript count UTF-16 units where the header counts bytes.
//! - A body without anything to unescape is borrowed from the text; the envelope itself is never copied.
//! - Nothing is cut or joined here: the transport says where a message ends.

use crate::{
    Reason,
    body::{Body, BodyError, check_json},
    code::Code,
    frame::Encoding,
};
use serde::{Deserialize, Deserializer, de};
use std::{
    borrow::Cow,
    fmt,
    io::{self, Write},
};

/// Bytes around the body: the header's fields take 61 when all numbers are as long as they can be, the rest is for blanks and for fields of
/// later versions.
const AROUND_BODY_BYTES_MAX: usize = 256;

/// The longest text message in which a body of at most so many bytes can stand. Escaped, it is up to three times as long: a quote is two
/// bytes for one, and a character of two bytes is six when a client escapes what is not ASCII.
#[must_use]
pub const fn text_bytes_max(body_bytes_max: usize) -> usize {
    3 * body_bytes_max + AROUND_BODY_BYTES_MAX
}

/// One frame, read from its envelope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// What the frame is for; may be a number no [`Code`] has.
    pub code: i32,
    /// The JSON body, undecoded; empty where the envelope has none.
    pub body: Cow<'a, str>,
}

/// A text that is no frame.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnvelopeError {
    /// Not JSON, too deep or too wide, or a field is missing or of another type.
    #[error("not an envelope")]
    NotAnEnvelope(#[source] BodyError),
    /// Of another protocol, or of the encoding that has no text form.
    #[error("unknown magic {magic}")]
    UnknownMagic {
        /// What stood there.
        magic: i64,
    },
    /// The body is above what this peer may send now.
    #[error("body of {len} bytes, at most {limit} allowed")]
    TooLarge {
        /// Its bytes.
        len: usize,
        /// The limit in force.
        limit: usize,
    },
}

impl EnvelopeError {
    /// What the peer is told.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        match self {
            Self::NotAnEnvelope(_) | Self::UnknownMagic { .. } => Reason::Malformed,
            Self::TooLarge { .. } => Reason::TooLarge,
        }
    }
}

#[derive(Deserialize)]
struct Fields<'a> {
    magic: i64,
    code: i32,
    /// A claim of the peer that nothing follows from.
    #[serde(rename = "len")]
    _len: u64,
    #[serde(borrow, default)]
    body: Text<'a>,
}

/// A string, borrowed where it can be; `null` is the same as left out, as in bodies.
#[derive(Default)]
struct Text<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> de::Visitor<'de> for Either {
            type Value = Cow<'de, str>;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a body as a string")
            }
            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Cow::Borrowed(text))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Cow::Owned(text.to_owned()))
            }
            fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
                Ok(Cow::default())
            }
        }
        deserializer.deserialize_any(Either).map(Text)
    }
}

/// Reads the frame in a text message. Its body may be wrong in every way that [`Body::decode`] refuses.
///
/// # Errors
/// See [`EnvelopeError`]. Depth and keys are bounded as in a body, before any value is built.
pub fn decode(text: &str, body_bytes_max: usize) -> Result<Envelope<'_>, EnvelopeError> {
    check_json(text.as_bytes()).map_err(EnvelopeError::NotAnEnvelope)?;
    let fields: Fields<'_> = serde_json::from_str(text).map_err(|error| EnvelopeError::NotAnEnvelope(BodyError::Json(error)))?;
    if fields.magic != i64::from(Encoding::Json.magic()) {
        return Err(EnvelopeError::UnknownMagic { magic: fields.magic });
    }
    let Text(body) = fields.body;
    if body.len() > body_bytes_max {
        return Err(EnvelopeError::TooLarge { len: body.len(), limit: body_bytes_max });
    }
    Ok(Envelope { code: fields.code, body })
}

/// Appends the envelope of one frame to `out`; `len` is the bytes of the body before it was escaped, as in the binary header.
pub fn encode_into(out: &mut Vec<u8>, code: Code, body: &Body) {
    write_envelope(out, code.number(), |escaped| {
        serde_json::to_writer(escaped, body).expect("a body has only string keys and a Vec takes all bytes")
    });
}

/// Appends the envelope around a body that is encoded already.
pub fn encode_raw_into(out: &mut Vec<u8>, code: i32, body: &str) {
    write_envelope(out, code, |escaped| escaped.append(body.as_bytes()));
}

fn write_envelope(out: &mut Vec<u8>, code: i32, write_body: impl FnOnce(&mut Escaped<'_>)) {
    let magic = Encoding::Json.magic();
    write!(out, r#"{{"magic":{magic},"code":{code},"len":"#).expect("a Vec takes all bytes");
    // The length stands before what it counts: room for the commonest number of digits, so that few bodies have to be moved.
    let len_at = out.len();
    out.extend_from_slice(LEN_GUESS.as_bytes());
    out.extend_from_slice(br#","body":""#);
    let mut escaped = Escaped { out, plain_bytes: 0 };
    write_body(&mut escaped);
    let len = escaped.plain_bytes.to_string();
    out.extend_from_slice(br#""}"#);
    out.splice(len_at..len_at + LEN_GUESS.len(), len.into_bytes());
}

/// Nearly every push is 100 to 999 bytes.
const LEN_GUESS: &str = "000";

/// Writes JSON as the inside of a JSON string.
struct Escaped<'a> {
    out: &'a mut Vec<u8>,
    /// Before escaping.
    plain_bytes: usize,
}

impl Escaped<'_> {
    fn append(&mut self, mut json: &[u8]) {
        self.plain_bytes += json.len();
        while let Some(at) = json.iter().position(|&byte| matches!(byte, b'"' | b'\\' | 0..b' ')) {
            let (plain, rest) = json.split_at(at);
            self.out.extend_from_slice(plain);
            match rest[0] {
                escaped @ (b'"' | b'\\') => self.out.extend_from_slice(&[b'\\', escaped]),
                // None stands in what we write ourselves; in JSON of others, a line end between two tokens.
                control => write!(self.out, "\\u{control:04x}").expect("a Vec takes all bytes"),
            }
            json = &rest[1..];
        }
        self.out.extend_from_slice(json);
    }
}

impl Write for Escaped<'_> {
    fn write(&mut self, json: &[u8]) -> io::Result<usize> {
        self.append(json);
        Ok(json.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
