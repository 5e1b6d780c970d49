//! Checks of definition objects. Pure.
//!
//! Source: apiextensions `apis/apiextensions/validation/validation.go`, without what belongs to CEL and webhooks.

use machinery::jsonpath;
use machinery::names;
use machinery::schema::crd_rules;
use machinery::status::{FieldError, Path};
use serde_json::Value;

use crate::registry::meta;

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// Everything about a definition; `old` is what it was.
pub fn definition(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let spec = &new["spec"];
    let path = Path::new("spec");
    let (group, plural) = (text(spec, "group"), text(&spec["names"], "plural"));
    let expected = format!("{plural}.{group}");
    if old.is_none() && meta::name(new) != expected {
        let why = "must be spec.names.plural+\".\"+spec.group".to_owned();
        errors.push(FieldError::invalid(&"metadata.name", meta::name(new), why));
    }
    check_group(group, &path, &mut errors);
    match text(spec, "scope") {
        "" => errors.push(FieldError::required(&path.child("scope"), "")),
        "Cluster" | "Namespaced" => {}
        other => {
            errors.push(FieldError::not_supported(&path.child("scope"), other, &["Cluster", "Namespaced"]));
        }
    }
    check_names(&spec["names"], &path.child("names"), &mut errors);
    check_versions(spec, &path, &mut errors);
    check_conversion(spec, &path, &mut errors);
    if let Some(old) = old {
        check_unchanged(new, old, &mut errors);
    }
    errors
}

fn check_group(group: &str, path: &Path, errors: &mut Vec<FieldError>) {
    let path = path.child("group");
    if group.is_empty() {
        errors.push(FieldError::required(&path, ""));
        return;
    }
    let wrong = names::dns1123_subdomain(group);
    if !wrong.is_empty() {
        errors.push(FieldError::invalid(&path, group, wrong.join(",")));
    } else if !group.contains('.') {
        errors.push(FieldError::invalid(&path, group, "should be a domain with at least one dot"));
    }
}

fn check_names(given: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    for field in ["plural", "singular"] {
        let name = text(given, field);
        if name.is_empty() {
            errors.push(FieldError::required(&path.child(field), ""));
            continue;
        }
        let wrong = names::dns1035_label(name);
        if !wrong.is_empty() {
            errors.push(FieldError::invalid(&path.child(field), name, wrong.join(",")));
        }
    }
    for field in ["kind", "listKind"] {
        let name = text(given, field);
        if name.is_empty() {
            errors.push(FieldError::required(&path.child(field), ""));
            continue;
        }
        let wrong = names::dns1035_label(&name.to_lowercase());
        if !wrong.is_empty() {
            let why = format!("may have mixed case, but should otherwise match: {}", wrong.join(","));
            errors.push(FieldError::invalid(&path.child(field), name, why));
        }
    }
    for field in ["shortNames", "categories"] {
        for (i, name) in given[field].as_array().into_iter().flatten().enumerate() {
            let name = name.as_str().unwrap_or_default();
            let wrong = names::dns1035_label(name);
            if !wrong.is_empty() {
                errors.push(FieldError::invalid(&path.child(field).index(i), name, wrong.join(",")));
            }
        }
    }
    let (kind, list_kind) = (text(given, "kind"), text(given, "listKind"));
    if !kind.is_empty() && kind == list_kind {
        errors.push(FieldError::invalid(
            &path.child("listKind"),
            list_kind,
            "kind and listKind may not be the same",
        ));
    }
}

fn check_versions(spec: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let path = path.child("versions");
    let versions = spec["versions"].as_array().map_or(&[][..], Vec::as_slice);
    if versions.is_empty() {
        errors.push(FieldError::invalid(
            &path,
            Value::Array(Vec::new()),
            "must have exactly one version marked as storage version",
        ));
        return;
    }
    let mut seen: Vec<&str> = Vec::new();
    for (i, version) in versions.iter().enumerate() {
        let at = path.index(i);
        let name = text(version, "name");
        let wrong = names::dns1035_label(name);
        if !wrong.is_empty() {
            errors.push(FieldError::invalid(&at.child("name"), name, wrong.join(",")));
        }
        if seen.contains(&name) {
            errors.push(FieldError::invalid(&at, version.clone(), "must contain unique version names"));
        }
        seen.push(name);
        check_version(spec, version, &at, errors);
    }
    if versions.iter().filter(|v| v["storage"] == true).count() != 1 {
        let why = "must have exactly one version marked as storage version";
        errors.push(FieldError::invalid(&path, spec["versions"].clone(), why));
    }
}

fn check_version(spec: &Value, version: &Value, at: &Path, errors: &mut Vec<FieldError>) {
    let path = at.child("schema").child("openAPIV3Schema");
    match version["schema"].get("openAPIV3Schema").filter(|s| s.is_object()) {
        Some(schema) => errors.extend(crd_rules::check_schema(schema, &path)),
        None => errors.push(FieldError::required(&path, "schemas are required")),
    }
    if spec["preserveUnknownFields"] == true {
        let why = "must be false in order to use defaults in the schema";
        errors.push(FieldError::invalid(&"spec.preserveUnknownFields", true, why));
    }
    for (i, column) in version["additionalPrinterColumns"].as_array().into_iter().flatten().enumerate() {
        check_column(column, &at.child("additionalPrinterColumns").index(i), errors);
    }
    if let Some(scale) = version["subresources"].get("scale").filter(|s| s.is_object()) {
        check_scale(scale, &at.child("subresources").child("scale"), errors);
    }
    for (i, field) in version["selectableFields"].as_array().into_iter().flatten().enumerate() {
        let path = at.child("selectableFields").index(i).child("jsonPath");
        let given = text(field, "jsonPath");
        if given.is_empty() {
            errors.push(FieldError::required(&path, ""));
        } else if jsonpath::Path::parse(given).ok().and_then(|p| p.member_names().map(|_| ())).is_none() {
            errors.push(FieldError::invalid(
                &path,
                given,
                "is an invalid path: only simple paths are allowed",
            ));
        }
    }
}

fn check_column(column: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    for field in ["name", "type", "jsonPath"] {
        if text(column, field).is_empty() {
            errors.push(FieldError::required(&path.child(field), ""));
        }
    }
    let valid = ["integer", "number", "string", "boolean", "date"];
    let given = text(column, "type");
    if !given.is_empty() && !valid.contains(&given) {
        let mut sorted = valid;
        sorted.sort_unstable();
        errors.push(FieldError::invalid(
            &path.child("type"),
            given,
            format!("must be one of {}", sorted.join(",")),
        ));
    }
    let given = text(column, "jsonPath");
    if !given.is_empty() && jsonpath::Path::parse(given).is_err() {
        errors.push(FieldError::invalid(&path.child("jsonPath"), given, "is an invalid JSON path"));
    }
}

fn check_scale(scale: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    for (field, root) in [("specReplicasPath", ".spec."), ("statusReplicasPath", ".status.")] {
        let given = text(scale, field);
        if given.is_empty() {
            errors.push(FieldError::required(&path.child(field), ""));
        } else if !given.starts_with(root) {
            let why = format!("should be a json path under {}", root.trim_end_matches('.'));
            errors.push(FieldError::invalid(&path.child(field), given, why));
        }
    }
    let given = text(scale, "labelSelectorPath");
    if !given.is_empty() && !given.starts_with(".spec.") && !given.starts_with(".status.") {
        let why = "should be a json path under either .spec or .status";
        errors.push(FieldError::invalid(&path.child("labelSelectorPath"), given, why));
    }
}

fn check_conversion(spec: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let path = path.child("conversion").child("strategy");
    match text(&spec["conversion"], "strategy") {
        "None" => {}
        "" => errors.push(FieldError::required(&path, "")),
        "Webhook" => {
            let why = "webhook conversion is not served by this version; use None";
            errors.push(FieldError::invalid(&path, "Webhook", why));
        }
        other => errors.push(FieldError::not_supported(&path, other, &["None", "Webhook"])),
    }
}

/// What can never change once names have been accepted.
fn check_unchanged(new: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    let conditions = old["status"]["conditions"].as_array();
    let established =
        conditions.into_iter().flatten().any(|c| c["type"] == "Established" && c["status"] == "True");
    let mut fields: Vec<&[&str]> = vec![&["spec", "group"], &["spec", "names", "plural"]];
    if established {
        fields.extend([&["spec", "scope"][..], &["spec", "names", "kind"][..]]);
    }
    for field in fields {
        let at = |o: &Value| field.iter().fold(o.clone(), |v, key| v[*key].clone());
        if at(new) != at(old) {
            errors.push(FieldError::invalid(&field.join("."), at(new), "field is immutable"));
        }
    }
    let names: Vec<&str> =
        new["spec"]["versions"].as_array().into_iter().flatten().map(|v| text(v, "name")).collect();
    for (i, stored) in new["status"]["storedVersions"].as_array().into_iter().flatten().enumerate() {
        let stored = stored.as_str().unwrap_or_default();
        if !names.contains(&stored) {
            let path = Path::new("status").child("storedVersions").index(i);
            errors.push(FieldError::invalid(&path, stored, "missing from spec.versions; it was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in this version and removes it from status.storedVersions"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn valid() -> Value {
        json!({"metadata":{"name":"foos.x.io"},"spec":{"group":"x.io","scope":"Namespaced","conversion":{"strategy":"None"},
            "names":{"plural":"foos","singular":"foo","kind":"Foo","listKind":"FooList"},
            "versions":[{"name":"v1","served":true,"storage":true,"schema":{"openAPIV3Schema":{"type":"object"}}}]}})
    }

    #[track_caller]
    fn check(change: impl Fn(&mut Value), expected: &[&str]) {
        let mut value = valid();
        change(&mut value);
        let fields: Vec<String> = definition(&value, None).into_iter().map(|e| e.field).collect();
        assert_eq!(fields, expected);
    }

    #[test]
    fn definitions() {
        check(|_| {}, &[]);
        check(|d| d["metadata"]["name"] = "bars.x.io".into(), &["metadata.name"]);
        check(|d| d["spec"]["scope"] = "World".into(), &["spec.scope"]);
        check(|d| d["spec"]["versions"][0]["storage"] = false.into(), &["spec.versions"]);
        check(
            |d| d["spec"]["versions"][0]["schema"] = Value::Null,
            &["spec.versions[0].schema.openAPIV3Schema"],
        );
        check(|d| d["spec"]["names"]["listKind"] = "Foo".into(), &["spec.names.listKind"]);
    }

    #[test]
    fn identity_does_not_change() {
        let (old, mut new) = (valid(), valid());
        new["spec"]["group"] = "y.io".into();
        let fields: Vec<String> = definition(&new, Some(&old)).into_iter().map(|e| e.field).collect();
        assert_eq!(fields, ["spec.group"]);
    }
}
