//! What an update may change of the object that is there: identity, optimistic lock, the split between main resource
//! and status, generation. Pure but for the kind's own preparation, which is as well.

use machinery::status::{FieldError, StatusError};
use serde_json::Value;

use super::facts::StatusKeeps;
use super::kind::Kind;
use super::meta;
use super::update::Target;
use crate::contract::{KindHooks, RequestContext};

/// Body and URL must mean the same object.
pub(super) fn check_identity(kind: &Kind, target: Target<'_>, new: &mut Value) -> Result<(), StatusError> {
    let name = meta::name(new);
    if name.is_empty() {
        meta::set(new, "name", target.name);
    } else if name != target.name {
        return Err(StatusError::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            target.name
        )));
    }
    let namespace = if kind.namespaced { target.namespace } else { "" };
    meta::match_namespace(new, namespace)
}

/// Checks the optimistic lock, or fills it in where the request leaves it out and may.
pub(super) fn settle_revision(
    kind: &Kind,
    new: &mut Value,
    old: &Value,
    replaces: bool,
) -> Result<(), StatusError> {
    let conflict = || StatusError::conflict_modified(&kind.group, &kind.resource, meta::name(old));
    let (wanted, found) = (meta::text(new, "resourceVersion"), meta::text(old, "resourceVersion"));
    let uid = meta::text(new, "uid");
    // A whole object that is sent names the one it means; a patched uid is a change of an immutable field.
    if replaces && !uid.is_empty() && uid != meta::text(old, "uid") {
        let why = format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            meta::text(old, "uid")
        );
        return Err(StatusError::conflict(&kind.group, &kind.resource, meta::name(old), why));
    }
    if wanted.is_empty() || wanted == "0" {
        if !kind.facts.unconditional_update {
            let error =
                FieldError::invalid(&"metadata.resourceVersion", 0, "must be specified for an update");
            return Err(StatusError::invalid(&kind.group, &kind.resource, meta::name(old), vec![error]));
        }
        let found = found.to_owned();
        meta::set(new, "resourceVersion", found);
        return Ok(());
    }
    if wanted != found { Err(conflict()) } else { Ok(()) }
}

/// The split between main resource and status, generation, and the kind's own preparation.
pub(super) fn prepare(
    ctx: &RequestContext,
    kind: &Kind,
    target: Target<'_>,
    hooks: &dyn KindHooks,
    new: &mut Value,
    old: &Value,
) {
    meta::carry_over(new, old);
    match target.subresource {
        "" | "finalize" if kind.has_status() => keep(new, old, "status"),
        "status" => keep_all_but_status(kind, new, old),
        _ => {}
    }
    hooks.prepare_for_update(ctx, new, old);
    let status_counts = kind.is_custom() && !kind.has_status();
    // Upstream's binding writes the node's name past the strategy that counts generations.
    let counts = kind.facts.generation && !matches!(target.subresource, "status" | "binding");
    let annotations = |object: &Value| object["metadata"].get("annotations").cloned();
    let changed = meta::differs_outside_metadata(new, old, status_counts)
        || (kind.facts.generation_of_annotations && annotations(new) != annotations(old));
    if counts && changed {
        meta::set(new, "generation", meta::generation(old) + 1);
    }
}

fn keep(new: &mut Value, old: &Value, field: &str) {
    let Some(map) = new.as_object_mut() else { return };
    match old.get(field) {
        Some(value) => map.insert(field.to_owned(), value.clone()),
        None => map.remove(field),
    };
}

/// A status write changes the status and, of the metadata, what the kind's facts leave open.
fn keep_all_but_status(kind: &Kind, new: &mut Value, old: &Value) {
    let mut kept = old.clone();
    if let Some(map) = kept.as_object_mut() {
        match new.get("status") {
            Some(status) => map.insert("status".to_owned(), status.clone()),
            None => map.remove("status"),
        };
    }
    if kind.facts.status_keeps != StatusKeeps::Metadata
        && let Some(metadata) = new.get("metadata")
    {
        kept["metadata"] = metadata.clone();
    }
    let taken: &[&str] = match kind.facts.status_keeps {
        StatusKeeps::Nothing => &[],
        StatusKeeps::Labels => &["labels"],
        StatusKeeps::Metadata => &["managedFields", "resourceVersion"],
    };
    for field in taken {
        let from = if *field == "labels" { old } else { &*new };
        match from["metadata"].get(*field).cloned() {
            Some(value) => meta::set(&mut kept, field, value),
            None => {
                meta::remove(&mut kept, field);
            }
        }
    }
    *new = kept;
}

/// Namespaces wait for `spec.finalizers` too.
pub(super) fn holds_namespace(kind: &Kind, object: &Value) -> bool {
    kind.group.is_empty()
        && kind.resource == "namespaces"
        && object["spec"]["finalizers"].as_array().is_some_and(|f| !f.is_empty())
}
