//! What users may write into `metadata`, at creation and at update. Pure.
//!
//! Source: apimachinery `pkg/api/validation/objectmeta.go`.

use machinery::names;
use machinery::status::{FieldError, Path};
use serde_json::Value;

use super::kind::Kind;
use super::meta;

/// All annotations of one object together.
const ANNOTATIONS_BYTES_MAX: usize = 256 * 1024;
const IMMUTABLE: &str = "field is immutable";
/// The two finalizers that exclude each other.
pub const ORPHAN: &str = "orphan";
pub const FOREGROUND: &str = "foregroundDeletion";

/// Everything about the metadata of a new object. `name_rule` is the kind's own.
pub fn check_new(
    object: &Value,
    namespaced: bool,
    name_rule: &dyn Fn(&str, bool) -> Vec<String>,
) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let path = Path::new("metadata");
    let generate = meta::text(object, "generateName");
    if !generate.is_empty() {
        // A prefix may end in a dash: letters follow.
        let masked = names::mask_trailing_dash(generate);
        invalid_all(&mut errors, &path.child("generateName"), generate, name_rule(&masked, true));
    }
    let name = meta::name(object);
    if name.is_empty() {
        errors.push(FieldError::required(&path.child("name"), "name or generateName is required"));
    } else {
        invalid_all(&mut errors, &path.child("name"), name, name_rule(name, false));
    }
    check_common(object, namespaced, &mut errors);
    errors
}

/// Everything about the metadata of an update.
pub fn check_update(new: &Value, old: &Value, namespaced: bool) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let path = Path::new("metadata");
    if meta::is_deleting(old) {
        no_new_finalizers(new, old, &mut errors);
    }
    if meta::text(new, "resourceVersion").is_empty() {
        let why = "must be specified for an update";
        errors.push(FieldError::invalid(&path.child("resourceVersion"), "", why));
    }
    if meta::generation(new) < meta::generation(old) {
        let why = "must not be decremented";
        errors.push(FieldError::invalid(&path.child("generation"), meta::generation(new), why));
    }
    for field in
        ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"]
    {
        let of = |o: &Value| o["metadata"].get(field).cloned().filter(|v| !v.is_null() && *v != "");
        let (new, old) = (of(new), of(old));
        if new != old {
            errors.push(FieldError::invalid(&path.child(field), new.unwrap_or(Value::Null), IMMUTABLE));
        }
    }
    check_common(new, namespaced, &mut errors);
    errors
}

fn check_common(object: &Value, namespaced: bool, errors: &mut Vec<FieldError>) {
    let path = Path::new("metadata");
    let metadata = &object["metadata"];
    let namespace = meta::namespace(object);
    match (namespaced, namespace) {
        (true, "") => errors.push(FieldError::required(&path.child("namespace"), "")),
        (true, name) => invalid_all(errors, &path.child("namespace"), name, names::dns1123_label(name)),
        (false, "") => {}
        (false, _) => {
            errors.push(FieldError::forbidden(&path.child("namespace"), "not allowed on this type"))
        }
    }
    check_labels(&metadata["labels"], &path.child("labels"), errors);
    check_annotations(&metadata["annotations"], &path.child("annotations"), errors);
    check_owners(&metadata["ownerReferences"], &path.child("ownerReferences"), errors);
    check_finalizers(object, &path.child("finalizers"), errors);
}

/// Label keys and values; also used for labels inside specs.
pub fn check_labels(labels: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    for (key, value) in labels.as_object().into_iter().flatten() {
        invalid_all(errors, path, key, names::qualified_name(key));
        let value = value.as_str().unwrap_or_default();
        invalid_all(errors, path, value, names::label_value(value));
    }
}

fn check_annotations(annotations: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let mut total = 0;
    for (key, value) in annotations.as_object().into_iter().flatten() {
        invalid_all(errors, path, key, names::qualified_name(&key.to_lowercase()));
        total += key.len() + value.as_str().map_or(0, str::len);
    }
    if total > ANNOTATIONS_BYTES_MAX {
        errors.push(FieldError::too_long(path, "", ANNOTATIONS_BYTES_MAX));
    }
}

fn check_owners(owners: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let mut controller: Option<String> = None;
    for owner in owners.as_array().into_iter().flatten() {
        let text = |field: &str| owner.get(field).and_then(Value::as_str).unwrap_or_default();
        if machinery::resources::split_api_version(text("apiVersion")).1.is_empty() {
            errors.push(FieldError::invalid(
                &path.child("apiVersion"),
                text("apiVersion"),
                "version must not be empty",
            ));
        }
        for field in ["kind", "name", "uid"] {
            if text(field).is_empty() {
                errors.push(FieldError::invalid(&path.child(field), "", "must not be empty"));
            }
        }
        if text("apiVersion") == "v1" && text("kind") == "Event" {
            errors.push(FieldError::invalid(
                path,
                owner.clone(),
                "/v1, Kind=Event is disallowed from being an owner",
            ));
        }
        if owner["controller"] == true {
            let this = format!("{}/{}", text("kind"), text("name"));
            if let Some(first) = &controller {
                let why = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {this}"
                );
                errors.push(FieldError::invalid(path, owners.clone(), why));
            } else {
                controller = Some(this);
            }
        }
    }
}

fn check_finalizers(object: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let finalizers = meta::finalizers(object);
    for name in &finalizers {
        invalid_all(errors, path, name, names::qualified_name(name));
    }
    if finalizers.contains(&ORPHAN) && finalizers.contains(&FOREGROUND) {
        let why = format!("finalizer {ORPHAN} and {FOREGROUND} cannot be both set");
        errors.push(FieldError::invalid(path, object["metadata"]["finalizers"].clone(), why));
    }
}

/// Groups whose kinds are checked by the general rules alone; three more kinds are named below.
const GENERAL_RULES_ONLY: [&str; 3] =
    ["admissionregistration.k8s.io", "apiextensions.k8s.io", "apiregistration.k8s.io"];

/// Built-in kinds take only standard finalizers and those with a domain.
pub fn check_finalizer_names(kind: &Kind, object: &Value) -> Vec<FieldError> {
    let general = GENERAL_RULES_ONLY.contains(&kind.group.as_str())
        || matches!(kind.resource.as_str(), "events" | "leases" | "poddisruptionbudgets");
    if kind.is_custom() || general {
        return Vec::new();
    }
    let path = Path::new("metadata").child("finalizers");
    let why = "name is neither a standard finalizer name nor is it fully qualified";
    let known = |name: &str| matches!(name, "kubernetes" | ORPHAN | FOREGROUND) || name.contains('/');
    let finalizers = meta::finalizers(object);
    let odd = finalizers.iter().enumerate().filter(|(_, name)| !known(name));
    odd.map(|(i, name)| FieldError::invalid(&path.index(i), *name, why)).collect()
}

fn no_new_finalizers(new: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    let known = meta::finalizers(old);
    let mut extra: Vec<_> = meta::finalizers(new).into_iter().filter(|f| !known.contains(f)).collect();
    if extra.is_empty() {
        return;
    }
    extra.sort_unstable();
    let quoted: Vec<_> = extra.iter().map(|f| format!("{f:?}")).collect();
    let why = format!(
        "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
        quoted.join(", ")
    );
    errors.push(FieldError::forbidden(&Path::new("metadata").child("finalizers"), why));
}

fn invalid_all(errors: &mut Vec<FieldError>, path: &Path, value: &str, why: Vec<String>) {
    errors.extend(why.into_iter().map(|w| FieldError::invalid(path, value, w)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(object: &Value, expected: &[&str]) {
        let rule = |name: &str, _| names::dns1123_subdomain(name);
        let fields: Vec<_> = check_new(object, true, &rule).iter().map(|e| e.field.clone()).collect();
        assert_eq!(fields, expected, "{object}");
    }

    #[test]
    fn new_metadata() {
        check(&json!({"metadata":{"name":"a","namespace":"b"}}), &[]);
        check(&json!({"metadata":{}}), &["metadata.name", "metadata.namespace"]);
        check(&json!({"metadata":{"name":"a-x","generateName":"a-","namespace":"b"}}), &[]);
        check(&json!({"metadata":{"name":"A_","namespace":"b"}}), &["metadata.name"]);
        check(
            &json!({"metadata":{"name":"a","namespace":"b","labels":{"-":"!"}}}),
            &["metadata.labels", "metadata.labels"],
        );
        let owner = json!({"apiVersion":"v1","kind":"Event","name":"x","uid":"1"});
        check(
            &json!({"metadata":{"name":"a","namespace":"b","ownerReferences":[owner]}}),
            &["metadata.ownerReferences"],
        );
        let both = json!(["orphan", "foregroundDeletion"]);
        check(&json!({"metadata":{"name":"a","namespace":"b","finalizers":both}}), &["metadata.finalizers"]);
    }

    #[test]
    fn updates_keep_identity_and_add_no_finalizers_while_deleting() {
        let old = json!({"metadata":{"name":"a","namespace":"b","uid":"1","deletionTimestamp":"t"}});
        let mut new = old.clone();
        new["metadata"]["resourceVersion"] = "5".into();
        assert!(check_update(&new, &old, true).is_empty());
        new["metadata"]["uid"] = "2".into();
        new["metadata"]["finalizers"] = json!(["x.io/y"]);
        let fields: Vec<_> = check_update(&new, &old, true).iter().map(|e| e.field.clone()).collect();
        assert_eq!(fields, ["metadata.finalizers", "metadata.uid"]);
    }
}
