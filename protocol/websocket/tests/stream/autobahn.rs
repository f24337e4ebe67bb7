//! The case list of the Autobahn test suite, as far as it is about what a decoder does: each case by its number, for both roles, whole,
//! frame by frame, in odd reads and byte by byte.
//!
//! Its cases send and look at the echo; here what would be echoed is what comes out, and a failed connection is a violation with its code.
//! The cases are run by `against`, which is the decoder here and a running gateway in `gateway/tests/transports`.
//!
//! What is left out: 7.1.x beyond the Close itself (nothing is read after it), 9.x above our limit (refused, see there), 12 and 13
//! (compression is not spoken).

use crate::{
    against::run,
    peer::{BINARY, CLOSE, CONTINUATION, FIN, MESSAGE_BYTES_MAX, PING, PONG, ROLES, Raw, Said, TEXT, feed_all, raw, whole},
};
use billfish_websocket::{Decoder, close};

/// One case: its number, what is sent, what comes out, and the code of the Close that ends it where a rule is broken.
pub(crate) struct Case {
    pub(crate) number: String,
    pub(crate) frames: Vec<Raw>,
    pub(crate) said: Vec<Said>,
    pub(crate) ends: Option<u16>,
}

fn ok(number: impl Into<String>, frames: Vec<Raw>, said: Vec<Said>) -> Case {
    Case { number: number.into(), frames, said, ends: None }
}

fn fails(number: impl Into<String>, frames: Vec<Raw>, said: Vec<Said>, code: u16) -> Case {
    Case { number: number.into(), frames, said, ends: Some(code) }
}

fn broken(number: impl Into<String>, frames: Vec<Raw>, said: Vec<Said>) -> Case {
    fails(number, frames, said, close::PROTOCOL_ERROR)
}

fn text(text: impl Into<String>) -> Said {
    Said::Text(text.into())
}

fn binary(bytes: impl Into<Vec<u8>>) -> Said {
    Said::Binary(bytes.into())
}

fn ping(bytes: impl Into<Vec<u8>>) -> Said {
    Said::Ping(bytes.into())
}

fn pong(bytes: impl Into<Vec<u8>>) -> Said {
    Said::Pong(bytes.into())
}

fn closed(code: u16, reason: impl Into<String>) -> Said {
    Said::Close(Some(code), reason.into())
}

/// Letters of two bytes, and one of three: the second is an omicron with oxia.
const GREEK: &str = "κ\u{1F79}σμε";

#[test]
fn section_1_framing() {
    let mut cases = Vec::new();
    for (at, length) in [0, 125, 126, 127, 128, 65_535, 65_536, 65_536].into_iter().enumerate() {
        // The eighth is the seventh in reads of 997 bytes, and here each is sent so.
        cases.push(ok(format!("1.1.{}", at + 1), vec![whole(TEXT, vec![b'*'; length])], vec![text("*".repeat(length))]));
        cases.push(ok(format!("1.2.{}", at + 1), vec![whole(BINARY, vec![0xFE; length])], vec![binary(vec![0xFE; length])]));
    }
    run(cases, 16);
}

#[test]
fn section_2_pings_and_pongs() {
    let bytes = b"\x00\xFF\xFE\xFD\xFC\xFB\x00\xFF";
    let ten: Vec<String> = (0..10).map(|at| format!("payload-{at}")).collect();
    let ten_frames = || ten.iter().map(|payload| whole(PING, payload)).collect();
    let ten_said = || ten.iter().map(|payload| ping(payload.as_bytes())).collect();
    run(
        vec![
            ok("2.1", vec![whole(PING, "")], vec![ping("")]),
            ok("2.2", vec![whole(PING, "Hello, world!")], vec![ping("Hello, world!")]),
            ok("2.3", vec![whole(PING, bytes)], vec![ping(bytes.as_slice())]),
            ok("2.4", vec![whole(PING, [0xFE; 125])], vec![ping([0xFE; 125])]),
            broken("2.5", vec![whole(PING, [0xFE; 126])], vec![]),
            ok("2.6", vec![whole(PING, [0xFE; 125])], vec![ping([0xFE; 125])]),
            ok("2.7", vec![whole(PONG, "")], vec![pong("")]),
            ok("2.8", vec![whole(PONG, "unsolicited pong payload")], vec![pong("unsolicited pong payload")]),
            ok("2.9", vec![whole(PONG, "unsolicited"), whole(PING, "ping")], vec![pong("unsolicited"), ping("ping")]),
            ok("2.10", ten_frames(), ten_said()),
            ok("2.11", ten_frames(), ten_said()),
        ],
        11,
    );
}

#[test]
fn section_3_reserved_bits() {
    let hello = || whole(TEXT, "Hello, world!");
    let bad = |bits: u8| vec![hello(), whole(bits << 4 | TEXT, "Hello, world!"), whole(PING, "")];
    run(
        vec![
            broken("3.1", vec![whole(0x10 | TEXT, "Hello, world!")], vec![]),
            broken("3.2", bad(2), vec![text("Hello, world!")]),
            broken("3.3", bad(3), vec![text("Hello, world!")]),
            broken("3.4", bad(4), vec![text("Hello, world!")]),
            broken("3.5", vec![whole(0x50 | BINARY, b"\x00\xFF\xFE\xFD\xFC\xFB\x00\xFF")], vec![]),
            broken("3.6", vec![whole(0x60 | PING, "Hello, world!")], vec![]),
            broken("3.7", vec![whole(0x70 | CLOSE, b"\x03\xE8")], vec![]),
        ],
        7,
    );
}

#[test]
fn section_4_opcodes() {
    let mut cases = Vec::new();
    for (section, first_opcode) in [(1, 0x3), (2, 0xB)] {
        for at in 0..5u8 {
            let opcode = first_opcode + at;
            let number = format!("4.{section}.{}", at + 1);
            // The first two alone, without and with a payload; the others behind a text and before a ping.
            cases.push(match at {
                0 => broken(number, vec![whole(opcode, "")], vec![]),
                1 => broken(number, vec![whole(opcode, "reserved opcode payload")], vec![]),
                _ => broken(number, vec![whole(TEXT, "Hello"), whole(opcode, "x"), whole(PING, "")], vec![text("Hello")]),
            });
        }
    }
    run(cases, 10);
}

#[test]
fn section_5_fragmentation() {
    let (one, two) = ("fragment1", "fragment2");
    let both = || text("fragment1fragment2");
    let in_two = || vec![raw(TEXT, one), whole(CONTINUATION, two)];
    let with_ping = || vec![raw(TEXT, one), whole(PING, "ping payload"), whole(CONTINUATION, two)];
    let of_nothing = |first: u8| vec![raw(first, "non-continuation payload"), whole(TEXT, "Hello, world!")];
    let in_five = || {
        vec![
            raw(TEXT, "fragment1"),
            raw(CONTINUATION, "fragment2"),
            whole(PING, "pongme 1!"),
            raw(CONTINUATION, "fragment3"),
            raw(CONTINUATION, "fragment4"),
            whole(PING, "pongme 2!"),
            whole(CONTINUATION, "fragment5"),
        ]
    };
    let five = || vec![ping("pongme 1!"), ping("pongme 2!"), text("fragment1fragment2fragment3fragment4fragment5")];
    let mut cases = vec![
        broken("5.1", vec![raw(PING, one), whole(CONTINUATION, two)], vec![]),
        broken("5.2", vec![raw(PONG, one), whole(CONTINUATION, two)], vec![]),
        // In one read, in one a frame, byte by byte.
        ok("5.3", in_two(), vec![both()]),
        ok("5.4", in_two(), vec![both()]),
        ok("5.5", in_two(), vec![both()]),
        ok("5.6", with_ping(), vec![ping("ping payload"), both()]),
        ok("5.7", with_ping(), vec![ping("ping payload"), both()]),
        ok("5.8", with_ping(), vec![ping("ping payload"), both()]),
        broken("5.15", [in_two(), of_nothing(CONTINUATION)].concat(), vec![both()]),
        broken("5.16", vec![raw(CONTINUATION, one), raw(TEXT, one), whole(CONTINUATION, two)], vec![]),
        broken("5.17", vec![whole(CONTINUATION, one), raw(TEXT, one), whole(CONTINUATION, two)], vec![]),
        broken("5.18", vec![raw(TEXT, one), whole(TEXT, two)], vec![]),
        ok("5.19", in_five(), five()),
        ok("5.20", in_five(), five()),
    ];
    cases.extend((9..=11).map(|number| broken(format!("5.{number}"), of_nothing(FIN | CONTINUATION), vec![])));
    cases.extend((12..=14).map(|number| broken(format!("5.{number}"), of_nothing(CONTINUATION), vec![])));
    run(cases, 20);
}

#[test]
fn sections_6_1_to_6_4_text_in_fragments() {
    let mixed = "Hello-µ@ßöäüàá-UTF-8!!";
    let greek = GREEK;
    let one_byte_each = |bytes: &[u8]| -> Vec<Raw> {
        let last = bytes.len() - 1;
        let frame = |(at, byte): (usize, &u8)| raw(if at == 0 { TEXT } else { CONTINUATION } | if at == last { FIN } else { 0 }, [*byte]);
        bytes.iter().enumerate().map(frame).collect()
    };
    let surrogate = [greek.as_bytes(), b"\xED\xA0\x80edited"].concat();
    let invalid = |frames| fails("", frames, vec![], close::INVALID_DATA);
    let numbered = |number: &str, case: Case| Case { number: number.to_owned(), ..case };
    // Beyond U+10FFFF, which its second byte tells.
    let beyond = b"\xF4\x90\x80\x80";
    run(
        vec![
            ok("6.1.1", vec![whole(TEXT, "")], vec![text("")]),
            ok("6.1.2", vec![raw(TEXT, ""), raw(CONTINUATION, ""), whole(CONTINUATION, "")], vec![text("")]),
            ok("6.1.3", vec![raw(TEXT, ""), raw(CONTINUATION, "middle"), whole(CONTINUATION, "")], vec![text("middle")]),
            ok("6.2.1", vec![whole(TEXT, mixed)], vec![text(mixed)]),
            ok("6.2.2", vec![raw(TEXT, "Hello-µ@ßöä"), whole(CONTINUATION, "üàá-UTF-8!!")], vec![text(mixed)]),
            ok("6.2.3", one_byte_each(mixed.as_bytes()), vec![text(mixed)]),
            ok("6.2.4", one_byte_each(greek.as_bytes()), vec![text(greek)]),
            numbered("6.3.1", invalid(vec![whole(TEXT, &surrogate)])),
            numbered("6.3.2", invalid(one_byte_each(&surrogate))),
            // To fail fast: the last fragment, or the last piece, of the suite's case never comes.
            numbered("6.4.1", invalid(vec![raw(TEXT, greek), raw(CONTINUATION, beyond)])),
            numbered("6.4.2", invalid(vec![raw(TEXT, [greek.as_bytes(), &beyond[..1]].concat()), raw(CONTINUATION, &beyond[1..2])])),
        ],
        11,
    );
    let whole_message = whole(TEXT, [greek.as_bytes(), beyond, b"edited"].concat());
    for (number, invalid_at) in [("6.4.3", greek.len() + 4), ("6.4.4", greek.len() + 2)] {
        for role in ROLES {
            let bytes = whole_message.bytes_for(role);
            let header_bytes = bytes.len() - whole_message.payload.len();
            let pieces = [&bytes[..header_bytes + greek.len() + 1], &bytes[header_bytes + greek.len() + 1..header_bytes + invalid_at]];
            let (_, violation) = feed_all(&mut Decoder::default(), role, pieces, MESSAGE_BYTES_MAX);
            assert_eq!(violation.map(|violation| violation.close_code()), Some(close::INVALID_DATA), "case {number} {role:?}");
        }
    }
}

/// The sequences of Markus Kuhn's "UTF-8 decoder capability and stress test", in the order of sections 6.5 to 6.23, and whether they are
/// UTF-8.
fn sequences() -> Vec<(usize, bool, Vec<Vec<u8>>)> {
    let list = |hex: &[&[u8]]| -> Vec<Vec<u8>> { hex.iter().map(|bytes| bytes.to_vec()).collect() };
    let greek = GREEK.as_bytes();
    let with_blanks = |bytes: std::ops::Range<u8>| -> Vec<u8> { bytes.flat_map(|byte| [byte, b' ']).collect() };
    let cut: [&[u8]; 10] = [
        b"\xC0",
        b"\xE0\x80",
        b"\xF0\x80\x80",
        b"\xF8\x80\x80\x80",
        b"\xFC\x80\x80\x80\x80",
        b"\xDF",
        b"\xEF\xBF",
        b"\xF7\xBF\xBF",
        b"\xFB\xBF\xBF\xBF",
        b"\xFD\xBF\xBF\xBF\xBF",
    ];
    let non_characters: Vec<Vec<u8>> = (0..=0x10u32)
        .flat_map(|plane| [plane << 16 | 0xFFFE, plane << 16 | 0xFFFF])
        .map(|code| char::from_u32(code).expect("no surrogate").to_string().into_bytes())
        .collect();
    let mut all = vec![
        (5, true, list(&[b"hello\x24world", b"hello\xC2\xA2world", b"hello\xE2\x82\xACworld", b"hello\xF0\xA4\xAD\xA2world", greek])),
        (7, true, list(&[b"\x00", b"\xC2\x80", b"\xE0\xA0\x80", b"\xF0\x90\x80\x80"])),
        (8, false, list(&[b"\xF8\x88\x80\x80\x80", b"\xFC\x84\x80\x80\x80\x80"])),
        (9, true, list(&[b"\x7F", b"\xDF\xBF", b"\xEF\xBF\xBF", b"\xF4\x8F\xBF\xBF"])),
        (10, false, list(&[b"\xF7\xBF\xBF\xBF", b"\xFB\xBF\xBF\xBF\xBF", b"\xFD\xBF\xBF\xBF\xBF\xBF"])),
        (11, true, list(&[b"\xED\x9F\xBF", b"\xEE\x80\x80", b"\xEF\xBF\xBD", b"\xF4\x8F\xBF\xBF"])),
        (11, false, list(&[b"\xF4\x90\x80\x80"])),
        (12, false, list(&[b"\x80", b"\xBF", b"\x80\xBF", b"\x80\xBF\x80", b"\x80\xBF\x80\xBF", b"\x80\xBF\x80\xBF\x80"])),
        (12, false, vec![b"\x80\xBF\x80\xBF\x80\xBF".to_vec(), (0x80..0xBF).collect()]),
        (13, false, vec![with_blanks(0xC0..0xDF), with_blanks(0xE0..0xEF), with_blanks(0xF0..0xF7)]),
        (13, false, vec![with_blanks(0xF8..0xFB), with_blanks(0xFC..0xFD)]),
        (14, false, list(&cut)),
        (15, false, vec![cut.concat()]),
        (16, false, list(&[b"\xFE", b"\xFF", b"\xFE\xFE\xFF\xFF"])),
        (17, false, list(&[b"\xC0\xAF", b"\xE0\x80\xAF", b"\xF0\x80\x80\xAF", b"\xF8\x80\x80\x80\xAF", b"\xFC\x80\x80\x80\x80\xAF"])),
        (18, false, list(&[b"\xC1\xBF", b"\xE0\x9F\xBF", b"\xF0\x8F\xBF\xBF", b"\xF8\x87\xBF\xBF\xBF", b"\xFC\x83\xBF\xBF\xBF\xBF"])),
        (19, false, list(&[b"\xC0\x80", b"\xE0\x80\x80", b"\xF0\x80\x80\x80", b"\xF8\x80\x80\x80\x80", b"\xFC\x80\x80\x80\x80\x80"])),
        (20, false, list(&[b"\xED\xA0\x80", b"\xED\xAD\xBF", b"\xED\xAE\x80", b"\xED\xAF\xBF", b"\xED\xB0\x80"])),
        (20, false, list(&[b"\xED\xBE\x80", b"\xED\xBF\xBF"])),
        (21, false, list(&[b"\xED\xA0\x80\xED\xB0\x80", b"\xED\xA0\x80\xED\xBF\xBF", b"\xED\xAD\xBF\xED\xB0\x80"])),
        (21, false, list(&[b"\xED\xAD\xBF\xED\xBF\xBF", b"\xED\xAE\x80\xED\xB0\x80", b"\xED\xAE\x80\xED\xBF\xBF"])),
        (21, false, list(&[b"\xED\xAF\xBF\xED\xB0\x80", b"\xED\xAF\xBF\xED\xBF\xBF"])),
        (22, true, non_characters),
        (23, true, (0xB9..=0xBF).map(|last| vec![0xEF, 0xBF, last]).collect()),
    ];
    // Every front of a word, also within its characters.
    all.extend((1..=greek.len()).map(|length| (6, GREEK.is_char_boundary(length), vec![greek[..length].to_vec()])));
    all
}

#[test]
fn sections_6_5_to_6_23_utf_8_sequences() {
    let mut cases = Vec::new();
    let mut at = std::collections::BTreeMap::<usize, usize>::new();
    for (section, is_utf8, list) in sequences() {
        for bytes in list {
            let number = at.entry(section).and_modify(|number| *number += 1).or_insert(1);
            let number = format!("6.{section}.{number}");
            let frames = vec![whole(TEXT, &bytes)];
            cases.push(match String::from_utf8(bytes) {
                Ok(said) if is_utf8 => ok(number, frames, vec![text(said)]),
                Err(_) if !is_utf8 => fails(number, frames, vec![], close::INVALID_DATA),
                Ok(_) | Err(_) => panic!("6.{section}: the list is wrong"),
            });
        }
    }
    run(cases, 132);
}

#[test]
fn section_7_close_handling() {
    let bye = || whole(CLOSE, b"\x03\xE8");
    let reason = |length: usize| "*".repeat(length);
    let with = |code: u16, reason: &str| whole(CLOSE, [&code.to_be_bytes()[..], reason.as_bytes()].concat());
    let mut cases = vec![
        // Nothing is read behind a Close, and what was begun before it is not said.
        ok("7.1.1", vec![whole(TEXT, "Hello World!"), bye()], vec![text("Hello World!"), closed(1000, "")]),
        ok("7.1.2", vec![bye(), bye()], vec![closed(1000, "")]),
        ok("7.1.3", vec![bye(), whole(PING, "")], vec![closed(1000, "")]),
        ok("7.1.4", vec![bye(), whole(TEXT, "Hello World!")], vec![closed(1000, "")]),
        ok("7.1.5", vec![raw(TEXT, "fragment1"), bye(), whole(CONTINUATION, "fragment2")], vec![closed(1000, "")]),
        // 64 KiB for the suite's 256: our limit.
        ok("7.1.6", vec![whole(TEXT, reason(65_536)), bye(), whole(PING, "")], vec![text(reason(65_536)), closed(1000, "")]),
        ok("7.3.1", vec![whole(CLOSE, "")], vec![Said::Close(None, String::new())]),
        broken("7.3.2", vec![whole(CLOSE, "a")], vec![]),
        ok("7.3.3", vec![bye()], vec![closed(1000, "")]),
        ok("7.3.4", vec![with(1000, "Hello World!")], vec![closed(1000, "Hello World!")]),
        ok("7.3.5", vec![with(1000, &reason(123))], vec![closed(1000, reason(123))]),
        broken("7.3.6", vec![with(1000, &reason(124))], vec![]),
        fails("7.5.1", vec![whole(CLOSE, b"\x03\xE8\xCE\xBA\xE1\xBD\xB9\xCF\x83\xED\xA0\x80edited")], vec![], close::INVALID_DATA),
    ];
    for (at, code) in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999].into_iter().enumerate() {
        cases.push(ok(format!("7.7.{}", at + 1), vec![with(code, "")], vec![closed(code, "")]));
    }
    for (at, code) in [0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999].into_iter().enumerate() {
        cases.push(broken(format!("7.9.{}", at + 1), vec![with(code, "")], vec![]));
    }
    cases.push(broken("7.13.1", vec![with(5000, "")], vec![]));
    cases.push(broken("7.13.2", vec![with(65_535, "")], vec![]));
    run(cases, 37);
}

/// The suite goes up to 16 MiB in a message and to 65,536 fragments. Here the limits are ours: what is within them is read, what is above
/// is refused as too large, by its header or by the fragment that is one too many.
#[test]
fn section_9_limits() {
    const KIB: usize = 1024;
    let mut cases = Vec::new();
    for (at, kib) in [64, 256, 1024, 4096, 8192, 16_384].into_iter().enumerate() {
        for (section, opcode) in [(1, TEXT), (2, BINARY)] {
            let number = format!("9.{section}.{}", at + 1);
            // The header alone refuses it: the payload of the larger ones is cut for the test's sake.
            let frame = whole(opcode, vec![b'*'; kib.min(256) * KIB]);
            cases.push(match (kib, opcode) {
                (64, TEXT) => ok(number, vec![frame], vec![text("*".repeat(64 * KIB))]),
                (64, _) => ok(number, vec![frame], vec![binary(vec![b'*'; 64 * KIB])]),
                _ => fails(number, vec![frame], vec![], close::TOO_LARGE),
            });
        }
    }
    for (at, fragment_bytes) in [64, 256, KIB, 4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB, 1024 * KIB, 4096 * KIB].into_iter().enumerate() {
        for (section, opcode) in [(3, TEXT), (4, BINARY)] {
            // 4 MiB for the suite; some more than our limit here.
            let frames = (0..(80 * KIB).div_ceil(fragment_bytes) + 1)
                .map(|at| raw(if at == 0 { opcode } else { CONTINUATION }, vec![b'*'; fragment_bytes.min(256 * KIB)]))
                .collect();
            cases.push(fails(format!("9.{section}.{}", at + 1), frames, vec![], close::TOO_LARGE));
        }
    }
    for (at, length) in [0, 16, 64, 256, 1024, 4096].into_iter().enumerate() {
        // 20 round trips for the suite's 1,000.
        cases.push(ok(format!("9.7.{}", at + 1), vec![whole(TEXT, vec![b'*'; length]); 20], vec![text("*".repeat(length)); 20]));
        cases.push(ok(format!("9.8.{}", at + 1), vec![whole(BINARY, vec![0xFE; length]); 20], vec![binary(vec![0xFE; length]); 20]));
    }
    run(cases, 42);
    for (at, read_bytes) in [64, 128, 256, 512, 1024, 2048].into_iter().enumerate() {
        // 64 KiB for the suite's MiB.
        let payload = "*".repeat(64 * KIB);
        for (section, opcode, said) in [(5, TEXT, text(&payload)), (6, BINARY, binary(payload.as_bytes()))] {
            for role in ROLES {
                let bytes = whole(opcode, &payload).bytes_for(role);
                let heard = feed_all(&mut Decoder::default(), role, bytes.chunks(read_bytes), MESSAGE_BYTES_MAX);
                assert!(heard == (vec![said.clone()], None), "case 9.{section}.{} {role:?}", at + 1);
            }
        }
    }
}

#[test]
fn section_10_a_message_in_fragments_of_1300_bytes() {
    let payload = vec![b'*'; 65_536];
    let count = payload.len().div_ceil(1300);
    let frames = payload
        .chunks(1300)
        .enumerate()
        .map(|(at, piece)| raw(if at == 0 { TEXT } else { CONTINUATION } | if at + 1 == count { FIN } else { 0 }, piece))
        .collect();
    run(vec![ok("10.1.1", frames, vec![text("*".repeat(65_536))])], 1);
}
