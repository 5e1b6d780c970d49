//! The pod conditions the kubelet owns, in upstream's order, with upstream's reasons and messages.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::container_status::Statuses;
use super::observed::Observed;
use super::phase::Phase;
use super::plan::sandbox_needed;
use super::restart::{may_restart_all, restarts_all};
use super::spec;

/// The conditions that only the kubelet writes; all others of a pod are left as they are.
pub const OWNED: &[&str] = &[
    "PodScheduled",
    "Ready",
    "Initialized",
    "ContainersReady",
    "PodReadyToStartContainers",
    "PodResizePending",
    "PodResizeInProgress",
    RESTARTING,
];

/// The condition of a pod whose containers may all be restarted in place.
const RESTARTING: &str = "AllContainersRestarting";

struct Verdict {
    ok: bool,
    reason: &'static str,
    message: String,
}

const TRUE: Verdict = Verdict { ok: true, reason: "", message: String::new() };

fn no(reason: &'static str, message: String) -> Verdict {
    Verdict { ok: false, reason, message }
}

/// Computes the owned conditions. Transition times are kept from `old` where the status did not change.
pub fn conditions(
    pod: &Pod,
    observed: &Observed,
    statuses: &Statuses,
    phase: Phase,
    old: &PodStatus,
    now: Timestamp,
) -> Vec<PodCondition> {
    let containers_ready = containers_ready(pod, statuses, phase);
    let ready = if containers_ready.ok {
        readiness_gates(pod)
    } else {
        Verdict { message: containers_ready.message.clone(), ..containers_ready }
    };
    let to_start = Verdict { ok: sandbox_needed(pod, observed).is_none(), ..TRUE };
    let restarting = may_restart_all(pod).then(|| (RESTARTING, restarting(pod, observed, phase)));
    [
        ("PodReadyToStartContainers", to_start),
        ("Initialized", initialized(pod, statuses, phase, old)),
        ("Ready", ready),
        ("ContainersReady", containers_ready),
        ("PodScheduled", TRUE),
    ]
    .into_iter()
    .chain(restarting)
    .map(|(kind, verdict)| condition(pod, kind, &verdict, old, now))
    .collect()
}

fn condition(pod: &Pod, kind: &str, verdict: &Verdict, old: &PodStatus, now: Timestamp) -> PodCondition {
    let status = if verdict.ok { "True" } else { "False" };
    let before = old.conditions.iter().flatten().find(|c| c.type_ == kind && c.status == status);
    let text = |s: &str| (!s.is_empty()).then(|| s.to_owned());
    PodCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: text(verdict.reason),
        message: text(&verdict.message),
        observed_generation: pod.metadata.generation,
        last_transition_time: before.and_then(|c| c.last_transition_time.clone()).or(Some(Time(now))),
        last_probe_time: None,
    }
}

fn restarting(pod: &Pod, observed: &Observed, phase: Phase) -> Verdict {
    match phase {
        Phase::Succeeded => no("PodCompleted", String::new()),
        Phase::Failed => no("PodFailed", String::new()),
        _ if !restarts_all(pod, observed) => no("", String::new()),
        _ => Verdict {
            ok: true,
            reason: "RestartAllContainersStarted",
            message: "container exited with restart policy rule".into(),
        },
    }
}

fn go_list(names: &[&str]) -> String {
    format!("[{}]", names.join(" "))
}

fn join(parts: &[(&str, Vec<&str>)]) -> String {
    let parts: Vec<String> = parts
        .iter()
        .filter(|(_, names)| !names.is_empty())
        .map(|(what, names)| format!("containers with {what} status: {}", go_list(names)))
        .collect();
    parts.join(", ")
}

fn containers_ready(pod: &Pod, statuses: &Statuses, phase: Phase) -> Verdict {
    let (mut unknown, mut unready) = (Vec::new(), Vec::new());
    let sidecars = spec::init_containers(pod).iter().filter(|c| spec::is_sidecar(c));
    for container in sidecars.chain(spec::containers(pod)) {
        match statuses.get(&container.name) {
            None => unknown.push(container.name.as_str()),
            Some(status) if !status.ready => unready.push(container.name.as_str()),
            Some(_) => {}
        }
    }
    if phase == Phase::Succeeded && unknown.is_empty() {
        return no("PodCompleted", String::new());
    }
    if phase == Phase::Failed {
        return no("PodFailed", String::new());
    }
    let message = join(&[("unknown", unknown), ("unready", unready)]);
    if message.is_empty() { TRUE } else { no("ContainersNotReady", message) }
}

fn readiness_gates(pod: &Pod) -> Verdict {
    let status = spec::status(pod);
    let spec = spec::spec(pod);
    let messages: Vec<String> = spec
        .readiness_gates
        .iter()
        .flatten()
        .filter_map(|gate| {
            let kind = &gate.condition_type;
            let found = status.conditions.iter().flatten().find(|c| c.type_ == *kind);
            match found {
                None => {
                    Some(format!("corresponding condition of pod readiness gate \"{kind}\" does not exist."))
                }
                Some(c) if c.status != "True" => Some(format!(
                    "the status of pod readiness gate \"{kind}\" is not \"True\", but {}",
                    c.status
                )),
                Some(_) => None,
            }
        })
        .collect();
    if messages.is_empty() { TRUE } else { no("ReadinessGatesNotReady", messages.join(", ")) }
}

fn initialized(pod: &Pod, statuses: &Statuses, phase: Phase, old: &PodStatus) -> Verdict {
    let (mut unknown, mut incomplete) = (Vec::new(), Vec::new());
    for container in spec::init_containers(pod) {
        let done = |s: &ContainerStatus| {
            if spec::is_sidecar(container) { s.started == Some(true) } else { s.ready }
        };
        match statuses.get(&container.name) {
            None => unknown.push(container.name.as_str()),
            Some(status) if !done(status) => incomplete.push(container.name.as_str()),
            Some(_) => {}
        }
    }
    if phase == Phase::Succeeded && unknown.is_empty() {
        return Verdict { reason: "PodCompleted", ..TRUE };
    }
    let was = old.conditions.iter().flatten().any(|c| c.type_ == "Initialized" && c.status == "True");
    if any_regular_started(statuses) || (was && !spec::init_containers(pod).is_empty()) {
        return TRUE;
    }
    let message = join(&[("unknown", unknown), ("incomplete", incomplete)]);
    if message.is_empty() { TRUE } else { no("ContainersNotInitialized", message) }
}

/// True if a regular container has run at some time.
pub fn any_regular_started(statuses: &Statuses) -> bool {
    statuses.regular.iter().any(|s| {
        let ran = |state: &Option<k8s_openapi::api::core::v1::ContainerState>| {
            state.as_ref().is_some_and(|s| s.running.is_some() || s.terminated.is_some())
        };
        ran(&s.state) || s.last_state.as_ref().is_some_and(|l| l.terminated.is_some())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubelet::pod::observed::Sandbox;
    use serde_json::json;

    fn check(pod_value: serde_json::Value, ready: &[(&str, bool)], phase: Phase, expected: &[&str]) {
        let pod: Pod = serde_json::from_value(pod_value).expect("a pod");
        let statuses = Statuses {
            regular: ready
                .iter()
                .map(|(name, ready)| ContainerStatus {
                    name: (*name).into(),
                    ready: *ready,
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        };
        let now = Timestamp::UNIX_EPOCH;
        let observed = Observed {
            sandboxes: vec![Sandbox {
                id: "s".into(),
                attempt: 0,
                ready: true,
                created_at: now,
                ips: vec!["10.0.0.9".into()],
                host_network: false,
            }],
            containers: vec![],
        };
        let lines: Vec<String> = conditions(&pod, &observed, &statuses, phase, &PodStatus::default(), now)
            .iter()
            .map(|c| {
                let text = |s: &Option<String>| s.clone().unwrap_or_default();
                format!("{}={} {} {}", c.type_, c.status, text(&c.reason), text(&c.message)).trim().to_owned()
            })
            .collect();
        assert_eq!(lines, expected);
    }

    #[test]
    fn ready_and_not() {
        let pod = json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}});
        check(
            pod.clone(),
            &[("a", true), ("b", true)],
            Phase::Running,
            &[
                "PodReadyToStartContainers=True",
                "Initialized=True",
                "Ready=True",
                "ContainersReady=True",
                "PodScheduled=True",
            ],
        );
        check(
            pod.clone(),
            &[("a", true), ("b", false)],
            Phase::Running,
            &[
                "PodReadyToStartContainers=True",
                "Initialized=True",
                "Ready=False ContainersNotReady containers with unready status: [b]",
                "ContainersReady=False ContainersNotReady containers with unready status: [b]",
                "PodScheduled=True",
            ],
        );
        check(
            pod,
            &[("a", false), ("b", false)],
            Phase::Succeeded,
            &[
                "PodReadyToStartContainers=True",
                "Initialized=True PodCompleted",
                "Ready=False PodCompleted",
                "ContainersReady=False PodCompleted",
                "PodScheduled=True",
            ],
        );
    }

    #[test]
    fn gates_and_init_containers() {
        let gated =
            json!({"spec": {"containers": [{"name": "a"}], "readinessGates": [{"conditionType": "x/y"}]}});
        check(
            gated,
            &[("a", true)],
            Phase::Running,
            &[
                "PodReadyToStartContainers=True",
                "Initialized=True",
                "Ready=False ReadinessGatesNotReady corresponding condition of pod readiness gate \"x/y\" does not exist.",
                "ContainersReady=True",
                "PodScheduled=True",
            ],
        );
        let init = json!({"spec": {"initContainers": [{"name": "i"}], "containers": [{"name": "a"}]}});
        check(
            init,
            &[("a", false)],
            Phase::Pending,
            &[
                "PodReadyToStartContainers=True",
                "Initialized=False ContainersNotInitialized containers with unknown status: [i]",
                "Ready=False ContainersNotReady containers with unready status: [a]",
                "ContainersReady=False ContainersNotReady containers with unready status: [a]",
                "PodScheduled=True",
            ],
        );
    }
}
