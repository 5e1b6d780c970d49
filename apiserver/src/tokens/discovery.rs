//! The OIDC discovery documents that let others verify our service account tokens.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::keys::{KeyShape, VerifyingKey};

/// Where the configuration document is served.
pub const CONFIGURATION_PATH: &str = "/.well-known/openid-configuration";
/// Where the key set is served.
pub const KEY_SET_PATH: &str = "/openid/v1/jwks";
/// `Content-Type` of the key set.
pub const KEY_SET_TYPE: &str = "application/jwk-set+json";
/// How long both documents may be cached, seconds.
pub const MAX_AGE_SECS: u32 = 3600;

/// The provider configuration; `jwks_uri` defaults to the external address of this server.
pub fn configuration(issuer: &str, jwks_uri: &str, keys: &[VerifyingKey]) -> Value {
    let mut algorithms: Vec<String> = keys.iter().map(|key| format!("{:?}", key.algorithm)).collect();
    algorithms.sort();
    algorithms.dedup();
    json!({
        "issuer": issuer,
        "jwks_uri": jwks_uri,
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": algorithms,
    })
}

/// The JSON web key set of all verifying keys.
pub fn key_set(keys: &[VerifyingKey]) -> Value {
    json!({ "keys": keys.iter().map(web_key).collect::<Vec<_>>() })
}

fn web_key(key: &VerifyingKey) -> Value {
    match &key.shape {
        KeyShape::Rsa { modulus, exponent } => json!({
            "use": "sig", "kty": "RSA", "kid": key.id, "alg": "RS256",
            "n": URL_SAFE_NO_PAD.encode(modulus), "e": URL_SAFE_NO_PAD.encode(exponent),
        }),
        KeyShape::Ec { curve, x, y } => json!({
            "use": "sig", "kty": "EC", "kid": key.id, "crv": curve, "alg": format!("{:?}", key.algorithm),
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokens::keys::{signing_key, verifying_keys};
    use jsonwebtoken::jwk::Jwk;
    use jsonwebtoken::{DecodingKey, Header, Validation, decode, encode};

    #[test]
    fn both_documents_name_the_algorithms_of_the_keys() {
        let keys = verifying_keys("rsa", include_bytes!("testdata/rsa.pub.pem")).unwrap();
        let config = configuration("https://issuer", "https://issuer/openid/v1/jwks", &keys);
        assert_eq!(config["id_token_signing_alg_values_supported"], json!(["RS256"]));
        let set = key_set(&keys);
        assert_eq!(set["keys"][0]["e"], "AQAB");
        assert_eq!(set["keys"][0]["kid"], keys[0].id.as_str());
    }

    /// A verifier who knows nothing but the key set takes our tokens, as an OIDC client does.
    #[test]
    fn tokens_are_verified_by_the_key_set() {
        let rsa = include_bytes!("testdata/rsa.pem").as_slice();
        let check = |pem: &[u8], algorithm: &str| {
            let key = signing_key("key", pem).expect("a key");
            let set = key_set(std::slice::from_ref(&key.public));
            assert_eq!(set["keys"][0]["alg"], algorithm);
            let jwk: Jwk = serde_json::from_value(set["keys"][0].clone()).expect("a JSON web key");
            let public = DecodingKey::from_jwk(&jwk).expect("a public key");
            let token =
                encode(&Header::new(key.public.algorithm), &json!({"a": 1}), &key.encoding).expect("a token");
            let mut validation = Validation::new(key.public.algorithm);
            validation.required_spec_claims.clear();
            validation.validate_exp = false;
            assert!(decode::<Value>(&token, &public, &validation).is_ok(), "{algorithm}");
        };
        check(rsa, "RS256");
        check(include_bytes!("testdata/ec.pem"), "ES256");
        check(include_bytes!("testdata/ec384.pem"), "ES384");
    }
}
