//! A set of numbers, kept as the spans they fill.
//!
//! The places of a room's gifts come nearly one after the other, so a night of gifts is a handful of spans. Bounded: the lowest span is
//! forgotten first.

use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub(super) struct Spans {
    /// First to last. No two touch.
    last_by_first: BTreeMap<i64, i64>,
}

impl Spans {
    /// Takes a number in; `false` when it stood here already.
    pub(super) fn insert(&mut self, number: i64, spans_max: usize) -> bool {
        let before = self.last_by_first.range(..=number).next_back().map(|(first, last)| (*first, *last));
        if before.is_some_and(|(_, last)| number <= last) {
            return false;
        }
        let first = before.filter(|(_, last)| last.checked_add(1) == Some(number)).map_or(number, |(first, _)| first);
        let behind = number.checked_add(1).and_then(|next| self.last_by_first.remove(&next));
        self.last_by_first.insert(first, behind.unwrap_or(number));
        while self.last_by_first.len() > spans_max.max(1) {
            self.last_by_first.pop_first();
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::Spans;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn numbers_that_touch_become_one_span() {
        let mut spans = Spans::default();
        for number in [5, 7, 6, 1, 2] {
            assert!(spans.insert(number, 8));
            assert!(!spans.insert(number, 8));
        }
        assert_eq!(spans.last_by_first, [(1, 2), (5, 7)].into());
    }

    #[test]
    fn the_lowest_span_is_forgotten_first() {
        let mut spans = Spans::default();
        for number in [10, 20, 30] {
            spans.insert(number, 2);
        }
        assert!(!spans.insert(20, 2) && !spans.insert(30, 2));
        assert_eq!(spans.last_by_first.len(), 2);
        assert!(spans.insert(10, 3), "it was forgotten");
    }

    #[test]
    fn the_ends_of_the_numbers_are_numbers() {
        let mut spans = Spans::default();
        for number in [i64::MAX, i64::MIN, i64::MAX - 1, i64::MIN + 1] {
            assert!(spans.insert(number, 8));
            assert!(!spans.insert(number, 8));
        }
        assert_eq!(spans.last_by_first.len(), 2);
    }

    proptest! {
        #[test]
        fn it_is_a_set(numbers in proptest::collection::vec(0_i64..60, 0..200)) {
            let (mut spans, mut model) = (Spans::default(), BTreeSet::new());
            for number in numbers {
                prop_assert_eq!(spans.insert(number, 64), model.insert(number));
            }
            let total: i64 = spans.last_by_first.iter().map(|(first, last)| last - first + 1).sum();
            prop_assert_eq!(usize::try_from(total).unwrap(), model.len());
        }
    }
}
