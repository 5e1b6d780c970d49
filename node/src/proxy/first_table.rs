//! When the first table may be written. Pure: the caller passes the time.
//!
//! It takes the place of the one of the proxy before, and what that isolates must not be open meanwhile: it waits for
//! network policies. Not for ever, since the right to read them may be missing, and services must work all the same.

use std::time::Duration;

use tokio::time::Instant;

/// How long it waits for policies where no pod is isolated.
const OPEN_WAIT: Duration = Duration::from_secs(10);
/// How long where some are: a server that has just started may tell services long before policies or pods. Less than it
/// takes until a waiting change counts as a proxy that is stuck.
const ISOLATED_WAIT: Duration = Duration::from_secs(45);

/// Where the first table stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FirstTable {
    /// Services are not known.
    #[default]
    Unasked,
    /// Services are known: until then policies may come.
    Waits(Instant),
    /// It is in the kernel.
    Written,
}

impl FirstTable {
    /// True until services are known.
    pub fn is_unasked(self) -> bool {
        self == Self::Unasked
    }

    /// True once it is in the kernel.
    pub fn is_written(self) -> bool {
        self == Self::Written
    }

    /// Services are known from now on: only now the wait begins, however long the server was away. `isolates` tells
    /// whether the kernel isolates pods.
    pub fn begin(&mut self, now: Instant, isolates: bool) {
        *self = Self::Waits(now + if isolates { ISOLATED_WAIT } else { OPEN_WAIT });
    }

    /// It is in the kernel; true for the first time.
    pub fn written(&mut self) -> bool {
        !std::mem::replace(self, Self::Written).is_written()
    }

    /// The earliest time of a write, if there is one. `complete` tells whether policies are known too.
    pub fn not_before(self, complete: bool) -> Option<Instant> {
        match self {
            Self::Waits(until) if !complete => Some(until),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_get_their_time_from_the_moment_services_are_known() {
        let now = Instant::now();
        let mut first = FirstTable::default();
        assert!(first.is_unasked());
        for (isolates, wait) in [(false, OPEN_WAIT), (true, ISOLATED_WAIT)] {
            first.begin(now, isolates);
            assert_eq!(first.not_before(false), Some(now + wait), "{isolates}");
            assert_eq!(first.not_before(true), None, "{isolates}");
        }
        assert!(first.written() && !first.written() && first.is_written());
        assert_eq!(first.not_before(false), None);
    }
}
