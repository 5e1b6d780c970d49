//! `bench scheduler`: upstream's scheduler_perf cases on the scheduler's core.
//!
//! Owns the choice of cases and the table. The core is measured without API server: decisions, queue and cluster
//! state only.

mod api_cases;
mod cases;
pub mod end_to_end;
mod measure;
mod progress;

use std::fmt::Write as _;

/// What to run.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Run only cases whose name contains this.
    #[arg(long, default_value = "")]
    pub only: String,
    /// Also run SchedulingBasic at these numbers of nodes, to show how the cost of a pod grows.
    #[arg(long, value_delimiter = ',', default_value = "1000,5000,20000,100000")]
    pub sizes: Vec<usize>,
    /// Run only the case at this place of the list, in this process.
    #[arg(long, hide = true)]
    pub case: Option<usize>,
}

/// Pods measured at each size.
const PODS_PER_SIZE: usize = 10_000;

/// Runs the cases and prints the table. Each case has a process of its own: memory that an earlier one has freed would
/// hide what a later one takes.
///
/// # Errors
/// When a case's process fails, or the table cannot be printed.
pub fn run(options: &Options) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    use std::io::Write;
    let mut chosen: Vec<_> = cases::all().into_iter().filter(|c| c.name.contains(&options.only)).collect();
    chosen.extend(options.sizes.iter().map(|n| cases::basic(*n, PODS_PER_SIZE)));
    let mut out = std::io::stdout().lock();
    if let Some(case) = options.case.and_then(|at| chosen.get(at)) {
        writeln!(out, "{}", line(&measure::run(case)))?;
        return Ok(());
    }
    writeln!(out, "{}", header())?;
    for (at, case) in chosen.iter().enumerate() {
        let sizes: Vec<String> = options.sizes.iter().map(ToString::to_string).collect();
        let status = std::process::Command::new(std::env::current_exe()?)
            .args([
                "scheduler",
                "--only",
                &options.only,
                "--sizes",
                &sizes.join(","),
                "--case",
                &at.to_string(),
            ])
            .status()?;
        if !status.success() {
            return Err(format!("the process of {} ended with {status}", case.name).into());
        }
    }
    Ok(())
}

fn header() -> String {
    "| case | nodes | pods | pods/s | decision p50 | p99 | bytes/node | bytes/pod |\n|---|---|---|---|---|---|---|---|"
        .to_owned()
}

fn line(outcome: &measure::Outcome) -> String {
    let micros = |nanos: u64| format!("{:.1} µs", nanos as f64 / 1000.0);
    let mut line = String::new();
    let _ = write!(
        line,
        "| {} | {} | {} | {:.0} | {} | {} | {} | {} |",
        outcome.name,
        outcome.nodes,
        outcome.scheduled,
        outcome.rate(),
        micros(outcome.decision_p50),
        micros(outcome.decision_p99),
        outcome.node_bytes,
        outcome.pod_bytes,
    );
    line
}
