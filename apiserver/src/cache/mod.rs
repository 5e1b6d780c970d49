//! The watch caches: every object of a resource, encoded once, served to every list, get and watch.
//!
//! Reading order: [`layout`] (how an object lies in bytes), [`extract`] (labels and selectable fields without parsing
//! the rest), [`entry`], [`event`], [`filter`] (selectors), [`state`] (the pure core of one resource), [`resource`]
//! (its shell), [`watcher`] (bounded queues), `watchers` (their index), [`hub`] (the one watch on the store that feeds them all).
//!
//! Invariants: the hub is the only writer of every state; `hub.revision()` grows only after every event at or below it
//! has been applied and queued to its watchers. A watcher is never given an unbounded buffer.

pub mod counters;
pub mod entry;
pub mod event;
pub mod extract;
pub mod filter;
pub mod hub;
pub mod layout;
pub mod resource;
pub mod state;
pub mod watcher;
mod watchers;

pub use entry::Entry;
pub use event::{Event, EventType};
pub use filter::Filter;
pub use hub::Hub;
pub use resource::{CacheError, CacheSpec, ResourceCache};
pub use watcher::{WatchItem, Watcher};
