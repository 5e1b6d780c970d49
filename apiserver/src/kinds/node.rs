//! Nodes.

use machinery::names;
use machinery::status::FieldError;
use rustc_hash::FxHashSet;
use serde_json::{Value, json};

use super::at::At;
use super::checks::{self, Errors};
use super::json::{at, entries, is_set, items, set, text};
use super::kind::Kind;
use super::pod::requirements::quantity_value;
use crate::contract::{Object, RequestContext};

const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// The rows of nodes.
pub const KINDS: &[Kind] = &[
    Kind { default, check, ..Kind::new("", "nodes") },
    Kind { default, check: check_status, ..Kind::sub("", "nodes", "status") },
];

/// What can be allocated is the capacity until somebody says otherwise; the first CIDR has a field of its own.
fn default(node: &mut Object) {
    let capacity = at(node, &["status", "capacity"]).clone();
    if entries(&capacity, &[]).next().is_some() && !is_set(node, &["status", "allocatable"]) {
        set(node, &["status", "allocatable"], capacity);
    }
    let (one, many) =
        (text(node, &["spec", "podCIDR"]).to_owned(), items(node, &["spec", "podCIDRs"]).to_vec());
    if many.is_empty() && !one.is_empty() {
        set(node, &["spec", "podCIDRs"], json!([one]));
    } else if let Some(first) = many.first().filter(|_| one.is_empty()) {
        set(node, &["spec", "podCIDR"], first.clone());
    }
}

fn check(_: &RequestContext, new: &Object, old: Option<&Object>, errors: &mut Errors) {
    let root = At::root(new);
    let spec = root.get("spec");
    taints(&spec.get("taints"), errors);
    resources(new, errors);
    cidrs(&spec.get("podCIDRs"), errors);
    let Some(old) = old else { return };
    let before = items(old, &["spec", "podCIDRs"]);
    if !before.is_empty() && before != items(new, &["spec", "podCIDRs"]) {
        let detail = "node updates may not change podCIDR except from \"\" to valid";
        errors.push(FieldError::forbidden(&spec.get("podCIDRs"), detail));
    }
    let provider = text(old, &["spec", "providerID"]);
    if !provider.is_empty() && provider != text(new, &["spec", "providerID"]) {
        let detail = "node updates may not change providerID except from \"\" to valid";
        errors.push(FieldError::forbidden(&spec.get("providerID"), detail));
    }
}

fn check_status(_: &RequestContext, new: &Object, _: Option<&Object>, errors: &mut Errors) {
    resources(new, errors);
    let root = At::root(new);
    let status = root.get("status");
    let mut seen = FxHashSet::default();
    for address in status.get("addresses").items() {
        let key = (address.get("type").text(), address.get("address").text());
        if !seen.insert(key) {
            let shown = json!({"Type": key.0, "Address": key.1});
            errors.push(FieldError::duplicate(&address, shown));
        }
    }
}

/// Upstream places these errors below the metadata.
fn taints(taints: &At<'_, '_>, errors: &mut Errors) {
    let mut seen = FxHashSet::default();
    let list = At::placed("metadata.taints", taints.value);
    for taint in list.items() {
        let (key, value, effect) = (taint.get("key"), taint.get("value"), taint.get("effect"));
        let bad = names::qualified_name(key.text());
        errors.extend(bad.into_iter().map(|text| FieldError::invalid(&key, key.text(), text)));
        let bad = names::label_value(value.text());
        if !bad.is_empty() {
            errors.push(FieldError::invalid(&value, value.text(), bad.join(";")));
        }
        if !effect.has() {
            errors.push(FieldError::required(&effect, ""));
        } else if !EFFECTS.contains(&effect.text()) {
            errors.push(FieldError::not_supported(&effect, effect.text(), &EFFECTS));
        }
        if !seen.insert((key.text(), effect.text())) {
            let detail = "taints must be unique by key and effect pair".to_owned();
            errors.push(FieldError { detail, ..FieldError::duplicate(&taint, taint.value.clone()) });
        }
    }
}

fn resources(node: &Object, errors: &mut Errors) {
    for which in ["capacity", "allocatable"] {
        for (name, amount) in entries(node, &["status", which]) {
            let place = format!("status.{which}.{name}");
            let found = quantity_value(name, &At::placed(&place, amount));
            errors.extend(found);
        }
    }
}

fn cidrs(cidrs: &At<'_, '_>, errors: &mut Errors) {
    cidrs.items().for_each(|cidr| errors.extend(checks::cidr(&cidr)));
    let families: Vec<bool> = cidrs.items().map(|cidr| cidr.text().contains(':')).collect();
    if families.len() > 2 || (families.len() == 2 && families[0] == families[1]) {
        let detail = "may specify no more than one CIDR for each IP family";
        errors.push(FieldError::invalid(cidrs, Value::clone(cidrs.value), detail));
    }
}
