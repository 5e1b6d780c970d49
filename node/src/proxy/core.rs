//! The service proxy's decisions: events in, table changes out.
//!
//! Only services touched since the last [`Core::sync`] are computed again; the ledger turns their new fragments into
//! the difference. Nothing is written before services and endpoints are known completely, so that a restart never
//! takes working rules away.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use jiff::Timestamp;
use rustc_hash::{FxHashMap, FxHashSet};

use super::{
    endpoints::{Place, backends},
    policy::{PolicyOwner, PolicyState},
    rules::{self, Arrangement, LocalDetector, Pool, Settings},
};
use crate::network::{
    feed::{Change, Event, Kind},
    nft::{Changes, Fragment, Ledger},
    view::{Family, Key, NodeView, Protocol, ServiceView, SliceView},
};

/// Who owns objects of the table.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Owner {
    /// Fixed chains.
    Base,
    /// A shared chain.
    Pool(Pool),
    /// A service.
    Service(Key),
    /// Network policy.
    Policy(PolicyOwner),
}

/// How the core is set up.
#[derive(Clone, Debug)]
pub struct CoreConfig {
    /// This node's name.
    pub node_name: String,
    /// What the rules depend on.
    pub settings: Settings,
    /// Take [`LocalDetector::Cidrs`] from the node's pod ranges.
    pub local_from_node: bool,
    /// Node ports answer on the node's internal addresses, as the Node object lists them.
    pub node_ports_on_node_ips: bool,
    /// Enforce network policies.
    pub policies: bool,
}

/// A UDP service's addresses and those who may answer for it: every other flow is stale.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UdpFront {
    /// Address family.
    pub family: Family,
    /// Service addresses.
    pub addresses: Vec<IpAddr>,
    /// Port on those addresses.
    pub port: u16,
    /// Port on the node.
    pub node_port: Option<u16>,
    /// Endpoints that still serve; never empty.
    pub serving: Vec<SocketAddr>,
}

/// What one synchronisation asks for.
#[derive(Debug, Default)]
pub struct Plan {
    /// To be written in one transaction.
    pub changes: Changes,
    /// UDP services that changed: to be checked for stale flows once the rules are written.
    pub udp: Vec<UdpFront>,
    /// When the endpoint changes in this plan began.
    pub triggered: Vec<Timestamp>,
}

#[derive(Debug, Default)]
struct ServiceState {
    view: Option<Arc<ServiceView>>,
    slices: Vec<Arc<SliceView>>,
    arrangement: Arrangement,
    pools: FxHashSet<Pool>,
    without_local_internal: [usize; 2],
    without_local_external: [usize; 2],
    local_ready: usize,
}

impl ServiceState {
    /// The service, when it is ours: another proxy answers for the others, on their health check ports too.
    fn proxied(&self) -> Option<&Arc<ServiceView>> {
        self.view.as_ref().filter(|view| view.is_proxied())
    }
}

/// State of the proxy.
#[derive(Debug)]
pub struct Core {
    config: CoreConfig,
    place: Place,
    node: Option<Arc<NodeView>>,
    services: FxHashMap<Key, ServiceState>,
    /// The service that each slice belongs to: a deletion names the slice only.
    slice_services: FxHashMap<Key, Key>,
    dirty: FxHashSet<Key>,
    pools: FxHashMap<Pool, usize>,
    policies: Option<PolicyState>,
    ledger: Ledger<Owner>,
    triggered: Vec<Timestamp>,
    settings_changed: bool,
    replace: bool,
    synced: FxHashSet<Kind>,
}

/// Trigger times kept between two writes: a burst beyond this loses samples of a metric, nothing else.
const TRIGGERED_MAX: usize = 10_000;

impl Core {
    /// A core that knows nothing yet; its first plan replaces the table.
    pub fn new(config: CoreConfig) -> Self {
        Self {
            place: Place { node: config.node_name.as_str().into(), zone: "".into() },
            policies: config.policies.then(|| PolicyState::new(&config.node_name)),
            config,
            node: None,
            services: FxHashMap::default(),
            slice_services: FxHashMap::default(),
            dirty: FxHashSet::default(),
            pools: FxHashMap::default(),
            ledger: Ledger::default(),
            triggered: Vec::new(),
            settings_changed: true,
            replace: true,
            synced: FxHashSet::default(),
        }
    }

    /// Takes an event in.
    pub fn handle(&mut self, event: &Event) {
        match event {
            Event::Service(change) => self.service_event(change),
            Event::Slice(change) => self.slice_event(change),
            Event::Node(change) => self.node_event(change),
            Event::Synced(kind) => {
                self.synced.insert(*kind);
            }
            Event::Namespace(change) => self.policies.iter_mut().for_each(|state| state.namespace(change)),
            Event::Policy(change) => self.policies.iter_mut().for_each(|state| state.policy(change)),
            Event::Pod(change) => self.policies.iter_mut().for_each(|state| state.pod(change)),
        }
    }

    /// True once rules may be written: services and endpoints are known.
    pub fn is_ready(&self) -> bool {
        self.knows(&[Kind::Service, Kind::Slice])
    }

    /// True once policies and what they select are known too. Writing the first table before that would open isolated
    /// pods for a moment at every restart.
    pub fn is_complete(&self) -> bool {
        let policies = self.policies.is_none() || self.knows(&[Kind::Policy, Kind::Namespace]);
        self.is_ready() && policies && (!self.needs_pods() || self.knows(&[Kind::Pod]))
    }

    fn knows(&self, kinds: &[Kind]) -> bool {
        kinds.iter().all(|kind| self.synced.contains(kind))
    }

    /// True once pods of the cluster have to be watched.
    pub fn needs_pods(&self) -> bool {
        self.policies.as_ref().is_some_and(PolicyState::needs_pods)
    }

    /// Services that wait for the next plan.
    pub fn pending(&self) -> usize {
        self.dirty.len()
    }

    /// True while load balancers should send traffic here: the node exists and stays.
    pub fn is_node_eligible(&self) -> bool {
        self.node.as_ref().is_some_and(|node| !node.leaving)
    }

    /// The next plan replaces the whole table: after a failure, or when somebody else touched it.
    pub fn replace_all(&mut self) {
        self.replace = true;
    }

    /// Services with a health check port: port and number of ready endpoints on this node.
    pub fn health_checks(&self) -> BTreeMap<Key, (u16, usize)> {
        let check = |(key, state): (&Key, &ServiceState)| {
            let port = state.proxied()?.health_check_node_port?;
            Some((key.clone(), (port, state.local_ready)))
        };
        self.services.iter().filter_map(check).collect()
    }

    /// Ports that policy "Local" leaves without endpoint on this node: inside and outside traffic, by family.
    pub fn without_local_endpoints(&self) -> ([usize; 2], [usize; 2]) {
        let mut total = ([0; 2], [0; 2]);
        for state in self.services.values() {
            for at in 0..2 {
                total.0[at] += state.without_local_internal[at];
                total.1[at] += state.without_local_external[at];
            }
        }
        total
    }

    /// Number of objects in the table.
    pub fn table_len(&self) -> usize {
        self.ledger.len()
    }

    /// Computes what has to be written now.
    pub fn sync(&mut self) -> Plan {
        if std::mem::take(&mut self.settings_changed) {
            self.ledger.set(Owner::Base, rules::base(&self.config.settings));
            for pool in self.pools.keys() {
                self.ledger.set(Owner::Pool(*pool), pool.fragment(&self.config.settings));
            }
            self.dirty.extend(self.services.keys().cloned());
        }
        let mut plan = Plan { triggered: std::mem::take(&mut self.triggered), ..Plan::default() };
        for key in std::mem::take(&mut self.dirty) {
            plan.udp.extend(self.sync_service(&key));
        }
        for (owner, fragment) in self.policies.iter_mut().flat_map(PolicyState::flush) {
            self.ledger.set(Owner::Policy(owner), fragment);
        }
        if std::mem::take(&mut self.replace) {
            // While the table was away, or a refused write kept the old one, flows began that no later change of
            // their service would find.
            plan.udp = self.udp_fronts();
            plan.changes = self.ledger.take_all();
        } else {
            plan.changes = self.ledger.take_changes();
        }
        plan
    }

    fn udp_fronts(&self) -> Vec<UdpFront> {
        let proxied = self.services.values().filter_map(|state| Some((state.proxied()?, &state.slices)));
        proxied.flat_map(|(view, slices)| udp_fronts(view, slices, &self.place)).collect()
    }

    fn sync_service(&mut self, key: &Key) -> Vec<UdpFront> {
        let Some(state) = self.services.get_mut(key) else { return Vec::new() };
        let view = state.proxied().cloned();
        let mut udp = Vec::new();
        let computed = match &view {
            Some(view) => {
                udp = udp_fronts(view, &state.slices, &self.place);
                rules::service(view, &state.slices, &self.place, &self.config.settings, &state.arrangement)
            }
            None => rules::ServiceRules::default(),
        };
        let pools = std::mem::replace(&mut state.pools, computed.pools.clone());
        state.arrangement = computed.arrangement;
        state.without_local_internal = computed.without_local_internal;
        state.without_local_external = computed.without_local_external;
        state.local_ready = computed.local_ready;
        if state.view.is_none() && state.slices.is_empty() {
            self.services.remove(key);
        }
        self.ledger.set(Owner::Service(key.clone()), computed.fragment);
        self.count_pools(&pools, &computed.pools);
        udp
    }

    fn count_pools(&mut self, before: &FxHashSet<Pool>, after: &FxHashSet<Pool>) {
        for pool in after.difference(before) {
            let users = self.pools.entry(*pool).or_insert(0);
            *users += 1;
            if *users == 1 {
                self.ledger.set(Owner::Pool(*pool), pool.fragment(&self.config.settings));
            }
        }
        for pool in before.difference(after) {
            let Some(users) = self.pools.get_mut(pool) else { continue };
            *users -= 1;
            if *users == 0 {
                self.pools.remove(pool);
                self.ledger.set(Owner::Pool(*pool), Fragment::default());
            }
        }
    }

    fn service_event(&mut self, change: &Change<ServiceView>) {
        match change {
            Change::Set(view) => {
                let state = self.services.entry(view.key.clone()).or_default();
                if state.view.as_ref() != Some(view) {
                    state.view = Some(view.clone());
                    self.dirty.insert(view.key.clone());
                }
            }
            Change::Gone(key) => {
                if let Some(state) = self.services.get_mut(key) {
                    state.view = None;
                    self.dirty.insert(key.clone());
                }
            }
        }
    }

    fn slice_event(&mut self, change: &Change<SliceView>) {
        match change {
            Change::Set(view) if view.not_proxied => self.drop_slice(&view.key),
            Change::Set(view) => self.put_slice(view),
            Change::Gone(key) => self.drop_slice(key),
        }
    }

    fn put_slice(&mut self, view: &Arc<SliceView>) {
        let service = view.service_key();
        if self.slice_services.get(&view.key).is_some_and(|known| *known != service) {
            self.drop_slice(&view.key);
        }
        let state = self.services.entry(service.clone()).or_default();
        match state.slices.iter_mut().find(|known| known.key == view.key) {
            Some(known) if known == view => return,
            Some(known) => *known = view.clone(),
            None => state.slices.push(view.clone()),
        }
        self.slice_services.insert(view.key.clone(), service.clone());
        if self.is_ready() && self.triggered.len() < TRIGGERED_MAX {
            self.triggered.extend(view.triggered);
        }
        self.dirty.insert(service);
    }

    fn drop_slice(&mut self, key: &Key) {
        let Some(service) = self.slice_services.remove(key) else { return };
        if let Some(state) = self.services.get_mut(&service) {
            state.slices.retain(|slice| slice.key != *key);
            self.dirty.insert(service);
        }
    }

    fn node_event(&mut self, change: &Change<NodeView>) {
        let node = match change {
            Change::Set(node) if node.name == self.place.node => node,
            Change::Gone(key) if key.name == self.place.node => {
                self.node = None;
                return;
            }
            _ => return,
        };
        if node.zone != self.place.zone {
            self.place.zone.clone_from(&node.zone);
            self.dirty.extend(self.services.keys().cloned());
        }
        let settings = &mut self.config.settings;
        if self.config.local_from_node && !node.pod_cidrs.is_empty() {
            let local = LocalDetector::Cidrs(node.pod_cidrs.clone());
            self.settings_changed |= settings.local != local;
            settings.local = local;
        }
        if settings.node_ips != node.internal_ips && !node.internal_ips.is_empty() {
            settings.node_ips.clone_from(&node.internal_ips);
            if self.config.node_ports_on_node_ips {
                settings.node_port_ips = Some(node.internal_ips.clone());
            }
            self.settings_changed = true;
        }
        self.node = Some(node.clone());
    }
}

fn udp_fronts(view: &ServiceView, slices: &[Arc<SliceView>], place: &Place) -> Vec<UdpFront> {
    let mut fronts = Vec::new();
    for port in view.ports.iter().filter(|port| port.protocol == Protocol::Udp) {
        for family in Family::ALL {
            let all = backends(slices.iter().map(|slice| &**slice), port, family, place);
            let serving: Vec<_> = all.iter().filter(|b| b.is_serving()).map(|b| b.at).collect();
            let addresses = view.cluster_ips.iter().chain(&view.external_ips).chain(&view.load_balancer_ips);
            let addresses: Vec<_> = addresses.copied().filter(|ip| Family::of(*ip) == family).collect();
            // Without endpoints the flows end by themselves: the rules reject what they send.
            if !serving.is_empty() && !addresses.is_empty() {
                fronts.push(UdpFront {
                    family,
                    addresses,
                    port: port.port,
                    node_port: port.node_port,
                    serving,
                });
            }
        }
    }
    fronts
}
