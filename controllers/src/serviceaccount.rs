//! Gives every namespace its `default` service account.

use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::meta::{is_terminating, name, namespace};
use crate::runtime::{Action, Context, Controller, Key, Plan, ReconcileError, Store, Wiring};

const DEFAULT: &str = "default";

struct ServiceAccounts {
    namespaces: Store<Namespace>,
    accounts: Store<ServiceAccount>,
}

/// Builds the loop; its keys are namespaces.
pub fn build(wiring: &mut Wiring) -> Box<dyn Controller> {
    let accounts = wiring.on::<ServiceAccount>(|change, queue| {
        if let (Some(old), None) = (&change.old, &change.new)
            && name(old.as_ref()) == DEFAULT
        {
            queue.add(Key::cluster(namespace(old.as_ref())));
        }
    });
    Box::new(ServiceAccounts { namespaces: wiring.on_self::<Namespace>(), accounts })
}

impl Controller for ServiceAccounts {
    fn reconcile(&self, key: &Key, _context: &Context) -> Result<Plan, ReconcileError> {
        let mut plan = Plan::nothing();
        let Some(space) = self.namespaces.get(key) else { return Ok(plan) };
        if is_terminating(space.as_ref()) || self.accounts.named(&key.name, DEFAULT).is_some() {
            return Ok(plan);
        }
        let metadata = ObjectMeta {
            name: Some(DEFAULT.into()),
            namespace: Some(key.name.to_string()),
            ..ObjectMeta::default()
        };
        let account = ServiceAccount { metadata, ..ServiceAccount::default() };
        plan.act(Action::create(&account).tolerating(&[409]));
        Ok(plan)
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::check;
    use crate::testing::crash::check_crashes;
    use crate::testing::model::Model;
    use crate::testing::world::Scenario;
    use serde_json::json;

    #[test]
    fn a_deleted_account_comes_back_whatever_dies() {
        let mut scenario =
            Scenario::new(&[super::build], &[json!({"kind": "Namespace", "metadata": {"name": "ns"}})]);
        let remove: fn(&mut Model) = |model| model.remove("ServiceAccount", "ns", "default", None);
        scenario.steps = vec![remove];
        assert_eq!(check_crashes(&scenario), 2);
    }

    #[test]
    fn cases() {
        let space = json!({"kind": "Namespace", "metadata": {"name": "ns"}});
        let dying = json!({"kind": "Namespace", "metadata": {"name": "ns", "deletionTimestamp": "2026-01-01T00:00:00Z"}});
        let account = json!({"kind": "ServiceAccount", "metadata": {"name": "default", "namespace": "ns"}});
        let create = "create /api/v1/namespaces/ns/serviceaccounts/default";
        check(super::build, "ns", std::slice::from_ref(&space), create);
        check(super::build, "ns", &[space, account], "");
        check(super::build, "ns", &[dying], "");
        check(super::build, "ns", &[], "");
    }
}
