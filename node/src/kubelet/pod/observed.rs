//! What the runtime and the probes say about one pod at one instant. Built by the shell from CRI answers;
//! lists are newest first.

use std::collections::BTreeMap;

use jiff::Timestamp;

/// The runtime's word on a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Made, not started.
    Created,
    /// Its process runs.
    Running,
    /// Its process ended.
    Exited,
    /// The runtime cannot tell.
    Unknown,
}

impl State {
    /// The word upstream uses in messages.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Created => "created",
            State::Running => "running",
            State::Exited => "exited",
            State::Unknown => "unknown",
        }
    }
}

/// One pod sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sandbox {
    /// The runtime's id.
    pub id: String,
    /// Counts the pod's sandboxes from 0.
    pub attempt: u32,
    /// The sandbox and its network work.
    pub ready: bool,
    /// When the runtime made it.
    pub created_at: Timestamp,
    /// Addresses, primary first; empty on the host's network.
    pub ips: Vec<String>,
    /// It uses the machine's network.
    pub host_network: bool,
}

/// The user a container's first process runs as, where the runtime reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: i64,
    /// Primary group.
    pub gid: i64,
    /// Supplementary groups.
    pub groups: Vec<i64>,
}

/// One container, running or dead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// The runtime's id, without its scheme.
    pub id: String,
    /// The name in the spec.
    pub name: String,
    /// The sandbox it belongs to.
    pub sandbox_id: String,
    /// How often a container of this name was restarted before this one.
    pub restart_count: u32,
    /// What it does now.
    pub state: State,
    /// When the runtime made it.
    pub created_at: Timestamp,
    /// When its process started.
    pub started_at: Option<Timestamp>,
    /// When its process ended.
    pub finished_at: Option<Timestamp>,
    /// The exit code of an exited container.
    pub exit_code: i32,
    /// The runtime's short reason (`Completed`, `Error`, `OOMKilled`).
    pub reason: String,
    /// The termination message.
    pub message: String,
    /// The image's name as the runtime prints it.
    pub image: String,
    /// The image by digest.
    pub image_ref: String,
    /// [`super::spec::container_hash`] of the spec it was made from.
    pub hash: String,
    /// Who it runs as.
    pub user: Option<User>,
}

#[cfg(test)]
impl Container {
    /// The first container made from this spec, running since the beginning of time.
    pub fn running(id: &str, spec: &k8s_openapi::api::core::v1::Container) -> Self {
        Self {
            id: id.to_owned(),
            name: spec.name.clone(),
            sandbox_id: "s".to_owned(),
            restart_count: 0,
            state: State::Running,
            created_at: Timestamp::UNIX_EPOCH,
            started_at: Some(Timestamp::UNIX_EPOCH),
            finished_at: None,
            exit_code: 0,
            reason: String::new(),
            message: String::new(),
            image: String::new(),
            image_ref: String::new(),
            hash: super::spec::container_hash(spec),
            user: None,
        }
    }
}

/// Everything the runtime holds for one pod, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Every sandbox.
    pub sandboxes: Vec<Sandbox>,
    /// Every container of every sandbox.
    pub containers: Vec<Container>,
}

impl Observed {
    /// The newest container of that name.
    pub fn latest(&self, name: &str) -> Option<&Container> {
        self.containers.iter().find(|c| c.name == name)
    }

    /// The containers of that name, newest first.
    pub fn history<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Container> {
        self.containers.iter().filter(move |c| c.name == name)
    }

    /// Every container that may have a process.
    pub fn alive(&self) -> impl Iterator<Item = &Container> {
        self.containers.iter().filter(|c| matches!(c.state, State::Running | State::Unknown))
    }

    /// The sandbox the pod runs in: the newest, if ready.
    pub fn sandbox(&self) -> Option<&Sandbox> {
        self.sandboxes.first().filter(|s| s.ready)
    }

    /// Sorts newest first; the shell calls it once after collecting.
    pub fn sort(&mut self) {
        self.sandboxes.sort_by_key(|s| std::cmp::Reverse((s.created_at, s.attempt)));
        self.containers.sort_by_key(|c| std::cmp::Reverse((c.created_at, c.restart_count)));
    }
}

/// The standing results of one container's probes; `None` means no verdict so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProbeResult {
    /// Start-up probe.
    pub startup: Option<bool>,
    /// Readiness probe.
    pub readiness: Option<bool>,
    /// Liveness probe.
    pub liveness: Option<bool>,
}

/// Probe results by container id: a restarted container starts without verdicts.
pub type ProbeView = BTreeMap<String, ProbeResult>;
