//! Certificate signing requests: nodes' own are approved ([`approving`]), approved ones signed ([`signing`]), old ones
//! removed ([`cleaning`]). What a request may ask of which signer is in [`signers`].

pub mod approving;
pub mod cleaning;
pub mod signers;
pub mod signing;
#[cfg(test)]
mod tests;

use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::runtime::Context;

/// Whether a request carries a condition.
pub fn has(request: &CertificateSigningRequest, kind: &str) -> bool {
    condition(request, kind).is_some()
}

/// One of a request's conditions.
pub fn condition<'a>(
    request: &'a CertificateSigningRequest,
    kind: &str,
) -> Option<&'a CertificateSigningRequestCondition> {
    let conditions = request.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == kind)
}

/// A request with one more condition.
pub fn with_condition(
    request: &CertificateSigningRequest,
    kind: &str,
    reason: &str,
    message: &str,
    context: &Context,
) -> CertificateSigningRequest {
    let mut request = request.clone();
    let conditions = request.status.get_or_insert_default().conditions.get_or_insert_default();
    conditions.push(CertificateSigningRequestCondition {
        type_: kind.into(),
        status: "True".into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_update_time: Some(Time(context.now)),
        last_transition_time: Some(Time(context.now)),
    });
    request
}

/// The issued certificate, if any.
pub fn certificate(request: &CertificateSigningRequest) -> Option<&[u8]> {
    let bytes = request.status.as_ref()?.certificate.as_ref()?;
    Some(bytes.0.as_slice()).filter(|bytes| !bytes.is_empty())
}
