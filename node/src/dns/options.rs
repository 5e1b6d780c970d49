//! How the DNS server is set up.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

use kube::Client;
use tokio::sync::watch;

use crate::network::{
    feed::{Kind, Subscription},
    nft::Nft,
};

/// The kinds that DNS reads.
pub const NEEDS: &[Kind] = &[Kind::Service, Kind::Slice, Kind::Namespace];

/// How the DNS server is set up; [`Options::new`] gives the defaults.
pub struct Options {
    /// Reaches the API server.
    pub client: Client,
    /// Shared watches; `None` opens watches of its own.
    pub feed: Option<Subscription>,
    /// Addresses to answer at: the cluster DNS address, one a family.
    pub listen_ips: Vec<IpAddr>,
    /// Port to answer at.
    pub port: u16,
    /// Put the addresses on the loopback interface and take them out of connection tracking.
    pub manage_addresses: bool,
    /// The cluster's domain, without dots at its ends.
    pub cluster_domain: String,
    /// Seconds that clients may keep an answer about the cluster.
    pub ttl_secs: u32,
    /// Upstream servers; empty means those of `resolv_conf`.
    pub upstreams: Vec<SocketAddr>,
    /// Where upstream servers are listed.
    pub resolv_conf: PathBuf,
    /// Domains with servers of their own.
    pub stub_domains: Vec<(String, Vec<SocketAddr>)>,
    /// Where `/ready`, `/health` and `/metrics` are served.
    pub http_bind: Option<SocketAddr>,
    /// Becomes true once every object of the API is known.
    pub ready: Arc<watch::Sender<bool>>,
    /// Runs packet filter scripts.
    pub nft: Nft,
}

/// Which servers are asked about names outside the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outside {
    /// For everything; empty means those of the machine's `resolv.conf`.
    pub upstreams: Vec<SocketAddr>,
    /// For domains with servers of their own.
    pub stub_domains: Vec<(String, Vec<SocketAddr>)>,
}

/// A name server as people write it is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no name server; expected {1}, such as {2}")]
pub struct OutsideError(String, &'static str, &'static str);

impl Outside {
    /// From `10.0.0.53` or `10.0.0.53:5353` for everything, `corp.example=10.0.0.53` for a domain; a domain with several
    /// servers is named several times.
    pub fn parse(upstreams: &[String], stubs: &[String]) -> Result<Self, OutsideError> {
        let mut outside = Self::default();
        for text in upstreams {
            let wrong = || OutsideError(text.clone(), "ADDRESS[:PORT]", "10.0.0.53");
            outside.upstreams.push(server(text).ok_or_else(wrong)?);
        }
        for text in stubs {
            let wrong = || OutsideError(text.clone(), "DOMAIN=ADDRESS[:PORT]", "corp.example=10.0.0.53");
            let (domain, address) = text.split_once('=').ok_or_else(wrong)?;
            let address = server(address).ok_or_else(wrong)?;
            let domain = domain.trim().trim_matches('.').to_lowercase();
            if domain.is_empty() {
                return Err(wrong());
            }
            match outside.stub_domains.iter_mut().find(|(known, _)| *known == domain) {
                Some((_, servers)) => servers.push(address),
                None => outside.stub_domains.push((domain, vec![address])),
            }
        }
        Ok(outside)
    }
}

fn server(text: &str) -> Option<SocketAddr> {
    let text = text.trim();
    text.parse().ok().or_else(|| Some(SocketAddr::new(text.parse().ok()?, 53)))
}

impl Options {
    /// Defaults for a cluster whose DNS address is the first of `listen_ips`.
    pub fn new(client: Client, listen_ips: Vec<IpAddr>) -> Self {
        Self {
            client,
            feed: None,
            listen_ips,
            port: 53,
            manage_addresses: true,
            cluster_domain: "cluster.local".to_owned(),
            ttl_secs: 5,
            upstreams: Vec::new(),
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            stub_domains: Vec::new(),
            http_bind: None,
            ready: Arc::new(watch::Sender::new(false)),
            nft: Nft::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(upstreams: &[&str], stubs: &[&str], expected: Result<(usize, &str), &str>) {
        let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let got = Outside::parse(&owned(upstreams), &owned(stubs));
        let got = got.map(|o| (o.upstreams.len(), format!("{:?}", o.stub_domains)));
        assert_eq!(
            got.map_err(|e| e.to_string()),
            expected.map(|(n, text)| (n, text.to_owned())).map_err(str::to_owned)
        );
    }

    #[test]
    fn servers_are_read_and_grouped_by_domain() {
        check(&[], &[], Ok((0, "[]")));
        check(&["10.0.0.1", "[fd00::1]:5353"], &[], Ok((2, "[]")));
        let stubs = ["Corp.Example.=10.0.0.1", "a=fd00::1", "corp.example=10.0.0.2:54"];
        let grouped = r#"[("corp.example", [10.0.0.1:53, 10.0.0.2:54]), ("a", [[fd00::1]:53])]"#;
        check(&[], &stubs, Ok((0, grouped)));
        let wrong = |text: &str| {
            format!(
                "{text:?} is no name server; expected DOMAIN=ADDRESS[:PORT], such as corp.example=10.0.0.53"
            )
        };
        for text in ["corp.example", "corp.example=dns", "=10.0.0.1"] {
            check(&[], &[text], Err(&wrong(text)));
        }
        let text = "\"x\" is no name server; expected ADDRESS[:PORT], such as 10.0.0.53";
        check(&["x"], &[], Err(text));
    }
}
