//! Which plots a run has, and what a person is to see in each.

use super::{
    heat::Heat,
    plot::{self, Line, Plot, Title},
    scale::Scale,
};
use crate::{
    latency::Latencies,
    report::{Report, Tail, number},
    series::{Measured, Point, Step},
    units,
};
use maud::{Markup, html};

/// Two marks closer than this share of the run would be written over each other.
const MARKS_APART: f64 = 0.08;
/// Server and load generator together from this share of all cores on: the machine was full.
const FULL_SHARE: f64 = 0.9;

/// Everything the plots are made of.
#[derive(Debug)]
pub(crate) struct Charts<'a> {
    report: &'a Report,
    points: Vec<Point>,
    slot_s: f64,
    measured: Measured,
    all: Option<Latencies>,
    time: Scale,
    marks: Vec<(f64, &'static str)>,
    cores: usize,
}

impl<'a> Charts<'a> {
    /// Of a run on a machine of so many cores.
    pub(crate) fn of(report: &'a Report, cores: usize) -> Self {
        let series = &report.series;
        let (points, slot_s) = (series.points(), series.slot_seconds());
        let end_s = number(points.len() as u64) * slot_s;
        let mut charts = Self {
            report,
            points,
            slot_s,
            measured: series.measured(),
            all: series.all_latencies(),
            time: Scale::time(end_s),
            marks: Vec::new(),
            cores,
        };
        for &(at, step) in series.steps() {
            // A scenario without a load begins to drain at once, and that is the one worth a mark.
            charts.marks.retain(|(before, _)| at - before > end_s * MARKS_APART);
            charts.marks.push((at, step.word()));
        }
        charts
    }

    /// All plots.
    pub(crate) fn render(&self) -> Markup {
        html! {
            div.plots {
                (self.throughput().render())
                (self.latency_over_time().render())
                (self.heat())
                (self.percentile_curve().render())
                (self.cpu().render())
                (self.memory().render())
                (self.logins().render())
                (self.connections().render())
            }
        }
    }

    /// Mean cores of server and load generator between the first message and the last; `None`: not measured.
    pub(crate) fn cores_used(&self) -> Option<(f64, f64)> {
        let step = |wanted| self.report.series.steps().iter().find(|(_, step)| *step == wanted).map(|&(at, _)| at);
        let (from, until) = (step(Step::Load)?, step(Step::Drain)?);
        let whole = |point: &&Point| point.at_s >= from && point.at_s + self.slot_s <= until;
        let used: Vec<(f64, f64)> =
            self.points.iter().filter(whole).filter_map(|point| Some((point.server_cpu_cores?, point.loadgen_cpu_cores?))).collect();
        let mean = |pick: fn(&(f64, f64)) -> f64| used.iter().map(pick).sum::<f64>() / number(used.len() as u64);
        (!used.is_empty()).then(|| (mean(|used| used.0), mean(|used| used.1)))
    }

    /// A warning when figures say more about the machine than about the server.
    pub(crate) fn machine_was_full(&self) -> Option<String> {
        let (server, own) = self.cores_used()?;
        let cores = number(self.cores as u64);
        (server + own >= FULL_SHARE * cores).then(|| {
            format!(
                "The machine was full: the server used {} and the load generator {} of {} cores, so latencies include waiting for a core.",
                units::short(server),
                units::short(own),
                self.cores
            )
        })
    }

    /// `copies`, `heartbeats` or `logins`.
    pub(crate) fn noun(&self) -> &'static str {
        match self.measured {
            Measured::Copies => "copies",
            Measured::Heartbeats => "heartbeats",
            Measured::Logins => "logins",
        }
    }

    fn throughput(&self) -> Plot {
        let received = self.over_time(|point| Some(point.received_per_s));
        let (points, note) = match self.measured {
            Measured::Copies => (received, "Copies that arrived, per second. Dents are stalls."),
            Measured::Heartbeats => (received, "Heartbeats that came back, per second."),
            Measured::Logins => (Vec::new(), "No load was sent, so nothing was received."),
        };
        let peak = peak(&points);
        let figure = format!("peak {}/s", units::short(peak));
        let title = |point: &Point| format!("{}/s received, {}/s sent", units::short(point.received_per_s), units::short(point.sent_per_s));
        Plot {
            y: Scale::from_zero(peak, units::short),
            lines: vec![line("c1", "received", figure, true, points)],
            titles: self.titles(title),
            ..self.plot("throughput", "Throughput", note)
        }
    }

    fn latency_over_time(&self) -> Plot {
        let run = match (self.measured, self.report.latency_ms) {
            (Measured::Copies | Measured::Heartbeats, Some(tail)) => Some(tail),
            (Measured::Logins, _) | (_, None) => self.all.as_ref().and_then(Tail::of),
        };
        let note = match self.measured {
            Measured::Copies => "From the intended send to each copy. The figures are those of the whole run.",
            Measured::Heartbeats => "From a heartbeat to its echo. The figures are those of the whole run.",
            Measured::Logins => "From the intended connect to the answer of LOGIN. The figures are those of the whole run.",
        };
        let of = |class, name, pick: fn(Tail) -> f64| {
            let figure = run.map_or_else(String::new, |run| units::duration(pick(run)));
            line(class, name, figure, false, self.over_time(|point| point.latency_ms.map(pick)))
        };
        let lines = vec![
            of("c4", "max", |tail| tail.max),
            of("c3", "p99.9", |tail| tail.p999),
            of("c2", "p99", |tail| tail.p99),
            of("c1", "p50", |tail| tail.p50),
        ];
        let title = |point: &Point| match point.latency_ms {
            Some(Tail { p50, p99, p999, max }) => {
                let [p50, p99, p999, max] = [p50, p99, p999, max].map(units::duration);
                format!("p50 {p50}, p99 {p99}, p99.9 {p999}, max {max}")
            }
            None => "nothing arrived".to_owned(),
        };
        let (min, max) = self.latency_ends();
        Plot {
            y: Scale::logarithmic(min, max, units::duration),
            lines,
            titles: self.titles(title),
            ..self.plot("latency", "Latency over time", self.or_why(note))
        }
    }

    fn percentile_curve(&self) -> Plot {
        let mut points = Vec::new();
        let count = self.all.as_ref().map_or(0, Latencies::count);
        if let Some(all) = &self.all {
            // A value stands where the share of those below it ends: `1 / (1 - q)`.
            let mut below = 0;
            for (ms, here) in all.counts_by_ms() {
                points.push((number(count) / number(count - below), Some(ms)));
                below += here;
            }
            points.push((number(count), all.max_ms()));
        }
        let (min, max) = self
            .all
            .as_ref()
            .map_or((1.0, 10.0), |all| (all.counts_by_ms().next().map_or(1.0, |(ms, _)| ms), all.max_ms().unwrap_or(10.0)));
        let name = format!("{} {}", units::grouped(count), self.noun());
        let note = "The whole run: up to this share, latency was no more than the line. A cliff is a tail that few see.";
        Plot {
            x: Scale::percentiles(count),
            y: Scale::logarithmic(min, max, units::duration),
            lines: vec![Line { name, ..line("c1", "", String::new(), false, points) }],
            marks: Vec::new(),
            ..self.plot("percentiles", "Latency by percentile", self.or_why(note))
        }
    }

    fn heat(&self) -> Markup {
        let (id, title) = ("heat", "Latency heat map");
        let note = "Each cell: how many had this latency at this time. Two bands are two kinds of clients; a smear upwards is a stall.";
        match Heat::of(self.report.series.latencies(), self.slot_s) {
            Some(heat) => heat.render(id, title, note, self.noun(), &self.time, &self.marks),
            None => plot::empty(id, title, self.or_why(note)),
        }
    }

    fn cpu(&self) -> Plot {
        let (server, own) = (self.over_time(|point| point.server_cpu_cores), self.over_time(|point| point.loadgen_cpu_cores));
        let note = match (self.machine_was_full(), peak_of(&server)) {
            (Some(warning), _) => warning,
            (None, Some(_)) => "Server and load generator share this machine: below the dashed line there was room for both.".to_owned(),
            (None, None) => "The server's was not measured: give --server-pid.".to_owned(),
        };
        let top = peak(&server).max(peak(&own)).max(number(self.cores as u64));
        let figure = |points: &[(f64, Option<f64>)]| peak_of(points).map(|peak| format!("peak {}", units::short(peak)));
        let mut lines = Vec::new();
        if let Some(figure) = figure(&server) {
            lines.push(line("c1", "server", figure, true, server));
        }
        let own_figure = figure(&own).unwrap_or_default();
        lines.push(line("c2", "load generator", own_figure, false, own));
        let title = |point: &Point| {
            let of = |cores: Option<f64>| cores.map_or_else(|| "-".to_owned(), units::short);
            format!("server {} cores, load generator {}", of(point.server_cpu_cores), of(point.loadgen_cpu_cores))
        };
        Plot {
            y: Scale::from_zero(top, units::short),
            lines,
            level: Some((number(self.cores as u64), format!("all {} cores", self.cores))),
            titles: self.titles(title),
            ..self.plot("cpu", "CPU, cores", &note)
        }
    }

    fn memory(&self) -> Plot {
        let points = self.over_time(|point| point.server_rss_bytes.map(number));
        let note = match peak_of(&points) {
            Some(_) => "Resident size of the server's processes. A line that keeps rising under a steady load is a leak.",
            None => "Not measured: give --server-pid.",
        };
        let peak = peak(&points);
        let title = |point: &Point| point.server_rss_bytes.map_or_else(|| "-".to_owned(), |rss| units::bytes(number(rss)));
        Plot {
            y: Scale::from_zero(peak, units::bytes),
            lines: vec![line("c1", "server", format!("peak {}", units::bytes(peak)), true, points)],
            titles: self.titles(title),
            ..self.plot("memory", "Server memory", note)
        }
    }

    fn logins(&self) -> Plot {
        let points = self.over_time(|point| Some(point.logins_per_s));
        let peak = peak(&points);
        let note = if self.points.is_empty() {
            "The run was over before its first second."
        } else {
            "Clients that came in, per second, also again."
        };
        Plot {
            y: Scale::from_zero(peak, units::short),
            lines: vec![line("c1", "logins", format!("peak {}/s", units::short(peak)), true, points)],
            titles: self.titles(|point| format!("{}/s", units::short(point.logins_per_s))),
            ..self.plot("logins", "Logins", note)
        }
    }

    fn connections(&self) -> Plot {
        let points = self.over_time(|point| point.connections.map(number));
        let peak = peak(&points);
        let note = if peak_of(&points).is_some() { "Clients that were in. A step down is a cut." } else { "Nobody was in." };
        let title = |point: &Point| point.connections.map_or_else(|| "-".to_owned(), units::grouped);
        Plot {
            y: Scale::from_zero(peak, units::short),
            lines: vec![line("c1", "clients", format!("peak {}", units::short(peak)), true, points)],
            titles: self.titles(title),
            ..self.plot("connections", "Connections", note)
        }
    }

    /// A plot over time with nothing on it.
    fn plot(&self, id: &'static str, title: &'static str, note: &str) -> Plot {
        Plot {
            id,
            title,
            note: note.to_owned(),
            x: self.time.clone(),
            y: Scale::from_zero(1.0, units::short),
            lines: Vec::new(),
            marks: self.marks.clone(),
            level: None,
            titles: Vec::new(),
        }
    }

    /// Every slot's value, in its middle.
    fn over_time(&self, pick: impl Fn(&Point) -> Option<f64>) -> Vec<(f64, Option<f64>)> {
        self.points.iter().map(|point| (point.at_s + self.slot_s / 2.0, pick(point))).collect()
    }

    fn titles(&self, text: impl Fn(&Point) -> String) -> Vec<Title> {
        let title =
            |point: &Point| Title { from: point.at_s, to: point.at_s + self.slot_s, text: format!("{} s: {}", point.at_s, text(point)) };
        self.points.iter().map(title).collect()
    }

    fn latency_ends(&self) -> (f64, f64) {
        let tails = || self.points.iter().filter_map(|point| point.latency_ms);
        (tails().map(|tail| tail.p50).fold(f64::INFINITY, f64::min), tails().map(|tail| tail.max).fold(0.0, f64::max))
    }

    fn or_why(&self, note: &'static str) -> &'static str {
        if self.all.is_some() { note } else { "Nothing arrived, so there is no latency." }
    }
}

fn line(class: &'static str, name: &str, figure: String, is_filled: bool, points: Vec<(f64, Option<f64>)>) -> Line {
    Line { class, name: name.to_owned(), figure, is_filled, points }
}

fn peak_of(points: &[(f64, Option<f64>)]) -> Option<f64> {
    points.iter().filter_map(|(_, value)| *value).reduce(f64::max)
}

fn peak(points: &[(f64, Option<f64>)]) -> f64 {
    peak_of(points).unwrap_or(0.0)
}
