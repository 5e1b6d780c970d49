//! Requests and limits, of containers and of pods as a whole.

use machinery::names;
use machinery::quantity::Quantity;
use machinery::status::FieldError;

use super::resources::{
    aggregate_limits, aggregate_requests, is_native, is_overcommit_allowed, is_pod_level,
};
use crate::kinds::at::At;
use crate::kinds::checks::{Errors, named, non_negative_quantity, quantity};

const NOT_INTEGER: &str = "must be an integer";
const STANDARD: [&str; 20] = [
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "storage",
    "requests.storage",
    "services.nodeports",
    "services.loadbalancers",
];

/// `resources` of a container.
pub fn container(at: &At<'_, '_>, pod_claims: &[String], errors: &mut Errors) {
    lists(at, container_resource_name, errors);
    claim_names(&at.get("claims"), pod_claims, errors);
}

/// `spec.resources` of a pod.
pub fn pod_level(spec: &At<'_, '_>, errors: &mut Errors) {
    let at = spec.get("resources");
    if !at.is_set() {
        return;
    }
    if at.get("claims").is_set() {
        let detail = "claims may not be set for Resources at pod-level";
        errors.push(FieldError::forbidden(&at.get("claims"), detail));
    }
    lists(&at, pod_resource_name, errors);
    let (requests, limits) = (at.get("requests"), at.get("limits"));
    for (name, total) in aggregate_requests(spec.value) {
        too_small(&requests.key(&name), &total, "requests", errors);
    }
    for (name, total) in aggregate_limits(spec.value).into_iter().filter(|(name, _)| is_huge_page(name)) {
        too_small(&limits.key(&name), &total, "limits", errors);
    }
    for (index, container) in spec.get("containers").items().enumerate() {
        for (name, limit) in container.get("resources").get("limits").entries() {
            let pod_limit = quantity(limits.key(name).value);
            if let (Some(own), Some(max)) = (quantity(limit.value), pod_limit)
                && own > max
            {
                let place = format!("{at}.containers[{index}][{name}].limits");
                let detail = format!("must be less than or equal to pod limits of {max}");
                errors.push(FieldError::invalid(&place, own.to_string(), detail));
            }
        }
    }
}

fn too_small(at: &At<'_, '_>, total: &Quantity, what: &str, errors: &mut Errors) {
    if let Some(own) = quantity(at.value).filter(|own| own < total) {
        let detail = format!("must be greater than or equal to aggregate container {what} of {total}");
        errors.push(FieldError::invalid(at, own.to_string(), detail));
    }
}

fn lists(at: &At<'_, '_>, name_rule: fn(&str, &At<'_, '_>) -> Vec<FieldError>, errors: &mut Errors) {
    let (limits, requests) = (at.get("limits"), at.get("requests"));
    let (mut huge, mut plain) = (false, false);
    for list in [&limits, &requests] {
        for (name, amount) in list.entries() {
            errors.extend(name_rule(name, &amount));
            errors.extend(quantity_value(name, &amount));
            huge |= is_huge_page(name);
            plain |= matches!(name, "cpu" | "memory");
        }
    }
    for (name, request) in requests.entries() {
        let Some(asked) = quantity(request.value) else { continue };
        let free = is_overcommit_allowed(name);
        match quantity(limits.key(name).value) {
            Some(limit) if asked != limit && !free => {
                let detail = format!("must be equal to {name} limit of {limit}");
                errors.push(FieldError::invalid(&requests, asked.to_string(), detail));
            }
            Some(limit) if asked > limit => {
                let detail = format!("must be less than or equal to {name} limit of {limit}");
                errors.push(FieldError::invalid(&requests, asked.to_string(), detail));
            }
            None if !free => {
                let detail = "Limit must be set for non overcommitable resources";
                errors.push(FieldError::required(&limits, detail));
            }
            _ => {}
        }
    }
    if huge && !plain {
        errors.push(FieldError::forbidden(at, "HugePages require cpu or memory"));
    }
}

fn is_huge_page(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// Errors of an amount: not negative, whole where the resource is counted, a multiple of its page size.
pub fn quantity_value(name: &str, at: &At<'_, '_>) -> Vec<FieldError> {
    let mut errors: Vec<FieldError> = non_negative_quantity(at).into_iter().collect();
    let Some(amount) = quantity(at.value) else { return errors };
    if counts(name) && amount.milli_value() % 1000 != 0 {
        errors.push(FieldError::invalid(at, amount.to_string(), NOT_INTEGER));
    }
    if let Some(size) = name.strip_prefix("hugepages-").and_then(|size| Quantity::parse(size).ok())
        && (size.value() == 0 || amount.value() % size.value() != 0)
    {
        let detail = format!("{amount} is not positive integer multiple of {name}");
        errors.push(FieldError::invalid(at, amount.to_string(), detail));
    }
    errors
}

/// Whether the resource comes in whole numbers: objects and extended resources.
fn counts(name: &str) -> bool {
    matches!(
        name,
        "pods"
            | "resourcequotas"
            | "services"
            | "replicationcontrollers"
            | "secrets"
            | "configmaps"
            | "persistentvolumeclaims"
            | "services.nodeports"
            | "services.loadbalancers"
    ) || is_extended(name)
}

/// Whether the name belongs to a device or another resource of somebody's own.
pub fn is_extended(name: &str) -> bool {
    !is_native(name)
        && !name.starts_with("requests.")
        && names::qualified_name(&format!("requests.{name}")).is_empty()
}

/// Whether upstream knows the name by itself.
pub fn is_standard(name: &str) -> bool {
    STANDARD.contains(&name) || is_huge_page(name) || name.starts_with("requests.hugepages-")
}

/// Errors of a resource name anywhere.
pub fn resource_name(name: &str, at: &At<'_, '_>) -> Vec<FieldError> {
    let texts = names::qualified_name(name);
    if !texts.is_empty() {
        return texts.into_iter().map(|text| FieldError::invalid(at, name, text)).collect();
    }
    if !name.contains('/') && !is_standard(name) {
        return vec![FieldError::invalid(at, name, "must be a standard resource type or fully qualified")];
    }
    Vec::new()
}

fn container_resource_name(name: &str, at: &At<'_, '_>) -> Vec<FieldError> {
    let mut errors = resource_name(name, at);
    let standard = matches!(name, "cpu" | "memory" | "ephemeral-storage") || is_huge_page(name);
    if !name.contains('/') && !standard {
        errors.push(FieldError::invalid(at, name, "must be a standard resource for containers"));
    } else if name.contains('/') && !is_native(name) && !is_extended(name) {
        errors.push(FieldError::invalid(at, name, "doesn't follow extended resource name standard"));
    }
    errors
}

fn pod_resource_name(name: &str, at: &At<'_, '_>) -> Vec<FieldError> {
    let errors = resource_name(name, at);
    if errors.is_empty() && !is_pod_level(name) {
        return vec![FieldError::not_supported(at, name, &["cpu", "hugepages-", "memory"])];
    }
    errors
}

fn claim_names(claims: &At<'_, '_>, pod_claims: &[String], errors: &mut Errors) {
    let mut seen: Vec<String> = Vec::new();
    for claim in claims.items() {
        let (name, request) = (claim.get("name").text(), claim.get("request"));
        if name.is_empty() {
            errors.push(FieldError::required(&claim, ""));
            continue;
        }
        if request.has() {
            errors.extend(named("label", &request));
        }
        let key = if request.has() { format!("{name}/{}", request.text()) } else { name.to_owned() };
        let whole_seen = seen.iter().any(|known| known == name || *known == key);
        let part_seen = !request.has() && seen.iter().any(|known| known.split('/').next() == Some(name));
        if whole_seen || part_seen {
            errors.push(FieldError::duplicate(&claim, key.clone()));
        }
        seen.push(key);
        if !pod_claims.iter().any(|known| known == name) {
            let mut sorted = pod_claims.to_vec();
            sorted.sort();
            let suffix = if sorted.is_empty() {
                " which is empty".to_owned()
            } else {
                format!(": {}", sorted.join(", "))
            };
            let detail = format!("must be one of the names in pod.spec.resourceClaims{suffix}");
            errors.push(FieldError { detail, ..FieldError::not_found(&claim, name) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn check(resources: Value, expected: &[&str]) {
        let mut errors = Vec::new();
        container(&At::placed("r", &resources), &[], &mut errors);
        let got: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(got, expected, "{resources}");
    }

    #[test]
    fn containers() {
        check(
            json!({"limits": {"cpu": "1"}, "requests": {"cpu": "500m", "example.com/gpu": "1"}}),
            &["r.limits: Required value: Limit must be set for non overcommitable resources"],
        );
        check(
            json!({"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}),
            &[r#"r.requests: Invalid value: "2": must be less than or equal to cpu limit of 1"#],
        );
        check(
            json!({"requests": {"memory": "-1"}}),
            &[r#"r.requests[memory]: Invalid value: "-1": must be greater than or equal to 0"#],
        );
        check(
            json!({"requests": {"moon": "1"}}),
            &[
                r#"r.requests[moon]: Invalid value: "moon": must be a standard resource type or fully qualified"#,
                r#"r.requests[moon]: Invalid value: "moon": must be a standard resource for containers"#,
            ],
        );
        check(
            json!({"limits": {"hugepages-2Mi": "4Mi"}}),
            &["r: Forbidden: HugePages require cpu or memory"],
        );
        check(
            json!({"limits": {"cpu": 1, "hugepages-2Mi": "3Mi"}}),
            &[
                r#"r.limits[hugepages-2Mi]: Invalid value: "3Mi": 3Mi is not positive integer multiple of hugepages-2Mi"#,
            ],
        );
    }
}
