//! Validation of a pod's status: what ended stays ended.

use machinery::names;
use machinery::status::FieldError;
use serde_json::Value;

use crate::contract::{Object, RequestContext};
use crate::kinds::at::At;
use crate::kinds::checks::{self, Errors, immutable};
use crate::kinds::json::{at, int, is_set, items, text};

const SYSTEM_CONDITIONS: [&str; 3] = ["PodScheduled", "Ready", "Initialized"];

/// The status against the old one.
pub fn check(_: &RequestContext, new: &Object, old: Option<&Object>, errors: &mut Errors) {
    let Some(old) = old else { return };
    let root = At::root(new);
    let status = root.get("status");
    conditions(&status.get("conditions"), errors);
    if text(new, &["spec", "nodeName"]) != text(old, &["spec", "nodeName"]) {
        errors.push(FieldError::forbidden(&status.get("nodeName"), "may not be changed directly"));
    }
    nominated(&status.get("nominatedNodeName"), old, errors);
    non_negative(&status.get("observedGeneration"), errors);
    if is_set(old, &["status", "qosClass"]) {
        errors.extend(immutable(&status.get("qosClass"), at(old, &["status", "qosClass"])));
    }
    for (statuses, list) in [
        ("containerStatuses", "containers"),
        ("initContainerStatuses", "initContainers"),
        ("ephemeralContainerStatuses", ""),
    ] {
        if list.is_empty() || !restart_together(old) {
            transitions(&status, statuses, list, old, errors);
        }
    }
    claim_statuses(&status.get("resourceClaimStatuses"), new, errors);
    for list in ["podIPs", "hostIPs"] {
        addresses(&status.get(list), errors);
    }
}

fn non_negative(at: &At<'_, '_>, errors: &mut Errors) {
    if let Some(number) = at.int().filter(|number| *number < 0) {
        errors.push(FieldError::invalid(at, number, "must be a non-negative integer"));
    }
}

fn conditions(list: &At<'_, '_>, errors: &mut Errors) {
    for condition in list.items() {
        non_negative(&condition.get("observedGeneration"), errors);
        let kind = condition.get("type").text();
        if !SYSTEM_CONDITIONS.contains(&kind) {
            // The capital letter is upstream's.
            let place = condition.get("Type");
            errors.extend(
                names::qualified_name(kind).into_iter().map(|text| FieldError::invalid(&place, kind, text)),
            );
        }
    }
}

fn nominated(name: &At<'_, '_>, old: &Object, errors: &mut Errors) {
    if !name.has() || name.text() == text(old, &["status", "nominatedNodeName"]) {
        return;
    }
    errors.extend(checks::invalid(name, names::dns1123_subdomain(name.text())));
    if !text(old, &["spec", "nodeName"]).is_empty() {
        let detail = "may not be set on pods that are already bound to a node";
        errors.push(FieldError::forbidden(name, detail));
    }
}

/// Whether the end of some container starts all of them again, whatever their own policies say.
fn restart_together(pod: &Object) -> bool {
    let lists = ["containers", "initContainers"];
    let containers = lists.iter().flat_map(|list| items(pod, &["spec", list]));
    let mut rules = containers.flat_map(|container| items(container, &["restartPolicyRules"]));
    rules.any(|rule| text(rule, &["action"]) == "RestartAllContainers")
}

/// A container that terminated for good does not run again.
fn transitions(status: &At<'_, '_>, statuses: &str, list: &str, old: &Object, errors: &mut Errors) {
    let policy = text(old, &["spec", "restartPolicy"]);
    let now = status.get(statuses);
    for (index, before) in items(old, &["status", statuses]).iter().enumerate() {
        let ended = at(before, &["state", "terminated"]);
        let name = text(before, &["name"]);
        if ended.is_null() || (!list.is_empty() && may_restart(old, list, name, policy, ended)) {
            continue;
        }
        let revived =
            |one: &At<'_, '_>| one.get("name").text() == name && !is_set(one.value, &["state", "terminated"]);
        if now.items().any(|one| revived(&one)) {
            let place = format!("{now}[{index}].state");
            errors.push(FieldError::forbidden(&place, "may not be transitioned to non-terminated state"));
        }
    }
}

fn may_restart(pod: &Object, list: &str, name: &str, policy: &str, ended: &Value) -> bool {
    let container = items(pod, &["spec", list]).iter().find(|container| text(container, &["name"]) == name);
    let exit_code = int(ended, &["exitCode"]).unwrap_or_default();
    let Some(container) = container else { return policy == "Always" };
    let by_rule = items(container, &["restartPolicyRules"]).iter().any(|rule| {
        let codes = items(rule, &["exitCodes", "values"]);
        let listed = codes.iter().any(|code| code.as_i64() == Some(exit_code));
        listed == (text(rule, &["exitCodes", "operator"]) == "In")
    });
    let own = text(container, &["restartPolicy"]);
    by_rule
        || match if own.is_empty() { policy } else { own } {
            "Always" => true,
            "OnFailure" => exit_code != 0,
            _ => false,
        }
}

fn claim_statuses(list: &At<'_, '_>, pod: &Object, errors: &mut Errors) {
    let mut seen = Vec::new();
    for status in list.items() {
        let name = status.get("name");
        let known =
            items(pod, &["spec", "resourceClaims"]).iter().any(|claim| text(claim, &["name"]) == name.text());
        if !known {
            let detail = "must match the name of an entry in `spec.resourceClaims`";
            errors.push(FieldError::invalid(&name, name.text(), detail));
        }
        if seen.contains(&name.text()) {
            errors.push(FieldError::duplicate(&name, name.text()));
        }
        seen.push(name.text());
    }
}

fn addresses(list: &At<'_, '_>, errors: &mut Errors) {
    for address in list.items() {
        errors.extend(checks::ip(&address.get("ip")));
    }
    let families: Vec<bool> = list.items().map(|address| address.get("ip").text().contains(':')).collect();
    let dual = families.len() != 2 || families[0] != families[1];
    if families.len() > 2 || !dual {
        let detail = "may specify no more than one IP for each IP family";
        errors.push(FieldError::invalid(list, list.value.clone(), detail));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn restarts() {
        let check = |policy: &str, own: Value, exit: i64, expected: bool| {
            let mut container = json!({"name": "a"});
            if !own.is_null() {
                container["restartPolicy"] = own;
            }
            let pod = json!({"spec": {"containers": [container]}});
            let got = may_restart(&pod, "containers", "a", policy, &json!({"exitCode": exit}));
            assert_eq!(got, expected, "{policy} {exit}");
        };
        check("Always", Value::Null, 0, true);
        check("Never", Value::Null, 1, false);
        check("OnFailure", Value::Null, 1, true);
        check("OnFailure", Value::Null, 0, false);
        check("Never", json!("Always"), 0, true);
    }

    #[test]
    fn one_rule_can_restart_all() {
        let check = |action: &str, list: &str, expected: bool| {
            let container = json!({"name": "a", "restartPolicyRules": [{"action": action}]});
            assert_eq!(restart_together(&json!({"spec": {list: [container]}})), expected, "{action}");
        };
        check("RestartAllContainers", "containers", true);
        check("RestartAllContainers", "initContainers", true);
        check("Restart", "containers", false);
    }
}
