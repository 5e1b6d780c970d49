//! What an update of a pod may change.

use machinery::status::FieldError;
use serde_json::Value;

use crate::contract::Object;
use crate::kinds::at::At;
use crate::kinds::checks::Errors;
use crate::kinds::json::{at, entries, has, int, is_set, items, items_mut, keep, remove, same, set, text};

const UPDATABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
const NODE_AFFINITY: [&str; 3] = ["spec", "affinity", "nodeAffinity"];
const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";

/// Images, a shorter deadline, more tolerations, fewer gates, and where a gated pod may run.
pub fn check(new: &Object, old: &Object, errors: &mut Errors) {
    let root = At::root(new);
    let spec = root.get("spec");
    for list in ["containers", "initContainers"] {
        if items(new, &["spec", list]).len() != items(old, &["spec", list]).len() {
            let detail = "pod updates may not add or remove containers";
            errors.push(FieldError::forbidden(&spec.get(list), detail));
            return;
        }
    }
    if !deadline(&spec, old, errors) {
        return;
    }
    only_added_tolerations(&spec, old, errors);
    only_deleted_gates(&spec, old, errors);
    if same(at(new, &["spec"]), at(old, &["spec"])) {
        return;
    }
    let mut munged = new.clone();
    forgive(&mut munged, old);
    if has(old, &["spec", "schedulingGates"]) {
        gated(&mut munged, old, &spec, errors);
    }
    let changed = changed_fields(at(&munged, &["spec"]), at(old, &["spec"]));
    if !changed.is_empty() {
        let detail =
            format!("pod updates may not change fields other than {UPDATABLE}\n{}", changed.join("\n"));
        errors.push(FieldError::forbidden(&"spec", detail));
    }
}

/// Whether the rest is worth checking.
fn deadline(spec: &At<'_, '_>, old: &Object, errors: &mut Errors) -> bool {
    let place = spec.get("activeDeadlineSeconds");
    let before = int(old, &["spec", "activeDeadlineSeconds"]);
    match (place.int(), before) {
        (Some(now), Some(before)) if before < now => {
            errors.push(FieldError::invalid(&place, now, "must be less than or equal to previous value"));
            return false;
        }
        (None, Some(_)) => {
            let detail = "must not update from a positive integer to nil value";
            errors.push(FieldError::invalid(&place, Value::Null, detail));
        }
        _ => {}
    }
    true
}

fn only_added_tolerations(spec: &At<'_, '_>, old: &Object, errors: &mut Errors) {
    let place = spec.get("tolerations");
    let without_seconds = |toleration: &Value| {
        let mut toleration = toleration.clone();
        remove(&mut toleration, &["tolerationSeconds"]);
        toleration
    };
    for known in items(old, &["spec", "tolerations"]) {
        let known = without_seconds(known);
        if !place.items().any(|toleration| same(&without_seconds(toleration.value), &known)) {
            let detail = "existing toleration can not be modified except its tolerationSeconds";
            errors.push(FieldError::forbidden(&place, detail));
            return;
        }
    }
}

fn only_deleted_gates(spec: &At<'_, '_>, old: &Object, errors: &mut Errors) {
    let known: Vec<&str> =
        items(old, &["spec", "schedulingGates"]).iter().map(|gate| text(gate, &["name"])).collect();
    for gate in spec.get("schedulingGates").items() {
        let name = gate.get("name");
        if !known.contains(&name.text()) {
            let detail = format!("only deletion is allowed, but found new scheduling gate '{}'", name.text());
            errors.push(FieldError::forbidden(&name, detail));
        }
    }
}

/// Takes the allowed changes back, so that what differs afterwards is not allowed.
fn forgive(munged: &mut Object, old: &Object) {
    for list in ["containers", "initContainers"] {
        for (container, before) in
            items_mut(munged, &["spec", list]).iter_mut().zip(items(old, &["spec", list]))
        {
            keep(container, before, &["image"]);
        }
    }
    for field in ["activeDeadlineSeconds", "schedulingGates", "tolerations"] {
        keep(munged, old, &["spec", field]);
    }
    let grace = ["spec", "terminationGracePeriodSeconds"];
    if int(old, &grace).is_some_and(|secs| secs < 0) && int(munged, &grace) == Some(1) {
        keep(munged, old, &grace);
    }
}

/// A gated pod's choice of nodes may become narrower.
fn gated(munged: &mut Object, old: &Object, spec: &At<'_, '_>, errors: &mut Errors) {
    let selector = spec.get("nodeSelector");
    if entries(old, &["spec", "nodeSelector"]).any(|(key, value)| selector.value.get(key) != Some(value)) {
        let detail = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
        errors.push(FieldError::invalid(&selector, selector.value.clone(), detail));
    }
    keep(munged, old, &["spec", "nodeSelector"]);
    narrower_affinity(munged, old, errors);
    if is_set(old, &NODE_AFFINITY) {
        set(munged, &NODE_AFFINITY, at(old, &NODE_AFFINITY).clone());
    } else {
        remove(munged, &NODE_AFFINITY);
    }
}

fn narrower_affinity(new: &Object, old: &Object, errors: &mut Errors) {
    let path = ["spec", "affinity", "nodeAffinity", REQUIRED, "nodeSelectorTerms"];
    let (now, before) = (items(new, &path), items(old, &path));
    let place = path.join(".");
    if !before.is_empty() && before.len() != now.len() {
        let detail = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        errors.push(FieldError::invalid(&place, Value::Array(now.to_vec()), detail));
        return;
    }
    for (index, (term, known)) in now.iter().zip(before).enumerate() {
        let grows = |field: &str| {
            let (now, before) = (items(term, &[field]), items(known, &[field]));
            now.len() >= before.len() && now[..before.len()].iter().zip(before).all(|(a, b)| same(a, b))
        };
        let was_empty = ["matchExpressions", "matchFields"].iter().all(|f| items(known, &[f]).is_empty());
        let is_empty = ["matchExpressions", "matchFields"].iter().all(|f| items(term, &[f]).is_empty());
        if (was_empty && !is_empty) || !grows("matchExpressions") || !grows("matchFields") {
            let detail = "only additions are allowed (no mutations or deletions)";
            errors.push(FieldError::invalid(&format!("{place}[{index}]"), term.clone(), detail));
        }
    }
}

/// The top-level fields that differ, one line each.
fn changed_fields(new: &Value, old: &Value) -> Vec<String> {
    let mut names: Vec<&str> = entries(new, &[]).chain(entries(old, &[])).map(|(name, _)| name).collect();
    names.sort_unstable();
    names.dedup();
    let differs = |name: &&str| !same(at(new, &[name]), at(old, &[name]));
    let line = |name: &str| {
        let text = |value: &Value| machinery::gotext::json(value);
        format!("- {name}: {}\n+ {name}: {}", text(at(old, &[name])), text(at(new, &[name])))
    };
    names.into_iter().filter(differs).map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check_update(new: Value, old: Value, expected: &[&str]) {
        let mut errors = Vec::new();
        check(&json!({ "spec": new }), &json!({ "spec": old }), &mut errors);
        let got: Vec<String> =
            errors.iter().map(|e| e.to_string().lines().next().unwrap_or_default().to_owned()).collect();
        assert_eq!(got, expected, "{new}");
    }

    #[test]
    fn updates() {
        let pod = |image: &str| json!({"containers": [{"name": "a", "image": image}]});
        check_update(pod("b"), pod("a"), &[]);
        let mut more = pod("a");
        more["containers"][0]["command"] = json!(["x"]);
        check_update(
            more,
            pod("a"),
            &[&format!("spec: Forbidden: pod updates may not change fields other than {UPDATABLE}")],
        );
        check_update(
            json!({"containers": []}),
            pod("a"),
            &["spec.containers: Forbidden: pod updates may not add or remove containers"],
        );
        let mut gated = pod("a");
        gated["schedulingGates"] = json!([{"name": "g"}]);
        let mut narrowed = pod("a");
        narrowed["nodeSelector"] = json!({"disk": "ssd"});
        check_update(narrowed.clone(), gated.clone(), &[]);
        check_update(
            gated,
            narrowed,
            &[
                "spec.schedulingGates[0].name: Forbidden: only deletion is allowed, but found new scheduling gate 'g'",
                &format!("spec: Forbidden: pod updates may not change fields other than {UPDATABLE}"),
            ],
        );
    }
}
