//! The configuration of a pod's sandbox.

use std::path::Path;

use k8s_openapi::api::core::v1::Pod;
use proto::cri;

use super::{names, security};
use crate::kubelet::names_in_pod::{ClusterDns, Resolver, kernel_hostname, resolver};
use crate::kubelet::pod::spec;

/// What of the machine a sandbox's configuration depends on.
#[derive(Clone, Copy, Debug)]
pub struct SandboxOptions<'a> {
    /// Where pods' logs are.
    pub log_root: &'a Path,
    /// Name resolution.
    pub dns: &'a ClusterDns,
    /// The pod's cgroup in the runtime's notation; empty lets the runtime choose.
    pub cgroup_parent: &'a str,
}

/// Builds the configuration. The error is shown to the user.
pub fn sandbox_config(
    pod: &Pod,
    attempt: u32,
    options: SandboxOptions<'_>,
) -> Result<cri::PodSandboxConfig, String> {
    let spec = spec::spec(pod);
    if spec.host_users == Some(false) {
        // To run it as the machine's users would take away what it asks for.
        return Err("can't set `spec.hostUsers: false`, runtime does not support user namespaces".into());
    }
    let (namespace, name, uid) = (spec::namespace(pod), spec::name(pod), spec::uid(pod));
    let hostname =
        if spec::is_host_network(pod) { String::new() } else { kernel_hostname(pod, &options.dns.domain)? };
    let context = spec.security_context.clone().unwrap_or_default();
    let sysctls = context.sysctls.into_iter().flatten().map(|s| (s.name, s.value)).collect();
    let Resolver { servers, searches, options: resolver_options } = resolver(pod, options.dns);
    let log_directory = names::pod_log_dir(options.log_root, namespace, name, uid);
    Ok(cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: name.to_owned(),
            uid: uid.to_owned(),
            namespace: namespace.to_owned(),
            attempt,
        }),
        hostname,
        log_directory: log_directory.to_string_lossy().into_owned(),
        dns_config: Some(cri::DnsConfig { servers, searches, options: resolver_options }),
        port_mappings: port_mappings(pod),
        labels: names::pod_labels(pod),
        annotations: pod.metadata.annotations.clone().unwrap_or_default().into_iter().collect(),
        linux: Some(cri::LinuxPodSandboxConfig {
            cgroup_parent: options.cgroup_parent.to_owned(),
            security_context: Some(security::sandbox_security(pod)),
            sysctls,
            ..Default::default()
        }),
        windows: None,
    })
}

/// The ports of containers; host ports are opened by the network plugin.
fn port_mappings(pod: &Pod) -> Vec<cri::PortMapping> {
    let sidecars = spec::init_containers(pod).iter().filter(|c| spec::is_sidecar(c));
    let ports = spec::containers(pod).iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
    let mut mappings: Vec<cri::PortMapping> = Vec::new();
    for port in ports {
        let mapping = cri::PortMapping {
            protocol: match port.protocol.as_deref() {
                Some("UDP") => cri::Protocol::Udp,
                Some("SCTP") => cri::Protocol::Sctp,
                _ => cri::Protocol::Tcp,
            } as i32,
            container_port: port.container_port,
            host_port: port.host_port.unwrap_or(0),
            host_ip: port.host_ip.clone().unwrap_or_default(),
        };
        if !mappings.contains(&mapping) {
            mappings.push(mapping);
        }
    }
    mappings
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn carries_identity_ports_and_sysctls() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"app": "x"}},
            "spec": {"securityContext": {"sysctls": [{"name": "net.core.somaxconn", "value": "9"}]},
                "containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 8080},
                    {"containerPort": 53, "protocol": "UDP"}]}]}}))
        .expect("a pod");
        let dns = ClusterDns { domain: "cluster.local".into(), ..Default::default() };
        let options =
            SandboxOptions { log_root: Path::new("/logs"), dns: &dns, cgroup_parent: "/kubepods/x" };
        let config = sandbox_config(&pod, 2, options).expect("a config");
        let users =
            serde_json::from_value(json!({"spec": {"hostUsers": false, "containers": []}})).expect("a pod");
        assert!(sandbox_config(&users, 0, options).is_err_and(|e| e.contains("user namespaces")));
        assert_eq!(config.log_directory, "/logs/n_p_u");
        assert_eq!(config.hostname, "p");
        assert_eq!(config.labels.get("app").map(String::as_str), Some("x"));
        assert_eq!(config.labels.get(names::POD_UID).map(String::as_str), Some("u"));
        let ports: Vec<_> =
            config.port_mappings.iter().map(|p| (p.protocol, p.container_port, p.host_port)).collect();
        assert_eq!(ports, [(0, 80, 8080), (1, 53, 0)]);
        let linux = config.linux.expect("linux");
        assert_eq!(linux.cgroup_parent, "/kubepods/x");
        assert_eq!(linux.sysctls.get("net.core.somaxconn").map(String::as_str), Some("9"));
    }
}
