//! How long clients wait when a member is lost: the longest gap between two successful operations around each fault.
//!
//! Many clients write and read all the time, each going to the next member when one does not answer in time, as etcd's
//! own clients do. Then the leader, or a follower, is killed, paused or cut off, again and again. A gap is what all
//! clients together see: the longest time in which none of them succeeded. Reads are counted at the members the fault
//! leaves healthy.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::GetOptions;
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::cluster::{Cluster, Error, Result};
use crate::faults::partition;
use crate::history::Nanos;

const WRITERS: usize = 8;
/// A client gives up on a member after this and asks the next.
const PATIENCE: Duration = Duration::from_millis(250);
const PAUSE: Duration = Duration::from_millis(2);
/// The fault lasts so long; a gap is looked for in this time.
const HELD: Duration = Duration::from_millis(2_500);
/// Between faults, once all members answer again.
const REST: Duration = Duration::from_millis(700);

/// How a member is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    Kill,
    Pause,
    Cut,
}

impl FromStr for Loss {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "kill" => Ok(Loss::Kill),
            "pause" => Ok(Loss::Pause),
            "cut" => Ok(Loss::Cut),
            other => Err(format!("a member is lost by kill, pause or cut, not by {other:?}")),
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
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gap {
    pub write: f64,
    pub linearizable_read: f64,
    pub serializable_read: f64,
}

/// When operations succeeded, by kind.
#[derive(Default)]
struct Successes {
    writes: Mutex<Vec<Nanos>>,
    /// By member: linearizable, serializable.
    reads: Mutex<BTreeMap<(usize, bool), Vec<Nanos>>>,
}

/// Loses a member `count` times.
pub async fn measure(cluster: Arc<Cluster>, whom: Whom, loss: Loss, count: u32) -> Result<Vec<Gap>> {
    let (clock, stop) = (Clock::start(), CancellationToken::new());
    let successes = Arc::new(Successes::default());
    let mut clients = JoinSet::new();
    for writer in 0..WRITERS {
        clients.spawn(write(cluster.clone(), writer, clock, successes.clone(), stop.clone()));
    }
    for member in 0..cluster.len() {
        for linearizable in [true, false] {
            let (cluster, successes, stop) = (cluster.clone(), successes.clone(), stop.clone());
            clients.spawn(read(cluster, member, linearizable, clock, successes, stop));
        }
    }
    let mut gaps = Vec::new();
    for _ in 0..count {
        tokio::time::sleep(REST).await;
        let leader = cluster.leader().await.ok_or(Error::NotReady(REST))?;
        *successes.writes.lock() = Vec::new();
        successes.reads.lock().clear();
        tokio::time::sleep(REST).await;
        let lost = match whom {
            Whom::Leader => leader,
            Whom::Follower => (leader + 1) % cluster.len(),
        };
        let from = clock.now();
        lose(&cluster, lost, loss).await?;
        let to = clock.now();
        cluster.heal().await?;
        gaps.push(successes.gap(lost, from, to));
        tracing::info!(gap = ?gaps.last(), lost, "a member was lost");
    }
    stop.cancel();
    while clients.join_next().await.is_some() {}
    Ok(gaps)
}

async fn lose(cluster: &Cluster, member: usize, loss: Loss) -> Result<()> {
    match loss {
        Loss::Kill => cluster.kill(member).await?,
        Loss::Pause => cluster.pause(member).await?,
        Loss::Cut => cluster.cut(&partition::isolate(cluster.len(), member)).await?,
    }
    tokio::time::sleep(HELD).await;
    Ok(())
}

impl Successes {
    fn gap(&self, lost: usize, from: Nanos, to: Nanos) -> Gap {
        let reads = self.reads.lock();
        let of_healthy = |linearizable| {
            let healthy = reads.iter().filter(|((member, kind), _)| *member != lost && *kind == linearizable);
            let mut times: Vec<Nanos> = healthy.flat_map(|(_, times)| times.iter().copied()).collect();
            times.sort_unstable();
            longest(&times, from, to)
        };
        Gap {
            write: longest(&self.writes.lock(), from, to),
            linearizable_read: of_healthy(true),
            serializable_read: of_healthy(false),
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

async fn write(
    cluster: Arc<Cluster>,
    writer: usize,
    clock: Clock,
    successes: Arc<Successes>,
    stop: CancellationToken,
) {
    let mut member = writer;
    let mut client = None;
    while !stop.is_cancelled() {
        if client.is_none() {
            client = cluster.client(member % cluster.len()).await.ok();
        }
        let done = match client.as_mut() {
            Some(client) => {
                let put = client.put(format!("gap/{writer}"), "", None);
                matches!(tokio::time::timeout(PATIENCE, put).await, Ok(Ok(_)))
            }
            None => false,
        };
        if done {
            successes.writes.lock().push(clock.now());
        } else {
            client = None;
            member += 1;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn read(
    cluster: Arc<Cluster>,
    member: usize,
    linearizable: bool,
    clock: Clock,
    successes: Arc<Successes>,
    stop: CancellationToken,
) {
    let mut client = None;
    while !stop.is_cancelled() {
        if client.is_none() {
            client = cluster.client(member).await.ok();
        }
        let done = match client.as_mut() {
            Some(client) => {
                let options = (!linearizable).then(|| GetOptions::new().with_serializable());
                let get = client.get("gap/0", options);
                matches!(tokio::time::timeout(PATIENCE, get).await, Ok(Ok(_)))
            }
            None => false,
        };
        if done {
            successes.reads.lock().entry((member, linearizable)).or_default().push(clock.now());
        } else {
            client = None;
        }
        tokio::time::sleep(PAUSE).await;
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

    #[test]
    fn the_longest_gap_touches_the_window() {
        let second = |at: f64| Nanos((at * 1e9) as u64);
        let times: Vec<Nanos> = [0.1, 4.9, 5.4, 5.5, 7.9].map(second).to_vec();
        for (from, to, expected) in [(5.0, 6.0, 0.5), (5.0, 8.0, 2.4), (8.0, 9.0, 1.1), (0.0, 0.2, 0.1)] {
            let found = longest(&times, second(from), second(to));
            assert!((found - expected).abs() < 1e-6, "{from}..{to}: {found}");
        }
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
