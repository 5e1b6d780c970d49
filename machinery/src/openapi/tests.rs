//! What clients look for in the documents, and that no reference dangles.

use serde_json::json;

use super::*;
use crate::resources::resources;

fn served() -> Vec<Served> {
    let mut all: Vec<Served> =
        resources().iter().filter(|r| r.served_by_default()).map(Served::from).collect();
    let status = ServedSubresource {
        name: "status".to_owned(),
        group: "stable.example.com".to_owned(),
        version: "v1".to_owned(),
        kind: "CronTab".to_owned(),
        verbs: vec!["get".to_owned(), "patch".to_owned(), "update".to_owned()],
    };
    all.push(Served {
        group: "stable.example.com".to_owned(),
        version: "v1".to_owned(),
        resource: "crontabs".to_owned(),
        kind: "CronTab".to_owned(),
        list_kind: "CronTabList".to_owned(),
        namespaced: true,
        verbs: ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"].map(str::to_owned).to_vec(),
        subresources: vec![status],
        custom: Some(CustomSchema {
            schema: json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
                "n": {"type": "integer", "nullable": true, "default": 3},
                "p": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]}}}}}),
            preserve_unknown: false,
        }),
    });
    all
}

fn check_references(value: &Value, document: &Value, prefix: &str) {
    match value {
        Value::Object(members) => {
            for (name, child) in members {
                if let ("$ref", Some(target)) = (name.as_str(), child.as_str()) {
                    let definition = target.strip_prefix(prefix).expect("a local reference");
                    let pointer =
                        format!("{}/{}", prefix.trim_matches(['#', '/']), definition.replace('/', "~1"));
                    assert!(document.pointer(&format!("/{pointer}")).is_some(), "{target} dangles");
                }
                check_references(child, document, prefix);
            }
        }
        Value::Array(items) => items.iter().for_each(|child| check_references(child, document, prefix)),
        _ => {}
    }
}

#[test]
fn version_3_of_apps() {
    let document = v3_document(&served(), "apps", "v1");
    check_references(&document, &document, "#/components/schemas/");
    let patch = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    assert_eq!(patch["operationId"], "patchAppsV1NamespacedDeployment");
    assert_eq!(
        patch["x-kubernetes-group-version-kind"],
        json!({"group": "apps", "version": "v1", "kind": "Deployment"})
    );
    let names: Vec<&Value> =
        patch["parameters"].as_array().expect("parameters").iter().map(|p| &p["name"]).collect();
    assert_eq!(names, ["dryRun", "fieldManager", "fieldValidation", "force"]);
    let scale = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}/scale"]["put"];
    assert_eq!(scale["operationId"], "replaceAppsV1NamespacedDeploymentScale");
    let container = &document["components"]["schemas"]["io.k8s.api.core.v1.Container"]["properties"]["ports"];
    assert_eq!(container["x-kubernetes-list-map-keys"], json!(["containerPort", "protocol"]));
    assert_eq!(container["x-kubernetes-patch-merge-key"], "containerPort");
    assert!(document["paths"].get("/apis/apps/v1/deployments").is_some());
}

#[test]
fn every_version_3_document_is_closed() {
    let served = served();
    for resource in &served {
        let document = v3_document(&served, &resource.group, &resource.version);
        check_references(&document, &document, "#/components/schemas/");
    }
}

#[test]
fn version_2_of_everything() {
    let document = v2_document(&served(), "v1.36.0");
    check_references(&document, &document, "#/definitions/");
    let kinds = &document["definitions"]["io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions"]["x-kubernetes-group-version-kind"];
    assert!(kinds.as_array().is_some_and(|k| k.len() >= 2));
    let spec = &document["definitions"]["com.example.stable.v1.CronTab"]["properties"]["spec"];
    assert_eq!(
        spec,
        &json!({"type": "object", "properties": {"n": {}, "p": {"x-kubernetes-int-or-string": true}}})
    );
    let ids = operation_ids(&document["paths"]);
    let unique: BTreeSet<&String> = ids.iter().collect();
    assert_eq!(ids.len(), unique.len(), "operation ids are unique");
}

fn operation_ids(paths: &Value) -> Vec<String> {
    let operations =
        paths.as_object().into_iter().flatten().flat_map(|(_, path)| path.as_object().into_iter().flatten());
    operations
        .filter_map(|(_, operation)| operation.get("operationId")?.as_str().map(str::to_owned))
        .collect()
}

#[test]
fn custom_kinds_in_version_3() {
    let document = v3_document(&served(), "stable.example.com", "v1");
    let schema = &document["components"]["schemas"]["com.example.stable.v1.CronTab"];
    assert_eq!(schema["properties"]["spec"]["properties"]["n"]["default"], 3);
    assert_eq!(
        schema["x-kubernetes-group-version-kind"],
        json!([{"group": "stable.example.com", "version": "v1", "kind": "CronTab"}])
    );
    assert!(
        document["paths"]
            .get("/apis/stable.example.com/v1/namespaces/{namespace}/crontabs/{name}/status")
            .is_some()
    );
}
