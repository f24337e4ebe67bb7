//! Log lines that would come with every call while a store is away: one a second of each kind, and how many there were beside it.
//!
//! - What is held back is counted here, and by the metric of whoever logs; nothing is lost but lines.
//! - A kind is a word of our own code, never a text of a peer: so the table is bounded by the code.
//!
//! It must not be used for lines that are about different things: then the one that is held back may be the one that matters.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Between two lines of one kind: often enough to see that it goes on, seldom enough for a disk.
const LINE_EVERY: Duration = Duration::from_secs(1);

/// Decides which lines are written. To be shared by those who say the same.
#[derive(Debug, Default)]
pub struct Quiet(Mutex<BTreeMap<&'static str, Line>>);

#[derive(Debug)]
struct Line {
    at: Instant,
    held_back: u64,
}

impl Quiet {
    /// For a `static`, too.
    #[must_use]
    pub const fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    /// Whether a line of this kind is to be written now, and then how many like it were held back since the last one.
    pub fn may_say(&self, kind: &'static str) -> Option<u64> {
        let now = Instant::now();
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match lines.get_mut(kind) {
            Some(line) if now.duration_since(line.at) < LINE_EVERY => {
                line.held_back += 1;
                None
            }
            Some(line) => {
                line.at = now;
                Some(std::mem::take(&mut line.held_back))
            }
            None => {
                lines.insert(kind, Line { at: now, held_back: 0 });
                Some(0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{LINE_EVERY, Quiet};

    #[tokio::test(start_paused = true)]
    async fn of_each_kind_one_line_a_second_is_written_and_the_others_are_counted() {
        let quiet = Quiet::new();
        assert_eq!([quiet.may_say("a"), quiet.may_say("a"), quiet.may_say("b"), quiet.may_say("a")], [Some(0), None, Some(0), None]);
        tokio::time::advance(LINE_EVERY).await;
        assert_eq!([quiet.may_say("a"), quiet.may_say("a"), quiet.may_say("b")], [Some(2), None, Some(0)]);
        tokio::time::advance(2 * LINE_EVERY).await;
        assert_eq!(quiet.may_say("a"), Some(1));
    }
}
