//! Mirrors Endpoints that a user keeps (services without a selector) into slices, so that readers of slices see them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset, Endpoints, ObjectReference, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use crate::endpointslice::desired::{Group, IPV4, IPV6, PortKey};
use crate::endpointslice::placement::{self, Parent};
use crate::endpointslice::{BY_SERVICE, MANAGED_BY, SERVICE_NAME, index_slices, service_value};
use crate::meta::{annotation, is_terminating, label, name, namespace, owner_reference};
use crate::pods::name_prefix;
use crate::runtime::{Action, Context, Controller, Key, Note, Pace, Plan, ReconcileError, Store, Wiring};

const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Annotation of Endpoints that are nothing but a lock.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Annotations that are not passed on.
const NOT_COPIED: [&str; 2] =
    ["kubectl.kubernetes.io/last-applied-configuration", "endpoints.kubernetes.io/last-change-trigger-time"];

struct Mirroring {
    endpoints: Store<Endpoints>,
    services: Store<Service>,
    slices: Store<EndpointSlice>,
    per_subset: usize,
}

/// Builds the loop; its keys are Endpoints, which are named as their service.
pub fn build(wiring: &mut Wiring) -> Box<dyn Controller> {
    let endpoints = wiring.on_self::<Endpoints>();
    let services = wiring.on_self::<Service>();
    let slices = wiring.on::<EndpointSlice>(|change, queue| {
        for slice in change.both().filter(|slice| label(slice.as_ref(), MANAGED_BY) == Some(MANAGER)) {
            if let Some(service) = label(slice.as_ref(), SERVICE_NAME) {
                queue.add(Key::new(namespace(slice.as_ref()), service));
            }
        }
    });
    index_slices(&slices);
    Box::new(Mirroring {
        endpoints,
        services,
        slices,
        per_subset: wiring.options().slices.mirrored_per_subset,
    })
}

fn is_mirrored(endpoints: &Endpoints) -> bool {
    label(endpoints, SKIP) != Some("true")
        && annotation(endpoints, LEADER).is_none()
        && !is_terminating(endpoints)
}

impl Controller for Mirroring {
    fn reconcile(&self, key: &Key, _context: &Context) -> Result<Plan, ReconcileError> {
        let mut plan = Plan::nothing();
        let service = self.services.get(key);
        let selects =
            service.as_ref().is_some_and(|s| s.spec.as_ref().is_some_and(|spec| spec.selector.is_some()));
        let source = self
            .endpoints
            .get(key)
            .filter(|endpoints| service.is_some() && !selects && is_mirrored(endpoints));
        let mut existing = self.slices.by(BY_SERVICE, &service_value(key));
        existing.retain(|slice| {
            label(slice.as_ref(), MANAGED_BY) == Some(MANAGER) && !is_terminating(slice.as_ref())
        });
        let Some(source) = source else {
            plan.act_all(
                Pace::Parallel,
                existing.iter().map(|slice| Action::delete(slice.as_ref())).collect(),
            );
            return Ok(plan);
        };
        let (parent, mut actions) = (parent(&source), Vec::new());
        for family in [IPV4, IPV6] {
            let of_family: Vec<_> =
                existing.iter().filter(|slice| slice.address_type == family).cloned().collect();
            let groups = self.groups(&source, family);
            let writes = placement::place(&parent, family, of_family, groups, self.per_subset);
            actions.extend(writes.create.iter().map(Action::create));
            actions.extend(writes.update.iter().map(Action::update));
            actions.extend(writes.delete.iter().map(|slice| Action::delete(slice.as_ref())));
        }
        let invalid = addresses(&source).filter(|address| address.ip.parse::<IpAddr>().is_err()).count();
        if invalid > 0 {
            let told = format!("Skipped {invalid} invalid IP addresses when mirroring to EndpointSlices");
            plan.note(Note::warning(source.as_ref(), "InvalidIPAddress", told));
        }
        plan.act_all(Pace::Parallel, actions);
        Ok(plan)
    }
}

fn subsets(endpoints: &Endpoints) -> impl Iterator<Item = &EndpointSubset> {
    endpoints.subsets.iter().flatten()
}

fn addresses(endpoints: &Endpoints) -> impl Iterator<Item = &EndpointAddress> {
    subsets(endpoints).flat_map(|subset| {
        subset.addresses.iter().flatten().chain(subset.not_ready_addresses.iter().flatten())
    })
}

fn parent(endpoints: &Endpoints) -> Parent {
    let mut labels = endpoints.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.into(), name(endpoints).into());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    let mut annotations = endpoints.metadata.annotations.clone().unwrap_or_default();
    annotations.retain(|key, _| !NOT_COPIED.contains(&key.as_str()));
    Parent {
        namespace: endpoints.metadata.namespace.clone(),
        prefix: name_prefix(name(endpoints)),
        owner: OwnerReference { block_owner_deletion: Some(true), ..owner_reference(endpoints) },
        labels,
        annotations: Some(annotations),
        placeholder: false,
    }
}

impl Mirroring {
    fn groups(&self, source: &Endpoints, family: &str) -> BTreeMap<PortKey, Group> {
        let mut groups = BTreeMap::new();
        for subset in subsets(source) {
            let ports: Vec<EndpointPort> = subset
                .ports
                .iter()
                .flatten()
                .map(|port| EndpointPort {
                    name: Some(port.name.clone().unwrap_or_default()),
                    port: Some(port.port),
                    protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".into())),
                    app_protocol: port.app_protocol.clone(),
                })
                .collect();
            let listed = [(&subset.addresses, true), (&subset.not_ready_addresses, false)];
            let all =
                listed.into_iter().flat_map(|(list, ready)| list.iter().flatten().map(move |a| (a, ready)));
            let endpoints = all.filter(|(address, _)| is_of(address, family)).take(self.per_subset);
            let endpoints: Vec<Endpoint> =
                endpoints.map(|(address, ready)| mirrored(address, ready)).collect();
            if !endpoints.is_empty() {
                let group = groups
                    .entry(PortKey::of(&ports))
                    .or_insert_with(|| Group { ports, endpoints: Vec::new() });
                group.endpoints.extend(endpoints);
            }
        }
        groups
    }
}

fn is_of(address: &EndpointAddress, family: &str) -> bool {
    address.ip.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6() == (family == IPV6))
}

fn mirrored(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions { ready: Some(ready), serving: None, terminating: None }),
        hostname: address.hostname.clone().filter(|hostname| !hostname.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address
            .target_ref
            .clone()
            .map(|target| ObjectReference { resource_version: None, ..target }),
        ..Endpoint::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::testing::check;
    use crate::testing::crash::check_crashes;
    use crate::testing::model::Model;
    use crate::testing::world::{Scenario, World};

    fn service(selector: Value) -> Value {
        json!({"kind": "Service", "metadata": {"name": "web", "namespace": "ns"}, "spec": {"selector": selector}})
    }

    fn endpoints() -> Value {
        json!({"kind": "Endpoints", "metadata": {"name": "web", "namespace": "ns", "labels": {"a": "b"}}, "subsets": [
            {"addresses": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}], "notReadyAddresses": [{"ip": "10.0.0.2"}],
                "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}]})
    }

    const CREATE: &str = "create /apis/discovery.k8s.io/v1/namespaces/ns/endpointslices/web-";

    #[test]
    fn cases() {
        check(super::build, "ns/web", &[service(Value::Null), endpoints()], &format!("{CREATE}\n{CREATE}"));
        check(super::build, "ns/web", &[service(json!({"app": "web"})), endpoints()], "");
        check(super::build, "ns/web", &[endpoints()], "");
        let mut skipped = endpoints();
        skipped["metadata"]["labels"] = json!({"endpointslice.kubernetes.io/skip-mirror": "true"});
        check(super::build, "ns/web", &[service(Value::Null), skipped], "");
    }

    #[test]
    fn changes_survive_crashes() {
        let mut scenario = Scenario::new(&[super::build], &[service(Value::Null), endpoints()]);
        let change: fn(&mut Model) = |model| {
            model.edit("Endpoints", "ns", "web", |e| {
                e["subsets"][0]["addresses"] = json!([{"ip": "10.0.0.9"}])
            });
        };
        scenario.steps = vec![change];
        let mut world = World::start(&scenario, None, false);
        world.run();
        let slices = world.shared.model.lock().all("EndpointSlice");
        assert_eq!(slices.len(), 1, "the family without addresses is gone");
        assert_eq!(slices[0]["endpoints"].as_array().map(Vec::len), Some(2));
        check_crashes(&scenario);
    }
}
