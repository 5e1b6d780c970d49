//! What the kernel is told about one pod, the pods of a class, and all pods together. Pure, but for the loop that keeps the
//! classes' limits as they should be; writing them is the business of `cgroups`.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use tokio_util::sync::CancellationToken;

use super::cri::resources::{cpu_quota, cpu_shares};
use super::node::facts::Facts;
use super::pod::phase::Phase;
use super::pod::qos::{QosClass, class};
use super::pod::spec;
use super::quantity;
use super::worker::Pool;
use super::worker::admission::requests;
use super::worker::pool::View;

/// How often the classes' limits are looked at when nothing calls for it (ended pods count no more). Upstream's.
const PERIOD: Duration = Duration::from_secs(60);

/// Limits of a cgroup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// CPU beside others, as v1 counts it.
    pub shares: i64,
    /// CPU time in each period, microseconds.
    pub quota: Option<i64>,
    /// Memory, bytes.
    pub memory: Option<i64>,
    /// Processes.
    pub pids: Option<i64>,
}

/// The limits of all pods together (no name), then those of the classes.
pub type ClassLimits = [(Option<&'static str>, Limits); 3];

/// What the machine has left for pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeShare {
    /// CPU, thousandths.
    pub cpu_milli: i64,
    /// Memory, bytes.
    pub memory_bytes: u64,
}

/// All pods get what is not reserved. Burstable pods weigh together what they request, next to every guaranteed pod; those
/// of best effort get what nobody else wants.
pub fn of_classes<'p>(node: NodeShare, pods: impl Iterator<Item = &'p Pod>) -> ClassLimits {
    let burstable = pods.filter(|pod| class(pod) == QosClass::Burstable);
    let burstable = burstable.map(|pod| milli(requests(pod, "cpu"))).sum();
    let weight = |milli| Limits { shares: cpu_shares(milli), ..Default::default() };
    let memory = i64::try_from(node.memory_bytes).ok();
    [
        (None, Limits { memory, ..weight(node.cpu_milli) }),
        (Some("burstable"), weight(burstable)),
        (Some("besteffort"), weight(0)),
    ]
}

/// Keeps the limits of all pods and of their classes until the token fires.
pub async fn run(pool: Arc<Pool>, shutdown: CancellationToken) {
    let context = pool.context();
    let facts = Facts::read(&context.config.root_dir, context.runtime.version());
    let cpu_milli = i64::try_from(facts.cpus * 1000).unwrap_or(i64::MAX) - context.config.cpu_reserved_milli;
    let memory_bytes = facts.memory_bytes.saturating_sub(context.config.memory_reserved_bytes);
    let node = NodeShare { cpu_milli: cpu_milli.max(0), memory_bytes };
    let mut applied = None;
    loop {
        let views = pool.views();
        let phase = |view: &View| view.snapshot.status.phase.as_deref().and_then(Phase::parse);
        let active = views.iter().filter(|view| phase(view).is_none_or(|phase| !phase.is_terminal()));
        let limits = of_classes(node, active.map(|view| &*view.pod));
        if applied != Some(limits) {
            match context.cgroups.apply_classes(&limits).await {
                Ok(()) => applied = Some(limits),
                Err(error) => tracing::warn!(%error, "the limits of all pods cannot be set"),
            }
        }
        tokio::select! {
            () = tokio::time::sleep(PERIOD) => {}
            () = context.cgroups.pods_changed.notified() => {}
            () = shutdown.cancelled() => return,
        }
    }
}

fn milli(nano: i128) -> i64 {
    i64::try_from(nano / 1_000_000).unwrap_or(i64::MAX)
}

/// v2's weight for v1's shares, as runc maps them.
pub fn cpu_weight(shares: i64) -> i64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

/// Limits of one pod as a whole, from its containers' or its own; `pids` is the node's business.
pub fn of_pod(pod: &Pod) -> Limits {
    let milli = i64::try_from(requests(pod, "cpu") / 1_000_000).unwrap_or(0);
    let all_limited = |resource: &str| -> Option<i128> {
        let pod_level = pod.spec.as_ref().and_then(|s| s.resources.as_ref()).and_then(|r| r.limits.as_ref());
        if let Some(limit) = pod_level.and_then(|l| l.get(resource)) {
            return Some(quantity::nano(limit));
        }
        let of = |c: &k8s_openapi::api::core::v1::Container| {
            c.resources.as_ref()?.limits.as_ref()?.get(resource).map(quantity::nano)
        };
        let init = spec::init_containers(pod).iter().map(of).try_fold(0, |a: i128, l| l.map(|l| a.max(l)))?;
        let regular = spec::containers(pod).iter().map(of).try_fold(0, |a: i128, l| l.map(|l| a + l))?;
        Some(regular.max(init)).filter(|l| *l > 0)
    };
    let quota = all_limited("cpu").map(|n| cpu_quota(i64::try_from(n / 1_000_000).unwrap_or(0)));
    let memory = all_limited("memory").and_then(|n| i64::try_from(n / quantity::NANO).ok());
    match class(pod) {
        QosClass::BestEffort => Limits { shares: cpu_shares(0), ..Default::default() },
        _ => Limits { shares: cpu_shares(milli), quota, memory, pids: None },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn limits_of_the_whole_pod() {
        let pod: Pod = serde_json::from_value(json!({"spec": {"containers": [
            {"name": "a", "resources": {"requests": {"cpu": "500m"}, "limits": {"cpu": "1", "memory": "1Mi"}}},
            {"name": "b", "resources": {"limits": {"cpu": "1"}}}]}}))
        .expect("a pod");
        let limits = of_pod(&pod);
        assert_eq!(limits, Limits { shares: 512, quota: Some(200_000), ..Default::default() });
        assert_eq!(cpu_weight(1024), 39);
    }

    #[test]
    fn classes_weigh_what_their_pods_request() {
        let pod = |requests: serde_json::Value, limits: serde_json::Value| -> Pod {
            let resources = json!({"requests": requests, "limits": limits});
            serde_json::from_value(json!({"spec": {"containers": [{"name": "c", "resources": resources}]}}))
                .expect("a pod")
        };
        let all = json!({"cpu": "1", "memory": "1Mi"});
        let pods = [
            pod(all.clone(), all),
            pod(json!({"cpu": "250m"}), json!({})),
            pod(json!({"cpu": "750m"}), json!({"memory": "1Mi"})),
            pod(json!({}), json!({})),
        ];
        let node = NodeShare { cpu_milli: 1500, memory_bytes: 1 << 30 };
        let weights = |pods: &[Pod]| of_classes(node, pods.iter()).map(|(_, limits)| limits.shares);
        assert_eq!(weights(&pods), [1536, 1024, 2]);
        assert_eq!(weights(&[]), [1536, 2, 2]);
        assert_eq!(of_classes(node, pods.iter())[0].1.memory, Some(1 << 30));
    }
}
