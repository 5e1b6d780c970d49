//! The downward API: values of a pod's own fields and of its containers' resources, as text.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, ObjectFieldSelector, Pod, PodStatus, ResourceFieldSelector};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::pod::spec;
use super::quantity;

/// What the machine gives where the pod sets no limit.
pub type Allocatable = BTreeMap<String, Quantity>;

/// A field cannot be given. The text is shown to the user.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FieldError {
    /// No such field for a pod.
    #[error("unsupported fieldPath: {0}")]
    UnsupportedField(String),
    /// No such resource.
    #[error("Unsupported container resource : {0}")]
    UnsupportedResource(String),
    /// The container named does not exist.
    #[error("container {0} not found")]
    NoContainer(String),
}

/// The text of one field of the pod. `status` is the newest known (its addresses may be younger than the
/// API's).
pub fn pod_field(
    pod: &Pod,
    status: &PodStatus,
    selector: &ObjectFieldSelector,
) -> Result<String, FieldError> {
    let path = selector.field_path.as_str();
    let spec = spec::spec(pod);
    if let Some((list, key)) = subscript(path) {
        let map = match list {
            "metadata.labels" => &pod.metadata.labels,
            "metadata.annotations" => &pod.metadata.annotations,
            _ => return Err(FieldError::UnsupportedField(path.to_owned())),
        };
        return Ok(map.as_ref().and_then(|m| m.get(key)).cloned().unwrap_or_default());
    }
    let join = |ips: Vec<&str>| ips.join(",");
    Ok(match path {
        "metadata.name" => spec::name(pod).to_owned(),
        "metadata.namespace" => spec::namespace(pod).to_owned(),
        "metadata.uid" => spec::uid(pod).to_owned(),
        "metadata.labels" => format_map(pod.metadata.labels.as_ref()),
        "metadata.annotations" => format_map(pod.metadata.annotations.as_ref()),
        "spec.nodeName" => spec.node_name.clone().unwrap_or_default(),
        "spec.serviceAccountName" => spec.service_account_name.clone().unwrap_or_default(),
        "spec.restartPolicy" => spec::restart_policy(pod).to_owned(),
        "spec.schedulerName" => spec.scheduler_name.clone().unwrap_or_default(),
        "status.phase" => status.phase.clone().unwrap_or_default(),
        "status.podIP" => status.pod_ip.clone().unwrap_or_default(),
        "status.podIPs" => join(status.pod_ips.iter().flatten().map(|i| i.ip.as_str()).collect()),
        "status.hostIP" => status.host_ip.clone().unwrap_or_default(),
        "status.hostIPs" => join(status.host_ips.iter().flatten().map(|i| i.ip.as_str()).collect()),
        _ => return Err(FieldError::UnsupportedField(path.to_owned())),
    })
}

/// `metadata.labels['app']` as (`metadata.labels`, `app`).
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (list, rest) = path.split_once("['")?;
    Some((list, rest.strip_suffix("']")?))
}

/// One `key="escaped value"` a line, sorted: the form of files with labels and annotations.
pub fn format_map(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<String> = map
        .into_iter()
        .flatten()
        .map(|(k, v)| format!("{k}={}", serde_json::Value::from(v.as_str())))
        .collect();
    lines.join("\n")
}

/// The text of a container's request or limit in units of the divisor, rounded up.
pub fn container_resource(
    pod: &Pod,
    own: Option<&Container>,
    selector: &ResourceFieldSelector,
    allocatable: &Allocatable,
) -> Result<String, FieldError> {
    let named = selector.container_name.as_deref().filter(|n| !n.is_empty());
    let container = match named {
        Some(name) => spec::find_container(pod, name).map(|(_, c)| c),
        None => own.cloned(),
    };
    let container = container.ok_or_else(|| FieldError::NoContainer(named.unwrap_or_default().to_owned()))?;
    let unsupported = || FieldError::UnsupportedResource(selector.resource.clone());
    let (list, resource) = selector.resource.split_once('.').ok_or_else(unsupported)?;
    let resources = container.resources.clone().unwrap_or_default();
    let limit = resources.limits.as_ref().and_then(|l| l.get(resource)).or_else(|| allocatable.get(resource));
    let amount = match list {
        "limits" => limit.cloned(),
        "requests" => resources.requests.as_ref().and_then(|r| r.get(resource)).cloned(),
        _ => return Err(unsupported()),
    };
    let divisor = selector.divisor.as_ref().map_or(0, quantity::nano);
    let divisor = if divisor <= 0 { quantity::NANO } else { divisor };
    let amount = amount.as_ref().map_or(0, quantity::nano);
    Ok((amount / divisor + i128::from(amount % divisor > 0)).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"b": "2", "a": "x\"y\n"}},
            "spec": {"nodeName": "node", "containers": [{"name": "c", "resources":
                {"requests": {"cpu": "250m"}, "limits": {"memory": "1Mi"}}}]},
            "status": {"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]}}))
        .expect("a pod")
    }

    fn check_field(path: &str, expected: Result<&str, FieldError>) {
        let selector = ObjectFieldSelector { field_path: path.into(), api_version: None };
        let pod = pod();
        assert_eq!(pod_field(&pod, &spec::status(&pod), &selector).as_deref(), expected.as_ref().copied());
    }

    #[test]
    fn fields_of_the_pod() {
        check_field("metadata.name", Ok("p"));
        check_field("metadata.labels['b']", Ok("2"));
        check_field("metadata.annotations['none']", Ok(""));
        check_field("metadata.labels", Ok("a=\"x\\\"y\\n\"\nb=\"2\""));
        check_field("status.podIPs", Ok("10.0.0.1,fd00::1"));
        check_field("spec.nodeName", Ok("node"));
        check_field("spec.x", Err(FieldError::UnsupportedField("spec.x".into())));
    }

    #[test]
    fn resources_of_a_container() {
        let pod = pod();
        let check = |resource: &str, divisor: Option<&str>, expected: &str| {
            let selector = ResourceFieldSelector {
                container_name: Some("c".into()),
                resource: resource.into(),
                divisor: divisor.map(|d| Quantity(d.into())),
            };
            let allocatable = BTreeMap::from([("cpu".to_owned(), Quantity("4".into()))]);
            assert_eq!(container_resource(&pod, None, &selector, &allocatable).as_deref(), Ok(expected));
        };
        check("requests.cpu", None, "1");
        check("requests.cpu", Some("1m"), "250");
        check("limits.cpu", None, "4");
        check("limits.memory", Some("1Ki"), "1024");
        check("requests.memory", None, "0");
    }
}
