//! Where in a body unknown and duplicate fields stand: strict errors name them in the order of the text.
//!
//! A second pass, made only when a body has both.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

/// The paths of both lists in the order in which a reader comes upon them: an unknown field at its first place, a
/// duplicate at its second and later ones. True stands for duplicate. What is not found keeps its order at the end.
pub(super) fn of(body: &[u8], unknown: &[String], duplicates: &[String]) -> Vec<(bool, String)> {
    let mut unknown_left: BTreeSet<&str> = unknown.iter().map(String::as_str).collect();
    let mut duplicates_left: BTreeMap<&str, usize> = BTreeMap::new();
    for path in duplicates {
        *duplicates_left.entry(path).or_default() += 1;
    }
    let mut found = Vec::new();
    let mut meet = |path: &str, again: bool| {
        let left = duplicates_left.get_mut(path).filter(|left| again && **left > 0);
        if let Some(left) = left {
            *left -= 1;
            found.push((true, path.to_owned()));
        } else if !again && unknown_left.remove(path) {
            found.push((false, path.to_owned()));
        }
    };
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    // The body has been read once already; where this reading ends early, the rest is added below.
    let _ = Walk { path: &mut String::new(), meet: &mut meet }.deserialize(&mut deserializer);
    let rest = duplicates_left
        .iter()
        .flat_map(|(path, left)| std::iter::repeat_n((true, (*path).to_owned()), *left));
    found.extend(rest.collect::<Vec<_>>());
    found.extend(unknown_left.iter().map(|path| (false, (*path).to_owned())));
    found
}

struct Walk<'w> {
    path: &'w mut String,
    /// Told every field's path, and whether it has stood in its map before.
    meet: &'w mut dyn FnMut(&str, bool),
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
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let len = self.path.len();
        for index in 0usize.. {
            self.path.push_str(&format!("[{index}]"));
            let item = items.next_element_seed(Walk { path: &mut *self.path, meet: &mut *self.meet })?;
            self.path.truncate(len);
            if item.is_none() {
                break;
            }
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let len = self.path.len();
        let mut seen = BTreeSet::new();
        while let Some(name) = members.next_key::<String>()? {
            if len > 0 {
                self.path.push('.');
            }
            self.path.push_str(&name);
            (self.meet)(self.path, !seen.insert(name));
            members.next_value_seed(Walk { path: &mut *self.path, meet: &mut *self.meet })?;
            self.path.truncate(len);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_the_text() {
        let body = br#"{"z": 1, "spec": {"u": 1, "r": 2, "r": 3, "l": [{"x": 1, "a": 1, "a": 1, "a": 1}]}}"#;
        let text = |paths: &[&str]| paths.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>();
        let unknown = text(&["spec.l[0].x", "spec.u", "elsewhere"]);
        let duplicates = text(&["spec.l[0].a", "spec.l[0].a", "spec.r"]);
        let got: Vec<String> = of(body, &unknown, &duplicates)
            .into_iter()
            .map(|(d, p)| format!("{}{p}", if d { "+" } else { "" }))
            .collect();
        let expected = ["spec.u", "+spec.r", "spec.l[0].x", "+spec.l[0].a", "+spec.l[0].a", "elsewhere"];
        assert_eq!(got, expected);
    }
}
