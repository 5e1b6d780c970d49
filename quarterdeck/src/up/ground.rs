//! What this machine lets us do, and the addresses the servers get on it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::UpOptions;
use crate::failure::{At, Failure, Result};
use crate::preflight::{kernel, machine};

/// The interface that carries the servers' addresses: each has its own, as on three machines.
const INTERFACE: &str = "quarterdeck0";
/// A range that no default of Kubernetes or of home routers uses; the servers are .1 to .5, the node is .100.
const NETWORK: [u8; 3] = [10, 89, 223];
const NODE_HOST: u8 = 100;
/// The default range of services, and one of its addresses.
const SERVICES: &str = "10.96.0.0/16";
const SERVICES_PROBE: &str = "10.96.0.1";
/// Without root: loopback addresses, which need no interface.
const LOOPBACK: [u8; 3] = [127, 89, 223];
const HOLLOW_NODES: usize = 3;

/// The survey's result.
pub struct Ground {
    pub data_dir: PathBuf,
    pub addresses: Vec<IpAddr>,
    pub node_address: Option<IpAddr>,
    /// How many hollow nodes, where no real one can run or hollow ones were asked for.
    pub hollow: Option<usize>,
    /// Where kubectl and hollow nodes reach whichever server is alive. On loopback, so that it fails at once after the end,
    /// when packets to the servers' own addresses would leave through the default route.
    pub relay: SocketAddr,
    /// What the person should know.
    pub remarks: Vec<String>,
    owns_interface: bool,
}

impl Ground {
    /// Looks; changes nothing.
    pub fn survey(options: &UpOptions) -> Result<Self> {
        let mut remarks = Vec::new();
        let hollow = match options.hollow_nodes {
            Some(count) => Some(count.max(1)),
            None => {
                let lacks = kernel::lacks(true);
                (!lacks.is_empty()).then(|| {
                    remarks.push(format!("No containers here: {}.", lacks.join("; ")));
                    remarks.push(format!("The control plane runs with {HOLLOW_NODES} hollow nodes instead."));
                    HOLLOW_NODES
                })
            }
        };
        let owns_interface = hollow.is_none();
        let network = if owns_interface { NETWORK } else { LOOPBACK };
        let address = |host: u8| IpAddr::V4(Ipv4Addr::new(network[0], network[1], network[2], host));
        let data_dir = std::path::absolute(&options.data_dir).at("find", &options.data_dir)?;
        Ok(Ground {
            data_dir,
            addresses: (1..=options.servers as u8).map(address).collect(),
            node_address: owns_interface.then(|| address(NODE_HOST)),
            hollow,
            relay: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), options.port),
            remarks,
            owns_interface,
        })
    }

    /// What can be known to fail: size, and ports that something else has.
    pub fn check(&self) -> Result<()> {
        machine::is_fit(&self.data_dir, machine::UP_MEMORY_MIN_MIB)?;
        machine::ports_are_free(&[("kubectl", self.relay)])?;
        if self.owns_interface && has_interface() {
            // Left by a run that was killed, or that of a cluster that runs: then its ports are taken.
            machine::ports_are_free(&[("API", SocketAddr::new(self.addresses[0], 6443))])
        } else {
            Ok(())
        }
    }

    /// Makes the folder, and the interface with its addresses. Doing it twice changes nothing.
    pub fn prepare(&self) -> Result<()> {
        std::fs::create_dir_all(&self.data_dir).at("create", &self.data_dir)?;
        if !self.owns_interface {
            return Ok(());
        }
        if !has_interface() {
            // A bridge without ports: unlike a dummy interface, every kernel that runs pods has it.
            ip(&["link", "add", INTERFACE, "type", "bridge"])?;
        }
        ip(&["link", "set", INTERFACE, "up"])?;
        for address in self.addresses.iter().chain(&self.node_address) {
            ip(&["address", "replace", &format!("{address}/32"), "dev", INTERFACE])?;
        }
        // The kernel looks for a route before the service rules see a packet; a machine without a network has none.
        if ip(&["route", "get", SERVICES_PROBE]).is_err() {
            ip(&["route", "replace", SERVICES, "dev", INTERFACE])?;
        }
        Ok(())
    }

    /// Takes the interface away again; a failure leaves a harmless interface behind and is logged.
    pub fn release(&self) {
        if self.owns_interface
            && has_interface()
            && let Err(failure) = ip(&["link", "delete", INTERFACE])
        {
            tracing::warn!(%failure, "the interface stays");
        }
    }

    pub fn server_dir(&self, index: usize) -> PathBuf {
        self.data_dir.join(format!("server-{}", index + 1))
    }

    /// The administrator's, through the relay.
    pub fn kubeconfig(&self) -> PathBuf {
        self.data_dir.join("kubeconfig")
    }

    /// Removes the data of earlier runs.
    pub fn clean(&self) -> Result<()> {
        if has_interface() {
            return Err(Failure::new(
                "a cluster of this machine still runs (the interface quarterdeck0 exists)",
            )
            .mend("end it with Ctrl-C, or `ip link delete quarterdeck0` if it was killed, then try again"));
        }
        if !self.data_dir.exists() {
            return Ok(());
        }
        std::fs::remove_dir_all(&self.data_dir).at("remove", &self.data_dir)
    }
}

fn has_interface() -> bool {
    Path::new("/sys/class/net").join(INTERFACE).exists()
}

fn ip(args: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(args).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(Failure::new(format!("`ip {}`: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim())))
}
