//! Removes requests that have served: those answered long ago, those nobody answered, those whose certificate has
//! ended.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use x509_parser::prelude::FromDer;

use super::{certificate, condition};
use crate::runtime::{Action, Context, Controller, Key, Plan, ReconcileError, Store, Wiring, clock};

/// How long requests stay (upstream's): answered, and not answered.
const ANSWERED: Duration = Duration::from_secs(3600);
const PENDING: Duration = Duration::from_secs(24 * 3600);

struct Cleaning {
    requests: Store<CertificateSigningRequest>,
}

/// Builds the loop.
pub fn build(wiring: &mut Wiring) -> Box<dyn Controller> {
    Box::new(Cleaning { requests: wiring.on_self::<CertificateSigningRequest>() })
}

impl Controller for Cleaning {
    fn reconcile(&self, key: &Key, context: &Context) -> Result<Plan, ReconcileError> {
        let mut plan = Plan::nothing();
        let Some(request) = self.requests.get(key) else { return Ok(plan) };
        let left = clock::until(goes_at(&request), context.now);
        if left.is_zero() {
            plan.act(Action::delete(request.as_ref()));
        } else {
            plan.again_after(left);
        }
        Ok(plan)
    }
}

/// When a request may go.
fn goes_at(request: &CertificateSigningRequest) -> Timestamp {
    let created = request.metadata.creation_timestamp.as_ref().map_or(Timestamp::MAX, |at| at.0);
    let answered = ["Denied", "Failed", "Approved"].iter().find_map(|kind| condition(request, kind));
    let told = answered.map(|condition| condition.last_update_time.as_ref().map_or(created, |at| at.0));
    let by_answer = told.map_or_else(|| clock::add(created, PENDING), |at| clock::add(at, ANSWERED));
    let ends = certificate(request).and_then(ends_at);
    ends.map_or(by_answer, |ends| ends.min(by_answer))
}

fn ends_at(pem: &[u8]) -> Option<Timestamp> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem).ok()?;
    let (_, parsed) = x509_parser::certificate::X509Certificate::from_der(&pem.contents).ok()?;
    Timestamp::from_second(parsed.validity().not_after.timestamp()).ok()
}
