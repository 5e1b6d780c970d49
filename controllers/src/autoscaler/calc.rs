//! From usage to replicas, as upstream computes it: pods without metrics and pods not ready yet damp the change, and a
//! small deviation changes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use crate::meta::{is_terminating, name};
use crate::options::AutoscalerOptions;
use crate::pods;
use crate::runtime::clock;

/// What was measured of one pod.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// In thousandths.
    pub milli: i64,
    /// When.
    pub at: Timestamp,
    /// Over how long.
    pub window: Duration,
}

/// Pods by what their metrics are worth.
#[derive(Default)]
pub struct Groups {
    /// Whose metrics count.
    pub ready: usize,
    /// Names of those too young to count.
    pub unready: Vec<String>,
    /// Names of those without metrics.
    pub missing: Vec<String>,
    /// Names of those that do not count at all.
    pub ignored: Vec<String>,
}

/// Sorts pods; only CPU metrics distrust young pods.
pub fn group(
    all: &[Arc<Pod>],
    samples: &BTreeMap<String, Sample>,
    is_cpu: bool,
    options: &AutoscalerOptions,
    now: Timestamp,
) -> Groups {
    let mut groups = Groups::default();
    for pod in all {
        let pod_name = name(pod.as_ref()).to_string();
        if is_terminating(pod.as_ref()) || pods::phase(pod) == "Failed" {
            groups.ignored.push(pod_name);
        } else if pods::phase(pod) == "Pending" {
            groups.unready.push(pod_name);
        } else {
            match samples.get(&pod_name) {
                None => groups.missing.push(pod_name),
                Some(sample) if is_cpu && is_young(pod, sample, options, now) => {
                    groups.unready.push(pod_name)
                }
                Some(_) => groups.ready += 1,
            }
        }
    }
    groups
}

fn is_young(pod: &Pod, sample: &Sample, options: &AutoscalerOptions, now: Timestamp) -> bool {
    let started = pod.status.as_ref().and_then(|status| status.start_time.as_ref());
    let (Some(started), Some(ready)) = (started, pods::condition(pod, "Ready")) else { return true };
    let changed = ready.last_transition_time.as_ref().map_or(started.0, |at| at.0);
    if clock::since(started.0, now) < options.cpu_initialization {
        return ready.status == "False" || sample.at < clock::add(changed, sample.window);
    }
    ready.status == "False" && clock::add(started.0, options.initial_readiness) > changed
}

/// What usage is compared with.
pub enum Goal<'a> {
    /// A percentage of the pods' requests.
    Utilization {
        /// Percent.
        percent: i32,
        /// Requests by pod, in thousandths.
        requests: &'a BTreeMap<String, i64>,
    },
    /// An average, in thousandths.
    Average(i64),
}

impl Goal<'_> {
    fn ratio(&self, samples: &BTreeMap<String, i64>) -> Option<(f64, f64)> {
        let sum: i64 = samples.values().sum();
        match self {
            Self::Average(goal) => {
                let usage = sum as f64 / samples.len() as f64;
                Some((usage / *goal as f64, usage))
            }
            Self::Utilization { percent, requests } => {
                let asked: i64 = samples.keys().filter_map(|pod| requests.get(pod)).sum();
                let used = samples
                    .iter()
                    .filter(|(pod, _)| requests.contains_key(*pod))
                    .map(|(_, milli)| milli)
                    .sum::<i64>();
                (asked != 0).then(|| {
                    (
                        used as f64 * 100.0 / asked as f64 / f64::from(*percent),
                        used as f64 * 100.0 / asked as f64,
                    )
                })
            }
        }
    }

    /// What a pod without metrics is taken to use when that calms the change.
    fn assumed(&self, pod: &str) -> i64 {
        match self {
            Self::Average(goal) => *goal,
            Self::Utilization { percent, requests } => {
                requests.get(pod).copied().unwrap_or(0) * i64::from((*percent).max(100)) / 100
            }
        }
    }
}

/// The outcome.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outcome {
    /// Replicas.
    pub replicas: i32,
    /// Present usage: percent, or thousandths on average.
    pub usage: f64,
}

/// The number of replicas that would bring the usage to the goal.
pub fn replicas(
    current: i32,
    samples: &BTreeMap<String, Sample>,
    groups: &Groups,
    goal: &Goal,
    tolerance: (f64, f64),
) -> Result<Outcome, String> {
    let left_out = |pod: &String| groups.ignored.contains(pod) || groups.unready.contains(pod);
    let mut used: BTreeMap<String, i64> = samples
        .iter()
        .filter(|(pod, _)| !left_out(pod))
        .map(|(pod, sample)| (pod.clone(), sample.milli))
        .collect();
    if used.is_empty() {
        return Err("did not receive metrics for targeted pods (pods might be unready)".into());
    }
    let (ratio, usage) = goal.ratio(&used).ok_or("no metrics returned matched known pods")?;
    let calm = |ratio: f64| (1.0 - tolerance.0..=1.0 + tolerance.1).contains(&ratio);
    let count_unready = !groups.unready.is_empty() && ratio > 1.0;
    if !count_unready && groups.missing.is_empty() {
        let replicas = if calm(ratio) { current } else { (ratio * groups.ready as f64).ceil() as i32 };
        return Ok(Outcome { replicas, usage });
    }
    for pod in &groups.missing {
        let assumed = if ratio < 1.0 { goal.assumed(pod) } else { 0 };
        used.insert(pod.clone(), assumed);
    }
    if count_unready {
        used.extend(groups.unready.iter().map(|pod| (pod.clone(), 0)));
    }
    let (damped, _) = goal.ratio(&used).ok_or("no metrics returned matched known pods")?;
    let turned = (ratio < 1.0 && damped > 1.0) || (ratio > 1.0 && damped < 1.0);
    let wanted = (damped * used.len() as f64).ceil() as i32;
    let against = (damped < 1.0 && wanted > current) || (damped > 1.0 && wanted < current);
    let replicas = if calm(damped) || turned || against { current } else { wanted };
    Ok(Outcome { replicas, usage })
}

/// The number of replicas for one value that all pods share.
pub fn shared(current: i32, ready: usize, value: i64, goal: i64, tolerance: (f64, f64)) -> i32 {
    let ratio = value as f64 / goal as f64;
    if (1.0 - tolerance.0..=1.0 + tolerance.1).contains(&ratio) {
        return current;
    }
    if current == 0 { ratio.ceil() as i32 } else { (ratio * ready as f64).ceil() as i32 }
}

/// The number of replicas for a value of which each pod takes a part.
pub fn per_pod(current: i32, value: i64, goal: i64, tolerance: (f64, f64)) -> i32 {
    let ratio = value as f64 / (goal as f64 * f64::from(current.max(1)));
    if current > 0 && (1.0 - tolerance.0..=1.0 + tolerance.1).contains(&ratio) {
        return current;
    }
    (value as f64 / goal as f64).ceil() as i32
}
