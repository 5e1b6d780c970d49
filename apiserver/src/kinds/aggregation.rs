//! APIService: who serves a version of a group.
//!
//! Source: kube-aggregator's `apis/apiregistration/validation`.

use machinery::names;
use machinery::status::FieldError;
use serde_json::json;

use super::at::At;
use super::checks::{self, Errors};
use super::json::{is_set, set};
use super::kind::{Kind, path_segment};
use crate::contract::{Object, RequestContext};

const GROUP: &str = "apiregistration.k8s.io";
const RESOURCE: &str = "apiservices";
const GROUP_PRIORITY_MAX: i64 = 20_000;
const VERSION_PRIORITY_MAX: i64 = 1_000;
const STATUSES: [&str; 3] = ["False", "True", "Unknown"];

/// The rows of this kind.
pub const KINDS: &[Kind] = &[
    Kind {
        create: |ctx, object| local_is_available(ctx, object),
        check,
        name: path_segment,
        ..Kind::new(GROUP, RESOURCE)
    },
    Kind { check: check_status, ..Kind::sub(GROUP, RESOURCE, "status") },
];

/// What this server serves itself needs nobody to be there.
fn local_is_available(ctx: &RequestContext, object: &mut Object) {
    if is_set(object, &["spec", "service"]) {
        return;
    }
    let condition = json!({
        "type": "Available", "status": "True", "reason": "Local",
        "message": "Local APIServices are always available",
        "lastTransitionTime": machinery::time::format_time(ctx.now),
    });
    set(object, &["status", "conditions"], json!([condition]));
}

fn check(_: &RequestContext, new: &Object, _: Option<&Object>, errors: &mut Errors) {
    let root = At::root(new);
    let (metadata, spec) = (root.get("metadata"), root.get("spec"));
    let (group, version, name) = (spec.get("group"), spec.get("version"), metadata.get("name"));
    let required = format!("{}.{}", version.text(), group.text());
    if name.text() != required {
        let detail =
            format!("must be `spec.version+\".\"+spec.group`: {}", machinery::gotext::quote(&required));
        errors.push(FieldError::invalid(&name, name.text(), detail));
    }
    if group.text().is_empty() && version.text() != "v1" {
        let detail = "only v1 may have an empty group and it better be legacy kube";
        errors.push(FieldError::required(&group, detail));
    }
    if !group.text().is_empty() {
        errors.extend(checks::invalid(&group, names::dns1123_subdomain(group.text())));
    }
    errors.extend(checks::invalid(&version, names::dns1035_label(version.text())));
    for (field, max) in
        [("groupPriorityMinimum", GROUP_PRIORITY_MAX), ("versionPriority", VERSION_PRIORITY_MAX)]
    {
        let priority = spec.get(field);
        let value = priority.int().unwrap_or_default();
        if value <= 0 || value > max {
            let detail = format!("must be positive and less than {max}");
            errors.push(FieldError::invalid(&priority, value, detail));
        }
    }
    check_service(&spec, errors);
}

fn check_service(spec: &At<'_, '_>, errors: &mut Errors) {
    let (service, authority, insecure) =
        (spec.get("service"), spec.get("caBundle"), spec.get("insecureSkipTLSVerify"));
    let skips = insecure.flag() == Some(true);
    if !service.is_set() {
        if !authority.text().is_empty() {
            let detail = "local APIServices may not have a caBundle";
            let shown = format!("{} bytes", authority.text().len() / 4 * 3);
            errors.push(FieldError::invalid(&authority, shown, detail));
        }
        if skips {
            let detail = "local APIServices may not have insecureSkipTLSVerify";
            errors.push(FieldError::invalid(&insecure, true, detail));
        }
        return;
    }
    errors.extend(["namespace", "name"].iter().filter_map(|field| checks::required(&service.get(field))));
    let port = service.get("port");
    let number = port.int().unwrap_or(443);
    let problems = names::port_num(number);
    if !problems.is_empty() {
        let detail = format!("port is not valid: {}", problems.join(", "));
        errors.push(FieldError::invalid(&port, number, detail));
    }
    if skips && !authority.text().is_empty() {
        errors.push(FieldError::invalid(&insecure, true, "may not be true if caBundle is present"));
    }
}

fn check_status(_: &RequestContext, new: &Object, _: Option<&Object>, errors: &mut Errors) {
    let root = At::root(new);
    let status = root.get("status");
    let conditions = status.get("conditions");
    for condition in conditions.items() {
        let status = condition.get("status");
        if !STATUSES.contains(&status.text()) {
            errors.push(FieldError::not_supported(&status, status.text(), &STATUSES));
        }
    }
}
