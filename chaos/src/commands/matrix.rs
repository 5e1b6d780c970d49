//! `chaos matrix`: each fault with each checker, in short runs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use chaos::checkers::Verdict;
use chaos::drive::Outcomes;
use chaos::faults::FaultKind;
use chaos::plan::Seed;
use chaos::sim;
use chaos::trial::Trial;
use chaos::workloads::WorkloadKind;
use rand::seq::SliceRandom;

use super::simulate::{Task, run_all};
use super::{Outcome, Tested, faults, run, workloads};

/// Runs each fault with each workload and its checkers: simulated, or against real members with --real.
#[derive(clap::Args)]
pub struct Args {
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Seconds a run.
    #[arg(long, default_value_t = 15)]
    seconds: u64,
    /// Against real members.
    #[arg(long)]
    real: bool,
    /// A workload's name, or `all`, or `rotate`: each fault with one, in turn.
    #[arg(long, default_value = "all")]
    workload: String,
    /// Fault names, or `all`; `unsimulated` for those that only real members can have.
    #[arg(long, value_delimiter = ',', default_value = "all")]
    faults: Vec<String>,
    /// Start no new run after so many seconds; the seed decides which pairs come first.
    #[arg(long)]
    budget_secs: Option<u64>,
    #[arg(long, default_value = ".run/chaos-matrix")]
    dir: PathBuf,
    /// Also write the table here, as Markdown.
    #[arg(long)]
    markdown: Option<PathBuf>,
    #[command(flatten)]
    tested: Tested,
}

/// Fault and workload to what came of them.
type Cells = BTreeMap<(String, String), String>;

pub fn execute(args: &Args) -> Outcome {
    let known = if args.real { FaultKind::ALL.to_vec() } else { sim::known() };
    let faults = match args.faults.as_slice() {
        [one] if one == "unsimulated" => {
            FaultKind::ALL.iter().copied().filter(|fault| !sim::knows(*fault)).collect()
        }
        names => faults(names, &known)?,
    };
    // An etcd has nothing against damage to its state: that would be no control of the harness.
    let faults: Vec<FaultKind> =
        faults.into_iter().filter(|fault| !(args.tested.etcd && fault.damages_state())).collect();
    let mut pairs = pairs(&faults, &args.workload)?;
    pairs.retain(|&(fault, workload)| args.real || sim::simulates(fault, workload));
    let started = Instant::now();
    let deadline = args.budget_secs.map(|secs| started + Duration::from_secs(secs));
    if deadline.is_some() {
        pairs.shuffle(&mut Seed(args.seed).rng(3));
    }
    let cells = match args.real {
        true => real(args, &pairs, deadline)?,
        false => simulated(args, &pairs, deadline)?,
    };
    let bad = cells.values().filter(|cell| *cell != "valid").count();
    let table = table(&cells);
    println!("{table}");
    println!("{} runs in {:.0} s, {bad} of them not valid", cells.len(), started.elapsed().as_secs_f64());
    if let Some(path) = &args.markdown {
        super::write(path, &table)?;
    }
    Ok(bad == 0)
}

impl Args {
    fn trial(&self, fault: FaultKind, workload: WorkloadKind, pause_max: Duration) -> Trial {
        Trial {
            seed: Seed(self.seed),
            duration: Duration::from_secs(self.seconds),
            members: self.tested.members,
            processes: 6,
            workload,
            faults: vec![fault],
            combine: 1,
            each_once: false,
            pause_max,
        }
    }
}

fn pairs(faults: &[FaultKind], workload: &str) -> Result<Vec<(FaultKind, WorkloadKind)>, String> {
    let rotate = workload == "rotate";
    let workloads = workloads(if rotate { "all" } else { workload })?;
    Ok(faults
        .iter()
        .enumerate()
        .flat_map(|(number, fault)| {
            let chosen = if rotate { vec![workloads[number % workloads.len()]] } else { workloads.clone() };
            chosen.into_iter().map(|workload| (*fault, workload))
        })
        .collect())
}

fn simulated(
    args: &Args,
    pairs: &[(FaultKind, WorkloadKind)],
    deadline: Option<Instant>,
) -> Result<Cells, String> {
    let tasks: Vec<Task> = pairs
        .iter()
        .map(|&(fault, workload)| Task {
            trial: args.trial(fault, workload, Duration::from_millis(100)),
            dir: args.dir.join(fault.to_string()),
        })
        .collect();
    let jobs = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    let mut cells = Cells::new();
    for (task, outcome) in run_all(&tasks, jobs, deadline, false, &[]) {
        let cell = match outcome {
            Ok(summary) if summary.is_valid() => "valid".to_owned(),
            Ok(summary) => {
                println!("{}: {:?}\n  replay: {}", task.title(), summary.convictions, task.replay());
                summary.convictions[0].0.clone()
            }
            Err(error) => {
                println!("{}: {error}\n  replay: {}", task.title(), task.replay());
                "no verdict".to_owned()
            }
        };
        let fault = task.trial.faults.first().map(FaultKind::to_string).unwrap_or_default();
        cells.insert((fault, task.trial.workload.to_string()), cell);
    }
    Ok(cells)
}

fn real(
    args: &Args,
    pairs: &[(FaultKind, WorkloadKind)],
    deadline: Option<Instant>,
) -> Result<Cells, Box<dyn std::error::Error + Send + Sync>> {
    let ground = args.tested.ground()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut cells = Cells::new();
    for &(fault, workload) in pairs {
        if deadline.is_some_and(|deadline| Instant::now() > deadline) {
            break;
        }
        let one = run::One {
            trial: args.trial(fault, workload, Duration::from_millis(30)),
            client_processes: run::CLIENT_PROCESSES,
            dir: &args.dir.join(fault.to_string()),
        };
        let outcome = one.run(&runtime, &args.tested, args.tested.program(), ground.clone());
        let cell = match outcome {
            Ok(outcomes) => cell(&outcomes),
            Err(error) => {
                println!("{fault} with {workload}: {error}");
                "no verdict".to_owned()
            }
        };
        cells.insert((fault.to_string(), workload.to_string()), cell);
    }
    ground.clear()?;
    Ok(cells)
}

/// What convicts, or that the fault was not what it is to be, or that all is well.
fn cell(outcomes: &Outcomes) -> String {
    let bad = outcomes.verdicts.iter().find(|(_, verdict)| *verdict != Verdict::Valid);
    match (bad, outcomes.not_inflicted().count()) {
        (Some((name, _)), _) => name.clone(),
        (None, 0) => "valid".to_owned(),
        (None, _) => "not inflicted".to_owned(),
    }
}

/// Faults down, workloads across, as Markdown.
fn table(cells: &Cells) -> String {
    let present = |name: &&str| cells.keys().any(|(_, workload)| workload == name);
    let workloads: Vec<&str> = WorkloadKind::ALL.iter().map(|(name, _)| *name).filter(present).collect();
    let mut table =
        format!("| fault | {} |\n|---|{}\n", workloads.join(" | "), "---|".repeat(workloads.len()));
    for fault in FaultKind::ALL.iter().map(FaultKind::to_string) {
        let row: Vec<&str> = workloads
            .iter()
            .map(|workload| cells.get(&(fault.clone(), (*workload).to_owned())).map_or("", String::as_str))
            .collect();
        if row.iter().any(|cell| !cell.is_empty()) {
            let _ = writeln!(table, "| {fault} | {} |", row.join(" | "));
        }
    }
    table
}
