//! A run over time: what happened in each second of it.
//!
//! - Workers count by seconds of `CLOCK_MONOTONIC`, which all processes of a machine share, so intervals of several workers fall together.
//! - Bounded: beyond [`SLOTS_MAX`] neighbours are merged and every slot is twice as long. Counts add up, histograms merge, nothing is dropped.
//! - For plots alone. The figures of a report and its verdict come from the run's own account and never from here.

use crate::{
    latency::Latencies,
    report::{Tail, number},
};
use serde::{Deserialize, Serialize};

/// A plot is about 600 pixels wide; with the histograms this is at most 45 MB for a run of any length.
const SLOTS_MAX: usize = 600;

/// What one worker counted in one second.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Interval {
    /// Which second of `CLOCK_MONOTONIC`.
    pub(crate) second: u64,
    /// First copies, and echoes of the load.
    pub(crate) received: u64,
    /// Messages or heartbeats that this worker itself sent as load.
    pub(crate) sent: u64,
    /// Echoes of the heartbeats that keep sessions alive.
    pub(crate) beats_echoed: u64,
    /// Those heartbeats.
    pub(crate) beats_sent: u64,
    /// Clients that came in, also again.
    pub(crate) entered: u64,
    /// Of what was received.
    pub(crate) latency: Option<Latencies>,
    /// Of the echoes that keep sessions alive.
    pub(crate) beat_latency: Option<Latencies>,
    /// Of the logins.
    pub(crate) login: Option<Latencies>,
}

/// What the kernel said about a span of time that ended in this second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Sample {
    /// Which second of `CLOCK_MONOTONIC`.
    pub(crate) second: u64,
    /// How long the span was.
    pub(crate) seconds: f64,
    /// CPU time of the server's processes in it; `None`: not asked for.
    pub(crate) server_cpu_s: Option<f64>,
    /// Their resident bytes at its end.
    pub(crate) server_rss_bytes: Option<u64>,
    /// CPU time of the load generator's own processes in it.
    pub(crate) own_cpu_s: f64,
}

/// A step of the run that a reader wants to see on the time axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The load begins.
    Load,
    /// Nothing more is sent.
    Drain,
}

impl Step {
    /// Its word on a plot.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Drain => "drain",
        }
    }
}

/// What the latencies of a run are latencies of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Measured {
    /// Copies of messages, and echoes of a load of heartbeats.
    #[default]
    Copies,
    /// Heartbeats that keep sessions alive: there was no other load.
    Heartbeats,
    /// Logins: there was no load at all.
    Logins,
}

/// A run over time.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Series {
    first_second: u64,
    /// Seconds of a slot, a power of two; 0: nothing has begun.
    slot_seconds: u64,
    slots: Vec<Slot>,
    /// When each step began, in seconds of the run.
    steps: Vec<(f64, Step)>,
}

/// Sums over all workers and over the slot's seconds.
#[derive(Clone, Debug, Default, PartialEq)]
struct Slot {
    received: u64,
    sent: u64,
    beats_echoed: u64,
    beats_sent: u64,
    entered: u64,
    latency: Option<Latencies>,
    beat_latency: Option<Latencies>,
    login: Option<Latencies>,
    /// The latest.
    connections: Option<u64>,
    sampled_s: f64,
    server_cpu_s: Option<f64>,
    /// The largest.
    server_rss_bytes: Option<u64>,
    own_cpu_s: f64,
}

impl Series {
    /// Begins in this second of `CLOCK_MONOTONIC`; what was before is left out.
    pub(crate) fn begin(second: u64) -> Self {
        Self { first_second: second, slot_seconds: 1, ..Self::default() }
    }

    /// Adds what a worker counted.
    pub(crate) fn add(&mut self, interval: Interval) {
        let Some(slot) = self.slot_mut(interval.second) else { return };
        slot.merge(Slot {
            received: interval.received,
            sent: interval.sent,
            beats_echoed: interval.beats_echoed,
            beats_sent: interval.beats_sent,
            entered: interval.entered,
            latency: interval.latency,
            beat_latency: interval.beat_latency,
            login: interval.login,
            ..Slot::default()
        });
    }

    /// Adds what the kernel said.
    pub(crate) fn sample(&mut self, sample: Sample) {
        let Some(slot) = self.slot_mut(sample.second) else { return };
        slot.merge(Slot {
            sampled_s: sample.seconds,
            server_cpu_s: sample.server_cpu_s,
            server_rss_bytes: sample.server_rss_bytes,
            own_cpu_s: sample.own_cpu_s,
            ..Slot::default()
        });
    }

    /// The server accepted a message that the parent pushed.
    pub(crate) fn accepted(&mut self, second: u64) {
        if let Some(slot) = self.slot_mut(second) {
            slot.sent += 1;
        }
    }

    /// So many clients are in.
    pub(crate) fn connected(&mut self, second: u64, connections: u64) {
        if let Some(slot) = self.slot_mut(second) {
            slot.connections = Some(connections);
        }
    }

    /// A step begins.
    pub(crate) fn mark(&mut self, now_ns: u64, step: Step) {
        self.steps.push(((number(now_ns) / 1e9 - number(self.first_second)).max(0.0), step));
    }

    fn slot_mut(&mut self, second: u64) -> Option<&mut Slot> {
        if self.slot_seconds == 0 {
            return None;
        }
        let since = second.checked_sub(self.first_second)?;
        while since / self.slot_seconds >= SLOTS_MAX as u64 {
            self.merge_neighbours();
        }
        let index = usize::try_from(since / self.slot_seconds).ok()?;
        if self.slots.len() <= index {
            self.slots.resize_with(index + 1, Slot::default);
        }
        self.slots.get_mut(index)
    }

    fn merge_neighbours(&mut self) {
        self.slot_seconds *= 2;
        let mut slots = std::mem::take(&mut self.slots).into_iter();
        while let Some(mut left) = slots.next() {
            if let Some(right) = slots.next() {
                left.merge(right);
            }
            self.slots.push(left);
        }
    }

    /// Seconds of a slot.
    pub(crate) fn slot_seconds(&self) -> f64 {
        number(self.slot_seconds)
    }

    /// When each step began, in seconds of the run.
    pub(crate) fn steps(&self) -> &[(f64, Step)] {
        &self.steps
    }

    /// What the latencies are latencies of: the load's where there was one.
    pub(crate) fn measured(&self) -> Measured {
        if self.slots.iter().any(|slot| slot.latency.is_some()) {
            Measured::Copies
        } else if self.slots.iter().any(|slot| slot.beat_latency.is_some()) {
            Measured::Heartbeats
        } else {
            Measured::Logins
        }
    }

    /// The latencies of each slot.
    pub(crate) fn latencies(&self) -> impl Iterator<Item = Option<&Latencies>> {
        let measured = self.measured();
        self.slots.iter().map(move |slot| slot.latencies(measured))
    }

    /// The latencies of the whole run, coarse; `None` when there are none.
    pub(crate) fn all_latencies(&self) -> Option<Latencies> {
        let mut all: Option<Latencies> = None;
        for latencies in self.latencies().flatten() {
            merge_histograms(&mut all, Some(latencies.clone()));
        }
        all
    }

    /// The slots as a plot and `series.json` have them.
    pub(crate) fn points(&self) -> Vec<Point> {
        let measured = self.measured();
        let seconds = self.slot_seconds();
        let point = |(index, slot): (usize, &Slot)| {
            let (received, sent) = match measured {
                Measured::Copies => (slot.received, slot.sent),
                Measured::Heartbeats => (slot.beats_echoed, slot.beats_sent),
                Measured::Logins => (slot.received, slot.sent + slot.beats_sent),
            };
            let cores = |cpu_s: f64| three_decimals(cpu_s / slot.sampled_s);
            Point {
                at_s: number(index as u64) * seconds,
                received_per_s: three_decimals(number(received) / seconds),
                sent_per_s: three_decimals(number(sent) / seconds),
                logins_per_s: three_decimals(number(slot.entered) / seconds),
                connections: slot.connections,
                latency_ms: slot.latencies(measured).and_then(Tail::of),
                server_cpu_cores: slot.server_cpu_s.filter(|_| slot.sampled_s > 0.0).map(cores),
                server_rss_bytes: slot.server_rss_bytes,
                loadgen_cpu_cores: (slot.sampled_s > 0.0).then(|| cores(slot.own_cpu_s)),
            }
        };
        self.slots.iter().enumerate().map(point).collect()
    }
}

impl Slot {
    fn merge(&mut self, later: Self) {
        self.received += later.received;
        self.sent += later.sent;
        self.beats_echoed += later.beats_echoed;
        self.beats_sent += later.beats_sent;
        self.entered += later.entered;
        merge_histograms(&mut self.latency, later.latency);
        merge_histograms(&mut self.beat_latency, later.beat_latency);
        merge_histograms(&mut self.login, later.login);
        self.connections = later.connections.or(self.connections);
        self.sampled_s += later.sampled_s;
        self.server_cpu_s = match (self.server_cpu_s, later.server_cpu_s) {
            (Some(one), Some(two)) => Some(one + two),
            (one, two) => one.or(two),
        };
        self.server_rss_bytes = self.server_rss_bytes.max(later.server_rss_bytes);
        self.own_cpu_s += later.own_cpu_s;
    }

    fn latencies(&self, measured: Measured) -> Option<&Latencies> {
        match measured {
            Measured::Copies => self.latency.as_ref(),
            Measured::Heartbeats => self.beat_latency.as_ref(),
            Measured::Logins => self.login.as_ref(),
        }
    }
}

/// From a pipe a histogram comes with all its digits; what is kept is coarse.
fn merge_histograms(into: &mut Option<Latencies>, more: Option<Latencies>) {
    let Some(more) = more else { return };
    match into {
        Some(sum) => sum.merge(&more),
        None => *into = Some(more.coarse()),
    }
}

fn three_decimals(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}

/// One slot of a run, as rates. `None`: not measured in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Point {
    /// Where the slot begins, in seconds of the run.
    pub(crate) at_s: f64,
    /// Copies, or heartbeats where there were only those.
    pub(crate) received_per_s: f64,
    /// Messages that the server accepted, or heartbeats sent.
    pub(crate) sent_per_s: f64,
    /// Clients that came in, also again.
    pub(crate) logins_per_s: f64,
    /// Clients that were in at the end of the slot.
    pub(crate) connections: Option<u64>,
    /// Of what was received, or of the logins where nothing was.
    pub(crate) latency_ms: Option<Tail>,
    /// CPU time of the server's processes per second.
    pub(crate) server_cpu_cores: Option<f64>,
    /// Largest resident size of the server's processes.
    pub(crate) server_rss_bytes: Option<u64>,
    /// CPU time of the load generator's processes per second.
    pub(crate) loadgen_cpu_cores: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::{Interval, Measured, SLOTS_MAX, Sample, Series, Step};
    use crate::latency::Latencies;

    #[test]
    fn the_same_second_of_two_workers_is_one_slot() {
        let mut series = Series::begin(100);
        series.add(Interval { latency: Some(latencies(&[1])), ..copies(101, 3) });
        series.add(Interval { latency: Some(latencies(&[9, 9])), ..copies(101, 4) });
        series.accepted(101);
        let points = series.points();
        assert_eq!(points.len(), 2, "the second before it was empty and still stands there");
        assert_eq!((points[0].received_per_s, points[1].received_per_s, points[1].sent_per_s), (0.0, 7.0, 1.0));
        assert_eq!((points[0].latency_ms, series.all_latencies().expect("some").count()), (None, 3));
        let max = series.latencies().flatten().next().expect("one slot").max_ms().expect("three values");
        assert!((max - 9.0).abs() < 0.1, "{max}");
    }

    #[test]
    fn what_was_before_the_beginning_is_left_out() {
        let mut series = Series::begin(100);
        series.add(copies(99, 1));
        series.sample(Sample { second: 99, seconds: 1.0, ..Sample::default() });
        assert_eq!(series.points(), []);
        let mut never = Series::default();
        never.add(copies(1, 1));
        assert_eq!((never.points().len(), never.measured()), (0, Measured::Logins));
    }

    #[test]
    fn a_long_run_has_longer_slots_and_loses_nothing() {
        let mut series = Series::begin(0);
        let seconds = SLOTS_MAX as u64 * 3;
        for second in 0..seconds {
            series.add(Interval { latency: Some(latencies(&[second % 7 + 1])), ..copies(second, 2) });
            series.sample(Sample { second, seconds: 1.0, server_cpu_s: Some(0.5), server_rss_bytes: Some(second), own_cpu_s: 0.25 });
            series.connected(second, second);
        }
        let points = series.points();
        assert_eq!((points.len(), series.slot_seconds()), (SLOTS_MAX * 3 / 4, 4.0));
        assert!(points.iter().all(|point| (point.received_per_s - 2.0).abs() < 1e-9), "a rate does not grow with its slot");
        assert!(points.iter().all(|point| point.server_cpu_cores == Some(0.5) && point.loadgen_cpu_cores == Some(0.25)));
        assert_eq!(series.all_latencies().expect("some").count(), seconds);
        let last = points.last().expect("there are points");
        assert_eq!((last.at_s, last.server_rss_bytes, last.connections), (1_796.0, Some(1_799), Some(1_799)));
    }

    #[test]
    fn one_late_second_after_a_long_silence_is_placed_by_its_time() {
        let mut series = Series::begin(10);
        series.add(copies(10, 1));
        series.add(copies(10 + 86_400, 5));
        assert!(series.points().len() <= SLOTS_MAX);
        let total: f64 = series.points().iter().map(|point| point.received_per_s * series.slot_seconds()).sum();
        assert!((total - 6.0).abs() < 0.5, "{total}");
    }

    #[test]
    fn the_load_is_what_is_measured_and_heartbeats_and_logins_where_there_is_none() {
        let login = Interval { login: Some(latencies(&[5])), entered: 8, ..Interval::default() };
        let beats = Interval { beat_latency: Some(latencies(&[2])), beats_sent: 4, beats_echoed: 3, ..Interval::default() };
        let mut series = Series::begin(0);
        series.add(login);
        assert_eq!((series.measured(), series.points()[0].logins_per_s), (Measured::Logins, 8.0));
        series.add(beats);
        assert_eq!((series.measured(), series.points()[0].received_per_s, series.points()[0].sent_per_s), (Measured::Heartbeats, 3.0, 4.0));
        series.add(Interval { latency: Some(latencies(&[1])), ..copies(0, 50) });
        assert_eq!((series.measured(), series.points()[0].received_per_s), (Measured::Copies, 50.0));
    }

    #[test]
    fn steps_stand_where_they_began() {
        let mut series = Series::begin(5);
        series.mark(7_500_000_000, Step::Load);
        assert_eq!(series.steps(), [(2.5, Step::Load)]);
    }

    fn copies(second: u64, received: u64) -> Interval {
        Interval { second, received, ..Interval::default() }
    }

    fn latencies(ms: &[u64]) -> Latencies {
        let mut latencies = Latencies::default();
        for ms in ms {
            latencies.record(0, ms * 1_000_000);
        }
        latencies
    }
}
