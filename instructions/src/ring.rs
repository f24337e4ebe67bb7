//! Placement: an owner for each routed message, a new ring for each change of nodes.

use crate::Path;
use billfish_ring::Ring;
use std::hint::black_box;

pub(crate) fn paths() -> impl Iterator<Item = Path> {
    [
        Path::new("ring/owner/64_nodes", 2_000, |times| {
            let ring = ring();
            for key in 0..u64::from(times) {
                black_box(ring.owner(black_box(key)));
            }
            assert!(ring.owner(0).is_some());
        }),
        Path::new("ring/owner_bounded/64_nodes", 500, |times| {
            let ring = ring();
            for key in 0..u64::from(times) {
                black_box(ring.owner_bounded(black_box(key), |_| 100, 1_250));
            }
            assert!(ring.owner_bounded(0, |_| 100, 1_250).is_some());
        }),
        Path::new("ring/build/16_nodes", 2, |times| {
            let nodes = nodes(16);
            for _ in 0..times {
                black_box(Ring::new(black_box(&nodes)));
            }
            assert_eq!(Ring::new(&nodes).nodes().len(), 16);
        }),
    ]
    .into_iter()
}

fn ring() -> Ring {
    Ring::new(&nodes(64))
}

fn nodes(count: usize) -> Vec<(String, u32)> {
    (0..count).map(|number| (format!("router-{number}"), 1)).collect()
}
