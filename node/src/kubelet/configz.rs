//! What `/configz` shows: the settings in use, in the form of a KubeletConfiguration.

use serde_json::{Value, json};

use super::config::{CgroupDriver, Config};

/// The settings as JSON.
pub fn value(config: &Config) -> Value {
    json!({
        "kind": "KubeletConfiguration",
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "address": config.address.to_string(),
        "port": config.port,
        "healthzPort": config.healthz_port,
        "staticPodPath": config.static_pod_path,
        "clusterDomain": config.dns.domain,
        "clusterDNS": config.dns.servers,
        "maxPods": config.max_pods,
        "podPidsLimit": if config.pod_pids_max == 0 { -1 } else { config.pod_pids_max },
        "nodeLeaseDurationSeconds": config.lease_duration.as_secs(),
        "nodeStatusUpdateFrequency": format!("{}s", config.status_update_frequency.as_secs()),
        "nodeStatusReportFrequency": format!("{}s", config.status_report_frequency.as_secs()),
        "syncFrequency": format!("{}s", config.sync_frequency.as_secs()),
        "cgroupRoot": config.cgroup_root,
        "cgroupsPerQOS": config.cgroups_per_qos,
        "cgroupDriver": match config.cgroup_driver {
            CgroupDriver::Cgroupfs => "cgroupfs",
            CgroupDriver::Systemd => "systemd",
        },
        "cpuCFSQuota": config.cpu_cfs_quota,
        "seccompDefault": config.seccomp_default,
        "containerLogMaxSize": config.log_bytes_max.to_string(),
        "containerLogMaxFiles": config.log_files_max,
        "serializeImagePulls": config.serialize_image_pulls,
        "imageGCHighThresholdPercent": config.image_gc_high_percent,
        "imageGCLowThresholdPercent": config.image_gc_low_percent,
        "allowedUnsafeSysctls": config.allowed_unsafe_sysctls,
        "evictionHard": config.eviction_hard.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
        "enableDebuggingHandlers": config.debugging_handlers,
        "serverTLSBootstrap": config.server_tls_bootstrap,
        "containerRuntimeEndpoint": config.runtime_endpoint,
        "podLogsDir": config.pod_logs_dir,
        "authentication": {
            "x509": {"clientCAFile": config.server_auth.client_ca_file},
            "webhook": {"enabled": config.server_auth.webhook_authn},
            "anonymous": {"enabled": config.server_auth.anonymous},
        },
        "authorization": {"mode": if config.server_auth.webhook_authz { "Webhook" } else { "AlwaysAllow" }},
    })
}
