//! A run as it goes on, for a person at a terminal: a few lines on standard error, drawn again in place.
//!
//! ```text
//! load         ████████████████████████████████ 10000/10000 connected  14 s
//!   received   98.2 k/s   1,402,330 in all    sent 10/s
//!   latency    p50 12.3 ms   p99 45.1 ms   max 61 ms
//!   server     1.32 cores   24.1 MB    load generator 0.61 of 2 cores
//!   dropped    0
//! ```
//!
//! - Nothing is drawn with `--json` or where standard error is no terminal.
//! - However the run ends, its lines are gone before anything else is written: dropping the view clears it.
//! - Rates and latencies are those of the last whole second, never a mean of the run: a stall must show at once.

use crate::{
    latency::Latencies,
    report::number,
    sampler::Look,
    series::{Interval, Sample},
    units,
};
use indicatif::{ProgressBar, ProgressStyle};
use std::time::Duration;

/// The bar, and text that [`Figures::lines`] makes. An empty line above them: the `^C` that a terminal echoes stands behind the last line and so
/// moves the view down by one, and what then stays behind is the uppermost line.
const TEMPLATE: &str = "\n{prefix:<12} {wide_bar} {pos}/{len} connected  {elapsed}\n{msg}";
/// The clock on the first line goes on when no news come.
const TICK: Duration = Duration::from_millis(250);

/// What is drawn, and from what.
#[derive(Debug)]
pub(crate) struct LiveView {
    bar: ProgressBar,
    figures: Figures,
    /// The second that is not whole yet.
    open: Second,
    workers: usize,
    /// Accepted so far from the parent's own pushes, and when the last second was whole.
    accepted: u64,
    accepted_before: u64,
}

/// What the workers said about one second.
#[derive(Debug, Default)]
struct Second {
    second: u64,
    said: usize,
    received: u64,
    sent: u64,
    latency: Latencies,
}

impl LiveView {
    /// A view of so many connections over so many workers; it draws nothing when it is not `visible`.
    pub(crate) fn begin(visible: bool, connections: usize, workers: usize) -> Self {
        let bar = if visible { ProgressBar::new(connections as u64) } else { ProgressBar::hidden() };
        bar.set_style(ProgressStyle::with_template(TEMPLATE).expect("the template is a constant"));
        bar.set_prefix("tokens");
        if visible {
            bar.enable_steady_tick(TICK);
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let figures = Figures { cores, ..Figures::default() };
        Self { bar, figures, open: Second::default(), workers, accepted: 0, accepted_before: 0 }
    }

    /// Another part of the run begins; its clock starts anew.
    pub(crate) fn phase(&self, name: &'static str) {
        self.bar.set_prefix(name);
        self.bar.reset_elapsed();
    }

    /// So many are in, and so much has arrived in all.
    pub(crate) fn progress(&mut self, connections: usize, received: u64) {
        self.bar.set_position(connections as u64);
        self.figures.received = received;
        self.draw();
    }

    /// The server accepted a message that the parent pushed.
    pub(crate) fn accepted(&mut self) {
        self.accepted += 1;
    }

    /// A worker's second is over; when all have said so it is drawn.
    pub(crate) fn interval(&mut self, interval: &Interval) {
        if interval.second != self.open.second {
            // A worker that was held up speaks of a second that nobody waits for any more.
            if interval.second < self.open.second {
                return;
            }
            self.open = Second { second: interval.second, ..Second::default() };
        }
        self.open.said += 1;
        self.open.received += interval.received + interval.beats_echoed;
        self.open.sent += interval.sent + interval.beats_sent;
        for latency in [&interval.latency, &interval.beat_latency, &interval.login].into_iter().flatten() {
            self.open.latency.merge(latency);
        }
        if self.open.said == self.workers {
            self.figures.received_per_s = self.open.received;
            self.figures.sent_per_s = self.open.sent + (self.accepted - self.accepted_before);
            self.accepted_before = self.accepted;
            self.figures.latency_ms = Quick::of(&self.open.latency);
            self.draw();
        }
    }

    /// The sampler has looked.
    pub(crate) fn look(&mut self, look: &Look) {
        self.figures.sample = Some(look.sample);
        self.figures.dropped = look.dropped.or(self.figures.dropped);
    }

    fn draw(&self) {
        // A hidden bar draws nothing, so nothing need be written for it.
        if !self.bar.is_hidden() {
            self.bar.set_message(self.figures.lines().join("\n"));
        }
    }
}

impl Drop for LiveView {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// The latencies of a second at a glance, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Quick {
    p50: f64,
    p99: f64,
    max: f64,
}

impl Quick {
    fn of(latencies: &Latencies) -> Option<Self> {
        Some(Self { p50: latencies.percentile_ms(50.0)?, p99: latencies.percentile_ms(99.0)?, max: latencies.max_ms()? })
    }
}

/// What the lines say.
#[derive(Clone, Copy, Debug, Default)]
struct Figures {
    /// Of this machine.
    cores: usize,
    received: u64,
    received_per_s: u64,
    sent_per_s: u64,
    latency_ms: Option<Quick>,
    sample: Option<Sample>,
    dropped: Option<u64>,
}

impl Figures {
    /// The lines under the bar. Short ones: a line that a terminal folds could not be drawn over.
    fn lines(&self) -> Vec<String> {
        let received = units::short(number(self.received_per_s));
        let sent = units::short(number(self.sent_per_s));
        let mut lines = vec![format!("  received   {received}/s   {} in all   sent {sent}/s", units::grouped(self.received))];
        lines.push(match self.latency_ms {
            Some(Quick { p50, p99, max }) => {
                let [p50, p99, max] = [p50, p99, max].map(units::duration);
                format!("  latency    p50 {p50}   p99 {p99}   max {max}")
            }
            None => "  latency    nothing arrived in the last second".to_owned(),
        });
        if let Some(sample) = self.sample.filter(|sample| sample.seconds > 0.0) {
            let own = units::short(sample.own_cpu_s / sample.seconds);
            let server = match (sample.server_cpu_s, sample.server_rss_bytes) {
                (Some(cpu_s), Some(rss)) => {
                    format!("{} cores   {}   ", units::short(cpu_s / sample.seconds), units::bytes(number(rss)))
                }
                (Some(_), None) | (None, _) => "not asked (--server-pid)   ".to_owned(),
            };
            lines.push(format!("  server     {server}load generator {own} of {} cores", self.cores));
        }
        lines.push(match self.dropped {
            Some(dropped) => format!("  dropped    {}", units::grouped(dropped)),
            None => "  dropped    not asked (--admin)".to_owned(),
        });
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::{Figures, LiveView};
    use crate::{
        latency::Latencies,
        sampler::Look,
        series::{Interval, Sample},
    };

    #[test]
    fn a_second_is_shown_when_every_worker_has_spoken_of_it() {
        let mut view = LiveView::begin(false, 10, 2);
        view.accepted();
        view.interval(&second(7, 100, 3));
        assert_eq!(view.figures.received_per_s, 0, "half a crowd is no rate");
        view.interval(&second(7, 50, 9));
        assert_eq!((view.figures.received_per_s, view.figures.sent_per_s), (150, 1));
        let max = view.figures.latency_ms.expect("150 copies").max;
        assert!((max - 9.0).abs() < 0.1, "{max}");
        view.interval(&Interval { second: 8, ..Interval::default() });
        view.interval(&second(7, 1, 1));
        view.interval(&Interval { second: 8, ..Interval::default() });
        assert_eq!((view.figures.received_per_s, view.figures.sent_per_s, view.figures.latency_ms), (0, 0, None), "a stall shows at once");
    }

    #[test]
    fn the_lines_say_what_was_not_asked_for_and_fit_a_terminal() {
        let mut view = LiveView::begin(false, 10, 1);
        let lines = view.figures.lines();
        assert!(lines.iter().any(|line| line.contains("--admin")), "{lines:?}");
        let sample = Sample { seconds: 2.0, server_cpu_s: Some(3.0), server_rss_bytes: Some(24_000_000), own_cpu_s: 1.0, second: 1 };
        view.look(&Look { sample, dropped: Some(4_321) });
        view.progress(10, u64::MAX / 1_000);
        view.interval(&second(1, 123_456_789, 599_999));
        let text = Figures { cores: 128, ..view.figures }.lines().join("\n");
        assert!(text.contains("1.5 cores   24 MB   load generator 0.5 of 128 cores"), "{text}");
        assert!(text.contains("dropped    4,321") && text.contains("received   123 M/s"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() < 80), "{text}");
    }

    fn second(second: u64, received: u64, latency_ms: u64) -> Interval {
        let mut latency = Latencies::default();
        latency.record(0, latency_ms * 1_000_000);
        Interval { second, received, latency: Some(latency), ..Interval::default() }
    }
}
