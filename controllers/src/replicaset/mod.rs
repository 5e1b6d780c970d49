//! ReplicaSet and ReplicationController: as many pods of one template as asked for. One core ([`core`]) decides for
//! both; this module says how each kind looks to it.

pub mod core;
#[cfg(test)]
mod tests;

use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{
    Pod, PodTemplateSpec, ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus,
};

use self::core::{Failing, Kind, Replicas, Status};
use crate::runtime::{Controller, ReconcileError, Wiring};
use crate::selector::Selector;

/// Builds the loop of ReplicaSets.
pub fn build(wiring: &mut Wiring) -> Box<dyn Controller> {
    let workers = wiring.options().workers.replicaset;
    build_kind::<ReplicaSet>(wiring, workers)
}

/// Builds the loop of ReplicationControllers.
pub fn build_replication_controller(wiring: &mut Wiring) -> Box<dyn Controller> {
    let workers = wiring.options().workers.replicationcontroller;
    build_kind::<ReplicationController>(wiring, workers)
}

fn build_kind<K: Kind>(wiring: &mut Wiring, workers: usize) -> Box<dyn Controller> {
    let sets = wiring.on_self::<K>();
    let orphans_of = sets.clone();
    let pods = wiring.on::<Pod>(move |change, queue| core::keys_of_pod(&orphans_of, change, queue));
    Box::new(Replicas { sets, pods, workers })
}

impl Kind for ReplicaSet {
    fn wanted(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
    }

    fn min_ready_secs(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0)
    }

    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref()?.template.as_ref()
    }

    fn selector(&self) -> Result<Selector, ReconcileError> {
        let spec = self.spec.as_ref().ok_or_else(|| ReconcileError::invalid("spec", "missing"))?;
        Selector::of(&spec.selector)
    }

    fn status(&self) -> Status {
        let status = self.status.clone().unwrap_or_default();
        let failing = status.conditions.iter().flatten().find(|c| c.type_ == core::REPLICA_FAILURE);
        Status {
            replicas: status.replicas,
            fully_labeled: status.fully_labeled_replicas.unwrap_or(0),
            ready: status.ready_replicas.unwrap_or(0),
            available: status.available_replicas.unwrap_or(0),
            terminating: status.terminating_replicas,
            observed_generation: status.observed_generation.unwrap_or(0),
            failing: failing.map(|c| Failing {
                reason: c.reason.clone().unwrap_or_default(),
                message: c.message.clone().unwrap_or_default(),
                since: c.last_transition_time.clone(),
            }),
        }
    }

    fn with_status(&self, status: Status) -> Self {
        let old = self.status.clone().unwrap_or_default();
        let mut conditions: Vec<_> = old.conditions.unwrap_or_default();
        conditions.retain(|c| c.type_ != core::REPLICA_FAILURE);
        conditions.extend(status.failing.map(|failing| ReplicaSetCondition {
            type_: core::REPLICA_FAILURE.into(),
            status: "True".into(),
            reason: Some(failing.reason),
            message: Some(failing.message),
            last_transition_time: failing.since,
        }));
        let status = ReplicaSetStatus {
            replicas: status.replicas,
            fully_labeled_replicas: nonzero(status.fully_labeled),
            ready_replicas: nonzero(status.ready),
            available_replicas: nonzero(status.available),
            terminating_replicas: status.terminating,
            observed_generation: Some(status.observed_generation),
            conditions: Some(conditions).filter(|list| !list.is_empty()),
        };
        Self { status: Some(status), ..self.clone() }
    }
}

impl Kind for ReplicationController {
    fn wanted(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
    }

    fn min_ready_secs(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0)
    }

    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref()?.template.as_ref()
    }

    fn selector(&self) -> Result<Selector, ReconcileError> {
        let map = self.spec.as_ref().and_then(|spec| spec.selector.clone());
        Selector::of_map(&map.unwrap_or_default())
    }

    fn status(&self) -> Status {
        let status = self.status.clone().unwrap_or_default();
        let failing = status.conditions.iter().flatten().find(|c| c.type_ == core::REPLICA_FAILURE);
        Status {
            replicas: status.replicas,
            fully_labeled: status.fully_labeled_replicas.unwrap_or(0),
            ready: status.ready_replicas.unwrap_or(0),
            available: status.available_replicas.unwrap_or(0),
            terminating: None,
            observed_generation: status.observed_generation.unwrap_or(0),
            failing: failing.map(|c| Failing {
                reason: c.reason.clone().unwrap_or_default(),
                message: c.message.clone().unwrap_or_default(),
                since: c.last_transition_time.clone(),
            }),
        }
    }

    fn with_status(&self, status: Status) -> Self {
        let old = self.status.clone().unwrap_or_default();
        let mut conditions: Vec<_> = old.conditions.unwrap_or_default();
        conditions.retain(|c| c.type_ != core::REPLICA_FAILURE);
        conditions.extend(status.failing.map(|failing| ReplicationControllerCondition {
            type_: core::REPLICA_FAILURE.into(),
            status: "True".into(),
            reason: Some(failing.reason),
            message: Some(failing.message),
            last_transition_time: failing.since,
        }));
        let status = ReplicationControllerStatus {
            replicas: status.replicas,
            fully_labeled_replicas: nonzero(status.fully_labeled),
            ready_replicas: nonzero(status.ready),
            available_replicas: nonzero(status.available),
            observed_generation: Some(status.observed_generation),
            conditions: Some(conditions).filter(|list| !list.is_empty()),
        };
        Self { status: Some(status), ..self.clone() }
    }
}

fn nonzero(count: i32) -> Option<i32> {
    (count != 0).then_some(count)
}
