//! Cells that only one or two kinds have. Pure.

use serde_json::Value;

use super::cells::{at, condition, list, or, text};

/// An `events.k8s.io` event with the field names of the stored one.
pub fn stored_event(event: &Value) -> Value {
    crate::registry::convert::Conversion::Events.to_storage(event.clone(), "v1")
}

/// `Kind/name` of the bound role.
pub fn role_ref(binding: &Value) -> String {
    format!("{}/{}", text(binding, "roleRef.kind"), text(binding, "roleRef.name"))
}

/// `apiVersion/kind` of a policy's parameters.
pub fn param_kind(policy: &Value) -> String {
    match at(policy, "spec.paramKind") {
        Value::Null => "<unset>".to_owned(),
        kind => format!("{}/{}", text(kind, "apiVersion"), text(kind, "kind")),
    }
}

/// `namespace/name` of a binding's parameters.
pub fn param_ref(binding: &Value) -> String {
    let reference = at(binding, "spec.paramRef");
    match text(reference, "name") {
        "" => "<unset>".to_owned(),
        name => format!("{}/{name}", or(text(reference, "namespace"), "*")),
    }
}

/// A member of a limited priority level.
pub fn limited(level: &Value, path: &str) -> Value {
    match at(at(level, "spec.limited"), path) {
        Value::Null => "<none>".into(),
        value => value.clone(),
    }
}

/// A boolean, or what it means when it is absent.
pub fn flag(object: &Value, path: &str, default: bool) -> Value {
    at(object, path).as_bool().unwrap_or(default).into()
}

/// The phase of a volume or claim; deletion shows first.
pub fn claim_phase(object: &Value) -> &str {
    if at(object, "metadata.deletionTimestamp").is_null() {
        text(object, "status.phase")
    } else {
        "Terminating"
    }
}

/// A list of texts as one.
pub fn joined(object: &Value, path: &str, empty: &str) -> String {
    let all: Vec<&str> = list(object, path).iter().filter_map(Value::as_str).collect();
    or(&all.join(","), empty).to_owned()
}

/// What has happened to a resource claim.
pub fn claim_state(claim: &Value) -> String {
    let mut states = Vec::new();
    let deleted = !at(claim, "metadata.deletionTimestamp").is_null();
    if deleted {
        states.push("deleted");
    }
    if at(claim, "status.allocation").is_null() {
        if !deleted {
            states.push("pending");
        }
    } else {
        states.push("allocated");
        if !list(claim, "status.reservedFor").is_empty() {
            states.push("reserved");
        }
    }
    states.join(",")
}

/// What an address belongs to.
pub fn parent_ref(address: &Value) -> String {
    let parent = at(address, "spec.parentRef");
    let group = text(parent, "group");
    let resource = text(parent, "resource");
    let mut out = if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") };
    for field in ["namespace", "name"] {
        if !text(parent, field).is_empty() {
            out = format!("{out}/{}", text(parent, field));
        }
    }
    or(&out, "<none>").to_owned()
}

/// `Kind.group/name` of an ingress class' parameters.
pub fn ingress_parameters(class: &Value) -> String {
    let parameters = at(class, "spec.parameters");
    match (text(parameters, "kind"), text(parameters, "apiGroup")) {
        ("", _) => "<none>".to_owned(),
        (kind, "") => format!("{kind}/{}", text(parameters, "name")),
        (kind, group) => format!("{kind}.{group}/{}", text(parameters, "name")),
    }
}

/// The controller of a revision.
pub fn revision_owner(revision: &Value) -> String {
    let Some(owner) = list(revision, "metadata.ownerReferences").iter().find(|o| o["controller"] == true)
    else {
        return "<none>".to_owned();
    };
    let (group, _) = machinery::resources::split_api_version(text(owner, "apiVersion"));
    let kind = text(owner, "kind").to_lowercase();
    let kind = if group.is_empty() { kind } else { format!("{kind}.{group}") };
    format!("{kind}/{}", text(owner, "name"))
}

/// The service behind an API, or `Local`.
pub fn api_service(service: &Value) -> String {
    let reference = at(service, "spec.service");
    match text(reference, "name") {
        "" => "Local".to_owned(),
        name => format!("{}/{name}", text(reference, "namespace")),
    }
}

/// Whether the API answers, and why not.
pub fn api_service_available(service: &Value) -> String {
    match condition(service, "Available") {
        Some(c) if c["status"] == "True" => "True".to_owned(),
        Some(c) => format!("{} ({})", text(c, "status"), text(c, "reason")),
        None => "Unknown".to_owned(),
    }
}

/// How long a certificate is asked for.
pub fn requested_duration(csr: &Value) -> String {
    at(csr, "spec.expirationSeconds").as_i64().map_or("<none>".to_owned(), machinery::time::duration::human)
}
