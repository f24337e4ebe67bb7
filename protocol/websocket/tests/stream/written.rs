//! What is written: byte for byte as another hand puts it together, and read again by the other end.

use crate::peer::{BINARY, FIN, MESSAGE_BYTES_MAX, Raw, Said, feed_all, whole};
use billfish_websocket::{Decoder, Opcode, Role, apply_mask, close, close_into, frame_into, header_into};
use proptest::prelude::*;

/// All that a connection may go on after.
const OPCODES: [Opcode; 4] = [Opcode::Text, Opcode::Binary, Opcode::Ping, Opcode::Pong];

#[test]
fn every_length_is_written_in_its_shortest_form() {
    for length in [0, 1, 7, 8, 9, 125, 126, 127, 128, 255, 256, 65_535, 65_536, 65_537] {
        let payload: Vec<u8> = (0..=250).cycle().take(length).collect();
        let mask = [1, 2, 3, 4];
        let expected = Raw { first: FIN | BINARY, payload: payload.clone(), mask };
        for (reader, mask) in [(Role::Server, Some(mask)), (Role::Client, None)] {
            let mut out = b"before".to_vec();
            frame_into(&mut out, Opcode::Binary, &payload, mask);
            assert!(out[6..] == expected.bytes_for(reader), "{length} bytes for a {reader:?}");

            let mut apart = b"before".to_vec();
            header_into(&mut apart, Opcode::Binary, payload.len(), mask);
            let mut body = payload.clone();
            apply_mask(&mut body, mask.unwrap_or_default());
            apart.extend(body);
            assert!(apart == out, "{length} bytes for a {reader:?}, header apart");
        }
    }
}

#[test]
fn a_length_of_4_gib_is_written_in_8_bytes() {
    let mut out = Vec::new();
    header_into(&mut out, Opcode::Binary, 1 << 32, None);
    assert_eq!(out, [0x82, 0x7F, 0, 0, 0, 1, 0, 0, 0, 0]);
}

#[test]
fn a_control_frame_of_126_bytes_is_our_own_mistake() {
    for opcode in [Opcode::Ping, Opcode::Pong, Opcode::Close] {
        assert!(std::panic::catch_unwind(|| frame_into(&mut Vec::new(), opcode, &[0; 126], None)).is_err());
    }
    assert!(std::panic::catch_unwind(|| frame_into(&mut Vec::new(), Opcode::Continuation, &[], None)).is_err());
    assert!(std::panic::catch_unwind(|| close_into(&mut Vec::new(), 1005, "", None)).is_err());
}

#[test]
fn a_close_carries_its_code_and_a_reason_cut_at_a_character() {
    for (reason, kept) in [
        (String::new(), 0),
        ("bye".to_owned(), 3),
        ("x".repeat(123), 123),
        ("x".repeat(124), 123),
        (format!("{}€€", "x".repeat(120)), 123),
        (format!("{}€€", "x".repeat(121)), 121),
        (format!("{}😀", "x".repeat(122)), 122),
    ] {
        let text = reason[..kept].to_owned();
        let expected = whole(0x8, [&close::GOING_AWAY.to_be_bytes()[..], text.as_bytes()].concat());
        for (reader, mask) in [(Role::Server, Some(expected.mask)), (Role::Client, None)] {
            let mut out = Vec::new();
            close_into(&mut out, close::GOING_AWAY, &reason, mask);
            assert_eq!(out, expected.bytes_for(reader), "{reason}");
            let said = feed_all(&mut Decoder::default(), reader, [out.as_slice()], MESSAGE_BYTES_MAX);
            assert_eq!(said, (vec![Said::Close(Some(1001), text.clone())], None));
        }
    }
}

proptest! {
    #[test]
    fn a_mask_is_the_one_of_the_standard_and_its_own_opposite(bytes in prop::collection::vec(any::<u8>(), 0..100), mask: [u8; 4]) {
        let mut masked = bytes.clone();
        apply_mask(&mut masked, mask);
        // Section 5.3: octet i of the result is octet i combined with octet i mod 4 of the mask.
        let expected: Vec<u8> = bytes.iter().enumerate().map(|(at, byte)| byte ^ mask[at % 4]).collect();
        prop_assert_eq!(&masked, &expected);
        apply_mask(&mut masked, mask);
        prop_assert_eq!(masked, bytes);
    }

    /// Whatever one end writes, the other reads.
    #[test]
    fn what_is_written_is_read(kinds in prop::collection::vec((0..OPCODES.len(), "\\PC{0,40}", any::<[u8; 4]>()), 0..12), is_server: bool) {
        let mut out = Vec::new();
        let mut expected = Vec::new();
        for (kind, text, mask) in kinds {
            let mask = is_server.then_some(mask);
            let text = &text[..text.floor_char_boundary(125)];
            let bytes = text.as_bytes().to_vec();
            frame_into(&mut out, OPCODES[kind], text.as_bytes(), mask);
            expected.push(match kind {
                0 => Said::Text(text.to_owned()),
                1 => Said::Binary(bytes),
                2 => Said::Ping(bytes),
                _ => Said::Pong(bytes),
            });
        }
        // It ends it all.
        close_into(&mut out, 4_001, "log in first", is_server.then_some([9, 8, 7, 6]));
        expected.push(Said::Close(Some(4_001), "log in first".to_owned()));
        let reader = if is_server { Role::Server } else { Role::Client };
        prop_assert_eq!(feed_all(&mut Decoder::default(), reader, [out.as_slice()], MESSAGE_BYTES_MAX), (expected, None));
    }
}
