//! The objects and requests of the loads, as data.

use serde_json::json;

use crate::control_plane::http::Call;

/// Namespaces.
pub const PODS: &str = "pods";
pub const CONFIG_MAPS: &str = "config-maps";
pub const WATCHED: &str = "watched";

/// Bytes of data in a ConfigMap.
const DATA_LEN: usize = 1024;
/// Fills a pod up to 2.2 KB as it is served.
const POD_PADDING_LEN: usize = 700;
/// Objects that patches and GETs are spread over.
pub const TARGETS: u64 = 1000;
/// Objects that the writers behind the watchers change.
pub const WATCHED_OBJECTS: u64 = 64;

pub fn namespace(name: &str) -> Call {
    let body = json!({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": name}});
    Call::post("/api/v1/namespaces", body.to_string())
}

/// The collection of pods, with a query.
pub fn pods_path(query: &str) -> String {
    format!("/api/v1/namespaces/{PODS}/pods{query}")
}

pub fn create_pod(number: u64) -> Call {
    let body = json!({
        "kind": "Pod", "apiVersion": "v1",
        "metadata": {
            "name": format!("pod-{number:06}"),
            "labels": {"app": format!("app-{}", number % 100), "tier": "web"},
            "annotations": {"bench.example.com/padding": "x".repeat(POD_PADDING_LEN)},
        },
        "spec": {"containers": [{
            "name": "main", "image": "registry.k8s.io/pause:3.10.1",
            "resources": {"requests": {"cpu": "100m", "memory": "100Mi"}},
            "ports": [{"containerPort": 80, "name": "http"}],
        }]},
    });
    Call::post(pods_path(""), body.to_string())
}

fn config_maps(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/configmaps")
}

fn config_map(namespace: &str, name: &str, len: usize) -> Call {
    let body = json!({
        "kind": "ConfigMap", "apiVersion": "v1",
        "metadata": {"name": name}, "data": {"value": "x".repeat(len)},
    });
    Call::post(config_maps(namespace), body.to_string())
}

pub fn create_config_map(number: u64) -> Call {
    config_map(CONFIG_MAPS, &format!("made-{number:08}"), DATA_LEN)
}

/// One of the many that nobody watches.
pub fn create_filler(number: u64) -> Call {
    config_map(CONFIG_MAPS, &format!("filler-{number:08}"), 16)
}

fn target(number: u64) -> String {
    format!("target-{:04}", number % TARGETS)
}

pub fn create_target(number: u64) -> Call {
    config_map(CONFIG_MAPS, &target(number), DATA_LEN)
}

pub fn get_target(number: u64) -> Call {
    Call::get(format!("{}/{}", config_maps(CONFIG_MAPS), target(number)))
}

pub fn patch_target(number: u64) -> Call {
    let body = json!({"data": {"count": number.to_string()}});
    Call::merge_patch(format!("{}/{}", config_maps(CONFIG_MAPS), target(number)), body.to_string())
}

fn watched(number: u64) -> String {
    format!("watched-{:02}", number % WATCHED_OBJECTS)
}

/// A small object, as most that are watched: a lease, an endpoint, a node's heartbeat.
pub fn create_watched(number: u64) -> Call {
    config_map(WATCHED, &watched(number), 16)
}

/// Writes the time into a watched object; `stamp_us` is what the delay of an event is counted from.
pub fn patch_watched(number: u64, stamp_us: u64) -> Call {
    let body = json!({"data": {"stamp": stamp_us.to_string()}});
    Call::merge_patch(format!("{}/{}", config_maps(WATCHED), watched(number)), body.to_string())
}

pub fn watched_path(query: &str) -> String {
    format!("{}{query}", config_maps(WATCHED))
}
