//! How long clients wait when a member is lost: the longest gap between two successful operations around each fault.
//!
//! At every member a write, a linearizable read and a serializable read begin at a fixed pace, whatever became of those
//! before them: clients that wait for each other, or all give up at the same time, would measure their own patience.
//! Then the leader, or a follower, is killed, paused, cut off or made deaf, and comes back, again and again. A gap is
//! what all clients together see: the longest time in which none of them succeeded. Reads are counted at the members the
//! fault leaves healthy.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, GetOptions};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::cluster::{Cluster, Error, Result};
use crate::faults::partition;
use crate::history::Nanos;

/// A new operation of each kind begins at each member after this: what a gap is measured by.
const PACE: Duration = Duration::from_millis(20);
/// A client gives up on an operation after this, which bounds how many are under way.
const PATIENCE: Duration = Duration::from_secs(1);
/// The fault lasts so long.
const HELD: Duration = Duration::from_millis(2_500);
/// Before each fault, once all members answer again.
const REST: Duration = Duration::from_millis(700);
/// Times that a cluster at rest is asked for its leader.
const LEADER_ATTEMPTS: u32 = 10;

/// How a member is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    Kill,
    Pause,
    Cut,
    /// It hears nobody, and is heard: as a leader it could go on for ever if it did not notice.
    Deaf,
}

impl FromStr for Loss {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "kill" => Ok(Loss::Kill),
            "pause" => Ok(Loss::Pause),
            "cut" => Ok(Loss::Cut),
            "deaf" => Ok(Loss::Deaf),
            other => Err(format!("a member is lost by kill, pause, cut or deaf, not by {other:?}")),
        }
    }
}

/// Who is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whom {
    Leader,
    /// The member after the leader.
    Follower,
}

/// What clients saw around one fault, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Gap {
    pub write: f64,
    pub linearizable_read: f64,
    pub serializable_read: f64,
}

/// What clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Write,
    LinearizableRead,
    SerializableRead,
}

impl Kind {
    const ALL: [Kind; 3] = [Kind::Write, Kind::LinearizableRead, Kind::SerializableRead];
}

/// When operations succeeded, by kind and member.
#[derive(Default)]
struct Successes(Mutex<BTreeMap<(Kind, usize), Vec<Nanos>>>);

/// Loses a member `count` times.
pub async fn measure(cluster: Arc<Cluster>, whom: Whom, loss: Loss, count: u32) -> Result<Vec<Gap>> {
    let (clock, stop) = (Clock::start(), CancellationToken::new());
    let successes = Arc::new(Successes::default());
    let mut clients = JoinSet::new();
    for member in 0..cluster.len() {
        for kind in Kind::ALL {
            let (cluster, successes) = (cluster.clone(), successes.clone());
            let asker = Asker { cluster, member, kind, client: Mutex::default(), clock, successes };
            clients.spawn(Arc::new(asker).run(stop.clone()));
        }
    }
    let mut gaps = Vec::new();
    for _ in 0..count {
        successes.0.lock().clear();
        tokio::time::sleep(REST).await;
        let leader = leader(&cluster).await?;
        let lost = match whom {
            Whom::Leader => leader,
            Whom::Follower => (leader + 1) % cluster.len(),
        };
        let from = clock.now();
        lose(&cluster, lost, loss).await?;
        cluster.heal().await?;
        gaps.push(successes.gap(lost, from, clock.now()));
        tracing::info!(gap = ?gaps.last(), lost, "a member was lost");
    }
    stop.cancel();
    while clients.join_next().await.is_some() {}
    Ok(gaps)
}

async fn leader(cluster: &Cluster) -> Result<usize> {
    for _ in 0..LEADER_ATTEMPTS {
        if let Some(leader) = cluster.leader().await {
            return Ok(leader);
        }
        tokio::time::sleep(REST).await;
    }
    Err(Error::Unsupported("no member of a cluster at rest says who leads".into()))
}

async fn lose(cluster: &Cluster, member: usize, loss: Loss) -> Result<()> {
    match loss {
        Loss::Kill => cluster.kill(member).await?,
        Loss::Pause => cluster.pause(member).await?,
        Loss::Cut => cluster.cut(&partition::isolate(cluster.len(), member)).await?,
        Loss::Deaf => cluster.cut(&partition::deafen(cluster.len(), member)).await?,
    }
    tokio::time::sleep(HELD).await;
    Ok(())
}

impl Successes {
    fn gap(&self, lost: usize, from: Nanos, to: Nanos) -> Gap {
        let all = self.0.lock();
        let longest_of = |wanted: Kind| {
            let counts = |member: usize| wanted == Kind::Write || member != lost;
            let lists = all.iter().filter(|((kind, member), _)| *kind == wanted && counts(*member));
            let mut times: Vec<Nanos> = lists.flat_map(|(_, times)| times.iter().copied()).collect();
            times.sort_unstable();
            longest(&times, from, to)
        };
        Gap {
            write: longest_of(Kind::Write),
            linearizable_read: longest_of(Kind::LinearizableRead),
            serializable_read: longest_of(Kind::SerializableRead),
        }
    }
}

/// The longest time without a success that touches the window, in seconds. `times` in order.
fn longest(times: &[Nanos], from: Nanos, to: Nanos) -> f64 {
    let before = times.iter().rev().find(|time| **time <= from).copied().unwrap_or(from);
    let within = times.iter().copied().filter(|time| (from..=to).contains(time));
    let mut last = before;
    let mut longest = 0;
    for time in within.chain([to]) {
        longest = longest.max(time.0.saturating_sub(last.0));
        last = time;
    }
    longest as f64 / 1e9
}

/// Asks one member for operations of one kind.
struct Asker {
    cluster: Arc<Cluster>,
    member: usize,
    kind: Kind,
    /// None after a connection broke.
    client: Mutex<Option<Client>>,
    clock: Clock,
    successes: Arc<Successes>,
}

impl Asker {
    async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut pace = tokio::time::interval(PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut under_way = JoinSet::new();
        while !stop.is_cancelled() {
            pace.tick().await;
            under_way.spawn(self.clone().ask());
            while under_way.try_join_next().is_some() {}
        }
        while under_way.join_next().await.is_some() {}
    }

    async fn ask(self: Arc<Self>) {
        if tokio::time::timeout(PATIENCE, self.attempt()).await.unwrap_or(false) {
            let now = self.clock.now();
            self.successes.0.lock().entry((self.kind, self.member)).or_default().push(now);
        }
    }

    async fn attempt(&self) -> bool {
        let Some(mut client) = self.client().await else { return false };
        let done = match self.kind {
            Kind::Write => client.put(format!("gap/{}", self.member), "", None).await.map(drop),
            Kind::LinearizableRead => client.get("gap/0", None).await.map(drop),
            Kind::SerializableRead => {
                let serializable = GetOptions::new().with_serializable();
                client.get("gap/0", Some(serializable)).await.map(drop)
            }
        };
        if done.is_err() {
            *self.client.lock() = None;
        }
        done.is_ok()
    }

    async fn client(&self) -> Option<Client> {
        let known = self.client.lock().clone();
        if known.is_some() {
            return known;
        }
        let client = self.cluster.client(self.member).await.ok()?;
        *self.client.lock() = Some(client.clone());
        Some(client)
    }
}

/// The value below which so many of a hundred lie.
pub fn percentile(values: &[f64], percent: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (percent / 100.0 * sorted.len() as f64).ceil().max(1.0) as usize;
    sorted.get(rank - 1).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(at: f64) -> Nanos {
        Nanos((at * 1e9) as u64)
    }

    #[test]
    fn the_longest_gap_touches_the_window() {
        let times: Vec<Nanos> = [0.1, 4.9, 5.4, 5.5, 7.9].map(second).to_vec();
        for (from, to, expected) in [(5.0, 6.0, 0.5), (5.0, 8.0, 2.4), (8.0, 9.0, 1.1), (0.0, 0.2, 0.1)] {
            let found = longest(&times, second(from), second(to));
            assert!((found - expected).abs() < 1e-6, "{from}..{to}: {found}");
        }
    }

    #[test]
    fn reads_count_at_healthy_members_and_writes_everywhere() {
        let successes = Successes::default();
        for kind in Kind::ALL {
            for (member, at) in [(0, 1.0), (1, 1.5), (0, 2.0), (1, 3.0), (0, 4.0)] {
                successes.0.lock().entry((kind, member)).or_default().push(second(at));
            }
        }
        let gap = successes.gap(0, second(1.5), second(3.5));
        assert!((gap.write - 1.0).abs() < 1e-6, "{gap:?}");
        assert!((gap.linearizable_read - 1.5).abs() < 1e-6, "{gap:?}");
    }

    #[test]
    fn percentiles_are_of_the_values_themselves() {
        let values: Vec<f64> = (1..=100).map(f64::from).collect();
        for (percent, expected) in [(50.0, 50.0), (99.0, 99.0), (100.0, 100.0), (0.5, 1.0)] {
            assert!((percentile(&values, percent) - expected).abs() < 1e-9, "{percent}");
        }
        assert!((percentile(&[3.0], 99.0) - 3.0).abs() < 1e-9);
        assert!(percentile(&[], 99.0).abs() < 1e-9);
    }
}
