//! `chaos run`: real members, real faults.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use chaos::cluster::{Ground, Program};
use chaos::drive::Outcomes;
use chaos::faults::FaultKind;
use chaos::plan::Seed;
use chaos::report;
use chaos::run::{self, Options};
use chaos::workloads::WorkloadKind;

use super::{Outcome, Tested, faults, names, workloads};

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
    /// Where runs are kept.
    #[arg(long, default_value = ".run/chaos")]
    dir: PathBuf,
    /// Longest pause of a process between operations, in milliseconds.
    #[arg(long, default_value_t = 40)]
    pause_ms: u64,
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
    for number in 0..args.runs {
        for workload in workloads(&args.workload)? {
            let one = One {
                seed: Seed(first.wrapping_add(number)),
                seconds: args.seconds,
                processes: args.processes,
                pause_ms: args.pause_ms,
                workload,
                faults: &faults,
                combine: args.combine,
                dir: &args.dir,
            };
            let outcomes = one.run(&runtime, &args.tested, args.tested.program(), ground.clone())?;
            all_valid &= outcomes.is_valid();
            if let Some(table) = &args.table {
                append(table, &one.row(&outcomes))?;
            }
        }
    }
    ground.clear()?;
    Ok(all_valid)
}

/// One run among several.
pub struct One<'a> {
    pub seed: Seed,
    pub seconds: u64,
    pub processes: u32,
    pub pause_ms: u64,
    pub workload: WorkloadKind,
    pub faults: &'a [FaultKind],
    pub combine: usize,
    pub dir: &'a std::path::Path,
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
        let root = self.dir.join(format!("{}-{}", self.workload, self.seed));
        // A replay starts from nothing, as the first run did.
        if root.exists() {
            std::fs::remove_dir_all(&root)?;
        }
        std::fs::create_dir_all(&root)?;
        let root = root.canonicalize()?;
        let options = Options {
            seed: self.seed,
            duration: Duration::from_secs(self.seconds),
            members: tested.members,
            processes: self.processes,
            workload: self.workload,
            faults: self.faults.to_vec(),
            combine: self.combine,
            program,
            pause_max: Duration::from_millis(self.pause_ms),
            root: root.clone(),
        };
        let started = Instant::now();
        let outcomes = runtime.block_on(run::run(&options, ground))?;
        let replay = self.replay(tested);
        let page = report::html(&format!("{}, seed {}", self.workload, self.seed), &replay, &outcomes);
        let path = root.join("report.html");
        std::fs::write(&path, page)?;
        println!(
            "{} seed {}: {} operations, {} fault windows, {:.1} s (judged in {:.1} s), longest gap {:.2} s; {}",
            self.workload,
            self.seed,
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
        format!(
            "chaos run --seed={} --seconds={} --processes={} --pause-ms={} --workload={} --faults={} --combine={} {}",
            self.seed,
            self.seconds,
            self.processes,
            self.pause_ms,
            self.workload,
            names(self.faults),
            self.combine,
            tested.replay()
        )
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
            self.workload,
            self.seed,
            self.seconds,
            outcomes.history.operations.len(),
            outcomes.windows.len(),
            names(self.faults)
        )
    }
}

fn append(table: &std::path::Path, row: &str) -> std::io::Result<()> {
    use std::io::Write;
    std::fs::OpenOptions::new().create(true).append(true).open(table)?.write_all(row.as_bytes())
}
