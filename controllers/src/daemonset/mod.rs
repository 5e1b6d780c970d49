//! DaemonSets: one pod on every node that accepts it.
//!
//! In reading order: [`placement`] (which nodes, and with what pods), [`update`] (rolling, surging), [`failures`] (pauses
//! after failed pods), this module (one run and its writes). Pods are bound by the scheduler through a node affinity to their one node.

pub mod failures;
pub mod placement;
#[cfg(test)]
mod tests;
pub mod update;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, Pod};
use parking_lot::Mutex;
use rustc_hash::FxHashSet;

use self::failures::Failures;
use self::placement::{Placed, is_placement_changed, suitability};
use crate::claim::{Claim, claim};
use crate::history::{self, HASH_LABEL, History, Unsettled};
use crate::meta::{controller_of, controller_ref, is_terminating, label, name, namespace, uid};
use crate::pods;
use crate::runtime::{
    Action, Change, Context, Controller, Enqueue, Key, Note, Pace, Plan, ReconcileError, Store, Wiring,
};
use crate::selector::Selector;

/// Pods created or deleted in one run at most (upstream's BurstReplicas).
const BURST_MAX: usize = 250;

struct DaemonSets {
    sets: Store<DaemonSet>,
    nodes: Store<Node>,
    pods: Store<Pod>,
    revisions: Store<ControllerRevision>,
    failures: Mutex<Failures>,
    workers: usize,
}

/// Builds the loop.
pub fn build(wiring: &mut Wiring) -> Box<dyn Controller> {
    let sets = wiring.on_self::<DaemonSet>();
    let all = sets.clone();
    let nodes = wiring.on::<Node>(move |change, queue| {
        if is_placement_changed(change.old.as_deref(), change.new.as_deref()) {
            all.all().iter().for_each(|set| queue.add(Key::of(set.as_ref())));
        }
    });
    let all = sets.clone();
    let pods = wiring.on::<Pod>(move |change, queue| keys_of_pod(&all, change, queue));
    let revisions = wiring.on_owned::<ControllerRevision, DaemonSet>();
    let workers = wiring.options().workers.daemonset;
    Box::new(DaemonSets { sets, nodes, pods, revisions, failures: Mutex::default(), workers })
}

fn keys_of_pod(sets: &Store<DaemonSet>, change: &Change<Pod>, queue: &mut Enqueue) {
    for pod in change.both() {
        if let Some(owner) = controller_of::<Pod, DaemonSet>(pod) {
            queue.add(Key::new(namespace(pod.as_ref()), &owner.name));
        }
    }
    let Some(pod) = change.new.as_ref().filter(|pod| controller_ref(&pod.metadata).is_none()) else { return };
    for set in sets.in_namespace(namespace(pod.as_ref())) {
        let selector = set.spec.as_ref().map(|spec| Selector::of(&spec.selector));
        if selector.is_some_and(|s| s.is_ok_and(|s| s.matches(pod.metadata.labels.as_ref()))) {
            queue.add(Key::of(set.as_ref()));
        }
    }
}

/// The pods of a set by the node they run or are to run on.
pub type ByNode = BTreeMap<String, Vec<Arc<Pod>>>;

impl Controller for DaemonSets {
    fn reconcile(&self, key: &Key, context: &Context) -> Result<Plan, ReconcileError> {
        let mut plan = Plan::nothing();
        let Some(set) = self.sets.get(key) else { return Ok(plan) };
        let Some(spec) = &set.spec else { return Ok(plan) };
        let selector = Selector::of(&spec.selector)?;
        if selector.picks_all() {
            let why = "This daemon set is selecting all pods. A non-empty selector is required.";
            plan.note(Note::warning(set.as_ref(), "SelectingAll", why));
            return Ok(plan);
        }
        if is_terminating(set.as_ref()) {
            return Ok(plan);
        }
        let mut candidates = self.pods.owned_by(uid(set.as_ref()));
        candidates.extend(self.pods.orphaned_in(&key.namespace));
        let matches = |pod: &Pod| selector.matches(pod.metadata.labels.as_ref());
        let (owned, actions) = match claim(set.as_ref(), candidates, context, matches) {
            Claim::Unsure(ask) => return Ok(plan.ask(ask)),
            Claim::Settled { owned, actions } => (owned, actions),
        };
        let collisions = set.status.as_ref().and_then(|status| status.collision_count);
        let revisions = self.revisions.owned_by(uid(set.as_ref()));
        let history = match history::settle(set.as_ref(), &spec.template, revisions, collisions, context) {
            Err(Unsettled::Ask(ask)) => return Ok(plan.ask(ask)),
            Err(Unsettled::Collision(count)) => {
                let mut set = set.as_ref().clone();
                set.status.get_or_insert_default().collision_count = Some(count);
                plan.act(Action::update_status(&set));
                return Ok(plan);
            }
            Ok(history) => history,
        };
        actions.into_iter().for_each(|action| plan.act(action));
        history.write.clone().into_iter().for_each(|action| plan.act(action));
        let run = Run::new(&set, self.nodes.all(), owned, &history, context);
        let status = run.status(&mut plan);
        let write = (!is_same(set.status.as_ref(), &status))
            .then(|| Action::update_status(&DaemonSet { status: Some(status), ..set.as_ref().clone() }));
        let (before, after) = if context.failure.is_some() { (write, None) } else { (None, write) };
        before.into_iter().for_each(|action| plan.act(action));
        run.manage(&mut self.failures.lock(), &mut plan);
        after.into_iter().for_each(|action| plan.act(action));
        plan.act_all(Pace::Parallel, run.clean_up(&history));
        Ok(plan)
    }

    fn workers(&self) -> usize {
        self.workers
    }
}

/// Absent and zero counts are the same on the wire.
fn is_same(old: Option<&DaemonSetStatus>, new: &DaemonSetStatus) -> bool {
    let mut old = old.cloned().unwrap_or_default();
    for count in [&mut old.number_available, &mut old.number_unavailable, &mut old.updated_number_scheduled] {
        *count = count.filter(|n| *n != 0);
    }
    old == *new
}

/// One run over one set.
pub struct Run<'a> {
    /// The set.
    pub set: &'a DaemonSet,
    /// Every node, by name.
    pub nodes: BTreeMap<String, Placed>,
    /// The set's pods.
    pub by_node: ByNode,
    /// The hash of the present template.
    pub hash: String,
    context: &'a Context<'a>,
}

impl<'a> Run<'a> {
    fn new(
        set: &'a DaemonSet,
        nodes: Vec<Arc<Node>>,
        owned: Vec<Arc<Pod>>,
        history: &History,
        context: &'a Context<'a>,
    ) -> Self {
        let nodes =
            nodes.iter().map(|node| (name(node.as_ref()).to_string(), suitability(set, node))).collect();
        let mut by_node = ByNode::new();
        for pod in owned {
            by_node.entry(placement::target_node(&pod)).or_default().push(pod);
        }
        let hash = label(&history.current, HASH_LABEL).unwrap_or("").to_string();
        Self { set, nodes, by_node, hash, context }
    }

    /// The wall clock.
    pub fn now(&self) -> jiff::Timestamp {
        self.context.now
    }

    /// Whether a pod is of the present template.
    pub fn is_updated(&self, pod: &Pod) -> bool {
        label(pod, HASH_LABEL) == Some(self.hash.as_str())
    }

    /// Seconds a pod must have been ready to count as available.
    pub fn min_ready_secs(&self) -> i32 {
        self.set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0)
    }

    /// Whether a pod is available now.
    pub fn is_available(&self, pod: &Pod) -> bool {
        pods::is_available(pod, self.min_ready_secs(), self.now())
    }

    fn manage(&self, failures: &mut Failures, plan: &mut Plan) {
        let mut needing: Vec<String> = Vec::new();
        let mut doomed: Vec<Arc<Pod>> = Vec::new();
        for (node, placed) in &self.nodes {
            let pods = self.by_node.get(node).map(Vec::as_slice).unwrap_or_default();
            self.manage_node(node, *placed, pods, &mut needing, &mut doomed, failures, plan);
        }
        // Pods whose node is gone are garbage; those not bound yet would wait for it for ever.
        for (_, pods) in self.by_node.iter().filter(|(node, _)| !self.nodes.contains_key(*node)) {
            doomed.extend(
                pods.iter()
                    .filter(|pod| pods::node_name(pod).is_empty() && !is_terminating(pod.as_ref()))
                    .cloned(),
            );
        }
        // Missing and surplus pods first; a rollout moves on only from a settled state.
        if needing.is_empty() && doomed.is_empty() {
            let rolling = update::roll(self);
            needing = rolling.create;
            doomed = rolling.delete;
        }
        needing.truncate(BURST_MAX);
        doomed.truncate(BURST_MAX);
        plan.act_all(Pace::SlowStart, needing.iter().map(|node| self.create(node)).collect());
        plan.act_all(Pace::Parallel, doomed.iter().map(|pod| self.delete(pod)).collect());
    }

    #[allow(clippy::too_many_arguments, reason = "what it decides goes three ways, and it has one caller")]
    fn manage_node(
        &self,
        node: &str,
        placed: Placed,
        pods: &[Arc<Pod>],
        needing: &mut Vec<String>,
        doomed: &mut Vec<Arc<Pod>>,
        failures: &mut Failures,
        plan: &mut Plan,
    ) {
        if placed.should_run && pods.is_empty() {
            needing.push(node.to_string());
            return;
        }
        if !placed.should_continue {
            doomed.extend(pods.iter().filter(|pod| !is_terminating(pod.as_ref())).cloned());
            return;
        }
        if !placed.should_run {
            return;
        }
        let mut running = Vec::new();
        for pod in pods.iter().filter(|pod| !is_terminating(pod.as_ref())) {
            if pods::is_finished(pod) {
                let failed = pods::phase(pod) == "Failed";
                let (reason, word) =
                    if failed { ("FailedDaemonPod", "failed") } else { ("SucceededDaemonPod", "succeeded") };
                let message = format!(
                    "Found {word} daemon pod {}/{} on node {node}, will try to {} it",
                    namespace(pod.as_ref()),
                    name(pod.as_ref()),
                    if failed { "kill" } else { "delete" }
                );
                let left = self.pause(pod, node, failed, failures);
                if !left.is_zero() {
                    plan.again_after(left);
                    continue;
                }
                let note = if failed {
                    Note::warning(self.set, reason, message)
                } else {
                    Note::normal(self.set, reason, message)
                };
                plan.note(note);
                doomed.push(pod.clone());
            } else {
                running.push(pod.clone());
            }
        }
        doomed.extend(update::surplus(self, running));
    }

    fn pause(&self, pod: &Pod, node: &str, failed: bool, failures: &mut Failures) -> Duration {
        if !failed {
            return Duration::ZERO;
        }
        let set = format!("{}/{}", namespace(self.set), name(self.set));
        failures.pause(&set, node, uid(pod), self.context.elapsed)
    }

    fn create(&self, node: &str) -> Action {
        let mut pod = placement::pod_for(self.set, node);
        pod.metadata.labels.get_or_insert_default().insert(HASH_LABEL.into(), self.hash.clone());
        Action::create(&pod)
            .noting(Note::normal(self.set, "SuccessfulCreate", "Created pod: {name}"))
            .noting_failure(Note::warning(self.set, "FailedCreate", "Error creating: {error}"))
    }

    fn delete(&self, pod: &Arc<Pod>) -> Action {
        Action::delete(pod.as_ref())
            .noting(Note::normal(
                self.set,
                "SuccessfulDelete",
                format!("Deleted pod: {}", name(pod.as_ref())),
            ))
            .noting_failure(Note::warning(self.set, "FailedDelete", "Error deleting: {error}"))
    }

    fn status(&self, plan: &mut Plan) -> DaemonSetStatus {
        let old = self.set.status.clone().unwrap_or_default();
        let mut status = DaemonSetStatus {
            observed_generation: self.set.metadata.generation,
            collision_count: old.collision_count,
            conditions: old.conditions,
            ..DaemonSetStatus::default()
        };
        let (mut updated, mut available) = (0, 0);
        for (node, placed) in &self.nodes {
            let pods = self.by_node.get(node).map(Vec::as_slice).unwrap_or_default();
            if !placed.should_run {
                status.number_misscheduled += i32::from(!pods.is_empty());
                continue;
            }
            status.desired_number_scheduled += 1;
            let Some(oldest) = pods.iter().min_by_key(|pod| self.status_order(pod)) else { continue };
            status.current_number_scheduled += 1;
            if let Some(left) = pods::available_in(oldest, self.min_ready_secs(), self.now()) {
                status.number_ready += 1;
                available += i32::from(left.is_zero());
                if !left.is_zero() {
                    plan.again_after(left);
                }
            }
            updated += i32::from(self.is_updated(oldest));
        }
        status.updated_number_scheduled = Some(updated).filter(|n| *n != 0);
        status.number_available = Some(available).filter(|n| *n != 0);
        let unavailable = status.desired_number_scheduled - available;
        status.number_unavailable = Some(unavailable).filter(|n| *n != 0);
        status
    }

    /// Of several pods on a node the one that counts: the ready ones, then the oldest.
    fn status_order(&self, pod: &Pod) -> (bool, i64, String) {
        (!pods::is_ready(pod), crate::meta::created_at(&pod.metadata), name(pod).to_string())
    }

    fn clean_up(&self, history: &History) -> Vec<Action> {
        let live: FxHashSet<&str> =
            self.by_node.values().flatten().filter_map(|pod| label(pod.as_ref(), HASH_LABEL)).collect();
        let limit = self.set.spec.as_ref().and_then(|spec| spec.revision_history_limit);
        history::clean_up(&history.old, limit, |revision| {
            label(revision, HASH_LABEL).is_some_and(|hash| live.contains(hash))
        })
    }
}
