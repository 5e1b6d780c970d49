//! The chain: every step's mutation in order, later every step's validation in order.

use std::sync::Arc;

use async_trait::async_trait;
use machinery::status::StatusError;

use super::plugin::Plugin;
use crate::contract::{Admission, AdmissionChain};

/// Upstream's steps that are not here; flags written for upstream may name them.
const ABSENT: [&str; 21] = [
    "AlwaysAdmit",
    "AlwaysDeny",
    "AlwaysPullImages",
    "ClusterTrustBundleAttest",
    "DenyServiceExternalIPs",
    "EventRateLimit",
    "ExtendedResourceToleration",
    "ImagePolicyWebhook",
    "JobValidation",
    "LimitPodHardAntiAffinityTopology",
    "MutatingAdmissionPolicy",
    "MutatingAdmissionWebhook",
    "NamespaceAutoProvision",
    "NamespaceExists",
    "OwnerReferencesPermissionEnforcement",
    "PodGroupProtection",
    "PodGroupWorkloadExists",
    "PodNodeSelector",
    "PodTolerationRestriction",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionWebhook",
];

/// The steps of this server, in upstream's order.
pub struct Chain {
    plugins: Vec<Arc<dyn Plugin>>,
}

/// Why the flags name a step that does not exist.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("admission plugin {0:?} is unknown; known are {1}")]
pub struct UnknownPlugin(pub String, pub String);

impl Chain {
    /// Steps in the given order.
    pub fn new(plugins: Vec<Arc<dyn Plugin>>) -> Self {
        Chain { plugins }
    }

    fn check_names(&self, names: &[String]) -> Result<(), UnknownPlugin> {
        let known: Vec<&str> = self.plugins.iter().map(|plugin| plugin.name()).collect();
        let is_known = |name: &String| known.contains(&name.as_str()) || ABSENT.contains(&name.as_str());
        match names.iter().find(|name| !is_known(name)) {
            Some(unknown) => Err(UnknownPlugin(unknown.clone(), known.join(", "))),
            None => Ok(()),
        }
    }

    /// Says which of the wanted steps are not here (`--enable-admission-plugins`); those that are here are on.
    pub fn with(self, names: &[String]) -> Result<Self, UnknownPlugin> {
        self.check_names(names)?;
        for name in names.iter().filter(|name| ABSENT.contains(&name.as_str())) {
            tracing::warn!("--enable-admission-plugins: {name} is not here, and admits whatever comes");
        }
        Ok(self)
    }

    /// Takes steps out by name (`--disable-admission-plugins`).
    pub fn without(mut self, names: &[String]) -> Result<Self, UnknownPlugin> {
        self.check_names(names)?;
        self.plugins.retain(|plugin| !names.iter().any(|name| name == plugin.name()));
        Ok(self)
    }
}

#[async_trait]
impl AdmissionChain for Chain {
    async fn mutate(&self, request: &mut Admission<'_>) -> Result<(), StatusError> {
        for plugin in &self.plugins {
            plugin.mutate(request).await?;
        }
        Ok(())
    }

    async fn validate(&self, request: &Admission<'_>) -> Result<(), StatusError> {
        for plugin in &self.plugins {
            plugin.validate(request).await?;
        }
        Ok(())
    }
}
