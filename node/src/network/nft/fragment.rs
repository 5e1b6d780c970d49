//! What one owner wants to stand in the table.

use std::{collections::BTreeMap, sync::Arc};

/// Where a base chain hooks into the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hook {
    /// `filter`, `nat` or `route`.
    pub kind: &'static str,
    /// `prerouting`, `input`, `forward`, `output` or `postrouting`.
    pub hook: &'static str,
    /// Smaller runs earlier.
    pub priority: i32,
}

/// A chain with its rules in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// Present for base chains.
    pub hook: Option<Hook>,
    /// Rules, without `add rule …` in front.
    pub rules: Vec<String>,
}

/// A set or map. Elements are objects of their own, so that they change one by one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// `set` or `map`.
    pub kind: &'static str,
    /// The declaration between the braces.
    pub spec: String,
}

/// The identity of an object in the table. The order is the order in which objects may refer to each other.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Slot {
    /// A set or map.
    Set(Arc<str>),
    /// A chain.
    Chain(Arc<str>),
    /// An element: its set, and its key as nft spells it.
    Element(Arc<str>, Box<str>),
}

/// The content of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Declaration of a set or map.
    Set(Arc<Set>),
    /// Rules of a chain.
    Chain(Arc<Chain>),
    /// What a map's key stands for; empty for sets.
    Element(Box<str>),
}

/// The objects that one owner wants, sorted by identity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fragment {
    objects: BTreeMap<Slot, Body>,
}

impl Fragment {
    /// Wants a set.
    pub fn set(&mut self, name: &Arc<str>, spec: impl Into<String>) {
        let set = Set { kind: "set", spec: spec.into() };
        self.objects.insert(Slot::Set(name.clone()), Body::Set(Arc::new(set)));
    }

    /// Wants a map.
    pub fn map(&mut self, name: &Arc<str>, spec: impl Into<String>) {
        let set = Set { kind: "map", spec: spec.into() };
        self.objects.insert(Slot::Set(name.clone()), Body::Set(Arc::new(set)));
    }

    /// Wants a chain.
    pub fn chain(&mut self, name: &Arc<str>, hook: Option<Hook>, rules: Vec<String>) {
        self.objects.insert(Slot::Chain(name.clone()), Body::Chain(Arc::new(Chain { hook, rules })));
    }

    /// Wants an element of a set.
    pub fn element(&mut self, set: &Arc<str>, key: impl Into<Box<str>>) {
        self.objects.insert(Slot::Element(set.clone(), key.into()), Body::Element("".into()));
    }

    /// Wants an element of a map. The first wish for a key stays.
    pub fn entry(&mut self, map: &Arc<str>, key: impl Into<Box<str>>, value: impl Into<Box<str>>) {
        let slot = Slot::Element(map.clone(), key.into());
        self.objects.entry(slot).or_insert_with(|| Body::Element(value.into()));
    }

    /// True when the chain is already part of this fragment.
    pub fn has_chain(&self, name: &Arc<str>) -> bool {
        self.objects.contains_key(&Slot::Chain(name.clone()))
    }

    /// Number of objects.
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// True when nothing is wanted.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// The objects in order.
    pub fn iter(&self) -> impl Iterator<Item = (&Slot, &Body)> {
        self.objects.iter()
    }

    pub(super) fn into_objects(self) -> BTreeMap<Slot, Body> {
        self.objects
    }
}
