//! Whole lives of pods against a simulated runtime and clock: many seeds, random faults, and what must hold at
//! every step and at the end.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use super::action::{Action, Inputs, Outcome, Output, Stop, Ticket};
use super::container_status::Waiting;
use super::machine::Machine;
use super::observed::{Container, Observed, ProbeView, Sandbox, State};
use super::phase::Phase;
use super::spec;

/// How a container behaves once it runs: it ends by itself after so many seconds with a code, or never.
type Behaviour = BTreeMap<String, Option<(i64, i32)>>;

/// A runtime and a clock of one's own.
struct World {
    now: Timestamp,
    pod: Pod,
    machine: Machine,
    observed: Observed,
    running: Vec<(Ticket, Timestamp, Action)>,
    behaviour: Behaviour,
    fault_percent: u32,
    random: StdRng,
    next_id: u32,
    stop: Option<Stop>,
    started: Vec<String>,
    last: Output,
    volumes: bool,
}

fn secs(n: i64) -> SignedDuration {
    SignedDuration::from_secs(n)
}

impl World {
    fn new(pod: Value, behaviour: &[(&str, Option<(i64, i32)>)], seed: u64, fault_percent: u32) -> Self {
        Self {
            now: Timestamp::from_second(1_000_000).expect("in range"),
            pod: serde_json::from_value(pod).expect("a pod"),
            machine: Machine::default(),
            observed: Observed::default(),
            running: vec![],
            behaviour: behaviour.iter().map(|(n, b)| ((*n).to_owned(), *b)).collect(),
            fault_percent,
            random: StdRng::seed_from_u64(seed),
            next_id: 0,
            stop: None,
            started: vec![],
            last: Output::default(),
            volumes: false,
        }
    }

    fn id(&mut self, prefix: &str) -> String {
        self.next_id += 1;
        format!("{prefix}{}", self.next_id)
    }

    fn step(&mut self) {
        let output = self.machine.step(&Inputs {
            pod: &self.pod,
            observed: &self.observed,
            probes: &ProbeView::new(),
            stop: self.stop.as_ref(),
            rejected: None,
            host_ips: &["10.0.0.1".into()],
            runtime: "sim",
            pending: None,
            now: self.now,
        });
        self.check(&output);
        for action in &output.actions {
            let took = secs(self.random.random_range(0..3));
            self.running.push((action.ticket(), self.now + took, action.clone()));
        }
        self.last = output;
    }

    /// What must hold at every step.
    fn check(&self, output: &Output) {
        let tickets: Vec<Ticket> = output.actions.iter().map(Action::ticket).collect();
        let unique: BTreeSet<&Ticket> = tickets.iter().collect();
        assert_eq!(unique.len(), tickets.len(), "an action is emitted twice: {:?}", output.actions);
        let starts = self.running.iter().filter(|(t, ..)| matches!(t, Ticket::Start(_))).count();
        let new_starts = tickets.iter().filter(|t| matches!(t, Ticket::Start(_))).count();
        assert!(starts + new_starts <= 1, "two containers are started at once");
        if output.ending {
            assert_eq!(new_starts, 0, "a container is started in an ending pod");
        }
        for action in &output.actions {
            match action {
                Action::StartContainer { name, .. } => {
                    assert!(self.volumes, "started without volumes");
                    assert!(self.observed.sandbox().is_some(), "started without a sandbox");
                    let alive = self.observed.alive().any(|c| c.name == *name);
                    assert!(!alive, "{name} is started while it runs");
                }
                Action::RemoveContainer { id } => {
                    let alive = self.observed.alive().any(|c| c.id == *id);
                    assert!(!alive, "a running container is removed");
                }
                Action::Teardown => {
                    assert!(self.observed.alive().next().is_none(), "volumes go from under a container");
                }
                _ => {}
            }
        }
    }

    /// Lets one second pass: actions and containers end.
    fn tick(&mut self) {
        self.now += secs(1);
        let now = self.now;
        for index in 0..self.observed.containers.len() {
            let container = &self.observed.containers[index];
            let planned = self.behaviour.get(&container.name).copied().flatten();
            if let (State::Running, Some((after, code)), Some(at)) =
                (container.state, planned, container.started_at)
                && now >= at + secs(after)
            {
                self.end(index, code);
            }
        }
        let due: Vec<usize> = (0..self.running.len()).filter(|i| self.running[*i].1 <= now).collect();
        for index in due.into_iter().rev() {
            let (ticket, _, action) = self.running.remove(index);
            let fails = self.random.random_range(0..100) < self.fault_percent;
            let outcome = if fails { self.fail(&action) } else { self.perform(action) };
            self.machine.outcome(&ticket, outcome, now);
            self.step();
        }
        self.step();
    }

    fn end(&mut self, index: usize, code: i32) {
        let now = self.now;
        let container = &mut self.observed.containers[index];
        container.state = State::Exited;
        container.exit_code = code;
        container.finished_at = Some(now);
    }

    fn fail(&mut self, action: &Action) -> Outcome {
        let waiting = Waiting { reason: "ErrImagePull".into(), message: "fault".into() };
        match action {
            Action::StartContainer { .. } if self.random.random_bool(0.5) => Outcome::PullFailed(waiting),
            _ => Outcome::Failed(waiting),
        }
    }

    fn perform(&mut self, action: Action) -> Outcome {
        match action {
            Action::PrepareVolumes => self.volumes = true,
            Action::Teardown => self.volumes = false,
            Action::CreateSandbox { attempt } => {
                let sandbox = Sandbox {
                    id: self.id("s"),
                    attempt,
                    ready: true,
                    created_at: self.now,
                    ips: vec!["10.1.0.1".into()],
                    host_network: false,
                };
                self.observed.sandboxes.push(sandbox);
            }
            Action::StartContainer { name, restart_count, .. } => self.start(name, restart_count),
            Action::KillContainer { id, .. } => {
                let alive = |c: &Container| c.id == id && c.state == State::Running;
                if let Some(index) = self.observed.containers.iter().position(alive) {
                    self.end(index, 143);
                }
            }
            Action::ResizeContainer { .. } => {}
            Action::StopSandbox { id } => {
                for sandbox in self.observed.sandboxes.iter_mut().filter(|s| s.id == id) {
                    sandbox.ready = false;
                }
            }
            Action::RemoveContainer { id } => self.observed.containers.retain(|c| c.id != id),
            Action::RemoveSandbox { id } => self.observed.sandboxes.retain(|s| s.id != id),
        }
        self.observed.sort();
        Outcome::Done
    }

    fn start(&mut self, name: String, restart_count: u32) {
        let Some((_, container)) = spec::find_container(&self.pod, &name) else { return };
        let made = Container {
            sandbox_id: self.observed.sandboxes[0].id.clone(),
            restart_count,
            created_at: self.now,
            started_at: Some(self.now),
            ..Container::running(&self.id("c"), &container)
        };
        self.observed.containers.push(made);
        self.started.push(name);
    }

    fn phase(&self) -> Phase {
        self.last.status.phase.as_deref().and_then(Phase::parse).expect("a phase")
    }

    fn run_until(&mut self, what: &str, limit: usize, done: impl Fn(&Self) -> bool) {
        self.step();
        for _ in 0..limit {
            if done(self) {
                return;
            }
            self.tick();
        }
        panic!("{what} was not reached; started {:?}, status {:?}", self.started, self.last.status);
    }

    fn delete(&mut self) {
        self.pod.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(self.now));
        self.stop = Some(Stop { grace_secs: 5, failure: None, delete: true });
        self.run_until("the end", 400, |w| w.last.finished);
        assert_eq!(self.observed, Observed::default(), "something is left in the runtime");
        assert!(!self.volumes, "volumes are left");
        assert!(self.running.is_empty(), "actions are left: {:?}", self.running);
        assert!(self.phase().is_terminal(), "the last phase is {:?}", self.phase());
    }
}

fn pod(policy: &str, init: Value, regular: Value) -> Value {
    json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"},
        "spec": {"restartPolicy": policy, "initContainers": init, "containers": regular}})
}

fn for_seeds(check: impl Fn(u64, u32)) {
    for seed in 0..40 {
        check(seed, if seed % 2 == 0 { 0 } else { 20 });
    }
}

#[test]
fn a_service_starts_in_order_and_leaves_nothing() {
    for_seeds(|seed, faults| {
        let value = pod(
            "Always",
            json!([{"name": "i"}, {"name": "s", "restartPolicy": "Always"}]),
            json!([{"name": "a"}, {"name": "b"}]),
        );
        let mut world = World::new(value, &[("i", Some((2, 0)))], seed, faults);
        world.run_until("running", 600, |w| w.phase() == Phase::Running && w.observed.alive().count() == 3);
        let mut first: Vec<&String> = Vec::new();
        for name in &world.started {
            if !first.contains(&name) {
                first.push(name);
            }
        }
        assert_eq!(first[..2], ["i", "s"], "seed {seed}");
        world.delete();
    });
}

#[test]
fn a_job_ends_and_stays_ended() {
    for_seeds(|seed, faults| {
        for (code, phase) in [(0, Phase::Succeeded), (3, Phase::Failed)] {
            let value =
                pod("Never", json!([{"name": "s", "restartPolicy": "Always"}]), json!([{"name": "a"}]));
            let mut world = World::new(value, &[("a", Some((3, code)))], seed, faults);
            world
                .run_until("the end", 900, |w| w.phase().is_terminal() && !w.volumes && w.running.is_empty());
            assert_eq!(world.phase(), phase, "seed {seed}");
            assert!(world.observed.alive().next().is_none(), "the sidecar still runs");
            let starts = world.started.len();
            for _ in 0..50 {
                world.tick();
            }
            assert_eq!((world.phase(), world.started.len()), (phase, starts));
            assert!(
                world.observed.latest("a").is_some(),
                "the logs of an ended pod stay until it is deleted"
            );
            world.delete();
        }
    });
}

#[test]
fn a_crashing_container_is_restarted_ever_more_slowly() {
    let value = pod("Always", json!([]), json!([{"name": "a"}]));
    let mut world = World::new(value, &[("a", Some((1, 1)))], 1, 0);
    let mut restarts = Vec::new();
    world.step();
    for second in 0..700 {
        let before = world.started.len();
        world.tick();
        if world.started.len() > before {
            restarts.push(second);
        }
    }
    let gaps: Vec<i64> = restarts.windows(2).map(|w| w[1] - w[0]).collect();
    assert!(gaps[0] <= 5, "the first restart is immediate: {gaps:?}");
    for (gap, least) in gaps[1..].iter().zip([10, 20, 40, 80, 160]) {
        assert!(*gap >= least && *gap <= least + 6, "{gaps:?}");
    }
    assert!(
        world.observed.containers.len() <= 2,
        "old containers are kept: {}",
        world.observed.containers.len()
    );
    assert_eq!(world.phase(), Phase::Running);
    world.delete();
}

#[test]
fn a_deadline_ends_a_pod_that_runs_too_long() {
    let mut value = pod("Always", json!([]), json!([{"name": "a"}]));
    value["spec"]["activeDeadlineSeconds"] = json!(30);
    let mut world = World::new(value, &[], 5, 0);
    world.run_until("failed", 100, |w| w.phase() == Phase::Failed && w.observed.alive().next().is_none());
    assert_eq!(world.last.status.reason.as_deref(), Some("DeadlineExceeded"));
    world.delete();
}

#[test]
fn a_dead_sandbox_is_replaced() {
    for_seeds(|seed, faults| {
        let value = pod("Always", json!([{"name": "i"}]), json!([{"name": "a"}]));
        let mut world = World::new(value, &[("i", Some((1, 0)))], seed, faults);
        world.run_until("running", 600, |w| w.observed.alive().any(|c| c.name == "a"));
        world.observed.sandboxes[0].ready = false;
        let inits = world.started.iter().filter(|n| *n == "i").count();
        world.run_until("running again", 900, |w| {
            let sandbox = w.observed.sandbox().map(|s| s.id.clone());
            w.observed.alive().any(|c| c.name == "a" && Some(&c.sandbox_id) == sandbox.as_ref())
        });
        let again = world.started.iter().filter(|n| *n == "i").count();
        assert!(again > inits, "init containers run again in a new sandbox, seed {seed}");
        world.delete();
    });
}

#[test]
fn a_rule_restarts_every_container_in_place() {
    for_seeds(|seed, faults| {
        let rule = json!({"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [42]}});
        let asking = json!({"name": "a", "restartPolicy": "Never", "restartPolicyRules": [rule]});
        let init = match seed % 3 {
            0 => json!([]),
            _ => json!([{"name": "i"}, {"name": "s", "restartPolicy": "Always"}]),
        };
        let (inits, many) = (seed % 3 != 0, if seed % 3 == 0 { 2 } else { 3 });
        let value = pod("Never", init, json!([asking, {"name": "b"}]));
        let mut world = World::new(value, &[("i", Some((1, 0))), ("a", Some((20, 42)))], seed, faults);
        world.run_until("running", 600, |w| w.observed.alive().count() == many);
        let sandbox = world.observed.sandboxes[0].id.clone();
        let before: BTreeSet<String> = world.observed.containers.iter().map(|c| c.id.clone()).collect();
        let anew = |w: &World| {
            let fresh = w.observed.alive().filter(|c| !before.contains(&c.id)).count();
            assert!(!w.phase().is_terminal(), "the pod ended: {:?}", w.last.status);
            fresh == many && w.observed.containers.iter().all(|c| !before.contains(&c.id))
        };
        world.run_until("all started anew", 900, anew);
        assert_eq!(world.observed.sandboxes[0].id, sandbox, "the sandbox stays, seed {seed}");
        assert!(
            !inits || world.started.iter().filter(|n| *n == "i").count() > 1,
            "init containers run again"
        );
        let status = &world.last.status;
        let lists = status.init_container_statuses.iter().chain(&status.container_statuses);
        assert!(lists.flatten().all(|s| s.restart_count >= 1), "restarts are counted: {status:?}");
        world.delete();
    });
}

#[test]
fn deletion_at_any_moment_leaves_nothing() {
    for seed in 0..60 {
        let value = pod(
            "Always",
            json!([{"name": "i"}, {"name": "s", "restartPolicy": "Always"}]),
            json!([{"name": "a"}, {"name": "b"}]),
        );
        let mut world = World::new(value, &[("i", Some((2, 0))), ("b", Some((4, 1)))], seed, 10);
        world.step();
        for _ in 0..seed {
            world.tick();
        }
        world.delete();
    }
}
