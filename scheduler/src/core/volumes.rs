//! The volume plugins: VolumeRestrictions, NodeVolumeLimits, VolumeBinding and VolumeZone for pods with claims.
//!
//! Owns their rules, texts and the plan of what to bind or provision on the chosen node. How many volumes a
//! node can attach is in `volume_limits`.

use std::collections::HashSet;
use std::sync::Arc;

use super::cluster::{Cluster, Uid};
use super::filter::{Overlay, VolumeFilter};
use super::labels::{Labels, NodeSelector};
use super::migration::Migrated;
use super::profile::{Plugin, Profile};
use super::spec::{ClaimRef, PodSpec};
use super::status::{self, Reason, Refusal};
use super::storage::{Claim, ClaimKey, Class, Storage, TopologyTerm, Volume, VolumeClaim};

const TOPOLOGY_LABELS: [(&str, &str); 4] = [
    ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
    ("topology.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("topology.kubernetes.io/region", "topology.kubernetes.io/region"),
];
/// The provisioner of classes that cannot provision.
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

/// What the API must be told before the pod can be bound.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VolumePlan {
    /// Volumes to reserve, with the claim and the volume's version.
    pub bind: Vec<(Arc<str>, VolumeClaim, u64)>,
    /// Claims whose volume is to be made for the node, with the claim's version.
    pub provision: Vec<(ClaimKey, u64)>,
    pub timeout_secs: i64,
}

/// Claims with the volume found for each, or none where one is to be made.
type Matches = Vec<(ClaimKey, Option<Arc<str>>)>;

#[derive(Clone, Debug)]
struct ZoneRule {
    key: &'static str,
    ga_key: &'static str,
    values: Vec<Box<str>>,
}

/// The claims of one pod, sorted out once a cycle.
#[derive(Clone, Debug)]
pub struct VolumeCycle {
    uid: Uid,
    pub(super) namespace: Arc<str>,
    pub(super) claims: Vec<ClaimRef>,
    /// Inline volumes that CSI drivers have taken over.
    pub(super) inline: Vec<Migrated>,
    bound: Vec<ClaimKey>,
    delayed: Vec<ClaimKey>,
    zones: Vec<ZoneRule>,
    exclusive: Vec<Arc<str>>,
    conflicts: i64,
    timeout_secs: i64,
}

/// A cycle together with the tables it reads.
pub struct OnStorage<'a> {
    pub(super) cycle: &'a VolumeCycle,
    pub(super) storage: &'a Storage,
    pub(super) cluster: &'a Cluster,
}

impl VolumeCycle {
    /// PreFilter of all volume plugins, in the profile's order.
    pub fn begin(
        uid: Uid,
        spec: &PodSpec,
        profile: &Profile,
        storage: &Storage,
        cluster: &Cluster,
    ) -> Result<Self, Refusal> {
        let mut cycle = VolumeCycle {
            uid,
            namespace: spec.class.namespace.clone(),
            claims: spec.claims.clone(),
            inline: spec.migrated.clone(),
            bound: Vec::new(),
            delayed: Vec::new(),
            zones: Vec::new(),
            exclusive: Vec::new(),
            conflicts: 0,
            timeout_secs: profile.args.volume_bind_timeout_secs,
        };
        for plugin in &profile.pre_filter {
            match plugin {
                Plugin::VolumeRestrictions => cycle.begin_restrictions(storage, cluster)?,
                Plugin::VolumeBinding => cycle.begin_binding(storage)?,
                Plugin::VolumeZone => cycle.begin_zone(storage)?,
                _ => {}
            }
        }
        Ok(cycle)
    }

    /// The cycle over the tables as they are.
    pub fn on<'a>(&'a self, storage: &'a Storage, cluster: &'a Cluster) -> OnStorage<'a> {
        OnStorage { cycle: self, storage, cluster }
    }

    fn plain_claims(&self) -> impl Iterator<Item = &ClaimRef> {
        self.claims.iter().filter(|c| !c.ephemeral)
    }

    fn find<'a>(&self, storage: &'a Storage, plugin: Plugin, name: &Arc<str>) -> Result<&'a Claim, Refusal> {
        storage.claim(&self.namespace, name).ok_or_else(|| {
            Refusal::unresolvable_text(plugin, format!("persistentvolumeclaim {name:?} not found"))
        })
    }

    fn begin_restrictions(&mut self, storage: &Storage, cluster: &Cluster) -> Result<(), Refusal> {
        let mut exclusive = Vec::new();
        for claim in self.plain_claims() {
            let found = self.find(storage, Plugin::VolumeRestrictions, &claim.name)?;
            if found.access_modes.iter().any(|m| &**m == "ReadWriteOncePod") {
                exclusive.push(claim.name.clone());
            }
        }
        exclusive.dedup();
        self.conflicts =
            exclusive.iter().filter(|n| cluster.is_claim_used(&self.namespace, n)).count() as i64;
        self.exclusive = exclusive;
        Ok(())
    }

    fn begin_binding(&mut self, storage: &Storage) -> Result<(), Refusal> {
        let plugin = Plugin::VolumeBinding;
        let refuse = |text: String| Refusal::unresolvable_text(plugin, text);
        for claim in &self.claims {
            let name = &claim.name;
            let Some(found) = storage.claim(&self.namespace, name) else {
                return Err(refuse(if claim.ephemeral {
                    format!(
                        "waiting for ephemeral volume controller to create the persistentvolumeclaim {name:?}"
                    )
                } else {
                    format!("persistentvolumeclaim {name:?} not found")
                }));
            };
            if found.lost {
                let volume = &found.volume;
                return Err(refuse(format!(
                    "persistentvolumeclaim {name:?} bound to non-existent persistentvolume {volume:?}"
                )));
            }
            if found.terminating {
                return Err(refuse(format!("persistentvolumeclaim {name:?} is being deleted")));
            }
            if claim.ephemeral && Uid::new(&found.owner) != self.uid {
                let namespace = &self.namespace;
                return Err(refuse(format!(
                    "PVC {namespace}/{name} was not created for the pod (pod is not owner)"
                )));
            }
        }
        let mut immediate = false;
        for claim in self.claims.clone() {
            let Some(found) = storage.claim(&self.namespace, &claim.name) else { continue };
            let key = (self.namespace.clone(), claim.name.clone());
            if !found.volume.is_empty() && found.bound {
                self.bound.push(key);
            } else if waits_for_consumer(found, storage) && found.volume.is_empty() {
                self.delayed.push(key);
            } else {
                immediate = true;
            }
        }
        if immediate {
            return Err(Refusal::unresolvable(plugin, "pod has unbound immediate PersistentVolumeClaims"));
        }
        Ok(())
    }

    fn begin_zone(&mut self, storage: &Storage) -> Result<(), Refusal> {
        let plugin = Plugin::VolumeZone;
        let refuse = |text: String| Err(Refusal::unresolvable_text(plugin, text));
        let mut zones = Vec::new();
        for claim in self.plain_claims() {
            let found = self.find(storage, plugin, &claim.name)?;
            if found.volume.is_empty() {
                if found.class.is_empty() {
                    return refuse("PersistentVolumeClaim had no pv name and storageClass name".to_owned());
                }
                let Some(class) = storage.classes.get(&found.class) else {
                    let class = &found.class;
                    return refuse(format!("storageclass.storage.k8s.io {class:?} not found"));
                };
                match class.waits_for_consumer {
                    Some(true) => continue,
                    Some(false) => return refuse("PersistentVolume had no name".to_owned()),
                    None => {
                        return refuse(format!(
                            "VolumeBindingMode not set for StorageClass {:?}",
                            class.name
                        ));
                    }
                }
            }
            let Some(volume) = storage.volumes.get(&*found.volume) else {
                return refuse(format!("persistentvolume {:?} not found", found.volume));
            };
            zones.extend(zone_rules(&volume.labels));
        }
        self.zones = zones;
        Ok(())
    }

    /// What to do for the chosen node; assumes it in the tables. `None` when every volume is bound.
    pub fn plan(self, node: u32, storage: &mut Storage, cluster: &Cluster) -> Option<VolumePlan> {
        let name = cluster.nodes.nodes[node as usize].name.clone();
        let labels = cluster.nodes.nodes[node as usize].labels.clone();
        let found = self.match_delayed(storage, &name, &labels).ok()?;
        if found.is_empty() {
            return None;
        }
        let mut plan = VolumePlan { timeout_secs: self.timeout_secs, ..VolumePlan::default() };
        for (key, volume) in found {
            let Some(claim) = storage.claims.get(&key) else { continue };
            let (uid, version) = (claim.uid.clone(), claim.version);
            match volume {
                Some(volume) => {
                    let volume_version = storage.volumes.get(&volume).map_or(0, |v| v.version);
                    let claim = VolumeClaim { namespace: key.0.clone(), name: key.1.clone(), uid };
                    storage.assume_volume(self.uid, &volume, claim.clone());
                    plan.bind.push((volume, claim, volume_version));
                }
                None => {
                    storage.assume_node(self.uid, &key, &name);
                    plan.provision.push((key, version));
                }
            }
        }
        Some(plan)
    }

    /// A volume for each delayed claim, or `None` where one is to be made. Errors are the reasons of the node.
    fn match_delayed(&self, storage: &Storage, node: &str, labels: &Labels) -> Result<Matches, &'static str> {
        let mut to_match: Vec<&Claim> = Vec::new();
        let mut found = Matches::new();
        let mut to_make: Vec<&Claim> = Vec::new();
        for claim in self.delayed.iter().filter_map(|key| storage.claims.get(key)) {
            match &claim.selected_node {
                Some(selected) if **selected != *node => return Err(status::VOLUME_BIND),
                Some(_) => to_make.push(claim),
                None => to_match.push(claim),
            }
        }
        to_match.sort_by_key(|c| c.request);
        let mut chosen: HashSet<Arc<str>> = HashSet::new();
        for claim in to_match {
            match find_volume(claim, storage, labels, &chosen) {
                Some(volume) => {
                    chosen.insert(volume.name.clone());
                    found.push(((claim.namespace.clone(), claim.name.clone()), Some(volume.name.clone())));
                }
                None => to_make.push(claim),
            }
        }
        for claim in to_make {
            can_provision(claim, storage, labels)?;
            found.push(((claim.namespace.clone(), claim.name.clone()), None));
        }
        Ok(found)
    }
}

impl VolumeFilter for OnStorage<'_> {
    fn refuse(&self, plugin: Plugin, node: u32, overlay: Option<&Overlay>) -> Option<Refusal> {
        match plugin {
            Plugin::VolumeRestrictions => self.refuse_exclusive(overlay),
            Plugin::NodeVolumeLimits => self.refuse_count(node, overlay),
            Plugin::VolumeBinding => self.refuse_binding(node),
            Plugin::VolumeZone => self.refuse_zone(node),
            _ => None,
        }
    }
}

impl OnStorage<'_> {
    /// A ReadWriteOncePod claim is in use, unless its user is among the pods taken away.
    fn refuse_exclusive(&self, overlay: Option<&Overlay>) -> Option<Refusal> {
        let mut conflicts = self.cycle.conflicts;
        for pod in overlay.map_or(&[][..], Overlay::removed).iter().filter_map(|p| self.cluster.pod(*p)) {
            let frees = |c: &&ClaimRef| !c.ephemeral && self.cycle.exclusive.contains(&c.name);
            conflicts -= pod.spec.claims.iter().filter(frees).count() as i64;
        }
        (conflicts > 0)
            .then(|| Refusal::unschedulable(Plugin::VolumeRestrictions, status::READ_WRITE_ONCE_POD))
    }

    fn refuse_binding(&self, node: u32) -> Option<Refusal> {
        let have = &self.cluster.nodes.nodes[node as usize];
        let mut reasons: Vec<&'static str> = Vec::new();
        for key in &self.cycle.bound {
            let claim = self.storage.claims.get(key)?;
            match self.storage.volumes.get(&*claim.volume) {
                None => {
                    reasons.push(status::VOLUME_GONE);
                    break;
                }
                Some(volume) if !self.is_reachable(volume, node) => {
                    reasons.push(status::VOLUME_NODE);
                    break;
                }
                Some(_) => {}
            }
        }
        if let Err(reason) = self.cycle.match_delayed(self.storage, &have.name, &have.labels) {
            let at = reasons.iter().position(|r| *r == status::VOLUME_GONE).unwrap_or(reasons.len());
            reasons.insert(at, reason);
        }
        let mut refusal = Refusal::unresolvable(Plugin::VolumeBinding, reasons.first()?);
        refusal.reasons.extend(reasons[1..].iter().map(|r| Reason::Static(r)));
        Some(refusal)
    }

    /// Whether a bound volume can be used on the node; where the node has handed the volume's plugin over to a CSI
    /// driver, the driver's topology counts.
    fn is_reachable(&self, volume: &Volume, node: u32) -> bool {
        let have = &self.cluster.nodes.nodes[node as usize];
        let annotation = self.storage.csi_nodes.get(&have.name).map_or("", |n| &n.migrated);
        match volume.migrated.as_ref().filter(|m| m.plugin.is_migrated_on(annotation)) {
            Some(migrated) => fits(migrated.nodes.as_ref(), &have.labels),
            None => admits(volume, &have.labels),
        }
    }

    fn refuse_zone(&self, node: u32) -> Option<Refusal> {
        let labels = &self.cluster.nodes.nodes[node as usize].labels;
        if self.cycle.zones.is_empty() || !TOPOLOGY_LABELS.iter().any(|(key, _)| labels.get(key).is_some()) {
            return None;
        }
        let fits = |rule: &ZoneRule| {
            let have = labels.get(rule.key).or_else(|| labels.get(rule.ga_key));
            have.is_some_and(|v| rule.values.iter().any(|zone| **zone == *v))
        };
        (!self.cycle.zones.iter().all(fits))
            .then(|| Refusal::unresolvable(Plugin::VolumeZone, status::VOLUME_ZONE))
    }
}

fn waits_for_consumer(claim: &Claim, storage: &Storage) -> bool {
    let class: Option<&Class> = storage.classes.get(&claim.class).filter(|_| !claim.class.is_empty());
    class.is_some_and(|c| c.waits_for_consumer == Some(true))
}

fn zone_rules(labels: &Labels) -> impl Iterator<Item = ZoneRule> + '_ {
    TOPOLOGY_LABELS.iter().filter_map(|(key, ga_key)| {
        let values: Vec<Box<str>> = labels.get(key)?.split("__").map(|z| z.trim().into()).collect();
        (!values.iter().any(|z| z.is_empty())).then_some(ZoneRule { key, ga_key, values })
    })
}

fn admits(volume: &Volume, labels: &Labels) -> bool {
    fits(volume.nodes.as_ref(), labels)
}

fn fits(nodes: Option<&NodeSelector>, labels: &Labels) -> bool {
    nodes.is_none_or(|terms| terms.iter().any(|t| t.matches("", labels)))
}

fn is_reserved_for(volume: &Volume, claim: &Claim) -> bool {
    volume.claim.as_ref().is_some_and(|c| {
        c.namespace == claim.namespace && c.name == claim.name && (c.uid.is_empty() || c.uid == claim.uid)
    })
}

/// The volume reserved for the claim, or the smallest free one that will do.
fn find_volume<'a>(
    claim: &Claim,
    storage: &'a Storage,
    labels: &Labels,
    chosen: &HashSet<Arc<str>>,
) -> Option<&'a Volume> {
    let mut best: Option<&Volume> = None;
    for volume in storage.volumes.values().filter(|v| v.class == claim.class) {
        let reserved = is_reserved_for(volume, claim);
        if chosen.contains(&volume.name)
            || (volume.claim.is_some() && !reserved)
            || volume.capacity < claim.request
            || volume.is_block != claim.is_block
            || volume.attributes_class != claim.attributes_class
            || volume.terminating
        {
            continue;
        }
        let fits_node = admits(volume, labels);
        if reserved {
            return Some(volume).filter(|_| fits_node);
        }
        let usable = volume.available
            && claim.selector.as_ref().is_none_or(|s| s.matches(&volume.labels))
            && fits_node
            && claim.access_modes.iter().all(|m| volume.access_modes.contains(m));
        let better = |b: &Volume| (volume.capacity, &volume.name) < (b.capacity, &b.name);
        if usable && best.is_none_or(better) {
            best = Some(volume);
        }
    }
    best
}

fn can_provision(claim: &Claim, storage: &Storage, labels: &Labels) -> Result<(), &'static str> {
    let class = storage.classes.get(&claim.class).ok_or(status::VOLUME_BIND)?;
    if class.provisioner.is_empty() || &*class.provisioner == NO_PROVISIONER {
        return Err(status::VOLUME_BIND);
    }
    let term_matches = |term: &TopologyTerm| {
        !term.is_empty()
            && term
                .iter()
                .all(|(key, values)| labels.get(key).is_some_and(|v| values.iter().any(|x| **x == *v)))
    };
    if !class.topologies.is_empty() && !class.topologies.iter().any(term_matches) {
        return Err(status::VOLUME_BIND);
    }
    let tracked = storage.drivers.get(&class.provisioner).copied().unwrap_or(false);
    if !claim.has_request || !tracked {
        return Ok(());
    }
    let enough = storage.capacities.values().any(|c| {
        c.class == class.name
            && c.limit.is_some_and(|limit| limit >= claim.request)
            && c.nodes.as_ref().is_some_and(|s| s.matches(labels))
    });
    if enough { Ok(()) } else { Err(status::VOLUME_SPACE) }
}
