//! Removes UDP flows that the kernel still sends to endpoints that are gone.
//!
//! Address rewriting is decided by the first packet of a flow. A UDP client that keeps its port would talk to a dead
//! endpoint until the flow times out, so flows to a changed service whose answers would come from nobody that serves
//! it are deleted; the client's next packet is decided anew. TCP needs none of this: its connections end.

mod limits;
mod netlink;
mod wire;

use std::{net::SocketAddr, time::Duration};

use rustc_hash::{FxHashMap, FxHashSet};

use super::core::UdpFront;
use crate::network::view::Family;

pub use limits::Limits;
pub use wire::Flow;

/// Why flows could not be read or removed. The next change of the service tries again.
#[derive(Debug, thiserror::Error)]
pub enum ConntrackError {
    /// The netlink socket failed. Connection tracking needs CAP_NET_ADMIN.
    #[error("connection tracking over netlink failed to {doing}: {source}")]
    Socket {
        /// Step that failed.
        doing: &'static str,
        /// Cause.
        source: std::io::Error,
    },
    /// The kernel answered with an error.
    #[error("the kernel refused to {doing} connection tracking entries: errno {errno}")]
    Kernel {
        /// Step that failed.
        doing: &'static str,
        /// Error number.
        errno: i32,
    },
}

/// Answers take microseconds; a kernel that is silent for this long will not answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Deletes stale flows of the given services. Blocks; returns how many flows went.
pub fn clean(family: Family, fronts: &[UdpFront]) -> Result<usize, ConntrackError> {
    let stale = Stale::new(fronts.iter().filter(|front| front.family == family));
    if stale.is_empty() {
        return Ok(0);
    }
    let mut socket = netlink::Socket::open(ANSWER_TIMEOUT)?;
    let flows: Vec<Flow> = socket.dump(family)?.into_iter().filter(|flow| stale.covers(flow)).collect();
    let mut deleted = 0;
    for flow in &flows {
        deleted += usize::from(socket.delete(family, flow)?);
    }
    Ok(deleted)
}

/// Decides which flows are stale.
struct Stale<'a> {
    addresses: FxHashMap<SocketAddr, FxHashSet<SocketAddr>>,
    node_ports: FxHashMap<u16, &'a [SocketAddr]>,
}

impl<'a> Stale<'a> {
    fn new(fronts: impl Iterator<Item = &'a UdpFront>) -> Self {
        let mut stale = Self { addresses: FxHashMap::default(), node_ports: FxHashMap::default() };
        for front in fronts {
            for address in &front.addresses {
                let serving = front.serving.iter().copied().collect();
                stale.addresses.insert(SocketAddr::new(*address, front.port), serving);
            }
            stale.node_ports.extend(front.node_port.map(|port| (port, front.serving.as_slice())));
        }
        stale
    }

    fn is_empty(&self) -> bool {
        self.addresses.is_empty() && self.node_ports.is_empty()
    }

    fn covers(&self, flow: &Flow) -> bool {
        if let Some(serving) = self.addresses.get(&flow.destination) {
            return !serving.contains(&flow.answered_by);
        }
        let serving = self.node_ports.get(&flow.destination.port());
        serving.is_some_and(|serving| !serving.contains(&flow.answered_by))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_flows_to_a_changed_service_that_nobody_serving_answers_are_stale() {
        let at = |text: &str| text.parse::<SocketAddr>().expect("an address");
        let fronts = [UdpFront {
            family: Family::V4,
            addresses: vec![at("10.96.0.10:0").ip()],
            port: 53,
            node_port: Some(30_053),
            serving: vec![at("10.1.0.2:5353")],
        }];
        let stale = Stale::new(fronts.iter());
        for (destination, answered_by, expected) in [
            ("10.96.0.10:53", "10.1.0.2:5353", false),
            ("10.96.0.10:53", "10.1.0.3:5353", true),
            ("10.96.0.10:53", "10.96.0.10:53", true),
            ("10.96.0.10:54", "10.1.0.3:5353", false),
            ("192.0.2.1:30053", "10.1.0.3:5353", true),
            ("192.0.2.1:30053", "10.1.0.2:5353", false),
            ("192.0.2.1:30054", "10.1.0.3:5353", false),
        ] {
            let flow =
                Flow { destination: at(destination), answered_by: at(answered_by), tuple: Box::default() };
            assert_eq!(stale.covers(&flow), expected, "{destination} answered by {answered_by}");
        }
    }
}
