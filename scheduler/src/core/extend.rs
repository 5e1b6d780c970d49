//! A cycle with HTTP extenders: they see the feasible nodes, may refuse some and add to the scores.
//!
//! Owns the merging of the extenders' answer with our own scores. It calls nobody; the trait does.

use std::sync::Arc;

use super::cluster::Cluster;
use super::decide::{self, Choice, Request};
use super::evaluate::{Dice, Evaluation};
use super::preempt::refusal_with_nominated;
use super::profile::Plugin;
use super::scheduler::{Extenders, PodRef};
use super::status::{Code, Diagnosis, Reason, Refusal};
use super::template::Template;

/// Chooses among the nodes that the extenders leave: a node, or the reasons of all nodes, or an extender's error.
pub fn decide(
    template: &Template,
    request: &Request<'_>,
    cluster: &Cluster,
    dice: &mut Dice,
    extenders: &mut dyn Extenders,
    pod: &PodRef,
) -> Result<Result<Choice, Diagnosis>, String> {
    if let Some(node) = request.nominated
        && refusal_with_nominated(&decide::preemptor(template, request), node, cluster, None).is_none()
    {
        let name = cluster.nodes.nodes[node as usize].name.clone();
        if !extenders.rate(pod, &[name])?.nodes.is_empty() {
            return Ok(Ok(Choice { node, feasible: 1 }));
        }
    }
    let evaluation = Evaluation::new(template, request.profile, decide::excluded(template, request, cluster));
    let rows = evaluation.table(template, request.profile);
    if rows.is_empty() {
        return Ok(Err(decide::diagnose(template, request, cluster)));
    }
    let names: Vec<Arc<str>> =
        rows.iter().map(|(node, _, _)| cluster.nodes.nodes[*node as usize].name.clone()).collect();
    let answer = extenders.rate(pod, &names)?;
    let mut best: Vec<u32> = Vec::new();
    let mut best_score = i64::MIN;
    for ((node, local, shared), name) in rows.iter().zip(&names) {
        let Some((_, extra)) = answer.nodes.iter().find(|(n, _)| n == name) else { continue };
        let score = (i64::from(*local) + shared.sum()).saturating_add(*extra);
        if score > best_score {
            best_score = score;
            best.clear();
        }
        if score == best_score {
            best.push(*node);
        }
    }
    if best.is_empty() {
        let mut diagnosis = decide::diagnose(template, request, cluster);
        for (name, message, unresolvable) in &answer.refused {
            if let Some(node) = cluster.nodes.find(name) {
                let code = if *unresolvable { Code::Unresolvable } else { Code::Unschedulable };
                let reasons = [Reason::Text(message.as_str().into())].into_iter().collect();
                diagnosis.refuse(node, Refusal { code, plugin: Plugin::Extender, reasons });
            }
        }
        diagnosis.plugins.insert(Plugin::Extender);
        return Ok(Err(diagnosis));
    }
    let node = best[dice.below(best.len())];
    Ok(Ok(Choice { node, feasible: answer.nodes.len() }))
}
