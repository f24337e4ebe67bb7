//! Messages this life of a room has taken, by sender and the sender's id of them.
//!
//! - The room's log is what decides whether a message was taken before. This table spares it the question, answers before a rate limit is
//!   charged, and stands in while the log is away, or has forgotten.
//! - Time is this process' own: a clock of the cluster that steps forgets nothing here.
//! - Bounded: the oldest is forgotten, and the log still knows it. Ids are kept as keyed fingerprints, not as text.

use billfish_state::UserId;
use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher, RandomState},
};
use tokio::time::{Duration, Instant};

/// Messages remembered. A gateway asks again for ten seconds at most; at a room's ceiling of 100 a second that is half of this.
const TAKEN_MAX: usize = 2_048;

type Fingerprint = (u64, u64);

/// A message of a sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key(Fingerprint);

/// The table.
#[derive(Debug)]
pub(super) struct Taken {
    keys: [RandomState; 2],
    seqs: HashMap<Fingerprint, i64>,
    order: VecDeque<(Instant, Fingerprint)>,
    life: Duration,
}

impl Taken {
    /// `life`: how long a repeat is recognised.
    pub(super) fn new(life: Duration) -> Self {
        Self { keys: [RandomState::new(), RandomState::new()], seqs: HashMap::new(), order: VecDeque::new(), life }
    }

    pub(super) fn key(&self, user: UserId, msg_id: &str) -> Key {
        let [first, second] = self.keys.each_ref().map(|key| key.hash_one((user, msg_id)));
        Key((first, second))
    }

    /// The number a message has, if it was taken.
    pub(super) fn seq(&mut self, key: Key) -> Option<i64> {
        let now = Instant::now();
        while let Some((until, oldest)) = self.order.front()
            && *until <= now
        {
            self.seqs.remove(oldest);
            self.order.pop_front();
        }
        self.seqs.get(&key.0).copied()
    }

    /// It was taken, with this number, or with this one instead of the one said before.
    pub(super) fn put(&mut self, key: Key, seq: i64) {
        if self.seqs.insert(key.0, seq).is_some() {
            return;
        }
        self.order.push_back((Instant::now() + self.life, key.0));
        if self.order.len() > TAKEN_MAX
            && let Some((_, oldest)) = self.order.pop_front()
        {
            self.seqs.remove(&oldest);
        }
    }

    /// It was not taken after all.
    pub(super) fn remove(&mut self, key: Key) {
        if self.seqs.remove(&key.0).is_some() {
            self.order.retain(|(_, other)| *other != key.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{TAKEN_MAX, Taken};
    use billfish_state::UserId;
    use tokio::time::{Duration, advance};

    const LIFE: Duration = Duration::from_millis(100);

    #[tokio::test(start_paused = true)]
    async fn a_message_is_known_by_its_sender_and_id_for_its_time() {
        let mut taken = Taken::new(LIFE);
        let key = taken.key(UserId(1), "m");
        taken.put(key, 7);
        advance(LIFE / 2).await;
        assert_eq!(taken.seq(key), Some(7));
        assert_eq!(taken.seq(taken.key(UserId(2), "m")), None);
        taken.put(key, 8);
        advance(LIFE / 2 - Duration::from_millis(1)).await;
        assert_eq!(taken.seq(key), Some(8));
        advance(Duration::from_millis(1)).await;
        assert_eq!(taken.seq(key), None, "the first time counts");
        taken.put(key, 9);
        taken.remove(key);
        assert_eq!((taken.seq(key), taken.order.len()), (None, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_gives_way() {
        let mut taken = Taken::new(LIFE);
        let keys: Vec<_> = (0..=TAKEN_MAX).map(|index| taken.key(UserId(1), &index.to_string())).collect();
        keys.iter().for_each(|key| taken.put(*key, 1));
        assert_eq!((taken.seq(keys[0]), taken.seq(keys[1])), (None, Some(1)));
        assert_eq!(taken.seqs.len(), TAKEN_MAX);
    }
}
