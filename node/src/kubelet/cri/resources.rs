//! CPU shares, quotas and memory limits from requests and limits, with the kernel's bounds.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{Container, Pod};
use proto::cri;

use crate::kubelet::pod::qos;
use crate::kubelet::quantity;

/// Smallest and largest `cpu.shares` of the kernel.
const SHARES_RANGE: (i64, i64) = (2, 262_144);
/// Shares of one CPU.
const SHARES_PER_CPU: i64 = 1024;
/// The accounting period of CPU limits, microseconds.
pub const QUOTA_PERIOD_MICROS: i64 = 100_000;
/// The shortest quota the kernel accepts, microseconds.
const QUOTA_MIN_MICROS: i64 = 1_000;

/// `cpu.shares` for a request in thousandths of a CPU.
pub fn cpu_shares(milli: i64) -> i64 {
    if milli == 0 {
        return SHARES_RANGE.0;
    }
    (milli.saturating_mul(SHARES_PER_CPU) / 1000).clamp(SHARES_RANGE.0, SHARES_RANGE.1)
}

/// The quota per period for a limit in thousandths of a CPU; 0 without a limit.
pub fn cpu_quota(milli: i64) -> i64 {
    if milli == 0 {
        return 0;
    }
    (milli.saturating_mul(QUOTA_PERIOD_MICROS) / 1000).max(QUOTA_MIN_MICROS)
}

/// What the machine has, as far as containers' settings depend on it.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// All memory, bytes.
    pub memory_bytes: u64,
    /// Limits become quotas (`cpuCFSQuota`).
    pub cfs_quota: bool,
    /// Out of memory ends whole containers (v2).
    pub group_oom: bool,
    /// Containers can be kept from swapping (v2).
    pub no_swap: bool,
}

/// A container's settings.
pub fn container_resources(
    pod: &Pod,
    container: &Container,
    machine: Machine,
) -> cri::LinuxContainerResources {
    let own = container.resources.clone().unwrap_or_default();
    let pod_level = pod.spec.as_ref().and_then(|s| s.resources.as_ref()).and_then(|r| r.limits.as_ref());
    let limit = |name: &str| {
        let container_limit = own.limits.as_ref().and_then(|l| l.get(name));
        container_limit.or_else(|| pod_level.and_then(|l| l.get(name)))
    };
    let cpu_limit = limit("cpu").map_or(0, quantity::milli);
    let cpu_request = own.requests.as_ref().and_then(|r| r.get("cpu")).map_or(cpu_limit, quantity::milli);
    let hugepages = own.limits.iter().flatten().filter_map(|(name, amount)| {
        let size = name.strip_prefix("hugepages-")?;
        let limit = u64::try_from(quantity::units(amount)).ok()?;
        Some(cri::HugepageLimit { page_size: hugepage_size(size), limit })
    });
    cri::LinuxContainerResources {
        cpu_shares: cpu_shares(cpu_request),
        cpu_period: if machine.cfs_quota { QUOTA_PERIOD_MICROS } else { 0 },
        cpu_quota: if machine.cfs_quota { cpu_quota(cpu_limit) } else { 0 },
        memory_limit_in_bytes: limit("memory").map_or(0, quantity::units),
        oom_score_adj: qos::oom_score_adj(pod, container, machine.memory_bytes),
        hugepage_limits: hugepages.collect(),
        unified: unified(machine),
        ..Default::default()
    }
}

/// Files of cgroup v2 that have no field of their own, with upstream's values.
fn unified(machine: Machine) -> HashMap<String, String> {
    let files = [(machine.group_oom, "memory.oom.group", "1"), (machine.no_swap, "memory.swap.max", "0")];
    let files = files.into_iter().filter(|(here, ..)| *here);
    files.map(|(_, file, value)| (file.to_owned(), value.to_owned())).collect()
}

/// The kernel's name of a page size: `2Mi` is `2MB`.
fn hugepage_size(text: &str) -> String {
    text.replace("Ki", "KB").replace("Mi", "MB").replace("Gi", "GB")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(resources: serde_json::Value, expected: (i64, i64, i64)) {
        let container: Container =
            serde_json::from_value(json!({"name": "c", "resources": resources})).expect("a container");
        let machine = Machine { memory_bytes: 1 << 30, cfs_quota: true, group_oom: true, no_swap: false };
        let r = container_resources(&Pod::default(), &container, machine);
        assert_eq!(r.unified, HashMap::from([("memory.oom.group".to_owned(), "1".to_owned())]));
        assert_eq!((r.cpu_shares, r.cpu_quota, r.memory_limit_in_bytes), expected, "{resources}");
    }

    #[test]
    fn shares_quotas_and_limits() {
        check(json!({}), (2, 0, 0));
        check(json!({"requests": {"cpu": "500m"}}), (512, 0, 0));
        check(json!({"limits": {"cpu": "2", "memory": "64Mi"}}), (2048, 200_000, 64 << 20));
        check(json!({"requests": {"cpu": "1m"}, "limits": {"cpu": "5m"}}), (2, 1_000, 0));
        check(json!({"requests": {"cpu": "1000"}}), (262_144, 0, 0));
    }
}
