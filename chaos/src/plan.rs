//! A seed decides everything: which faults, when, for how long, on whom.
//!
//! Pure: the same seed and options give the same plan, on any machine. Which member is leader is not known to a plan;
//! a fault that wants it looks when its time comes.

use std::fmt;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::faults::FaultKind;
use crate::history::Nanos;

/// The number that replays a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seed(pub u64);

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Seed {
    /// A generator for one part of the run; parts do not disturb each other's draws.
    pub fn rng(self, part: u64) -> StdRng {
        StdRng::seed_from_u64(self.0 ^ part.wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }
}

/// One fault window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    pub at: Duration,
    pub lasts: Duration,
    /// What happens together in this window.
    pub faults: Vec<FaultKind>,
    /// Draws of the faults themselves (which member, which half).
    pub draw: u64,
}

impl Step {
    /// The faults, joined by `+`.
    pub fn name(&self) -> String {
        let names: Vec<String> = self.faults.iter().map(FaultKind::to_string).collect();
        names.join("+")
    }
}

/// A fault window as it really was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    pub from: Nanos,
    pub to: Nanos,
    /// The faults at work, joined by `+`.
    pub fault: String,
    /// Whether all of it was really done.
    pub is_whole: bool,
    pub what: String,
}

/// The fault windows of a run, by time, without overlap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub seed: Seed,
    pub duration: Duration,
    pub steps: Vec<Step>,
}

/// Quiet at the start, so that clients have connected.
const LEAD_IN: Duration = Duration::from_secs(3);
/// Longer than an election, so that most windows see the cluster both break and recover.
const WINDOW_MS: std::ops::Range<u64> = 2_000..6_000;
/// Between windows, long enough for followers to catch up.
const REST_MS: std::ops::Range<u64> = 1_500..4_000;

impl Plan {
    /// Fills `duration` with windows of the allowed faults, `combine` of them at a time where so many fit together; no
    /// fault at all if none is allowed.
    pub fn new(seed: Seed, duration: Duration, allowed: &[FaultKind], combine: usize) -> Self {
        let mut rng = seed.rng(1);
        let mut steps = Vec::new();
        let mut at = LEAD_IN;
        while let Some(first) = allowed.choose(&mut rng) {
            let faults = together(*first, allowed, combine, &mut rng);
            let lasts = Duration::from_millis(rng.random_range(WINDOW_MS));
            if at + lasts > duration {
                break;
            }
            steps.push(Step { at, lasts, faults, draw: rng.random() });
            at += lasts + Duration::from_millis(rng.random_range(REST_MS));
        }
        Plan { seed, duration, steps }
    }
}

/// Windows of a plan that has every fault once: just long enough for an election.
const SHORT_WINDOW_MS: std::ops::Range<u64> = 1_500..2_500;
const SHORT_REST_MS: std::ops::Range<u64> = 1_000..1_500;

impl Plan {
    /// Every fault once, in an order that the seed decides, for at least `duration`.
    pub fn each_once(seed: Seed, duration: Duration, faults: &[FaultKind]) -> Self {
        let mut rng = seed.rng(1);
        let mut order = faults.to_vec();
        order.shuffle(&mut rng);
        let mut at = LEAD_IN;
        let mut steps = Vec::new();
        for fault in order {
            let lasts = Duration::from_millis(rng.random_range(SHORT_WINDOW_MS));
            steps.push(Step { at, lasts, faults: vec![fault], draw: rng.random() });
            at += lasts + Duration::from_millis(rng.random_range(SHORT_REST_MS));
        }
        Plan { seed, duration: duration.max(at), steps }
    }
}

/// The first fault and others of other groups: two cuts at once would only undo each other.
fn together(first: FaultKind, allowed: &[FaultKind], combine: usize, rng: &mut StdRng) -> Vec<FaultKind> {
    let mut chosen = vec![first];
    let mut others = allowed.to_vec();
    others.shuffle(rng);
    for fault in others {
        if chosen.len() < combine && chosen.iter().all(|known| known.group() != fault.group()) {
            chosen.push(fault);
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_plan_and_windows_do_not_overlap() {
        let plan = |seed| Plan::new(Seed(seed), Duration::from_secs(60), FaultKind::ALL, 2);
        assert_eq!(plan(7), plan(7));
        assert_ne!(plan(7), plan(8));
        for pair in plan(7).steps.windows(2) {
            assert!(pair[0].at + pair[0].lasts < pair[1].at, "{pair:?}");
        }
        assert!(plan(7).steps.len() >= 6, "{:?}", plan(7));
        assert!(Plan::new(Seed(1), Duration::from_secs(60), &[], 3).steps.is_empty());
        for step in plan(7).steps {
            assert_eq!(step.faults.len(), 2, "{step:?}");
            assert_ne!(step.faults[0].group(), step.faults[1].group(), "{step:?}");
        }
    }

    #[test]
    fn each_fault_has_its_window() {
        let plan = Plan::each_once(Seed(7), Duration::from_secs(1), FaultKind::ALL);
        let had = |fault: &FaultKind| plan.steps.iter().filter(|step| step.faults == [*fault]).count();
        assert!(FaultKind::ALL.iter().all(|fault| had(fault) == 1), "{plan:?}");
        assert!(plan.steps.iter().all(|step| step.at + step.lasts < plan.duration), "{plan:?}");
        assert_ne!(plan, Plan::each_once(Seed(8), Duration::from_secs(1), FaultKind::ALL));
    }
}
