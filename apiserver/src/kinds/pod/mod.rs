//! Pods: defaults, what the server fills in, validation, updates, and the pure half of binding.

pub mod binding;
pub mod containers;
pub mod defaults;
pub mod env;
pub mod hooks;
pub mod mounts;
pub mod prepare;
pub mod probes;
pub mod requirements;
pub mod resize;
pub mod resources;
pub mod scheduling;
pub mod security;
pub mod status;
pub mod update;
pub mod validate;
pub mod volumes;
pub mod warnings;
