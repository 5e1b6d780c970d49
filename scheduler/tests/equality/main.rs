//! The core against a slow, obvious reference: same feasible nodes, same reasons, same scores of every plugin, on
//! random clusters that change between questions.
//!
//! `EQUALITY_PODS` sets how many random pods are asked about (default 6,000; the proof ran on a million), and
//! `EQUALITY_SEED` where to start.

mod generate;
mod reference;

use generate::{NAMESPACES, Source};
use reference::{PLUGINS, World};
use scheduler::core::cluster::Uid;
use scheduler::core::evaluate::Dice;
use scheduler::core::intake::Intake;
use scheduler::core::preempt::{Preemptor, refusal_with_nominated, victims_on};
use scheduler::core::profile::Profile;
use scheduler::core::queue::Backoff;
use scheduler::core::scheduler::{Command, Scheduler};
use scheduler::core::spec::PodInput;

/// Questions asked of one cluster before a new one is made.
const QUESTIONS: usize = 40;
/// Above what random pods have, so that a probe finds victims.
const PROBE_PRIORITY: i32 = 1_000_000;

struct Run {
    source: Source,
    world: World,
    core: Scheduler,
    next_pod: usize,
    next_node: usize,
}

impl Run {
    fn new(seed: u64) -> Self {
        let core = Scheduler::new(vec![Profile::default_for("default-scheduler")], Backoff::default(), seed);
        let mut run =
            Run { source: Source(Dice::new(seed)), world: World::default(), core, next_pod: 0, next_node: 0 };
        for (name, team) in NAMESPACES.iter().zip(["one", "two", "one"]) {
            let labels: scheduler::core::labels::Labels = [("team", team)].into_iter().collect();
            run.core.apply(Intake::Namespace { name: (*name).into(), labels: Some(labels.clone()) }, 0);
            run.world.namespaces.insert((*name).to_owned(), labels);
        }
        let selector: Vec<(Box<str>, Box<str>)> = vec![("app".into(), "web".into())];
        run.world.services.push(("red".to_owned(), selector.clone()));
        let service =
            Intake::Service { namespace: "red".into(), name: "web".into(), selector: Some(selector) };
        run.core.apply(service, 0);
        for _ in 0..3 + run.source.below(12) {
            run.add_node();
        }
        run
    }

    fn add_node(&mut self) {
        let node = self.source.node(self.next_node);
        self.next_node += 1;
        self.core.apply(Intake::Node(Box::new(node.clone())), 0);
        self.world.nodes.push(node);
    }

    fn new_pod(&mut self) -> PodInput {
        self.next_pod += 1;
        self.source.pod(self.next_pod)
    }

    /// Binds a random pod somewhere, fit or not, as other schedulers do.
    fn add_pod(&mut self) {
        let mut pod = self.new_pod();
        let at = self.source.below(self.world.nodes.len());
        pod.node_name = (*self.world.nodes[at].name).into();
        pod.terminating = self.source.chance(10);
        self.core.apply(Intake::Pod(Box::new(pod.clone())), 0);
        self.world.pods.push(pod);
    }

    /// One random change of the cluster.
    fn change(&mut self) {
        match self.source.below(12) {
            0..5 => self.add_pod(),
            5..8 if !self.world.pods.is_empty() => {
                let at = self.source.below(self.world.pods.len());
                let pod = self.world.pods.swap_remove(at);
                self.core.apply(Intake::PodDeleted { uid: Uid::new(&pod.uid) }, 0);
            }
            8 if !self.world.pods.is_empty() => {
                let at = self.source.below(self.world.pods.len());
                let (node, uid) = (self.world.pods[at].node_name.clone(), self.world.pods[at].uid.clone());
                let mut pod = self.new_pod();
                (pod.node_name, pod.uid, pod.version) = (node, uid, 2);
                self.core.apply(Intake::Pod(Box::new(pod.clone())), 0);
                self.world.pods[at] = pod;
            }
            9 => {
                let at = self.source.below(self.world.nodes.len());
                let mut node = self.source.node(self.next_node + 1000);
                node.name = self.world.nodes[at].name.clone();
                self.core.apply(Intake::Node(Box::new(node.clone())), 0);
                self.world.nodes[at] = node;
            }
            10 => self.add_node(),
            11 if self.world.nodes.len() > 3 => {
                let at = self.source.below(self.world.nodes.len());
                let node = self.world.nodes.swap_remove(at);
                self.core.apply(Intake::NodeDeleted { name: node.name.clone() }, 0);
                let gone: Vec<PodInput> =
                    self.world.pods.iter().filter(|p| *p.node_name == *node.name).cloned().collect();
                self.world.pods.retain(|p| *p.node_name != *node.name);
                for pod in gone {
                    self.core.apply(Intake::PodDeleted { uid: Uid::new(&pod.uid) }, 0);
                }
            }
            _ => self.add_pod(),
        }
    }

    fn ask(&mut self, pod: &PodInput, seed: u64) {
        let verdicts = self.world.verdicts(&pod.spec);
        let explanation = self.core.explain(pod).expect("the default profile");
        for (node, verdict) in self.world.nodes.iter().zip(&verdicts) {
            let row = explanation.rows.iter().find(|r| r.node == node.name).expect("a row per node");
            let about = || format!("seed {seed}, {} on {}: {:#?}", pod.name, node.name, pod.spec);
            match verdict {
                Err((plugin, reasons)) => {
                    assert_eq!(row.refused, Some((*plugin, reasons.clone())), "{}", about());
                }
                Ok(scores) => {
                    assert_eq!(row.refused, None, "{}", about());
                    if verdicts.iter().filter(|v| v.is_ok()).count() > 1 {
                        let expected: Vec<_> =
                            PLUGINS.iter().map(|(n, _)| *n).zip(scores.iter().copied()).collect();
                        assert_eq!(row.scores, expected, "{}", about());
                    }
                }
            }
        }
        self.probe_preemption(pod, seed);
        self.schedule(pod, &verdicts, seed);
    }

    /// An important pod of the same template looks for room and goes away again; nothing is evicted. What the template
    /// remembers of nodes, from now and from earlier questions, must be what it would find out anew.
    fn probe_preemption(&mut self, pod: &PodInput, seed: u64) {
        let mut probe = self.new_pod();
        probe.spec = scheduler::core::spec::PodSpec { priority: PROBE_PRIORITY, ..pod.spec.clone() };
        self.core.apply(Intake::Pod(Box::new(probe.clone())), 0);
        self.core.schedule_one(0).expect("the probe waits");
        let uid = Uid::new(&probe.uid);
        self.core.apply(Intake::PodDeleted { uid }, 0);
        let core = &mut self.core;
        let (spec, profile) = (core.cluster.intern(probe.spec), &core.profiles[0]);
        let template = core.templates.get(&spec, 0, profile, &mut core.cluster);
        let who = Preemptor { uid, spec: &spec, template, profile, volumes: None };
        let memos = template.memos.borrow();
        for node in core.cluster.nodes.iter() {
            if let Some(known) = memos.victims(node, PROBE_PRIORITY) {
                assert_eq!(known, &victims_on(&who, node, &[], &core.cluster), "seed {seed}, {}", pod.name);
            }
            if let Some(known) = memos.refusal(node, PROBE_PRIORITY) {
                let fresh = refusal_with_nominated(&who, node, &core.cluster, None);
                assert_eq!(known, &fresh, "seed {seed}, {}", pod.name);
            }
        }
    }

    /// Schedules the pod for real: it must land on a best node, or be reported with the reference's reasons.
    fn schedule(
        &mut self,
        pod: &PodInput,
        verdicts: &[Result<reference::Scores, (&str, String)>],
        seed: u64,
    ) {
        let mut waiting = pod.clone();
        waiting.spec.never_preempts = true;
        self.core.apply(Intake::Pod(Box::new(waiting)), 0);
        let commands = self.core.schedule_one(0).expect("a pod waits");
        let total = |v: &Result<reference::Scores, _>| v.as_ref().ok().map(|s| s.iter().sum::<i64>());
        let best = verdicts.iter().filter_map(total).max();
        match &commands[..] {
            [Command::Bind { node, .. }] => {
                let at = self.world.nodes.iter().position(|n| n.name == *node).expect("a known node");
                let feasible = verdicts.iter().filter(|v| v.is_ok()).count();
                assert!(feasible == 1 || total(&verdicts[at]) == best, "seed {seed}: {} is not best", node);
                let mut bound = pod.clone();
                bound.node_name = (**node).into();
                bound.version = 3;
                self.core.bound(&bound.uid);
                self.core.apply(Intake::Pod(Box::new(bound.clone())), 0);
                self.world.pods.push(bound);
            }
            [Command::Report { message, .. }, ..] => {
                assert_eq!(best, None, "seed {seed}: refused a pod that fits: {message}");
                let prefix = format!("0/{} nodes are available: ", self.world.nodes.len());
                assert!(message.starts_with(&prefix), "{message}");
                for reason in
                    verdicts.iter().filter_map(|v| v.as_ref().err()).flat_map(|(_, r)| r.split(", "))
                {
                    assert!(message.contains(reason), "seed {seed}: {reason:?} is missing in {message:?}");
                }
                self.core.apply(Intake::PodDeleted { uid: Uid::new(&pod.uid) }, 0);
            }
            other => panic!("seed {seed}: unexpected commands {other:?}"),
        }
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

#[test]
fn decisions_equal_the_reference() {
    let pods = setting("EQUALITY_PODS", 6000);
    let first = setting("EQUALITY_SEED", 1);
    for seed in first..first + pods.div_ceil(QUESTIONS as u64) {
        let mut run = Run::new(seed);
        for _ in 0..QUESTIONS {
            for _ in 0..run.source.below(4) {
                run.change();
            }
            let pod = run.new_pod();
            run.ask(&pod, seed);
        }
    }
}
