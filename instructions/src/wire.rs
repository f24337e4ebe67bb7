//! Frames on their way in and out, for the three that make up the traffic of a live room, in both encodings.

use crate::Path;
use billfish_wire::{
    Body, Code, Encoding, Reassembler,
    frame::{decode, encode_into},
    limits::BODY_BYTES_MAX,
};
use std::hint::black_box;

const TIMES: u32 = 2_000;

pub(crate) fn paths() -> impl Iterator<Item = Path> {
    let codecs = traffic().into_iter().flat_map(|(name, code, body)| {
        Encoding::ALL.into_iter().flat_map(move |encoding| {
            let label = label(encoding);
            let (decoded, encoded) = (body.clone(), body.clone());
            [
                Path::new(format!("wire/decode/{name}/{label}"), TIMES, move |times| decode_often(times, encoding, code, &decoded)),
                Path::new(format!("wire/encode/{name}/{label}"), TIMES, move |times| encode_often(times, encoding, code, &encoded)),
            ]
        })
    });
    codecs.chain([Path::new("wire/cut/100_glued", 200, cut_glued), Path::new("wire/cut/two_halves", TIMES, cut_halves)])
}

fn traffic() -> [(&'static str, Code, Body); 3] {
    let chat = Body {
        biz_code: Some(5555),
        data: Some(r#"{"roomId":20001,"content":"what a goal, did you see that?"}"#.to_owned()),
        msg_id: Some("0192f3a1-7c5b-7e21-9d14-5b0e0f6a2c11".to_owned()),
        room_id: Some(20_001),
        ..Body::default()
    };
    let ack = Body { msg_id: Some("r20001-4294967303".to_owned()), ..Body::default() };
    [("chat", Code::Biz, chat), ("heartbeat", Code::Heartbeat, Body::yes()), ("ack", Code::Ack, ack)]
}

/// As names have it.
pub(crate) fn label(encoding: Encoding) -> &'static str {
    match encoding {
        Encoding::Json => "json",
        Encoding::Protobuf => "protobuf",
    }
}

/// The path of the gateway's reader: cut the frame off the stream, then decode its body.
fn decode_often(times: u32, encoding: Encoding, code: Code, body: &Body) {
    let mut bytes = Vec::new();
    encode_into(&mut bytes, encoding, code, body);
    let mut last = Body::default();
    for _ in 0..times {
        let (frame, _) = decode(black_box(&bytes), BODY_BYTES_MAX).expect("legal").expect("whole");
        last = Body::decode(frame.encoding, frame.body).expect("legal");
    }
    assert_eq!(last, *body);
}

fn encode_often(times: u32, encoding: Encoding, code: Code, body: &Body) {
    let mut out = Vec::with_capacity(512);
    for _ in 0..times {
        out.clear();
        encode_into(&mut out, encoding, code, black_box(body));
        black_box(out.len());
    }
    assert!(decode(&out, BODY_BYTES_MAX).is_ok_and(|frame| frame.is_some()));
}

/// A hundred heartbeats in one read, cut alone, bodies left as they are.
fn cut_glued(times: u32) {
    let mut one = Vec::new();
    encode_into(&mut one, Encoding::Json, Code::Heartbeat, &Body::yes());
    let glued = one.repeat(100);
    let mut reassembler = Reassembler::default();
    let mut count = 0;
    for _ in 0..times {
        let mut frames = reassembler.feed(black_box(&glued));
        while frames.next(BODY_BYTES_MAX).expect("legal").is_some() {
            count += 1;
        }
    }
    assert_eq!(count, 100 * times);
}

/// One frame that arrives in two reads.
fn cut_halves(times: u32) {
    let mut one = Vec::new();
    encode_into(&mut one, Encoding::Json, Code::Heartbeat, &Body::yes());
    let (head, tail) = one.split_at(one.len() / 2);
    let mut reassembler = Reassembler::default();
    let mut count = 0;
    for _ in 0..times {
        count += u32::from(reassembler.feed(black_box(head)).next(BODY_BYTES_MAX).expect("legal").is_some());
        count += u32::from(reassembler.feed(black_box(tail)).next(BODY_BYTES_MAX).expect("legal").is_some());
    }
    assert_eq!(count, times);
}
