//! Resource quotas: what a namespace really uses, counted anew. The API server charges quotas on creation; this loop
//! gives back what is gone and corrects what drifted.
//!
//! [`usage`] counts objects, [`scopes`] says which pods a quota is about; this module compares and writes.

pub mod scopes;
#[cfg(test)]
mod tests;
pub mod usage;

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{
    ConfigMap, PersistentVolumeClaim, Pod, ReplicationController, ResourceQuota, ResourceQuotaStatus, Secret,
    Service, ServiceAccount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use machinery::quantity::{Format, Quantity};

use self::usage::Usage;
use crate::meta::namespace;
use crate::pods;
use crate::runtime::{
    Action, Answer, Ask, Change, Context, Controller, Enqueue, Key, Object, Plan, ReconcileError, Store,
    Wiring,
};

/// Counts of kinds that no cache here holds (custom resources) are taken anew this often.
const FOREIGN_PERIOD: Duration = Duration::from_secs(5);
/// Changes are collected for so long, for they come in bursts.
const BATCH: Duration = Duration::from_millis(100);

/// The caches that are counted.
pub struct Caches {
    /// Pods.
    pub pods: Store<Pod>,
    /// Services.
    pub services: Store<Service>,
    /// Volume claims.
    pub claims: Store<PersistentVolumeClaim>,
    /// The number of objects of each kind, by `resource.group`.
    pub counts: BTreeMap<&'static str, Count>,
}

/// Counts the objects of one kind in a namespace.
pub type Count = Box<dyn Fn(&str) -> usize + Send + Sync>;

struct Quotas {
    quotas: Store<ResourceQuota>,
    caches: Caches,
    period: Duration,
    workers: usize,
}

/// Builds the loop.
pub fn build(wiring: &mut Wiring) -> Box<dyn Controller> {
    let quotas = wiring.on::<ResourceQuota>(|change, queue| {
        // Our own status writes and the API server's charges need no recount.
        let same =
            change.old.as_ref().zip(change.new.as_ref()).is_some_and(|(old, new)| old.spec == new.spec);
        if let Some(quota) = change.new.as_ref().filter(|_| !same) {
            queue.add(Key::of(quota.as_ref()));
        }
    });
    let all = quotas.clone();
    let pods = wiring.on::<Pod>(move |change, queue| {
        let finished = |pod: &Option<std::sync::Arc<Pod>>| {
            pod.as_ref().map(|pod| (pods::is_finished(pod), pod.spec.is_some()))
        };
        let resized =
            change.old.as_ref().zip(change.new.as_ref()).is_some_and(|(old, new)| old.spec != new.spec);
        if resized || finished(&change.old) != finished(&change.new) {
            enqueue(&all, change, queue);
        }
    });
    let services = watched::<Service>(wiring, &quotas);
    let claims = watched::<PersistentVolumeClaim>(wiring, &quotas);
    let mut counts: BTreeMap<&'static str, Count> = BTreeMap::new();
    counts.insert("pods", counter(&pods));
    counts.insert("services", counter(&services));
    counts.insert("persistentvolumeclaims", counter(&claims));
    counts.insert("resourcequotas", counter(&quotas));
    counts.insert("configmaps", counter(&watched::<ConfigMap>(wiring, &quotas)));
    counts.insert("secrets", counter(&watched::<Secret>(wiring, &quotas)));
    counts.insert("serviceaccounts", counter(&watched::<ServiceAccount>(wiring, &quotas)));
    counts.insert("replicationcontrollers", counter(&watched::<ReplicationController>(wiring, &quotas)));
    counts.insert("replicasets.apps", counter(&watched::<ReplicaSet>(wiring, &quotas)));
    counts.insert("deployments.apps", counter(&watched::<Deployment>(wiring, &quotas)));
    counts.insert("statefulsets.apps", counter(&watched::<StatefulSet>(wiring, &quotas)));
    counts.insert("jobs.batch", counter(&watched::<Job>(wiring, &quotas)));
    counts.insert("cronjobs.batch", counter(&watched::<CronJob>(wiring, &quotas)));
    let (period, workers) = (wiring.options().quota_sync_period, wiring.options().workers.resourcequota);
    Box::new(Quotas { quotas, caches: Caches { pods, services, claims, counts }, period, workers })
}

fn enqueue<K: Object>(quotas: &Store<ResourceQuota>, change: &Change<K>, queue: &mut Enqueue) {
    let Some(object) = change.latest() else { return };
    for quota in quotas.in_namespace(object.meta().namespace.as_deref().unwrap_or("")) {
        queue.add_after(Key::of(quota.as_ref()), BATCH);
    }
}

/// A cache of which additions and deletions, and changes of services and claims, run the namespace's quotas.
fn watched<K: Object>(wiring: &mut Wiring, quotas: &Store<ResourceQuota>) -> Store<K> {
    let quotas = quotas.clone();
    let always = matches!(&*K::kind(&()), "Service" | "PersistentVolumeClaim");
    wiring.on::<K>(move |change, queue| {
        if always || change.old.is_none() || change.new.is_none() {
            enqueue(&quotas, change, queue);
        }
    })
}

fn counter<K: Object>(store: &Store<K>) -> Count {
    let store = store.clone();
    Box::new(move |namespace| store.in_namespace(namespace).len())
}

/// A quantity of the API as a number; an unreadable one counts as nothing.
pub fn number(text: &Text) -> Quantity {
    Quantity::parse(&text.0).unwrap_or(Quantity::from_i64(0, Format::DecimalSi))
}

impl Controller for Quotas {
    fn reconcile(&self, key: &Key, context: &Context) -> Result<Plan, ReconcileError> {
        let mut plan = Plan::nothing();
        let Some(quota) = self.quotas.get(key) else { return Ok(plan) };
        let hard = quota.spec.as_ref().and_then(|spec| spec.hard.clone()).unwrap_or_default();
        let mut usage = Usage::of(&quota, &self.caches);
        let mut again = self.period;
        for resource in hard.keys() {
            let Some(foreign) =
                resource.strip_prefix("count/").filter(|name| !self.caches.counts.contains_key(*name))
            else {
                continue;
            };
            again = again.min(FOREIGN_PERIOD);
            match foreign_count(foreign, namespace(quota.as_ref()), context) {
                Err(ask) => return Ok(plan.ask(ask)),
                Ok(Some(count)) => usage.set(resource, Quantity::from_i64(count, Format::DecimalSi)),
                Ok(None) => {}
            }
        }
        plan.again_after(again);
        let old = quota.status.clone().unwrap_or_default();
        let used: BTreeMap<String, Text> =
            hard.keys().map(|name| (name.clone(), usage.get(name, &old))).collect();
        let same = |a: &Option<BTreeMap<String, Text>>, b: &BTreeMap<String, Text>| {
            let a = a.clone().unwrap_or_default();
            a.len() == b.len()
                && b.iter().all(|(name, value)| a.get(name).is_some_and(|have| number(have) == number(value)))
        };
        if !same(&old.hard, &hard) || !same(&old.used, &used) {
            let mut quota = quota.as_ref().clone();
            quota.status = Some(ResourceQuotaStatus { hard: Some(hard), used: Some(used) });
            plan.act(Action::update_status(&quota));
        }
        Ok(plan)
    }

    fn workers(&self) -> usize {
        self.workers
    }
}

/// The number of objects of a kind that no cache holds; `None` when there is no such kind.
fn foreign_count(name: &str, space: &str, context: &Context) -> Result<Option<i64>, Ask> {
    let kinds = match context.answer(&Ask::Kinds) {
        None => return Err(Ask::Kinds),
        Some(Answer::Kinds(kinds)) => kinds,
        Some(_) => return Ok(None),
    };
    let found =
        kinds.resources.iter().find(|resource| resource.namespaced && resource.gvr.to_string() == name);
    let Some(resource) = found else { return Ok(None) };
    let ask = Ask::Meta(format!("{}?limit=0", resource.gvr.collection(space)));
    match context.answer(&ask) {
        None => Err(ask),
        Some(Answer::Json(list)) => {
            Ok(Some(i64::try_from(list["items"].as_array().map_or(0, Vec::len)).unwrap_or(i64::MAX)))
        }
        Some(_) => Ok(None),
    }
}
