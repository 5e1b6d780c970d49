//! Why a pod would or would not run on each node: a cycle that changes nothing and tells everything.
//!
//! Owns the table of verdicts and weighted scores per plugin. It uses the very template and evaluation that decide.

use std::fmt::Write as _;
use std::sync::Arc;

use super::cluster::Uid;
use super::decide::{self, Request};
use super::evaluate::Evaluation;
use super::filter::VolumeFilter;
use super::preempt::refusal_with_nominated;
use super::profile::Plugin;
use super::scheduler::Scheduler;
use super::score::LocalScorer;
use super::spec::{PodInput, PodSpec};
use super::status::NO_NODES;

/// The verdict on one node.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub node: Arc<str>,
    /// The plugin that refuses the node, and its words.
    pub refused: Option<(&'static str, String)>,
    /// Weighted scores by plugin, for feasible nodes.
    pub scores: Vec<(&'static str, i64)>,
    pub total: i64,
}

/// The whole answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    pub rows: Vec<Row>,
    /// The message of an event, if no node is feasible.
    pub message: Option<String>,
}

impl Scheduler {
    /// Explains a pod as if it were scheduled now. `None` when no profile answers to its scheduler name.
    pub fn explain(&mut self, input: &PodInput) -> Option<Explanation> {
        let spec = self.cluster.intern(input.spec.clone());
        let index = self.profile_of(&spec.scheduler_name)?;
        let uid = Uid::new(&input.uid);
        let outright = |message: String| Explanation { rows: Vec::new(), message: Some(message) };
        let count = self.cluster.nodes.count();
        if count == 0 {
            return Some(outright(NO_NODES.to_owned()));
        }
        let volumes = match self.storage.begin(uid, &spec, &self.profiles[index], &self.cluster) {
            Ok(volumes) => volumes,
            Err(refusal) => return Some(outright(decide::refused_outright(refusal).message(count))),
        };
        let profile = &self.profiles[index];
        let template = self.templates.get(&spec, index, profile, &mut self.cluster);
        if let Some(refusal) = decide::pre_filter(template, &spec, profile) {
            return Some(outright(decide::refused_outright(refusal).message(count)));
        }
        let bound = volumes.as_ref().map(|v| v.on(&self.storage, &self.cluster));
        let request = Request {
            uid,
            spec: &spec,
            nominated: None,
            profile,
            volumes: bound.as_ref().map(|v| v as &dyn VolumeFilter),
        };
        let excluded = decide::excluded(template, &request, &self.cluster);
        let table = Evaluation::new(template, profile, excluded).table(template, profile);
        let who = decide::preemptor(template, &request);
        let mut rows: Vec<Row> = Vec::new();
        for node in self.cluster.nodes.iter() {
            let name = self.cluster.nodes.nodes[node as usize].name.clone();
            let refusal = refusal_with_nominated(&who, node, &self.cluster, None);
            let refused = refusal.map(|r| (r.plugin.name(), r.message()));
            let scored = table.iter().find(|(n, _, _)| *n == node);
            let scores = match scored.filter(|_| refused.is_none()) {
                Some((_, _, shared)) => {
                    let weight = |p: Plugin| profile.weight(p);
                    let local = |p: Plugin, score: i64| (p.name(), weight(p) * score);
                    let scorer: &LocalScorer = &template.scorer;
                    let nodes = &self.cluster.nodes;
                    vec![
                        (Plugin::TaintToleration.name(), shared.taints),
                        (Plugin::NodeAffinity.name(), shared.preference),
                        local(Plugin::NodeResourcesFit, scorer.fit_score(nodes, node)),
                        (Plugin::PodTopologySpread.name(), shared.spread),
                        (Plugin::InterPodAffinity.name(), shared.affinity),
                        local(Plugin::NodeResourcesBalancedAllocation, scorer.balanced_score(nodes, node)),
                        local(Plugin::ImageLocality, scorer.image_score(nodes, node)),
                    ]
                }
                None => Vec::new(),
            };
            let total = scores.iter().map(|(_, s)| s).sum();
            rows.push(Row { node: name, refused, scores, total });
        }
        let feasible = rows.iter().any(|r| r.refused.is_none());
        let message = (!feasible).then(|| decide::diagnose(template, &request, &self.cluster).message(count));
        rows.sort_by(|a, b| {
            (a.refused.is_some(), -a.total, &a.node).cmp(&(b.refused.is_some(), -b.total, &b.node))
        });
        Some(Explanation { rows, message })
    }

    /// Explains a specification that is no object yet.
    pub fn explain_spec(&mut self, spec: PodSpec) -> Option<Explanation> {
        self.explain(&PodInput { spec, ..PodInput::default() })
    }
}

impl Explanation {
    /// The answer as a table: feasible nodes first, best first.
    pub fn table(&self) -> String {
        let mut text = String::new();
        let columns: Vec<&str> = self
            .rows
            .iter()
            .find(|r| !r.scores.is_empty())
            .map_or(Vec::new(), |r| r.scores.iter().map(|(n, _)| *n).collect());
        let width = self.rows.iter().map(|r| r.node.len()).max().unwrap_or(0).max(4);
        let _ = write!(text, "{:width$}  {:>5}", "NODE", "TOTAL");
        for column in &columns {
            let _ = write!(text, "  {column}");
        }
        text.push('\n');
        for row in &self.rows {
            match &row.refused {
                Some((plugin, why)) => {
                    let _ = writeln!(text, "{:width$}  {:>5}  {plugin}: {why}", row.node, "-");
                }
                None => {
                    let _ = write!(text, "{:width$}  {:>5}", row.node, row.total);
                    for (name, score) in &row.scores {
                        let _ = write!(text, "  {score:>0$}", name.len());
                    }
                    text.push('\n');
                }
            }
        }
        if let Some(message) = &self.message {
            let _ = writeln!(text, "{message}");
        }
        text
    }
}
