//! Between the version a request speaks and the version the store holds. Pure.
//!
//! Only three things need it: custom resources (strategy None: the apiVersion alone changes), events (core and
//! `events.k8s.io` share storage), and autoscalers (v1 keeps newer parts in annotations).

use serde_json::{Map, Value, json};

/// How a served version differs from the stored one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conversion {
    Same,
    /// Only `apiVersion` changes: served bytes are spliced.
    ApiVersion,
    /// `events.k8s.io/v1` over stored `v1`.
    Events,
    /// `autoscaling/v1` over stored `autoscaling/v2`.
    AutoscalerV1,
}

impl Conversion {
    pub fn builtin(group: &str, resource: &str) -> Self {
        match (group, resource) {
            ("events.k8s.io", "events") => Self::Events,
            ("autoscaling", "horizontalpodautoscalers") => Self::AutoscalerV1,
            _ => Self::ApiVersion,
        }
    }

    /// Whether served bytes can be made from stored ones without parsing.
    pub fn is_splice(self) -> bool {
        matches!(self, Self::Same | Self::ApiVersion)
    }

    /// The stored form of a served object.
    pub fn to_storage(self, mut object: Value, api_version: &str) -> Value {
        match self {
            Self::Same => return object,
            Self::ApiVersion => {}
            Self::Events => rename(&mut object, EVENT_FIELDS, Direction::ToStored),
            Self::AutoscalerV1 => autoscaler_to_v2(&mut object),
        }
        object["apiVersion"] = api_version.into();
        object
    }

    /// The served form of a stored object.
    pub fn from_storage(self, mut object: Value, api_version: &str) -> Value {
        match self {
            Self::Same => return object,
            Self::ApiVersion => {}
            Self::Events => {
                rename(&mut object, EVENT_FIELDS, Direction::ToServed);
                // The served schema requires it.
                if object.get("eventTime").is_none() {
                    object["eventTime"] = Value::Null;
                }
            }
            Self::AutoscalerV1 => autoscaler_to_v1(&mut object),
        }
        object["apiVersion"] = api_version.into();
        object
    }
}

/// `events.k8s.io` name, stored name.
const EVENT_FIELDS: &[(&str, &str)] = &[
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

#[derive(Clone, Copy)]
enum Direction {
    ToStored,
    ToServed,
}

fn rename(object: &mut Value, names: &[(&str, &str)], direction: Direction) {
    let Some(map) = object.as_object_mut() else { return };
    for (served, stored) in names {
        let (from, to) = match direction {
            Direction::ToStored => (*served, *stored),
            Direction::ToServed => (*stored, *served),
        };
        if let Some(value) = map.remove(from) {
            map.insert(to.to_owned(), value);
        }
    }
}

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

fn is_cpu_utilization(metric: &Value, part: &str, field: &str) -> Option<i64> {
    if metric["type"] != "Resource" || metric["resource"]["name"] != "cpu" {
        return None;
    }
    metric["resource"][part][field].as_i64()
}

fn annotations(object: &mut Value) -> Option<&mut Map<String, Value>> {
    object["metadata"].as_object_mut()?.entry("annotations").or_insert_with(|| json!({})).as_object_mut()
}

fn autoscaler_to_v1(object: &mut Value) {
    let metrics = take_list(object, "spec", "metrics");
    let utilization = metrics.iter().find_map(|m| is_cpu_utilization(m, "target", "averageUtilization"));
    let others: Vec<_> = metrics
        .into_iter()
        .filter(|m| is_cpu_utilization(m, "target", "averageUtilization").is_none())
        .collect();
    let current = take_list(object, "status", "currentMetrics");
    let now = current.iter().find_map(|m| is_cpu_utilization(m, "current", "averageUtilization"));
    let conditions = take_list(object, "status", "conditions");
    let behavior = object["spec"].as_object_mut().and_then(|s| s.remove("behavior"));
    if let Some(percent) = utilization {
        object["spec"]["targetCPUUtilizationPercentage"] = percent.into();
    }
    if let Some(percent) = now {
        object["status"]["currentCPUUtilizationPercentage"] = percent.into();
    }
    let kept = [
        (METRICS, (!others.is_empty()).then(|| Value::from(others))),
        (CURRENT_METRICS, (!current.is_empty()).then(|| Value::from(current))),
        (CONDITIONS, (!conditions.is_empty()).then(|| Value::from(conditions))),
        (BEHAVIOR, behavior),
    ];
    for (name, value) in kept {
        if let (Some(value), Some(annotations)) = (value, annotations(object)) {
            annotations.insert(name.to_owned(), value.to_string().into());
        }
    }
}

fn autoscaler_to_v2(object: &mut Value) {
    let mut metrics =
        take_annotation(object, METRICS).and_then(|v| v.as_array().cloned()).unwrap_or_default();
    let percent = object["spec"].as_object_mut().and_then(|s| s.remove("targetCPUUtilizationPercentage"));
    if let Some(percent) = percent {
        let target = json!({"type": "Utilization", "averageUtilization": percent});
        metrics.insert(0, json!({"type": "Resource", "resource": {"name": "cpu", "target": target}}));
    }
    if !metrics.is_empty() {
        object["spec"]["metrics"] = metrics.into();
    }
    if let Some(status) = object.get_mut("status").and_then(Value::as_object_mut) {
        status.remove("currentCPUUtilizationPercentage");
    }
    for (name, part, field) in [
        (CURRENT_METRICS, "status", "currentMetrics"),
        (CONDITIONS, "status", "conditions"),
        (BEHAVIOR, "spec", "behavior"),
    ] {
        if let Some(value) = take_annotation(object, name) {
            object[part][field] = value;
        }
    }
}

fn take_annotation(object: &mut Value, name: &str) -> Option<Value> {
    let metadata = object.get_mut("metadata")?.as_object_mut()?;
    let annotations = metadata.get_mut("annotations")?.as_object_mut()?;
    let text = annotations.remove(name)?;
    if annotations.is_empty() {
        metadata.remove("annotations");
    }
    serde_json::from_str(text.as_str()?).ok()
}

fn take_list(object: &mut Value, part: &str, field: &str) -> Vec<Value> {
    match object.get_mut(part).and_then(Value::as_object_mut).and_then(|m| m.remove(field)) {
        Some(Value::Array(items)) => items,
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_round_trip(conversion: Conversion, served: &Value, stored_version: &str) {
        let stored = conversion.to_storage(served.clone(), stored_version);
        assert_eq!(stored["apiVersion"], stored_version);
        let version = served["apiVersion"].as_str().expect("apiVersion");
        assert_eq!(&conversion.from_storage(stored, version), served);
    }

    #[test]
    fn served_objects_survive_the_store() {
        check_round_trip(
            Conversion::Events,
            &json!({"apiVersion":"events.k8s.io/v1","kind":"Event","metadata":{"name":"a"},"eventTime":"t",
                "regarding":{"name":"p"},"note":"n","reportingController":"c","deprecatedCount":2}),
            "v1",
        );
        check_round_trip(
            Conversion::AutoscalerV1,
            &json!({"apiVersion":"autoscaling/v1","kind":"HorizontalPodAutoscaler",
                "metadata":{"name":"a","annotations":{METRICS: "[{\"type\":\"Pods\"}]"}},
                "spec":{"maxReplicas":3,"targetCPUUtilizationPercentage":50},"status":{"currentReplicas":1}}),
            "autoscaling/v2",
        );
    }
}
