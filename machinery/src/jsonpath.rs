//! The JSON paths of CustomResourceDefinitions: printer columns, selectable fields, scale.
//!
//! The language is kubectl's template for one expression without braces: `.spec.a`, `['b']`, `[0]`, `[-1]`,
//! `[*]`, `[1:3]`, `..name` and filters `[?(@.type=="Ready")]` with the operators `== != < <= > >=` or existence.

use serde_json::Value;
use thiserror::Error;

/// Deepest nesting of filters inside filters; people write one.
const FILTERS_DEEP_MAX: usize = 8;
/// Values that a path leads to at most: `..a..a..a` would find the same ones again and again.
const FOUND_MAX: usize = 10_000;

/// Why a path cannot be read.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("invalid JSON path {path:?}: {problem} at {at}")]
pub struct PathError {
    pub path: String,
    pub problem: &'static str,
    /// Byte position.
    pub at: usize,
}

/// A path that can be evaluated many times.
#[derive(Clone, Debug, PartialEq)]
pub struct Path {
    steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Member(String),
    Index(i64),
    Slice(Option<i64>, Option<i64>),
    Every,
    Descend(String),
    Filter(Path, Option<(Operator, Value)>),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Path {
    /// Reads a path, with or without braces around it.
    pub fn parse(text: &str) -> Result<Path, PathError> {
        let inner = text.strip_prefix('{').and_then(|t| t.strip_suffix('}')).unwrap_or(text);
        let mut parser = Parser { text: inner, at: 0, filters: 0 };
        parser.eat("$");
        let steps = parser.steps()?;
        if parser.at < inner.len() {
            return Err(parser.error("unexpected character"));
        }
        Ok(Path { steps })
    }

    /// Every value the path leads to, in document order, up to a bound.
    pub fn eval<'a>(&self, root: &'a Value) -> Vec<&'a Value> {
        let mut found = vec![root];
        for step in &self.steps {
            found = found.into_iter().flat_map(|value| step.eval(value)).take(FOUND_MAX).collect();
        }
        found
    }

    /// The first value the path leads to.
    pub fn first<'a>(&self, root: &'a Value) -> Option<&'a Value> {
        self.eval(root).into_iter().next()
    }

    /// The member names of a path that consists of nothing else (`.spec.replicas`).
    pub fn member_names(&self) -> Option<Vec<&str>> {
        let names = self.steps.iter().map(|step| match step {
            Step::Member(name) => Some(name.as_str()),
            _ => None,
        });
        names.collect()
    }
}

impl Step {
    fn eval<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        match self {
            Step::Member(name) => value.get(name).into_iter().collect(),
            Step::Index(i) => position(value, *i).and_then(|i| value.get(i)).into_iter().collect(),
            Step::Slice(from, to) => {
                let Some(items) = value.as_array() else { return Vec::new() };
                let len = i64::try_from(items.len()).unwrap_or(i64::MAX);
                let bound =
                    |i: i64| usize::try_from((if i < 0 { i + len } else { i }).clamp(0, len)).unwrap_or(0);
                let (from, to) = (bound(from.unwrap_or(0)), bound(to.unwrap_or(len)));
                items.get(from..to).into_iter().flatten().collect()
            }
            Step::Every => children(value),
            Step::Descend(name) => {
                let mut out = Vec::new();
                descend(value, name, &mut out);
                out
            }
            Step::Filter(path, test) => {
                let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
                items.iter().filter(|item| passes(path, test.as_ref(), item)).collect()
            }
        }
    }
}

fn position(value: &Value, index: i64) -> Option<usize> {
    let len = i64::try_from(value.as_array()?.len()).ok()?;
    usize::try_from(if index < 0 { index + len } else { index }).ok()
}

fn children(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(items) => items.iter().collect(),
        Value::Object(members) => members.values().collect(),
        _ => Vec::new(),
    }
}

fn descend<'a>(value: &'a Value, name: &str, out: &mut Vec<&'a Value>) {
    out.extend(value.get(name));
    for child in children(value) {
        descend(child, name, out);
    }
}

fn passes(path: &Path, test: Option<&(Operator, Value)>, item: &Value) -> bool {
    let found = path.eval(item);
    let Some((operator, wanted)) = test else { return !found.is_empty() };
    found.first().is_some_and(|value| compare(value, *operator, wanted))
}

fn compare(value: &Value, operator: Operator, wanted: &Value) -> bool {
    let order = match (value.as_f64(), wanted.as_f64(), value.as_str(), wanted.as_str()) {
        (Some(a), Some(b), ..) => a.partial_cmp(&b),
        (.., Some(a), Some(b)) => Some(a.cmp(b)),
        _ if value == wanted => Some(std::cmp::Ordering::Equal),
        _ => None,
    };
    match operator {
        Operator::Equal => order.is_some_and(|o| o.is_eq()),
        Operator::NotEqual => !order.is_some_and(|o| o.is_eq()),
        Operator::Less => order.is_some_and(|o| o.is_lt()),
        Operator::LessOrEqual => order.is_some_and(|o| o.is_le()),
        Operator::Greater => order.is_some_and(|o| o.is_gt()),
        Operator::GreaterOrEqual => order.is_some_and(|o| o.is_ge()),
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    /// Filters that are open here.
    filters: usize,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn error(&self, problem: &'static str) -> PathError {
        PathError { path: self.text.to_owned(), problem, at: self.at }
    }

    fn eat(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    fn expect(&mut self, token: &str, problem: &'static str) -> Result<(), PathError> {
        if self.eat(token) { Ok(()) } else { Err(self.error(problem)) }
    }

    fn steps(&mut self) -> Result<Vec<Step>, PathError> {
        let mut steps = Vec::new();
        loop {
            if self.eat("..") {
                steps.push(Step::Descend(self.name()?));
            } else if self.eat(".") {
                if self.eat("*") {
                    steps.push(Step::Every);
                } else if !self.rest().is_empty() && !self.rest().starts_with('[') {
                    steps.push(Step::Member(self.name()?));
                }
            } else if self.eat("[") {
                steps.push(self.bracket()?);
            } else {
                return Ok(steps);
            }
        }
    }

    /// A member's name; a backslash takes the next character as it is.
    fn name(&mut self) -> Result<String, PathError> {
        let mut name = String::new();
        let mut chars = self.rest().char_indices();
        let mut end = self.rest().len();
        while let Some((i, c)) = chars.next() {
            match c {
                '\\' => name.extend(chars.next().map(|next| next.1)),
                '.' | '[' | ']' | ')' | '=' | '!' | '<' | '>' | ' ' | '(' | '{' | '}' => {
                    end = i;
                    break;
                }
                c => name.push(c),
            }
        }
        if name.is_empty() {
            return Err(self.error("expected a name"));
        }
        self.at += end;
        Ok(name)
    }

    fn bracket(&mut self) -> Result<Step, PathError> {
        if self.eat("?(") {
            if self.filters == FILTERS_DEEP_MAX {
                return Err(self.error("too many filters inside filters"));
            }
            self.filters += 1;
            let step = self.filter()?;
            self.filters -= 1;
            self.expect(")", "expected ) after the filter")?;
            self.expect("]", "expected ]")?;
            return Ok(step);
        }
        if self.eat("*]") {
            return Ok(Step::Every);
        }
        if self.rest().starts_with(['\'', '"']) {
            let name = self.quoted()?;
            self.expect("]", "expected ]")?;
            return Ok(Step::Member(name));
        }
        let from = self.integer()?;
        if self.eat(":") {
            let to = self.integer()?;
            self.expect("]", "expected ]")?;
            return Ok(Step::Slice(from, to));
        }
        self.expect("]", "expected ]")?;
        from.map(Step::Index).ok_or_else(|| self.error("expected an index"))
    }

    fn integer(&mut self) -> Result<Option<i64>, PathError> {
        let len = self.rest().bytes().take_while(|b| b.is_ascii_digit() || *b == b'-').count();
        if len == 0 {
            return Ok(None);
        }
        let number = self.rest()[..len].parse().map_err(|_| self.error("expected an index"))?;
        self.at += len;
        Ok(Some(number))
    }

    fn quoted(&mut self) -> Result<String, PathError> {
        let mut chars = self.rest().char_indices();
        let Some((_, quote)) = chars.next() else { return Err(self.error("expected a quote")) };
        let mut out = String::new();
        while let Some((i, c)) = chars.next() {
            match c {
                '\\' => out.extend(chars.next().map(|next| next.1)),
                c if c == quote => {
                    self.at += i + 1;
                    return Ok(out);
                }
                c => out.push(c),
            }
        }
        Err(self.error("unterminated quoted string"))
    }

    fn filter(&mut self) -> Result<Step, PathError> {
        self.expect("@", "expected @ in the filter")?;
        let path = Path { steps: self.steps()? };
        self.spaces();
        let operators = [
            ("==", Operator::Equal),
            ("!=", Operator::NotEqual),
            ("<=", Operator::LessOrEqual),
            (">=", Operator::GreaterOrEqual),
            ("<", Operator::Less),
            (">", Operator::Greater),
        ];
        let Some((_, operator)) = operators.into_iter().find(|(text, _)| self.eat(text)) else {
            return Ok(Step::Filter(path, None));
        };
        self.spaces();
        let wanted = if self.rest().starts_with(['\'', '"']) {
            Value::String(self.quoted()?)
        } else {
            let len = self.rest().find([')', ' ']).unwrap_or(self.rest().len());
            let literal = &self.rest()[..len];
            self.at += len;
            serde_json::from_str(literal).map_err(|_| self.error("expected a literal"))?
        };
        self.spaces();
        Ok(Step::Filter(path, Some((operator, wanted))))
    }

    fn spaces(&mut self) {
        while self.eat(" ") {}
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn evaluates() {
        let object = json!({"spec": {"a": 1, "b.c": 2, "list": [{"n": "x", "v": 1}, {"n": "y", "v": 2}]},
            "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Other", "status": "False"}]}});
        for (path, expected) in [
            (".spec.a", json!([1])),
            ("{.spec.a}", json!([1])),
            ("$.spec.a", json!([1])),
            (".spec['b.c']", json!([2])),
            (".spec.b\\.c", json!([2])),
            (".spec.list[0].n", json!(["x"])),
            (".spec.list[-1].n", json!(["y"])),
            (".spec.list[*].v", json!([1, 2])),
            (".spec.list[0:1].v", json!([1])),
            (".status.conditions[?(@.type==\"Ready\")].status", json!(["True"])),
            (".status.conditions[?(@.type=='Ready')].status", json!(["True"])),
            (".spec.list[?(@.v > 1)].n", json!(["y"])),
            (".spec.list[?(@.zzz)].n", json!([])),
            ("..n", json!(["x", "y"])),
            (".nope.x", json!([])),
        ] {
            let found = Path::parse(path).expect(path).eval(&object);
            assert_eq!(json!(found), expected, "{path}");
        }
        assert_eq!(
            Path::parse(".spec.replicas").expect("parses").member_names(),
            Some(vec!["spec", "replicas"])
        );
        assert_eq!(Path::parse(".a[0]").expect("parses").member_names(), None);
    }

    #[test]
    fn bad_paths() {
        for path in [".a[", ".a[?(b)]", ".a['x]", "a b", ".a[x]", ".a[?(@.b==)]"] {
            assert!(Path::parse(path).is_err(), "{path}");
        }
        let nested = |levels: usize| "[?(@".repeat(levels) + &")]".repeat(levels);
        assert!(Path::parse(&nested(FILTERS_DEEP_MAX)).is_ok());
        assert!(Path::parse(&nested(100_000)).is_err());
    }

    #[test]
    fn descending_again_and_again_is_bounded() {
        let deep = (0..60).fold(json!({}), |inner, _| json!({"a": inner}));
        let path = Path::parse(&"..a".repeat(12)).expect("parses");
        assert_eq!(path.eval(&deep).len(), FOUND_MAX);
    }

    proptest! {
        #[test]
        fn never_panics(path in "[.$\\[\\]*?(@)='a0:\\- <\\\\{}]{0,24}") {
            if let Ok(path) = Path::parse(&path) {
                let _ = path.eval(&json!({"a": [{"a": [0]}, 1]}));
            }
        }
    }
}
