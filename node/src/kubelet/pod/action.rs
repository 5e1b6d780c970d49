//! The vocabulary between the state machine of a pod and its shell: inputs, actions, outcomes, notices.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};

use super::container_status::Waiting;
use super::observed::{Observed, ProbeView};
use super::resize::Standing;
use super::spec::Kind;
use super::status::Failure;

/// Names an action under way.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ticket {
    /// Mounting the pod's volumes.
    Volumes,
    /// Making the sandbox.
    Sandbox,
    /// Starting a container, by name.
    Start(String),
    /// Applying changed resources to a container, by id.
    Resize(String),
    /// Killing a container, by id.
    Kill(String),
    /// Stopping a sandbox, by id.
    StopSandbox(String),
    /// Removing a container or sandbox, by id.
    Remove(String),
    /// Unmounting volumes, removing cgroup and folders.
    Teardown,
}

/// What the shell must do. Each ends in one [`Machine::outcome`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Mount every volume of the pod.
    PrepareVolumes,
    /// Make the pod's sandbox.
    CreateSandbox {
        /// Counts the pod's sandboxes.
        attempt: u32,
    },
    /// Pull the image, create and start the container, run its postStart hook.
    StartContainer {
        /// Its name in the spec.
        name: String,
        /// Where in the spec it stands.
        kind: Kind,
        /// How often it was restarted before.
        restart_count: u32,
    },
    /// Give a running container the resources promised.
    ResizeContainer {
        /// The runtime's id.
        id: String,
        /// Its name in the spec.
        name: String,
    },
    /// Run the preStop hook and stop the container.
    KillContainer {
        /// The runtime's id.
        id: String,
        /// Its name in the spec.
        name: String,
        /// Seconds for hook and TERM together.
        grace_secs: i64,
        /// What the event says.
        message: String,
    },
    /// Stop a sandbox and release its network.
    StopSandbox {
        /// The runtime's id.
        id: String,
    },
    /// Remove a dead container and its log.
    RemoveContainer {
        /// The runtime's id.
        id: String,
    },
    /// Remove a stopped sandbox.
    RemoveSandbox {
        /// The runtime's id.
        id: String,
    },
    /// Unmount the volumes, remove the pod's cgroup.
    Teardown,
}

impl Action {
    /// The ticket its outcome carries.
    pub fn ticket(&self) -> Ticket {
        match self {
            Action::PrepareVolumes => Ticket::Volumes,
            Action::CreateSandbox { .. } => Ticket::Sandbox,
            Action::StartContainer { name, .. } => Ticket::Start(name.clone()),
            Action::ResizeContainer { id, .. } => Ticket::Resize(id.clone()),
            Action::KillContainer { id, .. } => Ticket::Kill(id.clone()),
            Action::StopSandbox { id } => Ticket::StopSandbox(id.clone()),
            Action::RemoveContainer { id } | Action::RemoveSandbox { id } => Ticket::Remove(id.clone()),
            Action::Teardown => Ticket::Teardown,
        }
    }
}

/// How an action ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It did what it should.
    Done,
    /// It failed; the reason is what a waiting container shows.
    Failed(Waiting),
    /// The image could not be pulled; the image's back-off counts.
    PullFailed(Waiting),
}

/// Why a pod must end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stop {
    /// Seconds its containers get.
    pub grace_secs: i64,
    /// The failure its status shows, for evictions.
    pub failure: Option<Failure>,
    /// The pod is wanted gone: everything of it is removed at the end.
    pub delete: bool,
}

/// What a step looks at.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    /// The desired pod with the API's status and the resources it is promised.
    pub pod: &'a Pod,
    /// What the runtime holds.
    pub observed: &'a Observed,
    /// The standing probe results.
    pub probes: &'a ProbeView,
    /// Set when the pod must end.
    pub stop: Option<&'a Stop>,
    /// Set when this machine does not accept the pod.
    pub rejected: Option<&'a Failure>,
    /// The machine's addresses, primary first.
    pub host_ips: &'a [String],
    /// The runtime's name, the scheme of container ids.
    pub runtime: &'a str,
    /// Why it is not promised the resources it wants, if so.
    pub pending: Option<&'a Standing>,
    /// Now.
    pub now: Timestamp,
}

/// Something to tell the user about the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// A problem, not just news.
    pub warning: bool,
    /// The event's reason.
    pub reason: &'static str,
    /// The event's message.
    pub message: String,
    /// The container it is about.
    pub container: Option<String>,
}

/// What a step decides.
#[derive(Clone, Debug, Default)]
pub struct Output {
    /// Start these now.
    pub actions: Vec<Action>,
    /// The pod's status now.
    pub status: Arc<PodStatus>,
    /// Events to record.
    pub notices: Vec<Notice>,
    /// Step again at this time at the latest.
    pub wake_at: Option<Timestamp>,
    /// The pod is ending: starts under way are not wanted any more.
    pub ending: bool,
    /// Nothing of the pod is left but its API object.
    pub finished: bool,
}

impl Output {
    /// Asks for a step at `at` at the latest.
    pub(super) fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |w| w.min(at)));
    }

    /// Adds an event.
    pub(super) fn notice(
        &mut self,
        warning: bool,
        reason: &'static str,
        message: String,
        container: Option<&str>,
    ) {
        self.notices.push(Notice { warning, reason, message, container: container.map(str::to_owned) });
    }
}
