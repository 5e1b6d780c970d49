//! RSA and P-256 keys for service account tokens, read from the PEM files that upstream's flags name.
//!
//! A key id is upstream's: the unpadded base64url SHA-256 of the DER public key, so that tokens and key sets
//! can move between both servers. P-384 and P-521 keys are refused.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RsaKeyPair};
use rustls_pemfile::Item;
use sha2::{Digest, Sha256};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

/// Why a key file could not be used. A retry does not help: the file has to change.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("{file}: not a PEM file: {source}")]
    Pem { file: String, source: std::io::Error },
    #[error(
        "{file}: no private or public key in it; expected RSA or P-256 in PKCS#1, SEC1, PKCS#8 or SPKI form"
    )]
    Empty { file: String },
    #[error("{file}: {what}; use an RSA key of 2048 bits or more, or a P-256 key")]
    Unusable { file: String, what: String },
}

/// A public key that may have signed a token.
#[derive(Clone)]
pub struct VerifyingKey {
    pub id: String,
    pub algorithm: Algorithm,
    pub decoding: DecodingKey,
    pub shape: KeyShape,
}

/// The numbers of a public key, as a JSON web key shows them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyShape {
    Rsa { modulus: Vec<u8>, exponent: Vec<u8> },
    P256 { x: Vec<u8>, y: Vec<u8> },
}

/// The private key that signs new tokens.
#[derive(Clone)]
pub struct SigningKey {
    pub encoding: EncodingKey,
    pub public: VerifyingKey,
}

const OID_RSA: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const OID_EC: &[u8] = &[0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const OID_P256: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const DER_INTEGER: u8 = 0x02;
const DER_BIT_STRING: u8 = 0x03;
const DER_OCTET_STRING: u8 = 0x04;
const DER_SEQUENCE: u8 = 0x30;

/// The first private key in the PEM text; `file` names it in errors.
pub fn signing_key(file: &str, pem: &[u8]) -> Result<SigningKey, KeyError> {
    for item in items(file, pem)? {
        if let Some(key) = private_key(file, &item)? {
            return Ok(key);
        }
    }
    Err(KeyError::Empty { file: file.to_owned() })
}

/// Every key in the PEM text; private keys count by their public half, certificates by their subject's key.
pub fn verifying_keys(file: &str, pem: &[u8]) -> Result<Vec<VerifyingKey>, KeyError> {
    let mut keys = Vec::new();
    for item in items(file, pem)? {
        match &item {
            Item::SubjectPublicKeyInfo(der) => keys.push(public_key(file, der.as_ref())?),
            Item::X509Certificate(der) => {
                let (_, certificate) = x509_parser::parse_x509_certificate(der)
                    .map_err(|e| unusable(file, format!("a certificate that does not parse: {e}")))?;
                keys.push(public_key(file, certificate.public_key().raw)?);
            }
            other => keys.extend(private_key(file, other)?.map(|key| key.public)),
        }
    }
    if keys.is_empty() { Err(KeyError::Empty { file: file.to_owned() }) } else { Ok(keys) }
}

fn items(file: &str, pem: &[u8]) -> Result<Vec<Item>, KeyError> {
    let mut reader = std::io::Cursor::new(pem);
    rustls_pemfile::read_all(&mut reader)
        .collect::<Result<_, _>>()
        .map_err(|source| KeyError::Pem { file: file.to_owned(), source })
}

fn unusable(file: &str, what: impl Into<String>) -> KeyError {
    KeyError::Unusable { file: file.to_owned(), what: what.into() }
}

fn private_key(file: &str, item: &Item) -> Result<Option<SigningKey>, KeyError> {
    match item {
        Item::Pkcs1Key(der) => {
            let pair =
                RsaKeyPair::from_der(der.secret_pkcs1_der()).map_err(|e| unusable(file, e.to_string()))?;
            rsa_key(file, der.secret_pkcs1_der(), &pair).map(Some)
        }
        Item::Sec1Key(der) => ec_key(file, &sec1_as_pkcs8(der.secret_sec1_der())).map(Some),
        Item::Pkcs8Key(der) => {
            let der = der.secret_pkcs8_der();
            match RsaKeyPair::from_pkcs8(der) {
                Ok(pair) => rsa_key(file, pkcs8_inner(file, der)?, &pair).map(Some),
                Err(_) => ec_key(file, der).map(Some),
            }
        }
        _ => Ok(None),
    }
}

fn rsa_key(file: &str, pkcs1: &[u8], pair: &RsaKeyPair) -> Result<SigningKey, KeyError> {
    let algorithm = tlv(DER_SEQUENCE, &[OID_RSA, &[0x05, 0x00]].concat());
    let spki = tlv(DER_SEQUENCE, &[algorithm, bit_string(pair.public_key().as_ref())].concat());
    Ok(SigningKey { encoding: EncodingKey::from_rsa_der(pkcs1), public: public_key(file, &spki)? })
}

fn ec_key(file: &str, pkcs8: &[u8]) -> Result<SigningKey, KeyError> {
    let random = ring::rand::SystemRandom::new();
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8, &random)
        .map_err(|e| unusable(file, format!("a private key that is neither RSA nor P-256: {e}")))?;
    let algorithm = tlv(DER_SEQUENCE, &[OID_EC, OID_P256].concat());
    let spki = tlv(DER_SEQUENCE, &[algorithm, bit_string(pair.public_key().as_ref())].concat());
    Ok(SigningKey { encoding: EncodingKey::from_ec_der(pkcs8), public: public_key(file, &spki)? })
}

fn public_key(file: &str, spki: &[u8]) -> Result<VerifyingKey, KeyError> {
    let (_, info) = SubjectPublicKeyInfo::from_der(spki).map_err(|e| unusable(file, e.to_string()))?;
    let parsed = info.parsed().map_err(|e| unusable(file, e.to_string()))?;
    let id = URL_SAFE_NO_PAD.encode(Sha256::digest(spki));
    match parsed {
        PublicKey::RSA(rsa) => {
            let (modulus, exponent) = (strip_zeros(rsa.modulus), strip_zeros(rsa.exponent));
            let decoding = DecodingKey::from_rsa_raw_components(&modulus, &exponent);
            Ok(VerifyingKey {
                id,
                algorithm: Algorithm::RS256,
                decoding,
                shape: KeyShape::Rsa { modulus, exponent },
            })
        }
        PublicKey::EC(point) if point.data().len() == 65 && point.data()[0] == 4 => {
            let data = point.data();
            let shape = KeyShape::P256 { x: data[1..33].to_vec(), y: data[33..].to_vec() };
            Ok(VerifyingKey {
                id,
                algorithm: Algorithm::ES256,
                decoding: DecodingKey::from_ec_der(data),
                shape,
            })
        }
        _ => Err(unusable(file, "a public key that is neither RSA nor P-256")),
    }
}

fn strip_zeros(number: &[u8]) -> Vec<u8> {
    let start = number.iter().position(|byte| *byte != 0).unwrap_or(0);
    number[start..].to_vec()
}

/// One DER element; contents here stay below 64 KiB.
fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match content.len() {
        short @ 0..=0x7f => out.push(short as u8),
        byte @ 0x80..=0xff => out.extend([0x81, byte as u8]),
        long => out.extend([0x82, (long >> 8) as u8, long as u8]),
    }
    out.extend_from_slice(content);
    out
}

fn bit_string(content: &[u8]) -> Vec<u8> {
    tlv(DER_BIT_STRING, &[&[0u8], content].concat())
}

fn sec1_as_pkcs8(sec1: &[u8]) -> Vec<u8> {
    let algorithm = tlv(DER_SEQUENCE, &[OID_EC, OID_P256].concat());
    tlv(DER_SEQUENCE, &[tlv(DER_INTEGER, &[0]), algorithm, tlv(DER_OCTET_STRING, sec1)].concat())
}

/// The private key structure inside a PKCS#8 wrapper.
fn pkcs8_inner<'a>(file: &str, pkcs8: &'a [u8]) -> Result<&'a [u8], KeyError> {
    let bad = || unusable(file, "a PKCS#8 wrapper that does not parse");
    let (_, _, body) = read_tlv(pkcs8).ok_or_else(bad)?;
    let (rest, _, _) = read_tlv(body).ok_or_else(bad)?;
    let (rest, _, _) = read_tlv(rest).ok_or_else(bad)?;
    let (_, tag, inner) = read_tlv(rest).ok_or_else(bad)?;
    if tag == DER_OCTET_STRING { Ok(inner) } else { Err(bad()) }
}

/// Splits the first DER element off: what follows it, its tag, its content.
fn read_tlv(input: &[u8]) -> Option<(&[u8], u8, &[u8])> {
    let (&tag, rest) = input.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        short @ 0..=0x7f => (usize::from(short), rest),
        count @ 0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(count & 0x7f))?;
            (bytes.iter().fold(0usize, |sum, byte| sum << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((rest, tag, content))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A P-256 key made for this test by `openssl ecparam -genkey`.
    const EC_PEM: &str = include_str!("testdata/ec.pem");
    const RSA_PEM: &str = include_str!("testdata/rsa.pem");
    const RSA_PUBLIC_PEM: &str = include_str!("testdata/rsa.pub.pem");

    #[test]
    fn private_and_public_halves_share_their_id() {
        let private = signing_key("rsa.pem", RSA_PEM.as_bytes()).unwrap();
        let public = verifying_keys("rsa.pub.pem", RSA_PUBLIC_PEM.as_bytes()).unwrap();
        assert_eq!(private.public.id, public[0].id);
        assert_eq!(private.public.shape, public[0].shape);
    }

    #[test]
    fn sec1_and_garbage() {
        let key = signing_key("ec.pem", EC_PEM.as_bytes()).unwrap();
        assert_eq!(key.public.algorithm, Algorithm::ES256);
        assert!(matches!(signing_key("x", b"hello"), Err(KeyError::Empty { .. })));
        let broken = RSA_PUBLIC_PEM.replace("MIIB", "AAAA");
        assert!(verifying_keys("x", broken.as_bytes()).is_err());
    }
}
