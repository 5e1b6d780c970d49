//! Negative controls: known bugs, and the run that must catch each of them.
//!
//! A harness that never convicts proves nothing. Each row plants one bug and says which workload under which faults
//! must be convicted by which checker. Needs a build with the feature `planted-bugs`.

use crate::faults::FaultKind;
use crate::workloads::WorkloadKind;

/// One planted bug and its run.
#[derive(Clone, Copy, Debug)]
pub struct Control {
    /// As the store's planted bugs are named.
    pub bug: &'static str,
    pub workload: WorkloadKind,
    pub faults: &'static [FaultKind],
    /// Seconds a run.
    pub seconds: u64,
    /// The checker that must convict.
    pub convicted_by: &'static str,
}

/// Every planted bug.
pub const CONTROLS: &[Control] = &[
    Control {
        bug: "stale-reads",
        workload: WorkloadKind::Register,
        faults: &[FaultKind::IsolateLeader, FaultKind::SplitHalves, FaultKind::Lossy],
        seconds: 30,
        convicted_by: "linearizable",
    },
    Control {
        bug: "ack-before-sync",
        workload: WorkloadKind::Set,
        faults: &[FaultKind::KillAll],
        seconds: 20,
        convicted_by: "no acknowledged write lost",
    },
    Control {
        bug: "drop-watch-event",
        workload: WorkloadKind::Watch,
        faults: &[],
        seconds: 15,
        convicted_by: "watches",
    },
    Control {
        bug: "double-watch-event",
        workload: WorkloadKind::Watch,
        faults: &[],
        seconds: 15,
        convicted_by: "watches",
    },
    Control {
        bug: "forget-leases",
        workload: WorkloadKind::Lock,
        faults: &[FaultKind::KillLeader, FaultKind::IsolateLeader],
        seconds: 30,
        convicted_by: "leases and locks",
    },
    Control {
        bug: "apply-twice",
        workload: WorkloadKind::Register,
        faults: &[],
        seconds: 15,
        convicted_by: "revisions follow real time",
    },
];

/// The store's own list must be the same: a bug without a run controls nothing.
#[cfg(all(test, feature = "planted-bugs"))]
mod tests {
    use super::*;

    #[test]
    fn every_planted_bug_has_its_run() {
        let planted: Vec<&str> = raft_store::planted::Bug::ALL.iter().map(|(name, _)| *name).collect();
        let controlled: Vec<&str> = CONTROLS.iter().map(|control| control.bug).collect();
        assert_eq!(planted, controlled);
    }
}
