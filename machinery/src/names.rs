//! Rules for names, labels and keys with upstream's texts (apimachinery `util/validation`, `api/validate/content`).
//!
//! Every check returns the list of complaints, empty when the value is good. Hand-written matchers: these checks
//! run on every request.

const DNS1123_LABEL_FMT: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const DNS1123_SUBDOMAIN_FMT: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const DNS1123_UNDERSCORE_FMT: &str = "_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*";
const LABEL_KEY_FMT: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const LABEL_KEY_MSG: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";

/// Longest DNS-1123 or DNS-1035 label, label name and label value, in bytes.
pub const LABEL_LEN_MAX: usize = 63;
/// Longest DNS-1123 subdomain and configuration key, in bytes.
pub const SUBDOMAIN_LEN_MAX: usize = 253;
/// Longest port name, in bytes.
const PORT_NAME_LEN_MAX: usize = 15;

/// `must be no more than N characters`
pub fn max_len_error(len: usize) -> String {
    format!("must be no more than {len} characters")
}

/// `must be between LO and HI, inclusive`
pub fn inclusive_range_error(lo: i64, hi: i64) -> String {
    format!("must be between {lo} and {hi}, inclusive")
}

/// The complaint that a value does not match a pattern, with examples that would.
pub fn regex_error(message: &str, pattern: &str, examples: &[&str]) -> String {
    if examples.is_empty() {
        return format!("{message} (regex used for validation is '{pattern}')");
    }
    let shown: Vec<String> = examples.iter().map(|e| format!("'{e}', ")).collect();
    format!("{message} (e.g. {}regex used for validation is '{pattern}')", shown.join(" or "))
}

fn lower_alnum(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

/// `first` and `last` hold at the ends and `inner` everywhere.
fn shaped(text: &str, first: fn(u8) -> bool, inner: fn(u8) -> bool, last: fn(u8) -> bool) -> bool {
    match text.as_bytes() {
        [] => false,
        [only] => first(*only) && last(*only),
        [a, middle @ .., z] => first(*a) && last(*z) && middle.iter().all(|b| inner(*b)),
    }
}

fn is_dns1123_label(text: &str) -> bool {
    shaped(text, lower_alnum, |b| lower_alnum(b) || b == b'-', lower_alnum)
}

fn is_dns1123_subdomain(text: &str) -> bool {
    text.split('.').all(is_dns1123_label)
}

fn is_label_key_name(text: &str) -> bool {
    let alnum = |b: u8| b.is_ascii_alphanumeric();
    shaped(text, alnum, |b| b.is_ascii_alphanumeric() || b"-_.".contains(&b), alnum)
}

/// A DNS-1123 label.
pub fn dns1123_label(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > LABEL_LEN_MAX {
        errors.push(max_len_error(LABEL_LEN_MAX));
    }
    if !is_dns1123_label(value) {
        errors.push(if is_dns1123_subdomain(value) {
            "must not contain dots".to_owned()
        } else {
            let message = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character";
            regex_error(message, DNS1123_LABEL_FMT, &["my-name", "123-abc"])
        });
    }
    errors
}

/// A DNS-1123 subdomain: labels joined by dots.
pub fn dns1123_subdomain(value: &str) -> Vec<String> {
    subdomain(value, max_len_error(SUBDOMAIN_LEN_MAX))
}

fn subdomain(value: &str, too_long: String) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > SUBDOMAIN_LEN_MAX {
        errors.push(too_long);
    }
    if !is_dns1123_subdomain(value) {
        let message = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character";
        errors.push(regex_error(message, DNS1123_SUBDOMAIN_FMT, &["example.com"]));
    }
    errors
}

/// A DNS-1123 subdomain whose labels may hold underscores.
pub fn dns1123_subdomain_with_underscore(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > SUBDOMAIN_LEN_MAX {
        errors.push(max_len_error(SUBDOMAIN_LEN_MAX));
    }
    let label = |text: &str| {
        let text = text.strip_prefix('_').unwrap_or(text);
        shaped(text, lower_alnum, |b| lower_alnum(b) || b == b'-' || b == b'_', lower_alnum)
    };
    if !value.split('.').all(label) {
        let message = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric character";
        errors.push(regex_error(message, DNS1123_UNDERSCORE_FMT, &["example.com"]));
    }
    errors
}

/// A DNS-1035 label: as DNS-1123, but starting with a letter.
pub fn dns1035_label(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > LABEL_LEN_MAX {
        errors.push(max_len_error(LABEL_LEN_MAX));
    }
    if !shaped(value, |b| b.is_ascii_lowercase(), |b| lower_alnum(b) || b == b'-', lower_alnum) {
        let message = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character";
        errors.push(regex_error(message, "[a-z]([-a-z0-9]*[a-z0-9])?", &["my-name", "abc-123"]));
    }
    errors
}

/// `*.` and a DNS-1123 subdomain.
pub fn wildcard_dns1123_subdomain(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > SUBDOMAIN_LEN_MAX {
        errors.push(max_len_error(SUBDOMAIN_LEN_MAX));
    }
    if !value.strip_prefix("*.").is_some_and(is_dns1123_subdomain) {
        let message = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character";
        let pattern = format!("\\*\\.{DNS1123_SUBDOMAIN_FMT}");
        errors.push(regex_error(message, &pattern, &["*.example.com"]));
    }
    errors
}

/// A label, annotation or taint key: a name with an optional `prefix/`.
pub fn qualified_name(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    let mut parts = value.split('/');
    let (first, second, third) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
    if third.is_some() {
        let shape = regex_error(LABEL_KEY_MSG, LABEL_KEY_FMT, &["MyName", "my.name", "123-abc"]);
        return vec![format!(
            "a valid label key {shape} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
        )];
    }
    let name = second.unwrap_or(first);
    if second.is_some() {
        if first.is_empty() {
            errors.push("prefix part must be non-empty".to_owned());
        } else {
            let too_long = format!("must be no more than {SUBDOMAIN_LEN_MAX} bytes");
            errors.extend(subdomain(first, too_long).into_iter().map(|e| format!("prefix part {e}")));
        }
    }
    if name.is_empty() {
        errors.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL_LEN_MAX {
        errors.push(format!("name part must be no more than {LABEL_LEN_MAX} bytes"));
    }
    if !is_label_key_name(name) {
        let shape = regex_error(LABEL_KEY_MSG, LABEL_KEY_FMT, &["MyName", "my.name", "123-abc"]);
        errors.push(format!("name part {shape}"));
    }
    errors
}

/// A label's value.
pub fn label_value(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > LABEL_LEN_MAX {
        errors.push(format!("must be no more than {LABEL_LEN_MAX} bytes"));
    }
    if !value.is_empty() && !is_label_key_name(value) {
        let message = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
        let pattern = format!("({LABEL_KEY_FMT})?");
        errors.push(regex_error(message, &pattern, &["MyValue", "my_value", "12345"]));
    }
    errors
}

/// An identifier of the C language.
pub fn c_identifier(value: &str) -> Vec<String> {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    if shaped(value, |b| b.is_ascii_alphabetic() || b == b'_', word, word) {
        return Vec::new();
    }
    let message = "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_'";
    vec![regex_error(message, "[A-Za-z_][A-Za-z0-9_]*", &["my_name", "MY_NAME", "MyName"])]
}

/// The name of an environment variable, by the strict rule.
pub fn env_var_name(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    let word = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    if !shaped(value, |b| b.is_ascii_alphabetic() || b"-._".contains(&b), word, word) {
        let message = "a valid environment variable name must consist of alphabetic characters, digits, '_', '-', or '.', and must not start with a digit";
        let examples = ["my.env-name", "MY_ENV.NAME", "MyEnvName1"];
        errors.push(regex_error(message, "[-._a-zA-Z][-._a-zA-Z0-9]*", &examples));
    }
    errors.extend(change_dir_prefix(value));
    errors
}

/// The name of an environment variable, by the rule containers have today: printable ASCII without `=`.
pub fn relaxed_env_var_name(value: &str) -> Vec<String> {
    if value.is_empty() {
        return vec!["environment variable name must be non-empty".to_owned()];
    }
    if value.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'=') {
        return Vec::new();
    }
    vec![
        "a valid environment variable name must consist only of printable ASCII characters other than '='"
            .to_owned(),
    ]
}

/// A key of a ConfigMap's or Secret's data.
pub fn config_map_key(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > SUBDOMAIN_LEN_MAX {
        errors.push(max_len_error(SUBDOMAIN_LEN_MAX));
    }
    let word = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    if !shaped(value, word, word, word) {
        let message = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'";
        errors.push(regex_error(message, "[-._a-zA-Z0-9]+", &["key.name", "KEY_NAME", "key-name"]));
    }
    errors.extend(change_dir_prefix(value));
    errors
}

fn change_dir_prefix(value: &str) -> Option<String> {
    match value {
        "." => Some("must not be '.'".to_owned()),
        ".." => Some("must not be '..'".to_owned()),
        v if v.starts_with("..") => Some("must not start with '..'".to_owned()),
        _ => None,
    }
}

/// A container port's name.
pub fn port_name(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > PORT_NAME_LEN_MAX {
        errors.push(max_len_error(PORT_NAME_LEN_MAX));
    }
    if value.is_empty() || !value.bytes().all(|b| lower_alnum(b) || b == b'-') {
        errors.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !value.bytes().any(|b| b.is_ascii_lowercase()) {
        errors.push("must contain at least one letter (a-z)".to_owned());
    }
    if value.contains("--") {
        errors.push("must not contain consecutive hyphens".to_owned());
    }
    if value.starts_with('-') || value.ends_with('-') {
        errors.push("must not begin or end with a hyphen".to_owned());
    }
    errors
}

/// A port number.
pub fn port_num(value: i64) -> Vec<String> {
    in_range(value, 1, 65535)
}

/// A number between two bounds, both included.
pub fn in_range(value: i64, lo: i64, hi: i64) -> Vec<String> {
    if (lo..=hi).contains(&value) { Vec::new() } else { vec![inclusive_range_error(lo, hi)] }
}

/// A user or group id.
pub fn user_or_group_id(value: i64) -> Vec<String> {
    in_range(value, 0, i64::from(i32::MAX))
}

/// Digits and a per cent sign.
pub fn percent(value: &str) -> Vec<String> {
    let digits = value.strip_suffix('%').unwrap_or_default();
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
        return Vec::new();
    }
    let message = "a valid percent string must be a numeric string followed by an ending '%'";
    vec![regex_error(message, "[0-9]+%", &["1%", "93%"])]
}

/// The name of an HTTP header.
pub fn http_header_name(value: &str) -> Vec<String> {
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Vec::new();
    }
    let message = "a valid HTTP header must consist of alphanumeric characters or '-'";
    vec![regex_error(message, "[-A-Za-z0-9]+", &["X-Header-Name"])]
}

/// A name that becomes one segment of a URL's path.
pub fn path_segment_name(value: &str) -> Vec<String> {
    if value == "." || value == ".." {
        return vec![format!("may not be '{value}'")];
    }
    path_segment_prefix(value)
}

/// As [`path_segment_name`], for a prefix to which something is added.
pub fn path_segment_prefix(value: &str) -> Vec<String> {
    ['/', '%'].into_iter().filter(|c| value.contains(*c)).map(|c| format!("may not contain '{c}'")).collect()
}

/// `generateName` without the dash that may end it, so that the rest can be checked as a name.
pub fn mask_trailing_dash(name: &str) -> String {
    match name.strip_suffix('-') {
        Some(rest) if !rest.is_empty() => format!("{rest}a"),
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rule: fn(&str) -> Vec<String>, good: &[&str], bad: &[(&str, &str)]) {
        for value in good {
            assert_eq!(rule(value), Vec::<String>::new(), "{value}");
        }
        for (value, text) in bad {
            assert!(rule(value).iter().any(|e| e == text), "{value}: {:?}", rule(value));
        }
    }

    #[test]
    fn labels_and_subdomains() {
        let subdomain_text = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
        check(
            dns1123_subdomain,
            &["a", "0", "a.b-c.d", &"a".repeat(253)],
            &[
                ("", subdomain_text),
                ("A", subdomain_text),
                ("a..b", subdomain_text),
                ("a-", subdomain_text),
                ("a_b", subdomain_text),
            ],
        );
        let label_text = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
        check(
            dns1123_label,
            &["a-b", "1"],
            &[
                ("a.b", "must not contain dots"),
                ("-a", label_text),
                (&"a".repeat(64), "must be no more than 63 characters"),
            ],
        );
        check(dns1035_label, &["a1"], &[(&"a".repeat(64), "must be no more than 63 characters")]);
        assert_eq!(dns1035_label("1a").len(), 1);
    }

    #[test]
    fn keys_and_values() {
        check(
            qualified_name,
            &["a", "A.b_c", "example.com/x"],
            &[("/a", "prefix part must be non-empty"), ("a/", "name part must be non-empty")],
        );
        assert!(qualified_name("a/b/c")[0].starts_with("a valid label key must consist"));
        check(label_value, &["", "a", "A_b.c"], &[(&"a".repeat(64), "must be no more than 63 bytes")]);
        assert_eq!(label_value("a b").len(), 1);
        check(
            config_map_key,
            &["a.b", "_"],
            &[("..", "must not be '..'"), ("..a", "must not start with '..'")],
        );
        check(path_segment_name, &["a:b"], &[(".", "may not be '.'"), ("a/b", "may not contain '/'")]);
        check(percent, &["5%"], &[]);
        assert_eq!(percent("%").len(), 1);
        check(
            port_name,
            &["http"],
            &[
                ("1", "must contain at least one letter (a-z)"),
                ("a--b", "must not contain consecutive hyphens"),
            ],
        );
    }
}
