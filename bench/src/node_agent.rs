//! The agent's own share of a pod's start: from the pod's creation in the API to its container's start, beside the time
//! that containerd alone takes for the same sandbox and container; and the agent's memory, idle and with pods.
//!
//! Runs on the machine of the cluster's only real node, against a running cluster, in its network namespace. The image
//! must be there.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Args;
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client};
use node::kubelet::cri::{Runtime, names};
use proto::cri;
use serde_json::json;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// How long pods may take to start or to go.
const PATIENCE: Duration = Duration::from_secs(300);
const NAMESPACE: &str = "default";
const LABEL: &str = "bench=node";

/// Measures one real node; needs root and a running cluster.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// The runtime's socket.
    #[arg(long)]
    runtime_endpoint: String,
    /// The node.
    #[arg(long, default_value = "node-1")]
    node: String,
    /// An image that is there and goes on running.
    #[arg(long, default_value = "registry.quarterdeck.local/web:v1")]
    image: String,
    /// Pods one by one.
    #[arg(long, default_value_t = 20)]
    single: usize,
    /// Pods at once.
    #[arg(long, default_value_t = 100)]
    batch: usize,
    /// Pods on the node at the same time for the memory figure; 0 leaves it out.
    #[arg(long, default_value_t = 200)]
    full: usize,
    /// The agent's process, for its memory.
    #[arg(long)]
    agent_pid: Option<u32>,
}

/// Runs everything and prints a table.
pub fn run(options: &Options) -> Result<(), Error> {
    tokio::runtime::Runtime::new()?.block_on(measure(options))
}

async fn measure(options: &Options) -> Result<(), Error> {
    let runtime = Runtime::connect(&options.runtime_endpoint).await?;
    let api = Api::<Pod>::namespaced(Client::try_default().await?, NAMESPACE);
    let idle = rss_kib(options.agent_pid)?;
    // Once before the clock runs: caches, bridge, parent cgroups.
    alone(&runtime, options, 0).await?;
    pods(&api, &runtime, options, "warm", 1).await?;

    let mut rows: Vec<(String, Vec<f64>, Vec<f64>)> = Vec::new();
    let (mut bare, mut whole) = (Vec::new(), Vec::new());
    for n in 0..options.single {
        bare.push(alone(&runtime, options, n).await?);
        whole.extend(pods(&api, &runtime, options, &format!("single-{n}"), 1).await?);
    }
    rows.push(("one by one".into(), bare, whole));
    let bare = try_join_all((0..options.batch).map(|n| alone(&runtime, options, n))).await?;
    let whole = pods(&api, &runtime, options, "batch", options.batch).await?;
    rows.push((format!("{} at once", options.batch), bare, whole));

    println!(
        "| pod start, ms | containerd alone p50 / p99 | with the agent p50 / p99 | own share p50 / p99 |"
    );
    println!("|---|--:|--:|--:|");
    for (name, bare, whole) in &mut rows {
        let (a, b) = (percentiles(bare), percentiles(whole));
        let share = (b.0 - a.0, b.1 - a.1);
        println!(
            "| {name} | {:.0} / {:.0} | {:.0} / {:.0} | {:.0} / {:.0} |",
            a.0, a.1, b.0, b.1, share.0, share.1
        );
    }
    if options.full > 0 {
        let (took, with) = full(&api, &runtime, options).await?;
        println!("\n{} pods on one node: all started after {took:.1} s", options.full);
        if let (Some(idle), Some(with)) = (idle, with) {
            let each = (with.saturating_sub(idle)) as f64 / options.full as f64;
            println!(
                "agent memory: {:.1} MiB idle, {:.1} MiB with them, {each:.0} KiB a pod",
                idle as f64 / 1024.0,
                with as f64 / 1024.0
            );
        }
    }
    Ok(())
}

fn percentiles(values: &mut [f64]) -> (f64, f64) {
    values.sort_by(f64::total_cmp);
    let at = |share: f64| values.get(((values.len() as f64 - 1.0) * share).round() as usize).copied();
    (at(0.5).unwrap_or(0.0), at(0.99).unwrap_or(0.0))
}

fn rss_kib(pid: Option<u32>) -> Result<Option<u64>, Error> {
    let Some(pid) = pid else { return Ok(None) };
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    Ok(line.and_then(|l| l.trim().trim_end_matches(" kB").parse().ok()))
}

fn sandbox(n: usize) -> cri::PodSandboxConfig {
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: format!("bench-{n}"),
            uid: format!("bench-{n}"),
            namespace: "bench".into(),
            attempt: 0,
        }),
        hostname: format!("bench-{n}"),
        log_directory: "/tmp/bench-node-logs".into(),
        linux: Some(cri::LinuxPodSandboxConfig::default()),
        ..Default::default()
    }
}

/// Sandbox and container by containerd alone; milliseconds until the container has started. Removes them again.
async fn alone(runtime: &Runtime, options: &Options, n: usize) -> Result<f64, Error> {
    std::fs::create_dir_all("/tmp/bench-node-logs")?;
    let began = Instant::now();
    let sandbox_config = sandbox(n);
    let sandbox = runtime.run_pod_sandbox(sandbox_config.clone(), "").await?;
    let config = cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: "c".into(), attempt: 0 }),
        image: Some(cri::ImageSpec { image: options.image.clone(), ..Default::default() }),
        log_path: format!("{n}.log"),
        linux: Some(cri::LinuxContainerConfig::default()),
        ..Default::default()
    };
    let id = runtime.create_container(&sandbox, config, sandbox_config).await?;
    runtime.start_container(&id).await?;
    let took = began.elapsed().as_secs_f64() * 1e3;
    runtime.stop_pod_sandbox(&sandbox).await?;
    runtime.remove_pod_sandbox(&sandbox).await?;
    Ok(took)
}

fn pod(options: &Options, name: &str) -> Result<Pod, Error> {
    Ok(serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {"bench": "node"}},
        "spec": {"nodeName": options.node, "terminationGracePeriodSeconds": 0, "automountServiceAccountToken": false,
            "containers": [{"name": "c", "image": options.image}]}}))?)
}

/// Creates pods at once, waits until the runtime has started every container, removes them. Milliseconds from each
/// creation to the start as the runtime noted it: both are this machine's clock.
async fn pods(
    api: &Api<Pod>,
    runtime: &Runtime,
    options: &Options,
    prefix: &str,
    count: usize,
) -> Result<Vec<f64>, Error> {
    let created = create(api, options, prefix, count).await?;
    let started = started(runtime, &created).await?;
    remove(api).await?;
    let took = |(uid, at): (&String, &f64)| started.get(uid).map(|start| start - at);
    Ok(created.iter().filter_map(took).collect())
}

fn now_millis() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64() * 1e3)
}

async fn create(
    api: &Api<Pod>,
    options: &Options,
    prefix: &str,
    count: usize,
) -> Result<BTreeMap<String, f64>, Error> {
    let creations = (0..count).map(|n| async move {
        let pod = pod(options, &format!("bench-{prefix}-{n}"))?;
        let at = now_millis();
        let made = api.create(&PostParams::default(), &pod).await?;
        Ok::<_, Error>((made.metadata.uid.unwrap_or_default(), at))
    });
    Ok(try_join_all(creations).await?.into_iter().collect())
}

/// When the runtime started the container of each pod, milliseconds since the epoch.
async fn started(runtime: &Runtime, pods: &BTreeMap<String, f64>) -> Result<BTreeMap<String, f64>, Error> {
    let end = Instant::now() + PATIENCE;
    let running = cri::ContainerState::ContainerRunning as i32;
    let mut found = BTreeMap::new();
    while found.len() < pods.len() {
        if Instant::now() > end {
            return Err(format!("only {} of {} pods started in {PATIENCE:?}", found.len(), pods.len()).into());
        }
        for container in runtime.list_containers(None).await? {
            let uid = container.labels.get(names::POD_UID).cloned().unwrap_or_default();
            if container.state != running || !pods.contains_key(&uid) || found.contains_key(&uid) {
                continue;
            }
            let request = cri::ContainerStatusRequest { container_id: container.id, verbose: false };
            let answer = runtime.runtime().container_status(request).await?.into_inner();
            let nanos = answer.status.map_or(0, |status| status.started_at);
            found.insert(uid, nanos as f64 / 1e6);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(found)
}

async fn remove(api: &Api<Pod>) -> Result<(), Error> {
    let params = ListParams::default().labels(LABEL);
    api.delete_collection(&DeleteParams::default(), &params).await?;
    let end = Instant::now() + PATIENCE;
    while !api.list(&params).await?.items.is_empty() {
        if Instant::now() > end {
            return Err("pods do not go".into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Fills the node; seconds until every container has started, and the agent's memory then, KiB.
async fn full(api: &Api<Pod>, runtime: &Runtime, options: &Options) -> Result<(f64, Option<u64>), Error> {
    let began = Instant::now();
    let created = create(api, options, "full", options.full).await?;
    started(runtime, &created).await?;
    let took = began.elapsed().as_secs_f64();
    // Statuses are sent and buffers of the rush are given back.
    tokio::time::sleep(Duration::from_secs(15)).await;
    let with = rss_kib(options.agent_pid)?;
    remove(api).await?;
    Ok((took, with))
}
