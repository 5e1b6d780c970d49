//! From a pod's creation through the API to its binding, with real servers: upstream's three processes, then ours.
//!
//! A pod counts when a watch shows it bound; its latency runs from the moment its creation was sent.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use hdrhistogram::Histogram;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::json;

use crate::apiserver::{Until, closed_loop};
use crate::control_plane::http::{Call, Connection};
use crate::control_plane::{ControlPlane, Programs, Result, Side};
use crate::store::load::{histogram, micros, sample};
use crate::table::{Row, Sample, markdown};

/// Clients that create, as upstream's scheduler_perf has workers.
const CLIENTS: usize = 50;
/// Pods scheduled before the clock starts, so that caches and connections are warm.
const WARM_UP: u64 = 100;
/// Longest time for one size before the run is given up.
const TIMEOUT: Duration = Duration::from_secs(180);
const NAMESPACE: &str = "bench";

/// Upstream's API server, etcd and scheduler first, then ours.
#[derive(Args, Clone, Debug)]
pub struct Options {
    #[command(flatten)]
    programs: Programs,
    /// Numbers of nodes; each is a run of its own on fresh servers.
    #[arg(long, value_delimiter = ',', default_value = "1000,5000")]
    nodes: Vec<u64>,
    #[arg(long, default_value_t = 10_000)]
    pods: u64,
}

/// What one run came to.
struct Measured {
    bound: Sample,
    resident_mib: f64,
    scheduler_mib: f64,
}

/// Runs all sizes on both sides and prints the table.
///
/// # Errors
/// When a server does not start, a request fails, or the pods are not bound in time.
pub fn run(options: &Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut rows = Vec::new();
    for nodes in &options.nodes {
        let mut sides = Vec::new();
        for side in options.programs.sides() {
            sides.push(runtime.block_on(measure(options, side, *nodes))?);
        }
        if let [upstream, ours] = &sides[..] {
            rows.extend(rows_of(*nodes, options.pods, upstream, ours));
        }
    }
    print!("{}", markdown("etcd + kube-apiserver + kube-scheduler", &rows));
    Ok(())
}

fn rows_of(nodes: u64, pods: u64, upstream: &Measured, ours: &Measured) -> [Row; 3] {
    let memory = |mib: f64| Sample { value: mib, p50_ms: None, p99_ms: None };
    let row = |name: String, unit, upstream, ours| Row {
        name,
        unit,
        less_is_better: unit == "MiB",
        upstream,
        ours,
    };
    let what = format!("{nodes} nodes, {pods} pods");
    [
        row(format!("{what}: created and bound"), "/s", upstream.bound.clone(), ours.bound.clone()),
        row(format!("{what}: memory, all"), "MiB", memory(upstream.resident_mib), memory(ours.resident_mib)),
        row(
            format!("{what}: memory, scheduler"),
            "MiB",
            memory(upstream.scheduler_mib),
            memory(ours.scheduler_mib),
        ),
    ]
}

async fn measure(options: &Options, side: Side, nodes: u64) -> Result<Measured> {
    let mut plane = ControlPlane::start(&options.programs, side).await?;
    let mut connection = Connection::open(plane.address).await?;
    let namespace = json!({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": NAMESPACE}});
    connection.call(Call::post("/api/v1/namespaces", namespace.to_string())).await?;
    closed_loop(plane.address, CLIENTS, Until::Count(nodes), create_node).await?;
    plane.start_scheduler()?;
    schedule(plane.address, "warm", WARM_UP).await?;
    let bound = schedule(plane.address, "pod", options.pods).await?;
    let measured = Measured {
        bound,
        resident_mib: plane.resident_mib(None)?,
        scheduler_mib: plane.resident_mib(Some("scheduler"))?,
    };
    eprintln!(
        "{}: {nodes} nodes: {:.0} pods/s, p99 {:.0} ms, {:.0} MiB, scheduler {:.0} MiB",
        side.name(),
        measured.bound.value,
        measured.bound.p99_ms.unwrap_or_default(),
        measured.resident_mib,
        measured.scheduler_mib,
    );
    Ok(measured)
}

/// Creates `count` pods and waits until all of them are bound.
async fn schedule(address: SocketAddr, prefix: &'static str, count: u64) -> Result<Sample> {
    let epoch = Instant::now();
    let sent: Arc<Vec<AtomicU64>> = Arc::new((0..count).map(|_| AtomicU64::new(0)).collect());
    let mut connection = Connection::open(address).await?;
    let list = connection.read(&format!("{}?limit=1", pods_path())).await?;
    let revision = list["metadata"]["resourceVersion"].as_str().ok_or("a list without a resourceVersion")?;
    let seen = tokio::spawn(Progress::new(prefix, sent.clone(), epoch).follow(address, revision.to_owned()));
    let started = Instant::now();
    let create = move |number: u64| {
        sent[number as usize].store(micros(epoch.elapsed()), Ordering::Relaxed);
        create_pod(prefix, number)
    };
    let made = closed_loop(address, CLIENTS, Until::Count(count), create).await?;
    let created_after = started.elapsed();
    let latencies = tokio::time::timeout(TIMEOUT, seen)
        .await
        .map_err(|_| format!("{count} pods were not bound within {TIMEOUT:?}"))???;
    eprintln!("  {prefix}: {:.0} creates/s, all after {created_after:?}", made.value);
    Ok(sample(&latencies, started.elapsed()))
}

/// The part of a watch event that matters here.
#[derive(Deserialize)]
struct Event {
    object: Object,
}

#[derive(Deserialize)]
struct Object {
    metadata: Metadata,
    spec: Spec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: String,
    resource_version: String,
}

#[derive(Deserialize)]
struct Spec {
    #[serde(rename = "nodeName", default)]
    node_name: String,
}

/// Which pods of a load have been seen bound, and how long each took.
struct Progress {
    prefix: &'static str,
    sent: Arc<Vec<AtomicU64>>,
    epoch: Instant,
    bound: Vec<bool>,
    latencies: Histogram<u64>,
}

impl Progress {
    fn new(prefix: &'static str, sent: Arc<Vec<AtomicU64>>, epoch: Instant) -> Self {
        let bound = vec![false; sent.len()];
        Self { prefix, sent, epoch, bound, latencies: histogram() }
    }

    fn is_complete(&self) -> bool {
        self.latencies.len() >= self.sent.len() as u64
    }

    /// Watches until every pod has been seen bound. A server that is short of time cuts watches off; they are then
    /// opened again where they ended, as every informer does.
    async fn follow(mut self, address: SocketAddr, mut revision: String) -> Result<Histogram<u64>> {
        while !self.is_complete() {
            let path = format!("{}?watch=true&resourceVersion={revision}", pods_path());
            let (connection, body) = Connection::open(address).await?.follow(&path).await?;
            self.read(body, &mut revision).await?;
            drop(connection);
        }
        Ok(self.latencies)
    }

    /// Reads one watch to its end, or until there is nothing to wait for.
    async fn read(&mut self, mut body: Incoming, revision: &mut String) -> Result<()> {
        let mut rest: Vec<u8> = Vec::new();
        while !self.is_complete() {
            let Some(frame) = body.frame().await else { return Ok(()) };
            let frame = frame?;
            let Some(bytes) = frame.data_ref() else { continue };
            let now = micros(self.epoch.elapsed());
            rest.extend_from_slice(bytes);
            let Some(end) = memchr::memrchr(b'\n', &rest) else { continue };
            for line in rest[..end].split(|b| *b == b'\n') {
                let event: Event = serde_json::from_slice(line)
                    .map_err(|error| format!("a watch event cannot be read: {error}"))?;
                revision.clone_from(&event.object.metadata.resource_version);
                self.take(&event.object, now);
            }
            rest.drain(..=end);
        }
        Ok(())
    }

    fn take(&mut self, pod: &Object, now: u64) {
        let number = pod.metadata.name.strip_prefix(self.prefix).and_then(|n| n[1..].parse().ok());
        let Some(number) = number.filter(|n: &usize| *n < self.bound.len()) else { return };
        if !pod.spec.node_name.is_empty() && !std::mem::replace(&mut self.bound[number], true) {
            let begun = self.sent[number].load(Ordering::Relaxed);
            self.latencies.saturating_record(now.saturating_sub(begun).max(1));
        }
    }
}

fn pods_path() -> String {
    format!("/api/v1/namespaces/{NAMESPACE}/pods")
}

/// As scheduler_perf's node template: 4 CPUs, 32 GiB, 110 pods, three zones.
fn create_node(number: u64) -> Call {
    let name = format!("node-{number:05}");
    let resources = json!({"cpu": "4", "memory": "32Gi", "pods": "110"});
    let body = json!({
        "kind": "Node", "apiVersion": "v1",
        "metadata": {"name": name, "labels": {
            "kubernetes.io/hostname": name, "topology.kubernetes.io/zone": format!("zone-{}", number % 3),
        }},
        "status": {
            "capacity": resources, "allocatable": resources,
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    });
    Call::post("/api/v1/nodes", body.to_string())
}

/// As scheduler_perf's default pod template: 100m and 500 MiB.
fn create_pod(prefix: &str, number: u64) -> Call {
    let body = json!({
        "kind": "Pod", "apiVersion": "v1",
        "metadata": {"name": format!("{prefix}-{number:06}")},
        "spec": {"containers": [{
            "name": "pause", "image": "registry.k8s.io/pause:3.10.1",
            "ports": [{"containerPort": 80}],
            "resources": {
                "limits": {"cpu": "100m", "memory": "500Mi"}, "requests": {"cpu": "100m", "memory": "500Mi"},
            },
        }]},
    });
    Call::post(pods_path(), body.to_string())
}
