//! One certificate authority: made, loaded, and signing.

use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use sha2::{Digest, Sha256};

use super::AUTHORITY_LIFE;
use super::files::{read_text, write_private, write_public};
use crate::failure::{Failure, Result};

/// The names of the authorities' files, without `.crt` and `.key`.
pub const NAMES: &[(&str, &str)] = &[
    ("ca", "quarterdeck-ca"),
    ("store-ca", "quarterdeck-store-ca"),
    ("front-proxy-ca", "quarterdeck-front-proxy-ca"),
];

/// A certificate with its key, both PEM.
pub struct Pair {
    pub cert: String,
    pub key: String,
}

/// What a leaf says of its holder.
pub struct Subject<'a> {
    pub common_name: &'a str,
    pub organizations: &'a [&'a str],
    pub serves: bool,
    pub dns_names: Vec<String>,
    pub addresses: Vec<IpAddr>,
    pub life: Duration,
}

/// An authority that can sign.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
}

/// Makes a self-signed authority and writes it as `DIR/NAME.crt` and `DIR/NAME.key`.
pub fn create(dir: &Path, name: &str, common_name: &str) -> Result<()> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    set_life(&mut params, AUTHORITY_LIFE);
    let cert = params.self_signed(&key)?;
    write_public(&dir.join(format!("{name}.crt")), cert.pem().as_bytes())?;
    write_private(&dir.join(format!("{name}.key")), key.serialize_pem().as_bytes())
}

impl Authority {
    /// Reads `DIR/NAME.crt` and `DIR/NAME.key`.
    pub fn load(dir: &Path, name: &str) -> Result<Self> {
        let cert = read_text(&dir.join(format!("{name}.crt")))?;
        let key_path = dir.join(format!("{name}.key"));
        let broken = |error: rcgen::Error| Failure::new(format!("{}: {error}", key_path.display()));
        let key = KeyPair::from_pem(&read_text(&key_path)?).map_err(broken)?;
        let issuer = Issuer::from_ca_cert_pem(&cert, key).map_err(broken)?;
        Ok(Authority { issuer })
    }

    /// Signs a fresh key for the subject. Every leaf is a client; one that `serves` is a server too.
    pub fn sign(&self, subject: &Subject<'_>) -> Result<Pair> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(subject.dns_names.clone())?;
        params.subject_alt_names.extend(subject.addresses.iter().copied().map(SanType::IpAddress));
        params.distinguished_name.push(DnType::CommonName, subject.common_name);
        for organization in subject.organizations {
            params.distinguished_name.push(DnType::OrganizationName, *organization);
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if subject.serves {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        params.use_authority_key_identifier_extension = true;
        set_life(&mut params, subject.life);
        let cert = params.signed_by(&key, &self.issuer)?;
        Ok(Pair { cert: cert.pem(), key: key.serialize_pem() })
    }
}

/// From one hour ago, so that machines with clocks slightly apart accept it at once.
fn set_life(params: &mut CertificateParams, life: Duration) {
    let now = SystemTime::now();
    params.not_before = (now - Duration::from_secs(3600)).into();
    params.not_after = (now + life).into();
}

/// SHA-256 of the DER certificate in a PEM text, in hexadecimal: what a join token pins.
pub fn fingerprint(pem: &str) -> Result<String> {
    let mut reader = pem.as_bytes();
    let der = rustls_pemfile::certs(&mut reader)
        .next()
        .ok_or_else(|| Failure::new("no certificate in the authority's PEM file"))??;
    Ok(digest(&der))
}

/// SHA-256 of a DER certificate, in hexadecimal.
pub fn digest(der: &[u8]) -> String {
    hex::encode(Sha256::digest(der))
}

/// A DER certificate as PEM.
pub fn to_pem(der: &[u8]) -> String {
    /// Characters a line.
    const LINE: usize = 64;
    let text = STANDARD.encode(der);
    let lines: Vec<String> =
        text.as_bytes().chunks(LINE).map(|line| String::from_utf8_lossy(line).into_owned()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}
