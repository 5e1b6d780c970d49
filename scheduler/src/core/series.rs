//! Series: numbers that existing pods contribute to a decision, per node and per topology domain.
//!
//! A spread constraint, an affinity term or the anti-affinity of existing pods is one series each: every class of
//! pods has a coefficient in it, a node's value is the sum over its pods, a domain's value the sum over its nodes.
//! Owns the list of series of a template and the coefficients. It does not keep the sums; `template` does.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::cluster::Cluster;
use super::profile::{HOSTNAME_LABEL, Plugin, Profile};
use super::terms::{ExternalKind, OwnTerms};

/// What a series counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Pods that match hard spread constraint number `i`.
    Hard(usize),
    /// Pods that match soft spread constraint number `i`.
    Soft(usize),
    /// Pods that match all required affinity terms, in the domains of one key.
    Affinity,
    /// Pods that match required anti-affinity terms of one key.
    Anti,
    /// Existing pods whose required anti-affinity of one key selects the incoming pod.
    ExternalAnti,
    /// Weights of preferred terms of one key, in both directions.
    Score,
}

/// One series.
#[derive(Clone, Debug)]
pub struct Series {
    pub kind: Kind,
    pub key: Arc<str>,
    /// Column number of the key.
    pub column: usize,
    /// Domains are single nodes: the value stands for itself and no domain totals are kept.
    pub local: bool,
    /// Own terms of an `Anti` or `Score` series, by their index.
    terms: SmallVec<[usize; 2]>,
}

impl Series {
    /// Terminating pods do not count for spreading; for affinity they do.
    pub fn counts_terminating(&self) -> bool {
        !matches!(self.kind, Kind::Hard(_) | Kind::Soft(_))
    }
}

/// A class's part in the series: index and coefficient, zero ones left out.
pub type Coefficients = SmallVec<[(u16, i32); 4]>;

/// The series of a template and the coefficients of the classes seen so far.
#[derive(Debug, Default)]
pub struct SeriesSet {
    pub all: Vec<Series>,
    memo: FxHashMap<u32, (u64, Coefficients)>,
}

impl SeriesSet {
    /// All series that `own` terms and matching `external` terms need under a profile.
    pub fn build(own: &OwnTerms, external: &[u32], profile: &Profile, cluster: &mut Cluster) -> Self {
        let mut builder = Builder { cluster, all: Vec::new() };
        if profile.filters(Plugin::PodTopologySpread) {
            for (i, spread) in own.hard.iter().enumerate() {
                builder.push(Kind::Hard(i), &spread.constraint.topology_key, None);
            }
        }
        if profile.weight(Plugin::PodTopologySpread) != 0 {
            for (i, spread) in own.soft.iter().enumerate() {
                builder.push(Kind::Soft(i), &spread.constraint.topology_key, None);
            }
        }
        if profile.filters(Plugin::InterPodAffinity) {
            builder.filter_affinity(own, external);
        }
        if profile.weight(Plugin::InterPodAffinity) != 0 && scores_affinity(own, profile) {
            builder.score_affinity(own, external, profile);
        }
        SeriesSet { all: builder.all, memo: FxHashMap::default() }
    }

    /// Whether a key has changed between one node per domain and several since the series were built.
    pub fn is_stale(&self, cluster: &Cluster) -> bool {
        self.all.iter().any(|s| {
            let unique = cluster.nodes.topology.column(s.column).is_node_unique();
            s.local != is_local(s.kind, &s.key, unique)
        })
    }

    /// The coefficients of a class, computed when the class is seen first.
    pub fn coefficients(
        &mut self,
        class: u32,
        own: &OwnTerms,
        external: &[u32],
        profile: &Profile,
        cluster: &Cluster,
    ) -> &Coefficients {
        let birth = cluster.class(class).birth;
        let all = &self.all;
        let entry = self.memo.entry(class).or_insert_with(|| (0, Coefficients::new()));
        if entry.0 != birth {
            *entry = (birth, compute(all, class, own, external, profile, cluster));
        }
        &entry.1
    }

    /// The coefficients of a class that is not on any node (a nominated pod), not remembered.
    pub fn coefficients_of(
        &self,
        class: &super::spec::PodClass,
        own: &OwnTerms,
        external: &[u32],
        profile: &Profile,
        cluster: &Cluster,
    ) -> Coefficients {
        if self.all.is_empty() {
            return Coefficients::new();
        }
        let terms = super::terms::external_terms(class);
        let numbers: Vec<_> = terms.iter().filter(|t| external_matches(t, external, cluster)).collect();
        collect(&self.all, class, own, profile, cluster, |kind_key| {
            numbers.iter().filter_map(|t| kind_key(t)).sum()
        })
    }
}

fn external_matches(term: &super::terms::ExternalTerm, external: &[u32], cluster: &Cluster) -> bool {
    external.iter().any(|n| cluster.external(*n).is_some_and(|have| **have == *term))
}

/// The score of existing pods' terms can be switched off for pods without preferences.
fn scores_affinity(own: &OwnTerms, profile: &Profile) -> bool {
    own.has_preferences() || !profile.args.ignore_preferred_terms_of_existing_pods
}

/// Per-node counts of the hostname label are what upstream scores by, whatever the label says.
fn is_local(kind: Kind, key: &str, unique: bool) -> bool {
    unique || (matches!(kind, Kind::Soft(_)) && key == HOSTNAME_LABEL)
}

struct Builder<'a> {
    cluster: &'a mut Cluster,
    all: Vec<Series>,
}

impl Builder<'_> {
    fn push(&mut self, kind: Kind, key: &Arc<str>, term: Option<usize>) {
        let per_key = !matches!(kind, Kind::Hard(_) | Kind::Soft(_));
        if per_key && let Some(have) = self.all.iter_mut().find(|s| s.kind == kind && s.key == *key) {
            have.terms.extend(term);
            return;
        }
        let column = self.cluster.nodes.topology_key(key);
        let unique = self.cluster.nodes.topology.column(column).is_node_unique();
        let local = is_local(kind, key, unique);
        self.all.push(Series { kind, key: key.clone(), column, local, terms: term.into_iter().collect() });
    }

    fn filter_affinity(&mut self, own: &OwnTerms, external: &[u32]) {
        for term in &own.affinity {
            self.push(Kind::Affinity, &term.topology_key, None);
        }
        for (i, term) in own.anti_affinity.iter().enumerate() {
            self.push(Kind::Anti, &term.topology_key, Some(i));
        }
        for number in external {
            if let Some(term) = self.cluster.external(*number).cloned()
                && term.kind == ExternalKind::RequiredAnti
            {
                self.push(Kind::ExternalAnti, &term.term.topology_key, None);
            }
        }
    }

    fn score_affinity(&mut self, own: &OwnTerms, external: &[u32], profile: &Profile) {
        for (i, weighted) in own.preferred.iter().enumerate() {
            self.push(Kind::Score, &weighted.term.topology_key, Some(i));
        }
        for number in external {
            if let Some(term) = self.cluster.external(*number).cloned()
                && score_weight(term.kind, profile) != 0
            {
                self.push(Kind::Score, &term.term.topology_key, None);
            }
        }
    }
}

fn score_weight(kind: ExternalKind, profile: &Profile) -> i32 {
    match kind {
        ExternalKind::RequiredAnti => 0,
        ExternalKind::RequiredAffinity => profile.args.hard_pod_affinity_weight,
        ExternalKind::Preferred(weight) => weight,
    }
}

fn compute(
    all: &[Series],
    class: u32,
    own: &OwnTerms,
    external: &[u32],
    profile: &Profile,
    cluster: &Cluster,
) -> Coefficients {
    let entry = cluster.class(class);
    let matching: SmallVec<[&Arc<super::terms::ExternalTerm>; 4]> = entry
        .terms
        .iter()
        .filter(|n| external.binary_search(n).is_ok())
        .filter_map(|n| cluster.external(*n))
        .collect();
    collect(all, &entry.class, own, profile, cluster, |kind_key| {
        matching.iter().filter_map(|t| kind_key(t)).sum()
    })
}

type TermWeight<'a> = &'a dyn Fn(&super::terms::ExternalTerm) -> Option<i32>;

fn collect(
    all: &[Series],
    class: &super::spec::PodClass,
    own: &OwnTerms,
    profile: &Profile,
    cluster: &Cluster,
    external_sum: impl Fn(TermWeight<'_>) -> i32,
) -> Coefficients {
    let namespace_labels = cluster.namespace(&class.namespace);
    let selects =
        |t: &super::spec::AffinityTerm| t.matches(&class.namespace, &class.labels, namespace_labels);
    let spread = |s: &super::terms::Spread| {
        let selector = &s.constraint.selector;
        own.namespace == class.namespace && !selector.is_everything() && selector.matches(&class.labels)
    };
    let value = |series: &Series| -> i32 {
        let own_terms = series.terms.iter();
        match series.kind {
            Kind::Hard(i) => i32::from(spread(&own.hard[i])),
            Kind::Soft(i) => i32::from(spread(&own.soft[i])),
            Kind::Affinity => i32::from(own.affinity.iter().all(selects)),
            Kind::Anti => own_terms.map(|i| i32::from(selects(&own.anti_affinity[*i]))).sum(),
            Kind::ExternalAnti => external_sum(&|t| {
                (t.kind == ExternalKind::RequiredAnti && t.term.topology_key == series.key).then_some(1)
            }),
            Kind::Score => {
                let mine =
                    own_terms.map(|i| &own.preferred[*i]).filter(|w| selects(&w.term)).map(|w| w.weight);
                let theirs = external_sum(&|t| {
                    (t.term.topology_key == series.key).then(|| score_weight(t.kind, profile))
                });
                mine.sum::<i32>() + theirs
            }
        }
    };
    let all = all.iter().enumerate().map(|(i, s)| (i as u16, value(s)));
    all.filter(|(_, coefficient)| *coefficient != 0).collect()
}
