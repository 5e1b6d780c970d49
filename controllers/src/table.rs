//! The controllers there are: name, constructor, identity, and whether `*` includes it. Names, aliases and accounts
//! are those of kube-controller-manager; `--controllers` selects from this table.

use crate::runtime::Build;

/// One row.
pub struct Row {
    /// Upstream's name, as in `--controllers`.
    pub name: &'static str,
    /// Upstream's older name of it, accepted too; empty when there is none.
    pub alias: &'static str,
    /// Its service account in kube-system, to which the default cluster roles grant what it needs.
    pub account: &'static str,
    /// Makes it.
    pub build: Build,
    /// Whether `*` includes it.
    pub by_default: bool,
}

impl Row {
    /// Who reports its events, in upstream's words.
    pub fn component(&self) -> &'static str {
        match self.alias {
            "replicationcontroller" => "replication-controller",
            "horizontal-pod-autoscaler" => "horizontal-pod-autoscaler",
            "endpointslice" => "endpoint-slice-controller",
            "endpointslicemirroring" => "endpoint-slice-mirroring-controller",
            "endpoints" => "endpoint-controller",
            "nodelifecycle" | "nodeipam" => "node-controller",
            "disruption" => "controllermanager",
            _ => self.name,
        }
    }
}

const fn row(name: &'static str, alias: &'static str, account: &'static str, build: Build) -> Row {
    Row { name, alias, account, build, by_default: true }
}

/// All controllers. The order is the order of starting: what others need comes first.
pub const TABLE: &[Row] = &[
    row(
        "serviceaccount-controller",
        "serviceaccount",
        "service-account-controller",
        crate::serviceaccount::build,
    ),
    row(
        "root-ca-certificate-publisher-controller",
        "root-ca-cert-publisher",
        "root-ca-cert-publisher",
        crate::root_ca::build,
    ),
    row("namespace-controller", "namespace", "namespace-controller", crate::namespace::build),
    row(
        "garbage-collector-controller",
        "garbagecollector",
        "generic-garbage-collector",
        crate::garbage::build,
    ),
    row("replicaset-controller", "replicaset", "replicaset-controller", crate::replicaset::build),
    row(
        "replicationcontroller-controller",
        "replicationcontroller",
        "replication-controller",
        crate::replicaset::build_replication_controller,
    ),
    row("deployment-controller", "deployment", "deployment-controller", crate::deployment::build),
    row("endpointslice-controller", "endpointslice", "endpointslice-controller", crate::endpointslice::build),
    row("endpoints-controller", "endpoints", "endpoint-controller", crate::endpoints::build),
    row(
        "endpointslice-mirroring-controller",
        "endpointslicemirroring",
        "endpointslicemirroring-controller",
        crate::endpointslice_mirroring::build,
    ),
    row(
        "certificatesigningrequest-signing-controller",
        "csrsigning",
        "certificate-controller",
        crate::certificates::signing::build,
    ),
    row(
        "certificatesigningrequest-approving-controller",
        "csrapproving",
        "certificate-controller",
        crate::certificates::approving::build,
    ),
    row(
        "certificatesigningrequest-cleaner-controller",
        "csrcleaner",
        "certificate-controller",
        crate::certificates::cleaning::build,
    ),
    row("job-controller", "job", "job-controller", crate::job::build),
    row("cronjob-controller", "cronjob", "cronjob-controller", crate::cronjob::build),
    row("daemonset-controller", "daemonset", "daemon-set-controller", crate::daemonset::build),
    row("statefulset-controller", "statefulset", "statefulset-controller", crate::statefulset::build),
    row("pod-garbage-collector-controller", "podgc", "pod-garbage-collector", crate::pod_gc::build),
    row("serviceaccount-token-controller", "serviceaccount-token", "", crate::serviceaccount_token::build),
    row(
        "legacy-serviceaccount-token-cleaner-controller",
        "legacy-service-account-token-cleaner",
        "legacy-service-account-token-cleaner",
        crate::legacy_token_cleaner::build,
    ),
    row("node-ipam-controller", "nodeipam", "node-controller", crate::node_ipam::build),
    row("node-lifecycle-controller", "nodelifecycle", "node-controller", crate::node_lifecycle::build),
    row("taint-eviction-controller", "", "node-controller", crate::taint_eviction::build),
    row("ttl-controller", "ttl", "ttl-controller", crate::node_ttl::build),
    row("resourcequota-controller", "resourcequota", "resourcequota-controller", crate::resourcequota::build),
    row(
        "horizontal-pod-autoscaler-controller",
        "horizontal-pod-autoscaler",
        "horizontal-pod-autoscaler",
        crate::autoscaler::build,
    ),
    row("disruption-controller", "disruption", "disruption-controller", crate::disruption::build),
    row(
        "ttl-after-finished-controller",
        "ttl-after-finished",
        "ttl-after-finished-controller",
        crate::ttl_after_finished::build,
    ),
    row(
        "clusterrole-aggregation-controller",
        "clusterrole-aggregation",
        "clusterrole-aggregation-controller",
        crate::clusterrole_aggregation::build,
    ),
];

/// A name in `--controllers` that is in no row.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not in the list of known controllers")]
pub struct UnknownController(pub String);

/// The rows that a list of names selects. A name selects, a name with `-` in front deselects, and for controllers
/// not named `*` decides.
pub fn select(names: &[String]) -> Result<Vec<&'static Row>, UnknownController> {
    let is = |row: &Row, name: &str| row.name == name || (!row.alias.is_empty() && row.alias == name);
    for name in names.iter().filter(|name| *name != "*") {
        let bare = name.strip_prefix('-').unwrap_or(name);
        if !TABLE.iter().any(|row| is(row, bare)) {
            return Err(UnknownController(bare.to_string()));
        }
    }
    let star = names.iter().any(|name| name == "*");
    let selected = TABLE.iter().filter(|row| {
        let named = names.iter().find(|name| is(row, name.strip_prefix('-').unwrap_or(name)));
        named.map_or(star && row.by_default, |name| !name.starts_with('-'))
    });
    Ok(selected.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> =
            TABLE.iter().flat_map(|row| [row.name, row.alias]).filter(|n| !n.is_empty()).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn selection() {
        let names = |list: &[&str]| {
            let list: Vec<String> = list.iter().map(|name| name.to_string()).collect();
            select(&list).map(|rows| rows.iter().map(|row| row.alias).collect::<Vec<_>>())
        };
        assert_eq!(names(&["deployment"]), Ok(vec!["deployment"]));
        assert!(!names(&["*", "-deployment-controller"]).is_ok_and(|all| all.contains(&"deployment")));
        assert_eq!(names(&["*"]).map(|all| all.len()), Ok(TABLE.iter().filter(|row| row.by_default).count()));
        assert_eq!(names(&["nosuch"]), Err(UnknownController("nosuch".into())));
    }
}
