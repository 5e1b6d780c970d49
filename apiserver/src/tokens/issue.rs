//! The TokenRequest subresource of service accounts: checks what is asked, signs the token.
//!
//! Source of texts and rules: upstream `registry/core/serviceaccount/storage/token.go`. Does not authorize.

use jiff::Timestamp;
use jsonwebtoken::Header;
use machinery::status::{FieldError, Path, StatusError};
use serde_json::{Value, json};

use super::claims::{Bindings, ObjectRef, ServiceAccountClaims, username};
use super::keys::SigningKey;
use crate::contract::{ClusterReader, Object, RequestContext};
use crate::kinds::json::{at, has, int, set, text, texts};

const GROUP: &str = "authentication.k8s.io";
const KIND: &str = "TokenRequest";
/// Shortest life that may be asked for, seconds.
const EXPIRATION_MIN_SECS: i64 = 600;
const EXPIRATION_MAX_SECS: i64 = 1 << 32;
const EXPIRATION_DEFAULT_SECS: i64 = 3600;
/// The life that injected volumes ask for; such tokens live longer and only warn after it.
pub const WARN_ONLY_EXPIRATION_SECS: i64 = 3607;
const EXTENDED_EXPIRATION_SECS: i64 = 365 * 24 * 3600;

/// Signs service account tokens.
pub struct TokenIssuer {
    pub issuer: String,
    pub key: SigningKey,
    /// The audiences of this server; requests that name none get these.
    pub audiences: Vec<String>,
    /// Upper bound on the life of a token, seconds (`--service-account-max-token-expiration`).
    pub expiration_max_secs: Option<i64>,
    /// Whether pod-bound tokens of the injected life are extended to a year (`--service-account-extend-token-expiration`).
    pub extend_expiration: bool,
}

impl TokenIssuer {
    /// Answers `POST serviceaccounts/{name}/token`; returns the TokenRequest with its status.
    pub async fn request(&self, ctx: &RequestContext, mut request: Object) -> Result<Object, StatusError> {
        let (namespace, name) = (ctx.info.namespace.as_str(), ctx.info.name.as_str());
        if namespace.is_empty() {
            return Err(StatusError::bad_request("namespace is required"));
        }
        check_address(&request, namespace, name)?;
        let account = ctx
            .cluster
            .get_current("", "serviceaccounts", namespace, name)
            .await?
            .ok_or_else(|| StatusError::not_found("", "serviceaccounts", name))?;
        self.complete(&mut request, &account, ctx.now)?;
        let bound = self.bound(ctx.cluster.as_ref(), &request, namespace, name).await?;
        if let Some(max) = self.expiration_max_secs
            && int(&request, &["spec", "expirationSeconds"]).unwrap_or_default() > max
        {
            let asked = int(&request, &["spec", "expirationSeconds"]).unwrap_or_default();
            ctx.warn(format!("requested expiration of {asked} seconds shortened to {max} seconds"));
            set(&mut request, &["spec", "expirationSeconds"], max);
        }
        let claims = self.claims(&request, &account, bound, ctx.now);
        let token = self.sign(&claims)?;
        let expires = ctx.now.as_second() + int(&request, &["spec", "expirationSeconds"]).unwrap_or_default();
        let expires = Timestamp::from_second(expires).map_err(StatusError::internal)?;
        request["status"] = json!({ "token": token, "expirationTimestamp": expires.to_string() });
        Ok(request)
    }

    /// The signed compact form of the claims.
    pub fn sign(&self, claims: &ServiceAccountClaims) -> Result<String, StatusError> {
        let mut header = Header::new(self.key.public.algorithm);
        header.typ = None;
        header.kid = Some(self.key.public.id.clone());
        jsonwebtoken::encode(&header, claims, &self.key.encoding)
            .map_err(|e| StatusError::internal(format!("failed to generate token: {e}")))
    }

    fn complete(&self, request: &mut Object, account: &Object, now: Timestamp) -> Result<(), StatusError> {
        let name = text(account, &["metadata", "name"]).to_owned();
        let uid = text(account, &["metadata", "uid"]).to_owned();
        let asked = text(request, &["metadata", "uid"]);
        if !asked.is_empty() && asked != uid {
            let why = format!(
                "the UID in the token request ({asked}) does not match the UID of the service account ({uid})"
            );
            return Err(StatusError::conflict(GROUP, KIND, &name, why));
        }
        if !has(request, &["spec", "audiences"]) {
            set(request, &["spec", "audiences"], json!(self.audiences));
        }
        if at(request, &["spec", "expirationSeconds"]).is_null() {
            set(request, &["spec", "expirationSeconds"], EXPIRATION_DEFAULT_SECS);
        }
        set(request, &["metadata", "name"], name);
        set(request, &["metadata", "namespace"], at(account, &["metadata", "namespace"]).clone());
        set(request, &["metadata", "uid"], uid);
        set(request, &["metadata", "creationTimestamp"], seconds(now));
        check_expiration(request)
    }

    async fn bound(
        &self,
        cluster: &dyn ClusterReader,
        request: &Object,
        namespace: &str,
        account: &str,
    ) -> Result<Bindings, StatusError> {
        let mut bound = Bindings::default();
        let reference = at(request, &["spec", "boundObjectRef"]);
        if reference.is_null() {
            return Ok(bound);
        }
        let (api, kind) = (text(reference, &["apiVersion"]), text(reference, &["kind"]));
        let name = text(reference, &["name"]);
        let (resource, namespace) = match (api, kind) {
            ("v1", "Pod") => ("pods", namespace),
            ("v1", "Secret") => ("secrets", namespace),
            ("v1", "Node") => ("nodes", ""),
            _ => {
                let kind = format!("{}, Kind={kind}", if api.is_empty() { "/" } else { api });
                return Err(StatusError::bad_request(format!("cannot bind token to object of type {kind}")));
            }
        };
        let found = cluster.get_current("", resource, namespace, name).await?;
        let found = found.ok_or_else(|| StatusError::not_found("", resource, name))?;
        let id = ObjectRef::to(&found);
        check_bound_uid(reference, kind, &id)?;
        match kind {
            "Pod" => {
                check_pod_account(&found, account)?;
                bound.node = node_of(cluster, &found).await?;
                bound.pod = Some(id);
            }
            "Secret" => bound.secret = Some(id),
            _ => bound.node = Some(id),
        }
        Ok(bound)
    }

    fn claims(
        &self,
        request: &Object,
        account: &Object,
        mut bound: Bindings,
        now: Timestamp,
    ) -> ServiceAccountClaims {
        let issued = now.as_second();
        let mut life = int(request, &["spec", "expirationSeconds"]).unwrap_or(EXPIRATION_DEFAULT_SECS);
        let audiences: Vec<String> = texts(request, &["spec", "audiences"]).map(str::to_owned).collect();
        let for_us = audiences.iter().all(|audience| self.audiences.contains(audience));
        if self.extend_expiration && bound.pod.is_some() && life == WARN_ONLY_EXPIRATION_SECS && for_us {
            bound.warnafter = Some(issued + life);
            life = EXTENDED_EXPIRATION_SECS;
        }
        let namespace = text(account, &["metadata", "namespace"]).to_owned();
        let sub = username(&namespace, text(account, &["metadata", "name"]));
        bound.namespace = namespace;
        bound.serviceaccount = ObjectRef::to(account);
        ServiceAccountClaims {
            aud: audiences,
            exp: Some(issued + life),
            iat: Some(issued),
            nbf: Some(issued),
            iss: self.issuer.clone(),
            jti: uuid::Uuid::new_v4().to_string(),
            sub,
            kubernetes: bound,
        }
    }
}

/// A whole second in RFC 3339.
fn seconds(now: Timestamp) -> Value {
    Value::String(Timestamp::from_second(now.as_second()).unwrap_or(now).to_string())
}

fn check_address(request: &Object, namespace: &str, name: &str) -> Result<(), StatusError> {
    for (field, wanted, what) in [("name", name, "name"), ("namespace", namespace, "namespace")] {
        let got = text(request, &["metadata", field]);
        if !got.is_empty() && got != wanted {
            let path = Path::new("metadata").child(field);
            let detail = format!("must match the service account {what} if specified");
            return Err(StatusError::invalid(
                GROUP,
                KIND,
                name,
                vec![FieldError::invalid(&path, got, detail)],
            ));
        }
    }
    Ok(())
}

fn check_expiration(request: &Object) -> Result<(), StatusError> {
    let asked = int(request, &["spec", "expirationSeconds"]).unwrap_or_default();
    let detail = match asked {
        i64::MIN..EXPIRATION_MIN_SECS => "may not specify a duration less than 10 minutes",
        EXPIRATION_MIN_SECS..=EXPIRATION_MAX_SECS => return Ok(()),
        _ => "may not specify a duration larger than 2^32 seconds",
    };
    let path = Path::new("spec").child("expirationSeconds");
    Err(StatusError::invalid(GROUP, KIND, "", vec![FieldError::invalid(&path, asked, detail)]))
}

fn check_bound_uid(reference: &Value, kind: &str, found: &ObjectRef) -> Result<(), StatusError> {
    let asked = text(reference, &["uid"]);
    if asked.is_empty() || asked == found.uid {
        return Ok(());
    }
    let why = format!(
        "the UID in the bound object reference ({asked}) does not match the UID in record. The object might have been deleted and then recreated"
    );
    Err(StatusError::conflict("", kind, &found.name, why))
}

fn check_pod_account(pod: &Object, account: &str) -> Result<(), StatusError> {
    if text(pod, &["spec", "serviceAccountName"]) == account {
        return Ok(());
    }
    let quoted = machinery::gotext::quote(account);
    Err(StatusError::bad_request(format!(
        "cannot bind token for serviceaccount {quoted} to pod running with different serviceaccount name."
    )))
}

async fn node_of(cluster: &dyn ClusterReader, pod: &Object) -> Result<Option<ObjectRef>, StatusError> {
    let name = text(pod, &["spec", "nodeName"]);
    if name.is_empty() {
        return Ok(None);
    }
    let node = cluster.get_current("", "nodes", "", name).await?;
    let unknown = || ObjectRef { name: name.to_owned(), uid: String::new() };
    Ok(Some(node.map_or_else(unknown, |node| ObjectRef::to(&node))))
}
