//! As whom a controller writes: as the process itself, impersonating the controller's service account, or with that
//! account's own tokens (`--use-service-account-credentials` of kube-controller-manager).

use std::time::Duration;

use async_trait::async_trait;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use jiff::Timestamp;
use kube::Client;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::client::failure_of;
use super::clock;
use super::plan::Failure;

/// Namespace of the controllers' service accounts.
const NAMESPACE: &str = "kube-system";
/// Asked lifetime of a token; the server may shorten it.
const TOKEN_SECS: i64 = 3600;

/// Adds what tells the API server who is asking.
#[async_trait]
pub trait Identity: Send + Sync + 'static {
    /// Adds the headers.
    async fn sign(&self, headers: &mut HeaderMap) -> Result<(), Failure>;
}

/// The identity of the process: its client's own credentials.
pub struct Process;

#[async_trait]
impl Identity for Process {
    async fn sign(&self, _headers: &mut HeaderMap) -> Result<(), Failure> {
        Ok(())
    }
}

/// The process impersonates the controller's service account; it needs the right to.
pub struct Impersonated {
    user: HeaderValue,
}

impl Impersonated {
    /// The service account of a controller, such as `deployment-controller`.
    pub fn service_account(name: &str) -> Result<Self, Failure> {
        let user = HeaderValue::from_str(&format!("system:serviceaccount:{NAMESPACE}:{name}"));
        Ok(Self { user: user.map_err(|error| Failure::local(error.to_string()))? })
    }
}

#[async_trait]
impl Identity for Impersonated {
    async fn sign(&self, headers: &mut HeaderMap) -> Result<(), Failure> {
        headers.insert(HeaderName::from_static("impersonate-user"), self.user.clone());
        for group in ["system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated"]
        {
            headers.append(HeaderName::from_static("impersonate-group"), HeaderValue::from_static(group));
        }
        Ok(())
    }
}

/// The controller's own token, asked for with the process' credentials and renewed before it ends. Requests must go
/// out over a client without credentials of its own.
pub struct ServiceAccountToken {
    process: Client,
    account: String,
    current: Mutex<Option<Token>>,
}

struct Token {
    header: HeaderValue,
    renew_at: Timestamp,
}

impl ServiceAccountToken {
    /// The account of a controller; made on first use when missing.
    pub fn new(process: Client, account: &str) -> Self {
        Self { process, account: account.to_string(), current: Mutex::new(None) }
    }

    async fn fetch(&self) -> Result<Token, Failure> {
        match self.request_token().await {
            Err(failure) if failure.is_not_found() => {
                self.create_account().await?;
                self.request_token().await
            }
            other => other,
        }
    }

    async fn request_token(&self) -> Result<Token, Failure> {
        let path = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{}/token", self.account);
        let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"audiences": [], "expirationSeconds": TOKEN_SECS}});
        let answer = self.post(&path, &body).await?;
        let token = answer["status"]["token"].as_str().unwrap_or_default();
        let header = HeaderValue::from_str(&format!("Bearer {token}"));
        let mut header = header.map_err(|error| Failure::local(error.to_string()))?;
        header.set_sensitive(true);
        let now = Timestamp::now();
        let ends =
            answer["status"]["expirationTimestamp"].as_str().and_then(|at| at.parse().ok()).unwrap_or(now);
        Ok(Token { header, renew_at: clock::add(now, clock::until(ends, now).mul_f64(0.8)) })
    }

    async fn create_account(&self) -> Result<(), Failure> {
        for (path, body) in [
            (
                "/api/v1/namespaces".to_string(),
                json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}),
            ),
            (
                format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts"),
                json!({"apiVersion": "v1", "kind": "ServiceAccount",
                    "metadata": {"name": self.account, "namespace": NAMESPACE}}),
            ),
        ] {
            match self.post(&path, &body).await {
                Err(failure) if failure.code != 409 && !path.ends_with("/namespaces") => return Err(failure),
                _ => {}
            }
        }
        Ok(())
    }

    async fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        let body = serde_json::to_vec(body).map_err(|error| Failure::local(error.to_string()))?;
        let request = http::Request::post(path).header(CONTENT_TYPE, "application/json").body(body);
        let request = request.map_err(|error| Failure::local(error.to_string()))?;
        self.process.request::<Value>(request).await.map_err(failure_of)
    }
}

#[async_trait]
impl Identity for ServiceAccountToken {
    async fn sign(&self, headers: &mut HeaderMap) -> Result<(), Failure> {
        let mut current = self.current.lock().await;
        let now = Timestamp::now();
        let usable = current.as_ref().is_some_and(|token| clock::until(token.renew_at, now) > Duration::ZERO);
        if !usable {
            *current = Some(self.fetch().await?);
        }
        if let Some(token) = current.as_ref() {
            headers.insert(AUTHORIZATION, token.header.clone());
        }
        Ok(())
    }
}
