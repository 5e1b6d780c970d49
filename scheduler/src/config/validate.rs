//! Validation of a configuration: all errors at once, each with the path of its field.
//!
//! Owns the texts of field errors and the rules that span the whole file. Rules of single plugins' arguments stand
//! with their reading, in `plugins`.

use std::fmt::Display;

use super::plugins::queue_sort;
use super::types::{Configuration, DEFAULT_SCHEDULER_NAME, Extender};

/// Plugins that once were, and are no more.
const REMOVED_PLUGINS: [&str; 4] = ["AzureDiskLimits", "CinderLimits", "EBSLimits", "GCEPDLimits"];

/// The path of a field.
#[derive(Clone, Debug)]
pub struct Field(String);

impl Field {
    /// A field at the top.
    pub fn new(name: &str) -> Self {
        Field(name.to_owned())
    }

    /// A field inside; names that start with `[` are indexes.
    pub fn child(&self, name: &str) -> Self {
        if name.starts_with('[') {
            Field(format!("{}{name}", self.0))
        } else {
            Field(format!("{}.{name}", self.0))
        }
    }
}

/// Errors collected on the way.
#[derive(Debug, Default)]
pub struct Errors(pub Vec<String>);

impl Errors {
    /// A value that cannot be.
    pub fn invalid(&mut self, path: &Field, value: impl Display, why: &str) {
        let value = value.to_string();
        let shown = if value.parse::<f64>().is_ok() { value } else { format!("{value:?}") };
        self.0.push(format!("{}: Invalid value: {shown}: {why}", path.0));
    }

    /// A number out of its range.
    pub fn range(&mut self, path: &Field, value: i32, low: i32, high: i32) {
        if !(low..=high).contains(&value) {
            self.invalid(path, value, &format!("not in valid range [{low}, {high}]"));
        }
    }

    /// A value that is missing.
    pub fn required(&mut self, path: &Field, why: &str) {
        let why = if why.is_empty() { String::new() } else { format!(": {why}") };
        self.0.push(format!("{}: Required value{why}", path.0));
    }

    /// A value that must not be given.
    pub fn forbidden(&mut self, path: &Field, why: &str) {
        self.0.push(format!("{}: Forbidden: {why}", path.0));
    }

    /// A value that is there twice.
    pub fn duplicate(&mut self, path: &Field, value: &str) {
        self.0.push(format!("{}: Duplicate value: {value:?}", path.0));
    }

    /// A value that is none of the known ones.
    pub fn unsupported(&mut self, path: &Field, value: &str, known: &[&str]) {
        let known: Vec<String> = known.iter().map(|k| format!("{k:?}")).collect();
        self.0.push(format!(
            "{}: Unsupported value: {value:?}: supported values: {}",
            path.0,
            known.join(", ")
        ));
    }
}

/// The rules that span the whole file.
pub fn check(config: &Configuration, errors: &mut Errors) {
    leader_election(config, errors);
    if config.parallelism <= 0 {
        let why = "should be an integer value greater than zero";
        errors.invalid(&Field::new("parallelism"), config.parallelism, why);
    }
    percentage(&Field::new("percentageOfNodesToScore"), config.percentage_of_nodes_to_score, errors);
    if config.pod_initial_backoff_seconds <= 0 {
        let path = Field::new("podInitialBackoffSeconds");
        errors.invalid(&path, config.pod_initial_backoff_seconds, "must be greater than 0");
    }
    if config.pod_max_backoff_seconds < config.pod_initial_backoff_seconds {
        let why = "must be greater than or equal to PodInitialBackoffSeconds";
        errors.invalid(&Field::new("podMaxBackoffSeconds"), config.pod_max_backoff_seconds, why);
    }
    profiles(config, errors);
    extenders(&config.extenders, errors);
}

fn leader_election(config: &Configuration, errors: &mut Errors) {
    let election = &config.leader_election;
    if !election.leader_elect {
        return;
    }
    let path = Field::new("leaderElection");
    if election.resource_lock != "leases" {
        let why = "resourceLock value must be \"leases\"";
        errors.invalid(&path.child("resourceLock"), &election.resource_lock, why);
    }
    if election.lease_duration.0 <= election.renew_deadline.0 {
        let why = "LeaseDuration must be greater than RenewDeadline";
        errors.invalid(&path.child("leaseDuration"), election.renew_deadline.0, why);
    }
    for (name, value) in [
        ("leaseDuration", election.lease_duration.0),
        ("renewDeadline", election.renew_deadline.0),
        ("retryPeriod", election.retry_period.0),
    ] {
        if value <= 0 {
            errors.invalid(&path.child(name), value, "must be greater than zero");
        }
    }
    for (name, value) in
        [("resourceNamespace", &election.resource_namespace), ("resourceName", &election.resource_name)]
    {
        if value.is_empty() {
            errors.invalid(&path.child(name), value, "resource is required");
        }
    }
}

fn percentage(path: &Field, value: Option<i32>, errors: &mut Errors) {
    if let Some(value) = value.filter(|v| !(0..=100).contains(v)) {
        errors.invalid(path, value, "not in valid range [0-100]");
    }
}

fn profiles(config: &Configuration, errors: &mut Errors) {
    let path = Field::new("profiles");
    let all = &config.profiles;
    for (i, profile) in all.iter().enumerate() {
        let at = path.child(&format!("[{i}]"));
        let name = profile.scheduler_name.as_deref().unwrap_or_default();
        if name.is_empty() {
            errors.required(&at.child("schedulerName"), "");
        }
        if all[..i].iter().any(|p| p.scheduler_name == profile.scheduler_name) {
            errors.duplicate(&at.child("schedulerName"), name);
        }
        percentage(&at.child("percentageOfNodesToScore"), profile.percentage_of_nodes_to_score, errors);
        if queue_sort(profile.plugins.as_ref()) != queue_sort(all[0].plugins.as_ref()) {
            errors.invalid(&at.child("plugins.queueSort"), name, "must be the same for all profiles");
        }
        for (j, config) in profile.plugin_config.iter().enumerate() {
            if REMOVED_PLUGINS.contains(&config.name.as_str()) {
                let why = "was invalid in version \"v1\"";
                errors.invalid(&at.child(&format!("pluginConfig[{j}]")), &config.name, why);
            }
        }
    }
}

fn extenders(all: &[Extender], errors: &mut Errors) {
    let path = Field::new("extenders");
    let mut managed: Vec<&str> = Vec::new();
    for (i, extender) in all.iter().enumerate() {
        let at = path.child(&format!("[{i}]"));
        if !extender.prioritize_verb.is_empty() && extender.weight <= 0 {
            errors.invalid(&at.child("weight"), extender.weight, "must have a positive weight applied to it");
        }
        for (j, resource) in extender.managed_resources.iter().enumerate() {
            let at = at.child(&format!("managedResources[{j}].name"));
            let native = !resource.name.contains('/') || resource.name.contains("kubernetes.io/");
            if native || resource.name.starts_with("requests.") {
                errors.invalid(&at, &resource.name, "is an invalid extended resource name");
            }
            if managed.contains(&resource.name.as_str()) {
                errors.invalid(&at, &resource.name, "duplicate extender managed resource name");
            }
            managed.push(&resource.name);
        }
    }
    let binders = all.iter().filter(|e| !e.bind_verb.is_empty()).count();
    if binders > 1 {
        let found = format!("found {binders} extenders implementing bind");
        errors.invalid(&path, found, "only one extender can implement bind");
    }
}

/// Gives a lone profile without a name the default one.
pub fn set_profile_defaults(config: &mut Configuration) {
    if config.profiles.is_empty() {
        config.profiles.push(Default::default());
    }
    if let [only] = &mut *config.profiles {
        only.scheduler_name.get_or_insert_with(|| DEFAULT_SCHEDULER_NAME.to_owned());
    }
}
