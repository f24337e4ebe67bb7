//! The heat map: when (across), how late (upwards), how many (colour).
//!
//! - A percentile hides whether one copy in a hundred is late all the time or everyone is late for a moment; this does not.
//! - Rows are of equal height on a logarithmic axis, and colours are steps of the logarithm of the count: one late copy among a million is
//!   seen.

use super::{
    plot::{self, Title, px, x_of, y_of},
    scale::Scale,
};
use crate::{latency::Latencies, report::number, units};
use maud::{Markup, html};
use std::fmt::Write as _;

/// Colours of the style sheet, `h0` to `h7`.
const LEVELS: usize = 8;
/// Rows at most: about five pixels each.
const ROWS_MAX: usize = 40;
/// Rows of a decade at most; finer ones would show the histogram's own steps.
const ROWS_PER_DECADE_MAX: f64 = 20.0;
/// Columns at most; a slot more and neighbours share one.
const COLUMNS_MAX: usize = 150;

/// Counts by column and row.
#[derive(Debug, PartialEq)]
pub(crate) struct Heat {
    /// Seconds of a column.
    column_s: f64,
    /// Lower ends of the rows and the upper end of the last, in milliseconds.
    bounds: Vec<f64>,
    /// By column, then row.
    counts: Vec<Vec<u64>>,
}

impl Heat {
    /// From the latencies of each slot; `None` when there are none.
    pub(crate) fn of<'a>(slots: impl Iterator<Item = Option<&'a Latencies>>, slot_s: f64) -> Option<Self> {
        let slots: Vec<_> = slots.collect();
        let (mut min, mut max) = (f64::INFINITY, 0.0f64);
        for (ms, _) in slots.iter().flatten().flat_map(|latencies| latencies.counts_by_ms()) {
            (min, max) = (min.min(ms), max.max(ms));
        }
        if !min.is_finite() || min <= 0.0 {
            return None;
        }
        let bounds = bounds(min, max);
        let per_column = slots.len().div_ceil(COLUMNS_MAX).max(1);
        let mut counts = Vec::with_capacity(slots.len().div_ceil(per_column));
        for column in slots.chunks(per_column) {
            let mut rows = vec![0; bounds.len() - 1];
            for (ms, count) in column.iter().flatten().flat_map(|latencies| latencies.counts_by_ms()) {
                let row = bounds.partition_point(|&bound| bound <= ms).saturating_sub(1).min(rows.len() - 1);
                rows[row] += count;
            }
            counts.push(rows);
        }
        Some(Self { column_s: slot_s * number(per_column as u64), bounds, counts })
    }

    /// The drawing and its legend.
    pub(crate) fn render(&self, id: &str, title: &str, note: &str, noun: &str, x: &Scale, marks: &[(f64, &'static str)]) -> Markup {
        let y = Scale::logarithmic(self.bounds[0], self.bounds[self.bounds.len() - 1], units::duration);
        let max = self.counts.iter().flatten().copied().max().unwrap_or(0);
        let legend = html! {
            ul.legend {
                li.ramp {
                    (noun) " in a cell: " b { "1" }
                    @for level in 0..LEVELS { span.swatch.{ "h" (level) } {} }
                    b { (units::short(number(max))) }
                }
            }
        };
        let drawing = html! {
            @for (level, path) in self.paths(x, &y, max).iter().enumerate() { path.cell.{ "h" (level) } d=(path) {} }
        };
        plot::figure(id, title, note, &legend, &plot::area(x, &y, marks, &self.titles(x), &drawing))
    }

    /// One path for all cells of a colour: the page stays small.
    fn paths(&self, x: &Scale, y: &Scale, max: u64) -> [String; LEVELS] {
        let mut paths: [String; LEVELS] = Default::default();
        for (column, rows) in self.counts.iter().enumerate() {
            let (left, right) = self.span(column, x);
            for (row, &count) in rows.iter().enumerate() {
                let Some(level) = level(count, max) else { continue };
                let (top, floor) = (y_of(y, self.bounds[row + 1]), y_of(y, self.bounds[row]));
                let (left, right) = (x_of(x, left), x_of(x, right));
                write!(paths[level], "M{} {}H{}V{}H{}Z", px(left), px(top), px(right), px(floor), px(left))
                    .expect("a string takes all text");
            }
        }
        paths
    }

    fn titles(&self, x: &Scale) -> Vec<Title> {
        let title = |(column, rows): (usize, &Vec<u64>)| {
            let (from, to) = self.span(column, x);
            let (latest, copies) = (rows.iter().rposition(|&count| count > 0)?, rows.iter().sum::<u64>());
            let worst = units::duration(self.bounds[latest + 1]);
            Some(Title { from, to, text: format!("{from} s: {} in all, none slower than {worst}", units::grouped(copies)) })
        };
        self.counts.iter().enumerate().filter_map(title).collect()
    }

    /// Seconds of a column; the last may be cut by the end of the run.
    fn span(&self, column: usize, x: &Scale) -> (f64, f64) {
        let from = number(column as u64) * self.column_s;
        (from, (from + self.column_s).min(x.to()))
    }
}

/// Equal steps of the logarithm around `min..=max`.
fn bounds(min: f64, max: f64) -> Vec<f64> {
    let decades = (max / min).log10();
    let per_decade = (number(ROWS_MAX as u64 - 1) / decades.max(1e-9)).min(ROWS_PER_DECADE_MAX).floor().max(1.0);
    let (low, high) = ((min.log10() * per_decade).floor(), (max.log10() * per_decade).floor() + 1.0);
    let mut bounds = Vec::new();
    let mut step = low;
    while step <= high {
        bounds.push(10f64.powf(step / per_decade));
        step += 1.0;
    }
    bounds
}

/// The colour of a count; `None`: nothing is drawn.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a level is one of eight")]
fn level(count: u64, max: u64) -> Option<usize> {
    if count == 0 {
        return None;
    }
    if max <= 1 {
        return Some(LEVELS - 1);
    }
    let share = number(count).ln() / number(max).ln();
    Some(((share * number(LEVELS as u64)) as usize).min(LEVELS - 1))
}

#[cfg(test)]
mod tests {
    use super::{COLUMNS_MAX, Heat, LEVELS, ROWS_MAX, bounds, level};
    use crate::{latency::Latencies, page::scale::Scale};

    #[test]
    fn every_copy_is_in_the_cell_of_its_time_and_latency() {
        let slots = [Some(latencies(&[(2, 3), (70, 1)])), None, Some(latencies(&[(2, 5)]))];
        let heat = Heat::of(slots.iter().map(Option::as_ref), 1.0).expect("there are copies");
        assert_eq!((heat.counts.len(), heat.column_s), (3, 1.0));
        assert_eq!(heat.counts.iter().map(|rows| rows.iter().sum::<u64>()).collect::<Vec<_>>(), [4, 0, 5]);
        let row = |ms: f64| heat.bounds.windows(2).position(|ends| ends[0] <= ms && ms < ends[1]).expect("all latencies have a row");
        assert_eq!((heat.counts[0][row(2.0)], heat.counts[0][row(70.0)], heat.counts[2][row(2.0)]), (3, 1, 5));
    }

    #[test]
    fn rows_and_columns_are_bounded_and_lose_nothing() {
        let slots: Vec<_> = (0..599).map(|_| Some(latencies(&[(1, 1), (500_000, 1)]))).collect();
        let heat = Heat::of(slots.iter().map(Option::as_ref), 4.0).expect("there are copies");
        assert!(heat.counts.len() <= COLUMNS_MAX && heat.bounds.len() <= ROWS_MAX + 2, "{} × {}", heat.counts.len(), heat.bounds.len());
        assert_eq!(heat.counts.iter().flatten().sum::<u64>(), 599 * 2);
        assert_eq!(heat.column_s, 16.0);
        let paths = heat.paths(&Scale::time(599.0 * 4.0), &Scale::logarithmic(1.0, 1e6, |_| String::new()), 4);
        assert!(paths.iter().map(String::len).sum::<usize>() > 0);
        assert!(paths.iter().all(|path| !path.contains("NaN")));
    }

    #[test]
    fn one_latency_alone_has_rows_and_none_at_all_has_no_map() {
        let slots = [Some(latencies(&[(10, 7)]))];
        let heat = Heat::of(slots.iter().map(Option::as_ref), 1.0).expect("there are copies");
        assert_eq!(heat.counts.iter().flatten().sum::<u64>(), 7);
        assert_eq!(Heat::of([None].into_iter(), 1.0), None);
        assert_eq!(Heat::of([].into_iter(), 0.0), None);
    }

    #[test]
    fn colours_follow_the_logarithm_and_a_single_copy_has_one() {
        assert_eq!((level(0, 1_000_000), level(1, 1_000_000), level(1_000_000, 1_000_000)), (None, Some(0), Some(LEVELS - 1)));
        assert_eq!(level(1_000, 1_000_000), Some(LEVELS / 2));
        assert_eq!(level(1, 1), Some(LEVELS - 1));
    }

    #[test]
    fn bounds_lie_around_the_data_in_equal_steps() {
        let bounds = bounds(0.3, 900.0);
        assert!(bounds[0] <= 0.3 && bounds[bounds.len() - 1] > 900.0 && bounds.len() <= ROWS_MAX + 2, "{bounds:?}");
        let steps: Vec<f64> = bounds.windows(2).map(|ends| ends[1] / ends[0]).collect();
        assert!(steps.iter().all(|step| (step - steps[0]).abs() < 1e-6), "{steps:?}");
    }

    fn latencies(ms: &[(u64, u64)]) -> Latencies {
        let mut latencies = Latencies::default();
        for &(ms, times) in ms {
            for _ in 0..times {
                latencies.record(0, ms * 1_000_000);
            }
        }
        latencies
    }
}
