//! A stream cut by sizes the fuzzer chooses, read as either end: the events, and the rule that is broken at the end, must not depend on the
//! cuts, what waits must not cost more than what arrived, and what was understood can be said again and means the same.
//!
//! Input: one byte with the role and the number of cut sizes, the sizes, then the stream.
#![no_main]

use billfish_websocket::{Decoder, Event, Opcode, Role, Violation, close_into, frame_into};
use libfuzzer_sys::fuzz_target;

/// Small, so that the fuzzer finds messages of the limit and of one byte more; above 125, so that it finds two forms of the length.
const MESSAGE_BYTES_MAX: usize = 200;

#[derive(Debug, PartialEq)]
struct Heard {
    /// What was said, written again in one frame each.
    again: Vec<u8>,
    events: usize,
    violation: Option<Violation>,
    is_partial: bool,
}

fn hear<'a>(role: Role, pieces: impl Iterator<Item = &'a [u8]>) -> Heard {
    let mut decoder = Decoder::default();
    let mut heard = Heard { again: Vec::new(), events: 0, violation: None, is_partial: false };
    let mut waiting = 0;
    for piece in pieces {
        let mut input = piece.to_vec();
        let mut messages = decoder.feed(role, &mut input);
        loop {
            match messages.next(MESSAGE_BYTES_MAX) {
                Ok(Some(event)) => {
                    say_again(&mut heard.again, role, &event);
                    heard.events += 1;
                    if matches!(event, Event::Close { .. }) {
                        return heard;
                    }
                }
                Ok(None) => break,
                Err(violation) => return Heard { violation: Some(violation), ..heard },
            }
        }
        waiting = if decoder.is_partial() { waiting + piece.len() } else { 0 };
        assert!(decoder.buffered_bytes() <= 2 * waiting, "memory for bytes that never arrived");
    }
    heard.is_partial = decoder.is_partial();
    heard
}

fn say_again(out: &mut Vec<u8>, role: Role, event: &Event<'_>) {
    let mask = (role == Role::Server).then_some([0xA5, 0, 0x5A, 0xFF]);
    match event {
        Event::Text(text) => frame_into(out, Opcode::Text, text.as_bytes(), mask),
        Event::Binary(bytes) => frame_into(out, Opcode::Binary, bytes, mask),
        Event::Ping(bytes) => frame_into(out, Opcode::Ping, bytes, mask),
        Event::Pong(bytes) => frame_into(out, Opcode::Pong, bytes, mask),
        Event::Close { code: Some(code), reason } => close_into(out, *code, reason, mask),
        Event::Close { code: None, .. } => frame_into(out, Opcode::Close, &[], mask),
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((&first, rest)) = input.split_first() else { return };
    let role = if first & 0x80 == 0 { Role::Server } else { Role::Client };
    let (sizes, stream) = rest.split_at(usize::from(first % 32).min(rest.len()));

    let whole = hear(role, std::iter::once(stream));

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
    assert_eq!(hear(role, pieces), whole);

    let again = hear(role, std::iter::once(whole.again.as_slice()));
    assert_eq!((again.events, again.violation, again.is_partial), (whole.events, None, false));
    assert_eq!(again.again, whole.again);
});
