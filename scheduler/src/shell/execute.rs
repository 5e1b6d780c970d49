//! Carries out the core's commands, many at once, and reports how they went.
//!
//! Owns the number of calls in flight and the order inside one command: volumes before the binding, victims
//! before the report that they are gone.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::sync::mpsc::Sender;

use crate::core::cluster::Uid;
use crate::core::intake::Intake;
use crate::core::scheduler::{Command, Nominate, PodRef};
use crate::core::spec::TimeMs;
use crate::core::volumes::VolumePlan;

use super::api::{Api, ApiError, note};
use super::events::Recorder;
use super::extender::HttpExtenders;
use super::kinds::Kind;
use super::metrics::Metrics;
use super::run::{Message, now_ms};

/// Calls to the API at once.
const CALLS_MAX: usize = 128;
/// Tries of a call that may be repeated.
const TRIES_MAX: u32 = 5;
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// What a profile is called in messages.
#[derive(Clone, Debug)]
pub struct ProfileName(pub Arc<str>);

/// Carries out commands.
#[derive(Clone)]
pub struct Executor {
    api: Api,
    calls: Arc<Semaphore>,
    out: Sender<Message>,
    recorder: Recorder,
    profiles: Arc<[ProfileName]>,
    metrics: Arc<Metrics>,
    extenders: Option<Arc<HttpExtenders>>,
}

impl Executor {
    /// An executor that reports to `out`.
    pub fn new(
        api: Api,
        out: Sender<Message>,
        recorder: Recorder,
        profiles: Arc<[ProfileName]>,
        metrics: Arc<Metrics>,
        extenders: Option<Arc<HttpExtenders>>,
    ) -> Self {
        Executor {
            api,
            calls: Arc::new(Semaphore::new(CALLS_MAX)),
            out,
            recorder,
            profiles,
            metrics,
            extenders,
        }
    }

    /// Starts a command.
    pub fn execute(&self, command: Command) {
        let executor = self.clone();
        tokio::spawn(async move {
            let message = executor.run(command).await;
            // The loop has ended when nobody listens; then the answer is of no use.
            let _ = executor.out.send(message).await;
        });
    }

    /// Looks up a pod whose binding the informer has not shown, and reports it as it is.
    pub fn verify(&self, pod: PodRef) {
        let executor = self.clone();
        tokio::spawn(async move {
            let gone = || Intake::PodDeleted { uid: Uid::new(&pod.uid) };
            let intake = match executor.api.pod(&pod).await {
                Ok(Some(found)) if found.metadata.uid == *pod.uid => found.present(),
                Ok(_) => gone(),
                Err(error) => return tracing::warn!(pod = %pod.name, %error, "cannot look up an assumed pod"),
            };
            // The loop has ended when nobody listens; then the answer is of no use.
            let _ = executor.out.send(Message::Intake(vec![intake])).await;
        });
    }

    async fn run(&self, command: Command) -> Message {
        match command {
            Command::Bind { pod, node, volumes, attempts, first_attempt, profile } => {
                self.bind(pod, &node, volumes, attempts, first_attempt, profile).await
            }
            Command::Report { pod, reason, message, nominate, condition_is_new, profile } => {
                self.recorder.record(
                    &pod,
                    self.name(profile),
                    "Warning",
                    "FailedScheduling",
                    "Scheduling",
                    &note(&message),
                );
                let condition = condition_is_new.then_some((reason, message.as_str()));
                self.report(&pod, condition, nominate).await;
                Message::Reported
            }
            Command::Preempt { preemptor, node, victims, profile } => {
                self.preempt(preemptor, &node, victims, profile).await
            }
            Command::Yield { pods } => {
                for pod in &pods {
                    self.report(pod, None, Nominate::Set("".into())).await;
                }
                Message::Reported
            }
            Command::SkipDeleting { pod, profile } => {
                let note = format!("skip schedule deleting pod: {}/{}", pod.namespace, pod.name);
                self.recorder.record(
                    &pod,
                    self.name(profile),
                    "Warning",
                    "FailedScheduling",
                    "Scheduling",
                    &note,
                );
                Message::Reported
            }
        }
    }

    fn name(&self, profile: usize) -> &str {
        self.profiles.get(profile).map_or("default-scheduler", |p| &p.0)
    }

    async fn bind(
        &self,
        pod: PodRef,
        node: &str,
        volumes: Option<VolumePlan>,
        attempts: u32,
        first_attempt: TimeMs,
        profile: usize,
    ) -> Message {
        if let Some(plan) = volumes
            && let Err(error) = self.api.bind_volumes(node, &plan).await
        {
            let error = format!("running PreBind plugin \"VolumeBinding\": {error}");
            return Message::BindFailed { pod, error };
        }
        let started = std::time::Instant::now();
        let done = {
            let _permit = self.calls.acquire().await;
            let elsewhere = match &self.extenders {
                Some(extenders) => extenders.bind(&pod, node).await,
                None => Ok(false),
            };
            match elsewhere {
                Ok(false) => self.api.bind(&pod, node).await.map_err(|e| e.to_string()),
                Ok(true) => Ok(()),
                Err(error) => Err(error),
            }
        };
        match done {
            Ok(()) => {
                let waited = Duration::from_millis((now_ms() - first_attempt).max(0) as u64);
                self.metrics.observe_bound(self.name(profile), attempts, waited, started.elapsed());
                let note = format!("Successfully assigned {}/{} to {node}", pod.namespace, pod.name);
                self.recorder.record(&pod, self.name(profile), "Normal", "Scheduled", "Binding", &note);
                Message::Bound { pod }
            }
            Err(error) => {
                let error = format!("running Bind plugin \"DefaultBinder\": {error}");
                Message::BindFailed { pod, error }
            }
        }
    }

    async fn report(&self, pod: &PodRef, condition: Option<(&str, &str)>, nominate: Nominate) {
        if condition.is_none() && nominate == Nominate::Keep {
            return;
        }
        let now = jiff::Timestamp::now();
        let now = machinery::time::format_time(now);
        let result = self.retried(|| self.api.report(pod, condition, &nominate, &now)).await;
        if let Err(error) = result
            && !error.is_not_found()
        {
            tracing::warn!(namespace = %pod.namespace, pod = %pod.name, %error, "cannot write the pod's condition");
        }
    }

    async fn retried<T, F: Future<Output = Result<T, ApiError>>>(
        &self,
        call: impl Fn() -> F,
    ) -> Result<T, ApiError> {
        let mut tries = 0;
        loop {
            let result = {
                let _permit = self.calls.acquire().await;
                call().await
            };
            tries += 1;
            match result {
                Err(error) if error.is_transient() && tries < TRIES_MAX => {
                    tokio::time::sleep(RETRY_PAUSE * tries).await;
                }
                other => return other,
            }
        }
    }

    async fn preempt(&self, preemptor: PodRef, node: &str, victims: Vec<PodRef>, profile: usize) -> Message {
        let name = self.name(profile);
        self.metrics.observe_victims(victims.len());
        let message = format!("{name}: preempting to accommodate a higher priority pod");
        let now = machinery::time::format_time(jiff::Timestamp::now());
        let mut failed = false;
        for victim in &victims {
            match self.retried(|| self.api.evict(victim, &message, &now)).await {
                Ok(()) => {
                    let note = format!("Preempted by pod {} on node {node}", preemptor.uid);
                    self.recorder.record(victim, name, "Normal", "Preempted", "Preempting", &note);
                }
                Err(error) => {
                    tracing::warn!(namespace = %victim.namespace, pod = %victim.name, %error, "cannot evict");
                    failed = true;
                    break;
                }
            }
        }
        Message::PreemptionDone { preemptor, victims, failed }
    }
}
