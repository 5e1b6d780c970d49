//! What a request says, and what each of Kubernetes' own signers lets it say.

use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::{OID_X509_COMMON_NAME, OID_X509_ORGANIZATION_NAME};
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Name;

/// `kubernetes.io/kube-apiserver-client`
pub const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
/// `kubernetes.io/kube-apiserver-client-kubelet`
pub const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// `kubernetes.io/kubelet-serving`
pub const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
/// `kubernetes.io/legacy-unknown`
pub const LEGACY: &str = "kubernetes.io/legacy-unknown";

/// Organisation and prefix of the common name of nodes.
const NODES: &str = "system:nodes";
const NODE_PREFIX: &str = "system:node:";

/// What a request asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    /// The common name.
    pub common_name: String,
    /// The organisations.
    pub organizations: Vec<String>,
    /// Alternative names that are host names.
    pub dns: usize,
    /// Alternative names that are addresses.
    pub ips: usize,
    /// Alternative names that are mail addresses or URIs.
    pub others: usize,
}

/// Reads a PEM request.
///
/// # Errors
/// When it is none.
pub fn read(pem: &[u8]) -> Result<Asked, String> {
    let wrong =
        |error: &dyn std::fmt::Display| format!("the request is not a PEM certificate request: {error}");
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem).map_err(|error| wrong(&error))?;
    let (_, request) = X509CertificationRequest::from_der(&pem.contents).map_err(|error| wrong(&error))?;
    request.verify_signature().map_err(|error| wrong(&error))?;
    let mut asked = subject(&request.certification_request_info.subject)?;
    for extension in request.requested_extensions().into_iter().flatten() {
        if let ParsedExtension::SubjectAlternativeName(names) = extension {
            for name in &names.general_names {
                match name {
                    GeneralName::DNSName(_) => asked.dns += 1,
                    GeneralName::IPAddress(_) => asked.ips += 1,
                    _ => asked.others += 1,
                }
            }
        }
    }
    Ok(asked)
}

/// The names of a subject. What is judged must be what is signed, and what the certificate's readers understand: a
/// second common name, or a text that one reader sees and another does not, would make the holder somebody else.
fn subject(name: &X509Name<'_>) -> Result<Asked, String> {
    let (mut asked, mut seen) = (Asked::default(), Vec::new());
    for set in name.iter() {
        let [attribute] = set.iter().collect::<Vec<_>>()[..] else {
            return Err("the subject has parts that are not one attribute each".to_string());
        };
        let kind = attribute.attr_type();
        let text = attribute.as_str().map_err(|_| format!("the subject's {kind} is not plain text"))?;
        if *kind == OID_X509_ORGANIZATION_NAME {
            asked.organizations.push(text.to_string());
            continue;
        }
        if seen.contains(&kind) {
            return Err(format!("the subject has more than one {kind}"));
        }
        if *kind == OID_X509_COMMON_NAME {
            asked.common_name = text.to_string();
        }
        seen.push(kind);
    }
    Ok(asked)
}

fn only(usages: &[String], required: &[&str], allowed: &[&str]) -> bool {
    required.iter().all(|wanted| usages.iter().any(|usage| usage == wanted))
        && usages.iter().all(|usage| required.contains(&usage.as_str()) || allowed.contains(&usage.as_str()))
}

fn is_node(asked: &Asked) -> Result<(), &'static str> {
    if asked.organizations != [NODES] {
        return Err("subject organization is not system:nodes");
    }
    if !asked.common_name.starts_with(NODE_PREFIX) {
        return Err("subject common name does not begin with system:node:");
    }
    Ok(())
}

/// Whether a request is one for a node's client certificate.
pub fn is_kubelet_client(asked: &Asked, usages: &[String]) -> Result<(), &'static str> {
    is_node(asked)?;
    if asked.dns > 0 {
        return Err("DNS subjectAltNames are not allowed");
    }
    if asked.ips > 0 {
        return Err("IP subjectAltNames are not allowed");
    }
    if asked.others > 0 {
        return Err("Email and URI subjectAltNames are not allowed");
    }
    let fits = only(usages, &["digital signature", "client auth"], &["key encipherment"]);
    if fits { Ok(()) } else { Err("usages did not match [client auth digital signature]") }
}

fn is_kubelet_serving(asked: &Asked, usages: &[String]) -> Result<(), &'static str> {
    is_node(asked)?;
    if asked.dns == 0 && asked.ips == 0 {
        return Err("at least one DNS or IP subjectAltName is required");
    }
    if asked.others > 0 {
        return Err("Email and URI subjectAltNames are not allowed");
    }
    let fits = only(usages, &["digital signature", "server auth"], &["key encipherment"]);
    if fits { Ok(()) } else { Err("usages did not match [digital signature server auth]") }
}

/// Whether a signer may sign a request; `None` for signers that are not ours.
pub fn judge(signer: &str, asked: &Asked, usages: &[String]) -> Option<Result<(), &'static str>> {
    match signer {
        CLIENT => {
            let fits = only(usages, &["client auth"], &["digital signature", "key encipherment"]);
            Some(if fits { Ok(()) } else { Err("usages did not match [client auth]") })
        }
        KUBELET_CLIENT => Some(is_kubelet_client(asked, usages)),
        KUBELET_SERVING => Some(is_kubelet_serving(asked, usages)),
        LEGACY => Some(Ok(())),
        _ => None,
    }
}
