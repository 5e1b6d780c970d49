//! Label selectors: from query strings (`a=b,c in (d,e),!f`) and from `metav1.LabelSelector` objects.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::Value;

use super::lexer::{Kind, Token, scan};
use crate::names;
use crate::status::field::aggregate_texts;
use crate::status::{FieldError, Path};

/// A relation between a label and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operator {
    In,
    NotIn,
    Equals,
    DoubleEquals,
    NotEquals,
    Exists,
    DoesNotExist,
    GreaterThan,
    LessThan,
}

/// One condition of a selector. Values are sorted and unique.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Requirement {
    pub key: String,
    pub operator: Operator,
    pub values: Vec<String>,
}

/// A label selector: all requirements must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels {
    requirements: Vec<Requirement>,
    nothing: bool,
}

impl Labels {
    /// Matches every object.
    pub fn everything() -> Self {
        Labels::default()
    }

    /// Matches no object.
    pub fn nothing() -> Self {
        Labels { requirements: Vec::new(), nothing: true }
    }

    /// Requires exactly these labels.
    pub fn from_pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let requirements = pairs
            .into_iter()
            .map(|(k, v)| Requirement {
                key: k.to_owned(),
                operator: Operator::Equals,
                values: vec![v.to_owned()],
            })
            .collect();
        Labels { requirements, nothing: false }.sorted()
    }

    /// Reads the text of a `labelSelector` query parameter.
    pub fn parse(text: &str) -> Result<Self, String> {
        let tokens = scan(text);
        let requirements = Parser { tokens: &tokens, position: 0 }.parse()?;
        Ok(Labels { requirements, nothing: false }.sorted())
    }

    /// Reads a `metav1.LabelSelector`: absent or null matches nothing, empty matches everything.
    pub fn from_value(selector: &Value) -> Result<Self, String> {
        if selector.is_null() {
            return Ok(Labels::nothing());
        }
        let mut requirements = Vec::new();
        if let Some(labels) = selector.get("matchLabels").and_then(Value::as_object) {
            for (key, value) in labels {
                let value = value.as_str().unwrap_or_default().to_owned();
                requirements.push(requirement(key, Operator::Equals, vec![value])?);
            }
        }
        let expressions = selector.get("matchExpressions").and_then(Value::as_array);
        for expression in expressions.into_iter().flatten() {
            requirements.push(expression_requirement(expression)?);
        }
        Ok(Labels { requirements, nothing: false }.sorted())
    }

    /// Reads a plain map of labels that must all be present (a Service's or ReplicationController's selector).
    pub fn from_map(labels: &Value) -> Self {
        let pairs = labels.as_object().into_iter().flatten();
        Labels::from_pairs(pairs.map(|(k, v)| (k.as_str(), v.as_str().unwrap_or_default())))
    }

    fn sorted(mut self) -> Self {
        self.requirements.sort_by(|a, b| a.key.cmp(&b.key));
        self
    }

    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    pub fn is_nothing(&self) -> bool {
        self.nothing
    }

    /// Whether a JSON map of labels (or null) matches.
    pub fn matches(&self, labels: &Value) -> bool {
        self.matches_fn(|key| labels.get(key).and_then(Value::as_str))
    }

    /// Whether the labels that `lookup` finds match.
    pub fn matches_fn<'a>(&self, lookup: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.matches(lookup(&r.key)))
    }
}

impl Requirement {
    /// Whether the value of the label, `None` when it is absent, meets the requirement.
    pub fn matches(&self, value: Option<&str>) -> bool {
        let listed = |v: &str| self.values.iter().any(|x| x == v);
        match self.operator {
            Operator::In | Operator::Equals | Operator::DoubleEquals => value.is_some_and(listed),
            Operator::NotIn | Operator::NotEquals => !value.is_some_and(listed),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan => self.compare(value).is_some_and(|(l, r)| l > r),
            Operator::LessThan => self.compare(value).is_some_and(|(l, r)| l < r),
        }
    }

    fn compare(&self, value: Option<&str>) -> Option<(i64, i64)> {
        Some((value?.parse().ok()?, self.values.first()?.parse().ok()?))
    }
}

fn expression_requirement(expression: &Value) -> Result<Requirement, String> {
    let text = |key: &str| expression.get(key).and_then(Value::as_str).unwrap_or_default();
    let operator = match text("operator") {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        other => {
            return Err(format!("{} is not a valid label selector operator", crate::gotext::quote(other)));
        }
    };
    let values = expression.get("values").and_then(Value::as_array);
    let values = values.into_iter().flatten().map(|v| v.as_str().unwrap_or_default().to_owned()).collect();
    requirement(text("key"), operator, values)
}

/// Checks and builds one requirement (upstream `labels.NewRequirement`).
pub(super) fn requirement(key: &str, operator: Operator, values: Vec<String>) -> Result<Requirement, String> {
    let path = Path::root();
    let mut errors = Vec::new();
    let problems = names::qualified_name(key);
    if !problems.is_empty() {
        errors.push(FieldError::invalid(&"key", key, problems.join("; ")));
    }
    let text = match operator {
        Operator::In | Operator::NotIn if values.is_empty() => {
            Some("for 'in', 'notin' operators, values set can't be empty")
        }
        Operator::Equals | Operator::DoubleEquals | Operator::NotEquals if values.len() != 1 => {
            Some("exact-match compatibility requires one single value")
        }
        Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
            Some("values set must be empty for exists and does not exist")
        }
        Operator::GreaterThan | Operator::LessThan if values.len() != 1 => {
            Some("for 'Gt', 'Lt' operators, exactly one value is required")
        }
        _ => None,
    };
    if let Some(text) = text {
        errors.push(FieldError::invalid(&"values", values.clone(), text));
    }
    for (i, value) in values.iter().enumerate() {
        let at = path.child("values").index(i);
        let comparing = matches!(operator, Operator::GreaterThan | Operator::LessThan);
        if comparing && value.parse::<i64>().is_err() {
            let text = "for 'Gt', 'Lt' operators, the value must be an integer";
            errors.push(FieldError::invalid(&at, value.as_str(), text));
        }
        let problems = names::label_value(value);
        if !problems.is_empty() {
            errors.push(FieldError::invalid(&at, value.as_str(), problems.join("; ")));
        }
    }
    match aggregate_texts(errors.iter().map(ToString::to_string)) {
        Some(text) => Err(text),
        None => {
            let values: BTreeSet<String> = values.into_iter().collect();
            Ok(Requirement { key: key.to_owned(), operator, values: values.into_iter().collect() })
        }
    }
}

struct Parser<'a> {
    tokens: &'a [Token],
    position: usize,
}

impl<'a> Parser<'a> {
    /// The token at the position; in value position the words `in` and `notin` are plain identifiers.
    fn peek(&self, values: bool) -> (Kind, &'a str) {
        let token = &self.tokens[self.position.min(self.tokens.len() - 1)];
        let kind = match token.kind {
            Kind::In | Kind::NotIn if values => Kind::Identifier,
            kind => kind,
        };
        (kind, &token.text)
    }

    fn next(&mut self, values: bool) -> (Kind, &'a str) {
        let token = self.peek(values);
        self.position += 1;
        token
    }

    fn parse(mut self) -> Result<Vec<Requirement>, String> {
        let mut out = Vec::new();
        loop {
            match self.peek(true) {
                (Kind::Identifier | Kind::Not, _) => {
                    out.push(self.requirement().map_err(|e| format!("unable to parse requirement: {e}"))?);
                    match self.next(true) {
                        (Kind::End, _) => return Ok(out),
                        (Kind::Comma, _) => match self.peek(true) {
                            (Kind::Identifier | Kind::Not, _) => {}
                            (_, text) => {
                                return Err(format!("found '{text}', expected: identifier after ','"));
                            }
                        },
                        (_, text) => {
                            return Err(format!("found '{text}', expected: ',' or 'end of string'"));
                        }
                    }
                }
                (Kind::End, _) => return Ok(out),
                (_, text) => {
                    return Err(format!("found '{text}', expected: !, identifier, or 'end of string'"));
                }
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let (mut kind, mut key) = self.next(true);
        let negated = kind == Kind::Not;
        if negated {
            (kind, key) = self.next(true);
        }
        if kind != Kind::Identifier {
            return Err(format!("found '{key}', expected: identifier"));
        }
        let problems = names::qualified_name(key);
        if !problems.is_empty() {
            return Err(FieldError::invalid(&Path::root(), key, problems.join("; ")).to_string());
        }
        let ends = matches!(self.peek(true).0, Kind::End | Kind::Comma);
        if negated {
            return requirement(key, Operator::DoesNotExist, Vec::new());
        }
        if ends {
            return requirement(key, Operator::Exists, Vec::new());
        }
        let operator = self.operator()?;
        let values = match operator {
            Operator::In | Operator::NotIn => self.values()?,
            _ => self.exact_value()?,
        };
        requirement(key, operator, values.into_iter().collect())
    }

    fn operator(&mut self) -> Result<Operator, String> {
        Ok(match self.next(false) {
            (Kind::In, _) => Operator::In,
            (Kind::Equals, _) => Operator::Equals,
            (Kind::DoubleEquals, _) => Operator::DoubleEquals,
            (Kind::Greater, _) => Operator::GreaterThan,
            (Kind::Less, _) => Operator::LessThan,
            (Kind::NotIn, _) => Operator::NotIn,
            (Kind::NotEquals, _) => Operator::NotEquals,
            (_, text) => {
                return Err(format!("found '{text}', expected: in, notin, =, ==, !=, gt, lt"));
            }
        })
    }

    fn values(&mut self) -> Result<BTreeSet<String>, String> {
        let (kind, text) = self.next(true);
        if kind != Kind::OpenParen {
            return Err(format!("found '{text}' expected: '('"));
        }
        let (kind, text) = self.peek(true);
        match kind {
            Kind::Identifier | Kind::Comma => {
                let set = self.identifiers()?;
                if self.next(true).0 != Kind::CloseParen {
                    return Err(format!("found '{text}', expected: ')'"));
                }
                Ok(set)
            }
            Kind::CloseParen => {
                self.position += 1;
                Ok(BTreeSet::from([String::new()]))
            }
            _ => Err(format!("found '{text}', expected: ',', ')' or identifier")),
        }
    }

    fn identifiers(&mut self) -> Result<BTreeSet<String>, String> {
        let mut set = BTreeSet::new();
        loop {
            match self.next(true) {
                (Kind::Identifier, text) => {
                    set.insert(text.to_owned());
                    match self.peek(true) {
                        (Kind::Comma, _) => {}
                        (Kind::CloseParen, _) => return Ok(set),
                        (_, text) => return Err(format!("found '{text}', expected: ',' or ')'")),
                    }
                }
                (Kind::Comma, _) => {
                    if set.is_empty() {
                        set.insert(String::new());
                    }
                    match self.peek(true).0 {
                        Kind::CloseParen => {
                            set.insert(String::new());
                            return Ok(set);
                        }
                        Kind::Comma => {
                            set.insert(String::new());
                        }
                        _ => {}
                    }
                }
                (_, text) => return Err(format!("found '{text}', expected: ',', or identifier")),
            }
        }
    }

    fn exact_value(&mut self) -> Result<BTreeSet<String>, String> {
        if matches!(self.peek(true).0, Kind::End | Kind::Comma) {
            return Ok(BTreeSet::from([String::new()]));
        }
        match self.next(true) {
            (Kind::Identifier, text) => Ok(BTreeSet::from([text.to_owned()])),
            (_, text) => Err(format!("found '{text}', expected: identifier")),
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, list) = (&self.key, self.values.join(","));
        match self.operator {
            Operator::In => write!(f, "{key} in ({list})"),
            Operator::NotIn => write!(f, "{key} notin ({list})"),
            Operator::Equals => write!(f, "{key}={list}"),
            Operator::DoubleEquals => write!(f, "{key}=={list}"),
            Operator::NotEquals => write!(f, "{key}!={list}"),
            Operator::Exists => f.write_str(key),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::GreaterThan => write!(f, "{key}>{list}"),
            Operator::LessThan => write!(f, "{key}<{list}"),
        }
    }
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, requirement) in self.requirements.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            requirement.fmt(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn parses_and_matches() {
        let labels = json!({"app": "web", "tier": "1", "empty": ""});
        for (text, canonical, matches) in [
            ("", "", true),
            ("app=web", "app=web", true),
            ("app==web,tier", "app==web,tier", true),
            ("tier,app", "app,tier", true),
            ("!app", "!app", false),
            ("! nope", "!nope", true),
            ("app in (web, db)", "app in (db,web)", true),
            ("app notin (web)", "app notin (web)", false),
            ("x notin (web)", "x notin (web)", true),
            ("app!=web", "app!=web", false),
            ("tier>0", "tier>0", true),
            ("tier<1", "tier<1", false),
            ("empty=", "empty=", true),
            ("empty in ()", "empty in ()", true),
            ("empty in (,a)", "empty in (,a)", true),
            ("app in (in,notin)", "app in (in,notin)", false),
        ] {
            let selector = Labels::parse(text).unwrap();
            assert_eq!(
                (selector.to_string().as_str(), selector.matches(&labels)),
                (canonical, matches),
                "{text}"
            );
        }
    }

    #[test]
    fn parse_errors() {
        for (text, error) in [
            ("a,", "found '', expected: identifier after ','"),
            ("=a", "found '=', expected: !, identifier, or 'end of string'"),
            ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
            ("a in b", "unable to parse requirement: found 'b' expected: '('"),
            ("a in (b", "unable to parse requirement: found '', expected: ',' or ')'"),
            (
                "a>x",
                "unable to parse requirement: values[0]: Invalid value: \"x\": for 'Gt', 'Lt' operators, the value must be an integer",
            ),
        ] {
            assert_eq!(Labels::parse(text), Err(error.to_owned()), "{text}");
        }
    }

    #[test]
    fn from_objects() {
        assert!(Labels::from_value(&Value::Null).unwrap().is_nothing());
        assert!(Labels::from_value(&json!({})).unwrap().is_everything());
        let selector = json!({"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "c", "operator": "NotIn", "values": ["x"]}]});
        let selector = Labels::from_value(&selector).unwrap();
        assert!(selector.matches(&json!({"a": "b"})) && !selector.matches(&json!({"a": "b", "c": "x"})));
        let bad = json!({"matchExpressions": [{"key": "c", "operator": "Gt"}]});
        assert_eq!(Labels::from_value(&bad), Err("\"Gt\" is not a valid label selector operator".to_owned()));
    }

    proptest! {
        #[test]
        fn never_panics(text in "[a-z!=<>(), in\\PC]{0,30}") {
            if let Ok(selector) = Labels::parse(&text) {
                prop_assert_eq!(Labels::parse(&selector.to_string()), Ok(selector));
            }
        }
    }
}
