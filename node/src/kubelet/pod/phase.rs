//! The pod's phase from the statuses of its containers.

use k8s_openapi::api::core::v1::{Container as ContainerSpec, ContainerStatus, Pod};

use super::container_status::{RESTARTING_ALL, Statuses};
use super::restart::policy_restarts;
use super::spec;

/// A pod's place in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not every container has started once.
    Pending,
    /// Every container has started and one runs or will run again.
    Running,
    /// Every container ended with 0, for good.
    Succeeded,
    /// Every container ended for good, one with a failure.
    Failed,
}

impl Phase {
    /// The API's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Pending => "Pending",
            Phase::Running => "Running",
            Phase::Succeeded => "Succeeded",
            Phase::Failed => "Failed",
        }
    }

    /// From the API's word.
    pub fn parse(text: &str) -> Option<Self> {
        [Phase::Pending, Phase::Running, Phase::Succeeded, Phase::Failed]
            .into_iter()
            .find(|p| p.as_str() == text)
    }

    /// No container will ever run again.
    pub fn is_terminal(self) -> bool {
        matches!(self, Phase::Succeeded | Phase::Failed)
    }
}

enum Seen {
    Running {
        started: bool,
    },
    Terminated {
        exit_code: i32,
    },
    Restarting {
        exit_code: i32,
    },
    /// Removed to be started anew with all others of its pod.
    Reset,
    Waiting,
    Unknown,
}

fn look(status: Option<&ContainerStatus>) -> Seen {
    let Some(status) = status else { return Seen::Unknown };
    let state = status.state.clone().unwrap_or_default();
    let last = status.last_state.as_ref().and_then(|s| s.terminated.as_ref());
    match (state.running, state.terminated, state.waiting) {
        (None, None, Some(_)) if last.is_some_and(|t| t.reason.as_deref() == Some(RESTARTING_ALL)) => {
            Seen::Reset
        }
        (Some(_), ..) => Seen::Running { started: status.started == Some(true) },
        (None, Some(t), _) => Seen::Terminated { exit_code: t.exit_code },
        (None, None, Some(_)) => last.map_or(Seen::Waiting, |t| Seen::Restarting { exit_code: t.exit_code }),
        (None, None, None) => Seen::Unknown,
    }
}

#[derive(Default)]
struct Counts {
    pending_init: usize,
    pending_sidecar: usize,
    init_failed_for_good: usize,
    unknown: usize,
    running: usize,
    waiting: usize,
    stopped: usize,
    stopped_for_good: usize,
    succeeded: usize,
}

impl Counts {
    fn init(&mut self, pod: &Pod, container: &ContainerSpec, seen: Seen) {
        match seen {
            Seen::Terminated { exit_code } | Seen::Restarting { exit_code } => {
                if exit_code != 0 && !policy_restarts(container, pod, exit_code) {
                    self.init_failed_for_good += 1;
                }
            }
            Seen::Reset => {}
            Seen::Running { .. } | Seen::Waiting | Seen::Unknown => self.pending_init += 1,
        }
    }

    fn sidecar(&mut self, known: bool, seen: Seen) {
        match seen {
            Seen::Running { started } => {
                self.pending_sidecar += usize::from(!started);
                self.running += 1;
            }
            Seen::Terminated { .. } | Seen::Restarting { .. } | Seen::Reset => {}
            Seen::Waiting => {
                self.pending_sidecar += 1;
                self.waiting += 1;
            }
            Seen::Unknown => {
                self.pending_sidecar += usize::from(known);
                self.unknown += 1;
            }
        }
    }

    fn regular(&mut self, pod: &Pod, container: &ContainerSpec, seen: Seen) {
        match seen {
            Seen::Running { .. } => self.running += 1,
            Seen::Terminated { exit_code } => {
                self.stopped += 1;
                self.stopped_for_good += usize::from(!policy_restarts(container, pod, exit_code));
                self.succeeded += usize::from(exit_code == 0);
            }
            Seen::Restarting { exit_code } => {
                self.stopped += 1;
                self.stopped_for_good += usize::from(!policy_restarts(container, pod, exit_code));
            }
            Seen::Reset => self.stopped += 1,
            Seen::Waiting => self.waiting += 1,
            Seen::Unknown => self.unknown += 1,
        }
    }
}

/// Computes the phase. `ending` means no container will be started again; `has_started` that a regular
/// container has run before, so that a restarting sidecar does not make the pod pending.
pub fn phase(pod: &Pod, statuses: &Statuses, ending: bool, has_started: bool) -> Phase {
    let mut counts = Counts::default();
    for container in spec::init_containers(pod) {
        let status = statuses.get(&container.name);
        if spec::is_sidecar(container) {
            counts.sidecar(status.is_some(), look(status));
        } else {
            counts.init(pod, container, look(status));
        }
    }
    for container in spec::containers(pod) {
        counts.regular(pod, container, look(statuses.get(&container.name)));
    }
    decide(&counts, ending && !spec::is_static(pod), has_started)
}

fn decide(counts: &Counts, ending: bool, has_started: bool) -> Phase {
    if counts.init_failed_for_good > 0 {
        return Phase::Failed;
    }
    let initializing = counts.pending_init > 0 || (counts.pending_sidecar > 0 && !has_started);
    if initializing || counts.waiting > 0 || counts.unknown > 0 {
        return Phase::Pending;
    }
    if counts.running > 0 {
        return Phase::Running;
    }
    if counts.stopped == 0 {
        return Phase::Pending;
    }
    if !ending && counts.stopped != counts.stopped_for_good {
        return Phase::Running;
    }
    if counts.stopped == counts.succeeded { Phase::Succeeded } else { Phase::Failed }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// States by container: `r` running, `0`/`1` exited, `w` waiting, `w1` waiting after exit 1, `-` none.
    fn check(policy: &str, init: &[(&str, bool, &str)], regular: &[(&str, &str)], expected: &str) {
        let status = |name: &str, state: &str| -> Option<ContainerStatus> {
            let body = match state {
                "-" => return None,
                "r" => json!({"state": {"running": {}}, "started": true}),
                "w" => json!({"state": {"waiting": {}}}),
                "w1" => json!({"state": {"waiting": {}}, "lastState": {"terminated": {"exitCode": 1}}}),
                code => json!({"state": {"terminated": {"exitCode": code.parse::<i32>().unwrap_or(9)}}}),
            };
            let mut status: ContainerStatus = serde_json::from_value(json!({"name": name, "image": "",
                "imageID": "", "ready": false, "restartCount": 0}))
            .expect("a status");
            let part: serde_json::Value = body;
            status.state = serde_json::from_value(part["state"].clone()).ok();
            status.last_state = serde_json::from_value(part["lastState"].clone()).ok();
            status.started = part["started"].as_bool();
            Some(status)
        };
        let pod: Pod = serde_json::from_value(json!({"spec": {"restartPolicy": policy,
            "initContainers": init.iter().map(|(n, sidecar, _)| if *sidecar
                { json!({"name": n, "restartPolicy": "Always"}) } else { json!({"name": n}) }).collect::<Vec<_>>(),
            "containers": regular.iter().map(|(n, _)| json!({"name": n})).collect::<Vec<_>>()}}))
        .expect("a pod");
        let statuses = Statuses {
            init: init.iter().filter_map(|(n, _, s)| status(n, s)).collect(),
            regular: regular.iter().filter_map(|(n, s)| status(n, s)).collect(),
            ephemeral: vec![],
        };
        for (ending, word) in [false, true].into_iter().zip(expected.split('/')) {
            assert_eq!(phase(&pod, &statuses, ending, false).as_str(), word, "{policy} {init:?} {regular:?}");
        }
    }

    #[test]
    fn regular_containers() {
        check("Always", &[], &[("a", "r")], "Running");
        check("Always", &[], &[("a", "w")], "Pending");
        check("Always", &[], &[("a", "-")], "Pending");
        check("Always", &[], &[("a", "w1")], "Running/Failed");
        check("Always", &[], &[("a", "0"), ("b", "r")], "Running");
        check("Always", &[], &[("a", "0")], "Running/Succeeded");
        check("Never", &[], &[("a", "0"), ("b", "0")], "Succeeded");
        check("Never", &[], &[("a", "0"), ("b", "1")], "Failed");
        check("OnFailure", &[], &[("a", "0"), ("b", "1")], "Running/Failed");
        check("Never", &[], &[("a", "r"), ("b", "-")], "Pending");
    }

    #[test]
    fn init_containers_and_sidecars() {
        check("Always", &[("i", false, "r")], &[("a", "w")], "Pending");
        check("Never", &[("i", false, "1")], &[("a", "w")], "Failed");
        check("Always", &[("i", false, "w1")], &[("a", "w")], "Pending");
        check("Always", &[("i", false, "0")], &[("a", "r")], "Running");
        check("Never", &[("s", true, "r")], &[("a", "0")], "Running");
        check("Never", &[("s", true, "0")], &[("a", "0")], "Succeeded");
        check("Always", &[("s", true, "w")], &[("a", "w")], "Pending");
    }
}
