//! `KubeSchedulerConfiguration` v1 as it is written, with upstream's defaults.
//!
//! Owns field names and default values. Unknown fields are errors, as upstream's strict decoding has it.

use serde::{Deserialize, Deserializer};

use crate::shell::wire;

/// The only version read.
pub const API_VERSION: &str = "kubescheduler.config.k8s.io/v1";
pub const KIND: &str = "KubeSchedulerConfiguration";
pub const DEFAULT_SCHEDULER_NAME: &str = "default-scheduler";

/// The configuration file.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Configuration {
    #[serde(default)]
    pub api_version: String,
    #[serde(default)]
    pub kind: String,
    #[serde(default = "sixteen")]
    pub parallelism: i32,
    #[serde(default)]
    pub leader_election: LeaderElection,
    #[serde(default)]
    pub client_connection: ClientConnection,
    #[serde(default = "yes")]
    pub enable_profiling: bool,
    #[serde(default = "yes")]
    pub enable_contention_profiling: bool,
    pub percentage_of_nodes_to_score: Option<i32>,
    #[serde(default = "one")]
    pub pod_initial_backoff_seconds: i64,
    #[serde(default = "ten")]
    pub pod_max_backoff_seconds: i64,
    #[serde(default)]
    pub profiles: Vec<Profile>,
    #[serde(default)]
    pub extenders: Vec<Extender>,
    #[serde(default)]
    pub delay_cache_until_active: bool,
}

fn sixteen() -> i32 {
    16
}
fn one() -> i64 {
    1
}
fn ten() -> i64 {
    10
}
fn yes() -> bool {
    true
}

impl Default for Configuration {
    fn default() -> Self {
        Configuration {
            api_version: API_VERSION.to_owned(),
            kind: KIND.to_owned(),
            parallelism: sixteen(),
            leader_election: LeaderElection::default(),
            client_connection: ClientConnection::default(),
            enable_profiling: true,
            enable_contention_profiling: true,
            percentage_of_nodes_to_score: None,
            pod_initial_backoff_seconds: one(),
            pod_max_backoff_seconds: ten(),
            profiles: Vec::new(),
            extenders: Vec::new(),
            delay_cache_until_active: false,
        }
    }
}

/// A duration in Go's notation, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GoDuration(pub i64);

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let parsed = machinery::time::duration::parse(&text).map_err(serde::de::Error::custom)?;
        i64::try_from(parsed.as_nanos()).map(GoDuration).map_err(serde::de::Error::custom)
    }
}

const SECOND: i64 = 1_000_000_000;

/// Leader election.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LeaderElection {
    pub leader_elect: bool,
    pub lease_duration: GoDuration,
    pub renew_deadline: GoDuration,
    pub retry_period: GoDuration,
    pub resource_lock: String,
    pub resource_name: String,
    pub resource_namespace: String,
}

impl Default for LeaderElection {
    fn default() -> Self {
        LeaderElection {
            leader_elect: true,
            lease_duration: GoDuration(15 * SECOND),
            renew_deadline: GoDuration(10 * SECOND),
            retry_period: GoDuration(2 * SECOND),
            resource_lock: "leases".to_owned(),
            resource_name: "kube-scheduler".to_owned(),
            resource_namespace: "kube-system".to_owned(),
        }
    }
}

/// How to reach the API. Rates are limited only where the file asks for it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ClientConnection {
    pub kubeconfig: String,
    pub accept_content_types: String,
    pub content_type: String,
    pub qps: f32,
    pub burst: i32,
}

/// A profile.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Profile {
    pub scheduler_name: Option<String>,
    pub percentage_of_nodes_to_score: Option<i32>,
    pub plugins: Option<Plugins>,
    pub plugin_config: Vec<PluginConfig>,
}

/// Plugins by extension point.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Plugins {
    pub pre_enqueue: PluginSet,
    pub queue_sort: PluginSet,
    pub pre_filter: PluginSet,
    pub filter: PluginSet,
    pub post_filter: PluginSet,
    pub pre_score: PluginSet,
    pub score: PluginSet,
    pub reserve: PluginSet,
    pub permit: PluginSet,
    pub pre_bind: PluginSet,
    pub bind: PluginSet,
    pub post_bind: PluginSet,
    pub multi_point: PluginSet,
    pub placement_generate: PluginSet,
    pub placement_score: PluginSet,
}

/// Plugins switched on and off.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PluginSet {
    pub enabled: Vec<PluginEntry>,
    pub disabled: Vec<PluginEntry>,
}

/// A plugin's name, with its weight where it scores.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PluginEntry {
    pub name: String,
    pub weight: Option<i32>,
}

/// A plugin's arguments.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PluginConfig {
    pub name: String,
    pub args: serde_json::Value,
}

/// An extender.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Extender {
    pub url_prefix: String,
    pub filter_verb: String,
    pub preempt_verb: String,
    pub prioritize_verb: String,
    pub weight: i64,
    pub bind_verb: String,
    #[serde(rename = "enableHTTPS")]
    pub enable_https: bool,
    pub tls_config: Option<ExtenderTls>,
    #[serde(rename = "httpTimeout", deserialize_with = "timeout")]
    pub http_timeout_nanos: u64,
    pub node_cache_capable: bool,
    pub managed_resources: Vec<ManagedResource>,
    pub ignorable: bool,
}

/// Upstream's timeout of an extender that names none.
const EXTENDER_TIMEOUT_NANOS: u64 = 5 * SECOND as u64;

fn timeout<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let GoDuration(nanos) = GoDuration::deserialize(deserializer)?;
    Ok(u64::try_from(nanos).ok().filter(|n| *n > 0).unwrap_or(EXTENDER_TIMEOUT_NANOS))
}

impl Default for Extender {
    fn default() -> Self {
        Extender {
            url_prefix: String::new(),
            filter_verb: String::new(),
            preempt_verb: String::new(),
            prioritize_verb: String::new(),
            weight: 0,
            bind_verb: String::new(),
            enable_https: false,
            tls_config: None,
            http_timeout_nanos: EXTENDER_TIMEOUT_NANOS,
            node_cache_capable: false,
            managed_resources: Vec::new(),
            ignorable: false,
        }
    }
}

/// A resource an extender manages.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ManagedResource {
    pub name: String,
    /// NodeResourcesFit leaves the resource to the extender.
    pub ignored_by_scheduler: bool,
}

/// TLS towards an extender; `data` fields are base64 and win over files.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ExtenderTls {
    pub insecure: bool,
    pub server_name: String,
    pub cert_file: String,
    pub key_file: String,
    pub ca_file: String,
    pub cert_data: String,
    pub key_data: String,
    pub ca_data: String,
}

macro_rules! args {
    ($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident : $type:ty),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default, Deserialize)]
        #[serde(rename_all = "camelCase", deny_unknown_fields, default)]
        pub struct $name {
            pub api_version: String,
            pub kind: String,
            $($(#[$field_meta])* pub $field: $type),*
        }
    };
}

args!(DefaultPreemptionArgs {
    min_candidate_nodes_percentage: Option<i32>,
    min_candidate_nodes_absolute: Option<i32>,
});
args!(InterPodAffinityArgs {
    hard_pod_affinity_weight: Option<i32>,
    ignore_preferred_terms_of_existing_pods: bool,
});
args!(NodeAffinityArgs { added_affinity: Option<wire::NodeAffinity> });
args!(NodeResourcesFitArgs {
    ignored_resources: Vec<String>,
    ignored_resource_groups: Vec<String>,
    scoring_strategy: Option<ScoringStrategy>,
});
args!(NodeResourcesBalancedAllocationArgs { resources: Vec<ResourceSpec> });
args!(PodTopologySpreadArgs {
    default_constraints: Vec<wire::SpreadConstraint>,
    defaulting_type: String,
});
args!(VolumeBindingArgs { bind_timeout_seconds: Option<i64>, shape: Option<Vec<ShapePoint>> });
args!(DynamicResourcesArgs { filter_timeout: Option<GoDuration>, binding_timeout: Option<GoDuration> });

/// How NodeResourcesFit scores.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ScoringStrategy {
    #[serde(rename = "type")]
    pub kind: String,
    pub resources: Vec<ResourceSpec>,
    pub requested_to_capacity_ratio: Option<RatioParam>,
}

/// The shape of RequestedToCapacityRatio.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RatioParam {
    pub shape: Vec<ShapePoint>,
}

/// A point of a shape.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ShapePoint {
    pub utilization: i32,
    pub score: i32,
}

/// A resource with its weight.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ResourceSpec {
    pub name: String,
    pub weight: i64,
}
