//! Rolling a DaemonSet over: delete old pods within what may be unavailable, or surge new ones beside them.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::Run;
use crate::deployment::facts::resolve;
use crate::meta::{created_at, is_terminating, name};

/// What a rollout does next.
#[derive(Default)]
pub struct Rolling {
    /// Nodes that get a new pod beside the old one.
    pub create: Vec<String>,
    /// Old pods to go.
    pub delete: Vec<Arc<Pod>>,
}

fn limits(run: &Run) -> (i32, i32) {
    let desired =
        i32::try_from(run.nodes.values().filter(|placed| placed.should_run).count()).unwrap_or(i32::MAX);
    let strategy = run.set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref());
    let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
    let surge = resolve(rolling.and_then(|rolling| rolling.max_surge.as_ref()), desired, true);
    let default = IntOrString::Int(1);
    let unavailable = rolling.and_then(|rolling| rolling.max_unavailable.as_ref()).unwrap_or(&default);
    let unavailable = resolve(Some(unavailable), desired, true);
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
}

/// The next step; nothing with `OnDelete`.
pub fn roll(run: &Run) -> Rolling {
    let strategy = run.set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref());
    if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("OnDelete") {
        return Rolling::default();
    }
    let (surge, unavailable) = limits(run);
    if surge == 0 { replace(run, unavailable) } else { surge_over(run, surge) }
}

/// A node's new and old pod.
type Pair<'p> = (Option<&'p Arc<Pod>>, Option<&'p Arc<Pod>>);

/// The new and the old pod of a node, unless there are several of a sort (then managing sorts that out first).
fn pair<'p>(run: &Run, pods: &'p [Arc<Pod>]) -> Option<Pair<'p>> {
    let alive = || pods.iter().filter(|pod| !is_terminating(pod.as_ref()));
    let mut new = alive().filter(|pod| run.is_updated(pod));
    let mut old = alive().filter(|pod| !run.is_updated(pod));
    let pair = (new.next(), old.next());
    (new.next().is_none() && old.next().is_none()).then_some(pair)
}

fn replace(run: &Run, max_unavailable: i32) -> Rolling {
    let (mut unavailable, mut broken, mut candidates) = (0, Vec::new(), Vec::new());
    for pods in run.by_node.values() {
        match pair(run, pods) {
            Some((Some(new), None)) => unavailable += i32::from(!run.is_available(new)),
            Some((None, Some(old))) if run.is_available(old) => candidates.push(old.clone()),
            Some((None, Some(old))) => {
                // It serves nobody, so replacing it costs nothing.
                broken.push(old.clone());
                unavailable += 1;
            }
            _ => unavailable += 1,
        }
    }
    let room = usize::try_from(max_unavailable - unavailable).unwrap_or(0);
    broken.extend(candidates.into_iter().take(room));
    Rolling { create: Vec::new(), delete: broken }
}

fn surge_over(run: &Run, max_surge: i32) -> Rolling {
    let mut rolling = Rolling::default();
    let (mut surging, mut available) = (0, 0);
    let (mut candidates, mut leaving) = (Vec::new(), Vec::new());
    for (node, pods) in &run.by_node {
        let Some((new, old)) = pair(run, pods) else {
            surging += 1;
            continue;
        };
        let serving = old.or(new).is_some_and(|pod| run.is_available(pod));
        available += i32::from(serving);
        let should_run = run.nodes.get(node).is_some_and(|placed| placed.should_run);
        match (new, old) {
            (_, None) => {}
            (None, Some(old)) if !serving && !should_run => rolling.delete.push(old.clone()),
            (None, Some(_)) if !serving => rolling.create.push(node.clone()),
            (None, Some(old)) if !should_run => leaving.push(old.clone()),
            (None, Some(_)) => candidates.push(node.clone()),
            (Some(new), Some(old)) if run.is_available(new) => rolling.delete.push(old.clone()),
            (Some(_), Some(_)) => surging += 1,
        }
    }
    let desired =
        i32::try_from(run.nodes.values().filter(|placed| placed.should_run).count()).unwrap_or(i32::MAX);
    rolling.delete.extend(leaving.into_iter().take(usize::try_from(available - desired).unwrap_or(0)));
    let room = usize::try_from(max_surge - surging).unwrap_or(0);
    rolling.create.extend(candidates.into_iter().take(room));
    rolling
}

/// Pods beyond the one a node needs; while surging a node may have an old one and a new one.
pub fn surplus(run: &Run, running: Vec<Arc<Pod>>) -> Vec<Arc<Pod>> {
    let mut oldest_first = running;
    let order = |pod: &Arc<Pod>| {
        (crate::pods::node_name(pod).is_empty(), created_at(&pod.metadata), name(pod.as_ref()).to_string())
    };
    oldest_first.sort_by_key(order);
    let surges = limits(run).0 > 0;
    if !surges {
        return oldest_first.into_iter().skip(1).collect();
    }
    let (new, old): (Vec<_>, Vec<_>) = oldest_first.into_iter().partition(|pod| run.is_updated(pod));
    let mut doomed: Vec<Arc<Pod>> = new.iter().skip(1).chain(old.iter().skip(1)).cloned().collect();
    // Once the new one serves the old one has done its part.
    if let (Some(new), Some(old)) = (new.first(), old.first())
        && run.is_available(new)
    {
        doomed.push(old.clone());
    }
    doomed
}
