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
    /// Adds the headers. Its failures are local ones: a status of the identity's own requests must not be taken for
    /// that of the request to be signed, whose object a 404 would declare gone.
    async fn sign(&self, headers: &mut HeaderMap) -> Result<(), Failure>;

    /// The API server did not know who asked with this authorization.
    async fn refused(&self, _authorization: &HeaderValue) {}
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
            let fetched = self.fetch().await;
            *current = Some(fetched.map_err(|failure| {
                Failure::local(format!("no token of service account {NAMESPACE}/{}: {failure}", self.account))
            })?);
        }
        if let Some(token) = current.as_ref() {
            headers.insert(AUTHORIZATION, token.header.clone());
        }
        Ok(())
    }

    /// The account may have been deleted and made again: its old tokens are good for nothing.
    async fn refused(&self, authorization: &HeaderValue) {
        let mut current = self.current.lock().await;
        if current.as_ref().is_some_and(|token| token.header == authorization) {
            *current = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{Request, Response, StatusCode};
    use kube::client::Body;

    use super::*;

    /// A client of a server that answers every path as `answer` says.
    fn client(answer: impl Fn(&str) -> (StatusCode, Value) + Clone + Send + 'static) -> Client {
        let service = tower::service_fn(move |request: Request<Body>| {
            let (status, body) = answer(request.uri().path());
            let body = Body::from(body.to_string().into_bytes());
            let response = Response::builder().status(status).body(body).expect("a response");
            std::future::ready(Ok::<_, std::convert::Infallible>(response))
        });
        Client::new(service, "default")
    }

    #[tokio::test]
    async fn a_missing_account_is_not_a_missing_object() {
        let process = client(|_| {
            let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404,
                "reason": "NotFound", "message": "serviceaccounts \"c\" not found"});
            (StatusCode::NOT_FOUND, status)
        });
        let account = ServiceAccountToken::new(process, "c");
        let failure = account.sign(&mut HeaderMap::new()).await.expect_err("there is no token");
        assert!(!failure.is_not_found(), "{failure}");
        assert!(failure.to_string().contains("kube-system/c"), "{failure}");
    }

    #[tokio::test]
    async fn a_refused_token_is_asked_for_again() {
        let given = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let process = client(move |_| {
            let number = given.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let ends = (Timestamp::now() + jiff::SignedDuration::from_hours(1)).to_string();
            let status = json!({"token": format!("t{number}"), "expirationTimestamp": ends});
            (StatusCode::CREATED, json!({ "status": status }))
        });
        let account = ServiceAccountToken::new(process, "c");
        let mut seen = Vec::new();
        for refused in [false, true, false] {
            let mut headers = HeaderMap::new();
            account.sign(&mut headers).await.expect("a token");
            seen.push(headers[AUTHORIZATION].to_str().expect("text").to_owned());
            if refused {
                account.refused(&headers[AUTHORIZATION]).await;
            }
            account.refused(&HeaderValue::from_static("Bearer older")).await;
        }
        assert_eq!(seen, ["Bearer t0", "Bearer t0", "Bearer t1"]);
    }
}
