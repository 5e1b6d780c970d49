//! What can be known to fail is said before anything is made: ports, memory, disk, kernel features.
//!
//! Looks only; the probes of the kernel work in namespaces of their own and leave nothing behind.

pub mod kernel;
pub mod machine;
