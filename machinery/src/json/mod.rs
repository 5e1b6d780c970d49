//! Reading JSON bodies: duplicate fields are noticed, errors are in Go's words, nesting is bounded.
//!
//! The good path is one pass of serde_json. Only when that fails does [`syntax`] look for the words of the error.

mod floats;
mod order;
mod syntax;

use std::fmt::{self, Write};

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use floats::Floats;

/// A body with what is wrong with it in strict eyes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parsed {
    pub value: Value,
    /// Paths of fields that stand twice (`spec.containers[0].name`); the last one counted.
    pub duplicates: Vec<String>,
}

/// Deepest nesting of lists and objects that is read, the outermost counted: serde_json's limit, here and in clients.
/// Upstream reads 10,000.
pub const DEPTH_MAX: usize = 127;

/// Most duplicates that are reported.
const DUPLICATES_MAX: usize = 100;

/// Reads one JSON value and nothing after it.
///
/// # Errors
/// Go's text (`invalid character 'x' looking for beginning of value`, `unexpected end of JSON input` …).
pub fn parse(bytes: &[u8]) -> Result<Parsed, String> {
    let mut duplicates = Vec::new();
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let mut notes = Notes { duplicates: &mut duplicates, floats: Floats::of(bytes) };
    let parsed = Seed { notes: &mut notes, at: None }.deserialize(&mut deserializer);
    match parsed.and_then(|value| deserializer.end().map(|()| value)) {
        Ok(value) => Ok(Parsed { value, duplicates }),
        Err(error) => Err(syntax::error(bytes).unwrap_or_else(|| error.to_string())),
    }
}

/// Go's sentence about the first list or object that lies deeper than `levels`; `None` when there is none. Looks no deeper
/// than that, so that it may be asked about anything.
pub fn too_deep(value: &Value, levels: usize) -> Option<String> {
    let opening = |character: char| format!("invalid character '{character}' exceeded max depth");
    match (value, levels.checked_sub(1)) {
        (Value::Array(_), None) => Some(opening('[')),
        (Value::Object(_), None) => Some(opening('{')),
        (Value::Array(items), Some(below)) => items.iter().find_map(|item| too_deep(item, below)),
        (Value::Object(members), Some(below)) => members.values().find_map(|member| too_deep(member, below)),
        _ => None,
    }
}

/// The error of a strict request made of the warnings: `strict decoding error: unknown field "a", duplicate field
/// "b"`; `None` when nothing is wrong.
pub fn strict_error(texts: &[String]) -> Option<String> {
    if texts.is_empty() { None } else { Some(format!("strict decoding error: {}", texts.join(", "))) }
}

/// The warnings of a request that only wants to be told.
pub fn strict_warnings(unknown: &[String], duplicates: &[String]) -> Vec<String> {
    let quote = crate::gotext::quote;
    let duplicates = duplicates.iter().map(|path| format!("duplicate field {}", quote(path)));
    duplicates.chain(unknown.iter().map(|path| format!("unknown field {}", quote(path)))).collect()
}

/// The same for a body that is at hand: what is wrong is told in the order of its text.
pub fn strict_warnings_of(body: &[u8], unknown: &[String], duplicates: &[String]) -> Vec<String> {
    if unknown.is_empty() || duplicates.is_empty() {
        return strict_warnings(unknown, duplicates);
    }
    let sentence = |(is_duplicate, path): (bool, String)| {
        let what = if is_duplicate { "duplicate" } else { "unknown" };
        format!("{what} field {}", crate::gotext::quote(&path))
    };
    order::of(body, unknown, duplicates).into_iter().map(sentence).collect()
}

/// One step from the root to the value being read. Lives on the stack: paths are printed for duplicates only.
#[derive(Clone, Copy)]
struct Frame<'f> {
    parent: Option<&'f Frame<'f>>,
    step: Step<'f>,
}

#[derive(Clone, Copy)]
enum Step<'f> {
    Member(&'f str),
    Index(usize),
}

impl Frame<'_> {
    fn print(&self, out: &mut String) {
        if let Some(parent) = self.parent {
            parent.print(out);
        }
        match self.step {
            Step::Member(name) => {
                if !out.is_empty() {
                    out.push('.');
                }
                out.push_str(name);
            }
            Step::Index(index) => {
                // Writing to a String cannot fail.
                let _ = write!(out, "[{index}]");
            }
        }
    }
}

/// What is noticed on the way.
struct Notes<'n> {
    duplicates: &'n mut Vec<String>,
    floats: Floats<'n>,
}

struct Seed<'s, 'n> {
    notes: &'s mut Notes<'n>,
    at: Option<&'s Frame<'s>>,
}

impl<'de> DeserializeSeed<'de> for Seed<'_, '_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_, '_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, b: bool) -> Result<Value, E> {
        Ok(Value::Bool(b))
    }

    fn visit_i64<E>(self, n: i64) -> Result<Value, E> {
        Ok(Value::from(n))
    }

    fn visit_u64<E>(self, n: u64) -> Result<Value, E> {
        Ok(Value::from(n))
    }

    fn visit_f64<E>(self, n: f64) -> Result<Value, E> {
        let exact = self.notes.floats.next(n);
        Ok(Number::from_f64(exact).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::String(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(Value::String(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut out = Vec::new();
        loop {
            let frame = Frame { parent: self.at, step: Step::Index(out.len()) };
            match items.next_element_seed(Seed { notes: &mut *self.notes, at: Some(&frame) })? {
                Some(item) => out.push(item),
                None => return Ok(Value::Array(out)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut out = Map::new();
        while let Some(name) = entries.next_key::<String>()? {
            let frame = Frame { parent: self.at, step: Step::Member(&name) };
            let value = entries.next_value_seed(Seed { notes: &mut *self.notes, at: Some(&frame) })?;
            let duplicates = &mut *self.notes.duplicates;
            if out.contains_key(&name) && duplicates.len() < DUPLICATES_MAX {
                let mut path = String::new();
                frame.print(&mut path);
                if !duplicates.contains(&path) {
                    duplicates.push(path);
                }
            }
            out.insert(name, value);
        }
        Ok(Value::Object(out))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn duplicates_have_paths() {
        let parsed = parse(br#"{"a":1,"b":[{"c":1,"c":2,"c":3}],"a":2}"#).expect("parses");
        assert_eq!(parsed.value, json!({"a": 2, "b": [{"c": 3}]}));
        assert_eq!(parsed.duplicates, ["b[0].c", "a"]);
        assert_eq!(
            strict_error(&strict_warnings(&["spec.x".to_owned()], &parsed.duplicates)).as_deref(),
            Some(
                r#"strict decoding error: duplicate field "b[0].c", duplicate field "a", unknown field "spec.x""#
            )
        );
        assert_eq!(strict_error(&[]), None);
    }

    #[test]
    fn floats_are_exact() {
        let text =
            r#"{"a\\":[40E110,-0,7,"1.5\"e",1.7976931348623157e308],"b":18446744073709551616,"b":0.1}"#;
        let parsed = parse(text.as_bytes()).expect("parses").value;
        assert_eq!(parsed["a\\"], json!([40E110, -0.0, 7, "1.5\"e", f64::MAX]));
        assert_eq!(parsed["b"], json!(0.1));
        assert!(parse(b"[1e400]").is_err());
    }

    #[test]
    fn errors_are_go_s() {
        for (text, error) in [
            ("", "unexpected end of JSON input"),
            ("{", "unexpected end of JSON input"),
            ("{a", "invalid character 'a' looking for beginning of object key string"),
            ("x", "invalid character 'x' looking for beginning of value"),
            ("{\"a\" 1}", "invalid character '1' after object key"),
            ("{\"a\":1 2}", "invalid character '2' after object key:value pair"),
            ("[1 2]", "invalid character '2' after array element"),
            ("{} x", "invalid character 'x' after top-level value"),
            ("tru3", "invalid character '3' in literal true (expecting 'e')"),
            ("\"\n\"", "invalid character '\\n' in string literal"),
            ("\"\\x\"", "invalid character 'x' in string escape code"),
            ("-a", "invalid character 'a' in numeric literal"),
            ("1.a", "invalid character 'a' after decimal point in numeric literal"),
            ("{\"a\":1,}", "invalid character '}' looking for beginning of object key string"),
            ("[1,]", "invalid character ']' looking for beginning of value"),
        ] {
            assert_eq!(parse(text.as_bytes()), Err(error.to_owned()), "{text}");
        }
    }

    #[test]
    fn nesting_ends_at_the_same_level_for_reader_scanner_and_measure() {
        let list = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
        let object = |levels: usize| "{\"a\":".repeat(levels - 1) + "{}" + &"}".repeat(levels - 1);
        let check = |text: String, character: char| {
            let error = format!("invalid character '{character}' exceeded max depth");
            assert_eq!(parse(text.as_bytes()), Err(error), "{}", text.len());
        };
        for levels in [DEPTH_MAX + 1, DEPTH_MAX + 2, 9_000, 100_000] {
            check(list(levels), '[');
            check(object(levels), '{');
            check("[".repeat(levels), '[');
            check(object(DEPTH_MAX).replace("{}", "{\"b\": {}, \"c\": x}"), '{');
        }
        for text in [list(DEPTH_MAX), object(DEPTH_MAX)] {
            let value = parse(text.as_bytes()).expect("is just deep enough").value;
            assert_eq!(serde_json::from_str::<Value>(&text).ok().as_ref(), Some(&value));
            assert_eq!(too_deep(&value, DEPTH_MAX), None);
            let character = text.chars().next().unwrap_or_default();
            let sentence = format!("invalid character '{character}' exceeded max depth");
            assert_eq!(too_deep(&value, DEPTH_MAX - 1), Some(sentence));
        }
        assert_eq!(too_deep(&json!(1), 0), None);
    }

    proptest! {
        #[test]
        fn agrees_with_serde_json(text in r#"[\[\]{}:,"a1e.\- tfn\\]{0,40}"#) {
            let ours = parse(text.as_bytes()).map(|p| p.value).ok();
            prop_assert_eq!(ours.is_some(), serde_json::from_str::<Value>(&text).is_ok());
            prop_assert!(ours.is_none_or(|value| parse(value.to_string().as_bytes()).is_ok_and(|p| p.value == value)));
        }

        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = parse(&bytes);
        }
    }
}
