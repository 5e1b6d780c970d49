//! Groups of interchangeable nodes: nodes that a template can use and that no rule of it tells apart.
//!
//! A group's key holds all that pod-dependent rules look at (domains, counts, raw scores to normalise); inside a
//! group nodes differ by their local score only. So a decision looks at groups, not at nodes.
//! Invariant: a node is in one group at most, at the position the index says.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

/// What tells groups apart. The layout is the template's.
pub type GroupKey = SmallVec<[i32; 8]>;

/// No group.
pub const NONE: u32 = u32::MAX;

/// Nodes with one key, by local score.
#[derive(Debug, Default)]
pub struct Group {
    pub key: GroupKey,
    by_score: BTreeMap<i32, Vec<u32>>,
    pub len: usize,
}

impl Group {
    /// Local scores from the best down, each with its nodes.
    pub fn best_first(&self) -> impl Iterator<Item = (i32, &[u32])> {
        self.by_score.iter().rev().map(|(score, nodes)| (*score, nodes.as_slice()))
    }

    /// All nodes of the group.
    pub fn nodes(&self) -> impl Iterator<Item = u32> + '_ {
        self.by_score.values().flatten().copied()
    }
}

#[derive(Clone, Copy, Debug)]
struct Place {
    group: u32,
    score: i32,
    position: u32,
}

/// All groups of a template.
#[derive(Debug, Default)]
pub struct Groups {
    groups: Vec<Group>,
    index: FxHashMap<GroupKey, u32>,
    free: Vec<u32>,
    places: Vec<Place>,
    /// Nodes in any group.
    pub node_count: usize,
}

impl Groups {
    /// The group of a node, or [`NONE`].
    pub fn group_of(&self, node: u32) -> u32 {
        self.places.get(node as usize).map_or(NONE, |p| p.group)
    }

    /// The local score of a node in a group.
    pub fn score_of(&self, node: u32) -> i32 {
        self.places[node as usize].score
    }

    /// A group by its number.
    pub fn group(&self, number: u32) -> &Group {
        &self.groups[number as usize]
    }

    /// All groups that have nodes.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Group)> {
        self.groups.iter().enumerate().filter(|(_, g)| g.len > 0).map(|(i, g)| (i as u32, g))
    }

    /// Upper bound of group numbers.
    pub fn limit(&self) -> usize {
        self.groups.len()
    }

    /// Puts a node where it belongs: under a key with a score, or (with `None`) nowhere.
    pub fn place(&mut self, node: u32, target: Option<(&GroupKey, i32)>) {
        let at = node as usize;
        if self.places.len() <= at {
            self.places.resize(at + 1, Place { group: NONE, score: 0, position: 0 });
        }
        let place = self.places[at];
        let Some((key, score)) = target else { return self.take_out(node) };
        if place.group != NONE && place.score == score && self.groups[place.group as usize].key == *key {
            return;
        }
        self.take_out(node);
        let group = self.group_for(key);
        let nodes = self.groups[group as usize].by_score.entry(score).or_default();
        nodes.push(node);
        self.places[at] = Place { group, score, position: nodes.len() as u32 - 1 };
        self.groups[group as usize].len += 1;
        self.node_count += 1;
    }

    fn group_for(&mut self, key: &GroupKey) -> u32 {
        if let Some(group) = self.index.get(key) {
            return *group;
        }
        let group = self.free.pop().unwrap_or(self.groups.len() as u32);
        if group as usize == self.groups.len() {
            self.groups.push(Group::default());
        }
        self.groups[group as usize].key = key.clone();
        self.index.insert(key.clone(), group);
        group
    }

    fn take_out(&mut self, node: u32) {
        let place = self.places[node as usize];
        if place.group == NONE {
            return;
        }
        self.places[node as usize].group = NONE;
        let group = &mut self.groups[place.group as usize];
        if let Some(nodes) = group.by_score.get_mut(&place.score) {
            nodes.swap_remove(place.position as usize);
            if let Some(moved) = nodes.get(place.position as usize) {
                self.places[*moved as usize].position = place.position;
            }
            if nodes.is_empty() {
                group.by_score.remove(&place.score);
            }
        }
        group.len -= 1;
        self.node_count -= 1;
        if group.len == 0 {
            self.index.remove(&group.key);
            self.free.push(place.group);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_move_between_groups_and_empty_groups_go() {
        let mut groups = Groups::default();
        let (a, b): (GroupKey, GroupKey) = (SmallVec::from_slice(&[1]), SmallVec::from_slice(&[2]));
        for node in 0..5 {
            groups.place(node, Some((&a, (node % 2) as i32)));
        }
        groups.place(0, Some((&b, 7)));
        groups.place(3, None);
        let shape: Vec<(i32, Vec<u32>)> = groups
            .iter()
            .flat_map(|(_, g)| g.best_first().map(|(s, n)| (s, n.to_vec())).collect::<Vec<_>>())
            .collect();
        assert_eq!(shape, [(1, vec![1]), (0, vec![4, 2]), (7, vec![0])]);
        for node in [1, 2, 4] {
            groups.place(node, None);
        }
        assert_eq!(groups.iter().count(), 1);
        assert_eq!(groups.node_count, 1);
        assert_eq!(groups.group_of(0), 1);
    }
}
