//! What an agent remembers of its cluster between starts.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Result};
use crate::pki::files::{read_text, write_private, write_public};

/// The settings all machines of a cluster share; a server tells them to whoever holds a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    pub cluster_id: String,
    /// `https://address:port` of every API server.
    pub api_urls: Vec<String>,
    pub cluster_cidr: String,
    pub service_cidr: String,
    pub cluster_domain: String,
    pub dns_address: IpAddr,
}

/// The cluster, its authority's certificate (PEM), and the bootstrap token (`id.secret`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    pub ca: String,
    pub cluster: Cluster,
    pub bootstrap_token: String,
}

impl Memory {
    /// `None` where no agent has joined yet.
    pub fn load(data_dir: &Path) -> Result<Option<Self>> {
        let path = file(data_dir);
        if !path.exists() {
            return Ok(None);
        }
        serde_json::from_str(&read_text(&path)?).map(Some).map_err(|error| {
            Failure::new(format!("{}: {error}", path.display()))
                .mend("remove the file and start with --token again")
        })
    }

    pub fn save(&self, data_dir: &Path) -> Result<()> {
        write_private(&file(data_dir), &serde_json::to_vec_pretty(self)?)
    }

    /// Writes the authority's certificate for those that want a file.
    pub fn write_ca(&self, data_dir: &Path) -> Result<PathBuf> {
        let path = data_dir.join("ca.crt");
        write_public(&path, self.ca.as_bytes())?;
        Ok(path)
    }

    /// The API servers as socket addresses.
    pub fn addresses(&self) -> Result<Vec<SocketAddr>> {
        let parse = |url: &String| {
            let address = url.strip_prefix("https://").unwrap_or(url);
            address.parse().map_err(|_| Failure::new(format!("{url:?} is not https://address:port")))
        };
        self.cluster.api_urls.iter().map(parse).collect()
    }
}

fn file(data_dir: &Path) -> PathBuf {
    data_dir.join("cluster.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_remembers_its_cluster() {
        let dir = tempfile::tempdir().expect("a folder");
        assert_eq!(Memory::load(dir.path()).expect("nothing yet"), None);
        let memory = Memory {
            ca: "PEM".into(),
            cluster: Cluster {
                cluster_id: "c".into(),
                api_urls: vec!["https://10.0.0.1:6443".into(), "https://[fd00::1]:6443".into()],
                cluster_cidr: "10.244.0.0/16".into(),
                service_cidr: "10.96.0.0/16".into(),
                cluster_domain: "cluster.local".into(),
                dns_address: "10.96.0.10".parse().expect("an address"),
            },
            bootstrap_token: "a.b".into(),
        };
        memory.save(dir.path()).expect("saved");
        assert_eq!(Memory::load(dir.path()).expect("remembered"), Some(memory.clone()));
        let addresses: Vec<String> =
            memory.addresses().expect("addresses").iter().map(SocketAddr::to_string).collect();
        assert_eq!(addresses, ["10.0.0.1:6443", "[fd00::1]:6443"]);
    }
}
