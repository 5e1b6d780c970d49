//! Reverse names: from an address to the services that own it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_server::proto::rr::Name;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use crate::network::view::Key;

/// Which services own an address.
#[derive(Debug, Default)]
pub struct Reverse {
    owners: FxHashMap<IpAddr, SmallVec<[Key; 1]>>,
}

impl Reverse {
    /// Moves a service from one list of addresses (sorted) to another.
    pub fn replace(&mut self, service: &Key, before: &[IpAddr], after: &[IpAddr]) {
        for ip in before.iter().filter(|ip| after.binary_search(ip).is_err()) {
            if let Some(owners) = self.owners.get_mut(ip) {
                owners.retain(|owner| owner != service);
                if owners.is_empty() {
                    self.owners.remove(ip);
                }
            }
        }
        for ip in after.iter().filter(|ip| before.binary_search(ip).is_err()) {
            self.owners.entry(*ip).or_default().push(service.clone());
        }
    }

    /// The services that own an address.
    pub fn services(&self, ip: IpAddr) -> &[Key] {
        self.owners.get(&ip).map(SmallVec::as_slice).unwrap_or_default()
    }
}

/// The address that a complete, lower-case reverse name stands for.
pub fn address(name: &Name) -> Option<IpAddr> {
    let labels: SmallVec<[&[u8]; 34]> = name.iter().collect();
    match labels.as_slice() {
        [d, c, b, a, b"in-addr", b"arpa"] => {
            let octet = |label: &[u8]| std::str::from_utf8(label).ok()?.parse::<u8>().ok();
            Some(Ipv4Addr::new(octet(a)?, octet(b)?, octet(c)?, octet(d)?).into())
        }
        [nibbles @ .., b"ip6", b"arpa"] if nibbles.len() == 32 => {
            let mut bits = 0u128;
            for label in nibbles.iter().rev() {
                let [digit] = label else { return None };
                bits = bits << 4 | u128::from(char::from(*digit).to_digit(16)?);
            }
            Some(Ipv6Addr::from(bits).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reverse_names_are_read() {
        let zeros = "0.".repeat(30);
        let v6 = format!("1.{zeros}d.ip6.arpa.");
        for (name, expected) in [
            ("10.0.96.10.in-addr.arpa.", Some("10.96.0.10")),
            ("0.96.10.in-addr.arpa.", None),
            ("256.0.96.10.in-addr.arpa.", None),
            ("example.org.", None),
            (v6.as_str(), Some("d000::1")),
        ] {
            let name = Name::from_ascii(name).expect("a name");
            assert_eq!(address(&name), expected.map(|ip| ip.parse().expect("an address")), "{name}");
        }
    }
}
