//! etcd and our store beside each other: three members on loopback, disk syncs on, the same load generator.

mod large;
pub mod load;
mod scenarios;

use std::path::{Path, PathBuf};
use std::time::Duration;

use chaos::cluster::{Cluster, Ground, Program};
use clap::Args;

use crate::table::{Row, Sample, markdown};
use scenarios::SCENARIOS;

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
    /// The large figures instead: a million keys, ten thousand watchers, a laggard, a compaction, leases that expire
    /// together; one member a side.
    #[arg(long)]
    large: bool,
    /// Revisions the laggard is behind and half of those the compaction removes.
    #[arg(long, default_value_t = 500_000)]
    revisions: u64,
    /// Only scenarios whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// Where data directories go; on the disk that is to be measured.
    #[arg(long, default_value = ".run/bench")]
    dir: PathBuf,
}

pub fn run(options: &Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let etcd = Program {
        command: vec![options.etcd.display().to_string()],
        flags: vec!["--log-level=error".into(), "--quota-backend-bytes=34359738368".into()],
        env: Vec::new(),
        is_etcd: true,
    };
    let ours = Program {
        command: vec![options.quarterdeck.display().to_string(), "store".into()],
        flags: Vec::new(),
        env: Vec::new(),
        is_etcd: false,
    };
    let rows = runtime.block_on(async {
        if options.large {
            large::compare(options, etcd, ours).await
        } else {
            compare(options, etcd, ours).await
        }
    })?;
    print!("{}", markdown("etcd", &rows));
    Ok(())
}

/// Every scenario on etcd and then on ours, both clusters fresh at the beginning, and the members' memory at the end.
/// The sides take turns, so that what else happens on the machine hits both alike.
async fn compare(options: &Options, etcd: Program, ours: Program) -> Result<Vec<Row>> {
    let upstream = start(options, "etcd", etcd, options.members, ETCD_PORTS).await?;
    let ours = start(options, "quarterdeck", ours, options.members, OUR_PORTS).await?;
    lead_with_first(&upstream).await?;
    lead_with_first(&ours).await?;
    let duration = Duration::from_secs(options.seconds);
    let mut rows = Vec::new();
    for scenario in SCENARIOS.iter().filter(|scenario| scenario.name.contains(options.only.as_str())) {
        let row = Row {
            name: scenario.name.to_owned(),
            unit: "/s",
            less_is_better: false,
            upstream: scenario.run(&upstream, duration).await?,
            ours: scenario.run(&ours, duration).await?,
        };
        eprintln!("{}: {:.0}/s and {:.0}/s", row.name, row.upstream.value, row.ours.value);
        rows.push(row);
    }
    rows.push(memory("memory a member, afterwards", &upstream, &ours)?);
    for cluster in [upstream, ours] {
        for member in 0..cluster.len() {
            cluster.kill(member).await?;
        }
    }
    Ok(rows)
}

/// How long the first member may take to become the leader.
const LEADER_LIMIT: Duration = Duration::from_secs(30);
const LEADER_POLL: Duration = Duration::from_millis(200);

/// Where each side's ports begin.
const ETCD_PORTS: u16 = 20_000;
const OUR_PORTS: u16 = 20_100;

async fn start(
    options: &Options,
    side: &str,
    program: Program,
    members: usize,
    ports: u16,
) -> Result<Cluster> {
    let root = options.dir.join(side);
    if root.exists() {
        std::fs::remove_dir_all(&root)?;
    }
    std::fs::create_dir_all(&root)?;
    let root = root.canonicalize()?;
    Ok(Cluster::start_all(Ground::loopback(ports), program, &root, members, false).await?)
}

/// Makes the first member lead: a single client is its client, and whether what it writes takes one step more must not
/// depend on whom an election chose.
async fn lead_with_first(cluster: &Cluster) -> Result<()> {
    let deadline = tokio::time::Instant::now() + LEADER_LIMIT;
    while cluster.leader().await != Some(0) {
        if tokio::time::Instant::now() > deadline {
            return Err("the first member does not become the leader".into());
        }
        if cluster.leader().await.is_some() {
            // One who is just being replaced cannot; the next round asks again.
            let _ = cluster.move_leader(0).await;
        }
        tokio::time::sleep(LEADER_POLL).await;
    }
    Ok(())
}

fn memory(name: &str, upstream: &Cluster, ours: &Cluster) -> Result<Row> {
    let sample = |cluster| Ok::<_, Box<dyn std::error::Error>>(Sample::plain(resident_mib(cluster)?));
    let (upstream, ours) = (sample(upstream)?, sample(ours)?);
    Ok(Row { name: name.to_owned(), unit: "MiB", less_is_better: true, upstream, ours })
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
