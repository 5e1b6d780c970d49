//! Identity in headers set by a trusted front proxy (the aggregation layer), which proves itself by a certificate.

use std::collections::BTreeMap;

use async_trait::async_trait;
use http::HeaderMap;

use super::certificate::{CertificateVerifier, common_name};
use super::chain::{Outcome, Step};
use crate::contract::{Credentials, UserInfo};

/// Header names and who may send them (upstream `--requestheader-*`).
pub struct FrontProxy {
    pub verifier: CertificateVerifier,
    /// Common names that may act as front proxy; empty means any certificate of the authority.
    pub allowed_names: Vec<String>,
    pub username_headers: Vec<String>,
    pub uid_headers: Vec<String>,
    pub group_headers: Vec<String>,
    pub extra_prefixes: Vec<String>,
}

#[async_trait]
impl Step for FrontProxy {
    async fn authenticate(&self, credentials: &Credentials<'_>) -> Outcome {
        let Some(leaf) = credentials.peer_certificates.first() else { return Outcome::NotMine };
        let Some(name) = first(credentials.headers, &self.username_headers) else { return Outcome::NotMine };
        if let Err(why) = self.verifier.verify(credentials.peer_certificates) {
            return Outcome::Refused(why);
        }
        let proxy = common_name(leaf);
        if !self.allowed_names.is_empty() && !self.allowed_names.contains(&proxy) {
            return Outcome::Refused(format!("x509: subject with cn={proxy} is not in the allowed list"));
        }
        Outcome::Found(self.user(credentials.headers, name))
    }
}

impl FrontProxy {
    fn user(&self, headers: &HeaderMap, name: String) -> UserInfo {
        UserInfo {
            name,
            uid: first(headers, &self.uid_headers).unwrap_or_default(),
            groups: self.group_headers.iter().flat_map(|header| all(headers, header)).collect(),
            extra: self.extra(headers),
        }
    }

    fn extra(&self, headers: &HeaderMap) -> BTreeMap<String, Vec<String>> {
        let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for prefix in &self.extra_prefixes {
            let prefix = prefix.to_ascii_lowercase();
            for (header, value) in headers {
                if let (Some(key), Ok(value)) = (header.as_str().strip_prefix(&prefix), value.to_str()) {
                    extra.entry(unescape(key)).or_default().push(value.to_owned());
                }
            }
        }
        extra
    }
}

/// Extra keys are percent-encoded in header names; what does not decode stays as it is.
pub fn unescape(key: &str) -> String {
    let decoded = percent_encoding::percent_decode_str(key).decode_utf8();
    decoded.map(|key| key.into_owned()).unwrap_or_else(|_| key.to_owned())
}

fn first(headers: &HeaderMap, names: &[String]) -> Option<String> {
    names.iter().flat_map(|name| all(headers, name)).next()
}

fn all(headers: &HeaderMap, name: &str) -> Vec<String> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.map(str::trim).filter(|value| !value.is_empty()).map(str::to_owned).collect()
}
