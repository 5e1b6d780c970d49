//! Who wants what in the table, and what changed since the table was last written.
//!
//! An object stands in the table while at least one owner wants it. When owners disagree about its content (two
//! services that claim one external address and port), the one that came first keeps it until it lets go.
//! The cost of a change follows the size of the owner's fragment, never the size of the table.

use std::{collections::BTreeMap, hash::Hash, sync::Arc};

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::{Body, Fragment, Slot};

/// What has to be written, in the order in which the fields stand.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Start from an empty table.
    pub replace_table: bool,
    /// Objects that are new or different now.
    pub put: BTreeMap<Slot, Body>,
    /// Objects that must go. Map elements with new content are here and in `put`.
    pub gone: BTreeMap<Slot, Body>,
}

impl Changes {
    /// True when the table needs no write.
    pub fn is_empty(&self) -> bool {
        !self.replace_table && self.put.is_empty() && self.gone.is_empty()
    }
}

type Claims = SmallVec<[(u64, Body); 1]>;

/// All wishes for one table.
#[derive(Debug)]
pub struct Ledger<O> {
    owners: FxHashMap<O, Owner>,
    claims: FxHashMap<Arc<Slot>, Claims>,
    /// Content before the first change since the last [`Ledger::take_changes`].
    before: FxHashMap<Arc<Slot>, Option<Body>>,
    next_owner: u64,
}

#[derive(Debug)]
struct Owner {
    /// Rises with every new owner: the smaller one came first.
    number: u64,
    slots: Vec<Arc<Slot>>,
}

impl<O> Default for Ledger<O> {
    fn default() -> Self {
        Self {
            owners: FxHashMap::default(),
            claims: FxHashMap::default(),
            before: FxHashMap::default(),
            next_owner: 0,
        }
    }
}

impl<O: Eq + Hash> Ledger<O> {
    /// Replaces everything that `owner` wants. An empty fragment forgets the owner.
    pub fn set(&mut self, owner: O, fragment: Fragment) {
        let known = self.owners.remove(&owner);
        let number = known.as_ref().map_or(self.next_owner, |owner| owner.number);
        self.next_owner = self.next_owner.max(number + 1);
        let old = known.map(|owner| owner.slots).unwrap_or_default();
        let mut new = fragment.into_objects();
        let mut slots = Vec::with_capacity(new.len());
        for slot in old {
            match new.remove(&*slot) {
                Some(body) => {
                    self.claim(&slot, number, body);
                    slots.push(slot);
                }
                None => self.release(&slot, number),
            }
        }
        for (slot, body) in new {
            let slot = match self.claims.get_key_value(&slot) {
                Some((known, _)) => known.clone(),
                None => Arc::new(slot),
            };
            self.claim(&slot, number, body);
            slots.push(slot);
        }
        if !slots.is_empty() {
            self.owners.insert(owner, Owner { number, slots });
        }
    }

    /// True when the owner wants anything.
    pub fn knows(&self, owner: &O) -> bool {
        self.owners.contains_key(owner)
    }

    /// Number of objects that stand in the table.
    pub fn len(&self) -> usize {
        self.claims.len()
    }

    /// True when the table holds nothing.
    pub fn is_empty(&self) -> bool {
        self.claims.is_empty()
    }

    /// What changed since the last call.
    pub fn take_changes(&mut self) -> Changes {
        let mut changes = Changes::default();
        for (slot, before) in std::mem::take(&mut self.before) {
            let now = self.content(&slot).cloned();
            if now == before {
                continue;
            }
            match (before, now) {
                // A chain is rewritten in place; an element has to leave before it can come back different.
                (Some(_), Some(now)) if matches!(*slot, Slot::Chain(_)) => {
                    changes.put.insert((*slot).clone(), now);
                }
                (before, now) => {
                    if let Some(before) = before {
                        changes.gone.insert((*slot).clone(), before);
                    }
                    if let Some(now) = now {
                        changes.put.insert((*slot).clone(), now);
                    }
                }
            }
        }
        changes
    }

    /// The whole table, for a first write or one after a failure. Forgets what changed before.
    pub fn take_all(&mut self) -> Changes {
        self.before.clear();
        let all = self.claims.iter().map(|(slot, claims)| ((**slot).clone(), claims[0].1.clone()));
        Changes { replace_table: true, put: all.collect(), gone: BTreeMap::new() }
    }

    fn content(&self, slot: &Slot) -> Option<&Body> {
        self.claims.get(slot).map(|claims| &claims[0].1)
    }

    fn remember(&mut self, slot: &Arc<Slot>) {
        if !self.before.contains_key(slot) {
            let body = self.content(slot).cloned();
            self.before.insert(slot.clone(), body);
        }
    }

    fn claim(&mut self, slot: &Arc<Slot>, number: u64, body: Body) {
        if let Some(claims) = self.claims.get(&**slot)
            && let Ok(at) = claims.binary_search_by_key(&number, |claim| claim.0)
            && claims[at].1 == body
        {
            return;
        }
        self.remember(slot);
        let claims = self.claims.entry(slot.clone()).or_default();
        match claims.binary_search_by_key(&number, |claim| claim.0) {
            Ok(at) => claims[at].1 = body,
            Err(at) => claims.insert(at, (number, body)),
        }
    }

    fn release(&mut self, slot: &Arc<Slot>, number: u64) {
        self.remember(slot);
        if let Some(claims) = self.claims.get_mut(&**slot) {
            if let Ok(at) = claims.binary_search_by_key(&number, |claim| claim.0) {
                claims.remove(at);
            }
            if claims.is_empty() {
                self.claims.remove(&**slot);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fragment(entries: &[(u8, u8)]) -> Fragment {
        let map: Arc<str> = "m".into();
        let mut fragment = Fragment::default();
        for (key, value) in entries {
            fragment.entry(&map, key.to_string(), value.to_string());
        }
        fragment
    }

    fn slot(key: u8) -> Slot {
        Slot::Element("m".into(), key.to_string().into())
    }

    #[test]
    fn shared_objects_stay_until_the_last_owner_lets_go() {
        let mut ledger = Ledger::default();
        ledger.set("a", fragment(&[(1, 1)]));
        ledger.set("b", fragment(&[(1, 1), (2, 2)]));
        assert_eq!(ledger.take_changes().put.len(), 2);
        ledger.set("a", Fragment::default());
        assert!(ledger.take_changes().is_empty());
        ledger.set("b", Fragment::default());
        assert_eq!(ledger.take_changes().gone.len(), 2);
        assert!(ledger.is_empty() && !ledger.knows(&"b"));
    }

    #[test]
    fn the_first_claim_wins_until_it_ends() {
        let mut ledger = Ledger::default();
        ledger.set("a", fragment(&[(1, 1)]));
        ledger.set("b", fragment(&[(1, 9)]));
        assert_eq!(ledger.take_changes().put[&slot(1)], Body::Element("1".into()));
        ledger.set("a", Fragment::default());
        let changes = ledger.take_changes();
        assert_eq!(changes.gone[&slot(1)], Body::Element("1".into()));
        assert_eq!(changes.put[&slot(1)], Body::Element("9".into()));
    }

    #[test]
    fn going_there_and_back_changes_nothing() {
        let mut ledger = Ledger::default();
        ledger.set("a", fragment(&[(1, 1)]));
        ledger.take_changes();
        ledger.set("a", fragment(&[(1, 2)]));
        ledger.set("a", fragment(&[(1, 1)]));
        assert!(ledger.take_changes().is_empty());
    }

    proptest! {
        /// Applying the differences to a plain map always gives what a full write would give.
        #[test]
        fn differences_add_up_to_the_whole(
            steps in prop::collection::vec((0u8..4, prop::collection::vec((0u8..6, 0u8..3), 0..5), any::<bool>()), 1..40)
        ) {
            let mut ledger = Ledger::default();
            let mut table: BTreeMap<Slot, Body> = BTreeMap::new();
            for (owner, entries, take) in steps {
                ledger.set(owner, fragment(&entries));
                if take {
                    let changes = ledger.take_changes();
                    for slot in changes.gone.keys() {
                        prop_assert!(table.remove(slot).is_some(), "only what stands is deleted");
                    }
                    for (slot, body) in changes.put {
                        prop_assert!(table.insert(slot, body).is_none(), "only what is absent is added");
                    }
                    let mut copy = Ledger { owners: Default::default(), claims: ledger.claims.clone(),
                        before: Default::default(), next_owner: 0 } as Ledger<u8>;
                    prop_assert_eq!(&copy.take_all().put, &table);
                }
            }
        }
    }
}
