//! Webhook configurations, admission policies and their bindings. Expressions are not compiled here.

use machinery::names;
use machinery::status::FieldError;
use serde_json::Value;

use super::at::At;
use super::checks::{self, Errors};
use super::kind::{self, Kind};
use crate::contract::{Object, RequestContext};

const GROUP: &str = "admissionregistration.k8s.io";
const FAILURE_POLICIES: [&str; 2] = ["Fail", "Ignore"];
const MATCH_POLICIES: [&str; 2] = ["Equivalent", "Exact"];
const REINVOCATION_POLICIES: [&str; 2] = ["IfNeeded", "Never"];
const SIDE_EFFECTS: [&str; 2] = ["None", "NoneOnDryRun"];
const OPERATIONS: [&str; 5] = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const SCOPES: [&str; 3] = ["*", "Cluster", "Namespaced"];
const REVIEW_VERSIONS: [&str; 2] = ["v1", "v1beta1"];
const ACTIONS: [&str; 3] = ["Audit", "Deny", "Warn"];
const CONDITIONS_MAX: usize = 64;
const URL_FORM: &str = "; desired format: https://host[/path]";

/// The rows of these kinds.
pub const KINDS: &[Kind] = &[
    Kind { check: check_webhooks, ..Kind::new(GROUP, "validatingwebhookconfigurations") },
    Kind { check: check_webhooks, ..Kind::new(GROUP, "mutatingwebhookconfigurations") },
    Kind { check: check_validating_policy, ..Kind::new(GROUP, "validatingadmissionpolicies") },
    Kind { check: check_mutating_policy, ..Kind::new(GROUP, "mutatingadmissionpolicies") },
    Kind { check: check_binding, ..Kind::new(GROUP, "validatingadmissionpolicybindings") },
    Kind { check: check_binding, ..Kind::new(GROUP, "mutatingadmissionpolicybindings") },
];

fn check_webhooks(_: &RequestContext, new: &Object, _: Option<&Object>, errors: &mut Errors) {
    let root = At::root(new);
    let hooks = root.get("webhooks");
    for (index, hook) in hooks.items().enumerate() {
        check_webhook(&hook, errors);
        review_versions(&hook.get("admissionReviewVersions"), errors);
        let name = hook.get("name");
        let repeated = hooks.items().take(index).any(|before| before.get("name").text() == name.text());
        if repeated && name.has() {
            errors.push(FieldError::duplicate(&name, name.text()));
        }
    }
}

fn check_webhook(hook: &At<'_, '_>, errors: &mut Errors) {
    let name = hook.get("name");
    qualified(&name, errors);
    hook.get("rules").items().for_each(|rule| check_rule(&rule, errors));
    one_of(&hook.get("failurePolicy"), &FAILURE_POLICIES, errors);
    one_of(&hook.get("matchPolicy"), &MATCH_POLICIES, errors);
    let effects = hook.get("sideEffects");
    if !effects.is_set() {
        errors.push(FieldError::required(&effects, "must specify one of None, NoneOnDryRun"));
    }
    one_of(&effects, &SIDE_EFFECTS, errors);
    let timeout = hook.get("timeoutSeconds");
    if let Some(seconds) = timeout.int().filter(|seconds| !(1..=30).contains(seconds)) {
        let detail = "the timeout value must be between 1 and 30 seconds";
        errors.push(FieldError::invalid(&timeout, seconds, detail));
    }
    errors.extend(checks::label_selector(&hook.get("namespaceSelector")));
    errors.extend(checks::label_selector(&hook.get("objectSelector")));
    one_of(&hook.get("reinvocationPolicy"), &REINVOCATION_POLICIES, errors);
    client_config(&hook.get("clientConfig"), errors);
    match_conditions(&hook.get("matchConditions"), errors);
}

fn one_of(value: &At<'_, '_>, allowed: &[&str], errors: &mut Errors) {
    if value.is_set() && !allowed.contains(&value.text()) {
        errors.push(FieldError::not_supported(value, value.text(), allowed));
    }
}

/// A name of at least three labels.
fn qualified(name: &At<'_, '_>, errors: &mut Errors) {
    if !name.has() {
        errors.push(FieldError::required(name, ""));
        return;
    }
    let texts = names::dns1123_subdomain(name.text());
    if !texts.is_empty() {
        errors.extend(checks::invalid(name, texts));
    } else if name.text().split('.').count() < 3 {
        let detail = "should be a domain with at least three segments separated by dots";
        errors.push(FieldError::invalid(name, name.text(), detail));
    }
}

/// `*` stands alone in its list.
fn lonely_star(list: &At<'_, '_>, what: &str, errors: &mut Errors) {
    if list.len() > 1 && list.items().any(|item| item.text() == "*") {
        let detail = format!("if '*' is present, must not specify other {what}");
        errors.push(FieldError::invalid(list, list.value.clone(), detail));
    }
}

fn check_rule(rule: &At<'_, '_>, errors: &mut Errors) {
    let operations = rule.get("operations");
    if operations.is_empty() {
        errors.push(FieldError::required(&operations, ""));
    }
    lonely_star(&operations, "operations", errors);
    for operation in operations.items().filter(|operation| !OPERATIONS.contains(&operation.text())) {
        errors.push(FieldError::not_supported(&operation, operation.text(), &OPERATIONS));
    }
    let (groups, versions) = (rule.get("apiGroups"), rule.get("apiVersions"));
    if groups.is_empty() {
        errors.push(FieldError::required(&groups, ""));
    }
    lonely_star(&groups, "API groups", errors);
    if versions.is_empty() {
        errors.push(FieldError::required(&versions, ""));
    }
    lonely_star(&versions, "API versions", errors);
    for version in versions.items().filter(|version| version.text().is_empty()) {
        errors.push(FieldError::required(&version, ""));
    }
    check_resources(&rule.get("resources"), errors);
    one_of(&rule.get("scope"), &SCOPES, errors);
}

fn check_resources(resources: &At<'_, '_>, errors: &mut Errors) {
    if resources.is_empty() {
        errors.push(FieldError::required(resources, ""));
    }
    let texts: Vec<&str> = resources.items().map(|resource| resource.text()).collect();
    let stars = |text: &&&str| text.split_once('/').map(|(whole, _)| whole) == Some("*");
    for resource in resources.items() {
        let text = resource.text();
        if text.is_empty() {
            errors.push(FieldError::required(&resource, ""));
            continue;
        }
        if text == "*/*" && texts.len() > 1 {
            let detail = "if '*/*' is present, must not specify other resources";
            errors.push(FieldError::invalid(resources, resources.value.clone(), detail));
        }
        let Some((whole, part)) = text.split_once('/') else { continue };
        let by_star = texts.iter().find(stars).filter(|star| **star == format!("*/{part}"));
        if whole != "*" && by_star.is_some() {
            let detail = format!("if '*/{part}' is present, must not specify {text}");
            errors.push(FieldError::invalid(&resource, text, detail));
        }
        if part != "*" && texts.iter().any(|other| *other == format!("{whole}/*")) {
            let detail = format!("if '{whole}/*' is present, must not specify {text}");
            errors.push(FieldError::invalid(&resource, text, detail));
        }
    }
    let plain = texts.iter().filter(|text| !text.contains('/')).count();
    if texts.contains(&"*") && plain > 1 {
        let detail = "if '*' is present, must not specify other resources without subresources";
        errors.push(FieldError::invalid(resources, resources.value.clone(), detail));
    }
}

fn review_versions(versions: &At<'_, '_>, errors: &mut Errors) {
    if versions.is_empty() {
        errors.push(FieldError::required(versions, "must specify one of v1, v1beta1"));
        return;
    }
    for (index, version) in versions.items().enumerate() {
        if versions.items().take(index).any(|before| before.text() == version.text()) {
            errors.push(FieldError::invalid(&version, version.text(), "duplicate version"));
            continue;
        }
        errors.extend(checks::invalid(&version, names::dns1035_label(version.text())));
    }
    if !versions.items().any(|version| REVIEW_VERSIONS.contains(&version.text())) {
        let detail = "must include at least one of v1, v1beta1";
        errors.push(FieldError::invalid(versions, versions.value.clone(), detail));
    }
}

fn client_config(config: &At<'_, '_>, errors: &mut Errors) {
    let (url, service) = (config.get("url"), config.get("service"));
    match (url.is_set(), service.is_set()) {
        (true, false) => webhook_url(&url, errors),
        (false, true) => webhook_service(&service, errors),
        _ => errors.push(FieldError::required(config, "exactly one of url or service is required")),
    }
}

/// The address of a webhook outside the cluster.
pub fn webhook_url(url: &At<'_, '_>, errors: &mut Errors) {
    let text = url.text();
    let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let authority = if scheme.is_empty() { "" } else { rest.split('/').next().unwrap_or_default() };
    let (user, host) =
        authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
    if scheme != "https" {
        let detail = format!("'https' is the only allowed URL scheme{URL_FORM}");
        errors.push(FieldError::invalid(url, scheme, detail));
    }
    if host.is_empty() {
        errors.push(FieldError::invalid(url, host, format!("host must be specified{URL_FORM}")));
    }
    if let Some(user) = user {
        errors.push(FieldError::invalid(url, user, "user information is not permitted in the URL"));
    }
    if !fragment.is_empty() {
        errors.push(FieldError::invalid(url, fragment, "fragments are not permitted in the URL"));
    }
    if !query.is_empty() {
        errors.push(FieldError::invalid(url, query, "query parameters are not permitted in the URL"));
    }
}

/// The service of a webhook inside the cluster.
pub fn webhook_service(service: &At<'_, '_>, errors: &mut Errors) {
    for field in ["name", "namespace"] {
        let value = service.get(field);
        if !value.has() {
            errors.push(FieldError::required(&value, ""));
        }
    }
    let port = service.get("port");
    let texts = names::port_num(port.int().unwrap_or(443));
    if !texts.is_empty() {
        let detail = format!("port is not valid: {}", texts.join(", "));
        errors.push(FieldError::invalid(&port, port.value.clone(), detail));
    }
    let path = service.get("path");
    let text = path.text();
    if matches!(text, "" | "/") {
        return;
    }
    if text == "//" {
        errors.push(FieldError::invalid(&path, text, "segment[0] may not be empty"));
        return;
    }
    if !text.starts_with('/') {
        errors.push(FieldError::invalid(&path, text, "must start with a '/'"));
    }
    let inner = text.get(1..).unwrap_or_default();
    for (index, step) in inner.strip_suffix('/').unwrap_or(inner).split('/').enumerate() {
        if step.is_empty() {
            errors.push(FieldError::invalid(&path, text, format!("segment[{index}] may not be empty")));
            continue;
        }
        for failure in names::dns1123_subdomain(step) {
            errors.push(FieldError::invalid(&path, text, format!("segment[{index}]: {failure}")));
        }
    }
}

fn match_conditions(conditions: &At<'_, '_>, errors: &mut Errors) {
    if conditions.len() > CONDITIONS_MAX {
        errors.push(FieldError::too_many(conditions, conditions.len(), CONDITIONS_MAX));
    }
    for condition in conditions.items() {
        let (name, expression) = (condition.get("name"), condition.get("expression"));
        if expression.text().trim().is_empty() {
            errors.push(FieldError::required(&expression, ""));
        }
        if name.has() {
            errors.extend(checks::named("qualified", &name));
        } else {
            errors.push(FieldError::required(&name, ""));
        }
    }
    errors.extend(checks::unique(conditions, "name"));
}

fn check_validating_policy(_: &RequestContext, new: &Object, _: Option<&Object>, errors: &mut Errors) {
    let root = At::root(new);
    let spec = root.get("spec");
    let (validations, annotations) = (spec.get("validations"), spec.get("auditAnnotations"));
    one_of(&spec.get("failurePolicy"), &FAILURE_POLICIES, errors);
    param_kind(&spec.get("paramKind"), errors);
    match_constraints(&spec.get("matchConstraints"), errors);
    match_conditions(&spec.get("matchConditions"), errors);
    variables(&spec.get("variables"), errors);
    if validations.is_empty() && annotations.is_empty() {
        let detail = "validations or auditAnnotations must contain at least one item";
        errors.push(FieldError::required(&validations, detail));
        errors.push(FieldError::required(&annotations, detail));
        return;
    }
    for validation in validations.items() {
        let expression = validation.get("expression");
        if expression.text().trim().is_empty() {
            errors.push(FieldError::required(&expression, "expression is not specified"));
        }
        let message = validation.get("message");
        if message.is_set() && message.text().trim().is_empty() {
            let detail = "message must be non-empty if specified";
            errors.push(FieldError::invalid(&message, message.text(), detail));
        } else if message.text().trim().contains('\n') {
            errors.push(FieldError::invalid(
                &message,
                message.text(),
                "message must not contain line breaks",
            ));
        }
    }
    errors.extend(checks::unique(&annotations, "key"));
}

fn check_mutating_policy(_: &RequestContext, new: &Object, _: Option<&Object>, errors: &mut Errors) {
    let root = At::root(new);
    let spec = root.get("spec");
    one_of(&spec.get("failurePolicy"), &FAILURE_POLICIES, errors);
    param_kind(&spec.get("paramKind"), errors);
    match_constraints(&spec.get("matchConstraints"), errors);
    match_conditions(&spec.get("matchConditions"), errors);
    variables(&spec.get("variables"), errors);
    let mutations = spec.get("mutations");
    if mutations.is_empty() {
        errors.push(FieldError::required(&mutations, "mutations must contain at least one item"));
    }
    let reinvocation = spec.get("reinvocationPolicy");
    if reinvocation.has() {
        one_of(&reinvocation, &REINVOCATION_POLICIES, errors);
    } else {
        errors.push(FieldError::required(&reinvocation, ""));
    }
}

fn param_kind(kind: &At<'_, '_>, errors: &mut Errors) {
    if !kind.is_set() {
        return;
    }
    let (version, name) = (kind.get("apiVersion"), kind.get("kind"));
    if !version.has() {
        errors.push(FieldError::required(&version, ""));
    }
    if !name.has() {
        errors.push(FieldError::required(&name, ""));
    } else {
        let lower = Value::from(name.text().to_lowercase());
        errors.extend(checks::invalid(&name, names::dns1035_label(lower.as_str().unwrap_or_default())));
    }
}

fn match_constraints(constraints: &At<'_, '_>, errors: &mut Errors) {
    if !constraints.is_set() {
        errors.push(FieldError::required(constraints, ""));
        return;
    }
    let rules = constraints.get("resourceRules");
    if rules.is_empty() {
        errors.push(FieldError::required(&rules, ""));
    }
    match_resources(constraints, errors);
}

fn match_resources(constraints: &At<'_, '_>, errors: &mut Errors) {
    one_of(&constraints.get("matchPolicy"), &MATCH_POLICIES, errors);
    errors.extend(checks::label_selector(&constraints.get("namespaceSelector")));
    errors.extend(checks::label_selector(&constraints.get("objectSelector")));
    for list in ["resourceRules", "excludeResourceRules"] {
        constraints.get(list).items().for_each(|rule| check_rule(&rule, errors));
    }
}

fn variables(list: &At<'_, '_>, errors: &mut Errors) {
    for variable in list.items() {
        let (name, expression) = (variable.get("name"), variable.get("expression"));
        if !name.has() {
            errors.push(FieldError::required(&name, "name is not specified"));
        } else {
            errors.extend(checks::named("cidentifier", &name));
        }
        if expression.text().trim().is_empty() {
            errors.push(FieldError::required(&expression, "expression is not specified"));
        }
    }
}

fn check_binding(_: &RequestContext, new: &Object, _: Option<&Object>, errors: &mut Errors) {
    let root = At::root(new);
    let (spec, kind) = (root.get("spec"), root.get("kind"));
    let (policy, param) = (spec.get("policyName"), spec.get("paramRef"));
    if policy.has() {
        errors.extend(checks::invalid(&policy, kind::subdomain(policy.text(), false)));
    } else {
        errors.push(FieldError::required(&policy, ""));
    }
    if param.is_set() {
        let (name, selector) = (param.get("name"), param.get("selector"));
        if !name.has() && !selector.is_set() {
            errors.push(FieldError::required(&param, "one of name or selector must be specified"));
        }
        if name.has() && selector.is_set() {
            let detail = "name and selector are mutually exclusive";
            errors.push(FieldError::forbidden(&name, detail));
            errors.push(FieldError::forbidden(&selector, detail));
        }
        let action = param.get("parameterNotFoundAction");
        match action.is_set() {
            true => one_of(&action, &["Allow", "Deny"], errors),
            false => errors.push(FieldError::required(&action, "")),
        }
    }
    match_resources(&spec.get("matchResources"), errors);
    if kind.text() == "ValidatingAdmissionPolicyBinding" {
        actions(&spec.get("validationActions"), errors);
    }
}

fn actions(list: &At<'_, '_>, errors: &mut Errors) {
    for (index, action) in list.items().enumerate() {
        if !ACTIONS.contains(&action.text()) {
            errors.push(FieldError::not_supported(&action, action.text(), &ACTIONS));
        }
        if list.items().take(index).any(|before| before.text() == action.text()) {
            errors.push(FieldError::duplicate(&action, action.text()));
        }
    }
    let both = ["Deny", "Warn"].iter().all(|wanted| list.items().any(|action| action.text() == *wanted));
    if both {
        let detail = "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)";
        errors.push(FieldError::invalid(list, list.value.clone(), detail));
    }
    if list.is_empty() {
        errors.push(FieldError::required(list, "at least one validation action is required"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn texts(check: impl Fn(&At<'_, '_>, &mut Errors), value: Value) -> Vec<String> {
        let mut errors = Errors::new();
        check(&At::placed("w", &value), &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn urls() {
        let check =
            |url: &str, expected: &[&str]| assert_eq!(texts(webhook_url, json!(url)), expected, "{url}");
        check("https://example.com/path", &[]);
        check(
            "http://u@h?q#f",
            &[
                r#"w: Invalid value: "http": 'https' is the only allowed URL scheme; desired format: https://host[/path]"#,
                r#"w: Invalid value: "u": user information is not permitted in the URL"#,
                r#"w: Invalid value: "f": fragments are not permitted in the URL"#,
                r#"w: Invalid value: "q": query parameters are not permitted in the URL"#,
            ],
        );
    }

    #[test]
    fn hooks() {
        let hook = json!({"name": "a.b.c", "sideEffects": "None", "clientConfig": {"service": {"name": "s", "namespace": "n", "port": 443}},
            "rules": [{"operations": ["*", "CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]});
        assert_eq!(
            texts(check_webhook, hook),
            [
                r#"w.rules[0].operations: Invalid value: ["*","CREATE"]: if '*' is present, must not specify other operations"#,
            ]
        );
        assert_eq!(
            texts(check_webhook, json!({"name": "a.b"})),
            [
                r#"w.name: Invalid value: "a.b": should be a domain with at least three segments separated by dots"#,
                "w.sideEffects: Required value: must specify one of None, NoneOnDryRun",
                "w.clientConfig: Required value: exactly one of url or service is required",
            ]
        );
        assert_eq!(
            texts(review_versions, json!(["v2"])),
            [r#"w: Invalid value: ["v2"]: must include at least one of v1, v1beta1"#,]
        );
    }
}
