//! FlowSchema and PriorityLevelConfiguration.

use machinery::names;
use machinery::status::FieldError;

use super::at::At;
use super::checks::{self, Errors};
use super::json::text;
use super::kind::Kind;
use crate::contract::{Object, RequestContext};

const GROUP: &str = "flowcontrol.apiserver.k8s.io";
const PRECEDENCE_MAX: i64 = 10000;
const DISTINGUISHERS: [&str; 2] = ["ByNamespace", "ByUser"];
const SUBJECTS: [(&str, &str); 3] =
    [("Group", "group"), ("ServiceAccount", "serviceAccount"), ("User", "user")];
const SUBJECT_KINDS: [&str; 3] = ["Group", "ServiceAccount", "User"];
const LEVEL_TYPES: [&str; 2] = ["Exempt", "Limited"];
const RESPONSES: [&str; 2] = ["Queue", "Reject"];
const VERBS: [&str; 9] =
    ["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];
const QUEUES_MAX: i64 = 10_000_000;

/// The rows of these kinds.
pub const KINDS: &[Kind] = &[
    Kind { check: check_schema, ..Kind::new(GROUP, "flowschemas") },
    Kind { check: check_level, ..Kind::new(GROUP, "prioritylevelconfigurations") },
];

fn check_schema(_: &RequestContext, new: &Object, _: Option<&Object>, errors: &mut Errors) {
    let root = At::root(new);
    let spec = root.get("spec");
    let precedence = spec.get("matchingPrecedence");
    let number = precedence.int().unwrap_or_default();
    if number <= 0 {
        errors.push(FieldError::invalid(&precedence, number, "must be a positive value"));
    }
    if number > PRECEDENCE_MAX {
        let detail = format!("must not be greater than {PRECEDENCE_MAX}");
        errors.push(FieldError::invalid(&precedence, number, detail));
    }
    if number == 1 && text(new, &["metadata", "name"]) != "exempt" {
        let detail = "only the schema named 'exempt' may have matchingPrecedence 1";
        errors.push(FieldError::invalid(&precedence, number, detail));
    }
    let method = spec.get("distinguisherMethod");
    let kind = method.get("type");
    if method.is_set() && !DISTINGUISHERS.contains(&kind.text()) {
        errors.push(FieldError::not_supported(&kind, method.value.clone(), &DISTINGUISHERS));
    }
    let reference = spec.get("priorityLevelConfiguration");
    let name = reference.get("name");
    if name.has() {
        errors.extend(checks::invalid(&name, names::dns1123_subdomain(name.text())));
    } else {
        errors.push(FieldError::required(&name, "must reference a priority level"));
    }
    spec.get("rules").items().for_each(|rule| check_rule(&rule, errors));
}

fn check_rule(rule: &At<'_, '_>, errors: &mut Errors) {
    let (subjects, resources, others) =
        (rule.get("subjects"), rule.get("resourceRules"), rule.get("nonResourceRules"));
    if subjects.is_empty() {
        errors.push(FieldError::required(&subjects, "subjects must contain at least one value"));
    }
    subjects.items().for_each(|subject| check_subject(&subject, errors));
    if resources.is_empty() && others.is_empty() {
        let detail = "at least one of resourceRules and nonResourceRules has to be non-empty";
        errors.push(FieldError::required(rule, detail));
    }
    for resource in resources.items() {
        verbs(&resource.get("verbs"), errors);
        let (groups, names) = (resource.get("apiGroups"), resource.get("resources"));
        some(&groups, "resource rules must supply at least one api group", "api groups", errors);
        some(&names, "resource rules must supply at least one resource", "resources", errors);
        let namespaces = resource.get("namespaces");
        if namespaces.is_empty() && resource.get("clusterScope").flag() != Some(true) {
            let detail = "resource rules that are not cluster scoped must supply at least one namespace";
            errors.push(FieldError::required(&namespaces, detail));
        }
    }
    for other in others.items() {
        verbs(&other.get("verbs"), errors);
        let urls = other.get("nonResourceURLs");
        some(&urls, "nonResourceURLs must contain at least one value", "non-resource URLs", errors);
    }
}

/// A list that is not empty, and in which `*` stands alone.
fn some(list: &At<'_, '_>, missing: &str, others: &str, errors: &mut Errors) {
    if list.is_empty() {
        errors.push(FieldError::required(list, missing));
    } else if list.len() > 1 && list.items().any(|item| item.text() == "*") {
        let detail = format!("if '*' is present, must not specify other {others}");
        errors.push(FieldError::invalid(list, list.value.clone(), detail));
    }
}

fn verbs(list: &At<'_, '_>, errors: &mut Errors) {
    some(list, "verbs must contain at least one value", "verbs", errors);
    let star = list.items().any(|verb| verb.text() == "*");
    if !star && list.items().any(|verb| !VERBS.contains(&verb.text())) {
        errors.push(FieldError::not_supported(list, list.value.clone(), &VERBS));
    }
}

fn check_subject(subject: &At<'_, '_>, errors: &mut Errors) {
    let kind = subject.get("kind");
    let Some((_, own)) = SUBJECTS.iter().find(|(name, _)| *name == kind.text()) else {
        errors.push(FieldError::not_supported(&kind, kind.text(), &SUBJECT_KINDS));
        return;
    };
    let value = subject.get(own);
    if value.is_set() {
        let (name, namespace) = (value.get("name"), value.get("namespace"));
        if !name.has() {
            errors.push(FieldError::required(&name, ""));
        }
        if *own == "serviceAccount" && !namespace.has() {
            errors.push(FieldError::required(&namespace, "must specify namespace for service account"));
        }
    } else {
        let detail = format!("{own} is required when subject kind is '{}'", kind.text());
        errors.push(FieldError::required(&value, detail));
    }
    for (other, field) in SUBJECTS.iter().filter(|(_, field)| field != own) {
        if subject.get(field).is_set() {
            let detail = format!("{field} is forbidden when subject kind is not '{other}'");
            errors.push(FieldError::forbidden(&subject.get(field), detail));
        }
    }
}

fn check_level(_: &RequestContext, new: &Object, _: Option<&Object>, errors: &mut Errors) {
    let root = At::root(new);
    let spec = root.get("spec");
    let (kind, limited, exempt) = (spec.get("type"), spec.get("limited"), spec.get("exempt"));
    let name = text(new, &["metadata", "name"]);
    if (name == "exempt") != (kind.text() == "Exempt") {
        let detail = "must be 'Exempt' if and only if `name` is 'exempt'";
        errors.push(FieldError::invalid(&kind, kind.text(), detail));
    }
    match kind.text() {
        "Exempt" if limited.is_set() => {
            let detail = "must be nil if the type is not Limited";
            errors.push(FieldError::forbidden(&limited, detail));
        }
        "Limited" if exempt.is_set() => {
            errors.push(FieldError::forbidden(&exempt, "must be nil if the type is Limited"));
        }
        "Limited" if !limited.is_set() => {
            errors.push(FieldError::required(&limited, "must not be empty when type is Limited"));
        }
        "Limited" => check_limited(&limited, errors),
        "Exempt" => {}
        other => errors.push(FieldError::not_supported(&kind, other, &LEVEL_TYPES)),
    }
}

fn check_limited(limited: &At<'_, '_>, errors: &mut Errors) {
    for (field, detail) in [
        ("nominalConcurrencyShares", "must be a non-negative integer"),
        ("lendablePercent", "must be between 0 and 100, inclusive"),
    ] {
        let value = limited.get(field);
        let top = if field == "lendablePercent" { 100 } else { i64::MAX };
        if let Some(number) = value.int().filter(|number| !(0..=top).contains(number)) {
            errors.push(FieldError::invalid(&value, number, detail));
        }
    }
    let response = limited.get("limitResponse");
    let (kind, queuing) = (response.get("type"), response.get("queuing"));
    match kind.text() {
        "Reject" if queuing.is_set() => {
            let detail = "must be nil if limited.limitResponse.type is not Limited";
            errors.push(FieldError::forbidden(&queuing, detail));
        }
        "Queue" if !queuing.is_set() => {
            let detail = "must not be empty if limited.limitResponse.type is Limited";
            errors.push(FieldError::required(&queuing, detail));
        }
        "Queue" => check_queuing(&queuing, errors),
        "Reject" => {}
        other => errors.push(FieldError::not_supported(&kind, other, &RESPONSES)),
    }
}

fn check_queuing(queuing: &At<'_, '_>, errors: &mut Errors) {
    let (length, queues, hand) =
        (queuing.get("queueLengthLimit"), queuing.get("queues"), queuing.get("handSize"));
    let of = |at: &At<'_, '_>| at.int().unwrap_or_default();
    if of(&length) <= 0 {
        errors.push(FieldError::invalid(&length, of(&length), "must be positive"));
    }
    if of(&queues) <= 0 {
        errors.push(FieldError::invalid(&queues, of(&queues), "must be positive"));
    } else if of(&queues) > QUEUES_MAX {
        let detail = format!("must not be greater than {QUEUES_MAX}");
        errors.push(FieldError::invalid(&queues, of(&queues), detail));
    }
    if of(&hand) <= 0 {
        errors.push(FieldError::invalid(&hand, of(&hand), "must be positive"));
    } else if of(&hand) > of(&queues) {
        let detail = format!("should not be greater than queues ({})", of(&queues));
        errors.push(FieldError::invalid(&hand, of(&hand), detail));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn texts(check: impl Fn(&At<'_, '_>, &mut Errors), value: Value) -> Vec<String> {
        let mut errors = Errors::new();
        check(&At::placed("r", &value), &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn rules() {
        let rule = json!({"subjects": [{"kind": "User", "user": {"name": "*"}}],
            "resourceRules": [{"verbs": ["get"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true}]});
        assert_eq!(texts(check_rule, rule), [""; 0]);
        let subject = json!({"kind": "User", "group": {"name": "g"}});
        assert_eq!(
            texts(check_subject, subject),
            [
                "r.user: Required value: user is required when subject kind is 'User'",
                "r.group: Forbidden: group is forbidden when subject kind is not 'Group'",
            ]
        );
    }

    #[test]
    fn queues() {
        let queuing = json!({"queueLengthLimit": 1, "queues": 4, "handSize": 8});
        let expected = ["r.handSize: Invalid value: 8: should not be greater than queues (4)"];
        assert_eq!(texts(check_queuing, queuing), expected);
    }
}
