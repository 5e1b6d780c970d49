//! The three container lists of a pod.

use machinery::status::FieldError;
use rustc_hash::FxHashSet;

use super::volumes::VolumeNames;
use super::{env, mounts, probes, requirements, security};
use crate::kinds::at::At;
use crate::kinds::checks::Errors;
use crate::kinds::json::{flag, is_set, text};

const ONLY_SIDECARS: &str = "may not be set for init containers without restartPolicy=Always";
const EPHEMERAL_REFUSED: &str = "cannot be set for an Ephemeral Container";
/// What an ephemeral container may not have.
const EPHEMERAL_FORBIDDEN: [&str; 8] = [
    "ports",
    "resources",
    "resizePolicy",
    "restartPolicy",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "lifecycle",
];
const RESTART_POLICIES: [&str; 3] = ["Always", "Never", "OnFailure"];
const RESTART_RULES_MAX: usize = 20;
const RESTART_CODES_MAX: usize = 255;

/// What the checks of a container need to know of its pod.
pub struct PodView<'a> {
    pub volumes: &'a VolumeNames,
    pub claims: Vec<String>,
    pub never_restarts: bool,
    pub host_users: bool,
    pub grace_secs: Option<i64>,
    pub os: String,
}

/// All containers of a PodSpec.
pub fn check(spec: &At<'_, '_>, volumes: &VolumeNames, is_pod: bool, errors: &mut Errors) {
    let view = PodView {
        volumes,
        claims: spec.get("resourceClaims").items().map(|claim| claim.get("name").text().to_owned()).collect(),
        never_restarts: spec.get("restartPolicy").text() == "Never",
        host_users: flag(spec.value, &["hostUsers"]) != Some(false),
        grace_secs: spec.get("terminationGracePeriodSeconds").int(),
        os: text(spec.value, &["os", "name"]).to_owned(),
    };
    regular(&spec.get("containers"), &view, is_pod, errors);
    init(spec, &view, is_pod, errors);
    ephemeral(spec, &view, errors);
}

fn regular(list: &At<'_, '_>, view: &PodView<'_>, is_pod: bool, errors: &mut Errors) {
    if list.is_empty() {
        errors.push(FieldError::required(list, ""));
        return;
    }
    let mut names = FxHashSet::default();
    let mut host_ports = FxHashSet::default();
    for container in list.items() {
        common(&container, view, is_pod, errors);
        let name = container.get("name");
        if !names.insert(name.text()) {
            errors.push(FieldError::duplicate(&name, name.text()));
        }
        probes::all(&container, view, errors);
        restart_rules(&container, errors);
        host_port_conflicts(&container, &mut host_ports, errors);
    }
}

fn init(spec: &At<'_, '_>, view: &PodView<'_>, is_pod: bool, errors: &mut Errors) {
    let list = spec.get("initContainers");
    let mut names: FxHashSet<String> =
        spec.get("containers").items().map(|container| container.get("name").text().to_owned()).collect();
    for container in list.items() {
        common(&container, view, is_pod, errors);
        restart_rules(&container, errors);
        let name = container.get("name");
        if !names.insert(name.text().to_owned()) {
            errors.push(FieldError::duplicate(&name, name.text()));
        }
        host_port_conflicts(&container, &mut FxHashSet::default(), errors);
        if container.get("restartPolicy").text() == "Always" {
            probes::all(&container, view, errors);
            continue;
        }
        for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
            if container.get(field).is_set() {
                errors.push(FieldError::forbidden(&container.get(field), ONLY_SIDECARS));
            }
        }
        for policy in container.get("resizePolicy").items() {
            let restart = policy.get("restartPolicy");
            if restart.text() == "RestartContainer" {
                let detail = "must not be set to 'RestartContainer' for non-sidecar initContainers";
                errors.push(FieldError::invalid(&restart, restart.text(), detail));
            }
        }
    }
}

fn ephemeral(spec: &At<'_, '_>, view: &PodView<'_>, errors: &mut Errors) {
    let mut names: Vec<&str> = Vec::new();
    let (regular, init) = (spec.get("containers"), spec.get("initContainers"));
    for container in regular.value.as_array().into_iter().chain(init.value.as_array()).flatten() {
        names.push(text(container, &["name"]));
    }
    let others = names.clone();
    for container in spec.get("ephemeralContainers").items() {
        common(&container, view, true, errors);
        let (name, target) = (container.get("name"), container.get("targetContainerName"));
        if names.contains(&name.text()) {
            errors.push(FieldError::duplicate(&name, name.text()));
        }
        names.push(name.text());
        if target.has() && !others.contains(&target.text()) {
            errors.push(FieldError::not_found(&target, target.text()));
        }
        for field in EPHEMERAL_FORBIDDEN {
            if container.get(field).has() {
                errors.push(FieldError::forbidden(&container.get(field), EPHEMERAL_REFUSED));
            }
        }
        for mount in container.get("volumeMounts").items() {
            for field in ["subPath", "subPathExpr"] {
                if mount.get(field).has() {
                    errors.push(FieldError::forbidden(&mount.get(field), EPHEMERAL_REFUSED));
                }
            }
        }
    }
}

fn common(container: &At<'_, '_>, view: &PodView<'_>, is_pod: bool, errors: &mut Errors) {
    let image = container.get("image");
    if is_pod && image.text().trim() != image.text() {
        let detail = "must not have leading or trailing whitespace";
        errors.push(FieldError::invalid(&image, image.text(), detail));
    }
    ports(&container.get("ports"), errors);
    env::check(container, errors);
    mounts::mounts(container, view.volumes, errors);
    mounts::devices(container, view.volumes, errors);
    requirements::container(&container.get("resources"), &view.claims, errors);
    resize_policies(&container.get("resizePolicy"), view.never_restarts, errors);
    security::container(&container.get("securityContext"), view.host_users, errors);
}

fn ports(ports: &At<'_, '_>, errors: &mut Errors) {
    let mut names = FxHashSet::default();
    for port in ports.items() {
        let name = port.get("name");
        if !name.has() {
            continue;
        }
        let texts = machinery::names::port_name(name.text());
        if texts.is_empty() && !names.insert(name.text()) {
            errors.push(FieldError::duplicate(&name, name.text()));
        }
        errors.extend(texts.into_iter().map(|text| FieldError::invalid(&name, name.text(), text)));
    }
}

fn host_port_conflicts(container: &At<'_, '_>, seen: &mut FxHashSet<String>, errors: &mut Errors) {
    for port in container.get("ports").items() {
        let host_port = port.get("hostPort");
        let Some(number) = host_port.int().filter(|number| *number != 0) else { continue };
        let key = format!("{}/{}/{number}", port.get("protocol").text(), port.get("hostIP").text());
        if seen.contains(&key) {
            errors.push(FieldError::duplicate(&host_port, key));
        } else {
            seen.insert(key);
        }
    }
}

fn resize_policies(policies: &At<'_, '_>, never_restarts: bool, errors: &mut Errors) {
    let mut seen = FxHashSet::default();
    for policy in policies.items() {
        let (resource, restart) = (policy.get("resourceName").text(), policy.get("restartPolicy").text());
        if !seen.insert(resource) {
            errors.push(FieldError::duplicate(&policy, resource));
        }
        match resource {
            "cpu" | "memory" => {}
            "" => errors.push(FieldError::required(policies, "")),
            other => errors.push(FieldError::not_supported(policies, other, &["cpu", "memory"])),
        }
        match restart {
            "NotRequired" | "RestartContainer" => {}
            "" => errors.push(FieldError::required(policies, "")),
            other => {
                errors.push(FieldError::not_supported(policies, other, &["NotRequired", "RestartContainer"]));
            }
        }
        if never_restarts && restart != "NotRequired" {
            let detail = "must be 'NotRequired' when pod `restartPolicy` is 'Never'";
            errors.push(FieldError::invalid(policies, restart, detail));
        }
    }
}

fn restart_rules(container: &At<'_, '_>, errors: &mut Errors) {
    let (policy, rules) = (container.get("restartPolicy"), container.get("restartPolicyRules"));
    if !policy.is_set() && !rules.is_empty() {
        let detail = "must specify restartPolicy when restart rules are used";
        errors.push(FieldError::required(&policy, detail));
    } else if policy.is_set() && !RESTART_POLICIES.contains(&policy.text()) {
        errors.push(FieldError::not_supported(&policy, policy.text(), &RESTART_POLICIES));
    }
    if rules.len() > RESTART_RULES_MAX {
        errors.push(FieldError::too_many(&rules, rules.len(), RESTART_RULES_MAX));
    }
    for rule in rules.items() {
        let (action, codes) = (rule.get("action"), rule.get("exitCodes"));
        if !matches!(action.text(), "Restart" | "RestartAllContainers") {
            let supported = ["Restart", "RestartAllContainers"];
            errors.push(FieldError::not_supported(&action, action.text(), &supported));
        }
        if !is_set(rule.value, &["exitCodes"]) {
            errors.push(FieldError::required(&codes, "must be specified"));
            continue;
        }
        let (operator, values) = (codes.get("operator"), codes.get("values"));
        if !matches!(operator.text(), "In" | "NotIn") {
            errors.push(FieldError::not_supported(&operator, operator.text(), &["In", "NotIn"]));
        }
        if values.len() > RESTART_CODES_MAX {
            errors.push(FieldError::too_many(&values, values.len(), RESTART_CODES_MAX));
        }
    }
}
