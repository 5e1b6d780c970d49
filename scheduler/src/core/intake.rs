//! What the informers tell the machine, and what follows from it for cluster, queue and waiting pods.
//!
//! Owns the translation of object versions into cluster events (what has changed, whom it can help).

use std::sync::Arc;

use super::cluster::Uid;
use super::events::{Event, NodeChange, PodChange};
use super::hints::{EventPod, Occurrence, Payload};
use super::labels::{Labels, Selector};
use super::preempt::Budget;
use super::scheduler::Scheduler;
use super::spec::{NodeInput, OwnerKind, PodInput, PodSpec, Resources, TimeMs};
use super::storage::StorageInput;

/// One message of an informer.
#[derive(Debug)]
pub enum Intake {
    Pod(Box<PodInput>),
    PodDeleted { uid: Uid },
    Node(Box<NodeInput>),
    NodeDeleted { name: Arc<str> },
    Namespace { name: Arc<str>, labels: Option<Labels> },
    Service { namespace: Arc<str>, name: Arc<str>, selector: Option<Vec<(Box<str>, Box<str>)>> },
    Owner { kind: OwnerKind, namespace: Arc<str>, name: Arc<str>, selector: Option<Selector> },
    Budget { budget: Box<Budget>, deleted: bool },
    Storage(Box<StorageInput>),
}

impl Scheduler {
    /// Takes in one message.
    pub fn apply(&mut self, intake: Intake, now: TimeMs) {
        match intake {
            Intake::Pod(pod) => self.pod(*pod, now),
            Intake::PodDeleted { uid } => self.pod_deleted(uid, now),
            Intake::Node(node) => self.node(*node, now),
            Intake::NodeDeleted { name } => self.node_deleted(&name, now),
            Intake::Namespace { name, labels } => self.cluster.set_namespace(name, labels),
            Intake::Service { namespace, name, selector } => {
                self.cluster.set_service(namespace, name, selector)
            }
            Intake::Owner { kind, namespace, name, selector } => {
                self.cluster.set_owner(kind, namespace, name, selector);
            }
            Intake::Budget { budget, deleted } => self.budget(*budget, deleted),
            Intake::Storage(input) => {
                for occurrence in self.storage.apply(*input) {
                    self.announce(occurrence, now);
                }
            }
        }
    }

    fn budget(&mut self, budget: Budget, deleted: bool) {
        self.budgets.retain(|b| b.namespace != budget.namespace || b.name != budget.name);
        if !deleted {
            self.budgets.push(budget);
        }
    }

    fn pod(&mut self, mut input: PodInput, now: TimeMs) {
        let spec = self.cluster.intern(std::mem::take(&mut input.spec));
        if input.node_name.is_empty() {
            self.waiting_pod(input, spec, now)
        } else {
            self.bound_pod(input, spec, now)
        }
    }

    fn bound_pod(&mut self, input: PodInput, spec: Arc<PodSpec>, now: TimeMs) {
        let uid = Uid::new(&input.uid);
        self.queue.remove(uid);
        self.storage.settle(uid);
        self.cluster.nominate(uid, spec.clone(), None);
        let known = self.cluster.find_pod(uid).map(|p| {
            let node = self.cluster.nodes.nodes[p.node as usize].name.clone();
            (node, p.spec.clone(), p.terminating, p.preempted, p.assumed, p.start_ms)
        });
        let Some((node, old_spec, terminating, preempted, assumed, start_ms)) = known else {
            let node = input.node_name.clone();
            self.cluster.add_pod(&input, spec.clone(), &node, false);
            return self.announce_pod(
                Event::AssignedPodAdd,
                None,
                Some(EventPod { uid, spec, placed: true }),
                now,
            );
        };
        let same = *node == *input.node_name
            && Arc::ptr_eq(&old_spec, &spec)
            && terminating == input.terminating
            && preempted == input.preempted
            && start_ms == input.start_ms;
        if same {
            self.cluster.confirm(uid, input.generation);
        } else {
            self.cluster.add_pod(&input, spec.clone(), &input.node_name, false);
        }
        if assumed {
            // The assumed pod was accounted already, but until now nobody was told that it is there.
            let pod = EventPod { uid, spec, placed: true };
            return self.announce_pod(Event::AssignedPodAdd, None, Some(pod), now);
        }
        for change in pod_changes(&old_spec, &spec, false) {
            let old = EventPod { uid, spec: old_spec.clone(), placed: true };
            let new = EventPod { uid, spec: spec.clone(), placed: true };
            self.announce_pod(Event::AssignedPodUpdate(change), Some(old), Some(new), now);
        }
    }

    fn announce_pod(&mut self, event: Event, old: Option<EventPod>, new: Option<EventPod>, now: TimeMs) {
        self.announce(Occurrence { event, payload: Payload::Pod { old, new } }, now);
    }

    fn waiting_pod(&mut self, input: PodInput, spec: Arc<PodSpec>, now: TimeMs) {
        let uid = Uid::new(&input.uid);
        if self.profile_of(&spec.scheduler_name).is_none() {
            return;
        }
        let input = Arc::new(input);
        if self.cluster.find_pod(uid).is_some_and(|p| p.assumed) {
            self.queue.replace(input.clone(), spec);
            return if input.terminating {
                self.forget_assumed(uid, now)
            };
        }
        let Some(waiting) = self.queue.get(uid) else {
            let node = Some(&*input.nominated_node).filter(|n| !n.is_empty());
            self.cluster.nominate(uid, spec.clone(), node);
            return self.queue.add(input, spec, now);
        };
        let (old_input, old_spec) = (waiting.input.clone(), waiting.spec.clone());
        if old_input.version == input.version {
            return;
        }
        let condition_seen = input.condition.clone();
        self.renominate(uid, &old_input, &input, &spec);
        self.queue.replace(input.clone(), spec.clone());
        if let Some(condition) = condition_seen {
            self.queue.set_condition(uid, condition);
        }
        let gates_gone = !old_input.gates.is_empty() && input.gates.is_empty();
        for change in pod_changes(&old_spec, &spec, gates_gone) {
            let pod = |spec: &Arc<PodSpec>| Some(EventPod { uid, spec: spec.clone(), placed: false });
            let payload = Payload::Pod { old: pod(&old_spec), new: pod(&spec) };
            self.announce_to(uid, &Occurrence { event: Event::PodUpdate(change), payload }, now);
        }
        if !old_input.nominated_node.is_empty() && old_input.nominated_node != input.nominated_node {
            let gone = EventPod { uid, spec: old_spec, placed: true };
            self.announce_pod(Event::AssignedPodDelete, Some(gone), None, now);
        }
    }

    /// A nomination follows the API, except that one made here is kept until the API shows it.
    fn renominate(&mut self, uid: Uid, old: &PodInput, new: &PodInput, spec: &Arc<PodSpec>) {
        if old.nominated_node.is_empty() && new.nominated_node.is_empty() {
            if let Some(slot) = self.cluster.nominated_node(uid) {
                let node = self.cluster.nodes.nodes[slot as usize].name.clone();
                self.cluster.nominate(uid, spec.clone(), Some(&node));
            }
        } else {
            let node = Some(&*new.nominated_node).filter(|n| !n.is_empty());
            self.cluster.nominate(uid, spec.clone(), node);
        }
    }

    /// An assumed pod is being deleted: its place is free at once, whatever becomes of the binding.
    fn forget_assumed(&mut self, uid: Uid, now: TimeMs) {
        if let Some(pod) = self.cluster.remove_pod(uid) {
            self.storage.forget(uid);
            self.announce_pod(
                Event::AssignedPodDelete,
                Some(EventPod { uid, spec: pod.spec, placed: true }),
                None,
                now,
            );
        }
    }

    fn pod_deleted(&mut self, uid: Uid, now: TimeMs) {
        let nominated = self.cluster.nominated_node(uid).is_some();
        let waiting = self.queue.remove(uid);
        if let Some(pod) = &waiting {
            self.cluster.nominate(uid, pod.spec.clone(), None);
        }
        let spec = match self.cluster.remove_pod(uid) {
            Some(pod) => pod.spec,
            None => match waiting.filter(|_| nominated) {
                Some(pod) => pod.spec,
                None => return,
            },
        };
        self.storage.forget(uid);
        self.announce_pod(Event::AssignedPodDelete, Some(EventPod { uid, spec, placed: true }), None, now);
    }

    fn node(&mut self, input: NodeInput, now: TimeMs) {
        let old = self.cluster.nodes.find(&input.name).map(|slot| self.node_as_input(slot));
        if old.as_ref() == Some(&input) {
            return;
        }
        let (old, new) = (old.map(Arc::new), Arc::new(input.clone()));
        self.cluster.nodes.set(input);
        let events = match &old {
            None => vec![Event::NodeAdd],
            Some(old) => node_changes(old, &new).into_iter().map(Event::NodeUpdate).collect(),
        };
        for event in events {
            let payload = Payload::Node { old: old.clone(), new: Some(new.clone()) };
            self.announce(Occurrence { event, payload }, now);
        }
    }

    fn node_deleted(&mut self, name: &str, now: TimeMs) {
        let Some(slot) = self.cluster.nodes.find(name) else { return };
        let old = self.node_as_input(slot);
        let payload = Payload::Node { old: Some(Arc::new(old)), new: None };
        self.announce(Occurrence { event: Event::NodeDelete, payload }, now);
        self.cluster.withdraw_nominations(slot);
        self.cluster.nodes.remove(name);
    }

    /// The node object as it was last taken in.
    pub fn node_as_input(&self, slot: u32) -> NodeInput {
        let node = &self.cluster.nodes.nodes[slot as usize];
        let row = &self.cluster.nodes.rows[slot as usize];
        NodeInput {
            name: node.name.clone(),
            labels: node.labels.clone(),
            taints: node.taints.to_vec(),
            unschedulable: node.unschedulable,
            allocatable: Resources {
                milli_cpu: row.cpu,
                memory: row.memory,
                ephemeral: row.ephemeral,
                scalars: self.cluster.nodes.allocatable_scalars(slot),
            },
            pods: row.pod_limit,
            images: node.images.clone(),
            features: node.features.clone(),
        }
    }
}

fn pod_changes(old: &Arc<PodSpec>, new: &Arc<PodSpec>, gates_gone: bool) -> Vec<PodChange> {
    let mut changes = Vec::new();
    if old.class.labels != new.class.labels {
        changes.push(PodChange::Label);
    }
    let (before, after) = (&old.local.requests, &new.local.requests);
    if before.milli_cpu > after.milli_cpu
        || before.memory > after.memory
        || before.ephemeral > after.ephemeral
        || before.scalars.iter().any(|(name, amount)| *amount > after.scalar(name))
    {
        changes.push(PodChange::ScaleDown);
    }
    if gates_gone {
        changes.push(PodChange::GatesEliminated);
    }
    if old.local.tolerations.len() != new.local.tolerations.len() {
        changes.push(PodChange::Toleration);
    }
    if changes.is_empty() {
        changes.push(PodChange::Other);
    }
    changes
}

fn node_changes(old: &NodeInput, new: &NodeInput) -> Vec<NodeChange> {
    let mut changes = Vec::new();
    let schedulable_again = old.unschedulable && !new.unschedulable;
    if old.allocatable != new.allocatable || old.pods != new.pods {
        changes.push(NodeChange::Allocatable);
    }
    if old.labels != new.labels {
        changes.push(NodeChange::Label);
    }
    if old.taints != new.taints || schedulable_again {
        changes.push(NodeChange::Taint);
    }
    if old.features != new.features {
        changes.push(NodeChange::Features);
    }
    changes
}
