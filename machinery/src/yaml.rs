//! Reading YAML bodies into JSON values, by the rules of the library upstream uses: YAML 1.1 scalars (`yes` is true,
//! `0644` is octal), merge keys, aliases with a bound on what they may expand to, the first document only.

use std::borrow::Cow;

use granit_parser::{Event, Parser, ScalarStyle, Tag};
use serde_json::{Map, Number, Value};

use crate::json::{DEPTH_MAX, Parsed, too_deep};

/// Most values one document may expand to, what anchors keep counted as well: aliases must not turn kilobytes into
/// gigabytes.
const VALUES_MAX: usize = 1_000_000;

/// Reads the first document; an empty text is null.
///
/// # Errors
/// A sentence that begins with `yaml: ` and names the line.
pub fn parse(bytes: &[u8]) -> Result<Parsed, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "yaml: invalid leading UTF-8 octet".to_owned())?;
    let mut builder = Builder::default();
    for event in Parser::new_from_str(text) {
        let (event, span) =
            event.map_err(|e| format!("yaml: line {}: {}", e.marker().line(), words(&e.info())))?;
        if builder.event(event).map_err(|what| format!("yaml: line {}: {what}", span.start.line()))? {
            break;
        }
    }
    Ok(Parsed { value: builder.root.unwrap_or(Value::Null), duplicates: builder.duplicates })
}

/// Go's words for an error of the parser, where they are known.
fn words(info: &str) -> String {
    match info {
        "unclosed bracket '['" => "did not find expected ',' or ']'".to_owned(),
        "unclosed bracket '{'" => "did not find expected ',' or '}'".to_owned(),
        // It looks ahead, and so can find out before the builder does.
        "recursion limit exceeded" => depth_exceeded(),
        other => other.to_owned(),
    }
}

/// What a strict reader says about keys that stand twice in a map, one sentence a key: `line 9: key "a" already set in
/// map`. Empty for a text that cannot be read at all.
pub fn duplicate_keys(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    let mut builder = Builder::default();
    for event in Parser::new_from_str(&text) {
        let Ok((event, span)) = event else { return Vec::new() };
        builder.line = span.start.line();
        match builder.event(event) {
            Ok(false) => {}
            Ok(true) => break,
            Err(_) => return Vec::new(),
        }
    }
    let sentence = |(line, key): &(usize, String)| {
        format!("line {line}: key {} already set in map", crate::gotext::quote(key))
    };
    builder.duplicate_lines.iter().map(sentence).collect()
}

/// Whether the body is JSON for sure (kubectl and client-go tell YAML and JSON apart the same way).
pub fn looks_like_json(bytes: &[u8]) -> bool {
    bytes.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'{')
}

#[derive(Default)]
struct Builder {
    root: Option<Value>,
    open: Vec<Open>,
    anchors: Vec<(usize, Value)>,
    duplicates: Vec<String>,
    /// Line of the second value and key, for each duplicate.
    duplicate_lines: Vec<(usize, String)>,
    values: usize,
    /// The line of the event being taken.
    line: usize,
}

/// A list or map that is still being read.
enum Open {
    List { anchor: usize, line: usize, items: Vec<Value> },
    Map { anchor: usize, line: usize, members: Map<String, Value>, key: Option<String>, merges: Vec<Value> },
}

impl Builder {
    /// Takes one event; true when the document is complete.
    fn event(&mut self, event: Event<'_>) -> Result<bool, String> {
        match event {
            Event::DocumentEnd => return Ok(true),
            Event::Alias(id) => {
                let found = self.anchors.iter().rev().find(|a| a.0 == id).map(|a| a.1.clone());
                let value = found.ok_or("unknown anchor referenced")?;
                self.count(weight(&value))?;
                if too_deep(&value, DEPTH_MAX - self.open.len()).is_some() {
                    return Err(depth_exceeded());
                }
                self.add(value)?;
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.count(1)?;
                if let Some(Open::Map { key: key @ None, .. }) = self.open.last_mut() {
                    // Keys keep their text unless they are plain words that mean something else.
                    *key = Some(key_text(&text, style, tag.as_deref()));
                    return Ok(false);
                }
                let value = scalar(&text, style, tag.as_deref())?;
                self.anchor(anchor, &value)?;
                self.add(value)?;
            }
            Event::SequenceStart(_, anchor, _) => {
                self.begin(Open::List { anchor, line: self.line, items: Vec::new() })?;
            }
            Event::MappingStart(_, anchor, _) => {
                let (members, merges) = (Map::new(), Vec::new());
                self.begin(Open::Map { anchor, line: self.line, members, key: None, merges })?;
            }
            Event::SequenceEnd | Event::MappingEnd => self.end()?,
            _ => {}
        }
        Ok(false)
    }

    fn count(&mut self, values: usize) -> Result<(), String> {
        self.values += values;
        if self.values > VALUES_MAX { Err("document contains excessive aliasing".to_owned()) } else { Ok(()) }
    }

    fn begin(&mut self, open: Open) -> Result<(), String> {
        self.count(1)?;
        if self.open.len() >= DEPTH_MAX {
            return Err(depth_exceeded());
        }
        if let Some(Open::Map { key: None, .. }) = self.open.last() {
            return Err("invalid map key".to_owned());
        }
        self.open.push(open);
        Ok(())
    }

    fn end(&mut self) -> Result<(), String> {
        let (anchor, line, value) = match self.open.pop() {
            Some(Open::List { anchor, line, items }) => (anchor, line, Value::Array(items)),
            Some(Open::Map { anchor, line, mut members, merges, .. }) => {
                for merge in merges {
                    merge_into(&mut members, merge)?;
                }
                (anchor, line, Value::Object(members))
            }
            None => return Ok(()),
        };
        self.anchor(anchor, &value)?;
        // A list or map stands where it begins.
        self.line = line;
        self.add(value)
    }

    fn anchor(&mut self, id: usize, value: &Value) -> Result<(), String> {
        if id != 0 {
            self.count(weight(value))?;
            self.anchors.push((id, value.clone()));
        }
        Ok(())
    }

    fn add(&mut self, value: Value) -> Result<(), String> {
        match self.open.last_mut() {
            None => self.root = Some(value),
            Some(Open::List { items, .. }) => items.push(value),
            Some(Open::Map { members, key, merges, .. }) => match key.take() {
                // Only an alias can come here without a key: it stands as one.
                None => *key = Some(value.as_str().ok_or("invalid map key")?.to_owned()),
                Some(name) if name == "<<" && (value.is_object() || value.is_array()) => merges.push(value),
                Some(name) => {
                    if members.insert(name.clone(), value).is_some() {
                        let path = self.path_of(&name);
                        self.duplicates.push(path);
                        self.duplicate_lines.push((self.line, name));
                    }
                }
            },
        }
        Ok(())
    }

    /// The path of a member of the innermost map.
    fn path_of(&self, name: &str) -> String {
        let mut path = String::new();
        for open in &self.open {
            match open {
                Open::List { items, .. } => path.push_str(&format!("[{}]", items.len())),
                Open::Map { key: Some(key), .. } => push_name(&mut path, key),
                Open::Map { key: None, .. } => push_name(&mut path, name),
            }
        }
        path
    }
}

/// The words of upstream's library, whose number is 10,000.
fn depth_exceeded() -> String {
    format!("exceeded max depth of {DEPTH_MAX}")
}

fn push_name(path: &mut String, name: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(name);
}

fn weight(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(weight).sum::<usize>(),
        Value::Object(members) => 1 + members.values().map(weight).sum::<usize>(),
        _ => 1,
    }
}

/// `<<`: members that are not there yet.
fn merge_into(members: &mut Map<String, Value>, merge: Value) -> Result<(), String> {
    match merge {
        Value::Object(more) => {
            for (name, value) in more {
                members.entry(name).or_insert(value);
            }
            Ok(())
        }
        Value::Array(items) => items.into_iter().try_for_each(|item| merge_into(members, item)),
        _ => Err("map merge requires map or sequence of maps as the value".to_owned()),
    }
}

fn key_text(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> String {
    match scalar(text, style, tag) {
        Ok(Value::Bool(b)) => b.to_string(),
        Ok(Value::Number(n)) => n.to_string(),
        Ok(Value::Null) => "null".to_owned(),
        _ => text.to_owned(),
    }
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Result<Value, String> {
    let tag = tag.map(|t| t.to_string());
    let tag = tag.as_deref().map(|t| t.rsplit([':', '!']).next().unwrap_or(t));
    match tag {
        Some("str") => return Ok(Value::String(text.to_owned())),
        Some("binary") => return Ok(Value::String(text.split_whitespace().collect())),
        Some("int" | "float" | "bool" | "null") => {
            let value = plain(text);
            let fits = match tag {
                Some("bool") => value.is_boolean(),
                Some("null") => value.is_null(),
                _ => value.is_number(),
            };
            let wanted = tag.unwrap_or_default();
            return if fits {
                Ok(value)
            } else {
                Err(format!("cannot decode !!str `{text}` as a !!{wanted}"))
            };
        }
        _ => {}
    }
    Ok(if style == ScalarStyle::Plain { plain(text) } else { Value::String(text.to_owned()) })
}

/// A plain scalar's value by the rules of YAML 1.1 as upstream's library has them.
fn plain(text: &str) -> Value {
    match text {
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            return Value::Bool(true);
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return Value::Bool(false);
        }
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        _ => {}
    }
    let numeric = text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.'));
    if !numeric {
        return Value::String(text.to_owned());
    }
    let compact: Cow<'_, str> = if text.contains('_') { text.replace('_', "").into() } else { text.into() };
    if let Some(number) = integer(&compact) {
        return number;
    }
    match compact.parse::<f64>().ok().filter(|_| float_shaped(&compact)).and_then(Number::from_f64) {
        // JSON has no way to tell 1e3 from 1000: a whole float is an integer.
        Some(number) => match number.as_f64() {
            Some(f) if f.fract() == 0.0 && f.abs() < 9_007_199_254_740_992.0 => Value::from(f as i64),
            _ => Value::Number(number),
        },
        None => Value::String(text.to_owned()),
    }
}

/// Decimal, `0x`, `0b`, `0o` and old-style octal integers.
fn integer(text: &str) -> Option<Value> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let (radix, digits) = match digits.get(..2) {
        Some("0x" | "0X") => (16, &digits[2..]),
        Some("0b" | "0B") => (2, &digits[2..]),
        Some("0o" | "0O") => (8, &digits[2..]),
        _ if digits.len() > 1 && digits.starts_with('0') => (8, &digits[1..]),
        _ => (10, digits),
    };
    if digits.is_empty() || digits.starts_with(['+', '-']) {
        return None;
    }
    let magnitude = u64::from_str_radix(digits, radix).ok()?;
    if negative {
        let signed = i128::from(magnitude).checked_neg()?;
        return i64::try_from(signed).ok().map(Value::from);
    }
    Some(Value::from(magnitude))
}

/// `[-+]?[0-9]*\.?[0-9]+([eE][-+][0-9]+)?`, with a dot allowed at the end.
fn float_shaped(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b))
        && text.bytes().any(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn documents() {
        for (text, value) in [
            ("", Value::Null),
            ("a: 1\nb: [x, 'y', \"z\"]\n", json!({"a": 1, "b": ["x", "y", "z"]})),
            ("a: yes\nb: 'yes'\nc: ~\nd: on\n", json!({"a": true, "b": "yes", "c": null, "d": true})),
            (
                "mode: 0644\nhex: 0x1F\nbig: 1_000\nf: 1.5\nv: 1.2.3\n",
                json!({"mode": 420, "hex": 31, "big": 1000, "f": 1.5, "v": "1.2.3"}),
            ),
            ("a: |\n  x\n  y\n", json!({"a": "x\ny\n"})),
            ("a: >-\n  x\n  y\n", json!({"a": "x y"})),
            (
                "x: &a {k: 1}\nw: *a\nz:\n  <<: *a\n  m: 2\n",
                json!({"x": {"k": 1}, "w": {"k": 1}, "z": {"k": 1, "m": 2}}),
            ),
            ("a: 1\n---\nb: 2\n", json!({"a": 1})),
            ("1: a\ntrue: b\n", json!({"1": "a", "true": "b"})),
            (
                "d: 2026-01-02\nt: 2026-01-02T03:04:05Z\n",
                json!({"d": "2026-01-02", "t": "2026-01-02T03:04:05Z"}),
            ),
            ("{\"a\": {\"b\": [1, null]}}", json!({"a": {"b": [1, null]}})),
            ("- !!str 5\n- !!int \"6\"\n", json!(["5", 6])),
        ] {
            assert_eq!(parse(text.as_bytes()).map(|p| p.value), Ok(value), "{text}");
        }
    }

    #[test]
    fn duplicates_and_errors() {
        let parsed = parse(b"a: 1\nb:\n- c: 1\n  c: 2\na: 3\n").expect("parses");
        assert_eq!(parsed.duplicates, ["b[0].c", "a"]);
        for text in ["a: [", "a: *b", "\t- x: {", "a: b: c"] {
            let error = parse(text.as_bytes()).expect_err("is no YAML");
            assert!(error.starts_with("yaml: line "), "{error}");
        }
    }

    #[test]
    fn aliases_cannot_explode() {
        let mut text = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for i in 1..9 {
            let list = vec![format!("*a{}", i - 1); 10].join(",");
            text.push_str(&format!("a{i}: &a{i} [{list}]\n"));
        }
        let error = parse(text.as_bytes()).expect_err("is refused");
        assert!(error.contains("excessive aliasing"), "{error}");
    }

    #[test]
    fn anchors_inside_anchors_are_not_kept_for_nothing() {
        let openings: String = (0..100).map(|i| format!("&a{i} [")).collect();
        let text = format!("{openings}{}{}", "x,".repeat(50_000), "]".repeat(100));
        let error = parse(text.as_bytes()).expect_err("is refused");
        assert!(error.contains("excessive aliasing"), "{error}");
    }

    #[test]
    fn nesting_is_bounded_whatever_it_is_made_of() {
        let check = |text: String| {
            let error = parse(text.as_bytes()).expect_err("is refused");
            assert!(error.ends_with("exceeded max depth of 127"), "{error}");
        };
        check("[".repeat(1000));
        check((0..130).map(|level| format!("{}a:\n", " ".repeat(level))).collect());
        let within = |inner: &str, levels: usize| "[".repeat(levels) + inner + &"]".repeat(levels);
        let aliases = (1..10).map(|i| format!("a{i}: &a{i} {}\n", within(&format!("*a{}", i - 1), 100)));
        check(format!("a0: &a0 {}\n{}", within("x", 100), aliases.collect::<String>()));
        let just = format!("a: &a {}\nb: {}\n", within("x", 100), within("*a", 26));
        let value = parse(just.as_bytes()).expect("is just deep enough").value;
        assert_eq!((too_deep(&value, DEPTH_MAX), too_deep(&value, DEPTH_MAX - 1).is_some()), (None, true));
    }

    proptest! {
        #[test]
        fn never_panics(text in "[a-c0-9:\\- \n\\[\\]{},&*!'\"|>#.%~?]{0,60}") {
            let _ = parse(text.as_bytes());
        }

        #[test]
        fn json_is_yaml(map in prop::collection::btree_map("[a-z]{1,5}", any::<i32>(), 0..6)) {
            let value = json!(map);
            prop_assert_eq!(parse(value.to_string().as_bytes()).map(|p| p.value), Ok(value));
        }
    }
}
