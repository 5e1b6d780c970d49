//! What services hold exclusively: cluster IPs, node ports, health-check node ports.
//!
//! Invariants: a cluster IP is held by whoever created the IPAddress object of that name, so that any number of
//! servers agree through the store and nothing is lost when one of them dies; a node port is held by its bit in one
//! stored bitmap, swapped whole. [`repair`] puts right what a crash left behind.

pub mod addresses;
pub mod allocators;
pub mod pools;
pub mod ports;
pub mod repair;

pub use allocators::Allocators;
pub use pools::{PoolError, PortRange, ServiceNetworks};
