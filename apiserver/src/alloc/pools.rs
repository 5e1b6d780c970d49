//! The pools that addresses and ports are taken from. Pure: randomness is a number passed in.

use std::net::IpAddr;

use ipnet::IpNet;

/// Why something could not be taken; the texts are upstream's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    #[error("range is full")]
    Full,
    #[error("provided IP is already allocated")]
    AddressTaken,
    #[error("the provided network does not match the current range")]
    OutsideNetworks,
    #[error("the provided IP ({address}) is not in the valid range. The range of valid IPs is {range}")]
    AddressOutOfRange { address: IpAddr, range: IpNet },
    #[error("provided port is already allocated")]
    PortTaken,
    #[error("provided port is not in the valid range. The range of valid ports is {0}")]
    PortOutOfRange(PortRange),
}

/// The addresses at the lower end of a network that are handed out last, so that people may pick them by hand.
const RESERVED_MIN: u128 = 16;
const RESERVED_MAX: u128 = 256;
/// Networks larger than this are treated as if they had this many addresses.
const SIZE_MAX: u128 = 1 << 62;

/// The networks services get addresses from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceNetworks {
    pub networks: Vec<IpNet>,
}

impl ServiceNetworks {
    /// The networks of one family, `IPv4` or `IPv6`.
    pub fn of(&self, family: &str) -> impl Iterator<Item = &IpNet> {
        self.networks.iter().filter(move |network| network.addr().is_ipv6() == (family == "IPv6"))
    }

    /// Checks that the address may be held by a service.
    pub fn check(&self, address: IpAddr) -> Result<(), PoolError> {
        let network = self.networks.iter().find(|network| network.contains(&address));
        let network = network.ok_or(PoolError::OutsideNetworks)?;
        let offset = offset_of(network, address);
        if offset == 0 || offset > usable(network) {
            return Err(PoolError::AddressOutOfRange { address, range: *network });
        }
        Ok(())
    }
}

/// How many addresses of the network services may hold: not the network's own, nor an IPv4 broadcast.
fn usable(network: &IpNet) -> u128 {
    let bits = u32::from(network.max_prefix_len() - network.prefix_len());
    let size = if bits >= 62 { SIZE_MAX } else { 1u128 << bits };
    let excluded = if network.addr().is_ipv4() { 2 } else { 1 };
    size.saturating_sub(excluded)
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

fn offset_of(network: &IpNet, address: IpAddr) -> u128 {
    number(address).saturating_sub(number(network.network()))
}

fn address_at(network: &IpNet, offset: u128) -> IpAddr {
    let value = number(network.network()) + offset;
    match network.network() {
        IpAddr::V4(_) => IpAddr::V4((value as u32).into()),
        IpAddr::V6(_) => IpAddr::V6(value.into()),
    }
}

/// The address at the 1-based position of the network: `kubernetes.default` holds the first.
pub fn nth_address(network: &IpNet, position: u32) -> IpAddr {
    address_at(network, u128::from(position))
}

/// Every address in the order it should be tried: the upper part from a random place on, then the reserved part.
pub fn candidates(network: &IpNet, random: u64) -> impl Iterator<Item = IpAddr> + use<> {
    let (network, total) = (*network, usable(network));
    let reserved = (total / 16).clamp(RESERVED_MIN, RESERVED_MAX);
    let reserved = if total <= reserved { 0 } else { reserved };
    let upper = rotated(reserved + 1, total - reserved, random);
    let lower = rotated(1, reserved, random);
    upper.chain(lower).map(move |offset| address_at(&network, offset))
}

fn rotated(first: u128, count: u128, random: u64) -> impl Iterator<Item = u128> {
    let start = if count == 0 { 0 } else { u128::from(random) % count };
    (0..count).map(move |step| first + (start + step) % count)
}

/// The ports services of type NodePort get theirs from, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    pub first: u16,
    pub last: u16,
}

impl Default for PortRange {
    fn default() -> Self {
        PortRange { first: 30_000, last: 32_767 }
    }
}

impl std::fmt::Display for PortRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl std::str::FromStr for PortRange {
    type Err = String;

    /// `first-last` or `first+count`.
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is not a port range: expected first-last, such as 30000-32767");
        let number = |part: &str| part.trim().parse::<u16>().map_err(|_| bad());
        let (first, last) = match (text.split_once('-'), text.split_once('+')) {
            (Some((first, last)), _) => (number(first)?, number(last)?),
            (None, Some((first, count))) => {
                let first = number(first)?;
                (first, first.checked_add(number(count)?).ok_or_else(bad)?)
            }
            (None, None) => (number(text)?, number(text)?),
        };
        if first == 0 || last < first { Err(bad()) } else { Ok(PortRange { first, last }) }
    }
}

impl PortRange {
    pub fn contains(&self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }

    /// Every port in the order it should be tried; the lower ones, which people pick by hand, come last.
    pub fn candidates(self, random: u64) -> impl Iterator<Item = u16> {
        let total = u128::from(self.last - self.first) + 1;
        let reserved = if total < 16 { 0 } else { (total / 32).clamp(16, 128) };
        let upper = rotated(reserved, total - reserved, random);
        upper.chain(rotated(0, reserved, random)).map(move |offset| self.first + offset as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_is_tried_once_and_the_ends_never() {
        let check = |network: &str, count: usize| {
            let network: IpNet = network.parse().unwrap();
            let tried: Vec<IpAddr> = candidates(&network, 12345).collect();
            let unique: std::collections::BTreeSet<&IpAddr> = tried.iter().collect();
            assert_eq!((tried.len(), unique.len()), (count, count), "{network}");
            let networks = ServiceNetworks { networks: vec![network] };
            assert!(tried.iter().all(|address| networks.check(*address).is_ok()));
        };
        check("10.0.0.0/24", 254);
        check("10.0.0.0/28", 14);
        check("fd00::/120", 255);
    }

    #[test]
    fn checks() {
        let networks = ServiceNetworks { networks: vec!["10.96.0.0/16".parse().unwrap()] };
        let check = |address: &str, expected: &str| {
            let got = networks.check(address.parse().unwrap());
            assert_eq!(got.map_err(|e| e.to_string()).err().unwrap_or_default(), expected, "{address}");
        };
        check("10.96.0.1", "");
        check("10.97.0.1", "the provided network does not match the current range");
        check(
            "10.96.0.0",
            "the provided IP (10.96.0.0) is not in the valid range. The range of valid IPs is 10.96.0.0/16",
        );
        assert_eq!(nth_address(&networks.networks[0], 1).to_string(), "10.96.0.1");
    }

    #[test]
    fn port_ranges() {
        let check = |text: &str, expected: Option<(u16, u16)>| {
            assert_eq!(
                text.parse::<PortRange>().ok().map(|range| (range.first, range.last)),
                expected,
                "{text}"
            );
        };
        check("30000-32767", Some((30000, 32767)));
        check("30000+10", Some((30000, 30010)));
        check("10-5", None);
        check("x", None);
        let ports: std::collections::BTreeSet<u16> =
            PortRange { first: 100, last: 200 }.candidates(7).collect();
        assert_eq!(ports.len(), 101);
    }
}
