//! The controllers beside kube-controller-manager: the same API server, scheduler and hollow nodes for both (ours, in
//! one run, fresh for each), so that only the controllers differ; or, with `--whole`, upstream's etcd, kube-apiserver
//! and kube-scheduler on upstream's side. Client-side rate limits are off on both sides.
//!
//! Owns the scenarios of the issue; each is timed from the request that asks for something until a watch or a list
//! shows that it is so.

mod scenarios;
mod watch;

use std::time::Duration;

use clap::Args;

use self::scenarios::Scenario;
use crate::control_plane::http::{Call, Connection};
use crate::control_plane::{ControlPlane, Programs, Result, Side};
use crate::table::{Row, Sample, markdown};

/// Longest time for one scenario before the run is given up.
const TIMEOUT: Duration = Duration::from_secs(600);
/// How long controllers are left alone before their idle memory is read.
const IDLE: Duration = Duration::from_secs(15);

/// kube-controller-manager first, then ours.
#[derive(Args, Clone, Debug)]
pub struct Options {
    #[command(flatten)]
    programs: Programs,
    /// Hollow nodes that run the pods.
    #[arg(long, default_value_t = 120)]
    nodes: u64,
    /// Replicas of the one large Deployment.
    #[arg(long, default_value_t = 1000)]
    replicas: u64,
    /// Deployments that roll at once.
    #[arg(long, default_value_t = 200)]
    rolling: u64,
    /// Replicas of each of them.
    #[arg(long, default_value_t = 50)]
    rolling_replicas: u64,
    /// Objects in the namespace that is deleted.
    #[arg(long, default_value_t = 10_000)]
    objects: u64,
    /// Services under churn.
    #[arg(long, default_value_t = 1000)]
    services: u64,
    /// Endpoints of each service. Five services share their pods.
    #[arg(long, default_value_t = 20)]
    endpoints: u64,
    /// Pods deleted a second while services are under churn.
    #[arg(long, default_value_t = 50)]
    churn_per_sec: u64,
    /// How long pods are deleted.
    #[arg(long, default_value_t = 10)]
    churn_secs: u64,
    /// Upstream's controllers get upstream's API server, store and scheduler, so that whole control planes are compared.
    #[arg(long)]
    whole: bool,
    /// Only these scenarios: deployment, rolling, namespace, services.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

/// One figure of one side.
struct Figure {
    name: String,
    unit: &'static str,
    value: f64,
}

impl Figure {
    fn new(name: impl Into<String>, unit: &'static str, value: f64) -> Self {
        Self { name: name.into(), unit, value }
    }
}

/// Runs the scenarios on both sides and prints the table.
///
/// # Errors
/// When a program does not start, a request fails, or something does not come about in time.
pub fn run(options: &Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut sides = Vec::new();
    for side in options.programs.sides() {
        sides.push(runtime.block_on(measure(options, side))?);
    }
    if let [upstream, ours] = &sides[..] {
        let rows: Vec<Row> = upstream.iter().zip(ours).map(|(theirs, ours)| row(theirs, ours)).collect();
        let name = if options.whole { "upstream's control plane" } else { "kube-controller-manager" };
        print!("{}", markdown(name, &rows));
    }
    Ok(())
}

fn row(upstream: &Figure, ours: &Figure) -> Row {
    Row {
        name: upstream.name.clone(),
        unit: upstream.unit,
        less_is_better: true,
        upstream: Sample::plain(upstream.value),
        ours: Sample::plain(ours.value),
    }
}

async fn measure(options: &Options, side: Side) -> Result<Vec<Figure>> {
    let around = if options.whole { side } else { Side::Ours };
    let mut plane = ControlPlane::start(&options.programs, around).await?;
    plane.start_scheduler()?;
    plane.start_hollow_nodes(options.nodes)?;
    plane.start_controllers(side)?;
    let scenario = Scenario { address: plane.address, options: options.clone() };
    tokio::time::timeout(TIMEOUT, scenario.wait_for_nodes())
        .await
        .map_err(|_| "the nodes are not ready")??;
    tokio::time::sleep(IDLE).await;
    let memory = |plane: &ControlPlane, when: &str| -> Result<Figure> {
        let figure = Figure::new(format!("memory, {when}"), "MiB", plane.resident_mib(Some("controllers"))?);
        eprintln!("{}: {}: {:.1} MiB", side.name(), figure.name, figure.value);
        Ok(figure)
    };
    let mut figures = vec![memory(&plane, "idle")?];
    for name in ["deployment", "rolling", "namespace", "services"] {
        if !options.only.is_empty() && !options.only.iter().any(|only| only == name) {
            continue;
        }
        let before = plane.cpu()?;
        let run = tokio::time::timeout(TIMEOUT, scenario.run(name));
        let found = run.await.map_err(|_| format!("{name}: not done within {TIMEOUT:?}"))??;
        for figure in &found {
            eprintln!("{}: {}: {:.2} {}", side.name(), figure.name, figure.value, figure.unit);
        }
        figures.extend(found);
        figures.push(own_cpu(side, name, &before, &plane.cpu()?));
        figures.push(memory(&plane, &format!("after {name}"))?);
    }
    Ok(figures)
}

/// The controllers' own processor time in a scenario; that of the others goes to the log.
fn own_cpu(
    side: Side,
    scenario: &str,
    before: &[(&str, Duration)],
    after: &[(&'static str, Duration)],
) -> Figure {
    let mut own = Duration::ZERO;
    for ((name, before), (_, after)) in before.iter().zip(after) {
        let used = after.saturating_sub(*before);
        eprintln!("{}: {scenario}: {used:?} of processor time by the {name}", side.name());
        if *name == "controllers" {
            own = used;
        }
    }
    Figure::new(format!("{scenario}: processor time of the controllers"), "ms", own.as_secs_f64() * 1000.0)
}

/// Reads a list's items.
async fn items(connection: &mut Connection, path: &str) -> Result<Vec<serde_json::Value>> {
    let mut list = connection.read(path).await?;
    Ok(list["items"].as_array_mut().map(std::mem::take).unwrap_or_default())
}

/// Creates a namespace.
async fn create_namespace(connection: &mut Connection, name: &str) -> Result<()> {
    let body = serde_json::json!({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": name}});
    connection.call(Call::post("/api/v1/namespaces", body.to_string())).await?;
    Ok(())
}
