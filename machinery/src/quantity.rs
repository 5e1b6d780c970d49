//! Resource quantities (`resource.Quantity`): parsing, canonical text, arithmetic and comparison.
//!
//! A quantity is a count of billionths in an `i128` with the format it was written in. Upstream's rules hold:
//! finer than one billionth rounds away from zero, larger than 2^63-1 is cut to it.

use std::cmp::Ordering;
use std::fmt;

use serde_json::Value;
use thiserror::Error;

/// Billionths in one.
const NANO: i128 = 1_000_000_000;
/// Largest magnitude, in billionths.
const MAX: i128 = i64::MAX as i128 * NANO;

/// Why a text is no quantity; the texts are upstream's.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum QuantityError {
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    #[error("unable to parse quantity's suffix")]
    Suffix,
    #[error("unable to parse numeric part of quantity")]
    Numeric,
}

/// How a quantity prints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `1e3`
    DecimalExponent,
    /// `1Ki`
    BinarySi,
    /// `1k`
    #[default]
    DecimalSi,
}

/// A number of units with a format. Equality and order look at the number alone.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

impl Quantity {
    /// Zero in decimal format.
    pub const ZERO: Quantity = Quantity { nanos: 0, format: Format::DecimalSi };

    /// Reads `100m`, `1Gi`, `1e3`, `-0.5` …
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        if text == "0" {
            return Ok(Quantity::ZERO);
        }
        let (negative, rest) = match text.as_bytes().first() {
            None => return Err(QuantityError::Format),
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            Some(_) => (false, text),
        };
        let number_len = rest.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
        let (number, suffix) = rest.split_at(number_len);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if fraction.contains('.') || !suffix_is_shaped(suffix) {
            return Err(QuantityError::Format);
        }
        let (base, exponent, mut format) = suffix_value(suffix).ok_or(QuantityError::Suffix)?;
        if whole.is_empty() && fraction.is_empty() {
            return Err(QuantityError::Numeric);
        }
        let magnitude = scale(whole, fraction, base, exponent);
        if format == Format::BinarySi && magnitude > 0 && magnitude < NANO {
            format = Format::DecimalSi;
        }
        Ok(Quantity { nanos: if negative { -magnitude } else { magnitude }, format })
    }

    /// Reads a JSON value: a string or a number; null is zero.
    pub fn from_value(value: &Value) -> Result<Self, QuantityError> {
        match value {
            Value::Null => Ok(Quantity::ZERO),
            Value::String(text) => Quantity::parse(text),
            Value::Number(n) => Quantity::parse(&n.to_string()),
            _ => Err(QuantityError::Format),
        }
    }

    /// A whole number of units.
    pub fn from_i64(units: i64, format: Format) -> Self {
        Quantity { nanos: i128::from(units) * NANO, format }
    }

    /// A number of thousandths.
    pub fn from_milli(milli: i64, format: Format) -> Self {
        Quantity { nanos: i128::from(milli) * (NANO / 1000), format }
    }

    pub fn format(self) -> Format {
        self.format
    }

    pub fn is_zero(self) -> bool {
        self.nanos == 0
    }

    /// -1, 0 or 1.
    pub fn sign(self) -> i32 {
        match self.nanos.cmp(&0) {
            Ordering::Less => -1,
            Ordering::Equal => 0,
            Ordering::Greater => 1,
        }
    }

    /// Units, fractions rounded up (away from zero).
    pub fn value(self) -> i64 {
        self.scaled(NANO)
    }

    /// Thousandths, finer ones rounded up.
    pub fn milli_value(self) -> i64 {
        self.scaled(NANO / 1000)
    }

    /// The number in units of `10^exponent` (-9 to 18), rounded up; cut to the range of `i64`.
    pub fn scaled_value(self, exponent: i32) -> i64 {
        let unit = 10i128.pow(u32::try_from(exponent.clamp(-9, 18) + 9).unwrap_or(0));
        self.scaled(unit)
    }

    fn scaled(self, unit: i128) -> i64 {
        let rounded = div_away(self.nanos, unit);
        i64::try_from(rounded).unwrap_or(if rounded < 0 { i64::MIN } else { i64::MAX })
    }

    /// The number as a float, for ratios.
    pub fn as_f64(self) -> f64 {
        self.nanos as f64 / NANO as f64
    }

    /// The same number, rounded up to a multiple of `10^exponent`.
    pub fn round_up(self, exponent: i32) -> Self {
        let unit = 10i128.pow(u32::try_from(exponent.clamp(-9, 18) + 9).unwrap_or(0));
        Quantity { nanos: div_away(self.nanos, unit).saturating_mul(unit), format: self.format }
    }

    fn with(self, other: Self, nanos: i128) -> Self {
        // Zero has no opinion about the format.
        let format = if self.is_zero() { other.format } else { self.format };
        Quantity { nanos, format }
    }
}

/// Division with the remainder rounded away from zero.
fn div_away(n: i128, unit: i128) -> i128 {
    let (q, r) = (n / unit, n % unit);
    if r == 0 { q } else { q + r.signum() }
}

/// `[eEinumkKMGTP]*[-+]?[0-9]*`
fn suffix_is_shaped(suffix: &str) -> bool {
    let rest = suffix.trim_start_matches(|c| "eEinumkKMGTP".contains(c));
    let rest = rest.strip_prefix(['-', '+']).unwrap_or(rest);
    rest.bytes().all(|b| b.is_ascii_digit())
}

/// Base, exponent and format of a suffix.
fn suffix_value(suffix: &str) -> Option<(u32, i32, Format)> {
    let decimal = |e| Some((10, e, Format::DecimalSi));
    let binary = |e| Some((2, e, Format::BinarySi));
    match suffix {
        "" => decimal(0),
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E'])?.parse::<i64>().ok()?;
            // Beyond this every number is zero or the maximum.
            Some((10, i32::try_from(exponent.clamp(-1000, 1000)).ok()?, Format::DecimalExponent))
        }
    }
}

/// Billionths of `whole.fraction * base^exponent`, rounded up, cut to the maximum.
fn scale(whole: &str, fraction: &str, base: u32, exponent: i32) -> i128 {
    let digits = || whole.bytes().chain(fraction.bytes()).map(|b| i128::from(b - b'0'));
    let mut significand: i128 = 0;
    let mut dropped = 0i32;
    let mut inexact = false;
    for digit in digits() {
        if significand > MAX / 10 {
            // More digits than matter: remember their magnitude and whether any was not zero.
            dropped += 1;
            inexact |= digit != 0;
        } else {
            significand = significand * 10 + digit;
        }
    }
    if significand == 0 {
        return 0;
    }
    let fraction_len = i32::try_from(fraction.len()).unwrap_or(i32::MAX);
    let mut decimal = dropped.saturating_sub(fraction_len).saturating_add(9);
    if base == 10 {
        decimal = decimal.saturating_add(exponent);
    } else {
        for _ in 0..exponent {
            // Two and five keep the value exact until it no longer fits.
            match significand.checked_mul(2) {
                Some(doubled) => significand = doubled,
                None => return MAX,
            }
        }
    }
    for _ in 0..decimal.min(64) {
        significand = match significand.checked_mul(10) {
            Some(scaled) => scaled,
            None => return MAX,
        };
    }
    for _ in decimal.max(-64)..0 {
        inexact |= significand % 10 != 0;
        significand /= 10;
    }
    (significand + i128::from(inexact)).min(MAX)
}

impl fmt::Display for Quantity {
    /// The canonical form: the largest suffix that leaves a whole number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let small = self.nanos.abs() < 1024 * NANO;
        if self.format == Format::BinarySi && !small && self.nanos % NANO == 0 {
            return write_binary(f, self.nanos / NANO);
        }
        let (mut mantissa, mut exponent) = (self.nanos, -9);
        while mantissa % 1000 == 0 {
            mantissa /= 1000;
            exponent += 3;
        }
        if self.format == Format::DecimalExponent {
            return if exponent == 0 { write!(f, "{mantissa}") } else { write!(f, "{mantissa}e{exponent}") };
        }
        while exponent > 18 {
            mantissa *= 1000;
            exponent -= 3;
        }
        const SUFFIXES: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
        let index = usize::try_from((exponent + 9) / 3).unwrap_or(3);
        write!(f, "{mantissa}{}", SUFFIXES[index.min(9)])
    }
}

fn write_binary(f: &mut fmt::Formatter<'_>, units: i128) -> fmt::Result {
    const SUFFIXES: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let (mut mantissa, mut index) = (units, 0);
    while mantissa % 1024 == 0 && index < 6 {
        mantissa /= 1024;
        index += 1;
    }
    write!(f, "{mantissa}{}", SUFFIXES[index])
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl std::hash::Hash for Quantity {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.nanos.hash(state);
    }
}

impl std::ops::Add for Quantity {
    type Output = Quantity;
    fn add(self, other: Self) -> Self {
        self.with(other, self.nanos.saturating_add(other.nanos))
    }
}

impl std::ops::AddAssign for Quantity {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl std::ops::Sub for Quantity {
    type Output = Quantity;
    fn sub(self, other: Self) -> Self {
        self.with(other, self.nanos.saturating_sub(other.nanos))
    }
}

impl std::ops::SubAssign for Quantity {
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}

impl std::ops::Neg for Quantity {
    type Output = Quantity;
    fn neg(self) -> Self {
        Quantity { nanos: -self.nanos, format: self.format }
    }
}

impl std::ops::Mul<i64> for Quantity {
    type Output = Quantity;
    fn mul(self, factor: i64) -> Self {
        Quantity { nanos: self.nanos.saturating_mul(i128::from(factor)), format: self.format }
    }
}

impl std::str::FromStr for Quantity {
    type Err = QuantityError;
    fn from_str(text: &str) -> Result<Self, QuantityError> {
        Quantity::parse(text)
    }
}

impl From<Quantity> for Value {
    fn from(q: Quantity) -> Value {
        Value::String(q.to_string())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn canonical_texts() {
        for (text, canonical) in [
            ("0", "0"),
            ("0.0", "0"),
            ("0Mi", "0"),
            ("100m", "100m"),
            ("1000m", "1"),
            ("0.1", "100m"),
            ("1024", "1024"),
            ("1024Ki", "1Mi"),
            ("1500Mi", "1500Mi"),
            ("0.5Gi", "512Mi"),
            ("0.5Ki", "512"),
            ("0.5", "500m"),
            ("1.5", "1500m"),
            ("1e3", "1e3"),
            ("1000e0", "1e3"),
            ("12e4", "120e3"),
            ("1E", "1E"),
            ("1000k", "1M"),
            ("+1", "1"),
            ("-1Ki", "-1Ki"),
            ("1n", "1n"),
            ("0.1n", "1n"),
            ("-0.1n", "-1n"),
            (".5", "500m"),
            ("5.", "5"),
            ("0.01Ki", "10240m"),
            ("1.1Ki", "1126400m"),
            ("9223372036854775807", "9223372036854775807"),
            ("9999999999999999999999", "9223372036854775807"),
        ] {
            assert_eq!(Quantity::parse(text).unwrap().to_string(), canonical, "{text}");
        }
    }

    #[test]
    fn bad_texts() {
        for (text, error) in [
            ("", QuantityError::Format),
            ("a", QuantityError::Format),
            ("1.1.1", QuantityError::Format),
            ("1 Mi", QuantityError::Format),
            ("1mi", QuantityError::Suffix),
            ("1kk", QuantityError::Suffix),
            ("1e", QuantityError::Suffix),
            (".", QuantityError::Numeric),
            ("Mi", QuantityError::Numeric),
        ] {
            assert_eq!(Quantity::parse(text).map(|q| q.to_string()), Err(error), "{text}");
        }
    }

    #[test]
    fn arithmetic() {
        let q = |t: &str| Quantity::parse(t).unwrap();
        assert_eq!((q("1Gi") + q("1Mi")).to_string(), "1025Mi");
        assert_eq!((q("0") + q("1Gi")).to_string(), "1Gi");
        assert_eq!((q("1") - q("100m")).to_string(), "900m");
        assert_eq!((q("100m").value(), q("100m").milli_value(), q("-1500m").value()), (1, 100, -2));
        assert!(q("1024Mi") == q("1Gi") && q("1") < q("1001m"));
        assert_eq!(q("1234m").round_up(0).to_string(), "2");
    }

    proptest! {
        #[test]
        fn never_panics_and_round_trips(text in "[+-]?[0-9.]{0,30}[eEinumkKMGTP]{0,2}[-+]?[0-9]{0,4}") {
            if let Ok(q) = Quantity::parse(&text) {
                let again = Quantity::parse(&q.to_string()).unwrap();
                prop_assert_eq!(q, again);
                prop_assert_eq!(q.to_string(), again.to_string());
            }
        }
    }
}
