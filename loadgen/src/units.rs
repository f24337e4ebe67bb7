//! Numbers as people read them: three significant digits and a unit.

/// A count or a rate: `0`, `12.5`, `982`, `98.2 k`, `4.1 M`.
pub(crate) fn short(value: f64) -> String {
    scaled(value, &[(1e9, " G"), (1e6, " M"), (1e3, " k"), (1.0, "")])
}

/// A time given in milliseconds: `0.25 ms`, `12.3 ms`, `1.5 s`.
pub(crate) fn duration(ms: f64) -> String {
    scaled(ms, &[(1e3, " s"), (1.0, " ms")])
}

/// A size: `880 B`, `24.1 MB`.
pub(crate) fn bytes(value: f64) -> String {
    scaled(value, &[(1e9, " GB"), (1e6, " MB"), (1e3, " kB"), (1.0, " B")])
}

/// A whole number with its thousands apart: `4,102,330`.
pub(crate) fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (place, digit) in digits.char_indices() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// By the largest unit that leaves at least 1, after rounding.
fn scaled(value: f64, units: &[(f64, &str)]) -> String {
    if !value.is_finite() {
        return "-".to_owned();
    }
    let fits = |unit: f64| round(value / unit).abs() >= 1.0;
    let (unit, name) = units.iter().copied().find(|&(unit, _)| fits(unit)).or(units.last().copied()).unwrap_or((1.0, ""));
    format!("{}{name}", round(value / unit))
}

/// To three significant digits, and three decimals at most.
fn round(value: f64) -> f64 {
    let decimals: i32 = match value.abs() {
        size if size >= 99.95 => 0,
        size if size >= 9.995 => 1,
        size if size >= 0.9995 => 2,
        _ => 3,
    };
    let factor = 10f64.powi(decimals);
    // Adding 0 turns a negative zero into a plain one.
    (value * factor).round() / factor + 0.0
}

#[cfg(test)]
mod tests {
    use super::{bytes, duration, grouped, short};

    #[test]
    fn three_digits_are_kept_and_no_unit_reads_a_thousand() {
        let cases = [(0.0, "0"), (7.0, "7"), (12.54, "12.5"), (999.4, "999"), (999.6, "1 k"), (98_231.0, "98.2 k"), (4_102_330.0, "4.1 M")];
        for (value, text) in cases {
            assert_eq!(short(value), text);
        }
        assert_eq!((duration(0.2509), duration(12.0), duration(1_500.0)), ("0.251 ms".to_owned(), "12 ms".to_owned(), "1.5 s".to_owned()));
        assert_eq!((bytes(880.0), bytes(24_117_248.0)), ("880 B".to_owned(), "24.1 MB".to_owned()));
    }

    #[test]
    fn what_is_no_number_is_not_written_as_one() {
        assert_eq!((short(f64::NAN), duration(f64::INFINITY), short(-0.0)), ("-".to_owned(), "-".to_owned(), "0".to_owned()));
    }

    #[test]
    fn thousands_stand_apart() {
        assert_eq!([0, 999, 1_000, 4_102_330].map(grouped), ["0", "999", "1,000", "4,102,330"]);
    }
}
