//! Where requests gather while as many batches as allowed are on their way.
//!
//! Whoever joins and finds a place free starts a run; a run takes all that wait, again and again, until nobody does.
//! So a lone request starts at once, without a task in between, and a crowd shares a few large batches. A pure
//! structure: it neither spawns nor waits.

use std::collections::VecDeque;

use parking_lot::Mutex;

/// What came of joining.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joined {
    /// Nobody would take the batch otherwise: the caller must start a run.
    MustRun,
    /// A run that is under way takes it.
    Waits,
    /// Too many wait already; it was not taken in.
    Full,
    /// Nobody will ever take it; it was not taken in.
    Closed,
}

struct Line<T> {
    waiting: VecDeque<T>,
    runs: usize,
    is_closed: bool,
}

/// A bounded line of waiting requests.
pub struct Gather<T> {
    line: Mutex<Line<T>>,
    waiting_max: usize,
    runs_max: usize,
}

impl<T> Gather<T> {
    /// At most `waiting_max` wait and at most `runs_max` runs are under way.
    pub fn new(waiting_max: usize, runs_max: usize) -> Self {
        let line = Mutex::new(Line { waiting: VecDeque::new(), runs: 0, is_closed: false });
        Self { line, waiting_max, runs_max }
    }

    /// Adds one.
    pub fn join(&self, item: T) -> Joined {
        let mut line = self.line.lock();
        if line.is_closed {
            return Joined::Closed;
        }
        if line.waiting.len() >= self.waiting_max {
            return Joined::Full;
        }
        line.waiting.push_back(item);
        if line.runs == self.runs_max {
            return Joined::Waits;
        }
        line.runs += 1;
        Joined::MustRun
    }

    /// Lets go of all that wait, and takes in no more: runs that are under way may have been ended from outside.
    pub fn close(&self) {
        let waiting = {
            let mut line = self.line.lock();
            line.is_closed = true;
            std::mem::take(&mut line.waiting)
        };
        drop(waiting);
    }

    /// Takes those that wait, in order, as long as `fits` says so; the first always fits. Nothing when nobody waits:
    /// then this run is over.
    pub fn take(&self, mut fits: impl FnMut(&T) -> bool) -> Option<Vec<T>> {
        let mut line = self.line.lock();
        let Some(first) = line.waiting.front() else {
            line.runs -= 1;
            return None;
        };
        fits(first);
        let count = 1 + line.waiting.iter().skip(1).take_while(|item| fits(item)).count();
        Some(line.waiting.drain(..count).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_shares_few_runs_and_nobody_is_left_behind() {
        let gather = Gather::new(5, 2);
        assert_eq!(gather.join(1), Joined::MustRun);
        assert_eq!(gather.take(|_| true), Some(vec![1]));
        assert_eq!(gather.join(2), Joined::MustRun);
        assert_eq!(gather.take(|_| true), Some(vec![2]));
        for item in 3..8 {
            assert_eq!(gather.join(item), Joined::Waits);
        }
        assert_eq!(gather.join(8), Joined::Full);
        let mut room = 2;
        let mut fits = |_: &i32| {
            room -= 1;
            room >= 0
        };
        assert_eq!(gather.take(&mut fits), Some(vec![3, 4]));
        assert_eq!(gather.take(|_| false), Some(vec![5]), "the first always fits");
        assert_eq!(gather.take(|_| true), Some(vec![6, 7]));
        assert_eq!(gather.take(|_| true), None);
        assert_eq!(gather.take(|_| true), None);
        assert_eq!(gather.join(9), Joined::MustRun);
        gather.close();
        assert_eq!(gather.join(10), Joined::Closed);
        assert_eq!(gather.take(|_| true), None, "who waited was let go");
    }
}
