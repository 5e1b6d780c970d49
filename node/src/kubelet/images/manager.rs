//! Makes sure that a container's image is there.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Container, Pod, Secret};
use parking_lot::Mutex;
use proto::cri;
use tokio::sync::Semaphore;

use super::access::Access;
use super::providers::Providers;
use super::{credentials, names};
use crate::kubelet::cluster::events::Recorder;
use crate::kubelet::config::Config;
use crate::kubelet::cri::Runtime;
use crate::kubelet::cri::client::timed;
use crate::kubelet::cri::security::ImageUser;
use crate::kubelet::pod::container_status::Waiting;

/// Pulls at a time where they are not serialized.
const PARALLEL_PULLS: usize = 8;
/// A pull may take this long; the pod's end interrupts it earlier.
const PULL_TIMEOUT: Duration = Duration::from_secs(3600);
/// In the agent's folder: which pods may use which images.
const ACCESS_FILE: &str = "image-access.json";

/// An image that is there.
#[derive(Clone, Debug)]
pub struct Pulled {
    /// How the runtime wants it named.
    pub reference: String,
    /// The user it names.
    pub user: ImageUser,
}

/// The image is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageError {
    /// The registry or the runtime failed: back-off applies.
    Pull(Waiting),
    /// It will not be pulled: name, policy.
    Refused(Waiting),
}

#[derive(Clone, Copy)]
struct Age {
    seen: Instant,
    used: Option<Instant>,
}

/// The manager. Shared by every pod's worker.
pub struct Images {
    runtime: Runtime,
    recorder: Recorder,
    pulls: Semaphore,
    providers: Providers,
    pub(super) access: Access,
    /// When each image was first seen, and when it was last used by a container, for garbage collection.
    ages: Mutex<HashMap<String, Age>>,
    pub(super) age_min: Duration,
}

impl Images {
    /// A manager over the runtime.
    pub fn new(runtime: Runtime, recorder: Recorder, config: &Config, providers: Providers) -> Arc<Self> {
        let pulls = Semaphore::new(if config.serialize_image_pulls { 1 } else { PARALLEL_PULLS });
        let age_min = config.image_gc_min_age;
        let access = Access::open(config.root_dir.join(ACCESS_FILE));
        Arc::new(Self { runtime, recorder, pulls, providers, access, ages: Mutex::default(), age_min })
    }

    pub(super) fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// Notes the images that are there, and forgets those that are not.
    pub(super) fn note_seen<'a>(&self, ids: impl Iterator<Item = &'a str>, now: Instant) {
        let mut ages = self.ages.lock();
        let fresh = |id: &str| ages.get(id).copied().unwrap_or(Age { seen: now, used: None });
        *ages = ids.map(|id| (id.to_owned(), fresh(id))).collect();
    }

    /// When an image was last used or first seen, and whether it was used since the agent started.
    pub(super) fn idle_since(&self, id: &str) -> Option<(Instant, bool)> {
        let age = *self.ages.lock().get(id)?;
        Some((age.used.unwrap_or(age.seen), age.used.is_some()))
    }

    async fn look(&self, image: &str) -> Result<Option<cri::Image>, Waiting> {
        let spec = cri::ImageSpec { image: image.to_owned(), ..Default::default() };
        let request = cri::ImageStatusRequest { image: Some(spec), verbose: false };
        let answer = self.runtime.images().image_status(timed(request, Duration::from_secs(30))).await;
        match answer {
            Ok(answer) => Ok(answer.into_inner().image),
            Err(status) => Err(Waiting {
                reason: "ImageInspectError".into(),
                message: format!("Failed to inspect image \"{image}\": {}", status.message()),
            }),
        }
    }

    /// Makes the image be there by the container's policy.
    pub async fn ensure(
        &self,
        pod: &Pod,
        container: &Container,
        secrets: &[Secret],
        sandbox: &cri::PodSandboxConfig,
    ) -> Result<Pulled, ImageError> {
        let asked = container.image.clone().unwrap_or_default();
        let name = Some(container.name.as_str());
        let Some(image) = names::with_default_tag(&asked) else {
            let message = format!(
                "Failed to apply default image tag \"{asked}\": couldn't parse image name \"{asked}\": invalid reference format"
            );
            self.recorder.pod(pod, name, true, "InspectFailed", message.clone());
            return Err(ImageError::Refused(Waiting { reason: "InvalidImageName".into(), message }));
        };
        let policy = container.image_pull_policy.as_deref().unwrap_or(default_policy(&image));
        let found =
            if policy == "Always" { None } else { self.look(&image).await.map_err(ImageError::Refused)? };
        let may_use =
            |found: &cri::Image| self.access.allows(&image, found, &credentials::for_image(&image, secrets));
        if let Some(found) = found.filter(may_use) {
            let message = format!(
                "Container image \"{asked}\" already present on machine and can be accessed by the pod"
            );
            self.recorder.pod(pod, name, false, "Pulled", message);
            return Ok(self.pulled(&found));
        }
        // Nor is told that an image is there which the pod may not use.
        if policy == "Never" {
            let message = format!("Container image \"{asked}\" is not present with pull policy of Never");
            self.recorder.pod(pod, name, true, "ErrImageNeverPull", message.clone());
            return Err(ImageError::Refused(Waiting { reason: "ErrImageNeverPull".into(), message }));
        }
        self.pull(pod, container, &asked, &image, secrets, sandbox).await
    }

    async fn pull(
        &self,
        pod: &Pod,
        container: &Container,
        asked: &str,
        image: &str,
        secrets: &[Secret],
        sandbox: &cri::PodSandboxConfig,
    ) -> Result<Pulled, ImageError> {
        let name = Some(container.name.as_str());
        self.recorder.pod(pod, name, false, "Pulling", format!("Pulling image \"{asked}\""));
        let waited = Instant::now();
        // The semaphore is never closed; without a permit the pull would only be less orderly.
        let _turn = self.pulls.acquire().await.ok();
        let started = Instant::now();
        let secret = match self.pull_with_credentials(image, secrets, sandbox).await {
            Ok(secret) => secret,
            Err(text) => {
                let message = format!("failed to pull image \"{asked}\": {text}");
                self.recorder.pod(
                    pod,
                    name,
                    true,
                    "Failed",
                    format!("Failed to pull image \"{asked}\": {text}"),
                );
                self.recorder.pod(pod, name, true, "Failed", "Error: ErrImagePull".into());
                return Err(ImageError::Pull(Waiting { reason: "ErrImagePull".into(), message }));
            }
        };
        let (pulling, all) = (started.elapsed(), waited.elapsed());
        let found = self.look(image).await.map_err(ImageError::Refused)?.unwrap_or_default();
        self.access.note(image, &found.id, secret.as_ref());
        let message = format!(
            "Successfully pulled image \"{asked}\" in {} ({} including waiting). Image size: {} bytes.",
            short(pulling),
            short(all),
            found.size
        );
        self.recorder.pod(pod, name, false, "Pulled", message);
        Ok(self.pulled(&found))
    }

    /// Pulls with each credential that fits until one does it; the pull secret that did, if it was one. What the machine's
    /// own programs know is for all of its pods.
    async fn pull_with_credentials(
        &self,
        image: &str,
        secrets: &[Secret],
        sandbox: &cri::PodSandboxConfig,
    ) -> Result<Option<cri::AuthConfig>, String> {
        let own = credentials::for_image(image, secrets);
        let mut tries: Vec<_> = own.into_iter().map(|auth| (Some(auth), true)).collect();
        tries.extend(self.providers.for_image(image).await.into_iter().map(|auth| (Some(auth), false)));
        if tries.is_empty() {
            tries.push((None, false));
        }
        let mut last = String::new();
        for (auth, is_own) in tries {
            let request = cri::PullImageRequest {
                image: Some(cri::ImageSpec { image: image.to_owned(), ..Default::default() }),
                auth: auth.clone(),
                sandbox_config: Some(sandbox.clone()),
            };
            match self.runtime.images().pull_image(timed(request, PULL_TIMEOUT)).await {
                Ok(_) => return Ok(auth.filter(|_| is_own)),
                Err(status) => {
                    last = format!("rpc error: code = {:?} desc = {}", status.code(), status.message());
                }
            }
        }
        Err(last)
    }

    fn pulled(&self, image: &cri::Image) -> Pulled {
        let now = Instant::now();
        let mut ages = self.ages.lock();
        ages.entry(image.id.clone()).or_insert(Age { seen: now, used: None }).used = Some(now);
        drop(ages);
        Pulled {
            reference: image.id.clone(),
            user: ImageUser { uid: image.uid.as_ref().map(|u| u.value), username: image.username.clone() },
        }
    }
}

/// `Always` for `:latest`, as the API server defaults it; static pods come without.
fn default_policy(image: &str) -> &'static str {
    if image.ends_with(":latest") { "Always" } else { "IfNotPresent" }
}

/// A duration as Go prints it with milliseconds.
fn short(duration: Duration) -> String {
    let millis = duration.as_millis();
    if millis < 1000 { format!("{millis}ms") } else { format!("{}s", millis as f64 / 1000.0) }
}
