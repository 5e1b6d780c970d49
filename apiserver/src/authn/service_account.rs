//! Bound service account tokens: signature, issuer, audience, then the objects they are bound to.

use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use jsonwebtoken::{Validation, decode, decode_header};
use serde::Deserialize;

use super::bearer::{TokenOutcome, TokenStep};
use crate::contract::{ClusterReader, Object};
use crate::tokens::claims::{BoundObjects, ObjectRef, ServiceAccountClaims, user_of};
use crate::tokens::keys::VerifyingKey;

/// Verifies tokens of our issuers.
pub struct ServiceAccountTokens {
    pub issuers: Vec<String>,
    pub keys: Vec<VerifyingKey>,
    /// The audiences of this server.
    pub audiences: Vec<String>,
    pub cluster: Arc<dyn ClusterReader>,
}

#[async_trait]
impl TokenStep for ServiceAccountTokens {
    async fn check(&self, token: &str, audiences: &[String]) -> TokenOutcome {
        if !self.is_ours(token) {
            return TokenOutcome::NotMine;
        }
        let claims = match self.verify(token) {
            Ok(claims) => claims,
            Err(why) => return TokenOutcome::Refused(why),
        };
        let shared = match self.shared_audiences(&claims, audiences) {
            Ok(shared) => shared,
            Err(why) => return TokenOutcome::Refused(why),
        };
        match self.holder(&claims).await {
            Ok(user) => TokenOutcome::Found { user, audiences: shared },
            Err(why) => TokenOutcome::Refused(why),
        }
    }
}

impl ServiceAccountTokens {
    fn is_ours(&self, token: &str) -> bool {
        #[derive(Deserialize)]
        struct Issuer {
            #[serde(default)]
            iss: String,
        }
        let mut parts = token.split('.');
        let (Some(_), Some(payload), Some(_), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return false;
        };
        let Ok(payload) = URL_SAFE_NO_PAD.decode(payload) else { return false };
        serde_json::from_slice::<Issuer>(&payload).is_ok_and(|claims| self.issuers.contains(&claims.iss))
    }

    fn verify(&self, token: &str) -> Result<ServiceAccountClaims, String> {
        let header = decode_header(token).map_err(|e| e.to_string())?;
        let fits = |key: &&VerifyingKey| header.kid.as_ref().is_none_or(|id| *id == key.id);
        let mut refusal = "invalid signature, no keys found".to_owned();
        for key in self.keys.iter().filter(fits) {
            let mut validation = Validation::new(key.algorithm);
            // Times and audiences are checked by our own rules, which word their refusals as upstream does.
            validation.validate_exp = false;
            validation.validate_nbf = false;
            validation.validate_aud = false;
            validation.required_spec_claims.clear();
            match decode::<ServiceAccountClaims>(token, &key.decoding, &validation) {
                Ok(data) => return Ok(data.claims),
                Err(e) => refusal = e.to_string(),
            }
        }
        Err(refusal)
    }

    fn shared_audiences(
        &self,
        claims: &ServiceAccountClaims,
        asked: &[String],
    ) -> Result<Vec<String>, String> {
        let asked = if asked.is_empty() { &self.audiences } else { asked };
        let theirs = if claims.aud.is_empty() { &self.audiences } else { &claims.aud };
        let shared: Vec<String> =
            theirs.iter().filter(|audience| asked.contains(audience)).cloned().collect();
        if shared.is_empty() && !self.audiences.is_empty() {
            return Err(format!("token audiences {theirs:?} is invalid for the target audiences {asked:?}"));
        }
        Ok(shared)
    }

    async fn holder(&self, claims: &ServiceAccountClaims) -> Result<crate::contract::UserInfo, String> {
        let kubernetes = &claims.kubernetes;
        let namespace = kubernetes.namespace.as_str();
        let account = self.find("serviceaccounts", namespace, Some(&kubernetes.serviceaccount)).await?;
        let pod = self.find("pods", namespace, kubernetes.pod.as_ref()).await?;
        let secret = self.find("secrets", namespace, kubernetes.secret.as_ref()).await?;
        let node = self.find("nodes", "", kubernetes.node.as_ref()).await?;
        let bound = BoundObjects {
            service_account: account.as_deref(),
            pod: pod.as_deref(),
            secret: secret.as_deref(),
            node: node.as_deref(),
        };
        user_of(claims, bound, Timestamp::now())
    }

    async fn find(
        &self,
        resource: &str,
        namespace: &str,
        target: Option<&ObjectRef>,
    ) -> Result<Option<Arc<Object>>, String> {
        let Some(target) = target else { return Ok(None) };
        let found = self.cluster.find("", resource, namespace, &target.name).await;
        found.map_err(|error| format!("{resource} {} cannot be read: {error}", target.name))
    }
}
