//! A cluster of machines that do not exist, for benchmarks and the tour: makes nodes, renews their leases, binds pods
//! (round robin, unless a scheduler is to do it), runs them at once and lets deleted ones go.
//!
//! `fake-nodes <kubeconfig> <nodes> [--no-bind]`. Pods with label `fake/exit` end with that exit code after a moment;
//! so do pods of jobs, with 0. `touch $TOUR_SILENCE/dead-<node>` silences a node.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::watcher;
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// Writes under way at a time.
const PARALLEL: usize = 64;

#[tokio::main]
async fn main() -> Result<(), AnyError> {
    let mut args = std::env::args().skip(1);
    let kubeconfig = args.next().ok_or("usage: fake-nodes <kubeconfig> <nodes> [--no-bind]")?;
    let count: usize = args.next().unwrap_or_else(|| "3".into()).parse()?;
    let binds = args.next().as_deref() != Some("--no-bind");
    let options = machinery::client::Options { kubeconfig: Some(kubeconfig.into()), ..Default::default() };
    let client = machinery::client::build(&options).await?;
    for number in 0..count {
        make_node(&client, &format!("fake-{number}")).await?;
    }
    tokio::spawn(renew_all(client.clone(), count));
    println!("{count} nodes");
    let next = Arc::new(AtomicUsize::new(0));
    let pods = Api::<Pod>::all(client.clone());
    let events = watcher::watcher(pods, watcher::Config::default().timeout(30));
    events
        .filter_map(|event| async move {
            match event {
                Ok(watcher::Event::Apply(pod) | watcher::Event::InitApply(pod)) => Some(pod),
                _ => None,
            }
        })
        .for_each_concurrent(PARALLEL, |pod| {
            let (client, next) = (client.clone(), next.clone());
            async move {
                if let Err(error) = serve(&client, pod, binds, &next, count).await {
                    eprintln!("{error}");
                }
            }
        })
        .await;
    Ok(())
}

async fn make_node(client: &Client, name: &str) -> Result<(), AnyError> {
    let api = Api::<Node>::all(client.clone());
    let zone = format!("zone-{}", name.len() % 2);
    let node: Node = serde_json::from_value(json!({"metadata": {"name": name, "labels": {
        "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "topology.kubernetes.io/zone": zone}}}))?;
    // It may be there from an earlier run.
    let _ = api.create(&PostParams::default(), &node).await;
    let now = jiff::Timestamp::now();
    let last = name.rsplit('-').next().and_then(|number| number.parse::<u32>().ok()).unwrap_or(0) % 250 + 1;
    let addresses = json!([{"type": "InternalIP", "address": format!("198.51.100.{last}")}]);
    let capacity = json!({"cpu": "64", "memory": "256Gi", "pods": "2000"});
    let status = json!({"status": {"capacity": capacity, "allocatable": capacity, "addresses": addresses, "conditions": [
        {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "fake", "lastHeartbeatTime": now, "lastTransitionTime": now}]}});
    api.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await?;
    Ok(())
}

/// Whether somebody wants this node to be dead.
fn is_silenced(node: &str) -> bool {
    let folder = std::env::var_os("TOUR_SILENCE");
    folder.is_some_and(|folder| Path::new(&folder).join(format!("dead-{node}")).exists())
}

async fn renew_all(client: Client, count: usize) {
    let mut silent = std::collections::BTreeSet::new();
    loop {
        for number in 0..count {
            let name = format!("fake-{number}");
            if is_silenced(&name) {
                silent.insert(name);
                continue;
            }
            // Back again: it says so itself, as an agent would.
            if silent.remove(&name)
                && let Err(error) = make_node(&client, &name).await
            {
                eprintln!("status of {name}: {error}");
            }
            let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": {"name": name, "namespace": "kube-node-lease"},
                "spec": {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": now_micro()}});
            let api = Api::<Lease>::namespaced(client.clone(), "kube-node-lease");
            let patch = Patch::Apply(lease);
            if let Err(error) = api.patch(&name, &PatchParams::apply("fake-nodes").force(), &patch).await {
                eprintln!("lease of {name}: {error}");
            }
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
}

fn now_micro() -> String {
    machinery::time::format_micro(jiff::Timestamp::now())
}

/// Takes a pod one step on.
async fn serve(
    client: &Client,
    pod: Pod,
    binds: bool,
    next: &AtomicUsize,
    count: usize,
) -> Result<(), AnyError> {
    let space = pod.namespace().unwrap_or_default();
    let name = pod.name_any();
    let api = Api::<Pod>::namespaced(client.clone(), &space);
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
    if node.is_empty() {
        if binds && pod.metadata.deletion_timestamp.is_none() {
            let target = wanted_node(&pod)
                .unwrap_or_else(|| format!("fake-{}", next.fetch_add(1, Ordering::Relaxed) % count));
            bind(client, &space, &name, &target).await?;
        }
        return Ok(());
    }
    while is_silenced(&node) {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    if pod.metadata.deletion_timestamp.is_some() {
        let _ = api.delete(&name, &DeleteParams::default().grace_period(0)).await;
        return Ok(());
    }
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("");
    let patch = match (phase, exit_code(&pod)) {
        ("Pending", _) => running(&pod),
        ("Running", Some(code)) => ended(&pod, code),
        _ => return Ok(()),
    };
    let _ = api.patch_status(&name, &PatchParams::default(), &Patch::Merge(patch)).await;
    Ok(())
}

async fn bind(client: &Client, space: &str, name: &str, node: &str) -> Result<(), AnyError> {
    let body = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node}});
    let path = format!("/api/v1/namespaces/{space}/pods/{name}/binding");
    let request = http::Request::post(path)
        .header("content-type", "application/json")
        .body(serde_json::to_vec(&body)?)?;
    // A pod that has gone, or that someone else has bound, is no trouble.
    let _ = client.request::<Value>(request).await;
    Ok(())
}

/// The node that a daemon's pod names in its affinity.
fn wanted_node(pod: &Pod) -> Option<String> {
    let affinity = pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
    let required = affinity.required_during_scheduling_ignored_during_execution.as_ref()?;
    let fields = required.node_selector_terms.first()?.match_fields.as_ref()?;
    fields.first()?.values.as_ref()?.first().cloned()
}

fn exit_code(pod: &Pod) -> Option<i32> {
    // Pods that remove or empty a volume's directory.
    if pod.annotations().contains_key("quarterdeck.dev/works-for") {
        return Some(0);
    }
    let labels: &BTreeMap<String, String> = pod.metadata.labels.as_ref()?;
    let named = labels.get("fake/exit").and_then(|text| text.parse().ok());
    named.or_else(|| labels.contains_key("batch.kubernetes.io/job-name").then_some(0))
}

fn address(pod: &Pod) -> String {
    let sum: usize = pod
        .uid()
        .unwrap_or_default()
        .bytes()
        .fold(7, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
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
    let conditions =
        json!([{"type": "Ready", "status": "False", "reason": "PodCompleted", "lastTransitionTime": now}]);
    json!({"status": {"phase": phase, "containerStatuses": container_statuses(pod, false, terminated), "conditions": conditions}})
}

fn container_statuses(pod: &Pod, ready: bool, state: Value) -> Vec<Value> {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    containers
        .map(|container| {
            json!({"name": container.name, "image": container.image, "imageID": "fake", "ready": ready, "started": ready,
                "restartCount": 0, "state": state})
        })
        .collect()
}
