//! The flags of `quarterdeck server`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::layout::State;
use crate::failure::{Failure, Result};
use crate::pki::{AUTHORITY_LIFE, ServerIdentity};

/// Runs one server: store member, API server, scheduler and controllers in one process.
///
/// The first server of a cluster is started with --init: it makes the certificate authority, the keys and a join token
/// (`quarterdeck token create` prints more). Every other server is started with --token, which is all it needs to know.
/// Later starts need neither: the data directory remembers. Three servers survive the loss of any one, five of any two.
///
/// SIGTERM stops in order: scheduler and controllers hand over at once, then the API drains, then the store.
#[derive(Args, Clone, Debug)]
pub struct ServerOptions {
    /// A file with values for these flags: a YAML map of flag names to values.
    #[arg(long, env = "QUARTERDECK_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Start a new cluster here.
    #[arg(long, env = "QUARTERDECK_INIT", conflicts_with = "token")]
    pub init: bool,
    /// Join the cluster that made this token (`quarterdeck token create --role server`).
    #[arg(long, env = "QUARTERDECK_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// This server's name; unique in the cluster.
    #[arg(long, env = "QUARTERDECK_NAME", default_value_t = default_name())]
    pub name: String,
    /// Where certificates, store and state live.
    #[arg(long, env = "QUARTERDECK_DATA_DIR", default_value = "/var/lib/quarterdeck/server")]
    pub data_dir: PathBuf,
    /// The address other machines reach this server at. By default the address of the default route.
    #[arg(long, env = "QUARTERDECK_ADVERTISE_ADDRESS")]
    pub advertise_address: Option<IpAddr>,
    /// The address to listen on; 0.0.0.0 for all.
    #[arg(long, env = "QUARTERDECK_BIND_ADDRESS")]
    pub bind_address: Option<IpAddr>,
    /// Kubernetes API, over TLS.
    #[arg(long, env = "QUARTERDECK_API_PORT", default_value_t = 6443)]
    pub api_port: u16,
    /// Where joining machines knock, over TLS.
    #[arg(long, env = "QUARTERDECK_JOIN_PORT", default_value_t = 6444)]
    pub join_port: u16,
    /// The store's etcd v3 API, over TLS with client certificates.
    #[arg(long, env = "QUARTERDECK_STORE_CLIENT_PORT", default_value_t = 2379)]
    pub store_client_port: u16,
    /// Store members among themselves, over TLS with client certificates.
    #[arg(long, env = "QUARTERDECK_STORE_PEER_PORT", default_value_t = 2380)]
    pub store_peer_port: u16,
    /// Further names or addresses for the API's certificate (a load balancer's).
    #[arg(long = "tls-san", env = "QUARTERDECK_TLS_SAN", value_delimiter = ',')]
    pub tls_sans: Vec<String>,
    /// Pod addresses; each node gets a part of it. Chosen with --init (10.244.0.0/16 unless given), then fixed.
    #[arg(long, env = "QUARTERDECK_CLUSTER_CIDR")]
    pub cluster_cidr: Option<String>,
    /// Service addresses. Chosen with --init (10.96.0.0/16 unless given), then fixed.
    #[arg(long, env = "QUARTERDECK_SERVICE_CIDR")]
    pub service_cidr: Option<String>,
    /// The domain of cluster DNS. Chosen with --init (cluster.local unless given), then fixed.
    #[arg(long, env = "QUARTERDECK_CLUSTER_DOMAIN")]
    pub cluster_domain: Option<String>,
    /// Store heartbeat, in milliseconds; the election time-out is six times it.
    #[arg(long, env = "QUARTERDECK_HEARTBEAT_INTERVAL_MS", default_value_t = 50)]
    pub heartbeat_interval_ms: u64,
    /// How long this server's certificates are good for, and those it signs for nodes; each is renewed when a third is left.
    #[arg(long, env = "QUARTERDECK_CERTIFICATE_LIFETIME", default_value = "8760h", value_parser = certificate_lifetime)]
    pub certificate_lifetime: Duration,
    /// Which controllers run, as kube-controller-manager's --controllers. By default those too that upstream leaves to cloud
    /// providers and installers: load balancers on node addresses, signing and cleaning of join tokens.
    #[arg(long, env = "QUARTERDECK_CONTROLLERS", value_delimiter = ',', default_value = CONTROLLERS)]
    pub controllers: Vec<String>,
}

const CONTROLLERS: &str = "*,service-lb-controller,bootstrap-signer-controller,token-cleaner-controller";
/// Shorter, and a certificate could end before every listener has read its successor.
const CERTIFICATE_LIFETIME_MIN: Duration = Duration::from_secs(30);

/// Reads `8760h` or `30m`.
fn certificate_lifetime(text: &str) -> std::result::Result<Duration, String> {
    let parsed: jiff::SignedDuration =
        text.parse().map_err(|error| format!("{error}; write it like 8760h"))?;
    let life = Duration::try_from(parsed).map_err(|error| error.to_string())?;
    if !(CERTIFICATE_LIFETIME_MIN..=AUTHORITY_LIFE).contains(&life) {
        return Err(format!(
            "between {} s and the authority's ten years is possible",
            CERTIFICATE_LIFETIME_MIN.as_secs()
        ));
    }
    Ok(life)
}

fn default_name() -> String {
    nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .unwrap_or_else(|| "server".to_owned())
}

impl ServerOptions {
    /// The address others use, found from the routing table when not given.
    pub fn advertised(&self) -> Result<IpAddr> {
        match self.advertise_address.or(self.bind_address.filter(|address| !address.is_unspecified())) {
            Some(address) => Ok(address),
            None => default_route_address().ok_or_else(|| {
                Failure::new("this machine has no default route, so its address is not known")
                    .mend("give --advertise-address")
            }),
        }
    }

    /// What the server listens on for `port`.
    pub fn listen(&self, port: u16) -> Result<SocketAddr> {
        Ok(SocketAddr::new(self.bind_address.map_or_else(|| self.advertised(), Ok)?, port))
    }

    /// Everything this server listens on, with a name for each.
    pub fn listeners(&self) -> Result<[(&'static str, SocketAddr); 4]> {
        Ok([
            ("API", self.listen(self.api_port)?),
            ("join", self.listen(self.join_port)?),
            ("store client", self.listen(self.store_client_port)?),
            ("store peer", self.listen(self.store_peer_port)?),
        ])
    }

    /// `https://ADVERTISED:PORT`
    pub fn url(&self, port: u16) -> Result<String> {
        Ok(format!("https://{}", SocketAddr::new(self.advertised()?, port)))
    }

    /// What a cluster is made with stays; a flag that says otherwise is refused.
    pub fn agree_with(&self, cluster_cidr: &str, service_cidr: &str, cluster_domain: &str) -> Result<()> {
        for (what, here, asked) in [
            ("--cluster-cidr", cluster_cidr, &self.cluster_cidr),
            ("--service-cidr", service_cidr, &self.service_cidr),
            ("--cluster-domain", cluster_domain, &self.cluster_domain),
        ] {
            if let Some(asked) = asked.as_ref().filter(|asked| *asked != here) {
                return Err(Failure::new(format!("{what} is {here} in this cluster, not {asked}"))
                    .mend("leave the flag out; what the cluster was made with cannot be changed later"));
            }
        }
        Ok(())
    }

    /// The names for this server's certificates, in the cluster of `state`.
    pub fn identity(&self, state: &State) -> Result<ServerIdentity> {
        Ok(ServerIdentity {
            name: self.name.clone(),
            addresses: vec![self.advertised()?],
            extra_names: self.tls_sans.clone(),
            service_address: nth_address(&state.service_cidr, 1)?,
            cluster_domain: state.cluster_domain.clone(),
            leaf_life: self.certificate_lifetime,
        })
    }
}

/// The source address of the default route, asked of the kernel by connecting a UDP socket (nothing is sent).
fn default_route_address() -> Option<IpAddr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    socket.local_addr().ok().map(|address| address.ip()).filter(|address| !address.is_unspecified())
}

/// The `n`th address of the first range of a comma-separated list.
pub fn nth_address(cidr: &str, n: u32) -> Result<IpAddr> {
    let wrong =
        || Failure::new(format!("{cidr:?} is not an address range")).mend("write it like 10.96.0.0/16");
    let first = cidr.split(',').next().unwrap_or_default().trim();
    let (address, length) = first.split_once('/').ok_or_else(wrong)?;
    let length: u32 = length.parse().map_err(|_| wrong())?;
    let too_small =
        || Failure::new(format!("{cidr:?} has too few addresses")).mend("give at least a /24 (or /120)");
    match address.parse().map_err(|_| wrong())? {
        IpAddr::V4(base) if length <= 32 => {
            if 32 - length < 5 {
                return Err(too_small());
            }
            let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
            Ok(IpAddr::V4(((u32::from(base) & mask) + n).into()))
        }
        IpAddr::V6(base) if length <= 128 => {
            if 128 - length < 5 {
                return Err(too_small());
            }
            let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
            Ok(IpAddr::V6(((u128::from(base) & mask) + u128::from(n)).into()))
        }
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nth_address_of_a_range() {
        for (cidr, n, expected) in [
            ("10.96.0.0/16", 1, Some("10.96.0.1")),
            ("10.96.3.7/16", 10, Some("10.96.0.10")),
            ("10.96.0.0/16,fd00::/112", 1, Some("10.96.0.1")),
            ("fd00::/112", 10, Some("fd00::a")),
            ("10.96.0.0/30", 1, None),
            ("10.96.0.0/33", 1, None),
            ("10.96.0.0", 1, None),
            ("x/8", 1, None),
        ] {
            let got = nth_address(cidr, n).ok().map(|address| address.to_string());
            assert_eq!(got.as_deref(), expected, "{cidr}");
        }
    }
}
