//! Environment variables and the fields they may show.

use machinery::names;
use machinery::status::FieldError;

use crate::kinds::at::At;
use crate::kinds::checks::{self, Errors, quantity};

const ENV_FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
/// The fields a downward volume may show.
pub const VOLUME_FIELDS: [&str; 5] =
    ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
/// Labels of fields that exist but may not be shown everywhere.
const KNOWN_FIELDS: [&str; 5] =
    ["spec.restartPolicy", "spec.schedulerName", "status.phase", "metadata.labels", "metadata.annotations"];
const RESOURCES: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];
const SOURCES: [&str; 5] = ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"];
const CPU_DIVISORS: [&str; 2] = ["1m", "1"];
const SIZE_DIVISORS: [&str; 13] =
    ["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];

/// `env` and `envFrom` of a container.
pub fn check(container: &At<'_, '_>, errors: &mut Errors) {
    for variable in container.get("env").items() {
        let source = variable.get("valueFrom");
        if source.is_set() {
            value_from(&source, variable.get("value").has(), errors);
        }
    }
    let sources = container.get("envFrom");
    for source in sources.items() {
        let detail = match (source.get("configMapRef").is_set(), source.get("secretRef").is_set()) {
            (false, false) => "must specify one of: `configMapRef` or `secretRef`",
            (true, true) => "may not have more than one field specified at a time",
            _ => continue,
        };
        errors.push(FieldError::invalid(&sources, "", detail));
    }
}

fn value_from(source: &At<'_, '_>, has_value: bool, errors: &mut Errors) {
    let count = SOURCES.iter().filter(|name| source.get(name).is_set()).count();
    let field = source.get("fieldRef");
    if field.is_set() {
        field_ref(&field, &ENV_FIELDS, errors);
    }
    let resource = source.get("resourceFieldRef");
    if resource.is_set() {
        resource_ref(&resource, false, errors);
    }
    let detail = match (count, has_value) {
        (0, _) => {
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"
        }
        (_, true) => "may not be specified when `value` is not empty",
        (1, false) => return,
        _ => "may not have more than one field specified at a time",
    };
    errors.push(FieldError::invalid(source, "", detail));
}

/// A reference to a field of the pod, which must be one of the given ones or a label or annotation by name.
pub fn field_ref(at: &At<'_, '_>, allowed: &[&str], errors: &mut Errors) {
    let (version, path) = (at.get("apiVersion"), at.get("fieldPath"));
    if !version.has() || !path.has() {
        return;
    }
    let mut refuse = |detail: String| errors.push(FieldError::invalid(&path, path.text(), detail));
    if version.text() != "v1" {
        refuse(format!("error converting fieldPath: unsupported pod version: {}", version.text()));
        return;
    }
    if let Some((base, key)) = path.text().strip_suffix("']").and_then(|text| text.split_once("['")) {
        let texts = match base {
            "metadata.labels" => names::qualified_name(key),
            "metadata.annotations" => names::qualified_name(&key.to_lowercase()),
            _ => {
                refuse(format!(
                    "error converting fieldPath: field label does not support subscript: {}",
                    path.text()
                ));
                return;
            }
        };
        errors.extend(texts.into_iter().map(|text| FieldError::invalid(at, key, text)));
        return;
    }
    let name = if path.text() == "spec.host" { "spec.nodeName" } else { path.text() };
    if allowed.contains(&name) {
        return;
    }
    if ENV_FIELDS.contains(&name) || KNOWN_FIELDS.contains(&name) {
        let mut sorted = allowed.to_vec();
        sorted.sort_unstable();
        errors.push(FieldError::not_supported(&path, name, &sorted));
    } else {
        refuse(format!("error converting fieldPath: field label not supported: {name}"));
    }
}

/// A reference to an amount of a container.
pub fn resource_ref(at: &At<'_, '_>, in_volume: bool, errors: &mut Errors) {
    let (container, resource, divisor) = (at.get("containerName"), at.get("resource"), at.get("divisor"));
    if in_volume && !container.has() {
        errors.push(FieldError::required(&container, ""));
        return;
    }
    let name = resource.text();
    let huge = name.starts_with("limits.hugepages-") || name.starts_with("requests.hugepages-");
    if resource.has() && !RESOURCES.contains(&name) && !huge {
        errors.push(FieldError::not_supported(&resource, name, &RESOURCES));
    }
    let Some(amount) = quantity(divisor.value).filter(|amount| !amount.is_zero()) else { return };
    let (allowed, what): (&[&str], &str) = match name.split_once('.').map_or("", |(_, kind)| kind) {
        "cpu" => (&CPU_DIVISORS, "cpu resource"),
        "memory" => (&SIZE_DIVISORS, "memory resource"),
        "ephemeral-storage" => (&SIZE_DIVISORS, "local ephemeral storage resource"),
        _ if huge => (&SIZE_DIVISORS, "hugepages resource"),
        _ => return,
    };
    if !allowed.contains(&amount.to_string().as_str()) {
        let list = if allowed.len() == 2 { "1m and 1".to_owned() } else { allowed.join(", ") };
        let detail = format!("only divisor's values {list} are supported with the {what}");
        errors.push(FieldError::invalid(&divisor, name, detail));
    }
}

/// A path below the current directory: relative, without `..`.
pub fn descending_path(at: &At<'_, '_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if at.text().starts_with('/') {
        errors.push(FieldError::invalid(at, at.text(), "must be a relative path"));
    }
    errors.extend(no_backsteps(at));
    errors
}

/// A path without `..`.
pub fn no_backsteps(at: &At<'_, '_>) -> Option<FieldError> {
    let bad = at.text().split('/').any(|part| part == "..");
    bad.then(|| FieldError::invalid(at, at.text(), "must not contain '..'"))
}

/// A descending path whose first part does not start with `..` either.
pub fn non_reserved_path(at: &At<'_, '_>) -> Vec<FieldError> {
    let mut errors = descending_path(at);
    if at.text().starts_with("..") && !at.text().starts_with("../") {
        errors.push(FieldError::invalid(at, at.text(), "must not start with '..'"));
    }
    errors
}

/// The errors of a qualified name such as a gate's.
pub fn qualified(at: &At<'_, '_>, name: &str) -> Vec<FieldError> {
    checks::invalid(at, names::qualified_name(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn check_env(env: Value, expected: &[&str]) {
        let container = json!({ "env": [env] });
        let mut errors = Vec::new();
        check(&At::placed("c", &container), &mut errors);
        // Paths begin below the placed container.
        let got: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(got, expected);
    }

    #[test]
    fn sources() {
        let field = |path: &str| json!({"name": "A", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}});
        check_env(field("status.podIP"), &[]);
        check_env(field("metadata.labels['a/b']"), &[]);
        check_env(
            field("status.phase"),
            &[
                r#"c.env[0].valueFrom.fieldRef.fieldPath: Unsupported value: "status.phase": supported values: "metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName", "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs""#,
            ],
        );
        check_env(
            field("status.moon"),
            &[
                r#"c.env[0].valueFrom.fieldRef.fieldPath: Invalid value: "status.moon": error converting fieldPath: field label not supported: status.moon"#,
            ],
        );
        check_env(
            json!({"name": "A", "valueFrom": {}}),
            &[
                r#"c.env[0].valueFrom: Invalid value: "": must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"#,
            ],
        );
    }
}
