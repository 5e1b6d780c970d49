//! Drivers register by a socket in a well-known folder: it is dialled, asked who it is, and recorded in the
//! node's CSINode. A socket that disappears takes its driver with it.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::storage::v1::{CSINode, CSINodeDriver, CSINodeSpec, VolumeNodeResources};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client};
use proto::pluginregistration::registration_client::RegistrationClient;
use proto::pluginregistration::{InfoRequest, RegistrationStatus};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::driver::{Driver, NodeInfo};
use crate::kubelet::cri::client::unix_channel;
use crate::kubelet::worker::Pool;

/// How often the folder is looked at.
const PERIOD: Duration = Duration::from_secs(1);
/// How long one plugin's registration may take: the others wait for it.
const REGISTER_LIMIT: Duration = Duration::from_secs(30);
/// The kind of plugin this module registers.
const CSI_PLUGIN: &str = "CSIPlugin";

/// Follows the folder until the token fires.
pub async fn run(pool: Arc<Pool>, shutdown: CancellationToken) {
    let mut registered: BTreeMap<PathBuf, (Stamp, String)> = BTreeMap::new();
    // The node whose CSINode is there.
    let mut known: Option<String> = None;
    loop {
        tokio::select! {
            () = tokio::time::sleep(PERIOD) => {}
            () = shutdown.cancelled() => return,
        }
        let uid = pool.node.read().node.as_ref().and_then(|n| n.metadata.uid.clone());
        let Some(uid) = uid else { continue };
        if known.as_ref() != Some(&uid) {
            let context = pool.context();
            if !ensure_csi_node(&api(&context.client), &context.config.node_name, &uid).await {
                continue;
            }
            // One that is new has no drivers.
            registered.clear();
            known = Some(uid);
        }
        let sockets = match sockets(&pool.context().volumes.layout().plugins_registry()) {
            Ok(sockets) => sockets,
            Err(error) => {
                tracing::warn!(%error, "drivers stay as they are: the folder of plugins cannot be read");
                continue;
            }
        };
        for (socket, stamp) in &sockets {
            if registered.get(socket).is_some_and(|(known, _)| known == stamp) {
                continue;
            }
            let done = tokio::time::timeout(REGISTER_LIMIT, register(&pool, socket)).await;
            match done.unwrap_or_else(|_| Err("it did not answer in time".to_owned())) {
                Ok(name) => {
                    registered.insert(socket.clone(), (*stamp, name));
                }
                Err(error) => {
                    tracing::debug!(error, socket = %socket.display(), "a plugin did not register")
                }
            }
        }
        let gone: Vec<PathBuf> =
            registered.keys().filter(|socket| !sockets.contains_key(*socket)).cloned().collect();
        for socket in gone {
            let Some((_, name)) = registered.remove(&socket) else { continue };
            pool.context().csi.remove(&name);
            if let Err(error) = record(&pool, &name, None).await {
                tracing::warn!(%error, name, "a driver's end was not recorded");
            }
        }
    }
}

/// Tells a socket from one that took its place: a plugin that was started anew may be another.
type Stamp = (u64, i64, i64);

fn sockets(dir: &std::path::Path) -> io::Result<BTreeMap<PathBuf, Stamp>> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let mut stamped = BTreeMap::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        match entry.metadata() {
            Ok(data) if data.file_type().is_socket() => {
                stamped.insert(entry.path(), (data.ino(), data.ctime(), data.ctime_nsec()));
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(stamped)
}

async fn register(pool: &Pool, socket: &std::path::Path) -> Result<String, String> {
    let endpoint = socket.display().to_string();
    let channel = unix_channel(&endpoint).await.map_err(|e| e.to_string())?;
    let mut client = RegistrationClient::new(channel);
    let info = client.get_info(InfoRequest {}).await.map_err(|s| s.message().to_owned())?.into_inner();
    if info.r#type != CSI_PLUGIN {
        return Err(format!("plugins of type {} are not served", info.r#type));
    }
    let endpoint = if info.endpoint.is_empty() { endpoint } else { info.endpoint };
    let done = async {
        let driver = Driver::connect(&info.name, &endpoint).await?;
        let node = driver.info().await?;
        record(pool, &info.name, Some(&node)).await.map_err(|e| e.to_string())?;
        pool.context().csi.insert(driver);
        Ok::<_, String>(())
    }
    .await;
    let status = RegistrationStatus {
        plugin_registered: done.is_ok(),
        error: done.as_ref().err().cloned().unwrap_or_default(),
    };
    let told = client.notify_registration_status(status).await;
    told.map_err(|s| s.message().to_owned())?;
    done?;
    tracing::info!(name = info.name, "a storage driver registered");
    Ok(info.name)
}

/// Makes the CSINode, owned by the node of this uid; false while that is not possible. That of an earlier node, which the
/// garbage collector will take along, makes room.
async fn ensure_csi_node(api: &Api<CSINode>, name: &str, uid: &str) -> bool {
    let node = CSINode {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".into(),
                kind: "Node".into(),
                name: name.to_owned(),
                uid: uid.to_owned(),
                ..Default::default()
            }]),
            ..Default::default()
        },
        spec: CSINodeSpec::default(),
    };
    let done = match api.create(&PostParams::default(), &node).await {
        Err(kube::Error::Api(status)) if status.code == 409 => make_room(api, name, uid).await,
        made => made.map(|_| true),
    };
    done.unwrap_or_else(|error| {
        tracing::debug!(%error, "the CSINode cannot be made");
        false
    })
}

/// True if the CSINode that is there is this node's; another node's is removed.
async fn make_room(api: &Api<CSINode>, name: &str, uid: &str) -> Result<bool, kube::Error> {
    let found = api.get(name).await?;
    let owners = || found.metadata.owner_references.iter().flatten().filter(|owner| owner.kind == "Node");
    if owners().next().is_none() || owners().any(|owner| owner.uid == uid) {
        return Ok(true);
    }
    let preconditions = Preconditions { uid: found.metadata.uid.clone(), resource_version: None };
    api.delete(name, &DeleteParams { preconditions: Some(preconditions), ..Default::default() }).await?;
    Ok(false)
}

fn api(client: &Client) -> Api<CSINode> {
    Api::all(client.clone())
}

/// Puts a driver into the CSINode, or takes it out, and its topology onto the node's labels.
async fn record(pool: &Pool, name: &str, info: Option<&NodeInfo>) -> Result<(), kube::Error> {
    let context = pool.context();
    let node_name = &context.config.node_name;
    let api = api(&context.client);
    let mut node = api.get(node_name).await?;
    node.spec.drivers.retain(|d| d.name != name);
    node.spec.drivers.extend(info.map(|info| entry(name, info)));
    api.replace(node_name, &PostParams::default(), &node).await?;
    if let Some(info) = info.filter(|i| !i.topology.is_empty()) {
        let patch = Patch::Merge(json!({"metadata": {"labels": info.topology}}));
        let nodes = Api::<k8s_openapi::api::core::v1::Node>::all(context.client.clone());
        nodes.patch(node_name, &PatchParams::default(), &patch).await?;
    }
    Ok(())
}

fn entry(name: &str, info: &NodeInfo) -> CSINodeDriver {
    let mut keys: Vec<String> = info.topology.keys().cloned().collect();
    keys.sort();
    CSINodeDriver {
        name: name.to_owned(),
        node_id: info.node_id.clone(),
        topology_keys: Some(keys),
        allocatable: i32::try_from(info.volumes_max)
            .ok()
            .filter(|n| *n > 0)
            .map(|count| VolumeNodeResources { count: Some(count) }),
    }
}

#[cfg(test)]
mod tests {
    use http::{Method, Request, Response};
    use kube::client::Body;
    use parking_lot::Mutex;
    use serde_json::Value;

    use super::*;

    #[tokio::test]
    async fn a_node_that_came_back_gets_a_csinode_of_its_own() {
        let held: Arc<Mutex<Option<&str>>> = Arc::new(Mutex::new(Some("old")));
        let service = tower::service_fn(move |request: Request<Body>| {
            let mut held = held.lock();
            let object = |owner: &str| {
                json!({"metadata": {"name": "n", "uid": "u",
                "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "n", "uid": owner}]}, "spec": {"drivers": []}})
            };
            let failure =
                |code: u16| json!({"kind": "Status", "status": "Failure", "code": code, "message": ""});
            let answer: Value = match (request.method(), *held) {
                (&Method::POST, Some(_)) => failure(409),
                (&Method::POST, None) => {
                    *held = Some("new");
                    object("new")
                }
                (&Method::DELETE, Some(owner)) => {
                    *held = None;
                    object(owner)
                }
                (_, Some(owner)) => object(owner),
                (_, None) => failure(404),
            };
            let code = answer["code"].as_u64().and_then(|code| u16::try_from(code).ok()).unwrap_or(200);
            async move { Response::builder().status(code).body(Body::from(answer.to_string().into_bytes())) }
        });
        let api = api(&Client::new(service, "default"));
        assert!(!ensure_csi_node(&api, "n", "new").await, "the old one goes first");
        assert!(ensure_csi_node(&api, "n", "new").await);
        assert!(ensure_csi_node(&api, "n", "new").await, "it is there");
        let owners = api.get("n").await.expect("there").metadata.owner_references.unwrap_or_default();
        assert_eq!(owners.first().map(|owner| owner.uid.as_str()), Some("new"));
    }

    #[test]
    fn a_folder_that_cannot_be_read_is_not_an_empty_one() {
        let dir = tempfile::tempdir().expect("a folder");
        let _listener = std::os::unix::net::UnixListener::bind(dir.path().join("d.sock")).expect("bound");
        std::fs::write(dir.path().join("file"), "").expect("written");
        assert_eq!(sockets(dir.path()).map(|found| found.len()).ok(), Some(1));
        assert!(sockets(&dir.path().join("file")).is_err());
    }

    #[test]
    fn a_driver_without_limit_has_none() {
        let topology = [("zone".to_owned(), "a".to_owned()), ("rack".to_owned(), "b".to_owned())].into();
        let info = NodeInfo { node_id: "i-1".into(), volumes_max: 0, topology };
        let made = entry("d", &info);
        assert_eq!(made.allocatable, None);
        assert_eq!(made.topology_keys, Some(vec!["rack".to_owned(), "zone".to_owned()]));
        let limited = entry("d", &NodeInfo { volumes_max: 5, ..info });
        assert_eq!(limited.allocatable.and_then(|a| a.count), Some(5));
    }
}
