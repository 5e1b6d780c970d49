//! NodeMetrics and PodMetrics as clients of `metrics.k8s.io/v1beta1` read them. Pure.

use jiff::Timestamp;
use machinery::time::format_time;
use serde_json::{Value, json};

use super::windows::Use;

/// The group and version served.
pub const API_VERSION: &str = "metrics.k8s.io/v1beta1";

fn usage(used: &Use) -> Value {
    json!({"cpu": format!("{}n", used.cpu_nano), "memory": format!("{}Ki", used.memory_bytes.div_ceil(1024))})
}

fn window(millis: i64) -> String {
    format!("{}s", millis as f64 / 1000.0)
}

fn timestamp(millis: i64) -> String {
    format_time(Timestamp::from_millisecond(millis).unwrap_or(Timestamp::UNIX_EPOCH))
}

fn metadata(object: &Value) -> Value {
    let from = &object["metadata"];
    let mut metadata = json!({"name": from["name"], "creationTimestamp": from["creationTimestamp"]});
    for key in ["namespace", "labels"] {
        if !from[key].is_null() {
            metadata[key] = from[key].clone();
        }
    }
    metadata
}

/// A node's use.
pub fn node(node: &Value, used: &Use) -> Value {
    json!({
        "kind": "NodeMetrics", "apiVersion": API_VERSION, "metadata": metadata(node),
        "timestamp": timestamp(used.at_millis), "window": window(used.window_millis), "usage": usage(used),
    })
}

/// A pod's use: the oldest and the widest of its containers' windows speak for all.
pub fn pod(pod: &Value, containers: &[(String, Use)]) -> Value {
    let at_millis = containers.iter().map(|(_, used)| used.at_millis).min().unwrap_or(0);
    let window_millis = containers.iter().map(|(_, used)| used.window_millis).max().unwrap_or(0);
    let list: Vec<Value> =
        containers.iter().map(|(name, used)| json!({"name": name, "usage": usage(used)})).collect();
    json!({
        "kind": "PodMetrics", "apiVersion": API_VERSION, "metadata": metadata(pod),
        "timestamp": timestamp(at_millis), "window": window(window_millis), "containers": list,
    })
}

/// A list of either.
pub fn list(kind: &str, items: Vec<Value>) -> Value {
    json!({"kind": format!("{kind}List"), "apiVersion": API_VERSION, "metadata": {}, "items": items})
}

/// What `/apis/metrics.k8s.io/v1beta1` lists.
pub fn resources() -> Value {
    let one = |name: &str, kind: &str, namespaced: bool| json!({"name": name, "singularName": "", "namespaced": namespaced, "kind": kind, "verbs": ["get", "list"]});
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": API_VERSION,
        "resources": [one("nodes", "NodeMetrics", false), one("pods", "PodMetrics", true)]})
}

/// What `/apis/metrics.k8s.io` says, and `/apis` lists.
pub fn group(alone: bool) -> Value {
    let version = json!({"groupVersion": API_VERSION, "version": "v1beta1"});
    let mut group = json!({"name": super::GROUP, "versions": [version], "preferredVersion": version});
    if alone {
        group["kind"] = "APIGroup".into();
        group["apiVersion"] = "v1".into();
    }
    group
}

/// The group in the aggregated discovery document.
pub fn aggregated_group() -> Value {
    let one = |name: &str, kind: &str, scope: &str| {
        let kind = json!({"group": super::GROUP, "version": "v1beta1", "kind": kind});
        json!({"resource": name, "responseKind": kind, "scope": scope, "singularResource": "", "verbs": ["get", "list"]})
    };
    json!({"metadata": {"name": super::GROUP, "creationTimestamp": null}, "versions": [{"version": "v1beta1",
        "freshness": "Current",
        "resources": [one("nodes", "NodeMetrics", "Cluster"), one("pods", "PodMetrics", "Namespaced")]}]})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_that_kubectl_top_and_the_autoscaler_read() {
        let used = Use { at_millis: 60_000, window_millis: 15_100, cpu_nano: 1_234_567, memory_bytes: 2049 };
        let object = json!({"metadata": {"name": "p", "namespace": "n", "labels": {"a": "b"}, "uid": "u"}});
        let pod = pod(&object, &[("c".to_owned(), used)]);
        assert_eq!(pod["containers"][0], json!({"name": "c", "usage": {"cpu": "1234567n", "memory": "3Ki"}}));
        assert_eq!(
            (pod["timestamp"].as_str(), pod["window"].as_str()),
            (Some("1970-01-01T00:01:00Z"), Some("15.1s"))
        );
        assert_eq!(pod["metadata"]["labels"], json!({"a": "b"}));
        assert_eq!(pod["metadata"]["uid"], Value::Null);
        assert_eq!(node(&object, &used)["usage"]["memory"], "3Ki");
    }
}
