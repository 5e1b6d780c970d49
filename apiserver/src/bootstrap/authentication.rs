//! The ConfigMap that tells extension servers whom this server trusts, and the start of token tracking.

use machinery::status::StatusError;
use serde_json::{Value, json};

use super::Config;
use super::ensure::{ensure as ensure_one, lost_race};
use crate::contract::ClusterWriter;
use crate::kinds::json::{at, set};

/// The front-proxy settings (`--requestheader-*`).
#[derive(Clone, Debug, Default)]
pub struct RequestHeader {
    /// PEM of `--requestheader-client-ca-file`, empty when front proxies are not trusted.
    pub client_ca: String,
    pub allowed_names: Vec<String>,
    pub username_headers: Vec<String>,
    pub uid_headers: Vec<String>,
    pub group_headers: Vec<String>,
    pub extra_prefixes: Vec<String>,
}

/// Creates or corrects both ConfigMaps.
pub async fn ensure(cluster: &dyn ClusterWriter, config: &Config) -> Result<(), StatusError> {
    let data = data(config);
    let stored =
        ensure_one(cluster, "", "configmaps", config_map("extension-apiserver-authentication", data.clone()))
            .await?;
    if *at(&stored, &["data"]) != data {
        let mut corrected = stored.as_ref().clone();
        for (key, value) in data.as_object().into_iter().flatten() {
            set(&mut corrected, &["data", key], value.clone());
        }
        if let Err(error) = cluster.update("", "configmaps", corrected).await
            && !lost_race(&error)
        {
            return Err(error);
        }
    }
    let since = jiff::Timestamp::now().strftime("%Y-%m-%d").to_string();
    let tracking =
        config_map("kube-apiserver-legacy-service-account-token-tracking", json!({ "since": since }));
    ensure_one(cluster, "", "configmaps", tracking).await.map(drop)
}

fn config_map(name: &str, data: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "kube-system"},
        "data": data,
    })
}

fn data(config: &Config) -> Value {
    let mut data = json!({});
    if !config.client_ca.is_empty() {
        data["client-ca-file"] = json!(config.client_ca);
    }
    let header = &config.request_header;
    if header.client_ca.is_empty() {
        return data;
    }
    data["requestheader-client-ca-file"] = json!(header.client_ca);
    for (key, list) in [
        ("requestheader-allowed-names", &header.allowed_names),
        ("requestheader-username-headers", &header.username_headers),
        ("requestheader-uid-headers", &header.uid_headers),
        ("requestheader-group-headers", &header.group_headers),
        ("requestheader-extra-headers-prefix", &header.extra_prefixes),
    ] {
        data[key] = json!(json!(list).to_string());
    }
    data
}
