//! The filter plugins on one node, with reasons.
//!
//! Owns the order in which plugins refuse a node and the texts they give. This is the slow, explaining path: it
//! serves diagnoses, preemption and nominated pods, and tells a template which nodes are usable. It never changes
//! anything; what-if questions are asked through an [`Overlay`].

use std::sync::Arc;

use smallvec::SmallVec;

use super::cluster::Cluster;
use super::labels::{Effect, Taint, has_untolerated_taint};
use super::nodes::{Row, Scalar};
use super::profile::{Plugin, Profile};
use super::series::Kind;
use super::spec::PodSpec;
use super::status::{self, Code, Reason, Refusal};
use super::template::Template;

/// A node as it would be with some pods more and some less.
#[derive(Clone, Debug)]
pub struct Overlay {
    pub row: Row,
    scalars: SmallVec<[Scalar; 2]>,
    /// Change of each series of the template on this node.
    series: SmallVec<[i64; 8]>,
    removed: Vec<u32>,
    added: Vec<Arc<PodSpec>>,
}

impl Overlay {
    /// The node as it is.
    pub fn new(template: &Template, node: u32, cluster: &Cluster) -> Self {
        Overlay {
            row: cluster.nodes.rows[node as usize],
            scalars: cluster.nodes.nodes[node as usize].scalars.clone(),
            series: SmallVec::from_elem(0, template.series.all.len()),
            removed: Vec::new(),
            added: Vec::new(),
        }
    }

    /// Adds a pod that is not on the node.
    pub fn add(&mut self, spec: &Arc<PodSpec>, template: &Template, profile: &Profile, cluster: &Cluster) {
        self.account(spec, 1, template, profile, cluster);
        self.added.push(spec.clone());
    }

    /// Takes away a pod of the node.
    pub fn remove(&mut self, pod: u32, template: &Template, profile: &Profile, cluster: &Cluster) {
        if let Some(spec) = cluster.pod(pod).map(|p| p.spec.clone()) {
            self.account(&spec, -1, template, profile, cluster);
            self.removed.push(pod);
        }
    }

    /// Puts a pod back that [`Overlay::remove`] took.
    pub fn restore(&mut self, pod: u32, template: &Template, profile: &Profile, cluster: &Cluster) {
        if let Some(at) = self.removed.iter().position(|p| *p == pod)
            && let Some(spec) = cluster.pod(pod).map(|p| p.spec.clone())
        {
            self.removed.swap_remove(at);
            self.account(&spec, 1, template, profile, cluster);
        }
    }

    fn account(
        &mut self,
        spec: &PodSpec,
        sign: i64,
        template: &Template,
        profile: &Profile,
        cluster: &Cluster,
    ) {
        let local = &spec.local;
        self.row.used_cpu += sign * local.requests.milli_cpu;
        self.row.used_memory += sign * local.requests.memory;
        self.row.used_ephemeral += sign * local.requests.ephemeral;
        self.row.pod_count += sign;
        for (id, _, name) in &template.scalars {
            let amount = sign * local.requests.scalar(name);
            match self.scalars.iter_mut().find(|s| s.id == *id) {
                Some(scalar) => scalar.used += amount,
                None => self.scalars.push(Scalar { id: *id, allocatable: 0, used: amount }),
            }
        }
        let identity = &template.identity;
        let coefficients =
            template.series.coefficients_of(&spec.class, &identity.own, &identity.external, profile, cluster);
        for (series, coefficient) in coefficients {
            self.series[series as usize] += sign * i64::from(coefficient);
        }
    }

    fn scalar(&self, id: u16) -> Scalar {
        self.scalars.iter().find(|s| s.id == id).copied().unwrap_or_default()
    }

    /// Pods of the node that stay, and the added ones.
    fn specs<'a>(&'a self, node: u32, cluster: &'a Cluster) -> impl Iterator<Item = &'a PodSpec> {
        let stays = cluster.nodes.nodes[node as usize].pods.iter().filter(|p| !self.removed.contains(p));
        stays.filter_map(|p| cluster.pod(*p)).map(|p| &*p.spec).chain(self.added.iter().map(|s| &**s))
    }

    /// Pods taken away.
    pub fn removed(&self) -> &[u32] {
        &self.removed
    }
}

/// Filters of pods with volumes, made for one cycle.
pub trait VolumeFilter {
    /// The refusal of one volume plugin on a node.
    fn refuse(&self, plugin: Plugin, node: u32, overlay: Option<&Overlay>) -> Option<Refusal>;
}

/// The verdict of all filters on a node, in the profile's order.
pub fn filter_node(
    template: &Template,
    node: u32,
    profile: &Profile,
    cluster: &Cluster,
    overlay: Option<&Overlay>,
    volumes: Option<&dyn VolumeFilter>,
) -> Option<Refusal> {
    profile.filter.iter().find_map(|plugin| match plugin {
        Plugin::NodePorts => ports_refusal(template, node, cluster, overlay),
        Plugin::NodeResourcesFit => fit_refusal(template, node, cluster, overlay),
        Plugin::VolumeRestrictions => disk_refusal(template, node, cluster, overlay)
            .or_else(|| volumes.and_then(|v| v.refuse(*plugin, node, overlay))),
        Plugin::NodeVolumeLimits | Plugin::VolumeBinding | Plugin::VolumeZone => {
            volumes.and_then(|v| v.refuse(*plugin, node, overlay))
        }
        Plugin::PodTopologySpread => spread_refusal(template, node, cluster, overlay),
        Plugin::InterPodAffinity => affinity_refusal(template, node, cluster, overlay),
        plugin => object_refusal(*plugin, template, node, profile, cluster),
    })
}

/// The refusal by any filter that looks at the node object alone.
pub fn static_refusal(
    template: &Template,
    node: u32,
    profile: &Profile,
    cluster: &Cluster,
) -> Option<Refusal> {
    profile.filter.iter().find_map(|plugin| match plugin {
        Plugin::PodTopologySpread => missing_spread_label(template, node, cluster),
        Plugin::InterPodAffinity => missing_affinity_label(template, node, cluster),
        plugin => object_refusal(*plugin, template, node, profile, cluster),
    })
}

/// Whether resources, ports and inline disks of the pod fit on the node as it is.
pub fn fits_locally(template: &Template, node: u32, profile: &Profile, cluster: &Cluster) -> bool {
    let local = &template.identity.local;
    (!profile.filters(Plugin::NodeResourcesFit)
        || fits(template, &cluster.nodes.rows[node as usize], node, cluster))
        && (local.host_ports.is_empty()
            || !profile.filters(Plugin::NodePorts)
            || ports_refusal(template, node, cluster, None).is_none())
        && (local.disks.is_empty()
            || !profile.filters(Plugin::VolumeRestrictions)
            || disk_refusal(template, node, cluster, None).is_none())
}

fn object_refusal(
    plugin: Plugin,
    template: &Template,
    node: u32,
    profile: &Profile,
    cluster: &Cluster,
) -> Option<Refusal> {
    let local = &template.identity.local;
    let have = &cluster.nodes.nodes[node as usize];
    let refuse = |refused: bool, reason| refused.then(|| Refusal::unresolvable(plugin, reason));
    match plugin {
        Plugin::NodeUnschedulable => {
            let taint = || Taint {
                key: "node.kubernetes.io/unschedulable".into(),
                value: "".into(),
                effect: Effect::NoSchedule,
            };
            let refused = have.unschedulable && !local.tolerations.iter().any(|t| t.tolerates(&taint()));
            refuse(refused, status::UNSCHEDULABLE)
        }
        Plugin::TaintToleration => {
            refuse(has_untolerated_taint(&have.taints, &local.tolerations), status::TAINTS)
        }
        Plugin::NodeAffinity => {
            let added = profile.args.added_required_nodes.as_ref();
            let enforced =
                added.is_none_or(|terms| terms.iter().any(|t| t.matches(&have.name, &have.labels)));
            refuse(!enforced, status::NODE_AFFINITY_ENFORCED)
                .or_else(|| refuse(!local.admits_node(&have.name, &have.labels), status::NODE_AFFINITY))
        }
        Plugin::NodeDeclaredFeatures => {
            let refused = local.features.iter().any(|f| !have.features.contains(f));
            refuse(refused, status::FEATURES)
        }
        _ => None,
    }
}

/// The fast test; [`fit_refusal`] says why.
fn fits(template: &Template, row: &Row, node: u32, cluster: &Cluster) -> bool {
    let requests = &template.identity.local.requests;
    row.pod_count < row.pod_limit
        && (requests.milli_cpu == 0 || requests.milli_cpu <= row.cpu - row.used_cpu)
        && (requests.memory == 0 || requests.memory <= row.memory - row.used_memory)
        && (requests.ephemeral == 0 || requests.ephemeral <= row.ephemeral - row.used_ephemeral)
        && template.scalars.iter().all(|(id, amount, _)| {
            let scalar = cluster.nodes.scalar(node, *id);
            *amount <= scalar.allocatable - scalar.used
        })
}

fn fit_refusal(
    template: &Template,
    node: u32,
    cluster: &Cluster,
    overlay: Option<&Overlay>,
) -> Option<Refusal> {
    let row = overlay.map_or(&cluster.nodes.rows[node as usize], |o| &o.row);
    let requests = &template.identity.local.requests;
    let mut reasons: SmallVec<[Reason; 1]> = SmallVec::new();
    let mut code = Code::Unschedulable;
    if row.pod_count + 1 > row.pod_limit {
        reasons.push(Reason::Static(status::TOO_MANY_PODS));
    }
    let mut check = |wanted: i64, capacity: i64, used: i64, reason: Reason| {
        if wanted > 0 && wanted > capacity - used {
            reasons.push(reason);
            if wanted > capacity {
                code = Code::Unresolvable;
            }
        }
    };
    check(requests.milli_cpu, row.cpu, row.used_cpu, Reason::Static(status::CPU));
    check(requests.memory, row.memory, row.used_memory, Reason::Static(status::MEMORY));
    check(requests.ephemeral, row.ephemeral, row.used_ephemeral, Reason::Static(status::EPHEMERAL));
    for (id, amount, name) in &template.scalars {
        let scalar = overlay.map_or_else(|| cluster.nodes.scalar(node, *id), |o| o.scalar(*id));
        check(*amount, scalar.allocatable, scalar.used, Reason::Insufficient(name.clone()));
    }
    (!reasons.is_empty()).then_some(Refusal { code, plugin: Plugin::NodeResourcesFit, reasons })
}

fn ports_refusal(
    template: &Template,
    node: u32,
    cluster: &Cluster,
    overlay: Option<&Overlay>,
) -> Option<Refusal> {
    let wanted = &template.identity.local.host_ports;
    if wanted.is_empty() {
        return None;
    }
    let conflict = match overlay {
        None => {
            cluster.nodes.nodes[node as usize].ports.iter().any(|p| wanted.iter().any(|w| w.conflicts(p)))
        }
        Some(overlay) => overlay
            .specs(node, cluster)
            .any(|s| s.local.host_ports.iter().any(|p| wanted.iter().any(|w| w.conflicts(p)))),
    };
    conflict.then(|| Refusal::unschedulable(Plugin::NodePorts, status::PORTS))
}

fn disk_refusal(
    template: &Template,
    node: u32,
    cluster: &Cluster,
    overlay: Option<&Overlay>,
) -> Option<Refusal> {
    let wanted = &template.identity.local.disks;
    if wanted.is_empty() {
        return None;
    }
    let conflict = match overlay {
        None => {
            cluster.nodes.nodes[node as usize].disks.iter().any(|d| wanted.iter().any(|w| w.conflicts(d)))
        }
        Some(overlay) => overlay
            .specs(node, cluster)
            .any(|s| s.local.disks.iter().any(|d| wanted.iter().any(|w| w.conflicts(d)))),
    };
    conflict.then(|| Refusal::unschedulable(Plugin::VolumeRestrictions, status::DISK))
}

fn missing_spread_label(template: &Template, node: u32, cluster: &Cluster) -> Option<Refusal> {
    let labels = &cluster.nodes.nodes[node as usize].labels;
    let hard = &template.identity.own.hard;
    let missing = hard.iter().any(|s| labels.get(&s.constraint.topology_key).is_none());
    missing.then(|| Refusal::unresolvable(Plugin::PodTopologySpread, status::SPREAD_LABEL))
}

fn missing_affinity_label(template: &Template, node: u32, cluster: &Cluster) -> Option<Refusal> {
    let labels = &cluster.nodes.nodes[node as usize].labels;
    let missing = template.identity.own.affinity.iter().any(|t| labels.get(&t.topology_key).is_none());
    missing.then(|| Refusal::unresolvable(Plugin::InterPodAffinity, status::AFFINITY))
}

/// The change an overlay makes to a series where the node is.
fn delta(template: &Template, series: usize, node: u32, overlay: Option<&Overlay>) -> i64 {
    overlay.filter(|_| template.is_eligible(series, node)).map_or(0, |o| o.series[series])
}

fn spread_refusal(
    template: &Template,
    node: u32,
    cluster: &Cluster,
    overlay: Option<&Overlay>,
) -> Option<Refusal> {
    let own = &template.identity.own;
    if own.hard.is_empty() {
        return None;
    }
    let labels = &cluster.nodes.nodes[node as usize].labels;
    for (i, series) in template.series.all.iter().enumerate() {
        let Kind::Hard(c) = series.kind else { continue };
        let spread = &own.hard[c];
        if labels.get(&spread.constraint.topology_key).is_none() {
            return Some(Refusal::unresolvable(Plugin::PodTopologySpread, status::SPREAD_LABEL));
        }
        let value = template.value_at(i, node);
        let changed = value + delta(template, i, node, overlay);
        let least = hard_minimum(template, i, value, changed, spread.constraint.min_domains);
        if changed + i64::from(spread.self_match) - least > i64::from(spread.constraint.max_skew) {
            return Some(Refusal::unschedulable(Plugin::PodTopologySpread, status::SPREAD));
        }
    }
    None
}

/// The global minimum of a hard constraint, zero while fewer domains than `minDomains` exist.
pub fn hard_minimum(template: &Template, series: usize, from: i64, to: i64, min_domains: i32) -> i64 {
    let sums = &template.sums[series];
    if sums.domain_count() < usize::try_from(min_domains).unwrap_or(0) {
        return 0;
    }
    sums.minimum(from, to).unwrap_or(0)
}

fn affinity_refusal(
    template: &Template,
    node: u32,
    cluster: &Cluster,
    overlay: Option<&Overlay>,
) -> Option<Refusal> {
    if let Some(refusal) = missing_affinity_label(template, node, cluster) {
        return Some(refusal);
    }
    let all = template.series.all.iter().enumerate();
    let value = |i: usize| template.value_at(i, node) + delta(template, i, node, overlay);
    let mut pods_exist = true;
    let mut nobody_matches = true;
    let mut refused = None;
    for (i, series) in all {
        match series.kind {
            Kind::Affinity => {
                pods_exist &= value(i) > 0;
                nobody_matches &= template.sums[i].all() + delta(template, i, node, overlay) == 0;
            }
            Kind::Anti if value(i) > 0 => refused = Some(status::ANTI_AFFINITY),
            Kind::ExternalAnti if value(i) > 0 => {
                refused = refused.or(Some(status::EXISTING_ANTI_AFFINITY));
            }
            _ => {}
        }
    }
    let may_be_first = nobody_matches && template.identity.own.affinity_self_match;
    if !(pods_exist || may_be_first) {
        return Some(Refusal::unresolvable(Plugin::InterPodAffinity, status::AFFINITY));
    }
    refused.map(|reason| Refusal::unschedulable(Plugin::InterPodAffinity, reason))
}
