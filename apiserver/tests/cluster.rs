//! What must hold across servers and over time: claims that are made once, events that go, watches over WebSocket,
//! objects that follow their definition.

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use common::{Server, Store, TOKEN};
use futures::StreamExt as _;
use http::Method;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

/// Longest wait for what happens by itself.
const PATIENCE: Duration = Duration::from_secs(30);

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !holds().await {
        assert!(tokio::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

const SERVICES: &str = "/api/v1/namespaces/default/services";

fn service(name: &str, node_port: u16) -> Value {
    json!({"metadata": {"name": name}, "spec": {"type": "NodePort", "ports": [{"port": 80, "nodePort": node_port}]}})
}

fn node_port(service: &Value) -> i64 {
    service["spec"]["ports"][0]["nodePort"].as_i64().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_port_is_given_away_once() {
    let store = Store::new().await;
    // Few ports, so that chance alone would soon give one away twice.
    let few = ["--service-node-port-range=30000-30039"];
    let servers = [Server::start_with(&store, &few).await, Server::start_with(&store, &few).await];
    let creations = (0..40).map(|i| {
        let server = &servers[i % 2];
        async move { server.post(SERVICES, &service(&format!("s{i}"), 0)).await }
    });
    let answers = futures::future::join_all(creations).await;
    let ports: BTreeSet<i64> = answers.iter().map(|answer| node_port(&answer.json)).collect();
    assert_eq!((ports.len(), ports.first()), (40, Some(&30000)), "{ports:?}");
    let full = servers[0].post(SERVICES, &service("late", 0)).await;
    assert!(full.text.contains("range is full"), "{}", full.text);
    // A server that comes later knows every claim, and what a deletion gives back.
    let third = Server::start_with(&store, &few).await;
    let taken = third.post(SERVICES, &service("again", 30007)).await;
    assert!(taken.text.contains("provided port is already allocated"), "{}", taken.text);
    let holder = answers.iter().find(|a| node_port(&a.json) == 30007).expect("a holder");
    let path = format!("{SERVICES}/{}", holder.json["metadata"]["name"].as_str().unwrap_or_default());
    servers[1].send(Method::DELETE, &path, "", "").await;
    let free = third.post(SERVICES, &service("again", 30007)).await;
    assert_eq!((free.code.as_u16(), node_port(&free.json)), (201, 30007), "{}", free.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_go_by_themselves() {
    let server = Server::start_with(&Store::new().await, &["--event-ttl=1s"]).await;
    let events = "/api/v1/namespaces/default/events";
    let event =
        json!({"metadata": {"name": "e"}, "involvedObject": {"namespace": "default"}, "type": "Normal"});
    let made = server.post(events, &event).await;
    assert_eq!(made.code, 201, "{}", made.text);
    let path = format!("{events}/e");
    eventually("the event is gone", async || server.get(&path).await.code == 404).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_travel_over_websocket() {
    let server = Server::start().await;
    let tcp = tokio::net::TcpStream::connect(server.address).await.expect("connected");
    let name = rustls::pki_types::ServerName::try_from("localhost").expect("a name");
    let tls = tokio_rustls::TlsConnector::from(std::sync::Arc::new(machinery::client::unverified::config()));
    let stream = tls.connect(name, tcp).await.expect("TLS");
    let url =
        format!("wss://{}/api/v1/namespaces?watch=true&fieldSelector=metadata.name%3Dnew", server.address);
    let mut request = url.into_client_request().expect("a request");
    let token = format!("Bearer {TOKEN}").parse().expect("a header");
    request.headers_mut().insert("authorization", token);
    let (mut socket, _) = tokio_tungstenite::client_async(request, stream).await.expect("switched");
    server.post("/api/v1/namespaces", &json!({"metadata": {"name": "new"}})).await;
    let message = tokio::time::timeout(PATIENCE, socket.next()).await.expect("in time").expect("open");
    let event: Value = serde_json::from_slice(&message.expect("a message").into_data()).expect("JSON");
    assert_eq!((&event["type"], &event["object"]["metadata"]["name"]), (&json!("ADDED"), &json!("new")));
}

fn definition(default: Option<&str>) -> Value {
    let mut colour = json!({"type": "string"});
    if let Some(default) = default {
        colour["default"] = default.into();
    }
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "cups.example.com"},
        "spec": {
            "group": "example.com", "scope": "Cluster", "names": {"plural": "cups", "kind": "Cup"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                "type": "object",
                "properties": {
                    "colour": colour,
                    "size": {"type": "integer", "maximum": if default.is_some() { 5 } else { 9 }},
                    "note": {"type": "string"},
                },
            }}}],
        },
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn stored_objects_follow_their_definition() {
    let server = Server::start().await;
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    server.post(definitions, &definition(None)).await;
    let cups = "/apis/example.com/v1/cups";
    eventually("cups are served", async || server.get(cups).await.code == 200).await;
    let cup = json!({"apiVersion": "example.com/v1", "kind": "Cup", "metadata": {"name": "c"}, "size": 8});
    let made = server.post(cups, &cup).await;
    assert_eq!(made.code, 201, "{}", made.text);
    let path = format!("{definitions}/cups.example.com");
    let merge = "application/merge-patch+json";
    let narrower = json!({"spec": definition(Some("blue"))["spec"]}).to_string();
    let patched = server.send(Method::PATCH, &path, merge, &narrower).await;
    assert_eq!(patched.code, 200, "{}", patched.text);
    let one = format!("{cups}/c");
    eventually("the default is read", async || server.get(&one).await.json["colour"] == "blue").await;
    // What was stored under wider rules may stay; what is changed must obey the new ones.
    let kept = server.send(Method::PATCH, &one, merge, r#"{"note":"chipped"}"#).await;
    assert_eq!(kept.code, 200, "{}", kept.text);
    let changed = server.send(Method::PATCH, &one, merge, r#"{"size":7}"#).await;
    assert_eq!(changed.code, 422, "{}", changed.text);
    // The definition ends when its last instance does.
    let held =
        server.send(Method::PATCH, &one, merge, r#"{"metadata":{"finalizers":["example.com/hold"]}}"#).await;
    assert_eq!(held.code, 200, "{}", held.text);
    server.send(Method::DELETE, &path, "", "").await;
    eventually("the instance is being deleted", async || {
        !server.get(&one).await.json["metadata"]["deletionTimestamp"].is_null()
    })
    .await;
    assert_eq!(server.get(&path).await.code, 200);
    server.send(Method::PATCH, &one, merge, r#"{"metadata":{"finalizers":null}}"#).await;
    eventually("the definition is gone", async || server.get(&path).await.code == 404).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binding_is_no_change_of_the_pod() {
    let server = Server::start().await;
    let pods = "/api/v1/namespaces/default/pods";
    server
        .post("/api/v1/namespaces/default/serviceaccounts", &json!({"metadata": {"name": "default"}}))
        .await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let made = server.post(pods, &pod).await;
    assert_eq!(made.json["metadata"]["generation"], 1, "{}", made.text);
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}});
    let bound = server.post(&format!("{pods}/p/binding"), &binding).await;
    assert_eq!(bound.code, 201, "{}", bound.text);
    let read = server.get(&format!("{pods}/p")).await.json;
    assert_eq!((&read["spec"]["nodeName"], &read["metadata"]["generation"]), (&json!("n"), &json!(1)));
}
