//! The constraints of a pod against other pods, resolved: default spread constraints filled in, self matches known.
//!
//! Owns the identity under which pods share a template. Two pods with equal [`OwnTerms`], equal local part and
//! the same matching terms of existing pods are interchangeable for filtering and scoring.

use std::sync::Arc;

use super::labels::{Labels, Requirement, Selector};
use super::profile::{PluginArgs, Profile};
use super::spec::{AffinityTerm, OwnerKind, PodClass, PodSpec, SpreadConstraint, WeightedTerm};

/// A spread constraint of a pending pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Spread {
    pub constraint: SpreadConstraint,
    /// The pod itself matches the selector.
    pub self_match: bool,
}

/// Everything a pending pod asks of other pods.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct OwnTerms {
    /// Namespace of the pod: spread counts pods of one namespace only.
    pub namespace: Arc<str>,
    pub hard: Vec<Spread>,
    pub soft: Vec<Spread>,
    /// Nodes without all soft topology labels are not scored.
    pub require_all_topologies: bool,
    pub affinity: Vec<AffinityTerm>,
    /// The pod matches all its own required affinity terms.
    pub affinity_self_match: bool,
    pub anti_affinity: Vec<AffinityTerm>,
    pub preferred: Vec<WeightedTerm>,
}

/// Labels a plain selector wants, as pairs.
pub type Pairs = Vec<(Box<str>, Box<str>)>;

/// Where default constraints get their selector from: services and controllers.
pub trait SelectorSource {
    /// Selectors of the services of a namespace (those without selector are left out).
    fn services(&self, namespace: &str) -> Vec<&[(Box<str>, Box<str>)]>;
    /// The selector of a controller.
    fn owner(&self, kind: OwnerKind, namespace: &str, name: &str) -> Option<&Selector>;
}

impl OwnTerms {
    /// Resolves the terms of a pod under a profile.
    pub fn resolve(
        spec: &PodSpec,
        profile: &Profile,
        namespace_labels: Option<&Labels>,
        source: &dyn SelectorSource,
    ) -> Self {
        let class = &spec.class;
        let (hard, soft, require_all_topologies) = spread_of(spec, &profile.args, source);
        let affinity = class.affinity.required.clone();
        let affinity_self_match = !affinity.is_empty()
            && affinity.iter().all(|t| t.matches(&class.namespace, &class.labels, namespace_labels));
        let has_spread = !hard.is_empty() || !soft.is_empty();
        OwnTerms {
            namespace: if has_spread { class.namespace.clone() } else { Arc::default() },
            hard,
            soft,
            require_all_topologies,
            affinity,
            affinity_self_match,
            anti_affinity: class.affinity.required_anti.clone(),
            preferred: class.affinity.preferred.clone(),
        }
    }

    /// Whether the pod has preferred affinity or anti-affinity of its own.
    pub fn has_preferences(&self) -> bool {
        !self.preferred.is_empty()
    }
}

fn spread_of(
    spec: &PodSpec,
    args: &PluginArgs,
    source: &dyn SelectorSource,
) -> (Vec<Spread>, Vec<Spread>, bool) {
    let resolve = |constraints: &[SpreadConstraint], hard: bool| -> Vec<Spread> {
        let wanted = constraints.iter().filter(|c| c.hard == hard);
        wanted
            .map(|c| Spread { self_match: c.selector.matches(&spec.class.labels), constraint: c.clone() })
            .collect()
    };
    if !spec.spread.is_empty() {
        return (resolve(&spec.spread, true), resolve(&spec.spread, false), true);
    }
    if args.default_constraints.is_empty() {
        return (Vec::new(), Vec::new(), true);
    }
    let Some(selector) = default_selector(spec, source) else {
        return (Vec::new(), Vec::new(), true);
    };
    let defaults: Vec<SpreadConstraint> = args
        .default_constraints
        .iter()
        .map(|c| SpreadConstraint { selector: selector.clone(), ..c.clone() })
        .collect();
    (resolve(&defaults, true), resolve(&defaults, false), !args.system_defaulted)
}

/// The selector deduced from the services and the controller of a pod; `None` when there is nothing to go by.
fn default_selector(spec: &PodSpec, source: &dyn SelectorSource) -> Option<Selector> {
    let PodClass { namespace, labels, .. } = &*spec.class;
    let mut pairs: Vec<(&str, &str)> = Vec::new();
    for service in source.services(namespace) {
        if service.iter().all(|(k, v)| labels.get(k) == Some(v)) {
            pairs.extend(service.iter().map(|(k, v)| (&**k, &**v)));
        }
    }
    let mut requirements: Vec<Requirement> = pairs.iter().map(|(k, v)| Requirement::equals(k, v)).collect();
    if let Some(owner) = &spec.owner
        && let Some(Selector::All(more)) = source.owner(owner.kind, namespace, &owner.name)
    {
        requirements.extend(more.iter().cloned());
    }
    requirements.sort();
    requirements.dedup();
    (!requirements.is_empty()).then_some(Selector::All(requirements))
}

/// How a term of an existing pod concerns an incoming one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ExternalKind {
    /// Required anti-affinity: the incoming pod must stay away.
    RequiredAnti,
    /// Required affinity: scored with the hard pod affinity weight.
    RequiredAffinity,
    /// Preferred terms, negative for anti-affinity.
    Preferred(i32),
}

/// A term of existing pods, kept once for all pods that have it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ExternalTerm {
    pub kind: ExternalKind,
    pub term: AffinityTerm,
}

/// All terms of a class of existing pods.
pub fn external_terms(class: &PodClass) -> Vec<ExternalTerm> {
    let affinity = &class.affinity;
    let required = |kind, terms: &[AffinityTerm]| {
        terms.iter().map(|t| ExternalTerm { kind, term: t.clone() }).collect::<Vec<_>>()
    };
    let mut all = required(ExternalKind::RequiredAnti, &affinity.required_anti);
    all.extend(required(ExternalKind::RequiredAffinity, &affinity.required));
    all.extend(
        affinity
            .preferred
            .iter()
            .map(|w| ExternalTerm { kind: ExternalKind::Preferred(w.weight), term: w.term.clone() }),
    );
    all
}
