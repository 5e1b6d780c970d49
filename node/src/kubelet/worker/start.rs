//! Starting one container: image, configuration, creation, start, postStart.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod, PodStatus, Secret};
use proto::cri;
use tokio_util::sync::CancellationToken;

use super::context::Context;
use super::hooks;
use crate::kubelet::cri::container_config::{ContainerInputs, container_config};
use crate::kubelet::env;
use crate::kubelet::env_file;
use crate::kubelet::images::{ImageError, Pulled};
use crate::kubelet::pod::action::Outcome;
use crate::kubelet::pod::container_status::Waiting;
use crate::kubelet::pod::observed::Sandbox;
use crate::kubelet::pod::spec;
use crate::kubelet::volumes::container_mounts::{MountInputs, mounts};

/// A postStart hook may run this long; only the pod's end stops it earlier.
const POST_START_LIMIT: Duration = Duration::from_secs(3600);
/// How long a start waits for the first list of services.
const SERVICES_LIMIT: Duration = Duration::from_secs(5);

/// One start.
pub struct Start {
    /// What workers share.
    pub context: Arc<Context>,
    /// The pod.
    pub pod: Arc<Pod>,
    /// Its newest status.
    pub status: Arc<PodStatus>,
    /// The container's name.
    pub name: String,
    /// How often it was restarted before.
    pub restart_count: u32,
    /// The sandbox it goes into.
    pub sandbox: Sandbox,
    /// The container whose processes an ephemeral one shares.
    pub target: Option<String>,
    /// Fires when the pod ends: a pull or hook under way is not wanted any more.
    pub ending: CancellationToken,
}

fn waiting(reason: &str, message: impl Into<String>) -> Waiting {
    Waiting { reason: reason.to_owned(), message: message.into() }
}

impl Start {
    /// Runs it to its outcome.
    pub async fn run(self) -> Outcome {
        let Some((_, container)) = spec::find_container(&self.pod, &self.name) else {
            return Outcome::Failed(waiting("CreateContainerError", "the container left the spec"));
        };
        let before = tokio::select! {
            prepared = self.before_create(&container) => prepared,
            () = self.ending.cancelled() => Err(Outcome::Failed(waiting("ContainerCreating", ""))),
        };
        let (config, sandbox_config) = match before {
            Ok(prepared) => prepared,
            Err(outcome) => return outcome,
        };
        match self.create_and_start(&container, config, sandbox_config).await {
            Ok(id) => self.post_start(&container, &id).await,
            Err(waiting) => Outcome::Failed(waiting),
        }
    }

    fn event(&self, warning: bool, reason: &str, message: String) {
        self.context.recorder.pod(&self.pod, Some(&self.name), warning, reason, message);
    }

    async fn before_create(
        &self,
        container: &Container,
    ) -> Result<(cri::ContainerConfig, cri::PodSandboxConfig), Outcome> {
        let config_error = |text: String| {
            self.event(true, "Failed", format!("Error: {text}"));
            Outcome::Failed(waiting("CreateContainerConfigError", text))
        };
        let sandbox_config =
            self.context.sandbox_config(&self.pod, self.sandbox.attempt).map_err(config_error)?;
        let secrets = self.pull_secrets().await;
        let image = self.context.images.ensure(&self.pod, container, &secrets, &sandbox_config).await;
        let image = image.map_err(|error| match error {
            ImageError::Pull(waiting) => Outcome::PullFailed(waiting),
            ImageError::Refused(waiting) => {
                self.event(true, "Failed", format!("Error: {}", waiting.reason));
                Outcome::Failed(waiting)
            }
        })?;
        let config = self.configuration(container, &image).await.map_err(config_error)?;
        Ok((config, sandbox_config))
    }

    async fn pull_secrets(&self) -> Vec<Secret> {
        let spec = spec::spec(&self.pod);
        let mut secrets = Vec::new();
        for reference in spec.image_pull_secrets.iter().flatten() {
            match self.context.objects.secret(spec::namespace(&self.pod), &reference.name).await {
                Ok(Some(secret)) => secrets.push(Arc::unwrap_or_clone(secret)),
                Ok(None) | Err(_) => {
                    let message = format!(
                        "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                        reference.name
                    );
                    self.context.recorder.pod(
                        &self.pod,
                        None,
                        true,
                        "FailedToRetrieveImagePullSecret",
                        message,
                    );
                }
            }
        }
        secrets
    }

    async fn configuration(
        &self,
        container: &Container,
        image: &Pulled,
    ) -> Result<cri::ContainerConfig, String> {
        let volumes = self.context.volumes.of(spec::uid(&self.pod));
        let mut sources = self.env_sources(container).await?;
        sources.files = env_file::read_all(container, &volumes);
        let mut env = env::build(&self.pod, container, &sources).map_err(|e| e.to_string())?;
        let granted =
            self.context.devices.allocate(&self.pod, container, |uid| self.context.is_known(uid)).await?;
        for (name, value) in granted.env {
            env.entry(name).or_insert(value);
        }
        let (mut mounts, mut devices) = mounts(MountInputs {
            layout: self.context.volumes.layout(),
            pod: &self.pod,
            status: &sources.status,
            container,
            restart_count: self.restart_count,
            env: &env,
            volumes: &volumes,
            cluster_domain: &self.context.config.dns.domain,
        })?;
        mounts.extend(granted.mounts);
        devices.extend(granted.devices);
        let seccomp = self.context.volumes.layout().seccomp();
        container_config(ContainerInputs {
            pod: &self.pod,
            container,
            restart_count: self.restart_count,
            image_ref: &image.reference,
            image_user: &image.user,
            env: &env,
            mounts,
            devices,
            annotations: granted.annotations,
            cdi_devices: granted.cdi_devices,
            target: self.target.as_deref(),
            machine: self.context.machine,
            security: self.context.security(&seccomp),
        })
    }

    async fn env_sources(&self, container: &Container) -> Result<env::Sources, String> {
        let namespace = spec::namespace(&self.pod);
        let mut sources = env::Sources { status: PodStatus::clone(&self.status), ..Default::default() };
        if !self.sandbox.ips.is_empty() {
            // The sandbox knows its addresses before the status does.
            sources.status.pod_ip = self.sandbox.ips.first().cloned();
            let ips = self.sandbox.ips.iter().map(|ip| k8s_openapi::api::core::v1::PodIP { ip: ip.clone() });
            sources.status.pod_ips = Some(ips.collect());
        }
        let (maps, secrets) = env::references(container);
        for name in maps {
            let found = self.context.objects.config_map(namespace, &name).await.map_err(|e| e.to_string())?;
            sources.config_maps.extend(found.map(|map| (name, map)));
        }
        for name in secrets {
            let found = self.context.objects.secret(namespace, &name).await.map_err(|e| e.to_string())?;
            sources.secrets.extend(found.map(|secret| (name, secret)));
        }
        if !spec::is_static(&self.pod) && !self.context.services.ready(SERVICES_LIMIT).await {
            return Err("services have not yet been read at least once, cannot construct envvars".into());
        }
        sources.services = self.context.services.for_namespace(namespace);
        sources.allocatable = self.context.allocatable.read().clone();
        Ok(sources)
    }

    async fn create_and_start(
        &self,
        container: &Container,
        config: cri::ContainerConfig,
        sandbox_config: cri::PodSandboxConfig,
    ) -> Result<String, Waiting> {
        let logs = std::path::Path::new(&sandbox_config.log_directory).join(&container.name);
        if let Err(error) = std::fs::create_dir_all(&logs) {
            return Err(waiting("CreateContainerError", format!("{}: {error}", logs.display())));
        }
        let runtime = &self.context.runtime;
        let created = runtime.create_container(&self.sandbox.id, config, sandbox_config).await;
        let id = created.map_err(|error| {
            self.event(true, "Failed", format!("Error: {}", error.message()));
            waiting("CreateContainerError", error.message())
        })?;
        self.event(false, "Created", "Container created".into());
        if let Err(error) = runtime.start_container(&id).await {
            self.event(true, "Failed", format!("Error: {}", error.message()));
            return Err(waiting("RunContainerError", error.message()));
        }
        self.event(false, "Started", "Container started".into());
        self.link_log(container, &id);
        Ok(id)
    }

    /// The link under the name that log collectors look for; without it only they miss something.
    fn link_log(&self, container: &Container, id: &str) {
        let Some(dir) = &self.context.config.container_logs_dir else { return };
        let (namespace, pod) = (spec::namespace(&self.pod), spec::name(&self.pod));
        let link = dir.join(format!("{pod}_{namespace}_{}-{id}.log", container.name));
        let logs = crate::kubelet::cri::names::pod_log_dir(
            &self.context.config.pod_logs_dir,
            namespace,
            pod,
            spec::uid(&self.pod),
        );
        let target =
            logs.join(crate::kubelet::cri::names::container_log_path(&container.name, self.restart_count));
        let made = std::fs::create_dir_all(dir).and_then(|()| std::os::unix::fs::symlink(target, &link));
        if let Err(error) = made {
            tracing::debug!(%error, link = %link.display(), "no link to the log");
        }
    }

    async fn post_start(&self, container: &Container, id: &str) -> Outcome {
        let hook = container.lifecycle.as_ref().and_then(|l| l.post_start.as_ref());
        let Some(hook) = hook else { return Outcome::Done };
        let ip = self.sandbox.ips.first().cloned().unwrap_or_default();
        let done = tokio::select! {
            done = hooks::run(&self.context.runtime, hook, container, id, &ip, POST_START_LIMIT) => done,
            () = self.ending.cancelled() => return Outcome::Done,
        };
        let Err(text) = done else { return Outcome::Done };
        tracing::info!(pod = spec::display(&self.pod), container = self.name, text, "postStart failed");
        self.event(true, "FailedPostStartHook", "PostStartHook failed".into());
        self.event(false, "Killing", "FailedPostStartHook".into());
        let grace = spec::termination_grace_secs(&self.pod);
        if let Err(error) = self.context.runtime.stop_container(id, grace).await {
            tracing::warn!(%error, id, "cannot stop a container whose postStart failed");
        }
        Outcome::Failed(waiting("PostStartHookError", text))
    }
}
