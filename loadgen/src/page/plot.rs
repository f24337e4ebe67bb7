//! Lines over an axis, as SVG that stands in the page.
//!
//! - Colours are classes: the style sheet knows light and dark, the SVG does not.
//! - A value that was not measured is a gap and never a zero; a lone one is a dot.
//! - Reading a value needs no script: each slot of time has a title that the browser shows under the pointer.

use super::scale::Scale;
use maud::{Markup, html};
use std::fmt::Write as _;

/// User units of the drawing; the page scales it.
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 254.0;
/// Room for the labels around the plot's area.
const LEFT: f64 = 62.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 22.0;
const BOTTOM: f64 = 26.0;
/// Half of the longest label.
const EDGE: f64 = 28.0;
/// Points of a line closer than this are drawn as one: a curve of 20,000 values would be a megabyte.
const APART: f64 = 0.25;

/// A plot.
#[derive(Debug)]
pub(crate) struct Plot {
    /// Its name in the document.
    pub(crate) id: &'static str,
    /// What it shows.
    pub(crate) title: &'static str,
    /// What to look for in it, or why it is empty.
    pub(crate) note: String,
    pub(crate) x: Scale,
    pub(crate) y: Scale,
    /// Drawn in this order.
    pub(crate) lines: Vec<Line>,
    /// Moments of the run.
    pub(crate) marks: Vec<(f64, &'static str)>,
    /// A value that the lines are to be compared with.
    pub(crate) level: Option<(f64, String)>,
    /// What the pointer finds between two places on the x axis.
    pub(crate) titles: Vec<Title>,
}

/// One line.
#[derive(Debug)]
pub(crate) struct Line {
    /// Of the style sheet: `c1` to `c4`.
    pub(crate) class: &'static str,
    pub(crate) name: String,
    /// Said behind the name: its peak, or what it comes to.
    pub(crate) figure: String,
    /// The area under it is tinted.
    pub(crate) is_filled: bool,
    pub(crate) points: Vec<(f64, Option<f64>)>,
}

/// What is said between two places on the x axis.
#[derive(Debug)]
pub(crate) struct Title {
    pub(crate) from: f64,
    pub(crate) to: f64,
    pub(crate) text: String,
}

impl Plot {
    /// The figure.
    pub(crate) fn render(&self) -> Markup {
        let is_empty = self.lines.iter().all(|line| line.points.iter().all(|(_, value)| value.is_none()));
        if is_empty {
            return empty(self.id, self.title, &self.note);
        }
        let legend = html! {
            ul.legend {
                @for line in &self.lines {
                    li { span.swatch.(line.class) {} (line.name) " " b { (line.figure) } }
                }
            }
        };
        let drawing = html! {
            @for line in &self.lines {
                @if line.is_filled { path.area.(line.class) d=(self.area(line)) {} }
                path.line.(line.class) d=(self.path(line)) {}
                @for (x, y) in lone(&line.points) { circle.(line.class) cx=(px(x_of(&self.x, x))) cy=(px(self.y_of(y))) r="3" {} }
            }
            @if let Some((value, name)) = &self.level {
                @let y = self.y_of(*value);
                line.level x1=(px(LEFT)) x2=(px(WIDTH - RIGHT)) y1=(px(y)) y2=(px(y)) {}
                text.mark x=(px(LEFT + 6.0)) y=(px(y + 14.0)) { (name) }
            }
        };
        figure(self.id, self.title, &self.note, &legend, &area(&self.x, &self.y, &self.marks, &self.titles, &drawing))
    }

    fn path(&self, line: &Line) -> String {
        let mut path = String::new();
        for run in runs(&line.points) {
            let mut last: Option<(f64, f64)> = None;
            for &(x, y) in run.iter() {
                let (x, y) = (x_of(&self.x, x), self.y_of(y));
                match last {
                    None => write!(path, "M{} {}", px(x), px(y)),
                    Some((last_x, last_y)) if (x - last_x).abs() + (y - last_y).abs() < APART => continue,
                    Some(_) => write!(path, "L{} {}", px(x), px(y)),
                }
                .expect("a string takes all text");
                last = Some((x, y));
            }
        }
        path
    }

    fn area(&self, line: &Line) -> String {
        let mut path = String::new();
        for run in runs(&line.points) {
            let (Some(first), Some(last)) = (run.first(), run.last()) else { continue };
            let (first, last, floor) = (x_of(&self.x, first.0), x_of(&self.x, last.0), HEIGHT - BOTTOM);
            write!(path, "M{} {}", px(first), px(floor)).expect("a string takes all text");
            for &(x, y) in run.iter() {
                write!(path, "L{} {}", px(x_of(&self.x, x)), px(self.y_of(y))).expect("a string takes all text");
            }
            write!(path, "L{} {}Z", px(last), px(floor)).expect("a string takes all text");
        }
        path
    }

    fn y_of(&self, value: f64) -> f64 {
        y_of(&self.y, value)
    }
}

/// The stretches without a gap.
fn runs(points: &[(f64, Option<f64>)]) -> Vec<Vec<(f64, f64)>> {
    let mut runs = vec![Vec::new()];
    for &(x, y) in points {
        match y.filter(|y| y.is_finite()) {
            Some(y) => runs.last_mut().expect("there is always one").push((x, y)),
            None => runs.push(Vec::new()),
        }
    }
    runs.retain(|run| !run.is_empty());
    runs
}

/// Values between two gaps: a line of one point is not seen.
fn lone(points: &[(f64, Option<f64>)]) -> impl Iterator<Item = (f64, f64)> {
    runs(points).into_iter().filter(|run| run.len() == 1).flatten()
}

/// Axes, grid and moments around a drawing.
pub(crate) fn area(x: &Scale, y: &Scale, marks: &[(f64, &'static str)], titles: &[Title], drawing: &Markup) -> Markup {
    html! {
        g.grid {
            @for tick in y.ticks() {
                @let at = y_of(y, tick.value);
                line x1=(px(LEFT)) x2=(px(WIDTH - RIGHT)) y1=(px(at)) y2=(px(at)) {}
                text x=(px(LEFT - 6.0)) y=(px(at + 4.0)) text-anchor="end" { (tick.label) }
            }
            @for tick in x.ticks() {
                @let at = x_of(x, tick.value);
                line x1=(px(at)) x2=(px(at)) y1=(px(HEIGHT - BOTTOM)) y2=(px(HEIGHT - BOTTOM + 4.0)) {}
                text x=(px(at)) y=(px(HEIGHT - BOTTOM + 17.0)) text-anchor=(anchor(at)) { (tick.label) }
            }
        }
        (drawing)
        @for (at, name) in marks {
            @let at = x_of(x, *at);
            line.mark x1=(px(at)) x2=(px(at)) y1=(px(TOP - 6.0)) y2=(px(HEIGHT - BOTTOM)) {}
            @if anchor(at) == "end" {
                text.mark x=(px(at - 4.0)) y=(px(TOP - 8.0)) text-anchor="end" { (name) }
            } @else {
                text.mark x=(px(at + 4.0)) y=(px(TOP - 8.0)) { (name) }
            }
        }
        @for title in titles {
            @let (from, to) = (x_of(x, title.from), x_of(x, title.to));
            rect.pointed x=(px(from)) width=(px(to - from)) y=(px(TOP)) height=(px(HEIGHT - BOTTOM - TOP)) { title { (title.text) } }
        }
    }
}

/// The figure around a drawing.
pub(crate) fn figure(id: &str, title: &str, note: &str, legend: &Markup, drawing: &Markup) -> Markup {
    html! {
        figure.plot id=(id) {
            figcaption { h3 { (title) } p { (note) } }
            (legend)
            svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img" aria-label=(title) { (drawing) }
        }
    }
}

/// A plot of nothing says why.
pub(crate) fn empty(id: &str, title: &str, why: &str) -> Markup {
    html! { figure.plot.empty id=(id) { figcaption { h3 { (title) } } p.why { (why) } } }
}

/// A word at the right edge ends there instead of standing across it.
fn anchor(x: f64) -> &'static str {
    if x > WIDTH - RIGHT - EDGE { "end" } else { "middle" }
}

pub(crate) fn x_of(scale: &Scale, value: f64) -> f64 {
    LEFT + scale.place(value) * (WIDTH - LEFT - RIGHT)
}

pub(crate) fn y_of(scale: &Scale, value: f64) -> f64 {
    HEIGHT - BOTTOM - scale.place(value) * (HEIGHT - BOTTOM - TOP)
}

/// A tenth of a unit is finer than a pixel.
pub(crate) fn px(value: f64) -> String {
    format!("{}", (value * 10.0).round() / 10.0)
}

#[cfg(test)]
mod tests {
    use super::{Line, Plot, Title};
    use crate::{page::scale::Scale, units};

    #[test]
    fn a_gap_parts_a_line_and_a_lone_value_is_a_dot() {
        let plot = plot(vec![(0.0, Some(0.0)), (5.0, Some(10.0)), (6.0, None), (10.0, Some(5.0))]);
        assert_eq!(plot.path(&plot.lines[0]), "M62 228L343 22M624 125");
        assert_eq!(plot.render().into_string().matches(r#"<circle class="c1" cx="624" cy="125""#).count(), 1);
        assert_eq!(plot.area(&plot.lines[0]), "M62 228L62 228L343 22L343 228ZM624 228L624 125L624 228Z");
    }

    #[test]
    fn points_that_fall_on_one_place_are_drawn_once() {
        let plot = plot((0..100_000).map(|nth| (f64::from(nth) / 10_000.0, Some(1.0))).collect());
        let points = plot.path(&plot.lines[0]).matches('L').count();
        assert!((500..3_000).contains(&points), "{points}");
    }

    #[test]
    fn nothing_measured_is_a_sentence_and_no_drawing() {
        for points in [vec![], vec![(1.0, None)]] {
            let page = plot(points).render().into_string();
            assert!(page.contains("why not") && !page.contains("<svg"), "{page}");
        }
    }

    #[test]
    fn what_is_no_number_is_a_gap() {
        let page = plot(vec![(0.0, Some(f64::NAN)), (1.0, Some(2.0)), (2.0, Some(f64::INFINITY))]).render().into_string();
        assert!(page.contains("<svg") && !page.contains("NaN") && !page.contains("inf"), "{page}");
    }

    #[test]
    fn names_of_lines_are_text() {
        let mut plot = plot(vec![(0.0, Some(1.0))]);
        plot.lines[0].name = "<b>&".to_owned();
        plot.titles.push(Title { from: 0.0, to: 1.0, text: "</title><script>".to_owned() });
        let page = plot.render().into_string();
        assert!(page.contains("&lt;b&gt;&amp;") && !page.contains("<script>"), "{page}");
    }

    fn plot(points: Vec<(f64, Option<f64>)>) -> Plot {
        Plot {
            id: "p",
            title: "t",
            note: "why not".to_owned(),
            x: Scale::time(10.0),
            y: Scale::from_zero(10.0, units::short),
            lines: vec![Line { class: "c1", name: "n".to_owned(), figure: "f".to_owned(), is_filled: false, points }],
            marks: Vec::new(),
            level: None,
            titles: Vec::new(),
        }
    }
}
