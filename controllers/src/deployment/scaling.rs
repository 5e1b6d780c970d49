//! Scaling a deployment between rollouts, or while one is paused or under way: in proportion to the size of each
//! replica set, so that a bad rollout does not gain or lose share.

use k8s_openapi::api::apps::v1::Deployment;

use super::facts;
use super::sets::{Set, Sets};
use crate::meta::{annotation, created_at};

/// Scales the replica sets to the wanted number.
pub fn scale(deployment: &Deployment, sets: &mut Sets) {
    let total = facts::wanted(deployment);
    if let Some(only) = only_active_or_latest(sets) {
        only.scale(deployment, total, false);
        return;
    }
    if is_saturated(deployment, sets.new.as_ref()) {
        for set in sets.old.iter_mut().filter(|set| set.wanted() > 0) {
            set.scale(deployment, 0, false);
        }
        return;
    }
    if !facts::recreates(deployment) {
        in_proportion(deployment, sets);
    }
}

/// The only replica set with replicas, or the newest when none has any.
fn only_active_or_latest(sets: &mut Sets) -> Option<&mut Set> {
    let active = sets.all().filter(|set| set.wanted() > 0).count();
    match active {
        0 if sets.new.is_some() => sets.new.as_mut(),
        0 => sets.old.last_mut(),
        1 => sets.all_mut().find(|set| set.wanted() > 0),
        _ => None,
    }
}

fn is_saturated(deployment: &Deployment, new: Option<&Set>) -> bool {
    let total = facts::wanted(deployment);
    let Some(new) = new else { return false };
    let desired = annotation(&new.set, facts::DESIRED).and_then(|text| text.parse::<i32>().ok());
    new.wanted() == total && desired == Some(total) && facts::set_available(&new.set) == total
}

fn in_proportion(deployment: &Deployment, sets: &mut Sets) {
    let total = facts::wanted(deployment);
    let allowed = if total > 0 { total + facts::max_surge(deployment) } else { 0 };
    let mut active: Vec<&mut Set> = sets.all_mut().filter(|set| set.wanted() > 0).collect();
    let to_add = allowed - active.iter().map(|set| set.wanted()).sum::<i32>();
    // Largest first; among equals newer ones grow first and older ones shrink first.
    active.sort_by_key(|set| {
        let age = created_at(&set.set.metadata);
        (-set.wanted(), if to_add > 0 { -age } else { age })
    });
    let mut added = 0;
    let mut sizes = Vec::with_capacity(active.len());
    for set in &active {
        let share = if to_add == 0 { 0 } else { proportion(deployment, set, to_add, added) };
        sizes.push(set.wanted() + share);
        added += share;
    }
    if let Some(first) = sizes.first_mut() {
        *first = (*first + to_add - added).max(0);
    }
    for (set, size) in active.into_iter().zip(sizes) {
        set.scale(deployment, size, true);
    }
}

/// The part of `to_add` that falls to one replica set, never more than what is left of it.
fn proportion(deployment: &Deployment, set: &Set, to_add: i32, added: i32) -> i32 {
    let allowed = to_add - added;
    let share = fraction(deployment, set);
    if to_add > 0 { share.min(allowed) } else { share.max(allowed) }
}

fn fraction(deployment: &Deployment, set: &Set) -> i32 {
    let total = facts::wanted(deployment);
    if total == 0 {
        return -set.wanted();
    }
    let new_max = total + facts::max_surge(deployment);
    let noted =
        annotation(&set.set, facts::MAX).and_then(|text| text.parse::<i32>().ok()).filter(|max| *max > 0);
    let status = deployment.status.as_ref().and_then(|status| status.replicas).unwrap_or(0);
    let old_max = noted.unwrap_or(status).max(1);
    let size = f64::from(set.wanted()) * f64::from(new_max) / f64::from(old_max);
    // Rounded half away from zero, as upstream rounds.
    size.round() as i32 - set.wanted()
}
