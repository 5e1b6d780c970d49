//! Who may connect over TLS beyond what an authority says: revoked certificates, allowed names, versions.

use std::{fs, path::Path, sync::Arc, time::Duration};

use raft_store::{Config, Member, StartError, TlsFiles, TlsPolicy};
use rustls::{
    SupportedProtocolVersion,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    version::{TLS12, TLS13},
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::{listening::Listening, tls::Authority};

/// Longer than the interval at which files are looked at.
const RELOAD_LIMIT: Duration = Duration::from_secs(60);
pub const BOTH: &[&SupportedProtocolVersion] = &[&TLS12, &TLS13];

/// Certificates of one authority: of the server, and of the clients alice (serial 11) and bob (12).
fn folder() -> (tempfile::TempDir, Authority) {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    authority.write_authority(dir.path());
    authority.write_leaf(dir.path(), "server", "server");
    authority.write_numbered_leaf(dir.path(), "alice", "alice", 11);
    authority.write_numbered_leaf(dir.path(), "bob", "bob", 12);
    (dir, authority)
}

/// The server's, which asks clients for certificates of the same authority.
pub fn files(dir: &Path) -> TlsFiles {
    TlsFiles {
        cert_file: Some(dir.join("server.pem")),
        key_file: Some(dir.join("server.key")),
        trusted_ca_file: Some(dir.join("ca.pem")),
        client_cert_auth: true,
        ..TlsFiles::default()
    }
}

async fn listening(files: TlsFiles) -> Listening {
    let mut listening = Listening::start(|config| {
        let url = config.listen_client_urls[0].replace("http://", "https://");
        (config.listen_client_urls, config.advertise_client_urls) = (vec![url.clone()], vec![url]);
        config.client_tls = files;
    })
    .await;
    listening.url = listening.url.replace("http://", "https://");
    listening
}

/// Whether a client with this certificate and these versions is answered.
pub async fn is_served(
    url: &str,
    dir: &Path,
    client: &str,
    versions: &[&'static SupportedProtocolVersion],
) -> bool {
    let stream = tokio::net::TcpStream::connect(url.trim_start_matches("https://")).await.unwrap();
    is_served_over(stream, dir, client, versions).await
}

/// The same, over a connection that is there.
pub async fn is_served_over(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    dir: &Path,
    client: &str,
    versions: &[&'static SupportedProtocolVersion],
) -> bool {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(dir.join("ca.pem")).unwrap()).unwrap();
    let chain = vec![CertificateDer::from_pem_file(dir.join(format!("{client}.pem"))).unwrap()];
    let key = PrivateKeyDer::from_pem_file(dir.join(format!("{client}.key"))).unwrap();
    let config =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let asked = async {
        let mut stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        stream.write_all(b"GET /version HTTP/1.1\r\nHost: store\r\nConnection: close\r\n\r\n").await?;
        let mut answer = Vec::new();
        // With TLS 1.3 a server refuses a certificate only now.
        stream.read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    asked.await.is_ok_and(|answer| answer.starts_with(b"HTTP/1.1 "))
}

/// Whether alice and bob are served, over either version.
async fn served(files: TlsFiles, dir: &Path) -> (bool, bool) {
    let listening = listening(files).await;
    let mut found = Vec::new();
    for client in ["alice", "bob"] {
        let old = is_served(&listening.url, dir, client, &[&TLS12]).await;
        let new = is_served(&listening.url, dir, client, &[&TLS13]).await;
        assert_eq!(old, new, "{client} over TLS 1.2 and 1.3");
        found.push(new);
    }
    listening.member.shutdown().await;
    (found[0], found[1])
}

#[tokio::test(flavor = "multi_thread")]
async fn names_and_revocations_decide_who_is_served() {
    let (dir, authority) = folder();
    let dir = dir.path();
    authority.write_revocations(dir, &[7, 12]);
    let base = || files(dir);
    let cases = [
        ("no rules", base(), (true, true)),
        ("a list as DER", TlsFiles { crl_file: Some(dir.join("crl.der")), ..base() }, (true, false)),
        ("a list as PEM", TlsFiles { crl_file: Some(dir.join("crl.pem")), ..base() }, (true, false)),
        (
            "a common name",
            TlsFiles { allowed_names: vec!["x".into(), "bob".into()], ..base() },
            (false, true),
        ),
        ("a host name", TlsFiles { allowed_hosts: vec!["alice".into()], ..base() }, (true, false)),
        ("an address", TlsFiles { allowed_hosts: vec!["127.0.0.1".into()], ..base() }, (true, true)),
    ];
    for (what, files, expected) in cases {
        assert_eq!(served(files, dir).await, expected, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_takes_effect_without_a_restart() {
    let (dir, authority) = folder();
    let dir = dir.path();
    authority.write_revocations(dir, &[]);
    let listening = listening(TlsFiles { crl_file: Some(dir.join("crl.der")), ..files(dir) }).await;
    assert!(is_served(&listening.url, dir, "bob", BOTH).await);
    authority.write_revocations(dir, &[12]);
    let refused = async {
        while is_served(&listening.url, dir, "bob", BOTH).await {
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    };
    tokio::time::timeout(RELOAD_LIMIT, refused).await.expect("bob is refused");
    assert!(is_served(&listening.url, dir, "alice", BOTH).await);
    listening.member.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_versions_between_the_flags_are_spoken() {
    let (dir, _) = folder();
    let dir = dir.path();
    for (min, max, expected) in [("TLS1.3", "TLS1.3", (false, true)), ("TLS1.2", "TLS1.2", (true, false))] {
        let policy = TlsPolicy::parse(Some(min), Some(max), &[]).unwrap();
        let listening = listening(TlsFiles { policy, ..files(dir) }).await;
        let old = is_served(&listening.url, dir, "alice", &[&TLS12]).await;
        let new = is_served(&listening.url, dir, "alice", &[&TLS13]).await;
        assert_eq!((old, new), expected, "{min} to {max}");
        listening.member.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_could_not_take_effect_is_refused() {
    let (dir, _) = folder();
    let dir = dir.path();
    fs::write(dir.join("no-list"), "nothing").unwrap();
    let without_authority = || TlsFiles { trusted_ca_file: None, ..files(dir) };
    let cases = [
        ("certificates of no authority", without_authority()),
        (
            "a rule without an authority",
            TlsFiles { client_cert_auth: false, allowed_names: vec!["a".into()], ..without_authority() },
        ),
        (
            "two kinds of rules",
            TlsFiles { allowed_names: vec!["a".into()], allowed_hosts: vec!["b".into()], ..files(dir) },
        ),
        ("no list", TlsFiles { crl_file: Some(dir.join("no-list")), ..files(dir) }),
        ("a key without a certificate", TlsFiles { cert_file: None, ..files(dir) }),
        ("https without anything", TlsFiles::default()),
    ];
    for (what, tls) in cases {
        let data = tempfile::tempdir().unwrap();
        let url = format!("https://127.0.0.1:{}", crate::ports::free_port());
        let config = Config {
            listen_client_urls: vec![url.clone()],
            advertise_client_urls: vec![url],
            client_tls: tls,
            ..Config::embedded(data.path())
        };
        let started = Member::start(config).await;
        assert!(matches!(started, Err(StartError::Tls(_) | StartError::Listen { .. })), "{what}");
    }
}
