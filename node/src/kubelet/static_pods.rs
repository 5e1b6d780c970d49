//! Static pods: read from files on this machine, run without asking anybody, and shown in the API by mirrors.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Api;
use kube::api::PostParams;
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use super::cluster::pod_status;
use super::pod::spec::{self, CONFIG_HASH_ANNOTATION, CONFIG_MIRROR_ANNOTATION, CONFIG_SOURCE_ANNOTATION};
use super::worker::pool::full_name;
use super::worker::{Pool, PoolEvent};

/// How often the folder and the mirrors are looked at.
const PERIOD: Duration = Duration::from_secs(2);

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

/// Reads every manifest of the folder; a file that cannot be used is reported and left out.
fn read_folder(dir: &Path, node_name: &str) -> BTreeMap<String, Pod> {
    let Ok(entries) = std::fs::read_dir(dir) else { return BTreeMap::new() };
    let mut pods = BTreeMap::new();
    for entry in entries.flatten() {
        let path = entry.path();
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        if hidden || !path.is_file() {
            continue;
        }
        let parsed = std::fs::read_to_string(&path)
            .map_err(|e| e.to_string())
            .and_then(|text| parse(&path, &text, node_name));
        match parsed {
            Ok(pod) => {
                pods.insert(spec::uid(&pod).to_owned(), pod);
            }
            Err(error) => tracing::warn!(error, path = %path.display(), "this file is no static pod"),
        }
    }
    pods
}

/// Follows the folder and keeps the mirrors until the token fires.
pub async fn run(pool: Arc<Pool>, shutdown: CancellationToken) {
    let Some(dir) = pool.context().config.static_pod_path.clone() else { return };
    let node_name = pool.context().config.node_name.clone();
    loop {
        follow(&pool, read_folder(&dir, &node_name));
        if let Err(error) = keep_mirrors(&pool).await {
            tracing::debug!(%error, "mirrors of static pods are not current");
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

async fn keep_mirrors(pool: &Arc<Pool>) -> Result<(), kube::Error> {
    let node = pool.node.read().node.clone();
    let Some(node_uid) = node.and_then(|n| n.metadata.uid) else { return Ok(()) };
    let context = pool.context();
    let statics: Vec<Arc<Pod>> =
        pool.views().into_iter().filter(|v| spec::is_static(&v.pod)).map(|v| v.pod).collect();
    for pod in &statics {
        let hash = spec::annotation(pod, CONFIG_HASH_ANNOTATION);
        match pool.mirror_of(pod) {
            Some(found)
                if found.metadata.deletion_timestamp.is_none()
                    && spec::annotation(&found, CONFIG_MIRROR_ANNOTATION) == hash => {}
            Some(stale) => pod_status::remove(&context.client, &stale).await?,
            None => {
                let body = mirror(pod, &context.config.node_name, &node_uid);
                let api = Api::<Pod>::namespaced(context.client.clone(), spec::namespace(pod));
                match api.create(&PostParams::default(), &body).await {
                    Ok(_) => {}
                    Err(kube::Error::Api(status)) if status.code == 409 => {}
                    Err(error) => return Err(error),
                }
            }
        }
    }
    let names: Vec<String> = statics.iter().map(|p| full_name(p)).collect();
    for orphan in pool.mirrors().into_iter().filter(|m| !names.contains(&full_name(m))) {
        pod_status::remove(&context.client, &orphan).await?;
    }
    Ok(())
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
}
