//! Linearizability of one object by search: Wing and Gong's algorithm with Lowe's memory of visited states
//! (G. Lowe, "Testing for linearizability", 2017; the form used by Porcupine).
//!
//! Exponential in the number of operations that overlap; the caller partitions by key and keeps keys short-lived.

use std::collections::HashSet;
use std::hash::Hash;

/// A sequential object.
pub trait Model {
    type Op;
    type State: Clone + Eq + Hash;

    fn initial() -> Self::State;
    /// The state after `op` on `state`, or `None` where the object could not have answered so.
    fn step(state: &Self::State, op: &Self::Op) -> Option<Self::State>;
}

/// One operation: `returned` is `None` when it may take effect at any later time, or never.
#[derive(Clone, Debug)]
pub struct Entry<O> {
    pub op: O,
    pub called: u64,
    pub returned: Option<u64>,
}

/// What the search found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    Linearizable,
    /// No order explains the history.
    Violation,
    /// More states than the budget.
    TooHard,
}

const NONE: usize = usize::MAX;

/// The events, calls and returns by time, as a doubly linked list from which explained operations are lifted out.
struct Events {
    next: Vec<usize>,
    previous: Vec<usize>,
    /// Entry of each event.
    entry: Vec<usize>,
    is_call: Vec<bool>,
    /// Return event of each entry, or `NONE` if it has none.
    return_of: Vec<usize>,
}

impl Events {
    /// Event 0 is the head and belongs to no entry.
    fn new<O>(entries: &[Entry<O>]) -> Self {
        let mut timeline: Vec<(u64, bool, usize)> = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            timeline.push((entry.called, false, index));
            timeline.extend(entry.returned.map(|time| (time, true, index)));
        }
        // At equal times calls come first: the operations then overlap, which only allows more orders.
        timeline.sort_unstable();
        let count = timeline.len() + 1;
        let mut events = Events {
            next: (1..=count).map(|at| if at == count { NONE } else { at }).collect(),
            previous: (0..count).map(|at| at.checked_sub(1).unwrap_or(NONE)).collect(),
            entry: vec![NONE; count],
            is_call: vec![false; count],
            return_of: vec![NONE; entries.len()],
        };
        for (position, &(_, is_return, index)) in timeline.iter().enumerate() {
            let event = position + 1;
            events.entry[event] = index;
            events.is_call[event] = !is_return;
            if is_return {
                events.return_of[index] = event;
            }
        }
        events
    }

    fn unlink(&mut self, event: usize) {
        let (before, after) = (self.previous[event], self.next[event]);
        self.next[before] = after;
        if after != NONE {
            self.previous[after] = before;
        }
    }

    fn relink(&mut self, event: usize) {
        let (before, after) = (self.previous[event], self.next[event]);
        self.next[before] = event;
        if after != NONE {
            self.previous[after] = event;
        }
    }

    /// Takes an operation out: its call, and its return if it has one.
    fn lift(&mut self, call: usize) {
        self.unlink(call);
        let returned = self.return_of[self.entry[call]];
        if returned != NONE {
            self.unlink(returned);
        }
    }

    /// Puts it back; the reverse of [`Events::lift`], in reverse order.
    fn unlift(&mut self, call: usize) {
        let returned = self.return_of[self.entry[call]];
        if returned != NONE {
            self.relink(returned);
        }
        self.relink(call);
    }
}

/// Searches for an order of the operations that respects real time and the model. `budget` bounds the visited states.
pub fn search<M: Model>(entries: &[Entry<M::Op>], budget: usize) -> Found {
    let mut events = Events::new(entries);
    let mut unexplained_returns = entries.iter().filter(|entry| entry.returned.is_some()).count();
    let mut done = vec![0_u64; entries.len().div_ceil(64)];
    let mut seen: HashSet<(Vec<u64>, M::State)> = HashSet::new();
    let mut stack: Vec<(usize, M::State)> = Vec::new();
    let mut state = M::initial();
    let mut event = events.next[0];
    while unexplained_returns > 0 {
        if event != NONE && events.is_call[event] {
            let index = events.entry[event];
            if let Some(next) = M::step(&state, &entries[index].op) {
                done[index / 64] |= 1 << (index % 64);
                if seen.insert((done.clone(), next.clone())) {
                    if seen.len() > budget {
                        return Found::TooHard;
                    }
                    stack.push((event, std::mem::replace(&mut state, next)));
                    events.lift(event);
                    unexplained_returns -= usize::from(entries[index].returned.is_some());
                    event = events.next[0];
                    continue;
                }
                done[index / 64] &= !(1 << (index % 64));
            }
            event = events.next[event];
            continue;
        }
        // A return whose operation is not explained yet (or the end): the last choice was wrong.
        let Some((call, before)) = stack.pop() else {
            return Found::Violation;
        };
        state = before;
        let index = events.entry[call];
        done[index / 64] &= !(1 << (index % 64));
        unexplained_returns += usize::from(entries[index].returned.is_some());
        events.unlift(call);
        event = events.next[call];
    }
    Found::Linearizable
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A register: reads answer the last write.
    struct Register;

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Op {
        Write(u8),
        Read(u8),
    }

    impl Model for Register {
        type Op = Op;
        type State = u8;

        fn initial() -> u8 {
            0
        }

        fn step(state: &u8, op: &Op) -> Option<u8> {
            match op {
                Op::Write(value) => Some(*value),
                Op::Read(value) => (value == state).then_some(*state),
            }
        }
    }

    fn check(entries: &[(Op, u64, Option<u64>)], expected: bool) {
        let entries: Vec<Entry<Op>> =
            entries.iter().map(|&(op, called, returned)| Entry { op, called, returned }).collect();
        let found = search::<Register>(&entries, 1_000_000);
        assert_eq!(found == Found::Linearizable, expected, "{entries:?}: {found:?}");
    }

    #[test]
    fn planted_violations_are_found_and_sound_histories_pass() {
        use Op::{Read, Write};
        check(&[], true);
        check(&[(Write(1), 0, Some(1)), (Read(1), 2, Some(3))], true);
        check(&[(Write(1), 0, Some(1)), (Read(0), 2, Some(3))], false);
        check(&[(Write(1), 0, Some(9)), (Read(0), 2, Some(3)), (Read(1), 4, Some(5))], true);
        check(&[(Write(1), 0, Some(9)), (Read(1), 2, Some(3)), (Read(0), 4, Some(5))], false);
        // Nobody knows whether the write happened: both answers are fine, but not back and forth.
        check(&[(Write(1), 0, None), (Read(0), 2, Some(3)), (Read(1), 4, Some(5))], true);
        check(&[(Write(1), 0, None), (Read(1), 2, Some(3)), (Read(0), 4, Some(5))], false);
        check(&[(Write(1), 0, None), (Read(0), 2, Some(3))], true);
    }

    /// All orders, one by one.
    fn naive(entries: &[Entry<Op>], done: u32, state: u8) -> bool {
        let all_returned =
            (0..entries.len()).all(|at| done & (1 << at) != 0 || entries[at].returned.is_none());
        let wall = (0..entries.len())
            .filter(|at| done & (1 << at) == 0)
            .filter_map(|at| entries[at].returned)
            .min()
            .unwrap_or(u64::MAX);
        all_returned
            || (0..entries.len()).filter(|at| done & (1 << at) == 0 && entries[*at].called <= wall).any(
                |at| {
                    Register::step(&state, &entries[at].op)
                        .is_some_and(|next| naive(entries, done | (1 << at), next))
                },
            )
    }

    proptest! {
        #[test]
        fn agrees_with_trying_every_order(
            raw in prop::collection::vec((any::<bool>(), 0_u8..3, 0_u64..12, prop::option::of(0_u64..6)), 0..8)
        ) {
            let entries: Vec<Entry<Op>> = raw
                .into_iter()
                .map(|(write, value, called, length)| Entry {
                    op: if write { Op::Write(value) } else { Op::Read(value) },
                    called,
                    returned: length.map(|length| called + length),
                })
                .collect();
            let found = search::<Register>(&entries, 1_000_000);
            prop_assert_eq!(found == Found::Linearizable, naive(&entries, 0, 0));
        }
    }
}
