//! Cluster roles made of others: the rules of every role that an aggregation rule selects, each rule once.

use std::sync::Arc;

use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};

use crate::meta::name;
use crate::runtime::{Action, Context, Controller, Key, Plan, ReconcileError, Store, Wiring};
use crate::selector::Selector;

struct Aggregation {
    roles: Store<ClusterRole>,
}

/// Builds the loop.
pub fn build(wiring: &mut Wiring) -> Box<dyn Controller> {
    let roles = wiring.store::<ClusterRole>();
    let all = roles.clone();
    wiring.on::<ClusterRole>(move |_, queue| {
        // Any role may be part of any aggregate; there are few aggregates.
        for role in all.all().iter().filter(|role| role.aggregation_rule.is_some()) {
            queue.add(Key::of(role.as_ref()));
        }
    });
    Box::new(Aggregation { roles })
}

impl Controller for Aggregation {
    fn reconcile(&self, key: &Key, _context: &Context) -> Result<Plan, ReconcileError> {
        let mut plan = Plan::nothing();
        let Some(role) = self.roles.get(key) else { return Ok(plan) };
        let Some(rule) = &role.aggregation_rule else { return Ok(plan) };
        let mut others: Vec<Arc<ClusterRole>> = self.roles.all();
        others.retain(|other| name(other.as_ref()) != name(role.as_ref()));
        others.sort_by_key(|other| name(other.as_ref()).to_string());
        let mut rules: Vec<PolicyRule> = Vec::new();
        for selector in rule.cluster_role_selectors.iter().flatten() {
            let selector = Selector::of(selector)?;
            let selected = others.iter().filter(|other| selector.matches(other.metadata.labels.as_ref()));
            for rule in selected.flat_map(|other| other.rules.iter().flatten()) {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
        if role.rules.as_deref().unwrap_or(&[]) != rules {
            let role = ClusterRole { rules: Some(rules), ..role.as_ref().clone() };
            plan.act(Action::update(&role));
        }
        Ok(plan)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::testing::check;
    use crate::testing::crash::check_crashes;
    use crate::testing::world::Scenario;

    fn part(name: &str, resource: &str) -> Value {
        json!({"kind": "ClusterRole", "metadata": {"name": name, "labels": {"to": "view"}},
            "rules": [{"verbs": ["get"], "resources": [resource], "apiGroups": [""]}]})
    }

    fn aggregate(rules: Value) -> Value {
        json!({"kind": "ClusterRole", "metadata": {"name": "view"}, "rules": rules,
            "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"to": "view"}}]}})
    }

    #[test]
    fn cases() {
        let update = "update /apis/rbac.authorization.k8s.io/v1/clusterroles/view";
        let rule = |resource: &str| json!({"verbs": ["get"], "resources": [resource], "apiGroups": [""]});
        check(super::build, "view", &[aggregate(Value::Null), part("a", "pods")], update);
        let done = aggregate(json!([rule("pods"), rule("nodes")]));
        check(super::build, "view", &[done, part("a", "pods"), part("b", "nodes"), part("c", "pods")], "");
        check(super::build, "a", &[part("a", "pods")], "");
    }

    #[test]
    fn crashes() {
        check_crashes(&Scenario::new(
            &[super::build],
            &[aggregate(Value::Null), part("a", "pods"), part("b", "nodes")],
        ));
    }
}
