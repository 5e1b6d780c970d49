//! Session affinity: chains and sets of one service port, because every endpoint remembers its own clients.
//!
//! A client's address stands in the set of the endpoint that served it last, until the time-out passes without a new
//! connection. Sets carry their time-out in their name, since a set's declaration never changes.

use std::{net::SocketAddr, sync::Arc};

use sha2::{Digest, Sha256};

use super::{List, base::ip};
use crate::network::{
    nft::Fragment,
    view::{Family, Protocol},
};

/// The service port that has affinity.
#[derive(Clone, Copy, Debug)]
pub struct Sticky<'a> {
    /// `namespace/service/protocol/port name`.
    pub id: &'a str,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Address family.
    pub family: Family,
    /// How long a client is remembered, in seconds.
    pub secs: u32,
}

/// Hexadecimal digits of the hash in a name: 32 bits tell apart what the readable part cuts off.
const HASH_BYTES: usize = 4;
/// nft names are at most 255 bytes; the rest is for prefix, family and hash.
const READABLE_LEN_MAX: usize = 200;

/// A unique chain or set name that a human can read: `prefix-HASH-readable`.
pub fn unique_name(prefix: &str, readable: &str) -> Arc<str> {
    let digest = Sha256::digest(readable.as_bytes());
    let plain: String =
        readable.chars().map(|c| if c == ':' || c == '[' || c == ']' { '.' } else { c }).collect();
    let end =
        plain.char_indices().map(|(at, _)| at).take_while(|at| *at <= READABLE_LEN_MAX).last().unwrap_or(0);
    let cut = if plain.len() > READABLE_LEN_MAX { &plain[..end] } else { &plain };
    format!("{prefix}-{}-{cut}", hex::encode(&digest[..HASH_BYTES])).into()
}

impl Sticky<'_> {
    /// The chain that external traffic of this port enters.
    pub fn external_chain(&self) -> Arc<str> {
        unique_name(&format!("external{}", self.family.digit()), self.id)
    }

    /// Adds the chain for one list of endpoints, and what it needs. Returns the chain's name.
    pub fn add(&self, fragment: &mut Fragment, list: List, endpoints: &[SocketAddr]) -> Arc<str> {
        let prefix = match list {
            List::Cluster => "sticky",
            List::Local => "sticky-local",
        };
        let name = unique_name(&format!("{prefix}{}", self.family.digit()), self.id);
        let saddr = format!("{} saddr", ip(self.family));
        let mut rules = Vec::with_capacity(endpoints.len() + 1);
        let mut goto = Vec::with_capacity(endpoints.len());
        for (index, endpoint) in endpoints.iter().enumerate() {
            let (chain, clients) = self.add_endpoint(fragment, *endpoint);
            rules.push(format!("{saddr} @{clients} goto {chain}"));
            goto.push(format!("{index} : goto {chain}"));
        }
        rules.push(format!("numgen random mod {} vmap {{ {} }}", endpoints.len(), goto.join(", ")));
        fragment.chain(&name, None, rules);
        name
    }

    fn add_endpoint(&self, fragment: &mut Fragment, endpoint: SocketAddr) -> (Arc<str>, Arc<str>) {
        let readable = format!("{}__{endpoint}", self.id);
        let chain = unique_name("endpoint", &readable);
        let clients = unique_name(&format!("clients-{}s", self.secs), &readable);
        if !fragment.has_chain(&chain) {
            let address = match self.family {
                Family::V4 => "ipv4_addr",
                Family::V6 => "ipv6_addr",
            };
            fragment.set(&clients, format!("type {address}; flags dynamic,timeout; timeout {}s;", self.secs));
            let ip = ip(self.family);
            fragment.chain(
                &chain,
                None,
                vec![
                    format!("update @{clients} {{ {ip} saddr }}"),
                    format!("meta l4proto {} dnat {ip} to {endpoint}", self.protocol),
                ],
            );
        }
        (chain, clients)
    }
}
