//! The rows: one a controller, in the order of starting, so that what others need comes first. Names, aliases,
//! accounts and names of queues are those of kube-controller-manager.

use super::Row;

const fn row(name: &'static str, alias: &'static str, build: crate::runtime::Build) -> Row {
    Row { name, alias, account: "", queue: "", reporter: "", build, by_default: true }
}

impl Row {
    /// Sets the account.
    const fn account(self, account: &'static str) -> Self {
        Self { account, ..self }
    }

    /// Sets the queue's name in metrics.
    const fn queue(self, queue: &'static str) -> Self {
        Self { queue, ..self }
    }

    /// Sets who reports its events, where that is not the controller's name.
    const fn reporter(self, reporter: &'static str) -> Self {
        Self { reporter, ..self }
    }

    /// Leaves it out of `*`.
    const fn on_request(self) -> Self {
        Self { by_default: false, ..self }
    }
}

/// All controllers.
pub const TABLE: &[Row] = &[
    row("serviceaccount-controller", "serviceaccount", crate::serviceaccount::build)
        .account("service-account-controller")
        .queue("serviceaccount"),
    row("root-ca-certificate-publisher-controller", "root-ca-cert-publisher", crate::root_ca::build)
        .account("root-ca-cert-publisher")
        .queue("root_ca_cert_publisher"),
    row("namespace-controller", "namespace", crate::namespace::build)
        .account("namespace-controller")
        .queue("namespace"),
    row("garbage-collector-controller", "garbagecollector", crate::garbage::build)
        .account("generic-garbage-collector")
        .queue("garbage_collector_attempt_to_delete"),
    row("replicaset-controller", "replicaset", crate::replicaset::build)
        .account("replicaset-controller")
        .queue("replicaset"),
    row(
        "replicationcontroller-controller",
        "replicationcontroller",
        crate::replicaset::build_replication_controller,
    )
    .account("replication-controller")
    .queue("replicationmanager")
    .reporter("replication-controller"),
    row("deployment-controller", "deployment", crate::deployment::build)
        .account("deployment-controller")
        .queue("deployment"),
    row("endpointslice-controller", "endpointslice", crate::endpointslice::build)
        .account("endpointslice-controller")
        .queue("endpoint_slice")
        .reporter("endpoint-slice-controller"),
    row("endpoints-controller", "endpoint", crate::endpoints::build)
        .account("endpoint-controller")
        .queue("endpoint")
        .reporter("endpoint-controller"),
    row(
        "endpointslice-mirroring-controller",
        "endpointslicemirroring",
        crate::endpointslice_mirroring::build,
    )
    .account("endpointslicemirroring-controller")
    .queue("endpoint_slice_mirroring")
    .reporter("endpoint-slice-mirroring-controller"),
    row("certificatesigningrequest-signing-controller", "csrsigning", crate::certificates::signing::build)
        .account("certificate-controller")
        .queue("certificate"),
    row(
        "certificatesigningrequest-approving-controller",
        "csrapproving",
        crate::certificates::approving::build,
    )
    .account("certificate-controller")
    .queue("certificate_approving"),
    row("certificatesigningrequest-cleaner-controller", "csrcleaner", crate::certificates::cleaning::build)
        .account("certificate-controller")
        .queue("csrcleaner"),
    row("job-controller", "job", crate::job::build).account("job-controller").queue("job"),
    row("cronjob-controller", "cronjob", crate::cronjob::build)
        .account("cronjob-controller")
        .queue("cronjob"),
    row("daemonset-controller", "daemonset", crate::daemonset::build)
        .account("daemon-set-controller")
        .queue("daemonset"),
    row("statefulset-controller", "statefulset", crate::statefulset::build)
        .account("statefulset-controller")
        .queue("statefulset"),
    row("pod-garbage-collector-controller", "podgc", crate::pod_gc::build)
        .account("pod-garbage-collector")
        .queue("orphaned_pods_nodes"),
    // No account of that name exists upstream: it works with the process' own rights.
    row("serviceaccount-token-controller", "serviceaccount-token", crate::serviceaccount_token::build)
        .queue("serviceaccount_tokens_service"),
    row(
        "legacy-serviceaccount-token-cleaner-controller",
        "legacy-service-account-token-cleaner",
        crate::legacy_token_cleaner::build,
    )
    .account("legacy-service-account-token-cleaner")
    .queue("legacy_service_account_token_cleaner"),
    row("node-ipam-controller", "nodeipam", crate::node_ipam::build)
        .account("node-controller")
        .queue("cidr_allocator")
        .reporter("cidrAllocator"),
    row("node-lifecycle-controller", "nodelifecycle", crate::node_lifecycle::build)
        .account("node-controller")
        .queue("node_lifecycle_controller")
        .reporter("node-controller"),
    row("taint-eviction-controller", "", crate::taint_eviction::build)
        .account("node-controller")
        .queue("noexec_taint_pod"),
    row("ttl-controller", "ttl", crate::node_ttl::build).account("ttl-controller").queue("ttlcontroller"),
    row("resourcequota-controller", "resourcequota", crate::resourcequota::build)
        .account("resourcequota-controller")
        .queue("resourcequota_primary"),
    row("horizontal-pod-autoscaler-controller", "horizontalpodautoscaling", crate::autoscaler::build)
        .account("horizontal-pod-autoscaler")
        .queue("horizontalpodautoscaler")
        .reporter("horizontal-pod-autoscaler"),
    row("disruption-controller", "disruption", crate::disruption::build)
        .account("disruption-controller")
        .queue("disruption")
        .reporter("controllermanager"),
    row("ttl-after-finished-controller", "ttl-after-finished", crate::ttl_after_finished::build)
        .account("ttl-after-finished-controller")
        .queue("ttl_jobs_to_delete"),
    row(
        "clusterrole-aggregation-controller",
        "clusterrole-aggregation",
        crate::clusterrole_aggregation::build,
    )
    .account("clusterrole-aggregation-controller")
    .queue("ClusterRoleAggregator"),
    row("persistentvolume-binder-controller", "persistentvolume-binder", crate::volumes::binder::build)
        .account("persistent-volume-binder")
        .queue("claims")
        .reporter("persistentvolume-controller"),
    row("persistentvolume-attach-detach-controller", "attachdetach", crate::volumes::attach::build)
        .account("attachdetach-controller")
        .queue("pvcs")
        .reporter("attachdetach-controller"),
    row("persistentvolume-expander-controller", "persistentvolume-expander", crate::volumes::expander::build)
        .account("expand-controller")
        .queue("volume_expand")
        .reporter("volume_expand"),
    row(
        "persistentvolumeclaim-protection-controller",
        "pvc-protection",
        crate::volumes::protection::build_claims,
    )
    .account("pvc-protection-controller")
    .queue("pvcprotection"),
    row("persistentvolume-protection-controller", "pv-protection", crate::volumes::protection::build_volumes)
        .account("pv-protection-controller")
        .queue("pvprotection"),
    row("ephemeral-volume-controller", "ephemeral-volume", crate::volumes::ephemeral::build)
        .account("ephemeral-volume-controller")
        .queue("ephemeral_volume")
        .reporter("ephemeral_volume"),
    // Not upstream's: our API server has a role for its account, others must be given one.
    row("local-path-provisioner-controller", "local-path-provisioner", crate::volumes::local_path::build)
        .account("local-path-provisioner")
        .queue("local_path")
        .reporter("quarterdeck.dev/local-path"),
    row("volumeattributesclass-protection-controller", "", crate::volumes::attributes_class::build)
        .account("volumeattributesclass-protection-controller")
        .queue("vacprotection"),
    row("service-cidr-controller", "", crate::service_cidr::build)
        .account("service-cidrs-controller")
        .queue("ipaddresses"),
    row("validatingadmissionpolicy-status-controller", "", crate::admission_policy_status::build)
        .account("validatingadmissionpolicy-status-controller")
        .queue("validatingadmissionpolicy-status"),
    row("service-lb-controller", "service", crate::service_lb::build)
        .account("service-controller")
        .queue("service")
        .reporter("service-controller")
        .on_request(),
    row("node-route-controller", "route", crate::node_route::build)
        .account("route-controller")
        .queue("node_routes")
        .reporter("route_controller")
        .on_request(),
    row("bootstrap-signer-controller", "bootstrapsigner", crate::bootstrap::build_signer)
        .account("bootstrap-signer")
        .queue("bootstrap_signer_queue")
        .on_request(),
    row("token-cleaner-controller", "tokencleaner", crate::bootstrap::build_cleaner)
        .account("token-cleaner")
        .queue("token_cleaner")
        .on_request(),
];

/// Controllers of kube-controller-manager that are not here: what they serve (dynamic resources, device taints, cloud providers, alpha
/// kinds) is not served either. Their names are understood, so that command
/// lines that turn them on or off keep working.
pub const ELSEWHERE: &[&str] = &[
    "cloud-node-lifecycle-controller",
    "cloud-node-lifecycle",
    "device-taint-eviction-controller",
    "kube-apiserver-serving-clustertrustbundle-publisher-controller",
    "podcertificaterequest-cleaner-controller",
    "podgroup-protection-controller",
    "resource-claim-controller",
    "resourceclaim-controller",
    "resourcepoolstatusrequest-controller",
    "selinux-warning-controller",
    "service-ca-certificate-publisher-controller",
    "service-ca-cert-publisher",
    "storage-version-gc",
    "storage-version-migrator-controller",
    "storageversion-garbage-collector-controller",
    "svm",
];
