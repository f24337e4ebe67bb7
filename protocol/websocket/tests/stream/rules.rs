//! Every rule of the framing and every limit, one by one, with the section of RFC 6455 that it comes from.

use crate::peer::{
    BINARY, CLOSE, CONTINUATION, FIN, MESSAGE_BYTES_MAX, PING, PONG, ROLES, Raw, Said, TEXT, feed_all, raw, served, stream, whole,
};
use billfish_websocket::{Decoder, FRAGMENTS_MAX, Role, Violation, close};

/// What each end says to such frames.
fn assert_refused(frames: &[Raw], violation: Violation, close_code: u16) {
    for role in ROLES {
        let bytes = stream(frames, role);
        let (_, refused) = feed_all(&mut Decoder::default(), role, [bytes.as_slice()], MESSAGE_BYTES_MAX);
        assert_eq!(refused, Some(violation), "{role:?} {frames:?}");
    }
    assert_eq!(violation.close_code(), close_code);
}

fn assert_refused_1002(frames: &[Raw], violation: Violation) {
    assert_refused(frames, violation, close::PROTOCOL_ERROR);
}

#[test]
fn the_examples_of_the_standard_are_read() {
    // Section 5.7.
    let examples: [(Role, &[u8], Said); 5] = [
        (Role::Client, &[0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f], Said::Text("Hello".to_owned())),
        (Role::Server, &[0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58], Said::Text("Hello".to_owned())),
        (Role::Client, &[0x01, 0x03, 0x48, 0x65, 0x6c, 0x80, 0x02, 0x6c, 0x6f], Said::Text("Hello".to_owned())),
        (Role::Client, &[0x89, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f], Said::Ping(b"Hello".to_vec())),
        (Role::Server, &[0x8a, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58], Said::Pong(b"Hello".to_vec())),
    ];
    for (role, bytes, said) in examples {
        assert_eq!(feed_all(&mut Decoder::default(), role, [bytes], MESSAGE_BYTES_MAX), (vec![said], None));
    }
    let long = [&[0x82, 0x7E, 0x01, 0x00][..], &[7; 256]].concat();
    let longer = [&[0x82, 0x7F, 0, 0, 0, 0, 0, 1, 0, 0][..], &[7; 65536]].concat();
    for (bytes, length) in [(long, 256), (longer, 65536)] {
        let said = feed_all(&mut Decoder::default(), Role::Client, [bytes.as_slice()], MESSAGE_BYTES_MAX);
        assert_eq!(said, (vec![Said::Binary(vec![7; length])], None));
    }
}

#[test]
fn a_client_must_mask_and_a_server_must_not() {
    // Section 5.1. Judged by the second byte, whatever follows.
    for first in [TEXT, BINARY, PING, CLOSE].map(|opcode| FIN | opcode) {
        let judge = |role, bytes: &[u8]| feed_all(&mut Decoder::default(), role, [bytes], MESSAGE_BYTES_MAX).1;
        assert_eq!(judge(Role::Server, &[first, 0]), Some(Violation::Unmasked));
        assert_eq!(judge(Role::Client, &[first, 0x80]), Some(Violation::Masked));
        assert_eq!(judge(Role::Client, &[first, 0]), None);
        assert_eq!(judge(Role::Server, &[first, 0x80, 0, 0, 0, 0]), None);
    }
    assert_eq!([Violation::Unmasked, Violation::Masked].map(Violation::close_code), [close::PROTOCOL_ERROR; 2]);
}

#[test]
fn no_reserved_bit_is_believed() {
    // Section 5.2: no extension was agreed on. In every kind of frame, and the first byte alone says it.
    for bits in (0x10..=0x70).step_by(0x10) {
        for opcode in [CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG] {
            assert_refused_1002(&[whole(bits | opcode, "")], Violation::ReservedBits { bits });
            assert_eq!(served(&[FIN | bits | opcode]).1, Some(Violation::ReservedBits { bits }));
        }
    }
}

#[test]
fn opcodes_without_a_meaning_are_refused() {
    // Section 5.2.
    for opcode in (0x3..=0x7).chain(0xB..=0xF) {
        assert_refused_1002(&[whole(opcode, "")], Violation::ReservedOpcode { opcode });
        assert_refused_1002(&[raw(opcode, "x")], Violation::ReservedOpcode { opcode });
        assert_eq!(served(&[FIN | opcode]).1, Some(Violation::ReservedOpcode { opcode }));
    }
}

#[test]
fn a_length_takes_as_few_bytes_as_it_can() {
    // Section 5.2.
    let judge = |header: &[u8]| served(header).1;
    for length in [0u16, 1, 125] {
        assert_eq!(judge(&[&[0x82, 0xFE][..], &length.to_be_bytes()].concat()), Some(Violation::LengthNotMinimal), "{length}");
    }
    assert_eq!(judge(&[0x82, 0xFE, 0, 126]), None);
    for length in [0u64, 125, 126, 65535] {
        assert_eq!(judge(&[&[0x82, 0xFF][..], &length.to_be_bytes()].concat()), Some(Violation::LengthNotMinimal), "{length}");
    }
    assert_eq!(judge(&[&[0x82, 0xFF][..], &65536u64.to_be_bytes()].concat()), None);
    assert_eq!(Violation::LengthNotMinimal.close_code(), close::PROTOCOL_ERROR);
}

#[test]
fn a_length_of_2_to_the_63_is_no_length() {
    // Section 5.2. Its first byte is enough.
    assert_eq!(served(&[0x82, 0xFF, 0x80]).1, Some(Violation::LengthHighBit));
    assert_eq!(served(&[&[0x82, 0xFF][..], &u64::MAX.to_be_bytes()].concat()).1, Some(Violation::LengthHighBit));
    assert_eq!(Violation::LengthHighBit.close_code(), close::PROTOCOL_ERROR);
    let most = (1u64 << 63) - 1;
    let refused = served(&[&[0x82, 0xFF][..], &most.to_be_bytes()].concat()).1;
    assert_eq!(refused, Some(Violation::TooLarge { bytes: most, limit: MESSAGE_BYTES_MAX }));
}

#[test]
fn control_frames_are_short_and_whole() {
    // Section 5.5.
    for opcode in [PING, PONG] {
        let payload = [b'x'; 125];
        assert_eq!(served(&stream(&[whole(opcode, payload)], Role::Server)).1, None);
        assert_refused_1002(&[whole(opcode, [b'x'; 126])], Violation::LongControl);
        assert_refused_1002(&[whole(opcode, [b'x'; 65536])], Violation::LongControl);
        // The announcement of a longer length is enough.
        assert_eq!(served(&[FIN | opcode, 0x80 | 126]).1, Some(Violation::LongControl));
        assert_eq!(served(&[FIN | opcode, 0x80 | 127]).1, Some(Violation::LongControl));
    }
    for opcode in [CLOSE, PING, PONG] {
        assert_refused_1002(&[raw(opcode, "")], Violation::FragmentedControl);
        assert_eq!(served(&[opcode]).1, Some(Violation::FragmentedControl));
    }
}

#[test]
fn a_continuation_needs_a_beginning() {
    // Section 5.4.
    for first in [FIN | CONTINUATION, CONTINUATION] {
        assert_refused_1002(&[raw(first, "x")], Violation::NothingToContinue);
        assert_refused_1002(&[whole(TEXT, "x"), raw(first, "x")], Violation::NothingToContinue);
        assert_refused_1002(&[raw(TEXT, "x"), whole(CONTINUATION, "y"), raw(first, "z")], Violation::NothingToContinue);
        assert_refused_1002(&[whole(PING, "x"), raw(first, "x")], Violation::NothingToContinue);
    }
}

#[test]
fn a_message_ends_before_the_next_begins() {
    // Section 5.4.
    for first in [TEXT, BINARY, FIN | TEXT, FIN | BINARY] {
        assert_refused_1002(&[raw(TEXT, "x"), raw(first, "y")], Violation::MessageNotFinished);
        assert_refused_1002(&[raw(TEXT, ""), raw(first, "")], Violation::MessageNotFinished);
        assert_refused_1002(&[raw(BINARY, "x"), whole(PING, ""), raw(first, "y")], Violation::MessageNotFinished);
    }
}

#[test]
fn control_frames_come_out_between_the_fragments() {
    // Section 5.4.
    let frames = [
        raw(TEXT, "a"),
        whole(PING, "1"),
        raw(CONTINUATION, ""),
        whole(PONG, "2"),
        whole(PING, ""),
        whole(CONTINUATION, "b"),
        whole(BINARY, "c"),
    ];
    let said = vec![
        Said::Ping(b"1".to_vec()),
        Said::Pong(b"2".to_vec()),
        Said::Ping(Vec::new()),
        Said::Text("ab".to_owned()),
        Said::Binary(b"c".to_vec()),
    ];
    for role in ROLES {
        let bytes = stream(&frames, role);
        assert_eq!(feed_all(&mut Decoder::default(), role, [bytes.as_slice()], MESSAGE_BYTES_MAX), (said.clone(), None));
    }
    // A Close too; what was begun stays unsaid.
    let closed = stream(&[raw(TEXT, "a"), whole(CLOSE, [0x03, 0xE8])], Role::Server);
    assert_eq!(served(&closed), (vec![Said::Close(Some(1000), String::new())], None));
}

#[test]
fn text_is_utf_8_and_bytes_are_not_looked_at() {
    // Section 8.1.
    for bad in [&b"\xFF"[..], b"a\xC0\xAFb", b"\xED\xA0\x80", b"\xF4\x90\x80\x80", b"\xE2\x82"] {
        assert_refused(&[whole(TEXT, bad)], Violation::NotUtf8, close::INVALID_DATA);
        assert_refused(&[raw(TEXT, bad), whole(CONTINUATION, "")], Violation::NotUtf8, close::INVALID_DATA);
        assert_eq!(served(&stream(&[whole(BINARY, bad)], Role::Server)), (vec![Said::Binary(bad.to_vec())], None));
        assert_eq!(
            served(&stream(&[raw(BINARY, bad), whole(CONTINUATION, bad)], Role::Server)),
            (vec![Said::Binary([bad, bad].concat())], None)
        );
    }
}

#[test]
fn a_character_may_be_cut_into_fragments_but_must_end_with_its_message() {
    let euro = "€".as_bytes();
    let frames = [raw(TEXT, &euro[..1]), raw(CONTINUATION, &euro[1..2]), whole(CONTINUATION, &euro[2..])];
    assert_eq!(served(&stream(&frames, Role::Server)), (vec![Said::Text("€".to_owned())], None));
    let unfinished = [raw(TEXT, &euro[..1]), whole(CONTINUATION, &euro[1..2])];
    assert_refused(&unfinished, Violation::NotUtf8, close::INVALID_DATA);
    // A character is not continued across the frame that ends the message.
    assert_refused(&[whole(TEXT, &euro[..2]), whole(TEXT, &euro[2..])], Violation::NotUtf8, close::INVALID_DATA);
}

#[test]
fn text_is_refused_at_the_byte_that_spoils_it() {
    let bytes = whole(TEXT, b"abc\xFFdefghijkl").bytes_for(Role::Server);
    let header_bytes = bytes.len() - 13;
    let until = |length: usize| served(&bytes[..length]).1;
    assert_eq!(until(header_bytes + 3), None);
    assert_eq!(until(header_bytes + 4), Some(Violation::NotUtf8));
    // And in a fragment, though more of them would follow.
    assert_eq!(served(&stream(&[raw(TEXT, b"abc"), raw(CONTINUATION, b"\xFF")], Role::Server)).1, Some(Violation::NotUtf8));
}

#[test]
fn a_close_has_no_code_or_one_that_may_be_sent() {
    // Sections 5.5.1 and 7.4.
    let close = |payload: &[u8]| served(&stream(&[whole(CLOSE, payload)], Role::Server));
    assert_eq!(close(b""), (vec![Said::Close(None, String::new())], None));
    assert_refused_1002(&[whole(CLOSE, b"\x03")], Violation::CloseOfOneByte);
    for code in 0..=u16::MAX {
        let expected = match code {
            1000..=1003 | 1007..=1014 | 3000..=4999 => (vec![Said::Close(Some(code), "bye".to_owned())], None),
            _ => (Vec::new(), Some(Violation::CloseCode { code })),
        };
        assert_eq!(close(&[&code.to_be_bytes()[..], b"bye"].concat()), expected);
    }
    assert_eq!(Violation::CloseCode { code: 0 }.close_code(), close::PROTOCOL_ERROR);
}

#[test]
fn the_reason_of_a_close_is_utf_8() {
    // Section 5.5.1.
    assert_refused(&[whole(CLOSE, b"\x03\xE8\xFF")], Violation::NotUtf8, close::INVALID_DATA);
    assert_refused(&[whole(CLOSE, b"\x03\xE8ok \xE2\x82")], Violation::NotUtf8, close::INVALID_DATA);
}

#[test]
fn a_message_of_the_limit_is_read_and_of_one_byte_more_is_not() {
    let limit = 1_000;
    let judge = |frames: &[Raw]| feed_all(&mut Decoder::default(), Role::Server, [stream(frames, Role::Server).as_slice()], limit).1;
    for opcode in [TEXT, BINARY] {
        assert_eq!(judge(&[whole(opcode, [b'x'; 1_000])]), None);
        assert_eq!(judge(&[whole(opcode, [b'x'; 1_001])]), Some(Violation::TooLarge { bytes: 1_001, limit }));
        // All fragments together.
        assert_eq!(judge(&[raw(opcode, [b'x'; 600]), whole(CONTINUATION, [b'x'; 400])]), None);
        let over = [raw(opcode, [b'x'; 600]), whole(CONTINUATION, [b'x'; 401])];
        assert_eq!(judge(&over), Some(Violation::TooLarge { bytes: 1_001, limit }));
    }
    // The claim is enough, and no claim wraps around.
    let mut decoder = Decoder::default();
    let claim = [&raw(BINARY, "x").bytes_for(Role::Server)[..], &[0x80, 0xFF], &(u64::MAX >> 1).to_be_bytes()].concat();
    let refused = feed_all(&mut decoder, Role::Server, [claim.as_slice()], limit).1;
    assert_eq!(refused, Some(Violation::TooLarge { bytes: 1 << 63, limit }));
    assert_eq!(Violation::TooLarge { bytes: 1, limit }.close_code(), close::TOO_LARGE);
    // Control frames are no messages.
    let allowed = feed_all(&mut Decoder::default(), Role::Server, [whole(PING, [b'x'; 125]).bytes_for(Role::Server).as_slice()], 0);
    assert_eq!(allowed, (vec![Said::Ping(vec![b'x'; 125])], None));
}

#[test]
fn the_limit_may_be_raised_between_two_messages() {
    let mut bytes = stream(&[whole(BINARY, "ab"), whole(BINARY, "abcd")], Role::Server);
    let mut decoder = Decoder::default();
    let mut messages = decoder.feed(Role::Server, &mut bytes);
    assert!(messages.next(2).expect("legal").is_some());
    assert!(messages.next(4).expect("legal").is_some());
    assert!(messages.next(4).expect("legal").is_none());
}

#[test]
fn a_message_of_128_fragments_is_read_and_of_129_is_not() {
    let fragments = |count: usize| {
        let mut frames = vec![raw(BINARY, "x")];
        frames.extend((2..count).map(|_| raw(CONTINUATION, "")));
        frames.push(whole(CONTINUATION, "y"));
        frames
    };
    assert_eq!(served(&stream(&fragments(FRAGMENTS_MAX), Role::Server)), (vec![Said::Binary(b"xy".to_vec())], None));
    assert_refused(&fragments(FRAGMENTS_MAX + 1), Violation::TooManyFragments { limit: FRAGMENTS_MAX }, close::TOO_LARGE);
    // Each message has its own; control frames count as none.
    let twice = [fragments(FRAGMENTS_MAX), vec![whole(PING, ""); 200], fragments(FRAGMENTS_MAX)].concat();
    assert_eq!(served(&stream(&twice, Role::Server)).0.len(), 202);
    // Another bound, where the house has one.
    for count in [2, 3] {
        let mut bytes = stream(&fragments(count), Role::Server);
        let mut decoder = Decoder::default();
        let mut messages = decoder.feed(Role::Server, &mut bytes).within_fragments(2);
        let verdict = messages.next(100).map(|event| event.is_some());
        assert_eq!(verdict, if count == 2 { Ok(true) } else { Err(Violation::TooManyFragments { limit: 2 }) });
    }
}
