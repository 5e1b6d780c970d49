//! The API statuses of a pod's containers from the runtime's view, the reasons containers wait for, and the
//! statuses reported before.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container as ContainerSpec, ContainerState, ContainerStateRunning, ContainerStateTerminated,
    ContainerStateWaiting, ContainerStatus, ContainerUser, LinuxContainerUser, Pod, PodStatus,
    VolumeMountStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::observed::{Container, Observed, ProbeView, State};
use super::resize::{Given, Standing};
use super::restart::{reported_restart_of_all, restarts_all, should_start};
use super::spec::{self, Kind};

/// The reason of containers that went because all of a pod are restarted in place.
pub const RESTARTING_ALL: &str = "RestartingAllContainers";
/// What it means, in upstream's words.
const RESTARTING_ALL_TEXT: &str = "The container is removed because RestartAllContainers in place";
/// Exit code reported when a container vanished without a trace.
const EXIT_CODE_LOST: i32 = 137;

/// Why a container is not running although it should: a reason and a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// `CrashLoopBackOff`, `ErrImagePull`, `CreateContainerConfigError`…
    pub reason: String,
    /// What happened, for people.
    pub message: String,
}

/// The three status lists of a pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Statuses {
    /// Of `spec.initContainers`, in spec order.
    pub init: Vec<ContainerStatus>,
    /// Of `spec.containers`, by name.
    pub regular: Vec<ContainerStatus>,
    /// Of `spec.ephemeralContainers`, by name.
    pub ephemeral: Vec<ContainerStatus>,
}

impl Statuses {
    /// Init and regular statuses together.
    pub fn all(&self) -> impl Iterator<Item = &ContainerStatus> + Clone {
        self.init.iter().chain(&self.regular)
    }

    /// One status by name.
    pub fn get(&self, name: &str) -> Option<&ContainerStatus> {
        self.all().find(|s| s.name == name)
    }
}

/// What the statuses are computed from.
pub struct StatusInputs<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// What the runtime holds.
    pub observed: &'a Observed,
    /// The standing probe results.
    pub probes: &'a ProbeView,
    /// Why containers wait, by name.
    pub waiting: &'a BTreeMap<String, Waiting>,
    /// What running containers were given.
    pub given: &'a Given,
    /// Where changes of resources stand.
    pub resizes: Vec<&'a Standing>,
    /// The statuses reported before.
    pub old: &'a PodStatus,
    /// The runtime's name, the scheme of container ids.
    pub runtime: &'a str,
    /// The pod is ending: nothing will be started any more.
    pub ending: bool,
}

/// Computes the statuses of every container.
pub fn container_statuses(inputs: &StatusInputs<'_>) -> Statuses {
    let has_init = !spec::init_containers(inputs.pod).is_empty();
    let old = |list: &Option<Vec<ContainerStatus>>| list.clone().unwrap_or_default();
    let old_init = old(&inputs.old.init_container_statuses);
    let init = spec::init_containers(inputs.pod)
        .iter()
        .map(|c| {
            let kind = if spec::is_sidecar(c) { Kind::Sidecar } else { Kind::Init };
            one(inputs, c, kind, find(&old_init, &c.name), has_init)
        })
        .collect();
    let old_regular = old(&inputs.old.container_statuses);
    let mut regular: Vec<_> = spec::containers(inputs.pod)
        .iter()
        .map(|c| one(inputs, c, Kind::Regular, find(&old_regular, &c.name), has_init))
        .collect();
    let old_ephemeral = old(&inputs.old.ephemeral_container_statuses);
    let mut ephemeral: Vec<_> = spec::ephemeral_containers(inputs.pod)
        .iter()
        .map(spec::ephemeral_as_container)
        .map(|c| one(inputs, &c, Kind::Ephemeral, find(&old_ephemeral, &c.name), false))
        .collect();
    regular.sort_by(|a, b| a.name.cmp(&b.name));
    ephemeral.sort_by(|a, b| a.name.cmp(&b.name));
    Statuses { init, regular, ephemeral }
}

fn find<'a>(list: &'a [ContainerStatus], name: &str) -> Option<&'a ContainerStatus> {
    list.iter().find(|s| s.name == name)
}

fn one(
    inputs: &StatusInputs<'_>,
    container: &ContainerSpec,
    kind: Kind,
    old: Option<&ContainerStatus>,
    has_init: bool,
) -> ContainerStatus {
    let mut history = inputs.observed.history(&container.name);
    let newest = history.next();
    let mut status = match (newest, old) {
        (Some(current), _) => from_runtime(inputs.runtime, current, old, has_init),
        (None, Some(old)) if is_reset(inputs, old) => reset(container, old),
        (None, _) => without_runtime(container, old, has_init),
    };
    if let Some(previous) = history.find(|c| c.state == State::Exited) {
        status.last_state = Some(terminated(inputs.runtime, previous));
    }
    status.volume_mounts = volume_mounts(container);
    let may_start = !inputs.ending && should_start(container, inputs.pod, newest);
    let unfinished =
        kind != Kind::Init || newest.is_none_or(|c| c.state != State::Exited || c.exit_code != 0);
    if let Some(waiting) = inputs.waiting.get(&container.name).filter(|_| may_start && unfinished) {
        if status.state.as_ref().is_some_and(|s| s.terminated.is_some()) {
            status.last_state = status.state.take();
        }
        status.state = Some(waiting_state(&waiting.reason, Some(&waiting.message)));
    }
    let given = newest.and_then(|c| inputs.given.get(&c.id)).map(|share| &share.own);
    let given = given.or(container.resources.as_ref()).cloned().unwrap_or_default();
    status.allocated_resources = container.resources.as_ref().and_then(|r| r.requests.clone());
    // Also where it is empty: by this servers tell that the node can change it.
    status.resources = newest.map(|_| given);
    apply_probes(&mut status, container, kind, newest, inputs.probes);
    status
}

fn from_runtime(
    runtime: &str,
    current: &Container,
    old: Option<&ContainerStatus>,
    has_init: bool,
) -> ContainerStatus {
    let state = match current.state {
        State::Running => ContainerState {
            running: Some(ContainerStateRunning { started_at: current.started_at.map(Time) }),
            ..Default::default()
        },
        State::Exited => terminated(runtime, current),
        State::Unknown if old.and_then(|o| o.state.as_ref()).is_some_and(|s| s.running.is_some()) => lost(),
        // Upstream's workers do not look while they start a container: nobody sees it without a reason.
        State::Created => waiting_state(not_yet(has_init), None),
        State::Unknown => waiting_state("", None),
    };
    ContainerStatus {
        name: current.name.clone(),
        restart_count: i32::try_from(current.restart_count).unwrap_or(i32::MAX),
        image: current.image.clone(),
        image_id: current.image_ref.clone(),
        container_id: Some(format!("{runtime}://{}", current.id)),
        state: Some(state),
        last_state: old.and_then(|o| o.last_state.clone()).or_else(|| Some(ContainerState::default())),
        user: current.user.as_ref().map(|user| ContainerUser {
            linux: Some(LinuxContainerUser {
                uid: user.uid,
                gid: user.gid,
                supplemental_groups: Some(user.groups.clone()),
            }),
        }),
        ..Default::default()
    }
}

/// The status of a container the runtime does not (or no longer) know.
fn without_runtime(
    container: &ContainerSpec,
    old: Option<&ContainerStatus>,
    has_init: bool,
) -> ContainerStatus {
    let mut status = ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        state: Some(waiting_state(not_yet(has_init), None)),
        last_state: Some(ContainerState::default()),
        ..Default::default()
    };
    let Some(old) = old else { return status };
    let old_state = old.state.clone().unwrap_or_default();
    if old_state.terminated.is_some() {
        return old.clone();
    }
    status.restart_count = old.restart_count;
    status.last_state.clone_from(&old.last_state);
    if old_state.running.is_some() {
        // It ran and is gone without a trace: it must not look as if it had never run.
        status.last_state = Some(lost());
        status.restart_count += 1;
    }
    status
}

/// The reason of a container that has not been started and of which nothing else is known.
fn not_yet(has_init: bool) -> &'static str {
    if has_init { "PodInitializing" } else { "ContainerCreating" }
}

/// True if a container is gone because all of its pod's are restarted, and that was not reported yet.
fn is_reset(inputs: &StatusInputs<'_>, old: &ContainerStatus) -> bool {
    let waits = old.state.as_ref().is_some_and(|s| s.waiting.is_some());
    let restarting =
        || restarts_all(inputs.pod, inputs.observed) || reported_restart_of_all(inputs.pod, inputs.old);
    !waits && !inputs.ending && restarting()
}

/// The status of a container that was removed to be started anew with all others.
fn reset(container: &ContainerSpec, old: &ContainerStatus) -> ContainerStatus {
    let ended = ContainerStateTerminated {
        reason: Some(RESTARTING_ALL.into()),
        message: Some(RESTARTING_ALL_TEXT.into()),
        exit_code: EXIT_CODE_LOST,
        ..Default::default()
    };
    ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        state: Some(waiting_state(RESTARTING_ALL, Some(RESTARTING_ALL_TEXT))),
        last_state: Some(ContainerState { terminated: Some(ended), ..Default::default() }),
        restart_count: old.restart_count + 1,
        ..Default::default()
    }
}

fn waiting_state(reason: &str, message: Option<&str>) -> ContainerState {
    ContainerState {
        waiting: Some(ContainerStateWaiting {
            reason: (!reason.is_empty()).then(|| reason.to_owned()),
            message: message.filter(|m| !m.is_empty()).map(str::to_owned),
        }),
        ..Default::default()
    }
}

pub(super) fn lost() -> ContainerState {
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            reason: Some("ContainerStatusUnknown".into()),
            message: Some("The container could not be located when the pod was terminated".into()),
            exit_code: EXIT_CODE_LOST,
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn terminated(runtime: &str, container: &Container) -> ContainerState {
    let text = |s: &str| (!s.is_empty()).then(|| s.to_owned());
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            exit_code: container.exit_code,
            reason: text(&container.reason),
            message: text(&container.message),
            started_at: container.started_at.map(Time),
            finished_at: container.finished_at.map(Time),
            container_id: Some(format!("{runtime}://{}", container.id)),
            signal: None,
        }),
        ..Default::default()
    }
}

fn volume_mounts(container: &ContainerSpec) -> Option<Vec<VolumeMountStatus>> {
    let mounts = container.volume_mounts.as_ref()?;
    let status = mounts.iter().map(|m| {
        let read_only = m.read_only == Some(true);
        VolumeMountStatus {
            name: m.name.clone(),
            mount_path: m.mount_path.clone(),
            read_only: m.read_only,
            recursive_read_only: read_only.then(|| match m.recursive_read_only.as_deref() {
                Some("Enabled") => "Enabled".to_owned(),
                _ => "Disabled".to_owned(),
            }),
            ..Default::default()
        }
    });
    Some(status.collect())
}

fn apply_probes(
    status: &mut ContainerStatus,
    container: &ContainerSpec,
    kind: Kind,
    newest: Option<&Container>,
    probes: &ProbeView,
) {
    let state = status.state.clone().unwrap_or_default();
    if kind == Kind::Init {
        status.started = Some(state.running.is_some());
        status.ready = state.terminated.is_some_and(|t| t.exit_code == 0);
        return;
    }
    let running = state.running.is_some();
    if kind == Kind::Ephemeral {
        status.started = Some(running);
        return;
    }
    let results = newest.and_then(|c| probes.get(&c.id)).copied().unwrap_or_default();
    let started = running && (container.startup_probe.is_none() || results.startup == Some(true));
    status.started = Some(started);
    status.ready = started && (container.readiness_probe.is_none() || results.readiness == Some(true));
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_container_that_is_being_started_says_why_it_waits() {
        let check = |init: Value, expected: &str| {
            let spec = json!({"initContainers": init, "containers": [{"name": "c"}]});
            let pod: Pod = serde_json::from_value(json!({"spec": spec})).expect("a pod");
            let made = |id: &str, state| Container {
                state,
                exit_code: 255,
                finished_at: (state == State::Exited).then_some(Timestamp::UNIX_EPOCH),
                ..Container::running(id, &spec::containers(&pod)[0])
            };
            // As after a reboot: the old one ended with the machine, the new one is about to be started.
            let containers = vec![made("new", State::Created), made("old", State::Exited)];
            let statuses = container_statuses(&StatusInputs {
                pod: &pod,
                observed: &Observed { containers, ..Default::default() },
                probes: &ProbeView::new(),
                waiting: &BTreeMap::new(),
                given: &Given::default(),
                resizes: vec![],
                old: &PodStatus::default(),
                runtime: "r",
                ending: false,
            });
            let status = statuses.get("c").expect("a status");
            let waiting = status.state.as_ref().and_then(|s| s.waiting.as_ref()).expect("it waits");
            assert_eq!(waiting.reason.as_deref(), Some(expected));
            let last = status.last_state.as_ref().and_then(|s| s.terminated.as_ref()).expect("it ended");
            assert_eq!(last.exit_code, 255);
        };
        check(json!([]), "ContainerCreating");
        check(json!([{"name": "i"}]), "PodInitializing");
    }
}
