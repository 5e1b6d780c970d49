//! What is to be run, by real members or simulated ones: everything that a seed decides about, and the flags that say it.

use std::time::Duration;

use crate::drive::Script;
use crate::faults::FaultKind;
use crate::plan::{Plan, Seed};
use crate::workloads::WorkloadKind;

/// One run.
#[derive(Clone, Debug)]
pub struct Trial {
    pub seed: Seed,
    pub duration: Duration,
    pub members: usize,
    pub processes: u32,
    pub workload: WorkloadKind,
    pub faults: Vec<FaultKind>,
    /// Faults at work at the same time.
    pub combine: usize,
    /// Every fault has one short window, however long that takes, instead of as many windows as `duration` holds.
    pub each_once: bool,
    /// The longest pause of a process between operations.
    pub pause_max: Duration,
}

impl Trial {
    /// What clients do and what is done to members, of the faults that these members can have.
    pub fn script(&self, can_have: impl Fn(FaultKind) -> bool) -> Script {
        let allowed: Vec<FaultKind> = self.faults.iter().copied().filter(|fault| can_have(*fault)).collect();
        let plan = match self.each_once {
            true => Plan::each_once(self.seed, self.duration, &allowed),
            false => Plan::new(self.seed, self.duration, &allowed, self.combine),
        };
        Script { plan, processes: self.processes, workload: self.workload, pause_max: self.pause_max }
    }

    /// The flags that give the same run again; `known` are the faults that `all` stands for there.
    pub fn flags(&self, known: &[FaultKind]) -> Vec<String> {
        let mut flags = vec![
            format!("--seed={}", self.seed),
            format!("--seconds={}", self.duration.as_secs()),
            format!("--members={}", self.members),
            format!("--processes={}", self.processes),
            format!("--pause-ms={}", self.pause_max.as_millis()),
            format!("--workload={}", self.workload),
            format!("--faults={}", names(&self.faults, known)),
            format!("--combine={}", self.combine),
        ];
        flags.extend(self.each_once.then(|| "--each-once".to_owned()));
        flags
    }

    pub fn title(&self, known: &[FaultKind]) -> String {
        format!("{} under {}, seed {}", self.workload, names(&self.faults, known), self.seed)
    }
}

/// The names, joined by commas; `none` for none, `all` for all that are known.
pub fn names(faults: &[FaultKind], known: &[FaultKind]) -> String {
    match faults {
        [] => "none".to_owned(),
        faults if faults == known => "all".to_owned(),
        faults => faults.iter().map(FaultKind::to_string).collect::<Vec<_>>().join(","),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_has_only_faults_its_members_can_have() {
        let trial = Trial {
            seed: Seed(3),
            duration: Duration::from_secs(40),
            members: 3,
            processes: 6,
            workload: WorkloadKind::Set,
            faults: vec![FaultKind::Kill, FaultKind::DiskFull],
            combine: 1,
            each_once: false,
            pause_max: Duration::from_millis(20),
        };
        let script = trial.script(|fault| fault != FaultKind::DiskFull);
        assert!(!script.plan.steps.is_empty());
        assert!(script.plan.steps.iter().all(|step| step.faults == [FaultKind::Kill]), "{script:?}");
        assert_eq!(trial.title(FaultKind::ALL), "set under kill,disk-full, seed 3");
        assert!(trial.flags(&trial.faults).contains(&"--faults=all".to_owned()));
    }
}
