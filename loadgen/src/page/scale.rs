//! Axes: where a value stands on one, and which values are written beside it.
//!
//! Whatever the data is - nothing, one value, zeros -, a scale has a length, and no place on it is `NaN`.

use crate::report::number;

/// Ticks wished for on an axis; the steps of 1, 2 and 5 give or take a few.
const TICKS_WISHED: f64 = 5.0;
/// Up to so many decades of a logarithmic axis 2 and 5 are written too.
const DECADES_DENSE_MAX: f64 = 2.4;
/// Up to so many nines there is room to write 50 % as well.
const NINES_ROOMY_MAX: usize = 4;
/// Up to so many all of them can be written.
const NINES_MAX: usize = 5;
/// Seconds between the ticks of a time axis: what a clock is read in.
const TIME_STEPS: [f64; 15] = [1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_800.0, 3_600.0, 7_200.0, 21_600.0, 86_400.0];
/// The longest run shares its axis among so many time ticks.
const TIME_TICKS_MAX: f64 = 10.0;

/// An axis.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Scale {
    from: f64,
    to: f64,
    is_log: bool,
    ticks: Vec<Tick>,
}

/// A value that is written beside an axis.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tick {
    /// Which.
    pub(crate) value: f64,
    /// How.
    pub(crate) label: String,
}

impl Scale {
    /// From 0 to `max` or the tick above it.
    pub(crate) fn from_zero(max: f64, label: fn(f64) -> String) -> Self {
        let max = if max.is_finite() && max > 0.0 { max } else { 1.0 };
        let step = step_above(max / TICKS_WISHED);
        let steps = (max / step - 1e-9).ceil();
        let ticks = counted(steps).map(|nth| Tick::new(nth * step, label)).collect();
        Self { from: 0.0, to: steps * step, is_log: false, ticks }
    }

    /// The seconds of a run, to its very end.
    pub(crate) fn time(end_s: f64) -> Self {
        let to = if end_s.is_finite() { end_s.max(1.0) } else { 1.0 };
        let longest = TIME_STEPS[TIME_STEPS.len() - 1];
        let step =
            TIME_STEPS.into_iter().find(|step| to / step <= TIME_TICKS_MAX).unwrap_or((to / TIME_TICKS_MAX / longest).ceil() * longest);
        let ticks = counted((to / step + 1e-9).floor()).map(|nth| Tick::new(nth * step, clock)).collect();
        Self { from: 0.0, to, is_log: false, ticks }
    }

    /// Logarithmic, around all of `min..=max`.
    pub(crate) fn logarithmic(min: f64, max: f64, label: fn(f64) -> String) -> Self {
        let is_usable = min.is_finite() && max.is_finite() && min > 0.0 && max >= min;
        let (min, max) = if is_usable { (min, max) } else { (1.0, 10.0) };
        let (low, high) = (decade(min.log10() + 1e-9), decade(max.log10() - 1e-9) + 1);
        let all: Vec<f64> = (low..=high).flat_map(|decade| [1.0, 2.0, 5.0].map(|factor| factor * 10f64.powi(decade))).collect();
        // The axis ends at the steps around the data.
        let from = all.iter().copied().rfind(|&step| step <= min * (1.0 + 1e-9)).unwrap_or(min);
        let to = all.iter().copied().find(|&step| step >= max * (1.0 - 1e-9) && step > from).unwrap_or(max * 10.0);
        let is_sparse = (to / from).log10() > DECADES_DENSE_MAX;
        let is_written = |&step: &f64| step >= from && step <= to && !(is_sparse && is_factored(step));
        Self { from, to, is_log: true, ticks: all.into_iter().filter(is_written).map(|step| Tick::new(step, label)).collect() }
    }

    /// Percentiles, spread so that each further nine has the same room: the share `q` stands at `1 / (1 - q)`. Ends with the nines that so
    /// many samples can tell apart.
    pub(crate) fn percentiles(samples: u64) -> Self {
        let tails = [10.0, 100.0, 1e3, 1e4, 1e5, 1e6].into_iter().zip(["90 %", "99 %", "99.9 %", "99.99 %", "99.999 %", "99.9999 %"]);
        let mut ticks = vec![Tick { value: 1.0, label: "0 %".to_owned() }];
        for (value, label) in tails {
            ticks.push(Tick { value, label: label.to_owned() });
            if value >= number(samples) {
                break;
            }
        }
        let to = ticks.last().map_or(10.0, |tick| tick.value);
        if ticks.len() > NINES_MAX + 1 {
            // The longest label needs the room of the one before it.
            ticks.remove(ticks.len() - 2);
        }
        if ticks.len() <= NINES_ROOMY_MAX + 1 {
            ticks.insert(1, Tick { value: 2.0, label: "50 %".to_owned() });
        }
        Self { from: 1.0, to, is_log: true, ticks }
    }

    /// Where `value` stands between both ends, 0 to 1.
    pub(crate) fn place(&self, value: f64) -> f64 {
        let place = if self.is_log {
            (value.max(self.from) / self.from).ln() / (self.to / self.from).ln()
        } else {
            (value - self.from) / (self.to - self.from)
        };
        if place.is_finite() { place.clamp(0.0, 1.0) } else { 0.0 }
    }

    /// What is written beside it.
    pub(crate) fn ticks(&self) -> &[Tick] {
        &self.ticks
    }

    /// Where it ends.
    pub(crate) fn to(&self) -> f64 {
        self.to
    }
}

impl Tick {
    fn new(value: f64, label: fn(f64) -> String) -> Self {
        Self { value, label: label(value) }
    }
}

/// 0, 1, 2 … `last`.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an axis has few ticks")]
fn counted(last: f64) -> impl Iterator<Item = f64> {
    (0..=last.clamp(0.0, 100.0) as u32).map(f64::from)
}

/// Whether it is 2 or 5 times a power of ten.
fn is_factored(step: f64) -> bool {
    let log = step.log10();
    (log - log.round()).abs() > 1e-6
}

#[expect(clippy::cast_possible_truncation, reason = "decades of a finite number are few")]
fn decade(log: f64) -> i32 {
    log.floor() as i32
}

/// The smallest of 1, 2 and 5 times a power of ten that is not below `least`.
fn step_above(least: f64) -> f64 {
    let power = 10f64.powi(decade(least.log10()));
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|factor| factor * power).find(|&step| step >= least * (1.0 - 1e-9)).unwrap_or(10.0 * power)
}

/// `45 s`, `2:30`, `1:00:00`.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "seconds of a run")]
fn clock(seconds: f64) -> String {
    let seconds = seconds.max(0.0) as u64;
    match (seconds / 3_600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, seconds) => format!("{minutes}:{seconds:02}"),
        (hours, minutes, seconds) => format!("{hours}:{minutes:02}:{seconds:02}"),
    }
}

#[cfg(test)]
mod tests {
    use super::Scale;
    use crate::units;

    #[test]
    fn an_axis_from_zero_ends_at_the_tick_above_the_data() {
        assert_eq!(labels(&Scale::from_zero(98_231.0, units::short)), ["0", "20 k", "40 k", "60 k", "80 k", "100 k"]);
        assert_eq!(labels(&Scale::from_zero(100.0, units::short)), ["0", "20", "40", "60", "80", "100"]);
        assert_eq!(labels(&Scale::from_zero(0.31, units::short)), ["0", "0.1", "0.2", "0.3", "0.4"]);
        let scale = Scale::from_zero(50.0, units::short);
        assert!(close(scale.place(0.0), 0.0) && close(scale.place(25.0), 0.5) && close(scale.place(50.0), 1.0));
    }

    #[test]
    fn a_logarithmic_axis_holds_its_data_and_writes_what_has_room() {
        assert_eq!(labels(&Scale::logarithmic(0.3, 4_000.0, units::duration)), ["1 ms", "10 ms", "100 ms", "1 s"]);
        assert_eq!(labels(&Scale::logarithmic(0.9, 14.0, units::duration)), ["0.5 ms", "1 ms", "2 ms", "5 ms", "10 ms", "20 ms"]);
        assert_eq!(labels(&Scale::logarithmic(12.0, 80.0, units::duration)), ["10 ms", "20 ms", "50 ms", "100 ms"]);
        assert_eq!(labels(&Scale::logarithmic(10.0, 10.0, units::duration)), ["10 ms", "20 ms"], "one value has an axis too");
        let scale = Scale::logarithmic(1.0, 1_000.0, units::short);
        assert!(close(scale.place(1.0), 0.0) && close(scale.place(10.0), 1.0 / 3.0) && close(scale.place(1_000.0), 1.0));
    }

    #[test]
    fn time_is_labelled_as_a_clock_is_read() {
        assert_eq!(labels(&Scale::time(9.0)).last().map(String::as_str), Some("9 s"));
        assert_eq!(labels(&Scale::time(31.0)), ["0 s", "5 s", "10 s", "15 s", "20 s", "25 s", "30 s"]);
        assert_eq!(labels(&Scale::time(600.0)), ["0 s", "1:00", "2:00", "3:00", "4:00", "5:00", "6:00", "7:00", "8:00", "9:00", "10:00"]);
        assert_eq!(labels(&Scale::time(7_200.0))[1..3], ["30:00", "1:00:00"]);
        assert!(labels(&Scale::time(1e9)).len() < 20, "a year has few ticks as well");
    }

    #[test]
    fn each_further_nine_has_the_same_room() {
        assert_eq!(labels(&Scale::percentiles(2_000_000)), ["0 %", "90 %", "99 %", "99.9 %", "99.99 %", "99.9999 %"]);
        let scale = Scale::percentiles(80_000);
        assert_eq!(labels(&scale), ["0 %", "90 %", "99 %", "99.9 %", "99.99 %", "99.999 %"]);
        assert_eq!(labels(&Scale::percentiles(900)), ["0 %", "50 %", "90 %", "99 %", "99.9 %"]);
        assert!(close(scale.place(10.0), 0.2) && close(scale.place(100.0), 0.4));
    }

    #[test]
    fn nothing_and_nonsense_have_an_axis_and_a_place() {
        for nonsense in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let scales = [
                Scale::from_zero(nonsense, units::short),
                Scale::time(nonsense),
                Scale::logarithmic(nonsense, nonsense, units::short),
                Scale::percentiles(0),
            ];
            for scale in scales {
                assert!(scale.from < scale.to && scale.to.is_finite() && scale.ticks().len() > 1, "{scale:?}");
                for value in [nonsense, 0.5, 1e300, -1e300] {
                    assert!((0.0..=1.0).contains(&scale.place(value)), "{value} on {scale:?}");
                }
            }
        }
    }

    fn labels(scale: &Scale) -> Vec<String> {
        scale.ticks().iter().map(|tick| tick.label.clone()).collect()
    }

    fn close(left: f64, right: f64) -> bool {
        (left - right).abs() < 1e-9
    }
}
