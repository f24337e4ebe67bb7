//! What a frame costs on its way in and out: the three that make up the traffic of a live room, in both encodings and as text.
//!
//! `whole` is the path of the gateway's reader: cut the frame off the stream, then decode its body.

use billfish_wire::{
    Body, Code, Encoding, Reassembler, envelope,
    frame::{decode, encode_into},
    limits::BODY_BYTES_MAX,
};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;

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

fn label(encoding: Encoding) -> &'static str {
    match encoding {
        Encoding::Json => "json",
        Encoding::Protobuf => "protobuf",
    }
}

fn decoding(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode");
    for (name, code, body) in traffic() {
        for encoding in Encoding::ALL {
            let mut bytes = Vec::new();
            encode_into(&mut bytes, encoding, code, &body);
            group.throughput(Throughput::Elements(1));
            group.bench_function(BenchmarkId::new(format!("{name}/whole"), label(encoding)), |bencher| {
                bencher.iter(|| {
                    let (frame, _) = decode(black_box(&bytes), BODY_BYTES_MAX).expect("legal").expect("whole");
                    Body::decode(frame.encoding, frame.body).expect("legal")
                });
            });
        }
        let mut text = Vec::new();
        envelope::encode_into(&mut text, code, &body);
        let text = String::from_utf8(text).expect("JSON is UTF-8");
        group.bench_function(BenchmarkId::new(format!("{name}/whole"), "envelope"), |bencher| {
            bencher.iter(|| {
                let frame = envelope::decode(black_box(&text), BODY_BYTES_MAX).expect("legal");
                Body::decode(Encoding::Json, frame.body.as_bytes()).expect("legal")
            });
        });
    }
    group.finish();
}

fn encoding(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("encode");
    for (name, code, body) in traffic() {
        for encoding in Encoding::ALL {
            let mut out = Vec::with_capacity(512);
            group.throughput(Throughput::Elements(1));
            group.bench_function(BenchmarkId::new(name, label(encoding)), |bencher| {
                bencher.iter(|| {
                    out.clear();
                    encode_into(&mut out, encoding, code, black_box(&body));
                    black_box(out.len())
                });
            });
        }
        let mut out = Vec::with_capacity(512);
        group.bench_function(BenchmarkId::new(name, "envelope"), |bencher| {
            bencher.iter(|| {
                out.clear();
                envelope::encode_into(&mut out, code, black_box(&body));
                black_box(out.len())
            });
        });
    }
    group.finish();
}

/// Cutting alone, bodies left as they are: a thousand heartbeats in one read, and one frame that arrives in two reads.
fn cutting(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("cut");
    let mut one = Vec::new();
    encode_into(&mut one, Encoding::Json, Code::Heartbeat, &Body::yes());
    let glued = one.repeat(1_000);
    group.throughput(Throughput::Elements(1_000));
    group.bench_function("a thousand glued", |bencher| {
        let mut reassembler = Reassembler::default();
        bencher.iter(|| {
            let mut frames = reassembler.feed(black_box(&glued));
            let mut count = 0;
            while frames.next(BODY_BYTES_MAX).expect("legal").is_some() {
                count += 1;
            }
            count
        });
    });
    let (head, tail) = one.split_at(one.len() / 2);
    group.throughput(Throughput::Elements(1));
    group.bench_function("one in two halves", |bencher| {
        let mut reassembler = Reassembler::default();
        bencher.iter(|| {
            let waiting = reassembler.feed(black_box(head)).next(BODY_BYTES_MAX).expect("legal").is_none();
            let whole = reassembler.feed(black_box(tail)).next(BODY_BYTES_MAX).expect("legal").is_some();
            assert!(waiting && whole);
        });
    });
    group.finish();
}

/// What a hostile body of the largest size costs before it is refused, or ignored.
fn hostile(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("hostile 64 KiB");
    let keys: String = (0..9_000).map(|key| format!("\"{key}\":1,")).collect();
    let bodies = [
        ("nested arrays", Encoding::Json, format!("{{\"x\":{}", "[".repeat(65_000)).into_bytes()),
        ("keys", Encoding::Json, format!("{{{keys}").into_bytes()),
        ("flat array", Encoding::Json, format!("{{\"x\":[{}1]}}", "1,".repeat(32_000)).into_bytes()),
        ("brackets in a string", Encoding::Json, format!("{{\"x\":\"{}\"}}", "[{:".repeat(21_000)).into_bytes()),
        ("long number", Encoding::Json, format!("{{\"roomId\":{}}}", "9".repeat(65_000)).into_bytes()),
        ("empty addresses", Encoding::Protobuf, [0xD2, 0x01, 0].repeat(21_000)),
    ];
    for (name, encoding, body) in bodies {
        group.bench_function(name, |bencher| bencher.iter(|| Body::decode(encoding, black_box(&body)).is_ok()));
    }
    group.finish();
}

criterion_group!(benches, decoding, encoding, cutting, hostile);
criterion_main!(benches);
