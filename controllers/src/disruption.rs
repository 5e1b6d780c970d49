//! Disruption budgets: how many pods may be evicted now. Evictions themselves are the API server's; it takes from
//! what this loop allows and lists the pods it evicted until they are seen going.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, OwnerReference, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use rustc_hash::FxHashMap;
use serde_json::json;

use crate::deployment::facts::resolve;
use crate::meta::{controller_ref, is_terminating, name, namespace};
use crate::pods;
use crate::runtime::{
    Action, Answer, Ask, Change, Context, Controller, Enqueue, Gvr, Key, Note, Plan, ReconcileError, Store,
    Wiring, clock,
};
use crate::selector::Selector;

/// An evicted pod must be seen going within this, or it counts as there again (upstream's DeletionTimeout).
const EVICTION_TIMEOUT: Duration = Duration::from_secs(120);
/// A pod marked as a target of disruption that is still there after this loses the mark (upstream's).
const STALE_TARGET: Duration = Duration::from_secs(120);
const POD_KEY: &str = "pod:";

struct Budgets {
    budgets: Store<PodDisruptionBudget>,
    pods: Store<Pod>,
    replica_sets: Store<ReplicaSet>,
    replication: Store<ReplicationController>,
    deployments: Store<Deployment>,
    stateful: Store<StatefulSet>,
}

/// Builds the loop; its keys are budgets, and pods that carry a mark of disruption.
pub fn build(wiring: &mut Wiring) -> Box<dyn Controller> {
    let budgets = wiring.on_self::<PodDisruptionBudget>();
    let all = budgets.clone();
    let pods = wiring.on::<Pod>(move |change, queue| keys_of_pod(&all, change, queue));
    Box::new(Budgets {
        budgets,
        pods,
        replica_sets: wiring.store(),
        replication: wiring.store(),
        deployments: wiring.store(),
        stateful: wiring.store(),
    })
}

fn keys_of_pod(budgets: &Store<PodDisruptionBudget>, change: &Change<Pod>, queue: &mut Enqueue) {
    let Some(latest) = change.latest() else { return };
    if change.new.as_ref().is_some_and(|pod| is_marked(pod)) {
        let key = Key::new(namespace(latest.as_ref()), &format!("{POD_KEY}{}", name(latest.as_ref())));
        queue.add(key);
    }
    for budget in budgets.in_namespace(namespace(latest.as_ref())) {
        let Some(selector) = selector(&budget) else { continue };
        if change.both().any(|pod| selector.matches(pod.metadata.labels.as_ref())) {
            queue.add(Key::of(budget.as_ref()));
        }
    }
}

fn is_marked(pod: &Pod) -> bool {
    pods::condition(pod, "DisruptionTarget").is_some_and(|c| c.status == "True") && !is_terminating(pod)
}

fn selector(budget: &PodDisruptionBudget) -> Option<Selector> {
    Selector::of(budget.spec.as_ref()?.selector.as_ref()?).ok()
}

/// Why the number of pods is not known.
enum Unknown {
    /// This must be asked first.
    Ask(Ask),
    /// It cannot be known.
    Failed(String),
}

/// How many pods a budget is about, and why that may be unknown.
struct Expected {
    count: i32,
    unmanaged: Vec<String>,
}

impl Controller for Budgets {
    fn reconcile(&self, key: &Key, context: &Context) -> Result<Plan, ReconcileError> {
        if let Some(pod) = key.name.strip_prefix(POD_KEY) {
            return Ok(self.clear_stale(&Key::new(&key.namespace, pod), context));
        }
        let mut plan = Plan::nothing();
        let Some(budget) = self.budgets.get(key) else { return Ok(plan) };
        let selected = selector(&budget);
        let mut pods = self.pods.in_namespace(&key.namespace);
        pods.retain(|pod| selected.as_ref().is_some_and(|s| s.matches(pod.metadata.labels.as_ref())));
        pods.retain(|pod| !pods::is_finished(pod));
        if pods.is_empty() {
            plan.note(Note::normal(budget.as_ref(), "NoPods", "No matching pods found"));
        }
        match self.expected(&budget, &pods, context) {
            Err(Unknown::Ask(ask)) => return Ok(plan.ask(ask)),
            Ok((expected, desired)) => {
                if !expected.unmanaged.is_empty() {
                    let list = expected.unmanaged.join(" ");
                    let message = format!(
                        "Pods selected by this PodDisruptionBudget (selector: {}) were found to be unmanaged. As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. To account for these pods please set \".spec.minAvailable\" field of the PDB to an integer value. [{list}]",
                        show(&budget)
                    );
                    plan.note(Note::warning(budget.as_ref(), "UnmanagedPods", message));
                }
                self.write(&budget, &pods, expected.count, desired, context, &mut plan);
            }
            Err(Unknown::Failed(why)) => {
                let message = format!("Failed to calculate the number of expected pods: {why}");
                plan.note(Note::warning(budget.as_ref(), "CalculateExpectedPodCountFailed", message));
                self.fail_safe(&budget, &why, context, &mut plan);
            }
        }
        Ok(plan)
    }

    fn workers(&self) -> usize {
        2
    }
}

fn show(budget: &PodDisruptionBudget) -> String {
    let labels = budget
        .spec
        .as_ref()
        .and_then(|spec| spec.selector.as_ref()?.match_labels.clone())
        .unwrap_or_default();
    labels.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(",")
}

impl Budgets {
    /// How many pods there should be, and how many of them must stay healthy.
    fn expected(
        &self,
        budget: &PodDisruptionBudget,
        pods: &[Arc<Pod>],
        context: &Context,
    ) -> Result<(Expected, i32), Unknown> {
        let spec = budget.spec.clone().unwrap_or_default();
        let here =
            || Expected { count: i32::try_from(pods.len()).unwrap_or(i32::MAX), unmanaged: Vec::new() };
        if let Some(most) = &spec.max_unavailable {
            let expected = self.scale(pods, context)?;
            let desired = (expected.count - resolve(Some(most), expected.count, true)).max(0);
            return Ok((expected, desired));
        }
        match &spec.min_available {
            Some(IntOrString::Int(least)) => Ok((here(), *least)),
            Some(percent) => {
                let expected = self.scale(pods, context)?;
                let desired = resolve(Some(percent), expected.count, true);
                Ok((expected, desired))
            }
            None => Ok((here(), 1)),
        }
    }

    /// The sum of the scales of all the pods' controllers.
    fn scale(&self, pods: &[Arc<Pod>], context: &Context) -> Result<Expected, Unknown> {
        let mut scales: FxHashMap<String, i32> = FxHashMap::default();
        let mut unmanaged = Vec::new();
        for pod in pods {
            let Some(owner) = controller_ref(&pod.metadata) else {
                unmanaged.push(name(pod.as_ref()).to_string());
                continue;
            };
            let space = namespace(pod.as_ref());
            // Other groups have kinds of these names, too; those are asked for their scale.
            let group = owner.api_version.rsplit_once('/').map_or("", |(group, _)| group);
            let found = match (group, owner.kind.as_str()) {
                ("apps" | "extensions", "ReplicaSet") => self.of_replica_set(space, &owner.name),
                ("", "ReplicationController") => {
                    let found = self.replication.named(space, &owner.name);
                    found.map(|rc| {
                        (owner.uid.clone(), rc.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1))
                    })
                }
                ("apps", "StatefulSet") => {
                    let found = self.stateful.named(space, &owner.name);
                    found.map(|set| {
                        (owner.uid.clone(), set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1))
                    })
                }
                _ => Some((owner.uid.clone(), custom_scale(owner, space, context)?)),
            };
            match found {
                Some((uid, scale)) => scales.insert(uid, scale),
                None => {
                    let why = format!("found no controllers for pod {:?}", name(pod.as_ref()));
                    return Err(Unknown::Failed(why));
                }
            };
        }
        Ok(Expected { count: scales.values().sum(), unmanaged })
    }

    fn of_replica_set(&self, space: &str, set: &str) -> Option<(String, i32)> {
        let set = self.replica_sets.named(space, set)?;
        let owner = controller_ref(&set.metadata).filter(|owner| owner.kind == "Deployment");
        if let Some(owner) = owner {
            let found = self.deployments.named(space, &owner.name);
            let wanted = found.and_then(|d| d.spec.as_ref().and_then(|spec| spec.replicas)).unwrap_or(1);
            return Some((owner.uid.clone(), wanted));
        }
        let wanted = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
        Some((set.metadata.uid.clone().unwrap_or_default(), wanted))
    }

    /// Evictions that are still on their way: the pod is there and not going yet, and not too long ago.
    fn still_evicted(
        &self,
        budget: &PodDisruptionBudget,
        pods: &[Arc<Pod>],
        context: &Context,
        plan: &mut Plan,
    ) -> BTreeMap<String, Time> {
        let listed =
            budget.status.as_ref().and_then(|status| status.disrupted_pods.clone()).unwrap_or_default();
        let waiting = |pod: &str, at: &Time| {
            let found = pods.iter().find(|found| name(found.as_ref()) == pod)?;
            let left = clock::until(clock::add(at.0, EVICTION_TIMEOUT), context.now);
            (!is_terminating(found.as_ref()) && !left.is_zero()).then_some(left)
        };
        let mut kept = BTreeMap::new();
        for (pod, at) in listed {
            if let Some(left) = waiting(&pod, &at) {
                plan.again_after(left);
                kept.insert(pod, at);
            }
        }
        kept
    }

    fn write(
        &self,
        budget: &PodDisruptionBudget,
        pods: &[Arc<Pod>],
        expected: i32,
        desired: i32,
        context: &Context,
        plan: &mut Plan,
    ) {
        let evicted = self.still_evicted(budget, pods, context, plan);
        let healthy = pods.iter().filter(|pod| {
            pods::is_ready(pod) && !is_terminating(pod.as_ref()) && !evicted.contains_key(name(pod.as_ref()))
        });
        let healthy = i32::try_from(healthy.count()).unwrap_or(i32::MAX);
        let allowed = if expected <= 0 { 0 } else { (healthy - desired).max(0) };
        let status = PodDisruptionBudgetStatus {
            current_healthy: Some(healthy),
            desired_healthy: Some(desired),
            expected_pods: Some(expected),
            disruptions_allowed: Some(allowed),
            disrupted_pods: Some(evicted).filter(|map| !map.is_empty()),
            observed_generation: budget.metadata.generation,
            conditions: budget.status.as_ref().and_then(|status| status.conditions.clone()),
        };
        let (value, reason) =
            if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
        put(budget, with_condition(status, value, reason, "", context), plan);
    }

    /// While the number is unknown nothing may be evicted.
    fn fail_safe(&self, budget: &PodDisruptionBudget, why: &str, context: &Context, plan: &mut Plan) {
        let mut status = budget.status.clone().unwrap_or_default();
        status.disruptions_allowed = Some(0);
        status.observed_generation = budget.metadata.generation;
        put(budget, with_condition(status, "False", "SyncFailed", why, context), plan);
    }

    fn clear_stale(&self, key: &Key, context: &Context) -> Plan {
        let mut plan = Plan::nothing();
        let Some(pod) = self.pods.get(key).filter(|pod| is_marked(pod) && !pods::is_finished(pod)) else {
            return plan;
        };
        let since = pods::condition(&pod, "DisruptionTarget").and_then(|c| c.last_transition_time.as_ref());
        let left =
            since.map_or(Duration::ZERO, |at| clock::until(clock::add(at.0, STALE_TARGET), context.now));
        if !left.is_zero() {
            plan.again_after(left);
            return plan;
        }
        let mut conditions =
            pod.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
        for condition in conditions.iter_mut().filter(|condition| condition.type_ == "DisruptionTarget") {
            condition.status = "False".into();
            condition.last_transition_time = Some(Time(context.now));
        }
        let meta = json!({"uid": pod.metadata.uid, "resourceVersion": pod.metadata.resource_version});
        let body = json!({"metadata": meta, "status": {"conditions": conditions}});
        plan.act(Action::merge_status(pod.as_ref(), body).tolerating(&[404]));
        plan
    }
}

/// The replicas of an owner of any other kind, by its scale.
fn custom_scale(owner: &OwnerReference, space: &str, context: &Context) -> Result<i32, Unknown> {
    let kinds = match context.answer(&Ask::Kinds) {
        None => return Err(Unknown::Ask(Ask::Kinds)),
        Some(Answer::Kinds(kinds)) => kinds,
        Some(_) => return Err(Unknown::Failed("discovery failed".into())),
    };
    let (group, version) = owner.api_version.rsplit_once('/').unwrap_or(("", &owner.api_version));
    let found = kinds
        .resources
        .iter()
        .map(|resource| &resource.gvr)
        .find(|gvr| gvr.group == group && gvr.kind == owner.kind);
    let gvr = found.map(|gvr| Gvr { version: version.to_string().into(), ..gvr.clone() });
    let none =
        || Unknown::Failed(format!("{} does not implement the scale subresource", owner.kind.to_lowercase()));
    let ask = Ask::Get(format!("{}/scale", gvr.ok_or_else(none)?.object(space, &owner.name)));
    match context.answer(&ask) {
        None => Err(Unknown::Ask(ask)),
        Some(Answer::Json(scale)) => {
            scale["spec"]["replicas"].as_i64().and_then(|n| i32::try_from(n).ok()).ok_or_else(none)
        }
        Some(_) => Err(none()),
    }
}

fn with_condition(
    mut status: PodDisruptionBudgetStatus,
    value: &str,
    reason: &str,
    message: &str,
    context: &Context,
) -> PodDisruptionBudgetStatus {
    let conditions = status.conditions.get_or_insert_default();
    let old = conditions.iter().find(|condition| condition.type_ == "DisruptionAllowed").cloned();
    let since =
        old.filter(|old| old.status == value).map_or(Time(context.now), |old| old.last_transition_time);
    conditions.retain(|condition| condition.type_ != "DisruptionAllowed");
    conditions.push(Condition {
        type_: "DisruptionAllowed".into(),
        status: value.into(),
        reason: reason.into(),
        message: message.into(),
        last_transition_time: since,
        observed_generation: status.observed_generation,
    });
    status
}

fn put(budget: &PodDisruptionBudget, status: PodDisruptionBudgetStatus, plan: &mut Plan) {
    if budget.status.as_ref() != Some(&status) {
        plan.act(Action::update_status(&PodDisruptionBudget { status: Some(status), ..budget.clone() }));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::testing::crash::check_crashes;
    use crate::testing::model::Model;
    use crate::testing::world::{Scenario, World};

    fn budget(spec: Value) -> Value {
        let mut spec = spec;
        spec["selector"] = json!({"matchLabels": {"app": "web"}});
        json!({"kind": "PodDisruptionBudget", "metadata": {"name": "b", "namespace": "ns"}, "spec": spec})
    }

    fn objects(spec: Value) -> Vec<Value> {
        let set = json!({"kind": "ReplicaSet", "metadata": {"name": "r", "namespace": "ns", "uid": "r"},
            "spec": {"replicas": 4, "selector": {}}});
        let pod = |number: usize| {
            json!({"kind": "Pod", "metadata": {"name": format!("p{number}"), "namespace": "ns", "labels": {"app": "web"},
                    "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "r", "controller": true}]},
                "spec": {"containers": []}, "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}})
        };
        let mut all = vec![budget(spec), set];
        all.extend((0..3).map(pod));
        all
    }

    #[test]
    fn custom_owners_are_asked_for_their_scale() {
        for (version, kind) in [("example.com/v1", "Flock"), ("apps.kruise.io/v1beta1", "StatefulSet")] {
            let mut all = objects(json!({"maxUnavailable": 1}));
            for pod in &mut all[2..] {
                pod["metadata"]["ownerReferences"][0]["apiVersion"] = version.into();
                pod["metadata"]["ownerReferences"][0]["kind"] = kind.into();
            }
            let asked = crate::testing::Case::new(super::build, &all).plan("ns/b");
            assert_eq!(asked.asks, [crate::runtime::Ask::Kinds], "{version} {kind}");
        }
    }

    fn status(scenario: &Scenario) -> Value {
        let mut world = World::start(scenario, None, false);
        world.run();
        world.shared.model.lock().get("PodDisruptionBudget", "ns", "b").expect("the budget")["status"].clone()
    }

    #[test]
    fn what_is_allowed() {
        let cases = [
            (json!({"minAvailable": 2}), [3, 2, 3, 1]),
            (json!({"maxUnavailable": 2}), [3, 2, 4, 1]),
            (json!({"minAvailable": "50%"}), [3, 2, 4, 1]),
            (json!({"maxUnavailable": "25%"}), [3, 3, 4, 0]),
        ];
        for (spec, expected) in cases {
            let status = status(&Scenario::new(&[super::build], &objects(spec.clone())));
            let fields = ["currentHealthy", "desiredHealthy", "expectedPods", "disruptionsAllowed"];
            assert_eq!(
                fields.map(|field| status[field].as_i64().unwrap_or(-1)),
                expected.map(i64::from),
                "{spec}"
            );
        }
    }

    fn evict(model: &mut Model) {
        let at = model.now.to_string();
        model.edit("PodDisruptionBudget", "ns", "b", |budget| {
            budget["status"]["disruptionsAllowed"] = json!(0);
            budget["status"]["disruptedPods"] = json!({"p0": at});
        });
        model.vanish("Pod", "ns", "p0");
    }

    #[test]
    fn evictions_are_settled_whatever_dies() {
        let mut scenario = Scenario::new(&[super::build], &objects(json!({"minAvailable": 1})));
        scenario.steps = vec![evict];
        let settled = status(&scenario);
        assert_eq!((&settled["disruptionsAllowed"], &settled["disruptedPods"]), (&json!(1), &Value::Null));
        check_crashes(&scenario);
    }
}
