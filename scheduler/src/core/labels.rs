//! Label sets, label selectors, node selectors and tolerations in compiled form.
//!
//! Owns: matching of plain strings by the rules of `metav1.LabelSelector`, `v1.NodeSelector` and
//! `v1.Toleration`. Invariant: label sets are sorted by key. It does not parse API objects; the edge does.

use std::sync::Arc;

/// Labels sorted by key, so that lookups are a binary search and equality is structural.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Labels(Arc<[(Box<str>, Box<str>)]>);

impl Labels {
    /// The value of `key`, if the label exists.
    pub fn get(&self, key: &str) -> Option<&str> {
        let at = self.0.binary_search_by(|(k, _)| (**k).cmp(key)).ok()?;
        Some(&self.0[at].1)
    }

    /// Whether there are no labels at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All pairs in key order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (&**k, &**v))
    }
}

impl<K: Into<Box<str>>, V: Into<Box<str>>> FromIterator<(K, V)> for Labels {
    fn from_iter<T: IntoIterator<Item = (K, V)>>(pairs: T) -> Self {
        let mut all: Vec<(Box<str>, Box<str>)> =
            pairs.into_iter().map(|(k, v)| (k.into(), v.into())).collect();
        all.sort();
        all.dedup_by(|a, b| a.0 == b.0);
        Labels(all.into())
    }
}

/// Operators of label and node selectors. Labels know no `Gt` and `Lt`; node selectors do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Op {
    In,
    NotIn,
    Exists,
    DoesNotExist,
    Gt,
    Lt,
}

/// One requirement on one label key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Requirement {
    pub key: Box<str>,
    pub op: Op,
    pub values: Vec<Box<str>>,
}

impl Requirement {
    /// `key in (value)`.
    pub fn equals(key: &str, value: &str) -> Self {
        Requirement { key: key.into(), op: Op::In, values: vec![value.into()] }
    }

    fn matches(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        match self.op {
            Op::In => value.is_some_and(|v| self.has(v)),
            Op::NotIn => value.is_none_or(|v| !self.has(v)),
            Op::Exists => value.is_some(),
            Op::DoesNotExist => value.is_none(),
            Op::Gt => self.compare(value).is_some_and(|(have, want)| have > want),
            Op::Lt => self.compare(value).is_some_and(|(have, want)| have < want),
        }
    }

    fn has(&self, value: &str) -> bool {
        self.values.iter().any(|v| **v == *value)
    }

    /// Both sides as integers; a value that is no integer never matches.
    fn compare(&self, value: Option<&str>) -> Option<(i64, i64)> {
        Some((value?.parse().ok()?, self.values.first()?.parse().ok()?))
    }

    /// Whether the API would refuse this requirement (a term that holds one matches nothing).
    pub fn is_malformed(&self) -> bool {
        match self.op {
            Op::In | Op::NotIn => self.values.is_empty(),
            Op::Exists | Op::DoesNotExist => !self.values.is_empty(),
            Op::Gt | Op::Lt => self.values.len() != 1 || self.values[0].parse::<i64>().is_err(),
        }
    }
}

/// A label selector: an absent one matches nothing, an empty one everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Selector {
    #[default]
    Nothing,
    /// All requirements hold; an empty list is everything.
    All(Vec<Requirement>),
}

impl Selector {
    /// The selector of a plain map (`matchLabels`, `spec.selector` of a Service).
    pub fn from_map<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut all: Vec<Requirement> = pairs.into_iter().map(|(k, v)| Requirement::equals(k, v)).collect();
        all.sort();
        Selector::All(all)
    }

    /// Whether `labels` are selected.
    pub fn matches(&self, labels: &Labels) -> bool {
        match self {
            Selector::Nothing => false,
            Selector::All(requirements) => requirements.iter().all(|r| r.matches(labels)),
        }
    }

    /// Whether this is the selector without requirements (which matches everything).
    pub fn is_everything(&self) -> bool {
        matches!(self, Selector::All(requirements) if requirements.is_empty())
    }
}

/// One term of a node selector: label expressions and field expressions, all of which hold.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NodeSelectorTerm {
    pub labels: Vec<Requirement>,
    pub fields: Vec<Requirement>,
}

impl NodeSelectorTerm {
    /// Whether the node is selected. An empty or malformed term selects nothing.
    pub fn matches(&self, node_name: &str, labels: &Labels) -> bool {
        if self.labels.is_empty() && self.fields.is_empty() {
            return false;
        }
        if self.labels.iter().any(Requirement::is_malformed) || self.fields.iter().any(field_is_malformed) {
            return false;
        }
        self.labels.iter().all(|r| r.matches(labels))
            && self.fields.iter().all(|r| field_matches(r, node_name))
    }
}

fn field_is_malformed(requirement: &Requirement) -> bool {
    !matches!(requirement.op, Op::In | Op::NotIn) || requirement.values.len() != 1
}

/// The only field a node has for selection is `metadata.name`.
fn field_matches(requirement: &Requirement, node_name: &str) -> bool {
    let have = if &*requirement.key == "metadata.name" { node_name } else { "" };
    let equal = *requirement.values[0] == *have;
    if requirement.op == Op::In { equal } else { !equal }
}

/// A required node affinity: terms are alternatives.
pub type NodeSelector = Vec<NodeSelectorTerm>;

/// Effects of a taint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Effect {
    NoSchedule,
    PreferNoSchedule,
    NoExecute,
}

/// A node's taint.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Taint {
    pub key: Box<str>,
    pub value: Box<str>,
    pub effect: Effect,
}

/// A pod's toleration. No `value` test when `exists`; no key means any key, no effect any effect.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Toleration {
    pub key: Box<str>,
    pub value: Box<str>,
    pub effect: Option<Effect>,
    /// `None` for an operator that is not enabled by default (`Lt`, `Gt`): it tolerates nothing.
    pub exists: Option<bool>,
}

impl Toleration {
    /// Whether this toleration covers `taint`.
    pub fn tolerates(&self, taint: &Taint) -> bool {
        if self.effect.is_some_and(|e| e != taint.effect) || (!self.key.is_empty() && self.key != taint.key) {
            return false;
        }
        match self.exists {
            Some(true) => true,
            Some(false) => self.value == taint.value,
            None => false,
        }
    }
}

/// Whether a taint that keeps pods away (`NoSchedule`, `NoExecute`) is not tolerated.
pub fn has_untolerated_taint(taints: &[Taint], tolerations: &[Toleration]) -> bool {
    taints
        .iter()
        .any(|t| t.effect != Effect::PreferNoSchedule && !tolerations.iter().any(|tol| tol.tolerates(t)))
}

/// How many `PreferNoSchedule` taints are not tolerated.
pub fn count_intolerable_preferences(taints: &[Taint], tolerations: &[Toleration]) -> u32 {
    let intolerable = |t: &&Taint| {
        t.effect == Effect::PreferNoSchedule
            && !tolerations
                .iter()
                .any(|tol| tol.effect.is_none_or(|e| e == Effect::PreferNoSchedule) && tol.tolerates(t))
    };
    taints.iter().filter(intolerable).count() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(text: &str) -> Labels {
        text.split(',').filter(|p| !p.is_empty()).filter_map(|p| p.split_once('=')).collect()
    }

    fn requirement(key: &str, op: Op, values: &[&str]) -> Requirement {
        Requirement { key: key.into(), op, values: values.iter().map(|v| (*v).into()).collect() }
    }

    #[test]
    fn requirements_follow_the_label_selector_rules() {
        let cases = [
            (Op::In, &["x", "y"][..], "a=y", true),
            (Op::In, &["x"], "a=z", false),
            (Op::In, &["x"], "", false),
            (Op::NotIn, &["x"], "", true),
            (Op::NotIn, &["x"], "a=x", false),
            (Op::Exists, &[], "a=", true),
            (Op::DoesNotExist, &[], "b=1", true),
            (Op::Gt, &["3"], "a=4", true),
            (Op::Gt, &["3"], "a=3", false),
            (Op::Lt, &["3"], "a=-4", true),
            (Op::Lt, &["3"], "a=four", false),
        ];
        for (op, values, have, expected) in cases {
            let selector = Selector::All(vec![requirement("a", op, values)]);
            assert_eq!(selector.matches(&labels(have)), expected, "{op:?} {values:?} on {have:?}");
        }
    }

    #[test]
    fn absent_selector_matches_nothing_and_empty_everything() {
        assert!(!Selector::Nothing.matches(&labels("a=1")));
        assert!(Selector::All(vec![]).matches(&labels("")));
        assert!(Selector::All(vec![]).is_everything());
        assert!(!Selector::Nothing.is_everything());
    }

    #[test]
    fn empty_and_malformed_node_terms_match_nothing() {
        let empty = NodeSelectorTerm { labels: vec![], fields: vec![] };
        assert!(!empty.matches("n", &labels("")));
        let bad = NodeSelectorTerm { labels: vec![requirement("a", Op::In, &[])], fields: vec![] };
        assert!(!bad.matches("n", &labels("a=1")));
        let name =
            NodeSelectorTerm { labels: vec![], fields: vec![requirement("metadata.name", Op::In, &["n"])] };
        assert!(name.matches("n", &labels("")) && !name.matches("m", &labels("")));
    }

    #[test]
    fn tolerations_follow_key_operator_value_and_effect() {
        let taint = Taint { key: "k".into(), value: "v".into(), effect: Effect::NoSchedule };
        let cases = [
            ("k", "v", None, Some(false), true),
            ("k", "w", None, Some(false), false),
            ("k", "", None, Some(true), true),
            ("", "", None, Some(true), true),
            ("", "v", None, Some(false), true),
            ("k", "v", Some(Effect::NoExecute), Some(false), false),
            ("k", "v", None, None, false),
        ];
        for (key, value, effect, exists, expected) in cases {
            let toleration = Toleration { key: key.into(), value: value.into(), effect, exists };
            assert_eq!(toleration.tolerates(&taint), expected, "{toleration:?}");
            assert_eq!(has_untolerated_taint(std::slice::from_ref(&taint), &[toleration]), !expected);
        }
    }
}
