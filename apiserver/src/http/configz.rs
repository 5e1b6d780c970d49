//! `/configz`: what this server runs with.

use serde_json::{Value, json};

use crate::server::Options;

/// The settings that matter when something is looked for; never a secret, only the paths of files.
pub fn document(options: &Options) -> Value {
    let meaning = &options.meaning;
    let networks: Vec<String> = options.networks.networks.iter().map(ToString::to_string).collect();
    json!({"apiserver": {
        "bindAddress": options.bind.to_string(),
        "advertiseAddress": meaning.advertise_address.to_string(),
        "anonymousAuth": meaning.anonymous_auth,
        "apiAudiences": meaning.api_audiences,
        "authorizationModes": meaning.authorization_modes,
        "clientCAFile": meaning.client_ca_file,
        "compactionInterval": format!("{:?}", options.compaction_interval),
        "disabledAdmissionPlugins": meaning.disable_admission_plugins,
        "enableBootstrapTokenAuth": meaning.enable_bootstrap_token_auth,
        "eventTTL": format!("{:?}", options.event_ttl),
        "maxMutatingRequestsInflight": options.max_mutating_inflight,
        "maxRequestsInflight": options.max_readonly_inflight,
        "oidcIssuerURL": meaning.oidc.issuer_url,
        "requestTimeout": format!("{:?}", options.request_timeout),
        "serverName": meaning.server_name,
        "serviceAccountIssuers": meaning.service_account_issuers,
        "serviceClusterIPRanges": networks,
        "serviceNodePortRange": options.node_ports.to_string(),
        "tokenAuthFile": meaning.token_auth_file,
    }})
}
