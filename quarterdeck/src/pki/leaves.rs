//! The certificates one server holds, as a table, and their renewal.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::ServerIdentity;
use super::authority::{Authority, Subject};
use super::files::{read_text, write_private, write_public};
use crate::failure::{Failure, Result};

/// Renewal starts when the life is down to one part in this many.
const RENEW_AT_PART: u32 = 3;

/// Who connects with a leaf, or is connected to.
struct Leaf {
    file: &'static str,
    authority: &'static str,
    /// `{name}` stands for the server's name.
    common_name: &'static str,
    organizations: &'static [&'static str],
    serves: Serves,
}

#[derive(PartialEq, Eq)]
enum Serves {
    No,
    /// Other machines' addresses of this server.
    Server,
    /// Those, and the names of the `kubernetes` service.
    Api,
}

const fn client(
    file: &'static str,
    authority: &'static str,
    common_name: &'static str,
    organizations: &'static [&'static str],
) -> Leaf {
    Leaf { file, authority, common_name, organizations, serves: Serves::No }
}

/// File names follow upstream's installers where these have one.
const LEAVES: &[Leaf] = &[
    Leaf {
        file: "apiserver",
        authority: "ca",
        common_name: "kube-apiserver",
        organizations: &[],
        serves: Serves::Api,
    },
    Leaf {
        file: "store",
        authority: "store-ca",
        common_name: "{name}",
        organizations: &[],
        serves: Serves::Server,
    },
    client("apiserver-store-client", "store-ca", "kube-apiserver-etcd-client", &[]),
    client(
        "apiserver-kubelet-client",
        "ca",
        "kube-apiserver-kubelet-client",
        &["kubeadm:cluster-admins", "system:masters"],
    ),
    client("front-proxy-client", "front-proxy-ca", "front-proxy-client", &[]),
    client("admin", "ca", "kubernetes-admin", &["system:masters"]),
    client("controller-manager", "ca", "system:kube-controller-manager", &[]),
    client("scheduler", "ca", "system:kube-scheduler", &[]),
];

/// Makes every leaf that is missing, no longer valid for this identity, or near its end. Returns the files renewed.
pub fn renew(dir: &Path, identity: &ServerIdentity, now: SystemTime) -> Result<Vec<&'static str>> {
    let mut renewed = Vec::new();
    for leaf in LEAVES {
        let names = subject_names(leaf, identity);
        let end_min = now + identity.leaf_life / RENEW_AT_PART;
        if is_current(&dir.join(format!("{}.crt", leaf.file)), &names, end_min)? {
            continue;
        }
        issue(dir, leaf, identity, names)?;
        renewed.push(leaf.file);
    }
    Ok(renewed)
}

fn issue(dir: &Path, leaf: &Leaf, identity: &ServerIdentity, names: SubjectNames) -> Result<()> {
    let authority = Authority::load(dir, leaf.authority)?;
    let pair = authority.sign(&Subject {
        common_name: &leaf.common_name.replace("{name}", &identity.name),
        organizations: leaf.organizations,
        serves: leaf.serves != Serves::No,
        dns_names: names.dns,
        addresses: names.addresses,
        life: identity.leaf_life,
    })?;
    write_private(&dir.join(format!("{}.key", leaf.file)), pair.key.as_bytes())?;
    write_public(&dir.join(format!("{}.crt", leaf.file)), pair.cert.as_bytes())
}

struct SubjectNames {
    dns: Vec<String>,
    addresses: Vec<IpAddr>,
}

fn subject_names(leaf: &Leaf, identity: &ServerIdentity) -> SubjectNames {
    if leaf.serves == Serves::No {
        return SubjectNames { dns: Vec::new(), addresses: Vec::new() };
    }
    let mut dns = vec![identity.name.clone(), "localhost".to_owned()];
    let mut addresses = identity.addresses.clone();
    addresses.extend([IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)]);
    for extra in &identity.extra_names {
        match extra.parse() {
            Ok(address) => addresses.push(address),
            Err(_) => dns.push(extra.clone()),
        }
    }
    if leaf.serves == Serves::Api {
        dns.extend(["kubernetes", "kubernetes.default", "kubernetes.default.svc"].map(str::to_owned));
        dns.push(format!("kubernetes.default.svc.{}", identity.cluster_domain));
        addresses.push(identity.service_address);
    }
    addresses.sort_unstable();
    addresses.dedup();
    SubjectNames { dns, addresses }
}

/// Whether the certificate exists, is good until after `end_min` and covers the names.
fn is_current(path: &Path, names: &SubjectNames, end_min: SystemTime) -> Result<bool> {
    if !path.exists() {
        return Ok(false);
    }
    let status = inspect(path)?;
    Ok(status.not_after > end_min
        && names.dns.iter().all(|name| status.dns_names.contains(name))
        && names.addresses.iter().all(|address| status.addresses.contains(address)))
}

/// What `quarterdeck status` shows of a certificate.
pub struct CertificateStatus {
    pub subject: String,
    pub not_after: SystemTime,
    pub dns_names: Vec<String>,
    pub addresses: Vec<IpAddr>,
}

/// Reads the first certificate of a PEM file.
pub fn inspect(path: &Path) -> Result<CertificateStatus> {
    let broken = |what: String| {
        Failure::new(format!("{} is not a certificate: {what}", path.display()))
            .mend("remove the file; it is made again at the next start")
    };
    let text = read_text(path)?;
    let (_, pem) =
        x509_parser::pem::parse_x509_pem(text.as_bytes()).map_err(|error| broken(error.to_string()))?;
    let cert = pem.parse_x509().map_err(|error| broken(error.to_string()))?;
    let (mut dns_names, mut addresses) = (Vec::new(), Vec::new());
    if let Ok(Some(extension)) = cert.subject_alternative_name() {
        for name in &extension.value.general_names {
            match name {
                x509_parser::extensions::GeneralName::DNSName(name) => dns_names.push((*name).to_owned()),
                x509_parser::extensions::GeneralName::IPAddress(bytes) => addresses.extend(address(bytes)),
                _ => {}
            }
        }
    }
    let seconds = u64::try_from(cert.validity().not_after.timestamp()).unwrap_or(0);
    Ok(CertificateStatus {
        subject: cert.subject().to_string(),
        not_after: SystemTime::UNIX_EPOCH + Duration::from_secs(seconds),
        dns_names,
        addresses,
    })
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::super::authority;
    use super::*;

    fn identity(addresses: &[&str]) -> ServerIdentity {
        ServerIdentity {
            name: "s1".into(),
            addresses: addresses.iter().map(|text| text.parse().expect("an address")).collect(),
            extra_names: vec!["api.example.org".into()],
            service_address: "10.96.0.1".parse().expect("an address"),
            cluster_domain: "cluster.local".into(),
            leaf_life: Duration::from_secs(365 * 86_400),
        }
    }

    #[test]
    fn leaves_are_renewed_when_missing_old_or_for_other_names() {
        let dir = tempfile::tempdir().expect("a folder");
        for (name, common_name) in authority::NAMES {
            authority::create(dir.path(), name, common_name).expect("an authority");
        }
        let now = SystemTime::now();
        let renewed = |addresses: &[&str], now| renew(dir.path(), &identity(addresses), now).expect("leaves");
        assert_eq!(renewed(&["10.0.0.1"], now).len(), LEAVES.len());
        assert!(renewed(&["10.0.0.1"], now).is_empty());
        assert_eq!(renewed(&["10.0.0.1", "10.0.0.2"], now), ["apiserver", "store"]);
        let late = now + Duration::from_secs(250 * 86_400);
        assert_eq!(renewed(&["10.0.0.1"], late).len(), LEAVES.len());

        let api = inspect(&dir.path().join("apiserver.crt")).expect("a certificate");
        assert!(api.dns_names.contains(&"kubernetes.default.svc.cluster.local".to_owned()));
        assert!(api.dns_names.contains(&"api.example.org".to_owned()));
        assert!(api.addresses.contains(&"10.96.0.1".parse().expect("an address")));
        assert!(
            inspect(&dir.path().join("admin.crt")).expect("a certificate").subject.contains("system:masters")
        );
    }
}
