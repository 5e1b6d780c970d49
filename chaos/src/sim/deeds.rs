//! Faults in the simulation: the same names and the same windows as against real members, as deeds at instants.

use std::collections::BTreeSet;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::world::World;
use crate::faults::{FaultKind, partition};
use crate::plan::{Plan, Step};

const FLAP: Duration = Duration::from_millis(250);
const LOSS_PERCENT: u32 = 20;
const SLOWNESS: Duration = Duration::from_millis(80);
/// A rolling restart gives each member so long before the next.
const ROLL: Duration = Duration::from_millis(1_500);
const DOWN: Duration = Duration::from_millis(300);
const BETWEEN_MOVES: Duration = Duration::from_millis(700);
const BETWEEN_COMPACTIONS: Duration = Duration::from_millis(500);
/// How much faster or slower a clock runs that drifts.
const DRIFT: std::ops::Range<f64> = 0.8..1.25;
const JUMP_MILLIS: std::ops::Range<u64> = 500..5_000;

#[derive(Clone, Copy, Debug)]
enum Who {
    Leader,
    Member(usize),
}

#[derive(Clone, Copy, Debug)]
enum Shape {
    Isolate(Who),
    Split(u64),
    Deafen(usize),
    Ring,
}

/// Something done at one instant.
#[derive(Clone, Copy, Debug)]
enum Deed {
    Kill(Who),
    KillAll,
    StartAll,
    Pause(Who),
    ResumeAll,
    Cut(Shape),
    Heal,
    Trouble { loss_percent: u32, slowness: Duration },
    Rate(usize, f64),
    Jump(usize, Duration),
    MoveLeader(usize),
    Compact,
}

/// What clients must do for the world, since it has no client of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Errand {
    MoveLeader(usize),
    Compact,
}

/// All deeds of a plan by time.
pub struct Timeline {
    /// When, for which of the plan's windows, and what.
    deeds: Vec<(Duration, usize, Deed)>,
    next: usize,
    /// What was really done, by window; an error where nobody was there to do it to.
    done: Vec<(usize, Result<String, String>)>,
}

impl Timeline {
    pub fn new(plan: &Plan, members: usize) -> Self {
        let numbered = plan.steps.iter().enumerate();
        let mut deeds: Vec<(Duration, usize, Deed)> = numbered
            .flat_map(|(number, step)| {
                of_step(step, members).into_iter().map(move |(after, deed)| (step.at + after, number, deed))
            })
            .collect();
        deeds.sort_by_key(|(at, ..)| *at);
        Timeline { deeds, next: 0, done: Vec::new() }
    }

    /// Does what is due by `elapsed`; what clients must do is returned.
    pub fn advance(&mut self, elapsed: Duration, world: &mut World) -> std::io::Result<Vec<Errand>> {
        let mut errands = Vec::new();
        while let Some((at, number, deed)) = self.deeds.get(self.next).copied().filter(|due| due.0 <= elapsed)
        {
            tracing::info!(at_millis = at.as_millis() as u64, ?deed, "a deed");
            self.next += 1;
            self.done.extend(deed.words(world).map(|words| (number, words)));
            errands.extend(carry_out(deed, world)?);
        }
        Ok(errands)
    }

    /// Whether all of a window was done, and what, in words.
    pub fn account(&self, window: usize) -> (bool, String) {
        let done = self.done.iter().filter(|(number, _)| *number == window).map(|(_, words)| words);
        let said = |words: &Result<String, String>| words.clone().unwrap_or_else(|why| why);
        let mut words: Vec<String> = done.clone().map(said).collect();
        words.dedup();
        (!words.is_empty() && done.clone().all(Result::is_ok), words.join("; "))
    }

    /// Undoes everything; no deed follows.
    pub fn heal(&mut self, world: &mut World) -> std::io::Result<()> {
        self.next = self.deeds.len();
        for deed in [Deed::Heal, Deed::Trouble { loss_percent: 0, slowness: Duration::ZERO }, Deed::ResumeAll]
        {
            carry_out(deed, world)?;
        }
        for member in 0..world.members() {
            world.set_rate(member, 1.0);
        }
        carry_out(Deed::StartAll, world).map(drop)
    }
}

/// Whether a fault can be simulated.
pub fn knows(fault: FaultKind) -> bool {
    of_fault(fault, Duration::ZERO, 1, &mut StdRng::seed_from_u64(0)).is_some()
}

fn of_step(step: &Step, members: usize) -> Vec<(Duration, Deed)> {
    let mut rng = StdRng::seed_from_u64(step.draw);
    let deeds = step.faults.iter().filter_map(|fault| of_fault(*fault, step.lasts, members, &mut rng));
    deeds.flatten().collect()
}

/// The deeds of a fault, by time since it began; `None` if it cannot be simulated.
fn of_fault(
    fault: FaultKind,
    lasts: Duration,
    members: usize,
    rng: &mut StdRng,
) -> Option<Vec<(Duration, Deed)>> {
    let now = Duration::ZERO;
    let any = rng.random_range(0..members);
    let held = |first, last| vec![(now, first), (lasts, last)];
    let cut = |shape| held(Deed::Cut(shape), Deed::Heal);
    let quiet = Deed::Trouble { loss_percent: 0, slowness: Duration::ZERO };
    Some(match fault {
        FaultKind::Kill => held(Deed::Kill(Who::Member(any)), Deed::StartAll),
        FaultKind::KillLeader => held(Deed::Kill(Who::Leader), Deed::StartAll),
        FaultKind::KillAll => vec![(now, Deed::KillAll), (lasts / 2, Deed::StartAll)],
        FaultKind::PauseLeader => held(Deed::Pause(Who::Leader), Deed::ResumeAll),
        FaultKind::RollingRestart => (0..members)
            .flat_map(|member| {
                let at = ROLL * member as u32;
                [(at, Deed::Kill(Who::Member(member))), (at + DOWN, Deed::StartAll)]
            })
            .collect(),
        FaultKind::IsolateLeader => cut(Shape::Isolate(Who::Leader)),
        FaultKind::SplitHalves => cut(Shape::Split(rng.random())),
        FaultKind::OneWay => cut(Shape::Deafen(any)),
        FaultKind::RingOfMajorities => cut(Shape::Ring),
        FaultKind::Flapping => (0..(lasts.as_millis() / FLAP.as_millis()) as u32 / 2)
            .flat_map(|round| {
                let at = FLAP * 2 * round;
                [(at, Deed::Cut(Shape::Isolate(Who::Member(any)))), (at + FLAP, Deed::Heal)]
            })
            .collect(),
        FaultKind::Lossy => held(Deed::Trouble { loss_percent: LOSS_PERCENT, slowness: now }, quiet),
        FaultKind::Slow => held(Deed::Trouble { loss_percent: 0, slowness: SLOWNESS }, quiet),
        FaultKind::ClockDrift => held(Deed::Rate(any, rng.random_range(DRIFT)), Deed::Rate(any, 1.0)),
        FaultKind::ClockJump => {
            vec![(now, Deed::Jump(any, Duration::from_millis(rng.random_range(JUMP_MILLIS))))]
        }
        FaultKind::MoveLeader => (0..(lasts.as_millis() / BETWEEN_MOVES.as_millis()) as u32)
            .map(|round| (BETWEEN_MOVES * round, Deed::MoveLeader(rng.random_range(0..members))))
            .collect(),
        FaultKind::Compact => (0..(lasts.as_millis() / BETWEEN_COMPACTIONS.as_millis()) as u32)
            .map(|round| (BETWEEN_COMPACTIONS * round, Deed::Compact))
            .collect(),
        FaultKind::AddMember
        | FaultKind::RemoveMember
        | FaultKind::ReplaceMember
        | FaultKind::TornWrite
        | FaultKind::LostWrites
        | FaultKind::DiskFull
        | FaultKind::DiskError
        | FaultKind::FlipLog
        | FaultKind::TruncateLog
        | FaultKind::FlipState
        | FaultKind::TruncateState => return None,
    })
}

impl Deed {
    /// What it does, in words; nothing for one that undoes another, an error where there is nobody to do it to.
    fn words(self, world: &World) -> Option<Result<String, String>> {
        let on = |who, did: &str| match find(who, world) {
            Some(member) => Ok(format!("{did} m{member}")),
            None => Err("not done: nobody led".to_owned()),
        };
        let ok = |words: &str| Some(Ok(words.to_owned()));
        match self {
            Deed::Kill(who) => Some(on(who, "killed")),
            Deed::Pause(who) => Some(on(who, "paused")),
            Deed::Cut(Shape::Isolate(who)) => Some(on(who, "cut off")),
            Deed::KillAll => ok("killed all"),
            Deed::Cut(Shape::Split(_)) => ok("cut a minority off"),
            Deed::Cut(Shape::Deafen(deaf)) => Some(Ok(format!("m{deaf} heard nobody"))),
            Deed::Cut(Shape::Ring) => ok("each heard a majority, no two the same"),
            Deed::Trouble { loss_percent: 0, slowness } if slowness.is_zero() => None,
            Deed::Trouble { loss_percent: 0, slowness } => Some(Ok(format!("links slower by {slowness:?}"))),
            Deed::Trouble { loss_percent, .. } => Some(Ok(format!("{loss_percent} % of packets lost"))),
            Deed::Rate(_, rate) if (rate - 1.0).abs() < f64::EPSILON => None,
            Deed::Rate(member, rate) => {
                Some(Ok(format!("the clock of m{member} ran {rate:.2} times as fast")))
            }
            Deed::Jump(member, by) => Some(Ok(format!("the clock of m{member} jumped by {by:?}"))),
            Deed::MoveLeader(target) => Some(Ok(format!("leadership was to move to m{target}"))),
            Deed::Compact => ok("compacted"),
            Deed::StartAll | Deed::ResumeAll | Deed::Heal => None,
        }
    }
}

fn find(who: Who, world: &World) -> Option<usize> {
    match who {
        Who::Leader => world.leader(),
        Who::Member(member) => Some(member),
    }
}

fn carry_out(deed: Deed, world: &mut World) -> std::io::Result<Option<Errand>> {
    let members = 0..world.members();
    match deed {
        Deed::Kill(who) => find(who, world).map_or(Ok(()), |member| world.kill(member))?,
        Deed::KillAll => {
            for member in members {
                world.kill(member)?;
            }
        }
        Deed::StartAll => {
            for member in members {
                world.boot(member)?;
            }
        }
        Deed::Pause(who) => find(who, world).into_iter().for_each(|member| world.pause(member)),
        Deed::ResumeAll => members.for_each(|member| world.resume(member)),
        Deed::Cut(shape) => {
            let cuts = match shape {
                Shape::Isolate(who) => {
                    find(who, world).map(|lonely| partition::isolate(world.members(), lonely))
                }
                Shape::Split(draw) => {
                    Some(partition::split(world.members(), &mut StdRng::seed_from_u64(draw)))
                }
                Shape::Deafen(deaf) => Some(partition::deafen(world.members(), deaf)),
                Shape::Ring => Some(partition::ring(world.members())),
            };
            world.net.cut(&cuts.unwrap_or_default());
        }
        Deed::Heal => world.net.cut(&BTreeSet::new()),
        Deed::Trouble { loss_percent, slowness } => world.net.trouble(loss_percent, slowness),
        Deed::Rate(member, rate) => world.set_rate(member, rate),
        Deed::Jump(member, by) => world.jump(member, by),
        Deed::MoveLeader(target) => return Ok(Some(Errand::MoveLeader(target))),
        Deed::Compact => return Ok(Some(Errand::Compact)),
    }
    Ok(None)
}
