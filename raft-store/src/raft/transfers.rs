//! Copies of the state that are on their way to members that lag: the log is kept from them on meanwhile.
//!
//! Who has taken a copy in goes on from it with the log. Under load a log grows past what is kept of it sooner than a large
//! state is sent and opened; cut off meanwhile, it would take the next copy, and the next, for as long as the load lasts.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

/// How long the log is kept after a transfer has ended: the member begins to ask for what follows, or the transfer broke
/// off and is taken up again (etcd: `releaseDelayAfterSnapshot`).
const RELEASE_DELAY: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
struct State {
    under_way: usize,
    ended: Option<Instant>,
}

/// The transfers of one member. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Transfers(Arc<Mutex<State>>);

impl Transfers {
    /// One begins; it ends when what is returned is dropped. To be called once the other end is known to be there: for one
    /// that is away nothing is kept.
    pub fn begin(&self) -> Transfer {
        self.0.lock().under_way += 1;
        Transfer(self.clone())
    }

    /// Whether the log is to be kept at `now`.
    pub fn need_log(&self, now: Instant) -> bool {
        let state = self.0.lock();
        state.under_way > 0 || state.ended.is_some_and(|ended| now.duration_since(ended) < RELEASE_DELAY)
    }
}

/// A transfer that is under way.
#[derive(Debug)]
pub struct Transfer(Transfers);

impl Drop for Transfer {
    fn drop(&mut self) {
        let mut state = self.0.0.lock();
        state.under_way -= 1;
        state.ended = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_kept_while_any_copy_is_under_way_and_a_while_longer() {
        let transfers = Transfers::default();
        let later = |seconds: u64| Instant::now() + Duration::from_secs(seconds);
        assert!(!transfers.need_log(later(0)), "nothing has been sent");
        let (first, second) = (transfers.begin(), transfers.clone().begin());
        assert!(transfers.need_log(later(3600)), "it may take as long as it likes");
        drop(first);
        assert!(transfers.need_log(later(3600)), "the other one goes on");
        drop(second);
        assert!(transfers.need_log(later(29)));
        assert!(!transfers.need_log(later(31)));
    }
}
