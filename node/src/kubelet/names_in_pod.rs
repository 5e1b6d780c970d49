//! How a pod knows itself and others by name: its hostname, `/etc/hosts` and resolver settings.

use k8s_openapi::api::core::v1::{Pod, PodStatus};

use super::pod::spec;

/// Longest hostname the kernel takes.
const HOSTNAME_LEN_MAX: usize = 63;
/// Longest node name the kernel takes (`setHostnameAsFQDN`).
const NODENAME_LEN_MAX: usize = 64;
/// Search domains and their total length that resolvers are sure to take.
const SEARCH_DOMAINS_MAX: usize = 32;
/// See [`SEARCH_DOMAINS_MAX`].
const SEARCH_CHARS_MAX: usize = 2048;
/// Name servers a resolver asks.
const NAMESERVERS_MAX: usize = 3;

/// A resolver's settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolver {
    /// Name servers.
    pub servers: Vec<String>,
    /// Search domains.
    pub searches: Vec<String>,
    /// Options (`ndots:5`).
    pub options: Vec<String>,
}

/// The cluster's side of name resolution.
#[derive(Clone, Debug, Default)]
pub struct ClusterDns {
    /// Addresses that answer cluster names.
    pub servers: Vec<String>,
    /// The cluster's domain (`cluster.local`).
    pub domain: String,
    /// The machine's own resolver.
    pub host: Resolver,
}

/// Reads a `resolv.conf`.
pub fn parse_resolv_conf(text: &str) -> Resolver {
    let mut resolver = Resolver::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => resolver.servers.extend(words.next().map(str::to_owned)),
            Some("search") => resolver.searches = words.map(|w| w.trim_end_matches('.').to_owned()).collect(),
            Some("options") => resolver.options = words.map(str::to_owned).collect(),
            _ => {}
        }
    }
    resolver
}

/// The pod's resolver settings by its DNS policy and `dnsConfig`.
pub fn resolver(pod: &Pod, cluster: &ClusterDns) -> Resolver {
    let spec = spec::spec(pod);
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let cluster_first = match policy {
        "ClusterFirst" => !spec::is_host_network(pod),
        "ClusterFirstWithHostNet" => true,
        _ => false,
    };
    let mut resolver = if policy == "None" {
        Resolver::default()
    } else if cluster_first && !cluster.servers.is_empty() {
        cluster_resolver(spec::namespace(pod), cluster)
    } else {
        cluster.host.clone()
    };
    if let Some(config) = &spec.dns_config {
        merge(&mut resolver.servers, config.nameservers.iter().flatten().cloned());
        merge(&mut resolver.searches, config.searches.iter().flatten().cloned());
        let options = config.options.iter().flatten();
        for option in options {
            let Some(name) = &option.name else { continue };
            resolver.options.retain(|o| o.split(':').next() != Some(name));
            match &option.value {
                Some(value) if !value.is_empty() => resolver.options.push(format!("{name}:{value}")),
                _ => resolver.options.push(name.clone()),
            }
        }
    }
    limit(&mut resolver);
    resolver
}

fn cluster_resolver(namespace: &str, cluster: &ClusterDns) -> Resolver {
    let mut searches = Vec::new();
    if !cluster.domain.is_empty() {
        let domain = &cluster.domain;
        searches = vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
    }
    merge(&mut searches, cluster.host.searches.iter().cloned());
    Resolver { servers: cluster.servers.clone(), searches, options: vec!["ndots:5".into()] }
}

fn merge(list: &mut Vec<String>, more: impl Iterator<Item = String>) {
    for item in more {
        if !list.contains(&item) {
            list.push(item);
        }
    }
}

fn limit(resolver: &mut Resolver) {
    resolver.servers.truncate(NAMESERVERS_MAX);
    resolver.searches.truncate(SEARCH_DOMAINS_MAX);
    while resolver.searches.join(" ").len() > SEARCH_CHARS_MAX {
        resolver.searches.pop();
    }
}

/// The pod's hostname and domain (empty without a subdomain).
pub fn hostname_and_domain(pod: &Pod, cluster_domain: &str) -> (String, String) {
    let spec = spec::spec(pod);
    let given = spec.hostname.clone().filter(|h| !h.is_empty());
    let mut hostname = given.unwrap_or_else(|| spec::name(pod).to_owned());
    if hostname.len() > HOSTNAME_LEN_MAX {
        hostname.truncate(HOSTNAME_LEN_MAX);
        hostname.truncate(hostname.trim_end_matches(['-', '.']).len());
    }
    let domain = match spec.subdomain.as_deref().filter(|s| !s.is_empty()) {
        Some(subdomain) => format!("{subdomain}.{}.svc.{cluster_domain}", spec::namespace(pod)),
        None => String::new(),
    };
    (hostname, domain)
}

/// The name the kernel gets: the FQDN where the pod asks for it. The error is upstream's text.
pub fn kernel_hostname(pod: &Pod, cluster_domain: &str) -> Result<String, String> {
    let spec = spec::spec(pod);
    if let Some(name) = spec.hostname_override.clone().filter(|h| !h.is_empty()) {
        return Ok(name);
    }
    let (hostname, domain) = hostname_and_domain(pod, cluster_domain);
    if spec.set_hostname_as_fqdn != Some(true) || domain.is_empty() {
        return Ok(hostname);
    }
    let fqdn = format!("{hostname}.{domain}");
    if fqdn.len() > NODENAME_LEN_MAX {
        return Err(format!(
            "failed to construct FQDN from pod hostname and cluster domain, FQDN {fqdn} is too long \
             ({NODENAME_LEN_MAX} characters is the max, {} characters requested)",
            fqdn.len()
        ));
    }
    Ok(fqdn)
}

const HOSTS_HEADER: &str = "# Kubernetes-managed hosts file.\n";
const HOSTS_HEADER_HOST: &str = "# Kubernetes-managed hosts file (host network).\n";

/// The pod's `/etc/hosts`. `host_file` is the machine's own, for pods on its network.
pub fn hosts_file(pod: &Pod, status: &PodStatus, cluster_domain: &str, host_file: &str) -> String {
    let aliases = host_aliases(pod);
    if spec::is_host_network(pod) {
        return format!("{HOSTS_HEADER_HOST}{host_file}{aliases}");
    }
    let (hostname, domain) = hostname_and_domain(pod, cluster_domain);
    let mut text = String::from(HOSTS_HEADER);
    for (ip, names) in [
        ("127.0.0.1", "localhost"),
        ("::1", "localhost ip6-localhost ip6-loopback"),
        ("fe00::0", "ip6-localnet"),
        ("fe00::0", "ip6-mcastprefix"),
        ("fe00::1", "ip6-allnodes"),
        ("fe00::2", "ip6-allrouters"),
    ] {
        text.push_str(&format!("{ip}\t{names}\n"));
    }
    for ip in status.pod_ips.iter().flatten() {
        if domain.is_empty() {
            text.push_str(&format!("{}\t{hostname}\n", ip.ip));
        } else {
            text.push_str(&format!("{}\t{hostname}.{domain}\t{hostname}\n", ip.ip));
        }
    }
    text + &aliases
}

fn host_aliases(pod: &Pod) -> String {
    let spec = spec::spec(pod);
    let aliases = spec.host_aliases.as_deref().unwrap_or_default();
    if aliases.is_empty() {
        return String::new();
    }
    let mut text = String::from("\n# Entries added by HostAliases.\n");
    for alias in aliases {
        let names = alias.hostnames.as_deref().unwrap_or_default().join("\t");
        text.push_str(&format!("{}\t{names}\n", alias.ip));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn cluster() -> ClusterDns {
        ClusterDns {
            servers: vec!["10.96.0.10".into()],
            domain: "cluster.local".into(),
            host: parse_resolv_conf("nameserver 1.1.1.1\nsearch lan.\noptions ndots:2\n"),
        }
    }

    fn pod(spec: Value) -> Pod {
        let mut spec = spec;
        spec["containers"] = json!([]);
        serde_json::from_value(json!({"metadata": {"name": "web-0", "namespace": "n"}, "spec": spec}))
            .expect("ok")
    }

    fn check(spec: Value, servers: &str, searches: &str, options: &str) {
        let r = resolver(&pod(spec.clone()), &cluster());
        assert_eq!(
            (r.servers.join(" "), r.searches.join(" "), r.options.join(" ")),
            (servers.into(), searches.into(), options.into()),
            "{spec}"
        );
    }

    #[test]
    fn policies() {
        let all = "n.svc.cluster.local svc.cluster.local cluster.local lan";
        check(json!({}), "10.96.0.10", all, "ndots:5");
        check(json!({"hostNetwork": true}), "1.1.1.1", "lan", "ndots:2");
        check(
            json!({"hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"}),
            "10.96.0.10",
            all,
            "ndots:5",
        );
        check(json!({"dnsPolicy": "Default"}), "1.1.1.1", "lan", "ndots:2");
        check(
            json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["9.9.9.9"], "searches": ["a.b"],
                "options": [{"name": "ndots", "value": "1"}, {"name": "edns0"}]}}),
            "9.9.9.9",
            "a.b",
            "ndots:1 edns0",
        );
    }

    #[test]
    fn hosts_and_hostnames() {
        let p = pod(json!({"subdomain": "web", "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a", "b"]}]}));
        assert_eq!(kernel_hostname(&p, "cluster.local"), Ok("web-0".into()));
        let status: PodStatus = serde_json::from_value(json!({"podIPs": [{"ip": "10.0.0.7"}]})).expect("ok");
        let hosts = hosts_file(&p, &status, "cluster.local", "");
        assert!(hosts.contains("10.0.0.7\tweb-0.web.n.svc.cluster.local\tweb-0\n"), "{hosts}");
        assert!(hosts.ends_with("# Entries added by HostAliases.\n1.2.3.4\ta\tb\n"), "{hosts}");
        let fqdn = pod(json!({"subdomain": "web", "setHostnameAsFQDN": true}));
        assert_eq!(kernel_hostname(&fqdn, "cluster.local"), Ok("web-0.web.n.svc.cluster.local".into()));
    }
}
