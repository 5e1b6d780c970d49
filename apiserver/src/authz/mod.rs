//! May they? `system:masters`, then the Node authorizer, then RBAC; the first that allows wins.

pub mod escalation;
pub mod node;
pub mod node_graph;
pub mod rbac;
pub mod rbac_index;
pub mod rules;
pub mod union;

pub use escalation::EscalationCheck;
pub use node::NodeAuthorizer;
pub use rbac::RbacAuthorizer;
pub use rules::Rule;
pub use union::{PrivilegedGroup, Union};

/// Members may do anything; no rule can take that away.
pub const MASTERS_GROUP: &str = "system:masters";
/// The API group of roles and bindings.
pub const RBAC_GROUP: &str = "rbac.authorization.k8s.io";
