//! Client certificates: user from the common name, groups from the organizations.
//!
//! A chain that has just been verified is not verified again: the check of its signatures would otherwise be most of
//! what a small request costs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, UnixTime};
use sha2::{Digest, Sha256};
use webpki::{
    EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeIdIter, KeyUsage, RequiredEkuNotFoundContext,
};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::chain::{Outcome, Step};
use super::version_one;
use crate::contract::{Credentials, UserInfo};

/// The subject attribute that carries a uid (upstream's 1.3.6.1.4.1.57683.2).
const UID_OID: &str = "1.3.6.1.4.1.57683.2";

/// How long a verified chain is believed, which bounds how long an expired certificate still works.
const TTL: Duration = Duration::from_secs(10);
/// Above this many remembered chains the old ones are dropped, and then all: bounds memory.
const REMEMBERED_MAX: usize = 16_384;

/// Why a set of authorities cannot be used; the file has to change.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error("{file}: not a PEM file of certificates: {source}")]
    Pem { file: String, source: std::io::Error },
    #[error("{file}: no certificate authority in it")]
    Empty { file: String },
    #[error("{file}: {what}")]
    Unusable { file: String, what: String },
}

/// Verifies chains of client certificates against a set of authorities.
#[derive(Clone)]
pub struct CertificateVerifier {
    roots: Arc<RootCertStore>,
    authorities: Arc<[CertificateDer<'static>]>,
}

impl CertificateVerifier {
    /// Trusts the authorities in the PEM text; `file` names it in errors.
    pub fn from_pem(file: &str, pem: &[u8]) -> Result<Self, AuthorityError> {
        let (mut roots, mut authorities) = (RootCertStore::empty(), Vec::new());
        for certificate in rustls_pemfile::certs(&mut std::io::Cursor::new(pem)) {
            let certificate =
                certificate.map_err(|source| AuthorityError::Pem { file: file.to_owned(), source })?;
            roots.add(certificate.clone()).map_err(|e| unusable(file, e))?;
            authorities.push(certificate);
        }
        if roots.is_empty() {
            return Err(AuthorityError::Empty { file: file.to_owned() });
        }
        Ok(CertificateVerifier { roots: Arc::new(roots), authorities: authorities.into() })
    }

    /// Checks signatures, validity period and the client-auth usage of the chain, leaf first.
    pub fn verify(&self, chain: &[Vec<u8>]) -> Result<(), String> {
        let certificates: Vec<CertificateDer<'_>> =
            chain.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
        let Some((leaf, intermediates)) = certificates.split_first() else {
            return Err("no certificate".to_owned());
        };
        let now = UnixTime::now();
        if version_one::is_version_one(leaf) {
            let secs = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
            let issued = version_one::verify_issued(leaf, &self.authorities, secs);
            return issued.map_err(|e| format!("verifying certificate failed: {e}"));
        }
        let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms;
        let verified = EndEntityCert::try_from(leaf).and_then(|leaf| {
            let (roots, usage) = (&self.roots.roots, ForClients);
            leaf.verify_for_usage(algorithms.all, roots, intermediates, now, usage, None, None).map(drop)
        });
        verified.map_err(|e| format!("verifying certificate failed: {e}"))
    }
}

/// `anyExtendedKeyUsage` as its numbers.
const ANY_USAGE: [usize; 5] = [2, 5, 29, 37, 0];

/// Certificates without usages, and those for clients or for anything, are good: what Go's verifier takes.
struct ForClients;

impl ExtendedKeyUsageValidator for ForClients {
    fn validate(&self, purposes: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        let mut present = Vec::new();
        for purpose in purposes {
            let purpose = purpose?.to_decoded_oid();
            if purpose == KeyUsage::CLIENT_AUTH_REPR || purpose == ANY_USAGE {
                return Ok(());
            }
            present.push(purpose);
        }
        if present.is_empty() {
            return Ok(());
        }
        let required = KeyUsage::client_auth();
        Err(webpki::Error::RequiredEkuNotFoundContext(RequiredEkuNotFoundContext { required, present }))
    }
}

fn unusable(file: &str, what: impl ToString) -> AuthorityError {
    AuthorityError::Unusable { file: file.to_owned(), what: what.to_string() }
}

/// Users of chains that were verified a short while ago, by digest.
#[derive(Default)]
struct Remembered(Mutex<FxHashMap<[u8; 32], (Instant, UserInfo)>>);

impl Remembered {
    fn get(&self, digest: &[u8; 32]) -> Option<UserInfo> {
        let entries = self.0.lock();
        let (until, user) = entries.get(digest)?;
        (Instant::now() < *until).then(|| user.clone())
    }

    fn put(&self, digest: [u8; 32], user: UserInfo) {
        let now = Instant::now();
        let mut entries = self.0.lock();
        if entries.len() >= REMEMBERED_MAX {
            entries.retain(|_, (until, _)| now < *until);
        }
        if entries.len() >= REMEMBERED_MAX {
            entries.clear();
        }
        entries.insert(digest, (now + TTL, user));
    }
}

/// Of the whole chain: other intermediates are another proof.
fn digest(chain: &[Vec<u8>]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for der in chain {
        hash.update(der.len().to_le_bytes());
        hash.update(der);
    }
    hash.finalize().into()
}

/// The authenticator for `--client-ca-file`.
pub struct ClientCertificates {
    verifier: CertificateVerifier,
    remembered: Remembered,
}

impl ClientCertificates {
    pub fn new(verifier: CertificateVerifier) -> Self {
        ClientCertificates { verifier, remembered: Remembered::default() }
    }
}

#[async_trait]
impl Step for ClientCertificates {
    async fn authenticate(&self, credentials: &Credentials<'_>) -> Outcome {
        let Some(leaf) = credentials.peer_certificates.first() else { return Outcome::NotMine };
        let digest = digest(credentials.peer_certificates);
        if let Some(user) = self.remembered.get(&digest) {
            return Outcome::Found(user);
        }
        if let Err(why) = self.verifier.verify(credentials.peer_certificates) {
            return Outcome::Refused(why);
        }
        match user_of(leaf) {
            Some(user) => {
                self.remembered.put(digest, user.clone());
                Outcome::Found(user)
            }
            None => Outcome::NotMine,
        }
    }
}

/// The common name of the certificate, empty when there is none.
pub fn common_name(der: &[u8]) -> String {
    user_of(der).map(|user| user.name).unwrap_or_default()
}

/// The user a verified certificate speaks for; none without a common name.
fn user_of(der: &[u8]) -> Option<UserInfo> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().last()?.as_str().ok()?.to_owned();
    if name.is_empty() {
        return None;
    }
    let groups = subject.iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_owned).collect();
    let uid = subject
        .iter_attributes()
        .find(|attribute| attribute.attr_type().to_id_string() == UID_OID)
        .and_then(|attribute| attribute.as_str().ok())
        .unwrap_or_default()
        .to_owned();
    let credential = format!("X509SHA256={}", hex::encode(Sha256::digest(der)));
    let extra = BTreeMap::from([("authentication.kubernetes.io/credential-id".to_owned(), vec![credential])]);
    Some(UserInfo { name, uid, groups, extra })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{
        BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose as Usage, IsCa,
        KeyPair,
    };

    fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    }

    fn leaf(issuer: &CertifiedIssuer<'static, KeyPair>, usages: &[Usage]) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "jane");
        params.distinguished_name.push(DnType::OrganizationName, "dev");
        params.extended_key_usages = usages.to_vec();
        let key = KeyPair::generate().unwrap();
        params.signed_by(&key, issuer).unwrap().der().to_vec()
    }

    async fn check(chain: Vec<Vec<u8>>, verifier: CertificateVerifier, expected: Option<&str>) {
        let headers = http::HeaderMap::new();
        let credentials = Credentials { peer_certificates: &chain, headers: &headers, path: "/" };
        let step = ClientCertificates::new(verifier);
        for time in ["first", "remembered"] {
            let got = match step.authenticate(&credentials).await {
                Outcome::Found(user) => Some(format!("{}/{}", user.name, user.groups.join("+"))),
                Outcome::NotMine | Outcome::Refused(_) => None,
            };
            assert_eq!(got.as_deref(), expected, "{time}");
        }
    }

    #[tokio::test]
    async fn only_client_certificates_of_the_authority_count() {
        let (ours, theirs) = (authority("ours"), authority("theirs"));
        let verifier = CertificateVerifier::from_pem("ca", ours.pem().as_bytes()).unwrap();
        for (usages, counts) in [
            (vec![], true),
            (vec![Usage::ClientAuth], true),
            (vec![Usage::Any], true),
            (vec![Usage::ServerAuth, Usage::ClientAuth], true),
            (vec![Usage::ServerAuth, Usage::Any], true),
            (vec![Usage::ServerAuth], false),
            (vec![Usage::CodeSigning, Usage::TimeStamping], false),
        ] {
            let expected = Some("jane/dev").filter(|_| counts);
            check(vec![leaf(&ours, &usages)], verifier.clone(), expected).await;
            check(vec![leaf(&theirs, &usages)], verifier.clone(), None).await;
        }
        check(vec![b"junk".to_vec()], verifier.clone(), None).await;
        check(vec![], verifier, None).await;
        assert!(CertificateVerifier::from_pem("x", b"").is_err());
    }
}
