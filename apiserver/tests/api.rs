//! The API over TLS on an embedded store: verbs, options and failures as clients see them.

mod common;

use common::Server;
use http::Method;
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn map(name: &str, data: &str) -> Value {
    json!({"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":name,"labels":{"app":data}},"data":{"k":data}})
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_live_from_create_to_delete() {
    let server = Server::start().await;
    let created = server.post(MAPS, &map("a", "1")).await;
    assert_eq!(created.code, 201, "{}", created.text);
    assert_eq!(server.post(MAPS, &map("a", "1")).await.json["reason"], "AlreadyExists");
    let mut object = server.get(&format!("{MAPS}/a")).await.json;
    assert_eq!(object["metadata"]["uid"], created.json["metadata"]["uid"]);
    object["data"]["k"] = "2".into();
    let path = format!("{MAPS}/a");
    let updated = server.send(Method::PUT, &path, "", &object.to_string()).await;
    assert_eq!((updated.code.as_u16(), &updated.json["data"]["k"]), (200, &json!("2")));
    let stale = server.send(Method::PUT, &path, "", &object.to_string()).await;
    assert_eq!(stale.json["reason"], "Conflict", "{}", stale.text);
    let deleted = server.send(Method::DELETE, &path, "", "").await;
    assert_eq!((&deleted.json["kind"], &deleted.json["status"]), (&json!("Status"), &json!("Success")));
    assert_eq!(server.get(&path).await.json["reason"], "NotFound");
}

#[tokio::test(flavor = "multi_thread")]
async fn patches_change_and_apply_conflicts() {
    let server = Server::start().await;
    let path = format!("{MAPS}/p");
    server.post(MAPS, &map("p", "1")).await;
    for (content_type, body, expected) in [
        ("application/merge-patch+json", r#"{"data":{"k":"m"}}"#, "m"),
        ("application/json-patch+json", r#"[{"op":"replace","path":"/data/k","value":"j"}]"#, "j"),
        ("application/strategic-merge-patch+json", r#"{"data":{"k":"s"}}"#, "s"),
    ] {
        let answer = server.send(Method::PATCH, &path, content_type, body).await;
        assert_eq!(answer.json["data"]["k"], expected, "{content_type}: {}", answer.text);
    }
    let apply = "application/apply-patch+yaml";
    let config = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"p"},"data":{"k":"applied"}}"#;
    let conflict = server.send(Method::PATCH, &format!("{path}?fieldManager=x"), apply, config).await;
    assert_eq!(
        (conflict.code.as_u16(), &conflict.json["reason"]),
        (409, &json!("Conflict")),
        "{}",
        conflict.text
    );
    let forced =
        server.send(Method::PATCH, &format!("{path}?fieldManager=x&force=true"), apply, config).await;
    assert_eq!(forced.json["data"]["k"], "applied", "{}", forced.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_page_select_and_stay_consistent() {
    let server = Server::start().await;
    for i in 0..7 {
        server.post(MAPS, &map(&format!("l{i}"), if i % 2 == 0 { "even" } else { "odd" })).await;
    }
    let odd = server.get(&format!("{MAPS}?labelSelector=app%3Dodd")).await;
    assert_eq!(odd.json["items"].as_array().map(Vec::len), Some(3), "{}", odd.text);
    let one = server.get(&format!("{MAPS}?fieldSelector=metadata.name%3Dl3")).await;
    assert_eq!(one.json["items"][0]["metadata"]["name"], "l3");
    let first = server.get(&format!("{MAPS}?limit=4&labelSelector=app")).await;
    let token = first.json["metadata"]["continue"].as_str().expect("a continue token").to_owned();
    // A write between the pages is not seen by the second one.
    server.post(MAPS, &map("l9", "late")).await;
    let second = server.get(&format!("{MAPS}?limit=4&labelSelector=app&continue={token}")).await;
    let names: Vec<_> = second.json["items"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|i| i["metadata"]["name"].clone())
        .collect();
    assert_eq!(names, ["l4", "l5", "l6"], "{}", second.text);
    let table = server.get("/api/v1/namespaces/default/configmaps?limit=1").await;
    assert_eq!(table.json["kind"], "ConfigMapList");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_get_upstreams_answers() {
    let server = Server::start().await;
    let cases: &[(Method, &str, &str, &str, u16, &str)] = &[
        (Method::POST, MAPS, "", "{", 400, "BadRequest"),
        (Method::POST, MAPS, "text/plain", "x", 415, "UnsupportedMediaType"),
        (
            Method::POST,
            MAPS,
            "",
            r#"{"apiVersion":"v2","kind":"ConfigMap","metadata":{"name":"x"}}"#,
            400,
            "BadRequest",
        ),
        (Method::POST, MAPS, "", r#"{"metadata":{"name":"Bad_Name"}}"#, 422, "Invalid"),
        (Method::POST, MAPS, "", r#"{"metadata":{}}"#, 422, "Invalid"),
        // No Status object: as upstream, the router answers in plain text.
        (Method::GET, "/api/v1/nothing", "", "", 404, ""),
        (Method::GET, "/api/v1/pods?fieldSelector=no.such=1", "", "", 400, "BadRequest"),
        (Method::GET, "/api/v1/pods?labelSelector=a%20b", "", "", 400, "BadRequest"),
        (Method::GET, "/api/v1/pods?resourceVersion=x", "", "", 400, "BadRequest"),
        (
            Method::PATCH,
            "/api/v1/namespaces/default/configmaps/none",
            "application/merge-patch+json",
            "{}",
            404,
            "NotFound",
        ),
        (Method::DELETE, "/api/v1/namespaces", "", "", 405, "MethodNotAllowed"),
    ];
    for (method, path, content_type, body, code, reason) in cases {
        let answer = server.send(method.clone(), path, content_type, body).await;
        let found = (answer.code.as_u16(), answer.json["reason"].as_str().unwrap_or_default());
        assert_eq!(found, (*code, *reason), "{method} {path} {body}: {}", answer.text);
    }
    let strict = format!("{MAPS}?fieldValidation=Strict");
    let answer = server.post(&strict, &json!({"metadata":{"name":"s"},"nope":1})).await;
    assert!(
        answer.json["message"].as_str().is_some_and(|m| m.contains(r#"unknown field "nope""#)),
        "{}",
        answer.text
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_resume_and_report_what_is_too_old() {
    let server = Server::start().await;
    let start =
        server.get(MAPS).await.json["metadata"]["resourceVersion"].as_str().expect("a revision").to_owned();
    server.post(MAPS, &map("w", "1")).await;
    server.send(Method::DELETE, &format!("{MAPS}/w"), "", "").await;
    let watched = server.get(&format!("{MAPS}?watch=1&timeoutSeconds=1&resourceVersion={start}")).await;
    let types: Vec<String> = watched
        .text
        .lines()
        .filter_map(|l| serde_json::from_str::<Value>(l).ok())
        .map(|e| e["type"].as_str().unwrap_or_default().to_owned())
        .collect();
    assert_eq!(types, ["ADDED", "DELETED"], "{}", watched.text);
    let old = server.get(&format!("{MAPS}?watch=1&timeoutSeconds=1&resourceVersion=1")).await;
    assert!(old.text.contains("\"ERROR\"") && old.text.contains("too old resource version"), "{}", old.text);
    let initial = "sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan";
    let listed = server.get(&format!("/api/v1/namespaces?watch=1&timeoutSeconds=1&{initial}")).await;
    assert!(listed.text.contains("k8s.io/initial-events-end"), "{}", listed.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn definitions_serve_their_kind_at_once() {
    let server = Server::start().await;
    let schema = json!({"type":"object","properties":{"spec":{"type":"object","properties":{
        "size":{"type":"integer","maximum":5,"default":1}}}}});
    let definition = json!({"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition",
        "metadata":{"name":"widgets.example.com"},"spec":{"group":"example.com","scope":"Namespaced",
        "names":{"plural":"widgets","kind":"Widget"},
        "versions":[{"name":"v1","served":true,"storage":true,"schema":{"openAPIV3Schema":schema},
            "subresources":{"status":{}}}]}});
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let created = server.post(definitions, &definition).await;
    assert_eq!(created.code, 201, "{}", created.text);
    let widgets = "/apis/example.com/v1/namespaces/default/widgets";
    let mut answer = server.get(widgets).await;
    for _ in 0..100 {
        if answer.code == 200 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        answer = server.get(widgets).await;
    }
    assert_eq!(answer.code, 200, "{}", answer.text);
    let widget = json!({"apiVersion":"example.com/v1","kind":"Widget","metadata":{"name":"w"},"spec":{}});
    let made = server.post(widgets, &widget).await;
    assert_eq!((made.code.as_u16(), &made.json["spec"]["size"]), (201, &json!(1)), "{}", made.text);
    let path = format!("{widgets}/w");
    let big =
        server.send(Method::PATCH, &path, "application/merge-patch+json", r#"{"spec":{"size":9}}"#).await;
    assert_eq!(big.json["reason"], "Invalid", "{}", big.text);
    let v3 = server.get("/openapi/v3/apis/example.com/v1").await;
    assert!(v3.text.contains("Widget"), "published in OpenAPI");
    server.send(Method::DELETE, &format!("{definitions}/widgets.example.com"), "", "").await;
    for _ in 0..100 {
        if server.get(widgets).await.code == 404 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("the kind is still served after its definition was deleted");
}

/// Objects around one another, as JSON.
fn nested(levels: usize) -> String {
    "{\"a\":".repeat(levels - 1) + "{}" + &"}".repeat(levels - 1)
}

/// A custom object of a kind that keeps whatever stands in it; `note` lies at the second level.
fn bag(name: &str, note: &str) -> String {
    format!(r#"{{"apiVersion":"example.com/v1","kind":"Bag","metadata":{{"name":"{name}"}},"note":{note}}}"#)
}

/// What is nested too deep is refused in upstream's words, whichever way it comes: method, path, content type, body, code,
/// reason, and how the message goes on after what differs with the body.
fn too_deep() -> Vec<(Method, &'static str, &'static str, String, u16, &'static str, &'static str)> {
    let (json, yaml, jsonpatch) = ("application/json", "application/yaml", "application/json-patch+json");
    let (merge, strategic) = ("application/merge-patch+json", "application/strategic-merge-patch+json");
    let (apply, unrecognized) =
        ("application/apply-patch+yaml", "the object provided is unrecognized (must be of type");
    let opened = "couldn't get version/kind; json parse error: invalid character '{' exceeded max depth";
    let in_patch = "error decoding patch: invalid character '{' exceeded max depth";
    let in_yaml =
        "error decoding YAML: error converting YAML to JSON: yaml: line 1: exceeded max depth of 127";
    let add = |levels| format!(r#"[{{"op":"add","path":"/note/a/b","value":{}}}]"#, nested(levels));
    let map = |levels| {
        format!(
            r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"m"}},"data":{}}}"#,
            nested(levels)
        )
    };
    vec![
        (Method::POST, BAGS, json, bag("new", &nested(9_000)), 400, "BadRequest", opened),
        (Method::POST, BAGS, json, bag("new", &nested(127)), 400, "BadRequest", opened),
        // What can be read, but not with the record of who owns its fields.
        (Method::POST, BAGS, json, bag("new", &nested(124)), 400, "BadRequest", opened),
        (
            Method::POST,
            BAGS,
            yaml,
            bag("new", &nested(127)),
            400,
            "BadRequest",
            "yaml: line 1: exceeded max depth of 127",
        ),
        (Method::POST, MAPS, json, map(130), 400, "BadRequest", unrecognized),
        (Method::PUT, "/old", json, bag("old", &nested(127)), 400, "BadRequest", opened),
        (Method::PATCH, "/old", merge, format!(r#"{{"note":{}}}"#, nested(127)), 400, "BadRequest", in_patch),
        (Method::PATCH, "/old", merge, format!(r#"{{"note":{}}}"#, nested(124)), 400, "BadRequest", opened),
        (Method::PATCH, "/old", jsonpatch, add(126), 400, "BadRequest", in_patch),
        (Method::PATCH, "/old", jsonpatch, add(125), 422, "Invalid", opened),
        (Method::PATCH, MAPS, strategic, map(127), 400, "BadRequest", in_patch),
        (Method::PATCH, "/old?fieldManager=x", apply, bag("old", &nested(127)), 400, "BadRequest", in_yaml),
        (
            Method::PATCH,
            "/old?fieldManager=x&force=true",
            apply,
            bag("old", &nested(124)),
            400,
            "BadRequest",
            opened,
        ),
        (
            Method::DELETE,
            "/old",
            json,
            format!(r#"{{"kind":"DeleteOptions","x":{}}}"#, nested(127)),
            400,
            "BadRequest",
            opened,
        ),
    ]
}

const BAGS: &str = "/apis/example.com/v1/bags";

#[tokio::test(flavor = "multi_thread")]
async fn nesting_is_bounded_in_every_form_and_nothing_unreadable_is_stored() {
    let server = Server::start().await;
    let anything = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let definition = json!({"metadata": {"name": "bags.example.com"}, "spec": {
        "group": "example.com", "scope": "Cluster", "names": {"plural": "bags", "kind": "Bag"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": anything}}]}});
    server.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &definition).await;
    for _ in 0..600 {
        if server.get(BAGS).await.code == 200 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    server.post(MAPS, &map("m", "1")).await;
    let made = server.send(Method::POST, BAGS, "", &bag("old", &nested(100))).await;
    assert_eq!(made.code, 201, "{}", made.text);
    for (method, path, content_type, body, code, reason, part) in too_deep() {
        let path = match path {
            MAPS if method == Method::PATCH => format!("{MAPS}/m"),
            MAPS | BAGS => path.to_owned(),
            of_bag => format!("{BAGS}{of_bag}"),
        };
        let answer = server.send(method.clone(), &path, content_type, &body).await;
        let message = answer.json["message"].as_str().unwrap_or_default();
        let shown = format!("{method} {path} {content_type} {}: {}", body.len(), answer.text);
        assert_eq!(
            (answer.code.as_u16(), answer.json["reason"].as_str().unwrap_or_default()),
            (code, reason),
            "{shown}"
        );
        assert!(message.contains(part), "{shown}");
    }
    grow(&server).await;
}

/// Nests one object deeper, step by step, until it is refused: what is stored can still be read, alone and in a list.
async fn grow(server: &Server) {
    server.send(Method::POST, BAGS, "", &bag("growing", "{}")).await;
    let path = format!("{BAGS}/growing");
    let mut levels = 0;
    let refused = loop {
        let step = json!([{"op": "add", "path": format!("/note{}", "/a".repeat(levels + 1)), "value": {}}]);
        let answer =
            server.send(Method::PATCH, &path, "application/json-patch+json", &step.to_string()).await;
        if answer.code != 200 {
            break answer;
        }
        levels += 1;
        assert!(levels < 130, "never refused");
    };
    assert!(refused.text.contains("exceeded max depth"), "{}", refused.text);
    assert!(levels > 110, "refused at {levels}");
    for (what, pointer) in [(path.as_str(), ""), (BAGS, "/items/0")] {
        let read = server.get(what).await.json;
        let deepest = format!("{pointer}/note{}", "/a".repeat(levels));
        assert_eq!(read.pointer(&deepest), Some(&json!({})), "{what}");
    }
    let deleted = server.send(Method::DELETE, &path, "", "").await;
    assert_eq!(deleted.code, 200, "{}", deleted.text);
}
