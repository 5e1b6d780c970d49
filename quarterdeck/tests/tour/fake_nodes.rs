//! Machines that do not exist: makes nodes, renews their leases, says that pods run, ends those that are to end, and
//! lets deleted ones go.
//!
//! Pods with label `fake/exit` end with that exit code after a moment; so do pods of jobs and those that work on a
//! volume's directory, with 0. A file `dead-<node>` in the folder silences a node.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::watcher;
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};

/// Writes under way at a time.
const PARALLEL: usize = 64;
/// Between two signs of life of a node.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// Between two looks at whether a node may speak again.
const SILENCE_POLL: Duration = Duration::from_millis(500);
/// Tries of a write that the server could not do: half a minute, as long as a server may be away here.
const TRIES_MAX: u32 = 60;
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Runs `count` nodes named `fake-0`… until the task is dropped.
pub async fn run(client: Client, count: usize, folder: PathBuf) {
    for number in 0..count {
        make_node(&client, &format!("fake-{number}")).await.expect("a node is made");
    }
    let beats = renew_all(&client, count, &folder);
    let events = watcher::watcher(Api::<Pod>::all(client.clone()), watcher::Config::default().timeout(30));
    let pods = events
        .filter_map(|event| async move {
            match event {
                Ok(watcher::Event::Apply(pod) | watcher::Event::InitApply(pod)) => Some(pod),
                _ => None,
            }
        })
        .for_each_concurrent(PARALLEL, |pod| {
            let (client, folder) = (client.clone(), folder.clone());
            async move { serve(&client, pod, &folder).await }
        });
    tokio::join!(beats, pods);
}

async fn make_node(client: &Client, name: &str) -> Result<(), kube::Error> {
    let api = Api::<Node>::all(client.clone());
    let node = json!({"metadata": {"name": name,
        "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}}});
    let node = serde_json::from_value(node).expect("a node");
    match api.create(&PostParams::default(), &node).await {
        // It is back after a silence.
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        made => drop(made?),
    }
    let now = jiff::Timestamp::now();
    let last = name.rsplit('-').next().and_then(|number| number.parse::<u32>().ok()).unwrap_or(0) + 1;
    let addresses = json!([{"type": "InternalIP", "address": format!("198.51.100.{last}")}]);
    let capacity = json!({"cpu": "64", "memory": "256Gi", "pods": "2000"});
    let ready = json!({"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "fake",
        "lastHeartbeatTime": now, "lastTransitionTime": now});
    let status = json!({"status": {"capacity": capacity, "allocatable": capacity, "addresses": addresses,
        "conditions": [ready]}});
    api.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.map(drop)
}

/// Whether somebody wants this node to be dead.
fn is_silenced(folder: &Path, node: &str) -> bool {
    folder.join(format!("dead-{node}")).exists()
}

async fn renew_all(client: &Client, count: usize, folder: &Path) {
    let mut silent = BTreeSet::new();
    loop {
        for number in 0..count {
            let name = format!("fake-{number}");
            if is_silenced(folder, &name) {
                silent.insert(name);
                continue;
            }
            // Back again: it says so itself, as an agent would.
            if silent.contains(&name) && make_node(client, &name).await.is_ok() {
                silent.remove(&name);
            }
            let now = machinery::time::format_micro(jiff::Timestamp::now());
            let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": {"name": name, "namespace": "kube-node-lease"},
                "spec": {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": now}});
            let api = Api::<Lease>::namespaced(client.clone(), "kube-node-lease");
            let patch = Patch::Apply(lease);
            if let Err(error) = api.patch(&name, &PatchParams::apply("fake-nodes").force(), &patch).await {
                eprintln!("lease of {name}: {error}");
            }
        }
        tokio::time::sleep(HEARTBEAT).await;
    }
}

/// Takes a pod one step on. What the server cannot do now is tried again, for nothing else brings the pod back here;
/// other failures are told.
async fn serve(client: &Client, pod: Pod, folder: &Path) {
    let (space, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
    let api = Api::<Pod>::namespaced(client.clone(), &space);
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
    if node.is_empty() {
        return;
    }
    while is_silenced(folder, &node) {
        tokio::time::sleep(SILENCE_POLL).await;
    }
    for _ in 0..TRIES_MAX {
        match step(&api, &name, &pod).await {
            Ok(()) => return,
            // Gone in between.
            Err(kube::Error::Api(status)) if status.code == 404 => return,
            Err(error) => {
                eprintln!("{space}/{name}: {error}");
                if matches!(&error, kube::Error::Api(status) if status.code < 500 && status.code != 429) {
                    return;
                }
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        }
    }
}

async fn step(api: &Api<Pod>, name: &str, pod: &Pod) -> Result<(), kube::Error> {
    if pod.metadata.deletion_timestamp.is_some() {
        return api.delete(name, &DeleteParams::default().grace_period(0)).await.map(drop);
    }
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("");
    let patch = match (phase, exit_code(pod)) {
        ("Pending", _) => running(pod),
        ("Running", Some(code)) => ended(pod, code),
        _ => return Ok(()),
    };
    api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
}

fn exit_code(pod: &Pod) -> Option<i32> {
    // Pods that remove or empty a volume's directory.
    if pod.annotations().contains_key("quarterdeck.dev/works-for") {
        return Some(0);
    }
    let named = pod.labels().get("fake/exit").and_then(|text| text.parse().ok());
    named.or_else(|| pod.labels().contains_key("batch.kubernetes.io/job-name").then_some(0))
}

fn address(pod: &Pod) -> String {
    let step = |sum: usize, byte: u8| sum.wrapping_mul(31).wrapping_add(byte.into());
    let sum = pod.uid().unwrap_or_default().bytes().fold(7, step);
    format!("10.{}.{}.{}", sum % 200 + 20, sum / 200 % 250, sum / 50_000 % 250 + 1)
}

fn running(pod: &Pod) -> Value {
    let now = jiff::Timestamp::now();
    let ip = address(pod);
    let statuses = container_statuses(pod, true, json!({"running": {"startedAt": now}}));
    let conditions: Vec<Value> = ["Initialized", "Ready", "ContainersReady", "PodScheduled"]
        .map(|kind| json!({"type": kind, "status": "True", "lastTransitionTime": now}))
        .into();
    json!({"status": {"phase": "Running", "startTime": now, "podIP": ip, "podIPs": [{"ip": ip}],
        "containerStatuses": statuses, "conditions": conditions}})
}

fn ended(pod: &Pod, code: i32) -> Value {
    let now = jiff::Timestamp::now();
    let terminated =
        json!({"terminated": {"exitCode": code, "startedAt": now, "finishedAt": now, "reason": "Completed"}});
    let phase = if code == 0 { "Succeeded" } else { "Failed" };
    let ready =
        json!({"type": "Ready", "status": "False", "reason": "PodCompleted", "lastTransitionTime": now});
    let statuses = container_statuses(pod, false, terminated);
    json!({"status": {"phase": phase, "containerStatuses": statuses, "conditions": [ready]}})
}

fn container_statuses(pod: &Pod, ready: bool, state: Value) -> Vec<Value> {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let status = |name: &str, image: &Option<String>| {
        json!({"name": name, "image": image, "imageID": "fake", "ready": ready, "started": ready,
            "restartCount": 0, "state": state})
    };
    containers.map(|container| status(&container.name, &container.image)).collect()
}
