//! What a pod is promised of the machine: the resources its containers start with, its cgroup has and its neighbours
//! leave to it. What it wants beyond that waits until there is room.
//!
//! A promise is the pod itself with the resources promised in place of those wanted, so that everything below needs to
//! know one pod only. It is kept in a file (`worker::promises`); of pods that this does not know, an agent that starts anew
//! takes what was reported.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::checkpoint::PodResources;
use super::resize::{RESIZABLE, Standing, same_resources};
use super::spec;

/// What this machine says to changed resources.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Verdict {
    /// There is room for them now.
    #[default]
    Feasible,
    /// There will be room once others leave. The text is upstream's.
    Deferred(String),
    /// There never will be.
    Infeasible(String),
}

impl Verdict {
    /// What keeps the resize from beginning.
    pub fn pending(self) -> Option<Standing> {
        match self {
            Verdict::Feasible => None,
            Verdict::Deferred(message) => Some(Standing::Pending("Deferred", message)),
            Verdict::Infeasible(message) => Some(Standing::Pending("Infeasible", message)),
        }
    }
}

/// The promise to `wanted` after `promised`, and why it is not all that is wanted, if so. Asks `judge` only where they
/// differ.
pub fn promise(
    promised: &Pod,
    wanted: &Arc<Pod>,
    judge: impl FnOnce(&Pod) -> Verdict,
) -> (Arc<Pod>, Option<Standing>) {
    let kept = with_resources(wanted, |name| resources_of(promised, name));
    if Arc::ptr_eq(&kept, wanted) {
        return (kept, None);
    }
    match judge(wanted).pending() {
        None => (Arc::clone(wanted), None),
        pending => (kept, pending),
    }
}

/// What an agent before this one had promised: what it reported that containers have. Of what it did not report nothing
/// was started, and its spec counts.
pub fn reported(pod: &Arc<Pod>) -> Arc<Pod> {
    let status = spec::status(pod);
    let containers = || status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    with_resources(pod, |name| match name {
        WHOLE => status.resources.clone(),
        name => containers().find(|s| s.name == name)?.resources.clone(),
    })
}

/// What an agent before this one had promised, as it remembered.
pub fn recalled(pod: &Arc<Pod>, record: &PodResources) -> Arc<Pod> {
    with_resources(pod, |name| match name {
        WHOLE => record.whole.clone(),
        name => record.containers.get(name).cloned(),
    })
}

/// What is to be remembered of a promise.
pub fn record(promised: &Pod) -> PodResources {
    let containers = spec::init_containers(promised).iter().chain(spec::containers(promised));
    let own = containers.map(|c| (c.name.clone(), c.resources.clone().unwrap_or_default()));
    PodResources {
        containers: own.collect(),
        whole: promised.spec.as_ref().and_then(|s| s.resources.clone()),
    }
}

/// The name under which a pod's own resources stand beside its containers'.
const WHOLE: &str = "";

/// What `pod` gives the container of that name; `None` where there is no such container.
fn resources_of(pod: &Pod, name: &str) -> Option<ResourceRequirements> {
    if name == WHOLE {
        return Some(pod.spec.as_ref()?.resources.clone().unwrap_or_default());
    }
    let mut containers = spec::init_containers(pod).iter().chain(spec::containers(pod));
    Some(containers.find(|c| c.name == name)?.resources.clone().unwrap_or_default())
}

/// `pod` with what can be resized as `theirs` has it; itself where that is the same or not known.
fn with_resources(pod: &Arc<Pod>, theirs: impl Fn(&str) -> Option<ResourceRequirements>) -> Arc<Pod> {
    let differs = |name: &str| {
        let (theirs, ours) = (theirs(name)?, resources_of(pod, name)?);
        (!same_resources(&theirs, &ours)).then_some(theirs)
    };
    let containers = spec::init_containers(pod).iter().chain(spec::containers(pod));
    let mut names = containers.map(|c| c.name.as_str()).chain([WHOLE]);
    if names.all(|name| differs(name).is_none()) {
        return Arc::clone(pod);
    }
    let mut result = Pod::clone(pod);
    if let Some(spec) = &mut result.spec {
        let containers = spec.init_containers.iter_mut().flatten().chain(&mut spec.containers);
        let containers = containers.map(|c| (c.name.as_str(), &mut c.resources));
        for (name, ours) in containers.chain([(WHOLE, &mut spec.resources)]) {
            if let Some(theirs) = differs(name) {
                take_over(&theirs, ours.get_or_insert_default());
            }
        }
    }
    Arc::new(result)
}

fn take_over(theirs: &ResourceRequirements, ours: &mut ResourceRequirements) {
    for name in RESIZABLE {
        set(&mut ours.requests, name, theirs.requests.as_ref());
        set(&mut ours.limits, name, theirs.limits.as_ref());
    }
}

type Amounts = BTreeMap<String, Quantity>;

fn set(ours: &mut Option<Amounts>, name: &str, theirs: Option<&Amounts>) {
    match theirs.and_then(|list| list.get(name)) {
        Some(amount) => {
            ours.get_or_insert_default().insert(name.to_owned(), amount.clone());
        }
        None => {
            ours.as_mut().and_then(|list| list.remove(name));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// A pod with an init container, a container and resources as a whole, and the status of an agent before.
    fn pod(label: &str, resources: [Value; 3], status: Value) -> Arc<Pod> {
        let [init, container, whole] = resources;
        let pod = json!({"metadata": {"labels": {"l": label}}, "status": status, "spec": {"resources": whole,
            "initContainers": [{"name": "i", "resources": init}], "containers": [{"name": "c", "resources": container}]}});
        Arc::new(serde_json::from_value(pod).expect("a pod"))
    }

    fn cpu(request: &str) -> Value {
        json!({"requests": {"cpu": request, "memory": "1Gi", "x/gpu": "1"}})
    }

    /// What is promised: label, and resources of init container, container and the whole.
    fn shown(pod: &Pod) -> (String, [Value; 3]) {
        let of = |r: Option<&ResourceRequirements>| serde_json::to_value(r).expect("JSON");
        let label = pod.metadata.labels.as_ref().map(|l| l["l"].clone()).unwrap_or_default();
        let whole = of(pod.spec.as_ref().and_then(|s| s.resources.as_ref()));
        let [init, container] =
            [spec::init_containers(pod), spec::containers(pod)].map(|c| of(c[0].resources.as_ref()));
        (label, [init, container, whole])
    }

    #[test]
    fn a_promise_changes_where_there_is_room() {
        let check = |before: [Value; 3], wanted: [Value; 3], verdict: Verdict, expected: [Value; 3]| {
            let asked = std::cell::Cell::new(false);
            let differs = before != wanted;
            let (promised, pending) =
                promise(&pod("old", before, json!(null)), &pod("new", wanted, json!(null)), |wanted| {
                    assert_eq!(shown(wanted).0, "new", "the judge sees what is wanted");
                    asked.set(true);
                    verdict.clone()
                });
            assert_eq!(shown(&promised), ("new".to_owned(), expected));
            assert_eq!((asked.get(), pending), (differs, verdict.pending()));
        };
        let of = |c: &str| [cpu("1"), cpu(c), cpu("4")];
        let (deferred, infeasible) = (Verdict::Deferred("full".into()), Verdict::Infeasible("small".into()));
        check(of("1"), of("1"), Verdict::Feasible, of("1"));
        check(of("1"), of("2"), Verdict::Feasible, of("2"));
        check(of("1"), of("2"), deferred.clone(), of("1"));
        check(of("1"), of("2"), infeasible, of("1"));
        // What cannot be resized is as it is wanted; what was added is not there yet.
        let other = |list: Value| [json!(null), list, json!(null)];
        check(
            other(json!({"requests": {"cpu": "1", "x/gpu": "1"}})),
            other(json!({"requests": {"cpu": "2", "x/gpu": "2"}, "limits": {"cpu": "3", "x/gpu": "2"}})),
            deferred.clone(),
            other(json!({"requests": {"cpu": "1", "x/gpu": "2"}, "limits": {"x/gpu": "2"}})),
        );
        let [init, container] = [cpu("1"), cpu("2")];
        let whole = |w: &str| [init.clone(), container.clone(), cpu(w)];
        check(whole("1"), whole("2"), deferred, whole("1"));
    }

    #[test]
    fn amounts_written_otherwise_are_the_same() {
        let of = |c: &str| pod("l", [json!(null), cpu(c), json!(null)], json!(null));
        let wanted = of("1000m");
        let (promised, pending) = promise(&of("1"), &wanted, |_| panic!("nothing to judge"));
        assert!(Arc::ptr_eq(&promised, &wanted) && pending.is_none());
    }

    #[test]
    fn an_agent_that_starts_anew_keeps_what_was_recorded() {
        let of = |c: &str| pod("l", [cpu(c), cpu(c), cpu(c)], json!(null));
        let wanted = of("2");
        assert_eq!(shown(&recalled(&wanted, &record(&of("1")))).1, shown(&of("1")).1);
        assert!(
            Arc::ptr_eq(&recalled(&wanted, &PodResources::default()), &wanted),
            "of what is not recorded the spec counts"
        );
    }

    #[test]
    fn an_agent_that_starts_anew_keeps_what_was_reported() {
        let check = |status: Value, expected: [&str; 3]| {
            let pod = pod("l", [cpu("2"), cpu("2"), cpu("2")], status);
            assert_eq!(shown(&reported(&pod)).1, expected.map(cpu));
        };
        let container = |name: &str, resources: Value| json!({"name": name, "image": "", "imageID": "", "ready": true, "restartCount": 0, "resources": resources});
        check(json!(null), ["2", "2", "2"]);
        check(json!({"containerStatuses": [container("c", json!(null))]}), ["2", "2", "2"]);
        check(json!({"containerStatuses": [container("c", cpu("1"))]}), ["2", "1", "2"]);
        check(
            json!({"initContainerStatuses": [container("i", cpu("1"))], "resources": cpu("1")}),
            ["1", "2", "1"],
        );
    }
}
