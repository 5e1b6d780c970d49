//! Approves requests of nodes for their own client certificates, if the API server says the requester may have one.

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use serde_json::json;

use super::signers::{self, KUBELET_CLIENT};
use super::{certificate, has, with_condition};
use crate::runtime::{
    Action, Answer, Ask, Context, Controller, Failure, Key, Plan, ReconcileError, Store, Verb, Wiring,
};

const SELF: (&str, &str) =
    ("selfnodeclient", "Auto approving self kubelet client certificate after SubjectAccessReview.");
const OTHER: (&str, &str) =
    ("nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview.");

struct Approving {
    requests: Store<CertificateSigningRequest>,
}

/// Builds the loop.
pub fn build(wiring: &mut Wiring) -> Box<dyn Controller> {
    Box::new(Approving { requests: wiring.on_self::<CertificateSigningRequest>() })
}

impl Controller for Approving {
    fn reconcile(&self, key: &Key, context: &Context) -> Result<Plan, ReconcileError> {
        let mut plan = Plan::nothing();
        let Some(request) = self.requests.get(key) else { return Ok(plan) };
        if has(&request, "Approved") || has(&request, "Denied") || certificate(&request).is_some() {
            return Ok(plan);
        }
        let usages = request.spec.usages.clone().unwrap_or_default();
        let Ok(asked) = signers::read(&request.spec.request.0) else { return Ok(plan) };
        if request.spec.signer_name != KUBELET_CLIENT || signers::is_kubelet_client(&asked, &usages).is_err()
        {
            return Ok(plan);
        }
        let is_self = request.spec.username.as_deref() == Some(asked.common_name.as_str());
        let kinds = if is_self { vec![SELF, OTHER] } else { vec![OTHER] };
        for (subresource, message) in kinds {
            let ask = review(&request, subresource);
            match context.answer(&ask) {
                None => return Ok(plan.ask(ask)),
                Some(Answer::Json(review)) if review["status"]["allowed"] == true => {
                    let approved = with_condition(&request, "Approved", "AutoApproved", message, context);
                    let mut action = Action::update(&approved);
                    if let Verb::Update { subresource, .. } = &mut action.verb {
                        *subresource = "approval";
                    }
                    plan.act(action);
                    return Ok(plan);
                }
                Some(Answer::Failed(failure)) => {
                    plan.problem = Some(failure.clone());
                    return Ok(plan);
                }
                Some(_) => {}
            }
        }
        let why = format!(
            "recognized csr {:?} as kubelet client but subject access review was not approved",
            &*key.name
        );
        plan.problem = Some(Failure::local(why));
        Ok(plan)
    }
}

fn review(request: &CertificateSigningRequest, subresource: &str) -> Ask {
    let spec = &request.spec;
    let body = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": {
        "user": spec.username, "groups": spec.groups, "uid": spec.uid, "extra": spec.extra,
        "resourceAttributes": {"group": "certificates.k8s.io", "resource": "certificatesigningrequests",
            "verb": "create", "subresource": subresource, "version": "*"}}});
    Ask::Review("/apis/authorization.k8s.io/v1/subjectaccessreviews".into(), body.to_string())
}
