//! The string formats that custom types may ask for, by the rules of the OpenAPI library upstream uses.

use std::sync::OnceLock;

use regex::Regex;

/// Names of the formats that are checked, dashes left out.
const KNOWN: [&str; 26] = [
    "bsonobjectid",
    "uri",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "cidr",
    "mac",
    "uuid",
    "uuid3",
    "uuid4",
    "uuid5",
    "isbn",
    "isbn10",
    "isbn13",
    "creditcard",
    "ssn",
    "hexcolor",
    "rgbcolor",
    "byte",
    "password",
    "date",
    "duration",
    "datetime",
    "k8sshortname",
    "k8slongname",
];

/// The format if it means something for the type, otherwise empty (unknown formats are ignored).
pub fn supported<'a>(type_name: &str, format: &'a str) -> &'a str {
    let normal = format.replace('-', "");
    let known = match type_name {
        "" | "string" => KNOWN.contains(&normal.as_str()),
        "integer" => matches!(format, "int32" | "int64"),
        "number" => matches!(format, "float" | "double"),
        _ => false,
    };
    if known { format } else { "" }
}

/// Whether the text has the format; formats that are not checked accept everything.
pub fn is_valid(format: &str, text: &str) -> bool {
    match format.replace('-', "").as_str() {
        "datetime" => is_date_time(text),
        "date" => text.parse::<jiff::civil::Date>().is_ok() && text.len() == 10,
        "byte" => is_base64(text),
        "duration" => crate::time::duration::parse(text).is_ok() || matches(DURATION, text),
        "ipv4" => text.parse::<std::net::Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<std::net::Ipv6Addr>().is_ok(),
        "cidr" => text.parse::<ipnet::IpNet>().is_ok(),
        "mac" => matches(MAC, text),
        "uuid" => matches(UUID, text),
        "uuid3" => matches(UUID, text) && version_digit(text) == Some('3'),
        "uuid4" => matches(UUID, text) && version_digit(text) == Some('4'),
        "uuid5" => matches(UUID, text) && version_digit(text) == Some('5'),
        "hostname" => is_hostname(text),
        "email" => matches(EMAIL, text),
        "uri" => matches(URI, text),
        "hexcolor" => matches(HEX_COLOR, text),
        "rgbcolor" => matches(RGB_COLOR, text),
        "ssn" => matches(SSN, text),
        "bsonobjectid" => text.len() == 24 && text.bytes().all(|b| b.is_ascii_hexdigit()),
        "creditcard" => is_credit_card(text),
        "isbn10" => is_isbn10(text),
        "isbn13" => is_isbn13(text),
        "isbn" => is_isbn10(text) || is_isbn13(text),
        "k8sshortname" => crate::names::dns1123_label(text).is_empty(),
        "k8slongname" => crate::names::dns1123_subdomain(text).is_empty(),
        _ => true,
    }
}

const MAC: usize = 0;
const UUID: usize = 1;
const EMAIL: usize = 2;
const URI: usize = 3;
const HEX_COLOR: usize = 4;
const RGB_COLOR: usize = 5;
const SSN: usize = 6;
const DURATION: usize = 7;
const CREDIT_CARD: usize = 8;

const PATTERNS: [&str; 9] = [
    r"^(?i)[0-9a-f]{2}([:-][0-9a-f]{2}){5}([:-][0-9a-f]{2}[:-][0-9a-f]{2})?$|^(?i)[0-9a-f]{4}(\.[0-9a-f]{4}){2,3}$",
    r"^(?i)[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}$",
    r#"^("[^"]+"|[^\s@<>,;:"\[\]()]+)@[^\s@<>,;:"()]+$"#,
    r"^([A-Za-z][A-Za-z0-9+.-]*:[^\s]*|/[^\s]*)$",
    r"^#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})$",
    r"^rgb\(\s*(0|[1-9][0-9]?|1[0-9][0-9]?|2[0-4][0-9]|25[0-5])\s*,\s*(0|[1-9][0-9]?|1[0-9][0-9]?|2[0-4][0-9]|25[0-5])\s*,\s*(0|[1-9][0-9]?|1[0-9][0-9]?|2[0-4][0-9]|25[0-5])\s*\)$",
    r"^[0-9]{3}[- ]?[0-9]{2}[- ]?[0-9]{4}$",
    r"^([0-9]+\s*(ns|nano|nanos|nanosecond|nanoseconds|us|µs|micro|micros|microsecond|microseconds|ms|milli|millis|millisecond|milliseconds|s|sec|secs|second|seconds|m|min|mins|minute|minutes|h|hr|hrs|hour|hours|d|day|days|w|wk|wks|week|weeks)\s*)+$",
    r"^(?:4[0-9]{12}(?:[0-9]{3})?|5[1-5][0-9]{14}|6(?:011|5[0-9][0-9])[0-9]{12}|3[47][0-9]{13}|3(?:0[0-5]|[68][0-9])[0-9]{11}|(?:2131|1800|35[0-9]{3})[0-9]{11})$",
];

fn matches(index: usize, text: &str) -> bool {
    static COMPILED: [OnceLock<Option<Regex>>; PATTERNS.len()] = [const { OnceLock::new() }; PATTERNS.len()];
    let compiled = COMPILED[index].get_or_init(|| Regex::new(PATTERNS[index]).ok());
    compiled.as_ref().is_some_and(|r| r.is_match(text))
}

fn is_date_time(text: &str) -> bool {
    // Upstream also takes a space or a lower-case t, and leaves out the zone; a plain RFC 3339 time is the norm.
    let normal = text.replacen(['t', ' '], "T", 1).replace('z', "Z");
    crate::time::parse_rfc3339(&normal).is_ok()
}

fn is_base64(text: &str) -> bool {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.decode(text).is_ok()
}

fn version_digit(text: &str) -> Option<char> {
    text.chars().filter(|c| *c != '-').nth(12)
}

fn is_hostname(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    !text.is_empty()
        && text.len() <= 255
        && text.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.chars().all(|c| c.is_alphanumeric() || c == '-' || c == '_')
        })
}

fn is_credit_card(text: &str) -> bool {
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    if !matches(CREDIT_CARD, &digits) {
        return false;
    }
    let luhn = digits.bytes().rev().enumerate().map(|(i, b)| {
        let d = u32::from(b - b'0') * if i % 2 == 1 { 2 } else { 1 };
        d / 10 + d % 10
    });
    luhn.sum::<u32>() % 10 == 0
}

fn is_isbn10(text: &str) -> bool {
    let digits: Vec<char> = text.chars().filter(|c| *c != '-' && *c != ' ').collect();
    let value = |(i, c): (usize, &char)| match c {
        'X' | 'x' if i == 9 => Some(10),
        c => c.to_digit(10),
    };
    digits.len() == 10
        && digits
            .iter()
            .enumerate()
            .map(|p| value(p).map(|d| d * u32::try_from(10 - p.0).unwrap_or(0)))
            .sum::<Option<u32>>()
            .is_some_and(|sum| sum % 11 == 0)
}

fn is_isbn13(text: &str) -> bool {
    let digits: Option<Vec<u32>> =
        text.chars().filter(|c| *c != '-' && *c != ' ').map(|c| c.to_digit(10)).collect();
    digits.is_some_and(|d| {
        d.len() == 13
            && d.iter().enumerate().map(|(i, d)| d * if i % 2 == 0 { 1 } else { 3 }).sum::<u32>() % 10 == 0
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats() {
        for (format, good, bad) in [
            ("date-time", "2014-12-15T19:30:20.000Z", "2014"),
            ("date", "2006-01-02", "2006-13-02"),
            ("byte", "AAAA", "A"),
            ("duration", "22 ns", "x"),
            ("ipv4", "1.2.3.4", "1.2.3"),
            ("ipv6", "::1", "1.2.3.4"),
            ("cidr", "10.0.0.0/8", "10.0.0.0"),
            ("mac", "01:02:03:04:05:06", "01:02"),
            ("uuid4", "6ba7b810-9dad-41d1-80b4-00c04fd430c8", "6ba7b810-9dad-11d1-80b4-00c04fd430c8"),
            ("hostname", "a.b", "-a"),
            ("email", "a@b.c", "a"),
            ("uri", "http://a/b", "a b"),
            ("hexcolor", "#FFFFFF", "#FF"),
            ("rgbcolor", "rgb(1,2,3)", "rgb(256,2,3)"),
            ("ssn", "111-22-3333", "11-22"),
            ("creditcard", "4111-1111-1111-1111", "4111-1111-1111-1112"),
            ("isbn10", "0321751043", "0321751044"),
            ("isbn", "978-0321751041", "978-0321751042"),
        ] {
            assert!(is_valid(format, good) && !is_valid(format, bad), "{format}");
        }
        assert_eq!(supported("string", "nope"), "");
    }
}
