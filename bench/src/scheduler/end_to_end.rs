//! From a pod's creation through the API to its binding, with real servers: upstream's three processes, then ours.
//!
//! A pod counts when a watch shows it bound; its latency runs from the moment its creation was sent.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde_json::json;
use tokio::task::JoinSet;

use super::api_cases::{self, Case, IMPORTANT, Load, Unrest, churned};
use super::progress::{Progress, Sent};
use crate::apiserver::{Until, closed_loop};
use crate::control_plane::http::{Call, Connection};
use crate::control_plane::{ControlPlane, Programs, Result, Side};
use crate::store::load::sample;
use crate::table::{Row, Sample, markdown};

/// Clients that create, as upstream's scheduler_perf has workers.
const CLIENTS: usize = 50;
/// Pods scheduled before the clock starts, so that caches and connections are warm.
const WARM_UP: u64 = 100;
/// Longest time for the warm-up, in which the scheduler also gives up on all pods that wait in vain.
const WARM_UP_LIMIT: Duration = Duration::from_secs(300);
/// Between two turns of [`Unrest::MixedChurn`], as upstream's.
const CHURN_EVERY: Duration = Duration::from_secs(1);
/// Between two of [`Unrest::Deletions`], as upstream's.
const DELETE_EVERY: Duration = Duration::from_millis(20);
const PODS: &str = "/api/v1/namespaces/bench/pods";

/// Upstream's API server, etcd and scheduler first, then ours.
#[derive(Args, Clone, Debug)]
pub struct Options {
    #[command(flatten)]
    programs: Programs,
    /// `SchedulingBasic` at these numbers of nodes; each is a run of its own on fresh servers.
    #[arg(long, value_delimiter = ',', default_value = "1000,5000")]
    nodes: Vec<u64>,
    /// Pods of those runs.
    #[arg(long, default_value_t = 10_000)]
    pods: u64,
    /// Run these of upstream's named cases instead, or `all`.
    #[arg(long, value_delimiter = ',')]
    cases: Vec<String>,
    /// A side that has not bound a case's pods after so many seconds is counted by those that it has bound.
    #[arg(long, default_value_t = 150)]
    limit_secs: u64,
}

impl Options {
    fn chosen(&self) -> Vec<Case> {
        if self.cases.is_empty() {
            return self.nodes.iter().map(|nodes| api_cases::at_size(*nodes, self.pods)).collect();
        }
        let is_chosen = |case: &Case| self.cases.iter().any(|name| name == "all" || name == case.name);
        api_cases::all().into_iter().filter(is_chosen).collect()
    }
}

/// What one run came to.
struct Measured {
    bound: Sample,
    count: u64,
    resident_mib: f64,
    scheduler_mib: f64,
}

/// Runs all cases on both sides and prints the table.
///
/// # Errors
/// When no case has such a name, a server does not start, or a request fails.
pub fn run(options: &Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let cases = options.chosen();
    if cases.is_empty() {
        return Err(format!("none of {:?} is a case", options.cases).into());
    }
    let mut rows = Vec::new();
    for case in &cases {
        let mut sides = Vec::new();
        for side in options.programs.sides() {
            sides.push(runtime.block_on(measure(options, side, case))?);
        }
        if let [upstream, ours] = &sides[..] {
            rows.extend(rows_of(case, upstream, ours));
        }
    }
    print!("{}", markdown("etcd + kube-apiserver + kube-scheduler", &rows));
    Ok(())
}

fn rows_of(case: &Case, upstream: &Measured, ours: &Measured) -> [Row; 3] {
    let row = |what: &str, unit, upstream, ours| Row {
        name: format!("{}, {} nodes, {} pods: {what}", case.name, case.nodes, case.measured.count),
        unit,
        less_is_better: unit == "MiB",
        upstream,
        ours,
    };
    let all = |measured: &Measured| Sample::plain(measured.resident_mib);
    let scheduler = |measured: &Measured| Sample::plain(measured.scheduler_mib);
    let bound = match upstream.count < case.measured.count {
        true => format!("created and bound (upstream: {} in the time)", upstream.count),
        false => "created and bound".to_owned(),
    };
    [
        row(&bound, "/s", upstream.bound.clone(), ours.bound.clone()),
        row("memory, all", "MiB", all(upstream), all(ours)),
        row("memory, scheduler", "MiB", scheduler(upstream), scheduler(ours)),
    ]
}

async fn measure(options: &Options, side: Side, case: &Case) -> Result<Measured> {
    let mut plane = ControlPlane::start(&options.programs, side).await?;
    prepare(plane.address, case).await?;
    plane.start_scheduler()?;
    let warm = Load { count: WARM_UP, ..case.measured.clone() };
    // Important pods would evict each other's victims before the clock starts.
    if !warm.template["spec"]["priorityClassName"].is_string() {
        schedule(plane.address, "warm", &warm, WARM_UP_LIMIT).await?;
    }
    let mut unrest = unrest(plane.address, case);
    let limit = Duration::from_secs(options.limit_secs);
    let (bound, count) = schedule(plane.address, "pod", &case.measured, limit).await?;
    if let Some(ended) = unrest.try_join_next() {
        ended??;
    }
    drop(unrest);
    let resident_mib = plane.resident_mib(None)?;
    let scheduler_mib = plane.resident_mib(Some("scheduler"))?;
    eprintln!(
        "{}: {}, {} nodes: {count} pods bound, {:.0} /s, p50 {:.0} ms, p99 {:.0} ms, {resident_mib:.0} MiB, scheduler {scheduler_mib:.0} MiB",
        side.name(),
        case.name,
        case.nodes,
        bound.value,
        bound.p50_ms.unwrap_or_default(),
        bound.p99_ms.unwrap_or_default(),
    );
    Ok(Measured { bound, count, resident_mib, scheduler_mib })
}

/// What is there before the scheduler starts: namespace, class, nodes, bound pods, and those that will wait in vain.
async fn prepare(address: SocketAddr, case: &Case) -> Result<()> {
    let mut connection = Connection::open(address).await?;
    let namespace = json!({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "bench"}});
    connection.call(Call::post("/api/v1/namespaces", namespace.to_string())).await?;
    let class = json!({"kind": "PriorityClass", "apiVersion": "scheduling.k8s.io/v1",
        "metadata": {"name": IMPORTANT}, "value": 10});
    connection.call(Call::post("/apis/scheduling.k8s.io/v1/priorityclasses", class.to_string())).await?;
    let all = Arc::new(case.clone());
    let case = all.clone();
    let node = move |number| Call::post("/api/v1/nodes", case.node(number).to_string());
    closed_loop(address, CLIENTS, Until::Count(all.nodes), node).await?;
    let case = all.clone();
    let bound = move |number| {
        let pod = case.init.pod(format!("init-{number:06}"), Some(case.node_of(number)));
        Call::post(PODS, pod.to_string())
    };
    closed_loop(address, CLIENTS, Until::Count(all.init.count), bound).await?;
    let case = all.clone();
    let stuck =
        move |number| Call::post(PODS, case.stuck.pod(format!("stuck-{number:06}"), None).to_string());
    closed_loop(address, CLIENTS, Until::Count(all.stuck.count), stuck).await?;
    Ok(())
}

/// Creates a load and waits until it is bound. Returns the rate and how many were.
async fn schedule(
    address: SocketAddr,
    prefix: &'static str,
    load: &Load,
    limit: Duration,
) -> Result<(Sample, u64)> {
    let mut connection = Connection::open(address).await?;
    let list = connection.read(&format!("{PODS}?limit=1")).await?;
    let revision = list["metadata"]["resourceVersion"].as_str().ok_or("a list without a resourceVersion")?;
    let sent = Sent::new(load.count);
    let progress = Progress::new(prefix, PODS.to_owned(), sent.clone());
    let seen = tokio::spawn(progress.follow(address, revision.to_owned(), limit));
    let all = load.clone();
    let create = move |number: u64| {
        sent.mark(number);
        Call::post(PODS, all.pod(format!("{prefix}-{number:06}"), None).to_string())
    };
    let made = closed_loop(address, CLIENTS, Until::Count(load.count), create).await?;
    let seen = seen.await??;
    let count = seen.latencies.len();
    if count == 0 {
        return Err(format!("none of {} pods was bound within {limit:?}", load.count).into());
    }
    eprintln!("  {prefix}: {:.0} creates/s; the last of {count} bound after {:?}", made.value, seen.last);
    Ok((sample(&seen.latencies, seen.last), count))
}

/// What goes on beside the load, until the set is dropped.
fn unrest(address: SocketAddr, case: &Case) -> JoinSet<Result<()>> {
    let mut tasks = JoinSet::new();
    match case.unrest {
        Unrest::None => {}
        Unrest::MixedChurn => drop(tasks.spawn(churn(address))),
        Unrest::Deletions => drop(tasks.spawn(delete(address, case.init.count))),
    }
    tasks
}

async fn churn(address: SocketAddr) -> Result<()> {
    let mut connection = Connection::open(address).await?;
    let mut tick = tokio::time::interval(CHURN_EVERY);
    loop {
        for (path, object) in churned() {
            connection.call(Call::post(path, object.to_string())).await?;
        }
        tick.tick().await;
        for (path, _) in churned() {
            connection.call(Call::delete(format!("{path}/churn"))).await?;
        }
    }
}

async fn delete(address: SocketAddr, count: u64) -> Result<()> {
    let mut connection = Connection::open(address).await?;
    let mut tick = tokio::time::interval(DELETE_EVERY);
    for number in 0..count {
        tick.tick().await;
        connection.call(Call::delete(format!("{PODS}/init-{number:06}"))).await?;
    }
    Ok(())
}
