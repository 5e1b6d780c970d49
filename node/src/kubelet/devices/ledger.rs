//! Which devices there are and which container has which. Pure.
//!
//! Invariants: a device belongs to at most one container; a container keeps its devices as long as its pod is known,
//! through every restart of the container; only healthy devices are given out.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// One device of a plugin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// It may be given out.
    pub healthy: bool,
    /// The memory nodes it is near to.
    pub numa_nodes: Vec<i64>,
}

/// Devices of one resource by their ids.
pub type Devices = BTreeMap<String, Device>;

/// Pod uid and container name.
pub type Owner = (String, String);

/// What one container has: ids by resource.
pub type Held = BTreeMap<String, BTreeSet<String>>;

/// There are not enough devices. The text is upstream's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "requested number of devices unavailable for {resource}. Requested: {requested}, Available: {available}"
)]
pub struct Shortage {
    resource: String,
    requested: usize,
    available: usize,
}

/// What a container lacks of one resource: ids to choose from, those it already has, and how many it needs in all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Free healthy devices, and those that are held already.
    pub available: BTreeSet<String>,
    /// Devices the container holds already.
    pub must: BTreeSet<String>,
    /// How many it needs.
    pub size: usize,
}

/// The books.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct Ledger {
    #[serde(skip)]
    resources: BTreeMap<String, Devices>,
    /// Resources that plugins have spoken for: an agent that starts anew knows them before their plugins are back, and
    /// starts no container without its devices.
    #[serde(default)]
    registered: BTreeSet<String>,
    held: Vec<(Owner, Held)>,
}

impl Ledger {
    /// Takes a plugin's list; true if nobody spoke for the resource before.
    pub fn set(&mut self, resource: &str, devices: Devices) -> bool {
        self.resources.insert(resource.to_owned(), devices);
        self.registered.insert(resource.to_owned())
    }

    /// A plugin is away: its devices stay, but none is given out.
    pub fn stop(&mut self, resource: &str) {
        for device in self.resources.get_mut(resource).into_iter().flat_map(BTreeMap::values_mut) {
            device.healthy = false;
        }
    }

    /// A plugin is gone for good.
    pub fn remove(&mut self, resource: &str) {
        self.resources.remove(resource);
        self.registered.remove(resource);
    }

    /// True if a plugin has ever spoken for the resource, to this agent or to the one before.
    pub fn knows(&self, resource: &str) -> bool {
        self.registered.contains(resource) || self.held.iter().any(|(_, held)| held.contains_key(resource))
    }

    /// Name, all devices and healthy devices of every resource.
    pub fn totals(&self) -> Vec<(String, u64, u64)> {
        let count = |devices: &Devices| devices.values().filter(|d| d.healthy).count() as u64;
        self.resources.iter().map(|(name, d)| (name.clone(), d.len() as u64, count(d))).collect()
    }

    /// The devices of one resource.
    pub fn devices(&self, resource: &str) -> Option<&Devices> {
        self.resources.get(resource)
    }

    /// Every resource.
    pub fn resources(&self) -> impl Iterator<Item = (&String, &Devices)> {
        self.resources.iter()
    }

    /// What a container holds.
    pub fn held(&self, owner: &Owner) -> Option<&Held> {
        self.held.iter().find(|(o, _)| o == owner).map(|(_, held)| held)
    }

    /// Forgets pods that are gone.
    pub fn keep(&mut self, is_there: impl Fn(&str) -> bool) {
        self.held.retain(|((uid, _), _)| is_there(uid));
    }

    /// What may be chosen for a container that needs `size` devices of the resource; `None` if it has them all.
    pub fn choice(&self, owner: &Owner, resource: &str, size: usize) -> Result<Option<Choice>, Shortage> {
        let must = self.held(owner).and_then(|held| held.get(resource)).cloned().unwrap_or_default();
        if must.len() >= size {
            return Ok(None);
        }
        let taken: BTreeSet<&String> =
            self.held.iter().filter_map(|(_, held)| held.get(resource)).flatten().collect();
        let devices = self.resources.get(resource).into_iter().flatten();
        let free = devices.filter(|(id, d)| d.healthy && !taken.contains(id)).map(|(id, _)| id.clone());
        let mut available: BTreeSet<String> = free.collect();
        if available.len() < size - must.len() {
            let resource = resource.to_owned();
            return Err(Shortage { resource, requested: size - must.len(), available: available.len() });
        }
        available.extend(must.iter().cloned());
        Ok(Some(Choice { available, must, size }))
    }

    /// Gives devices to a container: the preferred ones as far as they may be chosen, then the first.
    pub fn give(
        &mut self,
        owner: &Owner,
        resource: &str,
        choice: &Choice,
        preferred: &[String],
    ) -> BTreeSet<String> {
        let wanted = preferred.iter().filter(|id| choice.available.contains(*id));
        let all = choice.must.iter().chain(wanted).chain(&choice.available);
        let mut chosen = BTreeSet::new();
        for id in all {
            if chosen.len() < choice.size {
                chosen.insert(id.clone());
            }
        }
        if !self.held.iter().any(|(o, _)| o == owner) {
            self.held.push((owner.clone(), Held::new()));
        }
        if let Some((_, held)) = self.held.iter_mut().find(|(o, _)| o == owner) {
            held.insert(resource.to_owned(), chosen.clone());
        }
        chosen
    }

    /// Takes back what a container was given of a resource: the plugin refused.
    pub fn take_back(&mut self, owner: &Owner, resource: &str) {
        if let Some((_, held)) = self.held.iter_mut().find(|(o, _)| o == owner) {
            held.remove(resource);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(ids: &[(&str, bool)]) -> Ledger {
        let mut ledger = Ledger::default();
        let device = |healthy: bool| Device { healthy, numa_nodes: vec![] };
        let _ =
            ledger.set("x/y", ids.iter().map(|(id, healthy)| ((*id).to_owned(), device(*healthy))).collect());
        ledger
    }

    fn owner(uid: &str) -> Owner {
        (uid.to_owned(), "c".to_owned())
    }

    fn give(
        ledger: &mut Ledger,
        uid: &str,
        size: usize,
        preferred: &[&str],
    ) -> Result<Vec<String>, Shortage> {
        let preferred: Vec<String> = preferred.iter().map(|id| (*id).to_owned()).collect();
        let Some(choice) = ledger.choice(&owner(uid), "x/y", size)? else {
            return Ok(vec!["has them".to_owned()]);
        };
        Ok(ledger.give(&owner(uid), "x/y", &choice, &preferred).into_iter().collect())
    }

    #[test]
    fn every_device_has_one_owner_and_restarts_keep_theirs() {
        let mut ledger = ledger(&[("a", true), ("b", true), ("c", true), ("sick", false)]);
        assert_eq!(give(&mut ledger, "1", 1, &["b", "nonsense"]), Ok(vec!["b".to_owned()]));
        assert_eq!(give(&mut ledger, "1", 1, &[]), Ok(vec!["has them".to_owned()]));
        assert_eq!(give(&mut ledger, "2", 2, &[]), Ok(vec!["a".to_owned(), "c".to_owned()]));
        let shortage = Shortage { resource: "x/y".into(), requested: 1, available: 0 };
        assert_eq!(give(&mut ledger, "3", 1, &[]), Err(shortage));
        ledger.keep(|uid| uid != "1");
        assert_eq!(give(&mut ledger, "3", 1, &[]), Ok(vec!["b".to_owned()]));
        ledger.take_back(&owner("3"), "x/y");
        assert_eq!(give(&mut ledger, "4", 1, &[]), Ok(vec!["b".to_owned()]));
    }

    #[test]
    fn a_stopped_plugin_keeps_its_capacity_for_a_while() {
        let mut ledger = ledger(&[("a", true), ("sick", false)]);
        assert_eq!(ledger.totals(), [("x/y".to_owned(), 2, 1)]);
        ledger.stop("x/y");
        assert_eq!(ledger.totals(), [("x/y".to_owned(), 2, 0)]);
        assert!(give(&mut ledger, "1", 1, &[]).is_err());
        ledger.remove("x/y");
        assert_eq!(ledger.totals(), []);
    }

    #[test]
    fn the_next_agent_knows_what_plugins_have_spoken_for() {
        let mut first = ledger(&[("a", true), ("b", true)]);
        assert_eq!(give(&mut first, "1", 1, &[]), Ok(vec!["a".to_owned()]));
        let reread = |ledger: &Ledger| {
            let text = serde_json::to_vec(ledger).expect("written");
            serde_json::from_slice::<Ledger>(&text).expect("read")
        };
        let mut next = reread(&first);
        assert!(next.knows("x/y"));
        assert!(give(&mut next, "2", 1, &[]).is_err(), "not without its plugin");
        assert_eq!(give(&mut next, "1", 1, &[]), Ok(vec!["has them".to_owned()]));
        first.keep(|_| false);
        first.remove("x/y");
        assert!(!reread(&first).knows("x/y"), "gone for good");
        // Books of an agent that did not note plugins.
        let old = r#"{"held": [[["1", "c"], {"x/y": ["a"]}]]}"#;
        assert!(serde_json::from_str::<Ledger>(old).expect("read").knows("x/y"));
    }
}
