//! Where the loops get the time from: the machine's clocks, or a test's hand.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use parking_lot::Mutex;

/// Two clocks: one never jumps (delays, back-off), one is the wall's (what objects carry).
pub trait Clock: Send + Sync + 'static {
    /// Time since some fixed moment in this process; never goes back.
    fn monotonic(&self) -> Duration;
    /// The wall clock; may jump either way.
    fn wall(&self) -> Timestamp;
}

/// The machine's clocks.
pub struct SystemClock {
    started: Instant,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self { started: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn monotonic(&self) -> Duration {
        self.started.elapsed()
    }

    fn wall(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// A clock that moves only when told to; for simulations and tests.
pub struct ManualClock {
    state: Mutex<(Duration, Timestamp)>,
}

impl ManualClock {
    /// A clock whose wall shows `wall`.
    pub fn at(wall: Timestamp) -> Self {
        Self { state: Mutex::new((Duration::ZERO, wall)) }
    }

    /// Moves both clocks forward.
    pub fn advance(&self, by: Duration) {
        let mut state = self.state.lock();
        state.0 += by;
        state.1 = add(state.1, by);
    }

    /// Sets the wall clock alone, forward or back.
    pub fn jump_wall(&self, to: Timestamp) {
        self.state.lock().1 = to;
    }
}

impl Clock for ManualClock {
    fn monotonic(&self) -> Duration {
        self.state.lock().0
    }

    fn wall(&self) -> Timestamp {
        self.state.lock().1
    }
}

/// `at` plus a delay; stops at the calendar's end instead of failing.
pub fn add(at: Timestamp, by: Duration) -> Timestamp {
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}

/// How long from `now` until `at`; zero when it has passed.
pub fn until(at: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO)
}

/// How long ago `at` was; zero when it is still to come.
pub fn since(at: Timestamp, now: Timestamp) -> Duration {
    until(now, at)
}
