//! In-place resize: a running container whose resources in the spec differ from those it was given gets the new
//! ones, or is restarted where its policy says so.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container as ContainerSpec, Pod, ResourceRequirements};

use super::observed::{Observed, State};
use super::spec::{self, Kind};

/// The resources each running container was given, by its id.
pub type Given = BTreeMap<String, ResourceRequirements>;

/// What this machine says to changed resources.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Verdict {
    /// There is room for them now.
    #[default]
    Feasible,
    /// There will be room once others leave. The text is upstream's.
    Deferred(String),
    /// There never will be.
    Infeasible(String),
}

/// Where a resize stands, as a condition of the pod shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// `PodResizePending`, with reason and message.
    Pending(&'static str, String),
    /// `PodResizeInProgress`, with the last error if there was one.
    InProgress(Option<String>),
}

impl Verdict {
    /// What keeps the resize from beginning.
    pub fn pending(self) -> Option<Standing> {
        match self {
            Verdict::Feasible => None,
            Verdict::Deferred(message) => Some(Standing::Pending("Deferred", message)),
            Verdict::Infeasible(message) => Some(Standing::Pending("Infeasible", message)),
        }
    }
}

/// What a changed container needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resize {
    /// New settings for the running process.
    InPlace {
        /// The runtime's id.
        id: String,
        /// Its name in the spec.
        name: String,
    },
    /// A new process.
    Restart {
        /// The runtime's id.
        id: String,
        /// Its name in the spec.
        name: String,
    },
}

/// Notes containers seen for the first time (they were started with the spec's resources) and forgets those
/// that are gone.
pub fn note(given: &mut Given, pod: &Pod, observed: &Observed) {
    given.retain(|id, _| observed.alive().any(|c| c.id == *id));
    for container in observed.containers.iter().filter(|c| c.state == State::Running) {
        if !given.contains_key(&container.id)
            && let Some((_, spec)) = spec::find_container(pod, &container.name)
        {
            given.insert(container.id.clone(), spec.resources.unwrap_or_default());
        }
    }
}

/// The containers whose resources changed.
pub fn plan(given: &Given, pod: &Pod, observed: &Observed) -> Vec<Resize> {
    let mut changes = Vec::new();
    for container in observed.containers.iter().filter(|c| c.state == State::Running) {
        let Some(old) = given.get(&container.id) else { continue };
        let Some((Kind::Regular | Kind::Sidecar, spec)) = spec::find_container(pod, &container.name) else {
            continue;
        };
        let new = spec.resources.clone().unwrap_or_default();
        let same_definition = container.hash == spec::container_hash(&spec);
        if *old == new || !same_definition {
            continue;
        }
        let (id, name) = (container.id.clone(), container.name.clone());
        changes.push(if needs_restart(&spec, old, &new) {
            Resize::Restart { id, name }
        } else {
            Resize::InPlace { id, name }
        });
    }
    changes
}

fn needs_restart(spec: &ContainerSpec, old: &ResourceRequirements, new: &ResourceRequirements) -> bool {
    spec.resize_policy.iter().flatten().any(|policy| {
        let of =
            |list: &Option<BTreeMap<_, _>>| list.as_ref().and_then(|l| l.get(&policy.resource_name)).cloned();
        let changed = of(&old.requests) != of(&new.requests) || of(&old.limits) != of(&new.limits);
        changed && policy.restart_policy == "RestartContainer"
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubelet::pod::observed::Container;
    use jiff::Timestamp;
    use serde_json::json;

    fn pod(cpu: &str, memory: &str) -> Pod {
        serde_json::from_value(json!({"spec": {"containers": [{"name": "c",
            "resizePolicy": [{"resourceName": "memory", "restartPolicy": "RestartContainer"}],
            "resources": {"limits": {"cpu": cpu, "memory": memory}}}]}}))
        .expect("a pod")
    }

    #[test]
    fn changes_follow_the_policy() {
        let before = pod("1", "1Gi");
        let container = Container {
            id: "id".into(),
            name: "c".into(),
            sandbox_id: String::new(),
            restart_count: 0,
            state: State::Running,
            created_at: Timestamp::UNIX_EPOCH,
            started_at: None,
            finished_at: None,
            exit_code: 0,
            reason: String::new(),
            message: String::new(),
            image: String::new(),
            image_ref: String::new(),
            hash: spec::container_hash(&spec::containers(&before)[0]),
            user: None,
        };
        let observed = Observed { sandboxes: vec![], containers: vec![container] };
        let mut given = Given::new();
        note(&mut given, &before, &observed);
        let (id, name) = ("id".to_owned(), "c".to_owned());
        assert_eq!(plan(&given, &before, &observed), []);
        let in_place = Resize::InPlace { id: id.clone(), name: name.clone() };
        assert_eq!(plan(&given, &pod("2", "1Gi"), &observed), [in_place]);
        assert_eq!(plan(&given, &pod("1", "2Gi"), &observed), [Resize::Restart { id, name }]);
    }
}
