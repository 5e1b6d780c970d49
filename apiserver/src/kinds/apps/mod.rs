//! Workloads that keep pods running: Deployment, ReplicaSet, ReplicationController, StatefulSet, DaemonSet, and the
//! ControllerRevisions behind two of them.

pub mod daemon_set;
pub mod defaults;
pub mod deployment;
pub mod replicas;
pub mod stateful_set;
pub mod status;

use machinery::selector::Labels;
use machinery::status::FieldError;

use super::at::At;
use super::checks::{self, Errors, IMMUTABLE};
use super::json::{at, is_set};
use super::kind::{Kind, label};
use super::pod::validate;
use crate::contract::{Object, RequestContext};

/// The rows of these kinds.
pub const KINDS: &[Kind] = &[
    Kind { default: defaults::deployment, check: deployment::check, ..Kind::new("apps", "deployments") },
    Kind { check: deployment::check_status, ..Kind::sub("apps", "deployments", "status") },
    Kind { default: defaults::template, check: replicas::check_set, ..Kind::new("apps", "replicasets") },
    Kind { check: replicas::check_status, ..Kind::sub("apps", "replicasets", "status") },
    Kind {
        default: defaults::replication_controller,
        check: replicas::check_controller,
        ..Kind::new("", "replicationcontrollers")
    },
    Kind { check: replicas::check_status, ..Kind::sub("", "replicationcontrollers", "status") },
    Kind {
        default: defaults::stateful_set,
        check: stateful_set::check,
        name: label,
        ..Kind::new("apps", "statefulsets")
    },
    Kind { check: stateful_set::check_status, ..Kind::sub("apps", "statefulsets", "status") },
    Kind {
        default: defaults::daemon_set,
        create: daemon_set::create,
        update: daemon_set::update,
        check: daemon_set::check,
        ..Kind::new("apps", "daemonsets")
    },
    Kind { check: daemon_set::check_status, ..Kind::sub("apps", "daemonsets", "status") },
    Kind { check: check_revision, ..Kind::new("apps", "controllerrevisions") },
];

/// A selector must be there, not be empty, and match the template; `kind` completes upstream's sentence.
fn selector_and_template(spec: &At<'_, '_>, kind: &str, errors: &mut Errors) {
    let selector = spec.get("selector");
    let template = spec.get("template");
    if !selector.is_set() {
        errors.push(FieldError::required(&selector, ""));
    } else {
        errors.extend(checks::label_selector(&selector));
        if selector.get("matchLabels").is_empty() && selector.get("matchExpressions").is_empty() {
            let detail = format!("empty selector is invalid for {kind}");
            errors.push(FieldError::invalid(&selector, selector.value.clone(), detail));
        }
    }
    match Labels::from_value(selector.value) {
        Err(_) => {
            errors.push(FieldError::invalid(&selector, selector.value.clone(), "invalid label selector"))
        }
        Ok(parsed) => {
            if !selector.is_set() {
                // A selector that is not there selects nothing.
                mismatch(&template, errors);
            }
            matches_template(selector.is_set().then_some(&parsed), &template, errors);
        }
    }
}

/// The labels of the template must be what the selector selects; no selector means that this is not checked here.
fn matches_template(selector: Option<&Labels>, template: &At<'_, '_>, errors: &mut Errors) {
    let labels = at(template.value, &["metadata", "labels"]);
    if selector.is_some_and(|selector| !selector.requirements().is_empty() && !selector.matches(labels)) {
        mismatch(template, errors);
    }
    validate::template(template, errors);
}

fn mismatch(template: &At<'_, '_>, errors: &mut Errors) {
    let metadata = template.get("metadata");
    let labels = metadata.get("labels");
    let detail = "`selector` does not match template `labels`";
    errors.push(FieldError::invalid(&labels, labels.value.clone(), detail));
}

/// Templates of these kinds restart always and have no deadline; `kind` completes upstream's sentence.
fn runs_forever(template: &At<'_, '_>, kind: &str, errors: &mut Errors) {
    let spec = template.get("spec");
    let policy = spec.get("restartPolicy");
    if policy.text() != "Always" {
        errors.push(FieldError::not_supported(&policy, policy.text(), &["Always"]));
    }
    let deadline = spec.get("activeDeadlineSeconds");
    if deadline.is_set() {
        let detail = format!("activeDeadlineSeconds in {kind} is not Supported");
        errors.push(FieldError::forbidden(&deadline, detail));
    }
}

/// The selector is there for life.
fn selector_is_fixed(new: &Object, old: Option<&Object>, errors: &mut Errors) {
    if let Some(old) = old {
        let root = At::root(new);
        let spec = root.get("spec");
        errors.extend(checks::immutable(&spec.get("selector"), at(old, &["spec", "selector"])));
    }
}

fn check_revision(_: &RequestContext, new: &Object, old: Option<&Object>, errors: &mut Errors) {
    let root = At::root(new);
    let data = root.get("data");
    match old {
        Some(old) if at(old, &["data"]) != data.value => {
            errors.push(FieldError::invalid(&data, data.value.clone(), IMMUTABLE));
        }
        None if !is_set(new, &["data"]) => errors.push(FieldError::required(&data, "data is mandatory")),
        None if !data.value.is_object() => {
            errors.push(FieldError::required(&data, "data must be a valid JSON object"));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn labels_of_templates_match_selectors() {
        let wrong = |selector: Value, labels: Value| {
            let spec = json!({"selector": selector, "template": {"metadata": {"labels": labels}}});
            let mut errors = Errors::new();
            let template = At::root(&spec);
            let parsed = Labels::from_value(&selector).ok().filter(|_| !selector.is_null());
            matches_template(parsed.as_ref(), &template.get("template"), &mut errors);
            errors.iter().any(|error| error.field == "template.metadata.labels")
        };
        assert!(!wrong(json!({"matchLabels": {"a": "b"}}), json!({"a": "b"})));
        assert!(wrong(json!({"matchLabels": {"a": "b"}}), json!({"a": "c"})));
        assert!(!wrong(json!({}), json!({"a": "c"})));
        assert!(!wrong(Value::Null, json!({"a": "c"})));
    }
}
