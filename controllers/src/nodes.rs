//! Facts about nodes, and whether a pod's node affinity and tolerations accept one.

use k8s_openapi::api::core::v1::{
    Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Taint, Toleration,
};

use crate::meta::name;

/// One of a node's conditions: its status.
pub fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a str> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == kind).map(|condition| condition.status.as_str())
}

/// Whether the Ready condition is true.
pub fn is_ready(node: &Node) -> bool {
    condition(node, "Ready") == Some("True")
}

/// The node's taints.
pub fn taints(node: &Node) -> &[Taint] {
    node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or(&[])
}

/// Whether a toleration accepts a taint.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or("");
    let key = toleration.key.as_deref().unwrap_or("");
    if (!effect.is_empty() && effect != taint.effect) || (!key.is_empty() && key != taint.key) {
        return false;
    }
    let value = |value: &Option<String>| value.clone().unwrap_or_default();
    match toleration.operator.as_deref().unwrap_or("Equal") {
        "Exists" => true,
        "Equal" | "" => !key.is_empty() && value(&toleration.value) == value(&taint.value),
        operator @ ("Gt" | "Lt") => {
            let numbers =
                value(&toleration.value).parse::<i64>().ok().zip(value(&taint.value).parse::<i64>().ok());
            numbers.is_some_and(|(wanted, have)| if operator == "Gt" { have > wanted } else { have < wanted })
        }
        _ => false,
    }
}

/// Whether all the node's taints with one of these effects are tolerated.
pub fn accepts(tolerations: &[Toleration], node: &Node, effects: &[&str]) -> bool {
    let relevant = taints(node).iter().filter(|taint| effects.contains(&taint.effect.as_str()));
    relevant.into_iter().all(|taint| tolerations.iter().any(|toleration| tolerates(toleration, taint)))
}

/// Whether the pod's node selector and required node affinity accept the node.
pub fn matches(spec: &PodSpec, node: &Node) -> bool {
    let labels = node.metadata.labels.as_ref();
    let selected = spec
        .node_selector
        .iter()
        .flatten()
        .all(|(key, value)| labels.and_then(|l| l.get(key)) == Some(value));
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    selected && required.is_none_or(|selector| matches_selector(selector, node))
}

/// Whether a node selector picks the node: one of its terms must.
pub fn matches_selector(selector: &NodeSelector, node: &Node) -> bool {
    selector.node_selector_terms.iter().any(|term| matches_term(term, node))
}

fn matches_term(term: &NodeSelectorTerm, node: &Node) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or(&[]);
    let fields = term.match_fields.as_deref().unwrap_or(&[]);
    // An empty term picks nothing.
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    let label =
        |key: &str| node.metadata.labels.as_ref().and_then(|labels| labels.get(key)).map(String::as_str);
    let field = |key: &str| (key == "metadata.name").then(|| name(node));
    expressions.iter().all(|requirement| fits(requirement, label(&requirement.key)))
        && fields.iter().all(|requirement| fits(requirement, field(&requirement.key)))
}

fn fits(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let listed = |value: &str| requirement.values.iter().flatten().any(|wanted| wanted == value);
    let compare = |test: fn(i64, i64) -> bool| {
        let wanted =
            requirement.values.as_ref().and_then(|values| values.first()).and_then(|text| text.parse().ok());
        value.and_then(|text| text.parse().ok()).zip(wanted).is_some_and(|(have, wanted)| test(have, wanted))
    };
    match requirement.operator.as_str() {
        "In" => value.is_some_and(listed),
        "NotIn" => !value.is_some_and(listed),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare(|have, wanted| have > wanted),
        "Lt" => compare(|have, wanted| have < wanted),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn tolerations() {
        let taint: Taint = serde_json::from_value(json!({"key": "k", "value": "5", "effect": "NoExecute"}))
            .expect("a taint");
        let cases = [
            (json!({"operator": "Exists"}), true),
            (json!({"key": "k", "value": "5"}), true),
            (json!({"key": "k", "value": "6"}), false),
            (json!({"key": "k", "operator": "Exists", "effect": "NoSchedule"}), false),
            (json!({"key": "k", "operator": "Gt", "value": "4"}), true),
            (json!({"key": "other", "operator": "Exists"}), false),
        ];
        for (toleration, expected) in cases {
            let parsed: Toleration = serde_json::from_value(toleration.clone()).expect("a toleration");
            assert_eq!(tolerates(&parsed, &taint), expected, "{toleration}");
        }
    }

    #[test]
    fn node_affinity() {
        let node: Node =
            serde_json::from_value(json!({"metadata": {"name": "n1", "labels": {"zone": "a", "size": "7"}}}))
                .expect("a node");
        let cases = [
            (json!({"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}), true),
            (json!({"matchExpressions": [{"key": "size", "operator": "Gt", "values": ["7"]}]}), false),
            (json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}), true),
            (json!({"matchExpressions": [{"key": "none", "operator": "NotIn", "values": ["x"]}]}), true),
            (json!({}), false),
        ];
        for (term, expected) in cases {
            let selector: NodeSelector =
                serde_json::from_value(json!({"nodeSelectorTerms": [term]})).expect("a selector");
            assert_eq!(matches_selector(&selector, &node), expected, "{term}");
        }
    }
}
