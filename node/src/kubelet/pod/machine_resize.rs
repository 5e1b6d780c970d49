//! The part of a pod's life in which its resources change while it runs.

use std::collections::BTreeMap;

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{Pod, ResourceRequirements};

use super::action::{Action, Inputs, Outcome, Output, Ticket};
use super::checkpoint::PodResources;
use super::machine::{Machine, later};
use super::observed::Observed;
use super::plan::Plan;
use super::resize::{self, Resize, Share, Standing};
use super::spec;

/// Room for deferred resources is looked for again after this, if nothing else happens before.
const RETRY: SignedDuration = SignedDuration::from_secs(10);

impl Machine {
    /// A pod's memory where an agent before had given its containers these resources.
    pub fn after(earlier: &PodResources) -> Self {
        let whole = earlier.whole.clone().unwrap_or_default();
        let share = |own: &ResourceRequirements| Share { own: own.clone(), pod: whole.clone() };
        let started_with = earlier.containers.iter().map(|(name, own)| (name.clone(), share(own))).collect();
        let mut machine = Self::default();
        machine.started_with = started_with;
        machine
    }

    /// What containers have: those that run, and of others what the last start of their name gave.
    pub fn given(&self, observed: &Observed) -> PodResources {
        let running = observed.containers.iter().filter_map(|c| Some((&c.name, self.given.get(&c.id)?)));
        let shares: BTreeMap<&String, &Share> = self.started_with.iter().chain(running).collect();
        let whole = shares.values().next().map(|share| share.pod.clone());
        let whole = whole.filter(|whole| *whole != ResourceRequirements::default());
        let own = |(name, share): (&String, &Share)| (name.clone(), share.own.clone());
        PodResources { containers: shares.into_iter().map(own).collect(), whole }
    }

    /// Begins what changed resources need, as far as they are promised.
    pub(super) fn step_resize(&mut self, inputs: &Inputs<'_>, plan: &Plan, output: &mut Output) {
        if inputs.pending.is_some() {
            output.wake(later(inputs.now, RETRY));
        }
        let changes = resize::plan(&self.given, inputs.pod, inputs.observed);
        if changes.is_empty() {
            self.resize = None;
            return;
        }
        self.resize.get_or_insert(Standing::InProgress(None));
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

    /// Notes what a container is started with: the promise may change before it is seen.
    pub(super) fn note_start(&mut self, pod: &Pod, name: &str) {
        if let Some((_, container)) = spec::find_container(pod, name) {
            self.started_with.insert(name.to_owned(), Share::wanted(pod, &container));
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
    use std::sync::Arc;

    use jiff::Timestamp;
    use serde_json::{Value, json};

    use super::*;
    use crate::kubelet::pod::allocation::{Verdict, promise};
    use crate::kubelet::pod::observed::{Container, Observed, ProbeView, Sandbox, State};

    fn pod(cpu: &str) -> Arc<Pod> {
        let pod = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": {
            "resources": {"requests": {"cpu": cpu}, "limits": {"cpu": cpu}},
            "containers": [{"name": "a"}, {"name": "b", "resources": {"limits": {"cpu": "1"}}}]}});
        Arc::new(serde_json::from_value(pod).expect("a pod"))
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
            ips: vec!["10.0.0.1".into()],
            host_network: false,
        };
        Observed {
            sandboxes: vec![sandbox],
            containers: spec::containers(pod).iter().map(container).collect(),
        }
    }

    /// A pod, what it is promised and what runs of it.
    struct Life {
        machine: Machine,
        promised: Arc<Pod>,
        observed: Observed,
    }

    impl Life {
        fn new(pod: &Arc<Pod>) -> Self {
            let mut machine = Machine::default();
            machine.outcome(&Ticket::Volumes, Outcome::Done, Timestamp::UNIX_EPOCH);
            Self { machine, promised: Arc::clone(pod), observed: running(pod) }
        }

        /// What is begun, and what the status says of the pod as a whole: given CPU, promised CPU, and why not more.
        fn step(&mut self, wanted: &Arc<Pod>, verdict: &Verdict) -> (Vec<String>, [Value; 3]) {
            let (promised, pending) = promise(&self.promised, wanted, |_| verdict.clone());
            self.promised = promised;
            let output = self.machine.step(&Inputs {
                pod: &self.promised,
                observed: &self.observed,
                probes: &ProbeView::new(),
                stop: None,
                rejected: None,
                host_ips: &[],
                runtime: "test",
                pending: pending.as_ref(),
                now: Timestamp::UNIX_EPOCH,
            });
            let begun = output.actions.iter().filter_map(|action| match action {
                Action::ResizeContainer { name, .. } => Some(format!("resize {name}")),
                Action::StartContainer { name, .. } => Some(format!("start {name}")),
                _ => None,
            });
            let status = serde_json::to_value(&*output.status).expect("JSON");
            let conditions = output.status.conditions.iter().flatten();
            let pending = conditions.filter(|c| c.type_ == "PodResizePending").map(|c| c.reason.clone());
            let (given, promised) =
                (&status["resources"]["limits"]["cpu"], &status["allocatedResources"]["cpu"]);
            (begun.collect(), [given.clone(), promised.clone(), json!(pending.flatten().next())])
        }

        fn done(&mut self, ticket: &Ticket) {
            self.machine.outcome(ticket, Outcome::Done, Timestamp::UNIX_EPOCH);
        }
    }

    fn deferred() -> Verdict {
        Verdict::Deferred("full".into())
    }

    fn both(what: &str) -> Vec<String> {
        ["a", "b"].map(|name| format!("{what} {name}")).into()
    }

    #[test]
    fn a_pods_own_resources_reach_every_container_once_there_is_room() {
        let (one, two, room) = (pod("1"), pod("2"), Verdict::Feasible);
        let mut life = Life::new(&one);
        assert_eq!(life.step(&one, &room), (vec![], [json!("1"), json!("1"), json!(null)]));
        assert_eq!(life.step(&two, &deferred()), (vec![], [json!("1"), json!("1"), json!("Deferred")]));
        assert_eq!(life.step(&two, &room), (both("resize"), [json!("1"), json!("2"), json!(null)]));
        for (id, given) in [("a-id", "1"), ("b-id", "2")] {
            life.done(&Ticket::Resize(id.into()));
            let after = life.step(&two, &room);
            assert_eq!(after, (vec![], [json!(given), json!("2"), json!(null)]), "after {id}");
        }
    }

    #[test]
    fn a_container_that_ends_while_it_waits_for_room_starts_with_what_is_promised() {
        let (one, two, room) = (pod("1"), pod("2"), Verdict::Feasible);
        let mut life = Life::new(&one);
        life.step(&one, &room);
        life.step(&two, &deferred());
        let ended = &mut life.observed.containers[0];
        (ended.state, ended.finished_at) = (State::Exited, Some(Timestamp::UNIX_EPOCH));
        let waiting = [json!("1"), json!("1"), json!("Deferred")];
        assert_eq!(life.step(&two, &deferred()), (vec!["start a".to_owned()], waiting.clone()));
        // What is started is the pod as promised: see the worker's jobs.
        let level = life.promised.spec.as_ref().and_then(|s| s.resources.clone());
        assert_eq!(level, one.spec.as_ref().and_then(|s| s.resources.clone()));
        life.done(&Ticket::Start("a".into()));
        life.observed.containers[0] = Container::running("a-again", &spec::containers(&one)[0]);
        assert_eq!(life.step(&two, &deferred()), (vec![], waiting));
        assert_eq!(life.step(&two, &room), (both("resize"), [json!("1"), json!("2"), json!(null)]));
    }

    #[test]
    fn an_agent_that_starts_anew_knows_what_was_given_though_nothing_was_reported() {
        let (one, two, room) = (pod("1"), pod("2"), Verdict::Feasible);
        let mut life = Life::new(&one);
        life.step(&one, &room);
        let given = life.machine.given(&life.observed);
        let level = |pod: &Pod| pod.spec.as_ref().and_then(|s| s.resources.clone());
        assert_eq!((given.containers.len(), &given.whole), (2, &level(&one)));
        // The promise had changed, the containers had not.
        let mut next = Life::new(&two);
        let forgetful = next.step(&two, &room).0;
        next.machine = Machine::after(&given);
        next.machine.outcome(&Ticket::Volumes, Outcome::Done, Timestamp::UNIX_EPOCH);
        assert_eq!((forgetful, next.step(&two, &room).0), (vec![], both("resize")));
        assert_eq!(Machine::default().given(&Observed::default()), PodResources::default());
    }

    #[test]
    fn what_is_promised_while_a_container_starts_reaches_it_afterwards() {
        let (one, two, room) = (pod("1"), pod("2"), Verdict::Feasible);
        let mut life = Life::new(&one);
        let b = life.observed.containers.pop();
        assert_eq!(life.step(&one, &room).0, ["start b"]);
        assert_eq!(life.step(&two, &room).0, ["resize a"]);
        life.observed.containers.extend(b);
        life.done(&Ticket::Start("b".into()));
        assert_eq!(life.step(&two, &room).0, ["resize b"]);
    }
}
