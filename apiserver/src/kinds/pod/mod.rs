//! Pods: defaults, what the server fills in, validation, updates, and the pure half of binding.

pub mod binding;
pub mod defaults;
pub mod hooks;
pub mod prepare;
pub mod resources;
