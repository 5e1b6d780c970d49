//! The probes of one pod: a task for each probe of each running container. A container that is gone takes its
//! probes and their verdicts with it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodStatus, Probe};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::counter::{Counter, Kind};
use super::runner::{self, Answer, Target};
use crate::kubelet::cluster::events::Recorder;
use crate::kubelet::cri::Runtime;
use crate::kubelet::metrics;
use crate::kubelet::pod::observed::{Observed, ProbeView, State};
use crate::kubelet::pod::spec;

/// Events about failing probes are repeated for every failure; words are cut to this length.
const EVENT_TEXT_MAX: usize = 1024;

/// The probes of one pod.
pub struct ProbeSet {
    runtime: Runtime,
    recorder: Recorder,
    view: Arc<Mutex<ProbeView>>,
    changed: Arc<Notify>,
    tasks: BTreeMap<(String, Kind), AbortHandle>,
}

impl Drop for ProbeSet {
    fn drop(&mut self) {
        for task in self.tasks.values() {
            task.abort();
        }
    }
}

impl ProbeSet {
    /// No probes yet. `changed` is notified when a verdict changes.
    pub fn new(runtime: Runtime, recorder: Recorder, changed: Arc<Notify>) -> Self {
        Self { runtime, recorder, view: Arc::default(), changed, tasks: BTreeMap::new() }
    }

    /// The standing verdicts.
    pub fn view(&self) -> ProbeView {
        self.view.lock().clone()
    }

    /// Seeds verdicts from what was reported before the agent's own restart, so that a ready container does not
    /// look unready until its first probe.
    pub fn adopt(&self, observed: &Observed, status: &PodStatus) {
        let reported = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
        let mut view = self.view.lock();
        for known in reported {
            let id = known.container_id.as_deref().and_then(|id| id.split("://").nth(1));
            let Some(current) = observed.latest(&known.name).filter(|c| Some(c.id.as_str()) == id) else {
                continue;
            };
            let result = view.entry(current.id.clone()).or_default();
            result.startup = result.startup.or(known.started.filter(|s| *s));
            result.readiness = result.readiness.or(Some(known.ready));
        }
    }

    /// Starts probes of containers that run and stops all others.
    pub fn sync(&mut self, pod: &Arc<Pod>, observed: &Observed, ending: bool) {
        let mut wanted = BTreeSet::new();
        for current in observed.containers.iter().filter(|c| c.state == State::Running) {
            let Some((kind, container)) = spec::find_container(pod, &current.name) else { continue };
            if matches!(kind, spec::Kind::Init | spec::Kind::Ephemeral) {
                continue;
            }
            for (probe_kind, probe) in probes_of(&container) {
                // A pod that ends is still asked whether it is ready, but no more restarted.
                if ending && probe_kind != Kind::Readiness {
                    continue;
                }
                let key = (current.id.clone(), probe_kind);
                wanted.insert(key.clone());
                let started = current.started_at.unwrap_or(current.created_at);
                let ip = observed.sandbox().and_then(|s| s.ips.first().cloned());
                let ip = ip.or_else(|| spec::status(pod).host_ip.clone()).unwrap_or_default();
                let target =
                    Target { container_id: current.id.clone(), pod_ip: ip, container: container.clone() };
                if !self.tasks.contains_key(&key) {
                    let task = self.task(Arc::clone(pod), probe_kind, probe, target, started);
                    self.tasks.insert(key, task);
                }
            }
        }
        self.tasks.retain(|key, task| {
            wanted.contains(key) || {
                task.abort();
                false
            }
        });
        let alive: BTreeSet<&str> = observed.alive().map(|c| c.id.as_str()).collect();
        self.view.lock().retain(|id, _| alive.contains(id.as_str()));
    }

    fn task(
        &self,
        pod: Arc<Pod>,
        kind: Kind,
        probe: Probe,
        target: Target,
        started: Timestamp,
    ) -> AbortHandle {
        let driver = Driver {
            runtime: self.runtime.clone(),
            recorder: self.recorder.clone(),
            view: Arc::clone(&self.view),
            changed: Arc::clone(&self.changed),
            pod,
            kind,
            target,
            counter: Counter::new(kind, count(probe.success_threshold, 1), count(probe.failure_threshold, 3)),
            probe,
        };
        tokio::spawn(driver.drive(started)).abort_handle()
    }
}

fn count(value: Option<i32>, default: u32) -> u32 {
    value.and_then(|v| u32::try_from(v).ok()).filter(|v| *v > 0).unwrap_or(default)
}

fn probes_of(container: &Container) -> Vec<(Kind, Probe)> {
    [
        (Kind::Startup, &container.startup_probe),
        (Kind::Readiness, &container.readiness_probe),
        (Kind::Liveness, &container.liveness_probe),
    ]
    .into_iter()
    .filter_map(|(kind, probe)| Some((kind, probe.clone()?)))
    .collect()
}

struct Driver {
    runtime: Runtime,
    recorder: Recorder,
    view: Arc<Mutex<ProbeView>>,
    changed: Arc<Notify>,
    pod: Arc<Pod>,
    kind: Kind,
    probe: Probe,
    target: Target,
    counter: Counter,
}

impl Driver {
    async fn drive(mut self, started: Timestamp) {
        let period = Duration::from_secs(count(self.probe.period_seconds, 10).into());
        let delay = i64::from(self.probe.initial_delay_seconds.unwrap_or(0));
        let age = Timestamp::now().duration_since(started).as_secs();
        if let Ok(left) = u64::try_from(delay - age) {
            tokio::time::sleep(Duration::from_secs(left)).await;
        }
        while !self.may_run() {
            // The start-up probe's verdict opens the way; looking once a second is cheap.
            tokio::time::sleep(Duration::from_secs(1).min(period)).await;
        }
        match self.verdict() {
            None => self.publish(self.counter.verdict()),
            Some(true) if self.kind == Kind::Startup => return,
            Some(_) => {}
        }
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            Box::pin(self.once()).await;
            if self.counter.is_settled() {
                return;
            }
        }
    }

    fn may_run(&self) -> bool {
        let gated = self.kind != Kind::Startup && self.target.container.startup_probe.is_some();
        !gated || self.view.lock().get(&self.target.container_id).is_some_and(|r| r.startup == Some(true))
    }

    async fn once(&mut self) {
        let limit = Duration::from_secs(count(self.probe.timeout_seconds, 1).into());
        let began = std::time::Instant::now();
        let answer = runner::run(&self.runtime, &self.probe, &self.target, limit).await;
        metrics::count_probe(&self.pod, &self.target.container.name, self.kind, &answer, began.elapsed());
        let success = match &answer {
            Answer::Success => true,
            Answer::Failure(text) | Answer::Unknown(text) => {
                let mut text = text.clone();
                text.truncate(text.floor_char_boundary(EVENT_TEXT_MAX));
                let (reason, how) = match answer {
                    Answer::Unknown(_) => ("Unhealthy", "errored"),
                    _ => ("Unhealthy", "failed"),
                };
                let message = match how {
                    "errored" => {
                        format!("{} probe errored and resulted in unknown state: {text}", self.kind.word())
                    }
                    _ => format!("{} probe failed: {text}", self.kind.word()),
                };
                self.recorder.pod(&self.pod, Some(&self.target.container.name), true, reason, message);
                if how == "errored" {
                    return;
                }
                false
            }
        };
        let verdict = self.counter.record(success);
        self.publish(verdict);
    }

    fn verdict(&self) -> Option<bool> {
        let view = self.view.lock();
        let result = view.get(&self.target.container_id)?;
        match self.kind {
            Kind::Startup => result.startup,
            Kind::Readiness => result.readiness,
            Kind::Liveness => result.liveness,
        }
    }

    fn publish(&self, verdict: Option<bool>) {
        let mut view = self.view.lock();
        let result = view.entry(self.target.container_id.clone()).or_default();
        let slot = match self.kind {
            Kind::Startup => &mut result.startup,
            Kind::Readiness => &mut result.readiness,
            Kind::Liveness => &mut result.liveness,
        };
        if *slot != verdict {
            *slot = verdict;
            drop(view);
            self.changed.notify_one();
        }
    }
}
