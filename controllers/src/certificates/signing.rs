//! Signs approved requests with the authority of their signer. The key material is read once, at the start.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use rcgen::{
    CertificateSigningRequestParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SerialNumber,
};
use x509_parser::prelude::FromDer;

use super::signers::{self, CLIENT, KUBELET_CLIENT, KUBELET_SERVING, LEGACY};
use super::{certificate, has, with_condition};
use crate::options::{SignerFiles, SigningOptions};
use crate::runtime::{Action, Context, Controller, Failure, Key, Plan, ReconcileError, Store, Wiring};

/// Certificates begin this long before they are signed, for clocks that are behind (upstream's).
const BACKDATE: Duration = Duration::from_secs(300);
/// The shortest life a request may ask for (the API's).
const LIFE_MIN: Duration = Duration::from_secs(600);

/// An authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    ends: Timestamp,
}

impl Authority {
    /// From a certificate and its key, PEM.
    ///
    /// # Errors
    /// When they are not usable.
    pub fn new(cert: &str, key: &str) -> Result<Self, String> {
        let key = KeyPair::from_pem(key).map_err(|error| format!("the key: {error}"))?;
        let (_, pem) = x509_parser::pem::parse_x509_pem(cert.as_bytes())
            .map_err(|error| format!("the certificate: {error}"))?;
        let (_, parsed) = x509_parser::certificate::X509Certificate::from_der(&pem.contents)
            .map_err(|error| format!("the certificate: {error}"))?;
        let ends = Timestamp::from_second(parsed.validity().not_after.timestamp()).unwrap_or(Timestamp::MAX);
        let issuer =
            Issuer::from_ca_cert_pem(cert, key).map_err(|error| format!("the certificate: {error}"))?;
        Ok(Self { issuer, ends })
    }

    fn read(files: &SignerFiles) -> Result<Self, String> {
        let text = |path: &std::path::Path| {
            std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))
        };
        Self::new(&text(&files.cert)?, &text(&files.key)?)
    }

    /// Signs a request for `life`.
    ///
    /// # Errors
    /// When the request is malformed.
    pub fn sign(
        &self,
        pem: &str,
        usages: &[String],
        life: Duration,
        now: Timestamp,
        serial: [u8; 16],
    ) -> Result<String, String> {
        let mut request =
            CertificateSigningRequestParams::from_pem(pem).map_err(|error| error.to_string())?;
        let at = |time: Timestamp| {
            let secs = u64::try_from(time.as_second()).unwrap_or(0);
            rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(secs)
        };
        let start =
            now.checked_sub(jiff::SignedDuration::from_secs(BACKDATE.as_secs() as i64)).unwrap_or(now);
        let end = crate::runtime::clock::add(now, life).min(self.ends);
        let params = &mut request.params;
        params.not_before = at(start);
        params.not_after = at(end);
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = usages.iter().filter_map(|usage| key_usage(usage)).collect();
        params.extended_key_usages = usages.iter().filter_map(|usage| extended_usage(usage)).collect();
        let signed = request.signed_by(&self.issuer).map_err(|error| error.to_string())?;
        Ok(signed.pem())
    }
}

fn key_usage(usage: &str) -> Option<KeyUsagePurpose> {
    Some(match usage {
        "signing" | "digital signature" => KeyUsagePurpose::DigitalSignature,
        "content commitment" => KeyUsagePurpose::ContentCommitment,
        "key encipherment" => KeyUsagePurpose::KeyEncipherment,
        "key agreement" => KeyUsagePurpose::KeyAgreement,
        "data encipherment" => KeyUsagePurpose::DataEncipherment,
        "cert sign" => KeyUsagePurpose::KeyCertSign,
        "crl sign" => KeyUsagePurpose::CrlSign,
        "encipher only" => KeyUsagePurpose::EncipherOnly,
        "decipher only" => KeyUsagePurpose::DecipherOnly,
        _ => return None,
    })
}

fn extended_usage(usage: &str) -> Option<ExtendedKeyUsagePurpose> {
    Some(match usage {
        "any" => ExtendedKeyUsagePurpose::Any,
        "server auth" => ExtendedKeyUsagePurpose::ServerAuth,
        "client auth" => ExtendedKeyUsagePurpose::ClientAuth,
        "code signing" => ExtendedKeyUsagePurpose::CodeSigning,
        "email protection" => ExtendedKeyUsagePurpose::EmailProtection,
        "timestamping" => ExtendedKeyUsagePurpose::TimeStamping,
        "ocsp signing" => ExtendedKeyUsagePurpose::OcspSigning,
        _ => return None,
    })
}

struct Signing {
    requests: Store<CertificateSigningRequest>,
    authorities: BTreeMap<&'static str, Arc<Authority>>,
    life: Duration,
}

/// Builds the loop. Signers without an authority are left alone.
pub fn build(wiring: &mut Wiring) -> Box<dyn Controller> {
    let requests = wiring.on_self::<CertificateSigningRequest>();
    let options = &wiring.options().signing;
    Box::new(Signing { requests, authorities: authorities(options), life: options.duration })
}

fn authorities(options: &SigningOptions) -> BTreeMap<&'static str, Arc<Authority>> {
    let rows = [
        (CLIENT, &options.client),
        (KUBELET_CLIENT, &options.kubelet_client),
        (KUBELET_SERVING, &options.kubelet_serving),
        (LEGACY, &options.legacy),
    ];
    let mut found = BTreeMap::new();
    for (signer, own) in rows {
        let Some(files) = own.as_ref().or(options.default.as_ref()) else { continue };
        match Authority::read(files) {
            Ok(authority) => {
                found.insert(signer, Arc::new(authority));
            }
            Err(why) => {
                tracing::error!(signer, %why, "this signer's authority is not usable; its requests will wait")
            }
        }
    }
    found
}

impl Controller for Signing {
    fn reconcile(&self, key: &Key, context: &Context) -> Result<Plan, ReconcileError> {
        let mut plan = Plan::nothing();
        let Some(request) = self.requests.get(key) else { return Ok(plan) };
        let is_done = has(&request, "Failed") || has(&request, "Denied") || certificate(&request).is_some();
        if is_done || !has(&request, "Approved") {
            return Ok(plan);
        }
        let Some(authority) = self.authorities.get(request.spec.signer_name.as_str()) else {
            return Ok(plan);
        };
        let usages = request.spec.usages.clone().unwrap_or_default();
        let verdict = signers::read(&request.spec.request.0).and_then(|asked| {
            // The signing library would keep the last alone.
            if asked.organizations.len() > 1 {
                return Err("requests with more than one organization cannot be signed here".to_string());
            }
            signers::judge(&request.spec.signer_name, &asked, &usages)
                .unwrap_or(Ok(()))
                .map_err(str::to_string)
        });
        if let Err(why) = verdict {
            let failed = with_condition(&request, "Failed", "SignerValidationFailure", &why, context);
            plan.act(Action::update_status(&failed));
            return Ok(plan);
        }
        let asked = request
            .spec
            .expiration_seconds
            .and_then(|secs| u64::try_from(secs).ok())
            .map(Duration::from_secs);
        let life = asked.map_or(self.life, |asked| asked.clamp(LIFE_MIN, self.life.max(LIFE_MIN)));
        let pem = String::from_utf8_lossy(&request.spec.request.0).into_owned();
        match authority.sign(&pem, &usages, life, context.now, serial(&request)) {
            Ok(signed) => {
                let mut request = request.as_ref().clone();
                request.status.get_or_insert_default().certificate = Some(ByteString(signed.into_bytes()));
                plan.act(Action::update_status(&request));
            }
            Err(why) => plan.problem = Some(Failure::local(format!("signing failed: {why}"))),
        }
        Ok(plan)
    }
}

/// A serial number: random enough, for the uid is, and the same when a crash repeats the signing.
fn serial(request: &CertificateSigningRequest) -> [u8; 16] {
    use sha2::{Digest, Sha256};
    let mut hasher = Sha256::new();
    hasher.update(request.metadata.uid.as_deref().unwrap_or(""));
    hasher.update(&request.spec.request.0);
    let mut serial = [0; 16];
    serial.copy_from_slice(&hasher.finalize()[..16]);
    // Positive, as the standard wants.
    serial[0] &= 0x7f;
    serial
}
