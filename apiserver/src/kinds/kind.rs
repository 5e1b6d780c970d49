//! The description of a kind's rules: functions where it has some of its own, nothing where the tables suffice.

use async_trait::async_trait;
use machinery::resources::split_api_version;
use machinery::status::FieldError;

use super::checks::Errors;
use super::json::{is_set, set, text};
use super::pod::warnings;
use super::rules;
use crate::contract::{KindHooks, Object, RequestContext};

/// What one built-in resource (or subresource) adds to the tables.
#[derive(Clone, Copy)]
pub struct Kind {
    pub group: &'static str,
    pub resource: &'static str,
    /// Empty for the resource itself.
    pub subresource: &'static str,
    /// Whether the table of [`rules`] is applied; subresources that only touch the status say no.
    pub table_rules: bool,
    pub default: fn(&mut Object),
    pub create: fn(&RequestContext, &mut Object),
    pub update: fn(&RequestContext, &mut Object, &Object),
    /// Everything else that must hold; `old` is absent on create.
    pub check: fn(&RequestContext, &Object, Option<&Object>, &mut Errors),
    pub grace: fn(&Object, Option<i64>) -> Option<i64>,
    pub name: fn(&str, bool) -> Vec<String>,
}

impl Kind {
    /// A kind without rules of its own.
    pub const fn new(group: &'static str, resource: &'static str) -> Self {
        Kind {
            group,
            resource,
            subresource: "",
            table_rules: true,
            default: |_| {},
            create: |_, _| {},
            update: |_, _, _| {},
            check: |_, _, _, _| {},
            grace: |_, _| None,
            name: subdomain,
        }
    }

    /// A subresource of a kind without rules of its own.
    pub const fn sub(group: &'static str, resource: &'static str, subresource: &'static str) -> Self {
        Kind { subresource, table_rules: false, ..Kind::new(group, resource) }
    }
}

#[async_trait]
impl KindHooks for Kind {
    fn default(&self, object: &mut Object) {
        (self.default)(object);
    }

    fn prepare_for_create(&self, ctx: &RequestContext, object: &mut Object) {
        (self.create)(ctx, object);
        fresh_status(self.group, self.resource, object);
        self.warn(ctx, object, None);
    }

    fn prepare_for_update(&self, ctx: &RequestContext, new: &mut Object, old: &Object) {
        (self.update)(ctx, new, old);
        self.warn(ctx, new, Some(old));
    }

    fn validate_create(&self, ctx: &RequestContext, object: &Object) -> Vec<FieldError> {
        self.validate(ctx, object, None)
    }

    fn validate_update(&self, ctx: &RequestContext, new: &Object, old: &Object) -> Vec<FieldError> {
        self.validate(ctx, new, Some(old))
    }

    fn grace_period(&self, _: &RequestContext, object: &Object, asked: Option<i64>) -> Option<i64> {
        (self.grace)(object, asked)
    }

    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String> {
        (self.name)(name, prefix)
    }
}

/// The status that a new object is answered with: the members Go never leaves out.
const FRESH: &[(&str, &str, &str)] = &[
    ("", "replicationcontrollers", r#"{"replicas":0}"#),
    ("", "resourcequotas", "{}"),
    ("apps", "deployments", "{}"),
    ("apps", "replicasets", r#"{"replicas":0}"#),
    ("apps", "statefulsets", r#"{"replicas":0,"availableReplicas":0}"#),
    (
        "apps",
        "daemonsets",
        r#"{"currentNumberScheduled":0,"numberMisscheduled":0,"desiredNumberScheduled":0,"numberReady":0}"#,
    ),
    ("batch", "jobs", "{}"),
    ("batch", "cronjobs", "{}"),
    (
        "policy",
        "poddisruptionbudgets",
        r#"{"disruptionsAllowed":0,"currentHealthy":0,"desiredHealthy":0,"expectedPods":0}"#,
    ),
    ("autoscaling", "horizontalpodautoscalers", r#"{"desiredReplicas":0}"#),
    ("admissionregistration.k8s.io", "validatingadmissionpolicies", "{}"),
    ("networking.k8s.io", "servicecidrs", "{}"),
    ("networking.k8s.io", "ingresses", r#"{"loadBalancer":{}}"#),
    ("flowcontrol.apiserver.k8s.io", "flowschemas", "{}"),
    ("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations", "{}"),
    ("resource.k8s.io", "resourceclaims", "{}"),
];

/// Gives a new object the status that Go's zero value would print.
fn fresh_status(group: &str, resource: &str, object: &mut Object) {
    let row = FRESH.iter().find(|row| (row.0, row.1) == (group, resource));
    if let Some((_, _, status)) = row
        && !is_set(object, &["status"])
    {
        let status: serde_json::Value = serde_json::from_str(status).unwrap_or_default();
        set(object, &["status"], status);
    }
}

impl Kind {
    fn warn(&self, ctx: &RequestContext, new: &Object, old: Option<&Object>) {
        if self.subresource.is_empty() {
            warnings::on_write(ctx, self.group, self.resource, new, old);
        }
    }

    fn validate(&self, ctx: &RequestContext, object: &Object, old: Option<&Object>) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if self.table_rules {
            let (group, version) = split_api_version(text(object, &["apiVersion"]));
            errors = rules::check(group, version, text(object, &["kind"]), object);
        }
        (self.check)(ctx, object, old, &mut errors);
        errors
    }
}

/// Names by a rule of `machinery::names`; a prefix for `generateName` may end in a dash.
pub fn by_rule(rule: fn(&str) -> Vec<String>, name: &str, prefix: bool) -> Vec<String> {
    if prefix { rule(&machinery::names::mask_trailing_dash(name)) } else { rule(name) }
}

/// Names that are DNS subdomains.
pub fn subdomain(name: &str, prefix: bool) -> Vec<String> {
    by_rule(machinery::names::dns1123_subdomain, name, prefix)
}

/// Names that are DNS labels.
pub fn label(name: &str, prefix: bool) -> Vec<String> {
    by_rule(machinery::names::dns1123_label, name, prefix)
}

/// Names that are RFC 1035 labels.
pub fn dns1035(name: &str, prefix: bool) -> Vec<String> {
    by_rule(machinery::names::dns1035_label, name, prefix)
}

/// Names that may stand in a path.
pub fn path_segment(name: &str, prefix: bool) -> Vec<String> {
    if prefix {
        machinery::names::path_segment_prefix(name)
    } else {
        machinery::names::path_segment_name(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fresh_statuses_are_objects() {
        for (group, resource, _) in FRESH {
            let mut object = serde_json::json!({});
            fresh_status(group, resource, &mut object);
            assert!(object["status"].is_object(), "{group}/{resource}");
        }
    }
}
