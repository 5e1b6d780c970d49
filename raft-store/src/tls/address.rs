//! Whether a certificate is for the address its holder connects from, which members ask of their peers, as etcd's do.
//!
//! A certificate that names neither addresses nor hosts may be shown from anywhere. Any other must name the address, or
//! a host that has it; `*.domain` is for addresses whose own name ends so. The rule is pure: what names mean is looked
//! up by whoever is passed in. It does not say which authority or which names are trusted.

use std::{
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    ptr,
};

use nix::libc;
use rustls::pki_types::CertificateDer;
use socket2::SockAddr;
use x509_parser::extensions::GeneralName;

/// Bytes of the longest host name the system gives, with the zero at its end.
const HOST_BYTES_MAX: usize = 1025;

/// Why a certificate is refused. Another certificate helps, a retry only where a name could not be looked up.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// It cannot be read.
    #[error("tls: the certificate cannot be read")]
    Unreadable,
    /// It is for other addresses.
    #[error("x509: certificate is valid for {addresses:?}, not {remote}")]
    OtherAddress {
        /// Where its holder connects from.
        remote: IpAddr,
        /// What it is for.
        addresses: Vec<IpAddr>,
    },
    /// It is for hosts that do not have this address.
    #[error("tls: \"{remote}\" does not match any of DNSNames {hosts:?}")]
    OtherHost {
        /// Where its holder connects from.
        remote: IpAddr,
        /// What it is for.
        hosts: Vec<String>,
    },
    /// The lookup broke.
    #[error("tls: names cannot be looked up: {0}")]
    Lookup(String),
}

/// Knows what names mean.
pub trait Lookup {
    /// The names of an address; none when it has none, or they cannot be looked up.
    fn names(&self, address: IpAddr) -> Vec<String>;
    /// The addresses of a host; none likewise.
    fn addresses(&self, host: &str) -> Vec<IpAddr>;
}

/// What a certificate is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    addresses: Vec<IpAddr>,
    hosts: Vec<String>,
}

impl Names {
    /// Those a certificate has beside its subject.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, AddressError> {
        let (_, parsed) =
            x509_parser::parse_x509_certificate(certificate).map_err(|_| AddressError::Unreadable)?;
        let alternatives = parsed.subject_alternative_name().map_err(|_| AddressError::Unreadable)?;
        let mut names = Self::default();
        for name in alternatives.iter().flat_map(|names| &names.value.general_names) {
            match name {
                GeneralName::DNSName(host) => names.hosts.push((*host).to_owned()),
                GeneralName::IPAddress(bytes) => names.addresses.extend(address(bytes)),
                _ => {}
            }
        }
        Ok(names)
    }

    /// Whether that is so without looking anything up.
    pub fn is_for(&self, remote: IpAddr) -> bool {
        let names_nothing = self.addresses.is_empty() && self.hosts.is_empty();
        names_nothing || self.addresses.iter().any(|address| address.to_canonical() == remote.to_canonical())
    }

    /// Refuses what is for others than `remote`.
    pub fn check(&self, remote: IpAddr, lookup: &impl Lookup) -> Result<(), AddressError> {
        let remote = remote.to_canonical();
        if self.is_for(remote) || self.is_for_host_of(remote, lookup) {
            return Ok(());
        }
        Err(if self.hosts.is_empty() {
            AddressError::OtherAddress { remote, addresses: self.addresses.clone() }
        } else {
            AddressError::OtherHost { remote, hosts: self.hosts.clone() }
        })
    }

    fn is_for_host_of(&self, remote: IpAddr, lookup: &impl Lookup) -> bool {
        let (wildcards, hosts): (Vec<&str>, Vec<&str>) =
            self.hosts.iter().map(String::as_str).partition(|host| host.starts_with("*."));
        // The cheaper one first: most names are in the machine's own table of hosts.
        let has_address =
            |host: &&str| lookup.addresses(host).iter().any(|address| address.to_canonical() == remote);
        if hosts.iter().any(has_address) {
            return true;
        }
        let is_named = |name: &str| {
            let name = name.trim_end_matches('.');
            hosts.contains(&name) || wildcards.iter().any(|wildcard| name.ends_with(&wildcard[1..]))
        };
        !self.hosts.is_empty() && lookup.names(remote).iter().any(|name| is_named(name))
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => None,
    }
}

/// Asks the system: its table of hosts and its name servers. Of several names of an address it gives the first.
pub struct SystemLookup;

impl Lookup for SystemLookup {
    fn names(&self, address: IpAddr) -> Vec<String> {
        name_of(address).into_iter().collect()
    }

    fn addresses(&self, host: &str) -> Vec<IpAddr> {
        (host, 0)
            .to_socket_addrs()
            .map(|found| found.map(|address| address.ip()).collect())
            .unwrap_or_default()
    }
}

fn name_of(address: IpAddr) -> Option<String> {
    let address = SockAddr::from(SocketAddr::new(address, 0));
    let mut name: [libc::c_char; HOST_BYTES_MAX] = [0; HOST_BYTES_MAX];
    // SAFETY: address and length are one `SockAddr`'s, which outlives the call; the name's buffer is as long as said.
    let status = unsafe {
        libc::getnameinfo(
            address.as_ptr().cast(),
            address.len(),
            name.as_mut_ptr(),
            HOST_BYTES_MAX as libc::socklen_t,
            ptr::null_mut(),
            0,
            libc::NI_NAMEREQD,
        )
    };
    let letters = name.iter().take_while(|letter| **letter != 0);
    let bytes: Vec<u8> = letters.flat_map(|letter| letter.to_ne_bytes()).collect();
    (status == 0).then(|| String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A small world: addresses and their names; names and their addresses.
    struct World;

    impl Lookup for World {
        fn names(&self, address: IpAddr) -> Vec<String> {
            let names: &[&str] = match address.to_string().as_str() {
                "10.0.0.1" => &["other.net.", "m1.store.example."],
                "10.0.0.2" => &["store.example."],
                "10.0.0.3" => &["reverse.only."],
                _ => &[],
            };
            names.iter().map(|name| (*name).to_owned()).collect()
        }

        fn addresses(&self, host: &str) -> Vec<IpAddr> {
            let addresses: &[&str] = match host {
                "m4.example" => &["10.0.0.9", "10.0.0.4"],
                "six.example" => &["fd00::6"],
                _ => &[],
            };
            addresses.iter().map(|address| address.parse().unwrap()).collect()
        }
    }

    #[test]
    fn a_certificate_is_for_its_addresses_and_for_those_of_its_hosts() {
        // Addresses and hosts it names, where its holder connects from, whether that is taken.
        let cases: [(&[&str], &[&str], &str, bool); 17] = [
            (&[], &[], "10.0.0.1", true),
            (&["10.0.0.1"], &[], "10.0.0.1", true),
            (&["10.0.0.1"], &[], "::ffff:10.0.0.1", true),
            (&["10.0.0.2", "fd00::1"], &[], "fd00::1", true),
            (&["10.0.0.2"], &[], "10.0.0.1", false),
            (&["10.0.0.2"], &["m4.example"], "10.0.0.4", true),
            (&["10.0.0.2"], &["m4.example"], "10.0.0.5", false),
            (&[], &["m4.example"], "10.0.0.9", true),
            (&[], &["no.such", "six.example"], "fd00::6", true),
            (&[], &["no.such"], "10.0.0.4", false),
            (&[], &["*.store.example"], "10.0.0.1", true),
            (&[], &["*.example"], "10.0.0.1", true),
            (&[], &["*.store.example"], "10.0.0.2", false),
            (&[], &["*.store.example"], "10.0.0.4", false),
            (&[], &["reverse.only"], "10.0.0.3", true),
            (&[], &["everse.only"], "10.0.0.3", false),
            (&[], &["*"], "10.0.0.1", false),
        ];
        for (addresses, hosts, remote, expected) in cases {
            let names = Names {
                addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
                hosts: hosts.iter().map(|text| (*text).to_owned()).collect(),
            };
            let found = names.check(remote.parse().unwrap(), &World);
            assert_eq!(found.is_ok(), expected, "{names:?} from {remote}: {found:?}");
        }
    }

    #[test]
    fn names_are_those_beside_the_subject_and_refusals_read_as_etcds() {
        let key = rcgen::KeyPair::generate().unwrap();
        let of = |names: &[&str]| {
            let params = rcgen::CertificateParams::new(
                names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>(),
            );
            Names::of(params.unwrap().self_signed(&key).unwrap().der()).unwrap()
        };
        assert_eq!(of(&[]), Names::default());
        let both = of(&["10.0.0.2", "m1.example", "::1"]);
        assert_eq!(both.addresses, ["10.0.0.2".parse::<IpAddr>().unwrap(), "::1".parse().unwrap()]);
        assert_eq!(both.hosts, ["m1.example"]);
        let text = |names: &Names| names.check("10.0.0.7".parse().unwrap(), &World).unwrap_err().to_string();
        assert_eq!(text(&both), r#"tls: "10.0.0.7" does not match any of DNSNames ["m1.example"]"#);
        assert_eq!(text(&of(&["10.0.0.2"])), "x509: certificate is valid for [10.0.0.2], not 10.0.0.7");
        assert_eq!(Names::of(&CertificateDer::from_slice(b"no certificate")), Err(AddressError::Unreadable));
    }

    #[test]
    fn the_system_knows_this_machine() {
        let loopback: IpAddr = "127.0.0.1".parse().unwrap();
        assert!(SystemLookup.addresses("localhost").contains(&loopback));
        assert!(SystemLookup.names(loopback).iter().all(|name| !name.is_empty()));
    }
}
