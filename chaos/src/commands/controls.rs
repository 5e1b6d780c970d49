//! `chaos controls`: plants each known bug and demands that its run convicts it.

use std::path::PathBuf;
use std::time::Duration;

use chaos::controls::{CONTROLS, Control};
use chaos::plan::Seed;
use chaos::trial::Trial;

use super::simulate::Task;
use super::{Outcome, Tested, run};

/// A planted bug is caught by one of so many seeds.
const SEEDS_MAX: u64 = 6;

/// Plants each known bug and demands that its run convicts it. Needs a build with `--features planted-bugs`.
#[derive(clap::Args)]
pub struct Args {
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only this bug.
    #[arg(long)]
    bug: Option<String>,
    /// Against real members instead of simulated ones.
    #[arg(long)]
    real: bool,
    #[arg(long, default_value = ".run/chaos-controls")]
    dir: PathBuf,
}

pub fn execute(args: &Args) -> Outcome {
    let Some(variable) = planted_variable() else {
        return Err("this program has no bugs planted: build it with --features planted-bugs".into());
    };
    let controls: Vec<&Control> = CONTROLS
        .iter()
        .filter(|control| args.bug.as_ref().is_none_or(|wanted| wanted == control.bug))
        .collect();
    if controls.is_empty() {
        return Err(format!("no bug is named {:?}", args.bug).into());
    }
    let mut all_caught = true;
    let mut real = if args.real { Some(Real::new()?) } else { None };
    for control in controls {
        let env = vec![(variable.to_owned(), control.bug.to_owned())];
        let mut caught = None;
        for seed in args.seed..args.seed + SEEDS_MAX {
            let (convictions, digest) = match &mut real {
                Some(real) => (real.convictions(control, seed, &env, args)?, None),
                None => simulated(control, seed, &env, args)?,
            };
            if let Some((_, text)) = convictions.into_iter().find(|(name, _)| name == control.convicted_by) {
                caught = Some((seed, text, digest));
                break;
            }
        }
        match caught {
            Some((seed, text, digest)) => {
                println!("{}: caught by {:?} with seed {seed}\n  {text}", control.bug, control.convicted_by);
                println!("  replay: {variable}={} {}", control.bug, replay(control, seed, args));
                all_caught &= digest.is_none_or(|digest| replays(control, seed, &env, args, digest));
            }
            None => {
                println!("{}: NOT caught by {:?} in {SEEDS_MAX} seeds", control.bug, control.convicted_by);
                all_caught = false;
            }
        }
    }
    if let Some(real) = real {
        real.ground.clear()?;
    }
    Ok(all_caught)
}

#[cfg(feature = "planted-bugs")]
fn planted_variable() -> Option<&'static str> {
    Some(raft_store::planted::VARIABLE)
}

#[cfg(not(feature = "planted-bugs"))]
fn planted_variable() -> Option<&'static str> {
    None
}

type Convictions = Vec<(String, String)>;

fn trial(control: &Control, seed: u64, processes: u32, pause_ms: u64) -> Trial {
    Trial {
        seed: Seed(seed),
        duration: Duration::from_secs(control.seconds),
        members: 3,
        processes,
        workload: control.workload,
        faults: control.faults.to_vec(),
        combine: 1,
        each_once: false,
        pause_max: Duration::from_millis(pause_ms),
    }
}

fn replay(control: &Control, seed: u64, args: &Args) -> String {
    match args.real {
        true => format!("chaos controls --real --bug={} --seed={seed}", control.bug),
        false => simulation(control, seed, args).replay(),
    }
}

fn simulation(control: &Control, seed: u64, args: &Args) -> Task {
    Task { trial: trial(control, seed, 6, 40), dir: args.dir.join(control.bug) }
}

/// Convictions, and the history's digest.
fn simulated(
    control: &Control,
    seed: u64,
    env: &[(String, String)],
    args: &Args,
) -> Result<(Convictions, Option<u32>), String> {
    let summary = simulation(control, seed, args).spawn(env)?;
    Ok((summary.convictions, Some(summary.digest)))
}

/// Whether a seed that convicted is convicted again by the same checker; says whether by the very same history.
fn replays(control: &Control, seed: u64, env: &[(String, String)], args: &Args, digest: u32) -> bool {
    match simulated(control, seed, env, args) {
        Ok((convictions, again)) => {
            let which = if again == Some(digest) { "the same" } else { "another" };
            println!("  replayed: {which} history, digest {digest:08x}");
            convictions.iter().any(|(name, _)| name == control.convicted_by)
        }
        Err(error) => {
            println!("  NOT replayed: {error}");
            false
        }
    }
}

/// Members of this very program, as processes.
struct Real {
    tested: Tested,
    ground: chaos::cluster::Ground,
    runtime: tokio::runtime::Runtime,
}

impl Real {
    fn new() -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let tested = Tested {
            binary: std::env::current_exe()?,
            etcd: false,
            members: 3,
            heartbeat_ms: 50,
            election_ms: 500,
            loopback: false,
        };
        let ground = tested.ground()?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        Ok(Real { tested, ground, runtime })
    }

    fn convictions(
        &mut self,
        control: &Control,
        seed: u64,
        env: &[(String, String)],
        args: &Args,
    ) -> Result<Convictions, Box<dyn std::error::Error + Send + Sync>> {
        let mut program = self.tested.program();
        program.env = env.to_vec();
        let one = run::One {
            trial: trial(control, seed, 8, 20),
            client_processes: run::CLIENT_PROCESSES,
            dir: &args.dir.join(control.bug),
        };
        let outcomes = one.run(&self.runtime, &self.tested, program, self.ground.clone())?;
        let bad = outcomes.verdicts.iter().filter(|(_, verdict)| *verdict != chaos::checkers::Verdict::Valid);
        Ok(bad.map(|(name, verdict)| (name.clone(), verdict.to_string())).collect())
    }
}
