//! What is accepted in pods and pod templates but not advised; told in `Warning` headers. Pure.
//!
//! Source: `pkg/api/pod/warnings.go`, `pkg/api/node/util.go`.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::contract::{Object, RequestContext};
use crate::kinds::at::At;
use crate::kinds::json::{at, items, text};

/// Where the pod or its template lies in the kinds that have one.
const PLACES: &[(&str, &str, &[&str])] = &[
    ("", "pods", &[]),
    ("", "podtemplates", &["template"]),
    ("", "replicationcontrollers", &["spec", "template"]),
    ("apps", "daemonsets", &["spec", "template"]),
    ("apps", "deployments", &["spec", "template"]),
    ("apps", "replicasets", &["spec", "template"]),
    ("apps", "statefulsets", &["spec", "template"]),
    ("batch", "cronjobs", &["spec", "jobTemplate", "spec", "template"]),
    ("batch", "jobs", &["spec", "template"]),
];

const NODE_LABELS: &[(&str, &str)] = &[
    ("beta.kubernetes.io/arch", r#"deprecated since v1.14; use "kubernetes.io/arch" instead"#),
    ("beta.kubernetes.io/os", r#"deprecated since v1.14; use "kubernetes.io/os" instead"#),
    (
        "failure-domain.beta.kubernetes.io/region",
        r#"deprecated since v1.17; use "topology.kubernetes.io/region" instead"#,
    ),
    (
        "failure-domain.beta.kubernetes.io/zone",
        r#"deprecated since v1.17; use "topology.kubernetes.io/zone" instead"#,
    ),
    (
        "beta.kubernetes.io/instance-type",
        r#"deprecated since v1.17; use "node.kubernetes.io/instance-type" instead"#,
    ),
    ("app.kubernetes.io/created-by", "deprecated since v1.9"),
    (
        "scheduler.alpha.kubernetes.io/preferAvoidPods",
        "deprecated since v1.22; use Taints and Tolerations instead",
    ),
    ("node-role.kubernetes.io/master", r#"use "node-role.kubernetes.io/control-plane" instead"#),
];

const ANNOTATIONS: &[(&str, &str)] = &[
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        r#"non-functional in v1.16+; use the "priorityClassName" field instead"#,
    ),
    ("security.alpha.kubernetes.io/sysctls", r#"non-functional in v1.11+; use the "sysctls" field instead"#),
    (
        "security.alpha.kubernetes.io/unsafe-sysctls",
        r#"non-functional in v1.11+; use the "sysctls" field instead"#,
    ),
    (
        "seccomp.security.alpha.kubernetes.io/pod",
        r#"non-functional in v1.27+; use the "seccompProfile" field instead"#,
    ),
];

const VOLUMES: &[(&str, &str)] = &[
    ("photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
    ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
];

const NO_POD: &str = "a null labelSelector results in matching no pod";

/// Tells the client about a new object, or about an update that changed what the warnings are about.
pub fn on_write(ctx: &RequestContext, group: &str, resource: &str, new: &Object, old: Option<&Object>) {
    let Some((_, _, place)) = PLACES.iter().find(|p| (p.0, p.1) == (group, resource)) else { return };
    let part = |object| at(object, place);
    if old.is_some_and(|old| part(old)["spec"] == part(new)["spec"]) {
        return;
    }
    of_template(&place.join("."), part(new)).into_iter().for_each(|text| ctx.warn(text));
}

/// The warnings about a pod or template that lies at this path.
fn of_template(path: &str, template: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let root = if path.is_empty() { At::root(template) } else { At::placed(path, template) };
    let (metadata, spec) = (root.get("metadata"), root.get("spec"));
    node_labels(&spec, &mut found);
    spread(&spec, &mut found);
    let annotations = metadata.get("annotations");
    for (name, text) in ANNOTATIONS.iter().filter(|(name, _)| annotations.value.get(*name).is_some()) {
        found.push(format!("{annotations}[{name}]: {text}"));
    }
    let volumes = spec.get("volumes");
    for volume in volumes.items() {
        let kinds = VOLUMES.iter().filter(|(kind, _)| volume.get(kind).is_set());
        found.extend(kinds.map(|(kind, text)| format!("{}: {text}", volume.get(kind))));
    }
    repeated(&spec, "hostAliases", "ip", "duplicate ip", &mut found);
    repeated(&spec, "imagePullSecrets", "name", "duplicate name", &mut found);
    containers(&spec, &mut found);
    affinity(&spec, &mut found);
    found
}

fn label_message(label: &str) -> Option<&'static str> {
    NODE_LABELS.iter().find(|(known, _)| *known == label).map(|(_, text)| *text)
}

fn node_labels(spec: &At<'_, '_>, found: &mut Vec<String>) {
    let selector = spec.get("nodeSelector");
    for (label, _) in selector.entries() {
        found.extend(label_message(label).map(|text| format!("{selector}[{label}]: {text}")));
    }
    let affinity = spec.get("affinity");
    let node = affinity.get("nodeAffinity");
    let required = node.get("requiredDuringSchedulingIgnoredDuringExecution");
    let terms = required.get("nodeSelectorTerms");
    for term in terms.items() {
        term_labels(&term, found);
    }
    let preferred = node.get("preferredDuringSchedulingIgnoredDuringExecution");
    for weighted in preferred.items() {
        term_labels(&weighted.get("preference"), found);
    }
}

fn term_labels(term: &At<'_, '_>, found: &mut Vec<String>) {
    let expressions = term.get("matchExpressions");
    for expression in expressions.items() {
        let key = expression.get("key");
        found.extend(label_message(key.text()).map(|text| format!("{key}: {} is {text}", key.text())));
    }
}

fn spread(spec: &At<'_, '_>, found: &mut Vec<String>) {
    let constraints = spec.get("topologySpreadConstraints");
    for constraint in constraints.items() {
        let key = constraint.get("topologyKey");
        found.extend(label_message(key.text()).map(|text| format!("{key}: {} is {text}", key.text())));
        let selector = constraint.get("labelSelector");
        if !selector.has() {
            found.push(format!("{selector}: {NO_POD}"));
        }
    }
}

fn affinity(spec: &At<'_, '_>, found: &mut Vec<String>) {
    let affinity = spec.get("affinity");
    for kind in ["podAffinity", "podAntiAffinity"] {
        let kind = affinity.get(kind);
        let required = kind.get("requiredDuringSchedulingIgnoredDuringExecution");
        let preferred = kind.get("preferredDuringSchedulingIgnoredDuringExecution");
        let mut selectors = Vec::new();
        for term in required.items() {
            let selector = term.get("labelSelector");
            selectors.push((selector.to_string(), selector.has()));
        }
        for weighted in preferred.items() {
            let term = weighted.get("podAffinityTerm");
            let selector = term.get("labelSelector");
            selectors.push((selector.to_string(), selector.has()));
        }
        found.extend(
            selectors.into_iter().filter(|(_, has)| !has).map(|(path, _)| format!("{path}: {NO_POD}")),
        );
    }
}

/// Entries of a list that name the same thing twice.
fn repeated(spec: &At<'_, '_>, list: &str, key: &str, what: &str, found: &mut Vec<String>) {
    let list = spec.get(list);
    let mut seen: Vec<&str> = Vec::new();
    for item in list.items() {
        let name = item.get(key);
        if !name.text().is_empty() && seen.contains(&name.text()) {
            found.push(format!("{name}: {what} {}", machinery::gotext::quote(name.text())));
        }
        seen.push(name.text());
    }
}

fn containers(spec: &At<'_, '_>, found: &mut Vec<String>) {
    let mut ports: BTreeMap<String, Vec<(String, &Value)>> = BTreeMap::new();
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        let list = spec.get(list);
        for container in list.items() {
            hidden_variables(&container, found);
            let own = container.get("ports");
            for port in own.items() {
                let number = port.get("containerPort").int().unwrap_or_default();
                let key = format!("{number}/{}", text(port.value, &["protocol"]));
                let others = ports.entry(key).or_default();
                found.extend(others.iter().filter_map(|(path, other)| port_clash(&port, path, other)));
                others.push((port.to_string(), port.value));
            }
        }
    }
}

fn port_clash(port: &At<'_, '_>, other_path: &str, other: &Value) -> Option<String> {
    let of = |value: &Value| {
        (value["hostIP"].as_str().unwrap_or_default().to_owned(), value["hostPort"].as_i64().unwrap_or(0))
    };
    let ((ip, host_port), (other_ip, other_host_port)) = (of(port.value), of(other));
    let what = if ip == other_ip && host_port == other_host_port {
        "duplicate"
    } else if host_port == 0 || other_host_port == 0 {
        "overlapping"
    } else if host_port == other_host_port && ip.is_empty() != other_ip.is_empty() {
        "dangerously ambiguous"
    } else {
        return None;
    };
    Some(format!("{port}: {what} port definition with {other_path}"))
}

/// A variable set twice keeps its first value only where the second is made from it.
fn hidden_variables(container: &At<'_, '_>, found: &mut Vec<String>) {
    let env = container.get("env");
    let mut seen: Vec<&str> = Vec::new();
    for (index, variable) in items(container.value, &["env"]).iter().enumerate() {
        let (name, value) = (text(variable, &["name"]), text(variable, &["value"]));
        if !seen.contains(&name) {
            seen.push(name);
            continue;
        }
        let reference = format!("$({name})");
        let hides = variable.get("valueFrom").is_some() || value == reference || !value.contains(&reference);
        if hides {
            let quoted = machinery::gotext::quote(name);
            let text =
                format!("hides previous definition of {quoted}, which may be dropped when using apply");
            found.push(format!("{}: {text}", env.index(index)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(spec: Value, expected: &[&str]) {
        assert_eq!(of_template("spec.template", &json!({"spec": spec})), expected);
    }

    #[test]
    fn warnings() {
        check(
            json!({"containers": [{"name": "c", "ports": [{"containerPort": 80, "protocol": "TCP"}]}]}),
            &[],
        );
        check(
            json!({"nodeSelector": {"beta.kubernetes.io/os": "linux"}}),
            &[
                r#"spec.template.spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use "kubernetes.io/os" instead"#,
            ],
        );
        check(
            json!({"volumes": [{"name": "v", "gitRepo": {"repository": "r"}}]}),
            &[
                "spec.template.spec.volumes[0].gitRepo: deprecated in v1.11, and disabled by default in v1.33+",
            ],
        );
        check(
            json!({"containers": [{"ports": [{"containerPort": 80, "protocol": "TCP"}, {"containerPort": 80, "protocol": "TCP", "hostPort": 1}]}]}),
            &[
                "spec.template.spec.containers[0].ports[1]: overlapping port definition with spec.template.spec.containers[0].ports[0]",
            ],
        );
        check(
            json!({"containers": [{"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "$(A)2"}, {"name": "A", "value": "3"}]}]}),
            &[
                r#"spec.template.spec.containers[0].env[2]: hides previous definition of "A", which may be dropped when using apply"#,
            ],
        );
        check(
            json!({"topologySpreadConstraints": [{"topologyKey": "kubernetes.io/hostname"}], "imagePullSecrets": [{"name": "s"}, {"name": "s"}]}),
            &[
                "spec.template.spec.topologySpreadConstraints[0].labelSelector: a null labelSelector results in matching no pod",
                r#"spec.template.spec.imagePullSecrets[1].name: duplicate name "s""#,
            ],
        );
    }

    #[test]
    fn pods_are_their_own_template() {
        let pod =
            json!({"metadata": {"annotations": {"security.alpha.kubernetes.io/sysctls": "x"}}, "spec": {}});
        assert_eq!(
            of_template("", &pod),
            [
                r#"metadata.annotations[security.alpha.kubernetes.io/sysctls]: non-functional in v1.11+; use the "sysctls" field instead"#
            ]
        );
    }
}
