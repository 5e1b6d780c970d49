//! Bodies that survive the round trip, known bytes, and garbage.

use proptest::prelude::*;
use serde_json::json;

use super::*;

#[test]
fn objects_round_trip() {
    for object in [
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "labels": {"x": "y"}, "creationTimestamp": "2026-01-02T03:04:05Z"},
            "data": {"k": "v"}, "binaryData": {"b": "AQID"}}),
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "managedFields": [{"manager": "m", "fieldsV1": {"f:spec": {}}}]},
            "spec": {"priority": 0, "containers": [{"name": "c", "image": "i", "resources": {"limits": {"cpu": "100m"}},
                "env": [{"name": "E", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "k"}}}],
                "livenessProbe": {"httpGet": {"port": "http"}, "periodSeconds": 3},
                "ports": [{"containerPort": 80}]}],
                "volumes": [{"name": "v", "emptyDir": {}}, {"name": "s", "secret": {"secretName": "x", "defaultMode": 420}}],
                "ephemeralContainers": [{"name": "d", "resources": {}, "targetContainerName": "c"}]}}),
        json!({"apiVersion": "v1", "kind": "Service", "spec": {"ports": [{"port": 80, "targetPort": 8080}, {"port": 81, "targetPort": "x"}]}}),
        json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "spec": {"acquireTime": "2026-01-02T03:04:05.000006Z", "leaseTransitions": 0}}),
        json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": {"extra": {"a": ["b", "c"]}}, "status": {"allowed": false}}),
        json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "spec": {"group": "g", "names": {"plural": "p", "kind": "K"}, "scope": "Cluster",
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object", "additionalProperties": false,
                "properties": {"a": {"type": "array", "items": {"type": "string"}, "default": ["x"], "enum": [1, "b", null]},
                    "b": {"type": "object", "additionalProperties": {"type": "number", "maximum": 1.5}, "x-kubernetes-map-type": "atomic"}}}}}]}}),
        json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration", "webhooks": [
            {"name": "w", "clientConfig": {}, "sideEffects": "None", "admissionReviewVersions": ["v1"],
             "rules": [{"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]}]}),
        json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "status": {"disruptedPods": {"p": null, "q": "2026-01-02T03:04:05Z"}, "currentHealthy": 0}}),
        json!({"apiVersion": "apps/v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0, "preconditions": {"uid": "u"}}),
    ] {
        let body = encode(&object).expect("encodes");
        assert_eq!(decode(&body).expect("decodes").value, object);
    }
}

#[test]
fn known_bytes() {
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}});
    let body = encode(&object).expect("encodes");
    assert_eq!(body, b"k8s\0\n\x0f\n\x02v1\x12\tConfigMap\x12\x05\n\x03\n\x01a\x1a\0\"\0");
}

#[test]
fn lists_and_watches() {
    let schema = schema::for_kind("", "v1", "ConfigMap").expect("a known kind");
    let mut item = Vec::new();
    encode_message(&schema, &json!({"metadata": {"name": "a"}}), &mut item).expect("encodes");
    let lens = [item.len(); 2].into_iter();
    let frame = list_frame("v1", "ConfigMapList", &json!({"resourceVersion": "5"}), lens).expect("encodes");
    let one = [item_prefix(item.len()), item.clone()].concat();
    let body = [&frame.head[..], &one, &one, &frame.tail].concat();
    let list = decode(&body).expect("decodes").value;
    assert_eq!(list["metadata"], json!({"resourceVersion": "5"}));
    assert_eq!(list["items"], json!([{"metadata": {"name": "a"}}, {"metadata": {"name": "a"}}]));

    let frame = encode_watch_event("ADDED", &envelope("v1", "ConfigMap", &item));
    let len = u32::from_be_bytes([frame[0], frame[1], frame[2], frame[3]]) as usize;
    assert_eq!(len, frame.len() - 4);
    let (kind, object) = decode_watch_event(&frame[4..]).expect("decodes");
    assert_eq!((kind, decode(object).expect("decodes").kind.as_str()), ("ADDED", "ConfigMap"));
}

#[test]
fn errors() {
    assert_eq!(decode(b"{}"), Err(CodecError::NoPrefix));
    assert_eq!(decode(b"k8s\0\x0a\x7f"), Err(CodecError::Truncated));
    let unknown = decode(&envelope("v1", "Nope", b""));
    assert_eq!(
        unknown.map_err(|e| e.to_string()),
        Err("no kind \"Nope\" is registered for version \"v1\"".to_owned())
    );
    assert!(encode(&json!({"apiVersion": "v1", "kind": "Pod", "spec": {"containers": 3}})).is_err());
}

#[test]
fn deep_nesting_is_refused() {
    // `not` (28) inside `not` …: each level is two bytes of tag and a length.
    let mut message: Vec<u8> = Vec::new();
    for _ in 0..10_000 {
        let mut outer = Vec::new();
        writer::bytes(&mut outer, 28, &message);
        message = outer;
    }
    let schema =
        schema::definition("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps");
    assert_eq!(decode_message(&schema.expect("a known type"), &message), Err(CodecError::Depth));
}

proptest! {
    #[test]
    fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 0usize..4) {
        let _ = decode(&bytes);
        let kind = ["Pod", "Service", "Node", "ConfigMap"][kind];
        let _ = decode(&envelope("v1", kind, &bytes));
    }

    #[test]
    fn cut_bodies_never_panic(at in 0usize..400) {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
        let mut body = encode(&pod).unwrap_or_default();
        body.truncate(at);
        let _ = decode(&body);
    }
}
