//! EndpointSlices of services with a selector: one set of slices per address family and set of ports.
//!
//! In reading order: [`desired`] (which endpoints there should be), [`placement`] (into which slices they go, with
//! few writes), [`hints`] and [`topology`] (who should use them).

pub mod desired;
pub mod hints;
pub mod placement;
#[cfg(test)]
mod tests;
pub mod topology;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use self::placement::{Parent, Writes};
use crate::meta::{is_terminating, label, name, namespace};
use crate::runtime::store::IndexValues;
use crate::runtime::{
    Action, Context, Controller, Failure, Key, Note, Pace, Plan, ReconcileError, Store, Wiring,
};
use crate::selector::map_matches;
use crate::service_pods;
use crate::trigger_time::{TriggerTimes, annotate};

/// Label: the service of a slice.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Label: who keeps a slice.
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// Our value of [`MANAGED_BY`].
pub const MANAGER: &str = "endpointslice-controller.k8s.io";
/// Index of slices by namespace and service.
pub const BY_SERVICE: &str = "service";

/// The value under which the slices of a service are found in [`BY_SERVICE`].
pub fn service_value(key: &Key) -> String {
    format!("{}/{}", key.namespace, key.name)
}

fn by_service(slice: &EndpointSlice) -> IndexValues {
    let service = label(slice, SERVICE_NAME);
    service.into_iter().map(|service| Arc::from(format!("{}/{service}", namespace(slice)))).collect()
}

/// The cache of slices with its index by service.
pub fn index_slices(slices: &Store<EndpointSlice>) {
    slices.add_index(BY_SERVICE, by_service);
}

struct EndpointSlices {
    services: Store<Service>,
    pods: Store<Pod>,
    nodes: Store<Node>,
    slices: Store<EndpointSlice>,
    per_slice: usize,
    workers: usize,
    triggers: TriggerTimes,
}

/// What of a node decides the zones' shares.
fn zone_facts(node: &Node) -> (Option<&str>, bool, Option<&Quantity>) {
    let cpu = node.status.as_ref().and_then(|status| status.allocatable.as_ref()?.get("cpu"));
    (label(node, desired::ZONE), crate::nodes::is_ready(node), cpu)
}

/// Builds the loop; its keys are services.
pub fn build(wiring: &mut Wiring) -> Box<dyn Controller> {
    let services = wiring.on_self::<Service>();
    let slices = wiring.on::<EndpointSlice>(|change, queue| {
        for slice in change.both().filter(|slice| label(slice.as_ref(), MANAGED_BY) == Some(MANAGER)) {
            if let Some(service) = label(slice.as_ref(), SERVICE_NAME) {
                queue.add(Key::new(namespace(slice.as_ref()), service));
            }
        }
    });
    index_slices(&slices);
    let delay = wiring.options().slices.batch_period;
    let all = services.clone();
    let pods = wiring.on::<Pod>(move |change, queue| {
        service_pods::services_of(&all, change).into_iter().for_each(|key| queue.add_after(key, delay));
    });
    let all = services.clone();
    let nodes = wiring.on::<Node>(move |change, queue| {
        let [before, after] =
            [&change.old, &change.new].map(|node| node.as_ref().map(|node| zone_facts(node)));
        if before != after {
            let by_zone = all.all().into_iter().filter(|service| topology::is_wanted(service));
            by_zone.for_each(|service| queue.add(Key::of(service.as_ref())));
        }
    });
    let per_slice = wiring.options().slices.endpoints_per_slice;
    let workers = wiring.options().workers.endpointslice;
    let triggers = TriggerTimes::default();
    Box::new(EndpointSlices { services, pods, nodes, slices, per_slice, workers, triggers })
}

impl Controller for EndpointSlices {
    fn reconcile(&self, key: &Key, context: &Context) -> Result<Plan, ReconcileError> {
        let mut plan = Plan::nothing();
        let Some(service) = self.services.get(key) else {
            self.triggers.forget(key);
            return Ok(plan);
        };
        let Some(selector) = service_pods::selector(&service) else { return Ok(plan) };
        let mut pods = self.pods.in_namespace(&key.namespace);
        pods.retain(|pod| map_matches(Some(selector), pod.metadata.labels.as_ref()));
        let mut existing = self.slices.by(BY_SERVICE, &service_value(key));
        existing.retain(|slice| {
            label(slice.as_ref(), MANAGED_BY) == Some(MANAGER) && !is_terminating(slice.as_ref())
        });
        let families = desired::families(&service);
        let mut deletions: Vec<Action> = Vec::new();
        for slice in existing.iter().filter(|slice| !families.contains(&slice.address_type.as_str())) {
            deletions.push(Action::delete(slice.as_ref()));
        }
        let (mut missing, parent) = (None, Parent::service(&service));
        let trigger = self.triggers.observe(key, &service, &pods, existing.is_empty());
        for family in families {
            let of_family: Vec<_> =
                existing.iter().filter(|slice| slice.address_type == family).cloned().collect();
            let wanted = desired::desired(&service, &pods, &self.nodes, family);
            missing = missing.or(wanted.missing_node);
            let mut writes = placement::place(&parent, family, of_family, wanted.groups, self.per_slice);
            self.hint(&service, &existing, family, &mut writes, &mut plan);
            let written = writes.create.iter_mut().chain(&mut writes.update);
            written.for_each(|slice| annotate(&mut slice.metadata, trigger));
            self.write(&service, writes, &mut plan);
        }
        plan.act_all(Pace::Parallel, deletions);
        if let Some(failure) = context.failure.filter(|failure| failure.code != 0 && failure.code != 409) {
            let key = format!("{}/{}", key.namespace, key.name);
            let message = format!("Error updating Endpoint Slices for Service {key}: {failure}");
            plan.note(Note::warning(service.as_ref(), "FailedToUpdateEndpointSlices", message));
        }
        // The pod may be new and its node newer; pods on nodes that are gone are collected as garbage.
        plan.problem = missing.map(|pod| Failure::local(format!("the node of pod {pod} is not known")));
        if plan.problem.is_some() {
            plan.again_after(Duration::from_secs(1));
        }
        Ok(plan)
    }

    fn workers(&self) -> usize {
        self.workers
    }
}

impl EndpointSlices {
    /// Sets the hints, by topology where the service asks for that, and tells when these come or cannot be.
    fn hint(
        &self,
        service: &Service,
        existing: &[Arc<EndpointSlice>],
        family: &str,
        writes: &mut Writes,
        plan: &mut Plan,
    ) {
        let had_hints = existing.iter().any(|slice| {
            slice.address_type == family && slice.endpoints.iter().flatten().any(|one| one.hints.is_some())
        });
        if !topology::is_wanted(service) {
            return hints::assign(Some(service), writes);
        }
        let shares = topology::shares(&self.nodes.all());
        match topology::assign(shares.as_ref(), writes) {
            Ok(()) if had_hints => {}
            Ok(()) => {
                let text = format!("Topology Aware Hints has been enabled, addressType: {family}");
                plan.note(Note::normal(service, "TopologyAwareHintsEnabled", text));
            }
            Err(why) => {
                hints::assign(None, writes);
                let text = format!("{why}, addressType: {family}");
                plan.note(Note::warning(service, "TopologyAwareHintsDisabled", text));
            }
        }
    }

    fn write(&self, service: &Service, writes: Writes, plan: &mut Plan) {
        let mut actions: Vec<Action> = Vec::new();
        // A service on its way out gets no new slices: they would race with the garbage collector.
        if !is_terminating(service) {
            actions.extend(writes.create.iter().map(Action::create));
        }
        actions.extend(writes.update.iter().map(Action::update));
        actions.extend(writes.delete.iter().map(|slice| Action::delete(slice.as_ref())));
        plan.act_all(Pace::Parallel, actions);
        tracing::trace!(service = name(service), "slices compared");
    }
}
