//! The templates in use, found by what pods share, and thrown away when memory asks for it.
//!
//! Owns the lookup from a pod's specification to its template. Invariant: a template handed out is current.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::cluster::Cluster;
use super::labels::Selector;
use super::profile::Profile;
use super::spec::{AffinityTerm, PodSpec};
use super::template::{Identity, Template};
use super::terms::OwnTerms;

/// Node entries that all templates together may hold (about a hundred bytes each).
const MAX_NODE_ENTRIES: usize = 4_000_000;
/// Templates kept at least, however many nodes there are.
const MIN_TEMPLATES: usize = 8;
/// Remembered lookups before the memory of them is cleared.
const MAX_MEMO: usize = 20_000;

/// Versions of everything a resolution depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Versions {
    terms: u64,
    namespaces: u64,
    owners: u64,
}

#[derive(Debug)]
struct Memo {
    /// Keeps the address from being used again.
    _spec: Arc<PodSpec>,
    versions: Versions,
    identity: Identity,
}

#[derive(Debug)]
struct Slot {
    template: Template,
    used: u64,
    namespaces: u64,
    /// Namespace labels decide which pods its terms select.
    selects_namespaces: bool,
}

/// All templates.
#[derive(Debug, Default)]
pub struct Templates {
    slots: FxHashMap<Identity, Slot>,
    memo: FxHashMap<(usize, usize), Memo>,
    clock: u64,
    /// Templates built from nothing, for the benchmark table.
    pub builds: u64,
}

impl Templates {
    /// Number of templates held.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The current template of a pod.
    pub fn get(
        &mut self,
        spec: &Arc<PodSpec>,
        index: usize,
        profile: &Profile,
        cluster: &mut Cluster,
    ) -> &mut Template {
        let identity = self.identify(spec, index, profile, cluster);
        self.clock += 1;
        if !self.is_current(&identity, profile, cluster) {
            self.make_room(cluster.nodes.slots());
            self.builds += 1;
            let slot = Slot {
                namespaces: cluster.namespace_generation,
                selects_namespaces: selects_namespaces(&identity, cluster),
                template: Template::build(identity.clone(), profile, cluster),
                used: 0,
            };
            self.slots.insert(identity.clone(), slot);
        }
        let slot = self.slots.get_mut(&identity).expect("inserted above or found current");
        slot.used = self.clock;
        &mut slot.template
    }

    fn is_current(&mut self, identity: &Identity, profile: &Profile, cluster: &Cluster) -> bool {
        self.slots.get_mut(identity).is_some_and(|slot| {
            (!slot.selects_namespaces || slot.namespaces == cluster.namespace_generation)
                && slot.template.sync(profile, cluster)
        })
    }

    fn identify(
        &mut self,
        spec: &Arc<PodSpec>,
        index: usize,
        profile: &Profile,
        cluster: &Cluster,
    ) -> Identity {
        let versions = Versions {
            terms: cluster.terms_generation,
            namespaces: cluster.namespace_generation,
            owners: cluster.owner_generation,
        };
        let key = (Arc::as_ptr(spec) as usize, index);
        if let Some(memo) = self.memo.get(&key).filter(|m| m.versions == versions) {
            return memo.identity.clone();
        }
        let labels = cluster.namespace(&spec.class.namespace);
        let identity = Identity {
            profile: index,
            local: spec.local.clone(),
            own: Arc::new(OwnTerms::resolve(spec, profile, labels, cluster)),
            external: cluster.externals_matching(&spec.class).into(),
        };
        // Share the copies of the template that is there already: equal keys then compare by address first.
        let identity = self.slots.get(&identity).map_or(identity, |s| s.template.identity.clone());
        if self.memo.len() >= MAX_MEMO {
            self.memo.clear();
        }
        self.memo.insert(key, Memo { _spec: spec.clone(), versions, identity: identity.clone() });
        identity
    }

    fn make_room(&mut self, nodes: usize) {
        let limit = (MAX_NODE_ENTRIES / nodes.max(1)).max(MIN_TEMPLATES);
        while self.slots.len() >= limit {
            let oldest = self.slots.iter().min_by_key(|(_, s)| s.used).map(|(identity, _)| identity.clone());
            match oldest {
                Some(identity) => drop(self.slots.remove(&identity)),
                None => break,
            }
        }
    }
}

fn selects_namespaces(identity: &Identity, cluster: &Cluster) -> bool {
    let selects =
        |t: &AffinityTerm| t.namespace_selector != Selector::Nothing && !t.namespace_selector.is_everything();
    let own = &identity.own;
    own.affinity.iter().chain(&own.anti_affinity).chain(own.preferred.iter().map(|w| &w.term)).any(selects)
        || identity.external.iter().filter_map(|n| cluster.external(*n)).any(|t| selects(&t.term))
}
