//! Checks that many kinds share: numbers, names, labels, selectors, quantities, immutability. Pure.

use machinery::names;
use machinery::quantity::Quantity;
use machinery::status::FieldError;
use rustc_hash::FxHashSet;
use serde_json::Value;

use super::at::At;
use super::json::same;

/// What upstream says of a field that may not change.
pub const IMMUTABLE: &str = "field is immutable";
const NEGATIVE: &str = "must be greater than or equal to 0";
const NOT_POSITIVE: &str = "must be greater than zero";

/// A list that grows by checks; the checks of one object push into one.
pub type Errors = Vec<FieldError>;

/// An error when the number is below zero.
pub fn non_negative(at: &At<'_, '_>) -> Option<FieldError> {
    at.int().filter(|number| *number < 0).map(|number| FieldError::invalid(at, number, NEGATIVE))
}

/// An error when the number is there and not above zero.
pub fn positive(at: &At<'_, '_>) -> Option<FieldError> {
    at.int().filter(|number| *number <= 0).map(|number| FieldError::invalid(at, number, NOT_POSITIVE))
}

/// An error when the value is not what it was.
pub fn immutable(new: &At<'_, '_>, old: &Value) -> Option<FieldError> {
    (!same(new.value, old)).then(|| FieldError::invalid(new, new.value.clone(), IMMUTABLE))
}

/// An error when the field is empty.
pub fn required(at: &At<'_, '_>) -> Option<FieldError> {
    (!at.has()).then(|| FieldError::required(at, ""))
}

/// Invalid-value errors with the given texts.
pub fn invalid(at: &At<'_, '_>, texts: Vec<String>) -> impl Iterator<Item = FieldError> {
    let (place, value) = (at.to_string(), at.value.clone());
    texts.into_iter().map(move |text| FieldError::invalid(&place, value.clone(), text))
}

/// An invalid-value error that does not show the value.
pub fn invalid_hidden(place: &impl std::fmt::Display, detail: impl Into<String>) -> FieldError {
    FieldError { value: None, ..FieldError::invalid(place, Value::Null, detail) }
}

/// The rule of that name in the table.
fn name_rule(rule: &str) -> Option<fn(&str) -> Vec<String>> {
    Some(match rule {
        "label" => names::dns1123_label,
        "subdomain" => names::dns1123_subdomain,
        "dns1035" => names::dns1035_label,
        "qualified" => names::qualified_name,
        "cidentifier" => names::c_identifier,
        "configkey" => names::config_map_key,
        "pathsegment" => names::path_segment_name,
        "portname" => names::port_name,
        "labelvalue" => names::label_value,
        "wildcard" => names::wildcard_dns1123_subdomain,
        "httpheader" => names::http_header_name,
        "envname" => names::relaxed_env_var_name,
        _ => return None,
    })
}

/// Whether the table may use the rule.
pub fn is_name_rule(rule: &str) -> bool {
    name_rule(rule).is_some()
}

/// Errors of the text under a name rule.
pub fn named(rule: &str, at: &At<'_, '_>) -> Vec<FieldError> {
    let texts = name_rule(rule).map(|rule| rule(at.text())).unwrap_or_default();
    invalid(at, texts).collect()
}

/// Errors of a label map, placed at the map as upstream places them.
pub fn labels(at: &At<'_, '_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (key, value) in at.entries() {
        errors.extend(names::qualified_name(key).into_iter().map(|text| FieldError::invalid(at, key, text)));
        let texts = names::label_value(value.text());
        errors.extend(texts.into_iter().map(|text| FieldError::invalid(at, value.text(), text)));
    }
    errors
}

/// Errors of a `metav1.LabelSelector`.
pub fn label_selector(at: &At<'_, '_>) -> Vec<FieldError> {
    let mut errors = labels(&at.get("matchLabels"));
    for requirement in at.get("matchExpressions").items() {
        errors.extend(selector_requirement(&requirement));
    }
    errors
}

fn selector_requirement(at: &At<'_, '_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let values = at.get("values");
    match at.get("operator").text() {
        "In" | "NotIn" if values.is_empty() => {
            errors
                .push(FieldError::required(&values, "must be specified when `operator` is 'In' or 'NotIn'"));
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            errors.push(FieldError::forbidden(&values, detail));
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        other => {
            errors.push(FieldError::invalid(&at.get("operator"), other, "not a valid selector operator"))
        }
    }
    let key = at.get("key");
    let texts = names::qualified_name(key.text());
    errors.extend(texts.into_iter().map(|text| FieldError::invalid(&key, key.text(), text)));
    for value in values.items() {
        errors.extend(invalid(&value, names::label_value(value.text())));
    }
    errors
}

/// Errors for members that repeat among the items of a list.
pub fn unique(at: &At<'_, '_>, key: &str) -> Vec<FieldError> {
    let mut seen = FxHashSet::default();
    let mut errors = Vec::new();
    for item in at.items() {
        let member = item.get(key);
        if member.has() && !seen.insert(member.value.to_string()) {
            errors.push(FieldError::duplicate(&member, member.value.clone()));
        }
    }
    errors
}

/// The quantity, when there is one and it parses.
pub fn quantity(value: &Value) -> Option<Quantity> {
    // Absence would read as zero.
    (!value.is_null()).then(|| Quantity::from_value(value).ok()).flatten()
}

/// An error when the quantity is below zero.
pub fn non_negative_quantity(at: &At<'_, '_>) -> Option<FieldError> {
    let quantity = quantity(at.value)?;
    (quantity.sign() < 0).then(|| FieldError::invalid(at, quantity.to_string(), NEGATIVE))
}

/// An error when the quantity is not above zero.
pub fn positive_quantity(at: &At<'_, '_>) -> Option<FieldError> {
    let quantity = quantity(at.value)?;
    (quantity.sign() <= 0).then(|| FieldError::invalid(at, quantity.to_string(), NOT_POSITIVE))
}

/// Errors of a port number.
pub fn port_number(at: &At<'_, '_>) -> Vec<FieldError> {
    let number = at.int().unwrap_or_default();
    names::port_num(number).into_iter().map(|text| FieldError::invalid(at, number, text)).collect()
}

/// Errors of a port that is a number or a name.
pub fn port_number_or_name(at: &At<'_, '_>) -> Vec<FieldError> {
    match at.value {
        Value::String(_) => invalid(at, names::port_name(at.text())).collect(),
        _ => port_number(at),
    }
}

/// Errors of an IP address (strict textual form is not demanded of stored legacy fields).
pub fn ip(at: &At<'_, '_>) -> Option<FieldError> {
    let valid = at.text().parse::<std::net::IpAddr>().is_ok();
    let detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
    (!valid).then(|| FieldError::invalid(at, at.text(), detail))
}

/// Errors of a CIDR.
pub fn cidr(at: &At<'_, '_>) -> Option<FieldError> {
    let valid = at.text().parse::<ipnet::IpNet>().is_ok();
    let detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
    (!valid).then(|| FieldError::invalid(at, at.text(), detail))
}

/// Errors of a number or percentage such as `maxSurge`.
pub fn int_or_percent(at: &At<'_, '_>) -> Vec<FieldError> {
    match at.value {
        Value::String(_) => invalid(at, names::percent(at.text())).collect(),
        _ => non_negative(at).into_iter().collect(),
    }
}

/// The percentage, when the value is one.
pub fn percent_of(value: &Value) -> Option<i64> {
    value.as_str()?.strip_suffix('%')?.parse().ok()
}

/// `domain/path` names such as `acme.io/foo`.
pub fn domain_prefixed_path(at: &At<'_, '_>) -> Vec<FieldError> {
    let text = at.text();
    if text.is_empty() {
        return vec![FieldError::required(at, "")];
    }
    let Some((domain, path)) = text.split_once('/') else {
        let detail = "must be a domain-prefixed path (such as \"acme.io/foo\")";
        return vec![FieldError::invalid(at, text, detail)];
    };
    let mut errors: Vec<FieldError> =
        invalid(&at.with(&Value::from(domain)), names::dns1123_subdomain(domain)).collect();
    let allowed = |c: char| c.is_ascii_alphanumeric() || "/-._~!$&'()*+,;=:%@".contains(c);
    if path.is_empty() || !path.chars().all(allowed) {
        errors.push(FieldError::invalid(at, path, "Invalid path"));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn texts(errors: Vec<FieldError>) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn selectors() {
        let check = |selector: Value, expected: &[&str]| {
            assert_eq!(texts(label_selector(&At::placed("selector", &selector))), expected, "{selector}");
        };
        check(json!({"matchLabels": {"a": "b"}}), &[]);
        check(
            json!({"matchExpressions": [{"key": "a", "operator": "In"}, {"key": "b", "operator": "Exists", "values": ["x"]}]}),
            &[
                "selector.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
                "selector.matchExpressions[1].values: Forbidden: may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            ],
        );
        check(
            json!({"matchExpressions": [{"key": "a", "operator": "Near"}]}),
            &[
                r#"selector.matchExpressions[0].operator: Invalid value: "Near": not a valid selector operator"#,
            ],
        );
    }

    #[test]
    fn numbers_and_repetitions() {
        let list = json!([{"name": "a"}, {"name": "b"}, {"name": "a"}, {}]);
        assert_eq!(texts(unique(&At::placed("x", &list), "name")), [r#"x[2].name: Duplicate value: "a""#]);
        let minus = json!(-1);
        let error = non_negative(&At::placed("n", &minus)).unwrap().to_string();
        assert_eq!(error, "n: Invalid value: -1: must be greater than or equal to 0");
        let quantity = json!("-1Gi");
        let error = non_negative_quantity(&At::placed("q", &quantity)).unwrap().to_string();
        assert_eq!(error, r#"q: Invalid value: "-1Gi": must be greater than or equal to 0"#);
    }
}
