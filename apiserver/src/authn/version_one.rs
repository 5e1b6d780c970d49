//! Client certificates of X.509 version 1, which `openssl x509 -req` made for decades: no extensions, hence no usages to
//! check. The TLS library refuses them, kube-apiserver does not; so what it checks of others is checked here.
//!
//! They count only where an authority of the file has signed them itself.

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::CertificateDer;
use rustls::{CertificateError, DigitallySignedStruct, Error};
use x509_parser::prelude::{ASN1Time, FromDer, X509Certificate, X509Version};

/// The certificate, where it is one of version 1.
fn parse(der: &[u8]) -> Option<X509Certificate<'_>> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    (certificate.version == X509Version::V1).then_some(certificate)
}

pub fn is_version_one(der: &[u8]) -> bool {
    parse(der).is_some()
}

/// Proves that the client holds the certificate's key, by its signature of the handshake.
///
/// # Errors
/// `refusal` where the certificate is not of version 1, else what is wrong with the signature.
pub fn verify_handshake(
    der: &[u8],
    message: &[u8],
    signature: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
    refusal: Error,
) -> Result<HandshakeSignatureValid, Error> {
    let Some(certificate) = parse(der) else { return Err(refusal) };
    let key = &certificate.public_key().subject_public_key.data;
    let of_scheme = algorithms.mapping.iter().filter(|(scheme, _)| *scheme == signature.scheme);
    let mut candidates = of_scheme.flat_map(|(_, algorithms)| algorithms.iter());
    if candidates.any(|algorithm| algorithm.verify_signature(key, message, signature.signature()).is_ok()) {
        return Ok(HandshakeSignatureValid::assertion());
    }
    Err(CertificateError::BadSignature.into())
}

/// Whether one of the authorities has signed the certificate, and it is valid now.
///
/// # Errors
/// In words, why not.
pub fn verify_issued(der: &[u8], authorities: &[CertificateDer<'_>], now: i64) -> Result<(), String> {
    let certificate = parse(der).ok_or("not a certificate of version 1")?;
    let now = ASN1Time::from_timestamp(now).map_err(|e| e.to_string())?;
    if !certificate.validity().is_valid_at(now) {
        return Err("x509: certificate has expired or is not yet valid".to_owned());
    }
    let signed = authorities.iter().any(|authority| {
        X509Certificate::from_der(authority).is_ok_and(|(_, authority)| {
            authority.subject().as_raw() == certificate.issuer().as_raw()
                && authority.validity().is_valid_at(now)
                && certificate.verify_signature(Some(authority.public_key())).is_ok()
        })
    });
    if signed { Ok(()) } else { Err("x509: certificate signed by unknown authority".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two authorities of the same name, and a certificate of version 1 by each; valid for a century.
    const OURS: &str = include_str!("../../tests/certificates/ours.pem");
    const OURS_LEAF: &str = include_str!("../../tests/certificates/ours-leaf.pem");
    const THEIRS_LEAF: &str = include_str!("../../tests/certificates/theirs-leaf.pem");
    /// In 2030.
    const NOW: i64 = 1_900_000_000;

    fn der(pem: &str) -> CertificateDer<'static> {
        rustls_pemfile::certs(&mut pem.as_bytes()).next().expect("a certificate").expect("PEM")
    }

    #[test]
    fn only_the_authority_itself_makes_them_count() {
        let authorities = [der(OURS)];
        let check = |leaf: &str, now, expected: bool| {
            assert_eq!(verify_issued(&der(leaf), &authorities, now).is_ok(), expected, "{now}");
        };
        check(OURS_LEAF, NOW, true);
        check(THEIRS_LEAF, NOW, false);
        check(OURS_LEAF, 0, false);
        check(OURS_LEAF, 200 * 365 * 86_400, false);
        check(OURS, NOW, false);
        assert!(is_version_one(&der(OURS_LEAF)) && !is_version_one(&der(OURS)));
    }
}
