//! What the agent reads from and writes to the Kubernetes API beside its own pods and node.

pub mod objects;

pub mod events;

pub mod services;

pub mod pod_status;
