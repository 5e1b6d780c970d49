//! Defaults of pods and pod templates that depend on other fields; static ones are in the machinery's table.

use serde_json::{Value, json};

use crate::contract::Object;
use crate::kinds::json::{at, entries, flag, int, is_set, items, items_mut, make, set, set_if_null, text};
use crate::kinds::pod::resources::{
    aggregate_limits, aggregate_requests, is_overcommit_allowed, is_pod_level,
};

const CONTAINER_LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];
/// Members of a Volume that are not its source.
const NOT_A_SOURCE: [&str; 1] = ["name"];

/// The list of addresses begins with the single one, which older writers set alone.
fn addresses(pod: &mut Object) {
    let ip = text(pod, &["status", "podIP"]).to_owned();
    let first = items(pod, &["status", "podIPs"]).first().map(|one| text(one, &["ip"]).to_owned());
    match (ip.as_str(), first.as_deref()) {
        ("", None) => {}
        ("", Some(first)) => set(pod, &["status", "podIP"], first),
        (ip, first) if first != Some(ip) => set(pod, &["status", "podIPs"], json!([{"ip": ip}])),
        _ => {}
    }
}

/// Defaults of a Pod.
pub fn pod(pod: &mut Object) {
    addresses(pod);
    let Some(spec) = pod.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    pod_spec(spec);
    for list in ["containers", "initContainers"] {
        items_mut(spec, &[list]).iter_mut().for_each(requests_from_limits);
    }
    pod_level_limits(spec);
    pod_level_requests(spec);
    set_if_null(spec, &["enableServiceLinks"], true);
    if flag(spec, &["hostNetwork"]) == Some(true) {
        for list in ["containers", "initContainers"] {
            items_mut(spec, &[list]).iter_mut().for_each(host_ports);
        }
    }
}

/// Defaults of a PodSpec wherever it stands.
pub fn pod_spec(spec: &mut Value) {
    items_mut(spec, &["volumes"]).iter_mut().for_each(volume);
    for list in CONTAINER_LISTS {
        items_mut(spec, &[list]).iter_mut().for_each(container);
    }
    // The old name of the service account's name is kept in step.
    let (name, old_name) =
        (text(spec, &["serviceAccountName"]).to_owned(), text(spec, &["serviceAccount"]).to_owned());
    match (name.is_empty(), old_name.is_empty()) {
        (false, _) => set(spec, &["serviceAccount"], name),
        (true, false) => set(spec, &["serviceAccountName"], old_name),
        (true, true) => {}
    }
}

/// Defaults of the PodSpec of a template at the path inside an object.
pub fn template(object: &mut Object, path: &[&str]) {
    if let Some(spec) = crate::kinds::json::find_mut(object, path).filter(|spec| spec.is_object()) {
        pod_spec(spec);
    }
}

fn volume(volume: &mut Value) {
    let has_source =
        entries(volume, &[]).any(|(key, value)| !NOT_A_SOURCE.contains(&key) && !value.is_null());
    if !has_source {
        set(volume, &["emptyDir"], json!({}));
    }
    if is_set(volume, &["image"]) && text(volume, &["image", "pullPolicy"]).is_empty() {
        let policy = pull_policy(text(volume, &["image", "reference"]));
        set(volume, &["image", "pullPolicy"], policy);
    }
    if is_set(volume, &["ephemeral", "volumeClaimTemplate"]) {
        set_if_null(volume, &["ephemeral", "volumeClaimTemplate", "spec", "volumeMode"], "Filesystem");
    }
}

fn container(container: &mut Value) {
    if text(container, &["imagePullPolicy"]).is_empty() {
        let policy = pull_policy(text(container, &["image"]));
        set(container, &["imagePullPolicy"], policy);
    }
}

/// `Always` for images whose tag is `latest` or left out, otherwise `IfNotPresent`.
pub fn pull_policy(image: &str) -> &'static str {
    if tag(image) == "latest" { "Always" } else { "IfNotPresent" }
}

/// The tag of an image reference; `latest` where neither tag nor digest is given, empty where it does not parse.
fn tag(image: &str) -> &str {
    if image.is_empty() || image.contains(char::is_whitespace) {
        return "";
    }
    let (name, digest) = image.split_once('@').map_or((image, None), |(name, digest)| (name, Some(digest)));
    let start = name.rfind('/').map_or(0, |slash| slash + 1);
    let repository_is_lower =
        !name[start..].split(':').next().unwrap_or_default().contains(|c: char| c.is_ascii_uppercase());
    match name[start..].split_once(':') {
        _ if !repository_is_lower => "",
        Some((_, tag)) => tag,
        None if digest.is_some() => "",
        None => "latest",
    }
}

fn requests_from_limits(container: &mut Value) {
    let limits: Vec<(String, Value)> = entries(container, &["resources", "limits"])
        .map(|(key, value)| (key.to_owned(), value.clone()))
        .collect();
    for (name, limit) in limits {
        set_if_null(container, &["resources", "requests", &name], limit);
    }
}

fn host_ports(container: &mut Value) {
    for port in items_mut(container, &["ports"]) {
        if int(port, &["hostPort"]).unwrap_or_default() == 0 {
            let own = at(port, &["containerPort"]).clone();
            set(port, &["hostPort"], own);
        }
    }
}

fn pod_level_limits(spec: &mut Value) {
    if at(spec, &["resources", "limits"]).is_null() && at(spec, &["resources", "requests"]).is_null() {
        return;
    }
    for (name, limit) in aggregate_limits(spec) {
        let huge_pages = name.starts_with("hugepages-");
        if huge_pages && at(spec, &["resources", "requests", &name]).is_null() {
            set_if_null(spec, &["resources", "limits", &name], limit.to_string());
        }
    }
}

fn pod_level_requests(spec: &mut Value) {
    let limits: Vec<(String, Value)> =
        entries(spec, &["resources", "limits"]).map(|(key, value)| (key.to_owned(), value.clone())).collect();
    if limits.is_empty() {
        return;
    }
    for (name, request) in aggregate_requests(spec) {
        if is_pod_level(&name) && is_overcommit_allowed(&name) {
            set_if_null(spec, &["resources", "requests", &name], request.to_string());
        }
    }
    for (name, limit) in limits.into_iter().filter(|(name, _)| is_pod_level(name)) {
        set_if_null(make(spec, &["resources"]), &["requests", &name], limit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(mut input: Value, expected: Value) {
        let before = input.to_string();
        pod(&mut input);
        assert_eq!(input, expected, "{before}");
    }

    #[test]
    fn pods() {
        check(
            json!({"spec": {"containers": [{"image": "nginx", "resources": {"limits": {"cpu": "1"}}}], "volumes": [{"name": "v"}]}}),
            json!({"spec": {
                "containers": [{"image": "nginx", "imagePullPolicy": "Always",
                    "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "1"}}}],
                "volumes": [{"name": "v", "emptyDir": {}}], "enableServiceLinks": true}}),
        );
        check(
            json!({"spec": {"hostNetwork": true, "serviceAccountName": "sa",
                "containers": [{"image": "r:5000/a/b:v1", "ports": [{"containerPort": 80}]}]}}),
            json!({"spec": {"hostNetwork": true, "serviceAccountName": "sa", "serviceAccount": "sa", "enableServiceLinks": true,
                "containers": [{"image": "r:5000/a/b:v1", "imagePullPolicy": "IfNotPresent",
                    "ports": [{"containerPort": 80, "hostPort": 80}]}]}}),
        );
    }

    #[test]
    fn pull_policies() {
        for (image, expected) in [
            ("a", "Always"),
            ("a:latest", "Always"),
            ("host:5000/a", "Always"),
            ("a:1", "IfNotPresent"),
            ("a@sha256:abc", "IfNotPresent"),
            ("a:latest@sha256:abc", "Always"),
            ("", "IfNotPresent"),
        ] {
            assert_eq!(pull_policy(image), expected, "{image}");
        }
    }
}
