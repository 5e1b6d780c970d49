//! Where the consensus core stands: whom it follows, and how far its log goes.

use openraft::async_runtime::WatchReceiver;

use super::types::{LogId, MemberId, Raft};

/// The leader this member follows, or is, and its term.
pub fn followed(raft: &Raft) -> Option<(MemberId, u64)> {
    let metrics = raft.metrics();
    let metrics = metrics.borrow_watched();
    metrics.current_leader.map(|leader| (leader, metrics.current_term))
}

/// The last entry this member has on its disk.
pub fn last_log_id(raft: &Raft) -> Option<LogId> {
    let flushed = raft.watch_log_progress().get().and_then(|flushed| flushed.last_log_id);
    // After a start nothing may have been written yet.
    flushed.max(raft.metrics().borrow_watched().last_applied)
}
