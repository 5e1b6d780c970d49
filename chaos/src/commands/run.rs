//! `chaos run`: real members, real faults.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use chaos::cluster::{self, Ground, Program};
use chaos::drive::Outcomes;
use chaos::faults::FaultKind;
use chaos::report;
use chaos::run::{self, Stand};
use chaos::trial::{Trial, names};

use super::{Outcome, Shape, Tested};

/// Enough that each speaks with several members while there are six clients.
pub const CLIENT_PROCESSES: usize = 3;

/// Starts members, drives them, breaks them, heals them, judges them. Exit status 1 if anything is not valid.
///
/// As root every member has a network namespace and, where a fault needs it, a disk of its own; otherwise members use
/// loopback addresses with proxies between them, and faults of disks are left out.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    shape: Shape,
    /// How many runs of each workload, each with the next seed.
    #[arg(long, default_value_t = 1)]
    runs: u64,
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
    let trials = args.shape.trials(args.runs, args.tested.members, args.pause_ms, FaultKind::ALL)?;
    let ground = args.tested.ground()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut sum = Sum::default();
    let (began, deadline) = (Instant::now(), args.shape.deadline());
    for trial in trials {
        if deadline.is_some_and(|deadline| Instant::now() > deadline) {
            break;
        }
        let one = One { trial, client_processes: args.client_processes, dir: &args.dir };
        match one.run(&runtime, &args.tested, args.tested.program(), ground.clone()) {
            Ok(outcomes) => {
                sum.add(&outcomes);
                if let Some(table) = &args.table {
                    append(table, &one.row(&outcomes))?;
                }
            }
            Err(error) => {
                println!("{} seed {}: no verdict: {error}", one.trial.workload, one.trial.seed);
                println!("  replay: {}", one.replay(&args.tested));
                sum.runs += 1;
            }
        }
    }
    ground.clear()?;
    if sum.runs > 1 {
        println!("{}", sum.line(began.elapsed()));
    }
    Ok(sum.valid == sum.runs)
}

/// Of several runs.
#[derive(Default)]
struct Sum {
    runs: usize,
    valid: usize,
    operations: usize,
    windows: usize,
    not_whole: usize,
}

impl Sum {
    fn add(&mut self, outcomes: &Outcomes) {
        self.runs += 1;
        self.valid += usize::from(outcomes.is_valid());
        self.operations += outcomes.history.operations.len();
        self.windows += outcomes.windows.len();
        self.not_whole += outcomes.not_inflicted().count();
    }

    fn line(&self, took: Duration) -> String {
        format!(
            "{} runs in {:.2} hours, {} of them valid: {} operations, {} fault windows ({} not whole)",
            self.runs,
            took.as_secs_f64() / 3_600.0,
            self.valid,
            self.operations,
            self.windows,
            self.not_whole
        )
    }
}

/// One run among several.
pub struct One<'a> {
    pub trial: Trial,
    pub client_processes: usize,
    pub dir: &'a Path,
}

impl One<'_> {
    /// Runs, keeps the report, and prints the verdicts. The members' data stays only where there is something to find in
    /// it: hours of runs would fill a disk.
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
        let missed = outcomes.not_inflicted().count();
        let whole = if missed == 0 { "all whole".to_owned() } else { format!("{missed} NOT WHOLE") };
        println!(
            "{workload} seed {seed}: {} operations, {} fault windows ({whole}), {:.1} s (judged in {:.1} s), longest gap \
             {:.2} s; {}",
            outcomes.history.operations.len(),
            outcomes.windows.len(),
            started.elapsed().as_secs_f64(),
            outcomes.judged_secs,
            report::longest_gap(&outcomes),
            path.display()
        );
        for window in outcomes.not_inflicted() {
            println!("  not whole: {}: {}", window.fault, window.what);
        }
        for (name, verdict) in &outcomes.verdicts {
            println!("  {name}: {verdict}");
        }
        if !outcomes.is_valid() {
            println!("  replay: {replay}");
        } else if let Err(error) = cluster::discard_data(&root, self.trial.members) {
            tracing::warn!(%error, "the members' data stays");
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
        let whole = outcomes.windows.len() - outcomes.not_inflicted().count();
        format!(
            "| {} | {} | {} | {} | {whole} of {} | {} | {verdict} |\n",
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
