//! kube-controller-manager's flags that have nothing to steer here, each with the reason.

use machinery::flags::{COMPONENT, Inert, LOGGING, Table, switch, value};

const RECYCLER: &str = "no built-in plugin empties volumes but the local one";
const RESYNC: &str =
    "caches follow watches and every failure is tried again, so that nothing waits for a period";
const ELSEWHERE: &str = "what it serves is not served by the API";
const CLOUD: &str = "clouds are served by their own controller managers";

/// The list.
#[derive(Clone, Debug, Default)]
pub struct ControllerManager;

impl Table for ControllerManager {
    const ROWS: &'static [&'static [Inert]] = &[
        COMPONENT,
        LOGGING,
        &[
            value("attach-detach-reconcile-sync-period", RESYNC),
            value("cidr-allocator-type", "node ranges come from --cluster-cidr"),
            value("cloud-config", CLOUD),
            value("cloud-provider", CLOUD),
            value("concurrent-device-taint-eviction-syncs", ELSEWHERE),
            value("concurrent-resourceclaim-syncs", ELSEWHERE),
            value("controller-start-interval", "controllers start as soon as their caches are filled"),
            switch("disable-attach-detach-reconcile-sync", RESYNC),
            switch(
                "enable-hostpath-provisioner",
                "the local-path provisioner is built in (--local-path-class)",
            ),
            switch("enable-leader-migration", "all controllers run under one lease"),
            value("external-cloud-volume-plugin", CLOUD),
            value("flex-volume-plugin-dir", "flex volumes are not attached"),
            value("leader-migration-config", "all controllers run under one lease"),
            value("min-resync-period", RESYNC),
            value("namespace-sync-period", RESYNC),
            value("pv-recycler-increment-timeout-nfs", RECYCLER),
            value("pv-recycler-minimum-timeout-hostpath", RECYCLER),
            value("pv-recycler-minimum-timeout-nfs", RECYCLER),
            value("pv-recycler-pod-template-filepath-hostpath", RECYCLER),
            value("pv-recycler-pod-template-filepath-nfs", RECYCLER),
            value("pv-recycler-timeout-increment-hostpath", RECYCLER),
            value("pvclaimbinder-sync-period", RESYNC),
            value("route-reconciliation-period", RESYNC),
        ],
    ];
}
