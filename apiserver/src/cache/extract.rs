//! Labels and selectable fields out of an object's JSON bytes, without building the rest of it.
//!
//! The wanted paths form a trie; the JSON parser walks it and skips everything else. Pure.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// One selectable field of a kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldDef {
    /// The name used in field selectors.
    pub name: String,
    /// Where the value lies.
    pub path: Vec<String>,
    /// What the selector sees when the object has no value there (`""`, `"0"`, `"false"`).
    pub default: String,
    /// Where the value lies in objects that have none at `path`.
    pub fallback: Option<Vec<String>>,
}

impl FieldDef {
    pub fn new(name: &str, path: &str, default: &str) -> Self {
        Self {
            name: name.to_owned(),
            path: path.split('.').map(str::to_owned).collect(),
            default: default.to_owned(),
            fallback: None,
        }
    }

    /// The same field, looked for at a second place as well.
    pub fn or(mut self, path: &str) -> Self {
        self.fallback = Some(path.split('.').map(str::to_owned).collect());
        self
    }
}

/// What was found in one object.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Extracted {
    pub labels: Vec<(String, String)>,
    /// As many as there are field definitions, defaults put in.
    pub fields: Vec<String>,
}

#[derive(Debug, Default)]
struct Node {
    children: Vec<(String, Node)>,
    slots: Vec<usize>,
    is_labels: bool,
}

impl Node {
    fn at(&mut self, path: &[String]) -> &mut Node {
        let Some((first, rest)) = path.split_first() else { return self };
        let index = self.children.iter().position(|(k, _)| k == first).unwrap_or_else(|| {
            self.children.push((first.clone(), Node::default()));
            self.children.len() - 1
        });
        self.children[index].1.at(rest)
    }
}

/// The compiled paths of one kind.
#[derive(Debug)]
pub struct Extractor {
    root: Node,
    defaults: Vec<String>,
    /// A field's slot, and the slot behind all fields that its second place fills.
    fallbacks: Vec<(usize, usize)>,
}

impl Extractor {
    pub fn new(fields: &[FieldDef]) -> Self {
        let mut root = Node::default();
        root.at(&["metadata".to_owned(), "labels".to_owned()]).is_labels = true;
        for (slot, field) in fields.iter().enumerate() {
            root.at(&field.path).slots.push(slot);
        }
        let mut defaults: Vec<String> = fields.iter().map(|f| f.default.clone()).collect();
        let mut fallbacks = Vec::new();
        for (slot, path) in fields.iter().enumerate().filter_map(|(i, f)| Some((i, f.fallback.as_ref()?))) {
            root.at(path).slots.push(defaults.len());
            fallbacks.push((slot, defaults.len()));
            defaults.push(String::new());
        }
        Self { root, defaults, fallbacks }
    }

    /// Reads one object. Bytes that are not JSON give what was found before the error: the cache must hold whatever
    /// the store holds.
    pub fn extract(&self, json: &[u8]) -> Extracted {
        let mut out = Extracted { labels: Vec::new(), fields: self.defaults.clone() };
        let mut deserializer = serde_json::Deserializer::from_slice(json);
        if let Err(error) = (Walk { node: &self.root, out: &mut out }).deserialize(&mut deserializer) {
            tracing::warn!(%error, "an object in the store is not valid JSON");
        }
        for (slot, second) in &self.fallbacks {
            if out.fields[*slot].is_empty() {
                out.fields[*slot] = std::mem::take(&mut out.fields[*second]);
            }
        }
        out.fields.truncate(self.defaults.len() - self.fallbacks.len());
        out
    }
}

struct Walk<'a> {
    node: &'a Node,
    out: &'a mut Extracted,
}

impl Walk<'_> {
    fn put(&mut self, value: &str) {
        // A present but empty value means the same as an absent one.
        if value.is_empty() {
            return;
        }
        for slot in &self.node.slots {
            value.clone_into(&mut self.out.fields[*slot]);
        }
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        if self.node.is_labels {
            while let Some((key, value)) = map.next_entry::<String, serde_json::Value>()? {
                if let serde_json::Value::String(value) = value {
                    self.out.labels.push((key, value));
                }
            }
            return Ok(());
        }
        while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            match self.node.children.iter().find(|(k, _)| *k == key) {
                Some((_, node)) => map.next_value_seed(Walk { node, out: self.out })?,
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_str<E>(mut self, value: &str) -> Result<(), E> {
        self.put(value);
        Ok(())
    }

    fn visit_bool<E>(mut self, value: bool) -> Result<(), E> {
        self.put(if value { "true" } else { "false" });
        Ok(())
    }

    fn visit_i64<E>(mut self, value: i64) -> Result<(), E> {
        self.put(&value.to_string());
        Ok(())
    }

    fn visit_u64<E>(mut self, value: u64) -> Result<(), E> {
        self.put(&value.to_string());
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_none<E>(self) -> Result<(), E> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_labels_and_fields_and_fills_defaults() {
        let fields = [
            FieldDef::new("spec.nodeName", "spec.nodeName", ""),
            FieldDef::new("spec.unschedulable", "spec.unschedulable", "false"),
            FieldDef::new("status.replicas", "status.replicas", "0"),
        ];
        let json = br#"{"kind":"X","metadata":{"labels":{"a":"1","b":""},"x":[1,{"y":null}]},
            "spec":{"nodeName":"n\u0031","deep":{"nodeName":"no"},"f":1.5}}"#;
        let found = Extractor::new(&fields).extract(json);
        assert_eq!(found.labels, [("a".to_owned(), "1".to_owned()), ("b".to_owned(), String::new())]);
        assert_eq!(found.fields, ["n1", "false", "0"]);
    }

    #[test]
    fn bad_json_gives_what_came_before() {
        let found = Extractor::new(&[]).extract(br#"{"metadata":{"labels":{"a":"1"}},"#);
        assert_eq!(found.labels.len(), 1);
    }
}
