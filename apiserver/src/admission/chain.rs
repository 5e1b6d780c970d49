//! The chain: every step's mutation in order, later every step's validation in order.

use std::sync::Arc;

use async_trait::async_trait;
use machinery::status::StatusError;

use super::plugin::Plugin;
use crate::contract::{Admission, AdmissionChain};

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

    /// Takes steps out by name (`--disable-admission-plugins`).
    pub fn without(mut self, names: &[String]) -> Result<Self, UnknownPlugin> {
        let known: Vec<&str> = self.plugins.iter().map(|plugin| plugin.name()).collect();
        if let Some(unknown) = names.iter().find(|name| !known.contains(&name.as_str())) {
            return Err(UnknownPlugin(unknown.clone(), known.join(", ")));
        }
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
