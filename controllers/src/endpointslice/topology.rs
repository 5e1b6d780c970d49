//! `service.kubernetes.io/topology-mode: Auto`: endpoints are given to zones in proportion to the zones' CPUs, so that
//! clients stay in their zone without any zone's endpoints being overloaded. Where that cannot be, there are no hints
//! and an event says why. Events and rules are upstream's; ties are broken by name, so that equal input gives equal
//! hints.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointHints, EndpointSlice, ForZone};
use machinery::quantity::Quantity;

use super::desired::ZONE;
use super::placement::Writes;
use crate::meta::{annotation, label};
use crate::nodes;

/// The older annotation wins where both are set.
const MODE: [&str; 2] = ["service.kubernetes.io/topology-aware-hints", "service.kubernetes.io/topology-mode"];
const CONTROL_PLANE: [&str; 2] = ["node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"];
/// How much more than its share a zone's endpoint may have to take.
const OVERLOAD: f64 = 0.2;

/// Share of all CPUs by zone.
pub type Shares = BTreeMap<String, f64>;

/// Whether the service asks for hints by topology.
pub fn is_wanted(service: &Service) -> bool {
    let mode = MODE.iter().find_map(|key| annotation(service, key));
    matches!(mode, Some("Auto" | "auto"))
}

/// The zones' shares; nothing when a ready node does not tell its zone or CPUs, or when there is one zone only.
pub fn shares(all: &[Arc<Node>]) -> Option<Shares> {
    let mut by_zone: BTreeMap<String, i64> = BTreeMap::new();
    let workers =
        all.iter().filter(|node| !CONTROL_PLANE.iter().any(|key| label(node.as_ref(), key).is_some()));
    for node in workers.filter(|node| nodes::is_ready(node)) {
        let zone = label(node.as_ref(), ZONE).filter(|zone| !zone.is_empty())?;
        let cpu = node.status.as_ref()?.allocatable.as_ref()?.get("cpu")?;
        let milli = Quantity::parse(&cpu.0).ok()?.milli_value();
        if milli == 0 {
            return None;
        }
        *by_zone.entry(zone.to_string()).or_default() += milli;
    }
    let total: i64 = by_zone.values().sum();
    let share = |milli: i64| milli as f64 / total as f64;
    (by_zone.len() >= 2).then(|| by_zone.into_iter().map(|(zone, milli)| (zone, share(milli))).collect())
}

/// What one zone gets.
#[derive(Debug, Clone, Copy)]
struct Allocation {
    maximum: usize,
    desired: f64,
}

fn allocations(shares: Option<&Shares>, endpoints: usize) -> Result<BTreeMap<String, Allocation>, String> {
    let Some(shares) = shares else {
        return Err(
            "Insufficient Node information: allocatable CPU or zone not specified on one or more nodes"
                .into(),
        );
    };
    let counted = format!("({endpoints} endpoints, {} zones)", shares.len());
    if shares.len() > endpoints {
        return Err(format!("Insufficient number of endpoints {counted}"));
    }
    let minimum = |share: f64| (share * endpoints as f64 / (1.0 + OVERLOAD)).ceil() as usize;
    let least: usize = shares.values().map(|share| minimum(*share)).sum();
    if least > endpoints {
        let text =
            "Unable to allocate minimum required endpoints to each zone without exceeding overload threshold";
        return Err(format!("{text} {counted}"));
    }
    let allocate = |share: f64| {
        let minimum = minimum(share);
        let desired = (share * endpoints as f64).max(minimum as f64);
        Allocation { maximum: minimum + endpoints - least, desired }
    };
    Ok(shares.iter().map(|(zone, share)| (zone.clone(), allocate(*share))).collect())
}

fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) == Some(true)
}

fn for_zone(zone: &str) -> Option<EndpointHints> {
    Some(EndpointHints { for_zones: Some(vec![ForZone { name: zone.to_string() }]), for_nodes: None })
}

/// The hints of a slice by zone, when all of them may stay.
fn kept(
    slice: &EndpointSlice,
    given: &BTreeMap<String, usize>,
    allocations: &BTreeMap<String, Allocation>,
) -> Option<BTreeMap<String, usize>> {
    let mut here: BTreeMap<String, usize> = BTreeMap::new();
    for endpoint in slice.endpoints.iter().flatten().filter(|endpoint| is_ready(endpoint)) {
        let zones = endpoint.hints.as_ref()?.for_zones.as_ref().filter(|zones| !zones.is_empty())?;
        for zone in zones {
            *here.entry(zone.name.clone()).or_default() += 1;
        }
    }
    let fits = |(zone, count): (&String, &usize)| {
        let before = given.get(zone).copied().unwrap_or(0);
        allocations.get(zone).is_some_and(|allocation| before + count <= allocation.maximum)
    };
    here.iter().all(fits).then_some(here)
}

/// Sets the hints of what is written; slices whose hints must change are written too. Returns why there are none.
pub fn assign(shares: Option<&Shares>, writes: &mut Writes) -> Result<(), String> {
    let written =
        writes.create.iter().chain(&writes.update).flat_map(|slice| slice.endpoints.iter().flatten());
    let staying = writes.unchanged.iter().flat_map(|slice| slice.endpoints.iter().flatten());
    let total = written.chain(staying).filter(|endpoint| is_ready(endpoint)).count();
    let allocations = allocations(shares, total)?;
    let mut given: BTreeMap<String, usize> = BTreeMap::new();
    let mut unchanged = Vec::new();
    for slice in std::mem::take(&mut writes.unchanged) {
        match kept(&slice, &given, &allocations) {
            Some(here) => {
                here.into_iter().for_each(|(zone, count)| *given.entry(zone).or_default() += count);
                unchanged.push(slice);
            }
            None => writes.update.push(slice.as_ref().clone()),
        }
    }
    writes.unchanged = unchanged;
    let mut open: Vec<&mut Endpoint> = endpoints(writes).collect();
    for endpoint in &mut open {
        endpoint.hints = None;
        if is_ready(endpoint) {
            let zone = endpoint.zone.clone().filter(|zone| !zone.is_empty());
            let zone = zone.ok_or("One or more endpoints do not have a zone specified")?;
            endpoint.hints = for_zone(&zone);
            *given.entry(zone).or_default() += 1;
        }
    }
    redistribute(&mut open, transfers(&allocations, &given));
    Ok(())
}

fn endpoints(writes: &mut Writes) -> impl Iterator<Item = &mut Endpoint> {
    let slices = writes.create.iter_mut().chain(&mut writes.update);
    slices.flat_map(|slice| slice.endpoints.iter_mut().flatten())
}

/// From zones with too many to zones with too few, one endpoint each, the largest differences first.
fn transfers(
    allocations: &BTreeMap<String, Allocation>,
    given: &BTreeMap<String, usize>,
) -> Vec<(String, String)> {
    let mut surplus: BTreeMap<&str, f64> = BTreeMap::new();
    for (zone, allocation) in allocations {
        let have = given.get(zone).copied().unwrap_or(0) as f64;
        surplus.insert(zone, have - allocation.desired);
    }
    let mut moves = Vec::new();
    loop {
        let most = |a: &(&&str, &f64), b: &(&&str, &f64)| a.1.total_cmp(b.1);
        let (Some((giver, more)), Some((taker, less))) =
            (surplus.iter().max_by(most), surplus.iter().min_by(most))
        else {
            return moves;
        };
        let (more, less) = (*more, -*less);
        if (more < 1.0 && less < 1.0) || more < 0.5 || less < 0.5 {
            return moves;
        }
        let (giver, taker) = (giver.to_string(), taker.to_string());
        surplus.iter_mut().filter(|(zone, _)| **zone == giver).for_each(|(_, left)| *left -= 1.0);
        surplus.iter_mut().filter(|(zone, _)| **zone == taker).for_each(|(_, left)| *left += 1.0);
        moves.push((giver, taker));
    }
}

fn redistribute(open: &mut [&mut Endpoint], moves: Vec<(String, String)>) {
    for (giver, taker) in moves {
        let own = for_zone(&giver);
        let movable = open.iter_mut().find(|one| one.zone.as_ref() == Some(&giver) && one.hints == own);
        if let Some(endpoint) = movable {
            endpoint.hints = for_zone(&taker);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn node(name: &str, zone: Value, cpu: &str) -> Arc<Node> {
        let value = json!({"metadata": {"name": name, "labels": {ZONE: zone}},
            "status": {"allocatable": {"cpu": cpu}, "conditions": [{"type": "Ready", "status": "True"}]}});
        Arc::new(serde_json::from_value(value).expect("a node"))
    }

    fn slice(zones: &[&str], hints: bool) -> EndpointSlice {
        let endpoint = |zone: &&str| {
            let mut value = json!({"addresses": ["1.1.1.1"], "conditions": {"ready": true}, "zone": zone});
            if hints {
                value["hints"] = json!({"forZones": [{"name": zone}]});
            }
            value
        };
        let endpoints: Vec<Value> = zones.iter().map(endpoint).collect();
        serde_json::from_value(json!({"addressType": "IPv4", "metadata": {}, "endpoints": endpoints}))
            .expect("a slice")
    }

    fn hints(slices: &[EndpointSlice]) -> String {
        let endpoints = slices.iter().flat_map(|slice| slice.endpoints.iter().flatten());
        let zones = endpoints.map(|e| e.hints.as_ref().and_then(|h| h.for_zones.clone()).unwrap_or_default());
        zones.map(|zones| zones.first().map_or("-".into(), |zone| zone.name.clone())).collect()
    }

    #[test]
    fn shares_follow_cpus() {
        let cases = [
            (
                vec![node("1", json!("a"), "1"), node("2", json!("b"), "3")],
                Some(vec![("a", 0.25), ("b", 0.75)]),
            ),
            (vec![node("1", json!("a"), "1"), node("2", json!("a"), "3")], None),
            (vec![node("1", json!("a"), "1"), node("2", json!(""), "3")], None),
        ];
        for (nodes, expected) in cases {
            let expected = expected.map(|list| list.into_iter().map(|(z, s)| (z.to_string(), s)).collect());
            assert_eq!(shares(&nodes), expected);
        }
    }

    #[test]
    fn endpoints_are_shared_out() {
        let even: Shares = [("a".to_string(), 0.5), ("b".to_string(), 0.5)].into();
        let given = |zones: &[&str]| {
            let mut writes = Writes { create: vec![slice(zones, false)], ..Writes::default() };
            assign(Some(&even), &mut writes).map(|()| hints(&writes.create))
        };
        assert_eq!(given(&["a", "b"]), Ok("ab".into()));
        assert_eq!(given(&["a", "a", "a", "a"]), Ok("bbaa".into()));
        assert_eq!(
            given(&["a", "a", "a", "a", "b", "b", "b"]),
            Ok("aaaabbb".into()),
            "half of one is not moved"
        );
        assert!(given(&["a", "a", "b"]).expect_err("too uneven").starts_with("Unable to allocate minimum"));
        assert!(given(&["a"]).expect_err("too few").starts_with("Insufficient number of endpoints (1 "));
        assert!(given(&["a", ""]).is_err());
        assert!(assign(None, &mut Writes::default()).is_err());
    }

    #[test]
    fn slices_that_fit_are_left_alone() {
        let even: Shares = [("a".to_string(), 0.5), ("b".to_string(), 0.5)].into();
        let mut writes = Writes {
            unchanged: vec![Arc::new(slice(&["a", "b"], true)), Arc::new(slice(&["a", "b"], false))],
            ..Writes::default()
        };
        assert_eq!(assign(Some(&even), &mut writes), Ok(()));
        assert_eq!((writes.unchanged.len(), hints(&writes.update)), (1, "ab".into()));
    }
}
