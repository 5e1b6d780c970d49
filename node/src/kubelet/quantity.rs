//! Amounts of resources as numbers: the API's quantities (`100m`, `1Gi`, `1e3`) in billionths of a unit.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Billionths in one unit.
pub const NANO: i128 = 1_000_000_000;

const SUFFIXES: &[(&str, i128)] = &[
    ("Ki", NANO << 10),
    ("Mi", NANO << 20),
    ("Gi", NANO << 30),
    ("Ti", NANO << 40),
    ("Pi", NANO << 50),
    ("Ei", NANO << 60),
    ("n", 1),
    ("u", 1_000),
    ("m", 1_000_000),
    ("k", NANO * 1_000),
    ("M", NANO * 1_000_000),
    ("G", NANO * NANO),
    ("T", NANO * NANO * 1_000),
    ("P", NANO * NANO * 1_000_000),
    ("E", NANO * NANO * NANO),
];

/// The amount in billionths, rounded up; 0 for text that is no quantity (the API server has checked it).
pub fn nano(quantity: &Quantity) -> i128 {
    parse_nano(&quantity.0).unwrap_or(0)
}

/// Parses a quantity; `None` if it is none.
pub fn parse_nano(text: &str) -> Option<i128> {
    let text = text.trim();
    if let Some((mantissa, exponent)) = text.split_once(['e', 'E']).filter(|(_, e)| !e.is_empty()) {
        let exponent: i32 = exponent.parse().ok()?;
        return scaled(
            mantissa,
            if exponent >= 0 {
                NANO.checked_mul(10_i128.checked_pow(exponent as u32)?)?
            } else {
                NANO / 10_i128.checked_pow(exponent.unsigned_abs())?
            },
        );
    }
    match SUFFIXES.iter().find(|(suffix, _)| text.ends_with(suffix)) {
        Some((suffix, factor)) => scaled(&text[..text.len() - suffix.len()], *factor),
        None => scaled(text, NANO),
    }
}

fn scaled(number: &str, factor: i128) -> Option<i128> {
    let negative = number.starts_with('-');
    let digits = number.trim_start_matches(['-', '+']);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let all: i128 = format!("{whole}{fraction}").parse().ok()?;
    let divisor = 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let product = all.checked_mul(factor)?;
    let value = product / divisor + i128::from(product % divisor != 0);
    Some(if negative { -value } else { value })
}

/// Whole units, rounded up (bytes, pods).
pub fn units(quantity: &Quantity) -> i64 {
    clamp_div(nano(quantity), NANO)
}

/// Thousandths, rounded up (CPU).
pub fn milli(quantity: &Quantity) -> i64 {
    clamp_div(nano(quantity), 1_000_000)
}

fn clamp_div(value: i128, by: i128) -> i64 {
    let rounded = value / by + i128::from(value % by > 0);
    i64::try_from(rounded).unwrap_or(if rounded > 0 { i64::MAX } else { i64::MIN })
}

/// Bytes in the form the API uses for memory and disks (`1024Ki`).
pub fn from_bytes(bytes: u64) -> Quantity {
    if bytes.is_multiple_of(1024) {
        Quantity(format!("{}Ki", bytes / 1024))
    } else {
        Quantity(bytes.to_string())
    }
}

/// Bytes in the largest binary unit that shows them exactly, as Go prints an amount in messages.
pub fn exact_bytes(bytes: u64) -> String {
    let units = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let mut power = 0;
    let mut rest = bytes;
    while rest > 0 && rest.is_multiple_of(1024) && power + 1 < units.len() {
        rest /= 1024;
        power += 1;
    }
    format!("{rest}{}", units[power])
}

/// Thousandths of a CPU in their shortest form.
pub fn from_milli(milli: i64) -> Quantity {
    if milli % 1000 == 0 { Quantity((milli / 1000).to_string()) } else { Quantity(format!("{milli}m")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_amounts_use_the_largest_unit() {
        for (bytes, text) in [
            (0, "0"),
            (1000, "1000"),
            (1024, "1Ki"),
            (5 << 20, "5Mi"),
            (1536 << 20, "1536Mi"),
            (1 << 40, "1Ti"),
        ] {
            assert_eq!(exact_bytes(bytes), text);
        }
    }

    #[test]
    fn parses_every_form() {
        let cases = [
            ("1", Some(NANO)),
            ("100m", Some(NANO / 10)),
            ("0.5", Some(NANO / 2)),
            (".5", Some(NANO / 2)),
            ("1Ki", Some(NANO * 1024)),
            ("1.5Gi", Some(NANO * 1536 * 1024 * 1024)),
            ("1e3", Some(NANO * 1000)),
            ("1E", Some(NANO * NANO * NANO)),
            ("12E2", Some(NANO * 1200)),
            ("-2", Some(-2 * NANO)),
            ("", None),
            ("abc", None),
            ("Mi", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_nano(text), expected, "{text}");
        }
        assert_eq!(milli(&Quantity("1.0005".into())), 1001);
        assert_eq!(units(&Quantity("1500m".into())), 2);
        assert_eq!(from_bytes(2048).0, "2Ki");
        assert_eq!(from_milli(1500).0, "1500m");
    }
}
