//! Updates through `/ephemeralcontainers` and `/resize`.

use machinery::status::FieldError;
use serde_json::{Value, json};

use super::resources::{is_sidecar, qos_class};
use super::validate;
use crate::contract::{Object, RequestContext};
use crate::kinds::at::At;
use crate::kinds::checks::Errors;
use crate::kinds::json::{at, entries, has, is_set, items, remove, same, text};

const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";
const RESIZABLE: [&str; 2] = ["cpu", "memory"];

/// Ephemeral containers may only be added.
pub fn check_ephemeral(_: &RequestContext, new: &Object, old: Option<&Object>, errors: &mut Errors) {
    let Some(old) = old else { return };
    let root = At::root(new);
    let spec = root.get("spec");
    validate::spec(&spec, true, errors);
    if is_set(old, &["metadata", "annotations", MIRROR_ANNOTATION]) {
        *errors = vec![FieldError::forbidden(&"", "static pods do not support ephemeral containers")];
        return;
    }
    let place = spec.get("ephemeralContainers");
    for known in items(old, &["spec", "ephemeralContainers"]) {
        let name = text(known, &["name"]);
        let quoted = machinery::gotext::quote(name);
        match place.items().find(|container| container.get("name").text() == name) {
            None => {
                let detail = format!("existing ephemeral containers {quoted} may not be removed\n");
                errors.push(FieldError::forbidden(&place, detail));
            }
            Some(now) if !same(now.value, known) => {
                let detail = format!("existing ephemeral containers {quoted} may not be changed\n");
                errors.push(FieldError::forbidden(&place, detail));
            }
            Some(_) => {}
        }
    }
}

/// Only CPU and memory of the pod and of containers that stay the same may change, and not the pod's class.
pub fn check_resize(_: &RequestContext, new: &Object, old: Option<&Object>, errors: &mut Errors) {
    let Some(old) = old else { return };
    let root = At::root(new);
    let spec = root.get("spec");
    validate::spec(&spec, true, errors);
    let refusal = if is_set(old, &["metadata", "annotations", MIRROR_ANNOTATION]) {
        "static pods cannot be resized"
    } else if text(old, &["spec", "os", "name"]) == "windows" {
        "windows pods cannot be resized"
    } else {
        ""
    };
    if !refusal.is_empty() {
        *errors = vec![FieldError::forbidden(&"", refusal)];
        return;
    }
    let class = text(old, &["status", "qosClass"]);
    let class = if class.is_empty() { qos_class(old) } else { class };
    if class != qos_class(new) {
        let shown = text(new, &["status", "qosClass"]);
        errors.push(FieldError::invalid(
            &spec,
            shown,
            "Pod QOS Class may not change as a result of resizing",
        ));
    }
    if !has(old, &["status", "containerStatuses"]) && !supports_resize(old) {
        errors.push(FieldError::forbidden(&spec, "Pod running on node without support for resize"));
    }
    pod_level(new, old, errors);
    if same_order(new, old, errors) {
        containers(new, old, errors);
    }
}

/// What the pod as a whole asks for or is limited to.
fn pod_level(new: &Object, old: &Object, errors: &mut Errors) {
    let of = |pod: &Object| json!({"resources": at(pod, &["spec", "resources"])});
    let (now, then) = (of(new), of(old));
    let amounts =
        |pod: &Value| ["requests", "limits"].into_iter().any(|which| has(pod, &["resources", which]));
    if !amounts(&now) && !amounts(&then) {
        return;
    }
    if is_set(&then, &["resources"]) && !is_set(&now, &["resources"]) {
        errors.push(FieldError::forbidden(&"spec.resources", "pod-level resources cannot be removed"));
        return;
    }
    for which in ["requests", "limits"] {
        let path = ["resources", which];
        if entries(&then, &path).any(|(name, _)| !is_set(&now, &["resources", which, name])) {
            let detail = format!("pod-level resource {which} cannot be removed");
            errors.push(FieldError::forbidden(&format!("spec.resources.{which}"), detail));
        }
    }
    if !same_but_resizable(&now, &then) {
        let detail = "only cpu and memory resources are mutable at pod-level";
        errors.push(FieldError::forbidden(&"spec", detail));
    }
}

/// Pods that run report their containers' resources where the node can resize.
fn supports_resize(old: &Object) -> bool {
    text(old, &["status", "phase"]) != "Running"
}

fn same_order(new: &Object, old: &Object, errors: &mut Errors) -> bool {
    let before = errors.len();
    for list in ["containers", "initContainers"] {
        let (now, then) = (items(new, &["spec", list]), items(old, &["spec", list]));
        if now.len() != then.len() {
            let detail = format!("{list} may not be added or removed on resize");
            errors.push(FieldError::forbidden(&format!("spec.{list}"), detail));
            continue;
        }
        for (index, _) in now.iter().zip(then).enumerate().filter(|(_, (a, b))| a["name"] != b["name"]) {
            let detail = format!("{list} may not be renamed or reordered on resize");
            errors.push(FieldError::forbidden(&format!("spec.{list}[{index}].name"), detail));
        }
    }
    errors.len() == before
}

fn containers(new: &Object, old: &Object, errors: &mut Errors) {
    let pairs = |list: &'static str| {
        let both = items(new, &["spec", list]).iter().zip(items(old, &["spec", list]));
        both.enumerate().map(move |(index, pair)| (format!("spec.{list}[{index}]"), pair))
    };
    for (place, (now, then)) in pairs("initContainers").chain(pairs("containers")) {
        removed(now, then, &place, errors);
    }
    for (_, (now, then)) in pairs("containers") {
        if !same_but_resizable(now, then) {
            errors.push(FieldError::forbidden(&"spec", "only cpu and memory resources are mutable"));
        }
    }
    for (place, (now, then)) in pairs("initContainers") {
        if !same_but_resizable(now, then) {
            let detail = "only cpu and memory resources for init or sidecar containers are mutable";
            errors.push(FieldError::forbidden(&place, detail));
        }
        // What older servers accepted for a container that runs once.
        let restarts =
            items(now, &["resizePolicy"]).iter().any(|p| text(p, &["restartPolicy"]) == "RestartContainer");
        if restarts && !is_sidecar(now) && !same(now, then) {
            let detail =
                "non-sidecar init containers with a resize policy of RestartContainer cannot be resized";
            errors.push(FieldError::forbidden(&place, detail));
        }
    }
}

/// What a container asks for or is limited to may change, not vanish.
fn removed(now: &Value, then: &Value, place: &str, errors: &mut Errors) {
    for which in ["requests", "limits"] {
        let of = ["resources", which];
        if entries(then, &of).any(|(name, _)| !is_set(now, &["resources", which, name])) {
            let detail = format!("resource {which} cannot be removed");
            errors.push(FieldError::forbidden(&format!("{place}.resources.{which}"), detail));
        }
    }
}

/// Whether nothing but CPU and memory differs.
fn same_but_resizable(now: &Value, then: &Value) -> bool {
    same(&without_resizable(now), &without_resizable(then))
}

/// A holder of `resources` without what may change of them, and without what is empty then.
fn without_resizable(holder: &Value) -> Value {
    let mut rest = holder.clone();
    for which in ["limits", "requests"] {
        for name in RESIZABLE {
            remove(&mut rest, &["resources", which, name]);
        }
        if !has(&rest, &["resources", which]) {
            remove(&mut rest, &["resources", which]);
        }
    }
    if !has(&rest, &["resources"]) {
        remove(&mut rest, &["resources"]);
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_change_of_containers() {
        let check = |list: &str, old: Value, new: Value, expected: &[&str]| {
            let pod = |container: &Value| json!({"spec": {list: [container]}});
            let mut errors = Errors::new();
            containers(&pod(&new), &pod(&old), &mut errors);
            let got: Vec<String> = errors.iter().map(ToString::to_string).collect();
            assert_eq!(got, expected, "{old} {new}");
        };
        let cpu = |amount: &str| json!({"name": "c", "resources": {"requests": {"cpu": amount}}});
        for list in ["containers", "initContainers"] {
            check(list, cpu("1"), cpu("2"), &[]);
            check(list, json!({"name": "c"}), cpu("2"), &[]);
        }
        check(
            "containers",
            cpu("1"),
            json!({"name": "c"}),
            &["spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed"],
        );
        let image = |text: &str| json!({"name": "c", "image": text});
        let policy = |text: &str| json!({"name": "c", "resizePolicy": [{"resourceName": "cpu", "restartPolicy": text}]});
        for (old, new) in [(image("a"), image("b")), (policy("NotRequired"), policy("RestartContainer"))] {
            check("containers", old, new, &["spec: Forbidden: only cpu and memory resources are mutable"]);
        }
        check(
            "initContainers",
            image("a"),
            image("b"),
            &[
                "spec.initContainers[0]: Forbidden: only cpu and memory resources for init or sidecar containers are mutable",
            ],
        );
        let restarting = |amount: &str, policy: Value| {
            let mut container = cpu(amount);
            container["restartPolicy"] = policy;
            container["resizePolicy"] = json!([{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]);
            container
        };
        check("initContainers", restarting("1", json!("Always")), restarting("2", json!("Always")), &[]);
        check(
            "initContainers",
            restarting("1", json!(null)),
            restarting("2", json!(null)),
            &[
                "spec.initContainers[0]: Forbidden: non-sidecar init containers with a resize policy of RestartContainer cannot be resized",
            ],
        );
    }

    #[test]
    fn what_may_change_of_the_pod_as_a_whole() {
        let check = |old: Value, new: Value, expected: &[&str]| {
            let pod = |resources: &Value| json!({"spec": {"resources": resources}});
            let mut errors = Errors::new();
            pod_level(&pod(&new), &pod(&old), &mut errors);
            let got: Vec<String> = errors.iter().map(ToString::to_string).collect();
            assert_eq!(got, expected, "{old} {new}");
        };
        let requests = |cpu: &str| json!({"requests": {"cpu": cpu}});
        check(json!(null), json!(null), &[]);
        check(json!(null), requests("1"), &[]);
        check(requests("1"), requests("2"), &[]);
        check(requests("1"), json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "2"}}), &[]);
        check(
            requests("1"),
            json!(null),
            &["spec.resources: Forbidden: pod-level resources cannot be removed"],
        );
        check(
            json!({"requests": {"cpu": "1"}, "limits": {"memory": "1Gi"}}),
            json!({"requests": {"memory": "1Gi"}}),
            &[
                "spec.resources.requests: Forbidden: pod-level resource requests cannot be removed",
                "spec.resources.limits: Forbidden: pod-level resource limits cannot be removed",
            ],
        );
        check(
            json!({"limits": {"cpu": "1", "hugepages-2Mi": "2Mi"}}),
            json!({"limits": {"cpu": "1", "hugepages-2Mi": "4Mi"}}),
            &["spec: Forbidden: only cpu and memory resources are mutable at pod-level"],
        );
    }
}
