//! Preemption: which pods would have to go so that a pod fits, and on which node that hurts least.
//!
//! Owns the dry run on candidate nodes, the reprieve of victims under PodDisruptionBudgets and the choice among
//! candidates. It evicts nobody; the shell does what the answer says.

use std::sync::Arc;

use super::cluster::{Cluster, Pod, Uid};
use super::evaluate::Dice;
use super::filter::{Overlay, VolumeFilter, filter_node};
use super::labels::Selector;
use super::profile::{Plugin, Profile};
use super::spec::PodSpec;
use super::status::{Code, Diagnosis, NO_VICTIMS, PREEMPTION_NOT_HELPFUL, Refusal};
use super::template::Template;

/// A PodDisruptionBudget.
#[derive(Clone, Debug, PartialEq)]
pub struct Budget {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    pub selector: Selector,
    pub allowed: i32,
    /// Pods whose eviction the API server has already granted.
    pub disrupted: Vec<Box<str>>,
}

/// Who wants to preempt.
pub struct Preemptor<'a> {
    pub uid: Uid,
    pub spec: &'a PodSpec,
    pub template: &'a Template,
    pub profile: &'a Profile,
    pub volumes: Option<&'a dyn VolumeFilter>,
}

impl Preemptor<'_> {
    /// Whether what holds for this pod on the node holds until the node changes, and for all pods like it: a promise
    /// to this very pod would not count for it.
    pub fn remembers(&self, node: u32, cluster: &Cluster) -> bool {
        let own = || cluster.nominated_on(node).iter().any(|n| n.uid == self.uid);
        self.template.is_local() && self.volumes.is_none() && !own()
    }
}

/// A node and the pods that must leave it, most important first.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    pub node: u32,
    pub victims: Vec<u32>,
    pub violations: usize,
}

/// What preemption came to.
#[derive(Debug)]
pub enum Outcome {
    /// Evict the victims, nominate the node.
    Candidates(Vec<Candidate>),
    /// Nothing to be done now, for this reason; a nomination stays.
    NotEligible(&'static str),
    /// No node would fit even so; a nomination is withdrawn. The message is of the same form as the main one.
    NotHelpful(String),
}

/// Looks for candidates, given why each node refused the pod.
pub fn preempt(
    who: &Preemptor<'_>,
    nominated: Option<u32>,
    diagnosis: &Diagnosis,
    budgets: &[Budget],
    cluster: &Cluster,
    dice: &mut Dice,
) -> Outcome {
    if let Some(reason) = ineligible(who, nominated, diagnosis, cluster) {
        return Outcome::NotEligible(reason);
    }
    let mut potential: Vec<u32> = diagnosis
        .by_node
        .iter()
        .filter(|(_, refusal)| refusal.code == Code::Unschedulable)
        .map(|(node, _)| *node)
        .collect();
    if diagnosis.absent.as_ref().is_some_and(|r| r.code == Code::Unschedulable) {
        potential.extend(cluster.nodes.iter().filter(|n| !diagnosis.by_node.contains_key(n)));
    }
    potential.sort_unstable();
    let (candidates, mut refusals) = dry_run(who, &potential, budgets, cluster, dice);
    if !candidates.is_empty() {
        return Outcome::Candidates(candidates);
    }
    refusals.absent = Some(Refusal::unresolvable(Plugin::DefaultPreemption, PREEMPTION_NOT_HELPFUL));
    Outcome::NotHelpful(refusals.message(cluster.nodes.count()))
}

fn ineligible(
    who: &Preemptor<'_>,
    nominated: Option<u32>,
    diagnosis: &Diagnosis,
    cluster: &Cluster,
) -> Option<&'static str> {
    if who.spec.never_preempts {
        return Some("not eligible due to preemptionPolicy=Never.");
    }
    let node = nominated?;
    if diagnosis.of(node).is_some_and(|r| r.code == Code::Unresolvable) {
        return None;
    }
    let waits = pods_on(node, cluster).any(|(_, p)| p.spec.priority < who.spec.priority && p.preempted);
    waits.then_some("not eligible due to a terminating pod on the nominated node.")
}

fn pods_on(node: u32, cluster: &Cluster) -> impl Iterator<Item = (u32, &Pod)> {
    cluster.nodes.nodes[node as usize].pods.iter().filter_map(|slot| Some((*slot, cluster.pod(*slot)?)))
}

/// How many candidates are enough to stop looking.
fn enough(nodes: usize, profile: &Profile) -> usize {
    let share = nodes * profile.args.min_candidate_nodes_percentage.max(0) as usize / 100;
    share.max(profile.args.min_candidate_nodes_absolute.max(0) as usize).min(nodes)
}

fn dry_run(
    who: &Preemptor<'_>,
    potential: &[u32],
    budgets: &[Budget],
    cluster: &Cluster,
    dice: &mut Dice,
) -> (Vec<Candidate>, Diagnosis) {
    let mut clean: Vec<Candidate> = Vec::new();
    let mut violating: Vec<Candidate> = Vec::new();
    let mut refusals = Diagnosis::default();
    let wanted = enough(potential.len(), who.profile);
    let offset = dice.below(potential.len());
    for i in 0..potential.len() {
        let node = potential[(offset + i) % potential.len()];
        match known_victims(who, node, budgets, cluster) {
            Err(refusal) => refusals.refuse(node, refusal),
            Ok(candidate) if candidate.violations == 0 => clean.push(candidate),
            Ok(candidate) => violating.push(candidate),
        }
        if !clean.is_empty() && clean.len() + violating.len() >= wanted {
            break;
        }
    }
    clean.append(&mut violating);
    (clean, refusals)
}

/// As [`victims_on`], remembered where only the node itself can change the answer.
fn known_victims(
    who: &Preemptor<'_>,
    node: u32,
    budgets: &[Budget],
    cluster: &Cluster,
) -> Result<Candidate, Refusal> {
    if !budgets.is_empty() || !who.remembers(node, cluster) {
        return victims_on(who, node, budgets, cluster);
    }
    let priority = who.spec.priority;
    if let Some(known) = who.template.memos.borrow().victims(node, priority) {
        return known.clone();
    }
    let victims = victims_on(who, node, budgets, cluster);
    who.template.memos.borrow_mut().keep_victims(node, priority, victims.clone());
    victims
}

/// The least set of pods that must leave a node, or why no set would do.
pub fn victims_on(
    who: &Preemptor<'_>,
    node: u32,
    budgets: &[Budget],
    cluster: &Cluster,
) -> Result<Candidate, Refusal> {
    let mut lower: Vec<(u32, &Pod)> =
        pods_on(node, cluster).filter(|(_, p)| p.spec.priority < who.spec.priority).collect();
    if lower.is_empty() {
        return Err(Refusal::unresolvable(Plugin::DefaultPreemption, NO_VICTIMS));
    }
    let mut overlay = Overlay::new(who.template, node, cluster);
    for (slot, _) in &lower {
        overlay.remove(*slot, who.template, who.profile, cluster);
    }
    if let Some(refusal) = refusal_with_nominated(who, node, cluster, Some(&overlay)) {
        return Err(refusal);
    }
    lower.sort_by_key(|(_, p)| (std::cmp::Reverse(p.spec.priority), p.start_ms));
    let (violating, clean) = split_by_budgets(&lower, budgets);
    let mut victims: Vec<(u32, &Pod)> = Vec::new();
    let mut violations = 0;
    for (group, violates) in [(&violating, true), (&clean, false)] {
        for (slot, pod) in group {
            overlay.restore(*slot, who.template, who.profile, cluster);
            if refusal_with_nominated(who, node, cluster, Some(&overlay)).is_some() {
                overlay.remove(*slot, who.template, who.profile, cluster);
                victims.push((*slot, pod));
                violations += usize::from(violates);
            }
        }
    }
    if victims.is_empty() {
        return Err(Refusal::unresolvable_text(
            Plugin::DefaultPreemption,
            format!("expected at least one victim pod on node {:?}", cluster.nodes.nodes[node as usize].name),
        ));
    }
    victims.sort_by_key(|(_, p)| (std::cmp::Reverse(p.spec.priority), p.start_ms));
    Ok(Candidate { node, victims: victims.into_iter().map(|(slot, _)| slot).collect(), violations })
}

/// The filters' verdict, with pods of equal or higher priority nominated to the node counted as running, and again
/// without them.
pub fn refusal_with_nominated(
    who: &Preemptor<'_>,
    node: u32,
    cluster: &Cluster,
    overlay: Option<&Overlay>,
) -> Option<Refusal> {
    let filter = |o: Option<&Overlay>| filter_node(who.template, node, who.profile, cluster, o, who.volumes);
    let mut with: Option<Overlay> = None;
    for nomination in cluster.nominated_on(node) {
        if nomination.uid != who.uid && nomination.spec.priority >= who.spec.priority {
            let base = || overlay.cloned().unwrap_or_else(|| Overlay::new(who.template, node, cluster));
            with.get_or_insert_with(base).add(&nomination.spec, who.template, who.profile, cluster);
        }
    }
    with.and_then(|o| filter(Some(&o))).or_else(|| filter(overlay))
}

type Pods<'a> = Vec<(u32, &'a Pod)>;

/// Pods whose eviction would break a budget, and the others; the order is kept.
fn split_by_budgets<'a>(pods: &[(u32, &'a Pod)], budgets: &[Budget]) -> (Pods<'a>, Pods<'a>) {
    let mut allowed: Vec<i32> = budgets.iter().map(|b| b.allowed).collect();
    pods.iter().copied().partition(|(_, pod)| {
        let class = &pod.spec.class;
        let mut violates = false;
        for (budget, left) in budgets.iter().zip(&mut allowed) {
            let applies = !class.labels.is_empty()
                && budget.namespace == class.namespace
                && !budget.selector.is_everything()
                && budget.selector.matches(&class.labels)
                && !budget.disrupted.iter().any(|n| **n == *pod.name);
            if applies {
                *left -= 1;
                violates |= *left < 0;
            }
        }
        violates
    })
}

/// The candidate that hurts least: fewest violated budgets, lowest top priority, least sum of priorities, fewest
/// victims, latest start of the most important victim; then the first.
pub fn choose<'a>(candidates: &'a [Candidate], cluster: &Cluster) -> Option<&'a Candidate> {
    /// Makes every priority positive, so that more victims always weigh more.
    const SHIFT: i64 = i32::MAX as i64 + 1;
    let rank = |c: &Candidate| {
        let pods: Vec<&Pod> = c.victims.iter().filter_map(|v| cluster.pod(*v)).collect();
        let top = pods.iter().map(|p| p.spec.priority).max().unwrap_or(0);
        let sum: i64 = pods.iter().map(|p| i64::from(p.spec.priority) + SHIFT).sum();
        let start = pods.iter().filter(|p| p.spec.priority == top).map(|p| p.start_ms).min().unwrap_or(0);
        (c.violations, pods.first().map_or(0, |p| p.spec.priority), sum, pods.len(), std::cmp::Reverse(start))
    };
    candidates.iter().min_by_key(|c| rank(c))
}
