//! Says on each ValidatingAdmissionPolicy which generation has been looked at. Expressions are compiled, and refused
//! with their errors, when a policy is written; there is no second check of types here, so the list of warnings stays
//! empty.

use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicy;
use serde_json::json;

use crate::runtime::{Action, Context, Controller, Key, Plan, ReconcileError, Store, Wiring};

struct PolicyStatus {
    policies: Store<ValidatingAdmissionPolicy>,
}

/// Builds the loop.
pub fn build(wiring: &mut Wiring) -> Box<dyn Controller> {
    Box::new(PolicyStatus { policies: wiring.on_self() })
}

impl Controller for PolicyStatus {
    fn reconcile(&self, key: &Key, _context: &Context) -> Result<Plan, ReconcileError> {
        let mut plan = Plan::nothing();
        let Some(policy) = self.policies.get(key) else { return Ok(plan) };
        let generation = policy.metadata.generation.unwrap_or(0);
        let observed = policy.status.as_ref().and_then(|status| status.observed_generation).unwrap_or(0);
        if generation > observed {
            let status = json!({"observedGeneration": generation, "typeChecking": {}});
            plan.act(Action::merge_status(policy.as_ref(), json!({ "status": status })).tolerating(&[404]));
        }
        Ok(plan)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::testing::check;
    use crate::testing::crash::check_crashes;
    use crate::testing::world::Scenario;

    #[test]
    fn the_generation_is_followed() {
        let policy = |observed: i64| {
            json!({"kind": "ValidatingAdmissionPolicy", "metadata": {"name": "p", "generation": 2},
                "status": {"observedGeneration": observed}})
        };
        let path = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/p/status";
        check(super::build, "p", &[policy(1)], &format!("patch {path}"));
        check(super::build, "p", &[policy(2)], "");
        let mut scenario = Scenario::new(&[super::build], &[policy(0)]);
        scenario.steps = vec![|model| {
            model.edit("ValidatingAdmissionPolicy", "", "p", |policy| {
                policy["spec"] = json!({"validations": []})
            });
        }];
        assert_eq!(check_crashes(&scenario), 2);
    }
}
