//! What the scheduler believes about the cluster: nodes, the pods on them, namespaces, services and controllers.
//!
//! Owns pods that are bound or assumed to be, and the tables in which equal specifications are kept once.
//! Invariant: a pod is accounted on exactly one node. Pending pods live in the queue, not here.

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use super::labels::{Labels, Selector};
use super::nodes::Nodes;
use super::spec::{OwnerKind, PodClass, PodInput, PodSpec, TimeMs};
use super::terms::{ExternalTerm, Pairs, SelectorSource, external_terms};

/// A pod's UID as a number: a UUID is its 128 bits, anything else a hash of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Uid(pub u128);

impl Uid {
    /// The number of a UID text.
    pub fn new(text: &str) -> Self {
        let digits = text.bytes().filter(|b| *b != b'-');
        let mut value = 0u128;
        let mut count = 0;
        for byte in digits {
            let Some(digit) = (byte as char).to_digit(16) else { return Uid(hash_text(text)) };
            value = value << 4 | u128::from(digit);
            count += 1;
        }
        if count == 32 && text.len() == 36 { Uid(value) } else { Uid(hash_text(text)) }
    }
}

/// 128-bit FNV-1a.
fn hash_text(text: &str) -> u128 {
    const BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    text.bytes().fold(BASIS, |hash, byte| (hash ^ u128::from(byte)).wrapping_mul(PRIME))
}

/// A pod on a node.
#[derive(Clone, Debug)]
pub struct Pod {
    pub uid: Uid,
    pub name: Arc<str>,
    pub spec: Arc<PodSpec>,
    pub class: u32,
    pub node: u32,
    pub start_ms: TimeMs,
    pub generation: i64,
    pub terminating: bool,
    /// Terminating because the scheduler preempted it.
    pub preempted: bool,
    /// Placed by a decision that the API has not confirmed.
    pub assumed: bool,
}

/// A class of pods that exist on nodes.
#[derive(Debug)]
pub struct Class {
    pub class: Arc<PodClass>,
    /// External terms of the class, by number.
    pub terms: Vec<u32>,
    /// Distinguishes this class from earlier ones that had the same slot.
    pub birth: u64,
    pods: u32,
}

#[derive(Debug)]
struct ExternalEntry {
    term: Arc<ExternalTerm>,
    classes: u32,
}

/// A pending pod that preemption has promised a node.
#[derive(Clone, Debug)]
pub struct Nomination {
    pub uid: Uid,
    pub spec: Arc<PodSpec>,
}

/// The cluster.
#[derive(Debug, Default)]
pub struct Cluster {
    pub nodes: Nodes,
    pods: Vec<Option<Pod>>,
    free_pods: Vec<u32>,
    by_uid: FxHashMap<Uid, u32>,
    classes: Vec<Class>,
    class_index: FxHashMap<Arc<PodClass>, u32>,
    free_classes: Vec<u32>,
    births: u64,
    specs: FxHashSet<Arc<PodSpec>>,
    externals: FxHashMap<u32, ExternalEntry>,
    external_index: FxHashMap<Arc<ExternalTerm>, u32>,
    next_external: u32,
    /// Counts changes of the set of external terms.
    pub terms_generation: u64,
    namespaces: FxHashMap<Arc<str>, Labels>,
    /// Counts changes of namespace labels, once a selector of namespaces is in use.
    pub namespace_generation: u64,
    /// By namespace and name.
    services: FxHashMap<Arc<str>, FxHashMap<Arc<str>, Pairs>>,
    owners: FxHashMap<(OwnerKind, Arc<str>, Arc<str>), Selector>,
    /// Counts changes of services and controllers.
    pub owner_generation: u64,
    nominated: FxHashMap<u32, Vec<Nomination>>,
    nominated_node: FxHashMap<Uid, u32>,
    /// Pods per claim (`namespace/name`), for ReadWriteOncePod.
    claim_users: FxHashMap<Box<str>, u32>,
}

/// Unused specifications tolerated before the table is swept, as a share of the pods.
const SPEC_SWEEP_MIN: usize = 1024;

impl Cluster {
    /// A pod by slot.
    pub fn pod(&self, slot: u32) -> Option<&Pod> {
        self.pods.get(slot as usize)?.as_ref()
    }

    /// A pod by UID.
    pub fn find_pod(&self, uid: Uid) -> Option<&Pod> {
        self.pod(*self.by_uid.get(&uid)?)
    }

    /// Number of pods on nodes, assumed ones included.
    pub fn pod_count(&self) -> usize {
        self.by_uid.len()
    }

    /// All pods on nodes.
    pub fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods.iter().flatten()
    }

    /// One shared copy of a specification.
    pub fn intern(&mut self, spec: PodSpec) -> Arc<PodSpec> {
        if let Some(have) = self.specs.get(&spec) {
            return have.clone();
        }
        if self.specs.len() > SPEC_SWEEP_MIN.max(2 * self.by_uid.len()) {
            self.specs.retain(|s| Arc::strong_count(s) > 1);
        }
        let spec = Arc::new(spec);
        self.specs.insert(spec.clone());
        spec
    }

    /// Accounts a pod on a node. A pod that is known already is replaced.
    pub fn add_pod(&mut self, input: &PodInput, spec: Arc<PodSpec>, node: &str, assumed: bool) -> u32 {
        let uid = Uid::new(&input.uid);
        self.remove_pod(uid);
        let node = self.nodes.slot_for(node);
        let class = self.class_of(&spec.class);
        let slot = self.free_pods.pop().unwrap_or(self.pods.len() as u32);
        let pod = Pod {
            uid,
            name: input.name.clone(),
            class,
            node,
            start_ms: input.start_ms,
            generation: input.generation,
            terminating: input.terminating,
            preempted: input.preempted,
            assumed,
            spec,
        };
        self.classes[class as usize].pods += 1;
        self.nodes.count_class(node, class, pod.terminating, 1);
        self.nodes.nodes[node as usize].pods.push(slot);
        self.nodes.account(node, &pod.spec.local, 1);
        self.count_claims(&pod.spec, 1);
        if slot as usize == self.pods.len() {
            self.pods.push(Some(pod));
        } else {
            self.pods[slot as usize] = Some(pod);
        }
        self.by_uid.insert(uid, slot);
        slot
    }

    /// Takes a pod off its node.
    pub fn remove_pod(&mut self, uid: Uid) -> Option<Pod> {
        let slot = self.by_uid.remove(&uid)?;
        let pod = self.pods[slot as usize].take()?;
        self.free_pods.push(slot);
        let on_node = &mut self.nodes.nodes[pod.node as usize].pods;
        if let Some(at) = on_node.iter().position(|p| *p == slot) {
            on_node.swap_remove(at);
        }
        self.nodes.count_class(pod.node, pod.class, pod.terminating, -1);
        self.nodes.account(pod.node, &pod.spec.local, -1);
        self.nodes.maybe_free(pod.node);
        self.count_claims(&pod.spec, -1);
        self.release_class(pod.class);
        Some(pod)
    }

    /// Marks an assumed pod as confirmed by the API.
    pub fn confirm(&mut self, uid: Uid, generation: i64) {
        if let Some(slot) = self.by_uid.get(&uid)
            && let Some(pod) = self.pods[*slot as usize].as_mut()
        {
            pod.assumed = false;
            pod.generation = generation;
        }
    }

    fn count_claims(&mut self, spec: &PodSpec, sign: i32) {
        for claim in spec.claims.iter().filter(|c| !c.ephemeral) {
            let key: Box<str> = format!("{}/{}", spec.class.namespace, claim.name).into();
            let users = self.claim_users.entry(key.clone()).or_default();
            *users = users.saturating_add_signed(sign);
            if *users == 0 {
                self.claim_users.remove(&key);
            }
        }
    }

    /// Whether a pod on a node uses the claim.
    pub fn is_claim_used(&self, namespace: &str, name: &str) -> bool {
        self.claim_users.contains_key(format!("{namespace}/{name}").as_str())
    }

    /// A class by its slot.
    pub fn class(&self, class: u32) -> &Class {
        &self.classes[class as usize]
    }

    fn class_of(&mut self, class: &Arc<PodClass>) -> u32 {
        if let Some(at) = self.class_index.get(class) {
            return *at;
        }
        let terms = external_terms(class).into_iter().map(|t| self.acquire_external(t)).collect();
        self.births += 1;
        let entry = Class { class: class.clone(), terms, birth: self.births, pods: 0 };
        let at = self.free_classes.pop().unwrap_or(self.classes.len() as u32);
        if at as usize == self.classes.len() {
            self.classes.push(entry);
        } else {
            self.classes[at as usize] = entry;
        }
        self.class_index.insert(class.clone(), at);
        at
    }

    fn release_class(&mut self, at: u32) {
        let class = &mut self.classes[at as usize];
        class.pods -= 1;
        if class.pods > 0 {
            return;
        }
        self.class_index.remove(&class.class);
        self.free_classes.push(at);
        for term in std::mem::take(&mut self.classes[at as usize].terms) {
            self.release_external(term);
        }
    }

    fn acquire_external(&mut self, term: ExternalTerm) -> u32 {
        if let Some(number) = self.external_index.get(&term) {
            if let Some(entry) = self.externals.get_mut(number) {
                entry.classes += 1;
            }
            return *number;
        }
        self.next_external += 1;
        self.terms_generation += 1;
        let term = Arc::new(term);
        self.external_index.insert(term.clone(), self.next_external);
        self.externals.insert(self.next_external, ExternalEntry { term, classes: 1 });
        self.next_external
    }

    fn release_external(&mut self, number: u32) {
        let Some(entry) = self.externals.get_mut(&number) else { return };
        entry.classes -= 1;
        if entry.classes == 0 {
            self.external_index.remove(&entry.term);
            self.externals.remove(&number);
            self.terms_generation += 1;
        }
    }

    /// An external term by number.
    pub fn external(&self, number: u32) -> Option<&Arc<ExternalTerm>> {
        self.externals.get(&number).map(|e| &e.term)
    }

    /// Numbers of the external terms that select a pod of this class, sorted.
    pub fn externals_matching(&self, class: &PodClass) -> Vec<u32> {
        if self.externals.is_empty() {
            return Vec::new();
        }
        let no_labels = Labels::default();
        let namespace_labels = self.namespaces.get(&class.namespace).unwrap_or(&no_labels);
        let mut matching: Vec<u32> = self
            .externals
            .iter()
            .filter(|(_, e)| e.term.term.matches(&class.namespace, &class.labels, Some(namespace_labels)))
            .map(|(number, _)| *number)
            .collect();
        matching.sort_unstable();
        matching
    }

    /// Labels of a namespace, if it is known.
    pub fn namespace(&self, name: &str) -> Option<&Labels> {
        self.namespaces.get(name)
    }

    /// Adds, changes or (with `None`) removes a namespace.
    pub fn set_namespace(&mut self, name: Arc<str>, labels: Option<Labels>) {
        let changed = self.namespaces.get(&name) != labels.as_ref();
        match labels {
            Some(labels) => drop(self.namespaces.insert(name, labels)),
            None => drop(self.namespaces.remove(&name)),
        }
        self.namespace_generation += u64::from(changed);
    }

    /// Adds, changes or (with `None`) removes a service's selector.
    pub fn set_service(
        &mut self,
        namespace: Arc<str>,
        name: Arc<str>,
        selector: Option<Vec<(Box<str>, Box<str>)>>,
    ) {
        let services = self.services.entry(namespace).or_default();
        if services.get(&name) == selector.as_ref() {
            return;
        }
        match selector {
            Some(selector) => drop(services.insert(name, selector)),
            None => drop(services.remove(&name)),
        }
        self.owner_generation += 1;
    }

    /// Adds, changes or (with `None`) removes a controller's selector.
    pub fn set_owner(
        &mut self,
        kind: OwnerKind,
        namespace: Arc<str>,
        name: Arc<str>,
        selector: Option<Selector>,
    ) {
        let key = (kind, namespace, name);
        if self.owners.get(&key) == selector.as_ref() {
            return;
        }
        match selector {
            Some(selector) => drop(self.owners.insert(key, selector)),
            None => drop(self.owners.remove(&key)),
        }
        self.owner_generation += 1;
    }

    /// Promises a node to a pending pod, or withdraws the promise. That counts as a change of the node: who fits there
    /// depends on it.
    pub fn nominate(&mut self, uid: Uid, spec: Arc<PodSpec>, node: Option<&str>) {
        if let Some(old) = self.nominated_node.remove(&uid)
            && let Some(list) = self.nominated.get_mut(&old)
        {
            list.retain(|n| n.uid != uid);
            if list.is_empty() {
                self.nominated.remove(&old);
            }
            self.nodes.note(old);
        }
        if let Some(slot) = node.and_then(|n| self.nodes.find(n)) {
            self.nominated_node.insert(uid, slot);
            self.nominated.entry(slot).or_default().push(Nomination { uid, spec });
            self.nodes.note(slot);
        }
    }

    /// The node promised to a pod.
    pub fn nominated_node(&self, uid: Uid) -> Option<u32> {
        self.nominated_node.get(&uid).copied()
    }

    /// Pods nominated to a node.
    pub fn nominated_on(&self, node: u32) -> &[Nomination] {
        self.nominated.get(&node).map_or(&[], Vec::as_slice)
    }

    /// Withdraws all promises of a node that is gone.
    pub fn withdraw_nominations(&mut self, node: u32) {
        for nomination in self.nominated.remove(&node).unwrap_or_default() {
            self.nominated_node.remove(&nomination.uid);
        }
    }

    /// Nodes that are promised to pods.
    pub fn nominated_nodes(&self) -> impl Iterator<Item = u32> + '_ {
        self.nominated.keys().copied()
    }
}

impl SelectorSource for Cluster {
    fn services(&self, namespace: &str) -> Vec<&[(Box<str>, Box<str>)]> {
        self.services.get(namespace).map(|all| all.values().map(Vec::as_slice).collect()).unwrap_or_default()
    }

    fn owner(&self, kind: OwnerKind, namespace: &str, name: &str) -> Option<&Selector> {
        self.owners.get(&(kind, namespace.into(), name.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uids_are_uuids_or_hashes() {
        let uuid = "01234567-89ab-cdef-0123-456789abcdef";
        assert_eq!(Uid::new(uuid), Uid(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef));
        assert_ne!(Uid::new("mirror-pod"), Uid::new("mirror-pod2"));
        assert_ne!(Uid::new("0123456789abcdef0123456789abcdef"), Uid::new(uuid));
    }
}
