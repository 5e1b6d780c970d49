//! What a list or watch wants: a namespace, a name, label and field requirements. Pure.

use super::entry::Entry;
use super::event::{Event, EventType};

/// One requirement on labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LabelRequirement {
    In(String, Vec<String>),
    /// Also true when the label is absent.
    NotIn(String, Vec<String>),
    Exists(String),
    NotExists(String),
    GreaterThan(String, i64),
    LessThan(String, i64),
}

impl LabelRequirement {
    fn matches(&self, entry: &Entry) -> bool {
        let number = |key: &str| entry.label(key).and_then(|v| v.parse::<i64>().ok());
        match self {
            Self::In(key, values) => entry.label(key).is_some_and(|v| values.iter().any(|w| w == v)),
            Self::NotIn(key, values) => entry.label(key).is_none_or(|v| values.iter().all(|w| w != v)),
            Self::Exists(key) => entry.label(key).is_some(),
            Self::NotExists(key) => entry.label(key).is_none(),
            Self::GreaterThan(key, bound) => number(key).is_some_and(|n| n > *bound),
            Self::LessThan(key, bound) => number(key).is_some_and(|n| n < *bound),
        }
    }
}

/// One requirement on a selectable field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldRequirement {
    pub field: FieldRef,
    pub equals: bool,
    pub value: String,
}

/// Which field a requirement looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldRef {
    Name,
    Namespace,
    /// An index into the cache's field definitions.
    Slot(usize),
}

impl FieldRequirement {
    fn matches(&self, entry: &Entry) -> bool {
        let (namespace, name) = entry.namespace_and_name();
        let value = match self.field {
            FieldRef::Name => name,
            FieldRef::Namespace => namespace,
            FieldRef::Slot(slot) => entry.fields.get(slot).map_or("", |v| v),
        };
        (value == self.value) == self.equals
    }
}

/// Everything a list or watch asks for; the default matches all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    pub namespace: Option<String>,
    pub name: Option<String>,
    pub labels: Vec<LabelRequirement>,
    pub fields: Vec<FieldRequirement>,
}

impl Filter {
    /// Whether every object of the resource passes.
    pub fn is_everything(&self) -> bool {
        *self == Self::default()
    }

    /// Whether only the place in the key space matters.
    pub fn has_selectors(&self) -> bool {
        !self.labels.is_empty() || !self.fields.is_empty()
    }

    /// The single object meant, when namespace (where there are any) and name are both fixed by path or selector.
    pub fn exact_key(&self, namespaced: bool) -> Option<String> {
        let name = self.name.as_deref().or_else(|| self.equal_field(FieldRef::Name))?;
        if !namespaced {
            return Some(name.to_owned());
        }
        let namespace = self.namespace.as_deref().or_else(|| self.equal_field(FieldRef::Namespace))?;
        Some(format!("{namespace}/{name}"))
    }

    /// The value a field must have, where a requirement fixes it.
    pub fn equal_field(&self, field: FieldRef) -> Option<&str> {
        self.fields.iter().find(|r| r.field == field && r.equals).map(|r| r.value.as_str())
    }

    pub fn matches(&self, entry: &Entry) -> bool {
        let (namespace, name) = entry.namespace_and_name();
        self.namespace.as_deref().is_none_or(|n| n == namespace)
            && self.name.as_deref().is_none_or(|n| n == name)
            && self.labels.iter().all(|r| r.matches(entry))
            && self.fields.iter().all(|r| r.matches(entry))
    }

    /// What this event is to a watcher with this filter, or `None` when it is nothing.
    pub fn event_type(&self, event: &Event) -> Option<EventType> {
        let is = event.event_type != EventType::Deleted && self.matches(&event.entry);
        let was = event.previous.as_ref().is_some_and(|p| self.matches(p));
        match (was, is) {
            (false, true) => Some(EventType::Added),
            (true, true) => Some(EventType::Modified),
            (true, false) => Some(EventType::Deleted),
            (false, false) => None,
        }
    }
}
