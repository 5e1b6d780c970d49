//! The node side of storage drivers against a driver of our own behind a real socket: what it is asked, in which order
//! and with what, and that everything is taken back.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Bytes;
use k8s_openapi::api::core::v1::Pod;
use kube::client::Body;
use node::kubelet::cluster::objects::{ObjectRef, Objects};
use node::kubelet::csi::Plugins;
use node::kubelet::csi::driver::Driver;
use node::kubelet::volumes::container_mounts::Prepared;
use node::kubelet::volumes::layout::Layout;
use node::kubelet::volumes::source::{Resolved, Source};
use parking_lot::Mutex;
use proto::csi;
use proto::csi::node_server::{Node, NodeServer};
use proto::csi::node_service_capability::rpc::Type as Capability;
use serde_json::{Value, json};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request as Call, Response as Answer, Status};

/// What was asked of the driver, one line a call.
type Calls = Arc<Mutex<Vec<String>>>;

struct Fake(Calls);

impl Fake {
    fn note(&self, call: String) {
        self.0.lock().push(call);
    }
}

#[tonic::async_trait]
impl Node for Fake {
    async fn node_stage_volume(
        &self,
        call: Call<csi::NodeStageVolumeRequest>,
    ) -> Result<Answer<csi::NodeStageVolumeResponse>, Status> {
        let request = call.into_inner();
        self.note(format!("stage {} secret={:?}", request.volume_id, request.secrets.get("key")));
        Ok(Answer::new(csi::NodeStageVolumeResponse {}))
    }

    async fn node_unstage_volume(
        &self,
        call: Call<csi::NodeUnstageVolumeRequest>,
    ) -> Result<Answer<csi::NodeUnstageVolumeResponse>, Status> {
        let call = format!("unstage {}", call.into_inner().volume_id);
        let first = !self.0.lock().contains(&call);
        self.note(call.clone());
        match first && call.ends_with("stuck") {
            true => Err(Status::internal("not at the first go")),
            false => Ok(Answer::new(csi::NodeUnstageVolumeResponse {})),
        }
    }

    async fn node_publish_volume(
        &self,
        call: Call<csi::NodePublishVolumeRequest>,
    ) -> Result<Answer<csi::NodePublishVolumeResponse>, Status> {
        let request = call.into_inner();
        std::fs::create_dir_all(&request.target_path)?;
        let staged = Path::new(&request.staging_target_path).is_dir();
        let pod = request.volume_context.get("csi.storage.k8s.io/pod.name");
        if let Some(tokens) = request.volume_context.get("csi.storage.k8s.io/serviceAccount.tokens") {
            self.note(format!("tokens {tokens}"));
        }
        self.note(format!("publish {} staged={staged} pod={pod:?}", request.volume_id));
        Ok(Answer::new(csi::NodePublishVolumeResponse {}))
    }

    async fn node_unpublish_volume(
        &self,
        call: Call<csi::NodeUnpublishVolumeRequest>,
    ) -> Result<Answer<csi::NodeUnpublishVolumeResponse>, Status> {
        let volume = call.into_inner().volume_id;
        self.note(format!("unpublish {volume}"));
        if volume == "gone" {
            return Err(Status::not_found("volume gone does not exist"));
        }
        Ok(Answer::new(csi::NodeUnpublishVolumeResponse {}))
    }

    async fn node_get_volume_stats(
        &self,
        _: Call<csi::NodeGetVolumeStatsRequest>,
    ) -> Result<Answer<csi::NodeGetVolumeStatsResponse>, Status> {
        Err(Status::unimplemented("not asked for"))
    }

    async fn node_expand_volume(
        &self,
        call: Call<csi::NodeExpandVolumeRequest>,
    ) -> Result<Answer<csi::NodeExpandVolumeResponse>, Status> {
        let request = call.into_inner();
        let bytes = request.capacity_range.map_or(0, |r| r.required_bytes);
        self.note(format!("expand {} to {bytes}", request.volume_id));
        Ok(Answer::new(csi::NodeExpandVolumeResponse { capacity_bytes: bytes }))
    }

    async fn node_get_capabilities(
        &self,
        _: Call<csi::NodeGetCapabilitiesRequest>,
    ) -> Result<Answer<csi::NodeGetCapabilitiesResponse>, Status> {
        let one = |capability: Capability| csi::NodeServiceCapability {
            r#type: Some(csi::node_service_capability::Type::Rpc(csi::node_service_capability::Rpc {
                r#type: capability as i32,
            })),
        };
        let capabilities = vec![one(Capability::StageUnstageVolume), one(Capability::ExpandVolume)];
        Ok(Answer::new(csi::NodeGetCapabilitiesResponse { capabilities }))
    }

    async fn node_get_info(
        &self,
        _: Call<csi::NodeGetInfoRequest>,
    ) -> Result<Answer<csi::NodeGetInfoResponse>, Status> {
        Ok(Answer::new(csi::NodeGetInfoResponse { node_id: "lab".into(), ..Default::default() }))
    }
}

async fn driver(dir: &Path, calls: &Calls) -> Driver {
    let socket = dir.join("csi.sock");
    let listener = tokio::net::UnixListener::bind(&socket).expect("bound");
    let server = tonic::transport::Server::builder().add_service(NodeServer::new(Fake(Arc::clone(calls))));
    tokio::spawn(server.serve_with_incoming(UnixListenerStream::new(listener)));
    Driver::connect("fake.example.com", &socket.display().to_string()).await.expect("connected")
}

/// An API server that knows these paths, whatever is asked of them, and keeps what is patched.
fn api(objects: BTreeMap<&'static str, Value>, patches: Arc<Mutex<Vec<Value>>>) -> kube::Client {
    let objects = Arc::new(objects);
    let service = tower::service_fn(move |request: Request<Body>| {
        let (objects, patches) = (Arc::clone(&objects), Arc::clone(&patches));
        async move {
            let path = request.uri().path().trim_end_matches("/status").to_owned();
            if request.method() == http::Method::PATCH {
                let body = request.into_body().collect().await.map(|b| b.to_bytes()).unwrap_or_default();
                patches.lock().push(serde_json::from_slice(&body).unwrap_or_default());
            }
            let found = objects.get(path.as_str()).cloned();
            let code = if found.is_some() { 200 } else { 404 };
            let missing = json!({"kind": "Status", "code": 404, "reason": "NotFound", "status": "Failure", "message": path});
            let body = Body::from(Bytes::from(found.unwrap_or(missing).to_string()));
            Response::builder().status(code).body(body)
        }
    });
    kube::Client::new(service, "default")
}

fn objects() -> BTreeMap<&'static str, Value> {
    let claims = "/api/v1/namespaces/ns/persistentvolumeclaims/data";
    BTreeMap::from([
        (
            "/apis/storage.k8s.io/v1/csidrivers/fake.example.com",
            json!({"apiVersion": "storage.k8s.io/v1", "kind": "CSIDriver", "metadata": {"name": "fake.example.com"},
                "spec": {"attachRequired": false, "podInfoOnMount": true}}),
        ),
        (
            "/api/v1/namespaces/ns/secrets",
            json!({"apiVersion": "v1", "kind": "SecretList", "metadata": {"resourceVersion": "1"},
                "items": [{"metadata": {"name": "stage", "namespace": "ns"}, "data": {"key": "djE="}}]}),
        ),
        (
            claims,
            json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data", "namespace": "ns"},
                "status": {"capacity": {"storage": "1Gi"},
                    "conditions": [{"type": "FileSystemResizePending", "status": "True"}]}}),
        ),
        (
            "/api/v1/persistentvolumes/pv-1",
            json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "pv-1"},
                "spec": {"capacity": {"storage": "2Gi"}}}),
        ),
    ])
}

fn volume() -> Resolved {
    volume_of("vol-1")
}

fn volume_of(handle: &str) -> Resolved {
    let source = json!({"driver": "fake.example.com", "volumeHandle": handle,
        "nodeStageSecretRef": {"name": "stage", "namespace": "ns"}});
    Resolved {
        name: "data".into(),
        dir_name: "pv-1".into(),
        claim: Some("data".into()),
        source: Source::CsiPersistent(Box::new(serde_json::from_value(source).expect("a source"))),
        read_only: false,
        block: false,
        mount_options: vec![],
        access_modes: vec!["ReadWriteOnce".into()],
    }
}

fn pod(uid: &str) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": uid, "namespace": "ns", "uid": uid}})).expect("a pod")
}

/// Plugins with one driver that writes down what it is asked, and what they work on.
struct Rig {
    plugins: Plugins,
    secrets: Objects,
    _changes: tokio::sync::mpsc::Receiver<ObjectRef>,
    layout: Layout,
    calls: Calls,
    _dir: tempfile::TempDir,
}

async fn rig(client: kube::Client) -> Rig {
    let dir = tempfile::tempdir().expect("a folder");
    let calls = Calls::default();
    let plugins = Plugins::new(client.clone(), "lab");
    plugins.insert(driver(dir.path(), &calls).await);
    let (secrets, changes) = Objects::new(client);
    Rig { plugins, secrets, _changes: changes, layout: Layout::new(dir.path()), calls, _dir: dir }
}

#[tokio::test]
async fn volumes_are_staged_published_grown_and_taken_back() {
    let patches = Arc::default();
    let Rig { plugins, secrets, layout, calls, _changes, _dir } =
        rig(api(objects(), Arc::clone(&patches))).await;
    let (first, second, volume) = (pod("one"), pod("two"), volume());
    let path = plugins.publish(&layout, &secrets, &first, &volume).await.expect("published");
    assert!(path.is_dir());
    let prepared = Prepared { volume: volume.clone(), path };
    plugins.publish(&layout, &secrets, &second, &volume).await.expect("published");
    assert!(plugins.expand(&layout, &first, &prepared).await.expect("grown"));
    let status = patches.lock()[0]["status"].clone();
    assert_eq!((&status["capacity"]["storage"], &status["conditions"]), (&json!("2Gi"), &json!([])));

    plugins.unpublish_all(&layout, "one").await.expect("taken back");
    plugins.unpublish_all(&layout, "two").await.expect("taken back");
    let expected = [
        "stage vol-1 secret=Some(\"v1\")",
        "publish vol-1 staged=true pod=Some(\"one\")",
        "stage vol-1 secret=Some(\"v1\")",
        "publish vol-1 staged=true pod=Some(\"two\")",
        "expand vol-1 to 2147483648",
        "unpublish vol-1",
        // The other pod still uses it: it is unstaged behind the last one.
        "unpublish vol-1",
        "unstage vol-1",
    ];
    assert_eq!(*calls.lock(), expected);
    for uid in ["one", "two"] {
        let left = std::fs::read_dir(layout.volumes(uid).join("kubernetes.io~csi")).expect("a folder");
        assert_eq!(left.count(), 0);
    }
}

#[tokio::test]
async fn what_the_driver_refuses_is_tried_again_and_what_it_does_not_know_is_gone() {
    let check = |handle: &'static str, first: Result<(), &'static str>, expected: &'static [&'static str]| async move {
        let Rig { plugins, secrets, layout, calls, _changes, _dir } =
            rig(api(objects(), Arc::default())).await;
        let pod = pod("one");
        plugins.publish(&layout, &secrets, &pod, &volume_of(handle)).await.expect("published");
        calls.lock().clear();
        let done = plugins.unpublish_all(&layout, "one").await.map_err(|(_, text)| text);
        assert_eq!(done, first.map_err(str::to_owned), "{handle}");
        plugins.unpublish_all(&layout, "one").await.expect("taken back");
        assert_eq!(*calls.lock(), expected, "{handle}");
        for left in [
            layout.volumes("one").join("kubernetes.io~csi"),
            layout.plugins().join("kubernetes.io/csi/fake.example.com"),
        ] {
            assert_eq!(std::fs::read_dir(&left).expect("a folder").count(), 0, "{left:?} after {handle}");
        }
    };
    check("vol-1", Ok(()), &["unpublish vol-1", "unstage vol-1"]).await;
    check("gone", Ok(()), &["unpublish gone", "unstage gone"]).await;
    let text = "rpc error: code = Internal desc = not at the first go";
    let again = &["unpublish stuck", "unstage stuck", "unpublish stuck", "unstage stuck"];
    check("stuck", Err(text), again).await;
}

#[tokio::test]
async fn a_pod_with_two_volumes_of_one_handle_gives_back_both() {
    let Rig { plugins, secrets, layout, calls, _changes, _dir } = rig(api(objects(), Arc::default())).await;
    let pod = pod("one");
    for name in ["pv-1", "pv-2"] {
        let volume = Resolved { dir_name: name.into(), ..volume() };
        plugins.publish(&layout, &secrets, &pod, &volume).await.expect("published");
    }
    calls.lock().clear();
    plugins.unpublish_all(&layout, "one").await.expect("taken back");
    assert_eq!(*calls.lock(), ["unpublish vol-1", "unpublish vol-1", "unstage vol-1"]);
}

#[tokio::test]
async fn a_driver_gets_volumes_of_the_kinds_it_takes() {
    let dir = tempfile::tempdir().expect("a folder");
    let calls = Calls::default();
    let layout = Layout::new(dir.path());
    let pod = pod("one");
    let connected = driver(dir.path(), &calls).await;
    let check = |modes: Value, expected: Result<(), &'static str>| {
        let (connected, layout, pod) = (connected.clone(), &layout, &pod);
        async move {
            let path = "/apis/storage.k8s.io/v1/csidrivers/fake.example.com";
            let mut known = objects();
            match modes.is_null() {
                true => drop(known.remove(path)),
                false => known.get_mut(path).expect("a driver")["spec"]["volumeLifecycleModes"] = modes,
            }
            let client = api(known, Arc::default());
            let plugins = Plugins::new(client.clone(), "lab");
            plugins.insert(connected);
            let (secrets, _changes) = Objects::new(client);
            let inline = serde_json::from_value(json!({"driver": "fake.example.com"})).expect("a source");
            let volume = Resolved { source: Source::CsiInline(inline), claim: None, ..volume() };
            let done = plugins.publish(layout, &secrets, pod, &volume).await.map(drop);
            assert_eq!(done, expected.map_err(str::to_owned));
        }
    };
    check(json!(["Persistent", "Ephemeral"]), Ok(())).await;
    let only =
        "volume mode \"Ephemeral\" not supported by driver fake.example.com (only supports [\"Persistent\"])";
    check(json!([]), Err(only)).await;
    check(json!(["Persistent"]), Err(only)).await;
    let none = "volume mode \"Ephemeral\" not supported by driver fake.example.com (no CSIDriver object)";
    check(json!(null), Err(none)).await;
}

#[tokio::test]
async fn what_variables_come_from_is_known_while_the_api_is_away() {
    let away = Arc::new(AtomicBool::new(false));
    let asked = Arc::new(tokio::sync::Notify::new());
    let (is_away, was_asked) = (Arc::clone(&away), Arc::clone(&asked));
    let service = tower::service_fn(move |request: Request<Body>| {
        let watches = request.uri().query().unwrap_or_default().contains("watch=");
        let refused = is_away.load(Ordering::SeqCst) || watches;
        if watches {
            // The list has arrived.
            was_asked.notify_one();
        }
        async move {
            let list = json!({"apiVersion": "v1", "kind": "ConfigMapList", "metadata": {"resourceVersion": "1"},
                "items": [{"metadata": {"name": "settings", "namespace": "ns"}, "data": {"colour": "red"}}]});
            match refused {
                true => Err(std::io::Error::other("away")),
                false => Ok(Response::new(Body::from(Bytes::from(list.to_string())))),
            }
        }
    });
    let (known, _changes) = Objects::new(kube::Client::new(service, "default"));
    known.keep("ns", vec!["settings".to_owned()], vec![]);
    asked.notified().await;
    away.store(true, Ordering::SeqCst);
    let found = known.config_map("ns", "settings").await.expect("known").expect("there");
    assert_eq!(found.data.as_ref().and_then(|d| d.get("colour")).map(String::as_str), Some("red"));
}

#[tokio::test]
async fn a_driver_that_asks_gets_tokens_and_is_called_again() {
    let mut known = objects();
    let driver_object =
        known.get_mut("/apis/storage.k8s.io/v1/csidrivers/fake.example.com").expect("a driver");
    driver_object["spec"]["tokenRequests"] = json!([{"audience": "vault"}]);
    driver_object["spec"]["requiresRepublish"] = json!(true);
    known.insert(
        "/api/v1/namespaces/ns/serviceaccounts/default/token",
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "metadata": {},
            "spec": {"audiences": ["vault"]},
            "status": {"token": "t1", "expirationTimestamp": "2100-01-01T00:00:00Z"}}),
    );
    let Rig { plugins, secrets, layout, calls, _changes, _dir } = rig(api(known, Arc::default())).await;
    let pod = pod("one");
    plugins.publish(&layout, &secrets, &pod, &volume()).await.expect("published");
    plugins.republish(&layout, &secrets, &pod, &volume()).await.expect("published again");
    let tokens = "tokens {\"vault\":{\"expirationTimestamp\":\"2100-01-01T00:00:00Z\",\"token\":\"t1\"}}";
    let publish = "publish vol-1 staged=true pod=Some(\"one\")";
    assert_eq!(*calls.lock(), ["stage vol-1 secret=Some(\"v1\")", tokens, publish, tokens, publish]);
    plugins.unpublish_all(&layout, "one").await.expect("taken back");
}
