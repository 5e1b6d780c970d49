//! Admission: every write passes these steps, mutating ones first, in upstream's order.
//!
//! The steps that run CEL or call webhooks are not here yet; they slot into [`build`] before ResourceQuota.

pub mod certificates;
pub mod chain;
pub mod classes;
pub mod declared_features;
pub mod escalation;
pub mod limit_ranger;
pub mod live;
pub mod namespace_lifecycle;
pub mod node_restriction;
pub mod plugin;
pub mod pod_security;
pub mod priority;
pub mod privileged;
pub mod quota;
pub mod service_account;
pub mod storage;
#[cfg(test)]
mod tests;
pub mod tolerations;
pub mod topology_labels;

use std::sync::Arc;

pub use chain::{Chain, UnknownPlugin};
pub use plugin::Plugin;

use crate::authz::{EscalationCheck, RbacAuthorizer};
use crate::contract::Authorizer;

/// What the steps are made from.
pub struct Config {
    pub authorizer: Arc<dyn Authorizer>,
    pub rbac: Arc<RbacAuthorizer>,
    /// `--default-not-ready-toleration-seconds`.
    pub not_ready_toleration_secs: i64,
    /// `--default-unreachable-toleration-seconds`.
    pub unreachable_toleration_secs: i64,
    /// `--enable-admission-plugins`.
    pub enabled: Vec<String>,
    /// `--disable-admission-plugins`.
    pub disabled: Vec<String>,
    /// `--allow-privileged`.
    pub allow_privileged: bool,
}

/// The chain of this server.
pub fn build(config: Config) -> Result<Chain, UnknownPlugin> {
    let authorizer = config.authorizer;
    let escalation = EscalationCheck { rbac: config.rbac, authorizer: authorizer.clone() };
    let tolerations = tolerations::DefaultTolerationSeconds {
        not_ready_secs: config.not_ready_toleration_secs,
        unreachable_secs: config.unreachable_toleration_secs,
    };
    let mut plugins: Vec<Arc<dyn Plugin>> = vec![
        Arc::new(namespace_lifecycle::NamespaceLifecycle),
        Arc::new(limit_ranger::LimitRanger::default()),
        Arc::new(service_account::ServiceAccount),
        Arc::new(node_restriction::NodeRestriction),
        Arc::new(tolerations::TaintNodesByCondition),
        Arc::new(pod_security::PodSecurity),
        Arc::new(priority::Priority),
        Arc::new(tolerations),
        Arc::new(classes::DefaultStorageClass),
        Arc::new(storage::StorageObjectInUseProtection),
        Arc::new(storage::PersistentVolumeClaimResize),
        Arc::new(classes::RuntimeClass),
        Arc::new(certificates::SignerPermission::approval(authorizer.clone())),
        Arc::new(certificates::SignerPermission::signing(authorizer)),
        Arc::new(certificates::CertificateSubjectRestriction),
        Arc::new(classes::DefaultIngressClass),
        Arc::new(topology_labels::PodTopologyLabels),
        Arc::new(declared_features::NodeDeclaredFeatures),
        Arc::new(topology_labels::PodResizeValidator),
        Arc::new(escalation::RbacEscalation(escalation)),
        Arc::new(quota::ResourceQuota::default()),
    ];
    if !config.allow_privileged {
        plugins.push(Arc::new(privileged::PrivilegedContainers));
    }
    Chain::new(plugins).with(&config.enabled)?.without(&config.disabled)
}
