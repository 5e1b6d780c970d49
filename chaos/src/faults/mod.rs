//! What is done to a cluster, one file each, and undone again.

mod disk;
mod kill;
mod leader;
mod maintenance;
mod membership;
mod partition;
mod pause;

use std::fmt;
use std::str::FromStr;

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
    /// Leadership is moved, again and again.
    MoveLeader,
    /// History is compacted, and members are defragmented, under load.
    Compact,
    /// A member is removed, and replaced by a new one with an empty disk.
    ReplaceMember,
    /// A member is killed and finds half a record at the end of its newest log.
    TornWrite,
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
        FaultKind::MoveLeader,
        FaultKind::Compact,
        FaultKind::ReplaceMember,
        FaultKind::TornWrite,
    ];

    /// Whether it needs a network namespace a member.
    pub fn needs_namespaces(self) -> bool {
        use FaultKind::{Flapping, IsolateLeader, Lossy, OneWay, RingOfMajorities, SplitHalves};
        matches!(self, IsolateLeader | SplitHalves | OneWay | RingOfMajorities | Flapping | Lossy)
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

/// Runs one window: breaks, waits, heals. Returns what was done, for the report.
pub async fn run(step: &Step, cluster: &Cluster) -> Result<String> {
    let mut rng = StdRng::seed_from_u64(step.draw);
    let lasts = step.lasts;
    match step.fault {
        FaultKind::Kill => kill::one(cluster, rng.random_range(0..cluster.len()), lasts).await,
        FaultKind::KillLeader => kill::one(cluster, leader(cluster, &mut rng).await, lasts).await,
        FaultKind::KillAll => kill::all(cluster, lasts).await,
        FaultKind::PauseLeader => pause::one(cluster, leader(cluster, &mut rng).await, lasts).await,
        FaultKind::RollingRestart => kill::rolling(cluster).await,
        FaultKind::IsolateLeader => {
            let leader = leader(cluster, &mut rng).await;
            partition::hold(cluster, &partition::isolate(cluster.len(), leader), lasts).await
        }
        FaultKind::SplitHalves => {
            partition::hold(cluster, &partition::split(cluster.len(), &mut rng), lasts).await
        }
        FaultKind::OneWay => {
            let deaf = rng.random_range(0..cluster.len());
            partition::hold(cluster, &partition::deafen(cluster.len(), deaf), lasts).await
        }
        FaultKind::RingOfMajorities => partition::hold(cluster, &partition::ring(cluster.len()), lasts).await,
        FaultKind::Flapping => partition::flap(cluster, rng.random_range(0..cluster.len()), lasts).await,
        FaultKind::Lossy => partition::lossy(cluster, lasts).await,
        FaultKind::MoveLeader => leader::wander(cluster, lasts, &mut rng).await,
        FaultKind::Compact => maintenance::compact(cluster, lasts).await,
        FaultKind::ReplaceMember => membership::replace(cluster, rng.random_range(0..cluster.len())).await,
        FaultKind::TornWrite => disk::torn_write(cluster, rng.random_range(0..cluster.len()), lasts).await,
    }
}

/// The leader now, or any member where none answers.
async fn leader(cluster: &Cluster, rng: &mut StdRng) -> usize {
    match cluster.leader().await {
        Some(leader) => leader,
        None => rng.random_range(0..cluster.len()),
    }
}

/// A fault that this cluster cannot have.
fn unsupported(what: &str) -> Error {
    Error::Unsupported(what.to_owned())
}
