//! Latencies: recorded in microseconds, carried between processes, merged, read as percentiles.
//!
//! Every histogram has the same bounds, so any two can be merged and nothing is lost in the merge.

use hdrhistogram::Histogram;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest latency told apart; a run ends long before a copy can be later than this.
const LATENCY_US_MAX: u64 = 600_000_000;
/// Three digits: a percentile is right to 0.1 %.
const DIGITS: u8 = 3;

/// A histogram of latencies.
#[derive(Clone, Debug)]
pub(crate) struct Latencies {
    histogram: Histogram<u64>,
}

impl Default for Latencies {
    fn default() -> Self {
        Self { histogram: Histogram::new_with_bounds(1, LATENCY_US_MAX, DIGITS).expect("the bounds are constants and legal") }
    }
}

impl Latencies {
    /// Records the time from `intended_ns` to `arrived_ns`; what arrived before it was intended counts as the shortest latency.
    pub(crate) fn record(&mut self, intended_ns: u64, arrived_ns: u64) {
        self.histogram.saturating_record((arrived_ns.saturating_sub(intended_ns) / 1_000).max(1));
    }

    /// Adds everything that `other` recorded.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.histogram.add(&other.histogram).expect("all histograms have the same bounds");
    }

    /// How many were recorded.
    pub(crate) fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// A percentile in milliseconds; `None` when nothing was recorded.
    pub(crate) fn percentile_ms(&self, percentile: f64) -> Option<f64> {
        (self.count() > 0).then(|| milliseconds(self.histogram.value_at_percentile(percentile)))
    }

    /// The largest, in milliseconds.
    pub(crate) fn max_ms(&self) -> Option<f64> {
        (self.count() > 0).then(|| milliseconds(self.histogram.max()))
    }
}

#[expect(clippy::cast_precision_loss, reason = "a latency in microseconds is far below 2^52")]
fn milliseconds(us: u64) -> f64 {
    us as f64 / 1_000.0
}

/// On its way between processes a histogram is the list of its (value, count) pairs.
impl Serialize for Latencies {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.histogram.iter_recorded().map(|step| (step.value_iterated_to(), step.count_at_value())))
    }
}

impl<'de> Deserialize<'de> for Latencies {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut latencies = Self::default();
        for (value, count) in Vec::<(u64, u64)>::deserialize(deserializer)? {
            latencies.histogram.saturating_record_n(value, count);
        }
        Ok(latencies)
    }
}

#[cfg(test)]
mod tests {
    use super::Latencies;

    #[test]
    fn merged_histograms_hold_what_each_recorded_and_survive_the_pipe() {
        let (mut left, mut right) = (Latencies::default(), Latencies::default());
        for ms in 1..=99 {
            left.record(0, ms * 1_000_000);
        }
        right.record(0, 5_000_000_000);
        let text = serde_json::to_string(&right).expect("pairs of numbers");
        left.merge(&serde_json::from_str(&text).expect("what was just written"));
        assert_eq!(left.count(), 100);
        let p50 = left.percentile_ms(50.0).expect("100 values");
        assert!((p50 - 50.0).abs() < 0.1, "p50 is {p50}");
        let max = left.max_ms().expect("100 values");
        assert!((max - 5_000.0).abs() < 5.0, "the other side's value is the largest: {max}");
    }

    #[test]
    fn nothing_recorded_has_no_percentile() {
        assert_eq!(Latencies::default().percentile_ms(99.0), None);
        assert_eq!(Latencies::default().max_ms(), None);
    }

    #[test]
    fn an_arrival_before_its_intention_is_the_shortest_latency_and_not_a_wrap() {
        let mut latencies = Latencies::default();
        latencies.record(2_000, 1_000);
        assert_eq!(latencies.max_ms(), Some(0.001));
    }
}
