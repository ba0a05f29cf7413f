//! Durations as people write them.

use std::time::Duration;

/// The units, and their nanoseconds. `ms` is before `m` and `s`, with which it ends.
const UNITS: [(&str, u64); 6] = [
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
    ("d", 86_400_000_000_000),
];

/// Parses `5s`, `300ms`, `1.5m`. A number without a unit is in seconds.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.');
    let (number, unit) = text.split_at(digits.unwrap_or(text.len()));
    let wrong = || format!("`{text}` is no time; examples are 5s, 300ms and 2m");
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let unit = if unit.is_empty() { "s" } else { unit };
    let (_, nanos) = UNITS
        .iter()
        .find(|(name, _)| *name == unit)
        .ok_or_else(wrong)?;
    Duration::try_from_secs_f64(number * (*nanos as f64) / 1e9).map_err(|_| wrong())
}

/// A duration with three digits: `1.23 ms`.
pub(crate) fn show(duration: Duration) -> String {
    let nanos = duration.as_nanos() as f64;
    let (value, unit) = match duration.as_nanos() {
        0..1_000 => (nanos, "ns"),
        1_000..1_000_000 => (nanos / 1e3, "us"),
        1_000_000..1_000_000_000 => (nanos / 1e6, "ms"),
        1_000_000_000..60_000_000_000 => (nanos / 1e9, "s"),
        60_000_000_000..3_600_000_000_000 => (nanos / 60e9, "min"),
        _ => (nanos / 3600e9, "h"),
    };
    let digits = match value {
        ..10.0 => 2,
        ..100.0 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_read_with_its_unit() {
        assert_eq!(parse("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(parse("300ms"), Ok(Duration::from_millis(300)));
        assert_eq!(parse("1.5m"), Ok(Duration::from_secs(90)));
        assert_eq!(parse("2"), Ok(Duration::from_secs(2)));
        for wrong in ["", "s", "5 s", "-1s", "5x", "1e99", "1.2.3s"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        assert!(parse("99999999999999999999d").is_err());
    }

    #[test]
    fn a_duration_is_shown_with_three_digits() {
        assert_eq!(show(Duration::from_micros(1_234)), "1.23 ms");
        assert_eq!(show(Duration::from_micros(12_345)), "12.3 ms");
        assert_eq!(show(Duration::from_micros(123_456)), "123 ms");
        assert_eq!(show(Duration::from_secs(90)), "1.50 min");
    }
}
