//! A decision for one pod: which groups of nodes are feasible, how they score, which node is taken.
//!
//! Owns the rules that look at pods of other nodes, evaluated per group, and the normalisation of scores over the
//! feasible nodes. It changes nothing but scratch space.

use std::borrow::Cow;
use std::collections::HashSet;

use smallvec::SmallVec;

use super::filter::hard_minimum;
use super::groups::{Group, GroupKey};
use super::profile::{HOSTNAME_LABEL, Plugin, Profile};
use super::score::MAX_SCORE;
use super::series::Kind;
use super::template::{KEY_IGNORED, KEY_PREFERENCE, KEY_TAINTS, MISSING, Template};

/// A source of numbers for ties; seeded, so that a run can be repeated.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Dice from a seed.
    pub fn new(seed: u64) -> Self {
        Dice(seed)
    }

    /// A number below `limit` (splitmix64).
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % limit.max(1) as u64) as usize
    }
}

/// Weighted scores of the plugins that are normalised over the feasible nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SharedScores {
    pub taints: i64,
    pub preference: i64,
    pub spread: i64,
    pub affinity: i64,
}

impl SharedScores {
    /// Their sum.
    pub fn sum(&self) -> i64 {
        self.taints + self.preference + self.spread + self.affinity
    }
}

/// Nodes to take one from: a group's own list, or what exclusions leave of it.
type Nodes<'a> = Cow<'a, [u32]>;

/// A feasible group with the raw scores of its nodes.
#[derive(Clone, Debug)]
struct Candidate {
    group: u32,
    /// Nodes left after exclusions.
    nodes: usize,
    spread: i64,
    affinity: i64,
}

/// The feasible groups of a template and their scores.
#[derive(Debug, Default)]
pub struct Evaluation {
    candidates: Vec<Candidate>,
    /// Feasible nodes in all.
    pub feasible: usize,
    excluded: HashSet<u32>,
}

impl Evaluation {
    /// Evaluates all groups. `excluded` nodes are not feasible for reasons outside the template.
    pub fn new(template: &Template, profile: &Profile, excluded: HashSet<u32>) -> Self {
        let mut evaluation = Evaluation { excluded, ..Evaluation::default() };
        let nobody_matches = affinity_total(template) == 0;
        let minimums = minimums(template);
        for (number, group) in template.groups.iter() {
            if !group_is_feasible(template, &group.key, nobody_matches, &minimums) {
                continue;
            }
            let nodes = evaluation.nodes_left(group);
            if nodes > 0 {
                evaluation.feasible += nodes;
                evaluation.candidates.push(Candidate { group: number, nodes, spread: 0, affinity: 0 });
            }
        }
        if evaluation.feasible > 1 {
            evaluation.score_raw(template, profile);
        }
        evaluation
    }

    fn nodes_left(&self, group: &Group) -> usize {
        if self.excluded.is_empty() {
            return group.len;
        }
        group.nodes().filter(|n| !self.excluded.contains(n)).count()
    }

    fn score_raw(&mut self, template: &Template, profile: &Profile) {
        let spreads =
            profile.weight(Plugin::PodTopologySpread) != 0 && !template.identity.own.soft.is_empty();
        let weights = if spreads { self.spread_weights(template) } else { SmallVec::new() };
        for candidate in &mut self.candidates {
            let key = &template.groups.group(candidate.group).key;
            if spreads && key[KEY_IGNORED] == 0 {
                candidate.spread = spread_score(template, key, &weights);
            }
            for (i, series) in template.series.all.iter().enumerate() {
                if series.kind == Kind::Score {
                    candidate.affinity += template.value_in(i, key);
                }
            }
        }
    }

    /// The weight of each soft constraint: the logarithm of its number of domains among the feasible nodes.
    fn spread_weights(&self, template: &Template) -> SmallVec<[f64; 4]> {
        let group_of = |c: &Candidate| &template.groups.group(c.group).key;
        let scored = || self.candidates.iter().filter(|c| group_of(c)[KEY_IGNORED] == 0);
        let mut weights = SmallVec::new();
        for (i, series) in template.series.all.iter().enumerate() {
            if !matches!(series.kind, Kind::Soft(_)) {
                continue;
            }
            let at = template.key_position[i];
            let size = if &*series.key == HOSTNAME_LABEL {
                scored().map(|c| c.nodes).sum()
            } else if series.local {
                let labelled: usize = scored().filter(|c| group_of(c)[at] != MISSING).map(|c| c.nodes).sum();
                labelled + usize::from(scored().any(|c| group_of(c)[at] == MISSING))
            } else {
                let mut domains: Vec<i32> = scored().map(|c| group_of(c)[at]).collect();
                domains.sort_unstable();
                domains.dedup();
                domains.len()
            };
            weights.push(((size + 2) as f64).ln());
        }
        weights
    }

    /// The weighted shared scores of all candidates, and what their best node has in all.
    fn totals(&self, template: &Template, profile: &Profile) -> Vec<SharedScores> {
        if self.feasible <= 1 {
            return vec![SharedScores::default(); self.candidates.len()];
        }
        let key = |c: &Candidate| &template.groups.group(c.group).key;
        let most = |part: usize| self.candidates.iter().map(|c| i64::from(key(c)[part])).max().unwrap_or(0);
        let (most_taints, most_preference) = (most(KEY_TAINTS), most(KEY_PREFERENCE));
        let spread = self.spread_range(template);
        let affinity = (
            self.candidates.iter().map(|c| c.affinity).min().unwrap_or(0),
            self.candidates.iter().map(|c| c.affinity).max().unwrap_or(0),
        );
        let has_spread = !template.identity.own.soft.is_empty();
        let weight = |p| profile.weight(p);
        self.candidates
            .iter()
            .map(|c| SharedScores {
                taints: weight(Plugin::TaintToleration)
                    * reversed_share(i64::from(key(c)[KEY_TAINTS]), most_taints),
                preference: weight(Plugin::NodeAffinity)
                    * share(i64::from(key(c)[KEY_PREFERENCE]), most_preference),
                spread: if has_spread {
                    weight(Plugin::PodTopologySpread)
                        * spread_share(c.spread, spread, key(c)[KEY_IGNORED] != 0)
                } else {
                    0
                },
                affinity: weight(Plugin::InterPodAffinity) * affinity_share(c.affinity, affinity),
            })
            .collect()
    }

    fn spread_range(&self, template: &Template) -> (i64, i64) {
        let scored = || {
            let counts = |c: &&Candidate| template.groups.group(c.group).key[KEY_IGNORED] == 0;
            self.candidates.iter().filter(counts).map(|c| c.spread)
        };
        (scored().min().unwrap_or(i64::MAX), scored().max().unwrap_or(0).max(0))
    }

    /// The best local score of a candidate and the nodes that have it.
    fn best_nodes<'a>(&self, template: &'a Template, candidate: &Candidate) -> Option<(i32, Nodes<'a>)> {
        for (score, nodes) in template.groups.group(candidate.group).best_first() {
            if self.excluded.is_empty() {
                return Some((score, Cow::Borrowed(nodes)));
            }
            let left: Vec<u32> = nodes.iter().copied().filter(|n| !self.excluded.contains(n)).collect();
            if !left.is_empty() {
                return Some((score, Cow::Owned(left)));
            }
        }
        None
    }

    /// Takes one of the best nodes. `None` when no node is feasible.
    pub fn choose(&self, template: &Template, profile: &Profile, dice: &mut Dice) -> Option<u32> {
        let totals = self.totals(template, profile);
        let mut best = i64::MIN;
        let mut tied: SmallVec<[Nodes<'_>; 4]> = SmallVec::new();
        for (candidate, shared) in self.candidates.iter().zip(&totals) {
            let Some((local, nodes)) = self.best_nodes(template, candidate) else { continue };
            let total = i64::from(local) + shared.sum();
            if total > best {
                best = total;
                tied.clear();
            }
            if total == best {
                tied.push(nodes);
            }
        }
        let count: usize = tied.iter().map(|nodes| nodes.len()).sum();
        if count == 0 {
            return None;
        }
        let mut at = dice.below(count);
        for nodes in &tied {
            match nodes.get(at) {
                Some(node) => return Some(*node),
                None => at -= nodes.len(),
            }
        }
        None
    }

    /// All feasible nodes with their local score and shared scores: the whole table, for explanations, extenders
    /// and tests.
    pub fn table(&self, template: &Template, profile: &Profile) -> Vec<(u32, i32, SharedScores)> {
        let totals = self.totals(template, profile);
        let mut rows = Vec::with_capacity(self.feasible);
        for (candidate, shared) in self.candidates.iter().zip(&totals) {
            for node in template.groups.group(candidate.group).nodes() {
                if !self.excluded.contains(&node) {
                    rows.push((node, template.groups.score_of(node), *shared));
                }
            }
        }
        rows.sort_unstable_by_key(|(node, _, _)| *node);
        rows
    }
}

fn affinity_total(template: &Template) -> i64 {
    let all = template.series.all.iter().zip(&template.sums);
    all.filter(|(s, _)| s.kind == Kind::Affinity).map(|(_, sums)| sums.all()).sum()
}

/// The global minimum of each hard constraint, by series.
fn minimums(template: &Template) -> SmallVec<[i64; 8]> {
    let all = template.series.all.iter().enumerate();
    all.map(|(i, s)| match s.kind {
        Kind::Hard(c) => {
            hard_minimum(template, i, 0, 0, template.identity.own.hard[c].constraint.min_domains)
        }
        _ => 0,
    })
    .collect()
}

fn group_is_feasible(template: &Template, key: &GroupKey, nobody_matches: bool, minimums: &[i64]) -> bool {
    let own = &template.identity.own;
    let mut pods_exist = true;
    for (i, series) in template.series.all.iter().enumerate() {
        match series.kind {
            Kind::Hard(c) => {
                let skew = template.value_in(i, key) + i64::from(own.hard[c].self_match) - minimums[i];
                if skew > i64::from(own.hard[c].constraint.max_skew) {
                    return false;
                }
            }
            Kind::Affinity => pods_exist &= template.value_in(i, key) > 0,
            Kind::Anti | Kind::ExternalAnti if template.value_in(i, key) > 0 => return false,
            _ => {}
        }
    }
    pods_exist || (nobody_matches && own.affinity_self_match)
}

fn spread_score(template: &Template, key: &GroupKey, weights: &[f64]) -> i64 {
    let own = &template.identity.own;
    let soft = template.series.all.iter().enumerate().filter_map(|(i, s)| match s.kind {
        Kind::Soft(c) => Some((i, c)),
        _ => None,
    });
    let mut score = 0.0;
    for ((i, c), weight) in soft.zip(weights) {
        let part = key[template.key_position[i]];
        let missing = if template.series.all[i].local { part == MISSING } else { part == -1 };
        if !missing {
            let count = template.value_in(i, key) as f64;
            score += count * weight + f64::from(own.soft[c].constraint.max_skew - 1);
        }
    }
    score.round() as i64
}

fn share(raw: i64, most: i64) -> i64 {
    if most == 0 { raw } else { MAX_SCORE * raw / most }
}

fn reversed_share(raw: i64, most: i64) -> i64 {
    if most == 0 { MAX_SCORE } else { MAX_SCORE - MAX_SCORE * raw / most }
}

fn spread_share(raw: i64, (least, most): (i64, i64), ignored: bool) -> i64 {
    if ignored {
        0
    } else if most == 0 {
        MAX_SCORE
    } else {
        MAX_SCORE * (most + least - raw) / most
    }
}

fn affinity_share(raw: i64, (least, most): (i64, i64)) -> i64 {
    if most > least { (MAX_SCORE as f64 * ((raw - least) as f64 / (most - least) as f64)) as i64 } else { 0 }
}
