//! Latencies: recorded in microseconds, carried between processes, merged, read as percentiles.
//!
//! Every histogram has the same bounds, so any two can be merged and nothing is lost in the merge but digits: the histograms of intervals,
//! of which a long run has hundreds, keep two of the three.

use hdrhistogram::Histogram;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest latency told apart; a run ends long before a copy can be later than this.
const LATENCY_US_MAX: u64 = 600_000_000;
/// Three digits: a percentile is right to 0.1 %.
const DIGITS: u8 = 3;
/// Two digits are more than a plot shows, and 24 KB a histogram instead of 170.
const DIGITS_COARSE: u8 = 2;

/// A histogram of latencies.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Latencies {
    histogram: Histogram<u64>,
}

impl Default for Latencies {
    fn default() -> Self {
        Self::with_digits(DIGITS)
    }
}

impl Latencies {
    fn with_digits(digits: u8) -> Self {
        Self { histogram: Histogram::new_with_bounds(1, LATENCY_US_MAX, digits).expect("the bounds are constants and legal") }
    }

    /// The same values, right to 1 % and in an eighth of the memory.
    pub(crate) fn coarse(&self) -> Self {
        let mut coarse = Self::with_digits(DIGITS_COARSE);
        coarse.merge(self);
        coarse
    }

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

    /// The values that occurred, in milliseconds and ascending, each with its count.
    pub(crate) fn counts_by_ms(&self) -> impl Iterator<Item = (f64, u64)> {
        self.histogram.iter_recorded().map(|step| (milliseconds(step.value_iterated_to()), step.count_at_value()))
    }
}

/// A histogram that is read twice: interval by interval, and over the whole run. A value is recorded once; closing an interval adds it to the
/// run.
#[derive(Debug, Default)]
pub(crate) struct Recording {
    open: Latencies,
    closed: Latencies,
}

impl Recording {
    /// As [`Latencies::record`].
    pub(crate) fn record(&mut self, intended_ns: u64, arrived_ns: u64) {
        self.open.record(intended_ns, arrived_ns);
    }

    /// Closes the interval: what was recorded since the last call, coarse; `None` when that is nothing.
    pub(crate) fn close_interval(&mut self) -> Option<Latencies> {
        if self.open.count() == 0 {
            return None;
        }
        self.closed.merge(&self.open);
        let interval = self.open.coarse();
        self.open.histogram.reset();
        Some(interval)
    }

    /// Everything recorded so far.
    pub(crate) fn total(&self) -> Latencies {
        let mut total = self.closed.clone();
        total.merge(&self.open);
        total
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
    use super::{Latencies, Recording};

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
    fn a_recording_gives_each_interval_once_and_the_run_whole() {
        let mut recording = Recording::default();
        assert_eq!(recording.close_interval(), None, "nothing is no histogram");
        recording.record(0, 3_000_000);
        recording.record(0, 5_000_000);
        assert_eq!(recording.total().count(), 2, "an open interval belongs to the run");
        let first = recording.close_interval().expect("two values");
        recording.record(0, 900_000_000);
        let second = recording.close_interval().expect("one value");
        assert_eq!((first.count(), second.count(), recording.total().count()), (2, 1, 3));
        let max = recording.total().max_ms().expect("three values");
        assert!((max - 900.0).abs() < 1.0, "the run keeps its three digits: {max}");
        let coarse = second.max_ms().expect("one value");
        assert!((coarse - 900.0).abs() < 9.0, "an interval is right to 1 %: {coarse}");
    }

    #[test]
    fn coarse_and_fine_histograms_can_be_merged_either_way() {
        let mut fine = Latencies::default();
        fine.record(0, 77_000_000);
        let mut coarse = fine.coarse();
        coarse.merge(&fine);
        fine.merge(&coarse);
        assert_eq!((coarse.count(), fine.count()), (2, 3));
        let values: Vec<_> = coarse.counts_by_ms().collect();
        assert!(values.len() == 1 && (values[0].0 - 77.0).abs() < 0.77 && values[0].1 == 2, "{values:?}");
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
