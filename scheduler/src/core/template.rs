//! The state that all pods of one template share: which nodes they can use and how these score.
//!
//! Owns, per template, the static verdict on each node, the series sums and the groups. It is kept current from
//! the change log of the nodes, so that a decision costs what has changed since the last one.
//! Invariant: after `sync`, sums and groups equal what a fresh build would give.

use std::cell::RefCell;
use std::sync::Arc;

use smallvec::SmallVec;

use super::cluster::Cluster;
use super::groups::{GroupKey, Groups};
use super::labels::{count_intolerable_preferences, has_untolerated_taint};
use super::memo::NodeMemos;
use super::profile::{HOSTNAME_LABEL, Plugin, Profile};
use super::score::LocalScorer;
use super::series::{Kind, SeriesSet};
use super::spec::{LocalSpec, preference};
use super::sums::Sums;
use super::terms::OwnTerms;
use super::topology::NO_DOMAIN;

/// A local value of a node that lacks the label of a soft constraint.
pub const MISSING: i32 = i32::MIN;

/// Positions of the fixed parts of a group key.
pub const KEY_TAINTS: usize = 0;
pub const KEY_PREFERENCE: usize = 1;
pub const KEY_IGNORED: usize = 2;
const KEY_FIXED: usize = 3;

/// What pods of the template share.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Index of the profile.
    pub profile: usize,
    pub local: Arc<LocalSpec>,
    pub own: Arc<OwnTerms>,
    /// Sorted numbers of the external terms that select the pod.
    pub external: Arc<[u32]>,
}

/// The verdict on a node that changes with the node object only.
#[derive(Clone, Copy, Debug, Default)]
struct Static {
    /// Generation of the node object plus one; zero is never seen.
    generation: u64,
    usable: bool,
    /// Lacks a topology label of a soft constraint and is not scored for spreading.
    ignored: bool,
    taints: i32,
    preference: i32,
    images: i32,
}

/// A template.
#[derive(Debug)]
pub struct Template {
    pub identity: Identity,
    pub series: SeriesSet,
    pub scorer: LocalScorer,
    /// Scalars to check: column number, amount, name.
    pub scalars: Vec<(u16, i64, Arc<str>)>,
    pub groups: Groups,
    pub sums: Vec<Sums>,
    /// Topology columns that stand in the group key.
    columns: Vec<usize>,
    /// Position of each series' value or domain in the group key.
    pub key_position: Vec<usize>,
    statics: Vec<Static>,
    values: Vec<i32>,
    eligible: Vec<bool>,
    domains: Vec<u32>,
    synced: u64,
    image_generation: u64,
    images_matter: bool,
    /// Names that `metadata.name` requirements narrow the search to.
    pub named_nodes: Option<Vec<Box<str>>>,
    /// Verdicts on single nodes; behind a cell, because what asks for them only reads the template.
    pub memos: RefCell<NodeMemos>,
    /// Position of the change log and message of the last failure; equal position means equal message.
    pub last_failure: Option<(u64, Arc<super::status::Diagnosis>)>,
}

impl Template {
    /// Builds the template over all nodes.
    pub fn build(identity: Identity, profile: &Profile, cluster: &mut Cluster) -> Self {
        let series = SeriesSet::build(&identity.own, &identity.external, profile, cluster);
        let scorer = LocalScorer::new(&identity.local, profile, &mut cluster.nodes);
        let scalars = checked_scalars(&identity.local, profile, cluster);
        let mut columns: Vec<usize> = Vec::new();
        for one in series.all.iter().filter(|s| !s.local) {
            if !columns.contains(&one.column) {
                columns.push(one.column);
            }
        }
        let mut next_local = KEY_FIXED + columns.len();
        let mut position = |s: &super::series::Series| match columns.iter().position(|c| *c == s.column) {
            Some(at) if !s.local => KEY_FIXED + at,
            _ => {
                next_local += 1;
                next_local - 1
            }
        };
        let key_position = series.all.iter().map(&mut position).collect();
        let mut template = Template {
            sums: series.all.iter().map(|_| Sums::default()).collect(),
            named_nodes: identity.local.named_nodes(),
            groups: Groups::default(),
            statics: Vec::new(),
            values: Vec::new(),
            eligible: Vec::new(),
            domains: Vec::new(),
            synced: cluster.nodes.log_end(),
            image_generation: cluster.nodes.image_generation,
            images_matter: scorer.images_matter(&cluster.nodes),
            last_failure: None,
            memos: RefCell::default(),
            identity,
            series,
            scorer,
            scalars,
            columns,
            key_position,
        };
        for node in 0..cluster.nodes.slots() as u32 {
            template.refresh(node, profile, cluster);
        }
        template
    }

    /// Catches up with the cluster. Returns false when only a rebuild can.
    pub fn sync(&mut self, profile: &Profile, cluster: &Cluster) -> bool {
        if self.series.is_stale(cluster) || !self.sync_images(cluster) {
            return false;
        }
        let end = cluster.nodes.log_end();
        if self.synced == end {
            return true;
        }
        let Some(changes) = cluster.nodes.changes_since(self.synced) else { return false };
        let mut last = None;
        for node in changes {
            if last != Some(*node) {
                self.refresh(*node, profile, cluster);
                last = Some(*node);
            }
        }
        self.synced = end;
        true
    }

    /// Image scores depend on all nodes together: a change of images makes them stale where they matter.
    fn sync_images(&mut self, cluster: &Cluster) -> bool {
        let now = cluster.nodes.image_generation;
        if self.image_generation == now {
            return true;
        }
        self.image_generation = now;
        !self.images_matter && !self.scorer.images_matter(&cluster.nodes)
    }

    /// Whether a verdict on a node depends on that node alone.
    pub fn is_local(&self) -> bool {
        self.series.all.is_empty()
    }

    /// Position of the change log this template stands at.
    pub fn position(&self) -> u64 {
        self.synced
    }

    fn refresh(&mut self, node: u32, profile: &Profile, cluster: &Cluster) {
        self.grow(node);
        self.memos.get_mut().forget(node);
        let generation = u64::from(cluster.nodes.nodes[node as usize].object_generation) + 1;
        let values = self.values_on(node, profile, cluster);
        if self.statics[node as usize].generation == generation {
            self.adjust(node, &values);
        } else {
            self.contribute(node, -1);
            self.assess(node, generation, profile, cluster);
            let at = node as usize * values.len();
            self.values[at..at + values.len()].copy_from_slice(&values);
            self.contribute(node, 1);
        }
        self.place(node, profile, cluster);
    }

    fn grow(&mut self, node: u32) {
        let slots = node as usize + 1;
        if self.statics.len() < slots {
            let series = self.series.all.len();
            self.statics.resize(slots, Static::default());
            self.values.resize(slots * series, 0);
            self.eligible.resize(slots * series, false);
            self.domains.resize(slots * self.columns.len(), NO_DOMAIN);
        }
    }

    /// What the pods on a node contribute to each series.
    fn values_on(&mut self, node: u32, profile: &Profile, cluster: &Cluster) -> SmallVec<[i32; 8]> {
        let mut values = SmallVec::from_elem(0, self.series.all.len());
        if values.is_empty() {
            return values;
        }
        let Identity { own, external, .. } = &self.identity;
        for count in &cluster.nodes.nodes[node as usize].classes {
            let coefficients = self.series.coefficients(count.class, own, external, profile, cluster).clone();
            for (series, coefficient) in coefficients {
                let pods = if self.series.all[series as usize].counts_terminating() {
                    count.all()
                } else {
                    count.live
                };
                values[series as usize] += coefficient * pods as i32;
            }
        }
        values
    }

    /// The static verdict, eligibility and domains of a node.
    fn assess(&mut self, node: u32, generation: u64, profile: &Profile, cluster: &Cluster) {
        let have = &cluster.nodes.nodes[node as usize];
        let local = self.identity.local.clone();
        for (i, column) in self.columns.iter().enumerate() {
            let domain = cluster.nodes.topology.column(*column).domain(node);
            self.domains[node as usize * self.columns.len() + i] = domain;
        }
        let honors = Honors {
            affinity: have.present && local.admits_node(&have.name, &have.labels),
            taints: have.present && !has_untolerated_taint(&have.taints, &local.tolerations),
        };
        let own = self.identity.own.clone();
        let has_hard = own.hard.iter().all(|s| have.labels.get(&s.constraint.topology_key).is_some());
        let has_soft = own.soft.iter().all(|s| have.labels.get(&s.constraint.topology_key).is_some());
        let ignored = own.require_all_topologies && !has_soft;
        for (i, series) in self.series.all.iter().enumerate() {
            let labelled = cluster.nodes.topology.column(series.column).domain(node) != NO_DOMAIN;
            self.eligible[node as usize * self.series.all.len() + i] = have.present
                && match series.kind {
                    Kind::Hard(c) => has_hard && honors.admit(&own.hard[c].constraint),
                    Kind::Soft(c) => !ignored && honors.admit(&own.soft[c].constraint),
                    _ => labelled,
                };
        }
        self.statics[node as usize] = Static {
            generation,
            usable: have.present && super::filter::static_refusal(self, node, profile, cluster).is_none(),
            ignored,
            taints: if profile.weight(Plugin::TaintToleration) == 0 {
                0
            } else {
                count_intolerable_preferences(&have.taints, &local.tolerations) as i32
            },
            preference: if profile.weight(Plugin::NodeAffinity) == 0 {
                0
            } else {
                let added = preference(&profile.args.added_preferred_nodes, &have.name, &have.labels);
                (local.node_preference(&have.name, &have.labels) + added) as i32
            },
            images: if self.images_matter { self.scorer.images(&cluster.nodes, node) as i32 } else { 0 },
        };
    }

    /// Adds (`sign` 1) or takes back (-1) all a node contributes to the sums.
    fn contribute(&mut self, node: u32, sign: i64) {
        for i in 0..self.series.all.len() {
            let at = node as usize * self.series.all.len() + i;
            if !self.eligible[at] {
                continue;
            }
            let value = i64::from(self.values[at]);
            let domain = self.domain_in(i, node);
            if domain == Some(NO_DOMAIN) {
                continue;
            }
            let hard = matches!(self.series.all[i].kind, Kind::Hard(_));
            let sums = &mut self.sums[i];
            if sign > 0 && hard {
                sums.node_joins(domain);
            }
            sums.add(domain, sign * value, hard);
            if sign < 0 && hard {
                sums.node_leaves(domain);
            }
        }
    }

    fn adjust(&mut self, node: u32, values: &[i32]) {
        for (i, new) in values.iter().enumerate() {
            let at = node as usize * values.len() + i;
            let old = std::mem::replace(&mut self.values[at], *new);
            if old == *new || !self.eligible[at] {
                continue;
            }
            let domain = self.domain_in(i, node);
            if domain == Some(NO_DOMAIN) {
                continue;
            }
            let hard = matches!(self.series.all[i].kind, Kind::Hard(_));
            if domain.is_none() && hard {
                self.sums[i].move_value(i64::from(old), i64::from(*new));
                self.sums[i].all += i64::from(*new - old);
            } else {
                self.sums[i].add(domain, i64::from(*new - old), hard);
            }
        }
    }

    /// The domain a node counts in for a series; `None` where the series is local.
    fn domain_in(&self, series: usize, node: u32) -> Option<u32> {
        let position = self.key_position[series];
        let column = position.checked_sub(KEY_FIXED).filter(|c| *c < self.columns.len())?;
        Some(self.domains[node as usize * self.columns.len() + column])
    }

    /// The value of a series on one node, as its eligibility has it.
    pub fn node_value(&self, series: usize, node: u32) -> i64 {
        let at = node as usize * self.series.all.len() + series;
        if self.eligible[at] { i64::from(self.values[at]) } else { 0 }
    }

    /// Whether the node counts in the series.
    pub fn is_eligible(&self, series: usize, node: u32) -> bool {
        self.eligible[node as usize * self.series.all.len() + series]
    }

    /// The value of a series where a node is: of its domain, or of the node itself.
    pub fn value_at(&self, series: usize, node: u32) -> i64 {
        match self.domain_in(series, node) {
            Some(domain) => self.sums[series].total(domain),
            None => self.node_value(series, node),
        }
    }

    /// The value of a series in a group.
    pub fn value_in(&self, series: usize, key: &GroupKey) -> i64 {
        let part = key[self.key_position[series]];
        if self.series.all[series].local { i64::from(part) } else { self.sums[series].total(part as u32) }
    }

    fn place(&mut self, node: u32, profile: &Profile, cluster: &Cluster) {
        let verdict = self.statics[node as usize];
        if !verdict.usable || !super::filter::fits_locally(self, node, profile, cluster) {
            return self.groups.place(node, None);
        }
        let mut key = GroupKey::from_elem(0, KEY_FIXED + self.columns.len());
        key[KEY_TAINTS] = verdict.taints;
        key[KEY_PREFERENCE] = verdict.preference;
        key[KEY_IGNORED] = i32::from(verdict.ignored);
        for i in 0..self.columns.len() {
            key[KEY_FIXED + i] = self.domains[node as usize * self.columns.len() + i] as i32;
        }
        for (i, series) in self.series.all.iter().enumerate().filter(|(_, s)| s.local) {
            key.push(self.local_part(i, series, node, cluster));
        }
        let score = self.scorer.resources(&cluster.nodes, node) as i32 + verdict.images;
        self.groups.place(node, Some((&key, score)));
    }

    /// What a local series puts into the group key: no more than its rule looks at.
    fn local_part(&self, i: usize, series: &super::series::Series, node: u32, cluster: &Cluster) -> i32 {
        match series.kind {
            Kind::Affinity | Kind::Anti | Kind::ExternalAnti => i32::from(self.node_value(i, node) > 0),
            Kind::Hard(_) | Kind::Score => self.node_value(i, node) as i32,
            Kind::Soft(_) => {
                if cluster.nodes.topology.column(series.column).domain(node) == NO_DOMAIN {
                    MISSING
                } else if &*series.key == HOSTNAME_LABEL {
                    self.values[node as usize * self.series.all.len() + i]
                } else {
                    self.node_value(i, node) as i32
                }
            }
        }
    }
}

struct Honors {
    affinity: bool,
    taints: bool,
}

impl Honors {
    fn admit(&self, constraint: &super::spec::SpreadConstraint) -> bool {
        (!constraint.honor_affinity || self.affinity) && (!constraint.honor_taints || self.taints)
    }
}

fn checked_scalars(local: &LocalSpec, profile: &Profile, cluster: &mut Cluster) -> Vec<(u16, i64, Arc<str>)> {
    let ignored = |name: &str| {
        let group = name.split('/').next().unwrap_or(name);
        is_extended(name)
            && (profile.args.ignored_resources.iter().any(|r| **r == *name)
                || profile.args.ignored_resource_groups.iter().any(|g| **g == *group))
    };
    local
        .requests
        .scalars
        .iter()
        .filter(|(name, amount)| *amount != 0 && !ignored(name))
        .map(|(name, amount)| (cluster.nodes.scalar_id(name), *amount, name.clone()))
        .collect()
}

/// Extended resources have a domain that is not Kubernetes' own.
fn is_extended(name: &str) -> bool {
    name.contains('/') && !name.contains("kubernetes.io/") && !name.starts_with("requests.")
}
