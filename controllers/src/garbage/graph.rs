//! Who owns whom, over all kinds. A pure value: metadata in, uids to look at out.

use std::collections::VecDeque;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use rustc_hash::{FxHashMap, FxHashSet};
use serde_json::{Value, json};

use super::OwnerKinds;
use crate::meta::{FOREGROUND, ORPHAN};
use crate::runtime::Gvr;

/// Uids known to be gone that are remembered: enough for the dependents of a large deletion to find their owner's
/// without asking.
const ABSENT_MAX: usize = 10_000;

/// A reference to an owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Its uid.
    pub uid: Arc<str>,
    /// As in the reference.
    pub api_version: String,
    /// As in the reference.
    pub kind: String,
    /// As in the reference.
    pub name: String,
    /// Whether it is the controller.
    pub controller: Option<bool>,
    /// Whether the dependent holds up the owner's foreground deletion.
    pub block: Option<bool>,
}

impl Owner {
    /// The reference as it stands in objects.
    pub fn to_json(&self) -> Value {
        let mut json =
            json!({"apiVersion": self.api_version, "kind": self.kind, "name": self.name, "uid": &*self.uid});
        if let Some(controller) = self.controller {
            json["controller"] = controller.into();
        }
        if let Some(block) = self.block {
            json["blockOwnerDeletion"] = block.into();
        }
        json
    }
}

/// An object, as far as the collector cares.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its uid.
    pub uid: Arc<str>,
    /// Its resource.
    pub gvr: Arc<Gvr>,
    /// Empty outside namespaces.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// In which state it was seen.
    pub resource_version: Arc<str>,
    /// Its owners.
    pub owners: Box<[Owner]>,
    /// Its finalizers.
    pub finalizers: Box<[String]>,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Whether dependents go first.
    pub foreground: bool,
    /// Whether dependents are kept.
    pub orphans: bool,
}

impl Node {
    /// A node from metadata.
    pub fn of(gvr: Arc<Gvr>, meta: &ObjectMeta) -> Option<Self> {
        let owners = meta.owner_references.iter().flatten().map(|owner| Owner {
            uid: owner.uid.as_str().into(),
            api_version: owner.api_version.clone(),
            kind: owner.kind.clone(),
            name: owner.name.clone(),
            controller: owner.controller,
            block: owner.block_owner_deletion,
        });
        let finalizers: Box<[String]> = meta.finalizers.iter().flatten().cloned().collect();
        Some(Self {
            uid: meta.uid.as_deref()?.into(),
            gvr,
            namespace: meta.namespace.as_deref().unwrap_or("").into(),
            name: meta.name.as_deref()?.into(),
            resource_version: meta.resource_version.as_deref().unwrap_or("").into(),
            owners: owners.collect(),
            deleting: meta.deletion_timestamp.is_some(),
            foreground: finalizers.iter().any(|finalizer| finalizer == FOREGROUND),
            orphans: finalizers.iter().any(|finalizer| finalizer == ORPHAN),
            finalizers,
        })
    }

    /// Whether it holds up the foreground deletion of an owner.
    pub fn blocks(&self, owner: &str) -> bool {
        self.owners.iter().any(|reference| *reference.uid == *owner && reference.block == Some(true))
    }

    fn waits(&self) -> bool {
        self.deleting && (self.foreground || self.orphans)
    }
}

/// The graph.
#[derive(Default)]
pub struct Graph {
    nodes: FxHashMap<Arc<str>, Node>,
    dependents: FxHashMap<Arc<str>, FxHashSet<Arc<str>>>,
    absent: FxHashSet<Arc<str>>,
    absent_order: VecDeque<Arc<str>>,
    kinds: FxHashMap<(String, String), (Gvr, bool)>,
    complete: bool,
}

impl Graph {
    /// One object.
    pub fn get(&self, uid: &str) -> Option<&Node> {
        self.nodes.get(uid)
    }

    /// The dependents of an owner.
    pub fn dependents(&self, uid: &str) -> impl Iterator<Item = &Node> {
        self.dependents.get(uid).into_iter().flatten().filter_map(|uid| self.nodes.get(uid))
    }

    /// Whether an owner has any dependent.
    pub fn has_dependents(&self, uid: &str) -> bool {
        self.dependents.get(uid).is_some_and(|set| !set.is_empty())
    }

    /// Whether `dependent` blocks `owner`, both wait for their dependents, and `owner` in turn depends on `dependent`,
    /// directly or by way of others that wait too: then nobody would ever be the first to go.
    pub fn is_circular(&self, dependent: &Node, owner: &Node) -> bool {
        if !dependent.waits() || !dependent.blocks(&owner.uid) {
            return false;
        }
        let (mut seen, mut next) = (FxHashSet::default(), vec![owner]);
        while let Some(node) = next.pop() {
            for up in node.owners.iter() {
                if up.uid == dependent.uid {
                    return true;
                }
                let waiting = self.get(&up.uid).filter(|above| above.waits());
                next.extend(waiting.filter(|above| seen.insert(above.uid.to_string())));
            }
        }
        false
    }

    /// Whether an object with this uid is known to have existed and to be gone.
    pub fn is_known_absent(&self, uid: &str) -> bool {
        self.absent.contains(uid)
    }

    /// Whether every kind has been listed.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Says whether every kind has been listed. Returns whether that is news.
    pub fn set_complete(&mut self, complete: bool) -> bool {
        std::mem::replace(&mut self.complete, complete) != complete
    }

    /// The resource of an owner's kind, and whether it stands in namespaces. Its version is one that is served, which
    /// the reference's may not be any more: "not found" there would be taken for an owner that is gone.
    pub fn resource_of(&self, api_version: &str, kind: &str) -> Option<(&Gvr, bool)> {
        let group = api_version.rsplit_once('/').map_or("", |(group, _)| group);
        let (gvr, namespaced) = self.kinds.get(&(group.to_string(), kind.to_string()))?;
        Some((gvr, *namespaced))
    }

    /// Sets what discovery found.
    pub fn set_kinds(&mut self, kinds: OwnerKinds) {
        let entry = |(gvr, namespaced): (Gvr, bool)| {
            ((gvr.group.to_string(), gvr.kind.to_string()), (gvr, namespaced))
        };
        self.kinds = kinds.into_iter().map(entry).collect();
    }

    /// An object was added or changed. Returns the uids to look at.
    pub fn apply(&mut self, node: Node) -> Vec<Arc<str>> {
        let uid = node.uid.clone();
        let mut concerned = Vec::new();
        let old = self.nodes.get(&uid).cloned();
        if old.as_ref().is_none_or(|old| old.owners != node.owners) {
            for owner in old.iter().flat_map(|old| old.owners.iter()) {
                self.unlink(&owner.uid, &uid);
                self.push_if_waiting(&owner.uid, &mut concerned);
            }
            for owner in node.owners.iter() {
                self.dependents.entry(owner.uid.clone()).or_default().insert(uid.clone());
            }
        }
        let lost = |owner: &Owner| self.nodes.get(&owner.uid).is_none_or(Node::waits);
        if node.waits() || node.owners.iter().any(lost) {
            concerned.push(uid.clone());
        }
        self.nodes.insert(uid, node);
        concerned
    }

    /// An object is gone. Returns the uids to look at: its dependents, and owners that wait for it.
    pub fn delete(&mut self, uid: &str) -> Vec<Arc<str>> {
        let concerned = self.remove(uid);
        if !concerned.is_empty() {
            self.remember_absent(uid.into());
        }
        concerned
    }

    /// An object is not seen any more, for its kind is no longer watched in this version. Whether it is gone is not
    /// known: its dependents, whose uids are returned, have to ask. One that is seen in another version stays.
    pub fn forget(&mut self, gvr: &Gvr, uid: &str) -> Vec<Arc<str>> {
        let seen_so = self.nodes.get(uid).is_some_and(|node| *node.gvr == *gvr);
        if seen_so { self.remove(uid) } else { Vec::new() }
    }

    fn remove(&mut self, uid: &str) -> Vec<Arc<str>> {
        let Some(node) = self.nodes.remove(uid) else { return Vec::new() };
        let mut concerned: Vec<Arc<str>> = self.dependents.get(uid).into_iter().flatten().cloned().collect();
        for owner in node.owners.iter() {
            self.unlink(&owner.uid, uid);
            self.push_if_waiting(&owner.uid, &mut concerned);
        }
        concerned
    }

    fn unlink(&mut self, owner: &str, uid: &str) {
        if let Some(set) = self.dependents.get_mut(owner) {
            set.remove(uid);
            if set.is_empty() {
                self.dependents.remove(owner);
            }
        }
    }

    fn push_if_waiting(&self, owner: &Arc<str>, concerned: &mut Vec<Arc<str>>) {
        if self.nodes.get(owner).is_some_and(Node::waits) {
            concerned.push(owner.clone());
        }
    }

    fn remember_absent(&mut self, uid: Arc<str>) {
        if self.absent.insert(uid.clone()) {
            self.absent_order.push_back(uid);
        }
        if self.absent_order.len() > ABSENT_MAX
            && let Some(oldest) = self.absent_order.pop_front()
        {
            self.absent.remove(&oldest);
        }
    }

    /// Everything that may need a look, once the graph is complete.
    pub fn suspects(&self) -> Vec<Arc<str>> {
        let lost = |node: &&Node| {
            node.waits() || node.owners.iter().any(|owner| self.nodes.get(&owner.uid).is_none_or(Node::waits))
        };
        self.nodes.values().filter(lost).map(|node| node.uid.clone()).collect()
    }
}
