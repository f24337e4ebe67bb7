//! The corpora of the fuzz targets, for whoever sends them over a transport.

use std::{fs, path::Path};

/// Every seed of the targets of `wire` and `websocket`: its path and its bytes, in the order of the paths.
pub fn fuzz_seeds() -> Vec<(String, Vec<u8>)> {
    let protocol = Path::new(env!("CARGO_MANIFEST_DIR")).join("../protocol");
    let mut seeds = Vec::new();
    for targets in ["wire/fuzz/seeds", "websocket/fuzz/seeds"] {
        for target in fs::read_dir(protocol.join(targets)).expect("the targets have seeds") {
            for seed in fs::read_dir(target.expect("it can be read").path()).expect("a target has seeds") {
                let path = seed.expect("it can be read").path();
                seeds.push((path.display().to_string(), fs::read(&path).expect("it can be read")));
            }
        }
    }
    seeds.sort();
    assert!(seeds.len() > 100, "the corpora are there: {}", seeds.len());
    seeds
}
