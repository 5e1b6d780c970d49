//! Times as the API writes them: RFC 3339 with seconds (`Time`) or microseconds (`MicroTime`), always UTC.
//!
//! [`duration`] holds Go's duration texts and the ages of tables. No clock: the caller brings the time.

pub mod duration;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::Offset;

const LAYOUT: &str = "2006-01-02T15:04:05Z07:00";
const MICRO_LAYOUT: &str = "2006-01-02T15:04:05.000000Z07:00";

/// `2026-01-02T03:04:05Z`
pub fn format_time(t: Timestamp) -> String {
    let seconds = Timestamp::from_second(t.as_second()).unwrap_or(t);
    let floor =
        if t.subsec_nanosecond() < 0 { seconds - jiff::SignedDuration::from_secs(1) } else { seconds };
    format!("{}Z", Offset::UTC.to_datetime(floor).strftime("%Y-%m-%dT%H:%M:%S"))
}

/// `2026-01-02T03:04:05.000006Z`
pub fn format_micro(t: Timestamp) -> String {
    format!("{}Z", Offset::UTC.to_datetime(t).strftime("%Y-%m-%dT%H:%M:%S.%6f"))
}

/// Reads an RFC 3339 time as Go does; the error is Go's text.
pub fn parse_rfc3339(text: &str) -> Result<Timestamp, String> {
    parse(text, LAYOUT, false)
}

/// As [`parse_rfc3339`] with exactly six digits after the seconds.
pub fn parse_micro(text: &str) -> Result<Timestamp, String> {
    parse(text, MICRO_LAYOUT, true)
}

/// Walks the text element by element, so that the error can name the first that does not fit.
struct Scanner<'a> {
    whole: &'a str,
    rest: &'a str,
    layout: &'static str,
}

impl Scanner<'_> {
    fn fail(&self, element: &str) -> String {
        let quote = crate::gotext::quote;
        let (whole, layout) = (quote(self.whole), quote(self.layout));
        format!("parsing time {whole} as {layout}: cannot parse {} as {}", quote(self.rest), quote(element))
    }

    fn out_of_range(&self, what: &str) -> String {
        format!("parsing time {}: {what} out of range", crate::gotext::quote(self.whole))
    }

    fn digits(&mut self, len: usize, element: &str) -> Result<i64, String> {
        match self.rest.get(..len) {
            Some(head) if head.bytes().all(|b| b.is_ascii_digit()) => {
                self.rest = &self.rest[len..];
                head.parse().map_err(|_| self.fail(element))
            }
            _ => Err(self.fail(element)),
        }
    }

    fn literal(&mut self, literal: &str) -> Result<(), String> {
        self.rest = self.rest.strip_prefix(literal).ok_or_else(|| self.fail(literal))?;
        Ok(())
    }

    /// The fraction in nanoseconds; optional unless exactly six digits are asked for.
    fn fraction(&mut self, six: bool) -> Result<i64, String> {
        let Some(rest) = self.rest.strip_prefix(['.', ',']) else {
            return if six { Err(self.fail(".000000")) } else { Ok(0) };
        };
        let len = rest.bytes().take_while(u8::is_ascii_digit).count();
        if len == 0 || (six && len != 6) {
            return if six { Err(self.fail(".000000")) } else { Ok(0) };
        }
        let nanos = rest.bytes().take(9.min(len)).fold(0i64, |n, b| n * 10 + i64::from(b - b'0'));
        self.rest = &rest[len..];
        Ok(nanos * 10i64.pow(u32::try_from(9usize.saturating_sub(len)).unwrap_or(0)))
    }

    /// The offset in seconds east of UTC.
    fn offset(&mut self) -> Result<i64, String> {
        if let Some(rest) = self.rest.strip_prefix('Z') {
            self.rest = rest;
            return Ok(0);
        }
        let bytes = self.rest.as_bytes();
        let digit = |i: usize| bytes.get(i).filter(|b| b.is_ascii_digit()).map(|b| i64::from(b - b'0'));
        let sign = match bytes.first() {
            Some(b'+') => 1,
            Some(b'-') => -1,
            _ => return Err(self.fail("Z07:00")),
        };
        match (digit(1), digit(2), bytes.get(3), digit(4), digit(5)) {
            (Some(a), Some(b), Some(b':'), Some(c), Some(d)) => {
                let (hours, minutes) = (a * 10 + b, c * 10 + d);
                if hours > 24 || minutes > 60 {
                    let what = if hours > 24 { "time zone offset hour" } else { "time zone offset minute" };
                    return Err(self.out_of_range(what));
                }
                self.rest = &self.rest[6..];
                Ok(sign * (hours * 3600 + minutes * 60))
            }
            _ => Err(self.fail("Z07:00")),
        }
    }
}

fn parse(text: &str, layout: &'static str, six: bool) -> Result<Timestamp, String> {
    let mut s = Scanner { whole: text, rest: text, layout };
    let year = s.digits(4, "2006")?;
    s.literal("-")?;
    let month = s.digits(2, "01")?;
    in_range(&s, month, 1, 12, "month")?;
    s.literal("-")?;
    let day = s.digits(2, "02")?;
    s.literal("T")?;
    let hour = s.digits(2, "15")?;
    in_range(&s, hour, 0, 23, "hour")?;
    s.literal(":")?;
    let minute = s.digits(2, "04")?;
    in_range(&s, minute, 0, 59, "minute")?;
    s.literal(":")?;
    let second = s.digits(2, "05")?;
    in_range(&s, second, 0, 59, "second")?;
    let nanos = s.fraction(six)?;
    let offset = s.offset()?;
    if !s.rest.is_empty() {
        let rest = crate::gotext::quote(s.rest);
        return Err(format!("parsing time {}: extra text: {rest}", crate::gotext::quote(text)));
    }
    let small = |n: i64| i8::try_from(n).unwrap_or(-1);
    let civil = DateTime::new(
        i16::try_from(year).unwrap_or(0),
        small(month),
        small(day),
        small(hour),
        small(minute),
        small(second),
        i32::try_from(nanos).unwrap_or(0),
    )
    .map_err(|_| s.out_of_range("day"))?;
    let utc = Offset::UTC.to_timestamp(civil).map_err(|_| s.out_of_range("year"))?;
    utc.checked_sub(jiff::SignedDuration::from_secs(offset)).map_err(|_| s.out_of_range("year"))
}

fn in_range(s: &Scanner<'_>, n: i64, lo: i64, hi: i64, what: &str) -> Result<(), String> {
    if (lo..=hi).contains(&n) { Ok(()) } else { Err(s.out_of_range(what)) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_and_writes() {
        for (text, canonical) in [
            ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05Z"),
            ("2026-01-02T03:04:05+02:00", "2026-01-02T01:04:05Z"),
            ("2026-01-02T03:04:05.999Z", "2026-01-02T03:04:05Z"),
            ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"),
        ] {
            assert_eq!(parse_rfc3339(text).map(format_time), Ok(canonical.to_owned()));
        }
        assert_eq!(
            parse_micro("2026-01-02T03:04:05.000006Z").map(format_micro),
            Ok("2026-01-02T03:04:05.000006Z".to_owned())
        );
    }

    #[test]
    fn errors_are_go_s() {
        for (text, error) in [
            ("abc", r#"parsing time "abc" as "2006-01-02T15:04:05Z07:00": cannot parse "abc" as "2006""#),
            ("", r#"parsing time "" as "2006-01-02T15:04:05Z07:00": cannot parse "" as "2006""#),
            ("2026-13-02T03:04:05Z", r#"parsing time "2026-13-02T03:04:05Z": month out of range"#),
            (
                "2026-01-02 03:04:05Z",
                r#"parsing time "2026-01-02 03:04:05Z" as "2006-01-02T15:04:05Z07:00": cannot parse " 03:04:05Z" as "T""#,
            ),
            ("2026-01-02T03:04:05Zx", r#"parsing time "2026-01-02T03:04:05Zx": extra text: "x""#),
        ] {
            assert_eq!(parse_rfc3339(text), Err(error.to_owned()));
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,40}") {
            let _ = parse_rfc3339(&text);
            let _ = parse_micro(&text);
        }

        #[test]
        fn round_trips(seconds in -62_135_596_800i64..253_402_300_799, micros in 0i32..1_000_000) {
            let t = Timestamp::new(seconds, micros * 1000).unwrap_or(Timestamp::UNIX_EPOCH);
            prop_assert_eq!(parse_micro(&format_micro(t)), Ok(t));
        }
    }
}
