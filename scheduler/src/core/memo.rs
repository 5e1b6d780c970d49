//! What a template has found out about single nodes, kept until the node changes.
//!
//! Holds only verdicts that no other node can change: templates with spread or affinity terms keep nothing here. The
//! template drops a node's memo when it refreshes the node. Verdicts are for one priority, since pods of at least that
//! priority that are promised the node count as if they were there.

use super::preempt::Candidate;
use super::status::Refusal;

/// The least eviction that makes room on a node, for a pod of some priority; or why none does.
type Victims = (i32, Result<Candidate, Refusal>);

/// Memos by node slot.
#[derive(Debug, Default)]
pub struct NodeMemos {
    refusals: Vec<Option<(i32, Option<Refusal>)>>,
    victims: Vec<Option<Victims>>,
}

impl NodeMemos {
    /// Forgets a node.
    pub fn forget(&mut self, node: u32) {
        if let Some(slot) = self.refusals.get_mut(node as usize) {
            *slot = None;
        }
        if let Some(slot) = self.victims.get_mut(node as usize) {
            *slot = None;
        }
    }

    /// The filters' verdict, if it is known.
    pub fn refusal(&self, node: u32, priority: i32) -> Option<&Option<Refusal>> {
        let (known, refusal) = self.refusals.get(node as usize)?.as_ref()?;
        (*known == priority).then_some(refusal)
    }

    pub fn keep_refusal(&mut self, node: u32, priority: i32, refusal: Option<Refusal>) {
        *slot_of(&mut self.refusals, node) = Some((priority, refusal));
    }

    /// What an eviction for a pod of this priority came to, if it is known.
    pub fn victims(&self, node: u32, priority: i32) -> Option<&Result<Candidate, Refusal>> {
        let (known, victims) = self.victims.get(node as usize)?.as_ref()?;
        (*known == priority).then_some(victims)
    }

    pub fn keep_victims(&mut self, node: u32, priority: i32, victims: Result<Candidate, Refusal>) {
        *slot_of(&mut self.victims, node) = Some((priority, victims));
    }
}

fn slot_of<T>(slots: &mut Vec<Option<T>>, node: u32) -> &mut Option<T> {
    let index = node as usize;
    if slots.len() <= index {
        slots.resize_with(index + 1, || None);
    }
    &mut slots[index]
}
