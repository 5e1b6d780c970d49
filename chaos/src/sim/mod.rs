//! Deterministic simulation: members, network, disks' crashes and clocks in one process, from one seed.
//!
//! Real are: the members with all they are made of (consensus, log and state on RocksDB, leases, watches, gRPC services)
//! and the clients, workloads and checkers. Simulated are: sockets ([`net`], [`transport`]), clocks and machines
//! ([`world`]), and randomness ([`entropy`]). Nothing runs beside the one thread, so a seed that fails fails again, the
//! same way: the histories of two runs are equal byte for byte, which [`Run::digest`] shows.
//!
//! Not simulated: a disk that loses what was synced, and the operating system's own failures.

mod deeds;
pub mod entropy;
mod net;
mod transport;
mod world;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::Client;
use raft_store::Network;

use crate::checkers::Verdict;
use crate::clients::local::Local;
use crate::clients::{Clients, Endpoints};
use crate::clock::Clock;
use crate::cluster::{Error, Result};
use crate::drive::{self, Members, Outcomes};
use crate::faults::FaultKind;
use crate::plan::{Plan, Window};
use crate::trial::Trial;
use crate::workloads::WorkloadKind;
pub use deeds::knows;
use deeds::{Errand, Timeline};
use net::Net;
use transport::Card;
use world::{Misdeeds, World};

/// Members have this long to elect a leader before the clients come.
const WARM_UP: Duration = Duration::from_secs(3);
/// After the plan, everything must be over within this.
const AFTERMATH: Duration = Duration::from_secs(300);
/// A member that has healed answers within this.
const READY: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(100);
/// A question to a member that may not answer.
const PROBE: Duration = Duration::from_secs(3);
/// Revisions kept by a compaction: about two seconds' worth, as the simulation's clients write.
const KEEP: i64 = 50;

/// What came of a simulation.
pub struct Run {
    pub outcomes: Outcomes,
    /// Seconds that passed for the cluster.
    pub cluster_secs: f64,
    /// Of the whole history: equal for equal seeds.
    pub digest: u32,
}

/// What the clients and the world tell each other.
struct Signals {
    heal: AtomicBool,
    began: AtomicBool,
    /// History from this revision on is still to be read.
    needed_from: AtomicI64,
}

impl Default for Signals {
    fn default() -> Self {
        let needed_from = AtomicI64::new(i64::MAX);
        Signals { heal: AtomicBool::default(), began: AtomicBool::default(), needed_from }
    }
}

/// The faults that the simulation knows.
pub fn known() -> Vec<FaultKind> {
    FaultKind::ALL.iter().copied().filter(|fault| knows(*fault)).collect()
}

/// Whether a fault can be simulated under a workload. A simulated jump takes the monotonic clock along, and a lease may
/// end early by it; a real one sets the wall clock only.
pub fn simulates(fault: FaultKind, workload: WorkloadKind) -> bool {
    knows(fault) && (fault, workload) != (FaultKind::ClockJump, WorkloadKind::Lock)
}

/// Simulates to the end, in this thread. [`entropy::replace`] must have been called with the seed, early.
pub fn run(trial: &Trial, root: &Path) -> Result<Run> {
    let io = |error| Error::Io { path: root.to_owned(), error };
    let net = Net::new(trial.members + 1, trial.seed.rng(2));
    let mut world = World::new(trial.members, net, root.to_owned()).map_err(io)?;
    let script = trial.script(|fault| simulates(fault, trial.workload));
    let mut timeline = Timeline::new(&script.plan, trial.members);
    while world.now() < WARM_UP {
        world.step();
    }
    let signals = Arc::new(Signals::default());
    let card = Card::new(world.net.clone(), world.clients());
    let members = Arc::new(Simulated { members: trial.members, card, signals: signals.clone() });
    let deadline = world.now() + script.plan.duration + AFTERMATH;
    let mut began = None;
    let playing = clients(&world)?.spawn(drive::play(members.clone(), script));
    while !playing.is_finished() && world.now() < deadline {
        world.step();
        if signals.heal.swap(false, Ordering::SeqCst) {
            timeline.heal(&mut world).map_err(io)?;
        }
        if !signals.began.load(Ordering::SeqCst) {
            continue;
        }
        let elapsed = world.now() - *began.get_or_insert(world.now());
        for errand in timeline.advance(elapsed, &mut world).map_err(io)? {
            let target = match errand {
                Errand::MoveLeader(target) => world.leader().zip(world.member(target)),
                Errand::Compact => None,
            };
            let target = target.map(|(leader, target)| (leader, target.id()));
            clients(&world)?.spawn(members.clone().run_errand(errand, target));
        }
    }
    if !playing.is_finished() {
        return Err(Error::NotReady(AFTERMATH));
    }
    let played = clients(&world)?.block_on(playing);
    let mut outcomes =
        played.map_err(|error| Error::Unsupported(format!("the clients panicked: {error}")))??;
    for (step, window) in outcomes.windows.iter_mut().enumerate() {
        (window.is_whole, window.what) = timeline.account(step);
    }
    outcomes.verdicts.push(("members run until they are killed".to_owned(), judge(&world.misdeeds)));
    let mut lines = Vec::new();
    outcomes.history.write_json_lines(&mut lines).map_err(io)?;
    let cluster_secs = world.now().as_secs_f64();
    Ok(Run { outcomes, cluster_secs, digest: crc32fast::hash(&lines) })
}

fn clients(world: &World) -> Result<&tokio::runtime::Runtime> {
    world.client_runtime().ok_or_else(|| Error::Unsupported("the clients' machine is down".into()))
}

fn judge(misdeeds: &Misdeeds) -> Verdict {
    let evidence = misdeeds.take();
    match evidence.is_empty() {
        true => Verdict::Valid,
        false => Verdict::Invalid { why: "a member ended, or did not start".into(), evidence },
    }
}

/// The members as clients meet them.
struct Simulated {
    members: usize,
    card: Card,
    signals: Arc<Signals>,
}

impl Simulated {
    async fn answers(&self, member: usize) -> bool {
        let Ok(mut client) = self.client(member).await else { return false };
        matches!(tokio::time::timeout(PROBE, client.get("ready-probe", None)).await, Ok(Ok(_)))
    }

    /// What may fail: a refusal is part of the game.
    async fn run_errand(self: Arc<Self>, errand: Errand, target: Option<(usize, u64)>) {
        let done = async {
            match (errand, target) {
                (Errand::MoveLeader(_), Some((leader, target))) => {
                    self.client(leader).await?.move_leader(target).await?;
                }
                (Errand::MoveLeader(_), None) => {}
                (Errand::Compact, _) => {
                    let mut client = self.any_client().await?;
                    let probe = client.get("compact-probe", None).await?;
                    let newest = probe.header().map_or(0, |header| header.revision());
                    let revision = (newest - KEEP).min(self.signals.needed_from.load(Ordering::SeqCst) - 1);
                    if revision > 1 {
                        client.compact(revision, None).await?;
                    }
                }
            }
            Ok::<_, Error>(())
        };
        if let Ok(Err(error)) = tokio::time::timeout(PROBE, done).await {
            tracing::debug!(?errand, %error, "an errand failed");
        }
    }
}

#[async_trait]
impl Endpoints for Simulated {
    async fn client(&self, member: usize) -> Result<Client> {
        let channel = etcd_client::Channel::Custom(self.card.dial(&world::client_url(member)));
        Ok(Client::from_channel(channel, None).await?)
    }
}

#[async_trait]
impl Members for Simulated {
    fn len(&self) -> usize {
        self.members
    }

    fn name(&self, member: usize) -> String {
        format!("m{member}")
    }

    async fn any_client(&self) -> Result<Client> {
        for member in 0..self.members {
            if self.answers(member).await {
                return self.client(member).await;
            }
        }
        Err(Error::NotReady(PROBE))
    }

    async fn clients(self: Arc<Self>, workload: WorkloadKind) -> Result<Box<dyn Clients>> {
        Ok(Box::new(Local::new(self, workload.build(), Clock::start())))
    }

    async fn inflict(&self, plan: &Plan, clock: Clock) -> Result<Vec<Window>> {
        self.signals.began.store(true, Ordering::SeqCst);
        clock.reach(plan.duration).await;
        let nanos = |at: Duration| crate::history::Nanos(u64::try_from(at.as_nanos()).unwrap_or(u64::MAX));
        let window = |step: &crate::plan::Step| Window {
            from: nanos(step.at),
            to: nanos(step.at + step.lasts),
            fault: step.name(),
            // The world knows, and says it in the end.
            is_whole: true,
            what: String::new(),
        };
        Ok(plan.steps.iter().map(window).collect())
    }

    fn keep_from(&self, revision: i64) {
        self.signals.needed_from.store(revision, Ordering::SeqCst);
    }

    async fn heal(&self) -> Result<()> {
        self.signals.heal.store(true, Ordering::SeqCst);
        let all = async {
            for member in 0..self.members {
                while !self.answers(member).await {
                    tokio::time::sleep(POLL).await;
                }
            }
        };
        // Members that never come back are convicted by the liveness check.
        if tokio::time::timeout(READY, all).await.is_err() {
            tracing::warn!("not all members are ready after healing");
        }
        Ok(())
    }
}
