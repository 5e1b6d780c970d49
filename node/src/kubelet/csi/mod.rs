//! Storage drivers on this machine: they register through a socket, are asked to stage and publish volumes,
//! and are recorded in the node's CSINode.

pub mod driver;

pub mod registry;

mod tokens;

pub mod registration;

mod capability;

pub mod publish;

mod staging;

pub mod expand;

pub mod vol_data;

pub mod in_use;

pub use registry::Plugins;
