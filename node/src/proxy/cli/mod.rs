//! The command line of kube-proxy.

mod compatibility;
mod values;

use std::{ffi::OsString, net::IpAddr, path::PathBuf, time::Duration};

use clap::{Args as _, FromArgMatches};
use ipnet::IpNet;
use kube::{Client, Config, config::Kubeconfig};
use tokio_util::sync::CancellationToken;

use self::values::{bind, go_duration, parse};
pub use self::{compatibility::Compatibility, values::CliError};
use super::{
    Limits, NodePortAddresses, Options, cleanup, config::Configuration, rules::LocalDetector,
    run as run_proxy,
};

/// Flags of the service proxy.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Configuration file (KubeProxyConfiguration); flags that it covers are then ignored.
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// Kubeconfig file.
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,
    /// Address of the API server, overriding the kubeconfig file's.
    #[arg(long)]
    pub master: Option<String>,
    /// Name of this node; the host name when absent.
    #[arg(long)]
    pub hostname_override: Option<String>,
    /// This node's address.
    #[arg(long)]
    pub bind_address: Option<IpAddr>,
    /// Pod ranges of the cluster, one or a dual-stack pair.
    #[arg(long, value_delimiter = ',')]
    pub cluster_cidr: Vec<IpNet>,
    /// How local traffic is told: ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix.
    #[arg(long)]
    pub detect_local_mode: Option<String>,
    /// Bridge for --detect-local-mode=BridgeInterface.
    #[arg(long)]
    pub pod_bridge_interface: Option<String>,
    /// Prefix for --detect-local-mode=InterfaceNamePrefix.
    #[arg(long)]
    pub pod_interface_name_prefix: Option<String>,
    /// Where health checks are served; empty turns them off.
    #[arg(long, default_value = "0.0.0.0:10256")]
    pub healthz_bind_address: String,
    /// Where metrics are served; empty turns them off.
    #[arg(long, default_value = "127.0.0.1:10249")]
    pub metrics_bind_address: String,
    /// Treat a taken address as fatal.
    #[arg(long, num_args = 0..=1, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub bind_address_hard_fail: bool,
    /// Addresses for node ports: ranges, or `primary`.
    #[arg(long, value_delimiter = ',')]
    pub nodeport_addresses: Vec<String>,
    /// Masquerade all traffic to cluster addresses.
    #[arg(long, num_args = 0..=1, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub masquerade_all: bool,
    /// Bit of the packet mark for masquerading.
    #[arg(long, default_value_t = 14, value_parser = clap::value_parser!(u8).range(0..32))]
    pub iptables_masquerade_bit: u8,
    /// Enforce network policies on this node.
    #[arg(long, num_args = 0..=1, default_value_t = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub network_policies: bool,
    /// Remove all rules and exit.
    #[arg(long, num_args = 0..=1, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub cleanup: bool,
    /// Tracked connections a processor; 0 leaves the kernel's limit.
    #[arg(long, default_value_t = Limits::default().max_per_core)]
    pub conntrack_max_per_core: u32,
    /// Tracked connections in all, at least.
    #[arg(long, default_value_t = Limits::default().min)]
    pub conntrack_min: u32,
    /// How long idle established TCP connections are tracked; 0s leaves the kernel's value.
    #[arg(long, default_value = "24h")]
    pub conntrack_tcp_timeout_established: String,
    /// How long half-closed TCP connections are tracked; 0s leaves the kernel's value.
    #[arg(long, default_value = "1h")]
    pub conntrack_tcp_timeout_close_wait: String,
    /// Track TCP packets outside of the window.
    #[arg(long, num_args = 0..=1, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub conntrack_tcp_be_liberal: bool,
    /// How long UDP flows without answer are tracked; 0s leaves the kernel's value.
    #[arg(long, default_value = "0s")]
    pub conntrack_udp_timeout: String,
    /// How long UDP flows with answers are tracked; 0s leaves the kernel's value.
    #[arg(long, default_value = "0s")]
    pub conntrack_udp_timeout_stream: String,
    /// Accepted for compatibility; rules are always nftables.
    #[arg(long, default_value = "nftables")]
    pub proxy_mode: String,
    /// Flags without effect.
    #[command(flatten)]
    pub compatibility: Compatibility,
}

impl Args {
    /// Parses flags such as `--cluster-cidr=10.0.0.0/8`, without a program name in front.
    pub fn from_flags<I, S>(flags: I) -> Result<Self, clap::Error>
    where
        I: IntoIterator<Item = S>,
        S: Into<OsString> + Clone,
    {
        let command = Self::augment_args(clap::Command::new("proxy")).no_binary_name(true);
        Self::from_arg_matches(&command.try_get_matches_from(flags)?)
    }

    /// Lets a configuration file speak for the flags that it covers.
    fn apply(&mut self, file: Configuration) -> Result<(Option<Duration>, Option<Duration>), CliError> {
        let set = |to: &mut Option<String>, from: String| {
            if !from.is_empty() {
                *to = Some(from);
            }
        };
        set(&mut self.hostname_override, file.hostname_override);
        set(&mut self.detect_local_mode, file.detect_local_mode);
        set(&mut self.pod_bridge_interface, file.detect_local.bridge_interface);
        set(&mut self.pod_interface_name_prefix, file.detect_local.interface_name_prefix);
        if !file.client_connection.kubeconfig.is_empty() {
            self.kubeconfig = Some(file.client_connection.kubeconfig.into());
        }
        if !file.bind_address.is_empty() {
            self.bind_address = Some(parse("bindAddress", &file.bind_address)?);
        }
        self.healthz_bind_address =
            file.healthz_bind_address.unwrap_or_else(|| self.healthz_bind_address.clone());
        self.metrics_bind_address =
            file.metrics_bind_address.unwrap_or_else(|| self.metrics_bind_address.clone());
        self.bind_address_hard_fail |= file.bind_address_hard_fail;
        self.masquerade_all |= file.nftables.masquerade_all;
        self.iptables_masquerade_bit = file.nftables.masquerade_bit.unwrap_or(self.iptables_masquerade_bit);
        let limits = file.conntrack;
        self.conntrack_max_per_core = limits.max_per_core.unwrap_or(self.conntrack_max_per_core);
        self.conntrack_min = limits.min.unwrap_or(self.conntrack_min);
        self.conntrack_tcp_be_liberal |= limits.tcp_be_liberal;
        for (flag, value) in [
            (&mut self.conntrack_tcp_timeout_established, limits.tcp_established_timeout),
            (&mut self.conntrack_tcp_timeout_close_wait, limits.tcp_close_wait_timeout),
            (&mut self.conntrack_udp_timeout, limits.udp_timeout),
            (&mut self.conntrack_udp_timeout_stream, limits.udp_stream_timeout),
        ] {
            *flag = value.unwrap_or_else(|| std::mem::take(flag));
        }
        if !file.node_port_addresses.is_empty() {
            self.nodeport_addresses = file.node_port_addresses;
        }
        if !file.cluster_cidr.is_empty() {
            let parts = file.cluster_cidr.split(',').map(|cidr| parse("clusterCIDR", cidr.trim()));
            self.cluster_cidr = parts.collect::<Result<_, _>>()?;
        }
        let min = file.nftables.min_sync_period.as_deref().map(|text| go_duration("minSyncPeriod", text));
        let period = file.nftables.sync_period.as_deref().map(|text| go_duration("syncPeriod", text));
        Ok((min.transpose()?, period.transpose()?.filter(|period| !period.is_zero())))
    }

    fn local(&self) -> Result<Option<LocalDetector>, CliError> {
        let name = |flag: &'static str, value: &Option<String>| {
            let missing =
                || CliError::Value { name: flag, value: String::new(), reason: "a name is needed".into() };
            value.clone().ok_or_else(missing)
        };
        Ok(match self.detect_local_mode.as_deref() {
            None | Some("" | "ClusterCIDR" | "NodeCIDR") => None,
            Some("BridgeInterface") => {
                Some(LocalDetector::Bridge(name("--pod-bridge-interface", &self.pod_bridge_interface)?))
            }
            Some("InterfaceNamePrefix") => {
                let prefix = name("--pod-interface-name-prefix", &self.pod_interface_name_prefix)?;
                Some(LocalDetector::InterfacePrefix(prefix))
            }
            Some(other) => {
                return Err(CliError::Value {
                    name: "--detect-local-mode",
                    value: other.to_owned(),
                    reason: "expected ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix".into(),
                });
            }
        })
    }

    fn node_ports(&self) -> Result<NodePortAddresses, CliError> {
        match self.nodeport_addresses.as_slice() {
            [] => Ok(NodePortAddresses::Primary),
            [one] if one == "primary" => Ok(NodePortAddresses::Primary),
            ranges => {
                let ranges: Vec<IpNet> = ranges
                    .iter()
                    .map(|range| parse("--nodeport-addresses", range))
                    .collect::<Result<_, _>>()?;
                // A zero range names everything: no set of addresses is needed.
                let all = ranges.iter().any(|range| range.prefix_len() == 0);
                Ok(if all { NodePortAddresses::All } else { NodePortAddresses::Within(ranges) })
            }
        }
    }

    fn limits(&self) -> Result<Limits, CliError> {
        Ok(Limits {
            max_per_core: self.conntrack_max_per_core,
            min: self.conntrack_min,
            tcp_established: go_duration(
                "--conntrack-tcp-timeout-established",
                &self.conntrack_tcp_timeout_established,
            )?,
            tcp_close_wait: go_duration(
                "--conntrack-tcp-timeout-close-wait",
                &self.conntrack_tcp_timeout_close_wait,
            )?,
            tcp_be_liberal: self.conntrack_tcp_be_liberal,
            udp: go_duration("--conntrack-udp-timeout", &self.conntrack_udp_timeout)?,
            udp_stream: go_duration("--conntrack-udp-timeout-stream", &self.conntrack_udp_timeout_stream)?,
        })
    }

    fn options(&self, client: Client, node_name: String) -> Result<Options, CliError> {
        let mut options = Options::new(client, node_name);
        options.node_ips = self.bind_address.into_iter().filter(|ip| !ip.is_unspecified()).collect();
        options.local = self.local()?;
        if self.detect_local_mode.as_deref() != Some("NodeCIDR") {
            options.cluster_cidrs.clone_from(&self.cluster_cidr);
        }
        options.healthz_bind = bind("--healthz-bind-address", &self.healthz_bind_address)?;
        options.metrics_bind = bind("--metrics-bind-address", &self.metrics_bind_address)?;
        options.bind_hard_fail = self.bind_address_hard_fail;
        options.node_port_addresses = self.node_ports()?;
        options.masquerade_all = self.masquerade_all;
        options.masquerade_bit = self.iptables_masquerade_bit;
        options.policies = self.network_policies;
        options.conntrack = Some(self.limits()?);
        Ok(options)
    }
}

async fn client(args: &Args) -> Result<Client, Box<dyn std::error::Error + Send + Sync>> {
    let mut config = match &args.kubeconfig {
        Some(path) => {
            Config::from_custom_kubeconfig(Kubeconfig::read_from(path)?, &Default::default()).await?
        }
        None => match &args.master {
            Some(master) => Config::new(master.parse()?),
            None => Config::incluster()?,
        },
    };
    if let Some(master) = &args.master {
        config.cluster_url = master.parse()?;
    }
    // Watches are idle for minutes; a read limit would cut them.
    config.read_timeout = None;
    // The library would hide refusals for minutes behind attempts of its own: the watches try again by themselves, and have
    // to hear that their revision is not one of the server's.
    config.default_retry = false;
    Ok(Client::try_from(config)?)
}

/// Runs the proxy as `quarterdeck proxy` does.
pub async fn run(
    mut args: Args,
    shutdown: CancellationToken,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    if args.cleanup {
        return Ok(cleanup(&Default::default()).await?);
    }
    let mut periods = (None, None);
    if let Some(path) = args.config.clone() {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| CliError::Config {
            path: path.clone(),
            source,
        };
        let text = tokio::fs::read_to_string(&path).await.map_err(|error| failed(error.into()))?;
        let file = Configuration::parse(&text).map_err(|error| failed(error.into()))?;
        periods = args.apply(file)?;
    }
    let host = || nix::unistd::gethostname().map_err(|error| CliError::Hostname(error.to_string()));
    let node_name = match args.hostname_override.clone().filter(|name| !name.is_empty()) {
        Some(name) => name.trim().to_lowercase(),
        None => host()?.to_string_lossy().trim().to_lowercase(),
    };
    let mut options = args.options(client(&args).await?, node_name)?;
    options.min_sync = periods.0.unwrap_or(options.min_sync);
    options.sync_period = periods.1.unwrap_or(options.sync_period);
    Ok(run_proxy(options, shutdown).await?)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Service;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_refusal_is_heard_at_once() {
        let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let master = format!("--master=http://{}", server.local_addr().expect("an address"));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = server.accept().await {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let answer = "HTTP/1.1 504 Gateway Timeout\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        let client = client(&Args::from_flags([master.as_str()]).expect("flags")).await.expect("a client");
        let services = kube::Api::<Service>::all(client);
        let all = Default::default();
        let refused = tokio::time::timeout(std::time::Duration::from_secs(10), services.list(&all)).await;
        let error = refused.expect("without attempts that nobody sees").expect_err("refused");
        assert!(matches!(&error, kube::Error::Api(status) if status.code == 504), "{error}");
    }

    #[test]
    fn upstream_command_lines_are_understood() {
        let flags = [
            "--kubeconfig=/k",
            "--cluster-cidr=10.1.0.0/16,fd00::/56",
            "--v=2",
            "--proxy-mode=iptables",
            "--masquerade-all",
            "--healthz-bind-address=",
            "--nodeport-addresses=10.0.0.0/8",
            "--conntrack-min=0",
        ];
        let args = Args::from_flags(flags).expect("flags");
        assert_eq!(args.cluster_cidr.len(), 2);
        assert!(args.masquerade_all && args.network_policies);
        assert_eq!(bind("x", &args.healthz_bind_address).expect("off"), None);
        assert!(matches!(args.node_ports(), Ok(NodePortAddresses::Within(ranges)) if ranges.len() == 1));
        assert!(Args::from_flags(["--cluster-cidr=nonsense"]).is_err());
        assert!(Args::from_flags(["--no-such-flag"]).is_err());
    }

    #[test]
    fn a_configuration_file_wins_over_flags() {
        let mut args =
            Args::from_flags(["--hostname-override=a", "--detect-local-mode=Bogus"]).expect("flags");
        assert!(args.local().is_err());
        let file = Configuration {
            hostname_override: "b".into(),
            cluster_cidr: "10.2.0.0/16".into(),
            detect_local_mode: "ClusterCIDR".into(),
            ..Configuration::default()
        };
        args.apply(file).expect("a good file");
        assert_eq!(args.hostname_override.as_deref(), Some("b"));
        assert_eq!((args.cluster_cidr.len(), args.local().expect("a mode")), (1, None));
    }
}
