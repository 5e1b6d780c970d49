//! Static pods: read from files on this machine, run without asking anybody, and shown in the API by mirrors.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::PostParams;
use kube::{Api, Client};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use super::cluster::pod_status;
use super::pod::spec::{self, CONFIG_HASH_ANNOTATION, CONFIG_MIRROR_ANNOTATION, CONFIG_SOURCE_ANNOTATION};
use super::worker::pool::full_name;
use super::worker::{Pool, PoolEvent};

/// How often the folder and the mirrors are looked at.
const PERIOD: Duration = Duration::from_secs(2);
/// A file that held a pod may hold none for so many looks before its pod goes: editors do not write all at once. With
/// [`PERIOD`] as long as upstream takes between two looks at the whole folder.
const WRONG_LOOKS_MAX: u32 = 10;

/// Reads one manifest. The pod gets the node's name and an identity that follows file and content.
pub fn parse(path: &Path, text: &str, node_name: &str) -> Result<Pod, String> {
    let mut pod: Pod = serde_yaml_ng::from_str(text).map_err(|e| e.to_string())?;
    let name = pod.metadata.name.clone().filter(|n| !n.is_empty()).ok_or("the pod has no name")?;
    let spec = pod.spec.as_mut().ok_or("the pod has no spec")?;
    if spec.containers.is_empty() {
        return Err("the pod has no containers".into());
    }
    spec.node_name = Some(node_name.to_owned());
    // Static pods stay whatever taints the node gets.
    let stays = Toleration {
        operator: Some("Exists".into()),
        effect: Some("NoExecute".into()),
        ..Default::default()
    };
    spec.tolerations.get_or_insert_default().push(stays);
    let mut hasher = Sha256::new();
    for part in [node_name.as_bytes(), path.as_os_str().as_encoded_bytes(), text.as_bytes()] {
        hasher.update(part);
        hasher.update([0]);
    }
    let uid = hex::encode(&hasher.finalize()[..16]);
    pod.metadata.name = Some(format!("{name}-{node_name}"));
    pod.metadata.namespace.get_or_insert_with(|| "default".into());
    pod.metadata.uid = Some(uid.clone());
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(CONFIG_SOURCE_ANNOTATION.into(), "file".into());
    annotations.insert(CONFIG_HASH_ANNOTATION.into(), uid);
    pod.status = None;
    Ok(pod)
}

/// The API object that shows a static pod. `node_uid` makes the node its owner.
pub fn mirror(pod: &Pod, node_name: &str, node_uid: &str) -> Pod {
    let mut mirror = pod.clone();
    let hash = spec::annotation(pod, CONFIG_HASH_ANNOTATION).unwrap_or_default().to_owned();
    mirror.metadata.uid = None;
    mirror.metadata.annotations.get_or_insert_default().insert(CONFIG_MIRROR_ANNOTATION.into(), hash);
    mirror.metadata.owner_references = Some(vec![OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: node_name.to_owned(),
        uid: node_uid.to_owned(),
        controller: Some(true),
        ..Default::default()
    }]);
    mirror
}

/// What the folder's files held.
#[derive(Default)]
struct Manifests {
    /// By file: its pod, and how many looks in a row it has not held one since.
    files: BTreeMap<PathBuf, (Pod, u32)>,
}

/// Why a file is no static pod.
enum Unusable {
    /// It is not there any more.
    Gone,
    /// It cannot be read now.
    Unreadable(io::Error),
    /// It holds something else, or only half of what it is to hold.
    Wrong(String),
}

fn read_file(path: &Path, node_name: &str) -> Result<Pod, Unusable> {
    let text = std::fs::read_to_string(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Unusable::Gone,
        io::ErrorKind::InvalidData => Unusable::Wrong(error.to_string()),
        _ => Unusable::Unreadable(error),
    })?;
    parse(path, &text, node_name).map_err(Unusable::Wrong)
}

impl Manifests {
    /// The pods that the folder wants, by uid. A file that cannot be used is reported; the pod it held before stays while
    /// it may be in the midst of being written. An error says nothing about any pod.
    fn read(&mut self, dir: &Path, node_name: &str) -> io::Result<BTreeMap<String, Pod>> {
        let entries = match std::fs::read_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => vec![],
            entries => entries?.collect::<io::Result<Vec<_>>>()?,
        };
        let mut files = BTreeMap::new();
        for entry in entries {
            let path = entry.path();
            let hidden = entry.file_name().to_string_lossy().starts_with('.');
            if hidden || std::fs::metadata(&path).is_ok_and(|data| !data.is_file()) {
                continue;
            }
            let (error, looks) = match read_file(&path, node_name) {
                Ok(pod) => {
                    files.insert(path, (pod, 0));
                    continue;
                }
                Err(Unusable::Gone) => continue,
                Err(Unusable::Unreadable(error)) => (error.to_string(), 0),
                Err(Unusable::Wrong(error)) => (error, 1),
            };
            tracing::warn!(error, path = %path.display(), "this file is no static pod");
            if let Some((pod, before)) = self.files.remove(&path)
                && before + looks <= WRONG_LOOKS_MAX
            {
                files.insert(path, (pod, before + looks));
            }
        }
        self.files = files;
        Ok(self.files.values().map(|(pod, _)| (spec::uid(pod).to_owned(), pod.clone())).collect())
    }
}

/// Follows the folder and keeps the mirrors until the token fires.
pub async fn run(pool: Arc<Pool>, shutdown: CancellationToken) {
    let Some(dir) = pool.context().config.static_pod_path.clone() else {
        pool.statics_are_known();
        return;
    };
    let node_name = pool.context().config.node_name.clone();
    let mut manifests = Manifests::default();
    loop {
        match manifests.read(&dir, &node_name) {
            Ok(wanted) => {
                follow(&pool, wanted);
                pool.statics_are_known();
                if let Err(error) = keep_mirrors(&pool).await {
                    tracing::debug!(%error, "mirrors of static pods are not current");
                }
            }
            Err(error) => {
                let path = dir.display();
                tracing::warn!(%error, %path, "static pods stay as they are: their folder cannot be read");
            }
        }
        tokio::select! {
            () = tokio::time::sleep(PERIOD) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

fn follow(pool: &Arc<Pool>, wanted: BTreeMap<String, Pod>) {
    let running: Vec<(String, String)> = pool
        .views()
        .into_iter()
        .filter(|v| spec::is_static(&v.pod))
        .map(|v| (spec::uid(&v.pod).to_owned(), full_name(&v.pod)))
        .collect();
    for (uid, _) in running.iter().filter(|(uid, _)| !wanted.contains_key(uid)) {
        pool.handle(PoolEvent::Delete(uid.clone()));
    }
    for (uid, pod) in wanted {
        // A changed file is another pod of the same name: it waits until the old one is gone.
        let name = full_name(&pod);
        let taken = running.iter().any(|(_, other)| *other == name);
        if !pool.knows(&uid) && !taken {
            pool.handle(PoolEvent::Apply(Arc::new(pod)));
        }
    }
}

/// Makes what is missing of mirrors and removes what is too much. One that fails keeps no other from its turn; the error is
/// the first.
async fn keep_mirrors(pool: &Arc<Pool>) -> Result<(), kube::Error> {
    let node = pool.node.read().node.clone();
    let Some(node_uid) = node.and_then(|n| n.metadata.uid) else { return Ok(()) };
    let statics: Vec<Arc<Pod>> =
        pool.views().into_iter().filter(|v| spec::is_static(&v.pod)).map(|v| v.pod).collect();
    let context = pool.context();
    let mut outcome = Ok(());
    for pod in &statics {
        let found = pool.mirror_of(pod);
        let done = keep_mirror(&context.client, pod, found, &context.config.node_name, &node_uid).await;
        outcome = outcome.and(done);
    }
    let names: Vec<String> = statics.iter().map(|p| full_name(p)).collect();
    for orphan in pool.mirrors().into_iter().filter(|m| !names.contains(&full_name(m))) {
        outcome = outcome.and(pod_status::remove(&context.client, &orphan).await);
    }
    outcome
}

/// One static pod's turn; `found` is the mirror that the API shows.
async fn keep_mirror(
    client: &Client,
    pod: &Pod,
    found: Option<Arc<Pod>>,
    node_name: &str,
    node_uid: &str,
) -> Result<(), kube::Error> {
    let hash = spec::annotation(pod, CONFIG_HASH_ANNOTATION);
    match found {
        Some(found)
            if found.metadata.deletion_timestamp.is_none()
                && spec::annotation(&found, CONFIG_MIRROR_ANNOTATION) == hash =>
        {
            Ok(())
        }
        Some(stale) => pod_status::remove(client, &stale).await,
        None => {
            let api = Api::<Pod>::namespaced(client.clone(), spec::namespace(pod));
            match api.create(&PostParams::default(), &mirror(pod, node_name, node_uid)).await {
                Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
                made => made.map(drop),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "metadata: {name: web}\nspec: {containers: [{name: c, image: i}]}\n";

    #[test]
    fn identity_follows_file_and_content() {
        let pod = parse(Path::new("/m/web.yaml"), TEXT, "n1").expect("a pod");
        assert_eq!((spec::name(&pod), spec::namespace(&pod)), ("web-n1", "default"));
        assert!(spec::is_static(&pod) && !spec::is_mirror(&pod));
        let again = parse(Path::new("/m/web.yaml"), TEXT, "n1").expect("a pod");
        assert_eq!(spec::uid(&pod), spec::uid(&again));
        let changed =
            parse(Path::new("/m/web.yaml"), &TEXT.replace("image: i", "image: j"), "n1").expect("a pod");
        assert_ne!(spec::uid(&pod), spec::uid(&changed));
        for bad in ["", "metadata: {name: x}", "spec: {containers: []}\nmetadata: {name: x}", "[1"] {
            assert!(parse(Path::new("/m/x"), bad, "n1").is_err(), "{bad}");
        }
    }

    #[test]
    fn mirrors_point_back() {
        let pod = parse(Path::new("/m/web.yaml"), TEXT, "n1").expect("a pod");
        let mirror = mirror(&pod, "n1", "node-uid");
        assert!(spec::is_mirror(&mirror));
        assert_eq!(spec::annotation(&mirror, CONFIG_MIRROR_ANNOTATION), Some(spec::uid(&pod)));
        assert_eq!(mirror.metadata.owner_references.map(|o| o[0].uid.clone()), Some("node-uid".into()));
    }

    #[test]
    fn a_pod_stays_until_its_file_is_known_to_want_it_no_more() {
        let root = tempfile::tempdir().expect("a folder");
        let (dir, file) = (root.path().join("m"), root.path().join("m/web.yaml"));
        let mut manifests = Manifests::default();
        let mut count = || manifests.read(&dir, "n1").map(|pods| pods.len()).map_err(|e| e.kind());
        let write = |text: &str| std::fs::write(&file, text).expect("written");
        assert_eq!(count(), Ok(0), "no folder, no pods");
        std::fs::create_dir(&dir).expect("made");
        write(TEXT);
        assert_eq!(count(), Ok(1));
        // Half of it, for as long as somebody may be writing.
        write(&TEXT[..TEXT.len() - 9]);
        let looks: Vec<_> = (0..=WRONG_LOOKS_MAX).map(|_| count()).collect();
        assert_eq!(looks.iter().filter(|n| **n == Ok(1)).count(), WRONG_LOOKS_MAX as usize, "{looks:?}");
        assert_eq!(looks.last(), Some(&Ok(0)));
        write(TEXT);
        assert_eq!(count(), Ok(1));
        // Something that cannot be listed: nobody knows.
        let aside = root.path().join("aside");
        std::fs::rename(&dir, &aside).expect("moved");
        std::fs::write(&dir, "").expect("written");
        assert_eq!(count(), Err(io::ErrorKind::NotADirectory));
        std::fs::remove_file(&dir).expect("removed");
        std::fs::rename(&aside, &dir).expect("moved back");
        assert_eq!(count(), Ok(1));
        std::fs::remove_file(&file).expect("removed");
        assert_eq!(count(), Ok(0));
    }
}
