//! Where the transport cuts the stream, and where a peer cuts its messages, says nothing; and what is kept costs what has arrived.

use crate::peer::{BINARY, CLOSE, CONTINUATION, FIN, MESSAGE_BYTES_MAX, PING, PONG, ROLES, Raw, Said, TEXT, feed_all, raw, stream, whole};
use billfish_websocket::{Decoder, Event, Role};
use proptest::prelude::*;

/// Five messages and three control frames, in 9 frames: every kind, fragments, a control frame between them, characters that are cut.
fn short_stream() -> (Vec<Raw>, Vec<Said>) {
    let frames = vec![
        whole(TEXT, "é"),
        whole(PING, "p"),
        whole(BINARY, ""),
        raw(TEXT, "\u{20AC}".as_bytes().split_at(1).0),
        whole(PONG, ""),
        raw(CONTINUATION, "\u{20AC}".as_bytes().split_at(1).1),
        whole(CONTINUATION, ""),
        whole(BINARY, b"\xFF\x00"),
        whole(CLOSE, b"\x03\xE8ok"),
    ];
    let said = vec![
        Said::Text("é".to_owned()),
        Said::Ping(b"p".to_vec()),
        Said::Binary(Vec::new()),
        Said::Pong(Vec::new()),
        Said::Text("€".to_owned()),
        Said::Binary(vec![0xFF, 0]),
        Said::Close(Some(1000), "ok".to_owned()),
    ];
    (frames, said)
}

#[test]
fn every_pair_of_cuts_gives_the_same_events() {
    let (frames, said) = short_stream();
    for role in ROLES {
        let bytes = stream(&frames, role);
        for first in 0..=bytes.len() {
            for second in first..=bytes.len() {
                let mut decoder = Decoder::default();
                let pieces = [&bytes[..first], &bytes[first..second], &bytes[second..]];
                let heard = feed_all(&mut decoder, role, pieces, MESSAGE_BYTES_MAX);
                assert_eq!(heard, (said.clone(), None), "{role:?} cut at {first} and {second}");
                assert!(!decoder.is_partial());
                assert_eq!(decoder.buffered_bytes(), 0);
            }
        }
    }
}

#[test]
fn one_byte_per_read_gives_the_same_events() {
    let (frames, said) = short_stream();
    for role in ROLES {
        let bytes = stream(&frames, role);
        assert_eq!(feed_all(&mut Decoder::default(), role, bytes.chunks(1), MESSAGE_BYTES_MAX), (said.clone(), None));
    }
}

#[test]
fn what_lies_whole_in_the_input_is_borrowed_from_it() {
    let mut bytes = stream(&[whole(TEXT, "hello"), raw(BINARY, "a"), whole(PING, "p"), whole(CONTINUATION, "b")], Role::Server);
    let (start, end) = (bytes.as_ptr() as usize, bytes.as_ptr() as usize + bytes.len());
    let mut decoder = Decoder::default();
    let mut messages = decoder.feed(Role::Server, &mut bytes);
    let lies_within = |payload: &[u8]| (start..end).contains(&(payload.as_ptr() as usize));
    assert!(matches!(messages.next(100), Ok(Some(Event::Text(text))) if lies_within(text.as_bytes())));
    assert!(matches!(messages.next(100), Ok(Some(Event::Ping(payload))) if lies_within(payload)), "also between fragments");
    assert!(matches!(messages.next(100), Ok(Some(Event::Binary(joined))) if !lies_within(joined)));
    assert!(matches!(messages.next(100), Ok(None)));
}

#[test]
fn a_frame_whose_header_came_alone_is_borrowed_too() {
    let bytes = whole(TEXT, "hello").bytes_for(Role::Server);
    let (mut header, mut payload) = (bytes[..6].to_vec(), bytes[6..].to_vec());
    let mut decoder = Decoder::default();
    assert!(matches!(decoder.feed(Role::Server, &mut header).next(100), Ok(None)));
    assert!(decoder.is_partial());
    assert_eq!(decoder.buffered_bytes(), 0);
    let start = payload.as_ptr();
    let mut messages = decoder.feed(Role::Server, &mut payload);
    assert!(matches!(messages.next(100), Ok(Some(Event::Text(text))) if text.as_ptr() == start && text == "hello"));
    assert!(!decoder.is_partial());
}

#[test]
fn what_has_begun_says_so_until_its_last_byte() {
    for frames in [vec![whole(TEXT, "abc")], vec![whole(PING, "abc")], vec![raw(TEXT, "a"), whole(PING, ""), whole(CONTINUATION, "b")]] {
        let bytes = stream(&frames, Role::Server);
        let mut decoder = Decoder::default();
        assert!(!decoder.is_partial());
        for byte in &bytes[..bytes.len() - 1] {
            feed_all(&mut decoder, Role::Server, [std::slice::from_ref(byte)], MESSAGE_BYTES_MAX);
            assert!(decoder.is_partial());
        }
        let (said, _) = feed_all(&mut decoder, Role::Server, [&bytes[bytes.len() - 1..]], MESSAGE_BYTES_MAX);
        assert_eq!(said.len(), 1);
        assert!(!decoder.is_partial());
        assert_eq!(decoder.buffered_bytes(), 0);
    }
}

#[test]
fn a_message_is_not_handed_out_twice_when_its_reader_stops_early() {
    let bytes = stream(&[whole(TEXT, "hello"), whole(TEXT, "again")], Role::Server);
    let (mut before, mut after) = (bytes[..8].to_vec(), bytes[8..11].to_vec());
    let mut decoder = Decoder::default();
    assert!(matches!(decoder.feed(Role::Server, &mut before).next(100), Ok(None)));
    // No second call: the reader closes, or panics, or forgets.
    assert!(matches!(decoder.feed(Role::Server, &mut after).next(100), Ok(Some(Event::Text("hello")))));
    assert!(!decoder.is_partial());
    let rest = feed_all(&mut decoder, Role::Server, [&bytes[11..]], MESSAGE_BYTES_MAX);
    assert_eq!(rest, (vec![Said::Text("again".to_owned())], None));
}

#[test]
fn a_header_that_claims_64_kib_costs_what_arrived_of_it() {
    for first in [FIN | BINARY, BINARY] {
        let claim = [&[first, 0xFF][..], &65_536u64.to_be_bytes(), &[1, 2, 3, 4]].concat();
        let mut decoder = Decoder::default();
        feed_all(&mut decoder, Role::Server, [claim.as_slice()], MESSAGE_BYTES_MAX);
        assert!(decoder.is_partial());
        assert_eq!(decoder.buffered_bytes(), 0);
        for arrived in 1..=1_000 {
            feed_all(&mut decoder, Role::Server, [&b"x"[..]], MESSAGE_BYTES_MAX);
            assert!(decoder.buffered_bytes() <= 2 * arrived, "{} allocated for {arrived}", decoder.buffered_bytes());
        }
        // Near its end the buffer of the last fragment grows to the message and not beyond.
        feed_all(&mut decoder, Role::Server, [&vec![b'x'; 60_000][..]], MESSAGE_BYTES_MAX);
        feed_all(&mut decoder, Role::Server, [&b"x"[..]], MESSAGE_BYTES_MAX);
        assert!(first == BINARY || decoder.buffered_bytes() <= 65_536);
        assert!(decoder.buffered_bytes() <= 2 * 61_001);
    }
}

#[test]
fn a_message_sent_byte_by_byte_is_not_copied_once_per_byte() {
    // In reads of one byte, and in as many fragments as there may be.
    let bytes = whole(BINARY, vec![b'x'; 65_536]).bytes_for(Role::Server);
    let mut fragments = vec![raw(BINARY, vec![b'x'; 512])];
    fragments.extend((0..126).map(|_| raw(CONTINUATION, vec![b'x'; 512])));
    for (bytes, read_bytes) in [(bytes, 1), (stream(&fragments, Role::Server), 512)] {
        let mut decoder = Decoder::default();
        let (mut grown, mut capacity) = (0, 0);
        for piece in bytes.chunks(read_bytes) {
            feed_all(&mut decoder, Role::Server, [piece], MESSAGE_BYTES_MAX);
            grown += usize::from(decoder.buffered_bytes() > capacity);
            capacity = decoder.buffered_bytes();
        }
        assert!(grown <= 20, "grown {grown} times");
    }
}

#[test]
fn control_frames_that_are_cut_keep_a_message_waiting() {
    let frames = [raw(TEXT, "a"), whole(PING, [b'p'; 125]), whole(CONTINUATION, "b")];
    let bytes = stream(&frames, Role::Server);
    let mut decoder = Decoder::default();
    let mut arrived = 0;
    let mut said = Vec::new();
    for byte in &bytes {
        arrived += 1;
        said.extend(feed_all(&mut decoder, Role::Server, [std::slice::from_ref(byte)], MESSAGE_BYTES_MAX).0);
        assert!(decoder.buffered_bytes() <= 2 * arrived);
    }
    assert_eq!(said, [Said::Ping(vec![b'p'; 125]), Said::Text("ab".to_owned())]);
}

/// A message as the model sees it, and how its sender cuts it.
#[derive(Clone, Debug)]
struct Message {
    is_text: bool,
    text: String,
    /// Where it is cut into fragments, as shares of its length.
    cuts: Vec<prop::sample::Index>,
    /// What is sent between two fragments: how many are at each of the first cuts.
    between: Vec<(bool, Vec<u8>)>,
}

fn any_message() -> impl Strategy<Value = Message> {
    // Long enough for all three forms of the length.
    let text = prop_oneof![8 => "\\PC{0,40}", 2 => "[aé€😀]{100,300}", 1 => "[a-z]{10}".prop_map(|text| text.repeat(6_600))];
    let control = (any::<bool>(), prop::collection::vec(any::<u8>(), 0..=125));
    (any::<bool>(), text, prop::collection::vec(any::<prop::sample::Index>(), 0..5), prop::collection::vec(control, 0..3))
        .prop_map(|(is_text, text, cuts, between)| Message { is_text, text, cuts, between })
}

impl Message {
    /// The frames, and what the model says comes out of them: control frames as they come, the message with its last fragment.
    fn say(&self, mask: [u8; 4], frames: &mut Vec<Raw>, said: &mut Vec<Said>) {
        let bytes = self.text.as_bytes();
        let mut cuts: Vec<usize> = self.cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.sort_unstable();
        let mut between = self.between.iter();
        let mut opcode = if self.is_text { TEXT } else { BINARY };
        let mut start = 0;
        for cut in cuts {
            frames.push(Raw { first: opcode, payload: bytes[start..cut].to_vec(), mask });
            if let Some((is_ping, payload)) = between.next() {
                frames.push(Raw { first: FIN | if *is_ping { PING } else { PONG }, payload: payload.clone(), mask });
                said.push(if *is_ping { Said::Ping(payload.clone()) } else { Said::Pong(payload.clone()) });
            }
            (start, opcode) = (cut, CONTINUATION);
        }
        frames.push(Raw { first: FIN | opcode, payload: bytes[start..].to_vec(), mask });
        said.push(if self.is_text { Said::Text(self.text.clone()) } else { Said::Binary(bytes.to_vec()) });
    }
}

/// Pieces of the given sizes, over and over; an empty read now and then.
fn pieces<'a>(bytes: &'a [u8], sizes: &[usize]) -> Vec<&'a [u8]> {
    let mut out = Vec::new();
    let (mut left, mut sizes) = (bytes, sizes.iter().cycle());
    while !left.is_empty() {
        let (piece, rest) = left.split_at((*sizes.next().expect("there is one")).min(left.len()));
        out.push(piece);
        left = rest;
    }
    out
}

proptest! {
    /// Whole messages go in, cut anywhere twice over: by their sender into fragments and by the transport into reads.
    #[test]
    fn messages_come_out_as_they_went_in(
        messages in prop::collection::vec((any_message(), any::<[u8; 4]>()), 0..5),
        sizes in prop::collection::vec(prop_oneof![1usize..12, 1usize..3_000], 1..8),
        is_server: bool,
    ) {
        let role = if is_server { Role::Server } else { Role::Client };
        let (mut frames, mut expected) = (Vec::new(), Vec::new());
        for (message, mask) in &messages {
            message.say(*mask, &mut frames, &mut expected);
        }
        let bytes = stream(&frames, role);
        let mut decoder = Decoder::default();
        let mut said = Vec::new();
        let mut waiting = 0;
        for piece in pieces(&bytes, &sizes) {
            let (more, violation) = feed_all(&mut decoder, role, [piece], 100_000);
            prop_assert_eq!(violation, None);
            said.extend(more);
            // An upper bound of what arrived for what waits: everything since nothing waited.
            waiting = if decoder.is_partial() { waiting + piece.len() } else { 0 };
            prop_assert!(decoder.buffered_bytes() <= 2 * waiting);
        }
        prop_assert_eq!(said, expected);
        prop_assert!(!decoder.is_partial());
    }

    /// Also of a stream that is wrong: the same events, and the same rule that it broke.
    #[test]
    fn whatever_comes_is_judged_the_same_wherever_it_is_cut(
        bytes in prop::collection::vec(prop_oneof![
            4 => prop::sample::select(&[0x01u8, 0x02, 0x00, 0x80, 0x81, 0x82, 0x88, 0x89, 0x8A, 0xFE, 0xFF, 0x7E, 0x7F][..]),
            1 => any::<u8>(),
        ], 0..60),
        sizes in prop::collection::vec(1usize..8, 1..8),
        is_server: bool,
    ) {
        let role = if is_server { Role::Server } else { Role::Client };
        let whole = feed_all(&mut Decoder::default(), role, [bytes.as_slice()], 200);
        let cut = feed_all(&mut Decoder::default(), role, pieces(&bytes, &sizes), 200);
        prop_assert_eq!(whole, cut);
    }
}
