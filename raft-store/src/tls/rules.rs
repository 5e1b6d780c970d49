//! What a certificate must satisfy beside coming from the right authority: a name that is allowed, and not being revoked.
//!
//! The rules are looked at within the handshake, so that one who may not connect is told so by TLS itself.

use std::{collections::HashSet, fs, path::Path, sync::Arc};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    client::verify_server_name,
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{
        ParsedCertificate,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use x509_parser::{prelude::FromDer, revocation_list::CertificateRevocationList};

use super::{TlsError, TlsFiles, common_name, file_error};

/// The rules of one port.
#[derive(Debug)]
pub struct Rules {
    /// Common names that are allowed; empty for any.
    common_names: Vec<String>,
    /// Host names and addresses of which a certificate must be valid for one; empty for any.
    hosts: Vec<ServerName<'static>>,
    /// Serial numbers that are revoked, without leading zeros.
    revoked: HashSet<Vec<u8>>,
}

impl Rules {
    /// Reads what the flags say; nothing when there are no such rules.
    pub fn read(files: &TlsFiles) -> Result<Option<Arc<Self>>, TlsError> {
        if files.allowed_names.is_empty() && files.allowed_hosts.is_empty() && files.crl_file.is_none() {
            return Ok(None);
        }
        let host = |name: &String| {
            ServerName::try_from(name.clone())
                .map_err(|_| TlsError::Setup(format!("the allowed host name {name:?} is none")))
        };
        Ok(Some(Arc::new(Self {
            common_names: files.allowed_names.clone(),
            hosts: files.allowed_hosts.iter().map(host).collect::<Result<_, _>>()?,
            revoked: files.crl_file.as_deref().map(revoked_serials).transpose()?.unwrap_or_default(),
        })))
    }

    fn check(&self, leaf: &CertificateDer<'_>, others: &[CertificateDer<'_>]) -> Result<(), Error> {
        if !self.revoked.is_empty() {
            for certificate in std::iter::once(leaf).chain(others) {
                if self.revoked.contains(&serial(certificate)?) {
                    return Err(CertificateError::Revoked.into());
                }
            }
        }
        let name = common_name(leaf);
        let name_fits = self.common_names.is_empty()
            || name.as_ref().is_some_and(|name| self.common_names.contains(name));
        if !name_fits || !self.is_of_allowed_host(leaf)? {
            tracing::warn!(
                common_name = name,
                "a certificate of our authority has no name that is allowed here"
            );
            return Err(CertificateError::ApplicationVerificationFailure.into());
        }
        Ok(())
    }

    fn is_of_allowed_host(&self, leaf: &CertificateDer<'_>) -> Result<bool, Error> {
        if self.hosts.is_empty() {
            return Ok(true);
        }
        let leaf = ParsedCertificate::try_from(leaf)?;
        Ok(self.hosts.iter().any(|host| verify_server_name(&leaf, host).is_ok()))
    }
}

fn trimmed(serial: &[u8]) -> Vec<u8> {
    let zeros = serial.iter().take_while(|byte| **byte == 0).count();
    serial[zeros..].to_vec()
}

fn serial(certificate: &CertificateDer<'_>) -> Result<Vec<u8>, Error> {
    let (_, parsed) =
        x509_parser::parse_x509_certificate(certificate).map_err(|_| CertificateError::BadEncoding)?;
    Ok(trimmed(parsed.raw_serial()))
}

/// The serial numbers in a revocation list, as DER (etcd's form) or PEM.
fn revoked_serials(path: &Path) -> Result<HashSet<Vec<u8>>, TlsError> {
    let bytes = fs::read(path).map_err(|error| file_error(path, error))?;
    let mut lists: Vec<Vec<u8>> = Vec::new();
    if bytes.windows(10).any(|window| window == b"-----BEGIN") {
        for list in rustls_pemfile::crls(&mut bytes.as_slice()) {
            lists.push(list.map_err(|error| file_error(path, error))?.to_vec());
        }
    } else {
        lists.push(bytes);
    }
    if lists.is_empty() {
        return Err(file_error(path, "holds no revocation list"));
    }
    let mut serials = HashSet::new();
    for list in &lists {
        let (_, list) = CertificateRevocationList::from_der(list)
            .map_err(|error| file_error(path, format!("is no revocation list: {error}")))?;
        serials.extend(list.iter_revoked_certificates().map(|revoked| trimmed(revoked.raw_serial())));
    }
    Ok(serials)
}

/// Clients of the right authority that also satisfy the rules.
#[derive(Debug)]
pub struct RuledClients {
    /// Knows the authority.
    pub inner: Arc<dyn ClientCertVerifier>,
    /// What else must hold.
    pub rules: Arc<Rules>,
}

impl ClientCertVerifier for RuledClients {
    fn offer_client_auth(&self) -> bool {
        self.inner.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.inner.verify_client_cert(leaf, intermediates, now)?;
        self.rules.check(leaf, intermediates)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Members of the right authority (of any, where each made its own certificate) that also satisfy the rules.
#[derive(Debug)]
pub struct RuledServers {
    /// Knows the authority; none where members make their own certificates, as with `--peer-auto-tls`.
    pub inner: Option<Arc<dyn ServerCertVerifier>>,
    /// What else must hold.
    pub rules: Option<Arc<Rules>>,
    /// Checks the signatures of the handshake.
    pub provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for RuledServers {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Some(inner) = &self.inner {
            inner.verify_server_cert(leaf, intermediates, name, ocsp, now)?;
        }
        if let Some(rules) = &self.rules {
            rules.check(leaf, intermediates)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
