//! `chaos simulate`: members, network and clocks in one process, from one seed.
//!
//! Each seed has a process of its own: then every table and counter in it begins as it always begins, and a seed that
//! fails fails again.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use chaos::checkers::Verdict;
use chaos::plan::Seed;
use chaos::sim;
use chaos::trial::Trial;
use serde::{Deserialize, Serialize};

use super::{Outcome, Shape};

/// Set for the process that simulates one seed: the seed.
const SEED_VARIABLE: &str = "CHAOS_SIMULATED_SEED";

/// Simulates seeds one after another. Exit status 1 if anything is not valid.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    shape: Shape,
    /// How many seeds, for each workload.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    #[arg(long, default_value_t = 3)]
    members: usize,
    /// Longest pause of a process between operations, in milliseconds.
    #[arg(long, default_value_t = 200)]
    pause_ms: u64,
    /// Seeds simulated at the same time.
    #[arg(long, default_value_t = std::thread::available_parallelism().map_or(1, |count| count.get() as u64))]
    jobs: u64,
    /// Simulate each seed twice and compare the histories.
    #[arg(long)]
    twice: bool,
    /// Where reports of failing seeds are kept.
    #[arg(long, default_value = ".run/chaos-sim")]
    dir: PathBuf,
}

/// One seed's task.
#[derive(Clone, Debug)]
pub struct Task {
    pub trial: Trial,
    /// Where a report is kept, if it is not valid.
    pub dir: PathBuf,
}

/// What a seed's process reports.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Summary {
    pub operations: usize,
    pub windows: usize,
    pub cluster_secs: f64,
    pub digest: u32,
    /// Checker and what it said, if not "valid".
    pub convictions: Vec<(String, String)>,
}

impl Summary {
    pub fn is_valid(&self) -> bool {
        self.convictions.is_empty()
    }
}

/// In the process of one seed: makes everything random the seed's.
pub fn replace_entropy() {
    if let Some(seed) = std::env::var(SEED_VARIABLE).ok().and_then(|seed| seed.parse().ok()) {
        sim::entropy::replace(seed);
    }
}

pub fn execute(args: &Args) -> Outcome {
    let trials = args.shape.trials(args.seeds, args.members, args.pause_ms, &sim::known())?;
    let tasks: Vec<Task> = trials.into_iter().map(|trial| Task { trial, dir: args.dir.clone() }).collect();
    if std::env::var_os(SEED_VARIABLE).is_some() {
        for task in tasks {
            println!("{}", serde_json::to_string(&task.simulate()?)?);
        }
        return Ok(true);
    }
    let started = Instant::now();
    let done = run_all(&tasks, args.jobs, args.shape.deadline(), args.twice, &[]);
    report(&done, started.elapsed())
}

/// A finished task; `Err` says why the process gave no summary.
pub type Done = (Task, Result<Summary, String>);

/// Prints what failed and the sum; `false` if anything did.
fn report(done: &[Done], took: Duration) -> Outcome {
    let mut sums = (0_usize, 0_usize, 0.0);
    let mut is_valid = true;
    for (task, outcome) in done {
        match outcome {
            Ok(summary) => {
                sums = (sums.0 + summary.operations, sums.1 + summary.windows, sums.2 + summary.cluster_secs);
                println!("{}: {}", task.title(), summary.line());
                is_valid &= summary.is_valid();
            }
            Err(error) => {
                println!("{}: {error}", task.title());
                is_valid = false;
            }
        }
        if !matches!(outcome, Ok(summary) if summary.is_valid()) {
            println!("  replay: {}", task.replay());
        }
    }
    println!(
        "{} simulations, {:.0} cluster-seconds in {:.0} s ({:.0} a minute), {} operations, {} fault windows",
        done.len(),
        sums.2,
        took.as_secs_f64(),
        sums.2 / took.as_secs_f64() * 60.0,
        sums.0,
        sums.1
    );
    Ok(is_valid)
}

impl Summary {
    /// One line, and what convicts below it.
    fn line(&self) -> String {
        let convictions: String =
            self.convictions.iter().map(|(name, text)| format!("\n  {name}: {text}")).collect();
        let verdict = if self.is_valid() { "valid" } else { "NOT valid" };
        format!(
            "{verdict}, {} operations, {} fault windows, digest {:08x}{convictions}",
            self.operations, self.windows, self.digest
        )
    }
}

/// Runs the tasks, each in its own process, so many at a time; in the order given, until the deadline.
pub fn run_all(
    tasks: &[Task],
    jobs: u64,
    deadline: Option<Instant>,
    twice: bool,
    env: &[(String, String)],
) -> Vec<Done> {
    let next = AtomicU64::new(0);
    let done: Mutex<Vec<(u64, Done)>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let late = deadline.is_some_and(|deadline| Instant::now() > deadline);
                    let Some(task) = tasks.get(at as usize).filter(|_| !late) else { return };
                    let mut outcome = task.spawn(env);
                    if twice && let Ok(first) = &outcome {
                        outcome = match task.spawn(env) {
                            Ok(second) if second.digest == first.digest => Ok(second),
                            Ok(second) => Err(format!(
                                "the same seed gave two histories: {:08x} and {:08x}",
                                first.digest, second.digest
                            )),
                            Err(error) => Err(error),
                        };
                    }
                    if let Ok(mut done) = done.lock() {
                        done.push((at, (task.clone(), outcome)));
                    }
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_default();
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, done)| done).collect()
}

impl Task {
    pub fn title(&self) -> String {
        self.trial.title(&sim::known())
    }

    fn flags(&self) -> Vec<String> {
        self.trial.flags(&sim::known())
    }

    pub fn replay(&self) -> String {
        format!("chaos simulate {}", self.flags().join(" "))
    }

    /// Simulates in a process of its own and reads its summary.
    pub fn spawn(&self, env: &[(String, String)]) -> Result<Summary, String> {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut command = Command::new(program);
        command.arg("simulate").args(self.flags()).arg(format!("--dir={}", self.dir.display()));
        command.env(SEED_VARIABLE, self.trial.seed.to_string()).envs(env.iter().cloned());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // SAFETY: one system call, which allocates nothing and takes no lock.
        unsafe {
            // Addresses are the same in every process, too, wherever something depends on them.
            command.pre_exec(|| match libc::personality(libc::ADDR_NO_RANDOMIZE as libc::c_ulong) {
                -1 => Err(std::io::Error::last_os_error()),
                _ => Ok(()),
            });
        }
        let output = command.output().map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&output.stdout);
        let line = text.lines().last().unwrap_or_default();
        serde_json::from_str(line).map_err(|_| {
            let errors = String::from_utf8_lossy(&output.stderr);
            let tail: Vec<&str> = errors.lines().rev().take(12).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            format!("the simulation ended without a verdict ({}):\n{}", output.status, tail.join("\n"))
        })
    }

    /// Simulates here; keeps a report if anything is not valid.
    fn simulate(&self) -> Result<Summary, Box<dyn std::error::Error + Send + Sync>> {
        let disk = scratch(self.trial.seed);
        let run = sim::run(&self.trial, &disk);
        std::fs::remove_dir_all(&disk)?;
        let run = run?;
        let convictions = run.outcomes.verdicts.iter().filter(|(_, verdict)| *verdict != Verdict::Valid);
        let convictions = convictions.map(|(name, verdict)| (name.clone(), verdict.to_string())).collect();
        if !run.outcomes.is_valid() {
            let kept = self.dir.join(format!("{}-{}", self.trial.workload, self.trial.seed));
            let page = chaos::report::html(&self.title(), &self.replay(), &run.outcomes);
            super::write(&kept.join("report.html"), &page)?;
            chaos::run::save(&kept, &run.outcomes.history)?;
        }
        Ok(Summary {
            operations: run.outcomes.history.operations.len(),
            windows: run.outcomes.windows.len(),
            cluster_secs: run.cluster_secs,
            digest: run.digest,
            convictions,
        })
    }
}

/// Memory serves as the disk where there is such a folder: nothing of it outlives the run anyway. The name is the same
/// length in every process, as paths end up in files.
fn scratch(seed: Seed) -> PathBuf {
    let memory = Path::new("/dev/shm");
    let below = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    below.join(format!("chaos-sim-{:016x}-{:010}", seed.0, std::process::id()))
}
