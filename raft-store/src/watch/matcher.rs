//! Which watchers want a key. Watchers of one range form one group, however many they are.

use std::collections::HashMap;

use bytes::Bytes;
use rustc_hash::FxBuildHasher;

use super::interval::IntervalIndex;
use crate::mvcc::keys::{End, KeyRange};

/// Handle of a watcher inside the hub.
pub type WatcherId = u64;
/// Handle of all watchers of one range.
pub type GroupId = u64;

/// Watchers by what they watch.
#[derive(Default)]
pub struct Matcher {
    groups: HashMap<KeyRange, GroupId, FxBuildHasher>,
    members: HashMap<GroupId, Vec<WatcherId>, FxBuildHasher>,
    points: HashMap<Bytes, GroupId, FxBuildHasher>,
    intervals: IntervalIndex,
    next_group: GroupId,
}

impl Matcher {
    /// Adds a watcher of a range.
    pub fn insert(&mut self, range: &KeyRange, watcher: WatcherId) {
        let group = match self.groups.get(range) {
            Some(group) => *group,
            None => self.new_group(range),
        };
        self.members.entry(group).or_default().push(watcher);
    }

    fn new_group(&mut self, range: &KeyRange) -> GroupId {
        let group = self.next_group;
        self.next_group += 1;
        self.groups.insert(range.clone(), group);
        if range.end == End::Point {
            self.points.insert(range.start.clone(), group);
        } else {
            self.intervals.insert(range.clone(), group);
        }
        group
    }

    /// Removes a watcher of a range.
    pub fn remove(&mut self, range: &KeyRange, watcher: WatcherId) {
        let Some(group) = self.groups.get(range).copied() else { return };
        let Some(watchers) = self.members.get_mut(&group) else { return };
        watchers.retain(|id| *id != watcher);
        if watchers.is_empty() {
            self.members.remove(&group);
            self.groups.remove(range);
            if range.end == End::Point {
                self.points.remove(&range.start);
            } else {
                self.intervals.remove(range, group);
            }
        }
    }

    /// Calls `found` with every group that wants `key`.
    pub fn matching(&self, key: &Bytes, found: &mut dyn FnMut(GroupId)) {
        if let Some(group) = self.points.get(key) {
            found(*group);
        }
        self.intervals.stab(key, found);
    }

    /// The watchers of a group.
    pub fn members(&self, group: GroupId) -> &[WatcherId] {
        self.members.get(&group).map_or(&[], Vec::as_slice)
    }

    /// Whether nobody watches anything.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }
}
