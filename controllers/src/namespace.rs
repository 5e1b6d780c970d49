//! Empties namespaces that are being deleted and lets them go: pods first, then everything discovery knows, until
//! nothing is left. What keeps a namespace is told in its conditions, with upstream's reasons and texts.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::Value;

use crate::meta::{is_terminating, namespace};
use crate::runtime::plan::{Discovery, ServedResource};
use crate::runtime::{
    Action, Answer, Ask, Context, Controller, Failure, Key, Pace, Plan, ReconcileError, Store, Verb, Wiring,
    clock,
};

/// The finalizer every namespace is made with.
const FINALIZER: &str = "kubernetes";
/// Between two looks at a namespace whose content goes slowly: a quarter of the time it has taken so far, within
/// these bounds. Deletions of pods wake it before.
const LOOK_MIN: Duration = Duration::from_millis(50);
const LOOK_MAX: Duration = Duration::from_secs(5);

struct Namespaces {
    namespaces: Store<Namespace>,
    workers: usize,
}

/// Builds the loop.
pub fn build(wiring: &mut Wiring) -> Box<dyn Controller> {
    let namespaces = wiring.on::<Namespace>(|change, queue| {
        if let Some(space) = change.new.as_ref().filter(|space| is_terminating(space.as_ref())) {
            queue.add(Key::of(space.as_ref()));
        }
    });
    let all = namespaces.clone();
    wiring.on::<Pod>(move |change, queue| {
        if let (Some(pod), None) = (&change.old, &change.new) {
            let key = Key::cluster(namespace(pod.as_ref()));
            if all.get(&key).is_some_and(|space| is_terminating(space.as_ref())) {
                queue.add_after(key, LOOK_MIN);
            }
        }
    });
    Box::new(Namespaces { namespaces, workers: wiring.options().workers.namespace })
}

/// What one look at the content found.
#[derive(Default)]
struct Content {
    /// Resources with objects that nobody has deleted yet.
    undeleted: Vec<ServedResource>,
    /// Objects on their way out, by resource.
    remaining: BTreeMap<String, usize>,
    /// What holds them, by finalizer.
    finalizers: BTreeMap<String, usize>,
    /// What could not be looked at.
    failures: Vec<String>,
}

impl Controller for Namespaces {
    fn reconcile(&self, key: &Key, context: &Context) -> Result<Plan, ReconcileError> {
        let Some(space) = self.namespaces.get(key).filter(|space| is_terminating(space.as_ref())) else {
            return Ok(Plan::nothing());
        };
        if phase(&space) != "Terminating" {
            let mut plan = Plan::nothing();
            let mut space = space.as_ref().clone();
            space.status.get_or_insert_default().phase = Some("Terminating".into());
            plan.act(Action::update_status(&space));
            return Ok(plan);
        }
        let ours = |space: &Namespace| {
            space.spec.iter().flat_map(|spec| spec.finalizers.iter().flatten()).any(|f| f == FINALIZER)
        };
        if !ours(&space) {
            return Ok(Plan::nothing());
        }
        let discovery = match context.answer(&Ask::Kinds) {
            None => return Ok(Plan::nothing().ask(Ask::Kinds)),
            Some(Answer::Kinds(found)) => found.clone(),
            Some(Answer::Failed(failure)) => return Ok(discovery_failed(&space, failure, context)),
            Some(Answer::Json(_)) => return Ok(Plan::nothing()),
        };
        match look(&key.name, &discovery, context) {
            Err(asks) => Ok(Plan { asks, ..Plan::nothing() }),
            Ok(content) => Ok(decide(&space, &discovery, content, context)),
        }
    }

    fn workers(&self) -> usize {
        self.workers
    }
}

fn phase(space: &Namespace) -> &str {
    space.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("")
}

fn deletable(discovery: &Discovery) -> impl Iterator<Item = &ServedResource> {
    discovery
        .resources
        .iter()
        .filter(|resource| resource.namespaced && resource.can("delete") && resource.can("list"))
}

fn list_of(resource: &ServedResource, namespace: &str) -> Ask {
    // From the API server's cache (resourceVersion 0) would be cheaper but may be old; this must be the truth.
    Ask::Meta(format!("{}?limit=0", resource.gvr.collection(namespace)))
}

/// Lists everything in the namespace; the questions when not all is known yet.
fn look(space: &str, discovery: &Discovery, context: &Context) -> Result<Content, Vec<Ask>> {
    let mut content = Content::default();
    let mut asks = Vec::new();
    for resource in deletable(discovery) {
        let ask = list_of(resource, space);
        match context.answer(&ask) {
            None => asks.push(ask),
            Some(Answer::Json(list)) => content.add(resource, list),
            // A kind that has disappeared, or that cannot be listed, has nothing to delete.
            Some(Answer::Failed(failure)) if matches!(failure.code, 404 | 405) => {}
            Some(Answer::Failed(failure)) => content.failures.push(failure.message.clone()),
            Some(Answer::Kinds(_)) => {}
        }
    }
    if asks.is_empty() { Ok(content) } else { Err(asks) }
}

impl Content {
    fn add(&mut self, resource: &ServedResource, list: &Value) {
        let items = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        let going = items.iter().filter(|item| !item["metadata"]["deletionTimestamp"].is_null());
        let mut count = 0;
        for item in going {
            count += 1;
            let finalizers = item["metadata"]["finalizers"].as_array().into_iter().flatten();
            for finalizer in finalizers.filter_map(Value::as_str) {
                *self.finalizers.entry(finalizer.to_string()).or_default() += 1;
            }
        }
        if count < items.len() {
            self.undeleted.push(resource.clone());
        }
        if count > 0 {
            let name = format!("{}.{}", resource.gvr.plural, resource.gvr.group);
            self.remaining.insert(name, count);
        }
    }

    fn is_empty(&self) -> bool {
        self.undeleted.is_empty() && self.remaining.is_empty() && self.failures.is_empty()
    }
}

fn decide(space: &Namespace, discovery: &Discovery, mut content: Content, context: &Context) -> Plan {
    let mut plan = Plan::nothing();
    if content.is_empty() && discovery.failed.is_empty() {
        return finish(space, context);
    }
    // Pods go before what they use (network policies, secrets, volumes).
    let pods_left = content.remaining.contains_key("pods.") || content.undeleted.iter().any(is_pods);
    if pods_left {
        content.undeleted.retain(is_pods);
    }
    if let Some(failure) = context.failure.filter(|failure| failure.code != 409) {
        content.failures.push(failure.message.clone());
    }
    let name = space.metadata.name.as_deref().unwrap_or("");
    let deletions = content.undeleted.iter().map(|resource| {
        let action = Action::on(&resource.gvr, name, "", Verb::DeleteCollection);
        action.tolerating(&[404, 405])
    });
    let deletions: Vec<Action> = deletions.filter(|action| can_delete_all(discovery, action)).collect();
    if let Some(updated) = with_conditions(space, conditions(discovery, &content, context.now)) {
        plan.act(Action::update_status(&updated));
    }
    let deleting = !deletions.is_empty();
    plan.act_all(Pace::Parallel, deletions);
    let since = space.metadata.deletion_timestamp.as_ref().map_or(context.now, |at| at.0);
    let look = (clock::since(since, context.now) / 4).clamp(LOOK_MIN, LOOK_MAX);
    plan.again_after(if deleting { LOOK_MIN } else { look });
    plan
}

fn is_pods(resource: &ServedResource) -> bool {
    resource.gvr.group.is_empty() && resource.gvr.plural == "pods"
}

/// Kinds without `deletecollection` do not hold a namespace's other content up.
fn can_delete_all(discovery: &Discovery, action: &Action) -> bool {
    deletable(discovery).any(|resource| resource.gvr == action.gvr && resource.can("deletecollection"))
}

fn finish(space: &Namespace, context: &Context) -> Plan {
    let mut plan = Plan::nothing();
    let done = conditions(&Discovery::default(), &Content::default(), context.now);
    // Conditions are told only where some were told before: most namespaces go at once.
    let told = space.status.as_ref().is_some_and(|status| status.conditions.is_some());
    if let Some(updated) = with_conditions(space, done).filter(|_| told) {
        plan.act(Action::update_status(&updated));
        plan.again_after(LOOK_MIN);
        return plan;
    }
    let mut space = space.clone();
    if let Some(finalizers) = space.spec.as_mut().and_then(|spec| spec.finalizers.as_mut()) {
        finalizers.retain(|finalizer| finalizer != FINALIZER);
    }
    let mut action = Action::update(&space);
    if let Verb::Update { subresource, .. } = &mut action.verb {
        *subresource = "finalize";
    }
    plan.act(action.tolerating(&[404]));
    plan
}

fn discovery_failed(space: &Namespace, failure: &Failure, context: &Context) -> Plan {
    let mut plan = Plan::nothing();
    let discovery =
        Discovery { failed: vec![(String::new(), failure.message.clone())], ..Discovery::default() };
    if let Some(updated) = with_conditions(space, conditions(&discovery, &Content::default(), context.now)) {
        plan.act(Action::update_status(&updated));
    }
    plan.problem = Some(failure.clone());
    plan
}

fn conditions(discovery: &Discovery, content: &Content, now: Timestamp) -> Vec<NamespaceCondition> {
    let list = |counts: &BTreeMap<String, usize>, word: &str| {
        counts
            .iter()
            .map(|(what, n)| format!("{what} {word} {n} resource instances"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let failed = |groups: &[(String, String)]| {
        let texts: Vec<_> = groups.iter().map(|(group, why)| format!("{group}: {why}")).collect();
        let listed = texts.join(", ");
        format!(
            "Discovery failed for some groups, {} failing: unable to retrieve the complete list of server APIs: {listed}",
            groups.len()
        )
    };
    let failures = format!(
        "Failed to delete all resource types, {} remaining: {}",
        content.failures.len(),
        content.failures.join(", ")
    );
    let remaining = format!("Some resources are remaining: {}", list(&content.remaining, "has"));
    let held = format!(
        "Some content in the namespace has finalizers remaining: {}",
        list(&content.finalizers, "in")
    );
    let rows = [
        (
            "NamespaceDeletionDiscoveryFailure",
            (!discovery.failed.is_empty()).then(|| ("DiscoveryFailed", failed(&discovery.failed))),
            ("ResourcesDiscovered", "All resources successfully discovered"),
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            None,
            ("ParsedGroupVersions", "All legacy kube types successfully parsed"),
        ),
        (
            "NamespaceDeletionContentFailure",
            (!content.failures.is_empty()).then_some(("ContentDeletionFailed", failures)),
            ("ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
        ),
        (
            "NamespaceContentRemaining",
            (!content.remaining.is_empty()).then_some(("SomeResourcesRemain", remaining)),
            ("ContentRemoved", "All content successfully removed"),
        ),
        (
            "NamespaceFinalizersRemaining",
            (!content.finalizers.is_empty()).then_some(("SomeFinalizersRemain", held)),
            ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
        ),
    ];
    let condition = |(kind, problem, (reason, message)): (&str, Option<(&str, String)>, (&str, &str))| {
        let (status, reason, message) = match problem {
            Some((reason, message)) => ("True", reason, message),
            None => ("False", reason, message.to_string()),
        };
        NamespaceCondition {
            type_: kind.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message),
            last_transition_time: Some(Time(now)),
        }
    };
    rows.into_iter().map(condition).collect()
}

/// The namespace with these conditions, if that changes anything; unchanged ones keep their time.
fn with_conditions(space: &Namespace, new: Vec<NamespaceCondition>) -> Option<Namespace> {
    let mut updated = space.clone();
    let have = updated.status.get_or_insert_default().conditions.get_or_insert_default();
    let mut changed = false;
    for mut condition in new {
        let Some(old) = have.iter_mut().find(|old| old.type_ == condition.type_) else {
            have.push(condition);
            changed = true;
            continue;
        };
        if old.status == condition.status
            && old.reason == condition.reason
            && old.message == condition.message
        {
            continue;
        }
        if old.status == condition.status {
            condition.last_transition_time = old.last_transition_time.clone();
        }
        *old = condition;
        changed = true;
    }
    changed.then_some(updated)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::testing::check;
    use crate::testing::crash::check_crashes;
    use crate::testing::model::Model;
    use crate::testing::world::{Scenario, World};

    fn space(terminating: bool) -> Value {
        let mut space = json!({"kind": "Namespace", "metadata": {"name": "ns"}, "spec": {"finalizers": ["kubernetes"]},
            "status": {"phase": "Active"}});
        if terminating {
            space["metadata"]["deletionTimestamp"] = crate::testing::NOW.into();
        }
        space
    }

    #[test]
    fn cases() {
        check(super::build, "ns", &[space(false)], "");
        check(super::build, "ns", &[space(true)], "update /api/v1/namespaces/ns/status");
    }

    fn content() -> Vec<Value> {
        let held = json!({"kind": "ConfigMap", "metadata": {"name": "held", "namespace": "ns", "finalizers": ["a/b"]}});
        let pod = json!({"kind": "Pod", "metadata": {"name": "p", "namespace": "ns"}, "spec": {"nodeName": "n", "containers": []}});
        let other = json!({"kind": "Secret", "metadata": {"name": "s", "namespace": "other"}});
        vec![
            space(false),
            held,
            pod,
            other,
            json!({"kind": "Secret", "metadata": {"name": "s", "namespace": "ns"}}),
        ]
    }

    fn remove(model: &mut Model) {
        model.remove("Namespace", "", "ns", None);
    }

    fn release(model: &mut Model) {
        model.edit("ConfigMap", "ns", "held", |map| map["metadata"]["finalizers"] = Value::Null);
    }

    fn stop_pods(model: &mut Model) -> bool {
        let doomed = model.all("Pod").iter().any(|pod| !pod["metadata"]["deletionTimestamp"].is_null());
        model.vanish_if(doomed, "Pod", "ns", "p")
    }

    #[test]
    fn everything_goes_and_what_holds_is_told() {
        let mut scenario = Scenario::new(&[super::build], &content());
        scenario.steps = vec![remove];
        scenario.surroundings = stop_pods;
        scenario.horizon = std::time::Duration::from_secs(30);
        let mut world = World::start(&scenario, None, false);
        world.run();
        let held = world.shared.model.lock().get("Namespace", "", "ns").expect("held by a finalizer");
        let told = held["status"]["conditions"].to_string();
        assert!(
            told.contains(
                "Some content in the namespace has finalizers remaining: a/b in 1 resource instances"
            ),
            "{told}"
        );
        assert!(
            told.contains("Some resources are remaining: configmaps. has 1 resource instances"),
            "{told}"
        );
        scenario.steps.push(release);
        let mut world = World::start(&scenario, None, false);
        world.run();
        let model = world.shared.model.lock();
        assert!(model.get("Namespace", "", "ns").is_none());
        assert!(model.get("Secret", "other", "s").is_some(), "other namespaces are left alone");
        drop(model);
        check_crashes(&scenario);
    }
}
