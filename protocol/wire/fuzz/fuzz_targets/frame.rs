//! A stream cut by sizes the fuzzer chooses: the frames, and the refusal at the end, must not depend on the cuts, what waits must not
//! cost more than what arrived, and holding at any frame must lose nothing.
//!
//! Input: one byte with the number of cut sizes, the sizes, then the stream.
#![no_main]

use billfish_wire::{HEADER_BYTES, Reason, Reassembler, frame::encode_raw};
use libfuzzer_sys::fuzz_target;

/// Small, so that the fuzzer finds bodies of the limit and of one byte more.
const BODY_BYTES_MAX: usize = 200;

type Owned = (u16, i32, Vec<u8>);

/// Feeds the pieces; after `hold_after` frames the rest of that piece is held, taken back and fed again.
fn frames<'a>(pieces: impl Iterator<Item = &'a [u8]>, hold_after: usize) -> (Vec<Owned>, Option<Reason>, bool) {
    let mut reassembler = Reassembler::default();
    let mut out: Vec<Owned> = Vec::new();
    let mut arrived = 0;
    for piece in pieces {
        arrived += piece.len();
        let held = {
            let mut frames = reassembler.feed(piece);
            loop {
                match frames.next(BODY_BYTES_MAX) {
                    Ok(Some(frame)) => out.push((frame.encoding.magic(), frame.code, frame.body.to_vec())),
                    Ok(None) => break None,
                    Err(error) => return (out, Some(error.reason()), false),
                }
                if out.len() == hold_after {
                    frames.hold();
                    break Some(reassembler.take_held());
                }
            }
        };
        if let Some(held) = held {
            let mut frames = reassembler.feed(&held);
            loop {
                match frames.next(BODY_BYTES_MAX) {
                    Ok(Some(frame)) => out.push((frame.encoding.magic(), frame.code, frame.body.to_vec())),
                    Ok(None) => break,
                    Err(error) => return (out, Some(error.reason()), false),
                }
            }
        }
        let waiting = arrived - taken_bytes(&out);
        assert!(reassembler.buffered_bytes() <= 2 * waiting, "memory for bytes that never arrived");
    }
    (out, None, reassembler.is_partial())
}

fn taken_bytes(frames: &[Owned]) -> usize {
    frames.iter().map(|(_, _, body)| HEADER_BYTES + body.len()).sum()
}

fuzz_target!(|input: &[u8]| {
    let Some((&count, rest)) = input.split_first() else { return };
    let (sizes, stream) = rest.split_at(usize::from(count % 32).min(rest.len()));

    let whole = frames(std::iter::once(stream), usize::MAX);

    let mut left = stream;
    let mut sizes = sizes.iter().copied().cycle();
    let pieces: Vec<&[u8]> = std::iter::from_fn(|| {
        let size = usize::from(sizes.next().unwrap_or(1)).min(left.len());
        let (piece, after) = left.split_at(size);
        // A size of 0 is an empty read; the last piece takes what is left, so that a list of zeros comes to an end.
        left = after;
        (!piece.is_empty() || size == 0 && !left.is_empty()).then_some(piece)
    })
    .take(4 * stream.len() + 4)
    .collect();
    let pieces = pieces.into_iter().chain(std::iter::once(left).filter(|left| !left.is_empty()));
    let cut = frames(pieces, usize::from(count / 32));
    assert_eq!(cut, whole);

    // And nothing is lost or made up on the way.
    let taken = taken_bytes(&whole.0);
    assert!(taken <= stream.len());
    if whole.1.is_none() {
        assert_eq!(whole.2, taken < stream.len());
    }
    let again: Vec<u8> = whole.0.iter().flat_map(|(magic, code, body)| encode_raw(*magic, *code, body)).collect();
    assert_eq!(again, stream[..taken]);
});
