//! RSA, P-256 and P-384 keys for service account tokens, read from the PEM files that upstream's flags name.
//!
//! A key id is upstream's: the unpadded base64url SHA-256 of the DER public key, so that tokens and key sets
//! can move between both servers. P-521 keys, which the token library cannot use, are refused when they are read.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
    KeyPair, RsaKeyPair,
};
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
        "{file}: no private or public key in it; expected RSA, P-256 or P-384 in PKCS#1, SEC1, PKCS#8 or SPKI form"
    )]
    Empty { file: String },
    #[error("{file}: {what}; use an RSA key of 2048 bits or more, or a P-256 or P-384 key")]
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
    Rsa {
        modulus: Vec<u8>,
        exponent: Vec<u8>,
    },
    /// `curve` by the name that JSON web keys use.
    Ec {
        curve: &'static str,
        x: Vec<u8>,
        y: Vec<u8>,
    },
}

/// The private key that signs new tokens.
#[derive(Clone)]
pub struct SigningKey {
    pub encoding: EncodingKey,
    pub public: VerifyingKey,
}

const OID_RSA: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const OID_EC: &[u8] = &[0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];

/// A curve that tokens are signed on.
struct Curve {
    name: &'static str,
    /// The whole DER element.
    oid: &'static [u8],
    algorithm: Algorithm,
    signing: &'static EcdsaSigningAlgorithm,
    coordinate_len: usize,
}

const CURVES: [Curve; 2] = [
    Curve {
        name: "P-256",
        oid: &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07],
        algorithm: Algorithm::ES256,
        signing: &ECDSA_P256_SHA256_FIXED_SIGNING,
        coordinate_len: 32,
    },
    Curve {
        name: "P-384",
        oid: &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22],
        algorithm: Algorithm::ES384,
        signing: &ECDSA_P384_SHA384_FIXED_SIGNING,
        coordinate_len: 48,
    },
];
/// First byte of a point that is given by both coordinates.
const UNCOMPRESSED: u8 = 4;
/// Bytes in front of an element's content: tag and length.
const TLV_HEAD_LEN: usize = 2;
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
        Item::Sec1Key(der) => ec_key(file, |curve| sec1_as_pkcs8(curve, der.secret_sec1_der())).map(Some),
        Item::Pkcs8Key(der) => {
            let der = der.secret_pkcs8_der();
            match RsaKeyPair::from_pkcs8(der) {
                Ok(pair) => rsa_key(file, pkcs8_inner(file, der)?, &pair).map(Some),
                Err(_) => ec_key(file, |_| der.to_vec()).map(Some),
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

/// The key on the first curve that it fits; `pkcs8` gives its bytes for a curve.
fn ec_key(file: &str, pkcs8: impl Fn(&Curve) -> Vec<u8>) -> Result<SigningKey, KeyError> {
    let random = ring::rand::SystemRandom::new();
    let fitting = CURVES.iter().find_map(|curve| {
        let bytes = pkcs8(curve);
        let pair = EcdsaKeyPair::from_pkcs8(curve.signing, &bytes, &random).ok()?;
        Some((curve, bytes, pair))
    });
    let (curve, bytes, pair) =
        fitting.ok_or_else(|| unusable(file, "a private key that is neither RSA nor on P-256 or P-384"))?;
    let algorithm = tlv(DER_SEQUENCE, &[OID_EC, curve.oid].concat());
    let spki = tlv(DER_SEQUENCE, &[algorithm, bit_string(pair.public_key().as_ref())].concat());
    Ok(SigningKey { encoding: EncodingKey::from_ec_der(&bytes), public: public_key(file, &spki)? })
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
        PublicKey::EC(point) => {
            let named = info.algorithm.parameters.as_ref().map(|named| named.data);
            let curve = CURVES.iter().find(|curve| named == Some(&curve.oid[TLV_HEAD_LEN..]));
            let key = curve.and_then(|curve| ec_public_key(id, curve, point.data()));
            key.ok_or_else(|| unusable(file, "a public key on a curve that is neither P-256 nor P-384"))
        }
        _ => Err(unusable(file, "a public key that is neither RSA nor on P-256 or P-384")),
    }
}

/// `None` where the point is not in the uncompressed form, or not of the curve's length.
fn ec_public_key(id: String, curve: &Curve, point: &[u8]) -> Option<VerifyingKey> {
    let (&form, coordinates) = point.split_first()?;
    if form != UNCOMPRESSED || coordinates.len() != 2 * curve.coordinate_len {
        return None;
    }
    let (x, y) = coordinates.split_at(curve.coordinate_len);
    Some(VerifyingKey {
        id,
        algorithm: curve.algorithm,
        decoding: DecodingKey::from_ec_der(point),
        shape: KeyShape::Ec { curve: curve.name, x: x.to_vec(), y: y.to_vec() },
    })
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

fn sec1_as_pkcs8(curve: &Curve, sec1: &[u8]) -> Vec<u8> {
    let algorithm = tlv(DER_SEQUENCE, &[OID_EC, curve.oid].concat());
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
    use jsonwebtoken::{Header, Validation, decode, encode};
    use serde_json::{Value, json};

    /// Keys made for this test by `openssl ecparam -genkey`, `openssl genrsa`, `openssl pkcs8` and `openssl … -pubout`.
    const EC_PEM: &str = include_str!("testdata/ec.pem");
    const EC384_PEM: &str = include_str!("testdata/ec384.pem");
    const EC384_PKCS8_PEM: &str = include_str!("testdata/ec384.pkcs8.pem");
    const EC384_PUBLIC_PEM: &str = include_str!("testdata/ec384.pub.pem");
    const EC521_PEM: &str = include_str!("testdata/ec521.pem");
    const EC521_PUBLIC_PEM: &str = include_str!("testdata/ec521.pub.pem");
    const RSA_PEM: &str = include_str!("testdata/rsa.pem");
    const RSA_PUBLIC_PEM: &str = include_str!("testdata/rsa.pub.pem");

    /// What the private key signs, the public one verifies, and a changed signature it does not.
    #[test]
    fn tokens_are_signed_and_verified() {
        let check = |private: &str, public: &str, algorithm: Algorithm| {
            let private = signing_key("private", private.as_bytes()).expect("a private key");
            let public = verifying_keys("public", public.as_bytes()).expect("public keys").remove(0);
            assert_eq!((&private.public.id, &private.public.shape), (&public.id, &public.shape));
            assert_eq!((private.public.algorithm, public.algorithm), (algorithm, algorithm));
            let token =
                encode(&Header::new(algorithm), &json!({"sub": "a"}), &private.encoding).expect("a token");
            let mut validation = Validation::new(public.algorithm);
            validation.required_spec_claims.clear();
            validation.validate_exp = false;
            let claims = decode::<Value>(&token, &public.decoding, &validation).map(|data| data.claims);
            assert_eq!(claims.expect("verified"), json!({"sub": "a"}));
            let (signed, signature) = token.rsplit_once('.').expect("three parts");
            let swapped: String = signature.chars().rev().collect();
            let forged = format!("{signed}.{swapped}");
            assert!(decode::<Value>(&forged, &public.decoding, &validation).is_err());
        };
        check(RSA_PEM, RSA_PUBLIC_PEM, Algorithm::RS256);
        check(EC_PEM, EC_PEM, Algorithm::ES256);
        check(EC384_PEM, EC384_PUBLIC_PEM, Algorithm::ES384);
        check(EC384_PKCS8_PEM, EC384_PUBLIC_PEM, Algorithm::ES384);
        check(EC384_PEM, EC384_PKCS8_PEM, Algorithm::ES384);
    }

    #[test]
    fn what_cannot_be_used_is_refused() {
        assert!(matches!(signing_key("x", b"hello"), Err(KeyError::Empty { .. })));
        let broken = RSA_PUBLIC_PEM.replace("MIIB", "AAAA");
        assert!(verifying_keys("x", broken.as_bytes()).is_err());
        let private = signing_key("sa.key", EC521_PEM.as_bytes()).map(drop).expect_err("P-521").to_string();
        assert!(private.contains("sa.key") && private.contains("P-384"), "{private}");
        let public =
            verifying_keys("sa.pub", EC521_PUBLIC_PEM.as_bytes()).map(drop).expect_err("P-521").to_string();
        assert!(public.contains("sa.pub") && public.contains("P-384"), "{public}");
    }
}
