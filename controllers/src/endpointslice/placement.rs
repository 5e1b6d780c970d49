//! Into which slices endpoints go. Fewest writes first: endpoints stay where they are, slices that must be written
//! anyway take the new ones, then the best fitting unchanged slice, then new slices.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::desired::{Group, PortKey};
use super::{MANAGED_BY, MANAGER, SERVICE_NAME};
use crate::meta::{StringMap, name, owner_reference, uid};
use crate::pods::name_prefix;
use crate::service_pods::{HEADLESS, is_headless};

/// What is to be written.
#[derive(Default)]
pub struct Writes {
    /// New slices.
    pub create: Vec<EndpointSlice>,
    /// Changed slices.
    pub update: Vec<EndpointSlice>,
    /// Slices that must go.
    pub delete: Vec<Arc<EndpointSlice>>,
    /// Slices that stay as they are.
    pub unchanged: Vec<Arc<EndpointSlice>>,
}

type EndpointId = (Vec<String>, Option<String>, Option<String>);

/// What makes two endpoints the same one.
fn id_of(endpoint: &Endpoint) -> EndpointId {
    let mut addresses = endpoint.addresses.clone();
    addresses.sort();
    (addresses, endpoint.hostname.clone(), endpoint.target_ref.as_ref().and_then(|target| target.uid.clone()))
}

/// Whether an endpoint is as it should be; hints are assigned later.
fn is_current(have: &Endpoint, want: &Endpoint) -> bool {
    Endpoint { hints: None, ..have.clone() } == *want
}

/// Compares the slices of one family with the endpoints there should be.
pub fn place(
    service: &Service,
    family: &str,
    existing: Vec<Arc<EndpointSlice>>,
    groups: BTreeMap<PortKey, Group>,
    per_slice: usize,
) -> Writes {
    let mut writes = Writes::default();
    let mut by_ports: BTreeMap<PortKey, Vec<Arc<EndpointSlice>>> = BTreeMap::new();
    let count = existing.len();
    for slice in existing {
        if is_owned(&slice, service) {
            by_ports.entry(PortKey::of(slice.ports.as_deref().unwrap_or(&[]))).or_default().push(slice);
        } else {
            writes.delete.push(slice);
        }
    }
    for (ports, group) in groups {
        let have = by_ports.remove(&ports).unwrap_or_default();
        place_group(service, family, have, group, per_slice, &mut writes);
    }
    writes.delete.extend(by_ports.into_values().flatten());
    if writes.delete.len() == count && writes.create.is_empty() {
        keep_placeholder(service, family, &mut writes);
    }
    reuse(service, &mut writes);
    writes
}

fn is_owned(slice: &EndpointSlice, service: &Service) -> bool {
    let owners = slice.metadata.owner_references.iter().flatten();
    owners.into_iter().any(|owner| owner.uid == uid(service) && owner.kind == "Service" && owner.api_version == "v1")
}

fn place_group(
    service: &Service,
    family: &str,
    have: Vec<Arc<EndpointSlice>>,
    group: Group,
    per_slice: usize,
    writes: &mut Writes,
) {
    let mut wanted: BTreeMap<EndpointId, Endpoint> =
        group.endpoints.into_iter().map(|endpoint| (id_of(&endpoint), endpoint)).collect();
    let (mut changed, mut unchanged): (Vec<EndpointSlice>, Vec<Arc<EndpointSlice>>) = (Vec::new(), Vec::new());
    for slice in have {
        let kept: Vec<(&Endpoint, Endpoint)> =
            slice.endpoints.iter().flatten().filter_map(|e| Some((e, wanted.remove(&id_of(e))?))).collect();
        let complete = kept.len() == slice.endpoints.as_ref().map_or(0, Vec::len);
        let current = complete && kept.iter().all(|(have, want)| is_current(have, want));
        let labels = labels(service);
        let labelled = slice.metadata.labels.as_ref() == Some(&labels);
        if kept.is_empty() && !complete {
            writes.delete.push(slice);
        } else if current && labelled {
            unchanged.push(slice);
        } else {
            let endpoints = kept.into_iter().map(|(_, want)| want).collect();
            let mut slice = slice.as_ref().clone();
            slice.endpoints = Some(endpoints);
            slice.metadata.labels = Some(labels);
            changed.push(slice);
        }
    }
    let mut left: Vec<Endpoint> = wanted.into_values().collect();
    fill(&mut changed, &mut left, per_slice);
    while !left.is_empty() {
        // The rest of a large set starts new slices; what is left at the end looks for the best fit first.
        let best = if left.len() < per_slice { best_fit(&unchanged, left.len(), per_slice) } else { None };
        let mut target = match best {
            Some(at) => {
                let slice = unchanged.remove(at).as_ref().clone();
                changed.push(slice);
                changed.pop()
            }
            None => None,
        }
        .unwrap_or_else(|| new_slice(service, family, group.ports.clone()));
        let is_new = target.metadata.name.is_none();
        let mut one = vec![target];
        fill(&mut one, &mut left, per_slice);
        target = one.remove(0);
        if is_new { writes.create.push(target) } else { changed.push(target) }
    }
    writes.update.extend(changed);
    writes.unchanged.extend(unchanged);
}

/// Moves endpoints into slices that have room, the fullest first.
fn fill(slices: &mut [EndpointSlice], left: &mut Vec<Endpoint>, per_slice: usize) {
    slices.sort_by_key(|slice| std::cmp::Reverse(slice.endpoints.as_ref().map_or(0, Vec::len)));
    for slice in slices {
        let endpoints = slice.endpoints.get_or_insert_default();
        let room = per_slice.saturating_sub(endpoints.len()).min(left.len());
        endpoints.extend(left.drain(..room));
    }
}

/// The unchanged slice that `count` more endpoints would fill best.
fn best_fit(slices: &[Arc<EndpointSlice>], count: usize, per_slice: usize) -> Option<usize> {
    let room = |slice: &EndpointSlice| {
        per_slice.checked_sub(count + slice.endpoints.as_ref().map_or(0, Vec::len))
    };
    let fitting = slices.iter().enumerate().filter_map(|(at, slice)| Some((room(slice)?, at)));
    fitting.min().map(|(_, at)| at)
}

fn new_slice(service: &Service, family: &str, ports: Vec<EndpointPort>) -> EndpointSlice {
    EndpointSlice {
        address_type: family.to_string(),
        endpoints: Some(Vec::new()),
        metadata: ObjectMeta {
            generate_name: Some(name_prefix(name(service))),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels(service)),
            owner_references: Some(vec![owner_reference(service)]),
            ..ObjectMeta::default()
        },
        ports: Some(ports),
    }
}

/// A slice's labels: the service's own, and those that say whose it is.
fn labels(service: &Service) -> StringMap {
    let mut labels: StringMap = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if is_headless(service) {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels.insert(SERVICE_NAME.into(), name(service).into());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    labels
}

/// A service without endpoints has one empty slice, so that readers can tell "none" from "not known yet".
fn keep_placeholder(service: &Service, family: &str, writes: &mut Writes) {
    let is_placeholder = |slice: &Arc<EndpointSlice>| {
        slice.endpoints.as_ref().is_none_or(Vec::is_empty)
            && slice.ports.as_ref().is_none_or(Vec::is_empty)
            && slice.metadata.labels.as_ref() == Some(&labels(service))
            && is_owned(slice, service)
    };
    match writes.delete.iter().position(is_placeholder) {
        Some(at) => writes.unchanged.push(writes.delete.remove(at)),
        None => writes.create.push(new_slice(service, family, Vec::new())),
    }
}

/// Turns deletions and creations into updates: one write instead of two, and no moment without the endpoints.
fn reuse(service: &Service, writes: &mut Writes) {
    let mut kept = Vec::new();
    for old in writes.delete.drain(..) {
        if !is_owned(&old, service) {
            kept.push(old);
            continue;
        }
        match writes.create.pop() {
            None => kept.push(old),
            Some(new) => {
                let mut slice = old.as_ref().clone();
                slice.endpoints = new.endpoints;
                slice.ports = new.ports;
                slice.metadata.labels = new.metadata.labels;
                writes.update.push(slice);
            }
        }
    }
    writes.delete = kept;
}
