//! Flags that tune single controllers, with kube-controller-manager's names and defaults.

use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use machinery::flags::Given;

use crate::cli::{AnyError, duration, pair};
use crate::inert_flags::ControllerManager;
use crate::options::{Options, Workers};

/// The flags. An absent one keeps the default of [`Options`].
#[derive(clap::Args, Debug, Clone, Default)]
pub struct Tuning {
    /// Ranges of pod addresses.
    #[arg(long, value_delimiter = ',')]
    pub cluster_cidr: Vec<IpNet>,
    /// Ranges of service addresses.
    #[arg(long, value_delimiter = ',')]
    pub service_cluster_ip_range: Vec<IpNet>,
    /// Nodes get pod ranges from here.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub allocate_node_cidrs: Option<bool>,
    /// Prefix length of a node's range.
    #[arg(long)]
    pub node_cidr_mask_size: Option<u8>,
    /// Prefix length of a node's IPv4 range.
    #[arg(long)]
    pub node_cidr_mask_size_ipv4: Option<u8>,
    /// Prefix length of a node's IPv6 range.
    #[arg(long)]
    pub node_cidr_mask_size_ipv6: Option<u8>,
    /// Name of the cluster.
    #[arg(long)]
    pub cluster_name: Option<String>,
    /// Silence after which a node is unreachable.
    #[arg(long, value_parser = duration)]
    pub node_monitor_grace_period: Option<Duration>,
    /// The same for a node that has just been made.
    #[arg(long, value_parser = duration)]
    pub node_startup_grace_period: Option<Duration>,
    /// How often nodes are looked at.
    #[arg(long, value_parser = duration)]
    pub node_monitor_period: Option<Duration>,
    /// Nodes per second evicted in a healthy zone.
    #[arg(long)]
    pub node_eviction_rate: Option<f64>,
    /// Nodes per second evicted in a large unhealthy zone.
    #[arg(long)]
    pub secondary_node_eviction_rate: Option<f64>,
    /// Nodes from which a zone is large.
    #[arg(long)]
    pub large_cluster_size_threshold: Option<usize>,
    /// Share of nodes not ready from which a zone is unhealthy.
    #[arg(long)]
    pub unhealthy_zone_threshold: Option<f64>,
    /// Finished pods kept.
    #[arg(long)]
    pub terminated_pod_gc_threshold: Option<usize>,
    /// Endpoints in one slice.
    #[arg(long)]
    pub max_endpoints_per_slice: Option<usize>,
    /// Addresses mirrored of one subset.
    #[arg(long)]
    pub mirroring_max_endpoints_per_subset: Option<usize>,
    /// Pod changes are collected for so long before slices are written.
    #[arg(long, value_parser = duration)]
    pub endpointslice_updates_batch_period: Option<Duration>,
    /// The same for Endpoints.
    #[arg(long, value_parser = duration)]
    pub endpoint_updates_batch_period: Option<Duration>,
    /// The same for mirrored slices.
    #[arg(long, value_parser = duration)]
    pub mirroring_endpointslice_updates_batch_period: Option<Duration>,
    /// Between two full counts of all quotas.
    #[arg(long, value_parser = duration)]
    pub resource_quota_sync_period: Option<Duration>,
    /// Unused legacy tokens are removed after so long.
    #[arg(long, value_parser = duration)]
    pub legacy_service_account_token_clean_up_period: Option<Duration>,
    /// Longest life of signed certificates.
    #[arg(long, value_parser = duration)]
    pub cluster_signing_duration: Option<Duration>,
    /// Authority of `kubernetes.io/kubelet-serving`.
    #[arg(long)]
    pub cluster_signing_kubelet_serving_cert_file: Option<PathBuf>,
    /// Its key.
    #[arg(long)]
    pub cluster_signing_kubelet_serving_key_file: Option<PathBuf>,
    /// Authority of `kubernetes.io/kube-apiserver-client-kubelet`.
    #[arg(long)]
    pub cluster_signing_kubelet_client_cert_file: Option<PathBuf>,
    /// Its key.
    #[arg(long)]
    pub cluster_signing_kubelet_client_key_file: Option<PathBuf>,
    /// Authority of `kubernetes.io/kube-apiserver-client`.
    #[arg(long)]
    pub cluster_signing_kube_apiserver_client_cert_file: Option<PathBuf>,
    /// Its key.
    #[arg(long)]
    pub cluster_signing_kube_apiserver_client_key_file: Option<PathBuf>,
    /// Authority of `kubernetes.io/legacy-unknown`.
    #[arg(long)]
    pub cluster_signing_legacy_unknown_cert_file: Option<PathBuf>,
    /// Its key.
    #[arg(long)]
    pub cluster_signing_legacy_unknown_key_file: Option<PathBuf>,
    /// Between two looks at an autoscaler.
    #[arg(long, value_parser = duration)]
    pub horizontal_pod_autoscaler_sync_period: Option<Duration>,
    /// Default window of scaling down.
    #[arg(long, value_parser = duration)]
    pub horizontal_pod_autoscaler_downscale_stabilization: Option<Duration>,
    /// Deviation that is left alone.
    #[arg(long)]
    pub horizontal_pod_autoscaler_tolerance: Option<f64>,
    /// A young pod's CPU use is not trusted for so long.
    #[arg(long, value_parser = duration)]
    pub horizontal_pod_autoscaler_cpu_initialization_period: Option<Duration>,
    /// A young pod's readiness may still be its first.
    #[arg(long, value_parser = duration)]
    pub horizontal_pod_autoscaler_initial_readiness_delay: Option<Duration>,
    /// Directory of the built-in local-path provisioner.
    #[arg(long)]
    pub local_path_root: Option<PathBuf>,
    /// Name of a class to be made for the built-in local-path provisioner; empty: none.
    #[arg(long)]
    pub local_path_class: Option<String>,
    /// Image of the pods that remove or empty volumes' directories.
    #[arg(long)]
    pub local_path_helper_image: Option<String>,
    /// Volumes of unhealthy nodes stay attached until the node is declared out of service.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub disable_force_detach_on_timeout: Option<bool>,
    /// Numbers of workers.
    #[command(flatten)]
    pub workers: WorkerFlags,
    /// Off: no garbage collector.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub enable_garbage_collector: Option<bool>,
    /// Off: claims wait for volumes made by hand.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub enable_dynamic_provisioning: Option<bool>,
    /// How long controllers may take to finish their keys on shutdown.
    #[arg(long, value_parser = duration)]
    pub controller_shutdown_timeout: Option<Duration>,
    /// Requests a second to the API server, watches apart; without this, as many as it takes.
    #[arg(long)]
    pub kube_api_qps: Option<f32>,
    /// Requests that may come at once where `--kube-api-qps` is given.
    #[arg(long)]
    pub kube_api_burst: Option<u32>,
    /// Paths of the endpoint that anyone may read.
    #[arg(long, value_delimiter = ',', default_value = "/healthz,/readyz,/livez")]
    pub authorization_always_allow_paths: Vec<String>,
    /// Upstream's flags that change nothing here.
    #[command(flatten)]
    pub inert: Given<ControllerManager>,
}

/// `--concurrent-…-syncs`.
#[derive(clap::Args, Debug, Clone, Default)]
#[allow(missing_docs, reason = "each flag's name says it all")]
pub struct WorkerFlags {
    #[arg(long)]
    pub concurrent_deployment_syncs: Option<usize>,
    #[arg(long)]
    pub concurrent_replicaset_syncs: Option<usize>,
    #[arg(long)]
    pub concurrent_rc_syncs: Option<usize>,
    #[arg(long)]
    pub concurrent_statefulset_syncs: Option<usize>,
    #[arg(long)]
    pub concurrent_daemonset_syncs: Option<usize>,
    #[arg(long)]
    pub concurrent_job_syncs: Option<usize>,
    #[arg(long)]
    pub concurrent_cron_job_syncs: Option<usize>,
    #[arg(long)]
    pub concurrent_endpoint_syncs: Option<usize>,
    #[arg(long)]
    pub concurrent_service_endpoint_syncs: Option<usize>,
    #[arg(long)]
    pub concurrent_gc_syncs: Option<usize>,
    #[arg(long)]
    pub concurrent_namespace_syncs: Option<usize>,
    #[arg(long)]
    pub concurrent_resource_quota_syncs: Option<usize>,
    #[arg(long)]
    pub concurrent_serviceaccount_token_syncs: Option<usize>,
    #[arg(long)]
    pub concurrent_ttl_after_finished_syncs: Option<usize>,
    #[arg(long)]
    pub concurrent_horizontal_pod_autoscaler_syncs: Option<usize>,
    #[arg(long)]
    pub concurrent_ephemeralvolume_syncs: Option<usize>,
    #[arg(long)]
    pub concurrent_service_syncs: Option<usize>,
    #[arg(long)]
    pub concurrent_validating_admission_policy_status_syncs: Option<usize>,
    #[arg(long)]
    pub mirroring_concurrent_service_endpoint_syncs: Option<usize>,
}

fn set<T: Clone>(target: &mut T, flag: &Option<T>) {
    if let Some(value) = flag {
        *target = value.clone();
    }
}

impl Tuning {
    /// Puts the given flags over the defaults.
    ///
    /// # Errors
    /// For values that contradict each other.
    pub fn apply(&self, options: &mut Options) -> Result<(), AnyError> {
        self.apply_network(options)?;
        self.apply_nodes(options);
        self.apply_autoscaler(options);
        self.apply_signing(options);
        let slices = &mut options.slices;
        set(&mut slices.endpoints_per_slice, &self.max_endpoints_per_slice);
        set(&mut slices.mirrored_per_subset, &self.mirroring_max_endpoints_per_subset);
        set(&mut slices.batch_period, &self.endpointslice_updates_batch_period);
        set(&mut slices.endpoints_batch_period, &self.endpoint_updates_batch_period);
        set(&mut slices.mirroring_batch_period, &self.mirroring_endpointslice_updates_batch_period);
        set(&mut options.terminated_pod_threshold, &self.terminated_pod_gc_threshold);
        set(&mut options.legacy_token_cleanup, &self.legacy_service_account_token_clean_up_period);
        set(&mut options.quota_sync_period, &self.resource_quota_sync_period);
        set(&mut options.cluster_name, &self.cluster_name);
        set(&mut options.volumes.local_path_root, &self.local_path_root);
        set(&mut options.volumes.local_path_class, &self.local_path_class);
        set(&mut options.volumes.helper_image, &self.local_path_helper_image);
        set(&mut options.volumes.disable_force_detach_on_timeout, &self.disable_force_detach_on_timeout);
        set(&mut options.volumes.provision, &self.enable_dynamic_provisioning);
        set(&mut options.shutdown_grace, &self.controller_shutdown_timeout);
        if self.enable_garbage_collector == Some(false) {
            options.controllers.push("-garbage-collector-controller".into());
        }
        self.workers.apply(&mut options.workers);
        Ok(())
    }

    /// Requests a second and at once; zero for no limit. The burst is upstream's where only a rate is given.
    pub fn rate(&self) -> (f32, u32) {
        (self.kube_api_qps.unwrap_or(0.0), self.kube_api_burst.unwrap_or(30))
    }

    fn apply_network(&self, options: &mut Options) -> Result<(), AnyError> {
        let network = &mut options.network;
        set(&mut network.allocate_node_cidrs, &self.allocate_node_cidrs);
        network.cluster_cidrs = self.cluster_cidr.clone();
        network.service_cidrs = self.service_cluster_ip_range.clone();
        if let Some(size) = self.node_cidr_mask_size {
            match network.cluster_cidrs.first() {
                Some(IpNet::V6(_)) => network.node_mask_v6 = size,
                _ => network.node_mask_v4 = size,
            }
        }
        set(&mut network.node_mask_v4, &self.node_cidr_mask_size_ipv4);
        set(&mut network.node_mask_v6, &self.node_cidr_mask_size_ipv6);
        if network.allocate_node_cidrs && network.cluster_cidrs.is_empty() {
            return Err("--allocate-node-cidrs needs --cluster-cidr".into());
        }
        Ok(())
    }

    fn apply_nodes(&self, options: &mut Options) {
        let nodes = &mut options.nodes;
        set(&mut nodes.monitor_grace, &self.node_monitor_grace_period);
        set(&mut nodes.startup_grace, &self.node_startup_grace_period);
        set(&mut nodes.monitor_period, &self.node_monitor_period);
        set(&mut nodes.eviction_rate, &self.node_eviction_rate);
        set(&mut nodes.secondary_eviction_rate, &self.secondary_node_eviction_rate);
        set(&mut nodes.large_cluster, &self.large_cluster_size_threshold);
        set(&mut nodes.unhealthy_zone, &self.unhealthy_zone_threshold);
    }

    fn apply_autoscaler(&self, options: &mut Options) {
        let autoscaler = &mut options.autoscaler;
        set(&mut autoscaler.sync_period, &self.horizontal_pod_autoscaler_sync_period);
        set(&mut autoscaler.downscale_stabilization, &self.horizontal_pod_autoscaler_downscale_stabilization);
        set(&mut autoscaler.tolerance, &self.horizontal_pod_autoscaler_tolerance);
        set(&mut autoscaler.cpu_initialization, &self.horizontal_pod_autoscaler_cpu_initialization_period);
        set(&mut autoscaler.initial_readiness, &self.horizontal_pod_autoscaler_initial_readiness_delay);
    }

    fn apply_signing(&self, options: &mut Options) {
        let signing = &mut options.signing;
        set(&mut signing.duration, &self.cluster_signing_duration);
        signing.kubelet_serving = pair(
            &self.cluster_signing_kubelet_serving_cert_file,
            &self.cluster_signing_kubelet_serving_key_file,
        );
        signing.kubelet_client = pair(
            &self.cluster_signing_kubelet_client_cert_file,
            &self.cluster_signing_kubelet_client_key_file,
        );
        signing.client = pair(
            &self.cluster_signing_kube_apiserver_client_cert_file,
            &self.cluster_signing_kube_apiserver_client_key_file,
        );
        signing.legacy = pair(
            &self.cluster_signing_legacy_unknown_cert_file,
            &self.cluster_signing_legacy_unknown_key_file,
        );
    }
}

impl WorkerFlags {
    fn apply(&self, workers: &mut Workers) {
        set(&mut workers.deployment, &self.concurrent_deployment_syncs);
        set(&mut workers.replicaset, &self.concurrent_replicaset_syncs);
        set(&mut workers.replicationcontroller, &self.concurrent_rc_syncs);
        set(&mut workers.statefulset, &self.concurrent_statefulset_syncs);
        set(&mut workers.daemonset, &self.concurrent_daemonset_syncs);
        set(&mut workers.job, &self.concurrent_job_syncs);
        set(&mut workers.cronjob, &self.concurrent_cron_job_syncs);
        set(&mut workers.endpoints, &self.concurrent_endpoint_syncs);
        set(&mut workers.endpointslice, &self.concurrent_service_endpoint_syncs);
        set(&mut workers.gc, &self.concurrent_gc_syncs);
        set(&mut workers.namespace, &self.concurrent_namespace_syncs);
        set(&mut workers.resourcequota, &self.concurrent_resource_quota_syncs);
        set(&mut workers.serviceaccount_token, &self.concurrent_serviceaccount_token_syncs);
        set(&mut workers.ttl_after_finished, &self.concurrent_ttl_after_finished_syncs);
        set(&mut workers.autoscaler, &self.concurrent_horizontal_pod_autoscaler_syncs);
        let others = [
            ("ephemeral-volume-controller", self.concurrent_ephemeralvolume_syncs),
            ("service-lb-controller", self.concurrent_service_syncs),
            (
                "validatingadmissionpolicy-status-controller",
                self.concurrent_validating_admission_policy_status_syncs,
            ),
            ("endpointslice-mirroring-controller", self.mirroring_concurrent_service_endpoint_syncs),
        ];
        workers.others.extend(others.into_iter().filter_map(|(name, count)| Some((name, count?))));
    }
}
