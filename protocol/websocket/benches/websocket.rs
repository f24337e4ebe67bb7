//! What a message costs on its way in and out, and what its mask and its cuts add: an ACK, a chat message, and the longest message.

use billfish_websocket::{Decoder, Opcode, Role, apply_mask, frame_into};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;

const MESSAGE_BYTES_MAX: usize = 64 * 1024;
const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];
const SIZES: [(&str, usize); 3] = [("ack", 40), ("chat", 200), ("longest", MESSAGE_BYTES_MAX)];

fn masked(opcode: Opcode, payload_bytes: usize) -> Vec<u8> {
    let mut out = Vec::new();
    frame_into(&mut out, opcode, &vec![b'x'; payload_bytes], Some(MASK));
    out
}

fn decoding(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode");
    for (name, payload_bytes) in SIZES {
        for (kind, opcode) in [("text", Opcode::Text), ("binary", Opcode::Binary)] {
            let bytes = masked(opcode, payload_bytes);
            group.throughput(Throughput::Bytes(bytes.len() as u64));
            group.bench_function(BenchmarkId::new(format!("{name}/whole"), kind), |bencher| {
                // It is unmasked where it lies, so each round wants its own.
                bencher.iter_batched_ref(
                    || (Decoder::default(), bytes.clone()),
                    |(decoder, bytes)| decoder.feed(Role::Server, bytes).next(MESSAGE_BYTES_MAX).is_ok_and(|event| event.is_some()),
                    BatchSize::SmallInput,
                );
            });
            group.bench_function(BenchmarkId::new(format!("{name}/cut in the middle"), kind), |bencher| {
                bencher.iter_batched_ref(
                    || (Decoder::default(), bytes.clone()),
                    |(decoder, bytes)| {
                        let (front, back) = bytes.split_at_mut(payload_bytes / 2);
                        assert!(matches!(decoder.feed(Role::Server, front).next(MESSAGE_BYTES_MAX), Ok(None)));
                        decoder.feed(Role::Server, back).next(MESSAGE_BYTES_MAX).is_ok_and(|event| event.is_some())
                    },
                    BatchSize::SmallInput,
                );
            });
        }
    }
    group.finish();
}

fn encoding(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("encode");
    for (name, payload_bytes) in SIZES {
        let payload = vec![b'x'; payload_bytes];
        for (role, mask) in [("server", None), ("client", Some(MASK))] {
            let mut out = Vec::with_capacity(payload_bytes + 32);
            group.throughput(Throughput::Bytes(payload_bytes as u64));
            group.bench_function(BenchmarkId::new(name, role), |bencher| {
                bencher.iter(|| {
                    out.clear();
                    frame_into(&mut out, Opcode::Binary, black_box(&payload), mask);
                    black_box(out.len())
                });
            });
        }
    }
    group.finish();
}

/// Eight bytes at a time, against one.
fn masking(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("mask");
    for (name, payload_bytes) in SIZES {
        let mut payload = vec![b'x'; payload_bytes];
        group.throughput(Throughput::Bytes(payload_bytes as u64));
        group.bench_function(BenchmarkId::new(name, "wide"), |bencher| bencher.iter(|| apply_mask(black_box(&mut payload), MASK)));
        group.bench_function(BenchmarkId::new(name, "by byte"), |bencher| {
            bencher.iter(|| black_box(&mut payload).iter_mut().zip(MASK.into_iter().cycle()).for_each(|(byte, mask)| *byte ^= mask));
        });
    }
    group.finish();
}

criterion_group!(benches, decoding, encoding, masking);
criterion_main!(benches);
