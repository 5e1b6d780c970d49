//! Label selectors, evaluated without allocation.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

/// A label selector. The empty one selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Selector {
    terms: Vec<Term>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Term {
    In(Box<str>, Vec<Box<str>>),
    NotIn(Box<str>, Vec<Box<str>>),
    Exists(Box<str>),
    Absent(Box<str>),
    /// An operator that we do not know selects nothing: policies then allow less, never more.
    Never,
}

impl Selector {
    /// Reads the API's form.
    pub fn from_api(selector: &LabelSelector) -> Self {
        let labels = selector.match_labels.iter().flatten();
        let mut terms: Vec<Term> =
            labels.map(|(key, value)| Term::In(key.as_str().into(), vec![value.as_str().into()])).collect();
        for requirement in selector.match_expressions.iter().flatten() {
            let key = requirement.key.as_str().into();
            let values = requirement.values.iter().flatten().map(|value| value.as_str().into()).collect();
            terms.push(match requirement.operator.as_str() {
                "In" => Term::In(key, values),
                "NotIn" => Term::NotIn(key, values),
                "Exists" => Term::Exists(key),
                "DoesNotExist" => Term::Absent(key),
                _ => Term::Never,
            });
        }
        Self { terms }
    }

    /// True when the labels satisfy every term.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let has = |key: &str, values: &[Box<str>]| {
            labels.get(key).is_some_and(|value| values.iter().any(|wanted| **wanted == *value))
        };
        self.terms.iter().all(|term| match term {
            Term::In(key, values) => has(key, values),
            Term::NotIn(key, values) => !has(key, values),
            Term::Exists(key) => labels.contains_key(&**key),
            Term::Absent(key) => !labels.contains_key(&**key),
            Term::Never => false,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_operator() {
        let table = [
            (json!({}), true),
            (json!({"matchLabels": {"app": "web"}}), true),
            (json!({"matchLabels": {"app": "web", "tier": "db"}}), false),
            (json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["a", "web"]}]}), true),
            (json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["web"]}]}), false),
            (json!({"matchExpressions": [{"key": "no", "operator": "NotIn", "values": ["web"]}]}), true),
            (json!({"matchExpressions": [{"key": "app", "operator": "Exists"}]}), true),
            (json!({"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}), false),
            (json!({"matchExpressions": [{"key": "app", "operator": "Gt", "values": ["1"]}]}), false),
        ];
        let labels = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
        for (selector, expected) in table {
            let parsed: LabelSelector = serde_json::from_value(selector.clone()).expect("a selector");
            assert_eq!(Selector::from_api(&parsed).matches(&labels), expected, "{selector}");
        }
    }
}
