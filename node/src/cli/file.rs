//! The configuration file: the fields of a KubeletConfiguration that have an effect here. Unknown fields are
//! left alone: a file written for upstream's kubelet is accepted whole.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Taint;
use serde::Deserialize;
use serde_json::Value;

/// A KubeletConfiguration.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct File {
    pub static_pod_path: Option<PathBuf>,
    pub sync_frequency: Option<String>,
    pub address: Option<IpAddr>,
    pub port: Option<u16>,
    pub tls_cert_file: Option<PathBuf>,
    pub tls_private_key_file: Option<PathBuf>,
    pub rotate_certificates: Option<bool>,
    #[serde(rename = "serverTLSBootstrap")]
    pub server_tls_bootstrap: Option<bool>,
    pub authentication: Authentication,
    pub authorization: Authorization,
    pub enable_debugging_handlers: Option<bool>,
    pub healthz_port: Option<u16>,
    pub cluster_domain: Option<String>,
    #[serde(rename = "clusterDNS")]
    pub cluster_dns: Option<Vec<String>>,
    pub node_status_update_frequency: Option<String>,
    pub node_status_report_frequency: Option<String>,
    pub node_lease_duration_seconds: Option<u64>,
    #[serde(rename = "imageGCHighThresholdPercent")]
    pub image_gc_high_threshold_percent: Option<u8>,
    #[serde(rename = "imageGCLowThresholdPercent")]
    pub image_gc_low_threshold_percent: Option<u8>,
    #[serde(rename = "imageMinimumGCAge")]
    pub image_minimum_gc_age: Option<String>,
    #[serde(rename = "imageMaximumGCAge")]
    pub image_maximum_gc_age: Option<String>,
    pub cgroup_root: Option<String>,
    #[serde(rename = "cgroupsPerQOS")]
    pub cgroups_per_qos: Option<bool>,
    pub cgroup_driver: Option<String>,
    pub max_pods: Option<u32>,
    pub pod_pids_limit: Option<i64>,
    #[serde(rename = "resolvConf")]
    pub resolv_conf: Option<PathBuf>,
    #[serde(rename = "cpuCFSQuota")]
    pub cpu_cfs_quota: Option<bool>,
    #[serde(rename = "singleProcessOOMKill")]
    pub single_process_oom_kill: Option<bool>,
    pub serialize_image_pulls: Option<bool>,
    pub eviction_hard: Option<BTreeMap<String, String>>,
    pub eviction_soft: Option<BTreeMap<String, String>>,
    pub eviction_soft_grace_period: Option<BTreeMap<String, String>>,
    pub eviction_minimum_reclaim: Option<BTreeMap<String, String>>,
    pub eviction_max_pod_grace_period: Option<i64>,
    pub eviction_pressure_transition_period: Option<String>,
    pub container_log_max_size: Option<String>,
    pub container_log_max_files: Option<usize>,
    pub system_reserved: Option<BTreeMap<String, String>>,
    pub kube_reserved: Option<BTreeMap<String, String>>,
    pub allowed_unsafe_sysctls: Option<Vec<String>>,
    pub provider_id: Option<String>,
    pub register_with_taints: Option<Vec<Taint>>,
    pub register_node: Option<bool>,
    pub seccomp_default: Option<bool>,
    pub container_runtime_endpoint: Option<String>,
    pub pod_logs_dir: Option<PathBuf>,
}

/// `authentication`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Authentication {
    pub x509: X509,
    pub webhook: Switch,
    pub anonymous: Switch,
}

/// `authentication.x509`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct X509 {
    #[serde(rename = "clientCAFile")]
    pub client_ca_file: Option<PathBuf>,
}

/// Something that is on or off.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Switch {
    pub enabled: Option<bool>,
}

/// `authorization`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Authorization {
    pub mode: Option<String>,
}

/// Reads a file and lays the `*.conf` files of a folder over it. The error names the file.
pub fn read(path: Option<&Path>, dir: Option<&Path>) -> Result<File, String> {
    let mut merged = Value::Object(serde_json::Map::new());
    let mut files: Vec<PathBuf> = path.map(Path::to_owned).into_iter().collect();
    if let Some(dir) = dir {
        let entries = std::fs::read_dir(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        let mut more: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
        more.retain(|p| p.extension().is_some_and(|e| e == "conf"));
        more.sort();
        files.extend(more);
    }
    for file in &files {
        let failed = |e: &dyn std::fmt::Display| format!("{}: {e}", file.display());
        let text = std::fs::read_to_string(file).map_err(|e| failed(&e))?;
        let value: Value = serde_yaml_ng::from_str(&text).map_err(|e| failed(&e))?;
        let kind = value["kind"].as_str().unwrap_or("KubeletConfiguration");
        if kind != "KubeletConfiguration" {
            return Err(failed(&format!("kind is {kind}, not KubeletConfiguration")));
        }
        lay_over(&mut merged, value);
    }
    serde_json::from_value(merged).map_err(|e| format!("{}: {e}", path.unwrap_or(Path::new("")).display()))
}

fn lay_over(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                lay_over(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_files_win() {
        let dir = tempfile::tempdir().expect("a folder");
        let main = dir.path().join("config.yaml");
        std::fs::write(
            &main,
            "kind: KubeletConfiguration\nmaxPods: 10\nclusterDNS: [10.96.0.10]\nunknownField: 1\n",
        )
        .expect("ok");
        std::fs::write(dir.path().join("10.conf"), "maxPods: 20\n").expect("ok");
        let file = read(Some(&main), Some(dir.path())).expect("read");
        assert_eq!((file.max_pods, file.cluster_dns), (Some(20), Some(vec!["10.96.0.10".to_owned()])));
        std::fs::write(&main, "kind: Other\n").expect("ok");
        assert!(read(Some(&main), None).is_err());
    }
}
