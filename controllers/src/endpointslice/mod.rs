//! EndpointSlices of services with a selector: one set of slices per address family and set of ports.
//!
//! In reading order: [`desired`] (which endpoints there should be), [`placement`] (into which slices they go, with
//! few writes), [`hints`] (who should use them).

pub mod desired;
pub mod hints;
pub mod placement;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use self::placement::{Parent, Writes};
use crate::meta::{is_terminating, label, name, namespace};
use crate::runtime::store::IndexValues;
use crate::runtime::{
    Action, Context, Controller, Failure, Key, Note, Pace, Plan, ReconcileError, Store, Wiring,
};
use crate::selector::map_matches;
use crate::service_pods;

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
    let nodes = wiring.store::<Node>();
    let per_slice = wiring.options().slices.endpoints_per_slice;
    let workers = wiring.options().workers.endpointslice;
    Box::new(EndpointSlices { services, pods, nodes, slices, per_slice, workers })
}

impl Controller for EndpointSlices {
    fn reconcile(&self, key: &Key, context: &Context) -> Result<Plan, ReconcileError> {
        let mut plan = Plan::nothing();
        let Some(service) = self.services.get(key) else { return Ok(plan) };
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
        for family in families {
            let of_family: Vec<_> =
                existing.iter().filter(|slice| slice.address_type == family).cloned().collect();
            let wanted = desired::desired(&service, &pods, &self.nodes, family);
            missing = missing.or(wanted.missing_node);
            let mut writes = placement::place(&parent, family, of_family, wanted.groups, self.per_slice);
            hints::assign(&service, &mut writes);
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
