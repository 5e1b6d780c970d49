//! What must hold across servers and over time: claims that are made once, and not at all by dry runs, resources in stores
//! of their own, events that go, watches over WebSocket, objects that follow their definition.

mod common;
mod waiting;

use std::collections::BTreeSet;

use apiserver::storage::Store as _;
use apiserver::storage::embedded::EmbeddedStore;
use apiserver::storage::keys::prefix_end;
use common::{Server, Store, TOKEN};
use futures::StreamExt as _;
use http::Method;
use proto::etcdserverpb::RangeRequest;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use waiting::{PATIENCE, eventually};

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

/// Key, revision and lease of everything under the prefix.
async fn stored(store: &Store, prefix: &str) -> Vec<(String, i64, i64)> {
    let range_end = prefix_end(prefix.as_bytes()).into();
    let request = RangeRequest { key: prefix.to_owned().into(), range_end, ..RangeRequest::default() };
    let range = EmbeddedStore::new(store.member.clone()).range(request).await.expect("a range");
    let rows = range.kvs.iter();
    rows.map(|kv| (String::from_utf8_lossy(&kv.key).into_owned(), kv.mod_revision, kv.lease)).collect()
}

/// Where services, their addresses and their ports lie.
async fn claims(store: &Store) -> Vec<(String, i64, i64)> {
    let mut all = stored(store, "/registry/services/specs/").await;
    all.extend(stored(store, "/registry/ipaddresses/").await);
    all.extend(stored(store, "/registry/ranges/").await);
    all
}

/// Requests of dry runs that have to do with a service that holds 10.0.0.77 and port 30005: method, what follows the
/// collection's path, body, code of the answer, and a part of it.
fn dry_runs() -> Vec<(Method, &'static str, Value, u16, &'static str)> {
    let ports = |port: u16| json!([{"port": 80, "nodePort": port}]);
    let fresh = |spec: Value| json!({"metadata": {"name": "fresh"}, "spec": spec});
    let address = |ip: &str| fresh(json!({"clusterIP": ip, "ports": [{"port": 80}]}));
    let node_port = |port: u16| fresh(json!({"type": "NodePort", "ports": ports(port)}));
    let merge = |spec: Value| json!({"spec": spec});
    let everywhere = json!({"kind": "DeleteOptions", "apiVersion": "v1", "dryRun": ["All"]});
    vec![
        (Method::POST, "", fresh(json!({"ports": [{"port": 80}]})), 201, "\"clusterIP\":\"10.0.0."),
        (Method::POST, "", node_port(0), 201, "\"nodePort\":3"),
        (Method::POST, "", fresh(json!({"type": "LoadBalancer", "ports": ports(0)})), 201, "\"nodePort\":3"),
        (Method::POST, "", address("10.0.0.78"), 201, "10.0.0.78"),
        (Method::POST, "", node_port(30006), 201, "30006"),
        (Method::POST, "", address("10.0.0.77"), 422, "provided IP is already allocated"),
        (Method::POST, "", node_port(30005), 422, "provided port is already allocated"),
        (Method::POST, "", address("10.9.0.1"), 422, "does not match the current range"),
        (Method::POST, "", node_port(29999), 422, "not in the valid range"),
        (Method::PATCH, "/held", merge(json!({"ports": ports(30007)})), 200, "30007"),
        (
            Method::PATCH,
            "/held",
            merge(json!({"type": "ClusterIP", "ports": [{"port": 80}]})),
            200,
            "10.0.0.77",
        ),
        (Method::PATCH, "/held", merge(json!({"type": "ExternalName", "externalName": "a.b"})), 200, "a.b"),
        (Method::DELETE, "/held", Value::Null, 200, ""),
        (Method::DELETE, "", Value::Null, 200, ""),
        (Method::DELETE, "/held", everywhere, 200, ""),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn dry_runs_allocate_and_give_back_nothing() {
    let store = Store::new().await;
    let first = Server::start_with(&store, &[]).await;
    let held = json!({"metadata": {"name": "held"}, "spec": {
        "type": "NodePort", "clusterIP": "10.0.0.77", "ports": [{"port": 80, "nodePort": 30005}]}});
    let made = first.post(SERVICES, &held).await;
    assert_eq!(made.code, 201, "{}", made.text);
    let service_kubernetes = format!("{SERVICES}/kubernetes");
    eventually("the start-up objects are there", async || first.get(&service_kubernetes).await.code == 200)
        .await;
    // The second has never claimed a port itself.
    for server in [&first, &Server::start_with(&store, &[]).await] {
        let before = claims(&store).await;
        for (method, rest, body, code, part) in dry_runs() {
            let in_body = body.get("dryRun").is_some();
            let query = if in_body { "" } else { "?dryRun=All" };
            let body = if body.is_null() { String::new() } else { body.to_string() };
            let media = if method == Method::PATCH { "application/merge-patch+json" } else { "" };
            let answer = server.send(method.clone(), &format!("{SERVICES}{rest}{query}"), media, &body).await;
            assert_eq!(answer.code, code, "{method} {rest} {body}: {}", answer.text);
            assert!(answer.text.contains(part), "{method} {rest} {body}: {}", answer.text);
        }
        assert_eq!(claims(&store).await, before);
    }
    let real = json!({"metadata": {"name": "real"}, "spec": {
        "type": "NodePort", "clusterIP": "10.0.0.78", "ports": [{"port": 80, "nodePort": 30006}]}});
    let made = first.post(SERVICES, &real).await;
    assert_eq!(made.code, 201, "{}", made.text);
}

/// A store with an address, as its own server would be.
async fn listening() -> (Store, String) {
    let socket = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let url = format!("http://{}", socket.local_addr().expect("its address"));
    drop(socket);
    let folder = tempfile::tempdir().expect("a folder");
    let config = raft_store::Config {
        listen_client_urls: vec![url.clone()],
        advertise_client_urls: vec![url.clone()],
        ..raft_store::Config::embedded(folder.path().join("store"))
    };
    let member = raft_store::Member::start(config).await.expect("a store");
    (Store { member, folder: folder.into() }, url)
}

#[tokio::test(flavor = "multi_thread")]
async fn resources_lie_in_stores_of_their_own() {
    let (home, (other, url)) = (Store::new().await, listening().await);
    let flag = format!("--etcd-servers-overrides=/configmaps#{url},/events#{url}");
    let server = Server::start_with(&home, &[&flag]).await;
    let namespace = "/api/v1/namespaces/default";
    let event =
        json!({"metadata": {"name": "e"}, "involvedObject": {"namespace": "default"}, "type": "Normal"});
    for (resource, object) in [
        ("configmaps", json!({"metadata": {"name": "a"}, "data": {"k": "1"}})),
        ("secrets", json!({"metadata": {"name": "a"}})),
        ("events", event),
    ] {
        let made = server.post(&format!("{namespace}/{resource}"), &object).await;
        assert_eq!(made.code, 201, "{}", made.text);
    }
    let names = async |store: &Store, resource: &str| -> usize {
        stored(store, &format!("/registry/{resource}/default/")).await.len()
    };
    for (resource, at_home, there) in [("configmaps", 0, 1), ("secrets", 1, 0), ("events", 0, 1)] {
        assert_eq!(
            (names(&home, resource).await, names(&other, resource).await),
            (at_home, there),
            "{resource}"
        );
    }
    let events = stored(&other, "/registry/events/").await;
    assert!(events.iter().all(|(_, _, lease)| *lease != 0), "events go by themselves: {events:?}");
    // Every verb, with revisions of that store.
    let map = format!("{namespace}/configmaps/a");
    let merge = "application/merge-patch+json";
    let patched = server.send(Method::PATCH, &map, merge, r#"{"data":{"k":"2"}}"#).await.json;
    let revision = patched["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
    assert_eq!(stored(&other, "/registry/configmaps/default/a").await[0].1.to_string(), revision);
    let listed = server.get(&format!("{namespace}/configmaps")).await.json;
    let number = |text: Option<&str>| text.and_then(|text| text.parse::<i64>().ok()).unwrap_or_default();
    assert_eq!(listed["items"][0]["data"]["k"], "2");
    assert!(number(listed["metadata"]["resourceVersion"].as_str()) >= number(Some(&revision)), "{listed}");
    let exact = format!("{namespace}/configmaps?resourceVersionMatch=Exact&resourceVersion={revision}");
    assert_eq!(server.get(&exact).await.json["items"][0]["data"]["k"], "2");
    server.send(Method::DELETE, &map, "", "").await;
    let since = format!("{namespace}/configmaps?watch=1&timeoutSeconds=1&resourceVersion={revision}");
    eventually("watched", async || server.get(&since).await.text.contains("DELETED")).await;
    assert_eq!((server.get(&map).await.code.as_u16(), names(&other, "configmaps").await), (404, 0));
    let checks = ["etcd-override-0", "etcd-override-readiness-0"].map(|name| format!("/readyz/{name}"));
    for check in checks {
        eventually(&check, async || server.get(&check).await.code == 200).await;
    }
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
