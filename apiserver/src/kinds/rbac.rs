//! Roles and bindings.

use machinery::names;
use machinery::status::FieldError;
use serde_json::json;

use super::at::At;
use super::checks::{self, Errors};
use super::json::{at, items_mut, same, set, text};
use super::kind::{Kind, path_segment};
use crate::authz::RBAC_GROUP;
use crate::contract::{Object, RequestContext};

/// The rows of these kinds.
pub const KINDS: &[Kind] = &[
    Kind { check: check_role, name: path_segment, ..Kind::new(RBAC_GROUP, "roles") },
    Kind { check: check_cluster_role, name: path_segment, ..Kind::new(RBAC_GROUP, "clusterroles") },
    Kind { default, check: check_binding, name: path_segment, ..Kind::new(RBAC_GROUP, "rolebindings") },
    Kind {
        default,
        check: check_binding,
        name: path_segment,
        ..Kind::new(RBAC_GROUP, "clusterrolebindings")
    },
];

fn default(binding: &mut Object) {
    for subject in items_mut(binding, &["subjects"]) {
        if matches!(text(subject, &["kind"]), "User" | "Group") && text(subject, &["apiGroup"]).is_empty() {
            set(subject, &["apiGroup"], RBAC_GROUP);
        }
    }
}

fn check_role(_: &RequestContext, new: &Object, _: Option<&Object>, errors: &mut Errors) {
    let root = At::root(new);
    root.get("rules").items().for_each(|rule| check_rule(&rule, true, errors));
}

fn check_cluster_role(_: &RequestContext, new: &Object, _: Option<&Object>, errors: &mut Errors) {
    let root = At::root(new);
    root.get("rules").items().for_each(|rule| check_rule(&rule, false, errors));
    let aggregation = root.get("aggregationRule");
    let selectors = aggregation.get("clusterRoleSelectors");
    if aggregation.is_set() && selectors.is_empty() {
        let detail = "at least one clusterRoleSelector required if aggregationRule is non-nil";
        errors.push(FieldError::required(&selectors, detail));
    }
    selectors.items().for_each(|selector| errors.extend(checks::label_selector(&selector)));
}

fn check_rule(rule: &At<'_, '_>, namespaced: bool, errors: &mut Errors) {
    let of = |name| rule.get(name);
    if of("verbs").is_empty() {
        errors.push(FieldError::required(&of("verbs"), "verbs must contain at least one value"));
    }
    let urls = of("nonResourceURLs");
    if !urls.is_empty() {
        let mut refuse = |detail: &str| errors.push(FieldError::invalid(&urls, urls.value.clone(), detail));
        if namespaced {
            refuse("namespaced rules cannot apply to non-resource URLs");
        }
        if ["apiGroups", "resources", "resourceNames"].iter().any(|name| !rule.get(name).is_empty()) {
            refuse("rules cannot apply to both regular resources and non-resource URLs");
        }
        return;
    }
    if of("apiGroups").is_empty() {
        errors.push(FieldError::required(
            &of("apiGroups"),
            "resource rules must supply at least one api group",
        ));
    }
    if of("resources").is_empty() {
        errors
            .push(FieldError::required(&of("resources"), "resource rules must supply at least one resource"));
    }
}

fn check_binding(_: &RequestContext, new: &Object, old: Option<&Object>, errors: &mut Errors) {
    let namespaced = text(new, &["kind"]) == "RoleBinding";
    let root = At::root(new);
    let role = root.get("roleRef");
    let (group, kind, name) = (role.get("apiGroup"), role.get("kind"), role.get("name"));
    if group.text() != RBAC_GROUP {
        errors.push(FieldError::not_supported(&group, group.text(), &[RBAC_GROUP]));
    }
    let kinds: &[&str] = if namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    if !kinds.contains(&kind.text()) {
        errors.push(FieldError::not_supported(&kind, kind.text(), kinds));
    }
    if !name.has() {
        errors.push(FieldError::required(&name, ""));
    } else {
        errors.extend(checks::invalid(&name, names::path_segment_name(name.text())));
    }
    for subject in root.get("subjects").items() {
        check_subject(&subject, namespaced, errors);
    }
    if old.is_some_and(|old| !same(role.value, at(old, &["roleRef"]))) {
        let shown = json!({"APIGroup": group.text(), "Kind": kind.text(), "Name": name.text()});
        errors.push(FieldError::invalid(&role, shown, "cannot change roleRef"));
    }
}

fn check_subject(subject: &At<'_, '_>, namespaced: bool, errors: &mut Errors) {
    let (kind, name, group) = (subject.get("kind"), subject.get("name"), subject.get("apiGroup"));
    if !name.has() {
        errors.push(FieldError::required(&name, ""));
    }
    match kind.text() {
        "ServiceAccount" => {
            if name.has() {
                errors.extend(checks::named("subdomain", &name));
            }
            if group.has() {
                errors.push(FieldError::not_supported(&group, group.text(), &[""]));
            }
            if !namespaced && !subject.get("namespace").has() {
                errors.push(FieldError::required(&subject.get("namespace"), ""));
            }
        }
        "User" | "Group" => {
            if group.text() != RBAC_GROUP {
                errors.push(FieldError::not_supported(&group, group.text(), &[RBAC_GROUP]));
            }
        }
        other => {
            errors.push(FieldError::not_supported(&kind, other, &["ServiceAccount", "User", "Group"]));
        }
    }
}
