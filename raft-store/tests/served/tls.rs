//! Certificates: read again when their files change, asked of clients where they must be.

use std::{fs, path::Path, sync::Arc, time::Duration};

use raft_store::{TlsFiles, backup};
use rcgen::{
    CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, KeyIdMethod, KeyPair,
    KeyUsagePurpose, RevokedCertParams, SerialNumber,
};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};

use crate::listening::Listening;

/// Longer than the interval at which files are looked at.
const RELOAD_LIMIT: Duration = Duration::from_secs(60);

/// Signs certificates.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    /// One of its own making.
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "authority");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self { issuer }
    }

    /// Its certificate, as `ca.pem`.
    pub fn write_authority(&self, dir: &Path) {
        fs::write(dir.join("ca.pem"), self.issuer.pem()).unwrap();
    }

    /// A leaf's certificate and key, as `<name>.pem` and `<name>.key`.
    pub fn write_leaf(&self, dir: &Path, name: &str, common_name: &str) {
        self.write_numbered_leaf(dir, name, common_name, 1);
    }

    /// The same with a serial number of its own; its host names are this machine's and its common name.
    pub fn write_numbered_leaf(&self, dir: &Path, name: &str, common_name: &str, serial: u64) {
        self.write_leaf_for(dir, name, common_name, serial, &["localhost", "127.0.0.1", common_name]);
    }

    /// The same, for these host names and addresses.
    pub fn write_leaf_for(&self, dir: &Path, name: &str, common_name: &str, serial: u64, hosts: &[&str]) {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        params.serial_number = Some(SerialNumber::from(serial));
        params.distinguished_name.push(DnType::CommonName, common_name);
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        fs::write(dir.join(format!("{name}.key")), key.serialize_pem()).unwrap();
        fs::write(dir.join(format!("{name}.pem")), leaf.pem()).unwrap();
    }

    /// A list that revokes these serial numbers, as `crl.der` and `crl.pem`.
    pub fn write_revocations(&self, dir: &Path, serials: &[u64]) {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: rcgen::date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2024, 1, 1),
            next_update: rcgen::date_time_ymd(2034, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&self.issuer).unwrap();
        fs::write(dir.join("crl.der"), list.der()).unwrap();
        fs::write(dir.join("crl.pem"), list.pem().unwrap()).unwrap();
    }
}

/// The certificate a new connection is shown.
async fn shown(url: &str, dir: &Path) -> Vec<u8> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(dir.join("ca.pem")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = tokio::net::TcpStream::connect(url.trim_start_matches("https://")).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

/// A member that shows the certificate `server` of the folder, and asks clients for one of its authority's or does not.
async fn listening_over_tls(dir: &Path, client_cert_auth: bool) -> Listening {
    let mut listening = Listening::start(|config| {
        let url = config.listen_client_urls[0].replace("http://", "https://");
        config.listen_client_urls = vec![url.clone()];
        config.advertise_client_urls = vec![url];
        config.client_tls = TlsFiles {
            cert_file: Some(dir.join("server.pem")),
            key_file: Some(dir.join("server.key")),
            trusted_ca_file: client_cert_auth.then(|| dir.join("ca.pem")),
            client_cert_auth,
            ..TlsFiles::default()
        };
    })
    .await;
    listening.url = listening.url.replace("http://", "https://");
    listening
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_certificates_are_read_again_and_broken_ones_are_not_taken() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    authority.write_authority(dir.path());
    authority.write_leaf(dir.path(), "server", "one");
    let listening = listening_over_tls(dir.path(), false).await;
    let url = listening.url.clone();
    let first = shown(&url, dir.path()).await;
    assert_eq!(shown(&url, dir.path()).await, first);
    // A broken file changes nothing; a good one is shown soon.
    fs::write(dir.path().join("server.pem"), "not a certificate").unwrap();
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(shown(&url, dir.path()).await, first);
    authority.write_leaf(dir.path(), "server", "two");
    let changed = async {
        while shown(&url, dir.path()).await == first {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    tokio::time::timeout(RELOAD_LIMIT, changed).await.expect("the new certificate is shown");
    listening.member.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_saved_over_tls_with_a_client_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    authority.write_authority(dir.path());
    authority.write_leaf(dir.path(), "server", "server");
    authority.write_leaf(dir.path(), "client", "root");
    let listening = listening_over_tls(dir.path(), true).await;
    let file = dir.path().join("snapshot.db");
    let without = backup::SaveOptions {
        endpoint: listening.url.clone(),
        cacert: Some(dir.path().join("ca.pem")),
        ..backup::SaveOptions::default()
    };
    assert!(backup::save(&without, &file).await.is_err(), "the member wants a certificate");
    let with = backup::SaveOptions {
        cert: Some(dir.path().join("client.pem")),
        key: Some(dir.path().join("client.key")),
        ..without
    };
    let size = backup::save(&with, &file).await.unwrap();
    assert_eq!(fs::metadata(&file).unwrap().len(), size);
    assert_eq!(backup::status(&file).unwrap().size, size);
    listening.member.shutdown().await;
}
