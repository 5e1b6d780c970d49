//! Asking the cluster for a certificate: a CertificateSigningRequest, and waiting for what becomes of it.

use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, Client};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

/// Signs node identities.
pub const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// Signs serving certificates of nodes.
pub const SERVING_SIGNER: &str = "kubernetes.io/kubelet-serving";
/// How often a request is looked at.
const POLL: Duration = Duration::from_millis(500);
/// How long an answer may take; a person may have to approve.
const WAIT_LIMIT: Duration = Duration::from_secs(900);

/// A certificate was not issued.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The request cannot be made.
    #[error("cannot make a certificate request: {0}")]
    Make(#[from] rcgen::Error),
    /// The API did not take it.
    #[error("certificate request: {0}")]
    Api(#[from] kube::Error),
    /// It was denied, or signing failed.
    #[error("certificate request {name} was refused: {why}")]
    Refused {
        /// The request's name.
        name: String,
        /// The condition's text.
        why: String,
    },
    /// Nobody approved it.
    #[error("certificate request {0} was not approved in time; `kubectl certificate approve {0}` does it")]
    Unanswered(String),
}

/// A new certificate with its key, PEM.
#[derive(Debug)]
pub struct Issued {
    /// The chain.
    pub chain_pem: String,
    /// The key.
    pub key_pem: String,
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The node.
    pub node_name: String,
    /// Who signs.
    pub signer: &'static str,
    /// Names and addresses of a serving certificate.
    pub names: Vec<String>,
    /// See `names`.
    pub ips: Vec<IpAddr>,
}

impl Wanted {
    fn usage(&self) -> &'static str {
        if self.signer == SERVING_SIGNER { "server auth" } else { "client auth" }
    }

    /// The PEM request for a key.
    pub fn request_pem(&self, key: &KeyPair) -> Result<String, rcgen::Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        params.distinguished_name.push(DnType::CommonName, format!("system:node:{}", self.node_name));
        for name in &self.names {
            params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into()?));
        }
        params.subject_alt_names.extend(self.ips.iter().map(|ip| SanType::IpAddress(*ip)));
        params.serialize_request(key)?.pem()
    }
}

/// Asks and waits.
pub async fn request(client: &Client, wanted: &Wanted) -> Result<Issued, RequestError> {
    let key = KeyPair::generate()?;
    let body = CertificateSigningRequest {
        metadata: ObjectMeta { generate_name: Some("csr-".into()), ..Default::default() },
        spec: CertificateSigningRequestSpec {
            request: ByteString(wanted.request_pem(&key)?.into_bytes()),
            signer_name: wanted.signer.to_owned(),
            usages: Some(vec!["digital signature".into(), wanted.usage().into()]),
            ..Default::default()
        },
        status: None,
    };
    let api = Api::<CertificateSigningRequest>::all(client.clone());
    let made = api.create(&PostParams::default(), &body).await?;
    let name = made.metadata.name.unwrap_or_default();
    let deadline = tokio::time::Instant::now() + WAIT_LIMIT;
    while tokio::time::Instant::now() < deadline {
        let status = api.get(&name).await?.status.unwrap_or_default();
        let refused = status.conditions.iter().flatten().find(|c| c.type_ == "Denied" || c.type_ == "Failed");
        if let Some(condition) = refused {
            let why = condition.message.clone().or(condition.reason.clone()).unwrap_or_default();
            return Err(RequestError::Refused { name, why });
        }
        if let Some(chain) = status.certificate.filter(|c| !c.0.is_empty()) {
            let chain_pem = String::from_utf8_lossy(&chain.0).into_owned();
            return Ok(Issued { chain_pem, key_pem: key.serialize_pem() });
        }
        tokio::time::sleep(POLL).await;
    }
    Err(RequestError::Unanswered(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_carry_the_nodes_name() {
        let key = KeyPair::generate().expect("a key");
        let wanted = Wanted {
            node_name: "n1".into(),
            signer: SERVING_SIGNER,
            names: vec!["n1".into()],
            ips: vec![IpAddr::from([10, 0, 0, 1])],
        };
        assert_eq!(wanted.usage(), "server auth");
        let pem = wanted.request_pem(&key).expect("a request");
        let params = rcgen::CertificateSigningRequestParams::from_pem(&pem).expect("read").params;
        let name = params.distinguished_name.get(&DnType::CommonName).cloned();
        assert_eq!(name, Some(rcgen::DnValue::Utf8String("system:node:n1".into())));
        assert_eq!(params.subject_alt_names.len(), 2);
    }
}
