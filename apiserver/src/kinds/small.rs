//! Kinds with a handful of rules each: PodDisruptionBudget, PriorityClass, Lease, RuntimeClass.

use machinery::status::FieldError;
use serde_json::Value;

use super::at::At;
use super::checks::{self, Errors, int_or_percent, named, percent_of};
use super::json::{at, is_set, remove, text};
use super::kind::{Kind, path_segment};
use super::pod::{requirements, scheduling};
use crate::contract::{Object, RequestContext};

const BUDGETS: &str = "poddisruptionbudgets";
const EVICTION_POLICIES: [&str; 2] = ["AlwaysAllow", "IfHealthyBudget"];
const PREEMPTION_POLICIES: [&str; 2] = ["PreemptLowerPriority", "Never"];
const SYSTEM_PREFIX: &str = "system-";
/// The classes with the reserved prefix, and their values.
const SYSTEM_CLASSES: [(&str, i64); 2] =
    [("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];
const HIGHEST_USER_PRIORITY: i64 = 1_000_000_000;
const LEASE_STRATEGIES: [&str; 1] = ["OldestEmulationVersion"];

/// The rows of these kinds.
pub const KINDS: &[Kind] = &[
    // Upstream does not check the names of budgets beyond what a path needs.
    Kind { check: check_budget, name: path_segment, ..Kind::new("policy", BUDGETS) },
    Kind { check: check_budget_status, ..Kind::sub("policy", BUDGETS, "status") },
    Kind { check: check_priority, ..Kind::new("scheduling.k8s.io", "priorityclasses") },
    Kind {
        create: |_, lease| drop_coordination(lease),
        update: |_, lease, old| {
            if !is_set(old, &["spec", "strategy"]) && !is_set(old, &["spec", "preferredHolder"]) {
                drop_coordination(lease);
            }
        },
        check: check_lease,
        ..Kind::new("coordination.k8s.io", "leases")
    },
    Kind { check: check_runtime_class, ..Kind::new("node.k8s.io", "runtimeclasses") },
];

fn check_budget(_: &RequestContext, new: &Object, _: Option<&Object>, errors: &mut Errors) {
    let root = At::root(new);
    let spec = root.get("spec");
    let limits = ["minAvailable", "maxUnavailable"].map(|field| spec.get(field));
    if limits.iter().all(At::is_set) {
        let detail = "minAvailable and maxUnavailable cannot be both set";
        errors.push(FieldError::invalid(&spec, spec.value.clone(), detail));
    }
    for limit in limits.iter().filter(|limit| limit.is_set()) {
        errors.extend(int_or_percent(limit));
        if percent_of(limit.value).is_some_and(|percent| percent > 100) {
            errors.push(FieldError::invalid(limit, limit.value.clone(), "must not be greater than 100%"));
        }
    }
    errors.extend(checks::label_selector(&spec.get("selector")));
    let policy = spec.get("unhealthyPodEvictionPolicy");
    if policy.is_set() && !EVICTION_POLICIES.contains(&policy.text()) {
        errors.push(FieldError::not_supported(&policy, policy.text(), &EVICTION_POLICIES));
    }
}

fn check_budget_status(_: &RequestContext, new: &Object, _: Option<&Object>, errors: &mut Errors) {
    let root = At::root(new);
    let status = root.get("status");
    for field in ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"] {
        errors.extend(checks::non_negative(&status.get(field)));
    }
}

fn check_priority(_: &RequestContext, new: &Object, old: Option<&Object>, errors: &mut Errors) {
    let root = At::root(new);
    let (value, policy) = (root.get("value"), root.get("preemptionPolicy"));
    let number = value.int().unwrap_or_default();
    if let Some(old) = old {
        if number != at(old, &["value"]).as_i64().unwrap_or_default() {
            errors.push(FieldError::forbidden(&value, "may not be changed in an update."));
        }
        errors.extend(checks::immutable(&policy, at(old, &["preemptionPolicy"])));
        return;
    }
    let name = text(new, &["metadata", "name"]);
    if name.starts_with(SYSTEM_PREFIX) {
        if let Err(why) = is_system_class(name, number, root.get("globalDefault").flag().unwrap_or_default())
        {
            let detail = format!(
                "priority class names with '{SYSTEM_PREFIX}' prefix are reserved for system use only. error: {why}"
            );
            errors.push(FieldError::forbidden(&"metadata.name", detail));
        }
    } else if number > HIGHEST_USER_PRIORITY {
        let detail = format!("maximum allowed value of a user defined priority is {HIGHEST_USER_PRIORITY}");
        errors.push(FieldError::forbidden(&value, detail));
    }
    if policy.is_set() && !PREEMPTION_POLICIES.contains(&policy.text()) {
        errors.push(FieldError::not_supported(&policy, policy.text(), &PREEMPTION_POLICIES));
    }
}

fn is_system_class(name: &str, value: i64, is_default: bool) -> Result<(), String> {
    let known = SYSTEM_CLASSES.iter().find(|(known, _)| *known == name);
    let (_, expected) = known.ok_or_else(|| format!("{name} is not a known system priority class"))?;
    if value != *expected {
        return Err(format!("value of {name} PriorityClass must be {expected}"));
    }
    if is_default {
        return Err(format!("globalDefault of {name} PriorityClass must be false"));
    }
    Ok(())
}

/// The fields of coordinated leader election, which is off.
fn drop_coordination(lease: &mut Object) {
    for field in ["strategy", "preferredHolder"] {
        remove(lease, &["spec", field]);
    }
}

fn check_lease(_: &RequestContext, new: &Object, _: Option<&Object>, errors: &mut Errors) {
    let root = At::root(new);
    let spec = root.get("spec");
    let duration = spec.get("leaseDurationSeconds");
    if let Some(seconds) = duration.int().filter(|seconds| *seconds <= 0) {
        errors.push(FieldError::invalid(&duration, seconds, "must be greater than 0"));
    }
    errors.extend(checks::non_negative(&spec.get("leaseTransitions")));
    let strategy = spec.get("strategy");
    if strategy.is_set() {
        if strategy.text().contains('/') {
            errors.extend(named("qualified", &strategy));
        } else if !LEASE_STRATEGIES.contains(&strategy.text()) {
            errors.push(FieldError::not_supported(&strategy, strategy.text(), &LEASE_STRATEGIES));
        }
    }
    let holder = spec.get("preferredHolder");
    if holder.has() && !strategy.has() {
        errors.push(FieldError::forbidden(&holder, "may only be specified if `strategy` is defined"));
    }
}

fn check_runtime_class(_: &RequestContext, new: &Object, old: Option<&Object>, errors: &mut Errors) {
    let root = At::root(new);
    let handler = root.get("handler");
    if let Some(old) = old {
        errors.extend(checks::immutable(&handler, at(old, &["handler"])));
        return;
    }
    if handler.has() {
        errors.extend(named("label", &handler));
    } else {
        errors.push(FieldError::required(&handler, ""));
    }
    overhead(&root.get("overhead"), errors);
    let scheduling = root.get("scheduling");
    errors.extend(checks::labels(&scheduling.get("nodeSelector")));
    let tolerations = scheduling.get("tolerations");
    scheduling::tolerations(&tolerations, errors);
    for (index, toleration) in tolerations.items().enumerate() {
        let key = |item: &Value| {
            ["key", "operator", "value", "effect"].map(|field| text(item, &[field]).to_owned())
        };
        if tolerations.items().take(index).any(|before| key(before.value) == key(toleration.value)) {
            errors.push(FieldError::duplicate(&toleration, toleration.value.clone()));
        }
    }
}

/// An overhead reads as limits of a container.
fn overhead(overhead: &At<'_, '_>, errors: &mut Errors) {
    let amounts = overhead.get("podFixed");
    if amounts.is_empty() {
        return;
    }
    let limits = serde_json::json!({"limits": amounts.value});
    requirements::container(&overhead.with(&limits), &[], errors);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn system_priorities() {
        let check = |name: &str, value: i64, expected: Result<(), &str>| {
            assert_eq!(is_system_class(name, value, false), expected.map_err(str::to_owned));
        };
        check("system-node-critical", 2_000_001_000, Ok(()));
        check("system-x", 1, Err("system-x is not a known system priority class"));
        check(
            "system-node-critical",
            1,
            Err("value of system-node-critical PriorityClass must be 2000001000"),
        );
    }

    #[test]
    fn overheads_are_limits() {
        let (mut errors, value) = (Errors::new(), json!({"podFixed": {"cpu": "-1"}}));
        overhead(&At::placed("overhead", &value), &mut errors);
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [r#"overhead.limits[cpu]: Invalid value: "-1": must be greater than or equal to 0"#]
        );
    }
}
