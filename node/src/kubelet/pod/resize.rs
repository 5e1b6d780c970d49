//! In-place resize: a running container whose promised resources ([`super::allocation`]) differ from those it was given
//! gets the new ones, or is restarted where its policy says so.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container as ContainerSpec, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::observed::{Container, Observed, State};
use super::spec::{self, Kind};
use crate::kubelet::quantity;

/// What changes while a container runs.
pub(super) const RESIZABLE: [&str; 2] = ["cpu", "memory"];

/// What a running container was given: resources of its own, and those of its pod as a whole, whose limits hold where it
/// has none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Share {
    /// The container's.
    pub own: ResourceRequirements,
    /// The pod's.
    pub pod: ResourceRequirements,
}

/// The share of each running container, by its id.
pub type Given = BTreeMap<String, Share>;

impl Share {
    /// What the spec wants the container to have.
    pub fn wanted(pod: &Pod, container: &ContainerSpec) -> Self {
        Self {
            own: container.resources.clone().unwrap_or_default(),
            pod: pod.spec.as_ref().and_then(|s| s.resources.clone()).unwrap_or_default(),
        }
    }

    /// True if it comes to the same, however it is written.
    fn equals(&self, other: &Self) -> bool {
        same_resources(&self.own, &other.own) && same_resources(&self.pod, &other.pod)
    }

    /// Request and limit of one resource as the container feels them.
    fn felt(&self, name: &str) -> (Option<i128>, Option<i128>) {
        let own = limit(&self.own, name).filter(|amount| *amount > 0);
        (request(&self.own, name), own.or_else(|| limit(&self.pod, name)))
    }
}

/// True if what can be resized comes to the same.
pub(super) fn same_resources(a: &ResourceRequirements, b: &ResourceRequirements) -> bool {
    RESIZABLE.into_iter().all(|name| request(a, name) == request(b, name) && limit(a, name) == limit(b, name))
}

fn request(resources: &ResourceRequirements, name: &str) -> Option<i128> {
    amount(resources.requests.as_ref(), name)
}

fn limit(resources: &ResourceRequirements, name: &str) -> Option<i128> {
    amount(resources.limits.as_ref(), name)
}

fn amount(list: Option<&BTreeMap<String, Quantity>>, name: &str) -> Option<i128> {
    list?.get(name).map(quantity::nano)
}

/// Where a resize stands, as a condition of the pod shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// `PodResizePending`, with reason and message.
    Pending(&'static str, String),
    /// `PodResizeInProgress`, with the last error if there was one.
    InProgress(Option<String>),
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

/// True for containers whose resources change while they run.
fn is_resizable(kind: Kind) -> bool {
    kind != Kind::Ephemeral
}

/// Notes containers seen for the first time and forgets those that are gone. `started_with` is what the last start of
/// each name gave, until the container is seen.
pub fn note(given: &mut Given, started_with: &mut BTreeMap<String, Share>, pod: &Pod, observed: &Observed) {
    given.retain(|id, _| observed.alive().any(|c| c.id == *id));
    for container in observed.containers.iter().filter(|c| c.state == State::Running) {
        let Some((kind, spec)) = spec::find_container(pod, &container.name) else { continue };
        if !is_resizable(kind) {
            continue;
        }
        let wanted = Share::wanted(pod, &spec);
        match given.get_mut(&container.id) {
            Some(share) if share.equals(&wanted) => *share = wanted,
            Some(_) => {}
            None => {
                let started = started_with.remove(&container.name);
                let known = reported(pod, container).or(started);
                given.insert(container.id.clone(), known.unwrap_or(wanted));
            }
        }
    }
}

/// What an agent before this one reported of this very container: the spec may have changed since. One that was never
/// reported was started with the spec's resources.
fn reported(pod: &Pod, container: &Container) -> Option<Share> {
    let status = pod.status.as_ref()?;
    let lists = status.init_container_statuses.iter().chain(&status.container_statuses);
    let id = |s: &str| s.rsplit("://").next() == Some(container.id.as_str());
    let known = lists.flatten().find(|s| s.container_id.as_deref().is_some_and(id))?;
    let wanted = pod.spec.as_ref().and_then(|s| s.resources.as_ref());
    Some(Share {
        own: known.resources.clone()?,
        pod: status.resources.clone().or_else(|| wanted.cloned()).unwrap_or_default(),
    })
}

/// The containers whose resources changed.
pub fn plan(given: &Given, pod: &Pod, observed: &Observed) -> Vec<Resize> {
    let mut changes = Vec::new();
    for container in observed.containers.iter().filter(|c| c.state == State::Running) {
        let Some(old) = given.get(&container.id) else { continue };
        let Some((kind, spec)) = spec::find_container(pod, &container.name) else { continue };
        let new = Share::wanted(pod, &spec);
        let same_definition = container.hash == spec::container_hash(&spec);
        if old.equals(&new) || !same_definition || !is_resizable(kind) {
            continue;
        }
        let (id, name) = (container.id.clone(), container.name.clone());
        changes.push(if kind != Kind::Init && needs_restart(&spec, old, &new) {
            Resize::Restart { id, name }
        } else {
            Resize::InPlace { id, name }
        });
    }
    changes
}

fn needs_restart(spec: &ContainerSpec, old: &Share, new: &Share) -> bool {
    spec.resize_policy.iter().flatten().any(|policy| {
        let name = policy.resource_name.as_str();
        old.felt(name) != new.felt(name) && policy.restart_policy == "RestartContainer"
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// A pod whose memory changes by a restart only.
    fn pod(own: &Value, level: &Value) -> Pod {
        serde_json::from_value(json!({"spec": {"resources": level, "containers": [{"name": "c",
            "resizePolicy": [{"resourceName": "memory", "restartPolicy": "RestartContainer"}],
            "resources": own}]}}))
        .expect("a pod")
    }

    fn running(pod: &Pod) -> Observed {
        let container = Container::running("id", &spec::containers(pod)[0]);
        Observed { sandboxes: vec![], containers: vec![container] }
    }

    #[test]
    fn changes_follow_the_policy() {
        let check = |(own, level): (Value, Value), (new_own, new_level): (Value, Value), expected: &str| {
            let before = pod(&own, &level);
            let observed = running(&before);
            let mut given = Given::new();
            note(&mut given, &mut BTreeMap::new(), &before, &observed);
            assert_eq!(plan(&given, &before, &observed), []);
            let got = match plan(&given, &pod(&new_own, &new_level), &observed).as_slice() {
                [] => "nothing",
                [Resize::InPlace { .. }] => "in place",
                [Resize::Restart { .. }] => "restart",
                more => panic!("{more:?}"),
            };
            assert_eq!(got, expected, "{own} {level} -> {new_own} {new_level}");
        };
        let limits = |cpu: &str, memory: &str| json!({"limits": {"cpu": cpu, "memory": memory}});
        let none = || json!(null);
        check((limits("1", "1Gi"), none()), (limits("2", "1Gi"), none()), "in place");
        check((limits("1", "1Gi"), none()), (limits("1", "2Gi"), none()), "restart");
        check((limits("1", "1Gi"), none()), (limits("1000m", "1024Mi"), none()), "nothing");
        // What the pod as a whole has bounds containers without limits of their own.
        check((none(), limits("1", "1Gi")), (none(), limits("2", "1Gi")), "in place");
        check((none(), limits("1", "1Gi")), (none(), limits("1", "2Gi")), "restart");
        check((limits("1", "1Gi"), limits("2", "2Gi")), (limits("1", "1Gi"), limits("2", "3Gi")), "in place");
        check((none(), none()), (none(), limits("1", "1Gi")), "restart");
    }

    #[test]
    fn what_an_earlier_agent_gave_counts_not_what_is_wanted_since() {
        let (old, new) = (json!({"limits": {"cpu": "1"}}), json!({"limits": {"cpu": "2"}}));
        let check = |reported: Value, expected: &Value| {
            let mut pod = pod(&new, &json!(null));
            pod.status =
                Some(serde_json::from_value(json!({"containerStatuses": [reported]})).expect("a status"));
            let mut given = Given::new();
            note(&mut given, &mut BTreeMap::new(), &pod, &running(&pod));
            assert_eq!(serde_json::to_value(&given["id"].own).expect("JSON"), *expected, "{pod:?}");
        };
        let status = |id: &str, resources: &Value| {
            json!({"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                "containerID": id, "resources": resources})
        };
        check(status("containerd://id", &old), &old);
        check(status("containerd://before", &old), &new);
        check(status("containerd://id", &json!(null)), &new);
    }
}
