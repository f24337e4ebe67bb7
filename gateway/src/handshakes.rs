//! How many TLS handshakes begin in a second, at all doors together: those of every shard, and QUIC's.
//!
//! A handshake costs the server as much as it costs the client. Who comes beyond the allowance waits where he is, in the kernel's queue or
//! in QUIC's, and is not refused: a stampede takes longer, and those who are in do not feel it.

use billfish_session::{Time, rate::TokenBucket};
use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

/// The allowance. As many may begin at once as a second has: a door that was quiet may have a crowd.
#[derive(Debug)]
pub struct Handshakes {
    per_s: u32,
    began: Instant,
    /// Held for a few instructions, of the hundred thousands that a handshake takes.
    bucket: Mutex<TokenBucket>,
}

impl Handshakes {
    /// So many in a second; 0: as many as come.
    #[must_use]
    pub fn new(per_s: u32) -> Self {
        Self { per_s, began: Instant::now(), bucket: Mutex::new(TokenBucket::full(Time(0), per_s)) }
    }

    /// Begins one.
    ///
    /// # Errors
    /// Milliseconds until one may begin, at least 1.
    pub(crate) fn begin(&self) -> Result<(), u64> {
        let now = Time(u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX));
        self.begin_at(now)
    }

    fn begin_at(&self, now: Time) -> Result<(), u64> {
        if self.per_s == 0 {
            return Ok(());
        }
        self.bucket().take(now, 1, self.per_s, self.per_s).map_err(|wait_ms| wait_ms.max(1))
    }

    /// The one that was to begin does not: nobody was there, or he was turned away.
    pub(crate) fn give_back(&self) {
        self.bucket().give_back(1, self.per_s);
    }

    fn bucket(&self) -> MutexGuard<'_, TokenBucket> {
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::Handshakes;
    use billfish_session::Time;

    #[test]
    fn one_more_than_a_second_has_waits_until_there_is_one() {
        let handshakes = Handshakes::new(4);
        for _ in 0..4 {
            handshakes.begin_at(Time(0)).unwrap();
        }
        assert_eq!(handshakes.begin_at(Time(0)), Err(250));
        assert_eq!(handshakes.begin_at(Time(249)), Err(1));
        handshakes.begin_at(Time(250)).unwrap();
        assert_eq!(handshakes.begin_at(Time(250)), Err(250));
        handshakes.give_back();
        handshakes.begin_at(Time(250)).unwrap();
    }

    #[test]
    fn without_a_limit_as_many_begin_as_come() {
        let handshakes = Handshakes::new(0);
        for _ in 0..100_000 {
            handshakes.begin_at(Time(0)).unwrap();
            handshakes.give_back();
        }
    }
}
