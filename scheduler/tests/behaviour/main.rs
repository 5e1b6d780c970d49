//! The core's behaviour, case by case: plugins, queue and hints, preemption, volumes. Objects are written as the
//! API has them and go through the same conversion as in production.

mod plugins;
mod preemption;
mod queue;
mod volumes;

use scheduler::core::intake::Intake;
use scheduler::core::profile::Profile;
use scheduler::core::queue::Backoff;
use scheduler::core::scheduler::{Command, Scheduler};
use scheduler::core::spec::PodInput;
use scheduler::shell::kinds::Kind;
use scheduler::shell::{convert, wire};
use serde_json::{Value, json};

/// A core with hands.
pub struct Bed {
    pub core: Scheduler,
    pub now: i64,
    uids: u64,
}

/// What one scheduling attempt came to.
#[derive(Debug, PartialEq)]
pub enum Outcome {
    Bound(String),
    Refused(String),
    /// Victims' names, and the node.
    Preempting(Vec<String>, String),
    Nothing,
}

impl Bed {
    fn new() -> Self {
        let profiles = vec![Profile::default_for("default-scheduler")];
        Bed { core: Scheduler::new(profiles, Backoff::default(), 7), now: 1_000_000, uids: 0 }
    }

    /// Takes in an object of a kind.
    pub fn give<K: Kind>(&mut self, object: Value) {
        let object: K = serde_json::from_value(object).expect("an object");
        self.core.apply(object.present(), self.now);
    }

    pub fn take<K: Kind>(&mut self, object: Value) {
        let object: K = serde_json::from_value(object).expect("an object");
        self.core.apply(object.gone(), self.now);
    }

    /// A node with labels `hostname` and, after a slash, a zone: `a/z1`.
    pub fn node(&mut self, name: &str, patch: Value) {
        let (name, zone) = name.split_once('/').unwrap_or((name, "z"));
        let mut node = json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": zone}},
            "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "10"}},
        });
        merge(&mut node, patch);
        self.give::<wire::Node>(node);
    }

    pub fn input(&mut self, name: &str, patch: Value) -> PodInput {
        self.uids += 1;
        let mut pod = json!({
            "metadata": {"name": name, "namespace": "ns", "resourceVersion": self.uids.to_string(),
                         "uid": format!("00000000-0000-0000-0000-{:012}", self.uids)},
            "spec": {"containers": [{"name": "c", "image": "i"}]},
        });
        merge(&mut pod, patch);
        let pod: wire::Pod = serde_json::from_value(pod).expect("a pod");
        convert::pod(&pod).expect("a pod that has not ended")
    }

    /// Creates a pod; with `spec.nodeName` it is bound.
    pub fn pod(&mut self, name: &str, patch: Value) -> PodInput {
        let input = self.input(name, patch);
        self.core.apply(Intake::Pod(Box::new(input.clone())), self.now);
        input
    }

    pub fn delete(&mut self, pod: &PodInput) {
        let uid = scheduler::core::cluster::Uid::new(&pod.uid);
        self.core.apply(Intake::PodDeleted { uid }, self.now);
    }

    pub fn commands(&mut self) -> Vec<Command> {
        self.core.queue.tick(self.now);
        self.core.schedule_one(self.now).unwrap_or_default()
    }

    /// Schedules one pod.
    pub fn step(&mut self) -> Outcome {
        let commands = self.commands();
        let names =
            |pods: &[scheduler::core::scheduler::PodRef]| pods.iter().map(|p| p.name.to_string()).collect();
        let mut outcome = Outcome::Nothing;
        for command in &commands {
            match command {
                Command::Bind { node, .. } => outcome = Outcome::Bound(node.to_string()),
                Command::Preempt { victims, node, .. } => {
                    outcome = Outcome::Preempting(names(victims), node.to_string());
                }
                Command::Report { message, .. } if outcome == Outcome::Nothing => {
                    outcome = Outcome::Refused(message.clone());
                }
                _ => {}
            }
        }
        outcome
    }
}

/// Lays `patch` over `base`, object by object.
pub fn merge(base: &mut Value, patch: Value) {
    match (base, patch) {
        (Value::Object(base), Value::Object(patch)) => {
            for (key, value) in patch {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, patch) => *base = patch,
    }
}

/// Requests of the only container.
pub fn requests(amounts: Value) -> Value {
    json!({"spec": {"containers": [{"name": "c", "image": "i", "resources": {"requests": amounts}}]}})
}

pub fn and(mut base: Value, patch: Value) -> Value {
    merge(&mut base, patch);
    base
}
