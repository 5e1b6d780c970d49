//! Load through the API, from a client that has a list of servers and goes to the next when one does not answer.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod};
use kube::api::{Api, DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use serde_json::json;
use tokio::task::JoinHandle;

/// A single request that takes longer is given up and tried on the next server.
const REQUEST_TIMEOUT: Duration = Duration::from_millis(500);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// What a load saw.
#[derive(Debug)]
pub struct Seen {
    /// Names that were acknowledged.
    pub acknowledged: BTreeSet<String>,
    /// The longest time between two successes.
    pub longest_gap: Duration,
}

impl Seen {
    fn nothing() -> Self {
        Seen { acknowledged: BTreeSet::new(), longest_gap: Duration::ZERO }
    }

    fn success(&mut self, name: String, last: &mut Instant) {
        self.acknowledged.insert(name);
        self.longest_gap = self.longest_gap.max(last.elapsed());
        *last = Instant::now();
    }
}

/// A load that runs until it is asked what it saw.
pub struct Load {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Seen>,
}

impl Load {
    pub async fn end(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("the load")
    }

    /// Creates one object after the other.
    pub fn writes(clients: Vec<Client>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        Load { stop: stop.clone(), task: tokio::spawn(write(Clients { all: clients, at: 0 }, stop)) }
    }

    /// Creates one ReplicaSet after the other, each once the pod of the one before is there (controllers) and has a node
    /// (scheduler).
    pub fn pods(clients: Vec<Client>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        Load { stop: stop.clone(), task: tokio::spawn(make_pods(Clients { all: clients, at: 0 }, stop)) }
    }
}

async fn write(mut clients: Clients, stop: Arc<AtomicBool>) -> Seen {
    let (mut seen, mut last) = (Seen::nothing(), Instant::now());
    while !stop.load(Ordering::Relaxed) {
        // Not acknowledged, it may or may not be there: the next one has another name.
        let name = fresh_name("w");
        let api: Api<ConfigMap> = Api::namespaced(clients.current(), "default");
        let object = ConfigMap { metadata: named(&name), ..Default::default() };
        match clients.ask(api.create(&PostParams::default(), &object)).await {
            Some(created) => seen.success(created.name_any(), &mut last),
            None => tokio::time::sleep(POLL_INTERVAL).await,
        }
    }
    seen
}

async fn make_pods(mut clients: Clients, stop: Arc<AtomicBool>) -> Seen {
    let (mut seen, mut last) = (Seen::nothing(), Instant::now());
    while !stop.load(Ordering::Relaxed) {
        let name = fresh_name("p");
        let sets: Api<ReplicaSet> = Api::namespaced(clients.current(), "default");
        if clients.ask(sets.create(&PostParams::default(), &replica_set(&name))).await.is_none() {
            tokio::time::sleep(POLL_INTERVAL).await;
            continue;
        }
        while !has_bound_pod(&mut clients, &name).await && !stop.load(Ordering::Relaxed) {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        seen.success(name.clone(), &mut last);
        let sets: Api<ReplicaSet> = Api::namespaced(clients.current(), "default");
        // One that stays is a pod more on a node without a kubelet.
        let _ = clients.ask(sets.delete(&name, &DeleteParams::background())).await;
    }
    seen
}

/// The servers a client knows, and the one it uses.
struct Clients {
    all: Vec<Client>,
    at: usize,
}

impl Clients {
    fn current(&self) -> Client {
        self.all[self.at].clone()
    }

    /// The answer; without one the next question goes to the next server.
    async fn ask<T>(&mut self, answer: impl Future<Output = kube::Result<T>>) -> Option<T> {
        match tokio::time::timeout(REQUEST_TIMEOUT, answer).await {
            Ok(Ok(answer)) => Some(answer),
            Ok(Err(_)) | Err(_) => {
                self.at = (self.at + 1) % self.all.len();
                None
            }
        }
    }
}

fn fresh_name(prefix: &str) -> String {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    format!("{prefix}-{}", NUMBER.fetch_add(1, Ordering::Relaxed))
}

fn named(name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.to_owned()), ..Default::default() }
}

fn replica_set(name: &str) -> ReplicaSet {
    let manifest = json!({
        "metadata": {"name": name},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"set": name}},
            "template": {
                "metadata": {"labels": {"set": name}},
                "spec": {"containers": [{"name": "c", "image": "never-pulled"}]},
            },
        },
    });
    serde_json::from_value(manifest).expect("a ReplicaSet")
}

async fn has_bound_pod(clients: &mut Clients, set: &str) -> bool {
    let pods: Api<Pod> = Api::namespaced(clients.current(), "default");
    let params = ListParams::default().labels(&format!("set={set}"));
    let list = clients.ask(pods.list(&params)).await;
    list.is_some_and(|list| {
        list.items.iter().any(|pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some()))
    })
}

/// A node for pods to be bound to. Nobody runs it, so the servers must not run the node lifecycle controller.
pub async fn add_node(client: &Client) {
    let nodes: Api<Node> = Api::all(client.clone());
    let node = Node { metadata: named("paper"), ..Default::default() };
    nodes.create(&PostParams::default(), &node).await.expect("a node");
    let capacity = json!({"cpu": "1000", "memory": "1000Gi", "pods": "100000"});
    let status = json!({"status": {
        "capacity": capacity,
        "allocatable": capacity,
        "conditions": [{"type": "Ready", "status": "True", "reason": "Paper", "message": ""}],
    }});
    nodes.patch_status("paper", &PatchParams::default(), &Patch::Merge(&status)).await.expect("a status");
    let untainted = json!({"spec": {"taints": null}});
    nodes.patch("paper", &PatchParams::default(), &Patch::Merge(&untainted)).await.expect("no taints");
}

/// Everything acknowledged is there, on every server.
pub async fn assert_nothing_lost(clients: &[Client], seen: &Seen) {
    for (index, client) in clients.iter().enumerate() {
        let api: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
        let there: BTreeSet<String> = api
            .list(&ListParams::default())
            .await
            .expect("a list")
            .items
            .iter()
            .map(ResourceExt::name_any)
            .collect();
        let lost: Vec<_> = seen.acknowledged.difference(&there).collect();
        assert!(lost.is_empty(), "server {index} lost {lost:?}");
    }
}
