//! Rules for single strings and numbers.

use serde_json::Value;

use super::{at, body};
use crate::schema::{Checks, formats};
use crate::status::FieldError;

/// Checks a string or number; other values have no such rules.
pub(super) fn check(checks: &Checks, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    match value {
        Value::String(text) => string(checks, text, path, errors),
        Value::Number(n) => number(checks, n.as_f64().unwrap_or(0.0), value, path, errors),
        _ => {}
    }
}

fn string(checks: &Checks, text: &str, path: &str, errors: &mut Vec<FieldError>) {
    let len = text.chars().count() as u64;
    // The first of the three that fails is the one that is reported.
    if let Some(max) = checks.max_length.filter(|max| len > *max) {
        errors.push(FieldError::too_long(&at(path), "", usize::try_from(max).unwrap_or(usize::MAX)));
    } else if let Some(min) = checks.min_length.filter(|min| len < *min) {
        let why = format!("{} should be at least {min} chars long", body(path));
        errors.push(FieldError::invalid(&at(path), text, why));
    } else if let Some(pattern) = checks.pattern.as_ref().filter(|p| !p.regex.is_match(text)) {
        let why = format!("{} should match '{}'", body(path), pattern.source);
        errors.push(FieldError::invalid(&at(path), text, why));
    }
    if !checks.format.is_empty() && !formats::is_valid(&checks.format, text) {
        let shown = crate::gotext::quote(text);
        let why = format!("{} must be of type {}: {shown}", body(path), checks.format);
        errors.push(FieldError::type_invalid(&at(path), text, why));
    }
}

fn number(checks: &Checks, n: f64, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let mut complain = |text: String| {
        errors.push(FieldError::invalid(&at(path), value.clone(), format!("{} {text}", body(path))));
    };
    if let Some(factor) = checks.multiple_of.filter(|f| *f > 0.0) {
        let quotient = n / factor;
        if (quotient - quotient.round()).abs() > f64::EPSILON * quotient.abs().max(1.0) {
            complain(format!("should be a multiple of {}", go_float(factor)));
        }
    }
    if let Some(max) = checks.maximum {
        if checks.exclusive_maximum && n >= max {
            complain(format!("should be less than {}", go_float(max)));
        } else if !checks.exclusive_maximum && n > max {
            complain(format!("should be less than or equal to {}", go_float(max)));
        }
    }
    if let Some(min) = checks.minimum {
        if checks.exclusive_minimum && n <= min {
            complain(format!("should be greater than {}", go_float(min)));
        } else if !checks.exclusive_minimum && n < min {
            complain(format!("should be greater than or equal to {}", go_float(min)));
        }
    }
}

/// A float as Go's `%v` prints it: the shortest digits, with an exponent from 21 digits or below 1e-4 on.
fn go_float(n: f64) -> String {
    let magnitude = n.abs();
    if n == 0.0 || (1e-4..1e21).contains(&magnitude) {
        return n.to_string();
    }
    let text = format!("{n:e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |d| ('-', d));
    format!("{mantissa}e{sign}{digits:0>2}")
}

#[cfg(test)]
mod tests {
    use super::go_float;

    #[test]
    fn floats() {
        for (n, text) in [(1.0, "1"), (0.5, "0.5"), (1e21, "1e+21"), (1e-5, "1e-05"), (-2.25, "-2.25")] {
            assert_eq!(go_float(n), text);
        }
    }
}
