//! What one copy costs that has to wait for a slow reader.

use billfish_session::{
    Push,
    backlog::{Backlog, BacklogLimits, Queued},
};
use billfish_wire::Body;
use bytes::Bytes;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use std::hint::black_box;

fn backlog(criterion: &mut Criterion) {
    let limits = BacklogLimits::default();
    let frame = Bytes::from(vec![7; 300]);
    let push = Push::new(Body { room_id: Some(20_001), key: Some("likes".to_owned()), class: Some(3), ..Body::default() });
    let copy = |state: bool| {
        let state = if state { push.state().cloned() } else { None };
        Queued { frame: frame.clone(), class: billfish_wire::Class::Chat, state, tag: 0u64 }
    };
    let mut group = criterion.benchmark_group("backlog");
    group.bench_function("push_and_advance", |bencher| {
        let mut backlog = Backlog::default();
        bencher.iter(|| {
            let fits = backlog.push(&limits, copy(false), |_, _| ());
            backlog.advance(300, drop);
            fits
        });
    });
    group.bench_function("push_at_the_soft_mark", |bencher| {
        let mut backlog = Backlog::default();
        bencher.iter(|| backlog.push(&limits, copy(false), |queued, _| drop(black_box(queued))));
    });
    group.bench_function("push_a_newer_state", |bencher| {
        let mut backlog = Backlog::default();
        bencher.iter(|| backlog.push(&limits, copy(true), |queued, _| drop(black_box(queued))));
    });
    group.bench_function("fill_128_and_write_in_16_parts", |bencher| {
        let fill = || {
            let mut backlog = Backlog::default();
            for _ in 0..128 {
                backlog.push(&limits, copy(false), |_, _| ()).expect("the soft mark drops");
            }
            backlog
        };
        bencher.iter_batched(
            fill,
            |mut backlog| {
                while !backlog.is_empty() {
                    black_box(backlog.slices().take(64).map(|slice| slice.len()).sum::<usize>());
                    backlog.advance(backlog.bytes().min(2_400), drop);
                }
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(benches, backlog);
criterion_main!(benches);
