//! OpenID Connect: tokens of issuers that are not this cluster, from the `--oidc-*` flags or a file of kind
//! AuthenticationConfiguration.
//!
//! [`config`] reads what is wanted, [`claims`] makes users of verified claims (both pure), [`keys`] fetches and keeps an
//! issuer's keys. Expressions in CEL are refused when the file is read.

pub mod claims;
pub mod config;
pub mod keys;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use jsonwebtoken::{Validation, decode, decode_header};
use serde_json::{Map, Value};

use super::bearer::{TokenOutcome, TokenStep};
pub use config::{AuthenticationFile, ConfigError, Flags, Issuer};
use keys::{Keys, KeysError};

/// Verifies the tokens of one issuer.
pub struct OidcTokens {
    issuer: Issuer,
    keys: Keys,
}

impl OidcTokens {
    /// # Errors
    /// The issuer's authority cannot be used.
    pub fn new(issuer: Issuer) -> Result<Self, KeysError> {
        let keys = Keys::new(&issuer)?;
        Ok(Self { issuer, keys })
    }

    async fn verify(&self, token: &str) -> Result<Map<String, Value>, String> {
        let header = decode_header(token).map_err(|e| format!("oidc: malformed jwt: {e}"))?;
        if !self.issuer.algorithms.contains(&header.alg) {
            return Err(format!("oidc: unsupported signing algorithm, got {:?}", header.alg));
        }
        let mut refusal = "oidc: verify token: failed to verify signature: no key fits".to_owned();
        for key in self.keys.matching(header.kid.as_deref()).await? {
            let mut validation = Validation::new(header.alg);
            // Times, audiences and issuer are checked by our own rules.
            validation.validate_exp = false;
            validation.validate_nbf = false;
            validation.validate_aud = false;
            validation.required_spec_claims.clear();
            match decode::<Map<String, Value>>(token, &key, &validation) {
                Ok(data) => return Ok(data.claims),
                Err(error) => {
                    refusal = format!("oidc: verify token: failed to verify signature: {error}");
                }
            }
        }
        Err(refusal)
    }
}

/// The unverified issuer of a token, which says whose it is.
fn issuer_of(token: &str) -> Option<String> {
    let mut parts = token.split('.');
    let (Some(_), Some(payload), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return None;
    };
    let claims: Map<String, Value> = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
    claims.get("iss")?.as_str().map(str::to_owned)
}

#[async_trait]
impl TokenStep for OidcTokens {
    async fn check(&self, token: &str, audiences: &[String]) -> TokenOutcome {
        if issuer_of(token).as_deref() != Some(self.issuer.url.as_str()) {
            return TokenOutcome::NotMine;
        }
        let verified = self.verify(token).await;
        let user = verified.and_then(|claims| claims::user(&self.issuer, &claims, Timestamp::now()));
        match user {
            Ok(user) => TokenOutcome::Found { user, audiences: audiences.to_vec() },
            Err(why) => TokenOutcome::Refused(why),
        }
    }
}
