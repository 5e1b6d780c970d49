//! etcd and our store beside each other: three members on loopback, disk syncs on, the same load generator.

pub mod load;
mod scenarios;

use std::path::{Path, PathBuf};
use std::time::Duration;

use chaos::cluster::{Cluster, Ground, Program};
use clap::Args;

use crate::table::{Row, Sample, markdown};
use scenarios::{SCENARIOS, Scenario};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Measures etcd first, then our store, and prints a table of ratios.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// The quarterdeck binary.
    #[arg(long, env = "QUARTERDECK_BINARY", default_value = "quarterdeck")]
    quarterdeck: PathBuf,
    /// The etcd to compare with; Debian's package etcd-server has one.
    #[arg(long, default_value = "etcd")]
    etcd: PathBuf,
    #[arg(long, default_value_t = 3)]
    members: usize,
    /// Seconds a measurement.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Only scenarios whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// Where data directories go; on the disk that is to be measured.
    #[arg(long, default_value = ".run/bench")]
    dir: PathBuf,
}

pub fn run(options: &Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let chosen: Vec<&Scenario> =
        SCENARIOS.iter().filter(|scenario| scenario.name.contains(options.only.as_str())).collect();
    let etcd = Program {
        command: vec![options.etcd.display().to_string()],
        flags: vec!["--log-level=error".into()],
    };
    let ours = Program {
        command: vec![options.quarterdeck.display().to_string(), "store".into()],
        flags: Vec::new(),
    };
    let upstream = runtime.block_on(measure(options, "etcd", etcd, &chosen))?;
    let ours = runtime.block_on(measure(options, "quarterdeck", ours, &chosen))?;
    let rows: Vec<Row> = chosen
        .iter()
        .map(|scenario| (scenario.name, "/s", false))
        .chain([("memory a member, afterwards", "MiB", true)])
        .zip(upstream.into_iter().zip(ours))
        .map(|((name, unit, less_is_better), (upstream, ours))| Row {
            name: name.to_owned(),
            unit,
            less_is_better,
            upstream,
            ours,
        })
        .collect();
    print!("{}", markdown("etcd", &rows));
    Ok(())
}

/// All scenarios on one side, on a fresh cluster, and the memory of a member at the end.
async fn measure(
    options: &Options,
    side: &str,
    program: Program,
    chosen: &[&Scenario],
) -> Result<Vec<Sample>> {
    let root = options.dir.join(side);
    if root.exists() {
        std::fs::remove_dir_all(&root)?;
    }
    std::fs::create_dir_all(&root)?;
    let root = root.canonicalize()?;
    let cluster = Cluster::start_all(Ground::loopback(20_000), program, &root, options.members).await?;
    let mut samples = Vec::new();
    for scenario in chosen {
        let sample = scenario.run(&cluster, Duration::from_secs(options.seconds)).await?;
        eprintln!(
            "{side}: {}: {:.0}/s, p99 {:.2} ms",
            scenario.name,
            sample.value,
            sample.p99_ms.unwrap_or(0.0)
        );
        samples.push(sample);
    }
    samples.push(Sample { value: resident_mib(&cluster)?, p50_ms: None, p99_ms: None });
    for member in 0..cluster.len() {
        cluster.kill(member).await?;
    }
    Ok(samples)
}

/// The mean of the members' resident sets.
fn resident_mib(cluster: &Cluster) -> Result<f64> {
    let mut sum = 0.0;
    for member in 0..cluster.len() {
        let pid = cluster.pid(member).ok_or("a member has no process")?;
        let status = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status"))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).ok_or("no VmRSS")?;
        let kib: f64 = line.split_whitespace().nth(1).ok_or("no VmRSS value")?.parse()?;
        sum += kib / 1024.0;
    }
    Ok(sum / cluster.len() as f64)
}
