//! Durations as Go writes them: `100ms`, `1h30m`, `5s`.

use std::time::Duration;

/// Units and their nanoseconds, longest names first where one begins another.
const UNITS: &[(&str, f64)] =
    &[("ns", 1.0), ("us", 1e3), ("µs", 1e3), ("ms", 1e6), ("s", 1e9), ("m", 60e9), ("h", 3600e9)];

/// Reads a duration; the error says what is wrong with it. One below nothing is refused.
pub fn parse(text: &str) -> Result<Duration, String> {
    let nanos = nanos(text)?;
    let nanos = u64::try_from(nanos).map_err(|_| format!("{text:?} is a negative duration"))?;
    Ok(Duration::from_nanos(nanos))
}

/// Reads a duration that may be negative, as nanoseconds.
pub fn nanos(text: &str) -> Result<i64, String> {
    match text.strip_prefix('-') {
        Some(rest) => unsigned_nanos(rest).map(|nanos| -nanos),
        None => unsigned_nanos(text.strip_prefix('+').unwrap_or(text)),
    }
    .map_err(|()| format!("{text:?} is no duration such as 100ms or 1h30m"))
}

fn unsigned_nanos(text: &str) -> Result<i64, ()> {
    let bad = || ();
    if text == "0" {
        return Ok(0);
    }
    let mut rest = text;
    let mut nanos = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.').ok_or_else(bad)?;
        let number: f64 = rest[..digits].parse().map_err(|_| bad())?;
        rest = &rest[digits..];
        let name = rest.find(|letter: char| letter.is_ascii_digit()).unwrap_or(rest.len());
        let (_, unit) = UNITS.iter().find(|(known, _)| *known == &rest[..name]).ok_or_else(bad)?;
        nanos += number * unit;
        rest = &rest[name..];
    }
    if text.is_empty() || nanos > i64::MAX as f64 { Err(()) } else { Ok(nanos as i64) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_go_writes() {
        let cases = [
            ("0", Some(0)),
            ("0s", Some(0)),
            ("100ms", Some(100)),
            ("1h30m", Some(5_400_000)),
            ("1.5s", Some(1_500)),
            ("10m0s", Some(600_000)),
            ("", None),
            ("5", None),
            ("5x", None),
            ("ms", None),
            ("-", None),
            ("-1s", None),
            ("--1s", None),
            ("+1s", Some(1_000)),
            ("9999999h", None),
        ];
        for (text, millis) in cases {
            assert_eq!(parse(text).ok(), millis.map(Duration::from_millis), "{text:?}");
        }
        assert_eq!(nanos("-1m0.5s"), Ok(-60_500_000_000));
    }
}
