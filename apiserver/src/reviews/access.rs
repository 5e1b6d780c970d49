//! SubjectAccessReview and its self and local forms.

use machinery::status::{FieldError, Path, StatusError};
use serde_json::{Value, json};

use super::{AUTHORIZATION, Reviews};
use crate::contract::{Decision, Object, RequestContext, RequestInfo, UserInfo};
use crate::kinds::json::{at, entries, has, is_set, items, text, texts};

/// SubjectAccessReview: may somebody else?
pub async fn subject(reviews: &Reviews, review: Object) -> Result<Object, StatusError> {
    let mut errors = check_spec(&review, true);
    errors.extend(check_metadata(&review, false));
    finish_checks("SubjectAccessReview", errors)?;
    let user = user_of(&review["spec"]);
    decide(reviews, &user, review).await
}

/// SelfSubjectAccessReview: may I?
pub async fn own(reviews: &Reviews, ctx: &RequestContext, review: Object) -> Result<Object, StatusError> {
    let mut errors = check_spec(&review, false);
    errors.extend(check_metadata(&review, false));
    finish_checks("SelfSubjectAccessReview", errors)?;
    decide(reviews, &ctx.user, review).await
}

/// LocalSubjectAccessReview: may somebody else, in this namespace?
pub async fn local(reviews: &Reviews, ctx: &RequestContext, review: Object) -> Result<Object, StatusError> {
    let mut errors = check_spec(&review, true);
    errors.extend(check_metadata(&review, true));
    let namespace = text(&review, &["metadata", "namespace"]);
    let asked = text(&review, &["spec", "resourceAttributes", "namespace"]);
    if is_set(&review, &["spec", "resourceAttributes"]) && asked != namespace {
        let path = "spec.resourceAttributes.namespace";
        errors.push(FieldError::invalid(&path, asked, "must match metadata.namespace"));
    }
    if is_set(&review, &["spec", "nonResourceAttributes"]) {
        let value = at(&review, &["spec", "nonResourceAttributes"]).clone();
        let path = "spec.nonResourceAttributes";
        errors.push(FieldError::invalid(&path, value, "disallowed on this kind of request"));
    }
    finish_checks("LocalSubjectAccessReview", errors)?;
    if namespace != ctx.info.namespace {
        let text = format!("spec.resourceAttributes.namespace must match namespace: {}", ctx.info.namespace);
        return Err(StatusError::bad_request(text));
    }
    let user = user_of(&review["spec"]);
    decide(reviews, &user, review).await
}

async fn decide(reviews: &Reviews, user: &UserInfo, mut review: Object) -> Result<Object, StatusError> {
    let (info, parse_error) = request_of(&review["spec"]);
    let mut status = match reviews.authorizer.authorize(user, &info).await {
        Decision::Allow { reason } => status_of(true, false, &reason),
        Decision::Deny { reason } => status_of(false, true, &reason),
        Decision::NoOpinion { reason } => status_of(false, false, &reason),
    };
    if let Some(error) = parse_error {
        status["evaluationError"] = json!(error);
    }
    review["status"] = status;
    Ok(review)
}

fn status_of(allowed: bool, denied: bool, reason: &str) -> Value {
    let mut status = json!({ "allowed": allowed });
    if denied {
        status["denied"] = json!(true);
    }
    if !reason.is_empty() {
        status["reason"] = json!(reason);
    }
    status
}

fn user_of(spec: &Value) -> UserInfo {
    let list = |value: &Value| {
        value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    UserInfo {
        name: text(spec, &["user"]).to_owned(),
        uid: text(spec, &["uid"]).to_owned(),
        groups: texts(spec, &["groups"]).map(str::to_owned).collect(),
        extra: entries(spec, &["extra"]).map(|(key, values)| (key.to_owned(), list(values))).collect(),
    }
}

/// The request the review asks about, and what of its selectors could not be understood.
fn request_of(spec: &Value) -> (RequestInfo, Option<String>) {
    let resource = at(spec, &["resourceAttributes"]);
    if resource.is_null() {
        let other = at(spec, &["nonResourceAttributes"]);
        let of = |name: &str| text(other, &[name]).to_owned();
        return (RequestInfo { path: of("path"), verb: of("verb"), ..RequestInfo::default() }, None);
    }
    let of = |name: &str| text(resource, &[name]).to_owned();
    let (field_selector, error) = field_selector(at(resource, &["fieldSelector"]));
    let info = RequestInfo {
        is_resource: true,
        path: String::new(),
        verb: of("verb"),
        group: of("group"),
        version: of("version"),
        resource: of("resource"),
        subresource: of("subresource"),
        namespace: of("namespace"),
        name: of("name"),
        field_selector,
        label_selector: text(resource, &["labelSelector", "rawSelector"]).to_owned(),
    };
    (info, error)
}

fn field_selector(selector: &Value) -> (String, Option<String>) {
    let raw = text(selector, &["rawSelector"]);
    if !raw.is_empty() {
        return match machinery::selector::Fields::parse(raw) {
            Ok(_) => (raw.to_owned(), None),
            Err(error) => (
                String::new(),
                Some(format!(
                    "spec.resourceAttributes.fieldSelector partially ignored due to parse error: {error}"
                )),
            ),
        };
    }
    let (mut parts, mut errors) = (Vec::new(), Vec::new());
    for requirement in items(selector, &["requirements"]) {
        let values: Vec<&str> = texts(requirement, &["values"]).collect();
        let key = text(requirement, &["key"]);
        match (text(requirement, &["operator"]), values.as_slice()) {
            (_, [_, _, ..]) => errors.push("fieldSelectors do not yet support multiple values".to_owned()),
            ("In", [value]) => parts.push(format!("{key}={value}")),
            ("NotIn", [value]) => parts.push(format!("{key}!={value}")),
            ("In", _) => errors.push("fieldSelectors in must have one value".to_owned()),
            ("NotIn", _) => errors.push("fieldSelectors not in must have one value".to_owned()),
            (op @ ("Exists" | "DoesNotExist"), _) => {
                errors.push(format!("fieldSelectors do not yet support {op}"))
            }
            (op, _) => errors
                .push(format!("{} is not a valid field selector operator", machinery::gotext::quote(op))),
        }
    }
    let error = crate::authz::rules::join_errors(errors).map(|errors| {
        format!("spec.resourceAttributes.fieldSelector partially ignored due to parse error: {errors}")
    });
    (parts.join(","), error)
}

fn finish_checks(kind: &str, errors: Vec<FieldError>) -> Result<(), StatusError> {
    if errors.is_empty() { Ok(()) } else { Err(StatusError::invalid(AUTHORIZATION, kind, "", errors)) }
}

fn check_spec(review: &Object, names_user: bool) -> Vec<FieldError> {
    let spec = at(review, &["spec"]);
    let path = Path::new("spec");
    let mut errors = Vec::new();
    let (resource, other) = (at(spec, &["resourceAttributes"]), at(spec, &["nonResourceAttributes"]));
    if !resource.is_null() && !other.is_null() {
        let detail = "cannot be specified in combination with resourceAttributes";
        errors.push(FieldError::invalid(&path.child("nonResourceAttributes"), other.clone(), detail));
    }
    if resource.is_null() && other.is_null() {
        let detail = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
        errors.push(FieldError::invalid(&path.child("resourceAttributes"), Value::Null, detail));
    }
    if names_user && !has(spec, &["user"]) && !has(spec, &["groups"]) {
        errors.push(FieldError::invalid(
            &path.child("user"),
            "",
            "at least one of user or group must be specified",
        ));
    }
    for name in ["fieldSelector", "labelSelector"] {
        errors
            .extend(check_selector(at(resource, &[name]), &Path::new("spec.resourceAttributes").child(name)));
    }
    errors
}

fn check_selector(selector: &Value, path: &Path) -> Option<FieldError> {
    if selector.is_null() {
        return None;
    }
    match (has(selector, &["rawSelector"]), has(selector, &["requirements"])) {
        (true, true) => {
            let raw = text(selector, &["rawSelector"]);
            let detail = "may not specified at the same time as requirements";
            Some(FieldError::invalid(&path.child("rawSelector"), raw, detail))
        }
        (false, false) => {
            let detail = format!("when {path} is specified, requirements or rawSelector is required");
            Some(FieldError::required(&path.child("requirements"), detail))
        }
        _ => None,
    }
}

fn check_metadata(review: &Object, namespace_allowed: bool) -> Option<FieldError> {
    let metadata = at(review, &["metadata"]);
    let allowed = |key: &str| {
        key == "managedFields" || key == "creationTimestamp" || (namespace_allowed && key == "namespace")
    };
    let clean = entries(metadata, &[]).all(|(key, value)| allowed(key) || crate::kinds::json::is_zero(value));
    let detail = if namespace_allowed { "must be empty except for namespace" } else { "must be empty" };
    (!clean).then(|| FieldError::invalid(&"metadata", metadata.clone(), detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(review: Value, names_user: bool, expected: &[&str]) {
        let mut errors = check_spec(&review, names_user);
        errors.extend(check_metadata(&review, false));
        let got: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(got, expected, "{review}");
    }

    #[test]
    fn specs() {
        check(json!({"spec": {"resourceAttributes": {}}}), false, &[]);
        check(json!({"spec": {"user": "u", "nonResourceAttributes": {}}}), true, &[]);
        check(
            json!({"spec": {}}),
            true,
            &[
                "spec.resourceAttributes: Invalid value: null: exactly one of nonResourceAttributes or resourceAttributes must be specified",
                r#"spec.user: Invalid value: "": at least one of user or group must be specified"#,
            ],
        );
        check(
            json!({"metadata": {"name": "x"}, "spec": {"resourceAttributes": {}}}),
            false,
            &[r#"metadata: Invalid value: {"name":"x"}: must be empty"#],
        );
    }

    #[test]
    fn selectors_become_requests() {
        let spec = json!({"resourceAttributes": {"verb": "list", "resource": "pods", "fieldSelector": {"requirements": [
            {"key": "spec.nodeName", "operator": "In", "values": ["n"]}, {"key": "a", "operator": "Exists"}]}}});
        let (info, error) = request_of(&spec);
        assert_eq!(info.field_selector, "spec.nodeName=n");
        assert!(error.unwrap().ends_with("fieldSelectors do not yet support Exists"));
    }
}
