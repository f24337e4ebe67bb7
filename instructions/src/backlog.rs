//! What waits for a slow reader: copies in, copies out.

use crate::Path;
use billfish_session::{
    Push,
    backlog::{Backlog, BacklogLimits, Queued},
};
use billfish_wire::{Body, Class};
use bytes::Bytes;
use std::hint::black_box;

const FRAME_BYTES: usize = 300;

pub(crate) fn paths() -> impl Iterator<Item = Path> {
    [
        Path::new("backlog/push_and_advance", 2_000, push_and_advance),
        Path::new("backlog/push_at_the_soft_mark", 2_000, push_at_the_soft_mark),
        Path::new("backlog/push_a_newer_state", 2_000, push_a_newer_state),
        Path::new("backlog/fill_128_and_write_in_16_parts", 50, fill_and_write),
    ]
    .into_iter()
}

fn push_and_advance(times: u32) {
    let (limits, frame) = (BacklogLimits::default(), frame());
    let mut backlog = Backlog::default();
    for _ in 0..times {
        black_box(backlog.push(&limits, copy(&frame), |_, _| ()).is_ok());
        backlog.advance(FRAME_BYTES, drop);
    }
    assert!(backlog.is_empty());
}

/// Half full, so that each copy pushes the oldest out.
fn push_at_the_soft_mark(times: u32) {
    let (limits, frame) = (BacklogLimits::default(), frame());
    let mut backlog = Backlog::default();
    let mut dropped = 0;
    // Filled before, whatever `times` is.
    for _ in 0..2 * limits.frames_max {
        backlog.push(&limits, copy(&frame), |_, _| ()).expect("the soft mark drops");
    }
    for _ in 0..times {
        black_box(backlog.push(&limits, copy(&frame), |_, _| dropped += 1).is_ok());
    }
    assert_eq!(dropped, times);
}

/// Only the newest value of a key matters.
fn push_a_newer_state(times: u32) {
    let (limits, frame) = (BacklogLimits::default(), frame());
    let push = Push::new(Body { room_id: Some(20_001), key: Some("likes".to_owned()), class: Some(3), ..Body::default() });
    let mut backlog = Backlog::default();
    for _ in 0..times {
        let queued = Queued { state: push.state().cloned(), ..copy(&frame) };
        black_box(backlog.push(&limits, queued, |_, _| ()).is_ok());
    }
    assert_eq!(backlog.frames(), 1);
}

fn fill_and_write(times: u32) {
    let (limits, frame) = (BacklogLimits::default(), frame());
    let mut written = 0;
    for _ in 0..times {
        let mut backlog = Backlog::default();
        for _ in 0..128 {
            black_box(backlog.push(&limits, copy(&frame), |_, _| ()).is_ok());
        }
        while !backlog.is_empty() {
            black_box(backlog.slices().take(64).map(|slice| slice.len()).sum::<usize>());
            backlog.advance(backlog.bytes().min(8 * FRAME_BYTES), |_| written += 1);
        }
    }
    assert_eq!(written, 128 * times);
}

fn frame() -> Bytes {
    Bytes::from(vec![7; FRAME_BYTES])
}

fn copy(frame: &Bytes) -> Queued<u64> {
    Queued { frame: frame.clone(), class: Class::Chat, state: None, tag: 0 }
}
