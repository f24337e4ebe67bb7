//! A token bucket in two small integers.
//!
//! - Pure: the caller brings rate, burst and `now`; every connection pays eight bytes for a bucket.
//! - Tokens are kept in thousandths, so that `elapsed ms × rate per s` needs no rounding and a slow rate loses nothing.
//! - The clock is cut to 32 bits: a bucket untouched for 49 days may count too few milliseconds, never too many tokens.

use crate::time::Time;

/// Thousandths of a token in one token.
const MILLI: u64 = 1_000;

/// What is left of an allowance, and when that was counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenBucket {
    milli_tokens: u32,
    counted_at_ms: u32,
}

impl TokenBucket {
    /// A full bucket. Bursts above 4,294,967 count as that many: thousandths of a token are kept in 32 bits.
    #[must_use]
    pub fn full(now: Time, burst: u32) -> Self {
        Self { milli_tokens: burst_milli(burst), counted_at_ms: cut(now) }
    }

    /// Takes `tokens`, all or none.
    ///
    /// # Errors
    /// Milliseconds until that many will be there; `u64::MAX` when they never will: above the burst, or at rate 0.
    pub fn take(&mut self, now: Time, tokens: u32, per_s: u32, burst: u32) -> Result<(), u64> {
        self.refill(now, per_s, burst);
        let wanted = u64::from(tokens) * MILLI;
        let held = u64::from(self.milli_tokens);
        if let Some(left) = held.checked_sub(wanted) {
            self.milli_tokens = u32::try_from(left).expect("less than what was held");
            return Ok(());
        }
        if per_s == 0 || wanted > u64::from(burst_milli(burst)) {
            return Err(u64::MAX);
        }
        Err((wanted - held).div_ceil(u64::from(per_s)))
    }

    /// Gives back what [`Self::take`] took, when another allowance then said no.
    pub fn give_back(&mut self, tokens: u32, burst: u32) {
        let milli_tokens = u64::from(self.milli_tokens) + u64::from(tokens) * MILLI;
        self.milli_tokens = clamp(milli_tokens, burst);
    }

    fn refill(&mut self, now: Time, per_s: u32, burst: u32) {
        let now_ms = cut(now);
        let elapsed_ms = now_ms.wrapping_sub(self.counted_at_ms);
        self.counted_at_ms = now_ms;
        let gained = u64::from(elapsed_ms) * u64::from(per_s);
        self.milli_tokens = clamp(u64::from(self.milli_tokens).saturating_add(gained), burst);
    }
}

fn clamp(milli_tokens: u64, burst: u32) -> u32 {
    u32::try_from(milli_tokens).unwrap_or(u32::MAX).min(burst_milli(burst))
}

fn burst_milli(burst: u32) -> u32 {
    u32::try_from(u64::from(burst) * MILLI).unwrap_or(u32::MAX)
}

/// The low half of the clock.
const fn cut(now: Time) -> u32 {
    #[expect(clippy::cast_possible_truncation, reason = "only differences of neighbouring readings are used, and those wrap rightly")]
    {
        now.0 as u32
    }
}

#[cfg(test)]
mod tests {
    use super::TokenBucket;
    use crate::time::Time;
    use proptest::prelude::*;

    #[test]
    fn a_burst_passes_and_the_next_waits_for_one_token() {
        let mut bucket = TokenBucket::full(Time(0), 60);
        for _ in 0..60 {
            assert_eq!(bucket.take(Time(0), 1, 20, 60), Ok(()));
        }
        assert_eq!(bucket.take(Time(0), 1, 20, 60), Err(50));
        assert_eq!(bucket.take(Time(49), 1, 20, 60), Err(1));
        assert_eq!(bucket.take(Time(50), 1, 20, 60), Ok(()));
    }

    #[test]
    fn more_than_the_burst_never_passes() {
        let mut bucket = TokenBucket::full(Time(0), 10);
        assert_eq!(bucket.take(Time(0), 11, 5, 10), Err(u64::MAX));
        assert_eq!(bucket.take(Time(0), 10, 5, 10), Ok(()));
    }

    #[test]
    fn the_clock_may_cross_32_bits() {
        let edge = Time(u64::from(u32::MAX));
        let mut bucket = TokenBucket::full(edge, 1);
        assert_eq!(bucket.take(edge, 1, 1, 1), Ok(()));
        assert_eq!(bucket.take(edge + 999, 1, 1, 1), Err(1));
        assert_eq!(bucket.take(edge + 1_000, 1, 1, 1), Ok(()));
    }

    #[test]
    fn what_is_given_back_can_be_taken_again_and_never_exceeds_the_burst() {
        let mut bucket = TokenBucket::full(Time(0), 2);
        assert_eq!(bucket.take(Time(0), 2, 1, 2), Ok(()));
        bucket.give_back(5, 2);
        assert_eq!(bucket.take(Time(0), 2, 1, 2), Ok(()));
        assert_eq!(bucket.take(Time(0), 1, 1, 2), Err(1_000));
    }

    proptest! {
        /// However the calls are spaced, no more passes than burst + rate × time.
        #[test]
        fn no_more_passes_than_rate_and_burst_allow(gaps in prop::collection::vec(0u64..400, 1..200), per_s in 1u32..50, burst in 1u32..50) {
            let mut now = Time(7);
            let mut bucket = TokenBucket::full(now, burst);
            let mut passed = 0u64;
            for gap in gaps {
                now = now + gap;
                passed += u64::from(bucket.take(now, 1, per_s, burst).is_ok());
                let allowed_milli = u64::from(burst) * 1_000 + (now.0 - 7) * u64::from(per_s);
                prop_assert!(passed * 1_000 <= allowed_milli);
            }
        }

        /// The wait that is told is exact: one millisecond earlier is too early.
        #[test]
        fn the_wait_told_is_exact(per_s in 1u32..2_000, tokens in 1u32..100) {
            let mut bucket = TokenBucket::full(Time(0), 100);
            prop_assert_eq!(bucket.take(Time(0), 100, per_s, 100), Ok(()));
            let wait = bucket.take(Time(0), tokens, per_s, 100).expect_err("the bucket is empty");
            prop_assert!(bucket.take(Time(wait - 1), tokens, per_s, 100).is_err());
            prop_assert_eq!(bucket.take(Time(wait), tokens, per_s, 100), Ok(()));
        }
    }
}
