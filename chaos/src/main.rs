//! `chaos run`: attacks a cluster under a seed and says whether it kept its promises.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use chaos::cluster::{Error, Ground, Program};
use chaos::faults::FaultKind;
use chaos::plan::Seed;
use chaos::report;
use chaos::run::{self, Options};
use chaos::workloads::WorkloadKind;
use clap::{Parser, Subcommand};

/// Jepsen-style runs against real members.
#[derive(Parser)]
#[command(name = "chaos")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Run(RunArgs),
    /// List workloads and faults.
    List,
}

/// Starts members, drives them, breaks them, heals them, judges them. Exit status 1 if anything is not valid.
///
/// As root every member has a network namespace of its own, and the harness one too; otherwise members use loopback
/// addresses, and faults that cut links are left out.
#[derive(clap::Args)]
struct RunArgs {
    /// Decides the whole plan; by default drawn, and printed.
    #[arg(long)]
    seed: Option<u64>,
    /// How many runs, each with the next seed.
    #[arg(long, default_value_t = 1)]
    runs: u64,
    /// Seconds a run.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    #[arg(long, default_value_t = 3)]
    members: usize,
    /// Client processes.
    #[arg(long, default_value_t = 6)]
    processes: u32,
    /// register, set, append, bank, watch, or all.
    #[arg(long, default_value = "all")]
    workload: String,
    /// Fault names, `all`, or `none`.
    #[arg(long, value_delimiter = ',', default_value = "all")]
    faults: Vec<String>,
    /// The quarterdeck binary, or an etcd with --etcd.
    #[arg(long, env = "QUARTERDECK_BINARY", default_value = "quarterdeck")]
    binary: PathBuf,
    /// The binary is a real etcd: a control of the harness itself.
    #[arg(long)]
    etcd: bool,
    /// Where runs are kept.
    #[arg(long, default_value = ".run/chaos")]
    dir: PathBuf,
    /// Longest pause of a process between operations, in milliseconds.
    #[arg(long, default_value_t = 40)]
    pause_ms: u64,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    match cli.command {
        Command::List => {
            for (name, _) in WorkloadKind::ALL {
                println!("workload {name}");
            }
            for fault in FaultKind::ALL {
                println!("fault    {fault}");
            }
            ExitCode::SUCCESS
        }
        Command::Run(args) => match run_all(&args) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => {
                eprintln!("chaos: {error}");
                ExitCode::from(2)
            }
        },
    }
}

fn run_all(args: &RunArgs) -> Result<bool, Box<dyn std::error::Error>> {
    let workloads: Vec<WorkloadKind> = match args.workload.as_str() {
        "all" => WorkloadKind::ALL.iter().map(|(_, kind)| *kind).collect(),
        name => vec![name.parse()?],
    };
    let faults: Vec<FaultKind> = match args.faults.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["all"] => FaultKind::ALL.to_vec(),
        ["none"] => Vec::new(),
        names => names.iter().map(|name| name.parse()).collect::<Result<_, _>>()?,
    };
    let root = nix::unistd::geteuid().is_root();
    if root {
        Ground::enter_own_namespace()?;
    }
    let ground = if root { Ground::namespaces(args.members)? } else { Ground::loopback(0) };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let first = args.seed.unwrap_or_else(rand::random);
    let mut all_valid = true;
    for number in 0..args.runs {
        for workload in &workloads {
            let seed = Seed(first.wrapping_add(number));
            all_valid &= runtime.block_on(run_one(args, seed, *workload, &faults, ground.clone()))?;
        }
    }
    ground.clear()?;
    Ok(all_valid)
}

async fn run_one(
    args: &RunArgs,
    seed: Seed,
    workload: WorkloadKind,
    faults: &[FaultKind],
    ground: Ground,
) -> Result<bool, Error> {
    let root = args.dir.join(format!("{workload}-{seed}"));
    // A replay starts from nothing, as the first run did.
    let io = |error| Error::Io { path: root.clone(), error };
    if root.exists() {
        std::fs::remove_dir_all(&root).map_err(io)?;
    }
    std::fs::create_dir_all(&root).map_err(io)?;
    let root = root.canonicalize().map_err(io)?;
    let options = Options {
        seed,
        duration: Duration::from_secs(args.seconds),
        members: args.members,
        processes: args.processes,
        workload,
        faults: faults.to_vec(),
        program: program(args),
        pause_max: Duration::from_millis(args.pause_ms),
        root: root.clone(),
    };
    let started = Instant::now();
    let outcomes = run::run(&options, ground).await?;
    let names: Vec<String> = faults.iter().map(FaultKind::to_string).collect();
    let replay = format!(
        "chaos run --seed={seed} --seconds={} --members={} --workload={workload} --faults={} --binary={}{}",
        args.seconds,
        args.members,
        names.join(","),
        args.binary.display(),
        if args.etcd { " --etcd" } else { "" }
    );
    let page = report::html(&format!("{workload}, seed {seed}"), &replay, &outcomes);
    let path = root.join("report.html");
    std::fs::write(&path, page).map_err(|error| Error::Io { path: path.clone(), error })?;
    println!(
        "{workload} seed {seed}: {} operations, {} fault windows, {:.1} s, longest gap {:.2} s; {}",
        outcomes.history.operations.len(),
        outcomes.windows.len(),
        started.elapsed().as_secs_f64(),
        report::longest_gap(&outcomes.history.operations),
        path.display()
    );
    for (name, verdict) in &outcomes.verdicts {
        println!("  {name}: {verdict}");
    }
    if !outcomes.is_valid() {
        println!("  replay: {replay}");
    }
    Ok(outcomes.is_valid())
}

fn program(args: &RunArgs) -> Program {
    let binary = args.binary.display().to_string();
    let timing = ["--heartbeat-interval=50", "--election-timeout=500"].map(str::to_owned).to_vec();
    match args.etcd {
        true => Program { command: vec![binary], flags: timing },
        false => Program { command: vec![binary, "store".to_owned()], flags: timing },
    }
}
