//! Known bugs, planted on purpose, so that the chaos harness can prove that it catches them.
//!
//! Compiled only with the feature `planted-bugs`, which nothing but the harness's negative controls asks for: a default
//! build has neither this module nor any of its call sites. One bug at a time, chosen by the environment variable
//! [`VARIABLE`] when the process starts.

use std::sync::OnceLock;

/// Names the bug to plant.
pub const VARIABLE: &str = "QUARTERDECK_PLANTED_BUG";
/// Every so many log entries one is applied twice.
pub const APPLIED_TWICE_EVERY: u64 = 16;
/// Every so many published events one is lost or sent twice.
pub const EVENT_HARMED_EVERY: usize = 64;
/// Batches of log writes that are acknowledged although only memory holds them.
pub const HELD_BACK_BATCHES: usize = 16;

/// The bugs by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A linearizable read is answered from whatever this member has applied.
    StaleReads,
    /// Log writes are acknowledged before they are on disk.
    AckBeforeSync,
    /// Now and then an event does not reach watchers.
    DropWatchEvent,
    /// Now and then an event reaches watchers twice.
    DoubleWatchEvent,
    /// A new leader does not start the clocks of the leases it finds: they never run out.
    ForgetLeases,
    /// Now and then a log entry is applied twice.
    ApplyTwice,
}

impl Bug {
    /// All of them, by the names [`VARIABLE`] takes.
    pub const ALL: [(&'static str, Bug); 6] = [
        ("stale-reads", Bug::StaleReads),
        ("ack-before-sync", Bug::AckBeforeSync),
        ("drop-watch-event", Bug::DropWatchEvent),
        ("double-watch-event", Bug::DoubleWatchEvent),
        ("forget-leases", Bug::ForgetLeases),
        ("apply-twice", Bug::ApplyTwice),
    ];

    /// Whether this is the bug this process was started with. A name that is none stops the process: a control that
    /// controls nothing must not pass.
    pub fn is_planted(self) -> bool {
        static PLANTED: OnceLock<Option<Bug>> = OnceLock::new();
        *PLANTED.get_or_init(|| {
            let name = std::env::var(VARIABLE).ok()?;
            let found = Bug::ALL.iter().find(|(known, _)| *known == name);
            Some(found.unwrap_or_else(|| panic!("{VARIABLE} names no bug: {name:?}")).1)
        }) == Some(self)
    }
}
