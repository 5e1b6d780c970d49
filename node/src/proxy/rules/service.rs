//! The objects of one service.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use rustc_hash::{FxHashMap, FxHashSet};

use super::{
    Front, List, Pool, Settings,
    affinity::{Sticky, unique_name},
    base::{REJECT_CHAIN, ip},
    pool::{endpoint_map, external_local_rules, external_rules},
};
use crate::{
    network::{
        nft::Fragment,
        view::{Family, PortView, ServiceView, SliceView},
    },
    proxy::{
        arrange::arrange,
        endpoints::{Choice, Place, backends, choose},
    },
};

/// Endpoint numbers of the previous run, by family, position of the port and list.
pub type Arrangement = FxHashMap<(Family, usize, List), Vec<SocketAddr>>;

/// What a service puts into the table, and what else follows from it.
#[derive(Debug, Default)]
pub struct ServiceRules {
    /// Its own objects.
    pub fragment: Fragment,
    /// Shared chains that its elements name.
    pub pools: FxHashSet<Pool>,
    /// Numbers of the endpoints, to be passed to the next run.
    pub arrangement: Arrangement,
    /// Ports where policy "Local" leaves inside traffic without endpoint, by family.
    pub without_local_internal: [usize; 2],
    /// Ports where policy "Local" leaves outside traffic without endpoint, by family.
    pub without_local_external: [usize; 2],
    /// Ready endpoints on this node, for the load balancers' health check.
    pub local_ready: usize,
}

/// Computes the rules of one service. `before` is the arrangement of the previous run.
pub fn service(
    service: &ServiceView,
    slices: &[Arc<SliceView>],
    place: &Place,
    settings: &Settings,
    before: &Arrangement,
) -> ServiceRules {
    let mut rules = ServiceRules { local_ready: local_ready(slices, place), ..ServiceRules::default() };
    for family in Family::ALL {
        let Some(cluster_ip) = service.cluster_ips.iter().copied().find(|ip| Family::of(*ip) == family)
        else {
            continue;
        };
        for (position, port) in service.ports.iter().enumerate() {
            let mut writer = PortWriter::new(&mut rules, service, port, family, cluster_ip, settings);
            let all = backends(slices.iter().map(|slice| &**slice), port, family, place);
            let uses_cluster = !service.internal_local || writer.is_external();
            let uses_local = service.internal_local || (service.external_local && writer.is_external());
            let choice = choose(&all, uses_cluster, uses_local, place);
            writer.number(before, position, &choice);
            writer.write(&choice);
        }
    }
    rules
}

fn local_ready(slices: &[Arc<SliceView>], place: &Place) -> usize {
    let all = slices.iter().flat_map(|slice| &slice.endpoints);
    let mine = all.filter(|endpoint| endpoint.ready && endpoint.node.as_deref() == Some(&*place.node));
    mine.map(|endpoint| endpoint.ip).collect::<FxHashSet<_>>().len()
}

struct PortWriter<'a> {
    rules: &'a mut ServiceRules,
    service: &'a ServiceView,
    port: &'a PortView,
    family: Family,
    cluster_ip: IpAddr,
    external_ips: Vec<IpAddr>,
    load_balancer_ips: Vec<IpAddr>,
    settings: &'a Settings,
    id: String,
    cluster: Vec<SocketAddr>,
    local: Vec<SocketAddr>,
}

impl<'a> PortWriter<'a> {
    fn new(
        rules: &'a mut ServiceRules,
        service: &'a ServiceView,
        port: &'a PortView,
        family: Family,
        cluster_ip: IpAddr,
        settings: &'a Settings,
    ) -> Self {
        let of_family = |ips: &[IpAddr]| ips.iter().copied().filter(|ip| Family::of(*ip) == family).collect();
        Self {
            external_ips: of_family(&service.external_ips),
            load_balancer_ips: of_family(&service.load_balancer_ips),
            id: format!("{}/{}/{}/{}", service.key.namespace, service.key.name, port.protocol, port.name),
            cluster: Vec::new(),
            local: Vec::new(),
            rules,
            service,
            port,
            family,
            cluster_ip,
            settings,
        }
    }

    fn is_external(&self) -> bool {
        self.port.node_port.is_some() || !self.external_ips.is_empty() || !self.load_balancer_ips.is_empty()
    }

    fn number(&mut self, before: &Arrangement, position: usize, choice: &Choice) {
        for (list, wanted) in [(List::Cluster, &choice.cluster), (List::Local, &choice.local)] {
            if wanted.is_empty() {
                continue;
            }
            let key = (self.family, position, list);
            let numbered = arrange(before.get(&key).map(Vec::as_slice).unwrap_or_default(), wanted);
            match list {
                List::Cluster => self.cluster.clone_from(&numbered),
                List::Local => self.local.clone_from(&numbered),
            }
            self.rules.arrangement.insert(key, numbered);
        }
    }

    fn write(&mut self, choice: &Choice) {
        let has_internal = choice.any && !(self.service.internal_local && choice.local.is_empty());
        let has_external = choice.any && !(self.service.external_local && choice.local.is_empty());
        let at = usize::from(self.family == Family::V6);
        self.rules.without_local_internal[at] += usize::from(choice.any && !has_internal);
        self.rules.without_local_external[at] +=
            usize::from(choice.any && !has_external && self.is_external());
        let verdict = if choice.any { "drop".to_owned() } else { format!("goto {REJECT_CHAIN}") };

        self.element("cluster-ips", self.cluster_ip.to_string());
        self.hairpin(choice);
        let targets = if choice.any { Targets::of(self) } else { Targets::default() };
        self.internal(has_internal, &targets, &verdict);
        if self.is_external() {
            self.external(choice.any, has_external, &targets, &verdict);
            self.source_ranges();
        }
    }

    fn internal(&mut self, has_endpoints: bool, targets: &Targets, verdict: &str) {
        let key = self.address_key(self.cluster_ip);
        let list = if self.service.internal_local { List::Local } else { List::Cluster };
        match targets.internal.as_ref().filter(|_| has_endpoints) {
            Some(target) => {
                let target = target.use_it(self.rules);
                self.entry("service-ips", key.clone(), format!("goto {target}"));
                self.endpoints(Front::Address, list, &key);
            }
            None => self.entry("no-endpoint-services", key, verdict.to_owned()),
        }
    }

    fn external(&mut self, any: bool, has_external: bool, targets: &Targets, verdict: &str) {
        let addresses: Vec<_> = self.external_ips.iter().chain(&self.load_balancer_ips).copied().collect();
        let mut fronts: Vec<_> =
            addresses.into_iter().map(|address| (Front::Address, self.address_key(address))).collect();
        fronts.extend(
            self.port.node_port.map(|port| (Front::NodePort, format!("{} . {port}", self.port.protocol))),
        );
        for (front, key) in fronts {
            let (reached, missing) = match front {
                Front::Address => ("service-ips", "no-endpoint-services"),
                Front::NodePort => ("service-nodeports", "no-endpoint-nodeports"),
            };
            let target = match front {
                Front::Address => &targets.external,
                Front::NodePort => &targets.node_port,
            };
            if let Some(target) = target.as_ref().filter(|_| any) {
                let target = target.use_it(self.rules);
                self.entry(reached, key.clone(), format!("goto {target}"));
                self.endpoints(front, List::Cluster, &key);
                if self.service.external_local {
                    self.endpoints(front, List::Local, &key);
                }
            }
            if !has_external {
                self.entry(missing, key, verdict.to_owned());
            }
        }
    }

    /// Puts endpoint number k of a list into map k. Services with affinity name their endpoints in chains instead.
    fn endpoints(&mut self, front: Front, list: List, key: &str) {
        if self.service.affinity_secs.is_some() {
            return;
        }
        let endpoints = match list {
            List::Cluster => &self.cluster,
            List::Local => &self.local,
        };
        for (index, endpoint) in endpoints.iter().enumerate() {
            let map: Arc<str> = endpoint_map(self.family, front, list, index).into();
            self.rules.fragment.entry(&map, key, format!("{} . {}", endpoint.ip(), endpoint.port()));
        }
    }

    fn hairpin(&mut self, choice: &Choice) {
        for endpoint in &choice.on_this_node {
            let (ip, port) = (endpoint.ip(), endpoint.port());
            self.element("hairpin", format!("{ip} . {ip} . {} . {port}", self.port.protocol));
        }
    }

    fn source_ranges(&mut self) {
        let of_family = self.service.source_ranges.iter().filter(|net| Family::of(net.addr()) == self.family);
        let mut sources: Vec<String> = of_family.map(ToString::to_string).collect();
        // Ranges of one family say nothing about the other one: upstream keeps them apart as well.
        if sources.is_empty() || self.load_balancer_ips.is_empty() {
            return;
        }
        let from_node = self.settings.node_ips.iter().any(|ip| {
            Family::of(*ip) == self.family && self.service.source_ranges.iter().any(|net| net.contains(ip))
        });
        if from_node {
            // A load balancer address may be local; then the node reaches it with that address as its source.
            sources.extend(self.load_balancer_ips.iter().map(ToString::to_string));
        }
        let chain = unique_name(&format!("firewall{}", self.family.digit()), &self.id);
        let rule = format!("{} saddr != {{ {} }} drop", ip(self.family), disjoint(&sources).join(", "));
        self.rules.fragment.chain(&chain, None, vec![rule]);
        for address in self.load_balancer_ips.clone() {
            self.entry("firewall-ips", self.address_key(address), format!("goto {chain}"));
        }
    }

    fn address_key(&self, address: IpAddr) -> String {
        format!("{address} . {} . {}", self.port.protocol, self.port.port)
    }

    fn element(&mut self, set: &str, key: String) {
        self.rules.fragment.element(&format!("{set}{}", self.family.digit()).into(), key);
    }

    fn entry(&mut self, map: &str, key: String, value: String) {
        self.rules.fragment.entry(&format!("{map}{}", self.family.digit()).into(), key, value);
    }
}

/// A chain to send traffic to: shared, or already part of the service's fragment.
enum Target {
    Shared(Pool),
    Own(Arc<str>),
}

impl Target {
    fn use_it(&self, rules: &mut ServiceRules) -> Arc<str> {
        match self {
            Self::Own(chain) => chain.clone(),
            Self::Shared(pool) => {
                rules.pools.extend(pool.needs());
                rules.pools.insert(*pool);
                pool.chain()
            }
        }
    }
}

/// Where each kind of traffic goes.
#[derive(Default)]
struct Targets {
    internal: Option<Target>,
    external: Option<Target>,
    node_port: Option<Target>,
}

impl Targets {
    fn of(writer: &mut PortWriter<'_>) -> Self {
        match writer.service.affinity_secs {
            Some(secs) => Self::sticky(writer, secs),
            None => Self::shared(writer),
        }
    }

    fn shared(writer: &PortWriter<'_>) -> Self {
        let family = writer.family;
        let (cluster, local) = (writer.cluster.len(), writer.local.len());
        let (list, count) = match writer.service.internal_local {
            true => (List::Local, local),
            false => (List::Cluster, cluster),
        };
        let internal =
            (count > 0).then_some(Target::Shared(Pool::Pick { family, front: Front::Address, list, count }));
        let external = |front| match writer.service.external_local {
            true => Some(Target::Shared(Pool::ExternalLocal { family, front, cluster, local })),
            false if cluster == 0 => None,
            false => Some(Target::Shared(Pool::External { family, front, count: cluster })),
        };
        Self { internal, external: external(Front::Address), node_port: external(Front::NodePort) }
    }

    fn sticky(writer: &mut PortWriter<'_>, secs: u32) -> Self {
        let sticky = Sticky { id: &writer.id, protocol: writer.port.protocol, family: writer.family, secs };
        let fragment = &mut writer.rules.fragment;
        let mut add = |list, endpoints: &[SocketAddr]| {
            (!endpoints.is_empty()).then(|| sticky.add(fragment, list, endpoints))
        };
        let cluster = add(List::Cluster, &writer.cluster);
        let local = add(List::Local, &writer.local);
        let internal = if writer.service.internal_local { local.clone() } else { cluster.clone() };
        let rules = match (writer.service.external_local, &cluster) {
            (true, _) => {
                external_local_rules(writer.settings, writer.family, cluster.as_deref(), local.as_deref())
            }
            (false, Some(cluster)) => external_rules(writer.settings, cluster),
            (false, None) => Vec::new(),
        };
        let chain = sticky.external_chain();
        let external = !rules.is_empty() && writer.is_external();
        if external {
            writer.rules.fragment.chain(&chain, None, rules);
        }
        let own = |chain: Option<Arc<str>>| chain.map(Target::Own);
        Self {
            internal: own(internal),
            external: own(external.then(|| chain.clone())),
            node_port: own(external.then_some(chain)),
        }
    }
}

/// Anonymous sets of ranges must not overlap: drops what a wider entry already covers.
fn disjoint(sources: &[String]) -> Vec<String> {
    let nets: Vec<ipnet::IpNet> = sources
        .iter()
        .filter_map(|source| source.parse().ok().or_else(|| source.parse::<IpAddr>().ok().map(Into::into)))
        .collect();
    ipnet::IpNet::aggregate(&nets).iter().map(ToString::to_string).collect()
}
