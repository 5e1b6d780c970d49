//! Carries out what a pod's state machine asks for.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod, PodStatus};
use tokio_util::sync::CancellationToken;

use super::context::Context;
use super::hooks;
use super::start::Start;
use crate::kubelet::cri::names;
use crate::kubelet::cri::resources::container_resources;
use crate::kubelet::metrics;
use crate::kubelet::pod::action::{Action, Outcome};
use crate::kubelet::pod::container_status::Waiting;
use crate::kubelet::pod::observed::Observed;
use crate::kubelet::pod::spec;
use crate::kubelet::pod::terminate::GRACE_MIN_SECS;

/// A pod shrinks once the last of its containers has, which are changed beside each other: how often and how long it waits.
const SHRINK_TRIES: u32 = 20;
const SHRINK_PAUSE: Duration = Duration::from_millis(100);

/// What an action works on.
#[derive(Clone)]
pub struct Job {
    /// What workers share.
    pub context: Arc<Context>,
    /// The pod.
    pub pod: Arc<Pod>,
    /// Its newest status.
    pub status: Arc<PodStatus>,
    /// What the runtime held when the action was decided.
    pub observed: Arc<Observed>,
    /// Fires when the pod ends.
    pub ending: CancellationToken,
}

fn failed(reason: &str, message: String) -> Outcome {
    Outcome::Failed(Waiting { reason: reason.to_owned(), message })
}

impl Job {
    /// Runs one action to its outcome.
    pub async fn run(self, action: Action) -> Outcome {
        match action {
            Action::PrepareVolumes => self.prepare_volumes().await,
            Action::CreateSandbox { attempt } => self.create_sandbox(attempt).await,
            Action::StartContainer { name, restart_count, .. } => self.start(name, restart_count).await,
            Action::KillContainer { id, name, grace_secs, message } => {
                self.kill(&id, &name, grace_secs, message).await
            }
            Action::ResizeContainer { id, name } => self.resize(&id, &name).await,
            Action::StopSandbox { id } => self.plain(self.context.runtime.stop_pod_sandbox(&id).await),
            Action::RemoveContainer { id } => self.remove_container(&id).await,
            Action::RemoveSandbox { id } => self.plain(self.context.runtime.remove_pod_sandbox(&id).await),
            Action::Teardown => self.teardown().await,
        }
    }

    fn event(&self, warning: bool, reason: &str, message: String) {
        self.context.recorder.pod(&self.pod, None, warning, reason, message);
    }

    fn plain(&self, result: Result<(), crate::kubelet::cri::CriError>) -> Outcome {
        match result {
            Ok(()) => Outcome::Done,
            Err(error) => {
                self.event(true, "FailedKillPod", format!("error killing pod: {error}"));
                failed("FailedKillPod", error.to_string())
            }
        }
    }

    async fn prepare_volumes(&self) -> Outcome {
        let allocatable = self.context.allocatable.read().clone();
        let work = self.context.volumes.prepare(&self.pod, &self.status, &allocatable);
        let done = tokio::select! {
            done = work => done,
            () = self.ending.cancelled() => return failed("", String::new()),
        };
        match done {
            Ok(()) => Outcome::Done,
            Err(error) => {
                self.event(true, "FailedMount", error.to_string());
                failed("FailedMount", error.to_string())
            }
        }
    }

    async fn create_sandbox(&self, attempt: u32) -> Outcome {
        let network = self.context.network_error.read().clone();
        if let Some(text) = network.filter(|_| !spec::is_host_network(&self.pod)) {
            let message = format!("network is not ready: {text}");
            self.event(true, "NetworkNotReady", message.clone());
            return failed("NetworkNotReady", message);
        }
        if attempt > 0 {
            self.event(
                false,
                "SandboxChanged",
                "Pod sandbox changed, it will be killed and re-created.".into(),
            );
        }
        let started = std::time::Instant::now();
        let done = self.make_sandbox(attempt).await;
        metrics::observe_operation("run_podsandbox", started.elapsed(), done.is_ok());
        match done {
            Ok(()) => Outcome::Done,
            Err(text) => {
                self.event(true, "FailedCreatePodSandBox", format!("Failed to create pod sandbox: {text}"));
                failed("FailedCreatePodSandBox", text)
            }
        }
    }

    async fn make_sandbox(&self, attempt: u32) -> Result<(), String> {
        self.context
            .cgroups
            .ensure_pod(&self.pod)
            .await
            .map_err(|e| format!("unable to ensure pod container exists: {e}"))?;
        let config = self.context.sandbox_config(&self.pod, attempt)?;
        let logs = &config.log_directory;
        std::fs::create_dir_all(logs).map_err(|e| format!("{logs}: {e}"))?;
        let spec = spec::spec(&self.pod);
        let handler = self.context.runtime_classes.handler(spec.runtime_class_name.as_deref()).await?;
        self.context.runtime.run_pod_sandbox(config, &handler).await.map(drop).map_err(|e| e.to_string())
    }

    async fn start(&self, name: String, restart_count: u32) -> Outcome {
        let Some(sandbox) = self.observed.sandbox().cloned() else {
            return failed("CreateContainerError", "the pod's sandbox is gone".into());
        };
        // The spec may have changed while nothing of the pod ran that could have been resized.
        if let Err(error) = self.context.cgroups.renew_limits(&self.pod).await {
            tracing::debug!(%error, pod = spec::display(&self.pod), "the pod's limits stay as they are");
        }
        let ephemeral = spec::ephemeral_containers(&self.pod).iter().find(|c| c.name == name);
        let target = ephemeral
            .and_then(|c| c.target_container_name.as_deref())
            .and_then(|t| self.observed.latest(t))
            .map(|c| c.id.clone());
        let start = Start {
            context: Arc::clone(&self.context),
            pod: Arc::clone(&self.pod),
            status: self.status.clone(),
            name,
            restart_count,
            sandbox,
            target,
            ending: self.ending.clone(),
        };
        let started = std::time::Instant::now();
        let outcome = start.run().await;
        metrics::observe_operation("start_container", started.elapsed(), outcome == Outcome::Done);
        outcome
    }

    async fn kill(&self, id: &str, name: &str, grace_secs: i64, message: String) -> Outcome {
        self.context.recorder.pod(&self.pod, Some(name), false, "Killing", message);
        // A probe's own grace may be any number, too.
        let grace_secs = grace_secs.min(spec::GRACE_MAX_SECS);
        let left = grace_secs - self.pre_stop(id, name, grace_secs).await;
        let done = self.context.runtime.stop_container(id, left.max(GRACE_MIN_SECS)).await;
        match done {
            Ok(()) => Outcome::Done,
            Err(error) => {
                tracing::warn!(%error, id, name, "cannot stop a container");
                failed("FailedKillPod", error.to_string())
            }
        }
    }

    async fn resize(&self, id: &str, name: &str) -> Outcome {
        let Some((_, container)) = spec::find_container(&self.pod, name) else { return Outcome::Done };
        let event = |warning: bool, reason: &str, text: String| {
            self.context.recorder.pod(&self.pod, Some(name), warning, reason, text);
        };
        match self.change_resources(id, &container).await {
            Ok(()) => {
                event(false, "ResizeCompleted", "Pod resize completed".into());
                Outcome::Done
            }
            Err(text) => {
                event(true, "ResizeError", text.clone());
                failed("ResizeError", text)
            }
        }
    }

    async fn change_resources(&self, id: &str, container: &Container) -> Result<(), String> {
        let mut resources = container_resources(&self.pod, container, self.context.machine);
        let cgroups = &self.context.cgroups;
        let memory = resources.memory_limit_in_bytes;
        if let Some(text) = cgroups.memory_in_the_way(&self.pod, &container.name, id, memory) {
            return Err(text);
        }
        if resources.cpu_quota == 0 {
            // Without a limit the old one must go; 0 would leave it.
            resources.cpu_quota = -1;
        }
        // The pod's own limits grow before its containers' and shrink after them: the kernel refuses a parent with less
        // than its child.
        let mut done = cgroups.ensure_pod(&self.pod).await;
        self.context.runtime.update_resources(id, resources).await.map_err(|e| e.to_string())?;
        for _ in 0..SHRINK_TRIES {
            if done.is_ok() {
                break;
            }
            done = cgroups.ensure_pod(&self.pod).await;
            if done.is_err() {
                tokio::time::sleep(SHRINK_PAUSE).await;
            }
        }
        done.map_err(|e| e.to_string())
    }

    /// Runs the preStop hook within the grace; the seconds it took.
    async fn pre_stop(&self, id: &str, name: &str, grace_secs: i64) -> i64 {
        let Some((_, container)) = spec::find_container(&self.pod, name) else { return 0 };
        let Some(hook) = container.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref()) else { return 0 };
        if grace_secs <= 0 || self.observed.latest(name).is_none_or(|c| c.id != id) {
            return 0;
        }
        let ip = self.observed.sandbox().and_then(|s| s.ips.first().cloned()).unwrap_or_default();
        let limit = Duration::from_secs(grace_secs.unsigned_abs());
        let started = std::time::Instant::now();
        let run = hooks::run(&self.context.runtime, hook, &container, id, &ip, limit);
        if let Ok(Err(text)) = tokio::time::timeout(limit, run).await {
            tracing::info!(pod = spec::display(&self.pod), container = name, text, "preStop failed");
            self.context.recorder.pod(
                &self.pod,
                Some(name),
                true,
                "FailedPreStopHook",
                "PreStopHook failed".into(),
            );
        }
        i64::try_from(started.elapsed().as_secs()).unwrap_or(grace_secs)
    }

    async fn remove_container(&self, id: &str) -> Outcome {
        if let Err(error) = self.context.runtime.remove_container(id).await {
            return failed("RemoveContainer", error.to_string());
        }
        let Some(container) = self.observed.containers.iter().find(|c| c.id == id) else {
            return Outcome::Done;
        };
        let (namespace, pod) = (spec::namespace(&self.pod), spec::name(&self.pod));
        let logs =
            names::pod_log_dir(&self.context.config.pod_logs_dir, namespace, pod, spec::uid(&self.pod));
        let log = logs.join(names::container_log_path(&container.name, container.restart_count));
        crate::kubelet::logs::rotate::remove_all(&log);
        if let Some(dir) = &self.context.config.container_logs_dir {
            let link = dir.join(format!("{pod}_{namespace}_{}-{id}.log", container.name));
            if link.is_symlink() {
                let _ = std::fs::remove_file(link);
            }
        }
        Outcome::Done
    }

    async fn teardown(&self) -> Outcome {
        let uid = spec::uid(&self.pod);
        if let Err(error) = self.context.volumes.teardown(uid).await {
            tracing::warn!(%error, pod = spec::display(&self.pod), "cannot release volumes");
            self.event(true, "FailedUnMount", error.to_string());
            return failed("FailedUnMount", error.to_string());
        }
        match self.context.cgroups.remove_pod(&self.pod).await {
            Ok(()) => Outcome::Done,
            Err(error) => failed("FailedKillPod", error.to_string()),
        }
    }

    /// Removes the folders of a pod of which nothing else is left.
    pub fn remove_folders(&self) {
        let uid = spec::uid(&self.pod);
        if let Err(error) = self.context.volumes.remove_pod_dir(uid) {
            tracing::warn!(%error, uid, "cannot remove the pod's folder");
        }
        let logs = names::pod_log_dir(
            &self.context.config.pod_logs_dir,
            spec::namespace(&self.pod),
            spec::name(&self.pod),
            uid,
        );
        if let Err(error) = std::fs::remove_dir_all(&logs)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%error, path = %logs.display(), "cannot remove the pod's logs");
        }
    }
}
