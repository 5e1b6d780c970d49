//! Progress through the init containers. Walks backwards from the last one: finished ones may have been
//! removed from the runtime, so the latest trace of progress counts. Sidecars are kept running throughout.

use k8s_openapi::api::core::v1::{Container as ContainerSpec, Pod};

use super::observed::{Container, Observed, ProbeView, State};
use super::plan::{Kill, Plan, kill_unknown, reason_to_kill, start_init};
use super::restart::should_start;
use super::spec;

/// Adds what the init containers need; true once regular containers may run.
pub(super) fn plan_init(pod: &Pod, observed: &Observed, probes: &ProbeView, plan: &mut Plan) -> bool {
    let init = spec::init_containers(pod);
    if init.is_empty() {
        return true;
    }
    let regular_seen = spec::containers(pod).iter().any(|c| {
        observed.latest(&c.name).is_some_and(|s| matches!(s.state, State::Created | State::Running))
    });
    let mut walk = Walk { init, initialized: regular_seen, later_seen: regular_seen, start: Vec::new() };
    for index in (0..init.len()).rev() {
        if walk.visit(pod, index, observed, probes, plan).is_none() {
            plan.kill_pod = true;
            return false;
        }
    }
    if !walk.later_seen {
        walk.start.push(0);
    }
    walk.start.sort_unstable();
    walk.start.dedup();
    plan.start.extend(walk.start.iter().map(|&i| start_init(&init[i])));
    walk.initialized
}

struct Walk<'a> {
    init: &'a [ContainerSpec],
    /// All init containers are done (or, for sidecars, started).
    initialized: bool,
    /// Something later than the current container has been seen, so the current one was done before.
    later_seen: bool,
    start: Vec<usize>,
}

impl Walk<'_> {
    /// `None` when the pod has failed for good.
    fn visit(
        &mut self,
        pod: &Pod,
        index: usize,
        observed: &Observed,
        probes: &ProbeView,
        plan: &mut Plan,
    ) -> Option<()> {
        let container = &self.init[index];
        let sidecar = spec::is_sidecar(container);
        let Some(current) = observed.latest(&container.name) else {
            if self.later_seen && sidecar {
                self.start.push(index);
            }
            return Some(());
        };
        if self.later_seen && !sidecar {
            return Some(());
        }
        match current.state {
            State::Created => self.start.push(index),
            State::Running if sidecar => plan.kill.extend(self.visit_running_sidecar(index, current, probes)),
            State::Running => {}
            State::Exited if sidecar => self.start.push(index),
            State::Exited if current.exit_code == 0 => self.done(index),
            State::Exited => {
                if !should_start(container, pod, Some(current)) {
                    return None;
                }
                self.start.push(index);
            }
            State::Unknown => {
                let policy = container.restart_policy.as_deref().unwrap_or(spec::restart_policy(pod));
                if !sidecar && policy == "Never" {
                    return None;
                }
                plan.kill.push(kill_unknown(current, "Init container"));
                self.start.push(index);
            }
        }
        self.later_seen = true;
        Some(())
    }

    fn done(&mut self, index: usize) {
        if index + 1 == self.init.len() {
            self.initialized = true;
        } else if !self.later_seen {
            self.start.push(index + 1);
        }
    }

    fn visit_running_sidecar(
        &mut self,
        index: usize,
        current: &Container,
        probes: &ProbeView,
    ) -> Option<Kill> {
        let container = &self.init[index];
        let results = probes.get(&current.id).copied().unwrap_or_default();
        if container.startup_probe.is_some() && results.startup != Some(true) {
            // Not started yet: nothing later may begin, and only the start-up verdict counts.
            results.startup?;
            self.start.push(index);
            return reason_to_kill(container, current, probes, "Init container").map(|(kill, _)| kill);
        }
        self.done(index);
        let (kill, _) = reason_to_kill(container, current, probes, "Init container")?;
        self.start.push(index);
        Some(kill)
    }
}
