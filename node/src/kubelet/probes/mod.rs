//! Probes of running containers: a pure counter turns single results into verdicts, runners ask the container,
//! and one task a probe drives both.

pub mod counter;

pub mod runner;

pub mod set;

pub use set::ProbeSet;
