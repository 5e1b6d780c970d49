//! What a running pod needs next: a sandbox, containers to start in order, containers to kill. Looks only at
//! spec, runtime and probes; back-off and actions already under way are the machine's business.

use k8s_openapi::api::core::v1::{Container as ContainerSpec, Pod};

use super::init_plan::plan_init;
use super::observed::{Container, Observed, ProbeView, State};
use super::restart::{restarts_all, should_start, succeeded};
use super::spec::{self, Kind};

/// A container to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// Its name in the spec.
    pub name: String,
    /// Where in the spec it stands.
    pub kind: Kind,
}

/// A container to kill.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kill {
    /// The runtime's id.
    pub id: String,
    /// Its name in the spec.
    pub name: String,
    /// What the event says.
    pub message: String,
    /// The grace its probe prescribes, seconds; the pod's own where absent.
    pub grace_secs: Option<i64>,
}

/// The next steps of a pod that should run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Nothing is left to run: stop the sandbox and everything in it.
    pub kill_pod: bool,
    /// Make a sandbox with this attempt number, after everything of the old one is stopped.
    pub create_sandbox: Option<u32>,
    /// Start these, in this order.
    pub start: Vec<Start>,
    /// Kill these first.
    pub kill: Vec<Kill>,
    /// A container's rule wants all of them removed and started anew, in the same sandbox.
    pub reset: bool,
}

/// Why the pod's sandbox does not serve: the attempt number of the next one.
pub fn sandbox_needed(pod: &Pod, observed: &Observed) -> Option<u32> {
    let Some(newest) = observed.sandboxes.first() else { return Some(0) };
    let ready = observed.sandboxes.iter().filter(|s| s.ready).count();
    let host_network = spec::is_host_network(pod);
    let serves = ready == 1
        && newest.ready
        && newest.host_network == host_network
        && (host_network || !newest.ips.is_empty());
    (!serves).then_some(newest.attempt + 1)
}

/// Computes the next steps.
pub fn plan(pod: &Pod, observed: &Observed, probes: &ProbeView) -> Plan {
    if restarts_all(pod, observed) {
        return Plan { reset: true, ..Plan::default() };
    }
    match sandbox_needed(pod, observed) {
        Some(attempt) => plan_new_sandbox(pod, observed, attempt),
        None => plan_in_sandbox(pod, observed, probes),
    }
}

fn restarts_on_failure(pod: &Pod) -> bool {
    spec::restart_policy(pod) != "Never" || spec::containers(pod).iter().any(|c| c.restart_policy.is_some())
}

fn plan_new_sandbox(pod: &Pod, observed: &Observed, attempt: u32) -> Plan {
    let kill_only = Plan { kill_pod: true, ..Plan::default() };
    if !restarts_on_failure(pod) && attempt != 0 && !observed.containers.is_empty() {
        return kill_only;
    }
    let run_once =
        |c: &ContainerSpec| c.restart_policy.as_deref().unwrap_or(spec::restart_policy(pod)) == "OnFailure";
    let start: Vec<Start> = spec::containers(pod)
        .iter()
        .filter(|c| !(run_once(c) && succeeded(&c.name, observed)))
        .map(|c| Start { name: c.name.clone(), kind: Kind::Regular })
        .collect();
    let initialized = spec::containers(pod).iter().any(|c| observed.latest(&c.name).is_some());
    if start.is_empty() && initialized {
        return kill_only;
    }
    let first_init = spec::init_containers(pod).first().map(|c| vec![start_init(c)]);
    Plan { create_sandbox: Some(attempt), start: first_init.unwrap_or(start), ..kill_only }
}

pub(super) fn start_init(container: &ContainerSpec) -> Start {
    let kind = if spec::is_sidecar(container) { Kind::Sidecar } else { Kind::Init };
    Start { name: container.name.clone(), kind }
}

fn plan_in_sandbox(pod: &Pod, observed: &Observed, probes: &ProbeView) -> Plan {
    let mut plan = Plan::default();
    for ephemeral in spec::ephemeral_containers(pod) {
        if observed.latest(&ephemeral.name).is_none() {
            plan.start.push(Start { name: ephemeral.name.clone(), kind: Kind::Ephemeral });
        }
    }
    if !plan_init(pod, observed, probes, &mut plan) || plan.kill_pod {
        return plan;
    }
    let mut kept = 0;
    let mut starting = 0;
    for container in spec::containers(pod) {
        match plan_container(pod, container, observed.latest(&container.name), probes) {
            Step::Keep => kept += 1,
            Step::Nothing => {}
            Step::Start(kill) => {
                starting += 1;
                plan.kill.extend(kill);
                plan.start.push(Start { name: container.name.clone(), kind: Kind::Regular });
            }
            Step::Kill(kill) => plan.kill.push(kill),
        }
    }
    if kept == 0 && starting == 0 {
        plan.kill_pod = true;
        plan.start.clear();
    }
    plan
}

enum Step {
    Keep,
    Nothing,
    Start(Option<Kill>),
    Kill(Kill),
}

fn plan_container(pod: &Pod, spec: &ContainerSpec, latest: Option<&Container>, probes: &ProbeView) -> Step {
    let Some(current) = latest.filter(|c| c.state == State::Running) else {
        if !should_start(spec, pod, latest) {
            return Step::Nothing;
        }
        return Step::Start(
            latest.filter(|c| c.state == State::Unknown).map(|c| kill_unknown(c, "Container")),
        );
    };
    let policy = spec.restart_policy.as_deref().unwrap_or(spec::restart_policy(pod));
    let Some((mut kill, always)) = reason_to_kill(spec, current, probes, "Container") else {
        return Step::Keep;
    };
    if always || policy != "Never" {
        kill.message.push_str(", will be restarted");
        return Step::Start(Some(kill));
    }
    Step::Kill(kill)
}

/// Why a running container must die, and whether it restarts whatever its policy says.
pub(super) fn reason_to_kill(
    spec: &ContainerSpec,
    current: &Container,
    probes: &ProbeView,
    word: &str,
) -> Option<(Kill, bool)> {
    let results = probes.get(&current.id).copied().unwrap_or_default();
    let kill = |what: &str, grace_secs| Kill {
        id: current.id.clone(),
        name: spec.name.clone(),
        message: format!("{word} {} {what}", spec.name),
        grace_secs,
    };
    let grace = |probe: &Option<k8s_openapi::api::core::v1::Probe>| {
        probe.as_ref().and_then(|p| p.termination_grace_period_seconds)
    };
    if current.hash != spec::container_hash(spec) {
        return Some((kill("definition changed", None), true));
    }
    if results.liveness == Some(false) {
        return Some((kill("failed liveness probe", grace(&spec.liveness_probe)), false));
    }
    if results.startup == Some(false) {
        return Some((kill("failed startup probe", grace(&spec.startup_probe)), false));
    }
    None
}

pub(super) fn kill_unknown(current: &Container, word: &str) -> Kill {
    Kill {
        id: current.id.clone(),
        name: current.name.clone(),
        message: format!("{word} is in \"{}\" state, try killing it before restart", current.state.as_str()),
        grace_secs: None,
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
