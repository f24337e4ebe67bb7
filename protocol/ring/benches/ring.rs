//! What placement costs: an owner for each routed message, a new ring for each change of nodes.
#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]

use billfish_ring::Ring;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use std::hint::black_box;

fn placement(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ring");
    for count in [2, 16, 64] {
        let nodes: Vec<(String, u32)> = (0..count).map(|number| (format!("router-{number}"), 1)).collect();
        let ring = Ring::new(&nodes);
        let mut key = 0u64;
        let mut next = move || {
            key = key.wrapping_add(1);
            key
        };
        group.bench_function(BenchmarkId::new("owner", count), |bench| bench.iter(|| black_box(ring.owner(next()))));
        group.bench_function(BenchmarkId::new("owner_bounded", count), |bench| {
            bench.iter(|| black_box(ring.owner_bounded(next(), |_| 100, 1250)));
        });
        group.bench_function(BenchmarkId::new("build", count), |bench| bench.iter(|| black_box(Ring::new(&nodes))));
    }
    group.finish();
}

criterion_group!(benches, placement);
criterion_main!(benches);
