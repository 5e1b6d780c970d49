//! Which pods and claims a quota is about.

use k8s_openapi::api::core::v1::{Pod, ResourceQuota, ScopedResourceSelectorRequirement};

fn container_resources(pod: &Pod) -> impl Iterator<Item = &k8s_openapi::api::core::v1::ResourceRequirements> {
    let spec = pod.spec.iter();
    let containers =
        spec.flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
    containers.filter_map(|container| container.resources.as_ref())
}

fn is_best_effort(pod: &Pod) -> bool {
    container_resources(pod).all(|resources| {
        let none = |map: &Option<std::collections::BTreeMap<String, _>>| {
            map.iter().flatten().all(|(name, _)| name != "cpu" && name != "memory")
        };
        none(&resources.requests) && none(&resources.limits)
    })
}

fn crosses_namespaces(pod: &Pod) -> bool {
    let affinity = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref());
    let Some(affinity) = affinity else { return false };
    let mut terms = Vec::new();
    if let Some(towards) = &affinity.pod_affinity {
        terms.extend(towards.required_during_scheduling_ignored_during_execution.iter().flatten().cloned());
        let preferred = towards.preferred_during_scheduling_ignored_during_execution.iter().flatten();
        terms.extend(preferred.map(|weighted| weighted.pod_affinity_term.clone()));
    }
    if let Some(away) = &affinity.pod_anti_affinity {
        terms.extend(away.required_during_scheduling_ignored_during_execution.iter().flatten().cloned());
        let preferred = away.preferred_during_scheduling_ignored_during_execution.iter().flatten();
        terms.extend(preferred.map(|weighted| weighted.pod_affinity_term.clone()));
    }
    terms.iter().any(|term| {
        term.namespaces.as_ref().is_some_and(|list| !list.is_empty()) || term.namespace_selector.is_some()
    })
}

fn requirements(quota: &ResourceQuota) -> Vec<ScopedResourceSelectorRequirement> {
    let Some(spec) = &quota.spec else { return Vec::new() };
    let named = spec.scopes.iter().flatten().map(|scope| ScopedResourceSelectorRequirement {
        scope_name: scope.clone(),
        operator: "Exists".into(),
        values: None,
    });
    let selected =
        spec.scope_selector.iter().flat_map(|selector| selector.match_expressions.iter().flatten().cloned());
    named.chain(selected).collect()
}

fn listed(requirement: &ScopedResourceSelectorRequirement, value: Option<&str>) -> bool {
    let value = value.filter(|value| !value.is_empty());
    let is_in =
        || value.is_some_and(|value| requirement.values.iter().flatten().any(|wanted| wanted == value));
    match requirement.operator.as_str() {
        "In" => is_in(),
        "NotIn" => !is_in(),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        _ => false,
    }
}

/// Whether a quota counts a pod.
pub fn counts_pod(quota: &ResourceQuota, pod: &Pod) -> bool {
    let spec = pod.spec.as_ref();
    let terminating = spec.and_then(|spec| spec.active_deadline_seconds).is_some_and(|secs| secs >= 0);
    requirements(quota).iter().all(|requirement| match requirement.scope_name.as_str() {
        "Terminating" => terminating,
        "NotTerminating" => !terminating,
        "BestEffort" => is_best_effort(pod),
        "NotBestEffort" => !is_best_effort(pod),
        "PriorityClass" => listed(requirement, spec.and_then(|spec| spec.priority_class_name.as_deref())),
        "CrossNamespacePodAffinity" => crosses_namespaces(pod),
        _ => false,
    })
}

/// Whether a quota counts anything but pods and claims: only one without scopes does.
pub fn is_unscoped(quota: &ResourceQuota) -> bool {
    requirements(quota).is_empty()
}

/// Whether a quota counts a claim, by its volume attributes class.
pub fn counts_claim(quota: &ResourceQuota, classes: &[Option<&str>]) -> bool {
    requirements(quota).iter().all(|requirement| {
        requirement.scope_name == "VolumeAttributesClass"
            && classes.iter().any(|class| listed(requirement, *class))
    })
}
