//! What must hold between the counters of a workload's status.

use machinery::status::FieldError;

use crate::contract::Object;
use crate::kinds::at::At;
use crate::kinds::checks::{Errors, non_negative};
use crate::kinds::json::int;

/// Counters are not negative, none exceeds `replicas`, and available pods are ready ones.
pub fn counters(new: &Object, bounded: &[&str], others: &[&str], ready_sentence: &str, errors: &mut Errors) {
    let root = At::root(new);
    let status = root.get("status");
    for name in ["replicas"].iter().chain(bounded).chain(others) {
        errors.extend(non_negative(&status.get(name)));
    }
    let of = |name: &str| status.get(name).int().unwrap_or_default();
    let replicas = of("replicas");
    for name in bounded.iter().filter(|name| of(name) > replicas) {
        let detail = "cannot be greater than status.replicas";
        errors.push(FieldError::invalid(&status.get(name), of(name), detail));
    }
    if bounded.contains(&"availableReplicas") && of("availableReplicas") > of("readyReplicas") {
        let available = of("availableReplicas");
        errors.push(FieldError::invalid(&status.get("availableReplicas"), available, ready_sentence));
    }
}

/// The collision count only grows.
pub fn collisions(new: &Object, old: Option<&Object>, errors: &mut Errors) {
    let path = ["status", "collisionCount"];
    let (now, before) = (int(new, &path), old.and_then(|old| int(old, &path)));
    if before.is_some_and(|before| now.unwrap_or_default() < before) {
        let now = now.unwrap_or_default();
        errors.push(FieldError::invalid(&"status.collisionCount", now, "cannot be decremented"));
    }
}
