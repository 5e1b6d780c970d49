//! ConfigMap, Secret, ServiceAccount.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use machinery::names;
use machinery::status::FieldError;
use serde_json::Value;

use super::at::At;
use super::checks::{self, Errors};
use super::json::{at, flag, is_set, remove, same, set, text};
use super::kind::Kind;
use crate::contract::{Object, RequestContext};

/// The bytes one ConfigMap or Secret may hold.
const SIZE_MAX_BYTES: usize = 1024 * 1024;
const FROZEN: &str = "field is immutable when `immutable` is set";

/// The rows of these kinds.
pub const KINDS: &[Kind] = &[
    Kind { check: check_config_map, ..Kind::new("", "configmaps") },
    Kind { default: default_secret, check: check_secret, ..Kind::new("", "secrets") },
    Kind::new("", "serviceaccounts"),
];

fn check_config_map(_: &RequestContext, new: &Object, old: Option<&Object>, errors: &mut Errors) {
    frozen(new, old, &["data", "binaryData"], errors);
    let root = At::root(new);
    let (data, binary) = (root.get("data"), root.get("binaryData"));
    let mut size = 0;
    for (key, value) in data.entries() {
        bad_key(key, &value, errors);
        if binary.key(key).is_set() {
            errors.push(FieldError::invalid(&value, key, "duplicate of key present in binaryData"));
        }
        size += value.text().len();
    }
    for (key, value) in binary.entries() {
        bad_key(key, &value, errors);
        size += decoded_len(value.text());
    }
    if size > SIZE_MAX_BYTES {
        errors.push(FieldError::too_long(&"[]", "", SIZE_MAX_BYTES));
    }
}

fn bad_key(key: &str, value: &At<'_, '_>, errors: &mut Errors) {
    errors.extend(names::config_map_key(key).into_iter().map(|text| FieldError::invalid(value, key, text)));
}

fn decoded_len(base64: &str) -> usize {
    base64.trim_end_matches('=').len() * 3 / 4
}

/// What is marked immutable stays as it is.
fn frozen(new: &Object, old: Option<&Object>, fields: &[&str], errors: &mut Errors) {
    let Some(old) = old.filter(|old| flag(old, &["immutable"]) == Some(true)) else { return };
    if flag(new, &["immutable"]) != Some(true) {
        errors.push(FieldError::forbidden(&"immutable", FROZEN));
    }
    for field in fields.iter().filter(|field| !same(at(new, &[field]), at(old, &[field]))) {
        errors.push(FieldError::forbidden(field, FROZEN));
    }
}

/// What came as text is kept as bytes.
fn default_secret(secret: &mut Object) {
    let Some(Value::Object(texts)) = remove(secret, &["stringData"]) else { return };
    for (key, value) in texts {
        let encoded = STANDARD.encode(value.as_str().unwrap_or_default());
        set(secret, &["data", key.as_str()], encoded);
    }
}

/// The keys a type of secret must have.
const REQUIRED_KEYS: [(&str, &[&str]); 2] =
    [("kubernetes.io/ssh-auth", &["ssh-privatekey"]), ("kubernetes.io/tls", &["tls.crt", "tls.key"])];

fn check_secret(_: &RequestContext, new: &Object, old: Option<&Object>, errors: &mut Errors) {
    let root = At::root(new);
    if let Some(old) = old {
        errors.extend(checks::immutable(&root.get("type"), at(old, &["type"])));
    }
    frozen(new, old, &["data"], errors);
    let data = root.get("data");
    let mut size = 0;
    for (key, value) in data.entries() {
        bad_key(key, &value, errors);
        size += decoded_len(value.text());
    }
    if size > SIZE_MAX_BYTES {
        errors.push(FieldError::too_long(&data, "", SIZE_MAX_BYTES));
    }
    let kind = text(new, &["type"]);
    match kind {
        "kubernetes.io/service-account-token" => {
            const ACCOUNT: &str = "kubernetes.io/service-account.name";
            if text(new, &["metadata", "annotations", ACCOUNT]).is_empty() {
                errors.push(FieldError::required(&format!("metadata.annotations[{ACCOUNT}]"), ""));
            }
        }
        "kubernetes.io/dockercfg" => docker_config(&data.key(".dockercfg"), errors),
        "kubernetes.io/dockerconfigjson" => docker_config(&data.key(".dockerconfigjson"), errors),
        "kubernetes.io/basic-auth"
            if !is_set(new, &["data", "username"]) && !is_set(new, &["data", "password"]) =>
        {
            for key in ["username", "password"] {
                errors.push(FieldError::required(&data.key(key), ""));
            }
        }
        _ => {}
    }
    for key in REQUIRED_KEYS.iter().filter(|(of, _)| *of == kind).flat_map(|(_, keys)| *keys) {
        let value = data.key(key);
        if !value.is_set() || (kind == "kubernetes.io/ssh-auth" && !value.has()) {
            errors.push(FieldError::required(&value, ""));
        }
    }
}

fn docker_config(value: &At<'_, '_>, errors: &mut Errors) {
    if !value.is_set() {
        errors.push(FieldError::required(value, ""));
        return;
    }
    let decoded = STANDARD.decode(value.text()).unwrap_or_default();
    if let Err(why) = serde_json::from_slice::<serde_json::Map<String, Value>>(&decoded) {
        errors.push(FieldError::invalid(value, "<secret contents redacted>", go_json_error(&decoded, &why)));
    }
}

/// Go's words for JSON that does not parse.
fn go_json_error(text: &[u8], why: &serde_json::Error) -> String {
    if text.is_empty() || why.is_eof() {
        return "unexpected end of JSON input".to_owned();
    }
    let first = String::from_utf8_lossy(text).chars().next().unwrap_or_default();
    format!("invalid character '{first}' looking for beginning of value")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn texts(errors: Errors) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn frozen_objects() {
        let old = json!({"immutable": true, "data": {"a": "b"}});
        let check = |new: Value, expected: &[&str]| {
            let mut errors = Vec::new();
            frozen(&new, Some(&old), &["data"], &mut errors);
            assert_eq!(texts(errors), expected);
        };
        check(old.clone(), &[]);
        check(
            json!({"data": {"a": "c"}}),
            &[
                "immutable: Forbidden: field is immutable when `immutable` is set",
                "data: Forbidden: field is immutable when `immutable` is set",
            ],
        );
    }
}
