//! The part of a pod's life in which its resources change while it runs.

use jiff::SignedDuration;

use super::action::{Action, Inputs, Outcome, Output, Ticket};
use super::machine::{Machine, later};
use super::plan::Plan;
use super::resize::{self, Resize, Share, Standing};
use super::spec;

/// Room for deferred resources is looked for again after this, if nothing else happens before.
const RETRY: SignedDuration = SignedDuration::from_secs(10);

impl Machine {
    /// Begins what changed resources need, if there is room for them.
    pub(super) fn step_resize(&mut self, inputs: &Inputs<'_>, plan: &Plan, output: &mut Output) {
        let changes = resize::plan(&self.given, inputs.pod, inputs.observed);
        if changes.is_empty() {
            self.resize = None;
            return;
        }
        let under_way = self.in_flight.iter().any(|t| matches!(t, Ticket::Resize(_)));
        if !under_way && let Some(pending) = (inputs.judge)(inputs.pod).pending() {
            self.resize = Some(pending);
            output.wake(later(inputs.now, RETRY));
            return;
        }
        let error = match self.resize.take() {
            Some(Standing::InProgress(error)) => error,
            _ => None,
        };
        self.resize = Some(Standing::InProgress(error));
        for change in changes {
            self.begin_resize(inputs, plan, change, output);
        }
    }

    fn begin_resize(&mut self, inputs: &Inputs<'_>, plan: &Plan, change: Resize, output: &mut Output) {
        match change {
            Resize::Restart { id, name } => {
                let grace = spec::termination_grace_secs(inputs.pod);
                let message = format!("Container {name} resize requires restart, will be restarted");
                self.kill((&id, &name), grace, message, inputs.now, output);
            }
            Resize::InPlace { id, .. } if plan.kill.iter().any(|k| k.id == id) => {}
            Resize::InPlace { id, name } => {
                let under_way = self.in_flight.contains(&Ticket::Resize(id.clone()));
                if under_way || !self.step_may_retry(inputs.now, output) {
                    return;
                }
                if let Some((_, container)) = spec::find_container(inputs.pod, &name) {
                    self.resizing.insert(id.clone(), Share::wanted(inputs.pod, &container));
                    output.actions.push(Action::ResizeContainer { id, name });
                }
            }
        }
    }

    /// Takes the end of one container's resize.
    pub(super) fn resized(&mut self, id: &str, outcome: Outcome) {
        match outcome {
            Outcome::Done => {
                self.given.extend(self.resizing.remove_entry(id));
            }
            Outcome::Failed(waiting) | Outcome::PullFailed(waiting) => {
                self.resize = Some(Standing::InProgress(Some(waiting.message)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::{Value, json};

    use super::*;
    use crate::kubelet::pod::observed::{Container, Observed, ProbeView, Sandbox};
    use crate::kubelet::pod::resize::Verdict;

    fn pod(cpu: &str) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": {
            "resources": {"requests": {"cpu": cpu}, "limits": {"cpu": cpu}},
            "containers": [{"name": "a"}, {"name": "b", "resources": {"limits": {"cpu": "1"}}}]}}))
        .expect("a pod")
    }

    fn running(pod: &Pod) -> Observed {
        let container = |spec: &k8s_openapi::api::core::v1::Container| {
            Container::running(&format!("{}-id", spec.name), spec)
        };
        let sandbox = Sandbox {
            id: "s".into(),
            attempt: 0,
            ready: true,
            created_at: Timestamp::UNIX_EPOCH,
            ips: vec![],
            host_network: false,
        };
        Observed {
            sandboxes: vec![sandbox],
            containers: spec::containers(pod).iter().map(container).collect(),
        }
    }

    fn step(machine: &mut Machine, pod: &Pod, verdict: &Verdict) -> Output {
        machine.step(&Inputs {
            pod,
            observed: &running(pod),
            probes: &ProbeView::new(),
            stop: None,
            rejected: None,
            host_ips: &[],
            runtime: "test",
            judge: &|_| verdict.clone(),
            now: Timestamp::UNIX_EPOCH,
        })
    }

    /// Containers being resized, and what the status says of the pod as a whole: given and promised CPU.
    fn shown(output: &Output) -> (Vec<String>, Value, Value) {
        let resized = output.actions.iter().filter_map(|action| match action {
            Action::ResizeContainer { name, .. } => Some(name.clone()),
            _ => None,
        });
        let status = serde_json::to_value(&output.status).expect("JSON");
        let (given, promised) = (&status["resources"]["limits"]["cpu"], &status["allocatedResources"]["cpu"]);
        (resized.collect(), given.clone(), promised.clone())
    }

    #[test]
    fn a_pods_own_resources_reach_every_container_once_there_is_room() {
        let mut machine = Machine::default();
        let room = Verdict::Feasible;
        assert_eq!(shown(&step(&mut machine, &pod("1"), &room)), (vec![], json!("1"), json!("1")));
        let full = Verdict::Deferred("full".into());
        assert_eq!(shown(&step(&mut machine, &pod("2"), &full)), (vec![], json!("1"), json!("1")));
        let both = vec!["a".to_owned(), "b".to_owned()];
        assert_eq!(shown(&step(&mut machine, &pod("2"), &room)), (both, json!("1"), json!("2")));
        let now = Timestamp::UNIX_EPOCH;
        for (id, given) in [("a-id", "1"), ("b-id", "2")] {
            machine.outcome(&Ticket::Resize(id.into()), Outcome::Done, now);
            let output = step(&mut machine, &pod("2"), &room);
            assert_eq!(shown(&output), (vec![], json!(given), json!("2")), "after {id}");
        }
    }
}
