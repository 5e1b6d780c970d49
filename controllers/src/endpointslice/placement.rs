//! Into which slices endpoints go. Fewest writes first: endpoints stay where they are, slices that must be written
//! anyway take the new ones, then the best fitting unchanged slice, then new slices.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::desired::{Group, PortKey};
use super::{MANAGED_BY, MANAGER, SERVICE_NAME};
use crate::meta::{StringMap, name, owner_reference};
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

/// What slices belong to: a service, or Endpoints that are mirrored.
pub struct Parent {
    /// The namespace.
    pub namespace: Option<String>,
    /// What names of slices begin with.
    pub prefix: String,
    /// The owner.
    pub owner: OwnerReference,
    /// The labels of every slice.
    pub labels: StringMap,
    /// Annotations of every slice, where the parent has any to pass on.
    pub annotations: Option<StringMap>,
    /// Whether a parent without endpoints has an empty slice.
    pub placeholder: bool,
}

impl Parent {
    /// A service as parent.
    pub fn service(service: &Service) -> Self {
        Self {
            namespace: service.metadata.namespace.clone(),
            prefix: name_prefix(name(service)),
            owner: owner_reference(service),
            labels: labels(service),
            annotations: None,
            placeholder: true,
        }
    }

    fn owns(&self, slice: &EndpointSlice) -> bool {
        let same = |have: &OwnerReference| {
            have.uid == self.owner.uid
                && have.kind == self.owner.kind
                && have.api_version == self.owner.api_version
        };
        slice.metadata.owner_references.iter().flatten().any(same)
    }

    fn is_dressed(&self, slice: &EndpointSlice) -> bool {
        slice.metadata.labels.as_ref() == Some(&self.labels)
            && self
                .annotations
                .as_ref()
                .is_none_or(|wanted| slice.metadata.annotations.clone().unwrap_or_default() == *wanted)
    }

    fn dress(&self, slice: &mut EndpointSlice) {
        slice.metadata.labels = Some(self.labels.clone());
        if let Some(annotations) = &self.annotations {
            slice.metadata.annotations = Some(annotations.clone());
        }
    }
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
    parent: &Parent,
    family: &str,
    existing: Vec<Arc<EndpointSlice>>,
    groups: BTreeMap<PortKey, Group>,
    per_slice: usize,
) -> Writes {
    let mut writes = Writes::default();
    let mut by_ports: BTreeMap<PortKey, Vec<Arc<EndpointSlice>>> = BTreeMap::new();
    let count = existing.len();
    for slice in existing {
        if parent.owns(&slice) {
            by_ports.entry(PortKey::of(slice.ports.as_deref().unwrap_or(&[]))).or_default().push(slice);
        } else {
            writes.delete.push(slice);
        }
    }
    for (ports, group) in groups {
        let have = by_ports.remove(&ports).unwrap_or_default();
        place_group(parent, family, have, group, per_slice, &mut writes);
    }
    writes.delete.extend(by_ports.into_values().flatten());
    if parent.placeholder && writes.delete.len() == count && writes.create.is_empty() {
        keep_placeholder(parent, family, &mut writes);
    }
    reuse(parent, &mut writes);
    writes
}

fn place_group(
    parent: &Parent,
    family: &str,
    have: Vec<Arc<EndpointSlice>>,
    group: Group,
    per_slice: usize,
    writes: &mut Writes,
) {
    let mut wanted: BTreeMap<EndpointId, Endpoint> =
        group.endpoints.into_iter().map(|endpoint| (id_of(&endpoint), endpoint)).collect();
    let (mut changed, mut unchanged): (Vec<EndpointSlice>, Vec<Arc<EndpointSlice>>) =
        (Vec::new(), Vec::new());
    for slice in have {
        let kept: Vec<(&Endpoint, Endpoint)> =
            slice.endpoints.iter().flatten().filter_map(|e| Some((e, wanted.remove(&id_of(e))?))).collect();
        let complete = kept.len() == slice.endpoints.as_ref().map_or(0, Vec::len);
        let current = complete && kept.iter().all(|(have, want)| is_current(have, want));
        if kept.is_empty() && !complete {
            writes.delete.push(slice);
        } else if current && parent.is_dressed(&slice) {
            unchanged.push(slice);
        } else {
            let endpoints = kept.into_iter().map(|(_, want)| want).collect();
            let mut slice = slice.as_ref().clone();
            slice.endpoints = Some(endpoints);
            parent.dress(&mut slice);
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
        .unwrap_or_else(|| new_slice(parent, family, group.ports.clone()));
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
    let room =
        |slice: &EndpointSlice| per_slice.checked_sub(count + slice.endpoints.as_ref().map_or(0, Vec::len));
    let fitting = slices.iter().enumerate().filter_map(|(at, slice)| Some((room(slice)?, at)));
    fitting.min().map(|(_, at)| at)
}

fn new_slice(parent: &Parent, family: &str, ports: Vec<EndpointPort>) -> EndpointSlice {
    EndpointSlice {
        address_type: family.to_string(),
        endpoints: Some(Vec::new()),
        metadata: ObjectMeta {
            generate_name: Some(parent.prefix.clone()),
            namespace: parent.namespace.clone(),
            labels: Some(parent.labels.clone()),
            annotations: parent.annotations.clone(),
            owner_references: Some(vec![parent.owner.clone()]),
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
fn keep_placeholder(parent: &Parent, family: &str, writes: &mut Writes) {
    let is_placeholder = |slice: &Arc<EndpointSlice>| {
        slice.endpoints.as_ref().is_none_or(Vec::is_empty)
            && slice.ports.as_ref().is_none_or(Vec::is_empty)
            && parent.is_dressed(slice)
            && parent.owns(slice)
    };
    match writes.delete.iter().position(is_placeholder) {
        Some(at) => writes.unchanged.push(writes.delete.remove(at)),
        None => writes.create.push(new_slice(parent, family, Vec::new())),
    }
}

/// Turns deletions and creations into updates: one write instead of two, and no moment without the endpoints.
fn reuse(parent: &Parent, writes: &mut Writes) {
    let mut kept = Vec::new();
    for old in writes.delete.drain(..) {
        if !parent.owns(&old) {
            kept.push(old);
            continue;
        }
        match writes.create.pop() {
            None => kept.push(old),
            Some(new) => {
                let mut slice = old.as_ref().clone();
                slice.endpoints = new.endpoints;
                slice.ports = new.ports;
                parent.dress(&mut slice);
                writes.update.push(slice);
            }
        }
    }
    writes.delete = kept;
}
