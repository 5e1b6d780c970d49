//! What is done to a cluster, one file each, and undone again.

mod clock;
mod disk;
mod kill;
mod leader;
mod maintenance;
mod membership;
pub mod partition;
mod pause;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::cluster::{Cluster, Error, Result};
use crate::plan::Step;

/// The faults by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    /// SIGKILL one member; start it when the window ends.
    Kill,
    /// SIGKILL the leader.
    KillLeader,
    /// SIGKILL all members at once.
    KillAll,
    /// SIGSTOP the leader, SIGCONT when the window ends.
    PauseLeader,
    /// Stop and start every member in turn, in order.
    RollingRestart,
    /// The leader hears nobody and nobody hears it.
    IsolateLeader,
    /// A minority is cut off from a majority.
    SplitHalves,
    /// One member can send but not receive.
    OneWay,
    /// Every member sees a majority, no two the same.
    RingOfMajorities,
    /// One member's links go up and down several times a second.
    Flapping,
    /// A fifth of all packets between members is lost.
    Lossy,
    /// Links between members are slow: far away, or narrow.
    Slow,
    /// One member's wall clock is set forward or back, again and again.
    ClockJump,
    /// One member's clocks run too fast or too slow.
    ClockDrift,
    /// Leadership is moved, again and again.
    MoveLeader,
    /// History is compacted, and members are defragmented, under load.
    Compact,
    /// One more member joins, and leaves when the window ends.
    AddMember,
    /// A member is removed, and comes back with an empty disk when the window ends.
    RemoveMember,
    /// A member is removed and at once replaced by a new one with an empty disk.
    ReplaceMember,
    /// A member is killed and finds half a record at the end of its newest log.
    TornWrite,
    /// All members lose power at once, and with it every write that was not synced.
    LostWrites,
    /// A member's disk is full for a while.
    DiskFull,
    /// A member's disk fails writes and syncs for a while.
    DiskError,
    /// A member is killed and finds flipped bits in its log.
    FlipLog,
    /// A member is killed and finds the end of its log missing.
    TruncateLog,
    /// A member is stopped and finds flipped bits in its state on disk.
    FlipState,
    /// A member is stopped and finds the end of a file of its state missing.
    TruncateState,
}

/// Faults of one group would undo each other, or mean nothing together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// What befalls a member's process or disk.
    Member,
    Network,
    Clock,
    /// What an administrator does.
    Admin,
}

impl FaultKind {
    pub const ALL: &[FaultKind] = &[
        FaultKind::Kill,
        FaultKind::KillLeader,
        FaultKind::KillAll,
        FaultKind::PauseLeader,
        FaultKind::RollingRestart,
        FaultKind::IsolateLeader,
        FaultKind::SplitHalves,
        FaultKind::OneWay,
        FaultKind::RingOfMajorities,
        FaultKind::Flapping,
        FaultKind::Lossy,
        FaultKind::Slow,
        FaultKind::ClockJump,
        FaultKind::ClockDrift,
        FaultKind::MoveLeader,
        FaultKind::Compact,
        FaultKind::AddMember,
        FaultKind::RemoveMember,
        FaultKind::ReplaceMember,
        FaultKind::TornWrite,
        FaultKind::LostWrites,
        FaultKind::DiskFull,
        FaultKind::DiskError,
        FaultKind::FlipLog,
        FaultKind::TruncateLog,
        FaultKind::FlipState,
        FaultKind::TruncateState,
    ];

    pub fn group(self) -> Group {
        use FaultKind::{
            ClockDrift, ClockJump, Compact, Flapping, IsolateLeader, Lossy, MoveLeader, OneWay,
            RingOfMajorities, Slow, SplitHalves,
        };
        match self {
            IsolateLeader | SplitHalves | OneWay | RingOfMajorities | Flapping | Lossy | Slow => {
                Group::Network
            }
            ClockJump | ClockDrift => Group::Clock,
            MoveLeader | Compact => Group::Admin,
            _ => Group::Member,
        }
    }

    /// Whether it needs a disk that the harness can make fail.
    pub fn needs_faulty_disk(self) -> bool {
        matches!(self, FaultKind::LostWrites | FaultKind::DiskFull | FaultKind::DiskError)
    }

    /// Whether it damages the state's files, which etcd's have no checksums against.
    pub fn damages_state(self) -> bool {
        matches!(self, FaultKind::FlipState | FaultKind::TruncateState)
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match serde_json::to_value(self) {
            Ok(serde_json::Value::String(name)) => f.write_str(&name),
            _ => write!(f, "{self:?}"),
        }
    }
}

impl FromStr for FaultKind {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        serde_json::from_value(serde_json::Value::String(text.to_owned())).map_err(|_| {
            let names: Vec<String> = FaultKind::ALL.iter().map(FaultKind::to_string).collect();
            format!("no fault is named {text:?}; choose from {}", names.join(", "))
        })
    }
}

/// A cluster without a leader elects one within this, or its machine is too slow for a fault of the leader.
const LEADER_WITHIN: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(100);

/// What a window came to.
pub struct Inflicted {
    /// Whether all of it was done.
    pub is_whole: bool,
    /// In words, for the report.
    pub what: String,
}

/// Runs one window: breaks, waits, heals.
pub async fn run(step: &Step, cluster: &Cluster) -> Result<Inflicted> {
    let all = step.faults.iter().enumerate().map(|(number, fault)| {
        let rng = StdRng::seed_from_u64(step.draw.wrapping_add(number as u64));
        one(*fault, step, cluster, rng)
    });
    let mut done = Vec::new();
    let mut is_whole = true;
    for outcome in futures::future::join_all(all).await {
        is_whole &= outcome.is_ok();
        done.push(outcome.unwrap_or_else(|error| format!("not done whole: {error}")));
    }
    // A fault that could not be done whole (a command of it met a dead member) is undone, and the run goes on. Together,
    // faults may leave a member down that one of them meant to start.
    if !is_whole || step.faults.len() > 1 {
        cluster.heal().await?;
    }
    Ok(Inflicted { is_whole, what: done.join("; ") })
}

async fn one(fault: FaultKind, step: &Step, cluster: &Cluster, mut rng: StdRng) -> Result<String> {
    let rng = &mut rng;
    let lasts = step.lasts;
    let any = rng.random_range(0..cluster.len());
    match fault {
        FaultKind::Kill => kill::one(cluster, any, lasts).await,
        FaultKind::KillLeader => kill::one(cluster, leader(cluster).await?, lasts).await,
        FaultKind::KillAll => kill::all(cluster, lasts).await,
        FaultKind::PauseLeader => pause::one(cluster, leader(cluster).await?, lasts).await,
        FaultKind::RollingRestart => kill::rolling(cluster).await,
        FaultKind::IsolateLeader => {
            let leader = leader(cluster).await?;
            partition::hold(cluster, &partition::isolate(cluster.len(), leader), lasts).await
        }
        FaultKind::SplitHalves => {
            partition::hold(cluster, &partition::split(cluster.len(), rng), lasts).await
        }
        FaultKind::OneWay => partition::hold(cluster, &partition::deafen(cluster.len(), any), lasts).await,
        FaultKind::RingOfMajorities => partition::hold(cluster, &partition::ring(cluster.len()), lasts).await,
        FaultKind::Flapping => partition::flap(cluster, any, lasts).await,
        FaultKind::Lossy => partition::lossy(cluster, lasts).await,
        FaultKind::Slow => partition::slow(cluster, lasts).await,
        FaultKind::ClockJump => clock::jump(cluster, any, lasts, rng).await,
        FaultKind::ClockDrift => clock::drift(cluster, any, lasts, rng).await,
        FaultKind::MoveLeader => leader::wander(cluster, lasts, rng).await,
        FaultKind::Compact => maintenance::compact(cluster, lasts).await,
        FaultKind::AddMember => membership::add(cluster, lasts).await,
        FaultKind::RemoveMember => membership::remove(cluster, any, lasts).await,
        FaultKind::ReplaceMember => membership::replace(cluster, any).await,
        FaultKind::TornWrite => disk::torn_write(cluster, any, lasts).await,
        FaultKind::LostWrites => disk::lose_unsynced(cluster, lasts).await,
        FaultKind::DiskFull => disk::full(cluster, any, lasts).await,
        FaultKind::DiskError => disk::failing(cluster, any, lasts).await,
        FaultKind::FlipLog => disk::damage(cluster, any, disk::Damage::flip(disk::Part::Log, rng)).await,
        FaultKind::TruncateLog => disk::damage(cluster, any, disk::Damage::cut(disk::Part::Log, rng)).await,
        FaultKind::FlipState => disk::damage(cluster, any, disk::Damage::flip(disk::Part::State, rng)).await,
        FaultKind::TruncateState => {
            disk::damage(cluster, any, disk::Damage::cut(disk::Part::State, rng)).await
        }
    }
}

/// The leader, once there is one.
async fn leader(cluster: &Cluster) -> Result<usize> {
    let found = async {
        loop {
            match cluster.leader().await {
                Some(leader) => return leader,
                None => tokio::time::sleep(POLL).await,
            }
        }
    };
    let found = tokio::time::timeout(LEADER_WITHIN, found).await;
    found.map_err(|_| not_inflicted(&format!("no leader was elected in {LEADER_WITHIN:?}")))
}

/// A fault that found nothing to break.
fn not_inflicted(why: &str) -> Error {
    Error::NotInflicted(why.to_owned())
}
