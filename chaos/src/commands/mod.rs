//! What the command line can ask for, one file each.

pub mod controls;
pub mod gaps;
pub mod matrix;
pub mod run;
pub mod simulate;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use chaos::cluster::{Ground, Program};
use chaos::faults::FaultKind;
use chaos::plan::Seed;
use chaos::trial::Trial;
use chaos::workloads::WorkloadKind;

/// `false`: somebody was convicted.
pub type Outcome = Result<bool, Box<dyn std::error::Error + Send + Sync>>;

/// Prints what there is.
pub fn list() {
    for (name, _) in WorkloadKind::ALL {
        println!("workload {name}");
    }
    for fault in FaultKind::ALL {
        let simulated = if chaos::sim::knows(*fault) { " (also simulated)" } else { "" };
        println!("fault    {fault}{simulated}");
    }
}

/// Serves as a client process until there are no more orders.
pub fn client() -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(chaos::clients::wire::serve())?;
    Ok(true)
}

/// Serves as a member until told to stop.
pub fn store(args: raft_store::cli::Args) -> Outcome {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let stop = tokio_util::sync::CancellationToken::new();
        let mut terminated = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        let stopping = stop.clone();
        tokio::spawn(async move {
            terminated.recv().await;
            stopping.cancel();
        });
        raft_store::cli::run(args, stop).await?;
        Ok(true)
    })
}

/// The members under test.
#[derive(clap::Args, Clone, Debug)]
pub struct Tested {
    /// The quarterdeck binary, or an etcd with --etcd.
    #[arg(long, env = "QUARTERDECK_BINARY", default_value = "quarterdeck")]
    pub binary: PathBuf,
    /// The binary is a real etcd: a control of the harness itself.
    #[arg(long)]
    pub etcd: bool,
    #[arg(long, default_value_t = 3)]
    pub members: usize,
    /// Milliseconds between the leader's heartbeats.
    #[arg(long, default_value_t = 50)]
    pub heartbeat_ms: u64,
    /// Milliseconds without a leader after which another is elected.
    #[arg(long, default_value_t = 500)]
    pub election_ms: u64,
    /// Do as for users who are not root: members on loopback, with proxies between them.
    #[arg(long)]
    pub loopback: bool,
}

impl Tested {
    pub fn program(&self) -> Program {
        let mut command = vec![self.binary.display().to_string()];
        if !self.etcd {
            command.push("store".to_owned());
        }
        let flags = vec![
            format!("--heartbeat-interval={}", self.heartbeat_ms),
            format!("--election-timeout={}", self.election_ms),
        ];
        Program { command, flags, env: Vec::new(), is_etcd: self.etcd }
    }

    /// The flags that give the same members again.
    pub fn replay(&self) -> String {
        let etcd = if self.etcd { " --etcd" } else { "" };
        let loopback = if self.loopback { " --loopback" } else { "" };
        format!(
            "--binary={} --heartbeat-ms={} --election-ms={}{etcd}{loopback}",
            self.binary.display(),
            self.heartbeat_ms,
            self.election_ms
        )
    }

    /// As root every member gets a network namespace, and one more may join. To be called before any thread starts.
    pub fn ground(&self) -> chaos::cluster::Result<Ground> {
        if self.loopback || !nix::unistd::geteuid().is_root() {
            // Runs at the same time must not meet.
            return Ok(Ground::proxied((std::process::id() % 20_000) as u16));
        }
        Ground::enter_own_namespace()?;
        Ground::namespaces(self.members + 1)
    }
}

/// What is to be run, against real members or simulated ones.
#[derive(clap::Args, Clone, Debug)]
pub struct Shape {
    /// The first seed, which decides the whole plan; by default drawn, and printed.
    #[arg(long)]
    seed: Option<u64>,
    /// Seconds a run, of the cluster's time.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Start no new run after so many seconds of ours.
    #[arg(long)]
    budget_secs: Option<u64>,
    /// Client processes.
    #[arg(long, default_value_t = 6)]
    processes: u32,
    /// A workload's name, or `all`.
    #[arg(long, default_value = "all")]
    workload: String,
    /// Fault names, `all`, or `none`.
    #[arg(long, value_delimiter = ',', default_value = "all")]
    faults: Vec<String>,
    /// Faults at work at the same time.
    #[arg(long, default_value_t = 2)]
    combine: usize,
    /// Every fault once, in short windows, however long that takes.
    #[arg(long)]
    each_once: bool,
}

impl Shape {
    /// A trial for each workload and each of so many seeds, in that order.
    fn trials(
        &self,
        runs: u64,
        members: usize,
        pause_ms: u64,
        known: &[FaultKind],
    ) -> Result<Vec<Trial>, String> {
        let (faults, workloads) = (faults(&self.faults, known)?, workloads(&self.workload)?);
        let first = self.seed.unwrap_or_else(rand::random);
        let trial = |number: u64, workload: WorkloadKind| Trial {
            seed: Seed(first.wrapping_add(number)),
            duration: Duration::from_secs(self.seconds),
            members,
            processes: self.processes,
            workload,
            faults: faults.clone(),
            combine: self.combine,
            each_once: self.each_once,
            pause_max: Duration::from_millis(pause_ms),
        };
        let all = (0..runs).flat_map(|number| workloads.iter().map(move |kind| (number, *kind)));
        Ok(all.map(|(number, kind)| trial(number, kind)).collect())
    }

    fn deadline(&self) -> Option<Instant> {
        self.budget_secs.map(|secs| Instant::now() + Duration::from_secs(secs))
    }
}

/// Workloads by name; `all` for each.
pub fn workloads(name: &str) -> Result<Vec<WorkloadKind>, String> {
    match name {
        "all" => Ok(WorkloadKind::ALL.iter().map(|(_, kind)| *kind).collect()),
        name => Ok(vec![name.parse()?]),
    }
}

/// Faults by name, of those that are known; `all` for each, `none` for none.
pub fn faults(names: &[String], known: &[FaultKind]) -> Result<Vec<FaultKind>, String> {
    match names.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["all"] => Ok(known.to_vec()),
        ["none"] => Ok(Vec::new()),
        names => names.iter().map(|name| name.parse()).collect(),
    }
}

/// Writes a file and the folders above it.
pub fn write(path: &Path, content: &str) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(path, content)
}
