//! The flags of `quarterdeck agent`.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::Args;

/// Runs one node: pods, service proxy, pod network and cluster DNS.
///
/// The first start needs a token (`quarterdeck token create` on a server); later starts use the node's own
/// certificate, which renews itself. The agent knows all servers and goes to another by itself within seconds when the
/// one it uses dies, hangs or is cut off. Stopping or restarting it leaves pods running.
#[derive(Args, Clone, Debug)]
pub struct AgentOptions {
    /// A file with values for these flags: a YAML map of flag names to values.
    #[arg(long, env = "QUARTERDECK_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The token with which this machine joins.
    #[arg(long, env = "QUARTERDECK_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// The node's name; by default the machine's.
    #[arg(long, env = "QUARTERDECK_NAME")]
    pub name: Option<String>,
    /// Where certificates, volumes and the runtime's state live.
    #[arg(long, env = "QUARTERDECK_DATA_DIR", default_value = "/var/lib/quarterdeck/agent")]
    pub data_dir: PathBuf,
    /// The address the node is known by; by default that of the default route.
    #[arg(long, env = "QUARTERDECK_NODE_IP")]
    pub node_ip: Option<IpAddr>,
    /// A CRI v1 runtime; by default the agent starts a containerd of its own.
    #[arg(long, env = "QUARTERDECK_CONTAINER_RUNTIME_ENDPOINT")]
    pub container_runtime_endpoint: Option<String>,
    /// Labels for the node, as key=value.
    #[arg(long = "node-label", env = "QUARTERDECK_NODE_LABEL", value_delimiter = ',')]
    pub node_labels: Vec<String>,
    /// Taints the node registers with, as key=value:effect.
    #[arg(long = "node-taint", env = "QUARTERDECK_NODE_TAINT", value_delimiter = ',')]
    pub node_taints: Vec<String>,
    /// Signals at which pods are evicted, as kubelet's --eviction-hard (nodefs.available<10%, …).
    #[arg(long, env = "QUARTERDECK_EVICTION_HARD", value_delimiter = ',')]
    pub eviction_hard: Vec<String>,
    /// How many pods the node takes.
    #[arg(long, env = "QUARTERDECK_MAX_PODS", default_value_t = 110)]
    pub max_pods: u32,
    /// Domains with name servers of their own, as domain=address[:port]; a domain may be named several times.
    #[arg(long = "dns-stub-domain", env = "QUARTERDECK_DNS_STUB_DOMAIN", value_delimiter = ',')]
    pub dns_stub_domains: Vec<String>,
    /// Name servers, as address[:port], for everything else that is not in the cluster; by default the machine's.
    #[arg(long = "dns-upstream", env = "QUARTERDECK_DNS_UPSTREAM", value_delimiter = ',')]
    pub dns_upstreams: Vec<String>,
    /// A flag for the kubelet in this agent, as name=value (container-log-max-size=20Mi); it wins over the agent's own.
    #[arg(long = "kubelet-arg", env = "QUARTERDECK_KUBELET_ARG", value_name = "NAME=VALUE")]
    pub kubelet_args: Vec<String>,
    /// Where this machine's programs reach the API (a relay to whichever server is alive).
    #[arg(long, env = "QUARTERDECK_RELAY_PORT", default_value_t = 6445)]
    pub relay_port: u16,
    /// Run this many nodes without a container runtime in this process, for scale tests and machines without root.
    #[arg(long, env = "QUARTERDECK_HOLLOW_NODES")]
    pub hollow_nodes: Option<usize>,
    /// The administrator's kubeconfig with which hollow nodes act.
    #[arg(long, env = "QUARTERDECK_HOLLOW_KUBECONFIG")]
    pub hollow_kubeconfig: Option<PathBuf>,
    /// When stopped, remove every pod, mount, interface and rule that the agent made, and stop the runtime it started.
    /// Without it pods keep running while the agent is away.
    #[arg(long, env = "QUARTERDECK_TEARDOWN")]
    pub teardown: bool,
}
