//! The older Endpoints of services with a selector: one object per service, its addresses grouped into subsets by
//! the ports they serve. Only the service's first address family is told, and at most [`ADDRESSES_MAX`] addresses.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, ObjectReference, Pod, Service,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::meta::{StringMap, annotation, name, namespace};
use crate::pods;
use crate::runtime::{Action, Context, Controller, Key, Plan, ReconcileError, Store, Wiring};
use crate::selector::map_matches;
use crate::service_pods::{self, HEADLESS};
use crate::trigger_time::{TriggerTimes, annotate};

/// Addresses in one object at most (upstream's limit; larger services have slices only).
const ADDRESSES_MAX: usize = 1000;
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";

struct EndpointsLoop {
    services: Store<Service>,
    pods: Store<Pod>,
    endpoints: Store<Endpoints>,
    workers: usize,
    triggers: TriggerTimes,
}

/// Builds the loop; its keys are services.
pub fn build(wiring: &mut Wiring) -> Box<dyn Controller> {
    let services = wiring.on_self::<Service>();
    let endpoints = wiring.on_self::<Endpoints>();
    let delay = wiring.options().slices.endpoints_batch_period;
    let all = services.clone();
    let pods = wiring.on::<Pod>(move |change, queue| {
        service_pods::services_of(&all, change).into_iter().for_each(|key| queue.add_after(key, delay));
    });
    let workers = wiring.options().workers.endpoints;
    Box::new(EndpointsLoop { services, pods, endpoints, workers, triggers: TriggerTimes::default() })
}

impl Controller for EndpointsLoop {
    fn reconcile(&self, key: &Key, _context: &Context) -> Result<Plan, ReconcileError> {
        let mut plan = Plan::nothing();
        let existing = self.endpoints.get(key);
        let Some(service) = self.services.get(key) else {
            self.triggers.forget(key);
            // Only what this loop made goes with its service; leader election, for one, keeps Endpoints of its own.
            let ours = existing
                .filter(|have| have.metadata.labels.as_ref().is_some_and(|l| l.contains_key(MANAGED_BY)));
            ours.into_iter().for_each(|have| plan.act(Action::delete(have.as_ref())));
            return Ok(plan);
        };
        let Some(selector) = service_pods::selector(&service) else { return Ok(plan) };
        let mut pods = self.pods.in_namespace(&key.namespace);
        pods.retain(|pod| map_matches(Some(selector), pod.metadata.labels.as_ref()));
        let mut found = Found::default();
        pods.iter().for_each(|pod| found.add(&service, pod));
        let (subsets, truncated) = found.subsets();
        let mut wanted = match &existing {
            Some(have) => have.as_ref().clone(),
            None => empty(&service),
        };
        wanted.subsets = Some(subsets).filter(|subsets| !subsets.is_empty());
        wanted.metadata.labels = Some(labels(&service));
        set_truncated(&mut wanted, truncated);
        let trigger = self.triggers.observe(key, &service, &pods, existing.is_none());
        if existing.as_ref().is_none_or(|have| **have != wanted) {
            annotate(&mut wanted.metadata, trigger);
            let is_new = existing.is_none();
            plan.act(if is_new { Action::create(&wanted) } else { Action::update(&wanted) });
        }
        Ok(plan)
    }

    fn workers(&self) -> usize {
        self.workers
    }
}

fn empty(service: &Service) -> Endpoints {
    let metadata = ObjectMeta {
        name: service.metadata.name.clone(),
        namespace: service.metadata.namespace.clone(),
        ..ObjectMeta::default()
    };
    Endpoints { metadata, subsets: None }
}

fn labels(service: &Service) -> StringMap {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if service_pods::is_headless(service) {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    labels
}

fn set_truncated(endpoints: &mut Endpoints, truncated: bool) {
    if truncated {
        let annotations = endpoints.metadata.annotations.get_or_insert_default();
        annotations.insert(OVER_CAPACITY.into(), "truncated".into());
    } else if annotation(endpoints, OVER_CAPACITY).is_some()
        && let Some(annotations) = &mut endpoints.metadata.annotations
    {
        annotations.remove(OVER_CAPACITY);
    }
}

type PortId = (Option<String>, i32, String, Option<String>);
type AddressId = (String, String, String);

/// Addresses by port; ports with the same addresses share a subset.
#[derive(Default)]
struct Found {
    by_port: BTreeMap<Option<PortId>, BTreeSet<(AddressId, bool)>>,
    addresses: BTreeMap<AddressId, EndpointAddress>,
}

impl Found {
    fn add(&mut self, service: &Service, pod: &Pod) {
        let tolerant = service_pods::publishes_not_ready(service);
        if !service_pods::may_serve(pod, tolerant) {
            return;
        }
        let Some(address) = address(service, pod) else { return };
        let ready = tolerant || pods::is_ready(pod);
        let id = (address.ip.clone(), namespace(pod).to_string(), name(pod).to_string());
        let mut ports: Vec<Option<PortId>> = service_pods::ports(service)
            .iter()
            .filter_map(|port| {
                let number = service_pods::target_port(pod, port)?;
                let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".into());
                Some(Some((port.name.clone(), number, protocol, port.app_protocol.clone())))
            })
            .collect();
        if service_pods::ports(service).is_empty() && service_pods::is_headless(service) {
            ports.push(None);
        }
        for port in ports {
            self.by_port.entry(port).or_default().insert((id.clone(), ready));
            self.addresses.insert(id.clone(), address.clone());
        }
    }

    fn subsets(self) -> (Vec<EndpointSubset>, bool) {
        let mut by_addresses: BTreeMap<BTreeSet<(AddressId, bool)>, Vec<Option<PortId>>> = BTreeMap::new();
        for (port, addresses) in self.by_port {
            by_addresses.entry(addresses).or_default().push(port);
        }
        let mut room = ADDRESSES_MAX;
        let mut truncated = false;
        let mut subsets = Vec::new();
        for (addresses, ports) in by_addresses {
            truncated |= addresses.len() > room;
            // Ready ones first: where not all fit, those that serve are told.
            let mut addresses: Vec<_> = addresses.into_iter().collect();
            addresses.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
            addresses.truncate(room);
            room -= addresses.len();
            let of = |ready: bool| {
                let ids = addresses.iter().filter(|(_, is)| *is == ready).map(|(id, _)| id);
                let list: Vec<_> = ids.filter_map(|id| self.addresses.get(id).cloned()).collect();
                Some(list).filter(|list| !list.is_empty())
            };
            let ports: Vec<_> = ports.into_iter().flatten().map(port).collect();
            let ports = Some(ports).filter(|ports| !ports.is_empty());
            subsets.push(EndpointSubset { addresses: of(true), not_ready_addresses: of(false), ports });
        }
        (subsets, truncated)
    }
}

fn port((name, port, protocol, app_protocol): PortId) -> EndpointPort {
    EndpointPort { name, port, protocol: Some(protocol), app_protocol }
}

/// The pod's address in the service's first family.
fn address(service: &Service, pod: &Pod) -> Option<EndpointAddress> {
    let v6 = crate::endpointslice::desired::families(service).first()
        == Some(&crate::endpointslice::desired::IPV6);
    let addresses = service_pods::addresses(pod);
    let address = addresses.iter().find(|address| address.is_ipv6() == v6)?;
    Some(EndpointAddress {
        ip: address.to_string(),
        hostname: service_pods::hostname(pod, service),
        node_name: Some(pods::node_name(pod).to_string()).filter(|node| !node.is_empty()),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".into()),
            namespace: Some(namespace(pod).to_string()),
            name: Some(name(pod).to_string()),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::testing::check;
    use crate::testing::crash::check_crashes;
    use crate::testing::model::Model;
    use crate::testing::world::{Scenario, World};

    fn service() -> Value {
        json!({"kind": "Service", "metadata": {"name": "web", "namespace": "ns"}, "spec": {"clusterIP": "10.0.0.1",
            "selector": {"app": "web"}, "ports": [{"name": "a", "port": 80, "protocol": "TCP"},
                {"name": "b", "port": 81, "protocol": "TCP"}]}})
    }

    fn pod(name: &str, ip: &str, ready: &str) -> Value {
        json!({"kind": "Pod", "metadata": {"name": name, "namespace": "ns", "labels": {"app": "web"}},
            "spec": {"containers": []}, "status": {"phase": "Running", "podIP": ip,
                "conditions": [{"type": "Ready", "status": ready}]}})
    }

    #[test]
    fn cases() {
        check(super::build, "ns/web", &[service()], "create /api/v1/namespaces/ns/endpoints/web");
        let own = json!({"kind": "Endpoints", "metadata": {"name": "web", "namespace": "ns",
            "labels": {"endpoints.kubernetes.io/managed-by": "endpoint-controller"}}});
        check(super::build, "ns/web", &[own], "delete /api/v1/namespaces/ns/endpoints/web");
        let foreign = json!({"kind": "Endpoints", "metadata": {"name": "web", "namespace": "ns"}});
        check(super::build, "ns/web", &[foreign], "");
    }

    fn later(model: &mut Model) {
        model.edit("Pod", "ns", "p2", |pod| pod["status"]["conditions"][0]["status"] = "True".into());
        model.vanish("Pod", "ns", "p1");
    }

    #[test]
    fn ready_and_not_ready_survive_crashes() {
        let objects = [service(), pod("p1", "10.1.0.1", "True"), pod("p2", "10.1.0.2", "False")];
        let mut scenario = Scenario::new(&[super::build], &objects);
        let mut world = World::start(&scenario, None, false);
        world.run();
        let found =
            world.shared.model.lock().get("Endpoints", "ns", "web").expect("endpoints")["subsets"].clone();
        assert_eq!(found[0]["addresses"][0]["ip"], "10.1.0.1");
        assert_eq!(found[0]["notReadyAddresses"][0]["ip"], "10.1.0.2");
        assert_eq!(
            found[0]["ports"].as_array().map(Vec::len),
            Some(2),
            "ports with the same addresses share a subset"
        );
        scenario.steps = vec![later];
        check_crashes(&scenario);
    }
}
