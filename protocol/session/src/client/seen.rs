//! The ids of the messages shown last: of those outside rooms, and of each room.
//!
//! Bounded: the oldest is forgotten first.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

#[derive(Debug, Default)]
pub(super) struct Seen {
    oldest_first: VecDeque<Arc<str>>,
    ids: BTreeSet<Arc<str>>,
}

impl Seen {
    /// Notes an id; `false` when it stood here already.
    pub(super) fn insert(&mut self, id: &str, max: usize) -> bool {
        if self.ids.contains(id) {
            return false;
        }
        let id: Arc<str> = Arc::from(id);
        self.ids.insert(Arc::clone(&id));
        self.oldest_first.push_back(id);
        while self.oldest_first.len() > max.max(1) {
            if let Some(oldest) = self.oldest_first.pop_front() {
                self.ids.remove(&oldest);
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::Seen;

    #[test]
    fn an_id_is_new_once_and_again_when_the_window_has_passed_over_it() {
        let mut seen = Seen::default();
        assert!(seen.insert("a", 2));
        assert!(!seen.insert("a", 2));
        assert!(seen.insert("b", 2));
        assert!(!seen.insert("a", 2), "two fit");
        assert!(seen.insert("c", 2));
        assert!(seen.insert("a", 2), "three do not");
        assert!(!seen.insert("c", 2));
        assert_eq!(seen.ids.len(), seen.oldest_first.len());
    }
}
