//! The stream's side of the protocol: cuts, claims, and peers that speak something else.

use billfish_wire::{
    Body, Code, Encoding, FrameError, HEADER_BYTES, Reason, Reassembler,
    frame::{self, decode, encode, encode_raw},
    limits::BODY_BYTES_MAX,
};
use proptest::prelude::*;

/// A frame as owned values, to compare what came out with what went in.
type Owned = (Encoding, i32, Vec<u8>);

fn owned(frame: frame::Frame<'_>) -> Owned {
    (frame.encoding, frame.code, frame.body.to_vec())
}

/// Feeds each piece and collects what comes out until an error or the end.
fn feed_all<'a>(
    reassembler: &mut Reassembler,
    pieces: impl IntoIterator<Item = &'a [u8]>,
    limit: usize,
) -> (Vec<Owned>, Option<FrameError>) {
    let mut out = Vec::new();
    for piece in pieces {
        let mut frames = reassembler.feed(piece);
        loop {
            match frames.next(limit) {
                Ok(Some(frame)) => out.push(owned(frame)),
                Ok(None) => break,
                Err(error) => return (out, Some(error)),
            }
        }
    }
    (out, None)
}

/// Three frames, one of them empty, in both encodings: 30 bytes of header and a few of body.
fn three_frames() -> (Vec<u8>, Vec<Owned>) {
    let ack = Body { msg_id: Some("a".to_owned()), ..Body::default() };
    let frames = [
        (Encoding::Json, Code::Ack, ack.to_vec(Encoding::Json)),
        (Encoding::Json, Code::Heartbeat, Vec::new()),
        (Encoding::Protobuf, Code::Ack, ack.to_vec(Encoding::Protobuf)),
    ];
    let mut stream = Vec::new();
    let mut expected = Vec::new();
    for (encoding, code, body) in frames {
        stream.extend(encode_raw(encoding.magic(), code.number(), &body));
        expected.push((encoding, code.number(), body));
    }
    (stream, expected)
}

fn header(magic: u16, code: i32, len: i32) -> Vec<u8> {
    [&magic.to_be_bytes()[..], &code.to_be_bytes(), &len.to_be_bytes()].concat()
}

#[test]
fn every_pair_of_cuts_gives_the_same_three_frames() {
    let (stream, expected) = three_frames();
    let mut tried = 0;
    for first in 0..=stream.len() {
        for second in first..=stream.len() {
            let mut reassembler = Reassembler::default();
            let pieces = [&stream[..first], &stream[first..second], &stream[second..]];
            let (frames, error) = feed_all(&mut reassembler, pieces, BODY_BYTES_MAX);
            assert_eq!((frames, error), (expected.clone(), None), "cut at {first} and {second}");
            assert!(!reassembler.is_partial());
            assert_eq!(reassembler.buffered_bytes(), 0, "cut at {first} and {second}: a finished frame keeps no buffer");
            tried += 1;
        }
    }
    assert_eq!(tried, (stream.len() + 1) * (stream.len() + 2) / 2);
}

#[test]
fn one_byte_per_read_gives_the_same_three_frames() {
    let (stream, expected) = three_frames();
    let mut reassembler = Reassembler::default();
    let (frames, error) = feed_all(&mut reassembler, stream.chunks(1), BODY_BYTES_MAX);
    assert_eq!((frames, error), (expected, None));
}

#[test]
fn a_frame_that_has_begun_says_so_until_its_last_byte() {
    let stream = encode_raw(Encoding::Json.magic(), 1003, b"{}");
    let mut reassembler = Reassembler::default();
    for byte in &stream[..stream.len() - 1] {
        feed_all(&mut reassembler, [std::slice::from_ref(byte)], BODY_BYTES_MAX);
        assert!(reassembler.is_partial());
    }
    let (frames, _) = feed_all(&mut reassembler, [&stream[stream.len() - 1..]], BODY_BYTES_MAX);
    assert_eq!(frames.len(), 1);
    assert!(!reassembler.is_partial());
}

#[test]
fn a_frame_is_not_handed_out_twice_when_its_reader_stops_early() {
    let (stream, expected) = three_frames();
    let cut = HEADER_BYTES + 3;
    let mut reassembler = Reassembler::default();
    feed_all(&mut reassembler, [&stream[..cut]], BODY_BYTES_MAX);
    let first_end = HEADER_BYTES + expected[0].2.len();
    {
        let mut frames = reassembler.feed(&stream[cut..first_end]);
        let first = frames.next(BODY_BYTES_MAX).expect("legal").expect("whole");
        assert_eq!(owned(first), expected[0]);
        // No second call: the reader closes, or panics, or forgets.
    }
    assert!(!reassembler.is_partial());
    let (rest, error) = feed_all(&mut reassembler, [&stream[first_end..]], BODY_BYTES_MAX);
    assert_eq!((rest, error), (expected[1..].to_vec(), None));
}

#[test]
fn what_is_held_comes_back_byte_for_byte_wherever_the_stream_was_cut() {
    let (stream, expected) = three_frames();
    let first_end = HEADER_BYTES + expected[0].2.len();
    for cut in 0..stream.len() {
        let mut reassembler = Reassembler::default();
        let mut before = Vec::new();
        let mut held = None;
        for piece in [&stream[..cut], &stream[cut..]] {
            let mut frames = reassembler.feed(piece);
            if held.is_none()
                && let Some(frame) = frames.next(BODY_BYTES_MAX).expect("legal")
            {
                before.push(owned(frame));
                frames.hold();
                held = Some(reassembler.take_held());
            } else if let Some(held) = &mut held {
                // The verdict is still out: what comes in meanwhile waits behind it.
                frames.hold();
                held.extend(reassembler.take_held());
            }
        }
        assert_eq!(before, expected[..1]);
        let held = held.expect("the first frame was whole by now");
        assert_eq!(held, &stream[first_end..], "cut at {cut}");
        let (after, error) = feed_all(&mut reassembler, [held.as_slice()], BODY_BYTES_MAX);
        assert_eq!((after, error), (expected[1..].to_vec(), None));
    }
}

#[test]
fn holding_before_or_after_everything_was_taken_loses_nothing() {
    let (stream, expected) = three_frames();
    let mut reassembler = Reassembler::default();
    reassembler.feed(&stream[..5]).hold();
    assert!(reassembler.is_partial());
    // Feeding on top of what is held keeps the order, though it costs more than taking it back.
    let (frames, error) = feed_all(&mut reassembler, [&stream[5..]], BODY_BYTES_MAX);
    assert_eq!((frames, error), (expected.clone(), None));

    reassembler.feed(&stream).hold();
    let (frames, error) = feed_all(&mut reassembler, [&[][..], &stream[..7], &stream[7..]], BODY_BYTES_MAX);
    assert_eq!((frames, error), ([expected.clone(), expected].concat(), None));

    reassembler.feed(&[]).hold();
    assert!(!reassembler.is_partial());
    assert!(reassembler.take_held().is_empty());
}

#[test]
fn a_header_that_claims_64_kib_costs_what_arrived_of_it() {
    let claim = header(Encoding::Json.magic(), 1003, 64 * 1024);
    let mut reassembler = Reassembler::default();
    assert_eq!(feed_all(&mut reassembler, [claim.as_slice()], BODY_BYTES_MAX), (Vec::new(), None));
    assert_eq!(reassembler.buffered_bytes(), HEADER_BYTES);

    let mut arrived = HEADER_BYTES;
    for _ in 0..1_000 {
        feed_all(&mut reassembler, [&b"x"[..]], BODY_BYTES_MAX);
        arrived += 1;
        assert!(reassembler.buffered_bytes() <= 2 * arrived, "{} allocated for {arrived}", reassembler.buffered_bytes());
    }
    // Near its end the buffer grows to the frame and not beyond.
    feed_all(&mut reassembler, [&vec![b'x'; 60_000][..]], BODY_BYTES_MAX);
    feed_all(&mut reassembler, [&b"x"[..]], BODY_BYTES_MAX);
    assert!(reassembler.buffered_bytes() <= HEADER_BYTES + 64 * 1024);
}

#[test]
fn a_frame_sent_byte_by_byte_is_not_copied_once_per_byte() {
    let stream = encode_raw(Encoding::Json.magic(), 1003, &vec![b'x'; 64 * 1024]);
    let mut reassembler = Reassembler::default();
    let (mut growths, mut capacity, mut whole) = (0, 0, 0);
    for byte in &stream {
        whole += feed_all(&mut reassembler, [std::slice::from_ref(byte)], BODY_BYTES_MAX).0.len();
        growths += usize::from(reassembler.buffered_bytes() > capacity);
        capacity = capacity.max(reassembler.buffered_bytes());
    }
    assert_eq!(whole, 1);
    assert!(growths <= 18, "2^17 bytes hold the frame, so at most one growth per doubling; there were {growths}");
}

#[test]
fn lengths_at_and_around_the_limits() {
    let limit = 4096;
    for (len, expected) in [
        (-1, Err(FrameError::NegativeLength { len: -1 })),
        (i32::MIN, Err(FrameError::NegativeLength { len: i32::MIN })),
        (i32::MAX, Err(FrameError::TooLarge { len: i32::MAX as usize, limit })),
        (4097, Err(FrameError::TooLarge { len: 4097, limit })),
        (4096, Ok(None)),
        (1, Ok(None)),
    ] {
        for encoding in Encoding::ALL {
            let bytes = header(encoding.magic(), 1003, len);
            assert_eq!(decode(&bytes, limit), expected, "len {len}");
            // The same byte by byte: refused at the last byte of the header, and nothing kept but the nine before it.
            let mut reassembler = Reassembler::default();
            let (frames, error) = feed_all(&mut reassembler, bytes.chunks(1), limit);
            assert_eq!((frames, error), (Vec::new(), expected.err()), "len {len}");
            assert!(reassembler.buffered_bytes() <= 16);
        }
    }
    let empty = header(Encoding::Json.magic(), 1004, 0);
    let (frame, taken) = decode(&empty, limit).expect("legal").expect("whole");
    assert_eq!((owned(frame), taken), ((Encoding::Json, 1004, Vec::new()), HEADER_BYTES));
}

#[test]
fn the_limit_may_rise_between_two_frames_of_one_piece() {
    let small = encode_raw(Encoding::Json.magic(), 1001, b"{}");
    let large = encode_raw(Encoding::Json.magic(), 1003, &[b'x'; 5000]);
    let stream = [small, large].concat();
    let mut reassembler = Reassembler::default();
    let mut frames = reassembler.feed(&stream);
    assert_eq!(frames.next(4096).expect("legal").expect("whole").code, 1001);
    assert_eq!(frames.remaining_bytes(), HEADER_BYTES + 5000);
    assert_eq!(frames.next(BODY_BYTES_MAX).expect("legal now").expect("whole").body.len(), 5000);
}

#[test]
fn a_wrong_magic_is_refused_at_its_first_wrong_byte() {
    for first in 0..=u8::MAX {
        let lone = [first];
        let result = decode(&lone, 4096);
        if first == 0x48 {
            assert_eq!(result, Ok(None));
            for second in 0..=u8::MAX {
                let expected = match second {
                    0xF1 | 0xF2 => Ok(None),
                    _ => Err(FrameError::UnknownMagic { magic: u16::from_be_bytes([0x48, second]) }),
                };
                assert_eq!(decode(&[0x48, second], 4096), expected);
                // Cut between the two bytes.
                let mut reassembler = Reassembler::default();
                assert_eq!(feed_all(&mut reassembler, [&[0x48][..], &[second][..]], 4096), (Vec::new(), expected.err()));
            }
        } else {
            assert_eq!(result, Err(FrameError::UnknownMagic { magic: u16::from(first) << 8 }));
        }
    }
}

#[test]
fn garbage_behind_a_frame_is_refused_and_the_frame_is_not() {
    let (stream, expected) = three_frames();
    for garbage in [&b"\0"[..], b"\x48\xF3", b"GET / HTTP/1.1\r\n\r\n", b"\x49"] {
        let glued = [stream.as_slice(), garbage].concat();
        for cut in 0..=glued.len() {
            let mut reassembler = Reassembler::default();
            let (frames, error) = feed_all(&mut reassembler, [&glued[..cut], &glued[cut..]], BODY_BYTES_MAX);
            assert_eq!(frames, expected);
            assert!(matches!(error, Some(FrameError::UnknownMagic { .. })), "cut at {cut}: {error:?}");
        }
    }
}

#[test]
fn http_tls_and_proxy_headers_are_turned_away_at_the_first_byte() {
    let strangers: [&[u8]; 6] = [
        b"GET / HTTP/1.1\r\nHost: billfish\r\n\r\n",
        b"POST /v1/im/tokens HTTP/1.1\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 8085\r\n",
        b"\r\n\r\n\0\r\nQUIT\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
    ];
    for stranger in strangers {
        let error = decode(&stranger[..1], 4096).expect_err("one byte is enough");
        assert_eq!(error.reason(), Reason::Malformed);
        let mut reassembler = Reassembler::default();
        assert_eq!(feed_all(&mut reassembler, [stranger], 4096), (Vec::new(), Some(error)));
        assert_eq!(reassembler.buffered_bytes(), 0);
    }
    // "HEAD" shares its first byte, 0x48, with the magic: the second byte tells.
    assert_eq!(decode(b"HEAD / HTTP/1.1\r\n", 4096), Err(FrameError::UnknownMagic { magic: 0x4845 }));
}

#[test]
fn every_error_has_the_number_of_the_protocol_page() {
    assert_eq!(FrameError::UnknownMagic { magic: 0 }.reason().number(), Some(4000));
    assert_eq!(FrameError::NegativeLength { len: -1 }.reason().number(), Some(4000));
    assert_eq!(FrameError::TooLarge { len: 5000, limit: 4096 }.reason().number(), Some(4008));
}

#[test]
fn a_million_tiny_frames_in_one_piece_come_out_whole_and_in_order() {
    let one = encode_raw(Encoding::Json.magic(), 1004, b"");
    let stream = one.repeat(100_000);
    let mut reassembler = Reassembler::default();
    let mut count = 0;
    for _ in 0..10 {
        let mut frames = reassembler.feed(&stream);
        while frames.next(4096).expect("legal").is_some() {
            count += 1;
        }
    }
    assert_eq!(count, 1_000_000);
    assert_eq!(reassembler.buffered_bytes(), 0);
}

#[test]
fn a_whole_frame_is_borrowed_from_the_input() {
    let stream = encode(Encoding::Protobuf, Code::Heartbeat, &Body::yes());
    let (frame, _) = decode(&stream, 4096).expect("legal").expect("whole");
    assert!(std::ptr::eq(frame.body.as_ptr(), stream[HEADER_BYTES..].as_ptr()));
}

fn any_frames() -> impl Strategy<Value = Vec<Owned>> {
    let encoding = prop_oneof![Just(Encoding::Json), Just(Encoding::Protobuf)];
    let frame = (encoding, any::<i32>(), prop::collection::vec(any::<u8>(), 0..200));
    prop::collection::vec(frame, 0..12)
}

proptest! {
    /// TCP may cut the stream anywhere; the frames that come out must not depend on where.
    #[test]
    fn cuts_do_not_change_frames(frames in any_frames(), sizes in prop::collection::vec(1usize..64, 1..40)) {
        let stream: Vec<u8> = frames.iter().flat_map(|(encoding, code, body)| encode_raw(encoding.magic(), *code, body)).collect();
        let mut pieces = Vec::new();
        let mut rest = stream.as_slice();
        for size in sizes.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, after) = rest.split_at((*size).min(rest.len()));
            pieces.push(piece);
            rest = after;
        }
        let (out, error) = feed_all(&mut Reassembler::default(), pieces, BODY_BYTES_MAX);
        prop_assert_eq!(error, None);
        prop_assert_eq!(out, frames);
    }

    /// Whatever the bytes, and however they are cut: no panic, the same frames, and the same error in the end.
    #[test]
    fn noise_is_refused_alike_however_it_is_cut(noise in prop::collection::vec(any::<u8>(), 0..80), magic in any::<bool>(), cut in 0usize..90) {
        let stream = if magic { [&[0x48, 0xF1, 0, 0, 3, 0xEB, 0, 0][..], &noise].concat() } else { noise };
        let whole = feed_all(&mut Reassembler::default(), [stream.as_slice()], 4096);
        let cut = cut.min(stream.len());
        let cut = feed_all(&mut Reassembler::default(), [&stream[..cut], &stream[cut..]], 4096);
        prop_assert_eq!(cut.0, whole.0);
        // A lone first byte tells less about the magic than both, but both times it is the same refusal.
        prop_assert_eq!(cut.1.map(FrameError::reason), whole.1.map(FrameError::reason));
    }
}
