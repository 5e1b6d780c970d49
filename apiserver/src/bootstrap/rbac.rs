//! The default roles and bindings, from `tables/rbac.json`; existing ones get the rules and subjects they miss.

use machinery::status::StatusError;
use serde::Deserialize;
use serde_json::{Value, json};

use super::ensure::{all, ensure as ensure_one, lost_race};
use crate::authz::rules::{Rule, missing};
use crate::contract::{ClusterWriter, Object};
use crate::kinds::json::{at, items, push, set, text};

static TABLE: &str = include_str!("../../tables/rbac.json");
const GROUP: &str = crate::authz::RBAC_GROUP;
const AUTO_UPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// A role or binding of the table.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    kind: String,
    name: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    labels: Value,
    #[serde(default)]
    rules: Value,
    #[serde(default)]
    aggregation_rule: Value,
    #[serde(default)]
    role_ref: Value,
    #[serde(default)]
    subjects: Value,
}

/// Creates or completes every role and binding.
pub async fn ensure(cluster: &dyn ClusterWriter) -> Result<(), StatusError> {
    // Bindings may name roles; nothing checks that here, and authorization needs both anyway.
    all(rows()?.into_iter().map(|row| ensure_row(cluster, row))).await
}

async fn ensure_row(cluster: &dyn ClusterWriter, row: Row) -> Result<(), StatusError> {
    let resource = format!("{}s", row.kind.to_ascii_lowercase());
    let wanted = row.object();
    let stored = ensure_one(cluster, GROUP, &resource, wanted.clone()).await?;
    let Some(completed) = complete(&stored, &wanted) else { return Ok(()) };
    match cluster.update(GROUP, &resource, completed).await {
        Err(error) if !lost_race(&error) => Err(error),
        _ => Ok(()),
    }
}

/// The rules of the role `system:node`, which the Node authorizer grants to every node.
pub fn node_rules() -> Vec<Rule> {
    let rows = rows().unwrap_or_default();
    let node = rows.iter().find(|row| row.kind == "ClusterRole" && row.name == "system:node");
    node.map(|row| Rule::list(&row.object())).unwrap_or_default()
}

fn rows() -> Result<Vec<Row>, StatusError> {
    serde_json::from_str(TABLE).map_err(StatusError::internal)
}

impl Row {
    fn object(&self) -> Object {
        let mut labels = self.labels.clone();
        set(&mut labels, &["kubernetes.io/bootstrapping"], "rbac-defaults");
        let mut object = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": self.kind,
            "metadata": {"name": self.name, "labels": labels, "annotations": {AUTO_UPDATE: "true"}},
        });
        if !self.namespace.is_empty() {
            set(&mut object, &["metadata", "namespace"], self.namespace.clone());
        }
        let parts = [
            ("rules", &self.rules),
            ("aggregationRule", &self.aggregation_rule),
            ("roleRef", &self.role_ref),
            ("subjects", &self.subjects),
        ];
        for (field, value) in parts.into_iter().filter(|(_, value)| !value.is_null()) {
            set(&mut object, &[field], value.clone());
        }
        object
    }
}

/// The stored object with what it misses, `None` when it misses nothing or does not want to be updated.
fn complete(stored: &Object, wanted: &Object) -> Option<Object> {
    if text(stored, &["metadata", "annotations", AUTO_UPDATE]) == "false" {
        return None;
    }
    let mut completed = stored.clone();
    if !at(wanted, &["roleRef"]).is_null() {
        for subject in items(wanted, &["subjects"]) {
            let same = |own: &Value| {
                ["kind", "name", "namespace"].iter().all(|field| own.get(field) == subject.get(field))
            };
            if !items(stored, &["subjects"]).iter().any(same) {
                push(&mut completed, &["subjects"], subject.clone());
            }
        }
    } else if at(wanted, &["aggregationRule"]).is_null() {
        let held = Rule::list(stored);
        for rule in items(wanted, &["rules"]) {
            if !missing(&held, &[Rule::from_json(rule)]).is_empty() {
                push(&mut completed, &["rules"], rule.clone());
            }
        }
    }
    (completed != *stored).then_some(completed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_complete_and_stable() {
        let rows = rows().unwrap();
        assert!(rows.len() > 130);
        for row in &rows {
            assert!(complete(&row.object(), &row.object()).is_none(), "{}", row.name);
        }
        assert!(!node_rules().is_empty());
    }

    #[test]
    fn missing_rules_are_added_to_what_people_wrote() {
        let rule = |verb: &str| json!({"verbs": [verb], "apiGroups": [""], "resources": ["pods"]});
        let stored = json!({"metadata": {"name": "r"}, "rules": [rule("get"), rule("list")]});
        let wanted = json!({"rules": [rule("list"), rule("watch")]});
        let completed = complete(&stored, &wanted).unwrap();
        assert_eq!(completed["rules"], json!([rule("get"), rule("list"), rule("watch")]));
        let frozen = json!({"metadata": {"annotations": {AUTO_UPDATE: "false"}}, "rules": []});
        assert!(complete(&frozen, &wanted).is_none());
    }
}
