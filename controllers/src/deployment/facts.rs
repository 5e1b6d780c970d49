//! Numbers and names derived from a deployment alone.

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::meta::annotation;

/// Annotation: the revision of a deployment or replica set.
pub const REVISION: &str = "deployment.kubernetes.io/revision";
/// Annotation: earlier revisions of a replica set that was rolled back to.
pub const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// Annotation: the deployment's replicas when the replica set was last scaled.
pub const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
/// Annotation: the same plus the surge.
pub const MAX: &str = "deployment.kubernetes.io/max-replicas";
/// Label that tells the pods of one template from those of another.
pub const HASH_LABEL: &str = "pod-template-hash";
/// Annotations that are not copied from a deployment to its replica set.
pub const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED,
    MAX,
    "deprecated.deployment.rollback.to",
];

/// The spec's deadline that means none (the largest 32-bit number).
const NO_DEADLINE: i32 = i32::MAX;

fn spec(deployment: &Deployment) -> Option<&DeploymentSpec> {
    deployment.spec.as_ref()
}

/// Replicas asked for.
pub fn wanted(deployment: &Deployment) -> i32 {
    spec(deployment).and_then(|spec| spec.replicas).unwrap_or(1)
}

/// Whether old pods all go before new ones come.
pub fn recreates(deployment: &Deployment) -> bool {
    let strategy = spec(deployment).and_then(|spec| spec.strategy.as_ref());
    strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate")
}

/// Whether the deployment is paused.
pub fn is_paused(deployment: &Deployment) -> bool {
    spec(deployment).and_then(|spec| spec.paused).unwrap_or(false)
}

/// Seconds without progress after which the rollout counts as failed.
pub fn progress_deadline_secs(deployment: &Deployment) -> Option<i32> {
    spec(deployment).and_then(|spec| spec.progress_deadline_seconds).filter(|secs| *secs != NO_DEADLINE)
}

/// Old replica sets to keep.
pub fn history_limit(deployment: &Deployment) -> Option<usize> {
    let limit = spec(deployment).and_then(|spec| spec.revision_history_limit)?;
    usize::try_from(limit).ok().filter(|_| limit != i32::MAX)
}

/// A number or a percentage of `total`.
pub fn resolve(value: Option<&IntOrString>, total: i32, round_up: bool) -> i32 {
    match value {
        None => 0,
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(text)) => {
            let percent: i64 = text.strip_suffix('%').and_then(|digits| digits.parse().ok()).unwrap_or(0);
            let product = percent * i64::from(total);
            let rounded = if round_up { (product + 99).div_euclid(100) } else { product.div_euclid(100) };
            i32::try_from(rounded).unwrap_or(i32::MAX)
        }
    }
}

/// Surge and unavailable, both as numbers; never both zero, or nothing could ever move.
fn fenceposts(deployment: &Deployment) -> (i32, i32) {
    let rolling = spec(deployment)
        .and_then(|spec| spec.strategy.as_ref())
        .and_then(|strategy| strategy.rolling_update.as_ref());
    let total = wanted(deployment);
    let surge = resolve(rolling.and_then(|rolling| rolling.max_surge.as_ref()), total, true);
    let unavailable = resolve(rolling.and_then(|rolling| rolling.max_unavailable.as_ref()), total, false);
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
}

/// Pods above the wanted number that a rollout may use.
pub fn max_surge(deployment: &Deployment) -> i32 {
    if recreates(deployment) { 0 } else { fenceposts(deployment).0 }
}

/// Pods below the wanted number that a rollout may leave unavailable.
pub fn max_unavailable(deployment: &Deployment) -> i32 {
    let total = wanted(deployment);
    if recreates(deployment) || total == 0 { 0 } else { fenceposts(deployment).1.min(total) }
}

/// Replicas a replica set asks for.
pub fn set_wanted(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0)
}

/// Available pods a replica set reports.
pub fn set_available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0)
}

/// Pods a replica set reports.
pub fn set_actual(set: &ReplicaSet) -> i32 {
    set.status.as_ref().map_or(0, |status| status.replicas)
}

/// A replica set's revision; zero when it has none.
pub fn revision(set: &ReplicaSet) -> i64 {
    annotation(set, REVISION).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// The template without the label that the deployment adds.
fn without_hash(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    if let Some(meta) = &mut template.metadata {
        meta.creation_timestamp = None;
        if let Some(labels) = &mut meta.labels {
            labels.remove(HASH_LABEL);
        }
        meta.labels = meta.labels.take().filter(|labels| !labels.is_empty());
        meta.annotations = meta.annotations.take().filter(|annotations| !annotations.is_empty());
    }
    template.metadata = template.metadata.filter(|meta| *meta != Default::default());
    template
}

/// Whether two templates make the same pods.
pub fn same_template(a: &PodTemplateSpec, b: &PodTemplateSpec) -> bool {
    // Specs are large and mostly equal: comparing them in place first spares two copies when they differ.
    a.spec == b.spec && without_hash(a) == without_hash(b)
}

/// Whether a replica set has the deployment's present template.
pub fn is_current(deployment: &Deployment, set: &ReplicaSet) -> bool {
    let wanted = spec(deployment).map(|spec| &spec.template);
    let has = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
    wanted.zip(has).is_some_and(|(a, b)| same_template(a, b))
}

/// The name of a deployment's replica set; shortened so that the hash always fits.
pub fn set_name(deployment: &str, hash: &str) -> String {
    // A generated pod name adds a dash and five characters to at most 253.
    let room = 246 - hash.len();
    let kept: String = deployment.chars().take(room).collect();
    format!("{kept}-{hash}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_round_as_asked() {
        let percent = |text: &str| Some(IntOrString::String(text.into()));
        let cases = [
            (Some(IntOrString::Int(3)), 10, true, 3),
            (percent("25%"), 10, true, 3),
            (percent("25%"), 10, false, 2),
            (percent("100%"), 7, false, 7),
            (percent("0%"), 7, true, 0),
            (None, 7, true, 0),
        ];
        for (value, total, up, expected) in cases {
            assert_eq!(resolve(value.as_ref(), total, up), expected, "{value:?} of {total}");
        }
    }
}
