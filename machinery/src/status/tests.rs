//! The texts and shapes that clients compare.

use serde_json::json;

use super::*;

#[test]
fn messages() {
    for (error, code, message) in [
        (StatusError::not_found("apps", "deployments", "a"), 404, r#"deployments.apps "a" not found"#),
        (StatusError::already_exists("", "pods", "a"), 409, r#"pods "a" already exists"#),
        (
            StatusError::conflict_modified("", "pods", "a"),
            409,
            r#"Operation cannot be fulfilled on pods "a": the object has been modified; please apply your changes to the latest version and try again"#,
        ),
        (StatusError::forbidden("", "pods", "", "no"), 403, "pods is forbidden: no"),
        (
            StatusError::method_not_supported("apps", "deployments", "create"),
            405,
            r#"create is not supported on resources of kind "deployments.apps""#,
        ),
    ] {
        assert_eq!((error.code(), error.message()), (code, message));
    }
}

#[test]
fn invalid_has_causes() {
    let path = Path::new("spec").child("replicas");
    let errors = vec![
        FieldError::invalid(&path, -1, "must be greater than or equal to 0"),
        FieldError::not_supported(&Path::new("spec").child("x").index(2), "q\"", &["a", "b"]),
    ];
    let error = StatusError::invalid("apps", "Deployment", "d", errors);
    assert_eq!(
        error.message(),
        r#"Deployment.apps "d" is invalid: [spec.replicas: Invalid value: -1: must be greater than or equal to 0, spec.x[2]: Unsupported value: "q\"": supported values: "a", "b"]"#
    );
    let value = error.to_value();
    assert_eq!(value["details"]["causes"][0]["reason"], json!("FieldValueInvalid"));
    assert_eq!(value["details"]["causes"][1]["field"], json!("spec.x[2]"));
    assert_eq!(StatusError::from_value(&value), error);
}

#[test]
fn field_bodies() {
    let p = Path::new("f");
    for (error, text) in [
        (FieldError::required(&p, ""), "f: Required value"),
        (FieldError::required(&p, "why"), "f: Required value: why"),
        (FieldError::duplicate(&p.key("a/b"), "v"), r#"f[a/b]: Duplicate value: "v""#),
        (FieldError::too_long(&p, "", 10), "f: Too long: may not be more than 10 bytes"),
        (FieldError::too_many(&p, 5, 1), "f: Too many: 5: must have at most 1 item"),
        (
            FieldError::invalid(&p, json!({"b":"<","a":1}), "x"),
            r#"f: Invalid value: {"a":1,"b":"\u003c"}: x"#,
        ),
        (FieldError::not_found(&p, json!(null)), "f: Not found: null"),
    ] {
        assert_eq!(error.to_string(), text);
    }
}
