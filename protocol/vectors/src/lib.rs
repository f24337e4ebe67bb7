//! Golden frames: bytes and what they mean, the same for every client and the gateway.
//!
//! - `vectors/*.json` is the contract; this crate only reads it for Rust tests. Other languages read the files, see `README.md`.
//! - It knows nothing of the crates it tests, so that their types cannot lend it their mistakes.
//! - `generate.py` writes the files. Nothing here, and no test, ever rewrites them.
#![forbid(unsafe_code)]

use serde::Deserialize;
use serde_json::{Map, Value};

/// A frame that is legal.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Golden {
    /// Unique; ends in the encoding.
    pub name: String,
    /// The frame.
    pub hex: Hex,
    /// `json` or `protobuf`.
    pub encoding: String,
    /// Who sends it.
    pub direction: Direction,
    /// `code` of its header.
    pub code: i32,
    /// Its body, as the fields it sets.
    pub body: Map<String, Value>,
    /// Encoding `body` gives these bytes again. `false` for a frame that a server may receive and nobody needs to write that way.
    pub canonical: bool,
}

/// Who sends a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Direction {
    /// Client to server.
    Up,
    /// Server to client.
    Down,
}

/// Several frames, or parts of them, in one stream.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Stream {
    /// Unique.
    pub name: String,
    /// What has arrived.
    pub hex: Hex,
    /// The frames that are whole, in order.
    pub frames: Vec<StreamFrame>,
    /// Bytes at the end that begin a frame and must be kept.
    pub waiting: usize,
    /// What completes the frame that has begun, where the file holds it: with it, one more frame comes out.
    pub rest: Hex,
}

/// A frame of a [`Stream`].
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StreamFrame {
    /// `json` or `protobuf`.
    pub encoding: String,
    /// `code` of its header.
    pub code: i32,
    /// Its body, byte for byte.
    pub body_hex: Hex,
}

/// Bytes that are refused.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Malformed {
    /// Unique.
    pub name: String,
    /// What the peer sends.
    pub hex: Hex,
    /// Who refuses it.
    pub layer: Layer,
    /// The server's answer when these are the first bytes of a connection; absent where they are legal then.
    pub before_login: Option<Refusal>,
    /// The server's answer on a session of user 10086 of app 10001; absent where they are legal then.
    pub session: Option<Refusal>,
}

/// What it takes to see the fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Layer {
    /// The header.
    Frame,
    /// The header is right, the body is not.
    Body,
    /// Both can be read; what they ask for is refused.
    Session,
}

/// A frame that is legal, as text.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GoldenEnvelope {
    /// Unique; ends in `/envelope`.
    pub name: String,
    /// The text message.
    pub text: String,
    /// Who sends it.
    pub direction: Direction,
    /// Its `code`.
    pub code: i32,
    /// Its body, as the fields it sets.
    pub body: Map<String, Value>,
    /// Encoding `body` gives this text again. `false` for one that a server may receive and nobody needs to write that way.
    pub canonical: bool,
}

/// A text that is refused.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MalformedEnvelope {
    /// Unique.
    pub name: String,
    /// What the peer sends.
    pub text: String,
    /// The reason's number.
    pub reason: i32,
}

/// How a server refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Refusal {
    /// The reason's number.
    pub reason: i32,
    /// An ERROR frame with that number is sent.
    pub answered: bool,
    /// The connection is closed.
    pub closes: bool,
}

/// Bytes written as hexadecimal digits; spaces are for the eye.
#[derive(Clone, Debug, Deserialize)]
#[serde(transparent)]
pub struct Hex(pub String);

impl Hex {
    /// The bytes.
    ///
    /// # Panics
    /// When the file holds something else than pairs of hexadecimal digits: a fault of the committed file.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let digits: Vec<u8> = self.0.bytes().filter(|byte| *byte != b' ').collect();
        let (pairs, rest) = digits.as_chunks::<2>();
        assert!(rest.is_empty(), "a digit is missing in {}", self.0);
        let digit = |byte: u8| char::from(byte).to_digit(16).expect("a hexadecimal digit");
        pairs.iter().map(|[high, low]| u8::try_from(digit(*high) << 4 | digit(*low)).expect("two digits are a byte")).collect()
    }
}

/// Text of `vectors/frames.json`.
pub const FRAMES_JSON: &str = include_str!("../vectors/frames.json");
/// Text of `vectors/streams.json`.
pub const STREAMS_JSON: &str = include_str!("../vectors/streams.json");
/// Text of `vectors/malformed.json`.
pub const MALFORMED_JSON: &str = include_str!("../vectors/malformed.json");
/// Text of `vectors/envelopes.json`.
pub const ENVELOPES_JSON: &str = include_str!("../vectors/envelopes.json");
/// Text of `vectors/malformed_envelopes.json`.
pub const MALFORMED_ENVELOPES_JSON: &str = include_str!("../vectors/malformed_envelopes.json");

/// Every legal frame.
#[must_use]
pub fn frames() -> Vec<Golden> {
    serde_json::from_str(FRAMES_JSON).expect("the committed file has this form")
}

/// Every stream of glued and half frames.
#[must_use]
pub fn streams() -> Vec<Stream> {
    serde_json::from_str(STREAMS_JSON).expect("the committed file has this form")
}

/// Everything that is refused.
#[must_use]
pub fn malformed() -> Vec<Malformed> {
    serde_json::from_str(MALFORMED_JSON).expect("the committed file has this form")
}

/// Every legal frame in the form of text.
#[must_use]
pub fn envelopes() -> Vec<GoldenEnvelope> {
    serde_json::from_str(ENVELOPES_JSON).expect("the committed file has this form")
}

/// Every text that is refused.
#[must_use]
pub fn malformed_envelopes() -> Vec<MalformedEnvelope> {
    serde_json::from_str(MALFORMED_ENVELOPES_JSON).expect("the committed file has this form")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// FNV-1a: short, and the same in every language and version.
    fn checksum(text: &str) -> u64 {
        text.bytes().fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3))
    }

    #[test]
    fn the_committed_vectors_never_change_silently() {
        let sums = [FRAMES_JSON, STREAMS_JSON, MALFORMED_JSON, ENVELOPES_JSON, MALFORMED_ENVELOPES_JSON]
            .map(|text| format!("{:016x}", checksum(text)));
        assert_eq!(
            sums,
            ["c449ddd55ced6f91", "8597ce3851fb9eeb", "1e401afd7d13de8f", "53569d0b378a7e14", "33476f6767d4526e"],
            "the golden frames changed. Clients in the field speak the old ones: read the diff line by line before you accept the new sums"
        );
    }

    #[test]
    fn every_code_stands_there_in_every_direction_it_travels_and_in_both_encodings() {
        let seen: BTreeSet<(i32, bool, String)> =
            frames().into_iter().map(|frame| (frame.code, frame.direction == Direction::Up, frame.encoding)).collect();
        let mut expected = BTreeSet::new();
        for encoding in ["json", "protobuf"] {
            expected.extend((1000..=1011).map(|code| (code, false, encoding.to_owned())));
            expected.extend([1001, 1002, 1003, 1004, 1005, 1007, 1008, 1009].map(|code| (code, true, encoding.to_owned())));
        }
        assert_eq!(seen, expected);
    }

    #[test]
    fn names_are_unique() {
        let names: Vec<String> = frames()
            .into_iter()
            .map(|frame| frame.name)
            .chain(streams().into_iter().map(|stream| stream.name))
            .chain(malformed().into_iter().map(|bad| bad.name))
            .chain(envelopes().into_iter().map(|envelope| envelope.name))
            .chain(malformed_envelopes().into_iter().map(|bad| bad.name))
            .collect();
        let unique: BTreeSet<&String> = names.iter().collect();
        assert_eq!(unique.len(), names.len());
        assert!(frames().len() >= 60, "the issue asks for 60 golden frames");
    }

    #[test]
    fn hex_ignores_spaces_and_nothing_else() {
        assert_eq!(Hex("48f1 00".to_owned()).bytes(), [0x48, 0xF1, 0]);
        assert!(std::panic::catch_unwind(|| Hex("4".to_owned()).bytes()).is_err());
        assert!(std::panic::catch_unwind(|| Hex("4x".to_owned()).bytes()).is_err());
    }
}
