//! Every pod's volumes: prepared once, refreshed while the pod runs, torn down from what is on disk, so that
//! an agent that has forgotten a pod (its own restart) still leaves nothing behind.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::Client;
use parking_lot::Mutex;

use super::container_mounts::Prepared;
use super::layout::Layout;
use super::mounts;
use super::setup::Setup;
use super::source::{Resolved, Source, resolve_all};
use super::tokens::Tokens;
use crate::kubelet::cluster::objects::Objects;
use crate::kubelet::csi::Plugins;
use crate::kubelet::fields::Allocatable;
use crate::kubelet::pod::spec;

/// A pod's volumes are not ready.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// One volume cannot be made. The text is shown in a `FailedMount` event.
    #[error("MountVolume.SetUp failed for volume \"{volume}\" : {text}")]
    SetUp {
        /// The volume's name in the pod.
        volume: String,
        /// Why.
        text: String,
    },
    /// A driver did not grow its volume.
    #[error("MountVolume.NodeExpandVolume failed for volume \"{volume}\" : {text}")]
    Expand {
        /// The volume's name in the pod.
        volume: String,
        /// Why.
        text: String,
    },
    /// Something could not be unmounted or removed; trying again may help.
    #[error("cannot clean up {path}: {source}")]
    CleanUp {
        /// What is left.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A driver did not release its volume.
    #[error("UnmountVolume.TearDown failed for volume \"{volume}\" : {text}")]
    TearDown {
        /// The volume's folder.
        volume: String,
        /// Why.
        text: String,
    },
}

fn failed(path: &Path, source: io::Error) -> VolumeError {
    VolumeError::CleanUp { path: path.display().to_string(), source }
}

/// Runs what may take long (a disk that hangs, millions of files) where no other pod waits for it.
async fn aside(
    path: PathBuf,
    work: impl FnOnce() -> Result<(), VolumeError> + Send + 'static,
) -> Result<(), VolumeError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| failed(&path, io::Error::other(error)))?
}

/// Unmounts everything at and under `root`.
fn unmount_all(root: &Path) -> Result<(), VolumeError> {
    for point in mounts::under(root).map_err(|e| failed(root, e))? {
        mounts::unmount(&point).map_err(|e| failed(&point, e))?;
    }
    Ok(())
}

type PodVolumes = Arc<BTreeMap<String, Prepared>>;

/// The manager. Shared by every pod's worker.
pub struct Volumes {
    client: Client,
    layout: Layout,
    objects: Arc<Objects>,
    tokens: Tokens,
    csi: Arc<Plugins>,
    ready: Mutex<HashMap<String, PodVolumes>>,
}

impl Volumes {
    /// No volumes are known yet.
    pub fn new(client: Client, layout: Layout, objects: Arc<Objects>, csi: Arc<Plugins>) -> Self {
        let tokens = Tokens::new(client.clone());
        Self { client, layout, objects, tokens, csi, ready: Mutex::default() }
    }

    /// Where things are.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The pod's prepared volumes; empty before [`Self::prepare`].
    pub fn of(&self, uid: &str) -> PodVolumes {
        self.ready.lock().get(uid).cloned().unwrap_or_default()
    }

    fn setup<'a>(&'a self, pod: &'a Pod, status: &'a PodStatus, allocatable: &'a Allocatable) -> Setup<'a> {
        Setup { layout: &self.layout, objects: &self.objects, tokens: &self.tokens, pod, status, allocatable }
    }

    /// Makes every volume of the pod ready.
    pub async fn prepare(
        &self,
        pod: &Pod,
        status: &PodStatus,
        allocatable: &Allocatable,
    ) -> Result<(), VolumeError> {
        let uid = spec::uid(pod);
        let dir = self.layout.volumes(uid);
        fs::create_dir_all(&dir)
            .map_err(|source| VolumeError::CleanUp { path: dir.display().to_string(), source })?;
        let resolved = resolve_all(&self.client, pod)
            .await
            .map_err(|(volume, text)| VolumeError::SetUp { volume, text })?;
        let setup = self.setup(pod, status, allocatable);
        let mut prepared = BTreeMap::new();
        for (name, volume) in resolved {
            let path = self.prepare_one(&setup, &volume).await;
            let path = path.map_err(|text| VolumeError::SetUp { volume: name.clone(), text })?;
            let one = Prepared { volume, path };
            self.grow(pod, &name, &one).await?;
            prepared.insert(name, one);
        }
        self.ready.lock().insert(uid.to_owned(), Arc::new(prepared));
        Ok(())
    }

    async fn prepare_one(&self, setup: &Setup<'_>, volume: &Resolved) -> Result<std::path::PathBuf, String> {
        match &volume.source {
            Source::CsiInline(_) | Source::CsiPersistent(_) => {
                self.csi.publish(&self.layout, &self.objects, setup.pod, volume).await
            }
            _ => setup.prepare(volume).await,
        }
    }

    /// Brings files from API objects up to date. A volume that cannot be has no part in the others: a token must be renewed
    /// whatever becomes of a ConfigMap. The error is the first one.
    pub async fn refresh(
        &self,
        pod: &Pod,
        status: &PodStatus,
        allocatable: &Allocatable,
    ) -> Result<(), VolumeError> {
        let setup = self.setup(pod, status, allocatable);
        let mut outcome = Ok(());
        for (name, prepared) in self.of(spec::uid(pod)).iter() {
            let done = self.refresh_one(&setup, name, prepared).await;
            outcome = outcome.and(done);
        }
        outcome
    }

    async fn refresh_one(
        &self,
        setup: &Setup<'_>,
        name: &str,
        prepared: &Prepared,
    ) -> Result<(), VolumeError> {
        let failed = |text| VolumeError::SetUp { volume: name.to_owned(), text };
        if prepared.volume.source.is_live() {
            setup.prepare(&prepared.volume).await.map_err(failed)?;
        }
        let again = self.csi.republish(&self.layout, &self.objects, setup.pod, &prepared.volume).await;
        again.map_err(failed)?;
        self.grow(setup.pod, name, prepared).await
    }

    /// Lets a volume follow its disk if that has grown.
    async fn grow(&self, pod: &Pod, name: &str, prepared: &Prepared) -> Result<(), VolumeError> {
        let grown = self.csi.expand(&self.layout, pod, prepared).await;
        if grown.map_err(|text| VolumeError::Expand { volume: name.to_owned(), text })? {
            tracing::info!(pod = spec::display(pod), volume = name, "a volume has grown");
        }
        Ok(())
    }

    /// Unmounts and removes the pod's volumes. Its folder stays: it holds the last words of its containers.
    /// Nothing that is still mounted is ever deleted into.
    pub async fn teardown(&self, uid: &str) -> Result<(), VolumeError> {
        let pod_dir = self.layout.pod(uid);
        self.forget(uid);
        if uid.is_empty() || !pod_dir.exists() {
            return Ok(());
        }
        let subpaths = self.layout.subpaths(uid);
        aside(pod_dir.clone(), move || unmount_all(&subpaths)).await?;
        self.csi
            .unpublish_all(&self.layout, uid)
            .await
            .map_err(|(volume, text)| VolumeError::TearDown { volume, text })?;
        let dirs = [self.layout.volumes(uid), self.layout.subpaths(uid)];
        aside(pod_dir.clone(), move || {
            unmount_all(&pod_dir)?;
            if let Some(point) = mounts::under(&pod_dir).map_err(|e| failed(&pod_dir, e))?.first() {
                return Err(failed(point, io::Error::other("it is still mounted")));
            }
            let mut there = dirs.iter().filter(|dir| dir.exists());
            there.try_for_each(|dir| fs::remove_dir_all(dir).map_err(|e| failed(dir, e)))
        })
        .await
    }

    /// Removes the folder of a pod whose volumes are torn down.
    pub fn remove_pod_dir(&self, uid: &str) -> Result<(), VolumeError> {
        let dir = self.layout.pod(uid);
        let failed = |source| VolumeError::CleanUp { path: dir.display().to_string(), source };
        if uid.is_empty() || !dir.exists() {
            return Ok(());
        }
        if !mounts::under(&dir).map_err(failed)?.is_empty() {
            return Err(failed(io::Error::other("something is still mounted in it")));
        }
        fs::remove_dir_all(&dir).map_err(failed)
    }

    fn forget(&self, uid: &str) {
        self.ready.lock().remove(uid);
        self.tokens.forget(uid);
    }

    /// Pods that have something on disk.
    pub fn pods_on_disk(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.layout.pods()) else { return vec![] };
        entries.flatten().filter_map(|e| e.file_name().into_string().ok()).collect()
    }
}

#[cfg(test)]
mod tests {
    use http::{Request, Response};
    use kube::client::Body;
    use serde_json::json;

    use super::*;

    /// An API with these ConfigMaps, of one key each, that can be listed by name.
    fn api(maps: &'static [(&str, &str)]) -> Client {
        let service = tower::service_fn(move |request: Request<Body>| async move {
            let query = request.uri().query().unwrap_or_default();
            if query.contains("watch=") {
                return Err(io::Error::other("no watch here"));
            }
            let asked = maps.iter().filter(|(name, _)| query.contains(&format!("metadata.name%3D{name}")));
            let items: Vec<_> = asked
                .map(|(name, value)| json!({"metadata": {"name": name, "namespace": "ns"}, "data": {"key": value}}))
                .collect();
            let list = json!({"kind": "ConfigMapList", "apiVersion": "v1",
                "metadata": {"resourceVersion": "1"}, "items": items});
            Ok(Response::new(Body::from(list.to_string().into_bytes())))
        });
        Client::new(service, "ns")
    }

    #[tokio::test]
    async fn a_volume_that_cannot_be_refreshed_does_not_keep_the_others_from_it() {
        let dir = tempfile::tempdir().expect("a folder");
        let pod = json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": {"containers": [],
            "volumes": [{"name": "a", "configMap": {"name": "first"}}, {"name": "b", "configMap": {"name": "second"}}]}});
        let pod: Pod = serde_json::from_value(pod).expect("a pod");
        let client = api(&[("first", "old"), ("second", "old")]);
        let objects = Arc::new(Objects::new(client.clone()).0);
        let csi = Arc::new(Plugins::new(client.clone(), "lab"));
        let mut volumes = Volumes::new(client, Layout::new(dir.path()), objects, csi);
        let status = PodStatus::default();
        volumes.prepare(&pod, &status, &Allocatable::default()).await.expect("prepared");

        // The first map is gone, the second has changed.
        volumes.objects = Arc::new(Objects::new(api(&[("second", "new")])).0);
        let done = volumes.refresh(&pod, &status, &Allocatable::default()).await;
        let text = done.expect_err("the first cannot be").to_string();
        assert!(text.contains("volume \"a\"") && text.contains("\"first\" not found"), "{text}");
        let read = |name: &str| {
            let folder = volumes.of("u").get(name).expect("prepared").path.clone();
            fs::read_to_string(folder.join("key")).expect("readable")
        };
        assert_eq!([read("a"), read("b")], ["old", "new"]);
    }
}
