//! `bench scheduler`: upstream's scheduler_perf cases on the scheduler's core.
//!
//! Owns the choice of cases and the table. The core is measured without API server: decisions, queue and cluster
//! state only.

mod cases;
mod measure;

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
}

/// Pods measured at each size.
const PODS_PER_SIZE: usize = 10_000;

/// Runs the cases and prints the table.
///
/// # Errors
/// When the table cannot be printed.
pub fn run(options: &Options) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    use std::io::Write;
    let chosen = cases::all().into_iter().filter(|c| c.name.contains(&options.only));
    let sizes = options.sizes.iter().map(|n| cases::basic(*n, PODS_PER_SIZE));
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", header())?;
    for case in chosen.chain(sizes) {
        writeln!(out, "{}", line(&measure::run(&case)))?;
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
