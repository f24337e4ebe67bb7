//! Pushes that came ahead of the answer that they belong behind, as they may on QUIC.
//!
//! - Bounded in number and bytes. What a slow reader may lose goes first, oldest first, as it does at the server.
//! - When what may not be lost does not fit, nothing is kept: whoever takes it hears so, and asks for all of it again.

use billfish_wire::{Body, Class};
use std::collections::VecDeque;

/// As many as the server queues for a slow reader: an answer is late by some round trips.
const HELD_MAX: usize = 256;
/// Of their data, for the same reason.
const HELD_BYTES_MAX: usize = 256 * 1024;

#[derive(Debug, Default)]
pub(super) struct Held {
    oldest_first: VecDeque<Body>,
    bytes: usize,
    is_short: bool,
}

/// All that was held.
pub(super) struct Taken {
    /// As they came.
    pub(super) messages: VecDeque<Body>,
    /// Something was lost that may not be.
    pub(super) is_short: bool,
}

impl Held {
    pub(super) fn hold(&mut self, body: Body) {
        if self.is_short {
            return;
        }
        self.bytes += bytes_of(&body);
        self.oldest_first.push_back(body);
        while self.oldest_first.len() > HELD_MAX || self.bytes > HELD_BYTES_MAX {
            let droppable = |body: &Body| class_of(body).may_drop() && body.qos != Some(1);
            let Some(at) = self.oldest_first.iter().position(droppable) else {
                *self = Self { is_short: true, ..Self::default() };
                return;
            };
            if let Some(dropped) = self.oldest_first.remove(at) {
                self.bytes -= bytes_of(&dropped);
            }
        }
    }

    /// Whether something was lost that may not be.
    pub(super) fn is_short(&self) -> bool {
        self.is_short
    }

    pub(super) fn take(&mut self) -> Taken {
        let Self { oldest_first, is_short, .. } = std::mem::take(self);
        Taken { messages: oldest_first, is_short }
    }
}

fn bytes_of(body: &Body) -> usize {
    body.data.as_ref().map_or(0, String::len)
}

/// What a push is worth; chat where it does not say.
pub(super) fn class_of(body: &Body) -> Class {
    body.class.map_or(Class::Chat, Class::from_number)
}

#[cfg(test)]
mod tests {
    use super::{HELD_BYTES_MAX, HELD_MAX, Held};
    use billfish_wire::Body;

    fn push(seq: i64, class: i32, bytes: usize) -> Body {
        Body { seq: Some(seq), class: Some(class), data: Some("x".repeat(bytes)), ..Body::default() }
    }

    fn seqs(held: &mut Held) -> Vec<i64> {
        held.take().messages.iter().filter_map(|body| body.seq).collect()
    }

    #[test]
    fn beyond_the_bound_the_oldest_that_may_be_lost_is() {
        let mut held = Held::default();
        for seq in 0..300 {
            held.hold(push(seq, if seq % 2 == 0 { 1 } else { 2 }, 10));
        }
        let kept = seqs(&mut held);
        assert_eq!(kept.len(), HELD_MAX);
        assert!((0..300).step_by(2).all(|seq| kept.contains(&seq)) && kept.contains(&299) && !kept.contains(&1));
        for seq in 0..5 {
            held.hold(push(seq, 3, HELD_BYTES_MAX / 4));
        }
        assert_eq!(seqs(&mut held), [1, 2, 3, 4]);
    }

    #[test]
    fn when_what_may_not_be_lost_does_not_fit_all_of_it_is_and_that_is_said() {
        let mut held = Held::default();
        for seq in 0..=256 {
            assert!(!held.is_short());
            held.hold(push(seq, 1, 10));
        }
        held.hold(push(300, 1, 10));
        let taken = held.take();
        assert!(taken.is_short && taken.messages.is_empty());
        held.hold(push(301, 1, 10));
        assert!(!held.is_short(), "the next time is another");
    }
}
