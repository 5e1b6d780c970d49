//! Watches: who wants which changes, and how they get them without holding anybody up.
//!
//! Events leave the apply loop once, as shared immutable batches. Watchers that keep up get them from there;
//! a watcher that is behind, or whose queue is full, reads history in bounded steps until it has caught up.
//! Invariants for each watcher: events arrive in revision order, each once, and those of one revision
//! together; a progress mark says that everything up to it has been delivered before it.

mod catch_up;
mod event;
mod hub;
mod interval;
mod matcher;
mod sink;
mod table;

pub use event::{EventBatch, WatchEvent, WatchUpdate};
pub use hub::{Hub, HubLimits, WatchStream, watch_range};
