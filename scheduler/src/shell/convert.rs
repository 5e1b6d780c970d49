//! From API objects to the core's types: pods.
//!
//! Owns the rules that are about reading a pod (resource arithmetic is in `requests`): defaults, normalised image
//! names, selectors. The other kinds are in `convert_other`.

use std::sync::Arc;

use crate::core::labels::{Effect, Labels, NodeSelectorTerm, Op, Requirement, Selector, Toleration};
use crate::core::spec::{
    AffinityTerm, ClaimRef, Disk, HostPort, LocalSpec, Owner, OwnerKind, PodAffinity, PodClass, PodInput,
    PodSpec, PreferredNode, ScheduledCondition, SpreadConstraint, TimeMs, WeightedTerm,
};

use super::requests;
use super::wire;

/// The reason of `DisruptionTarget` on pods that a scheduler preempts.
pub const PREEMPTED: &str = "PreemptionByScheduler";

/// A pod for the core; `None` when it has ended and takes no place any more.
pub fn pod(pod: &wire::Pod) -> Option<PodInput> {
    if matches!(&*pod.status.phase, "Succeeded" | "Failed") {
        return None;
    }
    let meta = &pod.metadata;
    let condition = pod.status.conditions.iter().find(|c| c.kind == "PodScheduled" && c.status == "False");
    let preempted = meta.deletion_timestamp.is_some()
        && pod
            .status
            .conditions
            .iter()
            .any(|c| c.kind == "DisruptionTarget" && c.status == "True" && c.reason == PREEMPTED);
    let start = pod.status.start_time.as_ref().or(meta.creation_timestamp.as_ref());
    Some(PodInput {
        uid: meta.uid.as_str().into(),
        name: meta.name.as_str().into(),
        spec: pod_spec(pod),
        node_name: pod.spec.node_name.as_str().into(),
        nominated_node: pod.status.nominated_node_name.as_str().into(),
        gates: pod.spec.scheduling_gates.iter().map(|g| g.name.as_str().into()).collect(),
        start_ms: start.map_or(0, |t| millis(t)),
        terminating: meta.deletion_timestamp.is_some(),
        preempted,
        version: version(meta),
        generation: meta.generation,
        condition: condition.map(|c| {
            Arc::new(ScheduledCondition {
                reason: c.reason.as_str().into(),
                message: c.message.as_str().into(),
            })
        }),
    })
}

/// `metadata.resourceVersion` as a number.
pub fn version(meta: &wire::Meta) -> u64 {
    meta.resource_version.parse().unwrap_or(0)
}

/// An RFC 3339 time in milliseconds; zero when it cannot be read.
fn millis(text: &str) -> TimeMs {
    text.parse::<jiff::Timestamp>().map_or(0, |t| t.as_millisecond())
}

/// Labels of a map.
pub fn labels(map: &wire::Map) -> Labels {
    map.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect()
}

fn pod_spec(pod: &wire::Pod) -> PodSpec {
    let spec = &pod.spec;
    let namespace: Arc<str> = pod.metadata.namespace.as_str().into();
    let labels = labels(&pod.metadata.labels);
    let spread = spec.topology_spread_constraints.iter().map(|c| spread_constraint(c, &labels)).collect();
    let affinity = spec.affinity.as_ref().map(|a| pod_affinity(a, &namespace)).unwrap_or_default();
    PodSpec {
        local: Arc::new(local(pod)),
        spread,
        owner: owner(&pod.metadata),
        claims: claims(pod),
        inline_csi_drivers: spec
            .volumes
            .iter()
            .filter_map(|v| v.csi.as_ref())
            .map(|csi| csi.driver.as_str().into())
            .collect(),
        migrated: spec.volumes.iter().filter_map(super::translate::inline).collect(),
        scheduler_name: if spec.scheduler_name.is_empty() {
            "default-scheduler"
        } else {
            &spec.scheduler_name
        }
        .into(),
        priority: spec.priority,
        never_preempts: spec.preemption_policy == "Never",
        has_resource_claims: !spec.resource_claims.is_empty(),
        class: Arc::new(PodClass { namespace, labels, affinity }),
    }
}

fn local(pod: &wire::Pod) -> LocalSpec {
    let spec = &pod.spec;
    let affinity = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let amounts = requests::of(pod);
    LocalSpec {
        requests: amounts.requests,
        score_milli_cpu: amounts.score_milli_cpu,
        score_memory: amounts.score_memory,
        nonzero_milli_cpu: amounts.nonzero_milli_cpu,
        nonzero_memory: amounts.nonzero_memory,
        tolerations: spec.tolerations.iter().map(toleration).collect(),
        node_selector: spec
            .node_selector
            .iter()
            .map(|(k, v)| (k.as_str().into(), v.as_str().into()))
            .collect(),
        required_nodes: affinity.and_then(|a| a.required.as_ref()).map(node_selector),
        preferred_nodes: affinity
            .map(|a| a.preferred.iter().map(preferred_node).collect())
            .unwrap_or_default(),
        host_ports: host_ports(spec),
        disks: spec.volumes.iter().filter_map(disk).collect(),
        images: images(spec),
        container_count: (spec.containers.len() + spec.init_containers.len()) as u32,
        features: features(spec),
    }
}

/// A node selector's terms.
pub fn node_selector(selector: &wire::NodeSelector) -> Vec<NodeSelectorTerm> {
    selector.node_selector_terms.iter().map(node_term).collect()
}

fn node_term(term: &wire::NodeTerm) -> NodeSelectorTerm {
    NodeSelectorTerm {
        labels: term.match_expressions.iter().map(requirement).collect(),
        fields: term.match_fields.iter().map(requirement).collect(),
    }
}

/// A preferred node term.
pub fn preferred_node(term: &wire::PreferredNodeTerm) -> PreferredNode {
    PreferredNode { weight: term.weight, term: node_term(&term.preference) }
}

fn requirement(requirement: &wire::Requirement) -> Requirement {
    let op = match &*requirement.operator {
        "NotIn" => Op::NotIn,
        "Exists" => Op::Exists,
        "DoesNotExist" => Op::DoesNotExist,
        "Gt" => Op::Gt,
        "Lt" => Op::Lt,
        _ => Op::In,
    };
    let values = requirement.values.iter().map(|v| v.as_str().into()).collect();
    Requirement { key: requirement.key.as_str().into(), op, values }
}

/// A label selector; an absent one selects nothing.
pub fn selector(selector: Option<&wire::LabelSelector>) -> Selector {
    let Some(selector) = selector else { return Selector::Nothing };
    let labels = selector.match_labels.iter().map(|(k, v)| Requirement::equals(k, v));
    let mut all: Vec<Requirement> =
        labels.chain(selector.match_expressions.iter().map(requirement)).collect();
    all.sort();
    Selector::All(all)
}

/// An effect by its name; none for the empty one.
pub fn effect(name: &str) -> Option<Effect> {
    match name {
        "NoSchedule" => Some(Effect::NoSchedule),
        "PreferNoSchedule" => Some(Effect::PreferNoSchedule),
        "NoExecute" => Some(Effect::NoExecute),
        _ => None,
    }
}

fn toleration(toleration: &wire::Toleration) -> Toleration {
    Toleration {
        key: toleration.key.as_str().into(),
        value: toleration.value.as_str().into(),
        effect: effect(&toleration.effect),
        exists: match &*toleration.operator {
            "Exists" => Some(true),
            "" | "Equal" => Some(false),
            _ => None,
        },
    }
}

fn is_sidecar(container: &wire::Container) -> bool {
    container.restart_policy == "Always"
}

fn host_ports(spec: &wire::PodSpec) -> Vec<HostPort> {
    let or = |text: &str, default: &str| if text.is_empty() { default.into() } else { text.into() };
    let sidecars = spec.init_containers.iter().filter(|c| is_sidecar(c));
    sidecars
        .chain(&spec.containers)
        .flat_map(|c| &c.ports)
        .filter(|p| p.host_port > 0)
        .map(|p| HostPort {
            ip: or(&p.host_ip, "0.0.0.0"),
            protocol: or(&p.protocol, "TCP"),
            port: p.host_port,
        })
        .collect()
}

fn disk(volume: &wire::Volume) -> Option<Disk> {
    if let Some(gce) = &volume.gce_persistent_disk {
        return Some(Disk::Gce { name: gce.pd_name.as_str().into(), read_only: gce.read_only });
    }
    if let Some(aws) = &volume.aws_elastic_block_store {
        return Some(Disk::Aws { id: aws.volume_id.as_str().into() });
    }
    if let Some(iscsi) = &volume.iscsi {
        return Some(Disk::Iscsi { iqn: iscsi.iqn.as_str().into(), read_only: iscsi.read_only });
    }
    volume.rbd.as_ref().map(|rbd| Disk::Rbd {
        monitors: rbd.monitors.iter().map(|m| m.as_str().into()).collect(),
        pool: if rbd.pool.is_empty() { "rbd" } else { &rbd.pool }.into(),
        image: rbd.image.as_str().into(),
        read_only: rbd.read_only,
    })
}

/// Image names as runtimes report them: with a tag.
fn images(spec: &wire::PodSpec) -> Vec<Arc<str>> {
    let containers = spec.init_containers.iter().chain(&spec.containers).map(|c| &c.image);
    let volumes = spec.volumes.iter().filter_map(|v| v.image.as_ref()).map(|i| &i.reference);
    containers.chain(volumes).map(|name| normalized_image(name).into()).collect()
}

fn normalized_image(name: &str) -> String {
    let tagged = match (name.rfind(':'), name.rfind('/')) {
        (Some(colon), Some(slash)) => colon > slash,
        (Some(_), None) => true,
        (None, _) => false,
    };
    if tagged { name.to_owned() } else { format!("{name}:latest") }
}

fn features(spec: &wire::PodSpec) -> Vec<Arc<str>> {
    let restarts_all = spec
        .containers
        .iter()
        .chain(&spec.init_containers)
        .any(|c| c.restart_policy_rules.iter().any(|r| r.action == "RestartAllContainers"));
    let mut features: Vec<Arc<str>> = Vec::new();
    if restarts_all {
        features.push("RestartAllContainersOnContainerExits".into());
    }
    if spec.host_network && spec.host_users == Some(false) {
        features.push("UserNamespacesHostNetworkSupport".into());
    }
    features
}

fn claims(pod: &wire::Pod) -> Vec<ClaimRef> {
    let claim = |v: &wire::Volume| match (&v.persistent_volume_claim, &v.ephemeral) {
        (Some(claim), _) => Some(ClaimRef { name: claim.claim_name.as_str().into(), ephemeral: false }),
        (None, Some(_)) => {
            Some(ClaimRef { name: format!("{}-{}", pod.metadata.name, v.name).into(), ephemeral: true })
        }
        (None, None) => None,
    };
    pod.spec.volumes.iter().filter_map(claim).collect()
}

fn owner(meta: &wire::Meta) -> Option<Owner> {
    let owner = meta.owner_references.iter().find(|o| o.controller)?;
    let kind = match (&*owner.api_version, &*owner.kind) {
        ("v1", "ReplicationController") => OwnerKind::ReplicationController,
        ("apps/v1", "ReplicaSet") => OwnerKind::ReplicaSet,
        ("apps/v1", "StatefulSet") => OwnerKind::StatefulSet,
        _ => return None,
    };
    Some(Owner { kind, name: owner.name.as_str().into() })
}

/// A spread constraint; `matchLabelKeys` are resolved against the pod's labels.
pub fn spread_constraint(constraint: &wire::SpreadConstraint, pod_labels: &Labels) -> SpreadConstraint {
    let mut selector = selector(constraint.label_selector.as_ref());
    if let Selector::All(all) = &mut selector {
        let keys = constraint.match_label_keys.iter();
        all.extend(keys.filter_map(|k| Some(Requirement::equals(k, pod_labels.get(k)?))));
        all.sort();
    }
    SpreadConstraint {
        topology_key: constraint.topology_key.as_str().into(),
        max_skew: constraint.max_skew,
        min_domains: constraint.min_domains.unwrap_or(1),
        hard: constraint.when_unsatisfiable == "DoNotSchedule",
        selector,
        honor_affinity: constraint.node_affinity_policy.as_deref() != Some("Ignore"),
        honor_taints: constraint.node_taints_policy.as_deref() == Some("Honor"),
    }
}

fn pod_affinity(affinity: &wire::Affinity, namespace: &Arc<str>) -> PodAffinity {
    let terms = |a: &Option<wire::PodAffinity>| -> Vec<AffinityTerm> {
        a.iter().flat_map(|a| &a.required).map(|t| affinity_term(t, namespace)).collect()
    };
    let weighted = |a: &Option<wire::PodAffinity>, sign: i32| -> Vec<WeightedTerm> {
        let all = a.iter().flat_map(|a| &a.preferred);
        all.map(|w| WeightedTerm {
            weight: sign * w.weight,
            term: affinity_term(&w.pod_affinity_term, namespace),
        })
        .collect()
    };
    let mut preferred = weighted(&affinity.pod_affinity, 1);
    preferred.extend(weighted(&affinity.pod_anti_affinity, -1));
    PodAffinity {
        required: terms(&affinity.pod_affinity),
        required_anti: terms(&affinity.pod_anti_affinity),
        preferred,
    }
}

fn affinity_term(term: &wire::PodTerm, namespace: &Arc<str>) -> AffinityTerm {
    let mut namespaces: Vec<Arc<str>> = term.namespaces.iter().map(|n| n.as_str().into()).collect();
    namespaces.sort();
    if namespaces.is_empty() && term.namespace_selector.is_none() {
        namespaces.push(namespace.clone());
    }
    AffinityTerm {
        topology_key: term.topology_key.as_str().into(),
        namespaces,
        namespace_selector: selector(term.namespace_selector.as_ref()),
        selector: selector(term.label_selector.as_ref()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_get_a_tag_unless_they_have_one() {
        for (name, expected) in [
            ("nginx", "nginx:latest"),
            ("nginx:1", "nginx:1"),
            ("host:5000/nginx", "host:5000/nginx:latest"),
            ("host:5000/nginx@sha256:ab", "host:5000/nginx@sha256:ab"),
        ] {
            assert_eq!(normalized_image(name), expected);
        }
    }

    #[test]
    fn ended_pods_take_no_place() {
        let text = r#"{"metadata":{"uid":"u","name":"p"},"status":{"phase":"Succeeded"}}"#;
        let wire: wire::Pod = serde_json::from_str(text).expect("a pod");
        assert!(pod(&wire).is_none());
    }

    #[test]
    fn terms_without_namespaces_mean_the_pods_own() {
        let text = r#"{"metadata":{"uid":"u","name":"p","namespace":"ns","labels":{"a":"b"}},"spec":{"affinity":{
            "podAntiAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":[
            {"topologyKey":"zone","labelSelector":{"matchLabels":{"a":"b"}}},
            {"topologyKey":"zone","namespaceSelector":{},"labelSelector":null}]}}}}"#;
        let wire: wire::Pod = serde_json::from_str(text).expect("a pod");
        let input = pod(&wire).expect("a waiting pod");
        let [own, everywhere] = &*input.spec.class.affinity.required_anti else { panic!("two terms") };
        assert_eq!(own.namespaces, ["ns".into()]);
        assert!(everywhere.namespaces.is_empty() && everywhere.namespace_selector.is_everything());
        assert_eq!(everywhere.selector, Selector::Nothing);
    }
}
