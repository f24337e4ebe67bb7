//! The wire crate against the golden frames. They were written by a second implementation, so agreement means something.

use billfish_vectors::{Direction, Golden, Layer, Malformed, envelopes, frames, malformed, malformed_envelopes, streams};
use billfish_wire::{
    Body, Code, Encoding, Frame, FrameError, HEADER_BYTES, Reason, Reassembler, envelope,
    frame::{decode, encode},
    limits::{BODY_BYTES_MAX, LOGIN_BODY_BYTES_MAX},
};
use serde_json::Value;

fn encoding(name: &str) -> Encoding {
    match name {
        "json" => Encoding::Json,
        "protobuf" => Encoding::Protobuf,
        other => panic!("no encoding {other}"),
    }
}

fn as_json(body: &Body) -> Value {
    serde_json::from_slice(&body.to_vec(Encoding::Json)).expect("our own JSON")
}

fn decode_golden(golden: &Golden, bytes: &[u8]) -> Body {
    let limit =
        if golden.direction == Direction::Up && golden.code == Code::Login.number() { LOGIN_BODY_BYTES_MAX } else { BODY_BYTES_MAX };
    let (frame, taken) = decode(bytes, limit).expect("legal").expect("whole");
    assert_eq!(taken, bytes.len(), "{}", golden.name);
    assert_eq!((frame.encoding, frame.code), (encoding(&golden.encoding), golden.code), "{}", golden.name);
    Body::decode(frame.encoding, frame.body).unwrap_or_else(|error| panic!("{}: {error}", golden.name))
}

#[test]
fn every_golden_frame_means_what_it_says() {
    for golden in frames() {
        let body = decode_golden(&golden, &golden.hex.bytes());
        // Compared as values: the order of keys says nothing.
        assert_eq!(as_json(&body), Value::Object(golden.body.clone()), "{}", golden.name);
    }
}

#[test]
fn every_canonical_frame_is_written_again_byte_for_byte() {
    let mut canonical = 0;
    for golden in frames() {
        let bytes = golden.hex.bytes();
        let body = decode_golden(&golden, &bytes);
        let code = Code::from_number(golden.code).expect("a golden code");
        let again = encode(encoding(&golden.encoding), code, &body);
        // Byte for byte also in JSON, because this implementation writes keys in the order of the protobuf numbers. That order is not
        // part of the protocol: another client compares its JSON as values.
        assert_eq!(again == bytes, golden.canonical, "{}: {again:02x?}", golden.name);
        canonical += usize::from(golden.canonical);
        // The stated meaning alone gives the same body.
        let stated = serde_json::to_vec(&golden.body).expect("JSON");
        assert_eq!(Body::decode(Encoding::Json, &stated).expect("legal"), body, "{}", golden.name);
    }
    assert!(canonical > 100, "only {canonical}");
}

#[test]
fn both_encodings_of_a_frame_mean_the_same() {
    let all = frames();
    let mut pairs = 0;
    for golden in all.iter().filter(|golden| golden.canonical && golden.encoding == "json") {
        let stem = golden.name.trim_end_matches("/json");
        let twin = all.iter().find(|other| other.name == format!("{stem}/protobuf")).expect("each is there in both");
        assert_eq!((twin.code, twin.direction, &twin.body), (golden.code, golden.direction, &golden.body));
        assert_eq!(decode_golden(twin, &twin.hex.bytes()), decode_golden(golden, &golden.hex.bytes()));
        pairs += 1;
    }
    assert!(pairs >= 50, "only {pairs}");
}

#[test]
fn streams_come_apart_the_same_wherever_they_are_cut() {
    for stream in streams() {
        let bytes = stream.hex.bytes();
        for cut in 0..=bytes.len() {
            let mut reassembler = Reassembler::default();
            let mut out = Vec::new();
            let (before, after) = bytes.split_at(cut);
            for piece in [before, after] {
                let mut frames = reassembler.feed(piece);
                while let Some(frame) = frames.next(BODY_BYTES_MAX).expect("legal") {
                    out.push((frame.encoding, frame.code, frame.body.to_vec()));
                }
            }
            let expected: Vec<_> =
                stream.frames.iter().map(|frame| (encoding(&frame.encoding), frame.code, frame.body_hex.bytes())).collect();
            assert_eq!(out, expected, "{} cut at {cut}", stream.name);
            assert_eq!(reassembler.is_partial(), stream.waiting > 0, "{} cut at {cut}", stream.name);

            let rest = stream.rest.bytes();
            if !rest.is_empty() {
                let mut frames = reassembler.feed(&rest);
                assert!(frames.next(BODY_BYTES_MAX).expect("legal").is_some(), "{}: the rest completes a frame", stream.name);
                assert!(frames.next(BODY_BYTES_MAX).expect("legal").is_none());
            }
        }
        assert!(stream.waiting <= bytes.len());
    }
}

#[test]
fn malformed_bytes_are_refused_by_the_layer_and_with_the_number_they_name() {
    for bad in malformed() {
        let bytes = bad.hex.bytes();
        for (phase, expected, limit) in [("before login", bad.before_login, LOGIN_BODY_BYTES_MAX), ("session", bad.session, BODY_BYTES_MAX)]
        {
            let result = decode(&bytes, limit);
            match (bad.layer, expected) {
                (Layer::Frame, Some(expected)) => {
                    let error: FrameError = result.expect_err(&bad.name);
                    assert_eq!(error.reason().number(), Some(expected.reason), "{} {phase}", bad.name);
                    assert!(expected.closes, "{}: a stream that is out of step cannot go on", bad.name);
                }
                (Layer::Frame, None) => assert_eq!(result, Ok(None), "{} {phase}: believed so far", bad.name),
                (Layer::Body, _) => {
                    let frame = whole(&bad, result);
                    assert!(Body::decode(frame.encoding, frame.body).is_err(), "{}", bad.name);
                    assert_eq!(expected.map(|refusal| refusal.reason), Reason::Malformed.number(), "{} {phase}", bad.name);
                }
                (Layer::Session, _) => {
                    let frame = whole(&bad, result);
                    assert!(Body::decode(frame.encoding, frame.body).is_ok(), "{}", bad.name);
                    assert!(expected.is_none_or(|refusal| Reason::from_number(refusal.reason).is_some()), "{}", bad.name);
                }
            }
        }
        assert!(bad.before_login.is_some() || bad.session.is_some(), "{}: refused nowhere", bad.name);
    }
}

fn whole<'a>(bad: &Malformed, result: Result<Option<(Frame<'a>, usize)>, FrameError>) -> Frame<'a> {
    let (frame, taken) = result.expect("the header is right").expect("the frame is whole");
    assert_eq!(taken, HEADER_BYTES + frame.body.len(), "{}", bad.name);
    frame
}

#[test]
fn every_golden_envelope_means_what_it_says_and_is_written_again() {
    let mut canonical = 0;
    for golden in envelopes() {
        let decoded = envelope::decode(&golden.text, BODY_BYTES_MAX).unwrap_or_else(|error| panic!("{}: {error}", golden.name));
        assert_eq!(decoded.code, golden.code, "{}", golden.name);
        let body = Body::decode(Encoding::Json, decoded.body.as_bytes()).unwrap_or_else(|error| panic!("{}: {error}", golden.name));
        assert_eq!(as_json(&body), Value::Object(golden.body), "{}", golden.name);
        let Some(code) = Code::from_number(golden.code) else { continue };
        let mut again = Vec::new();
        envelope::encode_into(&mut again, code, &body);
        let again = String::from_utf8(again).expect("JSON is UTF-8");
        assert_eq!(again == golden.text, golden.canonical, "{}: {again}", golden.name);
        canonical += usize::from(golden.canonical);
    }
    assert!(canonical > 40, "only {canonical}");
}

#[test]
fn an_envelope_means_what_the_frame_of_its_name_means() {
    let all = frames();
    for golden in envelopes().into_iter().filter(|golden| golden.canonical) {
        let stem = golden.name.trim_end_matches("/envelope");
        let frame = all.iter().find(|other| other.name == format!("{stem}/json")).expect("each is there as a frame");
        assert_eq!((frame.code, frame.direction, &frame.body), (golden.code, golden.direction, &golden.body));
        let decoded = envelope::decode(&golden.text, BODY_BYTES_MAX).expect("legal");
        assert_eq!(decoded.body.as_bytes(), &frame.hex.bytes()[HEADER_BYTES..], "{}", golden.name);
    }
}

#[test]
fn malformed_envelopes_are_refused_with_the_number_they_name() {
    for bad in malformed_envelopes() {
        let error = envelope::decode(&bad.text, BODY_BYTES_MAX).expect_err(&bad.name);
        assert_eq!(error.reason().number(), Some(bad.reason), "{}", bad.name);
    }
}
