//! Updates through `/ephemeralcontainers` and `/resize`.

use machinery::status::FieldError;
use serde_json::Value;

use super::resources::{is_sidecar, qos_class};
use super::validate;
use crate::contract::{Object, RequestContext};
use crate::kinds::at::At;
use crate::kinds::checks::Errors;
use crate::kinds::json::{at, has, is_set, items, keep, make, remove, same, set, text};

const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";
const RESIZABLE: [&str; 2] = ["cpu", "memory"];

/// Ephemeral containers may only be added.
pub fn check_ephemeral(_: &RequestContext, new: &Object, old: Option<&Object>, errors: &mut Errors) {
    let Some(old) = old else { return };
    let root = At::root(new);
    let spec = root.get("spec");
    validate::spec(&spec, true, errors);
    if is_set(old, &["metadata", "annotations", MIRROR_ANNOTATION]) {
        *errors = vec![FieldError::forbidden(&"", "static pods do not support ephemeral containers")];
        return;
    }
    let place = spec.get("ephemeralContainers");
    for known in items(old, &["spec", "ephemeralContainers"]) {
        let name = text(known, &["name"]);
        let quoted = machinery::gotext::quote(name);
        match place.items().find(|container| container.get("name").text() == name) {
            None => {
                let detail = format!("existing ephemeral containers {quoted} may not be removed\n");
                errors.push(FieldError::forbidden(&place, detail));
            }
            Some(now) if !same(now.value, known) => {
                let detail = format!("existing ephemeral containers {quoted} may not be changed\n");
                errors.push(FieldError::forbidden(&place, detail));
            }
            Some(_) => {}
        }
    }
}

/// Only CPU and memory of containers that stay the same may change, and not the pod's class.
pub fn check_resize(_: &RequestContext, new: &Object, old: Option<&Object>, errors: &mut Errors) {
    let Some(old) = old else { return };
    let root = At::root(new);
    let spec = root.get("spec");
    validate::spec(&spec, true, errors);
    let refusal = if is_set(old, &["metadata", "annotations", MIRROR_ANNOTATION]) {
        "static pods cannot be resized"
    } else if text(old, &["spec", "os", "name"]) == "windows" {
        "windows pods cannot be resized"
    } else {
        ""
    };
    if !refusal.is_empty() {
        *errors = vec![FieldError::forbidden(&"", refusal)];
        return;
    }
    let class = text(old, &["status", "qosClass"]);
    let class = if class.is_empty() { qos_class(old) } else { class };
    if class != qos_class(new) {
        let shown = text(new, &["status", "qosClass"]);
        errors.push(FieldError::invalid(
            &spec,
            shown,
            "Pod QOS Class may not change as a result of resizing",
        ));
    }
    if !has(old, &["status", "containerStatuses"]) && !supports_resize(old) {
        errors.push(FieldError::forbidden(&spec, "Pod running on node without support for resize"));
    }
    if same_order(new, old, errors) {
        containers(new, old, errors);
    }
}

/// Pods that run report their containers' resources where the node can resize.
fn supports_resize(old: &Object) -> bool {
    text(old, &["status", "phase"]) != "Running"
}

fn same_order(new: &Object, old: &Object, errors: &mut Errors) -> bool {
    let before = errors.len();
    for list in ["containers", "initContainers"] {
        let (now, then) = (items(new, &["spec", list]), items(old, &["spec", list]));
        if now.len() != then.len() {
            let detail = format!("{list} may not be added or removed on resize");
            errors.push(FieldError::forbidden(&format!("spec.{list}"), detail));
            continue;
        }
        for (index, _) in now.iter().zip(then).enumerate().filter(|(_, (a, b))| a["name"] != b["name"]) {
            let detail = format!("{list} may not be renamed or reordered on resize");
            errors.push(FieldError::forbidden(&format!("spec.{list}[{index}].name"), detail));
        }
    }
    errors.len() == before
}

fn containers(new: &Object, old: &Object, errors: &mut Errors) {
    for list in ["initContainers", "containers"] {
        let pairs = items(new, &["spec", list]).iter().zip(items(old, &["spec", list]));
        for (index, (now, then)) in pairs.enumerate() {
            let place = format!("spec.{list}[{index}]");
            let is_init = list == "initContainers";
            if is_init && !is_sidecar(now) {
                if !same(now, then) {
                    let detail = "resources for non-sidecar init containers are immutable";
                    errors.push(FieldError::forbidden(&"spec", detail));
                }
                continue;
            }
            removed(now, then, &place, errors);
            let mut munged = now.clone();
            forget_resizable(&mut munged, then);
            keep(&mut munged, then, &["resizePolicy"]);
            if !same(&munged, then) {
                errors.push(match is_init {
                    true => FieldError::forbidden(
                        &place,
                        "only cpu and memory resources for sidecar containers are mutable",
                    ),
                    false => FieldError::forbidden(&"spec", "only cpu and memory resources are mutable"),
                });
            }
        }
    }
}

/// What a container asks for or is limited to may change, not vanish.
fn removed(now: &Value, then: &Value, place: &str, errors: &mut Errors) {
    for which in ["limits", "requests"] {
        let gone = RESIZABLE.iter().any(|name| {
            is_set(then, &["resources", which, name]) && !is_set(now, &["resources", which, name])
        });
        if gone {
            let detail = format!("resource {which} cannot be removed");
            errors.push(FieldError::forbidden(&format!("{place}.resources.{which}"), detail));
        }
    }
}

fn forget_resizable(munged: &mut Value, then: &Value) {
    for which in ["limits", "requests"] {
        for name in RESIZABLE {
            let before = at(then, &["resources", which, name]);
            if before.is_null() {
                remove(munged, &["resources", which, name]);
            } else {
                set(make(munged, &["resources"]), &[which, name], before.clone());
            }
        }
    }
}
