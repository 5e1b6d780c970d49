//! The garbage collector: what is owned goes with its owners. It knows the owner references of every kind that
//! discovery names, custom ones included, as a graph ([`graph`]), kept up by one watch per kind ([`monitor`]).
//!
//! Rules: an object goes when none of its owners exists any more, which for owners that were never seen is asked of
//! the API server; foreground deletion first deletes the dependents that block; orphaning takes the references away.
//! Every write carries the uid and resourceVersion it was decided on, so nothing is deleted on old knowledge.

pub mod graph;
pub mod monitor;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use serde_json::{Value, json};

use self::graph::{Graph, Node, Owner};
use crate::meta::{FOREGROUND, ORPHAN};
use crate::runtime::plan::PatchKind;
use crate::runtime::{
    Action, Answer, Ask, Context, Controller, Failure, Gvr, Key, Pace, Plan, Propagation, ReconcileError,
    Verb, Wiring,
};

/// How soon a key is looked at again while the graph is not complete.
const NOT_READY: Duration = Duration::from_millis(100);

struct Collector {
    graph: Arc<RwLock<Graph>>,
    workers: usize,
}

/// Builds the loop; its keys are uids.
pub fn build(wiring: &mut Wiring) -> Box<dyn Controller> {
    let graph = Arc::new(RwLock::new(Graph::default()));
    let (feed, queue) = (graph.clone(), wiring.queue());
    wiring.background(Box::new(move |context| Box::pin(monitor::run(feed, queue, context))));
    Box::new(Collector { graph, workers: wiring.options().workers.gc })
}

/// What is known of an owner.
enum Standing {
    /// It is there.
    Solid,
    /// It waits for its dependents to go.
    Waiting,
    /// It is gone.
    Absent,
}

/// Why no decision is possible yet.
enum Pending {
    Ask(Ask),
    Unknown(Failure),
}

impl Controller for Collector {
    fn reconcile(&self, key: &Key, context: &Context) -> Result<Plan, ReconcileError> {
        let mut plan = Plan::nothing();
        let graph = self.graph.read();
        let Some(node) = graph.get(&key.name) else { return Ok(plan) };
        if !graph.is_complete() {
            plan.again_after(NOT_READY);
            return Ok(plan);
        }
        if !node.deleting {
            match decide(&graph, node, context) {
                Ok(action) => action.into_iter().for_each(|action| plan.act(action)),
                Err(pending) => defer(&mut plan, pending),
            }
        } else if node.orphans {
            orphan(&graph, node, &mut plan);
        } else if node.foreground {
            foreground(&graph, node, context, &mut plan);
        }
        Ok(plan)
    }

    fn workers(&self) -> usize {
        self.workers
    }
}

fn defer(plan: &mut Plan, pending: Pending) {
    match pending {
        Pending::Ask(ask) => plan.asks.push(ask),
        Pending::Unknown(failure) => plan.problem = Some(failure),
    }
}

/// What an object that is not being deleted needs: to be deleted, to lose references to owners that are gone, or
/// nothing.
fn decide(graph: &Graph, node: &Node, context: &Context) -> Result<Option<Action>, Pending> {
    let (mut solid, mut waiting, mut absent) = (Vec::new(), Vec::new(), Vec::new());
    for owner in node.owners.iter() {
        match standing(graph, node, owner, context)? {
            Standing::Solid => solid.push(owner),
            Standing::Waiting => waiting.push(owner),
            Standing::Absent => absent.push(owner),
        }
    }
    if waiting.is_empty() && absent.is_empty() {
        return Ok(None);
    }
    if !solid.is_empty() {
        // Other owners keep it: only the references to those that are gone or going are removed.
        let kept: Vec<&Owner> = solid;
        return Ok(Some(set_owners(node, &kept)));
    }
    let how = if node.orphans {
        Propagation::Orphan
    } else if node.foreground || (!waiting.is_empty() && graph.has_dependents(&node.uid)) {
        Propagation::Foreground
    } else {
        Propagation::Background
    };
    Ok(Some(delete(node, how)))
}

fn standing(graph: &Graph, node: &Node, owner: &Owner, context: &Context) -> Result<Standing, Pending> {
    let resource = graph.resource_of(&owner.api_version, &owner.kind);
    let found = graph.get(&owner.uid);
    let in_namespace = found.map(|found| !found.namespace.is_empty()).or(resource.map(|(_, yes)| yes));
    if node.namespace.is_empty() && in_namespace == Some(true) {
        // Such a reference says nothing that could be looked up: neither that the owner is there nor that it is gone.
        let message = format!("cluster-wide {} {} refers to a namespaced owner", node.gvr, node.name);
        return Err(Pending::Unknown(Failure::local(message)));
    }
    if let Some(found) = found {
        // A reference names a namespace only by standing in it; one that crosses namespaces leads nowhere.
        let reachable = found.namespace.is_empty() || found.namespace == node.namespace;
        let going = found.deleting && found.foreground;
        return Ok(match (reachable, going) {
            (false, _) => Standing::Absent,
            (true, true) => Standing::Waiting,
            (true, false) => Standing::Solid,
        });
    }
    if graph.is_known_absent(&owner.uid) {
        return Ok(Standing::Absent);
    }
    let Some((gvr, namespaced)) = resource else {
        let message = format!("no resource for owner {} {} of {}", owner.api_version, owner.kind, node.name);
        return Err(Pending::Unknown(Failure::local(message)));
    };
    let space = if namespaced { &*node.namespace } else { "" };
    let ask = Ask::Meta(gvr.object(space, &owner.name));
    match context.answer(&ask) {
        None => Err(Pending::Ask(ask)),
        Some(Answer::Failed(failure)) if failure.is_not_found() => Ok(Standing::Absent),
        Some(Answer::Failed(failure)) => Err(Pending::Unknown(failure.clone())),
        Some(Answer::Json(live)) => Ok(live_standing(live, owner)),
        Some(Answer::Kinds(_)) => Ok(Standing::Solid),
    }
}

fn live_standing(live: &Value, owner: &Owner) -> Standing {
    let meta = &live["metadata"];
    if meta["uid"].as_str() != Some(&owner.uid) {
        return Standing::Absent;
    }
    let finalizers = meta["finalizers"].as_array().into_iter().flatten();
    let foreground = finalizers.into_iter().any(|finalizer| finalizer == FOREGROUND);
    if foreground && !meta["deletionTimestamp"].is_null() { Standing::Waiting } else { Standing::Solid }
}

/// Foreground deletion: dependents that block are dealt with first; then the finalizer goes.
fn foreground(graph: &Graph, node: &Node, context: &Context, plan: &mut Plan) {
    let blocking: Vec<&Node> =
        graph.dependents(&node.uid).filter(|dependent| dependent.blocks(&node.uid)).collect();
    if blocking.is_empty() {
        plan.act(remove_finalizer(node, FOREGROUND));
        return;
    }
    let mut actions = Vec::new();
    for dependent in blocking.into_iter().filter(|dependent| !dependent.deleting) {
        // In a circle of owners the dependent waits for this very object; it must stop blocking.
        match decide(graph, dependent, context) {
            Ok(action) => actions.extend(action),
            Err(pending) => defer(plan, pending),
        }
    }
    plan.act_all(Pace::Parallel, actions);
    let circles = graph
        .dependents(&node.uid)
        .filter(|dependent| dependent.deleting && graph.is_circular(dependent, node));
    let unblocked: Vec<Action> = circles.map(|dependent| unblock(dependent, node)).collect();
    plan.act_all(Pace::Parallel, unblocked);
}

/// Orphaning: dependents lose the reference; then the finalizer goes.
fn orphan(graph: &Graph, node: &Node, plan: &mut Plan) {
    let dependents = graph.dependents(&node.uid);
    let freed = dependents.map(|dependent| {
        let kept: Vec<&Owner> = dependent.owners.iter().filter(|owner| owner.uid != node.uid).collect();
        set_owners(dependent, &kept).tolerating(&[404])
    });
    let freed: Vec<Action> = freed.collect();
    plan.act_all(Pace::Parallel, freed);
    plan.act(remove_finalizer(node, ORPHAN));
}

fn delete(node: &Node, how: Propagation) -> Action {
    let verb = Verb::Delete {
        uid: Some(node.uid.to_string()),
        resource_version: Some(node.resource_version.to_string()),
        propagation: Some(how),
        grace_secs: None,
    };
    Action::on(&node.gvr, &node.namespace, &node.name, verb).tolerating(&[404])
}

fn patch(node: &Node, mut meta: Value) -> Action {
    meta["uid"] = json!(&*node.uid);
    meta["resourceVersion"] = json!(&*node.resource_version);
    let verb = Verb::Patch { body: json!({ "metadata": meta }), kind: PatchKind::Merge, subresource: "" };
    Action::on(&node.gvr, &node.namespace, &node.name, verb)
}

fn set_owners(node: &Node, owners: &[&Owner]) -> Action {
    let list: Vec<Value> = owners.iter().map(|owner| owner.to_json()).collect();
    let list = if list.is_empty() { Value::Null } else { Value::Array(list) };
    patch(node, json!({ "ownerReferences": list }))
}

/// The same references, none of which blocks `owner` any more.
fn unblock(node: &Node, owner: &Node) -> Action {
    let list = node.owners.iter().map(|reference| {
        let mut json = reference.to_json();
        if reference.uid == owner.uid {
            json["blockOwnerDeletion"] = Value::Bool(false);
        }
        json
    });
    patch(node, json!({ "ownerReferences": list.collect::<Vec<_>>() }))
}

fn remove_finalizer(node: &Node, finalizer: &str) -> Action {
    let kept: Vec<&String> = node.finalizers.iter().filter(|have| *have != finalizer).collect();
    let kept = if kept.is_empty() { Value::Null } else { json!(kept) };
    patch(node, json!({ "finalizers": kept })).tolerating(&[404])
}

/// Which resource serves a kind of owner.
pub type OwnerKinds = Vec<(Gvr, bool)>;
