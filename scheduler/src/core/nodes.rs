//! The nodes: what each offers, what its pods take, and who they are.
//!
//! Owns one slot per node name. Invariants: `used` is the sum over `pods`; a slot without node object (its pods
//! came first, or the node was deleted) is never feasible; every change is written to the change log so that
//! templates can catch up without looking at all nodes.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::labels::{Labels, Taint};
use super::spec::{Disk, HostPort, LocalSpec, NodeImage, NodeInput};
use super::topology::Topology;

/// The numbers of one node, together in memory because one evaluation needs them all.
#[derive(Clone, Copy, Debug, Default)]
pub struct Row {
    pub cpu: i64,
    pub memory: i64,
    pub ephemeral: i64,
    pub pod_limit: i64,
    pub used_cpu: i64,
    pub used_memory: i64,
    pub used_ephemeral: i64,
    /// Usage with defaults for containers that request nothing.
    pub nonzero_cpu: i64,
    pub nonzero_memory: i64,
    pub pod_count: i64,
}

/// Pods of one class on one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassCount {
    pub class: u32,
    /// Pods that are not terminating.
    pub live: u32,
    pub terminating: u32,
}

impl ClassCount {
    /// All pods of the class, terminating or not.
    pub fn all(&self) -> u32 {
        self.live + self.terminating
    }
}

/// A scalar resource on a node.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scalar {
    pub id: u16,
    pub allocatable: i64,
    pub used: i64,
}

/// The rest of a node.
#[derive(Clone, Debug, Default)]
pub struct Node {
    pub name: Arc<str>,
    /// Whether the node object exists.
    pub present: bool,
    pub labels: Labels,
    pub taints: Arc<[Taint]>,
    pub unschedulable: bool,
    pub images: Vec<NodeImage>,
    pub features: Vec<Arc<str>>,
    pub scalars: SmallVec<[Scalar; 2]>,
    pub classes: SmallVec<[ClassCount; 2]>,
    /// Pods on the node, by pod slot.
    pub pods: Vec<u32>,
    pub ports: Vec<HostPort>,
    pub disks: Vec<Disk>,
    /// Counts changes of the node object, as opposed to changes of its pods.
    pub object_generation: u32,
}

/// An image known to at least one node, under one of its names.
#[derive(Clone, Copy, Debug, Default)]
pub struct ImageState {
    /// Nodes that hold it.
    pub nodes: u32,
    /// The size the first of them reported: upstream keeps the first, so do we.
    pub size_bytes: i64,
}

/// Entries kept for templates to catch up, as a multiple of the node count: behind that, a rebuild is cheaper.
const LOG_PER_NODE: usize = 4;
/// The least number of log entries kept.
const LOG_MIN: usize = 4096;

/// All nodes.
#[derive(Debug, Default)]
pub struct Nodes {
    pub rows: Vec<Row>,
    pub nodes: Vec<Node>,
    by_name: FxHashMap<Arc<str>, u32>,
    free: Vec<u32>,
    present_count: usize,
    pub topology: Topology,
    scalar_ids: FxHashMap<Arc<str>, u16>,
    images: FxHashMap<Arc<str>, ImageState>,
    /// Counts changes of images or of the number of nodes: image scores of all nodes change with them.
    pub image_generation: u64,
    log: Vec<u32>,
    log_start: u64,
}

impl Nodes {
    /// Number of node objects.
    pub fn count(&self) -> usize {
        self.present_count
    }

    /// Slots in use or free; an upper bound for node numbers.
    pub fn slots(&self) -> usize {
        self.nodes.len()
    }

    /// The slot of a node name, whether or not the object exists.
    pub fn slot(&self, name: &str) -> Option<u32> {
        self.by_name.get(name).copied()
    }

    /// The slot of an existing node object.
    pub fn find(&self, name: &str) -> Option<u32> {
        self.slot(name).filter(|n| self.nodes[*n as usize].present)
    }

    /// Slots of all existing nodes, in slot order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.nodes.len() as u32).filter(|n| self.nodes[*n as usize].present)
    }

    /// The column of a topology key.
    pub fn topology_key(&mut self, key: &Arc<str>) -> usize {
        let present =
            self.nodes.iter().enumerate().filter(|(_, n)| n.present).map(|(i, n)| (i as u32, &n.labels));
        self.topology.key(key, present)
    }

    /// A number for a scalar resource.
    pub fn scalar_id(&mut self, name: &Arc<str>) -> u16 {
        let next = self.scalar_ids.len() as u16;
        *self.scalar_ids.entry(name.clone()).or_insert(next)
    }

    /// Allocatable and used amount of a scalar on a node.
    pub fn scalar(&self, node: u32, id: u16) -> Scalar {
        self.nodes[node as usize].scalars.iter().find(|s| s.id == id).copied().unwrap_or_default()
    }

    /// Allocatable scalars of a node, by name.
    pub fn allocatable_scalars(&self, node: u32) -> Vec<(Arc<str>, i64)> {
        let scalars = &self.nodes[node as usize].scalars;
        let amount =
            |id: u16| scalars.iter().find(|s| s.id == id && s.allocatable != 0).map(|s| s.allocatable);
        let mut all: Vec<(Arc<str>, i64)> =
            self.scalar_ids.iter().filter_map(|(name, id)| Some((name.clone(), amount(*id)?))).collect();
        all.sort();
        all
    }

    /// What is known of an image, under a name.
    pub fn image(&self, name: &str) -> Option<ImageState> {
        self.images.get(name).copied()
    }

    /// Whether a node holds an image.
    pub fn has_image(&self, node: u32, name: &str) -> bool {
        self.nodes[node as usize].images.iter().any(|i| i.names.iter().any(|n| **n == *name))
    }

    /// Finds or makes the slot of a name.
    pub fn slot_for(&mut self, name: &str) -> u32 {
        if let Some(slot) = self.slot(name) {
            return slot;
        }
        let name: Arc<str> = name.into();
        let slot = self.free.pop().unwrap_or(self.nodes.len() as u32);
        if slot as usize == self.nodes.len() {
            self.nodes.push(Node::default());
            self.rows.push(Row::default());
        }
        self.nodes[slot as usize].name = name.clone();
        self.by_name.insert(name, slot);
        slot
    }

    /// Adds or replaces a node object. Returns its slot.
    pub fn set(&mut self, input: NodeInput) -> u32 {
        let slot = self.slot_for(&input.name);
        self.set_scalars(slot, &input);
        let at = slot as usize;
        let row = &mut self.rows[at];
        row.cpu = input.allocatable.milli_cpu;
        row.memory = input.allocatable.memory;
        row.ephemeral = input.allocatable.ephemeral;
        row.pod_limit = input.pods;
        self.topology.set_node(slot, Some(&input.labels));
        self.set_images(slot, input.images);
        let node = &mut self.nodes[at];
        if !node.present {
            node.present = true;
            self.present_count += 1;
            self.image_generation += 1;
        }
        node.labels = input.labels;
        node.taints = input.taints.into();
        node.unschedulable = input.unschedulable;
        node.features = input.features;
        node.object_generation = node.object_generation.wrapping_add(1);
        self.note(slot);
        slot
    }

    /// Removes a node object; its pods stay accounted until they go.
    pub fn remove(&mut self, name: &str) -> Option<u32> {
        let slot = self.find(name)?;
        self.set_images(slot, Vec::new());
        self.topology.set_node(slot, None);
        let node = &mut self.nodes[slot as usize];
        node.present = false;
        node.object_generation = node.object_generation.wrapping_add(1);
        self.present_count -= 1;
        self.image_generation += 1;
        self.note(slot);
        self.maybe_free(slot);
        Some(slot)
    }

    /// Gives the slot back once neither object nor pods are left.
    pub fn maybe_free(&mut self, slot: u32) {
        let node = &self.nodes[slot as usize];
        if !node.present && node.pods.is_empty() {
            let object_generation = node.object_generation.wrapping_add(1);
            self.by_name.remove(&node.name);
            self.nodes[slot as usize] = Node { object_generation, ..Node::default() };
            self.rows[slot as usize] = Row::default();
            self.free.push(slot);
        }
    }

    fn set_scalars(&mut self, slot: u32, input: &NodeInput) {
        let wanted: SmallVec<[(u16, i64); 4]> =
            input.allocatable.scalars.iter().map(|(name, v)| (self.scalar_id(name), *v)).collect();
        let scalars = &mut self.nodes[slot as usize].scalars;
        for scalar in scalars.iter_mut() {
            scalar.allocatable = wanted.iter().find(|(id, _)| *id == scalar.id).map_or(0, |(_, v)| *v);
        }
        for (id, allocatable) in wanted {
            if !scalars.iter().any(|s| s.id == id) {
                scalars.push(Scalar { id, allocatable, used: 0 });
            }
        }
    }

    fn set_images(&mut self, slot: u32, images: Vec<NodeImage>) {
        if self.nodes[slot as usize].images == images {
            return;
        }
        let old = std::mem::replace(&mut self.nodes[slot as usize].images, images);
        for (name, _) in distinct_names(&old) {
            if let Some(state) = self.images.get_mut(&name) {
                state.nodes -= 1;
                if state.nodes == 0 {
                    self.images.remove(&name);
                }
            }
        }
        for (name, size_bytes) in distinct_names(&self.nodes[slot as usize].images) {
            self.images.entry(name).or_insert(ImageState { nodes: 0, size_bytes }).nodes += 1;
        }
        self.image_generation += 1;
    }

    /// Accounts a pod's resources, ports and disks on a node (`sign` 1) or takes them away (-1).
    pub fn account(&mut self, slot: u32, local: &LocalSpec, sign: i64) {
        let row = &mut self.rows[slot as usize];
        row.used_cpu += sign * local.requests.milli_cpu;
        row.used_memory += sign * local.requests.memory;
        row.used_ephemeral += sign * local.requests.ephemeral;
        row.nonzero_cpu += sign * local.nonzero_milli_cpu;
        row.nonzero_memory += sign * local.nonzero_memory;
        row.pod_count += sign;
        for (name, amount) in &local.requests.scalars {
            let id = self.scalar_id(name);
            let scalars = &mut self.nodes[slot as usize].scalars;
            match scalars.iter_mut().find(|s| s.id == id) {
                Some(scalar) => scalar.used += sign * amount,
                None => scalars.push(Scalar { id, allocatable: 0, used: sign * amount }),
            }
        }
        let node = &mut self.nodes[slot as usize];
        if sign > 0 {
            node.ports.extend(local.host_ports.iter().cloned());
            node.disks.extend(local.disks.iter().cloned());
        } else {
            remove_each(&mut node.ports, &local.host_ports);
            remove_each(&mut node.disks, &local.disks);
        }
        self.note(slot);
    }

    /// Counts a pod of a class on a node.
    pub fn count_class(&mut self, slot: u32, class: u32, terminating: bool, sign: i32) {
        let classes = &mut self.nodes[slot as usize].classes;
        let at = match classes.iter().position(|c| c.class == class) {
            Some(at) => at,
            None => {
                classes.push(ClassCount { class, live: 0, terminating: 0 });
                classes.len() - 1
            }
        };
        let field = if terminating { &mut classes[at].terminating } else { &mut classes[at].live };
        *field = field.saturating_add_signed(sign);
        if classes[at].all() == 0 {
            classes.swap_remove(at);
        }
    }

    /// Writes a node to the change log.
    pub fn note(&mut self, slot: u32) {
        let limit = LOG_MIN.max(LOG_PER_NODE * self.nodes.len());
        if self.log.len() >= limit {
            let cut = limit / 2;
            self.log.drain(..cut);
            self.log_start += cut as u64;
        }
        self.log.push(slot);
    }

    /// The position after the newest change.
    pub fn log_end(&self) -> u64 {
        self.log_start + self.log.len() as u64
    }

    /// Nodes changed since `position`, with repetitions; `None` when the log no longer reaches back that far.
    pub fn changes_since(&self, position: u64) -> Option<&[u32]> {
        let from = position.checked_sub(self.log_start)?;
        self.log.get(from as usize..)
    }
}

fn distinct_names(images: &[NodeImage]) -> Vec<(Arc<str>, i64)> {
    let mut names: Vec<(Arc<str>, i64)> =
        images.iter().flat_map(|i| i.names.iter().map(|n| (n.clone(), i.size_bytes))).collect();
    names.sort_by(|a, b| a.0.cmp(&b.0));
    names.dedup_by(|a, b| a.0 == b.0);
    names
}

fn remove_each<T: PartialEq>(from: &mut Vec<T>, items: &[T]) {
    for item in items {
        if let Some(at) = from.iter().position(|have| have == item) {
            from.swap_remove(at);
        }
    }
}
