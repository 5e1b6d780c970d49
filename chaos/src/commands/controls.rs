//! `chaos controls`: plants each known bug and demands that its run convicts it.

use std::path::PathBuf;

use chaos::controls::{CONTROLS, Control};
use chaos::plan::Seed;

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
            let convictions = match &mut real {
                Some(real) => real.convictions(control, seed, &env, args)?,
                None => simulated(control, seed, &env, args)?,
            };
            if let Some((_, text)) = convictions.into_iter().find(|(name, _)| name == control.convicted_by) {
                caught = Some((seed, text));
                break;
            }
        }
        match caught {
            Some((seed, text)) => {
                println!("{}: caught by {:?} with seed {seed}\n  {text}", control.bug, control.convicted_by);
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

fn simulated(
    control: &Control,
    seed: u64,
    env: &[(String, String)],
    args: &Args,
) -> Result<Convictions, String> {
    let task = Task {
        seed: Seed(seed),
        seconds: control.seconds,
        members: 3,
        processes: 6,
        pause_ms: 40,
        workload: control.workload,
        faults: control.faults.to_vec(),
        combine: 1,
        dir: args.dir.clone(),
    };
    Ok(task.spawn(env)?.convictions)
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
            seed: Seed(seed),
            seconds: control.seconds,
            processes: 8,
            pause_ms: 20,
            workload: control.workload,
            faults: control.faults,
            combine: 1,
            dir: &args.dir,
        };
        let outcomes = one.run(&self.runtime, &self.tested, program, self.ground.clone())?;
        let bad = outcomes.verdicts.iter().filter(|(_, verdict)| *verdict != chaos::checkers::Verdict::Valid);
        Ok(bad.map(|(name, verdict)| (name.clone(), verdict.to_string())).collect())
    }
}
