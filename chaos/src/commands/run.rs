//! `chaos run`: real members, real faults.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use chaos::cluster::{Ground, Program};
use chaos::drive::Outcomes;
use chaos::faults::FaultKind;
use chaos::plan::Seed;
use chaos::report;
use chaos::run::{self, Stand};
use chaos::trial::{Trial, names};
use chaos::workloads::WorkloadKind;

use super::{Outcome, Tested, faults, workloads};

/// Enough that each speaks with every member while there are eight clients.
pub const CLIENT_PROCESSES: usize = 3;

/// Starts members, drives them, breaks them, heals them, judges them. Exit status 1 if anything is not valid.
///
/// As root every member has a network namespace and, where a fault needs it, a disk of its own; otherwise members use
/// loopback addresses with proxies between them, and faults of disks are left out.
#[derive(clap::Args)]
pub struct Args {
    /// Decides the whole plan; by default drawn, and printed.
    #[arg(long)]
    seed: Option<u64>,
    /// How many runs, each with the next seed.
    #[arg(long, default_value_t = 1)]
    runs: u64,
    /// Start no new run after so many seconds.
    #[arg(long)]
    budget_secs: Option<u64>,
    /// Seconds a run.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Client processes.
    #[arg(long, default_value_t = 8)]
    processes: u32,
    /// A workload's name, or `all`.
    #[arg(long, default_value = "all")]
    workload: String,
    /// Fault names, `all`, or `none`.
    #[arg(long, value_delimiter = ',', default_value = "all")]
    faults: Vec<String>,
    /// Faults at work at the same time.
    #[arg(long, default_value_t = 1)]
    combine: usize,
    /// Every fault once, in short windows, however long that takes.
    #[arg(long)]
    each_once: bool,
    /// Where runs are kept.
    #[arg(long, default_value = ".run/chaos")]
    dir: PathBuf,
    /// Longest pause of a process between operations, in milliseconds.
    #[arg(long, default_value_t = 40)]
    pause_ms: u64,
    /// Processes of the operating system that the clients are spread over; 0: all in the harness's own.
    #[arg(long, default_value_t = CLIENT_PROCESSES)]
    client_processes: usize,
    /// Append a row for each run to this table.
    #[arg(long)]
    table: Option<PathBuf>,
    #[command(flatten)]
    tested: Tested,
}

pub fn execute(args: &Args) -> Outcome {
    let faults = faults(&args.faults, FaultKind::ALL)?;
    let ground = args.tested.ground()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let first = args.seed.unwrap_or_else(rand::random);
    let mut all_valid = true;
    let deadline = args.budget_secs.map(|secs| Instant::now() + Duration::from_secs(secs));
    let workloads = workloads(&args.workload)?;
    for (number, workload) in
        (0..args.runs).flat_map(|number| workloads.iter().map(move |kind| (number, *kind)))
    {
        if deadline.is_some_and(|deadline| Instant::now() > deadline) {
            break;
        }
        let trial = args.trial(Seed(first.wrapping_add(number)), workload, &faults);
        let one = One { trial, client_processes: args.client_processes, dir: &args.dir };
        match one.run(&runtime, &args.tested, args.tested.program(), ground.clone()) {
            Ok(outcomes) => {
                all_valid &= outcomes.is_valid();
                if let Some(table) = &args.table {
                    append(table, &one.row(&outcomes))?;
                }
            }
            Err(error) => {
                println!("{workload} seed {}: no verdict: {error}", one.trial.seed);
                all_valid = false;
            }
        }
    }
    ground.clear()?;
    Ok(all_valid)
}

impl Args {
    fn trial(&self, seed: Seed, workload: WorkloadKind, faults: &[FaultKind]) -> Trial {
        Trial {
            seed,
            duration: Duration::from_secs(self.seconds),
            members: self.tested.members,
            processes: self.processes,
            workload,
            faults: faults.to_vec(),
            combine: self.combine,
            each_once: self.each_once,
            pause_max: Duration::from_millis(self.pause_ms),
        }
    }
}

/// One run among several.
pub struct One<'a> {
    pub trial: Trial,
    pub client_processes: usize,
    pub dir: &'a Path,
}

impl One<'_> {
    /// Runs, keeps the report, and prints the verdicts.
    pub fn run(
        &self,
        runtime: &tokio::runtime::Runtime,
        tested: &Tested,
        program: Program,
        ground: Ground,
    ) -> Result<Outcomes, Box<dyn std::error::Error + Send + Sync>> {
        let Trial { workload, seed, .. } = self.trial;
        let root = self.dir.join(format!("{workload}-{seed}"));
        // A replay starts from nothing, as the first run did.
        if root.exists() {
            std::fs::remove_dir_all(&root)?;
        }
        std::fs::create_dir_all(&root)?;
        let root = root.canonicalize()?;
        let stand = Stand { ground, program, root: &root, client_processes: self.client_processes };
        let started = Instant::now();
        let outcomes = runtime.block_on(run::run(&self.trial, stand))?;
        let replay = self.replay(tested);
        let page = report::html(&format!("{workload}, seed {seed}"), &replay, &outcomes);
        let path = root.join("report.html");
        std::fs::write(&path, page)?;
        println!(
            "{workload} seed {seed}: {} operations, {} fault windows, {:.1} s (judged in {:.1} s), longest gap {:.2} s; {}",
            outcomes.history.operations.len(),
            outcomes.windows.len(),
            started.elapsed().as_secs_f64(),
            outcomes.judged_secs,
            report::longest_gap(&outcomes.history.operations),
            path.display()
        );
        for (name, verdict) in &outcomes.verdicts {
            println!("  {name}: {verdict}");
        }
        if !outcomes.is_valid() {
            println!("  replay: {replay}");
        }
        Ok(outcomes)
    }

    fn replay(&self, tested: &Tested) -> String {
        let flags = self.trial.flags(FaultKind::ALL).join(" ");
        format!("chaos run {flags} --client-processes={} {}", self.client_processes, tested.replay())
    }

    /// A row of the table of runs.
    pub fn row(&self, outcomes: &Outcomes) -> String {
        let bad: Vec<&str> = outcomes
            .verdicts
            .iter()
            .filter(|(_, verdict)| *verdict != chaos::checkers::Verdict::Valid)
            .map(|(name, _)| name.as_str())
            .collect();
        let verdict =
            if bad.is_empty() { "valid".to_owned() } else { format!("NOT valid: {}", bad.join(", ")) };
        format!(
            "| {} | {} | {} | {} | {} | {} | {verdict} |\n",
            self.trial.workload,
            self.trial.seed,
            self.trial.duration.as_secs(),
            outcomes.history.operations.len(),
            outcomes.windows.len(),
            names(&self.trial.faults, FaultKind::ALL)
        )
    }
}

fn append(table: &Path, row: &str) -> std::io::Result<()> {
    use std::io::Write;
    std::fs::OpenOptions::new().create(true).append(true).open(table)?.write_all(row.as_bytes())
}
