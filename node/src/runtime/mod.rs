//! The container runtime an agent brings along where the machine has none running: containerd with a
//! configuration of its own, and the images that air-gapped machines need.

pub mod config;

pub mod supervisor;

pub mod bundled;
