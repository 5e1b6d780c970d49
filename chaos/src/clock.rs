//! The clock that operations are timed by.
//!
//! Against real members it is the machine's monotonic clock, which all processes of the machine share: histories of
//! several client processes are in one order. In a simulation it is the runtime's, which is virtual.

use std::time::Duration;

use tokio::time::Instant;

use crate::history::Nanos;

/// Time since a run began.
#[derive(Clone, Copy, Debug)]
pub enum Clock {
    /// Of the runtime, virtual where that one's is.
    Runtime(Instant),
    /// Of the machine: what its monotonic clock showed when the run began.
    Machine(Nanos),
}

impl Clock {
    /// Begins now, by the runtime's clock.
    pub fn start() -> Self {
        Clock::Runtime(Instant::now())
    }

    /// Begins now, by a clock that other processes of this machine can read too.
    pub fn start_shared() -> Self {
        Clock::Machine(monotonic())
    }

    pub fn now(self) -> Nanos {
        match self {
            Clock::Runtime(began) => Nanos(u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX)),
            Clock::Machine(began) => Nanos(monotonic().0.saturating_sub(began.0)),
        }
    }

    pub async fn reach(self, at: Duration) {
        match self {
            Clock::Runtime(began) => tokio::time::sleep_until(began + at).await,
            Clock::Machine(_) => {
                tokio::time::sleep(at.saturating_sub(Duration::from_nanos(self.now().0))).await;
            }
        }
    }
}

fn monotonic() -> Nanos {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes one timespec, which is there.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) } != 0;
    assert!(!failed, "every Linux has a monotonic clock");
    Nanos(time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn both_clocks_pass_and_are_reached() {
        for clock in [Clock::start(), Clock::start_shared()] {
            clock.reach(Duration::from_millis(20)).await;
            let now = clock.now();
            assert!(now >= Nanos(20_000_000), "{now:?}");
            assert!(clock.now() >= now);
        }
    }
}
