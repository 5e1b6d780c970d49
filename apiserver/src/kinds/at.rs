//! A value together with where it stands, for validation: walking costs no allocation, a path is only printed when
//! an error needs it.

use std::fmt;

use serde_json::Value;

use super::json;

/// A value and its place in the object. Missing values are `null` with a place.
#[derive(Clone, Copy)]
pub struct At<'p, 'v> {
    parent: Option<&'p At<'p, 'v>>,
    step: Step<'p>,
    pub value: &'v Value,
}

#[derive(Clone, Copy)]
enum Step<'p> {
    Root,
    Field(&'p str),
    Index(usize),
    Key(&'p str),
}

static NULL: Value = Value::Null;

impl<'p, 'v> At<'p, 'v> {
    /// The whole object.
    pub fn root(value: &'v Value) -> Self {
        At { parent: None, step: Step::Root, value }
    }

    /// A value whose place is given as text already.
    pub fn placed(path: &'p str, value: &'v Value) -> Self {
        At { parent: None, step: Step::Field(path), value }
    }

    /// The field of that name.
    pub fn get<'q>(&'q self, name: &'q str) -> At<'q, 'v>
    where
        'p: 'q,
    {
        At { parent: Some(self), step: Step::Field(name), value: self.value.get(name).unwrap_or(&NULL) }
    }

    /// Another value at this place.
    pub fn with<'w>(&self, value: &'w Value) -> At<'p, 'w>
    where
        'v: 'w,
    {
        At { parent: self.parent, step: self.step, value }
    }

    /// The value under a key of a map.
    pub fn key<'q>(&'q self, key: &'q str) -> At<'q, 'v>
    where
        'p: 'q,
    {
        At { parent: Some(self), step: Step::Key(key), value: self.value.get(key).unwrap_or(&NULL) }
    }

    /// The item of a list.
    pub fn index<'q>(&'q self, index: usize) -> At<'q, 'v>
    where
        'p: 'q,
    {
        At { parent: Some(self), step: Step::Index(index), value: self.value.get(index).unwrap_or(&NULL) }
    }

    /// The items of a list.
    pub fn items<'q>(&'q self) -> impl Iterator<Item = At<'q, 'v>>
    where
        'p: 'q,
    {
        (0..self.value.as_array().map_or(0, Vec::len)).map(move |index| self.index(index))
    }

    /// The entries of a map, keyed.
    pub fn entries<'q>(&'q self) -> impl Iterator<Item = (&'v str, At<'q, 'v>)>
    where
        'v: 'q,
        'p: 'q,
    {
        self.value
            .as_object()
            .into_iter()
            .flatten()
            .map(move |(key, value)| (key.as_str(), At { parent: Some(self), step: Step::Key(key), value }))
    }

    /// The string, empty when there is none.
    pub fn text(&self) -> &'v str {
        self.value.as_str().unwrap_or_default()
    }

    pub fn int(&self) -> Option<i64> {
        self.value.as_i64()
    }

    pub fn flag(&self) -> Option<bool> {
        self.value.as_bool()
    }

    /// Whether a pointer field is set.
    pub fn is_set(&self) -> bool {
        !self.value.is_null()
    }

    /// Whether the field is there and not zero.
    pub fn has(&self) -> bool {
        !json::is_zero(self.value)
    }

    /// The number of items or entries.
    pub fn len(&self) -> usize {
        match self.value {
            Value::Array(items) => items.len(),
            Value::Object(fields) => fields.len(),
            Value::String(text) => text.len(),
            _ => 0,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl fmt::Display for At<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parent_is_root = self.parent.is_none_or(|parent| matches!(parent.step, Step::Root));
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match self.step {
            Step::Root => Ok(()),
            Step::Field(name) if parent_is_root => f.write_str(name),
            Step::Field(name) => write!(f, ".{name}"),
            Step::Index(index) => write!(f, "[{index}]"),
            Step::Key(key) => write!(f, "[{key}]"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn places_print_as_upstream_prints_them() {
        let object = json!({"spec": {"containers": [{"resources": {"limits": {"cpu": "1"}}}]}});
        let root = At::root(&object);
        let spec = root.get("spec");
        let containers = spec.get("containers");
        let first = containers.index(0);
        let resources = first.get("resources");
        let limits = resources.get("limits");
        let (key, cpu) = limits.entries().next().unwrap();
        assert_eq!((key, cpu.text()), ("cpu", "1"));
        assert_eq!(cpu.to_string(), "spec.containers[0].resources.limits[cpu]");
        assert_eq!(first.get("missing").to_string(), "spec.containers[0].missing");
        assert!(!first.get("missing").is_set());
        assert_eq!(containers.items().count(), 1);
    }
}
