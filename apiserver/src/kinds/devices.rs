//! Dynamic resources: ResourceClaim, ResourceClaimTemplate, DeviceClass, ResourceSlice. Expressions are not compiled.

use machinery::names;
use machinery::status::FieldError;
use serde_json::Value;

use super::at::At;
use super::checks::{self, Errors, named};
use super::json::{at, items_mut, set_if_zero, text};
use super::kind::Kind;
use crate::contract::{Object, RequestContext};

const GROUP: &str = "resource.k8s.io";
const MODES: [&str; 2] = ["All", "ExactCount"];
const REQUESTS_MAX: usize = 32;
const CHOICES_MAX: usize = 8;
const SELECTORS_MAX: usize = 32;
const DRIVER_MAX: usize = 63;
const DEVICES_MAX: usize = 128;

/// The rows of these kinds.
pub const KINDS: &[Kind] = &[
    Kind {
        default: |claim| default_claim(claim, &["spec", "devices", "requests"]),
        check: check_claim,
        ..Kind::new(GROUP, "resourceclaims")
    },
    Kind {
        default: |template| default_claim(template, &["spec", "spec", "devices", "requests"]),
        check: check_template,
        ..Kind::new(GROUP, "resourceclaimtemplates")
    },
    Kind { check: check_class, ..Kind::new(GROUP, "deviceclasses") },
    Kind { check: check_slice, ..Kind::new(GROUP, "resourceslices") },
];

fn default_claim(object: &mut Object, requests: &[&str]) {
    for request in items_mut(object, requests) {
        default_count(request, &["exactly"]);
        items_mut(request, &["firstAvailable"]).iter_mut().for_each(|choice| default_count(choice, &[]));
    }
}

fn default_count(request: &mut Value, path: &[&str]) {
    let Some(choice) = super::json::find_mut(request, path).filter(|choice| choice.is_object()) else {
        return;
    };
    set_if_zero(choice, &["allocationMode"], "ExactCount");
    if text(choice, &["allocationMode"]) == "ExactCount" {
        set_if_zero(choice, &["count"], 1);
    }
}

fn check_claim(_: &RequestContext, new: &Object, old: Option<&Object>, errors: &mut Errors) {
    let root = At::root(new);
    let spec = root.get("spec");
    match old {
        Some(old) => errors.extend(checks::immutable(&spec, at(old, &["spec"]))),
        None => claim_spec(&spec, errors),
    }
}

fn check_template(_: &RequestContext, new: &Object, old: Option<&Object>, errors: &mut Errors) {
    let root = At::root(new);
    let spec = root.get("spec");
    match old {
        Some(old) => errors.extend(checks::immutable(&spec, at(old, &["spec"]))),
        None => claim_spec(&spec.get("spec"), errors),
    }
}

fn claim_spec(spec: &At<'_, '_>, errors: &mut Errors) {
    let devices = spec.get("devices");
    let requests = devices.get("requests");
    at_most(&requests, REQUESTS_MAX, errors);
    errors.extend(checks::unique(&requests, "name"));
    for request in requests.items() {
        request_name(&request.get("name"), errors);
        let (exactly, choices) = (request.get("exactly"), request.get("firstAvailable"));
        let detail = "exactly one of `exactly` or `firstAvailable` is required";
        match (exactly.is_set(), !choices.is_empty()) {
            (false, false) => errors.push(FieldError::required(&request, detail)),
            (true, true) => {
                let detail = format!("{detail}, but multiple fields are set");
                errors.push(FieldError::invalid(&request, Value::Null, detail));
            }
            (true, false) => check_choice(&exactly, errors),
            (false, true) => {
                at_most(&choices, CHOICES_MAX, errors);
                errors.extend(checks::unique(&choices, "name"));
                for choice in choices.items() {
                    request_name(&choice.get("name"), errors);
                    check_choice(&choice, errors);
                }
            }
        }
    }
}

fn at_most(list: &At<'_, '_>, max: usize, errors: &mut Errors) {
    if list.len() > max {
        errors.push(FieldError::too_many(list, list.len(), max));
    }
}

fn request_name(name: &At<'_, '_>, errors: &mut Errors) {
    match name.has() {
        true => errors.extend(named("label", name)),
        false => errors.push(FieldError::required(name, "")),
    }
}

fn check_choice(choice: &At<'_, '_>, errors: &mut Errors) {
    let (class, mode, count) =
        (choice.get("deviceClassName"), choice.get("allocationMode"), choice.get("count"));
    match class.has() {
        true => errors.extend(named("subdomain", &class)),
        false => errors.push(FieldError::required(&class, "")),
    }
    let selectors = choice.get("selectors");
    at_most(&selectors, SELECTORS_MAX, errors);
    let number = count.int().unwrap_or_default();
    match mode.text() {
        "ExactCount" if number <= 0 => {
            errors.push(FieldError::invalid(&count, number, "must be greater than zero"));
        }
        "All" if number != 0 => {
            let detail = "must not be specified when allocationMode is 'All'";
            errors.push(FieldError::invalid(&count, number, detail));
        }
        "All" | "ExactCount" => {}
        other => errors.push(FieldError::not_supported(&mode, other, &MODES)),
    }
}

fn check_class(_: &RequestContext, new: &Object, _: Option<&Object>, errors: &mut Errors) {
    let root = At::root(new);
    let spec = root.get("spec");
    at_most(&spec.get("selectors"), SELECTORS_MAX, errors);
    at_most(&spec.get("config"), REQUESTS_MAX, errors);
    for config in spec.get("config").items() {
        let opaque = config.get("opaque");
        match opaque.is_set() {
            true => driver_name(&opaque.get("driver"), errors),
            false => errors.push(FieldError::required(&opaque, "")),
        }
    }
}

fn driver_name(driver: &At<'_, '_>, errors: &mut Errors) {
    let text = driver.text();
    if text.is_empty() {
        errors.push(FieldError::required(driver, ""));
    }
    if text.len() > DRIVER_MAX {
        errors.push(FieldError::too_long(driver, "", DRIVER_MAX));
    }
    if !text.is_empty() {
        errors.extend(checks::invalid(driver, names::dns1123_subdomain(&text.to_lowercase())));
    }
}

fn check_slice(_: &RequestContext, new: &Object, old: Option<&Object>, errors: &mut Errors) {
    let root = At::root(new);
    let spec = root.get("spec");
    let pool = spec.get("pool");
    driver_name(&spec.get("driver"), errors);
    let name = pool.get("name");
    if !name.has() {
        errors.push(FieldError::required(&name, ""));
    }
    for segment in name.text().split('/').filter(|segment| !segment.is_empty()) {
        errors.extend(checks::invalid(&name.with(&Value::from(segment)), names::dns1123_subdomain(segment)));
    }
    let count = pool.get("resourceSliceCount");
    let number = count.int().unwrap_or_default();
    if number <= 0 {
        errors.push(FieldError::invalid(&count, number, "must be greater than zero"));
    }
    let generation = pool.get("generation");
    if let Some(number) = generation.int().filter(|number| *number < 0) {
        errors.push(FieldError::invalid(&generation, number, "must be greater than or equal to zero"));
    }
    if let Some(old) = old {
        for path in [&["pool", "name"][..], &["driver"], &["nodeName"]] {
            let before = at(at(old, &["spec"]), path);
            if !super::json::same(at(spec.value, path), before) {
                let place = format!("spec.{}", path.join("."));
                errors.push(FieldError::invalid(&place, at(spec.value, path).clone(), checks::IMMUTABLE));
            }
        }
    }
    node_choice(&spec, errors);
    let devices = spec.get("devices");
    at_most(&devices, DEVICES_MAX, errors);
    errors.extend(checks::unique(&devices, "name"));
    for device in devices.items() {
        request_name(&device.get("name"), errors);
    }
}

/// Which nodes the slice is for: exactly one way of saying it.
fn node_choice(spec: &At<'_, '_>, errors: &mut Errors) {
    const WAYS: [&str; 4] = ["nodeName", "nodeSelector", "allNodes", "perDeviceNodeSelection"];
    let detail =
        "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    let mut chosen = Vec::new();
    for way in WAYS {
        let value = spec.get(way);
        match value.value {
            Value::Null => {}
            Value::Bool(false) => {
                errors.push(FieldError::invalid(&value, false, "must be either unset or set to true"));
            }
            Value::String(name) if name.is_empty() => {
                let detail = "must be either unset or set to a non-empty string";
                errors.push(FieldError::invalid(&value, "", detail));
            }
            _ => chosen.push(format!("`{way}`")),
        }
    }
    match chosen.len() {
        0 => errors.push(FieldError::required(spec, detail)),
        1 => {}
        _ => {
            let shown = format!("{{{}}}", chosen.join(", "));
            let detail = format!("{detail}, but multiple fields are set");
            errors.push(FieldError::invalid(spec, shown, detail));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn claims() {
        let check = |requests: Value, expected: &[&str]| {
            let mut claim = json!({"spec": {"devices": {"requests": requests}}});
            default_claim(&mut claim, &["spec", "devices", "requests"]);
            let mut errors = Errors::new();
            claim_spec(&At::root(&claim).get("spec"), &mut errors);
            let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
            assert_eq!(texts, expected, "{claim}");
        };
        check(json!([{"name": "a", "exactly": {"deviceClassName": "gpu"}}]), &[]);
        check(
            json!([{"name": "a"}]),
            &[
                "spec.devices.requests[0]: Required value: exactly one of `exactly` or `firstAvailable` is required",
            ],
        );
        check(
            json!([{"name": "a", "exactly": {"deviceClassName": "gpu", "allocationMode": "All", "count": 2}}]),
            &[
                "spec.devices.requests[0].exactly.count: Invalid value: 2: must not be specified when allocationMode is 'All'",
            ],
        );
    }
}
