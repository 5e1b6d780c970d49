//! Event hints: whether an event can make a pod schedulable that a given plugin refused.
//!
//! Owns the `isSchedulableAfter…` rules of the plugins. A wrong "no" strands a pod until the five-minute flush, so
//! each rule says "yes" whenever it cannot know.

use std::sync::Arc;

use super::cluster::{Cluster, Uid};
use super::events::{Event, NodeChange, PodChange};
use super::labels::{Effect, Labels, Taint, has_untolerated_taint};
use super::profile::{Plugin, Profile};
use super::spec::{AffinityTerm, NodeInput, PodSpec};
use super::terms::{OwnTerms, Spread};

/// A pod that an event is about.
#[derive(Clone, Debug)]
pub struct EventPod {
    pub uid: Uid,
    pub spec: Arc<PodSpec>,
    /// Bound, or nominated: it takes or took space somewhere.
    pub placed: bool,
}

/// What an event carries.
#[derive(Clone, Debug)]
pub enum Payload {
    Nothing,
    Node {
        old: Option<Arc<NodeInput>>,
        new: Option<Arc<NodeInput>>,
    },
    Pod {
        old: Option<EventPod>,
        new: Option<EventPod>,
    },
    /// A claim by namespace and name.
    Claim {
        namespace: Arc<str>,
        name: Arc<str>,
    },
    /// The object's change is of a kind that can help, as judged by its storage table.
    Helpful(bool),
    /// A CSI driver gave up tracking capacity.
    CapacityUntracked {
        driver: Arc<str>,
    },
}

/// An event with all that hints look at.
#[derive(Clone, Debug)]
pub struct Occurrence {
    pub event: Event,
    pub payload: Payload,
}

/// Asks one plugin whether the event may help a waiting pod.
pub fn hint(
    plugin: Plugin,
    uid: Uid,
    spec: &PodSpec,
    occurrence: &Occurrence,
    profile: &Profile,
    cluster: &Cluster,
) -> bool {
    match &occurrence.payload {
        Payload::Node { old, new } => {
            node_hint(plugin, spec, occurrence.event, old.as_deref(), new.as_deref(), profile, cluster)
        }
        Payload::Pod { old, new } => {
            pod_hint(plugin, uid, spec, occurrence.event, old.as_ref(), new.as_ref(), profile, cluster)
        }
        Payload::Claim { namespace, name } => {
            *spec.class.namespace == **namespace
                && spec
                    .claims
                    .iter()
                    .any(|c| c.name == *name && (!c.ephemeral || plugin != Plugin::VolumeZone))
        }
        Payload::CapacityUntracked { driver } => spec.inline_csi_drivers.contains(driver),
        Payload::Helpful(helpful) => *helpful,
        Payload::Nothing => true,
    }
}

fn node_hint(
    plugin: Plugin,
    spec: &PodSpec,
    event: Event,
    old: Option<&NodeInput>,
    new: Option<&NodeInput>,
    profile: &Profile,
    cluster: &Cluster,
) -> bool {
    let local = &spec.local;
    match plugin {
        Plugin::PodTopologySpread => spread_node_hint(spec, old, new, profile, cluster),
        Plugin::InterPodAffinity => affinity_node_hint(spec, old, new),
        _ => {
            let Some(node) = new else { return true };
            match plugin {
                Plugin::NodeUnschedulable => !node.unschedulable && old.is_none_or(|o| o.unschedulable),
                Plugin::TaintToleration => {
                    let untolerated = |n: &NodeInput| has_untolerated_taint(&n.taints, &local.tolerations);
                    old.is_none_or(untolerated) && !untolerated(node)
                }
                Plugin::NodeAffinity => {
                    let added = profile.args.added_required_nodes.as_ref();
                    let enforced =
                        added.is_none_or(|terms| terms.iter().any(|t| t.matches(&node.name, &node.labels)));
                    let admits = |n: &NodeInput| local.admits_node(&n.name, &n.labels);
                    enforced && admits(node) && !old.is_some_and(admits)
                }
                Plugin::NodeResourcesFit => fit_node_hint(spec, old, node),
                Plugin::NodeDeclaredFeatures => {
                    event != Event::NodeUpdate(NodeChange::Features)
                        || old.is_none_or(|o| o.features != node.features)
                }
                _ => true,
            }
        }
    }
}

/// The empty node must hold the pod, and offer more than before of something the pod wants.
fn fit_node_hint(spec: &PodSpec, old: Option<&NodeInput>, new: &NodeInput) -> bool {
    let wants = &spec.local.requests;
    let offers = &new.allocatable;
    let scalars_fit = wants.scalars.iter().all(|(name, amount)| *amount <= offers.scalar(name));
    let fits = new.pods >= 1
        && wants.milli_cpu <= offers.milli_cpu
        && wants.memory <= offers.memory
        && wants.ephemeral <= offers.ephemeral
        && scalars_fit;
    let Some(old) = old.filter(|_| fits) else { return fits };
    let before = &old.allocatable;
    new.pods > old.pods
        || (wants.milli_cpu > 0 && offers.milli_cpu > before.milli_cpu)
        || (wants.memory > 0 && offers.memory > before.memory)
        || (wants.ephemeral > 0 && offers.ephemeral > before.ephemeral)
        || wants.scalars.iter().any(|(name, amount)| *amount > 0 && offers.scalar(name) > before.scalar(name))
}

fn hard_constraints(spec: &PodSpec, profile: &Profile, cluster: &Cluster) -> Vec<Spread> {
    OwnTerms::resolve(spec, profile, cluster.namespace(&spec.class.namespace), cluster).hard
}

fn spread_node_hint(
    spec: &PodSpec,
    old: Option<&NodeInput>,
    new: Option<&NodeInput>,
    profile: &Profile,
    cluster: &Cluster,
) -> bool {
    let constraints = hard_constraints(spec, profile, cluster);
    let keys = || constraints.iter().map(|s| &*s.constraint.topology_key);
    let has_all = |n: &NodeInput| keys().all(|k| n.labels.get(k).is_some());
    match (old, new) {
        (Some(old), Some(new)) => {
            has_all(old) != has_all(new)
                || (has_all(new)
                    && (keys().any(|k| old.labels.get(k) != new.labels.get(k)) || old.taints != new.taints))
        }
        (None, Some(one)) | (Some(one), None) => has_all(one),
        (None, None) => true,
    }
}

fn affinity_node_hint(spec: &PodSpec, old: Option<&NodeInput>, new: Option<&NodeInput>) -> bool {
    let Some(new) = new else { return true };
    let affinity = &spec.class.affinity;
    let Some(old) = old else {
        return !affinity.required_anti.is_empty()
            || affinity.required.iter().any(|t| new.labels.get(&t.topology_key).is_some());
    };
    let values = |t: &AffinityTerm| (old.labels.get(&t.topology_key), new.labels.get(&t.topology_key));
    let moved = |t: &AffinityTerm| matches!(values(t), (Some(a), Some(b)) if a != b);
    affinity.required.iter().any(|t| moved(t) || matches!(values(t), (None, Some(_))))
        || affinity.required_anti.iter().any(|t| moved(t) || matches!(values(t), (Some(_), None)))
}

#[expect(
    clippy::too_many_arguments,
    reason = "mirrors what a hint may look at; a struct would only rename it"
)]
fn pod_hint(
    plugin: Plugin,
    uid: Uid,
    spec: &PodSpec,
    event: Event,
    old: Option<&EventPod>,
    new: Option<&EventPod>,
    profile: &Profile,
    cluster: &Cluster,
) -> bool {
    let own_update = new.is_some_and(|n| n.uid == uid);
    match plugin {
        Plugin::DefaultPreemption => false,
        Plugin::SchedulingGates => own_update,
        Plugin::NodeUnschedulable => own_update && tolerates_unschedulable(spec),
        Plugin::TaintToleration => own_update,
        Plugin::NodeDeclaredFeatures => {
            own_update && old.zip(new).is_none_or(|(o, n)| o.spec.local.features != n.spec.local.features)
        }
        Plugin::NodeResourcesFit => match (old, new) {
            (_, Some(_)) if own_update => true,
            (Some(old), Some(new)) => new.placed && frees_something_wanted(spec, old, new),
            (Some(old), None) => old.placed,
            _ => true,
        },
        Plugin::NodePorts => old.is_some_and(|o| {
            o.placed
                && o.spec
                    .local
                    .host_ports
                    .iter()
                    .any(|p| spec.local.host_ports.iter().any(|w| w.conflicts(p)))
        }),
        Plugin::VolumeRestrictions => old.is_some_and(|o| volumes_clash(spec, &o.spec)),
        Plugin::NodeVolumeLimits => {
            old.is_some_and(|o| o.placed && !(o.spec.claims.is_empty() && o.spec.migrated.is_empty()))
        }
        Plugin::PodTopologySpread => spread_pod_hint(uid, spec, event, old, new, profile, cluster),
        Plugin::InterPodAffinity => own_update || affinity_pod_hint(spec, old, new, cluster),
        _ => true,
    }
}

fn tolerates_unschedulable(spec: &PodSpec) -> bool {
    let taint = Taint {
        key: "node.kubernetes.io/unschedulable".into(),
        value: "".into(),
        effect: Effect::NoSchedule,
    };
    spec.local.tolerations.iter().any(|t| t.tolerates(&taint))
}

fn frees_something_wanted(spec: &PodSpec, old: &EventPod, new: &EventPod) -> bool {
    let (wants, before, after) = (&spec.local.requests, &old.spec.local.requests, &new.spec.local.requests);
    (wants.milli_cpu > 0 && before.milli_cpu > after.milli_cpu)
        || (wants.memory > 0 && before.memory > after.memory)
        || (wants.ephemeral > 0 && before.ephemeral > after.ephemeral)
        || wants.scalars.iter().any(|(name, amount)| *amount > 0 && before.scalar(name) > after.scalar(name))
}

fn volumes_clash(spec: &PodSpec, gone: &PodSpec) -> bool {
    spec.class.namespace == gone.class.namespace
        && (spec.local.disks.iter().any(|d| gone.local.disks.iter().any(|g| d.conflicts(g)))
            || spec
                .claims
                .iter()
                .filter(|c| !c.ephemeral)
                .any(|c| gone.claims.iter().any(|g| !g.ephemeral && g.name == c.name)))
}

fn spread_pod_hint(
    uid: Uid,
    spec: &PodSpec,
    event: Event,
    old: Option<&EventPod>,
    new: Option<&EventPod>,
    profile: &Profile,
    cluster: &Cluster,
) -> bool {
    let involved =
        |p: &EventPod| p.uid == uid || (p.placed && p.spec.class.namespace == spec.class.namespace);
    if !old.is_none_or(involved) || !new.is_none_or(involved) {
        return false;
    }
    let constraints = hard_constraints(spec, profile, cluster);
    let selects = |labels: &Labels| constraints.iter().any(|s| s.constraint.selector.matches(labels));
    match (old, new) {
        (Some(old), Some(new)) => {
            if event == Event::PodUpdate(PodChange::Toleration)
                && constraints.iter().any(|s| s.constraint.honor_taints)
            {
                return true;
            }
            let (before, after) = (&old.spec.class.labels, &new.spec.class.labels);
            constraints
                .iter()
                .any(|s| s.constraint.selector.matches(before) != s.constraint.selector.matches(after))
        }
        (None, Some(one)) | (Some(one), None) => selects(&one.spec.class.labels),
        (None, None) => true,
    }
}

fn affinity_pod_hint(
    spec: &PodSpec,
    old: Option<&EventPod>,
    new: Option<&EventPod>,
    cluster: &Cluster,
) -> bool {
    if old.is_some_and(|p| !p.placed) || new.is_some_and(|p| !p.placed) {
        return false;
    }
    let selects_all = |terms: &[AffinityTerm], pod: &PodSpec| {
        let class = &pod.class;
        let labels = cluster.namespace(&class.namespace);
        !terms.is_empty() && terms.iter().all(|t| t.matches(&class.namespace, &class.labels, labels))
    };
    let affinity = &spec.class.affinity;
    match (old, new) {
        (Some(old), Some(new)) => {
            (!selects_all(&affinity.required, &old.spec) && selects_all(&affinity.required, &new.spec))
                || (selects_all(&affinity.required_anti, &old.spec)
                    && !selects_all(&affinity.required_anti, &new.spec))
        }
        (None, Some(new)) => selects_all(&affinity.required, &new.spec),
        (Some(old), None) => {
            selects_all(&affinity.required_anti, &old.spec)
                || selects_all(&old.spec.class.affinity.required_anti, spec)
        }
        (None, None) => true,
    }
}
