//! Measures the core alone: events in, decisions out, bindings confirmed at once.
//!
//! Owns the clock and the memory figures. A measured pod costs all that the core does for it: taking the pod in,
//! deciding, and taking in the bound pod.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use scheduler::core::intake::Intake;
use scheduler::core::profile::Profile;
use scheduler::core::queue::Backoff;
use scheduler::core::scheduler::{Command, PodRef, Scheduler};
use scheduler::core::spec::PodInput;

use super::cases::{self, Case, Churn};

/// Pods between two pieces of churn.
const CHURN_EVERY: usize = 50;
/// Attempts of one case at most, as a multiple of its pods: preemption tries pods twice.
const ATTEMPTS_PER_POD: usize = 4;

/// What one case came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub name: &'static str,
    pub nodes: usize,
    pub scheduled: usize,
    pub took: Duration,
    /// One decision, in nanoseconds.
    pub decision_p50: u64,
    pub decision_p99: u64,
    /// Resident memory per node and per pod, in bytes; zero where too little was allocated to tell.
    pub node_bytes: u64,
    pub pod_bytes: u64,
}

impl Outcome {
    /// Pods scheduled in a second.
    pub fn rate(&self) -> f64 {
        self.scheduled as f64 / self.took.as_secs_f64()
    }
}

struct Bench {
    core: Scheduler,
    next_pod: usize,
    now_ms: i64,
}

impl Bench {
    fn pod(&mut self, spec: &std::sync::Arc<scheduler::core::spec::PodSpec>, gated: bool) -> PodInput {
        self.next_pod += 1;
        cases::pod(self.next_pod, spec, gated)
    }

    /// Schedules one pod and confirms what the core wants. `None` when nothing waits, else whether it was bound.
    fn step(&mut self, decisions: &mut Histogram<u64>) -> Option<bool> {
        self.now_ms += 1;
        let start = Instant::now();
        let commands = self.core.schedule_one(self.now_ms)?;
        decisions.saturating_record(start.elapsed().as_nanos() as u64);
        let mut bound = false;
        for command in commands {
            match command {
                Command::Bind { pod, node, .. } => {
                    self.confirm(&pod, &node);
                    bound = true;
                }
                Command::Preempt { preemptor, victims, .. } => self.evict(&preemptor, &victims),
                _ => {}
            }
        }
        Some(bound)
    }

    /// What the informer says of a bound pod.
    fn confirm(&mut self, pod: &PodRef, node: &str) {
        let uid = scheduler::core::cluster::Uid::new(&pod.uid);
        let Some(spec) = self.core.queue.get(uid).map(|p| p.spec.clone()) else { return };
        let input = PodInput {
            uid: pod.uid.clone(),
            name: pod.name.clone(),
            spec: (*spec).clone(),
            node_name: node.into(),
            version: 2,
            ..PodInput::default()
        };
        self.core.bound(&pod.uid);
        self.core.apply(Intake::Pod(Box::new(input)), self.now_ms);
    }

    fn evict(&mut self, preemptor: &PodRef, victims: &[PodRef]) {
        for victim in victims {
            let uid = scheduler::core::cluster::Uid::new(&victim.uid);
            self.core.apply(Intake::PodDeleted { uid }, self.now_ms);
        }
        self.core.preemption_done(&preemptor.uid, victims, false, self.now_ms);
    }

    fn churn(&mut self, case: &Case, round: usize) {
        let mut node = cases::node(1_000_000 + round, case.zones);
        node.unschedulable = true;
        let name = node.name.clone();
        self.core.apply(Intake::Node(Box::new(node)), self.now_ms);
        self.core.apply(Intake::NodeDeleted { name }, self.now_ms);
        let service =
            |selector| Intake::Service { namespace: "sched".into(), name: "churn".into(), selector };
        self.core.apply(service(Some(vec![("churn".into(), round.to_string().into())])), self.now_ms);
        self.core.apply(service(None), self.now_ms);
        let spec = case.stuck.1.clone();
        let pod = self.pod(&spec, true);
        let uid = scheduler::core::cluster::Uid::new(&pod.uid);
        self.core.apply(Intake::Pod(Box::new(pod)), self.now_ms);
        self.core.apply(Intake::PodDeleted { uid }, self.now_ms);
    }
}

/// Runs a case.
pub fn run(case: &Case) -> Outcome {
    let profiles = vec![Profile::default_for("default-scheduler")];
    let mut bench = Bench { core: Scheduler::new(profiles, Backoff::default(), 1), next_pod: 0, now_ms: 0 };
    let mut ignored = histogram();
    let start_bytes = resident_bytes();
    for i in 0..case.nodes {
        bench.core.apply(Intake::Node(Box::new(cases::node(i, case.zones))), 0);
    }
    let nodes_bytes = resident_bytes();
    for _ in 0..case.init.0 {
        let pod = bench.pod(&case.init.1, false);
        bench.core.apply(Intake::Pod(Box::new(pod)), bench.now_ms);
        bench.step(&mut ignored);
    }
    for _ in 0..case.stuck.0 {
        let pod = bench.pod(&case.stuck.1, case.stuck.2);
        bench.core.apply(Intake::Pod(Box::new(pod)), bench.now_ms);
    }
    while bench.step(&mut ignored).is_some() {}
    let before_pods = resident_bytes();
    let (scheduled, took, decisions) = measured(&mut bench, case);
    let after_pods = resident_bytes();
    Outcome {
        name: case.name,
        nodes: case.nodes,
        scheduled,
        took,
        decision_p50: decisions.value_at_quantile(0.5),
        decision_p99: decisions.value_at_quantile(0.99),
        node_bytes: nodes_bytes.saturating_sub(start_bytes) / case.nodes as u64,
        pod_bytes: after_pods.saturating_sub(before_pods) / scheduled.max(1) as u64,
    }
}

fn measured(bench: &mut Bench, case: &Case) -> (usize, Duration, Histogram<u64>) {
    let mut decisions = histogram();
    let mut scheduled = 0;
    let pods: Vec<PodInput> = (0..case.measured.0).map(|_| bench.pod(&case.measured.1, false)).collect();
    let start = Instant::now();
    for (i, pod) in pods.into_iter().enumerate() {
        if case.churn == Churn::Mixed && i.is_multiple_of(CHURN_EVERY) {
            bench.churn(case, i);
        }
        bench.core.apply(Intake::Pod(Box::new(pod)), bench.now_ms);
        scheduled += usize::from(bench.step(&mut decisions) == Some(true));
    }
    let mut attempts = ATTEMPTS_PER_POD * case.measured.0;
    while scheduled < case.measured.0 && attempts > 0 {
        attempts -= 1;
        bench.core.queue.tick(bench.now_ms);
        match bench.step(&mut decisions) {
            Some(bound) => scheduled += usize::from(bound),
            None => break,
        }
    }
    (scheduled, start.elapsed(), decisions)
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("fixed bounds")
}

/// Resident memory of this process.
fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = text.split_whitespace().nth(1).and_then(|p| p.parse().ok()).unwrap_or(0);
    pages * 4096
}
