//! CertificateApproval, CertificateSigning and CertificateSubjectRestriction.

use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use machinery::status::StatusError;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use super::plugin::Plugin;
use crate::contract::{Admission, Authorizer, Decision, Object, Operation, RequestInfo};
use crate::kinds::json::{at, same, text};

const GROUP: &str = "certificates.k8s.io";
const RESOURCE: &str = "certificatesigningrequests";
const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";

/// The steps that let only those approve or sign who may for that signer.
pub struct SignerPermission {
    authorizer: Arc<dyn Authorizer>,
    plugin: &'static str,
    subresource: &'static str,
    verb: &'static str,
}

impl SignerPermission {
    /// Guards `/approval`.
    pub fn approval(authorizer: Arc<dyn Authorizer>) -> Self {
        SignerPermission {
            authorizer,
            plugin: "CertificateApproval",
            subresource: "approval",
            verb: "approve",
        }
    }

    /// Guards `/status`.
    pub fn signing(authorizer: Arc<dyn Authorizer>) -> Self {
        SignerPermission { authorizer, plugin: "CertificateSigning", subresource: "status", verb: "sign" }
    }

    async fn may(&self, request: &Admission<'_>, signer: &str) -> bool {
        let domain = signer.split_once('/').map(|(domain, _)| format!("{domain}/*"));
        for name in std::iter::once(signer.to_owned()).chain(domain) {
            let info = RequestInfo {
                is_resource: true,
                verb: self.verb.to_owned(),
                group: GROUP.to_owned(),
                version: "*".to_owned(),
                resource: "signers".to_owned(),
                name,
                ..RequestInfo::default()
            };
            if matches!(self.authorizer.authorize(&request.ctx.user, &info).await, Decision::Allow { .. }) {
                return true;
            }
        }
        false
    }
}

#[async_trait]
impl Plugin for SignerPermission {
    fn name(&self) -> &'static str {
        self.plugin
    }

    async fn validate(&self, request: &Admission<'_>) -> Result<(), StatusError> {
        let updates = request.operation == Operation::Update;
        if !request.is_for(GROUP, RESOURCE, self.subresource) || !updates {
            return Ok(());
        }
        let (new, old) = (request.new_object(), request.old_object());
        let unchanged = |field: &str| same(at(new, &["status", field]), at(old, &["status", field]));
        if self.subresource == "status" && unchanged("certificate") && unchanged("conditions") {
            return Ok(());
        }
        // The stored signer counts: the request might try to change it on the way.
        let signer = text(old, &["spec", "signerName"]);
        if self.may(request, signer).await {
            return Ok(());
        }
        let quoted = machinery::gotext::quote(signer);
        let why = format!("user not permitted to {} requests with signerName {quoted}", self.verb);
        Err(request.forbidden(why))
    }
}

/// The step that keeps client certificates out of `system:masters`.
pub struct CertificateSubjectRestriction;

#[async_trait]
impl Plugin for CertificateSubjectRestriction {
    fn name(&self) -> &'static str {
        "CertificateSubjectRestriction"
    }

    async fn validate(&self, request: &Admission<'_>) -> Result<(), StatusError> {
        let signed_by_client = text(request.new_object(), &["spec", "signerName"]) == CLIENT_SIGNER;
        if !request.is_for(GROUP, RESOURCE, "") || !request.creates() || !signed_by_client {
            return Ok(());
        }
        let subject = subject(request.new_object())
            .map_err(|why| request.forbidden(format!("failed to parse CSR: {why}")))?;
        if subject.organizations.iter().any(|group| group == crate::authz::MASTERS_GROUP) {
            let why = format!("use of {CLIENT_SIGNER} signer with system:masters group is not allowed");
            return Err(request.forbidden(why));
        }
        Ok(())
    }
}

/// Whom a CertificateSigningRequest asks a certificate for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Subject {
    pub common_name: String,
    pub organizations: Vec<String>,
}

/// The subject of the PKCS#10 request inside.
pub fn subject(request: &Object) -> Result<Subject, String> {
    let pem = STANDARD.decode(text(request, &["spec", "request"])).map_err(|e| e.to_string())?;
    let mut reader = std::io::Cursor::new(&pem);
    let item = rustls_pemfile::csr(&mut reader).map_err(|e| e.to_string())?;
    let der = item.ok_or_else(|| "PEM block type must be CERTIFICATE REQUEST".to_owned())?;
    let (_, parsed) = X509CertificationRequest::from_der(&der).map_err(|e| e.to_string())?;
    let name = &parsed.certification_request_info.subject;
    let organizations = name.iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_owned).collect();
    let common_name =
        name.iter_common_name().last().and_then(|n| n.as_str().ok()).unwrap_or_default().to_owned();
    Ok(Subject { common_name, organizations })
}
