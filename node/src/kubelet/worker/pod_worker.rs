//! The task of one pod: observes, steps the machine, starts its actions and waits for whatever comes first.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::actions::Job;
use super::context::Context;
use super::last_words::FromFiles;
use super::status_sender::{self, Report};
use crate::kubelet::cri::observe::observe_pod;
use crate::kubelet::env;
use crate::kubelet::metrics;
use crate::kubelet::pod::action::{Inputs, Notice, Outcome, Output, Stop, Ticket};
use crate::kubelet::pod::allocation;
use crate::kubelet::pod::checkpoint::PodResources;
use crate::kubelet::pod::container_status::Waiting;
use crate::kubelet::pod::machine::Machine;
use crate::kubelet::pod::observed::Observed;
use crate::kubelet::pod::resize::Standing;
use crate::kubelet::pod::spec;
use crate::kubelet::pod::status::Failure;
use crate::kubelet::probes::ProbeSet;

/// Pause before asking a runtime again that did not answer.
const OBSERVE_RETRY: Duration = Duration::from_secs(1);

/// What a pod should be.
#[derive(Clone, Debug)]
pub struct Desired {
    /// The pod.
    pub pod: Arc<Pod>,
    /// The API object that shows it: itself, or the mirror of a static pod.
    pub object: Option<Arc<Pod>>,
    /// Set when it must end.
    pub stop: Option<Stop>,
    /// Set when this machine refuses it.
    pub rejected: Option<Failure>,
}

/// What others may know of a running worker.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// What the runtime held at the last look.
    pub observed: Arc<Observed>,
    /// The newest status.
    pub status: Arc<PodStatus>,
    /// Nothing of the pod is left.
    pub finished: bool,
}

/// The channels of one worker.
pub struct Channels {
    /// What the pod should be.
    pub desired: watch::Receiver<Desired>,
    /// Something about the pod changed in the runtime or in its probes.
    pub nudge: Arc<Notify>,
    /// Files of its volumes may be out of date.
    pub refresh: Arc<Notify>,
    /// What others may know.
    pub snapshot: watch::Sender<Snapshot>,
    /// The pod with the resources it is promised.
    pub promise: Box<Promise>,
    /// What the agent before gave the pod's containers.
    pub given: PodResources,
    /// Is told what they have now, where that is not what is promised.
    pub note_given: Box<dyn Fn(Option<PodResources>) + Send + Sync>,
}

/// From a pod as it is wanted to the pod as it is promised, and why that is not all, if so.
pub type Promise = dyn Fn(&Arc<Pod>) -> (Arc<Pod>, Option<Standing>) + Send + Sync;

struct Worker {
    context: Arc<Context>,
    channels: Channels,
    machine: Machine,
    probes: ProbeSet,
    observed: Arc<Observed>,
    status: Arc<PodStatus>,
    adopted: bool,
    ending: CancellationToken,
    running: JoinSet<(Ticket, Outcome)>,
    reports: watch::Sender<Report>,
}

/// Runs a pod until nothing of it is left.
pub async fn run(context: Arc<Context>, channels: Channels) {
    let probes =
        ProbeSet::new(context.runtime.clone(), context.recorder.clone(), Arc::clone(&channels.nudge));
    let (reports, receiver) = watch::channel(Report::default());
    let sender = tokio::spawn(status_sender::run(context.client.clone(), receiver));
    let status = Arc::new(spec::status(&channels.desired.borrow().pod).into_owned());
    let mut worker = Worker {
        context,
        machine: Machine::after(&channels.given),
        channels,
        probes,
        observed: Arc::default(),
        status,
        adopted: false,
        ending: CancellationToken::new(),
        running: JoinSet::new(),
        reports,
    };
    worker.live().await;
    let pod = Arc::clone(&worker.channels.desired.borrow().pod);
    // The last report outlives the worker: its sender ends by itself once it has arrived.
    drop(worker);
    drop(sender);
    for container in spec::init_containers(&pod).iter().chain(spec::containers(&pod)) {
        metrics::forget_probes(&pod, &container.name);
    }
}

impl Worker {
    async fn live(&mut self) {
        let frequency = self.context.config.sync_frequency;
        // Spread over time, so that two hundred pods do not refresh at once.
        let spread = frequency.mul_f64(rand::random_range(0.0..0.2));
        let mut refresh = tokio::time::interval(frequency + spread);
        refresh.tick().await;
        loop {
            // In boxes: between turns a pod does not hold the room that they take.
            let wake = match Box::pin(self.turn()).await {
                Turn::Finished => return,
                Turn::Wait(wake) => wake,
            };
            tokio::select! {
                changed = self.channels.desired.changed() => if changed.is_err() { return },
                () = self.channels.nudge.notified() => {}
                Some(done) = self.running.join_next() => self.finish(done),
                () = tokio::time::sleep(wake) => {}
                () = self.channels.refresh.notified() => Box::pin(self.refresh()).await,
                _ = refresh.tick() => Box::pin(self.refresh()).await,
            }
        }
    }

    /// One look and one step.
    async fn turn(&mut self) -> Turn {
        let mut desired = self.channels.desired.borrow_and_update().clone();
        let uid = spec::uid(&desired.pod).to_owned();
        match observe_pod(&self.context.runtime, &uid, &FromFiles).await {
            Ok(observed) => self.observed = Arc::new(observed),
            Err(error) => {
                tracing::debug!(%error, uid, "the runtime did not answer");
                return Turn::Wait(OBSERVE_RETRY);
            }
        }
        if !self.adopted {
            self.adopted = true;
            self.probes.adopt(&self.observed, &self.status);
        }
        let (promised, pending) = (self.channels.promise)(&desired.pod);
        desired.pod = promised;
        let host_ips = self.context.host_ips();
        let output = self.machine.step(&Inputs {
            pod: &desired.pod,
            observed: &self.observed,
            probes: &self.probes.view(),
            stop: desired.stop.as_ref(),
            rejected: desired.rejected.as_ref(),
            host_ips: &host_ips,
            runtime: self.context.runtime_name(),
            pending: pending.as_ref(),
            now: Timestamp::now(),
        });
        let given = self.machine.given(&self.observed);
        (self.channels.note_given)((given != allocation::record(&desired.pod)).then_some(given));
        self.apply(&desired, output)
    }

    fn apply(&mut self, desired: &Desired, output: Output) -> Turn {
        if output.ending {
            self.ending.cancel();
        }
        for notice in output.notices {
            self.record(&desired.pod, notice);
        }
        self.probes.sync(&desired.pod, &self.observed, output.ending);
        self.status = output.status;
        let job = self.job(desired);
        for action in output.actions {
            let (job, ticket) = (job.clone(), action.ticket());
            tracing::debug!(pod = spec::display(&desired.pod), ?action, "action");
            self.running.spawn(async move { (ticket, job.run(action).await) });
        }
        self.report(desired, output.finished);
        if output.finished {
            job.remove_folders();
            return Turn::Finished;
        }
        let until = output.wake_at.map(|at| at.duration_since(Timestamp::now()));
        let wait =
            until.map_or(self.context.config.sync_frequency, |d| Duration::try_from(d).unwrap_or_default());
        Turn::Wait(wait + Duration::from_millis(1))
    }

    fn job(&self, desired: &Desired) -> Job {
        Job {
            context: Arc::clone(&self.context),
            pod: Arc::clone(&desired.pod),
            status: Arc::clone(&self.status),
            observed: Arc::clone(&self.observed),
            ending: self.ending.clone(),
        }
    }

    fn record(&self, pod: &Pod, notice: Notice) {
        let container = notice.container.as_deref();
        self.context.recorder.pod(pod, container, notice.warning, notice.reason, notice.message);
    }

    fn report(&self, desired: &Desired, finished: bool) {
        let deleting = desired.object.as_ref().is_some_and(|o| o.metadata.deletion_timestamp.is_some());
        let report = Report {
            object: desired.object.clone(),
            status: Arc::clone(&self.status),
            remove: finished && (deleting || spec::is_static(&desired.pod)),
        };
        self.reports.send_replace(report);
        let before = self.channels.snapshot.send_replace(Snapshot {
            observed: Arc::clone(&self.observed),
            status: Arc::clone(&self.status),
            finished,
        });
        let addresses = |observed: &Observed| observed.sandboxes.first().map(|s| (s.ready, s.ips.clone()));
        if finished || addresses(&before.observed) != addresses(&self.observed) {
            self.context.addresses_changed.notify_one();
        }
    }

    fn finish(&mut self, done: Result<(Ticket, Outcome), tokio::task::JoinError>) {
        match done {
            Ok((ticket, outcome)) => {
                if let Outcome::Failed(Waiting { reason, message }) = &outcome {
                    tracing::debug!(?ticket, reason, message, "an action failed");
                }
                self.machine.outcome(&ticket, outcome, Timestamp::now());
            }
            // An action that panicked leaves its ticket behind: start the machine's memory anew.
            Err(error) => {
                tracing::error!(%error, "an action broke; the pod's worker starts over");
                self.machine = Machine::default();
            }
        }
    }

    async fn refresh(&mut self) {
        let desired = self.channels.desired.borrow().clone();
        if desired.stop.is_some() || !self.machine.volumes_ready() {
            return;
        }
        // Files show what is promised, as variables do.
        let (pod, _) = (self.channels.promise)(&desired.pod);
        self.keep_sources(&pod);
        let allocatable = self.context.allocatable.read().clone();
        let done = self.context.volumes.refresh(&pod, &self.status, &allocatable).await;
        if let Err(error) = done {
            self.context.recorder.pod(&pod, None, true, "FailedMount", error.to_string());
        }
    }
}

impl Worker {
    /// What variables and pulls come from stays known as long as the pod runs, though nobody reads it meanwhile.
    fn keep_sources(&self, pod: &Pod) {
        let namespace = spec::namespace(pod);
        for container in spec::init_containers(pod).iter().chain(spec::containers(pod)) {
            let (maps, secrets) = env::references(container);
            self.context.objects.keep(namespace, maps, secrets);
        }
        let spec = spec::spec(pod);
        let pulls = spec.image_pull_secrets.iter().flatten().map(|secret| secret.name.clone());
        self.context.objects.keep(namespace, vec![], pulls.collect());
    }
}

enum Turn {
    Finished,
    Wait(Duration),
}
