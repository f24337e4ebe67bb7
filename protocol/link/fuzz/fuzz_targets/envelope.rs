//! A link's stream cut by sizes the fuzzer chooses: the envelopes, and the refusal at the end, must not depend on the cuts; what waits must
//! not cost more than what arrived; what was believed can be said again, and means the same.
//!
//! Input: one byte with the number of cut sizes, the sizes, then the stream.
#![no_main]

use billfish_link::{LinkError, message::Envelope, tcp::decode};
use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use prost::Message;

/// Bytes of the length before each envelope.
const PREFIX_BYTES: usize = 4;

/// The envelopes, why it ended early, and how many bytes wait for more.
fn envelopes<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Envelope>, Option<String>, usize) {
    let mut input = BytesMut::new();
    let mut out = Vec::new();
    let mut arrived = 0;
    for piece in pieces {
        input.extend_from_slice(piece);
        arrived += piece.len();
        loop {
            let before = input.len();
            match decode(&mut input) {
                Ok(Some(envelope)) => {
                    assert!(input.len() + PREFIX_BYTES <= before, "an envelope is taken with its length");
                    out.push(envelope);
                }
                Ok(None) => break assert_eq!(input.len(), before, "what waits is not touched"),
                Err(error @ (LinkError::TooLarge { .. } | LinkError::Garbage { .. })) => return (out, Some(error.to_string()), 0),
                Err(error) => panic!("{error}"),
            }
        }
        assert!(input.capacity() <= 2 * arrived + 64, "memory for bytes that never arrived");
    }
    (out, None, input.len())
}

fuzz_target!(|input: &[u8]| {
    let Some((&count, rest)) = input.split_first() else { return };
    let (sizes, stream) = rest.split_at(usize::from(count % 32).min(rest.len()));

    let whole = envelopes(std::iter::once(stream));

    let mut left = stream;
    let mut sizes = sizes.iter().copied().cycle();
    let pieces: Vec<&[u8]> = std::iter::from_fn(|| {
        let size = usize::from(sizes.next().unwrap_or(1)).max(1).min(left.len());
        let (piece, after) = left.split_at(size);
        left = after;
        (!piece.is_empty()).then_some(piece)
    })
    .collect();
    let cut = envelopes(pieces.into_iter());
    assert_eq!(cut, whole);

    for envelope in whole.0 {
        let body = envelope.encode_to_vec();
        let mut again = BytesMut::new();
        again.extend_from_slice(&u32::try_from(body.len()).expect("no larger than what came").to_be_bytes());
        again.extend_from_slice(&body);
        assert_eq!(decode(&mut again).expect("our own").as_ref(), Some(&envelope));
        assert!(again.is_empty());
    }
});
