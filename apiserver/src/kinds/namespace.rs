//! Namespaces: born active with the finalizer that empties them before they go.

use machinery::status::FieldError;
use serde_json::json;

use super::at::At;
use super::checks::Errors;
use super::json::{has, is_set, keep, push, set, text, texts};
use super::kind::{Kind, label};
use crate::contract::{Object, RequestContext};

const FINALIZER: &str = "kubernetes";
const NAME_LABEL: &str = "kubernetes.io/metadata.name";
const FINALIZERS: [&str; 2] = ["spec", "finalizers"];

/// The rows of namespaces.
pub const KINDS: &[Kind] = &[
    Kind { default, create, update, name: label, ..Kind::new("", "namespaces") },
    Kind { default, check: check_status, ..Kind::sub("", "namespaces", "status") },
    Kind { default, check: check_finalizers, ..Kind::sub("", "namespaces", "finalize") },
];

fn default(namespace: &mut Object) {
    let name = text(namespace, &["metadata", "name"]).to_owned();
    if !name.is_empty() {
        set(namespace, &["metadata", "labels", NAME_LABEL], name);
    }
}

fn create(_: &RequestContext, namespace: &mut Object) {
    default(namespace);
    set(namespace, &["status"], json!({"phase": "Active"}));
    if !texts(namespace, &FINALIZERS).any(|finalizer| finalizer == FINALIZER) {
        push(namespace, &FINALIZERS, json!(FINALIZER));
    }
}

fn update(_: &RequestContext, new: &mut Object, old: &Object) {
    keep(new, old, &FINALIZERS);
}

/// A namespace ends exactly when it is deleted.
fn check_status(_: &RequestContext, new: &Object, _: Option<&Object>, errors: &mut Errors) {
    let phase = text(new, &["status", "phase"]);
    let deleted = is_set(new, &["metadata", "deletionTimestamp"]);
    let detail = match (deleted, phase) {
        (false, "Active") | (true, "Terminating") => return,
        (false, _) => "may only be 'Active' if `deletionTimestamp` is empty",
        (true, _) => "may only be 'Terminating' if `deletionTimestamp` is not empty",
    };
    errors.push(FieldError::invalid(&"status.Phase", phase, detail));
}

fn check_finalizers(_: &RequestContext, new: &Object, _: Option<&Object>, errors: &mut Errors) {
    if !has(new, &FINALIZERS) {
        return;
    }
    let root = At::root(new);
    let spec = root.get("spec");
    for finalizer in spec.get("finalizers").items() {
        let name = finalizer.text();
        let texts = machinery::names::qualified_name(name);
        errors.extend(texts.into_iter().map(|text| FieldError::invalid(&finalizer, name, text)));
        if name != FINALIZER && !name.contains('/') {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            errors.push(FieldError::invalid(&finalizer, name, detail));
        }
    }
}
