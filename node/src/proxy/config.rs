//! KubeProxyConfiguration: the fields that mean something here. Others are accepted and have no effect.

use serde::Deserialize;

/// The configuration file of upstream's kube-proxy.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Configuration {
    /// Must be `kubeproxy.config.k8s.io/v1alpha1`.
    pub api_version: String,
    /// Must be `KubeProxyConfiguration`.
    pub kind: String,
    /// How the API server is reached.
    pub client_connection: ClientConnection,
    /// This node's name.
    pub hostname_override: String,
    /// This node's address.
    pub bind_address: String,
    /// Where health checks are served; empty means the default.
    pub healthz_bind_address: Option<String>,
    /// Where metrics are served.
    pub metrics_bind_address: Option<String>,
    /// A taken address is fatal.
    pub bind_address_hard_fail: bool,
    /// Pod ranges, separated by commas.
    #[serde(rename = "clusterCIDR")]
    pub cluster_cidr: String,
    /// How local traffic is told.
    pub detect_local_mode: String,
    /// Names for `detectLocalMode`.
    pub detect_local: DetectLocal,
    /// Addresses for node ports: ranges, or `primary`.
    pub node_port_addresses: Vec<String>,
    /// Settings of nftables mode.
    pub nftables: NfTables,
    /// Limits on tracked connections.
    pub conntrack: Conntrack,
}

/// `conntrack`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Conntrack {
    /// Tracked connections a processor.
    pub max_per_core: Option<u32>,
    /// Tracked connections in all, at least.
    pub min: Option<u32>,
    /// Idle established TCP connections.
    pub tcp_established_timeout: Option<String>,
    /// Half-closed TCP connections.
    pub tcp_close_wait_timeout: Option<String>,
    /// Track TCP packets outside of the window.
    pub tcp_be_liberal: bool,
    /// UDP flows without answer.
    pub udp_timeout: Option<String>,
    /// UDP flows with answers.
    pub udp_stream_timeout: Option<String>,
}

/// `clientConnection`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientConnection {
    /// Path of the kubeconfig file.
    pub kubeconfig: String,
}

/// `detectLocal`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct DetectLocal {
    /// For mode BridgeInterface.
    pub bridge_interface: String,
    /// For mode InterfaceNamePrefix.
    pub interface_name_prefix: String,
}

/// `nftables`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct NfTables {
    /// Bit of the packet mark.
    pub masquerade_bit: Option<u8>,
    /// Masquerade everything.
    pub masquerade_all: bool,
    /// Shortest time between two writes.
    pub min_sync_period: Option<String>,
    /// How often the table is checked.
    pub sync_period: Option<String>,
}

/// Why a configuration file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It is not YAML of this shape.
    #[error("cannot read the configuration: {0}")]
    Parse(#[from] serde_yaml_ng::Error),
    /// It is some other kind of file.
    #[error(
        "expected kind KubeProxyConfiguration of kubeproxy.config.k8s.io/v1alpha1, found {kind:?} of {version:?}"
    )]
    Kind {
        /// Its kind.
        kind: String,
        /// Its version.
        version: String,
    },
}

impl Configuration {
    /// Reads a file's text.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let read: Self = serde_yaml_ng::from_str(text)?;
        if read.kind != "KubeProxyConfiguration" || read.api_version != "kubeproxy.config.k8s.io/v1alpha1" {
            return Err(ConfigError::Kind { kind: read.kind, version: read.api_version });
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_that_matter_are_read_and_others_ignored() {
        let text = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: nftables\n\
            clusterCIDR: 10.1.0.0/16\nclientConnection: {kubeconfig: /k, qps: 5}\nconntrack: {min: 1}\n\
            nftables: {masqueradeBit: 3, minSyncPeriod: 2s}\n";
        let read = Configuration::parse(text).expect("a configuration");
        assert_eq!(
            (read.cluster_cidr.as_str(), read.client_connection.kubeconfig.as_str()),
            ("10.1.0.0/16", "/k")
        );
        assert_eq!(
            (read.nftables.masquerade_bit, read.nftables.min_sync_period.as_deref()),
            (Some(3), Some("2s"))
        );
        assert!(matches!(Configuration::parse("kind: Pod"), Err(ConfigError::Kind { .. })));
        assert!(matches!(Configuration::parse("{"), Err(ConfigError::Parse(_))));
    }
}
