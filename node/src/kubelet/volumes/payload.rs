//! The files of ConfigMap, Secret, downward API and projected volumes: contents and modes. Pure: objects and
//! tokens are read by the caller.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, PodStatus, Secret};

use crate::kubelet::fields::{self, Allocatable};
use crate::kubelet::pod::spec;

/// Mode of files where the volume names none.
pub const DEFAULT_MODE: i32 = 0o644;

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its bytes.
    pub data: Vec<u8>,
    /// Its permission bits.
    pub mode: u32,
    /// Its owner, where it is not the agent's.
    pub owner: Option<u32>,
}

/// Files by their path below the volume.
pub type Payload = BTreeMap<String, File>;

/// The files cannot be made. The texts are upstream's.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PayloadError {
    /// A ConfigMap or Secret does not exist.
    #[error("{kind} \"{name}\" not found")]
    NotFound {
        /// `configmap` or `secret`.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// A key named by the volume does not exist.
    #[error("references non-existent {kind} key: {key}")]
    NoKey {
        /// `config` or `secret`.
        kind: &'static str,
        /// The missing key.
        key: String,
    },
    /// A file's source is incomplete or unknown.
    #[error("{0}")]
    Source(String),
}

fn mode(own: Option<i32>, default: Option<i32>) -> u32 {
    (own.or(default).unwrap_or(DEFAULT_MODE) & 0o7777).unsigned_abs()
}

/// Picks `items` (all of them where `None`) from `data`.
pub fn select(
    kind: &'static str,
    data: &BTreeMap<String, Vec<u8>>,
    items: Option<&[KeyToPath]>,
    default_mode: Option<i32>,
    optional: bool,
) -> Result<Payload, PayloadError> {
    let file =
        |bytes: &Vec<u8>, own| File { data: bytes.clone(), mode: mode(own, default_mode), owner: None };
    let Some(items) = items.filter(|i| !i.is_empty()) else {
        return Ok(data.iter().map(|(k, v)| (k.clone(), file(v, None))).collect());
    };
    let mut payload = Payload::new();
    for item in items {
        match data.get(&item.key) {
            Some(bytes) => {
                payload.insert(item.path.clone(), file(bytes, item.mode));
            }
            None if optional => {}
            None => return Err(PayloadError::NoKey { kind, key: item.key.clone() }),
        }
    }
    Ok(payload)
}

/// All of a ConfigMap's data, text and binary.
pub fn config_map_data(map: &ConfigMap) -> BTreeMap<String, Vec<u8>> {
    let text = map.data.iter().flatten().map(|(k, v)| (k.clone(), v.clone().into_bytes()));
    let binary = map.binary_data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone()));
    text.chain(binary).collect()
}

/// All of a Secret's data.
pub fn secret_data(secret: &Secret) -> BTreeMap<String, Vec<u8>> {
    secret.data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone())).collect()
}

/// The files of a downward API volume.
pub fn downward(
    pod: &Pod,
    status: &PodStatus,
    items: &[DownwardAPIVolumeFile],
    default_mode: Option<i32>,
    allocatable: &Allocatable,
) -> Result<Payload, PayloadError> {
    let mut payload = Payload::new();
    for item in items {
        let text = match (&item.field_ref, &item.resource_field_ref) {
            (Some(field), _) => fields::pod_field(pod, status, field),
            (None, Some(resource)) => {
                let own = resource.container_name.as_deref().and_then(|n| spec::find_container(pod, n));
                fields::container_resource(pod, own.as_ref().map(|(_, c)| c), resource, allocatable)
            }
            (None, None) => {
                return Err(PayloadError::Source(format!("no source for downward API file {}", item.path)));
            }
        };
        let text = text.map_err(|error| PayloadError::Source(error.to_string()))?;
        let file = File { data: text.into_bytes(), mode: mode(item.mode, default_mode), owner: None };
        payload.insert(item.path.clone(), file);
    }
    Ok(payload)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(items: serde_json::Value, optional: bool, expected: Result<&[(&str, u32)], PayloadError>) {
        let map: ConfigMap =
            serde_json::from_value(json!({"data": {"a": "1"}, "binaryData": {"b": "Mg=="}})).expect("a map");
        let items: Option<Vec<KeyToPath>> = serde_json::from_value(items).expect("items");
        let got = select("config", &config_map_data(&map), items.as_deref(), Some(0o400), optional);
        let got = got.map(|p| p.into_iter().map(|(k, f)| (k, f.mode)).collect::<Vec<_>>());
        let expected = expected.map(|l| l.iter().map(|(k, m)| ((*k).to_owned(), *m)).collect::<Vec<_>>());
        assert_eq!(got, expected);
    }

    #[test]
    fn keys_paths_and_modes() {
        check(json!(null), false, Ok(&[("a", 0o400), ("b", 0o400)]));
        check(json!([{"key": "a", "path": "d/x", "mode": 0o755}]), false, Ok(&[("d/x", 0o755)]));
        check(json!([{"key": "z", "path": "z"}]), true, Ok(&[]));
        let missing = PayloadError::NoKey { kind: "config", key: "z".into() };
        check(json!([{"key": "z", "path": "z"}]), false, Err(missing));
    }
}
