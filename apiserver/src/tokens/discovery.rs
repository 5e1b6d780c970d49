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
        KeyShape::P256 { x, y } => json!({
            "use": "sig", "kty": "EC", "kid": key.id, "crv": "P-256", "alg": "ES256",
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokens::keys::verifying_keys;

    #[test]
    fn both_documents_name_the_algorithms_of_the_keys() {
        let keys = verifying_keys("rsa", include_bytes!("testdata/rsa.pub.pem")).unwrap();
        let config = configuration("https://issuer", "https://issuer/openid/v1/jwks", &keys);
        assert_eq!(config["id_token_signing_alg_values_supported"], json!(["RS256"]));
        let set = key_set(&keys);
        assert_eq!(set["keys"][0]["e"], "AQAB");
        assert_eq!(set["keys"][0]["kid"], keys[0].id.as_str());
    }
}
