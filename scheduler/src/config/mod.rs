//! The scheduler's configuration file: reading, defaults, validation, and what of it the core runs by.
//!
//! Owns the way from text to [`Settings`]. A file that upstream accepts is accepted; one it refuses is refused with
//! all errors at once.

pub mod plugins;
pub mod types;
pub mod validate;

use crate::core::profile::Profile;
use crate::core::queue::Backoff;

use types::{API_VERSION, Configuration, KIND};
use validate::{Errors, Field};

/// Why a configuration is not usable.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read {path}: {source}")]
    Read { path: String, source: std::io::Error },
    #[error("cannot decode the configuration: {0}")]
    Decode(#[from] serde_yaml_ng::Error),
    #[error("no kind {kind:?} is registered for version {version:?}; want kind {KIND:?} of {API_VERSION:?}")]
    Kind { kind: String, version: String },
    #[error("invalid configuration: {}", .0.join("; "))]
    Invalid(Vec<String>),
}

/// A configuration that holds.
#[derive(Clone, Debug)]
pub struct Settings {
    pub profiles: Vec<Profile>,
    pub backoff: Backoff,
    pub file: Configuration,
}

impl Settings {
    /// The configuration of an empty file.
    pub fn defaults() -> Self {
        let file = Configuration { profiles: vec![Default::default()], ..Configuration::default() };
        Settings {
            profiles: vec![Profile::default_for(types::DEFAULT_SCHEDULER_NAME)],
            backoff: Backoff::default(),
            file,
        }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read, decoded, or does not hold.
    pub fn load(path: &str) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Settings::parse(&text)
    }

    /// Reads a text, YAML or JSON.
    ///
    /// # Errors
    /// When it cannot be decoded, or does not hold.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let file: Configuration = serde_yaml_ng::from_str(text)?;
        if file.api_version != API_VERSION || file.kind != KIND {
            return Err(ConfigError::Kind { kind: file.kind, version: file.api_version });
        }
        Settings::resolve(file)
    }

    fn resolve(mut file: Configuration) -> Result<Self, ConfigError> {
        let mut errors = Errors::default();
        validate::set_profile_defaults(&mut file);
        validate::check(&file, &mut errors);
        let mut profiles: Vec<Profile> = Vec::new();
        for (i, profile) in file.profiles.iter().enumerate() {
            let path = Field::new("profiles").child(&format!("[{i}]"));
            profiles.push(plugins::resolve(profile, file.percentage_of_nodes_to_score, &path, &mut errors));
        }
        ignore_managed_resources(&file, &mut profiles);
        if !errors.0.is_empty() {
            return Err(ConfigError::Invalid(errors.0));
        }
        let backoff = Backoff {
            initial_ms: file.pod_initial_backoff_seconds * 1000,
            max_ms: file.pod_max_backoff_seconds * 1000,
            ..Backoff::default()
        };
        Ok(Settings { profiles, backoff, file })
    }
}

/// Resources that an extender manages and the scheduler is to ignore.
fn ignore_managed_resources(file: &Configuration, profiles: &mut [Profile]) {
    let managed = file.extenders.iter().flat_map(|e| &e.managed_resources).filter(|r| r.ignored_by_scheduler);
    for resource in managed {
        for profile in profiles.iter_mut() {
            profile.args.ignored_resources.push(resource.name.as_str().into());
        }
    }
}

#[cfg(test)]
mod tests;
