//! The Autobahn cases against the decoder: for both roles, whole, frame by frame, in odd reads and byte by byte.

use crate::{
    autobahn::Case,
    peer::{MESSAGE_BYTES_MAX, ROLES, feed_all, stream},
};
use billfish_websocket::{Decoder, Role};
use std::collections::BTreeSet;

pub(crate) fn run(cases: Vec<Case>, expected_count: usize) {
    let numbers: BTreeSet<&String> = cases.iter().map(|case| &case.number).collect();
    assert_eq!((numbers.len(), cases.len()), (expected_count, expected_count), "each case once, and none forgotten");
    for case in &cases {
        for role in ROLES {
            let bytes = stream(&case.frames, role);
            let by_frame: Vec<Vec<u8>> = case.frames.iter().map(|frame| frame.bytes_for(role)).collect();
            check(case, role, "whole", vec![&bytes]);
            check(case, role, "frame by frame", by_frame.iter().map(Vec::as_slice).collect());
            check(case, role, "in reads of 997 bytes", bytes.chunks(997).collect());
            check(case, role, "byte by byte", bytes.chunks(1).collect());
        }
    }
}

fn check(case: &Case, role: Role, how: &str, pieces: Vec<&[u8]>) {
    let mut decoder = Decoder::default();
    let (said, violation) = feed_all(&mut decoder, role, pieces, MESSAGE_BYTES_MAX);
    let number = &case.number;
    assert!(said == case.said, "case {number} {role:?} {how}: {} events, {:?}", said.len(), said.last());
    let ends = violation.map(|violation| violation.close_code());
    assert_eq!(ends, case.ends, "case {number} {role:?} {how}: {violation:?}");
}
