//! Who a client is and what it may do: client certificate or token, then the API's word on its rights.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use http::{Method, Request};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::kubelet::config::ServerAuth;

/// How long answers of the API are taken for current: names, rights given, rights refused.
const NAMES_FRESH: Duration = Duration::from_secs(120);
/// See [`NAMES_FRESH`].
const ALLOWED_FRESH: Duration = Duration::from_secs(300);
/// See [`NAMES_FRESH`].
const DENIED_FRESH: Duration = Duration::from_secs(30);
/// Answers kept.
const CACHE_MAX: usize = 1024;

/// A client.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct User {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Its groups.
    pub groups: Vec<String>,
}

/// What a request wants, as the API judges it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Attributes {
    /// `get`, `create`…
    pub verb: &'static str,
    /// Subresource of `nodes`.
    pub subresource: &'static str,
}

/// A request is turned away.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Nobody vouches for the client.
    Unauthenticated,
    /// The client may not. The text is upstream's.
    Forbidden(String),
    /// The API could not be asked.
    Unknown(String),
}

type Cache<K, V> = Mutex<HashMap<K, (V, Instant)>>;

/// Asks and remembers.
pub struct Gate {
    client: Client,
    node_name: String,
    auth: ServerAuth,
    names: Cache<[u8; 32], User>,
    rights: Cache<(User, Attributes), bool>,
}

/// What a path and method want. The subresources are upstream's.
pub fn attributes(method: &Method, path: &str) -> Attributes {
    let verb = match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "get",
    };
    let under =
        |prefix: &str| path == prefix || path.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'));
    let subresource = if under("/stats") {
        "stats"
    } else if under("/metrics") {
        "metrics"
    } else if under("/logs") {
        "log"
    } else if under("/checkpoint") {
        "checkpoint"
    } else if under("/pods") || under("/runningpods") {
        "pods"
    } else if under("/healthz") {
        "healthz"
    } else if under("/configz") {
        "configz"
    } else {
        "proxy"
    };
    Attributes { verb, subresource }
}

/// The client a certificate names: common name and organizations.
pub fn user_of_certificate(der: &[u8]) -> Option<User> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    // Of several, the last, as in Go and everywhere else here.
    let name = certificate.subject().iter_common_name().last()?.as_str().ok()?.to_owned();
    if name.is_empty() {
        return None;
    }
    let groups = certificate.subject().iter_organization().filter_map(|o| o.as_str().ok().map(str::to_owned));
    Some(User {
        name,
        uid: String::new(),
        groups: groups.chain(["system:authenticated".to_owned()]).collect(),
    })
}

fn fresh<K: std::hash::Hash + Eq, V: Clone>(
    cache: &Cache<K, V>,
    key: &K,
    age: impl Fn(&V) -> Duration,
) -> Option<V> {
    let cache = cache.lock();
    cache.get(key).filter(|(value, at)| at.elapsed() < age(value)).map(|(value, _)| value.clone())
}

fn keep<K: std::hash::Hash + Eq, V>(cache: &Cache<K, V>, key: K, value: V) {
    let mut cache = cache.lock();
    if cache.len() >= CACHE_MAX {
        cache.clear();
    }
    cache.insert(key, (value, Instant::now()));
}

impl Gate {
    /// A gate that asks this API.
    pub fn new(client: Client, node_name: &str, auth: ServerAuth) -> Self {
        Self {
            client,
            node_name: node_name.to_owned(),
            auth,
            names: Mutex::default(),
            rights: Mutex::default(),
        }
    }

    /// Lets a request in or turns it away. `certificate` is the client's verified certificate.
    pub async fn admit<B>(&self, request: &Request<B>, certificate: Option<&[u8]>) -> Result<(), Refusal> {
        let user = self.identify(request, certificate).await?;
        if !self.auth.webhook_authz || user.groups.iter().any(|g| g == "system:masters") {
            return Ok(());
        }
        let path = request.uri().path();
        let wanted = attributes(request.method(), path);
        if self.may(&user, &wanted).await? {
            return Ok(());
        }
        // Reads that once needed the wide right are still granted by it.
        let wide = Attributes { verb: wanted.verb, subresource: "proxy" };
        let narrow = matches!(wanted.subresource, "pods" | "healthz" | "configz");
        if narrow && self.may(&user, &wide).await? {
            return Ok(());
        }
        Err(Refusal::Forbidden(format!(
            "Forbidden (user={}, verb={}, resource=nodes, subresource(s)=[{}])",
            user.name, wanted.verb, wanted.subresource
        )))
    }

    async fn identify<B>(&self, request: &Request<B>, certificate: Option<&[u8]>) -> Result<User, Refusal> {
        if let Some(user) = certificate.and_then(user_of_certificate) {
            return Ok(user);
        }
        let header = request.headers().get(http::header::AUTHORIZATION).and_then(|h| h.to_str().ok());
        if let Some(token) =
            header.and_then(|h| h.strip_prefix("Bearer ")).filter(|_| self.auth.webhook_authn)
        {
            return self.review(token.trim()).await;
        }
        if self.auth.anonymous && header.is_none() {
            return Ok(User {
                name: "system:anonymous".into(),
                uid: String::new(),
                groups: vec!["system:unauthenticated".into()],
            });
        }
        Err(Refusal::Unauthenticated)
    }

    async fn review(&self, token: &str) -> Result<User, Refusal> {
        let key: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        if let Some(user) = fresh(&self.names, &key, |_| NAMES_FRESH) {
            return Ok(user);
        }
        let review = TokenReview {
            spec: TokenReviewSpec { token: token.to_owned(), audiences: None },
            ..Default::default()
        };
        let answer =
            Api::<TokenReview>::all(self.client.clone()).create(&PostParams::default(), &review).await;
        let status = answer.map_err(|e| Refusal::Unknown(e.to_string()))?.status.unwrap_or_default();
        let Some(info) = status.user.filter(|_| status.authenticated == Some(true)) else {
            return Err(Refusal::Unauthenticated);
        };
        let user = User {
            name: info.username.unwrap_or_default(),
            uid: info.uid.unwrap_or_default(),
            groups: info.groups.unwrap_or_default(),
        };
        keep(&self.names, key, user.clone());
        Ok(user)
    }

    async fn may(&self, user: &User, wanted: &Attributes) -> Result<bool, Refusal> {
        let key = (user.clone(), wanted.clone());
        let age = |allowed: &bool| if *allowed { ALLOWED_FRESH } else { DENIED_FRESH };
        if let Some(allowed) = fresh(&self.rights, &key, age) {
            return Ok(allowed);
        }
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(user.name.clone()),
                uid: Some(user.uid.clone()),
                groups: Some(user.groups.clone()),
                resource_attributes: Some(ResourceAttributes {
                    verb: Some(wanted.verb.to_owned()),
                    version: Some("v1".into()),
                    resource: Some("nodes".into()),
                    subresource: Some(wanted.subresource.to_owned()),
                    name: Some(self.node_name.clone()),
                    ..Default::default()
                }),
                ..Default::default()
            },
            ..Default::default()
        };
        let api = Api::<SubjectAccessReview>::all(self.client.clone());
        let answer = api.create(&PostParams::default(), &review).await;
        let allowed = answer.map_err(|e| Refusal::Unknown(e.to_string()))?.status.is_some_and(|s| s.allowed);
        keep(&self.rights, key, allowed);
        Ok(allowed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_subresources() {
        let cases = [
            (Method::GET, "/stats/summary", "get", "stats"),
            (Method::GET, "/metrics/resource", "get", "metrics"),
            (Method::POST, "/exec/ns/p/c", "create", "proxy"),
            (Method::GET, "/containerLogs/ns/p/c", "get", "proxy"),
            (Method::GET, "/logs/x", "get", "log"),
            (Method::GET, "/logsx", "get", "proxy"),
            (Method::GET, "/healthz", "get", "healthz"),
            (Method::GET, "/runningpods/", "get", "pods"),
        ];
        for (method, path, verb, subresource) in cases {
            assert_eq!(attributes(&method, path), Attributes { verb, subresource }, "{path}");
        }
    }

    #[test]
    fn certificates_name_users() {
        let user = |names: &[&str]| {
            let mut params = rcgen::CertificateParams::default();
            params.distinguished_name = rcgen::DistinguishedName::new();
            for (place, name) in names.iter().enumerate() {
                // A name of one kind can be pushed once: the earlier stand under the kind's number.
                let kind = match place + 1 == names.len() {
                    true => rcgen::DnType::CommonName,
                    false => rcgen::DnType::CustomDnType(vec![2, 5, 4, 3]),
                };
                params.distinguished_name.push(kind, *name);
            }
            params.distinguished_name.push(rcgen::DnType::OrganizationName, "system:masters");
            let key = rcgen::KeyPair::generate().expect("a key");
            user_of_certificate(params.self_signed(&key).expect("signed").der())
        };
        let admin = user(&["admin"]).expect("a user");
        assert_eq!(
            (admin.name.as_str(), admin.groups),
            ("admin", vec!["system:masters".to_owned(), "system:authenticated".to_owned()])
        );
        assert_eq!(user(&["first", "last"]).map(|u| u.name).as_deref(), Some("last"));
        assert_eq!([user(&[]), user(&[""])], [None, None]);
    }
}
