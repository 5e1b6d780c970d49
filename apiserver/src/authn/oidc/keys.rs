//! An issuer's public keys, fetched over HTTPS and kept; a key that is not known is looked for again, but not more often
//! than every few seconds, so that made-up tokens cannot make us hammer the issuer.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use jsonwebtoken::DecodingKey;
use jsonwebtoken::jwk::{AlgorithmParameters, Jwk};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::time::Instant;

use super::config::Issuer;
use crate::http::tls::provider;

/// Least time between two fetches.
const REFETCH_INTERVAL: Duration = Duration::from_secs(5);
/// Keys older than this are fetched again before they are used: a withdrawn key ends within this time.
const KEYS_AGE_MAX: Duration = Duration::from_secs(600);
/// An issuer that does not answer in this time is not there.
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);
const DOCUMENT_LEN_MAX: usize = 1 << 20;
/// Where distributions keep the authorities that everybody trusts.
const SYSTEM_AUTHORITIES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// Why an issuer's server cannot be trusted; the configuration has to change.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    #[error("the authority of issuer {issuer}: {what}")]
    Authority { issuer: String, what: String },
}

#[derive(Default)]
struct Known {
    keys: Vec<Jwk>,
    fetched: Option<Instant>,
    tried: Option<Instant>,
}

/// The keys of one issuer.
pub struct Keys {
    issuer: String,
    configuration_url: String,
    client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
    /// Held while fetching: everybody waits for one fetch.
    known: tokio::sync::Mutex<Known>,
}

impl Keys {
    pub fn new(issuer: &Issuer) -> Result<Self, KeysError> {
        let fail = |what: String| KeysError::Authority { issuer: issuer.url.clone(), what };
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|e| fail(e.to_string()))?
            .with_root_certificates(roots(&issuer.authority_pem).map_err(fail)?)
            .with_no_client_auth();
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(config)
            .https_only()
            .enable_http1()
            .build();
        let below = format!("{}/.well-known/openid-configuration", issuer.url.trim_end_matches('/'));
        Ok(Self {
            issuer: issuer.url.clone(),
            configuration_url: Some(issuer.discovery_url.clone())
                .filter(|url| !url.is_empty())
                .unwrap_or(below),
            client: Client::builder(TokioExecutor::new()).build(connector),
            known: tokio::sync::Mutex::default(),
        })
    }

    /// The keys that may have signed a token with this key id.
    pub async fn matching(&self, id: Option<&str>) -> Result<Vec<DecodingKey>, String> {
        let mut known = self.known.lock().await;
        let fits = |key: &Jwk| id.is_none() || key.common.key_id.as_deref() == id;
        let is_old = known.fetched.is_none_or(|at| at.elapsed() > KEYS_AGE_MAX);
        let may_try = known.tried.is_none_or(|at| at.elapsed() > REFETCH_INTERVAL);
        if (is_old || !known.keys.iter().any(fits)) && may_try {
            known.tried = Some(Instant::now());
            match self.fetch().await {
                Ok(keys) => *known = Known { keys, fetched: Some(Instant::now()), tried: known.tried },
                // Old keys are better than none while the issuer is away.
                Err(error) if known.keys.is_empty() => return Err(error),
                Err(error) => tracing::warn!(issuer = self.issuer, %error, "keys could not be fetched again"),
            }
        }
        if known.fetched.is_none() {
            return Err("oidc: authenticator not initialized".to_owned());
        }
        Ok(known
            .keys
            .iter()
            .filter(|key| fits(key))
            .filter_map(|key| DecodingKey::from_jwk(key).ok())
            .collect())
    }

    async fn fetch(&self) -> Result<Vec<Jwk>, String> {
        let configuration = self.get(&self.configuration_url).await?;
        if configuration["issuer"] != self.issuer.as_str() {
            return Err(format!(
                "oidc: issuer did not match the issuer returned by provider, expected {:?}",
                self.issuer
            ));
        }
        let place = configuration["jwks_uri"].as_str().ok_or("oidc: the provider names no jwks_uri")?;
        let set = self.get(place).await?;
        Ok(public_keys(&set))
    }

    async fn get(&self, url: &str) -> Result<Value, String> {
        let fail = |why: String| format!("oidc: {url}: {why}");
        let request = Request::get(url).body(Empty::new()).map_err(|e| fail(e.to_string()))?;
        let answer = async {
            let response = self.client.request(request).await.map_err(|e| fail(e.to_string()))?;
            if !response.status().is_success() {
                return Err(fail(response.status().to_string()));
            }
            let body = Limited::new(response.into_body(), DOCUMENT_LEN_MAX).collect().await;
            Ok(body.map_err(|e| fail(e.to_string()))?.to_bytes())
        };
        let bytes =
            tokio::time::timeout(FETCH_TIMEOUT, answer).await.map_err(|_| fail("timed out".into()))??;
        serde_json::from_slice(&bytes).map_err(|e| fail(e.to_string()))
    }
}

/// The set's keys that can verify: a shared secret in a public place proves nothing, and keys of sorts nobody knows yet
/// are passed over.
fn public_keys(set: &Value) -> Vec<Jwk> {
    let keys = set["keys"].as_array().into_iter().flatten();
    let keys = keys.filter_map(|key| serde_json::from_value::<Jwk>(key.clone()).ok());
    let verifies = |key: &Jwk| {
        !matches!(key.algorithm, AlgorithmParameters::OctetKey(_)) && DecodingKey::from_jwk(key).is_ok()
    };
    keys.filter(verifies).collect()
}

fn roots(pem: &str) -> Result<Arc<RootCertStore>, String> {
    let mut roots = RootCertStore::empty();
    if !pem.is_empty() {
        for certificate in rustls_pemfile::certs(&mut pem.as_bytes()) {
            roots.add(certificate.map_err(|e| e.to_string())?).map_err(|e| e.to_string())?;
        }
        return if roots.is_empty() { Err("no certificate in it".to_owned()) } else { Ok(Arc::new(roots)) };
    }
    let bundle = SYSTEM_AUTHORITIES.iter().find_map(|path| std::fs::read(path).ok()).unwrap_or_default();
    // Bundles hold old certificates that the library refuses; the others count.
    roots.add_parsable_certificates(rustls_pemfile::certs(&mut &bundle[..]).filter_map(Result::ok));
    Ok(Arc::new(roots))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_public_keys_count() {
        let set = json!({"keys": [
            {"kty": "RSA", "kid": "a", "n": "AQAB", "e": "AQAB"},
            {"kty": "oct", "kid": "b", "k": "AQAB"},
            {"kty": "new", "kid": "c"},
        ]});
        let ids: Vec<_> = public_keys(&set).into_iter().filter_map(|key| key.common.key_id).collect();
        assert_eq!(ids, ["a"]);
        assert!(roots("nonsense").is_err());
    }
}
