//! One scheduling cycle: from a pod to a node, or to the reasons why not.
//!
//! Owns the order of a cycle: PreFilter, the nominated node first, filters, scores, the pick; on failure the
//! diagnosis. It changes the templates' caches and nothing else.

use std::collections::HashSet;
use std::sync::Arc;

use super::cluster::{Cluster, Uid};
use super::evaluate::{Dice, Evaluation};
use super::filter::{VolumeFilter, filter_node};
use super::preempt::{Preemptor, refusal_with_nominated};
use super::profile::{Plugin, Profile};
use super::spec::PodSpec;
use super::status::{Diagnosis, NODE_AFFINITY_CONFLICT, Refusal};
use super::template::Template;

/// Nodes sampled at least where sampling is configured.
const MIN_SAMPLE: usize = 100;
/// The share sampled at least by the adaptive default, in percent.
const MIN_SAMPLE_PERCENT: usize = 5;

/// A pod to place.
pub struct Request<'a> {
    pub uid: Uid,
    pub spec: &'a Arc<PodSpec>,
    /// The node preemption has promised.
    pub nominated: Option<u32>,
    pub profile: &'a Profile,
    pub volumes: Option<&'a dyn VolumeFilter>,
}

/// A chosen node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    pub node: u32,
    pub feasible: usize,
}

/// The refusal of PreFilter that needs no volumes.
pub fn pre_filter(template: &Template, spec: &PodSpec, profile: &Profile) -> Option<Refusal> {
    profile.pre_filter.iter().find_map(|plugin| match plugin {
        Plugin::NodeAffinity if template.named_nodes.as_ref().is_some_and(Vec::is_empty) => {
            Some(Refusal::unresolvable(*plugin, NODE_AFFINITY_CONFLICT))
        }
        Plugin::DynamicResources if spec.has_resource_claims => Some(Refusal::unresolvable_text(
            *plugin,
            "resource claims are not supported by this scheduler".to_owned(),
        )),
        _ => None,
    })
}

/// Nodes that are out for reasons the groups do not know: nominated pods, and volumes.
pub fn excluded(template: &Template, request: &Request<'_>, cluster: &Cluster) -> HashSet<u32> {
    let mut out = HashSet::new();
    let who = preemptor(template, request);
    for node in cluster.nominated_nodes() {
        let counts =
            |n: &super::cluster::Nomination| n.uid != request.uid && n.spec.priority >= request.spec.priority;
        // A node that does not fit as it is needs no second look with its nominated pods.
        if template.groups.group_of(node) != super::groups::NONE
            && cluster.nominated_on(node).iter().any(counts)
            && refusal_with_nominated(&who, node, cluster, None).is_some()
        {
            out.insert(node);
        }
    }
    if let Some(volumes) = request.volumes {
        for (_, group) in template.groups.iter() {
            out.extend(group.nodes().filter(|n| volume_refusal(volumes, request.profile, *n).is_some()));
        }
    }
    out
}

fn volume_refusal(volumes: &dyn VolumeFilter, profile: &Profile, node: u32) -> Option<Refusal> {
    profile.filter.iter().find_map(|plugin| volumes.refuse(*plugin, node, None))
}

/// The pod as the one that asks.
pub fn preemptor<'a>(template: &'a Template, request: &Request<'a>) -> Preemptor<'a> {
    Preemptor {
        uid: request.uid,
        spec: request.spec,
        template,
        profile: request.profile,
        volumes: request.volumes,
    }
}

/// Finds a node. `None` when none is feasible.
pub fn decide(
    template: &Template,
    request: &Request<'_>,
    cluster: &Cluster,
    dice: &mut Dice,
    start: &mut usize,
) -> Option<Choice> {
    if let Some(node) = request.nominated
        && refusal_with_nominated(&preemptor(template, request), node, cluster, None).is_none()
    {
        return Some(Choice { node, feasible: 1 });
    }
    let mut out = excluded(template, request, cluster);
    if let Some(sample) = sample_size(request.profile, cluster.nodes.count()) {
        narrow_to_sample(template, request, cluster, sample, start, &mut out);
    }
    let evaluation = Evaluation::new(template, request.profile, out);
    let node = evaluation.choose(template, request.profile, dice)?;
    Some(Choice { node, feasible: evaluation.feasible })
}

/// Feasible nodes to stop at; `None` looks at all nodes.
pub fn sample_size(profile: &Profile, nodes: usize) -> Option<usize> {
    let percentage = usize::try_from(profile.percentage_of_nodes_to_score?).ok()?;
    if nodes < MIN_SAMPLE || percentage >= 100 {
        return None;
    }
    let percentage = if percentage == 0 {
        50usize.saturating_sub(nodes / 125).max(MIN_SAMPLE_PERCENT)
    } else {
        percentage
    };
    Some((nodes * percentage / 100).max(MIN_SAMPLE))
}

/// Excludes all feasible nodes beyond the first `sample`, counted from where the last cycle stopped.
fn narrow_to_sample(
    template: &Template,
    request: &Request<'_>,
    cluster: &Cluster,
    sample: usize,
    start: &mut usize,
    out: &mut HashSet<u32>,
) {
    let slots = cluster.nodes.slots();
    let who = preemptor(template, request);
    let mut found = 0;
    let mut looked = 0;
    let from = *start % slots.max(1);
    for i in 0..slots {
        let node = ((from + i) % slots) as u32;
        if template.groups.group_of(node) == super::groups::NONE || out.contains(&node) {
            continue;
        }
        if found >= sample {
            out.insert(node);
        } else {
            looked = i + 1;
            let feasible = filter_node(template, node, who.profile, cluster, None, None).is_none();
            found += usize::from(feasible);
        }
    }
    *start = from + looked;
}

/// Why every node refuses the pod.
pub fn diagnose(template: &Template, request: &Request<'_>, cluster: &Cluster) -> Diagnosis {
    let mut diagnosis = Diagnosis::default();
    diagnosis.by_node.reserve(cluster.nodes.count());
    let who = preemptor(template, request);
    let refuse = |diagnosis: &mut Diagnosis, node: u32| {
        if let Some(refusal) = known_refusal(&who, node, cluster) {
            diagnosis.refuse(node, refusal);
        }
    };
    match &template.named_nodes {
        Some(names) if request.profile.pre_filter.contains(&Plugin::NodeAffinity) => {
            for node in names.iter().filter_map(|n| cluster.nodes.find(n)) {
                refuse(&mut diagnosis, node);
            }
            diagnosis.plugins.insert(Plugin::NodeAffinity);
            diagnosis.absent = Some(Refusal::unresolvable_text(
                Plugin::NodeAffinity,
                "node(s) didn't satisfy plugin(s) [NodeAffinity]".to_owned(),
            ));
        }
        _ => cluster.nodes.iter().for_each(|node| refuse(&mut diagnosis, node)),
    }
    diagnosis
}

/// The verdict on a node, remembered where only the node itself can change it.
fn known_refusal(who: &Preemptor<'_>, node: u32, cluster: &Cluster) -> Option<Refusal> {
    if !who.remembers(node, cluster) {
        return refusal_with_nominated(who, node, cluster, None);
    }
    let priority = who.spec.priority;
    if let Some(known) = who.template.memos.borrow().refusal(node, priority) {
        return known.clone();
    }
    let refusal = refusal_with_nominated(who, node, cluster, None);
    who.template.memos.borrow_mut().keep_refusal(node, priority, refusal.clone());
    refusal
}

/// The diagnosis of a pod that PreFilter refused as such.
pub fn refused_outright(refusal: Refusal) -> Diagnosis {
    let mut diagnosis = Diagnosis {
        pre_filter: Some(refusal.message()),
        absent: Some(refusal.clone()),
        ..Diagnosis::default()
    };
    diagnosis.plugins.insert(refusal.plugin);
    diagnosis
}
