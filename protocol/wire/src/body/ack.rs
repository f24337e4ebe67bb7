//! An ACK as clients write it, read without building a [`Body`](super::Body).
//!
//! Of every copy of a QoS-1 push one comes back: at 10,000 members and 50 pushes a second half a million a second.

use crate::{frame::Encoding, limits::ID_BYTES_MAX};

/// The `msgId` of a body that has this one field, written the shortest way, as the SDKs do. `None` says nothing about the body: decode it.
///
/// JSON: `{"msgId":"…"}` without blanks or escapes. Protobuf: field 6 alone. An id of other than printable ASCII characters is decoded too.
#[must_use]
pub fn plain_ack(encoding: Encoding, bytes: &[u8]) -> Option<&str> {
    let id = match encoding {
        Encoding::Json => {
            let id = bytes.strip_prefix(br#"{"msgId":""#)?.strip_suffix(br#""}"#)?;
            // Either begins what has to be decoded.
            (!id.contains(&b'"') && !id.contains(&b'\\')).then_some(id)?
        }
        Encoding::Protobuf => {
            let (&[tag, len], id) = bytes.split_first_chunk()?;
            (tag == MSG_ID_TAG && usize::from(len) == id.len()).then_some(id)?
        }
    };
    let is_plain = id.len() <= ID_BYTES_MAX && id.iter().all(|byte| matches!(byte, b' '..=b'~'));
    if is_plain { std::str::from_utf8(id).ok() } else { None }
}

/// Field 6, length-delimited. A length of one byte reaches to 127, and an id has at most 64.
const MSG_ID_TAG: u8 = (6 << 3) | 2;
const _: () = assert!(ID_BYTES_MAX < 128);

#[cfg(test)]
mod tests {
    use super::plain_ack;
    use crate::{Body, Encoding, limits::ID_BYTES_MAX};
    use proptest::prelude::*;

    fn ack(msg_id: &str) -> Body {
        Body { msg_id: Some(msg_id.to_owned()), ..Body::default() }
    }

    #[test]
    fn what_the_sdks_write_is_plain() {
        for encoding in Encoding::ALL {
            for id in ["r1-5", "1764480000000-0", &"x".repeat(ID_BYTES_MAX)] {
                assert_eq!(plain_ack(encoding, &ack(id).to_vec(encoding)), Some(id), "{encoding:?}");
            }
            assert_eq!(plain_ack(encoding, &ack(&"x".repeat(ID_BYTES_MAX + 1)).to_vec(encoding)), None, "decoding refuses it");
            assert_eq!(plain_ack(encoding, &Body { seq: Some(5), ..ack("r1-5") }.to_vec(encoding)), None);
            assert_eq!(plain_ack(encoding, b""), None);
        }
        for body in [r#"{"msgId": "r1-5"}"#, r#"{"msgId":"a\"}"#, r#"{"msgId":"a","msgId":"b"}"#, r#"{"msgId":"}"#, r#"{"msgId":"é"}"#] {
            assert_eq!(plain_ack(Encoding::Json, body.as_bytes()), None, "{body}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_plain_is_decoded_to_the_same(protobuf in any::<bool>(), id in "[ -~]{0,70}|\\PC{0,20}", junk in prop::collection::vec(any::<(prop::sample::Index, u8)>(), 0..3)) {
            let encoding = if protobuf { Encoding::Protobuf } else { Encoding::Json };
            let mut bytes = ack(&id).to_vec(encoding);
            for (at, byte) in junk {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if let Some(plain) = plain_ack(encoding, &bytes) {
                prop_assert_eq!(Body::decode(encoding, &bytes).ok(), Some(ack(plain)));
            }
        }
    }
}
