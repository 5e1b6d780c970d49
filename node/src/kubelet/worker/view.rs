//! What the pool shows of its pods and knows of their node.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};

use super::pod_worker::Snapshot;

/// A pod as others see it.
#[derive(Clone, Debug)]
pub struct View {
    /// The desired pod.
    pub pod: Arc<Pod>,
    /// What its worker knows.
    pub snapshot: Snapshot,
}

/// What admission knows of the node beside the context.
#[derive(Clone, Debug, Default)]
pub struct NodeView {
    /// The node as the API shows it.
    pub node: Option<Node>,
    /// Memory is short.
    pub memory_pressure: bool,
    /// A disk is short.
    pub disk_pressure: bool,
}
