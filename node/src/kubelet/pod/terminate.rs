//! The order in which a pod's containers are stopped: everything but the sidecars at once, then the sidecars
//! from last to first, all within one grace period.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use super::observed::Observed;
use super::spec;

/// The least time between TERM and KILL, seconds: a container always gets a chance to stop.
pub const GRACE_MIN_SECS: i64 = 2;

/// One container to stop now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KillNow {
    /// The runtime's id.
    pub id: String,
    /// Its name in the spec.
    pub name: String,
    /// What is left of the grace period, seconds; at least [`GRACE_MIN_SECS`].
    pub grace_secs: i64,
}

/// The containers to stop now. `since` is when the pod began to end.
pub fn next_kills(
    pod: &Pod,
    observed: &Observed,
    since: Timestamp,
    grace_secs: i64,
    now: Timestamp,
) -> Vec<KillNow> {
    let left = grace_secs - now.duration_since(since).as_secs();
    let kill = |id: &str, name: &str| KillNow {
        id: id.to_owned(),
        name: name.to_owned(),
        grace_secs: left.max(GRACE_MIN_SECS),
    };
    let sidecars: Vec<&str> =
        spec::init_containers(pod).iter().filter(|c| spec::is_sidecar(c)).map(|c| c.name.as_str()).collect();
    let first: Vec<_> = observed
        .alive()
        .filter(|c| !sidecars.contains(&c.name.as_str()))
        .map(|c| kill(&c.id, &c.name))
        .collect();
    if !first.is_empty() {
        return first;
    }
    let last_sidecar = sidecars.iter().rev().find(|name| observed.alive().any(|c| c.name == **name));
    last_sidecar
        .map(|name| observed.alive().filter(|c| c.name == **name).map(|c| kill(&c.id, &c.name)).collect())
        .unwrap_or_default()
}
