//! Flags, configuration file and the machine's own facts become the kubelet's settings.

use std::net::{IpAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::core::v1::Taint;

use super::eviction;
use super::file::{self, File};
use super::flags::KubeletArgs;
use crate::kubelet::config::{CgroupDriver, Config, parse_duration};
use crate::kubelet::names_in_pod::parse_resolv_conf;
use crate::kubelet::quantity;

/// The settings make no sense. The message says which flag or file to mend.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigError {
    /// The configuration file cannot be used.
    #[error("configuration file: {0}")]
    File(String),
    /// A flag's value cannot be used.
    #[error("--{flag}: {text}")]
    Flag {
        /// Its name.
        flag: &'static str,
        /// What is wrong.
        text: String,
    },
}

pub(super) fn bad(flag: &'static str, text: impl Into<String>) -> ConfigError {
    ConfigError::Flag { flag, text: text.into() }
}

/// Resolves everything.
pub fn resolve(args: &KubeletArgs) -> Result<Config, ConfigError> {
    let file = file::read(args.config.as_deref(), args.config_dir.as_deref()).map_err(ConfigError::File)?;
    let hostname = hostname();
    let name = args.hostname_override.clone().unwrap_or(hostname).trim().to_lowercase();
    let ips = if args.node_ip.iter().all(IpAddr::is_unspecified) { own_ips() } else { args.node_ip.clone() };
    let mut config = Config::new(&name, ips);
    apply_paths(&mut config, args, &file);
    apply_node(&mut config, args, &file)?;
    apply_server(&mut config, args, &file);
    apply_limits(&mut config, args, &file)?;
    Ok(config)
}

fn hostname() -> String {
    nix::unistd::gethostname().ok().and_then(|n| n.into_string().ok()).unwrap_or_else(|| "localhost".into())
}

/// The address that leads out of the machine; the loopback's where none does. Nothing is sent.
fn own_ips() -> Vec<IpAddr> {
    let probe = |bind: &str, to: &str| -> Option<IpAddr> {
        let socket = UdpSocket::bind(bind).ok()?;
        socket.connect(to).ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    let found = probe("0.0.0.0:0", "192.0.2.1:9").or_else(|| probe("[::]:0", "[2001:db8::1]:9"));
    vec![found.unwrap_or(IpAddr::from([127, 0, 0, 1]))]
}

fn apply_paths(config: &mut Config, args: &KubeletArgs, file: &File) {
    if let Some(root) = &args.root_dir {
        config.root_dir.clone_from(root);
        config.cert_dir = root.join("pki");
    }
    if let Some(dir) = &args.cert_dir {
        config.cert_dir.clone_from(dir);
    }
    if let Some(dir) = args.pod_logs_dir.clone().or(file.pod_logs_dir.clone()) {
        config.pod_logs_dir = dir;
    }
    config.static_pod_path = args.pod_manifest_path.clone().or(file.static_pod_path.clone());
    let endpoint = args.container_runtime_endpoint.clone().or(file.container_runtime_endpoint.clone());
    if let Some(endpoint) = endpoint.filter(|e| !e.is_empty()) {
        config.runtime_endpoint = endpoint;
    }
    config.credential_provider_config.clone_from(&args.image_credential_provider_config);
    config.credential_provider_bin_dir.clone_from(&args.image_credential_provider_bin_dir);
    let resolv_conf = args.resolv_conf.clone().or(file.resolv_conf.clone());
    let resolv_conf = resolv_conf.unwrap_or_else(|| default_resolv_conf().into());
    config.dns.host = parse_resolv_conf(&std::fs::read_to_string(resolv_conf).unwrap_or_default());
    config.dns.servers = if args.cluster_dns.is_empty() {
        file.cluster_dns.clone().unwrap_or_default()
    } else {
        args.cluster_dns.clone()
    };
    if let Some(domain) = args.cluster_domain.clone().or(file.cluster_domain.clone()) {
        config.dns.domain = domain.trim_end_matches('.').to_owned();
    }
}

/// systemd's stub is of no use inside pods: its full file stands in.
fn default_resolv_conf() -> &'static str {
    let full = "/run/systemd/resolve/resolv.conf";
    if Path::new(full).exists() { full } else { "/etc/resolv.conf" }
}

fn apply_node(config: &mut Config, args: &KubeletArgs, file: &File) -> Result<(), ConfigError> {
    for label in &args.node_labels {
        let (key, value) =
            label.split_once('=').ok_or_else(|| bad("node-labels", format!("{label} is not key=value")))?;
        config.node_labels.push((key.to_owned(), value.to_owned()));
    }
    config.taints = match args.register_with_taints.as_slice() {
        [] => file.register_with_taints.clone().unwrap_or_default(),
        taints => taints.iter().map(|t| parse_taint(t)).collect::<Result<_, _>>()?,
    };
    config.register_node = args.register_node.or(file.register_node).unwrap_or(true);
    config.unschedulable = args.register_schedulable == Some(false);
    config.provider_id = args.provider_id.clone().or(file.provider_id.clone());
    if let Some(secs) = file.node_lease_duration_seconds {
        config.lease_duration = Duration::from_secs(secs);
    }
    let times = [
        (&args.sync_frequency, &file.sync_frequency, &mut config.sync_frequency, "sync-frequency"),
        (
            &args.node_status_update_frequency,
            &file.node_status_update_frequency,
            &mut config.status_update_frequency,
            "node-status-update-frequency",
        ),
        (&None, &file.node_status_report_frequency, &mut config.status_report_frequency, "config"),
    ];
    for (flag, from_file, target, name) in times {
        if let Some(text) = flag.as_ref().or(from_file.as_ref()) {
            *target = duration(name, text)?;
            if target.is_zero() {
                return Err(bad(name, format!("{text} is no duration")));
            }
        }
    }
    Ok(())
}

fn parse_taint(text: &str) -> Result<Taint, ConfigError> {
    let wrong = || bad("register-with-taints", format!("{text} is not key[=value]:effect"));
    let (left, effect) = text.rsplit_once(':').ok_or_else(wrong)?;
    if !matches!(effect, "NoSchedule" | "PreferNoSchedule" | "NoExecute") {
        return Err(wrong());
    }
    let (key, value) = left.split_once('=').unwrap_or((left, ""));
    Ok(Taint {
        key: key.to_owned(),
        value: Some(value.to_owned()).filter(|v| !v.is_empty()),
        effect: effect.to_owned(),
        time_added: None,
    })
}

/// A duration, which may be zero.
pub(super) fn duration(flag: &'static str, text: &str) -> Result<Duration, ConfigError> {
    parse_duration(text).ok_or_else(|| bad(flag, format!("{text} is no duration")))
}

fn apply_server(config: &mut Config, args: &KubeletArgs, file: &File) {
    config.address = args.address.or(file.address).unwrap_or(config.address);
    config.port = args.port.or(file.port).unwrap_or(config.port);
    config.healthz_port = args.healthz_port.or(file.healthz_port).unwrap_or(config.healthz_port);
    config.debugging_handlers = file.enable_debugging_handlers.unwrap_or(true);
    config.server_tls_bootstrap =
        args.rotate_server_certificates.or(file.server_tls_bootstrap).unwrap_or(false);
    let auth = &mut config.server_auth;
    auth.client_ca_file = args.client_ca_file.clone().or(file.authentication.x509.client_ca_file.clone());
    // Without a file upstream's flags default to open doors; ours stay shut unless told otherwise.
    auth.anonymous = args.anonymous_auth.or(file.authentication.anonymous.enabled).unwrap_or(false);
    auth.webhook_authn =
        args.authentication_token_webhook.or(file.authentication.webhook.enabled).unwrap_or(true);
    let mode = args.authorization_mode.clone().or(file.authorization.mode.clone());
    auth.webhook_authz = mode.as_deref() != Some("AlwaysAllow");
    auth.tls_cert_file = args.tls_cert_file.clone().or(file.tls_cert_file.clone());
    auth.tls_key_file = args.tls_private_key_file.clone().or(file.tls_private_key_file.clone());
}

fn apply_limits(config: &mut Config, args: &KubeletArgs, file: &File) -> Result<(), ConfigError> {
    config.max_pods = args.max_pods.or(file.max_pods).unwrap_or(config.max_pods);
    config.pod_pids_max = args.pod_max_pids.or(file.pod_pids_limit).unwrap_or(0).max(0);
    config.single_process_oom_kill = file.single_process_oom_kill.unwrap_or(false);
    config.cgroups_per_qos = args.cgroups_per_qos.or(file.cgroups_per_qos).unwrap_or(true);
    if let Some(root) = args.cgroup_root.clone().or(file.cgroup_root.clone()) {
        config.cgroup_root = root;
    }
    config.cgroup_driver = match args.cgroup_driver.as_deref().or(file.cgroup_driver.as_deref()) {
        None | Some("" | "cgroupfs") => CgroupDriver::Cgroupfs,
        Some("systemd") => CgroupDriver::Systemd,
        Some(other) => return Err(bad("cgroup-driver", format!("{other} is neither cgroupfs nor systemd"))),
    };
    config.cpu_cfs_quota = file.cpu_cfs_quota.unwrap_or(true);
    config.seccomp_default = args.seccomp_default.or(file.seccomp_default).unwrap_or(false);
    config.serialize_image_pulls = args.serialize_image_pulls.or(file.serialize_image_pulls).unwrap_or(true);
    apply_image_gc(config, args, file)?;
    config.allowed_unsafe_sysctls = if args.allowed_unsafe_sysctls.is_empty() {
        file.allowed_unsafe_sysctls.clone().unwrap_or_default()
    } else {
        args.allowed_unsafe_sysctls.clone()
    };
    if let Some(size) = args.container_log_max_size.as_ref().or(file.container_log_max_size.as_ref()) {
        let bytes = quantity::parse_nano(size).and_then(|n| u64::try_from(n / quantity::NANO).ok());
        config.log_bytes_max = bytes
            .filter(|b| *b > 0)
            .ok_or_else(|| bad("container-log-max-size", format!("{size} is no size")))?;
    }
    config.log_files_max = args.container_log_max_files.or(file.container_log_max_files).unwrap_or(5).max(2);
    eviction::apply(config, args, file)?;
    apply_reserved(config, args, file)
}

fn apply_image_gc(config: &mut Config, args: &KubeletArgs, file: &File) -> Result<(), ConfigError> {
    let high = args.image_gc_high_threshold.or(file.image_gc_high_threshold_percent);
    let low = args.image_gc_low_threshold.or(file.image_gc_low_threshold_percent);
    config.image_gc_high_percent = high.unwrap_or(config.image_gc_high_percent);
    config.image_gc_low_percent = low.unwrap_or(config.image_gc_low_percent);
    let (high, low) = (config.image_gc_high_percent, config.image_gc_low_percent);
    if high > 100 || low > high {
        let text =
            format!("{high} percent with a low threshold of {low}: low must not exceed high, high not 100");
        return Err(bad("image-gc-high-threshold", text));
    }
    let ages = [
        (
            args.minimum_image_ttl_duration.as_ref().or(file.image_minimum_gc_age.as_ref()),
            &mut config.image_gc_min_age,
        ),
        (file.image_maximum_gc_age.as_ref(), &mut config.image_gc_max_age),
    ];
    for (text, target) in ages {
        if let Some(text) = text {
            *target = duration("minimum-image-ttl-duration", text)?;
        }
    }
    Ok(())
}

fn apply_reserved(config: &mut Config, args: &KubeletArgs, file: &File) -> Result<(), ConfigError> {
    let from_flags = args.kube_reserved.iter().chain(&args.system_reserved).map(|text| {
        let pair = text.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned()));
        pair.ok_or_else(|| bad("kube-reserved", format!("{text} is not resource=amount")))
    });
    let mut reserved = from_flags.collect::<Result<Vec<_>, _>>()?;
    if reserved.is_empty() {
        let maps = file.kube_reserved.iter().chain(&file.system_reserved);
        reserved = maps.flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
    }
    for (resource, amount) in reserved {
        let nano = quantity::parse_nano(&amount)
            .ok_or_else(|| bad("kube-reserved", format!("{amount} is no amount of {resource}")))?;
        match resource.as_str() {
            "cpu" => config.cpu_reserved_milli += i64::try_from(nano / 1_000_000).unwrap_or(0),
            "memory" => config.memory_reserved_bytes += u64::try_from(nano / quantity::NANO).unwrap_or(0),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(flags: &[&str]) -> Result<Config, ConfigError> {
        let flags = flags.iter().map(|f| (*f).to_owned());
        resolve(&KubeletArgs::from_flags(flags).expect("parsed"))
    }

    #[test]
    fn flags_become_settings() {
        let config = config(&[
            "--hostname-override=N1",
            "--node-ip=10.0.0.7",
            "--root-dir=/r",
            "--register-with-taints=a=b:NoSchedule,c:NoExecute",
            "--eviction-hard=memory.available<1Gi",
            "--kube-reserved=cpu=100m,memory=1Gi",
            "--sync-frequency=1m30s",
        ])
        .expect("resolved");
        assert_eq!((config.node_name.as_str(), config.cert_dir.to_str()), ("n1", Some("/r/pki")));
        assert_eq!(config.taints.iter().map(|t| t.key.as_str()).collect::<Vec<_>>(), ["a", "c"]);
        assert_eq!(config.eviction_hard, [("memory.available".to_owned(), "1Gi".to_owned())]);
        assert_eq!((config.cpu_reserved_milli, config.memory_reserved_bytes), (100, 1 << 30));
        assert_eq!(config.sync_frequency, Duration::from_secs(90));
    }

    #[test]
    fn mistakes_name_their_flag() {
        for (flag, expected) in [
            ("--node-labels=x", "--node-labels: x is not key=value"),
            ("--register-with-taints=a:Never", "--register-with-taints: a:Never is not key[=value]:effect"),
            ("--sync-frequency=soon", "--sync-frequency: soon is no duration"),
            (
                "--eviction-soft=memory.available<1Gi",
                "--eviction-soft: memory.available has no --eviction-soft-grace-period",
            ),
            (
                "--image-gc-high-threshold=70",
                "--image-gc-high-threshold: 70 percent with a low threshold of 80: low must not exceed high, high not 100",
            ),
            ("--cgroup-driver=x", "--cgroup-driver: x is neither cgroupfs nor systemd"),
        ] {
            assert_eq!(config(&[flag]).err().map(|e| e.to_string()).as_deref(), Some(expected));
        }
    }
}
