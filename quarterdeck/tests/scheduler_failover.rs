//! No pod is bound twice while schedulers die and stall: two scheduler processes, a steady load, the leader paused past
//! its lease and woken again, then killed; a watch records every node a pod was ever given.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::TryStreamExt as _;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{PostParams, WatchEvent, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client};
use nix::sys::signal::Signal;
use parking_lot::Mutex;
use serde_json::json;

const ADDRESS: &str = "127.77.9.1";
const PORT: u16 = 6443;
const TOKEN: &str = "admin-token";
const NODES: usize = 40;
const PODS: usize = 1500;
/// Pause between creations: the load lasts through all faults.
const PACE: Duration = Duration::from_millis(8);
const LEASE: Duration = Duration::from_secs(2);
const READY: Duration = Duration::from_secs(60);
/// Long enough for the last election and the rest of the queue.
const SETTLE: Duration = Duration::from_secs(60);

/// A process that is killed when the test ends.
struct Process(Child);

impl Process {
    fn start(folder: &Path, name: &str, args: &[String]) -> Self {
        let log =
            std::fs::OpenOptions::new().create(true).append(true).open(folder.join(name)).expect("a log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_quarterdeck"));
        command.args(args).stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log);
        Self(command.spawn().expect("the process starts"))
    }

    fn signal(&self, signal: Signal) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.0.id()).expect("a process id"));
        nix::sys::signal::kill(pid, signal).expect("signalled");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A process that has ended already is what is wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn texts(args: &[&str]) -> Vec<String> {
    args.iter().map(|a| (*a).to_owned()).collect()
}

fn api_server(folder: &Path) -> Process {
    std::fs::write(folder.join("tokens.csv"), format!("{TOKEN},admin,admin,system:masters\n"))
        .expect("tokens");
    let mut args = texts(&[
        "apiserver",
        "--authorization-mode=RBAC",
        "--disable-admission-plugins=ServiceAccount,TaintNodesByCondition",
    ]);
    args.push(format!("--bind-address={ADDRESS}"));
    args.push(format!("--secure-port={PORT}"));
    args.push(format!("--token-auth-file={}", folder.join("tokens.csv").display()));
    args.push(format!("--embedded-store-dir={}", folder.join("store").display()));
    Process::start(folder, "apiserver.log", &args)
}

fn scheduler(kubeconfig: &Path) -> Process {
    let mut args = texts(&[
        "scheduler",
        "--secure-port=0",
        "--leader-elect=true",
        "--leader-elect-renew-deadline=1500ms",
        "--leader-elect-retry-period=200ms",
    ]);
    args.push(format!("--leader-elect-lease-duration={}s", LEASE.as_secs()));
    args.push(format!("--kubeconfig={}", kubeconfig.display()));
    Process::start(kubeconfig.parent().expect("a folder"), "scheduler.log", &args)
}

async fn client(folder: &Path) -> (Client, PathBuf) {
    let path = folder.join("kubeconfig");
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: x\n\
         clusters: [{{name: c, cluster: {{server: \"https://{ADDRESS}:{PORT}\", insecure-skip-tls-verify: true}}}}]\n\
         users: [{{name: u, user: {{token: {TOKEN}}}}}]\ncontexts: [{{name: x, context: {{cluster: c, user: u}}}}]\n"
    );
    std::fs::write(&path, text).expect("a kubeconfig");
    let kubeconfig = Kubeconfig::read_from(&path).expect("the kubeconfig");
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    let client = Client::try_from(config.expect("a configuration")).expect("a client");
    let deadline = Instant::now() + READY;
    loop {
        let request = http::Request::get("/readyz").body(Vec::new()).expect("a request");
        if client.request_text(request).await.is_ok_and(|text| text == "ok") {
            return (client, path);
        }
        assert!(Instant::now() < deadline, "the API server is not ready");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Every node each pod has ever been seen on, in order.
type History = Arc<Mutex<BTreeMap<String, Vec<String>>>>;

/// Follows all pods from an empty collection on; a broken watch would leave a gap, so it fails the test.
async fn record(pods: Api<Pod>, version: String, history: History) {
    let events = pods.watch(&WatchParams::default().timeout(290), &version).await.expect("a watch");
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.try_next().await.expect("the watch goes on") {
        let (WatchEvent::Added(pod) | WatchEvent::Modified(pod)) = event else { continue };
        let node = pod.spec.and_then(|s| s.node_name).unwrap_or_default();
        let mut history = history.lock();
        let seen = history.entry(pod.metadata.name.unwrap_or_default()).or_default();
        if !node.is_empty() && seen.last() != Some(&node) {
            seen.push(node);
        }
    }
}

async fn create_nodes(client: &Client) {
    let nodes: Api<Node> = Api::all(client.clone());
    for number in 0..NODES {
        let resources = json!({"cpu": "64", "memory": "256Gi", "pods": "110"});
        let node = json!({
            "metadata": {"name": format!("node-{number}")},
            "status": {"capacity": resources, "allocatable": resources},
        });
        let node = serde_json::from_value(node).expect("a node");
        nodes.create(&PostParams::default(), &node).await.expect("created");
    }
}

async fn create_pods(pods: Api<Pod>) {
    for number in 0..PODS {
        let pod = json!({
            "metadata": {"name": format!("pod-{number}")},
            "spec": {"containers": [{"name": "c", "image": "i"}]},
        });
        let pod = serde_json::from_value(pod).expect("a pod");
        pods.create(&PostParams::default(), &pod).await.expect("created");
        tokio::time::sleep(PACE).await;
    }
}

/// Whoever leads meets each of these: a stall past its lease with a return, and a sudden end.
async fn faults(kubeconfig: &Path) -> [Process; 2] {
    let mut first = scheduler(kubeconfig);
    let mut second = scheduler(kubeconfig);
    for _ in 0..2 {
        tokio::time::sleep(LEASE).await;
        first.signal(Signal::SIGSTOP);
        tokio::time::sleep(2 * LEASE).await;
        first.signal(Signal::SIGCONT);
        drop(std::mem::replace(&mut second, scheduler(kubeconfig)));
        std::mem::swap(&mut first, &mut second);
    }
    [first, second]
}

#[tokio::test(flavor = "multi_thread")]
async fn no_pod_is_bound_twice_across_leader_changes() {
    let folder = tempfile::tempdir().expect("a folder");
    let _server = api_server(folder.path());
    let (client, kubeconfig) = client(folder.path()).await;
    create_nodes(&client).await;
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    let version = pods.list(&Default::default()).await.expect("a list").metadata.resource_version;
    let history = History::default();
    let recorder = tokio::spawn(record(pods.clone(), version.unwrap_or_default(), history.clone()));
    let load = tokio::spawn(create_pods(pods));
    let _schedulers = faults(&kubeconfig).await;
    load.await.expect("all pods are created");
    let deadline = Instant::now() + SETTLE;
    while history.lock().values().filter(|nodes| !nodes.is_empty()).count() < PODS {
        assert!(Instant::now() < deadline, "some pods stay unbound");
        assert!(!recorder.is_finished(), "the watch ended");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let twice: Vec<_> =
        history.lock().iter().filter(|(_, n)| n.len() != 1).map(|(p, n)| (p.clone(), n.clone())).collect();
    assert!(twice.is_empty(), "bound more than once: {twice:?}");
    let leases: Api<Lease> = Api::namespaced(client, "kube-system");
    let lease = leases.get("kube-scheduler").await.expect("the lease").spec.expect("a spec");
    assert!(lease.lease_transitions.unwrap_or(0) >= 2, "leadership changed hands: {lease:?}");
}
